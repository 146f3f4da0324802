//! Import: what the graph level looks like, that it computes what onnxruntime computes, and every error's text.

use crate::{
    onnx_model::{Model, floats, graph, int, integers, ints, tensor},
    reference::{Array, Upstream, cases, difference, execute},
};
use insta::assert_snapshot;
use melior::{Context, ir::operation::OperationLike};
use mxc_compiler::import::{self, ImportError, ImportOptions, Imported};
use mxc_runtime::store::WeightStore;
use onnx_protobuf::{GraphProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use std::{collections::BTreeMap, path::Path};

fn import<'c>(context: &'c Context, model: &Model) -> Result<Imported<'c>, ImportError> {
    import::onnx_bytes(context, &model.bytes(), "model.onnx", Path::new("."), &ImportOptions::default())
}

/// The graph level as text.
fn graph_level(model: &Model) -> String {
    let context = mxc_dialects::new_context();
    import(&context, model).unwrap().module.as_operation().to_string()
}

/// The error of a model and its help.
fn error(model: &Model) -> String {
    describe(import(&mxc_dialects::new_context(), model).err().unwrap())
}

fn describe(error: ImportError) -> String {
    let help = miette_help(&error);
    format!("{error}\nhelp: {help}")
}

fn miette_help(error: &ImportError) -> String {
    use miette::Diagnostic;
    error.help().map_or_else(|| "none".to_owned(), |help| help.to_string())
}

/// A convolution with batch normalization and ReLU6, a residual, a global average and a classifier.
fn small_network() -> Model {
    Model::new()
        .input("image", &[0, 1, 6, 6])
        .weight("conv1.weight", &[4, 1, 3, 3])
        .floats("bn.weight", &[4], &[1.0, 2.0, 0.5, 1.5])
        .floats("bn.bias", &[4], &[0.0, 0.1, 0.2, 0.3])
        .floats("bn.mean", &[4], &[0.5, 0.25, 0.125, 0.0])
        .floats("bn.var", &[4], &[1.0, 4.0, 0.25, 1.0])
        .weight("conv2.weight", &[4, 1, 3, 3])
        .weight("conv2.bias", &[4])
        .weight("fc.weight", &[3, 4])
        .weight("fc.bias", &[3])
        .floats("zero", &[], &[0.0])
        .floats("six", &[], &[6.0])
        .node("conv1", "Conv", "image conv1.weight", "c1", &[ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2])])
        .node("bn", "BatchNormalization", "c1 bn.weight bn.bias bn.mean bn.var", "n1", &[])
        .node("", "Clip", "n1 zero six", "r1", &[])
        .node("conv2", "Conv", "r1 conv2.weight conv2.bias", "c2", &[ints("pads", &[1, 1, 1, 1]), int("group", 4)])
        .node("", "Add", "r1 c2", "sum", &[])
        .node("", "GlobalAveragePool", "sum", "pooled", &[])
        .node("", "Flatten", "pooled", "flat", &[])
        .node("fc", "Gemm", "flat fc.weight fc.bias", "logits", &[int("transB", 1)])
        .output("logits")
}

#[test]
fn graph_of_a_small_network() {
    assert_snapshot!(graph_level(&small_network()));
}

