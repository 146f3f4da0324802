use super::*;
use crate::{
    data::Layout,
    program::{Builder, Conv2d, DType, Denoise, Execution, FullyConnected, Pool, Pooling, Reshape, Unary, Window},
    store::Weight,
};
use mxc_spec::{denoise::Kind, noise::LayerNoise};

/// A linear classifier-like trainee: its gradients depend on weights, samples and key, so that a wrong order, state or
/// key changes the result.
struct Fake {
    program: Program,
    weights: BTreeMap<ValueId, Vec<f32>>,
    /// Stops the run (or, as `kill -9` would, fails) at this many calls.
    calls: std::cell::Cell<u64>,
    kill_at: Option<u64>,
}

impl Fake {
    /// Two weights that are trained, if any are, and one that is not.
    fn network(trained: bool) -> Program {
        let mut program = Builder::new();
        let input = program.input("in", DType::F32, vec![None, Some(3)]).unwrap();
        for (name, values, trainable) in
            [("a", vec![1.0, 1.0, 1.0], trained), ("frozen", vec![5.0], false), ("b", vec![0.0], trained)]
        {
            program.constant(name, Weight::new(vec![values.len()], values).unwrap(), trainable).unwrap();
        }
        program.output(input, "out").unwrap();
        program.finish(0).unwrap()
    }

    fn new() -> Self {
        Self {
            program: Self::network(true),
            weights: BTreeMap::from([(1, vec![1.0; 3]), (3, vec![0.0])]),
            calls: std::cell::Cell::new(0),
            kill_at: None,
        }
    }
}

impl Trainee for Fake {
    fn program(&self) -> &Program {
        &self.program
    }

    fn weight(&self, value: ValueId) -> &[f32] {
        &self.weights[&value]
    }

    fn set_weight(&mut self, value: ValueId, values: &[f32]) -> Result<(), ExecError> {
        self.weights.insert(value, values.to_vec());
        Ok(())
    }

    fn clean_logits(&self, _batch: Batch<'_>) -> Result<Vec<f32>, ExecError> {
        Ok(Vec::new())
    }

    /// The distance from where each sample's loss is least, or so.
    fn judged(&self, batch: Batch<'_>, _: &[f32], _: u64) -> Result<Vec<[f64; 2]>, ExecError> {
        let weights = self.weights[&1].iter().sum::<f32>();
        let samples = batch.inputs[0].chunks(3).map(|sample| 0.4 * sample.iter().sum::<f32>());
        Ok(samples.map(|sample| [f64::from(weights - sample).abs(), 0.0]).collect())
    }

    fn gradients(
        &self,
        batch: Batch<'_>,
        count: usize,
        targets: Targets<'_>,
        key: Key,
        _: Objective<'_>,
    ) -> Result<Vec<Gradients>, ExecError> {
        let Targets::Labels(labels) = targets else { panic!("the fake is trained on labels") };
        self.calls.set(self.calls.get() + 1);
        if self.kill_at == Some(self.calls.get()) {
            return Err(ExecError::Engine("killed".into()));
        }
        assert_eq!(batch.inputs[0].len(), 3 * labels.len());
        let mut gradient = vec![0.0f32; 3];
        let (mut loss, mut bias) = (0.0, 0.0);
        for ((sample, &label), &id) in batch.inputs[0].chunks(3).zip(labels).zip(batch.samples) {
            let weight = &self.weights[&1];
            let output: f32 = sample.iter().zip(weight).map(|(x, w)| x * w).sum::<f32>() + self.weights[&3][0];
            let noise = (id as f32 * 0.01 + key.pass as f32 * 0.1 + key.chip as f32 * 0.001).sin();
            let error = output + noise - label as f32;
            loss += f64::from(error * error);
            bias += 2.0 * error / count as f32;
            for (slot, x) in gradient.iter_mut().zip(sample) {
                *slot += 2.0 * error * x / count as f32;
            }
        }
        Ok(vec![Gradients { loss, correct: 1, weights: BTreeMap::from([(1, gradient), (3, vec![bias])]) }])
    }
}

/// 10 samples of 3 values; sample 9 belongs to nobody if the length is 9.
struct Numbers(usize);

impl Source for Numbers {
    fn len(&self) -> usize {
        self.0
    }

    fn sample_len(&self) -> usize {
        3
    }

    fn image(&self) -> Option<Layout> {
        None
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        out.clear();
        out.extend(indices.iter().flat_map(|&i| [i as f32 * 0.1, 1.0, (i % 3) as f32]));
        Ok(())
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        Some(indices.iter().map(|&i| (i % 2) as u32).collect())
    }

