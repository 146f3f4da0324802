//! Small ONNX models built in Rust.

use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use protobuf::Enum;

/// A model under construction. The batch is written 0 in shapes.
#[derive(Clone)]
pub struct Model(pub ModelProto);

impl Model {
    /// An empty model of operator set 17.
    pub fn new() -> Self {
        let graph = GraphProto { name: "graph".to_owned(), ..Default::default() };
        let opset = OperatorSetIdProto { version: 17, ..Default::default() };
        Self(ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(graph).into(),
            producer_name: "mxc-tests".to_owned(),
            ..Default::default()
        })
    }

    pub fn opset(mut self, version: i64) -> Self {
        self.0.opset_import[0].version = version;
        self
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub fn input(mut self, name: &str, shape: &[i64]) -> Self {
        self.graph().input.push(value_info(name, Some(shape)));
        self
    }

    /// An input of bytes (uint8).
    pub fn bytes_input(mut self, name: &str, shape: &[i64]) -> Self {
        let mut input = value_info(name, Some(shape));
        input.type_.as_mut().unwrap().mut_tensor_type().elem_type = DataType::UINT8.value();
        self.graph().input.push(input);
        self
    }

    /// An output whose shape is declared, as ONNX's checker wants it.
    pub fn output_of(mut self, name: &str, shape: &[i64]) -> Self {
        self.graph().output.push(value_info(name, Some(shape)));
        self
    }

    pub fn output(mut self, name: &str) -> Self {
        self.graph().output.push(value_info(name, None));
        self
    }

    pub fn floats(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.graph().initializer.push(floats(name, dims, values));
        self
    }

    /// A weight of distinct values.
    pub fn weight(self, name: &str, dims: &[i64]) -> Self {
        let count: i64 = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|index| ((index * 7 + 3) % 11) as f32 / 8.0 - 0.5).collect();
        self.floats(name, dims, &values)
    }

    pub fn tensor(mut self, tensor: TensorProto) -> Self {
        self.graph().initializer.push(tensor);
        self
    }

    /// A constant of integers, such as a shape.
    pub fn integers(self, name: &str, values: &[i64]) -> Self {
        self.tensor(TensorProto {
            name: name.to_owned(),
            dims: vec![values.len() as i64],
            data_type: DataType::INT64.value(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        })
    }

    /// A node with inputs and outputs separated by blanks.
    pub fn node(mut self, name: &str, op: &str, inputs: &str, outputs: &str, attributes: &[AttributeProto]) -> Self {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        self.graph().node.push(NodeProto {
            name: name.to_owned(),
            op_type: op.to_owned(),
            input: names(inputs),
            output: names(outputs),
            attribute: attributes.to_vec(),
            ..Default::default()
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.write_to_bytes().unwrap()
    }
}

/// A float tensor.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::FLOAT.value(),
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// An f32 value; 0 is the batch, `None` leaves the shape open.
fn value_info(name: &str, shape: Option<&[i64]>) -> ValueInfoProto {
    let dim = shape
        .unwrap_or_default()
        .iter()
        .map(|&size| Dimension {
            value: Some(match size {
                0 => dimension::Value::DimParam("N".to_owned()),
                size => dimension::Value::DimValue(size),
            }),
            ..Default::default()
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: DataType::FLOAT.value(),
        shape: shape.map(|_| TensorShapeProto { dim, ..Default::default() }).into(),
        ..Default::default()
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.to_owned(), type_: Some(r#type).into(), ..Default::default() }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::TENSOR.into(),
        t: Some(value).into(),
        ..Default::default()
    }
}

pub fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::GRAPH.into(),
        g: Some(value).into(),
        ..Default::default()
    }
}

/// A tensor of 64-bit integers.
pub fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 7,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}
