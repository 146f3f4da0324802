//! The nodes of one layer's denoisers, in f32 whatever the layer's data type.

use super::{Denoiser, ExportError, LayerDenoisers};
use crate::{
    egraph::denoiser::simplify,
    import::{self, integer},
};
use mxc_dialects::{
    denoise::{SLOPE, expression::Primitive},
    origin::Step,
};
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
        for denoiser in &denoisers.denoisers {
            value = self.terms(&value, denoiser, sampling)?;
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

    /// A denoiser, term by term; without sampling ε = 0, and what is left over then.
    fn terms(&mut self, x: &str, denoiser: &Denoiser, sampling: bool) -> Result<String, ExportError> {
        let whole = denoiser.kind.expression();
        let failed = |reason: String| ExportError::Weights { layer: self.layer.to_owned(), reason };
        let shapes: Vec<_> = denoiser.weights.iter().map(Weight::shape).collect();
        whole.fit(self.channels, &shapes).map_err(failed)?;
        let draw = |term: &usize| matches!(whole.terms()[*term].primitive, Primitive::Draw { .. });
        let zero: Vec<_> = (0..whole.terms().len()).filter(|term| !sampling && draw(term)).collect();
        let expression = simplify(whole, &zero).map_err(failed)?;
        let weight = |parameter: usize| {
            let wanted = &expression.parameters()[parameter];
            let mut pairs = whole.parameters().iter().zip(&denoiser.weights);
            pairs.find_map(|(parameter, weight)| (parameter == wanted).then_some(weight))
        };
        let missing = || failed("one of its weights is missing".to_owned());
        let mut values: Vec<String> = Vec::new();
        for term in expression.terms() {
            let name = term.name.as_str();
            let value = match &term.primitive {
                Primitive::Input => x.to_owned(),
                Primitive::Pointwise { x, weight: w, bias } => {
                    let w = weight(*w).ok_or_else(missing)?;
                    self.pointwise(&values[*x], name, w, bias.and_then(weight))
                }
                Primitive::Depthwise { x, weight: w, bias } => {
                    let w = weight(*w).ok_or_else(missing)?;
                    self.depthwise(&values[*x], name, w, bias.and_then(weight))
                }
                Primitive::LeakyRelu { x } => {
                    self.node("LeakyRelu", &[&values[*x]], name, vec![float("alpha", SLOPE as f32)])
                }
                Primitive::ScaleShift { x, scale, shift } => {
                    let scale = scale.map(|scale| weight(scale).ok_or_else(missing)).transpose()?;
                    let shift = weight(*shift).ok_or_else(missing)?;
                    self.scale_shift(&values[*x], name, scale, shift)
                }
                Primitive::Draw { like } => self.node("RandomNormalLike", &[&values[*like]], name, vec![]),
                Primitive::Multiply([a, b]) => self.node("Mul", &[&values[*a], &values[*b]], name, vec![]),
                Primitive::Add([a, b]) => self.node("Add", &[&values[*a], &values[*b]], name, vec![]),
                Primitive::Subtract([a, b]) => self.node("Sub", &[&values[*a], &values[*b]], name, vec![]),
            };
            values.push(value);
        }
        values.pop().ok_or_else(missing)
    }

    /// A 1×1 convolution, or a matrix product over the last axis; weight `[O, 1, 1, I]`.
    fn pointwise(&mut self, x: &str, part: &str, weight: &Weight, bias: Option<&Weight>) -> String {
        let (outputs, inputs) = (weight.shape()[0], weight.shape()[3]);
        let bias = bias.map(|bias| self.constant(&format!("{part}.bias"), &[outputs], bias.values()));
        if let Place::First(axes) = &self.place {
            // [O, 1, 1, I] and [O, I, 1, 1] are the same bytes.
            let ones = vec![1; axes.len()];
            let kernel: Vec<i64> = vec![1; axes.len()];
            let dims = [&[outputs, inputs], ones.as_slice()].concat();
            let weight = self.constant(&format!("{part}.weight"), &dims, weight.values());
            return self.convolution(x, part, &weight, bias.as_deref(), vec![integers("kernel_shape", &kernel)]);
        }
        let values: Vec<f32> = (0..inputs)
            .flat_map(|input| (0..outputs).map(move |output| (input, output)))
            .map(|(input, output)| weight.values()[output * inputs + input])
            .collect();
        let weight = self.constant(&format!("{part}.weight"), &[inputs, outputs], &values);
        self.plus("MatMul", x, part, &weight, bias.as_deref())
    }

    fn convolution(
        &mut self,
        x: &str,
        part: &str,
        weight: &str,
        bias: Option<&str>,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let inputs: Vec<&str> = [x, weight].into_iter().chain(bias).collect();
        self.node("Conv", &inputs, part, attributes)
    }

    /// A product and, if there is one, a bias.
    fn plus(&mut self, op: &str, x: &str, part: &str, weight: &str, bias: Option<&str>) -> String {
        let Some(bias) = bias else {
            return self.node(op, &[x, weight], part, vec![]);
        };
        let product = self.node(op, &[x, weight], &format!("{part}.product"), vec![]);
        self.node("Add", &[&product, bias], part, vec![])
    }

    /// One filter per channel; weight `[K, K, C, 1]`. Along an axis of size 1, and along one that is not there, only the
    /// middle of a filter meets anything but padding.
    fn depthwise(&mut self, x: &str, part: &str, weight: &Weight, bias: Option<&Weight>) -> String {
        let (kernel, channels) = (weight.shape()[0], weight.shape()[2]);
        let bias = bias.map(|bias| self.constant(&format!("{part}.bias"), &[channels], bias.values()));
        let middle = kernel / 2;
        let along = |axis: usize, axes: &[usize]| if axes.contains(&axis) { 0..kernel } else { middle..middle + 1 };
        let taps = |axes: &[usize]| -> Vec<f32> {
            let (rows, columns) = (along(0, axes), along(1, axes));
            (0..channels)
                .flat_map(|channel| rows.clone().map(move |row| (channel, row)))
                .flat_map(|(channel, row)| columns.clone().map(move |column| (channel, row, column)))
                .map(|(channel, row, column)| weight.values()[(row * kernel + column) * channels + channel])
                .collect()
        };
        let name = format!("{part}.weight");
        let Place::First(axes) = self.place.clone() else {
            let weight = self.constant(&name, &[channels], &taps(&[]));
            return self.plus("Mul", x, part, &weight, bias.as_deref());
        };
        let dims = [vec![channels, 1], vec![kernel; axes.len()]].concat();
        let weight = self.constant(&name, &dims, &taps(&axes));
        let attributes = vec![
            integers("kernel_shape", &vec![kernel as i64; axes.len()]),
            integers("pads", &vec![middle as i64; 2 * axes.len()]),
            integer("group", channels as i64),
        ];
        self.convolution(x, part, &weight, bias.as_deref(), attributes)
    }

    /// `x·scale + shift` per channel.
    fn scale_shift(&mut self, x: &str, part: &str, scale: Option<&Weight>, shift: &Weight) -> String {
        let dims = match &self.place {
            Place::First(axes) => [vec![shift.len()], vec![1; axes.len()]].concat(),
            Place::Last => vec![shift.len()],
        };
        let scaled = scale.map(|scale| {
            let scale = self.constant("scale", &dims, scale.values());
            self.node("Mul", &[x, &scale], "scaled", vec![])
        });
        let shift = self.constant("shift", &dims, shift.values());
        self.node("Add", &[scaled.as_deref().unwrap_or(x), &shift], part, vec![])
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
