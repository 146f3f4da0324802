//! Plans: a [`Program`] checked once ([`Network`]), then turned into a straight line of kernels for each kind of run
//! ([`Plan`]), with no-ops dropped, neighbours fused, dead values' buffers reused and what a gradient needs kept.
//!
//! A plan runs **one sample**: batch axes have size 1 (or k, where a reshape folded another axis into the batch). So a
//! result cannot depend on the batch that a sample comes in.

mod denoise;

use crate::{
    digital::program::TileProgram,
    error::ExecError,
    kernels::{
        depthwise::{Depthwise, MAX_TAPS},
        elementwise::{Broadcast, Reads, binary_reads, unary_reads},
        generic::{self, Generic},
        layout::Gather,
        pool::Window,
    },
    onednn::Geometry,
    program::{Binary, DType, Layer, LayerId, Node, Op, Program, Reduce, Unary, ValueId},
    store::Weight,
};
pub(crate) use denoise::Block;
use mxc_dialects::{
    denoise::expression::Layout,
    noise::{NoiseSpec, Scale, Site},
};
use std::{collections::BTreeSet, sync::Arc};

/// A value of a plan.
pub(crate) type Id = usize;

/// A checked program: shapes per sample.
pub(crate) struct Network {
    pub program: Program,
    /// Every value's shape for one sample.
    pub shapes: Vec<Vec<usize>>,
    /// Every convolution node's geometry for oneDNN, or the depthwise kernel's.
    pub convolutions: Vec<Option<ConvolutionKind>>,
}

/// Which kernel a convolution node uses.
#[derive(Clone, Debug)]
pub(crate) enum ConvolutionKind {
    Dense(Geometry),
    /// With the filter as `[KH, KW, C]`.
    Depthwise(Depthwise, Arc<[f32]>),
}

fn error(node: usize, op: &Op, message: impl std::fmt::Display) -> ExecError {
    let name = format!("{op:?}");
    let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
    ExecError::Program(format!("node {node} ({name}): {message}"))
}

/// The most numbers that fills may become when they are executed, 4 GiB: a short text can name any number of them.
const MAX_FILLS: usize = 1 << 30;

impl Network {
    /// Checks a program: operand counts, shapes, constants.
    pub fn new(program: Program) -> Result<Self, ExecError> {
        let count = program.values.len();
        let mut shapes: Vec<Option<Vec<usize>>> = vec![None; count];
        let fills: usize =
            program.values.iter().filter_map(|value| value.constant.as_ref()).map(Weight::unwritten).sum();
        if fills > MAX_FILLS {
            return Err(ExecError::Program(format!(
                "its constants of one repeated value would be {fills} numbers, more than {MAX_FILLS}"
            )));
        }
        for (id, value) in program.values.iter().enumerate() {
            if let Some(weight) = &value.constant {
                let shape = match value.dtype {
                    DType::F32 => weight.shape().to_vec(),
                    DType::I32 | DType::I64 | DType::Bool => sample_shape(&value.shape, 1, &value.name)?,
                };
                let len = shape.iter().product::<usize>() * value.dtype.words();
                if weight.len() != len {
                    return Err(ExecError::Program(format!("constant {id} has {} words, not {len}", weight.len())));
                }
                shapes[id] = Some(shape);
            }
        }
        for &id in &program.inputs {
            let value = program.values.get(id).ok_or_else(|| ExecError::Program(format!("input {id} is no value")))?;
            shapes[id] = Some(sample_shape(&value.shape, 1, &value.name)?);
        }
        let mut convolutions = Vec::with_capacity(program.nodes.len());
        for (index, node) in program.nodes.iter().enumerate() {
            let fail = |message: String| error(index, &node.op, message);
            let operands = node
                .inputs
                .iter()
                .map(|&id| {
                    shapes
                        .get(id)
                        .and_then(Option::as_ref)
                        .ok_or_else(|| fail(format!("operand {id} is used before it is defined")))
                })
                .collect::<Result<Vec<_>, _>>()?;
            let (least, most) = arity(&node.op);
            if operands.len() < least || operands.len() > most {
                return Err(fail(format!("it has {} operands", operands.len())));
            }
            let output = program.values.get(node.output).ok_or_else(|| fail("its result is no value".to_owned()))?;
            if shapes[node.output].is_some() {
                return Err(fail(format!("value {} is defined twice", node.output)));
            }
            let multiple = match node.op {
                Op::Reshape => {
                    let rest: usize = output.shape.iter().skip(1).map(|size| size.unwrap_or(1)).product();
                    operands[0].iter().product::<usize>() / rest.max(1)
                }
                Op::Conv2d { .. }
                | Op::FullyConnected { .. }
                | Op::Denoise { .. }
                | Op::DenoiseTile { .. }
                | Op::Take { .. } => operands[0].first().copied().unwrap_or(1),
                Op::MatMul
                | Op::Unary(_)
                | Op::Binary(_)
                | Op::AvgPool { .. }
                | Op::MaxPool { .. }
                | Op::Reduce { .. }
                | Op::Transpose { .. }
                | Op::Concat { .. }
                | Op::Slice { .. }
                | Op::Pad { .. }
                | Op::Tile { .. }
                | Op::Pick { .. }
                | Op::Scatter { .. }
                | Op::TopK { .. }
                | Op::CumSum { .. }
                | Op::GridSample(_)
                | Op::ArgMax { .. }
                | Op::Cast
                | Op::Select => operands.iter().filter_map(|shape| shape.first()).copied().max().unwrap_or(1),
            };
            let shape = sample_shape(&output.shape, multiple, &output.name)?;
            check_shapes(&node.op, &operands, &shape).map_err(fail)?;
            let dtypes: Vec<DType> = node.inputs.iter().map(|&id| program.values[id].dtype).collect();
            generic::check(&node.op, &dtypes, output.dtype).map_err(fail)?;
            if let Op::Conv2d { layer, .. } | Op::FullyConnected { layer } = node.op
                && layer.is_some_and(|layer| layer >= program.layers.len())
            {
                return Err(fail("its layer does not exist".to_owned()));
            }
            let constant = |operand: usize| program.values[node.inputs[operand]].constant.as_ref();
            convolutions.push(if let Op::Conv2d { stride, pad, dilation, groups, layer } = &node.op {
                match (constant(1), constant(2)) {
                    (Some(weights), Some(_)) => {
                        let weights = weights.values();
                        let [x, w] = [operands[0], operands[1]];
                        Some(convolution(x, w, &shape, *stride, *pad, *dilation, *groups, weights))
                    }
                    _ if layer.is_some() => {
                        return Err(fail("its weight and bias must be constants".to_owned()));
                    }
                    _ => None,
                }
            } else {
                None
            });
            shapes[node.output] = Some(shape);
        }
        for &id in program.outputs.iter().chain([&program.logits]) {
            if shapes.get(id).and_then(Option::as_ref).is_none() {
                return Err(ExecError::Program(format!("output {id} is never computed")));
            }
        }
        check_trainables(&program)?;
        Ok(Self { program, shapes: shapes.into_iter().map(Option::unwrap_or_default).collect(), convolutions })
    }

