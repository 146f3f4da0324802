//! The choice of a denoiser's mapping to the digital tile, by egg.
//!
//! A denoiser is a term over the strips of rows it is processed in:
//!
//! ```text
//! (store (cancel (load 8) (mean G) (sigma G)))   with G = (relu-depthwise (depthwise (relu-hidden (reduce (load 8)))))
//! ```
//!
//! The rules add what the tile can do instead: every mapping of a convolution to the cores (`map-*`), both heads on one load
//! of G (`share-heads`), and heads computed for some channels at a time, each followed by its cancellation
//! (`fuse-expand`); the alternatives with other strip heights are joined in the root class. The choices interact: fusing costs
//! phases and further loads of G but needs small head buffers, which allows taller strips, which recompute fewer rows of the
//! depthwise convolution's halo, if all that fits the activation memory.
//!
//! egg's own extractor adds up a term as a tree: what two ops share (the strip, G) would count twice, and it knows no
//! memory. [`choose`] extracts exactly: it enumerates the e-nodes of the classes reached, each class counted once, with branch
//! and bound; an e-node is left out only when another of its class with the same operands is at least as good in
//! cycles and every buffer.

use egg::{
    Analysis, Applier, DidMerge, EGraph, Id, Language, Pattern, PatternAst, Rewrite, Runner, StopReason, Subst, Symbol,
    Var, define_language,
};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, ConvShape, Order},
        memory::{self, Lifetime},
    },
    hardware::Hardware,
};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserShape {
    /// Rows of the layer's output.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Channels C.
    pub channels: usize,
    /// The denoising block, if there is one.
    pub block: Option<BlockShape>,
    /// Whether an affine follows.
    pub affine: bool,
}

/// A denoising block's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// The bottleneck B.
    pub bottleneck: usize,
    /// Rows and columns of the depthwise kernel: 3, or 1 after a fully connected layer.
    pub kernel: usize,
    /// Whether it has a σ̂ head.
    pub sigma: bool,
}

/// How the heads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// One convolution for both, G loaded once.
    Shared(ConvMapping),
    /// One after the other.
    Separate {
        /// μ̂.
        mean: ConvMapping,
        /// σ̂.
        sigma: ConvMapping,
    },
    /// There is only μ̂.
    MeanOnly(ConvMapping),
}

/// A block's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMapping {
    /// The reducing convolution.
    pub reduce: ConvMapping,
    /// The depthwise convolution.
    pub depthwise: ConvMapping,
    /// The heads.
    pub heads: Heads,
    /// The channels that the heads compute before their cancellation; C when the expansion is not fused.
    pub channel_tile: usize,
}

/// A denoiser's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The rows of the output per strip (the last may have fewer).
    pub strip_rows: usize,
    /// The block's part.
    pub block: Option<BlockMapping>,
}

/// A strip of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strip {
    /// The first row of the output.
    pub first: usize,
    /// Rows of the output.
    pub rows: usize,
    /// Rows of the halo above and below that are loaded as well.
    pub halo: [usize; 2],
    /// Rows of zero padding above and below: the image's edges.
    pub pad: [usize; 2],
}

impl Strip {
    /// The first row that is loaded.
    pub fn first_loaded(&self) -> usize {
        self.first - self.halo[0]
    }

    /// The rows that are loaded.
    pub fn loaded(&self) -> usize {
        self.rows + self.halo[0] + self.halo[1]
    }
}

/// The strips of a shape, `strip_rows` rows each.
pub fn strips(shape: &DenoiserShape, strip_rows: usize) -> Vec<Strip> {
    let reach = shape.block.map_or(0, |block| block.kernel / 2);
    (0..shape.rows)
        .step_by(strip_rows.max(1))
        .map(|first| {
            let rows = strip_rows.min(shape.rows - first);
            let above = reach.min(first);
            let below = reach.min(shape.rows - first - rows);
            Strip { first, rows, halo: [above, below], pad: [reach - above, reach - below] }
        })
        .collect()
}

/// The strip heights worth considering: the smallest of each number of strips, tallest first.
pub fn strip_heights(shape: &DenoiserShape) -> Vec<usize> {
    parts(shape.rows)
}

/// The channel tiles worth considering, C first.
pub fn channel_tiles(shape: &DenoiserShape) -> Vec<usize> {
    parts(shape.channels)
}

fn parts(whole: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=whole).map(|count| whole.div_ceil(count)).collect();
    sizes.dedup();
    sizes
}

