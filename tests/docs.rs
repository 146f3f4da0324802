//! Every mxc and mlir-opt command line in the documentation runs.

use crate::{
    common::{commands, model, root, small_fashion},
    plugin::plugin,
};
use mxc_dialects::noise::MODELS;
use std::{fs, os::unix::fs::symlink, path::Path, process::Command};
use tempfile::TempDir;

/// Where pages take the plugin for `mlir-opt` and the dialects' file to be installed.
const INSTALLED: &str = "/usr/local/lib/mxc";

/// How the command lines begin that run here. Those of MPI's launchers need MPI: tests/mpi.rs runs them.
const PROGRAMS: [&str; 3] = ["mxc ", "mlir-opt", "seq "];

fn run_page(path: &Path) {
    let page = fs::read_to_string(path).unwrap();
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 300, 100);
    symlink(env!("CARGO_BIN_EXE_mxc-under-test"), folder.path().join("mxc")).unwrap();
    fs::copy(model("resnet20"), folder.path().join("model.onnx")).unwrap();
    let installed = folder.path().join("installed");
    if page.contains(INSTALLED) {
        fs::create_dir(&installed).unwrap();
        symlink(plugin(), installed.join("libmxc_passes.so")).unwrap();
        fs::write(installed.join("mxc.irdl.mlir"), mxc_dialects::irdl_source()).unwrap();
    }
    let shell = |line: &str| {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(folder.path())
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            // As if by Slurm and Kubernetes.
            .envs([("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "64"), ("JOB_COMPLETION_INDEX", "63")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {line}\n{}", path.display(), String::from_utf8_lossy(&output.stderr));
    };
    shell("mxc compile model.onnx --emit analog --quiet > model.mlir");
    for line in commands(&page, &PROGRAMS) {
        let line = line.replace("DIR", &data.display().to_string());
        shell(&line.replace(INSTALLED, &installed.display().to_string()));
    }
}

#[test]
fn readme_commands_run() {
    let page = root().join("README.md");
    assert!(commands(&fs::read_to_string(&page).unwrap(), &PROGRAMS).len() >= 4);
    run_page(&page);
}

#[test]
fn commands_of_the_pages_run() {
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            run_page(&path);
        }
    }
}

/// The noise models as they are declared.
#[test]
fn noise_components_are_listed() {
    let mut table = "| component | acts on | adds | arguments |\n|---|---|---|---|\n".to_owned();
    for info in MODELS {
        let arguments: Vec<String> = info
            .arguments
            .iter()
            .map(|argument| {
                let default =
                    argument.default.map_or(String::new(), |value| format!(", {} if left out", argument.show(value)));
                format!("`{}`: {} ({}, {}{default})", argument.name, argument.help, argument.unit, argument.range)
            })
            .collect();
        table.push_str(&format!("| `{}` | {} | {} | {} |\n", info.name, info.site, info.help, arguments.join("; ")));
    }
    let path = root().join("docs/cli.md");
    let page = fs::read_to_string(&path).unwrap();
    let start = page.find("| component |").expect("the page has the table");
    let end = start + page[start..].find("\n\n").expect("text follows the table") + 1;
    if std::env::var_os("MXC_UPDATE_DOCS").is_some() {
        fs::write(&path, [&page[..start], &table, &page[end..]].concat()).unwrap();
    }
    assert_eq!(page[start..end], table, "docs/cli.md is not what is declared; MXC_UPDATE_DOCS=1 rewrites it");
}

#[test]
fn links_point_to_files() {
    let link = regex::Regex::new(r"\]\(([^)#:]+)\)").unwrap();
    let mut pages: Vec<_> = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root().join(page)));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for found in link.captures_iter(&text) {
            let target = page.parent().unwrap().join(&found[1]);
            assert!(target.exists(), "{}: {} is not there", page.display(), &found[1]);
        }
    }
}
