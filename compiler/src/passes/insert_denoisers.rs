//! `insert-denoisers`: places trainable denoising blocks after analog layers until a parameter budget is used.
//!
//! ```mlir
//! %1 = "analog.conv2d"(%0, %w, %b) {layer = "conv1", rank = 0 : i64, …} : (…) -> tensor<?x8x8x16xf32>
//! // becomes, with the uses of %1 replaced by %2
//! %1 = "analog.conv2d"(%0, %w, %b) {layer = "conv1", chosen = true, denoisers = ["paper"], …}
//! %2 = "denoise.paper"(%1, %reduce, …) {layer = "conv1"}
//! ```
//!
//! Layers are taken by rank, affines first, then blocks, out of one budget; each stage of `greedy` stops at its own
//! first misfit. Every kind starts as the identity.

use crate::{
    pass::{
        LayerPlacement, OptionError, Options, Pass, PassContext, PassError, Placement,
        constants::{backbone_parameters, built, declare_global, insert_before},
        random::Source,
    },
    placement::Strategy,
};
use melior::{
    Context,
    ir::{
        BlockLike, Module, OperationRef, Value,
        attribute::ArrayAttribute,
        operation::{OperationLike, OperationMutLike},
    },
};
use mxc_dialects::{
    analog::{self, AnalogOp},
    denoise::{
        self, Kind,
        expression::{Initial, Parameter, Site},
    },
    erase::ModuleMut,
    ffi, ir, origin, share,
};
use mxc_runtime::store::Weight;

/// See the module.
pub struct InsertDenoisers {
    budget: f64,
    placement: Strategy,
    kinds: Kinds,
    seed: Option<u64>,
}

/// Which denoisers: kinds of different stages, in the order in which they act.
struct Kinds(Vec<&'static Kind>);

impl Kinds {
    fn parse(text: &str) -> Result<Self, OptionError> {
        let mut kinds: Vec<&'static Kind> = Vec::new();
        for part in text.split('+') {
            let kind = Kind::named(part.trim()).filter(|kind| kinds.iter().all(|other| other.stage != kind.stage));
            kinds.push(kind.ok_or_else(|| OptionError(format!("option kind={text}: {} expected", Kind::choices())))?);
        }
        kinds.sort_by_key(|kind| kind.stage);
        Ok(Self(kinds))
    }
}

/// Reads a budget: a share of the backbone's parameters, such as `4%`.
pub fn parse_budget(text: &str) -> Result<f64, OptionError> {
    share::parse_positive(text).map_err(|reason| OptionError(format!("option budget={text}: {reason}")))
}

impl Pass for InsertDenoisers {
    const NAME: &'static str = "insert-denoisers";
    const DESCRIPTION: &'static str =
        "places denoisers after the highest-ranked analog layers within a parameter budget";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("budget", "parameters allowed, of the backbone's (default 4%)"),
        ("placement", "greedy (default), greedy-fill or at=GLOB,…"),
        ("at", "the same as placement=at=GLOB,…"),
        ("kind", "paper (default), another kind of denoiser, or one with +affine"),
        ("seed", "the seed of the initial weights"),
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let budget = parse_budget(options.take("budget").as_deref().unwrap_or("4%"))?;
        let at = options.take("at");
        let placement = options.take("placement");
        let placement = match (&at, placement.as_deref()) {
            (Some(_), Some(_)) => {
                return Err(OptionError("options placement= and at= exclude each other".to_owned()));
            }
            (Some(list), None) => {
                Strategy::at(list).map_err(|reason| OptionError(format!("option at={list}: {reason}")))?
            }
            (None, None) => Strategy::Greedy,
            (None, Some(text)) => {
                text.parse().map_err(|reason| OptionError(format!("option placement={text}: {reason}")))?
            }
        };
        Ok(Self {
            budget,
            placement,
            kinds: Kinds::parse(options.take("kind").as_deref().unwrap_or("paper"))?,
            seed: options.take_parsed("seed", "a number")?,
        })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = self.ranked(module)?;
        let backbone = backbone_parameters(module);
        let budget = allowance(self.budget, backbone);
        let tracked = ir::main_function(module).is_some_and(|main| main.attribute(origin::ATTRIBUTE).is_ok());
        let plan = self.plan(&layers, budget, tracked);
        let seed = self.seed.unwrap_or(cx.seed);
        let mut report = Placement { backbone_parameters: backbone, budget, ..Placement::default() };
        for (layer, planned) in layers.iter().zip(plan) {
            let mut inserter = Inserter { context, module, layer, seed, cx };
            if !planned.denoisers.is_empty() {
                inserter.insert(&planned, &self.kinds)?;
            }
            annotate(context, layer.op, &planned);
            report.denoiser_parameters += planned.parameters;
            report.layers.push(planned);
        }
        if report.denoiser_parameters == 0 && !report.layers.is_empty() {
            let share = share::show(self.budget);
            cx.warnings.push(format!("no denoiser fits the budget of {budget} parameters ({share} of {backbone})"));
        }
        cx.reports.placement = Some(report);
        Ok(())
    }
}

