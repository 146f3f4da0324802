"""The Python package against the program: `package.py MODEL.onnx DATA`, in a folder with what the program made of them (see tests/wheel.rs)."""

import dataclasses
import json
import os
import pathlib
import pickle
import signal
import sys
import threading
import time
import warnings

import mxc
import numpy as np

MODEL, DATA = sys.argv[1:]
COMPILE = dict(budget=0.04, sigma="20%", mean=0.2860, std=[0.3530], samples=64)
TUNE = dict(epochs=1, limit=256)
EVALUATE = dict(seeds=2, limit=200)


def idx(split: str) -> tuple[np.ndarray, np.ndarray]:
    images = np.fromfile(f"{DATA}/{split}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    return images, np.fromfile(f"{DATA}/{split}-labels-idx1-ubyte", np.uint8)[8:]


def raises(kind: type, part: str, call, *arguments, **options) -> BaseException:
    try:
        call(*arguments, **options)
    except kind as error:
        assert part in str(error), error
        return error
    raise AssertionError(f"nothing raised {kind.__name__} with {part!r}")


# The program's bytes, from a path, from bytes and from arrays.
model_bytes = pathlib.Path("model.mxa").read_bytes()
seen: list[mxc.Progress] = []
package = mxc.compile(MODEL, data=DATA, callback=seen.append, **COMPILE)
assert package.to_bytes() == model_bytes
assert package.decided["parameters"]["denoisers"] > 0 and any(told.name == "fit-denoisers" for told in seen)
train, test = idx("train"), idx("t10k")
onnx = pathlib.Path(MODEL).read_bytes()
assert mxc.compile(mxc.Model(onnx, name=MODEL), data=train, **COMPILE).to_bytes() == model_bytes

tuned_bytes = pathlib.Path("tuned.mxa").read_bytes()
losses: list[float] = []
tuned = package.finetune(DATA, callback=lambda told: losses.append(told.loss), **TUNE)
assert tuned.to_bytes() == tuned_bytes and losses and tuned.manifest["training"]["epochs"] == 1
assert mxc.Package.from_bytes(model_bytes).finetune(train, **TUNE).to_bytes() == tuned_bytes

wanted = json.loads(pathlib.Path("eval.json").read_text())
report = tuned.evaluate(DATA, **EVALUATE)
assert report.json == wanted and report.denoised.top1 == wanted["denoised"]["top1"] and len(report.noisy.runs) == 2
assert tuned.evaluate(test, **EVALUATE) == report
batches = ([images, labels] for images, labels in zip(np.split(test[0], 8), np.split(test[1].astype(np.int64), 8)))
assert tuned.evaluate(batches, **EVALUATE) == report
parts = [tuned.evaluate_shard(DATA, shard, 3, **EVALUATE) for shard in (1, 2, 3)]
assert mxc.merge(parts) == report
raises(mxc.Error, "3/3", mxc.merge, parts[:2])
assert mxc.Package.open("tuned.mxa").to_onnx() == pathlib.Path("tuned.onnx").read_bytes()
assert pickle.loads(pickle.dumps(tuned)).to_bytes() == tuned_bytes
tuned.save("saved.mxa")
assert pathlib.Path("saved.mxa").read_bytes() == tuned_bytes
assert package.calibrate(train, samples=32).decided["closed_form"] is not None
assert package.report()["analog"]["nanojoules"] > 0

# Arrays.
images = ((test[0][:4, None].astype(np.float32) / 255) - 0.2860) / 0.3530
logits = tuned.run(images)
assert logits.shape == (4, 10) and logits.dtype == np.float32
session = tuned.session()
assert np.array_equal(session.run({"x": images[:, :, ::1]}), logits) and np.array_equal(session.run(images.astype(np.float64)), logits)


class Foreign:
    """An array of another library."""

    def __dlpack__(self, **options):
        return images.__dlpack__(**options)

    def __dlpack_device__(self):
        return images.__dlpack_device__()


assert np.array_equal(session.run(Foreign()), logits)
raises(TypeError, "is of complex64", session.run, images.astype(np.complex64))
raises(mxc.Error, "has shape", session.run, images[0])
raises(ValueError, "4 samples but 3 labels", tuned.evaluate, (images, np.arange(3)))
raises(TypeError, "classes, integers from 0", tuned.evaluate, (images, np.zeros(4)))

# MLIR.
model = mxc.Model(MODEL)
assert model.describe()["inputs"][0]["shape"] == [None, 1, 28, 28] and "tosa.conv2d" in model.ir
assert "analog.conv2d" in model.lower("analog") and "denoise" in tuned.ir
mapped, weights = mxc.run_passes(model.ir, "canonicalize-graph,map-to-analog", weights=model.weights())
assert "analog.conv2d" in mapped and sum(map(np.size, weights.values())) > 250_000
raises(mxc.Error, "they are not in the IR", mxc.run_passes, model.ir, "canonicalize-graph")
assert any(found["name"] == "map-to-analog" for found in mxc.passes())
assert np.array_equal(model.session().run(images), session.run(images)) is False

# Noise and costs of the caller's own.
mxc.register_noise("py_telegraph", lambda words: words[:, 0] < 2**30, mean=0.25, variance=0.1875)
raises(mxc.OptionError, "says a mean of 1", mxc.register_noise, "py_off", lambda words: words[:, 0] < 2**30, mean=1, variance=0.1875)
noisy = package.evaluate(DATA, noise="py_telegraph(scale=40%)", seeds=1, limit=100, threads=2)
assert noisy == package.evaluate(DATA, noise="py_telegraph(scale=40%)", seeds=1, limit=100, threads=1) and noisy.noisy.top1 < noisy.clean.top1
half = mxc.Costs("half", lambda layer, cost: dataclasses.replace(cost, picojoules=cost.picojoules / (2 if layer.tiles else 1)))
assert abs(package.report(costs=half)["analog"]["nanojoules"] * 2 / package.report()["analog"]["nanojoules"] - 1) < 1e-9

# Errors.
error = raises(mxc.OptionError, "--budgt", mxc.compile, MODEL, budgt=0.04)
assert error.kind == "option" and isinstance(error, ValueError)
assert raises(mxc.Error, "none.onnx", mxc.compile, "none.onnx").kind == "import"
assert raises(mxc.Error, "export it again", mxc.compile, b"no model").hint
assert raises(mxc.Error, "fuse", mxc.run_passes, model.ir, "fuse").kind == "pass"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    mxc.compile(MODEL, samples=2)
assert any(issubclass(one.category, mxc.MxcWarning) for one in caught)

# A callback stops a call, and what it raises is raised.
raises(mxc.Cancelled, "cancelled", mxc.compile, MODEL, data=DATA, callback=lambda told: False, **COMPILE)
stopped = raises(
    mxc.Cancelled, "stopped at step 2", package.finetune, DATA, callback=lambda told: told.done < 2, checkpoint="state", **TUNE
)
assert stopped.kind == "stopped"
assert package.finetune(DATA, checkpoint="state", resume=True, **TUNE).to_bytes() == tuned_bytes


def fails(told: mxc.Progress) -> None:
    raise ZeroDivisionError("in the callback")


raises(ZeroDivisionError, "in the callback", tuned.evaluate, DATA, callback=fails, **EVALUATE)

# Ctrl-C ends a call soon, and other threads run meanwhile. A shell's background jobs inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
turns = 0
ended = threading.Event()


def turn() -> None:
    global turns
    while not ended.is_set():
        turns += 1
        time.sleep(0.001)


def interrupt(told: mxc.Progress) -> None:
    if told.done:
        os.kill(os.getpid(), signal.SIGINT)


other = threading.Thread(target=turn, daemon=True)
other.start()
raises(KeyboardInterrupt, "", tuned.evaluate, DATA, seeds=200, callback=interrupt)
before = turns
tuned.evaluate(DATA, **EVALUATE)
ended.set()
other.join()
assert turns > before, "the other thread stood still"

try:
    import torch
except ImportError:
    print("all but torch")
else:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 13 * 13, 10)
    ).eval()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(images), torch.arange(4)), batch_size=3
    )
    compiled = mxc.compile(network, data=loader, example=torch.zeros(1, 1, 28, 28), samples=4, sigma=0.05)
    given = torch.from_numpy(images)
    clean = mxc.Model(network, example=given).session().run(given)
    assert np.abs(clean - network(given).detach().numpy()).max() < 1e-4
    assert compiled.evaluate(loader, seeds=1).samples == 4
    print("all")
