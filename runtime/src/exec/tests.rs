//! The executor against the plain f64 reference: values in every mode, gradients by finite differences, bit-equality.

use super::{reference::Run, sample::Sample, testing::Net, *};
use crate::{
    digital::program::{Buffer, Scheduled, Step, TileProgram},
    law::{self, NoiseLaw},
    program::{
        Binary, Broadcast, Concat, Conv2d, CumSum, DenoiseTile, Execution, GridSample, Interpolation, MatMul, Op, Pad,
        Padding, Pick, Pool, Pooling, Reduce, Reduction, Sampling, Scatter, Scattering, Select, Tile, TopK, Transpose,
        Unary, Window,
    },
};
use crate::{ops::reference::Exact, plan::Plan};
use mxc_spec::{
    denoise::{
        KINDS, Kind, Stage,
        expression::{Expression, Primitive},
    },
    noise::{LayerNoise, MODELS, ModelInfo, NoiseSpec, Reference, Scale, Site},
};
use std::{
    cell::RefCell,
    sync::{
        LazyLock, Once,
        atomic::{AtomicBool, Ordering},
    },
};

const KEY: Key = Key { seed: 7, purpose: Purpose::Train, pass: 3, chip: 0 };
const TRAIN: PlanKey = PlanKey { noise: true, denoise: true, goal: Goal::Train };
const MODES: [Mode; 4] = [Mode::CLEAN, Mode::NOISY, Mode::DENOISED, Mode::CLEAN_DENOISED];
/// A denoised run without noise whose blocks sample.
const SAMPLING: Mode = Mode { noise: false, denoise: true, sampling: true };

fn kind(name: &str) -> &'static Kind {
    Kind::named(name).unwrap()
}

/// The paper's block in a form for which there is no kernel: σ̂ ⊙ ε.
static UNFUSED: LazyLock<Kind> = LazyLock::new(|| {
    Kind::new("unfused", "", Stage::Block, || {
        let paper = kind("paper").expression();
        let mut terms = paper.terms().to_vec();
        for term in &mut terms {
            if let Primitive::Multiply([a, b]) = &mut term.primitive {
                std::mem::swap(a, b);
            }
        }
        Expression::new(terms, paper.parameters().to_vec())
    })
});

