// RUN: mxc opt --pass-pipeline=verify
// Shapes of convolutions.
func.func @main(%x: tensor<?x4x4x2xf32>, %w: tensor<3x1x1x2xf32>, %b: tensor<3xf32>, %c: tensor<2xf32>, %d: tensor<3x3x2x2xf32>, %e: tensor<4xf32>, %f: tensor<5x5x2x1xf32>) -> tensor<?x4x4x2xf32> {
  %1 = "analog.conv2d"(%x, %w, %c) {layer = "bias", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<2xf32>) -> tensor<?x4x4x3xf32>
  %2 = "analog.conv2d"(%x, %w, %b) {layer = "output", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x3x4x3xf32>
  %3 = "analog.conv2d"(%x, %w, %b) {layer = "groups", groups = 2 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  %4 = "analog.conv2d"(%x, %w, %b) {layer = "stride", groups = 1 : i64, stride = array<i64: 0, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  %5 = "analog.conv2d"(%x, %w, %b) {layer = "pad", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x1x1x2xf32>, tensor<3xf32>) -> tensor<?x4x4x3xf32>
  %6 = "analog.depthwise_conv2d"(%x, %d, %e) {layer = "depthwise", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<3x3x2x2xf32>, tensor<4xf32>) -> tensor<?x2x2x3xf32>
  %7 = "analog.depthwise_conv2d"(%x, %f, %c) {layer = "window", stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x2xf32>, tensor<5x5x2x1xf32>, tensor<2xf32>) -> tensor<?x2x2x2xf32>
  return %x : tensor<?x4x4x2xf32>
}
// -----
// Names and dictionaries.
func.func @main(%x: tensor<?x2xf32>, %w: tensor<2x2xf32>, %b: tensor<2xf32>, %v: tensor<2x3xf32>) -> tensor<?x2xf32> {
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %2 = "analog.fully_connected"(%x, %w, %b) {layer = "fc", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %3 = "analog.fully_connected"(%x, %w, %b) {layer = "", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %4 = "analog.fully_connected"(%x, %w, %b) {layer = "noise", noise = {scale = "loud", reference = "rms", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %5 = "analog.fully_connected"(%x, %w, %b) {layer = "calibration", calibration = {samples = 1 : i64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %6 = "analog.fully_connected"(%x, %w, %b) {layer = "rank", rank = -1 : i64, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %7 = "analog.fully_connected"(%x, %v, %b) {layer = "inputs", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %x : tensor<?x2xf32>
}
// -----
// Denoisers.
func.func @main(%x: tensor<?x4x4x4xf32>, %w: tensor<4x1x1x4xf32>, %b: tensor<4xf32>, %r: tensor<1x1x1x4xf32>, %rb: tensor<1xf32>, %d: tensor<3x3x1x1xf32>, %m: tensor<4x1x1x1xf32>) -> tensor<?x4x4x4xf32> {
  %1 = "analog.conv2d"(%x, %w, %b) {layer = "conv", groups = 1 : i64, stride = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, dilation = array<i64: 1, 1>, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x4x4x4xf32>, tensor<4x1x1x4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  %2 = "denoise.affine"(%1, %b, %rb) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<1xf32>) -> tensor<?x4x4x4xf32>
  %3 = "denoise.affine"(%1, %b, %b) {layer = "other"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  %4 = "denoise.mean"(%1, %r, %rb, %d, %rb, %m, %b) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<1x1x1x4xf32>, tensor<1xf32>, tensor<3x3x1x1xf32>, tensor<1xf32>, tensor<4x1x1x1xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  %5 = "denoise.affine"(%1, %b, %b) {layer = "conv"} : (tensor<?x4x4x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4x4x4xf32>
  return %5 : tensor<?x4x4x4xf32>
}
// -----
// Globals.
ml_program.global private @w(#ml_program.extern) : tensor<?xf32>
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  return %x : tensor<?x2xf32>
}
// -----
// Noise specifications.
func.func @main(%x: tensor<?x2xf32>, %w: tensor<2x2xf32>, %b: tensor<2xf32>) -> tensor<?x2xf32> {
  %1 = "analog.fully_connected"(%x, %w, %b) {layer = "empty", noise = {reference = "rms", scale = "range", spec = ""}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %2 = "analog.fully_connected"(%x, %w, %b) {layer = "unknown", noise = {reference = "rms", scale = "range", spec = "gausian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %3 = "analog.fully_connected"(%x, %w, %b) {layer = "missing", noise = {reference = "rms", scale = "range", spec = "gaussian(mu=1%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %4 = "analog.fully_connected"(%x, %w, %b) {layer = "argument", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%,tau=1)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %5 = "analog.fully_connected"(%x, %w, %b) {layer = "sign", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)+gaussian(sigma=4)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %6 = "analog.fully_connected"(%x, %w, %b) {layer = "lifetime", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%,lifetime=day)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %7 = "analog.fully_connected"(%x, %w, %b) {layer = "model", noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)+adc(bits=8)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %x : tensor<?x2xf32>
}
