//! Programs made by hand, for tests and benchmarks.

use mxc_runtime::{
    program::{
        Binary, Builder, Calibration, Columns, Conv2d, DType, Denoise, Execution, FullyConnected, Layer, LayerId, Op,
        Pool, Pooling, Program, Reshape, Slice, Take, Unary, ValueId, Window,
    },
    store::Weight,
};
use mxc_spec::{
    denoise::{
        Kind,
        expression::{Initial, Layout, Site},
    },
    noise::LayerNoise,
};

/// A program under construction, with random weights.
pub struct Net {
    pub program: Builder,
    state: u64,
    layers: usize,
    values: usize,
    pub noise: LayerNoise,
    /// How layers are computed, in turn.
    pub executions: [Execution; 4],
}

#[allow(dead_code)]
impl Net {
    pub fn new() -> Self {
        Self {
            program: Builder::new(),
            state: 1,
            layers: 0,
            values: 0,
            noise: LayerNoise::default(),
            executions: [Execution::default(); 4],
        }
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

    fn name(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values - 1)
    }

    /// A batch of samples of this shape.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        let full = std::iter::once(None).chain(shape.iter().map(|&size| Some(size))).collect();
        let name = self.name();
        self.program.input(&name, DType::F32, full).expect("an input")
    }

    pub fn constant(&mut self, shape: &[usize], values: Vec<f32>, trainable: bool) -> ValueId {
        let name = self.name();
        let weight = Weight::new(shape.to_vec(), values).expect("values that fit");
        self.program.constant(&name, weight, trainable).expect("a constant")
    }

    pub fn weight(&mut self, shape: &[usize], scale: f32, trainable: bool) -> ValueId {
        let values = self.randoms(shape.iter().product(), scale);
        self.constant(shape, values, trainable)
    }

    pub fn shape(&self, id: ValueId) -> Vec<usize> {
        self.program.value(id).sample.clone()
    }

    pub fn node(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        self.program.node(op, inputs).expect("operands that fit")
    }

    pub fn layer(&mut self, channels: usize) -> LayerId {
        self.layers += 1;
        let layer = Layer {
            name: format!("layer{}", self.layers - 1),
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
            // Every other layer's channels are scaled in front of its converter.
            columns: self.layers.is_multiple_of(2).then(|| Columns {
                shift: (0..channels).map(|channel| (channel * 5 % 4) as i8).collect(),
                calibration: Calibration {
                    samples: 1,
                    rms: 1.9,
                    absmax: 2.5,
                    mean_abs: 1.4,
                    std: 1.7,
                    input_absmax: 0.9,
                },
            }),
            input_range: (self.layers % 3 == 1).then_some(0.7),
            execution: self.executions[(self.layers - 1) % 4],
        };
        self.program.layer(layer).expect("a name of its own")
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
        let layer = Some(self.layer(outputs));
        let window = Window { stride, pad, dilation };
        self.node(Conv2d { window, groups, layer }, &[x, w, b])
    }

    pub fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, stride: usize, groups: usize) -> ValueId {
        self.conv_with(x, outputs, [kernel; 2], [stride; 2], [kernel / 2; 4], [1, 1], groups)
    }

    pub fn linear(&mut self, x: ValueId, outputs: usize) -> ValueId {
        let mut shape = self.shape(x);
        let inputs = shape.pop().unwrap_or(1);
        let w = self.weight(&[outputs, inputs], (3.0 / inputs as f32).sqrt(), false);
        let b = self.weight(&[outputs], 0.1, false);
        let layer = Some(self.layer(outputs));
        self.node(FullyConnected { layer }, &[x, w, b])
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
        self.node(Denoise { layer: self.layers - 1, kind }, &operands)
    }

    pub fn unary(&mut self, op: Unary, x: ValueId) -> ValueId {
        self.node(op, &[x])
    }

    /// The elements at `indices` along an axis.
    pub fn take(&mut self, x: ValueId, axis: usize, indices: &[i64]) -> ValueId {
        let id = self.indices(&[indices.len()], indices);
        self.node(Take { axis }, &[x, id])
    }

    /// A constant of indices, the same for every sample.
    pub fn indices(&mut self, shape: &[usize], values: &[i64]) -> ValueId {
        self.program.integers("", DType::I64, shape.to_vec(), values).expect("a constant")
    }

    /// Whether `a > b`.
    pub fn greater(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(Binary::Greater, a, b)
    }

    pub fn relu(&mut self, x: ValueId) -> ValueId {
        self.unary(Unary::Clamp { min: 0.0, max: f32::INFINITY }, x)
    }

    pub fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.node(op, &[a, b])
    }

    /// Global average, `[N, 1, 1, C]`.
    pub fn mean(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let kernel = [shape[1], shape[2]];
        self.node(Pool { kind: Pooling::Average, kernel, stride: [1, 1], pad: [0; 4] }, &[x])
    }

    /// A part of a sample; the batch stays whole.
    pub fn slice(&mut self, x: ValueId, start: &[usize], shape: &[usize]) -> ValueId {
        let size = std::iter::once(None).chain(shape.iter().map(|&size| Some(size))).collect();
        self.node(Slice { start: start.to_vec(), size }, &[x])
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        let shape = std::iter::once(None).chain(shape.iter().map(|&size| Some(size))).collect();
        self.node(Reshape { shape }, &[x])
    }

    /// Ends the program; the last output is what the loss is taken of.
    pub fn finish(mut self, outputs: &[ValueId]) -> Program {
        for (index, &output) in outputs.iter().enumerate() {
            self.program.output(output, &format!("output{index}")).expect("an output");
        }
        self.program.finish(outputs.len() - 1).expect("an output")
    }

    /// Ends the program in a classifier.
    pub fn classify(mut self, x: ValueId, classes: usize) -> Program {
        let len = self.shape(x).iter().product();
        let x = self.reshape(x, &[len]);
        let logits = self.linear(x, classes);
        self.finish(&[logits])
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
