//! What a model of noise is, as it is declared: its name, where it acts, what arguments it takes.

use crate::share;
use std::fmt;

/// Where in an analog layer a component acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// On the operand, before the product.
    Input,
    /// On the stationary weights.
    Weight,
    /// On the sums of a tile, before those of several tiles are added.
    PartialSum,
    /// On the product, bias included.
    Output,
}

impl Site {
    /// Whether a component there acts on what goes into or comes out of a tile: such a one may act on either.
    pub(crate) fn is_signal(self) -> bool {
        match self {
            Self::Input | Self::Output => true,
            Self::Weight | Self::PartialSum => false,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Weight => "weight",
            Self::PartialSum => "partial sum",
            Self::Output => "output",
        })
    }
}

/// What an argument's number is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A share of the layer's magnitude s, written as `6%` or `0.06`.
    Share,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Share => "share of s",
        })
    }
}

/// The numbers that an argument may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Any finite one.
    Any,
    /// Those that are not negative.
    NotNegative,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::NotNegative => "0 or more",
        })
    }
}

/// An argument of a model, as it is declared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Argument {
    /// Its name in specifications.
    pub name: &'static str,
    /// What its number is measured in.
    pub unit: Unit,
    /// The numbers that it may have.
    pub range: Range,
    /// What it is where a specification leaves it out; without a default it must be given.
    pub default: Option<f64>,
    /// What it means, in a few words.
    pub help: &'static str,
}

impl Argument {
    pub(crate) fn parse(&self, text: &str) -> Result<f64, String> {
        match (self.unit, self.range) {
            (Unit::Share, Range::Any) => share::parse(text),
            (Unit::Share, Range::NotNegative) => share::parse_positive(text),
        }
    }

    /// A number as specifications spell it.
    pub fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Share => share::show(value),
        }
    }
}

/// A model, as it is declared.
#[derive(Debug)]
pub struct ModelInfo {
    /// Its name in specifications.
    pub name: &'static str,
    /// Where it acts; unless a specification says otherwise where it is one of signals.
    pub site: Site,
    /// What it adds, in one line.
    pub help: &'static str,
    /// Its own arguments; `lifetime` is every model's, `site` that of every model that acts on signals.
    pub arguments: &'static [Argument],
}
