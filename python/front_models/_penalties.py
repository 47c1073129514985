"""The spectral loss of parameters: apart, as the layers of a stack, or in the shards of several processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import front_kernels
from front_kernels.sharded import Part, Shard, graded_sharded_loss, sharded_loss
from front_models._walk import is_distributed

__all__ = ["Apart", "Kept", "Member", "Penalty", "Sharded", "Stack", "log_communication", "mesh_of"]

logger = logging.getLogger("front_models")

Decay = tuple[float, ...] | None
_HALVES = (torch.float16, torch.bfloat16)  # whose gradients may be float32


@dataclass(frozen=True)
class Kept:
    """What is kept of the parameters of a role."""

    matrix: tuple[int, int]
    k: tuple[int, int]
    decay: Decay
    layers: int | None = None  # of a stack; then decay is that of (layers, rows, columns)


@dataclass(frozen=True)
class Member:
    """A parameter, with its name and the module that holds it."""

    name: str
    param: nn.Parameter
    owner: nn.Module

    def check(self) -> None:
        """Raises ValueError where the module has another parameter by now, which would go without its penalty.

        Between forward and backward FSDP may put a whole one, which is no DTensor, in the place of one that is sharded.
        """
        held = self.owner._parameters.get(self.name.rpartition(".")[2])
        whole = is_distributed(self.param) and held is not None and not is_distributed(held)
        if held is not self.param and not whole:
            raise ValueError(
                f"model: {self.name} is not the parameter that it was when the regularizer was made; make it after "
                "fully_shard, load_state_dict(assign=True) and whatever else replaces parameters"
            )


class Penalty(Protocol):
    """One sum of losses."""

    @property
    def count(self) -> int:
        """Elements of the parameters."""

    def loss(self, standardize: bool) -> Tensor:
        """Differentiable."""

    def accumulate(self, scale: float, standardize: bool) -> Tensor:
        """Adds ``scale`` times the gradient to the parameters' gradients; returns the loss."""


@contextmanager
def _gradients(members: Sequence[Member], shapes: Sequence[tuple[int, int]]) -> Iterator[list[Tensor]]:
    """The gradients as matrices, to be added to. Where strides or dtypes do not allow a view, through a copy."""
    views, copies = [], []
    for member, shape in zip(members, shapes, strict=True):
        param: Any = member.param
        if param.grad is None:
            # NOTE: torch's compiler cannot ask for grad_dtype.
            param.grad = torch.zeros_like(param, dtype=None if torch.compiler.is_compiling() else param.grad_dtype)
        elif param.grad.layout is not torch.strided:  # Embedding(sparse=True); the sum with a dense gradient is dense
            param.grad = param.grad.to_dense()
        if is_distributed(param) and param.grad.placements != param.placements:
            raise ValueError(
                f"model: the gradient of {member.name} has placements {param.grad.placements}; allowed are those of "
                f"the parameter, {param.placements}"
            )
        grad = local_of(param.grad)
        dtype = grad.dtype if param.dtype in _HALVES and grad.dtype == torch.float32 else param.dtype
        try:
            view = grad.view(shape) if grad.dtype == dtype else None
        except RuntimeError:
            view = None
        if view is None:
            view = grad.new_zeros(shape, dtype=dtype)
            copies.append((grad, view))
        views.append(view)
    yield views
    for grad, added in copies:
        grad += added.view(grad.shape)


class Apart:
    """Parameters of any shapes on one device, each by itself."""

    def __init__(self, members: Sequence[tuple[Member, Kept]]) -> None:
        self._members = [member for member, _ in members]
        self._shapes = [kept.matrix for _, kept in members]
        self._ks = [kept.k for _, kept in members]
        self._decay = members[0][1].decay

    @property
    def count(self) -> int:
        return sum(member.param.numel() for member in self._members)

    def loss(self, standardize: bool) -> Tensor:
        xs = [local_of(m.param).reshape(shape) for m, shape in zip(self._members, self._shapes, strict=True)]
        return front_kernels.spectral_loss_many(xs, self._ks, standardize=standardize, decay=self._decay)

    def accumulate(self, scale: float, standardize: bool) -> Tensor:
        xs = [local_of(m.param).reshape(shape) for m, shape in zip(self._members, self._shapes, strict=True)]
        with _gradients(self._members, self._shapes) as grads:
            return front_kernels.spectral_grad_many_(
                grads, xs, self._ks, scale, standardize=standardize, decay=self._decay
            )


