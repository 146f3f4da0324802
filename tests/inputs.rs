//! What the commands take: arrays of any rank, bytes, class folders, open sizes, models of several outputs; and that no command
//! replaces what it takes.

use crate::{
    common::{fail, json, mxc, succeed},
    onnx_model::{Model, int, ints},
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter, WritableElement};
use serde_json::Value;
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};
use tempfile::TempDir;

/// Writes arrays as an `.npz`.
fn npz<T: WritableElement + Clone>(path: &Path, x: ArrayD<T>, labels: Option<&[i64]>) {
    let mut writer = NpzWriter::new(File::create(path).unwrap());
    writer.add_array("x", &x).unwrap();
    if let Some(labels) = labels {
        writer.add_array("y", &ndarray::Array1::from(labels.to_vec())).unwrap();
    }
    writer.finish().unwrap();
}

/// Values between -1 and 1.
fn numbers(shape: &[usize]) -> ArrayD<f32> {
    let mut state = 7u32;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// The largest difference.
fn off(a: &ArrayD<f32>, b: &ArrayD<f32>) -> f32 {
    assert_eq!(a.shape(), b.shape());
    (a - b).mapv(f32::abs).fold(0.0, |most, &value| most.max(value))
}

fn output(folder: &Path, name: &str) -> ArrayD<f32> {
    NpzReader::new(File::open(folder.join("out.npz")).unwrap()).unwrap().by_name(name).unwrap()
}

/// Conv → GlobalAveragePool → Flatten → MatMul on `[N, 3, 8, 8]`, from the value `x` on.
fn classifier(model: Model) -> Model {
    model
        .weight("w", &[8, 3, 3, 3])
        .weight("v", &[8, 10])
        .node("conv", "Conv", "x w", "c", &[])
        .node("pool", "GlobalAveragePool", "c", "p", &[])
        .node("flatten", "Flatten", "p", "q", &[])
        .node("classes", "MatMul", "q v", "y", &[])
}

fn write(folder: &Path, name: &str, model: &Model) {
    fs::write(folder.join(name), model.bytes()).unwrap();
}

/// Floats in an `.npz` are the model's input already: a vector, a sequence, an image, a volume.
#[test]
fn arrays_of_any_rank() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let labels: Vec<i64> = (0..24).map(|index| index % 5).collect();
    let dense = |model: Model, inputs: i64| {
        model.weight("w", &[inputs, 8]).weight("v", &[8, 5]).node("hidden", "MatMul", "f w", "h", &[]).node(
            "relu",
            "Relu",
            "h",
            "r",
            &[],
        )
    };
    for shape in [&[12][..], &[4, 6], &[3, 4, 2], &[2, 3, 2, 4]] {
        let count: usize = shape.iter().product();
        let dims: Vec<i64> = [0].into_iter().chain(shape.iter().map(|&size| size as i64)).collect();
        let model = Model::new().input("x", &dims).node("flatten", "Flatten", "x", "f", &[]);
        let model = dense(model, count as i64).node("classes", "MatMul", "r v", "y", &[]).output("y");
        write(folder, "m.onnx", &model);
        let full: Vec<usize> = [24].into_iter().chain(shape.iter().copied()).collect();
        npz(&folder.join("d.npz"), numbers(&full), Some(&labels));
        let options = ["--budget", "300%", "--denoiser", "affine", "--samples", "24", "--json"];
        for data in [&["--data", "d.npz"][..], &[]] {
            let report = json(mxc(folder).args(["compile", "m.onnx"]).args(options).args(data));
            assert_eq!(report["layers"].as_array().unwrap().len(), 2, "{shape:?}");
            succeed(mxc(folder).args(["finetune", "m.mxa", "--epochs", "1", "--batch", "8", "--data", "d.npz"]));
            let report = json(mxc(folder).args(["eval", "m.tuned.mxa", "--seeds", "1", "--json", "--data", "d.npz"]));
            assert_eq!(report["samples"], 24);
            let report = json(mxc(folder).args(["inspect", "m.tuned.mxa", "--json", "--data", "d.npz"]));
            assert_eq!(report["samples"], 24);
        }
        // Clean accuracy is that of raw inference.
        succeed(mxc(folder).args(["run", "m.onnx", "--input", "d.npz", "-o", "out.npz"]).args(["--quiet"]));
        // Samples of another shape are refused.
        let wrong: Vec<usize> = full.iter().map(|size| size + 1).collect();
        npz(&folder.join("wrong.npz"), numbers(&wrong), None);
        let error = fail(mxc(folder).args(["compile", "m.onnx", "--data", "wrong.npz"]), 1);
        assert!(error.contains("wrong.npz") && error.contains("where the model takes"), "{error}");
    }
}

