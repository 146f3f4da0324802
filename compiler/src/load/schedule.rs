//! The schedule of a program of the digital tile, from its instructions as they stand.

use melior::ir::{OperationRef, Value, operation::OperationLike};
use mxc_dialects::{
    diagnostic::Diagnostic,
    dtile::{self, Instruction},
    ir,
};
use mxc_runtime::{
    digital::{
        cycles::{ConvMapping, ConvShape, Order},
        schedule::{Schedule, Work},
    },
    hardware::Hardware,
};

/// What an instruction has its unit do; `None` for what is no phase by itself.
fn work(instruction: &Instruction<'_, '_>) -> Result<Option<Work>, String> {
    let elements = |value: Value<'_, '_>| Ok::<_, String>(product(&dtile::shape(value)?));
    let rows = |value: Value<'_, '_>, rows: i64| {
        let row = dtile::shape(value)?.get(1..).map_or(0, product);
        Ok::<_, String>(row.saturating_mul(usize::try_from(rows).unwrap_or_default()))
    };
    Ok(Some(match instruction {
        Instruction::Load(load) => Work::Transfer { words: elements(load.into)? },
        Instruction::Store(store) => Work::Transfer { words: rows(store.strip, store.rows)? },
        Instruction::SystolicConv(conv) => {
            let (input, weight) = (dtile::shape(conv.input)?, dtile::shape(conv.weight)?);
            let output = dtile::shape(conv.into)?;
            let pixels = output.get(..2).map_or(0, product);
            let shape = match (conv.kind.as_str(), input.as_slice(), weight.as_slice()) {
                ("pointwise", [_, _, channels], _) => ConvShape {
                    pixels,
                    reduction: *channels,
                    filters: output.last().copied().unwrap_or_default(),
                    groups: 1,
                },
                ("depthwise", [_, _, channels], [height, width, ..]) => {
                    ConvShape { pixels, reduction: height.saturating_mul(*width), filters: 1, groups: *channels }
                }
                _ => return Err(format!("a convolution of kind {:?}", conv.kind)),
            };
            Work::Convolution { shape, mapping: conv_mapping(&conv.cores, &conv.order)? }
        }
        Instruction::SystolicConvPair(pair) => {
            let (input, output) = (dtile::shape(pair.input)?, dtile::shape(pair.first_into)?);
            let shape = ConvShape {
                pixels: output.get(..2).map_or(0, product),
                reduction: input.last().copied().unwrap_or_default(),
                filters: output.last().map_or(0, |filters| filters.saturating_mul(2)),
                groups: 1,
            };
            Work::Convolution { shape, mapping: conv_mapping(&pair.cores, &pair.order)? }
        }
        Instruction::LeakyRelu(relu) => Work::LeakyRelu { elements: elements(relu.input)? },
        Instruction::Affine(affine) => Work::Affine { elements: rows(affine.input, affine.rows)? },
        Instruction::NoiseCancel(cancel) => {
            let noise = cancel.noise.first().ok_or("a cancellation of nothing")?;
            let (mean, sigma) = (cancel.mean().is_some(), cancel.drawn().is_some());
            Work::NoiseCancellation { elements: elements(*noise)?, mean, sigma }
        }
        Instruction::Launch(_)
        | Instruction::WeightAlloc(_)
        | Instruction::ActivationAlloc(_)
        | Instruction::Phase(_)
        | Instruction::Lfsr(_)
        | Instruction::BoxMuller(_) => return Ok(None),
    }))
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, size| product.saturating_mul(*size))
}

fn conv_mapping(cores: &[i64], order: &str) -> Result<ConvMapping, String> {
    match (cores, Order::from_name(order)) {
        ([pixel, filter], Some(order)) if *pixel > 0 && *filter > 0 => {
            Ok(ConvMapping { pixel_groups: *pixel as usize, filter_groups: *filter as usize, order })
        }
        _ => Err(format!("cores {cores:?} in order {order:?}")),
    }
}

/// A program's schedule: a phase has the operation that it starts before (none for the loading of weights), a buffer its allocation.
pub type ProgramSchedule<'c, 'a> = Schedule<Option<OperationRef<'c, 'a>>, OperationRef<'c, 'a>>;

/// The schedule of a program's instructions as they stand, whose weights are brought along in a first phase if they have words.
///
/// Every instruction is a phase of its own, except that the LFSRs, the converter and the cancellation they feed are one.
pub fn of_program<'c, 'a>(
    hardware: &Hardware,
    program: OperationRef<'c, 'a>,
    weight_load_words: usize,
) -> Result<ProgramSchedule<'c, 'a>, Diagnostic> {
    let mut schedule = Schedule::default();
    if weight_load_words > 0 {
        let work = Work::LoadWeights { words: weight_load_words };
        schedule.push(hardware, None, work, Default::default());
    }
    // The operations of a cancellation wait for its last.
    let mut pending: Option<OperationRef<'c, 'a>> = None;
    for operation in ir::entry_block(program).map(ir::block_ops).unwrap_or_default() {
        let refused = |message: String| Diagnostic::at(operation.location(), message);
        let Some(instruction) = Instruction::parse(operation).map_err(refused)? else {
            continue;
        };
        if let Instruction::ActivationAlloc(alloc) = &instruction {
            schedule.buffer(usize::try_from(alloc.bytes).unwrap_or_default(), operation);
        }
        if let Some(work) = work(&instruction).map_err(refused)? {
            let (reads, writes) = instruction.accesses();
            let buffers = [reads, writes].map(|values| {
                let allocations = values.into_iter().filter_map(dtile::buffer);
                let number = |allocation| schedule.buffers.iter().position(|buffer| buffer.is == allocation);
                // Weights are no buffers of the activation memory.
                allocations.filter_map(number).collect()
            });
            schedule.push(hardware, Some(pending.take().unwrap_or(operation)), work, buffers);
        } else if instruction.unit().is_some() {
            pending.get_or_insert(operation);
        }
    }
    Ok(schedule)
}
