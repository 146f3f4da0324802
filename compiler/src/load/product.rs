//! Convolutions, products of matrices and pooling.

use super::{Bound, LoadError, Loader, View, fail};
use melior::ir::OperationRef;
use mxc_dialects::tosa;
use mxc_runtime::{
    program::{Conv2d, FullyConnected, LayerId, MatMul, Pool, Pooling, ValueId, Window},
    store::Weight,
};

impl<'c> Loader<'c, '_> {
    pub(super) fn conv2d(&mut self, op: &OperationRef<'c, '_>, view: tosa::Conv2d<'c, '_>) -> Result<(), LoadError> {
        self.zero(op, &[3, 4])?;
        let window = Window { stride: view.stride, pad: view.pad, dilation: view.dilation };
        self.convolution(op, window, 1, None)
    }

    pub(super) fn depthwise_conv2d(
        &mut self,
        op: &OperationRef<'c, '_>,
        view: tosa::DepthwiseConv2d<'c, '_>,
    ) -> Result<(), LoadError> {
        self.zero(op, &[3, 4])?;
        let window = Window { stride: view.stride, pad: view.pad, dilation: view.dilation };
        self.depthwise(op, window, None)
    }

    /// A convolution in groups.
    pub(super) fn grouped(
        &mut self,
        op: &OperationRef<'c, '_>,
        stride: [usize; 2],
        pad: [usize; 4],
        dilation: [usize; 2],
        groups: usize,
    ) -> Result<(), LoadError> {
        self.convolution(op, Window { stride, pad, dilation }, groups, None)
    }

    pub(super) fn convolution(
        &mut self,
        op: &OperationRef<'c, '_>,
        window: Window,
        groups: usize,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let weight = match self.operand(op, 1)?.clone() {
            Bound::Activation(weight, View::WHOLE) => weight,
            _ => {
                let (name, weight) = self.constant(op, 1)?;
                self.constant_value(op, name, weight)?
            }
        };
        self.emit_convolution(op, weight, window, groups, layer)
    }

    pub(super) fn depthwise(
        &mut self,
        op: &OperationRef<'c, '_>,
        window: Window,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let (name, weight) = self.constant(op, 1)?;
        let &[height, width, channels, multiplier] = weight.shape() else {
            return Err(fail(op, format!("its weight has shape {:?}, not HWCM", weight.shape())));
        };
        let outputs = channels * multiplier;
        // HWCM → [C·M, H, W, 1]: output channel c·M + m.
        let repacked = weight
            .reshaped(vec![height * width, outputs])
            .and_then(|weight| weight.transposed(&[1, 0])?.reshaped(vec![outputs, height, width, 1]))
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let weight = self.repacked_value(op, &name, repacked)?;
        self.emit_convolution(op, weight, window, channels, layer)
    }

    fn emit_convolution(
        &mut self,
        op: &OperationRef<'c, '_>,
        weight: ValueId,
        window: Window,
        groups: usize,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let input = self.plain(op, 0)?;
        let outputs = self.program.value(weight).sample.first().copied().unwrap_or(0);
        let bias = self.bias(op, outputs)?;
        let view = self.activation(op, 0)?.1;
        self.emit(op, Conv2d { window, groups, layer }, &[input, weight, bias], view)?;
        Ok(())
    }

    /// The bias operand of a convolution, a single value expanded to all channels.
    fn bias(&mut self, op: &OperationRef<'c, '_>, channels: usize) -> Result<ValueId, LoadError> {
        if let Bound::Activation(bias, View::WHOLE) = *self.operand(op, 2)? {
            return Ok(bias);
        }
        let (name, bias) = self.constant(op, 2)?;
        let bias = match bias.shape() {
            [1] => Weight::new(vec![channels], vec![bias.values()[0]; channels]),
            _ => Some(bias),
        };
        let bias = bias.ok_or_else(|| fail(op, format!("its bias must hold {channels} values")))?;
        self.constant_value(op, name, bias)
    }

    pub(super) fn matmul(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        self.zero(op, &[2, 3])?;
        let stationary =
            matches!(self.operand(op, 1)?, Bound::Constant(_, weight) if weight.shape().first() == Some(&1));
        if !stationary || !matches!(self.operand(op, 0)?, Bound::Activation(..)) {
            let (operands, view) = self.operands(op, &[0, 1])?;
            // The heads of an attention are an axis behind the batch.
            if view.lead != 0 {
                return Err(fail(op, "its operands must have the batch at axis 0".into()));
            }
            self.emit(op, MatMul, &operands, view)?;
            return Ok(());
        }
        let (name, weight) = self.constant(op, 1)?;
        // A constant right side of batch 1 is the weight of a fully connected layer: [1, I, O] → [O, I].
        let &[1, inputs, outputs] = weight.shape() else {
            return Err(fail(op, format!("its constant operand has shape {:?}; the batch must be 1", weight.shape())));
        };
        let weight = weight
            .reshaped(vec![inputs, outputs])
            .and_then(|weight| weight.transposed(&[1, 0]))
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let weight = self.repacked_value(op, &name, weight)?;
        let bias = Weight::new(vec![outputs], vec![0.0; outputs])
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let bias = self.constant_value(op, String::new(), bias)?;
        self.fully_connected(op, weight, bias, None)
    }

    pub(super) fn fully_connected(
        &mut self,
        op: &OperationRef<'c, '_>,
        weight: ValueId,
        bias: ValueId,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        self.emit(op, FullyConnected { layer }, &[input, weight, bias], view)?;
        Ok(())
    }

    pub(super) fn avg_pool2d(
        &mut self,
        op: &OperationRef<'c, '_>,
        view: tosa::AvgPool2d<'c, '_>,
    ) -> Result<(), LoadError> {
        self.zero(op, &[1, 2])?;
        self.pool(op, Pool { kind: Pooling::Average, kernel: view.kernel, stride: view.stride, pad: view.pad })
    }

    pub(super) fn max_pool2d(
        &mut self,
        op: &OperationRef<'c, '_>,
        view: tosa::MaxPool2d<'c, '_>,
    ) -> Result<(), LoadError> {
        self.pool(op, Pool { kind: Pooling::Maximum, kernel: view.kernel, stride: view.stride, pad: view.pad })
    }

    fn pool(&mut self, op: &OperationRef<'c, '_>, pool: Pool) -> Result<(), LoadError> {
        let input = self.plain(op, 0)?;
        let view = self.activation(op, 0)?.1;
        self.emit(op, pool, &[input], view)?;
        Ok(())
    }
}
