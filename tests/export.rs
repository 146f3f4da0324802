//! Export: where denoisers go in the source file, what stays as it was, and that the result computes what it should.

use crate::{
    onnx_model::{Model, int, ints},
    reference::{Array, difference, execute},
};
use insta::assert_snapshot;
use mxc_compiler::{
    driver,
    export::{self, Denoiser, ExportError, ExportOptions, LayerDenoisers},
    import::{self, ImportOptions},
    load,
};
use mxc_dialects::{
    denoise::{
        Kind,
        expression::{Parameter, Site},
    },
    origin::Origin,
};
use mxc_runtime::store::{Weight, WeightStore};
use onnx_protobuf::{Message, ModelProto, StringStringEntryProto, tensor_proto::DataLocation};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A weight of distinct small values.
fn weight(shape: &[usize], seed: usize) -> Weight {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| ((index * 5 + seed * 3) % 13) as f32 / 16.0 - 0.4).collect();
    Weight::new(shape.to_vec(), values).unwrap()
}

/// A denoiser with weights of distinct values.
fn denoiser(kind: &str, channels: usize, spatial: bool) -> Denoiser {
    let kind = Kind::named(kind).unwrap();
    let shape = |parameter: &Parameter| parameter.layout.shape(Site { channels, spatial });
    let parameters = kind.expression().parameters().iter().enumerate();
    Denoiser { kind, weights: parameters.map(|(index, parameter)| weight(&shape(parameter), index + 1)).collect() }
}

/// Two convolutions (one with batch normalization, one with its scale and shift written out), a residual and a classifier.
fn network() -> Model {
    Model::new()
        .input("image", &[0, 2, 4, 5])
        .weight("conv1.weight", &[4, 2, 3, 3])
        .floats("bn.weight", &[4], &[1.0, 2.0, 0.5, 1.5])
        .floats("bn.bias", &[4], &[0.0, 0.1, 0.2, 0.3])
        .floats("bn.mean", &[4], &[0.5, 0.25, 0.125, 0.0])
        .floats("bn.var", &[4], &[1.0, 4.0, 0.25, 1.0])
        .weight("conv2.weight", &[4, 4, 1, 1])
        .floats("scale", &[4, 1, 1], &[0.5, 1.0, 1.5, 2.0])
        .floats("shift", &[1, 4, 1, 1], &[0.5, 0.25, 0.0, -0.25])
        .weight("fc.weight", &[3, 4])
        .weight("fc.bias", &[3])
        .node("conv1", "Conv", "image conv1.weight", "c1", &[ints("pads", &[1, 1, 1, 1])])
        .node("bn1", "BatchNormalization", "c1 bn.weight bn.bias bn.mean bn.var", "n1", &[])
        .node("relu1", "Relu", "n1", "r1", &[])
        .node("", "Conv", "r1 conv2.weight", "c2", &[])
        .node("scale2", "Mul", "c2 scale", "m2", &[])
        .node("shift2", "Add", "shift m2", "n2", &[])
        .node("residual", "Add", "n2 r1", "sum", &[])
        .node("pool", "GlobalAveragePool", "sum", "pooled", &[])
        .node("flat", "Flatten", "pooled", "flattened", &[])
        .node("fc", "Gemm", "flattened fc.weight fc.bias", "logits", &[int("transB", 1)])
        .output_of("logits", &[0, 3])
}

/// The denoisers of a layer whose output, channels last, is a value of the model that has its channels behind the batch.
fn at(layer: &str, value: &str, shape: &[usize], kinds: &[&str]) -> LayerDenoisers {
    let order: &[usize] = if shape.len() == 3 { &[0, 2, 3, 1] } else { &[0, 1] };
    let shape: Vec<_> = std::iter::once(None).chain(shape.iter().copied().map(Some)).collect();
    let (channels, spatial) = (shape[shape.len() - 1].unwrap(), shape.len() == 4);
    LayerDenoisers {
        layer: layer.to_owned(),
        origins: vec![Origin::new(value, order, &shape)],
        spatial,
        shape,
        denoisers: kinds.iter().map(|kind| denoiser(kind, channels, spatial)).collect(),
    }
}

fn denoisers() -> Vec<LayerDenoisers> {
    vec![
        at("conv1", "n1", &[4, 5, 4], &["paper", "affine"]),
        at("c2", "n2", &[4, 5, 4], &["mean"]),
        at("fc", "logits", &[3], &["paper", "affine"]),
    ]
}