/// Small networks that between them hold every operation, each behind a trainable denoiser.
fn networks() -> Vec<(String, Program)> {
    let mut all: Vec<(String, Program)> = Vec::new();
    for (scale, reference) in [
        (Scale::Range, Reference::Rms),
        (Scale::Constant, Reference::Absmax),
        (Scale::Constant, Reference::MeanAbs),
        (Scale::Constant, Reference::Std),
        (Scale::Signal, Reference::Rms),
        (Scale::Signal, Reference::Absmax),
        (Scale::Signal, Reference::MeanAbs),
        (Scale::Signal, Reference::Std),
    ] {
        let mut net = start(scale);
        net.noise.reference = reference;
        net.noise.spec = "gaussian(sigma=8%,mu=2%)+gaussian(sigma=4%,lifetime=chip)".parse().unwrap();
        let x = net.input(&[5, 6, 2]);
        let x = net.conv(x, 8, 3, 1, 1);
        let x = net.block(x, true, 0.4);
        let x = net.affine(x);
        let x = net.relu(x);
        let y = net.conv(x, 8, 3, 1, 1);
        let y = net.block(y, false, 0.4);
        let x = net.binary(Binary::Add, x, y);
        let x = net.unary(Unary::Clamp { min: -0.5, max: 0.7 }, x);
        let x = net.conv(x, 6, 3, 2, 1);
        all.push((format!("residual, {scale} {reference}"), net.classify(x, 4)));
    }
    // Every model, and noise of the input.
    for (scale, site) in
        [Scale::Range, Scale::Signal].into_iter().flat_map(|scale| [(scale, Site::Input), (scale, Site::Output)])
    {
        for info in models() {
            let mut net = start(scale);
            let spec = format!("{}+{}", example(info, ""), example(info, ",lifetime=chip"));
            net.noise.spec = spec.parse().unwrap();
            net.noise.spec.components[0].site = site;
            let x = net.input(&[4, 5, 3]);
            let x = net.conv(x, 8, 3, 1, 1);
            let x = net.affine(x);
            let x = net.conv(x, 6, 3, 1, 1);
            all.push((format!("{spec}, {scale}, the first at the {site}"), net.classify(x, 4)));
        }
    }
    // A fully connected layer on pixels, as ConvNeXt has it.
    let mut net = start(Scale::Range);
    let x = net.input(&[3, 4, 5]);
    let x = net.linear(x, 8);
    let x = net.denoiser(kind("paper"), x, false, 0.4);
    let x = net.relu(x);
    let x = net.conv(x, 6, 3, 1, 1);
    all.push(("fully connected on pixels".to_owned(), net.classify(x, 4)));
    // Every kind of denoiser, over rows and columns and not, before and behind a layer.
    for kind in KINDS.into_iter().chain([&*UNFUSED]) {
        for spatial in [true, false] {
            let mut net = start(Scale::Signal);
            let x = net.input(&[4, 3, 5]);
            let x = if spatial { net.conv(x, 16, 3, 1, 1) } else { net.linear(x, 16) };
            let x = net.denoiser(kind, x, spatial, 0.4);
            let x = net.relu(x);
            let x = if spatial { net.conv(x, 7, 1, 1, 1) } else { net.linear(x, 7) };
            let x = net.denoiser(kind, x, spatial, 0.4);
            all.push((format!("{kind:?}, {spatial}"), net.classify(x, 4)));
        }
    }
    // Convolutions of many geometries.
    type Geometry = (usize, [usize; 2], [usize; 2], [usize; 4], [usize; 2], usize);
    let geometries: [Geometry; 9] = [
        (7, [1, 1], [1, 1], [0; 4], [1, 1], 1),
        (8, [3, 3], [2, 2], [1, 0, 1, 1], [1, 1], 1),
        (8, [3, 2], [1, 2], [2, 1, 0, 1], [2, 1], 1),
        (8, [3, 3], [1, 1], [1; 4], [1, 1], 8),
        (8, [3, 3], [2, 2], [1, 1, 0, 1], [1, 1], 8),
        (8, [2, 3], [2, 1], [0, 1, 2, 1], [2, 2], 8),
        (16, [3, 3], [1, 1], [1; 4], [1, 1], 8),
        (8, [3, 3], [2, 2], [1; 4], [1, 1], 2),
        (8, [5, 5], [1, 1], [2; 4], [1, 1], 1),
    ];
    for (outputs, kernel, stride, pad, dilation, groups) in geometries {
        let mut net = start(Scale::Range);
        let x = net.input(&[7, 6, 3]);
        let x = net.conv(x, 8, 1, 1, 1);
        let x = net.affine(x);
        let x = net.conv_with(x, outputs, kernel, stride, pad, dilation, groups);
        let x = net.affine(x);
        all.push((format!("convolution {kernel:?} {stride:?} {pad:?} {dilation:?} {groups}"), net.classify(x, 4)));
    }
    for op in [
        Unary::Clamp { min: -0.3, max: 0.4 },
        Unary::Sigmoid,
        Unary::Tanh,
        Unary::Erf,
        Unary::Exp,
        Unary::Abs,
        Unary::Negate,
        Unary::Identity,
        Unary::Floor,
        Unary::Ceil,
    ] {
        all.push((format!("{op:?}"), elementwise(|net, x| net.unary(op, x))));
    }
    // Not Round, whose gradient passes straight through.
    for op in [Unary::Sin, Unary::Cos, Unary::Atan, Unary::Sinh, Unary::Cosh, Unary::Asinh] {
        all.push((format!("{op:?}"), elementwise(|net, x| net.unary(op, x))));
    }
    for op in [Unary::Tan, Unary::Asin, Unary::Acos, Unary::Atanh] {
        all.push((
            format!("{op:?}"),
            elementwise(|net, x| {
                let x = net.unary(Unary::Tanh, x);
                net.unary(op, x)
            }),
        ));
    }
    all.push((
        "acosh".into(),
        elementwise(|net, x| {
            let x = net.unary(Unary::Exp, x);
            let two = net.constant(&[1, 1, 1, 1], vec![2.0], false);
            let x = net.binary(Binary::Add, x, two);
            net.unary(Unary::Acosh, x)
        }),
    ));
    all.push((
        "selection".into(),
        elementwise(|net, x| {
            let zero = net.constant(&[1, 1, 1, 1], vec![0.0], false);
            let positive = net.greater(x, zero);
            let y = net.affine(x);
            let row = net.slice(y, &[0, 1, 0, 0], &[1, 5, 8]);
            net.node(Select, &[positive, x, row])
        }),
    ));
    all.push((
        "repeating and taking".into(),
        elementwise(|net, x| {
            let x = net.node(Tile { repeats: vec![1, 2, 1, 3] }, &[x]);
            let x = net.take(x, 2, &[4, 0, 0, 2]);
            net.take(x, 1, &[7, 1, 3])
        }),
    ));
    for op in [Unary::Log, Unary::Reciprocal, Unary::Rsqrt] {
        all.push((
            format!("{op:?}"),
            elementwise(|net, x| {
                let x = net.unary(Unary::Exp, x);
                net.unary(op, x)
            }),
        ));
    }
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min] {
        for shape in [vec![1, 4, 5, 8], vec![1, 1, 1, 8], vec![1, 1, 1, 1], vec![1, 4, 1, 1], vec![1, 1, 5, 8]] {
            all.push((
                format!("{op:?} constant {shape:?}"),
                elementwise(|net, x| {
                    let c = net.weight(&shape, 1.0, false);
                    let x = net.binary(op, x, c);
                    net.binary(op, c, x)
                }),
            ));
        }
        all.push((
            format!("{op:?} both ways"),
            elementwise(|net, x| {
                let y = net.affine(x);
                let y = net.unary(Unary::Tanh, y);
                net.binary(op, x, y)
            }),
        ));
        all.push((format!("{op:?} with itself"), elementwise(|net, x| net.binary(op, x, x))));
    }
    all.push((
        "batch normalisation".into(),
        elementwise(|net, x| {
            let scale = net.weight(&[1, 1, 1, 8], 1.0, false);
            let shift = net.weight(&[1, 1, 1, 8], 1.0, false);
            let y = net.binary(Binary::Mul, scale, x);
            let y = net.binary(Binary::Add, y, shift);
            let y = net.relu(y);
            net.node(Concat { axis: 3 }, &[x, y])
        }),
    ));
    all.push((
        "power".into(),
        elementwise(|net, x| {
            let y = net.affine(x);
            let x = net.unary(Unary::Exp, x);
            net.binary(Binary::Pow, x, y)
        }),
    ));
    all.push((
        "SiLU".into(),
        elementwise(|net, x| {
            let s = net.unary(Unary::Sigmoid, x);
            net.binary(Binary::Mul, s, x)
        }),
    ));
    all.push((
        "squeeze and excitation".into(),
        elementwise(|net, x| {
            let s = net.mean(x);
            let s = net.conv(s, 2, 1, 1, 1);
            let s = net.block(s, true, 0.4);
            let s = net.relu(s);
            let s = net.conv(s, 8, 1, 1, 1);
            let s = net.affine(s);
            let s = net.unary(Unary::Sigmoid, s);
            net.binary(Binary::Mul, x, s)
        }),
    ));
    for kind in [Pooling::Average, Pooling::Maximum] {
        for (kernel, stride, pad, out) in [
            ([2, 2], [2, 2], [0; 4], [2, 2]),
            ([3, 3], [1, 2], [1, 1, 1, 1], [4, 3]),
            ([3, 2], [2, 1], [0, 1, 1, 0], [2, 5]),
        ] {
            all.push((
                format!("pool {kind:?} {kernel:?}"),
                elementwise(|net, x| {
                    let y = net.node(Pool { kind, kernel, stride, pad }, &[x]);
                    assert_eq!(net.shape(y)[1..], [out[0], out[1], 8]);
                    y
                }),
            ));
        }
    }
    for kind in [Reduction::Sum, Reduction::Max, Reduction::Min, Reduction::Product] {
        for axis in 1..4 {
            all.push((format!("{kind:?} of axis {axis}"), elementwise(|net, x| net.node(Reduce { kind, axis }, &[x]))));
        }
    }
    all.push((
        "moving".into(),
        elementwise(|net, x| {
            let y = net.node(Transpose { perms: vec![0, 3, 1, 2] }, &[x]);
            let y = net.slice(y, &[0, 1, 0, 2], &[6, 4, 3]);
            let pad = vec![[0, 0], [0, 1], [2, 0], [1, 1]];
            let y = net.node(Pad { pad, value: 0.3 }, &[y]);
            let y = net.reshape(y, &[6, 7, 5]);
            let y = net.slice(y, &[0, 0, 2, 0], &[4, 4, 5]);
            let y = net.node(Transpose { perms: vec![0, 1, 3, 2] }, &[y]);
            let c = net.weight(&[1, 4, 5, 2], 1.0, false);
            let c = net.node(Broadcast { batched: true }, &[c]);
            let z = net.node(Concat { axis: 3 }, &[y, x, c, y]);
            net.node(Concat { axis: 1 }, &[z, z])
        }),
    ));
    indexed(&mut all);
    // Tokens: fully connected layers over rows, activation products, a folded batch axis.
    let mut net = start(Scale::Range);
    let x = net.input(&[6, 8]);
    let x = net.linear(x, 8);
    let x = net.block(x, true, 0.4);
    let x = net.affine(x);
    let q = net.linear(x, 8);
    let split = |net: &mut Net, x| {
        let x = net.reshape(x, &[6, 2, 4]);
        let x = net.node(Transpose { perms: vec![0, 2, 1, 3] }, &[x]);
        net.reshape(x, &[6, 4])
    };
    let (q, k) = (split(&mut net, q), split(&mut net, x));
    let transposed = net.node(Transpose { perms: vec![0, 2, 1] }, &[k]);
    let scores = net.node(MatMul, &[q, transposed]);
    let scores = net.unary(Unary::Exp, scores);
    let total = net.node(Reduce { kind: Reduction::Sum, axis: 2 }, &[scores]);
    let total = net.unary(Unary::Reciprocal, total);
    let scores = net.binary(Binary::Mul, scores, total);
    let x = net.node(MatMul, &[scores, k]);
    let x = net.reshape(x, &[2, 6, 4]);
    all.push(("tokens".into(), net.classify(x, 4)));
    all
}

