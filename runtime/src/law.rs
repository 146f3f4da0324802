//! Laws of noise of an embedding program: tried out before they are registered, and drawn from.

pub use mxc_spec::law::{NoiseLaw, RegisterError, WORDS};

use crate::{
    panics,
    rng::{BLOCK, Kind, Stream, StreamKey},
};
use mxc_spec::register::{check_name, insert};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A registered law of noise failed while it was drawn from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the noise law `{law}` {problem}")]
pub struct LawFailure {
    /// Its name.
    pub law: &'static str,
    /// What it did.
    pub problem: String,
}

/// Draws that a law is asked for at a time, at most; always whole blocks.
const GROUP: usize = 8 * BLOCK;

/// Draws of a trial.
const TRIED: usize = 1 << 18;

/// How many standard errors a trial's mean and variance may be off.
const ERRORS: f64 = 6.0;

/// Registers a law of noise: from then on, and as long as the process lives, its name stands in specifications as any component's,
/// `name(scale=6%)`, with `site` and `lifetime`.
///
/// This is the one state of mxc that belongs to the process: laws are registered before anything names them, and never taken
/// away. A package holds the name only; the program that opens it must have registered the law, too.
///
/// The law is tried out on 2¹⁸ draws, those that it would make of a stream: it is refused where a draw is not finite, where the same
/// words do not always give the same draws, and where the mean or the variance about it is more than six standard errors from what the
/// law says. By the normal distribution a law that says the truth is refused once in 2·10⁸ laws; the draws are the same in every trial, so
/// that a law is refused always or never. A law whose variance comes of draws rarer than one in a few thousand may be refused, as a
/// trial cannot tell.
///
/// Where the law panics, what was drawn for ends in an error, [`ExecError::Law`](crate::error::ExecError::Law), unless the program is
/// built to abort.
///
/// ```
/// use mxc_runtime::law::{NoiseLaw, register};
///
/// // Random telegraph noise: a trap holds a charge in a quarter of all reads.
/// let telegraph = NoiseLaw::new(0.25, 0.1875, |words, draws| {
///     for (draw, word) in draws.iter_mut().zip(words) {
///         *draw = if *word < 1 << 30 { 1.0 } else { 0.0 };
///     }
/// });
/// register("telegraph", telegraph)?;
/// let noise: mxc_spec::noise::NoiseSpec = "telegraph(scale=6%)+gaussian(sigma=2%)".parse()?;
/// assert_eq!(noise.to_string(), "telegraph(scale=6%)+gaussian(sigma=2%)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// When the name is not one, is mxc's, or has a law already, and when the law is refused.
pub fn register(name: &str, law: NoiseLaw) -> Result<(), RegisterError> {
    check_name(name)?;
    check(&law).map_err(|problem| RegisterError::Law { name: name.to_owned(), problem })?;
    insert(name, law)
}

/// Tries a law out; an error says what it does that it must not.
fn check(law: &NoiseLaw) -> Result<(), String> {
    let NoiseLaw { mean, variance, .. } = *law;
    if !WORDS.contains(&law.words_per_draw()) {
        return Err(format!(
            "takes {} words a draw, allowed are {} to {}",
            law.words_per_draw(),
            WORDS.start(),
            WORDS.end()
        ));
    }
    if !mean.is_finite() {
        return Err(format!("says a mean of {mean}, which is not finite"));
    }
    if !(variance.is_finite() && variance > 0.0) {
        return Err(format!("says a variance of {variance}, which must be positive and finite"));
    }
    let key = StreamKey { seed: 0, purpose: 0, kind: Kind::Seed, component: 0, chip: 0, pass: 0, layer: 0, sample: 0 };
    let stream = key.stream();
    let mut draws = vec![0.0; TRIED];
    fill(law, &stream, 0, &mut draws)?;
    // Again, and beside other words than before.
    let mut again = [0.0; 5 * BLOCK + 1];
    for first in [0, 3, 100] {
        fill(law, &stream, first, &mut again)?;
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        if !again.iter().zip(&draws[first as usize * BLOCK..]).all(same) {
            return Err(
                "does not always make the same draw of the same words: it must be a pure function, draw by draw"
                    .to_owned(),
            );
        }
    }
    // Of differences from the mean that it says, which `fill` makes.
    let n = TRIED as f64;
    let moment = |power: i32| draws.iter().map(|&draw| f64::from(draw).powi(power)).sum::<f64>() / n;
    let [first, second, fourth] = [1, 2, 4].map(moment);
    // Rounding of f32, and of the numbers as people write them.
    let near = |off: f64, error: f64, size: f64| off.abs() <= ERRORS * error + 1e-4 * size;
    if !near(first, (second / n).sqrt(), variance.sqrt()) {
        return Err(format!("says a mean of {mean}, but its draws' is {}", mean + first));
    }
    if !near(second - variance, ((fourth - second * second).max(0.0) / n).sqrt(), variance) {
        return Err(format!("says a variance of {variance}, but its draws' is {second}"));
    }
    Ok(())
}

