"""One role's coefficients: from its tensors, and back to tensors of another size.

Coefficients are unscaled, C_N[u, i] = cos(pi (2i+1) u / 2N): `norm="backward"` of front_kernels over 2 per axis, which
is exact in binary. Along the layers, the transform of a unit matrix gives the weight of each layer in each coefficient,
so that layers are read and written in groups of bounded size, large ones one at a time. Roles on a GPU are passed on to
_device.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import front_kernels
from front_models import _device
from front_models._learngene import GeneRole
from front_models._roles import Role
from front_models._walk import matrix_shape

__all__ = ["Statistics", "extract_role", "kept_energy", "one_layer", "pooled_std", "rebuild", "statistics"]

# Elements per step of a streamed sum: 1 MiB in float64, which stays in cache.
_CHUNK = 1 << 17
# Most bytes that layers transformed together may take. Threads share a list of small matrices better than each of them;
# a matrix of which no two fit keeps all threads busy alone. A larger limit gains little and takes more memory.
_TOGETHER = 16 << 20


@dataclass(frozen=True)
class Statistics:
    """Element count, mean and sum of squared deviations, in float64."""

    count: int
    mean: float
    deviations: float


def statistics(tensor: Tensor) -> Statistics:
    """Count, mean and squared deviations of a real tensor, summed in float64 in two passes."""
    chunks = tensor.detach().reshape(-1).split(_CHUNK)
    mean = sum(chunk.sum(dtype=torch.float64).item() for chunk in chunks) / max(1, tensor.numel())
    deviations = sum((chunk.to(torch.float64) - mean).square().sum().item() for chunk in chunks)
    return Statistics(tensor.numel(), mean, deviations)


def pooled_std(parts: Sequence[Statistics]) -> float:
    """Standard deviation, with Bessel's correction, of several tensors taken together."""
    count = sum(part.count for part in parts)
    if count < 2:
        return 0.0
    mean = sum(part.count * part.mean for part in parts) / count
    deviations = sum(part.deviations + part.count * (part.mean - mean) ** 2 for part in parts)
    return math.sqrt(deviations / (count - 1))


def extract_role(
    role: Role,
    load: Callable[[str], Tensor],
    *,
    kind: str,
    dtype: torch.dtype,
    axes: tuple[bool, bool],
    keep_ratio: float,
    device: torch.device,
    depth_kept: int | None = None,
    limit: tuple[int, int] | None = None,
) -> GeneRole:
    """The coefficients of one role, `C_L · (C_M X C_N^T)[:k0, :k1]`, X standardised.

    Args:
        role: the source role; its tensors are loaded one after the other.
        load: name -> tensor, real floating point, of the role's shape.
        dtype: float32 or float64, to compute in.
        axes: which matrix axes are transformed and cropped.
        keep_ratio: share of coefficients kept per transformed axis, `max(1, int(n * keep_ratio))`.
        device: where the first tensor is.
        depth_kept: coefficients kept along the layers; None keeps all.
        limit: no more than these coefficients per matrix axis will be used; `kept` still tells what was asked for.
    """
    matrix = matrix_shape(role.shape)
    rows_kept, columns_kept = (max(1, int(n * keep_ratio)) if t else n for n, t in zip(matrix, axes, strict=True))
    kept = rows_kept, columns_kept
    size = kept if limit is None else (min(kept[0], limit[0]), min(kept[1], limit[1]))
    names = role.names
    rows = role.depth if depth_kept is None else depth_kept
    if device.type == "cuda":
        tensors = [load(name) for name in names]
        return _device.extract_role(role, tensors, kind=kind, dtype=dtype, axes=axes, kept=kept, size=size, rows=rows)
    along = front_kernels.dct(torch.eye(role.depth, dtype=torch.float64, device="cpu"), rows, 0, norm="backward") / 2
    stats: list[tuple[float, float, float]] = []

    def read(name: str) -> Tensor:
        tensor = load(name).detach()
        work = torch.empty(matrix, dtype=dtype, device=tensor.device)
        work.view(tensor.shape).copy_(tensor)
        del tensor
        stats.append(_standardise(work))
        return work

    def transformed() -> Iterator[Tensor]:
        for part in _groups(len(names), matrix, axes, dtype):
            group = _forward([read(name) for name in names[part]], axes, size)
            while group:
                yield group.pop(0)

    blocks = transformed()
    coefficients = next(blocks)
    if len(names) > 1:
        first, coefficients = coefficients, coefficients.new_zeros(rows, *size)
        coefficients.view(rows, -1).addr_(along[:, 0].to(first), first.view(-1))
        del first
        for i in range(1, len(names)):
            coefficients.view(rows, -1).addr_(along[:, i].to(coefficients), next(blocks).view(-1))
    mean, std, energy = torch.tensor(stats, dtype=torch.float64, device="cpu").T.contiguous()
    return GeneRole(
        template=role.template,
        layers=role.layers,
        kind=kind,
        shape=role.shape,
        axes=axes,
        kept=kept,
        mean=mean,
        std=std,
        energy=energy,
        coefficients=coefficients.view(-1, *size),
    )


