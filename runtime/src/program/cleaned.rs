//! Trials: what a network would be with denoisers.

use super::{Builder, Denoise, Op, Program, ProgramError, ValueId, wrong};
use crate::store::Weight;
use mxc_spec::denoise::{
    Kind,
    expression::{Initial, Site},
    global_name,
};

impl Program {
    /// The same network with a denoiser of a kind behind every analog layer, as it starts.
    ///
    /// # Errors
    ///
    /// When there are such denoisers already, or the kind starts from random weights.
    pub fn cleaned(&self, kind: &'static Kind) -> Result<Self, ProgramError> {
        let mut builder = Builder::new();
        builder.task(self.task);
        for layer in &self.layers {
            builder.layer(layer.clone())?;
        }
        let mut nodes = self.nodes.iter().peekable();
        // By value of this program, the value that takes its place.
        let mut places: Vec<ValueId> = Vec::with_capacity(self.values.len());
        for (id, value) in self.values.iter().enumerate() {
            let place = match nodes.next_if(|node| node.output == id) {
                Some(node) => {
                    let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| places[input]).collect();
                    let output = builder.node(node.op.clone(), &inputs)?;
                    match node.op.analog_layer() {
                        Some(layer) => builder.clean(kind, layer, matches!(node.op, Op::Conv2d(_)), output)?,
                        None => output,
                    }
                }
                None => {
                    let place = builder.push(&value.name, value.clone())?;
                    if value.constant.is_none() {
                        builder.program.inputs.push(place);
                    }
                    place
                }
            };
            places.push(place);
        }
        for &output in &self.outputs {
            builder.output(places[output], &self.values[output].name)?;
        }
        builder.program.logits = places[self.logits];
        Ok(builder.program)
    }
}

impl Builder {
    /// Adds a denoiser of a layer, as it starts.
    fn clean(&mut self, kind: &'static Kind, layer: usize, spatial: bool, x: ValueId) -> Result<ValueId, ProgramError> {
        let (name, channels) = (self.program.layers[layer].name.clone(), self.program.layers[layer].channels);
        let mut inputs = vec![x];
        for parameter in kind.expression().parameters() {
            let shape = parameter.layout.shape(Site { channels, spatial });
            let value = match parameter.initial {
                Initial::Zero => 0.0,
                Initial::One => 1.0,
                Initial::Uniform(_) => return wrong(kind.name, "its weights start at random"),
            };
            let name = global_name(&name, &parameter.name);
            let weight = Weight::new(shape.clone(), vec![value; shape.iter().product()]);
            match weight {
                Some(weight) => inputs.push(self.constant(&name, weight, true)?),
                None => return wrong(name, "its values do not fit its shape"),
            }
        }
        self.node(Denoise { layer, kind }, &inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Batch, Executor, Key, Mode, Purpose, testing::Net};
    use crate::program::Binary;

    /// Identities behind every layer change nothing, bit by bit; under other weights they do.
    #[test]
    fn identities_change_nothing() {
        let mut net = Net::new();
        let x = net.input(&[6, 6, 3]);
        let a = net.conv(x, 4, 3, 1, 1);
        let b = net.conv(a, 4, 3, 1, 1);
        let sum = net.binary(Binary::Add, a, b);
        let y = net.relu(sum);
        let program = net.classify(y, 5);
        let affine = Kind::named("affine").unwrap();
        let trial = program.cleaned(affine).unwrap();
        let denoisers = trial.nodes().iter().filter(|node| matches!(node.op, Op::Denoise(_))).count();
        assert_eq!(denoisers, program.layers().len());
        assert_eq!(trial.outputs().len(), program.outputs().len());
        let inputs = net_inputs(4);
        let logits = |program: &Program, shift: f32| {
            let mut executor = Executor::new(program.clone(), 1).unwrap();
            let shifts: Vec<ValueId> =
                (0..program.values().len()).filter(|&id| program.values()[id].name.ends_with("shift")).collect();
            for id in shifts {
                let shifted = vec![shift; executor.weight(id).len()];
                executor.set_weight(id, &shifted).unwrap();
            }
            let key = Key { seed: 1, purpose: Purpose::Eval, pass: 0, chip: 0 };
            let batch = Batch { inputs: &[&inputs], samples: &[0, 1, 2, 3] };
            executor.logits(batch, Mode::DENOISED, key).unwrap()
        };
        assert_eq!(logits(&program, 0.0), logits(&trial, 0.0));
        assert_ne!(logits(&program, 0.0), logits(&trial, 0.1));
        assert!(program.cleaned(Kind::named("mean").unwrap()).is_err(), "its weights start at random");
    }

    fn net_inputs(count: usize) -> Vec<f32> {
        Net::new().randoms(count * 6 * 6 * 3, 1.0)
    }
}
