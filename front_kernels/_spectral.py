"""The spectral loss: its contract and its derivatives.

The kernels compute value and gradient together. Derivatives of the gradient, forward mode and torch.func go through its
definition in differentiable ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _contract
from ._autograd import has_tangent, inference_error
from ._spectral_definition import Decay, composed, composed_gradients, composed_many, compute_dtype, loss_dtype

__all__ = [
    "Decay",
    "check",
    "check_decay",
    "check_writable",
    "compute_dtype",
    "loss_dtype",
    "needs_composed",
    "register",
]


def _fail(op: str, message: str) -> NoReturn:
    raise ValueError(f"front::{op}: {message}")


def check_decay(op: str, decay: Decay, axes: Sequence[str] = ("rows", "columns")) -> None:
    if decay is None:
        return
    if not isinstance(decay, Sequence):
        raise TypeError(f"front::{op}: decay must be None or ({', '.join(axes)}), got {decay!r}")
    if len(decay) != len(axes):
        _fail(op, f"decay must have {len(axes)} elements ({', '.join(axes)}), got {len(decay)}")
    for d, rate in enumerate(decay):
        if not _contract.is_number(rate):
            raise TypeError(f"front::{op}: decay[{d}] must be a number, got {rate!r}")
        if not 0 <= rate < math.inf:
            _fail(op, f"decay[{d}] must be finite and at least 0, got {rate:g}")


def check(
    op: str, xs: Sequence[Tensor], ks: Sequence[int], decay: Decay, grads: Sequence[Tensor] | None = None
) -> None:
    """The argument contract of the list forms, as in csrc/cpu/spectral_loss.cpp."""
    if len(xs) == 0:
        _fail(op, "xs must not be empty")
    if grads is not None and len(grads) != len(xs):
        _fail(op, f"grads must have one tensor for each of xs ({len(xs)}), got {len(grads)}")
    if len(ks) != 2 * len(xs):
        _fail(op, f"ks must have 2 elements (rows, columns) for each of xs ({2 * len(xs)}), got {len(ks)}")
    check_decay(op, decay)
    for i, x in enumerate(xs):
        if x.device != xs[0].device:
            _fail(op, f"xs must be on one device, got {xs[0].device} at 0 and {x.device} at {i}")
        name = f"xs[{i}]"
        _contract.check_dtype(op, f"{name}'s dtype", x.dtype)
        _contract.check_matrix(op, x, name)
        _contract.check_kept(op, f"ks[{2 * i}]", ks[2 * i], x.shape[-2], name)
        _contract.check_kept(op, f"ks[{2 * i + 1}]", ks[2 * i + 1], x.shape[-1], name)
        if grads is not None:
            _check_grad(op, i, grads[i], x)


def _check_grad(op: str, i: int, grad: Tensor, x: Tensor) -> None:
    name = f"grads[{i}]"
    if tuple(grad.shape) != tuple(x.shape):
        shape, found = (_contract.show(t.shape) for t in (x, grad))
        _fail(op, f"{name} must have shape {shape}, as xs[{i}] has, got {found}")
    _contract.check_dtype(op, f"{name}'s dtype", grad.dtype)
    compute = compute_dtype(x.dtype)
    if grad.dtype not in (x.dtype, compute):
        allowed = dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in (x.dtype, compute))
        got = str(grad.dtype).removeprefix("torch.")
        _fail(op, f"{name}'s dtype must be {' or '.join(allowed)}, got {got}")
    if grad.device != x.device:
        _fail(op, f"{name} must be on {x.device}, as xs[{i}] is, got {grad.device}")
    _contract.check_distinct(op, name, grad)


class _SpectralLoss(torch.autograd.Function):
    """Of all tensors at once; nothing is kept but the tensors themselves."""

    @staticmethod
    def forward(
        ctx: Any, value: Callable[[], Tensor], ks: Sequence[int], options: dict[str, Any], *xs: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*xs)
        ctx.ks, ctx.options = ks, options
        return value()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[3:]
        xs = [x for x, needed in zip(ctx.saved_tensors, wanted, strict=True) if needed]
        ks = [k for i, needed in enumerate(wanted) if needed for k in ctx.ks[2 * i : 2 * i + 2]]
        found = iter(_gradients(grads[0], xs, ks, ctx.options))
        return None, None, None, *(next(found) if needed else None for needed in wanted)


def _gradients(scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], options: dict[str, Any]) -> list[Tensor]:
    op = torch.ops.front._spectral_grad_many.default
    # NOTE: is_grads_batched uses torch's older vmap, which knows no rules of ops that return lists.
    if torch._C._functorch.is_legacy_batchedtensor(scale):
        unit = torch.ones((), dtype=scale.dtype, device=scale.device)
        return [scale * grad for grad in op(unit, xs, ks, **options)]
    grads: list[Tensor] = op(scale, xs, ks, **options)
    return grads


def needs_composed(xs: Sequence[Tensor]) -> bool:
    """Under torch.func and in forward mode the loss is its definition."""
    return torch._C._functorch.peek_interpreter_stack() is not None or any(has_tangent(x) for x in xs)


def _loss_kernel(op: Any, many: bool) -> Callable[..., Tensor]:
    def kernel(
        keyset: torch._C.DispatchKeySet,
        x: Any,
        k: Sequence[int],
        *,
        standardize: bool = False,
        decay: Decay = None,
    ) -> Tensor:
        xs = list(x) if many else [x]
        options: dict[str, Any] = {"standardize": standardize, "decay": decay}
        own = options if many else {"standardize": standardize}
        graded = torch.is_grad_enabled() and any(t.requires_grad for t in xs)

        def below() -> Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                out: Tensor = op.redispatch(keyset & torch._C._after_autograd_keyset, x, list(k), **own)
            return out

        if needs_composed(xs):
            if many:
                check("spectral_loss_many", xs, k, decay)
            else:
                _contract.lowpass(x, k, op="spectral_loss")
            return composed_many(xs, k, standardize, decay)
        if not graded:
            return below()
        out: Tensor = _SpectralLoss.apply(below, list(k), options, *xs)  # type: ignore[no-untyped-call]
        return out

    return kernel


def _grad_kernel(
    keyset: torch._C.DispatchKeySet, scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], **options: Any
) -> list[Tensor]:
    if torch.is_grad_enabled() and (scale.requires_grad or any(x.requires_grad for x in xs)):
        standardize, decay = options.get("standardize", False), options.get("decay")
        return composed_gradients(lambda own: composed_many(own, ks, standardize, decay), scale, xs)
    with torch._C._AutoDispatchBelowAutograd():
        grads: list[Tensor] = torch.ops.front._spectral_grad_many.default.redispatch(
            keyset & torch._C._after_autograd_keyset, scale, list(xs), list(ks), **options
        )
    return grads


def check_writable(op: str, grads: Sequence[Tensor]) -> None:
    """No graph is recorded of what is added to gradients, and inference tensors cannot tell that they have changed."""
    if torch.is_grad_enabled() and any(grad.requires_grad for grad in grads):
        raise RuntimeError(f"front::{op}: grads must not require grad: they are added to in place")
    _check_not_inference(op, grads)


def _check_not_inference(op: str, grads: Sequence[Tensor]) -> None:
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():  # a graph can have neither question
        return
    for i, grad in enumerate(grads):
        if grad.is_inference():
            raise inference_error(op, f"grads[{i}]")


def _bump_version(op: Any, below_autograd: bool = True) -> Callable[..., Tensor]:
    """Tells autograd that the gradients, the first argument of op, have changed.

    Not below autograd it stands for autograd's own kernel, too: each kernel that a list of a model's tensors passes
    costs as much as some launches.
    """

    name = op._schema.name.removeprefix("front::")

    def kernel(keyset: torch._C.DispatchKeySet, grads: Sequence[Tensor], *args: Any, **options: Any) -> Tensor:
        if below_autograd:
            _check_not_inference(name, grads)
        else:
            check_writable(name, grads)
        for grad in grads:
            torch.autograd.graph.increment_version(grad)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            out: Tensor = op.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, list(grads), *args, **options)
        return out

    return kernel


def _fake_loss(x: Tensor, k: Sequence[int], *, standardize: bool = False) -> Tensor:
    _contract.lowpass(x, k, op="spectral_loss")
    return x.new_empty((), dtype=compute_dtype(x.dtype))


def _fake_loss_many(
    xs: Sequence[Tensor], ks: Sequence[int], *, standardize: bool = False, decay: Decay = None
) -> Tensor:
    check("spectral_loss_many", xs, ks, decay)
    return xs[0].new_empty((), dtype=loss_dtype(xs))


def _fake_accumulate(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    ks: Sequence[int],
    scale: float | Tensor,
    *,
    standardize: bool = False,
    decay: Decay = None,
) -> Tensor:
    check("spectral_grad_many_", xs, ks, decay, grads)
    return xs[0].new_empty((), dtype=loss_dtype(xs))


def _accumulate(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    ks: Sequence[int],
    scale: Tensor,
    *,
    standardize: bool = False,
    decay: Decay = None,
) -> Tensor:
    options: dict[str, Any] = {"standardize": standardize, "decay": decay}
    loss: Tensor = torch.ops.front.spectral_grad_many_.default(list(grads), list(xs), list(ks), scale.item(), **options)
    return loss


def _fake_grad(
    scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], *, standardize: bool = False, decay: Decay = None
) -> list[Tensor]:
    check("_spectral_grad_many", xs, ks, decay)
    return [x.new_empty(x.shape) for x in xs]


def _fake_crop(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool = False) -> tuple[Tensor, Tensor]:
    rows = xs[0].shape[0] if only_rows else k[0]
    check("_spectral_crop", xs, [rows, k[1]] * len(xs), None)
    _contract.check_alike("_spectral_crop", xs)
    coefficients = xs[0].new_empty((len(xs), rows, k[1]), dtype=compute_dtype(xs[0].dtype))
    return coefficients, xs[0].new_empty((len(xs), 4), dtype=torch.float64)


def _fake_residual(
    grads: Sequence[Tensor], xs: Sequence[Tensor], coefficients: Tensor, terms: Tensor, only_rows: bool = False
) -> Tensor:
    return xs[0].new_empty((len(xs),), dtype=torch.float64)


def _vmap_loss(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, k: Sequence[int], *, standardize: bool = False
) -> tuple[Tensor, int]:
    own = _contract.sample(x, in_dims[0])
    _contract.check_dtype("spectral_loss", "x's dtype", own.dtype)
    _contract.lowpass(own, k, op="spectral_loss")
    losses = composed(x.movedim(in_dims[0], 0), k, standardize, None)
    return losses.flatten(1).sum(1) if losses.dim() > 1 else losses, 0


def _vmap_loss_many(
    info: Any,
    in_dims: tuple[Any, ...],
    xs: Sequence[Tensor],
    ks: Sequence[int],
    *,
    standardize: bool = False,
    decay: Decay = None,
) -> tuple[Tensor, int]:
    samples = [_contract.sample(x, dim) for x, dim in zip(xs, in_dims[0], strict=True)]
    check("spectral_loss_many", samples, ks, decay)
    total = torch.zeros((), dtype=loss_dtype(xs), device=xs[0].device)
    for i, (x, dim) in enumerate(zip(xs, in_dims[0], strict=True)):
        mapped = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        total = total + composed(mapped, ks[2 * i : 2 * i + 2], standardize, decay).reshape(info.batch_size, -1).sum(1)
    return total, 0


def _vmap_grad(
    info: Any, in_dims: tuple[Any, ...], scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], **options: Any
) -> tuple[list[Tensor], list[int]]:
    scales = scale.expand(info.batch_size) if in_dims[0] is None else scale

    def grads(i: int) -> list[Tensor]:
        own = [x if dim is None else x.select(dim, i) for x, dim in zip(xs, in_dims[1], strict=True)]
        found: list[Tensor] = torch.ops.front._spectral_grad_many.default(scales[i], own, ks, **options)
        return found

    stacked = [torch.stack(parts) for parts in zip(*map(grads, range(info.batch_size)), strict=True)]
    return stacked, [0] * len(stacked)


def register() -> torch.library.Library:
    """Registers all of it; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "FRAGMENT")
    ops = torch.ops.front
    # spectral_grad_many_ with a scale that is no constant of a graph.
    library.define(
        "_spectral_accumulate_(Tensor(a!)[] grads, Tensor[] xs, SymInt[] ks, Tensor scale, *, bool standardize=False, "
        "float[]? decay=None) -> Tensor"
    )
    library.impl("_spectral_accumulate_", _accumulate, "CompositeExplicitAutograd")
    library.impl("spectral_loss", _loss_kernel(ops.spectral_loss.default, False), "Autograd", with_keyset=True)
    library.impl("spectral_loss_many", _loss_kernel(ops.spectral_loss_many.default, True), "Autograd", with_keyset=True)
    library.impl("_spectral_grad_many", _grad_kernel, "Autograd", with_keyset=True)
    for name in ("spectral_grad_many_", "_spectral_accumulate_"):
        accumulate = _bump_version(getattr(ops, name).default, below_autograd=False)
        library.impl(name, accumulate, "Autograd", with_keyset=True)
    for name in ("spectral_grad_many_", "_spectral_accumulate_", "_spectral_residual_"):
        library.impl(name, _bump_version(getattr(ops, name).default), "ADInplaceOrView", with_keyset=True)
    for name, fake in (
        ("spectral_loss", _fake_loss),
        ("spectral_loss_many", _fake_loss_many),
        ("spectral_grad_many_", _fake_accumulate),
        ("_spectral_accumulate_", _fake_accumulate),
        ("_spectral_grad_many", _fake_grad),
        ("_spectral_crop", _fake_crop),
        ("_spectral_residual_", _fake_residual),
    ):
        torch.library.register_fake(f"front::{name}", fake)
    torch.library.register_vmap("front::spectral_loss", _vmap_loss)
    torch.library.register_vmap("front::spectral_loss_many", _vmap_loss_many)
    torch.library.register_vmap("front::_spectral_grad_many", _vmap_grad)
    return library
