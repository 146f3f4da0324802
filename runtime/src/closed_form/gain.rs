//! Where a gain passes: which layers' outputs may grow by one factor, so that all that the network computes of them until the next
//! denoisers grows with them.

use super::form::{self, Form};
use crate::program::{LayerId, Op, Program, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// By layer, whether its output may grow if those of all such layers do: every way from it to another layer whose denoiser gives it
/// its scale is through operators that keep a scale ([`crate::ops::operator::Operator::keeps_scale`]), and joins only with what grows
/// too. `filters` says whether filters give their layers' outputs a scale, as affines do.
pub(super) fn free(program: &Program, filters: bool) -> Vec<bool> {
    let mut groups = Groups { parents: (0..=program.layers().len()).collect() };
    let fixed = groups.fixed();
    let scaled: BTreeSet<LayerId> = program.nodes().iter().filter_map(|node| scales(&node.op, filters)).collect();
    (0..fixed).filter(|layer| !scaled.contains(layer)).for_each(|layer| groups.join(layer, fixed));
    // The group of every value; constants have none.
    let mut of: BTreeMap<ValueId, usize> = program.inputs().iter().map(|&input| (input, fixed)).collect();
    for node in program.nodes() {
        let operands: Vec<Option<usize>> = node.inputs.iter().map(|input| of.get(input).copied()).collect();
        let layer = node.op.analog_layer().filter(|layer| scaled.contains(layer));
        let group = match (&node.op, scales(&node.op, filters).or(layer)) {
            // A layer whose denoiser gives it its scale takes any; nothing looks at it in between.
            (_, Some(layer)) => Some(layer),
            // What corrects a value is fitted to a scale that it does not change.
            (Op::Denoise(_), None) => operands[0],
            (op, None) => {
                let constant: Vec<bool> = operands.iter().map(Option::is_none).collect();
                let keeps = op.operator().keeps_scale(&constant);
                let mut groups_of = operands.iter().flatten().copied();
                let first = if keeps { groups_of.next() } else { Some(fixed) };
                if let Some(first) = first {
                    groups_of.for_each(|group| groups.join(first, group));
                }
                first
            }
        };
        of.extend(group.map(|group| (node.output, group)));
    }
    program.outputs().iter().filter_map(|output| of.get(output)).for_each(|&group| groups.join(group, fixed));
    (0..program.layers().len()).map(|layer| groups.root(layer) != groups.root(fixed)).collect()
}

/// The layer that a denoiser gives its scale.
fn scales(op: &Op, filters: bool) -> Option<LayerId> {
    let Op::Denoise(denoise) = op else {
        return None;
    };
    let scales = match form::of(denoise.kind.expression())? {
        Form::Affine { scale, .. } => scale.is_some(),
        Form::Filter { .. } => filters,
        Form::Bottleneck(_) => false,
    };
    scales.then_some(denoise.layer)
}

/// Layers whose outputs grow together, and what never grows.
struct Groups {
    /// A member's parent; a root is its own.
    parents: Vec<usize>,
}

impl Groups {
    /// The one that never grows.
    fn fixed(&self) -> usize {
        self.parents.len() - 1
    }

    fn root(&self, mut member: usize) -> usize {
        while self.parents[member] != member {
            member = self.parents[member];
        }
        member
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a] = b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::testing::Net,
        program::{Binary, Concat, Unary},
    };

    /// A 1×1 convolution of four channels with an affine.
    fn layer(net: &mut Net, x: ValueId) -> ValueId {
        let y = net.conv(x, 4, 1, 1, 1);
        net.affine(y)
    }

    /// Which layers are free in a network of a layer, what `build` makes of it, and another layer.
    fn freedom(build: impl FnOnce(&mut Net, ValueId) -> ValueId) -> Vec<bool> {
        let mut net = Net::new();
        let x = net.input(&[6, 6, 4]);
        let x = layer(&mut net, x);
        let x = build(&mut net, x);
        let y = layer(&mut net, x);
        free(&net.finish(&[y]), false)
    }

    #[test]
    fn a_gain_passes_what_keeps_a_scale() {
        assert_eq!(freedom(|_, x| x), [true, false], "the output is seen");
        assert_eq!(freedom(|net, x| net.relu(x)), [true, false]);
        let doubled = |net: &mut Net, x| net.binary(Binary::Add, x, x);
        assert_eq!(freedom(doubled), [true, false]);
        let scaled = |net: &mut Net, x| {
            let by = net.weight(&[1, 1, 1, 4], 1.0, false);
            net.binary(Binary::Mul, x, by)
        };
        assert_eq!(freedom(scaled), [true, false]);
        assert_eq!(freedom(|net, x| net.mean(x)), [true, false]);
    }

    #[test]
    fn what_bends_stops_it() {
        assert_eq!(freedom(|net, x| net.unary(Unary::Clamp { min: 0.0, max: 6.0 }, x)), [false, false]);
        assert_eq!(freedom(|net, x| net.unary(Unary::Sigmoid, x)), [false, false]);
        assert_eq!(freedom(|net, x| net.binary(Binary::Mul, x, x)), [false, false]);
        let shifted = |net: &mut Net, x| {
            let by = net.weight(&[1, 1, 1, 4], 1.0, false);
            net.binary(Binary::Add, x, by)
        };
        assert_eq!(freedom(shifted), [false, false]);
        // A layer without a denoiser adds its bias to whatever comes.
        assert_eq!(freedom(|net, x| net.conv(x, 4, 1, 1, 1)), [false, false, false]);
    }

    /// Branches that join grow together or not at all.
    #[test]
    fn branches_share_a_gain() {
        let joined = |bend: bool| {
            freedom(move |net, x| {
                let a = layer(net, x);
                let b = layer(net, x);
                let b = if bend { net.unary(Unary::Tanh, b) } else { b };
                net.binary(Binary::Add, a, b)
            })
        };
        assert_eq!(joined(false), [true, true, true, false]);
        assert_eq!(joined(true), [true, false, false, false]);
        let input = freedom(|net, x| {
            let other = net.input(&[6, 6, 4]);
            net.node(Concat { axis: 3 }, &[x, other])
        });
        assert_eq!(input, [false, false], "the input does not grow");
    }

    /// A block corrects a value and leaves its scale to the affine behind it.
    #[test]
    fn a_block_lets_it_pass() {
        let free = |affine: bool| {
            freedom(move |net, x| {
                let y = net.conv(x, 4, 1, 1, 1);
                let y = net.block(y, false, 0.1);
                if affine { net.affine(y) } else { y }
            })
        };
        assert_eq!(free(true), [true, true, false]);
        assert_eq!(free(false), [false, false, false]);
    }
}