/// What works on indices, and what TOSA spells with reciprocals.
fn indexed(all: &mut Vec<(String, Program)>) {
    for axis in 1..4 {
        all.push((
            format!("the three greatest and two least along axis {axis}"),
            elementwise(|net, x| {
                let parts = [(3, true), (2, false)].map(|(count, largest)| {
                    let ranks = net.node(TopK { axis, count, largest }, &[x]);
                    net.node(Pick { axis }, &[x, ranks])
                });
                let mut shape = net.shape(x);
                shape[axis] = 5;
                net.node(Concat { axis }, &parts)
            }),
        ));
    }
    all.push((
        "picking rows, and elements".into(),
        elementwise(|net, x| {
            let rows = net.indices(&[1, 1, 4, 1], &[-1, 0, 4, 0]);
            let x = net.node(Pick { axis: 2 }, &[x, rows]);
            let each = net.indices(&[1, 3, 1, 8], &(0..24).map(|i| i * 7 % 8 - 4).collect::<Vec<_>>());
            net.node(Pick { axis: 1 }, &[x, each])
        }),
    ));
    for reduction in [Scattering::Replace, Scattering::Add, Scattering::Mul, Scattering::Max, Scattering::Min] {
        all.push((
            format!("scattering, {reduction:?}"),
            elementwise(|net, x| {
                let y = net.affine(x);
                let y = net.unary(Unary::Tanh, y);
                let part = net.slice(y, &[0, 0, 1, 2], &[3, 4, 5]);
                // Every place twice, the second time by other elements.
                let each = net.indices(&[1, 3, 4, 5], &(0..60).map(|i| i * 3 % 5 - 2).collect::<Vec<_>>());
                let x = net.node(Scatter { axis: 2, reduction }, &[x, each, part]);
                let rows = net.indices(&[1, 1, 4, 1], &[3, -1, 0, 3]);
                let y = net.slice(y, &[0, 0, 1, 0], &[4, 4, 8]);
                net.node(Scatter { axis: 2, reduction }, &[x, rows, y])
            }),
        ));
    }
    for (exclusive, reverse) in [(false, false), (false, true), (true, false), (true, true)] {
        all.push((
            format!("running sums {exclusive} {reverse}"),
            elementwise(|net, x| {
                let x = net.node(CumSum { axis: 2, exclusive, reverse }, &[x]);
                net.node(CumSum { axis: 3, exclusive, reverse }, &[x])
            }),
        ));
    }
    for interpolation in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
        for padding in [Padding::Zeros, Padding::Border, Padding::Reflection] {
            for align_corners in [false, true] {
                let sampling = Sampling { interpolation, padding, align_corners };
                all.push((
                    format!("{sampling:?}"),
                    elementwise(|net, x| {
                        let y = net.affine(x);
                        let points = net.slice(y, &[0, 1, 1, 3], &[3, 4, 2]);
                        net.node(GridSample(sampling), &[x, points])
                    }),
                ));
            }
        }
    }
    all.push((
        "sampling three axes".into(),
        elementwise(|net, x| {
            let y = net.affine(x);
            let points = net.slice(y, &[0, 1, 1, 2], &[3, 4, 6]);
            let points = net.reshape(points, &[3, 4, 2, 3]);
            let x = net.reshape(x, &[2, 2, 5, 8]);
            let sampling =
                Sampling { interpolation: Interpolation::Linear, padding: Padding::Zeros, align_corners: false };
            net.node(GridSample(sampling), &[x, points])
        }),
    ));
    for op in [Binary::Mod, Binary::Rem, Binary::Div] {
        all.push((
            format!("{op:?}"),
            elementwise(|net, x| {
                let y = net.affine(x);
                let y = net.unary(Unary::Sigmoid, y);
                net.binary(op, x, y)
            }),
        ));
    }
    all.push((
        "quotients and roots by reciprocals".into(),
        elementwise(|net, x| {
            let y = net.affine(x);
            let y = net.unary(Unary::Exp, y);
            let y = net.node(Reduce { kind: Reduction::Sum, axis: 3 }, &[y]);
            let y = net.unary(Unary::Rsqrt, y);
            let root = net.unary(Unary::Reciprocal, y);
            let inverse = net.unary(Unary::Reciprocal, root);
            let x = net.binary(Binary::Mul, inverse, x);
            net.binary(Binary::Mul, x, inverse)
        }),
    ));
}

/// A law of an embedding program: two levels, of two words a draw and with a mean.
fn registered() -> &'static ModelInfo {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let law = NoiseLaw::new(0.25, 0.1875, |words, draws| {
            let pairs = draws.iter_mut().zip(words.chunks_exact(2));
            pairs.for_each(|(draw, pair)| *draw = if pair[0] & pair[1] >> 31 != 0 { 1.0 } else { 0.0 });
        });
        law::register("levels", law.words(2)).unwrap();
    });
    mxc_spec::law::find("levels").unwrap().info()
}

/// The built-in models, and one of an embedding program.
fn models() -> Vec<&'static ModelInfo> {
    MODELS.iter().copied().chain([registered()]).collect()
}

/// A component of a model with all its arguments.
fn example(info: &ModelInfo, rest: &str) -> String {
    let arguments: Vec<String> = info.arguments.iter().map(|argument| format!("{}=8%", argument.name)).collect();
    format!("{}({}{rest})", info.name, arguments.join(","))
}

fn analog(reads: u32) -> Execution {
    Execution::Analog { reads }
}

fn start(scale: Scale) -> Net {
    let mut net = Net::new();
    net.noise = LayerNoise { spec: NoiseSpec::gaussian(0.1), scale, reference: Reference::Rms };
    // Of layers with scaled channels and without.
    net.executions = [analog(1), analog(3), analog(2), Execution::Digital];
    net
}

/// A convolution and a trainable affine, then `f` of `[4, 5, 8]`, then a classifier.
fn elementwise(f: impl FnOnce(&mut Net, ValueId) -> ValueId) -> Program {
    let mut net = start(Scale::Constant);
    let x = net.input(&[4, 5, 3]);
    let x = net.conv(x, 8, 3, 1, 1);
    let x = net.affine(x);
    let x = f(&mut net, x);
    net.classify(x, 4)
}

fn samples(program: &Program, count: usize) -> (Vec<f32>, Vec<u64>, Vec<u32>) {
    let len = program.values()[program.inputs()[0]].words();
    let mut net = Net::new();
    let values = net.randoms(len * count, 1.0);
    ((values), (0..count as u64).map(|n| n * 3 + 1).collect(), (0..count as u32).map(|n| n % 4).collect())
}

fn close(got: &[f32], want: &[f64], tolerance: f64) -> Result<(), String> {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-3f64, |max, x| x.abs().max(max));
    for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
        if (f64::from(got) - want).abs() > tolerance * scale || !got.is_finite() {
            return Err(format!("element {at}: {got}, not {want} (scale {scale})"));
        }
    }
    Ok(())
}

/// A plain run of a sample.
fn plain<'a>(
    program: &'a Program,
    mode: Mode,
    index: u64,
    weights: &'a dyn Fn(ValueId) -> Option<Vec<f64>>,
    nudge: Option<(LayerId, usize, f64)>,
) -> Run<'a> {
    let sample = Sample { mode, key: KEY, index, tape: false, level: 1.0 };
    let exact = Exact { layers: program.layers(), sample, nudge, observer: RefCell::new(None) };
    Run { program, weights, exact }
}

/// Outputs agree with the reference to 10⁻⁵ of the largest.
#[test]
fn values_match_the_reference() {
    for (name, program) in networks() {
        let executor = Executor::new(program.clone(), 1).unwrap();
        let (x, indices, _) = samples(&program, 2);
        let len = x.len() / 2;
        for mode in MODES.into_iter().chain([SAMPLING]) {
            let batch = Batch { inputs: &[&x], samples: &indices };
            let got = executor.forward(batch, mode, KEY).unwrap().remove(0);
            assert_eq!(got, executor.logits(batch, mode, KEY).unwrap());
            for n in 0..2 {
                let run = plain(&program, mode, indices[n], &|_| None, None);
                let want = &run.values(&[&x[n * len..(n + 1) * len]]).unwrap()[program.logits()].values;
                if let Err(error) = close(&got[n * 4..(n + 1) * 4], want, 1e-5) {
                    panic!("{name}, {mode:?}, sample {n}: {error}");
                }
            }
        }
    }
}

