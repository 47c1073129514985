"""The cases of README's table of the CPU, and the ledger that their rows are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from front_kernels.bench import cases, ledger
from front_kernels.bench.cases import Size

LEDGER = Path(__file__).parent / "results" / "cpu.csv"
PACKAGES = ("torch", "scipy", "ducc0", "torch-dct")
Row = dict[str, str]  # a line of the ledger; the oldest lack columns, no dtype means float32


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
    def of_op(self) -> cases.Case:
        """The same for the package's peers, in float32."""
        return cases.Case("dct_crop" if self.direction == "forward" else "idct_pad", self.size, self.kept)

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
    return ledger.read(path)


def append(results: Sequence[cases.Row], path: Path = LEDGER) -> None:
    """Adds rows, and the columns that only they have behind the old ones."""
    ledger.append(results, path)


def run_columns(threads: int, isa: str) -> dict[str, object]:
    """What all rows of one run have in common."""
    return {
        "cpu": ledger.cpu_name(),
        "threads": threads,
        "isa": isa,
        **{name: version(name) for name in PACKAGES},
        "commit": ledger.commit(),
        "date": ledger.today(),
    }
