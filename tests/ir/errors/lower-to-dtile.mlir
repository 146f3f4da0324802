// RUN: mxc opt --pass-pipeline=lower-to-dtile
// Not quantised.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %s = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{layer 'fc': a denoiser's operand is tensor<?x2xf32>, not quantised help: run quantize-denoisers first}}
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A weight whose words are not known.
!q13 = !quant.uniform<i16:f32, 1.220703125E-4>
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %q = quant.qcast %y : tensor<?x2xf32> to tensor<?x2x!q13>
  %s = quant.qcast %b : tensor<2xf32> to tensor<2x!q13>
  // expected-error@below {{layer 'fc': a weight is no stored constant}}
  %a = "denoise.affine"(%q, %s, %s) {layer = "fc"} : (tensor<?x2x!q13>, tensor<2x!q13>, tensor<2x!q13>) -> tensor<?x2x!q13>
  %z = quant.dcast %a : tensor<?x2x!q13> to tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A size other than the batch that is not known.
!q13 = !quant.uniform<i16:f32, 1.220703125E-4>
func.func @main(%x: tensor<?x?x2xf32>) -> tensor<?x?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x?x2xf32>
  %q = quant.qcast %y : tensor<?x?x2xf32> to tensor<?x?x2x!q13>
  %words = arith.constant dense<1> : tensor<2xi16>
  %s = quant.scast %words : tensor<2xi16> to tensor<2x!q13>
  // expected-error@below {{layer 'fc': a denoiser on tensor<?x?x2x!quant.uniform<i16:f32, 1.220703125E-4>> cannot be lowered help: sizes other than the batch must be known}}
  %a = "denoise.affine"(%q, %s, %s) {layer = "fc"} : (tensor<?x?x2x!q13>, tensor<2x!q13>, tensor<2x!q13>) -> tensor<?x?x2x!q13>
  %z = quant.dcast %a : tensor<?x?x2x!q13> to tensor<?x?x2xf32>
  return %z : tensor<?x?x2xf32>
}
// -----
// The fractions inside a block are missing.
!q13 = !quant.uniform<i16:f32, 1.220703125E-4>
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %q = quant.qcast %y : tensor<?x2xf32> to tensor<?x2x!q13>
  %a.words = arith.constant dense<1> : tensor<1x1x1x2xi16>
  %a = quant.scast %a.words : tensor<1x1x1x2xi16> to tensor<1x1x1x2x!q13>
  %b.words = arith.constant dense<1> : tensor<1xi16>
  %c = quant.scast %b.words : tensor<1xi16> to tensor<1x!q13>
  %d.words = arith.constant dense<1> : tensor<1x1x1x1xi16>
  %d = quant.scast %d.words : tensor<1x1x1x1xi16> to tensor<1x1x1x1x!q13>
  %e.words = arith.constant dense<1> : tensor<2x1x1x1xi16>
  %e = quant.scast %e.words : tensor<2x1x1x1xi16> to tensor<2x1x1x1x!q13>
  %f.words = arith.constant dense<1> : tensor<2xi16>
  %f = quant.scast %f.words : tensor<2xi16> to tensor<2x!q13>
  // expected-error@below {{layer 'fc': its `fractions` has no `reduce` help: run quantize-denoisers first}}
  %m = "denoise.mean"(%q, %a, %c, %d, %c, %e, %f) {layer = "fc"} : (tensor<?x2x!q13>, tensor<1x1x1x2x!q13>, tensor<1x!q13>, tensor<1x1x1x1x!q13>, tensor<1x!q13>, tensor<2x1x1x1x!q13>, tensor<2x!q13>) -> tensor<?x2x!q13>
  %z = quant.dcast %m : tensor<?x2x!q13> to tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// Even one row does not fit the activation memory.
!q13 = !quant.uniform<i16:f32, 1.220703125E-4>
func.func @main(%x: tensor<?x1x65537x2xf32>) -> tensor<?x1x65537x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x1x1x2xf32>} : () -> tensor<2x1x1x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.conv2d"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x1x65537x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>) -> tensor<?x1x65537x2xf32>
  %q = quant.qcast %y : tensor<?x1x65537x2xf32> to tensor<?x1x65537x2x!q13>
  %words = arith.constant dense<1> : tensor<2xi16>
  %s = quant.scast %words : tensor<2xi16> to tensor<2x!q13>
  // expected-error@below {{the denoiser of layer 'fc' needs at least 262148 bytes of activation memory, the tile has 131072 help: a profile with more `memory.activation_bytes`, or compile without a denoiser at this layer}}
  %a = "denoise.affine"(%q, %s, %s) {layer = "fc"} : (tensor<?x1x65537x2x!q13>, tensor<2x!q13>, tensor<2x!q13>) -> tensor<?x1x65537x2x!q13>
  %z = quant.dcast %a : tensor<?x1x65537x2x!q13> to tensor<?x1x65537x2xf32>
  return %z : tensor<?x1x65537x2xf32>
}
