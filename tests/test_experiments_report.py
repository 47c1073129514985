"""What the ledger's rows of the experiments say: measures, orderings, the report."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import check, jobs, measures, report, starts, words
from experiments.tasks import LANGUAGE, VISION
from front_kernels.bench import ledger


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


def test_short_runs_choose_and_are_not_compared_with_whole_ones(tmp_path: Path) -> None:
    short = [
        row(start, f"0:3.0 5:{last}", lr=lr) | {"steps": "5"}
        for start, losses in {
            "paper": (1.0, 2.0, 3.0),
            "selection": (1.5, 2.0, 3.0),
            "bilinear": (2.0, 1.9, 3.0),
        }.items()
        for lr, last in zip(VISION.rates, losses, strict=True)
    ]
    whole = [row("random", f"0:3.0 20:{last}", lr=lr) for lr, last in zip(VISION.rates, (1.0, 0.9, 0.8), strict=True)]
    rows = [*short, *whole]
    assert measures.best(rows, "vision", "narrower", starts.RIVALS, 1) == ["selection"]
    assert measures.tuned(rows, "vision", "bilinear", VISION.rates) == 3e-3
    rows.append(row("bilinear", "0:3.0 20:0.1"))  # of most there are short runs only
    assert measures.best(rows, "vision", "narrower", starts.RIVALS, 1) == ["selection"]
    _, runs = measures.measured(rows, "vision", "narrower", VISION.rates)
    assert [(run.start, run.lr) for run in runs] == [("random", 1e-2), ("bilinear", 3e-3)]
    later = [row("paper", f"0:3.0 20:{last}", lr=lr) for lr, last in zip(VISION.rates, (1.0, 0.5, 0.7), strict=True)]
    assert measures.tuned([*rows, *later], "vision", "paper", VISION.rates) == 3e-3
    text = report.write(rows, tmp_path).read_text()
    assert "| vision | narrower | bilinear | 5 | 2.000 | 1.900 * | 3.000 | 2.450 |" in text
    assert "| vision | narrower | random | 20 | 1.000 | 0.900 | 0.800 * | 1.900 |" in text
    assert "| selection | 1 |" not in text
    assert "lower at another rate" not in text
    assert "- vision at 0.001: paper; selection\n" in text
    text = report.write([*rows, *later], tmp_path).read_text()
    assert "- vision at 0.001: selection\n" in text  # paper is at 0.003 by its whole runs
    assert "- vision (narrower 7): a CPU" in text  # rows that tables are of


def test_finalists_stay_what_they_are_while_they_are_run() -> None:
    short = [row("paper", "0:3.0 5:2.0"), row("paper, ortho, split", "0:3.0 5:1.0")]
    rows = [r | {"steps": "5"} for r in short]
    assert measures.best(rows, "vision", "narrower", starts.PAPER, 1) == ["paper, ortho, split"]
    rows += [row("paper", "0:3.0 20:0.1"), row("paper, ortho, split", "0:3.0 20:0.2")]
    assert measures.best(rows, "vision", "narrower", starts.PAPER, 1) == ["paper, ortho, split"]


def test_whole_runs_say_which_source_a_table_is_of() -> None:
    short = [row("paper", "0:3.0 5:2.0", lr=lr) | {"steps": "5", "origin": "other"} for lr in VISION.rates]
    whole = [row("random", "0:3.0 20:1.0"), row("paper", "0:3.0 20:0.5")]
    assert measures.comparable([*short, *whole]) == whole
    assert len(measures.measured([*short, *whole], "vision", "narrower", VISION.rates)[1]) == 2


def test_the_proof_screens_by_short_runs_and_compares_whole_ones() -> None:
    randoms, screened, finalists = (list(stage(())) for stage in jobs.SETS["proof"])
    assert {job.start for job in randoms} == set(starts.RANDOM)
    assert {job.start for job in [*randoms, *screened]} == set(starts.STARTS)
    assert all(job.short for job in screened)
    assert not any(job.short for job in [*randoms, *finalists])
    assert not any(job.short for stage in jobs.SETS["full"] for job in stage(()))
    assert {job.steps for job in screened} == {80, 60, 20}
    assert str(screened[0]).endswith(", lr 0.001, 80 steps")


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


def test_every_start_is_explained_once() -> None:
    assert set(words.STARTS_SAY) == set(starts.STARTS)
    results = (Path(__file__).parent.parent / "docs" / "RESULTS.md").read_text()
    for name in ("aligned", "paper", "corner, first layers", "shuffled, aligned"):
        assert results.count(f"| {name} | {words.STARTS_SAY[name]} |\n") == 1
