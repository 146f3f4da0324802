use super::*;
use crate::{
    program::{
        Binary, Denoise, Layer as AnalogLayer, MatMul, Reduce, Reduction, Reshape, Scatter, Scattering, Unary, Window,
    },
    store::WeightStore,
};
use mxc_spec::{denoise, noise::LayerNoise};
use prost::Message;

fn weight(shape: &[usize], start: f32) -> Weight {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| start + i as f32).collect();
    Weight::new(shape.to_vec(), values).unwrap()
}

/// A network with weights of every form, and what it is stored with.
fn example() -> (program::Program, WeightStore) {
    let mut weights = WeightStore::new();
    weights.insert("filter", weight(&[2, 3, 3, 1], 0.5));
    weights.insert("product", weight(&[1, 2, 5], -3.0));
    weights.insert("bias", weight(&[1], 0.0));
    weights.insert("scale", weight(&[5], 1.0));
    weights.insert("shift", Weight::fill(vec![5], 0.0).unwrap());

    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, vec![None, Some(4), Some(4), Some(1)]).unwrap();
    let filter = builder.constant("filter", weights.get("filter").unwrap().clone(), false).unwrap();
    let zeros = builder.constant("", Weight::fill(vec![2], 0.0).unwrap(), false).unwrap();
    let window = Window { stride: [1, 1], pad: [1, 1, 1, 1], dilation: [1, 1] };
    let y = builder.node(program::Conv2d { window, groups: 1, layer: None }, &[x, filter, zeros]).unwrap();
    let y = builder.node(Unary::Clamp { min: 0.0, max: f32::INFINITY }, &[y]).unwrap();
    let y = builder.node(Reduce { kind: Reduction::Sum, axis: 1 }, &[y]).unwrap();
    let y = builder.node(Reduce { kind: Reduction::Max, axis: 2 }, &[y]).unwrap();
    let y = builder.node(Reshape { shape: vec![None, Some(2)] }, &[y]).unwrap();
    let transposed = weights.get("product").unwrap().reshaped(vec![2, 5]).unwrap().transposed(&[1, 0]).unwrap();
    let product = builder.constant("product", transposed, false).unwrap();
    let bias = builder.constant("bias", Weight::new(vec![5], vec![0.0; 5]).unwrap(), false).unwrap();
    let measured =
        program::Calibration { samples: 7, rms: 0.1, absmax: 1.5, mean_abs: 0.2, std: 0.3, input_absmax: 2.0 };
    let layer = AnalogLayer {
        name: "fc".into(),
        channels: 5,
        noise: LayerNoise::default(),
        calibration: Some(measured),
        columns: Some(program::Columns {
            shift: vec![0, 3, 15, 1, 0],
            calibration: program::Calibration { rms: 0.7, absmax: 4.5, ..measured },
        }),
        input_range: Some(1.25),
        execution: program::Execution::Analog { reads: 3 },
    };
    let layer = builder.layer(layer).unwrap();
    let y = builder.node(program::FullyConnected { layer: Some(layer) }, &[y, product, bias]).unwrap();
    let scale = builder.constant("scale", weights.get("scale").unwrap().clone(), true).unwrap();
    let shift = builder.constant("shift", weights.get("shift").unwrap().clone(), true).unwrap();
    let kind = denoise::Kind::named("affine").unwrap();
    let logits = builder.node(Denoise { layer, kind }, &[y, scale, shift]).unwrap();
    let indices = builder.integers("", DType::I64, vec![1, 2], &[3, -1]).unwrap();
    let updates = builder.constant("", Weight::new(vec![1, 2], vec![-0.0, f32::MIN_POSITIVE]).unwrap(), false).unwrap();
    let scattered = builder.node(Scatter { axis: 1, reduction: Scattering::Add }, &[logits, indices, updates]).unwrap();
    // softmax(logits), as TOSA spells it.
    let power = builder.node(Unary::Exp, &[logits]).unwrap();
    let sum = builder.node(Reduce { kind: Reduction::Sum, axis: 1 }, &[power]).unwrap();
    let inverse = builder.node(Unary::Reciprocal, &[sum]).unwrap();
    let softmax = builder.node(Binary::Mul, &[power, inverse]).unwrap();
    builder.output(scattered, "scattered").unwrap();
    builder.output(softmax, "softmax").unwrap();
    builder.output(x, "again").unwrap();
    let program = builder.finish(1).unwrap();
    assert_eq!(program.logits(), logits);
    (program, weights)
}

