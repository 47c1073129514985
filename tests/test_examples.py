"""The examples, as a user runs them, for a few steps."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

EXAMPLES = Path(__file__).parent.parent / "examples"


def output(name: str, *arguments: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_there_is_a_test_for_every_example() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"refine_pytorch", "refine_hf_trainer", "refine_lightning"}


def test_plain_pytorch() -> None:
    found = re.findall(r"step \d+: task loss ([\d.]+), energy above the corner ([\d.]+)", output("refine_pytorch"))
    (loss, share), (last_loss, last_share) = ((float(a), float(b)) for a, b in found)
    assert last_loss < 0.8 * loss
    assert last_share < 0.9 * share


@pytest.mark.parametrize(("name", "package"), [("refine_hf_trainer", "accelerate"), ("refine_lightning", "lightning")])
def test_callbacks(name: str, package: str) -> None:
    """One call per optimizer step, two micro-batches each, and the share falls."""
    pytest.importorskip(package, reason=f"{package} is not installed (pip install '.[examples]')")
    text = output(name, "--steps", "12")
    first, last = map(float, re.search(r"above the corner: ([\d.]+) -> ([\d.]+)", text).groups())  # type: ignore[union-attr]
    assert last < first - 1e-3
    assert "penalty steps: 12" in text


def test_the_trainers_callback_clips_behind_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimizer sees is at most the limit, with a penalty whose gradient is above it."""
    pytest.importorskip("accelerate", reason="accelerate is not installed (pip install '.[examples]')")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    main = importlib.import_module("refine_hf_trainer").main.callback
    norms: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(nn.utils.get_total_norm(grads).item())

    hook = register_optimizer_step_pre_hook(look)
    try:
        main(steps=3, lam=1000.0)
    finally:
        hook.remove()
    assert norms == pytest.approx([1.0] * 3, rel=1e-3)