/// Cross-entropy.
fn loss_of(run: &Run<'_>, input: &[f32], label: usize) -> f64 {
    let values = run.values(&[input]).unwrap();
    let logits = &values[run.program.logits()].values;
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - logits[label]
}

/// Every trainable's gradient against central differences (step 10⁻⁶) of the f64 reference, to 10⁻⁴ of the largest;
/// at most 12 elements of each.
#[test]
fn gradients_match_finite_differences() {
    for (name, program) in networks() {
        let executor = Executor::new(program.clone(), 1).unwrap();
        let (x, indices, labels) = samples(&program, 2);
        let len = x.len() / 2;
        for mode in [Mode::DENOISED, SAMPLING] {
            let batch = Batch { inputs: &[&x], samples: &indices };
            let got = executor.gradients_in(mode, batch, Targets::Labels(&labels), KEY).unwrap();
            let loss = |weights: &BTreeMap<ValueId, Vec<f64>>| -> f64 {
                (0..2)
                    .map(|n| {
                        let own = |id: ValueId| weights.get(&id).cloned();
                        let run = plain(&program, mode, indices[n], &own, None);
                        loss_of(&run, &x[n * len..(n + 1) * len], labels[n] as usize)
                    })
                    .sum()
            };
            assert!((got.loss - loss(&BTreeMap::new())).abs() < 1e-4, "{name}");
            for (&id, gradient) in &got.weights {
                let base: Vec<f64> = executor.weight(id).iter().map(|&x| f64::from(x)).collect();
                let step = (gradient.len() / 12).max(1);
                let picked: Vec<usize> = (0..gradient.len()).step_by(step).collect();
                let want: Vec<f64> = picked
                    .iter()
                    .map(|&at| {
                        let shifted = |by: f64| {
                            let mut values = base.clone();
                            values[at] += by;
                            loss(&BTreeMap::from([(id, values)]))
                        };
                        // Of the mean over two samples.
                        (shifted(1e-6) - shifted(-1e-6)) / 2e-6 / 2.0
                    })
                    .collect();
                let got: Vec<f32> = picked.iter().map(|&at| gradient[at]).collect();
                if let Err(error) = close(&got, &want, 1e-4) {
                    panic!("{name}, {mode:?}, weight {id}: {error}");
                }
            }
        }
    }
}

/// ‖∂L/∂y‖₂ of every layer against central differences in every element of y, to 10⁻⁴.
#[test]
fn sensitivities_match_finite_differences() {
    for (name, program) in networks() {
        let executor = Executor::new(program.clone(), 1).unwrap();
        let (x, indices, labels) = samples(&program, 2);
        let len = x.len() / 2;
        let batch = Batch { inputs: &[&x[..len]], samples: &indices[..1] };
        let got = executor.sensitivity(&mut [batch].into_iter(), &labels[..1]).unwrap();
        for node in program.nodes() {
            let Some(layer) = node.op.analog_layer() else { continue };
            let elements = program.values()[node.output].words();
            let want: f64 = (0..1)
                .map(|n| {
                    let loss = |at: usize, by: f64| {
                        let run = plain(&program, Mode::CLEAN, indices[n], &|_| None, Some((layer, at, by)));
                        loss_of(&run, &x[n * len..(n + 1) * len], labels[n] as usize)
                    };
                    (0..elements).map(|at| ((loss(at, 1e-6) - loss(at, -1e-6)) / 2e-6).powi(2)).sum::<f64>().sqrt()
                })
                .sum();
            assert!((got[layer] - want).abs() < 1e-4 * want.max(1e-2), "{name}, layer {layer}: {} {want}", got[layer]);
        }
    }
}

/// Threads, batch size and position do not change a bit of any result.
#[test]
fn results_are_bit_equal_for_any_threads_and_batches() {
    let mut program = Net::resnet(1, true);
    program.layers_mut().iter_mut().step_by(3).for_each(|layer| layer.execution = analog(3));
    program.layers_mut()[1].execution = Execution::Digital;
    let (x, indices, labels) = samples(&program, 37);
    let one = Executor::new(program.clone(), 1).unwrap();
    let two = Executor::new(program, 2).unwrap();
    let len = x.len() / 37;
    let whole = Batch { inputs: &[&x], samples: &indices };
    for mode in MODES {
        let want = one.logits(whole, mode, KEY).unwrap();
        assert_eq!(want, two.logits(whole, mode, KEY).unwrap());
        for size in [1, 7, 16] {
            let parts: Vec<f32> = x
                .chunks(size * len)
                .zip(indices.chunks(size))
                .flat_map(|(x, samples)| two.logits(Batch { inputs: &[x], samples }, mode, KEY).unwrap())
                .collect();
            assert_eq!(want, parts, "{mode:?} {size}");
        }
    }
    let targets = Targets::Labels(&labels);
    let (a, b) = (one.gradients(whole, targets, KEY).unwrap(), two.gradients(whole, targets, KEY).unwrap());
    assert_eq!((a.loss.to_bits(), a.correct, a.weights), (b.loss.to_bits(), b.correct, b.weights));
    let sensitivity = one.sensitivity(&mut [whole].into_iter(), &labels).unwrap();
    assert_eq!(sensitivity, two.sensitivity(&mut [whole].into_iter(), &labels).unwrap());
    let calibrate = |executor: &Executor, size: usize| {
        let chunks: Vec<_> = x.chunks(size * len).map(|x| [x]).collect();
        let mut batches = chunks.iter().zip(indices.chunks(size)).map(|(inputs, samples)| Batch { inputs, samples });
        executor.calibrate(&mut batches).unwrap()
    };
    assert_eq!(calibrate(&one, 37), calibrate(&two, 5));
}

/// Noise is the same with and without denoisers: fresh blocks (zero heads) are the identity to the bit.
#[test]
fn noisy_and_denoised_runs_share_their_draws() {
    let mut net = start(Scale::Range);
    let x = net.input(&[6, 6, 3]);
    let x = net.conv(x, 8, 3, 1, 1);
    let x = net.block(x, true, 0.0);
    let x = net.conv(x, 8, 3, 1, 1);
    let mut program = net.classify(x, 4);
    // Ranges and several reads belong to the denoised run only.
    let plain = |layer: &mut Layer| (layer.columns, layer.input_range, layer.execution) = (None, None, analog(1));
    program.layers_mut().iter_mut().for_each(plain);
    let (x, indices, _) = samples(&program, 3);
    let executor = Executor::new(program, 1).unwrap();
    let batch = Batch { inputs: &[&x], samples: &indices };
    let noisy = executor.logits(batch, Mode::NOISY, KEY).unwrap();
    assert_eq!(noisy, executor.logits(batch, Mode::DENOISED, KEY).unwrap());
    assert_ne!(noisy, executor.logits(batch, Mode::CLEAN, KEY).unwrap());
    let other = |key: Key| executor.logits(batch, Mode::NOISY, key).unwrap();
    for key in
        [Key { seed: 8, ..KEY }, Key { pass: 4, ..KEY }, Key { purpose: Purpose::Eval, ..KEY }, Key { chip: 1, ..KEY }]
    {
        assert_ne!(noisy, other(key));
    }
}

/// Chip noise stays from sample to sample and pass to pass, and is another on another chip.
#[test]
fn chip_noise_outlasts_samples_and_passes() {
    let mut net = start(Scale::Constant);
    net.noise.spec = "gaussian(sigma=10%,lifetime=chip)".parse().unwrap();
    let x = net.input(&[4, 4, 1]);
    let x = net.conv(x, 8, 3, 1, 1);
    let program = net.classify(x, 4);
    let executor = Executor::new(program, 1).unwrap();
    let x = [0.5; 32];
    let run = |key: Key, samples: [u64; 2]| {
        executor.logits(Batch { inputs: &[&x], samples: &samples }, Mode::NOISY, key).unwrap()
    };
    let first = run(KEY, [1, 2]);
    assert_eq!(first[..4], first[4..]);
    assert_eq!(first, run(Key { pass: 9, ..KEY }, [5, 6]));
    assert_ne!(first, run(Key { chip: 1, ..KEY }, [1, 2]));
    assert_eq!(first, run(KEY, [1, 2]));
}

