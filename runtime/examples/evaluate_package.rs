//! Evaluates a package without MLIR in the process: clean, noisy and denoised accuracy on a data set's test split, as the object
//! that `mxc eval --json` prints. `cargo run --release -p mxc-runtime --example evaluate_package -- PKG.mxa DATA [RUNS]`

use mxc_runtime::{
    data::{Dataset, Split},
    evaluate::{EvalOptions, evaluate},
    exec::Executor,
    package::Package,
};
use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, package, data, runs @ ..] = arguments.as_slice() else {
        return Err("usage: evaluate_package PKG.mxa DATA [RUNS]".into());
    };
    let runs = runs.first().map_or(Ok(5), |runs| runs.parse())?;
    let path = Path::new(package);
    let package = Package::open(path)?;
    let preprocessing = package.manifest.preprocessing.clone().unwrap_or_default();
    let data = Dataset::open(Path::new(data), Split::Test, 0, &preprocessing)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let executor = Executor::new(package.program(path)?, threads)?;
    let parameters = package.manifest.placement.as_ref().map(Into::into);
    let options = EvalOptions { runs, parameters, ..EvalOptions::default() };
    println!("{}", serde_json::to_string(&evaluate(&executor, &data, &options, &mut |_| {})?)?);
    Ok(())
}
