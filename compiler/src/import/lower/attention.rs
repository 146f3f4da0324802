//! Attention (opset 23 on): `softmax(softcap(scale·Q·Kᵀ) + bias)·V`. Both products are of two values that depend on the model's
//! inputs, so that they run digitally.

use super::call::{Call, Entry, Lowering, Operator, Results, one};
use crate::import::{
    attributes::integers,
    emit::Activation,
    error::{Problem, invalid, unsupported},
    tensor::{Data, Dim, Element, Tensor, broadcast_shape, element_count, show},
};
use mxc_dialects::tosa::{Binary, Unary};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Attention", |lowering, call| lowering.attention(call)).on_integers(),
    Operator::new("RotaryEmbedding", |lowering, call| lowering.rotary_embedding(call)).on_integers(),
];

/// What a position that a query does not attend to is worth: nothing a softmax can tell from −∞, but a number.
const MASKED: f32 = f32::MIN;

/// What is added to the scores: −∞ where a query must not attend.
#[derive(Default)]
struct Bias<'c, 'a> {
    /// The part known at import time, of rank 4 or less.
    known: Option<Tensor>,
    /// The part that depends on the model's inputs.
    computed: Option<Activation<'c, 'a>>,
}

/// Which keys a query attends to by its position.
struct Reach {
    causal: bool,
    /// How many keys before the query's own position, and after it; no number: all.
    left: Option<i64>,
    right: Option<i64>,
}

impl Reach {
    /// The first and the last key that the query `row` attends to, where `offset` keys precede the first query.
    fn keys(&self, row: i64, offset: i64) -> (i64, i64) {
        let at = row.saturating_add(offset);
        let first = self.left.map_or(i64::MIN, |left| at.saturating_sub(left));
        let last = self.right.map_or(i64::MAX, |right| at.saturating_add(right));
        (first, if self.causal { last.min(at) } else { last })
    }

