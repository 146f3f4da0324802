#!/usr/bin/env python3
"""Takes every exported full-size network through the whole pipeline and writes docs/models.md.

Per file: `mxc run` against onnxruntime, `mxc compile` at 4 % on 32 calibration samples (time, peak memory), one `mxc
finetune` step, `mxc export` and the result in onnxruntime again. Per network: whether all its exports give the same
parameters and ranking. Of the onnx package's light models, whose weights are all fills: `mxc run` against onnxruntime and
`mxc compile --emit graph`. Finished files are kept in OUT/results.json and not run again.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort

from export import FOUR, NAMES

ROOT = pathlib.Path(__file__).resolve().parents[2]
MXC = os.environ.get("MXC", str(ROOT / "target/release/mxc"))
# Calibration samples.
SAMPLES = 32
# Stands for the exporter in a light model's name.
LIGHT = "light"
# The paper's Table I: parameter overhead in percent at a budget of 4 %.
PAPER = {"resnet18": 0.6, "mobilenetv2": 3.2, "efficientnet_b0": 2.13, "densenet121": 3.48}


def mxc(*args) -> dict:
    """Runs mxc; its stdout, stderr, seconds and peak memory in MiB. Raises with mxc's own message if it fails."""
    # A child counts its parent's memory as its own peak: a small process starts it.
    launcher = """if True:
        import resource, subprocess, sys, time
        start = time.monotonic()
        code = subprocess.run(sys.argv[1:]).returncode
        print("", time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
        sys.exit(code)"""
    command = [sys.executable, "-S", "-c", launcher, MXC, *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    err, _, usage = done.stderr.rstrip().rpartition("\n")
    if done.returncode != 0:
        raise RuntimeError(f"mxc {args[0]} exits {done.returncode}: {err.strip()[-600:]}")
    seconds, kib = usage.split()
    return {"stdout": done.stdout, "stderr": err, "seconds": float(seconds), "mib": int(kib) / 1024}


def step_seconds(stderr: str) -> dict:
    """What `--timing` printed: seconds by step."""
    rows = (line.removeprefix("//").split() for line in stderr.splitlines() if line.startswith("//"))
    return {row[1]: float(row[0]) for row in rows if row[0] != "seconds"}


def session(path: pathlib.Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def check(path: pathlib.Path, work: pathlib.Path) -> dict:
    """One exported file through everything."""
    network = path.name.split(".")[0]
    size = int(network.rsplit("-", 1)[1])
    classes = 1000 if size == 224 else 10
    rng = np.random.default_rng(0)
    images = rng.standard_normal((SAMPLES, 3, size, size), dtype=np.float32)
    few = images[:4]
    inputs, data, outputs = work / "in.npz", work / "data.npz", work / "out.npz"
    np.savez(inputs, input=few)
    np.savez(data, x=images, y=rng.integers(0, classes, SAMPLES))
    # What onnxruntime cannot read has the weights of the other exports.
    reference = path if path.suffix == ".onnx" else path.with_name(f"{network}.torchscript.onnx")
    want = session(reference).run(None, {"input": few})[0]
    only = lambda: next(iter(np.load(outputs).values()))
    mxc("run", path, "--input", inputs, "-o", outputs)
    stored = path.stat().st_size + sum(data.stat().st_size for data in path.parent.glob(f"{path.name}.data"))
    result = {"bytes": stored, "error": difference(only(), want)}

    package, tuned, back = work / "net.mxa", work / "net.tuned.mxa", work / "back.onnx"
    compiling = ("compile", path, "--budget", "4%", "--data", data, "--samples", SAMPLES, "--timing", "--json", "-o", package)
    done = mxc(*compiling)
    report = json.loads(done["stdout"])
    steps = step_seconds(done["stderr"])
    result |= {"compile_s": done["seconds"], "compile_mib": done["mib"], "parameters": report["parameters"]}
    result["ir_s"] = steps["total"] - steps["rank-sensitivity"]
    result["fill"] = json.loads(mxc(*compiling, "--placement", "greedy-fill")["stdout"])["parameters"]
    mxc(*compiling, "--denoiser", "mean+affine", "--placement", "greedy-fill")
    result["ranking"] = [[layer["channels"], layer["gradient_norm"]] for layer in report["layers"]]

    mxc("finetune", package, "--data", data, "--epochs", 1, "--limit", 4, "--batch", 4, "-o", tuned)
    if path.suffix == ".mlir":
        # There is no ONNX file to put the denoisers into.
        return result
    mxc("run", tuned, "--input", inputs, "-o", outputs)
    mxc("export", tuned, "-o", back)
    loaded = session(back)
    exported = loaded.run(None, {loaded.get_inputs()[0].name: few})[0]
    result["export_error"] = difference(only(), exported)
    result["trained_moves"] = difference(exported, want)
    return result


def check_light(path: pathlib.Path, work: pathlib.Path) -> dict:
    """One of the onnx package's light models."""
    loaded = session(path)
    given = loaded.get_inputs()[0]
    image = np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)
    inputs, outputs = work / "in.npz", work / "out.npz"
    np.savez(inputs, **{given.name: image})
    want = loaded.run(None, {given.name: image})[0]
    mxc("run", path, "--input", inputs, "-o", outputs)
    done = mxc("compile", path, "--emit", "graph", "-o", work / "graph.mlir")
    return {"bytes": path.stat().st_size, "error": difference(next(iter(np.load(outputs).values())), want),
            "import_s": done["seconds"], "import_mib": done["mib"]}


def agree(results: list[dict]) -> bool:
    """Whether exports of one network have the same parameters and layers of the same rank, by channels and norm.

    Norms of different foldings differ in their last digits, so that neighbours whose norms agree to 1e-3 may swap.
    """
    first = results[0]
    for other in results[1:]:
        if other["parameters"] != first["parameters"] or len(other["ranking"]) != len(first["ranking"]):
            return False
        for (_, a), (_, b) in zip(first["ranking"], other["ranking"]):
            if abs(a - b) > 1e-3 * a:
                return False
    return True


def exported(r: dict) -> str:
    return f"{r['export_error']:.0e}" if "export_error" in r else "-"


def markdown(results: dict) -> str:
    lines = ["| network | export | MB | against onnxruntime | export against mxc | compile s | of it IR | peak MiB |",
             "|---|---|---|---|---|---|---|---|"]
    for name, r in sorted(results.items()):
        network, exporter = name.split(".")
        if "failed" in r:
            lines.append(f"| {network} | {exporter} | | {r['failed'].splitlines()[0]} | | | | |")
        elif exporter != LIGHT:
            lines.append(f"| {network} | {exporter} | {r['bytes'] / 1e6:.1f} | {r['error']:.0e} | {exported(r)} "
                         f"| {r['compile_s']:.1f} | {r['ir_s']:.2f} | {r['compile_mib']:.0f} |")
    lines += ["", "| light model | kB | against onnxruntime | import s | peak MiB |", "|---|---|---|---|---|"]
    for name, r in sorted(results.items()):
        network, exporter = name.split(".")
        if exporter == LIGHT and "failed" not in r:
            lines.append(f"| {network} | {r['bytes'] / 1e3:.0f} | {r['error']:.0e} | {r['import_s']:.2f} | {r['import_mib']:.0f} |")
    lines += ["", "| network | backbone parameters | denoisers, `greedy` | % | denoisers, `greedy-fill` | % | the paper's % | exports alike |",
              "|---|---|---|---|---|---|---|---|"]
    for network in NAMES:
        own = [r for name, r in results.items() if name.startswith(network + ".") and "failed" not in r]
        if not own:
            continue
        p, f = own[0]["parameters"], own[0]["fill"]
        kind, size = network.rsplit("-", 1)
        paper = PAPER.get(kind, "") if size == "224" else ""
        lines.append(f"| {network} | {p['backbone']} | {p['denoisers']} | {p['overhead_percent']:.2f} | {f['denoisers']} "
                     f"| {f['overhead_percent']:.2f} | {paper} | {'yes' if agree(own) else 'no'} ({len(own)}) |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder that export.py wrote")
    parser.add_argument("--networks", nargs="+", default=NAMES, choices=NAMES)
    args = parser.parse_args()
    store = args.out / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    work = args.out / "work"
    work.mkdir(exist_ok=True)
    exports = sorted([*args.out.glob("*.onnx"), *args.out.glob("*.mlir")])
    jobs = [(path.stem, path, check) for path in exports if path.name.split(".")[0] in args.networks]
    light = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"
    jobs += [(f"{path.stem.removeprefix('light_')}.{LIGHT}", path, check_light) for path in sorted(light.glob("*.onnx"))]
    for name, path, run in jobs:
        if "failed" not in results.get(name, {"failed": ""}):
            continue
        try:
            results[name] = run(path, work)
        except Exception as error:  # the table shows what failed, and the others go on
            results[name] = {"failed": str(error)}
        print(name, {k: v for k, v in results[name].items() if k != "ranking"}, flush=True)
        store.write_text(json.dumps(results))
    (args.out / "models.md").write_text(markdown(results))
    print(markdown(results))
    if any("failed" in r for r in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
