#!/usr/bin/env python3
"""mxc against PyTorch eager on the same work, in one run: noisy evaluation without and with denoisers, and fine-tuning steps.

For each example network, `mxc compile --denoiser mean+affine` (and `paper`) chooses the layers; the PyTorch baseline puts the
same blocks on the same layers. EfficientNet-Lite0 at 224×224 is measured with `affine` and `mean+affine`, in batches of 32. Runs of the two alternate, with the same batch, threads, sigma and images; the table shows
medians and their ratio. PyTorch uses channels_last where that is faster (both are tried).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target/bench"
MODELS = ("resnet20", "mobilenetv2", "densenet", "efficientnet", "lite0")
KINDS = ("eval", "denoised_eval", "train")
DATA = "/usr/share/datasets/fashion-mnist"


@dataclasses.dataclass(frozen=True)
class Work:
    """What is measured of a network: mxc's options for its images, the data, and the baseline's options for both."""

    model: str
    data: str
    preprocessing: tuple[str, ...]
    baseline: tuple[str, ...]
    batch: int
    images: int
    denoisers: tuple[str, ...]


def work(model: str, args: argparse.Namespace) -> Work:
    if model != "lite0":
        denoisers = tuple(args.denoisers or ("paper", "mean+affine"))
        fashion = ("--mean", "0.2860", "--std", "0.3530")
        return Work(f"examples/models/{model}.onnx", DATA, fashion, ("--model", model), args.batch, args.images, denoisers)
    subprocess.run([args.python, "benches/lite0.py", OUT], cwd=ROOT, check=True)
    onnx, images = str(OUT / "lite0.onnx"), str(OUT / "lite0.npz")
    denoisers = tuple(args.denoisers or ("affine", "mean+affine"))
    return Work(onnx, images, (), ("--onnx", onnx, "--images", images), 32, 96, denoisers)


def run(*command: str) -> dict:
    done = subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare(model: str, denoiser: str, work: Work, args: argparse.Namespace) -> dict:
    """Medians of both sides for one network and denoiser."""
    package = OUT / f"{model}.{denoiser}.mxa"
    report = run(args.mxc, "compile", work.model, "--data", work.data, *work.preprocessing, "--sigma", "10%", "--recipe", "paper", "--denoiser", denoiser, "--placement", "greedy-fill", "-o", package, "--json", "--quiet")
    having = lambda kinds: ",".join(l["name"] for l in report["layers"] if kinds & set(l["denoisers"]))
    blocks, affines = having({"paper", "mean"}), having({"affine"})
    ours = {kind: [] for kind in KINDS}
    theirs = {channels_last: {kind: [] for kind in KINDS} for channels_last in (False, True)}
    for _ in range(args.rounds):
        r = run(args.throughput, package, work.data, args.threads, work.batch, work.images, 1)
        for kind in ours:
            ours[kind] += r[f"{kind}_images_per_s"]
        for channels_last in (False, True):
            command = [args.python, "benches/pytorch_baseline.py", *work.baseline, "--sigma", "0.10", "--denoiser", denoiser,
                       "--blocks", blocks or "none", "--affines", affines or "none", "--batch", work.batch, "--threads", args.threads,
                       "--limit", work.images, "--runs", "1"]
            r = run(*command, *(["--channels-last"] if channels_last else []))
            for kind in ours:
                theirs[channels_last][kind] += r[f"{kind}_images_per_s"]
    row = {"model": model, "denoiser": denoiser}
    for kind in ours:
        best = max(statistics.median(theirs[layout][kind]) for layout in theirs)
        row[kind] = {"mxc": statistics.median(ours[kind]), "pytorch": best, "ratio": statistics.median(ours[kind]) / best}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--denoisers", nargs="+", help="default: paper and mean+affine; of lite0 affine and mean+affine")
    parser.add_argument("--mxc", default=os.environ.get("MXC", "target/release/mxc"))
    parser.add_argument("--throughput", default="target/release/examples/throughput")
    parser.add_argument("--python", default="examples/.venv/bin/python")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    print("| model | denoiser | noisy eval, mxc | PyTorch | ratio | denoised eval, mxc | PyTorch | ratio | train, mxc | PyTorch | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for model in args.models:
        todo = work(model, args)
        for denoiser in todo.denoisers:
            row = compare(model, denoiser, todo, args)
            rows.append(row)
            cells = [f"{row[k][side]:.{0 if row[k][side] >= 100 else 1}f}" if side != "ratio" else f"{row[k][side]:.2f}"
                     for k in KINDS for side in ("mxc", "pytorch", "ratio")]
            print(f"| {model} | {denoiser} | " + " | ".join(cells) + " |", flush=True)
    (OUT / "compare.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