    /// Replaces a layer's noise specification.
    pub fn set_noise(&mut self, layer: LayerId, spec: NoiseSpec) -> Result<(), ExecError> {
        let Some(layer) = self.program.layers.get_mut(layer) else {
            return Err(ExecError::Input(format!("there is no layer {layer}")));
        };
        layer.noise.spec = spec;
        Ok(())
    }

    /// The number of words of a value for one sample: of elements, unless they are wide.
    pub fn len(&self, value: ValueId) -> usize {
        self.shapes[value].iter().product::<usize>() * self.program.values[value].dtype.words()
    }
}

/// Gradients are known of denoiser weights only.
fn check_trainables(program: &Program) -> Result<(), ExecError> {
    for (index, node) in program.nodes.iter().enumerate() {
        let denoiser = matches!(node.op, Op::Denoise { .. });
        for (position, &id) in node.inputs.iter().enumerate() {
            let value = &program.values[id];
            if value.trainable && !(denoiser && position > 0) {
                return Err(error(
                    index,
                    &node.op,
                    format!("`{}` is trainable, but only the weights of denoisers can be trained", value.name),
                ));
            }
            if denoiser && position > 0 && value.constant.is_none() {
                return Err(error(index, &node.op, "its weights must be constants"));
            }
        }
    }
    Ok(())
}

/// A value's shape for one sample; `multiple` stands for the batch.
fn sample_shape(shape: &[Option<usize>], multiple: usize, name: &str) -> Result<Vec<usize>, ExecError> {
    shape
        .iter()
        .enumerate()
        .map(|(axis, size)| match size {
            Some(size) => Ok(*size),
            None if axis == 0 => Ok(multiple),
            None => Err(ExecError::Program(format!(
                "value `{name}`: axis {axis} has no fixed size; only the batch (axis 0) may vary"
            ))),
        })
        .collect()
}

/// The least and the greatest number of operands.
fn arity(op: &Op) -> (usize, usize) {
    match op {
        Op::Conv2d { .. } | Op::FullyConnected { .. } => (3, 3),
        Op::MatMul | Op::Binary(_) | Op::Take { .. } | Op::Pick { .. } | Op::GridSample(_) => (2, 2),
        Op::Select | Op::Scatter { .. } => (3, 3),
        Op::Denoise { kind, .. } => {
            let count = 1 + kind.expression().parameters().len();
            (count, count)
        }
        Op::Concat { .. } => (1, usize::MAX),
        Op::DenoiseTile { .. }
        | Op::Unary(_)
        | Op::AvgPool { .. }
        | Op::MaxPool { .. }
        | Op::Reduce { .. }
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Tile { .. }
        | Op::TopK { .. }
        | Op::CumSum { .. }
        | Op::ArgMax { .. }
        | Op::Cast => (1, 1),
    }
}

