// RUN: mxc opt --pass-pipeline=insert-denoisers
// Not ranked.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer "fc" has no rank help: run rank-sensitivity before insert-denoisers, or name layers: at=GLOB,…}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %1 : tensor<?x2xf32>
}
// -----
// Denoisers are there already.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", rank = 0 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{the network has denoisers already}}
  %2 = "denoise.affine"(%1, %b, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %2 : tensor<?x2xf32>
}
