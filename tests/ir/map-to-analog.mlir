// RUN: mxc opt --pass-pipeline=map-to-analog{keep-digital=keep*}
// Convolution, depthwise and grouped; the slice before a strided convolution folds back; names are made unique.
func.func @main(%x: tensor<?x6x6x2xf32>) -> (tensor<?x3x3x2xf32>, tensor<?x3x3x2xf32>) {
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x2xf32>} : () -> tensor<2x1x1x2xf32>
  %d = "tosa.const"() {values = dense<1.0> : tensor<3x3x2x1xf32>} : () -> tensor<3x3x2x1xf32>
  %g = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x1xf32>} : () -> tensor<2x1x1x1xf32>
  %b = "tosa.const"() {values = dense<0.5> : tensor<1xf32>} : () -> tensor<1xf32>
  %b2 = "tosa.const"() {values = dense<[1.0, 2.0]> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %start = tosa.const_shape {values = dense<0> : tensor<4xindex>} : () -> !tosa.shape<4>
  %size = tosa.const_shape {values = dense<[-1, 5, 5, 2]> : tensor<4xindex>} : () -> !tosa.shape<4>
  %0 = tosa.slice %x, %start, %size : (tensor<?x6x6x2xf32>, !tosa.shape<4>, !tosa.shape<4>) -> tensor<?x5x5x2xf32>
  %1 = tosa.conv2d %0, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 2, 2>, dilation = array<i64: 1, 1>} : (tensor<?x5x5x2xf32>, tensor<2x1x1x2xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x3x3x2xf32> loc("conv")
  %2 = tosa.depthwise_conv2d %1, %d, %b2, %z, %z {acc_type = f32, pad = array<i64: 1, 1, 1, 1>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x3x3x2xf32>, tensor<3x3x2x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x3x3x2xf32> loc("conv")
  %3 = tosa.custom %2, %g, %b2 {domain_name = "mxc", operator_name = "conv2d", implementation_attrs = "groups=2"} : (tensor<?x3x3x2xf32>, tensor<2x1x1x1xf32>, tensor<2xf32>) -> tensor<?x3x3x2xf32> loc(fused["node", "other"])
  %4 = tosa.conv2d %2, %w, %b2, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x3x3x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x3x3x2xf32> loc("keep/me")
  return %3, %4 : tensor<?x3x3x2xf32>, tensor<?x3x3x2xf32>
}
// -----
// A classifier: reshapes and bias go into the layer; a product of two activations stays digital.
func.func @main(%x: tensor<?x2xf32>) -> (tensor<?x3xf32>, tensor<1x?x?xf32>) {
  %w = "tosa.const"() {values = dense<[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]> : tensor<1x2x3xf32>} : () -> tensor<1x2x3xf32>
  %b = "tosa.const"() {values = dense<[[1.0, 2.0, 3.0]]> : tensor<1x3xf32>} : () -> tensor<1x3xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %s3 = tosa.const_shape {values = dense<[1, -1, 2]> : tensor<3xindex>} : () -> !tosa.shape<3>
  %s2 = tosa.const_shape {values = dense<[-1, 3]> : tensor<2xindex>} : () -> !tosa.shape<2>
  %1 = tosa.reshape %x, %s3 : (tensor<?x2xf32>, !tosa.shape<3>) -> tensor<1x?x2xf32>
  %2 = tosa.matmul %1, %w, %z, %z : (tensor<1x?x2xf32>, tensor<1x2x3xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x3xf32> loc("fc")
  %3 = tosa.reshape %2, %s2 : (tensor<1x?x3xf32>, !tosa.shape<2>) -> tensor<?x3xf32>
  %4 = tosa.add %3, %b : (tensor<?x3xf32>, tensor<1x3xf32>) -> tensor<?x3xf32>
  %t = tosa.transpose %1 {perms = array<i32: 0, 2, 1>} : (tensor<1x?x2xf32>) -> tensor<1x2x?xf32>
  %5 = tosa.matmul %1, %t, %z, %z : (tensor<1x?x2xf32>, tensor<1x2x?xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x?xf32> loc("attention")
  return %4, %5 : tensor<?x3xf32>, tensor<1x?x?xf32>
}
