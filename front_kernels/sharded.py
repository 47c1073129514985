"""The spectral loss of matrices whose rows are divided among processes.

Each transforms its own rows, ``T = x D_k1^T``, and multiplies them by its columns of ``D_k0``: the k0 x k1 coefficients
are the sum of what all have found, and the only large thing that is communicated. Where even that is more than the
matrix itself, in its own dtype, that one matrix is gathered instead, transformed, and dropped again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._spectral import Decay, compute_dtype, loss_dtype
from ._spectral_parts import Between, Scale, apart, stacked

__all__ = ["Part", "Shard", "graded_sharded_loss", "sharded_loss"]

_BUCKET = 32 << 20  # bytes of coefficients that are reduced together


@dataclass(frozen=True)
class Shard:
    """This process's rows of a matrix of `total` rows: every process has `chunk` of them, as far as they go."""

    local: Tensor  # [rows, n], may be empty
    chunk: int
    total: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.total, self.local.shape[1]


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


@functools.lru_cache(maxsize=64)
def _basis(total: int, kept: int, offset: int, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Columns [offset, offset + rows) of ``D_kept`` of order `total`, transposed: [rows, kept]."""
    i = torch.arange(offset, offset + rows, dtype=torch.int64, device=device)[:, None]
    u = torch.arange(kept, dtype=torch.int64, device=device)
    # The angle is pi * q / 2n with an integer q, reduced exactly before it becomes a float.
    q = ((2 * i + 1) * u) % (4 * total)
    basis = torch.cos(q.to(torch.float64) * (math.pi / (2 * total))) * math.sqrt(2 / total)
    basis[:, :1] = math.sqrt(1 / total)
    return basis.to(dtype)


def _own_basis(shard: Shard, kept: int, rank: int) -> Tensor:
    offset = min(rank * shard.chunk, shard.total)
    return _basis(shard.total, kept, offset, len(shard.local), compute_dtype(shard.local.dtype), shard.local.device)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product in the compute dtype, whatever autocast says."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


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
    coefficients: list[Tensor] = []
    own: list[Tensor] = []  # count, mean, energy of this process's rows
    for part in parts:
        blocks, kept = [], part.k
        for shard in part.shards:
            rows, n = shard.local.shape
            spread = shard.local.new_zeros(3, dtype=torch.float64)
            block = shard.local.new_zeros(kept, dtype=compute_dtype(shard.local.dtype))
            if rows:
                t, found = torch.ops.front._spectral_crop.default([shard.local], [rows, kept[1]], True)
                spread = torch.cat([torch.full_like(found[0, :1], rows * n), found[0, :2]])
                if not part.gathers(size):
                    block = _matmul(_own_basis(shard, kept[0], rank).T, t[0])
            if part.gathers(size):
                block = torch.ops.front.dct_crop.default(_gathered(shard, group), list(kept), out_dtype=block.dtype)
            own.append(spread)
            blocks.append(block)
        coefficients.append(torch.stack(blocks))
    _reduce([c for c, part in zip(coefficients, parts, strict=True) if not part.gathers(size)], group)
    every = own[0].new_empty(size * len(own), 3)
    _all_gather(every, torch.stack(own), group)
    counts, means, energies = every.view(size, len(own), 3).unbind(2)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    energy = (energies + counts * (means - mean).square()).sum(0)
    std = (energy / (count - 1).clamp_min(1)).sqrt()
    result, first = [], 0
    for part, c in zip(parts, coefficients, strict=True):
        here = slice(first, first := first + len(part.shards))
        constant = std[here] <= 8 * torch.finfo(c.dtype).eps * mean[here].abs()
        result.append((c, torch.stack([mean[here], energy[here], constant.to(torch.float64)], 1)))
    return result


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


def sharded_loss(
    grads: Sequence[Sequence[Tensor]] | None, parts: Sequence[Part], group: Any, scale: Scale, standardize: bool
) -> Tensor:
    """The loss of all parts, the same on every process; grads, of the local rows, += ``scale`` times its gradient."""
    rank = dist.get_rank(group)
    betweens: list[Between] = []
    squares: list[Tensor] = []
    for i, (part, (c, spreads)) in enumerate(zip(parts, _first_half(parts, group), strict=True)):
        shape = part.shards[0].shape
        if part.layers is None:
            between = apart(c, spreads, shape, scale, standardize, part.decay)
        else:
            between = stacked(c, spreads, shape, part.layers, scale, standardize, part.decay)
        betweens.append(between)
        for j, shard in enumerate(part.shards):
            if not len(shard.local):
                squares.append(spreads.new_zeros(1))
                continue
            low = _matmul(_own_basis(shard, part.k[0], rank), between.coefficients[j])
            own = [] if grads is None else [grads[i][j]]
            term = between.terms[j : j + 1].contiguous()
            squares.append(torch.ops.front._spectral_residual_.default(own, [shard.local], low[None], term, True))
    found = torch.cat(squares)
    dist.all_reduce(found, group=group)
    pieces = found.split([len(part.shards) for part in parts])
    loss = torch.stack([b.loss(piece) for b, piece in zip(betweens, pieces, strict=True)]).sum()
    return loss.to(loss_dtype([part.shards[0].local for part in parts]))


class _ShardedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Sequence[Part], group: Any, standardize: bool, *locals_: Tensor) -> Tensor:
        ctx.parts, ctx.group, ctx.standardize = parts, group, standardize
        return sharded_loss(None, parts, group, 0.0, standardize)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # once_differentiable would return constants where the scale is one
            raise RuntimeError("the spectral loss of shards is differentiable once: create_graph=True is not possible")
        found = [[torch.zeros_like(shard.local) for shard in part.shards] for part in ctx.parts]
        sharded_loss(found, ctx.parts, ctx.group, grads[0], ctx.standardize)
        return None, None, None, *(grad for part in found for grad in part)


def graded_sharded_loss(parts: Sequence[Part], group: Any, standardize: bool) -> Tensor:
    """sharded_loss under autograd, once."""
    detached = [
        Part(tuple(Shard(s.local.detach(), s.chunk, s.total) for s in p.shards), p.k, p.layers, p.decay) for p in parts
    ]
    flat = [shard.local for part in parts for shard in part.shards]
    out: Tensor = _ShardedLoss.apply(detached, group, standardize, *flat)  # type: ignore[no-untyped-call]
    return out
