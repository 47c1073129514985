"""Which units, heads, words and positions a target of the same width takes: exact, and in their own blocks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import front_models
import models
from test_align import TOKENS, logits, relative, trained, with_weights
from test_transfer_residual import ALIGNED, PLAIN

Sizes = Mapping[str, tuple[int, ...]]


def target(state: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Other values, and other shapes where a name ends so."""
    shapes = {name: next((s for end, s in sizes.items() if name.endswith(end)), t.shape) for name, t in state.items()}
    return {name: torch.full(shape, 9.0, dtype=torch.float64) for name, shape in shapes.items()}


def first_of_parts(tensor: Tensor, axis: int, size: int) -> Tensor:
    """The first of queries, of keys and of values."""
    return torch.cat([part.narrow(axis, 0, size) for part in tensor.chunk(3, axis)], axis)


@pytest.mark.parametrize("kept", [8, 16])
def test_packed_queries_keys_and_values_are_cut_one_by_one(kept: int) -> None:
    """timm's qkv, [out, in], and GPT-2's c_attn, [in, out]: of four heads of eight."""
    source = models.fill(models.vit(32, 2), dtype=torch.float64)
    sizes: Sizes = {"qkv.weight": (3 * kept, 32), "qkv.bias": (3 * kept,), "attn.proj.weight": (32, kept)}
    state, report = front_models.transfer(source, target(source, sizes), **PLAIN, heads=4)
    for i in range(2):
        for word in ("weight", "bias"):
            name = f"blocks.{i}.attn.qkv.{word}"
            assert torch.equal(state[name], first_of_parts(source[name], 0, kept))
        name = f"blocks.{i}.attn.proj.weight"
        assert torch.equal(state[name], source[name][:, :kept])
    assert {row.action for row in report.rows} == {"transferred"}
    source = dict(trained(models.gpt2(32, heads=4)).state_dict())
    sizes = {"c_attn.weight": (32, 3 * kept), "c_attn.bias": (3 * kept,), "attn.c_proj.weight": (kept, 32)}
    state, _ = front_models.transfer(source, target(source, sizes), **PLAIN, heads=4)
    for i in range(3):
        layer = f"transformer.h.{i}.attn"
        assert torch.equal(state[f"{layer}.c_attn.weight"], first_of_parts(source[f"{layer}.c_attn.weight"], 1, kept))
        assert torch.equal(state[f"{layer}.c_attn.bias"], first_of_parts(source[f"{layer}.c_attn.bias"], 0, kept))
        assert torch.equal(state[f"{layer}.c_proj.weight"], source[f"{layer}.c_proj.weight"][:kept])


def test_whole_groups_of_queries_and_their_keys_are_taken() -> None:
    """Of llama's four heads the first two, which share the first of two keys."""
    source = dict(trained(models.llama()).state_dict())
    sizes = {"q_proj.weight": (8, 16), "k_proj.weight": (4, 16), "v_proj.weight": (4, 16), "o_proj.weight": (16, 8)}
    state, report = front_models.transfer(source, target(source, sizes), **PLAIN, heads=(4, 2))
    for i in range(3):
        layer = f"model.layers.{i}.self_attn"
        for word, kept in (("q", 8), ("k", 4), ("v", 4)):
            name = f"{layer}.{word}_proj.weight"
            assert torch.equal(state[name], source[name][:kept])
        assert torch.equal(state[f"{layer}.o_proj.weight"], source[f"{layer}.o_proj.weight"][:, :8])
    assert {row.action for row in report.rows} == {"transferred"}


@pytest.mark.parametrize("words", [30, 50])
@pytest.mark.parametrize("width", [16, 24])
def test_an_untied_head_takes_the_words_that_the_embedding_does(words: int, width: int) -> None:
    import transformers

    source = trained(models.llama())
    sizes = {"hidden_size": width, "num_attention_heads": width // 4, "num_key_value_heads": width // 8}
    config = {**source.config.to_dict(), **sizes, "head_dim": 4, "vocab_size": words}
    like = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).double().eval()
    state, report = front_models.transfer(source, like, **ALIGNED)
    assert {row.action for row in report.rows} == {"transferred"}
    both = min(words, 40)
    batch = {"input_ids": TOKENS.clamp(max=both - 1)}
    for module in (*source.modules(), *like.modules()):
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.0  # a wider stream's elements are smaller
    given = logits(source, batch)[..., :both]
    assert relative(logits(with_weights(like, state), batch)[..., :both], given) < 1e-6
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(state[name][both:], like.state_dict()[name][both:])


def test_fewer_words_and_positions_are_the_first() -> None:
    source = trained(models.gpt2())
    like = target(source.state_dict(), {"wte.weight": (30, 16), "wpe.weight": (12, 16), "lm_head.weight": (30, 16)})
    state, report = front_models.transfer(source, like, **PLAIN)
    before = source.state_dict()
    assert torch.equal(state["transformer.wte.weight"], before["transformer.wte.weight"][:30])
    assert torch.equal(state["transformer.wpe.weight"], before["transformer.wpe.weight"][:12])
    assert torch.equal(state["lm_head.weight"], before["lm_head.weight"][:30])
    assert {row.action for row in report.rows} == {"transferred"}


def test_the_bias_of_a_masked_words_head_follows_its_rows() -> None:
    source = trained(models.bert(head="mlm"))
    config = source.config.to_dict() | {"vocab_size": 30}
    like = type(source)(type(source.config)(**config)).double().eval()
    state, _ = front_models.transfer(source, like, **PLAIN)
    assert torch.equal(state["cls.predictions.decoder.bias"], source.cls.predictions.bias[:30])
    batch = {"input_ids": TOKENS.clamp(max=29)}
    assert relative(logits(with_weights(like, state), batch), logits(source, batch)[..., :30]) < 1e-12
