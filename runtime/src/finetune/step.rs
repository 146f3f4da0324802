//! In which units weights move: a step of the learning rate changes what a denoiser gives by about that share of the layer's
//! standard deviation, whichever weight takes it. A shift of a layer whose output is of the order of 0.1 is not moved as far as that of
//! one of the order of 10.

use super::Trainee;
use crate::{
    closed_form::form::{self, Bottleneck, Form},
    program::{Denoise, Op, ValueId},
};
use mxc_spec::denoise::expression::{Initial, ParameterId};
use std::collections::BTreeMap;

/// By weight, what the learning rate is multiplied by; 1 where a weight is not named.
pub(super) fn units<T: Trainee>(trainee: &T) -> BTreeMap<ValueId, f64> {
    let program = trainee.program();
    let mut units = BTreeMap::new();
    for node in program.nodes() {
        let Op::Denoise(Denoise { layer, kind }) = &node.op else {
            continue;
        };
        let layer = &program.layers()[*layer];
        let deviation = layer.calibration.map(|calibration| calibration.std).filter(|&std| std > 0.0).unwrap_or(1.0);
        let weights = &node.inputs[1..];
        let mut set = |parameter: Option<ParameterId>, unit: f64| {
            units.extend(parameter.and_then(|parameter| weights.get(parameter)).map(|&weight| (weight, unit)));
        };
        match form::of(kind.expression()) {
            Some(Form::Affine { shift, .. }) => set(Some(shift), deviation),
            Some(Form::Filter { bias, .. }) => set(bias, deviation),
            Some(Form::Bottleneck(form)) => {
                // One at its start, where it is the identity, has a way in of another order.
                let parameters = kind.expression().parameters().iter().zip(weights);
                let mut heads = parameters.filter(|(parameter, _)| parameter.initial == Initial::Zero);
                if !heads.all(|(_, &head)| trainee.weight(head).iter().all(|&value| value == 0.0)) {
                    let channels = layer.channels as f64;
                    let narrow = form.down[0].map_or(1.0, |down| trainee.weight(weights[down]).len() as f64 / channels);
                    let Bottleneck { down, filters, up, .. } = form;
                    // What is in between has a standard deviation of 1.
                    set(down[0], 1.0 / (deviation * channels.sqrt()));
                    filters.iter().for_each(|filter| set(filter[0], 1.0 / 3.0));
                    set(up[0], deviation / narrow.sqrt());
                    set(up[1], deviation);
                }
            }
            None => {}
        }
    }
    units
}
