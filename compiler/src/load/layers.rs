//! Analog layers, their denoisers, and the digital tile: the operations of mxc's own dialects, and the constants around them.

use super::{Bound, Build, LoadError, Loader, fail, identity, is_i16, result};
use melior::ir::{OperationRef, ValueLike, operation::OperationLike};
use mxc_dialects::{
    analog::{AnalogOp, Kind},
    denoise::{self, Denoiser},
    dtile, ir,
};
use mxc_runtime::program::{Denoise, DenoiseTile, Layer, LayerId, Window};
use std::sync::Arc;

/// The operation that runs a program on the digital tile.
pub(super) const LAUNCH: &str = dtile::Launch::MNEMONIC;

/// What reads an operation of a name.
pub(super) fn operation<'c, 'l>(name: &str) -> Option<Build<'c, 'l>> {
    const CONV2D: &str = Kind::Conv2d.op_name();
    const DEPTHWISE_CONV2D: &str = Kind::DepthwiseConv2d.op_name();
    const FULLY_CONNECTED: &str = Kind::FullyConnected.op_name();
    Some(match name {
        "ml_program.global_load_const" => Loader::load,
        CONV2D | DEPTHWISE_CONV2D | FULLY_CONNECTED => Loader::analog,
        "quant.qcast" => Loader::quantise,
        "quant.scast" => Loader::reinterpret,
        "quant.dcast" => Loader::dequantise,
        LAUNCH => Loader::launch,
        name if denoise::Kind::of_operation(name).is_some() => Loader::denoise,
        _ => return None,
    })
}

