//! What lowering works with: a [`Call`] of an operator, the [`Operator`] that a family's table says how to lower, and the state of
//! [`Lowering`] a model.

use crate::import::{
    decode::{Model, Node},
    emit::{Activation, Emitter},
    error::{Problem, UnsupportedNode, invalid, unsupported},
    fold::{self, Fold},
    tensor::{Dim, Element, Sym, Tensor},
};
use std::{collections::BTreeMap, rc::Rc, sync::Arc};

/// The most iterations of a loop.
pub(super) const MAX_TRIPS: i64 = 4096;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(in crate::import) enum Entry<'c, 'a> {
    /// Known at import time.
    Constant(Rc<Tensor>),
    /// Depends on an input.
    Activation(Activation<'c, 'a>),
    /// The result of a node that could not be lowered; what depends on it is not looked at.
    Unknown,
}

/// The values in scope.
pub(in crate::import) type Scope<'c, 'a> = BTreeMap<String, Entry<'c, 'a>>;

/// The state of lowering a model.
pub(in crate::import) struct Lowering<'c, 'a, 'm> {
    pub emit: Emitter<'c, 'a>,
    pub model: &'m Model,
    /// The batch size that the file fixes, if it does; its shape constants hold it in place of the batch.
    pub fixed_batch: Option<i64>,
    /// The nodes that could not be lowered.
    pub unsupported: Vec<UnsupportedNode>,
    /// The nodes lowered so far, those of calls included: a bound on calls that multiply.
    pub steps: usize,
    /// The bytes of constants that folding made out of fewer: a bound on models that ask for endless ones.
    pub grown: u64,
    /// The most that may grow to.
    pub max_constant_bytes: u64,
    /// The model's values among those of the graph, with the names that they have once functions and branches are inlined
    /// ([`proto::inline`]). Those inside loops have none.
    ///
    /// [`proto::inline`]: crate::import::proto::inline
    pub named: Vec<(String, Activation<'c, 'a>)>,
    /// How many loops are being unrolled.
    pub loops: usize,
}

/// One node with its inputs resolved.
pub(super) struct Call<'n, 'c, 'a> {
    pub operator: &'static Operator,
    pub node: &'n Node,
    /// The node's unique name, calls included.
    pub name: &'n str,
    pub inputs: Vec<Option<Entry<'c, 'a>>>,
    /// The version of ONNX's own operators.
    pub opset: i64,
}

/// A node's results.
pub(super) type Results<'c, 'a> = Result<Vec<Entry<'c, 'a>>, Problem>;

impl<'c, 'a> Call<'_, 'c, 'a> {
    /// A required input.
    pub fn entry(&self, index: usize) -> Result<&Entry<'c, 'a>, Problem> {
        match self.optional(index) {
            Some(entry) => Ok(entry),
            None => invalid(format!("its input {index} is missing")),
        }
    }

    /// An input that may be left out.
    pub fn optional(&self, index: usize) -> Option<&Entry<'c, 'a>> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// A required input that must depend on the model's inputs.
    pub fn activation(&self, index: usize) -> Result<&Activation<'c, 'a>, Problem> {
        match self.entry(index)? {
            Entry::Activation(activation) => Ok(activation),
            _ => unsupported(format!("its input '{}' is a constant", self.node.input(index))),
        }
    }

    /// Whether one of its inputs that depend on the model's is of integers or Booleans.
    pub fn has_integers(&self) -> bool {
        let elements = self.inputs.iter().flatten().map(|entry| match entry {
            Entry::Activation(activation) => activation.element(),
            Entry::Constant(_) | Entry::Unknown => Element::F32,
        });
        elements.into_iter().any(|element| element != Element::F32)
    }

    /// A required input that must be a constant.
    pub fn constant(&self, index: usize) -> Result<&Rc<Tensor>, Problem> {
        match self.entry(index)? {
            Entry::Constant(tensor) => Ok(tensor),
            _ => unsupported(format!("its input '{}' is not a constant", self.node.input(index))),
        }
    }

    /// An input that may be left out, else must be a constant.
    pub fn optional_constant(&self, index: usize) -> Result<Option<&Rc<Tensor>>, Problem> {
        self.optional(index).map(|_| self.constant(index)).transpose()
    }

    /// A required constant of floats, which may be a fill.
    pub fn weight(&self, index: usize) -> Result<&Tensor, Problem> {
        let tensor = self.constant(index)?;
        match tensor.data.element() {
            Element::F32 => Ok(tensor),
            _ => invalid(format!("'{}' must hold floats", self.node.input(index))),
        }
    }

    /// A required constant's values as f32.
    pub fn floats(&self, index: usize) -> Result<Arc<[f32]>, Problem> {
        fold::floats(self.node.input(index), self.constant(index)?)
    }

    /// A list of integers given as an input (newer opsets) or as an attribute (older ones).
    pub fn list(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Problem> {
        fold::list(self.node, name, self.optional_constant(index)?)
    }
}

/// A node with graphs in its attributes.
pub(super) struct Nested<'n, 'c, 'a> {
    pub node: &'n Node,
    /// The node's unique name, calls included.
    pub name: &'n str,
    pub scope: &'n mut Scope<'c, 'a>,
    pub opsets: &'n BTreeMap<String, i64>,
    /// How deeply it is nested.
    pub depth: usize,
}

