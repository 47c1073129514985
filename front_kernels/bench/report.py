"""A run's rows as one table and two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from .cases import Row, label
from .measure import OURS

__all__ = ["draw", "show", "table"]

COLUMNS = {
    "us": "us",
    "us_20": "20 %",
    "us_80": "80 %",
    "gb_s": "GB/s",
    "tflop_s": "TFLOP/s",
    "percent_of_limit": "% of limit",
    "percent_of_two_passes": "% of 2 passes",
    "graph_us": "in a graph",
    "host_us": "host us",
    "relative_error": "rel. error",
    "element_error": "worst eps",
}


def table(rows: Sequence[Row]) -> Table:
    """A line per case: ours, then each other's time over ours. Columns that are empty throughout are left out."""
    ours = {label(row): row for row in rows if row["by"] == OURS}
    others = {(label(row), str(row["by"])): row for row in rows if row["by"] != OURS}
    full = {by: str(row["full"]) == "True" for (_, by), row in others.items()}
    columns = {c: title for c, title in COLUMNS.items() if any(row.get(c, "") != "" for row in ours.values())}
    titles = [*columns.values(), *(f"x {by}{'*' if full[by] else ''}" for by in full)]
    found = Table(Column("case", no_wrap=True), *(Column(title, no_wrap=True, justify="right") for title in titles))
    for case, row in ours.items():
        ratios = [others.get((case, by), {}).get("times_front", "-") for by in full]
        found.add_row(case, *(str(row.get(c, "")) for c in columns), *map(str, ratios))
    return found


def show(rows: Sequence[Row]) -> None:
    """On standard output, as wide as it is, whatever the terminal: columns must not be cut."""
    found = table(rows)
    wide = Console(width=1000)
    Console(width=wide.measure(found).maximum).print(found)
    wide.print("x NAME: its time over ours. *: it computes every coefficient.")


def number(row: Row, column: str) -> float:
    return float(str(row[column]))


def draw(rows: Sequence[Row], machine: str, folder: Path) -> list[Path]:
    """roofline.png and speedup.png. ImportError where matplotlib is missing."""
    from matplotlib.figure import Figure

    paths = []
    for name, picture in (("roofline.png", roofline), ("speedup.png", speedup)):
        figure = Figure(figsize=(11, 7), layout="constrained")
        picture(figure, rows)
        figure.suptitle(machine, fontsize=9)
        paths.append(folder / name)
        figure.savefig(paths[-1], dpi=100, metadata={"Software": None})
    return paths


def fastest_peers(rows: Sequence[Row]) -> dict[str, Row]:
    """Of each case the fastest alternative, other than ours and its engines."""
    best: dict[str, Row] = {}
    for row in rows:
        case = label(row)
        theirs = str(row["by"]).split()[0] != OURS
        if theirs and (case not in best or number(row, "us") < number(best[case], "us")):
            best[case] = row
    return best


def roofline(figure: Any, rows: Sequence[Row]) -> None:
    """Nominal TFLOP/s over nominal operations per byte; the limit is a line through the origin."""
    axes = figure.subplots()
    ours = [row for row in rows if row["by"] == OURS]
    fastest = list(fastest_peers(rows).values())
    intensities = []
    for chosen, name, marker in ((ours, OURS, "o"), (fastest, "fastest alternative", "x")):
        # Operations per byte: a row's TFLOP/s over its bandwidth, both of the same time.
        x = [1e3 * number(row, "tflop_s") / number(row, "gb_s") for row in chosen]
        axes.scatter(x, [number(row, "tflop_s") for row in chosen], marker=marker, label=name)
        intensities += x
    limit = number(ours[0], "gb_s") * number(ours[0], "us") / number(ours[0], "limit_us")  # GB/s
    ends = [0.8 * min(intensities), 1.25 * max(intensities)]
    axes.plot(
        ends, [limit * end / 1e3 for end in ends], color="black", label=f"one read and one write, {limit:.0f} GB/s"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="nominal operations per byte", ylabel="nominal TFLOP/s")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def share_kept(row: Row) -> str:
    """Of either axis, once where it is the same of both."""
    sizes, kept = ([int(n) for n in str(row[column]).split("x")] for column in ("size", "kept"))
    shares = ["all" if k == n else f"1/{n / k:.3g}" for n, k in zip(sizes, kept, strict=True)]
    return " x ".join(dict.fromkeys(shares) if len(set(shares)) == 1 else shares) + " kept"


def speedup(figure: Any, rows: Sequence[Row]) -> None:
    """The time of the fastest alternative over ours: a panel per op, sizes along the axis, a series per share kept."""
    best = fastest_peers(rows)
    points: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["by"] != OURS or label(row) not in best:
            continue
        series = share_kept(row) + ("" if row["dtype"] == "float32" else f", {row['dtype']}")
        ratio = number(best[label(row)], "us") / number(row, "us")
        points.setdefault(str(row["op"]), {}).setdefault(series, {})[str(row["size"])] = ratio
    if not points:
        figure.text(0.5, 0.5, "no alternative was timed", ha="center")
        return
    sizes = list(dict.fromkeys(str(row["size"]) for row in rows))
    names = sorted({name for found in points.values() for name in found})
    figure.set_size_inches(11, 2 + 2.5 * len(points))
    panels = figure.subplots(len(points), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (op, found) in zip(panels, points.items(), strict=True):
        for name, ratios in found.items():
            at = [sizes.index(size) for size in ratios]
            axes.plot(at, list(ratios.values()), "o", color=f"C{names.index(name) % 10}", label=name)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel(op)
        axes.set_xticks(range(len(sizes)), sizes, rotation=60, ha="right", fontsize=8)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.supylabel("time of the fastest alternative / ours", fontsize=9)
