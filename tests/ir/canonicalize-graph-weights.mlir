// RUN: mxc opt --pass-pipeline=canonicalize-graph --weights=generated
// Weights in the store: the folded ones take the layer's name, the originals go.
ml_program.global private @w(#ml_program.extern) : tensor<2x3x3x1xf32>
ml_program.global private @gamma(#ml_program.extern) : tensor<1x1x1x2xf32>
ml_program.global private @unused(#ml_program.extern) : tensor<7xf32>
func.func @main(%x: tensor<?x4x4x1xf32>) -> tensor<?x4x4x2xf32> {
  %w = ml_program.global_load_const @w : tensor<2x3x3x1xf32>
  %gamma = ml_program.global_load_const @gamma : tensor<1x1x1x2xf32>
  %b = "tosa.const"() {values = dense<[1.0, 2.0]> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %1 = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 1, 1, 1, 1>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x1xf32>, tensor<2x3x3x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32> loc("conv1")
  %2 = tosa.mul %1, %gamma, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  return %2 : tensor<?x4x4x2xf32>
}
