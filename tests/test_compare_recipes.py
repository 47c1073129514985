"""compare(): what two recipes keep, beside white noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import front_models
import models
from command import assert_error
from front_models._cli import main
from test_align import trained, vit
from test_transfer_residual import low_rank


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_white_noise_nothing_is_gained(seed: int) -> None:
    torch.manual_seed(seed)
    white = {name: torch.randn(shape) for name, shape in models.vit(64, 4).items()}
    report = front_models.compare(white, {n: torch.zeros(s) for n, s in models.vit(32, 2).items()})
    assert report.paper_gain == pytest.approx(0, abs=0.01)
    assert report.aligned_gain == pytest.approx(0, abs=0.02)
    assert report.recommended == "neither"
    assert report.reason.startswith("neither: of what white noise would lose the aligned recipe keeps ")
    assert "-0.00" not in report.reason
    qkv = next(row for row in report.rows if row.role == "blocks.{}.attn.qkv.weight")
    assert qkv.paper_white == pytest.approx(1 / 8)
    assert qkv.paper == pytest.approx(1 / 8, abs=0.01)
    assert qkv.aligned_white is not None
    assert qkv.aligned_white > 1 / 4 + 0.05  # the largest of equal directions and heads are above the mean
    assert qkv.aligned == pytest.approx(qkv.aligned_white, abs=0.03)
    assert qkv.elements == 4 * 3 * 64 * 64


@pytest.mark.parametrize(
    ("source", "like"),
    [
        (vit(64, 3, 128), vit(48, 2, 96)),
        (models.gpt2(32), models.gpt2(16, heads=1)),
        (models.bert(32, heads=4), models.bert()),
    ],
    ids=["vit", "gpt2", "bert"],
)
def test_of_a_source_that_is_not_trained_nothing_is_gained(source: nn.Module, like: nn.Module) -> None:
    """Its norms are no noise, and keep what they are; GPT-2's head shares the embedding."""
    report = front_models.compare(source, like)
    assert report.aligned_gain == pytest.approx(0, abs=0.02)
    assert report.recommended == "neither"


def test_comparing_twice_gives_the_same() -> None:
    source, like = trained(vit(32, 2, 64)), vit(16, 2, 32)
    state = torch.get_rng_state()
    assert front_models.compare(source, like) == front_models.compare(source, like)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_of_few_directions_speaks_for_alignment() -> None:
    source = low_rank(trained(vit(64, 3, 64)), 8)
    report = front_models.compare(source, vit(32, 3, 64))
    assert report.recommended == "aligned"
    assert report.aligned_gain is not None
    assert report.paper_gain is not None
    assert report.aligned_gain > report.paper_gain + 0.3
    assert report.reason.startswith("aligned: of what white noise would lose")


def test_smooth_weights_of_an_unknown_architecture_leave_the_papers_recipe() -> None:
    ramp = torch.linspace(0, 1, 32)
    source = {f"layers.{i}.weight": torch.outer(ramp, ramp + i) for i in range(3)}
    report = front_models.compare(source, {f"layers.{i}.weight": torch.zeros(16, 16) for i in range(3)})
    assert report.recommended == "paper"
    assert "cannot be applied" in report.reason
    assert report.aligned_gain is None
    assert report.paper_gain == pytest.approx(1, abs=0.02)
    assert all(row.aligned is None for row in report.rows)


def test_a_target_that_is_only_shallower_takes_whole_layers() -> None:
    report = front_models.compare(trained(vit(32, 4, 64)), vit(32, 2, 64))
    assert report.aligned_gain is None
    assert report.paper_gain is not None
    assert report.recommended == "aligned"
    assert report.reason.startswith("aligned: it takes whole layers and cuts nothing in them; of what white noise")


def test_a_target_of_one_layer_has_the_same_rows_in_both_recipes() -> None:
    report = front_models.compare(trained(vit(32, 3, 64)), vit(16, 1, 32))
    assert all(row.aligned is not None and row.paper is not None for row in report.rows if row.elements)
    assert "vit.layers.{}.mlp.fc1.weight" in {row.role for row in report.rows}


def test_a_wider_target_loses_nothing() -> None:
    report = front_models.compare(trained(vit(32, 2, 64)), vit(48, 2, 96))
    assert (report.paper_gain, report.aligned_gain, report.recommended) == (None, None, "aligned")
    assert report.reason == (
        "aligned: the target is nowhere smaller, and it leaves out none of the source's layers, heads and units"
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dim in (("big", 32), ("small", 16)):
        state = {key: torch.randn(shape) for key, shape in models.vit(dim, 2).items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    arguments = ["compare", str(tmp_path / "big.safetensors"), "--like", str(tmp_path / "small.safetensors")]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recommended"] in ("paper", "aligned", "neither")
    assert len(document["rows"]) == 20
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "blocks.{}.attn.qkv.weight" in out
    assert document["reason"][:20] in out
    assert_error(capsys, main([*arguments[:2], "--like", str(tmp_path / "none.safetensors")]), 1, "none.safetensors")
    assert main([*arguments, "--json", "--heads", "4"]) == 0
    other = json.loads(capsys.readouterr().out)  # heads of another size are chosen by other norms
    assert [row["paper"] for row in other["rows"]] == [row["paper"] for row in document["rows"]]
    assert [row["aligned"] for row in other["rows"]] != [row["aligned"] for row in document["rows"]]
    assert_error(capsys, main([*arguments, "--heads", "3"]), 1, "heads")
