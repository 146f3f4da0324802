//! The nodes of one layer's denoisers, in f32 whatever the layer's data type.

use super::{Affine, Block, ExportError, LayerDenoisers};
use crate::import::{self, integer};
use mxc_dialects::origin::Step;
use mxc_runtime::store::Weight;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType};
use protobuf::Enum;
use std::collections::BTreeSet;

/// Where a value that denoisers work on has its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On axis 1, behind the batch; then follow the rows (0), the columns (1) or both of the layer's output, at least one of
    /// them. Those that do not follow are of size 1.
    First(Vec<usize>),
    /// On the last axis; rows and columns, if there are any, are of size 1, or the block does not reach over them.
    Last,
}

/// The number of channels that a layer's denoisers work on.
pub(super) fn channels(denoisers: &LayerDenoisers) -> Result<usize, ExportError> {
    let block = denoisers.block.as_ref().map(|block| block.mean_bias.shape());
    let affine = denoisers.affine.as_ref().map(|affine| affine.scale.shape());
    match (block, affine) {
        (Some(&[block]), Some(&[affine])) if block == affine => Ok(block),
        (Some(&[channels]), None) | (None, Some(&[channels])) => Ok(channels),
        _ => Err(ExportError::Weights {
            layer: denoisers.layer.clone(),
            reason: "its parts have different numbers of channels".to_owned(),
        }),
    }
}

/// Builds the nodes of one layer's denoisers.
pub(super) struct Builder<'a> {
    pub layer: &'a str,
    pub place: Place,
    pub channels: usize,
    /// The names of values so far.
    pub taken: &'a mut BTreeSet<String>,
    pub nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
    /// Before IR version 4 every initializer had to be an input, too.
    pub constants_as_nodes: bool,
}

