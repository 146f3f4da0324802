//! What goes by indices, and what runs along an axis.

use super::{Bound, LoadError, Loader, fail};
use melior::ir::OperationRef;
use mxc_dialects::tosa;
use mxc_runtime::program::{
    CumSum, DType, GridSample, Interpolation, Padding, Pick, Sampling, Scatter, Scattering, Take, TopK,
};

impl<'c> Loader<'c, '_> {
    /// Slices of an operand along an axis.
    pub(super) fn take(&mut self, op: &OperationRef<'c, '_>, axis: usize) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = self.axis(op, view, axis as i64)?;
        let size = self.program.value(input).shape.get(axis).copied().flatten().unwrap_or(0);
        let indices = match self.operand(op, 1)?.clone() {
            Bound::Integers(values, shape) if shape.len() == 1 => {
                if values.iter().any(|&index| usize::try_from(index).is_ok_and(|index| index >= size) || index < 0) {
                    return Err(fail(op, format!("an index is out of range for an axis of size {size}")));
                }
                self.integer_value(op, &values, shape, DType::I64)?
            }
            _ => return Err(fail(op, "its indices must be one axis of constant integers".into())),
        };
        self.emit(op, Take { axis }, &[input, indices], view)?;
        Ok(())
    }

    /// Elements along an axis at computed indices.
    pub(super) fn pick(&mut self, op: &OperationRef<'c, '_>, axis: usize) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1])?;
        let axis = self.axis(op, view, axis as i64)?;
        self.emit(op, Pick { axis }, &inputs, view)?;
        Ok(())
    }

    /// Updates put at computed indices.
    pub(super) fn scatter(
        &mut self,
        op: &OperationRef<'c, '_>,
        axis: usize,
        reduction: tosa::Scattering,
    ) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1, 2])?;
        let axis = self.axis(op, view, axis as i64)?;
        let reduction = match reduction {
            tosa::Scattering::Replace => Scattering::Replace,
            tosa::Scattering::Add => Scattering::Add,
            tosa::Scattering::Mul => Scattering::Mul,
            tosa::Scattering::Max => Scattering::Max,
            tosa::Scattering::Min => Scattering::Min,
        };
        self.emit(op, Scatter { axis, reduction }, &inputs, view)?;
        Ok(())
    }

    /// The indices that sort an axis.
    pub(super) fn top_k(
        &mut self,
        op: &OperationRef<'c, '_>,
        axis: usize,
        count: usize,
        largest: bool,
    ) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = self.axis(op, view, axis as i64)?;
        self.emit(op, TopK { axis, count, largest }, &[input], view)?;
        Ok(())
    }

    /// Running sums along an axis.
    pub(super) fn cum_sum(
        &mut self,
        op: &OperationRef<'c, '_>,
        axis: usize,
        exclusive: bool,
        reverse: bool,
    ) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = self.axis(op, view, axis as i64)?;
        self.emit(op, CumSum { axis, exclusive, reverse }, &[input], view)?;
        Ok(())
    }

    /// A value interpolated at computed points.
    pub(super) fn grid_sample(
        &mut self,
        op: &OperationRef<'c, '_>,
        mode: tosa::Interpolation,
        padding: tosa::Padding,
        align_corners: bool,
    ) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1])?;
        let interpolation = match mode {
            tosa::Interpolation::Nearest => Interpolation::Nearest,
            tosa::Interpolation::Linear => Interpolation::Linear,
            tosa::Interpolation::Cubic => Interpolation::Cubic,
        };
        let padding = match padding {
            tosa::Padding::Zeros => Padding::Zeros,
            tosa::Padding::Border => Padding::Border,
            tosa::Padding::Reflection => Padding::Reflection,
        };
        let sampling = Sampling { interpolation, padding, align_corners };
        self.emit(op, GridSample(sampling), &inputs, view)?;
        Ok(())
    }
}
