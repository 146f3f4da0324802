"""Writes special.npz: every elementwise operator, reduction and pooling on the values at the edges of f32 (infinities, NaN, zeros,
denormals, very large numbers), with what NumPy computes for the operator's definition in f32; and poolings whose window is larger
than their input and operators on indices, with what onnxruntime computes.

onnxruntime must agree on where infinities and NaN are, and to 1e-5 on the rest, but where `DIFFERS` says why it does not. Run it with
the environment that `make test` makes:
    tests/.venv/bin/python tests/data/special.py
"""

from collections.abc import Callable
from math import erf
from pathlib import Path

import numpy as np
from generate import CASES, case, checked, ints, node, save

f32 = np.float32
VALUES = np.array(
    [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, -1e-40, 1.4e-45, 1e-30, 0.3, -0.3, 0.5, -0.5, 1, -1, 1.5, -1.5, 2.5, -2.5]
    + [3, -3, 6, -6, 20, -20, 87.5, -87.5, 89, -89, 100, -100, 103, -103, 105, -105, 1e4, -1e4, 1e19, -1e19, 3e38, -3e38],
    f32,
)
# Fewer, for what takes pairs.
FEW = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, 0.5, -0.5, 1, 2, -3, 1e19, -1e19, 3e38, -3e38], f32)
PAIRS = np.stack([each.ravel() for each in np.meshgrid(FEW, FEW, indexing="ij")], -1)
LARGEST = np.finfo(f32).max

# Where onnxruntime's kernels are not the operator's definition.
DIFFERS = {
    "reducemax": "whether a NaN counts depends on its place",
    "reducemin": "whether a NaN counts depends on its place",
    "reducelogsumexp": "-inf where one of the elements is",
    "maxpool": "NaN does not count, and no maximum is less than the least finite number",
    "maxpool_padded": "as maxpool",
    "globalmaxpool": "as maxpool",
}
REFERENCES: dict[str, np.ndarray] = {}
# Kept as onnxruntime has them.
OWN = object()


def special(
    name: str,
    nodes: list,
    inputs: dict[str, np.ndarray],
    reference: np.ndarray | object,
    constants: dict[str, np.ndarray] | None = None,
    **options: object,
) -> None:
    case(name, nodes, inputs, constants, **{"opset": 20, "ir": 9, **options})
    REFERENCES[name] = reference


def unary(op: str, function: Callable, name: str = "", **attributes: object) -> None:
    opset = 24 if op == "Swish" else 20
    special(name or op.lower(), [node(op, "x", **attributes)], {"x": VALUES[None]}, function(VALUES)[None], opset=opset)


