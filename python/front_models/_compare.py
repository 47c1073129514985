"""What two recipes would keep of a source in a target of another size, beside what white noise would keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from front_models._anatomy import NotAlignableError
from front_models._options import Progress
from front_models._report import PrintsAsTable, RoleRow, TransferReport
from front_models._residual import read_source, transfer_aligned
from front_models._transfer import transfer
from front_models._walk import Weights, matrix_shape, named_tensors, tied_names

__all__ = ["CompareReport", "CompareRow", "compare"]

_CHANCE = 0.02  # gains of white noise differ from 0 by less, but for models of a few thousand weights


@dataclass(frozen=True)
class CompareRow:
    """One role of the target.

    Attributes:
        role, kind: as in a transfer's report.
        elements: of the source's tensors together.
        paper, aligned: share of the source's energy that the recipe keeps, each as `RoleRow.energy_kept` defines it:
            the paper's without mean and over the layers, too; None where it transfers nothing.
        paper_white, aligned_white: what it would keep of white noise: the share of the coefficients; and of one draw
            with the means and deviations of the source's tensors, aligned as the source is: of noise, too, the largest
            directions, units and heads hold more than their share.
    """

    role: str
    kind: str
    elements: int
    paper: float | None
    paper_white: float | None
    aligned: float | None
    aligned_white: float | None


@dataclass(frozen=True)
class CompareReport(PrintsAsTable):
    """Rows, and of each recipe the gain: ``sum elements (kept - white) / sum elements (1 - white)`` over its rows.

    Attributes:
        rows: one for each role of the target.
        paper_gain, aligned_gain: 0 for white noise, but for chance; 1 where everything is kept; None where a
            recipe loses nothing in any row (the target is no smaller), or cannot be applied.
        recommended: "paper", "aligned", or "neither" where both keep no more than of white noise, as of a source that
            is not trained.
        reason: why, in one sentence.
    """

    rows: list[CompareRow]
    paper_gain: float | None
    aligned_gain: float | None
    recommended: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self)

    def __rich__(self) -> Table:
        table = Table(
            title="energy kept (white noise's)", title_justify="left", box=box.SIMPLE_HEAD, caption=Text(self.reason)
        )
        table.add_column("role", overflow="fold")
        table.add_column("kind", no_wrap=True)
        for heading in ("paper", "aligned"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                Text(row.role), row.kind, _beside(row.paper, row.paper_white), _beside(row.aligned, row.aligned_white)
            )
        return table


def compare(
    source: Weights, like: Weights, *, heads: int | tuple[int, int] | None = None, progress: Progress | None = None
) -> CompareReport:
    """What the paper's recipe and the aligned one keep of a source in a target like `like`. Nothing is trained.

    Args:
        source, like: as in `transfer`.
        heads: as in `align`.
        progress: as in `transfer`, for the paper's recipe and then for the aligned one.

    Returns:
        The shares, and which recipe they speak for.

    Raises:
        TypeError, ValueError: As in `transfer`, but for NotAlignableError: there the paper's recipe is the only one.
    """
    tensors, target = named_tensors(source, "source"), named_tensors(like, "like")
    paper = transfer(tensors, target, progress=progress)[1]
    aligned, noise, why = None, None, ""
    try:
        whole, _, known, _ = read_source(source, heads)
        aligned = transfer_aligned(source, like, even=False, heads=heads, progress=progress)[1]
        noise = transfer_aligned(_noise(whole), like, even=False, heads=known)[1]
    except NotAlignableError as error:
        why = str(error)
    rows = _rows(paper, aligned, noise)
    gains = _gain(rows, "paper"), _gain(rows, "aligned")
    return CompareReport(rows, *gains, *_recommend(gains, why))


@torch.no_grad()
def _noise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """White noise with the tensors' means and deviations; those that are shared stay so."""
    generator = torch.Generator("cpu").manual_seed(0)
    shared = tied_names(tensors)
    drawn: dict[str, Tensor] = {}
    for owner in dict.fromkeys(shared.values()):
        tensor = tensors[owner].detach()
        if tensor.is_floating_point():
            deviation, mean = torch.std_mean(tensor.float(), correction=0)
            white = torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor.device)
            tensor = (white * deviation + mean).to(tensor.dtype)
        drawn[owner] = tensor
    return {name: drawn[shared[name]] for name in tensors}


