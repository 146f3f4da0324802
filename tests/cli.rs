//! The command line end to end, on a trained model and the first images of Fashion-MNIST.

use crate::common::{fail, json, model, mxc, small_fashion, succeed};
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
