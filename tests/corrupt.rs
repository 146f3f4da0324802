//! Files that once ended, or would end, a program: each must end in an error now. See `docs/fuzzing.md`.

use crate::common::{mxc, root};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

/// Runs mxc with at most 3 GiB of address space, so that a claim of more memory ends it.
fn confined(folder: &Path, arguments: &[&str]) -> Output {
    let program = mxc(folder).get_program().to_owned();
    Command::new("sh")
        .args(["-c", "ulimit -v 3000000; exec \"$0\" \"$@\""])
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The error of a command that must fail as errors do.
fn error(folder: &Path, arguments: &[&str]) -> String {
    let output = confined(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {:?}\n{stderr}", output.status);
    stderr
}

#[test]
fn deep_mlir_is_refused_before_mlir_sees_it() {
    let folder = TempDir::new().unwrap();
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let n = 50_000;
    let aliases = |definition: &dyn Fn(usize) -> String| (1..n).map(definition).collect::<String>();
    for (name, text, reason) in [
        ("regions", nested("module {", "", "}", n), "nested"),
        ("arrays", format!("module attributes {{t.a = {}}} {{}}", nested("[", "", "]", n)), "nested"),
        ("types", format!("module attributes {{t.a = {}}} {{}}", nested("tuple<", "f32", ">", n)), "nested"),
        ("in-strings", format!("// \"\nmodule attributes {{t.a = {}}} {{}}", nested("[\"]\", ", "", "]", n)), "nested"),
        ("aliases", format!("#a0 = 1 : i64\n{}", aliases(&|i| format!("#a{i} =\n[#a{}]\n", i - 1))), "nested"),
        ("type-aliases", format!("!t0 = f32\n{}", aliases(&|i| format!("!t{i} = tuple\n<!t{}> ", i - 1))), "nested"),
        ("affine", format!("module attributes {{t.a = affine_map<(d0) -> ({}d0)>}} {{}}", "-".repeat(n)), "affine map"),
    ] {
        let file = format!("{name}.mlir");
        fs::write(folder.path().join(&file), text).unwrap();
        let error = error(folder.path(), &["opt", &file]);
        assert!(error.contains(reason), "{name}: {error}");
    }
    // Brackets in strings, arrows and comparisons are no nesting.
    let harmless = format!(
        "#s = \"{}\"\n!f = () -> (f32)\nmodule attributes {{t.a = #s, t.f = !f}} {{ // {}\n}}\n",
        "[".repeat(n),
        "(".repeat(n)
    );
    fs::write(folder.path().join("harmless.mlir"), harmless).unwrap();
    let output = confined(folder.path(), &["opt", "harmless.mlir"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("nested"), "{output:?}");
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let folder = TempDir::new().unwrap();
    for (text, reason) in [
        (&b"module {} // \xff"[..], "the text is not UTF-8"),
        (b"module attributes {t.a = \"\\FF\"} {}", "a string is not UTF-8"),
        // MLIR's complaint holds half a character.
        ("module {} é".as_bytes(), "a.mlir"),
    ] {
        fs::write(folder.path().join("a.mlir"), text).unwrap();
        let error = error(folder.path(), &["opt", "a.mlir"]);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn bytecode_is_refused() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.mlirbc"), b"ML\xefR\x01rest").unwrap();
    for arguments in [["opt", "a.mlirbc"], ["compile", "a.mlirbc"]] {
        let error = error(folder.path(), &arguments);
        assert!(error.contains("a.mlirbc") && error.contains("mlir-opt"), "{error}");
    }
}

/// An `.npz` with one array of this header and no data.
fn archive(path: &Path, header: &str) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    zip.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    std::io::Write::write_all(&mut zip, &bytes).unwrap();
    zip.finish().unwrap();
}

#[test]
fn arrays_that_claim_too_much_are_refused() {
    let folder = TempDir::new().unwrap();
    let model = root().join("examples/models/resnet20.onnx").display().to_string();
    let claim = |shape: &str| format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
    for (header, reason) in [
        (claim("(4000000000, 28, 28)"), "claims more"),
        (claim("(9223372036854775807, 2, 8)"), "claims more"),
        (claim("(1), 'shape': (4000000000,)"), "names no shape"),
        (claim(&"(".repeat(50_000)), "longer than"),
    ] {
        archive(&folder.path().join("x.npz"), &header);
        for arguments in
            [["compile", &model, "--data", "x.npz", "-o", "x.mxa"], ["run", &model, "--input", "x.npz", "-o", "y.npz"]]
        {
            let error = error(folder.path(), &arguments);
            assert!(error.contains("x.npz") && error.contains(reason), "{error}");
        }
    }
}