/// A model of bytes that scales them itself gives what the model of floats gives on the scaled bytes.
#[test]
fn models_of_bytes() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    for class in 0..10u8 {
        fs::create_dir_all(folder.join(format!("d/{class}"))).unwrap();
        for image in 0..4u8 {
            let pixels: Vec<u8> =
                (0..192).map(|at: usize| (at * 7 + at * at % 31) as u8 ^ (class * 23 + image * 5)).collect();
            let path = folder.join(format!("d/{class}/{image}.png"));
            image::save_buffer(path, &pixels, 8, 8, image::ExtendedColorType::Rgb8).unwrap();
        }
    }
    let scaled = |model: Model| {
        let model = model.node("cast", "Cast", "bytes", "f", &[int("to", 1)]).floats("k", &[], &[255.0]);
        model.node("scale", "Div", "f k", "s", &[])
    };
    write(folder, "floats.onnx", &classifier(Model::new().input("x", &[0, 3, 8, 8])).output("y"));
    let planes = scaled(Model::new().bytes_input("bytes", &[0, 3, 8, 8]));
    write(folder, "planes.onnx", &classifier(planes.node("id", "Identity", "s", "x", &[])).output("y"));
    let pixels = scaled(Model::new().bytes_input("bytes", &[0, 8, 8, 3]));
    let pixels = pixels.node("transpose", "Transpose", "s", "x", &[ints("perm", &[0, 3, 1, 2])]);
    write(folder, "pixels.onnx", &classifier(pixels).output("y"));
    let number = |value: &Value| value.as_f64().unwrap();
    let compile = |name: &str| {
        let arguments = ["compile", name, "--data", "d", "--budget", "300%", "--denoiser", "affine", "--json"];
        json(mxc(folder).args(arguments).args(["--init", "identity"]))["layers"].as_array().unwrap().clone()
    };
    let eval =
        |name: &str| json(mxc(folder).args(["eval", name, "--data", "d", "--seeds", "1", "--sigma", "0%", "--json"]));
    let (layers, accuracy) = (compile("floats.onnx"), eval("floats.mxa"));
    for name in ["planes", "pixels"] {
        // The same bytes divided once more or less in f32: a few ulps.
        for (found, wanted) in compile(&format!("{name}.onnx")).iter().zip(&layers) {
            for key in ["reference", "gradient_norm"] {
                let (found, wanted) = (number(&found[key]), number(&wanted[key]));
                assert!((found - wanted).abs() <= 1e-5 * wanted.abs(), "{name} {key}: {found} for {wanted}");
            }
        }
        let package = format!("{name}.mxa");
        assert_eq!(eval(&package)["clean"], accuracy["clean"], "{name}");
        succeed(mxc(folder).args(["finetune", &package, "--data", "d", "--epochs", "1", "--batch", "8"]));
        // Without data the synthetic inputs are bytes, too.
        let synthetic = json(mxc(folder).args(["compile", &format!("{name}.onnx"), "--json", "-o", "s.mxa"]));
        assert!(number(&synthetic["layers"][0]["reference"]) > 0.05, "{synthetic}");
        // The pass alone reads the same bytes.
        succeed(mxc(folder).args([
            "compile",
            &format!("{name}.onnx"),
            "--emit",
            "analog",
            "--inline-weights",
            "-o",
            "a.mlir",
        ]));
        let pipeline = "--pass-pipeline=rank-sensitivity{data=d samples=40}";
        let text = succeed(mxc(folder).args(["opt", "a.mlir", pipeline]));
        // The division is folded into the convolution, which so reads the bytes themselves.
        let largest = text.split("input_absmax = ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        assert!(largest.is_some_and(|largest| largest > 200.0 && largest <= 255.0), "{name}: {largest:?}");
        let error = fail(mxc(folder).args(["compile", &format!("{name}.onnx"), "--mean", "0.5"]), 1);
        assert!(error.contains("--mean") && error.contains("bytes"), "{error}");
    }
    // Raw inference takes arrays of bytes.
    let bytes = ArrayD::from_shape_fn(IxDyn(&[2, 3, 8, 8]), |at| (at[0] * 31 + at[1] * 17 + at[2] * 9 + at[3]) as u8);
    npz(&folder.join("bytes.npz"), bytes.clone(), None);
    npz(&folder.join("scaled.npz"), bytes.mapv(|byte| f32::from(byte) / 255.0), None);
    let run = |model: &str, input: &str| {
        succeed(mxc(folder).args(["run", model, "--input", input, "-o", "out.npz"]));
        output(folder, "y")
    };
    let wanted = run("floats.onnx", "scaled.npz");
    for model in ["planes.onnx", "planes.mxa"] {
        let off = off(&run(model, "bytes.npz"), &wanted);
        assert!(off < 1e-5, "{model}: {off}");
    }
}

