#!/usr/bin/env python3
"""How much of the processor's peak every convolution of noisy evaluation reaches, on one thread of an idle machine.

    examples/.venv/bin/python benches/convolutions.py target/bench/resnet20.mean+affine.mxa --data /usr/share/datasets/fashion-mnist

runs `mxc eval` with oneDNN's profile and prints, for every shape, its share of the time in convolutions, the median of its calls as
GFLOP/s, and that as a share of the peak: the fastest of PyTorch's f32 products of 1024 x 1024 matrices on one thread. Depthwise
convolutions are mxc's own kernels and not among them.
"""

import argparse
import collections
import math
import os
import pathlib
import re
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = "{:>6} {:>6} {:>4} {:>4} {:>9} {:>8} {:>8} {:>7}"


def peak() -> float:
    """GFLOP/s."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


def calls(mxc: str, package: str, data: str, limit: int) -> dict[str, list[float]]:
    """By problem, the milliseconds of each forward convolution."""
    command = [mxc, "eval", package, "--data", data, "--seeds", "1", "--limit", limit, "--threads", "1", "--quiet"]
    environment = os.environ | {"ONEDNN_VERBOSE": "profile_exec"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = collections.defaultdict(list)
    for line in done.stdout.splitlines():
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "convolution" in fields and any(f.startswith("forward") for f in fields):
            found[fields[-2]].append(float(fields[-1]))
    return found


def sizes(problem: str) -> dict[str, int]:
    """`mb1_ic16oc32_ih28oh14kh3…` by name."""
    return {name: int(size) for name, size in re.findall(r"([a-z]+)(\d+)", problem)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=64, help="images")
    parser.add_argument("--mxc", default=os.environ.get("MXC", "target/release/mxc"))
    args = parser.parse_args()
    found, best = calls(args.mxc, args.package, args.data, args.limit), peak()
    total = sum(map(sum, found.values()))
    print(f"peak {best:.1f} GFLOP/s; {100:.0f} % are {total / 1e3:.2f} s")
    print(ROW.format("in", "out", "k", "s", "pixels", "time %", "GFLOP/s", "peak %"))
    done = spent = 0.0
    for problem, times in sorted(found.items(), key=lambda item: -sum(item[1])):
        n = sizes(problem)
        flops = 2 * n["mb"] * n["oc"] * n["oh"] * n["ow"] * n["ic"] // n.get("g", 1) * n["kh"] * n["kw"] / 1e9
        rate = flops / (statistics.median(times) / 1e3)
        done, spent = done + flops * len(times), spent + sum(times) / 1e3
        share, speed, of = f"{sum(times) / 10 / total * 1e3:.1f}", f"{rate:.1f}", f"{100 * rate / best:.0f}"
        print(ROW.format(n["ic"], n["oc"], n["kh"], n["sh"], f"{n['oh']}x{n['ow']}", share, speed, of))
    print(f"all: {done / spent:.1f} GFLOP/s, {100 * done / spent / best:.0f} % of the peak")


if __name__ == "__main__":
    main()
