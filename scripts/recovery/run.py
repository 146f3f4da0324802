"""Runs rows and keeps what they gave: one JSON file each, under the hash of everything that determines it."""

import contextlib
import functools
import gzip
import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

from plan import BUDGET, DROP, Network, Noise, Row

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/noise_aware.py"
# Version of what this file does with a row.
FORMAT = 2


@functools.cache
def digest(path: pathlib.Path) -> str:
    """A file's SHA-256; of a folder, the names and sizes of what is in it."""
    hash = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                hash.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
    else:
        with path.open("rb") as file:
            hash = hashlib.file_digest(file, "sha256")
    return hash.hexdigest()


def stored(path: pathlib.Path, make: Callable[[], dict] | None) -> dict | None:
    """The JSON at `path`; made and put there in one step if it is not, or None without `make`."""
    if not path.exists():
        if make is None:
            return None
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(value, indent=1) + "\n")
        part.replace(path)
    return json.loads(path.read_text())


class Runner:
    """`binary` is mxc, `python` has PyTorch (its rows are left out where it is None), `out` the folder of results."""

    def __init__(self, binary: pathlib.Path, python: pathlib.Path | None, out: pathlib.Path, threads: int) -> None:
        self.binary, self.python, self.out, self.threads = binary, python, out, threads
        self.out.mkdir(parents=True, exist_ok=True)

    def can(self, row: Row) -> bool:
        return row.method.script is None or self.python is not None

    def json(self, *command: object) -> dict:
        """What a command prints. Spinning OpenMP threads would take the machine from others."""
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            [*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        return json.loads(done.stdout or "null")

    def mxc(self, command: str, *options: object) -> dict:
        return self.json(self.binary, command, *options, "--threads", self.threads, "--quiet", "--json")

    def scratch(self) -> tempfile.TemporaryDirectory:
        """For packages and subsets, as large as they may be: beside the results, gone with the row."""
        return tempfile.TemporaryDirectory(prefix="part-", dir=self.out)

    # Keys.

    def determines(self, network: Network, noise: Noise) -> dict:
        return {
            "format": FORMAT,
            "binary": digest(self.binary),
            "model": digest(ROOT / network.model),
            "data": digest(pathlib.Path(network.data)),
            "holdout": network.holdout,
            "preprocess": network.preprocess,
            "noise": [noise.scale, noise.reference],
        }

    def path(self, folder: str, name: str, key: dict) -> pathlib.Path:
        short = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        return self.out / folder / f"{name.replace('/', '.').replace(' ', '')}.{short}.json"

    # Sigma.

    def sigma(self, network: Network, noise: Noise, run: bool) -> float | None:
        """The smallest sigma in percent that costs DROP points on held-out images; None where it is not known and not to be run."""
        key = self.determines(network, noise) | {"drop": DROP, "sigmas": noise.sigmas}

        def sweep() -> dict:
            seen = {}
            with self.scratch() as work:
                package = pathlib.Path(work) / "plain.mxa"
                data = ("--data", network.data, "--holdout", network.holdout)
                self.mxc(
                    "compile",
                    network.model,
                    *data,
                    *network.preprocess,
                    *self.noise(noise, 6),
                    "--budget",
                    "0%",
                    "--equalize",
                    "no",
                    "-o",
                    package,
                )
                for sigma in noise.sigmas:
                    report = self.mxc(
                        "eval",
                        package,
                        *data,
                        "--split",
                        "holdout",
                        "--limit",
                        "2000",
                        "--seeds",
                        "2",
                        "--sigma",
                        f"{sigma}%",
                    )
                    seen[str(sigma)] = report["noisy"]["top1"]
                    if report["clean"]["top1"] - report["noisy"]["top1"] >= DROP:
                        break
            return {"key": key, "sigma": sigma, "clean": report["clean"]["top1"], "seen": seen}

        found = stored(self.path("sigma", f"{network.name}.{noise.name}", key), sweep if run else None)
        return found and found["sigma"]

    @staticmethod
    def noise(noise: Noise, sigma: float) -> tuple[str, ...]:
        return ("--sigma", f"{sigma}%", "--noise-scale", noise.scale, "--noise-reference", noise.reference)

    # Rows.

    def result(self, row: Row, run: bool = False) -> dict | None:
        """The row's record; None where there is none and it is not to be run."""
        sigma = row.sigma if row.sigma is not None else self.sigma(row.network, row.noise, run)
        if sigma is None:
            return None
        method = row.method
        key = self.determines(row.network, row.noise) | {
            "images": row.images,
            "seed": row.seed,
            "sigma": sigma,
            "draws": row.network.draws,
            "compile": method.compile,
            "finetune": method.finetune,
            "script": method.script and [method.script, digest(SCRIPT), digest(SCRIPT.parent / "analog.py")],
        }

        def make() -> dict:
            begin = time.monotonic()
            with self.scratch() as work, self.images(row) as data:
                how = self.scripted if method.script else self.compiled
                record = how(row, sigma, data, pathlib.Path(work))
            return {
                "row": row.name,
                "sigma": sigma,
                "seconds": round(time.monotonic() - begin, 1),
                **record,
                "key": key,
            }

        return stored(self.path("runs", row.name, key), make if run else None)

    def compiled(self, row: Row, sigma: float, data: tuple, work: pathlib.Path) -> dict:
        """Compile, train, evaluate."""
        method, package = row.method, work / "package.mxa"
        budget = () if "--budget" in method.compile else ("--budget", BUDGET)
        common = (row.network.model, *data, *row.network.preprocess, *self.noise(row.noise, sigma))
        compiled = self.mxc(
            "compile",
            *common,
            *budget,
            *method.compile,
            "--seed",
            row.seed,
            "-o",
            package,
        )
        if method.finetune is not None:
            tuned = work / "tuned.mxa"
            self.mxc("finetune", package, *data, *method.finetune, "--seed", row.seed, "-o", tuned)
            package = tuned
        report = self.evaluate(row, package)
        return {
            **report,
            "parameters": compiled["parameters"],
            "ranges": compiled["ranges"],
            "closed_form": compiled["closed_form"],
        }

    def scripted(self, row: Row, sigma: float, data: tuple, work: pathlib.Path) -> dict:
        """The PyTorch script. A network that it has trained as a whole is evaluated as any other, by mxc."""
        whole, trained = row.method.script == "whole", work / "trained.onnx"
        record = self.json(
            self.python,
            SCRIPT,
            row.network.model,
            *data,
            *row.network.preprocess,
            "--method",
            row.method.script,
            "--budget",
            BUDGET.rstrip("%"),
            "--sigma",
            sigma,
            "--noise-scale",
            row.noise.scale,
            "--noise-reference",
            row.noise.reference,
            "--samples",
            min(row.images or 512, 512),
            "--seed",
            row.seed,
            "--seeds",
            0 if whole else row.network.draws,
            "--threads",
            self.threads,
            "--quiet",
            "-o",
            trained,
        )
        if not whole:
            return record
        reports = []
        for model, equalize in ((row.network.model, "no"), (trained, "yes")):
            package = work / "plain.mxa"
            common = (model, *data, *row.network.preprocess, *self.noise(row.noise, sigma))
            compiled = self.mxc(
                "compile", *common, "--budget", "0%", "--equalize", equalize, "--seed", row.seed, "-o", package
            )
            reports.append(self.evaluate(row, package) | {"parameters": compiled["parameters"]})
        before, after = reports
        return {
            **before,
            "denoised": after["noisy"],
            "clean_denoised": after["clean"],
            "parameters": before["parameters"],
            "recovered_percent": recovered(before | {"denoised": after["noisy"]}),
            # The trained network behind equalized converter ranges.
            "with_scales": {"denoised": after["denoised"], "parameters": after["parameters"]},
        }

    def evaluate(self, row: Row, package: pathlib.Path) -> dict:
        """On the test split; the draws are the same for every row."""
        return self.mxc("eval", package, "--data", row.network.data, "--seeds", row.network.draws)

    @contextlib.contextmanager
    def images(self, row: Row) -> Iterator[tuple]:
        """Options for the training images: a folder of the row's images alone, drawn by its seed, so that nothing sees more."""
        source = pathlib.Path(row.network.data)
        if row.images is None:
            yield "--data", source, "--holdout", row.network.holdout
            return
        with self.scratch() as folder:
            folder = pathlib.Path(folder)
            if (source / "train").is_dir():
                yield "--data", folder, "--classes", subset_of_folders(source, folder, row)
            else:
                subset_of_idx(source, folder, row)
                yield "--data", folder


def recovered(report: dict) -> float | None:
    """Percent of the drop; None where nothing was lost."""
    clean, noisy, denoised = (report[name]["top1"] for name in ("clean", "noisy", "denoised"))
    return 100 * (denoised - noisy) / (clean - noisy) if clean > noisy else None


def subset_of_idx(source: pathlib.Path, folder: pathlib.Path, row: Row) -> None:
    """Copies the chosen training images and labels, and links the test images."""
    picked = None
    for kind in ("images-idx3", "labels-idx1"):
        path = next(source.glob(f"train-{kind}-ubyte*"))
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            raw = file.read()
        rank = raw[3]
        sizes = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        values, each = memoryview(raw)[4 + 4 * rank :], (len(raw) - 4 - 4 * rank) // sizes[0]
        picked = picked or draw(sizes[0] - row.network.holdout, row)
        header = raw[:4] + struct.pack(f">{rank}I", len(picked), *sizes[1:])
        (folder / f"train-{kind}-ubyte").write_bytes(
            header + b"".join(values[each * i : each * (i + 1)] for i in picked)
        )
    for path in (*source.glob("t10k-*"), *source.glob("test-*")):
        (folder / path.name).symlink_to(path.resolve())


def subset_of_folders(source: pathlib.Path, folder: pathlib.Path, row: Row) -> pathlib.Path:
    """Links the chosen training images and the test images; the file that names all classes, some of which have no image now."""
    files = sorted(path for path in (source / "train").glob("*/*") if path.is_file())
    for i in draw(len(files), row):
        (folder / "train" / files[i].parent.name).mkdir(parents=True, exist_ok=True)
        (folder / "train" / files[i].parent.name / files[i].name).symlink_to(files[i].resolve())
    for path in source.iterdir():
        if path.is_dir() and path.name != "train":
            (folder / path.name).symlink_to(path.resolve())
    classes = folder / "classes.txt"
    classes.write_text("".join(f"{path.name}\n" for path in sorted((source / "train").iterdir()) if path.is_dir()))
    return classes


def draw(count: int, row: Row) -> list[int]:
    """Fewer images are some of the more."""
    order = list(range(count))
    random.Random(row.seed).shuffle(order)
    if row.images > count:
        raise SystemExit(f"{row.name}: there are only {count} training images")
    return order[: row.images]
