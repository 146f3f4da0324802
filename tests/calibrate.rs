//! Converter ranges and closed-form denoisers, from the command line.

use crate::{
    cli::{compiled, entry},
    common::{fail, json, model, mxc, succeed},
};
use mxc_compiler::load;
use mxc_dialects::ir;
use mxc_runtime::package::Package;
use std::fs;

/// `compile` by default, on a few images: both steps help by a loss of images that they were not made of, and labels of the
/// evaluation agree. `calibrate` does the same to a package compiled without.
#[test]
fn ranges_and_closed_form_recover_without_training() {
    let (folder, data) = compiled(&["--denoiser", "affine", "--equalize", "no", "--init", "identity"]);
    let folder = folder.path();
    let command = ["calibrate", "model.mxa", "--data", &data, "--json"];
    let report = json(mxc(folder).args(command));
    let loss = |part: &str, when: &str| report[part][when].as_f64().unwrap();
    assert!(loss("ranges", "loss_after") <= loss("ranges", "loss_before"), "{report}");
    assert!(loss("closed_form", "loss_after") < 0.7 * loss("closed_form", "loss_before"), "{report}");
    let eval = |package: &str| json(mxc(folder).args(["eval", package, "--seeds", "3", "--json", "--data", &data]));
    let (before, after) = (eval("model.mxa"), eval("model.calibrated.mxa"));
    assert_eq!(before["noisy"], after["noisy"], "the noisy network is as it was");
    assert_eq!(before["noisy"]["top1"], before["denoised"]["top1"]);
    let accuracy = |kind: &str| after[kind]["top1"].as_f64().unwrap();
    // Nearly half of what was lost, at least: 200 images and 3 draws leave an uncertainty of about 2 points.
    let lost = accuracy("clean") - accuracy("noisy");
    assert!(accuracy("denoised") > accuracy("noisy") + 0.4 * lost, "{after}");

    let package = |name: &str| fs::read(folder.join(name)).unwrap();
    succeed(mxc(folder).args(&command[..4]).args(["--threads", "1", "-o", "one.mxa"]));
    assert!(package("one.mxa") == package("model.calibrated.mxa"), "the threads do not matter");
    let backbone = |name: &str| entry(&folder.join(name), "backbone.safetensors");
    assert_eq!(backbone("one.mxa"), backbone("model.mxa"), "the backbone is frozen");
    // The module and the program say the same of the converters.
    let package = Package::open(&folder.join("one.mxa")).unwrap();
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, package.module(), "module.mlir").unwrap();
    let loaded = load::program(&module, &package.weights()).unwrap();
    assert_eq!(loaded.layers(), package.program(&folder.join("one.mxa")).unwrap().layers());
    assert!(loaded.layers().iter().any(|layer| layer.columns.is_some()));
    assert_eq!(package.manifest.required_features, ["column-shift"], "who does not know them must refuse");
    let manifest = json(mxc(folder).args(["inspect", "one.mxa", "--json"]));
    for of in ["gain", "samples"] {
        assert_eq!(manifest["closed_form"][of], report["closed_form"][of]);
    }
    assert_eq!(report["closed_form"]["samples"], 256, "images are small");
}

/// Scales of columns are exact: without noise a network with them computes the same bits.
#[test]
fn column_shifts_change_no_bit_of_the_clean_network() {
    let (folder, data) = compiled(&["--init", "identity"]);
    let folder = folder.path();
    let plain = ["compile", "--recipe", "paper", "-o", "plain.mxa", "--data", &data];
    succeed(mxc(folder).args(plain).arg(model("resnet20")));
    let module = succeed(mxc(folder).args(["inspect", "model.mxa", "--mlir"]));
    let eval = |package: &str| {
        json(mxc(folder).args(["eval", package, "--seeds", "1", "--limit", "100", "--json", "--data", &data]))
    };
    let shifted = eval("model.mxa");
    assert_eq!(shifted["clean"], shifted["clean_denoised"]);
    assert_eq!(module.contains("column_shift"), shifted["noisy"] != shifted["denoised"], "they act where they are");
    assert!(!succeed(mxc(folder).args(["inspect", "plain.mxa", "--mlir"])).contains("column_shift"));
}