    /// Whether it leaves out nothing.
    fn is_everything(&self) -> bool {
        !self.causal && self.left.is_none() && self.right.is_none()
    }
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Attention. Heads of the query share keys and values where these have fewer heads.
    fn attention(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let mut operands = Vec::with_capacity(3);
        for index in 0..3 {
            operands.push(self.value(call, index, None)?);
        }
        let flat = operands[0].rank() == 3;
        if !matches!(operands[0].rank(), 3 | 4) || operands.iter().any(|each| each.rank() != operands[0].rank()) {
            let shapes: Vec<_> = operands.iter().map(|operand| show(&operand.shape)).collect();
            return invalid(format!("its inputs have the shapes {}; three or four axes each", shapes.join(", ")));
        }
        if flat {
            for (index, operand) in operands.iter_mut().enumerate() {
                let name = if index == 0 { "q_num_heads" } else { "kv_num_heads" };
                *operand = self.heads(operand, name, node.int(name, 0)?)?;
            }
        }
        let [q, mut k, mut v] = <[_; 3]>::try_from(operands).map_err(|_| Problem::Invalid(String::new()))?;
        let mut offset = 0;
        let pasts = [call.optional(4).is_some(), call.optional(5).is_some()];
        if pasts[0] != pasts[1] {
            return invalid("it has only one of past_key and past_value");
        }
        if pasts[0] {
            for (index, present) in [(4, &mut k), (5, &mut v)] {
                let past = self.value(call, index, None)?;
                let fits = past.rank() == 4 && [0, 1, 3].iter().all(|&axis| past.shape[axis] == present.shape[axis]);
                let (true, Some(length)) = (fits, past.shape.get(2).and_then(|length| length.fixed())) else {
                    return invalid(format!(
                        "'{}' of shape {} and what follows it of shape {} do not fit",
                        node.input(index),
                        show(&past.shape),
                        show(&present.shape)
                    ));
                };
                offset = length as i64;
                let past = self.emit.in_order(&past, &present.order.clone())?;
                *present = self.emit.concat(&[past, present.clone()], 2)?;
            }
        }
        let sizes = |of: &Activation<'c, 'a>| [1, 2, 3].map(|axis| of.shape[axis].fixed().filter(|&size| size > 0));
        let (
            [Some(heads), Some(queries), Some(width)],
            [Some(groups), Some(keys), Some(inner)],
            [others, values, Some(deep)],
        ) = (sizes(&q), sizes(&k), sizes(&v))
        else {
            return unsupported("only its batch may vary");
        };
        if heads % groups != 0 || others != Some(groups) || values != Some(keys) || width != inner {
            return invalid(format!(
                "its query of shape {}, key of shape {} and value of shape {} do not fit",
                show(&q.shape),
                show(&k.shape),
                show(&v.shape)
            ));
        }
        // The heads of a group one below the other, so that they share their key and value.
        let (batch, rows) = (q.shape[0], heads / groups * queries);
        let [grouped, apart] =
            [[groups, rows], [heads, queries]].map(|[heads, rows]| [batch, Dim::Fixed(heads), Dim::Fixed(rows)]);
        let shaped = |lead: [Dim; 3], last: usize| [lead.as_slice(), &[Dim::Fixed(last)]].concat();
        let query = self.emit.reshape(&q, &shaped(grouped, width))?;
        let turned = self.permuted(&k, &[0, 1, 3, 2]);
        let scores = self.product(&query, &turned)?;
        let scores = self.emit.reshape(&scores, &shaped(apart, keys))?;
        let scale = node.float("scale", 1.0 / (width as f32).sqrt())?;
        // On the scores, not on Q and K: folded into a layer before them it would change that layer's output.
        let raw = self.emit.with_scalar(Binary::Mul, &scores, scale)?;
        let cap = node.float("softcap", 0.0)?;
        let capped = if cap > 0.0 {
            let less = self.emit.with_scalar(Binary::Mul, &raw, 1.0 / cap)?;
            let bent = self.emit.unary(Unary::Tanh, &less)?;
            self.emit.with_scalar(Binary::Mul, &bent, cap)?
        } else {
            raw.clone()
        };
        let bias = self.bias_of(call, [queries, keys], offset)?;
        let [biased, probabilities] = self.attended(call, &capped, bias)?;
        let shown = match node.int("qk_matmul_output_mode", 0)? {
            0 => raw,
            1 => capped,
            2 => biased,
            3 => probabilities.clone(),
            mode => return invalid(format!("attribute 'qk_matmul_output_mode' is {mode}")),
        };
        let weights = self.emit.reshape(&probabilities, &shaped(grouped, keys))?;
        let result = self.product(&weights, &v)?;
        let mut result = self.emit.reshape(&result, &shaped(apart, deep))?;
        if flat {
            result = self.permuted(&result, &[0, 2, 1, 3]);
            result = self.emit.reshape(&result, &[batch, Dim::Fixed(queries), Dim::Fixed(heads * deep)])?;
        }
        Ok([result, k, v, shown].into_iter().map(Entry::Activation).collect())
    }

    /// `[N, L, heads·E]` as `[N, heads, L, E]`.
    fn heads(&mut self, input: &Activation<'c, 'a>, name: &str, count: i64) -> Result<Activation<'c, 'a>, Problem> {
        let Some(width) = input.shape[2].fixed() else {
            return unsupported("only its batch may vary");
        };
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 || width % count != 0 {
            return invalid(format!("attribute '{name}' is {count}, its input has the shape {}", show(&input.shape)));
        }
        let split = [input.shape[0], input.shape[1], Dim::Fixed(count), Dim::Fixed(width / count)];
        let split = self.emit.reshape(input, &split)?;
        Ok(self.permuted(&split, &[0, 2, 1, 3]))
    }

