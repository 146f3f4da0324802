//! The choice of a denoiser's mapping to the digital tile, by egg.
//!
//! A layer's denoisers are a term over the strips of rows they are processed in, stages by their numbers; the paper's block:
//!
//! ```text
//! (store 8 (cancel 7 (load 28) (conv 5 G) (conv 6 G)))   with G = (relu 4 (conv 3 (relu 2 (conv 1 (load 28)))))
//! ```
//!
//! The rules add what the tile can do instead: every mapping of a convolution to the cores (`map-*`), both heads on one load
//! of G (`share-*`), and heads computed for some channels at a time, each followed by its cancellation (`fuse-*`); the
//! alternatives with other strip heights are joined in the root class. The choices interact: fusing costs phases and further
//! loads of G but needs small head buffers, which allows taller strips, which recompute fewer rows of a depthwise convolution's
//! halo, if all that fits the activation memory.
//!
//! egg's own extractor adds up a term as a tree: what two ops share (the strip, G) would count twice, and it knows no
//! memory. [`choose`] extracts exactly: it enumerates the e-nodes of the classes reached, each class counted once, with branch
//! and bound; an e-node is left out only when another of its class with the same operands is at least as good in
//! cycles and every buffer.

use super::{
    plan::{Mapping, Round, Step, Strip, Task, parts},
    stages::{Stage, StageId, Unit},
};
use egg::{
    Analysis, Applier, DidMerge, EGraph, Id, Language, Pattern, PatternAst, Rewrite, Runner, StopReason, Subst, Symbol,
    Var, define_language,
};
use mxc_runtime::{
    digital::cycles::{self, ConvMapping, Order},
    hardware::Hardware,
};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A convolution mapping as a term's leaf, written `order:PIXELxFILTER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnCores(ConvMapping);

impl fmt::Display for OnCores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConvMapping { pixel_groups, filter_groups, order } = self.0;
        write!(formatter, "{}:{pixel_groups}x{filter_groups}", order.name())
    }
}

impl FromStr for OnCores {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (order, cores) = text.split_once(':').ok_or(())?;
        let (pixel, filter) = cores.split_once('x').ok_or(())?;
        Ok(Self(ConvMapping {
            pixel_groups: pixel.parse().map_err(|_| ())?,
            filter_groups: filter.parse().map_err(|_| ())?,
            order: Order::from_name(order).ok_or(())?,
        }))
    }
}

define_language! {
    /// Denoisers on the tile. Stages are numbers.
    enum Tile {
        Number(usize),
        OnCores(OnCores),
        // The strip height.
        "load" = Load([Id; 1]),
        // A stage and its operands: the convolutions of a pair have one.
        "conv" = Conv([Id; 2]),
        "pair" = Pair([Id; 3]),
        "relu" = Relu([Id; 2]),
        "affine" = Affine([Id; 2]),
        "cancel" = Cancel(Box<[Id]>),
        "cancel-pair" = CancelPair([Id; 3]),
        "store" = Store([Id; 2]),
        // The same with a mapping before the operand.
        "conv-on" = ConvOn([Id; 3]),
        "pair-on" = PairOn([Id; 4]),
        // A cancellation, the channels of a tile, a mapping for the pair or for each head, what is cancelled, what the heads read.
        "expand-pair" = ExpandPair([Id; 5]),
        "expand" = Expand(Box<[Id]>),
    }
}

/// The strip height a term is for, and the value of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Context {
    strip_rows: Option<usize>,
    leaf: Option<Leaf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Number(usize),
    OnCores(ConvMapping),
}

#[derive(Clone, Copy, Debug, Default)]
struct StripHeight;

impl Analysis<Tile> for StripHeight {
    type Data = Context;

    fn make(egraph: &mut EGraph<Tile, Self>, node: &Tile, _id: Id) -> Context {
        let leaf = match node {
            Tile::Number(number) => Some(Leaf::Number(*number)),
            Tile::OnCores(mapping) => Some(Leaf::OnCores(mapping.0)),
            _ => None,
        };
        let strip_rows = match node {
            Tile::Load([rows]) => match egraph[*rows].data.leaf {
                Some(Leaf::Number(rows)) => Some(rows),
                _ => None,
            },
            _ => node.children().iter().find_map(|child| egraph[*child].data.strip_rows),
        };
        Context { strip_rows, leaf }
    }

