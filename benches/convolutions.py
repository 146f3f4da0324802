#!/usr/bin/env python3
"""How much of the processor's peak every convolution of noisy evaluation reaches, on one thread of an idle machine.

    examples/.venv/bin/python benches/convolutions.py target/bench/resnet20.mean+affine.mxa --data /usr/share/datasets/fashion-mnist

runs `mxc eval` with oneDNN's profile and prints, for every shape, its share of the time in convolutions, the mean of its calls as
GFLOP/s, and that as a share of the peak: the fastest of PyTorch's f32 products of 1024 x 1024 matrices, of its 3 x 3 convolutions of 64 and of
512 channels, and of these calls themselves, on one thread. Depthwise convolutions are mxc's own kernels and not among them.
"""

import argparse
import collections
import itertools
import math
import os
import pathlib
import re
import statistics
import subprocess
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = "{:>6} {:>6} {:>4} {:>4} {:>9} {:>8} {:>8} {:>7}"


def peak() -> float:
    """GFLOP/s."""
    import torch

    def rate(flops: float, work: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(20):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        return flops / best / 1e9

    def convolution(channels: int, size: int) -> float:
        x = torch.rand(1, channels, size, size).to(memory_format=torch.channels_last)
        w = torch.rand(channels, channels, 3, 3)
        return rate(2 * 9 * channels**2 * size**2, lambda: torch.nn.functional.conv2d(x, w, padding=1))

    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    return max(rate(2 * 1024**3, lambda: torch.mm(a, b)), convolution(64, 28), convolution(512, 14))


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


def flops(problem: str) -> int:
    """Without the taps that lie outside the input, which are skipped."""
    n = sizes(problem)

    def taps(axis: str) -> int:
        size, stride, dilation, pad = n[f"i{axis}"], n[f"s{axis}"], n[f"d{axis}"] + 1, n[f"p{axis}"]
        places = itertools.product(range(n[f"o{axis}"]), range(n[f"k{axis}"]))
        return sum(0 <= at * stride + tap * dilation - pad < size for at, tap in places)

    return 2 * n["mb"] * n["oc"] * n["ic"] // n.get("g", 1) * taps("h") * taps("w")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=64, help="images")
    parser.add_argument("--mxc", default=os.environ.get("MXC", "target/release/mxc"))
    args = parser.parse_args()
    found = calls(args.mxc, args.package, args.data, args.limit)
    total = sum(map(sum, found.values()))
    rates = {problem: flops(problem) / (statistics.fmean(times) * 1e6) for problem, times in found.items()}
    best = max(peak(), *rates.values())
    print(f"peak {best:.1f} GFLOP/s; {100:.0f} % are {total / 1e3:.2f} s")
    print(ROW.format("in", "out", "k", "s", "pixels", "time %", "GFLOP/s", "peak %"))
    for problem, times in sorted(found.items(), key=lambda item: -sum(item[1])):
        n, rate = sizes(problem), rates[problem]
        share, speed, of = f"{100 * sum(times) / total:.1f}", f"{rate:.1f}", f"{100 * rate / best:.0f}"
        print(ROW.format(n["ic"], n["oc"], n["kh"], n["sh"], f"{n['oh']}x{n['ow']}", share, speed, of))
    overall = sum(rates[problem] * sum(times) for problem, times in found.items()) / total
    print(f"all: {overall:.1f} GFLOP/s, {100 * overall / best:.0f} % of the peak")


if __name__ == "__main__":
    main()
