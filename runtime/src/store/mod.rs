//! The weight store: named f32 tensors, memory-mapped where they come from a file and never copied per pass.

pub(crate) mod ffi;

use safetensors::{Dtype, SafeTensors};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, OnceLock},
};

/// The alignment in bytes of the data section of what [`WeightStore::write_safetensors`] writes.
pub const ALIGNMENT: usize = 64;

/// Why a safetensors file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or mapped.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not a valid safetensors file.
    #[error("{name}: not a valid safetensors file: {reason}")]
    Format {
        /// The file or package entry.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor's element type is not f32.
    #[error("{name}: tensor `{tensor}` has element type {dtype:?}; only F32 is supported, convert it first")]
    ElementType {
        /// The file or package entry.
        name: String,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
}

/// Bytes that weights refer to for as long as they live: a mapped file's, or a caller's. Clones share them.
#[derive(Clone)]
pub struct Bytes(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Bytes {
    /// The bytes of `owner`, which gives the same ones whenever it is asked and is dropped with the last weight.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(owner))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bytes").field(&self.len()).finish()
    }
}

/// Where a weight's values live.
#[derive(Clone, Debug)]
enum Values {
    Owned(Arc<[f32]>),
    /// `len` little-endian f32 at a 4-byte aligned `offset`.
    Mapped {
        map: Bytes,
        offset: usize,
        len: usize,
    },
    /// The same value `len` times, written out when somebody reads them.
    Fill {
        value: f32,
        len: usize,
        written: Arc<OnceLock<Arc<[f32]>>>,
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
        (shape.iter().product::<usize>() == values.len()).then_some(Self { shape, values: Values::Owned(values) })
    }

    /// A tensor of one value, which takes no memory until its values are read; `None` when its size overflows.
    pub fn fill(shape: Vec<usize>, value: f32) -> Option<Self> {
        let len = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        Some(Self { shape, values: Values::Fill { value, len, written: Arc::default() } })
    }

    /// A tensor whose values stay where they are; `None` when it reaches past the end or is not 4-byte aligned.
    pub fn mapped(shape: Vec<usize>, map: Bytes, offset: usize) -> Option<Self> {
        let len = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let bytes = map.get(offset..offset.checked_add(len.checked_mul(4)?)?)?;
        bytemuck::try_cast_slice::<u8, f32>(bytes).ok()?;
        Some(Self { shape, values: Values::Mapped { map, offset, len } })
    }

    /// The same values under another shape; `None` when it holds another number of them.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        let len = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        (len == self.len()).then(|| Self { shape, values: self.values.clone() })
    }

    /// A copy with permuted axes, result axis `i` being axis `perms[i]`; `None` unless `perms` permutes the axes.
    pub fn transposed(&self, perms: &[usize]) -> Option<Self> {
        let rank = self.shape.len();
        let mut sorted = perms.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return None;
        }
        if let Values::Fill { value, .. } = self.values {
            return Self::fill(perms.iter().map(|&axis| self.shape[axis]).collect(), value);
        }
        Self::new(perms.iter().map(|&axis| self.shape[axis]).collect(), permuted(self.values(), &self.shape, perms))
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The value that all are, bit for bit.
    pub fn repeated(&self) -> Option<f32> {
        match &self.values {
            Values::Fill { value, len, .. } => (*len > 0).then_some(*value),
            _ => {
                let (&first, rest) = self.values().split_first()?;
                rest.iter().all(|value| value.to_bits() == first.to_bits()).then_some(first)
            }
        }
    }

    /// The number of values that reading them would write out.
    pub(crate) fn unwritten(&self) -> usize {
        match &self.values {
            Values::Fill { len, .. } => *len,
            _ => 0,
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Owned(values) => values.len(),
            Values::Mapped { len, .. } | Values::Fill { len, .. } => *len,
        }
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both hold the same values in row-major order, bit for bit, in whatever shape.
    pub(crate) fn same_values(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let all = |weight: &Self, value: f32| weight.repeated().is_some_and(|all| all.to_bits() == value.to_bits());
        match (&self.values, &other.values) {
            (Values::Fill { value, len, .. }, _) => *len == 0 || all(other, *value),
            (_, Values::Fill { value, len, .. }) => *len == 0 || all(self, *value),
            _ => {
                let (own, others) = (self.values(), other.values());
                let words = bytemuck::cast_slice::<f32, u32>;
                std::ptr::eq(own, others) || words(own) == words(others)
            }
        }
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        match &self.values {
            Values::Fill { value, len, written } => written.get_or_init(|| vec![*value; *len].into()),
            Values::Owned(values) => values,
            // `mapped` has checked bounds and alignment.
            Values::Mapped { map, offset, len } => bytemuck::cast_slice(&map[*offset..*offset + *len * 4]),
        }
    }
}

/// By shape and values, bit for bit. Values that are shared, and those of fills, are not read.
impl PartialEq for Weight {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.same_values(other)
    }
}

