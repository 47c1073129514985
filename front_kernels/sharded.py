"""The spectral loss of matrices whose rows are divided among processes.

Each transforms its own rows, and then the columns, of which it has a part and zeros: the k0 x k1 coefficients are the
sum of what all have found, and the only large thing that is communicated. Where even that is more than the matrix
itself, in its own dtype, that one matrix is gathered instead, transformed, and dropped again.

What each process subtracts from its own rows (spectral.py's typical value; of a vector, whose rows have one value each,
the mean) it also tells the others. So all know the mean of all, and go on with that as the matrix' typical value.

Columns go a few at a time, and by the ops, which are exact whatever torch's matrix products are allowed to do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._spectral_definition import Decay, compute_dtype, is_constant, loss_dtype
from ._spectral_parts import Between, Scale, apart, stacked

__all__ = ["Part", "Shard", "graded_sharded_loss", "sharded_loss"]

_BUCKET = 32 << 20  # most bytes of coefficients that are there, and are reduced, together
_PANEL = 64 << 20  # most bytes of whole columns at a time


@dataclass(frozen=True)
class Shard:
    """This process's rows of a matrix of `total` rows: every process has `chunk` of them, as far as they go."""

    local: Tensor  # [rows, n], may be empty
    chunk: int
    total: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.total, self.local.shape[1]

    def rows(self, rank: int) -> slice:
        """Where the process of this rank has its rows."""
        first = min(rank * self.chunk, self.total)
        return slice(first, min(first + self.chunk, self.total))


@dataclass(frozen=True)
class Part:
    """Shards of one shape and dtype that are independent, or, with `layers` kept, the layers of a stack."""

    shards: tuple[Shard, ...]
    k: tuple[int, int]
    layers: int | None = None
    decay: Decay = None

    def reduce_bytes(self) -> int:
        """What a process sends and receives, times (processes - 1) / processes, where coefficients are summed."""
        dtype = compute_dtype(self.shards[0].local.dtype)
        return 2 * math.prod(self.k) * dtype.itemsize * len(self.shards)

    def gather_bytes(self, size: int) -> int:
        """The same where the matrices are gathered by `size` processes, in equal chunks."""
        first = self.shards[0]
        return size * first.chunk * first.shape[1] * first.local.dtype.itemsize * len(self.shards)

    def gathers(self, size: int) -> bool:
        return self.gather_bytes(size) < self.reduce_bytes()


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


def _first_half(parts: Sequence[Part], group: Any) -> list[tuple[Tensor, Tensor]]:
    """Coefficients and spreads of every part, the same on every process."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    halves: list[tuple[Tensor, Tensor]] = []
    for part in parts:
        found = [_whole(s, part.k, group) if part.gathers(size) else _partial(s, part.k, rank) for s in part.shards]
        halves.append((torch.stack([c for c, _ in found]), torch.stack([spread for _, spread in found])))
    summed = [i for i, part in enumerate(parts) if not part.gathers(size)]
    if not summed:
        return halves
    own = torch.cat([halves[i][1] for i in summed])  # count, mean, energy, shift of this process's rows
    every = own.new_empty(size * len(own), own.shape[1])
    _all_gather(every, own, group)
    columns = every.view(size, len(own), -1)
    first = 0
    for i in summed:
        c, here = halves[i][0], slice(first, first := first + len(parts[i].shards))
        shard, (counts, means, energies, shifts) = parts[i].shards[0], columns[:, here].unbind(2)
        mean = (counts * means).sum(0) / shard.total / shard.shape[1]
        energy = (energies + counts * (means - mean).square()).sum(0)
        std = (energy / max(1, shard.total * shard.shape[1] - 1)).sqrt()
        # Each process has subtracted its own.
        shift = mean.to(c.dtype).to(mean.dtype)
        ones = mean.new_zeros(shard.total)
        ones[shard.rows(rank)] = math.sqrt(shard.shape[1])
        differences = (shifts[rank] - shift)[:, None]
        c[:, :, 0] += (differences * torch.ops.front.dct.default(ones, len(c[0]))).to(c.dtype)
        constant = is_constant(std, shift, c.dtype)
        halves[i] = c, torch.stack([mean, energy, constant.to(std.dtype), shift], 1)
    _reduce([halves[i][0] for i in summed], group)
    return halves


def _whole(shard: Shard, kept: tuple[int, int], group: Any) -> tuple[Tensor, Tensor]:
    x = _gathered(shard, group)
    if shard.shape[1] == 1:  # as a row, whose typical value is that of many
        c, spreads = torch.ops.front._spectral_crop.default([x.t()], [1, kept[0]])
        return c[0].t(), spreads[0]
    c, spreads = torch.ops.front._spectral_crop.default([x], list(kept))
    return c[0], spreads[0]


def _partial(shard: Shard, kept: tuple[int, int], rank: int) -> tuple[Tensor, Tensor]:
    """What this process's rows add to the coefficients, and of these rows: count, mean, energy and shift."""
    rows, n = shard.local.shape
    if not rows:
        c = shard.local.new_zeros(kept, dtype=compute_dtype(shard.local.dtype))
        return c, c.new_zeros(4, dtype=torch.float64)
    if n == 1:
        return _partial_vector(shard, kept, rank)
    t, spreads = torch.ops.front._spectral_crop.default([shard.local], [rows, kept[1]], True)
    mean, energy, _, shift = spreads[0].unbind()
    return _columns(t[0], shard, kept[0], rank), torch.stack([torch.full_like(mean, rows * n), mean, energy, shift])


