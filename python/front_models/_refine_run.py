"""What a run of refine() is but for its arguments: its place in the data, and its checkpoints."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from front_models._atomic import atomic_path, check_output
from front_models._refine_ranks import agreed, check_steps, trained_together
from front_models._refine_settings import difference, plain, settings_of
from front_models._regularizer import RoleEnergy

__all__ = ["RefineResult", "Run"]

_FORMAT = "front-refine-8"
_KEYS = {"settings", "model", "buffers", "optimizer", "scheduler", "taken", "workers at start", "random at start"}
_KEYS |= {"random", "task_loss", "penalty"}
_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
_END = object()


@dataclass
class RefineResult:
    """Of each step its task loss and penalty (before the step), and at the end the energy of every role."""

    task_loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    report: list[RoleEnergy] = field(default_factory=list)


class Run:
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
        self._settings = plain({**first, **settings_of(model, optimizer, scheduler), **last})
        self._batches: Iterator[Any] | None = None
        self._taken = 0  # batches of this pass over the data
        self._at_start = _random_state(data)  # when it began
        self._workers_at_start = False
        self.whole = True  # not in the middle of an optimizer's step
        self.together = trained_together(model)  # an interrupt comes to the processes at different steps
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
            "workers at start": self._workers_at_start,
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
                self._workers_at_start = _has_workers(self._data)
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

    def _states(self) -> dict[str, Any]:
        """Of all that has any, with numpy's numbers, which torch.load refuses, as Python's."""
        model: dict[str, Any] = plain(self._model.state_dict())
        copies = {name: copy for name, (_, copy) in self._buffers.items()}
        model.update({name: copy for name, copy in copies.items() if name in model})
        return {
            "model": model,
            "buffers": {name: copy for name, copy in copies.items() if name not in model},  # persistent=False
            "optimizer": plain(self._optimizer.state_dict()),
            "scheduler": None if self._scheduler is None else plain(self._scheduler.state_dict()),
        }

    def check_states(self) -> None:
        """That a checkpoint of them could be read again; in all processes that train together."""
        agreed(self.together, self._check_states)

    def _check_states(self) -> None:
        for name, state in self._states().items():
            file = io.BytesIO()
            try:
                torch.save(plain(state, tensors=False), file)
                file.seek(0)
                torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # pickle's, torch's: each says it in its own way
                what = "model: one of its buffers is" if name == "buffers" else f"{name}: its state_dict() has"
                raise ValueError(
                    f"{what} what a checkpoint cannot keep; allowed are tensors, numbers, strings and lists or dicts "
                    f"of them ({error})"
                ) from error

    def save(self, path: Path) -> None:
        """In all processes that train together."""
        agreed(self.together, lambda: self._save(path))

    def _save(self, path: Path) -> None:
        state = {
            "format": _FORMAT,
            "settings": self._settings,
            **self._states(),
            **self._point,
            "task_loss": self.result.task_loss,
            "penalty": self.result.penalty,
        }
        with atomic_path(path, force=True) as partial:
            torch.save(state, partial)

    def begin(self, path: Path) -> None:
        """Goes on from the checkpoint, where there is one; in all processes that train together, or in none."""
        state = agreed(self.together, lambda: self._checked(path))
        if self.together:
            check_steps(0 if state is None else len(state["task_loss"]))
        if state is not None:
            self._go_on(state)

    def _checked(self, path: Path) -> dict[str, Any] | None:
        """What the checkpoint holds; it is of this run, whose data have come to the same place."""
        check_output(path, force=True, folder=False)
        self._check_states()
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's, zipfile's, pickle's: each says it in its own way
            raise ValueError(f"checkpoint: {os.fspath(path)!r} is damaged or no checkpoint: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"checkpoint: {os.fspath(path)!r} was not written by refine")
        if missing := sorted(_KEYS - state.keys()):
            raise ValueError(f"checkpoint: {os.fspath(path)!r} is damaged: it has no {', '.join(missing)}")
        settings = {**self._settings, "buffers": sorted(state["buffers"].keys() & self._names_of_buffers())}
        found = {**state["settings"], "buffers": sorted(state["buffers"])}
        for setting, value in settings.items():
            if different := difference(setting, found.get(setting), value):
                name, other, own = different
                raise ValueError(
                    f"checkpoint: {os.fspath(path)!r} is of a run with {name} {other}, not {own}; name another file, "
                    "or remove it to start anew"
                )
        if state["taken"] is not None:
            self._replay(state, path)
        return state

    def _go_on(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._load_buffers(state["buffers"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self.result = RefineResult(list(state["task_loss"]), list(state["penalty"]))
        _set_random_state(self._data, state["random"])
        self._mark()

    def _replay(self, state: dict[str, Any], path: Path) -> None:
        """The same pass over the data again, up to where it was."""
        self._workers_at_start = state["workers at start"]
        # Starting them takes a seed from a generator.
        if self._workers_at_start and not _has_workers(self._data):
            iter(self._data)
        elif _has_workers(self._data) and not self._workers_at_start:
            self._data._iterator = None  # type: ignore[attr-defined]
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

    def _names_of_buffers(self) -> set[str]:
        """Also of those that are None."""
        modules = self._model.named_modules(remove_duplicate=False)
        return {f"{at}.{name}" if at else name for at, module in modules for name in module._buffers}

    @torch.no_grad()
    def _load_buffers(self, buffers: dict[str, Tensor]) -> None:
        """A forward pass may make them, or change their shape."""
        for name, value in buffers.items():
            module, _, own = name.rpartition(".")
            held = self._model.get_submodule(module)._buffers
            buffer = held[own]
            if buffer is not None and buffer.shape == value.shape:
                buffer.copy_(value)
            else:
                device = next(self._model.parameters()).device if buffer is None else buffer.device
                held[own] = value.to(device)


@torch.no_grad()
def _copied(buffer: Tensor, into: Tensor | None) -> Tensor:
    """A copy of a buffer, in the memory of an earlier one where that is alike."""
    if into is None or (into.shape, into.dtype, into.device) != (buffer.shape, buffer.dtype, buffer.device):
        return buffer.detach().clone()
    return into.copy_(buffer)


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


def _has_workers(data: object) -> bool:
    """Whether a DataLoader's persistent workers run already: a pass begins without a seed for them then."""
    return bool(getattr(data, "persistent_workers", False)) and getattr(data, "_iterator", None) is not None


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
