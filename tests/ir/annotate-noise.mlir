// RUN: mxc opt --pass-pipeline=annotate-noise{spec=gaussian(sigma=15%) scale=signal reference=absmax layer:fc*='gaussian(sigma=1%) + adc(bits=8)' layer:none*=adc(bits=4)}
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "hidden", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %2 = "analog.fully_connected"(%1, %w, %b) {layer = "fc/last", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %2 : tensor<?x2xf32>
}
