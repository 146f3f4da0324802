//! The operators of a program: one file a family with all that an operator means: what operands it takes and what type its
//! result has, the steps that compute it, their kernels forward and backward, and its plain meaning in f64.

pub(crate) mod analog;
pub mod binary;
pub mod choose;
pub mod convolution;
pub mod denoise;
pub mod indexed;
pub mod layout;
pub mod operator;
pub(crate) mod plain;
pub mod pool;
pub mod product;
pub mod reduce;
pub(crate) mod reference;
pub mod sample;
pub mod tile;
pub mod unary;

use crate::program::value::LayerId;
use operator::Operator;

impl Op {
    /// The analog layer that runs as it, if it runs on tiles.
    pub fn analog_layer(&self) -> Option<LayerId> {
        match self {
            Self::Conv2d(op) => op.layer,
            Self::FullyConnected(op) => op.layer,
            _ => None,
        }
    }

    /// The layer that it cleans, if it is a denoiser.
    pub fn cleans(&self) -> Option<LayerId> {
        match self {
            Self::Denoise(op) => Some(op.layer),
            Self::DenoiseTile(op) => Some(op.layer),
            _ => None,
        }
    }
}

/// Every operator: the enumeration, and what each says of itself.
macro_rules! operators {
    ($($(#[$doc:meta])* $name:ident($type:ty),)*) => {
        /// What a node computes. TOSA's semantics unless said otherwise.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name($type),)*
        }

        impl Op {
            /// Its name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }

            /// What it says of itself.
            pub(crate) fn operator(&self) -> &dyn Operator {
                match self {
                    $(Self::$name(operator) => operator,)*
                }
            }
        }

        $(impl From<$type> for Op {
            fn from(operator: $type) -> Self {
                Self::$name(operator)
            }
        })*
    };
}

operators! {
    /// A convolution.
    Conv2d(convolution::Conv2d),
    /// A product with a constant matrix.
    FullyConnected(product::FullyConnected),
    /// A product of two activations.
    MatMul(product::MatMul),
    /// A layer's denoiser.
    Denoise(denoise::Denoise),
    /// A layer's denoisers in integers.
    DenoiseTile(tile::DenoiseTile),
    /// Elementwise with one operand.
    Unary(unary::Unary),
    /// Elementwise with two operands.
    Binary(binary::Binary),
    /// A conversion.
    Cast(choose::Cast),
    /// One of two values by a condition.
    Select(choose::Select),
    /// A window's mean or maximum.
    Pool(pool::Pool),
    /// One axis to size 1.
    Reduce(reduce::Reduce),
    /// The place of the greatest.
    ArgMax(reduce::ArgMax),
    /// Running sums.
    CumSum(reduce::CumSum),
    /// The same elements in another shape.
    Reshape(layout::Reshape),
    /// A constant for every sample.
    Broadcast(layout::Broadcast),
    /// Axes in another order.
    Transpose(layout::Transpose),
    /// Operands joined.
    Concat(layout::Concat),
    /// A part.
    Slice(layout::Slice),
    /// A border around.
    Pad(layout::Pad),
    /// Repetitions.
    Tile(layout::Tile),
    /// Slices at indices.
    Take(indexed::Take),
    /// Elements at indices.
    Pick(indexed::Pick),
    /// Elements put at indices.
    Scatter(indexed::Scatter),
    /// The indices that sort.
    TopK(indexed::TopK),
    /// Values between samples.
    GridSample(sample::GridSample),
}
