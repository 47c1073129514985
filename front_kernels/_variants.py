"""In-place and list forms of the ops: what torch's transform systems need to know of them.

In place: like `.out`, refused under autograd. Lists: under autograd, forward mode and vmap they are the op itself,
matrix by matrix; otherwise one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _contract
from ._autograd import OPS, LinearOp, cuda_kernels, has_tangent, is_plain, written

IN_PLACE: dict[str, Callable[..., _contract.Result]] = {
    "dct2_": _contract.dct2,
    "idct2_": _contract.idct2,
    "dct_crop_": _contract.dct_crop,
    "idct_pad_": _contract.idct_pad_corner,
    "lowpass_": _contract.lowpass,
}
MANY = tuple(op for op in OPS if op.name in ("dct_crop", "idct_pad"))


def _in_place_kernels(name: str) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """Autograd: refuses, or where nothing listens below computes; ADInplaceOrView: autograd learns that x has changed;
    fake: checks."""
    overload = getattr(torch.ops.front, name).default

    def autograd(keyset: torch._C.DispatchKeySet, x: Tensor, *args: Any, **kwargs: Any) -> None:
        if (torch.is_grad_enabled() and x.requires_grad) or has_tangent(x):
            raise RuntimeError(f"front::{name}: in-place forms do not support autograd, but x requires grad")
        if is_plain(keyset):
            written(name, "x", x)
            cuda_kernels[name](x, *args, **kwargs)
            return
        with torch._C._AutoDispatchBelowAutograd():
            overload.redispatch(keyset & torch._C._after_autograd_keyset, x, *args, **kwargs)

    def bump_version(keyset: torch._C.DispatchKeySet, x: Tensor, *args: Any, **kwargs: Any) -> None:
        written(name, "x", x)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            overload.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, x, *args, **kwargs)

    def fake(x: Tensor, *args: Any, **kwargs: Any) -> None:
        IN_PLACE[name](x, *args, op=name, **kwargs)
        _contract.check_distinct(name, "x", x)

    return autograd, bump_version, fake


def _negative_kernel(overload: Any) -> Callable[..., None]:
    """Of an op that writes `out`, or else x, where one of them is marked as negated (a conjugate's imaginary part).

    The op is linear: it is applied to what the memory of that holds, the negated x.
    """

    def kernel(x: Tensor, *args: Any, out: Tensor | None = None, **kwargs: Any) -> None:
        if out is None:
            overload(torch._neg_view(x), *args, **kwargs)
        elif out.is_neg():
            overload(torch._neg_view(x) if x.is_neg() else -x, *args, out=torch._neg_view(out), **kwargs)
        else:
            overload(x.resolve_neg(), *args, out=out, **kwargs)

    return kernel


def _many_kernels(op: LinearOp) -> tuple[Callable[..., list[Tensor]], ...]:
    """Autograd and fake."""
    name = f"{op.name}_many"
    overload = getattr(torch.ops.front, name).default

    def fake(xs: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        if not xs:
            return []
        shape, dtype = op.contract(xs[0], *args, op=name, name="xs[0]", **kwargs)
        _contract.check_alike(name, xs)
        return [x.new_empty(shape, dtype=dtype) for x in xs]

    def autograd(keyset: torch._C.DispatchKeySet, xs: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        graded = torch.is_grad_enabled() and any(x.requires_grad for x in xs)
        if graded or any(has_tangent(x) for x in xs):
            op.contract(xs[0], *args, op=name, name="xs[0]", **kwargs)
            _contract.check_alike(name, xs)
            return [op.overload(x, *args, **kwargs) for x in xs]
        outs: list[Tensor]
        if is_plain(keyset):
            outs = cuda_kernels[name](xs, *args, **kwargs)
            return outs
        with torch._C._AutoDispatchBelowAutograd():
            outs = overload.redispatch(keyset & torch._C._after_autograd_keyset, list(xs), *args, **kwargs)
        return outs

    return autograd, fake


def _many_vmap_rule(op: LinearOp) -> Callable[..., tuple[list[Tensor], list[int]]]:
    def rule(
        info: Any, in_dims: tuple[Any, ...], xs: Sequence[Tensor], *args: Any, **kwargs: Any
    ) -> tuple[list[Tensor], list[int]]:
        samples = [_contract.sample(x, dim) for x, dim in zip(xs, in_dims[0], strict=True)]
        op.contract(samples[0], *args, op=f"{op.name}_many", name="xs[0]", **kwargs)
        _contract.check_alike(f"{op.name}_many", samples)
        # A matrix that is not mapped over is the same for all.
        batched = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(xs, in_dims[0], strict=True)
        ]
        return [op.overload(x, *args, **kwargs) for x in batched], [0] * len(batched)

    return rule


def register() -> torch.library.Library:
    """Registers all of it; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    for name in IN_PLACE:
        autograd, bump_version, fake = _in_place_kernels(name)
        torch.library.register_fake(f"front::{name}", fake)
        library.impl(name, autograd, "Autograd", with_keyset=True)
        library.impl(name, bump_version, "ADInplaceOrView", with_keyset=True)
        library.impl(name, _negative_kernel(getattr(torch.ops.front, name).default), "Negative")
    for op in OPS:
        if "out" in getattr(torch.ops.front, op.name).overloads():
            library.impl(f"{op.name}.out", _negative_kernel(getattr(torch.ops.front, op.name).out), "Negative")
    for op in MANY:
        name = f"{op.name}_many"
        graded, abstract = _many_kernels(op)
        torch.library.register_fake(f"front::{name}", abstract)
        library.impl(name, graded, "Autograd", with_keyset=True)
        torch.library.register_vmap(f"front::{name}", _many_vmap_rule(op))
    return library
