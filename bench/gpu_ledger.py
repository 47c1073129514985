"""The GPU benchmark's cases, the figures to reach, its tables, and the ledger that its rows are kept in.

A row is one case by one implementation: `by` is "front" or a peer's name. Nothing here needs a GPU.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ledger

LEDGER = Path(__file__).parent / "results" / "gpu.csv"
OURS = "front"
PACKAGES = {  # columns: distributions that may have it
    "triton": ("triton",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "jax": ("jax",),
    "pyvkfft": ("pyvkfft",),
}
ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # bytes
Size = tuple[int, int]
Row = Mapping[str, object]  # of the benchmark, or, all text, of the ledger


@dataclass(frozen=True)
class Case:
    """`count` matrices of `size`, of which the corner `kept` is kept; idct_pad goes from kept to size."""

    op: str
    size: Size
    kept: Size
    dtype: str = "float32"
    resized: Size | None = None  # by dct_resize
    count: int = 1
    small: bool = False  # time the replay of a CUDA graph too

    @property
    def source(self) -> Size:
        return self.kept if self.op == "idct_pad" else self.size

    @property
    def result(self) -> Size:
        if self.resized is not None:
            return self.resized
        return self.kept if self.op in ("dct_crop", "dct_crop_many") else self.size

    @property
    def bytes(self) -> int:
        """One read of the input and one write of the output."""
        return self.count * ITEM[self.dtype] * (math.prod(self.source) + math.prod(self.result))

    @property
    def two_pass_bytes(self) -> int | None:
        """The same with the rows x k1 intermediate of two passes written and read; None where there are more."""
        if self.op in ("lowpass", "dct_resize"):
            return None
        return self.bytes + 2 * self.count * max(4, ITEM[self.dtype]) * self.size[0] * self.kept[1]

    @property
    def columns(self) -> dict[str, object]:
        shapes = {"size": self.size, "kept": self.kept, "result": self.result}
        texts = {name: "{}x{}".format(*shape) for name, shape in shapes.items()}
        return {"op": self.op, **texts, "dtype": self.dtype, "count": self.count}

    def __str__(self) -> str:
        return label(self.columns)


def label(row: Row) -> str:
    """What a row is about: op, sizes, dtype if it is not float32, and how many if it is not one."""
    op, size, kept = row["op"], row["size"], row["kept"]
    sizes = {
        "idct_pad": f"{kept} -> {size}",
        "lowpass": f"{size} k={kept}",
        "dct_resize": f"{size} -> {row['result']}",
    }.get(str(op), f"{size} -> {kept}")
    count = "" if int(str(row["count"])) == 1 else f"{row['count']} of "
    return f"{op} {count}{sizes}" + ("" if row["dtype"] == "float32" else f" {row['dtype']}")


HEADLINE, MIDDLE = Case("dct_crop", (8192, 8192), (1024, 1024)), Case("dct_crop", (4096, 4096), (512, 512))
MLP, FULL = Case("dct_crop", (11008, 4096), (2752, 1024)), Case("dct_crop", (8192, 8192), (8192, 8192))
# What products take up to few coefficients.
HALF_128, HALF_256 = (Case("dct_crop", (8192, 8192), (k, k), "bfloat16") for k in (128, 256))
SINGLE_64, TABLE = Case("dct_crop", (8192, 8192), (64, 64)), Case("dct_crop", (30522, 768), (256, 256), "bfloat16")
# By importance: what is left when the time is over has no peers.
CASES = [
    HEADLINE,
    MIDDLE,
    MLP,
    FULL,
    *(Case("idct_pad", case.size, case.kept) for case in (HEADLINE, MIDDLE, MLP, FULL)),
    Case("dct_crop", (768, 768), (384, 384), small=True),
    Case("dct_crop", (3072, 768), (1536, 384), small=True),
    Case("dct_crop_many", (1024, 1024), (512, 512), count=24, small=True),
    Case("dct_crop", (30522, 768), (15261, 384)),
    Case("dct_crop", (14336, 4096), (3584, 1024)),
    HALF_128,
    HALF_256,
    SINGLE_64,
    TABLE,
    Case("dct_crop", (8192, 8192), (256, 256)),
    Case("dct_crop", (8192, 8192), (1024, 1024), "bfloat16"),
    Case("lowpass", (8192, 8192), (1024, 1024)),
    Case("dct_resize", (4096, 4096), (2048, 2048), resized=(2048, 2048)),
]


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


def text_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left, the others to the right."""
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    texts = []
    for line in (header, *lines):
        cells = [f"{line[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


OUR_COLUMNS = {
    "us": "us",
    "us_20": "20%",
    "us_80": "80%",
    "graph_us": "in a graph",
    "host_us": "host us",
    "gb_s": "GB/s",
    "limit_us": "limit us",
    "percent_of_limit": "% of limit",
    "two_passes_us": "2 passes us",
    "percent_of_two_passes": "% of 2 passes",
    "relative_error": "rel. error",
    "element_error": "worst",
}


def our_table(rows: Sequence[Row]) -> str:
    ours = [row for row in rows if row["by"] == OURS]
    lines = [[label(row), *(str(row.get(column) or "-") for column in OUR_COLUMNS)] for row in ours]
    return text_table(["front", *OUR_COLUMNS.values()], lines)


def peer_table(rows: Sequence[Row]) -> str:
    """Per case and peer: its time over ours and, in brackets, its relative error. * computes every coefficient."""
    theirs = {(label(row), str(row["by"])): row for row in rows if row["by"] != OURS}
    full = {name: str(row["full"]) == "True" for (_, name), row in theirs.items()}
    cases = list(dict.fromkeys(case for case, _ in theirs))

    def cell(case: str, name: str) -> str:
        row = theirs.get((case, name))
        return "-" if row is None else f"{row.get('times_front') or '?'} ({row['relative_error']})"

    header = ["times as long as front", *(f"{name}{'*' if full[name] else ''}" for name in full)]
    return text_table(header, [[case, *(cell(case, name) for name in full)] for case in cases])


def append(rows: Sequence[Row], path: Path = LEDGER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger.append([dict(row) for row in rows], path)


def first_version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def output(command: Sequence[str]) -> str:
    """What a command prints, in one line; "unknown" where it cannot run."""
    try:
        run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = run.stdout.split("\n")
    return lines[0].strip() or "unknown" if run.returncode == 0 else "unknown"


def commit() -> str:
    """FRONT_COMMIT where it is set (a copy of the files without .git does not know its commit), else git's word."""
    return os.environ.get("FRONT_COMMIT") or output(["git", "describe", "--always", "--dirty"])


def run_columns(device: str, torch_version: str, cuda: str) -> dict[str, object]:
    """What all rows of one run have in common."""
    return {
        "device": device,
        "driver": output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "cuda": cuda,
        "python": platform.python_version(),
        "torch": torch_version,
        **{name: first_version(distributions) for name, distributions in PACKAGES.items()},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
