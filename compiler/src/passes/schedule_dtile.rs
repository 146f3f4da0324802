//! `schedule-dtile`: gives the digital tile's programs their addresses, phases and times.
//!
//! ```mlir
//! %w = "dtile.weight_alloc"(%0) {bytes = 128 : i64} …    %h = "dtile.systolic_conv"(%x, %w, …) …
//! // becomes
//! %w = "dtile.weight_alloc"(%0) {address = 0 : i64, bytes = 128 : i64} …
//! "dtile.phase"() {index = 1 : i64, unit = "convolution", start = 130 : i64, cycles = 155 : i64} : () -> ()
//! %h = "dtile.systolic_conv"(%x, %w, …) …
//! ```
//!
//! The control unit enables one unit at a time: every operation is a phase of its own, except that the LFSRs, the
//! uniform-to-normal converter and the cancellation they feed are one. Weights of all programs stay in the weight memory
//! when they fit it together; otherwise every program brings its own along in a first phase. Activation buffers share the
//! memory by their lifetimes ([`mxc_runtime::digital::memory`]). A program that does not fit is refused by its layer's name.

use super::quantize_denoisers::{HARDWARE_OPTION, hardware};
use crate::pass::{OptionError, Options, Pass, PassContext, PassError, constants::built};
use melior::{
    Context,
    ir::{BlockLike, Module, OperationRef, Value, operation::OperationLike},
};
use mxc_dialects::{
    dtile::{self, Instruction, Phase},
    erase::{Eraser, ModuleMut},
    ir,
};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, ConvShape, Order},
        memory::{self, Lifetime},
    },
    hardware::Hardware,
};
use std::{marker::PhantomData, path::PathBuf};

/// See the module.
pub struct ScheduleDtile {
    hardware: Option<PathBuf>,
}

impl Pass for ScheduleDtile {
    const NAME: &'static str = "schedule-dtile";
    const DESCRIPTION: &'static str = "places digital-tile buffers and orders the control unit's phases";
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

fn run<'c>(context: &'c Context, module: &mut ModuleMut<'c, '_>, hardware: &Hardware) -> Result<(), PassError> {
    module.erasing(remove_phases);
    schedule(context, module, hardware)
}

/// Erases the phases of an earlier schedule.
fn remove_phases<'c, 'a>(module: &'a Module<'c>, eraser: &mut Eraser<'c, 'a>) {
    for operation in dtile::programs(module).into_iter().filter_map(ir::entry_block).flat_map(ir::block_ops) {
        if matches!(Instruction::parse(operation), Ok(Some(Instruction::Phase(_)))) {
            eraser.erase(operation);
        }
    }
}

/// Gives the programs, which have no phases, addresses and phases.
fn schedule<'c>(context: &'c Context, module: &Module<'c>, hardware: &Hardware) -> Result<(), PassError> {
    let programs = dtile::programs(module);
    let mut sizes = Vec::new();
    for program in &programs {
        let bytes = instructions(*program)?
            .iter()
            .map(|(_, instruction)| match instruction {
                Instruction::WeightAlloc(alloc) => alloc.bytes,
                _ => 0,
            })
            .sum::<i64>();
        let capacity = hardware.memory.weight_bytes as i64;
        if bytes > capacity {
            return Err(PassError::new(format!(
                "the denoiser of layer '{}' has {bytes} bytes of weights, the weight memory {capacity}",
                layer(*program)
            ))
            .at(program.location())
            .hint("a profile with more `memory.weight_bytes`, or compile without a denoiser at this layer"));
        }
        sizes.push(bytes);
    }
    let resident = sizes.iter().sum::<i64>() <= hardware.memory.weight_bytes as i64;
    let mut base = 0;
    for (program, bytes) in programs.iter().zip(sizes) {
        place_weights(context, *program, if resident { base } else { 0 })?;
        base += bytes;
        let words = if resident { 0 } else { bytes / 2 };
        for (key, value) in [
            (dtile::WEIGHT_LOAD, words),
            (dtile::WEIGHT_MEMORY, hardware.memory.weight_bytes as i64),
            (dtile::ACTIVATION_MEMORY, hardware.memory.activation_bytes as i64),
        ] {
            dtile::set_integer(context, *program, key, value);
        }
        place_activations(context, *program, hardware)?;
        time(context, *program, hardware, words as usize)?;
    }
    Ok(())
}

