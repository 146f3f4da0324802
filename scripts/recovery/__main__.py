#!/usr/bin/env python3
"""One table of what recovers accuracy: methods x training images x noises x networks x training seeds.

Every row is a run of mxc (or of examples/noise_aware.py) whose result is kept as JSON, under the hash of everything that
determines it, the binary included; a finished one is not run again. The most telling rows come first. At the end, or with
`--minutes` before it, the table of what there is and its plots are written to the same folder.

    python3 scripts/recovery --dry-run
    python3 scripts/recovery --minutes 60 --only 'resnet20/range-rms/*'
    python3 scripts/recovery --table

EfficientNet-Lite0, or another network on photographs, joins with --photos-model and --photos-data (see docs/results.md).
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

import plan
import table
from run import ROOT, Runner

FASHION = ("--mean", "0.2860", "--std", "0.3530")
EXAMPLES = ("resnet20", "mobilenetv2", "densenet", "efficientnet")


def networks(args: argparse.Namespace) -> list[plan.Network]:
    found = [plan.Network(name, f"examples/models/{name}.onnx", args.data, 5000, FASHION) for name in EXAMPLES]
    if args.photos_model and args.photos_data:
        name = pathlib.Path(args.photos_model).stem
        found.append(plan.Network(name, args.photos_model, args.photos_data, 200, tuple(args.photos_options.split())))
    return found


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def report(runner: Runner, rows: list[plan.Row]) -> None:
    """Writes the table and the plots."""
    results = [(row, record) for row in rows if (record := runner.result(row))]
    order = [method.name for method in plan.METHODS]
    text = table.markdown(results, order)
    (runner.out / "table.md").write_text(text)
    print(text)
    try:
        import plots
    except ImportError as error:
        print(f"no plots: {error}; examples/setup.sh installs what they need", file=sys.stderr)
        return
    for path in plots.draw(results, runner.out, order):
        print(f"recovery: {path}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="recovery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="rows by name, NETWORK/NOISE/IMAGES/METHOD/SEED; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what is missing, with the time it will take")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--minutes", type=float, help="start no run after this many")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/recovery")
    parser.add_argument("--mxc", type=pathlib.Path, default=os.environ.get("MXC", ROOT / "target/release/mxc"))
    parser.add_argument(
        "--python", type=pathlib.Path, default=ROOT / "examples/.venv/bin/python", help="one that has PyTorch"
    )
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", help="Fashion-MNIST")
    parser.add_argument("--photos-model", default=os.environ.get("MXC_PHOTOS_MODEL"), help="an ONNX file")
    parser.add_argument(
        "--photos-data",
        default=os.environ.get("MXC_PHOTOS_DATA"),
        help="a folder of train/ and val/, each of class folders",
    )
    parser.add_argument(
        "--photos-options",
        default=os.environ.get("MXC_PHOTOS_OPTIONS", ""),
        help="how images are prepared: options of `mxc compile`",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    python = args.python if args.python.exists() else None
    if python is None:
        print(
            f"recovery: {args.python} is not there (examples/setup.sh makes it): PyTorch's rows are left out",
            file=sys.stderr,
        )
    runner = Runner(pathlib.Path(args.mxc).resolve(), python, args.out.resolve(), args.threads)
    everything = [row for row in plan.rows(networks(args)) if runner.can(row)]
    rows = plan.chosen(everything, args.only)
    if args.table:
        return report(runner, rows)

    records = {row: runner.result(row) for row in everything}
    finished = [(row, record["seconds"]) for row, record in records.items() if record]
    missing = [row for row in rows if not records[row]]
    if args.dry_run:
        times = [plan.estimate(row, finished) for row in missing]
        for row, seconds in zip(missing, times):
            print(f"{row.name}\t{'?' if seconds is None else hours(seconds)}")
        total = hours(sum(times)) if missing and None not in times else "?"
        print(f"{len(missing)} of {len(rows)} rows are missing: about {total}")
        return None

    # What is under way is thrown away as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin, failed = time.monotonic(), 0
    for number, row in enumerate(missing):
        if args.minutes is not None and time.monotonic() - begin >= 60 * args.minutes:
            break
        try:
            record = runner.result(row, run=True)
        except subprocess.CalledProcessError as error:
            # The command has said why.
            print(f"recovery: {row.name}: exit {error.returncode}", file=sys.stderr)
            failed += 1
            continue
        share = record["recovered_percent"]
        shown = "nothing lost" if share is None else f"{share:.1f} % recovered"
        print(
            f"{number + 1}/{len(missing)} {row.name}: {record['denoised']['top1']:.2f} %, {shown}, {record['seconds']:.0f} s",
            flush=True,
            file=sys.stderr,
        )
    report(runner, rows)
    if failed:
        sys.exit(f"recovery: {failed} rows failed")
    return None


if __name__ == "__main__":
    main()