impl<'c> Loader<'c, '_> {
    /// A weight.
    fn load(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let value = result(op)?;
        // Words of quantised weights: the denoiser that reads them, if it is not lowered, is refused.
        if !is_i16(value) {
            let (name, weight) = self.global(op)?;
            self.bind(value, Bound::Constant(name, weight));
        }
        Ok(())
    }

    /// A product on a tile.
    fn analog(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let analog = AnalogOp::new(*op).ok_or_else(|| fail(op, "it is no analog operation".into()))?;
        let channels = self.constant(op, 2)?.1.shape().iter().product();
        let window = |window: Option<Window>| {
            window
                .ok_or_else(|| fail(op, "its stride and dilation must hold 2 non-negative integers, its pad 4".into()))
        };
        match analog {
            AnalogOp::Conv2d(conv) => {
                let groups = conv.groups().ok_or_else(|| fail(op, "its groups must be a positive integer".into()))?;
                let window = window(conv.window())?;
                let layer = self.layer(op, analog, channels)?;
                self.convolution(op, window, groups, Some(layer))
            }
            AnalogOp::DepthwiseConv2d(conv) => {
                let window = window(conv.window())?;
                let layer = self.layer(op, analog, channels)?;
                self.depthwise(op, window, Some(layer))
            }
            AnalogOp::FullyConnected(_) => {
                let layer = self.layer(op, analog, channels)?;
                let (weight_name, weight) = self.constant(op, 1)?;
                let (bias_name, bias) = self.constant(op, 2)?;
                let weight = self.constant_value(op, weight_name, weight)?;
                let bias = self.constant_value(op, bias_name, bias)?;
                self.fully_connected(op, weight, bias, Some(layer))
            }
        }
    }

    /// Declares the analog layer of an operation.
    fn layer(
        &mut self,
        op: &OperationRef<'c, '_>,
        analog: AnalogOp<'c, '_>,
        channels: usize,
    ) -> Result<LayerId, LoadError> {
        let name = ir::string_attr(op, "layer").ok_or_else(|| fail(op, "it has no layer name".into()))?;
        let wrong = |reason: String| fail(op, format!("layer `{name}`: {reason}"));
        let noise = analog.noise().map_err(wrong)?;
        let calibration = analog.calibration().map_err(wrong)?;
        let columns = analog.columns().map_err(wrong)?;
        let input_range = analog.input_range().map_err(wrong)?;
        let execution = analog.execution().map_err(wrong)?;
        let layer = Layer { name, channels, noise, calibration, columns, input_range, execution };
        self.program.layer(layer).map_err(|error| fail(op, error.to_string()))
    }

    /// The layer that a denoiser cleans.
    fn cleaned_layer(&self, op: &OperationRef<'c, '_>) -> Result<(LayerId, String), LoadError> {
        let name = ir::string_attr(op, "layer").ok_or_else(|| fail(op, "it has no layer name".into()))?;
        let layer = self
            .program
            .layer_named(&name)
            .ok_or_else(|| fail(op, format!("no analog layer `{name}` comes before it")))?;
        Ok((layer, name))
    }

    /// A denoiser.
    fn denoise(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let denoiser = Denoiser::new(*op).ok_or_else(|| fail(op, "it is no denoiser".into()))?;
        let kind = denoiser.kind();
        let (input, view) = self.activation(op, 0)?;
        let (layer, name) = self.cleaned_layer(op)?;
        let mut inputs = vec![input];
        for (index, parameter) in kind.expression().parameters().iter().enumerate() {
            let (name_of_global, weight) = self.constant(op, 1 + index)?;
            // A constant without a name of its own still needs one.
            let name = if name_of_global.is_empty() { format!("{name}.{}", parameter.name) } else { name_of_global };
            inputs.push(self.trainable_value(op, name, weight)?);
        }
        self.emit(op, Denoise { layer, kind }, &inputs, view)?;
        Ok(())
    }

    /// Rounds a value to words.
    fn quantise(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let fraction = fraction(op)?;
        self.bind(result(op)?, Bound::Words(input, view, fraction, false));
        Ok(())
    }

    /// Words as quantised values or the other way round.
    fn reinterpret(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        // Of a quantised weight, which a denoiser that is not lowered reads: refused there.
        let Some(Bound::Words(input, view, words, exact)) =
            op.operand(0).ok().and_then(|value| self.values.get(&identity(value))).cloned()
        else {
            return Ok(());
        };
        let quantised = op.operand(0).ok().and_then(dtile::fraction).or(dtile::fraction(result(op)?));
        if quantised != Some(words) {
            return Err(fail(op, format!("its operand's words have {words} fraction bits, its types say otherwise")));
        }
        self.bind(result(op)?, Bound::Words(input, view, words, exact));
        Ok(())
    }

    /// Words that the tile computed as f32.
    fn dequantise(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (value, view) = match self.operand(op, 0)? {
            Bound::Words(value, view, _, true) => (*value, *view),
            _ => {
                return Err(fail(
                    op,
                    "its operand is no result of a dtile.launch; rounding alone is not executed".into(),
                ));
            }
        };
        self.bind(result(op)?, Bound::Activation(value, view));
        Ok(())
    }

    /// A layer's denoisers on the digital tile.
    fn launch(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (layer, _) = self.cleaned_layer(op)?;
        let symbol = ir::symbol_attr(op, "program").unwrap_or_default();
        let program =
            self.tiles.get(&symbol).cloned().ok_or_else(|| fail(op, format!("no dtile program @{symbol}")))?;
        let (input, view, words) = match self.operand(op, 0)? {
            Bound::Words(input, view, words, _) => (*input, *view, *words),
            _ => return Err(fail(op, "its operand holds no quantised activations".into())),
        };
        if words != program.input_fraction {
            let wanted = program.input_fraction;
            return Err(fail(op, format!("@{symbol} takes words with {wanted} fraction bits, not {words}")));
        }
        let fraction = program.output_fraction;
        let tile = DenoiseTile { layer, program: Arc::clone(&program) };
        let output = self.program.node(tile, &[input]).map_err(|error| fail(op, error.reason))?;
        self.bind(result(op)?, Bound::Words(output, view, fraction, true));
        Ok(())
    }
}

/// The fraction bits of the words that an operation returns.
fn fraction(op: &OperationRef<'_, '_>) -> Result<i32, LoadError> {
    let result = result(op)?;
    dtile::fraction(result).ok_or_else(|| {
        fail(op, format!("its result {} holds no 16-bit words with a power of two as scale", result.r#type()))
    })
}
