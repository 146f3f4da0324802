//! Noise specifications: what `--noise` says and what the `noise` attribute of an analog op holds.
//!
//! ```text
//! spec      = component { "+" component } | number        (a bare number is a Gaussian's sigma) | "ideal"
//! component = "gaussian" "(" "sigma=" number [ ",mu=" number ] [ ",lifetime=" ( "sample" | "chip" ) ] ")"
//! number    = decimal [ "%" ]                                       (over 1 only with the sign)
//! ```

use crate::share;
use std::{fmt, str::FromStr};

/// A noise specification that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoiseError {
    /// It does not parse.
    #[error("noise `{spec}`: {reason}; write for example `gaussian(sigma=6%)`")]
    Syntax {
        /// The specification.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A component that is known but not there yet.
    #[error("noise component `{0}` is not supported yet; only `gaussian` is")]
    Unsupported(String),
    /// A word that is none of an option's values.
    #[error("{option} `{value}` is none of {choices}")]
    Choice {
        /// The option.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values there are.
        choices: &'static str,
    },
}

/// How long a draw lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Drawn anew for every sample and forward pass: read, thermal and shot noise.
    Sample,
    /// Drawn once per simulated chip, then fixed: programming error, process variation.
    Chip,
}

/// Gaussian noise added to a layer's output: `s·(μ + σ·ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    /// σ as a share of the layer's magnitude s.
    pub sigma: f64,
    /// μ as a share of the layer's magnitude s.
    pub mu: f64,
    /// How long a draw lasts.
    pub lifetime: Lifetime,
}

/// The noise of an analog layer: the sum of its components. Without any the layer is ideal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NoiseSpec {
    /// The components; an index here is part of the random draws' key.
    pub components: Vec<Component>,
}

impl NoiseSpec {
    /// A single Gaussian drawn per sample.
    pub fn gaussian(sigma: f64) -> Self {
        Self { components: vec![Component { sigma, mu: 0.0, lifetime: Lifetime::Sample }] }
    }

    /// Whether there is no noise (and so no saturation either).
    pub fn is_ideal(&self) -> bool {
        self.components.is_empty()
    }
}

const UNSUPPORTED: [&str; 8] =
    ["adc", "dac", "drift", "ir_drop", "stuck_at", "weight_programming", "weight_read", "shot"];

fn parse_component(text: &str) -> Result<Result<Component, NoiseError>, String> {
    let (name, arguments) = match text.split_once('(') {
        Some((name, rest)) => {
            let arguments = rest.strip_suffix(')').ok_or_else(|| format!("`{text}` has no closing parenthesis"))?;
            (name.trim(), arguments)
        }
        None => (text, ""),
    };
    if UNSUPPORTED.contains(&name) {
        return Ok(Err(NoiseError::Unsupported(name.to_owned())));
    }
    if name != "gaussian" {
        return Err(format!("there is no component `{name}`"));
    }
    let (mut sigma, mut mu, mut lifetime) = (None, None, None);
    for argument in arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty()) {
        let (key, value) = argument.split_once('=').ok_or_else(|| format!("`{argument}` is not KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        let repeated = match key {
            "sigma" => sigma.replace(share::parse_positive(value)?).is_some(),
            "mu" => mu.replace(share::parse(value)?).is_some(),
            "lifetime" => lifetime
                .replace(match value {
                    "sample" => Lifetime::Sample,
                    "chip" => Lifetime::Chip,
                    _ => return Err(format!("lifetime `{value}` is neither `sample` nor `chip`")),
                })
                .is_some(),
            _ => {
                return Err(format!("gaussian has no `{key}`, only sigma, mu and lifetime"));
            }
        };
        if repeated {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(Ok(Component {
        sigma: sigma.ok_or("gaussian needs a sigma")?,
        mu: mu.unwrap_or(0.0),
        lifetime: lifetime.unwrap_or(Lifetime::Sample),
    }))
}

impl FromStr for NoiseSpec {
    type Err = NoiseError;

    fn from_str(spec: &str) -> Result<Self, NoiseError> {
        let syntax = |reason| NoiseError::Syntax { spec: spec.to_owned(), reason };
        let text = spec.trim();
        if matches!(text, "ideal" | "none") {
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
            .map(|part| parse_component(part.trim()).map_err(syntax)?)
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

impl fmt::Display for NoiseSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.components.is_empty() {
            return f.write_str("ideal");
        }
        for (index, component) in self.components.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            f.write_str("gaussian(sigma=")?;
            f.write_str(&share::show(component.sigma))?;
            if component.mu != 0.0 {
                f.write_str(",mu=")?;
                f.write_str(&share::show(component.mu))?;
            }
            if component.lifetime == Lifetime::Chip {
                f.write_str(",lifetime=chip")?;
            }
            f.write_str(")")?;
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

/// The words of an enumeration: parsing and printing.
macro_rules! words {
    ($name:ident, $option:literal, $choices:literal, $($variant:ident = $word:literal),+) => {
        impl FromStr for $name {
            type Err = NoiseError;

            fn from_str(text: &str) -> Result<Self, NoiseError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(NoiseError::Choice { option: $option, value: text.to_owned(), choices: $choices }),
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

words!(Scale, "noise scale", "range, constant, signal", Range = "range", Constant = "constant", Signal = "signal");
words!(
    Reference,
    "noise reference",
    "rms, absmax, mean-abs, std",
    Rms = "rms",
    Absmax = "absmax",
    MeanAbs = "mean-abs",
    Std = "std"
);

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
            ("gaussian(sigma=1%,tau=2)", "no `tau`"),
            ("gaussian(sigma=nan)", "not a number"),
            ("gaussian(sigma=6)", "did you mean 6%?"),
            ("gaussian(sigma=6%,mu=-2)", "did you mean -2%?"),
            ("6", "did you mean 6%?"),
            ("poisson(sigma=1%)", "no component `poisson`"),
            ("gaussian(sigma=1%)+", "no component ``"),
            ("gaussian(sigma=4%)+adc(bits=8)", "`adc` is not supported yet"),
        ] {
            let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!("half".parse::<Scale>().unwrap_err().to_string().contains("signal"));
    }
}
