"""Models of the kinds that users' files turned out to be, through mxc and onnxruntime.

    cases.py MXC FOLDER

Each case is a small model; what is expected of it is checked by the function that makes it. Prints what is wrong; exits 1 then.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

MXC, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
DRAWS = np.random.default_rng(0)
# Of the largest element: sums of f32 in another order.
TOLERANCE = 1e-4
WRONG = []
node = helper.make_node
ort.set_default_logger_severity(4)


def floats(*shape):
    return DRAWS.standard_normal(shape).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


def f32(value):
    return np.array(value, np.float32)


def save(nodes, weights, shape, opset=18, outputs=("y",), functions=(), kind=TensorProto.FLOAT) -> pathlib.Path:
    graph = helper.make_graph(
        nodes, "case", [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights])  # fmt: skip
    domains = {function.domain for function in functions} | {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 9
    path = FOLDER / "case.onnx"
    onnx.save(model, path)
    return path


def mxc(*arguments):
    """Exit code, stdout and stderr."""
    done = subprocess.run([MXC, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def must(*arguments) -> str:
    code, out, err = mxc(*arguments)
    if code != 0:
        raise RuntimeError(f"mxc {arguments[0]} exits {code}: {err.strip()[:300]}")
    return out


def run(model, x):
    np.savez(FOLDER / "x.npz", x=x)
    must("run", model, "--input", FOLDER / "x.npz", "-o", FOLDER / "y.npz", "--quiet")
    return np.load(FOLDER / "y.npz")["y"]


def reference(path, x):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


def differ(a, b) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def compile_model(path, *more) -> list:
    """Compiles with denoisers on every layer; the layers."""
    text = must("compile", path, "--samples", "4", "--budget", "1000000%", "--placement", "at=*", "-o", FOLDER / "a.mxa",
                "--quiet", "--json", *more)  # fmt: skip
    return json.loads(text)["layers"]


def case(name):
    """Runs a function and notes what it raises."""

    def decorate(function):
        try:
            wrong = function()
        except Exception as error:  # noqa: BLE001 whatever goes wrong is the case's result
            wrong = str(error)[:400]
        if wrong:
            WRONG.append(name)
            print(f"{name}: {wrong}")
        return function

    return decorate


def equal_to_onnxruntime(path, x) -> str:
    apart = differ(run(path, x), reference(path, x))
    return f"run differs from onnxruntime by {apart:.1e}" if apart > TOLERANCE else ""


def exported(path, x, kind, layers=1) -> str:
    """Through compile, finetune, run and export, the export in onnxruntime."""
    wrong = equal_to_onnxruntime(path, x)
    if wrong:
        return wrong
    chosen = [layer for layer in compile_model(path, "--denoiser", kind, "--sigma", "10%") if layer["chosen"]]
    if len(chosen) != layers:
        return f"{len(chosen)} layers with denoisers, not {layers}"
    np.savez(FOLDER / "d.npz", x=np.concatenate([x, x[::-1]]))
    must("finetune", FOLDER / "a.mxa", "--data", FOLDER / "d.npz", "--recipe", "cosine", "--loss", "distill", "--epochs", "4", "--batch", "2", "--lr",
         "0.1", "-o", FOLDER / "b.mxa", "--quiet")  # fmt: skip
    own = run(FOLDER / "b.mxa", x)
    must("export", FOLDER / "b.mxa", "-o", FOLDER / "e.onnx", "--quiet")
    apart = differ(reference(FOLDER / "e.onnx", x), own)
    if apart > TOLERANCE:
        return f"{kind}: the export differs from the package by {apart:.1e}"
    return "" if differ(own, reference(path, x)) > TOLERANCE else f"{kind}: the denoisers change nothing, so the case shows nothing"


# The exported file equals the package, whatever the compiler folds into the layer.

CONV = node("Conv", ["x", "w"], ["c"], name="conv")
TAIL = [node("Relu", ["z"], ["r"]), node("GlobalAveragePool", ["r"], ["p"]), node("Flatten", ["p"], ["y"])]
W = floats(5, 3, 3, 3)
FOLDED = {
    "add": ([CONV, node("Add", ["c", "b"], ["z"])], [("b", floats(5, 1, 1))]),
    "add of one": ([CONV, node("Add", ["c", "b"], ["z"])], [("b", f32(0.5))]),
    "mul and add": ([CONV, node("Mul", ["c", "s"], ["m"]), node("Add", ["m", "b"], ["z"])],
                    [("b", floats(1, 5, 1, 1)), ("s", floats(5, 1, 1))]),
    "transpose, add, transpose": ([CONV, node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]), node("Add", ["t", "b"], ["u"]),
                                   node("Transpose", ["u"], ["z"], perm=[0, 3, 1, 2])], [("b", floats(5))]),
    "reshape, add, reshape": ([CONV, node("Reshape", ["c", "f"], ["t"]), node("Add", ["t", "b"], ["u"]),
                               node("Reshape", ["u", "g"], ["z"])],
                              [("b", floats(5, 1)), ("f", integers(0, 5, -1)), ("g", integers(0, 5, 4, 4))]),
    "unsqueeze, mul, squeeze": ([CONV, node("Unsqueeze", ["c", "a"], ["t"]), node("Mul", ["t", "b"], ["u"]),
                                 node("Squeeze", ["u", "a"], ["z"])], [("b", floats(5, 1, 1)), ("a", integers(1))]),
    "identity, add": ([CONV, node("Identity", ["c"], ["t"]), node("Add", ["t", "b"], ["z"])], [("b", floats(5, 1, 1))]),
    "batch norm": ([CONV, node("BatchNormalization", ["c", "s", "b", "m", "v"], ["z"])],
                   [("s", floats(5)), ("b", floats(5)), ("m", floats(5)), ("v", np.abs(floats(5)) + 0.5)]),
    "subtracted": ([CONV, node("Sub", ["b", "c"], ["z"])], [("b", floats(5, 1, 1))]),
    "divided": ([CONV, node("Div", ["c", "b"], ["z"])], [("b", np.abs(floats(5, 1, 1)) + 0.5)]),
    "negated": ([CONV, node("Neg", ["c"], ["z"])], []),
    "negated twice": ([CONV, node("Neg", ["c"], ["t"]), node("Neg", ["t"], ["z"])], []),
    "sum of three": ([CONV, node("Sum", ["c", "b", "c"], ["z"])], [("b", floats(5, 1, 1))]),
    "two equal sums": ([CONV, node("Add", ["c", "b"], ["t"]), node("Add", ["b2", "c"], ["u"]), node("Tanh", ["t"], ["v"]),
                        node("Add", ["u", "v"], ["z"])], [("b", np.full((5, 1, 1), 0.25, np.float32)),
                                                           ("b2", np.full((5, 1, 1), 0.25, np.float32))]),
    "a dead reader": ([CONV, node("Add", ["c", "b"], ["z"]), node("Exp", ["c"], ["dead"])], [("b", floats(5, 1, 1))]),
    "two readers": ([CONV, node("Add", ["c", "b"], ["t"]), node("Sigmoid", ["c"], ["u"]), node("Mul", ["t", "u"], ["z"])],
                    [("b", floats(5, 1, 1))]),
    "two scaled readers": ([CONV, node("Add", ["c", "b"], ["t"]), node("Mul", ["t", "s"], ["u"]), node("Mul", ["t", "s2"], ["v"]),
                            node("Add", ["u", "v"], ["z"])], [("b", floats(5, 1, 1)), ("s", floats(5, 1, 1)), ("s2", f32(0.5))]),
    "a branch through batch norm": ([CONV, node("Add", ["b", "c"], ["t"]), node("BatchNormalization", ["t", "s", "b2", "m", "v"], ["u"]),
                                     node("Elu", ["u"], ["o"]), node("Add", ["o", "t"], ["z"])],
                                    [("b", floats(5, 1, 1)), ("s", floats(5)), ("b2", floats(5)), ("m", floats(5)), ("v", np.abs(floats(5)) + 0.5)]),
    "hard sigmoid": ([CONV, node("HardSigmoid", ["c"], ["z"])], []),
    "quantised": ([CONV, node("QuantizeLinear", ["c", "s", "o"], ["q"]), node("DequantizeLinear", ["q", "s", "o"], ["z"])],
                  [("s", f32(1e-4)), ("o", np.array(0, np.int16))]),
}  # fmt: skip
for name, (nodes, weights) in FOLDED.items():
    for kind in ("paper", "affine"):
        opset = 21 if name == "quantised" else 18
        case(f"{name}, {kind}")(lambda: exported(save(nodes + TAIL, [("w", W), *weights], ["N", 3, 6, 6], opset), floats(2, 3, 6, 6), kind))


@case("flattened before the bias")
def _():
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Flatten", ["c"], ["q"]), node("Add", ["q", "b"], ["u"]), node("Relu", ["u"], ["y"])]
    path = save(nodes, [("w", floats(5, 3, 6, 6)), ("b", floats(5))], ["N", 3, 6, 6])
    return exported(path, floats(2, 3, 6, 6), "mean")


@case("the layer's output is the model's")
def _():
    return exported(save([node("Gemm", ["x", "w", "b"], ["y"])], [("w", floats(6, 4)), ("b", floats(4))], ["N", 6]), floats(2, 6), "mean")


for kind in ("paper", "mean", "affine"):
    layer = node("Conv", ["x", "w", "b"], ["c"], pads=[1, 2], strides=[2])
    tail = [node("Relu", ["c"], ["z"]), node("GlobalAveragePool", ["z"], ["p"]), node("Flatten", ["p"], ["y"])]
    case(f"1-D, {kind}")(lambda: exported(save([layer, *tail], [("w", floats(8, 4, 3)), ("b", floats(8))], ["N", 4, 17]), floats(2, 4, 17), kind))


@case("1-D: the denoiser's convolutions have one spatial axis")
def _():
    kernels = [list(a.ints) for n in onnx.load(FOLDER / "e.onnx").graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "kernel_shape"]
    return "" if all(len(kernel) == 1 for kernel in kernels) else str(kernels)


@case("a layer in a function")
def _():
    inner = [node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"), node("Relu", ["c"], ["r"])]
    function = helper.make_function("my", "Layer", ["a", "w"], ["r"], inner, [helper.make_opsetid("", 18)])
    call = node("Layer", ["x", "w"], ["t"], domain="my", name="f1")
    again = node("Layer", ["t", "w2"], ["z"], domain="my", name="f2")
    weights = [("w", floats(4, 3, 3, 3)), ("w2", floats(4, 4, 3, 3))]
    return exported(save([call, again, *TAIL], weights, ["N", 3, 6, 6], functions=[function]), floats(2, 3, 6, 6), "paper", 2)


@case("a layer in the branch of an If")
def _():
    def value(name):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]

    taken = helper.make_graph([node("Conv", ["x", "w"], ["c1"], name="conv"), node("Relu", ["c1"], ["t1"])], "t", [], value("t1"))
    other = helper.make_graph([node("Identity", ["x"], ["t2"])], "e", [], value("t2"))
    nodes = [node("If", ["k"], ["z"], then_branch=taken, else_branch=other), *TAIL]
    return exported(save(nodes, [("k", np.array(True)), ("w", floats(4, 3, 3, 3))], ["N", 3, 6, 6]), floats(2, 3, 6, 6), "paper")


# Constants fold, whatever computes them.

CONSTANTS = {
    "weight norm": ([node("ReduceL2", ["v", "ax"], ["n"], keepdims=1), node("Div", ["v", "n"], ["u"]), node("Mul", ["u", "g"], ["W"])],
                    [("v", floats(4, 3, 3, 3)), ("g", floats(4, 1, 1, 1)), ("ax", integers(1, 2, 3))]),
    "spectral norm": ([node("Reshape", ["v", "s"], ["m"]), node("MatMul", ["u1", "m"], ["a"]), node("MatMul", ["a", "v1"], ["b"]),
                       node("Reshape", ["b", "e"], ["n"]), node("Div", ["v", "n"], ["W"])],
                      [("v", floats(4, 3, 3, 3)), ("s", integers(4, 27)), ("u1", floats(1, 4)), ("v1", floats(27, 1)), ("e", integers())]),
    "low rank": ([node("MatMul", ["a", "b"], ["d"]), node("Reshape", ["d", "s"], ["d2"]), node("Add", ["v", "d2"], ["W"])],
                 [("v", floats(4, 3, 3, 3)), ("a", floats(4, 2)), ("b", floats(2, 27)), ("s", integers(4, 3, 3, 3))]),
    "fake quantised": ([node("QuantizeLinear", ["v", "s", "o"], ["q"], axis=0), node("DequantizeLinear", ["q", "s", "o"], ["W"], axis=0)],
                       [("v", floats(4, 3, 3, 3)), ("s", np.full(4, 0.02, np.float32)), ("o", np.zeros(4, np.int8))]),
    "8 bits": ([node("DequantizeLinear", ["q", "s", "o"], ["W"])],
               [("q", DRAWS.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)), ("s", f32(0.02)), ("o", np.array(3, np.int8))]),
    "LSQ": ([node("Div", ["v", "s"], ["d"]), node("Clip", ["d", "lo", "hi"], ["k"]), node("Round", ["k"], ["k2"]), node("Mul", ["k2", "s"], ["W"])],
            [("v", floats(4, 3, 3, 3)), ("s", f32(0.1)), ("lo", f32(-8)), ("hi", f32(7))]),
    "softmax": ([node("Softmax", ["v"], ["W"], axis=0)], [("v", floats(4, 3, 3, 3))]),
    "cumulative sum": ([node("CumSum", ["v", "a"], ["W"])], [("v", floats(4, 3, 3, 3)), ("a", np.array(1, np.int64))]),
    "mask": ([node("Where", ["m", "v", "o"], ["W"])], [("v", floats(4, 3, 3, 3)), ("m", DRAWS.integers(0, 2, (4, 3, 3, 3)).astype(bool)), ("o", f32(0))]),
    "resized": ([node("Resize", ["v", "", "", "s"], ["W"], mode="linear")], [("v", floats(4, 3, 2, 2)), ("s", integers(4, 3, 3, 3))]),
    "convolved": ([node("Conv", ["v", "k"], ["W"], pads=[1, 1, 1, 1])], [("v", floats(4, 2, 3, 3)), ("k", floats(3, 2, 3, 3))]),
    "batch norm of a kernel": ([node("BatchNormalization", ["v", "s", "b", "m", "n"], ["W"])],
                               [("v", floats(4, 3, 3, 3)), ("s", floats(3)), ("b", floats(3)), ("m", floats(3)), ("n", np.abs(floats(3)) + 0.5)]),
    "sorted": ([node("TopK", ["v", "k"], ["W", "i"], axis=3)], [("v", floats(4, 3, 3, 3)), ("k", integers(3))]),
    "einsum": ([node("Einsum", ["v", "m"], ["W"], equation="oihw,oj->ojhw")], [("v", floats(4, 3, 3, 3)), ("m", floats(4, 3))]),
}  # fmt: skip
for name, (nodes, weights) in CONSTANTS.items():

    def constant() -> str:
        layer = [node("Conv", ["x", "W"], ["z"], pads=[1, 1, 1, 1]), *TAIL]
        path = save(nodes + layer, weights, ["N", 3, 5, 5])
        found = len(compile_model(path))
        return equal_to_onnxruntime(path, floats(2, 3, 5, 5)) or ("" if found == 1 else f"{found} analog layers")

    case(f"constant: {name}")(constant)


# Quantised as other tools write it.


@case("Quant and BipolarQuant")
def _():
    def quant(x, scale, zero, bits, signed, narrow):
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        return (np.round(np.clip(x / scale + zero, low, high)) - zero) * scale

    w, v = floats(6, 5), floats(5, 4)
    quantiser = dict(domain="qonnx.custom_op.general", rounding_mode="ROUND")
    nodes = [
        node("Quant", ["x", "s", "z", "b"], ["xq"], signed=1, narrow=0, **quantiser),
        node("Quant", ["w", "s", "z", "b"], ["wq"], signed=1, narrow=1, **quantiser),
        node("MatMul", ["xq", "wq"], ["h"], name="first"),
        node("BipolarQuant", ["h", "t"], ["hq"], domain="qonnx.custom_op.general"),
        node("MatMul", ["hq", "v"], ["y"], name="second"),
    ]
    weights = [("w", w), ("v", v), ("s", f32(0.25)), ("z", f32(0)), ("b", f32(4)), ("t", f32(0.5))]
    path = save(nodes, weights, ["N", 6])
    x = floats(16, 6)
    hidden = quant(x, 0.25, 0, 4, 1, 0) @ quant(w, 0.25, 0, 4, 1, 1)
    expected = np.where(hidden >= 0, 0.5, -0.5).astype(np.float32) @ v
    if differ(run(path, x), expected) > TOLERANCE:
        return f"run differs from its definition by {differ(run(path, x), expected):.1e}"
    layers = compile_model(path, "--denoiser", "affine", "--sigma", "10%")
    # The first layer's gradient goes through the signs.
    norms = {layer["name"]: layer["gradient_norm"] for layer in layers}
    return "" if norms.get("first", 0) > 0 and norms.get("second", 0) > 0 else f"gradient norms {norms}"


@case("quantize_dynamic")
def _():
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [node("MatMul", ["x", "w"], ["a"], name="one"), node("Add", ["a", "b"], ["c"]), node("Relu", ["c"], ["d"]),
             node("MatMul", ["d", "v"], ["y"], name="two")]  # fmt: skip
    path = save(nodes, [("w", floats(12, 9)), ("b", floats(9)), ("v", floats(9, 5))], ["N", 12])
    # Sums of u8·i8 saturate in onnxruntime on processors without VNNI; those of u8·u8 do not.
    quantize_dynamic(str(path), str(FOLDER / "dynamic.onnx"), weight_type=QuantType.QUInt8)
    path = FOLDER / "dynamic.onnx"
    x = floats(6, 12)
    # Ranges are taken of each sample, as onnxruntime does for a batch of one.
    expected = np.concatenate([reference(path, x[index : index + 1]) for index in range(len(x))])
    if differ(run(path, x), expected) > TOLERANCE:
        return f"run differs by {differ(run(path, x), expected):.1e}"
    layers = compile_model(path, "--denoiser", "affine", "--sigma", "10%")
    if len([layer for layer in layers if layer["chosen"] and layer["gradient_norm"] > 0]) != 2:
        return str(layers)
    np.savez(FOLDER / "d.npz", x=x)
    must("finetune", FOLDER / "a.mxa", "--data", FOLDER / "d.npz", "--recipe", "cosine", "--loss", "distill", "--epochs", "3", "--batch", "2", "--lr", "0.05",
         "-o", FOLDER / "b.mxa", "--quiet")  # fmt: skip
    own = run(FOLDER / "b.mxa", x)
    must("export", FOLDER / "b.mxa", "-o", FOLDER / "e.onnx", "--quiet")
    theirs = np.concatenate([reference(FOLDER / "e.onnx", x[index : index + 1]) for index in range(len(x))])
    # A step of 8 bits may go the other way.
    return "" if differ(own, expected) > 1e-3 and differ(theirs, own) < 0.02 else f"the export differs by {differ(theirs, own):.1e}"


# What is refused, by name.

for opset in (9, 13):

    @case(f"batch norm in training mode, version {opset}")
    def _():
        nodes = [CONV, node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y", "o1", "o2", "o3", "o4"], name="bn")]
        path = save(nodes, [("w", W), ("s", floats(5)), ("b", floats(5)), ("m", floats(5)), ("v", np.abs(floats(5)) + 0.5)], [1, 3, 6, 6], opset)
        code, _, err = mxc("compile", path, "-o", FOLDER / "a.mxa")
        return "" if code == 1 and "'bn'" in err and "training mode" in err else f"exit {code}: {err}"


# What compile accepts, run does.


@case("a product with a vector")
def _():
    path = save([node("MatMul", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])], [("w", floats(1, 1))], [1])
    code, _, err = mxc("compile", path, "--samples", "4", "-o", FOLDER / "a.mxa")
    if code == 0:
        x = np.abs(floats(1))
        return "" if differ(run(FOLDER / "a.mxa", x), reference(path, x)) <= TOLERANCE else "wrong"
    return "" if code == 1 and "error" in err else err


@case("Flatten(axis=-1) as the output")
def _():
    path = save([node("Relu", ["x"], ["c"]), node("Flatten", ["c"], ["y"], axis=-1)], [], ["N", 3, 4])
    code, _, err = mxc("compile", path, "--samples", "4", "-o", FOLDER / "a.mxa")
    if code == 0:
        x = floats(2, 3, 4)
        return "" if differ(run(FOLDER / "a.mxa", x), reference(path, x)) <= TOLERANCE else "wrong"
    return "" if code == 1 and "error" in err else err


# Valid models that were refused.

for op in ("MaxPool", "AveragePool"):
    for kernel, size in ((3, 2), (2, 1)):
        pool = node(op, ["x"], ["y"], kernel_shape=[kernel, kernel], strides=[2, 2], ceil_mode=1)
        case(f"{op} {kernel} on {size}, rounded up")(lambda: equal_to_onnxruntime(save([pool], [], ["N", 1, size, size], 12), floats(2, 1, size, size)))

PADDED = node("Conv", ["x", "w"], ["c"], pads=[3, 3, 3, 3])
ZEROS = {
    "LpNormalization": ([node("LpNormalization", ["c"], ["y"], axis=1, p=2)], []),
    "ReduceL2, Clip, Div": ([node("ReduceL2", ["c", "ax"], ["n"], keepdims=1), node("Clip", ["n", "lo"], ["k"]), node("Div", ["c", "k"], ["y"])],
                            [("ax", integers(1)), ("lo", f32(1e-12))]),
    "Sqrt behind Where": ([node("Equal", ["c", "z"], ["e"]), node("Sqrt", ["c"], ["q"]), node("Where", ["e", "z", "q"], ["t"]),
                           node("IsNaN", ["t"], ["i"]), node("Where", ["i", "z", "t"], ["y"])], [("z", f32(0))]),
}  # fmt: skip
for name, (nodes, weights) in ZEROS.items():

    def zeros() -> str:
        path = save([PADDED, *nodes], [("w", floats(3, 3, 3, 3)), *weights], ["N", 3, 4, 4], 20)
        wrong = equal_to_onnxruntime(path, floats(2, 3, 4, 4))
        compile_model(path)
        return wrong

    case(f"vectors of zeros: {name}")(zeros)

print(f"{len(WRONG)} cases wrong")
sys.exit(1 if WRONG else 0)