#[test]
fn locations_are_unique_node_names() {
    let context = mxc_dialects::new_context();
    let model = Model::new()
        .input("x", &[0, 3])
        .node("act", "Relu", "x", "a", &[])
        .node("act", "Sigmoid", "a", "b", &[])
        .node("", "Tanh", "b", "c", &[])
        .output("c");
    let imported = import(&context, &model).unwrap();
    let block = mxc_dialects::ir::main_function(&imported.module).and_then(mxc_dialects::ir::entry_block).unwrap();
    let locations: Vec<_> =
        mxc_dialects::ir::block_ops(block).iter().map(|operation| operation.location().to_string()).collect();
    assert_eq!(locations[..3], [r#"loc("act")"#, r#"loc("b")"#, r#"loc("c")"#]);
}

#[test]
fn graph_of_flatten_with_spatial_axes() {
    let model = Model::new()
        .input("x", &[0, 2, 3, 3])
        .weight("w", &[2, 2, 2, 2])
        .weight("v", &[8, 3])
        .node("conv", "Conv", "x w", "c", &[])
        .node("flat", "Flatten", "c", "f", &[])
        .node("fc", "MatMul", "f v", "y", &[])
        .output("y");
    assert_snapshot!(graph_level(&model));
}

#[test]
fn graph_of_a_grouped_convolution_that_leaves_rows_over() {
    let model = Model::new()
        .input("x", &[0, 4, 6, 6])
        .weight("w", &[6, 2, 3, 3])
        .node("conv", "Conv", "x w", "y", &[int("group", 2), ints("strides", &[2, 2])])
        .output("y");
    assert_snapshot!(graph_level(&model));
}

#[test]
fn graph_of_shape_arithmetic() {
    let model = Model::new()
        .input("x", &[0, 2, 3, 3])
        .tensor(integers("first", &[], &[0]))
        .tensor(integers("axis", &[1], &[0]))
        .tensor(integers("rest", &[1], &[-1]))
        .node("shape", "Shape", "x", "s", &[])
        .node("batch", "Gather", "s first", "n", &[])
        .node("list", "Unsqueeze", "n axis", "l", &[])
        .node("target", "Concat", "l rest", "t", &[int("axis", 0)])
        .node("view", "Reshape", "x t", "y", &[])
        .output("y");
    assert_snapshot!(graph_level(&model));
}

/// Cases that upstream's lowering does not know: TOSA has no groups.
const NOT_UPSTREAM: &[&str] = &["conv_grouped"];

/// Graph level with inlined weights → tosa-to-linalg → LLVM → mlir-runner gives what onnxruntime gives.
#[test]
fn upstream_agrees_with_onnxruntime() {
    let cases: Vec<_> = cases().into_iter().filter(|case| !NOT_UPSTREAM.contains(&case.name.as_str())).collect();
    let mut upstream = Upstream::default();
    let mut expected = Vec::new();
    for case in &cases {
        let context = mxc_dialects::new_context();
        let mut imported =
            import::onnx_bytes(&context, &case.model, &case.name, Path::new("."), &ImportOptions::default())
                .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        import::inline_weights(&context, &mut imported.module, &imported.weights).unwrap();
        let inputs: Vec<_> = imported.source.inputs.iter().map(|input| &case.inputs[&input.name]).collect();
        upstream.add(&case.name, &imported.module, &inputs);
        expected.extend(imported.source.outputs.iter().map(|output| (&case.name, &case.outputs[output])));
    }
    let found = upstream.run();
    let wrong: Vec<_> = expected
        .iter()
        .zip(&found)
        .map(|((name, reference), found)| (name, difference(found, reference)))
        .filter(|(_, difference)| *difference > 2e-5)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Cases that the executor refuses: it has no `tosa.tile`, and wants the batch in front, alone.
const NOT_EXECUTABLE: &[&str] =
    &["add_higher_rank", "expand", "flatten_2", "matmul_activations", "reshape_by_arithmetic"];

#[test]
fn executor_agrees_with_onnxruntime() {
    let mut wrong = BTreeMap::new();
    for case in cases().into_iter().filter(|case| !NOT_EXECUTABLE.contains(&case.name.as_str())) {
        let context = mxc_dialects::new_context();
        let imported = import::onnx_bytes(&context, &case.model, &case.name, Path::new("."), &ImportOptions::default())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let inputs: Vec<_> = imported.source.inputs.iter().map(|input| &case.inputs[&input.name]).collect();
        match execute(&imported.module, &imported.weights, &inputs) {
            Err(error) => {
                wrong.insert(case.name, error);
            }
            Ok(found) => {
                for (output, values) in imported.source.outputs.iter().zip(found) {
                    let reference = &case.outputs[output];
                    let found = Array { shape: reference.shape.clone(), values };
                    let difference = if found.values.len() == reference.values.len() {
                        difference(&found, reference)
                    } else {
                        f32::INFINITY
                    };
                    if difference > 2e-5 {
                        wrong.insert(case.name.clone(), format!("{output}: {difference}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// Files.

#[test]
fn weights_in_an_external_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensor = floats("w", &[2, 2], &[]);
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
        ..Default::default()
    };
    tensor.data_location = DataLocation::EXTERNAL.into();
    tensor.external_data = vec![entry("location", "w.bin"), entry("offset", "4"), entry("length", "16")];
    let model = Model::new().input("x", &[0, 2]).tensor(tensor).node("fc", "MatMul", "x w", "y", &[]).output("y");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.bytes()).unwrap();
    let context = mxc_dialects::new_context();
    let import = || import::onnx(&context, &path, &ImportOptions::default());
    let shown = |error: ImportError| describe(error).replace(&folder.path().display().to_string(), "FOLDER");
    assert_snapshot!(shown(import().err().unwrap()), @r"
    tensor 'w': its external data file 'FOLDER/w.bin' is missing
    help: keep the external data file that belongs to the model beside it, under its original name
    ");
    let values: Vec<u8> = [9.0f32, 1.0, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(folder.path().join("w.bin"), &values[..19]).unwrap();
    assert_snapshot!(shown(import().err().unwrap()), @r"
    tensor 'w': its external data file 'FOLDER/w.bin' is too short: 16 bytes at offset 4 are needed, it has 19
    help: keep the external data file that belongs to the model beside it, under its original name
    ");
    std::fs::write(folder.path().join("w.bin"), &values).unwrap();
    let imported = import().unwrap();
    assert_eq!(imported.weights.get("w").unwrap().values(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    for location in ["/etc/passwd", "../secret", ""] {
        let mut tensor = floats("w", &[2, 2], &[]);
        tensor.data_location = DataLocation::EXTERNAL.into();
        tensor.external_data = vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: location.to_owned(),
            ..Default::default()
        }];
        let model = Model::new().input("x", &[0, 2]).tensor(tensor).node("fc", "MatMul", "x w", "y", &[]).output("y");
        assert!(error(&model).contains("is not inside the model's folder"), "{location}");
    }
}

#[test]
fn typed_data_and_half_precision() {
    let mut typed = floats("a", &[2], &[]);
    typed.float_data = vec![1.5, 2.5];
    let half = TensorProto {
        name: "b".to_owned(),
        dims: vec![2],
        data_type: 10,
        raw_data: vec![0x00, 0x3c, 0x00, 0xc0],
        ..Default::default()
    };
    let double = TensorProto {
        name: "c".to_owned(),
        dims: vec![5],
        data_type: 11,
        double_data: vec![0.5, 1.0, 1.5, 2.0, 2.5],
        ..Default::default()
    };
    let model = Model::new()
        .input("x", &[0, 5])
        .tensor(typed)
        .tensor(half)
        .tensor(double)
        .node("join", "Concat", "a b", "ab", &[int("axis", 0)])
        .tensor(floats("last", &[1], &[7.0]))
        .node("all", "Concat", "ab last", "abl", &[int("axis", 0)])
        .node("add", "Add", "x abl", "s", &[])
        .node("mul", "Mul", "s c", "y", &[])
        .output("y");
    let context = mxc_dialects::new_context();
    let imported = import(&context, &model).unwrap();
    assert_eq!(imported.weights.get("abl").unwrap().values(), [1.5, 2.5, 1.0, -2.0, 7.0]);
    assert_eq!(imported.weights.get("c").unwrap().values(), [0.5, 1.0, 1.5, 2.0, 2.5]);
}

#[test]
fn an_initializer_that_is_also_an_input_is_a_constant() {
    let model = Model::new()
        .input("x", &[0, 4])
        .input("w", &[4, 5])
        .weight("w", &[4, 5])
        .node("fc", "MatMul", "x w", "y", &[])
        .output("y");
    let context = mxc_dialects::new_context();
    let imported = import(&context, &model).unwrap();
    assert_eq!(imported.source.inputs.len(), 1);
    assert_eq!(imported.weights.len(), 1);
}

#[test]
fn dynamic_axes_take_their_size_from_the_options() {
    let model = |height: i64| {
        Model::new()
            .input("x", &[0, 3, height, 0])
            .weight("w", &[2, 3, 3, 3])
            .node("conv", "Conv", "x w", "y", &[])
            .output("y")
    };
    assert_snapshot!(error(&model(8)), @r"
    input 'x': its dimension 3 ('N') is dynamic
    help: give its shape with --input-shape 'x=1,3,H,W' (the first dimension is the batch)
    ");
    let context = mxc_dialects::new_context();
    let with = |height: i64, name: &str, shape: &[usize]| {
        let options =
            ImportOptions { input_shapes: [(name.to_owned(), shape.to_vec())].into(), ..ImportOptions::default() };
        import::onnx_bytes(&context, &model(height).bytes(), "model.onnx", Path::new("."), &options)
    };
    let imported = with(0, "x", &[1, 3, 8, 9]).unwrap();
    assert_eq!(imported.source.inputs[0].shape, [None, Some(3), Some(8), Some(9)]);
    assert_eq!(imported.source.inputs[0].channel_axis, Some(1));
    assert_snapshot!(describe(with(8, "x", &[1, 3, 7, 9]).err().unwrap()), @r"
    input 'x': --input-shape gives 7 for dimension 2, the model fixes it to 8
    help: leave the fixed dimensions as they are
    ");
    assert_snapshot!(describe(with(8, "image", &[1, 3, 8, 9]).err().unwrap()), @r"
    input 'image': the model has no such input
    help: its inputs are 'x'
    ");
}

/// A vision transformer's class token, expanded to the batch and put in front of the tokens: dynamic, and with a fixed batch.
#[test]
fn a_class_token_joins_every_sample() {
    let network = |batch: i64| {
        Model::new()
            .input("x", &[batch, 2, 3])
            .floats("token", &[1, 1, 3], &[7.0, 8.0, 9.0])
            .tensor(integers("zero", &[1], &[0]))
            .tensor(integers("rest", &[2], &[1, 3]))
            .node("", "Shape", "x", "shape", &[])
            .node("", "Gather", "shape zero", "batch", &[int("axis", 0)])
            .node("", "Concat", "batch rest", "target", &[int("axis", 0)])
            .node("", "Expand", "token target", "tokens", &[])
            .node("", "Concat", "tokens x", "y", &[int("axis", 1)])
            .output("y")
    };
    for batch in [0, 2] {
        let context = mxc_dialects::new_context();
        let imported = import(&context, &network(batch)).unwrap();
        let x = Array { shape: vec![2, 2, 3], values: (0..12).map(|i| i as f32).collect() };
        let found = execute(&imported.module, &imported.weights, &[&x]).unwrap();
        let token = [7.0, 8.0, 9.0];
        assert_eq!(found[0], [&token[..], &x.values[..6], &token, &x.values[6..]].concat());
    }
}

/// Attention with several heads under a dynamic batch: the product of the queries with the keys, of rank 4.
#[test]
fn heads_multiply_for_every_sample() {
    let model = Model::new()
        .input("x", &[0, 2, 3, 4])
        .node("", "Transpose", "x", "t", &[ints("perm", &[0, 1, 3, 2])])
        .node("", "MatMul", "x t", "y", &[])
        .output("y");
    let context = mxc_dialects::new_context();
    let imported = import(&context, &model).unwrap();
    let x = Array { shape: vec![2, 2, 3, 4], values: (0..48).map(|i| (i % 7) as f32 - 3.0).collect() };
    let found = execute(&imported.module, &imported.weights, &[&x]).unwrap();
    let row = |head: usize, row: usize| &x.values[(head * 3 + row) * 4..][..4];
    let wanted: Vec<f32> = (0..4)
        .flat_map(|head| (0..9).map(move |at| (head, at / 3, at % 3)))
        .map(|(head, i, j)| row(head, i).iter().zip(row(head, j)).map(|(a, b)| a * b).sum())
        .collect();
    assert_eq!(found[0], wanted);
}

/// A network of fixed shape that computes across axis 0 runs on it as a whole.
#[test]
fn a_fixed_axis_that_is_no_batch() {
    let model = Model::new()
        .input("x", &[3, 2])
        .node("", "Transpose", "x", "t", &[ints("perm", &[1, 0])])
        .node("", "Softmax", "t", "y", &[int("axis", 1)])
        .output("y");
    let context = mxc_dialects::new_context();
    let imported = import(&context, &model).unwrap();
    assert!(imported.source.whole && imported.source.inputs[0].shape == [Some(3), Some(2)]);
    assert!(imported.module.as_operation().to_string().contains("mxc.whole}"));
}

// Errors.

#[test]
fn all_unsupported_nodes_are_listed() {
    let mut model = Model::new()
        .input("x", &[0, 3, 8, 8])
        .node("det", "Det", "x", "a", &[])
        .node("", "Relu", "a", "b", &[])
        .node("hard", "Hardmax", "b", "c", &[])
        .node("pool", "MaxPool", "x", "d indices", &[ints("kernel_shape", &[2, 2])])
        .node("custom", "Fancy", "x", "e", &[])
        .node("join", "Concat", "c d e", "y", &[int("axis", 1)])
        .output("y");
    model.0.graph.as_mut().unwrap().node[4].domain = "acme".to_owned();
    model.0.opset_import.push(onnx_protobuf::OperatorSetIdProto {
        domain: "acme".to_owned(),
        version: 3,
        ..Default::default()
    });
    assert_snapshot!(error(&model), @r"
    the model has 4 node(s) that mxc does not support:
      node 'det': Det (opset 17)
      node 'hard': Hardmax (opset 17)
      node 'pool': MaxPool (opset 17): its output 'Indices'
      node 'custom': acme.Fancy (opset 3)
    help: replace these operators in the model, or export it another way
    ");
}

#[test]
fn shapes_that_do_not_fit() {
    let conv = |weight: &[i64], attributes: &[onnx_protobuf::AttributeProto]| {
        Model::new()
            .input("x", &[0, 3, 8, 8])
            .weight("w", weight)
            .node("conv1", "Conv", "x w", "y", attributes)
            .output("y")
    };
    assert_snapshot!(error(&conv(&[4, 2, 3, 3], &[])), @r"
    node 'conv1' (Conv): its input 'x' of shape [N, 3, 8, 8], weight 'w' of shape [4, 2, 3, 3] and group 1 do not fit
    help: the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more
    ");
    assert_snapshot!(error(&conv(&[4, 3, 9, 3], &[])), @r"
    node 'conv1' (Conv): its window of size 9 does not fit its input 'x' of shape [N, 3, 8, 8] with padding 0 and 0
    help: the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more
    ");
    let add =
        Model::new().input("x", &[0, 3, 8, 8]).weight("c", &[4, 1, 1]).node("sum", "Add", "x c", "y", &[]).output("y");
    assert_snapshot!(error(&add), @r"
    node 'sum' (Add): its operands of shapes [N, 3, 8, 8] and [1, 4, 1, 1] do not broadcast
    help: the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more
    ");
    let reshape = Model::new()
        .input("x", &[0, 3])
        .tensor(integers("s", &[2], &[-1, 4]))
        .node("view", "Reshape", "x s", "y", &[])
        .output("y");
    assert_snapshot!(error(&reshape), @r"
    node 'view' (Reshape): cannot reshape [N, 3] to [-1, 4]
    help: the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more
    ");
    let fc = Model::new().input("x", &[0, 3]).weight("w", &[4, 5]).node("fc", "MatMul", "x w", "y", &[]).output("y");
    assert_snapshot!(error(&fc), @r"
    node 'fc' (MatMul): its input of shape [N, 3] and weight 'w' of shape [4, 5] do not fit
    help: the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more
    ");
}

#[test]
fn graphs_that_are_inconsistent() {
    let undefined = Model::new().input("x", &[0, 3]).node("sum", "Add", "x missing", "y", &[]).output("y");
    assert_snapshot!(error(&undefined), @r"
    node 'sum' reads 'missing', which no node, input or initializer defines
    help: the model is inconsistent; onnx.checker.check_model shows the same error
    ");
    let output = Model::new().input("x", &[0, 3]).node("act", "Relu", "x", "y", &[]).output("z");
    assert_snapshot!(error(&output), @r"
    no node, input or initializer defines the graph output 'z'
    help: the model is inconsistent; onnx.checker.check_model shows the same error
    ");
    let cycle = Model::new()
        .input("x", &[0, 3])
        .node("first", "Add", "x b", "a", &[])
        .node("second", "Relu", "a", "b", &[])
        .node("third", "Relu", "b", "y", &[])
        .output("y");
    assert_snapshot!(error(&cycle), @r"
    node 'first' depends on its own output 'a'
    help: mxc compiles feed-forward networks; the graph must have no cycle
    ");
    let twice = Model::new()
        .input("x", &[0, 3])
        .node("first", "Relu", "x", "y", &[])
        .node("second", "Relu", "x", "y", &[])
        .output("y");
    assert_snapshot!(error(&twice), @r"
    value 'y' is defined twice, the second time by node 'second'
    help: the model is inconsistent; onnx.checker.check_model shows the same error
    ");
    assert_snapshot!(error(&small_network().opset(6)), @r"
    'model.onnx' uses ONNX opset 6; mxc reads opset 7 and newer
    help: convert the model with onnx.version_converter, or export it with a newer opset
    ");
}

#[test]
fn nodes_out_of_order_are_sorted() {
    let model = Model::new()
        .input("x", &[0, 3])
        .node("second", "Sigmoid", "a", "y", &[])
        .node("first", "Relu", "x", "a", &[])
        .output("y");
    assert!(graph_level(&model).contains("tosa.sigmoid"));
}

#[test]
fn tensors_that_lie_about_their_size() {
    let with = |tensor: TensorProto| {
        Model::new().input("x", &[0, 3]).tensor(tensor).node("sum", "Add", "x w", "y", &[]).output("y")
    };
    assert_snapshot!(error(&with(floats("w", &[1 << 40, 1 << 40], &[1.0]))), @r"
    tensor 'w': its shape [1099511627776, 1099511627776] is too large
    help: the model file is damaged or truncated; export it again
    ");
    assert_snapshot!(error(&with(floats("w", &[1 << 40], &[1.0]))), @r"
    tensor 'w': its shape [1099511627776] needs 4398046511104 bytes of data, it has 4
    help: the model file is damaged or truncated; export it again
    ");
    assert_snapshot!(error(&with(floats("w", &[-3], &[1.0]))), @r"
    tensor 'w': its dimension -3 is negative
    help: the model file is damaged or truncated; export it again
    ");
    let mut typed = floats("w", &[3], &[]);
    typed.float_data = vec![1.0];
    assert_snapshot!(error(&with(typed)), @r"
    tensor 'w': its shape [3] needs 3 elements, it has 1
    help: the model file is damaged or truncated; export it again
    ");
    let text = TensorProto { name: "w".to_owned(), dims: vec![1], data_type: 8, ..Default::default() };
    assert_snapshot!(error(&with(text)), @r"
    tensor 'w': its data type STRING is not supported
    help: the model file is damaged or truncated; export it again
    ");
}

#[test]
fn constants_that_would_be_huge() {
    let model = Model::new()
        .input("x", &[0, 3])
        .tensor(integers("s", &[2], &[1 << 30, 1 << 30]))
        .node("big", "ConstantOfShape", "s", "c", &[])
        .node("sum", "Add", "x c", "y", &[])
        .output("y");
    assert_snapshot!(error(&model), @r"
    node 'sum' (Add): the constants that the model computes take 4611686018427387904 bytes with this one, more than 67117248
    help: raise the limit with --max-constant-bytes, or fold the constants before export (onnxsim)
    ");
    let model = Model::new()
        .input("x", &[0, 3])
        .tensor(integers("repeats", &[2], &[1000, 1000]))
        .weight("w", &[3, 3])
        .node("tile", "Tile", "w repeats", "c", &[])
        .node("sum", "Add", "x c", "y", &[])
        .output("y");
    let options = ImportOptions { max_constant_bytes: Some(30_000_000), ..ImportOptions::default() };
    let import = |options| {
        import::onnx_bytes(&mxc_dialects::new_context(), &model.bytes(), "m", Path::new("."), options).map(drop)
    };
    assert_snapshot!(describe(import(&options).unwrap_err()), @r"
    node 'tile' (Tile): the constants that the model computes take 36000000 bytes with this one, more than 30000000
    help: raise the limit with --max-constant-bytes, or fold the constants before export (onnxsim)
    ");
    // Nine million floats fit into the default; that they do not broadcast is another matter.
    assert!(matches!(import(&ImportOptions::default()), Err(ImportError::Node { .. })));
}

#[test]
fn fills_stay_splats() {
    // As the onnx package's light models are: every weight a ConstantOfShape.
    let value = |value| tensor("value", floats("", &[1], &[value]));
    let model = Model::new()
        .input("x", &[0, 1, 4, 4])
        .tensor(integers("conv.shape", &[4], &[2048, 1, 3, 3]))
        .tensor(integers("fc.shape", &[2], &[1 << 20, 2048]))
        .node("conv.fill", "ConstantOfShape", "conv.shape", "conv.weight", &[value(0.5)])
        .node("fc.fill", "ConstantOfShape", "fc.shape", "fc.half", &[value(0.25)])
        .node("fc.scale", "Add", "fc.half fc.half", "fc.weight", &[])
        .node("conv", "Conv", "x conv.weight", "c", &[ints("pads", &[1, 1, 1, 1])])
        .node("pool", "GlobalAveragePool", "c", "p", &[])
        .node("flat", "Flatten", "p", "f", &[])
        .node("fc", "Gemm", "f fc.weight", "y", &[int("transB", 1)])
        .output("y");
    let context = mxc_dialects::new_context();
    let imported = import(&context, &model).unwrap();
    assert!(imported.weights.is_empty());
    let text = imported.module.as_operation().to_string();
    for splat in ["dense<5.000000e-01> : tensor<2048x3x3x1xf32>", "dense<5.000000e-01> : tensor<1x2048x1048576xf32>"] {
        assert!(text.contains(splat), "{text}");
    }
    // Eight GiB of weights: whoever would write them out would fail here; the executor, which has to, refuses.
    let program = mxc_compiler::load::program(&imported.module, &imported.weights).unwrap();
    let error = mxc_runtime::exec::Executor::new(program, 1).err().unwrap();
    assert!(error.to_string().contains("numbers, more than 1073741824"), "{error}");
}

#[test]
fn nested_graphs_and_functions_end() {
    // Each If holds the next one.
    let mut inner = GraphProto {
        node: vec![NodeProto {
            op_type: "Relu".to_owned(),
            input: vec!["x".to_owned()],
            output: vec!["r".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    };
    inner.output.push(onnx_protobuf::ValueInfoProto { name: "r".to_owned(), ..Default::default() });
    for _ in 0..28 {
        let node = NodeProto {
            op_type: "If".to_owned(),
            input: vec!["yes".to_owned()],
            output: vec!["q".to_owned()],
            attribute: vec![graph("then_branch", inner), graph("else_branch", GraphProto::default())],
            ..Default::default()
        };
        inner = GraphProto { node: vec![node], ..Default::default() };
        inner.output.push(onnx_protobuf::ValueInfoProto { name: "q".to_owned(), ..Default::default() });
    }
    let model = Model::new()
        .input("x", &[0, 3])
        .tensor(TensorProto { name: "yes".to_owned(), data_type: 9, raw_data: vec![1], ..Default::default() })
        .node("if", "If", "yes", "y", &[graph("then_branch", inner), graph("else_branch", GraphProto::default())])
        .output("y");
    assert!(error(&model).contains("graphs are nested too deeply"), "{}", error(&model));
    // A function that calls itself.
    let mut model = Model::new().input("x", &[0, 3]).node("call", "again", "x", "y", &[]).output("y");
    model.0.graph.as_mut().unwrap().node[0].domain = "local".to_owned();
    model.0.functions.push(onnx_protobuf::FunctionProto {
        name: "again".to_owned(),
        domain: "local".to_owned(),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![NodeProto {
            op_type: "again".to_owned(),
            domain: "local".to_owned(),
            input: vec!["a".to_owned()],
            output: vec!["b".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    });
    assert!(error(&model).contains("functions are nested too deeply"), "{}", error(&model));
}

/// Every prefix of a model and every model with one byte changed either imports or gives an error.
#[test]
fn damaged_files_never_panic() {
    let bytes = small_network().bytes();
    let context = mxc_dialects::new_context();
    let import = |bytes: &[u8]| {
        import::onnx_bytes(&context, bytes, "model.onnx", Path::new("."), &ImportOptions::default()).map(drop)
    };
    assert_snapshot!(describe(import(&bytes[..bytes.len() / 2]).err().unwrap()), @r"
    'model.onnx' is not a complete ONNX model: Unexpected EOF
    help: the file may be truncated or of another format; export it again
    ");
    assert!(import(b"").is_err());
    for length in (0..bytes.len()).step_by(3) {
        let _ = import(&bytes[..length]);
    }
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        // A fixed, position-dependent change.
        damaged[position] ^= 1 << (position % 8);
        let _ = import(&damaged);
    }
}

// MLIR.

#[test]
fn a_tosa_module() {
    let context = mxc_dialects::new_context();
    let source = "func.func @net(%x: tensor<?x4xf32> {mxc.name = \"x\"}) -> tensor<?x4xf32> {
        %y = tosa.sigmoid %x : (tensor<?x4xf32>) -> tensor<?x4xf32>
        return %y : tensor<?x4xf32>
    }";
    let imported = import::mlir_bytes(&context, source.as_bytes(), "net.mlir", &WeightStore::new()).unwrap();
    assert!(imported.module.as_operation().to_string().contains("@main"));
    assert_eq!(imported.source.inputs[0].name, "x");
    assert_eq!(imported.source.outputs, ["output0"]);
    let two = format!("{source}\n{}", source.replace("@net", "@other"));
    let error = import::mlir_bytes(&context, two.as_bytes(), "net.mlir", &WeightStore::new()).err().unwrap();
    assert_snapshot!(describe(error), @r"
    'net.mlir' is not a usable MLIR module: it has 2 functions, none of them '@main'
    help: mxc reads modules in the TOSA dialect with a function '@main', or with a single function
    ");
    assert!(import::mlir_bytes(&context, b"func.func @main(", "net.mlir", &WeightStore::new()).is_err());
}

#[test]
fn a_tosa_module_with_resources() {
    // As torch-mlir writes them.
    let source = |resources: &str| {
        format!(
            r#"module {{
              func.func @forward(%x: tensor<1x1x2xf32>) -> tensor<1x1x3xf32> {{
                %w = "tosa.const"() <{{values = dense_resource<torch_tensor_3_2_torch.float32> : tensor<1x2x3xf32>}}> : () -> tensor<1x2x3xf32>
                %zero = "tosa.const"() <{{values = dense<0.0> : tensor<1xf32>}}> : () -> tensor<1xf32>
                %y = tosa.matmul %x, %w, %zero, %zero : (tensor<1x1x2xf32>, tensor<1x2x3xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x1x3xf32>
                return %y : tensor<1x1x3xf32>
              }}
            }}
            {{-#
              dialect_resources: {{
                builtin: {{
                  {resources}
                }}
              }}
            #-}}"#
        )
    };
    let digits = "040000000000803F0000004000004040000080400000A0400000C040";
    let (context, other, third) =
        (mxc_dialects::new_context(), mxc_dialects::new_context(), mxc_dialects::new_context());
    fn import<'c>(context: &'c Context, source: &str) -> Result<Imported<'c>, ImportError> {
        import::mlir_bytes(context, source.as_bytes(), "net.mlir", &WeightStore::new())
    }
    let imported = import(
        &context,
        &source(&format!("other: \"0x0400000000000000\",\n torch_tensor_3_2_torch.float32: \"0x{digits}\"")),
    )
    .unwrap();
    let weight = imported.weights.get("torch_tensor_3_2_torch.float32").unwrap();
    assert_eq!((weight.shape(), weight.values()), (&[1, 2, 3][..], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..]));
    mxc_compiler::load::program(&imported.module, &imported.weights).unwrap();
    assert_snapshot!(describe(import(&other, &source(&format!("other: \"0x{digits}\""))).err().unwrap()), @r"
    'net.mlir' is not a usable MLIR module: the resource 'torch_tensor_3_2_torch.float32' has no bytes in the file; print it without eliding large constants
    help: mxc reads modules in the TOSA dialect with a function '@main', or with a single function
    ");
    let short = &digits[..digits.len() - 8];
    assert_snapshot!(describe(import(&third, &source(&format!("torch_tensor_3_2_torch.float32: \"0x{short}\""))).err().unwrap()), @r"
    'net.mlir' is not a usable MLIR module: the resource 'torch_tensor_3_2_torch.float32' has 5 floats, which do not fit [1, 2, 3]
    help: mxc reads modules in the TOSA dialect with a function '@main', or with a single function
    ");
    // A context keeps the names of its resources: the second of one name is not taken for the first.
    assert_snapshot!(describe(import(&context, &source("other: \"0x04000000\"")).err().unwrap()), @r"
    'net.mlir' is not a usable MLIR module: the resource 'torch_tensor_3_2_torch.float32' is not the value of a tosa.const in @main, or the context has parsed another of this name
    help: mxc reads modules in the TOSA dialect with a function '@main', or with a single function
    ");
}

/// Positions and angles are constants in networks, the batch is not; the reference is the formula.
#[test]
fn rotary_embedding_turns_pairs_by_their_positions() {
    const ROWS: usize = 5;
    const HALF: usize = 2;
    const LENGTH: usize = 3;
    const WIDTH: usize = 6;
    let angle = |row: usize, at: usize| 0.3 * row as f32 + 0.7 * at as f32;
    let cache = |function: fn(f32) -> f32| -> Vec<f32> {
        (0..ROWS * HALF).map(|at| function(angle(at / HALF, at % HALF))).collect()
    };
    let model = |attributes: &[i64; 2], positions: &[i64]| {
        Model::new()
            .opset(23)
            .input("x", &[0, 2, LENGTH as i64, WIDTH as i64])
            .output_of("y", &[0, 2, LENGTH as i64, WIDTH as i64])
            .floats("cos", &[ROWS as i64, HALF as i64], &cache(f32::cos))
            .floats("sin", &[ROWS as i64, HALF as i64], &cache(f32::sin))
            .integers("flat", positions)
            .integers("shape", &[1, -1])
            .node("", "Reshape", "flat shape", "positions", &[])
            .node(
                "rotary",
                "RotaryEmbedding",
                "x cos sin positions",
                "y",
                &[int("interleaved", attributes[0]), int("rotary_embedding_dim", attributes[1])],
            )
    };
    let positions = [4, 0, 2];
    let x = Array {
        shape: vec![3, 2, LENGTH, WIDTH],
        values: (0..3 * 2 * LENGTH * WIDTH).map(|at| (at as f32 * 0.37).sin()).collect(),
    };
    for interleaved in [0, 1] {
        let context = mxc_dialects::new_context();
        let imported = import(&context, &model(&[interleaved, 4], &positions)).unwrap();
        let found = execute(&imported.module, &imported.weights, &[&x]).unwrap();
        for (at, &found) in found[0].iter().enumerate() {
            let (head, own) = (at / WIDTH * WIDTH, at % WIDTH);
            // The pair that an element is of, its side, and the other's place.
            let (pair, side, other) = match (own, interleaved) {
                (4.., _) => (0, 2, own),
                (_, 0) => (own % HALF, own / HALF, (own + HALF) % 4),
                _ => (own / 2, own % 2, own ^ 1),
            };
            let (sin, cos) = angle(positions[at / WIDTH % LENGTH] as usize, pair).sin_cos();
            let (value, other) = (x.values[at], x.values[head + other]);
            let expected = match side {
                0 => value * cos - other * sin,
                1 => other * sin + value * cos,
                _ => value,
            };
            assert!((found - expected).abs() < 1e-6, "{interleaved} {at}: {found} instead of {expected}");
        }
    }
    assert!(error(&model(&[0, 3], &positions)).contains("it turns 3 elements in pairs, and a head has 6"));
    assert!(error(&model(&[0, 6], &positions)).contains("'cos' gives angles of shape [1, 3, 2] for 3 pairs"));
    assert!(error(&model(&[0, 4], &[4, 5, 2])).contains("'positions' holds the position 5, and 'cos' has 5 rows"));
}
