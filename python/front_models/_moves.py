"""Where each tensor of a target along the residual stream comes from, and what becomes of it on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

import front_kernels
from front_models._anatomy import Anatomy, Branch, Linear, Norm
from front_models._importance import Work
from front_models._kinds import kind_of

__all__ = ["Move", "branch_pairs", "fits", "lost_biases", "match_tokens", "moved", "moves", "source_name"]

# Tokens before the patches that have places of their own: the second one, after the class token.
_TEACHERS = ("dist_token", "embeddings.distillation_token")
_PLACES = ("pos_embed", "embeddings.position_embeddings")
# Heads with a row for each word, as the embedding has; others have one for each class.
_WORDS = ("lm_head", "cls.predictions.decoder")


Part = TypeVar("Part", Linear, Norm)


@dataclass(frozen=True)
class Move:
    """Where one tensor of the target comes from."""

    target: str
    source: str
    stream: int | None  # its axis along the stream; None: it has none
    scale: float  # of the axis along the stream
    # What its other axis is: "units" or "words" that grow by the target's own, "inputs" that grow by zeros, "stream" or
    # "fixed".
    beside: str
    packed: int = 1


def moves(old: Anatomy, new: Anatomy, layers: Sequence[int], rotated: bool) -> Iterator[Move]:
    """Of all that touches the stream. layers: which layer of the source each of the target's is. Embeddings and heads
    of other kinds than the source's come from nowhere."""
    grow = math.sqrt(old.width / new.width)
    read_scale = grow if new.pre else 1.0
    for a, b in _alike(old.embeddings, new.embeddings):
        yield from _linear(a, b, 1.0, "units")
        if b.bias is not None and a.bias is not None:
            yield Move(b.bias, a.bias, 0, 1.0, "fixed")
    for branch, other in branch_pairs(old, new, layers):
        for a, b in zip(branch.reads, other.reads, strict=True):
            yield from _linear(a, b, read_scale, "units")
            if a.bias is not None and b.bias is not None:
                yield Move(b.bias, a.bias, None, 1.0, "units", a.packed)
        yield from _linear(branch.write, other.write, 1.0, "inputs")
        if branch.write.bias is not None and other.write.bias is not None:
            yield Move(other.write.bias, branch.write.bias, 0, 1.0, "fixed")
        yield from _norm(branch.norm, other.norm, old, new)
    heads: list[tuple[Linear, Linear, int | None, str]]
    heads = [(a, b, 1, "words" if b.role in _WORDS else "units") for a, b in _alike(old.heads, new.heads)]
    heads += [(a, b, None, "inputs") for a, b in _alike(old.pooled, new.pooled)]
    written = {writer.weight for writer in old.embeddings} if rotated else set()
    for a, b, stream, beside in heads:
        if a.weight in written:  # a transform, whose results are in the stream's axes, too
            yield Move(b.weight, a.weight, stream, read_scale, "stream")
            continue
        yield Move(b.weight, a.weight, stream, read_scale, beside)
        if a.bias is not None and b.bias is not None:
            yield Move(b.bias, a.bias, None, 1.0, "words" if beside == "words" else "units")
    if old.final is not None and new.final is not None:
        yield from _norm(old.final, new.final, old, new)
    for one, two in _alike(old.norms, new.norms):
        yield from _norm(one, two, old, new)


