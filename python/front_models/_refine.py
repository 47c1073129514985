"""refine: a small training loop with the spectral penalty, for people without one of their own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from front_models._refine_ranks import check_own_checkpoint
from front_models._refine_run import RefineResult, Run
from front_models._regularizer import SpectralRegularizer
from front_models._walk import is_distributed

__all__ = ["RefineResult", "refine"]

_OPTIMIZERS = "None and an optimizer whose step() takes nothing"
_SCHEDULERS = "None and an LRScheduler whose step() takes nothing"
Schedule = Literal["constant", "linear"] | Callable[[int], float]


def refine(
    model: nn.Module,
    data: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    lam: float,
    steps: int,
    schedule: Schedule = "constant",
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    regularizer: SpectralRegularizer | None = None,
    clip_grad_norm: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> RefineResult:
    r"""Train a model a little more on ``task + lam * penalty`` (FRONT+), so that more of it survives the crop.

    Each step: ``loss_fn(model, batch).backward()``, `SpectralRegularizer.accumulate_grad_`, clipping, the optimizer. A
    bar shows the task's loss and the share of the energy that is penalised (of a regularizer that does not standardise
    its penalty) where stderr is a terminal.

    With `checkpoint`, the run is saved there every `checkpoint_every` steps, at the end, and when it is interrupted;
    if the file is there, the run goes on from it, and ends with the weights that an uninterrupted one would have had,
    bit for bit on one machine: model, optimizer, scheduler, random generators (torch's, Python's, numpy's, the data
    loader's and its samplers' own) and the place in the data are kept. To come to that place the pass is begun again
    with the generators as they were then, and its batches are drawn one after the other: their order may depend on
    torch's, Python's and numpy's generators as a pass begins, as in a DataLoader, but a buffer that is shuffled as
    batches are drawn needs a generator of its own, made as a pass begins. What persistent workers of a DataLoader draw
    (to augment, say) is not kept. Processes that train a model together (DDP, FSDP2) need a checkpoint each, and save
    none when they are interrupted, which may find them at different steps.

    Args:
        model: it is trained in place, in training mode.
        data: batches; iterated again when they end, so a DataLoader or a list, not a generator that is used up.
        loss_fn: ``loss_fn(model, batch)`` -> the task's loss, a scalar.
        lam: weight of the penalty, at least 0.
        steps: optimizer steps in all, those before the checkpoint included.
        schedule: of lam: "constant"; "linear", times ``(step + 1) / steps``; or a function of the step, from 0.
        optimizer: over the model's parameters; None: AdamW with learning rate 1e-4. Not LBFGS, whose step computes
            losses itself.
        scheduler: of `optimizer`; its `step()` is called after every step of that. Not ReduceLROnPlateau, whose step
            takes a metric.
        regularizer: of the model; None: ``SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")``, whose
            penalty is the share of energy outside the lowest half of the frequencies.
        clip_grad_norm: the largest norm of all gradients together; None: not clipped.
        checkpoint: a file, in a folder that is there.
        checkpoint_every: steps between two of them, at least 1.
        progress: False: no bar.

    Returns:
        Losses and penalties of all steps, and the regularizer's report.

    Raises:
        TypeError, ValueError: an argument is not allowed; the data end before they have begun; the optimizer or the
            scheduler, or the model (get_extra_state), has state that a checkpoint cannot keep; the checkpoint is
            damaged or of another run: other steps, lam, penalty, clipping, parameters (also others that are trained, in
            other groups of the optimizer, or of another dtype), optimizer, scheduler (of torch's own also the numbers
            that it was made with) or process (but of functions it is not known whether they are the same); processes
            that train together name one file, or go on from different steps. The model is as it was (but where the
            first step made the state that cannot be kept).
        RuntimeError: another of the processes that train together failed at its checkpoint; all of them end then.
        OSError: the checkpoint cannot be written there.
        FloatingPointError: a loss is not finite. The model is as it was before that step, buffers too.
    """
    _check(lam, steps, schedule, clip_grad_norm, checkpoint_every)
    _check_objects(model, data, loss_fn, optimizer, scheduler, regularizer)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model: none of its parameters requires grad; allowed is a model that can be trained")
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4)
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(
            f"scheduler: got {type(scheduler).__name__} of another optimizer than `optimizer`; allowed is one of that"
        )
    regularizer = regularizer or SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")
    first = {"lam": float(lam), "schedule": _name(schedule), "steps": steps}
    last = {
        "clip_grad_norm": None if clip_grad_norm is None else float(clip_grad_norm),
        "regularizer": repr(regularizer),
    }
    run = Run(model, data, optimizer, scheduler, first, last)
    path = None if checkpoint is None else Path(checkpoint)
    check_own_checkpoint(model, path)
    if path is not None:
        run.begin(path)
    begun = len(run.result.task_loss)
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with _bar(progress, steps, regularizer) as show:
            for step in range(begun, steps):
                weight = lam * _factor(schedule, step, steps)
                batch = run.next_batch()
                _clear_gradients(model, optimizer)
                loss = loss_fn(model, batch)
                if not isinstance(loss, Tensor) or loss.numel() != 1:
                    raise TypeError(f"loss_fn: returned {type(loss).__name__}; allowed is a tensor of one element")
                loss.backward()
                penalty = regularizer.accumulate_grad_(weight)
                values = loss.item(), penalty.item()
                if not all(map(math.isfinite, values)):
                    _clear_gradients(model, optimizer)
                    run.put_back_buffers()
                    raise FloatingPointError(f"step {step}: task loss {values[0]}, penalty {values[1]}")
                if clip_grad_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
                run.whole = False
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                run.done(*values)
                if path is not None and step == begun:  # the first step has made the optimizer's state
                    run.check_states()
                show(step + 1, *values)
                if path is not None and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                    run.save(path)
    except KeyboardInterrupt:
        if path is not None and run.whole and not run.together:
            run.save(path)
        raise
    finally:
        for module, training in modes:
            module.training = training
    if path is not None:
        run.save(path)
    run.result.report = regularizer.report()
    return run.result


def _clear_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Of all: backward fills, and clipping counts, those that are not the optimizer's, too."""
    optimizer.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)


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