    fn merge(&mut self, to: &mut Context, _from: Context) -> DidMerge {
        // Only the root class joins terms of different strip heights, and nothing asks for its data.
        let _ = to;
        DidMerge(false, false)
    }
}

/// Adds nodes that a closure makes of a match to the matched class.
struct Variants<F>(F);

impl<F> Applier<Tile, StripHeight> for Variants<F>
where
    F: Fn(&mut EGraph<Tile, StripHeight>, &Subst) -> Vec<Tile> + Send + Sync,
{
    fn apply_one(
        &self,
        egraph: &mut EGraph<Tile, StripHeight>,
        class: Id,
        subst: &Subst,
        _searcher_ast: Option<&PatternAst<Tile>>,
        _rule_name: Symbol,
    ) -> Vec<Id> {
        let mut changed = Vec::new();
        for node in (self.0)(egraph, subst) {
            let id = egraph.add(node);
            if egraph.union(class, id) {
                changed.push(id);
            }
        }
        changed
    }
}

/// Why no mapping was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Even the smallest strips and channel tiles need more activation memory than there is.
    #[error("needs at least {needed} bytes of activation memory, the tile has {available}")]
    Memory {
        /// The least that any mapping needs.
        needed: usize,
        /// The profile's size.
        available: usize,
    },
    /// egg stopped before it had applied every rule everywhere.
    #[error("the search for a mapping hit egg's limit: {0}")]
    Limit(String),
}

/// A mapping and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The mapping.
    pub mapping: Mapping,
    /// Cycles per sample.
    pub cycles: u64,
    /// The activation memory it needs.
    pub activation_bytes: usize,
}

/// The cheapest mapping that fits the activation memory.
pub fn choose(hardware: &Hardware, task: &Task) -> Result<Chosen, MappingError> {
    let (egraph, root) = saturate(hardware, task)?;
    let mut search =
        Search { hardware, task, egraph: &egraph, options: BTreeMap::new(), best: None, least_bytes: usize::MAX };
    search.run(root);
    search.best.ok_or(MappingError::Memory { needed: search.least_bytes, available: hardware.memory.activation_bytes })
}

/// The e-graph of everything the tile can do, and its root class.
fn saturate(hardware: &Hardware, task: &Task) -> Result<(EGraph<Tile, StripHeight>, Id), MappingError> {
    let mut egraph = EGraph::<Tile, StripHeight>::default();
    let mut root = None;
    for rows in parts(task.rows) {
        let mut classes: Vec<Id> = Vec::new();
        for (id, stage) in task.stages.all().iter().enumerate() {
            let number = egraph.add(Tile::Number(id));
            let node = match stage.unit {
                Unit::Load => Tile::Load([egraph.add(Tile::Number(rows))]),
                Unit::Conv { x, .. } => Tile::Conv([number, classes[x]]),
                Unit::Relu { x } => Tile::Relu([number, classes[x]]),
                Unit::Affine { x, .. } => Tile::Affine([number, classes[x]]),
                Unit::Cancel { .. } => {
                    let operands = stage.unit.operands().into_iter().map(|operand| classes[operand]);
                    Tile::Cancel([number].into_iter().chain(operands).collect())
                }
                Unit::Store { x } => Tile::Store([number, classes[x]]),
            };
            classes.push(egraph.add(node));
        }
        root = match (root, classes.last()) {
            (None, last) => last.copied(),
            (Some(root), last) => {
                last.map(|last| egraph.union(root, *last));
                Some(root)
            }
        };
    }
    egraph.rebuild();
    let root = root.unwrap_or_else(|| egraph.add(Tile::Number(0)));
    let runner = Runner::<Tile, StripHeight>::default()
        .with_egraph(egraph)
        .with_iter_limit(8)
        .with_node_limit(4_000_000)
        .with_time_limit(std::time::Duration::from_secs(3600 * 24 * 365))
        .run(&rules(hardware, task));
    match runner.stop_reason {
        Some(StopReason::Saturated) => {}
        other => return Err(MappingError::Limit(format!("{other:?}"))),
    }
    let root = runner.egraph.find(root);
    Ok((runner.egraph, root))
}

