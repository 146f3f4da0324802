//! Where denoisers go.

use crate::pass::globs;
use globset::GlobMatcher;
use std::{fmt, str::FromStr};

/// In which order, and how far, analog layers get denoisers. Its text is `--placement`, the option of `insert-denoisers`, and what
/// a package records.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// `greedy`: by rank, until the first that does not fit.
    Greedy,
    /// `greedy-fill`: by rank, leaving out what does not fit.
    Fill,
    /// `at=GLOB,…`: as `Greedy`, among the layers that match.
    At(Vec<GlobMatcher>),
}

impl Strategy {
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
        match (text, text.strip_prefix("at=")) {
            ("greedy", _) => Ok(Self::Greedy),
            ("greedy-fill", _) => Ok(Self::Fill),
            (_, Some(list)) => Self::at(list),
            (_, None) => Err("greedy, greedy-fill or at=GLOB,… expected".to_owned()),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greedy => f.write_str("greedy"),
            Self::Fill => f.write_str("greedy-fill"),
            Self::At(globs) => {
                let globs: Vec<_> = globs.iter().map(|glob| glob.glob().glob()).collect();
                write!(f, "at={}", globs.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
        for text in ["greedy", "greedy-fill", "at=/stem/*,fc?"] {
            assert_eq!(text.parse::<Strategy>().map(|strategy| strategy.to_string()).as_deref(), Ok(text));
        }
        for bad in ["", "fill", "at=", "at=,", "at=["] {
            assert!(bad.parse::<Strategy>().is_err(), "{bad}");
        }
    }
}
