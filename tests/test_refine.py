"""refine(): what a step is, and runs that are interrupted and go on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import front_models
from front_models import SpectralRegularizer, refine


def make() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 5))


def loader(own_generator: bool = True) -> DataLoader[Any]:
    torch.manual_seed(4)
    dataset = TensorDataset(torch.randn(22, 12), torch.randint(5, (22,)))
    generator = torch.Generator().manual_seed(9) if own_generator else None
    return DataLoader(dataset, batch_size=4, shuffle=True, generator=generator)  # six batches, the last one smaller


def task(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    x = x + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002, the generators that a run must keep
    return functional.cross_entropy(model(x), y)


def parts(model: nn.Module, lr: float = 0.1) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return {"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)}


def seed() -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(**options: Any) -> tuple[Tensor, front_models.RefineResult]:
    model, data = make(), loader(options.pop("own_generator", True))
    seed()
    result = refine(model, data, options.pop("task", task), lam=0.3, steps=20, **parts(model), **options)
    return weights(model), result


class DiedError(Exception):
    pass


def stopped_at(step: int, error: type[BaseException], where: str = "task") -> Callable[..., Tensor]:
    calls = iter(range(10**6))

    def failing(model: nn.Module, batch: Any) -> Tensor:
        loss = task(model, batch)
        if next(calls) == step:
            raise error
        return loss

    return failing


@pytest.mark.parametrize("own_generator", [True, False])
@pytest.mark.parametrize("step", [0, 3, 6, 7, 13, 19])
def test_an_interrupted_run_goes_on_to_the_same_weights(step: int, own_generator: bool, tmp_path: Path) -> None:
    """Interrupts come in the middle of a step, whose random numbers and batch have been drawn."""
    whole, result = trained(own_generator=own_generator)
    checkpoint = tmp_path / "run.pt"
    options = {"checkpoint": checkpoint, "own_generator": own_generator}
    with pytest.raises(KeyboardInterrupt):
        trained(task=stopped_at(step, KeyboardInterrupt), **options)
    assert len(torch.load(checkpoint, weights_only=True)["task_loss"]) == step
    again, resumed = trained(**options)
    assert torch.equal(whole, again)
    assert resumed == result
    done, _ = trained(task=stopped_at(0, DiedError), **options)  # nothing is left to do
    assert torch.equal(whole, done)


def with_norm() -> nn.Module:
    """A forward pass changes its buffers."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 5))


def refined(model: nn.Module, data: Any = None, loss_fn: Callable[..., Tensor] = task, **options: Any) -> None:
    data = loader() if data is None else data
    seed()
    refine(model, data, loss_fn, lam=0.3, steps=options.pop("steps", 10), **parts(model), **options)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, one), two in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("step", [0, 4])
def test_an_interrupt_behind_a_forward_pass_saves_the_buffers_before_it(step: int, tmp_path: Path) -> None:
    whole, stopped, again = with_norm(), with_norm(), with_norm()
    refined(whole)
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        refined(stopped, loss_fn=stopped_at(step, KeyboardInterrupt), checkpoint=checkpoint)
    assert torch.load(checkpoint, weights_only=True)["model"]["1.num_batches_tracked"] == step
    refined(again, checkpoint=checkpoint)
    assert_same(whole, again)


def test_copies_of_buffers_lie_in_the_memory_of_those_before() -> None:
    model = with_norm()
    made = parts(model)
    run = front_models._refine_run.Run(model, [], made["optimizer"], made["scheduler"], {}, {})
    first = {name: copy for name, (_, copy) in run._buffers.items()}
    assert set(first) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    model(torch.randn(4, 12))
    run.done(0.0, 0.0)
    for name, (buffer, copy) in run._buffers.items():
        assert copy is first[name]
        assert copy.data_ptr() != buffer.data_ptr()
        assert torch.equal(copy, buffer)
    model[1].running_mean = torch.zeros(24, dtype=torch.float64)  # another kind of tensor: another copy
    run.done(0.0, 0.0)
    assert run._buffers["1.running_mean"][1].dtype == torch.float64