fn rules(hardware: &Hardware, task: &Task) -> Vec<Rewrite<Tile, StripHeight>> {
    // The mappings of a convolution do not depend on its pixels.
    let strip = Strip { first: 0, rows: 1 };
    let mappings = |stages: &[StageId], channels: usize| {
        cycles::conv_mappings(hardware, &task.conv_shape(&strip, stages, channels)).into_iter().map(OnCores)
    };
    let all = task.stages.all();
    let mut rules = Vec::new();
    for (stage, Stage { unit, channels, .. }) in all.iter().enumerate() {
        if let Unit::Conv { .. } = unit {
            let mappings: Vec<OnCores> = mappings(&[stage], *channels).collect();
            rules.push(rule(&format!("map-{stage}"), &format!("(conv {stage} ?x)"), move |egraph, subst| {
                let stage = egraph.add(Tile::Number(stage));
                let mapped = mappings.iter().map(|mapping| egraph.add(Tile::OnCores(*mapping)));
                mapped.map(|mapping| Tile::ConvOn([stage, mapping, subst[var("?x")]])).collect()
            }));
        }
    }
    for (cancel, Stage { channels, .. }) in all.iter().enumerate() {
        let heads = task.stages.heads(cancel);
        if heads.is_empty() {
            continue;
        }
        // Each with its mappings.
        let tiles = |heads: &[StageId]| -> Vec<(usize, Vec<OnCores>)> {
            let fused = parts(*channels).into_iter().filter(|tile| tile < channels && task.stages.fuses(cancel));
            fused.map(|tile| (tile, mappings(heads, tile).collect())).collect()
        };
        let whole = {
            let heads: String = heads.iter().map(|head| format!(" (conv {head} ?x)")).collect();
            format!("(cancel {cancel} ?s{heads})")
        };
        if let [first, second] = heads[..] {
            let pair = format!("(pair {first} {second} ?x)");
            let mappings: Vec<OnCores> = mappings(&heads, *channels).collect();
            rules.push(rule(&format!("map-pair-{cancel}"), &pair, move |egraph, subst| {
                let [first, second] = [first, second].map(|head| egraph.add(Tile::Number(head)));
                let mapped = mappings.iter().map(|mapping| egraph.add(Tile::OnCores(*mapping)));
                mapped.map(|mapping| Tile::PairOn([first, second, mapping, subst[var("?x")]])).collect()
            }));
            rules.push(rule(&format!("share-{cancel}"), &whole, move |egraph, subst| {
                let [first, second, cancel] = [first, second, cancel].map(|stage| egraph.add(Tile::Number(stage)));
                let heads = egraph.add(Tile::Pair([first, second, subst[var("?x")]]));
                vec![Tile::CancelPair([cancel, subst[var("?s")], heads])]
            }));
            let tiles = tiles(&heads);
            let pattern = format!("(cancel-pair {cancel} ?s {pair})");
            rules.push(rule(&format!("fuse-pair-{cancel}"), &pattern, move |egraph, subst| {
                expansions(egraph, cancel, &tiles, |number, tile, mapping| {
                    Tile::ExpandPair([number, tile, mapping, subst[var("?s")], subst[var("?x")]])
                })
            }));
        }
        let (tiles, count) = (tiles(&heads[..1]), heads.len());
        rules.push(rule(&format!("fuse-{cancel}"), &whole, move |egraph, subst| {
            expansions(egraph, cancel, &tiles, |number, tile, mapping| {
                // The heads have the same shape: what is best for one is for the other.
                let mappings = std::iter::repeat_n(mapping, count);
                let operands = [subst[var("?s")], subst[var("?x")]];
                Tile::Expand([number, tile].into_iter().chain(mappings).chain(operands).collect())
            })
        }));
    }
    rules
}

