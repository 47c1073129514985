"""Plans carried out on tensors, on the current stream. Nothing here waits for the device, but for new bases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import basis, kernels, plan

__all__ = ["carry_out", "matrices", "planned"]


def launch(kernel: Any, grid: int, arguments: dict[str, Any]) -> None:
    """The one place that calls Triton.

    Raises:
        RuntimeError: the kernel fails while the current stream is captured into a CUDA graph: it is not loaded yet.
    """
    try:
        kernel[(grid,)](**arguments)
    except Exception as error:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"front: a kernel failed ({error}) while a CUDA graph is captured, when none can be compiled or "
                "loaded. Call the op once before, with the same sizes and as many tensors"
            ) from error
        raise


Slots = dict[str | int, Tensor]


def carry_out(
    found: plan.Plan,
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    more: Mapping[str | int, Tensor | Sequence[Tensor]] | None = None,
) -> Slots:
    """The plan of xs -> outs, on the current stream; `more`: further tensors by slot. Returns all of them."""
    device = xs[0].device
    single = len(xs) == len(found.starts) == 1
    slots: Slots = {
        "x": xs[0] if single else _addresses(xs, [start for start, _ in found.starts]),
        "out": outs[0] if single else _addresses(outs, [start for _, start in found.starts]),
    }
    for slot, given in (more or {}).items():
        slots[slot] = given if isinstance(given, Tensor) else given[0] if len(given) == 1 else _addresses(given)
    for i, (size, dtype) in enumerate(found.temporaries):
        slots[i] = torch.empty(size, dtype=dtype, device=device)
    for step in found.steps:
        arguments = dict(step.arguments)
        for name, slot in step.tensors:
            arguments[name] = slots[slot]
        for name, key in step.bases:
            arguments[name] = basis.get(key, device)
        launch(step.kernel, step.grid, arguments)
    return slots


_loaded: set[torch.device] = set()


def _addresses(tensors: Sequence[Tensor], starts: Sequence[int] = (0,)) -> Tensor:
    values = [t.data_ptr() + t.element_size() * start for t in tensors for start in starts]
    device = tensors[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _addresses_by_kernels(values, device)
    if device.type == "cuda" and device not in _loaded:
        # A kernel cannot be loaded while a graph is captured, which is when this one is needed first.
        _addresses_by_kernels(values[:1], device)
        _loaded.add(device)
    table = torch.tensor(values, dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _addresses_by_kernels(values: list[int], device: torch.device) -> Tensor:
    """As arguments of kernels, 16 in each: a CUDA graph replays a copy from memory that is the host's by then."""
    table = torch.empty(-(-len(values) // 16) * 16, dtype=torch.int64, device=device)
    for i in range(0, len(values), 16):
        part = [*values[i : i + 16], *values[-1:] * 15][:16]
        kernels.addresses[(1,)](table[i : i + 16], *part, num_warps=1)
    return table


def _aligned(*tensors: Tensor) -> bool:
    return all(t.data_ptr() % 16 == 0 for t in tensors)


def _share_memory(x: Tensor, out: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()


def _one(x: Tensor, out: Tensor, direction: str, k: tuple[int, int], norm: str, target: plan.Target) -> None:
    shared = _share_memory(x, out)
    its_own = (x.data_ptr(), x.stride(), x.dtype) == (out.data_ptr(), out.stride(), out.dtype)
    if shared and not its_own and math.prod(x.shape[:-2]) > 1:
        # A result may lie in the memory of another matrix that is read later.
        x, shared = x.clone(), False
    layouts = plan.Layout.of(x), plan.Layout.of(out)
    carry_out(plan.matrices(*layouts, 1, direction, k, norm, target, _aligned(x, out), shared), [x], [out])


def matrices(
    direction: str, k: Sequence[int], norm: str, target: plan.Target, xs: Sequence[Tensor], outs: Sequence[Tensor]
) -> None:
    """The last two axes of every x transformed into those of its out: "forward", "inverse", or "resize" by way of k.

    The sizes of xs and outs say how many coefficients are kept or given. An out may lie in its own x's memory, if it is
    the only one.
    """
    through = k[0], k[1]
    if len(xs) == 1:
        return _one(xs[0], outs[0], direction, through, norm, target)
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for x, out in zip(xs, outs, strict=True):
        group = groups.setdefault((plan.Layout.of(x), plan.Layout.of(out)), ([], []))
        group[0].append(x)
        group[1].append(out)
    for (x_layout, out_layout), (some, results) in groups.items():
        if len(some) == 1:
            _one(some[0], results[0], direction, through, norm, target)
            continue
        args = x_layout, out_layout, len(some), direction, through, norm, target, _aligned(*some, *results), False
        carry_out(plan.matrices(*args), some, results)
    return None


def planned(
    x: Tensor, out: Tensor, direction: str, k: tuple[int, int], dim: int | None, norm: str, target: plan.Target
) -> plan.Plan:
    """The plan for a tensor of x's layout, aligned as x, into new memory of out's: of both axes, or of `dim`."""
    layouts, aligned = (plan.Layout.of(x), plan.Layout.of(out)), _aligned(x)
    if dim is not None:
        return plan.axis(*layouts, direction == "inverse", dim, norm, target, aligned)
    return plan.matrices(*layouts, 1, direction, k, norm, target, aligned, False)