    /// RotaryEmbedding: in each head `[N, heads, L, E]`, pairs `(a, b)` of the first elements turned by the angle of their position to
    /// `(a·cos − b·sin, a·sin + b·cos)`. A pair is an element of the first half and the one of the second, or two neighbours.
    fn rotary_embedding(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = self.value(call, 0, None)?;
        let flat = input.rank() == 3;
        let x = if flat { self.heads(&input, "num_heads", node.int("num_heads", 0)?)? } else { input.clone() };
        let &[batch, heads, length, Dim::Fixed(width)] = x.shape.as_slice() else {
            return invalid(format!("its input has the shape {}; three or four axes", show(&input.shape)));
        };
        let turned = match node.int("rotary_embedding_dim", 0)? {
            0 => width,
            given => usize::try_from(given).unwrap_or(0),
        };
        if turned == 0 || turned > width || turned % 2 != 0 {
            return invalid(format!("it turns {turned} elements in pairs, and a head has {width}"));
        }
        let half = turned / 2;
        let part = |last: usize| [batch, heads, length, Dim::Fixed(last)];
        let head = self.emit.slice(&x, &[0; 4], &part(turned))?;
        let neighbours = node.int("interleaved", 0)? != 0;
        let mut pair = Vec::with_capacity(2);
        for side in 0..2 {
            pair.push(if neighbours {
                let apart = [batch, heads, length, Dim::Fixed(half), Dim::Fixed(2)];
                let apart = self.emit.reshape(&head, &apart)?;
                let one = [batch, heads, length, Dim::Fixed(half), Dim::Fixed(1)];
                let one = self.emit.slice(&apart, &[0, 0, 0, 0, side], &one)?;
                self.emit.reshape(&one, &part(half))?
            } else {
                self.emit.slice(&head, &[0, 0, 0, side * half], &part(half))?
            });
        }
        let (cos, sin) = (self.of_positions(call, 1, half)?, self.of_positions(call, 2, half)?);
        let mut product = |factor, side: usize| self.pair(Binary::Mul, factor, &pair[side]);
        let (real, imaginary) = ([product(&cos, 0)?, product(&sin, 1)?], [product(&sin, 0)?, product(&cos, 1)?]);
        let mut sides = vec![
            self.emit.binary(Binary::Sub, &real[0], &real[1])?,
            self.emit.binary(Binary::Add, &imaginary[0], &imaginary[1])?,
        ];
        if neighbours {
            let one = [batch, heads, length, Dim::Fixed(half), Dim::Fixed(1)];
            for side in &mut sides {
                *side = self.emit.reshape(side, &one)?;
            }
            let joined = self.emit.concat(&sides, 4)?;
            sides = vec![self.emit.reshape(&joined, &part(turned))?];
        }
        if turned < width {
            let rest = self.emit.slice(&x, &[0, 0, 0, turned], &part(width - turned))?;
            sides.push(self.emit.in_order(&rest, &sides[0].order)?);
        }
        let result = self.emit.concat(&sides, 3)?;
        if !flat {
            return one(result);
        }
        let result = self.permuted(&result, &[0, 2, 1, 3]);
        one(self.emit.reshape(&result, &input.shape)?)
    }

    /// The cosines or sines of the positions of RotaryEmbedding's sequence, `[N, 1, L, half]`: input `index`, whose rows are the positions
    /// where input 3 says which they are, else those of the sequence.
    fn of_positions(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        half: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let name = call.node.input(index);
        let rows = match (call.entry(index)?, call.optional(3)) {
            (_, None) => self.value(call, index, None)?,
            (Entry::Constant(cache), Some(Entry::Constant(positions))) => {
                let &[count, width] = cache.shape.as_slice() else {
                    return invalid(format!("'{name}' has the shape {:?}", cache.shape));
                };
                self.grow((positions.len() as u64).saturating_mul(width as u64).saturating_mul(4))?;
                let mut picked = Vec::new();
                let of = call.node.input(3);
                for position in integers(of, positions)? {
                    let Some(row) = usize::try_from(position).ok().filter(|&row| row < count) else {
                        return invalid(format!("'{of}' holds the position {position}, and '{name}' has {count} rows"));
                    };
                    picked.extend(row * width..(row + 1) * width);
                }
                let shape = [positions.shape.as_slice(), &[width]].concat();
                self.materialized(name, &cache.gather(shape, &picked), None)?
            }
            (_, Some(_)) => {
                let (cache, positions) = (self.value(call, index, None)?, self.value(call, 3, None)?);
                self.gather_at(&cache, 0, &positions)?
            }
        };
        match rows.shape.as_slice() {
            &[batch, length, last] if last == Dim::Fixed(half) => {
                self.emit.reshape(&rows, &[batch, Dim::Fixed(1), length, last])
            }
            shape => invalid(format!("'{name}' gives angles of shape {} for {half} pairs", show(shape))),
        }
    }

