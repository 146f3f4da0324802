//! From a layer's denoisers to the digital tile: what its units do ([`stages`]), in which steps and buffers under a given
//! mapping ([`plan`]), and which mapping is the cheapest ([`mapping`]).

pub mod mapping;
pub mod plan;
pub mod stages;

#[cfg(test)]
pub mod testing;