def sampled(batches: bool, replacement: bool) -> DataLoader[Any]:
    torch.manual_seed(4)
    dataset = TensorDataset(torch.randn(22, 12), torch.randint(5, (22,)))
    generator = torch.Generator().manual_seed(9)
    sampler = RandomSampler(dataset, replacement, 70 if replacement else None, generator)
    if batches:
        return DataLoader(dataset, batch_sampler=BatchSampler(sampler, 4, drop_last=True))
    return DataLoader(dataset, batch_size=4, sampler=sampler, drop_last=True)


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("step", [0, 3, 7, 11])
def test_a_samplers_own_generator_is_kept(step: int, replacement: bool, batches: bool, tmp_path: Path) -> None:
    whole, stopped, again = make(), make(), make()
    refined(whole, sampled(batches, replacement), steps=14)
    checkpoint = tmp_path / "run.pt"
    failing = stopped_at(step, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        refined(stopped, sampled(batches, replacement), failing, checkpoint=checkpoint, steps=14)
    refined(again, sampled(batches, replacement), checkpoint=checkpoint, steps=14)
    assert_same(whole, again)


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole, _ = trained()
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(DiedError):
        trained(task=stopped_at(17, DiedError), checkpoint=checkpoint, checkpoint_every=5)
    assert len(torch.load(checkpoint, weights_only=True)["task_loss"]) == 15
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert torch.equal(whole, trained(checkpoint=checkpoint, checkpoint_every=5)[0])


def test_an_interrupt_within_an_optimizers_step_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    model, data = make(), loader()
    made = parts(model)
    step, calls = made["optimizer"].step, iter(range(100))

    def half(*args: Any) -> Any:
        step(*args)
        if next(calls) == 11:
            raise KeyboardInterrupt

    half.__wrapped__ = step  # type: ignore[attr-defined]
    made["optimizer"].step = half
    seed()
    with pytest.raises(KeyboardInterrupt):
        refine(model, data, task, lam=0.3, steps=20, **made, checkpoint=checkpoint, checkpoint_every=10)
    assert len(torch.load(checkpoint, weights_only=True)["task_loss"]) == 10
    assert torch.equal(trained()[0], trained(checkpoint=checkpoint, checkpoint_every=10)[0])


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(task=stopped_at(4, KeyboardInterrupt), checkpoint=checkpoint)
    before = checkpoint.read_bytes()

    save = torch.save

    def full(state: Any, to: Any) -> None:
        if not isinstance(to, Path):  # what is tried in memory
            return save(state, to)
        to.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        trained(checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_step_is_written_out() -> None:
    """Backward, the penalty's gradient, clipping, the optimizer; lam grows by the schedule."""
    data = [(torch.randn(4, 12), torch.randint(5, (4,))) for _ in range(3)]

    def plain(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    for schedule, factors in (("constant", [1, 1, 1]), ("linear", [1 / 3, 2 / 3, 1]), (lambda step: step, [0, 1, 2])):
        one, two = make().eval(), make().eval()
        one[2], two[2] = nn.Identity(), nn.Identity()
        refine(
            one, data, plain, lam=0.2, steps=3, schedule=schedule, clip_grad_norm=0.5,
            optimizer=torch.optim.SGD(one.parameters(), lr=0.1), regularizer=SpectralRegularizer(one, k=4),
        )  # fmt: skip
        optimizer, penalty = torch.optim.SGD(two.parameters(), lr=0.1), SpectralRegularizer(two, k=4)
        for batch, factor in zip(data, factors, strict=True):
            optimizer.zero_grad()
            (plain(two, batch) + 0.2 * factor * penalty()).backward()
            nn.utils.clip_grad_norm_(two.parameters(), 0.5)
            optimizer.step()
        torch.testing.assert_close(weights(one), weights(two))
        assert not one.training


def test_the_energy_falls_beside_the_task() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 12)
    data = [(x, (x.sum(1) > 0).long())]
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 2))
    result = refine(
        model, data, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), lam=1.0, steps=200,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
    )  # fmt: skip
    assert result.penalty[-1] < 0.2 * result.penalty[0]
    assert result.task_loss[-1] < 0.5 * result.task_loss[0]
    assert len(result.task_loss) == len(result.penalty) == 200
    assert {row.role for row in result.report} >= {"0.weight", "2.weight"}
    assert all(row.share < 0.3 for row in result.report if row.role.endswith("weight"))


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    model, data = make(), loader()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="step 0: task loss nan"):
        refine(model, data, lambda m, b: task(m, b) * float("nan"), lam=0.1, steps=3)
    assert torch.equal(weights(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    model, same = with_norm(), with_norm()
    calls = iter(range(10))
    with pytest.raises(FloatingPointError, match="step 2: task loss nan"):
        refined(model, loss_fn=lambda m, b: task(m, b) * (float("nan") if next(calls) == 2 else 1))
    refined(same, steps=2)
    assert_same(model, same)


class Once:
    def __init__(self) -> None:
        self.batches: Iterator[Any] = iter([(torch.randn(4, 12), torch.randint(5, (4,)))] * 2)

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def test_batches_may_be_the_rows_of_a_tensor() -> None:
    rows = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(6))
    one, two = make(), make()
    for model, data in ((one, rows), (two, [*rows])):
        seed()
        refine(model, data, lambda module, x: task(module, (x, torch.arange(4))), lam=0.3, steps=5)
    assert not torch.equal(weights(one), weights(make()))
    assert_same(one, two)


PARAMETER = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize("data", [[], Once()])
def test_data_that_end(data: Any) -> None:
    model = make()
    with pytest.raises(ValueError, match="data: it has no batches, or can be iterated only once"):
        refine(model, data, task, lam=0.1, steps=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "lam: got -1.0; allowed is a finite number from 0"),
        ({"lam": "1"}, "lam: got '1'; allowed is a finite number from 0"),
        ({"lam": float("inf")}, "lam: got inf; allowed is a finite number from 0"),
        ({"steps": -1}, "steps: got -1; allowed is a whole number from 0"),
        ({"steps": 1.5}, "steps: got 1.5; allowed is a whole number from 0"),
        ({"schedule": "cosine"}, "schedule: got 'cosine'; allowed are 'constant', 'linear' and a function of the step"),
        ({"clip_grad_norm": 0}, "clip_grad_norm: got 0; allowed are None and a number above 0"),
        (
            {"optimizer": torch.optim.LBFGS([PARAMETER])},
            "optimizer: got LBFGS; allowed is None and an optimizer whose step() takes nothing",
        ),
        (
            {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([PARAMETER]))},
            "scheduler: got ReduceLROnPlateau; allowed is None and an LRScheduler whose step() takes nothing",
        ),
        ({"checkpoint_every": 0}, "checkpoint_every: got 0; allowed is a whole number from 1"),
        ({"loss_fn": lambda m, b: 3.0}, "loss_fn: returned float; allowed is a tensor of one element"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"lam": 0.1, "steps": 2, "loss_fn": task} | options
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        refine(make(), loader(), **arguments)


