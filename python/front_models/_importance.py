"""The units of MLPs and the heads of attentions, by importance."""

from __future__ import annotations

import torch
from torch import Tensor

from front_models._anatomy import Anatomy, Branch, Linear, Norm

__all__ = ["Work", "order", "stream_last"]

Work = dict[str, Tensor]


def stream_last(weight: Tensor, linear: Linear) -> Tensor:
    """A view with the stream as its last axis."""
    return weight.movedim(linear.stream, -1)


def order(anatomy: Anatomy, work: Work, counts: tuple[int, int] | None) -> None:
    """Units, and heads whose numbers are known, in the order of their importance."""
    for branch, norm in anatomy.through():
        by = _plain(branch, norm, work, centred=not anatomy.rms) if anatomy.pre else work
        if branch.kind == "mlp":
            own = _unit_order(branch, by)
            orders = [own] * len(branch.reads)
        elif counts is not None:
            own, shared = _head_orders(branch, norm, by, counts)
            orders = [own, *[shared] * (len(branch.reads) - 1)]
        else:
            continue
        for read, one in zip(branch.reads, orders, strict=True):
            _reorder(work, read, torch.cat([one + part * len(one) for part in range(read.packed)]), own_bias=True)
        _reorder(work, branch.write, own, own_bias=False)


def _plain(branch: Branch, norm: Norm, work: Work, *, centred: bool) -> Work:
    """Of one branch what folding its norm would make of it, whether that could be folded exactly or not."""
    scale = work[norm.weight]
    by = {norm.weight: torch.ones_like(scale)}
    shift = None if norm.bias is None else work[norm.bias]
    foldable = shift is None or all(read.bias is not None for read in branch.reads)
    if norm.bias is not None and shift is not None:
        by[norm.bias] = torch.zeros_like(shift) if foldable else torch.where(scale == 0, 0.0, shift / scale)
    for read in branch.reads:
        weight = stream_last(work[read.weight], read)
        if read.bias is not None:
            by[read.bias] = work[read.bias] if shift is None or not foldable else work[read.bias] + weight @ shift
        weight = weight * scale
        weight = weight - weight.mean(-1, keepdim=True) if centred and foldable else weight
        by[read.weight] = weight.movedim(-1, read.stream)
    weight = stream_last(work[branch.write.weight], branch.write)
    weight = weight - weight.mean(-1, keepdim=True) if centred else weight
    by[branch.write.weight] = weight.movedim(-1, branch.write.stream)
    return by


def _reorder(work: Work, linear: Linear, order: Tensor, *, own_bias: bool) -> None:
    """The axis beside the stream in another order, and the bias along it."""
    work[linear.weight] = work[linear.weight].index_select(1 - linear.stream, order)
    if own_bias and linear.bias is not None:
        work[linear.bias] = work[linear.bias].index_select(0, order)


def _unit_order(branch: Branch, work: Work) -> Tensor:
    """The units of an MLP by importance: the product of the norms of what each reads with and writes with."""
    importance: Tensor = torch.linalg.vector_norm(stream_last(work[branch.write.weight], branch.write), dim=1)
    for read in branch.reads:
        importance = importance * torch.linalg.vector_norm(stream_last(work[read.weight], read), dim=1)
    return importance.argsort(descending=True, stable=True)


def _head_orders(branch: Branch, norm: Norm, work: Work, counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Channels of queries and of keys, heads by importance, ``|values| |outputs| exp(variance of the scores)``; with
    shared keys by group first.

    Over tokens that a head attends to alike, what it reads averages away, and large values and outputs make up for
    that. exp(variance) is the number of tokens times the sum of squared attention, were scores independent and normal.
    """
    heads, groups = counts
    out = stream_last(work[branch.write.weight], branch.write)  # [attention width, stream]
    size = out.shape[0] // heads
    outputs = torch.linalg.vector_norm(out.reshape(heads, -1), dim=1)
    last = branch.reads[-1]
    values = stream_last(work[last.weight], last).chunk(last.packed)[-1]
    values = torch.linalg.vector_norm(values.reshape(groups, -1), dim=1)
    importance = (outputs.view(groups, -1) * values[:, None]).log() + _score_variance(branch, norm, work, counts)
    by_group = importance.logsumexp(1).argsort(descending=True, stable=True)
    inside = importance.argsort(dim=1, descending=True, stable=True) + torch.arange(groups, device=out.device)[
        :, None
    ] * (heads // groups)
    query_order, key_order = (
        (order[:, None] * size + torch.arange(size, device=out.device)).flatten()
        for order in (inside[by_group].flatten(), by_group)
    )
    return query_order, key_order


def _score_variance(branch: Branch, norm: Norm, work: Work, counts: tuple[int, int]) -> Tensor:
    """Of ``(Q x + q) K y / sqrt(size)`` for x and y that are white but for the norm: [groups, heads of a
    group]. K's bias adds the same to all scores of a token, which softmax takes away. Rotary positions are left out."""
    heads, groups = counts
    query, key = branch.reads[0], branch.reads[min(1, len(branch.reads) - 1)]
    scale = work[norm.weight]
    q = stream_last(work[query.weight], query).chunk(query.packed)[0]
    k = stream_last(work[key.weight], key).chunk(key.packed)[min(1, key.packed - 1)]
    bias = q.new_zeros(len(q)) if query.bias is None else work[query.bias].chunk(query.packed)[0]
    if norm.bias is not None:
        bias = bias + q @ work[norm.bias]
    q = torch.cat([q * scale, bias[:, None]], 1).view(groups, heads // groups, -1, len(scale) + 1)
    k = (k * scale).view(groups, 1, -1, len(scale))
    return (q @ q.mT * (k @ k.mT)).sum((-2, -1)) / q.shape[2]
