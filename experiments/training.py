"""Training runs and their curves."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.tasks import Data, loss_of

Curve = dict[int, float]


def validated(step: int, steps: int) -> bool:
    """Every 5 steps at first, then every 10, and at the end."""
    return step == steps or step % (5 if step < 50 else 10) == 0


def products_of(dtype: torch.dtype, data: Data) -> torch.autocast:
    """Under it products are of a dtype."""
    return torch.autocast(data.train.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def train(
    model: nn.Module, data: Data, steps: int, seed: int, lr: float, watch: bool = True,
    dtype: torch.dtype = torch.float32, end: int | None = None,
) -> Curve:  # fmt: skip
    """AdamW at a constant rate. The validation loss before some steps and after the last; it ends where the loss is
    not finite. watch: False: no curve. dtype: of products. end: only so many of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    curve = {}
    order = data.order(steps, seed)[:end]
    for step, rows in enumerate([*order, None]):
        if watch and validated(step, len(order)):
            with torch.no_grad(), products_of(dtype, data):
                curve[step] = loss_of(model, *data.held_out).item()
            if not math.isfinite(curve[step]):
                break
        if rows is not None:
            optimizer.zero_grad()
            with products_of(dtype, data):
                loss = loss_of(model, *data.batch(rows))
            loss.backward()
            optimizer.step()
    return curve


def train_together(
    models: Sequence[nn.Module], data: Data, steps: int, seeds: Sequence[int], lr: float,
    dtype: torch.dtype = torch.float32, end: int | None = None,
) -> list[Curve]:  # fmt: skip
    """The same curves but for rounding, of models of one size at one rate: as one stack, which fills a GPU. The models
    themselves stay as they are."""
    weights, _ = stack_module_state(list(models))
    skeleton = copy.deepcopy(models[0]).to("meta")
    optimizer = torch.optim.AdamW(weights.values(), lr=lr, fused=True)

    def one(own: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return loss_of(lambda x: functional_call(skeleton, own, (x,)), inputs, labels)

    each, alike = torch.vmap(one), torch.vmap(one, (0, None, None))
    curves: list[Curve] = [{} for _ in models]
    orders = torch.stack([data.order(steps, seed)[:end] for seed in seeds], 1)  # [steps, models, rows]
    with sdpa_kernel(SDPBackend.MATH):  # the others are not batched everywhere
        for step, rows in enumerate([*orders, None]):
            if validated(step, len(orders)):
                with torch.no_grad(), products_of(dtype, data):
                    losses = alike(weights, *data.held_out).tolist()
                for curve, loss in zip(curves, losses, strict=True):
                    if all(map(math.isfinite, curve.values())):
                        curve[step] = loss
            if rows is not None:
                optimizer.zero_grad()
                inputs, labels = (x.unflatten(0, rows.shape[:2]) for x in data.batch(rows.flatten(0, 1)))
                with products_of(dtype, data):
                    total = each(weights, inputs, labels).sum()
                total.backward()
                optimizer.step()
    return curves


def accuracy(model: nn.Module, data: Data) -> float:
    inputs, labels = data.held_out
    with torch.no_grad():
        return float((model(inputs).argmax(-1) == labels).float().mean())
