//! In which units weights move: a step of the learning rate changes what a denoiser gives by about that share of the layer's
//! standard deviation, whichever weight takes it. A shift of a layer whose output is of the order of 0.1 is not moved as far as that of
//! one of the order of 10.

use super::Trainee;
use crate::{
    closed_form::form::{self, Form},
    program::{Denoise, LayerId, Node, Op, ValueId},
};
use mxc_spec::denoise::{
    Stage,
    expression::{Initial, ParameterId},
};
use std::collections::{BTreeMap, BTreeSet};

/// By weight, what the learning rate is multiplied by; 1 where a weight is not named.
pub(super) fn units<T: Trainee>(trainee: &T) -> BTreeMap<ValueId, f64> {
    let program = trainee.program();
    let mut units = BTreeMap::new();
    let affine = |node: &Node| match &node.op {
        Op::Denoise(Denoise { layer, kind }) => (kind.stage == Stage::Affine).then_some(*layer),
        _ => None,
    };
    let scaled: BTreeSet<LayerId> = program.nodes().iter().filter_map(affine).collect();
    for node in program.nodes() {
        let Op::Denoise(Denoise { layer, kind }) = &node.op else {
            continue;
        };
        let calibration = program.layers()[*layer].calibration;
        let deviation = calibration.map(|calibration| calibration.std).filter(|&std| std > 0.0).unwrap_or(1.0);
        let weights = &node.inputs[1..];
        let mut set = |parameter: Option<ParameterId>, unit: f64| {
            units.extend(parameter.and_then(|parameter| weights.get(parameter)).map(|&weight| (weight, unit)));
        };
        match form::of(kind.expression()) {
            Some(Form::Affine { shift, .. }) => set(Some(shift), deviation),
            Some(Form::Filter { weight, bias, .. }) => {
                // Neighbouring pixels are alike, so that what all taps take adds up.
                set(Some(weight), 1.0 / 9.0);
                set(bias, deviation);
            }
            // One at its start, where it is the identity, is trained as everything else. One in closed form takes small differences of
            // large values, which any step of its weights upsets: where an affine behind it is trained it stays as it is, and else it moves
            // in shares of its weights' own magnitudes.
            Some(Form::Bottleneck(_)) => {
                let parameters = kind.expression().parameters().iter().zip(weights);
                let mut heads = parameters.filter(|(parameter, _)| parameter.initial == Initial::Zero);
                if !heads.all(|(_, &head)| trainee.weight(head).iter().all(|&value| value == 0.0)) {
                    let unit =
                        |weight: ValueId| if scaled.contains(layer) { 0.0 } else { magnitude(trainee.weight(weight)) };
                    units.extend(weights.iter().map(|&weight| (weight, unit(weight))));
                }
            }
            None => {}
        }
    }
    units
}

/// √mean(w²); 1 where all are 0.
fn magnitude(weights: &[f32]) -> f64 {
    let square = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / weights.len().max(1) as f64;
    if square > 0.0 { square.sqrt() } else { 1.0 }
}