    fn fingerprint(&self) -> String {
        format!("numbers/{}", self.0)
    }
}

fn options() -> FinetuneOptions {
    FinetuneOptions {
        epochs: 3,
        batch: 4,
        seed: 7,
        parent_sha256: "abc".into(),
        ..FinetuneOptions::new(Recipe::Cosine)
    }
}

fn run(fake: &mut Fake, options: &FinetuneOptions, checkpoint: Option<&Path>) -> Result<FinetuneReport, FinetuneError> {
    train(fake, &Numbers(10), options, checkpoint, &AtomicBool::new(false), &mut |_| {}, &Alone)
}

#[test]
fn trains_all_samples_every_epoch() {
    let mut fake = Fake::new();
    let mut seen = Vec::new();
    let stop = AtomicBool::new(false);
    let options = || FinetuneOptions { learning_rate: 0.2, ..options() };
    let told = &mut |progress: Progress| seen.push((progress.epoch, progress.step, progress.steps));
    let report = train(&mut fake, &Numbers(10), &options(), None, &stop, told, &Alone).unwrap();
    assert!(report.completed);
    assert_eq!((report.steps, report.samples, report.losses.len()), (9, 10, 3));
    assert_eq!(seen.len(), 9);
    assert_eq!(seen[8], (2, 9, 9));
    assert!(report.losses[2] < report.losses[0], "{:?}", report.losses);
    assert_ne!(fake.weights[&1], [1.0; 3]);
    // --limit leaves the rest out.
    let limited = FinetuneOptions { limit: Some(5), ..options() };
    assert_eq!(run(&mut Fake::new(), &limited, None).unwrap().steps, 6);
}

