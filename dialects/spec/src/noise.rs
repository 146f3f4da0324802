//! Noise specifications: what `--noise` says and what the `noise` attribute of an analog op holds.
//!
//! ```text
//! spec      = component { "+" component } | share             (a bare share is a Gaussian's sigma) | "ideal"
//! component = model [ "(" argument { "," argument } ")" ]     (the models and their arguments: MODELS, and registered laws)
//! argument  = name "=" share | "site" "=" ( "input" | "output" ) | "lifetime" "=" ( "sample" | "chip" )
//! share     = decimal [ "%" ]                                 (over 1 only with the sign)
//! ```

pub use crate::declaration::{Argument, ModelInfo, Range, Site, Unit};

use crate::{
    law::{self, Registered},
    share,
};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A noise specification that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoiseError {
    /// It does not parse.
    #[error("noise `{spec}`: {reason}; write for example `{}`", LayerNoise::default().spec)]
    Syntax {
        /// The specification.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A component that is neither a built-in model nor a law that this program has registered.
    #[error("noise `{spec}`: there is no component `{name}`; {}", known())]
    Unknown {
        /// The specification.
        spec: String,
        /// The component's name.
        name: String,
    },
    /// A component that is known but not there yet.
    #[error("noise component `{name}` is not supported yet; only {}", supported(), name = .0)]
    Unsupported(String),
    /// A word that is none of an option's values.
    #[error("{option} \"{value}\" is not one of {}", choices.join(", "))]
    Choice {
        /// The option.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values there are.
        choices: &'static [&'static str],
    },
}

/// The words of an enumeration: parsing and printing.
macro_rules! words {
    ($name:ident, $option:literal, $($variant:ident = $word:literal),+) => {
        impl $name {
            /// The values in their text form.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl FromStr for $name {
            type Err = NoiseError;

            fn from_str(text: &str) -> Result<Self, NoiseError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(NoiseError::Choice { option: $option, value: text.to_owned(), choices: Self::WORDS }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

impl Site {
    /// Where a specification may put a component that acts on signals, in their text form.
    const SIGNALS: &'static [&'static str] = &["input", "output"];

    /// One of [`Site::SIGNALS`].
    fn signal(text: &str) -> Result<Self, NoiseError> {
        match text {
            "input" => Ok(Self::Input),
            "output" => Ok(Self::Output),
            _ => Err(NoiseError::Choice { option: "site", value: text.to_owned(), choices: Self::SIGNALS }),
        }
    }
}

/// How long a draw lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Drawn anew for every sample and forward pass: read, thermal and shot noise.
    Sample,
    /// Drawn once per simulated chip, then fixed: programming error, process variation.
    Chip,
}

words!(Lifetime, "lifetime", Sample = "sample", Chip = "chip");

/// Gives the argument of a name, or else its default.
type Arguments<'a> = dyn FnMut(&'static str, Option<f64>) -> Result<f64, String> + 'a;

/// Makes a model of its arguments.
type Make = fn(&mut Arguments<'_>) -> Result<Model, String>;

impl ModelInfo {
    /// How it is written: `gaussian(sigma=SHARE[,mu=SHARE][,site=input|output][,lifetime=sample|chip])`.
    fn usage(&self) -> String {
        let mut arguments = String::new();
        for (index, argument) in self.arguments.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let word = match argument.unit {
                Unit::Share => "SHARE",
            };
            let written = format!("{comma}{}={word}", argument.name);
            arguments.push_str(&if argument.default.is_some() { format!("[{written}]") } else { written });
        }
        if self.site.is_signal() {
            arguments.push_str(&format!("[,site={}]", Site::SIGNALS.join("|")));
        }
        format!("{}({arguments}[,lifetime={}])", self.name, Lifetime::WORDS.join("|"))
    }

    /// The names of its arguments.
    fn known(&self) -> Vec<String> {
        let own = self.arguments.iter().map(|argument| argument.name);
        own.chain(self.site.is_signal().then_some("site")).chain(["lifetime"]).map(str::to_owned).collect()
    }
}

/// Declares the models: the one place that says what a component's name, site and arguments are. A line of an argument reads
/// `name: unit, range, default`.
macro_rules! models {
    ($(
        #[doc = $help:literal]
        $variant:ident = $name:literal at $site:ident {
            $(
                #[doc = $about:literal]
                $argument:ident: $unit:ident, $range:ident, $default:expr;
            )+
        }
    )+) => {
        /// What a component adds. The fields are the arguments of its text form.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Model {
            /// s·scale·d, d drawn by a law that this program has registered, whose name is the component's
            Registered {
                /// the law
                law: &'static Registered,
                /// what its draws are multiplied by
                scale: f64,
            },
            $(
                #[doc = $help]
                $variant {
                    $(
                        #[doc = $about]
                        $argument: f64,
                    )+
                },
            )+
        }

        #[allow(non_upper_case_globals)]
        mod declared {
            use super::*;

            $(
                pub(super) static $variant: ModelInfo = ModelInfo {
                    name: $name,
                    site: Site::$site,
                    help: $help.trim_ascii(),
                    arguments: &[$(Argument {
                        name: stringify!($argument),
                        unit: Unit::$unit,
                        range: Range::$range,
                        default: $default,
                        help: $about.trim_ascii(),
                    }),+],
                };
            )+
        }

        /// Every built-in model.
        pub static MODELS: &[&ModelInfo] = &[$(&declared::$variant),+];

        /// How a built-in model of a name is made, and its declaration.
        fn built_in(name: &str) -> Option<(&'static ModelInfo, Make)> {
            match name {
                $($name => Some((
                    &declared::$variant,
                    |get| Ok(Model::$variant { $($argument: get(stringify!($argument), $default)?),+ }),
                )),)+
                _ => None,
            }
        }

        impl Model {
            /// Its declaration.
            pub fn info(&self) -> &'static ModelInfo {
                match *self {
                    Self::Registered { law, .. } => law.info(),
                    $(Self::$variant { .. } => &declared::$variant,)+
                }
            }

            /// Its arguments' numbers, in the order of the declaration.
            fn values(&self) -> Vec<f64> {
                match *self {
                    Self::Registered { scale, .. } => vec![scale],
                    $(Self::$variant { $($argument),+ } => vec![$($argument),+],)+
                }
            }
        }
    };
}

