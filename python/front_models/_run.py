"""Reading the roles of a source, and carrying out a plan, one role at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from front_models._blocks import Statistics, extract_role, kept_energy, rebuild, statistics
from front_models._figures import Figures, Measured, measured, on_host, row_of
from front_models._kinds import hidden_axes, kind_of
from front_models._learngene import GeneRole
from front_models._options import Progress
from front_models._plan import FLOATS, Item, source_roles
from front_models._report import RoleRow
from front_models._roles import Role
from front_models._walk import TensorInfo, describe

__all__ = ["Reader", "Rebuild", "carry_out", "check_depths", "check_writable", "copy_all"]


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
            device=self.infos[role.names[0]].device,
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
    written: list[tuple[str, Tensor]] = []
    if isinstance(target, nn.Module):
        own = {id(tensor) for tensor in (*target.parameters(), *target.buffers())}
    for item in items:
        for i in item.write:
            name = item.role.names[i]
            tensor = tensors[name]
            cause = None
            if any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True)):
                cause = "is expanded: several of its elements share memory"
            elif tensor.is_inference() and not torch.is_inference_mode_enabled():
                cause = "was made in inference mode"
            elif own is not None and id(tensor) not in own:
                cause = "is a copy that the module's state_dict() made"
            if cause is not None:
                raise ValueError(f"target: {name} {cause}; allowed are tensors that can be written in place")
            written.append((name, tensor))
    if (both := _shared(written)) is not None:
        raise ValueError(
            f"target: {both[0]} shares memory with {both[1] if both[0] != both[1] else 'itself'}; allowed are tensors "
            "that can be written in place, each by itself"
        )


def _shared(tensors: Sequence[tuple[str, Tensor]]) -> tuple[str, str] | None:
    """Two names (or one twice) whose tensors have an element in one place; None: there are none."""
    by_storage: dict[tuple[torch.device, int], list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        if tensor.numel():
            by_storage.setdefault((tensor.device, tensor.untyped_storage().data_ptr()), []).append((name, tensor))
    for parts in by_storage.values():
        parts.sort(key=lambda part: _range(part[1])[0])
        for name, tensor in parts:
            if not _distinct(tensor):
                return name, name
        apart = all(_range(a)[1] < _range(b)[0] for (_, a), (_, b) in pairwise(parts))
        if apart:
            continue
        taken = torch.zeros(
            parts[0][1].untyped_storage().nbytes(), dtype=torch.uint8 if len(parts) < 256 else torch.int32, device="cpu"
        )
        for i, (name, tensor) in enumerate(parts):
            size = tensor.element_size()
            strides = [size * stride for stride in tensor.stride()]
            view = taken.as_strided((*tensor.shape, size), (*strides, 1), size * tensor.storage_offset())
            if before := int(view.max()):
                return parts[before - 1][0], name
            view.fill_(i + 1)
    return None


def _range(tensor: Tensor) -> tuple[int, int]:
    """The first and the last of its bytes in its storage."""
    size, first = tensor.element_size(), int(tensor.storage_offset())
    last = first + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first * size, (last + 1) * size - 1


def _distinct(tensor: Tensor) -> bool:
    """Whether every element has a place of its own."""
    reach = 0
    for stride, n in sorted((stride, n) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1):
        if stride <= reach:  # they interleave: so it has to be counted
            span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            taken = torch.zeros(span, dtype=torch.bool, device="cpu")
            taken.as_strided(tensor.shape, tensor.stride()).fill_(True)
            return int(taken.sum()) == tensor.numel()
        reach += (n - 1) * stride
    return True


def copy_all(targets: Sequence[Tensor], matrices: Sequence[Tensor]) -> None:
    """Matrices into tensors of any shapes, strides, dtypes and devices; together where all are on one GPU."""
    shaped = [matrix.reshape(target.shape) for target, matrix in zip(targets, matrices, strict=True)]
    if targets[0].is_cuda:
        torch._foreach_copy_(list(targets), shaped)
    else:
        for target, matrix in zip(targets, shaped, strict=True):
            target.copy_(matrix)


def carry_out(
    items: Sequence[Item],
    how: Rebuild,
    fetch: Callable[[Item, Role], GeneRole],
    write: Callable[[Sequence[str], Sequence[Tensor]], None],
    read: Callable[[str], Tensor],
    infos: Mapping[str, TensorInfo],
    progress: Progress | None,
    *,
    whole: bool,
) -> list[RoleRow]:
    """Write every planned tensor and report on every role.

    Args:
        items: the plan.
        how: options of the initialisation.
        fetch: the source's coefficients for an item.
        write: takes names and their new matrices.
        read: name -> the target's tensor as it is now.
        infos: of the target's tensors.
        progress: called after each role.
        whole: as in `rebuild`.
    """
    found: list[Figures] = []
    for done, item in enumerate(items, 1):
        if item.write and item.source is not None:
            found.append(_carry_out_one(item, how, fetch(item, item.source), write, read, infos, whole))
        else:
            found.append(Figures(item, others=_of_unwritten(item, read, infos)))
        if progress is not None:
            progress(done, len(items), item.role.template)
    return [row_of(figures) for figures in on_host(found)]


def _carry_out_one(
    item: Item,
    how: Rebuild,
    gene: GeneRole,
    write: Callable[[Sequence[str], Sequence[Tensor]], None],
    read: Callable[[str], Tensor],
    infos: Mapping[str, TensorInfo],
    whole: bool,
) -> Figures:
    names = item.role.names
    dtypes = {infos[names[i]].dtype for i in item.write}
    after: list[Statistics] = []

    def write_layers(layers: Sequence[int], matrices: Sequence[Tensor]) -> None:
        some = [names[i] for i in layers]
        write(some, matrices)
        del matrices
        if not gene.coefficients.is_cuda:  # while they are in the cache
            after.extend(statistics(read(name)) for name in some)

    depth_kept = how.kept_depth(item)
    rebuild(
        gene,
        item.role.shape,
        item.role.depth,
        item.write,
        write_layers,
        dtype=dtypes.pop() if len(dtypes) == 1 else gene.coefficients.dtype,
        gain=how.gain,
        depth_fill=how.depth_fill,
        depth_kept=depth_kept,
        generator=how.generator,
        whole=whole,
    )
    written = set(item.write)
    return Figures(
        item,
        before=torch.stack((gene.mean, gene.std, gene.energy)),
        numel=gene.matrix[0] * gene.matrix[1],
        energy=kept_energy(gene, item.role.shape, depth_kept),
        after=after or measured([read(names[i]) for i in item.write]),
        others=measured([read(name) for i, name in enumerate(names) if i not in written]),
    )


def _of_unwritten(item: Item, read: Callable[[str], Tensor], infos: Mapping[str, TensorInfo]) -> Measured | None:
    """Of a role that is not written; of tied ones only where their writer comes earlier, so None for them."""
    names = item.role.names
    if item.action.startswith("tied") or not all(infos[name].dtype in FLOATS for name in names):
        return None
    return measured([read(name) for name in names])