/// The channel tiles of a mapping: first channel and number of channels.
pub fn tiles(channels: usize, tile: usize) -> Vec<(usize, usize)> {
    (0..channels).step_by(tile.max(1)).map(|first| (first, tile.min(channels - first))).collect()
}

impl DenoiserShape {
    fn conv(&self, rows: usize, reduction: usize, filters: usize, groups: usize) -> ConvShape {
        ConvShape { pixels: rows * self.columns, reduction, filters, groups }
    }

    /// The reducing convolution on a strip.
    pub fn reduce(&self, block: &BlockShape, strip: &Strip) -> ConvShape {
        self.conv(strip.loaded(), self.channels, block.bottleneck, 1)
    }

    /// The depthwise convolution on a strip.
    pub fn depthwise(&self, block: &BlockShape, strip: &Strip) -> ConvShape {
        self.conv(strip.rows, block.kernel * block.kernel, 1, block.bottleneck)
    }

    /// A head's (or both heads') convolution on a strip, with as many filters.
    pub fn heads(&self, block: &BlockShape, strip: &Strip, filters: usize) -> ConvShape {
        self.conv(strip.rows, block.bottleneck, filters, 1)
    }
}

/// The buffers of a strip with their lifetimes, in the order of the emitted program: x, h, spilled sums of h, g, μ̂, σ̂,
/// spilled sums of the heads.
pub fn buffers(hardware: &Hardware, shape: &DenoiserShape, mapping: &Mapping, strip: &Strip) -> Vec<Lifetime> {
    let words = |rows: usize, channels: usize| 2 * rows * shape.columns * channels;
    let x = words(strip.loaded(), shape.channels);
    let (Some(block), Some(mapped)) = (&shape.block, &mapping.block) else {
        return vec![Lifetime { bytes: x, first: 0, last: 1 }];
    };
    let tile = mapped.channel_tile;
    let spilled = |shape: ConvShape, mapping: &ConvMapping| 2 * cycles::spilled_words(hardware, &shape, mapping);
    let lifetime = |bytes, first, last| Lifetime { bytes, first, last };
    // Steps: 0 load, 1 reduce, 2 depthwise, 3 μ̂ or both heads, 4 σ̂, 5 cancel; the tiles repeat 3 to 5.
    let fused = tile < shape.channels;
    let g_last = if fused { 5 } else { 4 };
    let mut all = vec![
        lifetime(x, 0, 6),
        lifetime(words(strip.loaded(), block.bottleneck), 1, 2),
        lifetime(spilled(shape.reduce(block, strip), &mapped.reduce), 1, 1),
    ];
    let g = words(strip.rows, block.bottleneck);
    let head = words(strip.rows, tile);
    let one = shape.heads(block, strip, tile);
    let head_lifetime = |first| if fused { (3, 5) } else { (first, 5) };
    match &mapped.heads {
        Heads::Shared(heads) => {
            let both = shape.heads(block, strip, 2 * tile);
            all.extend([
                lifetime(g, 2, if fused { 5 } else { 3 }),
                lifetime(head, 3, 5),
                lifetime(head, 3, 5),
                lifetime(spilled(both, heads), 3, if fused { 5 } else { 3 }),
            ]);
        }
        Heads::Separate { mean, sigma } => {
            let (first, last) = head_lifetime(4);
            all.extend([
                lifetime(g, 2, g_last),
                lifetime(head, 3, 5),
                lifetime(head, first, last),
                lifetime(spilled(one, mean), 3, if fused { 5 } else { 3 }),
                lifetime(spilled(one, sigma), if fused { 3 } else { 4 }, if fused { 5 } else { 4 }),
            ]);
        }
        Heads::MeanOnly(mean) => all.extend([
            lifetime(g, 2, if fused { 5 } else { 3 }),
            lifetime(head, 3, 5),
            lifetime(spilled(one, mean), 3, if fused { 5 } else { 3 }),
        ]),
    }
    all.retain(|buffer| buffer.bytes > 0);
    all
}

/// The activation memory that a mapping needs.
pub fn activation_bytes(hardware: &Hardware, shape: &DenoiserShape, mapping: &Mapping) -> usize {
    let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    strips(shape, mapping.strip_rows)
        .iter()
        .map(|strip| {
            *known
                .entry((strip.rows, strip.loaded()))
                .or_insert_with(|| memory::allocate(&buffers(hardware, shape, mapping, strip)).1)
        })
        .max()
        .unwrap_or_default()
}

