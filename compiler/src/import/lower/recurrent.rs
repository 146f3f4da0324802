//! LSTM, GRU and RNN, unrolled over their sequence.
//!
//! The input's products of all steps are one layer, `NODE/W`, of both directions. The state's product is one layer a step, `NODE/R/t`
//! (`NODE/RB/t` of the second direction, t counted along the sequence): a tile holds R once and is read at every step, so that the
//! steps share one weight, which counts once, but each has its own output, range and noise. A GRU whose reset gate comes before the
//! product (`linear_before_reset = 0`) multiplies twice a step: the second product is `NODE/Rh/t`, `NODE/RBh/t`. The first step of
//! a state that starts at zero has no product.

use super::call::{Call, Entry, Lowering, MAX_TRIPS, Operator, Results};
use crate::import::{
    emit::Activation,
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Element, Sym, Tensor, show},
};
use melior::ir::{Location, Value};
use mxc_dialects::{
    ffi, ir,
    tosa::{Binary, Custom, CustomOp, Op, Unary},
};
use std::sync::Arc;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("GRU", |lowering, call| lowering.recurrent(call, Kind::Gru)).on_integers(),
    Operator::new("LSTM", |lowering, call| lowering.recurrent(call, Kind::Lstm)).on_integers(),
    Operator::new("RNN", |lowering, call| lowering.recurrent(call, Kind::Rnn)).on_integers(),
];

