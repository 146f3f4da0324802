//! The steps of the guides. `docs/write-a-pass.md`: the pass shown there is `guide_pass.rs`, and does what the page says.
//! `docs/add-a-noise-component.md`: its code is that of the source.

use crate::{common::root, guide_pass::QuietLayers};
use mxc_compiler::pass::{Options, Pass, PassContext, run::print_module};
use mxc_dialects::{erase::ModuleMut, ir};
use std::fs;

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
    let sources = [text("dialects/src/noise.rs"), text("runtime/src/kernels/noise.rs")];
    let shown = blocks(&page, "```", "rust");
    assert_eq!(shown.len(), 3);
    for code in shown {
        assert!(sources.iter().any(|source| source.contains(&code)), "not in the source:\n{code}");
    }
}
