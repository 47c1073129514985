"""The experiments, small: every start fits every target, what is finished is not done again, the report says what the
ledger holds."""

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
from click.testing import CliRunner
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import check, jobs, measures, pool, report, rivals, sources, starts, vision
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


def test_units() -> None:
    one = Job("language", "narrower", "paper", 0, 1e-3)
    other, plus, seed = (
        dataclasses.replace(one, **change) for change in ({"lr": 3e-3}, {"start": "FRONT+"}, {"seed": 1})
    )
    assert pool.units([one, other, plus, seed], 8) == [[one, seed], [other], [plus]]
    assert pool.units([one, other, plus, seed], 1) == [[one], [other], [plus], [seed]]


def test_validations() -> None:
    assert [step for step in range(78) if validated(step, 77)] == [*range(0, 50, 5), 50, 60, 70, 77]


def row(start: str, curve: str, *, seed: int = 0, lr: float = 3e-3, other: float = 0.0) -> dict[str, str]:
    return {
        "task": "vision", "relation": "narrower", "start": start, "seed": str(seed), "lr": str(lr), "steps": "20",
        "flops per step": "10.0", "other flops": str(other), "curve": curve, "source": "6x96", "target": "6x64",
        "source loss": "0.1", "source accuracy": "0.98", "device": "a CPU", "python": "3.12", "torch": "2",
        "commit": "c", "date": "d", "data": "ours", "origin": "s",
    }  # fmt: skip


FIXTURE = [
    row("random", "0:3.0 10:2.5 20:2.0"),
    row("random, fan-in", "0:3.0 10:1.0 20:1.0"),
    row("paper", "0:3.0 5:2.0 10:1.5 20:0.5"),
    row("aligned", "0:0.9 10:0.5 20:0.4"),
    row("FRONT+", "0:2.0 5:1.0 20:0.3", other=50.0),
    row("selection", "0:2.0 10:1.8 20:1.1"),
    row("bilinear", "0:50.0 5:nan"),
]


def test_a_random_start_that_learns_nothing_is_no_goal() -> None:
    """Its last loss is met before the first step, by everything."""
    rows = [
        *FIXTURE,
        row("random", "0:2.3 10:2.2 20:2.4", seed=1),
        row("random, fan-in", "0:3.0 10:1.5 20:1.0", seed=1),
    ]
    rows.append(row("paper", "0:3.0 10:2.0 20:0.5", seed=1))
    _, runs = measures.measured(rows, "vision", "narrower", VISION.rates)
    paper = measures.summaries(runs)["paper"]
    assert (paper.seeds, paper.usual, paper.usual_steps) == (2, [20 / 5], [5])
    alone = [row("random", "0:2.3 10:2.2 20:2.4"), row("paper", "0:3.0 10:2.0 20:0.5")]
    reference, runs = measures.measured(alone, "vision", "narrower", VISION.rates)
    assert reference == "random"
    assert measures.summaries(runs)["random"].share == 1
    assert measures.summaries(runs)["paper"].usual == []


def test_measures() -> None:
    reference, runs = measures.measured(FIXTURE, "vision", "narrower", VISION.rates)
    assert reference == "random, fan-in"  # the better of the two, which reaches its last loss after 10 steps
    by_start = {run.start: run for run in runs}
    assert by_start["paper"].steps == 20
    assert by_start["paper"].step_ratio == 0.5
    assert by_start["paper"].usual_ratio == 20 / 5
    assert by_start["paper"].area == pytest.approx((2.5 * 5 + 1.75 * 5 + 10) / 20)
    assert by_start["aligned"].step_ratio == 2  # 0 steps count as 5
    assert by_start["FRONT+"].flop_ratio == 10 / (5 + 5)
    assert by_start["FRONT+"].equal == pytest.approx(0.3 + 0.7 / 3)  # 5 steps of 20 are refinement's
    assert by_start["selection"].step_ratio is None
    assert by_start["bilinear"].area == math.inf
    best = measures.best(FIXTURE, "vision", "narrower", ["selection", "bilinear", "aligned"], 2)
    assert best == ["aligned", "selection"]


