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
//! memory by their lifetimes ([`mxc_runtime::digital::schedule`] says which). A program that does not fit is refused by its layer's name.

use crate::{
    load::schedule::{ProgramSchedule, of_program},
    pass::{OptionError, Options, Pass, PassContext, PassError, constants::built},
    tile::{
        placed::{HARDWARE_OPTION, hardware},
        weights::{self, TooLarge},
    },
};
use melior::{
    Context,
    ir::{BlockLike, Module, OperationRef, operation::OperationLike},
};
use mxc_dialects::{
    dtile::{self, Instruction},
    erase::{Eraser, ModuleMut},
    ir,
};
use mxc_runtime::hardware::Hardware;
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
    let allocations: Vec<Vec<(OperationRef<'_, '_>, usize)>> =
        programs.iter().map(|program| weight_allocations(*program)).collect::<Result<_, _>>()?;
    let sizes: Vec<Vec<usize>> =
        allocations.iter().map(|weights| weights.iter().map(|(_, bytes)| *bytes).collect()).collect();
    let capacity = hardware.memory.weight_bytes;
    let placed = weights::place(&sizes, capacity).map_err(|TooLarge { program, bytes }| {
        let needs = format!("has {bytes} bytes of weights, the weight memory {capacity}");
        refused(programs[program], &needs)
            .hint("a profile with more `memory.weight_bytes`, or compile without a denoiser at this layer")
    })?;
    for ((program, weights), placed) in programs.iter().zip(allocations).zip(placed) {
        for ((operation, _), address) in weights.iter().zip(&placed.addresses) {
            dtile::set_integer(context, *operation, "address", *address as i64);
        }
        let schedule = of_program(hardware, *program, placed.load_words)?;
        place_activations(context, *program, hardware, &schedule)?;
        insert_phases(context, *program, &schedule)?;
        for (key, value) in [
            (dtile::WEIGHT_LOAD, placed.load_words as i64),
            (dtile::WEIGHT_MEMORY, capacity as i64),
            (dtile::ACTIVATION_MEMORY, hardware.memory.activation_bytes as i64),
            (dtile::CYCLES, schedule.cycles() as i64),
        ] {
            dtile::set_integer(context, *program, key, value);
        }
    }
    Ok(())
}

/// An error about a program.
fn refused(program: OperationRef<'_, '_>, message: &str) -> PassError {
    let layer = ir::string_attr(&program, dtile::LAYER).unwrap_or_default();
    PassError::new(format!("the denoiser of layer '{layer}' {message}")).at(program.location())
}

/// The allocations of a program's weights, with their bytes.
fn weight_allocations<'c, 'a>(program: OperationRef<'c, 'a>) -> Result<Vec<(OperationRef<'c, 'a>, usize)>, PassError> {
    let mut found = Vec::new();
    for operation in ir::entry_block(program).map(ir::block_ops).unwrap_or_default() {
        let instruction = Instruction::parse(operation);
        let instruction = instruction.map_err(|message| PassError::new(message).at(operation.location()))?;
        if let Some(Instruction::WeightAlloc(alloc)) = instruction {
            found.push((operation, usize::try_from(alloc.bytes).unwrap_or_default()));
        }
    }
    Ok(found)
}

fn place_activations<'c>(
    context: &'c Context,
    program: OperationRef<'c, '_>,
    hardware: &Hardware,
    schedule: &ProgramSchedule<'c, '_>,
) -> Result<(), PassError> {
    let (addresses, bytes) = schedule.place();
    let capacity = hardware.memory.activation_bytes;
    if bytes > capacity {
        return Err(refused(program, &format!("needs {bytes} bytes of activation memory, the tile has {capacity}"))
            .hint("run lower-to-dtile for this hardware profile: it chooses strips that fit"));
    }
    for (buffer, address) in schedule.buffers.iter().zip(addresses) {
        dtile::set_integer(context, buffer.is, "address", address as i64);
    }
    Ok(())
}

fn insert_phases<'c>(
    context: &'c Context,
    program: OperationRef<'c, '_>,
    schedule: &ProgramSchedule<'c, '_>,
) -> Result<(), PassError> {
    let Some(block) = ir::entry_block(program) else {
        return Ok(());
    };
    let first = block.first_operation();
    for (index, phase) in schedule.phases.iter().enumerate() {
        // The weights are brought before anything else.
        let Some(before) = phase.runs.or(first) else {
            continue;
        };
        let inserted = dtile::Phase {
            index: index as i64,
            unit: phase.work.unit().name().to_owned(),
            start: phase.start as i64,
            cycles: phase.cycles as i64,
            types: Vec::new(),
            lifetime: PhantomData,
        };
        let inserted = built("a phase", inserted.build(context, before.location()))?;
        block.insert_operation_before(before, inserted);
    }
    Ok(())
}
