//! `lower-to-dtile`: turns quantised denoisers into straight-line programs of the digital tile.
//!
//! ```mlir
//! %2 = quant.qcast %1 : …   %5 = "denoise.block"(%2, …)   %6 = quant.dcast %5 : …
//! // becomes
//! %3 = quant.scast %2 : … to tensor<?x8x8x16xi16>
//! %4 = "dtile.launch"(%3) {layer = "conv1", program = @denoise.conv1} : (…) -> tensor<?x8x8x16xi16>
//! %5 = quant.scast %4 : …   %6 = quant.dcast %5 : …
//! func.func private @denoise.conv1(%y: tensor<8x8x16xi16>) -> tensor<8x8x16xi16> attributes {dtile.layer = "conv1", …} {
//!   %x = "dtile.load"(%y, %b) {first_row = 0} …   %h = "dtile.systolic_conv"(%x, …) …   "dtile.noise_cancel"(…) …
//! ```
//!
//! A layer's block and affine become one program. How it is cut into strips of rows and tiles of channels, how convolutions
//! run on the cores, and whether both heads share one load of g, is [`crate::egraph::mapping`]'s choice, kept in
//! `dtile.mapping`. The program has no addresses and no times yet: `schedule-dtile` gives them.

use super::quantize_denoisers::{FRACTIONS, HARDWARE_OPTION, cast, hardware};
use crate::{
    egraph::mapping::{self, BlockMapping, BlockShape, Chosen, DenoiserShape, Heads, Strip, strips, tiles},
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{self, built, fresh_symbol, insert_before},
    },
};
use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, Identifier, Location, Module, Operation, OperationRef, Region, RegionLike, Type,
        Value, ValueLike,
        attribute::{StringAttribute, TypeAttribute},
        operation::{OperationBuilder, OperationLike},
        r#type::{FunctionType, IntegerType},
    },
};
use mxc_dialects::{
    denoise,
    dtile::{self, Symbol},
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, ConvShape, Order},
        gaussian,
    },
    hardware::Hardware,
};
use std::{marker::PhantomData, path::PathBuf};

/// LeakyReLU's slope as a shift.
const SLOPE_SHIFT: i64 = 7;

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

/// A block with its fractions.
struct QuantisedBlock<'c, 'a> {
    shape: BlockShape,
    /// The i16 constants in the order of [`denoise::BLOCK_WEIGHTS`], with their fractions.
    weights: Vec<(Value<'c, 'a>, i64)>,
    input: i64,
    hidden: i64,
    depthwise: i64,
    mean: i64,
    sigma: i64,
    output: i64,
}

/// An affine with its fractions.
struct QuantisedAffine<'c, 'a> {
    scale: (Value<'c, 'a>, i64),
    shift: (Value<'c, 'a>, i64),
    input: i64,
    output: i64,
}

/// A layer's denoisers.
struct Denoiser<'c, 'a> {
    layer: String,
    input: Value<'c, 'a>,
    output: Value<'c, 'a>,
    /// In program order.
    operations: Vec<OperationRef<'c, 'a>>,
    shape: DenoiserShape,
    block: Option<QuantisedBlock<'c, 'a>>,
    affine: Option<QuantisedAffine<'c, 'a>>,
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
        if denoise::Denoiser::new(operation).is_none() || eraser.is_marked(&operation) {
            continue;
        }
        let layer = ir::string_attr(&operation, "layer").unwrap_or_default();
        let denoiser = read(main, operation, &layer)?;
        let chosen = mapping::choose(hardware, &denoiser.shape).map_err(|error| {
            PassError::new(format!("the denoiser of layer '{layer}' {error}"))
                .at(operation.location())
                .hint("a profile with more `memory.activation_bytes`, or compile without a denoiser at this layer")
        })?;
        let symbol = fresh_symbol(module, &format!("denoise.{layer}"));
        let function = Emitter::emit(context, hardware, &denoiser, &chosen, &symbol)?;
        module.body().append_operation(function);

