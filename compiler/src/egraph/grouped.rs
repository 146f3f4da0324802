//! Grouped convolutions, which TOSA has not: [`Custom::Conv2d`].

use melior::ir::OperationRef;
use mxc_dialects::{
    analog::Window,
    tosa::{Custom, CustomOp},
};

/// The attributes of a grouped convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Stride, padding and dilation.
    pub window: Window,
    /// The number of groups.
    pub groups: usize,
}

impl Grouped {
    /// Reads a `tosa.custom`; `None` when it is another operator or malformed.
    pub fn of(operation: &OperationRef<'_, '_>) -> Option<Self> {
        match CustomOp::parse(*operation).ok()??.custom {
            Custom::Conv2d { stride, pad, dilation, groups } => {
                Some(Self { window: Window { stride, pad, dilation }, groups })
            }
            _ => None,
        }
    }

    /// The operator with these attributes.
    pub fn custom(self) -> Custom {
        let Self { window: Window { stride, pad, dilation }, groups } = self;
        Custom::Conv2d { stride, pad, dilation, groups }
    }
}