/// A node for every tile of channels and every mapping of its heads.
fn expansions(
    egraph: &mut EGraph<Tile, StripHeight>,
    cancel: StageId,
    tiles: &[(usize, Vec<OnCores>)],
    node: impl Fn(Id, Id, Id) -> Tile,
) -> Vec<Tile> {
    let number = egraph.add(Tile::Number(cancel));
    let mut nodes = Vec::new();
    for (tile, mappings) in tiles {
        let tile = egraph.add(Tile::Number(*tile));
        for mapping in mappings {
            nodes.push(node(number, tile, egraph.add(Tile::OnCores(*mapping))));
        }
    }
    nodes
}

fn var(name: &str) -> Var {
    Var::from(Symbol::from(name))
}

fn rule(
    name: &str,
    pattern: &str,
    variants: impl Fn(&mut EGraph<Tile, StripHeight>, &Subst) -> Vec<Tile> + Send + Sync + 'static,
) -> Rewrite<Tile, StripHeight> {
    let searcher: Pattern<Tile> = match pattern.parse() {
        Ok(pattern) => pattern,
        Err(error) => unreachable!("the pattern {pattern} of this file: {error}"),
    };
    match Rewrite::new(name, searcher, Variants(variants)) {
        Ok(rewrite) => rewrite,
        Err(error) => unreachable!("the rule {name} of this file: {error}"),
    }
}

/// An e-node that can be chosen: its cycles, and what it contributes to the mapping.
#[derive(Clone, Debug)]
struct Choice {
    node: Tile,
    cycles: u64,
    operands: Vec<Id>,
    /// Bytes that grow with the choice: spilled sums, head buffers. Only compared.
    memory: [usize; 2],
}

struct Search<'a> {
    hardware: &'a Hardware,
    task: &'a Task,
    egraph: &'a EGraph<Tile, StripHeight>,
    options: BTreeMap<Id, Vec<Choice>>,
    best: Option<Chosen>,
    least_bytes: usize,
}

