//! `lower-to-dtile`: turns quantised denoisers into straight-line programs of the digital tile.
//!
//! ```mlir
//! %2 = quant.qcast %1 : …   %5 = "denoise.paper"(%2, …)   %6 = quant.dcast %5 : …
//! // becomes
//! %3 = quant.scast %2 : … to tensor<?x8x8x16xi16>
//! %4 = "dtile.launch"(%3) {layer = "conv1", program = @denoise.conv1} : (…) -> tensor<?x8x8x16xi16>
//! %5 = quant.scast %4 : …   %6 = quant.dcast %5 : …
//! func.func private @denoise.conv1(%y: tensor<8x8x16xi16>) -> tensor<8x8x16xi16> attributes {dtile.layer = "conv1", …} {
//!   %x = "dtile.load"(%y, %b) {first_row = 0} …   %h = "dtile.systolic_conv"(%x, …) …   "dtile.noise_cancel"(…) …
//! ```
//!
//! A layer's block and affine become one program. How it is cut into strips of rows and tiles of channels, how convolutions
//! run on the cores, and whether both heads share one load of g, is [`crate::tile::mapping`]'s choice, kept in
//! `dtile.mapping`; [`crate::tile::emit`] writes the program as the mapping's schedule says. It has no addresses and no times yet:
//! `schedule-dtile` gives them.

use crate::{
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{self, built, fresh_symbol, insert_before},
    },
    tile::{
        emit::{self, Denoisers},
        mapping,
        placed::{FRACTIONS, HARDWARE_OPTION, Placed, cast, hardware},
        plan::Task,
        stages::{Stage, StageId, Stages, Unit},
    },
};
use melior::{
    Context,
    ir::{
        BlockLike, BlockRef, Module, OperationRef, Type, Value, ValueLike, operation::OperationLike,
        r#type::IntegerType,
    },
};
use mxc_dialects::{
    denoise::expression::{Expression, Site},
    dtile::{self, Symbol},
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::hardware::Hardware;
use std::{marker::PhantomData, path::PathBuf};

/// See the module.
pub struct LowerToDtile {
    hardware: Option<PathBuf>,
}

impl Pass for LowerToDtile {
    const NAME: &'static str = "lower-to-dtile";
    const DESCRIPTION: &'static str = "turns quantised denoisers into digital-tile programs, mapped by egg";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[HARDWARE_OPTION];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { hardware: options.take("hardware").map(PathBuf::from) })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let hardware = hardware(self.hardware.as_ref(), cx)?;
        run(context, module, &hardware)
    }
}

/// A layer's denoisers in `@main`.
struct Placement<'c, 'a> {
    input: Value<'c, 'a>,
    output: Value<'c, 'a>,
    first: OperationRef<'c, 'a>,
    /// All, in the order in which they act.
    operations: Vec<OperationRef<'c, 'a>>,
    /// What they compute.
    denoisers: Denoisers<'c, 'a>,
}

fn run<'c>(context: &'c Context, module: &mut ModuleMut<'c, '_>, hardware: &Hardware) -> Result<(), PassError> {
    module.erasing(|module, eraser| lower(context, module, eraser, hardware))?;
    module.erasing(remove_dead_casts);
    module.erasing(constants::remove_dead);
    Ok(())
}

/// Puts a launch in the place of every layer's denoisers.
fn lower<'c, 'a>(
    context: &'c Context,
    module: &'a Module<'c>,
    eraser: &mut Eraser<'c, 'a>,
    hardware: &Hardware,
) -> Result<(), PassError> {
    let Some(main) = ir::main_function(module).and_then(ir::entry_block) else {
        return Ok(());
    };
    for operation in ir::block_ops(main) {
        // The affine of a block that has been lowered goes with it.
        if eraser.is_marked(&operation) {
            continue;
        }
        let Some(placed) = Placed::read(operation)? else {
            continue;
        };
        let placement = read(main, placed)?;
        launch(context, module, main, hardware, &placement)?;
        for operation in placement.operations {
            eraser.erase(operation);
        }
    }
    Ok(())
}