def where(condition: Callable, a: Callable, b: Callable) -> Callable:
    return lambda x: np.where(condition(x), a(x), b(x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(f32)


def hard_sigmoid(x: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    return np.maximum(f32(0), np.minimum(f32(1), f32(alpha) * x + f32(beta)))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(f32(0), x)


def elu(x: np.ndarray, alpha: float = 1.0, rate: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, f32(alpha) * np.expm1(x * f32(rate)))


def unaries() -> None:
    for op in ["Abs", "Ceil", "Cos", "Cosh", "Exp", "Floor", "Log", "Reciprocal", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh"]:
        unary(op, getattr(np, op.lower()))
    for op in ["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh"]:
        unary(op, getattr(np, "arc" + op[1:].lower()))
    unary("Neg", np.negative)
    unary("Round", np.round)
    unary("Erf", np.vectorize(erf))
    unary("Identity", np.array)
    unary("Sigmoid", sigmoid)
    unary("Softplus", softplus)
    unary("Softsign", lambda x: x / (1 + np.abs(x)))
    unary("Relu", lambda x: np.maximum(x, f32(0)))
    unary("Elu", elu)
    unary("Elu", lambda x: elu(x, 2.0), "elu_alpha", alpha=2.0)
    unary("Selu", lambda x: f32(1.050701) * elu(x, 1.6732632))
    unary("Celu", elu)
    unary("Celu", lambda x: elu(x, 0.5, 2.0), "celu_alpha", alpha=0.5)
    for slope in [0.01, 0.0, 1.0, 1.5, -0.5]:
        leaky = where(lambda x: x >= 0, np.array, lambda x, slope=slope: f32(slope) * x)
        unary("LeakyRelu", leaky, f"leakyrelu_{slope}", alpha=slope)
    unary("ThresholdedRelu", where(lambda x: x > 1, np.array, np.zeros_like))
    shrunk = where(lambda x: x > 0.5, lambda x: x - f32(0.25), np.zeros_like)
    unary("Shrink", where(lambda x: x < -0.5, lambda x: x + f32(0.25), shrunk), bias=0.25, lambd=0.5)
    unary("HardSigmoid", hard_sigmoid)
    unary("HardSigmoid", lambda x: hard_sigmoid(x, -0.3, 0.4), "hardsigmoid_falling", alpha=-0.3, beta=0.4)
    unary("HardSwish", lambda x: x * hard_sigmoid(x, 1 / 6, 0.5))
    unary("Mish", lambda x: x * np.tanh(softplus(x)))
    unary("Swish", lambda x: x * sigmoid(x))
    unary("Gelu", lambda x: f32(0.5) * x * (1 + np.vectorize(erf)(x * f32(0.5**0.5)).astype(f32)))
    inner = f32((2 / np.pi) ** 0.5)
    unary(
        "Gelu",
        lambda x: f32(0.5) * x * (1 + np.tanh(inner * (x + f32(0.044715) * x * x * x))),
        "gelu_tanh",
        approximate="tanh",
    )
    for name, low, high in [("both", -1, 2), ("low", -1, None), ("high", None, 2), ("infinite", -np.inf, np.inf)]:
        bounds = {key: np.array(value, f32) for key, value in [("low", low), ("high", high)] if value is not None}
        inputs = " ".join(["x", *(key if key in bounds else "-" for key in ["low", "high"])])
        # A bound that is left out is the least or the greatest finite number.
        values = np.clip(VALUES, bounds.get("low", -LARGEST), bounds.get("high", LARGEST))
        special(f"clip_{name}", [node("Clip", inputs)], {"x": VALUES[None]}, values[None], bounds)
    values = np.clip(VALUES, f32(-1), LARGEST)
    special("clip_attribute", [node("Clip", "x", min=-1.0)], {"x": VALUES[None]}, values[None], opset=7, ir=4)
    for op, function in [("IsNaN", np.isnan), ("IsInf", np.isinf)]:
        nodes = [node(op, "x", "b"), node("Cast", "b", to=1)]
        special(op.lower(), nodes, {"x": VALUES[None]}, function(VALUES)[None].astype(f32))


def binaries() -> None:
    a, b = PAIRS[None, :, 0], PAIRS[None, :, 1]
    both = {"a": a, "b": b}
    arithmetic = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}
    arithmetic |= {"Max": np.maximum, "Min": np.minimum}
    for op, function in arithmetic.items():
        special(op.lower(), [node(op, "a b")], both, function(a, b))
        for index, value in enumerate(FEW):
            constant, full = np.array(value, f32), np.full_like(FEW, value)
            special(f"{op.lower()}_by_{index}", [node(op, "x c")], {"x": FEW[None]}, function(FEW, full)[None], {"c": constant})
            special(f"{op.lower()}_of_{index}", [node(op, "c x")], {"x": FEW[None]}, function(full, FEW)[None], {"c": constant})
    special("prelu", [node("PRelu", "a b")], both, np.where(a < 0, a * b, a))
    special("prelu_constant", [node("PRelu", "x c")], {"x": FEW[None]}, np.where(FEW < 0, FEW * f32(0.25), FEW)[None], {"c": np.array([0.25], f32)})
    special("fmod", [node("Mod", "a b", fmod=1)], both, np.fmod(a, b))
    comparisons = {"Equal": np.equal, "Greater": np.greater, "Less": np.less}
    comparisons |= {"GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal}
    for op, function in comparisons.items():
        special(op.lower(), [node(op, "a b", "c"), node("Cast", "c", to=1)], both, function(a, b).astype(f32))
    special("where", [node("Greater", "a b", "c"), node("Where", "c a b")], both, np.where(a > b, a, b))
    special("sum", [node("Sum", "a b a")], both, a + b + a)
    special("mean", [node("Mean", "a b")], both, (a + b) * f32(0.5))


def reductions() -> None:
    x = PAIRS[None]
    def total(x: np.ndarray) -> np.ndarray:
        return np.add.reduce(x, -1)

    functions = {
        "ReduceMax": lambda x: np.max(x, -1),
        "ReduceMin": lambda x: np.min(x, -1),
        "ReduceSum": total,
        "ReduceMean": lambda x: total(x) / f32(2),
        "ReduceProd": lambda x: np.prod(x, -1),
        "ReduceL1": lambda x: total(np.abs(x)),
        "ReduceL2": lambda x: np.sqrt(total(x * x)),
        "ReduceSumSquare": lambda x: total(x * x),
        "ReduceLogSum": lambda x: np.log(total(x)),
        "ReduceLogSumExp": lambda x: np.logaddexp(x[..., 0], x[..., 1]),
    }
    for op, function in functions.items():
        special(op.lower(), [node(op, "x axes", keepdims=0)], {"x": x}, function(x), {"axes": ints(2)})
    greatest = x - np.max(x, -1, keepdims=True)
    ratio = np.exp(greatest) / np.sum(np.exp(greatest), -1, keepdims=True)
    special("softmax", [node("Softmax", "x")], {"x": x}, ratio)
    special("logsoftmax", [node("LogSoftmax", "x")], {"x": x}, greatest - np.log(np.sum(np.exp(greatest), -1, keepdims=True)))
    for p, norm in [(1, total(np.abs(x))), (2, np.sqrt(total(x * x)))]:
        values = np.where(norm[..., None] == 0, f32(0), x / norm[..., None])
        special(f"lpnormalization_{p}", [node("LpNormalization", "x", p=p)], {"x": x}, values)
    windows = x[:, :, None]
    pooled = {
        "MaxPool": (np.max(x, -1), {"kernel_shape": [1, 2]}),
        "AveragePool": (total(x) / f32(2), {"kernel_shape": [1, 2]}),
        "LpPool": (np.sqrt(total(x * x)), {"kernel_shape": [1, 2], "p": 2}),
        "GlobalMaxPool": (np.max(x, -1), {}),
        "GlobalAveragePool": (total(x) / f32(2), {}),
    }
    for op, (values, attributes) in pooled.items():
        special(op.lower(), [node(op, "x", **attributes)], {"x": windows}, values[:, :, None, None])
    # Every window sees one element and padding.
    padded = node("MaxPool", "x", kernel_shape=[1, 2], strides=[1, 2], pads=[0, 1, 0, 1])
    special("maxpool_padded", [padded], {"x": windows}, windows)
    dilated = node("MaxPool", "x", kernel_shape=[1, 2], dilations=[1, 2], pads=[0, 1, 0, 1])
    special("maxpool_dilated", [dilated], {"x": windows}, windows[..., ::-1])


def ceilings() -> None:
    """ceil_mode with windows that reach past the input."""
    for op in ["MaxPool", "AveragePool"]:
        for size, kernel, stride in [((2, 2), [3, 3], [2, 2]), ((1, 1), [2, 2], [2, 2]), ((1, 4), [3, 3], [3, 2]), ((2, 5), [4, 2], [3, 2])]:
            x = np.arange(1, 2 * np.prod(size) + 1, dtype=f32).reshape(1, 2, *size)
            attributes = {"kernel_shape": kernel, "strides": stride, "ceil_mode": 1}
            name = f"ceil_{op.lower()}_{'x'.join(map(str, [*size, *kernel]))}"
            special(name, [node(op, "x", **attributes)], {"x": x}, OWN)
            if op == "AveragePool":
                special(f"{name}_counted", [node(op, "x", count_include_pad=1, **attributes)], {"x": x}, OWN)
    x = np.arange(1, 9, dtype=f32).reshape(1, 1, 2, 4)
    for op in ["MaxPool", "AveragePool"]:
        attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 2], "ceil_mode": 1}
        special(f"ceil_{op.lower()}_dilated", [node(op, "x", **attributes)], {"x": x}, OWN)
        padded = {"kernel_shape": [4, 3], "strides": [3, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}
        special(f"ceil_{op.lower()}_padded", [node(op, "x", **padded)], {"x": x}, OWN)
        line = x.reshape(1, 4, 2)
        special(f"ceil_{op.lower()}_1d", [node(op, "x", kernel_shape=[3], strides=[2], ceil_mode=1)], {"x": line}, OWN)
    counted = node("AveragePool", "x", kernel_shape=[4, 3], strides=[3, 2], pads=[1, 0, 0, 1], ceil_mode=1, count_include_pad=1)
    special("ceil_averagepool_padded_counted", [counted], {"x": x}, OWN)
    # Every axis of size 1 goes, that of the batch included.
    special("squeeze_fixed_batch", [node("Squeeze", "x")], {"x": x[:, :, :, :1]}, x[0, 0, :, 0], fixed=True)


def indexed() -> None:
    """Operators on indices, for every sample of a batch: what onnxruntime computes, the indices computed in the model."""
    random = np.random.default_rng(3)

    def floats(*shape: int) -> np.ndarray:
        return (np.round(random.normal(size=shape) * 32) / 32).astype(f32)

    def numbers(low: int, high: int, *shape: int) -> np.ndarray:
        return random.integers(low, high, shape).astype(f32)

    def index(source: str) -> object:
        return node("Cast", source, f"{source}_int", to=7)

    x = floats(2, 3, 5, 4)
    for axis, k, largest in [(1, 2, 1), (2, 3, 0), (-1, 4, 1)]:
        top = node("TopK", "x k", "y i", axis=axis, largest=largest)
        special(f"topk_values_{axis}", [top], {"x": x}, OWN, {"k": ints(k)})
        ranks = node("TopK", "x k", "v i", axis=axis, largest=largest)
        special(f"topk_indices_{axis}", [ranks, node("Cast", "i", to=1)], {"x": x}, OWN, {"k": ints(k)})
    special("topk_attribute", [node("TopK", "x", "y i", axis=2, k=2)], {"x": x}, OWN, opset=9, ir=4)
    special("topk_of_input", [node("TopK", "x k", "y i", axis=2)], {"x": x}, OWN, {"k": ints(2)}, opset=10, ir=5)
    for axis, size in [(1, 3), (2, 5), (-1, 4)]:
        shape = [2, 2, 4, 3]
        shape[axis] = 6
        gather = [index("i"), node("GatherElements", "x i_int", axis=axis)]
        special(f"gatherelements_{axis}", gather, {"x": x, "i": numbers(-size, size, *shape)}, OWN)
        shape[axis] = size
        at = np.argsort(floats(*shape), axis).astype(f32)
        for opset, reductions in [(18, ["none", "add", "mul", "max", "min"]), (16, ["none", "add", "mul"]), (11, ["none"])]:
            for reduction in reductions:
                how = {} if opset == 11 else {"reduction": reduction}
                scatter = [index("i"), node("ScatterElements", "x i_int u", axis=axis, **how)]
                inputs = {"x": x, "i": at, "u": floats(*shape)}
                special(f"scatterelements_{axis}_{reduction}_{opset}", scatter, inputs, OWN, opset=opset, ir=8)
        repeated = [index("i"), node("ScatterElements", "x i_int u", axis=axis, reduction="add")]
        inputs = {"x": x, "i": numbers(-size, size, *shape), "u": floats(*shape)}
        special(f"scatterelements_{axis}_repeated", repeated, inputs, OWN)
    at = np.argsort(floats(2, 3, 5, 2), 1).astype(f32)
    scatter = [index("i"), node("Scatter", "x i_int u", axis=1)]
    special("scatter", scatter, {"x": x, "i": at, "u": floats(2, 3, 5, 2)}, OWN, opset=9, ir=4)
    for depth in [1, 2, 3]:
        gather = [index("i"), node("GatherND", "x i_int", batch_dims=1)]
        special(f"gathernd_{depth}", gather, {"x": x, "i": numbers(-3, 3, 2, 6, depth)}, OWN)
    gather = [index("i"), node("GatherND", "x i_int", batch_dims=2)]
    special("gathernd_two_batches", gather, {"x": x, "i": numbers(-4, 4, 2, 3, 6, 1)}, OWN)
    table = {"t": floats(7, 3, 4)}
    special("gathernd_table", [index("i"), node("GatherND", "t i_int")], {"i": numbers(-3, 3, 2, 5, 2)}, OWN, table)
    special("gather_table", [index("i"), node("Gather", "t i_int")], {"i": numbers(-7, 7, 2, 5)}, OWN, table)
    turned = [index("i"), node("Gather", "t i_int", "g", axis=1), node("Transpose", "g", perm=[1, 0, 2, 3])]
    special("gather_table_inner", turned, {"i": numbers(-3, 3, 2, 5)}, OWN, table)
    own = [index("i"), node("GatherElements", "t i_int", axis=0)]
    special("gatherelements_table", own, {"i": numbers(-7, 7, 2, 3, 4)}, OWN, table)
    for name, shape, update in [("one", [[0, 1], [0, 2]], (2, 5, 4)), ("two", [[0, 1, 2], [0, -1, 0], [0, 1, 4]], (3, 4))]:
        for reduction in ["none", "add", "max"]:
            scatter = node("ScatterND", "x i u", reduction=reduction)
            constants = {"i": np.array(shape, np.int64), "u": floats(*update)}
            special(f"scatternd_{name}_{reduction}", [scatter], {"x": x[:1]}, OWN, constants, fixed=True)
    rows = {"i": np.array([[[0, 0], [0, 2]]], np.int64)}
    nodes = [node("Neg", "x", "n"), node("Slice", "n a b c", "u"), node("ScatterND", "x i u")]
    special("scatternd_computed", nodes, {"x": x[:1]}, OWN, rows | {"a": ints(0), "b": ints(2), "c": ints(1)}, fixed=True)
    for axis in [-1, 1, 2]:
        for name, values in [("floats", np.array([-0.5, 2], f32)), ("ints", ints(0, 1))]:
            hot = [index("i"), node("OneHot", "i_int d v", "h", axis=axis), node("Cast", "h", to=1)]
            special(f"onehot_{axis}_{name}", hot, {"i": numbers(-5, 5, 2, 3)}, OWN, {"d": ints(4)[0], "v": values})
    for exclusive, reverse in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        for opset in [11, 14]:
            total = node("CumSum", "x a", exclusive=exclusive, reverse=reverse)
            special(f"cumsum_{exclusive}{reverse}_{opset}", [total], {"x": x}, OWN, {"a": ints(-2)[0]}, opset=opset, ir=6)
    for upper in [0, 1]:
        for k in [-2, 0, 1]:
            special(f"trilu_{upper}_{k}", [node("Trilu", "x k", upper=upper)], {"x": x}, OWN, {"k": ints(k)[0]})
    special("trilu_default", [node("Trilu", "x")], {"x": np.where(x > 1, f32(np.inf), x)}, OWN)
    eye = [node("Flatten", "x", "f", axis=3), node("EyeLike", "f", "e", k=-1), node("MatMul", "f t", "m"), node("Add", "e m")]
    special("eyelike", eye, {"x": x[:1]}, OWN, {"t": floats(4, 4)}, opset=13, ir=7, fixed=True)
    for mode, old in [("nearest", "nearest"), ("linear", "bilinear"), ("cubic", "bicubic")]:
        for padding in ["zeros", "border", "reflection"]:
            for align in [0, 1]:
                how = {"padding_mode": padding, "align_corners": align}
                points = (random.normal(size=(2, 4, 3, 2)) * 1.2).astype(f32)
                name = f"gridsample_{mode}_{padding}_{align}"
                special(name, [node("GridSample", "x g", mode=mode, **how)], {"x": x, "g": points}, OWN)
                special(f"{name}_16", [node("GridSample", "x g", mode=old, **how)], {"x": x, "g": points}, OWN, opset=16, ir=8)
    space = {"x": floats(2, 2, 3, 4, 3), "g": (random.normal(size=(2, 2, 3, 4, 3)) * 0.8).astype(f32)}
    special("gridsample_space", [node("GridSample", "x g", mode="linear", align_corners=1)], space, OWN)
    # Each at the first operator set that has it in a form, and where the form changed.
    old = {"ir": 4}
    gather = [index("i"), node("GatherElements", "x i_int", axis=2)]
    special("gatherelements_11", gather, {"x": x, "i": numbers(0, 5, 2, 3, 5, 4)}, OWN, opset=11, **old)
    top = node("TopK", "x k", "y i", axis=1, sorted=1)
    special("topk_11", [top], {"x": x}, OWN, {"k": ints(2)}, opset=11, **old)
    for opset in [11, 13, 16]:
        constants = {"i": np.array([[0, 1], [0, 2]], np.int64), "u": floats(2, 5, 4)}
        special(f"scatternd_{opset}", [node("ScatterND", "x i u")], {"x": x[:1]}, OWN, constants, opset=opset, fixed=True)
    gather = [index("i"), node("GatherND", "t i_int")]
    special("gathernd_11", gather, {"i": numbers(-3, 3, 2, 5, 2)}, OWN, table, opset=11, **old)
    gather = [index("i"), node("GatherND", "x i_int", batch_dims=1)]
    special("gathernd_12", gather, {"x": x, "i": numbers(-3, 3, 2, 6, 2)}, OWN, opset=12, **old)
    constants = {"d": ints(4)[0], "v": np.array([-0.5, 2], f32)}
    special("onehot_9", [index("i"), node("OneHot", "i_int d v")], {"i": numbers(0, 4, 2, 3)}, OWN, constants, opset=9, **old)
    special("onehot_of_floats", [node("OneHot", "i d v")], {"i": numbers(0, 4, 2, 3)}, OWN, constants | {"d": f32(4)})
    special("lpnormalization_7", [node("LpNormalization", "x", axis=1, p=1)], {"x": x}, OWN, opset=7, **old)
    for opset in [10, 13]:
        special(f"mod_{opset}", [node("Mod", "x c", fmod=1)], {"x": x}, OWN, {"c": np.array(0.75, f32)}, opset=opset, **old)
    special("mod_of_constant", [node("Mod", "c x", fmod=1)], {"x": x + 0.015625}, OWN, {"c": np.array(-2.5, f32)})
    divisor = np.where(x == 0, f32(1), x)
    special("mod_floats", [node("Mod", "x d", fmod=1)], {"x": x * 5, "d": divisor}, OWN)
    whole = [index("x"), index("d"), node("Mod", "x_int d_int", "m"), node("Cast", "m", to=1)]
    special("mod_ints", whole, {"x": numbers(-9, 9, 2, 6), "d": numbers(1, 5, 2, 6) * (-1) ** numbers(0, 2, 2, 6)}, OWN)
    whole = [index("x"), node("Mod", "x_int d", "m", fmod=1), node("Cast", "m", to=1)]
    special("mod_ints_fmod", whole, {"x": numbers(-9, 9, 2, 6)}, OWN, {"d": ints(-4)})


def agrees(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = a.astype(f32), b.astype(f32)
    finite = np.isfinite(b)
    same = a.shape == b.shape and np.array_equal(a[~finite], b[~finite], equal_nan=True)
    return bool(same and np.allclose(a[finite], b[finite], rtol=1e-5, atol=1e-6))


def main() -> None:
    np.seterr(all="ignore")
    for part in (unaries, binaries, reductions, ceilings, indexed):
        part()
    results = {}
    wrong = []
    for name, (model, inputs) in CASES.items():
        if next(iter(inputs.values())).shape[0] == 1:
            for info in model.graph.input:
                if info.type.tensor_type.shape.dim[0].dim_value:
                    info.type.tensor_type.shape.dim[0].dim_value = 1
        [own], data = checked(model, inputs)
        reference = own if REFERENCES[name] is OWN else np.asarray(REFERENCES[name], f32)
        if agrees(own, reference) == (name in DIFFERS):
            wrong.append(f"{name}: onnxruntime gives {own.ravel()}, the definition {reference.ravel()}")
        results[name] = (data, inputs, {model.graph.output[0].name: reference})
    assert not wrong, "\n".join(wrong)
    save(Path(__file__).with_name("special.npz"), results)


if __name__ == "__main__":
    main()
