#!/usr/bin/env python3
"""Where denoisers go, in closed form alone: the placements of `mxc compile` at equal budgets on the four example networks.

For every network, budget and placement three seeds draw the calibration samples and the noise. Printed are the mean share of the drop
that is recovered on 3,000 held-out images with its 95 % interval over the seeds (Student's t), and the accuracy without noise.
Results are kept in target/placement.json and not measured again.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / "target/placement.json"
# The sigma that costs each network about ten points.
SIGMA = {"resnet20": "26%", "mobilenetv2": "14%", "densenet": "26%", "efficientnet": "12%"}
PLACEMENTS = {
    "worth, any": ("worth", "any"),
    "worth, mean+affine": ("worth", "mean+affine"),
    "greedy-fill, mean+affine": ("greedy-fill", "mean+affine"),
    "greedy, mean+affine": ("greedy", "mean+affine"),
    "first, mean+affine": ("first", "mean+affine"),
    "last, mean+affine": ("last", "mean+affine"),
    "random, mean+affine": ("random", "mean+affine"),
}
# Student's t, 97.5 %, by degrees of freedom.
T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}


def run(*command: object) -> dict:
    done = subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(mxc: str, data: str, model: str, budget: str, placement: str, seed: int) -> list[float]:
    """Recovered percent, accuracy without noise, overhead percent."""
    strategy, denoiser = PLACEMENTS[placement]
    package = ROOT / "target/placement.mxa"
    run(mxc, "compile", f"examples/models/{model}.onnx", "--data", data, "--mean", "0.2860", "--std", "0.3530", "--holdout", 5000,
        "--sigma", SIGMA[model], "--budget", budget, "--placement", strategy, "--denoiser", denoiser, "--seed", seed,
        "-o", package, "--quiet", "--json")
    report = run(mxc, "eval", package, "--data", data, "--split", "holdout", "--limit", 3000, "--seeds", 1, "--seed", seed,
                 "--quiet", "--json")
    return [report["recovered_percent"], report["clean_denoised"]["top1"], report["parameters"]["overhead_percent"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mxc", default=os.environ.get("MXC", "target/release/mxc"))
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--budgets", nargs="+", default=("1%", "4%"))
    parser.add_argument("--placements", nargs="+", choices=PLACEMENTS, default=tuple(PLACEMENTS))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    KEPT.parent.mkdir(exist_ok=True)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    print("| budget | placement, denoiser | " + " | ".join(SIGMA) + " |")
    print("|---|---|" + "---|" * len(SIGMA))
    for budget in args.budgets:
        for placement in args.placements:
            cells = []
            for model in SIGMA:
                rows = []
                for seed in range(args.seeds):
                    key = f"{model} {budget} {placement} {seed}"
                    if key not in kept:
                        kept[key] = measure(args.mxc, args.data, model, budget, placement, seed)
                        KEPT.write_text(json.dumps(kept, indent=1))
                    rows.append(kept[key])
                recovered, quiet, _ = map(list, zip(*rows))
                spread = T.get(len(recovered) - 1, 2.0) * statistics.stdev(recovered) / len(recovered) ** 0.5 if len(recovered) > 1 else 0
                cells.append(f"{statistics.mean(recovered):.1f} ± {spread:.1f} ({statistics.mean(quiet):.2f})")
            print(f"| {budget} | {placement} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