def test_checkpoints_of_other_runs_and_damaged_ones(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    trained(checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"is of a run with lam 0.3, not 0.5; name another file, or remove it"):
        refine(make(), loader(), task, lam=0.5, steps=20, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="is of a run with optimizer 'SGD', not 'AdamW'"):
        refine(make(), loader(), task, lam=0.3, steps=20, checkpoint=checkpoint)
    wider = nn.Sequential(nn.Linear(12, 25))
    with pytest.raises(ValueError, match="is of a run with parameters"):
        refine(wider, loader(), task, lam=0.3, steps=20, checkpoint=checkpoint, **parts(wider))
    for options, message in (
        ({"regularizer": 0.25}, 'a run with regularizer "SpectralRegularizer(of 4 roles, keep_ratio=0.5, '),
        ({"clip_grad_norm": 1.0}, "a run with clip_grad_norm None, not 1.0"),
        ({"lr": 0.2}, "'initial_lr': 0.1"),
    ):
        model = make()
        given: dict[str, Any] = parts(model) | options
        if "regularizer" in options:
            given["regularizer"] = SpectralRegularizer(model, keep_ratio=options["regularizer"], reduction="mean")
        if "lr" in options:
            given = {"optimizer": torch.optim.SGD(model.parameters(), lr=given.pop("lr"), momentum=0.9)}
        with pytest.raises(ValueError, match=re.escape(message)):
            refine(model, loader(), task, lam=0.3, steps=20, checkpoint=checkpoint, **given)
        assert torch.equal(weights(model), weights(make()))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        trained(checkpoint=checkpoint)
    torch.save({"weights": torch.ones(1)}, checkpoint)
    with pytest.raises(ValueError, match="was not written by refine"):
        trained(checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    model = make()
    with pytest.raises(FileNotFoundError, match=r"the folder .*runs does not exist"):
        refine(model, loader(), task, lam=0.3, steps=20, checkpoint=tmp_path / "runs" / "run.pt")
    assert torch.equal(weights(model), weights(make()))


def test_a_model_of_which_nothing_can_be_trained() -> None:
    with pytest.raises(ValueError, match=r"^model: none of its parameters requires grad"):
        refine(make().requires_grad_(False), loader(), task, lam=0.3, steps=20)


def test_a_scheduler_of_another_optimizer() -> None:
    model = make()
    for options in ({"scheduler": parts(model)["scheduler"]}, {**parts(model), "scheduler": parts(model)["scheduler"]}):
        with pytest.raises(ValueError, match="scheduler: got StepLR of another optimizer than `optimizer`"):
            refine(model, loader(), task, lam=0.3, steps=20, **options)


class Counting(nn.Linear):
    """With an extra state that is no tensor."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_modules_with_an_extra_state(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    models = [nn.Sequential(Counting(12, 5)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    refine(models[0], loader(), task, lam=0.3, steps=4, checkpoint=checkpoint)
    refine(models[1], loader(), task, lam=0.3, steps=4, checkpoint=checkpoint)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert models[1][0].calls == 4


def test_a_checkpoint_that_lacks_something_and_other_data(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(task=stopped_at(5, KeyboardInterrupt), checkpoint=checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    model = make()
    with pytest.raises(ValueError, match=r"data: they end after 3 batches, but .* of a run that had taken 5"):
        refine(model, list(loader())[:3], task, lam=0.3, steps=20, checkpoint=checkpoint, **parts(model))
    torch.save({name: value for name, value in state.items() if name not in ("taken", "penalty")}, checkpoint)
    with pytest.raises(ValueError, match="is damaged: it has no penalty, taken"):
        trained(checkpoint=checkpoint)
    torch.save({**state, "settings": {}}, checkpoint)
    with pytest.raises(ValueError, match=r"is of a run with lam None, not 0.3"):
        trained(checkpoint=checkpoint)


def test_a_bar_only_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trained()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    model = make()
    for options, shown in (
        ({"reduction": "mean"}, r"energy share 0\.\d"),
        ({"reduction": "sum"}, r"energy share 0\.\d"),
        ({"standardize": False}, r"penalty \d"),
    ):
        reg = SpectralRegularizer(model, keep_ratio=0.5, **options)
        refine(model, loader(), task, lam=0.0, steps=2, regularizer=reg)
        assert re.search(shown, capsys.readouterr().err)
    trained(progress=False)
    assert capsys.readouterr().err == ""
