//! Typed views and builders of the `denoise` dialect: trainable digital blocks on an analog layer's noisy output. What a
//! denoiser computes is its [`Kind`]'s [`expression`].

pub use mxc_spec::denoise::{KINDS, Kind, Measured, SLOPE, SLOPE_SHIFT, Stage, expression, global_name};

use crate::ir::{self, DictionaryValue};
use melior::{
    Context,
    ir::{
        Attribute, Identifier, Location, Module, Operation, OperationRef, Value, ValueLike,
        attribute::DictionaryAttribute,
        operation::{OperationBuilder, OperationLike},
    },
};

/// The attribute of a trained denoiser that draws: [`Measured`].
pub const MEASURED: &str = "measured";

impl DictionaryValue for Measured {
    fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        ir::dictionary(
            context,
            &[
                ("samples", ir::integer(context, self.samples as i64)),
                ("input_rms", ir::float(context, self.input_rms)),
                ("sigma_rms", ir::float(context, self.sigma_rms)),
            ],
        )
    }

    fn from_attribute(dictionary: &DictionaryAttribute<'_>) -> Result<Self, String> {
        let number = |key: &str, least: f64| {
            dictionary
                .element_by_name(key)
                .and_then(ir::as_f64)
                .filter(|value| value.is_finite() && *value >= least)
                .ok_or_else(|| format!("its `{MEASURED}` has no f64 `{key}` of at least {least}"))
        };
        Ok(Self {
            samples: dictionary
                .element_by_name("samples")
                .and_then(ir::as_i64)
                .and_then(|samples| u64::try_from(samples).ok())
                .ok_or_else(|| format!("its `{MEASURED}` has no integer `samples`"))?,
            // Without any signal there is no share of it.
            input_rms: number("input_rms", f64::MIN_POSITIVE)?,
            sigma_rms: number("sigma_rms", 0.0)?,
        })
    }
}

/// A view of a denoiser: the operation `denoise.KIND`.
#[derive(Clone, Copy, Debug)]
pub struct Denoiser<'c, 'a> {
    operation: OperationRef<'c, 'a>,
    kind: &'static Kind,
}

impl<'c, 'a> Denoiser<'c, 'a> {
    /// The view of an operation; `None` when it is another.
    pub fn new(operation: OperationRef<'c, 'a>) -> Option<Self> {
        Some(Self { operation, kind: Kind::of_operation(&ir::op_name(&operation))? })
    }

    /// The denoisers of `@main`, in order.
    pub fn all(module: &'a Module<'c>) -> Vec<Self> {
        let main = ir::main_function(module).and_then(ir::entry_block);
        main.map(ir::block_ops).unwrap_or_default().into_iter().filter_map(Self::new).collect()
    }

    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.operation
    }

    /// The layer it cleans.
    pub fn layer(self) -> String {
        ir::string_attr(&self.operation, crate::analog::LAYER).unwrap_or_default()
    }

    /// Its kind.
    pub fn kind(self) -> &'static Kind {
        self.kind
    }

    /// The noisy input X.
    pub fn input(self) -> Option<Value<'c, 'a>> {
        self.operation.operand(0).ok()
    }

    /// The weights, in the order of the kind's [`Expression::parameters`](expression::Expression::parameters).
    pub fn weights(self) -> Vec<Value<'c, 'a>> {
        self.operation.operands().skip(1).collect()
    }

    /// What fine-tuning measured; `Ok(None)` before it.
    pub fn measured(self) -> Result<Option<Measured>, String> {
        ir::dict_attr(&self.operation, MEASURED).map(|dictionary| Measured::from_attribute(&dictionary)).transpose()
    }

    /// The cleaned output X̂.
    pub fn output(self) -> Option<Value<'c, 'a>> {
        self.operation.result(0).ok().map(Value::from)
    }

    /// The channels C: the size of the input's last axis.
    pub fn channels(self) -> Option<usize> {
        ir::value_shape(self.input()?)?.last().copied().flatten()
    }
}

/// Builds a denoiser; `weights` are in the order of the kind's [`Expression::parameters`](expression::Expression::parameters).
pub fn build<'c>(
    context: &'c Context,
    location: Location<'c>,
    kind: &Kind,
    input: Value<'c, '_>,
    weights: &[Value<'c, '_>],
    layer: &str,
) -> Result<Operation<'c>, melior::Error> {
    let mut operands = vec![input];
    operands.extend_from_slice(weights);
    OperationBuilder::new(&kind.operation_name(), location)
        .add_operands(&operands)
        .add_results(&[input.r#type()])
        .add_attributes(&[(Identifier::new(context, crate::analog::LAYER), ir::string(context, layer))])
        .build()
}

/// The dialect's IRDL definition: an operation for every kind.
pub fn irdl() -> String {
    let mut text = "// The denoise dialect: trainable digital blocks on an analog layer's noisy output.\n\
        //\n\
        // `layer` names the analog op whose output x the block cleans. Weights are ml_program globals of their own. Input and\n\
        // output have C channels on the last axis; what a kind computes is beside it. After quantize-denoisers every tensor is\n\
        // of 16-bit !quant.uniform words, input and output with scales of their own.\n\
        irdl.dialect @denoise {\n"
        .to_owned();
    for kind in KINDS {
        let operands: Vec<String> =
            kind.expression().parameters().iter().map(|parameter| parameter.name.replace('.', "_")).collect();
        text += &format!("  // {}:\n", kind.about);
        text.extend(kind.expression().to_string().lines().map(|line| format!("  //   {line}\n")));
        text += &format!("  irdl.operation @{} {{\n", kind.name);
        // A constraint of its own for each: one that is shared makes the types equal.
        for value in operands.iter().map(String::as_str).chain(["input", "output"]) {
            text += &format!("    %{value} = irdl.base \"!builtin.tensor\"\n");
        }
        let operands: String = operands.iter().map(|name| format!(", {name}: %{name}")).collect();
        text += &format!(
            "    %layer = irdl.base \"#builtin.string\"\n    irdl.operands(input: %input{operands})\n    \
             irdl.results(output: %output)\n    irdl.attributes {{ \"layer\" = %layer }}\n  }}\n"
        );
    }
    text + "}\n"
}
