// RUN: mxc opt --pass-pipeline=rank-sensitivity{samples=256},spend-energy{energy-budget=120% samples=256} --data=generated
// A read of the first layer costs most; the second decides as much and costs less, so that it is read often. The noise of the
// last is its chip's, the same in every read, so that only a digital unit helps.
func.func @main(%x: tensor<?x4xf32> {mxc.name = "x"}) -> (tensor<?x2xf32> {mxc.name = "y"}) {
  %w = "tosa.const"() {values = dense<0.25> : tensor<200x4xf32>} : () -> tensor<200x4xf32>
  %b = "tosa.const"() {values = dense<0.1> : tensor<200xf32>} : () -> tensor<200xf32>
  %v = "tosa.const"() {values = dense<0.02> : tensor<3x200xf32>} : () -> tensor<3x200xf32>
  %c = "tosa.const"() {values = dense<[0.0, 0.1, -0.2]> : tensor<3xf32>} : () -> tensor<3xf32>
  %u = "tosa.const"() {values = dense<[[2.0, -1.0, 3.0], [-2.0, 1.0, -3.0]]> : tensor<2x3xf32>} : () -> tensor<2x3xf32>
  %d = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "wide", reads = 5 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=20%)"}} : (tensor<?x4xf32>, tensor<200x4xf32>, tensor<200xf32>) -> tensor<?x200xf32>
  %2 = tosa.clamp %1 {min_val = 0.0 : f32, max_val = 6.0 : f32} : (tensor<?x200xf32>) -> tensor<?x200xf32>
  %3 = "analog.fully_connected"(%2, %v, %c) {layer = "narrow", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=20%)+uniform(width=10%)"}} : (tensor<?x200xf32>, tensor<3x200xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %4 = "analog.fully_connected"(%3, %u, %d) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=20%,lifetime=chip)"}} : (tensor<?x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %4 : tensor<?x2xf32>
}
