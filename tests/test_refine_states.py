"""refine(): optimizers, schedulers and models whose state a checkpoint keeps, or refuses, and those made otherwise."""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as scheduling
from torch.optim.swa_utils import SWALR

from front_models import refine
from test_refine_resume import DATA, Averaged, assert_same, layers, stopped_at, task


class _Wave:
    """A schedule that is an object with a number of numpy's."""

    def __init__(self) -> None:
        self.length = np.float64(7)

    def __call__(self, step: int) -> Any:
        return np.cos(step / self.length)


def _scheduled(
    make: Callable[[torch.optim.Optimizer], Any],
    checkpoint: Path | None,
    loss_fn: Callable[..., Tensor] = task,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    torch.manual_seed(0)
    model = layers().to(dtype)
    data = [batch.to(dtype) for batch in DATA]
    optimizer = torch.optim.AdamW(model.parameters(), lr=np.logspace(-2, -1, 3)[1], weight_decay=np.float64(0.1))  # type: ignore[arg-type]
    options: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint}
    refine(model, data, loss_fn, lam=0.1, steps=6, optimizer=optimizer, scheduler=make(optimizer), **options)
    return model


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "numpy's function": lambda o: scheduling.LambdaLR(o, lambda step: np.cos(step / 10)),
    "an object": lambda o: scheduling.LambdaLR(o, _Wave()),
    "milestones": lambda o: scheduling.MultiStepLR(o, list(np.arange(1, 6, 2)), np.float64(0.5)),
    "a sequence": lambda o: scheduling.SequentialLR(
        o, [scheduling.ConstantLR(o, 0.5, 2), scheduling.CosineAnnealingLR(o, 4)], [np.int64(2)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_numbers_of_numpy_in_schedulers_and_optimizers(name: str, tmp_path: Path) -> None:
    whole = _scheduled(SCHEDULERS[name], None)
    with pytest.raises(KeyboardInterrupt):
        _scheduled(SCHEDULERS[name], tmp_path / "run.pt", stopped_at(3))
    assert_same(_scheduled(SCHEDULERS[name], tmp_path / "run.pt"), whole)


def test_state_that_a_checkpoint_cannot_keep_is_refused_before_any_step(tmp_path: Path) -> None:
    class Odd(scheduling.StepLR):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "odd": Averaged()}

    def never(model: nn.Module, batch: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match="scheduler: its state_dict"):
        _scheduled(lambda o: Odd(o, 2), tmp_path / "run.pt", never)
    assert not (tmp_path / "run.pt").exists()


def test_state_that_the_first_step_makes_is_refused_after_it(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.state[self.param_groups[0]["params"][0]]["odd"] = deque([1])
            return super().step(closure)

    model, steps = layers(), 0

    def counted(model: nn.Module, batch: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return task(model, batch)

    optimizer = Odd(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: its state_dict"):
        refine(model, DATA, counted, lam=0.1, steps=6, optimizer=optimizer, checkpoint=tmp_path / "run.pt")
    assert steps == 1
    assert not (tmp_path / "run.pt").exists()


def test_extra_state_of_the_model_that_a_checkpoint_cannot_keep(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return deque([1])

    with pytest.raises(ValueError, match="model: its state_dict"):
        refine(Odd(6, 6), DATA, task, lam=0.1, steps=2, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_numbers_of_numpy_in_arguments(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lam": np.float64(0.1), "clip_grad_norm": np.float64(1), "schedule": np.str_("linear")}
    for _ in range(2):
        refine(layers(), DATA, task, steps=2, checkpoint=tmp_path / "run.pt", **options)


def test_a_group_may_hold_a_tensor_of_several_numbers(tmp_path: Path) -> None:
    model = layers()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "extra": torch.ones(2)}], lr=0.1)
    refine(model, DATA, task, lam=0.1, steps=2, optimizer=optimizer, checkpoint=tmp_path / "run.pt")


class Counting:
    """A factor of the learning rate that knows how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 0.5**step


def test_functions_of_a_scheduler_may_hold_state(tmp_path: Path) -> None:
    whole = _scheduled(lambda o: scheduling.LambdaLR(o, Counting()), None)
    factor = Counting()  # goes on counting
    with pytest.raises(KeyboardInterrupt):
        _scheduled(lambda o: scheduling.LambdaLR(o, factor), tmp_path / "run.pt", stopped_at(3))
    assert_same(_scheduled(lambda o: scheduling.LambdaLR(o, factor), tmp_path / "run.pt"), whole)


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ({"betas": (0.9, 0.95)}, {"betas": (0.5, 0.6)}, r"hyperparameters\[0\]\['betas'\]\[0\] 0.9, not 0.5"),
        ({"weight_decay": 0.1}, {"weight_decay": 0.2}, r"hyperparameters\[0\]\['weight_decay'\] 0.1, not 0.2"),
    ],
)
def test_a_checkpoint_of_an_optimizer_made_otherwise(first: Any, second: Any, name: str, tmp_path: Path) -> None:
    def run(options: Any, loss_fn: Callable[..., Tensor] = task) -> None:
        model = layers()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **options)
        scheduler = scheduling.ConstantLR(optimizer)
        refine(model, DATA, loss_fn, lam=0.1, steps=6, optimizer=optimizer, scheduler=scheduler,
               checkpoint=tmp_path / "run.pt")  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(first, stopped_at(3))
    with pytest.raises(ValueError, match=f"of a run with {name}; name another file"):
        run(second)


def test_a_scheduler_may_cycle_the_momentum(tmp_path: Path) -> None:
    def cycle(optimizer: torch.optim.Optimizer) -> Any:
        return scheduling.OneCycleLR(optimizer, 0.1, 6)

    whole = _scheduled(cycle, None)
    with pytest.raises(KeyboardInterrupt):
        _scheduled(cycle, tmp_path / "run.pt", stopped_at(3))
    assert_same(_scheduled(cycle, tmp_path / "run.pt"), whole)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda o: SWALR(o, 0.05, 5), lambda o: SWALR(o, 0.05, 50)),
        (lambda o: scheduling.CosineAnnealingLR(o, 40), lambda o: scheduling.CosineAnnealingLR(o, 4000)),
        (lambda o: scheduling.StepLR(o, 5), lambda o: scheduling.StepLR(o, 50)),
        (SCHEDULERS["a sequence"], lambda o: scheduling.SequentialLR(o, [scheduling.ConstantLR(o)], [])),
        (lambda o: scheduling.StepLR(o, 5), lambda o: scheduling.ExponentialLR(o, 0.9)),
    ],
)
def test_a_checkpoint_of_another_scheduler_changes_nothing(first: Any, second: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _scheduled(first, tmp_path / "run.pt", stopped_at(3))
    before: list[nn.Module] = []

    def made(optimizer: torch.optim.Optimizer) -> Any:
        before.append(copy.deepcopy(optimizer.param_groups[0]["params"]))
        return second(optimizer)

    with pytest.raises(ValueError, match="of a run with scheduler"):
        _scheduled(made, tmp_path / "run.pt")
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(before[0], layers().parameters(), strict=True))


def test_a_checkpoint_of_another_dtype(tmp_path: Path) -> None:
    make = SCHEDULERS["numpy's function"]
    with pytest.raises(KeyboardInterrupt):
        _scheduled(make, tmp_path / "run.pt", stopped_at(3))
    with pytest.raises(ValueError, match="of a run with parameters"):
        _scheduled(make, tmp_path / "run.pt", dtype=torch.float64)


def test_a_checkpoint_goes_on_with_the_objects_of_the_interrupted_run(tmp_path: Path) -> None:
    def run(loss_fn: Callable[..., Tensor], again: Any = None) -> Any:
        if again is None:
            torch.manual_seed(0)
            model = layers()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            again = model, optimizer, scheduling.CosineAnnealingWarmRestarts(optimizer, 2)
        model, optimizer, scheduler = again
        with contextlib.suppress(KeyboardInterrupt):
            refine(
                model, DATA, loss_fn, lam=0.1, steps=6, optimizer=optimizer, scheduler=scheduler,
                checkpoint=tmp_path / f"{loss_fn.__name__}.pt",
            )  # fmt: skip
        return again

    whole = run(task)
    parts = run(stopped_at(3))
    (tmp_path / "stopping.pt").rename(tmp_path / "task.pt")
    assert_same(run(task, parts)[0], whole[0])


def test_gradients_outside_the_optimizer_are_cleared(tmp_path: Path) -> None:
    """Else clipping would count the gradients of all steps before, and what is resumed none of them."""

    def head_only(loss_fn: Callable[..., Tensor], path: Path | None) -> nn.Module:
        torch.manual_seed(0)
        model = layers()
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)  # type: ignore[index]
        refine(model, DATA, loss_fn, lam=0.1, steps=6, optimizer=optimizer, clip_grad_norm=0.01, checkpoint=path)
        return model

    whole = head_only(task, None)
    with pytest.raises(KeyboardInterrupt):
        head_only(stopped_at(3), tmp_path / "run.pt")
    assert_same(head_only(task, tmp_path / "run.pt"), whole)


def test_no_gradient_is_left_of_a_step_without_a_finite_loss() -> None:
    model = layers()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)  # type: ignore[index]
    with pytest.raises(FloatingPointError):
        refine(model, [torch.full((3, 6), torch.nan)], task, lam=0.1, steps=2, optimizer=optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())
