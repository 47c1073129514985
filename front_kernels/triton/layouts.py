"""What plans are made of: devices, layouts of tensors, launches. Data alone; plan.py makes plans of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton.language as tl

from .. import _costs
from .basis import Key, Moments

__all__ = ["Batch", "Layout", "Plan", "Side", "Step", "Target", "Temporary"]

_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_KINDS = {torch.float16: "half", torch.bfloat16: "half", torch.float32: "single", torch.float64: "double"}


class Target(NamedTuple):
    """What plans depend on besides tensors: the device and how products are made."""

    names: tuple[str, ...]  # the device's and its architecture's, for tiles
    multiprocessors: int
    precision: str = "highest"
    tf32: bool = True  # tensor cores that take TF32; others take float32 as bfloat16 numbers

    def products(self, dtype: torch.dtype) -> str:
        """Triton's input_precision for operands of a dtype."""
        if dtype != torch.float32:
            return "ieee"  # 16-bit operands as they are; float64
        if not self.tf32:
            return "bf16x3" if self.precision == "fast" else "bf16x6"
        return "tf32" if self.precision == "fast" else "tf32x3"

    def terms(self, dtype: torch.dtype) -> int:
        """Terms of a basis that multiplies inputs of a dtype."""
        return 2 if self.precision == "highest" and dtype.itemsize == 2 else 1

    def folds(self, dtype: torch.dtype, contiguous: bool) -> bool:
        """Whether sums are folded: not where that needs more bits than the inputs have, or reads backwards."""
        return not contiguous and _costs.folds(dtype, self.precision)


class Layout(NamedTuple):
    """Of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(x: torch.Tensor) -> Layout:
        return Layout(tuple(x.shape), x.stride(), x.dtype)


class Temporary(NamedTuple):
    """Elements of a dtype that a plan writes and reads."""

    size: int
    dtype: torch.dtype


class Step(NamedTuple):
    """One launch. `tensors` are (argument, "x", "out" or a temporary's number)."""

    kernel: Any
    grid: int
    arguments: dict[str, Any]  # all but tensors: sizes, strides, constants, Triton's options
    tensors: tuple[tuple[str, str | int], ...]
    bases: tuple[tuple[str, Key | Moments], ...]


class Plan(NamedTuple):
    """`starts`: where in x and in out, in elements, parts of a batch begin. Of several, kernels get the addresses."""

    steps: tuple[Step, ...]
    temporaries: tuple[Temporary, ...]
    starts: tuple[tuple[int, int], ...]

    @property
    def workspace_bytes(self) -> int:
        return sum(each.size * each.dtype.itemsize for each in self.temporaries)


@dataclass(frozen=True)
class Side:
    """One end of a pass: matrices of one layout, by batches of two axes, in a tensor or a list of them."""

    slot: str | int
    dtype: torch.dtype
    sizes: tuple[int, int]
    strides: tuple[int, int]
    batch: tuple[int, int]
    grouped: bool = False

    def swapped(self) -> Side:
        """The transposed matrices."""
        return replace(self, sizes=self.sizes[::-1], strides=self.strides[::-1])


@dataclass(frozen=True)
class Batch:
    """How many matrices: `inner` of the last axis, `matrices` from each start, `count` in all."""

    inner: int
    matrices: int
    count: int
    aligned: bool  # addresses are multiples of 16 bytes
    starts: tuple[tuple[int, int], ...] = ((0, 0),)


def _compute_dtype(x: torch.dtype, out: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in (x, out) else torch.float32