#[test]
fn programs_survive() {
    let (program, weights) = example();
    let message = Program::new(&program, &weights).unwrap();
    let bytes = message.encode_to_vec();
    let read = Program::decode(&*bytes).unwrap().read(&weights).unwrap();
    assert_eq!(read, program);
    assert_eq!(Program::new(&read, &weights).unwrap().encode_to_vec(), bytes);
    let constants: Vec<_> = message
        .values
        .iter()
        .filter_map(|value| match &value.what {
            Some(value::What::Constant(constant)) => Some((constant.name.as_str(), constant.values.clone().unwrap())),
            _ => None,
        })
        .collect();
    let words = |values: &[u32]| constant::Values::Words(values.iter().flat_map(|word| word.to_le_bytes()).collect());
    assert_eq!(
        constants,
        [
            ("filter", constant::Values::Stored(0)),
            ("", constant::Values::Fill(0.0)),
            ("product", constant::Values::Stored(2)),
            // Not the weight of its name: one value for every channel.
            ("bias", words(&[0; 5])),
            ("scale", constant::Values::Stored(0)),
            ("shift", constant::Values::Stored(0)),
            ("", words(&[3, 0, u32::MAX, u32::MAX])),
            ("", words(&[1 << 31, f32::MIN_POSITIVE.to_bits()])),
        ]
    );
    // What is trained follows the store.
    let mut trained = weights.clone();
    trained.insert("scale", weight(&[5], 9.0));
    let other = message.read(&trained).unwrap();
    assert_ne!(other, program);
    assert_eq!(other.values()[program.nodes()[6].inputs[1]].constant, Some(weight(&[5], 9.0)));
}

#[test]
fn damage_is_an_error_or_a_program() {
    let (program, weights) = example();
    let bytes = Program::new(&program, &weights).unwrap().encode_to_vec();
    let mut read = 0;
    let mut check = |bytes: &[u8]| {
        let Ok(message) = Program::decode(bytes) else { return };
        if let Ok(program) = message.read(&weights) {
            read += 1;
            // What can be read can be written.
            assert!(Program::new(&program, &weights).is_ok());
        }
    };
    for len in 0..bytes.len() {
        check(&bytes[..len]);
    }
    for index in 0..bytes.len() {
        for byte in (0..8).map(|bit| bytes[index] ^ 1 << bit).chain([0, 1, 127, 128, 255]) {
            let mut damaged = bytes.clone();
            damaged[index] = byte;
            check(&damaged);
        }
    }
    assert!(read > 100, "{read}");
}