models! {
    /// s·(μ + σ·ε), ε standard normal
    Gaussian = "gaussian" at Output {
        /// the standard deviation σ
        sigma: Share, NotNegative, None;
        /// the mean μ
        mu: Share, Any, Some(0.0);
    }
    /// s·width·u, u uniform from −1/2 to 1/2
    Uniform = "uniform" at Output {
        /// the width; the standard deviation is width/√12
        width: Share, NotNegative, None;
    }
}

/// Specifications of no noise.
pub(crate) const IDEAL: [&str; 2] = ["ideal", "none"];

/// Names that specifications of other tools know, and that no model has yet.
pub(crate) const UNSUPPORTED: [&str; 8] =
    ["adc", "dac", "drift", "ir_drop", "stuck_at", "weight_programming", "weight_read", "shot"];

/// Words as a sentence lists them: `a, b and c`.
fn list(words: &[String]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// The names of models, as a sentence lists them.
fn names<'a>(models: impl IntoIterator<Item = &'a ModelInfo>) -> String {
    list(&models.into_iter().map(|info| format!("`{}`", info.name)).collect::<Vec<_>>())
}

/// Which models there are, for a message.
fn supported() -> String {
    format!("{} {}", names(MODELS.iter().copied()), if MODELS.len() == 1 { "is" } else { "are" })
}

/// Which names a component may have in this program, for a message.
fn known() -> String {
    let registered = law::registered();
    let registered = match registered.as_slice() {
        [] => "none".to_owned(),
        laws => names(laws.iter().map(|law| law.info())),
    };
    let built_in = names(MODELS.iter().copied());
    format!(
        "built in are {built_in}, registered by this program is {registered} (a law of an embedding program is registered \
         before anything names it)"
    )
}

/// What `--noise` takes: a line for every model.
pub fn help() -> String {
    let registered = law::registered();
    let models = MODELS.iter().copied().chain(registered.iter().map(|law| law.info()));
    models.map(|info| format!("\n  {} adds {}", info.usage(), info.help)).collect()
}

/// One source of noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    /// Where it acts: where its model does, unless the text form says otherwise.
    pub site: Site,
    /// How long a draw lasts.
    pub lifetime: Lifetime,
    /// What it adds.
    pub model: Model,
}

impl Component {
    /// A model at its site, drawn per sample.
    pub fn new(model: Model) -> Self {
        Self { site: model.info().site, lifetime: Lifetime::Sample, model }
    }
}

/// The noise of an analog layer: the sum of its components. Without any the layer is ideal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NoiseSpec {
    /// The components; an index here is part of the random draws' key.
    pub components: Vec<Component>,
}

