"""Derivatives and batching of the ops, for every transform system of torch.

Every op is linear in x, so its derivative in a direction is itself, and its backward is its transpose, which is again
one of the ops: crop and pad are each other's, with the adjoint norm. Any order follows.

`torch.library.register_autograd` would be shorter, but an op registered with it loses forward-mode tangents without
an error and does not run under torch.func (both seen with torch 2.13). So the Autograd kernel is written here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode

from . import _contract
from ._contract import adjoint_norm

Arguments = dict[str, Any]

cuda_kernels: dict[str, Callable[..., Any]] = {}
"""What is registered for CUDA tensors, by op ("dct_crop", "dct_crop.out", "dct_crop_"): engines.py's."""

# Looked up once: a call of an op costs microseconds, and each of these a part of one.
_AFTER_AUTOGRAD = torch._C._after_autograd_keyset
_below_autograd = torch._C._AutoDispatchBelowAutograd
_AFTER_VIEWS = torch._C._after_ADInplaceOrView_keyset
_BELOW_VIEWS = _AFTER_VIEWS.raw_repr()  # as numbers, sets are compared in a third of the time
_PLAIN_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA).raw_repr()
_forward_mode = forward_ad._is_fwd_grad_enabled
_unpack_dual = torch._C._VariableFunctions._unpack_dual


@dataclass(frozen=True)
class LinearOp:
    """An op as a linear map: `transpose(g, x, arguments)` is its transpose applied to g."""

    name: str
    contract: Callable[..., _contract.Result]
    defaults: Arguments
    transpose: Callable[[Tensor, torch.Size, torch.dtype, Arguments], Tensor]

    @property
    def overload(self) -> torch._ops.OpOverload[..., Any]:
        overload: torch._ops.OpOverload[..., Any] = getattr(torch.ops.front, self.name).default
        return overload

    def arguments(self, args: Sequence[Any], kwargs: Arguments) -> Arguments:
        """All arguments but x by name; the dispatcher leaves out those that equal their default."""
        return self.defaults | dict(zip(self.defaults, args, strict=False)) | kwargs


