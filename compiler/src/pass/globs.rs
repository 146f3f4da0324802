//! Globs over layer names: `*` also crosses `/`, which ONNX node names are full of.

use super::definition::OptionError;
use globset::{GlobBuilder, GlobMatcher};

/// Compiles a glob.
pub fn matcher(glob: &str) -> Result<GlobMatcher, OptionError> {
    GlobBuilder::new(glob)
        .literal_separator(false)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| OptionError(format!("'{glob}' is not a glob: {}", error.kind())))
}

/// Compiles globs.
pub fn matchers(globs: &[String]) -> Result<Vec<GlobMatcher>, OptionError> {
    globs.iter().map(|glob| matcher(glob)).collect()
}
