// The dtile dialect: straight-line programs of the digital tile that runs the denoisers (paper, section III-D and Fig. 2).
//
// One func.func per denoised layer, on tensor<HxWxCxi16> of one sample, in fixed point: a word q with fraction f stands for
// q * 2^-f, and every `…fraction` attribute is such an f. Weights and activations live in separate memories; a buffer is
// allocated explicitly, with its size and, once scheduled, its byte address. Ops that fill a buffer take it as their last
// operands (`into`) and return it filled; elementwise ops work in place, their result is their first operand's buffer.
// schedule-dtile puts a `dtile.phase` before the ops of each phase: the control unit enables one unit at a time.
// Sizes, addresses, liveness and the phases' order are checked by mxc's `verify` pass.
irdl.dialect @dtile {
  // Runs `program` on every sample of the batch (the dynamic axis, else the first), a sample seen as HxWxC.
  irdl.operation @launch {
    %input = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %program = irdl.base "#builtin.symbol_ref"
    %layer = irdl.base "#builtin.string"
    irdl.operands(input: %input)
    irdl.results(output: %output)
    irdl.attributes { "program" = %program, "layer" = %layer }
  }
  // A weight tensor's place in the weight memory; `address` is added by schedule-dtile. With the unit attribute `absent` it is
  // the zero words of a bias that the denoiser does not have.
  irdl.operation @weight_alloc {
    %value = irdl.base "!builtin.tensor"
    %bytes = irdl.base "#builtin.integer"
    irdl.operands(value: %value)
    irdl.results(weight: %value)
    irdl.attributes { "bytes" = %bytes }
  }
  // A buffer in the activation memory; `address` is added by schedule-dtile.
  irdl.operation @activation_alloc {
    %buffer = irdl.base "!builtin.tensor"
    %bytes = irdl.base "#builtin.integer"
    irdl.operands()
    irdl.results(buffer: %buffer)
    irdl.attributes { "bytes" = %bytes }
  }
  // The control unit enables `unit` at cycle `start` for `cycles`; the ops up to the next phase run in it.
  irdl.operation @phase {
    %index = irdl.base "#builtin.integer"
    %unit = irdl.base "#builtin.string"
    %start = irdl.base "#builtin.integer"
    %cycles = irdl.base "#builtin.integer"
    irdl.operands()
    irdl.results()
    irdl.attributes { "index" = %index, "unit" = %unit, "start" = %start, "cycles" = %cycles }
  }
  // Brings the rows from `first_row` of the layer's output, as many as the buffer has, into the activation memory.
  irdl.operation @load {
    %source = irdl.base "!builtin.tensor"
    %into = irdl.base "!builtin.tensor"
    %first_row = irdl.base "#builtin.integer"
    irdl.operands(source: %source, into: %into)
    irdl.results(strip: %into)
    irdl.attributes { "first_row" = %first_row }
  }
  // Writes `rows` rows of a strip, from its row `strip_row`, to the rows from `first_row` of the denoised output.
  irdl.operation @store {
    %strip = irdl.base "!builtin.tensor"
    %output = irdl.base "!builtin.tensor"
    %first_row = irdl.base "#builtin.integer"
    %strip_row = irdl.base "#builtin.integer"
    %rows = irdl.base "#builtin.integer"
    irdl.operands(strip: %strip, output: %output)
    irdl.results(result: %output)
    irdl.attributes { "first_row" = %first_row, "strip_row" = %strip_row, "rows" = %rows }
  }
  // A convolution on the systolic cores: `kind` is "pointwise" (weight [O,1,1,I]) or "depthwise" (weight [KH,KW,C,1]);
  // pad [top, bottom, left, right]. The filters from `first_filter`, as many as the buffer has channels. The rows of the input from
  // `first_row` (if it is there), as many as the buffer's rows need. Sums are exact, then rounded half to even to
  // output_fraction and saturated. `cores` [pixel groups, filter groups] and `order`
  // ("accumulate", or "spill" with a buffer for the partial sums) are the mapping: see docs/dialects-dtile.md.
  irdl.operation @systolic_conv {
    %input = irdl.base "!builtin.tensor"
    %weight = irdl.base "!builtin.tensor"
    %bias = irdl.base "!builtin.tensor"
    %into = irdl.base "!builtin.tensor"
    %partials = irdl.base "!builtin.tensor"
    %kind = irdl.base "#builtin.string"
    %pad = irdl.base "#builtin.dense_array"
    %first_filter = irdl.base "#builtin.integer"
    %input_fraction = irdl.base "#builtin.integer"
    %weight_fraction = irdl.base "#builtin.integer"
    %bias_fraction = irdl.base "#builtin.integer"
    %output_fraction = irdl.base "#builtin.integer"
    %cores = irdl.base "#builtin.dense_array"
    %order = irdl.base "#builtin.string"
    irdl.operands(input: %input, weight: %weight, bias: %bias, into: %into, partials: variadic %partials)
    irdl.results(output: %into)
    irdl.attributes {
      "kind" = %kind, "pad" = %pad, "first_filter" = %first_filter, "input_fraction" = %input_fraction,
      "weight_fraction" = %weight_fraction, "bias_fraction" = %bias_fraction, "output_fraction" = %output_fraction,
      "cores" = %cores, "order" = %order
    }
  }
  // Two pointwise convolutions of one input, loaded once: the filters of both heads stream past the same stationary input.
  // Fractions are [first head, second head]. `first_row` as above.
  irdl.operation @systolic_conv_pair {
    %input = irdl.base "!builtin.tensor"
    %weight = irdl.base "!builtin.tensor"
    %bias = irdl.base "!builtin.tensor"
    %into = irdl.base "!builtin.tensor"
    %partials = irdl.base "!builtin.tensor"
    %first_filter = irdl.base "#builtin.integer"
    %input_fraction = irdl.base "#builtin.integer"
    %weight_fractions = irdl.base "#builtin.dense_array"
    %bias_fractions = irdl.base "#builtin.dense_array"
    %output_fractions = irdl.base "#builtin.dense_array"
    %cores = irdl.base "#builtin.dense_array"
    %order = irdl.base "#builtin.string"
    irdl.operands(input: %input, first_weight: %weight, first_bias: %bias, second_weight: %weight, second_bias: %bias,
                  first_into: %into, second_into: %into, partials: variadic %partials)
    irdl.results(first: %into, second: %into)
    irdl.attributes {
      "first_filter" = %first_filter, "input_fraction" = %input_fraction, "weight_fractions" = %weight_fractions,
      "bias_fractions" = %bias_fractions, "output_fractions" = %output_fractions, "cores" = %cores, "order" = %order
    }
  }
  // In place: x for x >= 0, else x * 2^-shift rounded half to even.
  irdl.operation @leaky_relu {
    %input = irdl.base "!builtin.tensor"
    %shift = irdl.base "#builtin.integer"
    irdl.operands(input: %input)
    irdl.results(output: %input)
    irdl.attributes { "shift" = %shift }
  }
  // In place on `rows` rows from `first_row`: x * scale[c] + shift[c], rounded half to even to output_fraction, saturated.
  irdl.operation @affine {
    %input = irdl.base "!builtin.tensor"
    %scale = irdl.base "!builtin.tensor"
    %shift = irdl.base "!builtin.tensor"
    %first_row = irdl.base "#builtin.integer"
    %rows = irdl.base "#builtin.integer"
    %input_fraction = irdl.base "#builtin.integer"
    %scale_fraction = irdl.base "#builtin.integer"
    %shift_fraction = irdl.base "#builtin.integer"
    %output_fraction = irdl.base "#builtin.integer"
    irdl.operands(input: %input, scale: %scale, shift: %shift)
    irdl.results(output: %input)
    irdl.attributes {
      "first_row" = %first_row, "rows" = %rows, "input_fraction" = %input_fraction, "scale_fraction" = %scale_fraction,
      "shift_fraction" = %shift_fraction, "output_fraction" = %output_fraction
    }
  }
  // Words of the lanes' LFSRs (Fibonacci form, stage 1 the top bit, one seed a lane): element i is lane i mod L's word number
  // first_draw + i div L (word 0 is the state after the first `shifts_per_draw` shifts from the seed).
  irdl.operation @lfsr {
    %words = irdl.base "!builtin.tensor"
    %width = irdl.base "#builtin.integer"
    %shifts_per_draw = irdl.base "#builtin.integer"
    %first_draw = irdl.base "#builtin.integer"
    %taps = irdl.base "#builtin.dense_array"
    %seeds = irdl.base "#builtin.dense_array"
    irdl.operands()
    irdl.results(words: %words)
    irdl.attributes {
      "width" = %width, "taps" = %taps, "seeds" = %seeds, "shifts_per_draw" = %shifts_per_draw,
      "first_draw" = %first_draw
    }
  }
  // Z1 = sqrt(-2 ln U1) cos(2 pi U2) of words U * 2^width, as i16 words with `fraction` bits. Z2 is not used (paper).
  irdl.operation @box_muller {
    %words = irdl.base "!builtin.tensor"
    %normal = irdl.base "!builtin.tensor"
    %width = irdl.base "#builtin.integer"
    %fraction = irdl.base "#builtin.integer"
    irdl.operands(first: %words, second: %words)
    irdl.results(normal: %normal)
    irdl.attributes { "width" = %width, "fraction" = %fraction }
  }
  // In place on the rows from `first_row` and channels from `first_channel` of x, as many as the noise has:
  // x - (normal * sigma + mean), with the unit attribute `adds` x + (normal * sigma + mean), exact, then rounded half to even to
  // output_fraction and saturated. `noise` is (mean), (sigma, normal) or (mean, sigma, normal). `lanes` elements a cycle.
  irdl.operation @noise_cancel {
    %input = irdl.base "!builtin.tensor"
    %noise = irdl.base "!builtin.tensor"
    %first_row = irdl.base "#builtin.integer"
    %first_channel = irdl.base "#builtin.integer"
    %lanes = irdl.base "#builtin.integer"
    %input_fraction = irdl.base "#builtin.integer"
    %mean_fraction = irdl.base "#builtin.integer"
    %sigma_fraction = irdl.base "#builtin.integer"
    %normal_fraction = irdl.base "#builtin.integer"
    %output_fraction = irdl.base "#builtin.integer"
    irdl.operands(input: %input, noise: variadic %noise)
    irdl.results(output: %input)
    irdl.attributes {
      "first_row" = %first_row, "first_channel" = %first_channel, "lanes" = %lanes,
      "input_fraction" = %input_fraction, "mean_fraction" = %mean_fraction, "sigma_fraction" = %sigma_fraction,
      "normal_fraction" = %normal_fraction, "output_fraction" = %output_fraction
    }
  }
}