/// Checks that the operands' shapes give the result's.
fn check_shapes(op: &Op, operands: &[&Vec<usize>], result: &[usize]) -> Result<(), String> {
    let x = operands[0];
    let expect = |what: &str, want: Vec<usize>| {
        (want == result).then_some(()).ok_or_else(|| format!("{what} gives {want:?}, not {result:?}"))
    };
    let rank = |wanted: usize| {
        (x.len() == wanted).then_some(()).ok_or_else(|| format!("its operand has rank {}, not {wanted}", x.len()))
    };
    let axis_in = |axis: usize| (axis < x.len()).then_some(()).ok_or_else(|| format!("there is no axis {axis}"));
    let windows = |kernel: [usize; 2], stride: [usize; 2], pad: [usize; 4], dilation: [usize; 2]| {
        let mut sizes = [0; 2];
        for axis in 0..2 {
            let extent = (kernel[axis].max(1) - 1) * dilation[axis] + 1;
            let padded = x[axis + 1] + pad[2 * axis] + pad[2 * axis + 1];
            if stride[axis] == 0 || dilation[axis] == 0 || kernel[axis] == 0 || padded < extent {
                return Err(format!("a {kernel:?} window does not fit {x:?} with pad {pad:?}"));
            }
            sizes[axis] = (padded - extent) / stride[axis] + 1;
        }
        Ok(sizes)
    };
    match op {
        Op::Conv2d { stride, pad, dilation, groups, .. } => {
            rank(4)?;
            let &[outputs, kh, kw, inputs] = operands[1].as_slice() else {
                return Err(format!("its weight has shape {:?}, not OHWI", operands[1]));
            };
            if *groups == 0 || inputs * groups != x[3] || outputs % groups != 0 {
                return Err(format!(
                    "weight {:?} in {groups} groups does not fit {} input channels",
                    operands[1], x[3]
                ));
            }
            if ![1, outputs].contains(&operands[2].iter().product::<usize>()) {
                return Err(format!("its bias has shape {:?}, not {outputs} elements", operands[2]));
            }
            let [h, w] = windows([kh, kw], *stride, *pad, *dilation)?;
            expect("the convolution", vec![x[0], h, w, outputs])
        }
        Op::FullyConnected { .. } => {
            let &[outputs, inputs] = operands[1].as_slice() else {
                return Err(format!("its weight has shape {:?}, not [O, I]", operands[1]));
            };
            if x.last() != Some(&inputs) {
                return Err(format!("weight {:?} does not fit operand {x:?}", operands[1]));
            }
            if ![1, outputs].contains(&operands[2].iter().product::<usize>()) {
                return Err(format!("its bias has shape {:?}, not {outputs} elements", operands[2]));
            }
            let mut want = x.clone();
            want.pop();
            want.push(outputs);
            expect("the product", want)
        }
        Op::MatMul => {
            let y = operands[1];
            let ([images @ .., rows, inner], [others @ .., other, columns]) = (x.as_slice(), y.as_slice()) else {
                return Err(format!("{x:?} and {y:?} do not multiply"));
            };
            if images.is_empty() || images != others || inner != other {
                return Err(format!("{x:?} and {y:?} do not multiply"));
            }
            expect("the product", [images, &[*rows, *columns]].concat())
        }
        Op::Denoise { kind, .. } => {
            let shapes: Vec<_> = operands[1..].iter().map(|shape| shape.as_slice()).collect();
            let site = kind.expression().fit(x.last().copied().unwrap_or(0), &shapes)?;
            let reaches = |layout| matches!(layout, Layout::Depthwise(_));
            if site.spatial && kind.expression().parameters().iter().any(|parameter| reaches(parameter.layout)) {
                rank(4)?;
            }
            expect("the denoiser", x.clone())
        }
        Op::DenoiseTile { program, .. } => {
            let words: usize = program.shape.iter().product();
            if words == 0 || !x.iter().product::<usize>().is_multiple_of(words) || x.last() != program.shape.last() {
                return Err(format!("@{} cleans {:?}, not {x:?}", program.symbol, program.shape));
            }
            expect("the denoiser", x.clone())
        }
        Op::Unary(_) | Op::Cast => expect("the function", x.clone()),
        Op::Binary(_) => {
            Broadcast::new(x, operands[1]).ok_or_else(|| format!("{x:?} and {:?} do not broadcast", operands[1]))?;
            expect("the broadcast", Broadcast::shape(x, operands[1]))
        }
        Op::AvgPool { kernel, stride, pad } | Op::MaxPool { kernel, stride, pad } => {
            rank(4)?;
            let [h, w] = windows(*kernel, *stride, *pad, [1, 1])?;
            if (0..2).any(|axis| pad[2 * axis] >= kernel[axis] || pad[2 * axis + 1] >= kernel[axis]) {
                return Err(format!("pad {pad:?} reaches past the window {kernel:?}"));
            }
            expect("pooling", vec![x[0], h, w, x[3]])
        }
        Op::Reduce { axis, .. } => {
            axis_in(*axis)?;
            let mut want = x.clone();
            want[*axis] = 1;
            expect("the reduction", want)
        }
        Op::Reshape => (x.iter().product::<usize>() == result.iter().product::<usize>())
            .then_some(())
            .ok_or_else(|| format!("{x:?} and {result:?} differ in size")),
        Op::Transpose { perms } => {
            if perms.len() != x.len() || perms.iter().collect::<BTreeSet<_>>().len() != x.len() {
                return Err(format!("{perms:?} does not permute {} axes", x.len()));
            }
            perms.iter().try_for_each(|&axis| axis_in(axis))?;
            expect("the transpose", perms.iter().map(|&axis| x[axis]).collect())
        }
        Op::Concat { axis } => {
            axis_in(*axis)?;
            let mut want = x.clone();
            want[*axis] = 0;
            for operand in operands {
                let fits = operand.len() == x.len()
                    && operand.iter().zip(x).enumerate().all(|(at, (a, b))| at == *axis || a == b);
                if !fits {
                    return Err(format!("{x:?} and {operand:?} do not join along axis {axis}"));
                }
                want[*axis] += operand[*axis];
            }
            expect("joining", want)
        }
        Op::Slice { start } => {
            let fits = start.len() == x.len()
                && result.len() == x.len()
                && start.iter().zip(result).zip(x).all(|((start, size), x)| start + size <= *x);
            fits.then_some(()).ok_or_else(|| format!("{result:?} at {start:?} reaches past {x:?}"))
        }
        Op::Tile { repeats } => {
            if repeats.len() != x.len() || repeats.contains(&0) {
                return Err(format!("{repeats:?} does not fit {x:?}"));
            }
            expect("repeating", x.iter().zip(repeats).map(|(size, times)| size * times).collect())
        }
        Op::Take { axis } => {
            axis_in(*axis)?;
            let [count] = *operands[1].as_slice() else {
                return Err(format!("its indices have shape {:?}, not one axis", operands[1]));
            };
            let mut want = x.clone();
            want[*axis] = count;
            expect("taking", want)
        }
        Op::Pick { axis } => {
            axis_in(*axis)?;
            let mut want = x.clone();
            want[*axis] = 1;
            Broadcast::new(&want, operands[1])
                .filter(|_| x[*axis] > 0)
                .ok_or_else(|| format!("{x:?} and indices {:?} do not broadcast off axis {axis}", operands[1]))?;
            expect("picking", Broadcast::shape(&want, operands[1]))
        }
        Op::Scatter { axis, .. } => {
            axis_in(*axis)?;
            let (indices, updates) = (operands[1], operands[2]);
            let fits = indices.len() == x.len()
                && updates.len() == x.len()
                && indices.iter().zip(updates).all(|(index, size)| index == size || *index == 1)
                && x.iter().zip(updates).enumerate().all(|(at, (x, size))| at == *axis || size <= x)
                && x[*axis] > 0;
            if !fits {
                return Err(format!("indices {indices:?} and updates {updates:?} do not fit {x:?}"));
            }
            expect("scattering", x.clone())
        }
        Op::TopK { axis, count, .. } => {
            axis_in(*axis)?;
            let mut want = x.clone();
            if *count > want[*axis] {
                return Err(format!("an axis of {} elements has no first {count}", want[*axis]));
            }
            want[*axis] = *count;
            expect("ranking", want)
        }
        Op::CumSum { axis, .. } => {
            axis_in(*axis)?;
            expect("the running sum", x.clone())
        }
        Op::GridSample(_) => {
            let points = operands[1];
            let fits = x.len() > 2
                && points.len() == x.len()
                && points[0] == x[0]
                && points.last() == Some(&(x.len() - 2))
                && !x[2..].contains(&0);
            if !fits {
                return Err(format!("points {points:?} do not fit {x:?}"));
            }
            expect("sampling", [&x[..2], &points[1..points.len() - 1]].concat())
        }
        Op::ArgMax { axis } => {
            axis_in(*axis)?;
            let mut want = x.clone();
            want.remove(*axis);
            expect("the reduction", want)
        }
        Op::Select => {
            let mut want = x.clone();
            for operand in &operands[1..] {
                Broadcast::new(&want, operand).ok_or_else(|| format!("{x:?} and {operand:?} do not broadcast"))?;
                want = Broadcast::shape(&want, operand);
            }
            expect("the selection", want)
        }
        Op::Pad { pad, .. } => {
            if pad.len() != x.len() {
                return Err(format!("{pad:?} does not fit rank {}", x.len()));
            }
            expect("padding", x.iter().zip(pad).map(|(x, [before, after])| x + before + after).collect())
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn convolution(
    x: &[usize],
    w: &[usize],
    y: &[usize],
    stride: [usize; 2],
    pad: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
    weights: &[f32],
) -> ConvolutionKind {
    let taps = w[1] * w[2];
    if groups > 1 && groups == x[3] && groups == y[3] && taps <= MAX_TAPS {
        let mut filter = vec![0.0; weights.len()];
        crate::kernels::gemm::transpose(weights, taps, &mut filter);
        let shape = Depthwise {
            input: [x[1], x[2]],
            output: [y[1], y[2]],
            channels: groups,
            kernel: [w[1], w[2]],
            stride,
            pad: [pad[0], pad[2]],
            dilation,
        };
        return ConvolutionKind::Depthwise(shape, filter.into());
    }
    ConvolutionKind::Dense(Geometry {
        batch: x[0],
        input: [x[1], x[2], x[3]],
        output: [y[1], y[2], y[3]],
        kernel: [w[1], w[2]],
        stride,
        pad,
        dilation,
        groups,
    })
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// All outputs.
    Outputs,
    /// The logits.
    Logits,
    /// Every layer's output.
    Layers,
    /// The logits, and gradients in the trainable weights.
    Train,
    /// The logits, and gradients in every layer's output.
    Sensitivity,
}

/// Which plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlanKey {
    pub noise: bool,
    pub denoise: bool,
    pub goal: Goal,
}

/// Where a plan's value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A program input.
    Input(usize),
    /// A program constant.
    Constant(ValueId),
    /// A buffer of the run.
    Buffer,
}

/// A value of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub place: Place,
    pub len: usize,
    /// Whether a gradient of it is wanted.
    pub gradient: bool,
    /// Whether it is kept until the backward pass.
    saved: bool,
}