    /// What is added to the scores of shape `[N, heads, queries, keys]`: the mask, and what queries must not see by position
    /// or because it is padding.
    fn bias_of(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        [queries, keys]: [usize; 2],
        offset: i64,
    ) -> Result<Bias<'c, 'a>, Problem> {
        let node = call.node;
        let side = |name: &str| match node.int(name, -1)? {
            -1 => Ok(None),
            size if size >= 0 => Ok(Some(size)),
            size => invalid(format!("attribute '{name}' is {size}")),
        };
        let reach = Reach {
            causal: node.int("is_causal", 0)? != 0,
            left: side("left_window_size")?,
            right: side("right_window_size")?,
        };
        let mut bias = Bias::default();
        match call.optional(3) {
            None => {}
            Some(Entry::Constant(mask)) => bias.known = Some(self.known_mask(node.input(3), mask, keys)?),
            Some(_) => bias.computed = Some(self.computed_mask(call, keys)?),
        }
        if !reach.is_everything() || call.optional(6).is_some() {
            let samples = match call.optional(6) {
                Some(Entry::Constant(lengths)) => lengths.len(),
                _ => 1,
            };
            // What says for each pair whether it counts, which a small model may make large.
            let bytes = [queries, keys, samples].iter().fold(8u64, |bytes, &size| bytes.saturating_mul(size as u64));
            if bytes > self.room() {
                return Err(Problem::TooLarge(bytes));
            }
        }
        let allowed = |allowed: bool| if allowed { 0.0 } else { f32::NEG_INFINITY };
        let rows = || (0..queries).flat_map(|row| (0..keys).map(move |key| (row as i64, key as i64)));
        match call.optional(6) {
            None if reach.is_everything() => {}
            None => {
                let values: Vec<_> = rows()
                    .map(|(row, key)| {
                        let (first, last) = reach.keys(row, offset);
                        allowed((first..=last).contains(&key))
                    })
                    .collect();
                self.add_known(&mut bias, Tensor::floats(vec![queries, keys], values))?;
            }
            // As many keys of each sample are there, those of its queries the last.
            Some(Entry::Constant(lengths)) => {
                let Some(mut lengths) = lengths.known_ints() else {
                    return unsupported(format!("'{}' depends on the batch size", node.input(6)));
                };
                if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
                    lengths.truncate(1);
                }
                let mut values = Vec::with_capacity(lengths.len() * queries * keys);
                for &length in &lengths {
                    values.extend(rows().map(|(row, key)| {
                        let (first, last) = reach.keys(row, length.saturating_sub(queries as i64));
                        allowed((first..=last).contains(&key) && key < length)
                    }));
                }
                self.add_known(&mut bias, Tensor::floats(vec![lengths.len(), 1, queries, keys], values))?;
            }
            Some(_) => {
                let lengths = call.activation(6)?.clone();
                if lengths.rank() != 1 {
                    return invalid(format!("'{}' has the shape {}", node.input(6), show(&lengths.shape)));
                }
                let one = Dim::Fixed(1);
                let wide = self.emit.reshape(&lengths, &[lengths.shape[0], one, one, one])?;
                let wide = self.emit.cast(&wide, Element::F32)?;
                // A key is seen by samples of a length from `least` on, up to `most`.
                let (mut least, mut most) = (Vec::new(), Vec::new());
                for (row, key) in rows() {
                    let (first, last) = reach.keys(row, -(queries as i64));
                    let needed = if last == i64::MAX { key + 1 } else { (key + 1).max(key - last) };
                    least.push(needed as f32);
                    most.push(if first == i64::MIN { f32::INFINITY } else { (key - first) as f32 });
                }
                let grid = |values: Vec<f32>| Tensor::floats(vec![1, 1, queries, keys], values);
                let mut seen =
                    self.with_constant(Binary::GreaterEqual, &wide, &mask_name(call), &grid(least), false)?;
                if reach.left.is_some() {
                    let near = self.with_constant(Binary::GreaterEqual, &wide, &mask_name(call), &grid(most), true)?;
                    seen = self.pair(Binary::LogicalAnd, &seen, &near)?;
                }
                let padding = self.as_bias(&seen)?;
                bias.computed = Some(match bias.computed.take() {
                    Some(mask) => self.pair(Binary::Add, &mask, &padding)?,
                    None => padding,
                });
            }
        }
        Ok(bias)
    }

    /// Adds to the known part of a bias.
    fn add_known(&mut self, bias: &mut Bias<'c, 'a>, tensor: Tensor) -> Result<(), Problem> {
        bias.known = Some(match bias.known.take() {
            None => tensor,
            Some(mask) => {
                let Some(shape) = broadcast_shape(&mask.shape, &tensor.shape) else {
                    return invalid(format!("its mask of shape {:?} does not fit its scores", mask.shape));
                };
                let size = shape.iter().fold(4u64, |bytes, &size| bytes.saturating_mul(size as u64));
                if size > self.room() {
                    return Err(Problem::TooLarge(size));
                }
                let [a, b] = [&mask, &tensor].map(|each| each.broadcast(&shape).to_floats().unwrap_or_default());
                Tensor::floats(shape, a.iter().zip(b.iter()).map(|(a, b)| a + b).collect::<Vec<_>>())
            }
        });
        Ok(())
    }

    /// A constant mask as floats, its last axis as long as there are keys.
    fn known_mask(&self, name: &str, mask: &Tensor, keys: usize) -> Result<Tensor, Problem> {
        let Some(mut values) = mask.to_floats() else {
            return unsupported(format!("'{name}' depends on the batch size"));
        };
        if let Data::Bool(_) = mask.data {
            values = values.iter().map(|&seen| if seen != 0.0 { 0.0 } else { f32::NEG_INFINITY }).collect();
        }
        let length = mask.shape.last().copied().unwrap_or(1);
        if mask.shape.len() > 4 || length == 0 || length > keys {
            return invalid(format!("its mask '{name}' of shape {:?} does not fit {keys} keys", mask.shape));
        }
        let mut shape = mask.shape.clone();
        // One value may stand for all keys; a mask that is shorter otherwise leaves the last ones out.
        if let Some(last) = shape.last_mut().filter(|last| **last != 1 && **last < keys) {
            *last = keys;
            let padded = |row: &[f32]| {
                row.iter().copied().chain(std::iter::repeat_n(f32::NEG_INFINITY, keys - length)).collect::<Vec<_>>()
            };
            values = values.chunks(length).flat_map(padded).collect();
        }
        Ok(Tensor::floats(shape, values))
    }

    /// A mask that depends on the model's inputs as floats, its last axis as long as there are keys.
    fn computed_mask(&mut self, call: &Call<'_, 'c, 'a>, keys: usize) -> Result<Activation<'c, 'a>, Problem> {
        let name = call.node.input(3);
        let mut mask = call.activation(3)?.clone();
        if mask.element() == Element::Bool {
            mask = self.as_bias(&mask)?;
        }
        let length = mask.shape.last().and_then(|length| length.fixed()).unwrap_or(0);
        if !(1..=4).contains(&mask.rank()) || length == 0 || length > keys || mask.element() != Element::F32 {
            return invalid(format!(
                "its mask '{name}' of shape {} and {} does not fit {keys} keys",
                show(&mask.shape),
                mask.element()
            ));
        }
        let mut pad = vec![[0; 2]; mask.rank()];
        if length != 1 {
            pad[mask.rank() - 1][1] = keys - length;
        }
        self.emit.pad(&mask, &pad, f32::NEG_INFINITY)
    }

    /// 0 where a condition holds, else −∞.
    fn as_bias(&mut self, seen: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let rank = seen.rank();
        let [zero, never] = self.numbers(rank, [0.0, f32::NEG_INFINITY])?;
        self.selected(seen, &zero, &never)
    }

    /// Numbers to be broadcast.
    fn numbers(&mut self, rank: usize, values: [f32; 2]) -> Result<[Activation<'c, 'a>; 2], Problem> {
        let mut number = |value| self.materialized("", &Tensor::floats(vec![1; rank], [value]), None);
        Ok([number(values[0])?, number(values[1])?])
    }

    /// The scores with their bias, and the softmax of these: 0 for a query that may see nothing.
    fn attended(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        scores: &Activation<'c, 'a>,
        bias: Bias<'c, 'a>,
    ) -> Result<[Activation<'c, 'a>; 2], Problem> {
        let hides = |tensor: &Tensor| tensor.to_floats().is_some_and(|values| values.contains(&f32::NEG_INFINITY));
        let mut biased = scores.clone();
        let mut seen = None;
        match bias {
            Bias { known: None, computed: None } => {}
            Bias { known: Some(known), computed: None } => {
                biased = self.with_constant(Binary::Add, scores, &mask_name(call), &known, false)?;
                if hides(&known) {
                    let values = known.to_floats().unwrap_or_default();
                    let open: Vec<_> = values.iter().map(|&value| value > f32::NEG_INFINITY).collect();
                    let open = Tensor::bools(known.shape.clone(), open);
                    seen = Some(self.materialized("", &open, Some(Element::Bool))?);
                }
            }
            Bias { known, computed: Some(mut computed) } => {
                if let Some(known) = known {
                    computed = self.with_constant(Binary::Add, &computed, &mask_name(call), &known, false)?;
                }
                biased = self.pair(Binary::Add, scores, &computed)?;
                seen = Some(self.emit.with_scalar(Binary::Greater, &computed, f32::NEG_INFINITY)?);
            }
        }
        if biased.shape != scores.shape || element_count(&scores.shape).is_none() {
            return invalid(format!("its mask does not fit its scores of shape {}", show(&scores.shape)));
        }
        let Some(seen) = seen else {
            let probabilities = self.softmax_axis(false, &biased, 3)?;
            return Ok([biased, probabilities]);
        };
        let [zero, least] = self.numbers(4, [0.0, MASKED])?;
        let open = self.selected(&seen, &biased, &least)?;
        let shares = self.softmax_axis(false, &open, 3)?;
        let probabilities = self.selected(&seen, &shares, &zero)?;
        Ok([biased, probabilities])
    }
}

/// The name of a constant that masks scores.
fn mask_name(call: &Call<'_, '_, '_>) -> String {
    format!("{}.mask", call.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_sees() {
        let everything = Reach { causal: false, left: None, right: None };
        assert!(everything.is_everything());
        assert_eq!(everything.keys(3, 2), (i64::MIN, i64::MAX));
        let causal = Reach { causal: true, left: Some(2), right: Some(1) };
        assert_eq!(causal.keys(3, 2), (3, 5));
        let window = Reach { causal: false, left: Some(2), right: Some(1) };
        assert_eq!(window.keys(3, 0), (1, 4));
    }
}
