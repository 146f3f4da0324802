//! Shapes with a symbolic batch, and constants as they are known at import time.

use mxc_runtime::{kernels::layout::strides, store::permuted};
use std::{fmt, sync::Arc};

/// An integer that may depend on the batch size N: `constant + batch·N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sym {
    pub constant: i64,
    pub batch: i64,
}

impl Sym {
    /// The value, if it does not depend on the batch size.
    pub fn known(self) -> Option<i64> {
        (self.batch == 0).then_some(self.constant)
    }

    pub fn add(self, other: Self) -> Option<Self> {
        Some(Self { constant: self.constant.checked_add(other.constant)?, batch: self.batch.checked_add(other.batch)? })
    }

    pub fn sub(self, other: Self) -> Option<Self> {
        Some(Self { constant: self.constant.checked_sub(other.constant)?, batch: self.batch.checked_sub(other.batch)? })
    }

    /// The product, if one factor is known.
    pub fn mul(self, other: Self) -> Option<Self> {
        let (factor, of) = match (self.known(), other.known()) {
            (Some(factor), _) => (factor, other),
            (_, Some(factor)) => (factor, self),
            _ => return None,
        };
        Some(Self { constant: of.constant.checked_mul(factor)?, batch: of.batch.checked_mul(factor)? })
    }

    /// The quotient rounded to zero, if known or exact for every batch size.
    pub fn div(self, other: Self) -> Option<Self> {
        let divisor = other.known().filter(|&divisor| divisor != 0);
        match (self.known(), divisor) {
            (Some(value), Some(divisor)) => Some(value.checked_div(divisor)?.into()),
            (None, Some(divisor))
                if self.constant.checked_rem(divisor)? == 0 && self.batch.checked_rem(divisor)? == 0 =>
            {
                Some(Self { constant: self.constant / divisor, batch: self.batch / divisor })
            }
            // k·N / N
            _ if self.constant == 0 && other.constant == 0 && other.batch != 0 => {
                (self.batch.checked_rem(other.batch)? == 0).then(|| (self.batch / other.batch).into())
            }
            _ => None,
        }
    }

    /// Whether both are equal, if that holds for every batch size ≥ 1 or for none.
    pub fn equals(self, other: Self) -> Option<bool> {
        let difference = self.sub(other)?;
        match (difference.constant, difference.batch) {
            (constant, 0) => Some(constant == 0),
            // The difference grows from constant + batch, away from zero.
            (constant, batch) if (constant >= 0 && batch > 0) || (constant <= 0 && batch < 0) => Some(false),
            _ => None,
        }
    }

    /// The sign of `self − other`, if it is the same for every batch size ≥ 1.
    pub fn compare(self, other: Self) -> Option<std::cmp::Ordering> {
        let difference = self.sub(other)?;
        match (difference.constant, difference.batch) {
            (constant, 0) => Some(constant.cmp(&0)),
            (constant, batch) if constant.checked_add(batch)? > 0 && batch > 0 => Some(std::cmp::Ordering::Greater),
            (constant, batch) if constant.checked_add(batch)? < 0 && batch < 0 => Some(std::cmp::Ordering::Less),
            _ => None,
        }
    }
}

impl From<i64> for Sym {
    fn from(constant: i64) -> Self {
        Self { constant, batch: 0 }
    }
}

impl From<Dim> for Sym {
    fn from(dim: Dim) -> Self {
        // Dimensions are bounded by MAX_ELEMENTS.
        match dim {
            Dim::Fixed(size) => Self { constant: size as i64, batch: 0 },
            Dim::Batch(factor) => Self { constant: 0, batch: factor as i64 },
        }
    }
}

/// A dimension: fixed, or a multiple of the batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Fixed(usize),
    Batch(usize),
}

impl Dim {
    pub fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(size) => Some(size),
            Self::Batch(_) => None,
        }
    }

    pub fn is_one(self) -> bool {
        self == Self::Fixed(1)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(formatter, "{size}"),
            Self::Batch(1) => write!(formatter, "N"),
            Self::Batch(factor) => write!(formatter, "{factor}·N"),
        }
    }
}

