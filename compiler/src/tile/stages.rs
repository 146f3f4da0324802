//! What the tile's units do for a layer's denoisers: their expressions, term by term.
//!
//! A convolution has a buffer of its own; the other units work in place on their operand's. Whatever adds or subtracts is the
//! noise-cancellation unit: `x ± m`, `x ± ε·s` or `x ± (ε·s + m)` in one exact sum. What no unit can do is refused by its term.

use mxc_dialects::denoise::expression::{Expression, ParameterId, Primitive, Site, TermId};

/// The index of a stage in [`Stages::all`].
pub type StageId = usize;

/// What a unit computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Brings X into the activation memory.
    Load,
    /// A convolution on the cores.
    Conv {
        /// The operand.
        x: StageId,
        /// The side of a depthwise convolution's kernel; `None` for a pointwise convolution.
        taps: Option<usize>,
        /// The parameter with the weights.
        weight: ParameterId,
        /// The parameter with the bias.
        bias: Option<ParameterId>,
    },
    /// LeakyReLU.
    Relu {
        /// The operand.
        x: StageId,
    },
    /// `x·scale + shift` per channel.
    Affine {
        /// The operand.
        x: StageId,
        /// The parameter with the scales; 1 where there is none.
        scale: Option<ParameterId>,
        /// The parameter with the shifts.
        shift: ParameterId,
    },
    /// `x − (ε·drawn + mean)`; at least one of the two is there.
    Cancel {
        /// The operand.
        x: StageId,
        /// What is subtracted as it is.
        mean: Option<StageId>,
        /// What is subtracted times normal values.
        drawn: Option<StageId>,
        /// Whether both are added instead.
        adds: bool,
    },
    /// Writes X̂.
    Store {
        /// The operand.
        x: StageId,
    },
}

impl Unit {
    /// The stages that it reads, in order.
    pub fn operands(&self) -> Vec<StageId> {
        match *self {
            Self::Load => Vec::new(),
            Self::Conv { x, .. } | Self::Relu { x } | Self::Affine { x, .. } | Self::Store { x } => vec![x],
            Self::Cancel { x, mean, drawn, .. } => [Some(x), mean, drawn].into_iter().flatten().collect(),
        }
    }

    /// The operand that it overwrites.
    fn overwrites(&self) -> Option<StageId> {
        match *self {
            Self::Relu { x } | Self::Affine { x, .. } | Self::Cancel { x, .. } => Some(x),
            Self::Load | Self::Conv { .. } | Self::Store { .. } => None,
        }
    }

    /// The rows above and below a row of the result that it reads.
    fn reach(&self) -> usize {
        match *self {
            Self::Conv { taps, .. } => taps.map_or(0, |taps| taps / 2),
            Self::Load | Self::Relu { .. } | Self::Affine { .. } | Self::Cancel { .. } | Self::Store { .. } => 0,
        }
    }
}

/// A unit's part in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What is computed.
    pub unit: Unit,
    /// The denoiser that it is of, in the order in which a layer's denoisers act.
    pub denoiser: usize,
    /// The denoiser's term that it computes (or stores).
    pub term: TermId,
    /// The channels of the result.
    pub channels: usize,
    /// The rows of the result above and below those of X̂ that are needed.
    pub halo: usize,
    /// The stage whose buffer holds the result.
    pub buffer: StageId,
}

/// A layer's denoisers on the tile: a load, their terms in order, a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    all: Vec<Stage>,
}

impl Stages {
    /// The stages of a layer's denoisers, in the order in which they act; says which term the tile has no unit for.
    pub fn new(denoisers: &[(&Expression, Site)]) -> Result<Self, String> {
        let (expression, site) = denoisers.first().ok_or("it has no denoiser")?;
        let input = expression.terms().iter().position(|term| matches!(term.primitive, Primitive::Input));
        let term = input.ok_or("its denoiser does not read it")?;
        let load = Stage { unit: Unit::Load, denoiser: 0, term, channels: site.channels, halo: 0, buffer: 0 };
        let mut stages = Self { all: vec![load] };
        let mut x = 0;
        for (denoiser, (expression, site)) in denoisers.iter().enumerate() {
            x = stages.append(denoiser, expression, *site, x)?;
        }
        stages.all.push(Stage { unit: Unit::Store { x }, ..stages.all[x] });
        for id in (0..stages.all.len()).rev() {
            let Stage { unit, halo, .. } = stages.all[id];
            for operand in unit.operands() {
                let operand = &mut stages.all[operand].halo;
                *operand = (*operand).max(halo + unit.reach());
            }
        }
        stages.check(denoisers)?;
        Ok(stages)
    }