/// A chip's draws are those of its components, whichever a layer had before.
#[test]
fn new_noise_has_draws_of_its_own() {
    let mut net = start(Scale::Constant);
    let x = net.input(&[4, 4, 1]);
    let x = net.conv(x, 8, 3, 1, 1);
    let program = net.classify(x, 4);
    let x = [0.5; 16];
    let batch = Batch { inputs: &[&x], samples: &[1] };
    let specs: Vec<NoiseSpec> = models().iter().map(|info| example(info, ",lifetime=chip").parse().unwrap()).collect();
    let logits = |executor: &Executor| executor.logits(batch, Mode::NOISY, KEY).unwrap();
    let mut reused = Executor::new(program.clone(), 1).unwrap();
    for spec in specs {
        let mut fresh = Executor::new(program.clone(), 1).unwrap();
        fresh.set_noise(0, spec.clone()).unwrap();
        reused.set_noise(0, spec).unwrap();
        assert_eq!(logits(&fresh), logits(&reused));
    }
}

/// A law that fails ends the run, wherever it is drawn from, and leaves nothing that a later run would take for draws.
#[test]
fn a_law_that_fails_is_an_error() {
    static FAILS: AtomicBool = AtomicBool::new(false);
    let law = NoiseLaw::new(0.0, 1.0 / 12.0, |words, draws| {
        assert!(!FAILS.load(Ordering::Relaxed), "out of order");
        draws.iter_mut().zip(words).for_each(|(draw, word)| *draw = (*word as f64 / f64::exp2(32.0) - 0.5) as f32);
    });
    law::register("breaks", law).unwrap();
    for (lifetime, reads) in [("sample", 1), ("sample", 3), ("chip", 1)] {
        let mut net = start(Scale::Constant);
        net.noise.spec = format!("breaks(scale=10%,lifetime={lifetime})").parse().unwrap();
        net.executions = [analog(reads); 4];
        let x = net.input(&[4, 4, 1]);
        let x = net.conv(x, 8, 3, 1, 1);
        let program = net.classify(x, 4);
        let x = [0.5; 32];
        let batch = Batch { inputs: &[&x], samples: &[1, 2] };
        for backend in [Backend::OneDnn, Backend::Reference] {
            let executor = Executor::on(backend, program.clone(), 2).unwrap();
            let logits = || executor.logits(batch, Mode::DENOISED, KEY);
            FAILS.store(true, Ordering::Relaxed);
            let error = logits().unwrap_err().to_string();
            assert!(error.contains("the noise law `breaks` panicked: out of order"), "{error}");
            FAILS.store(false, Ordering::Relaxed);
            let fresh = Executor::on(backend, program.clone(), 1).unwrap();
            assert_eq!(logits().unwrap(), fresh.logits(batch, Mode::DENOISED, KEY).unwrap());
        }
    }
}

/// The noise of k reads has the mean of one and a k-th of its variance, whatever its law; what a chip keeps is in every read, and
/// reads belong to what mxc adds. The variances of n values are within 4.5 of their standard errors, √((2 + κ)/n) with the
/// excess kurtosis κ ≤ 0 of the mean of k draws: a false-alarm rate of 7·10⁻⁶ each; the draws are fixed by the key.
#[test]
fn reads_divide_the_variance_of_what_is_redrawn() {
    const COUNT: usize = 1 << 16;
    let noise = |spec: &str, reads: u32, mode: Mode| -> Vec<f64> {
        let mut net = start(Scale::Constant);
        net.noise.spec = spec.parse().unwrap();
        net.executions = [analog(reads); 4];
        let x = net.input(&[1, COUNT, 1]);
        let (w, b) = (net.constant(&[1, 1, 1, 1], vec![1.0], false), net.constant(&[1], vec![0.0], false));
        let layer = Some(net.layer(1));
        let y = net.node(Conv2d { window: PLAIN, groups: 1, layer }, &[x, w, b]);
        let executor = Executor::new(net.finish(&[y]), 1).unwrap();
        let inputs = vec![0.0; COUNT];
        let got = executor.forward(Batch { inputs: &[&inputs], samples: &[0] }, mode, KEY).unwrap().remove(0);
        got.into_iter().map(f64::from).collect()
    };
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / COUNT as f64;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / COUNT as f64)
    };
    // The magnitude is 0.8.
    for (spec, mean, variance) in [
        ("gaussian(sigma=10%,mu=3%)", 0.024, 0.0064),
        ("uniform(width=30%)", 0.0, 0.0576 / 12.0),
        ("gaussian(sigma=10%)+uniform(width=30%)", 0.0, 0.0064 + 0.0576 / 12.0),
        ("levels(scale=10%)", 0.02, 0.0012),
    ] {
        let once = noise(spec, 1, Mode::DENOISED);
        assert_eq!(once, noise(spec, 64, Mode::NOISY), "{spec}: the noisy network is read once");
        for reads in [1, 2, 3, 16, 64] {
            let values = noise(spec, reads, Mode::DENOISED);
            let (got, spread) = moments(&values);
            let wanted = variance / f64::from(reads);
            assert!((got - mean).abs() < 4.5 * (wanted / COUNT as f64).sqrt(), "{spec}, {reads}: {got}");
            let error = (spread / wanted - 1.0).abs();
            assert!(error < 4.5 * (2.0 / COUNT as f64).sqrt(), "{spec}, {reads}: {spread}, not {wanted}");
            // The first read is that of the layer read once, the others are independent of it.
            let shared = once.iter().zip(&values).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / COUNT as f64;
            assert!(
                (shared / wanted - 1.0).abs() < 4.5 * (2.0 * f64::from(reads) / COUNT as f64).sqrt(),
                "{spec}, {reads}"
            );
        }
    }
    let fixed = "gaussian(sigma=10%,lifetime=chip)";
    assert_eq!(
        noise(fixed, 1, Mode::DENOISED),
        noise(fixed, 5, Mode::DENOISED),
        "a chip's noise is no other in a read"
    );
    let both = moments(&noise("gaussian(sigma=10%)+gaussian(sigma=10%,lifetime=chip)", 4, Mode::DENOISED)).1;
    assert!((both / (0.0064 * 1.25) - 1.0).abs() < 4.5 * (2.0 / COUNT as f64).sqrt(), "{both}");
}

/// A layer that is computed digitally is what it is without noise, converters or saturation, and that belongs to what mxc adds.
#[test]
fn digital_layers_have_no_noise() {
    for scale in [Scale::Range, Scale::Signal] {
        let mut net = start(scale);
        net.executions = [Execution::Digital; 4];
        let x = net.input(&[5, 5, 3]);
        let x = net.conv(x, 8, 3, 1, 1);
        let x = net.conv(x, 8, 3, 1, 8);
        let mut program = net.classify(x, 4);
        let calibrations = program.layers_mut().iter_mut().filter_map(|layer| layer.calibration.as_mut());
        calibrations.for_each(|calibration| (calibration.absmax, calibration.input_absmax) = (0.01, 0.01));
        let (x, indices, _) = samples(&program, 3);
        let executor = Executor::new(program, 1).unwrap();
        let logits = |mode: Mode| executor.logits(Batch { inputs: &[&x], samples: &indices }, mode, KEY).unwrap();
        assert_eq!(logits(Mode::DENOISED), logits(Mode::CLEAN_DENOISED));
        assert_eq!(logits(Mode::DENOISED), logits(Mode::CLEAN));
        assert_ne!(logits(Mode::NOISY), logits(Mode::CLEAN));
    }
}

