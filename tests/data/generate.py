"""Writes ops.npz: small ONNX models, one or two operators each, with inputs and what onnxruntime computes for them.

Keys: CASE/model (the file's bytes), CASE/in/NAME, CASE/out/NAME. Run it with the environment that examples/setup.sh makes:
    examples/.venv/bin/python tests/data/generate.py
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

BATCH = 2
CASES: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {}
RANDOM = np.random.default_rng(7)


def floats(*shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Random values with few mantissa bits, so that they compress well."""
    return (np.round(RANDOM.normal(size=shape) * 32) / 32 * scale + shift).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def case(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    fixed: bool = False,
    ir: int = 8,
    domains: tuple[tuple[str, int], ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> None:
    """Adds a model; the batch is symbolic unless `fixed`."""

    def info(key: str, value: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            key, TensorProto.FLOAT, [BATCH if fixed else "N", *value.shape[1:]]
        )

    graph = helper.make_graph(
        nodes,
        name,
        [info(key, value) for key, value in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    model.producer_name = "generate.py"
    CASES[name] = (model, inputs)


def node(op: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    """A node with inputs and outputs separated by blanks; `-` leaves an input out."""
    names = ["" if each == "-" else each for each in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"{op.lower()}_{outputs.split()[0]}", **attributes)


def convolutions() -> None:
    x = floats(BATCH, 3, 7, 6)
    weight, bias = floats(4, 3, 3, 3), floats(4)
    constants = {"w": weight, "b": bias}
    case("conv", [node("Conv", "x w b", pads=[1, 1, 1, 1])], {"x": x}, constants)
    case("conv_no_bias_stride", [node("Conv", "x w", pads=[1, 1, 1, 1], strides=[2, 2])], {"x": x}, {"w": weight})
    # Windows that leave rows and columns over, beyond and within the padding.
    case("conv_crop", [node("Conv", "x w b", strides=[3, 2])], {"x": x}, constants)
    case("conv_asymmetric", [node("Conv", "x w b", pads=[0, 1, 2, 3], strides=[2, 3])], {"x": x}, constants)
    case("conv_dilated", [node("Conv", "x w b", pads=[2, 2, 2, 2], dilations=[2, 2])], {"x": x}, constants)
    case("conv_same_upper", [node("Conv", "x w b", auto_pad="SAME_UPPER", strides=[2, 2])], {"x": x}, constants)
    case("conv_same_lower", [node("Conv", "x w b", auto_pad="SAME_LOWER", strides=[2, 2])], {"x": x}, constants)
    case("conv_fixed_batch", [node("Conv", "x w b"), ], {"x": x}, constants, fixed=True)
    case("conv_opset9", [node("Conv", "x w b")], {"x": x}, constants, opset=9, ir=4)
    case(
        "conv_depthwise",
        [node("Conv", "x w b", group=3, pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": x},
        {"w": floats(3, 1, 3, 3), "b": floats(3)},
    )
    case("conv_multiplier", [node("Conv", "x w", group=3)], {"x": x}, {"w": floats(6, 1, 3, 3)})
    case(
        "conv_grouped",
        [node("Conv", "x w b", group=2, pads=[1, 1, 1, 1])],
        {"x": floats(BATCH, 4, 5, 5)},
        {"w": floats(6, 2, 3, 3), "b": floats(6)},
    )
    norm = {"g": floats(3, shift=1), "o": floats(3), "m": floats(3), "v": np.abs(floats(3)) + np.float32(0.5)}
    case("batch_normalization", [node("BatchNormalization", "x g o m v", epsilon=1e-3)], {"x": x}, norm)
    case("batch_normalization_flat", [node("BatchNormalization", "x g o m v")], {"x": floats(BATCH, 3)}, norm)
    case(
        "channels_last_input",
        [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w b", "c"), node("Transpose", "c", perm=[0, 2, 3, 1])],
        {"x": floats(BATCH, 5, 5, 3)},
        constants,
    )


def pools() -> None:
    x = floats(BATCH, 3, 7, 8)
    case("max_pool", [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {"x": x})
    case("max_pool_ceil", [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1)], {"x": x})
    case("average_pool", [node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])], {"x": x})
    case("average_pool_pads", [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {"x": x})
    case(
        "average_pool_counted",
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1)],
        {"x": x},
    )
    case("average_pool_ceil", [node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)], {"x": x}, opset=19)
    case("global_average_pool", [node("GlobalAveragePool", "x")], {"x": x})
    case("global_max_pool", [node("GlobalMaxPool", "x")], {"x": x})


def activations() -> None:
    x = floats(BATCH, 3, 4, 4, scale=2)
    plain = ["Abs", "Ceil", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu"]
    plain += ["Selu", "Sigmoid", "Softplus", "Tanh", "Celu"]
    for op in plain:
        case(op.lower(), [node(op, "x")], {"x": x}, opset=18)
    positive = np.abs(x) + np.float32(0.25)
    for op in ["Log", "Reciprocal", "Sqrt"]:
        case(op.lower(), [node(op, "x")], {"x": positive})
    case("leaky_relu_steep", [node("LeakyRelu", "x", alpha=1.5)], {"x": x})
    case("gelu", [node("Gelu", "x")], {"x": x}, opset=20, ir=9)
    case("gelu_tanh", [node("Gelu", "x", approximate="tanh")], {"x": x}, opset=20, ir=9)
    case("clip_inputs", [node("Clip", "x lo hi")], {"x": x}, {"lo": np.float32(-1), "hi": np.float32(2)})
    case("clip_max", [node("Clip", "x - hi")], {"x": x}, {"hi": np.float32(0.5)})
    case("clip_attributes", [node("Clip", "x", min=0.0, max=6.0)], {"x": x}, opset=9, ir=4)
    case("prelu", [node("PRelu", "x s")], {"x": x}, {"s": floats(3, 1, 1)})
    case("pow_2", [node("Pow", "x e")], {"x": x}, {"e": np.float32(2)})
    case("pow_half", [node("Pow", "x e")], {"x": positive}, {"e": np.float32(1.5)})
    case("softmax", [node("Softmax", "x")], {"x": floats(BATCH, 5)})
    case("softmax_channels", [node("Softmax", "x", axis=1)], {"x": x})
    case("softmax_opset9", [node("Softmax", "x", axis=1)], {"x": x}, opset=9, ir=4)
    case("log_softmax", [node("LogSoftmax", "x", axis=-1)], {"x": floats(BATCH, 5)})
    case("layer_normalization", [node("LayerNormalization", "x s b", axis=-1)], {"x": floats(BATCH, 3, 8)}, {"s": floats(8), "b": floats(8)})


def arithmetic() -> None:
    x, w = floats(BATCH, 3, 4, 4), floats(BATCH, 3, 4, 4)
    for op in ["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"]:
        case(f"{op.lower()}_activations", [node(op, "x w")], {"x": x, "w": w})
    case("div_activations", [node("Div", "x w")], {"x": x, "w": np.abs(w) + np.float32(0.5)})
    for op in ["Add", "Sub", "Mul", "Div"]:
        constant = {"c": np.abs(floats(3, 1, 1)) + np.float32(0.5)}
        case(f"{op.lower()}_constant", [node(op, "x c")], {"x": x}, constant)
        case(f"constant_{op.lower()}", [node(op, "c x")], {"x": np.abs(x) + np.float32(0.5)}, constant)
    case("max_constant", [node("Max", "x c")], {"x": x}, {"c": np.float32(0)})
    case("add_row", [node("Add", "x c")], {"x": x}, {"c": floats(4)})
    case("add_higher_rank", [node("Add", "x c")], {"x": floats(BATCH, 4)}, {"c": floats(1, 1, 4)})
    gate = [node("GlobalAveragePool", "x", "p"), node("Sigmoid", "p", "s"), node("Mul", "x s")]
    case("gate", gate, {"x": x})
    conv = [node("Conv", "x k", "c"), node("Add", "c w")]
    case("add_other_layout", conv, {"x": x, "w": w}, {"k": floats(3, 3, 1, 1)})
    mixed = [node("Relu", "x", "r"), node("Flatten", "r", "f"), node("Reshape", "f s", "u"), node("Add", "u x")]
    case("add_after_reshape", mixed, {"x": x}, {"s": ints(0, 3, 4, 4)})


def products() -> None:
    x = floats(BATCH, 6)
    case("gemm", [node("Gemm", "x w b", transB=1)], {"x": x}, {"w": floats(5, 6), "b": floats(5)})
    case("gemm_scaled", [node("Gemm", "x w b", alpha=0.5, beta=2.0)], {"x": x}, {"w": floats(6, 5), "b": floats(1, 5)})
    case("gemm_no_bias", [node("Gemm", "x w")], {"x": x}, {"w": floats(6, 5)})
    case("gemm_scalar_bias", [node("Gemm", "x w b")], {"x": x}, {"w": floats(6, 5), "b": floats(1)})
    case("matmul_add", [node("MatMul", "x w", "p"), node("Add", "b p")], {"x": x}, {"w": floats(6, 5), "b": floats(5)})
    case("matmul_tokens", [node("MatMul", "x w")], {"x": floats(BATCH, 3, 6)}, {"w": floats(6, 5)})
    case("matmul_activations", [node("MatMul", "x w")], {"x": floats(BATCH, 2, 3, 4), "w": floats(BATCH, 2, 4, 5)})


def reductions() -> None:
    x = floats(BATCH, 3, 4, 5)
    case("reduce_mean_attribute", [node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {"x": x})
    case("reduce_mean_input", [node("ReduceMean", "x a", keepdims=1)], {"x": x}, {"a": ints(-1, -2)}, opset=18)
    case("reduce_sum_input", [node("ReduceSum", "x a", keepdims=0)], {"x": x}, {"a": ints(1)})
    case("reduce_max", [node("ReduceMax", "x", axes=[1], keepdims=1)], {"x": x})
    after = [node("Conv", "x k", "c"), node("ReduceMean", "c", axes=[2, 3], keepdims=0)]
    case("conv_reduce_mean", after, {"x": x}, {"k": floats(4, 3, 1, 1)})


def shapes() -> None:
    x = floats(BATCH, 3, 4, 5)
    conv = node("Conv", "x k", "c")
    kernel = {"k": floats(4, 3, 1, 1)}
    case("flatten", [conv, node("Flatten", "c")], {"x": x}, kernel)
    case("flatten_2", [node("Flatten", "x", axis=2)], {"x": x})
    case("reshape_0_minus_1", [conv, node("Reshape", "c s")], {"x": x}, {**kernel, "s": ints(0, -1)})
    case("reshape_fixed_batch", [node("Reshape", "x s")], {"x": x}, {"s": ints(BATCH, 60)}, fixed=True)
    flatten = [
        conv,
        node("Shape", "c", "s"),
        node("Constant", "", "i", value=numpy_helper.from_array(ints(0), "v")),
        node("Gather", "s i", "n", axis=0),
        node("Constant", "", "m", value_ints=[-1]),
        node("Concat", "n m", "t", axis=0),
        node("Reshape", "c t"),
    ]
    case("flatten_by_shape", flatten, {"x": x}, kernel)
    sliced = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one zero", "n"),
        node("Concat", "n rest", "t", axis=0),
        node("Reshape", "x t"),
    ]
    case("reshape_by_slice", sliced, {"x": x}, {"zero": ints(0), "one": ints(1), "rest": ints(12, 5)})
    scalar = [
        node("Shape", "x", "s"),
        node("Gather", "s i", "n", axis=0),
        node("Mul", "n three", "p"),
        node("Unsqueeze", "p zero", "q"),
        node("Concat", "q twenty", "t", axis=0),
        node("Reshape", "x t"),
    ]
    constants = {"i": np.int64(0), "three": np.int64(3), "zero": ints(0), "twenty": ints(20)}
    case("reshape_by_arithmetic", scalar, {"x": x}, constants)
    case("transpose", [node("Transpose", "x", perm=[0, 2, 3, 1])], {"x": x})
    case("transpose_conv", [conv, node("Transpose", "c", perm=[0, 3, 1, 2])], {"x": x}, kernel)
    case("squeeze_attribute", [node("Squeeze", "x", axes=[2])], {"x": floats(BATCH, 3, 1, 5)}, opset=11, ir=6)
    case("squeeze_input", [node("Squeeze", "x a")], {"x": floats(BATCH, 3, 1, 5)}, {"a": ints(2)})
    case("unsqueeze", [node("Unsqueeze", "x a")], {"x": floats(BATCH, 3)}, {"a": ints(2, 3)})
    concat = [conv, node("Concat", "x c", axis=1)]
    case("concat", concat, {"x": x}, kernel)
    case("concat_negative", [node("Concat", "x x", axis=-1)], {"x": x})
    split = [node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1)]
    case("split", split, {"x": x}, {"s": ints(1, 2)})
    split = [node("Split", "x", "a b", axis=2, split=[1, 3]), node("Concat", "b a", axis=2)]
    case("split_attribute", split, {"x": x}, opset=11, ir=6)
    constants = {"s": ints(1, -4), "e": ints(3, 2**62), "a": ints(1, 3)}
    case("slice", [node("Slice", "x s e a")], {"x": x}, constants)
    case("slice_opset9", [node("Slice", "x", starts=[1], ends=[3], axes=[2])], {"x": x}, opset=9, ir=4)
    case("gather_scalar", [node("Gather", "x i", axis=2)], {"x": x}, {"i": np.int64(-1)})
    case("pad", [conv, node("Pad", "c p v")], {"x": x}, {**kernel, "p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(0.5)})
    case("pad_axes", [node("Pad", "x p - a")], {"x": x}, {"p": ints(1, 2), "a": ints(-1)}, opset=18)
    case("pad_opset9", [node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1])], {"x": x}, opset=9, ir=4)
    case("expand", [node("Expand", "x s")], {"x": floats(BATCH, 3, 1)}, {"s": ints(1, 3, 4)})
    case("identity", [node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Cast", "d", to=1)], {"x": x})
    case("two_outputs", [node("Relu", "x", "y"), node("Neg", "x", "z")], {"x": x}, outputs=("y", "z"))
    weight = [
        node("Transpose", "w", "t", perm=[1, 0]),
        node("MatMul", "x t"),
    ]
    case("transposed_weight", weight, {"x": floats(BATCH, 6)}, {"w": floats(5, 6)})
    choice = helper.make_graph([node("Relu", "x", "r")], "then", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, [None] * 4)])
    other = helper.make_graph([node("Neg", "x", "q")], "else", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, [None] * 4)])
    case("if_constant", [node("If", "c", then_branch=choice, else_branch=other)], {"x": x}, {"c": np.array(False)})
    function = helper.make_function(
        "local", "scaled", ["a", "b"], ["c"], [node("Mul", "a b", "m"), node("Relu", "m", "c")], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("scaled", ["x", "k"], ["y"], name="call", domain="local")
    case("function", [call], {"x": x}, {"k": floats(3, 1, 1)}, domains=(("local", 1),), functions=(function,))


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> tuple[list[np.ndarray], bytes]:
    """The model's outputs as onnxruntime computes them, and the model's bytes."""
    data = model.SerializeToString(deterministic=True)
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs), data


def checked(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> tuple[list[np.ndarray], bytes]:
    """As `run`, once the checker has accepted the model, which gets its outputs' ranks."""
    for info, value in zip(model.graph.output, run(model, inputs)[0]):
        info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, [None] * value.ndim))
    onnx.checker.check_model(model, full_check=True)
    return run(model, inputs)


def save(path: Path, cases: dict[str, tuple[bytes, dict[str, np.ndarray], dict[str, np.ndarray]]]) -> None:
    """Writes models, their inputs and outputs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def write(key: str, array: np.ndarray) -> None:
            buffer = io.BytesIO()
            np.save(buffer, array)
            # A fixed date: the same bytes for the same arrays.
            info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, buffer.getvalue())

        for name, (model, inputs, outputs) in cases.items():
            write(f"{name}/model", np.frombuffer(model, np.uint8))
            for key, value in inputs.items():
                write(f"{name}/in/{key}", value)
            for key, value in outputs.items():
                write(f"{name}/out/{key}", value.astype(np.float32))
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size // 1024} KiB")


def write_cases(path: Path) -> None:
    """Runs all cases in onnxruntime and writes them with their results."""
    results = {}
    for name, (model, inputs) in CASES.items():
        values, data = checked(model, inputs)
        outputs = {output.name: value for output, value in zip(model.graph.output, values)}
        results[name] = (data, inputs, outputs)
    save(path, results)


def main() -> None:
    for part in (convolutions, pools, activations, arithmetic, products, reductions, shapes):
        part()
    write_cases(Path(__file__).with_name("ops.npz"))


if __name__ == "__main__":
    main()