/// A folder whose class folders are not as many as the outputs cannot tell their numbers.
#[test]
fn class_folders_are_numbered_as_the_outputs() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let levels = [40u8, 100, 160, 220];
    for (split, left_out) in [("train", None), ("val", Some(1))] {
        for (class, level) in levels.iter().enumerate().filter(|(class, _)| Some(*class) != left_out) {
            let class = folder.join(format!("s/{split}/class{class}"));
            fs::create_dir_all(&class).unwrap();
            for image in 0..8 {
                let path = class.join(format!("{image}.png"));
                image::save_buffer(path, &[*level; 64], 8, 8, image::ExtendedColorType::L8).unwrap();
            }
        }
    }
    // The class whose level is nearest to the image's mean m: 2mc − c².
    let c: Vec<f32> = levels.iter().map(|&level| f32::from(level) / 255.0).collect();
    let model = Model::new()
        .input("x", &[0, 1, 8, 8])
        .floats("w", &[1, 4], &c.iter().map(|c| 200.0 * c).collect::<Vec<_>>())
        .floats("b", &[4], &c.iter().map(|c| -100.0 * c * c).collect::<Vec<_>>())
        .node("pool", "GlobalAveragePool", "x", "p", &[])
        .node("flatten", "Flatten", "p", "f", &[])
        .node("classes", "Gemm", "f w b", "y", &[])
        .output("y");
    write(folder, "m.onnx", &model);
    let options = ["compile", "m.onnx", "--budget", "900%", "--denoiser", "affine", "--data"];
    succeed(mxc(folder).args(options).arg("s/train"));
    let eval = |data: &str, more: &[&str]| {
        let mut command = mxc(folder);
        command.args(["eval", "m.mxa", "--seeds", "1", "--sigma", "0%", "--json", "--data", data]).args(more);
        command
    };
    for data in ["s/train", "s"] {
        assert_eq!(json(&mut eval(data, &[]))["clean"]["top1"], 100.0, "{data}");
    }
    fs::write(folder.join("all"), "class0\nclass1\n\nclass2\nclass3\n").unwrap();
    assert_eq!(json(&mut eval("s/val", &["--classes", "all"]))["clean"]["top1"], 100.0);
    let says = |error: String| {
        for part in ["3 class folders", "4 outputs", "--classes", "train/"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    says(fail(&mut eval("s/val", &[]), 1));
    says(fail(mxc(folder).args(options).arg("s/val"), 1));
    says(fail(mxc(folder).args(["finetune", "m.mxa", "--loss", "cross-entropy", "--data", "s/val"]), 1));
    says(fail(mxc(folder).args(["inspect", "m.mxa", "--data", "s/val"]), 1));
    for data in ["s/val", "s"] {
        let classes = ["--classes", "all"];
        succeed(mxc(folder).args(options).arg(data).args(classes).args(["-o", "c.mxa"]));
        succeed(mxc(folder).args(["finetune", "c.mxa", "--epochs", "1", "--data", data]).args(classes));
        succeed(mxc(folder).args(["inspect", "c.mxa", "--data", data]).args(classes));
    }
    // The list names every output once, and every folder.
    for (list, part) in [
        ("class0\nclass2\nclass3\n", "3 class folders, the network has 4 outputs"),
        ("class0\nclass1\nclass2\nclass2\n", "'class2' twice"),
        ("a\nclass1\nclass2\nclass3\n", "class0: it is not named by --classes"),
        ("\n", "names no class"),
    ] {
        fs::write(folder.join("list"), list).unwrap();
        let error = fail(&mut eval("s/val", &["--classes", "list"]), 1);
        assert!(error.contains(part), "{part}: {error}");
    }
    // A training split that lacks a class numbers nothing.
    fs::remove_dir_all(folder.join("s/train/class3")).unwrap();
    fs::remove_dir_all(folder.join("s/val/class3")).unwrap();
    let error = fail(&mut eval("s", &[]), 1);
    assert!(error.contains("train has 3 class folders"), "{error}");
    npz(&folder.join("d.npz"), numbers(&[2, 1, 8, 8]), Some(&[0, 1]));
    assert!(fail(&mut eval("d.npz", &["--classes", "all"]), 1).contains("--classes"));
}

/// Of several outputs one holds the logits.
#[test]
fn logits_are_chosen() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let several = |order: [&str; 3]| {
        let model = classifier(Model::new().input("x", &[0, 3, 8, 8]));
        let model = model.node("best", "ArgMax", "y", "a", &[int("axis", 1)]);
        order.into_iter().fold(model, |model, name| model.output(name))
    };
    let x = numbers(&[20, 3, 8, 8]);
    write(folder, "one.onnx", &classifier(Model::new().input("x", &[0, 3, 8, 8])).output("y"));
    npz(&folder.join("in.npz"), x.clone(), None);
    succeed(mxc(folder).args(["run", "one.onnx", "--input", "in.npz", "-o", "out.npz"]));
    let logits = output(folder, "y");
    let best = |row: ndarray::ArrayView1<'_, f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let logits = logits.into_dimensionality::<ndarray::Ix2>().unwrap();
    let labels: Vec<i64> = logits.rows().into_iter().map(|row| best(row) as i64).collect();
    npz(&folder.join("d.npz"), x, Some(&labels));
    let compile = |model: &str, more: &[&str]| {
        let mut command = mxc(folder);
        command.args(["compile", model, "--budget", "300%", "--denoiser", "affine", "--data", "d.npz", "-o", "m.mxa"]);
        command.args(more);
        command
    };
    let right =
        || json(mxc(folder).args(["eval", "m.mxa", "--seeds", "1", "--json", "--data", "d.npz"]))["clean"].clone();
    let layers = |command: &mut std::process::Command| json(command.arg("--json"))["layers"].clone();
    let wanted = layers(&mut compile("one.onnx", &[])).as_array().unwrap().clone();
    let note = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!note(&mut compile("one.onnx", &[])).contains("logits"), "there is no choice");
    // Integers are no logits; features are, unless somebody says otherwise.
    for (order, more) in [(["a", "y", "q"], None), (["q", "a", "y"], Some("y")), (["y", "q", "a"], None)] {
        write(folder, "several.onnx", &several(order));
        let more: Vec<&str> = more.into_iter().flat_map(|name| ["--logits", name]).collect();
        // Another output may keep a reshape from moving: the same sums in another order.
        for (found, wanted) in layers(&mut compile("several.onnx", &more)).as_array().unwrap().iter().zip(&wanted) {
            assert_eq!(found["name"], wanted["name"], "{order:?}");
            let (found, wanted) = (&found["gradient_norm"], &wanted["gradient_norm"]);
            let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
            assert!((found - wanted).abs() <= 1e-5 * wanted, "{order:?}: {found} for {wanted}");
        }
        assert_eq!(right()["top1"], 100.0, "{order:?}");
        let said = note(&mut compile("several.onnx", &more));
        assert_eq!(said.contains("'y' is taken for the logits"), more.is_empty(), "{said}");
        succeed(mxc(folder).args(["finetune", "m.mxa", "--epochs", "1", "--data", "d.npz", "-o", "t.mxa"]));
        succeed(mxc(folder).args(["export", "t.mxa", "-o", "t.onnx"]));
        succeed(mxc(folder).args(["run", "t.mxa", "--input", "in.npz", "-o", "out.npz"]));
        let package = output(folder, "y");
        succeed(mxc(folder).args(["run", "t.onnx", "--input", "in.npz", "-o", "out.npz"]));
        let off = off(&package, &output(folder, "y"));
        assert!(off < 1e-4, "{off}");
    }
    let error = fail(&mut compile("several.onnx", &["--logits", "z"]), 1);
    assert!(error.contains("--logits z") && error.contains("'y', 'q', 'a'"), "{error}");
    assert!(fail(&mut compile("several.onnx", &["--logits", "a"]), 1).contains("integers"));
    // MLIR sources, whose outputs have the names of their attributes or are numbered.
    succeed(mxc(folder).args(["compile", "several.onnx", "--emit", "graph", "--inline-weights", "-o", "several.mlir"]));
    assert!(fail(&mut compile("several.mlir", &["--logits", "z"]), 1).contains("'y', 'q', 'a'"));
    let without_data = |output: &str| layers(mxc(folder).args(["compile", "several.mlir", "--logits", output]));
    assert_ne!(without_data("q"), without_data("y"), "the classifier has no part in the features");
    succeed(&mut compile("several.mlir", &["--logits", "y"]));
    assert_eq!(right()["top1"], 100.0);
}

