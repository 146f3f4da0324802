//! What passes that run the network on samples have in common: the network made ready, and its samples.

use crate::{
    load,
    pass::{OptionError, Options, PassContext, PassError, SampleRequest, Samples, random::Source},
};
use melior::ir::operation::OperationLike;
use mxc_dialects::{analog::AnalogOp, erase::ModuleMut};
use mxc_runtime::{
    error::ExecError,
    evaluate,
    exec::{Batch, Executor},
    program::DType,
    store::WeightStore,
};
use std::{collections::BTreeMap, path::PathBuf};

/// Samples without data.
const SYNTHETIC_SAMPLES: usize = 64;

/// How many samples a pass takes that runs the whole network for every choice, of fewer than half as many images all several times,
/// moved about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Few {
    /// [`Few::LEAST`].
    Choosing,
    /// Up to [`Few::MOST`], as many as have small inputs.
    Fitting,
}

impl Few {
    /// Enough to tell channels apart, and few enough that a network of ImageNet's size takes seconds.
    pub const LEAST: usize = 128;
    /// What is fitted to samples gains by more than the least, but no more by more than these.
    pub const MOST: usize = 256;
    /// The values that the inputs of [`Few::MOST`] may have.
    const VALUES: usize = 1 << 22;

    /// How many, of inputs of so many values a sample.
    fn samples(self, values: usize) -> usize {
        match self {
            Self::Choosing => Self::LEAST,
            Self::Fitting => (Self::VALUES / values.max(1)).clamp(Self::LEAST, Self::MOST),
        }
    }

    /// The options of such a pass, and what each is.
    pub const fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Choosing => &[CHOOSING, OPTIONS[0], OPTIONS[1], OPTIONS[2]],
            Self::Fitting => &[FITTING, OPTIONS[0], OPTIONS[1], OPTIONS[2]],
        }
    }
}

const CHOOSING: (&str, &str) = (
    "samples",
    "samples to run, half of them to judge by; of fewer than half as many images all come again, shifted and mirrored (default 128)",
);

const FITTING: (&str, &str) = (
    "samples",
    "samples to run, half of them to judge by; of fewer than half as many images all come again, shifted and mirrored (default 256, of \
     inputs of more than 16,384 values fewer, down to 128)",
);

/// The options of any pass that runs the network, besides `samples`, and what each is.
pub const OPTIONS: [(&str, &str); 3] = [
    ("seed", "the seed that draws them"),
    ("data", "a data set; without one, synthetic inputs"),
    ("weights", "a weight file, if the caller has loaded none"),
];

/// What such a pass is told.
#[derive(Clone, Debug, Default)]
pub struct Measuring {
    samples: Option<usize>,
    few: Option<Few>,
    seed: Option<u64>,
    data: Option<PathBuf>,
    weights: Option<PathBuf>,
}

/// A network ready to run, and samples for it.
pub struct Ready {
    /// The network.
    pub executor: Executor,
    /// The samples.
    pub samples: Samples,
    /// Whether there were no data, so that the samples are random numbers.
    pub synthetic: bool,
    /// What keys every draw.
    pub seed: u64,
}

impl Measuring {
    /// Takes `samples` and [`OPTIONS`].
    pub fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let samples = options.take_parsed("samples", "a number")?;
        if samples == Some(0) {
            return Err(OptionError("option samples=0: at least 1 expected".to_owned()));
        }
        Ok(Self {
            samples,
            few: None,
            seed: options.take_parsed("seed", "a number")?,
            data: options.take("data").map(PathBuf::from),
            weights: options.take("weights").map(PathBuf::from),
        })
    }

    /// Takes [`Few::options`].
    pub fn few(few: Few, options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { few: Some(few), ..Self::from_options(options)? })
    }

    /// Makes the module's network and its samples ready.
    pub fn ready(&self, module: &ModuleMut<'_, '_>, cx: &mut PassContext) -> Result<Ready, PassError> {
        let weights = self.weights(cx)?;
        let program = load::program(module, &weights).map_err(|error| match error {
            load::LoadError::MissingWeight(name) => PassError::missing_weight(&name),
            other => PassError::new(other.to_string()),
        })?;
        let shapes: Vec<Vec<usize>> = program
            .inputs()
            .iter()
            .map(|input| {
                let value = &program.values()[*input];
                value.shape.iter().skip(1).copied().collect::<Option<Vec<_>>>().ok_or_else(|| {
                    PassError::new(format!("input '{}' has a shape that is not known", value.name))
                        .hint("give it: --input-shape NAME=1,3,H,W")
                })
            })
            .collect::<Result<_, _>>()?;
        let threads = match cx.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let classes = evaluate::classes(&program).map_err(|error| PassError::new(error.to_string()))?;
        let dtypes: Vec<DType> = program.inputs().iter().map(|input| program.values()[*input].dtype).collect();
        let executor = Executor::new(program, threads).map_err(|error| PassError::new(error.to_string()))?;
        let seed = self.seed.unwrap_or(cx.seed);
        let bytes = matches!(dtypes[..], [DType::I32]);
        let values = shapes.iter().map(|shape| shape.iter().product::<usize>()).sum();
        let count = self.samples.or_else(|| self.few.map(|few| few.samples(values)));
        let (data, moved) = (self.data.clone(), self.few.is_some());
        let request = SampleRequest { data, count, moved, seed, shapes, classes, bytes };
        let samples = match &cx.samples {
            Some(source) => source(&request).map_err(PassError::new)?,
            None if self.data.is_some() => {
                return Err(PassError::new("data= is given, but the caller reads no data sets"));
            }
            None => None,
        };
        let synthetic = samples.is_none();
        let samples = match samples {
            Some(samples) => samples,
            None => synthetic_samples(&request, &dtypes),
        };
        check(&samples, &request.shapes)?;
        Ok(Ready { executor, samples, synthetic, seed })
    }

    /// The weights of the backbone and of denoisers that are there already.
    fn weights(&self, cx: &mut PassContext) -> Result<WeightStore, PassError> {
        if let Some(path) = &self.weights {
            cx.load_weights("weights", path)?;
        }
        Ok(cx.weights.union(&cx.denoisers))
    }
}

