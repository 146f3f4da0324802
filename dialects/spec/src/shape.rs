//! The shape rules of matrix-vector multiplications, once for the verifier and for the runtime. A dimension that is `None` is not
//! known: the batch.

/// The window of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Vertical, horizontal.
    pub stride: [usize; 2],
    /// Top, bottom, left, right.
    pub pad: [usize; 4],
    /// Vertical, horizontal.
    pub dilation: [usize; 2],
}

impl Window {
    /// The output's height or width (`axis` 0 or 1) with floor semantics; `None` when the window does not fit.
    pub fn output_size(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let padded = input.checked_add(self.pad[2 * axis])?.checked_add(self.pad[2 * axis + 1])?;
        let window = kernel.checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
        Some(padded.checked_sub(window)?.checked_div(self.stride[axis])? + 1)
    }
}

/// A shape as MLIR writes it, as in `[?, 8, 8, 16]`.
pub fn show(shape: &[Option<usize>]) -> String {
    let sizes: Vec<_> = shape.iter().map(|size| size.map_or("?".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

/// The output of a convolution: input NHWC, weight OHWI with I = C / groups. Errors say what does not fit.
pub fn convolution(
    input: &[Option<usize>],
    weight: &[usize],
    window: &Window,
    groups: usize,
) -> Result<Vec<Option<usize>>, String> {
    let [batch, height, width, Some(inputs)] = *input else {
        return Err(format!("the input {} is not NHWC with static channels", show(input)));
    };
    let [outputs, rows, columns, depth] = *weight else {
        return Err(format!("the weight {weight:?} has not rank 4"));
    };
    if groups == 0 || depth.checked_mul(groups) != Some(inputs) || !outputs.is_multiple_of(groups) {
        return Err(format!("the weight (OHWI) {weight:?} does not fit {inputs} input channels in {groups} groups"));
    }
    if window.stride.contains(&0) || window.dilation.contains(&0) {
        return Err("stride and dilation must be positive".to_owned());
    }
    let kernel = [rows, columns];
    let size = |axis: usize, size: Option<usize>| {
        let fits = |size| window.output_size(axis, size, kernel[axis]);
        let misfit = || format!("a window of {kernel:?} does not fit the input {}", show(input));
        size.map(|size| fits(size).ok_or_else(misfit)).transpose()
    };
    Ok(vec![batch, size(0, height)?, size(1, width)?, Some(outputs)])
}

/// The output of a fully connected layer: input `[…, I]`, weight `[O, I]`. Errors say what does not fit.
pub fn fully_connected(input: &[Option<usize>], weight: &[usize]) -> Result<Vec<Option<usize>>, String> {
    let [outputs, inputs] = *weight else {
        return Err(format!("the weight {weight:?} is not [outputs, inputs]"));
    };
    let (last, leading) = input.split_last().ok_or("the input has rank 0")?;
    if *last != Some(inputs) {
        return Err(format!("the input is {} but the weight has {inputs} inputs", show(input)));
    }
    Ok([leading, &[Some(outputs)]].concat())
}

/// Checks a bias: one value per output channel.
pub fn bias(bias: &[Option<usize>], outputs: usize) -> Result<(), String> {
    if bias == [Some(outputs)] {
        return Ok(());
    }
    Err(format!("the bias is {} but there are {outputs} output channels", show(bias)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_floors() {
        let window = Window { stride: [2, 2], pad: [1, 1, 1, 1], dilation: [1, 2] };
        assert_eq!(window.output_size(0, 8, 3), Some(4));
        assert_eq!(window.output_size(1, 8, 3), Some(3));
        assert_eq!(window.output_size(0, 0, 3), None);
        let zero = Window { stride: [0, 1], ..window };
        assert_eq!(zero.output_size(0, 8, 3), None);
    }
}