    /// All stages, in an order in which they can run.
    pub fn all(&self) -> &[Stage] {
        &self.all
    }

    /// The stage with X̂.
    pub fn result(&self) -> StageId {
        match self.all.last().map(|stage| stage.unit) {
            Some(Unit::Store { x }) => x,
            _ => 0,
        }
    }

    /// The pointwise convolutions that feed a cancellation, and nothing else, from one operand: they run right before it.
    /// None where not all that feeds it is such.
    pub fn heads(&self, cancel: StageId) -> Vec<StageId> {
        let Unit::Cancel { mean, drawn, .. } = self.all[cancel].unit else {
            return Vec::new();
        };
        let heads: Vec<StageId> = mean.into_iter().chain(drawn).collect();
        let operand = self.head_operand(&heads);
        let together = heads.iter().all(|&head| {
            matches!(self.all[head].unit, Unit::Conv { x, taps: None, .. } if Some(x) == operand)
                && self.readers(head).eq([cancel])
                && self.overwritten(head).all(|stage| stage >= cancel)
        });
        if together { heads } else { Vec::new() }
    }

    /// What heads read.
    pub fn head_operand(&self, heads: &[StageId]) -> Option<StageId> {
        self.all[*heads.first()?].unit.operands().first().copied()
    }

    /// Whether a cancellation can follow its heads some channels at a time: not where the heads read what it overwrites.
    pub fn fuses(&self, cancel: StageId) -> bool {
        self.head_operand(&self.heads(cancel))
            .is_some_and(|operand| self.all[operand].buffer != self.all[cancel].buffer)
    }

