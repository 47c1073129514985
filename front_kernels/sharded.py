"""The spectral loss of matrices whose rows are divided among processes.

Each transforms its own rows. For the columns there are three ways, of which that with the fewest bytes is taken:

- exchanged: each process gets some whole columns of what the others have found, transforms those, and hands the
  low-pass back in the same way. All work is divided, and what is sent is the intermediate, twice.
- summed: each transforms all columns, of which it has a part and zeros, and the k0 x k1 coefficients are the sum of
  what all have found. Fewer bytes where less is kept than one process' share of the rows.
- gathered: each has the whole matrix, in its own dtype, for as long as it is transformed.

What each process subtracts from its own rows (spectral.py's typical value; of a vector, whose rows have one value each,
the mean) it also tells the others. So all know the mean of all, and go on with that as the matrix' typical value.

Columns go by the ops, which are exact whatever torch's matrix products are allowed to do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ._shards import Part, Shard
from ._spectral_definition import compute_dtype, is_constant, loss_dtype
from ._spectral_parts import Between, Columns, Scale, apart, stacked

__all__ = ["Part", "Shard", "graded_sharded_loss", "sharded_loss"]

_BUCKET = 32 << 20  # most bytes of coefficients, or of what is exchanged, that are there together
_PANEL = 64 << 20  # most bytes of whole columns at a time


class _Half(NamedTuple):
    """Of a part, the same on every process but for the columns that it has."""

    coefficients: Tensor
    spreads: Tensor
    columns: Columns | None = None


def _panels(like: Tensor, total: int) -> list[slice]:
    """Columns of `like` that are taken together where each has `total` elements."""
    width = max(1, _PANEL // (total * like.itemsize))
    return [slice(first, first + width) for first in range(0, like.shape[-1], width)]


def _columns(own: Tensor, shard: Shard, kept: int, rank: int) -> Tensor:
    """The first `kept` coefficients of columns that are zero but for this process's rows, own [rows, k1]."""
    out = own.new_empty(kept, own.shape[1])
    for panel in _panels(own, shard.total):
        column = own.new_zeros(shard.total, out[:, panel].shape[1])
        column[shard.rows(rank)] = own[:, panel]
        out[:, panel] = torch.ops.front.dct.default(column, kept, 0)
    return out


def _own_rows(c: Tensor, shard: Shard, rank: int) -> Tensor:
    """This process's rows of columns whose coefficients are c [k0, k1]."""
    out = c.new_empty(len(shard.local), c.shape[1])
    for panel in _panels(c, shard.total):
        out[:, panel] = torch.ops.front.idct.default(c[:, panel], shard.total, 0)[shard.rows(rank)]
    return out


def _all_gather(whole: Tensor, own: Tensor, group: Any) -> None:
    # torch 2.13 has renamed it, and warns of the old name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(whole, own, group=group)


def _gathered(shard: Shard, group: Any) -> Tensor:
    size, rows = dist.get_world_size(group), len(shard.local)
    own = shard.local.new_zeros(shard.chunk, shard.shape[1])
    own[:rows] = shard.local
    whole = own.new_empty(size * shard.chunk, shard.shape[1])
    _all_gather(whole, own, group)
    return whole[: shard.total]


def _exchange(pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], group: Any) -> list[Tensor]:
    """Sends every process a piece, and gives what they have sent, in these shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    sent = torch.cat([piece.reshape(-1) for piece in pieces])
    found = sent.new_empty(sum(sizes))
    dist.all_to_all_single(found, sent, sizes, [piece.numel() for piece in pieces], group=group)
    return [each.view(shape) for each, shape in zip(found.split(sizes), shapes, strict=True)]


def _to_columns(t: Tensor, part: Part, group: Any) -> Tensor:
    """From this process's rows of intermediates, [count, rows, k1], its columns of coefficients, [count, k0, k1']."""
    size, columns = dist.get_world_size(group), part.columns(dist.get_world_size(group))
    width = len(columns[dist.get_rank(group)])
    rows = [part.shards[0].rows(p) for p in range(size)]
    pieces = [t[..., each.start : each.stop] for each in columns]
    found = _exchange(pieces, [(len(t), each.stop - each.start, width) for each in rows], group)
    out: Tensor = torch.ops.front.dct.default(torch.cat(found, 1), part.k[0], 1)
    return out


def _to_rows(c: Tensor, part: Part, group: Any) -> Tensor:
    """The opposite: this process's rows of columns whose coefficients are c, [count, rows, k1]."""
    shard, size = part.shards[0], dist.get_world_size(group)
    low = torch.ops.front.idct.default(c, shard.total, 1)
    pieces = [low[:, shard.rows(p)] for p in range(size)]
    found = _exchange(pieces, [(len(c), len(shard.local), len(each)) for each in part.columns(size)], group)
    return torch.cat(found, 2)


