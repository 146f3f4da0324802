// RUN: mxc opt --pass-pipeline=rank-sensitivity{samples=256},equalize-ranges{samples=256} --data=generated
// The inputs of the first layer are fourth powers: few are large, so that its converters clip them and add less noise. The second layer's
// noise follows no range: its converters stay as they are.
func.func @main(%x: tensor<?x4xf32> {mxc.name = "x"}) -> (tensor<?x2xf32> {mxc.name = "y"}) {
  %s = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %w = "tosa.const"() {values = dense<[[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]]> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
  %v = "tosa.const"() {values = dense<[[6.0, -6.0], [-6.0, 6.0]]> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %1 = tosa.mul %x, %x, %s : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<1xi8>) -> tensor<?x4xf32>
  %2 = tosa.mul %1, %1, %s : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<1xi8>) -> tensor<?x4xf32>
  %3 = "analog.fully_connected"(%2, %w, %b) {layer = "hidden", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=30%,site=input)"}} : (tensor<?x4xf32>, tensor<2x4xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %4 = "analog.fully_connected"(%3, %v, %b) {layer = "fc", noise = {reference = "rms", scale = "constant", spec = "gaussian(sigma=5%,site=input)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %4 : tensor<?x2xf32>
}
