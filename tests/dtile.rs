//! The digital tile: from quantised denoisers to scheduled programs, and what these compute.

use crate::common::model;
use melior::{Context, ir::Module, ir::operation::OperationLike};
use mxc_compiler::{
    driver::{self, CompileOptions, Init, Level},
    import::ImportOptions,
    load,
    pass::{PassContext, Pipeline, RunOptions, run::print_module, run_pipeline},
    passes::REGISTRY,
    placement::Strategy,
};
use mxc_dialects::{
    denoise::expression::Width,
    dtile, ir, new_context,
    noise::{LayerNoise, NoiseSpec},
};
use mxc_runtime::{
    digital::{self, fixed, interpret::Draw, program::TileProgram},
    exec::{Batch, Executor, Key, Mode, Purpose},
    hardware::Hardware,
    program::{Builder, Denoise, DenoiseTile, Op, Program},
    store::{Weight, WeightStore},
    task::{Targets, Task},
};
use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::Arc,
};

/// A denoiser's shape in the tests.
#[derive(Clone, Copy)]
struct Case {
    sample: [usize; 3],
    spatial: bool,
    sigma: bool,
    block: bool,
    affine: bool,
    scale: &'static str,
}

const SMALL: Case = Case { sample: [4, 4, 4], spatial: true, sigma: true, block: true, affine: false, scale: "range" };

/// A deterministic stream of numbers in (-1, 1).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 + 0.5) / (1u64 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }
}

/// The weights of a block in order, and of an affine.
struct Weights {
    block: Vec<(Vec<usize>, Vec<f32>)>,
    affine: [Vec<f32>; 2],
}

fn weights(case: &Case) -> Weights {
    let c = case.sample[2];
    let b = Width::Bottleneck(4).of(c);
    let taps = if case.spatial { 3 } else { 1 };
    let mut numbers = Numbers(c as u64);
    let mut shapes = vec![vec![b, 1, 1, c], vec![b], vec![taps, taps, b, 1], vec![b], vec![c, 1, 1, b], vec![c]];
    if case.sigma {
        shapes.extend([vec![c, 1, 1, b], vec![c]]);
    }
    Weights {
        block: shapes
            .into_iter()
            .map(|shape| {
                let count = shape.iter().product();
                (shape, numbers.take(count, 0.4))
            })
            .collect(),
        affine: [numbers.take(c, 0.2).into_iter().map(|x| x + 1.0).collect(), numbers.take(c, 0.1)],
    }
}

/// A module at the denoise level: one analog layer, its denoisers.
fn source(case: &Case) -> String {
    let [h, w, c] = case.sample;
    let (tensor, pointwise) =
        if case.spatial { (format!("tensor<?x{h}x{w}x{c}xf32>"), true) } else { (format!("tensor<?x{c}xf32>"), false) };
    let mut text = format!("func.func @main(%x: {tensor}) -> {tensor} {{\n");
    let mut constant = |name: &str, shape: &[usize], values: &[f32]| {
        let bytes: String =
            values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02X}")).collect();
        let shape: String = shape.iter().map(|size| format!("{size}x")).collect();
        text.push_str(&format!(
            "  %{name} = \"tosa.const\"() {{values = dense<\"0x{bytes}\"> : tensor<{shape}f32>}} : () -> tensor<{shape}f32>\n"
        ));
        format!("tensor<{shape}f32>")
    };
    let layer_weight: &[usize] = if pointwise { &[c, 1, 1, c] } else { &[c, c] };
    let weight = constant("weight", layer_weight, &vec![0.1; c * c]);
    let bias = constant("bias", &[c], &vec![0.0; c]);
    let weights = weights(case);
    let mut operands = String::new();
    let mut types = String::new();
    if case.block {
        for (index, (shape, values)) in weights.block.iter().enumerate() {
            types.push_str(&format!(", {}", constant(&format!("w{index}"), shape, values)));
            operands.push_str(&format!(", %w{index}"));
        }
    }
    let affine = constant("scale", &[c], &weights.affine[0]);
    constant("shift", &[c], &weights.affine[1]);
    let noise = format!("{{reference = \"rms\", scale = \"{}\", spec = \"gaussian(sigma=6%)\"}}", case.scale);
    let calibration = "{absmax = 2.0, input_absmax = 1.0, mean_abs = 0.4, rms = 0.5, samples = 4 : i64, std = 0.5}";
    let window =
        "dilation = array<i64: 1, 1>, groups = 1 : i64, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, ";
    let (op, window) = if pointwise { ("conv2d", window) } else { ("fully_connected", "") };
    text.push_str(&format!(
        "  %y = \"analog.{op}\"(%x, %weight, %bias) {{calibration = {calibration}, {window}layer = \"conv1\", noise = {noise}}} \
         : ({tensor}, {weight}, {bias}) -> {tensor}\n"
    ));
    let mut last = "%y";
    if case.block {
        let kind = if case.sigma { "paper" } else { "mean" };
        text.push_str(&format!(
            "  %d = \"denoise.{kind}\"({last}{operands}) {{layer = \"conv1\"}} \
             : ({tensor}{types}) -> {tensor}\n"
        ));
        last = "%d";
    }
    if case.affine {
        text.push_str(&format!(
            "  %a = \"denoise.affine\"({last}, %scale, %shift) {{layer = \"conv1\"}} \
             : ({tensor}, {affine}, {affine}) -> {tensor}\n"
        ));
        last = "%a";
    }
    text.push_str(&format!("  return {last} : {tensor}\n}}\n"));
    text
}

