//! Constants: a node whose inputs are all known is lowered like any other and run by the executor at import, whatever the
//! operator. What [`fold`] computes itself is the arithmetic on shapes, where integers depend on the batch size.

use super::call::{Call, Entry, Lowering, Operator};
use crate::import::{
    decode::Node,
    emit::{self, Activation, Emitter, element_type, logical},
    error::{ImportError, Problem, invalid, unsupported},
    fold,
    tensor::{Data, Dim, Element, Sym, Tensor, broadcast_shape},
};
use crate::load;
use melior::ir::{Block, BlockLike, Location, Module, Type, ValueLike};
use mxc_dialects::ir;
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode},
    program::DType,
    store::WeightStore,
};
use std::rc::Rc;

/// A node's inputs, all known; `None` where one is left out.
type Known = [Option<Rc<Tensor>>];

/// One number for each input of a node, and its result's shape.
type Fill = (Vec<Option<Rc<Tensor>>>, Vec<usize>);

/// What a node on constants makes.
type Made = Result<Vec<Rc<Tensor>>, Problem>;

impl Lowering<'_, '_, '_> {
    /// The outputs of a node whose inputs are all known, counted against the memory that constants may take.
    pub(super) fn constants(
        &mut self,
        (operator, node): (&'static Operator, &Node),
        name: &str,
        inputs: &Known,
        opset: i64,
    ) -> Made {
        let folded = match operator.fold {
            Some(fold) => fold.apply(node, inputs, opset, self.room())?,
            None => None,
        };
        let made = match folded {
            Some(made) => made,
            None => match fills(operator, inputs) {
                Some((scalars, shape)) => self
                    .executed((operator, node), name, &scalars, opset)?
                    .iter()
                    .map(|one| match one.repeated() {
                        Some(value) => Ok(Rc::new(Tensor::filled(shape.clone(), value))),
                        None => fold::spread(one, &shape, self.room()).map(Rc::new),
                    })
                    .collect::<Result<_, _>>()?,
                None => self.executed((operator, node), name, inputs, opset)?,
            },
        };
        let bytes = |tensors: &mut dyn Iterator<Item = &Rc<Tensor>>| tensors.map(|tensor| tensor.bytes()).sum::<u64>();
        let given = bytes(&mut inputs.iter().flatten());
        self.grow(bytes(&mut made.iter()).saturating_sub(given))?;
        Ok(made)
    }

    /// Runs a node. Which of its inputs its lowering takes as values and which as parameters that must be constants (axes,
    /// shapes, bounds) is the lowering's affair: the likely choices are tried in turn, and the first refusal tells why none
    /// will do.
    fn executed(
        &mut self,
        (operator, node): (&'static Operator, &Node),
        name: &str,
        inputs: &Known,
        opset: i64,
    ) -> Made {
        let mut written = Vec::with_capacity(inputs.len());
        for input in inputs {
            written.push(input.as_ref().map(|input| fold::written_out(input, self.room())).transpose()?);
        }
        if written.iter().flatten().any(|input| input.syms().is_some() && input.known_ints().is_none()) {
            return unsupported("it computes with the batch size in a way that mxc cannot follow");
        }
        let is_float = |index: usize| {
            written[index].as_ref().is_some_and(|input| input.data.element() == Element::F32 && input.len() > 0)
        };
        let given = |index: usize| written[index].as_ref().is_some_and(|input| input.len() > 0);
        let mut choices: Vec<Vec<usize>> = Vec::new();
        for choice in [
            (0..written.len()).filter(|&index| is_float(index) || index == 0 && given(0)).collect(),
            (0..written.len()).take(1).filter(|&index| given(index)).collect(),
            (0..written.len()).filter(|&index| is_float(index)).collect(),
            (0..written.len()).filter(|&index| given(index)).collect::<Vec<_>>(),
        ] {
            if !choices.contains(&choice) {
                choices.push(choice);
            }
        }
        let mut refused = None;
        for choice in choices {
            match self.run_once((operator, node), name, &written, &choice, opset) {
                Err(problem @ (Problem::Unsupported(_) | Problem::Invalid(_))) => {
                    refused.get_or_insert(problem);
                }
                made => return made,
            }
        }
        Err(refused.unwrap_or(Problem::Unsupported(None)))
    }

    /// Runs a node as a network of its own, whose inputs are the node's inputs numbered in `values`.
    fn run_once(
        &mut self,
        (operator, node): (&'static Operator, &Node),
        name: &str,
        inputs: &Known,
        values: &[usize],
        opset: i64,
    ) -> Made {
        let context = self.emit.context;
        let value = |index: &usize| inputs.get(*index).and_then(Option::as_ref);
        let given: Vec<&Rc<Tensor>> = values.iter().filter_map(value).collect();
        let types: Vec<Type> = given
            .iter()
            .map(|tensor| {
                let shape: Vec<_> = tensor.shape.iter().map(|&size| Some(size)).collect();
                ir::tensor_type(element_type(context, tensor.data.element()), &shape)
            })
            .collect();
        let arguments: Vec<_> = types.iter().map(|r#type| (*r#type, Location::unknown(context))).collect();
        let block = Block::new(&arguments);
        let mut inner = Lowering::new(Emitter::new(context, &block), self.model, None, self.room());
        let mut entries: Vec<_> = inputs.iter().map(|input| input.clone().map(Entry::Constant)).collect();
        for ((&index, tensor), &value) in values.iter().zip(&given).zip(inner.emit.arguments()) {
            let shape: Vec<_> = tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect();
            let order = logical(shape.len());
            entries[index] = Some(Entry::Activation(Activation { value, shape, order }));
        }
        let results = inner.lower(&Call { operator, node, name, inputs: entries, opset })?;
        let (mut returned, mut known) = (Vec::new(), Vec::new());
        for result in results {
            known.push(match result {
                Entry::Activation(activation) => {
                    returned.push(inner.emit.logical(&activation)?.value);
                    None
                }
                Entry::Constant(tensor) => Some(tensor),
                Entry::Unknown => return unsupported("one of its outputs is not computed"),
            });
        }
        inner.emit.r#return(&returned)?;
        let returned: Vec<_> = returned.iter().map(|value| value.r#type()).collect();
        let (globals, weights) = inner.emit.finish();
        let module = Module::new(Location::unknown(context));
        globals.into_iter().for_each(|global| {
            module.body().append_operation(global);
        });
        let names = vec![String::new(); types.len().max(returned.len())];
        let function = emit::main_function(
            context,
            block,
            (&types, &names[..types.len()]),
            (&returned, &names[..returned.len()]),
            true,
        )
        .map_err(ImportError::Invalid)?;
        module.body().append_operation(function);
        let mut made = self.results(&module, &weights, &given)?.into_iter();
        known
            .into_iter()
            .map(|known| match known.or_else(|| made.next()) {
                Some(tensor) => Ok(tensor),
                None => invalid("one of its outputs is missing"),
            })
            .collect()
    }

    /// What a network makes of constants.
    fn results(&self, module: &Module<'_>, weights: &WeightStore, given: &[&Rc<Tensor>]) -> Made {
        let program = load::program(module, weights).map_err(|error| Problem::Unsupported(Some(error.to_string())))?;
        // Everything that the run makes, at the most.
        let words = |shape: &[Option<usize>], dtype: DType| {
            shape.iter().try_fold(dtype.words(), |words, size| words.checked_mul(size.unwrap_or(1)))
        };
        let mut made = program.nodes().iter().map(|node| &program.values()[node.output]);
        let held = made.try_fold(0usize, |held, value| held.checked_add(words(&value.shape, value.dtype)?));
        let held = held.map_or(u64::MAX, |words| (words as u64).saturating_mul(4));
        if held > self.room() {
            return Err(Problem::TooLarge(held));
        }
        let outputs: Vec<_> = program
            .outputs()
            .iter()
            .map(|&output| {
                let value = &program.values()[output];
                (value.shape.iter().map(|size| size.unwrap_or(1)).collect::<Vec<_>>(), value.dtype)
            })
            .collect();
        let words: Vec<Vec<f32>> = given
            .iter()
            .zip(program.inputs())
            .map(|(tensor, &input)| match &tensor.data {
                Data::Float(values) => values.to_vec(),
                _ => program.values()[input].dtype.encode(&tensor.integers().unwrap_or_default()),
            })
            .collect();
        let slices: Vec<&[f32]> = words.iter().map(Vec::as_slice).collect();
        let key = Key::calibration(0, 0);
        let run = Executor::new(program, 1)
            .and_then(|executor| executor.forward(Batch { inputs: &slices, samples: &[0] }, Mode::CLEAN, key))
            .map_err(|error| Problem::Unsupported(Some(error.to_string())))?;
        let made = outputs.into_iter().zip(run).map(|((shape, dtype), words)| {
            let integers = || dtype.decode(&words);
            Rc::new(match dtype {
                DType::F32 => Tensor::floats(shape, words),
                DType::I32 | DType::I64 => {
                    Tensor::ints(shape, integers().into_iter().map(Sym::from).collect::<Vec<_>>())
                }
                DType::Bool => Tensor::bools(shape, integers().iter().map(|&value| value != 0).collect::<Vec<_>>()),
            })
        });
        Ok(made.collect())
    }
}

/// The inputs of an elementwise node as one number each, and the result's shape, where at least one input is a fill and all are
/// one number repeated: the result is a fill, too.
fn fills(operator: &Operator, inputs: &Known) -> Option<Fill> {
    let is_fill = |input: &Rc<Tensor>| matches!(input.data, Data::Fill(_));
    if !operator.elementwise || !inputs.iter().flatten().any(is_fill) {
        return None;
    }
    let mut shape = Vec::new();
    let mut scalars = Vec::with_capacity(inputs.len());
    for input in inputs {
        scalars.push(match input {
            None => None,
            Some(input) => {
                shape = broadcast_shape(&shape, &input.shape)?;
                Some(Rc::new(Tensor::floats(vec![], [input.repeated()?])))
            }
        });
    }
    Some((scalars, shape))
}