impl Search<'_> {
    fn run(&mut self, root: Id) {
        // The root class holds one `store` per strip height; each is a search of its own.
        for store in self.egraph[root].nodes.clone() {
            let rows = store.children().iter().find_map(|child| self.egraph[*child].data.strip_rows);
            if let Some(rows) = rows
                && let Some(choice) = self.choice(&store, rows)
            {
                self.options.clear();
                let mut partial = Partial { strip_rows: rows, nodes: Vec::new() };
                self.extend(&mut partial, &mut choice.operands.clone(), &mut Vec::new(), choice.cycles);
            }
        }
    }

    /// Chooses for the next open class; `known` are the classes that have been chosen for.
    fn extend(&mut self, partial: &mut Partial, open: &mut Vec<Id>, known: &mut Vec<Id>, cycles: u64) {
        // What is still open costs at least its cheapest nodes.
        let mut bound = cycles;
        for index in 0..open.len() {
            let class = open[index];
            if !known.contains(&class) && !open[..index].contains(&class) {
                bound += self
                    .options(class, partial.strip_rows)
                    .iter()
                    .map(|choice| choice.cycles)
                    .min()
                    .unwrap_or(u64::MAX / 4);
            }
        }
        if self.best.as_ref().is_some_and(|best| bound >= best.cycles) {
            return;
        }
        let Some(class) = open.pop() else {
            self.finish(partial, cycles);
            return;
        };
        if known.contains(&class) {
            self.extend(partial, open, known, cycles);
            open.push(class);
            return;
        }
        known.push(class);
        for choice in self.options(class, partial.strip_rows).to_vec() {
            partial.nodes.push(choice.node);
            let length = open.len();
            open.extend(&choice.operands);
            self.extend(partial, open, known, cycles + choice.cycles);
            open.truncate(length);
            partial.nodes.pop();
        }
        known.pop();
        open.push(class);
    }

    fn finish(&mut self, partial: &Partial, cycles: u64) {
        let mapping = self.mapping(partial);
        let activation_bytes = self.task.activation_bytes(self.hardware, &mapping);
        self.least_bytes = self.least_bytes.min(activation_bytes);
        if activation_bytes <= self.hardware.memory.activation_bytes
            && self.best.as_ref().is_none_or(|best| cycles < best.cycles)
        {
            self.best = Some(Chosen { mapping, cycles, activation_bytes });
        }
    }

    /// What the chosen nodes say.
    fn mapping(&self, partial: &Partial) -> Mapping {
        let mut mapping = Mapping { strip_rows: partial.strip_rows, ..Mapping::default() };
        for node in &partial.nodes {
            let numbers: Vec<usize> = node.children().iter().filter_map(|child| self.number(*child)).collect();
            let convs = match (node, &numbers[..]) {
                (Tile::ConvOn(_) | Tile::PairOn(_), stages) => stages.to_vec(),
                (Tile::ExpandPair(_) | Tile::Expand(_), &[cancel, tile]) => {
                    mapping.channel_tiles.insert(cancel, tile);
                    self.task.stages.heads(cancel)
                }
                _ => Vec::new(),
            };
            if let (Tile::CancelPair(_) | Tile::ExpandPair(_), Some(cancel)) = (node, numbers.first()) {
                mapping.pairs.insert(*cancel);
            }
            let cores: Vec<ConvMapping> = node.children().iter().filter_map(|child| self.cores(*child)).collect();
            // A pair has one mapping.
            mapping.cores.extend(convs.into_iter().zip(cores.into_iter().cycle()));
        }
        mapping
    }

    /// The nodes of a class that can be chosen, without those that another dominates, cheapest first.
    fn options(&mut self, class: Id, strip_rows: usize) -> &[Choice] {
        if !self.options.contains_key(&class) {
            let mut choices: Vec<Choice> =
                self.egraph[class].nodes.iter().filter_map(|node| self.choice(node, strip_rows)).collect();
            choices.sort_by(|a, b| (a.cycles, a.memory, &a.node).cmp(&(b.cycles, b.memory, &b.node)));
            let mut kept: Vec<Choice> = Vec::new();
            for choice in choices {
                let dominated = kept.iter().any(|other| {
                    other.operands == choice.operands
                        && std::mem::discriminant(&other.node) == std::mem::discriminant(&choice.node)
                        && other.memory[0] <= choice.memory[0]
                        && other.memory[1] <= choice.memory[1]
                });
                if !dominated {
                    kept.push(choice);
                }
            }
            self.options.insert(class, kept);
        }
        &self.options[&class]
    }

    /// What choosing a node costs; `None` for what the tile cannot do by itself.
    fn choice(&self, node: &Tile, strip_rows: usize) -> Option<Choice> {
        let heads = |cancel| self.task.stages.heads(cancel);
        let on = |stages: Vec<StageId>, mapping: Id| Some(Step { stages, cores: Some(self.cores(mapping)?) });
        let fixed = |stage: usize| Step { stages: vec![stage], cores: None };
        let (steps, channel_tile, operands): (Vec<Step>, Option<usize>, &[Id]) = match node {
            Tile::Load(_) => (vec![fixed(0)], None, &[]),
            Tile::Relu([stage, x]) | Tile::Affine([stage, x]) | Tile::Store([stage, x]) => {
                (vec![fixed(self.number(*stage)?)], None, std::slice::from_ref(x))
            }
            Tile::CancelPair([stage, operands @ ..]) => (vec![fixed(self.number(*stage)?)], None, operands),
            Tile::Cancel(children) => (vec![fixed(self.number(*children.first()?)?)], None, &children[1..]),
            Tile::ConvOn([stage, mapping, x]) => {
                (vec![on(vec![self.number(*stage)?], *mapping)?], None, std::slice::from_ref(x))
            }
            Tile::PairOn([first, second, mapping, x]) => {
                let stages = vec![self.number(*first)?, self.number(*second)?];
                (vec![on(stages, *mapping)?], None, std::slice::from_ref(x))
            }
            Tile::ExpandPair([cancel, tile, mapping, operands @ ..]) => {
                let cancel = self.number(*cancel)?;
                (vec![on(heads(cancel), *mapping)?, fixed(cancel)], Some(self.number(*tile)?), operands)
            }
            Tile::Expand(children) => {
                let [cancel, tile, ref rest @ ..] = children[..] else {
                    return None;
                };
                let cancel = self.number(cancel)?;
                let heads = heads(cancel);
                let (mappings, operands) = rest.split_at_checked(heads.len())?;
                let heads = heads.into_iter().zip(mappings).map(|(head, mapping)| on(vec![head], *mapping));
                let steps: Option<Vec<Step>> = heads.chain([Some(fixed(cancel))]).collect();
                (steps?, Some(self.number(tile)?), operands)
            }
            Tile::Number(_) | Tile::OnCores(_) | Tile::Conv(_) | Tile::Pair(_) => return None,
        };
        let round = Round { steps, channel_tile };
        let strips = self.task.strips(strip_rows);
        let spilled = |strip| self.task.round_spilled_words(self.hardware, strip, &round);
        Some(Choice {
            node: node.clone(),
            cycles: strips.iter().map(|strip| self.task.round_cycles(self.hardware, strip, &round)).sum(),
            operands: operands.iter().map(|operand| self.egraph.find(*operand)).collect(),
            memory: [strips.iter().map(spilled).max().unwrap_or(0), channel_tile.unwrap_or(0)],
        })
    }

    fn cores(&self, leaf: Id) -> Option<ConvMapping> {
        match self.egraph[leaf].data.leaf {
            Some(Leaf::OnCores(mapping)) => Some(mapping),
            _ => None,
        }
    }

    fn number(&self, leaf: Id) -> Option<usize> {
        match self.egraph[leaf].data.leaf {
            Some(Leaf::Number(number)) => Some(number),
            _ => None,
        }
    }
}

