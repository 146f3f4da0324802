// RUN: mxc opt --pass-pipeline=quantize-denoisers
// The range of the words is not known.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %s = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer 'fc': it is not calibrated, so the range of its words is not known help: run rank-sensitivity before, or `mxc compile`, which does}}
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A weight that is no number.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %s = "tosa.const"() {values = dense<0x7F800000> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer 'fc': affine.scale holds a value that is not finite}}
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A weight that is not there.
ml_program.global private @scale(#ml_program.extern) : tensor<2xf32>
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{the values of @scale are needed, but they are not in the IR}}
  %s = ml_program.global_load_const @scale : tensor<2xf32>
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A weight that is computed.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{quantize-denoisers needs a constant here}}
  %s = tosa.abs %b : (tensor<2xf32>) -> tensor<2xf32>
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A shift so large that no word holds both it and what it is added to.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %s = "tosa.const"() {values = dense<1.0e-9> : tensor<2xf32>} : () -> tensor<2xf32>
  %t = "tosa.const"() {values = dense<100.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer 'fc': affine.shift ranges 35 bits wider than what it is added to}}
  %z = "denoise.affine"(%y, %s, %t) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
