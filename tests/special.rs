//! The cases of `data/special.npz`, which `data/special.py` explains: operators at the edges of f32, operators on indices. And
//! gradients where a derivative is infinite or undefined.

use crate::{
    onnx_model::{Model, int, ints},
    reference::{Array, Case, cases_of, execute},
};
use melior::{Context, ir::Module};
use mxc_compiler::{
    import::{self, ImportOptions},
    load,
    pass::{PassContext, Pipeline, RunOptions, run_pipeline},
    passes::REGISTRY,
};
use mxc_runtime::{
    exec::{Batch, Executor},
    store::WeightStore,
};
use std::path::Path;

/// What compile makes of a model before it places denoisers.
fn compiled<'c>(context: &'c Context, mut module: Module<'c>, weights: WeightStore) -> (Module<'c>, WeightStore) {
    let mut cx = PassContext::with_weights(weights);
    let pipeline = Pipeline::parse(&REGISTRY, "canonicalize-graph,map-to-analog,annotate-noise").unwrap();
    run_pipeline(context, &mut module, &pipeline, &mut cx, &RunOptions::default()).unwrap();
    (module, cx.weights)
}

/// Infinities (with their signs) and NaN must be where the reference has them; the rest is within 1e-5 of each element, which the
/// rounding of a few operations in a row is, and 1e-6, which is what eˣ − 1 loses near 0.
fn compare(found: &[f32], reference: &Array) -> Result<(), String> {
    if found.len() != reference.values.len() {
        return Err(format!("{} values instead of {}", found.len(), reference.values.len()));
    }
    let close = |found: f32, wanted: f32| match wanted.is_finite() {
        true => (found - wanted).abs() <= 1e-5 * wanted.abs() + 1e-6,
        false => found == wanted || found.is_nan() && wanted.is_nan(),
    };
    let wrong: Vec<String> = found
        .iter()
        .zip(&reference.values)
        .enumerate()
        .filter(|(_, (found, wanted))| !close(**found, **wanted))
        .map(|(at, (found, wanted))| format!("{found:e} instead of {wanted:e} at {at}"))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong[..wrong.len().min(4)].join(", ")) }
}

fn check(case: &Case) -> Result<(), String> {
    let context = mxc_dialects::new_context();
    let imported = import::onnx_bytes(&context, &case.model, &case.name, Path::new("."), &ImportOptions::default())
        .map_err(|error| error.to_string())?;
    let inputs: Vec<_> = imported.source.inputs.iter().map(|input| &case.inputs[&input.name]).collect();
    let same = |module: &Module<'_>, weights: &WeightStore| {
        let found = execute(module, weights, &inputs)?;
        compare(&found[0], &case.outputs[&imported.source.outputs[0]])
    };
    same(&imported.module, &imported.weights)?;
    let (module, weights) = compiled(&context, imported.module, imported.weights);
    same(&module, &weights).map_err(|error| format!("after the passes: {error}"))
}

#[test]
fn edge_values_and_indices_are_as_onnx_has_them() {
    let cases = cases_of("special.npz");
    assert!(cases.len() > 400);
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| check(case).err().map(|error| format!("{}: {error}", case.name))).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A convolution whose padding makes vectors of zeros, then what is given, `c` → `y`.
fn padded(rest: impl FnOnce(Model) -> Model) -> Model {
    let model = Model::new()
        .opset(20)
        .input("x", &[0, 3, 4, 4])
        .weight("w", &[3, 3, 3, 3])
        .floats("zero", &[], &[0.0])
        .floats("one", &[], &[1.0])
        .floats("least", &[], &[1e-12])
        .floats("half", &[], &[0.5])
        .tensor(onnx_protobuf::TensorProto {
            name: "axis".to_owned(),
            dims: vec![1],
            data_type: 7,
            int64_data: vec![1],
            ..Default::default()
        })
        .node("conv", "Conv", "x w", "c", &[ints("pads", &[3, 3, 3, 3])]);
    rest(model).node("", "GlobalAveragePool", "y", "p", &[]).node("", "Flatten", "p", "logits", &[]).output("logits")
}

