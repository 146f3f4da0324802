//! The program of a layer's denoisers: what their schedule says, phase by phase, as operations of the `dtile` dialect. It has no
//! addresses and no phases yet.

use super::{
    mapping::Chosen,
    plan::{Strip, Task},
    schedule::{Form, Phase, Schedule},
    stages::{Stage, StageId, Unit},
};
use crate::pass::{PassError, constants::built};
use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, Identifier, Location, Operation, OperationRef, Region, RegionLike, Type, Value,
        ValueLike,
        attribute::{DenseElementsAttribute, TypeAttribute},
        operation::{OperationBuilder, OperationLike},
        r#type::FunctionType,
    },
};
use mxc_dialects::{
    denoise::{SLOPE_SHIFT, expression::ParameterId},
    dtile, ir,
};
use mxc_runtime::{
    digital::{
        cycles::ConvMapping,
        gaussian,
        schedule::{BufferId, Work},
    },
    hardware::Hardware,
};
use std::{collections::BTreeMap, marker::PhantomData};

/// A layer's quantised denoisers, in the order in which they act.
pub struct Denoisers<'c, 'a> {
    /// The layer.
    pub layer: String,
    /// Where they are.
    pub location: Location<'c>,
    /// What they do.
    pub task: Task,
    /// The i16 constants of each, in the order of its expression's parameters, with their fractions.
    pub weights: Vec<Vec<(Value<'c, 'a>, i64)>>,
    /// The fraction of every stage's result.
    pub fractions: Vec<i64>,
    /// What the cancellations' heads are called, for those that have a single one.
    pub heads: BTreeMap<StageId, String>,
}

/// The function of a mapping's program.
pub fn function<'c>(
    context: &'c Context,
    hardware: &Hardware,
    denoisers: &Denoisers<'c, '_>,
    chosen: &Chosen,
    symbol: &str,
) -> Result<Operation<'c>, PassError> {
    let Denoisers { task, location, fractions, .. } = denoisers;
    let channels = task.stages.all().first().map_or(0, |load| load.channels);
    let sample = dtile::words(context, &[task.rows, task.columns, channels]);
    let region = Region::new();
    let body = region.append_block(Block::new(&[(sample, *location)]));
    let schedule = task.schedule(hardware, &chosen.mapping);
    Emitter::new(context, hardware, denoisers, &body)?.program(&schedule)?;
    let id = |name: &str| Identifier::new(context, name);
    let integer = |value: usize| ir::integer(context, value as i64);
    let fraction = |fraction: Option<&i64>| ir::integer(context, fraction.copied().unwrap_or_default());
    let function = OperationBuilder::new("func.func", *location)
        .add_attributes(&[
            (id("sym_name"), ir::string(context, symbol)),
            (id("sym_visibility"), ir::string(context, "private")),
            (id("function_type"), TypeAttribute::new(FunctionType::new(context, &[sample], &[sample]).into()).into()),
            (id(dtile::LAYER), ir::string(context, &denoisers.layer)),
            (id(dtile::INPUT_FRACTION), fraction(fractions.first())),
            (id(dtile::OUTPUT_FRACTION), fraction(fractions.last())),
            (id(dtile::WEIGHT_MEMORY), integer(hardware.memory.weight_bytes)),
            (id(dtile::ACTIVATION_MEMORY), integer(hardware.memory.activation_bytes)),
            (id(dtile::MAPPING), mapping_attribute(context, denoisers, chosen)),
        ])
        .add_regions([region])
        .build();
    built("a program", function)
}

