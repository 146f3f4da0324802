// RUN: mxc opt --pass-pipeline=insert-denoisers{budget=80% placement=worth kind=any}
// 24 parameters allowed. The first layer's block with an affine (31) would take most away and does not fit; its block alone (23) leaves
// nothing for the second. An affine for each (8 and 4) leaves 12, of which the second takes 4 for a block. What is worth less than
// nothing is not looked at.
func.func @main(%x: tensor<?x2x2x4xf32>) -> tensor<?x2x2x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<4xf32>} : () -> tensor<4xf32>
  %v = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x4xf32>} : () -> tensor<2x1x1x4xf32>
  %c = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %1 = "analog.conv2d"(%x, %w, %b) {layer = "first", worth = {affine = 0.5 : f64, mean = 0.62 : f64, "mean+affine" = 0.9 : f64, bias = -0.1 : f64}, rank = 0 : i64, gradient_norm = 2.0 : f64, calibration = {samples = 4 : i64, rms = 1.0 : f64, absmax = 3.0 : f64, mean_abs = 0.5 : f64, std = 1.0 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %2 = tosa.sigmoid %1 : (tensor<?x2x2x4xf32>) -> tensor<?x2x2x4xf32>
  %3 = tosa.mul %1, %2, %i : (tensor<?x2x2x4xf32>, tensor<?x2x2x4xf32>, tensor<1xi8>) -> tensor<?x2x2x4xf32>
  %4 = "analog.conv2d"(%3, %v, %c) {layer = "second", worth = {affine = 0.2 : f64, lowrank = 0.05 : f64, "lowrank+affine" = 0.25 : f64, depthwise = 0.24 : f64}, rank = 1 : i64, gradient_norm = 1.0 : f64, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<2x1x1x4xf32>, tensor<2xf32>) -> tensor<?x2x2x2xf32>
  return %4 : tensor<?x2x2x2xf32>
}