/// The choices made so far.
struct Partial {
    strip_rows: usize,
    nodes: Vec<Tile>,
}

#[cfg(test)]
mod tests {
    use super::super::testing::{depthwise, kinds, low_rank, mixed, random, task};
    use super::*;

    fn hardware(cores: usize, accumulators: usize, activation_bytes: usize) -> Hardware {
        let mut hardware = Hardware::paper();
        hardware.conv.cores = cores;
        hardware.conv.accumulators_per_column = accumulators;
        hardware.memory.activation_bytes = activation_bytes;
        hardware
    }

    /// The mappings of convolutions that run as one.
    fn mappings(hardware: &Hardware, task: &Task, stages: &[StageId], channels: usize) -> Vec<ConvMapping> {
        cycles::conv_mappings(hardware, &task.conv_shape(&Strip { first: 0, rows: 1 }, stages, channels))
    }

    /// The cheapest of all mappings with strips and tiles of these sizes, by trying every one.
    fn exhaustive(hardware: &Hardware, task: &Task, sizes: fn(usize) -> Vec<usize>) -> Option<(u64, Mapping)> {
        let all = task.stages.all();
        let on = |stage: StageId, cores: ConvMapping| Mapping { cores: [(stage, cores)].into(), ..Mapping::default() };
        // The alternatives of each decision; a mapping is one of each.
        let mut decisions: Vec<Vec<Mapping>> =
            vec![sizes(task.rows).into_iter().map(|strip_rows| Mapping { strip_rows, ..Mapping::default() }).collect()];
        let heads: Vec<StageId> = (0..all.len()).flat_map(|stage| task.stages.heads(stage)).collect();
        for (id, stage) in all.iter().enumerate() {
            if matches!(stage.unit, Unit::Conv { .. }) && !heads.contains(&id) {
                decisions
                    .push(mappings(hardware, task, &[id], stage.channels).into_iter().map(|m| on(id, m)).collect());
            }
            let heads = task.stages.heads(id);
            let (mut alternatives, c) = (Vec::new(), stage.channels);
            for tile in sizes(c).into_iter().filter(|tile| !heads.is_empty() && (*tile == c || task.stages.fuses(id))) {
                let channel_tiles = || (tile < c).then_some((id, tile)).into_iter().collect();
                for first in mappings(hardware, task, &heads[..1], tile) {
                    let mapping = Mapping { channel_tiles: channel_tiles(), ..on(heads[0], first) };
                    let Some(&second) = heads.get(1) else {
                        alternatives.push(mapping);
                        continue;
                    };
                    alternatives.extend(mappings(hardware, task, &[second], tile).into_iter().map(|cores| {
                        let mut mapping = mapping.clone();
                        mapping.cores.insert(second, cores);
                        mapping
                    }));
                }
                if heads.len() == 2 {
                    alternatives.extend(mappings(hardware, task, &heads, tile).into_iter().map(|cores| Mapping {
                        cores: heads.iter().map(|head| (*head, cores)).collect(),
                        pairs: [id].into(),
                        channel_tiles: channel_tiles(),
                        ..Mapping::default()
                    }));
                }
            }
            if !alternatives.is_empty() {
                decisions.push(alternatives);
            }
        }
        let mut best = None;
        try_all(hardware, task, &decisions, Mapping::default(), &mut best);
        best
    }