def _norm_and_dtype(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    return {"norm": adjoint_norm(arguments["norm"]), "out_dtype": dtype}


def _dct_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.idct.default(g, shape[a["dim"]], a["dim"], **_norm_and_dtype(a, dtype))
    return out


def _idct_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.dct.default(g, shape[a["dim"]], a["dim"], **_norm_and_dtype(a, dtype))
    return out


def _dct2_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.idct2.default(g, **_norm_and_dtype(a, dtype))
    return out


def _idct2_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.dct2.default(g, **_norm_and_dtype(a, dtype))
    return out


def _dct_crop_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.idct_pad.default(g, shape[-2:], **_norm_and_dtype(a, dtype))
    return out


def _idct_pad_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.dct_crop.default(g, shape[-2:], **_norm_and_dtype(a, dtype))
    return out


def _dct_resize_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.dct_resize.default(g, shape[-2:], k=a["k"], **_norm_and_dtype(a, dtype))
    return out


def _lowpass_t(g: Tensor, shape: torch.Size, dtype: torch.dtype, a: Arguments) -> Tensor:
    out: Tensor = torch.ops.front.lowpass.default(g, a["k"])
    return out


_SCALED: Arguments = {"norm": "ortho", "out_dtype": None}
OPS = (
    LinearOp("dct", _contract.dct, {"k": None, "dim": -1, **_SCALED}, _dct_t),
    LinearOp("idct", _contract.idct, {"size": None, "dim": -1, **_SCALED}, _idct_t),
    LinearOp("dct2", _contract.dct2, _SCALED, _dct2_t),
    LinearOp("idct2", _contract.idct2, _SCALED, _idct2_t),
    LinearOp("dct_crop", _contract.dct_crop, {"k": None, **_SCALED}, _dct_crop_t),
    LinearOp("idct_pad", _contract.idct_pad, {"size": None, **_SCALED}, _idct_pad_t),
    LinearOp("dct_resize", _contract.dct_resize, {"size": None, "k": None, **_SCALED}, _dct_resize_t),
    LinearOp("lowpass", _contract.lowpass, {"k": None}, _lowpass_t),
)


# NOTE: a single-level Function, because the Autograd kernel runs once per level of torch.func; a plain
# autograd.Function would hand itself back to torch.func and never reach the next level.
class _Apply(torch.autograd.function._SingleLevelFunction):
    @staticmethod
    def forward(x: Tensor, op: LinearOp, below: Callable[[Tensor], Tensor], arguments: Arguments) -> Tensor:
        return below(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.op, _, ctx.arguments = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.op.transpose(g, ctx.shape, ctx.dtype, ctx.arguments), None, None, None

    @staticmethod
    def _compiled_autograd_key(ctx: Any) -> tuple[int]:
        return (ctx._autograd_function_id,)  # what torch.autograd.Function has and a single-level one lacks

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):  # torch has switched it off, but outer levels want their tangents
            out: Tensor = ctx.op.overload(tangent, **ctx.arguments)
        return out


def has_tangent(x: Tensor, other: Tensor | None = None) -> bool:
    # Asking takes longer than the rest of a call: it makes an alias. Without a dual level of forward_ad there are no
    # tangents, but graphs that dynamo compiled do not keep that Python counter of them. (torch.optim imports dynamo.)
    if (forward_ad._current_level < 0 and "torch._dynamo" not in sys.modules) or not _forward_mode():
        return False
    # NOTE: the alias must not enter a graph: inductor compares two traces of one op node by node.
    if get_proxy_mode() is not None:
        with disable_proxy_modes_tracing():
            return _is_dual(x) or (other is not None and _is_dual(other))
    return _is_dual(x) or (other is not None and _is_dual(other))


def _is_dual(x: Tensor) -> bool:
    return _unpack_dual(x, level=0)[1] is not None


def inference_error(op: str, argument: str) -> RuntimeError:
    """For a result that `is_inference` where that mode is not enabled: torch writes into no such tensor."""
    return RuntimeError(
        f"front::{op}: {argument}: got an inference tensor outside inference mode; allowed are other tensors, or this "
        "call under torch.inference_mode()"
    )


def is_plain(keyset: torch._C.DispatchKeySet) -> bool:
    """No mode, subclass or transform is below autograd: it is known where the dispatcher, in microseconds, arrives."""
    return keyset.raw_repr() & _BELOW_VIEWS == _PLAIN_CUDA


def written(op: str, argument: str, x: Tensor) -> None:
    """What the kernel for ADInplaceOrView has to do: autograd learns that x has changed."""
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise inference_error(op, argument)
    increment_version(x)


def _autograd_kernel(op: LinearOp) -> Callable[..., Tensor]:
    redispatch = op.overload.redispatch
    # A class of its own, so that grad_fn tells the op: DctCropBackward.
    function: Any = type("".join(part.capitalize() for part in op.name.split("_")), (_Apply,), {})

    def kernel(keyset: torch._C.DispatchKeySet, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # (What it computes with needs no gradient here, so that it does without a guard against autograd.)
        plain = keyset.raw_repr() & _BELOW_VIEWS == _PLAIN_CUDA  # is_plain, without a call
        if not (x.requires_grad and torch.is_grad_enabled()) and not has_tangent(x):
            out: Tensor
            if plain:
                out = cuda_kernels[op.name](x, *args, **kwargs)
                return out
            with _below_autograd():
                out = redispatch(keyset & _AFTER_AUTOGRAD, x, *args, **kwargs)
            return out
        grad_mode, forward_mode = torch.is_grad_enabled(), _forward_mode()

        def below(x: Tensor) -> Tensor:
            out: Tensor
            if plain:
                out = cuda_kernels[op.name](x, *args, **kwargs)
                return out
            # A Function runs its forward without gradients; the outer levels of torch.func still want theirs.
            with (
                _below_autograd(),
                torch.set_grad_enabled(grad_mode),
                forward_ad._set_fwd_grad_enabled(forward_mode),
            ):
                out = redispatch(keyset & _AFTER_AUTOGRAD, x, *args, **kwargs)
            return out

        with enable_single_level_autograd_function():
            applied: Tensor = function.apply(x, op, below, op.arguments(args, kwargs))
        return applied

    return kernel


def _out_kernels(op: LinearOp) -> tuple[Callable[..., None], Callable[..., None]]:
    """Autograd: refuses, or does what ADInplaceOrView does: tells autograd that `out` has changed, and goes on.

    It does that itself and in one function, without guards against what is dispatched further down, where nothing has
    gradients: what Python does beside a transform that fills the caches is cold, and takes several times as long as in
    a loop of its own.
    """
    name, redispatch = f"{op.name}.out", getattr(torch.ops.front, op.name).out.redispatch

    def bump_version(keyset: torch._C.DispatchKeySet, x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> None:
        written(op.name, "out", out)
        redispatch(keyset & _AFTER_VIEWS, x, *args, out=out, **kwargs)

    def autograd(keyset: torch._C.DispatchKeySet, x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> None:
        if ((x.requires_grad or out.requires_grad) and torch.is_grad_enabled()) or has_tangent(x, out):
            raise RuntimeError(f"front::{op.name}: out= does not support autograd, but x or out requires grad")
        written(op.name, "out", out)
        if is_plain(keyset):
            cuda_kernels[name](x, *args, out=out, **kwargs)
        else:
            redispatch(keyset & _AFTER_VIEWS, x, *args, out=out, **kwargs)

    return autograd, bump_version


def _fake(op: LinearOp) -> Callable[..., Tensor]:
    def fake(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape, dtype = op.contract(x, *args, **kwargs)
        return x.new_empty(shape, dtype=dtype)

    return fake


def _out_fake(op: LinearOp) -> Callable[..., None]:
    def fake(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> None:
        _contract.check_dtype(op.name, "out's dtype", out.dtype)
        if out.device != x.device:
            raise ValueError(f"front::{op.name}: out must be on x's device, {x.device}, got {out.device}")
        # NOTE: no tensor is made for this: inductor of torch 2.11 would find it in one of its two traces and give up.
        shape, _ = op.contract(x, *args, out_dtype=out.dtype, **kwargs)
        _contract.check_out(op.name, out, shape)

    return fake


def _vmap_rule(op: LinearOp) -> Callable[..., tuple[Tensor, int | None]]:
    least = 1 if "dim" in op.defaults else 2

    def rule(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        assert in_dims[0] is not None  # x is the only tensor, so it is the one that is batched
        x = x.movedim(in_dims[0], 0)
        arguments = op.arguments(args, kwargs)
        _contract.check_rank(op.name, x.shape[1:], least)
        if "dim" in arguments:
            arguments["dim"] = _contract.check_dim(op.name, x.dim() - 1, arguments["dim"]) + 1
        return op.overload(x, **arguments), 0

    return rule


def _square_kernel(op: LinearOp) -> Callable[..., Tensor]:
    def square(x: Tensor, n: int, **kwargs: Any) -> Tensor:
        out: Tensor = op.overload(x, [n, n], **kwargs)
        return out

    return square


def _square_vmap_rule(op: LinearOp) -> Callable[..., tuple[Tensor, int | None]]:
    rule = _vmap_rule(op)

    def square(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, n: int, **kwargs: Any
    ) -> tuple[Tensor, int | None]:
        return rule(info, in_dims, x, [n, n], **kwargs)

    return square


def register() -> torch.library.Library:
    """Registers fake, autograd and vmap kernels of every op; the returned Library keeps them alive."""
    library = torch.library.Library("front", "IMPL")
    for op in OPS:
        if "out" in getattr(torch.ops.front, op.name).overloads():
            autograd, bump_version = _out_kernels(op)
            torch.library.register_fake(f"front::{op.name}.out", _out_fake(op))
            library.impl(f"{op.name}.out", autograd, "Autograd", with_keyset=True)
            library.impl(f"{op.name}.out", bump_version, "ADInplaceOrView", with_keyset=True)
    for op in OPS:
        torch.library.register_fake(f"front::{op.name}", _fake(op))
        library.impl(op.name, _autograd_kernel(op), "Autograd", with_keyset=True)
        torch.library.register_vmap(f"front::{op.name}", _vmap_rule(op))
        if "square" in getattr(torch.ops.front, op.name).overloads():
            library.impl(f"{op.name}.square", _square_kernel(op), "CompositeImplicitAutograd")
            torch.library.register_vmap(f"front::{op.name}.square", _square_vmap_rule(op))
    return library
