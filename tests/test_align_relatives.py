"""Models with the tensor names of a known architecture: those that compute the same, and those that do not."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import front_models
import models
from front_models._anatomy import find_anatomy
from test_align import TOKENS, logits, relative, trained, with_weights
from test_transfer_residual import ALIGNED

PIXELS = {"pixel_values": torch.sin(torch.arange(2 * 3 * 64.0).view(2, 3, 8, 8)).double()}
LLAMA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 2}
GPT = {"vocab_size": 41, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
BERT = {"num_attention_heads": 2, "max_position_embeddings": 24}
VIT = {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}


def build(name: str, kind: str, **config: Any) -> nn.Module:
    """Such as transformers' LlamaForCausalLM, with its LlamaConfig."""
    import transformers

    if not hasattr(transformers, f"{name}{kind}"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}{kind}")
    usual = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes = GPT if "n_embd" in config else usual
    return trained(getattr(transformers, f"{name}{kind}")(getattr(transformers, f"{name}Config")(**sizes | config)))


KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("Llama", "Mistral", "Ministral", "Qwen2", "Qwen3"), ("ForCausalLM", LLAMA)),
    **dict.fromkeys(("SmolLM3", "Helium", "Granite", "SeedOss"), ("ForCausalLM", LLAMA)),
    **dict.fromkeys(("Bert", "Roberta", "XLMRoberta", "Camembert", "Data2VecText", "Ernie"), ("ForMaskedLM", BERT)),
    **dict.fromkeys(("ViT", "DeiT", "ViTMSN", "IJepa"), ("ForImageClassification", VIT)),
    "GPT2": ("LMHeadModel", GPT),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_relative_computes_the_same(name: str) -> None:
    kind, config = KNOWN[name]
    model = build(name, kind, **config)
    batch = PIXELS if config is VIT else {"input_ids": TOKENS}
    state, alignment = front_models.align(model)
    limit = 1e-6 if config is LLAMA else 1e-12  # Llama's norms compute in float32
    assert relative(logits(with_weights(model, state, alignment.untied), batch), logits(model, batch)) < limit
    assert not any("model_type" in note for note in alignment.notes)


def test_every_type_that_is_allowed_is_tested() -> None:
    import transformers

    if not all(hasattr(transformers, f"{name}Config") for name in KNOWN):
        pytest.skip(f"transformers {transformers.__version__} does not have them all")
    found = {getattr(transformers, f"{name}Config").model_type for name in KNOWN}
    families = (models.gpt2(), models.llama(), models.bert(), models.hf_vit())
    allowed = {kind for model in families for kind in find_anatomy(models.shapes_of(model)).types}
    assert found == allowed


@pytest.mark.parametrize(
    ("name", "kind", "config", "family"),
    [
        ("GPTBigCode", "ForCausalLM", GPT | {"multi_query": False}, "gpt2"),  # queries, keys, values of a head together
        ("ImageGPT", "ForCausalImageModeling", GPT, "gpt2"),  # norms keep the mean
        ("Gemma", "ForCausalLM", LLAMA, "llama"),  # norms scale by 1 + weight
    ],
)
def test_other_relatives_are_refused(name: str, kind: str, config: dict[str, Any], family: str) -> None:
    source = build(name, kind, **config)
    message = f"model_type {source.config.model_type!r} has names of the architecture {family!r}, but is not known to"
    allowed = ", ".join(find_anatomy(models.shapes_of(source)).types)
    expected = f"source: {re.escape(message)} compute the same; allowed are {allowed}"
    for call in (front_models.align, lambda model: front_models.transfer(model, model, **ALIGNED)):
        with pytest.raises(front_models.NotAlignableError, match=expected):
            call(source)
    with pytest.raises(front_models.NotAlignableError, match=f"like: {re.escape(message)}"):
        front_models.transfer(dict(source.state_dict()), source, **ALIGNED)
    assert front_models.compare(source, source).reason.startswith("paper: the aligned recipe cannot be applied")


def test_without_a_config_it_is_said_that_names_decided() -> None:
    source = models.gpt2()
    tensors = dict(source.state_dict())
    note = "source: no config names its model_type; by its tensors' names it was taken for 'gpt2'"
    assert note in front_models.align(tensors)[1].notes
    assert note in front_models.transfer(tensors, source, **ALIGNED)[1].notes
    assert note not in front_models.transfer(source, tensors, **ALIGNED)[1].notes


def linear_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As of nanoGPT: GPT-2's names, and matrices [out, in]."""
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: (tensor.T if name.endswith(conv1d) else tensor).contiguous() for name, tensor in state.items()}


@pytest.mark.parametrize("inner", [None, 16, 48])
def test_an_mlp_as_wide_as_the_stream_or_as_queries_keys_and_values(inner: int | None) -> None:
    """Attention tells GPT-2's layout from nanoGPT's."""
    model = trained(models.gpt2(inner=inner))
    batch = {"input_ids": TOKENS}
    state, alignment = front_models.align(model)
    assert relative(logits(with_weights(model, state, alignment.untied), batch), logits(model, batch)) < 1e-12
    linear, _ = front_models.align(linear_layout(model.state_dict()), heads=2)
    for name, tensor in linear_layout(state).items():
        assert torch.allclose(linear[name], tensor, atol=1e-9), name


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("swapped", [False, True])
def test_source_and_target_have_one_layout(width: int, swapped: bool) -> None:
    source, like = models.gpt2().state_dict(), models.gpt2(width, heads=width // 8).state_dict()
    source, like = (linear_layout(source), like) if swapped else (source, linear_layout(like))
    message = rf"like: transformer.h.0.attn.c_attn.weight of shape \(.*\) has the stream along axis {int(not swapped)};"
    with pytest.raises(front_models.NotAlignableError, match=message):
        front_models.transfer(source, like, **ALIGNED)


def test_one_key_for_all_queries_is_refused() -> None:
    state = models.gpt2().state_dict()
    for i in range(3):
        state[f"transformer.h.{i}.attn.c_attn.weight"] = torch.zeros(16, 32)
    with pytest.raises(front_models.NotAlignableError, match=r"of shape \(16, 32\) holds no queries, keys"):
        front_models.align(state)
