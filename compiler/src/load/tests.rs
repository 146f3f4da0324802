use super::*;
use mxc_dialects::{denoise::Kind, noise::LayerNoise};
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    program::{
        Binary, Concat, Conv2d, Denoise, Execution, FullyConnected, Layer, MatMul, Pad, Reduce, Reduction, Slice,
        Transpose, Unary, Window,
    },
};

/// A store with `name = 0, 1, 2, …` of each shape.
fn store(weights: &[(&str, &[usize])]) -> WeightStore {
    let mut store = WeightStore::new();
    for (name, shape) in weights {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        store.insert(*name, Weight::new(shape.to_vec(), values).unwrap());
    }
    store
}

fn load_with(text: &str, weights: &WeightStore) -> Result<Program, LoadError> {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, text.as_bytes(), "test.mlir").unwrap();
    program(&module, weights)
}

fn load(text: &str) -> Result<Program, LoadError> {
    load_with(text, &WeightStore::new())
}

/// `@main` with one input of type `input` and a body that returns `%r` of type `output`.
fn main(input: &str, output: &str, body: &str) -> String {
    format!(
        "func.func @main(%x: {input} {{mxc.name = \"in\"}}) -> ({output} {{mxc.name = \"out\"}}) {{\n\
         %z = \"tosa.const\"() <{{values = dense<0.0> : tensor<1xf32>}}> : () -> tensor<1xf32>\n\
         {body}\n return %r : {output}\n}}"
    )
}

fn refused(text: &str, needle: &str) {
    let error = load(text).unwrap_err().to_string();
    assert!(error.contains(needle), "{error}");
}

const N: Option<usize> = None;

fn dims(sizes: &[usize]) -> Vec<Option<usize>> {
    std::iter::once(None).chain(sizes.iter().map(|&size| Some(size))).collect()
}

