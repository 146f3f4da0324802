// RUN: mxc opt --pass-pipeline=spend-energy{energy-budget=5%}
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer "fc" is not calibrated help: run rank-sensitivity before spend-energy}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %1 : tensor<?x2xf32>
}
