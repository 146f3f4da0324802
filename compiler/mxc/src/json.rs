//! What calls decided, as JSON: the objects that `mxc compile`, `calibrate` and `finetune` print with `--json`.

use crate::{Calibrated, Compiled, Finetuned};
use mxc_compiler::pass::{Ranges, SpentEnergy};
use mxc_runtime::{closed_form::Fitted, evaluate::Parameters};
use serde_json::{Value, json};

impl Compiled<'_> {
    /// What it holds: parameters, layers with their denoisers and why, converter ranges, the fit in closed form, the energy budget. Losses are
    /// the distillation loss of calibration samples that judged.
    pub fn to_json(&self) -> Value {
        let placement = self.placement().cloned().unwrap_or_default();
        let shifts = self.ranges().map_or(0, |ranges| ranges.channels);
        let percent = |parameters| Parameters::new(placement.backbone_parameters, parameters).overhead_percent;
        let layers: Vec<_> = placement
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "name": layer.layer,
                    "channels": layer.channels,
                    "reference": layer.reference,
                    "gradient_norm": layer.gradient_norm,
                    "rank": layer.rank.map(|rank| rank + 1),
                    "denoisers": layer.denoisers,
                    "denoiser_parameters": layer.parameters,
                    "chosen": layer.chosen,
                    "reason": layer.reason,
                })
            })
            .collect();
        let mut object = measured(self.ranges(), self.fitted(), self.skipped());
        object["parameters"] = json!({
            "backbone": placement.backbone_parameters,
            "denoisers": placement.denoiser_parameters,
            "overhead_percent": percent(placement.denoiser_parameters),
            "column_shifts": shifts,
            "overhead_with_shifts_percent": percent(placement.denoiser_parameters) + percent(shifts),
        });
        object["layers"] = layers.into();
        object["energy"] = self.energy().map_or(Value::Null, |spent| {
            let SpentEnergy { read, most, digital, share, before, after } = spent;
            json!({
                "layers_read": read,
                "most_reads": most,
                "layers_digital": digital,
                "added_percent": 100.0 * share,
                "loss_before": before,
                "loss_after": after,
            })
        });
        object
    }
}

impl Calibrated {
    /// How converter ranges and denoisers were changed. Losses are the distillation loss of samples that judged.
    pub fn to_json(&self) -> Value {
        measured(self.ranges, self.fitted.as_ref(), self.skipped)
    }
}

impl Finetuned {
    /// How it was trained: what the package's manifest says of it.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "training": self.package.manifest().training });
        if let Some(skipped) = self.skipped {
            object["skipped"] = skipped.into();
        }
        object
    }
}

fn measured(ranges: Option<Ranges>, fitted: Option<&Fitted>, skipped: Option<usize>) -> Value {
    let mut object = json!({
        "ranges": ranges.map(|Ranges { channels, inputs, before, after }| {
            json!({ "column_shifts": channels, "input_ranges": inputs, "loss_before": before, "loss_after": after })
        }),
        "closed_form": fitted.map(|Fitted { samples, gain, levels, before, after }| {
            json!({ "samples": samples, "gain": gain, "levels": levels, "loss_before": before, "loss_after": after })
        }),
    });
    if let Some(skipped) = skipped {
        object["skipped"] = skipped.into();
    }
    object
}
