//! The steps of the guides. `docs/write-a-pass.md`: the pass shown there is `guide_pass.rs`, and does what the page says.
//! `docs/add-a-noise-component.md`, `docs/add-an-onnx-operator.md`: their code is that of the source, and what it makes runs.

use crate::{
    common::root,
    guide_pass::QuietLayers,
    onnx_model::{Model, float},
    reference::{Array, execute},
};
use mxc_compiler::{
    import::{self, ImportOptions},
    pass::{Options, Pass, PassContext, run::print_module},
};
use mxc_dialects::{erase::ModuleMut, ir};
use std::{fs, path::Path};

/// The contents of the page's blocks that open with `fence` and a language.
fn blocks(page: &str, fence: &str, language: &str) -> Vec<String> {
    let opening = format!("\n{fence}{language}\n");
    page.split(&opening)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(&format!("\n{fence}\n"))?.0.to_owned() + "\n"))
        .collect()
}

fn quiet(source: &str, keep: &str) -> Result<String, String> {
    let context = mxc_dialects::new_context();
    let mut module = ir::parse(&context, source.as_bytes(), "guide").unwrap();
    let mut options = Options::default();
    options.push("keep", keep);
    let mut pass = QuietLayers::from_options(&mut options).map_err(|error| error.to_string())?;
    pass.run(&context, &mut ModuleMut::new(&mut module), &mut PassContext::default())
        .map_err(|error| error.to_string())?;
    Ok(print_module(&module, false))
}

#[test]
fn the_guide_holds() {
    let page = fs::read_to_string(root().join("docs/write-a-pass.md")).unwrap();
    let code = fs::read_to_string(root().join("tests/guide_pass.rs")).unwrap();
    assert_eq!(blocks(&page, "````", "rust"), [code], "the page shows tests/guide_pass.rs");
    let [input, output] = blocks(&page, "```", "mlir").try_into().expect("two blocks of MLIR");
    assert_eq!(quiet(&input, "conv1").unwrap(), output);
    let error = quiet(&input, "conv9").unwrap_err();
    assert!(page.contains(&error), "the page shows the error:\n{error}");
    let listed = "PassInfo::of::<annotate_noise::AnnotateNoise>";
    let registry = fs::read_to_string(root().join("compiler/src/passes/mod.rs")).unwrap();
    assert!(registry.contains(listed), "passes are listed the way the guide says");
}

#[test]
fn the_noise_guide_shows_the_source() {
    let text = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let page = text("docs/add-a-noise-component.md");
    let sources = ["dialects/spec/src/noise.rs", "runtime/src/kernels/noise.rs", "tests/embed.rs"].map(text);
    let shown = blocks(&page, "```", "rust");
    assert_eq!(shown.len(), 5);
    for code in shown {
        assert!(sources.iter().any(|source| source.contains(&code)), "not in the source:\n{code}");
    }
}

#[test]
fn the_operator_guide_shows_the_source_which_runs() {
    let text = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let page = text("docs/add-an-onnx-operator.md");
    let lower = "compiler/src/import/lower";
    let files = ["elementwise", "index", "shape"].map(|name| text(&format!("{lower}/{name}.rs")));
    let custom = text("dialects/src/tosa/custom.rs");
    let shown = blocks(&page, "```", "rust");
    assert_eq!(shown.len(), 5);
    for code in shown {
        assert!(files.iter().chain([&custom]).any(|source| source.contains(&code)), "not in the source:\n{code}");
    }
    let call = text(&format!("{lower}/call.rs"));
    for method in page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name) {
        assert!(call.contains(&format!("pub const fn {method}(self")), "no entry says `{method}`");
    }

    let model = Model::new().opset(9).input("x", &[0, 4]).output_of("y", &[0, 4]);
    let model = model.node("shrink", "Shrink", "x", "y", &[float("bias", 0.5), float("lambd", 1.0)]);
    let context = mxc_dialects::new_context();
    let imported =
        import::onnx_bytes(&context, &model.bytes(), "shrink", Path::new("."), &ImportOptions::default()).unwrap();
    let x = Array { shape: vec![2, 4], values: vec![-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.25, 3.0] };
    let y = execute(&imported.module, &imported.weights, &[&x]).unwrap();
    assert_eq!(y[0], [-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.75, 2.5]);
}