/// A shape in messages, such as `[N, 3, 32, 32]`.
pub(super) fn show(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The number of elements as `factor · N^power`; `None` on overflow.
pub(super) fn element_count(shape: &[Dim]) -> Option<(usize, u32)> {
    shape.iter().try_fold((1usize, 0), |(factor, power), dim| {
        Some(match dim {
            Dim::Fixed(size) => (factor.checked_mul(*size)?, power),
            Dim::Batch(multiple) => (factor.checked_mul(*multiple)?, power + 1),
        })
    })
}

/// The type of an activation's elements. Narrower integers are held in these: those of up to 16 bits as [`Element::I32`], u32
/// as [`Element::I64`]; every floating-point type is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    I32,
    I64,
    Bool,
}

impl Element {
    /// The type that stands for one of ONNX's data types.
    pub fn of(data_type: i32) -> Option<Self> {
        match data_type {
            1 | 10 | 11 | 16 => Some(Self::F32),
            2..=6 | 21 | 22 => Some(Self::I32),
            7 | 12 => Some(Self::I64),
            9 => Some(Self::Bool),
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
        })
    }
}

/// The elements of a constant.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// f16, bf16, f32 and f64.
    Float(Arc<[f32]>),
    /// The same float everywhere, as ConstantOfShape makes it: it takes no memory however large its shape.
    Fill(f32),
    /// All integer types; elements may depend on the batch size.
    Int(Arc<[Sym]>),
    Bool(Arc<[bool]>),
}

impl Data {
    /// The type of an activation that holds them.
    pub fn element(&self) -> Element {
        match self {
            Self::Float(_) | Self::Fill(_) => Element::F32,
            Self::Int(_) => Element::I64,
            Self::Bool(_) => Element::Bool,
        }
    }
}

/// A constant known at import time, in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub shape: Vec<usize>,
    pub data: Data,
    /// ONNX's data type of its integers, where the file says: QuantizeLinear makes what its zero point is.
    pub narrow: Option<i32>,
}

