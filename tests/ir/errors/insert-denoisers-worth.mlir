// RUN: mxc opt --pass-pipeline=insert-denoisers{placement=worth kind=any}
// Not estimated.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer "fc" has no worth help: run estimate-worth before insert-denoisers, or name layers: at=GLOB,…}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %1 : tensor<?x2xf32>
}