/// The cycles of a mapping, phase by phase.
pub fn total_cycles(hardware: &Hardware, shape: &DenoiserShape, mapping: &Mapping) -> u64 {
    let start = hardware.control.phase_cycles;
    strips(shape, mapping.strip_rows)
        .iter()
        .map(|strip| {
            let mut total = load_cycles(hardware, shape, strip) + store_cycles(hardware, shape, strip);
            if let (Some(block), Some(mapped)) = (&shape.block, &mapping.block) {
                total += start
                    + cycles::conv_cycles(hardware, &shape.reduce(block, strip), &mapped.reduce)
                    + relu_cycles(hardware, shape, block, strip.loaded())
                    + start
                    + cycles::conv_cycles(hardware, &shape.depthwise(block, strip), &mapped.depthwise)
                    + relu_cycles(hardware, shape, block, strip.rows)
                    + expand_cycles(hardware, shape, block, strip, &mapped.heads, mapped.channel_tile);
            }
            if shape.affine {
                total += affine_cycles(hardware, shape, strip);
            }
            total
        })
        .sum()
}

fn load_cycles(hardware: &Hardware, shape: &DenoiserShape, strip: &Strip) -> u64 {
    let words = strip.loaded() * shape.columns * shape.channels;
    hardware.control.phase_cycles + cycles::lane_cycles(words, hardware.memory.interface_words)
}

fn store_cycles(hardware: &Hardware, shape: &DenoiserShape, strip: &Strip) -> u64 {
    let words = strip.rows * shape.columns * shape.channels;
    hardware.control.phase_cycles + cycles::lane_cycles(words, hardware.memory.interface_words)
}

fn affine_cycles(hardware: &Hardware, shape: &DenoiserShape, strip: &Strip) -> u64 {
    let elements = strip.rows * shape.columns * shape.channels;
    hardware.control.phase_cycles + cycles::lane_cycles(elements, hardware.affine.lanes)
}

fn relu_cycles(hardware: &Hardware, shape: &DenoiserShape, block: &BlockShape, rows: usize) -> u64 {
    let elements = rows * shape.columns * block.bottleneck;
    hardware.control.phase_cycles + cycles::lane_cycles(elements, hardware.relu.lanes)
}

/// Heads and cancellation of a strip.
fn expand_cycles(
    hardware: &Hardware,
    shape: &DenoiserShape,
    block: &BlockShape,
    strip: &Strip,
    heads: &Heads,
    tile: usize,
) -> u64 {
    tiles(shape.channels, tile)
        .into_iter()
        .map(|(_, channels)| {
            heads_cycles(hardware, shape, block, strip, heads, channels)
                + cancel_cycles(hardware, shape, block, strip, channels)
        })
        .sum()
}

fn heads_cycles(
    hardware: &Hardware,
    shape: &DenoiserShape,
    block: &BlockShape,
    strip: &Strip,
    heads: &Heads,
    channels: usize,
) -> u64 {
    let one = |filters, mapping: &ConvMapping| {
        hardware.control.phase_cycles + cycles::conv_cycles(hardware, &shape.heads(block, strip, filters), mapping)
    };
    match heads {
        Heads::Shared(heads) => one(2 * channels, heads),
        Heads::Separate { mean, sigma } => one(channels, mean) + one(channels, sigma),
        Heads::MeanOnly(mean) => one(channels, mean),
    }
}

fn cancel_cycles(
    hardware: &Hardware,
    shape: &DenoiserShape,
    block: &BlockShape,
    strip: &Strip,
    channels: usize,
) -> u64 {
    let elements = strip.rows * shape.columns * channels;
    hardware.control.phase_cycles + cycles::cancel_cycles(hardware, elements, block.sigma)
}

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
    /// A denoiser on the tile.
    enum Tile {
        Number(usize),
        OnCores(OnCores),
        "load" = Load([Id; 1]),
        "reduce" = Reduce([Id; 1]),
        "depthwise" = Depthwise([Id; 1]),
        "mean" = Mean([Id; 1]),
        "sigma" = Sigma([Id; 1]),
        "heads" = HeadsOf([Id; 1]),
        "relu-hidden" = ReluHidden([Id; 1]),
        "relu-depthwise" = ReluDepthwise([Id; 1]),
        "cancel" = Cancel([Id; 3]),
        "cancel-mean" = CancelMean([Id; 2]),
        "cancel-pair" = CancelPair([Id; 2]),
        "affine" = Affine([Id; 1]),
        "store" = Store([Id; 1]),
        // A mapping and the operand.
        "reduce-on" = ReduceOn([Id; 2]),
        "depthwise-on" = DepthwiseOn([Id; 2]),
        "mean-on" = MeanOn([Id; 2]),
        "sigma-on" = SigmaOn([Id; 2]),
        "heads-on" = HeadsOn([Id; 2]),
        // Channel tile, mapping(s), strip, G.
        "expand-pair" = ExpandPair([Id; 4]),
        "expand-mean" = ExpandMean([Id; 4]),
        "expand-separate" = ExpandSeparate([Id; 5]),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The mapping.
    pub mapping: Mapping,
    /// Cycles per sample.
    pub cycles: u64,
    /// The activation memory it needs.
    pub activation_bytes: usize,
}

