//! A program as bytes: the messages of `runtime/proto/program.proto`, written out so that building needs no `protoc`, and the
//! conversions from and to a [`Program`](super::Program).
//!
//! The weights are not in it: a constant that is a weight of the package goes by its name. Words stand for enumerations.

use super::{Builder, DType, Execution, ProgramError, ValueId, wrong};
use crate::{
    ops::operator::show,
    program,
    store::{Weight, WeightStore},
};
use mxc_spec::noise::LayerNoise;
use std::collections::{BTreeMap, BTreeSet};

mod message;
mod operator;

pub use message::*;
use operator::Word;

/// The values of a constant that is the stored weight's, in a message: as they are, or transposed as a matrix of so many rows.
fn stored(value: &program::Value, weight: &Weight, weights: &WeightStore) -> Option<u64> {
    let found = weights.get(&value.name).filter(|_| !value.name.is_empty() && value.dtype == DType::F32)?;
    if found.same_values(weight) {
        return Some(0);
    }
    // What the loader rearranges: depthwise HWCM → [C·M, H, W, 1], matmul [1, I, O] → [O, I].
    let columns = *weight.shape().first()?;
    let rows = weight.len().checked_div(columns)?;
    // Fills are the same in every order, which the above has found.
    if found.len() != weight.len() || rows == 0 || found.unwritten() > 0 || weight.unwritten() > 0 {
        return None;
    }
    let transposed = weight.values().chunks_exact(rows).enumerate().all(|(column, values)| {
        let stored = found.values()[column..].iter().step_by(columns);
        values.iter().zip(stored).all(|(value, stored)| value.to_bits() == stored.to_bits())
    });
    transposed.then_some(rows as u64)
}

impl Program {
    /// A program as a message. The same program gives the same message.
    ///
    /// `weights` are those that [`Program::read`] will get: constants that hold the values of the weight of their name are
    /// not written out. A program with a [`DenoiseTile`](super::DenoiseTile) is refused: packages are at the denoise level, and
    /// what runs on the tile is compiled from there.
    pub fn new(program: &program::Program, weights: &WeightStore) -> Result<Self, ProgramError> {
        let mut nodes = program.nodes.iter();
        let mut inputs = program.inputs.iter().peekable();
        let mut values = Vec::with_capacity(program.values.len());
        for (id, value) in program.values.iter().enumerate() {
            // An output has got its name from being one.
            let name = if program.outputs.contains(&id) { String::new() } else { value.name.clone() };
            let kind = value.dtype.word().to_owned();
            let what = if let Some(weight) = &value.constant {
                let values = match stored(value, weight, weights) {
                    Some(rows) => constant::Values::Stored(rows),
                    None if weight.unwritten() > 0 => constant::Values::Fill(weight.repeated().unwrap_or_default()),
                    None => constant::Values::Words(
                        weight.values().iter().flat_map(|value| value.to_bits().to_le_bytes()).collect(),
                    ),
                };
                let shape = value.sample.iter().map(|&size| size as u64).collect();
                value::What::Constant(Constant { name, kind, shape, trainable: value.trainable, values: Some(values) })
            } else if inputs.next_if_eq(&&id).is_some() {
                value::What::Input(Input { name, kind, shape: operator::from_shape(&value.shape) })
            } else {
                let Some(node) = nodes.next().filter(|node| node.output == id) else {
                    return wrong("the program", format!("nothing computes value {id}"));
                };
                let inputs = node.inputs.iter().map(|&id| id as u64).collect();
                value::What::Node(Node { inputs, operator: Some(operator::from_op(&node.op)?) })
            };
            values.push(Value { what: Some(what) });
        }
        let layers = program.layers.iter().map(|layer| Layer {
            name: layer.name.clone(),
            channels: layer.channels as u64,
            noise_spec: layer.noise.spec.to_string(),
            noise_scale: layer.noise.scale.to_string(),
            noise_reference: layer.noise.reference.to_string(),
            calibration: layer.calibration.map(from_calibration),
            columns: layer.columns.as_ref().map(|columns| Columns {
                shift: columns.shift.iter().map(|&shift| u32::from(shift.unsigned_abs())).collect(),
                calibration: Some(from_calibration(columns.calibration)),
            }),
            reads: match layer.execution {
                Execution::Analog { reads } => Some(reads).filter(|&reads| reads > 1),
                Execution::Digital => None,
            },
            digital: layer.execution == Execution::Digital,
            input_range: layer.input_range,
        });
        let outputs = program.outputs.iter();
        let outputs = outputs.map(|&id| Output { value: id as u64, name: program.values[id].name.clone() }).collect();
        let logits = |&id: &ValueId| program.before_softmax(id).unwrap_or(id) == program.logits;
        let Some(chosen) = program.outputs.iter().position(logits) else {
            return wrong("the program", "its logits are of no output");
        };
        let task = program.task.to_string();
        Ok(Self { layers: layers.collect(), values, outputs, chosen: chosen as u64, task })
    }

