"""Transfer along the residual stream: its axis is transformed; units, heads and layers are chosen, never mixed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import front_kernels
from front_models._align import align, attention_widths, fold_norms, importance_order, names_of, to_principal_axes
from front_models._anatomy import Anatomy, Branch, Linear, Norm, NotAlignableError, find_anatomy
from front_models._blocks import pooled_std, statistics
from front_models._importance import Work
from front_models._kinds import is_table, kind_of, skips
from front_models._options import Progress
from front_models._report import RoleRow, TransferReport
from front_models._roles import find_axes, group_roles
from front_models._walk import Weights, describe, named_tensors, tied_names

__all__ = ["transfer_aligned", "transfer_residual"]


@dataclass(frozen=True)
class _Move:
    """Where one tensor of the target comes from."""

    target: str
    source: str
    stream: int | None  # its axis along the stream; None: it has none
    scale: float  # of the axis along the stream
    # What its other axis is: "units" that grow by the target's own, "inputs" that grow by zeros, "stream" or "fixed".
    beside: str
    packed: int = 1


def transfer_aligned(
    source: Weights,
    like: Mapping[str, Tensor],
    *,
    even: bool,
    heads: int | tuple[int, int] | None = None,
    like_heads: tuple[int, int] | None = None,
    skip: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], TransferReport]:
    """`align`, and then `transfer_residual`. Where the stream is as wide as the target's, it keeps its coordinates, in
    which optimizers that scale every weight by itself have trained it: units and heads are ordered, no more."""
    old, new = (
        find_anatomy({name: info.shape for name, info in describe(x).items()}, argument)
        for x, argument in ((named_tensors(source, "source"), "source"), (like, "like"))
    )
    if old.width == new.width:
        state, known = importance_order(source, heads)
    else:
        state, alignment = align(source, heads=heads)
        known = alignment.heads
    return transfer_residual(state, like, even=even, heads=known, like_heads=like_heads, skip=skip, progress=progress)


def transfer_residual(
    source: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    *,
    even: bool,
    heads: tuple[int, int] | None = None,
    like_heads: tuple[int, int] | None = None,
    skip: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], TransferReport]:
    """A state dict of like's shapes from the source's tensors.

    Along the residual stream, of widths n and n', with the orthonormal DCT: ``D_n'^T pad(crop(D_n w))``, for what
    writes to the stream; for what reads it the same times sqrt(n / n'), because norms make the stream's elements, not
    the stream, of unit size. In a post-norm model norms scale every channel of the stream itself: for a narrower target
    they first get one scale, their mean, and the stream is put into its principal axes, neither of them exactly; for a
    wider one new channels are 0. Where n = n' nothing is done along the stream, and norms stay. Of units, heads,
    vocabulary and positions the first are taken; where the target has more, what the new ones read with is the target's
    own, and what they write with is 0. Layer i of L' is the source's layer i mod L or, even, round(i (L - 1) / (L' -
    1)), of a deeper target floor(i L / L').

    Args:
        even: whether layers are evenly spaced ones of the source, else the first, and from the first again.
        heads, like_heads: query and key/value heads of the two, as far as they are known.

    Raises:
        NotAlignableError: one of the two is of no known architecture, they are of two, or their heads do not fit
            together.
    """
    infos = describe(like)
    shapes = {name: info.shape for name, info in infos.items()}
    source_shapes = {name: info.shape for name, info in describe(source).items()}
    old = find_anatomy(source_shapes)
    new = find_anatomy(shapes, "like")
    if old.family != new.family:
        raise NotAlignableError(
            f"like: is of the architecture {new.family!r}; allowed is that of the source, {old.family!r}"
        )
    layers = [_source_layer(i, len(old.layers), len(new.layers), even=even) for i in range(len(new.layers))]
    _check_heads(old, new, layers, (source_shapes, shapes), (heads, like_heads))
    work: Work = {name: source[name].detach().to(torch.float64).clone() for name in names_of(old)}
    rotated = new.width != old.width if old.pre else new.width < old.width
    if rotated and old.pre:
        fold_norms(old, work, [])
    elif rotated:
        _level_norms(old, work)
        to_principal_axes(old, work)
    tied = tied_names(like)
    _fit_tied_head(old, new, work, tied)
    moves = {move.target: move for move in _moves(old, new, layers, rotated)}
    for name in like:  # what does not touch the stream is taken over where its shape is the same
        same = name in source and source[name].shape == like[name].shape
        if name not in moves and same and _is_weight(name, like[name]):
            moves[name] = _Move(name, name, None, 1.0, "fixed")
    for move in moves.values():
        if move.source not in work:
            work[move.source] = source[move.source].detach().to(torch.float64)
    result: dict[str, Tensor] = {}
    energy: dict[str, float] = {}
    for done, name in enumerate(like, 1):
        if progress is not None:
            progress(done, len(like), name)
        owner = tied[name]
        if owner in result:
            continue
        own = like[owner].detach()
        found = moves.get(owner)
        held = skips(skip, kind_of(owner), owner, owner) is not None
        if found is None or held or not _fits(found, work[found.source], own):
            result[owner] = own.clone(memory_format=torch.contiguous_format)
            continue
        value, energy[owner] = _moved(found, work[found.source], own, rotated)
        result[owner] = value.to(device=own.device, dtype=own.dtype).contiguous()
    rows = [
        _row(role.template, role.names, source, moves, result, tied, energy)
        for role in group_roles(shapes, find_axes(shapes))
    ]
    return {name: result[tied[name]] for name in like}, TransferReport(rows)


def _is_weight(name: str, tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and not is_table(name, tuple(tensor.shape))


def _moves(old: Anatomy, new: Anatomy, layers: Sequence[int], rotated: bool) -> Iterator[_Move]:
    grow = math.sqrt(old.width / new.width)
    read_scale = grow if new.pre else 1.0
    for a, b in zip(old.embeddings, new.embeddings, strict=False):
        yield from _linear(a, b, 1.0, "units")
        if b.bias is not None and a.bias is not None:
            yield _Move(b.bias, a.bias, 0, 1.0, "fixed")
    for branch, other in _branch_pairs(old, new, layers):
        for a, b in zip(branch.reads, other.reads, strict=True):
            yield from _linear(a, b, read_scale, "units")
            if a.bias is not None and b.bias is not None:
                yield _Move(b.bias, a.bias, None, 1.0, "units", a.packed)
        yield from _linear(branch.write, other.write, 1.0, "inputs")
        if branch.write.bias is not None and other.write.bias is not None:
            yield _Move(other.write.bias, branch.write.bias, 0, 1.0, "fixed")
        yield from _norm(branch.norm, other.norm, old, new)
    heads: list[tuple[Linear, Linear, int | None, str]]
    heads = [(a, b, 1, "units") for a, b in zip(old.heads, new.heads, strict=False)]
    heads += [(a, b, None, "inputs") for a, b in zip(old.pooled, new.pooled, strict=False)]
    written = {writer.weight for writer in old.embeddings} if rotated else set()
    for a, b, stream, beside in heads:
        if a.weight in written:  # a transform, whose results are in the stream's axes, too
            yield _Move(b.weight, a.weight, stream, read_scale, "stream")
            continue
        yield _Move(b.weight, a.weight, stream, read_scale, beside)
        if a.bias is not None and b.bias is not None:
            yield _Move(b.bias, a.bias, None, 1.0, "units")
    if old.final is not None and new.final is not None:
        yield from _norm(old.final, new.final, old, new)
    for one, two in zip(old.norms, new.norms, strict=False):
        yield from _norm(one, two, old, new)


def _linear(a: Linear, b: Linear, scale: float, beside: str) -> Iterator[_Move]:
    yield _Move(b.weight, a.weight, a.stream, scale, beside, a.packed)


def _norm(a: Norm, b: Norm, old: Anatomy, new: Anatomy) -> Iterator[_Move]:
    ratio = math.sqrt(old.width / new.width)
    if old.pre and ratio != 1:  # a plain norm has one scale for all; its bias, if it could not be folded, stays
        yield _Move(b.weight, a.weight, None, 1.0, "constant")
    else:  # new channels are 0, which makes the others' deviation smaller
        yield _Move(b.weight, a.weight, 0, min(1.0, ratio), "fixed")
    if a.bias is not None and b.bias is not None:
        yield _Move(b.bias, a.bias, 0, 1 / ratio if old.pre else 1.0, "fixed")


def _branch_pairs(old: Anatomy, new: Anatomy, layers: Sequence[int]) -> Iterator[tuple[Branch, Branch]]:
    for i, layer in zip(layers, new.layers, strict=True):
        yield from zip(old.layers[i], layer, strict=True)


def _source_layer(i: int, old: int, new: int, *, even: bool) -> int:
    if not even:
        return i % old
    if new > old:
        return i * old // new
    return 0 if new == 1 else (2 * i * (old - 1) + new - 1) // (2 * (new - 1))


def _check_heads(
    old: Anatomy,
    new: Anatomy,
    layers: Sequence[int],
    shapes: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]],
    heads: tuple[tuple[int, int] | None, tuple[int, int] | None],
) -> None:
    """Whole heads are taken, so that they must be of one size; queries share keys in groups, also of one size."""
    for branch, other in _branch_pairs(old, new, layers):
        if branch.kind != "attention":
            continue
        (q, k), (q2, k2) = attention_widths(branch, shapes[0]), attention_widths(other, shapes[1])
        name = other.reads[0].weight
        if q * k2 != q2 * k:
            raise NotAlignableError(
                f"like: {name} and {other.reads[1].weight} have {q2} and {k2} rows; allowed are "
                f"rows in the source's proportion, {q} to {k}"
            )
        if heads[0] is not None and heads[1] is not None and q * heads[1][0] != q2 * heads[0][0]:
            raise NotAlignableError(
                f"like: {name} has {heads[1][0]} heads of {q2 // heads[1][0]} rows; allowed are heads of the source's "
                f"size, {q // heads[0][0]}"
            )


def _level_norms(old: Anatomy, work: Work) -> None:
    """Norms of a post-norm model get one scale for all channels, their mean, so that rotations commute with them.

    Branches read as before: of ``W x + b`` with ``x = scale z + shift`` and ``r = scale / mean``, W becomes ``W r`` and
    b grows by ``W (shift - r shift)``. What stays on the stream changes with ``r - 1``, and what heads read, which
    often share their tensor with the embedding.
    """
    for branch, norm in old.through():
        scale, mean = work[norm.weight], work[norm.weight].mean()
        ratio = scale / mean if mean else torch.ones_like(scale)
        for read in branch.reads:
            weight = work[read.weight].movedim(read.stream, -1)
            if read.bias is not None and norm.bias is not None:
                work[read.bias] += weight @ (work[norm.bias] * (1 - ratio))
            weight *= ratio
    for norm in [*old.norms, *(branch.norm for branch in old.branches())]:
        work[norm.weight].fill_(work[norm.weight].mean())


def _fit_tied_head(old: Anatomy, new: Anatomy, work: Work, tied: Mapping[str, str]) -> None:
    """A head that shares the target's embedding cannot take the last norm's scale; one number for all of it can."""
    if old.final is None or not old.pre or not new.heads or not old.heads:
        return
    if tied[new.heads[0].weight] not in {tied[writer.weight] for writer in new.embeddings}:
        return
    head, embedding = work[old.heads[0].weight], work[old.embeddings[0].weight]
    if head.shape == embedding.shape:
        fit = float((head * embedding).sum() / embedding.square().sum().clamp_min(1e-300))
        work[old.final.weight] *= fit * math.sqrt(old.width / new.width)


def _fits(move: _Move, source: Tensor, own: Tensor) -> bool:
    """Classes of a head, and the pixels of a patch, must be the same."""
    if move.beside == "constant" or source.dim() != own.dim():
        return source.dim() == own.dim()
    if move.beside == "inputs" and move.stream is None:
        return source.shape[0] == own.shape[0]
    if move.beside == "stream":
        return True
    others = [d for d in range(own.dim()) if d != move.stream]
    if own.dim() > 2:
        positions = own.dim() == 3 and move.stream == 2
        return all(source.shape[d] == own.shape[d] for d in (others[:1] if positions else others))
    return kind_of(move.target) != "head" or all(source.shape[d] == own.shape[d] for d in others)


def _moved(move: _Move, source: Tensor, own: Tensor, rotated: bool) -> tuple[Tensor, float]:
    """The new tensor in float64, and the share of the old one's energy that it took over."""
    if move.beside == "constant":
        return torch.full(own.shape, float(source.mean()), dtype=torch.float64, device=source.device), 1.0
    total = float(source.square().sum())
    value, kept = source, total
    if move.stream is not None:
        value = _along_stream(source, move.stream, own.shape[move.stream], rotated)
        kept = float(value.square().sum())
        value = value * move.scale
    for axis in range(own.dim()):
        if axis != move.stream:
            before = float(value.square().sum())
            if move.beside == "stream":
                value = _along_stream(value, axis, own.shape[axis], rotated)
            else:
                value = _beside(value, own, axis, move)
            kept *= float(value.square().sum()) / before if before and value.shape[axis] < source.shape[axis] else 1.0
    return value, min(1.0, kept / total) if total else 1.0


def _along_stream(x: Tensor, axis: int, size: int, rotated: bool) -> Tensor:
    if x.shape[axis] == size:
        return x
    kept = min(size, x.shape[axis])
    if rotated:
        return front_kernels.idct(front_kernels.dct(x, kept, axis), size, axis)
    shape = list(x.shape)
    shape[axis] = size
    out = x.new_zeros(shape)
    out.narrow(axis, 0, kept).copy_(x.narrow(axis, 0, kept))
    return out


def _beside(x: Tensor, own: Tensor, axis: int, move: _Move) -> Tensor:
    """The first units; of new ones the target's own values, or zeros."""
    packed = move.packed if axis == (1 - move.stream if move.stream is not None else 0) else 1
    parts = [
        _grown(a, b.to(x), axis, move.beside)
        for a, b in zip(x.chunk(packed, axis), own.to(x.device).chunk(packed, axis), strict=True)
    ]
    return torch.cat(parts, axis)


def _grown(x: Tensor, own: Tensor, axis: int, beside: str) -> Tensor:
    have, want = x.shape[axis], own.shape[axis]
    if want <= have:
        return x.narrow(axis, 0, want)
    rest = own.narrow(axis, have, want - have)
    shape = list(x.shape)
    shape[axis] = want - have
    fits = beside == "units" and list(rest.shape) == shape
    return torch.cat([x, rest if fits else x.new_zeros(shape)], axis)


def _row(
    template: str,
    names: Sequence[str],
    source: Mapping[str, Tensor],
    moves: Mapping[str, _Move],
    result: Mapping[str, Tensor],
    tied: Mapping[str, str],
    energy: Mapping[str, float],
) -> RoleRow:
    owners = [tied[name] for name in names]
    written = [name for name in names if name in energy]
    from_ = [source[moves[name].source] for name in written]
    first = result[owners[0]]
    floats = first.dtype.is_floating_point and all(owner == name for owner, name in zip(owners, names, strict=True))
    if not written:
        taken = [owner for owner in owners if owner in energy]
        action = f"tied: written as {taken[0]}" if taken else "left: nothing of the source fits it"
    else:
        action = "transferred"
    return RoleRow(
        role=template,
        kind=kind_of(template),
        source_shape=tuple(from_[0].shape) if from_ else None,
        source_depth=len({moves[name].source for name in written}) if written else None,
        target_shape=tuple(first.shape),
        target_depth=len(names),
        energy_kept=sum(energy[name] for name in written) / len(written) if written else None,
        std_source=pooled_std([statistics(tensor) for tensor in from_]) if from_ else None,
        std_target=pooled_std([statistics(result[owner]) for owner in owners]) if floats else None,
        action=action,
    )
