//! Cost models: what analog layers and the digital tile's work cost. Everything that counts energy or time asks one: `spend-energy` and
//! reports. The built-in one is the hardware profile's own figures ([`Hardware`]), an embedding program may have another.
//!
//! How a layer lies on analog tiles, and how a convolution may run on the tile's cores, is the profile's geometry in either case, as are
//! the schedules of the digital tile that the compiler writes down.

use crate::{
    digital::{cycles::Activity, schedule::Work},
    hardware::Hardware,
};
use std::fmt;

/// An analog layer: a matrix of `rows` inputs and `outputs` for each of its groups, on tiles of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnalogLayer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its groups: the channels of a depthwise convolution, else mostly 1.
    pub groups: u64,
    /// Inputs of an output: channels of a group × taps.
    pub rows: u64,
    /// Outputs of a group.
    pub outputs: u64,
    /// Matrix-vector products per sample: output pixels or tokens.
    pub mvms: u64,
    /// The tiles of the profile's geometry that it takes, all of which each product runs on.
    pub tiles: u64,
    /// Input conversions of a product.
    pub input_conversions: u64,
    /// Output conversions of a product.
    pub output_conversions: u64,
    /// Additions of partial sums of a product.
    pub additions: u64,
}

/// What an analog layer costs per sample on its tiles. A layer may be read several times, of which the mean is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnalogCost {
    /// Picojoules of the first read: of all its products once.
    pub picojoules: f64,
    /// Picojoules of each further read, and of adding it to the others.
    pub further_picojoules: f64,
    /// Nanoseconds of a read; reads follow one another.
    pub nanoseconds: f64,
}

/// What an item of work costs the digital tile.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DigitalCost {
    /// Cycles of the profile's clock, the start of the phase included.
    pub cycles: u64,
    /// Picojoules.
    pub picojoules: f64,
}

/// Whose work on the digital tile it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitalPart<'a> {
    /// A layer's that is computed there instead of on analog tiles.
    Layer(&'a str),
    /// A layer's denoisers'.
    Denoiser(&'a str),
}

impl<'a> DigitalPart<'a> {
    /// The layer's name.
    pub fn layer(self) -> &'a str {
        match self {
            Self::Layer(layer) | Self::Denoiser(layer) => layer,
        }
    }
}

impl fmt::Display for DigitalPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer) => write!(f, "layer `{layer}`"),
            Self::Denoiser(layer) => write!(f, "the denoiser of layer `{layer}`"),
        }
    }
}

/// Says what work costs. Answers must be finite, not negative, and always the same of the same question.
///
/// ```
/// use mxc_runtime::{
///     cost::{AnalogCost, AnalogLayer, CostModel, DigitalCost, DigitalPart},
///     digital::schedule::Work,
///     hardware::Hardware,
/// };
///
/// /// A profile whose analog tiles are paid by conversions alone.
/// #[derive(Debug)]
/// struct Converters(Hardware);
///
/// impl CostModel for Converters {
///     fn name(&self) -> &str {
///         "converters"
///     }
///
///     fn analog(&self, layer: &AnalogLayer<'_>) -> AnalogCost {
///         let picojoules = (layer.mvms * (layer.input_conversions + layer.output_conversions)) as f64;
///         AnalogCost { picojoules, further_picojoules: picojoules, ..self.0.analog(layer) }
///     }
///
///     fn digital(&self, part: DigitalPart<'_>, work: &Work) -> DigitalCost {
///         self.0.digital(part, work)
///     }
/// }
/// ```
pub trait CostModel: fmt::Debug + Send + Sync {
    /// What errors and packages call it.
    fn name(&self) -> &str;

