//! Runs a pipeline through MLIR's pass manager.
//!
//! Every pass of ours is an MLIR external pass. MLIR reports only that a pass failed, so the reason travels through a
//! slot beside it; diagnostics that MLIR itself emits (its verifier, upstream passes) are added to it. Each step has
//! a pass manager of its own, which lets the failing step be named and the IR be looked at in between.

use super::{
    definition::{DynPass, PassContext, PassError, listed},
    pipeline::{Pipeline, Step},
    registry::Registry,
};
use melior::{
    Context,
    ir::{
        Module, OperationRef,
        operation::{OperationLike, OperationPrintingFlags},
        r#type::TypeId,
    },
    pass::{ExternalPass, PassManager, create_external},
};
use mxc_dialects::{diagnostic::Diagnostic, erase, ir};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// How a pipeline is run.
pub struct RunOptions<'a> {
    /// Runs mxc's verifier after every pass and before the first (MLIR's own always runs). On in debug builds.
    pub verify_each: bool,
    /// Gives the IR after every pass to `print`.
    pub print_ir_after_all: bool,
    /// Takes the time of every pass.
    pub timing: Option<&'a Times>,
    /// Where the printed IR goes.
    pub print: &'a dyn Fn(&str),
    /// Raised by the caller, from any thread, to end the pipeline with an error: before its next pass, or before the next batch of
    /// a pass that runs the network.
    pub stop: Option<Arc<AtomicBool>>,
    /// Told of every step that has ended without an error, and how long it took.
    pub ended: &'a dyn Fn(&str, Duration),
}

/// How long steps took, in their order.
#[derive(Debug, Default)]
pub struct Times(RefCell<Vec<(String, Duration)>>);

impl Times {
    /// Notes a step.
    pub fn add(&self, step: &str, time: Duration) {
        self.0.borrow_mut().push((step.to_owned(), time));
    }

    /// A table with the total.
    pub fn table(&self) -> String {
        let times = self.0.borrow();
        let total: Duration = times.iter().map(|(_, time)| *time).sum();
        let mut text = String::from("// seconds  step\n");
        for (name, time) in times.iter().chain([&("total".to_owned(), total)]) {
            text.push_str(&format!("// {:>7.4}  {name}\n", time.as_secs_f64()));
        }
        text
    }
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self {
            verify_each: cfg!(debug_assertions),
            print_ir_after_all: false,
            timing: None,
            print: &|_| {},
            stop: None,
            ended: &|_, _| {},
        }
    }
}

/// Why a pipeline stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A pass failed.
    #[error("{pass}: {error}")]
    Pass {
        /// The pass.
        pass: String,
        /// Its reason.
        error: Box<PassError>,
    },
    /// The IR is not valid before the first pass.
    #[error("the input is not valid:{}", listed(.0))]
    Input(Vec<Diagnostic>),
    /// The caller raised [`RunOptions::stop`].
    #[error("stopped before {pass}")]
    Stopped {
        /// The pass that would have been next.
        pass: String,
    },
    /// A pass left IR that is not valid: an error of the pass.
    #[error("{pass} left IR that is not valid, an error in the pass:{}", listed(found))]
    Verify {
        /// The pass.
        pass: String,
        /// What is wrong.
        found: Vec<Diagnostic>,
    },
}