    /// The program that the message says, its weights taken from `weights`. Whatever the message holds, what this returns can
    /// be planned as what is read from a module can: the first thing that is wrong is an error.
    pub fn read(&self, weights: &WeightStore) -> Result<program::Program, ProgramError> {
        let mut reader = Reader {
            weights,
            builder: Builder::new(),
            batched: None,
            transposed: BTreeMap::new(),
            copies: weights.parameters().saturating_mul(2),
            trainable: BTreeSet::new(),
            layers: Vec::new(),
        };
        reader.builder.task(self.task.parse().or_else(|error| wrong("the program", format!("{error}")))?);
        self.layers.iter().try_for_each(|layer| reader.layer(layer))?;
        for (id, value) in self.values.iter().enumerate() {
            match &value.what {
                Some(value::What::Input(input)) => reader.input(input)?,
                Some(value::What::Constant(constant)) => reader.constant(constant)?,
                Some(value::What::Node(node)) => reader.node(node)?,
                None => return wrong(format!("value {id}"), "it is neither input, constant nor result"),
            };
        }
        if let Some(unused) = reader.layers.iter().position(|used| !used) {
            return wrong(format!("layer `{}`", self.layers[unused].name), "no operation runs on it");
        }
        for output in &self.outputs {
            let id =
                operator::size(output.value).or_else(|reason| wrong(format!("output `{}`", output.name), reason))?;
            let value = reader.builder.known(&format!("output `{}`", output.name), id)?;
            if reader.is_batched() && value.shape.first() != Some(&None) {
                return wrong(format!("output `{}`", output.name), "it has no batch");
            }
            reader.builder.output(id, &output.name)?;
        }
        let chosen = operator::size(self.chosen).or_else(|reason| wrong("the program", reason))?;
        reader.builder.finish(chosen)
    }
}

fn from_calibration(measured: program::Calibration) -> Calibration {
    let program::Calibration { samples, rms, absmax, mean_abs, std, input_absmax } = measured;
    Calibration { samples, rms, absmax, mean_abs, std, input_absmax }
}

fn to_calibration(measured: &Calibration) -> program::Calibration {
    let Calibration { samples, rms, absmax, mean_abs, std, input_absmax } = *measured;
    program::Calibration { samples, rms, absmax, mean_abs, std, input_absmax }
}

/// The state of reading a message.
struct Reader<'a> {
    weights: &'a WeightStore,
    builder: Builder,
    /// Whether inputs have a batch, once there is one.
    batched: Option<bool>,
    /// Transposed weights, so that a weight that appears again takes no memory again.
    transposed: BTreeMap<(&'a str, usize), Weight>,
    /// The numbers that may be copied to transpose weights yet: a small message could ask for any number of copies.
    copies: usize,
    /// The names of trainable constants: fine-tuning stores them by name.
    trainable: BTreeSet<&'a str>,
    /// Whether an operation runs on each layer.
    layers: Vec<bool>,
}