/// What a tile computes of its input: a product with constant weights, and a bias.
#[derive(Clone, Debug)]
pub(crate) enum Product {
    /// The program's convolution node.
    Convolution {
        node: usize,
    },
    Depthwise {
        shape: Depthwise,
        filter: Arc<[f32]>,
        bias: Arc<[f32]>,
    },
    FullyConnected {
        rows: usize,
        inputs: usize,
        outputs: usize,
        weights: ValueId,
        /// `[I, O]`, for more than one row.
        transposed: Option<Arc<[f32]>>,
        bias: Arc<[f32]>,
    },
}

/// A kernel with its geometry.
#[derive(Clone, Debug)]
pub(crate) enum Kernel {
    /// The tile clamps its input to ±`limit`, if it saturates.
    Product {
        product: Product,
        limit: Option<f32>,
    },
    MatMul {
        batch: usize,
        m: usize,
        n: usize,
        k: usize,
    },
    /// What a layer's components at a site add, in place; at the output the tile saturates, too.
    Noise {
        layer: LayerId,
        site: Site,
    },
    /// A whole denoising block, in place.
    Block(Box<Block>),
    /// A denoiser's 1×1 convolution.
    Pointwise {
        rows: usize,
        inputs: usize,
        outputs: usize,
        weight: ValueId,
        bias: Option<ValueId>,
    },
    /// A denoiser's depthwise convolution.
    Filter {
        shape: Depthwise,
        weight: ValueId,
        bias: Option<ValueId>,
    },
    /// In place.
    LeakyRelu,
    /// A denoiser's `number`th ε for every element of its second operand; the first is the denoiser's input.
    Draw {
        layer: LayerId,
        number: usize,
    },
    /// In place.
    Affine {
        scale: ValueId,
        shift: ValueId,
    },
    /// In place.
    Tile(Arc<TileProgram>),
    /// In place.
    Unary(Unary),
    /// In place.
    Silu,
    Binary {
        op: Binary,
        shape: Broadcast,
    },
    /// Equal shapes.
    AddClamp {
        min: f32,
        max: f32,
    },
    Average(Window),
    Maximum(Window),
    Reduce {
        kind: Reduce,
        shape: [usize; 3],
    },
    Gather(Gather),
    /// Of `[outer, axis, inner]`, the indices along the axis.
    Take {
        shape: [usize; 3],
        indices: Arc<[usize]>,
    },
    /// What has no kernel of its own.
    Generic(Box<Generic>),
    /// Writes the operand to where the gather reads.
    Pad {
        place: Gather,
        value: f32,
    },
    /// The operands' row lengths.
    Concat {
        widths: Vec<usize>,
    },
}

