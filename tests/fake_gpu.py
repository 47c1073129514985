"""A GPU that is not there: tensors that say they are on it, and a count of what would be launched.

`FakeGpu` is a dispatch mode. Its tensors hold the values on the CPU, or, of models too large for that, none at all
(meta). Ops of `front` go through engines.py and the engines' planners as on a device, up to the launch, so their
launches are those of the plans; each other op must be in one of the lists below, which say how many kernels a CUDA
build of torch takes for it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import front_kernels as fk
from front_kernels import _C, _autograd, _contract, _spectral_gpu, _variants, engines
from front_kernels.triton import basis, launch

DEVICE = torch.device("cuda:0")
HARDWARE = fk.info.H200
OPS = {op.name: engines._functional(op) for op in _autograd.OPS}
OPS |= {f"{op.name}_many": engines._many(op) for op in _variants.MANY}
# Lists of the spectral loss are taken apart into these, of which each counts by itself.
LISTS = {
    "spectral_loss": _spectral_gpu._loss,
    "spectral_loss_many": _spectral_gpu._loss_many,
    "spectral_grad_many_": _spectral_gpu._grad_many_,
    "_spectral_accumulate_": _spectral_gpu._grad_many_,
    "_spectral_grad_many": _spectral_gpu._grad_many,
}
HALVES = {"_spectral_crop": _spectral_gpu.crop, "_spectral_residual_": _spectral_gpu.residual_}
HOST = {"_spectral_alike", "_spectral_apart"}  # they look at shapes and addresses

NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided"}
ONE_KERNEL = {
    "_to_copy", "abs", "add", "add_", "arange", "bitwise_or", "clamp_min", "clone", "copy_", "div", "exp", "expm1",
    "fill_", "le", "linalg_vector_norm", "masked_fill", "mean", "mul", "mul_", "ne", "neg", "ones_like", "pow", "pow_",
    "reciprocal", "scalar_tensor", "sqrt", "square", "std", "std_mean", "sub", "sub_", "sum", "where", "zeros",
    "zeros_like",
}  # fmt: skip
# What one kernel of theirs takes: tensors; blocks of 64 Ki elements.
CAT_TENSORS, FOREACH_BLOCKS = 128, 320
READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}


class GpuTensor(Tensor):
    """`inner`: the values. `block`: what holds the memory of it and of its views."""

    inner: Tensor
    block: Block

    @staticmethod
    def __new__(cls, inner: Tensor, block: Block) -> GpuTensor:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner, made.block = inner, block
        return made

    # NOTE: torch's indexing and its copy_ set the current device, for which a CPU build has no code.
    def __getitem__(self, index: Any) -> Tensor:
        view = self.inner[index]
        assert view.untyped_storage()._cdata == self.inner.untyped_storage()._cdata, f"no view: [{index}]"
        return GpuTensor(view, self.block)

    def __setitem__(self, index: Any, value: Any) -> None:
        view = self[index]
        if not isinstance(value, Tensor):
            view.fill_(value)
        elif value.data_ptr() != view.data_ptr():  # else x[index] += ..., which is done
            torch._foreach_copy_([view], [value])

    def data_ptr(self) -> int:
        return self.block.address + self.inner.storage_offset() * self.itemsize

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the fake GPU, outside of it")


class Block:
    """Allocated memory."""

    def __init__(self, gpu: FakeGpu, nbytes: int) -> None:
        self.address = gpu.allocate(nbytes)
        weakref.finalize(self, gpu.free, nbytes)


class FakeGpu(TorchDispatchMode):
    """Counts, while it is active: `front` (launches of the engines), `torch` (other kernels), `reads` (waits)."""

    def __init__(self, values: bool = True) -> None:
        super().__init__()
        self.values = values
        self.live = self.peak = 0
        self._next = 1 << 20
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self.reset()

    def reset(self) -> None:
        self.front: Counter[str] = Counter()
        self.torch: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.peak = self.live

    def allocate(self, nbytes: int) -> int:
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        address, self._next = self._next, self._next + (nbytes + 511) // 512 * 512
        return address

    def free(self, nbytes: int) -> None:
        self.live -= nbytes

    def tensor(self, given: Tensor | Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor with these values; a shape alone where there are no values."""
        if not isinstance(given, Tensor):
            given = torch.empty(tuple(given), dtype=dtype, device="meta")
        return self._wrapped(given)

    def _wrapped(self, inner: Tensor) -> Tensor:
        storage = inner.untyped_storage()
        block = self._blocks.get(storage._cdata)
        if block is None:
            self._blocks[storage._cdata] = block = Block(self, storage.nbytes())
        return GpuTensor(inner, block)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors: list[Tensor] = []
        tree_map(lambda a: tensors.append(a) if isinstance(a, Tensor) else None, (args, kwargs))
        there = any(isinstance(t, GpuTensor) for t in tensors)
        device = kwargs.get("device")
        to_gpu = (there and device is None) or (device is not None and torch.device(device).type == "cuda")
        if not there and not to_gpu:
            return func(*args, **kwargs)
        if device is not None and to_gpu:
            kwargs["device"] = "cpu" if self.values else "meta"
        inner_args, inner_kwargs = tree_map(lambda a: a.inner if isinstance(a, GpuTensor) else a, (args, kwargs))
        namespace, _, op = func._schema.name.partition("::")
        if namespace == "front" and op in HOST:
            return func(*inner_args, **inner_kwargs)
        if namespace == "front" and op in LISTS:
            with self:
                return LISTS[op](*args, **kwargs)
        if namespace == "front" and op in HALVES:
            return self._half(func, op, args, inner_args)
        if namespace == "front" and op == "_cuda_spectral_":
            return self._wrapped(self._cuda_spectral(args, *inner_args))
        self._count(func, args, inner_args, inner_kwargs, to_gpu)
        if func is torch.ops.aten.std.correction_out:
            # The CPU's kernel for a single result, unlike CUDA's, takes no 16-bit numbers into a float32 one.
            inner_args = (inner_args[0].to(inner_kwargs["out"].dtype), *inner_args[1:])
        name = func._schema.name.removeprefix("aten::")
        if name in READS:
            assert self.values, f"{name} reads a value, and there is none"
            return func(*inner_args, **inner_kwargs)
        if there and not to_gpu and not self.values:
            return torch.ones(inner_args[0].shape, dtype=inner_args[0].dtype)  # what a copy to the CPU finds
        out = func(*inner_args, **inner_kwargs)
        return tree_map(lambda o: self._wrapped(o) if isinstance(o, Tensor) and to_gpu else o, out)

    def _half(self, func: Any, op: str, args: Any, inner_args: Any) -> Any:
        """By the CUDA engine's ops as they are; of the Triton engine, the launches, and the values from the CPU."""
        xs, k = (args[0], args[1]) if op == "_spectral_crop" else (args[1], args[2].shape[1:])
        before = len(_plans)
        with self:
            if not _spectral_gpu._fused(xs, k, False):
                return HALVES[op](*args)
            HALVES[op](*args)
        self.front[op] += sum(n for n, _ in _plans[before:])
        out = func(*inner_args)
        return tree_map(lambda o: self._wrapped(o), out)

    def _cuda_spectral(
        self, args: Any, grads: list[Tensor], xs: list[Tensor], ks: list[int], scale: float, scale_at: list[Tensor],
        standardize: bool, decay: Any,
    ) -> Tensor:  # fmt: skip
        """One op's launches; its values are those of the CPU's, matrix by matrix."""
        matrices = []
        losses = []
        factor = scale * (scale_at[0].item() if scale_at else 1.0)
        for i, (x, own) in enumerate(zip(xs, args[1], strict=True)):
            grad, like = (grads[i], args[0][i]) if grads else (x, own)
            types = [*_types(x, x)[:2], _types(grad, grad)[0]]
            for index in range(x[..., 0, 0].numel()):
                one = ((*x.shape[-2:], *ks[2 * i : 2 * i + 2]), (*x.stride()[-2:], *grad.stride()[-2:]), types)
                matrices.append((*one, own.data_ptr() + index, like.data_ptr() + index if grads else 0))
            k, options = ks[2 * i : 2 * i + 2], {"standardize": standardize, "decay": decay}
            if grads:
                losses.append(torch.ops.front.spectral_grad_many_([grad], [x], k, factor, **options))
            else:
                losses.append(torch.ops.front.spectral_loss_many([x], k, **options))
        apart = not grads or torch.ops.front._spectral_apart(grads, xs)
        launches, size = _C.cuda_spectral_list_launches(
            matrices, apart, decay or (0.0, 0.0), standardize, scale, 64, 0, list(HARDWARE)
        )
        self.front["_cuda_spectral_"] += len(launches)
        self.peak = max(self.peak, self.live + size)
        return torch.stack(losses).to(torch.float64)

    def _count(self, func: Any, args: Any, inner_args: Any, inner_kwargs: Any, to_gpu: bool) -> None:
        namespace, name = func._schema.name.split("::")
        if namespace == "front":
            launches, workspace = planned(name, inner_args, inner_kwargs)
            self.front[name] += launches
            self.peak = max(self.peak, self.live + workspace)
        elif name in READS or not to_gpu:
            self.reads[name] += 1
        elif func.is_view or name in NO_KERNEL:
            pass
        elif name in ("cat", "stack"):
            self.torch[name] += -(-len(args[0]) // CAT_TENSORS)
        elif name == "constant_pad_nd":
            self.torch[name] += 2
        elif name in ("_foreach_copy_", "_foreach_zero_"):
            plain = all(isinstance(t, GpuTensor) and t.is_contiguous() for tensors in args for t in tensors)
            blocks = sum(-(-t.numel() // (1 << 16)) for t in args[0])
            self.torch[name] += -(-blocks // FOREACH_BLOCKS) if plain else len(args[0])
        else:
            assert name in ONE_KERNEL, f"{func}: how many kernels does it take?"
            if name == "_to_copy" and not isinstance(args[0], GpuTensor):
                self.reads["copy from the host"] += 1  # which waits, unless the host's memory is pinned
            self.torch[name] += 1


def planned(name: str, args: Any, kwargs: Any) -> tuple[int, int]:
    """Launches, and bytes of workspace, of an op of `front` by the engine that runs it."""
    _plans.clear()
    as_meta = [
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta") if isinstance(a, Tensor) else a
        for a in (args[0] if isinstance(args[0], (list, tuple)) else [args[0]])
    ]
    OPS[name](as_meta if name.endswith("_many") else as_meta[0], *args[1:], **kwargs)
    return sum(n for n, _ in _plans), max((size for _, size in _plans), default=0)


_plans: list[tuple[int, int]] = []


def _types(x: Tensor, out: Tensor) -> list[int]:
    kind = _contract.FLOATS.index
    double = torch.float64 in (x.dtype, out.dtype)
    return [kind(x.dtype), kind(torch.float64 if double else torch.float32), kind(out.dtype)]


def _cuda_matrices(xs: list[Tensor], outs: list[Tensor], direction: int, k0: int, k1: int, norm: str) -> None:
    x, out = xs[0], outs[0]
    (m, n), (rows, columns) = x.shape[-2:], out.shape[-2:]
    sizes = [[m, n, rows, columns, 0, 0], [rows, columns, m, n, 0, 0], [m, n, k0, k1, rows, columns]][direction]
    batch = [(s, a, b) for s, a, b in zip(x.shape[:-2], x.stride()[:-2], out.stride()[:-2], strict=True)]
    strides = [*x.stride()[-2:], *out.stride()[-2:]]
    addresses = [[(i + 1) << 40 for i in range(at, 2 * len(xs), 2)] for at in (0, 1)]
    launches, size = _C.cuda_matrix_launches(
        direction, sizes, strides, _types(x, out), norm, *addresses, batch, 0, HARDWARE
    )
    _plans.append((len(launches), size))


def _cuda_axis(x: Tensor, out: Tensor, direction: int, dim: int, norm: str) -> None:
    n, kept = (x, out) if direction == 0 else (out, x)
    lanes = [(s, x.stride(d), out.stride(d)) for d, s in enumerate(x.shape) if d != dim]
    launches, size = _C.cuda_axis_launches(
        direction, n.shape[dim], kept.shape[dim], [x.stride(dim), out.stride(dim)], _types(x, out), norm,
        1 << 40, 2 << 40, lanes, 0, HARDWARE,
    )  # fmt: skip
    _plans.append((len(launches), size))


def _carry_out(original: Callable[..., Any]) -> Callable[..., Any]:
    def carry_out(found: Any, xs: Sequence[Tensor], outs: Sequence[Tensor], **more: Any) -> Any:
        _plans.append((0, found.workspace_bytes))
        return original(found, xs, outs, **more)

    return carry_out


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Engines that plan on tensors without data, and launch nothing; both are there, as on an H200."""
    library = torch.library.Library("front", "IMPL")
    library.impl("_cuda_matrices", _cuda_matrices, "Meta")
    library.impl("_cuda_axis", _cuda_axis, "Meta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(engines, "_absent", lambda name, gpu: None)
        patch.setattr(launch, "launch", lambda kernel, grid, arguments: _plans.append((1, 0)))
        patch.setattr(launch, "carry_out", _carry_out(launch.carry_out))
        patch.setattr(launch, "_addresses", lambda *_: None)  # of a list, copied from the host
        patch.setattr(launch, "_share_memory", lambda x, out: False)  # tensors without data have one address
        patch.setattr(basis, "get", lambda key, device: None)
        patch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
        patch.setattr(_spectral_gpu, "_hardware", lambda device: list(HARDWARE))
        patch.setattr(_spectral_gpu, "_in_one_op", {})
        engines._forget_choices()
        yield
    engines._forget_choices()
    library._destroy()