fn run<'c>(context: &'c Context, text: &str, passes: &str, hardware: &Hardware) -> Result<Module<'c>, String> {
    let mut module = ir::parse(context, text.as_bytes(), "test.mlir")?;
    let mut cx = PassContext { hardware: Some(hardware.clone()), ..PassContext::default() };
    let options = RunOptions { verify_each: true, ..RunOptions::default() };
    let pipeline = Pipeline::parse(&REGISTRY, passes).map_err(|error| error.to_string())?;
    run_pipeline(context, &mut module, &pipeline, &mut cx, &options).map_err(|error| error.to_string())?;
    Ok(module)
}

fn lowered<'c>(context: &'c Context, case: &Case, hardware: &Hardware) -> Module<'c> {
    run(context, &source(case), "lower-denoisers", hardware).unwrap()
}

fn program(case: &Case, hardware: &Hardware) -> TileProgram {
    let context = new_context();
    let module = lowered(&context, case, hardware);
    load::tile::programs(&module).unwrap().remove(0)
}

/// A profile whose activation memory has `bytes` bytes.
fn with_memory(bytes: usize) -> Hardware {
    let mut hardware = Hardware::paper();
    hardware.memory.activation_bytes = bytes;
    hardware
}

fn input(case: &Case, amplitude: f32) -> Vec<f32> {
    Numbers(99).take(case.sample.iter().product(), amplitude)
}

/// The denoisers with ε = 0 in f64 on the dequantised input: the block's formula, then the affine's.
fn float_model(case: &Case, x: &[f64]) -> Vec<f64> {
    let [h, w, c] = case.sample;
    let weights = weights(case);
    let mut out = x.to_vec();
    if case.block {
        let get = |index: usize| -> Vec<f64> { weights.block[index].1.iter().map(|value| f64::from(*value)).collect() };
        let b = Width::Bottleneck(4).of(c);
        let lrelu = |x: f64| if x >= 0.0 { x } else { x / 128.0 };
        let pointwise = |x: &[f64], inputs: usize, w: Vec<f64>, bias: Vec<f64>| -> Vec<f64> {
            x.chunks(inputs)
                .flat_map(|x| {
                    let rows: Vec<f64> = w
                        .chunks(inputs)
                        .zip(&bias)
                        .map(|(w, bias)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias)
                        .collect();
                    rows
                })
                .collect()
        };
        let hidden: Vec<f64> = pointwise(x, c, get(0), get(1)).into_iter().map(lrelu).collect();
        let (kernel, bias) = (get(2), get(3));
        let taps = if case.spatial { 3 } else { 1 };
        let mut g = vec![0.0; h * w * b];
        for row in 0..h {
            for column in 0..w {
                for channel in 0..b {
                    let mut sum = bias[channel];
                    for (tap, weights) in kernel.chunks(b).enumerate() {
                        let y = (row + tap / taps) as isize - (taps / 2) as isize;
                        let x = (column + tap % taps) as isize - (taps / 2) as isize;
                        if (0..h as isize).contains(&y) && (0..w as isize).contains(&x) {
                            sum += weights[channel] * hidden[(y as usize * w + x as usize) * b + channel];
                        }
                    }
                    g[(row * w + column) * b + channel] = lrelu(sum);
                }
            }
        }
        let mean = pointwise(&g, b, get(4), get(5));
        out.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
    }
    if case.affine {
        for (index, x) in out.iter_mut().enumerate() {
            *x = *x * f64::from(weights.affine[0][index % c]) + f64::from(weights.affine[1][index % c]);
        }
    }
    out
}

/// Everything the tests vary.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for sample in [[4, 4, 4], [9, 7, 16], [1, 1, 10]] {
        for (sigma, block, affine) in
            [(true, true, false), (false, true, false), (false, true, true), (false, false, true)]
        {
            for scale in ["range", "constant"] {
                cases.push(Case { sample, spatial: sample[0] > 1, sigma, block, affine, scale });
            }
        }
    }
    cases
}

#[test]
fn quantised_denoise_level() {
    let context = new_context();
    let module = run(&context, &source(&SMALL), "quantize-denoisers", &Hardware::paper()).unwrap();
    insta::assert_snapshot!(print_module(&module, false));
}

