//! Evaluations cut into shards, which run apart, on other machines if need be, and are merged to the bytes of one.
//!
//! All samples of all runs of an evaluation are one row of work, run by run, of which each of n shards takes the n-th part: so that even
//! one draw over many samples, and many draws over few, are shared evenly. What a shard has found is counts, so that sums do not depend on the order.

use super::{EvalError, EvalOptions, EvalPlan, EvalProgress, EvalReport, Model};
use crate::{data::Source, exec::Executor, task::Scores};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The most shards: a list of those that are missing stays readable, and a bound on what a file can ask for.
const MOST: u32 = 1 << 20;

/// The version of a part's file.
const FORMAT: u32 = 1;

/// Which part of an evaluation: `3/8` is the third of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    /// From 1 to `of`.
    number: u32,
    of: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let (number, of) = parsed.ok_or_else(|| format!("`{text}` is no shard; write 3/8 for the third of eight"))?;
        if of > MOST {
            return Err(format!("{of} shards are too many; at most {MOST}"));
        }
        if !(1..=of).contains(&number) {
            return Err(format!("there is no shard {number} of {of}: they are numbered from 1 to {of}"));
        }
        Ok(Self { number, of })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// What a shard has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    format: u32,
    number: u32,
    of: u32,
    /// What else must agree, by its name: the package, the data, options.
    identity: BTreeMap<String, String>,
    plan: EvalPlan,
    scores: Vec<Scores>,
}

/// Why parts cannot be merged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PartError {
    /// A file is none.
    #[error("{name}: not a part of an evaluation, or a damaged one: {reason}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two parts are not of the same evaluation.
    #[error("{name} is of another evaluation than {first}: {what}")]
    Foreign {
        /// The file.
        name: String,
        /// The one that it was compared with.
        first: String,
        /// What differs, with both values.
        what: String,
    },
    /// A shard is there twice.
    #[error("{name} and {first} are both shard {shard}")]
    Doubled {
        /// The file.
        name: String,
        /// The other one.
        first: String,
        /// The shard.
        shard: String,
    },
    /// Nothing to merge.
    #[error("there are no parts to merge")]
    None,
    /// Shards are not there.
    #[error("of {of} shards {missing} missing; run mxc eval with --shard {next}/{of}, everything else as before")]
    Missing {
        /// Which.
        missing: String,
        /// The first of them.
        next: u32,
        /// How many there should be.
        of: u32,
    },
}

