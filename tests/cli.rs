//! The command line end to end, on a trained model and the first images of Fashion-MNIST.

use crate::common::{fail, json, model, mxc, small_fashion, succeed};
use ndarray::{Array2, Array4};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{fs, path::Path, process::Stdio, thread, time::Duration};
use tempfile::TempDir;

const PREPROCESS: [&str; 4] = ["--mean", "0.2860", "--std", "0.3530"];

/// A folder with a small data set and a compiled package.
pub fn compiled(options: &[&str]) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 600, 200).display().to_string();
    succeed(
        mxc(folder.path())
            .args(["compile", "--samples", "64", "--sigma", "20%", "-o", "model.mxa", "--data", &data])
            .arg(model("resnet20"))
            .args(PREPROCESS)
            .args(options),
    );
    (folder, data)
}

fn entry(package: &Path, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(fs::File::open(package).unwrap()).unwrap();
    let mut file = archive.by_name(name).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

#[test]
fn compile_finetune_eval() {
    let (folder, data) = compiled(&["--denoiser", "mean+affine", "--placement", "greedy-fill"]);
    let folder = folder.path();
    let before = json(mxc(folder).args(["eval", "model.mxa", "--json", "--seeds", "2", "--data", &data]));
    assert_eq!(before["noisy"]["top1"], before["denoised"]["top1"], "a fresh denoiser is the identity");
    assert_eq!(before["clean"]["top1"], before["clean_denoised"]["top1"]);
    assert!(before["clean"]["top1"].as_f64().unwrap() > 85.0);
    assert_eq!(before["samples"], 200);
    assert_eq!(before["noise"]["scale"], "range");

    succeed(mxc(folder).args(["finetune", "model.mxa", "--epochs", "3", "--batch", "32", "--data", &data]));
    assert_eq!(
        entry(&folder.join("model.mxa"), "backbone.safetensors"),
        entry(&folder.join("model.tuned.mxa"), "backbone.safetensors"),
        "the backbone is frozen"
    );
    let after = json(mxc(folder).args(["eval", "model.tuned.mxa", "--json", "--seeds", "2", "--data", &data]));
    assert_eq!(after["noisy"], before["noisy"], "the same noise draws");
    let gain = after["denoised"]["top1"].as_f64().unwrap() - after["noisy"]["top1"].as_f64().unwrap();
    assert!(gain > 1.0, "denoisers recover something: {gain} points");
    let overhead = after["parameters"]["overhead_percent"].as_f64().unwrap();
    assert!(overhead > 0.0 && overhead <= 4.0);
}

#[test]
fn denoisers_in_integers() {
    let (folder, data) = compiled(&["--denoiser", "paper+affine", "--placement", "greedy-fill"]);
    let folder = folder.path();
    succeed(mxc(folder).args([
        "finetune",
        "model.mxa",
        "--epochs",
        "1",
        "--limit",
        "300",
        "-o",
        "t.mxa",
        "--data",
        &data,
    ]));
    let eval = |digital: &str, threads: &str| {
        let arguments = ["eval", "t.mxa", "--json", "--seeds", "2", "--limit", "50", "--data", &data];
        json(mxc(folder).args(arguments).args(["--digital", digital, "--threads", threads]))
    };
    let (float, fixed) = (eval("float", "1"), eval("fixed", "1"));
    assert_eq!(fixed, eval("fixed", "2"));
    for same in ["noisy", "clean", "parameters", "samples"] {
        assert_eq!(float[same], fixed[same], "{same}");
    }
    let top1 = |report: &serde_json::Value| report["denoised"]["top1"].as_f64().unwrap();
    assert!((top1(&float) - top1(&fixed)).abs() <= 6.0, "{} and {}", top1(&float), top1(&fixed));

    // Raw inference: the package lowered on the way, and the dtile level as text.
    let mut writer = NpzWriter::new(fs::File::create(folder.join("in.npz")).unwrap());
    let image = Array4::from_shape_fn((2, 1, 28, 28), |(n, _, h, w)| ((n + 3 * h + 5 * w) % 11) as f32 / 5.0 - 1.0);
    writer.add_array("input", &image).unwrap();
    writer.finish().unwrap();
    let run = |arguments: &[&str]| -> Array2<f32> {
        succeed(mxc(folder).arg("run").args(arguments).args(["--input", "in.npz", "-o", "out.npz"]));
        NpzReader::new(fs::File::open(folder.join("out.npz")).unwrap()).unwrap().by_name("logits").unwrap()
    };
    let worst =
        (run(&["t.mxa"]) - run(&["t.mxa", "--digital", "fixed"])).mapv(f32::abs).fold(0.0, |a: f32, b| a.max(*b));
    assert!(worst > 0.0 && worst < 0.5, "{worst}");
    let compile = ["compile", "--samples", "8", "--data", &data, "--denoiser", "paper"];
    succeed(mxc(folder).args(compile).arg(model("resnet20")).args(PREPROCESS).args(["-o", "fresh.mxa"]));
    let emit = ["--emit", "dtile", "--inline-weights", "-o", "fresh.mlir"];
    succeed(mxc(folder).args(compile).arg(model("resnet20")).args(PREPROCESS).args(emit));
    assert!(run(&["fresh.mlir"]) == run(&["fresh.mxa", "--digital", "fixed"]));
    assert!(
        fail(
            mxc(folder).args(["run", "--digital", "fixed", "--input", "in.npz", "-o", "o.npz"]).arg(model("resnet20")),
            1
        )
        .contains("needs a package")
    );
}

#[test]
fn effective_noise_of_every_layer() {
    let (folder, data) = compiled(&["--denoiser", "mean+affine", "--placement", "greedy-fill"]);
    let folder = folder.path();
    let inspect = |package: &str, threads: &str| {
        json(mxc(folder).args(["inspect", package, "--samples", "64", "--json", "--threads", threads, "--data", &data]))
    };
    let fresh = inspect("model.mxa", "2");
    assert_eq!(fresh, inspect("model.mxa", "1"), "the threads do not matter");
    let layers = fresh["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 23);
    let number = |layer: &serde_json::Value, name: &str| layer[name].as_f64().unwrap();
    // Nothing is noisy before the first layer, and s is the rms of its output over the same 64 samples: σ = 20 % is 20·log₁₀ 5 =
    // 13.98 dB. 64·16·28² draws leave the noise's energy uncertain by 0.01 dB; saturation takes a little of it.
    let first = &layers[0];
    assert_eq!(first["layer"], "/stem/stem.0/Conv");
    assert!((number(first, "snr_db") - 13.98).abs() < 0.2, "{first}");
    // Later layers carry what came before, and no fresh denoiser changes that.
    for layer in &layers[1..] {
        assert!(number(layer, "snr_db") < 14.0, "{layer}");
        assert_eq!(layer["snr_db"], layer["snr_denoised_db"]);
    }
    // Every layer alone hurts less than all.
    assert!(layers.iter().all(|layer| number(layer, "loss_share") < 1.0));
    assert!(layers.iter().any(|layer| number(layer, "loss_share") > 0.02));

    succeed(mxc(folder).args(["finetune", "model.mxa", "--loss", "distill", "--batch", "32", "--data", &data]));
    let tuned = inspect("model.tuned.mxa", "2");
    let gained = tuned["layers"].as_array().unwrap().iter();
    let gained = gained.filter(|layer| number(layer, "snr_denoised_db") > number(layer, "snr_db")).count();
    assert!(
        gained > 11,
        "{gained} of 23 layers have a better SNR behind denoisers that were trained towards the clean logits"
    );
    assert!(number(&tuned, "denoised_loss") < number(&tuned, "noisy_loss"));
    assert!(json(mxc(folder).args(["inspect", "model.tuned.mxa", "--json"]))["training"]["loss"] == "distill");
}

#[test]
fn same_bytes_on_one_and_two_threads() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let mut evals = Vec::new();
    for threads in ["1", "2"] {
        let output = format!("tuned{threads}.mxa");
        let common = ["--threads", threads, "--data", &data];
        succeed(
            mxc(folder).args(["finetune", "model.mxa", "--epochs", "1", "--limit", "200", "-o", &output]).args(common),
        );
        evals.push(succeed(mxc(folder).args(["eval", &output, "--json", "--seeds", "2"]).args(common)));
    }
    assert!(fs::read(folder.join("tuned1.mxa")).unwrap() == fs::read(folder.join("tuned2.mxa")).unwrap());
    assert_eq!(evals[0], evals[1]);
}

#[test]
fn killed_finetune_resumes_to_the_same_bytes() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let arguments = ["finetune", "model.mxa", "--epochs", "4", "--limit", "300", "--batch", "16", "--data", &data];
    succeed(mxc(folder).args(arguments).args(["-o", "whole.mxa"]));
    let mut child = mxc(folder)
        .args(arguments)
        .args(["-o", "killed.mxa"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = folder.join("killed.mxa.ckpt");
    for _ in 0..3000 {
        if checkpoint.exists() || child.try_wait().unwrap().is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.join("killed.mxa").exists(), "killed before its end");
    succeed(mxc(folder).args(arguments).args(["-o", "killed.mxa", "--resume"]));
    assert!(fs::read(folder.join("whole.mxa")).unwrap() == fs::read(folder.join("killed.mxa")).unwrap());
}

#[test]
fn interrupted_finetune_says_how_to_go_on() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let arguments = ["finetune", "model.mxa", "--epochs", "30", "--batch", "16", "--data", &data];
    let child = mxc(folder).args(arguments).args(["-o", "out.mxa"]).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoint = folder.join("out.mxa.ckpt");
    while !checkpoint.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    succeed(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--resume"));
    let other = ["--lr", "0.5", "--resume", "-o", "out.mxa"];
    assert!(fail(mxc(folder).args(arguments).args(other), 1).contains("--lr"));
}

#[test]
fn yield_over_chips() {
    let (folder, data) = compiled(&[]);
    let noise = "gaussian(sigma=10%)+gaussian(sigma=15%,lifetime=chip)";
    let arguments = ["eval", "model.mxa", "--json", "--seeds", "2", "--limit", "50", "--noise", noise, "--data", &data];
    let report = json(mxc(folder.path()).args(arguments).args(["--chips", "4", "--floor", "88"]));
    let top1 = report["chips"]["noisy"]["top1"].as_array().unwrap();
    assert_eq!(top1.len(), 4);
    let good = top1.iter().filter(|value| value.as_f64().unwrap() >= 88.0).count();
    assert_eq!(report["chips"]["noisy"]["percent"].as_f64().unwrap(), 25.0 * good as f64);
    assert!(fail(mxc(folder.path()).args(arguments).args(["--chips", "4"]), 2).contains("--floor"));
}

#[test]
fn completions_and_help() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(succeed(mxc(folder.path()).args(["completions", shell])).contains("finetune"));
    }
    for command in ["compile", "finetune", "eval", "run", "inspect", "opt", "export", "report"] {
        let help = succeed(mxc(folder.path()).args([command, "--help"]));
        assert!(help.contains("Example"), "{command} --help shows an example");
    }
}

