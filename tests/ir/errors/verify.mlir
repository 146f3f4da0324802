// RUN: mxc opt --pass-pipeline=verify
// Shapes of convolutions.
func.func @main(%x: tensor<?x4x4x2xf32>, %w: tensor<3x1x1x2xf32>, %b: tensor<3xf32>, %c: tensor<2xf32>, %d: tensor<3x3x2x2xf32>, %e: tensor<4xf32>, %f: tensor<5x5x2x1xf32>) -> tensor<?x4x4x2xf32> {
  // expected-error@below {{analog.conv2d "bias": the bias is [2] but there are 3 output channels}}
  %1 = "analog.conv2d"(%x, %w, %c) {layer = "bias", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<2xf32>) -> tensor<?x4x4x3xf32>
  // expected-error@below {{analog.conv2d "output": the output is [?, 3, 4, 3] but must be [?, 4, 4, 3]}}
  %2 = "analog.conv2d"(%x, %w, %b) {layer = "output", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x3x4x3xf32>
  // expected-error@below {{analog.conv2d "groups": the weight (OHWI) [3, 1, 1, 2] does not fit 2 input channels in 2 groups}}
  %3 = "analog.conv2d"(%x, %w, %b) {layer = "groups", groups = 2 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  // expected-error@below {{analog.conv2d "stride": stride and dilation must be positive}}
  %4 = "analog.conv2d"(%x, %w, %b) {layer = "stride", groups = 1 : i64, stride = array<i64: 0, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  // expected-error@below {{analog.conv2d "pad": stride and dilation want 2 sizes, pad 4}}
  %5 = "analog.conv2d"(%x, %w, %b) {layer = "pad", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  // expected-error@below {{analog.depthwise_conv2d "depthwise": the output is [?, 2, 2, 3] but must be [?, 2, 2, 4]}}
  %6 = "analog.depthwise_conv2d"(%x, %d, %e) {layer = "depthwise", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x3x2x2xf32>, tensor<4xf32>) -> tensor<?x2x2x3xf32>
  // expected-error@below {{analog.depthwise_conv2d "window": a window of [5, 5] does not fit the input [?, 4, 4, 2]}}
  %7 = "analog.depthwise_conv2d"(%x, %f, %c) {layer = "window", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<5x5x2x1xf32>, tensor<2xf32>) -> tensor<?x2x2x2xf32>
  return %x : tensor<?x4x4x2xf32>
}
// -----
// Names and dictionaries.
func.func @main(%x: tensor<?x2xf32>, %w: tensor<2x2xf32>, %b: tensor<2xf32>, %v: tensor<2x3xf32>) -> tensor<?x2xf32> {
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "fc": another layer has this name}}
  %2 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "": its layer has no name}}
  %3 = "analog.fully_connected"(%x, %w, %b) {layer = "", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "noise": noise scale "loud" is not one of range, constant, signal}}
  %4 = "analog.fully_connected"(%x, %w, %b) {layer = "noise", noise = {scale = "loud", reference = "rms", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "calibration": its calibration has no finite, non-negative f64 `rms`}}
  %5 = "analog.fully_connected"(%x, %w, %b) {layer = "calibration", calibration = {samples = 1 : i64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "rank": its rank is not a non-negative integer}}
  %6 = "analog.fully_connected"(%x, %w, %b) {layer = "rank", rank = -1 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "inputs": the input is [?, 2] but the weight has 3 inputs}}
  %7 = "analog.fully_connected"(%x, %v, %b) {layer = "inputs", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %x : tensor<?x2xf32>
}
// -----
// Denoisers.
func.func @main(%x: tensor<?x4x4x4xf32>, %w: tensor<4x1x1x4xf32>, %b: tensor<4xf32>, %r: tensor<1x1x1x4xf32>, %rb: tensor<1xf32>, %d: tensor<3x3x1x1xf32>, %m: tensor<4x1x1x1xf32>) -> tensor<?x4x4x4xf32> {
  %1 = "analog.conv2d"(%x, %w, %b) {layer = "conv", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  // expected-error@below {{denoise.affine "conv": affine.shift is [1] but must be [4]}}
  %2 = "denoise.affine"(%1, %b, %rb) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<1xf32>) -> tensor<?x4x4x4xf32>
  // expected-error@below {{denoise.affine "other": no analog layer of this name comes before it}}
  %3 = "denoise.affine"(%1, %b, %b) {layer = "other"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  // expected-error@below {{denoise.mean "conv": the layer has another block, or an affine or a bias before it}}
  %4 = "denoise.mean"(%1, %r, %rb, %d, %rb, %m, %b) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  // expected-error@below {{denoise.affine "conv": the layer has another affine or bias}}
  %5 = "denoise.affine"(%1, %b, %b) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  return %5 : tensor<?x4x4x4xf32>
}
// -----
// Globals.
// expected-error@below {{ml_program.global @w: an external weight has the type tensor<?xf32>, not a static tensor}}
ml_program.global private @w(#ml_program.extern) : tensor<?xf32>
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  return %x : tensor<?x2xf32>
}
// -----
// Noise specifications.
func.func @main(%x: tensor<?x2xf32>, %w: tensor<2x2xf32>, %b: tensor<2xf32>) -> tensor<?x2xf32> {
  // expected-error@below {{analog.fully_connected "empty": noise ``: it is empty; write for example `gaussian(sigma=6%)`}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "empty", noise = {reference = "rms", scale = "range", spec = ""}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "unknown": noise `gausian(sigma=6%)`: there is no component `gausian`; built in are `gaussian` and `uniform`}}
  %2 = "analog.fully_connected"(%x, %w, %b) {layer = "unknown", noise = {reference = "rms", scale = "range", spec = "gausian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "missing": noise `gaussian(mu=1%)`: gaussian needs a sigma; write for example `gaussian(sigma=6%)`}}
  %3 = "analog.fully_connected"(%x, %w, %b) {layer = "missing", noise = {reference = "rms", scale = "range", spec = "gaussian(mu=1%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "argument": noise `gaussian(sigma=6%,tau=1)`: gaussian has no `tau`, only sigma, mu, site and lifetime; write for example `gaussian(sigma=6%)`}}
  %4 = "analog.fully_connected"(%x, %w, %b) {layer = "argument", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%,tau=1)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "sign": noise `gaussian(sigma=6%)+gaussian(sigma=4)`: `4` is over 1 without a percent sign; did you mean 4%?; write for example `gaussian(sigma=6%)`}}
  %5 = "analog.fully_connected"(%x, %w, %b) {layer = "sign", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)+gaussian(sigma=4)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "lifetime": noise `gaussian(sigma=6%,lifetime=day)`: lifetime "day" is not one of sample, chip; write for example `gaussian(sigma=6%)`}}
  %6 = "analog.fully_connected"(%x, %w, %b) {layer = "lifetime", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%,lifetime=day)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{analog.fully_connected "model": noise component `adc` is not supported yet; only `gaussian` and `uniform` are}}
  %7 = "analog.fully_connected"(%x, %w, %b) {layer = "model", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)+adc(bits=8)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %x : tensor<?x2xf32>
}
// -----
// A tile's program: sizes, buffers, draws, phases. The walk through a program ends at the first of these.
func.func private @bytes(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "bytes", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  // expected-error@below {{dtile program @bytes: dtile.activation_alloc (operation 1): 6 bytes for a buffer of Some(4)}}
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 6 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @room(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "room", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  // expected-error@below {{dtile.activation_alloc (operation 1): bytes 6 to 10 are not in the activation memory of 8}}
  %b = "dtile.activation_alloc"() {address = 6 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @rows(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "rows", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  // expected-error@below {{dtile.load (operation 3): rows 1 to 2 of 1}}
  %x = "dtile.load"(%y, %b) {first_row = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @unit(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "unit", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  // expected-error@below {{no unit `tea`}}
  "dtile.phase"() {index = 0 : i64, unit = "tea", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @enabled(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "enabled", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "affine", start = 0 : i64, cycles = 2 : i64} : () -> ()
  // expected-error@below {{dtile.load (operation 3): runs on transfer, but the phase enables "affine"}}
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @clock(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "clock", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  // expected-error@below {{phase 2 at cycle 3 where phase 1 at cycle 2 is due}}
  "dtile.phase"() {index = 2 : i64, unit = "transfer", start = 3 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @overwritten(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "overwritten", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 6 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "leaky_relu", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %z = "dtile.leaky_relu"(%x) {shift = 7 : i64} : (tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 2 : i64, unit = "transfer", start = 4 : i64, cycles = 2 : i64} : () -> ()
  // expected-error@below {{dtile.store (operation 7): reads a value that was overwritten in its buffer}}
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @slope(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "slope", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 6 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "leaky_relu", start = 2 : i64, cycles = 2 : i64} : () -> ()
  // expected-error@below {{dtile.leaky_relu (operation 5): shift 16}}
  %z = "dtile.leaky_relu"(%x) {shift = 16 : i64} : (tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 2 : i64, unit = "transfer", start = 4 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%z, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @overlap(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "overlap", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 8 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  // expected-error@below {{buffers at 2 and 0 of the activation memory overlap while both are in use}}
  %c = "dtile.activation_alloc"() {address = 2 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %z = "dtile.load"(%y, %c) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 2 : i64, unit = "transfer", start = 4 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 3 : i64, unit = "transfer", start = 6 : i64, cycles = 2 : i64} : () -> ()
  %p = "dtile.store"(%z, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
// expected-error@below {{dtile program @sum: `dtile.cycles` is not the phases' sum 4}}
func.func private @sum(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "sum", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 5 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
func.func private @address(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "address", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  // expected-error@below {{dtile.activation_alloc (operation 1): has no address}}
  %b = "dtile.activation_alloc"() {bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
// expected-error@below {{dtile program @memory: lacks the attribute `dtile.weight_memory_bytes`}}
func.func private @memory(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "memory", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
// -----
// Column scales.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{"one": it has one of `column_shift` and `column_calibration` without the other}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "one", column_shift = array<i64: 0, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{"count": its column_shift has 3 numbers for 2 channels}}
  %2 = "analog.fully_connected"(%1, %w, %b) {layer = "count", column_shift = array<i64: 0, 1, 2>, column_calibration = {samples = 4 : i64, rms = 1.0 : f64, absmax = 3.0 : f64, mean_abs = 0.5 : f64, std = 1.0 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{"large": its `column_shift` are not all from 0 to 15}}
  %3 = "analog.fully_connected"(%2, %w, %b) {layer = "large", column_shift = array<i64: 0, 16>, column_calibration = {samples = 4 : i64, rms = 1.0 : f64, absmax = 3.0 : f64, mean_abs = 0.5 : f64, std = 1.0 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %3 : tensor<?x2xf32>
}
// -----
// Reads.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  // expected-error@below {{"once": its `reads` is no integer from 2 to 64; a layer that is read once has none}}
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "once", reads = 1 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{"often": its `reads` is no integer from 2 to 64}}
  %2 = "analog.fully_connected"(%1, %w, %b) {layer = "often", reads = 65 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-error@below {{"half": its `reads` is no integer from 2 to 64}}
  %3 = "analog.fully_connected"(%2, %w, %b) {layer = "half", reads = 2.5 : f64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %4 = "analog.fully_connected"(%3, %w, %b) {layer = "most", reads = 64 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %4 : tensor<?x2xf32>
}
// -----
// A launch.
func.func @main(%x: tensor<?x2xi16>) -> tensor<?x2xi16> {
  // expected-error@below {{dtile.launch of layer fc: no dtile program @nothing}}
  %1 = "dtile.launch"(%x) {layer = "fc", program = @nothing} : (tensor<?x2xi16>) -> tensor<?x2xi16>
  return %1 : tensor<?x2xi16>
}
