//! From a layer's denoisers ([`placed`]) to the digital tile: what its units do ([`stages`]), what a mapping divides that into ([`plan`]),
//! in which phases and buffers it then runs ([`schedule`]), which mapping is the cheapest ([`mapping`]), the program
//! ([`emit`]), and where programs' weights lie ([`weights`]).

pub mod emit;
pub mod mapping;
pub mod placed;
pub mod plan;
pub mod schedule;
pub mod stages;
pub mod weights;

#[cfg(test)]
pub mod testing;
