//! Laws of noise that an embedding program gives: registered under a name, which specifications then use as that of any component.
//!
//! The registry is the one thing that mxc keeps for the whole process. It only grows: what a name means is never changed or taken
//! away, so that a specification that was read once stays what it is.

use crate::noise::{self, Argument, MODELS, ModelInfo, Range, Site, Unit};
use std::{
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    sync::{PoisonError, RwLock},
};

/// Makes draws of random words: of as many draws as the slice has, each from its own words, one draw's after another's.
type Draw = dyn Fn(&[u32], &mut [f32]) + Send + Sync;

/// How many random words a draw may take.
pub const WORDS: RangeInclusive<usize> = 1..=4;

/// The argument of a registered law.
pub(crate) static SCALE: Argument = Argument {
    name: "scale",
    unit: Unit::Share,
    range: Range::NotNegative,
    default: None,
    help: "what its draws are multiplied by",
};

/// A law of noise: how numbers are drawn, and their mean and variance, by which reads, converter ranges and the worth of denoisers are
/// reckoned. A component `name(scale=6%)` adds 6 % of the layer's magnitude times such a number.
pub struct NoiseLaw {
    /// The mean of a draw.
    pub mean: f64,
    /// The variance of a draw.
    pub variance: f64,
    words: usize,
    draw: Box<Draw>,
}

impl NoiseLaw {
    /// A law of a mean and a variance, whose draws `draw` makes: draw `i` of word `i`, or, of a law of several [words](Self::words),
    /// of the words `i·words ..`. A word is uniform over all of `u32` and independent of the others.
    ///
    /// It must be a pure function of those words, whatever stands beside them: results then depend on no thread or batch. It is
    /// called from several threads at once.
    ///
    /// ```
    /// // A level that is up or down.
    /// let law = mxc_spec::law::NoiseLaw::new(0.0, 1.0, |words, draws| {
    ///     for (draw, word) in draws.iter_mut().zip(words) {
    ///         *draw = if *word < 1 << 31 { 1.0 } else { -1.0 };
    ///     }
    /// });
    /// assert_eq!(law.words_per_draw(), 1);
    /// ```
    pub fn new(mean: f64, variance: f64, draw: impl Fn(&[u32], &mut [f32]) + Send + Sync + 'static) -> Self {
        Self { mean, variance, words: 1, draw: Box::new(draw) }
    }

    /// The same of so many random words a draw, one of [`WORDS`].
    pub fn words(self, words: usize) -> Self {
        Self { words, ..self }
    }

    /// How many random words a draw takes.
    pub fn words_per_draw(&self) -> usize {
        self.words
    }

    /// Makes draws of their words: `words_per_draw` for each.
    pub fn draw(&self, words: &[u32], draws: &mut [f32]) {
        (self.draw)(words, draws);
    }
}

impl fmt::Debug for NoiseLaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, variance, words, .. } = self;
        let mut written = f.debug_struct("NoiseLaw");
        written.field("mean", mean).field("variance", variance).field("words", words).finish_non_exhaustive()
    }
}

/// A law under its name. It lives as long as the process.
#[derive(Debug)]
pub struct Registered {
    info: ModelInfo,
    law: NoiseLaw,
}

impl Registered {
    /// Its declaration, in the form of the built-in models'.
    pub fn info(&'static self) -> &'static ModelInfo {
        &self.info
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.info.name
    }

    /// The law.
    pub fn law(&self) -> &NoiseLaw {
        &self.law
    }
}

/// A name is registered once.
impl PartialEq for Registered {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// Why a law is not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The name cannot stand in a specification.
    #[error(
        "`{0}` cannot be the name of a noise law: a letter or underscore, then letters, digits and underscores, all ASCII"
    )]
    NotAName(String),
    /// mxc gives the name a meaning, or will.
    #[error("`{0}` cannot be the name of a noise law: mxc has that name for itself")]
    Reserved(String),
    /// There is a law of the name.
    #[error("a noise law `{0}` is registered already, and a name keeps its meaning as long as the process lives")]
    Taken(String),
    /// The law is not what it says.
    #[error("the noise law `{name}` {problem}")]
    Law {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

type Laws = BTreeMap<&'static str, &'static Registered>;

static REGISTERED: RwLock<Laws> = RwLock::new(BTreeMap::new());

/// The law of a name.
pub fn find(name: &str) -> Option<&'static Registered> {
    REGISTERED.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
}

