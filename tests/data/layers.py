"""Writes layers.npz: layers beyond convolutions over two axes and matrix products, in the form of ops.npz (see generate.py), as
onnxruntime computes them: transposed and three-dimensional convolutions, poolings, recurrent layers, attention.

    tests/.venv/bin/python tests/data/layers.py
"""

from pathlib import Path

import numpy as np
from generate import BATCH, case, floats, ints, write_cases
from onnx import TensorProto, helper

node = helper.make_node


def transposed() -> None:
    def add(name: str, spatial: tuple[int, ...], kernel: tuple[int, ...], groups: int = 1, out: int = 2, **attributes) -> None:
        channels = 2 * groups
        constants = {"w": floats(channels, out, *kernel), "b": floats(out * groups)}
        layer = node("ConvTranspose", ["x", "w", "b"], ["y"], name="layer", group=groups, **attributes)
        case(f"transposed_{name}", [layer], {"x": floats(BATCH, channels, *spatial)}, constants)

    add("plain", (4, 5), (3, 3))
    add("line", (6,), (4,), strides=[2], pads=[1, 1])
    add("line_padding", (5,), (3,), strides=[3], output_padding=[2], dilations=[2])
    add("upsampling", (3, 4), (4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    add("uneven", (4, 3), (3, 2), strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 2])
    add("cropped", (5, 4), (2, 3), strides=[1, 2], pads=[2, 2, 1, 3])
    add("dilated", (3, 3), (2, 3), dilations=[2, 3], strides=[2, 1])
    add("grouped", (3, 4), (3, 3), groups=3, strides=[2, 2])
    add("depthwise", (3, 4), (2, 2), groups=4, out=1, strides=[2, 2])
    add("shape", (3, 3), (3, 3), strides=[3, 2], output_shape=[10, 8])
    add("same_upper", (4, 3), (3, 4), strides=[2, 3], auto_pad="SAME_UPPER")
    add("same_lower", (4, 3), (3, 3), strides=[2, 2], auto_pad="SAME_LOWER")
    add("volume", (2, 3, 2), (2, 3, 2), strides=[2, 1, 2], pads=[0, 1, 1, 1, 0, 0])
    constants = {"w": floats(3, 4, 3, 3), "s": floats(4, shift=1.0), "t": floats(4), "m": floats(4)}
    constants["v"] = np.abs(floats(4)) + 1
    layer = node("ConvTranspose", ["x", "w"], ["c"], name="layer", strides=[2, 2], pads=[1, 1, 1, 1])
    normal = node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], name="bn")
    case("transposed_normalized", [layer, normal], {"x": floats(BATCH, 3, 4, 4)}, constants)