    /// The stages that read a stage's result, as often as they do.
    fn readers(&self, stage: StageId) -> impl Iterator<Item = StageId> + '_ {
        let reads = move |reader: &StageId| {
            self.all[*reader].unit.operands().into_iter().filter(|operand| *operand == stage).count()
        };
        (stage..self.all.len()).flat_map(move |reader| std::iter::repeat_n(reader, reads(&reader)))
    }

    /// The later stages that overwrite what a stage reads.
    fn overwritten(&self, stage: StageId) -> impl Iterator<Item = StageId> + '_ {
        let buffers: Vec<StageId> = self.all[stage].unit.operands().iter().map(|x| self.all[*x].buffer).collect();
        (stage + 1..self.all.len()).filter(move |later| {
            let overwritten = self.all[*later].unit.overwrites();
            overwritten.is_some_and(|x| buffers.contains(&self.all[x].buffer))
        })
    }

    /// Appends a denoiser's stages behind what holds its X; the stage of its X̂.
    fn append(&mut self, denoiser: usize, expression: &Expression, site: Site, x: StageId) -> Result<StageId, String> {
        let sums = Sums::of(expression);
        let mut stages: Vec<Option<StageId>> = Vec::new();
        for (term, found) in expression.terms().iter().enumerate() {
            let stage = |term: TermId| {
                stages
                    .get(term)
                    .copied()
                    .flatten()
                    .ok_or_else(|| refused(expression, term, "is read before it is there"))
            };
            let unit = match found.primitive {
                Primitive::Input => {
                    stages.push(Some(x));
                    continue;
                }
                Primitive::Pointwise { x, weight, bias } => Unit::Conv { x: stage(x)?, taps: None, weight, bias },
                Primitive::Depthwise { x, weight, bias } => {
                    Unit::Conv { x: stage(x)?, taps: Some(site.taps()), weight, bias }
                }
                Primitive::LeakyRelu { x } => Unit::Relu { x: stage(x)? },
                Primitive::ScaleShift { x, scale, shift } => Unit::Affine { x: stage(x)?, scale, shift },
                _ if sums.inside[term] => {
                    stages.push(None);
                    continue;
                }
                Primitive::Draw { .. } => {
                    return Err(refused(
                        expression,
                        term,
                        "is a draw that is not multiplied and added once: the tile's normal values go straight into one \
                         cancellation",
                    ));
                }
                Primitive::Multiply(_) => {
                    return Err(refused(
                        expression,
                        term,
                        "is a product that is not of a draw, added or subtracted once: the tile has no unit that multiplies \
                         two terms",
                    ));
                }
                Primitive::Add(_) | Primitive::Subtract(_) => {
                    let Sum { x, mean, drawn, adds } = sums.sums[term];
                    let (mean, drawn) = (mean.map(stage).transpose()?, drawn.map(stage).transpose()?);
                    Unit::Cancel { x: stage(x)?, mean, drawn, adds }
                }
            };
            let id = self.all.len();
            let buffer = unit.overwrites().map_or(id, |x| self.all[x].buffer);
            let channels = expression.width(term).of(site.channels);
            self.all.push(Stage { unit, denoiser, term, channels, halo: 0, buffer });
            stages.push(Some(id));
        }
        Ok(stages.last().copied().flatten().unwrap_or(x))
    }

    /// Checks that units working in place destroy nothing that is read later, that whole buffers are what is cancelled, and
    /// that no strip draws for another's rows.
    fn check(&self, denoisers: &[(&Expression, Site)]) -> Result<(), String> {
        for (id, stage) in self.all.iter().enumerate() {
            let term = |id: StageId| &denoisers[self.all[id].denoiser].0.terms()[self.all[id].term].name;
            let refused = |message: String| refused(denoisers[stage.denoiser].0, stage.term, &message);
            if let Some(x) = stage.unit.overwrites()
                && let Some(reader) = self.readers(x).find(|reader| *reader > id)
            {
                return Err(refused(format!(
                    "overwrites `{}`, which `{}` reads later: the tile has no unit that copies",
                    term(x),
                    term(reader)
                )));
            }
            if let Unit::Cancel { mean, drawn, .. } = stage.unit
                && let Some(more) =
                    mean.into_iter().chain(drawn).find(|x| self.all[self.all[*x].buffer].halo != stage.halo)
            {
                return Err(refused(format!(
                    "adds some of the rows of `{}` that the tile holds: its noise-cancellation unit takes whole buffers",
                    term(more)
                )));
            }
            if matches!(stage.unit, Unit::Cancel { drawn: Some(_), .. }) && stage.halo > 0 {
                return Err(refused(
                    "is random and read by a 3×3 convolution: the tile cannot draw the same for two strips that both need a row"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn refused(expression: &Expression, term: TermId, message: &str) -> String {
    format!("its term `{}` {message}", expression.terms()[term].name)
}

/// A sum as the noise-cancellation unit computes it.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    x: TermId,
    mean: Option<TermId>,
    drawn: Option<TermId>,
    adds: bool,
}

/// The sums of an expression.
struct Sums {
    /// By term; meant for additions and subtractions that are in no other.
    sums: Vec<Sum>,
    /// Whether a term is computed inside a sum that reads it.
    inside: Vec<bool>,
}

impl Sums {
    fn of(expression: &Expression) -> Self {
        let terms = expression.terms();
        let mut readers = vec![0; terms.len()];
        terms.iter().flat_map(|term| term.primitive.terms()).for_each(|operand| readers[operand] += 1);
        // A draw and the other factor, of a product that one sum can take.
        let product = |term: TermId| match terms[term].primitive {
            Primitive::Multiply(pair) if readers[term] == 1 => {
                let draws =
                    |factor: TermId| readers[factor] == 1 && matches!(terms[factor].primitive, Primitive::Draw { .. });
                match pair.map(draws) {
                    [true, false] => Some(pair),
                    [false, true] => Some([pair[1], pair[0]]),
                    [true, true] | [false, false] => None,
                }
            }
            _ => None,
        };
        let mut found = Self { sums: vec![Sum::default(); terms.len()], inside: vec![false; terms.len()] };
        for term in (0..terms.len()).rev() {
            let (pair, adds) = match terms[term].primitive {
                Primitive::Add(pair) if !found.inside[term] => (pair, true),
                Primitive::Subtract(pair) => (pair, false),
                _ => continue,
            };
            // The unit works in place on x: X if it can be, never the random part.
            let [first, second] = pair;
            let input = matches!(terms[second].primitive, Primitive::Input);
            let swapped = adds && product(second).is_none() && (product(first).is_some() || input);
            let (x, noise) = if swapped { (second, first) } else { (first, second) };
            let (mean, random) = match terms[noise].primitive {
                Primitive::Add([a, b]) if readers[noise] == 1 => match (product(a), product(b)) {
                    (Some(pair), None) => (Some(b), Some((a, pair))),
                    (None, Some(pair)) => (Some(a), Some((b, pair))),
                    (Some(_), Some(_)) | (None, None) => (Some(noise), None),
                },
                _ => match product(noise) {
                    Some(pair) => (None, Some((noise, pair))),
                    None => (Some(noise), None),
                },
            };
            if let Some((product, [draw, _])) = random {
                for inside in [noise, product, draw] {
                    found.inside[inside] = true;
                }
            }
            found.sums[term] = Sum { x, mean, drawn: random.map(|(_, [_, drawn])| drawn), adds };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Sketch, depthwise, mixed};
    use super::*;
    use mxc_dialects::denoise::{Kind, expression::Width};

    const SITE: Site = Site { channels: 8, spatial: true };

    fn refusal(sketch: Sketch) -> String {
        Stages::new(&[(&sketch.finish(), SITE)]).unwrap_err()
    }

    #[test]
    fn the_paper_s_block_is_a_stage_a_term_and_one_cancellation() {
        let stages = Stages::new(&[(Kind::named("paper").unwrap().expression(), SITE)]).unwrap();
        let buffers: Vec<_> = stages.all().iter().map(|stage| (stage.buffer, stage.halo, stage.channels)).collect();
        // X, h and its LeakyReLU, g and its, μ̂, σ̂, the cancellation on X, the store.
        let expected =
            [(0, 1, 8), (1, 1, 2), (1, 1, 2), (3, 0, 2), (3, 0, 2), (5, 0, 8), (6, 0, 8), (0, 0, 8), (0, 0, 8)];
        assert_eq!(buffers, expected);
        assert_eq!(stages.all()[7].unit, Unit::Cancel { x: 0, mean: Some(5), drawn: Some(6), adds: false });
        assert_eq!((stages.heads(7), stages.fuses(7)), (vec![5, 6], true));
    }

    #[test]
    fn sums_are_on_x_whatever_the_order_of_their_operands() {
        let mut e = Sketch::default();
        let noise = e.depthwise("noise", 0, Width::Channels);
        e.term("sum", Primitive::Add([noise, 0]));
        let stages = Stages::new(&[(&e.finish(), SITE)]).unwrap();
        assert_eq!(stages, Stages::new(&[(&depthwise(), SITE)]).unwrap());
        let stages = Stages::new(&[(&mixed(), SITE)]).unwrap();
        let sum = stages.all().iter().find(|stage| matches!(stage.unit, Unit::Cancel { x: 0, .. })).unwrap();
        assert!(matches!(sum.unit, Unit::Cancel { mean: Some(_), drawn: Some(_), adds: true, .. }), "{sum:?}");
    }

    #[test]
    fn what_no_unit_can_do_is_refused_by_its_term() {
        let mut e = Sketch::default();
        let gate = e.pointwise("gate", 0, [Width::Channels; 2], true);
        e.term("gated", Primitive::Multiply([0, gate]));
        let message = refusal(e);
        assert!(message.contains("`gated`") && message.contains("no unit that multiplies two terms"), "{message}");

        let mut e = Sketch::default();
        let sigma = e.pointwise("sigma", 0, [Width::Channels; 2], true);
        let drawn = e.drawn(sigma);
        let once = e.term("once", Primitive::Subtract([0, drawn]));
        e.term("twice", Primitive::Subtract([once, drawn]));
        assert!(refusal(e).contains("`epsilon` is a draw"));

        let mut e = Sketch::default();
        let positive = e.term("positive", Primitive::LeakyRelu { x: 0 });
        let noise = e.pointwise("noise", positive, [Width::Channels; 2], true);
        e.term("sum", Primitive::Subtract([0, noise]));
        let message = refusal(e);
        assert!(message.contains("`positive` overwrites `x`, which `sum` reads later"), "{message}");

        let mut e = Sketch::default();
        let mean = e.pointwise("mean", 0, [Width::Channels; 2], true);
        let sigma = e.depthwise("sigma", mean, Width::Channels);
        let drawn = e.drawn(sigma);
        let noise = e.term("noise", Primitive::Add([drawn, mean]));
        e.term("sum", Primitive::Subtract([0, noise]));
        let message = refusal(e);
        assert!(message.contains("`sum` adds some of the rows of `mean`"), "{message}");

        let paper = Kind::named("paper").unwrap().expression();
        let message = Stages::new(&[(paper, SITE), (&depthwise(), SITE)]).unwrap_err();
        assert!(message.contains("`block` is random and read by a 3×3 convolution"), "{message}");
    }
}
