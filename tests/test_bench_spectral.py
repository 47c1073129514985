"""bench/spectral.py: what it verifies before it times, and its table of errors, with fewer matrices."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest
import torch

SHAPES = [(96, 64), (64, 192), (1, 96), (49, 33)]


@pytest.fixture
def spectral(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    module = importlib.import_module("spectral")
    monkeypatch.setattr(module, "deit_small", lambda: SHAPES)
    return module


def test_both_forms_agree_before_they_are_timed(spectral):
    row = spectral.compare(1)
    assert float(row["error"]) <= 1e-5
    assert row["front ms"] >= 0
    assert row["torch.fft ms"] > 0


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_wrong_results_are_not_timed(spectral, monkeypatch, wrong):
    right = spectral.ours

    def off(xs: list[torch.Tensor], grads: list[torch.Tensor]) -> torch.Tensor:
        loss = right(xs, grads)
        if wrong == "loss":
            return loss * 1.0001
        grads[0] *= 1.001
        return loss

    monkeypatch.setattr(spectral, "ours", off)
    with pytest.raises(click.ClickException, match="wrong results"):
        spectral.compare(1)


def test_errors_are_within_their_limits(spectral):
    rows = spectral.errors()
    assert [row["limit"] for row in rows] == list(spectral.SHARES.values())
    for row in rows:
        assert float(row["ratio"]) <= row["limit"], row
