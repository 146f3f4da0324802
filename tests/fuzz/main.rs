//! `mxc-fuzz run TARGET SECONDS [SEED]`: gives a parser damaged files until the time is over; `mxc-fuzz check TARGET FILE…` gives it
//! these files. `docs/fuzzing.md` has the rest.
//!
//! Stable Rust has no coverage feedback, so this is a plain mutator: files of `tests/corpus/TARGET` are damaged, checksums that
//! would hide the damage made right again. A panic, an abort inside MLIR, more than [`LIMIT`] bytes or [`PATIENCE`] without an
//! answer end the process that parses; the parent keeps the file.

#![allow(missing_docs)]

use mxc_compiler::import::{self, ImportOptions};
use mxc_compiler::load;
use mxc_dialects::{
    ir,
    noise::{LayerNoise, NoiseSpec},
};
use mxc_runtime::{
    data::{Dataset, Source, Split},
    hardware::Hardware,
    package::{Package, Preprocessing},
    store::WeightStore,
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    error::Error,
    fs,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Bytes that parsing one small file may hold at a time.
const LIMIT: usize = 1 << 30;
/// Time without an answer that counts as a hang.
const PATIENCE: Duration = Duration::from_secs(60);

mod ffi;
mod mutate;

#[global_allocator]
static ALLOCATOR: ffi::Counting = ffi::Counting;

type Failure = Box<dyn Error>;

/// A parser: the file's bytes, and a folder of its own.
type Parser = fn(&[u8], &Path) -> Result<(), Failure>;

const TARGETS: [(&str, Parser); 9] = [
    ("onnx", onnx),
    ("mlir", mlir),
    ("package", package),
    ("idx", idx),
    ("cifar", cifar),
    ("npz", npz),
    ("image", image),
    ("hardware", hardware),
    ("noise", noise),
];

fn onnx(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    let context = mxc_dialects::new_context();
    let imported = import::onnx_bytes(&context, bytes, "fuzz", folder, &ImportOptions::default())?;
    load::program(&imported.module, &imported.weights)?;
    Ok(())
}

fn mlir(bytes: &[u8], _: &Path) -> Result<(), Failure> {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, bytes, "fuzz")?;
    load::program(&module, &WeightStore::default())?;
    Ok(())
}

fn package(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    let path = folder.join("fuzz.mxa");
    fs::write(&path, bytes)?;
    let package = Package::open(&path)?;
    Hardware::parse(&package.manifest.hardware, "fuzz")?;
    package.manifest.noise.as_ref().map(LayerNoise::try_from).transpose()?;
    package.program(&path)?;
    Ok(())
}

fn hardware(bytes: &[u8], _: &Path) -> Result<(), Failure> {
    let profile = Hardware::parse(std::str::from_utf8(bytes)?, "fuzz")?;
    Hardware::parse(&profile.to_toml(), "what was written")?;
    Ok(())
}

fn noise(bytes: &[u8], _: &Path) -> Result<(), Failure> {
    let spec: NoiseSpec = std::str::from_utf8(bytes)?.parse()?;
    spec.to_string().parse::<NoiseSpec>()?;
    Ok(())
}

/// Opens a data set and loads its first samples.
fn samples(path: &Path, channels: u32) -> Result<(), Failure> {
    let preprocessing = Preprocessing {
        layout: "NCHW".to_owned(),
        height: 8,
        width: 8,
        channels,
        resize: Some(9),
        crop: Some(8),
        interpolation: "bicubic".to_owned(),
        ..Preprocessing::default()
    };
    let data = Dataset::open(path, Split::Test, 0, &preprocessing)?;
    let first: Vec<usize> = (0..data.len().min(4)).collect();
    data.load(&first, &mut Vec::new())?;
    Ok(())
}

/// The image file and the label file with a line between them.
fn idx(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    let line = bytes.windows(5).position(|window| window == b"\n---\n");
    let (images, labels) = line.map_or((bytes, &[][..]), |line| (&bytes[..line], &bytes[line + 5..]));
    let gz = if images.starts_with(b"\x1f\x8b") { ".gz" } else { "" };
    for other in ["", ".gz"] {
        let _ = fs::remove_file(folder.join(format!("t10k-images-idx3-ubyte{other}")));
    }
    fs::write(folder.join(format!("t10k-images-idx3-ubyte{gz}")), images)?;
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels)?;
    samples(folder, 1)
}

