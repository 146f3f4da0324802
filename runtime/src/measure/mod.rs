//! Measurements of every layer: what a sample contributes, and how contributions of many samples, from one run or from several,
//! become one result.
//!
//! A sum of floats depends on its order, so a [`Measured`] adds samples in the order of their places in the measurement, however they
//! come in: those whose turn has not come wait. Parts of a measurement may therefore be made apart, on other threads or machines,
//! and merged in any order, to the same bytes.

pub mod calibration;
pub mod channels;
pub mod curvature;
pub mod distortion;
pub mod inputs;
pub mod sensitivity;
pub mod sigma;

use crate::{
    error::ExecError,
    exec::{run::SampleRun, sample::Mode},
    plan::steps::Goal,
};
use std::collections::BTreeMap;

/// What is measured of a layer.
pub trait Part: Clone + Default + Send {
    /// Samples are added up in groups of so many, whose sums are added up.
    const GROUP: u64;

    /// Adds another sample's, or group's.
    fn add(&mut self, other: &Self);
}

/// A measurement: what it makes of one sample.
pub(crate) trait Probe: Sync {
    /// What is measured of every layer.
    type Part: Part;

    /// The runs of a sample that it looks at.
    fn runs(&self) -> Vec<(Mode, Goal)>;

    /// Measures the sample at a place of the measurement.
    fn sample(&self, run: &mut SampleRun<'_>, place: u64) -> Result<Vec<Self::Part>, ExecError>;
}

/// Measurements of samples, by layer.
#[derive(Clone, Debug)]
pub struct Measured<P> {
    /// The place of the sample whose turn it is.
    next: u64,
    total: Vec<P>,
    /// The sum of the group that is not full yet.
    group: Vec<P>,
    /// Samples whose turn has not come, by place.
    waiting: BTreeMap<u64, Vec<P>>,
}

impl<P: Part> Measured<P> {
    /// Nothing, of so many layers.
    pub fn new(layers: usize) -> Self {
        let none = vec![P::default(); layers];
        Self { next: 0, total: none.clone(), group: none, waiting: BTreeMap::new() }
    }

    /// Adds the sample at a place.
    pub(crate) fn insert(&mut self, place: u64, parts: Vec<P>) -> Result<(), ExecError> {
        if place < self.next || self.waiting.insert(place, parts).is_some() {
            return Err(ExecError::Input(format!("sample {place} of the measurement is there twice")));
        }
        while let Some(parts) = self.waiting.remove(&self.next) {
            add(&mut self.group, &parts);
            self.next += 1;
            if self.next.is_multiple_of(P::GROUP) {
                self.close();
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        add(&mut self.total, &self.group);
        self.group.fill(P::default());
    }

    /// Adds another part of the same measurement.
    ///
    /// # Errors
    ///
    /// When a sample is in both.
    pub fn merge(&mut self, mut other: Self) -> Result<(), ExecError> {
        // The one that has begun goes on.
        if other.next > self.next {
            std::mem::swap(self, &mut other);
        }
        if other.next > 0 {
            return Err(ExecError::Input("sample 0 of the measurement is there twice".to_owned()));
        }
        other.waiting.into_iter().try_for_each(|(place, parts)| self.insert(place, parts))
    }

    /// The sums over all samples and their number.
    ///
    /// # Errors
    ///
    /// When a sample before the last is missing.
    pub fn finish(mut self) -> Result<(Vec<P>, u64), ExecError> {
        if let Some(place) = self.waiting.keys().next() {
            let missing = self.next;
            return Err(ExecError::Input(format!("the measurement lacks sample {missing}, but has sample {place}")));
        }
        self.close();
        Ok((self.total, self.next))
    }
}

fn add<P: Part>(totals: &mut [P], parts: &[P]) {
    totals.iter_mut().zip(parts).for_each(|(total, part)| total.add(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Sum(f32);

    impl Part for Sum {
        const GROUP: u64 = 3;

        fn add(&mut self, other: &Self) {
            self.0 += other.0;
        }
    }

    /// Numbers whose sum depends on the order.
    fn part(place: u64) -> Vec<Sum> {
        vec![Sum((0.7 * place as f32).exp() / 3.0), Sum(place as f32)]
    }

    fn of(places: impl IntoIterator<Item = u64>) -> Measured<Sum> {
        let mut measured = Measured::new(2);
        places.into_iter().for_each(|place| measured.insert(place, part(place)).unwrap());
        measured
    }

    #[test]
    fn parts_merge_in_any_order_to_the_same_bits() {
        let whole = of(0..20).finish().unwrap();
        let reversed = (0..20).rev().fold(0f32, |sum, place| sum + part(place)[0].0);
        assert_ne!(whole.0[0].0, reversed, "the order matters");
        let shards = [of(0..7), of(7..8), of((8..20).step_by(2)), of((9..20).rev().step_by(2))];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let mut merged = Measured::new(2);
            order.iter().for_each(|&shard| merged.merge(shards[shard].clone()).unwrap());
            assert_eq!(merged.finish().unwrap(), whole);
        }
        let mut lacking = of(0..7);
        lacking.merge(shards[2].clone()).unwrap();
        let error = lacking.finish().unwrap_err().to_string();
        assert!(error.contains("lacks sample 7, but has sample 8"), "{error}");
        for (mut a, b) in [(of(0..3), of(0..1)), (of(0..3), of(2..3)), (of(4..6), of(5..6))] {
            assert!(a.merge(b).unwrap_err().to_string().contains("there twice"));
        }
    }
}
