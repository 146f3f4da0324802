//! Typed access to a node's attributes and to its integer inputs.

use super::{
    decode::{Attribute, Node},
    error::{Problem, invalid},
    tensor::Tensor,
};

impl Node {
    /// An integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, Problem> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => invalid(format!("attribute '{name}' must be an integer")),
        }
    }

    /// A float attribute, or its default.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, Problem> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => invalid(format!("attribute '{name}' must be a float")),
        }
    }

    /// A string attribute, or its default.
    pub fn string<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, Problem> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::String(value)) => Ok(value),
            Some(_) => invalid(format!("attribute '{name}' must be a string")),
        }
    }

    /// An attribute that is a list of integers, if present.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => invalid(format!("attribute '{name}' must be a list of integers")),
        }
    }

    /// An attribute that is a list of floats; empty where it is left out.
    pub fn floats(&self, name: &str) -> Result<&[f32], Problem> {
        match self.attributes.get(name) {
            None => Ok(&[]),
            Some(Attribute::Floats(values)) => Ok(values),
            Some(_) => invalid(format!("attribute '{name}' must be a list of floats")),
        }
    }

    /// An attribute that is a list of strings; empty where it is left out.
    pub fn strings(&self, name: &str) -> Result<&[String], Problem> {
        match self.attributes.get(name) {
            None => Ok(&[]),
            Some(Attribute::Strings(values)) => Ok(values),
            Some(_) => invalid(format!("attribute '{name}' must be a list of strings")),
        }
    }

    /// A list attribute of `count` sizes ≥ `least`, or `default` for each.
    pub fn sizes(&self, name: &str, count: usize, default: usize, least: usize) -> Result<Vec<usize>, Problem> {
        let Some(values) = self.ints(name)? else {
            return Ok(vec![default; count]);
        };
        // Sizes beyond i32 cannot belong to a real network and would overflow in the arithmetic on them.
        let sizes: Option<Vec<_>> = values
            .iter()
            .map(|&value| usize::try_from(value).ok().filter(|&size| size >= least && size <= i32::MAX as usize))
            .collect();
        match sizes {
            Some(sizes) if sizes.len() == count => Ok(sizes),
            _ => invalid(format!("attribute '{name}' is {values:?}; {count} values of at least {least} are needed")),
        }
    }

    /// The input at a position as named in the file; empty if left out.
    pub fn input(&self, index: usize) -> &str {
        self.inputs.get(index).map_or("", String::as_str)
    }
}

/// An axis counted from the front; negative ones count from the back.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Problem> {
    let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted < rank => Ok(counted),
        _ => invalid(format!("axis {axis} is out of range for {rank} axes")),
    }
}

/// Several axes, none twice.
pub(super) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Problem> {
    let mut counted = Vec::with_capacity(axes.len().min(rank));
    for &each in axes {
        let each = axis(each, rank)?;
        if counted.contains(&each) {
            return invalid(format!("axis {each} is given twice"));
        }
        counted.push(each);
    }
    Ok(counted)
}

/// The elements of an integer operand that must not depend on the batch.
pub(super) fn integers(name: &str, tensor: &Tensor) -> Result<Vec<i64>, Problem> {
    match tensor.known_ints() {
        Some(values) => Ok(values),
        None if tensor.syms().is_some() => super::error::unsupported(format!("'{name}' depends on the batch size")),
        None => invalid(format!("'{name}' must hold integers")),
    }
}
