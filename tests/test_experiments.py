"""The experiments, small: every start fits every target, what is finished is not done again."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import jobs, measures, pool, rivals, sources, starts, vision
from experiments.jobs import Job
from experiments.tasks import LANGUAGE, SMALL, TASKS, VISION, Size, Task, data_of, loss_of
from experiments.training import train, validated
from front_kernels.bench import ledger

TARGETS = {str(size): size for size in (Size(1, 16), Size(3, 32), Size(2, 48), Size(3, 48))}


@pytest.fixture(scope="module", params=[LANGUAGE, VISION], ids=lambda task: task.name)
def trained(request: pytest.FixtureRequest) -> tuple[Task, Callable[[], nn.Module]]:
    """A task with small targets, and its source, trained a little."""
    task = dataclasses.replace(request.param, source=Size(2, 32), targets=TARGETS)
    torch.manual_seed(0)
    model = task.model(*task.source)
    starts.randomise(model, fan_in=True)
    train(model, data_of(task.load, "cpu"), 40, 0, 3e-3, watch=False)
    state = model.state_dict()

    def source() -> nn.Module:
        fresh = task.model(*task.source)
        fresh.load_state_dict(state)
        return fresh

    return task, source


def like(task: Task, size: Size, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    model = task.model(*size)
    starts.randomise(model, fan_in=False)
    return model


def loss(task: Task, model: nn.Module) -> float:
    inputs, labels = data_of(task.load, "cpu").held_out
    with torch.no_grad():
        return loss_of(model, inputs[:32], labels[:32]).item()


def test_every_start_fits_every_target(trained: tuple[Task, Callable[[], nn.Module]]) -> None:
    task, source = trained
    data = data_of(task.load, "cpu")
    for size in TARGETS.values():
        for name, start in starts.STARTS.items():
            if start.fits(task.source, size):
                model = like(task, size)
                before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
                made = start.make(source(), model, 1, data)
                model.load_state_dict(made)
                assert math.isfinite(loss(task, model)), (name, size)
                if name != "random":
                    assert any(not made[key].equal(before[key]) for key in before), (name, size)


def test_growing_keeps_the_function(trained: tuple[Task, Callable[[], nn.Module]]) -> None:
    task, source = trained
    wanted = loss(task, source())
    for name, size in (("net2net", Size(3, 32)), ("aligned", Size(2, 48))):
        model = like(task, size)
        model.load_state_dict(starts.STARTS[name].make(source(), model, 1, data_of(task.load, "cpu")))
        assert loss(task, model) == pytest.approx(wanted, rel=1e-4), name
    doubled = like(task, Size(2, 64))
    doubled.load_state_dict(starts.STARTS["net2net"].make(source(), doubled, 1, data_of(task.load, "cpu")))
    assert loss(task, doubled) == pytest.approx(wanted, rel=0.02)  # but for its noise


def test_controls(trained: tuple[Task, Callable[[], nn.Module]]) -> None:
    task, source = trained
    data = data_of(task.load, "cpu")
    for name, same in (("random axes", True), ("shuffled, aligned", False)):  # of the source's own size
        model = like(task, task.source)
        model.load_state_dict(starts.STARTS[name].make(source(), model, 1, data))
        assert (loss(task, model) == pytest.approx(loss(task, source()), rel=1e-4)) is same
    for name, tensor in starts.shuffled(source().state_dict(), 3).items():
        assert tensor.flatten().sort().values.equal(source().state_dict()[name].flatten().sort().values)


def test_selection_and_corner_take_whole_units() -> None:
    x, own = torch.arange(96.0)[:, None] * torch.ones(1, 4), torch.full((48, 2), -1.0)
    axes = rivals.Axis(16, 3), rivals.Axis()  # packed heads, two before and one after
    assert rivals.chosen(rivals.even, x, own, axes)[:, 0].tolist() == [*range(16), *range(32, 48), *range(64, 80)]
    grown = rivals.chosen(rivals.first, own, -x, axes)
    assert grown[:16, :2].eq(-1).all()
    assert grown[16:32].equal(-x[16:32])
    assert rivals.even_layers(6, 3) == [(0, False), (2, False), (5, False)]
    assert rivals.even_layers(6, 8) == [(i, False) for i in (0, 0, 1, 2, 3, 3, 4, 5)]
    assert rivals.silent_layers(2, 3) == [(0, False), (0, True), (1, False)]


def tiny(monkeypatch: pytest.MonkeyPatch, base: Task = VISION) -> Task:
    task = dataclasses.replace(
        base, name="tiny", source=Size(2, 32), source_steps=10, refine_steps=2, targets=SMALL, steps=6
    )
    monkeypatch.setitem(TASKS, "tiny", task)
    return task


def work(stage: jobs.Stage, folder: Path, until: float = math.inf, stack: int = 1) -> tuple[bool, list[str]]:
    said: list[str] = []
    with ThreadPoolExecutor(1) as thread:
        whole = pool.run(
            [stage], folder / "proof.csv", folder / "sources", thread,
            only=lambda job: True, device="cpu", workers=1, stack=stack, until=until, say=said.append,
        )  # fmt: skip
    return whole, said


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)
    first = Job("tiny", "narrower and shallower", "FRONT+", 0, 1e-3)
    both = [first, dataclasses.replace(first, start="random", seed=1)]

    def stage(rows: Sequence[measures.Row]) -> Iterator[Job]:
        yield from both

    assert work(stage, tmp_path, until=0.0) == (False, [])
    whole, said = work(lambda rows: iter([first]), tmp_path)
    assert whole, said
    assert said[:2] == ["source of tiny", "source of tiny, refined"]
    whole, said = work(stage, tmp_path, stack=4)
    assert whole, said
    assert len(said) == 1
    assert said[0].startswith("1/1 tiny, narrower and shallower: random, seed 1, lr 0.001: 0:")
    rows = ledger.read(tmp_path / "proof.csv")
    assert [row["start"] for row in rows] == ["FRONT+", "random"]
    assert list(measures.curve_of(rows[0])) == [0, 5, 6]
    assert float(rows[0]["other flops"]) == 2 * VISION.flops(2, 32)
    assert float(rows[1]["other flops"]) == 0
    assert rows[0]["source id"] != rows[1]["source id"]


@pytest.mark.parametrize("column", ["data", "origin"])
def test_rows_of_other_data_or_another_source_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    tiny(monkeypatch)
    one = Job("tiny", "narrower and shallower", "random", 0, 1e-3)
    seen: list[int] = []

    def stage(rows: Sequence[measures.Row]) -> Iterator[Job]:
        seen.append(len(rows))
        yield one

    assert work(stage, tmp_path)[0]
    assert work(stage, tmp_path) == (True, [])
    assert seen == [0, 0, 0, 1]  # stages are asked which sources they need, then for jobs
    rows = ledger.read(tmp_path / "proof.csv")
    assert rows[0]["origin"] == rows[0]["source id"]
    (tmp_path / "proof.csv").unlink()
    ledger.append([rows[0] | {column: "another"}], tmp_path / "proof.csv")
    whole, said = work(stage, tmp_path)
    assert whole, said
    assert len(said) == 1
    assert seen[4:] == [0, 0]
    both = ledger.read(tmp_path / "proof.csv")
    assert [row[column] for row in both] == ["another", rows[0][column]]


def test_the_validation_set_is_part_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fewer(vision.Digits):
        def __init__(self) -> None:
            super().__init__()
            self.held_out = self.held_out[0][1:], self.held_out[1][1:]

    task = tiny(monkeypatch)
    fewer = dataclasses.replace(task, load=Fewer)
    sources.prepare(task, tmp_path, False, "cpu")
    ours, other = sources.lineage(task, tmp_path), sources.lineage(fewer, tmp_path)
    assert ours["origin"] == other["origin"]
    assert ours["data"] != other["data"]


def test_a_job_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)
    monkeypatch.setitem(starts.STARTS, "broken", starts.Start(lambda *_: {}))
    one = Job("tiny", "narrower and shallower", "broken", 0, 1e-3)
    whole, said = work(lambda rows: iter([one, dataclasses.replace(one, start="random")]), tmp_path)
    assert not whole
    assert "broken, seed 0, lr 0.001 failed: RuntimeError" in said[1]
    assert [row["start"] for row in ledger.read(tmp_path / "proof.csv")] == ["random"]


def test_a_task_whose_data_are_not_there_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)

    def gone() -> vision.Digits:
        raise FileNotFoundError("no digits")

    monkeypatch.setitem(TASKS, "gone", dataclasses.replace(VISION, name="gone", load=gone))
    pair = [Job(name, "narrower and shallower", "random", 0, 1e-3) for name in ("gone", "tiny")]
    whole, said = work(lambda rows: iter(pair), tmp_path)
    assert not whole
    assert said[0] == "gone failed: FileNotFoundError: no digits"
    assert [row["task"] for row in ledger.read(tmp_path / "proof.csv")] == ["tiny"]


def test_other_tasks_do_without_tokenizers() -> None:
    program = "import sys; sys.modules['tokenizers'] = None; import experiments.__main__"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("base", [LANGUAGE, VISION], ids=lambda task: task.name)
def test_a_stack_has_the_curves_of_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Task) -> None:
    task = tiny(monkeypatch, base)
    sources.prepare(task, tmp_path, False, "cpu")
    one = Job("tiny", "narrower and shallower", "paper", 1, 3e-3)
    three = [one, dataclasses.replace(one, start="random"), dataclasses.replace(one, seed=2)]
    apart = [measures.curve_of(jobs.run([job], tmp_path, "cpu")[0]) for job in three]
    again = [measures.curve_of(jobs.run([job], tmp_path, "cpu")[0]) for job in three]
    together = [measures.curve_of(row) for row in jobs.run(three, tmp_path, "cpu")]
    assert apart == again
    assert len({curve[6] for curve in apart}) == 3
    for a, b in zip(apart, together, strict=True):
        assert a == pytest.approx(b, abs=2e-4)


def test_a_short_run_is_the_beginning_of_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in (LANGUAGE, VISION):
        task = dataclasses.replace(tiny(monkeypatch, base), steps=100)  # vision: more than an epoch
        monkeypatch.setitem(TASKS, "tiny", task)
        sources.prepare(task, tmp_path, False, "cpu")
        one = Job("tiny", "narrower and shallower", "paper", 1, 3e-3)
        whole, short = (
            measures.curve_of(jobs.run([dataclasses.replace(one, short=short)], tmp_path, "cpu")[0])
            for short in (False, True)
        )
        assert list(short) == [0, 5, 10, 15, 20]
        assert short == {step: whole[step] for step in short}
        several = [dataclasses.replace(one, short=True), dataclasses.replace(one, short=True, seed=2)]
        together = measures.curve_of(jobs.run(several, tmp_path, "cpu")[0])
        assert together == pytest.approx(short, abs=2e-4)


def test_units() -> None:
    one = Job("language", "narrower", "paper", 0, 1e-3)
    other, plus, seed, short = (
        dataclasses.replace(one, **change)
        for change in ({"lr": 3e-3}, {"start": "FRONT+"}, {"seed": 1}, {"short": True})
    )
    assert pool.units([one, other, plus, seed, short], 8) == [[one, seed], [other], [plus], [short]]
    assert pool.units([one, other, plus, seed], 1) == [[one], [other], [plus], [seed]]


def test_validations() -> None:
    assert [step for step in range(78) if validated(step, 77)] == [*range(0, 50, 5), 50, 60, 70, 77]