/// What a model leaves open, the arrays say.
#[test]
fn open_sizes_are_the_arrays() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let mut open = classifier(Model::new().input("x", &[0, 3, 8, 8])).output("y");
    write(folder, "fixed.onnx", &open);
    for axis in [2, 3] {
        let input = &mut open.0.graph.as_mut().unwrap().input[0];
        let shape = input.type_.as_mut().unwrap().mut_tensor_type().shape.as_mut().unwrap();
        shape.dim[axis].set_dim_param(format!("s{axis}"));
    }
    write(folder, "open.onnx", &open);
    let run = |model: &str| {
        succeed(mxc(folder).args(["run", model, "--input", "in.npz", "-o", "out.npz"]));
        output(folder, "y")
    };
    npz(&folder.join("in.npz"), numbers(&[2, 3, 8, 8]), None);
    assert_eq!(run("open.onnx"), run("fixed.onnx"));
    npz(&folder.join("in.npz"), numbers(&[1, 3, 11, 6]), None);
    assert_eq!(run("open.onnx").shape(), [1, 10]);
    npz(&folder.join("in.npz"), numbers(&[1, 4, 8, 8]), None);
    let error = fail(mxc(folder).args(["run", "open.onnx", "--input", "in.npz", "-o", "out.npz"]), 1);
    assert!(error.contains("input 'x'") && error.contains("[N, 3, 8, 8]"), "{error}");
}

