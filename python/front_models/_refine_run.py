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
from torch import Tensor, distributed, nn

from front_models._atomic import atomic_path
from front_models._regularizer import RoleEnergy
from front_models._walk import is_distributed

__all__ = ["RefineResult", "Run", "check_own_checkpoint"]

_FORMAT = "front-refine-7"
_KEYS = {"settings", "model", "buffers", "optimizer", "scheduler", "taken", "workers at start", "random at start"}
_KEYS |= {"random", "task_loss", "penalty"}
_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
# What steps change of torch's schedulers; the rest of their numbers is what they were made with.
_STEPPED = {"last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"}
_STEPPED |= {"_get_lr_called_within_step", "_is_initial"}
_END = object()
_SHOWN = 200  # characters of a value in a message


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
        settings = {
            **first,
            "parameters": {
                n: [list(value.shape), str(value.dtype)] if torch.is_tensor(value) else None
                for n, value in model.state_dict().items()
            },
            "trained parameters": [n for n, parameter in model.named_parameters() if parameter.requires_grad],
            "optimizer": type(optimizer).__name__,
            "parameters of the optimizer": [_names(group, model) for group in optimizer.param_groups],
            "hyperparameters": [_hyperparameters(group, scheduler) for group in optimizer.param_groups],
            "scheduler": _made_with(scheduler),
            "process": _process(model),
            **last,
        }
        self._settings = _plain(settings)
        self._batches: Iterator[Any] | None = None
        self._taken = 0  # batches of this pass over the data
        self._at_start = _random_state(data)  # when it began
        self._workers_at_start = False
        self.whole = True  # not in the middle of an optimizer's step
        self.together = _trained_together(model)  # an interrupt comes to the processes at different steps
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
        """Of optimizer and scheduler, with numpy's numbers, which torch.load refuses, as Python's."""
        scheduler = None if self._scheduler is None else _plain(self._scheduler.state_dict())
        return {"optimizer": _plain(self._optimizer.state_dict()), "scheduler": scheduler}

    def check_states(self) -> None:
        """That a checkpoint of the optimizer, the scheduler and the model could be read again."""
        for name, state in {**self._states(), "model": dict(self._model.state_dict())}.items():
            file = io.BytesIO()
            try:
                torch.save(_plain(state, tensors=False), file)
                file.seek(0)
                torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # pickle's, torch's: each says it in its own way
                raise ValueError(
                    f"{name}: its state_dict() has what a checkpoint cannot keep; allowed are tensors, numbers, "
                    f"strings and lists or dicts of them ({error})"
                ) from error

    def save(self, path: Path) -> None:
        model = self._model.state_dict()
        copies = {name: copy for name, (_, copy) in self._buffers.items()}
        model.update({name: copy for name, copy in copies.items() if name in model})
        state = {
            "format": _FORMAT,
            "settings": self._settings,
            "model": model,
            "buffers": {name: copy for name, copy in copies.items() if name not in model},  # persistent=False
            **self._states(),
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
        settings = {**self._settings, "buffers": sorted(state["buffers"].keys() & self._names_of_buffers())}
        found = {**state["settings"], "buffers": sorted(state["buffers"])}
        for setting, value in settings.items():
            if found.get(setting) != value:
                name, other, own = setting, found.get(setting), value
                if max(len(repr(other)), len(repr(own))) > _SHOWN:
                    name, other, own = _difference(name, other, own)
                raise ValueError(
                    f"checkpoint: {os.fspath(path)!r} is of a run with {name} {_short(other)}, not {_short(own)}; name "
                    "another file, or remove it to start anew"
                )
        if state["taken"] is not None:
            self._replay(state, path)
        self._model.load_state_dict(state["model"])
        self._load_buffers(state["buffers"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self.result = RefineResult(list(state["task_loss"]), list(state["penalty"]))
        _set_random_state(self._data, state["random"])
        self._mark()

    def check_step(self) -> None:
        """That processes which train a model together go on from the same step: all of them must call this."""
        if not self.together:
            return
        steps = _of_all(len(self.result.task_loss))
        if len(set(steps)) > 1:
            raise ValueError(
                f"checkpoint: the processes' files are of steps {steps}, by rank; allowed are files of one step"
            )

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


def _process(model: nn.Module) -> list[int] | None:
    """Rank and number of the processes that train a model together; None where one does."""
    return [distributed.get_rank(), distributed.get_world_size()] if _trained_together(model) else None


def check_own_checkpoint(model: nn.Module, path: Path | None) -> None:
    """That processes which train a model together name a file each, or none: all of them must call this."""
    if not _trained_together(model):
        return
    paths = _of_all(None if path is None else os.fspath(path.resolve()))
    rule = "allowed are none, and one for each process, whose generators are its own: with the rank in its name, say"
    if None in paths and any(paths):
        raise ValueError(f"checkpoint: {paths.count(None)} of {len(paths)} processes name no file; {rule}")
    shared = next((each for each in paths if each is not None and paths.count(each) > 1), None)
    if shared is not None:
        raise ValueError(f"checkpoint: several processes name {shared!r}; {rule}")


def _of_all(value: object) -> list[Any]:
    """What every process calls this with."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _trained_together(model: nn.Module) -> bool:
    """Whether processes train the model together: those of DDP or FSDP2, which all take the same steps."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() < 2:
        return False
    wrapped = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())
    return wrapped or any(is_distributed(parameter) for parameter in model.parameters())


def _names(group: dict[str, Any], model: nn.Module) -> list[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names.get(parameter, "not of the model") for parameter in group["params"]]


def _plain(value: Any, *, tensors: bool = True) -> Any:
    """The same with Python's numbers for numpy's, and None for tensors unless they are kept."""
    if isinstance(value, np.generic):
        return value.item()
    if torch.is_tensor(value) and not tensors:
        return None
    if type(value) in (tuple, list):
        return type(value)(_plain(each, tensors=tensors) for each in value)
    if isinstance(value, dict):  # a Counter and an OrderedDict stay what they are
        copy = value.copy()
        copy.clear()
        copy.update({_plain(key): _plain(each, tensors=tensors) for key, each in value.items()})
        return copy
    return value


def _made_with(scheduler: torch.optim.lr_scheduler.LRScheduler | None) -> Any:
    """The kind of a scheduler and, of torch's own, the numbers that steps leave as they are."""
    kind = type(scheduler)
    if scheduler is None or not _is_torchs(scheduler):
        return kind.__name__
    # Of what a function is an object may hold anything.
    state = {n: value for n, value in scheduler.state_dict().items() if n != "lr_lambdas"}
    inner = [_made_with(each) for each in getattr(scheduler, "_schedulers", [])]
    numbers = {n: _plain(value) for n, value in state.items() if n not in _STEPPED and n != "_schedulers"}
    return [kind.__name__, {n: value for n, value in numbers.items() if _only_numbers(value)}, inner]


def _is_torchs(scheduler: torch.optim.lr_scheduler.LRScheduler) -> bool:
    return type(scheduler).__module__.startswith("torch.optim.")  # SWALR is not where the others are


def _only_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_only_numbers(each) for pair in value.items() for each in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_only_numbers, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def _hyperparameters(group: dict[str, Any], scheduler: torch.optim.lr_scheduler.LRScheduler | None) -> dict[str, Any]:
    """Of a group of parameters, those that the scheduler does not change."""
    scheduled = {"params"}
    if "initial_lr" in group:
        scheduled.add("lr")
        # Of torch's own those that cycle the momentum say so in the group; others may change it.
        if "max_momentum" in group or (scheduler is not None and not _is_torchs(scheduler)):
            scheduled |= {"momentum", "betas"}
    own = {n: value for n, value in group.items() if n not in scheduled}
    plain = {n: _plain(v.tolist() if torch.is_tensor(v) else v) for n, v in own.items()}
    return {n: value for n, value in plain.items() if isinstance(value, (bool, int, float, str, tuple, type(None)))}


@torch.no_grad()
def _copied(buffer: Tensor, into: Tensor | None) -> Tensor:
    """A copy of a buffer, in the memory of an earlier one where that is alike."""
    if into is None or (into.shape, into.dtype, into.device) != (buffer.shape, buffer.dtype, buffer.device):
        return buffer.detach().clone()
    return into.copy_(buffer)


def _difference(name: str, found: Any, own: Any) -> tuple[str, Any, Any]:
    """The first part by which two values differ, by its name."""
    pairs: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(found, dict) and isinstance(own, dict) and found.keys() == own.keys():
        pairs = ((key, found[key], own[key]) for key in own)
    elif isinstance(found, (list, tuple)) and isinstance(own, (list, tuple)) and len(found) == len(own):
        pairs = zip(range(len(own)), found, own, strict=True)
    for key, one, two in pairs:
        if one != two:
            return _difference(f"{name}[{key!r}]", one, two)
    return name, found, own


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
