//! Images per second of the executor on networks with random weights: clean, noisy and denoised inference, and a
//! fine-tuning step. `cargo run --release -p mxc-runtime --example engine_throughput [THREADS [NETWORK [MODE]]]`.

#![allow(clippy::unwrap_used)]

#[path = "../src/exec/testing.rs"]
mod testing;

use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    program::{Binary, Concat, Pool, Pooling, Program, Unary, ValueId},
    rng::{Kind, StreamKey},
    task::Targets,
};
use std::time::Instant;
use testing::Net;

const BATCH: usize = 128;

fn denoise(net: &mut Net, x: ValueId) -> ValueId {
    let x = net.block(x, true, 0.01);
    net.affine(x)
}

/// Inverted residuals with depthwise convolutions and ReLU6.
fn mobilenet() -> Program {
    let mut net = Net::new();
    let relu6 = |net: &mut Net, x| net.unary(Unary::Clamp { min: 0.0, max: 6.0 }, x);
    let x = net.input(&[28, 28, 1]);
    let x = net.conv(x, 16, 3, 1, 1);
    let mut x = relu6(&mut net, x);
    for (channels, stride) in [(16, 1), (24, 2), (24, 1), (40, 2), (40, 1), (40, 1)] {
        let wide = net.shape(x)[3] * 4;
        let y = net.conv(x, wide, 1, 1, 1);
        let y = relu6(&mut net, y);
        let y = net.conv(y, wide, 3, stride, wide);
        let y = relu6(&mut net, y);
        let y = net.conv(y, channels, 1, 1, 1);
        let y = denoise(&mut net, y);
        x = if net.shape(x) == net.shape(y) { net.binary(Binary::Add, x, y) } else { y };
    }
    let x = net.mean(x);
    net.classify(x, 10)
}

/// Dense blocks: batch normalisation that cannot fold, concatenation, average pooling.
fn densenet() -> Program {
    let mut net = Net::new();
    let x = net.input(&[28, 28, 1]);
    let mut x = net.conv(x, 24, 3, 1, 1);
    for stage in 0..3 {
        for _ in 0..4 {
            let shape = net.shape(x);
            let scale = net.weight(&[1, 1, 1, shape[3]], 1.0, false);
            let shift = net.weight(&[1, 1, 1, shape[3]], 1.0, false);
            let y = net.binary(Binary::Mul, x, scale);
            let y = net.binary(Binary::Add, y, shift);
            let y = net.relu(y);
            let y = net.conv(y, 12, 3, 1, 1);
            let y = denoise(&mut net, y);
            x = net.node(Concat { axis: 3 }, &[x, y]);
        }
        if stage < 2 {
            let y = net.relu(x);
            let channels = net.shape(y)[3] / 2;
            let y = net.conv(y, channels, 1, 1, 1);
            x = net.node(Pool { kind: Pooling::Average, kernel: [2, 2], stride: [2, 2], pad: [0; 4] }, &[y]);
        }
    }
    let x = net.relu(x);
    let x = net.mean(x);
    net.classify(x, 10)
}

/// Inverted residuals with SiLU and squeeze-and-excitation.
fn efficientnet() -> Program {
    let mut net = Net::new();
    let silu = |net: &mut Net, x| {
        let gate = net.unary(Unary::Sigmoid, x);
        net.binary(Binary::Mul, x, gate)
    };
    let x = net.input(&[28, 28, 1]);
    let x = net.conv(x, 16, 3, 1, 1);
    let mut x = silu(&mut net, x);
    for (channels, stride) in [(16, 1), (24, 2), (24, 1), (40, 2), (40, 1)] {
        let wide = net.shape(x)[3] * 4;
        let y = net.conv(x, wide, 1, 1, 1);
        let y = silu(&mut net, y);
        let y = net.conv(y, wide, 3, stride, wide);
        let y = silu(&mut net, y);
        let s = net.mean(y);
        let s = net.conv(s, wide / 8, 1, 1, 1);
        let s = silu(&mut net, s);
        let s = net.conv(s, wide, 1, 1, 1);
        let s = net.unary(Unary::Sigmoid, s);
        let y = net.binary(Binary::Mul, y, s);
        let y = net.conv(y, channels, 1, 1, 1);
        let y = denoise(&mut net, y);
        x = if net.shape(x) == net.shape(y) { net.binary(Binary::Add, x, y) } else { y };
    }
    let x = net.mean(x);
    net.classify(x, 10)
}

/// Images per second, the best of a few runs.
fn rate(run: &dyn Fn()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    BATCH as f64 / best
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let only = std::env::args().nth(2).unwrap_or_default();
    let mode = std::env::args().nth(3).unwrap_or_default();
    let stream =
        StreamKey { seed: 1, purpose: 0, kind: Kind::Noise, component: 0, chip: 0, pass: 0, layer: 0, sample: 0 };
    let mut normals = vec![0.0; 12_544];
    let mut best = f64::INFINITY;
    for _ in 0..500 {
        let start = Instant::now();
        stream.stream().fill_normals(0, &mut normals);
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("normals, one thread: {:.0} M/s", normals.len() as f64 / best / 1e6);
    println!("{threads} threads, batch {BATCH}; images/s");
    println!("{:14} {:>9} {:>9} {:>9} {:>9}", "network", "clean", "noisy", "denoised", "training");
    type Network = (&'static str, fn() -> Program);
    let networks: [Network; 4] = [
        ("resnet20", || Net::resnet(3, true)),
        ("mobilenet", mobilenet),
        ("densenet", densenet),
        ("efficientnet", efficientnet),
    ];
    for (name, make) in networks.into_iter().filter(|(name, _)| name.contains(&only)) {
        let executor = Executor::new(make(), threads).unwrap();
        let images = Net::new().randoms(BATCH * 784, 1.0);
        let samples: Vec<u64> = (0..BATCH as u64).collect();
        let labels: Vec<u32> = (0..BATCH as u32).map(|n| n % 10).collect();
        let batch = Batch { inputs: &[&images], samples: &samples };
        let key = Key { seed: 1, purpose: Purpose::Train, pass: 0, chip: 0 };
        let rate = |name: &str, run: &dyn Fn()| if name.contains(&mode) { rate(run) } else { 0.0 };
        let forward = |name: &str, mode| rate(name, &|| drop(executor.logits(batch, mode, key).unwrap()));
        println!(
            "{name:14} {:9.0} {:9.0} {:9.0} {:9.0}",
            forward("clean", Mode::CLEAN),
            forward("noisy", Mode::NOISY),
            forward("denoised", Mode::DENOISED),
            rate("training", &|| drop(executor.gradients(batch, Targets::Labels(&labels), key).unwrap())),
        );
    }
}
