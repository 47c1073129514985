"""The spectral loss of matrices whose rows are divided among processes.

Each transforms its own rows. For the columns there are three ways, of which that with the fewest bytes is taken:

- exchanged: each process gets some whole columns of what the others have found, transforms those, and hands the
  low-pass back in the same way. All work is divided, and what is sent is the intermediate, twice.
- summed: each transforms all columns, of which it has a part and zeros, and the k0 x k1 coefficients are the sum of
  what all have found. Fewer bytes where less is kept than one process' share of the rows.
- gathered: each has the whole matrix, in its own dtype, for as long as it is transformed.

What each process subtracts from its own rows (spectral.py's typical value; of a vector, whose rows have one value each,
the mean) it also tells the others. So all know the mean of all, and go on with that as the matrix' typical value.

Parameters go through all of it in windows; in a window messages of a kind and dtype are one, of what is gathered few.
Columns go by the ops, which are exact whatever torch's matrix products are allowed to do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ._shards import Part, Shard
from ._spectral_definition import compute_dtype, is_constant, loss_dtype
from ._spectral_parts import Between, Scale, Started, apart, stacked

__all__ = ["Part", "Shard", "graded_sharded_loss", "sharded_loss"]

_BUCKET = 32 << 20  # most bytes of coefficients, or of what is exchanged, that are there together
_PANEL = 64 << 20  # most bytes of whole columns at a time


class _Half(NamedTuple):
    """Of a part: coefficients [count, k0, k1], or this process's columns of them, and the same spreads for all."""

    coefficients: Tensor
    spreads: Tensor


class _Own(NamedTuple):
    """Of a part, from this process's rows alone: their first coefficients [count, rows, k1], or, summed, what they add
    to the coefficients [count, k0, k1]; and moments [count, 4]: how many elements, their mean, energy and shift."""

    found: Tensor
    moments: Tensor


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


def _all_gather(own: Tensor, group: Any) -> Tensor:
    """[processes, *own.shape]"""
    # torch 2.13 has renamed it, and warns of the old name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    whole = own.new_empty(dist.get_world_size(group) * len(own), *own.shape[1:])
    gather(whole, own, group=group)
    return whole.view(-1, *own.shape)


Shape = tuple[int, ...]


def _exchange(pieces: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[Shape]], group: Any) -> list[list[Tensor]]:
    """Sends each process its piece of everything, and gives what each has sent, in these shapes.

    pieces and shapes: of everything, by process. Of one dtype all is one message.
    """
    found: list[list[Tensor]] = [[] for _ in pieces]
    processes = range(dist.get_world_size(group))
    for dtype in dict.fromkeys(each[0].dtype for each in pieces):
        those = [i for i, each in enumerate(pieces) if each[0].dtype == dtype]
        own = [[pieces[i][p].reshape(-1) for i in those] for p in processes]
        sent = torch.cat([piece for to in own for piece in to])
        lengths = [[math.prod(shapes[i][p]) for i in those] for p in processes]
        received = sent.new_empty(sum(map(sum, lengths)))
        sizes = [sum(map(len, to)) for to in own]
        dist.all_to_all_single(received, sent, list(map(sum, lengths)), sizes, group=group)
        flat = iter(received.split(list(itertools.chain(*lengths))))
        for p in processes:
            for i in those:
                found[i].append(next(flat).view(shapes[i][p]))
    return found


def _to_columns(rows: Sequence[Tensor], parts: Sequence[Part], group: Any) -> list[Tensor]:
    """From the coefficients of this process's rows, [count, rows, k1], its columns of all, [count, k0, columns]."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    pieces, shapes = [], []
    for t, part in zip(rows, parts, strict=True):
        columns = part.columns(size)
        pieces.append([t[..., each.start : each.stop] for each in columns])
        places = [part.shards[0].rows(p) for p in range(size)]
        shapes.append([(len(t), each.stop - each.start, len(columns[rank])) for each in places])
    found = _exchange(pieces, shapes, group)
    return [torch.ops.front.dct.default(torch.cat(t, 1), part.k[0], 1) for t, part in zip(found, parts, strict=True)]


def _to_rows(coefficients: Sequence[Tensor], parts: Sequence[Part], group: Any) -> list[Tensor]:
    """The opposite: this process's rows of columns that have these coefficients, [count, rows, k1]."""
    size = dist.get_world_size(group)
    pieces, shapes = [], []
    for c, part in zip(coefficients, parts, strict=True):
        shard = part.shards[0]
        low = torch.ops.front.idct.default(c, shard.total, 1)
        pieces.append([low[:, shard.rows(p)] for p in range(size)])
        shapes.append([(len(c), len(shard.local), len(each)) for each in part.columns(size)])
    return [torch.cat(t, 2) for t in _exchange(pieces, shapes, group)]


