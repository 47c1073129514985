"""Shapes and dtypes of every op without data (fake tensors), and the argument errors that go with them.

The rules and messages are those of csrc/checks.h; tests/test_errors.py holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import NoReturn

import torch
from torch import Tensor

MAX_AXIS = 1 << 30
MAX_DIMENSIONS = 64
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NORMS = ("ortho", "backward", "forward")
Result = tuple[Sequence[int], torch.dtype]  # shape and dtype; who needs a tensor makes it


def adjoint_norm(norm: str) -> str:
    """The norm under which the opposite direction is the transpose of an op called with `norm`."""
    if norm == "ortho":
        return norm
    return norm.removeprefix("adjoint:") if norm.startswith("adjoint:") else f"adjoint:{norm}"


def _fail(op: str, message: str) -> NoReturn:
    raise ValueError(f"front::{op}: {message}")


def is_number(value: object) -> bool:
    """Whether it is a real number, one of a graph, or a tensor of one."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return isinstance(value, (Real, torch.SymFloat, torch.SymInt))


def show(values: Sequence[int]) -> str:
    return "[" + ", ".join(str(v) for v in values) + "]"


def check_dtype(op: str, name: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        got = str(dtype).removeprefix("torch.")
        _fail(op, f"{name} must be float16, bfloat16, float32 or float64, got {got}")


def _types(op: str, x: Tensor, out_dtype: torch.dtype | None, name: str = "x") -> torch.dtype:
    check_dtype(op, f"{name}'s dtype", x.dtype)
    if out_dtype is None:
        return x.dtype
    check_dtype(op, "out_dtype", out_dtype)
    return out_dtype


def _norm(op: str, norm: str) -> None:
    if norm.removeprefix("adjoint:") not in NORMS:
        _fail(op, f"norm must be 'ortho', 'backward' or 'forward', got '{norm}'")


def check_rank(op: str, shape: Sequence[int], least: int, name: str = "x") -> None:
    if len(shape) < least:
        plural = "dimension" if least == 1 else "dimensions"
        _fail(op, f"{name} must have at least {least} {plural}, got shape {show(shape)}")
    if len(shape) > MAX_DIMENSIONS:
        _fail(op, f"{name} must have at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")


def _within(op: str, least: int, value: int, most: int, message: Callable[[], str]) -> None:
    if type(value) is int and type(least) is int and type(most) is int and least <= value <= most:
        return  # torch's checks are for symbols, and take microseconds
    # NOTE: two checks, not one with `and`: sizes that depend on data may be asserted, but not branched on.
    torch._check_value(value >= least, lambda: f"front::{op}: {message()}")
    torch._check_value(value <= most, lambda: f"front::{op}: {message()}")


def _axis(op: str, x: Tensor, dim: int, name: str = "x") -> None:
    n, shape = x.shape[dim], x.shape
    dim = dim - x.dim() if dim >= 0 else dim
    _within(
        op,
        1,
        n,
        MAX_AXIS,
        lambda: f"{name} must have between 1 and {MAX_AXIS} elements along dim {dim}, got shape {show(shape)}",
    )


def check_dim(op: str, rank: int, dim: int) -> int:
    if not -rank <= dim < rank:
        _fail(op, f"dim must be between {-rank} and {rank - 1}, got {dim}")
    return dim % rank


def _pair(op: str, name: str, values: Sequence[int]) -> None:
    if len(values) != 2:
        _fail(op, f"{name} must have 2 elements (rows, columns), got {show(values)}")


def check_kept(op: str, name: str, value: int, n: int, of: str = "x") -> None:
    _within(op, 1, value, n, lambda: f"{name} must be between 1 and {n} (the size of {of}), got {value}")


def _size(op: str, name: str, value: int, least: int, of: str) -> None:
    _within(
        op,
        least,
        value,
        MAX_AXIS,
        lambda: f"{name} must be between {least} (the size of {of}) and {MAX_AXIS}, got {value}",
    )


def _length(op: str, name: str, value: int) -> None:
    _within(op, 1, value, MAX_AXIS, lambda: f"{name} must be between 1 and {MAX_AXIS}, got {value}")


def check_out(op: str, out: Tensor, shape: Sequence[int]) -> None:
    if len(out.shape) != len(shape):
        _fail(op, f"out must have shape {show(shape)}, got {show(out.shape)}")
    for found, expected in zip(out.shape, shape, strict=True):
        torch._check_value(
            found == expected, lambda: f"front::{op}: out must have shape {show(shape)}, got {show(out.shape)}"
        )
    check_distinct(op, "out", out)


def check_distinct(op: str, name: str, x: Tensor) -> None:
    shape, strides = x.shape, x.stride()
    if all(type(n) is int for n in (*shape, *strides)):
        distinct = _distinct(shape, strides)
    else:  # of symbols only what expand makes; the kernels see numbers
        distinct = not any(stride == 0 and size > 1 for size, stride in zip(shape, strides, strict=True))
    if not distinct:
        _fail(op, f"{name} must not overlap itself, as shape {show(shape)} with strides {show(strides)} may")


def _distinct(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether every element has an address of its own, as in csrc/stable.h."""
    if 0 in shape:
        return True
    axes = sorted((abs(stride), size) for size, stride in zip(shape, strides, strict=True) if size > 1)
    while axes and axes[-1][0] > sum(stride * (size - 1) for stride, size in axes[:-1]):
        axes.pop()
    if len(axes) != 2 or axes[0][0] == 0:
        return not axes
    (small, few), (large, many) = axes
    common = math.gcd(small, large)
    return large // common >= few or small // common >= many


def check_matrix(op: str, x: Tensor, name: str = "x") -> None:
    check_rank(op, x.shape, 2, name)
    _axis(op, x, -2, name)
    _axis(op, x, -1, name)


def dct(
    x: Tensor, k: int | None = None, dim: int = -1, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> Result:
    dtype = _types("dct", x, out_dtype)
    check_rank("dct", x.shape, 1)
    dim = check_dim("dct", x.dim(), dim)
    _axis("dct", x, dim)
    kept = x.shape[dim] if k is None else k
    check_kept("dct", "k", kept, x.shape[dim])
    _norm("dct", norm)
    return [*x.shape[:dim], kept, *x.shape[dim + 1 :]], dtype


def idct(
    x: Tensor, size: int | None = None, dim: int = -1, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> Result:
    dtype = _types("idct", x, out_dtype)
    check_rank("idct", x.shape, 1)
    dim = check_dim("idct", x.dim(), dim)
    _axis("idct", x, dim)
    n = x.shape[dim] if size is None else size
    _size("idct", "size", n, x.shape[dim], "x")
    _norm("idct", norm)
    return [*x.shape[:dim], n, *x.shape[dim + 1 :]], dtype


def dct2(x: Tensor, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, op: str = "dct2") -> Result:
    dtype = _types(op, x, out_dtype)
    check_matrix(op, x)
    _norm(op, norm)
    return x.shape, dtype


def idct2(x: Tensor, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, op: str = "idct2") -> Result:
    dtype = _types(op, x, out_dtype)
    check_matrix(op, x)
    _norm(op, norm)
    return x.shape, dtype


def dct_crop(
    x: Tensor,
    k: Sequence[int],
    *,
    norm: str = "ortho",
    out_dtype: torch.dtype | None = None,
    op: str = "dct_crop",
    name: str = "x",
) -> Result:
    dtype = _types(op, x, out_dtype, name)
    check_matrix(op, x, name)
    _pair(op, "k", k)
    check_kept(op, "k[0]", k[0], x.shape[-2], name)
    check_kept(op, "k[1]", k[1], x.shape[-1], name)
    _norm(op, norm)
    return [*x.shape[:-2], *k], dtype


def idct_pad(
    x: Tensor,
    size: Sequence[int],
    *,
    norm: str = "ortho",
    out_dtype: torch.dtype | None = None,
    op: str = "idct_pad",
    name: str = "x",
) -> Result:
    dtype = _types(op, x, out_dtype, name)
    check_matrix(op, x, name)
    _pair(op, "size", size)
    _size(op, "size[0]", size[0], x.shape[-2], name)
    _size(op, "size[1]", size[1], x.shape[-1], name)
    _norm(op, norm)
    return [*x.shape[:-2], *size], dtype


def dct_resize(
    x: Tensor,
    size: Sequence[int],
    *,
    k: Sequence[int] | None = None,
    norm: str = "ortho",
    out_dtype: torch.dtype | None = None,
) -> Result:
    dtype = _types("dct_resize", x, out_dtype)
    check_matrix("dct_resize", x)
    _pair("dct_resize", "size", size)
    _length("dct_resize", "size[0]", size[0])
    _length("dct_resize", "size[1]", size[1])
    if k is not None:
        _pair("dct_resize", "k", k)
        for i, value in enumerate(k):
            torch._check_value(
                value >= 1, lambda i=i, value=value: f"front::dct_resize: k[{i}] must be at least 1, got {value}"
            )
    _norm("dct_resize", norm)
    return [*x.shape[:-2], *size], dtype


def lowpass(x: Tensor, k: Sequence[int], *, op: str = "lowpass") -> Result:
    dtype = _types(op, x, None)
    check_matrix(op, x)
    _pair(op, "k", k)
    check_kept(op, "k[0]", k[0], x.shape[-2])
    check_kept(op, "k[1]", k[1], x.shape[-1])
    return x.shape, dtype


def idct_pad_corner(x: Tensor, k: Sequence[int], *, norm: str = "ortho", op: str = "idct_pad_") -> Result:
    dtype = _types(op, x, None)
    check_matrix(op, x)
    _pair(op, "k", k)
    check_kept(op, "k[0]", k[0], x.shape[-2])
    check_kept(op, "k[1]", k[1], x.shape[-1])
    _norm(op, norm)
    return x.shape, dtype


def sample(x: Tensor, dim: int | None) -> Tensor:
    """What vmap maps over, without data: x without this axis, on the meta device."""
    shape = [n for d, n in enumerate(x.shape) if dim is None or d != dim % x.dim()]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def check_alike(op: str, xs: Sequence[Tensor]) -> None:
    """Lists: tensors of one shape, one dtype and one device."""
    for i, x in enumerate(xs[1:], 1):
        if len(x.shape) != len(xs[0].shape):
            _fail(op, f"xs must have one shape, got {show(xs[0].shape)} at 0 and {show(x.shape)} at {i}")
        for found, expected in zip(x.shape, xs[0].shape, strict=True):
            if type(found) is int and type(expected) is int and found == expected:
                continue  # torch's checks are for symbols, and torch.compile cannot trace their messages
            torch._check_value(
                found == expected,
                lambda x=x, i=i: (
                    f"front::{op}: xs must have one shape, got {show(xs[0].shape)} at 0 and {show(x.shape)} at {i}"
                ),
            )
        if x.device != xs[0].device:
            _fail(op, f"xs must be on one device, got {xs[0].device} at 0 and {x.device} at {i}")
        if x.dtype != xs[0].dtype:
            first, got = (str(dtype).removeprefix("torch.") for dtype in (xs[0].dtype, x.dtype))
            _fail(op, f"xs must have one dtype, got {first} at 0 and {got} at {i}")
