// RUN: mxc opt --pass-pipeline=builtin.module(func.func(canonicalize,cse),symbol-dce)
ml_program.global private @unused(#ml_program.extern) : tensor<7xf32>
func.func @main(%x: tensor<?x2xf32>) -> (tensor<?x2xf32>, tensor<?x2xf32>) {
  %1 = tosa.sigmoid %x : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %2 = tosa.sigmoid %x : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %3 = tosa.tanh %x : (tensor<?x2xf32>) -> tensor<?x2xf32>
  return %1, %2 : tensor<?x2xf32>, tensor<?x2xf32>
}