#[test]
fn wrong_messages_are_refused_with_a_reason() {
    let (program, weights) = example();
    let good = Program::new(&program, &weights).unwrap();
    let refuse = |message: &Program, weights: &WeightStore, needle: &str| {
        let error = message.read(weights).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}: not {needle}");
    };
    let change = |change: &dyn Fn(&mut Program), needle: &str| {
        let mut message = good.clone();
        change(&mut message);
        refuse(&message, &weights, needle);
    };
    let constant = |name: &'static str, change: &dyn Fn(&mut Constant)| {
        let mut message = good.clone();
        for value in &mut message.values {
            match &mut value.what {
                Some(value::What::Constant(constant)) if constant.name == name => change(constant),
                _ => {}
            }
        }
        message
    };
    let node = |number: usize, change: &dyn Fn(&mut Node)| {
        let mut message = good.clone();
        let nodes = message.values.iter_mut().filter_map(|value| match &mut value.what {
            Some(value::What::Node(node)) => Some(node),
            _ => None,
        });
        change(nodes.into_iter().nth(number).unwrap());
        message
    };
    for name in ["filter", "product", "scale"] {
        let mut fewer = weights.clone();
        fewer.remove(name);
        refuse(&good, &fewer, &format!("constant `{name}`: there is no weight"));
    }
    let mut other = weights.clone();
    other.insert("filter", weight(&[2, 3], 0.0));
    refuse(&good, &other, "do not fit its shape");
    change(&|message| message.task = "chess".into(), "the task `chess` is not known");
    change(&|message| message.chosen = 3, "it has no output 3");
    change(&|message| message.chosen = u64::MAX, "too large");
    change(&|message| message.outputs[0].value = 999, "there is no value 999");
    change(&|message| message.outputs[0].value = 1, "it has no batch");
    change(&|message| message.layers[0].noise_spec = "gausian(sigma=6%)".into(), "layer `fc`");
    change(&|message| message.layers[0].noise_scale = "huge".into(), "layer `fc`");
    change(&|message| message.layers[0].channels = 4, "it has 5 column shifts for 4 channels");
    change(
        &|message| {
            message.layers[0].channels = 4;
            message.layers[0].columns = None;
        },
        "its layer has not the channels",
    );
    let columns = |message: &mut Program, change: &dyn Fn(&mut Columns)| {
        message.layers[0].columns.as_mut().into_iter().for_each(change);
    };
    change(&|message| columns(message, &|columns| columns.shift[1] = 16), "the column shift 16 is not 0 to 15");
    change(&|message| columns(message, &|columns| columns.shift[1] = 300), "a column shift is too large");
    change(&|message| columns(message, &|columns| columns.calibration = None), "its columns have no calibration");
    change(&|message| message.layers[0].reads = Some(0), "it is read 0 times, not 1 to 64");
    change(&|message| message.layers[0].reads = Some(65), "it is read 65 times, not 1 to 64");
    change(&|message| message.layers[0].input_range = Some(0.0), "its input range 0 is not above 0");
    change(&|message| message.layers[0].input_range = Some(f64::NAN), "its input range NaN is not above 0");
    change(&|message| message.layers[0].digital = true, "it is computed digitally, and read");
    change(&|message| message.layers.push(message.layers[0].clone()), "it appears twice");
    change(
        &|message| message.layers.push(Layer { name: "b".into(), ..message.layers[0].clone() }),
        "layer `b`: no operation runs on it",
    );
    change(&|message| message.layers.clear(), "its layer does not exist");
    change(&|message| message.values[0].what = None, "value 0: it is neither");
    for shape in [vec![-1, 4, -1, 1], vec![-1, 4, 0, 1], vec![-1, 4, -2, 1], vec![4, i64::MAX, 4, 4]] {
        let input = Input { name: "x".into(), kind: "f32".into(), shape };
        change(&|message| message.values[0].what = Some(value::What::Input(input.clone())), "input `x`");
    }
    change(
        &|message| {
            let input = Input { name: "z".into(), kind: "f32".into(), shape: vec![3] };
            message.values.push(Value { what: Some(value::What::Input(input)) });
        },
        "some have a batch",
    );
    let long = Input { name: "x".into(), kind: "f32".into(), shape: vec![1; 1000] };
    change(&|message| message.values[0].what = Some(value::What::Input(long.clone())), "1000 axes");
    refuse(&constant("filter", &|constant| constant.kind = "f64".into()), &weights, "`f64` is no type");
    refuse(&constant("filter", &|constant| constant.kind = "i32".into()), &weights, "must hold its words");
    refuse(&constant("filter", &|constant| constant.values = None), &weights, "it has no values");
    refuse(&constant("filter", &|constant| constant.shape = vec![1 << 40; 4]), &weights, "too large");
    refuse(&constant("filter", &|constant| constant.trainable = true), &weights, "only the weights of denoisers");
    refuse(&constant("scale", &|constant| constant.trainable = false), &weights, "its weights must be trainable");
    refuse(&constant("shift", &|constant| constant.name = "scale".into()), &weights, "a name of its own");
    refuse(
        &constant("product", &|constant| constant.values = Some(constant::Values::Stored(3))),
        &weights,
        "its 10 values are no 3 rows",
    );
    refuse(
        &constant("bias", &|constant| constant.values = Some(constant::Values::Words(vec![0; 19]))),
        &weights,
        "do not fit its shape",
    );
    refuse(&node(0, &|node| node.operator = None), &weights, "operation 0: it has no operator");
    refuse(&node(0, &|node| node.inputs.clear()), &weights, "it has no operands");
    refuse(&node(0, &|node| node.inputs[1] = 77), &weights, "there is no value 77");
    refuse(&node(0, &|node| node.inputs[0] = 3), &weights, "there is no value 3");
    let operator = |number: usize, operator: node::Operator, needle: &str| {
        refuse(&node(number, &|node| node.operator = Some(operator.clone())), &weights, needle);
    };
    let unary = |function: &str, arguments: &[f32]| {
        node::Operator::Unary(super::Unary { function: function.into(), arguments: arguments.to_vec() })
    };
    operator(1, unary("relu", &[]), "`relu`");
    operator(1, unary("exp", &[1.0]), "`exp`");
    operator(1, unary("clamp", &[1.0, 0.0]), "`clamp`");
    operator(1, unary("clamp", &[f32::NAN, 0.0]), "`clamp`");
    let denoise = |layer, kind: &str| node::Operator::Denoise(super::Denoise { layer, kind: kind.into() });
    operator(6, denoise(0, "magic"), "there is no denoiser `magic`");
    operator(6, denoise(1, "affine"), "its layer does not come before it");
    operator(6, denoise(0, "paper"), "operands, not");
    operator(2, node::Operator::Reduce(super::Reduce { kind: "mean".into(), axis: 1 }), "`mean` is no reduction");
    operator(2, node::Operator::Reduce(super::Reduce { kind: "sum".into(), axis: 9 }), "there is no axis 9");
    operator(2, node::Operator::Tile(super::Tile { repeats: vec![1, 1 << 50, 1 << 10, 1] }), "too large");
    operator(2, node::Operator::Slice(super::Slice { start: vec![0; 4], size: vec![-1, 0, 1, 1] }), "is empty");
}