/// Which operator.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    /// The gates, each of `hidden_size` rows of the weights.
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// The activation functions of a direction.
    fn functions(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation function with its parameters.
#[derive(Clone, Debug, PartialEq)]
struct Function {
    /// The name in lower case.
    name: String,
    alpha: f32,
    beta: f32,
}

/// The functions of all directions. α and β go in order to those that have them, the defaults to the rest.
fn functions(call: &Call<'_, '_, '_>, kind: Kind, directions: usize) -> Result<Vec<Function>, Problem> {
    let node = call.node;
    let own = kind.functions();
    let given = node.strings("activations")?;
    let names: Vec<String> = match given.len() {
        0 => own.iter().copied().cycle().take(own.len() * directions).map(str::to_owned).collect(),
        count if count == own.len() * directions => given.to_vec(),
        count => {
            let wanted = own.len() * directions;
            return invalid(format!("attribute 'activations' has {count} functions, {wanted} are needed"));
        }
    };
    let mut alphas = node.floats("activation_alpha")?.iter().copied();
    let mut betas = node.floats("activation_beta")?.iter().copied();
    names
        .into_iter()
        .map(|name| {
            let name = name.to_lowercase();
            // The defaults of those that have a parameter.
            let (alpha, beta) = match name.as_str() {
                "relu" | "tanh" | "sigmoid" | "softsign" | "softplus" => (None, None),
                "affine" => (Some(1.0), Some(0.0)),
                "leakyrelu" => (Some(0.01), None),
                "thresholdedrelu" | "elu" => (Some(1.0), None),
                "scaledtanh" => (Some(1.0), Some(1.0)),
                "hardsigmoid" => (Some(0.2), Some(0.5)),
                _ => return unsupported(format!("the activation function '{name}'")),
            };
            let alpha = alpha.map_or(0.0, |default| alphas.next().unwrap_or(default));
            let beta = beta.map_or(0.0, |default| betas.next().unwrap_or(default));
            Ok(Function { name, alpha, beta })
        })
        .collect()
}

/// A weight or bias of one direction.
#[derive(Clone)]
enum Part<'c, 'a> {
    Known(Tensor),
    Computed(Activation<'c, 'a>),
}

/// A layer's operands: the weight `[I, O]` and its name, and a bias with its name.
struct Product<'n, 'c, 'a> {
    name: &'n str,
    weight: Part<'c, 'a>,
    bias: Option<(&'n str, Part<'c, 'a>)>,
}

/// Which steps of the sequence count.
enum Steps<'c, 'a> {
    /// So many from the start, of every sample.
    First(usize),
    /// Known for each sample.
    Known(Vec<i64>),
    /// The samples' lengths, `[N]`.
    Computed(Activation<'c, 'a>),
}

/// What a step of a direction needs.
struct Cell<'n, 'c, 'a> {
    kind: Kind,
    hidden: usize,
    functions: Vec<Function>,
    /// The greatest size of what the gates' functions see.
    clip: Option<f32>,
    /// The products with the state.
    state: Vec<Product<'n, 'c, 'a>>,
    /// GRU: the reset gate comes after the product.
    linear_first: bool,
    /// The bias that goes through the reset gate then, and its name.
    gated: Option<(Part<'c, 'a>, &'n str)>,
    /// LSTM: the forget gate is what the input gate leaves.
    coupled: bool,
    /// LSTM: the weights of the cell in the gates i, o and f, and their name.
    peepholes: Option<([Part<'c, 'a>; 3], &'n str)>,
    /// The layers' names but for the step.
    layers: [String; 2],
}

/// The state of a direction, nothing where it is zero: hidden, and the cell of an LSTM.
type State<'c, 'a> = [Option<Activation<'c, 'a>>; 2];

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// LSTM, GRU and RNN.
    fn recurrent(&mut self, call: &Call<'_, 'c, 'a>, kind: Kind) -> Results<'c, 'a> {
        let node = call.node;
        let backward: &[bool] = match node.string("direction", "forward")? {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => return invalid(format!("attribute 'direction' is '{other}'")),
        };
        let directions = backward.len();
        let batch_first = node.int("layout", 0)? != 0;
        let input = self.value(call, 0, None)?;
        if input.rank() != 3 {
            return invalid(format!(
                "its input '{}' has the shape {}, not three axes",
                node.input(0),
                show(&input.shape)
            ));
        }
        // Batch first in what follows.
        let input = if batch_first { input } else { self.permuted(&input, &[1, 0, 2]) };
        let &[batch, Dim::Fixed(steps), Dim::Fixed(inputs)] = input.shape.as_slice() else {
            let (sequence, own) = if batch_first { (1, 0) } else { (0, 1) };
            return unsupported(format!(
                "its sequence is axis {sequence} of its input, which must be fixed, and not the batch, axis 0 of the \
                 model's inputs; put the batch first in the model (batch_first), so that it is axis {own} here"
            ));
        };
        if steps as i64 > MAX_TRIPS {
            return unsupported(format!("a sequence of {steps} steps; at most {MAX_TRIPS} are unrolled"));
        }
        let gates = kind.gates();
        let hidden = match self.shape_of(call, 2)?.as_slice() {
            &[count, rows, hidden] if count == directions && hidden > 0 && rows == gates * hidden => hidden,
            other => {
                return invalid(format!(
                    "its recurrence weight '{}' has the shape {other:?}, not [{directions}, {gates}·H, H]",
                    node.input(2)
                ));
            }
        };
        let rows = gates * hidden;
        self.check_shape(call, 1, &[directions, rows, inputs])?;
        self.check_shape(call, 3, &[directions, 2 * rows])?;
        self.check_shape(call, 7, &[directions, 3 * hidden])?;
        let functions = functions(call, kind, directions)?;
        let clip = match node.float("clip", 0.0)? {
            clip if clip > 0.0 => Some(clip),
            _ => None,
        };
        let linear_first = kind == Kind::Gru && node.int("linear_before_reset", 0)? != 0;
        let length = self.steps(call, batch, steps)?;

        let gates = self.gates(call, &input, [directions, rows, inputs], linear_first.then_some(hidden))?;
        let mut sequences = Vec::with_capacity(directions);
        let mut finals: [Vec<Activation<'c, 'a>>; 2] = [Vec::new(), Vec::new()];
        for (direction, &backward) in backward.iter().enumerate() {
            let cell = self.cell(call, (kind, hidden, linear_first, clip), direction, directions, &functions)?;
            let mut state = [None, None];
            for (index, state) in state.iter_mut().enumerate().take(if kind == Kind::Lstm { 2 } else { 1 }) {
                *state = self.initial(call, 5 + index, direction, batch, (directions, hidden), batch_first)?;
            }
            let mut outputs: Vec<Option<Activation<'c, 'a>>> = vec![None; steps];
            let order: Vec<usize> = if backward { (0..steps).rev().collect() } else { (0..steps).collect() };
            for at in order {
                let mask = match self.mask(call, &length, at)? {
                    Mask::Out => continue,
                    Mask::In => None,
                    Mask::Some(mask) => Some(mask),
                };
                let before =
                    self.emit.slice(&gates, &[0, at, direction * rows], &[batch, Dim::Fixed(1), Dim::Fixed(rows)])?;
                let before = self.emit.reshape(&before, &[batch, Dim::Fixed(rows)])?;
                let next = self.step(&cell, before, &state, at)?;
                let (mut shown, mut kept) = (next[0].clone(), next);
                if let Some(mask) = mask {
                    // What is beyond a sample's sequence shows zeros and leaves the state.
                    shown = shown.map(|shown| self.pair(Binary::Mul, &shown, &mask)).transpose()?;
                    self.held(&mut kept, &state, &mask)?;
                }
                outputs[at] = shown;
                state = kept;
            }
            // A sequence without a step ends in zeros, not in the state that it would have started with (as in onnxruntime).
            match self.mask(call, &length, 0)? {
                Mask::In => {}
                Mask::Out => state = [None, None],
                Mask::Some(mask) => {
                    for state in state.iter_mut().flatten() {
                        *state = self.pair(Binary::Mul, state, &mask)?;
                    }
                }
            }
            let wide = [batch, Dim::Fixed(1), Dim::Fixed(hidden)];
            let mut parts = Vec::with_capacity(steps);
            for output in outputs {
                let output = self.or_zero(call, output, batch, hidden)?;
                parts.push(self.emit.reshape(&output, &wide)?);
            }
            let sequence = self.emit.concat(&parts, 1)?;
            sequences.push(self.emit.reshape(&sequence, &[batch, Dim::Fixed(steps), wide[1], wide[2]])?);
            for (state, finals) in state.into_iter().zip(&mut finals) {
                let state = self.or_zero(call, state, batch, hidden)?;
                finals.push(self.emit.reshape(&state, &wide)?);
            }
        }
        // [N, T, D, H] to [T, D, N, H].
        let all = self.emit.concat(&sequences, 2)?;
        let all = if batch_first { all } else { self.permuted(&all, &[1, 2, 0, 3]) };
        let mut results = vec![Entry::Activation(all)];
        for parts in finals.iter().take(if kind == Kind::Lstm { 2 } else { 1 }) {
            let all = self.emit.concat(parts, 1)?;
            results.push(Entry::Activation(if batch_first { all } else { self.permuted(&all, &[1, 0, 2]) }));
        }
        Ok(results)
    }

    /// The input's part of the gates, of all directions and steps; of a GRU whose `last` gate, of so many rows, has the state's bias go
    /// through the reset gate, without that.
    fn gates(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        input: &Activation<'c, 'a>,
        [directions, rows, inputs]: [usize; 3],
        last: Option<usize>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let node = call.node;
        let weight = self.part(call, 1, &[directions * rows, inputs])?;
        let weight = self.turned(&weight)?;
        let bias = match call.optional(3) {
            None => None,
            Some(_) => {
                let both = self.part(call, 3, &[directions, 2, rows])?;
                let own = self.cut(&both, 1, 0, 1)?;
                let mut other = self.cut(&both, 1, 1, 1)?;
                if let Some(hidden) = last {
                    // The state's bias of the last gate goes through the reset gate.
                    other = self.without_last(&other, hidden)?;
                }
                let sum = self.sum(&own, &other)?;
                Some((node.input(3), self.as_shape(&sum, &[directions * rows])?))
            }
        };
        let product = Product { name: node.input(1), weight, bias };
        self.multiplied(input, &product, &format!("{}/W", call.name))
    }

    /// A step's new state, but the old one for the samples that the mask leaves out.
    fn held(&mut self, new: &mut State<'c, 'a>, old: &State<'c, 'a>, mask: &Activation<'c, 'a>) -> Result<(), Problem> {
        for (new, old) in new.iter_mut().zip(old) {
            *new = match (new.take(), old) {
                (Some(new), Some(old)) => {
                    let change = self.pair(Binary::Sub, &new, old)?;
                    let change = self.pair(Binary::Mul, &change, mask)?;
                    Some(self.pair(Binary::Add, old, &change)?)
                }
                (Some(new), None) => Some(self.pair(Binary::Mul, &new, mask)?),
                (None, _) => None,
            };
        }
        Ok(())
    }

    /// What the steps of a direction need.
    fn cell<'n>(
        &mut self,
        call: &Call<'n, 'c, 'a>,
        (kind, hidden, linear_first, clip): (Kind, usize, bool, Option<f32>),
        direction: usize,
        directions: usize,
        functions: &[Function],
    ) -> Result<Cell<'n, 'c, 'a>, Problem> {
        let node = call.node;
        let rows = kind.gates() * hidden;
        let all = self.part(call, 2, &[directions, rows, hidden])?;
        let own = self.cut(&all, 0, direction, 1)?;
        let own = self.as_shape(&own, &[rows, hidden])?;
        // A GRU with its reset gate first multiplies the last gate's rows with another vector.
        let pieces = match kind == Kind::Gru && !linear_first {
            true => vec![self.cut(&own, 0, 0, 2 * hidden)?, self.cut(&own, 0, 2 * hidden, hidden)?],
            false => vec![own],
        };
        let mut state = Vec::with_capacity(pieces.len());
        for piece in pieces {
            state.push(Product { name: node.input(2), weight: self.turned(&piece)?, bias: None });
        }
        let gated = match call.optional(3) {
            Some(_) if linear_first => {
                let all = self.part(call, 3, &[directions, 2, rows])?;
                let own = self.cut(&all, 0, direction, 1)?;
                let own = self.cut(&own, 1, 1, 1)?;
                let own = self.cut(&own, 2, 2 * hidden, hidden)?;
                Some((self.as_shape(&own, &[1, hidden])?, node.input(3)))
            }
            _ => None,
        };
        let peepholes = match call.optional(7) {
            Some(_) if kind == Kind::Lstm => {
                let all = self.part(call, 7, &[directions, 3, hidden])?;
                let own = self.cut(&all, 0, direction, 1)?;
                let mut parts = Vec::with_capacity(3);
                for gate in 0..3 {
                    let part = self.cut(&own, 1, gate, 1)?;
                    parts.push(self.as_shape(&part, &[1, hidden])?);
                }
                <[_; 3]>::try_from(parts).ok().map(|parts| (parts, node.input(7)))
            }
            _ => None,
        };
        let letter = if direction == 0 { "R" } else { "RB" };
        let count = kind.functions().len();
        Ok(Cell {
            kind,
            hidden,
            functions: functions[direction * count..][..count].to_vec(),
            clip,
            state,
            linear_first,
            gated,
            coupled: kind == Kind::Lstm && node.int("input_forget", 0)? != 0,
            peepholes,
            layers: [format!("{}/{letter}", call.name), format!("{}/{letter}h", call.name)],
        })
    }

    /// The state after a step; `before` is the input's part of the gates, `[N, gates·H]`.
    fn step(
        &mut self,
        cell: &Cell<'_, 'c, 'a>,
        before: Activation<'c, 'a>,
        [hidden, memory]: &State<'c, 'a>,
        at: usize,
    ) -> Result<State<'c, 'a>, Problem> {
        let size = cell.hidden;
        let product = |lowering: &mut Self, index: usize, vector: &Activation<'c, 'a>| {
            lowering.multiplied(vector, &cell.state[index], &format!("{}/{at}", cell.layers[index]))
        };
        match cell.kind {
            Kind::Rnn => {
                let mut sum = before;
                if let Some(hidden) = hidden {
                    let state = product(self, 0, hidden)?;
                    sum = self.pair(Binary::Add, &sum, &state)?;
                }
                Ok([Some(self.function(cell, 0, &sum)?), None])
            }
            Kind::Gru => {
                let mut both = self.columns(&before, 0, 2 * size)?;
                let mut last = self.columns(&before, 2 * size, size)?;
                let state = hidden.as_ref().map(|hidden| product(self, 0, hidden)).transpose()?;
                if let Some(state) = &state {
                    let state = self.columns(state, 0, 2 * size)?;
                    both = self.pair(Binary::Add, &both, &state)?;
                }
                let both = self.function(cell, 0, &both)?;
                let (update, reset) = (self.columns(&both, 0, size)?, self.columns(&both, size, size)?);
                match (&state, hidden) {
                    (Some(state), _) if cell.linear_first => {
                        let mut state = self.columns(state, 2 * size, size)?;
                        if let Some((bias, name)) = &cell.gated {
                            state = self.with_part(Binary::Add, &state, (bias, name))?;
                        }
                        let part = self.pair(Binary::Mul, &reset, &state)?;
                        last = self.pair(Binary::Add, &last, &part)?;
                    }
                    (_, Some(hidden)) => {
                        let kept = self.pair(Binary::Mul, &reset, hidden)?;
                        let state = product(self, 1, &kept)?;
                        last = self.pair(Binary::Add, &last, &state)?;
                    }
                    (_, None) => {
                        if let Some((bias, name)) = &cell.gated {
                            let part = self.with_part(Binary::Mul, &reset, (bias, name))?;
                            last = self.pair(Binary::Add, &last, &part)?;
                        }
                    }
                }
                let candidate = self.function(cell, 1, &last)?;
                // (1 − z)·c + z·h
                let change = match hidden {
                    Some(hidden) => self.pair(Binary::Sub, hidden, &candidate)?,
                    None => self.emit.negate(&candidate)?,
                };
                let change = self.pair(Binary::Mul, &update, &change)?;
                Ok([Some(self.pair(Binary::Add, &candidate, &change)?), None])
            }
            Kind::Lstm => {
                let mut sum = before;
                if let Some(hidden) = hidden {
                    let state = product(self, 0, hidden)?;
                    sum = self.pair(Binary::Add, &sum, &state)?;
                }
                let mut gates = [0, 1, 2].map(|_| sum.clone());
                if cell.peepholes.is_none() {
                    // The gates i, o and f at once.
                    let three = self.columns(&sum, 0, 3 * size)?;
                    let three = self.function(cell, 0, &three)?;
                    for (gate, value) in gates.iter_mut().enumerate() {
                        *value = self.columns(&three, gate * size, size)?;
                    }
                } else {
                    for (gate, value) in gates.iter_mut().enumerate() {
                        *value = self.columns(&sum, gate * size, size)?;
                    }
                }
                let [mut into, mut out, mut forget] = gates;
                if let Some((peepholes, name)) = &cell.peepholes {
                    for (gate, weight) in [(&mut into, &peepholes[0]), (&mut forget, &peepholes[2])] {
                        *gate = self.peeped(gate, memory.as_ref(), (weight, name))?;
                        *gate = self.function(cell, 0, gate)?;
                    }
                }
                if cell.coupled {
                    let negated = self.emit.negate(&into)?;
                    forget = self.emit.with_scalar(Binary::Add, &negated, 1.0)?;
                }
                let candidate = self.columns(&sum, 3 * size, size)?;
                let candidate = self.function(cell, 1, &candidate)?;
                let mut next = self.pair(Binary::Mul, &into, &candidate)?;
                if let Some(memory) = memory {
                    let kept = self.pair(Binary::Mul, &forget, memory)?;
                    next = self.pair(Binary::Add, &kept, &next)?;
                }
                if let Some((peepholes, name)) = &cell.peepholes {
                    out = self.peeped(&out, Some(&next), (&peepholes[1], name))?;
                    out = self.function(cell, 0, &out)?;
                }
                let seen = self.function(cell, 2, &next)?;
                Ok([Some(self.pair(Binary::Mul, &out, &seen)?), Some(next)])
            }
        }
    }

    /// A gate with its view of the memory added.
    fn peeped(
        &mut self,
        gate: &Activation<'c, 'a>,
        memory: Option<&Activation<'c, 'a>>,
        weight: (&Part<'c, 'a>, &str),
    ) -> Result<Activation<'c, 'a>, Problem> {
        match memory {
            Some(memory) => {
                let seen = self.with_part(Binary::Mul, memory, weight)?;
                self.pair(Binary::Add, gate, &seen)
            }
            None => Ok(gate.clone()),
        }
    }

    /// One of a cell's activation functions. Those of the gates see clipped values; the memory's, an LSTM's third, does not, as
    /// in onnxruntime (ONNX says no more than "the input of activations").
    fn function(
        &mut self,
        cell: &Cell<'_, 'c, 'a>,
        index: usize,
        x: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let x = match cell.clip.filter(|_| index < 2) {
            Some(clip) => self.emit.clamp(x, -clip, clip)?,
            None => x.clone(),
        };
        let Function { name, alpha, beta } = &cell.functions[index];
        let (alpha, beta) = (*alpha, *beta);
        match name.as_str() {
            "sigmoid" => self.emit.unary(Unary::Sigmoid, &x),
            "tanh" => self.emit.unary(Unary::Tanh, &x),
            "relu" => self.emit.clamp(&x, 0.0, f32::MAX),
            "affine" => {
                let scaled = self.emit.with_scalar(Binary::Mul, &x, alpha)?;
                self.emit.with_scalar(Binary::Add, &scaled, beta)
            }
            "leakyrelu" => self.leaky_relu(&x, alpha),
            "thresholdedrelu" => {
                let above = self.emit.with_scalar(Binary::Greater, &x, alpha)?;
                let zero = self.emit.with_scalar(Binary::Mul, &x, 0.0)?;
                self.selected(&above, &x, &zero)
            }
            "scaledtanh" => {
                let scaled = self.emit.with_scalar(Binary::Mul, &x, beta)?;
                let bent = self.emit.unary(Unary::Tanh, &scaled)?;
                self.emit.with_scalar(Binary::Mul, &bent, alpha)
            }
            "hardsigmoid" => self.hard_sigmoid(&x, alpha, beta),
            "elu" => self.elu(&x, alpha, 1.0, 1.0),
            "softsign" => self.softsign(&x),
            "softplus" => self.softplus(&x),
            other => unsupported(format!("the activation function '{other}'")),
        }
    }

    /// `x·W (+ b)`: a layer of that name where the weight is known, else a product of two values.
    fn multiplied(
        &mut self,
        input: &Activation<'c, 'a>,
        product: &Product<'_, 'c, 'a>,
        layer: &str,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let node = self.emit.location;
        self.emit.location = Location::name(self.emit.context, layer, Location::unknown(self.emit.context));
        let result = match (&product.weight, &product.bias) {
            (Part::Known(weight), Some((name, Part::Known(bias)))) => {
                let bias = bias.to_floats().unwrap_or_else(|| Arc::from([]));
                self.fully_connected(input, product.name, weight, Some((name, bias)))
            }
            (weight, bias) => {
                let result = match weight {
                    Part::Known(weight) => self.fully_connected(input, product.name, weight, None),
                    Part::Computed(weight) => self.product(input, weight),
                };
                match (result, bias) {
                    (Ok(result), Some((name, bias))) => {
                        let mut shape = vec![1; result.rank()];
                        shape[result.rank() - 1] = result.shape[result.rank() - 1].fixed().unwrap_or(1);
                        self.as_shape(bias, &shape).and_then(|bias| self.with_part(Binary::Add, &result, (&bias, name)))
                    }
                    (result, _) => result,
                }
            }
        };
        self.emit.location = node;
        result
    }

    /// Columns of a matrix.
    fn columns(
        &mut self,
        matrix: &Activation<'c, 'a>,
        first: usize,
        count: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let matrix = matrix.clone();
        self.emit.slice(&matrix, &[0, first], &[matrix.shape[0], Dim::Fixed(count)])
    }

    /// The state that a direction starts with, `[N, H]`.
    fn initial(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        direction: usize,
        batch: Dim,
        (directions, hidden): (usize, usize),
        batch_first: bool,
    ) -> Result<Option<Activation<'c, 'a>>, Problem> {
        let name = call.node.input(index);
        let perms = if batch_first { [0, 1, 2] } else { [1, 0, 2] };
        let own = [batch, Dim::Fixed(hidden)];
        let misfit = |shape: String| {
            invalid(format!(
                "its initial state '{name}' of shape {shape} does not fit {directions} direction(s) of {hidden}"
            ))
        };
        match call.optional(index) {
            None => Ok(None),
            Some(Entry::Constant(state)) => {
                let state = match state.shape.len() {
                    3 => state.transposed(&perms),
                    _ => return misfit(format!("{:?}", state.shape)),
                };
                let Some(values) = state.to_floats().filter(|_| state.shape[1..] == [directions, hidden]) else {
                    return misfit(format!("{:?}", state.shape));
                };
                let rows: Vec<&[f32]> = values.chunks(hidden).skip(direction).step_by(directions).collect();
                if rows.iter().all(|row| row.iter().all(|&value| value == 0.0)) {
                    return Ok(None);
                }
                let constant = match batch {
                    Dim::Fixed(size) if size == rows.len() => Tensor::floats(vec![size, hidden], rows.concat()),
                    Dim::Batch(1) if rows.windows(2).all(|pair| pair[0] == pair[1]) => {
                        Tensor::floats(vec![1, hidden], rows[0].to_vec())
                    }
                    Dim::Batch(_) => {
                        return unsupported(format!("its initial state '{name}' differs from sample to sample"));
                    }
                    Dim::Fixed(_) => return misfit(format!("{:?}", state.shape)),
                };
                let at = batch.fixed().is_none().then_some(0);
                Ok(Some(self.as_computed(name, &constant, at)?))
            }
            Some(_) => {
                let state = call.activation(index)?.clone();
                if state.rank() != 3 {
                    return misfit(show(&state.shape));
                }
                let state = self.permuted(&state, &perms);
                if state.shape != [batch, Dim::Fixed(directions), Dim::Fixed(hidden)] {
                    return misfit(show(&state.shape));
                }
                if self.is_zero(state.value) {
                    return Ok(None);
                }
                let one = [batch, Dim::Fixed(1), Dim::Fixed(hidden)];
                let state = self.emit.slice(&state, &[0, direction, 0], &one)?;
                Ok(Some(self.emit.reshape(&state, &own)?))
            }
        }
    }

    /// Whether a value is zeros spread and cut: the state that exporters write for none.
    fn is_zero(&self, value: Value<'c, 'a>) -> bool {
        let mut value = value;
        loop {
            if let Some(name) = ir::loaded_global(value) {
                return self.emit.weights.get(&name).is_some_and(|weight| weight.values().iter().all(|&x| x == 0.0));
            }
            value = match ir::defining_op(value).and_then(|operation| Op::parse(operation).ok().flatten()) {
                Some(Op::Reshape(reshape)) => reshape.input,
                Some(Op::Slice(slice)) => slice.input,
                Some(Op::Transpose(transpose)) => transpose.input,
                Some(Op::Tile(tile)) => tile.input,
                Some(Op::Custom(CustomOp { custom: Custom::Broadcast, inputs, .. })) => match inputs.first() {
                    Some(&constant) => constant,
                    None => return false,
                },
                Some(Op::Constant(constant)) => return ffi::dense_f32_splat(constant.values) == Some(0.0),
                _ => return false,
            };
        }
    }

    /// A state, or zeros.
    fn or_zero(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        state: Option<Activation<'c, 'a>>,
        batch: Dim,
        hidden: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        match state {
            Some(state) => Ok(state),
            None => {
                let zeros = Tensor::filled(vec![batch.fixed().unwrap_or(1), hidden], 0.0);
                self.as_computed(&format!("{}.zero", call.name), &zeros, batch.fixed().is_none().then_some(0))
            }
        }
    }

    /// Which steps of the sequence count.
    fn steps(&mut self, call: &Call<'_, 'c, 'a>, batch: Dim, steps: usize) -> Result<Steps<'c, 'a>, Problem> {
        let name = call.node.input(4);
        match call.optional(4) {
            None => Ok(Steps::First(steps)),
            Some(Entry::Constant(lengths)) => {
                let Some(lengths) = lengths.known_ints().filter(|lengths| !lengths.is_empty()) else {
                    return unsupported(format!("its sequence lengths '{name}' depend on the batch size"));
                };
                if let Some(length) = lengths.iter().find(|&&length| length < 0 || length > steps as i64) {
                    return invalid(format!("'{name}' holds the length {length} of a sequence of {steps} steps"));
                }
                if lengths.iter().all(|&length| length == lengths[0]) {
                    return Ok(Steps::First(lengths[0] as usize));
                }
                match batch {
                    Dim::Fixed(size) if size == lengths.len() => Ok(Steps::Known(lengths)),
                    Dim::Fixed(size) => invalid(format!("'{name}' holds {} lengths for {size} samples", lengths.len())),
                    Dim::Batch(_) => {
                        unsupported(format!("its constant sequence lengths '{name}' differ from sample to sample"))
                    }
                }
            }
            Some(_) => {
                let lengths = call.activation(4)?.clone();
                if lengths.shape != [batch] || lengths.element() == Element::F32 {
                    return invalid(format!("its sequence lengths '{name}' have the shape {}", show(&lengths.shape)));
                }
                Ok(Steps::Computed(lengths))
            }
        }
    }

    /// Whether a step counts.
    fn mask(&mut self, call: &Call<'_, 'c, 'a>, steps: &Steps<'c, 'a>, at: usize) -> Result<Mask<'c, 'a>, Problem> {
        Ok(match steps {
            Steps::First(count) if at < *count => Mask::In,
            Steps::First(_) => Mask::Out,
            Steps::Known(lengths) => {
                let counts: Vec<f32> = lengths.iter().map(|&length| f32::from(at < length as usize)).collect();
                match counts.iter().all(|&count| count == counts[0]) {
                    true if counts[0] == 1.0 => Mask::In,
                    true => Mask::Out,
                    false => {
                        let counts = Tensor::floats(vec![counts.len(), 1], counts);
                        Mask::Some(self.as_computed(&format!("{}.steps", call.name), &counts, None)?)
                    }
                }
            }
            Steps::Computed(lengths) => {
                let number = Tensor::ints(vec![], [Sym::from(at as i64)]);
                let within = self.with_constant(Binary::Greater, lengths, "", &number, false)?;
                let within = self.emit.cast(&within, Element::F32)?;
                Mask::Some(self.emit.reshape(&within, &[lengths.shape[0], Dim::Fixed(1)])?)
            }
        })
    }

    // Weights and biases, known or computed.

    /// The static shape of an input.
    fn shape_of(&self, call: &Call<'_, 'c, 'a>, index: usize) -> Result<Vec<usize>, Problem> {
        match call.entry(index)? {
            Entry::Constant(tensor) => Ok(tensor.shape.clone()),
            Entry::Activation(value) => match value.shape.iter().map(|dim| dim.fixed()).collect() {
                Some(shape) => Ok(shape),
                None => unsupported(format!("'{}' depends on the batch", call.node.input(index))),
            },
            Entry::Unknown => unsupported("its input is not known"),
        }
    }

    /// Refuses an input, where it is given, of another shape.
    fn check_shape(&self, call: &Call<'_, 'c, 'a>, index: usize, wanted: &[usize]) -> Result<(), Problem> {
        if call.optional(index).is_none() {
            return if index == 1 { call.entry(1).map(|_| ()) } else { Ok(()) };
        }
        let shape = self.shape_of(call, index)?;
        if shape != wanted {
            return invalid(format!("'{}' has the shape {shape:?}, not {wanted:?}", call.node.input(index)));
        }
        Ok(())
    }

    /// An input under another shape.
    fn part(&mut self, call: &Call<'_, 'c, 'a>, index: usize, shape: &[usize]) -> Result<Part<'c, 'a>, Problem> {
        let part = match call.entry(index)? {
            Entry::Constant(tensor) => Part::Known(Tensor::floats(tensor.shape.clone(), call.floats(index)?)),
            _ => Part::Computed(call.activation(index)?.clone()),
        };
        self.as_shape(&part, shape)
    }

    fn as_shape(&mut self, part: &Part<'c, 'a>, shape: &[usize]) -> Result<Part<'c, 'a>, Problem> {
        Ok(match part {
            Part::Known(tensor) => Part::Known(tensor.reshaped(shape.to_vec())),
            Part::Computed(value) => {
                let shape: Vec<_> = shape.iter().map(|&size| Dim::Fixed(size)).collect();
                Part::Computed(self.emit.reshape(&value.clone(), &shape)?)
            }
        })
    }

    /// `count` slices from `first` on along an axis.
    fn cut(&mut self, part: &Part<'c, 'a>, axis: usize, first: usize, count: usize) -> Result<Part<'c, 'a>, Problem> {
        Ok(match part {
            Part::Known(tensor) => {
                let mut shape = tensor.shape.clone();
                shape[axis] = count;
                let mut start = vec![0; shape.len()];
                start[axis] = first;
                Part::Known(tensor.sliced(&start, shape))
            }
            Part::Computed(value) => {
                let mut shape = value.shape.clone();
                shape[axis] = Dim::Fixed(count);
                let mut start = vec![0; shape.len()];
                start[axis] = first;
                Part::Computed(self.emit.slice(value, &start, &shape)?)
            }
        })
    }

    /// A matrix transposed.
    fn turned(&mut self, part: &Part<'c, 'a>) -> Result<Part<'c, 'a>, Problem> {
        Ok(match part {
            Part::Known(tensor) => Part::Known(tensor.transposed(&[1, 0])),
            Part::Computed(value) => Part::Computed(self.permuted(value, &[1, 0])),
        })
    }

    /// All but the last `hidden` elements of the last axis, these 0.
    fn without_last(&mut self, part: &Part<'c, 'a>, hidden: usize) -> Result<Part<'c, 'a>, Problem> {
        let shape: Vec<usize> = match part {
            Part::Known(tensor) => tensor.shape.clone(),
            Part::Computed(value) => value.shape.iter().filter_map(|dim| dim.fixed()).collect(),
        };
        let size = shape.last().copied().unwrap_or(0);
        let factors: Vec<f32> = (0..size).map(|at| f32::from(at + hidden < size)).collect();
        let factors = Tensor::floats([vec![1; shape.len() - 1], vec![size]].concat(), factors);
        Ok(match part {
            Part::Known(tensor) => {
                let factors = factors.broadcast(&shape).to_floats().unwrap_or_default();
                let values = tensor.to_floats().unwrap_or_default();
                let kept: Vec<_> = values.iter().zip(factors.iter()).map(|(a, b)| a * b).collect();
                Part::Known(Tensor::floats(shape, kept))
            }
            Part::Computed(value) => {
                let value = value.clone();
                Part::Computed(self.with_constant(Binary::Mul, &value, "gate", &factors, false)?)
            }
        })
    }

    /// The sum of two parts of one shape, both known or both computed.
    fn sum(&mut self, a: &Part<'c, 'a>, b: &Part<'c, 'a>) -> Result<Part<'c, 'a>, Problem> {
        match (a, b) {
            (Part::Known(a), Part::Known(b)) => {
                let (own, other) = (a.to_floats().unwrap_or_default(), b.to_floats().unwrap_or_default());
                let sum = own.iter().zip(other.iter()).map(|(a, b)| a + b).collect::<Vec<_>>();
                Ok(Part::Known(Tensor::floats(a.shape.clone(), sum)))
            }
            (part, Part::Computed(value)) | (Part::Computed(value), part) => {
                Ok(Part::Computed(self.with_part(Binary::Add, &value.clone(), (part, "bias"))?))
            }
        }
    }

    /// An elementwise operation of a value and a part that broadcasts to it.
    fn with_part(
        &mut self,
        operation: Binary,
        value: &Activation<'c, 'a>,
        (part, name): (&Part<'c, 'a>, &str),
    ) -> Result<Activation<'c, 'a>, Problem> {
        match part {
            Part::Known(tensor) => self.with_constant(operation, value, name, tensor, false),
            Part::Computed(other) => self.pair(operation, value, other),
        }
    }
}

/// Whether a step counts: for no sample, for all, or a factor for each, `[N, 1]`.
enum Mask<'c, 'a> {
    Out,
    In,
    Some(Activation<'c, 'a>),
}
