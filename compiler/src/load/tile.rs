//! Programs of the digital tile, from a module: what the interpreter runs, and what they cost.

use super::schedule::of_program;
use melior::ir::{BlockLike, Module, OperationRef, Value, ValueLike, operation::OperationLike};
use mxc_dialects::{
    dtile::{self, Instruction, Unit},
    ir,
};
use mxc_runtime::{
    cost::Costs,
    digital::{
        DigitalError, Report, cost, gaussian,
        lfsr::{self, Leap},
        program::{Buffer, Generator, Head, Kind, Phase, Scheduled, Step, TileProgram},
    },
};
use std::ops::Range;

/// Reads every dtile program of a module, in order. They must be scheduled, and their weights' values in the module.
pub fn programs(module: &Module<'_>) -> Result<Vec<TileProgram>, DigitalError> {
    dtile::verify::verify(module).map_err(|violations| {
        let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
        DigitalError::Program { program: "?".to_owned(), message: violations.join("; ") }
    })?;
    dtile::programs(module)
        .into_iter()
        .map(|function| {
            Reader::new(module, function).read().map_err(|message| DigitalError::Program {
                program: ir::string_attr(&function, "sym_name").unwrap_or_default(),
                message,
            })
        })
        .collect()
}

/// What a module's scheduled denoisers cost per sample on a profile. The cycles are those of the cost model; a schedule in the
/// module that was made for another profile differs.
///
/// # Errors
///
/// When the module is not scheduled, or the cost model gives what is no cost.
pub fn report(module: &Module<'_>, costs: Costs<'_>) -> Result<Report, DigitalError> {
    let programs = self::programs(module)?;
    let denoisers = programs.iter().zip(dtile::programs(module)).map(|(program, function)| {
        let schedule = of_program(costs.hardware, function, program.weight_load_words)
            .map_err(|error| DigitalError::Program { program: program.symbol.clone(), message: error.to_string() })?;
        Ok(cost(program, &schedule, costs)?)
    });
    Ok(Report { hardware: costs.hardware.name.clone(), denoisers: denoisers.collect::<Result<_, DigitalError>>()? })
}

struct Reader<'c, 'a> {
    module: &'a Module<'c>,
    function: OperationRef<'c, 'a>,
    weights: Vec<i16>,
    parameters: usize,
    base: usize,
}

impl<'c, 'a> Reader<'c, 'a> {
    fn new(module: &'a Module<'c>, function: OperationRef<'c, 'a>) -> Self {
        Self { module, function, weights: Vec::new(), parameters: 0, base: 0 }
    }

    fn read(mut self) -> Result<TileProgram, String> {
        let attribute = |name: &str| ir::i64_attr(&self.function, name).ok_or_else(|| format!("lacks `{name}`"));
        let total = attribute(dtile::CYCLES).map_err(|_| "is not scheduled: run schedule-dtile on it".to_owned())?;
        let input_fraction = attribute(dtile::INPUT_FRACTION)? as i32;
        let output_fraction = attribute(dtile::OUTPUT_FRACTION)? as i32;
        let weight_load_words = ir::i64_attr(&self.function, dtile::WEIGHT_LOAD).unwrap_or_default() as usize;
        let block = ir::entry_block(self.function).ok_or("is empty")?;
        let input = block.argument(0).map_err(|error| error.to_string())?;
        let shape = <[usize; 3]>::try_from(dtile::shape(input.into())?).map_err(|shape| format!("takes {shape:?}"))?;
        let operations = ir::block_ops(block);
        self.read_weights(&operations)?;

        let mut steps = Vec::new();
        let mut phases: Vec<Phase> = Vec::new();
        let mut generator: Option<Generator> = None;
        let mut seeds: Option<[Vec<i64>; 2]> = None;
        let mut activation_words = 0;
        for operation in &operations {
            let Some(instruction) = Instruction::parse(*operation)? else {
                continue;
            };
            match &instruction {
                Instruction::Phase(phase) => phases.push(Phase {
                    unit: Unit::from_name(&phase.unit).ok_or_else(|| format!("has no unit `{}`", phase.unit))?,
                    start: phase.start as u64,
                    cycles: phase.cycles as u64,
                }),
                Instruction::ActivationAlloc(alloc) => {
                    let end = alloc.address.unwrap_or_default() + alloc.bytes;
                    activation_words = activation_words.max((end as usize).div_ceil(2));
                }
                _ => {}
            }
            if let Instruction::NoiseCancel(cancel) = &instruction
                && let Some([_, normal]) = cancel.drawn()
            {
                let (found, its_seeds) = self.generator(normal)?;
                if seeds.get_or_insert_with(|| its_seeds.clone()) != &its_seeds {
                    return Err("uses two sets of LFSRs".to_owned());
                }
                if i64::from(found.fraction) != cancel.normal_fraction {
                    return Err("reads normal values with another fraction".to_owned());
                }
                generator.get_or_insert(found);
            }
            if let Some(step) = self.step(&instruction, *operation)? {
                steps.push(Scheduled { step, phase: phases.len().saturating_sub(1) });
            }
        }
        Ok(TileProgram {
            symbol: ir::string_attr(&self.function, "sym_name").unwrap_or_default(),
            layer: ir::string_attr(&self.function, dtile::LAYER).unwrap_or_default(),
            shape,
            input_fraction,
            output_fraction,
            weights: self.weights,
            parameters: self.parameters,
            weight_load_words,
            activation_words,
            generator,
            steps,
            phases,
            cycles: total as u64,
        })
    }