/// The elements of a row-major tensor with permuted axes, result axis `i` being axis `perms[i]`.
///
/// # Panics
///
/// Unless `perms` permutes the axes of `shape`, and `source` has as many elements.
pub fn permuted<T: Copy>(source: &[T], shape: &[usize], perms: &[usize]) -> Arc<[T]> {
    let strides = |shape: &[usize]| {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        strides
    };
    let (from, sizes) = (strides(shape), perms.iter().map(|&axis| shape[axis]).collect::<Vec<_>>());
    let steps: Vec<usize> = perms.iter().map(|&axis| from[axis]).collect();
    let to = strides(&sizes);
    let (Some(&first), Some(last)) = (source.first(), perms.len().checked_sub(1)) else {
        return source.into();
    };
    // One allocation: weights can be most of what the machine holds.
    let mut result: Arc<[T]> = std::iter::repeat_n(first, source.len()).collect();
    let Some(out) = Arc::get_mut(&mut result) else {
        return result;
    };
    // The result axis along which the source is contiguous. Squares of it and of the last axis stay in the cache.
    const SQUARE: usize = 16;
    let contiguous = steps.iter().rposition(|&step| step == 1).unwrap_or(last);
    let outer: Vec<usize> = (0..perms.len()).filter(|&axis| axis != last && axis != contiguous).collect();
    let mut index = vec![0; outer.len()];
    loop {
        let offset = |strides: &[usize]| outer.iter().zip(&index).map(|(&axis, at)| at * strides[axis]).sum::<usize>();
        let (read, write) = (offset(&steps), offset(&to));
        if contiguous == last {
            out[write..write + sizes[last]].copy_from_slice(&source[read..read + sizes[last]]);
        } else {
            for rows in (0..sizes[contiguous]).step_by(SQUARE) {
                for columns in (0..sizes[last]).step_by(SQUARE) {
                    for row in rows..(rows + SQUARE).min(sizes[contiguous]) {
                        let out = &mut out[write + row * to[contiguous]..][..sizes[last]];
                        for column in columns..(columns + SQUARE).min(sizes[last]) {
                            out[column] = source[read + row + column * steps[last]];
                        }
                    }
                }
            }
        }
        let Some(axis) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < sizes[outer[axis]]) else {
            return result;
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
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
        self.weights.iter().map(|(name, weight)| (name.as_str(), weight))
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

    /// The weights of both stores; values are shared. Where both have a name, `other`'s weight counts.
    pub fn union(&self, other: &Self) -> Self {
        let mut weights = self.weights.clone();
        weights.extend(other.weights.iter().map(|(name, weight)| (name.clone(), weight.clone())));
        Self { weights }
    }

    /// The total number of values.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|weight| weight.len()).sum()
    }

    /// Maps a safetensors file. The file must not change while the store or its weights live.
    pub fn open_safetensors(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let io = |source| StoreError::Io { path: name.clone(), source };
        let file = File::open(path).map_err(io)?;
        let map = Bytes::new(ffi::map(&file).map_err(io)?);
        let len = map.len();
        Self::from_mapped(&map, 0, len, &name)
    }

    /// The weights of the safetensors image at `offset..offset + len`; `name` is what errors call it.
    ///
    /// Weights refer to the bytes where their data is 4-byte aligned, else they are copied.
    pub fn from_mapped(map: &Bytes, offset: usize, len: usize, name: &str) -> Result<Self, StoreError> {
        let format = |reason: String| StoreError::Format { name: name.to_owned(), reason };
        let image = offset
            .checked_add(len)
            .and_then(|end| map.get(offset..end))
            .ok_or_else(|| format("it reaches past the end of the file".into()))?;
        let (header, metadata) = SafeTensors::read_metadata(image).map_err(|error| format(error.to_string()))?;
        // Eight bytes of header length, the header, the data.
        let data = 8 + header;
        let mut weights = BTreeMap::new();
        for (tensor, info) in metadata.tensors() {
            if info.dtype != Dtype::F32 {
                return Err(StoreError::ElementType { name: name.to_owned(), tensor, dtype: info.dtype });
            }
            let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            let weight = match Weight::mapped(info.shape.clone(), map.clone(), offset + start) {
                Some(weight) => Some(weight),
                None => image.get(start..end).and_then(|bytes| {
                    let values: Vec<f32> =
                        bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
                    Weight::new(info.shape.clone(), values)
                }),
            };
            let weight = weight.ok_or_else(|| format(format!("tensor `{tensor}` is out of range")))?;
            weights.insert(tensor, weight);
        }
        Ok(Self { weights })
    }

    /// Writes the store as a safetensors file: tensors in the order of their names, the header padded with spaces so
    /// that the data section starts at a multiple of [`ALIGNMENT`]. The same store gives the same bytes.
    pub fn write_safetensors(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut header = String::from("{");
        let mut offset = 0;
        for (name, weight) in &self.weights {
            if offset > 0 || header.len() > 1 {
                header.push(',');
            }
            let end = offset + weight.len() * 4;
            header.push_str(&format!(
                r#"{}:{{"dtype":"F32","shape":{:?},"data_offsets":[{offset},{end}]}}"#,
                serde_json::Value::from(name.as_str()),
                weight.shape(),
            ));
            offset = end;
        }
        header.push('}');
        let length = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
        writer.write_all(&(length as u64).to_le_bytes())?;
        header.extend(std::iter::repeat_n(' ', length - header.len()));
        writer.write_all(header.as_bytes())?;
        for weight in self.weights.values() {
            writer.write_all(bytemuck::cast_slice(weight.values()))?;
        }
        Ok(())
    }

    /// The bytes that [`WeightStore::write_safetensors`] writes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _ = self.write_safetensors(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> WeightStore {
        let mut store = WeightStore::new();
        store.insert("b \"ü\"", Weight::new(vec![2, 3], vec![1.0, -2.0, 3.5, 0.0, f32::MIN, f32::MAX]).unwrap());
        store.insert("a", Weight::new(vec![], vec![7.0]).unwrap());
        store.insert("empty", Weight::new(vec![0, 4], vec![]).unwrap());
        store
    }

    #[test]
    fn safetensors_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let bytes = example().to_safetensors();
        std::fs::write(&path, &bytes).unwrap();
        let store = WeightStore::open_safetensors(&path).unwrap();
        assert_eq!(store.len(), 3);
        assert_eq!(store.parameters(), 7);
        assert_eq!(store.get("b \"ü\"").unwrap().shape(), [2, 3]);
        assert_eq!(store.get("b \"ü\"").unwrap().values()[5], f32::MAX);
        assert_eq!(store.get("a").unwrap().values(), [7.0]);
        assert_eq!(store.to_safetensors(), bytes);
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!((8 + header) % ALIGNMENT, 0);
        assert!(SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn unaligned_data_is_copied() {
        let mut bytes = vec![0; 3];
        bytes.extend(example().to_safetensors());
        let map = Bytes::new(bytes.clone());
        let store = WeightStore::from_mapped(&map, 3, bytes.len() - 3, "w").unwrap();
        assert_eq!(store.get("a").unwrap().values(), [7.0]);
        assert!(WeightStore::from_mapped(&map, 3, bytes.len(), "w").is_err());
    }

    #[test]
    fn bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let bytes = example().to_safetensors();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(WeightStore::open_safetensors(&path).is_err(), "{len}");
        }
        let at = bytes.windows(3).position(|word| word == b"F32").unwrap();
        let mut i32s = bytes.clone();
        i32s[at..at + 3].copy_from_slice(b"I32");
        assert_eq!(&bytes[at - 9..at], br#""dtype":""#);
        std::fs::write(&path, i32s).unwrap();
        let error = WeightStore::open_safetensors(&path).unwrap_err().to_string();
        assert!(error.contains("tensor `a`") && error.contains("I32"), "{error}");
        let error = WeightStore::open_safetensors(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none: No such file"), "{error}");
    }
}