/// Writes a law's draws of a stream less its mean, the elements from a block on, to a slice; an error says how it failed. A law of
/// several words a draw takes those of as many blocks.
pub(crate) fn fill(law: &NoiseLaw, stream: &Stream, first_block: u64, out: &mut [f32]) -> Result<(), String> {
    let taken = law.words_per_draw();
    let mean = law.mean as f32;
    let (mut words, mut draws) = ([0u32; *WORDS.end() * GROUP], [0f32; GROUP]);
    for (out, block) in out.chunks_mut(GROUP).zip((first_block..).step_by(GROUP / BLOCK)) {
        let made = out.len().next_multiple_of(BLOCK);
        let (words, draws) = (&mut words[..made * taken], &mut draws[..made]);
        stream.fill_words(block * taken as u64, words);
        // What a law leaves behind when it panics is its own; the draws are given up.
        catch_unwind(AssertUnwindSafe(|| law.draw(words, draws))).map_err(|panic| panicked(panic.as_ref()))?;
        for (out, draw) in out.iter_mut().zip(draws.iter()) {
            if !draw.is_finite() {
                return Err(format!("made a draw of {draw}"));
            }
            *out = draw - mean;
        }
    }
    Ok(())
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    match panics::message(panic) {
        Some(text) => format!("panicked: {text}"),
        None => "panicked".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::noise::fill_uniforms;

    fn by_word(mean: f64, variance: f64, draw: impl Fn(u32) -> f32 + Send + Sync + 'static) -> NoiseLaw {
        NoiseLaw::new(mean, variance, move |words, draws| {
            draws.iter_mut().zip(words).for_each(|(out, &word)| *out = draw(word));
        })
    }

    fn uniform(word: u32) -> f32 {
        ((word.cast_signed() >> 8) as f32 + 0.5) / 16_777_216.0
    }

    fn stream() -> Stream {
        StreamKey { seed: 1, purpose: 0, kind: Kind::Noise, component: 0, chip: 0, pass: 0, layer: 0, sample: 7 }
            .stream()
    }

    #[test]
    fn draws_are_those_of_the_same_kernel() {
        let law = by_word(0.0, 1.0 / 12.0, uniform);
        for (first, len) in [(0, 1), (5, 64), (2, 511), (9, 1000), (1 << 44, 70)] {
            let [mut own, mut kernel] = [vec![0.0; len], vec![0.0; len]];
            fill(&law, &stream(), first, &mut own).unwrap();
            fill_uniforms(&stream(), first, &mut kernel);
            assert_eq!(own, kernel);
        }
    }

    /// The sum of two uniform numbers, from the two words of its own.
    #[test]
    fn a_draw_may_take_several_words() {
        let law = NoiseLaw::new(0.0, 1.0 / 6.0, |words, draws| {
            draws
                .iter_mut()
                .zip(words.chunks_exact(2))
                .for_each(|(out, pair)| *out = uniform(pair[0]) + uniform(pair[1]));
        });
        let law = law.words(2);
        check(&law).unwrap();
        let (mut own, mut words) = (vec![0.0; 200], vec![0.0; 400]);
        fill(&law, &stream(), 3, &mut own).unwrap();
        fill_uniforms(&stream(), 6, &mut words);
        assert!(own.iter().zip(words.chunks(2)).all(|(own, pair)| *own == pair[0] + pair[1]));
    }

    #[test]
    fn what_a_law_says_is_checked() {
        check(&by_word(0.0, 1.0 / 12.0, uniform)).unwrap();
        check(&by_word(0.0, 0.0833, uniform)).unwrap();
        check(&by_word(-1.0, 0.25, |word| if word < 1 << 31 { -0.5 } else { -1.5 })).unwrap();
        let lower = std::sync::atomic::AtomicU32::new(0);
        let stateful = move |word: u32| uniform(word ^ lower.fetch_add(1 << 20, std::sync::atomic::Ordering::Relaxed));
        for (law, problem) in [
            (by_word(0.0, 1.0, uniform), "says a variance of 1, but its draws' is 0.083"),
            (by_word(0.0, 0.082, uniform), "says a variance of 0.082"),
            (by_word(0.004, 1.0 / 12.0, uniform), "says a mean of 0.004, but its draws' is "),
            (by_word(0.0, 0.0, |_| 0.0), "says a variance of 0, which must be positive"),
            (by_word(f64::NAN, 1.0, uniform), "says a mean of NaN"),
            (by_word(0.0, 1.0, |_| f32::INFINITY), "made a draw of inf"),
            (by_word(0.0, 1.0 / 12.0, stateful), "does not always make the same draw"),
            (by_word(0.0, 1.0, |word| panic!("no law for {word}")), "panicked: no law for "),
            (by_word(0.0, 1.0 / 12.0, uniform).words(5), "takes 5 words a draw, allowed are 1 to 4"),
        ] {
            let found = check(&law).unwrap_err();
            assert!(found.starts_with(problem), "{found}, not {problem}");
        }
        // By its place beside others: not of its words alone.
        let placed = NoiseLaw::new(0.0, 1.0 / 12.0, |words, draws| {
            let turn = draws.len();
            draws.iter_mut().zip(words).for_each(|(out, word)| *out = uniform(word.rotate_left(turn as u32 / 64)));
        });
        assert!(check(&placed).unwrap_err().contains("pure function"));
    }
}