impl Ready {
    /// What was found of every layer of the network, in its order, by the layer's name.
    pub fn by_layer<T>(&self, found: Vec<T>) -> BTreeMap<String, T> {
        self.executor.program().layers().iter().map(|layer| layer.name.clone()).zip(found).collect()
    }

    /// Whether there are data; without, a pass that chooses says so and chooses nothing.
    pub fn has_data(&self, pass: &str, cx: &mut PassContext) -> bool {
        if self.synthetic {
            cx.warnings.push(format!("{pass}: there are no data, so that nothing is chosen"));
        }
        !self.synthetic
    }

    /// What `choose` chooses by all samples, of the seed and of what says that the caller wants no more.
    pub fn choose<R>(
        &mut self,
        cx: &PassContext,
        choose: impl FnOnce(&mut Executor, Batch<'_>, u64, &dyn Fn() -> bool) -> Result<R, ExecError>,
    ) -> Result<R, PassError> {
        let seed = self.seed;
        let chosen = self.run(|executor, batch| choose(executor, batch, seed, &|| cx.is_stopped()));
        unless_stopped(cx)?;
        chosen.map_err(|error| PassError::new(error.to_string()))
    }

    /// All samples as one batch, of one slice per input.
    fn run<R>(&mut self, work: impl FnOnce(&mut Executor, Batch<'_>) -> R) -> R {
        let inputs: Vec<&[f32]> = self.samples.inputs.iter().map(Vec::as_slice).collect();
        work(&mut self.executor, Batch { inputs: &inputs, samples: &self.samples.indices })
    }
}

/// An error that names the first of these layers that is not calibrated, which `pass` needs.
pub fn check_calibrated<'c, 'a>(
    mut layers: impl Iterator<Item = &'a AnalogOp<'c, 'a>>,
    pass: &str,
) -> Result<(), PassError>
where
    'c: 'a,
{
    let missing = |op: &&AnalogOp<'_, '_>| op.calibration().is_ok_and(|calibration| calibration.is_none());
    match layers.find(missing) {
        None => Ok(()),
        Some(op) => Err(PassError::new(format!("layer \"{}\" is not calibrated", op.layer()))
            .at(op.operation().location())
            .hint(format!("run rank-sensitivity before {pass}"))),
    }
}

/// An error once the caller wants the pass to end.
pub fn unless_stopped(cx: &PassContext) -> Result<(), PassError> {
    if cx.is_stopped() { Err(PassError::new("stopped")) } else { Ok(()) }
}

/// Standard normal inputs without labels; integers are drawn as bytes.
fn synthetic_samples(request: &SampleRequest, dtypes: &[DType]) -> Samples {
    let count = request.count.map_or(SYNTHETIC_SAMPLES, |count| count.min(SYNTHETIC_SAMPLES));
    let inputs: Vec<Vec<f32>> = request
        .shapes
        .iter()
        .enumerate()
        .map(|(input, shape)| {
            let source = Source::new(request.seed, &format!("synthetic input {input}"));
            let elements = shape.iter().product::<usize>() * count;
            match dtypes.get(input) {
                Some(DType::F32) | None => (0..elements as u64).map(|index| source.normal(index) as f32).collect(),
                Some(dtype) => {
                    let bytes: Vec<i64> =
                        (0..elements as u64).map(|index| (256.0 * source.uniform(index)) as i64).collect();
                    dtype.encode(&bytes)
                }
            }
        })
        .collect();
    Samples { inputs, labels: None, indices: (0..count as u64).collect() }
}

fn check(samples: &Samples, shapes: &[Vec<usize>]) -> Result<(), PassError> {
    let count = samples.indices.len();
    let fits = samples.inputs.len() == shapes.len()
        && samples.labels.as_ref().is_none_or(|labels| labels.len() == count)
        && samples
            .inputs
            .iter()
            .zip(shapes)
            .all(|(values, shape)| values.len() == shape.iter().product::<usize>() * count);
    match (fits, count) {
        (true, 1..) => Ok(()),
        (true, 0) => Err(PassError::new("there are no samples to calibrate on")),
        (false, _) => Err(PassError::new(format!(
            "the samples do not fit the model's inputs: {count} samples, inputs of {:?} values for shapes {shapes:?}",
            samples.inputs.iter().map(Vec::len).collect::<Vec<_>>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the options say: small images 256, photographs 128, and what lies between as many as have the same values together.
    #[test]
    fn how_many_samples_goes_by_their_size() {
        let sizes = [0, 28 * 28, 3 * 64 * 64, 16_384, 16_385, 3 * 96 * 96, 32_768, 3 * 224 * 224, usize::MAX];
        assert_eq!(sizes.map(|values| Few::Fitting.samples(values)), [256, 256, 256, 256, 255, 151, 128, 128, 128]);
        assert_eq!(sizes.map(|values| Few::Choosing.samples(values)), [128; 9]);
        let says = |few: Few, text: &str| few.options()[0].1.contains(text);
        assert!(says(Few::Choosing, "(default 128)"));
        assert!(says(Few::Fitting, "(default 256, of inputs of more than 16,384 values fewer, down to 128)"));
    }
}
