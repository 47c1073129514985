"""What was built, what runs, and how it would compute something."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from . import _C, _contract, _costs, engines
from .ops import Pair, _pair


def empty_cache() -> None:
    """Frees what ops keep between calls (as `torch.cuda.empty_cache` does); the next ones make it anew.

    The CPU's workspace, at most 64 MiB, and the Triton engine's bases on all devices but for those that CUDA graphs
    have captured, at most 256 MiB or 2 % of a device's memory.
    """
    torch.ops.front._cpu_empty_cache()
    if (basis := sys.modules.get(f"{__package__}.triton.basis")) is not None:  # it is not imported for this
        basis.cache.clear()


def plan_for(
    shape: Sequence[int],
    k: Pair | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    inverse: bool = False,
    device: str | torch.device = "cpu",
    engine: str | None = None,
) -> dict[str, Any]:
    """How a matrix of `shape`, of which the k0 x k1 corner is kept (or, inverse, given), would be transformed.

    Args:
        shape: (m, n).
        k: (k0, k1) or one int for both; None keeps all.
        dtype: dtype of the matrix and the result.
        inverse: plan `idct_pad` to `shape` instead of `dct_crop`.
        device: "cpu", or a CUDA device; without a GPU, plans for "cuda" are an H200's.
        engine: of a CUDA device: "cuda" or "triton" instead of what would be chosen.

    Returns:
        For a CUDA device {"engine": what was chosen, "forced": whether it was asked for, "predicted_us": microseconds
        by the cost model (_costs.py) of each engine that there is, "absent": why another is out, "launches": for each
        kernel in order its "name", "blocks", "threads" and ("cuda" only) "shared_bytes", "workspace_bytes",
        "compute_dtype", "text"}. For the CPU {"rows": plan of the pass along the rows (length n),
        "columns": that along the columns (length m), "order": which is first, "row_decimation": of how many rows one is
        transformed (1, 2 or 4), as the columns are decimated while the rows, whose elements are adjacent, are loaded,
        or interpolated while they are stored,
        "workspace_bytes": size of the intermediate, whose rows are whole cache lines, "compute_dtype",
        "predicted_us": microseconds by the cost model, "text": all that in words}. A plan of a pass has the algorithm
        ("mixed radix", "resampled", "bluestein" or "dense"), radices, lengths, a cost in vector operations per lane,
        the predicted "us" and a "text". The constants of the cost model are timings of three machines
        (csrc/axis_plan.h, csrc/plan.h, csrc/filters.h); on others compare predictions with each other only.

    Raises:
        ValueError: shape, k, dtype, device or engine is not allowed.
        NotImplementedError: there is no engine for the CUDA device, or not the one that was asked for.
    """
    if not isinstance(shape, Sequence):
        raise TypeError(f"shape must be (rows, columns), got {shape!r}")
    size, kept = list(shape), list(shape if k is None else _pair(k, "k"))
    for name, values in (("shape", size), ("k", kept)):
        if not all(hasattr(value, "__index__") for value in values):
            raise TypeError(f"{name} must hold whole numbers, got {values}")
        if len(values) != 2:
            raise ValueError(f"{name} must have 2 elements (rows, columns), got {values}")
    for i in (0, 1):
        if not 1 <= size[i] <= _contract.MAX_AXIS:
            raise ValueError(f"shape[{i}] must be between 1 and {_contract.MAX_AXIS}, got {size[i]}")
        if not 1 <= kept[i] <= size[i]:
            raise ValueError(f"k[{i}] must be between 1 and {size[i]} (shape[{i}]), got {kept[i]}")
    if dtype not in _contract.FLOATS:
        raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype}")
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a CPU or CUDA device, got {device}")
    if device.type == "cuda":
        return _gpu_plan(size, kept, dtype, inverse, device, engine)
    if engine is not None:
        raise ValueError(f"engine is for CUDA devices only, got {engine!r} for device {str(device)!r}")
    (m, n), (k0, k1) = size, kept
    machine = list(torch.ops.front._cpu_machine())
    plan = _C.plan_matrix(not inverse, m, n, k0, k1, dtype.itemsize, machine)
    us = {axis: plan.pop(f"{axis}_us") for axis in ("rows", "columns")}
    for axis, predicted in us.items():
        plan[axis]["us"] = predicted
    plan["predicted_us"] = sum(us.values())
    plan["compute_dtype"] = torch.float64 if dtype == torch.float64 else torch.float32
    first, second = ("rows", "columns") if plan["order"] == "rows first" else ("columns", "rows")
    lines = [f"{axis}: {plan[axis]['text']}, {us[axis]:.0f} us" for axis in (first, second)]
    rows = m // plan["row_decimation"]
    if rows < m and not inverse:
        lines[0] += f", of {rows} rows: the columns are decimated first, while the rows are loaded"
    if rows < m and inverse:
        lines[1] += f", of {rows} rows: the columns are interpolated last, while the rows are stored"
    lines.append(f"workspace {plan['workspace_bytes']} bytes, {plan['predicted_us']:.0f} us by {machine[3]} threads")
    plan["text"] = "\n".join(lines)
    return plan


# Multiprocessors; shared memory of a block, and of a multiprocessor.
H200 = (engines.H200.multiprocessors, 227 << 10, 228 << 10)


def _gpu_plan(
    size: list[int], kept: list[int], dtype: torch.dtype, inverse: bool, device: torch.device, engine: str | None
) -> dict[str, Any]:
    gpu = engines.gpu_of(device)
    direction = int(inverse)
    shapes = (kept, size) if inverse else (size, kept)
    choice = engines.choose(_costs.problems_of(direction, 1, *shapes, (), (dtype, dtype)), gpu, engine)
    make = _cuda_launches if choice.engine == "cuda" else _triton_launches
    launches, workspace = make(size, kept, dtype, direction, device, gpu)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    reasons = [f"{name}: {us:.1f} us by the cost model" for name, us in choice.predicted_us.items()]
    reasons += [f"{name}: out, {why}" for name, why in choice.absent.items()]
    lines = [f"engine {choice.engine}{', as asked for' if choice.forced else ''} ({'; '.join(reasons)})"]
    for x in launches:
        shared = f", {x['shared_bytes']} bytes of shared memory each" if "shared_bytes" in x else ""
        lines.append(f"{x['name']}: {x['blocks']} blocks of {x['threads']} threads{shared}")
    return {
        "engine": choice.engine,
        "forced": choice.forced,
        "predicted_us": choice.predicted_us,
        "absent": choice.absent,
        "launches": launches,
        "workspace_bytes": workspace,
        "compute_dtype": compute,
        "text": "\n".join([*lines, f"workspace {workspace} bytes"]),
    }


def _cuda_launches(
    size: list[int], kept: list[int], dtype: torch.dtype, direction: int, device: torch.device, gpu: engines.Gpu
) -> tuple[list[dict[str, Any]], int]:
    hardware: Sequence[int] = H200
    if torch.cuda.is_available():
        index = torch.cuda.current_device() if device.index is None else device.index
        hardware = torch.ops.front._cuda_hardware(index)
    element = _contract.FLOATS.index(dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    strides = [kept[1], 1, size[1], 1] if direction else [size[1], 1, kept[1], 1]
    types = [element, _contract.FLOATS.index(compute), element]
    found, workspace = _C.cuda_matrix_launches(
        direction, [*size, *kept, 0, 0], strides, types, "ortho", [0], [0], [], 0, list(hardware)
    )
    return [{key: launch[key] for key in ("name", "blocks", "threads", "shared_bytes")} for launch in found], workspace


def _triton_launches(
    size: list[int], kept: list[int], dtype: torch.dtype, direction: int, device: torch.device, gpu: engines.Gpu
) -> tuple[list[dict[str, Any]], int]:
    from .triton import plan

    large, small = (plan.Layout(tuple(shape), (shape[1], 1), dtype) for shape in (size, kept))
    x, out, name = (small, large, "inverse") if direction else (large, small, "forward")
    found = plan.matrices(x, out, 1, name, (0, 0), "ortho", engines.target(gpu), True, False)
    launches = [
        {"name": step.kernel.__name__, "blocks": step.grid, "threads": step.arguments["num_warps"] * gpu.warp}
        for step in found.steps
    ]
    return launches, found.workspace_bytes


def build_info() -> dict[str, Any]:
    """What was built and what runs.

    Returns:
        {"version", "compiler", "torch_target": the stable ABI's version, "torch_built_with", "cpu_isas": the
        instruction sets built, best first, "cpu_isa": the one in use (FRONT_CPU_ISA forces one), "cuda": whether the
        CUDA engine was built, "cuda_architectures": what its kernels are compiled ahead for}.

    Raises:
        ValueError: FRONT_CPU_ISA names an instruction set that this machine or build lacks.
    """
    return {**_C.build_info(), "cpu_isa": torch.ops.front._cpu_isa()}
