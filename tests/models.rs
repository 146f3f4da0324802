//! The four example networks against onnxruntime: clean inference, and the exported network with its denoisers.

use crate::{
    common::{MODELS, model, mxc, onnxruntime, small_fashion, succeed},
    reference::{Array, Upstream},
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};
use tempfile::TempDir;

const SAMPLES: usize = 37;

/// `SAMPLES` smooth images as `in.npz`.
fn write_inputs(folder: &Path) {
    let mut writer = NpzWriter::new(File::create(folder.join("in.npz")).unwrap());
    let images = ArrayD::from_shape_fn(IxDyn(&[SAMPLES, 1, 28, 28]), |index| {
        let [n, _, y, x] = [index[0], index[1], index[2], index[3]].map(|i| i as f32);
        (0.3 * y + 0.11 * n).sin() * (0.2 * x - 0.07 * n).cos() * 1.5 - 0.2
    });
    writer.add_array("input", &images).unwrap();
    writer.finish().unwrap();
}

fn logits(path: &Path) -> ArrayD<f32> {
    NpzReader::new(File::open(path).unwrap()).unwrap().by_name("logits").unwrap()
}

fn reference(python: &Path, folder: &Path, model: &Path, output: &str) {
    let script = "
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
numpy.savez(sys.argv[2], logits=session.run(['logits'], {'input': numpy.load('in.npz')['input']})[0])
";
    succeed(Command::new(python).args(["-c", script]).arg(model).arg(output).current_dir(folder));
}

/// Largest difference over the largest reference value: f32 rounding through some twenty layers stays well below 1e-4.
fn assert_close(found: &ArrayD<f32>, expected: &ArrayD<f32>, name: &str) {
    assert_eq!(found.shape(), expected.shape());
    let scale = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(worst <= 1e-4 * scale, "{name}: {worst} of {scale}");
}

#[test]
fn clean_inference_agrees_with_onnxruntime() {
    let Some(python) = onnxruntime() else { return };
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    for name in MODELS {
        succeed(mxc(folder).arg("run").arg(model(name)).args(["--input", "in.npz", "-o", "ours.npz"]));
        reference(&python, folder, &model(name), "theirs.npz");
        assert_close(&logits(&folder.join("ours.npz")), &logits(&folder.join("theirs.npz")), name);
    }
}

#[test]
fn export_agrees_with_onnxruntime() {
    let Some(python) = onnxruntime() else { return };
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 400, 50).display().to_string();
    let folder = folder.path();
    write_inputs(folder);
    for (name, denoiser) in [("resnet20", "paper+affine"), ("densenet", "mean+affine")] {
        succeed(
            mxc(folder)
                .args(["compile", "-o", "m.mxa", "--samples", "32", "--data", &data, "--placement", "greedy-fill"])
                .args(["--mean", "0.2860", "--std", "0.3530", "--sigma", "20%", "--denoiser", denoiser])
                .arg(model(name)),
        );
        succeed(mxc(folder).args(["finetune", "m.mxa", "--epochs", "1", "--data", &data]));
        succeed(mxc(folder).args(["export", "m.tuned.mxa", "-o", "m.onnx"]));
        succeed(mxc(folder).args(["run", "m.tuned.mxa", "--input", "in.npz", "-o", "ours.npz"]));
        reference(&python, folder, &folder.join("m.onnx"), "theirs.npz");
        reference(&python, folder, &model(name), "bare.npz");
        let (ours, bare) = (logits(&folder.join("ours.npz")), logits(&folder.join("bare.npz")));
        assert_close(&ours, &logits(&folder.join("theirs.npz")), name);
        assert!(ours.iter().zip(&bare).any(|(a, b)| (a - b).abs() > 1e-3), "{name}: training changed something");
    }
}

/// `--emit graph --inline-weights` lowers through upstream's tosa-to-linalg to LLVM and computes what mxc computes.
#[test]
fn graph_level_runs_through_upstream() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    let images: ArrayD<f32> =
        NpzReader::new(File::open(folder.join("in.npz")).unwrap()).unwrap().by_name("input").unwrap();
    let two = Array { shape: vec![2, 1, 28, 28], values: images.iter().take(2 * 28 * 28).copied().collect() };
    let context = mxc_dialects::new_context();
    let mut upstream = Upstream::default();
    let mut expected = Vec::new();
    for name in MODELS {
        let graph = folder.join("graph.mlir");
        succeed(
            mxc(folder).arg("compile").arg(model(name)).args(["--emit", "graph", "--inline-weights", "-o"]).arg(&graph),
        );
        let module = mxc_dialects::ir::parse(&context, &fs::read(&graph).unwrap(), name).unwrap();
        upstream.add(name, &module, &[&two]);
        succeed(mxc(folder).arg("run").arg(model(name)).args(["--input", "in.npz", "-o", "ours.npz"]));
        expected.push(logits(&folder.join("ours.npz")).slice_move(ndarray::s![..2, ..]).into_dyn());
    }
    for ((found, expected), name) in upstream.run().into_iter().zip(&expected).zip(MODELS) {
        let found = ArrayD::from_shape_vec(IxDyn(&found.shape), found.values).unwrap();
        assert_close(&found, expected, name);
    }
}
