#!/usr/bin/env python3
"""Takes every exported full-size network through the whole pipeline and writes docs/models.md.

Per file: `mxc run` against onnxruntime, `mxc compile` at 4 % (time, peak memory), one `mxc finetune` step, `mxc export`
and the result in onnxruntime again. Per network: whether all its exports give the same parameters and ranking. Finished
files are kept in OUT/results.json and not run again.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort

from export import FOUR, NAMES

ROOT = pathlib.Path(__file__).resolve().parents[2]
MXC = os.environ.get("MXC", str(ROOT / "target/release/mxc"))
# The paper's Table I: parameter overhead in percent at a budget of 4 %.
PAPER = {"resnet18": 0.6, "mobilenetv2": 3.2, "efficientnet_b0": 2.13, "densenet121": 3.48}


def mxc(*args) -> dict:
    """Runs mxc; its stdout, seconds and peak memory in MiB. Raises with mxc's own message if it fails."""
    start = time.monotonic()
    process = subprocess.Popen([MXC, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    seconds = time.monotonic() - start
    if process.returncode != 0:
        raise RuntimeError(f"mxc {args[0]} exits {process.returncode}: {err.strip()[-600:]}")
    return {"stdout": out, "stderr": err, "seconds": seconds}


def peak_mib(*args) -> float:
    """The peak resident memory of a run of mxc, measured in a process that has no other child."""
    code = (
        "import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,"
        "stderr=subprocess.DEVNULL);print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, MXC, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) / 1024


def session(path: pathlib.Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def check(path: pathlib.Path, work: pathlib.Path) -> dict:
    """One exported file through everything."""
    size = int(path.name.split(".")[0].rsplit("-", 1)[1])
    classes = 1000 if size == 224 else 10
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 3, size, size), dtype=np.float32)
    inputs, data, outputs = work / "in.npz", work / "data.npz", work / "out.npz"
    np.savez(inputs, input=images)
    np.savez(data, x=images, y=rng.integers(0, classes, 4))
    want = session(path).run(None, {"input": images})[0]
    mxc("run", path, "--input", inputs, "-o", outputs)
    result = {"bytes": path.stat().st_size, "error": difference(np.load(outputs)["logits"], want)}

    package, tuned, back = work / "net.mxa", work / "net.tuned.mxa", work / "back.onnx"
    compiling = ("compile", path, "--budget", "4%", "--data", data, "--samples", 4, "--json", "-o", package)
    done = mxc(*compiling)
    report = json.loads(done["stdout"])
    result |= {"compile_s": done["seconds"], "compile_mib": peak_mib(*compiling), "parameters": report["parameters"]}
    result["fill"] = json.loads(mxc(*compiling, "--placement", "greedy-fill")["stdout"])["parameters"]
    mxc(*compiling, "--denoiser", "mean+affine", "--placement", "greedy-fill")
    result["ranking"] = [[layer["channels"], layer["gradient_norm"]] for layer in report["layers"]]

    mxc("finetune", package, "--data", data, "--epochs", 1, "--limit", 4, "--batch", 4, "-o", tuned)
    mxc("run", tuned, "--input", inputs, "-o", outputs)
    mxc("export", tuned, "-o", back)
    exported = session(back).run(None, {"input": images})[0]
    result["export_error"] = difference(np.load(outputs)["logits"], exported)
    result["trained_moves"] = difference(exported, want)
    return result


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


def markdown(results: dict) -> str:
    lines = ["| network | export | MB | against onnxruntime | export against mxc | compile s | peak MiB |", "|---|---|---|---|---|---|---|"]
    for name, r in sorted(results.items()):
        network, exporter = name.split(".")
        if "failed" in r:
            lines.append(f"| {network} | {exporter} | | {r['failed'].splitlines()[0]} | | | |")
            continue
        lines.append(f"| {network} | {exporter} | {r['bytes'] / 1e6:.1f} | {r['error']:.0e} | {r['export_error']:.0e} "
                     f"| {r['compile_s']:.1f} | {r['compile_mib']:.0f} |")
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
    for path in sorted(args.out.glob("*.onnx")):
        name = path.name.removesuffix(".onnx")
        if name.split(".")[0] not in args.networks or "failed" not in results.get(name, {"failed": ""}):
            continue
        try:
            results[name] = check(path, work)
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