/// How the calls of an operator are lowered.
pub(super) type LowerCall = for<'c, 'a> fn(&mut Lowering<'c, 'a, '_>, &Call<'_, 'c, 'a>) -> Results<'c, 'a>;

/// How a node whose attributes are graphs is lowered.
pub(super) type LowerGraphs = for<'c, 'a> fn(&mut Lowering<'c, 'a, '_>, &mut Nested<'_, 'c, 'a>) -> Results<'c, 'a>;

/// How an operator is lowered.
#[derive(Clone, Copy)]
pub(super) enum Lower {
    /// By its inputs.
    Call(LowerCall),
    /// By its graphs, which see the values in scope.
    Graphs(LowerGraphs),
}

/// An operator: all that the importer knows of it by name. Every family has a table of its own ([`OPERATORS`]).
///
/// [`OPERATORS`]: super::operators
#[derive(Clone, Copy)]
pub(super) struct Operator {
    pub name: &'static str,
    /// The domains that models have it under; ONNX's own is empty.
    pub domains: &'static [&'static str],
    /// How it is lowered where an input depends on the model's.
    pub lower: Lower,
    /// Its arithmetic on constants that shapes are computed with. Without it, or where it is not for floats, the executor runs the
    /// lowered operator on constants.
    pub fold: Option<Fold>,
    /// Whether it takes integers and Booleans that depend on the model's inputs.
    pub integers: bool,
    /// Whether it moves or picks elements, which works on whole numbers held as floats as on integers.
    pub moves: bool,
    /// Whether it makes every element of its result of those of its operands in the same place.
    pub elementwise: bool,
    /// The input, the weight of an analog layer, that stays a fill. Whatever else is one is small in any real model.
    pub weight: Option<usize>,
    /// The input with its result's shape. Has that the batch as an axis, constants make one for every sample, which cannot be folded.
    pub shape: Option<usize>,
}

impl Operator {
    /// An operator of ONNX's own domain, on floats.
    pub const fn new(name: &'static str, lower: LowerCall) -> Self {
        Self::lowered(name, Lower::Call(lower))
    }

    const fn lowered(name: &'static str, lower: Lower) -> Self {
        Self {
            name,
            domains: &[""],
            lower,
            fold: None,
            integers: false,
            moves: false,
            elementwise: false,
            weight: None,
            shape: None,
        }
    }

    /// An operator of ONNX's own domain whose attributes are graphs.
    pub const fn with_graphs(name: &'static str, lower: LowerGraphs) -> Self {
        Self::lowered(name, Lower::Graphs(lower))
    }

    /// It is found under these domains.
    pub const fn of(self, domains: &'static [&'static str]) -> Self {
        Self { domains, ..self }
    }

    /// See [`Self::fold`].
    pub const fn folding(self, fold: Fold) -> Self {
        Self { fold: Some(fold), ..self }
    }

    /// See [`Self::integers`].
    pub const fn on_integers(self) -> Self {
        Self { integers: true, ..self }
    }

    /// See [`Self::moves`].
    pub const fn moving(self) -> Self {
        Self { moves: true, ..self }
    }

    /// See [`Self::elementwise`].
    pub const fn elementwise(self) -> Self {
        Self { elementwise: true, ..self }
    }

    /// See [`Self::weight`].
    pub const fn with_weight(self, input: usize) -> Self {
        Self { weight: Some(input), ..self }
    }

    /// See [`Self::shape`].
    pub const fn with_shape(self, input: usize) -> Self {
        Self { shape: Some(input), ..self }
    }
}

impl<'c, 'a, 'm> Lowering<'c, 'a, 'm> {
    pub fn new(emit: Emitter<'c, 'a>, model: &'m Model, fixed_batch: Option<i64>, max_constant_bytes: u64) -> Self {
        Self {
            emit,
            model,
            fixed_batch,
            unsupported: Vec::new(),
            steps: 0,
            grown: 0,
            max_constant_bytes,
            named: Vec::new(),
            loops: 0,
        }
    }

    /// The bytes that constants may still grow by.
    pub fn room(&self) -> u64 {
        self.max_constant_bytes - self.grown
    }

    /// Counts a constant of so many more bytes than what it was made of.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Problem> {
        if bytes > self.room() {
            return Err(Problem::TooLarge(self.grown.saturating_add(bytes)));
        }
        self.grown += bytes;
        Ok(())
    }

    /// Lowers a call. Refuses integers where only floats are known.
    pub(super) fn lower(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if !call.operator.integers {
            for (index, input) in call.inputs.iter().flatten().enumerate() {
                if let Entry::Activation(activation) = input
                    && activation.element() != Element::F32
                {
                    let (name, element) = (call.node.input(index), activation.element());
                    return unsupported(format!("its input '{name}' is of {element}"));
                }
            }
        }
        match call.operator.lower {
            Lower::Call(lower) => lower(self, call),
            Lower::Graphs(_) => Err(Problem::Unsupported(None)),
        }
    }
}

/// One activation as a node's results.
pub(super) fn one<'c, 'a>(activation: Activation<'c, 'a>) -> Results<'c, 'a> {
    Ok(vec![Entry::Activation(activation)])
}

/// Dimensions as integers of shape arithmetic.
pub(super) fn syms(shape: &[Dim]) -> Vec<Sym> {
    shape.iter().copied().map(Sym::from).collect()
}