impl Kernel {
    /// Whether it works in place on its first operand's values.
    pub fn in_place(&self) -> bool {
        match self {
            Self::Noise { .. }
            | Self::Block(_)
            | Self::LeakyRelu
            | Self::Affine { .. }
            | Self::Tile(_)
            | Self::Unary(_)
            | Self::Silu => true,
            Self::Product { .. }
            | Self::MatMul { .. }
            | Self::Pointwise { .. }
            | Self::Filter { .. }
            | Self::Draw { .. }
            | Self::Binary { .. }
            | Self::AddClamp { .. }
            | Self::Average(_)
            | Self::Maximum(_)
            | Self::Reduce { .. }
            | Self::Gather(_)
            | Self::Take { .. }
            | Self::Generic(_)
            | Self::Pad { .. }
            | Self::Concat { .. } => false,
        }
    }

    /// Whether small changes of its operands change nothing: integers and booleans are constant almost everywhere, a draw
    /// depends on nothing.
    fn is_constant(&self) -> bool {
        match self {
            Self::Generic(generic) => generic.result.0 != DType::F32,
            kernel => matches!(kernel, Self::Draw { .. }),
        }
    }

    /// The denoiser weights that it reads.
    fn parameters(&self) -> Vec<ValueId> {
        match self {
            Self::Block(block) => block.parameters(),
            Self::Pointwise { weight, bias, .. } | Self::Filter { weight, bias, .. } => {
                [*weight].into_iter().chain(*bias).collect()
            }
            Self::Affine { scale, shift } => vec![*scale, *shift],
            Self::Product { .. }
            | Self::MatMul { .. }
            | Self::Noise { .. }
            | Self::LeakyRelu
            | Self::Draw { .. }
            | Self::Tile(_)
            | Self::Unary(_)
            | Self::Silu
            | Self::Binary { .. }
            | Self::AddClamp { .. }
            | Self::Average(_)
            | Self::Maximum(_)
            | Self::Reduce { .. }
            | Self::Gather(_)
            | Self::Take { .. }
            | Self::Generic(_)
            | Self::Pad { .. }
            | Self::Concat { .. } => Vec::new(),
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub kernel: Kernel,
    pub inputs: Vec<Id>,
    pub output: Id,
    /// The analog layer whose output y this computes.
    pub layer: Option<LayerId>,
    /// Whether an in-place kernel may take over its operand's buffer.
    pub takes_buffer: bool,
    /// Values that are not read after this step.
    pub frees: Vec<Id>,
    /// Whether the backward pass visits it.
    pub gradient: bool,
}

/// A straight line of kernels for one sample.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub values: Vec<Value>,
    /// The program outputs' values (or only the logits').
    pub targets: Vec<Id>,
    pub logits: Id,
}

struct Builder<'a> {
    network: &'a Network,
    key: PlanKey,
    values: Vec<Value>,
    steps: Vec<Step>,
    /// Program value → plan value.
    map: Vec<Option<Id>>,
}

impl<'a> Builder<'a> {
    fn value(&mut self, place: Place, len: usize) -> Id {
        self.values.push(Value { place, len, gradient: false, saved: false });
        self.values.len() - 1
    }

    /// The plan value of a program value.
    fn id(&mut self, value: ValueId) -> Id {
        if let Some(id) = self.map[value] {
            return id;
        }
        let len = self.network.len(value);
        let place = match self.network.program.inputs.iter().position(|&input| input == value) {
            Some(input) => Place::Input(input),
            None => Place::Constant(value),
        };
        let id = self.value(place, len);
        self.map[value] = Some(id);
        id
    }

    fn step(&mut self, kernel: Kernel, inputs: Vec<Id>, len: usize) -> Id {
        let output = self.value(Place::Buffer, len);
        self.steps.push(Step {
            kernel,
            inputs,
            output,
            layer: None,
            takes_buffer: false,
            frees: Vec::new(),
            gradient: false,
        });
        output
    }

    fn constant(&self, value: ValueId) -> &[f32] {
        self.network.program.values[value].constant.as_ref().map_or(&[], |weight| weight.values())
    }

    fn bias(&self, value: ValueId, len: usize) -> Arc<[f32]> {
        match self.constant(value) {
            [one] if len != 1 => vec![*one; len].into(),
            values => values.into(),
        }
    }

    /// A layer that is noisy in this plan.
    fn noisy(&self, layer: Option<LayerId>) -> Result<Option<(LayerId, &'a Layer)>, ExecError> {
        let Some(id) = layer.filter(|_| self.key.noise) else {
            return Ok(None);
        };
        let layer = &self.network.program.layers[id];
        let noise = &layer.noise;
        if noise.spec.is_ideal() {
            return Ok(None);
        }
        if noise.scale != Scale::Signal && layer.calibration.is_none() {
            return Err(ExecError::Program(format!(
                "layer `{}` has no calibration, which the noise scale `{}` needs; calibrate the model first",
                layer.name, noise.scale
            )));
        }
        for component in &noise.spec.components {
            match component.site {
                Site::Input | Site::Output => {}
                site @ (Site::Weight | Site::PartialSum) => {
                    return Err(ExecError::Program(format!(
                        "layer `{}`: `{component}` acts on the {site}, where no kernel draws yet; only the input and the \
                         output have noise",
                        layer.name
                    )));
                }
            }
        }
        Ok(Some((id, layer)))
    }

    /// Emits an analog layer: its product between the noise of its input and of its output.
    fn layer(
        &mut self,
        node: usize,
        layer: Option<LayerId>,
        x: Id,
        product: impl FnOnce(&Self) -> Product,
    ) -> Result<Id, ExecError> {
        let network = self.network;
        let len = network.len(network.program.nodes[node].output);
        let noisy = self.noisy(layer)?;
        let limits = noisy.and_then(|(_, layer)| layer.limits());
        let acts_at = |site: Site| noisy.filter(|(_, layer)| layer.noise.spec.acts_at(site));
        let before = acts_at(Site::Input);
        // A tile saturates at its output whether or not a component acts there.
        let after = acts_at(Site::Output).or(noisy.filter(|_| limits.is_some()));
        let product = product(self);
        let x = match before {
            Some((layer, _)) => self.step(Kernel::Noise { layer, site: Site::Input }, vec![x], self.values[x].len),
            None => x,
        };
        let y = self.step(Kernel::Product { product, limit: limits.map(|limits| limits[0]) }, vec![x], len);
        if let Some(step) = self.steps.last_mut() {
            step.layer = layer;
        }
        Ok(match after {
            Some((layer, _)) => self.step(Kernel::Noise { layer, site: Site::Output }, vec![y], len),
            None => y,
        })
    }

