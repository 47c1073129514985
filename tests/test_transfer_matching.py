"""Which tensor of the source each of a target comes from along the residual stream: by what it is, not by place."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import front_models
import models
from front_models import _moves
from test_align import trained
from test_transfer_residual import ALIGNED, PLAIN

BOTH = pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])


def actions(report: front_models.TransferReport) -> dict[str, str]:
    return {row.role: row.action for row in report.rows}


def without(state: dict[str, Tensor], *words: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not any(word in name for word in words)}


@pytest.mark.parametrize(("width", "options"), [(16, ALIGNED), (16, PLAIN), (12, PLAIN), (24, PLAIN)], ids=str)
def test_a_distilled_source_starts_a_plain_target_as_a_plain_one(width: int, options: dict[str, Any]) -> None:
    distilled = models.fill(models.vit(16, 3, distilled=True))
    plain = without(distilled, "dist")
    plain["pos_embed"] = distilled["pos_embed"][:, [0, *range(2, 18)]]
    like = models.fill(models.vit(width, 2), seed=1)
    state, report = front_models.transfer(distilled, like, **options)
    expected, _ = front_models.transfer(plain, like, **options)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert set(actions(report).values()) == {"transferred"}


@BOTH
def test_a_plain_source_leaves_a_distilled_target_its_own_token(options: dict[str, Any]) -> None:
    plain, like = models.fill(models.vit(16, 2)), models.fill(models.vit(16, 2, distilled=True), seed=1)
    state, report = front_models.transfer(plain, like, **options)
    assert torch.equal(state["dist_token"], like["dist_token"])
    assert torch.equal(state["head_dist.weight"], like["head_dist.weight"])
    assert torch.equal(state["pos_embed"][:, [0, *range(2, 18)]], plain["pos_embed"])
    assert not state["pos_embed"][:, 1].any()
    assert actions(report)["dist_token"] == actions(report)["head_dist.bias"] == "left: the source has no such role"


@BOTH
@pytest.mark.parametrize("width", [16, 8, 24])
def test_heads_come_from_heads_of_their_kind_alone(width: int, options: dict[str, Any]) -> None:
    import transformers

    pretrained = transformers.BertForPreTraining(models.bert().config)
    size = {"dim": width, "heads": width // 8}
    for source, like, left, taken in (
        (models.bert(), models.bert(**size, depth=2, head="mlm"), ("cls.predictions.transform.dense",), ()),
        (models.bert(head="mlm"), models.bert(**size, head="classify"), ("bert.pooler.dense", "classifier"), ()),
        (pretrained, models.bert(**size, head="classify", classes=2), ("classifier",), ("bert.pooler.dense",)),
        (models.bert(head="classify"), models.bert(**size), (), ("pooler.dense",)),
    ):
        state, report = front_models.transfer(trained(source), like, **options)
        for name in left:
            assert torch.equal(state[f"{name}.weight"], like.state_dict()[f"{name}.weight"])
            assert actions(report)[f"{name}.weight"] == "left: the source has no such role"
        for name in taken:
            assert actions(report)[f"{name}.weight"] == "transferred"


def saved(folder: Path, model: nn.Module, *left_out: str) -> Path:
    """As Hugging Face saves it: without the head that shares the embedding's tensor."""
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in without(model.state_dict(), *left_out).items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_diff_dict()))
    return folder


def wider_llama() -> nn.Module:
    """Of heads as long as those of `models.llama`."""
    import transformers

    config = models.llama(tied=True).config.to_dict()
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 72}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **sizes, "num_hidden_layers": 2}))


TIED = {
    "gpt2": (models.gpt2, lambda: models.gpt2(16, 2), (2, 2)),
    "gpt2, wider": (models.gpt2, lambda: models.gpt2(32, 2, heads=4), (2, 2)),
    "llama": (lambda: models.llama(tied=True), lambda: models.llama(depth=2, tied=True), (4, 2)),
    "llama, wider": (lambda: models.llama(tied=True), wider_llama, (4, 2)),
}


