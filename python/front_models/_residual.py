"""Transfer along the residual stream: its axis is transformed; units, heads and layers are chosen, never mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from front_models._align import (
    align,
    attention_widths,
    check_relatives,
    check_type,
    fold_norms,
    head_counts,
    importance_order,
    names_of,
    to_principal_axes,
)
from front_models._anatomy import Anatomy, NotAlignableError, find_anatomy
from front_models._blocks import pooled_std, statistics
from front_models._config import heads_of, ties_words
from front_models._importance import Work
from front_models._kinds import is_table, kind_of, skips
from front_models._moves import Move, branch_pairs, fits, lost_biases, match_tokens, moved, moves, source_name
from front_models._options import Progress
from front_models._plan import FLOATS
from front_models._report import RoleRow, TransferReport
from front_models._roles import Role, find_axes, group_roles, joint_axes
from front_models._walk import Weights, describe, named_tensors, tied_names

__all__ = ["read_source", "transfer_aligned", "transfer_residual"]


def transfer_aligned(
    source: Weights,
    like: Weights,
    *,
    even: bool,
    heads: int | tuple[int, int] | None = None,
    skip: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], TransferReport]:
    """`align`, and then `transfer_residual`. Where the stream is as wide as the target's, it keeps its coordinates, in
    which optimizers that scale every weight by itself have trained it: units and heads are ordered, no more."""
    tensors, old, known, notes = read_source(source, heads)
    if old.width == find_anatomy(_shapes(named_tensors(like, "like")), "like").width:
        state, _ = importance_order(tensors, known)
    else:
        state, _ = align(tensors, heads=known)
    return _transfer(state, like, notes, even=even, heads=known, skip=skip, progress=progress)


def transfer_residual(
    source: Weights,
    like: Weights,
    *,
    even: bool,
    heads: int | tuple[int, int] | None = None,
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
    1)), of a deeper target floor(i L / L'). Embeddings and heads come from those of the same kind.

    Args:
        even: whether layers are evenly spaced ones of the source, else the first, and from the first again.
        heads: the source's query and key/value heads; None: as far as they are known.

    Raises:
        NotAlignableError: one of the two is of no known architecture, they are of two, or their heads do not fit
            together.
    """
    tensors, _, known, notes = read_source(source, heads)
    return _transfer(tensors, like, notes, even=even, heads=known, skip=skip, progress=progress)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in describe(tensors).items()}


def read_source(
    source: Weights, heads: int | tuple[int, int] | None
) -> tuple[dict[str, Tensor], Anatomy, tuple[int, int] | None, list[str]]:
    """The source's tensors, with the head that a file leaves out because it shares the embedding's; its heads; and what
    there is to note."""
    tensors = dict(named_tensors(source, "source"))
    shapes = _shapes(tensors)
    anatomy = find_anatomy(shapes)
    notes = check_relatives(anatomy, tensors, source)
    known = head_counts(heads, source, anatomy, shapes)
    if anatomy.words is not None and not anatomy.heads and ties_words(source, anatomy.ties):
        tensors[anatomy.words] = tensors[anatomy.embeddings[0].weight]
        anatomy = find_anatomy(_shapes(tensors))
    return tensors, anatomy, known, notes


def _transfer(
    source: dict[str, Tensor],
    target: Weights,
    notes: list[str],
    *,
    even: bool,
    heads: tuple[int, int] | None,
    skip: Sequence[str],
    progress: Progress | None,
) -> tuple[dict[str, Tensor], TransferReport]:
    like, like_heads = named_tensors(target, "like"), heads_of(target)
    shapes, source_shapes = _shapes(like), _shapes(source)
    old, new = find_anatomy(source_shapes), find_anatomy(shapes, "like")
    check_type(new, target, "like")
    if old.family != new.family:
        raise NotAlignableError(
            f"like: is of the architecture {new.family!r}; allowed is that of the source, {old.family!r}"
        )
    one, two = (anatomy.layers[0][0].reads[0] for anatomy in (old, new))
    if one.stream != two.stream:
        raise NotAlignableError(
            f"like: {two.weight} of shape {shapes[two.weight]} has the stream along axis {two.stream}; allowed is the "
            f"source's layout, axis {one.stream}: transpose its matrices, as of Conv1D and Linear"
        )
    layers = [_source_layer(i, len(old.layers), len(new.layers), even=even) for i in range(len(new.layers))]
    _check_heads(old, new, layers, (source_shapes, shapes), (heads, like_heads))
    if heads is not None and like_heads is None:
        notes.append("the target's number of heads is not known: their sizes were not compared")
    if heads is None:
        notes.append("the number of heads is not known: they keep their order, and their sizes were not compared")
    work: Work = {name: source[name].detach().to(torch.float64).clone() for name in names_of(old)}
    rotated = new.width != old.width if old.pre else new.width < old.width
    if rotated and old.pre:
        if old.final is not None and old.bare():
            notes.append(
                "no head but a pooler reads the stream: what the target returns lacks the last norm's scale and bias"
            )
        fold_norms(old, work)
    elif rotated:
        _level_norms(old, work)
        to_principal_axes(old, work)
    tied = tied_names(like)
    _fit_tied_head(old, new, work, tied)
    match_tokens(old, new, work)
    if lost := lost_biases(old, new, layers, {**source, **work}):
        notes.append(
            f"left, because the target has no such bias: {', '.join(lost)}"
            + (" (norms' biases included, which were folded into them)" if rotated and old.pre and not old.rms else "")
        )
    found = {move.target: move for move in moves(old, new, layers, rotated)}
    for name in like:  # what does not touch the stream is taken over where its shape is the same
        own = next((n for n in (source_name(name, old, new, layers), name) if n in source), None)
        if name not in found and own is not None and source[own].shape == like[name].shape and _is_weight(name, like):
            found[name] = Move(name, own, None, 1.0, "fixed")
    for move in found.values():
        if move.source not in work:
            work[move.source] = source[move.source].detach().to(torch.float64)
    axes = joint_axes(shapes, find_axes(shapes), source_shapes, find_axes(source_shapes))
    roles = group_roles(shapes, axes)
    writers, held = _writers(roles, like, tied, found, work, new, skip)
    result: dict[str, Tensor] = {}
    energy: dict[str, float | None] = {}
    for done, role in enumerate(roles, 1):
        for name in role.names:
            owner = tied[name]
            if owner in result:
                continue
            own_values = like[owner].detach()
            writer = writers.get(owner)
            if writer is None:
                result[owner] = own_values.clone(memory_format=torch.contiguous_format)
                continue
            move = found[writer]
            value, energy[writer] = moved(move, work[move.source], own_values, rotated)
            result[owner] = value.to(device=own_values.device, dtype=own_values.dtype).contiguous()
        if progress is not None:
            progress(done, len(roles), role.template)
    rows = [_row(role, source, found, result, tied, energy, held, writers, skip) for role in roles]
    return {name: result[tied[name]] for name in like}, TransferReport(rows, tuple(notes))


