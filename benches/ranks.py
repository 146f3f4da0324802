#!/usr/bin/env python3
"""What a step of fine-tuning costs when ranks share it, measured here, and what that makes on 64 ranks of a cluster (docs/mpi.md).

    benches/ranks.py [--mxc target/mpi/mxc] [--data DIR] [--batches 128,1024] [--ranks 1,2] [--steps 6]

Runs `mxc finetune -vv` on the example ResNet-20-style network, one thread a rank, and reads from its log where the mean step's time goes.
The cluster is assumed: --latency of a message in µs and --bandwidth of a link in Gbit/s. Prints a table of what was measured, and one of
the model: a step of R ranks takes

    compute x shards of the busiest rank  +  2 x latency x log2 R  +  bytes of other ranks / bandwidth  +  (copy + add) x shards

where copying is what gathering takes of one rank, with nobody to wait for.
"""

import argparse
import math
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARD = 16
LINE = re.compile(r"rank=(\d+) steps=\d+ bytes=(\d+) computing_us=(\d+) gathering_us=(\d+) least_gathering_us=(\d+) adding_us=(\d+)")


def step(mxc: str, folder: str, data: str, batch: int, ranks: int, steps: int) -> dict:
    """Where the mean step's time goes on the first rank, in µs."""
    launcher = ["mpirun", "--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", str(ranks)]
    command = [mxc, "finetune", f"{folder}/model.mxa", "--data", data, "--recipe", "paper", "--epochs", "1", "--threads", "1",
               "--batch", str(batch), "--limit", str(batch * steps), "-vv", "-o", f"{folder}/out.mxa"]
    done = subprocess.run(launcher + command, text=True, capture_output=True)
    # Where a terminal's colours would be.
    found = LINE.findall(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr))
    first = [line for line in found if line[0] == "0"]
    if done.returncode != 0 or not first:
        raise SystemExit(f"ranks.py: {' '.join(launcher + command)}\n{done.stderr}")
    names = ("bytes", "computing", "gathering", "least_gathering", "adding")
    return dict(zip(names, map(int, first[0][1:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mxc", default=os.environ.get("MXC", str(ROOT / "target/mpi/mxc")))
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--batches", default="128,1024")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--latency", type=float, default=20.0)
    parser.add_argument("--bandwidth", type=float, default=10.0)
    args = parser.parse_args()
    batches, counts = ([int(each) for each in text.split(",")] for text in (args.batches, args.ranks))

    with tempfile.TemporaryDirectory() as folder:
        model = str(ROOT / "examples/models/resnet20.onnx")
        subprocess.run([args.mxc, "compile", model, "--data", args.data, "--samples", "64", "--recipe", "paper", "--quiet",
                        "-o", f"{folder}/model.mxa"], check=True, stdout=subprocess.DEVNULL)
        print("| batch | shards | ranks | bytes of all | compute, ms | gather, ms (least) | add, ms | step, ms |")
        print("|---|---|---|---|---|---|---|---|")
        alone = {}
        for batch in batches:
            shards = math.ceil(batch / SHARD)
            for ranks in counts:
                t = step(args.mxc, folder, args.data, batch, ranks, args.steps)
                if ranks == 1:
                    alone[batch] = (t["computing"] / shards, (t["least_gathering"] + t["adding"]) / shards, t["bytes"] / shards)
                total = t["computing"] + t["gathering"] + t["adding"]
                print(f"| {batch} | {shards} | {ranks} | {t['bytes']:,} | {t['computing'] / 1e3:.1f} | {t['gathering'] / 1e3:.2f} "
                      f"({t['least_gathering'] / 1e3:.2f}) | {t['adding'] / 1e3:.2f} | {total / 1e3:.1f} |")

    print("\n| batch | ranks | step, ms | times one rank | of which compute, latency, bytes, copy and add, ms |\n|---|---|---|---|---|")
    for batch, (compute, handle, size) in alone.items():
        shards = math.ceil(batch / SHARD)
        one = (compute + handle) * shards
        for ranks in (1, 2, 4, 8, 16, 32, 64):
            parts = (
                compute * math.ceil(shards / ranks),
                args.latency * 2 * math.ceil(math.log2(ranks)) if ranks > 1 else 0.0,
                size * (shards - math.floor(shards / ranks)) * 8 / (args.bandwidth * 1e3) if ranks > 1 else 0.0,
                handle * shards,
            )
            told = ", ".join(f"{part / 1e3:.2f}" for part in parts)
            print(f"| {batch} | {ranks} | {sum(parts) / 1e3:.1f} | {one / sum(parts):.1f} | {told} |")


if __name__ == "__main__":
    main()
