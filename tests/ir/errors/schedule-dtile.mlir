// RUN: mxc opt --pass-pipeline=schedule-dtile
// More activations than the tile holds.
// expected-error@below {{the denoiser of layer 'fc' needs 131076 bytes of activation memory, the tile has 131072 help: run lower-to-dtile for this hardware profile: it chooses strips that fit}}
func.func private @p(%y: tensor<1x32769x2xi16>) -> tensor<1x32769x2xi16> attributes {dtile.layer = "fc", dtile.input_fraction = 13 : i64, dtile.output_fraction = 13 : i64, dtile.weight_memory_bytes = 1000000 : i64, dtile.activation_memory_bytes = 1000000 : i64} {
  %out = tensor.empty() : tensor<1x32769x2xi16>
  %b = "dtile.activation_alloc"() {bytes = 131076 : i64} : () -> tensor<1x32769x2xi16>
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x32769x2xi16>, tensor<1x32769x2xi16>) -> tensor<1x32769x2xi16>
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x32769x2xi16>, tensor<1x32769x2xi16>) -> tensor<1x32769x2xi16>
  return %o : tensor<1x32769x2xi16>
}
// -----
// More weights than the tile holds.
// expected-error@below {{the denoiser of layer 'fc' has 524290 bytes of weights, the weight memory 524288 help: a profile with more `memory.weight_bytes`, or compile without a denoiser at this layer}}
func.func private @p(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "fc", dtile.input_fraction = 13 : i64, dtile.output_fraction = 13 : i64, dtile.weight_memory_bytes = 1000000 : i64, dtile.activation_memory_bytes = 1000000 : i64} {
  %c = arith.constant dense<1> : tensor<262145xi16>
  %w = "dtile.weight_alloc"(%c) {bytes = 524290 : i64} : (tensor<262145xi16>) -> tensor<262145xi16>
  return %y : tensor<1x1x2xi16>
}
