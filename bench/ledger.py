"""The CPU benchmark's cases, and the ledger that its rows are kept in."""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LEDGER = Path(__file__).parent / "results" / "cpu.csv"
PACKAGES = ("torch", "scipy", "ducc0", "torch-dct")
Row = dict[str, str]  # a line of the ledger; the oldest lack columns, no dtype means float32
Size = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A matrix of `size` and its low-frequency corner `kept`: forward by dct_crop, inverse by idct_pad."""

    direction: str
    size: Size
    kept: Size

    @property
    def columns(self) -> Row:
        return {"direction": self.direction, "size": "{}x{}".format(*self.size), "kept": "{}x{}".format(*self.kept)}

    @property
    def name(self) -> str:
        return "{size}:{kept}".format(**self.columns)

    def __str__(self) -> str:
        return f"{self.direction} {self.name}"


CASES = [
    Case("forward", (768, 768), (384, 384)),
    Case("forward", (3072, 768), (1536, 384)),
    Case("forward", (4096, 4096), (512, 512)),
    Case("forward", (4096, 4096), (1024, 1024)),
    Case("forward", (4096, 4096), (2048, 2048)),
    Case("forward", (4096, 4096), (4096, 4096)),
    Case("forward", (8192, 8192), (1024, 1024)),
    Case("forward", (11008, 4096), (2752, 1024)),
    Case("forward", (30522, 384), (15261, 192)),
    Case("inverse", (4096, 4096), (512, 512)),
    Case("inverse", (4096, 4096), (2048, 2048)),
    Case("inverse", (4096, 4096), (4096, 4096)),
    Case("inverse", (3072, 768), (1536, 384)),
    Case("inverse", (11008, 4096), (2752, 1024)),
]
# Those measured in other dtypes and under every instruction set too.
COMPARED = [
    Case("forward", (3072, 768), (1536, 384)),
    Case("forward", (4096, 4096), (512, 512)),
    Case("forward", (4096, 4096), (4096, 4096)),
    Case("inverse", (4096, 4096), (512, 512)),
]


def read(path: Path = LEDGER) -> list[Row]:
    """All rows, oldest first."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(results: list[dict[str, object]], path: Path = LEDGER) -> None:
    """Adds rows, and the columns that only they have behind the old ones."""
    rows: list[dict[str, object]] = [*read(path), *results]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(c for row in rows for c in row)), "", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def cpu_name() -> str:
    """The CPU's name with its numbers: virtual machines call different ones by the same name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{key.removeprefix('cpu ')} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return " ".join([info.get("model name", platform.machine()), *numbers])


def run_columns(threads: int, isa: str) -> dict[str, object]:
    """What all rows of one run have in common."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return {
        "cpu": cpu_name(),
        "threads": threads,
        "isa": isa,
        **{name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