/// Each read saturates by itself: at the middle of the range the mean of reads that reach both ends, at its end half of what a
/// symmetric noise does.
#[test]
fn reads_saturate_one_by_one() {
    let mut net = start(Scale::Range);
    net.noise.spec = NoiseSpec::gaussian(0.5);
    net.executions = [analog(64); 4];
    let x = net.input(&[1, 4096, 1]);
    let (w, b) = (net.constant(&[1, 1, 1, 1], vec![1.0], false), net.constant(&[1], vec![0.0], false));
    let layer = Some(net.layer(1));
    let y = net.node(Conv2d { window: PLAIN, groups: 1, layer }, &[x, w, b]);
    let mut program = net.finish(&[y]);
    program.layers_mut()[0].input_range = Some(2.0);
    let executor = Executor::new(program, 1).unwrap();
    let inputs = [1.0; 4096];
    let y = executor.forward(Batch { inputs: &[&inputs], samples: &[0] }, Mode::DENOISED, KEY).unwrap().remove(0);
    // E min(1 + 0.4·ε, 1) = 1 − 0.4/√(2π); of 2¹⁸ draws of a deviation of 0.233 the mean has one of 0.00046.
    let mean = y.iter().map(|&y| f64::from(y)).sum::<f64>() / 4096.0;
    let wanted = 1.0 - 0.4 / (2.0 * std::f64::consts::PI).sqrt();
    assert!((mean - wanted).abs() < 4.5 * 0.00046, "{mean}, not {wanted}");
}

/// A window that takes every pixel by itself.
const PLAIN: Window = Window { stride: [1, 1], pad: [0; 4], dilation: [1, 1] };

/// The scale `range` clamps what the tile sees, not what other consumers of the value see.
#[test]
fn saturation_is_the_tiles_own() {
    let mut net = start(Scale::Range);
    net.noise.spec = NoiseSpec::gaussian(0.0);
    let x = net.input(&[1, 1, 1]);
    let one = net.constant(&[1, 1, 1, 1], vec![0.5], false);
    let zero = net.constant(&[1], vec![0.0], false);
    let layer = Some(net.layer(1));
    let y = net.node(Conv2d { window: PLAIN, groups: 1, layer }, &[x, one, zero]);
    let sum = net.binary(Binary::Add, x, y);
    let mut program = net.finish(&[y, sum]);
    program.layers_mut()[0].calibration.as_mut().unwrap().input_absmax = 2.0;
    let run = |program: &Program, mode: Mode, x: f32| {
        let executor = Executor::new(program.clone(), 1).unwrap();
        let outputs = executor.forward(Batch { inputs: &[&[x]], samples: &[0] }, mode, KEY).unwrap();
        (outputs[0][0], outputs[1][0])
    };
    // Input limit 2, output limit 1.
    assert_eq!(run(&program, Mode::NOISY, 1.0), (0.5, 1.5));
    assert_eq!(run(&program, Mode::NOISY, 5.0), (1.0, 6.0));
    assert_eq!(run(&program, Mode::NOISY, -5.0), (-1.0, -6.0));
    assert_eq!(run(&program, Mode::CLEAN, 5.0), (2.5, 7.5));
    program.layers_mut()[0].calibration.as_mut().unwrap().absmax = 10.0;
    assert_eq!(run(&program, Mode::NOISY, 5.0), (1.0, 6.0));
    program.layers_mut()[0].noise.scale = Scale::Constant;
    assert_eq!(run(&program, Mode::NOISY, 5.0), (2.5, 7.5));
    program.layers_mut()[0].noise.scale = Scale::Range;
    program.layers_mut()[0].noise.spec = NoiseSpec::default();
    assert_eq!(run(&program, Mode::NOISY, 5.0), (2.5, 7.5));
}

#[test]
fn calibration_measures_inputs_and_outputs() {
    let mut net = start(Scale::Range);
    let x = net.input(&[1, 1, 2]);
    let w = net.constant(&[2, 1, 1, 2], vec![1.0, 0.0, 0.0, -1.0], false);
    let b = net.constant(&[2], vec![0.0; 2], false);
    let layer = Some(net.layer(2));
    let x = net.node(Conv2d { window: PLAIN, groups: 1, layer }, &[x, w, b]);
    let program = net.classify(x, 4);
    let executor = Executor::new(program, 2).unwrap();
    let x = [1.0, 2.0, -3.0, 4.0];
    let got = executor.calibrate(&mut [Batch { inputs: &[&x], samples: &[0, 1] }].into_iter()).unwrap();
    // y = 1, −2, −3, −4.
    assert_eq!(got[0].samples, 2);
    assert_eq!((got[0].absmax, got[0].input_absmax, got[0].mean_abs), (4.0, 4.0, 2.5));
    assert!((got[0].rms - 7.5f64.sqrt()).abs() < 1e-12);
    assert!((got[0].std - (7.5f64 - 4.0).sqrt()).abs() < 1e-12);
}

/// The kernel of a form and its terms one by one: the same up to rounding, the same draws, the same σ̂.
#[test]
fn a_block_is_its_terms() {
    let program = |kind: &'static Kind| {
        let mut net = start(Scale::Constant);
        let x = net.input(&[5, 4, 2]);
        let x = net.conv(x, 12, 3, 1, 1);
        let x = net.denoiser(kind, x, true, 0.4);
        net.classify(x, 4)
    };
    let [fused, terms] = [kind("paper"), &*UNFUSED].map(|kind| Executor::new(program(kind), 1).unwrap());
    let (x, indices, labels) = samples(fused.program(), 3);
    let batch = Batch { inputs: &[&x], samples: &indices };
    let kernels = |executor: &Executor| Plan::new(executor.program(), TRAIN).unwrap().steps.len();
    assert!(kernels(&fused) < kernels(&terms));
    let near = |a: &[f32], b: &[f32]| {
        let b: Vec<f64> = b.iter().map(|b| f64::from(*b)).collect();
        close(a, &b, 1e-5).unwrap();
    };
    for mode in MODES {
        near(&fused.logits(batch, mode, KEY).unwrap(), &terms.logits(batch, mode, KEY).unwrap());
    }
    let [fused_gradients, term_gradients] =
        [&fused, &terms].map(|executor| executor.gradients(batch, Targets::Labels(&labels), KEY).unwrap());
    for (a, b) in fused_gradients.weights.values().zip(term_gradients.weights.values()) {
        near(a, b);
    }
    let [a, b] = [&fused, &terms].map(|executor| executor.sigma_statistics(&mut [batch].into_iter(), KEY).unwrap());
    let (a, b) = (a[0].unwrap(), b[0].unwrap());
    assert!((a.sigma_rms / b.sigma_rms - 1.0).abs() < 1e-5 && a.input_rms == b.input_rms, "{a:?} {b:?}");
}