/// The whole parameters within a fraction of the backbone's.
fn allowance(fraction: f64, backbone: u64) -> u64 {
    let exact = fraction * backbone as f64;
    // 4 % of 2,500 is 100, also where the product comes out as 99.99999999999999.
    let rounded = exact.round();
    if (exact - rounded).abs() < 1e-6 { rounded as u64 } else { exact.floor() as u64 }
}

/// A layer to place denoisers after.
#[derive(Clone)]
struct Ranked<'c, 'a> {
    op: AnalogOp<'c, 'a>,
    name: String,
    site: Site,
}

impl InsertDenoisers {
    /// The analog layers, largest gradient norm first; in order of execution where none is ranked.
    fn ranked<'c, 'a>(&self, module: &'a Module<'c>) -> Result<Vec<Ranked<'c, 'a>>, PassError> {
        let block = ir::main_function(module)
            .and_then(ir::entry_block)
            .ok_or_else(|| PassError::new("the module has no function @main with a body"))?;
        if let Some(denoiser) = ir::block_ops(block).into_iter().find(|op| ir::op_name(op).starts_with("denoise.")) {
            return Err(PassError::new("the network has denoisers already").at(denoiser.location()));
        }
        let mut layers = Vec::new();
        for op in AnalogOp::all(module) {
            let name = op.layer();
            let channels = op.channels().ok_or_else(|| {
                PassError::new(format!("layer \"{name}\" has no static channels")).at(op.operation().location())
            })?;
            layers.push(Ranked { op, name, site: Site { channels, spatial: op.is_spatial() } });
        }
        let unranked = layers.iter().find(|layer| layer.op.rank().is_none());
        match (unranked, &self.placement) {
            (None, _) => layers.sort_by_key(|layer| layer.op.rank()),
            // Layers named by the user need no ranking.
            (Some(_), Strategy::At(_)) => {}
            (Some(layer), _) => {
                return Err(PassError::new(format!("layer \"{}\" has no rank", layer.name))
                    .at(layer.op.operation().location())
                    .hint("run rank-sensitivity before insert-denoisers, or name layers: at=GLOB,…"));
            }
        }
        Ok(layers)
    }

    /// Which layers get what. Of a `tracked` source a layer whose output is no value of it gets nothing: the denoiser could not
    /// be exported.
    fn plan(&self, layers: &[Ranked<'_, '_>], budget: u64, tracked: bool) -> Vec<LayerPlacement> {
        let mut plan: Vec<LayerPlacement> = layers
            .iter()
            .map(|layer| LayerPlacement {
                layer: layer.name.clone(),
                channels: layer.site.channels,
                reference: layer.op.calibration().ok().flatten().and_then(|calibration| {
                    let noise = layer.op.noise().ok()?;
                    Some(calibration.reference(noise.reference))
                }),
                gradient_norm: layer.op.gradient_norm(),
                rank: layer.op.rank(),
                ..LayerPlacement::default()
            })
            .collect();
        let mut left = budget;
        // Affines first, whose stage is the last.
        for kind in self.kinds.0.iter().rev() {
            let name = kind.name;
            let mut stopped = false;
            for (layer, placed) in layers.iter().zip(&mut plan) {
                if let Strategy::At(globs) = &self.placement
                    && !globs.iter().any(|glob| glob.is_match(&layer.name))
                {
                    placed.reason = "not among the layers named by at=".to_owned();
                    continue;
                }
                if tracked && origin::of(&layer.op.operation()).is_empty() {
                    placed.reason =
                        "no value of the ONNX model is its output, so that export could not express it".to_owned();
                    continue;
                }
                let cost = kind.expression().parameter_count(layer.site);
                let outcome = if stopped {
                    format!("{name}: after the first layer that did not fit")
                } else if cost > left {
                    stopped = !matches!(self.placement, Strategy::Fill);
                    format!("{name}: {cost} parameters exceed the {left} left of the budget")
                } else {
                    left -= cost;
                    placed.denoisers.push(name.to_owned());
                    placed.parameters += cost;
                    placed.chosen = true;
                    format!("{name}: fits")
                };
                if !placed.reason.is_empty() {
                    placed.reason.push_str("; ");
                }
                placed.reason.push_str(&outcome);
            }
        }
        plan
    }
}

fn annotate<'c>(context: &'c Context, op: AnalogOp<'c, '_>, planned: &LayerPlacement) {
    let kinds: Vec<_> = planned.denoisers.iter().map(|kind| ir::string(context, kind)).collect();
    let mut operation = ffi::as_mut(op.operation());
    operation.set_attribute(analog::DENOISERS, ArrayAttribute::new(context, &kinds).into());
    let parameters = ir::integer(context, planned.parameters as i64);
    operation.set_attribute(analog::DENOISER_PARAMETERS, parameters);
    operation.set_attribute(analog::CHOSEN, ir::boolean(context, planned.chosen));
    operation.set_attribute(analog::REASON, ir::string(context, &planned.reason));
}

struct Inserter<'c, 'a, 'p> {
    context: &'c Context,
    module: &'a Module<'c>,
    layer: &'p Ranked<'c, 'a>,
    seed: u64,
    cx: &'p mut PassContext,
}

