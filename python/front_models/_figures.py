"""The figures of a report's rows. Those of roles on a GPU stay there until all are done, and come back together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from front_models import _device
from front_models._blocks import Statistics, pooled_std, statistics
from front_models._plan import Item
from front_models._report import RoleRow

__all__ = ["Figures", "Measured", "measured", "on_host", "row_of"]

Measured = Sequence[Statistics] | Tensor
"""Statistics of some tensors; on a GPU mean and deviation: [2, L]."""


@dataclass(frozen=True)
class Figures:
    """What a row will say.

    Attributes:
        item: the role of the target.
        before: mean, deviation and energy of the source's layers: [3, L]; None where nothing was written.
        numel: elements of each of those.
        energy: of the coefficients that were used.
        after, others: of the target's tensors that were written, and of the others; None for what has no deviation.
    """

    item: Item
    before: Tensor | None = None
    numel: int = 0
    energy: Tensor | None = None
    after: Measured = ()
    others: Measured | None = ()


def measured(tensors: Sequence[Tensor]) -> Measured:
    """Statistics of real floating-point tensors of one shape."""
    if not tensors or not _device.on_one_gpu(tensors):
        return [statistics(tensor) for tensor in tensors]
    return _device.moments(tensors)


def on_host(found: Sequence[Figures]) -> list[Figures]:
    """The same without tensors on GPUs: one copy, and so one wait, per GPU."""
    fields = ("before", "energy", "after", "others")
    there: dict[torch.device, list[tuple[int, str, Tensor]]] = {}
    for i, figures in enumerate(found):
        for field in fields:
            value = getattr(figures, field)
            if isinstance(value, Tensor) and value.is_cuda:
                there.setdefault(value.device, []).append((i, field, value))
    here = list(found)
    for entries in there.values():
        values = torch.cat([value.reshape(-1) for _, _, value in entries]).cpu()
        for (i, field, value), part in zip(entries, values.split([v.numel() for _, _, v in entries]), strict=True):
            here[i] = replace(here[i], **{field: part.view(value.shape)})
    return here


def row_of(figures: Figures) -> RoleRow:
    """The row, from figures on the host."""
    item, source = figures.item, figures.item.source
    after, others = (_statistics(each, math.prod(item.role.shape)) for each in (figures.after, figures.others))
    row = RoleRow(
        role=item.role.template,
        kind=item.kind,
        source_shape=None if source is None else source.shape,
        source_depth=None if source is None else (1 if item.layer is not None else source.depth),
        target_shape=item.role.shape,
        target_depth=item.role.depth,
        energy_kept=None,
        std_source=None,
        std_target=None if after is None or others is None else pooled_std([*after, *others]),
        action=item.action,
    )
    if figures.before is None or figures.energy is None or after is None:
        return row
    mean, std, energies = figures.before.tolist()
    before = [_of_moments(figures.numel, *each) for each in zip(mean, std, strict=True)]
    total, kept = sum(energies), figures.energy.item()
    share = min(1.0, kept / total) if math.isfinite(total) and total != 0 else None
    row = replace(row, energy_kept=share, std_source=pooled_std(before))
    if not all(map(math.isfinite, energies)):
        return replace(row, action=f"{row.action} (NaN or Inf in the source)")
    if not all(math.isfinite(part.deviations) for part in after):
        return replace(row, action=f"{row.action} (NaN or Inf in the result: its dtype is too small)")
    return row


def _of_moments(numel: int, mean: float, std: float) -> Statistics:
    return Statistics(numel, mean, std**2 * (numel - 1))


def _statistics(of: Measured | None, numel: int) -> Sequence[Statistics] | None:
    if not isinstance(of, Tensor):
        return of
    return [_of_moments(numel, *each) for each in of.T.tolist()]
