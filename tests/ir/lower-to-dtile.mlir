// RUN: mxc opt --pass-pipeline=lower-to-dtile
// The paper's block: μ̂ and σ̂ share one load of g.
!q12 = !quant.uniform<i16:f32, 0.000244140625>
!q13 = !quant.uniform<i16:f32, 0.0001220703125>
!q14 = !quant.uniform<i16:f32, 6.103515625E-5>
!q15 = !quant.uniform<i16:f32, 3.0517578125E-5>
func.func @main(%x: tensor<?x2x2x4xf32>) -> tensor<?x2x2x4xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<4xf32>} : () -> tensor<4xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %q = quant.qcast %y : tensor<?x2x2x4xf32> to tensor<?x2x2x4x!q13>
  %reduce.words = arith.constant dense<[[[[8192, -4096, 2048, 16384]]]]> : tensor<1x1x1x4xi16>
  %reduce = quant.scast %reduce.words : tensor<1x1x1x4xi16> to tensor<1x1x1x4x!q14>
  %reduce.bias.words = arith.constant dense<4096> : tensor<1xi16>
  %reduce.bias = quant.scast %reduce.bias.words : tensor<1xi16> to tensor<1x!q14>
  %depthwise.words = arith.constant dense<8192> : tensor<3x3x1x1xi16>
  %depthwise = quant.scast %depthwise.words : tensor<3x3x1x1xi16> to tensor<3x3x1x1x!q14>
  %mean.words = arith.constant dense<[[[[16384]]], [[[8192]]], [[[-16384]]], [[[-8192]]]]> : tensor<4x1x1x1xi16>
  %mean = quant.scast %mean.words : tensor<4x1x1x1xi16> to tensor<4x1x1x1x!q15>
  %bias.words = arith.constant dense<64> : tensor<4xi16>
  %bias = quant.scast %bias.words : tensor<4xi16> to tensor<4x!q14>
  %sigma.words = arith.constant dense<512> : tensor<4x1x1x1xi16>
  %sigma = quant.scast %sigma.words : tensor<4x1x1x1xi16> to tensor<4x1x1x1x!q15>
  %d = "denoise.paper"(%q, %reduce, %reduce.bias, %depthwise, %reduce.bias, %mean, %bias, %sigma, %bias) {layer = "conv", fractions = {depthwise = 11 : i64, mean = 12 : i64, reduce = 12 : i64, sigma = 14 : i64}} : (tensor<?x2x2x4x!q13>, tensor<1x1x1x4x!q14>, tensor<1x!q14>, tensor<3x3x1x1x!q14>, tensor<1x!q14>, tensor<4x1x1x1x!q15>, tensor<4x!q14>, tensor<4x1x1x1x!q15>, tensor<4x!q14>) -> tensor<?x2x2x4x!q12>
  %z = quant.dcast %d : tensor<?x2x2x4x!q12> to tensor<?x2x2x4xf32>
  return %z : tensor<?x2x2x4xf32>
}
// -----
// A block without σ̂ and the affine behind it are one program, which draws nothing.
!q11 = !quant.uniform<i16:f32, 0.00048828125>
!q12 = !quant.uniform<i16:f32, 0.000244140625>
!q13 = !quant.uniform<i16:f32, 0.0001220703125>
!q14 = !quant.uniform<i16:f32, 6.103515625E-5>
!q15 = !quant.uniform<i16:f32, 3.0517578125E-5>
func.func @main(%x: tensor<?x1x3x4xf32>) -> tensor<?x1x3x4xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<4xf32>} : () -> tensor<4xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x1x3x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x1x3x4xf32>
  %q = quant.qcast %y : tensor<?x1x3x4xf32> to tensor<?x1x3x4x!q13>
  %reduce.words = arith.constant dense<[[[[8192, -4096, 2048, 16384]]]]> : tensor<1x1x1x4xi16>
  %reduce = quant.scast %reduce.words : tensor<1x1x1x4xi16> to tensor<1x1x1x4x!q14>
  %reduce.bias.words = arith.constant dense<4096> : tensor<1xi16>
  %reduce.bias = quant.scast %reduce.bias.words : tensor<1xi16> to tensor<1x!q14>
  %depthwise.words = arith.constant dense<8192> : tensor<3x3x1x1xi16>
  %depthwise = quant.scast %depthwise.words : tensor<3x3x1x1xi16> to tensor<3x3x1x1x!q14>
  %mean.words = arith.constant dense<[[[[16384]]], [[[8192]]], [[[-16384]]], [[[-8192]]]]> : tensor<4x1x1x1xi16>
  %mean = quant.scast %mean.words : tensor<4x1x1x1xi16> to tensor<4x1x1x1x!q15>
  %bias.words = arith.constant dense<64> : tensor<4xi16>
  %bias = quant.scast %bias.words : tensor<4xi16> to tensor<4x!q14>
  %d = "denoise.mean"(%q, %reduce, %reduce.bias, %depthwise, %reduce.bias, %mean, %bias) {layer = "conv", fractions = {depthwise = 11 : i64, mean = 12 : i64, reduce = 12 : i64}} : (tensor<?x1x3x4x!q13>, tensor<1x1x1x4x!q14>, tensor<1x!q14>, tensor<3x3x1x1x!q14>, tensor<1x!q14>, tensor<4x1x1x1x!q15>, tensor<4x!q14>) -> tensor<?x1x3x4x!q12>
  %scale.words = arith.constant dense<[16384, 12288, 20480, 16384]> : tensor<4xi16>
  %scale = quant.scast %scale.words : tensor<4xi16> to tensor<4x!q14>
  %shift.words = arith.constant dense<[0, 1, 2, 3]> : tensor<4xi16>
  %shift = quant.scast %shift.words : tensor<4xi16> to tensor<4x!q14>
  %a = "denoise.affine"(%d, %scale, %shift) {layer = "conv"} : (tensor<?x1x3x4x!q12>, tensor<4x!q14>, tensor<4x!q14>) -> tensor<?x1x3x4x!q11>
  %z = quant.dcast %a : tensor<?x1x3x4x!q11> to tensor<?x1x3x4xf32>
  return %z : tensor<?x1x3x4xf32>
}
// -----
// An affine alone; a classifier is one pixel.
!q12 = !quant.uniform<i16:f32, 0.000244140625>
!q13 = !quant.uniform<i16:f32, 0.0001220703125>
!q14 = !quant.uniform<i16:f32, 6.103515625E-5>
!q15 = !quant.uniform<i16:f32, 3.0517578125E-5>
func.func @main(%x: tensor<?x3xf32>) -> tensor<?x3xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<3x3xf32>} : () -> tensor<3x3xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<3xf32>} : () -> tensor<3xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x3xf32>, tensor<3x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %q = quant.qcast %y : tensor<?x3xf32> to tensor<?x3x!q13>
  %scale.words = arith.constant dense<[16384, 12288, 20480]> : tensor<3xi16>
  %scale = quant.scast %scale.words : tensor<3xi16> to tensor<3x!q14>
  %shift.words = arith.constant dense<[0, 1, 2]> : tensor<3xi16>
  %shift = quant.scast %shift.words : tensor<3xi16> to tensor<3x!q14>
  %a = "denoise.affine"(%q, %scale, %shift) {layer = "fc"} : (tensor<?x3x!q13>, tensor<3x!q14>, tensor<3x!q14>) -> tensor<?x3x!q12>
  %z = quant.dcast %a : tensor<?x3x!q12> to tensor<?x3xf32>
  return %z : tensor<?x3xf32>
}
// -----
// The heads of 96 channels do not fit the activation memory beside X: a third of them at a time, in three rounds.
!q12 = !quant.uniform<i16:f32, 0.000244140625>
!q13 = !quant.uniform<i16:f32, 0.0001220703125>
!q14 = !quant.uniform<i16:f32, 6.103515625E-5>
!q15 = !quant.uniform<i16:f32, 3.0517578125E-5>
func.func @main(%x: tensor<?x16x16x96xf32>) -> tensor<?x16x16x96xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<96x1x1x96xf32>} : () -> tensor<96x1x1x96xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<96xf32>} : () -> tensor<96xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x16x16x96xf32>, tensor<96x1x1x96xf32>, tensor<96xf32>) -> tensor<?x16x16x96xf32>
  %q = quant.qcast %y : tensor<?x16x16x96xf32> to tensor<?x16x16x96x!q13>
  %reduce.words = arith.constant dense<512> : tensor<24x1x1x96xi16>
  %reduce = quant.scast %reduce.words : tensor<24x1x1x96xi16> to tensor<24x1x1x96x!q14>
  %reduce.bias.words = arith.constant dense<4096> : tensor<24xi16>
  %reduce.bias = quant.scast %reduce.bias.words : tensor<24xi16> to tensor<24x!q14>
  %depthwise.words = arith.constant dense<8192> : tensor<3x3x24x1xi16>
  %depthwise = quant.scast %depthwise.words : tensor<3x3x24x1xi16> to tensor<3x3x24x1x!q14>
  %mean.words = arith.constant dense<1024> : tensor<96x1x1x24xi16>
  %mean = quant.scast %mean.words : tensor<96x1x1x24xi16> to tensor<96x1x1x24x!q15>
  %bias.words = arith.constant dense<64> : tensor<96xi16>
  %bias = quant.scast %bias.words : tensor<96xi16> to tensor<96x!q14>
  %sigma.words = arith.constant dense<512> : tensor<96x1x1x24xi16>
  %sigma = quant.scast %sigma.words : tensor<96x1x1x24xi16> to tensor<96x1x1x24x!q15>
  %d = "denoise.paper"(%q, %reduce, %reduce.bias, %depthwise, %reduce.bias, %mean, %bias, %sigma, %bias) {layer = "conv", fractions = {depthwise = 11 : i64, mean = 12 : i64, reduce = 12 : i64, sigma = 14 : i64}} : (tensor<?x16x16x96x!q13>, tensor<24x1x1x96x!q14>, tensor<24x!q14>, tensor<3x3x24x1x!q14>, tensor<24x!q14>, tensor<96x1x1x24x!q15>, tensor<96x!q14>, tensor<96x1x1x24x!q15>, tensor<96x!q14>) -> tensor<?x16x16x96x!q12>
  %z = quant.dcast %d : tensor<?x16x16x96x!q12> to tensor<?x16x16x96xf32>
  return %z : tensor<?x16x16x96xf32>
}
