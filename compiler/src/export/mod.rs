//! Export: splices trained denoisers into the user's own ONNX file.
//!
//! ```text
//! x ─ Conv ─ BatchNormalization ─ Relu            x ─ Conv ─ BatchNormalization ─┬─────────────────── Sub ─ Relu
//!                                  becomes                                       └─ block (mxc.…) ─────┘
//! ```
//!
//! A denoiser cleans a layer's folded output. Which value of the file that is, the compiler has recorded
//! ([`mxc_dialects::origin`]); the denoiser goes behind it ([`splice`]). Everything else in the file stays: names, operator set,
//! initializers with their bytes, external data references. New nodes, values and initializers are named `mxc.LAYER.…`.
//! Before anything is written, the result is run and compared with the package ([`verify`]).

mod block;
mod splice;
mod verify;

pub use verify::Verified;

use crate::import::{self, ImportError};
use melior::ir::{Module, Value};
use mxc_dialects::{
    analog::AnalogOp,
    denoise::{self, Kind},
    ir,
    origin::{self, Origin},
};
use mxc_runtime::{
    files::{sha256, write_atomically},
    program::Program,
    store::{Weight, WeightStore},
};
use onnx_protobuf::{Message, NodeProto, TensorProto};
use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

/// The denoisers of one layer.
#[derive(Clone, Debug, Default)]
pub struct LayerDenoisers {
    /// The layer's name: its ONNX node's name, or that node's first output's.
    pub layer: String,
    /// The values of the source that its output is, or follows from. Several are equal.
    pub origins: Vec<Origin>,
    /// Its output's shape, channels last; `None` is the batch.
    pub shape: Vec<Option<usize>>,
    /// Whether its output has rows and columns before the channels, over which depthwise convolutions reach.
    pub spatial: bool,
    /// In the order in which they act.
    pub denoisers: Vec<Denoiser>,
}

/// One denoiser.
#[derive(Clone, Debug)]
pub struct Denoiser {
    /// What it computes.
    pub kind: &'static Kind,
    /// Its weights, in the order of the kind's parameters.
    pub weights: Vec<Weight>,
}

/// What the caller decides about an export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Whether the σ̂ path draws ε (`--sampling`, RandomNormalLike); otherwise ε = 0 and that path is left out.
    pub sampling: bool,
    /// The SHA-256 that the source file must have, in hexadecimal digits.
    pub sha256: Option<String>,
}

/// Why denoisers cannot be exported.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExportError {
    /// The source is no ONNX model.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Source(#[from] ImportError),
    /// The source is not the file that the package was compiled from.
    #[error("'{file}' is not the model that the package was compiled from (its SHA-256 is {found}, not {expected})")]
    #[diagnostic(help("give the original file with --source"))]
    Hash {
        /// The file.
        file: String,
        /// Its hash.
        found: String,
        /// The recorded hash.
        expected: String,
    },
    /// The source has no value that a layer's output is.
    #[error("the model has no value that is the output of layer '{layer}' (looked for: {})", looked_for(values))]
    #[diagnostic(help(
        "give the file that the package was compiled from with --source; packages of older versions of mxc do not \
                       say which value it is: compile again"
    ))]
    NoValue {
        /// The layer.
        layer: String,
        /// The names that it was recorded under.
        values: Vec<String>,
    },
    /// The value is inside something that cannot be opened.
    #[error("the output of a layer lies in a function of the model: {reason}")]
    #[diagnostic(help("inline the model's functions (onnx.inliner.inline_local_functions) and compile again"))]
    Function {
        /// What is in the way.
        reason: String,
    },
    /// The result does not compute what the package does.
    #[error("the exported model does not compute what the package does: {reason}; nothing was written")]
    #[diagnostic(help("this is a fault of mxc; please report it together with the model"))]
    Differs {
        /// What differs, and by how much.
        reason: String,
    },
    /// A denoiser's weights do not fit together, or not its layer.
    #[error("the denoiser of layer '{layer}' does not fit: {reason}")]
    #[diagnostic(help("the package is damaged, or belongs to another model"))]
    Weights {
        /// The layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("'{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The result would need an external data file where another file lies.
    #[error("'{}' exists and is not the model's external data file of that name", path.display())]
    #[diagnostic(help("write the export to another folder"))]
    Occupied {
        /// The file in the way.
        path: PathBuf,
    },
}

/// Value names as a list.
fn looked_for(values: &[String]) -> String {
    if values.is_empty() { "none is recorded".to_owned() } else { values.join(", ") }
}

/// The denoisers in a module's `@main`, by layer in execution order, with their weights.
pub fn denoisers(module: &Module<'_>, weights: &WeightStore) -> Result<Vec<LayerDenoisers>, ExportError> {
    let mut layers: Vec<LayerDenoisers> = Vec::new();
    let analog = AnalogOp::all(module);
    for denoiser in denoise::Denoiser::all(module) {
        let (layer, kind) = (denoiser.layer(), denoiser.kind());
        let index = match layers.iter().position(|each| each.layer == layer) {
            Some(index) => index,
            None => {
                let op = analog.iter().find(|op| op.layer() == layer);
                layers.push(LayerDenoisers {
                    layer: layer.clone(),
                    origins: op.map(|op| origin::of(&op.operation())).unwrap_or_default(),
                    shape: op.and_then(|op| ir::value_shape(op.output()?)).unwrap_or_default(),
                    spatial: op.is_some_and(|op| op.is_spatial()),
                    denoisers: Vec::new(),
                });
                layers.len() - 1
            }
        };
        let weights =
            denoiser.weights().into_iter().map(|value| weight(value, &layer, weights)).collect::<Result<_, _>>()?;
        layers[index].denoisers.push(Denoiser { kind, weights });
    }
    Ok(layers)
}