impl<'c: 'a, 'a> Inserter<'c, 'a, '_> {
    fn insert(&mut self, planned: &LayerPlacement, kinds: &Kinds) -> Result<(), PassError> {
        let operation = self.layer.op.operation();
        let location = operation.location();
        let output =
            self.layer.op.output().ok_or_else(|| PassError::new("an analog layer has no result").at(location))?;
        let after = operation
            .next_in_block()
            .ok_or_else(|| PassError::new("@main does not end in func.return").at(location))?;
        let context = self.context;
        // Other uses are replaced before the denoisers use the output themselves.
        let mut current = output;
        let mut inserted: Vec<OperationRef<'c, 'a>> = Vec::new();
        let block = operation.block().ok_or_else(|| PassError::new("an analog layer is in no block").at(location))?;
        for kind in kinds.0.iter().filter(|kind| planned.denoisers.iter().any(|name| name == kind.name)) {
            let parameters = kind.expression().parameters();
            let weights =
                parameters.iter().map(|parameter| self.weight(parameter, after)).collect::<Result<Vec<_>, _>>()?;
            let denoiser = denoise::build(context, location, kind, current, &weights, &self.layer.name);
            let operation = block.insert_operation_before(after, built(kind.name, denoiser)?);
            inserted.push(operation);
            current = built(kind.name, operation.result(0))?.into();
        }
        if let Some(first) = inserted.first() {
            ffi::replace_all_uses_except(output, current, *first);
        }
        Ok(())
    }

    /// A denoiser weight: a global of its own, its initial values in the context.
    fn weight(&mut self, parameter: &Parameter, before: OperationRef<'c, 'a>) -> Result<Value<'c, 'a>, PassError> {
        let name = denoise::global_name(&self.layer.name, &parameter.name);
        if ir::globals(self.module).contains_key(&name) {
            let location = self.layer.op.operation().location();
            return Err(PassError::new(format!("the symbol @{name} is taken")).at(location));
        }
        let shape = parameter.layout.shape(self.layer.site);
        let values = initial(self.seed, &name, parameter, self.layer.site);
        let weight = Weight::new(shape.clone(), values)
            .ok_or_else(|| PassError::new(format!("{name}: its values do not fit its shape")))?;
        declare_global(self.context, self.module, &name, &shape)?;
        self.cx.denoisers.insert(name.clone(), weight);
        let r#type = ir::f32_tensor(self.context, &shape);
        let load = built("a load", ir::load_global(self.context, &name, r#type))?;
        let block = before.block().ok_or_else(|| PassError::new("an operation is in no block"))?;
        insert_before(block, before, load)
    }
}

/// The initial values of a denoiser weight; random ones depend on the seed and the weight's name.
fn initial(seed: u64, name: &str, parameter: &Parameter, site: Site) -> Vec<f32> {
    let count: usize = parameter.layout.shape(site).iter().product();
    match parameter.initial {
        Initial::Zero => vec![0.0; count],
        Initial::One => vec![1.0; count],
        Initial::Uniform(convolution) => {
            let bound = 1.0 / (convolution.fan_in(site) as f64).sqrt();
            let source = Source::new(seed, name);
            (0..count as u64).map(|index| ((2.0 * source.uniform(index) - 1.0) * bound) as f32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        assert_eq!(parse_budget("4%"), Ok(0.04));
        assert_eq!(parse_budget("0.04"), Ok(0.04));
        for bad in ["", "4", "-1%", "x", "nan%", "inf"] {
            assert!(parse_budget(bad).is_err(), "{bad}");
        }
        assert!(
            parse_budget("4")
                .unwrap_err()
                .0
                .contains("budget=4: `4` is over 1 without a percent sign; did you mean 4%?")
        );
        assert_eq!(allowance(0.04, 2500), 100);
        assert_eq!(allowance(0.07, 100), 7);
        assert_eq!(allowance(0.04, 77_754), 3110);
    }

    #[test]
    fn kinds() {
        let names = |text| Kinds::parse(text).map(|kinds| kinds.0.iter().map(|kind| kind.name).collect::<Vec<_>>());
        assert_eq!(names("mean+affine"), Ok(vec!["mean", "affine"]));
        assert_eq!(names("affine + paper"), Ok(vec!["paper", "affine"]));
        for bad in ["", "paper+mean", "affine+affine", "median"] {
            assert!(names(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn initial_values_are_reproducible_and_bounded() {
        let site = Site { channels: 16, spatial: true };
        let values = |kind: &str, parameter: usize| {
            let parameters = Kind::named(kind).unwrap().expression().parameters();
            initial(7, "denoise.l.reduce.weight", &parameters[parameter], site)
        };
        let reduce = values("paper", 0);
        assert_eq!(reduce, values("paper", 0));
        assert!(reduce.iter().all(|value| value.abs() <= 0.25));
        assert!(reduce.iter().any(|value| *value != reduce[0]));
        assert!(values("paper", 4).iter().all(|value| *value == 0.0));
        assert!(values("affine", 0).iter().all(|value| *value == 1.0));
    }
}