impl Part {
    /// The text of its file: JSON.
    pub fn to_json(&self) -> String {
        // Plain structs of numbers and strings always serialise.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Reads the text of a file that errors call `name`.
    ///
    /// # Errors
    ///
    /// When it is none, or of another version.
    pub fn from_json(text: &str, name: &str) -> Result<Self, PartError> {
        let damaged = |reason: String| PartError::Damaged { name: name.to_owned(), reason };
        let part: Self = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if part.format != FORMAT {
            return Err(damaged(format!("its version is {}, where this mxc reads {FORMAT}", part.format)));
        }
        let shard: Shard = format!("{}/{}", part.number, part.of).parse().map_err(damaged)?;
        if part.scores.len() as u64 != part.plan.pass_count() {
            let (found, wanted) = (part.scores.len(), part.plan.pass_count());
            return Err(damaged(format!("it has {found} runs, not {wanted}")));
        }
        // A network without noise has one draw, and as many chips as were asked for.
        if part.plan.draws_wanted() > u64::from(MOST) {
            return Err(damaged("it has too many draws".to_owned()));
        }
        let work = part.plan.share(shard);
        let fits = |(number, scores): (u64, &Scores)| {
            let samples = part.plan.samples_of(number, &work);
            scores.samples == samples.end - samples.start && scores.are_possible()
        };
        if !(0..).zip(&part.scores).all(fits) {
            return Err(damaged("its counts are not those of its shard".to_owned()));
        }
        Ok(part)
    }

    /// What it says of its evaluation by a name, such as `--seed`.
    pub fn of(&self, name: &str) -> Option<&str> {
        self.identity.get(name).map(String::as_str)
    }

    fn shard(&self) -> Shard {
        Shard { number: self.number, of: self.of }
    }

    /// What of another evaluation differs, with both values.
    fn difference(&self, other: &Self) -> Option<String> {
        if self.of != other.of {
            return Some(format!("{} shards, not {}", self.of, other.of));
        }
        let none = String::new();
        let names = self.identity.keys().chain(other.identity.keys());
        let values = names.map(|name| (name, [self, other].map(|part| part.identity.get(name).unwrap_or(&none))));
        let mut differing = values.filter(|(_, [own, others])| own != others);
        if let Some((name, [own, others])) = differing.next() {
            return Some(format!("{name} is `{own}`, not `{others}`"));
        }
        (self.plan != other.plan).then(|| "other samples, noise or draws".to_owned())
    }
}

impl EvalPlan {
    /// A shard's part of the work.
    fn share(&self, shard: Shard) -> std::ops::Range<u64> {
        let at = |number: u32| {
            let place = u128::from(self.work()) * u128::from(number) / u128::from(shard.of);
            u64::try_from(place).unwrap_or(u64::MAX)
        };
        at(shard.number - 1)..at(shard.number)
    }
}

/// Evaluates a shard; `identity` says what must agree for parts to be merged, `skipped` as the report does.
///
/// # Errors
///
/// As [`evaluate`](super::evaluate).
pub fn evaluate_shard(
    executor: &Executor,
    data: &dyn Source,
    options: &EvalOptions,
    shard: Shard,
    (identity, skipped): (BTreeMap<String, String>, Option<usize>),
    progress: &mut dyn FnMut(EvalProgress),
) -> Result<Part, EvalError> {
    part_of(executor, data, options, shard, (identity, skipped), progress)
}

fn part_of(
    model: &dyn Model,
    data: &dyn Source,
    options: &EvalOptions,
    shard: Shard,
    (identity, skipped): (BTreeMap<String, String>, Option<usize>),
    progress: &mut dyn FnMut(EvalProgress),
) -> Result<Part, EvalError> {
    let plan = EvalPlan { skipped, ..EvalPlan::new(model.program(), data, options)? };
    let scores = plan.run(model, data, options, plan.share(shard), progress)?;
    Ok(Part { format: FORMAT, number: shard.number, of: shard.of, identity, plan, scores })
}

/// The report of all shards of an evaluation, in any order, with what errors call each: to the bit that of [`evaluate`](super::evaluate).
///
/// # Errors
///
/// When they are not all of one evaluation, or one is missing or there twice.
pub fn merge(parts: &[(String, Part)]) -> Result<EvalReport, PartError> {
    let Some((first, reference)) = parts.first() else {
        return Err(PartError::None);
    };
    let mut seen: BTreeMap<Shard, &str> = BTreeMap::new();
    let mut scores = vec![Scores::default(); reference.scores.len()];
    for (name, part) in parts {
        if let Some(what) = part.difference(reference) {
            return Err(PartError::Foreign { name: name.clone(), first: first.clone(), what });
        }
        if let Some(other) = seen.insert(part.shard(), name) {
            let (first, shard) = (other.to_owned(), part.shard().to_string());
            return Err(PartError::Doubled { name: name.clone(), first, shard });
        }
        scores.iter_mut().zip(&part.scores).for_each(|(sum, part)| sum.add(part));
    }
    let of = reference.of;
    let missing: Vec<u32> = (1..=of).filter(|&number| !seen.contains_key(&Shard { number, of })).collect();
    let Some(&next) = missing.first() else {
        return Ok(reference.plan.report(&scores));
    };
    const NAMED: usize = 16;
    let named: Vec<String> = missing.iter().take(NAMED).map(u32::to_string).collect();
    let rest = missing.len().saturating_sub(NAMED);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let are = if missing.len() == 1 { "is" } else { "are" };
    Err(PartError::Missing { missing: format!("{}{more} {are}", named.join(", ")), next, of })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluate::{
        ChipOptions, Parameters, evaluate_model,
        tests::{Fake, Numbers, fake},
    };

    const CHIPS: ChipOptions = ChipOptions { count: 3, floor: 70.3 };

    fn options() -> EvalOptions {
        EvalOptions {
            runs: 4,
            batch: 5,
            chips: Some(CHIPS),
            parameters: Some(Parameters::new(7, 3)),
            ..EvalOptions::default()
        }
    }

    fn part(model: &Fake, options: &EvalOptions, shard: &str, seed: &str) -> Part {
        let identity = BTreeMap::from([("--seed".to_owned(), seed.to_owned())]);
        part_of(model, &Numbers, options, shard.parse().unwrap(), (identity, None), &mut |_| {}).unwrap()
    }

    fn parts(model: &Fake, options: &EvalOptions, of: u32) -> Vec<(String, Part)> {
        let named = |number: u32| (format!("{number}.json"), part(model, options, &format!("{number}/{of}"), "0"));
        (1..=of).map(named).collect()
    }

    /// Of any number of shards, more than there are samples among them, in any order, read from their files.
    #[test]
    fn shards_merge_to_the_report_of_one() {
        for (layers, denoisers) in [(2, true), (2, false), (0, false)] {
            let model = fake(layers, denoisers);
            let whole = evaluate_model(&model, &Numbers, &options(), &mut |_| {}).unwrap();
            for of in [1, 2, 7, 64, 1000] {
                let mut parts = parts(&model, &options(), of);
                parts.reverse();
                for (name, part) in &mut parts {
                    *part = Part::from_json(&part.to_json(), name).unwrap();
                }
                assert_eq!(merge(&parts).unwrap(), whole, "{layers} {denoisers} {of}");
            }
        }
    }

    /// Every sample of every run is counted by one shard, and the parts are alike to one sample.
    #[test]
    fn work_is_shared_evenly() {
        let parts = parts(&fake(2, true), &options(), 7);
        let counts: Vec<u64> =
            parts.iter().map(|(_, part)| part.scores.iter().map(|scores| scores.samples).sum()).collect();
        assert_eq!(counts.iter().sum::<u64>(), 12 * (2 + 7 * 2));
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let model = fake(2, true);
        let whole = parts(&model, &options(), 3);
        let says = |parts: &[(String, Part)]| merge(parts).unwrap_err().to_string();
        assert_eq!(says(&[]), "there are no parts to merge");
        assert!(says(&whole[..2]).starts_with("of 3 shards 3 is missing; run mxc eval with --shard 3/3,"));
        assert!(says(&whole[1..2]).starts_with("of 3 shards 1, 3 are missing; run mxc eval with --shard 1/3,"));
        let many = says(&parts(&model, &options(), 40)[..1]);
        assert!(many.contains("16, 17 and 23 more are missing"), "{many}");
        let with = |part: Part| [&whole[..], &[("other.json".to_owned(), part)]].concat();
        assert_eq!(says(&with(whole[1].1.clone())), "other.json and 2.json are both shard 2/3");
        let foreign = |part: Part| says(&with(part));
        let seed = foreign(part(&model, &options(), "3/3", "1"));
        assert_eq!(seed, "other.json is of another evaluation than 1.json: --seed is `1`, not `0`");
        assert!(foreign(part(&model, &options(), "3/4", "0")).ends_with("4 shards, not 3"));
        for other in [EvalOptions { runs: 5, ..options() }, EvalOptions { limit: Some(11), ..options() }] {
            assert!(foreign(part(&model, &other, "3/3", "0")).ends_with("other samples, noise or draws"));
        }
    }

    #[test]
    fn damaged_parts_are_refused() {
        let text = part(&fake(2, true), &options(), "2/3", "0").to_json();
        let refused = |text: &str, reason: &str| {
            let error = Part::from_json(text, "part.json").unwrap_err().to_string();
            assert!(error.starts_with("part.json: not a part of an evaluation") && error.contains(reason), "{error}");
        };
        for cut in [0, 1, text.len() / 2, text.len() - 3] {
            refused(&text[..cut], "");
        }
        for (from, to, reason) in [
            ("\"format\":1", "\"format\":2", "its version is 2, where this mxc reads 1"),
            ("\"number\":2", "\"number\":4", "there is no shard 4 of 3"),
            ("\"number\":2", "\"number\":1", "its counts are not those of its shard"),
            ("\"of\":3", "\"of\":0", "there is no shard 2 of 0"),
            ("\"runs\":4", "\"runs\":5", "it has 16 runs, not 18"),
            ("\"runs\":4", "\"runs\":4294967295", "runs, not"),
            ("\"samples\":12", "\"samples\":18446744073709551615", "its counts are not those of its shard"),
            ("\"first\":7,\"five\":11", "\"first\":12,\"five\":11", "its counts are not those of its shard"),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            refused(&text.replace(from, to), reason);
        }
        let quiet = part(&fake(0, false), &options(), "2/3", "0").to_json();
        refused(&quiet.replace("\"runs\":1", "\"runs\":4294967295"), "it has too many draws");
        for (text, reason) in [
            ("3", "is no shard"),
            ("0/3", "there is no shard 0 of 3"),
            ("-1/3", "is no shard"),
            ("1/99999999", "are too many"),
            ("1/0", "there is no shard 1 of 0"),
        ] {
            assert!(text.parse::<Shard>().unwrap_err().contains(reason), "{text}");
        }
    }
}