#[test]
fn graph_level_network() {
    let text = r#"
ml_program.global private @"conv1.weight"(#ml_program.extern<tensor<4x3x3x3xf32>>) : tensor<4x3x3x3xf32>
ml_program.global private @"dw.weight"(#ml_program.extern<tensor<3x3x4x2xf32>>) : tensor<3x3x4x2xf32>
func.func @main(%x: tensor<?x3x8x8xf32> {mxc.name = "image"}) -> (tensor<?x5xf32> {mxc.name = "logits"}) {
  %w = ml_program.global_load_const @"conv1.weight" : tensor<4x3x3x3xf32>
  %b = "tosa.const"() <{values = dense<0.5> : tensor<1xf32>}> : () -> tensor<1xf32>
  %z = "tosa.const"() <{values = dense<0.0> : tensor<1xf32>}> : () -> tensor<1xf32>
  %n = tosa.transpose %x {perms = array<i32: 0, 2, 3, 1>} : (tensor<?x3x8x8xf32>) -> tensor<?x8x8x3xf32>
  %c = tosa.conv2d %n, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 1,1,1,1>, stride = array<i64: 1,1>, dilation = array<i64: 1,1>} : (tensor<?x8x8x3xf32>, tensor<4x3x3x3xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x8x8x4xf32>
  %k = tosa.clamp %c {min_val = 0.0 : f32, max_val = 6.0 : f32} : (tensor<?x8x8x4xf32>) -> tensor<?x8x8x4xf32>
  %dw = ml_program.global_load_const @"dw.weight" : tensor<3x3x4x2xf32>
  %db = "tosa.const"() <{values = dense<[0.,1.,2.,3.,4.,5.,6.,7.]> : tensor<8xf32>}> : () -> tensor<8xf32>
  %d = tosa.depthwise_conv2d %k, %dw, %db, %z, %z {acc_type = f32, pad = array<i64: 1,1,1,1>, stride = array<i64: 1,1>, dilation = array<i64: 1,1>} : (tensor<?x8x8x4xf32>, tensor<3x3x4x2xf32>, tensor<8xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x8x8x8xf32>
  %p = tosa.avg_pool2d %d, %z, %z {acc_type = f32, kernel = array<i64: 8,8>, pad = array<i64: 0,0,0,0>, stride = array<i64: 8,8>} : (tensor<?x8x8x8xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x1x1x8xf32>
  %s1 = tosa.const_shape {values = dense<[1,-1,8]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %f = tosa.reshape %p, %s1 : (tensor<?x1x1x8xf32>, !tosa.shape<3>) -> tensor<1x?x8xf32>
  %fw = "tosa.const"() <{values = dense<1.5> : tensor<1x8x5xf32>}> : () -> tensor<1x8x5xf32>
  %m = tosa.matmul %f, %fw, %z, %z : (tensor<1x?x8xf32>, tensor<1x8x5xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x5xf32>
  %fb = "tosa.const"() <{values = dense<[[[1.,2.,3.,4.,5.]]]> : tensor<1x1x5xf32>}> : () -> tensor<1x1x5xf32>
  %a = tosa.add %m, %fb : (tensor<1x?x5xf32>, tensor<1x1x5xf32>) -> tensor<1x?x5xf32>
  %s2 = tosa.const_shape {values = dense<[-1,5]> : tensor<2xindex>} : () -> !tosa.shape<2>
  %r = tosa.reshape %a, %s2 : (tensor<1x?x5xf32>, !tosa.shape<2>) -> tensor<?x5xf32>
  return %r : tensor<?x5xf32>
}"#;
    let weights = store(&[("conv1.weight", &[4, 3, 3, 3]), ("dw.weight", &[3, 3, 4, 2])]);
    let program = load_with(text, &weights).unwrap();
    let ops: Vec<&Op> = program.nodes().iter().map(|node| &node.op).collect();
    assert_eq!(ops.len(), 8, "{ops:?}");
    assert_eq!(ops[0], &Op::from(Transpose { perms: vec![0, 2, 3, 1] }));
    assert_eq!(
        ops[3],
        &Op::from(Conv2d { window: Window { stride: [1, 1], pad: [1; 4], dilation: [1, 1] }, groups: 4, layer: None })
    );
    assert_eq!(ops[2], &Op::Unary(Unary::Clamp { min: 0.0, max: 6.0 }));
    assert!(matches!(ops[5], Op::Reshape(_)));
    assert_eq!(ops[6], &Op::from(FullyConnected { layer: None }));
    assert_eq!(ops[7], &Op::Binary(Binary::Add));
    let value = |node: usize, operand: usize| &program.values()[program.nodes()[node].inputs[operand]];
    // The single bias value is expanded, the depthwise weight repacked: output channel c·M + m, tap (y, x).
    assert_eq!(value(1, 2).constant.as_ref().unwrap().values(), [0.5; 4]);
    let depthwise = value(3, 1).constant.as_ref().unwrap();
    assert_eq!(depthwise.shape(), [8, 3, 3, 1]);
    assert_eq!(depthwise.values()[3 * 9 + 5], (5 * 8 + 3) as f32);
    assert_eq!(value(3, 1).name, "dw.weight");
    assert_eq!(value(6, 1).shape, [Some(5), Some(8)]);
    assert_eq!(value(7, 0).shape, dims(&[5]));
    assert_eq!(value(7, 1).shape, [Some(1), Some(5)]);
    assert_eq!(program.values()[program.inputs()[0]].name, "image");
    assert_eq!(program.values()[program.outputs()[0]].name, "logits");
    assert_eq!(program.logits(), program.outputs()[0]);
    assert!(program.layers().is_empty());

    let error = load(text).unwrap_err().to_string();
    assert_eq!(error, "weight `conv1.weight` is not in the weight store; pass the file that holds it");
    let weights = store(&[("conv1.weight", &[4, 3, 3, 2]), ("dw.weight", &[3, 3, 4, 2])]);
    let error = load_with(text, &weights).unwrap_err().to_string();
    assert!(error.contains("[4, 3, 3, 2] in the weight store but [4, 3, 3, 3]"), "{error}");
}

const DENOISED: &str = r#"
ml_program.global private @w(#ml_program.extern<tensor<8x1x1x4xf32>>) : tensor<8x1x1x4xf32>
ml_program.global private @a(#ml_program.extern<tensor<8xf32>>) : tensor<8xf32>
func.func @main(%x: tensor<?x6x6x4xf32>) -> tensor<?x6x6x8xf32> {
  %w = ml_program.global_load_const @w : tensor<8x1x1x4xf32>
  %b = "tosa.const"() <{values = dense<0.0> : tensor<8xf32>}> : () -> tensor<8xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, groups = 1 : i64, noise = {spec = "gaussian(sigma=6%)", scale = "range", reference = "rms"}, calibration = {samples = 512 : i64, rms = 1.5, absmax = 4.0, mean_abs = 1.0, std = 1.25, input_absmax = 2.0}} : (tensor<?x6x6x4xf32>, tensor<8x1x1x4xf32>, tensor<8xf32>) -> tensor<?x6x6x8xf32>
  %rw = "tosa.const"() <{values = dense<0.1> : tensor<2x1x1x8xf32>}> : () -> tensor<2x1x1x8xf32>
  %rb = "tosa.const"() <{values = dense<0.0> : tensor<2xf32>}> : () -> tensor<2xf32>
  %dw = "tosa.const"() <{values = dense<0.1> : tensor<3x3x2x1xf32>}> : () -> tensor<3x3x2x1xf32>
  %db = "tosa.const"() <{values = dense<0.0> : tensor<2xf32>}> : () -> tensor<2xf32>
  %mw = "tosa.const"() <{values = dense<0.0> : tensor<8x1x1x2xf32>}> : () -> tensor<8x1x1x2xf32>
  %mb = "tosa.const"() <{values = dense<0.0> : tensor<8xf32>}> : () -> tensor<8xf32>
  %d = "denoise.mean"(%y, %rw, %rb, %dw, %db, %mw, %mb) {layer = "conv"} : (tensor<?x6x6x8xf32>, tensor<2x1x1x8xf32>, tensor<2xf32>, tensor<3x3x2x1xf32>, tensor<2xf32>, tensor<8x1x1x2xf32>, tensor<8xf32>) -> tensor<?x6x6x8xf32>
  %a = ml_program.global_load_const @a : tensor<8xf32>
  %r = "denoise.affine"(%d, %a, %mb) {layer = "conv"} : (tensor<?x6x6x8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<?x6x6x8xf32>
  return %r : tensor<?x6x6x8xf32>
}"#;

#[test]
fn analog_layers_and_denoisers() {
    let weights = store(&[("w", &[8, 1, 1, 4]), ("a", &[8])]);
    let program = load_with(DENOISED, &weights).unwrap();
    let [
        Layer {
            name,
            channels,
            noise,
            calibration,
            columns: _,
            input_range: None,
            execution: Execution::Analog { reads: 1 },
        },
    ] = program.layers()
    else {
        panic!("{:?}", program.layers())
    };
    assert_eq!((name.as_str(), *channels), ("conv", 8));
    assert_eq!(*noise, LayerNoise::default());
    let calibration = calibration.unwrap();
    assert_eq!((calibration.samples, calibration.rms, calibration.input_absmax), (512, 1.5, 2.0));
    assert_eq!(program.nodes()[1].op, Op::from(Denoise { layer: 0, kind: Kind::named("mean").unwrap() }));
    assert_eq!(program.nodes()[2].op, Op::from(Denoise { layer: 0, kind: Kind::named("affine").unwrap() }));
    let trainable: Vec<&str> =
        program.values().iter().filter(|value| value.trainable).map(|value| value.name.as_str()).collect();
    assert_eq!(
        trainable,
        [
            "conv.reduce.weight",
            "conv.reduce.bias",
            "conv.depthwise.weight",
            "conv.depthwise.bias",
            "conv.mean.weight",
            "conv.mean.bias",
            "a",
            "conv.affine.shift"
        ]
    );
    assert_eq!(program.values()[program.inputs()[0]].name, "input0");
    assert_eq!(program.values()[program.outputs()[0]].name, "output0");
}

#[test]
fn a_fully_connected_layers_denoiser_is_pointwise_on_pixels_too() {
    let window =
        ", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, groups = 1 : i64";
    let text = DENOISED
        .replace("analog.conv2d", "analog.fully_connected")
        .replace(window, "")
        .replace("8x1x1x4xf32", "8x4xf32")
        .replace("3x3x2x1xf32", "1x1x2x1xf32");
    let weights = store(&[("w", &[8, 4]), ("a", &[8])]);
    let program = load_with(&text, &weights).unwrap();
    assert_eq!(program.nodes()[1].op, Op::from(Denoise { layer: 0, kind: Kind::named("mean").unwrap() }));
    mxc_runtime::exec::Executor::new(program, 1).unwrap();
}

#[test]
fn bad_analog_and_denoise_ops_are_refused() {
    let weights = store(&[("w", &[8, 1, 1, 4]), ("a", &[8])]);
    for (from, to, needle) in [
        ("{layer = \"conv\"}", "{layer = \"other\"}", "no analog layer `other`"),
        ("2x1x1x8xf32", "3x1x1x8xf32", "reduce.weight has shape [3, 1, 1, 8], not [2, 1, 1, 8]"),
        ("scale = \"range\", ", "", "layer `conv`: its noise has no string `scale`"),
        ("sigma=6%", "sigma=6", "layer `conv`: noise `gaussian(sigma=6)`: `6` is over 1 without a percent sign"),
        ("rms = 1.5, ", "", "calibration has no finite, non-negative f64 `rms`"),
        ("groups = 1", "groups = 3", "does not fit 4 input channels in 3 groups"),
        ("pad = array<i64: 0, 0, 0, 0>", "pad = array<i64: 1, 0, 0, 0>", "its operands give"),
        ("stride = array<i64: 1, 1>", "stride = array<i64: 1, 0>", "stride and dilation must be positive"),
        ("stride = array<i64: 1, 1>", "stride = array<i64: 1>", "its stride and dilation must hold 2"),
        ("stride = array<i64: 1, 1>", "stride = array<i64: -1, 1>", "its stride and dilation must hold 2"),
    ] {
        assert!(DENOISED.contains(from));
        let error = load_with(&DENOISED.replace(from, to), &weights).unwrap_err().to_string();
        assert!(error.contains(needle), "{from} → {to}: {error}");
    }
}

#[test]
fn tokens_fold_into_fully_connected() {
    // [N, 3, 4] → [1, 3N, 4] → matmul → + bias → [N, 3, 5]
    let body = r#"
  %s = tosa.const_shape {values = dense<[1,-1,4]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %f = tosa.reshape %x, %s : (tensor<?x3x4xf32>, !tosa.shape<3>) -> tensor<1x?x4xf32>
  %w = "tosa.const"() <{values = dense<1.0> : tensor<1x4x5xf32>}> : () -> tensor<1x4x5xf32>
  %m = tosa.matmul %f, %w, %z, %z : (tensor<1x?x4xf32>, tensor<1x4x5xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x5xf32>
  %b = "tosa.const"() <{values = dense<1.0> : tensor<1x1x5xf32>}> : () -> tensor<1x1x5xf32>
  %a = tosa.add %b, %m : (tensor<1x1x5xf32>, tensor<1x?x5xf32>) -> tensor<1x?x5xf32>
  %t = tosa.reduce_sum %a {axis = 2 : i32} : (tensor<1x?x5xf32>) -> tensor<1x?x1xf32>
  %q = tosa.sub %a, %t : (tensor<1x?x5xf32>, tensor<1x?x1xf32>) -> tensor<1x?x5xf32>
  %s2 = tosa.const_shape {values = dense<[-1,3,5]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %r = tosa.reshape %q, %s2 : (tensor<1x?x5xf32>, !tosa.shape<3>) -> tensor<?x3x5xf32>"#;
    let program = load(&main("tensor<?x3x4xf32>", "tensor<?x3x5xf32>", body)).unwrap();
    let ops: Vec<&Op> = program.nodes().iter().map(|node| &node.op).collect();
    assert_eq!(
        ops,
        [
            &Op::from(FullyConnected { layer: None }),
            &Op::Binary(Binary::Add),
            &Op::from(Reduce { kind: Reduction::Sum, axis: 2 }),
            &Op::Binary(Binary::Sub)
        ]
    );
    assert_eq!(program.values()[program.nodes()[1].inputs[0]].shape, [Some(1), Some(1), Some(5)]);
    assert_eq!(program.values()[program.nodes()[2].output].shape, dims(&[3, 1]));
    assert_eq!(program.values()[program.outputs()[0]].shape, dims(&[3, 5]));

    // The same with a static batch of 2.
    let fixed = main("tensor<?x3x4xf32>", "tensor<?x3x5xf32>", body)
        .replace("?x3", "2x3")
        .replace("1x?", "1x6")
        .replace("[1,-1,4]", "[1,6,4]")
        .replace("[-1,3,5]", "[2,3,5]");
    let program = load(&fixed).unwrap();
    assert_eq!(program.nodes().len(), 4);
    assert_eq!(program.values()[program.outputs()[0]].shape, dims(&[3, 5]));
}

#[test]
fn softmax_is_left_out_of_the_logits() {
    let body = r#"
  %l = tosa.abs %x : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %m = tosa.reduce_max %l {axis = 1 : i32} : (tensor<?x4xf32>) -> tensor<?x1xf32>
  %d = tosa.sub %l, %m : (tensor<?x4xf32>, tensor<?x1xf32>) -> tensor<?x4xf32>
  %e = tosa.exp %d : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %s = tosa.reduce_sum %e {axis = 1 : i32} : (tensor<?x4xf32>) -> tensor<?x1xf32>
  %i = tosa.reciprocal %s : (tensor<?x1xf32>) -> tensor<?x1xf32>
  %h = "tosa.const"() <{values = dense<0> : tensor<1xi8>}> : () -> tensor<1xi8>
  %r = tosa.mul %e, %i, %h : (tensor<?x4xf32>, tensor<?x1xf32>, tensor<1xi8>) -> tensor<?x4xf32>"#;
    let text = main("tensor<?x4xf32>", "tensor<?x4xf32>", body);
    let program = load(&text).unwrap();
    assert_eq!(program.logits(), program.nodes()[0].output);
    // Without the maximum, and with the factors swapped.
    let swapped = text.replace("tosa.exp %d", "tosa.exp %l").replace(
        "tosa.mul %e, %i, %h : (tensor<?x4xf32>, tensor<?x1xf32>",
        "tosa.mul %i, %e, %h : (tensor<?x1xf32>, tensor<?x4xf32>",
    );
    let program = load(&swapped).unwrap();
    assert_eq!(program.logits(), program.nodes()[0].output);
    // The maximum of something else is no softmax input.
    let other = text.replace("tosa.reduce_max %l", "tosa.reduce_max %x");
    let program = load(&other).unwrap();
    assert_eq!(program.logits(), program.nodes()[2].output);
    // A product that is none.
    let product = text.replace("tosa.reduce_sum %e", "tosa.reduce_sum %l");
    let program = load(&product).unwrap();
    assert_eq!(program.logits(), program.outputs()[0]);
}

#[test]
fn the_module_names_the_output_with_the_logits() {
    let text = |chosen: &str| {
        format!(
            r#"func.func @main(%x: tensor<?x4xf32>) -> (tensor<?x4xf32> {{mxc.name = "features"}}, tensor<?x4xf32> {{mxc.name = "scores"}})
    attributes {{mxc.logits = "{chosen}"}} {{
  %a = tosa.abs %x : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %b = tosa.exp %a : (tensor<?x4xf32>) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}}"#
        )
    };
    for (chosen, index) in [("features", 0), ("scores", 1)] {
        let program = load(&text(chosen)).unwrap();
        assert_eq!(program.logits(), program.outputs()[index]);
    }
    let error = load(&text("other")).unwrap_err().to_string();
    assert!(error.contains("no output `other`") && error.contains("features, scores"), "{error}");
}

#[test]
fn shapes_move_slice_pad_concat() {
    let body = r#"
  %p = tosa.const_shape {values = dense<[0,0,1,2,0,0]> : tensor<6xindex>} : () -> !tosa.shape<6>
  %a = tosa.pad %x, %p, %z : (tensor<?x3x4xf32>, !tosa.shape<6>, tensor<1xf32>) -> tensor<?x6x4xf32>
  %st = tosa.const_shape {values = dense<[0,1,2]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %sz = tosa.const_shape {values = dense<[-1,3,2]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %s = tosa.slice %a, %st, %sz : (tensor<?x6x4xf32>, !tosa.shape<3>, !tosa.shape<3>) -> tensor<?x3x2xf32>
  %c = tosa.concat %s, %x {axis = 2 : i32} : (tensor<?x3x2xf32>, tensor<?x3x4xf32>) -> tensor<?x3x6xf32>
  %i = tosa.identity %c : (tensor<?x3x6xf32>) -> tensor<?x3x6xf32>
  %r = tosa.transpose %i {perms = array<i32: 0, 2, 1>} : (tensor<?x3x6xf32>) -> tensor<?x6x3xf32>"#;
    let text = main("tensor<?x3x4xf32>", "tensor<?x6x3xf32>", body);
    let program = load(&text).unwrap();
    let ops: Vec<&Op> = program.nodes().iter().map(|node| &node.op).collect();
    assert_eq!(
        ops,
        [
            &Op::from(Pad { pad: vec![[0, 0], [1, 2], [0, 0]], value: 0.0 }),
            &Op::from(Slice { start: vec![0, 1, 2], size: vec![N, Some(3), Some(2)] }),
            &Op::from(Concat { axis: 2 }),
            &Op::from(Transpose { perms: vec![0, 2, 1] }),
        ]
    );
    refused(&text.replace("[0,1,2]", "[0,4,2]"), "reaches out of");
}

#[test]
fn constants_are_folded_through_reshape_and_transpose() {
    let body = r#"
  %w = "tosa.const"() <{values = dense<[[1.,2.,3.],[4.,5.,6.]]> : tensor<2x3xf32>}> : () -> tensor<2x3xf32>
  %t = tosa.transpose %w {perms = array<i32: 1, 0>} : (tensor<2x3xf32>) -> tensor<3x2xf32>
  %s = tosa.const_shape {values = dense<[1,3,2]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %f = tosa.reshape %t, %s : (tensor<3x2xf32>, !tosa.shape<3>) -> tensor<1x3x2xf32>
  %s1 = tosa.const_shape {values = dense<[1,-1,3]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %x1 = tosa.reshape %x, %s1 : (tensor<?x3xf32>, !tosa.shape<3>) -> tensor<1x?x3xf32>
  %m = tosa.matmul %x1, %f, %z, %z : (tensor<1x?x3xf32>, tensor<1x3x2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x2xf32>
  %s2 = tosa.const_shape {values = dense<[-1,2]> : tensor<2xindex>} : () -> !tosa.shape<2>
  %r = tosa.reshape %m, %s2 : (tensor<1x?x2xf32>, !tosa.shape<2>) -> tensor<?x2xf32>"#;
    let program = load(&main("tensor<?x3xf32>", "tensor<?x2xf32>", body)).unwrap();
    assert_eq!(program.nodes().len(), 1);
    let weight = program.values()[program.nodes()[0].inputs[1]].constant.as_ref().unwrap();
    assert_eq!((weight.shape(), weight.values()), (&[2, 3][..], &[1., 2., 3., 4., 5., 6.][..]));
}

#[test]
fn grouped_convolution_and_matmul_of_activations() {
    let body = r#"
  %w = "tosa.const"() <{values = dense<1.0> : tensor<6x3x3x2xf32>}> : () -> tensor<6x3x3x2xf32>
  %b = "tosa.const"() <{values = dense<1.0> : tensor<6xf32>}> : () -> tensor<6xf32>
  %c = tosa.custom %x, %w, %b {operator_name = "conv2d", domain_name = "mxc", implementation_attrs = "stride=2,2;pad=1,1,1,1;dilation=1,1;groups=2"} : (tensor<?x8x8x4xf32>, tensor<6x3x3x2xf32>, tensor<6xf32>) -> tensor<?x4x4x6xf32>
  %s = tosa.const_shape {values = dense<[-1,16,6]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %q = tosa.reshape %c, %s : (tensor<?x4x4x6xf32>, !tosa.shape<3>) -> tensor<?x16x6xf32>
  %k = tosa.transpose %q {perms = array<i32: 0, 2, 1>} : (tensor<?x16x6xf32>) -> tensor<?x6x16xf32>
  %r = tosa.matmul %q, %k, %z, %z : (tensor<?x16x6xf32>, tensor<?x6x16xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x16x16xf32>"#;
    let text = main("tensor<?x8x8x4xf32>", "tensor<?x16x16xf32>", body);
    let program = load(&text).unwrap();
    assert_eq!(
        program.nodes()[0].op,
        Op::from(Conv2d { window: Window { stride: [2, 2], pad: [1; 4], dilation: [1, 1] }, groups: 2, layer: None })
    );
    assert_eq!(program.nodes().last().unwrap().op, Op::from(MatMul));
    refused(&text.replace("groups=2", "group=2"), "cannot read `group=2`");
    refused(&text.replace("groups=2", "groups=x"), "cannot read `groups=x`");
    refused(&text.replace("\"mxc\"", "\"acme\""), "`conv2d` of domain `acme` is unknown");
}

#[test]
fn unsupported_modules_are_refused() {
    refused("module {}", "no function @main");
    refused("func.func private @main(tensor<?x4xf32>) -> tensor<?x4xf32>", "no function @main");
    let all = main(
        "tensor<?x4xf32>",
        "tensor<?x4xf32>",
        "%a = tosa.reverse %x {axis = 1 : i32} : (tensor<?x4xf32>) -> tensor<?x4xf32>\n\
         %r = tosa.erf %a : (tensor<?x4xf32>) -> tensor<?x4xf32>\n\
         %d = tosa.reverse %a {axis = 1 : i32} : (tensor<?x4xf32>) -> tensor<?x4xf32>",
    );
    let error = load(&all).unwrap_err().to_string();
    assert!(error.contains("tosa.reverse at loc(\"-\":3:") && error.contains("loc(\"-\":5:"), "{error}");
    let abs = |kind: &str| main(kind, kind, &format!("%r = tosa.abs %x : ({kind}) -> {kind}"));
    refused(&abs("tensor<?x?xf32>"), "only axis 0, the batch, may be dynamic");
    refused(&abs("tensor<*xf32>"), "must be ranked tensors");
    refused(&abs("tensor<f32>"), "axis 0 must be the batch");
    refused(&abs("tensor<?x4xf16>"), "must be ranked tensors");
    refused("func.func @main(%x: tensor<?x4xf32>) { return }", "@main returns nothing");
    let constant = main("tensor<?x4xf32>", "tensor<1xf32>", "%r = tosa.abs %z : (tensor<1xf32>) -> tensor<1xf32>");
    refused(&constant, "operand 0 is a constant");
    let moved = main(
        "tensor<?x4xf32>",
        "tensor<4x?xf32>",
        "%r = tosa.transpose %x {perms = array<i32: 1, 0>} : (tensor<?x4xf32>) -> tensor<4x?xf32>",
    );
    refused(&moved, "moves the batch");
    let merged = main(
        "tensor<?x4xf32>",
        "tensor<?xf32>",
        "%s = tosa.const_shape {values = dense<[-1]> : tensor<1xindex>} : () -> !tosa.shape<1>\n\
         %r = tosa.reshape %x, %s : (tensor<?x4xf32>, !tosa.shape<1>) -> tensor<?xf32>",
    );
    refused(&merged, "its batch must be axis 0");
    let resource = "module {\n".to_owned()
        + &main(
            "tensor<?x2xf32>",
            "tensor<?x2xf32>",
            "%w = \"tosa.const\"() <{values = dense_resource<blob> : tensor<1x2xf32>}> : () -> tensor<1x2xf32>\n\
             %r = tosa.add %x, %w : (tensor<?x2xf32>, tensor<1x2xf32>) -> tensor<?x2xf32>",
        )
        + "}";
    refused(&resource, "keep large ones in ml_program globals");
}

#[test]
fn an_input_that_is_an_output_gets_an_identity() {
    let text = "func.func @main(%x: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) { return %x, %x : tensor<?x4xf32>, tensor<?x4xf32> }";
    let program = load(text).unwrap();
    assert_eq!(program.nodes().len(), 2);
    let names: Vec<&str> = program.outputs().iter().map(|&id| program.values()[id].name.as_str()).collect();
    assert_eq!(names, ["output0", "output1"]);
    assert_eq!(program.values()[program.outputs()[1]].shape, [N, Some(4)]);
}

#[test]
fn a_module_without_a_batch_keeps_its_axes_and_types() {
    let text = r#"func.func @main(%x: tensor<2x3xf32>, %i: tensor<1x3xi64>) -> (tensor<3x2xf32>, tensor<2xi64>, tensor<2x3xi1>)
        attributes {mxc.whole} {
      %t = tosa.transpose %x {perms = array<i32: 1, 0>} : (tensor<2x3xf32>) -> tensor<3x2xf32>
      %m = tosa.argmax %x {axis = 1 : i32} : (tensor<2x3xf32>) -> tensor<2xi64>
      %p = tosa.custom %x, %i {domain_name = "mxc", operator_name = "pick", implementation_attrs = "axis=1"} : (tensor<2x3xf32>, tensor<1x3xi64>) -> tensor<2x3xf32>
      %g = tosa.greater %p, %x : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xi1>
      return %t, %m, %g : tensor<3x2xf32>, tensor<2xi64>, tensor<2x3xi1>
    }"#;
    let program = load(text).unwrap();
    let value = |id: usize| &program.values()[id];
    let outputs: Vec<_> = program.outputs().iter().map(|&id| (value(id).shape.clone(), value(id).dtype)).collect();
    let fixed = |sizes: &[usize]| sizes.iter().copied().map(Some).collect::<Vec<_>>();
    assert_eq!(outputs, [(fixed(&[3, 2]), DType::F32), (fixed(&[2]), DType::I64), (fixed(&[2, 3]), DType::Bool)]);
    let executor = Executor::new(program.clone(), 1).unwrap();
    let indices = DType::I64.encode(&[2, 2, 0]);
    let inputs: [&[f32]; 2] = [&[1.0, 5.0, 2.0, 7.0, 0.0, 9.0], &indices];
    let key = Key { seed: 0, purpose: Purpose::Eval, pass: 0, chip: 0 };
    let results = executor.forward(Batch { inputs: &inputs, samples: &[0] }, Mode::CLEAN, key).unwrap();
    assert_eq!(results[0], [1.0, 7.0, 5.0, 0.0, 2.0, 9.0]);
    assert_eq!(DType::I64.decode(&results[1]), [1, 2]);
    assert_eq!(DType::Bool.decode(&results[2]), [1, 0, 0, 1, 1, 0]);
    refused(&text.replace("attributes {mxc.whole}", ""), "differs from the first input's");
    refused(&text.replace("axis=1\"", "axis=2\""), "there is no axis 2");
    refused(&text.replace("axis=1\"", "along=1\""), "implementation_attrs: `along=1` has no axis");
    let scatter = |items: &str| {
        text.replace("pick", "scatter").replace("%x, %i {", "%x, %i, %x {").replace(
            "implementation_attrs = \"axis=1\"} : (tensor<2x3xf32>, tensor<1x3xi64>)",
            &format!("implementation_attrs = \"{items}\"}} : (tensor<2x3xf32>, tensor<1x3xi64>, tensor<2x3xf32>)"),
        )
    };
    assert!(load(&scatter("axis=1;reduction=add")).is_ok());
    refused(&scatter("axis=1;reduction=sum"), "reduction is `sum`");
}