impl Tensor {
    pub fn floats(shape: Vec<usize>, values: impl Into<Arc<[f32]>>) -> Self {
        let values = values.into();
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, data: Data::Float(values), narrow: None }
    }

    /// One value everywhere: a fill, unless it is so small that it may as well be written out.
    pub fn filled(shape: Vec<usize>, value: f32) -> Self {
        const SMALL: usize = 1024;
        match shape.iter().product() {
            count if count <= SMALL => Self::floats(shape, vec![value; count]),
            _ => Self { shape, data: Data::Fill(value), narrow: None },
        }
    }

    pub fn ints(shape: Vec<usize>, values: impl Into<Arc<[Sym]>>) -> Self {
        let values = values.into();
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, data: Data::Int(values), narrow: None }
    }

    pub fn bools(shape: Vec<usize>, values: impl Into<Arc<[bool]>>) -> Self {
        let values = values.into();
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, data: Data::Bool(values), narrow: None }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Fill(_) => self.shape.iter().product(),
            Data::Int(values) => values.len(),
            Data::Bool(values) => values.len(),
        }
    }

    /// The memory that the elements take.
    pub fn bytes(&self) -> u64 {
        let bytes = match &self.data {
            Data::Float(values) => size_of_val(values.as_ref()),
            Data::Fill(_) => 0,
            Data::Int(values) => size_of_val(values.as_ref()),
            Data::Bool(values) => size_of_val(values.as_ref()),
        };
        bytes as u64
    }

    /// The tensor with a fill written out. The caller has checked its size.
    pub fn written_out(&self) -> Self {
        match self.data {
            Data::Fill(value) => Self::floats(self.shape.clone(), vec![value; self.len()]),
            _ => self.clone(),
        }
    }

    /// The elements as f32: integers and bools converted, `None` where one depends on the batch.
    pub fn to_floats(&self) -> Option<Arc<[f32]>> {
        match &self.data {
            Data::Float(values) => Some(values.clone()),
            Data::Fill(value) => Some(vec![*value; self.len()].into()),
            Data::Int(values) => values.iter().map(|value| value.known().map(|value| value as f32)).collect(),
            Data::Bool(values) => Some(values.iter().map(|&value| f32::from(u8::from(value))).collect()),
        }
    }

    /// The integer elements.
    pub fn syms(&self) -> Option<&[Sym]> {
        match &self.data {
            Data::Int(values) => Some(values),
            _ => None,
        }
    }

    /// The integer elements, if none depends on the batch.
    pub fn known_ints(&self) -> Option<Vec<i64>> {
        self.syms()?.iter().map(|value| value.known()).collect()
    }

    /// The elements as integers, booleans as 0 and 1; `None` where one is no integer or depends on the batch.
    pub fn integers(&self) -> Option<Vec<i64>> {
        match &self.data {
            Data::Bool(values) => Some(values.iter().map(|&value| i64::from(value)).collect()),
            _ => self.known_ints(),
        }
    }

    /// The only element as f32.
    pub fn scalar(&self) -> Option<f32> {
        (self.len() == 1).then(|| self.to_floats()?.first().copied()).flatten()
    }

    /// The float that every element is.
    pub fn repeated(&self) -> Option<f32> {
        match &self.data {
            Data::Fill(value) => Some(*value),
            Data::Float(values) if values.len() == 1 => values.first().copied(),
            _ => None,
        }
    }

    /// A function of every element of a float tensor; another stays as it is.
    pub fn map(&self, function: impl Fn(f32) -> f32) -> Self {
        let data = match &self.data {
            Data::Float(values) => Data::Float(values.iter().map(|&value| function(value)).collect()),
            Data::Fill(value) => Data::Fill(function(*value)),
            other => other.clone(),
        };
        Self { shape: self.shape.clone(), data, narrow: None }
    }

    /// The same elements under another shape of as many elements.
    pub fn reshaped(&self, shape: Vec<usize>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), self.len());
        Self { shape, data: self.data.clone(), narrow: self.narrow }
    }

    /// The tensor of the elements at the given row-major positions.
    ///
    /// # Panics
    ///
    /// When a position is out of range; callers compute positions from the shape.
    pub fn gather(&self, shape: Vec<usize>, positions: &[usize]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), positions.len());
        let data = match &self.data {
            Data::Float(values) => Data::Float(positions.iter().map(|&i| values[i]).collect()),
            Data::Fill(value) => Data::Fill(*value),
            Data::Int(values) => Data::Int(positions.iter().map(|&i| values[i]).collect()),
            Data::Bool(values) => Data::Bool(positions.iter().map(|&i| values[i]).collect()),
        };
        Self { shape, data, narrow: self.narrow }
    }

    /// The part of that shape that starts at `start`.
    ///
    /// # Panics
    ///
    /// When it reaches out of the tensor; callers compute it from the shape.
    pub fn sliced(&self, start: &[usize], shape: Vec<usize>) -> Self {
        let steps = strides(&self.shape);
        let first = start.iter().zip(&steps).map(|(index, step)| index * step).sum();
        self.gather(shape.clone(), &positions(&shape, &steps, first))
    }

    /// The tensor with its axes permuted: result axis `i` is axis `perms[i]`.
    pub fn transposed(&self, perms: &[usize]) -> Self {
        let shape: Vec<_> = perms.iter().map(|&axis| self.shape[axis]).collect();
        if perms.is_sorted() {
            return self.reshaped(shape);
        }
        let data = match &self.data {
            Data::Float(values) => Data::Float(permuted(values, &self.shape, perms)),
            Data::Fill(value) => Data::Fill(*value),
            Data::Int(values) => Data::Int(permuted(values, &self.shape, perms)),
            Data::Bool(values) => Data::Bool(permuted(values, &self.shape, perms)),
        };
        Self { shape, data, narrow: self.narrow }
    }

    /// The tensor broadcast to `shape` (NumPy's rules), which must be possible.
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        if let Data::Fill(value) = self.data {
            return Self { shape: shape.to_vec(), data: Data::Fill(value), narrow: None };
        }
        let steps = broadcast_steps(&self.shape, shape);
        let positions = positions(shape, &steps, 0);
        self.gather(shape.to_vec(), &positions)
    }
}

/// The step per axis of `shape` in a tensor of shape `from`, broadcast by NumPy's rules: 0 where it repeats.
pub(super) fn broadcast_steps(from: &[usize], shape: &[usize]) -> Vec<usize> {
    let strides = strides(from);
    let lead = shape.len() - from.len();
    (0..shape.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(own) if from[own] != 1 => strides[own],
            _ => 0,
        })
        .collect()
}

/// The row-major walk over `shape` as positions `start + Σ index·step`.
pub(super) fn positions(shape: &[usize], steps: &[usize], start: usize) -> Vec<usize> {
    let mut positions = vec![start];
    if shape.contains(&0) {
        return Vec::new();
    }
    for (&size, &step) in shape.iter().zip(steps) {
        positions =
            positions.iter().flat_map(|&position| (0..size).map(move |index| position + index * step)).collect();
    }
    positions
}

/// The shape that two constants broadcast to, by NumPy's rules.
pub(super) fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}
