//! `mxc eval`: clean, noisy and denoised accuracy.

use super::{
    Failure, Global,
    args::{Arithmetic, EvalArgs},
    data::{self, Location, SkipBad},
    session, ui,
};
use mxc_runtime::{
    data::Split,
    evaluate::{Accuracies, ChipOptions, EvalOptions, EvalReport, Yield, evaluate},
    package::Package,
};

pub fn run(args: EvalArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    let split: Split = args.split.parse()?;
    let holdout = args.holdout.unwrap_or_else(|| session::compiled_holdout(&package));
    if split == Split::Holdout && holdout == 0 {
        return Err("--split holdout: the package was compiled without --holdout; give --holdout N".into());
    }
    let mut data =
        data::open(&package, Location { path: &args.data, classes: args.classes.as_deref() }, split, holdout, global)?;
    let skip = SkipBad::new(args.skip_bad, global);
    skip.apply(&mut data, args.limit)?;
    let mut program = session::packaged_in(args.digital, &package, &args.package, global)?;
    session::override_noise(&mut program, session::noise_option(args.sigma, args.noise.as_ref()).as_ref());
    if session::is_synthetic(&package) {
        global.ui.warn(
            "the package is calibrated on synthetic inputs, so its noise magnitudes are not those of your data; \
             mxc finetune --data recalibrates",
        );
    }
    let executor = session::executor(program, args.backend, global)?;
    let options = EvalOptions {
        runs: args.seeds,
        seed: global.seed,
        limit: args.limit,
        batch: args.batch,
        backbone_parameters: session::backbone_parameters(&package),
        chips: args.chips.zip(args.floor).map(|(count, floor)| ChipOptions { count, floor }),
    };
    let mut progress = global.ui.progress("eval", 0);
    let mut report = evaluate(&executor, &data, &options, &mut |now| {
        progress.set_total(now.total);
        progress.update(now.done, &format!(" {} (draw {})", now.stage, now.run + 1));
    })?;
    drop(progress);
    report.skipped = skip.skipped();
    if global.ui.json {
        return super::print_json(&report);
    }
    print_report(&report, args.digital)
}

fn print_report(report: &EvalReport, digital: Arithmetic) -> Result<(), Failure> {
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
