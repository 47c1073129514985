"""How much of each role's energy lies in low frequencies, beside what white noise would have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

import front_kernels
from front_models._align import align, stream_shares
from front_models._blocks import Statistics, pooled_std, statistics
from front_models._kinds import kind_of
from front_models._options import check_progress
from front_models._report import PrintsAsTable
from front_models._roles import Role, find_axes, group_roles
from front_models._walk import Weights, describe, matrix_shape, named_tensors

__all__ = ["EnergyRow", "InspectReport", "inspect_weights", "plot_choice"]

# A matrix with a shorter side shows little in a heat map.
SMALLEST_PLOTTED = 8
PLOTTED = 4


@dataclass(frozen=True)
class EnergyRow:
    """Where the energy of one role lies.

    Attributes:
        role: The name with `{}` at the layer axis, or the tensor's name.
        first: The name of the role's first tensor.
        kind: `qkv`, `o`, `mlp`, `norm`, `embed`, `head` or `other`.
        dtype: Such as "float32".
        shape, depth: Shape of one tensor and their number.
        std: Standard deviation of the role's tensors together (Bessel's correction); None unless real floating point.
        quarter, half: Share of the energy ``||D_k (W - mean) D_k'^T||^2 / ||W - mean||^2`` in the corner with
            ``max(1, n // 4)`` and ``max(1, n // 2)`` frequencies of each axis (vectors have one axis), the mean over
            the layers; None where no layer has a share: not floating point, constant, or not finite.
        white_quarter, white_half: What white noise of this shape has, ``(k k' - 1) / (M N - 1)``: the mean is gone, and
            with it one coefficient. None for a single element.
        stream_half, stream_half_aligned: Where it was asked for: share of the energy in the lower half of the
            frequencies along the residual stream (white noise: 1/2), as the weights are and after `align`; the mean
            over the layers, None for what has no axis along the stream. Norms are folded; of a post-norm model it is
            the first half of the channels.
    """

    role: str
    first: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    depth: int
    std: float | None
    quarter: float | None
    half: float | None
    white_quarter: float | None
    white_half: float | None
    stream_half: float | None = None
    stream_half_aligned: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON types."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class InspectReport(PrintsAsTable):
    """One row per role, in the file's order. Prints as a table; `to_dict()` is ready for JSON."""

    rows: list[EnergyRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """`{"rows": [row, ...]}` of JSON types."""
        return {"rows": [row.to_dict() for row in self.rows]}

    def __rich__(self) -> Table:
        title = f"{len(self.rows)} roles: energy in the low corner (white noise's)"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("role", overflow="fold")
        table.add_column("kind", no_wrap=True)
        for heading in ("depth", "shape", "dtype", "std", "lowest quarter", "lowest half"):
            table.add_column(heading, justify="right", no_wrap=True)
        aligned = any(row.stream_half is not None for row in self.rows)
        if aligned:
            table.add_column("half of the stream, aligned", justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                Text(row.role),
                row.kind,
                str(row.depth),
                "x".join(map(str, row.shape)) or "scalar",
                row.dtype,
                "-" if row.std is None else f"{row.std:.3g}",
                _beside(row.quarter, row.white_quarter),
                _beside(row.half, row.white_half),
                *([_change(row.stream_half, row.stream_half_aligned)] if aligned else []),
                style=None if row.half is not None else "dim",
            )
        return table


def inspect_weights(
    source: Weights, *, aligned: bool = False, progress: Callable[[int, int, str], None] | None = None
) -> InspectReport:
    """Measure, role by role, how much energy lies in low frequencies: where it is no more than white noise's, the
    low-frequency part holds no more of the weights than any other part of its size.

    One tensor at a time is read and transformed; with `aligned`, all that touch the residual stream.

    Args:
        source: A mapping of names to tensors, a module, or a path: a .safetensors, .pt, .pth or .bin file, or a
            folder with model.safetensors.
        aligned: Also measure, along the residual stream, what `align` changes.
        progress: Called with (roles done, roles in all, role) after each role.

    Raises:
        FileNotFoundError, ValueError, TypeError: `source` cannot be read, holds no tensors, or is to be aligned and of
            no known architecture.

    Source: Shen et al., FRONT, ICML 2026, arXiv:2603.07523.
    """
    check_progress(progress)
    tensors = named_tensors(source, "source")
    infos = describe(tensors)
    shapes = {name: info.shape for name, info in infos.items()}
    roles = group_roles(shapes, find_axes(shapes))
    plain = stream_shares(tensors) if aligned else {}
    rotated = stream_shares(align(tensors)[0]) if aligned else {}
    rows = []
    for done, role in enumerate(roles, start=1):
        dtype = infos[role.names[0]].dtype
        row = _row(role, dtype, (tensors[name] for name in role.names))
        means = [_mean_share([shares.get(name, math.nan) for name in role.names]) for shares in (plain, rotated)]
        rows.append(dataclasses.replace(row, stream_half=means[0], stream_half_aligned=means[1]))
        if progress is not None:
            progress(done, len(roles), role.template)
    return InspectReport(rows)


def plot_choice(report: InspectReport) -> list[str]:
    """Up to four tensors worth a picture: the largest embedding, the first queries and MLP matrix, and the matrix with
    the most energy in low frequencies; then the largest others.

    Raises:
        ValueError: No role is a matrix with both sides of 8 and more and energy to show.
    """
    rows = [r for r in report.rows if r.half is not None and min(matrix_shape(r.shape)) >= SMALLEST_PLOTTED]
    if not rows:
        raise ValueError(f"there is no matrix with both sides of {SMALLEST_PLOTTED} and more to draw")
    by_size = sorted(rows, key=lambda r: -math.prod(r.shape))
    chosen = [r for r in by_size if r.kind == "embed"][:1]
    for kind in ("qkv", "mlp"):
        chosen += [r for r in rows if r.kind == kind][:1]
    others = [r for r in by_size if r not in chosen]
    chosen += sorted(others, key=lambda r: -_over_white(r))[:1]
    chosen += [r for r in by_size if r not in chosen]
    return [r.first for r in rows if r in chosen[:PLOTTED]]


def _over_white(row: EnergyRow) -> float:
    return (row.half or 0) / (row.white_half or 1)


def _beside(share: float | None, white: float | None) -> str:
    if share is None or white is None:
        return "-"
    return f"{100 * share:.1f} % ({100 * white:.1f} %)"


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{100 * before:.1f} % -> {100 * after:.1f} %"


def _corner(matrix: tuple[int, int], part: int) -> tuple[int, int]:
    return max(1, matrix[0] // part), max(1, matrix[1] // part)


def _row(role: Role, dtype: torch.dtype, tensors: Iterable[Tensor]) -> EnergyRow:
    matrix = matrix_shape(role.shape)
    count = math.prod(matrix)
    std = quarter = half = None
    if dtype.is_floating_point and count:
        parts, shares = zip(*(_measure(tensor, matrix) for tensor in tensors), strict=True)
        std = pooled_std(parts)
        quarter, half = (_mean_share(column) for column in zip(*shares, strict=True))
    white = [(math.prod(_corner(matrix, part)) - 1) / (count - 1) if count > 1 else None for part in (4, 2)]
    return EnergyRow(
        role=role.template,
        first=role.names[0],
        kind=kind_of(role.template),
        dtype=str(dtype).removeprefix("torch."),
        shape=role.shape,
        depth=role.depth,
        std=std,
        quarter=quarter,
        half=half,
        white_quarter=white[0],
        white_half=white[1],
    )


def _measure(tensor: Tensor, matrix: tuple[int, int]) -> tuple[Statistics, tuple[float, float]]:
    """The statistics of one tensor, and its energy's shares in the quarter and the half corner (NaN: no share)."""
    values = tensor.detach().reshape(matrix)
    if values.dtype != torch.float64:
        values = values.to(torch.float32)
    found = statistics(values)
    # As in the transfer: a deviation that rounding alone could have made is no energy.
    floor = 8 * torch.finfo(values.dtype).eps * float(values.abs().max())
    if not found.deviations > found.count * floor**2:
        return found, (math.nan, math.nan)
    half = front_kernels.dct_crop(values - found.mean, _corner(matrix, 2))
    rows, columns = _corner(matrix, 4)
    return found, (_energy(half[:rows, :columns]) / found.deviations, _energy(half) / found.deviations)


def _energy(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _mean_share(shares: Sequence[float]) -> float | None:
    known = [share for share in shares if math.isfinite(share)]
    return sum(known) / len(known) if known else None
