// RUN: mxc opt --pass-pipeline=canonicalize-graph,map-to-analog,rank-sensitivity,insert-denoisers
// The values of a weight are needed.
ml_program.global private @scale(#ml_program.extern) : tensor<1x1x1x2xf32>
func.func @main(%x: tensor<?x4x4x1xf32>) -> tensor<?x4x4x2xf32> {
  // expected-error@below {{the values of @scale are needed, but they are not in the IR help: give the file that holds them: --weights FILE.safetensors or PKG.mxa}}
  %scale = ml_program.global_load_const @scale : tensor<1x1x1x2xf32>
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x1xf32>} : () -> tensor<2x1x1x1xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %1 = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x1xf32>, tensor<2x1x1x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32>
  %2 = tosa.mul %1, %scale, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  return %2 : tensor<?x4x4x2xf32>
}
// -----
// No @main.
// expected-error@unknown {{the module has no function @main with a body}}
func.func @other(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  return %x : tensor<?x2xf32>
}
// -----
// Not MLIR.
// expected-error@below {{expected non-function type}}
func.func @main(
// -----
// An operation with two results.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  // expected-error@below {{cannot rewrite around func.call: operations with one result and no region are expected in @main}}
  %1:2 = call @other(%x) : (tensor<?x2xf32>) -> (tensor<?x2xf32>, tensor<?x2xf32>)
  return %1#0 : tensor<?x2xf32>
}
func.func private @other(tensor<?x2xf32>) -> (tensor<?x2xf32>, tensor<?x2xf32>)
// -----
// An input whose shape is not known.
// expected-error@unknown {{input `input0` of type tensor<?x?x?x1xf32>: only axis 0, the batch, may be dynamic; give the others with --input-shape}}
func.func @main(%x: tensor<?x?x?x1xf32>) -> tensor<?x?x?x1xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<1x1x1x1xf32>} : () -> tensor<1x1x1x1xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %1 = tosa.conv2d %x, %w, %z, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x?x?x1xf32>, tensor<1x1x1x1xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x?x?x1xf32>
  return %1 : tensor<?x?x?x1xf32>
}