/// Reads and digital layers within a budget of energy: they help by a loss of images that they were not chosen by, are in the package with its
/// features, in the report and its costs, and change nothing of the network without what mxc adds.
#[test]
fn energy_within_a_budget() {
    let fresh = ["--equalize", "no", "--init", "identity", "--denoiser", "affine"];
    let (folder, data) = compiled(&fresh);
    let folder = folder.path();
    let compile = |budget: &str, package: &str, threads: &str| {
        let options = ["compile", "--samples", "64", "--sigma", "20%", "--mean", "0.2860", "--std", "0.3530", "--json"];
        let own = ["-o", package, "--energy-budget", budget, "--threads", threads, "--data", &data];
        json(mxc(folder).args(options).args(fresh).args(own).arg(model("resnet20")))
    };
    let number = |value: &serde_json::Value, name: &str| value[name].as_f64().unwrap();
    let bytes = |package: &str| fs::read(folder.join(package)).unwrap();
    let none = compile("0%", "none.mxa", "2");
    assert!(none["energy"].is_null() && bytes("none.mxa") == bytes("model.mxa"), "off, nothing differs");
    let report = compile("+50%", "read.mxa", "2");
    let spent = &report["energy"];
    assert!(number(spent, "layers_read") >= 1.0 && number(spent, "most_reads") >= 2.0, "{report}");
    assert!(number(spent, "loss_after") < 0.9 * number(spent, "loss_before"), "{report}");
    let energy = number(spent, "added_percent");
    assert!(energy > 30.0 && energy <= 50.0, "{energy}");
    assert_eq!(report, compile("50%", "one.mxa", "1"));
    assert!(bytes("one.mxa") == bytes("read.mxa"), "neither the threads nor a sign matter");

    // What is chosen costs what the report says; one read of every layer costs nothing more. What is digital has no tiles.
    let cost = |package: &str| json(mxc(folder).args(["report", package, "--json"]))["analog"].clone();
    let (plain, dear) = (cost("model.mxa"), cost("read.mxa"));
    assert!(
        (number(&dear, "added_energy_percent") - energy).abs() < 1e-9 && number(&plain, "added_energy_percent") == 0.0
    );
    let grown = 100.0 * (number(&dear, "nanojoules") / number(&plain, "nanojoules") - 1.0);
    assert!((grown - energy).abs() < 1e-9, "{grown}");
    let count = |cost: &serde_json::Value, of: fn(&serde_json::Value) -> bool| {
        cost["layers"].as_array().unwrap().iter().filter(|layer| of(layer)).count() as f64
    };
    let often = |cost: &serde_json::Value| count(cost, |layer| layer["reads"].as_u64() > Some(1));
    let digital = |cost: &serde_json::Value| count(cost, |layer| layer["reads"] == 0 && layer["tiles"] == 0);
    assert_eq!((often(&plain), often(&dear)), (0.0, number(spent, "layers_read")));
    assert_eq!((digital(&plain), digital(&dear)), (0.0, number(spent, "layers_digital")));
    assert!(succeed(mxc(folder).args(["report", "read.mxa"])).contains("% energy and +"));

    // The module, the program and what is shown agree.
    let path = folder.join("read.mxa");
    let package = Package::open(&path).unwrap();
    assert_eq!(package.manifest.required_features, ["reads"], "who does not know them must refuse");
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, package.module(), "module.mlir").unwrap();
    let loaded = load::program(&module, &package.weights()).unwrap();
    assert_eq!(loaded.layers(), package.program(&path).unwrap().layers());
    assert!(succeed(mxc(folder).args(["inspect", "read.mxa"])).contains("read more than once"));
    assert!(!succeed(mxc(folder).args(["inspect", "model.mxa"])).contains("read more than once"));
    let options = json(mxc(folder).args(["inspect", "read.mxa", "--json"]))["provenance"]["options"].clone();
    assert!(options.as_array().unwrap().iter().any(|option| option == "energy-budget=50%"), "{options}");

    let eval = |package: &str, threads: &str| {
        let options = ["eval", package, "--seeds", "2", "--json", "--threads", threads, "--data", &data];
        json(mxc(folder).args(options))
    };
    let (before, after) = (eval("model.mxa", "2"), eval("read.mxa", "2"));
    assert_eq!(after, eval("read.mxa", "1"));
    for same in ["clean", "noisy", "clean_denoised"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    // 5.75 points are lost and 3.75 come back; of 400 answers paired by their noise that is uncertain by some 2.
    assert!(number(&after["denoised"], "top1") > number(&before["denoised"], "top1") + 1.0, "{before} {after}");

    let said = succeed(
        mxc(folder)
            .args(["compile", "--samples", "64", "--energy-budget", "20%", "--data", &data])
            .args(fresh)
            .args(["--sigma", "20%", "--mean", "0.2860", "--std", "0.3530", "-o", "said.mxa"])
            .arg(model("resnet20")),
    );
    assert!(said.contains("% of the analog layers' energy; distillation loss"), "{said}");
    // Without data nothing is chosen; a negative budget is none.
    let synthetic = json(mxc(folder).args(["compile", "--json", "--energy-budget", "20%"]).arg(model("resnet20")));
    assert!(synthetic["energy"].is_null());
    fail(mxc(folder).args(["compile", "--energy-budget=-5%"]).arg(model("resnet20")), 2);
}

