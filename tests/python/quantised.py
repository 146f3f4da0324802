"""The example networks quantised by onnxruntime's `quantize_static`, both ways, through mxc: values, layers, training.

    quantised.py MXC MODELS FOLDER

Prints a line per file; exits 1 if one is not what it should be. Expected of each: `mxc run` gives onnxruntime's values (of the
graph as it stands, without fusions) up to quantisation steps that a rounding flips; as many analog layers of the same channels
as the float network; `finetune` and `export` work, and the exported file computes what the package does.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

MXC, MODELS, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
SAMPLES = 16


class Reader(CalibrationDataReader):
    """A few random batches."""

    def __init__(self, name, shape):
        draws = np.random.default_rng(0)
        self.batches = iter([{name: draws.standard_normal((8, *shape)).astype(np.float32)} for _ in range(2)])

    def get_next(self):
        return next(self.batches, None)


def mxc(*arguments) -> str:
    done = subprocess.run([MXC, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mxc {arguments[0]} exits {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def session(path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model, name, x) -> np.ndarray:
    np.savez(FOLDER / "x.npz", **{name: x})
    mxc("run", model, "--input", FOLDER / "x.npz", "-o", FOLDER / "y.npz", "--quiet")
    return next(iter(np.load(FOLDER / "y.npz").values()))


def layers(model, package) -> list:
    text = mxc("compile", model, "--samples", "8", "--budget", "8%", "--placement", "greedy-fill", "--denoiser",
               "mean+affine", "-o", package, "--quiet", "--json")  # fmt: skip
    return sorted(layer["channels"] for layer in json.loads(text)["layers"])


def check(float_model: pathlib.Path, quantised: pathlib.Path, name: str, shape: list) -> str:
    """What is wrong, or nothing."""
    x = np.random.default_rng(1).standard_normal((SAMPLES, *shape)).astype(np.float32)
    expected = session(quantised).run(None, {name: x})[0]
    found = run(quantised, name, x)
    largest = np.abs(expected).max()
    apart = np.abs(found - expected) / largest
    # One flipped step of an 8-bit value somewhere inside moves logits by about a percent; it must be rare and small.
    near = float((apart <= 1e-3).mean())
    told = f"{near:.0%} of the logits within 1e-3, the largest difference {apart.max():.1e}"
    same = (found.argmax(1) == expected.argmax(1)).mean()
    if same < 0.9 or apart.max() > 0.1 or np.median(apart) > 0.02:
        return f"{told}, {same:.0%} of the classes"
    package = FOLDER / "a.mxa"
    own, theirs = layers(quantised, package), layers(float_model, FOLDER / "float.mxa")
    if own != theirs:
        return f"{len(own)} analog layers, the float network has {len(theirs)}"
    layers(quantised, package)
    np.savez(FOLDER / "data.npz", x=x)
    before = run(package, name, x)
    mxc("finetune", package, "--data", FOLDER / "data.npz", "--recipe", "cosine", "--loss", "distill", "--epochs", "1", "--batch", "8", "--lr", "0.02",
        "-o", FOLDER / "b.mxa", "--quiet")  # fmt: skip
    after = run(FOLDER / "b.mxa", name, x)
    if np.array_equal(before, after):
        return "a step of fine-tuning changes nothing: no gradient gets through"
    mxc("export", FOLDER / "b.mxa", "-o", FOLDER / "e.onnx", "--quiet")
    exported = session(FOLDER / "e.onnx").run(None, {name: x})[0]
    apart = np.abs(exported - after) / np.abs(after).max()
    if np.median(apart) > 0.02 or (exported.argmax(1) == after.argmax(1)).mean() < 0.9:
        return f"the export differs from the package by {apart.max():.1e}"
    print(f"{quantised.name}: {told}; {len(own)} layers; export within {apart.max():.1e}")
    return ""


def main() -> int:
    failed = 0
    for model in ("resnet20", "mobilenetv2", "densenet", "efficientnet"):
        path = MODELS / f"{model}.onnx"
        given = session(path).get_inputs()[0]
        for form in (QuantFormat.QDQ, QuantFormat.QOperator):
            for per_channel in (False, True):
                quantised = FOLDER / f"{model}-{form.name}{'-channels' if per_channel else ''}.onnx"
                reader = Reader(given.name, given.shape[1:])
                quantize_static(str(path), str(quantised), reader, quant_format=form, per_channel=per_channel,
                                weight_type=QuantType.QInt8)  # fmt: skip
                wrong = check(path, quantised, given.name, given.shape[1:])
                if wrong:
                    failed += 1
                    print(f"{quantised.name}: WRONG: {wrong}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