/// A batch that is declared dynamic but used as a fixed one.
#[test]
fn a_batch_is_pinned() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let reshaped = |to: &[i64]| {
        Model::new()
            .input("x", &[0, 3, 8, 8])
            .weight("w", &[8, 3, 3, 3])
            .weight("v", &[8, 10])
            .integers("to", to)
            .node("conv", "Conv", "x w", "c", &[])
            .node("pool", "GlobalAveragePool", "c", "p", &[])
            .node("reshape", "Reshape", "p to", "q", &[])
            .node("classes", "MatMul", "q v", "y", &[])
            .output("y")
    };
    write(folder, "any.onnx", &classifier(Model::new().input("x", &[0, 3, 8, 8])).output("y"));
    write(folder, "one.onnx", &reshaped(&[1, 8]));
    write(folder, "four.onnx", &reshaped(&[4, 8]));
    write(folder, "vector.onnx", &reshaped(&[8]));
    npz(&folder.join("one.npz"), numbers(&[1, 3, 8, 8]), None);
    npz(&folder.join("four.npz"), numbers(&[4, 3, 8, 8]), None);
    let run = |model: &str, input: &str| {
        succeed(mxc(folder).args(["run", model, "--input", input, "-o", "out.npz"]));
        output(folder, "y")
    };
    let error = fail(mxc(folder).args(["compile", "one.onnx"]), 1);
    assert!(error.contains("'reshape'") && error.contains("--input-shape 'x=1,3,8,8'"), "{error}");
    let error = fail(mxc(folder).args(["compile", "four.onnx"]), 1);
    assert!(error.contains("'reshape'") && error.contains("--input-shape 'x=SIZE,3,8,8'"), "{error}");
    let options = ["--budget", "300%", "--denoiser", "affine", "--samples", "8"];
    succeed(mxc(folder).args(["compile", "one.onnx", "--input-shape", "x=1,3,8,8"]).args(options));
    let error = fail(mxc(folder).args(["compile", "four.onnx", "--input-shape", "x=2,3,8,8"]), 1);
    assert!(error.contains("'reshape'"), "{error}");
    succeed(mxc(folder).args(["compile", "four.onnx", "--input-shape", "x=4,3,8,8"]).args(options));
    // Samples are independent, so that a package runs on any number of them; the array pins the model's own.
    for (model, input) in
        [("one.mxa", "one.npz"), ("one.mxa", "four.npz"), ("four.mxa", "four.npz"), ("one.onnx", "one.npz")]
    {
        // Folding sums in another order.
        let off = off(&run(model, input), &run("any.onnx", input));
        assert!(off < 1e-5, "{model} on {input}: {off}");
    }
    npz(&folder.join("d.npz"), numbers(&[6, 3, 8, 8]), Some(&[0, 1, 2, 3, 4, 5]));
    // Without any batch axis inside it runs sample by sample.
    succeed(mxc(folder).args(["compile", "vector.onnx", "--input-shape", "x=1,3,8,8"]).args(options));
    let vector = run("vector.mxa", "one.npz");
    assert!(off(&vector.insert_axis(ndarray::Axis(0)), &run("any.onnx", "one.npz")) < 1e-5);
    for name in ["one", "vector"] {
        let (package, tuned) = (format!("{name}.mxa"), format!("{name}.tuned.mxa"));
        succeed(mxc(folder).args(["finetune", &package, "--epochs", "1", "--data", "d.npz"]));
        succeed(mxc(folder).args(["eval", &tuned, "--seeds", "1", "--data", "d.npz"]));
    }
    // What needs no pin keeps its batch.
    succeed(mxc(folder).args(["compile", "any.onnx", "--input-shape", "x=1,3,8,8", "-o", "pinned.mxa"]).args(options));
    succeed(mxc(folder).args(["compile", "any.onnx", "-o", "free.mxa"]).args(options));
    assert!(fs::read(folder.join("pinned.mxa")).unwrap() == fs::read(folder.join("free.mxa")).unwrap());
}