/// Noise of inputs follows what their converters reach, which is less than the largest value where that helps images that it was not chosen by;
/// the network without what mxc adds stays as it is.
#[test]
fn inputs_are_clipped_where_that_helps() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let compile = |equalize: &str, package: &str, threads: &str| {
        let noise =
            ["--noise", "gaussian(sigma=10%,site=input)+gaussian(sigma=2%)", "--budget", "0%", "--init", "identity"];
        let options = ["compile", "--samples", "64", "--mean", "0.2860", "--std", "0.3530", "--json", "--data", &data];
        let own = ["-o", package, "--equalize", equalize, "--threads", threads];
        json(mxc(folder).args(options).args(noise).args(own).arg(model("resnet20")))
    };
    compile("no", "plain.mxa", "2");
    let report = compile("yes", "clipped.mxa", "2");
    assert_eq!(report, compile("yes", "again.mxa", "1"));
    assert!(fs::read(folder.join("again.mxa")).unwrap() == fs::read(folder.join("clipped.mxa")).unwrap());
    let ranges = &report["ranges"];
    assert!(ranges["input_ranges"].as_u64() > Some(10), "{report}");
    assert!(ranges["loss_after"].as_f64() < ranges["loss_before"].as_f64().map(|loss| 0.8 * loss), "{report}");
    let path = folder.join("clipped.mxa");
    let package = Package::open(&path).unwrap();
    assert!(package.manifest.required_features.iter().any(|feature| feature == "input-range"));
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, package.module(), "module.mlir").unwrap();
    let loaded = load::program(&module, &package.weights()).unwrap();
    assert_eq!(loaded.layers(), package.program(&path).unwrap().layers());
    let eval = |package: &str| json(mxc(folder).args(["eval", package, "--seeds", "2", "--json", "--data", &data]));
    let (before, after) = (eval("plain.mxa"), eval("clipped.mxa"));
    assert_eq!((&before["clean"], &before["noisy"]), (&after["clean"], &after["noisy"]));
    assert_eq!(after["clean"], after["clean_denoised"], "without noise nothing is clipped");
    let top1 = |report: &serde_json::Value| report["denoised"]["top1"].as_f64().unwrap();
    assert!(top1(&after) > top1(&before) + 1.0, "{before} {after}");
}

