"""The one place that chooses what runs for a CUDA tensor. The C++ library has the CPU key to itself.

Two engines: `cuda`, the FFT-shaped kernels of csrc/cuda, where they were built; `triton`, GEMM-shaped kernels on tensor
cores, where Triton is installed. Of those present, the one that the cost model (_costs.py) predicts to be faster; or
the one that `set_engine` or FRONT_ENGINE names. `plan_for` tells what was chosen and why.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C, _autograd, _contract, _costs, _settings
from ._autograd import OPS
from ._variants import IN_PLACE, MANY

__all__ = ["Choice", "available", "choose"]

_FORWARD, _INVERSE, _RESIZE = _costs.FORWARD, _costs.INVERSE, _costs.RESIZE
_NAMES = ("forward", "inverse", "resize")


class Gpu(NamedTuple):
    """What choosing and launching need to know of a device."""

    name: str
    architecture: str  # "sm_90", "gfx942"
    multiprocessors: int
    nvidia: bool = True

    @property
    def warp(self) -> int:
        """Threads of a warp."""
        return 32 if self.nvidia else 64

    @property
    def capability(self) -> int:
        return int(self.architecture.removeprefix("sm_")) if self.nvidia else 0


H200 = Gpu("NVIDIA H200", "sm_90", 132)


@functools.cache
def _gpu(index: int) -> Gpu:
    found = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        name = found.gcnArchName.split(":")[0]
        return Gpu(found.name, name, found.multi_processor_count, nvidia=False)
    return Gpu(found.name, f"sm_{found.major}{found.minor}", found.multi_processor_count)


def index_of(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def gpu_of(device: torch.device) -> Gpu:
    """The device, or an H200 where there is no GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return H200
    return _gpu(index_of(device))


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _absent(name: str, gpu: Gpu) -> str | None:
    """Why an engine cannot run on a device; None where it can."""
    if name == "cuda":
        if not _C.build_info()["cuda"]:
            return (
                "this build of front_kernels has no CUDA engine; build it where a CUDA toolkit (12.8 or later) is "
                "found (FRONT_CUDA=1 makes its absence an error)"
            )
        if not gpu.nvidia:
            return f"it is for NVIDIA's GPUs, and this is an {gpu.name}"
    elif not _has_triton():
        return "Triton is not installed (pip install triton)"
    if gpu.nvidia and gpu.capability < 80:
        return f"it needs sm_80 or later, and {gpu.name} is {gpu.architecture}"
    return None


def available() -> tuple[str, ...]:
    """Names of the engines that there are for CUDA tensors: of this build, and of what is installed."""
    return tuple(name for name in _settings.ENGINES if _absent(name, H200) is None)


@dataclass(frozen=True)
class Choice:
    """The engine, and for each one either the microseconds that it is predicted to take or why it is out."""

    engine: str
    predicted_us: dict[str, float]
    absent: dict[str, str]
    forced: bool


@functools.lru_cache(maxsize=4096)
def _chosen(problems: tuple[_costs.Problem, ...], gpu: Gpu, asked: str | None, precision: str) -> Choice:
    absent = {name: why for name in _settings.ENGINES if (why := _absent(name, gpu)) is not None}
    if "cuda" not in absent and (long := next(filter(None, map(_costs.too_long, problems)), None)) is not None:
        absent["cuda"] = long
    device = _costs.device_named(gpu.name)
    predicted = {}
    if "cuda" not in absent:
        predicted["cuda"] = sum(_costs.cuda_us(problem, device) for problem in problems)
    if "triton" not in absent:
        predicted["triton"] = sum(_costs.triton_us(problem, precision, device) for problem in problems)
    if asked is not None and asked in absent:
        raise NotImplementedError(f"engine {asked!r} was asked for, but {absent[asked]}")
    if not predicted:
        reasons = "; ".join(f"{name}: {why}" for name, why in absent.items())
        raise NotImplementedError(f"no engine for CUDA tensors ({reasons}). Or move x to the CPU (x.cpu())")
    large = next((why for p in problems if (why := _costs.too_large(p, precision)) is not None), None)
    if asked is None and large is not None and len(predicted) > 1:  # alone it has to do, as long as memory lasts
        absent["triton"] = large
        del predicted["triton"]
    engine = asked or min(predicted, key=lambda name: predicted[name])
    return Choice(engine, predicted, absent, asked is not None)