/// Runs a command whose output is one of its inputs: it must leave every file as it is.
fn refuses(folder: &Path, arguments: &[&str]) {
    let contents = || {
        let mut files: Vec<_> = walk(folder).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
        files.sort();
        files
    };
    let before = contents();
    let error = fail(mxc(folder).args(arguments), 1);
    assert!(error.contains("never replaces"), "{arguments:?}: {error}");
    assert!(contents() == before, "{arguments:?} changed a file");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn inputs_are_never_replaced() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let mut model = classifier(Model::new().input("x", &[0, 3, 8, 8])).output("y");
    // One weight lies in a file of its own.
    let weight = &mut model.0.graph.as_mut().unwrap().initializer[0];
    fs::write(folder.join("w.bin"), std::mem::take(&mut weight.raw_data)).unwrap();
    weight.external_data.push(onnx_protobuf::StringStringEntryProto {
        key: "location".into(),
        value: "w.bin".into(),
        ..Default::default()
    });
    weight.data_location = onnx_protobuf::tensor_proto::DataLocation::EXTERNAL.into();
    write(folder, "m.onnx", &model);
    npz(&folder.join("d.npz"), numbers(&[8, 3, 8, 8]), Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
    fs::create_dir_all(folder.join("images/a")).unwrap();
    image::save_buffer(folder.join("images/a/0.png"), &[9; 192], 8, 8, image::ExtendedColorType::Rgb8).unwrap();
    symlink("m.onnx", folder.join("link.onnx")).unwrap();
    fs::hard_link(folder.join("m.onnx"), folder.join("hard.onnx")).unwrap();
    let options = ["--samples", "8", "--budget", "300%", "--denoiser", "affine"];
    let compile = |more: &[&str]| {
        let arguments: Vec<&str> = ["compile"].into_iter().chain(options).chain(more.iter().copied()).collect();
        refuses(folder, &arguments);
    };
    succeed(mxc(folder).args(["compile", "m.onnx"]).args(options));
    fs::copy(folder.join("m.onnx"), folder.join("named.mxa")).unwrap();
    fs::write(folder.join("tile.toml"), mxc_runtime::hardware::Hardware::paper().to_toml()).unwrap();
    fs::write(folder.join("list"), "a\n").unwrap();
    for output in ["m.onnx", "./m.onnx", "images/../m.onnx", "link.onnx", "hard.onnx", "w.bin"] {
        compile(&["m.onnx", "-o", output]);
    }
    compile(&["link.onnx", "-o", "m.onnx"]);
    compile(&["m.onnx", "--emit", "graph", "-o", "m.onnx"]);
    compile(&["named.mxa"]);
    compile(&["m.onnx", "--data", "d.npz", "-o", "d.npz"]);
    compile(&["m.onnx", "--data", "images", "-o", "images/a/0.png"]);
    compile(&["m.onnx", "--hardware", "tile.toml", "-o", "tile.toml"]);
    compile(&["m.onnx", "--data", "images", "--classes", "list", "-o", "list"]);

    let finetune = ["finetune", "m.mxa", "--data", "d.npz", "--epochs", "1"];
    for output in ["m.mxa", "d.npz"] {
        refuses(folder, &[&finetune[..], &["-o", output]].concat());
    }
    // The checkpoint is an output, too.
    fs::copy(folder.join("m.mxa"), folder.join("n.mxa.ckpt")).unwrap();
    refuses(folder, &["finetune", "n.mxa.ckpt", "--data", "d.npz", "-o", "n.mxa"]);
    succeed(mxc(folder).args(finetune));
    // Another default name each time.
    succeed(mxc(folder).args(["finetune", "m.tuned.mxa", "--data", "d.npz", "--epochs", "1"]));
    assert!(folder.join("m.tuned.tuned.mxa").exists());

    for output in ["m.tuned.mxa", "m.onnx", "hard.onnx", "link.onnx", "w.bin"] {
        refuses(folder, &["export", "m.tuned.mxa", "-o", output]);
        refuses(folder, &["export", "m.tuned.mxa", "--source", "m.onnx", "-o", output]);
    }
    fs::create_dir(folder.join("out")).unwrap();
    let error = fail(mxc(folder).args(["export", "m.tuned.mxa", "-o", "out/w.bin"]), 1);
    assert!(error.contains("external data"), "{error}");

    for (model, output) in [("m.onnx", "m.onnx"), ("m.onnx", "d.npz"), ("m.onnx", "w.bin"), ("m.mxa", "m.mxa")] {
        refuses(folder, &["run", model, "--input", "d.npz", "-o", output]);
    }

    succeed(mxc(folder).args(["compile", "m.onnx", "--emit", "graph", "-o", "g.mlir"]));
    let opt = ["opt", "g.mlir", "--weights", "m.mxa", "--pass-pipeline", "canonicalize-graph"];
    for more in [["-o", "g.mlir"], ["-o", "m.mxa"], ["--output-weights", "m.mxa"], ["--reproducer", "g.mlir"]] {
        refuses(folder, &[&opt[..], &more].concat());
    }
    let pipeline = "rank-sensitivity{data=d.npz weights=m.mxa}";
    for output in ["d.npz", "m.mxa"] {
        refuses(folder, &["opt", "g.mlir", "--pass-pipeline", pipeline, "-o", output]);
    }
    // A failing pipeline leaves no reproducer in its input's place.
    fs::copy(folder.join("g.mlir"), folder.join("mxc-reproducer.mlir")).unwrap();
    let before = fs::read(folder.join("mxc-reproducer.mlir")).unwrap();
    fail(mxc(folder).args(["opt", "mxc-reproducer.mlir", "--pass-pipeline", "map-to-analog,insert-denoisers"]), 1);
    assert!(fs::read(folder.join("mxc-reproducer.mlir")).unwrap() == before);

    // Another existing file is replaced as always.
    fs::write(folder.join("other.mxa"), "old").unwrap();
    succeed(mxc(folder).args(["compile", "m.onnx", "-o", "other.mxa"]).args(options));
    assert!(fs::read(folder.join("other.mxa")).unwrap().starts_with(b"PK"));
}
