"""One training run and its curve."""

from __future__ import annotations

import math

import torch
from torch import nn

from experiments.tasks import Data, loss_of

Curve = dict[int, float]


def validated(step: int, steps: int) -> bool:
    """Every 5 steps at first, then every 10, and at the end."""
    return step == steps or step % (5 if step < 50 else 10) == 0


def train(model: nn.Module, data: Data, steps: int, seed: int, lr: float, watch: bool = True) -> Curve:
    """AdamW at a constant rate. The validation loss before some steps and after the last; it ends where the loss is
    not finite. watch: False: no curve."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    curve = {}
    for step, rows in enumerate([*data.order(steps, seed), None]):
        if watch and validated(step, steps):
            with torch.no_grad():
                curve[step] = loss_of(model, *data.held_out).item()
            if not math.isfinite(curve[step]):
                break
        if rows is not None:
            optimizer.zero_grad()
            loss_of(model, *data.batch(rows)).backward()
            optimizer.step()
    return curve


def accuracy(model: nn.Module, data: Data) -> float:
    inputs, labels = data.held_out
    with torch.no_grad():
        return float((model(inputs).argmax(-1) == labels).float().mean())