@BOTH
@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_that_a_file_leaves_out_counts(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    make, make_like, heads = TIED[name]
    source, like = trained(make()), make_like()
    expected, _ = front_models.transfer(source, like, **options)
    folder = saved(tmp_path / "source", source, "lm_head")
    headless = without(dict(source.state_dict()), "lm_head")
    for given, more in ((folder, {}), (folder / "model.safetensors", {}), (headless, {"heads": heads})):
        state, report = front_models.transfer(given, like, **options, **more)
        for each, tensor in expected.items():
            assert torch.equal(state[each], tensor), each
        assert all("was taken for" in note for note in report.notes)
        assert len(report.notes) == (given is headless)
    state, _ = front_models.transfer(folder, without(dict(like.state_dict()), "lm_head"), **options)
    for each, tensor in state.items():
        assert torch.equal(tensor, expected[each]), each


def test_a_model_that_ties_nothing_and_has_no_head_is_no_language_model(tmp_path: Path) -> None:
    source, like = trained(models.llama()), wider_llama()
    folder = saved(tmp_path / "source", source, "lm_head")
    state, report = front_models.transfer(folder, like, **ALIGNED)
    assert report.notes == (
        "no head but a pooler reads the stream: what the target returns lacks the last norm's scale and bias",
    )
    assert "note: no head but a pooler reads the stream" in str(report)
    assert report.to_dict()["notes"] == list(report.notes)
    assert state["model.norm.weight"].eq(1).all()


@BOTH
def test_wrapped_models_are_known(options: dict[str, Any]) -> None:
    """By the prefixes of DistributedDataParallel, and of torch.compile."""
    source, like = trained(models.gpt2()), models.gpt2(32, 2, heads=4)
    expected, _ = front_models.transfer(source, like, **options)
    for prefix in ("module.", "_orig_mod.module."):
        wrapped = {prefix + name: tensor for name, tensor in source.state_dict().items()}
        state, _ = front_models.transfer(wrapped, like, **options, heads=2)
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    ("depth", "fill", "layers"), [(2, "select", [0, 2]), (2, "first", [0, 1]), (5, "first", [0, 1, 2, 0, 1])]
)
def test_what_else_is_in_a_layer_comes_from_the_same_one(depth: int, fill: str, layers: list[int]) -> None:
    """Such as Qwen3's norms of queries and keys."""
    states = []
    for seed, model in enumerate((models.llama(depth=3), models.llama(depth=depth))):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for i in range(len(model.model.layers)):
            for word in "qk":
                values = torch.randn(4, generator=torch.Generator().manual_seed(100 * seed + 10 * i + (word == "q")))
                state[f"model.layers.{i}.self_attn.{word}_norm.weight"] = values
        states.append(state)
    source, like = states
    prefixed = {f"module.{name}": tensor for name, tensor in source.items()}
    for given in (source, prefixed):
        state, _ = front_models.transfer(given, like, axes="residual", depth_fill=fill)
        for i, layer in enumerate(layers):
            for word in "qk":
                name = "model.layers.{}.self_attn." + f"{word}_norm.weight"
                assert torch.equal(state[name.format(i)], source[name.format(layer)])


def test_a_fused_gate_is_refused() -> None:
    """As of Phi-3; `compare` recommends the recipe that can be applied."""
    fused = {}
    for name, tensor in models.llama().state_dict().items():
        if "gate_proj" in name:
            fused[name.replace("gate_proj", "gate_up_proj")] = torch.cat([tensor, tensor])
        elif "up_proj" not in name:
            fused[name] = tensor
    message = "source: has no tensor 'model.layers.0.mlp.gate_proj.weight', which its architecture needs"
    with pytest.raises(front_models.NotAlignableError, match=re.escape(message)):
        front_models.transfer(fused, models.llama(), **ALIGNED)
    assert front_models.compare(fused, fused).recommended == "paper"


def test_codes_of_eight_bits_are_no_weights() -> None:
    source, like = models.gpt2().state_dict(), models.gpt2(32, heads=4)
    name = "transformer.h.1.mlp.c_fc.weight"
    coded = {**source, name: source[name].to(torch.float8_e4m3fn)}
    with pytest.raises(front_models.NotAlignableError, match=f"source: {name} is torch.float8_e4m3fn; allowed are "):
        front_models.transfer(coded, like, **ALIGNED)
    weights = {"a.weight": torch.randn(8, 8), "b.weight": torch.randn(8, 8)}
    coded = {**weights, "a.weight": weights["a.weight"].to(torch.float8_e5m2)}
    assert list(front_models.extract(coded).roles) == ["b.weight"]
    assert actions(front_models.transfer(weights, coded)[1])["a.weight"] == "left: float8_e5m2 tensor"
    assert actions(front_models.transfer(coded, weights)[1])["a.weight"] == "left: in the source float8_e5m2 tensor"
    coded["b.weight"] = weights["b.weight"].int()
    message = "source: holds no floating-point weights, but 'a.weight (float8_e5m2 tensor)', 'b.weight (int32 tensor)'"
    with pytest.raises(ValueError, match=re.escape(message)):
        front_models.transfer(coded, weights)