/// Whatever divides by the norm of a vector of zeros, or hides an undefined value behind a selection, leaves the gradient of the
/// layer before it finite, and not zero: the other vectors count.
#[test]
fn zero_vectors_leave_gradients_finite() {
    let keep = [int("keepdims", 1)];
    type Rest<'a> = Box<dyn FnOnce(Model) -> Model + 'a>;
    let networks: [(&str, Rest<'_>); 11] = [
        ("LpNormalization", Box::new(|m| m.node("", "LpNormalization", "c", "y", &[int("axis", 1), int("p", 2)]))),
        ("LpNormalization, p 1", Box::new(|m| m.node("", "LpNormalization", "c", "y", &[int("axis", 1), int("p", 1)]))),
        (
            "ReduceL2, Clip, Div",
            Box::new(|m| {
                m.node("", "ReduceL2", "c axis", "n", &keep).node("", "Clip", "n least", "k", &[]).node(
                    "",
                    "Div",
                    "c k",
                    "y",
                    &[],
                )
            }),
        ),
        (
            "Sqrt of ReduceSumSquare, Max, Div",
            Box::new(|m| {
                m.node("", "ReduceSumSquare", "c axis", "s", &keep)
                    .node("", "Sqrt", "s", "n", &[])
                    .node("", "Max", "n half", "k", &[])
                    .node("", "Div", "c k", "y", &[])
            }),
        ),
        (
            "Pow of a half",
            Box::new(|m| {
                m.node("", "ReduceSumSquare", "c axis", "s", &keep)
                    .node("", "Pow", "s half", "n", &[])
                    .node("", "Add", "n one", "k", &[])
                    .node("", "Div", "c k", "y", &[])
            }),
        ),
        ("Sqrt of squares", Box::new(|m| m.node("", "Mul", "c c", "s", &[]).node("", "Sqrt", "s", "y", &[]))),
        (
            "division by zero behind Where",
            Box::new(|m| {
                m.node("", "ReduceL2", "c axis", "n", &keep)
                    .node("", "Div", "c n", "q", &[])
                    .node("", "Equal", "n zero", "e", &[])
                    .node("", "Where", "e zero q", "y", &[])
            }),
        ),
        (
            "product with a reciprocal behind Where",
            Box::new(|m| {
                m.node("", "ReduceL1", "c axis", "n", &keep)
                    .node("", "Reciprocal", "n", "r", &[])
                    .node("", "Tanh", "r", "t", &[])
                    .node("", "Mul", "c r", "q", &[])
                    .node("", "Equal", "n zero", "e", &[])
                    .node("", "Where", "e t q", "y", &[])
            }),
        ),
        (
            "Sqrt and Log of negatives behind Where",
            Box::new(|m| {
                m.node("", "Sqrt", "c", "q", &[])
                    .node("", "Log", "c", "l", &[])
                    .node("", "Add", "q l", "a", &[])
                    .node("", "Greater", "c zero", "g", &[])
                    .node("", "Where", "g a c", "y", &[])
            }),
        ),
        (
            "NaN taken out",
            Box::new(|m| {
                m.node("", "Sqrt", "c", "q", &[]).node("", "IsNaN", "q", "i", &[]).node(
                    "",
                    "Where",
                    "i zero q",
                    "y",
                    &[],
                )
            }),
        ),
        (
            "the greatest of a hidden pole",
            Box::new(|m| {
                m.node("", "Abs", "c", "a", &[])
                    .node("", "Reciprocal", "a", "r", &[])
                    .node("", "Min", "r one", "k", &[])
                    .node("", "Mul", "k c", "y", &[])
            }),
        ),
    ];
    let x: Vec<f32> = (0..48).map(|index| ((index * 7 + 3) % 13) as f32 / 8.0 - 0.7).collect();
    for (name, rest) in networks {
        let context = mxc_dialects::new_context();
        let model = padded(rest).bytes();
        let imported = import::onnx_bytes(&context, &model, name, Path::new("."), &ImportOptions::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (module, weights) = compiled(&context, imported.module, imported.weights);
        let program = load::program(&module, &weights).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(program.layers().len(), 1, "{name}");
        let executor = Executor::new(program, 1).unwrap();
        let norms = executor.sensitivity(&mut [Batch { inputs: &[&x], samples: &[0] }].into_iter(), &[1]).unwrap();
        assert!(norms[0].is_finite() && norms[0] > 0.0, "{name}: {norms:?}");
    }
}

/// What depends on how many values meet a condition, or on the batch where samples are apart, is refused by name.
#[test]
fn indices_that_cannot_be_are_refused() {
    let error = |model: Model| {
        let context = mxc_dialects::new_context();
        let bytes = model.bytes();
        match import::onnx_bytes(&context, &bytes, "model.onnx", Path::new("."), &ImportOptions::default()) {
            Ok(_) => "imported".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let base = || Model::new().input("x", &[0, 3, 4]);
    let found = error(base().node("found", "NonZero", "x", "y", &[]).output("y"));
    assert!(found.contains("the shape of its result depends on the values of its input"), "{found}");
    let many = onnx_protobuf::TensorProto {
        name: "k".to_owned(),
        dims: vec![1],
        data_type: 7,
        int64_data: vec![5],
        ..Default::default()
    };
    let top = error(base().tensor(many).node("top", "TopK", "x k", "y i", &[int("axis", 1)]).output("y"));
    assert!(top.contains("its k is 5, its axis 1 has 3 elements"), "{top}");
    let sums = base().tensor(onnx_protobuf::TensorProto {
        name: "a".to_owned(),
        data_type: 7,
        int64_data: vec![0],
        ..Default::default()
    });
    let sums = error(sums.node("sums", "CumSum", "x a", "y", &[]).output("y"));
    assert!(sums.contains("it sums over the batch"), "{sums}");
}
