#!/usr/bin/env python3
"""Makes the accuracy tables of docs/results.md: four example models x three noise scales x three denoisers.

For each model and scale, sigma is the smallest of SIGMAS at which the noisy model has lost 10 points on the held-out
training images; the tables' accuracies are over the full test set, mean and 95 % interval over five noise draws.
Every mxc result is kept as JSON under target/tables, and a finished one is not run again.
"""

import argparse
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target/tables"
MODELS = ("resnet20", "mobilenetv2", "densenet", "efficientnet")
SCALES = ("range", "constant", "signal")
DENOISERS = ("paper", "affine", "mean+affine")
SIGMAS = (6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 35, 40, 50, 60)
PREPROCESS = ("--mean", "0.2860", "--std", "0.3530")


def mxc(*args: str) -> str:
    """Runs mxc and returns its stdout."""
    binary = os.environ.get("MXC", str(ROOT / "target/release/mxc"))
    done = subprocess.run([binary, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def cached(path: pathlib.Path, make) -> dict:
    """The JSON in `path`, made and stored if it is not there."""
    if not path.exists():
        value = make()
        path.write_text(json.dumps(value))
    return json.loads(path.read_text())


def compile_package(model: str, scale: str, denoiser: str, sigma: float, data: str) -> pathlib.Path:
    """Compiles a package at a 4 % budget with the last 5,000 training images held out."""
    package = OUT / f"{model}.{scale}.{denoiser}.{sigma}.mxa"
    if not package.exists():
        mxc("compile", f"examples/models/{model}.onnx", "--budget", "4%", "--sigma", f"{sigma}%", "--noise-scale", scale,
            "--denoiser", denoiser, "--placement", "greedy-fill", "--data", data, "--holdout", "5000", *PREPROCESS,
            "-o", package, "--quiet")
    return package


def choose_sigma(model: str, scale: str, data: str) -> tuple[float, dict]:
    """The smallest sigma that costs 10 points on held-out images, and the accuracies met on the way."""

    def sweep() -> dict:
        package = compile_package(model, scale, "affine", 6, data)
        seen = {}
        for sigma in SIGMAS:
            report = json.loads(mxc("eval", package, "--data", data, "--split", "holdout", "--sigma", f"{sigma}%",
                                    "--seeds", "2", "--limit", "2000", "--json", "--quiet"))
            seen[str(sigma)] = report["noisy"]["top1"]
            if report["clean"]["top1"] - report["noisy"]["top1"] >= 10:
                break
        return {"sigma": sigma, "seen": seen}

    found = cached(OUT / f"{model}.{scale}.sigma.json", sweep)
    return found["sigma"], found["seen"]


def result(model: str, scale: str, denoiser: str, sigma: float, data: str, recipe: list[str], name: str) -> dict:
    """Fine-tunes and evaluates one row."""

    def make() -> dict:
        package = compile_package(model, scale, denoiser, sigma, data)
        tuned = OUT / f"{model}.{scale}.{denoiser}.{sigma}.{name}.tuned.mxa"
        mxc("finetune", package, "--data", data, *recipe, "-o", tuned, "--quiet")
        return json.loads(mxc("eval", tuned, "--data", data, "--json", "--quiet"))

    return cached(OUT / f"{model}.{scale}.{denoiser}.{name}.json", make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--scales", nargs="+", default=SCALES)
    parser.add_argument("--markdown", default=str(OUT / "tables.md"))
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    short = ["--limit", "10000", "--epochs", "2"]
    lines = []
    for scale in args.scales:
        lines += [f"### `--noise-scale {scale}`", "",
                  "| model | recipe | denoiser | sigma % | baseline % | noisy % | denoised % | overhead % | recovered % |",
                  "|---|---|---|---|---|---|---|---|---|"]
        for model in args.models:
            sigma, _ = choose_sigma(model, scale, args.data)
            full = model == "resnet20" and scale == "range"
            recipe, name = ([], "5 epochs, 55,000") if full else (short, "2 epochs, 10,000")
            for denoiser in DENOISERS:
                r = result(model, scale, denoiser, sigma, args.data, recipe, "full" if full else "short")
                recovered = "-" if r["recovered_percent"] is None else f"{r['recovered_percent']:.1f}"
                lines.append(
                    f"| {model} | {name} | {denoiser} | {sigma} | {r['clean']['top1']:.2f} "
                    f"| {r['noisy']['top1']:.2f} ± {r['noisy']['ci95']:.2f} "
                    f"| {r['denoised']['top1']:.2f} ± {r['denoised']['ci95']:.2f} "
                    f"| {r['parameters']['overhead_percent']:.2f} | {recovered} |")
                pathlib.Path(args.markdown).write_text("\n".join(lines) + "\n")
        lines.append("")
    six = ["### At sigma = 6 %", "", "| model | scale | clean % | noisy % |", "|---|---|---|---|"]
    for scale in args.scales:
        for model in args.models:
            package = compile_package(model, scale, "affine", 6, args.data)
            r = cached(OUT / f"{model}.{scale}.six.json",
                       lambda: json.loads(mxc("eval", package, "--data", args.data, "--json", "--quiet")))
            six.append(f"| {model} | {scale} | {r['clean']['top1']:.2f} | {r['noisy']['top1']:.2f} ± {r['noisy']['ci95']:.2f} |")
    text = "\n".join(lines + six) + "\n"
    pathlib.Path(args.markdown).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
