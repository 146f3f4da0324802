//! Layers that are made of others: transposed and three-dimensional convolutions, recurrent layers, attention. Their values against
//! onnxruntime's (`data/layers.npz`, which `data/layers.py` writes), the analog layers that they become, and all commands on
//! small networks with them.

use crate::{
    common::{json, mxc, succeed},
    onnx_model::{Model, graph, int, ints},
    reference::{Array, cases_of, difference, execute},
};
use melior::Context;
use mxc_compiler::{
    import::{self, ImportOptions, Imported},
    load,
    pass::{PassContext, Pipeline, RunOptions, constants::backbone_parameters, run_pipeline},
    passes::REGISTRY,
};
use mxc_dialects::analog::AnalogOp;
use mxc_runtime::store::WeightStore;
use ndarray::{Array1, Array4, ArrayD};
use ndarray_npy::{NpzReader, NpzWriter};
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};
use std::{collections::BTreeSet, fs, path::Path};

fn imported<'c>(context: &'c Context, bytes: &[u8]) -> Imported<'c> {
    import::onnx_bytes(context, bytes, "model.onnx", Path::new("."), &ImportOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(model: &Model) -> String {
    let context = mxc_dialects::new_context();
    let result = import::onnx_bytes(&context, &model.bytes(), "model.onnx", Path::new("."), &ImportOptions::default());
    result.err().map(|error| error.to_string()).expect("it is refused")
}

/// What `mxc compile` makes of an imported network: its module and weights with analog layers, these layers' names in order.
fn analog<'c>(context: &'c Context, imported: Imported<'c>) -> (melior::ir::Module<'c>, WeightStore, Vec<String>) {
    let (mut module, mut cx) = (imported.module, PassContext::with_weights(imported.weights));
    let pipeline = Pipeline::parse(&REGISTRY, "canonicalize-graph,map-to-analog,annotate-noise").unwrap();
    run_pipeline(context, &mut module, &pipeline, &mut cx, &RunOptions::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let layers = AnalogOp::all(&module).into_iter().map(AnalogOp::layer).collect();
    (module, cx.weights, layers)
}

/// The layers of a model and the backbone's parameters.
fn layers(model: &Model) -> (Vec<String>, u64) {
    let context = mxc_dialects::new_context();
    let (module, weights, layers) = analog(&context, imported(&context, &model.bytes()));
    load::program(&module, &weights).unwrap_or_else(|error| panic!("{error}"));
    (layers, backbone_parameters(&module))
}

#[test]
fn they_compute_what_onnxruntime_does() {
    // Sums of at most some hundred products in another order, through functions that do not amplify.
    const TOLERANCE: f32 = 1e-5;
    let cases = cases_of("layers.npz");
    assert!(cases.len() > 50);
    for case in cases {
        let context = mxc_dialects::new_context();
        let imported = imported(&context, &case.model);
        let names: Vec<_> = imported.source.inputs.iter().map(|input| input.name.clone()).collect();
        let inputs: Vec<&Array> = names.iter().map(|name| &case.inputs[name]).collect();
        let check = |what: &str, module: &melior::ir::Module<'_>, weights: &WeightStore| {
            let results = execute(module, weights, &inputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            for (name, values) in imported.source.outputs.iter().zip(results) {
                let reference = &case.outputs[name];
                let found = Array { shape: reference.shape.clone(), values };
                let distance = difference(&found, reference);
                assert!(distance <= TOLERANCE, "{} {what}: '{name}' differs by {distance}", case.name);
            }
        };
        check("imported", &imported.module, &imported.weights);
        let again = self::imported(&context, &case.model);
        let (module, weights, layers) = analog(&context, again);
        check("with analog layers", &module, &weights);
        match case.name.split('_').next().unwrap() {
            "digital" => assert!(layers.is_empty(), "{}: {layers:?}", case.name),
            // One stationary product, whatever the geometry, a batch normalization behind it included.
            "transposed" | "volume" => {
                assert_eq!(layers, ["layer"], "{}", case.name);
                let mul = mxc_dialects::ir::main_function(&module).and_then(mxc_dialects::ir::entry_block).unwrap();
                let left: BTreeSet<_> =
                    mxc_dialects::ir::block_ops(mul).iter().map(mxc_dialects::ir::op_name).collect();
                assert!(!left.contains("tosa.mul"), "{}: a scale is left", case.name);
            }
            _ => assert!(layers.iter().any(|layer| layer.ends_with("/W")), "{}: {layers:?}", case.name),
        }
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::STRING.into(),
        s: value.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// A recurrent layer of 6 units over 3 steps of 4 numbers, batch first, whose input is an image of one channel.
fn recurrent(op: &str, directions: i64, attributes: &[AttributeProto]) -> Model {
    let gates = match op {
        "LSTM" => 24,
        "GRU" => 18,
        _ => 6,
    };
    let direction = if directions == 2 { "bidirectional" } else { "forward" };
    let attributes = [attributes, &[int("hidden_size", 6), text("direction", direction)]].concat();
    Model::new()
        .input("x", &[0, 1, 3, 4])
        .weight("w", &[directions, gates, 4])
        .weight("r", &[directions, gates, 6])
        .weight("b", &[directions, 2 * gates])
        .weight("v", &[directions * 6, 3])
        .tensor(integers("one", &[1]))
        .node("squeeze", "Squeeze", "x one", "s", &[])
        .node("turn", "Transpose", "s", "t", &[ints("perm", &[1, 0, 2])])
        .node("cell", op, "t w r b", "y h", &attributes)
        .node("back", "Transpose", "h", "k", &[ints("perm", &[1, 0, 2])])
        .node("flat", "Flatten", "k", "f", &[])
        .node("fc", "Gemm", "f v", "logits", &[])
        .output_of("logits", &[0, 3])
}

/// A vector of integers.
fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![values.len() as i64],
        data_type: 7,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// One layer for the input, one for every step but the first, all with one weight that counts once.
#[test]
fn recurrent_layers_share_their_weight() {
    // W, R, the sum of both biases, and the classifier.
    let (names, parameters) = layers(&recurrent("LSTM", 1, &[]));
    assert_eq!(names, ["cell/W", "cell/R/1", "cell/R/2", "fc"]);
    assert_eq!(parameters, 24 * (4 + 6 + 1) + 18);
    let (names, parameters) = layers(&recurrent("RNN", 2, &[]));
    let wanted = ["cell/W", "cell/R/1", "cell/R/2", "cell/RB/1", "cell/RB/0", "fc"];
    assert_eq!(names.len(), wanted.len());
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted.into());
    assert_eq!(parameters, 2 * 6 * (4 + 6 + 1) + 36);
    // The last gate's product by itself where the reset gate comes first; its bias by itself where it comes after.
    let (names, parameters) = layers(&recurrent("GRU", 1, &[]));
    let wanted = ["cell/W", "cell/R/1", "cell/Rh/1", "cell/R/2", "cell/Rh/2", "fc"];
    assert_eq!(names, wanted);
    assert_eq!(parameters, 18 * (4 + 6 + 1) + 18);
    let (names, parameters) = layers(&recurrent("GRU", 1, &[int("linear_before_reset", 1)]));
    assert_eq!(names, ["cell/W", "cell/R/1", "cell/R/2", "fc"]);
    assert_eq!(parameters, 18 * (4 + 6 + 1) + 6 + 18);
}

#[test]
fn two_layers_with_one_weight_hold_it_once() {
    let model = Model::new()
        .input("x", &[0, 4])
        .weight("w", &[4, 4])
        .node("first", "MatMul", "x w", "a", &[])
        .node("act", "Relu", "a", "r", &[])
        .node("second", "MatMul", "r w", "y", &[])
        .output("y");
    let context = mxc_dialects::new_context();
    let (module, weights, layers) = analog(&context, imported(&context, &model.bytes()));
    assert_eq!(layers, ["first", "second"]);
    assert_eq!(weights.iter().map(|(_, weight)| weight.len()).sum::<usize>(), 16);
    assert_eq!(backbone_parameters(&module), 16);
}

/// Two transposes of one value: the second is not the first's.
#[test]
fn two_transposes_of_one_value() {
    let model = Model::new()
        .input("x", &[0, 2, 2, 2])
        .node("left", "Transpose", "x", "a", &[ints("perm", &[0, 2, 3, 1])])
        .node("right", "Transpose", "x", "b", &[ints("perm", &[0, 3, 1, 2])])
        .output("a")
        .output("b");
    let context = mxc_dialects::new_context();
    let imported = imported(&context, &model.bytes());
    let values: Vec<f32> = (0..8).map(|value| value as f32).collect();
    let input = Array { shape: vec![1, 2, 2, 2], values };
    let found = execute(&imported.module, &imported.weights, &[&input]).unwrap();
    assert_eq!(found[0], [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    assert_eq!(found[1], [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
}

/// `compile`, `run`, `finetune` and `eval` on small networks, and `run` of the package against `run` of the model.
#[test]
fn every_command_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let head = |model: Model, channels: i64| {
        model
            .weight("v", &[channels, 3])
            .node("pool", "GlobalAveragePool", "features", "p", &[])
            .node("flat", "Flatten", "p", "f", &[])
            .node("fc", "Gemm", "f v", "logits", &[])
            .output_of("logits", &[0, 3])
    };
    let scale = |model: Model| {
        model
            .floats("scale", &[4], &[1.0, 0.5, 2.0, 1.5])
            .floats("mean", &[4], &[0.1, -0.2, 0.0, 0.3])
            .floats("shift", &[4], &[0.2, 0.0, -0.1, 0.1])
            .floats("variance", &[4], &[1.0, 2.0, 0.5, 1.0])
            .node("bn", "BatchNormalization", "c scale shift mean variance", "n", &[])
            .node("act", "Relu", "n", "features", &[])
    };
    let image = || Model::new().input("x", &[0, 1, 3, 4]);
    let up = image().weight("w", &[1, 4, 4, 4]).node(
        "up",
        "ConvTranspose",
        "x w",
        "c",
        &[ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])],
    );
    let deep = image()
        .tensor(integers("five", &[0, 1, 3, 2, 2]))
        .weight("w", &[4, 1, 3, 3, 3])
        .node("volume", "Reshape", "x five", "d", &[])
        .node("deep", "Conv", "d w", "c", &[ints("pads", &[1; 6])]);
    let networks = [
        ("up", head(scale(up), 4), 2),
        ("deep", head(scale(deep), 4), 2),
        ("lstm", recurrent("LSTM", 2, &[]), 6),
        ("gru", recurrent("GRU", 1, &[]), 6),
        ("rnn", recurrent("RNN", 1, &[]), 4),
    ];
    let values = Array4::from_shape_fn((24, 1, 3, 4), |(n, _, h, w)| ((n * 7 + h * 5 + w * 3) % 13) as f32 / 4.0 - 1.5);
    let mut writer = NpzWriter::new(fs::File::create(folder.join("data.npz")).unwrap());
    writer.add_array("x", &values).unwrap();
    writer.add_array("y", &Array1::from_shape_fn(24, |n| (n % 3) as i64)).unwrap();
    writer.finish().unwrap();
    for (name, model, count) in networks {
        fs::write(folder.join("model.onnx"), model.bytes()).unwrap();
        let run = |file: &str| -> Array {
            succeed(mxc(folder).args(["run", file, "--input", "data.npz", "-o", "out.npz"]));
            let mut archive = NpzReader::new(fs::File::open(folder.join("out.npz")).unwrap()).unwrap();
            let array: ArrayD<f32> = archive.by_name("logits").unwrap();
            Array { shape: array.shape().to_vec(), values: array.iter().copied().collect() }
        };
        let compile = ["compile", "model.onnx", "-o", "m.mxa", "--data", "data.npz", "--samples", "24", "--json"];
        let fresh = ["--equalize", "no", "--init", "identity"];
        let kinds = ["--budget", "100%", "--denoiser", "mean+affine"];
        let report = json(mxc(folder).args(compile).args(kinds).args(fresh));
        let layers = report["layers"].as_array().unwrap();
        assert_eq!(layers.len(), count, "{name}");
        // The loss depends on every layer, through all steps.
        assert!(layers.iter().all(|layer| layer["gradient_norm"].as_f64().unwrap() > 0.0), "{name}: {layers:?}");
        let plain = run("model.onnx");
        assert!(difference(&run("m.mxa"), &plain) <= 1e-5, "{name}");
        let tune = ["finetune", "m.mxa", "-o", "t.mxa", "--data", "data.npz", "--recipe", "cosine", "--epochs", "2"];
        succeed(mxc(folder).args(tune).args(["--sigma", "10%"]));
        assert!(difference(&run("t.mxa"), &plain) > 1e-4, "{name}: fine-tuning changed nothing");
        let eval = ["eval", "t.mxa", "--data", "data.npz", "--seeds", "2", "--json", "--threads"];
        let one = json(mxc(folder).args(eval).arg("1"));
        assert_eq!(one["samples"], 24);
        assert_eq!(one, json(mxc(folder).args(eval).arg("2")), "{name}");
    }
}

/// What cannot be compiled is refused with one line that names the node and the mend.
#[test]
fn what_depends_on_the_inputs_is_refused() {
    let branch = |value: &str| GraphProto {
        name: value.to_owned(),
        node: vec![NodeProto {
            op_type: "Identity".to_owned(),
            input: vec![value.to_owned()],
            output: vec![format!("{value}_out")],
            ..Default::default()
        }],
        output: vec![onnx_protobuf::ValueInfoProto { name: format!("{value}_out"), ..Default::default() }],
        ..Default::default()
    };
    let model = Model::new()
        .input("x", &[0, 3])
        .floats("zero", &[], &[0.0])
        .node("size", "ReduceMax", "x", "s", &[ints("axes", &[1]), int("keepdims", 0)])
        .node("positive", "Greater", "s zero", "c", &[])
        .node("choice", "If", "c", "y", &[graph("then_branch", branch("x")), graph("else_branch", branch("x"))])
        .output("y");
    let text = refusal(&model);
    assert!(text.contains("node 'choice': If (opset 17): its condition depends on the model's inputs"), "{text}");
    assert!(text.contains("choose with Where"), "{text}");
    // A loop that goes on as long as its input says.
    let loops = Model::new()
        .input("x", &[0, 3])
        .node("size", "ReduceMax", "x", "s", &[ints("axes", &[1]), int("keepdims", 0)])
        .node("count", "Cast", "s", "n", &[int("to", 7)])
        .node("repeat", "Loop", "n  x", "y", &[graph("body", branch("x"))])
        .output("y");
    let text = refusal(&loops);
    assert!(text.contains("node 'repeat': Loop (opset 17): its number of iterations"), "{text}");
    assert!(text.contains("export it with a fixed number of iterations"), "{text}");

    // A sequence along the batch.
    let model = Model::new()
        .input("x", &[0, 2, 3])
        .weight("w", &[1, 4, 3])
        .weight("r", &[1, 4, 4])
        .node("cell", "RNN", "x w r", "y", &[int("hidden_size", 4)])
        .output("y");
    let text = refusal(&model);
    assert!(text.contains("node 'cell': RNN (opset 17): its sequence is axis 0 of its input"), "{text}");
    assert!(text.contains("batch_first"), "{text}");
}