def _first_half(parts: Sequence[Part], ways: Sequence[str], group: Any) -> list[_Half]:
    rank = dist.get_rank(group)
    gathered = [i for i, way in enumerate(ways) if way == "gathered"]
    halves = dict(zip(gathered, _gathered_halves([parts[i] for i in gathered], group), strict=True))
    own = {i: _own(part, ways[i], rank) for i, part in enumerate(parts) if ways[i] != "gathered"}
    if own:
        every = _all_gather(torch.cat([each.moments for each in own.values()]), group)
        every = every.split([len(each.moments) for each in own.values()], 1)
        for (i, (found, _)), moments in zip(own.items(), every, strict=True):
            shard = parts[i].shards[0]
            spreads, differences = _spreads(moments, shard, found.dtype, rank)
            if ways[i] == "exchanged":
                found[:, :, 0] += (differences * math.sqrt(shard.shape[1])).to(found.dtype)[:, None]
            else:
                ones = differences.new_zeros(shard.total)
                ones[shard.rows(rank)] = math.sqrt(shard.shape[1])
                of_ones = torch.ops.front.dct.default(ones, found.shape[1])
                found[:, :, 0] += (differences[:, None] * of_ones).to(found.dtype)
            halves[i] = _Half(found, spreads)
        exchanged = [i for i in own if ways[i] == "exchanged"]
        columns = _to_columns([own[i].found for i in exchanged], [parts[i] for i in exchanged], group)
        for i, c in zip(exchanged, columns, strict=True):
            halves[i] = halves[i]._replace(coefficients=c)
        _reduce([own[i].found for i in own if ways[i] == "summed"], group)
    return [halves[i] for i in range(len(parts))]


def _spreads(moments: Tensor, shard: Shard, dtype: torch.dtype, rank: int) -> tuple[Tensor, Tensor]:
    """Of all rows, from the moments of every process's, [processes, count, 4]; and how far what this process has
    subtracted from its rows is above the typical value of all."""
    counts, means, energies, shifts = moments.unbind(2)
    mean = (counts * means).sum(0) / shard.total / shard.shape[1]
    energy = (energies + counts * (means - mean).square()).sum(0)
    std = (energy / max(1, shard.total * shard.shape[1] - 1)).sqrt()
    shift = mean.to(dtype).to(mean.dtype)
    constant = is_constant(std, shift, dtype)
    return torch.stack([mean, energy, constant.to(std.dtype), shift], 1), shifts[rank] - shift


def _gathered_halves(parts: Sequence[Part], group: Any) -> list[_Half]:
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
    for dtype in dict.fromkeys(part.shards[0].local.dtype for part in parts):
        those = [(i, s) for i, part in enumerate(parts) for s in part.shards if s.local.dtype == dtype]
        for bunch in _bunches(those, lambda each: each[1].total * each[1].shape[1] * each[1].local.itemsize):
            for (i, _), x in zip(bunch, _gathered([shard for _, shard in bunch], group), strict=True):
                found[i].append(_of_whole(x, parts[i].k))
    return [_Half(torch.stack([c for c, _ in each]), torch.stack([spread for _, spread in each])) for each in found]


def _gathered(shards: Sequence[Shard], group: Any) -> Iterator[Tensor]:
    """The matrices, of one dtype."""
    sizes = [shard.chunk * shard.shape[1] for shard in shards]
    own = shards[0].local.new_zeros(sum(sizes))
    for shard, place in zip(shards, own.split(sizes), strict=True):
        place[: shard.local.numel()] = shard.local.reshape(-1)
    every = _all_gather(own, group).split(sizes, 1)
    for shard, x in zip(shards, every, strict=True):
        yield x.reshape(-1, shard.shape[1])[: shard.total]  # of several a copy


def _of_whole(x: Tensor, kept: tuple[int, int]) -> tuple[Tensor, Tensor]:
    if x.shape[1] == 1:  # as a row, whose typical value is that of many
        c, spreads = torch.ops.front._spectral_crop.default([x.t()], [1, kept[0]])
        return c[0].t(), spreads[0]
    c, spreads = torch.ops.front._spectral_crop.default([x], list(kept))
    return c[0], spreads[0]


def _own(part: Part, way: str, rank: int) -> _Own:
    if way == "exchanged":
        return _transformed_rows([shard.local for shard in part.shards], part.k[1])
    # One matrix at a time: its rows' coefficients are more than what is kept of them.
    found, moments = [], []
    for shard in part.shards:
        t, spread = _transformed_rows([shard.local], part.k[1])
        found.append(_columns(t[0], shard, part.k[0], rank))
        moments.append(spread)
    return _Own(torch.stack(found), torch.cat(moments))


def _transformed_rows(locals_: Sequence[Tensor], kept: int) -> _Own:
    rows, n = locals_[0].shape
    dtype = compute_dtype(locals_[0].dtype)
    if not rows:
        t = locals_[0].new_zeros(len(locals_), 0, kept, dtype=dtype)
        return _Own(t, t.new_zeros(len(locals_), 4, dtype=torch.float64))
    if n == 1:
        x = torch.stack(list(locals_))
        shift = x.mean((1, 2), dtype=torch.float64).to(dtype)
        d = x.to(dtype) - shift[:, None, None]
        wide = d.to(torch.float64)
        rest = wide.mean((1, 2))
        energy = (wide - rest[:, None, None]).square().sum((1, 2))
        return _Own(d, torch.stack([torch.full_like(rest, rows), shift + rest, energy, shift.to(rest.dtype)], 1))
    t, spreads = torch.ops.front._spectral_crop.default(list(locals_), [rows, kept], True)
    mean, energy, _, shift = spreads.unbind(1)
    return _Own(t, torch.stack([torch.full_like(mean, rows * n), mean, energy, shift], 1))


