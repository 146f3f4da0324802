#!/usr/bin/env python3
"""Makes the accuracy tables of docs/results.md: four example models x three noise scales x three denoisers.

For each model and scale, sigma is the smallest of SIGMAS at which the noisy model has lost 11 points on 2,000 held-out
training images (11, so that it is 10 on the test set too, which takes no part in the choice). The tables' accuracies
are over the full test set, mean and 95 % interval over five noise draws. Every mxc result is kept as JSON under
target/tables, and a finished one is not run again.
"""

import argparse
import contextlib
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
DROP = 11
ONLY_CACHED = False
# Name, in the table and in the files; options of `mxc finetune`.
SHORT = ("2 epochs, 10,000", "short", ("--limit", "10000", "--epochs", "2"))
FULL = ("5 epochs, 55,000", "full", ())
DISTILL = ("distill, 5 epochs, 55,000", "distill", ("--loss", "distill", "--lr", "0.03"))
HEADER = ("model", "recipe", "denoiser", "σ %", "baseline %", "noisy %", "denoised %", "denoised, no noise %", "overhead %",
          "recovered %")
PREPROCESS = ("--mean", "0.2860", "--std", "0.3530")


def mxc(*args: str) -> str:
    """Runs mxc and returns its stdout."""
    binary = os.environ.get("MXC", str(ROOT / "target/release/mxc"))
    done = subprocess.run([binary, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def cached(path: pathlib.Path, make) -> dict:
    """The JSON in `path`, made and stored if it is not there. With `--cached` that is a LookupError."""
    if not path.exists():
        if ONLY_CACHED:
            raise LookupError(path)
        value = make()
        path.write_text(json.dumps(value))
    return json.loads(path.read_text())


def compile_package(model: str, scale: str, denoiser: str, sigma: float, data: str) -> pathlib.Path:
    """Compiles a package at a 4 % budget with the last 5,000 training images held out."""
    package = OUT / f"{model}.{scale}.{denoiser}.{sigma}.mxa"
    if not package.exists():
        mxc("compile", f"examples/models/{model}.onnx", "--budget", "4%", "--sigma", f"{sigma}%", "--noise-scale", scale,
            "--recipe", "paper", "--denoiser", denoiser, "--placement", "greedy-fill", "--data", data, "--holdout", "5000",
            *PREPROCESS, "-o", package, "--quiet")
    return package


def kinds(package: pathlib.Path) -> set[str]:
    """The denoisers in a package."""
    layers = json.loads(mxc("inspect", package, "--json"))["placement"]["layers"]
    return {kind for layer in layers for kind in layer["denoisers"]}


def choose_sigma(model: str, scale: str, data: str) -> tuple[float, dict]:
    """The smallest sigma that costs DROP points on held-out images, and the accuracies met on the way."""

    def sweep() -> dict:
        package = compile_package(model, scale, "affine", 6, data)
        seen = {}
        for sigma in SIGMAS:
            report = json.loads(mxc("eval", package, "--data", data, "--split", "holdout", "--sigma", f"{sigma}%",
                                    "--seeds", "2", "--limit", "2000", "--json", "--quiet"))
            seen[str(sigma)] = report["noisy"]["top1"]
            if report["clean"]["top1"] - report["noisy"]["top1"] >= DROP:
                break
        return {"sigma": sigma, "seen": seen}

    found = cached(OUT / f"{model}.{scale}.sigma.json", sweep)
    return found["sigma"], found["seen"]


def result(model: str, scale: str, denoiser: str, sigma: float, data: str, recipe: tuple) -> dict:
    """Fine-tunes and evaluates one row."""
    _, name, options = recipe
    if denoiser == "mean+affine" and "mean" not in kinds(compile_package(model, scale, denoiser, sigma, data)):
        # The affines left no room for a block: it is the network of `affine`.
        denoiser = "affine"

    def make() -> dict:
        package = compile_package(model, scale, denoiser, sigma, data)
        tuned = OUT / f"{model}.{scale}.{denoiser}.{sigma}.{name}.tuned.mxa"
        schedule = "paper" if denoiser == "paper" else "cosine"
        mxc("finetune", package, "--data", data, "--recipe", schedule, *options, "-o", tuned, "--quiet")
        return json.loads(mxc("eval", tuned, "--data", data, "--json", "--quiet"))

    return cached(OUT / f"{model}.{scale}.{denoiser}.{name}.json", make)


def row(model: str, denoiser: str, sigma: float, recipe: tuple, r: dict) -> str:
    recovered = "-" if r["recovered_percent"] is None else f"{r['recovered_percent']:.1f}"
    return (f"| {model} | {recipe[0]} | {denoiser} | {sigma} | {r['clean']['top1']:.2f} "
            f"| {r['noisy']['top1']:.2f} ± {r['noisy']['ci95']:.2f} | {r['denoised']['top1']:.2f} ± {r['denoised']['ci95']:.2f} "
            f"| {r['clean_denoised']['top1']:.2f} | {r['parameters']['overhead_percent']:.2f} | {recovered} |")


def plan(scale: str, model: str) -> list[tuple]:
    """The rows of a model: recipe and denoiser."""
    full = model == "resnet20" and scale == "range"
    rows = [(FULL if full else SHORT, denoiser) for denoiser in DENOISERS]
    if scale == "range" and not full:
        rows.append((FULL, "mean+affine"))
    # The best of them once more, towards the clean network's outputs.
    return rows if scale == "signal" else [*rows, (DISTILL, "mean+affine")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--scales", nargs="+", default=SCALES)
    parser.add_argument("--markdown", default=str(OUT / "tables.md"))
    parser.add_argument("--cached", action="store_true", help="print what there is and run nothing")
    args = parser.parse_args()
    global ONLY_CACHED
    ONLY_CACHED = args.cached
    OUT.mkdir(parents=True, exist_ok=True)
    text = ""
    for scale in args.scales:
        lines = [f"### `--noise-scale {scale}`", "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
        for model in args.models:
            sigma, _ = choose_sigma(model, scale, args.data)
            for recipe, denoiser in plan(scale, model):
                with contextlib.suppress(LookupError):
                    r = result(model, scale, denoiser, sigma, args.data, recipe)
                    lines.append(row(model, denoiser, sigma, recipe, r))
        text += "\n".join(lines) + "\n\n"
        pathlib.Path(args.markdown).write_text(text)
    six = ["### At σ = 6 %", "", f"| model | clean % | {' | '.join(f'noisy %, `{scale}`' for scale in args.scales)} |",
           "|---" * (2 + len(args.scales)) + "|"]
    for model in args.models:
        clean, cells = "-", []
        for scale in args.scales:
            with contextlib.suppress(LookupError):
                package = compile_package(model, scale, "affine", 6, args.data)
                r = cached(OUT / f"{model}.{scale}.six.json",
                           lambda: json.loads(mxc("eval", package, "--data", args.data, "--json", "--quiet")))
                clean = f"{r['clean']['top1']:.2f}"
                cells.append(f"{r['noisy']['top1']:.2f} ± {r['noisy']['ci95']:.2f}")
                continue
            cells.append("-")
        six.append(f"| {model} | {clean} | {' | '.join(cells)} |")
    text += "\n".join(six) + "\n"
    pathlib.Path(args.markdown).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
