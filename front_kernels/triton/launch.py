"""Tensors as launches of the kernels: which bases, strides, tiles and temporaries, for what engines.py asks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import basis, kernels, tiles

__all__ = ["Launch", "Target", "axis", "matrices"]

_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_KINDS = {torch.float16: "half", torch.bfloat16: "half", torch.float32: "single", torch.float64: "double"}


@dataclass(frozen=True)
class Launch:
    """One kernel and all it is called with."""

    kernel: Any
    grid: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> None:
        # NOTE: fusion of multiplications and additions is Triton's default up to 3.9 only.
        self.kernel[(self.grid,)](**self.arguments, **self.constants, **self.options, enable_fp_fusion=True)


@dataclass(frozen=True)
class Target:
    """What launches depend on besides tensors: the device and how products are made."""

    names: tuple[str, ...]  # the device's and its architecture's, for tiles
    multiprocessors: int
    precision: str = "highest"
    tf32: bool = True  # tensor cores that take TF32; others take float32 as three bfloat16
    run: Callable[[Launch], None] = lambda launch: launch.run()  # or what looks at launches instead

    def products(self, dtype: torch.dtype) -> str:
        """Triton's input_precision for operands of a dtype."""
        if dtype != torch.float32:
            return "ieee"  # 16-bit operands as they are; float64
        if not self.tf32:
            return "bf16x3" if self.precision == "fast" else "bf16x6"
        return "tf32" if self.precision == "fast" else "tf32x3"

    def terms(self, dtype: torch.dtype) -> int:
        """Terms of a basis that multiplies inputs of a dtype."""
        return 2 if self.precision == "highest" and dtype.itemsize == 2 else 1

    def folds(self, dtype: torch.dtype, contiguous: bool) -> bool:
        """Whether sums are folded: not where that needs more bits than the inputs have, or reads backwards."""
        if contiguous or dtype == torch.float64:
            return False
        return dtype == torch.float32 or self.precision == "fast"


@dataclass(frozen=True)
class View:
    """Matrices of one layout: strides along `axes` (the axis that is transformed, the lanes) and of two batch axes."""

    tensors: tuple[Tensor, ...]
    along: int
    lanes: int
    batch: tuple[int, int]

    def argument(self) -> Tensor:
        """The tensor, or the addresses of several."""
        if len(self.tensors) == 1:
            return self.tensors[0]
        return _addresses(self.tensors)

    def constants(self, name: str) -> dict[str, Any]:
        return {f"{name}_TYPE": _TYPES[self.tensors[0].dtype]}

    @property
    def aligned(self) -> bool:
        return all(t.data_ptr() % 16 == 0 for t in self.tensors)