def volumes() -> None:
    def add(name: str, kernel: tuple[int, ...], groups: int = 1, **attributes) -> None:
        constants = {"w": floats(3 * groups, 2, *kernel), "b": floats(3 * groups)}
        layer = node("Conv", ["x", "w", "b"], ["y"], name="layer", group=groups, **attributes)
        case(f"volume_{name}", [layer], {"x": floats(BATCH, 2 * groups, 4, 5, 6)}, constants)

    add("plain", (3, 3, 3))
    add("strided", (3, 2, 3), strides=[2, 3, 2], pads=[1, 0, 1, 0, 1, 1])
    add("dilated", (2, 2, 3), dilations=[2, 3, 2], pads=[1, 1, 1, 1, 1, 1])
    add("grouped", (2, 3, 1), groups=2, strides=[1, 2, 2])
    add("same", (3, 2, 3), auto_pad="SAME_UPPER", strides=[2, 2, 2])
    constants = {"w": floats(4, 1, 2, 2, 2), "s": floats(4, shift=1.0), "t": floats(4), "m": floats(4)}
    constants["v"] = np.abs(floats(4)) + 1
    layer = node("Conv", ["x", "w"], ["c"], name="layer", group=4)
    normal = node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], name="bn")
    case("volume_normalized", [layer, normal], {"x": floats(BATCH, 4, 3, 3, 4)}, constants)
    for op, name, attributes in (
        ("MaxPool", "max", {"pads": [1, 0, 1, 1, 1, 0], "strides": [2, 1, 2]}),
        ("MaxPool", "max_ceil", {"ceil_mode": 1, "strides": [2, 3, 2], "dilations": [1, 2, 1]}),
        ("AveragePool", "average", {"pads": [1, 0, 1, 1, 1, 0], "strides": [2, 2, 1]}),
        ("AveragePool", "average_padding", {"pads": [1, 1, 0, 0, 1, 1], "count_include_pad": 1}),
        ("AveragePool", "average_valid", {"auto_pad": "VALID", "ceil_mode": 1, "count_include_pad": 1, "strides": [2, 3, 2], "dilations": [1, 2, 1]}),
        ("LpPool", "lp", {"p": 3, "strides": [1, 2, 1]}),
    ):
        pool = node(op, ["x"], ["y"], kernel_shape=[2, 2, 3], **attributes)
        case(f"digital_volume_{name}", [pool], {"x": floats(BATCH, 2, 4, 5, 6)}, opset=22)
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        case(f"digital_volume_{op}", [node(op, ["x"], ["y"])], {"x": floats(BATCH, 2, 2, 3, 2)})


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent() -> None:
    steps, inputs, hidden = 4, 3, 2

    def add(name: str, op: str, direction: str = "forward", extra: tuple[str, ...] = (), opset: int = 17, **attributes) -> None:
        """`extra` are inputs after the bias: sequence_lens, initial_h, initial_c, P."""
        directions = 2 if direction == "bidirectional" else 1
        gates = GATES[op] * hidden
        constants = {"w": floats(directions, gates, inputs, scale=0.5), "r": floats(directions, gates, hidden, scale=0.5)}
        constants["b"] = floats(directions, 2 * gates, scale=0.25)
        given = {"x": floats(BATCH, steps, inputs)}
        nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2])]
        if "h" in extra:
            # A state for every sample, as PyTorch's exporters spell it.
            constants |= {"zero": np.array(0), "first": ints(0), "d": ints(directions), "n": ints(hidden)}
            constants["state"] = floats(directions, 1, hidden)
            nodes += [
                node("Shape", ["x"], ["s"]),
                node("Gather", ["s", "zero"], ["batch"], axis=0),
                node("Unsqueeze", ["batch", "first"], ["list"]),
                node("Concat", ["d", "list", "n"], ["wide"], axis=0),
                node("Expand", ["state", "wide"], ["h"]),
            ]
        if "zeros" in extra:
            constants |= {"zero": np.array(0), "first": ints(0), "d": ints(directions), "n": ints(hidden)}
            nodes += [
                node("Shape", ["x"], ["s"]),
                node("Gather", ["s", "zero"], ["batch"], axis=0),
                node("Unsqueeze", ["batch", "first"], ["list"]),
                node("Concat", ["d", "list", "n"], ["wide"], axis=0),
                node("ConstantOfShape", ["wide"], ["zeros"]),
            ]
        if "lengths" in extra:
            # Numbers of steps that come with the samples.
            given["l"] = np.array([3, 1], np.float32)
            nodes.append(node("Cast", ["l"], ["lengths"], to=TensorProto.INT32))
        if "p" in extra:
            constants["p"] = floats(directions, 3 * hidden, scale=0.5)
        results = ["a", "c"] + (["d_"] if op == "LSTM" else [])
        nodes.append(
            node(op, ["t", "w", "r", "b", *extra], results, name="cell", hidden_size=hidden, direction=direction, **attributes)
        )
        nodes += [node("Transpose", ["a"], ["y"], perm=[2, 0, 1, 3]), node("Transpose", ["c"], ["h_n"], perm=[1, 0, 2])]
        outputs = ["y", "h_n"]
        if op == "LSTM":
            nodes.append(node("Transpose", ["d_"], ["c_n"], perm=[1, 0, 2]))
            outputs.append("c_n")
        case(f"recurrent_{name}", nodes, given, constants, opset=opset, outputs=tuple(outputs))

    for op in GATES:
        for direction in ("forward", "reverse", "bidirectional"):
            add(f"{op.lower()}_{direction}", op, direction)
    add("gru_linear", "GRU", "bidirectional", linear_before_reset=1)
    add("gru_linear_state", "GRU", extra=("", "h"), linear_before_reset=1, opset=14)
    add("gru_state", "GRU", "bidirectional", extra=("", "h"), opset=22)
    add("rnn_state", "RNN", "reverse", extra=("", "h"), activations=["Relu"])
    add("lstm_state", "LSTM", "bidirectional", extra=("", "h", "h"))
    add("lstm_zeros", "LSTM", "bidirectional", extra=("", "zeros", "zeros"))
    add("lstm_peepholes", "LSTM", "bidirectional", extra=("", "h", "h", "p"), clip=0.5)
    add("lstm_coupled", "LSTM", input_forget=1, clip=1.0, opset=7)
    add("lstm_lengths", "LSTM", "bidirectional", extra=("lengths", "h", "h"))
    add("gru_lengths", "GRU", "bidirectional", extra=("lengths",))
    add("rnn_lengths", "RNN", "reverse", extra=("lengths",))
    functions = ["HardSigmoid", "Softsign", "ScaledTanh", "Sigmoid", "Elu", "Affine"]
    add("lstm_functions", "LSTM", "bidirectional", activations=functions, activation_alpha=[0.3, 0.7, 0.9, 0.5], activation_beta=[0.4, 1.2, 0.1])
    add("gru_functions", "GRU", activations=["LeakyRelu", "Softplus"], activation_alpha=[0.1])

    # Two layers and a classifier as PyTorch's exporter writes nn.LSTM(batch_first=True, bidirectional=True).
    constants = {"shape": ints(0, 0, -1), "v": floats(2 * hidden, 3), "u": floats(3)}
    nodes = [node("Transpose", ["x"], ["t0"], perm=[1, 0, 2])]
    for index, width in enumerate((inputs, 2 * hidden)):
        constants |= {f"w{index}": floats(2, 4 * hidden, width, scale=0.5), f"r{index}": floats(2, 4 * hidden, hidden, scale=0.5)}
        constants[f"b{index}"] = floats(2, 8 * hidden, scale=0.25)
        operands = [f"t{index}", f"w{index}", f"r{index}", f"b{index}"]
        nodes += [
            node("LSTM", operands, [f"a{index}"], name=f"lstm{index}", hidden_size=hidden, direction="bidirectional"),
            node("Transpose", [f"a{index}"], [f"p{index}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"p{index}", "shape"], [f"t{index + 1}"]),
        ]
    nodes += [node("MatMul", ["t2", "v"], ["f"], name="fc"), node("Add", ["f", "u"], ["g"], name="bias"), node("Transpose", ["g"], ["y"], perm=[1, 0, 2])]
    case("recurrent_pytorch", nodes, {"x": floats(BATCH, steps, inputs)}, constants)


def attention() -> None:
    def add(name: str, queries: tuple[int, ...], keys: tuple[int, ...], mask: np.ndarray | None = None, cast: bool = False, opset: int = 23, **attributes) -> None:
        given = {"q": floats(BATCH, *queries), "k": floats(BATCH, *keys), "v": floats(BATCH, *keys)}
        constants = {} if mask is None or cast else {"m": mask}
        operands = ["q", "k", "v"] + ([] if mask is None else ["m"])
        nodes = []
        if cast:
            # A mask for each sample.
            given["f"] = mask
            nodes.append(node("Cast", ["f"], ["m"], to=TensorProto.BOOL))
        nodes.append(node("Attention", operands, ["y"], name="attention", **attributes))
        case(f"digital_attention_{name}", nodes, given, constants, opset=opset, ir=10)

    add("heads", (2, 3, 4), (2, 5, 4))
    add("groups", (4, 3, 4), (2, 5, 4), is_causal=1)
    add("flat", (3, 8), (5, 4), q_num_heads=4, kv_num_heads=2, scale=0.3, softcap=2.0)
    add("mask", (2, 3, 4), (2, 5, 4), mask=floats(3, 5))
    hidden = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    add("boolean_mask", (2, 3, 4), (2, 5, 4), mask=hidden)
    samples = np.stack([hidden, hidden[::-1]]).reshape(BATCH, 1, 3, 5).astype(np.float32)
    add("padding", (2, 3, 4), (2, 5, 4), mask=samples, cast=True)


def main() -> None:
    for part in (transposed, volumes, recurrent, attention):
        part()
    write_cases(Path(__file__).with_name("layers.npz"))


if __name__ == "__main__":
    main()