def test_rates_are_chosen_where_all_were_tried() -> None:
    rows = [row("paper", f"0:3.0 20:{last}", lr=lr) for lr, last in ((1e-3, 1.0), (3e-3, math.nan), (1e-2, 0.5))]
    assert measures.tuned(rows[:2], "vision", "paper", VISION.rates) is None
    assert measures.tuned(rows, "vision", "paper", VISION.rates) == 1e-2
    planned = [job for stage in jobs.SETS["proof"] for job in stage(rows)]
    assert {job.lr for job in planned if (job.task, job.start, job.seed) == ("vision", "paper", 2)} == {1e-2}
    others = {job.lr for job in planned if (job.task, job.start, job.seed) == ("language", "paper", 2)}
    assert others == {LANGUAGE.rates[1]}
    assert planned[0].relation == "narrower and shallower"


def test_orderings() -> None:
    rows = [
        row(start, f"0:{loss} 20:{loss}") | {"task": f"{task}, quick", "relation": relation}
        for task in ("language", "vision")
        for relation in check.BETTER
        for start, loss in {
            "random": 4, "random, fan-in": 5, "paper": 2, "aligned": 1, "stacking": 1, "selection": 3,
            "random axes": 2, "shuffled, aligned": 4, "residual axis, not aligned": 2.2,
        }.items()
    ]  # fmt: skip
    assert check.broken(rows, 1) == []
    rows[5] |= {"curve": "0:1.0 20:1.0"}
    first = "language, quick, narrower and shallower, seed 0"
    assert check.broken(rows, 1) == [f"{first}: mean loss 1.000 of aligned is not below 1.000 of selection"]
    assert check.broken(rows[4:], 1)[0] == f"{first}: aligned or random was not run"
    rows[5] |= {"curve": "0:3.0 20:3.0"}
    rows[7] |= {"curve": "0:3.3 20:3.3"}
    rows[6] |= {"curve": "0:1.5 20:1.5"}
    shuffled, axes = check.broken(rows, 1)
    assert shuffled.startswith("language, quick: mean loss 3.300 of shuffled, aligned is below 4.000 of random by more")
    assert axes.startswith(
        "language, quick: mean loss 1.500 of random axes is below 2.200 of residual axis, not aligned"
    )


def test_the_report_speaks_of_what_has_rows(tmp_path: Path) -> None:
    rates = [row("paper", f"0:3.0 20:{last}", lr=lr) for lr, last in ((1e-3, 1.0), (3e-3, 0.9), (1e-2, 0.5))]
    rows = [row("random", "0:3.0 20:1.0"), *rates, *(r | {"start": "selection"} for r in rates[:2]), rates[0]]
    text = report.write(rows, tmp_path).read_text()
    for absent in ("Controls are last", "FRONT+'s refinement", "its variants and FRONT+", "**language**", "**minilm**"):
        assert absent not in text, absent
    assert "might be better still:\n\n- vision at 0.01: paper\n" in text
    assert "(vision 0.001, 0.003, 0.01)" in text
    assert "the table's: selection, seed 0: 0.900 at 0.003, 1.000 at 0.001.\n" in text  # its rate was not tuned
    other = {"relation": "wider", "target": "6x144"}
    more = [r | other for r in (row("random", "0:3.0 20:1.0"), *rates, row("paper", "0:3.0 20:0.4"))]
    assert ": paper, seed 0: 0.400 at 0.003, 0.500 at 0.01.\n" in report.write([*rows, *more], tmp_path).read_text()
    more = [*rows, row("FRONT+", "0:3.0 20:0.5"), row("shuffled, paper", "0:3.0 20:0.5")]
    more += [row("random", "0:9.0 20:6.0", lr=3e-4) | {"task": "minilm", "target": "6x192"}]
    text = report.write(more, tmp_path).read_text()
    for there in (
        "Controls are last", "Counted, too: FRONT+'s refinement of the source. ", "its variants and FRONT+",
        "trained for 300 steps", "(vision 0.001, 0.003, 0.01; minilm 0.0003, 0.001, 0.003)",
    ):  # fmt: skip
        assert there in text, there


