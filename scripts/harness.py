#!/usr/bin/env python3
"""Random networks with trained denoisers through every command, against onnxruntime.

For each network: onnxruntime against `mxc run`; then for each kind of denoiser `compile` (denoisers on every layer), `finetune`
(a few large steps, so that the denoisers do something), `eval`, `run` of the package, `export`, and the exported file in
onnxruntime against the package. The networks are small and made of what the compiler rewrites: scales and shifts around
layers in every spelling, layouts, residuals, dead readers, functions, branches, quantisers.

    scripts/harness.py --networks 1000 --seed 0

prints each difference beyond the tolerance and each failure, and at the end one line of counts; exits 1 if there was any.
A network that `compile` refuses is counted, not a failure: what it accepts, all commands must accept. The environment's Python
needs numpy, onnx and onnxruntime; MXC names the program.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[1]
MXC = os.environ.get("MXC", str(ROOT / "target/release/mxc"))
KINDS = ["paper", "mean", "affine", "mean+affine"]
# Of the largest element. Sums of f32 in another order differ by less.
TOLERANCE = 1e-4
SAMPLES = 3
ort.set_default_logger_severity(4)


class Network:
    """A random network under construction: nodes, weights, and the value at hand with its shape."""

    def __init__(self, draws: np.random.Generator):
        self.draws = draws
        self.nodes, self.weights, self.functions = [], [], []
        self.count = 0
        self.quantised = False
        if draws.random() < 0.15:
            self.input = [int(draws.integers(3, 9))]  # a vector
        elif draws.random() < 0.2:
            self.input = [int(draws.integers(2, 5)), int(draws.integers(5, 10))]  # a sequence
        else:
            self.input = [int(draws.integers(1, 4)), int(draws.integers(4, 9)), int(draws.integers(4, 9))]
        self.value, self.shape = "x", list(self.input)

    def pick(self, choices):
        return choices[int(self.draws.integers(len(choices)))]

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def weight(self, *shape, scale=1.0, positive=False) -> str:
        values = self.draws.standard_normal(shape).astype(np.float32) * np.float32(scale)
        if positive:
            values = np.abs(values) + np.float32(0.5)
        return self.constant(values)

    def constant(self, values) -> str:
        name = self.name()
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op, inputs, outputs=None, **attributes) -> str:
        outputs = outputs or [self.name()]
        named = {"name": f"{op}_{self.count}"} if self.draws.random() < 0.7 else {}
        self.nodes.append(helper.make_node(op, inputs, outputs, **named, **attributes))
        return outputs[0]

    # Layers.

    def layer(self):
        if len(self.shape) == 1:
            return self.product()
        spatial = len(self.shape) - 1
        channels = self.shape[0]
        kernel = [int(min(self.pick([1, 3, 3]), size)) for size in self.shape[1:]]
        stride = [int(self.pick([1, 1, 2])) for _ in range(spatial)]
        pads = [int(self.pick([0, (k - 1) // 2])) for k in kernel] * 2
        outputs, groups = int(self.draws.integers(1, 7)), 1
        if self.draws.random() < 0.25 and channels > 1:
            groups = channels
            outputs = channels * int(self.pick([1, 2]))
        weight = self.weight(outputs, channels // groups, *kernel, scale=0.5)
        if self.draws.random() < 0.15:
            weight = self.computed(weight, [outputs, channels // groups, *kernel])
        inputs = [self.value, weight]
        if self.draws.random() < 0.5:
            inputs.append(self.weight(outputs))
        self.value = self.node("Conv", inputs, pads=pads, strides=stride, group=groups)
        sizes = [(size + 2 * pad - k) // step + 1 for size, pad, k, step in zip(self.shape[1:], pads, kernel, stride)]
        self.shape = [outputs, *sizes]

    def computed(self, weight, shape) -> str:
        """A weight that is computed from constants."""
        match self.pick(["norm", "mask", "quantised", "sum"]):
            case "norm":
                axes = self.constant(np.arange(1, len(shape), dtype=np.int64))
                length = self.node("ReduceL2", [weight, axes], keepdims=1)
                return self.node("Div", [weight, length])
            case "mask":
                mask = self.constant(self.draws.integers(0, 2, shape).astype(bool))
                return self.node("Where", [mask, weight, self.constant(np.float32(0))])
            case "quantised":
                scale = self.constant(np.full(shape[0], 0.02, np.float32))
                zero = self.constant(np.zeros(shape[0], np.int8))
                whole = self.node("QuantizeLinear", [weight, scale, zero], axis=0)
                return self.node("DequantizeLinear", [whole, scale, zero], axis=0)
            case _:
                return self.node("Add", [weight, self.node("Tanh", [weight])])

    def product(self):
        inputs, outputs = self.shape[0], int(self.draws.integers(1, 8))
        bias = self.weight(outputs)
        match self.pick(["gemm", "transposed", "matmul", "matmul+add"]):
            case "gemm":
                self.value = self.node("Gemm", [self.value, self.weight(inputs, outputs), bias])
            case "transposed":
                weight = self.weight(outputs, inputs)
                self.value = self.node("Gemm", [self.value, weight, bias], transB=1, alpha=0.5, beta=2.0)
            case "matmul":
                self.value = self.node("MatMul", [self.value, self.weight(inputs, outputs)])
            case _:
                product = self.node("MatMul", [self.value, self.weight(inputs, outputs)])
                pair = [product, bias] if self.draws.random() < 0.5 else [bias, product]
                self.value = self.node("Add", pair)
        self.shape = [outputs]

    def tokens(self):
        """A matrix product over the channels of every place."""
        if len(self.shape) == 1:
            return self.product()
        inputs, outputs = self.shape[0], int(self.draws.integers(1, 6))
        length = int(np.prod(self.shape[1:]))
        self.value = self.node("Reshape", [self.value, self.constant(np.array([0, inputs, -1], np.int64))])
        self.value = self.node("Transpose", [self.value], perm=[0, 2, 1])
        self.value = self.node("MatMul", [self.value, self.weight(inputs, outputs)])
        for op in ("Add", "Mul"):
            if self.draws.random() < 0.5:
                self.value = self.node(op, [self.value, self.weight(outputs)])
        self.value = self.node("Transpose", [self.value], perm=[0, 2, 1])
        self.shape = [outputs, length]

    def enlarged(self):
        """A transposed convolution."""
        if len(self.shape) != 3 or max(self.shape[1:]) > 10:
            return self.layer()
        inputs, outputs = self.shape[0], int(self.draws.integers(1, 5))
        stride = int(self.pick([1, 2]))
        inputs = [self.value, self.weight(inputs, outputs, 3, 3, scale=0.5), self.weight(outputs)]
        self.value = self.node("ConvTranspose", inputs, strides=[stride, stride], pads=[1, 1, 1, 1])
        self.shape = [outputs, *[(size - 1) * stride + 1 for size in self.shape[1:]]]

    # What stands around layers.

    def per_channel(self, positive=False) -> str:
        """A constant per channel, or one for all, in some shape that broadcasts."""
        rest = [1] * (len(self.shape) - 1)
        shape = self.pick([[self.shape[0], *rest], [1, self.shape[0], *rest], [], [1] * len(self.shape)])
        return self.weight(*shape, positive=positive)

    def affine(self):
        constant = self.per_channel(positive=True)
        match self.pick(["add", "add", "sub", "bus", "mul", "mul", "div", "neg", "bn", "sum"]):
            case "add":
                self.value = self.node("Add", [self.value, constant] if self.draws.random() < 0.5 else [constant, self.value])
            case "sub":
                self.value = self.node("Sub", [self.value, constant])
            case "bus":
                self.value = self.node("Sub", [constant, self.value])
            case "mul":
                self.value = self.node("Mul", [self.value, constant])
            case "div":
                self.value = self.node("Div", [self.value, constant])
            case "neg":
                self.value = self.node("Neg", [self.value])
            case "bn":
                channels = self.shape[0]
                parameters = [self.weight(channels), self.weight(channels), self.weight(channels)]
                variance = self.weight(channels, positive=True)
                self.value = self.node("BatchNormalization", [self.value, *parameters, variance])
            case _:
                self.value = self.node("Sum", [self.value, constant, self.value])

    def moved(self):
        """Something behind a change of layout, and the way back."""
        rank = len(self.shape) + 1
        if rank == 2:
            self.value = self.node("Unsqueeze", [self.value, self.constant(np.array([1], np.int64))])
            self.value = self.node("Add", [self.value, self.weight(self.shape[0])])
            self.value = self.node("Squeeze", [self.value, self.constant(np.array([1], np.int64))])
            return
        if self.draws.random() < 0.6:
            last = [0, *range(2, rank), 1]
            first = [0, rank - 1, *range(1, rank - 1)]
            self.value = self.node("Transpose", [self.value], perm=last)
            op = self.pick(["Add", "Mul"])
            self.value = self.node(op, [self.value, self.weight(self.shape[0])])
            self.value = self.node("Transpose", [self.value], perm=first)
        else:
            flat = self.constant(np.array([0, self.shape[0], -1], np.int64))
            back = self.constant(np.array([0, *self.shape], np.int64))
            self.value = self.node("Reshape", [self.value, flat])
            self.value = self.node("Add", [self.value, self.weight(self.shape[0], 1)])
            self.value = self.node("Reshape", [self.value, back])

    def activation(self):
        op = self.pick(["Relu", "Relu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "LeakyRelu", "Tanh", "Clip", "PRelu",
                        "Softplus", "Gelu", "Identity"])
        match op:
            case "Clip":
                bounds = [self.constant(np.float32(-0.5)), self.constant(np.float32(2.0))]
                self.value = self.node(op, [self.value, *bounds])
            case "PRelu":
                self.value = self.node(op, [self.value, self.weight(self.shape[0], *[1] * (len(self.shape) - 1))])
            case _:
                self.value = self.node(op, [self.value])

    def quantiser(self):
        self.quantised = True
        scale, zero = self.constant(np.float32(0.05)), self.constant(np.uint8(128))
        whole = self.node("QuantizeLinear", [self.value, scale, zero])
        self.value = self.node("DequantizeLinear", [whole, scale, zero])

    def function(self):
        """A layer in a function of the model."""
        channels = self.shape[0]
        if len(self.shape) == 1:
            inner = [helper.make_node("MatMul", ["a", "w"], ["c"], name="inner"), helper.make_node("Add", ["c", "b"], ["d"])]
            weight, bias = self.weight(channels, channels), self.weight(channels)
        else:
            ones = [1] * (len(self.shape) - 1)
            inner = [helper.make_node("Conv", ["a", "w"], ["c"], name="inner"), helper.make_node("Add", ["c", "b"], ["d"])]
            weight, bias = self.weight(channels, channels, *ones), self.weight(channels, *ones)
        inner.append(helper.make_node("Relu", ["d"], ["r"]))
        name = f"Layer{self.count}"
        opsets = [helper.make_opsetid("", 20)]
        self.functions.append(helper.make_function("local", name, ["a", "w", "b"], ["r"], inner, opsets))
        output = self.name()
        self.nodes.append(helper.make_node(name, [self.value, weight, bias], [output], domain="local", name=f"call{self.count}"))
        self.value = output

    def branch(self):
        """A layer in the branch of an If whose condition is constant."""
        before, value, self.nodes = self.nodes, self.value, []
        self.layer()
        inner, self.nodes = self.nodes, before
        taken = bool(self.draws.random() < 0.5)
        result = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        layer = helper.make_graph(inner, "branch", [], [result])
        other = self.name()
        identity = helper.make_node("Identity", [value], [other])
        plain = helper.make_graph([identity], "other", [], [helper.make_tensor_value_info(other, TensorProto.FLOAT, None)])
        then, otherwise = (layer, plain) if taken else (plain, layer)
        self.value = self.node("If", [self.constant(np.array(taken))], then_branch=then, else_branch=otherwise)

    def dead_reader(self):
        self.node("Exp", [self.value])

    def residual(self):
        shape, value = list(self.shape), self.value
        self.affine()
        self.activation()
        if self.shape == shape:
            self.value = self.node("Add", [self.value, value])

    def second_reader(self):
        """A layer's output that two nodes read."""
        value = self.value
        self.affine()
        self.value = self.node("Add", [self.value, self.node("Sigmoid", [value])])

    def build(self) -> onnx.ModelProto:
        for _ in range(int(self.draws.integers(1, 4))):
            self.pick([self.layer] * 6 + [self.function, self.branch, self.tokens, self.enlarged])()
            if self.draws.random() < 0.15:
                self.dead_reader()
            for _ in range(int(self.draws.integers(0, 3))):
                self.pick([self.affine] * 3 + [self.moved] * 2 + [self.second_reader])()
            if self.draws.random() < 0.15:
                self.quantiser()
            if self.draws.random() < 0.7:
                self.activation()
            if self.draws.random() < 0.3:
                self.residual()
        if len(self.shape) > 1 and self.draws.random() < 0.8:
            if self.draws.random() < 0.7:
                self.value = self.node("GlobalAveragePool", [self.value])
                self.shape = [self.shape[0], *[1] * (len(self.shape) - 1)]
            self.value = self.node("Flatten", [self.value])
            self.shape = [int(np.prod(self.shape))]
            if self.draws.random() < 0.7:
                self.product()
        output = self.node("Identity", [self.value], ["y"]) if self.draws.random() < 0.3 else self.value
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.input])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions)
        model.ir_version = 9
        return model


