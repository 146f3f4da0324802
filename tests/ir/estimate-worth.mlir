// RUN: mxc opt --pass-pipeline=rank-sensitivity{samples=256},estimate-worth{budget=80% samples=256} --data=generated
// 18 parameters allowed: of a layer without rows and columns a filter of one tap is an affine and worth as much, and a block of four channels or
// two costs no more. What the clamp makes of the noise has a mean, which is all that a bias takes away.
func.func @main(%x: tensor<?x4xf32> {mxc.name = "x"}) -> (tensor<?x2xf32> {mxc.name = "y"}) {
  %w = "tosa.const"() {values = dense<[[1.0, 0.5, 0.0, 0.0], [0.0, 0.01, 0.02, 0.0], [0.0, 0.0, 0.0, 0.3]]> : tensor<3x4xf32>} : () -> tensor<3x4xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<3xf32>} : () -> tensor<3xf32>
  %v = "tosa.const"() {values = dense<[[0.5, -90.0, 0.25], [-0.5, 90.0, 4.0]]> : tensor<2x3xf32>} : () -> tensor<2x3xf32>
  %c = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "hidden", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=20%)"}} : (tensor<?x4xf32>, tensor<3x4xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %2 = tosa.clamp %1 {min_val = 0.0 : f32, max_val = 6.0 : f32} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %3 = "analog.fully_connected"(%2, %v, %c) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=20%)"}} : (tensor<?x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %3 : tensor<?x2xf32>
}