class Stack:
    """The layers of a role."""

    def __init__(self, members: Sequence[Member], kept: Kept) -> None:
        self._members = members
        assert kept.layers is not None
        self._kept = kept
        self._k = (kept.layers, *kept.k)

    @property
    def count(self) -> int:
        return sum(member.param.numel() for member in self._members)

    def loss(self, standardize: bool) -> Tensor:
        xs = [local_of(member.param).reshape(self._kept.matrix) for member in self._members]
        return front_kernels.spectral_stack_loss(xs, self._k, standardize=standardize, decay=self._kept.decay)

    def accumulate(self, scale: float, standardize: bool) -> Tensor:
        xs = [local_of(member.param).reshape(self._kept.matrix) for member in self._members]
        with _gradients(self._members, [self._kept.matrix] * len(xs)) as grads:
            return front_kernels.spectral_stack_grad_(
                grads, xs, self._k, scale, standardize=standardize, decay=self._kept.decay
            )


def local_of(tensor: Tensor) -> Tensor:
    """The rows that this process has of a DTensor; any other tensor is itself."""
    local: Tensor = tensor.to_local() if is_distributed(tensor) else tensor  # type: ignore[attr-defined]
    return local


def mesh_of(member: Member) -> tuple[Any, int] | None:
    """Of a DTensor that is sharded: its mesh, and along which axis of the mesh; None for a tensor that is whole.

    Raises:
        ValueError: it is sharded along another axis than its first, or along several axes of the mesh.
    """
    tensor: Any = member.param
    if not is_distributed(tensor):
        return None
    sharded = [d for d, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not sharded:
        return None
    placement = tensor.placements[sharded[0]]
    if len(sharded) > 1 or not placement.is_shard(0) or type(placement).__name__ != "Shard":
        raise ValueError(
            f"model: {member.name} has placements {tuple(tensor.placements)}; allowed are Shard(0) on one axis of the "
            "mesh and Replicate() on the others, as fully_shard makes them"
        )
    return tensor.device_mesh, sharded[0]


class Sharded:
    """Parameters that are DTensors sharded along their first axis, on one axis of a mesh: what FSDP2 makes."""

    def __init__(self, roles: Sequence[tuple[Sequence[Member], Kept]], mesh: Any, axis: int) -> None:
        self._roles = roles
        self._group = mesh.get_group(axis)
        self._size = mesh.size(axis)
        self.is_first = mesh.get_local_rank(axis) == 0

    @property
    def count(self) -> int:
        return sum(member.param.numel() for members, _ in self._roles for member in members)

    def _view(self, local: Tensor, member: Member, kept: Kept) -> Tensor:
        """Its rows as a matrix; a vector is divided along its elements, and so is a column."""
        columns = self._lengths(member, kept)[1]
        return local.reshape(local.numel() // columns, columns)

    def _lengths(self, member: Member, kept: Kept) -> tuple[int, int]:
        return kept.matrix[::-1] if member.param.dim() < 2 else kept.matrix

    def _parts(self, locals_: Sequence[Tensor]) -> list[Part]:
        views = iter(locals_)
        parts = []
        for members, kept in self._roles:
            shards = []
            for member in members:
                total, _ = self._lengths(member, kept)
                per_element = total // member.param.shape[0]
                chunk = -(-member.param.shape[0] // self._size) * per_element
                shards.append(Shard(self._view(next(views), member, kept), chunk, total))
            vector = members[0].param.dim() < 2
            k = kept.k[::-1] if vector else kept.k
            decay = kept.decay if kept.decay is None or not vector else (*kept.decay[:-2], *kept.decay[:-3:-1])
            parts.append(Part(tuple(shards), k, kept.layers, decay))
        return parts

    def _locals(self) -> list[Tensor]:
        return [local_of(member.param) for members, _ in self._roles for member in members]

    def loss(self, standardize: bool) -> Tensor:
        return graded_sharded_loss(self._parts(self._locals()), self._group, standardize)

    def accumulate(self, scale: float, standardize: bool) -> Tensor:
        locals_ = self._locals()
        parts = self._parts(locals_)
        shapes = [tuple(shard.local.shape) for part in parts for shard in part.shards]
        flat = [member for members, _ in self._roles for member in members]
        with _gradients(flat, shapes) as grads:  # type: ignore[arg-type]
            own = iter(grads)
            nested = [[next(own) for _ in part.shards] for part in parts]
            return sharded_loss(nested, parts, self._group, scale, standardize)

    def communication(self) -> list[str]:
        """For every role, what a process at most sends in a call by each way, and which is taken."""
        share = (self._size - 1) / self._size
        lines = []
        for (members, _), part in zip(self._roles, self._parts(self._locals()), strict=True):
            ways = ", ".join(f"{way} {round(share * sent)} bytes" for way, sent in part.bytes(self._size).items())
            count = f"{len(members)} x {math.prod(members[0].param.shape)}"
            lines.append(f"{members[0].name} ({count}): {ways}: {part.way(self._size)}")
        return lines


def log_communication(penalties: Sequence[Penalty]) -> None:
    """What processes send in a call, for who listens to the level INFO; of every group its first process says it."""
    if not logger.isEnabledFor(logging.INFO):
        return
    for penalty in penalties:
        if isinstance(penalty, Sharded) and penalty.is_first:
            for line in penalty.communication():
                logger.info("bytes that a process sends in a call: %s", line)
