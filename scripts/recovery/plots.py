"""Plots of what was run, as PNG files: recovered against overhead, against sigma, against images."""

import collections
import math
import pathlib
import statistics
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from plan import IMAGES, NOISES  # noqa: E402
from table import Cell, Results, cells, interval  # noqa: E402

MARKERS = "os^vD<>pP*Xhd8Hs^vD"


def draw(results: Results, out: pathlib.Path, order: Sequence[str]) -> list[pathlib.Path]:
    """Draws what there are results for, and says which files."""
    found = cells(results)
    labels = sorted(
        {cell.label for cell in found}, key=lambda label: (order.index(label.removesuffix(" + scales")), label)
    )
    style = {
        label: {"color": plt.cm.tab20(i % 20), "marker": MARKERS[i % len(MARKERS)]} for i, label in enumerate(labels)
    }
    written = []
    shown = [cell for cell in found if cell.recovered()]
    own = [cell for cell in shown if cell.row.sigma is None]
    swept = [cell for cell in shown if cell.row.sigma is not None and lost(cell) >= 1]
    noises = [noise.name for noise in NOISES]
    settings = [
        ("overhead", against_overhead, own),
        ("images", against_images, lines_of(own)),
        ("sigma", against_sigma, swept),
    ]
    for name, function, kept in settings:
        panels = dict.fromkeys((cell.row.network.name, cell.row.noise.name) for cell in kept)
        panels = sorted(panels, key=lambda panel: noises.index(panel[1]))
        if not panels:
            continue
        across = 2 if len(panels) in (2, 4) else min(len(panels), 3)
        down = -(-len(panels) // across)
        figure, axes = plt.subplots(down, across, figsize=(5 * across, 4 * down + 1), squeeze=False)
        for axis, panel in zip(axes.flat, panels):
            here = [cell for cell in kept if (cell.row.network.name, cell.row.noise.name) == panel]
            function(axis, here, style)
            axis.set_title(f"{panel[0]}, {panel[1].replace('-', ' of ')}", fontsize=10)
            axis.set_ylabel("recovered, %")
            axis.grid(alpha=0.3)
        for axis in list(axes.flat)[len(panels) :]:
            axis.remove()
        handles = {label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels())}
        columns = 3 * across
        figure.legend(handles.values(), handles, loc="lower center", ncols=columns, fontsize=8, frameon=False)
        # A line of the legend takes a fifth of an inch.
        height = 0.2 * (-(-len(handles) // columns) + 1)
        figure.tight_layout(rect=(0, height / figure.get_figheight(), 1, 1))
        path = out / f"{name}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        written.append(path)
    return written


def lines_of(found: Sequence[Cell]) -> list[Cell]:
    """Those of methods that were run with several numbers of images."""
    counts = collections.Counter((*cell.row.cell[:2], cell.label) for cell in found)
    return [cell for cell in found if counts[*cell.row.cell[:2], cell.label] > 1]


def lost(cell: Cell) -> float:
    """Points. Of next to nothing a share says nothing."""
    return statistics.fmean(cell.top1("clean")) - statistics.fmean(cell.top1("noisy"))


def point(axis, x: float, cell: Cell, style: dict) -> None:
    """A cell with its interval."""
    values = cell.recovered()
    axis.errorbar(
        x,
        statistics.fmean(values),
        interval(values),
        label=cell.label,
        linestyle="none",
        capsize=2,
        markersize=6,
        **style[cell.label],
    )


def line(axis, points: list[tuple[float, Cell]], style: dict) -> None:
    """The cells of a method."""
    points.sort(key=lambda pair: pair[0])
    values = [cell.recovered() for _, cell in points]
    means, halves = [statistics.fmean(v) for v in values], [interval(v) or 0 for v in values]
    axis.errorbar(
        [x for x, _ in points],
        means,
        halves,
        label=points[0][1].label,
        capsize=2,
        markersize=5,
        linewidth=1,
        **style[points[0][1].label],
    )


def against_overhead(axis, here: list[Cell], style: dict) -> None:
    """With as many images as most methods were run with; column shifts count as parameters."""
    counts = [cell.row.images for cell in here]
    most = max(dict.fromkeys(counts), key=lambda images: (counts.count(images), images or math.inf))
    for cell in here:
        if cell.row.images == most:
            plain, shifted = cell.overheads()
            point(axis, shifted if shifted is not None else plain, cell, style)
    axis.set_xlabel(f"overhead with column shifts, % of parameters ({most or 'all'} images)")


def against_images(axis, here: list[Cell], style: dict) -> None:
    for label in dict.fromkeys(cell.label for cell in here):
        line(axis, [(IMAGES.index(cell.row.images), cell) for cell in here if cell.label == label], style)
    axis.set_xticks(range(len(IMAGES)), [str(count or "all") for count in IMAGES])
    axis.set_xlabel("training images")


def against_sigma(axis, here: list[Cell], style: dict) -> None:
    for label in dict.fromkeys(cell.label for cell in here):
        line(axis, [(cell.row.sigma, cell) for cell in here if cell.label == label], style)
    axis.set_xlabel("σ, %")
