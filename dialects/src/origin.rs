//! Which value of the source model a value of the IR is: recorded by the importer, carried through every rewrite, and read by
//! export, which puts a layer's denoisers where the source has its output.
//!
//! ```mlir
//! %1 = tosa.conv2d %0, … {mxc.onnx = [{value = "c", order = array<i64: 0, 2, 3, 1>, shape = array<i64: -1, 4, 4, 8>}]} : …
//! ```
//!
//! Several entries are several values of the source that are equal.

use crate::ir;
use melior::{
    Context,
    ir::{
        Attribute, OperationRef,
        attribute::{ArrayAttribute, DenseElementsAttribute, DictionaryAttribute},
        operation::{OperationLike, OperationMutLike},
    },
};

/// The attribute of an operation: an array of what [`Origin::to_attribute`] makes. On `@main` it is a unit: the origins of its
/// values were recorded, so that a value without one has none.
pub const ATTRIBUTE: &str = "mxc.onnx";

/// A value of the source model and how a value of the IR follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The source model's name for it.
    pub value: String,
    /// Stored axis `i` is axis `order[i]` of the source's value.
    pub order: Vec<usize>,
    /// Its shape as stored; `None` is the batch.
    pub shape: Vec<Option<usize>>,
    /// What leads from there to the value of the IR, in order.
    pub steps: Vec<Step>,
}

/// One step from a value of the source to one of the IR.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The same elements under another shape; `None` is the batch, or a multiple of it.
    Reshape(Vec<Option<usize>>),
    /// Result axis `i` is operand axis `perms[i]`.
    Transpose(Vec<usize>),
    /// Times a factor per index of the last axis, or one for all.
    Scale(Vec<f32>),
    /// Plus a term per index of the last axis, or one for all.
    Shift(Vec<f32>),
}

impl Step {
    /// The step back; `shape` is that before this step. `None` where there is no way back: a factor of 0.
    pub fn inverse(&self, shape: &[Option<usize>]) -> Option<Self> {
        Some(match self {
            Self::Reshape(_) => Self::Reshape(shape.to_vec()),
            Self::Transpose(perms) => {
                let mut inverse = vec![0; perms.len()];
                for (to, &from) in perms.iter().enumerate() {
                    *inverse.get_mut(from)? = to;
                }
                Self::Transpose(inverse)
            }
            Self::Scale(factors) => {
                let inverse: Vec<f32> = factors.iter().map(|factor| (1.0 / f64::from(*factor)) as f32).collect();
                inverse.iter().all(|factor| factor.is_finite() && *factor != 0.0).then_some(Self::Scale(inverse))?
            }
            Self::Shift(terms) => Self::Shift(terms.iter().map(|term| -term).collect()),
        })
    }

    /// The shape after the step.
    pub fn shape(&self, before: &[Option<usize>]) -> Option<Vec<Option<usize>>> {
        match self {
            Self::Reshape(shape) => Some(shape.clone()),
            Self::Transpose(perms) => perms.iter().map(|&axis| before.get(axis).copied()).collect(),
            Self::Scale(_) | Self::Shift(_) => Some(before.to_vec()),
        }
    }

    fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        let floats = |values: &[f32]| -> Attribute<'c> {
            DenseElementsAttribute::f32_values(ir::f32_tensor(context, &[values.len()]), values).into()
        };
        let entry = match self {
            Self::Reshape(shape) => ("reshape", ir::i64s(context, &sizes(shape))),
            Self::Transpose(perms) => ("transpose", ir::i64s(context, &indices(perms))),
            Self::Scale(factors) => ("scale", floats(factors)),
            Self::Shift(terms) => ("shift", floats(terms)),
        };
        ir::dictionary(context, &[entry])
    }

    fn from_attribute(attribute: Attribute<'_>) -> Option<Self> {
        let dictionary = DictionaryAttribute::try_from(attribute).ok()?;
        let get = |name: &str| dictionary.element_by_name(name);
        if let Some(shape) = get("reshape") {
            return Some(Self::Reshape(shape_of(&ir::as_i64s(shape)?)));
        }
        if let Some(perms) = get("transpose") {
            return Some(Self::Transpose(positions(&ir::as_i64s(perms)?)?));
        }
        if let Some(factors) = get("scale") {
            return Some(Self::Scale(crate::ffi::dense_f32(factors)?));
        }
        Some(Self::Shift(crate::ffi::dense_f32(get("shift")?)?))
    }
}

fn sizes(shape: &[Option<usize>]) -> Vec<i64> {
    shape.iter().map(|size| size.map_or(-1, |size| size as i64)).collect()
}

fn shape_of(sizes: &[i64]) -> Vec<Option<usize>> {
    sizes.iter().map(|&size| usize::try_from(size).ok()).collect()
}

