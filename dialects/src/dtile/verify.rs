//! Checks what IRDL cannot state of dtile programs and launches.

use super::{
    ACTIVATION_MEMORY, CYCLES, Instruction, LAYER, Phase, SystolicConv, SystolicConvPair, Unit, WEIGHT_LOAD,
    WEIGHT_MEMORY, buffer, element_width, programs, sample_shape, shape, tensor_bytes,
};
use crate::{diagnostic::Diagnostic, ir};
use melior::ir::{BlockLike, Module, OperationRef, RegionLike, Value, ValueLike, operation::OperationLike};
use std::collections::BTreeMap;

/// Checks the dtile programs and launches of a module; returns every violation.
///
/// Shapes; buffer sizes and, once scheduled, addresses (inside the memory, live buffers disjoint); no read of a value that
/// was overwritten in its buffer; phases in order, without gaps, one unit at a time; LFSR draws without gaps.
pub fn verify(module: &Module<'_>) -> Result<(), Vec<Diagnostic>> {
    let mut violations = Vec::new();
    let programs = programs(module);
    let mut weights = Vec::new();
    for program in &programs {
        let mut walk = Walk::new(*program);
        let ended = walk.program();
        walk.violations.extend(ended.err());
        let found = walk.violations.into_iter();
        violations.extend(found.map(|Diagnostic { location, message }| Diagnostic {
            location,
            message: format!("dtile program @{}: {message}", walk.name),
        }));
        weights.extend(walk.weights);
    }
    weights.sort_by(|a: &Weight<'_, '_>, b| (&a.space, a.range, &a.program).cmp(&(&b.space, b.range, &b.program)));
    for pair in weights.windows(2) {
        let [first, second] = [&pair[0], &pair[1]];
        if first.space == second.space && first.range.1 > second.range.0 {
            violations.push(Diagnostic::at(
                second.operation.location(),
                format!(
                    "the weights of @{} and @{} overlap at address {} of the weight memory",
                    first.program, second.program, second.range.0
                ),
            ));
        }
    }
    let main = ir::main_function(module).and_then(ir::entry_block);
    for operation in main.map(ir::block_ops).unwrap_or_default() {
        if let Err(message) = launch(operation, &programs) {
            violations.push(Diagnostic::at(operation.location(), message));
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

fn launch(operation: OperationRef<'_, '_>, programs: &[OperationRef<'_, '_>]) -> Result<(), String> {
    let Some(Instruction::Launch(launch)) = Instruction::parse(operation)? else {
        return Ok(());
    };
    let at = format!("dtile.launch of layer {}", launch.layer);
    let program = programs
        .iter()
        .find(|program| ir::string_attr(program, "sym_name").as_deref() == Some(&launch.program.0))
        .ok_or_else(|| format!("{at}: no dtile program @{}", launch.program.0))?;
    if ir::string_attr(program, LAYER).as_deref() != Some(&launch.layer) {
        return Err(format!("{at}: @{} is of another layer", launch.program.0));
    }
    let block = ir::entry_block(*program).ok_or_else(|| format!("{at}: the program is empty"))?;
    let argument = block.argument(0).map_err(|_| format!("{at}: the program has no argument"))?;
    let wanted: usize = shape(argument.into())?.iter().product();
    let sample: Option<usize> = sample_shape(launch.input.r#type()).map(|shape| shape.iter().product());
    if sample != Some(wanted) || launch.types.first() != Some(&launch.input.r#type()) {
        return Err(format!("{at}: {} does not fit the program's {wanted} words per sample", launch.input.r#type()));
    }
    Ok(())
}

fn ensure<E>(condition: bool, error: impl FnOnce() -> E) -> Result<(), E> {
    if condition { Ok(()) } else { Err(error()) }
}

fn rank3(value: Value<'_, '_>, what: &str) -> Result<[usize; 3], String> {
    <[usize; 3]>::try_from(shape(value)?)
        .map_err(|shape| format!("{what} is {shape:?}, rows x columns x channels are wanted"))
}

/// Rows or channels from `first` on, inside `of`.
fn inside(first: i64, count: usize, of: usize) -> Result<(), String> {
    ensure(usize::try_from(first).is_ok_and(|first| first.saturating_add(count) <= of), || {
        format!("rows {first} to {} of {of}", first.saturating_add(count as i64))
    })
}

/// A size that may be negative in the IR, and then fits nowhere.
fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX / 2)
}

fn on_cores(cores: &[i64], order: &str, partials: usize) -> Result<(), String> {
    ensure(cores.len() == 2 && cores.iter().all(|n| *n > 0), || {
        format!("cores {cores:?}: [pixel groups, filter groups] are wanted")
    })?;
    match (order, partials) {
        ("accumulate", 0) | ("spill", 1) => Ok(()),
        _ => Err(format!("order {order:?} with {partials} buffers for partial sums")),
    }
}

/// Operand shapes, attribute ranges and sizes of one operation.
fn shapes(instruction: &Instruction<'_, '_>) -> Result<(), String> {
    match instruction {
        Instruction::WeightAlloc(alloc) => {
            let bytes = tensor_bytes(alloc.value.r#type());
            ensure(
                element_width(alloc.value.r#type()) == Some(16) && bytes == usize::try_from(alloc.bytes).ok(),
                || format!("{} bytes for {}", alloc.bytes, alloc.value.r#type()),
            )
        }
        Instruction::ActivationAlloc(alloc) => {
            let bytes = alloc.types.first().and_then(|r#type| tensor_bytes(*r#type));
            ensure(bytes.is_some() && bytes == usize::try_from(alloc.bytes).ok(), || {
                format!("{} bytes for a buffer of {bytes:?}", alloc.bytes)
            })
        }
        Instruction::Load(load) => {
            let (source, into) = (rank3(load.source, "source")?, rank3(load.into, "into")?);
            ensure(source[1..] == into[1..], || format!("{into:?} of {source:?}: whole rows are wanted"))?;
            inside(load.first_row, into[0], source[0])
        }
        Instruction::Store(store) => {
            let (strip, output) = (rank3(store.strip, "strip")?, rank3(store.output, "output")?);
            let count = size(store.rows);
            ensure(strip[1..] == output[1..], || format!("{strip:?} into {output:?}: whole rows are wanted"))?;
            inside(store.strip_row, count, strip[0])?;
            inside(store.first_row, count, output[0])
        }
        Instruction::SystolicConv(conv) => convolution(conv),
        Instruction::SystolicConvPair(pair) => convolution_pair(pair),
        Instruction::LeakyRelu(relu) => {
            rank3(relu.input, "input")?;
            ensure((1..16).contains(&relu.shift), || format!("shift {}", relu.shift))
        }
        Instruction::Affine(affine) => {
            let input = rank3(affine.input, "input")?;
            let count = size(affine.rows);
            inside(affine.first_row, count, input[0])?;
            ensure(shape(affine.scale)? == [input[2]] && shape(affine.shift)? == [input[2]], || {
                format!("one scale and one shift per channel of {input:?} are wanted")
            })
        }
        Instruction::Lfsr(lfsr) => {
            let width = lfsr.types.first().and_then(|r#type| element_width(*r#type));
            ensure(
                width.map(i64::from) == Some(lfsr.width)
                    && lfsr.taps.first() == Some(&lfsr.width)
                    && lfsr.taps.windows(2).all(|pair| pair[0] > pair[1])
                    && lfsr.taps.last() > Some(&0)
                    && !lfsr.seeds.is_empty()
                    && lfsr.seeds.iter().all(|seed| *seed != 0)
                    && (1..=4096).contains(&lfsr.shifts_per_draw),
                || format!("width {}, taps {:?}, seeds {:?}", lfsr.width, lfsr.taps, lfsr.seeds),
            )
        }
        Instruction::BoxMuller(unit) => {
            let result: Option<Vec<usize>> =
                unit.types.first().and_then(|r#type| ir::tensor_shape(*r#type)?.into_iter().collect());
            let result = result.unwrap_or_default();
            ensure(
                shape(unit.first)? == result
                    && element_width(unit.first.r#type()).map(i64::from) == Some(unit.width)
                    && unit.first.r#type() == unit.second.r#type(),
                || format!("{} to {result:?}", unit.first.r#type()),
            )
        }
        Instruction::NoiseCancel(cancel) => {
            let input = rank3(cancel.input, "input")?;
            let noise: Vec<[usize; 3]> =
                cancel.noise.iter().map(|noise| rank3(*noise, "noise")).collect::<Result<_, _>>()?;
            let (first, alike) =
                (noise.first().copied().unwrap_or_default(), noise.windows(2).all(|pair| pair[0] == pair[1]));
            inside(cancel.first_row, first[0], input[0])?;
            inside(cancel.first_channel, first[2], input[2])?;
            ensure(alike && input[1] == first[1] && (1..=3).contains(&noise.len()) && cancel.lanes > 0, || {
                format!("noise {noise:?} of {input:?}, {} lanes", cancel.lanes)
            })
        }
        Instruction::Launch(_) | Instruction::Phase(_) => Ok(()),
    }
}

fn convolution(conv: &SystolicConv<'_, '_>) -> Result<(), String> {
    on_cores(&conv.cores, &conv.order, conv.partials.len())?;
    let (input, into) = (rank3(conv.input, "input")?, rank3(conv.into, "into")?);
    let (weight, bias) = (shape(conv.weight)?, shape(conv.bias)?);
    let first = size(conv.first_filter);
    let pad: Vec<usize> =
        conv.pad.iter().filter_map(|pad| usize::try_from(*pad).ok().filter(|pad| *pad < 1 << 20)).collect();
    let fits = match (conv.kind.as_str(), &weight[..], &pad[..]) {
        ("pointwise", [filters, 1, 1, channels], [0, 0, 0, 0]) => {
            *channels == input[2] && bias == [*filters] && first + into[2] <= *filters && into[1] == input[1]
        }
        ("depthwise", [_, width, channels, 1], [_, _, left, right]) => {
            first == 0
                && *channels == input[2]
                && *channels == into[2]
                && bias == [*channels]
                && (input[1] + left + right).checked_sub(*width) == into[1].checked_sub(1)
        }
        _ => false,
    };
    ensure(fits && conv.input_rows(into[0])?.end <= input[0], || {
        format!(
            "{} of {input:?} with weight {weight:?}, bias {bias:?}, pad {:?}, first filter {} into {into:?}",
            conv.kind, conv.pad, conv.first_filter
        )
    })
}

fn convolution_pair(pair: &SystolicConvPair<'_, '_>) -> Result<(), String> {
    on_cores(&pair.cores, &pair.order, pair.partials.len())?;
    let input = rank3(pair.input, "input")?;
    let into = rank3(pair.first_into, "into")?;
    let (weight, bias) = (shape(pair.first_weight)?, shape(pair.first_bias)?);
    let first = size(pair.first_filter);
    let fits = matches!(weight[..], [filters, 1, 1, channels]
        if channels == input[2] && bias == [filters] && first + into[2] <= filters)
        && into[1] == input[1]
        && pair.input_rows(into[0])?.end <= input[0]
        && pair.first_into.r#type() == pair.second_into.r#type()
        && pair.first_weight.r#type() == pair.second_weight.r#type()
        && [&pair.weight_fractions, &pair.bias_fractions, &pair.output_fractions]
            .iter()
            .all(|fractions| fractions.len() == 2);
    ensure(fits, || format!("heads {weight:?} on {input:?} into {into:?} do not fit"))
}

/// Fractions for which no alignment overflows.
fn fractions(operation: &OperationRef<'_, '_>) -> Result<(), String> {
    for (name, attribute) in operation.attributes() {
        let name = name.as_string_ref().as_str().unwrap_or_default();
        let found = match ir::as_i64(attribute) {
            Some(fraction) => vec![fraction],
            None => ir::i64s_attr(operation, name).unwrap_or_default(),
        };
        let inside = found.iter().all(|fraction| (-62..=62).contains(fraction));
        ensure(!name.contains("fraction") || inside, || format!("`{name}` is {found:?}, -62 to 62 are allowed"))?;
    }
    Ok(())
}

/// A weight's bytes in the weight memory; programs that bring their weights along take turns in it, so that each has a
/// space of its own.
struct Weight<'c, 'a> {
    space: String,
    range: (i64, i64),
    program: String,
    operation: OperationRef<'c, 'a>,
}

/// A buffer of the activation memory while the program is walked.
struct Live<'c, 'a> {
    operation: OperationRef<'c, 'a>,
    allocated: Value<'c, 'a>,
    range: Option<(i64, i64)>,
    holds: Value<'c, 'a>,
    first: usize,
    last: usize,
}

/// A walk through a program.
struct Walk<'c, 'a> {
    program: OperationRef<'c, 'a>,
    name: String,
    scheduled: bool,
    weights: Vec<Weight<'c, 'a>>,
    live: Vec<Live<'c, 'a>>,
    /// The words that the lanes with these seeds have drawn.
    draws: BTreeMap<Vec<i64>, i64>,
    clock: i64,
    phases: i64,
    unit: Option<Unit>,
    violations: Vec<Diagnostic>,
}

/// An operation of a program and its place there.
#[derive(Clone, Copy)]
struct Visited<'c, 'a> {
    operation: OperationRef<'c, 'a>,
    position: usize,
}

impl Visited<'_, '_> {
    fn at(&self, message: String) -> Diagnostic {
        let op = ir::op_name(&self.operation);
        Diagnostic::at(self.operation.location(), format!("{op} (operation {}): {message}", self.position))
    }
}

impl<'c, 'a> Walk<'c, 'a> {
    fn new(program: OperationRef<'c, 'a>) -> Self {
        Self {
            program,
            name: ir::string_attr(&program, "sym_name").unwrap_or_default(),
            scheduled: false,
            weights: Vec::new(),
            live: Vec::new(),
            draws: BTreeMap::new(),
            clock: 0,
            phases: 0,
            unit: None,
            violations: Vec::new(),
        }
    }

    /// Walks it; what is wrong is in `violations`, or returned where the walk ends.
    fn program(&mut self) -> Result<(), Diagnostic> {
        let program = self.program;
        let at = |message: String| Diagnostic::at(program.location(), message);
        for key in [WEIGHT_MEMORY, ACTIVATION_MEMORY] {
            ensure(self.capacity(key) > 0, || at(format!("lacks the attribute `{key}`")))?;
        }
        let region = program.region(0).ok();
        let block = region.as_ref().and_then(|region| region.first_block());
        let straight = block.is_some_and(|block| block.next_in_region().is_none());
        ensure(straight, || at("is not a straight-line program".to_owned()))?;
        let operations = ir::entry_block(program).map(ir::block_ops).unwrap_or_default();
        self.scheduled = operations.iter().any(|operation| ir::op_name(operation) == Phase::MNEMONIC);
        for (position, operation) in operations.into_iter().enumerate() {
            if ir::op_name(&operation).starts_with("dtile.") {
                self.operation(Visited { operation, position })?;
            }
        }
        self.overlaps();
        if self.scheduled {
            let clock = self.clock;
            ensure(ir::i64_attr(&program, CYCLES) == Some(clock), || {
                at(format!("`{CYCLES}` is not the phases' sum {clock}"))
            })?;
        }
        Ok(())
    }

    /// A memory's size in bytes; 0 where the program does not say.
    fn capacity(&self, key: &str) -> i64 {
        ir::i64_attr(&self.program, key).unwrap_or_default()
    }

    fn operation(&mut self, visited: Visited<'c, 'a>) -> Result<(), Diagnostic> {
        let operation = visited.operation;
        let Some(instruction) = Instruction::parse(operation).map_err(|message| visited.at(message))? else {
            return Ok(());
        };
        shapes(&instruction).map_err(|message| visited.at(message))?;
        fractions(&operation).map_err(|message| visited.at(message))?;
        match &instruction {
            Instruction::WeightAlloc(alloc) => {
                if let Some(range) = self.range(visited, alloc.address, alloc.bytes, WEIGHT_MEMORY, "weight")? {
                    let resident = ir::i64_attr(&self.program, WEIGHT_LOAD).unwrap_or_default() == 0;
                    let space = if resident { String::new() } else { self.name.clone() };
                    self.weights.push(Weight { space, range, program: self.name.clone(), operation });
                }
            }
            Instruction::ActivationAlloc(alloc) => {
                let range = self.range(visited, alloc.address, alloc.bytes, ACTIVATION_MEMORY, "activation")?;
                if let Ok(buffer) = operation.result(0).map(Value::from) {
                    let live = Live { operation, allocated: buffer, range, holds: buffer, first: usize::MAX, last: 0 };
                    self.live.push(live);
                }
            }
            Instruction::Phase(phase) => self.phase(visited, phase)?,
            Instruction::Lfsr(lfsr) => {
                let words = operation.result(0).ok().and_then(|words| shape(words.into()).ok());
                let elements = words.map_or(0, |shape| shape.iter().product::<usize>());
                let drawn = self.draws.entry(lfsr.seeds.clone()).or_default();
                ensure(lfsr.first_draw == *drawn, || {
                    visited.at(format!("starts at draw {}, {drawn} are due", lfsr.first_draw))
                })?;
                *drawn += elements.div_ceil(lfsr.seeds.len().max(1)) as i64;
            }
            Instruction::Launch(_) => self.violations.push(visited.at("inside a program".to_owned())),
            Instruction::Load(_)
            | Instruction::Store(_)
            | Instruction::SystolicConv(_)
            | Instruction::SystolicConvPair(_)
            | Instruction::LeakyRelu(_)
            | Instruction::Affine(_)
            | Instruction::BoxMuller(_)
            | Instruction::NoiseCancel(_) => {}
        }
        if self.scheduled
            && let Some(wanted) = instruction.unit()
        {
            let unit = self.unit;
            ensure(unit == Some(wanted), || {
                let enabled = unit.map_or("", Unit::name);
                visited.at(format!("runs on {}, but the phase enables {enabled:?}", wanted.name()))
            })?;
        }
        self.accesses(visited, &instruction)
    }

    /// The bytes of an allocation, once it has an address.
    fn range(
        &mut self,
        visited: Visited<'c, 'a>,
        address: Option<i64>,
        bytes: i64,
        memory: &str,
        kind: &str,
    ) -> Result<Option<(i64, i64)>, Diagnostic> {
        let Some(address) = address else {
            if self.scheduled {
                self.violations.push(visited.at("has no address".to_owned()));
            }
            return Ok(None);
        };
        let (end, capacity) = (address.saturating_add(bytes), self.capacity(memory));
        ensure(address >= 0 && end <= capacity, || {
            visited.at(format!("bytes {address} to {end} are not in the {kind} memory of {capacity}"))
        })?;
        Ok(Some((address, end)))
    }

    fn phase(&mut self, visited: Visited<'c, 'a>, phase: &Phase<'c, 'a>) -> Result<(), Diagnostic> {
        let unit = Unit::from_name(&phase.unit);
        ensure(unit.is_some(), || visited.at(format!("no unit `{}`", phase.unit)))?;
        ensure(phase.index == self.phases && phase.start == self.clock, || {
            visited.at(format!(
                "phase {} at cycle {} where phase {} at cycle {} is due",
                phase.index, phase.start, self.phases, self.clock
            ))
        })?;
        ensure(phase.cycles > 0, || visited.at("takes no cycles".to_owned()))?;
        self.phases += 1;
        self.clock = self.clock.saturating_add(phase.cycles);
        self.unit = unit;
        Ok(())
    }

    /// Which buffers an operation touches, and whether what it reads is still there.
    fn accesses(&mut self, visited: Visited<'c, 'a>, instruction: &Instruction<'c, 'a>) -> Result<(), Diagnostic> {
        let (reads, writes) = instruction.accesses();
        let mut written = Vec::new();
        for (value, is_read) in reads.iter().map(|value| (value, true)).chain(writes.iter().map(|value| (value, false)))
        {
            let Some(alloc) = buffer(*value) else {
                return Err(visited.at("an operand is in no buffer".to_owned()));
            };
            let allocated = alloc.result(0).ok().map(Value::from);
            let Some(index) = self.live.iter().position(|live| Some(live.allocated) == allocated) else {
                continue; // a weight
            };
            let buffer = &mut self.live[index];
            ensure(!is_read || buffer.holds == *value, || {
                visited.at("reads a value that was overwritten in its buffer".to_owned())
            })?;
            buffer.first = buffer.first.min(visited.position);
            buffer.last = visited.position;
            if !is_read {
                written.push(index);
            }
        }
        for (result, index) in visited.operation.results().zip(written) {
            self.live[index].holds = result.into();
        }
        Ok(())
    }

    /// Buffers that are in use at once share no byte.
    fn overlaps(&mut self) {
        for (index, one) in self.live.iter().enumerate() {
            for other in &self.live[..index] {
                let at_once = one.first <= other.last && other.first <= one.last;
                if let (true, Some(a), Some(b)) = (at_once, one.range, other.range)
                    && a.0 < b.1
                    && b.0 < a.1
                {
                    self.violations.push(Diagnostic::at(
                        one.operation.location(),
                        format!(
                            "buffers at {} and {} of the activation memory overlap while both are in use",
                            a.0, b.0
                        ),
                    ));
                }
            }
        }
    }
}