/// A weight may be transposed as often as a package needs, not as often as a small message can ask for.
#[test]
fn copies_are_bounded() {
    let mut weights = WeightStore::new();
    weights.insert("w", weight(&[64, 64], 0.0));
    let value = |rows: u64| Value {
        what: Some(value::What::Constant(Constant {
            name: "w".into(),
            kind: "f32".into(),
            shape: vec![4096],
            trainable: false,
            values: Some(constant::Values::Stored(rows)),
        })),
    };
    let read = |rows: &[u64]| {
        let message = Program {
            values: rows.iter().map(|&rows| value(rows)).collect(),
            outputs: vec![Output { value: 0, name: "w".into() }],
            task: "classification".into(),
            ..Program::default()
        };
        message.read(&weights)
    };
    read(&[64; 1000]).unwrap();
    let error = read(&[2, 4, 8, 16]).unwrap_err().to_string();
    assert!(error.contains("in too many ways"), "{error}");
}

#[test]
fn products_of_activations_survive() {
    let mut builder = Builder::new();
    let x = builder.input("", DType::F32, vec![Some(2), Some(3)]).unwrap();
    let y = builder.input("y", DType::I32, vec![]).unwrap();
    let x3 = builder.node(Reshape { shape: vec![Some(1), Some(2), Some(3)] }, &[x]).unwrap();
    let turned = builder.node(program::Transpose { perms: vec![0, 2, 1] }, &[x3]).unwrap();
    let product = builder.node(MatMul, &[x3, turned]).unwrap();
    builder.output(product, "product").unwrap();
    builder.output(x, "x").unwrap();
    let cast = builder.node(program::Cast { to: DType::Bool }, &[y]).unwrap();
    builder.output(cast, "cast").unwrap();
    let program = builder.finish(0).unwrap();
    let weights = WeightStore::new();
    assert_eq!(Program::new(&program, &weights).unwrap().read(&weights).unwrap(), program);
}

/// Every message's fields as `name: type = tag`, read from the schema and from the prost attributes.
#[test]
fn schema_and_messages_agree() {
    let mut from_schema = Vec::new();
    let (mut message, mut depth) = (String::new(), 0);
    for line in include_str!("../../../proto/program.proto").lines().map(str::trim) {
        let words: Vec<&str> = line.trim_end_matches([';', '{']).split_whitespace().collect();
        match words.as_slice() {
            ["//", ..] | ["package" | "syntax", ..] | [] => {}
            ["message", name] => message = (*name).to_owned(),
            ["message", name, "}"] | ["message", name, "{}"] => message = (*name).to_owned(),
            ["oneof", _] => depth = 1,
            ["}"] => depth = 0,
            [kind, _, "=", tag] if depth == 1 => from_schema.push(format!("{message} of {kind} = {tag}")),
            [fields @ .., name, "=", tag] => {
                from_schema.push(format!("{message}.{name}: {} = {tag}", fields.join(" ")));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut from_source = Vec::new();
    let (mut message, mut attribute) = (String::new(), Vec::new());
    for line in include_str!("message.rs").lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ").or(line.strip_prefix("/// The choices of [`")) {
            message = name.trim_end_matches([' ', '{', '}', '.', ']', '`']).to_owned();
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = rest.trim_end_matches(")]").split(", ").collect();
        } else if attribute.first().is_some_and(|kind| kind.starts_with("oneof")) {
            attribute.clear();
        } else if let [kind, labels @ .., tag] = attribute.as_slice() {
            let tag = tag.trim_start_matches("tag = ").trim_matches('"');
            let inner = |text: &str| {
                let text = text.trim_end_matches([',', ')', '>']);
                text.rsplit(['<', '(', ' ', ':']).next().unwrap_or_default().to_owned()
            };
            let kind = match *kind {
                "message" => inner(line),
                kind => kind.split(' ').next().unwrap_or_default().to_owned(),
            };
            match line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                Some((name, _)) => {
                    let label = labels.first().map(|label| format!("{label} ")).unwrap_or_default();
                    from_source.push(format!("{message}.{name}: {label}{kind} = {tag}"));
                }
                None => from_source.push(format!("{message} of {kind} = {tag}")),
            }
            attribute.clear();
        }
    }
    from_schema.sort();
    from_source.sort();
    assert_eq!(from_schema, from_source);
    assert!(from_schema.len() > 80);
}
