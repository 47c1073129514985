"""The experiment, small: every start is filled and trained alike, and what is printed is what the ledger holds."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import language

SMALL = ["--source", "2", "32", "--target", "1", "16", "--source-steps", "40", "--steps", "12", "--every", "4"]


def test_a_run_and_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / "results" / "language.csv"
    for _ in range(2):
        result = CliRunner().invoke(language.main, [*SMALL, "--ledger", str(path)])
        assert result.exit_code == 0, result.output
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["start"] for row in rows] == list(language.RECIPES) * 2
    for first, again in zip(rows[:6], rows[6:], strict=True):  # the same seed: the same curves
        assert first == again
    losses = {row["start"]: float(row["loss at 0"]) for row in rows[:6]}
    assert len(set(losses.values())) == 6
    assert losses["random"] == pytest.approx(5.55, abs=0.05)  # log 256
    assert losses["aligned"] < losses["random"] - 0.1
    assert all(f"{name:14} loss" in result.output for name in language.RECIPES)


def test_reached() -> None:
    curve = {0: 5.0, 4: 3.0, 8: 3.5, 12: 2.0}
    assert language.reached(curve, 3.0) == 4
    assert language.reached(curve, 2.5) == 12
    assert language.reached(curve, 1.0) is None


def test_starts_differ_in_nothing_but_their_weights() -> None:
    data, validation = language.texts()
    held_out = language.batch(validation, 4, torch.Generator().manual_seed(1))
    curves = []
    for _ in range(2):
        torch.manual_seed(5)
        curves.append(language.train(language.Gpt(1, 16), data, held_out, 3, 1, seed=2))
    assert curves[0] == curves[1]
    assert list(curves[0]) == [0, 1, 2, 3]


def test_widths_that_heads_do_not_divide() -> None:
    result = CliRunner().invoke(language.main, ["--source", "2", "40"])
    assert result.exit_code == 2
    assert "--source: got 2 40; allowed are 1 layer and more, widths that 16 divides" in result.output