/// The cheapest mapping that fits the activation memory.
pub fn choose(hardware: &Hardware, shape: &DenoiserShape) -> Result<Chosen, MappingError> {
    let (egraph, root) = saturate(hardware, shape)?;
    let mut search =
        Search { hardware, shape, egraph: &egraph, options: BTreeMap::new(), best: None, least_bytes: usize::MAX };
    search.run(root);
    search.best.ok_or(MappingError::Memory { needed: search.least_bytes, available: hardware.memory.activation_bytes })
}

/// The e-graph of everything the tile can do, and its root class.
fn saturate(hardware: &Hardware, shape: &DenoiserShape) -> Result<(EGraph<Tile, StripHeight>, Id), MappingError> {
    let mut egraph = EGraph::<Tile, StripHeight>::default();
    let mut root = None;
    for rows in strip_heights(shape) {
        let number = egraph.add(Tile::Number(rows));
        let x = egraph.add(Tile::Load([number]));
        let mut value = x;
        if let Some(block) = &shape.block {
            let h = egraph.add(Tile::Reduce([x]));
            let h = egraph.add(Tile::ReluHidden([h]));
            let g = egraph.add(Tile::Depthwise([h]));
            let g = egraph.add(Tile::ReluDepthwise([g]));
            let mean = egraph.add(Tile::Mean([g]));
            value = if block.sigma {
                let sigma = egraph.add(Tile::Sigma([g]));
                egraph.add(Tile::Cancel([x, mean, sigma]))
            } else {
                egraph.add(Tile::CancelMean([x, mean]))
            };
        }
        if shape.affine {
            value = egraph.add(Tile::Affine([value]));
        }
        let stored = egraph.add(Tile::Store([value]));
        root = Some(match root {
            None => stored,
            Some(root) => {
                egraph.union(root, stored);
                root
            }
        });
    }
    egraph.rebuild();
    let root = root.unwrap_or_else(|| egraph.add(Tile::Number(0)));
    let runner = Runner::<Tile, StripHeight>::default()
        .with_egraph(egraph)
        .with_iter_limit(8)
        .with_node_limit(4_000_000)
        .with_time_limit(std::time::Duration::from_secs(3600 * 24 * 365))
        .run(&rules(hardware, shape));
    match runner.stop_reason {
        Some(StopReason::Saturated) => {}
        other => return Err(MappingError::Limit(format!("{other:?}"))),
    }
    let root = runner.egraph.find(root);
    Ok((runner.egraph, root))
}

