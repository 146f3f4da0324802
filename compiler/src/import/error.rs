//! Why a model cannot be imported: one error, naming the file, node or tensor and, as help, the mend.

use std::{fmt, path::PathBuf};

/// One node that mxc cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The node's name, or its first output's name where it has none.
    pub node: String,
    /// The operator, with its domain in front where that is not ONNX's own.
    pub op: String,
    /// The version of the operator set that the model imports for that domain.
    pub opset: i64,
    /// What exactly is not supported, where it is not the operator as a whole.
    pub reason: Option<String>,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node '{}': {} (opset {})", self.node, self.op, self.opset)?;
        match &self.reason {
            Some(reason) => write!(formatter, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// Writes unsupported nodes one a line.
fn list(nodes: &[UnsupportedNode]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not a model.
    #[error("'{file}' is not a complete ONNX model: {reason}")]
    #[diagnostic(help("the file may be truncated or of another format; export it again"))]
    NotOnnx {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The model imports an operator set that is too old.
    #[error("'{file}' uses ONNX opset {opset}; mxc reads opset {oldest} and newer")]
    #[diagnostic(help("convert the model with onnx.version_converter, or export it with a newer opset"))]
    Opset {
        /// The file.
        file: String,
        /// The model's opset.
        opset: i64,
        /// The oldest one that is read.
        oldest: i64,
    },
    /// A tensor's declaration and data do not fit together.
    #[error("tensor '{tensor}': {reason}")]
    #[diagnostic(help("the model file is damaged or truncated; export it again"))]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor's data lies in another file, which is missing or too short.
    #[error("tensor '{tensor}': its external data file '{}' {reason}", file.display())]
    #[diagnostic(help("keep the external data file that belongs to the model beside it, under its original name"))]
    ExternalData {
        /// The tensor.
        tensor: String,
        /// The file, as resolved against the model's folder.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node reads a value that nothing defines.
    #[error("node '{node}' reads '{input}', which no node, input or initializer defines")]
    #[diagnostic(help("the model is inconsistent; onnx.checker.check_model shows the same error"))]
    Undefined {
        /// The node.
        node: String,
        /// The undefined value.
        input: String,
    },
    /// A graph output that nothing defines.
    #[error("no node, input or initializer defines the graph output '{output}'")]
    #[diagnostic(help("the model is inconsistent; onnx.checker.check_model shows the same error"))]
    UndefinedOutput {
        /// The output.
        output: String,
    },
    /// Two nodes, inputs or initializers define the same value.
    #[error("value '{value}' is defined twice, the second time by node '{node}'")]
    #[diagnostic(help("the model is inconsistent; onnx.checker.check_model shows the same error"))]
    Redefined {
        /// The value.
        value: String,
        /// The second node that defines it.
        node: String,
    },
    /// The nodes depend on each other in a circle.
    #[error("node '{node}' depends on its own output '{value}'")]
    #[diagnostic(help("mxc compiles feed-forward networks; the graph must have no cycle"))]
    Cycle {
        /// A node of the cycle.
        node: String,
        /// Its output.
        value: String,
    },
    /// A node's operands or attributes do not fit together.
    #[error("node '{node}' ({op}): {reason}")]
    #[diagnostic(help("the model is inconsistent; onnx.checker.check_model(model, full_check=True) may tell more"))]
    Node {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong, naming the values concerned.
        reason: String,
    },
    /// The constants that the model computes take too much memory.
    #[error(
        "node '{node}' ({op}): the constants that the model computes take {bytes} bytes with this one, more than {limit}"
    )]
    #[diagnostic(help("raise the limit with --max-constant-bytes, or fold the constants before export (onnxsim)"))]
    Constants {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What all would take.
        bytes: u64,
        /// What they may take.
        limit: u64,
    },
    /// A graph input whose shape mxc cannot use.
    #[error("input '{input}': {reason}")]
    #[diagnostic(help("{help}"))]
    Input {
        /// The input.
        input: String,
        /// What is wrong.
        reason: String,
        /// The mend.
        help: String,
    },
    /// Nodes that mxc cannot express, all of them.
    #[error("the model has {} node(s) that mxc does not support:{}", nodes.len(), list(nodes))]
    #[diagnostic(help("replace these operators in the model, or export it another way"))]
    Unsupported {
        /// The nodes, in execution order.
        nodes: Vec<UnsupportedNode>,
    },
    /// The imported module does not verify.
    #[error("the imported graph is not valid IR: {0}")]
    #[diagnostic(help("this is a fault of mxc; please report it together with the model"))]
    Invalid(String),
    /// An `.mlir` file does not parse, or is not a network.
    #[error("'{file}' is not a usable MLIR module: {reason}")]
    #[diagnostic(help("mxc reads modules in the TOSA dialect with a function '@main', or with a single function"))]
    Mlir {
        /// The file.
        file: String,
        /// The parser's messages, or what is missing.
        reason: String,
    },
}

/// Why one node cannot be lowered.
#[derive(Debug)]
pub(super) enum Problem {
    /// The node is valid ONNX that mxc cannot express; collected, so that all of them are listed at once.
    Unsupported(Option<String>),
    /// The node is inconsistent.
    Invalid(String),
    /// The constants made so far and this node's take so many bytes, which is too much.
    TooLarge(u64),
    /// Another error, found below the node.
    Import(Box<ImportError>),
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        Self::Import(Box::new(error))
    }
}

/// An inconsistent node.
pub(super) fn invalid<T>(reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Invalid(reason.into()))
}

/// Something valid but not supported.
pub(super) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Unsupported(Some(reason.into())))
}
