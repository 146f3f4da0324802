//! `scripts/install.sh`: what it installs runs without the checkout.

use crate::{
    common::{model, root, succeed},
    plugin::plugin,
};
use std::{fs, process::Command};
use tempfile::TempDir;

#[test]
fn installed_programs_need_nothing_of_the_checkout() {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("a prefix");
    let program = env!("CARGO_BIN_EXE_mxc-under-test");
    succeed(Command::new(root().join("scripts/install.sh")).arg(program).arg(&prefix).arg(plugin()));
    let installed = prefix.join("bin/mxc");
    let mut clean = Command::new(&installed);
    clean.env_clear().current_dir(folder.path());
    succeed(clean.args(["compile", "--quiet", "-o", "model.mxa"]).arg(model("resnet20")));
    assert!(folder.path().join("model.mxa").exists());
    let libraries = succeed(Command::new("ldd").arg(&installed));
    let onednn = libraries.lines().find(|line| line.trim_start().starts_with("libdnnl")).unwrap();
    assert!(!onednn.contains("third_party"), "{onednn}");
    // The plugin beside it, likewise.
    let [passes, irdl] = ["libmxc_passes.so", "mxc.irdl.mlir"].map(|file| prefix.join("lib/mxc").join(file));
    let libraries = succeed(Command::new("ldd").arg(&passes));
    assert!(!libraries.contains("third_party") && !libraries.contains("not found"), "{libraries}");
    for file in [&installed, &passes] {
        let path = succeed(Command::new("readelf").arg("-d").arg(file));
        assert!(path.contains("$ORIGIN") && !path.contains(root().to_str().unwrap()), "{path}");
    }
    let mut stock = Command::new("mlir-opt-22");
    stock.args(["--pass-pipeline=builtin.module(verify)", "/dev/null"]);
    stock.arg(format!("--load-pass-plugin={}", passes.display())).arg(format!("--irdl-file={}", irdl.display()));
    succeed(&mut stock);
    // Every command has a page, and a shell takes the completions.
    for page in ["mxc", "mxc-compile", "mxc-finetune", "mxc-eval", "mxc-merge", "mxc-opt"] {
        let text = fs::read_to_string(prefix.join(format!("share/man/man1/{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS") && text.contains(page), "{page}");
    }
    let completions = prefix.join("share/bash-completion/completions/mxc");
    let said = succeed(Command::new("bash").args(["-c", "source \"$0\" && complete -p mxc"]).arg(completions));
    assert!(said.contains("mxc"), "{said}");
    assert!(prefix.join("share/zsh/site-functions/_mxc").exists());
    assert!(prefix.join("share/fish/vendor_completions.d/mxc.fish").exists());
    assert!(prefix.join("share/doc/mxc/LICENSE").exists());
}