def choose(problems: Sequence[_costs.Problem], gpu: Gpu, engine: str | None = None) -> Choice:
    """Which engine transforms this (of a resize, both directions) on a device; `engine` forces one.

    Raises:
        NotImplementedError: there is no engine for the device, or the one that was asked for cannot run there.
        ValueError: `engine` or FRONT_ENGINE is not an engine's name.
    """
    _settings.check_engine("engine", engine)
    return _chosen(tuple(problems), gpu, engine or _settings.engine(), _settings.precision())


@functools.cache
def _triton() -> Any:
    """The launcher of the Triton engine, imported when it is first needed."""
    from .triton import launch

    return launch


def target(gpu: Gpu) -> Any:
    """The device as plans of the Triton engine want it, under the precision that is set."""
    return _target(gpu, _settings.precision())


@functools.cache
def _target(gpu: Gpu, precision: str) -> Any:
    from .triton import plan

    return plan.Target((gpu.name, gpu.architecture), gpu.multiprocessors, precision, gpu.nvidia)


def _count(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _engine(op: str, gpu: Gpu, *matrices: Any) -> str:
    try:
        return _engine_for(gpu, _settings.engine(), _settings.precision(), *matrices)
    except NotImplementedError as error:
        raise NotImplementedError(f"front::{op}: x is on a CUDA device: {error}") from None


@functools.lru_cache(maxsize=4096)
def _engine_for(gpu: Gpu, asked: str | None, precision: str, *matrices: Any) -> str:
    """Of what problems_of takes, found once: a call costs microseconds."""
    return _chosen(tuple(_costs.problems_of(*matrices)), gpu, asked, precision).engine


def _forget_choices() -> None:
    """For tests, which change what there is."""
    _chosen.cache_clear()
    _engine_for.cache_clear()
    _calls.clear()


class Task(NamedTuple):
    """What an op is for an engine: both axes of matrices (a resize goes through k coefficients), or the axis `dim`."""

    direction: int
    norm: str
    k: tuple[int, int] = (0, 0)
    dim: int | None = None


_DIRECTIONS = {"dct2": _FORWARD, "dct_crop": _FORWARD, "idct2": _INVERSE, "idct_pad": _INVERSE}


def _task(op: str, x: Tensor, out: Tensor, arguments: dict[str, Any]) -> Task:
    if op in ("dct", "idct"):
        return Task(_FORWARD if op == "dct" else _INVERSE, arguments["norm"], dim=arguments["dim"] % x.dim())
    if op in ("dct_resize", "lowpass"):
        return Task(_RESIZE, arguments.get("norm", "ortho"), _kept(x.shape, out.shape[-2:], arguments["k"]))
    return Task(_DIRECTIONS[op], arguments["norm"])


def _engine_of(op: str, count: int, x: Tensor, out: Tensor, task: Task) -> str:
    """The engine for `count` tensors like these."""
    ends: tuple[Sequence[int | None], Sequence[int | None]] = x.shape, out.shape
    if task.dim is None:
        count = max(1, count * _count(x.shape[:-2]))
        by_columns = x.stride(-2) == 1 and x.stride(-1) != 1
    else:
        lanes = _count(x.shape) // x.shape[task.dim]
        by_columns = x.stride(task.dim) == 1 and lanes > 1
        ends = (x.shape[task.dim], lanes), (out.shape[task.dim], None)
        if task.direction == _INVERSE:
            ends = (x.shape[task.dim], None), (out.shape[task.dim], lanes)
    return _engine(op, gpu_of(x.device), task.direction, count, *ends, task.k, (x.dtype, out.dtype), by_columns)


def engine_for(
    op: str,
    device: torch.device,
    count: int,
    ends: tuple[Sequence[int | None], Sequence[int | None]],
    dtypes: tuple[torch.dtype, torch.dtype],
    by_columns: bool,
) -> str:
    """The engine that crops `count` matrices from and to the sizes `ends`, for ops that are made of crops."""
    return _engine(op, gpu_of(device), _FORWARD, count, *ends, (0, 0), dtypes, by_columns)


_Compute = Callable[[Sequence[Tensor], Sequence[Tensor]], object]


def _by_cuda(task: Task) -> _Compute:
    direction, norm, (k0, k1), dim = task
    if dim is not None:
        axis = torch.ops.front._cuda_axis.default
        return lambda xs, outs: axis(xs[0], outs[0], direction, dim, norm)
    matrices = torch.ops.front._cuda_matrices.default
    return lambda xs, outs: matrices(xs, outs, direction, k0, k1, norm)


def _no_elements(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    """What computes an empty result."""


def _computation(op: str, count: int, x: Tensor, out: Tensor, task: Task, new: bool = False) -> _Compute:
    """What transforms `count` tensors like x into tensors like out: `new` ones, or in memory that may be x's too."""
    if not out.numel():
        return _no_elements
    if _engine_of(op, count, x, out, task) == "cuda":
        return _by_cuda(task)
    of = _NAMES[task.direction], task.k
    device_of: Any = torch.cuda.device_of  # untyped
    compute: _Compute
    if new:
        plan = _triton().planned(x, out, *of, task.dim, task.norm, target(gpu_of(x.device)))
        compute = functools.partial(_triton().carry_out, plan)
    else:
        compute = functools.partial(_triton().matrices, *of, task.norm, target(gpu_of(x.device)))

    def by_triton(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        with device_of(xs[0]):
            compute(xs, outs)

    return by_triton


# A functional op on one layout: its result's sizes, strides and dtype, and what computes it; a plain tuple, for speed.
_Call = tuple[Sequence[int], Sequence[int], torch.dtype, _Compute]
_calls: dict[Any, Any] = {}
"""What the ops found out about their last calls: of all forms, by what it depends on."""
_MOST_CALLS = 4096


def _keep(at: Any, found: Any) -> Any:
    if len(_calls) >= _MOST_CALLS:
        _calls.clear()
    _calls[at] = found
    return found


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype, x.device


def _setting(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What a call's choices depend on besides its tensors."""
    given = tuple([tuple(a) if type(a) is list else a for a in (*args, *kwargs.values())])
    return given, tuple(kwargs), _settings.engine(), _settings.precision()


def _prepared(op: Any, x: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> _Call:
    """All that need not be done again for the next tensor of x's layout."""
    shape, dtype = op.contract(x, *args, **kwargs)
    out = x.new_empty(shape, dtype=dtype, device="meta")
    task = _task(op.name, x, out, op.arguments(args, kwargs))
    return tuple(shape), out.stride(), dtype, _computation(op.name, 1, x, out, task, new=True)


def _check_device(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"front::{op}: {name} must be on {x.device}, as x is, got {tensor.device}")


def _kept(shape: Sequence[int], size: Sequence[int], k: Sequence[int] | None) -> tuple[int, int]:
    m, n = (min(a, b) for a, b in zip(shape[-2:], size, strict=True))
    return (m, n) if k is None else (min(m, k[0]), min(n, k[1]))


def _functional(op: Any) -> Callable[..., Tensor]:
    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # Checks, choices and plans are those of the last call like this one: they take longer than a small kernel.
        given = tuple([tuple(a) if type(a) is list else a for a in (*args, *kwargs.values())])
        layout = x.shape, x.stride(), x.dtype, x.device, x.data_ptr() % 16 == 0
        at = op.name, layout, given, tuple(kwargs), _settings.engine(), _settings.precision()
        call = _calls.get(at) or _keep(at, _prepared(op, x, args, kwargs))
        shape, strides, dtype, compute = call
        out = torch.empty_strided(shape, strides, dtype=dtype, device=x.device)
        compute((x,), (out,))
        return out

    return kernel


def _into(op: Any) -> Callable[..., None]:
    def prepared(x: Tensor, out: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> _Compute:
        _contract.check_dtype(op.name, "out's dtype", out.dtype)
        shape, _ = op.contract(x, *args, out_dtype=out.dtype, **kwargs)
        _contract.check_out(op.name, out, shape)
        _check_device(op.name, "out", out, x)
        return _computation(op.name, 1, x, out, _task(op.name, x, out, op.arguments(args, kwargs)))

    def kernel(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> None:
        at = op.name, _layout(x), _layout(out), _setting(args, kwargs)
        compute = _calls.get(at) or _keep(at, prepared(x, out, args, kwargs))
        compute((x,), (out,))

    return kernel


def _in_place(name: str) -> Callable[..., None]:
    inverse, whole = name in ("idct2_", "idct_pad_"), name not in ("dct_crop_", "idct_pad_")

    def prepared(x: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[_Compute, tuple[Any, ...]]:
        IN_PLACE[name](x, *args, op=name, **kwargs)
        _contract.check_distinct(name, "x", x)
        k0, k1 = args[0] if args else kwargs.get("k", x.shape[-2:])
        norm, corner = kwargs.get("norm", "ortho"), (..., slice(k0), slice(k1))
        if name == "lowpass_":
            return _computation(name, 1, x, x, Task(_RESIZE, norm, (k0, k1))), corner
        if inverse:
            return _computation(name, 1, x[corner], x, Task(_INVERSE, norm)), corner
        return _computation(name, 1, x, x[corner], Task(_FORWARD, norm)), corner

    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> None:
        at = name, _layout(x), _setting(args, kwargs)
        compute, corner = _calls.get(at) or _keep(at, prepared(x, args, kwargs))
        part = x if whole else x[corner]
        compute((part if inverse else x,), (x if inverse else part,))

    return kernel


def _many(op: Any) -> Callable[..., list[Tensor]]:
    name = f"{op.name}_many"
    direction = _FORWARD if op.name == "dct_crop" else _INVERSE

    def prepared(xs: Sequence[Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> _Call:
        shape, dtype = op.contract(xs[0], *args, op=name, name="xs[0]", **kwargs)
        out = xs[0].new_empty(shape, dtype=dtype, device="meta")
        task = Task(direction, op.arguments(args, kwargs)["norm"])
        return tuple(shape), out.stride(), dtype, _computation(name, len(xs), xs[0], out, task)

    def kernel(xs: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        at = name, len(xs), (layout := _layout(xs[0])), _setting(args, kwargs)
        call = _calls.get(at) or _keep(at, prepared(xs, args, kwargs))
        size, _, kind, device = layout
        if not all(x.shape == size and x.dtype is kind and x.device == device for x in xs):
            _contract.check_alike(name, xs)
        shape, strides, dtype, compute = call
        outs = [torch.empty_strided(shape, strides, dtype=dtype, device=device) for _ in xs]
        compute(xs, outs)
        return outs

    return kernel


def register() -> torch.library.Library:
    """Registers the CUDA key of every op; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    found: dict[str, Callable[..., Any]] = {name: _in_place(name) for name in IN_PLACE}
    for op in OPS:
        found[op.name] = _functional(op)
        if "out" in getattr(torch.ops.front, op.name).overloads():
            found[f"{op.name}.out"] = _into(op)
    found |= {f"{op.name}_many": _many(op) for op in MANY}
    for name, kernel in found.items():
        library.impl(name, kernel, "CUDA")
    _autograd.cuda_kernels.update(found)
    return library
