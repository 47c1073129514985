"""Models in shards, and what of whole gradients a process has."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from penalties import Mixed


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
