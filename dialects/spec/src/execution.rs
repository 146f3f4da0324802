//! How a layer's products are computed.

/// The most reads of a product that are averaged: more would cut the noise to less than an eighth.
pub const MAX_READS: u32 = 64;

/// Where a layer's products are computed, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// On the layer's analog tiles.
    Analog {
        /// How often each product is computed, of which the mean is taken digitally: 1 to [`MAX_READS`].
        reads: u32,
    },
    /// On a digital unit: without noise and without converters.
    Digital,
}

impl Default for Execution {
    /// On its tiles, once.
    fn default() -> Self {
        Self::Analog { reads: 1 }
    }
}

impl Execution {
    /// How often a tile computes each product.
    pub fn reads(self) -> u32 {
        match self {
            Self::Analog { reads } => reads,
            Self::Digital => 0,
        }
    }
}
