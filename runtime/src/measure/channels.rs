//! The statistics of every layer's output by channel, on the clean network.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Mode, Seen},
    },
    plan::steps::Goal,
    program::Layer,
};

/// Sums over a layer's elements, by channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelSums {
    /// The number of elements of one channel.
    pub elements: u64,
    /// Σy.
    pub sum: Vec<f64>,
    /// Σy².
    pub square: Vec<f64>,
    /// Σ|y|.
    pub abs: Vec<f64>,
    /// max |y|.
    pub absmax: Vec<f32>,
}

impl ChannelSums {
    /// The sums of values whose last axis is the channels.
    pub fn of(values: &[f32], channels: usize) -> Self {
        let channels = channels.max(1);
        let mut sums = Self {
            elements: (values.len() / channels) as u64,
            sum: vec![0.0; channels],
            square: vec![0.0; channels],
            abs: vec![0.0; channels],
            absmax: vec![0.0; channels],
        };
        for row in values.chunks_exact(channels) {
            let totals = sums.sum.iter_mut().zip(&mut sums.square).zip(sums.abs.iter_mut().zip(&mut sums.absmax));
            for (((sum, square), (abs, absmax)), &y) in totals.zip(row) {
                *sum += f64::from(y);
                *square += f64::from(y) * f64::from(y);
                *abs += f64::from(y.abs());
                *absmax = absmax.max(y.abs());
            }
        }
        sums
    }

    /// Mean and variance by channel.
    pub fn moments(&self) -> impl Iterator<Item = [f64; 2]> {
        let count = self.elements.max(1) as f64;
        self.sum.iter().zip(&self.square).map(move |(sum, square)| {
            let mean = sum / count;
            [mean, (square / count - mean * mean).max(0.0)]
        })
    }
}

impl Part for ChannelSums {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        if self.sum.is_empty() {
            self.clone_from(other);
            return;
        }
        self.elements += other.elements;
        let sums = [(&mut self.sum, &other.sum), (&mut self.square, &other.square), (&mut self.abs, &other.abs)];
        for (total, part) in sums {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        self.absmax.iter_mut().zip(&other.absmax).for_each(|(max, value)| *max = max.max(*value));
    }
}

/// The measurement.
pub(crate) struct Channels<'a> {
    pub layers: &'a [Layer],
}

impl Probe for Channels<'_> {
    type Part = ChannelSums;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::CLEAN, Goal::Layers)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<ChannelSums>, ExecError> {
        let mut sums = vec![ChannelSums::default(); run.layers];
        run.forward(
            0,
            None,
            Some(&mut |layer, seen| match seen {
                Seen::Product { output, .. } => {
                    sums[layer] = ChannelSums::of(output, self.layers[layer].channels);
                }
                Seen::Noisy { .. } | Seen::Sigma { .. } => {}
            }),
        )?;
        Ok(sums)
    }
}
