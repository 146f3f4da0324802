// The analog dialect: matrix-vector multiplications (MVMs) that run on analog tiles.
//
// Every op holds stationary weights. `layer` is the layer's unique, stable name; `noise` is a dictionary
// {spec, scale, reference} (the noise specification's text form, `range|constant|signal`, `rms|absmax|mean-abs|std`);
// `calibration`, once known, is a dictionary {samples, rms, absmax, mean_abs, std, input_absmax} over the clean model.
// `column_shift`, if given, holds an integer k from 0 to 15 for every output channel: the tile's converter sees the channel scaled
// by 2^k, which is undone behind it; `column_calibration` is the calibration of the output so scaled.
// `input_range`, if given, is an f64: the full scale of the converters of its input, which clip there.
// `reads`, if given, is an integer from 2 to 64: the tile computes each product so often, and the mean is taken digitally.
// `digital`, if given, is a unit: a digital unit computes the layer instead, without noise.
// Shape relations and the contents of the dictionaries are checked by mxc's `verify` pass.
irdl.dialect @analog {
  // A 2-D convolution: input NHWC, weight OHWI (I = C / groups), bias O; pad [top, bottom, left, right].
  irdl.operation @conv2d {
    %input = irdl.base "!builtin.tensor"
    %weight = irdl.base "!builtin.tensor"
    %bias = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %layer = irdl.base "#builtin.string"
    %stride = irdl.base "#builtin.dense_array"
    %pad = irdl.base "#builtin.dense_array"
    %dilation = irdl.base "#builtin.dense_array"
    %groups = irdl.base "#builtin.integer"
    %noise = irdl.base "#builtin.dictionary"
    irdl.operands(input: %input, weight: %weight, bias: %bias)
    irdl.results(output: %output)
    irdl.attributes {
      "layer" = %layer, "stride" = %stride, "pad" = %pad, "dilation" = %dilation, "groups" = %groups, "noise" = %noise
    }
  }
  // A depthwise convolution: input NHWC, weight HWCM (M = channel multiplier), bias C·M; pad [top, bottom, left, right].
  irdl.operation @depthwise_conv2d {
    %input = irdl.base "!builtin.tensor"
    %weight = irdl.base "!builtin.tensor"
    %bias = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %layer = irdl.base "#builtin.string"
    %stride = irdl.base "#builtin.dense_array"
    %pad = irdl.base "#builtin.dense_array"
    %dilation = irdl.base "#builtin.dense_array"
    %noise = irdl.base "#builtin.dictionary"
    irdl.operands(input: %input, weight: %weight, bias: %bias)
    irdl.results(output: %output)
    irdl.attributes {
      "layer" = %layer, "stride" = %stride, "pad" = %pad, "dilation" = %dilation, "noise" = %noise
    }
  }
  // A fully connected layer: input [..., I], weight [O, I], bias [O], output [..., O].
  irdl.operation @fully_connected {
    %input = irdl.base "!builtin.tensor"
    %weight = irdl.base "!builtin.tensor"
    %bias = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %layer = irdl.base "#builtin.string"
    %noise = irdl.base "#builtin.dictionary"
    irdl.operands(input: %input, weight: %weight, bias: %bias)
    irdl.results(output: %output)
    irdl.attributes { "layer" = %layer, "noise" = %noise }
  }
}
