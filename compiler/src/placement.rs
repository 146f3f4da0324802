//! Which denoisers go where.

use crate::pass::{OptionError, Options, globs};
use globset::GlobMatcher;
use mxc_dialects::{
    denoise::{KINDS, Kind, Stage},
    share,
};
use std::{fmt, str::FromStr};

/// In which order, and how far, analog layers get denoisers. Its text is `--placement`, the option of `insert-denoisers`, and what
/// a package records.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// `greedy`: by rank, until the first that does not fit.
    Greedy,
    /// `greedy-fill`: by rank, leaving out what does not fit.
    Fill,
    /// `worth`: what takes most of the loss away within the budget, over layers and kinds, by what `estimate-worth` measured.
    Worth,
    /// `first`: in order of execution, leaving out what does not fit. As the next two a baseline.
    First,
    /// `last`: against the order of execution.
    Last,
    /// `random`: in an order that the seed draws.
    Random,
    /// `at=GLOB,…`: as `Greedy`, among the layers that match.
    At(Vec<GlobMatcher>),
}

impl Strategy {
    /// Those that are a word.
    const WORDS: [(Self, &'static str); 6] = [
        (Self::Greedy, "greedy"),
        (Self::Fill, "greedy-fill"),
        (Self::Worth, "worth"),
        (Self::First, "first"),
        (Self::Last, "last"),
        (Self::Random, "random"),
    ];

    /// What can be asked for, in words.
    pub fn choices() -> String {
        let words = Self::WORDS.map(|(_, word)| word);
        format!("{} or at=GLOB,…", words.join(", "))
    }

    /// [`Strategy::At`] the layers that match one of `GLOB,…`.
    ///
    /// # Errors
    ///
    /// Says which glob is none, or that there is none.
    pub fn at(list: &str) -> Result<Self, String> {
        let globs: Vec<String> =
            list.split(',').map(str::trim).filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
        if globs.is_empty() {
            return Err("it names no layer; at=GLOB,… expected".to_owned());
        }
        globs::matchers(&globs).map(Self::At).map_err(|error| error.to_string())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(list) = text.strip_prefix("at=") {
            return Self::at(list);
        }
        let found = Self::WORDS.into_iter().find(|(_, word)| *word == text);
        found.map(|(strategy, _)| strategy).ok_or_else(|| format!("{} expected", Self::choices()))
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Greedy => "greedy",
            Self::Fill => "greedy-fill",
            Self::Worth => "worth",
            Self::First => "first",
            Self::Last => "last",
            Self::Random => "random",
            Self::At(globs) => {
                let globs: Vec<_> = globs.iter().map(|glob| glob.glob().glob()).collect();
                return write!(f, "at={}", globs.join(","));
            }
        };
        f.write_str(word)
    }
}

/// Kinds of denoisers to place.
#[derive(Clone, Debug, PartialEq)]
pub struct Kinds(Vec<&'static Kind>);

impl Kinds {
    /// The word for every kind that has a closed form and draws nothing.
    pub const ANY: &'static str = "any";

    /// What stands in for [`Kinds::ANY`] where layers are taken in an order, which chooses no kinds.
    pub const IN_ORDER: &'static str = "mean+affine";

    /// The kinds, in the order in which they act.
    pub fn list(&self) -> &[&'static Kind] {
        &self.0
    }

    /// Whether a layer may get all of them: no two are of one stage.
    pub fn go_together(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].stage < pair[1].stage)
    }

    /// What one layer may get of them: every kind by itself, affines first, and every block with every affine behind it.
    pub fn choices(&self) -> Vec<Vec<&'static Kind>> {
        let of = |stage: Stage| self.0.iter().copied().filter(move |kind| kind.stage == stage);
        let pairs = of(Stage::Block).flat_map(|block| of(Stage::Affine).map(move |affine| vec![block, affine]));
        self.0.iter().rev().map(|&kind| vec![kind]).chain(pairs).collect()
    }
}

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds: Vec<&'static Kind> = Vec::new();
        if text == Self::ANY {
            kinds.extend(KINDS.into_iter().filter(|kind| kind.expression().drawn().next().is_none()));
        } else {
            for part in text.split('+') {
                let kind = Kind::named(part.trim()).filter(|kind| kinds.iter().all(|other| other.stage != kind.stage));
                kinds.push(kind.ok_or_else(|| format!("{}, or {} expected", Kind::choices(), Self::ANY))?);
            }
        }
        kinds.sort_by_key(|kind| kind.stage);
        Ok(Self(kinds))
    }
}