/// σ̂ as the block's heads make it: zero weights give 0, a bias alone its own size.
#[test]
fn sigma_is_measured_where_blocks_draw() {
    let mut net = start(Scale::Constant);
    let x = net.input(&[3, 4, 2]);
    let x = net.conv(x, 8, 3, 1, 1);
    let x = net.block(x, true, 0.0);
    let y = net.conv(x, 8, 3, 1, 1);
    let y = net.block(y, false, 0.4);
    let y = net.conv(y, 8, 1, 1, 1);
    let y = net.block(y, true, 0.0);
    let program = net.classify(y, 4);
    let bias = program.nodes()[5].inputs[8];
    let (x, indices, _) = samples(&program, 5);
    let measure = |threads| {
        let mut executor = Executor::new(program.clone(), threads).unwrap();
        executor.set_weight(bias, &[-0.25; 8]).unwrap();
        let batch = Batch { inputs: &[&x], samples: &indices };
        executor.sigma_statistics(&mut [batch].into_iter(), KEY).unwrap()
    };
    let measured = measure(1);
    assert_eq!(measured, measure(2));
    let [Some(zero), None, Some(bias), None] = measured.as_slice() else {
        panic!("{measured:?}");
    };
    assert_eq!((zero.samples, zero.sigma_rms), (5, 0.0));
    assert_eq!(bias.sigma_rms, 0.25);
    // The input is the noisy output: near the clean one's rms.
    let batch = Batch { inputs: &[&x], samples: &indices };
    let clean = Executor::new(program.clone(), 1).unwrap().calibrate(&mut [batch].into_iter()).unwrap();
    assert!((zero.input_rms / clean[0].rms - 1.0).abs() < 0.2, "{} and {}", zero.input_rms, clean[0].rms);
}

/// A program that doubles: it loads words with four fraction bits and stores them with three.
fn doubling(shape: [usize; 3]) -> TileProgram {
    let [rows, columns, channels] = shape;
    let buffer = Buffer { word: 0, rows, columns, channels };
    let step = |step| Scheduled { step, phase: 0 };
    TileProgram {
        symbol: "denoise.layer0".to_owned(),
        layer: "layer0".to_owned(),
        shape,
        input_fraction: 4,
        output_fraction: 3,
        weights: Vec::new(),
        parameters: 7,
        weight_load_words: 0,
        activation_words: buffer.len(),
        generator: None,
        steps: vec![
            step(Step::Load { first_row: 0, into: buffer }),
            step(Step::Store { from: buffer, strip_row: 0, first_row: 0, rows }),
        ],
        phases: Vec::new(),
        cycles: 0,
    }
}

#[test]
fn tile_programs_run_in_integers_and_have_no_gradient() {
    let mut net = start(Scale::Constant);
    let x = net.input(&[2, 3, 1]);
    let y = net.conv(x, 4, 1, 1, 1);
    let z = net.node(DenoiseTile { layer: 0, program: Arc::new(doubling([2, 3, 4])) }, &[y]);
    let misfit = DenoiseTile { layer: 0, program: Arc::new(doubling([2, 2, 4])) };
    let error = net.program.node(misfit, &[y]).unwrap_err().to_string();
    assert!(error.contains("@denoise.layer0 cleans [2, 2, 4], not [N, 2, 3, 4]"), "{error}");
    let flat = net.reshape(z, &[24]);
    let logits = net.linear(flat, 3);
    let program = net.finish(&[y, z, logits]);
    assert_eq!(program.denoiser_parameters(), 7);
    let executor = Executor::new(program.clone(), 1).unwrap();
    let batch = Batch { inputs: &[&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], samples: &[9] };
    let outputs = executor.forward(batch, Mode::CLEAN_DENOISED, KEY).unwrap();
    let doubled = |y: &f32| (y * 16.0).round_ties_even() / 8.0;
    assert!(outputs[0].iter().zip(&outputs[1]).all(|(y, z)| *z == doubled(y)));
    // Without denoisers it is the identity, also for a sensitivity.
    let outputs = executor.forward(batch, Mode::CLEAN, KEY).unwrap();
    assert_eq!(outputs[0], outputs[1]);
    assert!(executor.sensitivity(&mut [batch].into_iter(), &[0]).unwrap()[0] > 0.0);
    let error = executor.gradients(batch, Targets::Labels(&[0]), KEY).unwrap_err().to_string();
    assert!(error.contains("layer `layer0`") && error.contains("have no gradient"), "{error}");
}

/// Tokens that share the batch axis are cleaned one by one.
#[test]
fn tile_programs_run_per_image() {
    let mut x = [0.1, 0.2, 0.3, 0.4];
    doubling([1, 1, 2]).denoise(&mut x, 0, None);
    assert_eq!(x, [0.25, 0.375, 0.625, 0.75]);
}

/// What matching features adds to the gradients against central differences (step 2⁻⁸) of what it adds to the loss, to 2 % of the
/// largest: the runs are in f32. The same on any number of threads; nothing of a network without noise whose denoisers are the identity.
#[test]
fn matched_features_have_gradients() {
    let mut net = start(Scale::Range);
    net.executions = [analog(1); 4];
    let x = net.input(&[6, 6, 2]);
    let x = net.conv(x, 8, 3, 1, 1);
    let x = net.block(x, true, 0.4);
    let x = net.affine(x);
    // Smooth, so that differences are slopes.
    let x = net.unary(Unary::Tanh, x);
    let x = net.conv(x, 8, 3, 1, 1);
    let x = net.affine(x);
    let program = net.classify(x, 4);
    let (x, indices, labels) = samples(&program, 5);
    let batch = Batch { inputs: &[&x], samples: &indices };
    let mut executor = Executor::new(program.clone(), 1).unwrap();
    let of = |executor: &Executor, mode: Mode, features: f64| {
        let levels = [1.0, 0.5, -1.0, 0.0, 1.5];
        let objective = Objective { levels: &levels, features };
        executor.gradients_of(mode, batch, Targets::Labels(&labels), KEY, objective).unwrap()
    };
    let [without, with] = [0.0, 40.0].map(|features| of(&executor, Mode::DENOISED, features));
    assert!(with.loss > without.loss + 0.1, "{} {}", with.loss, without.loss);
    let two = of(&Executor::new(program, 2).unwrap(), Mode::DENOISED, 40.0);
    assert_eq!((with.loss.to_bits(), &with.weights), (two.loss.to_bits(), &two.weights));
    for (&id, gradient) in &with.weights {
        let base = executor.weight(id).to_vec();
        let picked: Vec<usize> = (0..base.len()).step_by((base.len() / 6).max(1)).collect();
        let want: Vec<f64> = picked
            .iter()
            .map(|&at| {
                let mut added = |by: f32| {
                    let mut values = base.clone();
                    values[at] += by;
                    executor.set_weight(id, &values).unwrap();
                    of(&executor, Mode::DENOISED, 40.0).loss - of(&executor, Mode::DENOISED, 0.0).loss
                };
                // Of the mean over five samples.
                (added(1.0 / 256.0) - added(-1.0 / 256.0)) * 128.0 / 5.0
            })
            .collect();
        executor.set_weight(id, &base).unwrap();
        let got: Vec<f32> = picked.iter().map(|&at| gradient[at] - without.weights[&id][at]).collect();
        if let Err(error) = close(&got, &want, 2e-2) {
            panic!("weight {id}: {error}");
        }
    }
    let plain = Net::resnet(1, false);
    let (x, indices, labels) = samples(&plain, 2);
    let batch = Batch { inputs: &[&x], samples: &indices };
    let executor = Executor::new(plain, 1).unwrap();
    let [without, with] = [0.0, 1.0].map(|features| {
        let objective = Objective { levels: &[], features };
        executor.gradients_of(Mode::CLEAN, batch, Targets::Labels(&labels), KEY, objective).unwrap().loss
    });
    assert_eq!(without, with);
}