        let words = ir::value_shape(denoiser.input)
            .map(|shape| ir::tensor_type(IntegerType::new(context, 16).into(), &shape))
            .unwrap_or(denoiser.input.r#type());
        let stored = cast(main, operation, "quant.scast", denoiser.input, words)?;
        let launch =
            dtile::Launch { input: stored, program: Symbol(symbol), layer, types: vec![words], lifetime: PhantomData };
        let launch = built("a launch", launch.build(context, operation.location()))?;
        let launched = insert_before(main, operation, launch)?;
        let result = cast(main, operation, "quant.scast", launched, denoiser.output.r#type())?;
        ffi::replace_all_uses(denoiser.output, result);
        for operation in denoiser.operations {
            eraser.erase(operation);
        }
    }
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
fn read<'c, 'a>(
    main: melior::ir::BlockRef<'c, 'a>,
    first: OperationRef<'c, 'a>,
    layer: &str,
) -> Result<Denoiser<'c, 'a>, PassError> {
    let refused = |message: String| PassError::new(format!("layer '{layer}': {message}")).at(first.location());
    let fraction = |value: Value<'c, 'a>| {
        dtile::fraction(value).map(i64::from).ok_or_else(|| {
            refused(format!("a denoiser's operand is {}, not quantised", value.r#type()))
                .hint("run quantize-denoisers first")
        })
    };
    // The i16 value behind a weight's storage cast.
    let constant = |value: Value<'c, 'a>| {
        let fraction = fraction(value)?;
        let words = ir::defining_op(value)
            .filter(|operation| ir::op_name(operation) == "quant.scast")
            .and_then(|operation| operation.operand(0).ok())
            .filter(|words| ir::defining_op(*words).is_some())
            .ok_or_else(|| refused("a weight is no stored constant".to_owned()))?;
        Ok::<_, PassError>((words, fraction))
    };
    let input = built("an operand", first.operand(0))?;
    let [rows, columns, channels] = match dtile::sample_shape(input.r#type()).as_deref() {
        Some(&[channels]) => [1, 1, channels],
        Some(&[tokens, channels]) => [tokens, 1, channels],
        Some(&[rows, columns, channels]) => [rows, columns, channels],
        _ => {
            return Err(refused(format!("a denoiser on {} cannot be lowered", input.r#type()))
                .hint("sizes other than the batch must be known"));
        }
    };
    let mut denoiser = Denoiser {
        layer: layer.to_owned(),
        input,
        output: input,
        operations: Vec::new(),
        shape: DenoiserShape { rows, columns, channels, block: None, affine: false },
        block: None,
        affine: None,
    };
    let mut next = Some(first);
    while let Some(operation) = next {
        let result = built("a result", operation.result(0))?.into();
        let Some(view) = denoise::Denoiser::new(operation) else {
            break;
        };
        let kind = view.kind();
        let weights = view.weights();
        if kind.stage == denoise::Stage::Block {
            let kernel = weights
                .get(2)
                .and_then(|weight| dtile::shape(*weight).ok())
                .and_then(|shape| shape.first().copied())
                .unwrap_or(1);
            let fractions = ir::dict_attr(&operation, FRACTIONS);
            let inner =
                |name: &str| fractions.and_then(|fractions| fractions.element_by_name(name)).and_then(ir::as_i64);
            let missing = || refused(format!("its block has no `{FRACTIONS}`")).hint("run quantize-denoisers first");
            let bottleneck =
                weights.first().and_then(|weight| dtile::shape(*weight).ok()).and_then(|shape| shape.first().copied());
            let shape = BlockShape { bottleneck: bottleneck.ok_or_else(missing)?, kernel, sigma: weights.len() == 8 };
            denoiser.shape.block = Some(shape);
            denoiser.block = Some(QuantisedBlock {
                shape,
                weights: weights.into_iter().map(constant).collect::<Result<_, _>>()?,
                input: fraction(denoiser.output)?,
                hidden: inner("hidden").ok_or_else(missing)?,
                depthwise: inner("depthwise").ok_or_else(missing)?,
                mean: inner("mean").ok_or_else(missing)?,
                sigma: match shape.sigma {
                    true => inner("sigma").ok_or_else(missing)?,
                    false => 0,
                },
                output: fraction(result)?,
            });
        } else {
            let [scale, shift] = weights[..] else {
                return Err(refused("its affine lacks operands".to_owned()));
            };
            denoiser.shape.affine = true;
            denoiser.affine = Some(QuantisedAffine {
                scale: constant(scale)?,
                shift: constant(shift)?,
                input: fraction(denoiser.output)?,
                output: fraction(result)?,
            });
        }
        denoiser.output = result;
        denoiser.operations.push(operation);
        let users = constants::users(main, result);
        next = match users.as_slice() {
            [user]
                if denoiser.affine.is_none()
                    && denoise::Denoiser::new(*user).is_some()
                    && ir::string_attr(user, "layer").as_deref() == Some(layer) =>
            {
                Some(*user)
            }
            _ => None,
        };
    }
    Ok(denoiser)
}

/// Emits one program.
struct Emitter<'c, 'b> {
    context: &'c Context,
    hardware: &'b Hardware,
    block: &'b Block<'c>,
    location: Location<'c>,
    columns: usize,
    channels: usize,
    /// LFSR words that each lane has drawn.
    drawn: i64,
}

/// A weight in the weight memory with its fraction.
#[derive(Clone, Copy)]
struct Stored<'c, 'b> {
    value: Value<'c, 'b>,
    fraction: i64,
}

impl<'c, 'b> Emitter<'c, 'b> {
    fn emit(
        context: &'c Context,
        hardware: &Hardware,
        denoiser: &Denoiser<'c, '_>,
        chosen: &Chosen,
        symbol: &str,
    ) -> Result<Operation<'c>, PassError> {
        let shape = &denoiser.shape;
        let location = denoiser.operations.first().map_or(Location::unknown(context), |operation| operation.location());
        let sample = dtile::words(context, &[shape.rows, shape.columns, shape.channels]);
        let region = Region::new();
        let body = region.append_block(Block::new(&[(sample, location)]));
        let fractions = {
            let input = denoiser
                .block
                .as_ref()
                .map(|block| block.input)
                .or(denoiser.affine.as_ref().map(|affine| affine.input));
            let output = denoiser
                .affine
                .as_ref()
                .map(|affine| affine.output)
                .or(denoiser.block.as_ref().map(|block| block.output));
            (input.unwrap_or(0), output.unwrap_or(0))
        };
        {
            let mut emitter = Emitter {
                context,
                hardware,
                block: &body,
                location,
                columns: shape.columns,
                channels: shape.channels,
                drawn: 0,
            };
            emitter.program(denoiser, chosen, sample)?;
        }
        let id = |name: &str| Identifier::new(context, name);
        let integer = |value: usize| ir::integer(context, value as i64);
        let function = OperationBuilder::new("func.func", location)
            .add_attributes(&[
                (id("sym_name"), ir::string(context, symbol)),
                (id("sym_visibility"), ir::string(context, "private")),
                (
                    id("function_type"),
                    TypeAttribute::new(FunctionType::new(context, &[sample], &[sample]).into()).into(),
                ),
                (id(dtile::LAYER), ir::string(context, &denoiser.layer)),
                (id(dtile::INPUT_FRACTION), ir::integer(context, fractions.0)),
                (id(dtile::OUTPUT_FRACTION), ir::integer(context, fractions.1)),
                (id(dtile::WEIGHT_MEMORY), integer(hardware.memory.weight_bytes)),
                (id(dtile::ACTIVATION_MEMORY), integer(hardware.memory.activation_bytes)),
                (id(dtile::MAPPING), mapping_attribute(context, chosen)),
            ])
            .add_regions([region])
            .build();
        built("a program", function)
    }

    fn append(&self, operation: Result<Operation<'c>, melior::Error>) -> Result<OperationRef<'c, 'b>, PassError> {
        Ok(self.block.append_operation(built("an operation", operation)?))
    }

    fn value(&self, operation: Result<Operation<'c>, melior::Error>) -> Result<Value<'c, 'b>, PassError> {
        built("a result", self.append(operation)?.result(0)).map(Value::from)
    }

    /// Copies the load of a constant into the program and places it in the weight memory.
    fn weight(&self, (constant, fraction): (Value<'c, '_>, i64)) -> Result<Stored<'c, 'b>, PassError> {
        let operation = ir::defining_op(constant).ok_or_else(|| PassError::new("a weight is no stored constant"))?;
        let value = match ir::loaded_global(constant) {
            Some(name) => self.value(ir::load_global(self.context, &name, constant.r#type()))?,
            None => self.value(
                OperationBuilder::new(&ir::op_name(&operation), self.location)
                    .add_attributes(&operation.attributes().collect::<Vec<_>>())
                    .add_results(&[constant.r#type()])
                    .build(),
            )?,
        };
        let alloc = dtile::WeightAlloc {
            value,
            bytes: dtile::tensor_bytes(constant.r#type()).unwrap_or_default() as i64,
            address: None,
            types: vec![constant.r#type()],
            lifetime: PhantomData,
        };
        Ok(Stored { value: self.value(alloc.build(self.context, self.location))?, fraction })
    }

    fn buffer(&self, r#type: Type<'c>) -> Result<Value<'c, 'b>, PassError> {
        let alloc = dtile::ActivationAlloc {
            bytes: dtile::tensor_bytes(r#type).unwrap_or_default() as i64,
            address: None,
            types: vec![r#type],
            lifetime: PhantomData,
        };
        self.value(alloc.build(self.context, self.location))
    }

    fn words(&self, rows: usize, channels: usize) -> Result<Value<'c, 'b>, PassError> {
        self.buffer(dtile::words(self.context, &[rows, self.columns, channels]))
    }

    /// The buffer for a convolution's spilled sums, if it spills.
    fn partials(&self, rows: usize, shape: &ConvShape, mapping: &ConvMapping) -> Result<Vec<Value<'c, 'b>>, PassError> {
        match mapping.order {
            Order::Accumulate => Ok(Vec::new()),
            Order::Spill => {
                // Whole words per sum.
                let width = 16 * cycles::partial_words(self.hardware) as u32;
                let channels = shape.filters * shape.groups;
                let r#type = dtile::integers(self.context, width, &[rows, self.columns, channels]);
                Ok(vec![self.buffer(r#type)?])
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn conv(
        &self,
        kind: &str,
        input: (Value<'c, 'b>, i64),
        weights: [Stored<'c, 'b>; 2],
        into: Value<'c, 'b>,
        partials: Vec<Value<'c, 'b>>,
        output_fraction: i64,
        pad: [usize; 4],
        first_filter: usize,
        mapping: &ConvMapping,
    ) -> Result<Value<'c, 'b>, PassError> {
        let conv = dtile::SystolicConv {
            input: input.0,
            weight: weights[0].value,
            bias: weights[1].value,
            into,
            partials,
            kind: kind.to_owned(),
            pad: pad.map(|pad| pad as i64).to_vec(),
            first_filter: first_filter as i64,
            input_fraction: input.1,
            weight_fraction: weights[0].fraction,
            bias_fraction: weights[1].fraction,
            output_fraction,
            cores: cores(mapping),
            order: mapping.order.name().to_owned(),
            types: vec![into.r#type()],
            lifetime: PhantomData,
        };
        self.value(conv.build(self.context, self.location))
    }

    fn relu(&self, input: Value<'c, 'b>) -> Result<Value<'c, 'b>, PassError> {
        let relu = dtile::LeakyRelu { input, shift: SLOPE_SHIFT, types: vec![input.r#type()], lifetime: PhantomData };
        self.value(relu.build(self.context, self.location))
    }

    fn program(&mut self, denoiser: &Denoiser<'c, '_>, chosen: &Chosen, sample: Type<'c>) -> Result<(), PassError> {
        let source: Value<'c, 'b> = built("an argument", self.block.argument(0))?.into();
        let weights = match &denoiser.block {
            Some(block) => block.weights.iter().map(|weight| self.weight(*weight)).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let affine = match &denoiser.affine {
            Some(affine) => Some((self.weight(affine.scale)?, self.weight(affine.shift)?, affine)),
            None => None,
        };
        let mut output =
            self.value(OperationBuilder::new("tensor.empty", self.location).add_results(&[sample]).build())?;
        for strip in strips(&denoiser.shape, chosen.mapping.strip_rows) {
            let into = self.words(strip.loaded(), self.channels)?;
            let load = dtile::Load {
                source,
                into,
                first_row: strip.first_loaded() as i64,
                types: vec![into.r#type()],
                lifetime: PhantomData,
            };
            let mut x = self.value(load.build(self.context, self.location))?;
            if let (Some(block), Some(mapped)) = (&denoiser.block, &chosen.mapping.block) {
                x = self.strip(&denoiser.shape, block, &weights, mapped, &strip, x)?;
            }
            if let Some((scale, shift, affine)) = &affine {
                let affine = dtile::Affine {
                    input: x,
                    scale: scale.value,
                    shift: shift.value,
                    first_row: strip.halo[0] as i64,
                    rows: strip.rows as i64,
                    input_fraction: affine.input,
                    scale_fraction: scale.fraction,
                    shift_fraction: shift.fraction,
                    output_fraction: affine.output,
                    types: vec![x.r#type()],
                    lifetime: PhantomData,
                };
                x = self.value(affine.build(self.context, self.location))?;
            }
            let store = dtile::Store {
                strip: x,
                output,
                first_row: strip.first as i64,
                strip_row: strip.halo[0] as i64,
                rows: strip.rows as i64,
                types: vec![sample],
                lifetime: PhantomData,
            };
            output = self.value(store.build(self.context, self.location))?;
        }
        self.append(OperationBuilder::new("func.return", self.location).add_operands(&[output]).build())?;
        Ok(())
    }

    /// The block on one strip: x, with its noise cancelled in the strip's own rows.
    fn strip(
        &mut self,
        shape: &DenoiserShape,
        block: &QuantisedBlock<'c, '_>,
        weights: &[Stored<'c, 'b>],
        mapped: &BlockMapping,
        strip: &Strip,
        mut x: Value<'c, 'b>,
    ) -> Result<Value<'c, 'b>, PassError> {
        let b = block.shape.bottleneck;
        let reduce = shape.reduce(&block.shape, strip);
        let h = self.conv(
            "pointwise",
            (x, block.input),
            [weights[0], weights[1]],
            self.words(strip.loaded(), b)?,
            self.partials(strip.loaded(), &reduce, &mapped.reduce)?,
            block.hidden,
            [0; 4],
            0,
            &mapped.reduce,
        )?;
        let h = self.relu(h)?;
        let depthwise = shape.depthwise(&block.shape, strip);
        let side = block.shape.kernel / 2;
        let g = self.conv(
            "depthwise",
            (h, block.hidden),
            [weights[2], weights[3]],
            self.words(strip.rows, b)?,
            self.partials(strip.rows, &depthwise, &mapped.depthwise)?,
            block.depthwise,
            [strip.pad[0], strip.pad[1], side, side],
            0,
            &mapped.depthwise,
        )?;
        let g = self.relu(g)?;

        // The head buffers serve every tile of channels; a smaller last tile has its own.
        let mut buffers: Option<(usize, HeadBuffers<'c, 'b>)> = None;
        for (first, channels) in tiles(self.channels, mapped.channel_tile) {
            let current = match buffers.take() {
                Some((size, current)) if size == channels => current,
                _ => self.head_buffers(shape, block, mapped, strip, channels)?,
            };
            let (mean, sigma) = self.heads(block, weights, mapped, &current, g, first)?;
            x = self.cancel(block, strip, x, mean, sigma, first, channels)?;
            buffers = Some((channels, current));
        }
        Ok(x)
    }

    fn head_buffers(
        &self,
        shape: &DenoiserShape,
        block: &QuantisedBlock<'c, '_>,
        mapped: &BlockMapping,
        strip: &Strip,
        channels: usize,
    ) -> Result<HeadBuffers<'c, 'b>, PassError> {
        let one = shape.heads(&block.shape, strip, channels);
        let both = shape.heads(&block.shape, strip, 2 * channels);
        let mean = self.words(strip.rows, channels)?;
        let (sigma, partials) = match &mapped.heads {
            Heads::Shared(heads) => {
                (Some(self.words(strip.rows, channels)?), [self.partials(strip.rows, &both, heads)?, Vec::new()])
            }
            Heads::Separate { mean, sigma } => (
                Some(self.words(strip.rows, channels)?),
                [self.partials(strip.rows, &one, mean)?, self.partials(strip.rows, &one, sigma)?],
            ),
            Heads::MeanOnly(mean) => (None, [self.partials(strip.rows, &one, mean)?, Vec::new()]),
        };
        Ok(HeadBuffers { mean, sigma, partials })
    }

    /// μ̂ and σ̂ for the channels from `first`.
    fn heads(
        &self,
        block: &QuantisedBlock<'c, '_>,
        weights: &[Stored<'c, 'b>],
        mapped: &BlockMapping,
        buffers: &HeadBuffers<'c, 'b>,
        g: Value<'c, 'b>,
        first: usize,
    ) -> Result<(Value<'c, 'b>, Option<Value<'c, 'b>>), PassError> {
        let g = (g, block.depthwise);
        let one = |head: usize, into, output_fraction, mapping: &ConvMapping| {
            self.conv(
                "pointwise",
                g,
                [weights[4 + 2 * head], weights[5 + 2 * head]],
                into,
                buffers.partials[head].clone(),
                output_fraction,
                [0; 4],
                first,
                mapping,
            )
        };
        match (&mapped.heads, buffers.sigma) {
            (Heads::Shared(mapping), Some(second_into)) => {
                let pair = dtile::SystolicConvPair {
                    input: g.0,
                    first_weight: weights[4].value,
                    first_bias: weights[5].value,
                    second_weight: weights[6].value,
                    second_bias: weights[7].value,
                    first_into: buffers.mean,
                    second_into,
                    partials: buffers.partials[0].clone(),
                    first_filter: first as i64,
                    input_fraction: g.1,
                    weight_fractions: vec![weights[4].fraction, weights[6].fraction],
                    bias_fractions: vec![weights[5].fraction, weights[7].fraction],
                    output_fractions: vec![block.mean, block.sigma],
                    cores: cores(mapping),
                    order: mapping.order.name().to_owned(),
                    types: vec![buffers.mean.r#type(), second_into.r#type()],
                    lifetime: PhantomData,
                };
                let pair = self.append(pair.build(self.context, self.location))?;
                Ok((built("a result", pair.result(0))?.into(), Some(built("a result", pair.result(1))?.into())))
            }
            (Heads::Separate { mean, sigma }, Some(second_into)) => {
                Ok((one(0, buffers.mean, block.mean, mean)?, Some(one(1, second_into, block.sigma, sigma)?)))
            }
            (Heads::MeanOnly(mean) | Heads::Shared(mean) | Heads::Separate { mean, .. }, _) => {
                Ok((one(0, buffers.mean, block.mean, mean)?, None))
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn cancel(
        &mut self,
        block: &QuantisedBlock<'c, '_>,
        strip: &Strip,
        x: Value<'c, 'b>,
        mean: Value<'c, 'b>,
        sigma: Option<Value<'c, 'b>>,
        first_channel: usize,
        channels: usize,
    ) -> Result<Value<'c, 'b>, PassError> {
        let unit = &self.hardware.noise;
        let normal_fraction = i64::from(gaussian::fraction(unit.lfsr_width));
        let mut noise = Vec::new();
        if let Some(sigma) = sigma {
            let elements = strip.rows * self.columns * channels;
            let shape = [strip.rows, self.columns, channels];
            let uniform = dtile::integers(self.context, unit.lfsr_width, &shape);
            let words = [0, 1].map(|which| {
                let lfsr = dtile::Lfsr {
                    width: i64::from(unit.lfsr_width),
                    taps: unit.lfsr_taps.iter().map(|tap| i64::from(*tap)).collect(),
                    seeds: unit.seeds.chunks_exact(2).map(|seeds| seeds[which] as i64).collect(),
                    shifts_per_draw: i64::from(unit.shifts_per_draw),
                    first_draw: self.drawn,
                    types: vec![uniform],
                    lifetime: PhantomData,
                };
                self.value(lfsr.build(self.context, self.location))
            });
            let [first, second] = words;
            let converter = dtile::BoxMuller {
                first: first?,
                second: second?,
                width: i64::from(unit.lfsr_width),
                fraction: normal_fraction,
                types: vec![mean.r#type()],
                lifetime: PhantomData,
            };
            let normal = self.value(converter.build(self.context, self.location))?;
            self.drawn += elements.div_ceil(unit.lanes) as i64;
            noise = vec![sigma, normal];
        }
        let cancel = dtile::NoiseCancel {
            input: x,
            mean,
            noise,
            first_row: strip.halo[0] as i64,
            first_channel: first_channel as i64,
            lanes: unit.lanes as i64,
            input_fraction: block.input,
            mean_fraction: block.mean,
            sigma_fraction: block.sigma,
            normal_fraction,
            output_fraction: block.output,
            types: vec![x.r#type()],
            lifetime: PhantomData,
        };
        self.value(cancel.build(self.context, self.location))
    }
}

/// Where the heads' results and spilled sums go.
struct HeadBuffers<'c, 'b> {
    mean: Value<'c, 'b>,
    sigma: Option<Value<'c, 'b>>,
    partials: [Vec<Value<'c, 'b>>; 2],
}

fn cores(mapping: &ConvMapping) -> Vec<i64> {
    vec![mapping.pixel_groups as i64, mapping.filter_groups as i64]
}

/// The chosen mapping, for readers; the program states it in full.
fn mapping_attribute<'c>(context: &'c Context, chosen: &Chosen) -> Attribute<'c> {
    let integer = |value: usize| ir::integer(context, value as i64);
    let mut entries = vec![
        ("strip_rows", integer(chosen.mapping.strip_rows)),
        ("cycles", ir::integer(context, chosen.cycles as i64)),
        ("activation_bytes", integer(chosen.activation_bytes)),
    ];
    if let Some(block) = &chosen.mapping.block {
        let heads = match block.heads {
            Heads::Shared(_) => "shared",
            Heads::Separate { .. } => "separate",
            Heads::MeanOnly(_) => "mean",
        };
        entries.push(("channel_tile", integer(block.channel_tile)));
        entries.push(("heads", StringAttribute::new(context, heads).into()));
    }
    ir::dictionary(context, &entries)
}