def _partial_vector(shard: Shard, kept: tuple[int, int], rank: int) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(shard.local.dtype)
    shift = shard.local.mean(dtype=torch.float64).to(dtype)
    d = shard.local.to(dtype) - shift
    wide = d.to(torch.float64)
    rest = wide.mean()
    spread = [torch.full_like(rest, len(d)), shift + rest, (wide - rest).square().sum(), shift.to(torch.float64)]
    return _columns(d, shard, kept[0], rank), torch.stack(spread)


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


def _windows(parts: Sequence[Part]) -> Iterator[slice]:
    """Neighbours whose coefficients are at most _BUCKET bytes together, or single ones: they are there at once."""
    first = held = 0
    for i, part in enumerate(parts):
        own = part.reduce_bytes() // 2
        if i > first and held + own > _BUCKET:
            yield slice(first, i)
            first, held = i, 0
        held += own
    yield slice(first, len(parts))


def _second_half(
    own: Sequence[Tensor] | None, part: Part, between: Between, like: Tensor, rank: int
) -> Iterator[Tensor]:
    """Of every shard the sum of r^2 of its rows; adds to its gradient."""
    for j, shard in enumerate(part.shards):
        if not len(shard.local):
            yield like.new_zeros(1)
            continue
        low = _own_rows(between.coefficients[j], shard, rank)
        grad = [] if own is None else [own[j]]
        term = between.terms[j : j + 1].contiguous()
        yield torch.ops.front._spectral_residual_.default(grad, [shard.local], low[None], term, True)


def _window(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> tuple[list[Tensor], list[Callable[[Tensor], Tensor]]]:
    """The sums of r^2 of every shard, and of every part its loss from these of all processes."""
    squares: list[Tensor] = []
    losses: list[Callable[[Tensor], Tensor]] = []
    for i, (part, (c, spreads)) in enumerate(zip(parts, _first_half(parts, group), strict=True)):
        shape = part.shards[0].shape
        if part.layers is None:
            between = apart(c, spreads, shape, scale, standardize, part.decay)
        else:
            between = stacked(c, spreads, shape, part.layers, scale, standardize, part.decay)
        own = None if grads is None else grads[i]
        squares += _second_half(own, part, between, spreads, dist.get_rank(group))
        losses.append(between.loss)
    return squares, losses


def sharded_loss(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> Tensor:
    """The loss of all parts, the same on every process; grads, of the local rows, += ``scale`` times its gradient."""
    squares: list[Tensor] = []
    losses: list[Callable[[Tensor], Tensor]] = []
    for window in _windows(parts):
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