def test_rows_of_other_data_are_in_no_table(tmp_path: Path) -> None:
    rows = [*FIXTURE, row("aligned", "0:0.1 20:0.1", seed=1) | {"data": ""}, row("random", "0:0.1 20:0.1", seed=1)]
    rows[-1] |= {"origin": "t"}
    assert measures.comparable(rows) == FIXTURE
    assert report.write(rows[::-1], tmp_path).read_text().count("are in the ledger and in no table") == 2
    text = report.write(rows, tmp_path).read_text()
    assert "- vision: 1 rows of data not recorded, source s, are in the ledger and in no table" in text
    assert "- vision: 1 rows of data ours, source t, are in the ledger and in no table" in text
    assert "| aligned | 1 | 0.003 | 0.900 |" in text
    another = [row("random", "0:0.1 20:0.1") | {"relation": "wider", "data": "theirs"}]
    assert measures.comparable([*FIXTURE, *another]) == [*FIXTURE, *another]  # of another target


def test_a_source_that_has_fewer_rows_is_named_and_can_be_asked_for(tmp_path: Path) -> None:
    own = [each | {"origin": "own"} for each in FIXTURE[:-1]]
    path = tmp_path / "proof.csv"
    ledger.append([*FIXTURE, *own], path)
    run = CliRunner().invoke(report.main, [str(path), "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert f"vision: {len(own)} rows of source own are in no table; --origin own --out FOLDER is for them" in run.output
    run = CliRunner().invoke(report.main, [str(path), "--out", str(tmp_path), "--origin", "own"])
    assert run.exit_code == 0, run.output
    assert "no table" not in run.output
    assert "source 6x96, own, loss" in (tmp_path / "RESULTS.md").read_text()
    run = CliRunner().invoke(report.main, [str(path), "--out", str(tmp_path), "--origin", "other"])
    assert run.exit_code == 2
    assert CliRunner().invoke(report.main, ["--origin", "s"]).exit_code == 2  # it would replace docs/RESULTS.md
    assert "--origin: got other, of which the ledger has no rows" in run.output


def test_rates_are_tuned_with_the_same_source() -> None:
    """Another source's rates say nothing, though the target that they were tuned on is of that one."""
    rates = [row("paper", f"0:3.0 20:{last}", lr=lr) for lr, last in ((1e-3, 1.0), (3e-3, 0.9), (1e-2, 0.5))]
    wider = [r | {"relation": "wider", "target": "6x144"} for r in (row("random", "0:3.0 20:1.0"), *rates)]
    another = [r | {"origin": "t", "curve": "0:3.0 20:0.1"} for r in rates[:1]]
    another += [
        r | {"origin": "t"} for r in (row("random", "0:3.0 20:1.0", seed=1), row("random", "0:3.0 20:1.0"), *rates[1:])
    ]
    _, runs = measures.measured([*another, *rates, *wider], "vision", "wider", VISION.rates)
    assert [run.lr for run in runs if run.start == "paper"] == [1e-2]


def test_the_readmes_table_is_the_ledgers() -> None:
    root = Path(__file__).parent.parent
    rows, readme = ledger.read(root / "experiments/results/proof.csv"), (root / "README.md").read_text()
    assert ledger.between_markers(readme, "starts table", report.worth(report.find(rows))) == readme
    with pytest.raises(ValueError, match="lacks the lines <!-- other: begin --> and <!-- other: end -->"):
        ledger.between_markers(readme, "other", "")


def test_report(tmp_path: Path) -> None:
    text = report.write([*FIXTURE, row("aligned", "0:0.9 10:0.5 20:0.6", seed=1)], tmp_path).read_text()
    assert "| vision, narrower (6x96 to 6x64) | aligned, ≥ 2.0 |" in text  # its other seed has no reference
    assert "| paper | 1 | 0.003 | 3.000 | 20 | 0.5 | 4.0 | 200 % |" in text
    assert "| selection | 1 | 0.003 | 2.000 | - | - | ≥ 4.0 | - | 1.675 | 1.100 |" in text
    assert "vision, the paper's recipe: reached for 1 of 1 targets; at best 0.5 times faster" in text
    assert (tmp_path / "pictures" / "vision-narrower.png").stat().st_size > 1000
