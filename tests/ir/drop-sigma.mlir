// RUN: mxc opt --pass-pipeline=drop-sigma
// One step is 2^-13 for absmax 2, so the limit is 2^-13 / 0.5 = 2.4e-4 of X: layer a is below it, b above, c not measured.
ml_program.global private @"denoise.a.sigma.weight"(#ml_program.extern<tensor<4x1x1x1xf32>>) : tensor<4x1x1x1xf32>
ml_program.global private @"denoise.a.sigma.bias"(#ml_program.extern<tensor<4xf32>>) : tensor<4xf32>
func.func @main(%x: tensor<?x2x2x4xf32>) -> tensor<?x2x2x4xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<4x1x1x4xf32>} : () -> tensor<4x1x1x4xf32>
  %b = "tosa.const"() {values = dense<0.1> : tensor<4xf32>} : () -> tensor<4xf32>
  %r = "tosa.const"() {values = dense<0.2> : tensor<1x1x1x4xf32>} : () -> tensor<1x1x1x4xf32>
  %rb = "tosa.const"() {values = dense<0.2> : tensor<1xf32>} : () -> tensor<1xf32>
  %d = "tosa.const"() {values = dense<0.3> : tensor<3x3x1x1xf32>} : () -> tensor<3x3x1x1xf32>
  %m = "tosa.const"() {values = dense<0.4> : tensor<4x1x1x1xf32>} : () -> tensor<4x1x1x1xf32>
  %s = "tosa.const"() {values = dense<0.5> : tensor<4x1x1x1xf32>} : () -> tensor<4x1x1x1xf32>
  %as = ml_program.global_load_const @"denoise.a.sigma.weight" : tensor<4x1x1x1xf32>
  %ab = ml_program.global_load_const @"denoise.a.sigma.bias" : tensor<4xf32>
  %a0 = "analog.conv2d"(%x, %w, %b) {layer = "a", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %a1 = "denoise.paper"(%a0, %r, %rb, %d, %rb, %m, %b, %as, %ab) {measured = {samples = 4 : i64, input_rms = 0.5 : f64, sigma_rms = 1.2e-04 : f64}, layer = "a"} : (tensor<?x2x2x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %b0 = "analog.conv2d"(%a1, %w, %b) {layer = "b", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %b1 = "denoise.paper"(%b0, %r, %rb, %d, %rb, %m, %b, %s, %b) {measured = {samples = 4 : i64, input_rms = 0.5 : f64, sigma_rms = 1.3e-04 : f64}, layer = "b"} : (tensor<?x2x2x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %c0 = "analog.conv2d"(%b1, %w, %b) {layer = "c", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2x2x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  %c1 = "denoise.paper"(%c0, %r, %rb, %d, %rb, %m, %b, %s, %b) {layer = "c"} : (tensor<?x2x2x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x2x2x4xf32>
  return %c1 : tensor<?x2x2x4xf32>
}