impl<'a> Reader<'a> {
    fn is_batched(&self) -> bool {
        self.batched == Some(true)
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), ProgramError> {
        let what = || format!("layer `{}`", layer.name);
        let noise = || {
            let spec = layer.noise_spec.parse()?;
            Ok(LayerNoise { spec, scale: layer.noise_scale.parse()?, reference: layer.noise_reference.parse()? })
        };
        let noise = noise().or_else(|error: mxc_spec::noise::NoiseError| wrong(what(), error.to_string()))?;
        let channels = operator::size(layer.channels).or_else(|reason| wrong(what(), reason))?;
        let calibration = layer.calibration.as_ref().map(to_calibration);
        let columns = match &layer.columns {
            None => None,
            Some(columns) => {
                let shifts = columns.shift.iter().map(|&shift| i8::try_from(shift));
                let shift =
                    shifts.collect::<Result<_, _>>().or_else(|_| wrong(what(), "a column shift is too large"))?;
                let Some(calibration) = columns.calibration.as_ref().map(to_calibration) else {
                    return wrong(what(), "its columns have no calibration");
                };
                Some(program::Columns { shift, calibration })
            }
        };
        let execution = match (layer.digital, layer.reads) {
            (false, reads) => Execution::Analog { reads: reads.unwrap_or(1) },
            (true, None) => Execution::Digital,
            (true, Some(_)) => return wrong(what(), "it is computed digitally, and read"),
        };
        let (name, input_range) = (layer.name.clone(), layer.input_range);
        self.builder.layer(program::Layer { name, channels, noise, calibration, columns, input_range, execution })?;
        self.layers.push(false);
        Ok(())
    }

    fn input(&mut self, input: &Input) -> Result<ValueId, ProgramError> {
        let what = || format!("input `{}`", input.name);
        let dtype = DType::of(&input.kind).or_else(|reason| wrong(what(), reason))?;
        let shape = operator::to_shape(&input.shape).or_else(|reason| wrong(what(), reason))?;
        let batched = shape.first() == Some(&None);
        if *self.batched.get_or_insert(batched) != batched {
            return wrong(what(), "of the inputs, some have a batch and some have none");
        }
        if shape.contains(&Some(0)) {
            return wrong(what(), "it is empty");
        }
        self.builder.input(&input.name, dtype, shape)
    }

    fn constant(&mut self, constant: &'a Constant) -> Result<ValueId, ProgramError> {
        let name = constant.name.as_str();
        let what = || format!("constant `{name}`");
        let fail = |reason: String| ProgramError { what: what(), reason };
        let dtype = DType::of(&constant.kind).map_err(fail)?;
        let shape: Vec<usize> =
            constant.shape.iter().map(|&size| operator::size(size)).collect::<Result<_, _>>().map_err(fail)?;
        let len = shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
        let len = len.ok_or_else(|| fail(format!("its shape {shape:?} is too large")))?;
        if constant.trainable && (name.is_empty() || !self.trainable.insert(name)) {
            return wrong(what(), "a trainable constant must have a name of its own");
        }
        let misfit = |found: usize| fail(format!("it has {found} words, which do not fit its shape {shape:?}"));
        let weight = match (&constant.values, dtype) {
            (Some(constant::Values::Words(bytes)), _) => {
                let (chunks, rest) = bytes.as_chunks::<4>();
                let words: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
                if len.checked_mul(dtype.words()) != Some(words.len()) || !rest.is_empty() {
                    return Err(misfit(words.len()));
                }
                if dtype != DType::F32 {
                    return match constant.trainable {
                        true => wrong(what(), "only floats can be trained"),
                        false => self.builder.integers(name, dtype, shape, &dtype.decode(&words)),
                    };
                }
                Weight::new(shape.clone(), words)
            }
            (Some(constant::Values::Fill(value)), DType::F32) => Weight::fill(shape.clone(), *value),
            (Some(constant::Values::Stored(rows)), DType::F32) => {
                let rows = operator::size(*rows).map_err(fail)?;
                self.stored(name, rows).map_err(fail)?.reshaped(shape.clone())
            }
            (Some(constant::Values::Fill(_) | constant::Values::Stored(_)), DType::I32 | DType::I64 | DType::Bool) => {
                return wrong(what(), "what is no float must hold its words");
            }
            (None, _) => return wrong(what(), "it has no values"),
        };
        let weight = weight.ok_or_else(|| fail(format!("its values do not fit its shape {shape:?}")))?;
        self.builder.constant(name, weight, constant.trainable)
    }