/// What a chip keeps no read averages away: the layer that it harms most for its energy is computed digitally, exactly as without noise.
#[test]
fn digital_layers_within_a_budget_of_energy() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let compile = |budget: &str, package: &str| {
        let noise = ["--noise", "gaussian(sigma=20%,lifetime=chip)", "--denoiser", "affine", "--equalize", "no"];
        let options = ["compile", "--samples", "64", "--mean", "0.2860", "--std", "0.3530", "--json", "--data", &data];
        json(
            mxc(folder)
                .args(options)
                .args(noise)
                .args(["-o", package, "--energy-budget", budget])
                .arg(model("resnet20")),
        )
    };
    let report = compile("1000000%", "digital.mxa");
    let analog = json(mxc(folder).args(["report", "digital.mxa", "--json"]))["analog"].clone();
    let layers = analog["layers"].as_array().unwrap();
    assert_eq!(report["energy"]["layers_digital"], layers.len(), "for so much energy all are: {report}");
    assert_eq!((&report["energy"]["most_reads"], &report["energy"]["loss_after"]), (&1.into(), &0.0.into()));
    assert!(layers.iter().all(|layer| layer["reads"] == 0 && layer["tiles"] == 0 && layer["added_nanojoules"] != 0.0));
    let path = folder.join("digital.mxa");
    assert_eq!(Package::open(&path).unwrap().manifest.required_features, ["digital-layer"]);
    let eval = json(mxc(folder).args(["eval", "digital.mxa", "--seeds", "2", "--json", "--data", &data]));
    assert_eq!(eval["denoised"]["top1"], eval["clean_denoised"]["top1"], "{eval}");
    assert_ne!(eval["noisy"]["top1"], eval["clean"]["top1"], "{eval}");

    let report = compile("+500%", "some.mxa");
    let (digital, added) = (&report["energy"]["layers_digital"], report["energy"]["added_percent"].as_f64().unwrap());
    assert!(digital.as_u64() > Some(0) && *digital != layers.len() && added <= 500.0, "{report}");
    assert!(succeed(mxc(folder).args(["inspect", "some.mxa"])).contains("computed digitally"));
    assert!(succeed(mxc(folder).args(["report", "some.mxa"])).contains("digital"));
}

/// The recipe is named, and everything of it can be changed.
#[test]
fn recipes_of_compile() {
    let (folder, data) = compiled(&["--recipe", "paper"]);
    let folder = folder.path();
    let options = |package: &str| {
        let manifest = json(mxc(folder).args(["inspect", package, "--json"]));
        manifest["provenance"]["options"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    };
    let has = |options: &Vec<String>, wanted: &[&str]| {
        wanted
            .iter()
            .for_each(|wanted| assert!(options.iter().any(|option| option == wanted), "{wanted}: {options:?}"));
    };
    has(&options("model.mxa"), &["denoiser=paper", "placement=greedy", "equalize=false", "init=identity"]);
    let source = model("resnet20");
    let source = source.to_str().unwrap();
    let compile = ["compile", source, "--samples", "32", "--data", &data];
    let said = succeed(mxc(folder).args(compile).args(["-o", "best.mxa"]));
    assert!(said.contains("recipe best"), "{said}");
    has(&options("best.mxa"), &["denoiser=any", "placement=worth", "equalize=true", "init=closed-form"]);
    succeed(mxc(folder).args(compile).args(["--placement", "greedy-fill", "-o", "fill.mxa"]));
    has(&options("fill.mxa"), &["denoiser=mean+affine", "placement=greedy-fill"]);
    let changed = ["--denoiser", "mean", "--placement", "greedy", "--equalize", "no", "--init", "identity"];
    succeed(mxc(folder).args(compile).args(changed).args(["-o", "own.mxa"]));
    has(&options("own.mxa"), &["denoiser=mean", "placement=greedy", "equalize=false", "init=identity"]);
}

#[test]
fn calibrate_says_what_it_cannot() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let error = fail(mxc(folder).args(["calibrate", "model.mxa", "--data", &data, "-o", "model.mxa"]), 1);
    assert!(error.contains("model.mxa"), "{error}");
    let error = fail(mxc(folder).args(["calibrate", model("resnet20").to_str().unwrap(), "--data", &data]), 1);
    assert!(error.contains("not a valid mxc package"), "{error}");
    fail(mxc(folder).args(["calibrate", "model.mxa", "--data", &data, "--samples", "0"]), 2);
}
