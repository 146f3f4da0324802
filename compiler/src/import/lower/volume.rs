//! Convolutions over three spatial axes as one convolution over two.
//!
//! The taps of the window along depth and height become channels, the positions along depth and height the rows:
//! `[N, D, H, W, C]` → `[N, D'·H', W, KH·KD·C]`, which a window of one row, KW wide, turns into `[N, D'·H', W', O]`. So a layer stays
//! one stationary product with one output, every multiplication is one that ONNX's definition has, and the input is held
//! KD·KH times while the layer runs.

use super::{
    call::Lowering,
    conv::{Filter, Kernel, Window},
};
use crate::import::{
    emit::{Activation, NHWC, check_picked, logical},
    error::{Problem, unsupported},
    tensor::{Dim, show},
};

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// A convolution over three spatial axes of an input `[N, C, D, H, W]`.
    pub(super) fn volume(
        &mut self,
        input: &Activation<'c, 'a>,
        kernel: Kernel<'_, 'c, 'a>,
        window: &Window<3>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let &[outputs, depth, taps_deep, taps_high, taps_wide] = kernel.filter.shape() else {
            return unsupported("windows over other than three spatial axes");
        };
        let &[batch, Dim::Fixed(channels), _, _, Dim::Fixed(width)] = input.shape.as_slice() else {
            return unsupported(format!("its input's channels and width must be fixed, not {}", show(&input.shape)));
        };
        let source = self.emit.channels_last(input)?;
        // [N, D, H, W, groups, C / groups], so that a group's channels stay together.
        let split = [&source.physical()[..4], &[kernel.groups, channels / kernel.groups].map(Dim::Fixed)].concat();
        let value = self.emit.reshape_raw(source.value, &source.physical(), &split)?;
        let mut unfolded = Activation { value, shape: split, order: logical(6) };
        for axis in 0..2 {
            let pad = window.pad[axis];
            let mut border = [[0; 2]; 6];
            border[axis + 1] = pad;
            let padded = self.emit.pad(&unfolded, &border, 0.0)?;
            check_picked(window.output[axis].saturating_mul(window.kernel[axis]))?;
            let mut parts = Vec::with_capacity(window.kernel[axis]);
            for step in 0..window.kernel[axis] {
                let first = step * window.dilation[axis];
                let rows: Vec<_> = (0..window.output[axis]).map(|at| first + at * window.stride[axis]).collect();
                parts.push(self.emit.take(&padded, axis + 1, &rows)?);
            }
            unfolded = self.emit.concat(&parts, 5)?;
        }
        let rows = window.output[0].saturating_mul(window.output[1]);
        let wide = channels.saturating_mul(taps_deep).saturating_mul(taps_high);
        let flat = [batch, Dim::Fixed(rows), Dim::Fixed(width), Dim::Fixed(wide)];
        let value = self.emit.reshape_raw(unfolded.value, &unfolded.shape, &flat)?;
        let plane = Activation { value, shape: vec![flat[0], flat[3], flat[1], flat[2]], order: NHWC.to_vec() };
        // [O, I, KD, KH, KW] → [O, KH·KD·I, 1, KW]
        let (perms, sizes) = ([0, 3, 2, 1, 4], [outputs, taps_high * taps_deep * depth, 1, taps_wide]);
        let filter = match &kernel.filter {
            Filter::Stationary(weight) => Filter::Stationary(weight.transposed(&perms).reshaped(sizes.to_vec())),
            Filter::Computed(weight, _) => {
                let moved = self.permuted(weight, &perms);
                Filter::Computed(self.emit.reshape(&moved, &sizes.map(Dim::Fixed))?, sizes.to_vec())
            }
        };
        let line = Window {
            kernel: [1, taps_wide],
            stride: [1, window.stride[2]],
            dilation: [1, window.dilation[2]],
            pad: [[0; 2], window.pad[2]],
            output: [rows, window.output[2]],
            crop: [0, window.crop[2]],
        };
        let result = self.plane(&plane, Kernel { filter, ..kernel }, &line)?;
        let [deep, high, across] = window.output.map(Dim::Fixed);
        let physical = [batch, deep, high, across, Dim::Fixed(outputs)];
        let value = self.emit.reshape_raw(result.value, &result.physical(), &physical)?;
        Ok(Activation { value, shape: vec![batch, physical[4], deep, high, across], order: vec![0, 2, 3, 4, 1] })
    }
}
