"""Reading the roles of a source, and carrying out a plan, one role at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from front_models._blocks import Statistics, extract_role, kept_energy, pooled_std, rebuild, statistics
from front_models._kinds import hidden_axes, kind_of
from front_models._learngene import GeneRole
from front_models._options import Progress
from front_models._plan import Item, source_roles
from front_models._report import RoleRow, TransferReport
from front_models._roles import Role
from front_models._walk import describe

__all__ = ["Reader", "Rebuild", "carry_out", "check_depths", "check_writable"]


class Reader:
    """The roles of a source model, read and transformed when they are asked for.

    Raises:
        ValueError: `mlp_axes="hidden"` finds no MLP projections.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, keep_ratio: float, mlp_axes: str, depth: bool) -> None:
        self.tensors = tensors
        self.infos = describe(tensors)
        self.roles, self.axes = source_roles(self.infos, depth=depth)
        self._keep_ratio = keep_ratio
        self._hidden = hidden_axes(self.roles) if mlp_axes == "hidden" else {}
        if mlp_axes == "hidden" and not self._hidden:
            raise ValueError("mlp_axes: got 'hidden', but the source has no MLP projections; allowed is 'both' here")

    def extract(
        self,
        role: Role,
        *,
        layer: int | None = None,
        depth_kept: int | None = None,
        limit: tuple[int, int] | None = None,
    ) -> GeneRole:
        """The coefficients of a role, or of one of its layers alone; see `extract_role` for the limits."""
        hidden = self._hidden.get(role.template)
        if layer is not None:
            role = Role(role.names[layer], (), role.shape)
        wide = any(self.infos[name].dtype == torch.float64 for name in role.names)
        return extract_role(
            role,
            self.tensors.__getitem__,
            kind=kind_of(role.template),
            dtype=torch.float64 if wide else torch.float32,
            axes=(hidden in (None, 0), hidden in (None, 1)),
            keep_ratio=self._keep_ratio,
            depth_kept=depth_kept,
            limit=limit,
        )


@dataclass(frozen=True)
class Rebuild:
    """How target tensors are made from coefficients."""

    gain: str | None
    depth_fill: str
    select_n: int | None
    generator: torch.Generator | None

    def kept_depth(self, item: Item) -> int:
        """How many depth coefficients an item uses: min(L, L', select_n)."""
        source = 1 if item.layer is not None or item.source is None else item.source.depth
        return min(source, item.role.depth, self.select_n or item.role.depth)


def check_depths(items: Sequence[Item], depth_fill: str) -> None:
    """Raise ValueError where `repeat` would need more layers than the source has."""
    for item in items:
        if depth_fill == "repeat" and item.write and item.source is not None:
            depth = 1 if item.layer is not None else item.source.depth
            if item.role.depth > depth:
                raise ValueError(
                    "depth_fill: got 'repeat', which needs a target no deeper than the source, but "
                    f"{item.role.template} has {item.role.depth} layers in the target and {depth} in the source; "
                    "allowed here are 'zero', 'random' and 'consistence'"
                )


def check_writable(target: object, tensors: Mapping[str, Tensor], items: Sequence[Item]) -> None:
    """Raise ValueError where a tensor cannot be written in place, before anything is written."""
    own: set[int] | None = None
    if isinstance(target, nn.Module):
        own = {id(tensor) for tensor in (*target.parameters(), *target.buffers())}
    for item in items:
        for i in item.write:
            name = item.role.names[i]
            tensor = tensors[name]
            cause = None
            if any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True)):
                cause = "is expanded: several of its elements share memory"
            elif own is not None and id(tensor) not in own:
                cause = "is a copy that the module's state_dict() made"
            if cause is not None:
                raise ValueError(f"target: {name} {cause}; allowed are tensors that can be written in place")


def carry_out(
    items: Sequence[Item],
    how: Rebuild,
    fetch: Callable[[Item, Role], GeneRole],
    write: Callable[[str, Tensor], Tensor],
    read: Callable[[str], Tensor],
    progress: Progress | None,
) -> TransferReport:
    """Write every planned tensor and report on every role.

    Args:
        items: the plan.
        how: options of the initialisation.
        fetch: the source's coefficients for an item.
        write: name, new matrix -> the written tensor.
        read: name -> the target's tensor as it is now.
        progress: called after each role.
    """
    rows: list[RoleRow] = []
    for done, item in enumerate(items, 1):
        if item.write and item.source is not None:
            rows.append(_carry_out_one(item, how, fetch(item, item.source), write, read))
        else:
            rows.append(_row(item, std_target=_std_now(item, read)))
        if progress is not None:
            progress(done, len(items), item.role.template)
    return TransferReport(rows)


def _carry_out_one(
    item: Item,
    how: Rebuild,
    gene: GeneRole,
    write: Callable[[str, Tensor], Tensor],
    read: Callable[[str], Tensor],
) -> RoleRow:
    role = item.role
    after: dict[int, Statistics] = {}

    def write_layer(i: int, matrix: Tensor) -> None:
        after[i] = statistics(write(role.names[i], matrix))

    rebuild(
        gene,
        role.shape,
        role.depth,
        item.write,
        write_layer,
        gain=how.gain,
        depth_fill=how.depth_fill,
        depth_kept=how.kept_depth(item),
        generator=how.generator,
    )
    untouched = [statistics(read(name)) for i, name in enumerate(role.names) if i not in after]
    numel = gene.matrix[0] * gene.matrix[1]
    before = [
        Statistics(numel, mean, std**2 * (numel - 1))
        for mean, std in zip(gene.mean.tolist(), gene.std.tolist(), strict=True)
    ]
    row = _row(
        item,
        energy=kept_energy(gene, role.shape, how.kept_depth(item)),
        std_source=pooled_std(before),
        std_target=pooled_std([*after.values(), *untouched]),
    )
    if not torch.isfinite(gene.energy).all():
        return replace(row, action=f"{row.action} (NaN or Inf in the source)")
    if not all(math.isfinite(part.deviations) for part in after.values()):
        return replace(row, action=f"{row.action} (NaN or Inf in the result: its dtype is too small)")
    return row


def _std_now(item: Item, read: Callable[[str], Tensor]) -> float | None:
    """Deviation of a role that is not written; of tied ones only where their writer comes earlier, so None for them."""
    tensors = [read(name) for name in item.role.names]
    if item.action.startswith("tied") or not all(tensor.dtype.is_floating_point for tensor in tensors):
        return None
    return pooled_std([statistics(tensor) for tensor in tensors])


def _row(
    item: Item,
    energy: float | None = None,
    std_source: float | None = None,
    std_target: float | None = None,
) -> RoleRow:
    source = item.source
    return RoleRow(
        role=item.role.template,
        kind=item.kind,
        source_shape=None if source is None else source.shape,
        source_depth=None if source is None else (1 if item.layer is not None else source.depth),
        target_shape=item.role.shape,
        target_depth=item.role.depth,
        energy_kept=energy,
        std_source=std_source,
        std_target=std_target,
        action=item.action,
    )