def _first_half(parts: Sequence[Part], group: Any) -> list[_Half]:
    """Coefficients and spreads of every part."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    halves = [_gathered_half(part, group) if part.way(size) == "gathered" else _own_half(part) for part in parts]
    divided = [i for i, part in enumerate(parts) if part.way(size) != "gathered"]
    if not divided:
        return halves
    own = torch.cat([halves[i].spreads for i in divided])  # count, mean, energy, shift of this process's rows
    every = own.new_empty(size * len(own), own.shape[1])
    _all_gather(every, own, group)
    processes = every.view(size, len(own), -1)
    first = 0
    for i in divided:
        part, t, here = parts[i], halves[i].coefficients, slice(first, first := first + len(parts[i].shards))
        shard, (counts, means, energies, shifts) = part.shards[0], processes[:, here].unbind(2)
        mean = (counts * means).sum(0) / shard.total / shard.shape[1]
        energy = (energies + counts * (means - mean).square()).sum(0)
        std = (energy / max(1, shard.total * shard.shape[1] - 1)).sqrt()
        # Each process has subtracted its own, which is a constant on its rows.
        shift = mean.to(t.dtype).to(mean.dtype)
        t[:, :, 0] += ((shifts[rank] - shift) * math.sqrt(shard.shape[1])).to(t.dtype)[:, None]
        spreads = torch.stack([mean, energy, is_constant(std, shift, t.dtype).to(std.dtype), shift], 1)
        if part.way(size) == "exchanged":
            columns = Columns(part.columns(size)[rank], lambda sums: _summed(sums, group))
            halves[i] = _Half(_to_columns(t, part, group), spreads, columns)
        else:
            c = torch.stack([_columns(own_rows, shard, part.k[0], rank) for own_rows in t])
            halves[i] = _Half(c, spreads)
    _reduce([halves[i].coefficients for i in divided if parts[i].way(size) == "summed"], group)
    return halves


def _summed(values: Tensor, group: Any) -> Tensor:
    dist.all_reduce(values, group=group)
    return values


def _gathered_half(part: Part, group: Any) -> _Half:
    found = [_whole(shard, part.k, group) for shard in part.shards]
    return _Half(torch.stack([c for c, _ in found]), torch.stack([spread for _, spread in found]))


def _whole(shard: Shard, kept: tuple[int, int], group: Any) -> tuple[Tensor, Tensor]:
    x = _gathered(shard, group)
    if shard.shape[1] == 1:  # as a row, whose typical value is that of many
        c, spreads = torch.ops.front._spectral_crop.default([x.t()], [1, kept[0]])
        return c[0].t(), spreads[0]
    c, spreads = torch.ops.front._spectral_crop.default([x], list(kept))
    return c[0], spreads[0]


def _own_half(part: Part) -> _Half:
    """Of this process's rows: their first k1 coefficients [count, rows, k1]; their count, mean, energy and shift."""
    locals_ = [shard.local for shard in part.shards]
    rows, n = locals_[0].shape
    dtype = compute_dtype(locals_[0].dtype)
    if not rows:
        t = locals_[0].new_zeros(len(locals_), 0, part.k[1], dtype=dtype)
        return _Half(t, t.new_zeros(len(locals_), 4, dtype=torch.float64))
    if n == 1:
        x = torch.stack(locals_)
        shift = x.mean((1, 2), dtype=torch.float64).to(dtype)
        d = x.to(dtype) - shift[:, None, None]
        wide = d.to(torch.float64)
        rest = wide.mean((1, 2))
        energy = (wide - rest[:, None, None]).square().sum((1, 2))
        return _Half(d, torch.stack([torch.full_like(rest, rows), shift + rest, energy, shift.to(rest.dtype)], 1))
    t, spreads = torch.ops.front._spectral_crop.default(locals_, [rows, part.k[1]], True)
    mean, energy, _, shift = spreads.unbind(1)
    return _Half(t, torch.stack([torch.full_like(mean, rows * n), mean, energy, shift], 1))


def _reduce(tensors: Sequence[Tensor], group: Any) -> None:
    """Sums over the processes, in place, in few messages."""
    bucket: list[Tensor] = []

    def flush() -> None:
        flat = torch.cat([t.view(-1) for t in bucket])
        dist.all_reduce(flat, group=group)
        for t, piece in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            t.copy_(piece.view_as(t))
        bucket.clear()

    for t in tensors:
        if bucket and (bucket[0].dtype != t.dtype or sum(b.nbytes for b in bucket) + t.nbytes > _BUCKET):
            flush()
        bucket.append(t)
    if bucket:
        flush()


def _windows(parts: Sequence[Part], size: int) -> Iterator[slice]:
    """Neighbours that hold at most _BUCKET bytes together, or single ones: they are there at once."""
    first = held = 0
    for i, part in enumerate(parts):
        own = part.held_bytes(size)
        if i > first and held + own > _BUCKET:
            yield slice(first, i)
            first, held = i, 0
        held += own
    yield slice(first, len(parts))


