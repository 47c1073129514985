"""Models in shards, and what of whole gradients a process has."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from penalties import Mixed

OPTIONS: dict[str, dict[str, Any]] = {
    "summed": {"keep_ratio": 0.3},
    "exchanged": {"keep_ratio": 0.9, "standardize": False},  # in bfloat16 gathered
    "both ways": {"k": (4, 6), "reduction": "mean"},
    "exponential": {"weighting": "exponential", "decay": (2.0, 0.5)},
    "exponential-plain": {"weighting": "exponential", "decay": (0.0, 3.0), "standardize": False},
    "standardized": {"keep_ratio": 0.8},
    "depth": {"keep_ratio": 0.5, "depth": True},
    "depth-summed": {"keep_ratio": 0.3, "depth": True},
    "depth-exchanged": {"keep_ratio": 0.9, "depth": 2, "standardize": False},
    "depth-exponential": {"weighting": "exponential", "decay": (1.0, 2.0, 0.5), "depth": True},
}


def shard(model: Mixed, mesh: DeviceMesh) -> Mixed:
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def pair(dtype: torch.dtype, mesh: DeviceMesh) -> tuple[Mixed, Mixed]:
    """A whole model, and the same in shards."""
    torch.manual_seed(1)
    whole = Mixed(scalar=False).to(dtype)
    return whole, shard(copy.deepcopy(whole), mesh)


def full(tensor: Tensor | None) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


def own_rows(grads: list[Tensor], mesh: DeviceMesh) -> list[Tensor]:
    """Of whole gradients what this process has of them."""
    size, rank = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
    return [chunks[rank] if rank < len(chunks := g.chunk(size)) else g[:0] for g in grads]


def local(grads: list[Tensor]) -> list[Tensor]:
    return [g.to_local() for g in grads]  # type: ignore[attr-defined]
