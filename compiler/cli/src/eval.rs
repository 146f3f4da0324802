//! `mxc eval`: clean, noisy and denoised accuracy.

use super::{Failure, Global, args::EvalArgs, ui};
use mxc::{
    EvalReport, Package, Progress,
    compiler::files::Inputs,
    runtime::{
        evaluate::{Accuracies, Yield},
        files::write_atomically,
    },
};

pub fn run(args: EvalArgs, global: &Global) -> Result<(), Failure> {
    let mut progress = global.ui.progress("eval");
    let monitor = global.ui.monitor(|told| {
        if let Progress::Evaluating(now) = told {
            progress.set_total(now.total);
            progress.update(now.done, &format!(" {} (draw {})", now.stage, now.run + 1));
        }
    });
    let options = args.evaluate.options(&global.common);
    if let Some(output) = &args.output {
        let inputs = Inputs::default().file("the package", Some(&args.package)).data(Some(&args.data));
        inputs.file("the list of classes", args.reading.classes.as_deref()).check("-o", output)?;
    }
    let session = Package::open(&args.package)?.session(&args.evaluate.session(&global.common), &monitor)?;
    let data = args.reading.data(&args.data);
    if let (Some(shard), Some(output)) = (args.shard, &args.output) {
        let part = session.evaluate_shard(&data, &options, shard, &monitor)?;
        return Ok(write_atomically(output, part.to_json().as_bytes())
            .map_err(|source| mxc::Error::Io { path: output.clone(), source })?);
    }
    let report = session.evaluate(&data, &options, &monitor)?;
    drop(monitor);
    drop(progress);
    if global.ui.json {
        return super::print_json(&report);
    }
    print_report(&report, &args.evaluate.execute.digital.to_string())
}

/// A report as tables; `digital` is the denoisers' arithmetic.
pub fn print_report(report: &EvalReport, digital: &str) -> Result<(), Failure> {
    let mut table = ui::table(&["", "top-1 %", "95 % interval", "top-5 %"]);
    let mut row = |name: &str, top1: f64, interval: Option<f64>, top5: f64| {
        table.add_row([
            name.to_owned(),
            format!("{top1:.2}"),
            interval.map_or(String::new(), |half| format!("± {half:.2}")),
            format!("{top5:.2}"),
        ]);
    };
    let mut noisy = |name: &str, value: &Accuracies| row(name, value.top1, value.ci95, value.top5);
    noisy("noisy", &report.noisy);
    noisy("denoised", &report.denoised);
    row("clean", report.clean.top1, None, report.clean.top5);
    row("clean, denoisers on", report.clean_denoised.top1, None, report.clean_denoised.top5);
    let recovered = match report.recovered_percent {
        Some(percent) => format!("{percent:.1} % of the drop recovered"),
        None => "nothing was lost to noise".to_owned(),
    };
    super::print(&format!(
        "{table}\n\n{} samples, {} noise draws; noise {}, scale {}, reference {}; denoisers in {digital} arithmetic\n\
         {recovered}; denoisers {} parameters, {:.2} % of the backbone's {}\n",
        report.samples,
        report.noisy.runs.len(),
        report.noise.spec,
        report.noise.scale,
        report.noise.reference,
        report.parameters.denoisers,
        report.parameters.overhead_percent,
        report.parameters.backbone,
    ))?;
    let Some(chips) = &report.chips else {
        return Ok(());
    };
    let line = |name: &str, value: &Yield| {
        let [low, high] = value.ci95;
        format!(
            "yield, {name}: {:.1} % of {} chips, 95 % interval {low:.1} to {high:.1}\n",
            value.percent,
            value.top1.len()
        )
    };
    super::print(&format!(
        "chips at {} % or above\n{}{}",
        chips.floor,
        line("noisy", &chips.noisy),
        line("denoised", &chips.denoised)
    ))
}