/// The chosen mapping, for readers; the program states it in full. Of several cancellations with heads the last counts.
fn mapping_attribute<'c>(context: &'c Context, denoisers: &Denoisers<'c, '_>, chosen: &Chosen) -> Attribute<'c> {
    let integer = |value: usize| ir::integer(context, value as i64);
    let mapping = &chosen.mapping;
    let mut entries = vec![
        ("strip_rows", integer(mapping.strip_rows)),
        ("cycles", ir::integer(context, chosen.cycles as i64)),
        ("activation_bytes", integer(chosen.activation_bytes)),
    ];
    let stages = &denoisers.task.stages;
    if let Some(cancel) = (0..stages.all().len()).rev().find(|stage| !stages.heads(*stage).is_empty()) {
        let heads = match (mapping.pairs.contains(&cancel), denoisers.heads.get(&cancel)) {
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

/// A weight in the weight memory with its fraction.
#[derive(Clone, Copy)]
struct Stored<'c, 'b> {
    value: Value<'c, 'b>,
    fraction: i64,
}

/// A buffer's allocation, and what it holds.
#[derive(Clone, Copy)]
struct Held<'c, 'b> {
    allocated: Value<'c, 'b>,
    holds: Value<'c, 'b>,
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
    /// The buffers by their numbers in the schedule.
    buffers: Vec<Held<'c, 'b>>,
    /// The noisy input.
    source: Value<'c, 'b>,
    /// The denoised output so far.
    output: Value<'c, 'b>,
    /// LFSR words that each lane has drawn.
    drawn: i64,
}

impl<'c, 'b, 'd> Emitter<'c, 'b, 'd> {
    /// Begins a program: its weights are in the weight memory.
    fn new(
        context: &'c Context,
        hardware: &'d Hardware,
        denoisers: &'d Denoisers<'c, '_>,
        block: &'b Block<'c>,
    ) -> Result<Self, PassError> {
        let source: Value<'c, 'b> = built("an argument", block.argument(0))?.into();
        let Denoisers { task, location, fractions, .. } = denoisers;
        let mut emitter = Self {
            context,
            hardware,
            block,
            location: *location,
            task,
            fractions,
            weights: BTreeMap::new(),
            buffers: Vec::new(),
            source,
            output: source,
            drawn: 0,
        };
        for (id, stage) in task.stages.all().iter().enumerate() {
            let weight = |parameter: ParameterId| {
                let weight = denoisers.weights[stage.denoiser].get(parameter).copied();
                weight.ok_or_else(|| PassError::new("a denoiser lacks a weight").at(*location))
            };
            let pair = match stage.unit {
                Unit::Conv { x, weight: kernel, bias, .. } => {
                    let kernel = emitter.weight(weight(kernel)?)?;
                    let bias = match bias {
                        Some(bias) => emitter.weight(weight(bias)?)?,
                        None => emitter.fill(stage.channels, 0, fractions[x] + kernel.fraction)?,
                    };
                    [kernel, bias]
                }
                Unit::Affine { scale, shift, .. } => {
                    let scale = match scale {
                        Some(scale) => emitter.weight(weight(scale)?)?,
                        None => emitter.fill(stage.channels, 1, 0)?,
                    };
                    [scale, emitter.weight(weight(shift)?)?]
                }
                Unit::Load | Unit::Relu { .. } | Unit::Cancel { .. } | Unit::Store { .. } => continue,
            };
            emitter.weights.insert(id, pair);
        }
        Ok(emitter)
    }

    /// The rest of it: what the schedule says.
    fn program(mut self, schedule: &Schedule) -> Result<(), PassError> {
        let empty = OperationBuilder::new("tensor.empty", self.location).add_results(&[self.source.r#type()]).build();
        self.output = self.value(empty)?;
        for phase in &schedule.phases {
            for buffer in &schedule.buffers[phase.runs.allocates.clone()] {
                let allocated = self.buffer(&buffer.is)?;
                self.buffers.push(Held { allocated, holds: allocated });
            }
            match (&phase.runs.stages[..], phase.work) {
                (&[first, second], Work::Convolution { mapping, .. }) => self.pair(phase, [first, second], &mapping)?,
                (&[stage], _) => self.stage(phase, stage)?,
                _ => return Err(PassError::new("a phase of no or too many stages").at(self.location)),
            }
        }
        self.append(OperationBuilder::new("func.return", self.location).add_operands(&[self.output]).build())?;
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
        let operation = ir::defining_op(constant)
            .ok_or_else(|| PassError::new("a weight is no stored constant").at(self.location))?;
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

    /// The words that a unit takes where a denoiser has no parameter: zeros for a convolution's bias, ones for an affine's scale.
    fn fill(&self, channels: usize, word: i16, fraction: i64) -> Result<Stored<'c, 'b>, PassError> {
        let r#type = dtile::words(self.context, &[channels]);
        let words = DenseElementsAttribute::i16_values(r#type, &[word]);
        let constant = OperationBuilder::new("arith.constant", self.location)
            .add_attributes(&[(Identifier::new(self.context, "value"), words.into())])
            .add_results(&[r#type])
            .build();
        self.place(self.value(constant)?, fraction, true)
    }

    fn place(&self, value: Value<'c, 'b>, fraction: i64, absent: bool) -> Result<Stored<'c, 'b>, PassError> {
        let alloc = dtile::WeightAlloc {
            value,
            bytes: bytes(value.r#type()),
            address: None,
            absent,
            types: vec![value.r#type()],
            lifetime: PhantomData,
        };
        Ok(Stored { value: self.value(alloc.build(self.context, self.location))?, fraction })
    }

    fn buffer(&self, form: &Form) -> Result<Value<'c, 'b>, PassError> {
        let r#type = dtile::integers(self.context, 16 * form.element_words as u32, &form.shape);
        let (bytes, types) = (bytes(r#type), vec![r#type]);
        let alloc = dtile::ActivationAlloc { bytes, address: None, types, lifetime: PhantomData };
        self.value(alloc.build(self.context, self.location))
    }

    /// The buffer at a place of a phase's list.
    fn held(&self, buffers: &[BufferId], place: usize) -> Result<Held<'c, 'b>, PassError> {
        let held = buffers.get(place).and_then(|buffer| self.buffers.get(*buffer)).copied();
        held.ok_or_else(|| PassError::new("a buffer is read before it is there").at(self.location))
    }

    /// What the buffers that a phase reads hold.
    fn read<const N: usize>(&self, phase: &Phase) -> Result<[Value<'c, 'b>; N], PassError> {
        let mut values = [self.source; N];
        for (place, value) in values.iter_mut().enumerate() {
            *value = self.held(&phase.reads, place)?.holds;
        }
        Ok(values)
    }

    /// The buffers that a phase fills: those of its results, then those for partial sums.
    fn written<const N: usize>(&self, phase: &Phase) -> Result<([Value<'c, 'b>; N], Vec<Value<'c, 'b>>), PassError> {
        let mut values = [self.source; N];
        for (place, value) in values.iter_mut().enumerate() {
            *value = self.held(&phase.writes, place)?.allocated;
        }
        let partials = (N..phase.writes.len()).map(|place| Ok(self.held(&phase.writes, place)?.allocated));
        Ok((values, partials.collect::<Result<_, PassError>>()?))
    }

    /// Notes what the first buffers that a phase writes hold now.
    fn holds(&mut self, phase: &Phase, results: &[Value<'c, 'b>]) {
        for (buffer, result) in phase.writes.iter().zip(results) {
            if let Some(held) = self.buffers.get_mut(*buffer) {
                held.holds = *result;
            }
        }
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

    /// Two convolutions of one input.
    fn pair(&mut self, phase: &Phase, heads: [StageId; 2], cores: &ConvMapping) -> Result<(), PassError> {
        let [first, second] = heads;
        let [[first_weight, first_bias], [second_weight, second_bias]] = [self.stored(first)?, self.stored(second)?];
        let [input] = self.read(phase)?;
        let ([first_into, second_into], partials) = self.written(phase)?;
        let x = self.task.stages.head_operand(&heads).unwrap_or_default();
        let strip = &phase.runs.strip;
        let first_row = self.first_row(strip, x, self.task.held(strip, first).start);
        let pair = dtile::SystolicConvPair {
            input,
            first_weight: first_weight.value,
            first_bias: first_bias.value,
            second_weight: second_weight.value,
            second_bias: second_bias.value,
            first_into,
            second_into,
            partials,
            first_row: Some(first_row).filter(|row| *row > 0),
            first_filter: phase.runs.first_channel as i64,
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
        let results = [0, 1].map(|index| built("a result", pair.result(index)).map(Value::from));
        let [first, second] = results;
        self.holds(phase, &[first?, second?]);
        Ok(())
    }

    /// A stage by itself.
    fn stage(&mut self, phase: &Phase, id: StageId) -> Result<(), PassError> {
        let (context, location, task) = (self.context, self.location, self.task);
        let stage = &task.stages.all()[id];
        let rows = task.covered(&phase.runs.strip, stage.halo);
        let operation = match stage.unit {
            Unit::Load => {
                let ([into], _) = self.written(phase)?;
                let (source, first_row, types) = (self.source, rows.start as i64, vec![into.r#type()]);
                dtile::Load { source, into, first_row, types, lifetime: PhantomData }.build(context, location)
            }
            Unit::Conv { x, taps, .. } => self.convolution(phase, id, x, taps)?.build(context, location),
            Unit::Relu { .. } => {
                let [input] = self.read(phase)?;
                let (shift, types) = (i64::from(SLOPE_SHIFT), vec![input.r#type()]);
                dtile::LeakyRelu { input, shift, types, lifetime: PhantomData }.build(context, location)
            }
            Unit::Affine { x, .. } => {
                let [scale, shift] = self.stored(id)?;
                let [input] = self.read(phase)?;
                dtile::Affine {
                    input,
                    scale: scale.value,
                    shift: shift.value,
                    first_row: self.first_row(&phase.runs.strip, x, rows.start),
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
            Unit::Cancel { .. } => self.cancellation(phase, id, stage)?.build(context, location),
            Unit::Store { x } => {
                let [strip] = self.read(phase)?;
                let store = dtile::Store {
                    strip,
                    output: self.output,
                    first_row: rows.start as i64,
                    strip_row: self.first_row(&phase.runs.strip, x, rows.start),
                    rows: rows.len() as i64,
                    types: vec![self.output.r#type()],
                    lifetime: PhantomData,
                };
                self.output = self.value(store.build(context, location))?;
                return Ok(());
            }
        };
        let result = self.value(operation)?;
        self.holds(phase, &[result]);
        Ok(())
    }

    fn convolution(
        &self,
        phase: &Phase,
        id: StageId,
        x: StageId,
        taps: Option<usize>,
    ) -> Result<dtile::SystolicConv<'c, 'b>, PassError> {
        let Work::Convolution { mapping: cores, .. } = phase.work else {
            return Err(PassError::new("a convolution on no cores").at(self.location));
        };
        let [weight, bias] = self.stored(id)?;
        let [input] = self.read(phase)?;
        let ([into], partials) = self.written(phase)?;
        let rows = self.task.covered(&phase.runs.strip, self.task.stages.all()[id].halo);
        let side = taps.map_or(0, |taps| taps / 2);
        // Only where the image ends is there padding.
        let (above, below) = (side.saturating_sub(rows.start), (rows.end + side).saturating_sub(self.task.rows));
        let first_row = self.first_row(&phase.runs.strip, x, rows.start + above - side);
        Ok(dtile::SystolicConv {
            input,
            weight: weight.value,
            bias: bias.value,
            into,
            partials,
            kind: if taps.is_some() { "depthwise" } else { "pointwise" }.to_owned(),
            pad: [above, below, side, side].map(|pad| pad as i64).to_vec(),
            first_row: Some(first_row).filter(|row| *row > 0),
            first_filter: phase.runs.first_channel as i64,
            input_fraction: self.fractions[x],
            weight_fraction: weight.fraction,
            bias_fraction: bias.fraction,
            output_fraction: self.fractions[id],
            cores: vec![cores.pixel_groups as i64, cores.filter_groups as i64],
            order: cores.order.name().to_owned(),
            types: vec![into.r#type()],
            lifetime: PhantomData,
        })
    }

    fn cancellation(
        &mut self,
        phase: &Phase,
        id: StageId,
        stage: &Stage,
    ) -> Result<dtile::NoiseCancel<'c, 'b>, PassError> {
        let Unit::Cancel { x, mean, drawn, adds } = stage.unit else {
            return Err(PassError::new("a cancellation of nothing").at(self.location));
        };
        let rows = self.task.covered(&phase.runs.strip, stage.halo);
        let [input] = self.read(phase)?;
        // Behind x: what is cancelled as it is, what is drawn.
        let mut noise = Vec::new();
        for place in 1..phase.reads.len() {
            noise.push(self.held(&phase.reads, place)?.holds);
        }
        if drawn.is_some() {
            noise.push(self.normal(&[rows.len(), self.task.columns, phase.runs.channels])?);
        }
        let fraction = |stage: Option<StageId>| stage.map_or(0, |stage| self.fractions[stage]);
        Ok(dtile::NoiseCancel {
            input,
            noise,
            adds,
            first_row: self.first_row(&phase.runs.strip, x, rows.start),
            first_channel: phase.runs.first_channel as i64,
            lanes: self.hardware.noise.lanes as i64,
            input_fraction: self.fractions[x],
            mean_fraction: fraction(mean),
            sigma_fraction: fraction(drawn),
            normal_fraction: i64::from(gaussian::fraction(self.hardware.noise.lfsr_width)),
            output_fraction: self.fractions[id],
            types: vec![input.r#type()],
            lifetime: PhantomData,
        })
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

fn bytes(r#type: Type<'_>) -> i64 {
    dtile::tensor_bytes(r#type).unwrap_or_default() as i64
}
