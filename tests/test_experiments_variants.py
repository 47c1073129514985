"""Experiments of other widths and dtypes."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import jobs, report, tasks, training
from experiments.__main__ import main
from experiments.tasks import LANGUAGE, TASKS, VISION, Size, data_of
from test_experiments_report import row

WIDE = "language, width x2, bfloat16"


def test_a_variant_is_a_task_of_its_own() -> None:
    wide = TASKS[WIDE]
    assert wide == tasks.variant(LANGUAGE, 2, torch.bfloat16)
    assert (wide.name, wide.source, wide.targets["narrower"], wide.dtype) == (
        WIDE, Size(6, 192), Size(6, 128), torch.bfloat16,
    )  # fmt: skip
    assert tasks.variant(VISION, 1, torch.float32) == VISION
    assert TASKS["vision, quick, bfloat16"].steps == TASKS["vision, quick"].steps
    assert [tasks.base_of(name) for name in (WIDE, "vision, quick", "vision, quick, bfloat16")] == [
        "language", "vision, quick", "vision, quick",
    ]  # fmt: skip
    for name in ("speech", "speech, width x2", "language, float16"):
        with pytest.raises(KeyError):
            TASKS[name]
    with pytest.raises(ValueError, match="width: got 2 for minilm, whose trained source has its own; allowed is 1"):
        TASKS["minilm, width x2"]
    with pytest.raises(
        ValueError, match=r"got width 0 and torch\.float32; allowed are a whole number >= 1 and float32, "
    ):
        tasks.variant(VISION, 0, torch.float32)
    planned = {job.task for stage in jobs.sets({WIDE: wide}, {})["full"] for job in stage(())}
    assert planned == {WIDE}


def test_the_report_has_it_beside_the_others(tmp_path: Path) -> None:
    rows = [row(start, "0:3.0 20:1.0") | {"task": "language"} for start in ("random", "aligned")]
    rows += [each | {"task": WIDE, "target": "6x128"} for each in rows]
    text = report.write(rows, tmp_path).read_text()
    assert f"### {WIDE}, narrower: 6x192 to 6x128" in text
    assert f"| {WIDE}, narrower (6x192 to 6x128) |" in report.worth(report.find(rows))
    assert text.count("- **language**") == 1


@pytest.mark.parametrize("name", ["language, quick", "vision, quick"])
def test_products_in_bfloat16(name: str) -> None:
    task = TASKS[name]
    data = data_of(task.load, "cpu")
    curves = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = task.model(2, 32)
        together = training.train_together([model, model], data, 5, [0, 1], 1e-3, dtype)
        curves.append(training.train(model, data, 5, 0, 1e-3, dtype=dtype))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert together[0][5] == pytest.approx(curves[-1][5], rel=2e-2)
        assert math.isfinite(together[1][5])
    assert curves[0] != curves[1]
    assert curves[1][5] == pytest.approx(curves[0][5], rel=0.02)


def test_what_is_checked_is_the_usual_width_and_dtype(tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["--check", "--dtype", "bfloat16", "--out", str(tmp_path)])
    assert run.exit_code == 2
    assert "--check: what is known to hold was measured with --width 1 and --dtype float32" in run.output
