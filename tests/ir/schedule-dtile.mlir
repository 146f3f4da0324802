// RUN: mxc opt --pass-pipeline=schedule-dtile
// The weights of two programs lie one behind the other. The second was scheduled for another tile, and is scheduled anew.
func.func private @denoise.first(%y: tensor<1x1x3xi16>) -> tensor<1x1x3xi16> attributes {dtile.layer = "first", dtile.input_fraction = 13 : i64, dtile.output_fraction = 12 : i64, dtile.weight_memory_bytes = 64 : i64, dtile.activation_memory_bytes = 64 : i64} {
  %scale = arith.constant dense<[16384, 12288, 20480]> : tensor<3xi16>
  %s = "dtile.weight_alloc"(%scale) {bytes = 6 : i64} : (tensor<3xi16>) -> tensor<3xi16>
  %shift = arith.constant dense<[0, 1, 2]> : tensor<3xi16>
  %t = "dtile.weight_alloc"(%shift) {bytes = 6 : i64} : (tensor<3xi16>) -> tensor<3xi16>
  %out = tensor.empty() : tensor<1x1x3xi16>
  %buffer = "dtile.activation_alloc"() {bytes = 6 : i64} : () -> tensor<1x1x3xi16>
  %x = "dtile.load"(%y, %buffer) {first_row = 0 : i64} : (tensor<1x1x3xi16>, tensor<1x1x3xi16>) -> tensor<1x1x3xi16>
  %a = "dtile.affine"(%x, %s, %t) {first_row = 0 : i64, rows = 1 : i64, input_fraction = 13 : i64, scale_fraction = 14 : i64, shift_fraction = 14 : i64, output_fraction = 12 : i64} : (tensor<1x1x3xi16>, tensor<3xi16>, tensor<3xi16>) -> tensor<1x1x3xi16>
  %o = "dtile.store"(%a, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x3xi16>, tensor<1x1x3xi16>) -> tensor<1x1x3xi16>
  return %o : tensor<1x1x3xi16>
}
func.func private @denoise.second(%y: tensor<1x1x3xi16>) -> tensor<1x1x3xi16> attributes {dtile.layer = "second", dtile.input_fraction = 13 : i64, dtile.output_fraction = 12 : i64, dtile.cycles = 60 : i64, dtile.weight_memory_bytes = 64 : i64, dtile.activation_memory_bytes = 64 : i64} {
  %scale = arith.constant dense<[16384, 12288, 20480]> : tensor<3xi16>
  %s = "dtile.weight_alloc"(%scale) {address = 40 : i64, bytes = 6 : i64} : (tensor<3xi16>) -> tensor<3xi16>
  %shift = arith.constant dense<[0, 1, 2]> : tensor<3xi16>
  %t = "dtile.weight_alloc"(%shift) {address = 50 : i64, bytes = 6 : i64} : (tensor<3xi16>) -> tensor<3xi16>
  %out = tensor.empty() : tensor<1x1x3xi16>
  %buffer = "dtile.activation_alloc"() {address = 20 : i64, bytes = 6 : i64} : () -> tensor<1x1x3xi16>
  "dtile.phase"() {index = 0 : i64, unit = "transfer", start = 0 : i64, cycles = 10 : i64} : () -> ()
  %x = "dtile.load"(%y, %buffer) {first_row = 0 : i64} : (tensor<1x1x3xi16>, tensor<1x1x3xi16>) -> tensor<1x1x3xi16>
  "dtile.phase"() {index = 1 : i64, unit = "affine", start = 10 : i64, cycles = 30 : i64} : () -> ()
  %a = "dtile.affine"(%x, %s, %t) {first_row = 0 : i64, rows = 1 : i64, input_fraction = 13 : i64, scale_fraction = 14 : i64, shift_fraction = 14 : i64, output_fraction = 12 : i64} : (tensor<1x1x3xi16>, tensor<3xi16>, tensor<3xi16>) -> tensor<1x1x3xi16>
  "dtile.phase"() {index = 2 : i64, unit = "transfer", start = 40 : i64, cycles = 20 : i64} : () -> ()
  %o = "dtile.store"(%a, %out) {first_row = 0 : i64, strip_row = 0 : i64, rows = 1 : i64} : (tensor<1x1x3xi16>, tensor<1x1x3xi16>) -> tensor<1x1x3xi16>
  return %o : tensor<1x1x3xi16>
}
// -----
// The paper's block: the LFSRs, the converter and the cancellation are one phase; h makes room for μ̂.
func.func private @denoise.conv(%arg0: tensor<2x2x4xi16>) -> tensor<2x2x4xi16> attributes {dtile.activation_memory_bytes = 131072 : i64, dtile.input_fraction = 13 : i64, dtile.layer = "conv", dtile.output_fraction = 12 : i64, dtile.weight_memory_bytes = 524288 : i64} {
  %cst = arith.constant dense<[[[[8192, -4096, 2048, 16384]]]]> : tensor<1x1x1x4xi16>
  %0 = "dtile.weight_alloc"(%cst) {bytes = 8 : i64} : (tensor<1x1x1x4xi16>) -> tensor<1x1x1x4xi16>
  %cst_0 = arith.constant dense<4096> : tensor<1xi16>
  %1 = "dtile.weight_alloc"(%cst_0) {bytes = 2 : i64} : (tensor<1xi16>) -> tensor<1xi16>
  %cst_1 = arith.constant dense<8192> : tensor<3x3x1x1xi16>
  %2 = "dtile.weight_alloc"(%cst_1) {bytes = 18 : i64} : (tensor<3x3x1x1xi16>) -> tensor<3x3x1x1xi16>
  %cst_2 = arith.constant dense<4096> : tensor<1xi16>
  %3 = "dtile.weight_alloc"(%cst_2) {bytes = 2 : i64} : (tensor<1xi16>) -> tensor<1xi16>
  %cst_3 = arith.constant dense<[[[[16384]]], [[[8192]]], [[[-16384]]], [[[-8192]]]]> : tensor<4x1x1x1xi16>
  %4 = "dtile.weight_alloc"(%cst_3) {bytes = 8 : i64} : (tensor<4x1x1x1xi16>) -> tensor<4x1x1x1xi16>
  %cst_4 = arith.constant dense<64> : tensor<4xi16>
  %5 = "dtile.weight_alloc"(%cst_4) {bytes = 8 : i64} : (tensor<4xi16>) -> tensor<4xi16>
  %cst_5 = arith.constant dense<512> : tensor<4x1x1x1xi16>
  %6 = "dtile.weight_alloc"(%cst_5) {bytes = 8 : i64} : (tensor<4x1x1x1xi16>) -> tensor<4x1x1x1xi16>
  %cst_6 = arith.constant dense<64> : tensor<4xi16>
  %7 = "dtile.weight_alloc"(%cst_6) {bytes = 8 : i64} : (tensor<4xi16>) -> tensor<4xi16>
  %8 = tensor.empty() : tensor<2x2x4xi16>
  %9 = "dtile.activation_alloc"() {bytes = 32 : i64} : () -> tensor<2x2x4xi16>
  %10 = "dtile.load"(%arg0, %9) {first_row = 0 : i64} : (tensor<2x2x4xi16>, tensor<2x2x4xi16>) -> tensor<2x2x4xi16>
  %11 = "dtile.activation_alloc"() {bytes = 8 : i64} : () -> tensor<2x2x1xi16>
  %12 = "dtile.systolic_conv"(%10, %0, %1, %11) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 13 : i64, kind = "pointwise", order = "accumulate", output_fraction = 12 : i64, pad = array<i64: 0, 0, 0, 0>, weight_fraction = 14 : i64} : (tensor<2x2x4xi16>, tensor<1x1x1x4xi16>, tensor<1xi16>, tensor<2x2x1xi16>) -> tensor<2x2x1xi16>
  %13 = "dtile.leaky_relu"(%12) {shift = 7 : i64} : (tensor<2x2x1xi16>) -> tensor<2x2x1xi16>
  %14 = "dtile.activation_alloc"() {bytes = 8 : i64} : () -> tensor<2x2x1xi16>
  %15 = "dtile.systolic_conv"(%13, %2, %3, %14) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 12 : i64, kind = "depthwise", order = "accumulate", output_fraction = 11 : i64, pad = array<i64: 1, 1, 1, 1>, weight_fraction = 14 : i64} : (tensor<2x2x1xi16>, tensor<3x3x1x1xi16>, tensor<1xi16>, tensor<2x2x1xi16>) -> tensor<2x2x1xi16>
  %16 = "dtile.leaky_relu"(%15) {shift = 7 : i64} : (tensor<2x2x1xi16>) -> tensor<2x2x1xi16>
  %17 = "dtile.activation_alloc"() {bytes = 32 : i64} : () -> tensor<2x2x4xi16>
  %18 = "dtile.activation_alloc"() {bytes = 32 : i64} : () -> tensor<2x2x4xi16>
  %19:2 = "dtile.systolic_conv_pair"(%16, %4, %5, %6, %7, %17, %18) {bias_fractions = array<i64: 14, 14>, cores = array<i64: 2, 4>, first_filter = 0 : i64, input_fraction = 11 : i64, order = "accumulate", output_fractions = array<i64: 12, 14>, weight_fractions = array<i64: 15, 15>} : (tensor<2x2x1xi16>, tensor<4x1x1x1xi16>, tensor<4xi16>, tensor<4x1x1x1xi16>, tensor<4xi16>, tensor<2x2x4xi16>, tensor<2x2x4xi16>) -> (tensor<2x2x4xi16>, tensor<2x2x4xi16>)
  %20 = "dtile.lfsr"() {first_draw = 0 : i64, seeds = array<i64: 495397697, 2135587861, 2496678331, 3605593784>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<2x2x4xi32>
  %21 = "dtile.lfsr"() {first_draw = 0 : i64, seeds = array<i64: 2654435769, 3210233709, 625341585, 1779033703>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<2x2x4xi32>
  %22 = "dtile.box_muller"(%20, %21) {fraction = 12 : i64, width = 32 : i64} : (tensor<2x2x4xi32>, tensor<2x2x4xi32>) -> tensor<2x2x4xi16>
  %23 = "dtile.noise_cancel"(%10, %19#0, %19#1, %22) {first_channel = 0 : i64, first_row = 0 : i64, input_fraction = 13 : i64, lanes = 4 : i64, mean_fraction = 12 : i64, normal_fraction = 12 : i64, output_fraction = 12 : i64, sigma_fraction = 14 : i64} : (tensor<2x2x4xi16>, tensor<2x2x4xi16>, tensor<2x2x4xi16>, tensor<2x2x4xi16>) -> tensor<2x2x4xi16>
  %24 = "dtile.store"(%23, %8) {first_row = 0 : i64, rows = 2 : i64, strip_row = 0 : i64} : (tensor<2x2x4xi16>, tensor<2x2x4xi16>) -> tensor<2x2x4xi16>
  return %24 : tensor<2x2x4xi16>
}
// -----
// A block without σ̂, and an affine.
func.func private @denoise.conv(%arg0: tensor<1x3x4xi16>) -> tensor<1x3x4xi16> attributes {dtile.activation_memory_bytes = 131072 : i64, dtile.input_fraction = 13 : i64, dtile.layer = "conv", dtile.output_fraction = 11 : i64, dtile.weight_memory_bytes = 524288 : i64} {
  %cst = arith.constant dense<[[[[8192, -4096, 2048, 16384]]]]> : tensor<1x1x1x4xi16>
  %0 = "dtile.weight_alloc"(%cst) {bytes = 8 : i64} : (tensor<1x1x1x4xi16>) -> tensor<1x1x1x4xi16>
  %cst_0 = arith.constant dense<4096> : tensor<1xi16>
  %1 = "dtile.weight_alloc"(%cst_0) {bytes = 2 : i64} : (tensor<1xi16>) -> tensor<1xi16>
  %cst_1 = arith.constant dense<8192> : tensor<3x3x1x1xi16>
  %2 = "dtile.weight_alloc"(%cst_1) {bytes = 18 : i64} : (tensor<3x3x1x1xi16>) -> tensor<3x3x1x1xi16>
  %cst_2 = arith.constant dense<4096> : tensor<1xi16>
  %3 = "dtile.weight_alloc"(%cst_2) {bytes = 2 : i64} : (tensor<1xi16>) -> tensor<1xi16>
  %cst_3 = arith.constant dense<[[[[16384]]], [[[8192]]], [[[-16384]]], [[[-8192]]]]> : tensor<4x1x1x1xi16>
  %4 = "dtile.weight_alloc"(%cst_3) {bytes = 8 : i64} : (tensor<4x1x1x1xi16>) -> tensor<4x1x1x1xi16>
  %cst_4 = arith.constant dense<64> : tensor<4xi16>
  %5 = "dtile.weight_alloc"(%cst_4) {bytes = 8 : i64} : (tensor<4xi16>) -> tensor<4xi16>
  %cst_5 = arith.constant dense<[16384, 12288, 20480, 16384]> : tensor<4xi16>
  %6 = "dtile.weight_alloc"(%cst_5) {bytes = 8 : i64} : (tensor<4xi16>) -> tensor<4xi16>
  %cst_6 = arith.constant dense<[0, 1, 2, 3]> : tensor<4xi16>
  %7 = "dtile.weight_alloc"(%cst_6) {bytes = 8 : i64} : (tensor<4xi16>) -> tensor<4xi16>
  %8 = tensor.empty() : tensor<1x3x4xi16>
  %9 = "dtile.activation_alloc"() {bytes = 24 : i64} : () -> tensor<1x3x4xi16>
  %10 = "dtile.load"(%arg0, %9) {first_row = 0 : i64} : (tensor<1x3x4xi16>, tensor<1x3x4xi16>) -> tensor<1x3x4xi16>
  %11 = "dtile.activation_alloc"() {bytes = 6 : i64} : () -> tensor<1x3x1xi16>
  %12 = "dtile.systolic_conv"(%10, %0, %1, %11) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 13 : i64, kind = "pointwise", order = "accumulate", output_fraction = 12 : i64, pad = array<i64: 0, 0, 0, 0>, weight_fraction = 14 : i64} : (tensor<1x3x4xi16>, tensor<1x1x1x4xi16>, tensor<1xi16>, tensor<1x3x1xi16>) -> tensor<1x3x1xi16>
  %13 = "dtile.leaky_relu"(%12) {shift = 7 : i64} : (tensor<1x3x1xi16>) -> tensor<1x3x1xi16>
  %14 = "dtile.activation_alloc"() {bytes = 6 : i64} : () -> tensor<1x3x1xi16>
  %15 = "dtile.systolic_conv"(%13, %2, %3, %14) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 12 : i64, kind = "depthwise", order = "accumulate", output_fraction = 11 : i64, pad = array<i64: 1, 1, 1, 1>, weight_fraction = 14 : i64} : (tensor<1x3x1xi16>, tensor<3x3x1x1xi16>, tensor<1xi16>, tensor<1x3x1xi16>) -> tensor<1x3x1xi16>
  %16 = "dtile.leaky_relu"(%15) {shift = 7 : i64} : (tensor<1x3x1xi16>) -> tensor<1x3x1xi16>
  %17 = "dtile.activation_alloc"() {bytes = 24 : i64} : () -> tensor<1x3x4xi16>
  %18 = "dtile.systolic_conv"(%16, %4, %5, %17) {bias_fraction = 14 : i64, cores = array<i64: 2, 4>, first_filter = 0 : i64, input_fraction = 11 : i64, kind = "pointwise", order = "accumulate", output_fraction = 12 : i64, pad = array<i64: 0, 0, 0, 0>, weight_fraction = 15 : i64} : (tensor<1x3x1xi16>, tensor<4x1x1x1xi16>, tensor<4xi16>, tensor<1x3x4xi16>) -> tensor<1x3x4xi16>
  %19 = "dtile.noise_cancel"(%10, %18) {first_channel = 0 : i64, first_row = 0 : i64, input_fraction = 13 : i64, lanes = 4 : i64, mean_fraction = 12 : i64, normal_fraction = 12 : i64, output_fraction = 12 : i64, sigma_fraction = 0 : i64} : (tensor<1x3x4xi16>, tensor<1x3x4xi16>) -> tensor<1x3x4xi16>
  %20 = "dtile.affine"(%19, %6, %7) {first_row = 0 : i64, input_fraction = 12 : i64, output_fraction = 11 : i64, rows = 1 : i64, scale_fraction = 14 : i64, shift_fraction = 14 : i64} : (tensor<1x3x4xi16>, tensor<4xi16>, tensor<4xi16>) -> tensor<1x3x4xi16>
  %21 = "dtile.store"(%20, %8) {first_row = 0 : i64, rows = 1 : i64, strip_row = 0 : i64} : (tensor<1x3x4xi16>, tensor<1x3x4xi16>) -> tensor<1x3x4xi16>
  return %21 : tensor<1x3x4xi16>
}
// -----
// Heads in three rounds: their buffers live from the first to the last.
func.func private @denoise.conv(%arg0: tensor<16x16x96xi16>) -> tensor<16x16x96xi16> attributes {dtile.activation_memory_bytes = 131072 : i64, dtile.input_fraction = 13 : i64, dtile.layer = "conv", dtile.output_fraction = 12 : i64, dtile.weight_memory_bytes = 524288 : i64} {
  %cst = arith.constant dense<512> : tensor<24x1x1x96xi16>
  %0 = "dtile.weight_alloc"(%cst) {bytes = 4608 : i64} : (tensor<24x1x1x96xi16>) -> tensor<24x1x1x96xi16>
  %cst_0 = arith.constant dense<4096> : tensor<24xi16>
  %1 = "dtile.weight_alloc"(%cst_0) {bytes = 48 : i64} : (tensor<24xi16>) -> tensor<24xi16>
  %cst_1 = arith.constant dense<8192> : tensor<3x3x24x1xi16>
  %2 = "dtile.weight_alloc"(%cst_1) {bytes = 432 : i64} : (tensor<3x3x24x1xi16>) -> tensor<3x3x24x1xi16>
  %cst_2 = arith.constant dense<4096> : tensor<24xi16>
  %3 = "dtile.weight_alloc"(%cst_2) {bytes = 48 : i64} : (tensor<24xi16>) -> tensor<24xi16>
  %cst_3 = arith.constant dense<1024> : tensor<96x1x1x24xi16>
  %4 = "dtile.weight_alloc"(%cst_3) {bytes = 4608 : i64} : (tensor<96x1x1x24xi16>) -> tensor<96x1x1x24xi16>
  %cst_4 = arith.constant dense<64> : tensor<96xi16>
  %5 = "dtile.weight_alloc"(%cst_4) {bytes = 192 : i64} : (tensor<96xi16>) -> tensor<96xi16>
  %cst_5 = arith.constant dense<512> : tensor<96x1x1x24xi16>
  %6 = "dtile.weight_alloc"(%cst_5) {bytes = 4608 : i64} : (tensor<96x1x1x24xi16>) -> tensor<96x1x1x24xi16>
  %cst_6 = arith.constant dense<64> : tensor<96xi16>
  %7 = "dtile.weight_alloc"(%cst_6) {bytes = 192 : i64} : (tensor<96xi16>) -> tensor<96xi16>
  %8 = tensor.empty() : tensor<16x16x96xi16>
  %9 = "dtile.activation_alloc"() {bytes = 49152 : i64} : () -> tensor<16x16x96xi16>
  %10 = "dtile.load"(%arg0, %9) {first_row = 0 : i64} : (tensor<16x16x96xi16>, tensor<16x16x96xi16>) -> tensor<16x16x96xi16>
  %11 = "dtile.activation_alloc"() {bytes = 12288 : i64} : () -> tensor<16x16x24xi16>
  %12 = "dtile.systolic_conv"(%10, %0, %1, %11) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 13 : i64, kind = "pointwise", order = "accumulate", output_fraction = 12 : i64, pad = array<i64: 0, 0, 0, 0>, weight_fraction = 14 : i64} : (tensor<16x16x96xi16>, tensor<24x1x1x96xi16>, tensor<24xi16>, tensor<16x16x24xi16>) -> tensor<16x16x24xi16>
  %13 = "dtile.leaky_relu"(%12) {shift = 7 : i64} : (tensor<16x16x24xi16>) -> tensor<16x16x24xi16>
  %14 = "dtile.activation_alloc"() {bytes = 12288 : i64} : () -> tensor<16x16x24xi16>
  %15 = "dtile.systolic_conv"(%13, %2, %3, %14) {bias_fraction = 14 : i64, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 12 : i64, kind = "depthwise", order = "accumulate", output_fraction = 11 : i64, pad = array<i64: 1, 1, 1, 1>, weight_fraction = 14 : i64} : (tensor<16x16x24xi16>, tensor<3x3x24x1xi16>, tensor<24xi16>, tensor<16x16x24xi16>) -> tensor<16x16x24xi16>
  %16 = "dtile.leaky_relu"(%15) {shift = 7 : i64} : (tensor<16x16x24xi16>) -> tensor<16x16x24xi16>
  %17 = "dtile.activation_alloc"() {bytes = 16384 : i64} : () -> tensor<16x16x32xi16>
  %18 = "dtile.activation_alloc"() {bytes = 16384 : i64} : () -> tensor<16x16x32xi16>
  %19:2 = "dtile.systolic_conv_pair"(%16, %4, %5, %6, %7, %17, %18) {bias_fractions = array<i64: 14, 14>, cores = array<i64: 10, 1>, first_filter = 0 : i64, input_fraction = 11 : i64, order = "accumulate", output_fractions = array<i64: 12, 14>, weight_fractions = array<i64: 15, 15>} : (tensor<16x16x24xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> (tensor<16x16x32xi16>, tensor<16x16x32xi16>)
  %20 = "dtile.lfsr"() {first_draw = 0 : i64, seeds = array<i64: 495397697, 2135587861, 2496678331, 3605593784>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %21 = "dtile.lfsr"() {first_draw = 0 : i64, seeds = array<i64: 2654435769, 3210233709, 625341585, 1779033703>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %22 = "dtile.box_muller"(%20, %21) {fraction = 12 : i64, width = 32 : i64} : (tensor<16x16x32xi32>, tensor<16x16x32xi32>) -> tensor<16x16x32xi16>
  %23 = "dtile.noise_cancel"(%10, %19#0, %19#1, %22) {first_channel = 0 : i64, first_row = 0 : i64, input_fraction = 13 : i64, lanes = 4 : i64, mean_fraction = 12 : i64, normal_fraction = 12 : i64, output_fraction = 12 : i64, sigma_fraction = 14 : i64} : (tensor<16x16x96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> tensor<16x16x96xi16>
  %24:2 = "dtile.systolic_conv_pair"(%16, %4, %5, %6, %7, %17, %18) {bias_fractions = array<i64: 14, 14>, cores = array<i64: 10, 1>, first_filter = 32 : i64, input_fraction = 11 : i64, order = "accumulate", output_fractions = array<i64: 12, 14>, weight_fractions = array<i64: 15, 15>} : (tensor<16x16x24xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> (tensor<16x16x32xi16>, tensor<16x16x32xi16>)
  %25 = "dtile.lfsr"() {first_draw = 2048 : i64, seeds = array<i64: 495397697, 2135587861, 2496678331, 3605593784>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %26 = "dtile.lfsr"() {first_draw = 2048 : i64, seeds = array<i64: 2654435769, 3210233709, 625341585, 1779033703>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %27 = "dtile.box_muller"(%25, %26) {fraction = 12 : i64, width = 32 : i64} : (tensor<16x16x32xi32>, tensor<16x16x32xi32>) -> tensor<16x16x32xi16>
  %28 = "dtile.noise_cancel"(%23, %24#0, %24#1, %27) {first_channel = 32 : i64, first_row = 0 : i64, input_fraction = 13 : i64, lanes = 4 : i64, mean_fraction = 12 : i64, normal_fraction = 12 : i64, output_fraction = 12 : i64, sigma_fraction = 14 : i64} : (tensor<16x16x96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> tensor<16x16x96xi16>
  %29:2 = "dtile.systolic_conv_pair"(%16, %4, %5, %6, %7, %17, %18) {bias_fractions = array<i64: 14, 14>, cores = array<i64: 10, 1>, first_filter = 64 : i64, input_fraction = 11 : i64, order = "accumulate", output_fractions = array<i64: 12, 14>, weight_fractions = array<i64: 15, 15>} : (tensor<16x16x24xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<96x1x1x24xi16>, tensor<96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> (tensor<16x16x32xi16>, tensor<16x16x32xi16>)
  %30 = "dtile.lfsr"() {first_draw = 4096 : i64, seeds = array<i64: 495397697, 2135587861, 2496678331, 3605593784>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %31 = "dtile.lfsr"() {first_draw = 4096 : i64, seeds = array<i64: 2654435769, 3210233709, 625341585, 1779033703>, shifts_per_draw = 32 : i64, taps = array<i64: 32, 22, 2, 1>, width = 32 : i64} : () -> tensor<16x16x32xi32>
  %32 = "dtile.box_muller"(%30, %31) {fraction = 12 : i64, width = 32 : i64} : (tensor<16x16x32xi32>, tensor<16x16x32xi32>) -> tensor<16x16x32xi16>
  %33 = "dtile.noise_cancel"(%28, %29#0, %29#1, %32) {first_channel = 64 : i64, first_row = 0 : i64, input_fraction = 13 : i64, lanes = 4 : i64, mean_fraction = 12 : i64, normal_fraction = 12 : i64, output_fraction = 12 : i64, sigma_fraction = 14 : i64} : (tensor<16x16x96xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>, tensor<16x16x32xi16>) -> tensor<16x16x96xi16>
  %34 = "dtile.store"(%33, %8) {first_row = 0 : i64, rows = 16 : i64, strip_row = 0 : i64} : (tensor<16x16x96xi16>, tensor<16x16x96xi16>) -> tensor<16x16x96xi16>
  return %34 : tensor<16x16x96xi16>
}
