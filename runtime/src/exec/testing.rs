//! Programs made by hand, for tests and benchmarks.

use mxc_dialects::{
    denoise::{
        Kind,
        expression::{Initial, Layout, Site},
    },
    noise::LayerNoise,
};
use mxc_runtime::{
    program::{Binary, Calibration, DType, Layer, LayerId, Node, Op, Program, Unary, Value, ValueId},
    store::Weight,
};

/// A program under construction, with random weights.
pub struct Net {
    pub program: Program,
    state: u64,
    pub noise: LayerNoise,
}

#[allow(dead_code)]
impl Net {
    pub fn new() -> Self {
        Self { program: Program::default(), state: 1, noise: LayerNoise::default() }
    }

    /// A number in ±1 (SplitMix64).
    pub fn random(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn randoms(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.random() * scale).collect()
    }

    fn value(&mut self, shape: Vec<Option<usize>>) -> ValueId {
        let name = format!("v{}", self.program.values.len());
        self.program.values.push(Value { name, shape, ..Value::default() });
        self.program.values.len() - 1
    }

    /// A batch of samples of this shape.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        let mut full = vec![None];
        full.extend(shape.iter().map(|&size| Some(size)));
        let id = self.value(full);
        self.program.inputs.push(id);
        id
    }

    pub fn constant(&mut self, shape: &[usize], values: Vec<f32>, trainable: bool) -> ValueId {
        let id = self.value(shape.iter().map(|&size| Some(size)).collect());
        self.program.values[id].constant = Weight::new(shape.to_vec(), values);
        self.program.values[id].trainable = trainable;
        id
    }

    pub fn weight(&mut self, shape: &[usize], scale: f32, trainable: bool) -> ValueId {
        let values = self.randoms(shape.iter().product(), scale);
        self.constant(shape, values, trainable)
    }

    pub fn shape(&self, id: ValueId) -> Vec<usize> {
        self.program.values[id].shape.iter().map(|size| size.unwrap_or(1)).collect()
    }

    /// A node whose result has `shape` (the batch axis left out).
    pub fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let mut full = vec![None];
        full.extend(shape.iter().map(|&size| Some(size)));
        let output = self.value(full);
        self.program.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        output
    }

    pub fn layer(&mut self, channels: usize) -> LayerId {
        let layers = &mut self.program.layers;
        layers.push(Layer {
            name: format!("layer{}", layers.len()),
            channels,
            noise: self.noise.clone(),
            calibration: Some(Calibration {
                samples: 1,
                rms: 0.8,
                absmax: 1.0,
                mean_abs: 0.6,
                std: 0.7,
                input_absmax: 0.9,
            }),
        });
        layers.len() - 1
    }

    #[allow(clippy::too_many_arguments)]
    pub fn conv_with(
        &mut self,
        x: ValueId,
        outputs: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 4],
        dilation: [usize; 2],
        groups: usize,
    ) -> ValueId {
        let shape = self.shape(x);
        let inputs = shape[3] / groups;
        let scale = (3.0 / (kernel[0] * kernel[1] * inputs) as f32).sqrt();
        let w = self.weight(&[outputs, kernel[0], kernel[1], inputs], scale, false);
        let b = self.weight(&[outputs], 0.1, false);
        let out = |axis: usize| {
            (shape[axis + 1] + pad[2 * axis] + pad[2 * axis + 1] - (kernel[axis] - 1) * dilation[axis] - 1)
                / stride[axis]
                + 1
        };
        let result = [out(0), out(1), outputs];
        let layer = Some(self.layer(outputs));
        self.node(Op::Conv2d { stride, pad, dilation, groups, layer }, &[x, w, b], &result)
    }

    pub fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, stride: usize, groups: usize) -> ValueId {
        self.conv_with(x, outputs, [kernel; 2], [stride; 2], [kernel / 2; 4], [1, 1], groups)
    }

    pub fn linear(&mut self, x: ValueId, outputs: usize) -> ValueId {
        let mut shape = self.shape(x);
        let inputs = shape.pop().unwrap_or(1);
        let w = self.weight(&[outputs, inputs], (3.0 / inputs as f32).sqrt(), false);
        let b = self.weight(&[outputs], 0.1, false);
        shape.push(outputs);
        let layer = Some(self.layer(outputs));
        self.node(Op::FullyConnected { layer }, &[x, w, b], &shape[1..])
    }

    pub fn affine(&mut self, x: ValueId) -> ValueId {
        self.denoiser(Kind::named("affine").expect("a kind"), x, false, 1.0)
    }

    /// A block after a convolution, or on tokens. `heads` scales the two heads' weights.
    pub fn block(&mut self, x: ValueId, sigma: bool, heads: f32) -> ValueId {
        let kind = Kind::named(if sigma { "paper" } else { "mean" }).expect("a kind");
        self.denoiser(kind, x, self.shape(x).len() == 4, heads)
    }

    /// A denoiser with random weights; `heads` scales those that start at zero.
    pub fn denoiser(&mut self, kind: &'static Kind, x: ValueId, spatial: bool, heads: f32) -> ValueId {
        let shape = self.shape(x);
        let site = Site { channels: shape[shape.len() - 1], spatial };
        let mut operands = vec![x];
        for parameter in kind.expression().parameters() {
            let shape = parameter.layout.shape(site);
            let bias = matches!(parameter.layout, Layout::PerChannel(_));
            operands.push(match parameter.initial {
                Initial::One => {
                    let values = self.randoms(shape[0], 0.2).iter().map(|x| 1.0 + x).collect();
                    self.constant(&shape, values, true)
                }
                Initial::Uniform(_) => self.weight(&shape, if bias { 0.1 } else { 0.5 }, true),
                Initial::Zero => self.weight(&shape, if bias { 0.1 * heads } else { heads }, true),
            });
        }
        let layer = self.program.layers.len() - 1;
        self.node(Op::Denoise { layer, kind }, &operands, &shape[1..])
    }

    pub fn unary(&mut self, op: Unary, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.node(Op::Unary(op), &[x], &shape[1..])
    }

    /// The elements at `indices` along an axis.
    pub fn take(&mut self, x: ValueId, axis: usize, indices: &[i64]) -> ValueId {
        let id = self.indices(&[indices.len()], indices);
        let mut shape = self.shape(x);
        shape[axis] = indices.len();
        self.node(Op::Take { axis }, &[x, id], &shape[1..])
    }

    /// A constant of indices, the same for every sample.
    pub fn indices(&mut self, shape: &[usize], values: &[i64]) -> ValueId {
        let id = self.constant(&[2 * values.len()], DType::I64.encode(values), false);
        self.program.values[id].shape = shape.iter().map(|&size| Some(size)).collect();
        self.program.values[id].dtype = DType::I64;
        id
    }

    /// Whether `a > b`.
    pub fn greater(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let id = self.binary(Binary::Greater, a, b);
        self.program.values[id].dtype = DType::Bool;
        id
    }

    pub fn relu(&mut self, x: ValueId) -> ValueId {
        self.unary(Unary::Clamp { min: 0.0, max: f32::INFINITY }, x)
    }

    pub fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        let shape: Vec<usize> = self.shape(a).iter().zip(self.shape(b)).map(|(&a, b)| a.max(b)).collect();
        self.node(Op::Binary(op), &[a, b], &shape[1..])
    }

    /// Global average, `[N, 1, 1, C]`.
    pub fn mean(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let kernel = [shape[1], shape[2]];
        self.node(Op::AvgPool { kernel, stride: [1, 1], pad: [0; 4] }, &[x], &[1, 1, shape[3]])
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.node(Op::Reshape, &[x], shape)
    }

    /// Ends the program in a classifier.
    pub fn classify(mut self, x: ValueId, classes: usize) -> Program {
        let len = self.shape(x).iter().product();
        let x = self.reshape(x, &[len]);
        let logits = self.linear(x, classes);
        self.program.outputs = vec![logits];
        self.program.logits = logits;
        self.program
    }

    /// A residual network of the CIFAR family on 28×28 grey images, with denoisers on the 3×3 convolutions if asked.
    pub fn resnet(blocks: usize, denoisers: bool) -> Program {
        let mut net = Self::new();
        let x = net.input(&[28, 28, 1]);
        let denoise = |net: &mut Self, x: ValueId| {
            if denoisers {
                let x = net.block(x, true, 0.01);
                net.affine(x)
            } else {
                x
            }
        };
        let x = net.conv(x, 16, 3, 1, 1);
        let x = denoise(&mut net, x);
        let mut x = net.relu(x);
        for (stage, channels) in [16, 32, 64].into_iter().enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let y = net.conv(x, channels, 3, stride, 1);
                let y = denoise(&mut net, y);
                let y = net.relu(y);
                let y = net.conv(y, channels, 3, 1, 1);
                let y = denoise(&mut net, y);
                let shortcut = if stride == 2 { net.conv(x, channels, 1, 2, 1) } else { x };
                let sum = net.binary(Binary::Add, y, shortcut);
                x = net.relu(sum);
            }
        }
        let x = net.mean(x);
        net.classify(x, 10)
    }
}