    /// The step that computes a value.
    fn producer(&self, id: Id) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.output == id)
    }

    /// The operand of the elementwise function that computes a value, if it is this one.
    fn operand_of(&self, id: Id, function: Unary) -> Option<Id> {
        let Step { kernel: Kernel::Unary(op), inputs, .. } = self.producer(id)? else {
            return None;
        };
        inputs.first().copied().filter(|_| *op == function)
    }

    /// Leaves a node to the plain interpreter.
    fn generic(&mut self, node: &Node, len: usize) -> Id {
        let network = self.network;
        let typed = |id: ValueId| (network.program.values[id].dtype, network.shapes[id].clone());
        let generic = Generic {
            op: node.op.clone(),
            operands: node.inputs.iter().map(|&id| typed(id)).collect(),
            result: typed(node.output),
        };
        let inputs = node.inputs.iter().map(|&id| self.id(id)).collect();
        self.step(Kernel::Generic(Box::new(generic)), inputs, len)
    }

    #[allow(clippy::too_many_lines)]
    fn node(&mut self, index: usize) -> Result<(), ExecError> {
        let network = self.network;
        let node = &network.program.nodes[index];
        let shape = |operand: usize| &network.shapes[node.inputs[operand]];
        let x = self.id(node.inputs[0]);
        let len = network.len(node.output);
        let result = &network.shapes[node.output];
        let dtype = |id: ValueId| network.program.values[id].dtype;
        let constant = |operand: usize| network.program.values[node.inputs[operand]].constant.is_some();
        let typed = node.inputs.iter().chain([&node.output]).any(|&id| dtype(id) != DType::F32);
        let id = match &node.op {
            // Words stay as they are.
            Op::Unary(Unary::Identity) | Op::Reshape => x,
            // Only the interpreter runs these.
            Op::Cast
            | Op::Select
            | Op::ArgMax { .. }
            | Op::Pick { .. }
            | Op::Scatter { .. }
            | Op::TopK { .. }
            | Op::CumSum { .. }
            | Op::GridSample(_) => self.generic(node, len),
            // Weights or indices that are computed.
            Op::Conv2d { .. } if !constant(1) || !constant(2) => self.generic(node, len),
            Op::Take { .. } if dtype(node.output) != DType::F32 || !constant(1) => self.generic(node, len),
            Op::Binary(op) if !op.is_arithmetic() => self.generic(node, len),
            Op::Conv2d { layer, .. } => {
                let bias = node.inputs[2];
                self.layer(index, *layer, x, |builder| match &network.convolutions[index] {
                    Some(ConvolutionKind::Depthwise(shape, filter)) => Product::Depthwise {
                        shape: *shape,
                        filter: Arc::clone(filter),
                        bias: builder.bias(bias, shape.channels),
                    },
                    Some(ConvolutionKind::Dense(_)) | None => Product::Convolution { node: index },
                })?
            }
            Op::Take { axis } => {
                let from = shape(0);
                let last = from[*axis].saturating_sub(1);
                let indices = dtype(node.inputs[1]).decode(self.constant(node.inputs[1]));
                let indices = indices.into_iter().map(|index| usize::try_from(index).unwrap_or(0).min(last)).collect();
                let around = [from[..*axis].iter().product(), from[*axis], from[axis + 1..].iter().product()];
                self.step(Kernel::Take { shape: around, indices }, vec![x], len)
            }
            // Integers and booleans.
            _ if typed => self.generic(node, len),
            Op::FullyConnected { layer } => {
                let (outputs, inputs) = (shape(1)[0], shape(1)[1]);
                let rows = len / outputs.max(1);
                let (weights, bias) = (node.inputs[1], node.inputs[2]);
                if !constant(1) || !constant(2) {
                    return Err(error(index, &node.op, "its weight and bias must be constants"));
                }
                self.layer(index, *layer, x, |builder| {
                    let transposed = (rows > 1).then(|| {
                        let mut transposed = vec![0.0; inputs * outputs];
                        crate::kernels::gemm::transpose(builder.constant(weights), inputs, &mut transposed);
                        transposed.into()
                    });
                    let bias = builder.bias(bias, outputs);
                    Product::FullyConnected { rows, inputs, outputs, weights, transposed, bias }
                })?
            }
            Op::MatMul => {
                let y = self.id(node.inputs[1]);
                let (left, right) = (shape(0), shape(1));
                let [m, k] = [left[left.len() - 2], left[left.len() - 1]];
                let batch = left[..left.len() - 2].iter().product();
                let kernel = Kernel::MatMul { batch, m, k, n: right[right.len() - 1] };
                self.step(kernel, vec![x, y], len)
            }
            Op::DenoiseTile { layer, .. } if self.key.goal == Goal::Train => {
                return Err(ExecError::Program(format!(
                    "the denoiser of layer `{}` runs on the digital tile, in integers, which have no gradient; \
                     train the network at its denoise level and lower it afterwards",
                    network.program.layers.get(*layer).map_or("?", |layer| layer.name.as_str())
                )));
            }
            op if op.cleans().is_some() && !self.key.denoise => x,
            Op::DenoiseTile { program, .. } => self.step(Kernel::Tile(Arc::clone(program)), vec![x], len),
            Op::Denoise { layer, kind } => self.denoise(*layer, kind.expression(), x, &node.inputs[1..], result),
            // TOSA has no root and no division of floats: they are spelled with reciprocals.
            Op::Unary(op) => match self.operand_of(x, Unary::Rsqrt) {
                Some(square) if *op == Unary::Reciprocal => self.step(Kernel::Unary(Unary::Sqrt), vec![square], len),
                _ => self.step(Kernel::Unary(*op), vec![x], len),
            },
            Op::Binary(op) => {
                let y = self.id(node.inputs[1]);
                let is_sigmoid_of = |builder: &Self, gate: Id, of: Id| {
                    builder.producer(gate).is_some_and(|step| {
                        matches!(step.kernel, Kernel::Unary(Unary::Sigmoid)) && step.inputs[0] == of
                    })
                };
                let broadcast = Broadcast::new(shape(0), shape(1))
                    .ok_or_else(|| error(index, &node.op, "its operands do not broadcast"))?;
                if *op == Binary::Mul && is_sigmoid_of(self, y, x) {
                    self.step(Kernel::Silu, vec![x], len)
                } else if *op == Binary::Mul && is_sigmoid_of(self, x, y) {
                    self.step(Kernel::Silu, vec![y], len)
                } else if *op == Binary::Mul
                    && let Some(divisor) = self.operand_of(y, Unary::Reciprocal)
                {
                    self.step(Kernel::Binary { op: Binary::Div, shape: broadcast }, vec![x, divisor], len)
                } else if *op == Binary::Mul
                    && let Some(divisor) = self.operand_of(x, Unary::Reciprocal)
                {
                    let shape = broadcast.swapped();
                    self.step(Kernel::Binary { op: Binary::Div, shape }, vec![y, divisor], len)
                } else {
                    self.step(Kernel::Binary { op: *op, shape: broadcast }, vec![x, y], len)
                }
            }
            Op::AvgPool { kernel, stride, pad } | Op::MaxPool { kernel, stride, pad } => {
                let window = Window {
                    input: [shape(0)[1], shape(0)[2]],
                    output: [result[1], result[2]],
                    channels: result[3],
                    kernel: *kernel,
                    stride: *stride,
                    pad: [pad[0], pad[2]],
                };
                let average = matches!(node.op, Op::AvgPool { .. });
                let kernel = if average { Kernel::Average(window) } else { Kernel::Maximum(window) };
                self.step(kernel, vec![x], len)
            }
            Op::Reduce { kind, axis } => {
                let shape = shape(0);
                let around = [shape[..*axis].iter().product(), shape[*axis], shape[axis + 1..].iter().product()];
                if around[1] == 1 { x } else { self.step(Kernel::Reduce { kind: *kind, shape: around }, vec![x], len) }
            }
            Op::Transpose { perms } => self.gather(Gather::transpose(shape(0), perms), x, len),
            Op::Tile { repeats } => self.gather(Gather::tile(shape(0), repeats), x, len),
            Op::Slice { start } => self.gather(Gather::slice(shape(0), start, result), x, len),
            Op::Pad { pad, value } => {
                let start: Vec<usize> = pad.iter().map(|[before, _]| *before).collect();
                let place = Gather::slice(result, &start, shape(0));
                if place.is_identity(len) { x } else { self.step(Kernel::Pad { place, value: *value }, vec![x], len) }
            }
            Op::Concat { axis } => {
                let inputs: Vec<Id> = node.inputs.iter().map(|&input| self.id(input)).collect();
                let widths = (0..inputs.len()).map(|operand| shape(operand)[*axis..].iter().product()).collect();
                if inputs.len() == 1 { x } else { self.step(Kernel::Concat { widths }, inputs, len) }
            }
        };
        self.map[node.output] = Some(id);
        Ok(())
    }

    fn gather(&mut self, gather: Gather, x: Id, len: usize) -> Id {
        if gather.is_identity(len) && self.values[x].len == len {
            x
        } else {
            self.step(Kernel::Gather(gather), vec![x], len)
        }
    }

    /// Drops steps whose results nobody reads.
    fn drop_dead(&mut self, targets: &[Id]) {
        let mut live = vec![false; self.values.len()];
        targets.iter().for_each(|&id| live[id] = true);
        for index in (0..self.steps.len()).rev() {
            let step = &self.steps[index];
            let observed = step.layer.is_some() && matches!(self.key.goal, Goal::Layers);
            if live[step.output] || observed {
                step.inputs.iter().for_each(|&id| live[id] = true);
                live[step.output] = true;
            }
        }
        self.steps.retain(|step| live[step.output]);
    }

    /// Fuses a clamp into the sum that it alone reads.
    fn fuse_clamps(&mut self, targets: &[Id]) {
        let mut uses = vec![0usize; self.values.len()];
        self.steps.iter().flat_map(|step| &step.inputs).chain(targets).for_each(|&id| uses[id] += 1);
        for index in 1..self.steps.len() {
            let (before, after) = self.steps.split_at_mut(index);
            let clamp = &mut after[0];
            let Kernel::Unary(Unary::Clamp { min, max }) = clamp.kernel else {
                continue;
            };
            let Some(sum) = before.iter_mut().find(|step| step.output == clamp.inputs[0]) else {
                continue;
            };
            let Kernel::Binary { op: Binary::Add, .. } = sum.kernel else {
                continue;
            };
            let equal = sum.inputs.iter().all(|&id| self.values[id].len == self.values[sum.output].len);
            if equal && uses[sum.output] == 1 {
                clamp.kernel = Kernel::AddClamp { min, max };
                clamp.inputs.clone_from(&sum.inputs);
                uses[sum.output] = 0;
            }
        }
        self.drop_dead(targets);
    }

    /// Turns a product and a sum with a constant per channel (an unfolded batch normalisation) into one map.
    fn fuse_affines(&mut self, targets: &[Id]) {
        let mut uses = vec![0usize; self.values.len()];
        self.steps.iter().flat_map(|step| &step.inputs).chain(targets).for_each(|&id| uses[id] += 1);
        let constant = |values: &[Value], step: &Step, wanted: Binary| {
            let Kernel::Binary { op, shape } = &step.kernel else {
                return None;
            };
            if *op != wanted {
                return None;
            }
            let (left, right) = (step.inputs[0], step.inputs[1]);
            [(left, right, shape.clone()), (right, left, shape.swapped())].into_iter().find_map(|(x, y, shape)| {
                match values[y].place {
                    Place::Constant(id) => Some((x, id, shape.per_channel()?)),
                    Place::Input(_) | Place::Buffer => None,
                }
            })
        };
        for index in 1..self.steps.len() {
            let (before, after) = self.steps.split_at_mut(index);
            let sum = &mut after[0];
            let Some((product, shift, channels)) = constant(&self.values, sum, Binary::Add) else {
                continue;
            };
            let Some(step) = before.iter().find(|step| step.output == product) else {
                continue;
            };
            let Some((x, scale, same)) = constant(&self.values, step, Binary::Mul) else {
                continue;
            };
            if channels == same && uses[product] == 1 {
                sum.kernel = Kernel::Affine { scale, shift };
                sum.inputs = vec![x];
                uses[product] = 0;
            }
        }
        self.drop_dead(targets);
    }

    /// Marks what the backward pass visits, and the values that it reads.
    fn mark_gradients(&mut self) -> Result<(), ExecError> {
        let values = &self.network.program.values;
        let trainable = |kernel: &Kernel| kernel.parameters().iter().any(|&id| values[id].trainable);
        for index in 0..self.steps.len() {
            let step = &self.steps[index];
            let starts = match self.key.goal {
                Goal::Sensitivity => step.layer.is_some(),
                Goal::Train => trainable(&step.kernel),
                Goal::Outputs | Goal::Logits | Goal::Layers => false,
            };
            let passes = !step.kernel.is_constant() && step.inputs.iter().any(|&id| self.values[id].gradient);
            if let Kernel::Generic(generic) = &step.kernel
                && passes
                && generic::gradient_reads(&generic.op).is_none()
            {
                let name = format!("{:?}", generic.op);
                let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
                return Err(ExecError::Program(format!(
                    "{name} of values that depend on a denoiser has no gradient; place the denoisers behind it \
                     (--placement at=GLOB)"
                )));
            }
            self.values[step.output].gradient = starts || passes;
            self.steps[index].gradient = starts || passes;
            if !(starts || passes) {
                continue;
            }
            let step = &self.steps[index];
            let mut saved = Vec::new();
            match &step.kernel {
                Kernel::Product { limit: Some(_), .. } => saved.push(step.inputs[0]),
                Kernel::Noise { layer, site } => match self.network.program.layers[*layer].noise.scale {
                    Scale::Range if *site == Site::Output => saved.push(step.output),
                    Scale::Range | Scale::Constant => {}
                    Scale::Signal => saved.extend([step.inputs[0], step.output]),
                },
                Kernel::Pointwise { .. } | Kernel::Filter { .. } | Kernel::Affine { .. }
                    if !trainable(&step.kernel) => {}
                Kernel::Block(_)
                | Kernel::Pointwise { .. }
                | Kernel::Filter { .. }
                | Kernel::Affine { .. }
                | Kernel::Silu => saved.push(step.inputs[0]),
                Kernel::LeakyRelu => saved.push(step.output),
                Kernel::Unary(op) => match unary_reads(*op) {
                    Reads::Nothing => {}
                    Reads::Input => saved.push(step.inputs[0]),
                    Reads::Output => saved.push(step.output),
                },
                Kernel::Binary { op, .. } if binary_reads(*op) => saved.extend(&step.inputs),
                Kernel::MatMul { .. } => saved.extend(&step.inputs),
                Kernel::Generic(generic) => {
                    saved.extend(
                        generic::gradient_reads(&generic.op).unwrap_or_default().iter().map(|&at| step.inputs[at]),
                    );
                }
                Kernel::AddClamp { .. } => saved.push(step.output),
                Kernel::Maximum(_) | Kernel::Reduce { .. } => saved.extend([step.inputs[0], step.output]),
                Kernel::Product { limit: None, .. }
                | Kernel::Draw { .. }
                | Kernel::Tile(_)
                | Kernel::Binary { .. }
                | Kernel::Average(_)
                | Kernel::Gather(_)
                | Kernel::Take { .. }
                | Kernel::Pad { .. }
                | Kernel::Concat { .. } => {}
            }
            saved.into_iter().for_each(|id| self.values[id].saved = true);
        }
        Ok(())
    }

    /// Decides which values are freed where and which buffers are taken over.
    fn assign_buffers(&mut self, targets: &[Id]) {
        let mut last = vec![None; self.values.len()];
        for (index, step) in self.steps.iter().enumerate() {
            step.inputs.iter().for_each(|&id| last[id] = Some(index));
            last[step.output] = last[step.output].or(Some(index));
        }
        let keep =
            |values: &[Value], id: Id| values[id].saved || targets.contains(&id) || values[id].place != Place::Buffer;
        for index in 0..self.steps.len() {
            let step = &self.steps[index];
            let takes =
                step.kernel.in_place() && last[step.inputs[0]] == Some(index) && !keep(&self.values, step.inputs[0]);
            let mut frees: BTreeSet<Id> = step
                .inputs
                .iter()
                .chain([&step.output])
                .copied()
                .filter(|&id| last[id] == Some(index) && !keep(&self.values, id))
                .collect();
            if takes {
                frees.remove(&step.inputs[0]);
            }
            let step = &mut self.steps[index];
            step.takes_buffer = takes;
            step.frees = frees.into_iter().collect();
        }
    }
}

impl Plan {
    /// Plans a kind of run.
    pub fn new(network: &Network, key: PlanKey) -> Result<Self, ExecError> {
        let mut builder = Builder {
            network,
            key,
            values: Vec::new(),
            steps: Vec::new(),
            map: vec![None; network.program.values.len()],
        };
        for index in 0..network.program.nodes.len() {
            builder.node(index)?;
        }
        let logits = builder.id(network.program.logits);
        let targets: Vec<Id> = match key.goal {
            Goal::Outputs => network.program.outputs.iter().map(|&output| builder.id(output)).collect(),
            Goal::Layers => Vec::new(),
            Goal::Logits | Goal::Train | Goal::Sensitivity => vec![logits],
        };
        builder.drop_dead(&targets);
        builder.fuse_clamps(&targets);
        builder.fuse_affines(&targets);
        if matches!(key.goal, Goal::Train | Goal::Sensitivity) {
            builder.mark_gradients()?;
        }
        builder.assign_buffers(&targets);
        Ok(Self { steps: builder.steps, values: builder.values, targets, logits })
    }
}
