"""refine: a small training loop with the spectral penalty, for people without one of their own."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from front_models._atomic import atomic_path, check_output
from front_models._regularizer import RoleEnergy, SpectralRegularizer

__all__ = ["RefineResult", "refine"]

Schedule = Literal["constant", "linear"] | Callable[[int], float]
_FORMAT = "front-refine-3"
_KEYS = {"settings", "model", "optimizer", "scheduler", "taken", "random at start", "random", "task_loss", "penalty"}
_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")

_END = object()


@dataclass
class RefineResult:
    """Of each step its task loss and penalty (before the step), and at the end the energy of every role."""

    task_loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    report: list[RoleEnergy] = field(default_factory=list)


def refine(
    model: nn.Module,
    data: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    lam: float,
    steps: int,
    schedule: Schedule = "constant",
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    regularizer: SpectralRegularizer | None = None,
    clip_grad_norm: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> RefineResult:
    r"""Train a model a little more on ``task + lam * penalty`` (FRONT+), so that more of it survives the crop.

    Each step: ``loss_fn(model, batch).backward()``, `SpectralRegularizer.accumulate_grad_`, clipping, the optimizer. A
    bar shows task loss and penalty where stderr is a terminal.

    With `checkpoint`, the run is saved there every `checkpoint_every` steps, at the end, and when it is interrupted;
    if the file is there, the run goes on from it, and ends with the weights that an uninterrupted one would have had,
    bit for bit on one machine: model, optimizer, scheduler, random generators (torch's, Python's, numpy's, the data
    loader's and its samplers' own) and the place in the data are kept.

    Args:
        model: it is trained in place, in training mode.
        data: batches; iterated again when they end, so a DataLoader or a list, not a generator that is used up.
        loss_fn: ``loss_fn(model, batch)`` -> the task's loss, a scalar.
        lam: weight of the penalty, at least 0.
        steps: optimizer steps in all, those before the checkpoint included.
        schedule: of lam: "constant"; "linear", times ``(step + 1) / steps``; or a function of the step, from 0.
        optimizer: over the model's parameters; None: AdamW with learning rate 1e-4.
        scheduler: of `optimizer`; its `step()` is called after every step of that.
        regularizer: of the model; None: ``SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")``, whose
            penalty is the share of energy outside the lowest half of the frequencies.
        clip_grad_norm: the largest norm of all gradients together; None: not clipped.
        checkpoint: a file, in a folder that is there.
        checkpoint_every: steps between two of them, at least 1.
        progress: False: no bar.

    Returns:
        Losses and penalties of all steps, and the regularizer's report.

    Raises:
        TypeError, ValueError: an argument is not allowed; the data end before they have begun; the checkpoint is
            damaged or of another run: other steps, lam, penalty, clipping, parameters, optimizer or scheduler (but of
            functions it is not known whether they are the same).
        OSError: the checkpoint cannot be written there.
        FloatingPointError: a loss is not finite. The model is as it was before that step, buffers too.
    """
    _check(lam, steps, schedule, clip_grad_norm, checkpoint_every)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4)
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(
            f"scheduler: got {type(scheduler).__name__} of another optimizer than `optimizer`; allowed is one of that"
        )
    regularizer = regularizer or SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")
    first = {"lam": float(lam), "schedule": _name(schedule), "steps": steps}
    last = {"clip_grad_norm": clip_grad_norm, "regularizer": repr(regularizer)}
    run = _Run(model, data, optimizer, scheduler, first, last)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_output(path, force=True, folder=False)
    if path is not None and path.exists():
        run.load(path)
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with _bar(progress, steps) as show:
            for step in range(len(run.result.task_loss), steps):
                batch = run.next_batch()
                optimizer.zero_grad(set_to_none=True)
                loss = loss_fn(model, batch)
                if not isinstance(loss, Tensor) or loss.numel() != 1:
                    raise TypeError(f"loss_fn: returned {type(loss).__name__}; allowed is a tensor of one element")
                loss.backward()
                weight = lam * _factor(schedule, step, steps)
                penalty = regularizer.accumulate_grad_(weight)
                values = loss.item(), penalty.item()
                if not all(map(math.isfinite, values)):
                    optimizer.zero_grad(set_to_none=True)
                    run.put_back_buffers()
                    raise FloatingPointError(f"step {step}: task loss {values[0]}, penalty {values[1]}")
                if clip_grad_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
                run.whole = False
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                run.done(*values)
                show(step + 1, *values)
                if path is not None and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                    run.save(path)
    except KeyboardInterrupt:
        if path is not None and run.whole:
            run.save(path)
        raise
    finally:
        for module, training in modes:
            module.training = training
    if path is not None:
        run.save(path)
    run.result.report = regularizer.report()
    return run.result


def _check(lam: object, steps: object, schedule: object, clip: object, every: object) -> None:
    if isinstance(lam, bool) or not isinstance(lam, (int, float)):
        raise TypeError(f"lam: got {lam!r}; allowed is a finite number from 0")
    if not 0 <= lam < math.inf:
        raise ValueError(f"lam: got {lam!r}; allowed is a finite number from 0")
    for name, value, least in (("steps", steps, 0), ("checkpoint_every", every, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: got {value!r}; allowed is a whole number from {least}")
        if value < least:
            raise ValueError(f"{name}: got {value!r}; allowed is a whole number from {least}")
    if schedule not in ("constant", "linear") and not callable(schedule):
        raise ValueError(f"schedule: got {schedule!r}; allowed are 'constant', 'linear' and a function of the step")
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or not clip > 0):
        raise ValueError(f"clip_grad_norm: got {clip!r}; allowed are None and a number above 0")


def _factor(schedule: Schedule, step: int, steps: int) -> float:
    if callable(schedule):
        return float(schedule(step))
    return 1.0 if schedule == "constant" else (step + 1) / steps


def _name(schedule: Schedule) -> str:
    return schedule if isinstance(schedule, str) else "a function"


class _Bar:
    def __enter__(self) -> Callable[..., None]:
        return lambda *_: None

    def __exit__(self, *_: object) -> None:
        return None


class _RichBar(_Bar):
    def __init__(self, console: Console, steps: int) -> None:
        columns = (
            TextColumn("refining"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("task {task.fields[loss]}  penalty {task.fields[penalty]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=steps, loss="-", penalty="-")

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()

        def show(step: int, loss: float, penalty: float) -> None:
            self._progress.update(self._task, completed=step, loss=f"{loss:.4g}", penalty=f"{penalty:.4g}")

        return show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _bar(progress: bool, steps: int) -> _Bar:
    console = Console(stderr=True)
    return _RichBar(console, steps) if progress and console.is_terminal else _Bar()


class _Run:
    """All that a run is, but the arguments: what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        first: dict[str, Any],
        last: dict[str, Any],
    ) -> None:
        self.result = RefineResult()
        self._model, self._data, self._optimizer, self._scheduler = model, data, optimizer, scheduler
        self._settings = {
            **first,
            "parameters": {
                n: list(tensor.shape) for n, tensor in model.state_dict().items() if torch.is_tensor(tensor)
            },
            "optimizer": type(optimizer).__name__,
            "hyperparameters": [_hyperparameters(group) for group in optimizer.param_groups],
            "scheduler": type(scheduler).__name__,
            **last,
        }
        self._batches: Iterator[Any] | None = None
        self._taken = 0  # batches of this pass over the data
        self._at_start = _random_state(data)  # when it began
        self.whole = True  # not in the middle of an optimizer's step
        self._point: dict[str, Any] = {}
        self._buffers: dict[str, tuple[Tensor, Tensor]] = {}  # and a copy of each
        self._mark()

    def _mark(self) -> None:
        """Where the next step begins; an interrupt in the middle of it leads back here."""
        # NOTE: a buffer's version does not tell: batch_norm writes to running_mean without counting it.
        kept = self._buffers
        self._buffers = {
            name: (buffer, _copied(buffer, kept[name][1] if name in kept else None))
            for name, buffer in self._model.named_buffers(remove_duplicate=False)
        }
        self._point = {
            "taken": None if self._batches is None else self._taken,
            "random at start": self._at_start,
            "random": _random_state(self._data),
        }

    @torch.no_grad()
    def put_back_buffers(self) -> None:
        """A forward pass may have changed them."""
        for name, (buffer, copy) in self._buffers.items():
            module, _, own = name.rpartition(".")
            self._model.get_submodule(module)._buffers[own] = buffer.copy_(copy)

    def next_batch(self) -> Any:
        for _ in range(2):
            if self._batches is None:
                self._at_start, self._taken = _random_state(self._data), 0
                self._batches = iter(self._data)
            try:
                batch = next(self._batches)
            except StopIteration:
                if self._taken == 0:
                    break
                self._batches = None
                continue
            self._taken += 1
            return batch
        raise ValueError("data: it has no batches, or can be iterated only once; allowed is what can be iterated again")

    def done(self, loss: float, penalty: float) -> None:
        self.result.task_loss.append(loss)
        self.result.penalty.append(penalty)
        self._mark()
        self.whole = True

    def save(self, path: Path) -> None:
        model = self._model.state_dict()
        model.update({name: copy for name, (_, copy) in self._buffers.items() if name in model})
        state = {
            "format": _FORMAT,
            "settings": self._settings,
            "model": model,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            **self._point,
            "task_loss": self.result.task_loss,
            "penalty": self.result.penalty,
        }
        with atomic_path(path, force=True) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's, zipfile's, pickle's: each says it in its own way
            raise ValueError(f"checkpoint: {os.fspath(path)!r} is damaged or no checkpoint: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"checkpoint: {os.fspath(path)!r} was not written by refine")
        if missing := sorted(_KEYS - state.keys()):
            raise ValueError(f"checkpoint: {os.fspath(path)!r} is damaged: it has no {', '.join(missing)}")
        for name, value in self._settings.items():
            if state["settings"].get(name) != value:
                found, wanted = (_short(each) for each in (state["settings"].get(name), value))
                raise ValueError(
                    f"checkpoint: {os.fspath(path)!r} is of a run with {name} {found}, not {wanted}; "
                    "name another file, or remove it to start anew"
                )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self.result = RefineResult(list(state["task_loss"]), list(state["penalty"]))
        if state["taken"] is not None:
            # The same pass over the data again, up to where it was.
            _set_random_state(self._data, state["random at start"])
            self._at_start = state["random at start"]
            self._batches = iter(self._data)
            for done in range(state["taken"]):
                if next(self._batches, _END) is _END:
                    raise ValueError(
                        f"data: they end after {done} batches, but {os.fspath(path)!r} is of a run that had taken "
                        f"{state['taken']}; allowed are the data of that run"
                    )
            self._taken = state["taken"]
        _set_random_state(self._data, state["random"])
        self._mark()


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    """Of a group of parameters, those that no scheduler changes."""
    scheduled = ("params", "lr", "momentum", "betas") if "initial_lr" in group else ("params",)
    plain = {n: value.item() if torch.is_tensor(value) else value for n, value in group.items() if n not in scheduled}
    return {n: value for n, value in plain.items() if isinstance(value, (bool, int, float, str, tuple, type(None)))}


@torch.no_grad()
def _copied(buffer: Tensor, into: Tensor | None) -> Tensor:
    """A copy of a buffer, in the memory of an earlier one where that is alike."""
    if into is None or (into.shape, into.dtype, into.device) != (buffer.shape, buffer.dtype, buffer.device):
        return buffer.detach().clone()
    return into.copy_(buffer)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _generators(data: object) -> dict[str, torch.Generator]:
    """Those of a data loader and its samplers, by attribute."""
    found = {}
    for path in _GENERATORS:
        value: Any = data
        for attribute in path.split("."):
            value = getattr(value, attribute, None)
        if isinstance(value, torch.Generator):
            found[path] = value
    return found


def _random_state(data: object) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002, others use it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "data": {path: generator.get_state() for path, generator in _generators(data).items()},
    }


def _set_random_state(data: object, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    for path, generator in _generators(data).items():
        if path in state["data"]:
            generator.set_state(state["data"][path])