def _addresses(tensors: Sequence[Tensor]) -> Tensor:
    values = [t.data_ptr() for t in tensors]
    device = tensors[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _addresses_by_kernels(values, device)
    table = torch.tensor(values, dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _addresses_by_kernels(values: Sequence[int], device: torch.device) -> Tensor:
    """As arguments of kernels, 16 in each: a CUDA graph replays a copy from memory that is the host's by then."""
    table = torch.empty(-(-len(values) // 16) * 16, dtype=torch.int64, device=device)
    for i in range(0, len(values), 16):
        part = [*values[i : i + 16], *values[-1:] * 15][:16]
        kernels.addresses[(1,)](table[i : i + 16], *part, num_warps=1)
    return table


def _launch(
    target: Target, kernel: Any, grid: int, arguments: dict[str, Any], constants: dict[str, Any], tile: tiles.Tile
) -> None:
    if grid:
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        target.run(Launch(kernel, grid, arguments, constants, options))


def _compute_dtype(x: torch.dtype, out: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in (x, out) else torch.float32


def _basis_arguments(found: basis.Basis, row: str = "basis_u") -> dict[str, Any]:
    term, parity, stride = found.strides
    return {"basis": found.data, row: stride, "parity": parity, "term": term}


@dataclass(frozen=True)
class Batch:
    """Sizes and strides of the axes before the matrix, merged where they can be; at most two are left for a launch."""

    sizes: tuple[int, int]
    x: tuple[int, int]
    out: tuple[int, int]

    @property
    def count(self) -> int:
        return self.sizes[0] * self.sizes[1]


Axes = list[tuple[int, int, int]]  # size, stride of x, stride of out


def _merged(axes: Iterable[tuple[int, int, int]]) -> Axes:
    """The same elements by fewer axes, outermost first."""
    found: Axes = []
    for size, a, b in axes:
        if size == 1:
            continue
        if found and found[-1][1] == a * size and found[-1][2] == b * size:
            found[-1] = (found[-1][0] * size, a, b)
        else:
            found.append((size, a, b))
    return found


def _axes(x: Tensor, out: Tensor, but: Sequence[int]) -> Axes:
    dims = [d for d in range(x.dim()) if d not in but]
    return _merged((x.shape[d], x.stride(d), out.stride(d)) for d in dims)


def _batch(axes: Axes) -> Batch:
    (s0, a0, b0), (s1, a1, b1) = [(1, 0, 0)] * (2 - len(axes)) + axes
    return Batch((s0, s1), (a0, a1), (b0, b1))


def _single(axes: Axes, x: int, out: int) -> tuple[Axes, list[tuple[int, int]]]:
    """At most two axes, and the offsets (of x, of out) at which they start: further axes are taken one by one."""
    offsets = [(x, out)]
    for size, a, b in axes[:-2]:
        offsets = [(p + i * a, q + i * b) for p, q in offsets for i in range(size)]
    return axes[-2:], offsets


def _at(x: Tensor, offset: int) -> Tensor:
    return x.as_strided((1,), (1,), offset)


def _axis_pass(
    target: Target, x: View, out: View, sizes: tuple[int, int, int], batch: Batch, inverse: bool, norm: str,
) -> None:  # fmt: skip
    """sizes: terms (elements of x along the axis), rows (elements of out along it), lanes."""
    terms, rows, lanes = sizes
    n, k = (rows, terms) if inverse else (terms, rows)
    first, last = x.tensors[0], out.tensors[0]
    compute = _compute_dtype(first.dtype, last.dtype)
    dot = compute if compute == torch.float64 else first.dtype
    fold = not inverse and n > 1 and target.folds(dot, contiguous=x.along == 1 and x.lanes != 1)
    number = target.terms(dot)
    found = basis.get(basis.Key(n, k, inverse, norm, dot, number, fold, first.device))
    tile = tiles.nearest(target.names, "axis", _KINDS[dot], (terms, lanes, rows))
    height = (rows + 1) // 2 if fold else rows
    bu = min(tile.rows, found.data.shape[2])
    bj = min(tile.terms, found.data.shape[3])
    bl = min(tile.lanes, basis.padded(lanes))
    matrices = batch.count
    grid = triton.cdiv(height, bu) * triton.cdiv(lanes, bl) * matrices * len(x.tensors)
    arguments = {
        "x": x.argument(), "out": out.argument(), "n": n, "terms": terms, "rows": rows, "lanes": lanes,
        "x_j": x.along, "x_l": x.lanes, "x_0": x.batch[0], "x_1": x.batch[1],
        "out_u": out.along, "out_l": out.lanes, "out_0": out.batch[0], "out_1": out.batch[1],
        "inner": batch.sizes[1], "matrices": matrices, "scale": found.scale, **_basis_arguments(found),
    }  # fmt: skip
    constants = {
        **x.constants("X"), **out.constants("OUT"), "GROUPED": len(x.tensors) > 1, "ALIGNED": x.aligned and out.aligned,
        "FOLD": fold, "DOT": _TYPES[dot], "SUM": _TYPES[compute], "TERMS": number,
        "PRECISION": target.products(dot), "BU": bu, "BJ": bj, "BL": bl,
    }  # fmt: skip
    _launch(target, kernels.axis, grid, arguments, constants, tile)


def axis(x: Tensor, out: Tensor, inverse: bool, dim: int, norm: str, target: Target) -> None:
    """One axis of x transformed into out, which has the same shape but for that axis."""
    rest = _axes(x, out, [dim])
    # The axis that is contiguous is the lanes, or else the innermost.
    at = next((i for i, axis in enumerate(rest) if axis[1] == 1), len(rest) - 1)
    lanes = rest.pop(at) if rest else (1, 1, 1)
    axes, offsets = _single(rest, int(x.storage_offset()), int(out.storage_offset()))
    batch = _batch(axes)
    for a, b in offsets:
        source = View((_at(x, a),), x.stride(dim), lanes[1], batch.x)
        result = View((_at(out, b),), out.stride(dim), lanes[2], batch.out)
        _axis_pass(target, source, result, (x.shape[dim], out.shape[dim], lanes[0]), batch, inverse, norm)


def _fits_one_pass(k: Sequence[int], compute: torch.dtype) -> bool:
    return max(k) <= tiles.FUSED_MOST and compute == torch.float32


@dataclass(frozen=True)
class Matrices:
    """x -> out, each a list of matrices of one layout, with batch axes."""

    x: tuple[Tensor, ...]
    out: tuple[Tensor, ...]
    batch: Batch

    @functools.cached_property
    def compute(self) -> torch.dtype:
        return _compute_dtype(self.x[0].dtype, self.out[0].dtype)

    def view(self, which: str, along: int) -> View:
        tensors, batch = (self.x, self.batch.x) if which == "x" else (self.out, self.batch.out)
        lanes = -1 if along == -2 else -2
        return View(tensors, tensors[0].stride(along), tensors[0].stride(lanes), batch)

    def between(self, rows: int, columns: int) -> tuple[Matrices, Matrices]:
        """The same, by way of new matrices of another size."""
        count = self.batch.count
        middle = torch.empty(len(self.x), count, rows, columns, dtype=self.compute, device=self.x[0].device)
        one = rows * columns
        strides = (self.batch.sizes[1] * one, one)
        new = tuple(middle[i] for i in range(len(self.x)))
        return (
            Matrices(self.x, new, Batch(self.batch.sizes, self.batch.x, strides)),
            Matrices(new, self.out, Batch(self.batch.sizes, strides, self.batch.out)),
        )

    def one_axis(self, dim: int, inverse: bool, norm: str, target: Target) -> None:
        x, out = self.view("x", dim), self.view("out", dim)
        sizes = self.x[0].shape[dim], self.out[0].shape[dim], self.x[0].shape[-1 if dim == -2 else -2]
        _axis_pass(target, x, out, sizes, self.batch, inverse, norm)

    def two_passes(self, inverse: bool, norm: str, target: Target) -> None:
        """One axis after the other, in the order that needs fewer products."""
        (m, n), (k0, k1) = self.x[0].shape[-2:], self.out[0].shape[-2:]
        rows_first = m * n * k1 + m * k0 * k1 <= m * n * k0 + n * k0 * k1
        first, second = self.between(*((m, k1) if rows_first else (k0, n)))
        dims = (-1, -2) if rows_first else (-2, -1)
        first.one_axis(dims[0], inverse, norm, target)
        second.one_axis(dims[1], inverse, norm, target)

    def forward(self, norm: str, target: Target) -> None:
        if _fits_one_pass(self.out[0].shape[-2:], self.compute):
            _crop(self, norm, target)
        else:
            self.two_passes(False, norm, target)

    def inverse(self, norm: str, target: Target) -> None:
        if _fits_one_pass(self.x[0].shape[-2:], self.compute) and not _share_memory(self.x, self.out):
            _pad(self, norm, target)
        else:
            self.two_passes(True, norm, target)


def _share_memory(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> bool:
    storages = {x.untyped_storage().data_ptr() for x in xs} - {0}  # 0: tensors without data
    return any(out.untyped_storage().data_ptr() in storages for out in outs)


def _crop(pair: Matrices, norm: str, target: Target) -> None:
    """Both axes in one launch, and one for the sum of what its programs found."""
    first = pair.x[0]
    # The lanes are the contiguous axis: mirrored elements are then read in the same direction.
    dim, lane_dim = (-1, -2) if first.stride(-2) == 1 and first.stride(-1) != 1 else (-2, -1)
    x = pair.view("x", dim)
    n, lanes = first.shape[dim], first.shape[lane_dim]
    ku, kv = pair.out[0].shape[dim], pair.out[0].shape[lane_dim]
    dot, device = first.dtype, first.device
    fold = n > 1 and target.folds(dot, contiguous=False)
    number = target.terms(dot)
    found = basis.get(basis.Key(n, ku, False, norm, dot, number, fold, device))
    across = basis.get(basis.Key(lanes, kv, False, norm, torch.float32, 1, False, device))
    tile = tiles.nearest(target.names, "crop", _KINDS[dot], (n, lanes, max(ku, kv)))
    bu, kv_padded = found.data.shape[2], across.data.shape[2]
    bj = min(tile.terms, found.data.shape[3])
    bl = min(tile.lanes, across.data.shape[3])
    k = 2 * bu if fold else bu
    matrices, tiles_l = pair.batch.count, triton.cdiv(lanes, bl)
    half = (n + 1) // 2 if fold else n
    # As many programs as there are multiprocessors, or a few more: the partials' size goes with their number.
    wanted = max(1, target.multiprocessors // (tiles_l * matrices * len(pair.x)))
    segment = triton.cdiv(triton.cdiv(half, wanted), bj) * bj
    parts = tiles_l * triton.cdiv(half, segment)
    total = parts * matrices * len(pair.x)
    partials = torch.empty(total * k * kv_padded, dtype=torch.float32, device=device)
    common = {"inner": pair.batch.sizes[1], "matrices": matrices}
    grouped = {"GROUPED": len(pair.x) > 1, "SUM": tl.float32, "K": k, "KV": kv_padded}
    arguments = {
        "x": x.argument(), "partials": partials, "lane_basis": across.data, "n": n, "rows": n, "lanes": lanes,
        "x_j": x.along, "x_l": x.lanes, "x_0": x.batch[0], "x_1": x.batch[1], "segment": segment,
        "lane_basis_v": across.strides[2], **_basis_arguments(found), **common,
    }  # fmt: skip
    constants = {
        **x.constants("X"), **grouped, "ALIGNED": x.aligned, "FOLD": fold, "DOT": _TYPES[dot], "TERMS": number,
        "PRECISION": target.products(dot), "LANE_PRECISION": target.products(torch.float32),
        "BU": bu, "BJ": bj, "BL": bl, "BV": min(kv_padded, tile.columns),
    }  # fmt: skip
    _launch(target, kernels.crop, total, arguments, constants, tile)
    out = pair.view("out", dim)
    arguments = {
        "partials": partials, "out": out.argument(), "parts": parts, "ku": ku, "kv": kv, "out_u": out.along,
        "out_v": out.lanes, "out_0": out.batch[0], "out_1": out.batch[1], "scale": found.scale * across.scale, **common,
    }  # fmt: skip
    constants = {**out.constants("OUT"), **grouped, "ALIGNED": out.aligned, "B": 64, "BP": 32}
    grid = k * kv_padded // 64 * matrices * len(pair.x)
    _launch(target, kernels.add, grid, arguments, constants, tiles.Tile(0, 0, 0, 0, warps=4, stages=2))


def _pad(pair: Matrices, norm: str, target: Target) -> None:
    """Both axes of the inverse in one launch."""
    last = pair.out[0]
    dim, lane_dim = (-1, -2) if last.stride(-2) == 1 and last.stride(-1) != 1 else (-2, -1)
    x, out = pair.view("x", dim), pair.view("out", dim)
    ku, kv = pair.x[0].shape[dim], pair.x[0].shape[lane_dim]
    rows, lanes = last.shape[dim], last.shape[lane_dim]
    device = last.device
    found = basis.get(basis.Key(rows, ku, True, norm, torch.float32, 1, False, device))
    across = basis.get(basis.Key(lanes, kv, True, norm, torch.float32, 1, False, device))
    tile = tiles.nearest(target.names, "pad", _KINDS[last.dtype], (rows, lanes, max(ku, kv)))
    bi, bl = min(tile.rows, found.data.shape[2]), min(tile.lanes, across.data.shape[2])
    matrices, tiles_l = pair.batch.count, triton.cdiv(lanes, bl)
    wanted = max(1, 2 * target.multiprocessors // (tiles_l * matrices * len(pair.x)))
    segment = triton.cdiv(triton.cdiv(rows, wanted), bi) * bi
    grid = tiles_l * triton.cdiv(rows, segment) * matrices * len(pair.x)
    arguments = {
        "x": x.argument(), "out": out.argument(), "basis": found.data, "lane_basis": across.data, "ku": ku, "kv": kv,
        "rows": rows, "lanes": lanes, "x_u": x.along, "x_v": x.lanes, "x_0": x.batch[0], "x_1": x.batch[1],
        "out_i": out.along, "out_l": out.lanes, "out_0": out.batch[0], "out_1": out.batch[1],
        "inner": pair.batch.sizes[1], "matrices": matrices, "segment": segment, "basis_i": found.strides[2],
        "lane_basis_l": across.strides[2], "scale": found.scale * across.scale,
    }  # fmt: skip
    constants = {
        **x.constants("X"), **out.constants("OUT"), "GROUPED": len(pair.x) > 1, "ALIGNED": x.aligned and out.aligned,
        "SUM": tl.float32, "PRECISION": target.products(torch.float32),
        "BU": found.data.shape[3], "KV": across.data.shape[3], "BV": min(tile.columns, across.data.shape[3]),
        "BI": bi, "BL": bl,
    }  # fmt: skip
    _launch(target, kernels.pad, grid, arguments, constants, tile)


def _groups(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Matrices of one layout together."""
    found: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for x, out in zip(xs, outs, strict=True):
        group = found.setdefault((x.stride(), out.stride(), x.dtype, out.dtype), ([], []))
        group[0].append(x)
        group[1].append(out)
    return [(tuple(a), tuple(b)) for a, b in found.values()]


def _pairs(xs: tuple[Tensor, ...], outs: tuple[Tensor, ...]) -> Iterable[Matrices]:
    x, out = xs[0], outs[0]
    axes = _axes(x, out, [x.dim() - 2, x.dim() - 1])
    axes, offsets = _single(axes, 0, 0)
    batch = _batch(axes)
    for a, b in offsets:
        moved = [
            tuple(t.as_strided(t.shape[-2:], t.stride()[-2:], t.storage_offset() + offset) for t in tensors)
            for tensors, offset in ((xs, a), (outs, b))
        ]
        yield Matrices(moved[0], moved[1], batch)


def matrices(
    xs: Sequence[Tensor], outs: Sequence[Tensor], direction: str, k: Sequence[int], norm: str, target: Target
) -> None:
    """The last two axes of every x transformed into those of its out: "forward", "inverse", or "resize" by way of k.

    The sizes of xs and outs say how many coefficients are kept or given. An out may lie in its own x's memory.
    """
    if len(xs) == 1 and _batches_overlap(xs[0], outs[0]):
        xs = [xs[0].clone()]
    for group in _groups(xs, outs):
        for pair in _pairs(*group):
            if direction == "forward":
                pair.forward(norm, target)
            elif direction == "inverse":
                pair.inverse(norm, target)
            else:
                first, second = pair.between(k[0], k[1])
                first.forward(norm, target)
                second.inverse(norm, target)


def _batches_overlap(x: Tensor, out: Tensor) -> bool:
    """Whether a matrix' result may lie in the memory of another matrix that is read later."""
    if math.prod(x.shape[:-2]) < 2 or not _share_memory([x], [out]):
        return False
    return (x.data_ptr(), x.stride(), x.dtype) != (out.data_ptr(), out.stride(), out.dtype)
