//! What pipelines can name: passes of ours and of MLIR, and pipelines with names of their own.

use super::definition::{DynPass, OptionError, Options, Pass};
use melior::pass::Pass as MlirPass;

/// A registered pass. Its address is its MLIR type id, hence the alignment.
#[repr(align(8))]
pub struct PassInfo {
    /// The name in pipelines.
    pub name: &'static str,
    /// One line.
    pub description: &'static str,
    /// Key and description of each option.
    pub options: &'static [(&'static str, &'static str)],
    /// The level it works on, for `--show-passes`.
    pub stage: &'static str,
    build: fn(&mut Options) -> Result<Box<dyn DynPass>, OptionError>,
}

impl PassInfo {
    /// The entry of a pass.
    pub const fn of<P: Pass + 'static>(stage: &'static str) -> Self {
        Self {
            name: P::NAME,
            description: P::DESCRIPTION,
            options: P::OPTIONS,
            stage,
            build: |options| Ok(Box::new(P::from_options(options)?)),
        }
    }

    /// Makes the pass with the given options, all of which it must know.
    pub fn build(&self, options: &Options) -> Result<Box<dyn DynPass>, OptionError> {
        let mut rest = options.clone();
        let pass = (self.build)(&mut rest)?;
        match rest.iter().next() {
            None => Ok(pass),
            Some((key, _)) => {
                let known: Vec<_> = self.options.iter().map(|(name, _)| *name).collect();
                Err(OptionError(if known.is_empty() {
                    format!("it takes no options, but got {key}=")
                } else {
                    format!("unknown option {key}=; it takes {}", known.join(", "))
                }))
            }
        }
    }
}

/// A pass of MLIR.
pub struct Upstream {
    /// The name in pipelines.
    pub name: &'static str,
    /// One line.
    pub description: &'static str,
    /// Makes the pass.
    pub create: fn() -> MlirPass,
}

/// A named pipeline, usable wherever a pass name is.
pub struct Alias {
    /// The name.
    pub name: &'static str,
    /// The passes that it stands for.
    pub pipeline: &'static str,
    /// One line.
    pub description: &'static str,
}

/// All that pipelines can name.
pub struct Registry {
    /// The passes of ours, grouped by stage, in the order in which a pipeline runs them.
    pub passes: &'static [PassInfo],
    /// The passes of MLIR.
    pub upstream: &'static [Upstream],
    /// The named pipelines.
    pub aliases: &'static [Alias],
}

impl Registry {
    /// A pass of ours by name.
    pub fn find(&self, name: &str) -> Option<&'static PassInfo> {
        self.passes.iter().find(|pass| pass.name == name)
    }

    /// A pass of MLIR by name.
    pub fn find_upstream(&self, name: &str) -> Option<&'static Upstream> {
        self.upstream.iter().find(|pass| pass.name == name)
    }

    /// A named pipeline.
    pub fn find_alias(&self, name: &str) -> Option<&'static Alias> {
        self.aliases.iter().find(|alias| alias.name == name)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let passes = self.passes.iter().map(|pass| pass.name);
        let upstream = self.upstream.iter().map(|pass| pass.name);
        passes.chain(upstream).chain(self.aliases.iter().map(|alias| alias.name))
    }

    /// The text of `mxc opt --show-passes`.
    pub fn help(&self) -> String {
        let mut text = String::from("Passes, by the level they work on:\n");
        let mut stage = "";
        for pass in self.passes {
            if pass.stage != stage {
                stage = pass.stage;
                text.push_str(&format!("\n{stage}\n"));
            }
            text.push_str(&format!("  {:<22} {}\n", pass.name, pass.description));
            for (key, description) in pass.options {
                text.push_str(&format!("    {:<20} {description}\n", format!("{key}=")));
            }
        }
        text.push_str("\nupstream\n");
        for Upstream { name, description, .. } in self.upstream {
            text.push_str(&format!("  {name:<22} {description}\n"));
        }
        text.push_str("\naliases\n");
        for Alias { name, pipeline, description } in self.aliases {
            text.push_str(&format!("  {name:<22} {description}\n    = {pipeline}\n"));
        }
        text
    }
}