/// Gives a layer's denoisers a program, and what read their output a launch's.
fn launch<'c, 'a>(
    context: &'c Context,
    module: &'a Module<'c>,
    main: BlockRef<'c, 'a>,
    hardware: &Hardware,
    placement: &Placement<'c, 'a>,
) -> Result<(), PassError> {
    let Placement { input, output, first, denoisers, .. } = placement;
    let layer = &denoisers.layer;
    let chosen = mapping::choose(hardware, &denoisers.task).map_err(|error| {
        PassError::new(format!("the denoiser of layer '{layer}' {error}"))
            .at(first.location())
            .hint("a profile with more `memory.activation_bytes`, or compile without a denoiser at this layer")
    })?;
    let symbol = fresh_symbol(module, &format!("denoise.{layer}"));
    let function = emit::function(context, hardware, denoisers, &chosen, &symbol)?;
    module.body().append_operation(function);

    let words = ir::value_shape(*input)
        .map(|shape| ir::tensor_type(IntegerType::new(context, 16).into(), &shape))
        .unwrap_or(input.r#type());
    let stored = cast(main, *first, "quant.scast", *input, words)?;
    let launch = dtile::Launch {
        input: stored,
        program: Symbol(symbol),
        layer: layer.clone(),
        types: vec![words],
        lifetime: PhantomData,
    };
    let launch = built("a launch", launch.build(context, first.location()))?;
    let launched = insert_before(main, *first, launch)?;
    let result = cast(main, *first, "quant.scast", launched, output.r#type())?;
    ffi::replace_all_uses(*output, result);
    Ok(())
}

/// Erases `quant.scast`s of weights that nobody uses any more.
fn remove_dead_casts<'c, 'a>(module: &'a Module<'c>, eraser: &mut Eraser<'c, 'a>) {
    for operation in ir::main_function(module).and_then(ir::entry_block).map(ir::block_ops).unwrap_or_default() {
        if ir::op_name(&operation) == "quant.scast" {
            eraser.erase(operation);
        }
    }
}

/// Reads the denoisers of a layer, from the first on.
fn read<'c, 'a>(main: BlockRef<'c, 'a>, first: Placed<'c, 'a, 'static>) -> Result<Placement<'c, 'a>, PassError> {
    let mut placed = vec![first];
    while let Some(last) = placed.last() {
        let output = built("a result", last.operation.result(0))?.into();
        let [user] = constants::users(main, output)[..] else {
            break;
        };
        match Placed::read(user)? {
            Some(next) if next.layer == last.layer && next.stage > last.stage => placed.push(next),
            _ => break,
        }
    }
    placement(&placed)
}

/// What is to be lowered of a layer's denoisers, one behind the other.
fn placement<'c, 'a>(placed: &[Placed<'c, 'a, '_>]) -> Result<Placement<'c, 'a>, PassError> {
    let first = placed.first().ok_or_else(|| PassError::new("a layer without denoisers"))?;
    let refused = |message: String| first.refused(message);
    let fraction = |value: Value<'c, 'a>| {
        dtile::fraction(value).map(i64::from).ok_or_else(|| {
            refused(format!("a denoiser's operand is {}, not quantised", value.r#type()))
                .hint("run quantize-denoisers first")
        })
    };
    // The i16 value behind a weight's storage cast.
    let constant = |value: &Value<'c, 'a>| {
        let fraction = fraction(*value)?;
        let words = ir::defining_op(*value)
            .filter(|operation| ir::op_name(operation) == "quant.scast")
            .and_then(|operation| operation.operand(0).ok())
            .filter(|words| ir::defining_op(*words).is_some())
            .ok_or_else(|| refused("a weight is no stored constant".to_owned()))?;
        Ok::<_, PassError>((words, fraction))
    };
    let input = built("an operand", first.operation.operand(0))?;
    let (rows, columns) = rows_and_columns(input.r#type()).ok_or_else(|| {
        refused(format!("a denoiser on {} cannot be lowered", input.r#type()))
            .hint("sizes other than the batch must be known")
    })?;
    let denoisers: Vec<(&Expression, Site)> = placed.iter().map(|placed| (placed.expression, placed.site)).collect();
    let stages = Stages::new(&denoisers).map_err(refused)?;
    let input_fraction = fraction(input)?;
    let (mut output, mut output_fractions, mut weights) = (input, Vec::new(), Vec::new());
    for placed in placed {
        output = built("a result", placed.operation.result(0))?.into();
        output_fractions.push(fraction(output)?);
        weights.push(placed.weights.iter().map(constant).collect::<Result<Vec<_>, _>>()?);
    }
    let fractions = stage_fractions(placed, &stages, input_fraction, &output_fractions)?;
    let single = |cancel: StageId| match stages.heads(cancel)[..] {
        [head] => Some((cancel, term(placed, &stages.all()[head]).to_owned())),
        _ => None,
    };
    let heads = (0..stages.all().len()).filter_map(single).collect();
    let (layer, location) = (first.layer.clone(), first.operation.location());
    let task = Task { rows, columns, stages };
    Ok(Placement {
        input,
        output,
        first: first.operation,
        operations: placed.iter().map(|placed| placed.operation).collect(),
        denoisers: Denoisers { layer, location, task, weights, fractions, heads },
    })
}

/// The rows and columns of a layer's output: of a vector one pixel, of tokens a column.
fn rows_and_columns(output: Type<'_>) -> Option<(usize, usize)> {
    match dtile::sample_shape(output)?[..] {
        [_] => Some((1, 1)),
        [tokens, _] => Some((tokens, 1)),
        [rows, columns, _] => Some((rows, columns)),
        _ => None,
    }
}

/// The name of a stage's term.
fn term<'e>(placed: &[Placed<'_, '_, 'e>], stage: &Stage) -> &'e str {
    &placed[stage.denoiser].expression.terms()[stage.term].name
}

/// The fraction of every stage's result, given those of the input and of each denoiser's output.
fn stage_fractions(
    placed: &[Placed<'_, '_, '_>],
    stages: &Stages,
    input: i64,
    outputs: &[i64],
) -> Result<Vec<i64>, PassError> {
    let inside = |stage: &Stage| {
        let (denoiser, name) = (&placed[stage.denoiser], term(placed, stage));
        let fractions = ir::dict_attr(&denoiser.operation, FRACTIONS);
        fractions.and_then(|fractions| fractions.element_by_name(name)).and_then(ir::as_i64).ok_or_else(|| {
            denoiser.refused(format!("its `{FRACTIONS}` has no `{name}`")).hint("run quantize-denoisers first")
        })
    };
    let mut fractions: Vec<i64> = Vec::new();
    for stage in stages.all() {
        fractions.push(match stage.unit {
            Unit::Load => input,
            Unit::Relu { x } | Unit::Store { x } => fractions[x],
            Unit::Conv { .. } | Unit::Affine { .. } | Unit::Cancel { .. } => {
                let is_result = stage.term == placed[stage.denoiser].expression.result();
                if is_result { outputs[stage.denoiser] } else { inside(stage)? }
            }
        });
    }
    Ok(fractions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::{Pipeline, RunOptions, run_pipeline};
    use crate::passes::quantize_denoisers::Quantiser;
    use crate::tile::testing;
    use mxc_dialects::{
        denoise::{
            Kind, SLOPE,
            expression::{ParameterId, Primitive},
        },
        new_context,
    };
    use mxc_runtime::digital::{fixed, interpret::Draw, program::TileProgram};

    const SITE: Site = Site { channels: 8, spatial: true };
    const ROWS: usize = 9;
    const COLUMNS: usize = 5;

    /// A deterministic stream of numbers in (-1, 1).
    struct Numbers(u64);

    impl Numbers {
        fn take(&mut self, count: usize) -> Vec<f32> {
            let mut next = || {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((self.0 >> 40) as f32 + 0.5) / (1u64 << 23) as f32 - 1.0
            };
            (0..count).map(|_| next()).collect()
        }
    }

    /// The weights of a denoiser, by parameter.
    fn weights(expression: &Expression) -> Vec<Vec<f32>> {
        let mut numbers = Numbers(3);
        let parameters = expression.parameters().iter();
        parameters
            .map(|parameter| {
                let weights = numbers.take(parameter.layout.shape(SITE).iter().product());
                weights.into_iter().map(|weight| 0.4 * weight).collect()
            })
            .collect()
    }

    /// One analog layer and an operation for each denoiser behind it.
    fn source(expressions: &[&Expression]) -> String {
        let c = SITE.channels;
        let x = format!("tensor<?x{ROWS}x{COLUMNS}x{c}xf32>");
        let mut text = format!("func.func @main(%x: {x}) -> {x} {{\n");
        let mut constant = |name: &str, shape: &[usize], values: &[f32]| {
            let bytes: String =
                values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02X}")).collect();
            let shape: String = shape.iter().map(|size| format!("{size}x")).collect();
            let r#type = format!("tensor<{shape}f32>");
            text.push_str(&format!(
                "%{name} = \"tosa.const\"() {{values = dense<\"0x{bytes}\"> : {type}}} : () -> {type}\n"
            ));
            r#type
        };
        let (weight, bias) =
            (constant("weight", &[c, 1, 1, c], &vec![0.1; c * c]), constant("bias", &[c], &vec![0.0; c]));
        let mut denoisers = String::new();
        for (index, expression) in expressions.iter().enumerate() {
            let (mut operands, mut types) = (String::new(), String::new());
            for (part, (parameter, values)) in expression.parameters().iter().zip(weights(expression)).enumerate() {
                operands.push_str(&format!(", %w{index}_{part}"));
                let shape = parameter.layout.shape(SITE);
                types.push_str(&format!(", {}", constant(&format!("w{index}_{part}"), &shape, &values)));
            }
            let next = index + 1;
            denoisers.push_str(&format!("%y{next} = \"test.denoiser\"(%y{index}{operands}) : ({x}{types}) -> {x}\n"));
        }
        let last = expressions.len();
        format!(
            "{text}%y0 = \"analog.conv2d\"(%x, %weight, %bias) {{calibration = {{absmax = 2.0, input_absmax = 1.0, \
             mean_abs = 0.4, rms = 0.5, samples = 4 : i64, std = 0.5}}, dilation = array<i64: 1, 1>, groups = 1 : i64, \
             pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, layer = \"conv1\", noise = {{reference = \"rms\", \
             scale = \"range\", spec = \"gaussian(sigma=6%)\"}}}} : ({x}, {weight}, {bias}) -> {x}\n\
             {denoisers}return %y{last} : {x}\n}}\n"
        )
    }

    /// The denoisers of `@main` that are not lowered yet.
    fn placed<'c, 'a, 'e>(main: BlockRef<'c, 'a>, expressions: &[&'e Expression]) -> Vec<Placed<'c, 'a, 'e>> {
        let operations = ir::block_ops(main).into_iter().filter(|operation| ir::op_name(operation) == "test.denoiser");
        operations
            .zip(expressions)
            .map(|(operation, expression)| Placed {
                operation,
                layer: "conv1".to_owned(),
                stage: Kind::named("affine").unwrap().stage,
                expression,
                site: SITE,
                weights: operation.operands().skip(1).collect(),
            })
            .collect()
    }

    /// The scheduled program of denoisers that no kind has.
    fn program(expressions: &[&Expression], hardware: &Hardware) -> TileProgram {
        let context = new_context();
        context.set_allow_unregistered_dialects(true);
        let mut module = ir::parse(&context, source(expressions).as_bytes(), "test.mlir").unwrap();
        let mut cx = PassContext { hardware: Some(hardware.clone()), ..PassContext::default() };
        {
            let mut module = ModuleMut::new(&mut module);
            for index in 0..expressions.len() {
                module.erasing(|module, eraser| {
                    let main = ir::main_function(module).and_then(ir::entry_block).unwrap();
                    let placed = &placed(main, expressions)[index];
                    let mut quantiser = Quantiser::new(&context, module, main, &cx, hardware, eraser);
                    quantiser.denoiser(placed).unwrap();
                });
            }
            module.erasing(|module, eraser| {
                let main = ir::main_function(module).and_then(ir::entry_block).unwrap();
                let placement = placement(&placed(main, expressions)).unwrap();
                launch(&context, module, main, hardware, &placement).unwrap();
                assert_scheduled_alike(module, &placement.denoisers.task, hardware);
                placement.operations.into_iter().for_each(|operation| eraser.erase(operation));
            });
        }
        let options = RunOptions { verify_each: true, ..RunOptions::default() };
        let pipeline = Pipeline::parse(&crate::passes::REGISTRY, "schedule-dtile").unwrap();
        run_pipeline(&context, &mut module, &pipeline, &mut cx, &options).unwrap();
        crate::load::tile::programs(&module).unwrap().remove(0)
    }

    /// The instructions of the emitted program have the schedule of its mapping.
    fn assert_scheduled_alike(module: &Module<'_>, task: &Task, hardware: &Hardware) {
        let expected = task.schedule(hardware, &mapping::choose(hardware, task).unwrap().mapping);
        let found = crate::load::schedule::of_program(hardware, dtile::programs(module)[0], 0).unwrap();
        let expected_bytes: Vec<usize> = expected.buffers.iter().map(|buffer| buffer.bytes).collect();
        let found_bytes: Vec<usize> = found.buffers.iter().map(|buffer| buffer.bytes).collect();
        assert_eq!(found_bytes, expected_bytes);
        assert_eq!(found.phases.len(), expected.phases.len());
        for (found, expected) in found.phases.iter().zip(&expected.phases) {
            assert_eq!((found.work, &found.reads, &found.writes), (expected.work, &expected.reads, &expected.writes));
            assert_eq!((found.start, found.cycles), (expected.start, expected.cycles));
        }
    }

    /// A denoiser with ε = 0 in f64.
    fn float_model(expression: &Expression, x: &[f64]) -> Vec<f64> {
        let weights: Vec<Vec<f64>> =
            weights(expression).into_iter().map(|values| values.into_iter().map(f64::from).collect()).collect();
        let mut values: Vec<Vec<f64>> = Vec::new();
        for (id, term) in expression.terms().iter().enumerate() {
            let c = expression.width(id).of(SITE.channels);
            let bias = |bias: Option<ParameterId>, channel: usize| bias.map_or(0.0, |bias| weights[bias][channel]);
            let pair = |[a, b]: [usize; 2], f: fn(f64, f64) -> f64| {
                values[a].iter().zip(&values[b]).map(|(a, b)| f(*a, *b)).collect()
            };
            let value: Vec<f64> = match term.primitive {
                Primitive::Input => x.to_vec(),
                Primitive::Pointwise { x, weight, bias: b } => {
                    let inputs = expression.width(x).of(SITE.channels);
                    let pixels = values[x].chunks(inputs);
                    let filter = |x: &[f64], f: usize| -> f64 {
                        weights[weight][f * inputs..].iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias(b, f)
                    };
                    pixels.flat_map(|x| (0..c).map(move |f| filter(x, f)).collect::<Vec<_>>()).collect()
                }
                Primitive::Depthwise { x, weight, bias: b } => {
                    let at = |row: usize, column: usize, channel: usize| {
                        let (row, column) = (row.checked_sub(1)?, column.checked_sub(1)?);
                        (row < ROWS && column < COLUMNS).then(|| values[x][(row * COLUMNS + column) * c + channel])
                    };
                    let sum = |row: usize, column: usize, channel: usize| -> f64 {
                        let taps = (0..9).map(|tap| {
                            let x = at(row + tap / 3, column + tap % 3, channel).unwrap_or_default();
                            weights[weight][tap * c + channel] * x
                        });
                        taps.sum::<f64>() + bias(b, channel)
                    };
                    (0..ROWS * COLUMNS * c).map(|i| sum(i / c / COLUMNS, i / c % COLUMNS, i % c)).collect()
                }
                Primitive::LeakyRelu { x } => {
                    values[x].iter().map(|x| if *x >= 0.0 { *x } else { x * SLOPE }).collect()
                }
                Primitive::ScaleShift { x, scale, shift } => {
                    let factor = |channel: usize| scale.map_or(1.0, |scale| weights[scale][channel]);
                    let x = values[x].iter().enumerate();
                    x.map(|(i, x)| x * factor(i % c) + weights[shift][i % c]).collect()
                }
                Primitive::Draw { like } => vec![0.0; values[like].len()],
                Primitive::Multiply(operands) => pair(operands, |a, b| a * b),
                Primitive::Add(operands) => pair(operands, |a, b| a + b),
                Primitive::Subtract(operands) => pair(operands, |a, b| a - b),
            };
            values.push(value);
        }
        values.pop().unwrap()
    }

    #[test]
    fn any_expression_runs_in_integers() {
        let [depthwise, low_rank, random, mixed] =
            [testing::depthwise(), testing::low_rank(), testing::random(), testing::mixed()];
        let [paper, affine, bias] = ["paper", "affine", "bias"].map(|name| Kind::named(name).unwrap().expression());
        for expressions in [
            vec![&depthwise],
            vec![&low_rank],
            vec![&random],
            vec![&mixed],
            vec![paper, affine],
            vec![bias],
            vec![paper, bias],
            vec![&depthwise, &mixed],
            vec![&low_rank, affine],
        ] {
            let hardware = |activation_bytes| {
                let mut hardware = Hardware::paper();
                hardware.memory.activation_bytes = activation_bytes;
                hardware
            };
            let whole = program(&expressions, &hardware(1 << 20));
            let words: Vec<i16> = Numbers(99)
                .take(ROWS * COLUMNS * SITE.channels)
                .iter()
                .map(|x| fixed::quantise(1.5 * x, whole.input_fraction))
                .collect();
            let x = words.iter().map(|word| f64::from(fixed::dequantise(*word, whole.input_fraction))).collect();
            let expected = expressions.iter().fold(x, |x: Vec<f64>, expression| float_model(expression, &x));
            let clean = whole.run(&words, Draw::Nothing);
            let step = fixed::exp2(-whole.input_fraction.min(whole.output_fraction));
            let worst = clean
                .iter()
                .zip(expected)
                .map(|(word, expected)| {
                    (f64::from(fixed::dequantise(*word, whole.output_fraction)) - expected).abs() / step
                })
                .fold(0.0, f64::max);
            assert!(worst <= 3.0, "{worst} steps of the coarser of input and output");
            // ε shows where there is a random part.
            assert_eq!(whole.run(&words, Draw::Keyed(7)) != clean, whole.generator.is_some());
            // Biases that are not there are no parameters.
            let count: u64 = expressions.iter().map(|expression| expression.parameter_count(SITE)).sum();
            assert_eq!(whole.parameters as u64, count);
            // Every mapping computes the same words.
            for part in [90, 75] {
                let bytes = 2 * whole.activation_words * part / 100;
                let program = program(&expressions, &hardware(bytes));
                assert!(2 * program.activation_words <= bytes);
                assert!(program.phases.len() > whole.phases.len());
                assert_eq!(program.run(&words, Draw::Nothing), clean, "{bytes} bytes");
            }
        }
    }
}
