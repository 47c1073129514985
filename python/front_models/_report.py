"""What a transfer did, role by role: as data, and as a table."""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["PrintsAsTable", "RoleRow", "TransferReport"]

_UNLIMITED = 100_000


@dataclass(frozen=True)
class RoleRow:
    """What happened to one role of the target.

    Attributes:
        role: the name with `{}` at the layer axis (`blocks.{}.attn.qkv.weight`), or the tensor's name.
        kind: `qkv`, `o`, `mlp`, `norm`, `embed`, `head` or `other`.
        source_shape, source_depth: shape of one source tensor and their number; None where the source lacks the role.
        target_shape, target_depth: the same for the target.
        energy_kept: share in [0, 1] of the standardised source role's orthonormal DCT energy (both axes and depth)
            that lies in the block that was placed; None where nothing was placed or the share is not a number. By the
            aligned recipe: share of the squares of the aligned source (means included) along the stream, times that
            along units, heads and the like (of a norm's scale that becomes one number, that number's share); the mean
            over the tensors that were taken. Compare either with white
            noise's share (`front_models.compare`), not with the other.
        std_source: standard deviation of the source role's tensors together, None where nothing was transferred.
        std_target: standard deviation of the target role's tensors together after the call, None for tensors that are
            not real floating point and for tied ones, which have it in the row that wrote them.
        action: `transferred`, or `left: <reason>`, `skipped: <reason>`, `tied: <reason>`; `transferred` may be followed
            by a note in parentheses.
    """

    role: str
    kind: str
    source_shape: tuple[int, ...] | None
    source_depth: int | None
    target_shape: tuple[int, ...]
    target_depth: int
    energy_kept: float | None
    std_source: float | None
    std_target: float | None
    action: str

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON types; numbers that are not finite become None."""
        row = dataclasses.asdict(self)
        for key, value in row.items():
            if isinstance(value, tuple):
                row[key] = list(value)
            elif isinstance(value, float) and not math.isfinite(value):
                row[key] = None
        return row


class PrintsAsTable:
    """What has `__rich__` prints as that table."""

    def __rich__(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        table = self.__rich__()
        # A terminal gets what fits it, anything else every name in one piece.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
        console = Console(file=io.StringIO(), record=True, color_system=None, width=width)
        console.print(table)
        return "\n".join(line.rstrip() for line in console.export_text(styles=False).splitlines()).strip("\n")


@dataclass(frozen=True)
class TransferReport(PrintsAsTable):
    """One row per role of the target, in the target's order, and what there is to know besides (`notes`). Prints as a
    table; `to_dict()` is ready for JSON."""

    rows: list[RoleRow] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def transferred(self) -> int:
        """How many roles were written."""
        return sum(row.action.startswith("transferred") for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """`{"transferred": int, "roles": int, "notes": [str, ...], "rows": [row, ...]}` of JSON types."""
        return {
            "transferred": self.transferred,
            "roles": len(self.rows),
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
        }

    def __rich__(self) -> Table:
        table = Table(
            title=f"{self.transferred} of {len(self.rows)} roles transferred",
            title_justify="left",
            caption=Text("\n".join(f"note: {note}" for note in self.notes)) if self.notes else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        table.add_column("role", overflow="fold")
        table.add_column("kind", no_wrap=True)
        for title in ("source", "target", "energy\nkept", "std\nbefore", "std\nafter"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("done", overflow="fold")
        for row in self.rows:
            table.add_row(
                Text(row.role),
                row.kind,
                _size(row.source_shape, row.source_depth),
                _size(row.target_shape, row.target_depth),
                "-" if row.energy_kept is None else f"{100 * row.energy_kept:.1f} %",
                _number(row.std_source),
                _number(row.std_target),
                Text(row.action),
                style=None if row.action.startswith("transferred") else "dim",
            )
        return table


def _size(shape: tuple[int, ...] | None, depth: int | None) -> str:
    if shape is None:
        return "-"
    one = "x".join(str(n) for n in shape) if shape else "scalar"
    return one if depth in (None, 1) else f"{depth} · {one}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
