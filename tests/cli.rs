//! The command line end to end, on a trained model and the first images of Fashion-MNIST.

use crate::common::{fail, json, model, mxc, mxc_with_signals, small_fashion, succeed};
use ndarray::{Array2, Array4};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const PREPROCESS: [&str; 4] = ["--mean", "0.2860", "--std", "0.3530"];

/// A folder with a small data set and a compiled package.
pub fn compiled(options: &[&str]) -> (TempDir, String) {
    compiled_under(["--sigma", "20%"], options)
}

fn compiled_under(noise: [&str; 2], options: &[&str]) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 600, 200).display().to_string();
    succeed(
        mxc(folder.path())
            .args(["compile", "--samples", "64", "-o", "model.mxa", "--data", &data])
            .arg(model("resnet20"))
            .args(noise)
            .args(PREPROCESS)
            .args(options),
    );
    (folder, data)
}

/// The bytes of a package's entry.
pub fn entry(package: &Path, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(fs::File::open(package).unwrap()).unwrap();
    let mut file = archive.by_name(name).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

#[test]
fn compile_finetune_eval() {
    let fresh = ["--equalize", "no", "--init", "identity"];
    let (folder, data) = compiled(&[&["--denoiser", "mean+affine"], &fresh[..]].concat());
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
    for same in ["noisy", "clean", "samples", "parameters"] {
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
fn a_tosa_module_of_another_front_end() {
    // What torch-mlir makes of Conv → BatchNorm → ReLU → mean → Linear: a batch of 1, NCHW, weights as resources, no names.
    let hex = |values: &[f32]| -> String {
        values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02X}")).collect()
    };
    let (conv, variance, linear) = ([1.0, -2.0, 0.5, 3.0], [3.0, 0.0], [1.0, 0.0, -1.0, 0.5, 0.25, 2.0]);
    let text = format!(
        r#"module {{
  func.func @main(%arg0: tensor<1x2x2x2xf32>) -> tensor<1x3xf32> {{
    %w = "tosa.const"() <{{values = dense_resource<conv> : tensor<2x1x1x2xf32>}}> : () -> tensor<2x1x1x2xf32>
    %variance = "tosa.const"() <{{values = dense_resource<variance> : tensor<2xf32>}}> : () -> tensor<2xf32>
    %linear = "tosa.const"() <{{values = dense_resource<linear> : tensor<3x2xf32>}}> : () -> tensor<3x2xf32>
    %b = "tosa.const"() <{{values = dense<0.0> : tensor<2xf32>}}> : () -> tensor<2xf32>
    %z = "tosa.const"() <{{values = dense<0.0> : tensor<1xf32>}}> : () -> tensor<1xf32>
    %i = "tosa.const"() <{{values = dense<0> : tensor<1xi8>}}> : () -> tensor<1xi8>
    %one = "tosa.const"() <{{values = dense<1.0> : tensor<1xf32>}}> : () -> tensor<1xf32>
    %shift = "tosa.const"() <{{values = dense<[[[[0.5]], [[-1.0]]]]> : tensor<1x2x1x1xf32>}}> : () -> tensor<1x2x1x1xf32>
    %quarter = "tosa.const"() <{{values = dense<0.25> : tensor<1x1x1x1xf32>}}> : () -> tensor<1x1x1x1xf32>
    %s4 = tosa.const_shape {{values = dense<[1, 2, 1, 1]> : tensor<4xindex>}} : () -> !tosa.shape<4>
    %s3 = tosa.const_shape {{values = dense<[1, 1, 2]> : tensor<3xindex>}} : () -> !tosa.shape<3>
    %s3w = tosa.const_shape {{values = dense<[1, 2, 3]> : tensor<3xindex>}} : () -> !tosa.shape<3>
    %s2 = tosa.const_shape {{values = dense<[1, 3]> : tensor<2xindex>}} : () -> !tosa.shape<2>
    %0 = tosa.transpose %arg0 {{perms = array<i32: 0, 2, 3, 1>}} : (tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
    %1 = tosa.conv2d %0, %w, %b, %z, %z {{acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>}} : (tensor<1x2x2x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x2x2x2xf32>
    %2 = tosa.transpose %1 {{perms = array<i32: 0, 3, 1, 2>}} : (tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
    %3 = tosa.add %variance, %one : (tensor<2xf32>, tensor<1xf32>) -> tensor<2xf32>
    %4 = tosa.rsqrt %3 : (tensor<2xf32>) -> tensor<2xf32>
    %5 = tosa.reshape %4, %s4 : (tensor<2xf32>, !tosa.shape<4>) -> tensor<1x2x1x1xf32>
    %6 = tosa.mul %2, %5, %i : (tensor<1x2x2x2xf32>, tensor<1x2x1x1xf32>, tensor<1xi8>) -> tensor<1x2x2x2xf32>
    %7 = tosa.add %6, %shift : (tensor<1x2x2x2xf32>, tensor<1x2x1x1xf32>) -> tensor<1x2x2x2xf32>
    %8 = tosa.clamp %7 {{min_val = 0.0 : f32, max_val = 3.40282347E+38 : f32}} : (tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
    %9 = tosa.reduce_sum %8 {{axis = 2 : i32}} : (tensor<1x2x2x2xf32>) -> tensor<1x2x1x2xf32>
    %10 = tosa.reduce_sum %9 {{axis = 3 : i32}} : (tensor<1x2x1x2xf32>) -> tensor<1x2x1x1xf32>
    %11 = tosa.mul %10, %quarter, %i : (tensor<1x2x1x1xf32>, tensor<1x1x1x1xf32>, tensor<1xi8>) -> tensor<1x2x1x1xf32>
    %12 = tosa.transpose %linear {{perms = array<i32: 1, 0>}} : (tensor<3x2xf32>) -> tensor<2x3xf32>
    %13 = tosa.reshape %11, %s3 : (tensor<1x2x1x1xf32>, !tosa.shape<3>) -> tensor<1x1x2xf32>
    %14 = tosa.reshape %12, %s3w : (tensor<2x3xf32>, !tosa.shape<3>) -> tensor<1x2x3xf32>
    %15 = tosa.matmul %13, %14, %z, %z : (tensor<1x1x2xf32>, tensor<1x2x3xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x1x3xf32>
    %16 = tosa.reshape %15, %s2 : (tensor<1x1x3xf32>, !tosa.shape<2>) -> tensor<1x3xf32>
    return %16 : tensor<1x3xf32>
  }}
}}
{{-#
  dialect_resources: {{
    builtin: {{
      conv: "0x04000000{}",
      variance: "0x04000000{}",
      linear: "0x04000000{}"
    }}
  }}
#-}}
"#,
        hex(&conv),
        hex(&variance),
        hex(&linear)
    );
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("net.mlir"), text).unwrap();
    let images =
        Array4::from_shape_fn((3, 2, 2, 2), |(n, c, h, w)| ((3 * n + 5 * c + 2 * h + w) % 7) as f32 / 2.0 - 1.5);
    let expected = Array2::from_shape_fn((3, 3), |(n, output)| {
        let mean = |channel: usize| {
            let pixel = |h: usize, w: usize| {
                let sum: f32 = (0..2).map(|c| conv[2 * channel + c] * images[[n, c, h, w]]).sum();
                (sum / (variance[channel] + 1.0_f32).sqrt() + [0.5, -1.0][channel]).max(0.0)
            };
            (pixel(0, 0) + pixel(0, 1) + pixel(1, 0) + pixel(1, 1)) / 4.0
        };
        (0..2).map(|channel| linear[2 * output + channel] * mean(channel)).sum::<f32>()
    });
    let mut writer = NpzWriter::new(fs::File::create(folder.join("in.npz")).unwrap());
    writer.add_array("x", &images).unwrap();
    writer.finish().unwrap();
    let report = json(mxc(folder).args(["compile", "net.mlir", "--samples", "8", "--budget", "500%", "--json"]));
    // The BatchNorm is folded: 4 weights and 2 biases, 6 weights.
    assert_eq!(report["parameters"]["backbone"], 12);
    assert_eq!(report["layers"].as_array().unwrap().len(), 2);
    for model in ["net.mlir", "net.mxa"] {
        succeed(mxc(folder).args(["run", model, "--input", "in.npz", "-o", "out.npz"]));
        let found: Array2<f32> =
            NpzReader::new(fs::File::open(folder.join("out.npz")).unwrap()).unwrap().by_index(0).unwrap();
        let worst = (&found - &expected).mapv(f32::abs).fold(0.0, |a: f32, b| a.max(*b));
        assert!(worst < 1e-5, "{model}: {found} instead of {expected}");
    }
}

#[test]
fn effective_noise_of_every_layer() {
    let fresh = ["--equalize", "no", "--init", "identity"];
    let (folder, data) = compiled(&[&["--denoiser", "mean+affine"], &fresh[..]].concat());
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
fn uniform_noise_from_compile_to_eval() {
    let (folder, data) = compiled_under(["--noise", "uniform(width=20%)"], &[]);
    let run = |arguments: &[&str]| json(mxc(folder.path()).args(arguments).args(["--json", "--data", &data]));
    let eval = |threads: &str, noise: &[&str]| {
        run(&[&["eval", "model.mxa", "--seeds", "2", "--limit", "100", "--threads", threads], noise].concat())
    };
    let report = eval("2", &[]);
    assert_eq!(report["noise"]["spec"], "uniform(width=20%)");
    assert_eq!(report, eval("1", &[]), "the threads do not matter");
    assert_ne!(report["noisy"], eval("1", &["--noise", "uniform(width=200%)"])["noisy"]);
    // σ = width/√12: 20·log₁₀(√12/0.2) = 24.77 dB; see the test of Gaussian noise.
    let layers = run(&["inspect", "model.mxa", "--samples", "64"]);
    let snr = layers["layers"][0]["snr_db"].as_f64().unwrap();
    assert!((snr - 24.77).abs() < 0.2, "{snr}");
    run(&["finetune", "model.mxa", "--epochs", "1", "--limit", "64", "--noise", "uniform(width=20%,lifetime=chip)"]);
    let tuned = json(mxc(folder.path()).args(["inspect", "model.tuned.mxa", "--json"]));
    assert_eq!(tuned["training"]["noise"]["spec"], "uniform(width=20%,lifetime=chip)");
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

/// Features are matched where that is asked for, which the package says; the bytes do not depend on threads.
#[test]
fn features_are_matched() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let tuned = |weight: &str, threads: &str| {
        let output = format!("tuned{weight}-{threads}.mxa");
        let own = ["--epochs", "1", "--limit", "200", "--match-features", weight, "--threads", threads, "-o", &output];
        succeed(mxc(folder).args(["finetune", "model.mxa", "--recipe", "best", "--data", &data]).args(own));
        (fs::read(folder.join(&output)).unwrap(), json(mxc(folder).args(["inspect", &output, "--json"])))
    };
    let ((without, _), (with, inspected)) = (tuned("0", "2"), tuned("0.5", "2"));
    assert!(with != without && with == tuned("0.5", "1").0);
    assert_eq!(inspected["training"]["features"], 0.5);
    let wrong = ["finetune", "model.mxa", "--match-features=-1", "--data", &data];
    let message = fail(mxc(folder).args(wrong), 1);
    assert!(message.contains("--match-features -1 must be 0 or more"), "{message}");
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

/// One of several processes that MPI has started says that it cannot speak with the others, and does not do all the work; what is not
/// shared says so. The first says it. One that is alone goes on.
#[test]
fn processes_that_mpi_has_started_are_told_what_they_lack() {
    let folder = TempDir::new().unwrap();
    for (rank_name, count_name) in [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")] {
        let one_of = |rank: &str, count: &str, arguments: &[&str]| {
            let mut command = mxc(folder.path());
            command.args(arguments).envs([(rank_name, rank), (count_name, count)]);
            command
        };
        let tune = ["finetune", "missing.mxa", "--data", "missing"];
        let message = fail(&mut one_of("0", "4", &tune), 1);
        assert!(message.contains("built without MPI") && message.contains("make mpi"), "{message}");
        assert_eq!(succeed(&mut one_of("3", "4", &tune)), "");
        let message = fail(&mut one_of("0", "4", &["inspect", "missing.mxa"]), 1);
        assert!(message.contains("only finetune is shared by them, and eval --shard takes a part"), "{message}");
        let shard = ["eval", "missing.mxa", "--data", "missing", "--shard", "1/4", "-o", "part.json"];
        for (count, arguments) in [("4", &shard[..]), ("1", &tune), ("1", &["inspect", "missing.mxa"])] {
            let message = fail(&mut one_of("0", count, arguments), 1);
            assert!(message.contains("missing.mxa"), "{message}");
        }
    }
}

/// Sends a signal to a running command.
fn send(signal: &str, child: &Child) {
    succeed(std::process::Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]));
}

#[test]
fn interrupted_finetune_says_how_to_go_on() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let arguments = ["finetune", "model.mxa", "--epochs", "30", "--batch", "16", "--data", &data];
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let name = format!("{signal}.mxa");
        let mut child =
            mxc_with_signals(folder).args(arguments).args(["-o", &name]).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take();
        if signal == "HUP" {
            // Its terminal is gone.
            stderr = None;
        }
        let checkpoint = folder.join(format!("{name}.ckpt"));
        while !checkpoint.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        let before = fs::metadata(&checkpoint).unwrap().modified().unwrap();
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{signal}");
        assert!(fs::metadata(&checkpoint).unwrap().modified().unwrap() > before, "SIG{signal}: the state is saved");
        assert!(!folder.join(&name).exists());
        if let Some(mut stderr) = stderr {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
            assert!(text.contains("--resume"), "{text}");
        }
    }
    let other = ["--lr", "0.5", "--resume", "-o", "TERM.mxa"];
    assert!(fail(mxc(folder).args(arguments).args(other), 1).contains("--lr"));
}

#[test]
fn a_signal_ends_any_command_with_its_code() {
    let (folder, data) = compiled(&[]);
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let arguments = ["eval", "model.mxa", "--seeds", "100000", "--data", &data];
        let mut child = mxc_with_signals(folder.path()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        // The first line of progress comes after a second: the command is at work.
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("eval"), "{line}");
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{signal}");
    }
}

#[test]
fn shares_over_one_need_their_sign() {
    let folder = TempDir::new().unwrap();
    let resnet = model("resnet20").display().to_string();
    for (arguments, meant) in [
        (["--budget", "4"], "did you mean 4%?"),
        (["--sigma", "6"], "did you mean 6%?"),
        (["--noise", "gaussian(sigma=6)"], "did you mean 6%?"),
        (["--noise", "6"], "did you mean 6%?"),
        (["--noise", "gaussian(sigma=6%,mu=1.5)"], "did you mean 1.5%?"),
    ] {
        let error = fail(mxc(folder.path()).args(["compile", &resnet]).args(arguments), 2);
        assert!(error.contains(meant) && error.contains(arguments[0]), "{error}");
        let tuned = ["eval", "m.mxa", "--data", "d"];
        if arguments[0] != "--budget" {
            assert!(fail(mxc(folder.path()).args(tuned).args(arguments), 2).contains(meant));
        }
    }
    for pipeline in
        ["insert-denoisers{budget=4}", "annotate-noise{spec=gaussian(sigma=4)}", "annotate-noise{layer:a=4}"]
    {
        let error = fail(mxc(folder.path()).args(["opt", "-", "--pass-pipeline", pipeline]), 2);
        assert!(error.contains("did you mean 4%?"), "{error}");
    }
    for budget in ["300%", "1", "0.04", "4%"] {
        succeed(mxc(folder.path()).args(["compile", &resnet, "--samples", "4", "--budget", budget]));
    }
}

/// A layer with a block and an affine is lowered as one, whatever freed memory holds.
#[test]
fn lowering_reads_no_freed_memory() {
    let (folder, data) = compiled(&["--denoiser", "mean+affine", "--placement", "greedy-fill", "--budget", "100%"]);
    let eval = ["eval", "model.mxa", "--seeds", "1", "--limit", "4", "--digital", "fixed", "--json", "--data", &data];
    let expected = succeed(mxc(folder.path()).args(eval));
    for perturb in ["1", "5", "85", "127", "165", "201", "240", "255"] {
        let found = succeed(mxc(folder.path()).args(eval).env("MALLOC_PERTURB_", perturb));
        assert_eq!(found, expected, "MALLOC_PERTURB_={perturb}");
    }
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
    for command in ["compile", "finetune", "eval", "merge", "run", "inspect", "opt", "export", "report"] {
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
    assert!(fail(mxc(folder).args(["compile", &resnet, "--noise", "gausian(sigma=6%)"]), 2).contains("gausian"));
    assert!(fail(mxc(folder).args(["compile", &resnet, "--data", "nowhere"]), 1).contains("nowhere"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing half-written is left");
}
