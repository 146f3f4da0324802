// The denoise dialect: trainable digital blocks on an analog layer's noisy output.
//
// `layer` names the analog op whose output the block cleans. Weights are ml_program globals of their own.
irdl.dialect @denoise {
  // The denoising block of the paper, section III-B and Fig. 1, with bottleneck B = max(1, round(C / 4)):
  //   h = lrelu(conv1x1(x)); g = lrelu(dwconv3x3(h)); mean = conv1x1(g); sigma = conv1x1(g)
  //   output = input - (eps * sigma + mean)
  // reduce_weight [B,1,1,C], depthwise_weight [3,3,B,1] ([1,1,B,1] after a fully connected layer), mean_weight [C,1,1,B];
  // sigma_weight [C,1,1,B] and sigma_bias [C] are left out by the kind "mean". After quantize-denoisers every tensor is of
  // 16-bit !quant.uniform words, input and output with scales of their own.
  irdl.operation @block {
    %input = irdl.base "!builtin.tensor"
    %reduce_weight = irdl.base "!builtin.tensor"
    %reduce_bias = irdl.base "!builtin.tensor"
    %depthwise_weight = irdl.base "!builtin.tensor"
    %depthwise_bias = irdl.base "!builtin.tensor"
    %mean_weight = irdl.base "!builtin.tensor"
    %mean_bias = irdl.base "!builtin.tensor"
    %sigma_weight = irdl.base "!builtin.tensor"
    %sigma_bias = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %layer = irdl.base "#builtin.string"
    %bottleneck = irdl.base "#builtin.integer"
    %slope = irdl.base "#builtin.float"
    irdl.operands(input: %input, reduce_weight: %reduce_weight, reduce_bias: %reduce_bias,
                  depthwise_weight: %depthwise_weight, depthwise_bias: %depthwise_bias,
                  mean_weight: %mean_weight, mean_bias: %mean_bias,
                  sigma_weight: optional %sigma_weight, sigma_bias: optional %sigma_bias)
    irdl.results(output: %output)
    irdl.attributes { "layer" = %layer, "bottleneck" = %bottleneck, "slope" = %slope }
  }
  // A per-channel affine: output = input * scale[c] + shift[c].
  irdl.operation @affine {
    %input = irdl.base "!builtin.tensor"
    %scale = irdl.base "!builtin.tensor"
    %shift = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %layer = irdl.base "#builtin.string"
    irdl.operands(input: %input, scale: %scale, shift: %shift)
    irdl.results(output: %output)
    irdl.attributes { "layer" = %layer }
  }
}