impl NoiseSpec {
    /// A single Gaussian drawn per sample; σ is a share of the layer's magnitude.
    pub fn gaussian(sigma: f64) -> Self {
        Self { components: vec![Component::new(Model::Gaussian { sigma, mu: 0.0 })] }
    }

    /// Whether there is no noise (and so no saturation either).
    pub fn is_ideal(&self) -> bool {
        self.components.is_empty()
    }

    /// Whether a component acts at a site.
    pub fn acts_at(&self, site: Site) -> bool {
        self.components.iter().any(|component| component.site == site)
    }
}

fn parse_component(spec: &str, text: &str) -> Result<Component, NoiseError> {
    let syntax = |reason| NoiseError::Syntax { spec: spec.to_owned(), reason };
    let (name, arguments) = match text.split_once('(') {
        Some((name, rest)) => {
            let arguments =
                rest.strip_suffix(')').ok_or_else(|| syntax(format!("`{text}` has no closing parenthesis")))?;
            (name.trim(), arguments)
        }
        None => (text, ""),
    };
    if let Some((info, make)) = built_in(name) {
        parse_arguments(info, arguments, make).map_err(syntax)
    } else if let Some(law) = law::find(name) {
        let make =
            |get: &mut Arguments<'_>| Ok(Model::Registered { law, scale: get(law::SCALE.name, law::SCALE.default)? });
        parse_arguments(law.info(), arguments, make).map_err(syntax)
    } else if UNSUPPORTED.contains(&name) {
        Err(NoiseError::Unsupported(name.to_owned()))
    } else if law::is_name(name) {
        Err(NoiseError::Unknown { spec: spec.to_owned(), name: name.to_owned() })
    } else {
        Err(syntax(format!("there is no component `{name}`")))
    }
}

fn parse_arguments(
    info: &'static ModelInfo,
    text: &str,
    make: impl Fn(&mut Arguments<'_>) -> Result<Model, String>,
) -> Result<Component, String> {
    let (mut values, mut site, mut lifetime) = (BTreeMap::new(), None, None);
    let word = |error: NoiseError| error.to_string();
    for argument in text.split(',').map(str::trim).filter(|argument| !argument.is_empty()) {
        let (key, value) = argument.split_once('=').ok_or_else(|| format!("`{argument}` is not KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        let repeated = match info.arguments.iter().find(|argument| argument.name == key) {
            Some(argument) => values.insert(argument.name, argument.parse(value)?).is_some(),
            None if key == "lifetime" => lifetime.replace(value.parse().map_err(word)?).is_some(),
            None if key == "site" && info.site.is_signal() => {
                site.replace(Site::signal(value).map_err(word)?).is_some()
            }
            None => return Err(format!("{} has no `{key}`, only {}", info.name, list(&info.known()))),
        };
        if repeated {
            return Err(format!("`{key}` is given twice"));
        }
    }
    let model = make(&mut |name, default| {
        values.get(name).copied().or(default).ok_or_else(|| format!("{} needs a {name}", info.name))
    })?;
    let (site, lifetime) = (site.unwrap_or(info.site), lifetime.unwrap_or(Lifetime::Sample));
    Ok(Component { site, lifetime, model })
}

impl FromStr for NoiseSpec {
    type Err = NoiseError;

    fn from_str(spec: &str) -> Result<Self, NoiseError> {
        let syntax = |reason| NoiseError::Syntax { spec: spec.to_owned(), reason };
        let text = spec.trim();
        if IDEAL.contains(&text) {
            return Ok(Self::default());
        }
        if text.is_empty() {
            return Err(syntax("it is empty".to_owned()));
        }
        if text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return share::parse_positive(text).map(Self::gaussian).map_err(syntax);
        }
        let components = split_components(text)
            .into_iter()
            .map(|part| parse_component(spec, part.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { components })
    }
}

/// Splits at `+` outside parentheses (a number may hold one, as in `1e+2`).
fn split_components(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '+' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.model.info();
        let mut written: Vec<String> = info
            .arguments
            .iter()
            .zip(self.model.values())
            .filter(|(argument, value)| argument.default != Some(*value))
            .map(|(argument, value)| format!("{}={}", argument.name, argument.show(value)))
            .collect();
        if self.site != info.site {
            written.push(format!("site={}", self.site));
        }
        if self.lifetime != Lifetime::Sample {
            written.push(format!("lifetime={}", self.lifetime));
        }
        write!(f, "{}({})", info.name, written.join(","))
    }
}

impl fmt::Display for NoiseSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.components.is_empty() {
            return f.write_str("ideal");
        }
        for (index, component) in self.components.iter().enumerate() {
            let plus = if index > 0 { "+" } else { "" };
            write!(f, "{plus}{component}")?;
        }
        Ok(())
    }
}