#[test]
fn compile_without_data_says_what_it_assumed() {
    let folder = TempDir::new().unwrap();
    let output = mxc(folder.path()).arg("compile").arg(model("resnet20")).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("synthetic"));
    assert!(folder.path().join("resnet20.mxa").exists());
    let report = json(mxc(folder.path()).args(["compile", "--json"]).arg(model("resnet20")));
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 23, "21 convolutions with shortcuts, and the classifier");
    for key in [
        "name",
        "channels",
        "reference",
        "gradient_norm",
        "rank",
        "denoisers",
        "denoiser_parameters",
        "chosen",
        "reason",
    ] {
        assert!(!layers[0][key].is_null(), "{key}");
    }
}

#[test]
fn manifest_records_what_ran() {
    let (folder, data) = compiled(&["--holdout", "550"]);
    let folder = folder.path();
    let manifest = json(mxc(folder).args(["inspect", "model.mxa", "--json"]));
    assert_eq!(manifest["holdout"], 550);
    assert_eq!(manifest["calibration"], serde_json::json!({ "kind": "data", "samples": 50, "seed": 0 }));
    let eval = ["eval", "model.mxa", "--json", "--seeds", "2", "--split", "holdout", "--data", &data];
    assert_eq!(json(mxc(folder).args(eval))["samples"], 550);

    // Without data 64 samples at most; finetune recalibrates on what there is besides the holdout.
    let compile = ["compile", "--samples", "100", "--holdout", "560", "-o", "synthetic.mxa"];
    succeed(mxc(folder).args(compile).arg(model("resnet20")).args(PREPROCESS));
    let calibration = |package: &str| json(mxc(folder).args(["inspect", package, "--json"]))["calibration"].clone();
    assert_eq!(calibration("synthetic.mxa"), serde_json::json!({ "kind": "synthetic", "samples": 64, "seed": 0 }));
    succeed(mxc(folder).args(["finetune", "synthetic.mxa", "--epochs", "1", "-o", "tuned.mxa", "--data", &data]));
    assert_eq!(calibration("tuned.mxa"), serde_json::json!({ "kind": "data", "samples": 40, "seed": 0 }));
}