def _second_half(own: Sequence[Tensor] | None, part: Part, between: Between, group: Any) -> Iterator[Tensor]:
    """Of the shards the sums of r^2 of their rows; adds to their gradients."""
    residual = torch.ops.front._spectral_residual_.default
    exchanged = part.way(dist.get_world_size(group)) == "exchanged"
    low = _to_rows(between.coefficients, part, group) if exchanged else None  # whoever has rows or not
    if not len(part.shards[0].local):
        yield between.terms.new_zeros(len(part.shards))
    elif low is not None:
        yield residual(list(own or ()), [shard.local for shard in part.shards], low, between.terms, True)
    else:
        for j, shard in enumerate(part.shards):
            low = _own_rows(between.coefficients[j], shard, dist.get_rank(group))
            grad = [] if own is None else [own[j]]
            yield residual(grad, [shard.local], low[None], between.terms[j : j + 1].contiguous(), True)


def _window(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> tuple[list[Tensor], list[Callable[[Tensor], Tensor]]]:
    """The sums of r^2 of every shard, and of every part its loss from these of all processes."""
    squares: list[Tensor] = []
    losses: list[Callable[[Tensor], Tensor]] = []
    for i, (part, (c, spreads, columns)) in enumerate(zip(parts, _first_half(parts, group), strict=True)):
        shape = part.shards[0].shape
        if part.layers is None:
            between = apart(c, spreads, shape, scale, standardize, part.decay, columns)
        else:
            between = stacked(c, spreads, shape, part.layers, scale, standardize, part.decay, columns)
        squares += _second_half(None if grads is None else grads[i], part, between, group)
        losses.append(between.loss)
    return squares, losses


def sharded_loss(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> Tensor:
    """The loss of all parts, the same on every process; grads, of the local rows, += ``scale`` times its gradient."""
    size = dist.get_world_size(group)
    parts, grads = _in_pieces(parts, grads, size)
    squares: list[Tensor] = []
    losses: list[Callable[[Tensor], Tensor]] = []
    for window in _windows(parts, size):
        found = _window(None if grads is None else grads[window], parts[window], group, scale, standardize)
        squares += found[0]
        losses += found[1]
    every = torch.cat(squares)
    dist.all_reduce(every, group=group)
    pieces = every.split([len(part.shards) for part in parts])
    loss = torch.stack([of(piece) for of, piece in zip(losses, pieces, strict=True)]).sum()
    return loss.to(loss_dtype([part.shards[0].local for part in parts]))


def _in_pieces(
    parts: Sequence[Part], grads: Sequence[Sequence[Tensor]] | None, size: int
) -> tuple[list[Part], list[Sequence[Tensor]] | None]:
    """The same with at most _BUCKET bytes held for each part, as far as its shards are independent."""
    pieces: list[Part] = []
    own: list[Sequence[Tensor]] = []
    for i, part in enumerate(parts):
        count = len(part.shards)
        step = count if part.layers is not None else max(1, count * _BUCKET // max(1, part.held_bytes(size)))
        for first in range(0, count, step):
            here = slice(first, first + step)
            pieces.append(replace(part, shards=part.shards[here]))
            if grads is not None:
                own.append(grads[i][here])
    return pieces, None if grads is None else own


def _with(parts: Sequence[Part], locals_: Iterable[Tensor]) -> list[Part]:
    own = iter(locals_)
    return [replace(part, shards=tuple(replace(s, local=next(own)) for s in part.shards)) for part in parts]


class _ShardedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Sequence[Part], group: Any, standardize: bool, *locals_: Tensor) -> Tensor:
        ctx.save_for_backward(*locals_)
        ctx.parts, ctx.group, ctx.standardize = parts, group, standardize
        return sharded_loss(None, _with(parts, locals_), group, 0.0, standardize)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # once_differentiable would return constants where the scale is one
            raise RuntimeError("the spectral loss of shards is differentiable once: create_graph=True is not possible")
        parts = _with(ctx.parts, ctx.saved_tensors)
        found = [[torch.zeros_like(shard.local) for shard in part.shards] for part in parts]
        sharded_loss(found, parts, ctx.group, grads[0], ctx.standardize)
        return None, None, None, *(grad for part in found for grad in part)


def graded_sharded_loss(parts: Sequence[Part], group: Any, standardize: bool) -> Tensor:
    """sharded_loss under autograd, once."""
    flat = [shard.local for part in parts for shard in part.shards]
    bare = _with(parts, itertools.repeat(torch.empty(0)))  # tensors are autograd's to keep
    out: Tensor = _ShardedLoss.apply(bare, group, standardize, *flat)  # type: ignore[no-untyped-call]
    return out