#[test]
fn dtile_level_before_and_after_the_schedule() {
    let context = new_context();
    let passes = "quantize-denoisers,lower-to-dtile";
    let module = run(&context, &source(&SMALL), passes, &Hardware::paper()).unwrap();
    insta::assert_snapshot!("lowered", print_module(&module, false));
    let module = run(&context, &print_module(&module, false), "schedule-dtile", &Hardware::paper()).unwrap();
    let scheduled = print_module(&module, false);
    insta::assert_snapshot!("scheduled", scheduled);
    // Scheduling again changes nothing.
    let again = run(&context, &scheduled, "schedule-dtile", &Hardware::paper()).unwrap();
    assert_eq!(print_module(&again, false), scheduled);
}

#[test]
fn affine_of_a_classifier() {
    let context = new_context();
    let case = Case { sample: [1, 1, 10], spatial: false, sigma: false, block: false, affine: true, scale: "range" };
    let module = lowered(&context, &case, &Hardware::paper());
    insta::assert_snapshot!(print_module(&module, false));
}

#[test]
fn stock_mlir_opt_reads_every_level() {
    let irdl = tempfile::NamedTempFile::with_suffix(".mlir").unwrap();
    std::fs::write(irdl.path(), mxc_dialects::irdl_source()).unwrap();
    let context = new_context();
    for passes in ["quantize-denoisers", "quantize-denoisers,lower-to-dtile", "lower-denoisers"] {
        for case in cases() {
            // Few bytes, so that there are strips and tiles of channels.
            let module = run(&context, &source(&case), passes, &with_memory(2600)).unwrap();
            let mut child = Command::new("mlir-opt-22")
                .arg(format!("--irdl-file={}", irdl.path().display()))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("mlir-opt-22 is installed");
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, print_module(&module, false).as_bytes()).unwrap();
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn fixed_point_stays_near_the_float_model() {
    for case in cases() {
        let program = program(&case, &Hardware::paper());
        let words: Vec<i16> = input(&case, 1.5).iter().map(|x| fixed::quantise(*x, program.input_fraction)).collect();
        let x: Vec<f64> =
            words.iter().map(|word| f64::from(fixed::dequantise(*word, program.input_fraction))).collect();
        let expected = float_model(&case, &x);
        let step = fixed::exp2(-program.input_fraction.min(program.output_fraction));
        let worst = program
            .run(&words, Draw::Nothing)
            .into_iter()
            .map(|word| f64::from(fixed::dequantise(word, program.output_fraction)))
            .zip(expected)
            .map(|(got, expected)| (got - expected).abs() / step)
            .fold(0.0, f64::max);
        // Measured: 2.1 at most, from the rounding of weights, h, g and μ̂ together.
        assert!(worst <= 3.0, "{:?}: {worst} steps of the coarser of input and output", case.sample);
    }
}

#[test]
fn every_mapping_computes_the_same_words() {
    for case in cases() {
        let whole = program(&case, &with_memory(1 << 20));
        let words: Vec<i16> = input(&case, 3.0).iter().map(|x| fixed::quantise(*x, whole.input_fraction)).collect();
        let expected = whole.run(&words, Draw::Nothing);
        let mut strips = Vec::new();
        for bytes in [9000, 5000, 2600] {
            let program = program(&case, &with_memory(bytes));
            assert!(2 * program.activation_words <= bytes);
            assert_eq!(program.run(&words, Draw::Nothing), expected, "{:?}, {bytes} bytes", case.sample);
            strips.push(program.phases.len());
        }
        if case.sample == [9, 7, 16] && case.block {
            assert!(strips[2] > strips[0], "{strips:?} phases");
        }
        // Spilled sums and other core counts are exact too.
        let mut hardware = with_memory(1 << 20);
        hardware.conv.cores = 3;
        hardware.conv.accumulators_per_column = 1;
        hardware.memory.port_words = 4096;
        assert_eq!(program(&case, &hardware).run(&words, Draw::Nothing), expected);
    }
}

#[test]
fn no_input_saturates_inside_a_block() {
    // Full-scale inputs of either sign: the words of h, g, μ̂ and σ̂ stay off the rails (the interval proof at work).
    for case in cases().into_iter().filter(|case| case.block) {
        let program = program(&case, &Hardware::paper());
        let len = case.sample.iter().product();
        let mut numbers = Numbers(7);
        for _ in 0..20 {
            let words: Vec<i16> = (0..len).map(|_| if numbers.next() > 0.0 { i16::MAX } else { i16::MIN }).collect();
            let x: Vec<f64> =
                words.iter().map(|word| f64::from(fixed::dequantise(*word, program.input_fraction))).collect();
            let step = fixed::exp2(-program.input_fraction.min(program.output_fraction));
            let limit = f64::from(i16::MAX) * fixed::exp2(-program.output_fraction);
            for (word, expected) in program.run(&words, Draw::Nothing).into_iter().zip(float_model(&case, &x)) {
                // x̂ itself may saturate, to the rail and no further.
                let got = f64::from(fixed::dequantise(word, program.output_fraction));
                let expected = expected.clamp(-limit - step, limit);
                assert!((got - expected).abs() <= 4.0 * step, "{got} for {expected}");
            }
        }
    }
}

#[test]
fn batch_behind_axes_of_size_one() {
    // A classifier as TOSA's rank-3 matmul leaves it.
    let case = Case { sample: [1, 1, 10], spatial: false, sigma: true, block: true, affine: true, scale: "range" };
    let text = source(&case).replace("tensor<?x10xf32>", "tensor<1x?x10xf32>");
    let context = new_context();
    let module = run(&context, &text, "lower-denoisers", &Hardware::paper()).unwrap();
    assert_eq!(load::tile::programs(&module).unwrap()[0].shape, [1, 1, 10]);
    let message = run(&context, &text.replace("1x?x10", "?x?x10"), "lower-denoisers", &Hardware::paper()).unwrap_err();
    assert!(message.contains("cannot be lowered"), "{message}");
}

#[test]
fn schedule_and_choice_agree_on_cycles() {
    let context = new_context();
    for case in cases() {
        for bytes in [1 << 20, 5000, 2600] {
            let hardware = with_memory(bytes);
            let module = lowered(&context, &case, &hardware);
            let function = dtile::programs(&module)[0];
            let chosen = ir::dict_attr(&function, dtile::MAPPING)
                .and_then(|mapping| mapping.element_by_name("cycles"))
                .and_then(ir::as_i64);
            let scheduled = ir::i64_attr(&function, dtile::CYCLES);
            assert_eq!(chosen, scheduled);
            let report = load::tile::report(&module, (&hardware).into()).unwrap();
            assert_eq!(Some(report.cycles() as i64), scheduled);
            assert!(report.nanojoules() > 0.0 && report.milliwatts() > 0.0);
        }
    }
}

#[test]
fn noise_has_the_predicted_spread() {
    // x̂ with noise minus x̂ without is −ε·σ̂: uncorrelated with what it is added to, keyed, and of σ̂'s size.
    let program = program(&SMALL, &Hardware::paper());
    let words: Vec<i16> = input(&SMALL, 1.5).iter().map(|x| fixed::quantise(*x, program.input_fraction)).collect();
    let clean = program.run(&words, Draw::Nothing);
    let difference = |draw| -> Vec<f64> {
        program.run(&words, draw).iter().zip(&clean).map(|(a, b)| f64::from(i32::from(*a) - i32::from(*b))).collect()
    };
    assert_eq!(difference(Draw::Keyed(5)), difference(Draw::Keyed(5)));
    assert_ne!(difference(Draw::Keyed(5)), difference(Draw::Keyed(6)));
    assert_eq!(difference(Draw::Reset), difference(Draw::Reset));
    let (mut sum, mut squares, runs) = (0.0, 0.0, 2000);
    for key in 0..runs {
        let first = difference(Draw::Keyed(key))[0];
        sum += first;
        squares += first * first;
    }
    let deviation = (squares / runs as f64).sqrt();
    assert!(deviation > 10.0, "{deviation} steps");
    // Five standard errors of the mean: false once in 1.7 million.
    assert!((sum / runs as f64).abs() < 5.0 * deviation / (runs as f64).sqrt());
}

#[test]
fn errors_name_the_layer_and_the_mend() {
    let context = new_context();
    let paper = Hardware::paper();
    let error = |text: &str, passes: &str, hardware: &Hardware| run(&context, text, passes, hardware).unwrap_err();

    let uncalibrated = source(&SMALL).replace("calibration = {", "other = {");
    let message = error(&uncalibrated, "quantize-denoisers", &paper);
    assert!(message.contains("layer 'conv1'") && message.contains("not calibrated"), "{message}");

    let message = error(&source(&SMALL), "lower-to-dtile", &paper);
    assert!(message.contains("run quantize-denoisers first"), "{message}");

    let message = error(&source(&SMALL), "lower-denoisers", &with_memory(64));
    assert!(
        message.contains("layer 'conv1'") && message.contains("bytes of activation memory, the tile has 64"),
        "{message}"
    );

    let mut few_weights = paper.clone();
    few_weights.memory.weight_bytes = 32;
    let message = error(&source(&SMALL), "lower-denoisers", &few_weights);
    assert!(message.contains("layer 'conv1'") && message.contains("bytes of weights"), "{message}");

    let text = source(&SMALL);
    let start = text.find("%w0").and_then(|at| text[at..].find("\"0x").map(|quote| at + quote + 3)).unwrap();
    let infinite = format!("{}0000807F{}", &text[..start], &text[start + 8..]);
    let message = error(&infinite, "quantize-denoisers", &paper);
    assert!(message.contains("reduce.weight holds a value that is not finite"), "{message}");

    let unscheduled = run(&context, &source(&SMALL), "quantize-denoisers,lower-to-dtile", &paper).unwrap();
    let message = load::tile::programs(&unscheduled).unwrap_err().to_string();
    assert!(message.contains("run schedule-dtile"), "{message}");
}

const KEY: Key = Key { seed: 3, purpose: Purpose::Eval, pass: 1, chip: 0 };
const ALL_MODES: [Mode; 4] = [Mode::CLEAN, Mode::NOISY, Mode::DENOISED, Mode::CLEAN_DENOISED];

fn forward(program: &Program, threads: usize, batch: Batch<'_>, mode: Mode) -> Vec<u32> {
    let executor = Executor::new(program.clone(), threads).unwrap();
    executor.forward(batch, mode, KEY).unwrap().concat().iter().map(|value| value.to_bits()).collect()
}

/// One layer, so that what the tile gets is what the network returns without denoisers.
#[test]
fn dtile_level_runs_in_integers() {
    for case in cases() {
        let context = new_context();
        let module = lowered(&context, &case, &with_memory(5000));
        let program = load::program(&module, &WeightStore::new()).unwrap();
        let tile = load::tile::programs(&module).unwrap().remove(0);
        assert_eq!(program.denoiser_parameters(), tile.weights.len() as u64);
        let samples = [4, 7];
        let len: usize = case.sample.iter().product();
        let x = Numbers(99).take(2 * len, 1.5);
        let batch = Batch { inputs: &[&x], samples: &samples };
        for (before, after, sampling) in
            [(Mode::NOISY, Mode::DENOISED, true), (Mode::CLEAN, Mode::CLEAN_DENOISED, false)]
        {
            let noisy = forward(&program, 1, batch, before);
            let mut expected: Vec<f32> = noisy.into_iter().map(f32::from_bits).collect();
            for (y, sample) in expected.chunks_exact_mut(len).zip(samples) {
                tile.denoise(y, sample, sampling.then_some(KEY));
            }
            let expected: Vec<u32> = expected.iter().map(|value| value.to_bits()).collect();
            assert_eq!(forward(&program, 1, batch, after), expected, "{:?}", case.sample);
        }
    }
}

/// `examples/models/resnet20.onnx` with denoisers that do something, at the denoise and at the dtile level.
#[test]
fn dtile_level_of_a_whole_network() {
    let context = new_context();
    let options = CompileOptions {
        budget: 0.04,
        noise: LayerNoise { spec: NoiseSpec::gaussian(0.2), ..LayerNoise::default() },
        placement: Strategy::Fill,
        denoiser: "paper+affine".to_owned(),
        equalize: false,
        energy_budget: 0.0,
        init: Init::Identity,
        keep_digital: Vec::new(),
        hardware: Hardware::paper(),
        costs: None,
        seed: 0,
        threads: 1,
        samples: 4,
        task: Task::default(),
    };
    let imported = driver::import(&context, &model("resnet20"), &ImportOptions::default()).unwrap();
    let mut compiled =
        driver::compile(&context, imported, &options, Level::Denoise, None, &RunOptions::default()).unwrap();
    let mut numbers = Numbers(5);
    let names: Vec<(String, Vec<usize>)> =
        compiled.denoisers.iter().map(|(name, weight)| (name.to_owned(), weight.shape().to_vec())).collect();
    for (name, shape) in names {
        let centre = if name.ends_with("affine.scale") { 1.0 } else { 0.0 };
        let mut values = numbers.take(shape.iter().product(), 0.05);
        values.iter_mut().for_each(|value| *value += centre);
        compiled.denoisers.insert(name, Weight::new(shape, values).unwrap());
    }
    let weights = compiled.all_weights();
    let float = load::program(&compiled.module, &weights).unwrap();
    let mut cx = PassContext { weights: weights.clone(), ..PassContext::default() };
    let pipeline = Pipeline::parse(&REGISTRY, "lower-denoisers").unwrap();
    run_pipeline(&context, &mut compiled.module, &pipeline, &mut cx, &RunOptions::default()).unwrap();
    let fixed = load::program(&compiled.module, &weights).unwrap();

    // The same network read at its denoise level, its float denoisers replaced by the tile's programs.
    let tiles = load::tile::programs(&compiled.module).unwrap();
    assert!(tiles.len() > 10, "{} denoisers", tiles.len());
    let replaced = with_tiles(&float, tiles);

    assert_eq!(fixed.denoiser_parameters(), float.denoiser_parameters());
    let x = Numbers(1).take(5 * 28 * 28, 1.5);
    let batch = Batch { inputs: &[&x], samples: &[0, 1, 2, 30, 31] };
    for mode in ALL_MODES {
        let outputs = forward(&fixed, 1, batch, mode);
        assert_eq!(outputs, forward(&fixed, 2, batch, mode), "{mode:?}: threads");
        assert_eq!(outputs, forward(&replaced, 1, batch, mode), "{mode:?}: tile programs in the denoise level");
        assert_eq!(outputs == forward(&float, 1, batch, mode), !mode.denoise, "{mode:?}: float");
    }
    // Near the float network: ε = 0, so that both compute the same but for rounding.
    let values = |program| forward(program, 2, batch, Mode::CLEAN_DENOISED).into_iter().map(f32::from_bits);
    let worst = values(&fixed).zip(values(&float)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 0.05, "logits differ by {worst}");

    // As text, too.
    let text = print_module(&compiled.module, false);
    let parsed = ir::parse(&context, text.as_bytes(), "dtile.mlir").unwrap();
    let parsed = load::program(&parsed, &weights).unwrap();
    assert_eq!(forward(&parsed, 1, batch, Mode::DENOISED), forward(&fixed, 1, batch, Mode::DENOISED));

    let executor = Executor::new(fixed, 1).unwrap();
    let error = executor.gradients(batch, Targets::Labels(&[0; 5]), KEY).unwrap_err().to_string();
    assert!(error.contains("digital tile") && error.contains("denoise level"), "{error}");
}

/// A program with the first denoiser of every layer replaced by the tile's program, and the others left out.
fn with_tiles(float: &Program, tiles: Vec<TileProgram>) -> Program {
    let mut tiles: BTreeMap<String, Arc<TileProgram>> =
        tiles.into_iter().map(|tile| (tile.layer.clone(), Arc::new(tile))).collect();
    let mut builder = Builder::new();
    for layer in float.layers() {
        builder.layer(layer.clone()).unwrap();
    }
    let mut made = BTreeMap::new();
    for &id in float.inputs() {
        let value = &float.values()[id];
        made.insert(id, builder.input(&value.name, value.dtype, value.shape.clone()).unwrap());
    }
    for (id, value) in float.values().iter().enumerate() {
        if let Some(weight) = value.constant.as_ref().filter(|_| !value.trainable) {
            made.insert(id, builder.constant(&value.name, weight.clone(), false).unwrap());
        }
    }
    for node in float.nodes() {
        let x = made[&node.inputs[0]];
        let output = match &node.op {
            Op::Denoise(Denoise { layer, .. }) => match tiles.remove(&float.layers()[*layer].name) {
                Some(program) => builder.node(DenoiseTile { layer: *layer, program }, &[x]).unwrap(),
                None => x,
            },
            op => {
                let inputs: Vec<_> = node.inputs.iter().map(|id| made[id]).collect();
                builder.node(op.clone(), &inputs).unwrap()
            }
        };
        made.insert(node.output, output);
    }
    for &id in float.outputs() {
        builder.output(made[&id], &float.values()[id].name).unwrap();
    }
    builder.finish(0).unwrap()
}

/// The denoiser's cost with a measured σ̂ in steps of X's words (2⁻¹³ for the calibrated absmax of 2), or without.
fn cost_with_sigma(steps: Option<f64>) -> digital::DenoiserCost {
    let context = new_context();
    let paper = Hardware::paper();
    let text = source(&SMALL);
    let measured = steps.map_or(String::new(), |steps| {
        let sigma = steps * fixed::exp2(-13);
        format!("measured = {{samples = 4 : i64, input_rms = 5.0e-01 : f64, sigma_rms = {sigma:?} : f64}}, ")
    });
    let text = text.replacen("{layer", &format!("{{{measured}layer"), 1);
    let module = run(&context, &text, "lower-denoisers", &paper).unwrap();
    load::tile::report(&module, (&paper).into()).unwrap().denoisers.remove(0)
}

#[test]
fn negligible_sigma_costs_nothing() {
    let unmeasured = cost_with_sigma(None);
    assert!(unmeasured.sigma);
    assert_eq!(cost_with_sigma(Some(1.0)), unmeasured, "a whole step is kept");
    let dropped = cost_with_sigma(Some(0.99));
    assert_eq!(dropped, cost_with_sigma(Some(0.0)));
    assert!(!dropped.sigma && dropped.weight_bytes < unmeasured.weight_bytes);
    assert!(dropped.cycles < unmeasured.cycles && dropped.nanojoules < unmeasured.nanojoules);
    assert_eq!(dropped.activity.gaussians, 0);
    // What is left is the kind `mean`: the same weights make the same program.
    let context = new_context();
    let mean = lowered(&context, &Case { sigma: false, ..SMALL }, &Hardware::paper());
    let mean = load::tile::report(&mean, (&Hardware::paper()).into()).unwrap().denoisers.remove(0);
    assert_eq!(dropped, mean);
}

#[test]
fn what_is_quantised_but_on_no_tile_is_refused() {
    let context = new_context();
    let paper = Hardware::paper();
    let refused = |text: &str| {
        let module = ir::parse(&context, text.as_bytes(), "test.mlir").unwrap();
        load::program(&module, &WeightStore::new()).unwrap_err().to_string()
    };
    let text = |passes| print_module(&run(&context, &source(&SMALL), passes, &paper).unwrap(), false);
    let error = refused(&text("quantize-denoisers"));
    assert!(error.contains("denoise.paper") && error.contains("only the digital tile"), "{error}");
    let error = refused(&text("quantize-denoisers,lower-to-dtile"));
    assert!(error.contains("run schedule-dtile"), "{error}");

    let scheduled = text("lower-denoisers");
    let replaced = |from: &str, to: &str| {
        assert!(scheduled.contains(from), "{from}");
        refused(&scheduled.replace(from, to))
    };
    // The input cast's scale, and its type.
    let error = replaced("1.220703125E-4", "2.44140625E-4");
    assert!(error.contains("takes words with 13 fraction bits, not 12"), "{error}");
    let error = replaced("quant.uniform<i16:f32, 1.220703125E-4>", "quant.uniform<i16:f32, 1.220703125E-4:7>");
    assert!(error.contains("holds no 16-bit words"), "{error}");
    let error = replaced("\"dtile.launch\"(%4) {layer = \"conv1\"", "\"dtile.launch\"(%4) {layer = \"conv2\"");
    assert!(error.contains("of another layer"), "{error}");

    let rounding = "func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {\n\
        %q = quant.qcast %x : tensor<?x4xf32> to tensor<?x4x!quant.uniform<i16:f32, 2.5E-1>>\n\
        %r = quant.dcast %q : tensor<?x4x!quant.uniform<i16:f32, 2.5E-1>> to tensor<?x4xf32>\n\
        return %r : tensor<?x4xf32>\n}";
    let error = refused(rounding);
    assert!(error.contains("quant.dcast") && error.contains("rounding alone is not executed"), "{error}");
}

#[test]
fn verifier_refuses_broken_programs() {
    let context = new_context();
    let hardware = with_memory(5000);
    let text = print_module(&lowered(&context, &SMALL, &hardware), false);
    let messages = |module: &Module<'_>| -> String {
        let found = dtile::verify::verify(module).unwrap_err();
        found.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
    };
    let violations = |from: &str, to: &str| -> String {
        assert!(text.contains(from), "{from} not in\n{text}");
        let broken = text.replacen(from, to, 1);
        let module = ir::parse(&context, broken.as_bytes(), "broken.mlir").unwrap();
        assert!(module.as_operation().verify());
        messages(&module)
    };
    assert!(violations("dtile.cycles = ", "dtile.cycles = 1").contains("not the phases' sum"));
    assert!(violations("unit = \"convolution\"", "unit = \"affine\"").contains("phase enables \"affine\""));
    assert!(violations("unit = \"convolution\"", "unit = \"tea\"").contains("no unit `tea`"));
    assert!(violations("index = 1 : i64", "index = 7 : i64").contains("where phase 1"));
    assert!(violations("first_draw = 0", "first_draw = 3").contains("starts at draw 3"));
    assert!(violations("kind = \"depthwise\"", "kind = \"pointwise\"").contains("systolic_conv"));
    assert!(violations("program = @denoise.conv1", "program = @main").contains("no dtile program @main"));
    assert!(
        violations("dtile.weight_memory_bytes = 524288", "dtile.weight_memory_bytes = 16").contains("weight memory")
    );
    assert!(
        violations("dtile.activation_memory_bytes = 5000", "dtile.activation_memory_bytes = 100")
            .contains("activation memory")
    );
    // h moved onto x while the reduction reads x.
    let x = text.match_indices("\"dtile.activation_alloc\"() {address = ").nth(1).unwrap().0;
    let moved = {
        let end = text[x..].find(" : i64").unwrap() + x;
        let start = text[x..end].rfind(' ').unwrap() + x + 1;
        format!("{}0{}", &text[..start], &text[end..])
    };
    if moved != text {
        let module = ir::parse(&context, moved.as_bytes(), "moved.mlir").unwrap();
        assert!(messages(&module).contains("overlap"));
    }
}

#[test]
fn hand_written_program_bit_by_bit() {
    // One pixel, two channels; reduce is the identity of one bottleneck channel, everything in quarters (2 fraction bits).
    let text = r#"
func.func private @p(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "l", dtile.input_fraction = 2 : i64,
    dtile.output_fraction = 1 : i64, dtile.weight_memory_bytes = 64 : i64, dtile.activation_memory_bytes = 64 : i64,
    dtile.cycles = 7 : i64} {
  %c0 = arith.constant dense<[[[[3, -2]]]]> : tensor<1x1x1x2xi16>
  %c1 = arith.constant dense<[5]> : tensor<1xi16>
  %c2 = arith.constant dense<[[[[1]]], [[[-7]]]]> : tensor<2x1x1x1xi16>
  %c3 = arith.constant dense<[1, -1]> : tensor<2xi16>
  %w = "dtile.weight_alloc"(%c0) {address = 0 : i64, bytes = 4 : i64} : (tensor<1x1x1x2xi16>) -> tensor<1x1x1x2xi16>
  %b = "dtile.weight_alloc"(%c1) {address = 4 : i64, bytes = 2 : i64} : (tensor<1xi16>) -> tensor<1xi16>
  %v = "dtile.weight_alloc"(%c2) {address = 6 : i64, bytes = 4 : i64} : (tensor<2x1x1x1xi16>) -> tensor<2x1x1x1xi16>
  %d = "dtile.weight_alloc"(%c3) {address = 10 : i64, bytes = 4 : i64} : (tensor<2xi16>) -> tensor<2xi16>
  %out = tensor.empty() : tensor<1x1x2xi16>
  %xb = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 1 : i64} : () -> ()
  %x = "dtile.load"(%y, %xb) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  %hb = "dtile.activation_alloc"() {address = 4 : i64, bytes = 2 : i64} : () -> tensor<1x1x1xi16>
  "dtile.phase"() {index = 1 : i64, unit = "convolution", start = 1 : i64, cycles = 1 : i64} : () -> ()
  %h = "dtile.systolic_conv"(%x, %w, %b, %hb) {kind = "pointwise", pad = array<i64: 0, 0, 0, 0>, first_filter = 0 : i64,
    input_fraction = 2 : i64, weight_fraction = 1 : i64, bias_fraction = 2 : i64, output_fraction = 2 : i64,
    cores = array<i64: 10, 1>, order = "accumulate"}
    : (tensor<1x1x2xi16>, tensor<1x1x1x2xi16>, tensor<1xi16>, tensor<1x1x1xi16>) -> tensor<1x1x1xi16>
  "dtile.phase"() {index = 2 : i64, unit = "leaky_relu", start = 2 : i64, cycles = 1 : i64} : () -> ()
  %g = "dtile.leaky_relu"(%h) {shift = 7 : i64} : (tensor<1x1x1xi16>) -> tensor<1x1x1xi16>
  %mb = "dtile.activation_alloc"() {address = 6 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 3 : i64, unit = "convolution", start = 3 : i64, cycles = 1 : i64} : () -> ()
  %m = "dtile.systolic_conv"(%g, %v, %d, %mb) {kind = "pointwise", pad = array<i64: 0, 0, 0, 0>, first_filter = 0 : i64,
    input_fraction = 2 : i64, weight_fraction = 0 : i64, bias_fraction = 0 : i64, output_fraction = 2 : i64,
    cores = array<i64: 5, 2>, order = "accumulate"}
    : (tensor<1x1x1xi16>, tensor<2x1x1x1xi16>, tensor<2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 4 : i64, unit = "noise_cancellation", start = 4 : i64, cycles = 1 : i64} : () -> ()
  %n = "dtile.noise_cancel"(%x, %m) {first_row = 0 : i64, first_channel = 0 : i64, lanes = 4 : i64, input_fraction = 2 : i64,
    mean_fraction = 2 : i64, sigma_fraction = 0 : i64, normal_fraction = 12 : i64, output_fraction = 1 : i64}
    : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 5 : i64, unit = "transfer", start = 5 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%n, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64}
    : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}"#;
    let context = new_context();
    let module = ir::parse(&context, text.as_bytes(), "hand.mlir").unwrap();
    let program = load::tile::programs(&module).unwrap().remove(0);
    // x = (6, 7) quarters. h: 3·6 − 2·7 + 5·2 = 14 eighths, 7 quarters. μ̂ = (7 + 4, −49 − 4) quarters.
    // x − μ̂ = (−5, 60) quarters = (−2.5, 30) halves, half to even (−2, 30).
    assert_eq!(program.run(&[6, 7], Draw::Nothing), [-2, 30]);
    // x = (−200, 9): h = −600 − 18 + 10 = −608 eighths = −304 quarters, leaky −304/128 = −2.375, −2.
    // μ̂ = (−2 + 4, 14 − 4); x − μ̂ = (−202, −1) quarters = (−101, −0.5) halves, half to even 0.
    assert_eq!(program.run(&[-200, 9], Draw::Nothing), [-101, 0]);
    // x = (−1, −1): h = −3 + 2 + 10 = 9 eighths = 4.5 quarters, half to even 4. μ̂ = (8, −32): x − μ̂ = (−9, 31) quarters.
    assert_eq!(program.run(&[-1, -1], Draw::Nothing), [-4, 16]);
    // Saturation: h = (3 + 2)·32767 + 12 eighths, far above; μ̂ = (32767 (saturated), −32768), and so is x − μ̂ in channel 1.
    assert_eq!(program.run(&[32767, -32768], Draw::Nothing), [0, 0]);
}
