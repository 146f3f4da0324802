//! What moves elements. The batch must stay in front of a program value: where an operation moves it in the IR, the view changes
//! instead.

use super::{
    Bound, LoadError, Loader, View, constant_shape, dtype, fail, result, static_shape,
    view::{batch_axis, product},
};
use melior::ir::{OperationRef, operation::OperationLike};
use mxc_dialects::ir;
use mxc_runtime::program::{Broadcast, Concat, Pad, Reshape, Slice, Tile, Transpose};

impl<'c> Loader<'c, '_> {
    /// A constant, the same for every sample.
    pub(super) fn broadcast(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (name, weight) = self.constant(op, 0)?;
        let (_, view) = self.activation(op, 1)?;
        let shape = constant_shape(op, weight.shape(), view)?;
        let weight = weight.reshaped(shape).ok_or_else(|| fail(op, "its constant has a wrong size".into()))?;
        let constant = self.constant_value(op, name, weight)?;
        self.emit(op, Broadcast { batched: !view.whole }, &[constant], view)?;
        Ok(())
    }

    pub(super) fn tile(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let rank = self.program.value(input).shape.len();
        let times = self.integers(op, 1)?;
        if times.len() != view.rank(rank) {
            return Err(fail(op, "its multiples have another rank than its operand".into()));
        }
        let mut repeats = vec![1; rank];
        for (axis, &times) in times.iter().enumerate() {
            let times = usize::try_from(times).map_err(|_| fail(op, format!("{times} repeats of axis {axis}")))?;
            match view.axis(axis) {
                Some(axis) => repeats[axis] = times,
                None if times == 1 => {}
                None => return Err(fail(op, "it repeats the batch".into())),
            }
        }
        self.emit(op, Tile { repeats }, &[input], view)?;
        Ok(())
    }

    pub(super) fn concat(&mut self, op: &OperationRef<'c, '_>, axis: i32) -> Result<(), LoadError> {
        let all: Vec<usize> = (0..op.operand_count()).collect();
        let (inputs, view) = self.operands(op, &all)?;
        let axis = self.axis(op, view, axis.into())?;
        self.emit(op, Concat { axis }, &inputs, view)?;
        Ok(())
    }

    pub(super) fn slice(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let starts = self.integers(op, 1)?;
        let rank = self.program.value(input).shape.len();
        let size = self.shape(op, view)?;
        if size.len() != rank || starts.len() != view.rank(rank) {
            return Err(fail(op, "its start has another rank than its operand".into()));
        }
        let mut start = vec![0; rank];
        for (axis, &first) in starts.iter().enumerate() {
            let first =
                usize::try_from(first).map_err(|_| fail(op, format!("its start on axis {axis} is not known")))?;
            match view.axis(axis) {
                Some(axis) => start[axis] = first,
                None if first == 0 => {}
                None => return Err(fail(op, "it cuts the batch".into())),
            }
        }
        self.emit(op, Slice { start, size }, &[input], view)?;
        Ok(())
    }

    pub(super) fn pad(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let amounts = self.integers(op, 1)?;
        let value = match self.constant(op, 2)?.1.values() {
            [value] => *value,
            _ => return Err(fail(op, "its pad value must be one number".into())),
        };
        let rank = self.program.value(input).shape.len();
        if amounts.len() != 2 * (view.rank(rank)) {
            return Err(fail(op, "its padding has another rank than its operand".into()));
        }
        let mut pad = vec![[0; 2]; rank];
        for (axis, amounts) in amounts.chunks_exact(2).enumerate() {
            let amount = |index: usize| {
                usize::try_from(amounts[index])
                    .map_err(|_| fail(op, format!("its padding on axis {axis} is not known")))
            };
            let amounts = [amount(0)?, amount(1)?];
            match view.axis(axis) {
                Some(axis) => pad[axis] = amounts,
                None if amounts == [0, 0] => {}
                None => return Err(fail(op, "it pads the batch".into())),
            }
        }
        self.emit(op, Pad { pad, value }, &[input], view)?;
        Ok(())
    }

    pub(super) fn reshape(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let value = result(op)?;
        let target = ir::value_shape(value)
            .filter(|_| dtype(value).is_some())
            .ok_or_else(|| fail(op, "its result must be a ranked tensor of f32, i32, i64 or i1".into()))?;
        let (input, _) = match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) => (input, view),
            Bound::Constant(name, weight) => {
                let reshaped = target
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .and_then(|shape| weight.reshaped(shape))
                    .ok_or_else(|| fail(op, "its constant operand has another size".into()))?;
                self.bind(value, Bound::Constant(name, reshaped));
                return Ok(());
            }
            Bound::Words(..) => return Err(fail(op, "words cannot be reshaped".into())),
            Bound::Integers(values, _) => {
                let shape = static_shape(value).filter(|shape| shape.iter().product::<usize>() == values.len());
                let shape = shape.ok_or_else(|| fail(op, "its constant operand has another size".into()))?;
                self.bind(value, Bound::Integers(values, shape));
                return Ok(());
            }
        };
        let shape = self.program.value(input).shape.clone();
        if self.whole {
            self.emit(op, Reshape { shape: target }, &[input], View::WHOLE)?;
            return Ok(());
        }
        let elements = product(&shape[1..]).unwrap_or(0);
        let view = batch_axis(&target, self.batch, elements).ok_or_else(|| {
            fail(op, format!("{elements} values per sample cannot become {target:?} with the batch in front"))
        })?;
        let to = self.shape(op, view)?;
        if product(&to[1..]) != Some(elements) {
            return Err(fail(op, format!("{shape:?} and {to:?} differ in size")));
        }
        if to == shape {
            self.bind(value, Bound::Activation(input, view));
        } else {
            self.emit(op, Reshape { shape: to }, &[input], view)?;
        }
        Ok(())
    }

    pub(super) fn transpose(&mut self, op: &OperationRef<'c, '_>, perms: &[i32]) -> Result<(), LoadError> {
        let perms: Vec<usize> = perms.iter().map(|&axis| usize::try_from(axis).unwrap_or(usize::MAX)).collect();
        let mut sorted = perms.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..perms.len()) {
            return Err(fail(op, format!("{perms:?} is no permutation")));
        }
        let (input, view) = match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) => (input, view),
            Bound::Constant(name, weight) => {
                let transposed = weight
                    .transposed(&perms)
                    .ok_or_else(|| fail(op, "its constant operand has another rank".into()))?;
                self.bind(result(op)?, Bound::Constant(name, transposed));
                return Ok(());
            }
            Bound::Integers(..) | Bound::Words(..) => return Err(fail(op, "integers cannot be transposed".into())),
        };
        let shape = self.program.value(input).shape.clone();
        if perms.len() != view.rank(shape.len()) {
            return Err(fail(op, "its permutation has another rank than its operand".into()));
        }
        if view.whole {
            self.emit(op, Transpose { perms }, &[input], view)?;
            return Ok(());
        }
        // Each IR axis as program axes: none for a leading 1, one or two for the batch.
        let program: Vec<usize> = perms
            .iter()
            .flat_map(|&axis| match view.axis(axis) {
                Some(axis) => axis..axis + 1,
                None if axis == view.lead => 0..view.head(),
                None => 0..0,
            })
            .collect();
        let lead = perms
            .iter()
            .position(|&axis| axis == view.lead)
            .filter(|_| program.first() == Some(&0))
            .ok_or_else(|| fail(op, "it moves the batch from the front".into()))?;
        let moved = View { lead, ..view };
        if program.iter().copied().eq(0..shape.len()) {
            // Only axes of size 1 move.
            if self.shape(op, moved)? == shape {
                self.bind(result(op)?, Bound::Activation(input, moved));
            } else {
                self.emit(op, Reshape { shape: self.shape(op, moved)? }, &[input], moved)?;
            }
            return Ok(());
        }
        self.emit(op, Transpose { perms: program }, &[input], moved)?;
        Ok(())
    }
}
