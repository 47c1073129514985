"""What is trained: a data set, an architecture, a source, and targets of other sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments import language, minilm, vision


class Size(NamedTuple):
    layers: int
    width: int

    def __str__(self) -> str:
        return f"{self.layers}x{self.width}"


class Data(Protocol):
    train: Tensor
    held_out: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Data: ...
    def order(self, steps: int, seed: int) -> Tensor: ...
    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Task:
    """Attributes:
    name: such as "language".
    model, load, flops: the architecture, the data, and what a training step costs.
    source, source_steps, source_lr: the trained model.
    refine_steps: of FRONT+.
    targets: what a target is beside the source -> its size; the first is the one that learning rates are tuned on.
    steps: of a target.
    rates: of which each start has the best.
    begin, begin_id: the weights that the source's training begins with, and what tells them; None: random numbers.
    screened: whether all starts are tried, not the leading ones alone.
    dtype: that of products, sums and losses being float32 (autocast).
    """

    name: str
    model: Callable[[int, int], nn.Module]
    load: Callable[[], Data]
    flops: Callable[[int, int], float]
    source: Size
    source_steps: int
    source_lr: float
    refine_steps: int
    targets: dict[str, Size]
    steps: int
    rates: tuple[float, float, float] = (1e-3, 3e-3, 1e-2)
    begin: Callable[[], dict[str, Tensor]] | None = None
    begin_id: str = ""
    screened: bool = True
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if (self.begin is None) != (self.begin_id == ""):
            raise ValueError(f"begin_id: got {self.begin_id!r}; allowed is what tells the weights of begin, if any")


TARGETS = {
    "narrower and shallower": Size(3, 64),
    "narrower": Size(6, 64),
    "shallower": Size(3, 96),
    "wider": Size(6, 144),
    "deeper": Size(8, 96),
    "deeper and wider": Size(8, 144),
}
LANGUAGE = Task("language", language.Gpt, language.Text, language.flops, Size(6, 96), 2500, 3e-3, 500, TARGETS, 400)
VISION = Task("vision", vision.Vit, vision.Digits, vision.flops, Size(6, 96), 2000, 1e-3, 300, TARGETS, 300)
MINILM = Task(
    "minilm", minilm.Bert, minilm.Masked, minilm.flops, Size(6, 384), 300, 3e-4, 0,
    {
        "narrower and shallower": Size(3, 192),
        "narrower": Size(6, 192),
        "shallower": Size(3, 384),
        "wider": Size(6, 512),
        "deeper": Size(8, 384),
        "deeper and wider": Size(8, 512),
    },
    100, (3e-4, 1e-3, 3e-3), minilm.trained, minilm.SHA256, False,
)  # fmt: skip
SMALL = {"narrower and shallower": Size(2, 32), "deeper and wider": Size(5, 64)}
FULL = {task.name: task for task in (LANGUAGE, VISION, MINILM)}
QUICK = {  # 20 steps of language: what `--check` holds shows by then, and they take twice as long as those of vision
    name: dataclasses.replace(
        task, name=name, source=Size(4, 48), source_steps=600, refine_steps=60, targets=SMALL, steps=steps
    )
    for task, steps in ((LANGUAGE, 20), (VISION, 40))
    for name in [f"{task.name}, quick"]
}


def variant(task: Task, width: int, dtype: torch.dtype) -> Task:
    """The task with `width` times its widths, and products of a dtype: one of its own, with a name, sources and rows of
    its own.

    Raises:
        ValueError: the source was trained elsewhere and has the size that it has, or a number or dtype is none.
    """
    if width < 1 or dtype not in _DTYPES.values():
        raise ValueError(f"got width {width} and {dtype}; allowed are a whole number >= 1 and {', '.join(_DTYPES)}")
    if width > 1 and task.begin is not None:
        raise ValueError(f"width: got {width} for {task.name}, whose trained source has its own; allowed is 1")
    name = task.name
    if width > 1:
        name += f", width x{width}"
    if dtype != torch.float32:
        name += f", {next(key for key, value in _DTYPES.items() if value == dtype)}"

    def wider(size: Size) -> Size:
        return Size(size.layers, width * size.width)

    targets = {relation: wider(size) for relation, size in task.targets.items()}
    return dataclasses.replace(task, name=name, source=wider(task.source), targets=targets, dtype=dtype)


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_VARIANT = re.compile(r"(.+?)(?:, width x(\d+))?(?:, (bfloat16))?")


def base_of(name: str) -> str:
    """The name of the task that a variant is of."""
    found = _VARIANT.fullmatch(name)
    return name if found is None else found[1]


class _Tasks(dict[str, Task]):
    """By name; those of variants are made of their names, in whatever process."""

    def __missing__(self, name: str) -> Task:
        found = _VARIANT.fullmatch(name)
        if found is None or found[1] == name or found[1] not in self:
            raise KeyError(name)
        self[name] = variant(self[found[1]], int(found[2] or 1), _DTYPES[found[3] or "float32"])
        return self[name]


TASKS = _Tasks(FULL | QUICK)


@cache
def data_of(load: Callable[[], Data], device: str) -> Data:
    """Loaded once per process and device."""
    return load().to(torch.device(device))


def loss_of(model: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs).flatten(0, -2).float(), labels.flatten())