def _standardise(work: Tensor) -> tuple[float, float, float]:
    """`(w - mean) / (std + 1e-8)` in place, 0 for a constant tensor. Returns mean, std and sum of squares after."""
    low, high = torch.aminmax(work)
    chunks = work.view(-1).split(_CHUNK)
    count = work.numel()
    mean = sum(chunk.sum(dtype=torch.float64).item() for chunk in chunks) / count
    # The mean in two parts: rounded to float32 it would leave an offset where |mean| is far above the deviation.
    coarse = torch.tensor(mean, dtype=work.dtype, device="cpu").item()
    work.sub_(coarse).sub_(mean - coarse)
    squares = sum(chunk.to(torch.float64).square().sum().item() for chunk in chunks)
    std = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
    if std <= 8 * torch.finfo(work.dtype).eps * max(abs(low.item()), abs(high.item())):
        work.zero_()
        return mean, std, 0.0
    work.div_(std + 1e-8)
    return mean, std, squares / (std + 1e-8) ** 2


def _groups(count: int, matrix: tuple[int, int], axes: tuple[bool, bool], dtype: torch.dtype) -> Iterator[slice]:
    """Which of `count` layers are transformed together; `matrix`: the larger one of a layer's input and result."""
    layer = 3 * math.prod(matrix) * dtype.itemsize  # input, intermediate and result
    step = max(1, _TOGETHER // layer) if all(axes) else 1  # the list ops transform both axes
    return (slice(start, start + step) for start in range(0, count, step))


def _forward(owned: list[Tensor], axes: tuple[bool, bool], kept: tuple[int, int]) -> list[Tensor]:
    """The first kept unscaled coefficients of the matrices in `owned`, which is emptied to free them early."""
    if len(owned) == 1:
        return [_forward_alone(owned, axes, kept)]
    blocks = front_kernels.dct_crop_many(owned, kept, norm="backward")
    owned.clear()
    return [block.mul_(0.25) for block in blocks]


def _forward_alone(owned: list[Tensor], axes: tuple[bool, bool], kept: tuple[int, int]) -> Tensor:
    work = owned.pop()
    rows, columns = work.shape
    done = [t and n > 1 for t, n in zip(axes, work.shape, strict=True)]
    # NOTE: the op holds a matrix between its two passes; where that and the result are more than one matrix together,
    # axis by axis needs less memory, because the input goes before the second pass.
    between = max(rows * kept[1], kept[0] * columns)
    if all(done) and between + kept[0] * kept[1] <= rows * columns:
        return front_kernels.dct_crop(work, kept, norm="backward").mul_(0.25)
    for axis in (1, 0):
        if done[axis]:
            work = front_kernels.dct(work, kept[axis], axis, norm="backward").mul_(0.5)
    return work[: kept[0], : kept[1]].contiguous()


def _backward(owned: list[Tensor], axes: tuple[bool, bool], size: tuple[int, int]) -> list[Tensor]:
    """The matrices of this size whose first unscaled coefficients are in `owned`, which is emptied; the rest are 0."""
    if len(owned) == 1:
        return [_backward_alone(owned, axes, size)]
    matrices = front_kernels.idct_pad_many([work.mul_(4) for work in owned], size, norm="backward")
    owned.clear()
    return matrices


def _backward_alone(owned: list[Tensor], axes: tuple[bool, bool], size: tuple[int, int]) -> Tensor:
    work = owned.pop()
    rows, columns = work.shape
    done = [t and n > 1 for t, n in zip(axes, size, strict=True)]
    between = max(rows * size[1], size[0] * columns)
    if all(done) and rows * columns + between <= size[0] * size[1]:
        return front_kernels.idct_pad(work.mul_(4), size, norm="backward")
    for axis in (0, 1):
        if done[axis]:
            work = front_kernels.idct(work.mul_(2), size[axis], axis, norm="backward")
    if work.shape == size:
        return work
    padded = work.new_zeros(size)
    padded[: work.shape[0], : work.shape[1]] = work
    return padded


def one_layer(role: GeneRole, index: int) -> GeneRole:
    """The coefficients of one layer alone, by the exact inverse along the layers."""
    if role.depth == 1:
        return role
    weights = front_kernels.idct(2 * torch.eye(role.depth, dtype=torch.float64, device="cpu"), dim=0, norm="backward")
    part = slice(index, index + 1)
    return GeneRole(
        template=role.names[index],
        layers=(),
        kind=role.kind,
        shape=role.shape,
        axes=role.axes,
        kept=role.kept,
        mean=role.mean[part],
        std=role.std[part],
        energy=role.energy[part],
        coefficients=_mix(role.coefficients, weights[index]).unsqueeze(0),
    )


def _mix(coefficients: Tensor, weights: Tensor) -> Tensor:
    """`sum_d weights[d] · coefficients[d]`: [n, k0, k1] and [n] -> [k0, k1], in pieces so that no copy is as large."""
    n, rows, columns = coefficients.shape
    mixed = coefficients.new_empty(rows, columns)
    weights = weights.to(coefficients)
    step = max(1, _CHUNK // (n * columns))
    for start in range(0, rows, step):
        piece = coefficients[:, start : start + step].reshape(n, -1)
        torch.mv(piece.t(), weights, out=mixed[start : start + step].view(-1))
    return mixed


def _depth_weights(n: int, depth: int, fill: str, source_depth: int) -> tuple[Tensor, Tensor | None]:
    """Weight of each kept depth coefficient in each target layer, [depth, n], and of each random slot, [depth, -1]."""
    slots = source_depth if fill == "repeat" else depth
    twice = 2 * torch.eye(slots, dtype=torch.float64, device="cpu")
    inverse = front_kernels.idct(twice, dim=0, norm="backward")[:depth]
    if fill == "consistence":
        index = torch.tensor([i for i in range(n) for _ in range(depth // n + (i < depth % n))], device="cpu")
        return torch.zeros(depth, n, dtype=torch.float64, device="cpu").index_add_(1, index, inverse), None
    return inverse[:, :n], inverse[:, n:] if fill == "random" and n < slots else None


def rebuild(
    role: GeneRole,
    shape: tuple[int, ...],
    depth: int,
    layers: Sequence[int],
    write: Callable[[Sequence[int], Sequence[Tensor]], None],
    *,
    dtype: torch.dtype,
    gain: str | None,
    depth_fill: str,
    depth_kept: int,
    generator: torch.Generator | None,
    whole: bool,
) -> None:
    """Inverse transform at the target's sizes, gain, `* std + mean`; `write(layers, matrices)` for all of `layers`.

    Args:
        role: the source's coefficients; not changed.
        shape, depth: shape of one target tensor, and the number of target layers L'.
        layers: the target layers to make, of 0..L'-1.
        write: takes the matrices of some layers; they are new and may be kept.
        dtype: the target's. On a GPU the matrices have it if it is no wider than the coefficients'; else they have the
            dtype that was computed in.
        gain, depth_fill, generator: as in `initialize`.
        depth_kept: n, how many depth coefficients are used.
        whole: on a GPU, hand over all layers at once rather than in groups of bounded size.
    """
    size = matrix_shape(shape)
    factor = 1.0
    for axis, transformed in enumerate(role.axes):
        if transformed and gain == "area":
            factor *= size[axis] / role.kept[axis]
        elif transformed and gain == "ortho":
            factor *= math.sqrt(size[axis] / role.matrix[axis])
    if role.coefficients.is_cuda:
        wider = dtype.itemsize > role.coefficients.itemsize
        _device.rebuild(
            role,
            shape,
            depth,
            layers,
            write,
            dtype=role.coefficients.dtype if wider else dtype,
            factor=factor,
            depth_fill=depth_fill,
            depth_kept=depth_kept,
            generator=generator,
            whole=whole,
        )
        return
    kept = role.coefficients[:depth_kept]
    block = kept[:, : size[0], : size[1]]
    weights, noise_weights = _depth_weights(len(kept), depth, depth_fill, role.depth)
    noise: Tensor | None = None
    if noise_weights is not None:
        drawn_from = statistics(kept)
        noise = torch.randn(
            (noise_weights.shape[1], *block.shape[1:]),
            generator=generator,
            dtype=block.dtype,
            device=block.device if generator is None else generator.device,
        ).to(block.device)
        noise.mul_(pooled_std([drawn_from])).add_(drawn_from.mean)

    def mixed(i: int) -> Tensor:
        coefficients = _mix(block, weights[i] * factor)
        if noise is not None and noise_weights is not None:
            coefficients += _mix(noise, noise_weights[i] * factor)
        return coefficients

    for part in _groups(len(layers), size, role.axes, block.dtype):
        matrices = _backward([mixed(i) for i in layers[part]], role.axes, size)
        for i in layers[part]:
            layer = min(i, role.depth - 1)
            write([i], [matrices.pop(0).mul_(role.std[layer].item()).add_(role.mean[layer].item())])


def kept_energy(role: GeneRole, shape: tuple[int, ...], depth_kept: int) -> Tensor:
    """Orthonormal energy of the standardised role in the block that a target of this shape takes: [1], float64."""
    if role.coefficients.is_cuda:
        return _device.block_energy(role, shape, depth_kept)
    size = matrix_shape(shape)
    kept = role.coefficients[:depth_kept]
    block = kept[:, : size[0], : size[1]]
    rows, columns = (_orthonormal(n, k, t) for n, k, t in zip(role.matrix, block.shape[1:], role.axes, strict=True))
    layers = _orthonormal(role.depth, len(kept), True)
    step = max(1, _CHUNK // block.shape[2])
    energy = torch.zeros(1, dtype=torch.float64, device="cpu")
    for d in range(len(kept)):
        for start in range(0, block.shape[1], step):
            piece = block[d, start : start + step].to(torch.float64).square()
            energy += layers[d] * (rows[start : start + step] @ (piece @ columns))
    return energy


def _orthonormal(n: int, k: int, transformed: bool) -> Tensor:
    """Squared factor from unscaled to orthonormal for the first k coefficients of an axis of length n."""
    factor = torch.full((k,), 2 / n if transformed else 1.0, dtype=torch.float64, device="cpu")
    if transformed:
        factor[0] = 1 / n
    return factor