fn indices(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

fn positions(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|&value| usize::try_from(value).ok()).collect()
}

impl Origin {
    /// The value itself, stored in an axis order.
    pub fn new(value: &str, order: &[usize], shape: &[Option<usize>]) -> Self {
        Self { value: value.to_owned(), order: order.to_vec(), shape: shape.to_vec(), steps: Vec::new() }
    }

    /// With further steps behind.
    pub fn then(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }

    /// Whether the way back from the value of the IR exists.
    pub fn is_invertible(&self) -> bool {
        self.back().is_some()
    }

    /// The steps from the value of the IR back to the source's value as stored.
    pub fn back(&self) -> Option<Vec<Step>> {
        let mut shape = self.shape.clone();
        let mut back = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            back.push(step.inverse(&shape)?);
            shape = step.shape(&shape)?;
        }
        back.reverse();
        Some(back)
    }

    /// The attribute's form.
    pub fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        let mut entries = vec![
            ("value", ir::string(context, &self.value)),
            ("order", ir::i64s(context, &indices(&self.order))),
            ("shape", ir::i64s(context, &sizes(&self.shape))),
        ];
        if !self.steps.is_empty() {
            let steps: Vec<_> = self.steps.iter().map(|step| step.to_attribute(context)).collect();
            entries.push(("steps", ArrayAttribute::new(context, &steps).into()));
        }
        ir::dictionary(context, &entries)
    }

    fn from_attribute(attribute: Attribute<'_>) -> Option<Self> {
        let dictionary = DictionaryAttribute::try_from(attribute).ok()?;
        let get = |name: &str| dictionary.element_by_name(name);
        let steps = match get("steps") {
            None => Vec::new(),
            Some(steps) => elements(steps)?.into_iter().map(Step::from_attribute).collect::<Option<_>>()?,
        };
        let order = positions(&ir::as_i64s(get("order")?)?)?;
        let is_permutation = (0..order.len()).all(|axis| order.contains(&axis));
        is_permutation.then_some(Self {
            value: ir::as_string(get("value")?)?,
            order,
            shape: shape_of(&ir::as_i64s(get("shape")?)?),
            steps,
        })
    }
}

fn elements(array: Attribute<'_>) -> Option<Vec<Attribute<'_>>> {
    let array = ArrayAttribute::try_from(array).ok()?;
    (0..array.len()).map(|index| array.element(index).ok()).collect()
}

/// The attribute for several equal values of the source.
pub fn attribute<'c>(context: &'c Context, origins: &[Origin]) -> Attribute<'c> {
    let entries: Vec<_> = origins.iter().map(|origin| origin.to_attribute(context)).collect();
    ArrayAttribute::new(context, &entries).into()
}

/// The values of the source that an operation's result is; empty where none is recorded, or what is recorded makes no sense.
pub fn of(operation: &OperationRef<'_, '_>) -> Vec<Origin> {
    let recorded = operation.attribute(ATTRIBUTE).ok().and_then(elements).unwrap_or_default();
    recorded.into_iter().filter_map(Origin::from_attribute).collect()
}

/// Records the values of the source that an operation's result is.
pub fn set<'c>(context: &'c Context, operation: OperationRef<'c, '_>, origins: &[Origin]) {
    let mut operation = crate::ffi::as_mut(operation);
    if origins.is_empty() {
        // That it had none is no error.
        let _ = operation.remove_attribute(ATTRIBUTE);
    } else {
        operation.set_attribute(ATTRIBUTE, attribute(context, origins));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::new("value \"z\"", &[0, 2, 1], &[None, Some(7), Some(4)]).then([
            Step::Reshape(vec![None, Some(7), Some(1), Some(4)]),
            Step::Transpose(vec![0, 2, 1, 3]),
            Step::Scale(vec![0.5, 0.1, -3.0, 1e-20]),
            Step::Shift(vec![0.25]),
        ])
    }

    #[test]
    fn attributes_round_trip() {
        let context = crate::new_context();
        let text = origin().to_attribute(&context).to_string();
        let parsed = Attribute::parse(&context, &text).expect("the attribute's text parses");
        assert_eq!(Origin::from_attribute(parsed), Some(origin()));
    }

    #[test]
    fn the_way_back_undoes_each_step() {
        let back = origin().back().expect("every factor has an inverse");
        assert_eq!(back[0], Step::Shift(vec![-0.25]));
        assert_eq!(back[2], Step::Transpose(vec![0, 2, 1, 3]));
        assert_eq!(back[3], Step::Reshape(vec![None, Some(7), Some(4)]));
        assert!(!origin().then([Step::Scale(vec![1.0, 0.0, 1.0, 1.0])]).is_invertible());
    }
}