    /// A stored weight, transposed as a matrix of `rows` rows unless they are 0.
    fn stored(&mut self, name: &'a str, rows: usize) -> Result<Weight, String> {
        let weight = self.weights.get(name).ok_or("there is no weight of this name")?;
        if rows == 0 {
            return Ok(weight.clone());
        }
        if let Some(weight) = self.transposed.get(&(name, rows)) {
            return Ok(weight.clone());
        }
        let copied = if weight.unwritten() > 0 { 0 } else { weight.len() };
        self.copies = self.copies.checked_sub(copied).ok_or("weights are transposed in too many ways")?;
        let columns = weight.len() / rows;
        let transposed = weight.reshaped(vec![rows, columns]).and_then(|matrix| matrix.transposed(&[1, 0]));
        let transposed = transposed.ok_or_else(|| format!("its {} values are no {rows} rows", weight.len()))?;
        self.transposed.insert((name, rows), transposed.clone());
        Ok(transposed)
    }

    fn node(&mut self, node: &Node) -> Result<ValueId, ProgramError> {
        let what = || format!("operation {}", self.builder.program.nodes.len());
        let fail = |reason: String| ProgramError { what: what(), reason };
        let operator = node.operator.as_ref().ok_or_else(|| fail("it has no operator".to_owned()))?;
        let op = operator::to_op(operator).map_err(fail)?;
        let inputs: Vec<ValueId> =
            node.inputs.iter().map(|&id| operator::size(id)).collect::<Result<_, _>>().map_err(fail)?;
        if inputs.is_empty() {
            return wrong(op.name(), "it has no operands");
        }
        for &id in &inputs {
            self.builder.known(op.name(), id)?;
        }
        let values = &self.builder.program.values;
        let (analog, cleaned) = (op.analog_layer(), op.cleans());
        if (analog.is_some() || cleaned.is_some()) && values[inputs[0]].constant.is_some() {
            return wrong(op.name(), "its operand is a constant");
        }
        if cleaned.is_some_and(|layer| self.layers.get(layer) != Some(&true)) {
            return wrong(op.name(), "its layer does not come before it");
        }
        if cleaned.is_some() && inputs[1..].iter().any(|&id| !values[id].trainable) {
            return wrong(op.name(), "its weights must be trainable");
        }
        let name = op.name();
        let output = self.builder.node(op, &inputs)?;
        let value = self.builder.value(output);
        let batched = value.shape.first() == Some(&None);
        let dynamic = value.shape.iter().skip(1).any(Option::is_none);
        if batched != self.is_batched() || dynamic || value.shape.contains(&Some(0)) {
            return wrong(name, format!("its result {} is empty or has its batch elsewhere", show(&value.shape)));
        }
        if let Some(layer) = analog {
            let channels = value.shape.last().copied().flatten();
            let declared = self.builder.program.layers.get(layer).map(|layer| layer.channels);
            if channels != declared {
                return wrong(name, format!("its layer has not the channels of its result {}", show(&value.shape)));
            }
            if self.layers.get_mut(layer).is_none_or(|used| std::mem::replace(used, true)) {
                return wrong(name, "another operation runs on its layer");
            }
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests;
