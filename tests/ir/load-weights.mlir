// RUN: mxc opt --pass-pipeline=load-weights{from=ir/load-weights.safetensors},canonicalize-graph,save-weights{to=/dev/null}
// The file's weights fold as those that the caller has loaded do.
ml_program.global private @w(#ml_program.extern : tensor<2x1x1x2xf32>) : tensor<2x1x1x2xf32>
ml_program.global private @s(#ml_program.extern : tensor<1x1x1x2xf32>) : tensor<1x1x1x2xf32>
func.func @main(%x: tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32> {
  %w = ml_program.global_load_const @w : tensor<2x1x1x2xf32>
  %s = ml_program.global_load_const @s : tensor<1x1x1x2xf32>
  %b = "tosa.const"() <{values = dense<0.0> : tensor<2xf32>}> : () -> tensor<2xf32>
  %z = "tosa.const"() <{values = dense<0.0> : tensor<1xf32>}> : () -> tensor<1xf32>
  %shift = "tosa.const"() <{values = dense<0> : tensor<1xi8>}> : () -> tensor<1xi8>
  %c = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32>
  %m = tosa.mul %c, %s, %shift : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  return %m : tensor<?x4x4x2xf32>
}
