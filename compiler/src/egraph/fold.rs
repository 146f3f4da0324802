//! Computes folded constants, in f64: rounded to f32 once, at the end.

use super::{
    facts::{Facts, Site, SiteKind, Tensor},
    language::{Fold, clamp, function},
};
use mxc_runtime::kernels::layout::strides;

/// Applies a folding to its operands; says what does not fit.
pub fn apply(fold: &Fold, operands: &[&Tensor], facts: &Facts) -> Result<Tensor, String> {
    let operand = |index: usize| operands.get(index).copied().ok_or_else(|| format!("{fold:?} lacks operand {index}"));
    let first = operand(0)?;
    match fold {
        Fold::Binary(op) => {
            let second = operand(1)?;
            let shape: Vec<usize> =
                first.shape.iter().zip(&second.shape).map(|(a, b)| if *a == 1 { *b } else { *a }).collect();
            let mut values = Vec::with_capacity(shape.iter().product());
            for_each_index(&shape, |index| {
                let a = first.values[broadcast_offset(&first.shape, index)];
                let b = second.values[broadcast_offset(&second.shape, index)];
                values.push(op.apply(a, b));
            });
            Ok(Tensor { shape, values })
        }
        Fold::Unary(unary) => {
            let function =
                function(*unary).ok_or_else(|| format!("{} cannot be computed on a constant", unary.name()))?;
            Ok(Tensor { shape: first.shape.clone(), values: first.values.iter().map(|x| function(*x)).collect() })
        }
        Fold::Clamp(min, max) => Ok(Tensor {
            shape: first.shape.clone(),
            values: first.values.iter().map(|x| clamp(*x, *min, *max)).collect(),
        }),
        Fold::Reshape(shape) => Ok(Tensor { shape: shape.clone(), values: first.values.clone() }),
        Fold::Transpose(perms) => {
            let shape: Vec<usize> = perms.iter().map(|axis| first.shape[*axis]).collect();
            let strides = strides(&first.shape);
            let mut values = Vec::with_capacity(first.values.len());
            for_each_index(&shape, |index| {
                let offset: usize = index.iter().zip(perms).map(|(i, axis)| i * strides[*axis]).sum();
                values.push(first.values[offset]);
            });
            Ok(Tensor { shape, values })
        }
        Fold::Vector(channels) => match first.values.len() {
            1 => Ok(Tensor::splat(vec![*channels], first.values[0])),
            length if length == *channels => Ok(Tensor { shape: vec![*channels], values: first.values.clone() }),
            length => Err(format!("{length} values do not fit {channels} channels")),
        },
        Fold::ScaleOutputs(site) => {
            let (weight, scale) = (first, operand(1)?);
            let site = &facts.sites[*site];
            Ok(map_weight(weight, site, |value, _, output| value * scale.values[output]))
        }
        Fold::ScaleInputs(site) => {
            let (weight, scale) = (first, operand(1)?);
            let site = &facts.sites[*site];
            Ok(map_weight(weight, site, |value, input, _| value * scale.values[input]))
        }
        Fold::Contract(site) => {
            let (weight, vector) = (first, operand(1)?);
            let site = &facts.sites[*site];
            let mut sums = vec![0.0; site.outputs];
            for_each_weight(weight, site, |value, input, output| {
                sums[output] += value * vector.values[input];
            });
            Ok(Tensor { shape: vec![site.outputs], values: sums })
        }
    }
}

/// The weight with every value replaced by `f(value, input channel, output channel)`.
fn map_weight(weight: &Tensor, site: &Site, f: impl Fn(f64, usize, usize) -> f64) -> Tensor {
    let mut values = Vec::with_capacity(weight.values.len());
    for_each_weight(weight, site, |value, input, output| values.push(f(value, input, output)));
    Tensor { shape: weight.shape.clone(), values }
}

/// Calls `f(value, input channel, output channel)` for every element of a site's weight, in order.
fn for_each_weight(weight: &Tensor, site: &Site, mut f: impl FnMut(f64, usize, usize)) {
    let mut values = weight.values.iter();
    for_each_index(&weight.shape, |index| {
        let (input, output) = match site.kind {
            SiteKind::Conv2d => (index[3], index[0]),
            SiteKind::Grouped => {
                let group = index[0] / (site.outputs / site.groups).max(1);
                (group * weight.shape[3] + index[3], index[0])
            }
            SiteKind::Depthwise => (index[2], index[2] * weight.shape[3] + index[3]),
            SiteKind::MatMul => (index[1], index[2]),
        };
        if let Some(value) = values.next() {
            f(*value, input, output);
        }
    });
}

fn broadcast_offset(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |offset, (size, i)| offset * size + if *size == 1 { 0 } else { *i })
}

fn for_each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egraph::language::Binary;

    fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor { shape: shape.to_vec(), values: values.to_vec() }
    }

    fn site(kind: SiteKind, groups: usize, inputs: usize, outputs: usize) -> Facts {
        let mut facts = Facts::default();
        facts.sites.push(Site { kind, layer: "l".to_owned(), groups, inputs, outputs, shape: Vec::new() });
        facts
    }

    #[test]
    fn broadcasts_and_transposes() {
        let facts = Facts::default();
        let a = tensor(&[2, 1], &[1.0, 2.0]);
        let b = tensor(&[1, 3], &[10.0, 20.0, 30.0]);
        let sum = apply(&Fold::Binary(Binary::Add), &[&a, &b], &facts).expect("fits");
        assert_eq!(sum, tensor(&[2, 3], &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0]));
        let turned = apply(&Fold::Transpose(vec![1, 0]), &[&sum], &facts).expect("fits");
        assert_eq!(turned, tensor(&[3, 2], &[11.0, 12.0, 21.0, 22.0, 31.0, 32.0]));
    }

    #[test]
    fn scales_every_layout() {
        let two = tensor(&[2], &[2.0, 3.0]);
        let facts = site(SiteKind::Conv2d, 1, 2, 2);
        let weight = tensor(&[2, 1, 1, 2], &[1.0, 1.0, 1.0, 1.0]);
        let outputs = apply(&Fold::ScaleOutputs(0), &[&weight, &two], &facts).expect("fits");
        assert_eq!(outputs.values, [2.0, 2.0, 3.0, 3.0]);
        let inputs = apply(&Fold::ScaleInputs(0), &[&weight, &two], &facts).expect("fits");
        assert_eq!(inputs.values, [2.0, 3.0, 2.0, 3.0]);
        let sums = apply(&Fold::Contract(0), &[&weight, &two], &facts).expect("fits");
        assert_eq!(sums.values, [5.0, 5.0]);

        let facts = site(SiteKind::Grouped, 2, 2, 2);
        let weight = tensor(&[2, 1, 1, 1], &[1.0, 1.0]);
        let inputs = apply(&Fold::ScaleInputs(0), &[&weight, &two], &facts).expect("fits");
        assert_eq!(inputs.values, [2.0, 3.0]);

        let facts = site(SiteKind::Depthwise, 1, 1, 2);
        let weight = tensor(&[1, 1, 1, 2], &[1.0, 1.0]);
        let outputs = apply(&Fold::ScaleOutputs(0), &[&weight, &two], &facts).expect("fits");
        assert_eq!(outputs.values, [2.0, 3.0]);
    }
}
