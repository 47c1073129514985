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
from front_models._refine_settings import difference
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


class Special(Tensor):
    pass


def _with_attribute() -> Tensor:
    tensor = torch.ones(2)
    tensor.odd = deque([1])  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize("odd", [deque([1]), torch.ones(2).as_subclass(Special), _with_attribute()])
def test_state_that_the_first_step_makes_is_refused_after_it(odd: Any, tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.state[self.param_groups[0]["params"][0]]["odd"] = odd
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


class Marked(nn.Linear):
    """With any extra state, or buffer."""

    def __init__(self, state: Any = None, *, persistent: bool = True, **buffers: Tensor) -> None:
        super().__init__(6, 6)
        self.state = state
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=persistent)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Marked(deque([1])), "model: its state_dict"),
        (Marked(np.ones(2)), "model: its state_dict"),
        (Marked(own=torch.ones(2).as_subclass(Special)), "model: its state_dict"),
        (Marked(own=torch.ones(2).as_subclass(Special), persistent=False), "model: one of its buffers"),
    ],
)
def test_a_model_with_state_that_a_checkpoint_cannot_keep(model: nn.Module, message: str, tmp_path: Path) -> None:
    def never(model: nn.Module, batch: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        refine(model, DATA, never, lam=0.1, steps=2, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_extra_state_with_numbers_of_numpy(tmp_path: Path) -> None:
    def counting(model: nn.Module, batch: Tensor) -> Tensor:
        model.state["steps"] += np.int64(1)  # type: ignore[operator, union-attr, index]
        return task(model, batch)

    path = tmp_path / "run.pt"
    refine(Marked({"steps": np.int64(5)}), DATA, counting, lam=0.1, steps=2, checkpoint=path)
    again = Marked({"steps": np.int64(0)})
    refine(again, DATA, counting, lam=0.1, steps=2, checkpoint=path)
    assert again.state == {"steps": 7}


def test_versions_of_modules_are_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    refine(model, DATA, task, lam=0.1, steps=1, checkpoint=tmp_path / "run.pt")
    metadata = torch.load(tmp_path / "run.pt", weights_only=True)["model"]._metadata
    assert metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    assert metadata["1"]["version"] == 2


def test_numbers_of_numpy_in_arguments(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lam": np.float64(0.1), "clip_grad_norm": np.float64(1), "schedule": np.str_("linear")}
    for _ in range(2):
        refine(layers(), DATA, task, steps=2, checkpoint=tmp_path / "run.pt", **options)


@pytest.mark.parametrize("extra", [torch.ones(2), (1, torch.ones(2)), float("nan"), (1.0, float("nan")), [1]])
def test_a_group_may_hold_what_is_no_number(extra: Any, tmp_path: Path) -> None:
    for _ in range(2):
        model = layers()
        optimizer = torch.optim.SGD([{"params": model.parameters(), "extra": extra}], lr=0.1)
        refine(model, DATA, task, lam=0.1, steps=2, optimizer=optimizer, checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_learning_rate_that_is_a_tensor_is_compared(shape: tuple[int, ...], tmp_path: Path) -> None:
    def run(rate: float) -> None:
        model = layers()
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.full(shape, rate))
        refine(model, DATA, task, lam=0.1, steps=2, optimizer=optimizer, checkpoint=tmp_path / "run.pt")

    run(0.5)
    run(0.5)
    with pytest.raises(ValueError, match=r"of a run with hyperparameters .*'lr': 0.5.*, not .*'lr': 0.25"):
        run(0.25)


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
        ({"betas": (0.9, 0.95)}, {"betas": (0.5, 0.6)}, r"hyperparameters\[0\]\['betas'\] \(0.9, .*, not \(0.5, 0.6\)"),
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


class Warming(scheduling.LRScheduler):
    """One's own: the momentum goes along with the learning rate."""

    def get_lr(self) -> Any:
        for group in self.optimizer.param_groups:
            group["momentum"] = 0.5 + 0.1 * self.last_epoch
        return self.base_lrs


class Shrinking:
    """A scale of cycles that knows how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, cycle: int) -> float:
        self.calls += 1
        return 0.5**cycle


CYCLES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "one cycle": lambda o: scheduling.OneCycleLR(o, 0.1, 6),
    "an object": lambda o: scheduling.CyclicLR(o, 0.01, 0.1, 2, scale_fn=Shrinking()),
    "one's own": Warming,
    "in a sequence": lambda o: scheduling.SequentialLR(o, [scheduling.ConstantLR(o, 0.5, 2), Warming(o)], [2]),
    "in a chain": lambda o: scheduling.ChainedScheduler([scheduling.ConstantLR(o, 0.5, 2), Warming(o)], o),
}


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("name", CYCLES)
def test_a_scheduler_may_cycle_the_momentum(name: str, same: bool, tmp_path: Path) -> None:
    """Also where the objects of the interrupted run go on, whose momentum is another by now."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        model = layers()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, CYCLES[name](optimizer)

    def run(objects: Any, checkpoint: Path | None = None, loss_fn: Callable[..., Tensor] = task) -> nn.Module:
        model, optimizer, scheduler = objects
        torch.manual_seed(1)
        refine(model, DATA, loss_fn, lam=0.1, steps=6, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        return model  # type: ignore[no-any-return]

    whole, parts = run(made()), made()
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path / "run.pt", stopped_at(3))
    assert_same(run(parts if same else made(), tmp_path / "run.pt"), whole)


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


LONG = {f"layer {i}": [i, "torch.float32"] for i in range(40)}


@pytest.mark.parametrize(
    ("found", "own", "expected"),
    [
        ({"a": 1}, {"a": 2}, ("x", "{'a': 1}", "{'a': 2}")),
        (LONG, {**LONG, "layer 30": [1, "b"]}, ("x['layer 30']", "[30, 'torch.float32']", "[1, 'b']")),
        (LONG, {**LONG, "last": [1]}, ("x['last']", "absent", "[1]")),
        ({**LONG, "last": None}, LONG, ("x['last']", "None", "absent")),
        ([*LONG], [*LONG, "last"], ("len(x)", "40", "41")),
        ([*LONG], ["first", *LONG], ("x[0]", "'layer 0'", "'first'")),
        ({**LONG, "n": float("nan")}, {**LONG, "n": float("nan")}, None),
        ({**LONG, "n": float("nan")}, {**LONG, "n": 1.0}, ("x['n']", "nan", "1.0")),
        ("a" * 300 + "b" + "a" * 300, "a" * 300 + "c" + "a" * 300,
         ("x", "..." + "a" * 50 + "b" + "a" * 149 + "...", "..." + "a" * 50 + "c" + "a" * 149 + "...")),
    ],
)  # fmt: skip
def test_the_part_that_differs_is_named(found: Any, own: Any, expected: Any) -> None:
    assert difference("x", found, own) == expected


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
