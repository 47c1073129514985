"""One role on a GPU: as many launches whatever its depth, no value read back, and no copy of a large role.

The formulas of _blocks.py in another order. There a layer is standardised and then transformed; here the layers are
transformed as they lie, in one call, and what standardising does is done to the coefficients: a constant's transform is
its first coefficient. Rounding errors are then relative to a layer's norm with its mean, as those of its storage are.
Along the layers, too, the ops transform: they keep float32 whatever torch's matrix products are allowed to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import front_kernels
from front_models._learngene import GeneRole
from front_models._roles import Role
from front_models._walk import matrix_shape

__all__ = ["block_energy", "extract_role", "moments", "on_one_gpu", "rebuild"]

# Most bytes of a role of which a copy is made. A layer of a larger one keeps a GPU busy for longer than a launch takes.
_STACKED = 256 << 20


def on_one_gpu(tensors: Sequence[Tensor]) -> bool:
    """Whether they are of one floating-point dtype on one GPU, with something in them."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.is_floating_point()
        and first.numel() > 0
        and all((t.dtype, t.device) == (first.dtype, first.device) for t in tensors)
    )


def _groups(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors [m, n] as tensors [g, m, n], in order: a copy in one if it is small, else each by itself."""
    if len(tensors) > 1 and sum(t.nbytes for t in tensors) <= _STACKED:
        return [torch.stack(tuple(tensors))]
    return [t.unsqueeze(0) for t in tensors]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def _moments(groups: Sequence[Tensor]) -> Tensor:
    """Mean and standard deviation, with Bessel's correction, of each matrix of [g, m, n] tensors: [2, L], float64.

    Computed in float32, of float64 in float64, by an algorithm that is safe where the mean is far above the deviation.
    """
    means, deviations = [], []
    for group in groups:
        correction = min(1, math.prod(group.shape[1:]) - 1)
        if group.itemsize > 2:
            deviation, mean = torch.std_mean(group, (1, 2), correction=correction)
        else:
            # NOTE: with `out` the kernel converts 16-bit numbers as it reads them; std_mean would round its results.
            out = group.new_empty(len(group), dtype=torch.float32)
            deviation = torch.std(group, (1, 2), correction=correction, out=out)
            mean = group.mean((1, 2), dtype=torch.float32)
        means.append(mean)
        deviations.append(deviation)
    return torch.stack((_joined(means), _joined(deviations))).to(torch.float64)


def moments(tensors: Sequence[Tensor]) -> Tensor:
    """Mean and standard deviation of each tensor, all of one shape, dtype and GPU: [2, L], float64, on that GPU."""
    return _moments(_groups([t.detach().reshape(matrix_shape(tuple(t.shape))) for t in tensors]))


def extract_role(
    role: Role,
    tensors: Sequence[Tensor],
    *,
    kind: str,
    dtype: torch.dtype,
    axes: tuple[bool, bool],
    kept: tuple[int, int],
    size: tuple[int, int],
    rows: int,
) -> GeneRole:
    """The coefficients of one role, as in _blocks.extract_role, from all of its tensors.

    Args:
        kept, size: coefficients per matrix axis that are asked for, and that will be used.
        rows: coefficients kept along the layers.
    """
    matrix = matrix_shape(role.shape)
    given = tensors[0].dtype if len({t.dtype for t in tensors}) == 1 else dtype
    groups = _groups([t.detach().reshape(matrix).to(tensors[0].device, given) for t in tensors])
    mean, std = _moments(groups)
    if all(axes):
        parts = front_kernels.dct_crop_many(groups, size, norm="backward", out_dtype=dtype)
    else:
        dim = 1 + axes.index(True)
        other = 3 - dim
        parts = [
            front_kernels.dct(g.narrow(other, 0, size[other - 1]), size[dim - 1], dim, norm="backward", out_dtype=dtype)
            for g in groups
        ]
    del groups
    coefficients = _joined(parts)
    del parts
    # "backward" is twice the unscaled transform along each axis; the layers are one more.
    along = len(tensors) > 1
    unscaled = 0.5 ** (sum(axes) + along)
    scale = torch.where(std <= 8 * torch.finfo(dtype).eps * mean.abs(), 0.0, 1 / (std + 1e-8))
    length = math.prod(n for n, transformed in zip(matrix, axes, strict=True) if transformed)
    factor, first = _per_layer(scale * unscaled, mean * scale * (length * 0.5**along), dtype=dtype)
    coefficients.mul_(factor)
    _of_constants(coefficients, axes).sub_(first)
    if along:
        coefficients = front_kernels.dct(coefficients, rows, 0, norm="backward")
    return GeneRole(
        template=role.template,
        layers=role.layers,
        kind=kind,
        shape=role.shape,
        axes=axes,
        kept=kept,
        mean=mean,
        std=std,
        energy=(std * scale).square() * (math.prod(matrix) - 1),
        coefficients=coefficients,
    )


def _per_layer(*values: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """Each of them [L] -> [L, 1, 1]."""
    return torch.stack(values).to(dtype)[..., None, None].unbind()


def _of_constants(coefficients: Tensor, axes: tuple[bool, bool]) -> Tensor:
    """The coefficients that a constant has, of [L, k0, k1]: the first ones along the axes that are transformed."""
    rows, columns = (slice(1 if transformed else None) for transformed in axes)
    return coefficients[:, rows, columns]


def rebuild(
    role: GeneRole,
    shape: tuple[int, ...],
    depth: int,
    layers: Sequence[int],
    write: Callable[[Sequence[int], Sequence[Tensor]], None],
    *,
    dtype: torch.dtype,
    factor: float,
    depth_fill: str,
    depth_kept: int,
    generator: torch.Generator | None,
    whole: bool,
) -> None:
    """Target tensors from coefficients, as in _blocks.rebuild.

    Args:
        write: takes layers and their matrices, of `dtype` and [m, n], which are new and may be kept.
        dtype: of the results; no wider than the coefficients' own.
        factor: the gain of both axes.
        whole: hand over all layers at once rather than in groups of bounded size.
    """
    size = matrix_shape(shape)
    kept = role.coefficients[:depth_kept]
    coefficients = kept[:, : size[0], : size[1]]
    slots = role.depth if depth_fill == "repeat" else depth
    along = slots > 1
    if along:
        filled = _filled(coefficients, kept, slots, depth_fill, generator)
        coefficients = front_kernels.idct(filled, slots, 0, norm="backward")[:depth]
    # A constant's first coefficient is twice its sum along each axis, if both are transformed; else it is added later.
    first = 4.0 * math.prod(size) if all(role.axes) else 1.0
    std, mean = _per_layer(
        role.std * (factor * 2 ** (sum(role.axes) + along)), role.mean * first, dtype=coefficients.dtype
    )
    std, mean = _at_depth(std, depth), _at_depth(mean, depth)
    coefficients = coefficients.mul_(std) if along else coefficients * std  # in place where it is not the gene's
    if not all(role.axes):
        _rebuild_one_axis(coefficients, mean, size, role.axes.index(True), layers, write, dtype)
        return
    _of_constants(coefficients, role.axes).add_(mean)
    step = len(layers) if whole else max(1, _STACKED // (math.prod(size) * dtype.itemsize))
    for start in range(0, len(layers), step):
        part = layers[start : start + step]
        blocks = [coefficients[i] for i in part]
        write(part, front_kernels.idct_pad_many(blocks, size, norm="backward", out_dtype=dtype))


def _filled(
    block: Tensor, kept: Tensor, slots: int, depth_fill: str, generator: torch.Generator | None
) -> Tensor:  # fmt: skip
    """The kept coefficients [n, k0, k1] with what `depth_fill` puts in the further depth slots, if not zeros."""
    n = len(block)
    if depth_fill == "consistence" and n < slots:
        times, more = divmod(slots, n)
        often, seldom = block[:more], block[more:]
        return torch.cat((often.repeat_interleave(times + 1, 0), seldom.repeat_interleave(times, 0)))
    if depth_fill == "random" and n < slots:
        deviation, mean = torch.std_mean(kept)
        noise = torch.randn(
            (slots - n, *block.shape[1:]),
            generator=generator,
            dtype=block.dtype,
            device=block.device if generator is None else generator.device,
        ).to(block.device)
        return torch.cat((block, noise.mul_(deviation).add_(mean)))
    return block


def _at_depth(values: Tensor, depth: int) -> Tensor:
    """[L, 1, 1] -> [depth, 1, 1]: the last layer's for those beyond."""
    beyond = depth - len(values)
    return values[:depth] if beyond <= 0 else torch.cat((values, values[-1:].expand(beyond, 1, 1)))


def _rebuild_one_axis(
    coefficients: Tensor, mean: Tensor, size: tuple[int, int], axis: int, layers: Sequence[int],
    write: Callable[[Sequence[int], Sequence[Tensor]], None], dtype: torch.dtype,
) -> None:  # fmt: skip
    step = max(1, _STACKED // (math.prod(size) * coefficients.itemsize))
    for start in range(0, len(layers), step):
        part = layers[start : start + step]
        blocks = torch.stack([coefficients[i] for i in part])
        matrices = front_kernels.idct(blocks, size[axis], 1 + axis, norm="backward")
        if matrices.shape[1:] != size:
            beyond = (a - b for a, b in zip(size, matrices.shape[1:], strict=True))
            matrices = torch.constant_pad_nd(matrices, [p for n in reversed(tuple(beyond)) for p in (0, n)])
        matrices += torch.stack([mean[i] for i in part])
        write(part, matrices.to(dtype).unbind(0))


def block_energy(role: GeneRole, shape: tuple[int, ...], depth_kept: int) -> Tensor:
    """Orthonormal energy, as in _blocks.kept_energy, of the block that a target of this shape takes: [1], float64."""
    size = matrix_shape(shape)
    block = role.coefficients[:depth_kept, : size[0], : size[1]]
    # An orthonormal coefficient is sqrt(2 / n) times the unscaled one, and the first one sqrt(1 / n) times.
    energy = torch.linalg.vector_norm(block, dim=2).to(torch.float64).square_()
    if role.axes[1]:
        energy.sub_(block[:, :, 0].to(torch.float64).square_(), alpha=0.5)
    first = energy[:, 0]
    energy = energy.sum(1)
    if role.axes[0]:
        energy.sub_(first, alpha=0.5)
    lengths = (role.depth, *(n for n, transformed in zip(role.matrix, role.axes, strict=True) if transformed))
    total: Tensor = energy.sum(0, keepdim=True).sub_(energy[:1], alpha=0.5)
    return total.mul_(math.prod(2 / n for n in lengths))