/// The nodes of a model, one a line.
fn nodes(bytes: &[u8]) -> String {
    let model = ModelProto::parse_from_bytes(bytes).unwrap();
    let line = |node: &onnx_protobuf::NodeProto| {
        format!("{} '{}': {} -> {}\n", node.op_type, node.name, node.input.join(", "), node.output.join(", "))
    };
    model.graph.node.iter().map(line).collect()
}

fn exported(options: &ExportOptions) -> Vec<u8> {
    export::onnx(&network().bytes(), "model.onnx", &denoisers(), options).unwrap()
}

#[test]
fn denoisers_follow_the_folded_output() {
    assert_snapshot!(nodes(&exported(&ExportOptions::default())));
}

#[test]
fn sampling_adds_the_random_path() {
    let with = nodes(&exported(&ExportOptions { sampling: true, ..Default::default() }));
    let without = nodes(&exported(&ExportOptions::default()));
    let added: String = with.lines().filter(|line| !without.contains(line)).map(|line| format!("{line}\n")).collect();
    assert_snapshot!(added);
}

#[test]
fn the_rest_of_the_file_stays() {
    let source = ModelProto::parse_from_bytes(&network().bytes()).unwrap();
    let model = ModelProto::parse_from_bytes(&exported(&ExportOptions::default())).unwrap();
    assert_eq!(model.opset_import, source.opset_import);
    assert_eq!(model.graph.input, source.graph.input);
    assert_eq!(model.graph.output, source.graph.output);
    let kept = source.graph.initializer.len();
    assert_eq!(model.graph.initializer[..kept], source.graph.initializer[..]);
    let new = &model.graph.initializer[kept..];
    assert!(!new.is_empty() && new.iter().all(|tensor| tensor.name.starts_with("mxc.")));
    for node in &source.graph.node {
        let same = model.graph.node.iter().find(|each| each.name == node.name).unwrap();
        assert_eq!((&same.op_type, &same.attribute), (&node.op_type, &node.attribute));
    }
    let parameters: usize = new.iter().map(|tensor| tensor.raw_data.len() / 4).sum();
    // Without sampling the σ̂ heads stay out: twice 4 channels, 3 channels with one tap, all with B = 1; two affines.
    assert_eq!(parameters, 2 * (4 + 1 + 9 + 1 + 4 + 4) + (3 + 1 + 1 + 1 + 3 + 3) + 8 + 6);
}

/// The denoisers of one layer on one sample `[H, W, C]` with ε = 0, straight from their definition.
fn denoise(x: &[f32], [height, width, channels]: [usize; 3], layer: &LayerDenoisers) -> Vec<f32> {
    let mut result = x.to_vec();
    for Denoiser { kind, weights } in &layer.denoisers {
        let channel = |index: usize, of: &Weight| of.values()[index % channels];
        if kind.name == "affine" {
            let map = |(index, x): (usize, &f32)| x * channel(index, &weights[0]) + channel(index, &weights[1]);
            result = result.iter().enumerate().map(map).collect();
            continue;
        }
        let bottleneck = weights[1].len();
        let lrelu = |value: f32| if value < 0.0 { value / 128.0 } else { value };
        let pointwise = |x: &[f32], weight: &Weight, bias: &Weight| -> Vec<f32> {
            let (outputs, inputs) = (weight.shape()[0], weight.shape()[3]);
            x.chunks(inputs)
                .flat_map(|pixel| {
                    (0..outputs).map(move |output| {
                        let products = pixel.iter().zip(&weight.values()[output * inputs..]);
                        bias.values()[output] + products.map(|(x, w)| x * w).sum::<f32>()
                    })
                })
                .collect()
        };
        let h: Vec<f32> = pointwise(&result, &weights[0], &weights[1]).into_iter().map(lrelu).collect();
        let taps = weights[2].shape()[0];
        let mut g = vec![0.0; h.len()];
        for row in 0..height {
            for column in 0..width {
                for channel in 0..bottleneck {
                    let mut sum = weights[3].values()[channel];
                    for (dy, dx) in (0..taps).flat_map(|dy| (0..taps).map(move |dx| (dy, dx))) {
                        let (y, x) = ((row + dy).wrapping_sub(taps / 2), (column + dx).wrapping_sub(taps / 2));
                        if y < height && x < width {
                            sum += h[(y * width + x) * bottleneck + channel]
                                * weights[2].values()[(dy * taps + dx) * bottleneck + channel];
                        }
                    }
                    g[(row * width + column) * bottleneck + channel] = lrelu(sum);
                }
            }
        }
        let mean = pointwise(&g, &weights[4], &weights[5]);
        result.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
    }
    result
}