/// Every law that is registered, by name.
pub fn registered() -> Vec<&'static Registered> {
    REGISTERED.read().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
}

/// Whether a component may be called that.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a law may have a name: it can stand in a specification, and nothing has it.
///
/// # Errors
///
/// [`RegisterError::NotAName`], [`RegisterError::Reserved`] or [`RegisterError::Taken`].
pub fn check_name(name: &str) -> Result<(), RegisterError> {
    if !is_name(name) {
        return Err(RegisterError::NotAName(name.to_owned()));
    }
    let is_built_in = MODELS.iter().any(|info| info.name == name);
    if is_built_in || noise::IDEAL.contains(&name) || noise::UNSUPPORTED.contains(&name) {
        return Err(RegisterError::Reserved(name.to_owned()));
    }
    match find(name) {
        Some(_) => Err(RegisterError::Taken(name.to_owned())),
        None => Ok(()),
    }
}

/// Registers a law as it is. `mxc_runtime::law::register` does so after it has tried it out.
///
/// # Errors
///
/// As of [`check_name`].
pub fn insert(name: &str, law: NoiseLaw) -> Result<(), RegisterError> {
    check_name(name)?;
    let mut laws = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have been faster.
    if laws.contains_key(name) {
        return Err(RegisterError::Taken(name.to_owned()));
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let info = ModelInfo {
        name,
        site: Site::Output,
        help: "s·scale·d, d drawn by the law that this program has registered",
        arguments: std::slice::from_ref(&SCALE),
    };
    laws.insert(name, Box::leak(Box::new(Registered { info, law })));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Component, Model, NoiseSpec};

    fn law() -> NoiseLaw {
        NoiseLaw::new(0.0, 1.0, |_, _| {})
    }

    #[test]
    fn a_name_is_registered_once_and_then_stands_in_specifications() {
        let text = "of_a_test(scale=6%,site=input,lifetime=chip)+gaussian(sigma=1%)";
        let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
        assert!(
            message.contains("there is no component `of_a_test`; built in are `gaussian` and `uniform`"),
            "{message}"
        );
        insert("of_a_test", law()).unwrap();
        let spec: NoiseSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let Model::Registered { law: found, scale } = spec.components[0].model else { panic!("{spec:?}") };
        assert_eq!((found.name(), scale), ("of_a_test", 0.06));
        assert_eq!(spec.to_string().parse::<NoiseSpec>().unwrap(), spec);
        let component = Component::new(Model::Registered { law: found, scale: 0.5 });
        assert_eq!(component.to_string(), "of_a_test(scale=50%)");
        assert!(noise::help().contains("of_a_test(scale=SHARE[,site=input|output][,lifetime=sample|chip])"));

        assert_eq!(insert("of_a_test", law()), Err(RegisterError::Taken("of_a_test".to_owned())));
        for name in ["gaussian", "adc", "ideal", "none"] {
            assert_eq!(insert(name, law()), Err(RegisterError::Reserved(name.to_owned())));
        }
        for name in ["", "6", "a-b", "a.b", "a b", "ä", "a(", "a+b"] {
            assert_eq!(insert(name, law()), Err(RegisterError::NotAName(name.to_owned())));
        }
        for (text, part) in [
            ("of_a_test", "of_a_test needs a scale"),
            ("of_a_test(sigma=1%)", "of_a_test has no `sigma`, only scale, site and lifetime"),
            ("of_a_test(scale=-1%)", "negative"),
            ("nothing_such(scale=1%)", "registered by this program is `of_a_test`"),
        ] {
            let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
