#!/usr/bin/env python3
"""mxc against PyTorch eager on the same work, in one run: noisy evaluation without and with denoisers, and fine-tuning steps.

For each example network, `mxc compile --denoiser mean+affine` (and `paper`) chooses the layers; the PyTorch baseline puts the
same blocks on the same layers. Runs of the two alternate, with the same batch, threads, sigma and images; the table shows
medians and their ratio. PyTorch uses channels_last where that is faster (both are tried).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target/bench"
MODELS = ("resnet20", "mobilenetv2", "densenet", "efficientnet")
KINDS = ("eval", "denoised_eval", "train")
DATA = "/usr/share/datasets/fashion-mnist"


def run(*command: str) -> dict:
    done = subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare(model: str, denoiser: str, args: argparse.Namespace) -> dict:
    """Medians of both sides for one network and denoiser."""
    package = OUT / f"{model}.{denoiser}.mxa"
    report = run(args.mxc, "compile", f"examples/models/{model}.onnx", "--data", DATA, "--mean", "0.2860", "--std", "0.3530",
                 "--sigma", "10%", "--recipe", "paper", "--denoiser", denoiser, "--placement", "greedy-fill", "-o", package, "--json", "--quiet")
    having = lambda kinds: ",".join(l["name"] for l in report["layers"] if kinds & set(l["denoisers"]))
    blocks, affines = having({"paper", "mean"}), having({"affine"})
    ours = {kind: [] for kind in KINDS}
    theirs = {channels_last: {kind: [] for kind in KINDS} for channels_last in (False, True)}
    for _ in range(args.rounds):
        r = run(args.throughput, package, DATA, args.threads, args.batch, args.images, 1)
        for kind in ours:
            ours[kind] += r[f"{kind}_images_per_s"]
        for channels_last in (False, True):
            command = [args.python, "benches/pytorch_baseline.py", "--model", model, "--sigma", "0.10", "--denoiser", denoiser,
                       "--blocks", blocks, "--affines", affines, "--batch", args.batch, "--threads", args.threads,
                       "--limit", args.images, "--runs", "1"]
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
    parser.add_argument("--denoisers", nargs="+", default=("paper", "mean+affine"))
    parser.add_argument("--mxc", default=os.environ.get("MXC", "target/release/mxc"))
    parser.add_argument("--throughput", default="target/release/examples/throughput")
    parser.add_argument("--python", default="examples/.venv/bin/python")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    print("| model | denoiser | noisy eval, mxc | PyTorch | ratio | denoised eval, mxc | PyTorch | ratio | train, mxc | PyTorch | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for model in args.models:
        for denoiser in args.denoisers:
            row = compare(model, denoiser, args)
            rows.append(row)
            cells = [f"{row[k][side]:.0f}" if side != "ratio" else f"{row[k][side]:.2f}"
                     for k in KINDS for side in ("mxc", "pytorch", "ratio")]
            print(f"| {model} | {denoiser} | " + " | ".join(cells) + " |", flush=True)
    (OUT / "compare.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
