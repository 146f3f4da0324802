// RUN: mxc opt --pass-pipeline=canonicalize-graph
// BatchNorm after a convolution, as multiply and add: (2 w) x + (2 b + 1) and (3 w) x + (3 b + 2).
func.func @main(%x: tensor<?x4x4x1xf32>) -> tensor<?x4x4x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x1xf32>} : () -> tensor<2x1x1x1xf32>
  %b = "tosa.const"() {values = dense<[1.0, 2.0]> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %scale = "tosa.const"() {values = dense<[[[[2.0, 3.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %shift = "tosa.const"() {values = dense<[[[[1.0, 2.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %1 = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x1xf32>, tensor<2x1x1x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32> loc("conv1")
  %2 = tosa.mul %1, %scale, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  %3 = tosa.add %shift, %2 : (tensor<1x1x1x2xf32>, tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  return %3 : tensor<?x4x4x2xf32>
}
// -----
// A depthwise and a grouped convolution, and a BatchNorm before an activation (which stays).
func.func @main(%x: tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<1x1x2x1xf32>} : () -> tensor<1x1x2x1xf32>
  %g = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x1xf32>} : () -> tensor<2x1x1x1xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %scale = "tosa.const"() {values = dense<[[[[2.0, 3.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %shift = "tosa.const"() {values = dense<[[[[1.0, 2.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %1 = tosa.depthwise_conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<1x1x2x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32> loc("depthwise")
  %2 = tosa.mul %1, %scale, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  %3 = tosa.custom %2, %g, %b {domain_name = "mxc", operator_name = "conv2d", implementation_attrs = "groups=2"} : (tensor<?x4x4x2xf32>, tensor<2x1x1x1xf32>, tensor<2xf32>) -> tensor<?x4x4x2xf32> loc("grouped")
  %4 = tosa.add %3, %shift : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>) -> tensor<?x4x4x2xf32>
  %5 = tosa.clamp %4 {min_val = 0.0 : f32, max_val = 6.0 : f32} : (tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  %6 = tosa.mul %5, %scale, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  %7 = tosa.add %6, %shift : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>) -> tensor<?x4x4x2xf32>
  %8 = tosa.sigmoid %7 : (tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  return %8 : tensor<?x4x4x2xf32>
}
// -----
// Scale and shift before a convolution without padding; a scale before one with padding.
func.func @main(%x: tensor<?x4x4x2xf32>) -> (tensor<?x4x4x1xf32>, tensor<?x4x4x1xf32>) {
  %w = "tosa.const"() {values = dense<[[[[1.0, 2.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %w3 = "tosa.const"() {values = dense<1.0> : tensor<1x3x3x2xf32>} : () -> tensor<1x3x3x2xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %scale = "tosa.const"() {values = dense<[[[[2.0, 3.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %shift = "tosa.const"() {values = dense<[[[[1.0, 2.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %1 = tosa.mul %x, %scale, %i : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  %2 = tosa.add %1, %shift : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>) -> tensor<?x4x4x2xf32>
  %3 = tosa.conv2d %2, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x1xf32> loc("pointwise")
  %4 = tosa.conv2d %1, %w3, %b, %z, %z {acc_type = f32, pad = array<i64: 1, 1, 1, 1>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<1x3x3x2xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x1xf32> loc("padded")
  return %3, %4 : tensor<?x4x4x1xf32>, tensor<?x4x4x1xf32>
}
// -----
// A classifier after global average pooling: the mean's factor and both biases fold into the matrix product.
func.func @main(%x: tensor<?x1x1x4xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<4.0> : tensor<1x4x2xf32>} : () -> tensor<1x4x2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %q = "tosa.const"() {values = dense<0.25> : tensor<1x1x1x1xf32>} : () -> tensor<1x1x1x1xf32>
  %b1 = "tosa.const"() {values = dense<[[1.0, 2.0]]> : tensor<1x2xf32>} : () -> tensor<1x2xf32>
  %s3 = tosa.const_shape {values = dense<[1, -1, 4]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %s2 = tosa.const_shape {values = dense<[-1, 2]> : tensor<2xindex>} : () -> !tosa.shape<2>
  %1 = tosa.mul %x, %q, %i : (tensor<?x1x1x4xf32>, tensor<1x1x1x1xf32>, tensor<1xi8>) -> tensor<?x1x1x4xf32>
  %2 = tosa.reshape %1, %s3 : (tensor<?x1x1x4xf32>, !tosa.shape<3>) -> tensor<1x?x4xf32>
  %3 = tosa.matmul %2, %w, %z, %z : (tensor<1x?x4xf32>, tensor<1x4x2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x2xf32> loc("fc")
  %4 = tosa.reshape %3, %s2 : (tensor<1x?x2xf32>, !tosa.shape<2>) -> tensor<?x2xf32>
  %5 = tosa.add %4, %b1 : (tensor<?x2xf32>, tensor<1x2xf32>) -> tensor<?x2xf32>
  %6 = tosa.add %5, %b1 : (tensor<?x2xf32>, tensor<1x2xf32>) -> tensor<?x2xf32>
  return %6 : tensor<?x2xf32>
}
// -----
// Identities, transposes that cancel across an activation, clamps that fuse, a border that becomes padding.
func.func @main(%x: tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<1x3x3x1xf32>} : () -> tensor<1x3x3x1xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %one = "tosa.const"() {values = dense<1.0> : tensor<1x1x1x1xf32>} : () -> tensor<1x1x1x1xf32>
  %zero = "tosa.const"() {values = dense<0.0> : tensor<1x1x1x1xf32>} : () -> tensor<1x1x1x1xf32>
  %border = tosa.const_shape {values = dense<[0, 0, 1, 1, 1, 1, 0, 0]> : tensor<8xindex>} : () -> !tosa.shape<8>
  %0 = tosa.identity %x : (tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32>
  %1 = tosa.pad %0, %border, %z : (tensor<?x4x4x1xf32>, !tosa.shape<8>, tensor<1xf32>) -> tensor<?x6x6x1xf32>
  %2 = tosa.conv2d %1, %w, %z, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x6x6x1xf32>, tensor<1x3x3x1xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x1xf32> loc("conv")
  %3 = tosa.mul %2, %one, %i : (tensor<?x4x4x1xf32>, tensor<1x1x1x1xf32>, tensor<1xi8>) -> tensor<?x4x4x1xf32>
  %4 = tosa.sub %3, %zero : (tensor<?x4x4x1xf32>, tensor<1x1x1x1xf32>) -> tensor<?x4x4x1xf32>
  %5 = tosa.transpose %4 {perms = array<i32: 0, 2, 1, 3>} : (tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32>
  %6 = tosa.maximum %5, %zero : (tensor<?x4x4x1xf32>, tensor<1x1x1x1xf32>) -> tensor<?x4x4x1xf32>
  %7 = tosa.clamp %6 {min_val = 0.0 : f32, max_val = 6.0 : f32} : (tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32>
  %8 = tosa.sigmoid %7 : (tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32>
  %9 = tosa.transpose %8 {perms = array<i32: 0, 2, 1, 3>} : (tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32>
  return %9 : tensor<?x4x4x1xf32>
}
// -----
// torch-mlir's NCHW: a BatchNorm between two transposes belongs to the layer before it, not to the one behind.
func.func @main(%x: tensor<?x4x4x1xf32>) -> tensor<?x4x4x1xf32> {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x1xf32>} : () -> tensor<2x1x1x1xf32>
  %w2 = "tosa.const"() {values = dense<1.0> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %i = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %mean = "tosa.const"() {values = dense<[[[[1.0]], [[2.0]]]]> : tensor<1x2x1x1xf32>} : () -> tensor<1x2x1x1xf32>
  %scale = "tosa.const"() {values = dense<[[[[2.0]], [[4.0]]]]> : tensor<1x2x1x1xf32>} : () -> tensor<1x2x1x1xf32>
  %1 = tosa.conv2d %x, %w, %z, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x1xf32>, tensor<2x1x1x1xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32> loc("conv1")
  %2 = tosa.transpose %1 {perms = array<i32: 0, 3, 1, 2>} : (tensor<?x4x4x2xf32>) -> tensor<?x2x4x4xf32>
  %4 = tosa.sub %2, %mean : (tensor<?x2x4x4xf32>, tensor<1x2x1x1xf32>) -> tensor<?x2x4x4xf32>
  %6 = tosa.mul %4, %scale, %i : (tensor<?x2x4x4xf32>, tensor<1x2x1x1xf32>, tensor<1xi8>) -> tensor<?x2x4x4xf32>
  %7 = tosa.transpose %6 {perms = array<i32: 0, 2, 3, 1>} : (tensor<?x2x4x4xf32>) -> tensor<?x4x4x2xf32>
  %8 = tosa.conv2d %7, %w2, %z, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x1xf32> loc("conv2")
  return %8 : tensor<?x4x4x1xf32>
}
