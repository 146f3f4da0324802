//! Laws of noise that an embedding program gives: registered under a name, which specifications then use as that of any component.
//!
//! The registry is the one thing that mxc keeps for the whole process. It only grows: what a name means is never changed or taken
//! away, so that a specification that was read once stays what it is.

use crate::declaration::{Argument, ModelInfo, Range, Site, Unit};
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

/// Registers a law under a name that may be one.
///
/// # Errors
///
/// [`RegisterError::Taken`].
pub(crate) fn add(name: &str, law: NoiseLaw) -> Result<(), RegisterError> {
    let mut laws = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
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