def _alike(old: Sequence[Part], new: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    """Those of one role."""
    by_role = {part.role: part for part in reversed(old)}
    yield from ((by_role[part.role], part) for part in new if part.role in by_role)


def _linear(a: Linear, b: Linear, scale: float, beside: str) -> Iterator[Move]:
    yield Move(b.weight, a.weight, a.stream, scale, beside, a.packed)


def _norm(a: Norm, b: Norm, old: Anatomy, new: Anatomy) -> Iterator[Move]:
    ratio = math.sqrt(old.width / new.width)
    if old.pre and ratio != 1:  # a plain norm has one scale for all; its bias, if it could not be folded, stays
        yield Move(b.weight, a.weight, None, 1.0, "constant")
    else:  # new channels are 0, which makes the others' deviation smaller
        yield Move(b.weight, a.weight, 0, min(1.0, ratio), "fixed")
    if a.bias is not None and b.bias is not None:
        yield Move(b.bias, a.bias, 0, 1 / ratio if old.pre else 1.0, "fixed")


def branch_pairs(old: Anatomy, new: Anatomy, layers: Sequence[int]) -> Iterator[tuple[Branch, Branch]]:
    for i, layer in zip(layers, new.layers, strict=True):
        yield from zip(old.layers[i], layer, strict=True)


def lost_biases(old: Anatomy, new: Anatomy, layers: Sequence[int], values: Work) -> list[str]:
    """Biases of the source that are not 0 and have no place in the target, by template."""
    parts: list[tuple[Linear | Norm, Linear | Norm]] = []
    for name in ("embeddings", "heads", "pooled", "norms"):
        parts += _alike(getattr(old, name), getattr(new, name))
    for branch, other in branch_pairs(old, new, layers):
        parts += [*zip(branch.reads, other.reads, strict=True), (branch.write, other.write), (branch.norm, other.norm)]
    if old.final is not None and new.final is not None:
        parts.append((old.final, new.final))
    lost = [a.bias for a, b in parts if a.bias is not None and b.bias is None and values[a.bias].any()]
    for i in set(layers):
        start = old.layer.format(i)
        lost = [old.layer + name.removeprefix(start) if name.startswith(start) else name for name in lost]
    return list(dict.fromkeys(lost))


def source_name(name: str, old: Anatomy, new: Anatomy, layers: Sequence[int]) -> str:
    """What the source calls a tensor that touches no stream: that of the layer it is taken from, under its prefix."""
    for i, layer in enumerate(layers):
        start = new.layer.format(i)
        if name.startswith(start):
            return old.layer.format(layer) + name.removeprefix(start)
    return old.prefix + name.removeprefix(new.prefix) if name.startswith(new.prefix) else name


def match_tokens(old: Anatomy, new: Anatomy, work: Work) -> None:
    """Places of a ViT whose tokens are others: without the distillation token's, or with zeros for it."""
    before, after = (any(part.role in _TEACHERS for part in anatomy.embeddings) for anatomy in (old, new))
    for part in old.embeddings:
        if before == after or part.role not in _PLACES:
            continue
        places = work[part.weight]
        own = [] if before else [torch.zeros_like(places[:, :1])]
        work[part.weight] = torch.cat([places[:, :1], *own, places[:, 2 if before else 1 :]], 1)


def fits(move: Move, source: Tensor, own: Tensor) -> bool:
    """Classes of a head, and the pixels of a patch, must be the same; words may be fewer or more."""
    if move.beside == "constant" or source.dim() != own.dim():
        return source.dim() == own.dim()
    if move.beside == "inputs" and move.stream is None:
        return source.shape[0] == own.shape[0]
    if move.beside in ("stream", "words"):
        return True
    others = [d for d in range(own.dim()) if d != move.stream]
    if own.dim() > 2:
        positions = own.dim() == 3 and move.stream == 2
        return all(source.shape[d] == own.shape[d] for d in (others[:1] if positions else others))
    return kind_of(move.target) != "head" or all(source.shape[d] == own.shape[d] for d in others)


def moved(move: Move, source: Tensor, own: Tensor, rotated: bool) -> tuple[Tensor, float | None]:
    """The new tensor in float64, and the share of the old one's energy that it took over; None: it is not a number."""
    total = float(source.square().sum())
    if move.beside == "constant":
        mean = float(source.mean())
        value = torch.full(own.shape, mean, dtype=torch.float64, device=source.device)
        if not math.isfinite(total):
            return value, None
        return value, mean**2 * source.numel() / total if total else 1.0
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
    if not math.isfinite(total):
        return value, None
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


def _beside(x: Tensor, own: Tensor, axis: int, move: Move) -> Tensor:
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
    fits = beside in ("units", "words") and list(rest.shape) == shape
    return torch.cat([x, rest if fits else x.new_zeros(shape)], axis)
