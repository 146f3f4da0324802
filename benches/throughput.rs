//! Images per second of a compiled package: noisy evaluation (noise on, denoisers off and on) and fine-tuning steps.
//!
//! `cargo run --release -p mxc-cli --example throughput -- PKG.mxa DATA [THREADS [BATCH [IMAGES [RUNS]]]]` prints one
//! JSON object; `benches/compare.py` runs it beside the PyTorch baseline.

use mxc::runtime::{
    data::{DataError, Dataset, Source, Split},
    exec::{Batch, Executor, Key, Mode, Purpose},
    finetune::Adam,
    task::Targets,
};
use std::{error::Error, path::Path, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: usize| match arguments.get(index) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    let (Some(package), Some(data)) = (arguments.get(1), arguments.get(2)) else {
        return Err("usage: throughput PKG.mxa DATA [THREADS [BATCH [IMAGES [RUNS]]]]".into());
    };
    let (threads, batch, images, runs) = (number(3, 2)?, number(4, 128)?, number(5, 2560)?, number(6, 3)?);

    let package = mxc::Package::open(Path::new(package))?;
    let preprocessing = package.manifest().preprocessing.clone().unwrap_or_default();
    let data = Dataset::open(Path::new(data), Split::Train, 0, &preprocessing)?;
    let session = package.session(&mxc::SessionOptions::default(), &mxc::Monitor::default())?;
    let mut executor = Executor::new(session.program().clone(), threads)?;

    // Loading is outside the clock on both sides.
    let batches: Vec<(Vec<f32>, Vec<u32>, Vec<u64>)> = (0..images.min(data.len()))
        .collect::<Vec<_>>()
        .chunks(batch)
        .map(|indices| {
            let mut inputs = Vec::new();
            data.load(indices, &mut inputs)?;
            let ids = indices.iter().map(|&index| data.id(index)).collect();
            Ok((inputs, data.labels(indices).unwrap_or_default(), ids))
        })
        .collect::<Result<_, DataError>>()?;
    let count: usize = batches.iter().map(|(_, labels, _)| labels.len()).sum();
    let key = |purpose, pass| Key { seed: 0, purpose, pass, chip: 0 };
    let rate = |start: Instant| count as f64 / start.elapsed().as_secs_f64();

    let eval = |mode: Mode| -> Result<Vec<f64>, Box<dyn Error>> {
        let mut rates = Vec::new();
        for run in 0..=runs {
            let start = Instant::now();
            for (inputs, _, ids) in &batches {
                executor.logits(Batch { inputs: &[inputs], samples: ids }, mode, key(Purpose::Eval, run as u32))?;
            }
            rates.push(rate(start));
        }
        Ok(rates.split_off(1))
    };
    let (noisy, denoised) = (eval(Mode::NOISY)?, eval(Mode::DENOISED)?);

    let trainable: Vec<usize> =
        (0..executor.program().values().len()).filter(|&id| executor.program().values()[id].trainable).collect();
    let mut optimizers: Vec<Adam> = trainable.iter().map(|&id| Adam::new(executor.weight(id).len())).collect();
    let mut train = Vec::new();
    for run in 0..=runs {
        let start = Instant::now();
        for (inputs, labels, ids) in &batches {
            let batch = Batch { inputs: &[inputs], samples: ids };
            let gradients = executor.gradients(batch, Targets::Labels(labels), key(Purpose::Train, run as u32))?;
            for (&id, optimizer) in trainable.iter().zip(&mut optimizers) {
                let mut weights = executor.weight(id).to_vec();
                optimizer.step(&mut weights, &gradients.weights[&id], 1e-3);
                executor.set_weight(id, &weights)?;
            }
        }
        train.push(rate(start));
    }
    println!(
        "{}",
        serde_json::json!({
            "eval_images_per_s": noisy,
            "denoised_eval_images_per_s": denoised,
            "train_images_per_s": train.split_off(1),
        })
    );
    Ok(())
}
