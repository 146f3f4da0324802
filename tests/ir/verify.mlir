// RUN: mxc opt --pass-pipeline=verify
// A layer with a denoiser.
func.func @main(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %w = "tosa.const"() {values = dense<0.1> : tensor<2x2xf32>} : () -> tensor<2x2xf32>
  %b = "tosa.const"() {values = dense<0.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %y = "analog.fully_connected"(%x, %w, %b) {layer = "fc", calibration = {samples = 4 : i64, rms = 0.5 : f64, absmax = 2.0 : f64, mean_abs = 0.4 : f64, std = 0.5 : f64, input_absmax = 1.0 : f64}, noise = {reference = "rms", scale = "range", spec = "gaussian(sigma=6%)"}} : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %s = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "denoise.affine"(%y, %s, %b) {layer = "fc"} : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}
// -----
// A scheduled program and its launch.
func.func @main(%x: tensor<?x2xi16>) -> tensor<?x2xi16> {
  %1 = "dtile.launch"(%x) {layer = "fc", program = @copy} : (tensor<?x2xi16>) -> tensor<?x2xi16>
  return %1 : tensor<?x2xi16>
}
func.func private @copy(%y: tensor<1x1x2xi16>) -> tensor<1x1x2xi16> attributes {dtile.layer = "fc", dtile.input_fraction = 2 : i64, dtile.output_fraction = 2 : i64, dtile.cycles = 4 : i64, dtile.weight_memory_bytes = 8 : i64, dtile.activation_memory_bytes = 8 : i64} {
  %out = tensor.empty() : tensor<1x1x2xi16>
  %b = "dtile.activation_alloc"() {address = 0 : i64, bytes = 4 : i64} : () -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 2 : i64} : () -> ()
  %x = "dtile.load"(%y, %b) {first_row = 0 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  "dtile.phase"() {index = 1 : i64, unit = "transfer", start = 2 : i64, cycles = 2 : i64} : () -> ()
  %o = "dtile.store"(%x, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x2xi16>, tensor<1x1x2xi16>) -> tensor<1x1x2xi16>
  return %o : tensor<1x1x2xi16>
}