#[test]
fn resuming_gives_the_same_bytes() {
    let mut whole = Fake::new();
    let expected = run(&mut whole, &options(), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mxa.ckpt");
    // Killed at every step: what was not saved is repeated.
    for kill in 1..=9 {
        let _ = std::fs::remove_file(&path);
        let mut fake = Fake::new();
        fake.kill_at = Some(kill);
        run(&mut fake, &options(), Some(&path)).unwrap_err();
        let resume = FinetuneOptions { resume: true, ..options() };
        let mut fake = Fake::new();
        let report = run(&mut fake, &resume, Some(&path)).unwrap();
        assert_eq!(report.resumed_from, (kill > 3).then_some((kill - 1) / 3 * 3), "{kill}");
        assert_eq!(fake.weights, whole.weights, "{kill}");
        assert_eq!(report.losses, expected.losses);
    }
    // Stopped at every step: the run goes on within the epoch.
    for last in 1..9 {
        let _ = std::fs::remove_file(&path);
        let mut fake = Fake::new();
        let stop = AtomicBool::new(false);
        let told = &mut |progress: Progress| stop.store(progress.step == last, Ordering::Relaxed);
        let report = train(&mut fake, &Numbers(10), &options(), Some(&path), &stop, told, &Alone).unwrap();
        assert!(!report.completed);
        assert_eq!(report.steps, last);
        let resume = FinetuneOptions { resume: true, ..options() };
        let mut fake = Fake::new();
        let report = run(&mut fake, &resume, Some(&path)).unwrap();
        assert_eq!(report.resumed_from, Some(last));
        assert_eq!(fake.calls.get(), 9 - last);
        assert_eq!(fake.weights, whole.weights, "{last}");
        assert_eq!(report.losses, expected.losses);
        assert_eq!(report.accuracies, expected.accuracies);
    }
}

/// Options of the recipe that judges, on labels, which is what the stand-in knows.
fn judging() -> FinetuneOptions {
    let loss = Loss::CrossEntropy;
    FinetuneOptions {
        epochs: 6,
        batch: 4,
        seed: 7,
        parent_sha256: "abc".into(),
        loss,
        ..FinetuneOptions::new(Recipe::Best)
    }
}

/// The weights that the samples like best are kept, whatever comes after, also over a stop.
#[test]
fn samples_decide_what_is_kept() {
    let train_on = |fake: &mut Fake, options: &FinetuneOptions, path: Option<&Path>, stop_at: Option<u64>| {
        let stop = AtomicBool::new(false);
        let told = &mut |progress: Progress| stop.store(Some(progress.step) == stop_at, Ordering::Relaxed);
        train(fake, &Numbers(16), options, path, &stop, told, &Alone).unwrap()
    };
    let mut kept = Vec::new();
    for rate in [1e-3, 0.02, 1e4] {
        let options = FinetuneOptions { learning_rate: rate, ..judging() };
        let mut fake = Fake::new();
        let report = train_on(&mut fake, &options, None, None);
        assert_eq!((report.samples, report.judged.len()), (16, 7));
        let least = report.judged.iter().copied().fold(f64::INFINITY, f64::min);
        let epoch = report.judged.iter().rposition(|&loss| loss == least).unwrap();
        kept.push(epoch);
        // What is left in the trainee is what was judged so.
        let jury = Jury::load(&fake, &Numbers(16), 16, 7, &Alone).unwrap().unwrap();
        let mut again = Kept::default();
        again.judge(&fake, &trainable(fake.program()), &jury, &Alone).unwrap();
        assert_eq!(again.losses, [least]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.mxa.ckpt");
        for stop in [1, 9, 14, 22] {
            assert!(!train_on(&mut Fake::new(), &options, Some(&path), Some(stop)).completed);
            let resume = FinetuneOptions { resume: true, ..options.clone() };
            let mut resumed = Fake::new();
            assert_eq!(train_on(&mut resumed, &resume, Some(&path), None).judged, report.judged, "{stop}");
            assert_eq!(resumed.weights, fake.weights, "{stop}");
        }
    }
    assert!(kept[2] == 0 && kept[1] > 0, "steps that leap over everything are taken back: {kept:?}");
}

/// A first epoch that leads away is taken back, and begun again at smaller rates until one does not; a resumed run does the same.
#[test]
fn a_run_that_goes_astray_begins_again() {
    let options = FinetuneOptions { learning_rate: 30.0, batch: 1, epochs: 2, ..judging() };
    let run = |fake: &mut Fake, options: &FinetuneOptions, path: Option<&Path>, calls: Option<u64>| {
        fake.kill_at = calls;
        train(fake, &Numbers(24), options, path, &AtomicBool::new(false), &mut |_| {}, &Alone)
    };
    let mut whole = Fake::new();
    let report = run(&mut whole, &options, None, None).unwrap();
    assert!(report.learning_rate < 30.0, "{report:?}");
    assert!(report.judged[1] <= 1.5 * report.judged[0] && report.judged.len() == 3, "{report:?}");
    assert_eq!(report.steps, 48);
    let folder = tempfile::tempdir().unwrap();
    for kill in [10, 22, 30, 50] {
        let path = folder.path().join(format!("{kill}.ckpt"));
        run(&mut Fake::new(), &options, Some(&path), Some(kill)).unwrap_err();
        let resume = FinetuneOptions { resume: true, ..options.clone() };
        let mut resumed = Fake::new();
        let again = run(&mut resumed, &resume, Some(&path), None).unwrap();
        assert_eq!((again.learning_rate, again.judged), (report.learning_rate, report.judged.clone()), "{kill}");
        assert_eq!(resumed.weights, whole.weights, "{kill}");
    }
}

#[test]
fn other_options_do_not_resume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mxa.ckpt");
    run(&mut Fake::new(), &options(), Some(&path)).unwrap();
    let resume = FinetuneOptions { resume: true, ..options() };
    let refused = |options: FinetuneOptions, needle: &str| {
        let error = run(&mut Fake::new(), &options, Some(&path)).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    refused(FinetuneOptions { learning_rate: 0.5, ..resume.clone() }, "made with another --lr (0.01, now 0.5)");
    refused(FinetuneOptions { loss: Loss::Distill, ..resume.clone() }, "another --loss (cross-entropy, now distill)");
    refused(FinetuneOptions { seed: 8, ..resume.clone() }, "another --seed (7, now 8)");
    refused(FinetuneOptions { batch: 5, ..resume.clone() }, "another --batch (4, now 5)");
    refused(FinetuneOptions { parent_sha256: "def".into(), ..resume.clone() }, "another the package (abc, now def)");
    let stop = AtomicBool::new(false);
    let error = train(&mut Fake::new(), &Numbers(9), &resume, Some(&path), &stop, &mut |_| {}, &Alone);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("--data or --holdout"), "{error}");
    // Without --resume the old checkpoint is overwritten.
    run(&mut Fake::new(), &FinetuneOptions { seed: 8, ..options() }, Some(&path)).unwrap();
    // Damage.
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        refused(resume.clone(), "not a usable checkpoint");
    }
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        refused(resume.clone(), "not a usable checkpoint");
    }
}