fn layer(program: OperationRef<'_, '_>) -> String {
    ir::string_attr(&program, dtile::LAYER).unwrap_or_default()
}

fn instructions<'c, 'a>(
    program: OperationRef<'c, 'a>,
) -> Result<Vec<(OperationRef<'c, 'a>, Instruction<'c, 'a>)>, PassError> {
    let operations = ir::entry_block(program).map(ir::block_ops).unwrap_or_default();
    let mut all = Vec::new();
    for operation in operations {
        match Instruction::parse(operation) {
            Ok(Some(instruction)) => all.push((operation, instruction)),
            Ok(None) => {}
            Err(message) => return Err(PassError::new(message).at(operation.location())),
        }
    }
    Ok(all)
}

fn place_weights<'c>(context: &'c Context, program: OperationRef<'c, '_>, base: i64) -> Result<(), PassError> {
    let mut address = base;
    for (operation, instruction) in instructions(program)? {
        if let Instruction::WeightAlloc(alloc) = instruction {
            dtile::set_integer(context, operation, "address", address);
            address += alloc.bytes;
        }
    }
    Ok(())
}

fn place_activations<'c>(
    context: &'c Context,
    program: OperationRef<'c, '_>,
    hardware: &Hardware,
) -> Result<(), PassError> {
    let instructions = instructions(program)?;
    let mut allocations: Vec<(Value<'_, '_>, OperationRef<'_, '_>, Lifetime)> = Vec::new();
    for (position, (operation, instruction)) in instructions.iter().enumerate() {
        if let Instruction::ActivationAlloc(alloc) = instruction {
            let lifetime = Lifetime { bytes: alloc.bytes.max(0) as usize, first: usize::MAX, last: 0 };
            let value = built("a result", operation.result(0))?.into();
            allocations.push((value, *operation, lifetime));
        }
        let (reads, writes) = instruction.accesses();
        for value in reads.into_iter().chain(writes) {
            let buffer = dtile::buffer(value).and_then(|alloc| alloc.result(0).ok());
            let buffer = buffer.map(Value::from);
            if let Some((_, _, lifetime)) = allocations.iter_mut().find(|(value, ..)| Some(*value) == buffer) {
                lifetime.first = lifetime.first.min(position);
                lifetime.last = lifetime.last.max(position);
            }
        }
    }
    // A buffer that nothing touches lives nowhere.
    for (_, _, lifetime) in &mut allocations {
        if lifetime.first == usize::MAX {
            lifetime.first = 0;
        }
    }
    let lifetimes: Vec<Lifetime> = allocations.iter().map(|(_, _, lifetime)| *lifetime).collect();
    let (addresses, bytes) = memory::allocate(&lifetimes);
    if bytes > hardware.memory.activation_bytes {
        return Err(PassError::new(format!(
            "the denoiser of layer '{}' needs {bytes} bytes of activation memory, the tile has {}",
            layer(program),
            hardware.memory.activation_bytes
        ))
        .at(program.location())
        .hint("run lower-to-dtile for this hardware profile: it chooses strips that fit"));
    }
    for ((_, operation, _), address) in allocations.iter().zip(addresses) {
        dtile::set_integer(context, *operation, "address", address as i64);
    }
    Ok(())
}

