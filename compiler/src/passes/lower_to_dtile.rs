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
//! `dtile.mapping`; [`crate::tile::plan`] says what follows from it. The program has no addresses and no times yet: `schedule-dtile` gives them.

use super::quantize_denoisers::{FRACTIONS, HARDWARE_OPTION, Placed, cast, hardware};
use crate::{
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{self, built, fresh_symbol, insert_before},
    },
    tile::{
        mapping::{self, Chosen},
        plan::{Mapping, Round, Strip, Task},
        stages::{Stage, StageId, Stages, Unit},
    },
};
use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Operation, OperationRef, Region,
        RegionLike, Type, Value, ValueLike,
        attribute::{DenseElementsAttribute, TypeAttribute},
        operation::{OperationBuilder, OperationLike},
        r#type::{FunctionType, IntegerType},
    },
};
use mxc_dialects::{
    denoise::{
        SLOPE_SHIFT,
        expression::{Expression, ParameterId, Site},
    },
    dtile::{self, Symbol},
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, Order},
        gaussian,
    },
    hardware::Hardware,
};
use std::{collections::BTreeMap, marker::PhantomData, path::PathBuf};

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

/// A layer's denoisers.
struct Denoiser<'c, 'a> {
    layer: String,
    input: Value<'c, 'a>,
    output: Value<'c, 'a>,
    first: OperationRef<'c, 'a>,
    /// In the order in which they act.
    operations: Vec<OperationRef<'c, 'a>>,
    task: Task,
    /// The i16 constants of each, in the order of its expression's parameters, with their fractions.
    weights: Vec<Vec<(Value<'c, 'a>, i64)>>,
    /// The fraction of every stage's result.
    fractions: Vec<i64>,
    /// What the cancellations' heads are called, for those that have a single one.
    heads: BTreeMap<StageId, String>,
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
        let denoiser = read(main, placed)?;
        launch(context, module, main, hardware, &denoiser)?;
        for operation in denoiser.operations {
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
    denoiser: &Denoiser<'c, 'a>,
) -> Result<(), PassError> {
    let Denoiser { layer, input, output, first, task, .. } = denoiser;
    let chosen = mapping::choose(hardware, task).map_err(|error| {
        PassError::new(format!("the denoiser of layer '{layer}' {error}"))
            .at(first.location())
            .hint("a profile with more `memory.activation_bytes`, or compile without a denoiser at this layer")
    })?;
    let symbol = fresh_symbol(module, &format!("denoise.{layer}"));
    let function = emit(context, hardware, denoiser, &chosen, &symbol)?;
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
fn read<'c, 'a>(main: BlockRef<'c, 'a>, first: Placed<'c, 'a, 'static>) -> Result<Denoiser<'c, 'a>, PassError> {
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
    denoiser(&placed)
}

/// What is to be lowered of a layer's denoisers, one behind the other.
fn denoiser<'c, 'a>(placed: &[Placed<'c, 'a, '_>]) -> Result<Denoiser<'c, 'a>, PassError> {
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
    let (rows, columns) = match dtile::sample_shape(input.r#type()).as_deref() {
        Some(&[_]) => (1, 1),
        Some(&[tokens, _]) => (tokens, 1),
        Some(&[rows, columns, _]) => (rows, columns),
        _ => {
            return Err(refused(format!("a denoiser on {} cannot be lowered", input.r#type()))
                .hint("sizes other than the batch must be known"));
        }
    };
    let denoisers: Vec<(&Expression, Site)> = placed.iter().map(|placed| (placed.expression, placed.site)).collect();
    let stages = Stages::new(&denoisers).map_err(refused)?;
    let input_fraction = fraction(input)?;
    let (mut output, mut output_fractions, mut weights) = (input, Vec::new(), Vec::new());
    for placed in placed {
        output = built("a result", placed.operation.result(0))?.into();
        output_fractions.push(fraction(output)?);
        weights.push(placed.weights.iter().map(constant).collect::<Result<Vec<_>, _>>()?);
    }
    let expression = |stage: &Stage| placed[stage.denoiser].expression;
    let name = |stage: &Stage| expression(stage).terms()[stage.term].name.as_str();
    let inside = |stage: &Stage| {
        ir::dict_attr(&placed[stage.denoiser].operation, FRACTIONS)
            .and_then(|fractions| fractions.element_by_name(name(stage)))
            .and_then(ir::as_i64)
            .ok_or_else(|| {
                refused(format!("its `{FRACTIONS}` has no `{}`", name(stage))).hint("run quantize-denoisers first")
            })
    };
    let mut fractions: Vec<i64> = Vec::new();
    for stage in stages.all() {
        fractions.push(match stage.unit {
            Unit::Load => input_fraction,
            Unit::Relu { x } | Unit::Store { x } => fractions[x],
            Unit::Conv { .. } | Unit::Affine { .. } | Unit::Cancel { .. } => {
                if stage.term == expression(stage).result() { output_fractions[stage.denoiser] } else { inside(stage)? }
            }
        });
    }
    let single = |cancel: StageId| match stages.heads(cancel)[..] {
        [head] => Some((cancel, name(&stages.all()[head]).to_owned())),
        _ => None,
    };
    let heads = (0..stages.all().len()).filter_map(single).collect();
    let operations = placed.iter().map(|placed| placed.operation).collect();
    Ok(Denoiser {
        layer: first.layer.clone(),
        input,
        output,
        first: first.operation,
        operations,
        task: Task { rows, columns, stages },
        weights,
        fractions,
        heads,
    })
}

/// Emits one program.
struct Emitter<'c, 'b, 'd> {
    context: &'c Context,
    hardware: &'d Hardware,
    block: &'b Block<'c>,
    location: Location<'c>,
    task: &'d Task,
    fractions: &'d [i64],
    /// A convolution's weights and bias, an affine's scales and shifts.
    weights: BTreeMap<StageId, [Stored<'c, 'b>; 2]>,
    /// What the buffer of a stage holds.
    contents: BTreeMap<StageId, Value<'c, 'b>>,
    /// The denoised output so far.
    output: Value<'c, 'b>,
    /// LFSR words that each lane has drawn.
    drawn: i64,
}

/// A weight in the weight memory with its fraction.
#[derive(Clone, Copy)]
struct Stored<'c, 'b> {
    value: Value<'c, 'b>,
    fraction: i64,
}

/// The buffers that a round fills.
struct Buffers<'c, 'b> {
    results: Vec<(StageId, Value<'c, 'b>)>,
    /// For the sums that a step spills, by step.
    partials: Vec<Vec<Value<'c, 'b>>>,
}

/// The program's function.
fn emit<'c>(
    context: &'c Context,
    hardware: &Hardware,
    denoiser: &Denoiser<'c, '_>,
    chosen: &Chosen,
    symbol: &str,
) -> Result<Operation<'c>, PassError> {
    let task = &denoiser.task;
    let location = denoiser.first.location();
    let channels = task.stages.all().first().map_or(0, |load| load.channels);
    let sample = dtile::words(context, &[task.rows, task.columns, channels]);
    let region = Region::new();
    let body = region.append_block(Block::new(&[(sample, location)]));
    Emitter::program(context, hardware, denoiser, &chosen.mapping, &body, location)?;
    let id = |name: &str| Identifier::new(context, name);
    let integer = |value: usize| ir::integer(context, value as i64);
    let fraction = |fraction: Option<&i64>| ir::integer(context, fraction.copied().unwrap_or_default());
    let function = OperationBuilder::new("func.func", location)
        .add_attributes(&[
            (id("sym_name"), ir::string(context, symbol)),
            (id("sym_visibility"), ir::string(context, "private")),
            (id("function_type"), TypeAttribute::new(FunctionType::new(context, &[sample], &[sample]).into()).into()),
            (id(dtile::LAYER), ir::string(context, &denoiser.layer)),
            (id(dtile::INPUT_FRACTION), fraction(denoiser.fractions.first())),
            (id(dtile::OUTPUT_FRACTION), fraction(denoiser.fractions.last())),
            (id(dtile::WEIGHT_MEMORY), integer(hardware.memory.weight_bytes)),
            (id(dtile::ACTIVATION_MEMORY), integer(hardware.memory.activation_bytes)),
            (id(dtile::MAPPING), mapping_attribute(context, denoiser, chosen)),
        ])
        .add_regions([region])
        .build();
    built("a program", function)
}

impl<'c, 'b, 'd> Emitter<'c, 'b, 'd> {
    /// Fills the body of a program.
    fn program(
        context: &'c Context,
        hardware: &'d Hardware,
        denoiser: &'d Denoiser<'c, '_>,
        mapping: &Mapping,
        block: &'b Block<'c>,
        location: Location<'c>,
    ) -> Result<(), PassError> {
        let source: Value<'c, 'b> = built("an argument", block.argument(0))?.into();
        let task = &denoiser.task;
        let mut emitter = Self {
            context,
            hardware,
            block,
            location,
            task,
            fractions: &denoiser.fractions,
            weights: BTreeMap::new(),
            contents: BTreeMap::new(),
            output: source,
            drawn: 0,
        };
        for (id, stage) in task.stages.all().iter().enumerate() {
            let weight = |parameter: ParameterId| {
                let weight = denoiser.weights[stage.denoiser].get(parameter).copied();
                weight.ok_or_else(|| PassError::new("a denoiser lacks a weight").at(location))
            };
            let pair = match stage.unit {
                Unit::Conv { x, weight: kernel, bias, .. } => {
                    let kernel = emitter.weight(weight(kernel)?)?;
                    let bias = match bias {
                        Some(bias) => emitter.weight(weight(bias)?)?,
                        None => emitter.no_bias(stage.channels, denoiser.fractions[x] + kernel.fraction)?,
                    };
                    [kernel, bias]
                }
                Unit::Affine { scale, shift, .. } => [emitter.weight(weight(scale)?)?, emitter.weight(weight(shift)?)?],
                Unit::Load | Unit::Relu { .. } | Unit::Cancel { .. } | Unit::Store { .. } => continue,
            };
            emitter.weights.insert(id, pair);
        }
        let empty = OperationBuilder::new("tensor.empty", location).add_results(&[source.r#type()]).build();
        emitter.output = emitter.value(empty)?;
        let rounds = task.rounds(mapping);
        for strip in task.strips(mapping.strip_rows) {
            for round in &rounds {
                emitter.round(&strip, round, source)?;
            }
        }
        emitter.append(OperationBuilder::new("func.return", location).add_operands(&[emitter.output]).build())?;
        Ok(())
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
        self.place(value, fraction, false)
    }

    /// The zeros that the cores take where a convolution has no bias.
    fn no_bias(&self, filters: usize, fraction: i64) -> Result<Stored<'c, 'b>, PassError> {
        let r#type = dtile::words(self.context, &[filters]);
        let zeros = DenseElementsAttribute::i16_values(r#type, &[0]);
        let constant = OperationBuilder::new("arith.constant", self.location)
            .add_attributes(&[(Identifier::new(self.context, "value"), zeros.into())])
            .add_results(&[r#type])
            .build();
        self.place(self.value(constant)?, fraction, true)
    }

    fn place(&self, value: Value<'c, 'b>, fraction: i64, absent: bool) -> Result<Stored<'c, 'b>, PassError> {
        let alloc = dtile::WeightAlloc {
            value,
            bytes: dtile::tensor_bytes(value.r#type()).unwrap_or_default() as i64,
            address: None,
            absent,
            types: vec![value.r#type()],
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

    /// The buffers of a round for tiles of so many channels.
    fn buffers(&self, strip: &Strip, round: &Round, channels: usize) -> Result<Buffers<'c, 'b>, PassError> {
        let mut buffers = Buffers { results: Vec::new(), partials: Vec::new() };
        for stage in round.steps.iter().flat_map(|step| &step.stages) {
            if self.task.stages.all()[*stage].buffer == *stage {
                let rows = self.task.held(strip, *stage).len();
                let words = dtile::words(self.context, &[rows, self.task.columns, channels]);
                buffers.results.push((*stage, self.buffer(words)?));
            }
        }
        for step in &round.steps {
            let mut partials = Vec::new();
            if let (Some(stage), Some(ConvMapping { order: Order::Spill, .. })) = (step.stages.first(), step.cores) {
                // Whole words per sum.
                let width = 16 * cycles::partial_words(self.hardware) as u32;
                let rows = self.task.held(strip, *stage).len();
                let shape = [rows, self.task.columns, step.stages.len() * channels];
                partials.push(self.buffer(dtile::integers(self.context, width, &shape))?);
            }
            buffers.partials.push(partials);
        }
        Ok(buffers)
    }

    fn round(&mut self, strip: &Strip, round: &Round, source: Value<'c, 'b>) -> Result<(), PassError> {
        // The buffers serve every tile of channels; a smaller last tile has its own.
        let mut current: Option<(usize, Buffers<'c, 'b>)> = None;
        let channels = round.steps.first().map_or(0, |step| self.task.channels(step));
        for (first, channels) in round.tiles(channels) {
            let buffers = match current.take() {
                Some((size, buffers)) if size == channels => buffers,
                _ => self.buffers(strip, round, channels)?,
            };
            self.contents.extend(buffers.results.iter().copied());
            for (step, partials) in round.steps.iter().zip(&buffers.partials) {
                match (&step.stages[..], step.cores) {
                    ([first_head, second_head], Some(cores)) => {
                        self.pair(strip, [*first_head, *second_head], partials, first, &cores)?;
                    }
                    ([stage], cores) => self.stage(strip, *stage, source, partials, (first, channels), cores)?,
                    _ => return Err(PassError::new("a step of no or too many stages").at(self.location)),
                }
            }
            current = Some((channels, buffers));
        }
        Ok(())
    }

    /// What a stage's buffer holds.
    fn held(&self, stage: StageId) -> Result<Value<'c, 'b>, PassError> {
        let buffer = self.task.stages.all()[stage].buffer;
        let held = self.contents.get(&buffer).copied();
        held.ok_or_else(|| PassError::new("a buffer is read before it is filled").at(self.location))
    }

    /// The weights of a stage.
    fn stored(&self, stage: StageId) -> Result<[Stored<'c, 'b>; 2], PassError> {
        let stored = self.weights.get(&stage).copied();
        stored.ok_or_else(|| PassError::new("a convolution without weights").at(self.location))
    }

    /// The first row of what a stage's buffer holds that is needed for rows from `row` of the output.
    fn first_row(&self, strip: &Strip, stage: StageId, row: usize) -> i64 {
        (row - self.task.held(strip, stage).start) as i64
    }

    fn pair(
        &mut self,
        strip: &Strip,
        heads: [StageId; 2],
        partials: &[Value<'c, 'b>],
        first_filter: usize,
        cores: &ConvMapping,
    ) -> Result<(), PassError> {
        let [first, second] = heads;
        let [[first_weight, first_bias], [second_weight, second_bias]] = [self.stored(first)?, self.stored(second)?];
        let [first_into, second_into] = [self.held(first)?, self.held(second)?];
        let x = self.task.stages.head_operand(&heads).unwrap_or_default();
        let first_row = self.first_row(strip, x, self.task.held(strip, first).start);
        let pair = dtile::SystolicConvPair {
            input: self.held(x)?,
            first_weight: first_weight.value,
            first_bias: first_bias.value,
            second_weight: second_weight.value,
            second_bias: second_bias.value,
            first_into,
            second_into,
            partials: partials.to_vec(),
            first_row: Some(first_row).filter(|row| *row > 0),
            first_filter: first_filter as i64,
            input_fraction: self.fractions[x],
            weight_fractions: vec![first_weight.fraction, second_weight.fraction],
            bias_fractions: vec![first_bias.fraction, second_bias.fraction],
            output_fractions: vec![self.fractions[first], self.fractions[second]],
            cores: vec![cores.pixel_groups as i64, cores.filter_groups as i64],
            order: cores.order.name().to_owned(),
            types: vec![first_into.r#type(), second_into.r#type()],
            lifetime: PhantomData,
        };
        let pair = self.append(pair.build(self.context, self.location))?;
        for (index, head) in heads.into_iter().enumerate() {
            self.contents.insert(head, built("a result", pair.result(index))?.into());
        }
        Ok(())
    }

    /// A stage by itself, for channels of its result from the first on.
    fn stage(
        &mut self,
        strip: &Strip,
        id: StageId,
        source: Value<'c, 'b>,
        partials: &[Value<'c, 'b>],
        (first_channel, channels): (usize, usize),
        cores: Option<ConvMapping>,
    ) -> Result<(), PassError> {
        let (context, location, task) = (self.context, self.location, self.task);
        let stage = &task.stages.all()[id];
        let rows = task.covered(strip, stage.halo);
        let operation = match stage.unit {
            Unit::Load => {
                let into = self.held(id)?;
                let (first_row, types) = (rows.start as i64, vec![into.r#type()]);
                dtile::Load { source, into, first_row, types, lifetime: PhantomData }.build(context, location)
            }
            Unit::Conv { x, taps, .. } => {
                let [weight, bias] = self.stored(id)?;
                let into = self.held(id)?;
                let cores = cores.ok_or_else(|| PassError::new("a convolution on no cores").at(location))?;
                let side = taps.map_or(0, |taps| taps / 2);
                // Only where the image ends is there padding.
                let (above, below) = (side.saturating_sub(rows.start), (rows.end + side).saturating_sub(task.rows));
                let first_row = self.first_row(strip, x, rows.start + above - side);
                dtile::SystolicConv {
                    input: self.held(x)?,
                    weight: weight.value,
                    bias: bias.value,
                    into,
                    partials: partials.to_vec(),
                    kind: if taps.is_some() { "depthwise" } else { "pointwise" }.to_owned(),
                    pad: [above, below, side, side].map(|pad| pad as i64).to_vec(),
                    first_row: Some(first_row).filter(|row| *row > 0),
                    first_filter: first_channel as i64,
                    input_fraction: self.fractions[x],
                    weight_fraction: weight.fraction,
                    bias_fraction: bias.fraction,
                    output_fraction: self.fractions[id],
                    cores: vec![cores.pixel_groups as i64, cores.filter_groups as i64],
                    order: cores.order.name().to_owned(),
                    types: vec![into.r#type()],
                    lifetime: PhantomData,
                }
                .build(context, location)
            }
            Unit::Relu { x } => {
                let input = self.held(x)?;
                let (shift, types) = (i64::from(SLOPE_SHIFT), vec![input.r#type()]);
                dtile::LeakyRelu { input, shift, types, lifetime: PhantomData }.build(context, location)
            }
            Unit::Affine { x, .. } => {
                let [scale, shift] = self.stored(id)?;
                let input = self.held(x)?;
                dtile::Affine {
                    input,
                    scale: scale.value,
                    shift: shift.value,
                    first_row: self.first_row(strip, x, rows.start),
                    rows: rows.len() as i64,
                    input_fraction: self.fractions[x],
                    scale_fraction: scale.fraction,
                    shift_fraction: shift.fraction,
                    output_fraction: self.fractions[id],
                    types: vec![input.r#type()],
                    lifetime: PhantomData,
                }
                .build(context, location)
            }
            Unit::Cancel { x, mean, drawn, adds } => {
                let input = self.held(x)?;
                let normal_fraction = i64::from(gaussian::fraction(self.hardware.noise.lfsr_width));
                let mut noise: Vec<_> = mean.map(|mean| self.held(mean)).transpose()?.into_iter().collect();
                if let Some(drawn) = drawn {
                    noise.extend([self.held(drawn)?, self.normal(&[rows.len(), task.columns, channels])?]);
                }
                let fraction = |stage: Option<StageId>| stage.map_or(0, |stage| self.fractions[stage]);
                dtile::NoiseCancel {
                    input,
                    noise,
                    adds,
                    first_row: self.first_row(strip, x, rows.start),
                    first_channel: first_channel as i64,
                    lanes: self.hardware.noise.lanes as i64,
                    input_fraction: self.fractions[x],
                    mean_fraction: fraction(mean),
                    sigma_fraction: fraction(drawn),
                    normal_fraction,
                    output_fraction: self.fractions[id],
                    types: vec![input.r#type()],
                    lifetime: PhantomData,
                }
                .build(context, location)
            }
            Unit::Store { x } => {
                let store = dtile::Store {
                    strip: self.held(x)?,
                    output: self.output,
                    first_row: rows.start as i64,
                    strip_row: self.first_row(strip, x, rows.start),
                    rows: rows.len() as i64,
                    types: vec![self.output.r#type()],
                    lifetime: PhantomData,
                };
                self.output = self.value(store.build(context, location))?;
                return Ok(());
            }
        };
        let result = self.value(operation)?;
        self.contents.insert(stage.buffer, result);
        Ok(())
    }

    /// A tensor of normal values, the next that the lanes draw.
    fn normal(&mut self, shape: &[usize]) -> Result<Value<'c, 'b>, PassError> {
        let unit = &self.hardware.noise;
        let uniform = dtile::integers(self.context, unit.lfsr_width, shape);
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
            fraction: i64::from(gaussian::fraction(unit.lfsr_width)),
            types: vec![dtile::words(self.context, shape)],
            lifetime: PhantomData,
        };
        self.drawn += shape.iter().product::<usize>().div_ceil(unit.lanes) as i64;
        self.value(converter.build(self.context, self.location))
    }
}

/// The chosen mapping, for readers; the program states it in full. Of several cancellations with heads the last counts.
fn mapping_attribute<'c>(context: &'c Context, denoiser: &Denoiser<'c, '_>, chosen: &Chosen) -> Attribute<'c> {
    let integer = |value: usize| ir::integer(context, value as i64);
    let mapping = &chosen.mapping;
    let mut entries = vec![
        ("strip_rows", integer(mapping.strip_rows)),
        ("cycles", ir::integer(context, chosen.cycles as i64)),
        ("activation_bytes", integer(chosen.activation_bytes)),
    ];
    let stages = &denoiser.task.stages;
    if let Some(cancel) = (0..stages.all().len()).rev().find(|stage| !stages.heads(*stage).is_empty()) {
        let heads = match (mapping.pairs.contains(&cancel), denoiser.heads.get(&cancel)) {
            (true, _) => "shared",
            (false, Some(head)) => head,
            (false, None) => "separate",
        };
        let tile = mapping.channel_tiles.get(&cancel).copied().unwrap_or(stages.all()[cancel].channels);
        entries.push(("channel_tile", integer(tile)));
        entries.push(("heads", ir::string(context, heads)));
    }
    ir::dictionary(context, &entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::{Pipeline, RunOptions, run_pipeline};
    use crate::passes::quantize_denoisers::Quantiser;
    use crate::tile::testing;
    use mxc_dialects::{
        denoise::{Kind, SLOPE, expression::Primitive},
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
                let denoiser = denoiser(&placed(main, expressions)).unwrap();
                launch(&context, module, main, hardware, &denoiser).unwrap();
                denoiser.operations.into_iter().for_each(|operation| eraser.erase(operation));
            });
        }
        let options = RunOptions { verify_each: true, ..RunOptions::default() };
        let pipeline = Pipeline::parse(&crate::passes::REGISTRY, "schedule-dtile").unwrap();
        run_pipeline(&context, &mut module, &pipeline, &mut cx, &options).unwrap();
        TileProgram::read_all(&module).unwrap().remove(0)
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
                    let x = values[x].iter().enumerate();
                    x.map(|(i, x)| x * weights[scale][i % c] + weights[shift][i % c]).collect()
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
        let [paper, affine] = ["paper", "affine"].map(|name| Kind::named(name).unwrap().expression());
        for expressions in [
            vec![&depthwise],
            vec![&low_rank],
            vec![&random],
            vec![&mixed],
            vec![paper, affine],
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