fn cifar(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    fs::write(folder.join("test_batch.bin"), bytes)?;
    samples(folder, 3)
}

fn npz(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    let path = folder.join("fuzz.npz");
    fs::write(&path, bytes)?;
    samples(&path, 3)
}

fn image(bytes: &[u8], folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder.join("class"))?;
    fs::write(folder.join("class/fuzz.png"), bytes)?;
    samples(folder, 3)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match *arguments.as_slice() {
        ["run", target, seconds, ref seed @ ..] => run(target, seconds, seed.first().copied().unwrap_or("0")),
        ["work", target, seconds, seed, folder] => work(target, seconds, seed, Path::new(folder)),
        ["check", target, ref files @ ..] => check(target, files),
        _ => Err("usage: mxc-fuzz run TARGET SECONDS [SEED] | mxc-fuzz check TARGET FILE…".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parser(target: &str) -> Result<Parser, Failure> {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let names = || TARGETS.map(|(name, _)| name).join(", ");
    found.map(|&(_, parser)| parser).ok_or_else(|| format!("no target {target}; there are {}", names()).into())
}

/// Parses files once each.
fn check(target: &str, files: &[&str]) -> Result<(), Failure> {
    let parser = parser(target)?;
    for file in files {
        let folder = tempfile::tempdir()?;
        let bytes = fs::read(file)?;
        ffi::start();
        let result = parser(&bytes, folder.path());
        let verdict = result.map_or_else(|error| error.to_string(), |()| "accepted".to_owned());
        println!("{file}: at most {} bytes; {}", ffi::peak(), verdict.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Starts a process that parses, and another one whenever that ends early.
fn run(target: &str, seconds: &str, seed: &str) -> Result<(), Failure> {
    parser(target)?;
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let folder = tempfile::Builder::new().prefix("mxc-fuzz").tempdir_in("/dev/shm")?;
    let seed: u64 = seed.parse()?;
    let (mut files, mut found) = (0, 0);
    for start in 0.. {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            break;
        }
        let mut child = Command::new(std::env::current_exe()?)
            .args(["work", target, &left.to_string(), &(seed + start).to_string()])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr"))?)
            .spawn()?;
        let current = folder.path().join("current");
        let status = loop {
            thread::sleep(Duration::from_millis(200));
            if let Some(status) = child.try_wait()? {
                break status.to_string();
            }
            let age = fs::metadata(&current).and_then(|file| file.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > PATIENCE) {
                child.kill()?;
                child.wait()?;
                break "no answer".to_owned();
            }
        };
        files +=
            fs::read_to_string(folder.path().join("count")).ok().and_then(|text| text.parse().ok()).unwrap_or(0u64);
        if status != "exit status: 0" {
            found += 1;
            let name = format!("{target}-{}-{start}", seed);
            fs::copy(&current, &name)?;
            let stderr = fs::read(folder.path().join("stderr"))?;
            let tail = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(1500)..]).into_owned();
            println!("{name}: {status}\n{tail}");
        }
    }
    println!("{target}: {files} files, {found} findings");
    if found == 0 { Ok(()) } else { Err("see the findings above".into()) }
}

/// Parses damaged files until the time is over.
fn work(target: &str, seconds: &str, seed: &str, folder: &Path) -> Result<(), Failure> {
    let parser = parser(target)?;
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Some seeds are there already for other reasons.
    let corpus = here.join(match target {
        "image" => "data/images/class".to_owned(),
        "hardware" => "../examples/hardware".to_owned(),
        "mlir" => "ir".to_owned(),
        target => format!("corpus/{target}"),
    });
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.is_file());
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<Result<_, _>>()?;
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed.parse()?);
    let scratch = folder.join("scratch");
    fs::create_dir_all(&scratch)?;
    for count in 1u64.. {
        if Instant::now() > end {
            break;
        }
        let bytes = mutate::damaged(&seeds, &mut generator);
        fs::write(folder.join("current"), &bytes)?;
        fs::write(folder.join("count"), count.to_string())?;
        ffi::start();
        let _ = parser(&bytes, &scratch);
    }
    Ok(())
}