fn rules(hardware: &Hardware, shape: &DenoiserShape) -> Vec<Rewrite<Tile, StripHeight>> {
    let Some(block) = shape.block else {
        return Vec::new();
    };
    let (hardware, shape) = (hardware.clone(), *shape);
    // The mappings of a convolution do not depend on its pixels.
    let strip = Strip { first: 0, rows: 1, halo: [0, 0], pad: [0, 0] };
    let reduce = cycles::conv_mappings(&hardware, &shape.reduce(&block, &strip));
    let depthwise = cycles::conv_mappings(&hardware, &shape.depthwise(&block, &strip));
    let head = cycles::conv_mappings(&hardware, &shape.heads(&block, &strip, shape.channels));
    let pair = cycles::conv_mappings(&hardware, &shape.heads(&block, &strip, 2 * shape.channels));
    let map = |name: &str, pattern: &str, mappings: Vec<ConvMapping>, make: fn([Id; 2]) -> Tile| {
        rule(name, pattern, move |egraph, subst| {
            mappings
                .iter()
                .map(|mapping| {
                    let mapping = egraph.add(Tile::OnCores(OnCores(*mapping)));
                    make([mapping, subst[var("?x")]])
                })
                .collect()
        })
    };
    let fused: Vec<usize> = channel_tiles(&shape).into_iter().filter(|tile| *tile < shape.channels).collect();
    let tile_mappings = {
        let hardware = hardware.clone();
        move |filters: usize| {
            let shape = shape.heads(&block, &strip, filters);
            cycles::conv_mappings(&hardware, &shape)
        }
    };
    let expand = |name: &str, pattern: &str, per_channel: usize, make: fn([Id; 4]) -> Tile| {
        let (fused, tile_mappings) = (fused.clone(), tile_mappings.clone());
        rule(name, pattern, move |egraph, subst| {
            let mut nodes = Vec::new();
            for &tile in &fused {
                let number = egraph.add(Tile::Number(tile));
                for mapping in tile_mappings(per_channel * tile) {
                    let mapping = egraph.add(Tile::OnCores(OnCores(mapping)));
                    nodes.push(make([number, mapping, subst[var("?s")], subst[var("?x")]]));
                }
            }
            nodes
        })
    };
    vec![
        map("map-reduce", "(reduce ?x)", reduce, Tile::ReduceOn),
        map("map-depthwise", "(depthwise ?x)", depthwise, Tile::DepthwiseOn),
        map("map-mean", "(mean ?x)", head.clone(), Tile::MeanOn),
        map("map-sigma", "(sigma ?x)", head, Tile::SigmaOn),
        map("map-heads", "(heads ?x)", pair, Tile::HeadsOn),
        rule("share-heads", "(cancel ?s (mean ?x) (sigma ?x))", |egraph, subst| {
            let heads = egraph.add(Tile::HeadsOf([subst[var("?x")]]));
            vec![Tile::CancelPair([subst[var("?s")], heads])]
        }),
        expand("fuse-expand", "(cancel-pair ?s (heads ?x))", 2, Tile::ExpandPair),
        expand("fuse-expand-mean", "(cancel-mean ?s (mean ?x))", 1, Tile::ExpandMean),
        rule("fuse-expand-separate", "(cancel ?s (mean ?x) (sigma ?x))", move |egraph, subst| {
            let mut nodes = Vec::new();
            for &tile in &fused {
                let number = egraph.add(Tile::Number(tile));
                // Both heads have the same shape: what is best for one is for the other.
                for mapping in tile_mappings(tile) {
                    let mapping = egraph.add(Tile::OnCores(OnCores(mapping)));
                    let (strip, g) = (subst[var("?s")], subst[var("?x")]);
                    nodes.push(Tile::ExpandSeparate([number, mapping, mapping, strip, g]));
                }
            }
            nodes
        }),
    ]
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
    shape: &'a DenoiserShape,
    egraph: &'a EGraph<Tile, StripHeight>,
    options: BTreeMap<Id, Vec<Choice>>,
    best: Option<Chosen>,
    least_bytes: usize,
}