#[test]
fn bad_input_is_refused() {
    let refused = |options: FinetuneOptions, needle: &str| {
        let error = run(&mut Fake::new(), &options, None).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    refused(FinetuneOptions { batch: 0, ..options() }, "nothing to train on");
    refused(FinetuneOptions { limit: Some(0), ..options() }, "nothing to train on");
    refused(FinetuneOptions { learning_rate: f64::NAN, ..options() }, "--lr NaN");
    refused(FinetuneOptions { learning_rate: 1e30, ..options() }, "training diverged; use a smaller --lr");
    let stop = AtomicBool::new(false);
    let synthetic = data::Synthetic::new(&[3], 8, 0);
    let error = train(&mut Fake::new(), &synthetic, &options(), None, &stop, &mut |_| {}, &Alone).unwrap_err();
    assert!(error.to_string().contains("cross-entropy needs labels"), "{error}");
    // Nothing to train.
    let mut fake = Fake::new();
    fake.program = Fake::network(false);
    let report = run(&mut fake, &options(), None).unwrap();
    assert!(report.completed && report.steps == 0);
}

#[test]
fn schedules() {
    assert_eq!(Recipe::Paper.scheduled(1e-3, 99, 100), 1e-3);
    assert_eq!(Recipe::Cosine.scheduled(1e-2, 0, 100), 1e-2);
    assert!((Recipe::Cosine.scheduled(1e-2, 50, 100) - 5e-3).abs() < 1e-12);
    assert!(Recipe::Cosine.scheduled(1e-2, 99, 100) < 1e-5);
    assert_eq!("cosine".parse(), Ok(Recipe::Cosine));
    assert!("cos".parse::<Recipe>().is_err());
}

/// Images of three classes that a first convolution can tell apart: stripes down, stripes across, plain.
struct Patterns {
    count: usize,
    labelled: bool,
}

impl Patterns {
    fn new(count: usize) -> Self {
        Self { count, labelled: true }
    }
}

impl Source for Patterns {
    fn len(&self) -> usize {
        self.count
    }

    fn sample_len(&self) -> usize {
        36
    }

    fn image(&self) -> Option<Layout> {
        Some(Layout { shape: [6, 6, 1], channels_last: false })
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        out.clear();
        for &index in indices {
            let phase = index / 3 % 2;
            out.extend((0..36).map(|pixel| match index % 3 {
                0 => ((pixel % 6 + phase) % 2) as f32,
                1 => ((pixel / 6 + phase) % 2) as f32,
                _ => 0.5 + 0.01 * (index % 7) as f32,
            }));
        }
        Ok(())
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        self.labelled.then(|| indices.iter().map(|&index| (index % 3) as u32).collect())
    }

    fn fingerprint(&self) -> String {
        "patterns".into()
    }
}

/// A convolution with the paper's block and a classifier with an affine, calibrated on the patterns.
fn network() -> Program {
    let mut builder = Builder::new();
    let noise = LayerNoise { spec: "gaussian(sigma=60%)".parse().unwrap(), ..LayerNoise::default() };
    let layer = |name: &str, channels| Layer {
        name: name.to_owned(),
        channels,
        noise: noise.clone(),
        calibration: None,
        columns: None,
        input_range: None,
        execution: Execution::default(),
    };
    let (conv, fc) = (builder.layer(layer("conv", 4)).unwrap(), builder.layer(layer("fc", 3)).unwrap());
    let mut constant = |name: &str, shape: &[usize], values: &[f32]| {
        let values = if values.len() == 1 { vec![values[0]; shape.iter().product()] } else { values.to_vec() };
        let weight = Weight::new(shape.to_vec(), values).unwrap();
        builder.constant(name, weight, name.contains('.')).unwrap()
    };
    // Four edges: vertical, horizontal, and a line each way.
    #[rustfmt::skip]
    let edges = [
        1., 0., -1., 1., 0., -1., 1., 0., -1.,
        1., 1., 1., 0., 0., 0., -1., -1., -1.,
        -1., 2., -1., -1., 2., -1., -1., 2., -1.,
        -1., -1., -1., 2., 2., 2., -1., -1., -1.,
    ];
    let (w, b) = (constant("w", &[4, 3, 3, 1], &edges), constant("b", &[4], &[0.1]));
    let block = [
        constant("conv.reduce.weight", &[1, 1, 1, 4], &[0.3]),
        constant("conv.reduce.bias", &[1], &[0.0]),
        constant("conv.depthwise.weight", &[3, 3, 1, 1], &[0.2]),
        constant("conv.depthwise.bias", &[1], &[0.0]),
        constant("conv.mean.weight", &[4, 1, 1, 1], &[0.0]),
        constant("conv.mean.bias", &[4], &[0.0]),
        constant("conv.sigma.weight", &[4, 1, 1, 1], &[0.0]),
        constant("conv.sigma.bias", &[4], &[0.0]),
    ];
    let fc_weight = [0.2, 0.0, 0.6, -0.4, 0.0, 0.2, -0.4, 0.6, -0.1, -0.1, -0.3, -0.3];
    let (fw, fb) = (constant("fw", &[3, 4], &fc_weight), constant("fb", &[3], &[0.0, 0.0, 0.8]));
    let affine = [constant("fc.affine.scale", &[3], &[1.0]), constant("fc.affine.shift", &[3], &[0.0])];
    let x = builder.input("input0", DType::F32, vec![None, Some(6), Some(6), Some(1)]).unwrap();
    let window = Window { stride: [1, 1], pad: [1; 4], dilation: [1, 1] };
    let y = builder.node(Conv2d { window, groups: 1, layer: Some(conv) }, &[x, w, b]).unwrap();
    let kind = |name: &str| Kind::named(name).unwrap();
    let y = builder.node(Denoise { layer: conv, kind: kind("paper") }, &[&[y], block.as_slice()].concat()).unwrap();
    let y = builder.node(Unary::Clamp { min: 0.0, max: 3.4e38 }, &[y]).unwrap();
    let pool = Pool { kind: Pooling::Average, kernel: [6, 6], stride: [6, 6], pad: [0; 4] };
    let y = builder.node(pool, &[y]).unwrap();
    let y = builder.node(Reshape { shape: vec![None, Some(4)] }, &[y]).unwrap();
    let y = builder.node(FullyConnected { layer: Some(fc) }, &[y, fw, fb]).unwrap();
    let y = builder.node(Denoise { layer: fc, kind: kind("affine") }, &[&[y], affine.as_slice()].concat()).unwrap();
    builder.output(y, "output0").unwrap();
    let mut program = builder.finish(0).unwrap();
    let executor = Executor::new(program.clone(), 1).unwrap();
    let calibrations = crate::evaluate::calibrate(&executor, &Patterns::new(60), 30, 1).unwrap();
    for (layer, calibration) in program.layers_mut().iter_mut().zip(calibrations) {
        assert_eq!(calibration.samples, 30);
        assert!(calibration.rms > 0.0 && calibration.absmax >= calibration.rms);
        layer.calibration = Some(calibration);
    }
    program
}

/// The trained weights of a run on the real executor, which gets labels for cross-entropy only.
fn trained(loss: Loss, threads: usize, resume_at: Option<u64>) -> Vec<Vec<f32>> {
    let mut executor = Executor::new(network(), threads).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    let stop = AtomicBool::new(false);
    let mut options = FinetuneOptions { loss, epochs: 3, batch: 40, ..options() };
    let data = Patterns { count: 90, labelled: loss == Loss::CrossEntropy };
    let mut report = finetune(&mut executor, &data, &options, Some(&path), &stop, &mut |progress| {
        stop.store(Some(progress.step) == resume_at, Ordering::Relaxed);
    })
    .unwrap();
    if resume_at.is_some() {
        assert!(!report.completed);
        executor = Executor::new(network(), threads).unwrap();
        options.resume = true;
        let go = AtomicBool::new(false);
        report = finetune(&mut executor, &data, &options, Some(&path), &go, &mut |_| {}).unwrap();
        assert_eq!(report.resumed_from, resume_at);
    }
    assert!(report.completed && report.steps == 9);
    assert!(report.losses[2] < report.losses[0], "{:?}", report.losses);
    let ids = trainable(executor.program());
    assert_eq!(ids.len(), 10);
    ids.iter().map(|&(id, _)| executor.weight(id).to_vec()).collect()
}

#[test]
fn a_real_network_trains_to_the_same_bytes() {
    for loss in [Loss::CrossEntropy, Loss::Distill] {
        let expected = trained(loss, 1, None);
        assert_eq!(trained(loss, 2, None), expected);
        assert_eq!(trained(loss, 2, Some(4)), expected);
        assert_eq!(trained(loss, 1, Some(6)), expected);
    }
}

/// Runs that ranks share: batches of 40 are 3 shards, the last of an epoch is one, so that some ranks have more to do than others
/// and seven have nothing most of the time.
mod on_ranks {
    use super::*;
    use crate::ranks::testing::{Thread, on};
    use std::sync::Mutex;

    /// The recipe that has everything: samples that judge, images moved and blended, levels of noise, features.
    fn best() -> FinetuneOptions {
        FinetuneOptions {
            epochs: 3,
            batch: 40,
            seed: 7,
            limit: Some(45),
            copies: 2,
            mix: true,
            features: 0.5,
            learning_rate: 1e-3,
            ..FinetuneOptions::new(Recipe::Best)
        }
    }

    fn cosine(loss: Loss) -> FinetuneOptions {
        FinetuneOptions { loss, batch: 40, ..options() }
    }

    fn weights(executor: &Executor) -> Vec<Vec<f32>> {
        trainable(executor.program()).iter().map(|&(id, _)| executor.weight(id).to_vec()).collect()
    }

    /// A run's end and the weights that it leaves.
    type End = (Result<FinetuneReport, FinetuneError>, Vec<Vec<f32>>);

    fn run(
        data: &dyn Source,
        options: &FinetuneOptions,
        path: Option<&Path>,
        stop: &AtomicBool,
        told: &mut dyn FnMut(Progress),
        ranks: &dyn Ranks,
    ) -> End {
        let mut executor = Executor::new(network(), 1).unwrap();
        let end = finetune_on(&mut executor, data, options, path, stop, told, ranks);
        (end, weights(&executor))
    }

    fn undisturbed(options: &FinetuneOptions, ranks: &dyn Ranks) -> (FinetuneReport, Vec<Vec<f32>>) {
        let (report, weights) = run(&Patterns::new(90), options, None, &AtomicBool::new(false), &mut |_| {}, ranks);
        (report.unwrap(), weights)
    }

    #[test]
    fn bytes_are_those_of_one_process() {
        for options in [cosine(Loss::CrossEntropy), cosine(Loss::Distill), best()] {
            let alone = undisturbed(&options, &Alone);
            assert!(alone.1 != weights(&Executor::new(network(), 1).unwrap()) && alone.0.completed);
            for count in [1, 2, 3, 4, 7] {
                for found in on(count, |ranks| undisturbed(&options, ranks)) {
                    assert!(found == alone, "{count} ranks: {:?} is not {:?}", found.0, alone.0);
                }
            }
        }
    }

    /// Wherever one rank is asked to stop, all do; another number of them goes on, and ends as if nobody had stopped.
    #[test]
    fn a_stop_on_one_stops_all() {
        let folder = tempfile::tempdir().unwrap();
        for options in [cosine(Loss::CrossEntropy), best()] {
            let alone = undisturbed(&options, &Alone);
            for (last, from, to) in [(1, 3, 2), (2, 2, 4), (4, 4, 1), (5, 7, 3)] {
                // What is not the first rank's is not there.
                let path = |rank: usize| folder.path().join(if rank == 0 { "here" } else { "nowhere/there" });
                let stopped = on(from, |ranks| {
                    let stop = AtomicBool::new(false);
                    let told = &mut |progress: Progress| {
                        stop.store(progress.step == last && ranks.rank() == from - 1, Ordering::Relaxed);
                    };
                    run(&Patterns::new(90), &options, Some(&path(ranks.rank())), &stop, told, ranks).0.unwrap()
                });
                assert!(stopped.iter().all(|report| !report.completed && report.steps == last), "{stopped:?}");
                let resume = FinetuneOptions { resume: true, ..options.clone() };
                let go = AtomicBool::new(false);
                let ended = on(to, |ranks| {
                    run(&Patterns::new(90), &resume, Some(&path(ranks.rank())), &go, &mut |_| {}, ranks)
                });
                for (report, weights) in ended {
                    let report = report.unwrap();
                    assert_eq!(report.resumed_from, Some(last));
                    assert_eq!((report.losses, report.judged), (alone.0.losses.clone(), alone.0.judged.clone()));
                    assert!(weights == alone.1, "stopped after {last} on {from}, resumed on {to}");
                }
            }
        }
    }

    /// Dies in the middle of the run, as if killed.
    struct Dying<'a> {
        ranks: &'a Thread,
        left: Mutex<u32>,
        stop: &'a AtomicBool,
    }

    impl Ranks for Dying<'_> {
        fn rank(&self) -> usize {
            self.ranks.rank()
        }

        fn count(&self) -> usize {
            self.ranks.count()
        }

        fn all_gather(&self, message: &[u8], waiting: &mut dyn FnMut()) -> Result<Vec<Vec<u8>>, RanksError> {
            let mut left = self.left.lock().unwrap();
            if self.rank() == 1 && *left == 0 {
                // The launcher sees it and tells the others to end; they wait in vain.
                self.stop.store(true, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(200));
                return Err(RanksError::Lost("killed".to_owned()));
            }
            *left = left.saturating_sub(1);
            self.ranks.all_gather(message, waiting)
        }
    }

    #[test]
    fn what_a_lost_rank_leaves_is_resumed() {
        let alone = undisturbed(&best(), &Alone);
        let folder = tempfile::tempdir().unwrap();
        // Three things are gathered before the first step, and after an epoch's three steps what judges and whether the checkpoint stands.
        for (gathered, step) in [(3, 0), (4, 1), (7, 3), (8, 3), (9, 4)] {
            let path = folder.path().join(format!("{gathered}.ckpt"));
            let stop = AtomicBool::new(false);
            let ends = on(3, |ranks| {
                let ranks = Dying { ranks, left: Mutex::new(gathered), stop: &stop };
                run(&Patterns::new(90), &best(), Some(&path), &stop, &mut |_| {}, &ranks).0
            });
            assert!(ends.iter().all(|end| matches!(end, Err(FinetuneError::Ranks(RanksError::Lost(_))))), "{ends:?}");
            let resume = FinetuneOptions { resume: true, ..best() };
            let go = AtomicBool::new(false);
            let (report, weights) = run(&Patterns::new(90), &resume, Some(&path), &go, &mut |_| {}, &Alone);
            assert_eq!(report.unwrap().resumed_from, Some(step), "{gathered}");
            assert!(weights == alone.1, "{gathered}");
        }
    }

    /// Patterns of which one cannot be read.
    struct Broken(bool);

    impl Source for Broken {
        fn len(&self) -> usize {
            90
        }

        fn sample_len(&self) -> usize {
            36
        }

        fn image(&self) -> Option<Layout> {
            Patterns::new(90).image()
        }

        fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
            if self.0 {
                return Err(DataError::Mismatch("the disk is gone".to_owned()));
            }
            Patterns::new(90).load(indices, out)
        }

        fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
            Patterns::new(90).labels(indices)
        }

        fn fingerprint(&self) -> String {
            "patterns".to_owned()
        }
    }

    #[test]
    fn an_error_on_one_ends_all() {
        let ends = |options: &(dyn Fn(usize) -> FinetuneOptions + Sync), broken: usize, file: Option<&Path>| {
            let ends = on(3, |ranks| {
                let data = Broken(ranks.rank() == broken);
                let path = file.filter(|_| ranks.rank() == 0);
                let end = run(&data, &options(ranks.rank()), path, &AtomicBool::new(false), &mut |_| {}, ranks);
                end.0.unwrap_err().to_string()
            });
            <[String; 3]>::try_from(ends).unwrap()
        };
        let [first, second, third] = ends(&|_| best(), 1, None);
        assert_eq!(first, "rank 1: the disk is gone");
        assert_eq!((second.as_str(), third), ("the disk is gone", first.clone()));
        // In the first step.
        assert_eq!(ends(&|_| cosine(Loss::CrossEntropy), 1, None)[2], first);
        let seeds = |rank: usize| FinetuneOptions { seed: u64::from(rank == 2), ..best() };
        for message in ends(&seeds, 9, None) {
            assert_eq!(message, "rank 2 was started with another --seed than rank 0: 1, not 0");
        }
        let [first, second, _] = ends(&|_| best(), 9, Some("nowhere/there".as_ref()));
        assert!(first.contains("nowhere/there") && second == format!("rank 0: {first}"), "{first} {second}");
        let wild = FinetuneOptions { learning_rate: 1e30, recipe: Recipe::Cosine, judge: false, ..best() };
        for message in ends(&|_| wild.clone(), 9, None) {
            assert!(message.contains("training diverged"), "{message}");
        }
    }
}

