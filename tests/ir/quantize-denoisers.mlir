// RUN: mxc opt --pass-pipeline=quantize-denoisers
// The paper's block. absmax 2.0 needs one bit before the point: 13 fraction bits.
func.func @main(%x: tensor<?x2x2x4xf32>) -> tensor<?x2x2x4xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<4xf32>} : () -> tensor<4xf32>
  %reduce = "tosa.const"() {values = dense<[[[[0.5, -0.25, 0.125, 1.0]]]]> : tensor<1x1x1x4xf32>} : () -> tensor<1x1x1x4xf32>
  %reduce_bias = "tosa.const"() {values = dense<0.25> : tensor<1xf32>} : () -> tensor<1xf32>
  %depthwise = "tosa.const"() {values = dense<0.5> : tensor<3x3x1x1xf32>} : () -> tensor<3x3x1x1xf32>
  %mean = "tosa.const"() {values = dense<[[[[0.5]]], [[[0.25]]], [[[-0.5]]], [[[-0.25]]]]> : tensor<4x1x1x1xf32>} : () -> tensor<4x1x1x1xf32>
  %sigma = "tosa.const"() {values = dense<0.125> : tensor<4x1x1x1xf32>} : () -> tensor<4x1x1x1xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %z = "denoise.paper"(%y, %reduce, %reduce_bias, %depthwise, %reduce_bias, %mean, %b, %sigma, %b) {layer = "conv"} : (tensor<?x2x2x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  return %z : tensor<?x2x2x4xf32>
}
// -----
// A block without σ̂ and an affine behind it: the words in between are those of X̂. The scale `constant` does not saturate: twice the range.
func.func @main(%x: tensor<?x1x1x4xf32>) -> tensor<?x1x1x4xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<4xf32>} : () -> tensor<4xf32>
  %reduce = "tosa.const"() {values = dense<[[[[0.5, -0.25, 0.125, 1.0]]]]> : tensor<1x1x1x4xf32>} : () -> tensor<1x1x1x4xf32>
  %reduce_bias = "tosa.const"() {values = dense<0.25> : tensor<1xf32>} : () -> tensor<1xf32>
  %depthwise = "tosa.const"() {values = dense<0.5> : tensor<3x3x1x1xf32>} : () -> tensor<3x3x1x1xf32>
  %mean = "tosa.const"() {values = dense<[[[[0.5]]], [[[0.25]]], [[[-0.5]]], [[[-0.25]]]]> : tensor<4x1x1x1xf32>} : () -> tensor<4x1x1x1xf32>
  %scale = "tosa.const"() {values = dense<[1.0, 0.75, 1.25, 1.0]> : tensor<4xf32>} : () -> tensor<4xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "conv", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "constant", spec = "gaussian(sigma=6%)"}} : (tensor<?x1x1x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x1x1x4xf32>
  %z = "denoise.mean"(%y, %reduce, %reduce_bias, %depthwise, %reduce_bias, %mean, %b) {layer = "conv"} : (tensor<?x1x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x1x1x4xf32>
  %a = "denoise.affine"(%z, %scale, %b) {layer = "conv"} : (tensor<?x1x1x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x1x1x4xf32>
  return %a : tensor<?x1x1x4xf32>
}
// -----
// An affine on a classifier's logits.
func.func @main(%x: tensor<?x3xf32>) -> tensor<?x3xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<3x3xf32>} : () -> tensor<3x3xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<3xf32>} : () -> tensor<3xf32>
  %scale = "tosa.const"() {values = dense<[1.0, 0.75, 1.25]> : tensor<3xf32>} : () -> tensor<3xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x3xf32>, tensor<3x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %a = "denoise.affine"(%y, %scale, %b) {layer = "fc"} : (tensor<?x3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  return %a : tensor<?x3xf32>
}