impl Search<'_> {
    fn run(&mut self, root: Id) {
        // The root class holds one `store` per strip height; each is a search of its own.
        let stores: Vec<Tile> = self.egraph[root].nodes.clone();
        for store in stores {
            let Tile::Store([value]) = store else {
                continue;
            };
            let Some(strip_rows) = self.egraph[value].data.strip_rows else {
                continue;
            };
            self.options.clear();
            let cycles: u64 =
                strips(self.shape, strip_rows).iter().map(|strip| store_cycles(self.hardware, self.shape, strip)).sum();
            let mut mapping = Partial::new(strip_rows);
            self.extend(&mut mapping, &mut vec![self.egraph.find(value)], &mut Vec::new(), cycles);
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
        if self.best.is_some_and(|best| bound >= best.cycles) {
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
            let before = *partial;
            partial.take(&choice.node, self.egraph);
            let length = open.len();
            open.extend(&choice.operands);
            self.extend(partial, open, known, cycles + choice.cycles);
            open.truncate(length);
            *partial = before;
        }
        known.pop();
        open.push(class);
    }

    fn finish(&mut self, partial: &Partial, cycles: u64) {
        let Some(mapping) = partial.mapping(self.shape) else {
            return;
        };
        let activation_bytes = activation_bytes(self.hardware, self.shape, &mapping);
        self.least_bytes = self.least_bytes.min(activation_bytes);
        if activation_bytes <= self.hardware.memory.activation_bytes
            && self.best.is_none_or(|best| cycles < best.cycles)
        {
            self.best = Some(Chosen { mapping, cycles, activation_bytes });
        }
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
        let (hardware, shape) = (self.hardware, self.shape);
        let strips = strips(shape, strip_rows);
        let start = hardware.control.phase_cycles;
        let sum = |cycles: &dyn Fn(&Strip) -> u64| strips.iter().map(cycles).sum::<u64>();
        let most = |bytes: &dyn Fn(&Strip) -> usize| strips.iter().map(bytes).max().unwrap_or(0);
        let conv = |mapping: Id, of: &dyn Fn(&Strip) -> ConvShape| {
            let mapping = self.cores(mapping)?;
            let cycles = sum(&|strip| start + cycles::conv_cycles(hardware, &of(strip), &mapping));
            let spilled = most(&|strip| cycles::spilled_words(hardware, &of(strip), &mapping));
            Some((cycles, [spilled, 0]))
        };
        let expand = |tile: Id, heads: Heads| {
            let block = shape.block.as_ref()?;
            let tile = self.number(tile)?;
            let cycles = sum(&|strip| expand_cycles(hardware, shape, block, strip, &heads, tile));
            let spilled = most(&|strip| {
                let spilled = |filters, mapping: &ConvMapping| {
                    let conv = shape.heads(block, strip, filters);
                    cycles::spilled_words(hardware, &conv, mapping)
                };
                match &heads {
                    Heads::Shared(heads) => spilled(2 * tile, heads),
                    Heads::Separate { mean, sigma } => spilled(tile, mean) + spilled(tile, sigma),
                    Heads::MeanOnly(mean) => spilled(tile, mean),
                }
            });
            Some((cycles, [spilled, tile]))
        };
        let cancel = || {
            let block = shape.block.as_ref()?;
            let cycles = sum(&|strip| cancel_cycles(hardware, shape, block, strip, shape.channels));
            Some((cycles, [0, 0]))
        };
        let block = shape.block;
        let ((cycles, memory), operands): (_, Vec<Id>) = match node {
            Tile::Load(_) => ((sum(&|strip| load_cycles(hardware, shape, strip)), [0, 0]), vec![]),
            Tile::Affine([x]) => ((sum(&|strip| affine_cycles(hardware, shape, strip)), [0, 0]), vec![*x]),
            Tile::ReluHidden([x]) => (
                (sum(&|strip| block.map_or(0, |b| relu_cycles(hardware, shape, &b, strip.loaded()))), [0, 0]),
                vec![*x],
            ),
            Tile::ReluDepthwise([x]) => {
                ((sum(&|strip| block.map_or(0, |b| relu_cycles(hardware, shape, &b, strip.rows))), [0, 0]), vec![*x])
            }
            Tile::ReduceOn([m, x]) => (conv(*m, &|strip| shape.reduce(&block.unwrap_or(NO_BLOCK), strip))?, vec![*x]),
            Tile::DepthwiseOn([m, x]) => {
                (conv(*m, &|strip| shape.depthwise(&block.unwrap_or(NO_BLOCK), strip))?, vec![*x])
            }
            Tile::MeanOn([m, x]) | Tile::SigmaOn([m, x]) => {
                (conv(*m, &|strip| shape.heads(&block.unwrap_or(NO_BLOCK), strip, shape.channels))?, vec![*x])
            }
            Tile::HeadsOn([m, x]) => {
                (conv(*m, &|strip| shape.heads(&block.unwrap_or(NO_BLOCK), strip, 2 * shape.channels))?, vec![*x])
            }
            Tile::Cancel([x, mean, sigma]) => (cancel()?, vec![*x, *mean, *sigma]),
            Tile::CancelMean([x, mean]) => (cancel()?, vec![*x, *mean]),
            Tile::CancelPair([x, heads]) => (cancel()?, vec![*x, *heads]),
            Tile::ExpandPair([tile, m, x, g]) => (expand(*tile, Heads::Shared(self.cores(*m)?))?, vec![*x, *g]),
            Tile::ExpandMean([tile, m, x, g]) => (expand(*tile, Heads::MeanOnly(self.cores(*m)?))?, vec![*x, *g]),
            Tile::ExpandSeparate([tile, mean, sigma, x, g]) => {
                let heads = Heads::Separate { mean: self.cores(*mean)?, sigma: self.cores(*sigma)? };
                (expand(*tile, heads)?, vec![*x, *g])
            }
            _ => return None,
        };
        Some(Choice {
            node: node.clone(),
            cycles,
            operands: operands.into_iter().map(|operand| self.egraph.find(operand)).collect(),
            memory,
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

/// Never used for a cost: a term without a block has no convolutions.
const NO_BLOCK: BlockShape = BlockShape { bottleneck: 0, kernel: 1, sigma: false };

/// The choices made so far.
#[derive(Clone, Copy, Debug)]
struct Partial {
    strip_rows: usize,
    reduce: Option<ConvMapping>,
    depthwise: Option<ConvMapping>,
    mean: Option<ConvMapping>,
    sigma: Option<ConvMapping>,
    pair: Option<ConvMapping>,
    channel_tile: Option<usize>,
}

impl Partial {
    fn new(strip_rows: usize) -> Self {
        Self { strip_rows, reduce: None, depthwise: None, mean: None, sigma: None, pair: None, channel_tile: None }
    }

    fn take(&mut self, node: &Tile, egraph: &EGraph<Tile, StripHeight>) {
        let cores = |leaf: Id| match egraph[leaf].data.leaf {
            Some(Leaf::OnCores(mapping)) => Some(mapping),
            _ => None,
        };
        let number = |leaf: Id| match egraph[leaf].data.leaf {
            Some(Leaf::Number(number)) => Some(number),
            _ => None,
        };
        match node {
            Tile::ReduceOn([m, _]) => self.reduce = cores(*m),
            Tile::DepthwiseOn([m, _]) => self.depthwise = cores(*m),
            Tile::MeanOn([m, _]) => self.mean = cores(*m),
            Tile::SigmaOn([m, _]) => self.sigma = cores(*m),
            Tile::HeadsOn([m, _]) => self.pair = cores(*m),
            Tile::ExpandPair([tile, m, ..]) => {
                (self.channel_tile, self.pair) = (number(*tile), cores(*m));
            }
            Tile::ExpandMean([tile, m, ..]) => {
                (self.channel_tile, self.mean) = (number(*tile), cores(*m));
            }
            Tile::ExpandSeparate([tile, mean, sigma, ..]) => {
                self.channel_tile = number(*tile);
                (self.mean, self.sigma) = (cores(*mean), cores(*sigma));
            }
            _ => {}
        }
    }

    fn mapping(&self, shape: &DenoiserShape) -> Option<Mapping> {
        let block = match &shape.block {
            None => None,
            Some(block) => Some(BlockMapping {
                reduce: self.reduce?,
                depthwise: self.depthwise?,
                heads: match (self.pair, self.mean, self.sigma) {
                    (Some(pair), ..) => Heads::Shared(pair),
                    (None, Some(mean), Some(sigma)) => Heads::Separate { mean, sigma },
                    (None, Some(mean), None) if !block.sigma => Heads::MeanOnly(mean),
                    _ => return None,
                },
                channel_tile: self.channel_tile.unwrap_or(shape.channels),
            }),
        };
        Some(Mapping { strip_rows: self.strip_rows, block })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(rows: usize, columns: usize, channels: usize, sigma: bool) -> DenoiserShape {
        DenoiserShape {
            rows,
            columns,
            channels,
            block: Some(BlockShape {
                bottleneck: mxc_dialects::denoise::expression::Width::Bottleneck(4).of(channels),
                kernel: 3,
                sigma,
            }),
            affine: false,
        }
    }

    fn hardware(cores: usize, accumulators: usize, activation_bytes: usize) -> Hardware {
        let mut hardware = Hardware::paper();
        hardware.conv.cores = cores;
        hardware.conv.accumulators_per_column = accumulators;
        hardware.memory.activation_bytes = activation_bytes;
        hardware
    }

    /// The cheapest of all mappings, by trying every one.
    fn exhaustive(hardware: &Hardware, shape: &DenoiserShape) -> Option<(u64, Mapping)> {
        let block = shape.block.unwrap();
        let strip = strips(shape, 1)[0];
        let mappings = |conv: ConvShape| cycles::conv_mappings(hardware, &conv);
        let mut best: Option<(u64, Mapping)> = None;
        for strip_rows in 1..=shape.rows {
            for channel_tile in 1..=shape.channels {
                let one = mappings(shape.heads(&block, &strip, channel_tile));
                let mut heads: Vec<Heads> = Vec::new();
                if block.sigma {
                    let two = mappings(shape.heads(&block, &strip, 2 * channel_tile));
                    heads.extend(two.into_iter().map(Heads::Shared));
                    for &mean in &one {
                        heads.extend(one.iter().map(|&sigma| Heads::Separate { mean, sigma }));
                    }
                } else {
                    heads.extend(one.into_iter().map(Heads::MeanOnly));
                }
                for heads in heads {
                    for reduce in mappings(shape.reduce(&block, &strip)) {
                        for depthwise in mappings(shape.depthwise(&block, &strip)) {
                            let mapping = Mapping {
                                strip_rows,
                                block: Some(BlockMapping { reduce, depthwise, heads, channel_tile }),
                            };
                            let cost = total_cycles(hardware, shape, &mapping);
                            if best.is_none_or(|(least, _)| cost < least)
                                && activation_bytes(hardware, shape, &mapping) <= hardware.memory.activation_bytes
                            {
                                best = Some((cost, mapping));
                            }
                        }
                    }
                }
            }
        }
        best
    }

    /// One decision after the other: the strip height with whole heads, then sharing, then fusing.
    fn greedy(hardware: &Hardware, shape: &DenoiserShape) -> Option<u64> {
        let block = shape.block.unwrap();
        let strip = strips(shape, 1)[0];
        let best_of = |conv: &dyn Fn(&Strip) -> ConvShape, filters: usize| {
            let _ = filters;
            cycles::conv_mappings(hardware, &conv(&strip))
                .into_iter()
                .filter(|mapping| mapping.order == Order::Accumulate)
                .min_by_key(|mapping| cycles::conv_cycles(hardware, &conv(&strip), mapping))
                .unwrap()
        };
        let reduce = best_of(&|strip| shape.reduce(&block, strip), block.bottleneck);
        let depthwise = best_of(&|strip| shape.depthwise(&block, strip), 1);
        let with = |strip_rows, heads, channel_tile| Mapping {
            strip_rows,
            block: Some(BlockMapping { reduce, depthwise, heads, channel_tile }),
        };
        let c = shape.channels;
        let pair = |tile: usize| Heads::Shared(best_of(&|strip| shape.heads(&block, strip, 2 * tile), 2 * tile));
        let fits = |mapping: &Mapping| activation_bytes(hardware, shape, mapping) <= hardware.memory.activation_bytes;
        let rows = strip_heights(shape).into_iter().find(|rows| fits(&with(*rows, pair(c), c)))?;
        channel_tiles(shape)
            .into_iter()
            .map(|tile| with(rows, pair(tile), tile))
            .filter(fits)
            .map(|mapping| total_cycles(hardware, shape, &mapping))
            .min()
    }

    #[test]
    fn equals_exhaustive_enumeration() {
        for (sigma, cores, accumulators, bytes) in [
            (true, 3, 64, 1 << 20),
            (true, 3, 64, 900),
            (true, 2, 2, 1500),
            (true, 2, 2, 700),
            (false, 3, 64, 700),
            (false, 2, 3, 1200),
        ] {
            for (rows, columns, channels) in [(6, 5, 6), (7, 3, 4), (4, 4, 8)] {
                let hardware = hardware(cores, accumulators, bytes);
                let shape = shape(rows, columns, channels, sigma);
                let best = exhaustive(&hardware, &shape);
                match choose(&hardware, &shape) {
                    Ok(chosen) => {
                        assert_eq!(Some(chosen.cycles), best.map(|(cycles, _)| cycles));
                        assert_eq!(total_cycles(&hardware, &shape, &chosen.mapping), chosen.cycles);
                        assert!(chosen.activation_bytes <= bytes);
                    }
                    Err(MappingError::Memory { .. }) => assert!(best.is_none()),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn finds_what_a_fixed_order_misses() {
        // Whole heads force strips of few rows; heads of some channels at a time allow taller ones. Alone, neither step pays.
        let hardware = hardware(10, 64, 40_000);
        let shape = shape(16, 16, 64, true);
        let greedy = greedy(&hardware, &shape).unwrap();
        let chosen = choose(&hardware, &shape).unwrap();
        let block = chosen.mapping.block.unwrap();
        assert!(block.channel_tile < 64, "{chosen:?}");
        assert!(chosen.cycles < greedy, "{} vs {greedy}", chosen.cycles);
    }

    #[test]
    fn spills_where_accumulators_are_few_and_the_port_is_wide() {
        let mut hardware = hardware(1, 4, 1 << 20);
        hardware.memory.port_words = 64;
        let chosen = choose(&hardware, &shape(8, 8, 64, true)).unwrap();
        let Heads::Shared(pair) = chosen.mapping.block.unwrap().heads else {
            panic!("{chosen:?}");
        };
        assert_eq!(pair.order, Order::Spill);
    }

    #[test]
    fn too_little_memory_is_said() {
        let error = choose(&hardware(10, 64, 64), &shape(8, 8, 16, true)).unwrap_err();
        assert!(matches!(error, MappingError::Memory { available: 64, .. }), "{error}");
    }

    #[test]
    fn an_affine_alone_is_one_strip_where_it_fits() {
        let shape = DenoiserShape { block: None, affine: true, ..shape(8, 8, 16, true) };
        let chosen = choose(&Hardware::paper(), &shape).unwrap();
        assert_eq!(chosen.mapping.strip_rows, 8);
        assert_eq!(chosen.activation_bytes, 2 * 8 * 8 * 16);
    }
}