_Item = TypeVar("_Item")


def _bunches(items: Sequence[_Item], nbytes: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Neighbours that have at most _BUCKET bytes together, or single ones."""
    bunch: list[_Item] = []
    held = 0
    for item in items:
        if bunch and held + nbytes(item) > _BUCKET:
            yield bunch
            bunch, held = [], 0
        bunch.append(item)
        held += nbytes(item)
    if bunch:
        yield bunch


def _reduce(tensors: Sequence[Tensor], group: Any) -> None:
    """Sums over the processes, in place, in few messages."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        for bunch in _bunches([t for t in tensors if t.dtype == dtype], lambda t: t.nbytes):
            flat = torch.cat([t.view(-1) for t in bunch])
            dist.all_reduce(flat, group=group)
            for t, piece in zip(bunch, flat.split([t.numel() for t in bunch]), strict=True):
                t.copy_(piece.view_as(t))


def _windows(parts: Sequence[Part], size: int) -> Iterator[slice]:
    """Neighbours that hold at most _BUCKET bytes together, or single ones: they are there at once."""
    for bunch in _bunches(range(len(parts)), lambda i: parts[i].held_bytes(size)):
        yield slice(bunch[0], bunch[-1] + 1)


def _started(part: Part, half: _Half, columns: range | None, scale: Scale, standardize: bool) -> Started:
    shape = part.shards[0].shape
    if part.layers is None:
        return apart(*half, shape, scale, standardize, part.decay, columns)
    return stacked(*half, shape, part.layers, scale, standardize, part.decay, columns)


def _betweens(started: Sequence[Started], ways: Sequence[str], group: Any) -> list[Between]:
    """Sums over the columns of all processes, where each has some."""
    pairs = list(zip(started, ways, strict=True))
    own = [value for each, way in pairs if way == "exchanged" for value in each.sums]
    if own:
        flat = torch.cat([value.reshape(-1) for value in own])
        dist.all_reduce(flat, group=group)
        own = list(flat.split([value.numel() for value in own]))
    every = iter(own)
    return [
        each.finish(*(next(every).view_as(value) if way == "exchanged" else value for value in each.sums))
        for each, way in pairs
    ]


def _second_half(
    own: Sequence[Tensor] | None, part: Part, between: Between, low: Tensor | None, rank: int
) -> Iterator[Tensor]:
    """Of the shards the sums of r^2 of their rows; adds to their gradients. low: of an exchange, else made here."""
    residual = torch.ops.front._spectral_residual_.default
    if not len(part.shards[0].local):
        yield between.terms.new_zeros(len(part.shards))
    elif low is not None:
        yield residual(list(own or ()), [shard.local for shard in part.shards], low, between.terms, True)
    else:
        for j, shard in enumerate(part.shards):
            low = _own_rows(between.coefficients[j], shard, rank)
            grad = [] if own is None else [own[j]]
            yield residual(grad, [shard.local], low[None], between.terms[j : j + 1].contiguous(), True)


def _window(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> tuple[list[Tensor], list[Callable[[Tensor], Tensor]]]:
    """The sums of r^2 of every shard, and of every part its loss from these of all processes."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    ways = [part.way(size) for part in parts]
    halves = _first_half(parts, ways, group)
    started = []
    for part, way in zip(parts, ways, strict=True):
        columns = part.columns(size)[rank] if way == "exchanged" else None
        started.append(_started(part, halves.pop(0), columns, scale, standardize))  # which may hold others by then
    betweens = _betweens(started, ways, group)
    exchanged = [i for i, way in enumerate(ways) if way == "exchanged"]
    lows = _to_rows([betweens[i].coefficients for i in exchanged], [parts[i] for i in exchanged], group)
    low = dict(zip(exchanged, lows, strict=True))
    squares: list[Tensor] = []
    for i, (part, between) in enumerate(zip(parts, betweens, strict=True)):
        squares += _second_half(None if grads is None else grads[i], part, between, low.get(i), rank)
    return squares, [between.loss for between in betweens]


def sharded_loss(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> Tensor:
    """The loss of all parts, the same on every process; grads, of the local rows, += ``scale`` times its gradient."""
    squares: list[Tensor] = []
    losses: list[Callable[[Tensor], Tensor]] = []
    for window in _windows(parts, dist.get_world_size(group)):
        found = _window(None if grads is None else grads[window], parts[window], group, scale, standardize)
        squares += found[0]
        losses += found[1]
    every = torch.cat(squares)
    dist.all_reduce(every, group=group)
    pieces = every.split([len(part.shards) for part in parts])
    loss = torch.stack([of(piece) for of, piece in zip(losses, pieces, strict=True)]).sum()
    return loss.to(loss_dtype([part.shards[0].local for part in parts]))


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
