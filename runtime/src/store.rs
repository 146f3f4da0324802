//! The weight store: named f32 tensors, memory-mapped where they come from a file and never copied per pass.

use memmap2::Mmap;
use std::{collections::BTreeMap, sync::Arc};

/// Where a weight's values live.
#[derive(Clone, Debug)]
enum Values {
    Owned(Arc<[f32]>),
    /// `len` little-endian f32 at a 4-byte aligned `offset` of a mapped file.
    Mapped {
        map: Arc<Mmap>,
        offset: usize,
        len: usize,
    },
}

/// One tensor: its shape and its values in row-major order. Cloning shares the values.
#[derive(Clone, Debug)]
pub struct Weight {
    shape: Vec<usize>,
    values: Values,
}

impl Weight {
    /// A tensor that owns its values; `None` when the shape's product is not their number.
    pub fn new(shape: Vec<usize>, values: impl Into<Arc<[f32]>>) -> Option<Self> {
        let values = values.into();
        (shape.iter().product::<usize>() == values.len()).then_some(Self {
            shape,
            values: Values::Owned(values),
        })
    }

    /// A tensor in a mapped file; `None` when it reaches past the end or is not 4-byte aligned.
    pub fn mapped(shape: Vec<usize>, map: Arc<Mmap>, offset: usize) -> Option<Self> {
        let len = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let bytes = map.get(offset..offset.checked_add(len.checked_mul(4)?)?)?;
        bytemuck::try_cast_slice::<u8, f32>(bytes).ok()?;
        Some(Self {
            shape,
            values: Values::Mapped { map, offset, len },
        })
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        match &self.values {
            Values::Owned(values) => values,
            // `mapped` has checked bounds and alignment.
            Values::Mapped { map, offset, len } => {
                bytemuck::cast_slice(&map[*offset..*offset + *len * 4])
            }
        }
    }
}

/// Named weights, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct WeightStore {
    weights: BTreeMap<String, Weight>,
}

impl WeightStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a weight.
    pub fn insert(&mut self, name: impl Into<String>, weight: Weight) {
        self.weights.insert(name.into(), weight);
    }

    /// Removes a weight.
    pub fn remove(&mut self, name: &str) -> Option<Weight> {
        self.weights.remove(name)
    }

    /// A weight by name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name)
    }

    /// All weights by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.weights
            .iter()
            .map(|(name, weight)| (name.as_str(), weight))
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether the store holds nothing.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Keeps the weights for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.weights.retain(|name, _| keep(name));
    }
}
