"""The one place that chooses what runs for a CUDA tensor. The C++ library has the CPU key to itself.

The rule is short as long as there is one engine: `cuda`, the FFT-shaped kernels of csrc/cuda, where it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _C, _contract
from ._autograd import OPS
from ._variants import IN_PLACE, MANY

__all__ = ["available"]

_FORWARD, _INVERSE, _RESIZE = 0, 1, 2  # csrc/params.h's Direction
_Norm = str


def available() -> tuple[str, ...]:
    """Names of the engines that this build has for CUDA tensors."""
    return ("cuda",) if _C.build_info()["cuda"] else ()


def _no_engine(name: str) -> Callable[..., NoReturn]:
    def kernel(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"front::{name}: x is on a CUDA device, but this build of front_kernels has no CUDA engine. Build it where "
            f"a CUDA toolkit (12.8 or later) is found (FRONT_CUDA=1 makes its absence an error), or move x to the CPU "
            f"(x.cpu()) and the result back."
        )

    return kernel


def _check_device(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"front::{op}: {name} must be on {x.device}, as x is, got {tensor.device}")


def _matrices(xs: Sequence[Tensor], outs: Sequence[Tensor], direction: int, norm: _Norm, k: Sequence[int]) -> None:
    if outs[0].numel():
        torch.ops.front._cuda_matrices(list(xs), list(outs), direction, k[0], k[1], norm)


def _kept(shape: Sequence[int], size: Sequence[int], k: Sequence[int] | None) -> list[int]:
    kept = [min(n, s) for n, s in zip(shape[-2:], size, strict=True)]
    return kept if k is None else [min(a, b) for a, b in zip(kept, k, strict=True)]


# What each op is for the engine: f(x, out, arguments).
def _dct_crop(x: Tensor, out: Tensor, norm: str = "ortho") -> None:
    _matrices([x], [out], _FORWARD, norm, (0, 0))


def _idct_pad(x: Tensor, out: Tensor, norm: str = "ortho") -> None:
    _matrices([x], [out], _INVERSE, norm, (0, 0))


def _dct_resize(x: Tensor, out: Tensor, k: Sequence[int] | None = None, norm: str = "ortho") -> None:
    _matrices([x], [out], _RESIZE, norm, _kept(x.shape, out.shape[-2:], k))


_KERNELS: dict[str, Callable[..., None]] = {
    "dct2": lambda x, out, a: _dct_crop(x, out, a["norm"]),
    "idct2": lambda x, out, a: _idct_pad(x, out, a["norm"]),
    "dct_crop": lambda x, out, a: _dct_crop(x, out, a["norm"]),
    "idct_pad": lambda x, out, a: _idct_pad(x, out, a["norm"]),
    "dct_resize": lambda x, out, a: _dct_resize(x, out, a["k"], a["norm"]),
    "lowpass": lambda x, out, a: _dct_resize(x, out, a["k"]),
    "dct": lambda x, out, a: torch.ops.front._cuda_axis(x, out, _FORWARD, a["dim"] % x.dim(), a["norm"]),
    "idct": lambda x, out, a: torch.ops.front._cuda_axis(x, out, _INVERSE, a["dim"] % x.dim(), a["norm"]),
}


def _functional(op: Any) -> Callable[..., Tensor]:
    compute = _KERNELS[op.name]

    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape, dtype = op.contract(x, *args, **kwargs)
        out = torch.empty(shape, dtype=dtype, device=x.device)
        if out.numel():
            compute(x, out, op.arguments(args, kwargs))
        return out

    return kernel


def _into(op: Any) -> Callable[..., None]:
    compute = _KERNELS[op.name]

    def kernel(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> None:
        _contract.check_dtype(op.name, "out's dtype", out.dtype)
        shape, _ = op.contract(x, *args, out_dtype=out.dtype, **kwargs)
        _contract.check_out(op.name, out, shape)
        _check_device(op.name, "out", out, x)
        if out.numel():
            compute(x, out, op.arguments(args, kwargs))

    return kernel


def _in_place(name: str) -> Callable[..., None]:
    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> None:
        IN_PLACE[name](x, *args, op=name, **kwargs)
        _contract.check_distinct(name, "x", x)
        if not x.numel():
            return
        norm = kwargs.get("norm", "ortho")
        k = args[0] if args else kwargs.get("k", x.shape[-2:])
        corner = x[..., : k[0], : k[1]]
        if name == "lowpass_":
            _matrices([x], [x], _RESIZE, norm, k)
        elif name in ("dct2_", "dct_crop_"):
            _matrices([x], [corner], _FORWARD, norm, k)
        else:
            _matrices([corner], [x], _INVERSE, norm, k)

    return kernel


def _many(op: Any) -> Callable[..., list[Tensor]]:
    name = f"{op.name}_many"
    direction = _FORWARD if op.name == "dct_crop" else _INVERSE

    def kernel(xs: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        shape, dtype = op.contract(xs[0], *args, op=name, **kwargs)
        _contract.check_alike(name, xs)
        for i, x in enumerate(xs):
            _check_device(name, f"xs[{i}]", x, xs[0])
        outs = [torch.empty(shape, dtype=dtype, device=x.device) for x in xs]
        _matrices(xs, outs, direction, op.arguments(args, kwargs)["norm"], (0, 0))
        return outs

    return kernel


def register() -> torch.library.Library:
    """Registers the CUDA key of every op; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    built = "cuda" in available()
    for op in OPS:
        overloads = getattr(torch.ops.front, op.name).overloads()
        library.impl(op.name, _functional(op) if built else _no_engine(op.name), "CUDA")
        if "out" in overloads:
            library.impl(f"{op.name}.out", _into(op) if built else _no_engine(op.name), "CUDA")
    for name in IN_PLACE:
        library.impl(name, _in_place(name) if built else _no_engine(name), "CUDA")
    for op in MANY:
        name = f"{op.name}_many"
        library.impl(name, _many(op) if built else _no_engine(name), "CUDA")
    return library