    /// What a layer costs on its analog tiles, per sample.
    fn analog(&self, layer: &AnalogLayer<'_>) -> AnalogCost;

    /// What one item of work costs the digital tile.
    fn digital(&self, part: DigitalPart<'_>, work: &Work) -> DigitalCost;

    /// The picojoules of several items, one after another, of which each costs what [`CostModel::digital`] said: their sum, unless a
    /// model knows better.
    fn together(&self, part: DigitalPart<'_>, works: &[Work], costs: &[DigitalCost]) -> f64 {
        let _ = (part, works);
        costs.iter().map(|cost| cost.picojoules).sum()
    }
}

/// The profile's figures: operations and conversions times the energy of each, and the cycles of its units.
impl CostModel for Hardware {
    fn name(&self) -> &str {
        &self.name
    }

    fn analog(&self, layer: &AnalogLayer<'_>) -> AnalogCost {
        let energy = &self.energy;
        let of = |count: u64, picojoules: f64| (layer.mvms * count) as f64 * picojoules;
        let picojoules = of(layer.tiles, energy.crossbar_mvm.picojoules)
            + of(layer.input_conversions, energy.dac_conversion.picojoules)
            + of(layer.output_conversions, energy.adc_conversion.picojoules)
            + of(layer.additions, energy.add.picojoules);
        AnalogCost {
            picojoules,
            // The mean is a factor of the conversion's scale.
            further_picojoules: picojoules + of(layer.groups * layer.outputs, energy.add.picojoules),
            nanoseconds: layer.mvms as f64 * self.analog.mvm_nanoseconds,
        }
    }

    fn digital(&self, _: DigitalPart<'_>, work: &Work) -> DigitalCost {
        DigitalCost { cycles: work.cycles(self), picojoules: work.activity(self).picojoules(self) }
    }

    /// Of operations that were added before they are rounded.
    fn together(&self, _: DigitalPart<'_>, works: &[Work], _: &[DigitalCost]) -> f64 {
        works.iter().fold(Activity::default(), |sum, work| sum + work.activity(self)).picojoules(self)
    }
}

/// A cost model's answer that is no cost.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the cost model `{model}` says {value} {unit} for {what}; costs are finite and not negative")]
pub struct CostError {
    /// The model's name.
    pub model: String,
    /// The answer.
    pub value: f64,
    /// What it is in.
    pub unit: &'static str,
    /// What it is about, with the layer's name.
    pub what: String,
}

/// A profile, and the model of what work on it costs.
#[derive(Clone, Copy, Debug)]
pub struct Costs<'a> {
    /// The geometry, the units and the clock.
    pub hardware: &'a Hardware,
    model: &'a dyn CostModel,
}

/// By the profile's own figures.
impl<'a> From<&'a Hardware> for Costs<'a> {
    fn from(hardware: &'a Hardware) -> Self {
        Self { hardware, model: hardware }
    }
}

/// What items of work cost together.
#[derive(Clone, Debug, PartialEq)]
pub struct Together {
    /// The cycles of each.
    pub cycles: Vec<u64>,
    /// The picojoules of all.
    pub picojoules: f64,
}

impl Together {
    /// The cycles of all.
    pub fn all_cycles(&self) -> u64 {
        self.cycles.iter().fold(0, |sum, cycles| sum.saturating_add(*cycles))
    }
}

impl<'a> Costs<'a> {
    /// By a model, or by the profile's own figures.
    pub fn new(hardware: &'a Hardware, model: Option<&'a dyn CostModel>) -> Self {
        Self { hardware, model: model.unwrap_or(hardware) }
    }

    /// What a layer costs on its tiles.
    ///
    /// # Errors
    ///
    /// When the answer is negative or not finite.
    pub fn analog(&self, layer: &AnalogLayer<'_>) -> Result<AnalogCost, CostError> {
        let cost = self.model.analog(layer);
        let about = |what: &str| format!("{what} of layer `{}`", layer.name);
        self.check(cost.picojoules, "pJ", || about("the first read"))?;
        self.check(cost.further_picojoules, "pJ", || about("a further read"))?;
        self.check(cost.nanoseconds, "ns", || about("a read"))?;
        Ok(cost)
    }

    /// What an item of work costs the digital tile.
    ///
    /// # Errors
    ///
    /// When the answer is negative or not finite.
    pub fn digital(&self, part: DigitalPart<'_>, work: &Work) -> Result<DigitalCost, CostError> {
        let cost = self.model.digital(part, work);
        self.check(cost.picojoules, "pJ", || format!("{work:?} of {part}"))?;
        Ok(cost)
    }

    /// What items of work cost the digital tile together.
    ///
    /// # Errors
    ///
    /// When an answer is negative or not finite.
    pub fn together(&self, part: DigitalPart<'_>, works: &[Work]) -> Result<Together, CostError> {
        let costs: Vec<DigitalCost> = works.iter().map(|work| self.digital(part, work)).collect::<Result<_, _>>()?;
        let picojoules = self.model.together(part, works, &costs);
        self.check(picojoules, "pJ", || format!("all work of {part}"))?;
        Ok(Together { cycles: costs.into_iter().map(|cost| cost.cycles).collect(), picojoules })
    }

    fn check(&self, value: f64, unit: &'static str, what: impl FnOnce() -> String) -> Result<(), CostError> {
        if value.is_finite() && value >= 0.0 {
            return Ok(());
        }
        Err(CostError { model: self.model.name().to_owned(), value, unit, what: what() })
    }
}
