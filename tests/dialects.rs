//! The distribution's own `mlir-opt` with our IRDL files: it reads every level that mxc emits and rejects bad IR.

use mxc_compiler::opt;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Runs `mlir-opt --irdl-file` over a text; its messages if it refuses.
fn mlir_opt(irdl: &Path, text: &str) -> Result<(), String> {
    let mut child = Command::new("mlir-opt-22")
        .arg(format!("--irdl-file={}", irdl.display()))
        .args(["-", "-o", "/dev/null"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mlir-opt-22 is installed (package mlir-22-tools)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn irdl(folder: &Path) -> PathBuf {
    let path = folder.join("mxc.irdl.mlir");
    fs::write(&path, mxc_dialects::irdl_source()).unwrap();
    path
}

#[test]
fn the_stock_tool_reads_every_level() {
    let folder = tempfile::tempdir().unwrap();
    let irdl = irdl(folder.path());
    let mut checked = 0;
    for entry in fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ir")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "mlir") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (input, output) in opt::split(&text).iter().zip(crate::passes::transformed(&text)) {
            let output = output.unwrap().ir;
            for text in [String::from_utf8_lossy(input).into_owned(), output] {
                mlir_opt(&irdl, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                checked += 1;
            }
        }
    }
    assert!(checked > 10);
}

const NOISE: &str = r#"noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}"#;

#[test]
fn the_stock_tool_rejects_bad_ir() {
    let folder = tempfile::tempdir().unwrap();
    let irdl = irdl(folder.path());
    let types = "(tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>";
    let bodies = [
        // A missing attribute.
        format!(r#"%1 = "analog.fully_connected"(%x, %w, %b) {{layer = "fc"}} : {types}"#),
        // An attribute of another kind.
        format!(r#"%1 = "analog.fully_connected"(%x, %w, %b) {{layer = 1 : i64, {NOISE}}} : {types}"#),
        // A missing operand.
        format!(
            r#"%1 = "analog.fully_connected"(%x, %w) {{layer = "fc", {NOISE}}} : (tensor<?x2xf32>, tensor<2x2xf32>) -> tensor<?x2xf32>"#
        ),
        // A result too many.
        format!(
            r#"%1:2 = "analog.fully_connected"(%x, %w, %b) {{layer = "fc", {NOISE}}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> (tensor<?x2xf32>, tensor<?x2xf32>)"#
        ),
        // An operand that is no tensor.
        format!(
            r#"%1 = "analog.fully_connected"(%i, %w, %b) {{layer = "fc", {NOISE}}} : (index, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>"#
        ),
        // A convolution without its window.
        format!(r#"%1 = "analog.conv2d"(%x, %w, %b) {{layer = "conv", {NOISE}}} : {types}"#),
        // A block without its segment sizes and heads.
        r#"%1 = "denoise.paper"(%x, %w, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>"#.to_owned(),
        r#"%1 = "denoise.affine"(%x, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>"#.to_owned(),
        // Operations that do not exist.
        r#"%1 = "analog.pooling"(%x) : (tensor<?x2xf32>) -> tensor<?x2xf32>"#.to_owned(),
        r#"%1 = "dtile.nothing"(%x) : (tensor<?x2xf32>) -> tensor<?x2xf32>"#.to_owned(),
    ];
    for body in bodies {
        let text = format!(
            "func.func @main(%x: tensor<?x2xf32>, %w: tensor<2x2xf32>, %b: tensor<2xf32>, %i: index) {{\n  {body}\n  return\n}}\n"
        );
        assert!(mlir_opt(&irdl, &text).is_err(), "accepted: {body}");
        // And so does mxc.
        let context = mxc_dialects::new_context();
        assert!(mxc_dialects::ir::parse(&context, text.as_bytes(), "bad.mlir").is_err(), "accepted: {body}");
    }
}
