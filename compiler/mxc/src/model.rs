//! Models: what a trained network's file holds, once imported.

use crate::{CompileOptions, Compiled, Data, Error, Monitor, Session, SessionOptions};
use melior::ir::{
    BlockLike, Module, ShapedTypeLike, TypeLike, ValueLike,
    operation::{OperationLike, OperationMutLike},
    r#type::RankedTensorType,
};
use mxc_compiler::{
    driver::{self, CompileError},
    import::{self, ImportOptions, Imported, SourceInfo, SourceInput},
    pass::run::print_module,
};
use mxc_dialects::{ffi, ir};
use mxc_runtime::store::WeightStore;
use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

/// An MLIR context that knows mxc's dialects. It is a [`melior::Context`]; a caller's own serves as well where it knows them.
///
/// ```
/// let context = mxc::Context::new();
/// assert!(context.loaded_dialect_count() > 0);
/// ```
#[derive(Debug)]
pub struct Context(melior::Context);

impl Context {
    /// A new context, of one thread.
    pub fn new() -> Self {
        Self(mxc_dialects::new_context())
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Context {
    type Target = melior::Context;

    fn deref(&self) -> &melior::Context {
        &self.0
    }
}

/// A trained network, imported.
///
/// ```
/// # fn main() -> Result<(), mxc::Error> {
/// let context = mxc::Context::new();
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/resnet20.onnx");
/// let model = mxc::Model::from_file(&context, file.as_ref(), &Default::default())?;
/// assert_eq!(model.inputs()[0].shape, [None, Some(1), Some(28), Some(28)]);
/// assert_eq!(model.outputs().len(), 1);
/// assert!(model.nodes().iter().any(|node| node.operation == "tosa.conv2d"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Model<'c> {
    pub(crate) context: &'c melior::Context,
    pub(crate) imported: Imported<'c>,
    /// What errors and packages call its source.
    pub(crate) path: PathBuf,
}

/// A node of a model, in execution order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelNode {
    /// The operation that it was imported as, such as `tosa.conv2d`.
    pub operation: String,
    /// The source's name of the node, as far as there is one.
    pub name: Option<String>,
}

impl<'c> Model<'c> {
    /// Imports a file by its name: `.mlir` and `.mlirbc` are modules in TOSA, everything else is ONNX, whose external data files
    /// are looked up beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Import`], which names the file, the node or the tensor.
    pub fn from_file(context: &'c melior::Context, path: &Path, options: &ImportOptions) -> Result<Self, Error> {
        Ok(Self { context, imported: driver::import(context, path, options)?, path: path.to_owned() })
    }

    /// Imports the bytes of an ONNX file. `name` is what errors and packages call it; external data files are looked up beside the
    /// file of that name.
    ///
    /// # Errors
    ///
    /// As of [`Model::from_file`].
    pub fn from_bytes(
        context: &'c melior::Context,
        onnx: &[u8],
        name: &str,
        options: &ImportOptions,
    ) -> Result<Self, Error> {
        let path = PathBuf::from(name);
        let folder = path.parent().unwrap_or(Path::new(""));
        let imported = import::onnx_bytes(context, onnx, name, folder, options)?;
        Ok(Self { context, imported, path })
    }

    /// Imports the text of a module in TOSA. Its globals have the values of `weights` unless it holds them itself; `name` is what
    /// errors and packages call it.
    ///
    /// # Errors
    ///
    /// As of [`Model::from_file`].
    pub fn from_mlir(
        context: &'c melior::Context,
        text: &[u8],
        name: &str,
        weights: &WeightStore,
    ) -> Result<Self, Error> {
        Ok(Self { context, imported: import::mlir_bytes(context, text, name, weights)?, path: PathBuf::from(name) })
    }

    /// What it was imported from: hash, operator set, producer.
    pub fn source(&self) -> &SourceInfo {
        &self.imported.source
    }

    /// Its inputs, in the source's layout; the batch is `None`.
    pub fn inputs(&self) -> &[SourceInput] {
        &self.imported.source.inputs
    }

    /// The names of its outputs.
    pub fn outputs(&self) -> &[String] {
        &self.imported.source.outputs
    }