    fn read_weights(&mut self, operations: &[OperationRef<'c, 'a>]) -> Result<(), String> {
        let mut allocations = Vec::new();
        for operation in operations {
            if let Some(Instruction::WeightAlloc(alloc)) = Instruction::parse(*operation)? {
                let address = alloc.address.ok_or("a weight has no address")? as usize / 2;
                let values = self.constant(alloc.value)?;
                self.parameters += if alloc.absent { 0 } else { values.len() };
                allocations.push((address, values));
            }
        }
        self.base = allocations.iter().map(|(address, _)| *address).min().unwrap_or_default();
        for (address, values) in allocations {
            let start = address - self.base;
            if self.weights.len() < start + values.len() {
                self.weights.resize(start + values.len(), 0);
            }
            self.weights[start..start + values.len()].copy_from_slice(&values);
        }
        Ok(())
    }

    /// The words of a constant: a global's value in the module, or an inline constant.
    fn constant(&self, value: Value<'c, 'a>) -> Result<Vec<i16>, String> {
        let attribute = match ir::loaded_global(value) {
            Some(name) => ir::globals(self.module)
                .get(&name)
                .and_then(|global| global.attribute("value").ok())
                .ok_or_else(|| format!("no global @{name}"))?,
            None => {
                let operation = ir::defining_op(value).ok_or("a weight is not constant")?;
                ["values", "value"]
                    .iter()
                    .find_map(|name| operation.attribute(name).ok())
                    .ok_or("a weight is not constant")?
            }
        };
        let words = ir::dense_integers(attribute).ok_or_else(|| "a weight's words are not in the module".to_owned())?;
        if words.len() != dtile::shape(value)?.iter().product::<usize>() {
            return Err(format!("a weight has {} words for {}", words.len(), value.r#type()));
        }
        words.into_iter().map(|word| i16::try_from(word).map_err(|_| format!("the weight {word} is no i16"))).collect()
    }

    fn buffer(&self, value: Value<'c, 'a>) -> Result<Buffer, String> {
        let address =
            dtile::buffer(value).and_then(|alloc| ir::i64_attr(&alloc, "address")).ok_or("a buffer has no address")?;
        let [rows, columns, channels] =
            <[usize; 3]>::try_from(dtile::shape(value)?).map_err(|shape| format!("a buffer of {shape:?}"))?;
        Ok(Buffer { word: address as usize / 2, rows, columns, channels })
    }

    /// Some rows of a buffer.
    fn rows(&self, value: Value<'c, 'a>, rows: Range<usize>) -> Result<Buffer, String> {
        let whole = self.buffer(value)?;
        Ok(Buffer { word: whole.word + rows.start * whole.columns * whole.channels, rows: rows.len(), ..whole })
    }

    fn weight(&self, value: Value<'c, 'a>) -> Result<usize, String> {
        dtile::buffer(value)
            .and_then(|alloc| ir::i64_attr(&alloc, "address"))
            .map(|address| address as usize / 2 - self.base)
            .ok_or_else(|| "a weight has no address".to_owned())
    }

    #[allow(clippy::too_many_arguments)]
    fn head(
        &self,
        weight: Value<'c, 'a>,
        bias: Value<'c, 'a>,
        output: Value<'c, 'a>,
        input_fraction: i64,
        weight_fraction: i64,
        bias_fraction: i64,
        output_fraction: i64,
    ) -> Result<Head, String> {
        let sum = input_fraction + weight_fraction;
        let shift = |shift: i64, from: i64| {
            i32::try_from(shift)
                .ok()
                .filter(|shift| (from as i32..=62).contains(shift))
                .ok_or_else(|| format!("an alignment by {shift} bits"))
        };
        Ok(Head {
            weight: self.weight(weight)?,
            bias: self.weight(bias)?,
            // A bias below the sum's resolution would have to be rounded; the compiler never makes one.
            bias_shift: shift(sum - bias_fraction, 0)?,
            output_shift: shift(sum - output_fraction, -62)?,
            output: self.buffer(output)?,
        })
    }

    fn generator(&self, normal: Value<'c, 'a>) -> Result<(Generator, [Vec<i64>; 2]), String> {
        let unit = ir::defining_op(normal).map(Instruction::parse).transpose()?;
        let Some(Some(Instruction::BoxMuller(unit))) = unit else {
            return Err("normal values must come from dtile.box_muller".to_owned());
        };
        let register = |words| match ir::defining_op(words).map(Instruction::parse).transpose()? {
            Some(Some(Instruction::Lfsr(lfsr))) => Ok::<_, String>(lfsr),
            _ => Err("uniform words must come from dtile.lfsr".to_owned()),
        };
        let (first, second) = (register(unit.first)?, register(unit.second)?);
        let width = u32::try_from(first.width)
            .ok()
            .filter(|width| (8..=64).contains(width))
            .ok_or_else(|| format!("an LFSR of {} bits", first.width))?;
        if (first.width, &first.taps, first.shifts_per_draw, first.seeds.len())
            != (second.width, &second.taps, second.shifts_per_draw, second.seeds.len())
        {
            return Err("U1 and U2 come from different registers".to_owned());
        }
        if unit.fraction != i64::from(gaussian::fraction(width)) {
            return Err(format!("normal values with {} fraction bits", unit.fraction));
        }
        let taps: Vec<u32> = first.taps.iter().map(|&tap| tap as u32).collect();
        let seeds = first
            .seeds
            .iter()
            .zip(&second.seeds)
            .map(|(a, b)| [*a as u64 & lfsr::mask(width), *b as u64 & lfsr::mask(width)])
            .collect();
        let generator = Generator {
            width,
            leap: Leap::new(width, &taps, first.shifts_per_draw as u32),
            seeds,
            fraction: gaussian::fraction(width),
        };
        Ok((generator, [first.seeds, second.seeds]))
    }

    fn step(&self, instruction: &Instruction<'c, 'a>, operation: OperationRef<'c, 'a>) -> Result<Option<Step>, String> {
        let result = |index| operation.result(index).map(Value::from).map_err(|error| error.to_string());
        // `verify` has checked that rows, channels and filters are inside their tensors.
        let size = |value: i64| value.max(0) as usize;
        Ok(Some(match instruction {
            Instruction::Load(load) => Step::Load { first_row: size(load.first_row), into: self.buffer(load.into)? },
            Instruction::Store(store) => Step::Store {
                from: self.buffer(store.strip)?,
                strip_row: size(store.strip_row),
                first_row: size(store.first_row),
                rows: size(store.rows),
            },
            Instruction::SystolicConv(conv) => {
                let weight = dtile::shape(conv.weight)?;
                let output = self.buffer(result(0)?)?;
                Step::Conv {
                    input: self.rows(conv.input, conv.input_rows(output.rows)?)?,
                    kind: if conv.kind == "pointwise" {
                        Kind::Pointwise { first: size(conv.first_filter) }
                    } else {
                        Kind::Depthwise { kernel: [weight[0], weight[1]], pad: [size(conv.pad[0]), size(conv.pad[2])] }
                    },
                    heads: vec![self.head(
                        conv.weight,
                        conv.bias,
                        result(0)?,
                        conv.input_fraction,
                        conv.weight_fraction,
                        conv.bias_fraction,
                        conv.output_fraction,
                    )?],
                }
            }
            Instruction::SystolicConvPair(pair) => {
                let operands = [(pair.first_weight, pair.first_bias), (pair.second_weight, pair.second_bias)];
                let heads = operands
                    .into_iter()
                    .enumerate()
                    .map(|(head, (weight, bias))| {
                        self.head(
                            weight,
                            bias,
                            result(head)?,
                            pair.input_fraction,
                            pair.weight_fractions[head],
                            pair.bias_fractions[head],
                            pair.output_fractions[head],
                        )
                    })
                    .collect::<Result<_, String>>()?;
                let output = self.buffer(result(0)?)?;
                Step::Conv {
                    input: self.rows(pair.input, pair.input_rows(output.rows)?)?,
                    kind: Kind::Pointwise { first: size(pair.first_filter) },
                    heads,
                }
            }
            Instruction::LeakyRelu(relu) => {
                Step::LeakyRelu { buffer: self.buffer(relu.input)?, shift: relu.shift as u32 }
            }
            Instruction::Affine(affine) => {
                let product = affine.input_fraction + affine.scale_fraction;
                Step::Affine {
                    buffer: self.buffer(affine.input)?,
                    first_row: size(affine.first_row),
                    rows: size(affine.rows),
                    scale: self.weight(affine.scale)?,
                    shift: self.weight(affine.shift)?,
                    shift_shift: alignment(product - affine.shift_fraction)?,
                    output_shift: signed_alignment(product - affine.output_fraction)?,
                }
            }
            Instruction::NoiseCancel(cancel) => {
                let buffer = |value: Option<Value<'c, 'a>>| value.map(|value| self.buffer(value)).transpose();
                let (mean, sigma) = (buffer(cancel.mean())?, buffer(cancel.drawn().map(|[sigma, _]| sigma))?);
                let noise = mean.or(sigma).ok_or("nothing is cancelled")?;
                let first_row = size(cancel.first_row);
                // Without an operand its fraction asks for no alignment.
                let fractions = [
                    Some(cancel.input_fraction),
                    mean.map(|_| cancel.mean_fraction),
                    sigma.map(|_| cancel.sigma_fraction + cancel.normal_fraction),
                ];
                let common = fractions.into_iter().flatten().max().unwrap_or_default();
                let [x_shift, mean_shift, product_shift] =
                    fractions.map(|fraction| fraction.map_or(Ok(0), |fraction| alignment(common - fraction)));
                Step::Cancel {
                    x: self.rows(cancel.input, first_row..first_row + noise.rows)?,
                    first_channel: size(cancel.first_channel),
                    channels: noise.channels,
                    mean,
                    sigma,
                    adds: cancel.adds,
                    shifts: [x_shift?, mean_shift?, product_shift?],
                    output_shift: signed_alignment(common - cancel.output_fraction)?,
                }
            }
            _ => return Ok(None),
        }))
    }
}

/// A left shift of a word or product that leaves 63 bits.
fn alignment(shift: i64) -> Result<i32, String> {
    i32::try_from(shift)
        .ok()
        .filter(|shift| (0..=30).contains(shift))
        .ok_or_else(|| format!("an alignment by {shift} bits"))
}

fn signed_alignment(shift: i64) -> Result<i32, String> {
    i32::try_from(shift)
        .ok()
        .filter(|shift| (-30..=62).contains(shift))
        .ok_or_else(|| format!("an alignment by {shift} bits"))
}