class Failed(Exception):
    """A command that failed; says which and why."""


def mxc(*arguments, code=0) -> str:
    done = subprocess.run([MXC, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise Failed(f"{arguments[0]} exits {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def fixed(package, folder, number: int, counts: collections.Counter):
    """The denoisers in the tile's integers, with freed memory filled; a tile may be too small for them, which is refused."""
    command = [MXC, "eval", package, "--data", folder / "data.npz", "--seeds", "1", "--digital", "fixed", "--quiet"]
    variables = {**os.environ, "MALLOC_PERTURB_": str(number % 255 + 1)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=variables)
    if done.returncode not in (0, 1):
        raise Failed(f"eval --digital fixed crashes with {done.returncode}: {done.stderr.strip()[-200:]}")
    counts["fixed"] += done.returncode == 0


def reference(path, x) -> np.ndarray:
    # As the graph stands: fused, onnxruntime rounds quantised values another way than its own unfused graph.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def difference(a, b) -> float:
    if a.shape != b.shape:
        return float("inf")
    apart = np.abs(a - b)
    return float(apart.max(initial=0) / max(np.abs(b).max(initial=0), 1e-30)) if np.isfinite(apart).all() else float("inf")


def close(a, b, quantised: bool) -> bool:
    """Within the tolerance; where a quantiser rounds, single elements may be a step apart."""
    if difference(a, b) <= TOLERANCE:
        return True
    return quantised and a.shape == b.shape and float(np.median(np.abs(a - b))) <= TOLERANCE * np.abs(b).max()


def check(number: int, seed: int, folder: pathlib.Path, counts: collections.Counter, kinds: list[str]):
    network = Network(np.random.default_rng([seed, number]))
    path = folder / f"{number}.onnx"
    model = network.build()
    onnx.save(model, path)
    x = network.draws.standard_normal((SAMPLES, *network.input)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    try:
        expected = reference(path, x)
    except Exception as error:  # noqa: BLE001 not a model then
        counts["no model"] += 1
        print(f"{number}: onnxruntime: {str(error)[:200]}", file=sys.stderr)
        return
    labels = network.draws.integers(0, expected.reshape(SAMPLES, -1).shape[1], SAMPLES)
    np.savez(folder / "data.npz", x=x, y=labels)
    result, package, tuned = folder / "y.npz", folder / "a.mxa", folder / "b.mxa"
    exported = folder / f"{number}.exported.onnx"

    def run(model):
        mxc("run", model, "--input", folder / "x.npz", "-o", result, "--quiet")
        return np.load(result)[model_output]

    model_output = model.graph.output[0].name
    found = run(path)
    if not close(found, expected, network.quantised):
        counts["wrong"] += 1
        print(f"{number}: run differs from onnxruntime by {difference(found, expected):.1e}")
    for kind in kinds:
        counts["cases"] += 1
        compiled = subprocess.run(
            [MXC, "compile", path, "--samples", "8", "--budget", "1000000%", "--placement", "at=*", "--denoiser", kind,
             "--sigma", "10%", "-o", package, "--quiet", "--json"],
            capture_output=True, text=True, check=False)  # fmt: skip
        if compiled.returncode != 0:
            counts["refused"] += 1
            print(f"{number} {kind}: compile refuses: {compiled.stderr.strip()[:200]}", file=sys.stderr)
            continue
        chosen = [layer["name"] for layer in json.loads(compiled.stdout)["layers"] if layer["chosen"]]
        counts["denoisers"] += len(chosen)
        try:
            mxc("finetune", package, "--data", folder / "data.npz", "--loss", "distill", "--epochs", "4", "--batch", "2",
                "--lr", "0.1", "-o", tuned, "--quiet")  # fmt: skip
            mxc("eval", tuned, "--data", folder / "data.npz", "--seeds", "1", "--quiet")
            fixed(tuned, folder, number, counts)
            own = run(tuned)
            if exported.exists():
                exported.unlink()
            mxc("export", tuned, "-o", exported, "--quiet")
            theirs = reference(exported, x)
        except Failed as error:
            counts["failed"] += 1
            print(f"{number} {kind}: {error}")
            continue
        except Exception as error:  # noqa: BLE001 onnxruntime's own
            counts["failed"] += 1
            print(f"{number} {kind}: onnxruntime of the export: {str(error)[:300]}")
            continue
        counts["moved"] += difference(own, expected) > TOLERANCE
        if not close(own, theirs, network.quantised):
            counts["wrong"] += 1
            print(f"{number} {kind}: the export differs from the package by {difference(theirs, own):.1e}; layers {chosen}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=pathlib.Path, help="write the networks here and keep them")
    arguments = parser.parse_args()
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(arguments.first, arguments.first + arguments.networks):
            try:
                check(number, arguments.seed, folder, counts, arguments.kinds.split(","))
            except Failed as error:
                counts["failed"] += 1
                print(f"{number}: {error}")
    print(f"{arguments.networks} networks, {counts['cases']} cases with {counts['denoisers']} denoised layers in all: "
          f"{counts['fixed']} of them also in the tile's integers; {counts['wrong']} wrong, {counts['failed']} failed, {counts['refused']} refused by compile, "
          f"{counts['no model']} no model for onnxruntime; in {counts['moved']} the denoisers move the output")  # fmt: skip
    return 1 if counts["wrong"] or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