/// Runs a model with mxc's executor; the outputs one after another.
fn run(bytes: &[u8], input: &Array) -> Vec<f32> {
    let context = mxc_dialects::new_context();
    let imported =
        import::onnx_bytes(&context, bytes, "model.onnx", Path::new("."), &ImportOptions::default()).unwrap();
    execute(&imported.module, &imported.weights, &[input]).unwrap().concat()
}

fn image() -> Array {
    Array { shape: vec![1, 2, 4, 5], values: weight(&[1, 2, 4, 5], 11).values().to_vec() }
}

fn assert_close(found: Vec<f32>, reference: Vec<f32>) {
    let array = |values: Vec<f32>| Array { shape: vec![values.len()], values };
    let difference = difference(&array(found), &array(reference));
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn a_spatial_denoiser_computes_its_definition() {
    let mut source = network();
    let graph = source.0.graph.as_mut().unwrap();
    graph.output[0].name = "n1".to_owned();
    let clean = run(&source.bytes(), &image());
    let denoisers = &denoisers()[..1];
    let found = run(&export::onnx(&source.bytes(), "m", denoisers, &ExportOptions::default()).unwrap(), &image());
    // From NCHW to HWC and back.
    let hwc: Vec<f32> =
        (0..20).flat_map(|pixel| (0..4).map(move |c| (c, pixel))).map(|(c, p)| clean[c * 20 + p]).collect();
    let expected = denoise(&hwc, [4, 5, 4], &denoisers[0]);
    let chw = (0..4).flat_map(|c| (0..20).map(move |pixel| (c, pixel))).map(|(c, p)| expected[p * 4 + c]).collect();
    assert_close(found, chw);
}

#[test]
fn a_classifiers_denoiser_computes_its_definition() {
    let source = network().bytes();
    let clean = run(&source, &image());
    let denoisers = &denoisers()[2..];
    let found = run(&export::onnx(&source, "m", denoisers, &ExportOptions::default()).unwrap(), &image());
    assert_close(found, denoise(&clean, [1, 1, 3], &denoisers[0]));
}

#[test]
fn a_scale_inside_a_node_stays_out_of_the_layer_before_it() {
    // Folded into the layer it would change what the layer's denoiser cleans, and no value of the ONNX graph would be that.
    let model =
        || Model::new().input("x", &[0, 2, 4, 5]).weight("w", &[3, 2, 1, 1]).node("conv", "Conv", "x w", "c", &[]);
    let scale = |model: Model| model.floats("scale", &[], &[0.125]);
    let models = [
        model().node("gate", "HardSigmoid", "c", "y", &[]),
        scale(model()).node("q", "QuantizeLinear", "c scale", "q", &[]).node(
            "d",
            "DequantizeLinear",
            "q scale",
            "y",
            &[],
        ),
    ];
    for model in models {
        let context = mxc_dialects::new_context();
        let bytes = model.output("y").bytes();
        let mut imported =
            import::onnx_bytes(&context, &bytes, "model.onnx", Path::new("."), &ImportOptions::default()).unwrap();
        let given = imported.weights.get("w").unwrap().values().to_vec();
        driver::fold_constants(&context, &mut imported).unwrap();
        assert_eq!(imported.weights.get("conv.weight").unwrap().values(), given);
    }
}

#[test]
fn onnxruntime_loads_it_and_agrees() {
    let Some(python) = crate::common::onnxruntime() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let quiet = exported(&ExportOptions::default());
    write("quiet.onnx", &quiet);
    write("sampling.onnx", &exported(&ExportOptions { sampling: true, ..Default::default() }));
    let input = image();
    write("x.bin", &input.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let script = "
import numpy, onnx, onnxruntime
x = numpy.fromfile('x.bin', '<f4').reshape(1, 2, 4, 5)
for name in ('quiet', 'sampling'):
    onnx.checker.check_model(name + '.onnx', full_check=True)
    y = onnxruntime.InferenceSession(name + '.onnx', providers=['CPUExecutionProvider']).run(['logits'], {'image': x})[0]
    y.astype('<f4').tofile(name + '.bin')
";
    let output = Command::new(&python).args(["-c", script]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    assert_close(read("quiet.bin"), run(&quiet, &input));
    assert_ne!(read("sampling.bin"), read("quiet.bin"));
}

#[test]
fn external_data_goes_along() {
    let mut source = network();
    let tensor = &mut source.0.graph.as_mut().unwrap().initializer[0];
    let bytes = std::mem::take(&mut tensor.raw_data);
    tensor.data_location = DataLocation::EXTERNAL.into();
    tensor.external_data = vec![StringStringEntryProto {
        key: "location".to_owned(),
        value: "weights.bin".to_owned(),
        ..Default::default()
    }];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("weights.bin"), &bytes).unwrap();
    std::fs::write(path("model.onnx"), source.bytes()).unwrap();
    std::fs::create_dir(path("out")).unwrap();
    // What is exported stands for the package here: these denoisers come from none.
    let exported = export::onnx(&network().bytes(), "model.onnx", &denoisers(), &ExportOptions::default()).unwrap();
    let context = mxc_dialects::new_context();
    let options = ImportOptions::default();
    let package = import::onnx_bytes(&context, &exported, "model.onnx", Path::new("."), &options).unwrap();
    let program = load::program(&package.module, &package.weights).unwrap();
    let export = |target: PathBuf| {
        export::onnx_file(&path("model.onnx"), &target, &denoisers(), &ExportOptions::default(), &program)
    };
    export(path("beside.onnx")).unwrap();
    export(path("out/model.onnx")).unwrap();
    assert_eq!(std::fs::read(path("out/weights.bin")).unwrap(), bytes);
    // Once more, over the files of the first time.
    export(path("out/model.onnx")).unwrap();
    import::onnx(&context, &path("out/model.onnx"), &options).unwrap();
    // A package that computes something else is found out.
    let mut other = denoisers();
    other[0].denoisers.pop();
    let error =
        export::onnx_file(&path("model.onnx"), &path("other.onnx"), &other, &ExportOptions::default(), &program);
    assert!(matches!(error, Err(ExportError::Differs { .. })) && !path("other.onnx").exists());
    std::fs::write(path("out/weights.bin"), b"another file").unwrap();
    let error = export(path("out/model.onnx")).err().unwrap();
    assert!(matches!(error, ExportError::Occupied { .. }), "{error}");
}

#[test]
fn errors() {
    let error = |layers: &[LayerDenoisers], options: &ExportOptions| {
        export::onnx(&network().bytes(), "model.onnx", layers, options).err().unwrap().to_string()
    };
    let at = |value: &str| at("conv1", value, &[4, 5, 4], &["paper"]);
    let options = ExportOptions::default();
    assert_snapshot!(
        error(&[at("c9")], &options),
        @"the model has no value that is the output of layer 'conv1' (looked for: c9)"
    );
    let mut wrong = at("n1");
    wrong.denoisers[0].weights[4] = weight(&[4, 1, 1, 2], 5);
    assert_snapshot!(
        error(&[wrong], &options),
        @"the denoiser of layer 'conv1' does not fit: its mean.weight has shape [4, 1, 1, 2], not [4, 1, 1, 1]"
    );
    let options = ExportOptions { sha256: Some("00".to_owned()), ..Default::default() };
    assert!(error(&denoisers(), &options).contains("is not the model that the package was compiled from"));
}

#[test]
fn denoisers_of_a_module() {
    let context = mxc_dialects::new_context();
    let mut weights = WeightStore::new();
    let mut globals = String::new();
    let mut loads = String::new();
    let mut operands = Vec::new();
    let all = denoiser("paper", 4, true).weights;
    let mut types = Vec::new();
    for (index, weight) in all.into_iter().enumerate() {
        let dims: String = weight.shape().iter().map(|size| format!("{size}x")).collect();
        let r#type = format!("tensor<{dims}f32>");
        globals += &format!("ml_program.global private @w{index}(#ml_program.extern : {type}) : {type}\n");
        loads += &format!("%w{index} = ml_program.global_load_const @w{index} : {type}\n");
        operands.push(format!("%w{index}"));
        types.push(r#type);
        weights.insert(format!("w{index}"), weight);
    }
    let source = format!(
        "{globals}func.func @main(%x: tensor<?x4x5x4xf32>) -> tensor<?x4x5x4xf32> {{
        {loads}
        %y = \"denoise.paper\"(%x, {}) {{layer = \"conv1\"}}
            : (tensor<?x4x5x4xf32>, {}) -> tensor<?x4x5x4xf32>
        return %y : tensor<?x4x5x4xf32>
        }}",
        operands.join(", "),
        types.join(", ")
    );
    let module = mxc_dialects::ir::parse(&context, source.as_bytes(), "module").unwrap();
    let found = export::denoisers(&module, &weights).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].layer, "conv1");
    let [denoiser] = found[0].denoisers.as_slice() else { panic!("{found:?}") };
    assert_eq!((denoiser.kind.name, denoiser.weights.len()), ("paper", 8));
    assert_eq!(denoiser.weights[7].values(), weights.get("w7").unwrap().values());
}