    fn try_all(
        hardware: &Hardware,
        task: &Task,
        decisions: &[Vec<Mapping>],
        made: Mapping,
        best: &mut Option<(u64, Mapping)>,
    ) {
        let Some((next, rest)) = decisions.split_first() else {
            let cost = task.schedule(hardware, &made).cycles();
            if best.as_ref().is_none_or(|(least, _)| cost < *least)
                && task.activation_bytes(hardware, &made) <= hardware.memory.activation_bytes
            {
                *best = Some((cost, made));
            }
            return;
        };
        for alternative in next {
            let mut made = made.clone();
            made.strip_rows = made.strip_rows.max(alternative.strip_rows);
            made.cores.extend(alternative.cores.clone());
            made.pairs.extend(alternative.pairs.clone());
            made.channel_tiles.extend(alternative.channel_tiles.clone());
            try_all(hardware, task, rest, made, best);
        }
    }

    /// One decision after the other: the strip height with whole heads, then sharing, then fusing.
    fn greedy(hardware: &Hardware, task: &Task) -> Option<u64> {
        let all = task.stages.all();
        let strip = Strip { first: 0, rows: 1 };
        let best_of = |stages: &[StageId], channels: usize| {
            let conv = task.conv_shape(&strip, stages, channels);
            let mappings = cycles::conv_mappings(hardware, &conv).into_iter();
            mappings
                .filter(|mapping| mapping.order == Order::Accumulate)
                .min_by_key(|mapping| cycles::conv_cycles(hardware, &conv, mapping))
                .unwrap()
        };
        let cancel = (0..all.len()).find(|stage| task.stages.heads(*stage).len() == 2)?;
        let (heads, c) = (task.stages.heads(cancel), all[cancel].channels);
        let with = |strip_rows, tile: usize| {
            let convs = (0..all.len()).filter(|stage| matches!(all[*stage].unit, Unit::Conv { .. }));
            let mut cores: BTreeMap<_, _> =
                convs.map(|stage| (stage, best_of(&[stage], all[stage].channels))).collect();
            cores.extend(heads.iter().map(|head| (*head, best_of(&heads, tile))));
            let channel_tiles = (tile < c).then_some((cancel, tile)).into_iter().collect();
            Mapping { strip_rows, cores, pairs: [cancel].into(), channel_tiles }
        };
        let fits = |mapping: &Mapping| task.activation_bytes(hardware, mapping) <= hardware.memory.activation_bytes;
        let rows = parts(task.rows).into_iter().find(|rows| fits(&with(*rows, c)))?;
        let tiles = parts(c).into_iter().map(|tile| with(rows, tile)).filter(fits);
        tiles.map(|mapping| task.schedule(hardware, &mapping).cycles()).min()
    }

