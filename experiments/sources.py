"""Trained sources, and refined ones, in a folder: each is trained once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import front_models
from experiments.starts import randomise
from experiments.tasks import Data, Task, data_of, loss_of
from experiments.training import accuracy, train
from front_models._atomic import atomic_path

RATE_REFINED, LAM = 1e-3, 1.0


def path_of(task: Task, folder: Path, refined: bool) -> Path:
    """Its name tells the recipe and the data."""
    recipe = repr((task.source, task.source_steps, task.source_lr, refined and (task.refine_steps, RATE_REFINED, LAM)))
    recipe += task.begin_id
    digest = hashlib.sha256((recipe + _fingerprint(task.load)).encode()).hexdigest()[:10]
    return (
        folder
        / f"{task.name.replace(', ', '-').replace(' ', '-')}-{task.source}{'-refined' if refined else ''}-{digest}.pt"
    )


@cache
def _fingerprint(load: Callable[[], Data]) -> str:
    return hashlib.sha256(data_of(load, "cpu").train.float().numpy().tobytes()).hexdigest()


@cache
def _data_id(load: Callable[[], Data]) -> str:
    data = data_of(load, "cpu")
    return _digest([data.train, *data.held_out])


@cache
def _origin(path: Path) -> str:
    return _digest(torch.load(path, map_location="cpu", weights_only=True)["state"].values())


def _digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in tensors)).hexdigest()[:10]


def lineage(task: Task, folder: Path) -> dict[str, str]:
    """Of a row, what tells the data, validation set included, and the trained source before any refinement: rows that
    differ in either are not compared."""
    return {"data": _data_id(task.load), "origin": _origin(path_of(task, folder, refined=False))}


def prepare(task: Task, folder: Path, refined: bool, device: str) -> None:
    """Train it where it is not there. Refinement stays on the CPU."""
    path = path_of(task, folder, refined)
    if path.exists():
        return
    data = data_of(task.load, "cpu" if refined else device)
    if refined:
        model = load(task, folder, refined=False)[0]
        more = _refine(model, data, task.refine_steps)
    else:
        torch.manual_seed(0)
        model = task.model(*task.source)
        randomise(model, fan_in=True)
        if task.begin is not None:
            model.load_state_dict(task.begin())
        model.to(device)
        train(model, data, task.source_steps, 0, task.source_lr, watch=False, dtype=task.dtype)
        more = {}
    with torch.no_grad():
        loss = loss_of(model, *data.held_out).item()
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    about = {"loss": loss, "accuracy": accuracy(model, data), **more}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, force=True) as partial:
        torch.save({"state": state, "about": about}, partial)


def load(task: Task, folder: Path, refined: bool) -> tuple[nn.Module, dict[str, Any]]:
    saved = torch.load(path_of(task, folder, refined), map_location="cpu", weights_only=True)
    model = task.model(*task.source)
    model.load_state_dict(saved["state"])
    return model, {"id": _digest(saved["state"].values()), **saved["about"]}


def _refine(model: nn.Module, data: Data, steps: int) -> dict[str, float]:
    regularizer = front_models.SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")
    before = regularizer().item()
    front_models.refine(
        model,
        data.order(steps, 1),
        lambda module, rows: loss_of(module, *data.batch(rows)),
        lam=LAM,
        steps=steps,
        optimizer=torch.optim.AdamW(model.parameters(), lr=RATE_REFINED),
        regularizer=regularizer,
        progress=False,
    )
    return {"penalty before": before, "penalty": regularizer().item()}
