//! `mxc inspect`: what a package holds.

use super::{Failure, Global, args::InspectArgs, compile::layer_table, ui};
use mxc::{Data, Execution, LayerNoise, Package, Progress, SessionOptions};
use std::path::Path;

pub fn run(args: InspectArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    if args.mlir {
        return super::print(&package.ir()?);
    }
    if let Some(data) = &args.data {
        return effective_noise(&package, &args, data, global);
    }
    if global.ui.json {
        return super::print_json(package.manifest());
    }
    let manifest = package.manifest();
    let noise = package.noise()?;
    let mut facts = ui::table(&["", ""]);
    let mut fact = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    if let Some(provenance) = &manifest.provenance {
        fact("source", provenance.source.clone());
        fact("source SHA-256", provenance.source_sha256.clone());
        fact("mxc", provenance.tool_version.clone());
        fact("options", provenance.options.join(" "));
        if let Some(parent) = &provenance.parent_sha256 {
            fact("fine-tuned from SHA-256", parent.clone());
        }
    }
    if let Some(LayerNoise { spec, scale, reference }) = noise {
        fact("noise", format!("{spec} (scale {scale}, reference {reference})"));
    }
    if let Some(calibration) = &manifest.calibration {
        fact("calibration", format!("{} {} samples", calibration.samples, calibration.kind));
    }
    if manifest.holdout > 0 {
        fact("held out", format!("the last {} training samples", manifest.holdout));
    }
    if let Some(fitted) = &manifest.closed_form {
        let gain = fitted.gain.map_or("no fit was better".to_owned(), |gain| format!("gain {gain}"));
        fact("closed form", format!("{} samples, {gain}", fitted.samples));
    }
    if let Some(training) = &manifest.training {
        let losses: Vec<_> = training.losses.iter().map(|loss| format!("{loss:.4}")).collect();
        fact(
            "training",
            format!(
                "recipe {}, loss {}, learning rate {}, {} epochs of {} samples, batch {}; losses {}{}",
                training.recipe,
                training.loss,
                training.learning_rate,
                training.epochs,
                training.samples,
                training.batch,
                losses.join(" "),
                training.kept().map(|epoch| format!("; kept epoch {epoch}")).unwrap_or_default()
            ),
        );
    }
    fact("backbone parameters", package.backbone().parameters().to_string());
    fact("column shifts of 4 bits", package.column_shifts()?.to_string());
    let (mut read, mut digital) = (Vec::new(), Vec::new());
    for (layer, execution) in package.executions()? {
        match execution {
            Execution::Analog { reads } => read.push(format!("{layer} {reads}")),
            Execution::Digital => digital.push(layer),
        }
    }
    for (what, layers) in [("layers read more than once", read), ("layers computed digitally", digital)] {
        if !layers.is_empty() {
            fact(what, layers.join(", "));
        }
    }
    fact("denoiser parameters", package.denoisers().parameters().to_string());
    super::print(&format!("{facts}\n"))?;
    match &manifest.placement {
        Some(placement) => super::print(&format!("\n{}\n", layer_table(placement))),
        None => Ok(()),
    }
}

/// Every layer's noise as it acts on data.
fn effective_noise(package: &Package, args: &InspectArgs, data: &Path, global: &Global) -> Result<(), Failure> {
    let mut progress = global.ui.progress("inspect");
    let monitor = global.ui.monitor(|told| {
        if let Progress::Measuring { done, layers, samples } = told {
            progress.set_total((samples * layers) as u64);
            progress.update((samples * done) as u64, "");
        }
    });
    let session = SessionOptions { threads: global.common.threads(), ..SessionOptions::default() };
    let session = package.session(&session, &monitor)?;
    let data = Data { classes: args.classes.clone(), ..Data::new(data) };
    let report = session.effective_noise(&data, args.samples, global.common.seed, &monitor)?;
    drop(monitor);
    drop(progress);
    if global.ui.json {
        return super::print_json(&report);
    }
    let mut table =
        ui::table(&["layer", "noise", "magnitude", "SNR dB", "SNR dB, denoised before", "loss share alone %"]);
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    for layer in &report.layers {
        table.add_row([
            layer.layer.clone(),
            format!("{} of {}, {}", layer.noise, layer.reference, layer.scale),
            number(layer.magnitude, 4),
            number(layer.snr_db, 1),
            number(layer.snr_denoised_db, 1),
            number(layer.loss_share.map(|share| 100.0 * share), 1),
        ]);
    }
    super::print(&format!(
        "{table}\n\n{} samples; mean loss: clean {:.4}, noisy {:.4}, denoised {:.4}\n",
        report.samples, report.clean_loss, report.noisy_loss, report.denoised_loss
    ))
}