/// The module's text with the locations that carry layer names.
pub fn print_module(module: &Module<'_>, locations: bool) -> String {
    let flags = OperationPrintingFlags::new();
    let flags = if locations { flags.enable_debug_info(true, false) } else { flags };
    let mut text = module
        .as_operation()
        .to_string_with_flags(flags)
        .unwrap_or_else(|error| format!("// cannot be printed: {error}"));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Runs `pipeline` over `module`. After an error the module is as the failing pass left it.
pub fn run_pipeline<'c>(
    context: &'c Context,
    module: &mut Module<'c>,
    pipeline: &Pipeline,
    cx: &mut PassContext,
    options: &RunOptions<'_>,
) -> Result<(), RunError> {
    cx.stop = options.stop.clone();
    if options.verify_each {
        mxc_dialects::verify::verify(module).map_err(RunError::Input)?;
    }
    for step in &pipeline.steps {
        if cx.is_stopped() {
            return Err(RunError::Stopped { pass: step.name.clone() });
        }
        let start = Instant::now();
        let error = run_step(pipeline.registry, context, module, step, cx).err();
        if let Some(times) = options.timing {
            times.add(&step.name, start.elapsed());
        }
        if let Some(error) = error {
            if options.print_ir_after_all {
                let text = print_module(module, false);
                (options.print)(&format!("// -----// IR Dump After {} Failed //----- //\n{text}", step.name));
            }
            return Err(RunError::Pass { pass: step.name.clone(), error: Box::new(error) });
        }
        (options.ended)(&step.name, start.elapsed());
        if options.print_ir_after_all {
            let text = print_module(module, false);
            (options.print)(&format!("// -----// IR Dump After {} //----- //\n{text}\n", step.name));
        }
        if options.verify_each {
            mxc_dialects::verify::verify(module)
                .map_err(|found| RunError::Verify { pass: step.name.clone(), found })?;
        }
    }
    Ok(())
}

/// Runs a pass on an operation that MLIR's pass manager gives it: a `builtin.module`, else this is an error, as is a panic.
pub fn run_guarded<'c>(
    pass: &mut dyn DynPass,
    context: &'c Context,
    operation: OperationRef<'c, '_>,
    cx: &mut PassContext,
) -> Result<(), PassError> {
    // Unwinding into MLIR's C++ frames would abort the process.
    catch_unwind(AssertUnwindSafe(|| {
        erase::with_module(operation, |module| pass.run_dyn(context, module, cx))
            .unwrap_or_else(|| Err(PassError::new("not run on a module")))
    }))
    .unwrap_or_else(|_| Err(PassError::new("the pass panicked: please report this")))
}

fn run_step<'c>(
    registry: &Registry,
    context: &'c Context,
    module: &mut Module<'c>,
    step: &Step,
    cx: &mut PassContext,
) -> Result<(), PassError> {
    let slot: RefCell<Option<PassError>> = RefCell::new(None);
    let manager = PassManager::new(context);
    manager.enable_verifier(true);
    let result;
    let messages;
    if let Some(info) = registry.find(&step.name) {
        let pass = info.build(&step.options).map_err(|error| PassError::new(error.to_string()))?;
        // The pass manager may clone a pass, hence shared cells; nothing here outlives this function.
        let state = RefCell::new((pass, cx));
        let run = |operation: OperationRef<'c, '_>, external: ExternalPass<'_>| {
            let outcome = match state.try_borrow_mut() {
                Ok(mut state) => {
                    let (pass, cx) = &mut *state;
                    run_guarded(pass.as_mut(), context, operation, cx)
                }
                Err(_) => Err(PassError::new("the pass is already running")),
            };
            if let Err(error) = outcome {
                *slot.borrow_mut() = Some(error);
                external.signal_failure();
            }
        };
        manager.add_pass(create_external(
            &run,
            TypeId::create(info),
            info.name,
            info.name,
            info.description,
            "builtin.module",
            &[],
        ));
        (result, messages) = ir::with_diagnostics(context, || manager.run(module));
        drop(manager);
    } else {
        let upstream = registry
            .find_upstream(&step.name)
            .ok_or_else(|| PassError::new("no such pass; mxc opt --show-passes lists them"))?;
        let pass = (upstream.create)();
        match &step.anchor {
            Some(anchor) => manager.nested_under(anchor).add_pass(pass),
            None => manager.add_pass(pass),
        }
        (result, messages) = ir::with_diagnostics(context, || manager.run(module));
    }
    match (slot.into_inner(), result) {
        (Some(mut error), _) => {
            for message in messages {
                error.message.push_str(&format!("\n  {message}"));
            }
            Err(error)
        }
        (None, Ok(())) => Ok(()),
        (None, Err(_)) if messages.is_empty() => Err(PassError::new("MLIR gave no reason")),
        (None, Err(_)) => Err(PassError::new(messages.join("\n  "))),
    }
}