#[test]
fn weights_can_be_set() {
    let (name, program) = networks().remove(0);
    let trainable: Vec<ValueId> = (0..program.values().len()).filter(|&id| program.values()[id].trainable).collect();
    let (x, indices, labels) = samples(&program, 4);
    let mut executor = Executor::new(program.clone(), 1).unwrap();
    let batch = Batch { inputs: &[&x], samples: &indices };
    let mut last = f64::INFINITY;
    for _ in 0..5 {
        let gradients = executor.gradients(batch, Targets::Labels(&labels), KEY).unwrap();
        assert!(gradients.loss < last, "{name}");
        last = gradients.loss;
        for (&id, gradient) in &gradients.weights {
            let values: Vec<f32> = executor.weight(id).iter().zip(gradient).map(|(w, g)| w - 0.02 * g).collect();
            executor.set_weight(id, &values).unwrap();
        }
    }
    assert!(executor.set_weight(trainable[0], &[]).unwrap_err().to_string().contains("values, not 0"));
    assert!(executor.set_weight(program.inputs()[0], &[1.0]).unwrap_err().to_string().contains("not trainable"));
}

#[test]
fn what_does_not_fit_is_named() {
    let mut net = start(Scale::Constant);
    let x = net.input(&[4, 5, 3]);
    let w = net.weight(&[8, 3, 3, 3], 1.0, false);
    let b = net.weight(&[8], 1.0, false);
    let layer = Some(net.layer(8));
    let op = Op::from(Conv2d { window: PLAIN, groups: 1, layer });
    let mut fails = |op: &Op, inputs: &[ValueId], part: &str| {
        let error = net.program.node(op.clone(), inputs).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(&op, &[x, w], "Conv2d: it has 2 operands, not 3");
    fails(&op, &[x, b, w], "the weight [8] has not rank 4");
    fails(&op, &[x, w, 99], "there is no value 99");
    let strided = Window { stride: [1, 0], ..PLAIN };
    fails(&Conv2d { window: strided, groups: 1, layer }.into(), &[x, w, b], "stride and dilation must be positive");
    fails(&Conv2d { window: PLAIN, groups: 1, layer: Some(7) }.into(), &[x, w, b], "its layer does not exist");
    fails(&Binary::Add.into(), &[x, b], "shapes [N, 4, 5, 3] and [8] do not broadcast");
    fails(&Transpose { perms: vec![1, 0, 2, 3] }.into(), &[x], "moves the batch");
    fails(&Reduce { kind: Reduction::Sum, axis: 0 }.into(), &[x], "axis 0 is the batch");
    let trained = net.weight(&[8, 3, 3, 3], 1.0, true);
    let error = net.program.node(op, &[x, trained, b]).unwrap_err().to_string();
    assert!(error.contains("only the weights of denoisers can be trained"), "{error}");

    let mut program = networks().remove(0).1;
    program.layers_mut()[0].calibration = None;
    let executor = Executor::new(program, 1).unwrap();
    let x = vec![0.0; 60];
    let batch = Batch { inputs: &[&x], samples: &[0] };
    let error = executor.logits(batch, Mode::NOISY, KEY).unwrap_err().to_string();
    assert!(error.contains("layer `layer0` has no calibration"), "{error}");
    for site in [Site::Weight, Site::PartialSum] {
        let mut bad = networks().remove(0).1;
        bad.layers_mut()[1].noise.spec.components[0].site = site;
        let executor = Executor::new(bad, 1).unwrap();
        let error = executor.logits(batch, Mode::NOISY, KEY).unwrap_err().to_string();
        let part = format!("acts on the {site}, where no kernel draws yet");
        assert!(error.contains("layer `layer1`: `gaussian(sigma=8%,mu=2%,site=") && error.contains(&part), "{error}");
        executor.logits(batch, Mode::CLEAN, KEY).unwrap();
    }
    let error = executor.logits(Batch { samples: &[0, 1], ..batch }, Mode::CLEAN, KEY).unwrap_err().to_string();
    assert!(error.contains("2 samples of shape [1, 5, 6, 2] need 120"), "{error}");
    let error = executor.sensitivity(&mut [batch].into_iter(), &[4]).unwrap_err().to_string();
    assert!(error.contains("label 4, but the model has 4 classes"), "{error}");
}

/// The parts of a measurement, made apart and in any order, give its bits; and the backends measure the same.
#[test]
fn measurements_merge_to_the_same_bits() {
    let program = Net::resnet(1, true);
    let (x, indices, labels) = samples(&program, 70);
    let len = x.len() / 70;
    let executor = Executor::new(program, 2).unwrap();
    let batch = |range: Range<usize>| {
        ([&x[range.start * len..range.end * len]], indices[range.clone()].to_vec(), labels[range].to_vec())
    };
    let parts = [0..33, 33..40, 40..70].map(|range| (range.start as u64, batch(range)));
    let whole = batch(0..70);
    let all = Batch { inputs: &whole.0, samples: &whole.1 };
    macro_rules! merged {
        ($method:ident $(, $argument:expr)*) => {{
            let mut merged = Measured::new(executor.program().layers().len());
            for (first, (inputs, samples, _labels)) in [&parts[2], &parts[0], &parts[1]] {
                let batch = Batch { inputs, samples };
                let part = executor.$method(*first, &mut [batch].into_iter() $(, $argument(_labels))*).unwrap();
                merged.merge(part).unwrap();
            }
            merged.finish().unwrap()
        }};
    }
    let (statistics, count) = merged!(calibrate_from);
    let calibrations: Vec<Calibration> = statistics.iter().map(|part| part.calibration(count)).collect();
    assert_eq!(calibrations, executor.calibrate(&mut [all].into_iter()).unwrap());
    let key = |_: &Vec<u32>| KEY;
    let (sums, count) = merged!(sigma_statistics_from, key);
    let measured: Vec<_> = sums.iter().map(|part| part.measured(count)).collect();
    assert_eq!(measured, executor.sigma_statistics(&mut [all].into_iter(), KEY).unwrap());
    assert_eq!(merged!(distortion_from, key).0, executor.distortion(&mut [all].into_iter(), KEY).unwrap());
    let (norms, _) = merged!(sensitivity_from, Vec::as_slice);
    let norms: Vec<f64> = norms.into_iter().map(|GradientNorm(norm)| norm).collect();
    assert_eq!(norms, executor.sensitivity(&mut [all].into_iter(), &whole.2).unwrap());
}

/// The reference backend gives the fast one's results but for rounding, tells observers the same, and has no gradients.
#[test]
fn backends_agree() {
    for (name, program) in networks().into_iter().step_by(3) {
        let (x, indices, labels) = samples(&program, 3);
        let batch = Batch { inputs: &[&x], samples: &indices };
        let [fast, plain] =
            [Backend::OneDnn, Backend::Reference].map(|backend| Executor::on(backend, program.clone(), 2).unwrap());
        let near = |a: &[f64], b: &[f64]| {
            let a: Vec<f32> = a.iter().map(|&x| x as f32).collect();
            close(&a, b, 1e-4).unwrap_or_else(|error| panic!("{name}: {error}"));
        };
        for mode in MODES {
            let [a, b] = [&fast, &plain].map(|executor| executor.logits(batch, mode, KEY).unwrap());
            let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
            near(&wide(a), &wide(b));
        }
        let [a, b] = [&fast, &plain].map(|executor| {
            let calibrations = executor.calibrate(&mut [batch].into_iter()).unwrap();
            let sigma = executor.sigma_statistics(&mut [batch].into_iter(), KEY).unwrap();
            let distortion = executor.distortion(&mut [batch].into_iter(), KEY).unwrap();
            let of = calibrations.iter().flat_map(|c| [c.rms, c.absmax, c.mean_abs, c.std, c.input_absmax]);
            let of = of.chain(sigma.iter().flatten().flat_map(|s| [s.input_rms, s.sigma_rms]));
            of.chain(distortion.iter().flat_map(|d| [d.clean, d.common[0], d.energy[1]])).collect::<Vec<f64>>()
        });
        near(&a, &b);
        let error = plain.gradients(batch, Targets::Labels(&labels), KEY).unwrap_err().to_string();
        assert!(error.contains("no gradients; choose --backend onednn"), "{error}");
    }
}