#[test]
fn wrong_preprocessing_is_suspected() {
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 100, 10).display().to_string();
    let run = |options: &[&str]| {
        let output = mxc(folder.path())
            .args(["compile", "--data", &data])
            .arg(model("resnet20"))
            .args(options)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(run(&[]).contains("--mean"));
    assert_eq!(run(&PREPROCESS), "");
}

#[test]
fn errors_name_the_file_or_option() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    fs::write(folder.join("broken.onnx"), b"not a model").unwrap();
    fs::write(folder.join("broken.mxa"), b"not a package").unwrap();
    assert!(fail(mxc(folder).args(["compile", "missing.onnx"]), 1).contains("missing.onnx"));
    assert!(fail(mxc(folder).args(["compile", "broken.onnx"]), 1).contains("broken.onnx"));
    assert!(fail(mxc(folder).args(["eval", "broken.mxa", "--data", "."]), 1).contains("broken.mxa"));
    assert!(fail(mxc(folder).args(["compile", "x.onnx", "--budget", "many"]), 2).contains("--budget"));
    assert!(fail(mxc(folder).args(["compile", "x.onnx", "--sigma", "6%", "--noise", "x"]), 2).contains("--noise"));
    let resnet = model("resnet20").display().to_string();
    assert!(fail(mxc(folder).args(["compile", &resnet, "--noise", "gausian(sigma=6%)"]), 1).contains("gausian"));
    assert!(fail(mxc(folder).args(["compile", &resnet, "--data", "nowhere"]), 1).contains("nowhere"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing half-written is left");
}