def _is_weight(name: str, tensors: Mapping[str, Tensor]) -> bool:
    return tensors[name].dtype in FLOATS and not is_table(name, tuple(tensors[name].shape))


def _writers(
    roles: Sequence[Role],
    like: Mapping[str, Tensor],
    tied: Mapping[str, str],
    found: Mapping[str, Move],
    work: Work,
    new: Anatomy,
    skip: Sequence[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Owner of each tensor -> which of its names says what it becomes: an embedding before a head; and owner -> name
    that is skipped, which holds all others."""
    embeddings = {part.weight for part in new.embeddings}
    held: dict[str, str] = {}
    writers: dict[str, str] = {}
    for role in roles:
        for name in role.names:
            owner = tied[name]
            if skips(skip, kind_of(role.template), role.template, name) is not None:
                held.setdefault(owner, name)
            better = owner not in writers or (name in embeddings and writers[owner] not in embeddings)
            if better and name in found and fits(found[name], work[found[name].source], like[name]):
                writers[owner] = name
    return {owner: name for owner, name in writers.items() if owner not in held}, held


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
    for branch, other in branch_pairs(old, new, layers):
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
    """A head that shares the target's embedding, or that its file leaves out for that, cannot take the last norm's
    scale; one number for all of it can, and the norm's bias with it."""
    if old.final is None or new.words is None:
        return
    head = next((part.weight for part in old.heads if part.weight == old.words), None)
    own = next((part.weight for part in new.heads if part.weight == new.words), None)
    if head is None or (own is None and new.heads):
        return
    if own is not None and tied[own] not in {tied[writer.weight] for writer in new.embeddings}:
        return
    embedding = work[old.embeddings[0].weight]
    if work[head].shape == embedding.shape:
        fit = float((work[head] * embedding).sum() / embedding.square().sum().clamp_min(1e-300))
        for name in (old.final.weight, old.final.bias):
            if name is not None:
                work[name] *= fit * math.sqrt(old.width / new.width)


def _row(
    role: Role,
    source: Mapping[str, Tensor],
    found: Mapping[str, Move],
    result: Mapping[str, Tensor],
    tied: Mapping[str, str],
    energy: Mapping[str, float | None],
    held: Mapping[str, str],
    writers: Mapping[str, str],
    skip: Sequence[str],
) -> RoleRow:
    names = role.names
    owners = [tied[name] for name in names]
    written = [name for name in names if name in energy]
    from_ = [source[found[name].source] for name in written]
    first = result[owners[0]]
    own = all(writers.get(owner, owner) == name for owner, name in zip(owners, names, strict=True))
    shares = [energy[name] for name in written]
    known = [share for share in shares if share is not None]
    words = [skips(skip, kind_of(role.template), role.template, name) for name in names]
    if written:
        action = "transferred"
        if len(written) < len(names):
            kept = "skipped" if any(words) else "left"
            action += f" ({len(names) - len(written)} of {len(names)} tensors {kept})"
        if len(known) < len(shares):
            action += " (NaN or Inf in the source)"
    elif all(word is not None for word in words):
        action = f"skipped: {words[0]}"
    elif all(owner in writers for owner in owners):
        action = f"tied: written as {writers[owners[0]]}"
    elif any(owner in held for owner in owners):
        action = f"skipped: tied to {next(held[owner] for owner in owners if owner in held)}"
    elif not any(name in found for name in names):
        action = "left: the source has no such role"
    else:
        action = "left: nothing of the source fits it"
    return RoleRow(
        role=role.template,
        kind=kind_of(role.template),
        source_shape=tuple(from_[0].shape) if from_ else None,
        source_depth=len({found[name].source for name in written}) if written else None,
        target_shape=tuple(first.shape),
        target_depth=len(names),
        energy_kept=sum(known) / len(known) if known and len(known) == len(shares) else None,
        std_source=pooled_std([statistics(tensor) for tensor in from_]) if from_ else None,
        std_target=pooled_std([statistics(result[owner]) for owner in owners])
        if own and first.dtype in FLOATS
        else None,
        action=action,
    )