/// The weight that a denoiser reads.
fn weight(value: Value<'_, '_>, layer: &str, weights: &WeightStore) -> Result<Weight, ExportError> {
    let failed = |reason: String| ExportError::Weights { layer: layer.to_owned(), reason };
    let name = ir::loaded_global(value).ok_or_else(|| failed("one of its operands is no weight".to_owned()))?;
    weights.get(&name).cloned().ok_or_else(|| failed(format!("the weight '{name}' is missing")))
}

/// Splices denoisers into the bytes of an ONNX file; `file` names it in errors.
pub fn onnx(
    source: &[u8],
    file: &str,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
) -> Result<Vec<u8>, ExportError> {
    if let Some(expected) = &options.sha256 {
        let found = sha256(source);
        if !found.eq_ignore_ascii_case(expected) {
            return Err(ExportError::Hash { file: file.to_owned(), found, expected: expected.clone() });
        }
    }
    let mut model = import::parse(source, file)?;
    splice::splice(&mut model, layers, options)?;
    // Writing to memory cannot fail but for sizes beyond protobuf's 2 GiB.
    model.write_to_bytes().map_err(|error| {
        ImportError::NotOnnx { file: file.to_owned(), reason: format!("the result cannot be written: {error}") }.into()
    })
}

/// [`onnx`], and what the result was found to compute: what `program`, the package's, does (without `--sampling`, which is
/// random). External data is looked up in `folder`.
pub fn onnx_verified(
    source: &[u8],
    file: &str,
    folder: &Path,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
    program: &Program,
) -> Result<(Vec<u8>, Verified), ExportError> {
    let exported = onnx(source, file, layers, options)?;
    let verified = match options.sampling {
        false => verify::verify(&exported, folder, program)?,
        true => {
            let still = ExportOptions { sampling: false, ..options.clone() };
            verify::verify(&onnx(source, file, layers, &still)?, folder, program)?
        }
    };
    Ok((exported, verified))
}

/// Splices denoisers into an ONNX file and writes the result to `target`, atomically, once it was found to compute what
/// `program`, the package's, does (without `--sampling`, which is random). External data files are copied beside the target if
/// that lies in another folder; an existing file of the same content is left as it is.
pub fn onnx_file(
    source: &Path,
    target: &Path,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
    program: &Program,
) -> Result<Verified, ExportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    };
    let bytes = std::fs::read(source).map_err(failed(source))?;
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let (from, to) = (folder(source), folder(target));
    let (exported, verified) = onnx_verified(&bytes, &source.display().to_string(), &from, layers, options, program)?;
    for location in external_files(&bytes, &source.display().to_string())? {
        let (source, copy) = (from.join(&location), to.join(&location));
        if copy == to.join(target.file_name().unwrap_or_default()) {
            return Err(ExportError::Occupied { path: copy });
        }
        let original = std::fs::canonicalize(&source).map_err(failed(&source))?;
        match std::fs::canonicalize(&copy) {
            Ok(existing) if existing == original => {}
            Ok(_) => {
                let read = |path: &Path| std::fs::read(path).map_err(failed(path));
                if read(&copy)? != read(&source)? {
                    return Err(ExportError::Occupied { path: copy });
                }
            }
            Err(_) => {
                let inside = folder(&copy);
                std::fs::create_dir_all(&inside).map_err(failed(&inside))?;
                std::fs::copy(&source, &copy).map_err(failed(&copy))?;
            }
        }
    }
    write_atomically(target, &exported).map_err(failed(target))?;
    Ok(verified)
}

/// The external data files that a model refers to, relative to its folder.
pub fn external_files(source: &[u8], file: &str) -> Result<Vec<PathBuf>, ExportError> {
    fn note(tensor: &TensorProto, found: &mut BTreeSet<PathBuf>) {
        for entry in tensor.external_data.iter().filter(|entry| entry.key == "location") {
            let path = PathBuf::from(&entry.value);
            // What points elsewhere is refused on import.
            if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
                found.insert(path);
            }
        }
    }
    fn collect(nodes: &[NodeProto], found: &mut BTreeSet<PathBuf>) {
        for attribute in nodes.iter().flat_map(|node| &node.attribute) {
            attribute.t.iter().for_each(|tensor| note(tensor, found));
            for graph in attribute.g.iter() {
                graph.initializer.iter().for_each(|tensor| note(tensor, found));
                collect(&graph.node, found);
            }
        }
    }
    let model = import::parse(source, file)?;
    let mut found = BTreeSet::new();
    for graph in model.graph.iter() {
        graph.initializer.iter().for_each(|tensor| note(tensor, &mut found));
        collect(&graph.node, &mut found);
    }
    for function in &model.functions {
        collect(&function.node, &mut found);
    }
    Ok(found.into_iter().collect())
}
