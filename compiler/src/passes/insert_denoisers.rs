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
//! first misfit. `worth` takes what together takes most of the loss away within the budget, by the attributes that
//! `estimate-worth` leaves (a knapsack with one choice a layer). Every kind starts as the identity.

use crate::{
    pass::{
        LayerPlacement, OptionError, Options, Pass, PassContext, PassError, Placement,
        constants::{backbone_parameters, built, declare_global, insert_before},
        random::Source,
    },
    placement::{self, Kinds, Strategy},
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
use mxc_runtime::{
    knapsack::{self, Choice},
    store::Weight,
};

/// See the module.
pub struct InsertDenoisers {
    budget: f64,
    placement: Strategy,
    kinds: Kinds,
    seed: Option<u64>,
}

impl Pass for InsertDenoisers {
    const NAME: &'static str = "insert-denoisers";
    const DESCRIPTION: &'static str =
        "places denoisers after the highest-ranked analog layers within a parameter budget";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("budget", "parameters allowed, of the backbone's (default 4%)"),
        ("placement", "greedy (default), greedy-fill, worth, first, last, random or at=GLOB,…"),
        ("at", "the same as placement=at=GLOB,…"),
        ("kind", "paper (default), another kind of denoiser, one with +affine, or any (with placement=worth)"),
        ("seed", "the seed of the initial weights"),
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let budget = placement::take_budget(options)?;
        let at = options.take("at");
        let placed = options.take("placement");
        let placement = match (&at, placed.as_deref()) {
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
        let kinds = placement::take_kinds(options, "paper")?;
        if !(kinds.go_together() || matches!(placement, Strategy::Worth)) {
            return Err(OptionError(format!(
                "option kind={}: only placement=worth chooses among them; name kinds, such as {}",
                Kinds::ANY,
                Kinds::IN_ORDER
            )));
        }
        Ok(Self { budget, placement, kinds, seed: options.take_parsed("seed", "a number")? })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = self.ranked(module)?;
        let backbone = backbone_parameters(module);
        let budget = placement::allowance(self.budget, backbone);
        let tracked = ir::main_function(module).is_some_and(|main| main.attribute(origin::ATTRIBUTE).is_ok());
        let seed = self.seed.unwrap_or(cx.seed);
        let plan = self.plan(&layers, budget, tracked, seed);
        let mut report = Placement { backbone_parameters: backbone, budget, ..Placement::default() };
        for (layer, planned) in layers.iter().zip(plan) {
            let mut inserter = Inserter { context, module, layer, seed, cx };
            if !planned.denoisers.is_empty() {
                inserter.insert(&planned, self.kinds.list())?;
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

/// A layer to place denoisers after.
#[derive(Clone)]
struct Ranked<'c, 'a> {
    op: AnalogOp<'c, 'a>,
    name: String,
    site: Site,
    /// Its place in the order of execution.
    place: usize,
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
        for (place, op) in AnalogOp::all(module).into_iter().enumerate() {
            let name = op.layer();
            let channels = op.channels().ok_or_else(|| {
                PassError::new(format!("layer \"{name}\" has no static channels")).at(op.operation().location())
            })?;
            layers.push(Ranked { op, name, site: Site { channels, spatial: op.is_spatial() }, place });
        }
        let missing = |lacks: fn(&AnalogOp<'c, 'a>) -> bool, what: &str, pass: &str| match layers
            .iter()
            .find(|layer| lacks(&layer.op))
        {
            None => Ok(()),
            Some(layer) => Err(PassError::new(format!("layer \"{}\" has no {what}", layer.name))
                .at(layer.op.operation().location())
                .hint(format!("run {pass} before insert-denoisers, or name layers: at=GLOB,…"))),
        };
        match &self.placement {
            Strategy::Greedy | Strategy::Fill => missing(|op| op.rank().is_none(), "rank", "rank-sensitivity")?,
            Strategy::Worth => missing(|op| !op.is_estimated(), "worth", "estimate-worth")?,
            // Layers in an order of their own, or named by the user, need no ranking.
            Strategy::First | Strategy::Last | Strategy::Random | Strategy::At(_) => {}
        }
        if layers.iter().all(|layer| layer.op.rank().is_some()) {
            layers.sort_by_key(|layer| layer.op.rank());
        }
        Ok(layers)
    }

    /// In which order layers get what the budget allows.
    fn order(&self, layers: &[Ranked<'_, '_>], seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..layers.len()).collect();
        match &self.placement {
            // Layers are in the order of their ranks.
            Strategy::Greedy | Strategy::Fill | Strategy::Worth | Strategy::At(_) => {}
            Strategy::First => order.sort_by_key(|&at| layers[at].place),
            Strategy::Last => order.sort_by_key(|&at| std::cmp::Reverse(layers[at].place)),
            Strategy::Random => order.sort_by_key(|&at| Source::new(seed, &layers[at].name).bits(0)),
        }
        order
    }

    /// Which layers get what. Of a `tracked` source a layer whose output is no value of it gets nothing: the denoiser could not
    /// be exported.
    fn plan(&self, layers: &[Ranked<'_, '_>], budget: u64, tracked: bool, seed: u64) -> Vec<LayerPlacement> {
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
                reason: self.hindrance(layer, tracked).to_owned(),
                ..LayerPlacement::default()
            })
            .collect();
        // A reason so far is one against it.
        let mut order = self.order(layers, seed);
        order.retain(|&at| plan[at].reason.is_empty());
        match self.placement {
            Strategy::Worth => self.by_worth(layers, &order, budget, &mut plan),
            _ => self.in_order(layers, &order, budget, &mut plan),
        }
        plan
    }

    /// Why a layer gets no denoiser, whatever it costs.
    fn hindrance(&self, layer: &Ranked<'_, '_>, tracked: bool) -> &'static str {
        if let Strategy::At(globs) = &self.placement
            && !globs.iter().any(|glob| glob.is_match(&layer.name))
        {
            "not among the layers named by at="
        } else if tracked && origin::of(&layer.op.operation()).is_empty() {
            "no value of the ONNX model is its output, so that export could not express it"
        } else {
            ""
        }
    }

    /// One layer after the other.
    fn in_order(&self, layers: &[Ranked<'_, '_>], order: &[usize], budget: u64, plan: &mut [LayerPlacement]) {
        let mut left = budget;
        // Affines first, whose stage is the last.
        for kind in self.kinds.list().iter().rev() {
            let name = kind.name;
            let mut stopped = false;
            for &at in order {
                let (layer, placed) = (&layers[at], &mut plan[at]);
                let cost = kind.expression().parameter_count(layer.site);
                let outcome = if stopped {
                    format!("{name}: after the first layer that did not fit")
                } else if cost > left {
                    stopped = matches!(self.placement, Strategy::Greedy | Strategy::At(_));
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
    }

    /// The choices for all layers that together take most of the loss away.
    fn by_worth(&self, layers: &[Ranked<'_, '_>], order: &[usize], budget: u64, plan: &mut [LayerPlacement]) {
        let choices = self.kinds.choices();
        let cost = |kinds: &[&Kind], site: Site| -> u64 {
            kinds.iter().map(|kind| kind.expression().parameter_count(site)).sum()
        };
        // By layer, what is worth anything: first nothing.
        let options: Vec<Vec<(&[&'static Kind], f64)>> = order
            .iter()
            .map(|&at| {
                let worth = |kinds| layers[at].op.worth(&placement::join(kinds)).filter(|&worth| worth > 0.0);
                let worthy = choices.iter().filter_map(|kinds| Some((kinds.as_slice(), worth(kinds)?)));
                std::iter::once((&[][..], 0.0)).chain(worthy).collect()
            })
            .collect();
        let items: Vec<Vec<Choice>> = order
            .iter()
            .zip(&options)
            .map(|(&at, options)| {
                let choice = |&(kinds, worth): &(&[&'static Kind], f64)| Choice {
                    cost: cost(kinds, layers[at].site) as f64,
                    loss: -worth,
                };
                options.iter().map(choice).collect()
            })
            .collect();
        let chosen = knapsack::least(&items, budget as f64);
        for ((&at, options), chosen) in order.iter().zip(&options).zip(chosen) {
            let (kinds, worth) = options[chosen];
            let placed = &mut plan[at];
            placed.denoisers = kinds.iter().map(|kind| kind.name.to_owned()).collect();
            placed.parameters = cost(kinds, layers[at].site);
            placed.chosen = !kinds.is_empty();
            placed.reason = match kinds {
                [] if options.len() == 1 => "nothing that was measured takes away of its loss".to_owned(),
                [] => "its parameters are worth more elsewhere".to_owned(),
                kinds => format!("{}: takes {worth:.2e} off the loss", placement::join(kinds)),
            };
        }
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
    fn insert(&mut self, planned: &LayerPlacement, kinds: &[&'static Kind]) -> Result<(), PassError> {
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
        for kind in kinds.iter().filter(|kind| planned.denoisers.iter().any(|name| name == kind.name)) {
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
