//! `mxc merge`: the report of an evaluation that ran in shards.

use super::{Failure, Global, args::MergeArgs, eval};
use mxc::{Error, Part};

pub fn run(args: &MergeArgs, global: &Global) -> Result<(), Failure> {
    let read = |path: &std::path::PathBuf| -> Result<(String, Part), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let name = path.display().to_string();
        let part = Part::from_json(&text, &name)?;
        Ok((name, part))
    };
    let parts = args.parts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let report = mxc::merge(&parts)?;
    if global.ui.json {
        return super::print_json(&report);
    }
    eval::print_report(&report, parts.first().and_then(|(_, part)| part.of("--digital")).unwrap_or("float"))
}
