"""What a run of refine() was begun with, as its checkpoint names it: another run must not go on from it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from front_models._refine_ranks import process_of
from front_models._walk import is_distributed

__all__ = ["difference", "plain", "settings_of"]

# What steps change of torch's schedulers; the rest of their numbers is what they were made with. Of what a function is
# an object may hold anything.
_STEPPED = {"last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"}
_STEPPED |= {"_get_lr_called_within_step", "_is_initial", "_schedulers", "lr_lambdas", "_scale_fn_custom"}
_SHOWN = 200  # characters of a value in a message


def settings_of(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    return {
        "parameters": {
            n: [list(value.shape), str(value.dtype)] if torch.is_tensor(value) else None
            for n, value in model.state_dict().items()
        },
        "trained parameters": [n for n, parameter in model.named_parameters() if parameter.requires_grad],
        "optimizer": type(optimizer).__name__,
        "parameters of the optimizer": [_names(group, model) for group in optimizer.param_groups],
        "hyperparameters": [_hyperparameters(group, scheduler) for group in optimizer.param_groups],
        "scheduler": _made_with(scheduler),
        "process": process_of(model),
    }


def plain(value: Any, *, tensors: bool = True) -> Any:
    """The same with Python's numbers for numpy's; None for tensors that torch.load takes, unless they are kept."""
    if isinstance(value, np.generic):
        return value.item()
    if not tensors and torch.is_tensor(value) and _is_read(value):
        return None
    if type(value) in (tuple, list):
        return type(value)(plain(each, tensors=tensors) for each in value)
    if isinstance(value, dict):
        made = copy.copy(value)  # of its kind, with its attributes: a state dict's _metadata
        made.clear()
        made.update({plain(key): plain(each, tensors=tensors) for key, each in value.items()})
        return made
    return value


def _is_read(tensor: torch.Tensor) -> bool:
    """Whether torch.load takes it for sure: not where it is of another class, or has attributes of any kind."""
    return is_distributed(tensor) or (type(tensor) in (torch.Tensor, nn.Parameter) and not vars(tensor))


def difference(name: str, found: Any, own: Any) -> tuple[str, str, str] | None:
    """Where two values differ: the name of the first part that does, and what it is in each; None where nowhere."""
    if _same(found, own):
        return None
    if max(len(repr(found)), len(repr(own))) <= _SHOWN:
        return name, repr(found), repr(own)
    if isinstance(found, dict) and isinstance(own, dict):
        for key in [*own, *found]:
            at = f"{name}[{key!r}]"
            if key not in found or key not in own:
                one, two = (_short(repr(each[key])) if key in each else "absent" for each in (found, own))
                return at, one, two
            if different := difference(at, found[key], own[key]):
                return different
    if isinstance(found, (list, tuple)) and isinstance(own, (list, tuple)):
        for i, (one, two) in enumerate(zip(found, own, strict=False)):
            if different := difference(f"{name}[{i}]", one, two):
                return different
        return f"len({name})", str(len(found)), str(len(own))
    one, two = repr(found), repr(own)
    begin = max(0, next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0) - _SHOWN // 4)
    return name, _short(one, begin), _short(two, begin)


def _same(found: Any, own: Any) -> bool:
    """Also where both are no number, which is not equal to itself."""
    if isinstance(found, dict) and isinstance(own, dict):
        return found.keys() == own.keys() and all(_same(found[key], own[key]) for key in own)
    if isinstance(found, (list, tuple)) and isinstance(own, (list, tuple)):
        return len(found) == len(own) and all(map(_same, found, own))
    return bool(found == own or (found != found and own != own))


def _short(text: str, begin: int = 0) -> str:
    end = begin + _SHOWN
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"


def _names(group: dict[str, Any], model: nn.Module) -> list[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names.get(parameter, "not of the model") for parameter in group["params"]]


def _hyperparameters(group: dict[str, Any], scheduler: LRScheduler | None) -> dict[str, Any]:
    """Of a group of parameters, those that the scheduler does not change."""
    scheduled = {"params"}
    if "initial_lr" in group:
        scheduled.add("lr")
        # Of torch's own those that cycle the momentum say so in the group; others may change it.
        if "max_momentum" in group or (scheduler is not None and not _is_torchs(scheduler)):
            scheduled |= {"momentum", "betas"}
    own = {n: plain(_numbers(value)) for n, value in group.items() if n not in scheduled}
    return {n: value for n, value in own.items() if not isinstance(value, (dict, list)) and _only_numbers(value)}


def _numbers(value: Any) -> Any:
    """Python's for tensors of one: learning rates, betas."""
    if isinstance(value, tuple):
        return tuple(map(_numbers, value))
    return value.item() if torch.is_tensor(value) and value.numel() == 1 else value


def _made_with(scheduler: LRScheduler | None) -> Any:
    """The kind of a scheduler and, of torch's own, the numbers that steps leave as they are."""
    kind = type(scheduler).__name__
    if scheduler is None or not _is_of_torch(scheduler):
        return kind
    numbers = {n: plain(value) for n, value in scheduler.state_dict().items() if n not in _STEPPED}
    inner = [_made_with(each) for each in _schedulers(scheduler)]
    return [kind, {n: value for n, value in numbers.items() if _only_numbers(value)}, inner]


def _is_of_torch(scheduler: LRScheduler) -> bool:
    return type(scheduler).__module__.startswith("torch.optim.")  # SWALR is not where the others are


def _is_torchs(scheduler: LRScheduler) -> bool:
    """With all that it is made of."""
    return _is_of_torch(scheduler) and all(map(_is_torchs, _schedulers(scheduler)))


def _schedulers(scheduler: LRScheduler) -> Iterable[LRScheduler]:
    return getattr(scheduler, "_schedulers", ())


def _only_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_only_numbers(each) for pair in value.items() for each in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_only_numbers, value))
    return isinstance(value, (bool, int, float, str, type(None)))
