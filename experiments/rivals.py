"""Other people's ways to start a model from one of another size: entries of the source's tensors, chosen or resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

from front_models._anatomy import Anatomy, Linear, Norm, find_anatomy

State = Mapping[str, Tensor]
Index = Callable[[int, int], Tensor]  # lengths of an axis in the source and the target -> source entries; -1: none
Layers = Callable[[int, int], list[tuple[int, bool]]]  # depths -> source layers; True: it shall add nothing


@dataclass(frozen=True)
class Axis:
    unit: int = 1  # neighbours that stay together: the channels of a head
    packed: int = 1  # such axes, one behind the other: queries, keys, values
    read: bool = False  # whether products are summed along it
    free: bool = True  # whether its length depends on the model's size


@dataclass(frozen=True)
class Move:
    target: str
    source: str
    axes: tuple[Axis, ...]
    silent: bool = False  # of a layer that shall add nothing, what writes


CHANNELS, FIXED = Axis(), Axis(free=False)


def moves(old: Anatomy, new: Anatomy, layers: Layers, heads: int, dims: Mapping[str, int]) -> Iterator[Move]:
    """Where every tensor of the target comes from. heads: of the source; dims: numbers of axes."""

    def linear(a: Linear, b: Linear, other: Axis, reads: bool, silent: bool = False) -> Iterator[Move]:
        axes = [FIXED] * dims[a.weight]
        if len(axes) == 2:
            axes[1 - a.stream] = other
        axes[a.stream] = Axis(read=reads)
        yield Move(b.weight, a.weight, tuple(axes), silent)
        if a.bias is not None and b.bias is not None:
            yield Move(b.bias, a.bias, (other if reads else CHANNELS,), silent)

    def norm(a: Norm, b: Norm) -> Iterator[Move]:
        yield Move(b.weight, a.weight, (CHANNELS,))
        if a.bias is not None and b.bias is not None:
            yield Move(b.bias, a.bias, (CHANNELS,))

    for a, b in zip(old.embeddings, new.embeddings, strict=True):
        yield from linear(a, b, FIXED, False)
    for (i, silent), layer in zip(layers(len(old.layers), len(new.layers)), new.layers, strict=True):
        for one, two in zip(old.layers[i], layer, strict=True):
            unit = old.width // heads if one.kind == "attention" else 1
            yield from norm(one.norm, two.norm)
            for a, b in zip(one.reads, two.reads, strict=True):
                yield from linear(a, b, Axis(unit, a.packed), True)
            yield from linear(one.write, two.write, Axis(unit, read=True), False, silent)
    for a, b in zip(old.heads, new.heads, strict=True):
        yield from linear(a, b, FIXED, True)
    if old.final is not None and new.final is not None:
        yield from norm(old.final, new.final)
    for before, after in zip(old.norms, new.norms, strict=True):
        yield from norm(before, after)


def start(
    source: State, like: State, heads: int, layers: Layers, resize: Callable[[Tensor, Tensor, tuple[Axis, ...]], Tensor]
) -> dict[str, Tensor]:
    old, new = (find_anatomy({name: tuple(x.shape) for name, x in state.items()}) for state in (source, like))
    same = {name for name, tensor in like.items() if name in source and source[name].shape == tensor.shape}
    result = {name: (source if name in same else like)[name].clone() for name in like}
    for move in moves(old, new, layers, heads, {name: x.dim() for name, x in source.items()}):
        value = resize(source[move.source], like[move.target], move.axes)
        result[move.target] = torch.zeros_like(value) if move.silent else value
    return result


def chosen(index: Index, x: Tensor, own: Tensor, axes: tuple[Axis, ...], *, share: bool = False) -> Tensor:
    """Entries of x by index along every axis, the target's own where it has none. share: what is read more than once is
    divided by how often."""
    missing = torch.zeros(own.shape, dtype=torch.bool)
    for dim, axis in enumerate(axes):
        if not axis.free:
            continue
        before, after = (n // (axis.packed * axis.unit) for n in (x.shape[dim], own.shape[dim]))
        entries = index(before, after)
        times = entries.clamp_min(0).bincount(minlength=before)[entries.clamp_min(0)]
        parts = entries + torch.arange(axis.packed)[:, None] * before
        parts = torch.where(entries < 0, -1, parts).flatten()
        units = parts[:, None] * axis.unit + torch.arange(axis.unit)
        units = torch.where(parts[:, None] < 0, -1, units).flatten()
        x = x.index_select(dim, units.clamp_min(0))
        along = [-1 if d == dim else 1 for d in range(own.dim())]
        missing |= (units < 0).view(along)
        if share and axis.read:
            x = x / times.repeat(axis.packed).repeat_interleave(axis.unit).view(along)
    return torch.where(missing, own, x)


def resized(x: Tensor, own: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """Bilinear; packed matrices one by one."""
    packed = axes[0].packed
    pairs = zip(x.chunk(packed), own.chunk(packed), strict=True)
    return torch.cat([_interpolated(a, b.shape, axes) for a, b in pairs])


def _interpolated(x: Tensor, shape: torch.Size, axes: tuple[Axis, ...]) -> Tensor:
    free = [d for d, axis in enumerate(axes) if axis.free]
    if not free:
        return x
    rest = [d for d in range(x.dim()) if d not in free]
    order = [*rest, *free]
    size = [shape[d] for d in free]
    moved = x.permute(order)
    flat = moved.reshape(1, -1, *(x.shape[d] for d in free))
    out = functional.interpolate(flat, size, mode="bilinear" if len(free) == 2 else "linear")
    return out.reshape([shape[d] for d in order]).permute([order.index(d) for d in range(x.dim())])


def first(old: int, new: int) -> Tensor:
    entries = torch.arange(new)
    return torch.where(entries < old, entries, -1)


def even(old: int, new: int) -> Tensor:
    return torch.arange(new) * old // new


def doubled(seed: int, old: int, new: int) -> Tensor:
    """All, and some drawn twice or more; the same ones for every axis of one length."""
    generator = torch.Generator().manual_seed(seed)
    entries = [torch.randperm(old, generator=generator) for _ in range(new // old)]
    return torch.cat([torch.arange(old), *entries])[:new]


def first_layers(old: int, new: int) -> list[tuple[int, bool]]:
    """From the first again where there are no more."""
    return [(i % old, False) for i in range(new)]


def even_layers(old: int, new: int) -> list[tuple[int, bool]]:
    """The first and the last, and what is evenly between."""
    if new > old:
        return [(i * old // new, False) for i in range(new)]
    return [(round(i * (old - 1) / max(1, new - 1)), False) for i in range(new)]


def silent_layers(old: int, new: int) -> list[tuple[int, bool]]:
    """A new layer follows the one that it copies, and adds nothing."""
    sources = [i * old // new for i in range(new)]
    return [(i, i == before) for before, i in zip(chain([-1], sources), sources, strict=False)]


def corner(source: State, like: State, heads: int, layers: Layers) -> dict[str, Tensor]:
    """The first channels, units and heads; where the target has more, its own values."""
    return start(source, like, heads, layers, partial(chosen, first))


def selection(source: State, like: State, heads: int, layers: Layers) -> dict[str, Tensor]:
    """Evenly spaced channels, units and heads (Xu et al., Initializing Models with Larger Ones, ICLR 2024)."""
    return start(source, like, heads, layers, partial(chosen, even))


def bilinear(source: State, like: State, heads: int) -> dict[str, Tensor]:
    return start(source, like, heads, even_layers, resized)


def widened(source: State, like: State, heads: int, layers: Layers, seed: int) -> dict[str, Tensor]:
    """Channels, units and heads copied, what reads the copies divided by their number (Chen et al., Net2Net, ICLR
    2016), and noise of a hundredth against their symmetry. Norms over channels copied unequally often see others."""
    result = start(source, like, heads, layers, partial(chosen, partial(doubled, seed), share=True))
    generator = torch.Generator().manual_seed(seed + 1)
    if any(tensor.shape != result[name].shape for name, tensor in source.items()):
        for value in result.values():
            if value.dim() > 1:
                value += 0.01 * value.std() * torch.randn(value.shape, generator=generator)
    return result