    /// Its nodes, as imported.
    pub fn nodes(&self) -> Vec<ModelNode> {
        let block = ir::main_function(&self.imported.module).and_then(ir::entry_block);
        let nodes = block.map(ir::block_ops).unwrap_or_default();
        let named = |operation: &melior::ir::OperationRef<'_, '_>| ModelNode {
            operation: ir::op_name(operation),
            name: ir::location_name(operation.location()),
        };
        nodes.iter().map(named).collect()
    }

    /// Its module at the graph level.
    pub fn module(&self) -> &Module<'c> {
        &self.imported.module
    }

    /// The text of its module.
    pub fn ir(&self) -> String {
        print_module(&self.imported.module, false)
    }

    /// Its module as MLIR bytecode; weights are globals without their values.
    pub fn bytecode(&self) -> Vec<u8> {
        self.imported.module.as_operation().write_bytecode()
    }

    /// The values of its module's globals.
    pub fn weights(&self) -> &WeightStore {
        &self.imported.weights
    }

    /// A copy, whose module is its own and whose weights are shared: compiling consumes a model.
    pub fn duplicate(&self) -> Self {
        let module = ffi::duplicate(&self.imported.module);
        let Imported { weights, source, .. } = &self.imported;
        let imported = Imported { module, weights: weights.clone(), source: source.clone() };
        Self { context: self.context, imported, path: self.path.clone() }
    }

    /// Compiles it: maps its matrix-vector products to analog tiles, calibrates on `data` (or, without, on synthetic inputs), and
    /// places denoisers, as far as [`CompileOptions::level`].
    ///
    /// # Errors
    ///
    /// [`Error::Pass`], [`Error::Data`], [`Error::Options`], [`Error::Compile`], or [`Error::Cancelled`].
    pub fn compile(
        self,
        options: &CompileOptions,
        data: Option<&Data>,
        monitor: &Monitor<'_>,
    ) -> Result<Compiled<'c>, Error> {
        crate::compile::compile(self, options, data, monitor)
    }

    /// Makes the model itself ready to run, without noise or denoisers.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] where it has what the executor does not compute.
    pub fn session(mut self, options: &SessionOptions) -> Result<Session, Error> {
        if self.imported.source.opset.is_none() {
            driver::fold_constants(self.context, &mut self.imported).map_err(|error| match error {
                CompileError::Program(error) => Error::Load(error),
                other => other.into(),
            })?;
        }
        let program = mxc_compiler::load::program(&self.imported.module, &self.imported.weights)?;
        Session::of_program(program, options)
    }

    /// Says in the module which output holds the logits: the one named, else the first of floats. Where there is a choice, it is
    /// told.
    pub(crate) fn choose_logits(&self, wanted: Option<&str>, monitor: &Monitor<'_>) -> Result<(), Error> {
        let names = self.outputs();
        let listed = || names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let Some(main) = ir::main_function(&self.imported.module) else {
            return Ok(());
        };
        let returned = ir::entry_block(main).and_then(|block| block.terminator());
        let is_float = |index: usize| {
            let value = returned.and_then(|returned| returned.operand(index).ok());
            value
                .and_then(|value| RankedTensorType::try_from(value.r#type()).ok())
                .is_some_and(|t| t.element().is_f32())
        };
        let chosen = match wanted {
            Some(name) => {
                let index = names.iter().position(|output| output == name).ok_or_else(|| {
                    Error::Options(format!(
                        "--logits {name}: the model has no such output; its outputs are {}",
                        listed()
                    ))
                })?;
                if !is_float(index) {
                    let message = format!("--logits {name}: this output holds integers; logits are floats");
                    return Err(Error::Options(message));
                }
                index
            }
            None => (0..names.len()).find(|&index| is_float(index)).unwrap_or(0),
        };
        if wanted.is_none() && names.len() > 1 {
            let taken = &names[chosen];
            monitor.note(format!(
                "'{taken}' is taken for the logits among the outputs {}; --logits NAME chooses",
                listed()
            ));
        }
        if chosen > 0 {
            ffi::as_mut(main).set_attribute(ir::LOGITS_ATTRIBUTE, ir::string(self.context, &names[chosen]));
        }
        Ok(())
    }
}