#[test]
fn a_real_network_is_evaluated_alike_in_any_batch() {
    use crate::evaluate::{EvalOptions, evaluate};
    let executor = Executor::new(network(), 2).unwrap();
    let evaluated = |batch: usize| {
        let options = EvalOptions { runs: 3, batch, ..Default::default() };
        evaluate(&executor, &Patterns::new(60), &options, &mut |_| {}).unwrap()
    };
    let report = evaluated(60);
    assert_eq!(report, evaluated(7));
    assert!(report.clean.top1 > report.noisy.top1, "{report:?}");
    // Fresh denoisers are the identity.
    assert_eq!(report.denoised, report.noisy);
    assert_eq!(report.clean_denoised, report.clean);
}

const STEP: Key = Key { seed: 5, purpose: Purpose::Train, pass: 1, chip: 9 };

#[test]
fn levels_are_uniform_between_their_bounds() {
    let samples: Vec<u64> = (0..10_000).collect();
    let levels = FinetuneOptions::new(Recipe::Best).levels(&samples, STEP);
    assert!(levels.iter().all(|level| (0.0..=1.5).contains(level)));
    // Mean and variance of a uniform distribution, within five standard errors.
    let mean = levels.iter().sum::<f64>() / 10_000.0;
    let variance = levels.iter().map(|level| (level - mean).powi(2)).sum::<f64>() / 10_000.0;
    assert!((mean - 0.75).abs() < 5.0 * (1.5 / 12f64.sqrt()) / 100.0, "{mean}");
    assert!((variance - 2.25 / 12.0).abs() < 0.01, "{variance}");
    assert_eq!(levels[..10], FinetuneOptions::new(Recipe::Best).levels(&samples[..10], STEP));
    assert!(FinetuneOptions::new(Recipe::Cosine).levels(&samples, STEP).is_empty());
}