def _rows(paper: TransferReport, aligned: TransferReport | None, noise: TransferReport | None) -> list[CompareRow]:
    other, white = ({} if report is None else {row.role: row for row in report.rows} for report in (aligned, noise))
    rows = []
    for row in paper.rows:
        beside = other.get(row.role)
        found = beside if beside is not None and beside.energy_kept is not None else None
        first = row if row.energy_kept is not None else found
        rows.append(
            CompareRow(
                role=row.role,
                kind=row.kind,
                elements=0 if first is None else _elements(first),
                paper=row.energy_kept,
                paper_white=_places(row, depth=True),
                aligned=None if found is None else found.energy_kept,
                aligned_white=None if found is None else _kept_of_noise(found, white[row.role]),
            )
        )
    return rows


def _elements(row: RoleRow) -> int:
    return math.prod(row.source_shape or ()) * (row.source_depth or 1)


def _places(row: RoleRow, *, depth: bool) -> float | None:
    """The share of the numbers that have a place in the target; layers are transformed by the paper's recipe alone."""
    if row.energy_kept is None or row.source_shape is None:
        return None
    if depth:
        pairs = zip(matrix_shape(row.source_shape), matrix_shape(row.target_shape), strict=True)
        share = min(1.0, row.target_depth / (row.source_depth or 1))
    else:
        pairs, share = zip(row.source_shape, row.target_shape, strict=True), 1.0
    return share * math.prod(min(1.0, new / old) for old, new in pairs)


def _kept_of_noise(row: RoleRow, noise: RoleRow) -> float | None:
    places = _places(row, depth=False)
    return noise.energy_kept if places is not None and places < 1 else places  # all of it, but for rounding


def _gain(rows: list[CompareRow], recipe: str) -> float | None:
    kept = lost = 0.0
    for row in rows:
        share, white = getattr(row, recipe), getattr(row, f"{recipe}_white")
        if share is not None and white is not None and white < 1:
            kept += row.elements * (share - white)
            lost += row.elements * (1 - white)
    return kept / lost if lost else None


def _recommend(gains: tuple[float | None, float | None], why: str) -> tuple[str, str]:
    paper, aligned = gains
    if why:
        return "paper", f"paper: the aligned recipe cannot be applied ({why})"
    if paper is None and aligned is None:
        return (
            "aligned",
            "aligned: the target is nowhere smaller, and it leaves out none of the source's layers, heads and units",
        )
    if aligned is None:
        return (
            "aligned",
            "aligned: it takes whole layers and cuts nothing in them; of what white noise would lose the paper's keeps "
            f"{paper:z.2f}",
        )
    if paper is None:
        return "paper", f"paper: it loses nothing; of what white noise would lose the aligned one keeps {aligned:z.2f}"
    if max(paper, aligned) < _CHANCE:
        return "neither", (
            f"neither: of what white noise would lose the aligned recipe keeps {aligned:z.2f}, the paper's "
            f"{paper:z.2f}; to both the source looks like noise"
        )
    if aligned > paper:
        return "aligned", f"aligned: of what white noise would lose it keeps {aligned:z.2f}, the paper's {paper:z.2f}"
    return "paper", f"paper: of what white noise would lose it keeps {paper:z.2f}, the aligned one {aligned:z.2f}"


def _beside(share: float | None, white: float | None) -> str:
    return "-" if share is None or white is None else f"{100 * share:.1f} % ({100 * white:.1f} %)"
