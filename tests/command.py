"""What the tests of the command line share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

TRANSFER = ["transfer", "source.safetensors", "--like", "like.safetensors", "-o"]


def default_interrupts() -> None:
    """For `preexec_fn`: a background job's children inherit ignored signals, and so would the command under test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def assert_error(capsys: pytest.CaptureFixture[str], code: int, expected_code: int, message: str) -> None:
    """The command failed with one line on stderr that says this, and said nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("front: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert code == expected_code


def mlp(width: int, layers: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (2 * width, width), "fc1.bias": (2 * width,), "fc2.weight": (width, 2 * width)}
    weights = {
        f"blocks.{i}.mlp.{name}": torch.randn(shape, generator=generator)
        for i in range(layers)
        for name, shape in shapes.items()
    }
    return {**weights, "extra.weight": torch.randn(3, width, generator=generator)}


def folder_of_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, made the current one, with source.safetensors and like.safetensors."""
    source = mlp(8, 2, seed=1)
    del source["extra.weight"]
    save_file(source, folder / "source.safetensors")
    save_file(mlp(6, 3, seed=2), folder / "like.safetensors")
    monkeypatch.chdir(folder)
    return folder
