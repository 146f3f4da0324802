//! The digital tile's units.

/// A unit of the tile: the control unit enables one in every phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Moves words between the accelerator's buffers and the tile's memories.
    Transfer,
    /// The systolic cores.
    Convolution,
    /// LeakyReLU.
    LeakyRelu,
    /// The LFSRs, the uniform-to-normal converters and the cancellation that they feed.
    NoiseCancellation,
    /// A scale and a shift per channel.
    Affine,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 5] =
        [Self::Transfer, Self::Convolution, Self::LeakyRelu, Self::NoiseCancellation, Self::Affine];

    /// What `dtile.phase` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Convolution => "convolution",
            Self::LeakyRelu => "leaky_relu",
            Self::NoiseCancellation => "noise_cancellation",
            Self::Affine => "affine",
        }
    }

    /// The unit of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }
}