impl Builder<'_> {
    /// A fresh name.
    pub fn name(&mut self, part: &str) -> String {
        let name = import::unique(&format!("mxc.{}.{part}", self.layer), |name| self.taken.contains(name));
        self.taken.insert(name.clone());
        name
    }

    fn weights_error<T>(&self, reason: impl Into<String>) -> Result<T, ExportError> {
        Err(ExportError::Weights { layer: self.layer.to_owned(), reason: reason.into() })
    }

    fn node(&mut self, op: &str, inputs: &[&str], part: &str, attributes: Vec<AttributeProto>) -> String {
        let name = self.name(part);
        self.node_to(op, inputs, &name, &name, attributes);
        name
    }

    fn node_to(&mut self, op: &str, inputs: &[&str], name: &str, output: &str, attributes: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: name.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes,
            ..Default::default()
        });
    }

    fn constant(&mut self, part: &str, dims: &[usize], values: &[f32]) -> String {
        self.tensor(part, dims, DataType::FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn tensor(&mut self, part: &str, dims: &[usize], data_type: DataType, raw_data: Vec<u8>) -> String {
        let name = self.name(part);
        let tensor = TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&size| size as i64).collect(),
            data_type: data_type.value(),
            raw_data,
            ..Default::default()
        };
        if self.constants_as_nodes {
            let value = AttributeProto {
                name: "value".to_owned(),
                type_: AttributeType::TENSOR.into(),
                t: Some(tensor).into(),
                ..Default::default()
            };
            self.node_to("Constant", &[], &name, &name, vec![value]);
        } else {
            self.initializers.push(tensor);
        }
        name
    }

    /// The denoisers from value `input` to value `output`, which are of a data type; `forth` leads from there to where the
    /// denoisers work, `back` back.
    pub fn denoise(
        &mut self,
        input: &str,
        output: &str,
        (forth, back): (&[Step], &[Step]),
        denoisers: &LayerDenoisers,
        data_type: DataType,
        sampling: bool,
    ) -> Result<(), ExportError> {
        let cast = |to: DataType| vec![integer("to", i64::from(to.value()))];
        let mut value = input.to_owned();
        if data_type != DataType::FLOAT {
            value = self.node("Cast", &[&value], "float", cast(DataType::FLOAT));
        }
        for step in forth {
            value = self.step(&value, step);
        }
        if let Some(block) = &denoisers.block {
            value = self.block(&value, block, sampling)?;
        }
        if let Some(affine) = &denoisers.affine {
            value = self.affine(&value, affine)?;
        }
        for step in back {
            value = self.step(&value, step);
        }
        if data_type != DataType::FLOAT {
            self.node("Cast", &[&value], "cast", cast(data_type));
        }
        // The last node writes the result.
        if let Some(last) = self.nodes.last_mut() {
            last.output = vec![output.to_owned()];
        }
        Ok(())
    }

    fn step(&mut self, x: &str, step: &Step) -> String {
        match step {
            Step::Transpose(perms) => {
                let perms: Vec<i64> = perms.iter().map(|&axis| axis as i64).collect();
                self.node("Transpose", &[x], "transposed", vec![integers("perm", &perms)])
            }
            Step::Reshape(shape) => {
                let sizes = shape.iter().flat_map(|size| size.map_or(-1, |size| size as i64).to_le_bytes()).collect();
                let sizes = self.tensor("shape", &[shape.len()], DataType::INT64, sizes);
                self.node("Reshape", &[x, &sizes], "reshaped", vec![])
            }
            Step::Scale(factors) => {
                let factors = self.constant("factors", &[factors.len()], factors);
                self.node("Mul", &[x, &factors], "multiplied", vec![])
            }
            Step::Shift(terms) => {
                let terms = self.constant("terms", &[terms.len()], terms);
                self.node("Add", &[x, &terms], "shifted", vec![])
            }
        }
    }

    /// `x − (μ̂ [+ ε·σ̂])`.
    fn block(&mut self, x: &str, block: &Block, sampling: bool) -> Result<String, ExportError> {
        let &[bottleneck, 1, 1, channels] = block.reduce_weight.shape() else {
            return self.weights_error(format!("its reduce weight has the shape {:?}", block.reduce_weight.shape()));
        };
        let &[kernel, width, middle, 1] = block.depthwise_weight.shape() else {
            return self
                .weights_error(format!("its depthwise weight has the shape {:?}", block.depthwise_weight.shape()));
        };
        let mut heads = vec![(&block.mean_weight, &block.mean_bias)];
        heads.extend(block.sigma.as_ref().map(|(weight, bias)| (weight, bias)));
        let heads_fit = heads
            .iter()
            .all(|(weight, bias)| weight.shape() == [channels, 1, 1, bottleneck] && bias.shape() == [channels]);
        if channels != self.channels
            || (kernel, middle) != (width, bottleneck)
            || kernel % 2 != 1
            || block.reduce_bias.shape() != [bottleneck]
            || block.depthwise_bias.shape() != [bottleneck]
            || !heads_fit
        {
            return self.weights_error("the shapes of its weights do not fit together");
        }
        let slope = || vec![float("alpha", block.slope)];
        let reduced = self.pointwise(x, "reduce", &block.reduce_weight, &block.reduce_bias);
        let h = self.node("LeakyRelu", &[&reduced], "reduce.relu", slope());
        let depthwise = self.depthwise(&h, kernel, bottleneck, block);
        let g = self.node("LeakyRelu", &[&depthwise], "depthwise.relu", slope());
        let mut noise = self.pointwise(&g, "mean", &block.mean_weight, &block.mean_bias);
        if let Some((weight, bias)) = block.sigma.as_ref().filter(|_| sampling) {
            let sigma = self.pointwise(&g, "sigma", weight, bias);
            let epsilon = self.node("RandomNormalLike", &[&sigma], "epsilon", vec![]);
            let drawn = self.node("Mul", &[&epsilon, &sigma], "drawn", vec![]);
            noise = self.node("Add", &[&drawn, &noise], "noise", vec![]);
        }
        Ok(self.node("Sub", &[x, &noise], "block", vec![]))
    }

    /// A 1×1 convolution, or a matrix product over the last axis; weight `[O, 1, 1, I]`.
    fn pointwise(&mut self, x: &str, part: &str, weight: &Weight, bias: &Weight) -> String {
        let (outputs, inputs) = (weight.shape()[0], weight.shape()[3]);
        let bias = self.constant(&format!("{part}.bias"), &[outputs], bias.values());
        if let Place::First(axes) = &self.place {
            // [O, 1, 1, I] and [O, I, 1, 1] are the same bytes.
            let ones = vec![1; axes.len()];
            let kernel: Vec<i64> = vec![1; axes.len()];
            let dims = [&[outputs, inputs], ones.as_slice()].concat();
            let weight = self.constant(&format!("{part}.weight"), &dims, weight.values());
            return self.node("Conv", &[x, &weight, &bias], part, vec![integers("kernel_shape", &kernel)]);
        }
        let values: Vec<f32> = (0..inputs)
            .flat_map(|input| (0..outputs).map(move |output| (input, output)))
            .map(|(input, output)| weight.values()[output * inputs + input])
            .collect();
        let weight = self.constant(&format!("{part}.weight"), &[inputs, outputs], &values);
        let product = self.node("MatMul", &[x, &weight], &format!("{part}.product"), vec![]);
        self.node("Add", &[&product, &bias], part, vec![])
    }

    /// One filter per channel; weight `[K, K, B, 1]`. Along an axis of size 1, and along one that is not there, only the
    /// middle of a filter meets anything but padding.
    fn depthwise(&mut self, x: &str, kernel: usize, bottleneck: usize, block: &Block) -> String {
        let (weight, bias) = (&block.depthwise_weight, &block.depthwise_bias);
        let bias = self.constant("depthwise.bias", &[bottleneck], bias.values());
        let middle = kernel / 2;
        let along = |axis: usize, axes: &[usize]| if axes.contains(&axis) { 0..kernel } else { middle..middle + 1 };
        let taps = |axes: &[usize]| -> Vec<f32> {
            let (rows, columns) = (along(0, axes), along(1, axes));
            (0..bottleneck)
                .flat_map(|channel| rows.clone().map(move |row| (channel, row)))
                .flat_map(|(channel, row)| columns.clone().map(move |column| (channel, row, column)))
                .map(|(channel, row, column)| weight.values()[(row * kernel + column) * bottleneck + channel])
                .collect()
        };
        let Place::First(axes) = self.place.clone() else {
            let weight = self.constant("depthwise.weight", &[bottleneck], &taps(&[]));
            let scaled = self.node("Mul", &[x, &weight], "depthwise.product", vec![]);
            return self.node("Add", &[&scaled, &bias], "depthwise", vec![]);
        };
        let dims = [vec![bottleneck, 1], vec![kernel; axes.len()]].concat();
        let weight = self.constant("depthwise.weight", &dims, &taps(&axes));
        let attributes = vec![
            integers("kernel_shape", &vec![kernel as i64; axes.len()]),
            integers("pads", &vec![middle as i64; 2 * axes.len()]),
            integer("group", bottleneck as i64),
        ];
        self.node("Conv", &[x, &weight, &bias], "depthwise", attributes)
    }

    /// `x·scale + shift` per channel.
    fn affine(&mut self, x: &str, affine: &Affine) -> Result<String, ExportError> {
        if affine.scale.shape() != [self.channels] || affine.shift.shape() != [self.channels] {
            return self.weights_error("its scale and shift do not have one value per channel");
        }
        let dims = match &self.place {
            Place::First(axes) => [vec![self.channels], vec![1; axes.len()]].concat(),
            Place::Last => vec![self.channels],
        };
        let scale = self.constant("scale", &dims, affine.scale.values());
        let shift = self.constant("shift", &dims, affine.shift.values());
        let scaled = self.node("Mul", &[x, &scale], "scaled", vec![]);
        Ok(self.node("Add", &[&scaled, &shift], "affine", vec![]))
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}
