//! Samples in memory: those of a caller, and those of files that are read as a whole.

use super::{Layout, Pixels, Samples};
use std::sync::Arc;

/// Samples of a caller: images as bytes, or values as the model takes them. Clones share them.
///
/// ```
/// use mxc_runtime::data::Memory;
/// let two = Memory::floats(&[2, 1, 2, 2], vec![0.5; 8], Some(vec![3, 7])).unwrap();
/// assert_eq!(two.len(), 2);
/// assert!(Memory::floats(&[2, 1, 2, 2], vec![0.5; 7], None).is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Memory(pub(super) Arc<Samples>);

impl Memory {
    /// Images of bytes, [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels: they are sized and normalized as the package says.
    ///
    /// # Errors
    ///
    /// One message: the shape is none of these, or values or labels are not as many as it says.
    pub fn bytes(shape: &[usize], values: Vec<u8>, labels: Option<Vec<u32>>) -> Result<Self, String> {
        check(shape, values.len())?;
        Self::of(shape, bytes(shape, values)?, labels)
    }

    /// Values as the model takes them, [N, …].
    ///
    /// # Errors
    ///
    /// One message: values or labels are not as many as the shape says.
    pub fn floats(shape: &[usize], values: Vec<f32>, labels: Option<Vec<u32>>) -> Result<Self, String> {
        check(shape, values.len())?;
        Self::of(shape, Pixels::Floats(values, shape.get(1..).unwrap_or_default().to_vec()), labels)
    }

    fn of(shape: &[usize], pixels: Pixels, labels: Option<Vec<u32>>) -> Result<Self, String> {
        let samples = shape.first().copied().unwrap_or(0);
        match &labels {
            Some(labels) if labels.len() != samples => Err(format!("{samples} samples but {} labels", labels.len())),
            _ => Ok(Self(Arc::new(Samples { pixels, labels }))),
        }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// So many values as a shape holds.
fn check(shape: &[usize], values: usize) -> Result<(), String> {
    let size = shape.iter().try_fold(1usize, |size, &next| size.checked_mul(next));
    match size {
        Some(size) if size == values => Ok(()),
        _ => Err(format!("{values} values for the shape {shape:?}")),
    }
}

/// Images of a shape.
pub(super) fn bytes(shape: &[usize], values: Vec<u8>) -> Result<Pixels, String> {
    let (shape, channels_last) = match *shape {
        [_, height, width] => ([height, width, 1], true),
        // Channels are the axis of 1 or 3, last if both could be.
        [_, height, width, channels @ (1 | 3)] => ([height, width, channels], true),
        [_, channels @ (1 | 3), height, width] => ([height, width, channels], false),
        _ => {
            return Err(format!(
                "shape {shape:?}; images are [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"
            ));
        }
    };
    Ok(Pixels::Bytes(values, Layout { shape, channels_last }))
}