/// Inserts the phases.
fn time<'c>(
    context: &'c Context,
    program: OperationRef<'c, '_>,
    hardware: &Hardware,
    weight_load_words: usize,
) -> Result<(), PassError> {
    let Some(block) = ir::entry_block(program) else {
        return Ok(());
    };
    let (mut index, mut clock) = (0, 0);
    let mut phase = |before: OperationRef<'c, '_>, unit: &str, cycles: u64| {
        let cycles = (hardware.control.phase_cycles + cycles).max(1) as i64;
        let phase =
            Phase { index, unit: unit.to_owned(), start: clock, cycles, types: Vec::new(), lifetime: PhantomData };
        index += 1;
        clock += cycles;
        built("a phase", phase.build(context, before.location()))
    };
    let instructions = instructions(program)?;
    if weight_load_words > 0
        && let Some(first) = block.first_operation()
    {
        let cycles = cycles::lane_cycles(weight_load_words, hardware.memory.interface_words);
        block.insert_operation_before(first, phase(first, "transfer", cycles)?);
    }
    // The operations of a cancellation wait for its last.
    let mut pending: Option<OperationRef<'c, '_>> = None;
    for (operation, instruction) in instructions {
        let Some(unit) = instruction.unit() else {
            continue;
        };
        if matches!(instruction, Instruction::Lfsr(_) | Instruction::BoxMuller(_)) {
            pending.get_or_insert(operation);
            continue;
        }
        let cycles =
            unit_cycles(hardware, &instruction).map_err(|message| PassError::new(message).at(operation.location()))?;
        let before = pending.take().unwrap_or(operation);
        block.insert_operation_before(before, phase(before, unit, cycles)?);
    }
    dtile::set_integer(context, program, dtile::CYCLES, clock);
    Ok(())
}

/// The cycles of one operation, without the phase's start.
fn unit_cycles(hardware: &Hardware, instruction: &Instruction<'_, '_>) -> Result<u64, String> {
    let elements = |value: Value<'_, '_>| -> Result<usize, String> { Ok(dtile::shape(value)?.iter().product()) };
    let rows = |value: Value<'_, '_>, rows: i64| -> Result<usize, String> {
        Ok(dtile::shape(value)?.iter().skip(1).product::<usize>() * rows.max(0) as usize)
    };
    let mapping = |cores: &[i64], order: &str| -> Result<ConvMapping, String> {
        match (cores, Order::from_name(order)) {
            ([pixel, filter], Some(order)) if *pixel > 0 && *filter > 0 => {
                Ok(ConvMapping { pixel_groups: *pixel as usize, filter_groups: *filter as usize, order })
            }
            _ => Err(format!("cores {cores:?} in order {order:?}")),
        }
    };
    Ok(match instruction {
        Instruction::Load(load) => cycles::lane_cycles(elements(load.into)?, hardware.memory.interface_words),
        Instruction::Store(store) => {
            cycles::lane_cycles(rows(store.strip, store.rows)?, hardware.memory.interface_words)
        }
        Instruction::SystolicConv(conv) => {
            let (input, weight) = (dtile::shape(conv.input)?, dtile::shape(conv.weight)?);
            let output = dtile::shape(conv.into)?;
            let pixels = output.iter().take(2).product();
            let shape = match (conv.kind.as_str(), input.as_slice(), weight.as_slice()) {
                ("pointwise", [_, _, channels], _) => ConvShape {
                    pixels,
                    reduction: *channels,
                    filters: output.last().copied().unwrap_or_default(),
                    groups: 1,
                },
                ("depthwise", [_, _, channels], [height, width, ..]) => {
                    ConvShape { pixels, reduction: height * width, filters: 1, groups: *channels }
                }
                _ => return Err(format!("a convolution of kind {:?}", conv.kind)),
            };
            cycles::conv_cycles(hardware, &shape, &mapping(&conv.cores, &conv.order)?)
        }
        Instruction::SystolicConvPair(pair) => {
            let (input, output) = (dtile::shape(pair.input)?, dtile::shape(pair.first_into)?);
            let shape = ConvShape {
                pixels: output.iter().take(2).product(),
                reduction: input.last().copied().unwrap_or_default(),
                filters: 2 * output.last().copied().unwrap_or_default(),
                groups: 1,
            };
            cycles::conv_cycles(hardware, &shape, &mapping(&pair.cores, &pair.order)?)
        }
        Instruction::LeakyRelu(relu) => cycles::lane_cycles(elements(relu.input)?, hardware.relu.lanes),
        Instruction::Affine(affine) => cycles::lane_cycles(rows(affine.input, affine.rows)?, hardware.affine.lanes),
        Instruction::NoiseCancel(cancel) => {
            let noise = cancel.noise.first().ok_or("a cancellation of nothing")?;
            cycles::cancel_cycles(hardware, elements(*noise)?, cancel.drawn().is_some())
        }
        _ => 0,
    })
}
