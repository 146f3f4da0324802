//! Every kind of denoiser through the whole program, and the pages about them.

use crate::{
    cli::entry,
    common::{json, model, mxc, root, small_fashion, succeed},
};
use mxc_dialects::denoise::{KINDS, expression::Site};
use std::fs;
use tempfile::TempDir;

/// Compiled, trained, evaluated in floating point and in the tile's integers, exported, reported.
#[test]
fn kinds_go_all_the_way() {
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 400, 100).display().to_string();
    let run = |line: &str| {
        let mut command = mxc(folder.path());
        command.args(line.split_whitespace().map(|word| if word == "DATA" { &data } else { word }));
        command
    };
    fs::copy(model("resnet20"), folder.path().join("model.onnx")).unwrap();
    for kind in KINDS {
        let name = kind.name;
        let compile = "compile model.onnx --samples 32 --sigma 20% --budget 8% --equalize no --init identity --data DATA --mean 0.2860 \
                       --std 0.3530 --json";
        let compiled = json(&mut run(&format!("{compile} --denoiser {name} -o {name}.mxa")));
        let layers = compiled["layers"].as_array().unwrap();
        let chosen: Vec<_> = layers.iter().filter(|layer| layer["chosen"] == true).collect();
        assert!(!chosen.is_empty(), "{name}");
        for layer in chosen {
            let channels = layer["channels"].as_u64().unwrap() as usize;
            let spatial = !layer["name"].as_str().unwrap().contains("Gemm");
            let count = kind.expression().parameter_count(Site { channels, spatial });
            assert_eq!(layer["denoiser_parameters"], count, "{name}");
        }
        let eval = |package: &str, digital: &str| {
            json(&mut run(&format!("eval {package} --data DATA --seeds 2 --limit 100 --digital {digital} --json")))
        };
        let fresh = eval(&format!("{name}.mxa"), "float");
        assert_eq!(fresh["noisy"]["top1"], fresh["denoised"]["top1"], "{name}: a fresh denoiser is the identity");
        succeed(&mut run(&format!("finetune {name}.mxa --data DATA --epochs 1 --batch 32 -o {name}.tuned.mxa")));
        let weights = |package: String| entry(&folder.path().join(package), "denoisers.safetensors");
        assert_ne!(weights(format!("{name}.mxa")), weights(format!("{name}.tuned.mxa")), "{name}: training changes it");
        let trained = eval(&format!("{name}.tuned.mxa"), "float");
        // Integers of 16 bits are near: a picture or two of a hundred.
        let integers = eval(&format!("{name}.tuned.mxa"), "fixed");
        let [float, fixed] = [&trained, &integers].map(|report| report["clean_denoised"]["top1"].as_f64().unwrap());
        assert!((float - fixed).abs() <= 2.0, "{name}: {float} in floating point, {fixed} in integers");
        assert_eq!(integers["parameters"], trained["parameters"], "{name}");
        // Compares the result with the package before it writes it.
        succeed(&mut run(&format!("export {name}.tuned.mxa -o {name}.onnx")));
        let report = json(&mut run(&format!("report {name}.tuned.mxa --json")));
        assert!(report["denoisers"].as_array().unwrap().iter().all(|cost| cost["cycles"].as_u64().unwrap() > 0));
    }
}

/// The block of `docs/dialects.md` that lists the kinds.
fn listing() -> String {
    let mut text = String::new();
    for (index, kind) in KINDS.into_iter().enumerate() {
        let count = |spatial| kind.expression().parameter_count(Site { channels: 64, spatial });
        let gap = if index > 0 { "\n" } else { "" };
        text += &format!(
            "{gap}{}: {}; {} parameters on 64 channels with rows and columns, {} without\n",
            kind.name,
            kind.about,
            count(true),
            count(false)
        );
        text.extend(kind.expression().to_string().lines().map(|line| format!("  {line}\n")));
    }
    text
}

#[test]
fn kinds_are_listed() {
    let path = root().join("docs/dialects.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("```text\n").unwrap();
    let (old, after) = rest.split_once("```\n").unwrap();
    if std::env::var_os("MXC_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}```text\n{}```\n{after}", listing())).unwrap();
    } else {
        assert_eq!(old, listing(), "docs/dialects.md: MXC_UPDATE_DOCS=1 rewrites it");
    }
}

/// What `docs/add-a-denoiser.md` shows is what the kind it makes consists of.
#[test]
fn kinds_are_added_as_the_guide_says() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let page = read("docs/add-a-denoiser.md");
    let (_, rest) = page.split_once("````rust\n").unwrap();
    let (shown, _) = rest.split_once("````\n").unwrap();
    assert_eq!(shown, read("dialects/spec/src/denoise/depthwise.rs"));
    let registry = read("dialects/spec/src/denoise/mod.rs");
    assert!(registry.contains("mod depthwise;") && registry.contains("&depthwise::KIND"));
    assert!(page.contains("\nmxc compile model.onnx --denoiser depthwise"));
}
