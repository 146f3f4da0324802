//! `canonicalize-graph`: rewrites the TOSA graph with an e-graph; BatchNorm after a convolution folds into it.
//!
//! ```mlir
//! %1 = tosa.conv2d %0, %w, %b, … loc("conv1")
//! %2 = tosa.mul %1, %scale, %shift
//! %3 = tosa.add %2, %offset
//! // becomes, with @conv1.weight and @conv1.bias computed in f64
//! %1 = tosa.conv2d %0, %conv1.weight, %conv1.bias, … loc("conv1")
//! ```
//!
//! The rules are in [`crate::egraph::rules`], the cost model in [`crate::egraph::extract`].

use crate::{
    egraph::{export, extract, facts::Facts, import, language::Node, rules},
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{order_globals, remove_dead, settle_names},
    },
};
use egg::{Runner, SimpleScheduler, StopReason};
use melior::{Context, ir::Module};
use mxc_dialects::erase::{Eraser, ModuleMut};
use std::time::Duration;

/// See the module.
pub struct CanonicalizeGraph {
    iterations: usize,
    nodes: usize,
}

impl Pass for CanonicalizeGraph {
    const NAME: &'static str = "canonicalize-graph";
    const DESCRIPTION: &'static str =
        "rewrites the graph with an e-graph: folds BatchNorm, scales, shifts and padding into convolutions";
    const OPTIONS: &'static [(&'static str, &'static str)] =
        &[("iterations", "limit of rewriting rounds (default 60)"), ("nodes", "limit of e-nodes (default 200000)")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            iterations: options.take_parsed("iterations", "a number")?.unwrap_or(60),
            nodes: options.take_parsed("nodes", "a number")?.unwrap_or(200_000),
        })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let renames = module.erasing(|module, eraser| self.rewrite(context, module, eraser, cx))?;
        module.erasing(remove_dead);
        settle_names(context, module, cx, &renames);
        order_globals(module);
        Ok(())
    }
}

impl CanonicalizeGraph {
    /// Writes the best program that the rules find into `@main`; returns the names that new globals are to get.
    fn rewrite<'c, 'a>(
        &self,
        context: &'c Context,
        module: &'a Module<'c>,
        eraser: &mut Eraser<'c, 'a>,
        cx: &mut PassContext,
    ) -> Result<Vec<(String, String)>, PassError> {
        let mut network = import::read(module, &cx.weights)?;
        let egraph = std::mem::replace(&mut network.egraph, crate::egraph::analysis::Graph::new(Facts::default()));
        let runner: Runner<Node, Facts> = Runner::new(Facts::default())
            .with_egraph(egraph)
            .with_iter_limit(self.iterations)
            .with_node_limit(self.nodes)
            // A limit in time would make the result depend on the machine.
            .with_time_limit(Duration::MAX)
            .with_scheduler(SimpleScheduler)
            .run(&rules::rewrites());
        let limit = match &runner.stop_reason {
            Some(StopReason::Saturated) | None => None,
            Some(StopReason::IterationLimit(limit)) => Some(format!("{limit} iterations")),
            Some(StopReason::NodeLimit(limit)) => Some(format!("{limit} e-nodes")),
            Some(other) => Some(format!("{other:?}")),
        };
        if let Some(limit) = limit {
            cx.warnings
                .push(format!("canonicalize-graph stopped at its limit of {limit} before it had tried everything"));
        }
        network.egraph = runner.egraph;
        let program = extract::extract(&network.egraph, &network.roots)
            .ok_or_else(|| PassError::new("the e-graph holds no program for @main"))?;
        export::write(Self::NAME, context, module, &network, &program, cx, eraser)
    }
}
