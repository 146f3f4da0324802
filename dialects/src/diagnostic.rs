//! What is wrong with IR, and where.

use melior::ir::Location;
use std::fmt;

/// Something wrong with an operation, or with a module as a whole. As text, the location comes first: `"a.mlir":4:8: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The operation's location as MLIR writes it, `"a.mlir":4:8` or a layer's name; none for what has no place in the source.
    pub location: Option<String>,
    /// What is wrong, naming the operation or symbol.
    pub message: String,
}

impl Diagnostic {
    /// About the operation at a location.
    pub fn at(location: Location<'_>, message: impl Into<String>) -> Self {
        Self { location: location_text(location), message: message.into() }
    }
}

/// A location as MLIR writes it, without the `loc(…)` around it; `None` for an unknown one.
pub fn location_text(location: Location<'_>) -> Option<String> {
    let text = location.to_string();
    let text = text.strip_prefix("loc(").and_then(|text| text.strip_suffix(')')).unwrap_or(&text);
    (text != "unknown").then(|| text.to_owned())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(formatter, "{location}: ")?;
        }
        formatter.write_str(&self.message)
    }
}
