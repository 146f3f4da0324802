//! Deterministic numbers for initial weights and synthetic inputs: keyed by a seed, a name and an index, the same on
//! every machine.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A source of numbers for one purpose.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    key: u64,
}

impl Source {
    /// The source for a seed and a name.
    pub fn new(seed: u64, name: &str) -> Self {
        Self { key: xxh3_64_with_seed(name.as_bytes(), seed) }
    }

    /// 64 random bits.
    pub fn bits(self, index: u64) -> u64 {
        xxh3_64_with_seed(&index.to_le_bytes(), self.key)
    }

    /// Uniform in [0, 1).
    pub fn uniform(self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box-Muller).
    pub fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_are_standard() {
        let source = Source::new(1, "test");
        let values: Vec<f64> = (0..20_000).map(|index| source.normal(index)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        assert_ne!(Source::new(1, "a").bits(0), Source::new(1, "b").bits(0));
    }
}