/// The text of kinds that act one after another, such as `mean+affine`.
pub fn join(kinds: &[&Kind]) -> String {
    kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join("+")
}

/// Takes a pass's option `kind`.
///
/// # Errors
///
/// When it names no kinds.
pub fn take_kinds(options: &mut Options, default: &str) -> Result<Kinds, OptionError> {
    let text = options.take("kind").unwrap_or_else(|| default.to_owned());
    text.parse().map_err(|reason| OptionError(format!("option kind={text}: {reason}")))
}

/// Takes a pass's option `budget`: a share of the backbone's parameters, such as `4%`, which it is by default.
///
/// # Errors
///
/// When it is none.
pub fn take_budget(options: &mut Options) -> Result<f64, OptionError> {
    parse_budget(options.take("budget").as_deref().unwrap_or("4%"))
}

fn parse_budget(text: &str) -> Result<f64, OptionError> {
    share::parse_positive(text).map_err(|reason| OptionError(format!("option budget={text}: {reason}")))
}

/// The whole parameters within a fraction of the backbone's.
pub fn allowance(fraction: f64, backbone: u64) -> u64 {
    let exact = fraction * backbone as f64;
    // 4 % of 2,500 is 100, also where the product comes out as 99.99999999999999.
    let rounded = exact.round();
    if (exact - rounded).abs() < 1e-6 { rounded as u64 } else { exact.floor() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
        for text in ["greedy", "greedy-fill", "worth", "first", "last", "random", "at=/stem/*,fc?"] {
            assert_eq!(text.parse::<Strategy>().map(|strategy| strategy.to_string()).as_deref(), Ok(text));
        }
        for bad in ["", "fill", "at=", "at=,", "at=["] {
            assert!(bad.parse::<Strategy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn budgets() {
        assert_eq!(parse_budget("4%"), Ok(0.04));
        assert_eq!(parse_budget("0.04"), Ok(0.04));
        for bad in ["", "4", "-1%", "x", "nan%", "inf"] {
            assert!(parse_budget(bad).is_err(), "{bad}");
        }
        assert!(
            parse_budget("4")
                .unwrap_err()
                .0
                .contains("budget=4: `4` is over 1 without a percent sign; did you mean 4%?")
        );
        assert_eq!(allowance(0.04, 2500), 100);
        assert_eq!(allowance(0.07, 100), 7);
        assert_eq!(allowance(0.04, 77_754), 3110);
    }

    #[test]
    fn kinds() {
        let names = |text: &str| text.parse::<Kinds>().map(|kinds| join(kinds.list()));
        assert_eq!(names("mean+affine").as_deref(), Ok("mean+affine"));
        assert_eq!(names("affine + paper").as_deref(), Ok("paper+affine"));
        for bad in ["", "paper+mean", "affine+affine", "median", "any+affine"] {
            assert!(names(bad).is_err(), "{bad}");
        }
        let any: Kinds = "any".parse().unwrap();
        assert!(!any.go_together() && "mean+affine".parse::<Kinds>().unwrap().go_together());
        assert!(!any.list().iter().any(|kind| kind.name == "paper"), "it draws");
        let choices: Vec<String> =
            "mean+affine".parse::<Kinds>().unwrap().choices().iter().map(|kinds| join(kinds)).collect();
        assert_eq!(choices, ["affine", "mean", "mean+affine"]);
    }
}
