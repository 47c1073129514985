"""refine() in processes that train one model together: what all of them must do, or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed, nn

from front_models._walk import is_distributed

__all__ = ["agreed", "check_own_checkpoint", "check_steps", "process_of", "trained_together"]

_Result = TypeVar("_Result")


def trained_together(model: nn.Module) -> bool:
    """Whether processes train the model together: those of DDP or FSDP2, which all take the same steps."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() < 2:
        return False
    wrapped = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())
    return wrapped or any(is_distributed(parameter) for parameter in model.parameters())


def process_of(model: nn.Module) -> list[int] | None:
    """Rank and number of the processes that train a model together; None where one does."""
    return [distributed.get_rank(), distributed.get_world_size()] if trained_together(model) else None


def agreed(together: bool, work: Callable[[], _Result]) -> _Result:
    """What ``work()`` returns. Where it fails in one process, all of them raise, which would wait for that one else."""
    try:
        result = work()
    except Exception as error:
        if together:
            _of_all(f"{type(error).__name__}: {error}")
        raise
    failures = _of_all(None) if together else []
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f"process {rank}, which trains the model together with this one, failed: {failure}")
    return result


def check_own_checkpoint(model: nn.Module, path: Path | None) -> None:
    """That processes which train a model together name a file each, or none: all of them must call this."""
    if not trained_together(model):
        return
    paths = _of_all(None if path is None else os.fspath(path.resolve()))
    rule = "allowed are none, and one for each process, whose generators are its own: with the rank in its name, say"
    if None in paths and any(paths):
        raise ValueError(f"checkpoint: {paths.count(None)} of {len(paths)} processes name no file; {rule}")
    shared = next((each for each in paths if each is not None and paths.count(each) > 1), None)
    if shared is not None:
        raise ValueError(f"checkpoint: several processes name {shared!r}; {rule}")


def check_steps(step: int) -> None:
    """That processes which train a model together go on from the same step: all of them must call this."""
    steps = _of_all(step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"checkpoint: the processes' files are of steps {steps}, by rank; allowed are files of one step"
        )


def _of_all(value: object) -> list[Any]:
    """What every process calls this with."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