def _check_objects(
    model: nn.Module, data: object, loss_fn: object, optimizer: object, scheduler: object, regularizer: object
) -> None:
    iterable = data.ndim > 0 if isinstance(data, Tensor) else hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    for name, value, allowed, fits in (
        ("model", model, "a torch.nn.Module", isinstance(model, nn.Module)),
        ("data", data, "an iterable of batches", iterable and not isinstance(data, (str, bytes, Mapping))),
        ("loss_fn", loss_fn, "a function of a model and a batch", callable(loss_fn)),
        ("optimizer", optimizer, _OPTIMIZERS, isinstance(optimizer, torch.optim.Optimizer | None)),
        ("optimizer", optimizer, _OPTIMIZERS, not isinstance(optimizer, torch.optim.LBFGS)),
        ("scheduler", scheduler, _SCHEDULERS, isinstance(scheduler, LRScheduler | None)),
        ("scheduler", scheduler, _SCHEDULERS, not isinstance(scheduler, ReduceLROnPlateau)),
        ("regularizer", regularizer, "None and a regularizer", isinstance(regularizer, SpectralRegularizer | None)),
    ):
        if not fits:
            raise TypeError(f"{name}: got {type(value).__name__}; allowed is {allowed}")
    if isinstance(optimizer, torch.optim.Optimizer):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {id(parameter) for parameter in model.parameters()}
        # FSDP's own parameters are not the model's while it stands whole.
        if not any(map(is_distributed, held)) and own.isdisjoint(map(id, held)):
            raise ValueError("optimizer: holds none of the model's parameters; allowed is one of this model")
    if isinstance(regularizer, SpectralRegularizer) and not regularizer.is_of(model):
        raise ValueError("regularizer: is of another model; allowed is one of this model, or of a part of it")


def _factor(schedule: Schedule, step: int, steps: int) -> float:
    if callable(schedule):
        value = schedule(step)
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = math.nan
        if not 0 <= factor < math.inf:
            raise ValueError(f"schedule: returned {value!r} at step {step}; allowed is a finite number from 0")
        return factor
    return 1.0 if schedule == "constant" else (step + 1) / steps


def _name(schedule: Schedule) -> str:
    return schedule if isinstance(schedule, str) else "a function"


class _Bar:
    def __enter__(self) -> Callable[..., None]:
        return lambda *_: None

    def __exit__(self, *_: object) -> None:
        return None


class _RichBar(_Bar):
    def __init__(self, console: Console, steps: int, regularizer: SpectralRegularizer) -> None:
        columns = (
            TextColumn("refining"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("task {task.fields[loss]}  {task.fields[energy]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=steps, loss="-", energy="")
        self._regularizer = regularizer

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()

        def show(step: int, loss: float, penalty: float) -> None:
            share = self._regularizer.share_of(penalty)
            energy = f"penalty {penalty:.4g}" if share is None else f"energy share {share:.4g}"
            self._progress.update(self._task, completed=step, loss=f"{loss:.4g}", energy=energy)

        return show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _bar(progress: bool, steps: int, regularizer: SpectralRegularizer) -> _Bar:
    console = Console(stderr=True)
    return _RichBar(console, steps, regularizer) if progress and console.is_terminal else _Bar()
