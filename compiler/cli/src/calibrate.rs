//! `mxc calibrate`: fits a package's denoisers in closed form.

use super::{Failure, Global, args::CalibrateArgs};
use mxc::{Fitted, Package, Ranges, compiler::files::Inputs};

pub fn run(args: &CalibrateArgs, global: &Global) -> Result<(), Failure> {
    let output = args.output.clone().unwrap_or_else(|| args.package.with_extension("calibrated.mxa"));
    Inputs::default()
        .file("the package", Some(&args.package))
        .data(Some(&args.data))
        .file("the list of classes", args.reading.classes.as_deref())
        .check(if args.output.is_some() { "-o" } else { "the default name" }, &output)?;
    let monitor = global.ui.monitor(|_| {});
    let package = Package::open(&args.package)?;
    let session = package.session(&args.calibrate.session(&global.common), &monitor)?;
    let options = args.calibrate.options(&global.common);
    let calibrated = session.calibrate(&args.reading.data(&args.data), &options, &monitor)?;
    calibrated.package.write(&output)?;
    if global.ui.json {
        return super::print_json(&calibrated.to_json());
    }
    super::print(&told(calibrated.ranges, calibrated.fitted.as_ref()))?;
    super::print(&format!("{}\n", output.display()))
}

/// What ranges and fits changed, in words.
pub fn told(ranges: Option<Ranges>, fitted: Option<&Fitted>) -> String {
    let mut text = String::new();
    if let Some(Ranges { channels, inputs, before, after }) = ranges {
        text += &format!(
            "converter ranges: {channels} channels have a shift of 4 bits{}; distillation loss {before:.4} → {after:.4}\n",
            if inputs > 0 { format!(", {inputs} layers clip their inputs") } else { String::new() }
        );
    }
    if let Some(Fitted { samples, gain, levels: [_, less], before, after }) = fitted {
        let fit = gain.map_or("no fit was better".to_owned(), |gain| match *less {
            1.0 => format!("gain {gain}"),
            less => format!("gain {gain}, samples under {} % of the noise, too", 100.0 * less),
        });
        text += &format!(
            "closed form of {samples} samples: {fit}; distillation loss with noise and ½ without {before:.4} → {after:.4}\n"
        );
    }
    text
}
