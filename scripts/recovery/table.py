"""Tables of what was run, in Markdown. Figures are means over training seeds ± 95 % intervals (Student t)."""

import math
import statistics
from collections.abc import Iterable, Sequence

from plan import IMAGES, Row
from run import recovered

# t(0.975, n − 1) by n.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
Results = Sequence[tuple[Row, dict]]


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean; None of one value."""
    if len(values) < 2:
        return None
    return STUDENT[min(len(values), max(STUDENT))] * statistics.stdev(values) / math.sqrt(len(values))


def mean(values: Iterable[float | None], digits: int = 2) -> str:
    """`91.20 ± 0.15`, or without an interval where there is one value only."""
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    half = interval(values)
    return f"{statistics.fmean(values):.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")


class Cell:
    """The seeds of a cell."""

    def __init__(self, rows: list[Row], records: list[dict]) -> None:
        self.row, self.records = rows[0], records

    def top1(self, name: str) -> list[float]:
        return [record[name]["top1"] for record in self.records]

    def recovered(self) -> list[float]:
        return [record["recovered_percent"] for record in self.records if record["recovered_percent"] is not None]

    def overheads(self) -> tuple[float, float | None]:
        """Percent of the backbone's parameters, and with column shifts as parameters where there are any."""
        parameters = [record["parameters"] for record in self.records]
        plain = statistics.fmean(p["overhead_percent"] for p in parameters)
        shifted = [p["overhead_with_shifts_percent"] for p in parameters if p.get("column_shifts")]
        return plain, statistics.fmean(shifted) if shifted else None

    def draws(self) -> float:
        """The standard deviation of the denoised accuracy over noise draws."""
        spreads = [statistics.stdev(runs) for record in self.records if len(runs := record["denoised"]["runs"]) > 1]
        return statistics.fmean(spreads) if spreads else 0.0

    def overhead(self) -> str:
        plain, shifted = self.overheads()
        return f"{plain:.2f}" + (f" ({shifted:.2f})" if shifted is not None else "")


def cells(results: Results) -> list[Cell]:
    """By cell, in the order of the plan's methods. The whole network behind equalized ranges is a cell of its own."""
    groups: dict[tuple, list[tuple[Row, dict]]] = {}
    for row, record in results:
        groups.setdefault((*row.cell, ""), []).append((row, record))
        if scaled := record.get("with_scales"):
            both = {**record, **scaled}
            both["recovered_percent"] = recovered(both)
            groups.setdefault((*row.cell, "+ scales"), []).append((row, both))
    found = []
    for (*_, more), group in groups.items():
        cell = Cell([row for row, _ in group], [record for _, record in group])
        cell.label = f"{cell.row.method.name} {more}".strip()
        found.append(cell)
    return found


def lines(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(row)} |" for row in body), ""]


def by_method(found: Sequence[Cell], order: Sequence[str]) -> list[str]:
    """For each network and noise: a row a method, a column a number of images; then everything that was measured."""
    text = []
    chosen = [cell for cell in found if cell.row.sigma is None]
    for network, noise in dict.fromkeys((cell.row.network.name, cell.row.noise.name) for cell in chosen):
        here = [cell for cell in chosen if (cell.row.network.name, cell.row.noise.name) == (network, noise)]
        here.sort(key=lambda cell: (order.index(cell.row.method.name), cell.label))
        counts = [count for count in IMAGES if any(cell.row.images == count for cell in here)]
        first = here[0].records[0]
        title = f"{network}, {noise.replace('-', ' of ')}, σ {first['sigma']:g} %"
        text += [
            f"### {title}",
            "",
            f"Clean {first['clean']['top1']:.2f} %. Percent of the drop recovered, by training images:",
            "",
        ]
        body = []
        for label in dict.fromkeys(cell.label for cell in here):
            mine = {cell.row.images: cell for cell in here if cell.label == label}
            last = list(mine.values())[-1]
            shown = [mean(mine[count].recovered(), 1) if count in mine else "" for count in counts]
            body.append([label, last.overhead(), *shown])
        text += lines(["method", "overhead % (with shifts)", *(str(count or "all") for count in counts)], body)
        header = [
            "method",
            "images",
            "seeds",
            "noisy %",
            "denoised %",
            "spread of draws",
            "denoised, no noise %",
            "overhead % (with shifts)",
            "recovered %",
        ]
        details = [
            [
                cell.label,
                str(cell.row.images or "all"),
                str(len(cell.records)),
                mean(cell.top1("noisy")),
                mean(cell.top1("denoised")),
                f"{cell.draws():.2f}",
                mean(cell.top1("clean_denoised")),
                cell.overhead(),
                mean(cell.recovered(), 1),
            ]
            for cell in here
        ]
        text += ["<details><summary>accuracies</summary>", "", *lines(header, details), "</details>", ""]
    return text


def table_one(found: Sequence[Cell]) -> list[str]:
    """The paper's Table I: a row a network, at its sigma, with the most images that were run."""
    body = []
    ours = [cell for cell in found if cell.row.sigma is None and cell.label in ("best", "paper")]
    for network, noise in dict.fromkeys((cell.row.network.name, cell.row.noise.name) for cell in ours):
        here = [cell for cell in ours if (cell.row.network.name, cell.row.noise.name) == (network, noise)]
        most = max(here, key=lambda cell: cell.row.images or math.inf).row.images
        for cell in here:
            if cell.row.images == most:
                body.append(
                    [
                        network,
                        noise,
                        f"{cell.records[0]['sigma']:g}",
                        str(most or "all"),
                        mean(cell.top1("clean")),
                        mean(cell.top1("noisy")),
                        cell.label,
                        mean(cell.top1("denoised")),
                        cell.overhead(),
                    ]
                )
    header = [
        "network",
        "noise",
        "σ %",
        "images",
        "baseline %",
        "noisy %",
        "method",
        "denoised %",
        "overhead % (with shifts)",
    ]
    return ["### Table I", "", *lines(header, body)] if body else []


def table_two(found: Sequence[Cell]) -> list[str]:
    """The paper's Table II: a row a sigma."""
    swept = [cell for cell in found if cell.row.sigma is not None]
    body = []
    for network, noise, images, sigma in sorted(
        {(c.row.network.name, c.row.noise.name, c.row.images or 0, c.row.sigma) for c in swept}
    ):
        here = {
            c.label: c
            for c in swept
            if (c.row.network.name, c.row.noise.name, c.row.images or 0, c.row.sigma) == (network, noise, images, sigma)
        }
        some = next(iter(here.values()))
        shown = [mean(here[label].top1("denoised")) if label in here else "" for label in ("best", "paper")]
        body.append(
            [
                network,
                noise,
                str(images or "all"),
                mean(some.top1("clean")),
                f"{sigma:g}",
                mean(some.top1("noisy")),
                *shown,
            ]
        )
    header = ["network", "noise", "images", "baseline %", "σ %", "noisy %", "denoised %, `best`", "denoised %, `paper`"]
    return ["### Table II", "", *lines(header, body)] if body else []


def markdown(results: Results, order: Sequence[str]) -> str:
    found = cells(results)
    return "\n".join([*by_method(found, order), *table_one(found), *table_two(found)])