def test_skipped_roles_by_template_and_by_tie() -> None:
    source, like = trained(models.gpt2()), models.gpt2(32, heads=4)
    before = like.state_dict()
    skip = ("transformer.h.{}.attn.c_attn.weight", "head", "*.h.1.mlp.c_proj.weight")
    state, report = front_models.transfer(source, like, **ALIGNED, skip=skip)
    action = actions(report)
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.wte.weight", "transformer.h.1.mlp.c_proj.weight"):
        assert torch.equal(state[name], before[name])
    assert not torch.equal(state["transformer.h.0.mlp.c_proj.weight"], before["transformer.h.0.mlp.c_proj.weight"])
    assert action["transformer.h.{}.attn.c_attn.weight"] == "skipped: transformer.h.{}.attn.c_attn.weight"
    assert action["lm_head.weight"] == "skipped: head"
    assert action["transformer.wte.weight"] == "skipped: tied to lm_head.weight"
    assert action["transformer.h.{}.mlp.c_proj.weight"] == "transferred (1 of 3 tensors skipped)"
    assert not any(note.startswith("skip:") for note in report.notes)
    _, report = front_models.transfer(source, like, **ALIGNED, skip=("*.c_atn.*", *skip))
    assert report.notes[-1] == "skip: '*.c_atn.*' matches no tensor"


@BOTH
def test_of_tied_names_the_embedding_says_what_becomes_of_them(options: dict[str, Any]) -> None:
    """In whatever order they come."""
    source, like = trained(models.gpt2()), models.gpt2(32, heads=4)
    expected, _ = front_models.transfer(source, like, **options)
    first = {"lm_head.weight": like.lm_head.weight, **like.state_dict(keep_vars=True)}
    assert next(iter(first)) == "lm_head.weight"
    state, report = front_models.transfer(source, first, **options)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert state["lm_head.weight"] is state["transformer.wte.weight"]
    assert actions(report)["lm_head.weight"] == "tied: written as transformer.wte.weight"
    row = next(row for row in report.rows if row.role == "transformer.wte.weight")
    assert (row.action, row.std_target is None) == ("transferred", False)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_said(value: float) -> None:
    source, like = trained(models.gpt2()), models.gpt2(16, 2)
    source.transformer.h[1].mlp.c_fc.weight.data[3, 4] = value
    _, report = front_models.transfer(source, like, **ALIGNED)
    rows = {row.role: row for row in report.rows}
    row = rows["transformer.h.{}.mlp.c_fc.weight"]
    assert (row.action, row.energy_kept) == ("transferred (NaN or Inf in the source)", None)
    assert rows["transformer.h.{}.attn.c_attn.weight"].action == "transferred"


def test_a_pattern_skips_the_only_layer() -> None:
    source, like = trained(models.gpt2()), models.gpt2(16, 1)
    state, report = front_models.transfer(source, like, **ALIGNED, skip=("transformer.h.{}.attn.*",))
    assert torch.equal(
        state["transformer.h.0.attn.c_attn.weight"], like.state_dict()["transformer.h.0.attn.c_attn.weight"]
    )
    assert actions(report)["transformer.h.{}.attn.c_attn.weight"] == "skipped: transformer.h.{}.attn.*"
    assert actions(report)["transformer.h.{}.mlp.c_fc.weight"] == "transferred"


def test_a_scale_that_becomes_one_number_keeps_that_numbers_energy() -> None:
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    move = _moves.Move("new", "old", 0, 1.0, "constant")
    value, kept = _moves.moved(move, scale, torch.zeros(3), rotated=True)
    assert torch.equal(value, torch.full((3,), 2.5, dtype=torch.float64))
    assert kept == pytest.approx(4 * 2.5**2 / (1 + 4 + 9 + 16))
    assert _moves.moved(move, scale * math.nan, torch.zeros(3), rotated=True)[1] is None
    assert _moves.moved(move, scale * 0, torch.zeros(3), rotated=True)[1] == 1


def test_biases_that_the_target_has_no_place_for_are_noted() -> None:
    """What they, and the norms' biases that were folded into them, add is missing in the target."""
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48}
    source = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))
    for layer in source.model.layers:
        layer.self_attn.k_proj.bias.data.fill_(0.1)
    report = front_models.transfer(source, models.llama(depth=3), **ALIGNED)[1]
    name = "model.layers.{}.self_attn.k_proj.bias"
    assert report.notes == (f"left, because the target has no such bias: {name}",)  # the other ones are 0
    plain = transformers.ViTConfig(**models.hf_vit(24).config.to_dict() | {"qkv_bias": False, "num_attention_heads": 3})
    report = front_models.transfer(trained(models.hf_vit()), transformers.ViTForImageClassification(plain), **PLAIN)[1]
    biases = ", ".join(f"vit.layers.{{}}.attention.{word}_proj.bias" for word in "qkv")
    folded = "(norms' biases included, which were folded into them)"
    assert report.notes == (f"left, because the target has no such bias: {biases} {folded}",)
    assert front_models.transfer(trained(models.hf_vit()), models.hf_vit(depth=2), **PLAIN)[1].notes == ()


@BOTH
def test_heads_that_only_the_target_leaves_open_are_noted(options: dict[str, Any]) -> None:
    source, like = trained(models.gpt2(32)), models.gpt2(16).state_dict()
    _, report = front_models.transfer(source, like, **options)
    assert report.notes == ("the target's number of heads is not known: their sizes were not compared",)
