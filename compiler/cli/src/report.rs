//! `mxc report`: what the denoisers cost on the digital tile, and the layers on the analog tiles.

use super::{Failure, Global, args::ReportArgs, ui};
use mxc::{Cost, Package};

pub fn run(args: ReportArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    let hardware = args.profile.load()?;
    let cost = package.report(hardware.as_ref(), &global.ui.monitor(|_| {}))?;
    if global.ui.json {
        return super::print_json(&cost);
    }
    let Cost { report, analog, sigma } = cost;
    let mut tiles = ui::table(&["layer", "MVMs", "tiles", "reads", "nJ", "µs", "added nJ"]);
    for layer in &analog.layers {
        tiles.add_row([
            layer.layer.clone(),
            layer.mvms.to_string(),
            layer.tiles.to_string(),
            if layer.reads == 0 { "digital".to_owned() } else { layer.reads.to_string() },
            format!("{:.2}", layer.nanojoules),
            format!("{:.2}", layer.microseconds),
            format!("{:.2}", layer.added_nanojoules),
        ]);
    }
    let mut table = ui::table(&["layer", "cycles", "µs", "nJ", "σ̂ path"]);
    for denoiser in &report.denoisers {
        table.add_row([
            denoiser.layer.clone(),
            denoiser.cycles.to_string(),
            format!("{:.2}", denoiser.microseconds),
            format!("{:.2}", denoiser.nanojoules),
            match sigma.iter().find(|path| path.layer == denoiser.layer) {
                Some(path) if path.kept => format!("{:.1e} of X, kept", path.ratio),
                Some(path) => format!("{:.1e} of X, below {:.1e}: dropped", path.ratio, path.limit),
                None if denoiser.sigma => "not measured".to_owned(),
                None => "none".to_owned(),
            },
        ]);
    }
    super::print(&format!(
        "{tiles}\n\nlayers, per sample on {}: {:.2} nJ, {:.2} µs; {:+.2} % energy and {:+.2} % time beyond one read of each on its tiles\n\n",
        report.hardware, analog.nanojoules, analog.microseconds, analog.added_energy_percent, analog.added_time_percent
    ))?;
    super::print(&format!(
        "{table}\n\ndenoisers, per sample on {}: {} cycles, {:.2} nJ, {:.3} mW while the tile runs\n",
        report.hardware,
        report.cycles(),
        report.nanojoules(),
        report.milliwatts()
    ))
}