/// Of one-hot samples the shares can be read off: at least half of a sample stays, the rest is one other sample's.
#[test]
fn mixing_leaves_half_of_every_sample() {
    let samples: Vec<u64> = (0..7).collect();
    let whole: Vec<f32> = (0..49).map(|at| f32::from(u8::from(at / 7 == at % 7))).collect();
    let mut mixed = whole.clone();
    mix(&mut mixed, &samples, STEP);
    assert_ne!(mixed, whole);
    for (n, row) in mixed.chunks(7).enumerate() {
        assert!(row[n] >= 0.5 && row.iter().filter(|&&share| share != 0.0).count() <= 2, "{row:?}");
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
    }
    let mut again = whole.clone();
    mix(&mut again, &samples, STEP);
    assert_eq!(again, mixed);
    let mut alone = vec![1.0, 2.0];
    mix(&mut alone, &[3], STEP);
    assert_eq!(alone, [1.0, 2.0]);
}

/// A step moves every weight in units of what it changes: a shift by the layer's deviation, a bottleneck in closed form by shares of
/// its weights; one at its start moves as it always has.
#[test]
fn steps_have_units() {
    let unit = |executor: &Executor, name: &str| {
        let found = trainable(executor.program()).into_iter().find(|(_, own)| own == name).unwrap();
        step::units(executor).get(&found.0).copied().unwrap_or(1.0)
    };
    let mut executor = Executor::new(network(), 1).unwrap();
    let deviations: Vec<f64> = executor.program().layers().iter().map(|layer| layer.calibration.unwrap().std).collect();
    assert_eq!(unit(&executor, "fc.affine.scale"), 1.0);
    assert_eq!(unit(&executor, "fc.affine.shift"), deviations[1]);
    assert_eq!(unit(&executor, "conv.mean.weight"), 1.0, "at its start");
    let (head, _) = trainable(executor.program()).into_iter().find(|(_, name)| name == "conv.mean.weight").unwrap();
    executor.set_weight(head, &[0.1; 4]).unwrap();
    // In closed form, with no affine behind it.
    assert_eq!(unit(&executor, "conv.mean.weight"), f64::from(0.1f32));
    assert_eq!(unit(&executor, "conv.reduce.weight"), f64::from(0.3f32));
    assert_eq!(unit(&executor, "conv.reduce.bias"), 1.0);
}

/// Few images come several times, moved about; of many, and by other recipes, each comes once.
#[test]
fn few_images_come_again() {
    let copies = |images| Recipe::Best.copies(images);
    assert_eq!([1, 10, 31, 63, 64, 1000].map(copies), [256, 25, 8, 4, 1, 1]);
    assert_eq!([copies(0), copies(usize::MAX), Recipe::Paper.copies(10), Recipe::Cosine.copies(10)], [1; 4]);
}

/// Few samples are seen more often; many five times, as by the other recipes.
#[test]
fn few_samples_make_enough_steps() {
    let epochs = |samples| Recipe::Best.epochs(samples, 32);
    assert_eq!([1, 10, 64, 512, 1000, 2048, 55_000].map(epochs), [320, 320, 160, 20, 10, 5, 5]);
    assert_eq!(epochs(usize::MAX), 5);
    assert_eq!(Recipe::Cosine.epochs(1, 32), 5);
    assert_eq!(Recipe::Best.epochs(0, 0), 320);
}