/// What the magnitude s is taken of (`--noise-scale`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The calibrated output; the tile saturates at the calibrated input and output ranges.
    Range,
    /// The calibrated output, without saturation.
    Constant,
    /// This sample's own output in the running network.
    Signal,
}

words!(Scale, "noise scale", Range = "range", Constant = "constant", Signal = "signal");

/// The magnitude s (`--noise-reference`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// √mean(y²).
    Rms,
    /// max |y|.
    Absmax,
    /// mean |y|.
    MeanAbs,
    /// The standard deviation.
    Std,
}

words!(Reference, "noise reference", Rms = "rms", Absmax = "absmax", MeanAbs = "mean-abs", Std = "std");

/// The noise of an analog layer and the magnitude s that it is relative to.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNoise {
    /// What is added, in shares of s.
    pub spec: NoiseSpec,
    /// What s is taken of.
    pub scale: Scale,
    /// Which magnitude s is.
    pub reference: Reference,
}

impl Default for LayerNoise {
    fn default() -> Self {
        Self { spec: NoiseSpec::gaussian(0.06), scale: Scale::Range, reference: Reference::Rms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_round_trip() {
        for (text, canonical) in [
            ("gaussian(sigma=6%)", "gaussian(sigma=6%)"),
            ("0.06", "gaussian(sigma=6%)"),
            ("7%", "gaussian(sigma=7%)"),
            (
                " gaussian( sigma = 0.04 , mu=0 ) + gaussian(sigma=1%,lifetime=chip)",
                "gaussian(sigma=4%)+gaussian(sigma=1%,lifetime=chip)",
            ),
            ("gaussian(sigma=1e+0%,mu=-0.5%)", "gaussian(sigma=1%,mu=-0.5%)"),
            ("gaussian(sigma=250%)", "gaussian(sigma=250%)"),
            ("gaussian(sigma=0.0333333333333333333)", "gaussian(sigma=0.03333333333333333)"),
            ("uniform(width=20%)+gaussian(sigma=1%)", "uniform(width=20%)+gaussian(sigma=1%)"),
            ("uniform( lifetime = chip, width = 0.2 )", "uniform(width=20%,lifetime=chip)"),
            ("gaussian(sigma=1%,site=output)", "gaussian(sigma=1%)"),
            ("uniform(width=1%,lifetime=chip,site=input)", "uniform(width=1%,site=input,lifetime=chip)"),
            ("ideal", "ideal"),
        ] {
            let spec: NoiseSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse::<NoiseSpec>().unwrap(), spec);
        }
        for thousandth in 0..2000 {
            let spec = NoiseSpec::gaussian(f64::from(thousandth) / 10.0 / 100.0);
            assert_eq!(spec.to_string().parse::<NoiseSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn bad_specifications_are_named() {
        for (text, part) in [
            ("", "empty"),
            ("gaussian", "needs a sigma"),
            ("gaussian(sigma=x)", "`x` is not a number"),
            ("gaussian(sigma=-1%)", "negative"),
            ("gaussian(sigma=1%", "closing"),
            ("gaussian(sigma=1%,sigma=2%)", "twice"),
            ("gaussian(sigma=1%,tau=2)", "gaussian has no `tau`, only sigma, mu, site and lifetime"),
            ("gaussian(sigma=1%,site=weight)", "site \"weight\" is not one of input, output"),
            ("gaussian(sigma=1%,site=input,site=input)", "`site` is given twice"),
            ("gaussian(sigma=1%,lifetime=day)", "lifetime \"day\" is not one of sample, chip"),
            ("uniform()", "uniform needs a width"),
            ("uniform(sigma=1%)", "uniform has no `sigma`, only width, site and lifetime"),
            ("gaussian(sigma=nan)", "not a number"),
            ("gaussian(sigma=6)", "did you mean 6%?"),
            ("gaussian(sigma=6%,mu=-2)", "did you mean -2%?"),
            ("6", "did you mean 6%?"),
            ("poisson(sigma=1%)", "no component `poisson`"),
            ("gaussian(sigma=1%)+", "no component ``"),
            ("gaussian(sigma=4%)+adc(bits=8)", "`adc` is not supported yet; only `gaussian`"),
        ] {
            let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!("half".parse::<Scale>().unwrap_err().to_string().contains("signal"));
    }
}
