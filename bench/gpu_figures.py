"""The figures that a GPU is to reach, and what the last run in a ledger says of them. They were set for an H200.

    python bench/gpu_figures.py bench/results/bench.csv

The rows are those of `python -m front_kernels.bench --set check`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from front_kernels.bench import ledger
from front_kernels.bench.cases import Case, Row, label
from front_kernels.bench.measure import OURS

HEADLINE, MIDDLE = Case("dct_crop", (8192, 8192), (1024, 1024)), Case("dct_crop", (4096, 4096), (512, 512))
MLP, FULL = Case("dct_crop", (11008, 4096), (2752, 1024)), Case("dct_crop", (8192, 8192), (8192, 8192))
# What products take up to few coefficients.
HALF_128, HALF_256 = (Case("dct_crop", (8192, 8192), (k, k), "bfloat16") for k in (128, 256))
SINGLE_64, TABLE = Case("dct_crop", (8192, 8192), (64, 64)), Case("dct_crop", (30522, 768), (256, 256), "bfloat16")


@dataclass(frozen=True)
class Verdict:
    text: str
    state: str  # "reached", "missed" or "not measured"
    found: str

    def __str__(self) -> str:
        return f"{self.state:<12} {self.text}: {self.found}"


def number(row: Row, column: str) -> float | None:
    value = row.get(column)
    return None if value is None or value == "" else float(str(value))


def figures(rows: Sequence[Row]) -> list[Verdict]:
    """Each figure to reach, and what one run's rows say of it. They were set for an H200."""
    ours = {label(row): row for row in rows if row["by"] == OURS}

    def of(case: Case, column: str, text: str, limit: float, reached: Callable[[float, float], bool]) -> Verdict:
        value = number(ours.get(str(case), {}), column)
        if value is None:
            return Verdict(f"{case} {text}", "not measured", "no time")
        return Verdict(f"{case} {text}", "reached" if reached(value, limit) else "missed", f"{value:g}")

    def at_most(value: float, limit: float) -> bool:
        return value <= limit

    def at_least(value: float, limit: float) -> bool:
        return value >= limit

    fft, others = ("cupyx", "torch.fft"), "every other peer that computes the full transform"
    return [
        of(HEADLINE, "us", "in at most 105 us", 105, at_most),
        of(MIDDLE, "percent_of_limit", "at >= 65 % of its limit", 65, at_least),
        of(MLP, "percent_of_limit", "at >= 40 % of its limit", 40, at_least),
        of(FULL, "percent_of_two_passes", "at >= 50 % of read and write twice", 50, at_least),
        *(ratio_figure(rows, f"at least 5 times as fast as {name}", 5, lambda n, name=name: n == name) for name in fft),
        ratio_figure(rows, f"at least 2 times as fast as {others}", 2, lambda name: name not in fft),
        of(HALF_128, "us", "in at most 45 us", 45, at_most),
        of(HALF_256, "us", "in at most 60 us", 60, at_most),
        of(SINGLE_64, "us", "in at most 90 us", 90, at_most),
        of(TABLE, "percent_of_limit", "at >= 50 % of its limit", 50, at_least),
        chosen_figure(rows),
    ]


def chosen_figure(rows: Sequence[Row]) -> Verdict:
    """Whether the planner's choice is never slower than another engine or matmul, beyond 5 % of noise."""
    text = "never slower than another engine or two matmuls"
    names = ("matmul", f"{OURS} ")
    ratios = {
        (str(row["by"]), label(row)): ratio
        for row in rows
        if str(row["by"]).startswith(names) and (ratio := number(row, "times_front")) is not None
    }
    if not ratios:
        return Verdict(text, "not measured", "no time")
    slower = [f"{by} {ratio:g} ({case})" for (by, case), ratio in ratios.items() if ratio < 0.95]
    return Verdict(text, "missed" if slower else "reached", "; ".join(slower) or f"{len(ratios)} comparisons")


def ratio_figure(rows: Sequence[Row], text: str, least: float, peer: Callable[[str], bool]) -> Verdict:
    """The smallest ratio to peers of the full transform, over all cases."""
    ratios = {
        (str(row["by"]), label(row)): ratio
        for row in rows
        if str(row["full"]) == "True" and peer(str(row["by"])) and (ratio := number(row, "times_front")) is not None
    }
    if not ratios:
        return Verdict(text, "not measured", "no such peer ran")
    name, case = min(ratios, key=lambda key: ratios[key])
    smallest = ratios[name, case]
    short = sum(ratio < least for ratio in ratios.values())
    found = f"least {smallest:g} ({name}, {case}); {short} of {len(ratios)} below"
    return Verdict(text, "reached" if smallest >= least else "missed", found)


def last_run(rows: Sequence[Row]) -> list[Row]:
    """The rows of the newest one's device, commit and day."""
    columns = ("device", "commit", "date")
    return [row for row in rows if all(row[c] == rows[-1][c] for c in columns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path)
    path = parser.parse_args().ledger
    rows = last_run(ledger.read(path))
    if not rows:
        raise SystemExit(f"{path} has no rows")
    print(f"Figures to reach (set for an H200; this is {rows[-1]['device']}):")
    for verdict in figures(rows):
        print(f"  {verdict}")


if __name__ == "__main__":
    main()