    fn assert_best(hardware: &Hardware, task: &Task, sizes: fn(usize) -> Vec<usize>) {
        let best = exhaustive(hardware, task, sizes);
        match choose(hardware, task) {
            Ok(chosen) => {
                assert_eq!(Some(chosen.cycles), best.map(|(cycles, _)| cycles));
                assert_eq!(task.schedule(hardware, &chosen.mapping).cycles(), chosen.cycles);
                assert!(chosen.activation_bytes <= hardware.memory.activation_bytes);
            }
            Err(MappingError::Memory { .. }) => assert!(best.is_none()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn equals_exhaustive_enumeration() {
        for (kind, cores, accumulators, bytes) in [
            ("paper", 3, 64, 1 << 20),
            ("paper", 3, 64, 900),
            ("paper", 2, 2, 1500),
            ("paper", 2, 2, 700),
            ("mean", 3, 64, 700),
            ("mean", 2, 3, 1200),
        ] {
            for sample in [[6, 5, 6], [7, 3, 4], [4, 4, 8]] {
                assert_best(&hardware(cores, accumulators, bytes), &kinds(&[kind], sample), |whole| {
                    (1..=whole).collect()
                });
            }
        }
    }

    /// Among the sizes that are considered: with very few accumulators, uneven parts can save a pass.
    #[test]
    fn equals_exhaustive_enumeration_for_any_expression() {
        for (cores, accumulators, bytes) in [(3, 64, 1 << 20), (2, 2, 700), (2, 3, 400)] {
            let hardware = hardware(cores, accumulators, bytes);
            for sample in [[6, 5, 6], [4, 4, 8]] {
                for expression in [depthwise(), low_rank(), random()] {
                    assert_best(&hardware, &task(&[&expression], sample), parts);
                }
                assert_best(&hardware, &kinds(&["mean", "affine"], sample), parts);
            }
            assert_best(&hardware, &task(&[&mixed()], [4, 3, 4]), parts);
        }
    }

    #[test]
    fn heads_on_what_is_cancelled_do_not_take_turns_with_it() {
        // A second tile of channels would read X with the first one's noise cancelled.
        let task = task(&[&random()], [8, 8, 16]);
        let chosen = choose(&hardware(10, 64, 1200), &task).unwrap();
        assert!(chosen.mapping.channel_tiles.is_empty(), "{chosen:?}");
    }

    #[test]
    fn finds_what_a_fixed_order_misses() {
        // Whole heads force strips of few rows; heads of some channels at a time allow taller ones. Alone, neither step pays.
        let hardware = hardware(10, 64, 40_000);
        let task = kinds(&["paper"], [16, 16, 64]);
        let greedy = greedy(&hardware, &task).unwrap();
        let chosen = choose(&hardware, &task).unwrap();
        assert!(!chosen.mapping.channel_tiles.is_empty(), "{chosen:?}");
        assert!(chosen.cycles < greedy, "{} vs {greedy}", chosen.cycles);
    }

    #[test]
    fn spills_where_accumulators_are_few_and_the_port_is_wide() {
        let mut hardware = hardware(1, 4, 1 << 20);
        hardware.memory.port_words = 64;
        let Mapping { pairs, cores, .. } = choose(&hardware, &kinds(&["paper"], [8, 8, 64])).unwrap().mapping;
        let task = kinds(&["paper"], [8, 8, 64]);
        let heads: Vec<_> = pairs.iter().flat_map(|cancel| task.stages.heads(*cancel)).collect();
        assert_eq!(heads.len(), 2);
        assert!(heads.iter().all(|head| cores[head].order == Order::Spill));
    }

    #[test]
    fn too_little_memory_is_said() {
        let error = choose(&hardware(10, 64, 64), &kinds(&["paper"], [8, 8, 16])).unwrap_err();
        assert!(matches!(error, MappingError::Memory { available: 64, .. }), "{error}");
    }

    #[test]
    fn an_affine_alone_is_one_strip_where_it_fits() {
        let chosen = choose(&Hardware::paper(), &kinds(&["affine"], [8, 8, 16])).unwrap();
        assert_eq!(chosen.mapping.strip_rows, 8);
        assert_eq!(chosen.activation_bytes, 2 * 8 * 8 * 16);
    }
}
