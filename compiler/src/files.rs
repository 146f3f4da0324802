//! What a command reads and writes: no output ever replaces an input.

use crate::export;
use mxc_runtime::{data, files::identity};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An output that would replace an input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {option} is {what}{}, an input of this command, which mxc never replaces; give the output another name",
    output.display(),
    if output == input { String::new() } else { format!(" ({})", input.display()) }
)]
pub struct ReplacesInput {
    output: PathBuf,
    /// What names the output, such as `-o`.
    option: String,
    /// What the input is.
    what: &'static str,
    input: PathBuf,
}

/// A command's inputs.
#[derive(Debug, Default)]
pub struct Inputs {
    files: Vec<(&'static str, PathBuf)>,
    models: Vec<PathBuf>,
    data: Vec<PathBuf>,
}

impl Inputs {
    /// Adds a file; `what` is what errors call it.
    pub fn file(mut self, what: &'static str, path: Option<&Path>) -> Self {
        self.files.extend(path.map(|path| (what, path.to_owned())));
        self
    }

    /// Adds a model with the external data files that it refers to.
    pub fn model(mut self, path: &Path) -> Self {
        self.models.push(path.to_owned());
        self.file("the model", Some(path))
    }

    /// Adds a data set: a file, or a folder with what the data loaders would read in it.
    pub fn data(mut self, path: Option<&Path>) -> Self {
        self.data.extend(path.map(Path::to_owned));
        self
    }

    /// Checks, before any work, that an output is none of the inputs: neither by its path nor through links. `option` names the
    /// output in the error. Nothing is read where no file lies there yet.
    pub fn check(&self, option: &str, output: &Path) -> Result<(), ReplacesInput> {
        let Some(target) = identity(output) else {
            return Ok(());
        };
        let refused = |what, input: &Path| {
            Err(ReplacesInput { output: output.to_owned(), option: option.to_owned(), what, input: input.to_owned() })
        };
        let is_target = |path: &Path| identity(path) == Some(target);
        if let Some((what, input)) = self.files.iter().find(|(_, input)| is_target(input)) {
            return refused(what, input);
        }
        if let Some(input) = self.models.iter().flat_map(|model| external_data(model)).find(|input| is_target(input)) {
            return refused("the model's external data", &input);
        }
        match self.data.iter().find_map(|data| data::file_with_identity(data, target)) {
            Some(input) => refused("data", &input),
            None => Ok(()),
        }
    }
}

/// The external data files of an ONNX file; none where it cannot be read, which the import reports.
fn external_data(model: &Path) -> Vec<PathBuf> {
    let files = |bytes: Vec<u8>| export::external_files(&bytes, &model.display().to_string()).ok();
    let folder = model.parent().unwrap_or(Path::new(""));
    let found = fs::read(model).ok().and_then(files).unwrap_or_default();
    found.into_iter().map(|location| folder.join(location)).collect()
}
