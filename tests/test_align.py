"""Alignment: the same function by other weights, with the stream's energy in its lowest frequencies."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import front_kernels
import front_models
import models
from front_models._anatomy import find_anatomy
from front_models._cli import main
from front_models._importance import _score_variance
from models import shapes_of


def vit(dim: int = 32, depth: int = 3, inner: int = 64, classes: int = 5) -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=dim // 16,
        intermediate_size=inner,
        image_size=16,
        patch_size=4,
        num_labels=classes,
    )
    return transformers.ViTForImageClassification(config)


def trained(model: nn.Module) -> nn.Module:
    """As if trained: norms with scales and biases, heads and units of different importance, float64."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += (
            0.2 * noise * torch.rand(parameter.shape[:1] + (1,) * (parameter.dim() - 1), generator=generator)
        )
    return model.double().eval()


def deit() -> nn.Module:
    import transformers

    config = transformers.DeiTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    return transformers.DeiTForImageClassificationWithTeacher(config)


def roberta(kind: str) -> nn.Module:
    import transformers

    config = transformers.RobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, num_labels=3,
    )  # fmt: skip
    return getattr(transformers, f"RobertaFor{kind}")(config)


TOKENS = torch.tensor([[3, 1, 4, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3, 2]])
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "vit": (vit, {"pixel_values": torch.sin(torch.arange(2 * 3 * 256.0).view(2, 3, 16, 16)).double()}),
    "gpt2": (models.gpt2, {"input_ids": TOKENS}),
    "llama": (models.llama, {"input_ids": TOKENS}),
    "llama tied": (lambda: models.llama(tied=True), {"input_ids": TOKENS}),
    "bert": (lambda: models.bert(head="classify"), {"input_ids": TOKENS}),
    "deit": (deit, {"pixel_values": torch.sin(torch.arange(2 * 3 * 256.0).view(2, 3, 16, 16)).double()}),
    "roberta mlm": (lambda: roberta("MaskedLM"), {"input_ids": TOKENS}),
    "roberta": (lambda: roberta("SequenceClassification"), {"input_ids": TOKENS}),
    "bert mlm": (lambda: models.bert(head="mlm"), {"input_ids": TOKENS}),
}


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def with_weights(model: nn.Module, state: dict[str, Tensor], untied: tuple[str, ...] = ()) -> nn.Module:
    model = copy.deepcopy(model)
    for name in untied:
        module = model.get_submodule(name.removesuffix(".weight"))
        module.weight = nn.Parameter(module.weight.detach().clone())
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("basis", ["weights", "activations"])
@pytest.mark.parametrize("name", MODELS)
def test_the_aligned_model_computes_the_same(name: str, basis: Any) -> None:
    make, batch = MODELS[name]
    model = trained(make())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state, alignment = front_models.align(model, basis=basis, data=[batch] if basis == "activations" else None)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert state.keys() == before.keys()
    assert any(relative(state[key], before[key]) > 0.1 for key in before)
    limit = 1e-6 if name.startswith("llama") else 1e-12  # Llama's norms compute in float32
    assert relative(logits(with_weights(model, state, alignment.untied), batch), logits(model, batch)) < limit
    width = len(alignment.rotation)
    identity = alignment.rotation.T @ alignment.rotation
    assert torch.allclose(identity, torch.eye(width, dtype=torch.float64), atol=1e-12)
    assert alignment.energy.sum().item() == pytest.approx(1)
    assert (alignment.untied != ()) == (name in ("gpt2", "llama tied"))
    assert any("post-norm" in note for note in alignment.notes) == ("bert" in name)


@pytest.mark.parametrize("name", ["vit", "gpt2", "llama"])
def test_the_streams_energy_lies_in_its_lowest_frequencies(name: str) -> None:
    """Of a stream of low rank in a hidden basis, which a plain crop cannot find."""
    model = trained(MODELS[name][0]())
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    anatomy = find_anatomy(shapes_of(model))
    hidden = torch.linalg.qr(torch.randn(anatomy.width, anatomy.width, dtype=torch.float64)).Q
    decay = torch.exp(-torch.arange(anatomy.width, dtype=torch.float64) / 2)
    for linear in (*anatomy.writers(), *(reader for reader, _ in anatomy.readers())):
        weight = state[linear.weight].movedim(linear.stream, -1)
        weight.copy_(weight @ hidden * decay @ hidden.T)

    def low(weights: dict[str, Tensor]) -> float:
        kept = total = 0.0
        for linear in anatomy.writers():
            c = front_kernels.dct(weights[linear.weight].movedim(linear.stream, -1).contiguous())
            kept += float(c[..., : anatomy.width // 2].square().sum())
            total += float(c.square().sum())
        return kept / total

    aligned, _ = front_models.align(state)
    assert low(state) < 0.8
    assert low(aligned) > 0.98


def test_units_and_heads_are_ordered_by_importance_and_never_mixed() -> None:
    model = trained(MODELS["llama"][0]())
    state, alignment = front_models.align(model)
    assert alignment.heads == (4, 2)
    for i in range(3):
        layer = f"model.layers.{i}"
        gate, up = (state[f"{layer}.mlp.{word}_proj.weight"] for word in ("gate", "up"))
        down = state[f"{layer}.mlp.down_proj.weight"]
        importance = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
        assert (importance.diff() <= 1e-12).all()
        out = state[f"{layer}.self_attn.o_proj.weight"].view(16, 4, 4).movedim(1, 0).flatten(1).norm(dim=1)
        values = state[f"{layer}.self_attn.v_proj.weight"].view(2, -1).norm(dim=1)
        q, k = (state[f"{layer}.self_attn.{word}_proj.weight"].view(-1, 4, 16) for word in "qk")
        variance = (q.mT @ k.repeat_interleave(2, 0)).square().sum((1, 2)) / 4  # aligned norms have a scale of 1
        heads = out.view(2, 2) * values[:, None] * variance.view(2, 2).exp()
        by_group = heads.sum(1)
        assert by_group[0] >= by_group[1]
        assert (heads.diff(dim=1) <= 1e-12 * heads[:, :1]).all()


@pytest.mark.parametrize(("name", "counts"), [("gpt2", (2, 2)), ("llama", (4, 2)), ("bert", (2, 2))])
def test_the_variance_of_scores_is_that_of_white_tokens(name: str, counts: tuple[int, int]) -> None:
    """Of llama's queries two share a key; gpt2's are packed and transposed; bert reads what the norm before gave."""
    state = {key: tensor.clone() for key, tensor in trained(MODELS[name][0]()).state_dict().items()}
    branches = list(find_anatomy(shapes_of(trained(MODELS[name][0]()))).through())
    branch, norm = branches[2]  # the second layer's attention
    assert branch.kind == "attention"
    before = "bert.encoder.layer.0.output.LayerNorm.weight"
    assert norm.weight == (before if name == "bert" else branch.norm.weight)
    heads, groups = counts
    white = torch.randn(2, 100_000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, y = white * state[norm.weight]
    x = x if norm.bias is None else x + state[norm.bias]
    packed = state[branch.reads[0].weight].movedim(branch.reads[0].stream, -1)
    q, k = packed.chunk(3)[:2] if name == "gpt2" else (packed, state[branch.reads[1].weight])
    bias = branch.reads[0].bias
    queries = x @ q.T + (0 if bias is None else state[bias][: len(q)])
    keys = (y @ k.T).unflatten(1, (groups, 1, -1))
    queries = queries.unflatten(1, (groups, heads // groups, -1))
    scores = (queries * keys).sum(-1) / queries.shape[-1] ** 0.5
    expected = _score_variance(branch, norm, state, counts)
    assert expected.shape == (groups, heads // groups)
    assert torch.allclose(scores.var(0), expected, rtol=0.05)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_head_that_attends_to_few_tokens_comes_before_one_that_attends_to_all(name: str) -> None:
    model = trained(MODELS[name][0]())
    state = model.state_dict()
    for layer in range(3):  # the second of two heads of eight: small values and large queries; the first: none
        if name == "gpt2":
            packed = state[f"transformer.h.{layer}.attn.c_attn.weight"]
            packed[:, 40:48] *= 0.1
            packed[:, :8] *= 0
            packed[:, 8:16] *= 20
            state[f"transformer.h.{layer}.attn.c_attn.bias"][:8] = 0
        else:
            attention = f"bert.encoder.layer.{layer}.attention.self"
            state[f"{attention}.value.weight"][8:] *= 0.1
            state[f"{attention}.query.weight"][:8] *= 0
            state[f"{attention}.query.weight"][8:] *= 20
            state[f"{attention}.query.bias"][:8] = 0
    aligned, _ = front_models.align(model)
    for layer in range(3):
        if name == "gpt2":
            queries = aligned[f"transformer.h.{layer}.attn.c_attn.weight"][:, :16].T
        else:
            queries = aligned[f"bert.encoder.layer.{layer}.attention.self.query.weight"]
        assert queries[:8].abs().max() > 0.1
        assert queries[8:].abs().max() == 0


def test_without_head_counts_heads_stay_and_it_is_said() -> None:
    model = trained(MODELS["gpt2"][0]())
    state, alignment = front_models.align(dict(model.state_dict()))
    assert alignment.heads is None
    assert any("heads" in note for note in alignment.notes)
    untied = with_weights(model, state, alignment.untied)
    assert relative(logits(untied, MODELS["gpt2"][1]), logits(model, MODELS["gpt2"][1])) < 1e-12


def test_a_norms_bias_that_no_reader_can_take_stays_with_the_norm() -> None:
    state = {
        name: tensor
        for name, tensor in trained(MODELS["gpt2"][0]()).state_dict().items()
        if not name.endswith("c_attn.bias")
    }
    aligned, _ = front_models.align(state)
    assert (aligned["transformer.h.0.ln_1.weight"] == 1).all()
    assert aligned["transformer.h.0.ln_1.bias"].abs().max() > 0.01
    # What the attention reads: of any normalised stream n, W (scale n + bias), here in the old and in the new basis.
    rotation = front_models.align(state)[1].rotation
    n = torch.randn(7, 16, dtype=torch.float64)
    n -= n.mean(1, keepdim=True)
    old = (n * state["transformer.h.0.ln_1.weight"] + state["transformer.h.0.ln_1.bias"]) @ state[
        "transformer.h.0.attn.c_attn.weight"
    ]
    new = (n @ rotation + aligned["transformer.h.0.ln_1.bias"]) @ aligned["transformer.h.0.attn.c_attn.weight"]
    assert relative(new.sort(dim=1).values, old.sort(dim=1).values) < 1e-12


def test_dtypes_and_other_tensors_are_kept() -> None:
    state = {name: tensor.bfloat16() for name, tensor in models.llama().state_dict().items()}
    state["extra.counter"] = torch.tensor(3)
    aligned, _ = front_models.align(state, heads=(4, 2))
    assert {name: tensor.dtype for name, tensor in aligned.items()} == {n: t.dtype for n, t in state.items()}
    assert aligned["extra.counter"].item() == 3
    assert aligned["extra.counter"] is not state["extra.counter"]


def test_a_pooler_reads_the_stream() -> None:
    import transformers

    model = trained(transformers.ViTModel(vit().config))
    state, _ = front_models.align(model)
    pixels = MODELS["vit"][1]
    with torch.no_grad():
        expected, found = (m(**pixels).pooler_output for m in (model, with_weights(model, state)))
    assert relative(found, expected) < 1e-12


def test_a_config_beside_a_file_is_read(tmp_path: Path) -> None:
    model, batch = trained(models.llama()), MODELS["llama"][1]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(model.config.to_dict()))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        state, alignment = front_models.align(path)
        assert alignment.heads == (4, 2)
        assert relative(logits(with_weights(model, state), batch), logits(model, batch)) < 1e-6
    config.write_text(json.dumps({"model_type": "gemma"}))
    for call in (
        front_models.align,
        lambda path: front_models.transfer(path, model, axes="residual", depth_fill="select"),
    ):
        with pytest.raises(
            front_models.NotAlignableError, match="source: model_type 'gemma' has names of the architecture 'llama'"
        ):
            call(tmp_path)
    target = ["--like", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.safetensors")]
    assert main(["transfer", str(tmp_path), *target, "--recipe", "aligned"]) == 1
    assert front_models.compare(tmp_path, model).reason.startswith("paper: the aligned recipe cannot be applied")
    config.write_text("[]")
    with pytest.raises(front_models.WeightsFileError, match=r"not a model's config, but a JSON list"):
        front_models.align(tmp_path)


def test_a_model_without_head_says_that_its_output_is_rotated() -> None:
    import transformers

    model = transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=40, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    )
    _, alignment = front_models.align(trained(model))
    assert any("no head" in note for note in alignment.notes)


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("kind", ["ViT", "Bert"])
def test_a_model_of_hidden_states_says_what_becomes_of_them(kind: str, pooler: bool) -> None:
    import transformers

    name, make, becomes = {
        "ViT": ("vit", vit, "rotated, and lack the last norm's scale and bias"),
        "Bert": ("bert", lambda: models.bert(head="classify"), "in another order"),
    }[kind]
    model = trained(getattr(transformers, f"{kind}Model")(make().config, add_pooling_layer=pooler))
    state, alignment = front_models.align(model)
    assert f"no head but a pooler reads the stream: the hidden states that the model returns are {becomes}" in (
        alignment.notes
    )
    with torch.no_grad():
        old, new = (m(**MODELS[name][1]).last_hidden_state for m in (model, with_weights(model, state)))
    assert relative(new, old) > 0.1
    if kind == "Bert":
        assert relative(new, old @ alignment.rotation) < 1e-12
    assert not any("hidden states" in note for note in front_models.align(trained(make()))[1].notes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: front_models.align(m, basis="gram"), "basis: got 'gram'; allowed are 'weights', 'activations'"),
        (lambda m: front_models.align(m, basis="activations"), "data: got NoneType with basis='activations'"),
        (lambda m: front_models.align(m, data=[1]), "data: got list with basis='weights'"),
        (lambda m: front_models.align(m, basis="activations", data=[]), "data: it has no batches"),
        (
            lambda m: front_models.align(dict(m.state_dict()), basis="activations", data=[1]),
            "source: got dict; basis='activations' needs a torch.nn.Module",
        ),
        (lambda m: front_models.align(m, basis="activations", data=5), "data: got 5; allowed are None and an iterable"),
        (lambda m: front_models.align(m, basis="activations", data="x"), "data: got 'x'; allowed are None and an"),
        (
            lambda m: front_models.align(m, basis="activations", data={"input_ids": torch.zeros(1, 4).long()}),
            "data: got dict; allowed are None and an iterable of batches, such as [batch]",
        ),
        (
            lambda m: front_models.align(m, basis="activations", data=torch.zeros(1, 4).long()),
            "data: got Tensor; allowed are None and an iterable of batches, such as [batch]",
        ),
        *(
            (
                lambda m, heads=heads: front_models.align(m, heads=heads),
                f"heads: got {heads!r}; allowed are None, a whole",
            )
            for heads in ("2", 2.0, True, (2,), (2, 2, 2), (2, "2"))
        ),
        (lambda m: front_models.align(m, heads=0), "heads: got (0, 0), which does not divide the 16 rows of queries"),
        (lambda m: front_models.align(m, heads=3), "heads: got (3, 3), which does not divide the 16 rows of queries"),
        (lambda m: front_models.align({"a.weight": torch.ones(3, 3)}), "allowed are gpt2, timm-vit, vit, llama, bert"),
        (
            lambda m: front_models.align({k: v for k, v in m.state_dict().items() if "h.1.mlp.c_fc.weight" not in k}),
            "source: has no tensor 'transformer.h.1.mlp.c_fc.weight', which its architecture needs",
        ),
    ],
)
def test_bad_arguments(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(models.gpt2())


@pytest.mark.parametrize("shapes", [models.vit(32, 2), {f"base.{n}": s for n, s in models.vit(32, 2).items()}])
def test_timms_names_with_and_without_prefix(shapes: dict[str, tuple[int, ...]]) -> None:
    anatomy = find_anatomy(shapes)
    assert (anatomy.family, anatomy.width, len(anatomy.layers)) == ("timm-vit", 32, 2)
    read = [reader.weight for reader, _ in anatomy.readers()]
    written = [writer.weight for writer in anatomy.writers()]
    matrices = [name for name, shape in shapes.items() if len(shape) > 1]
    assert sorted(read + written) == sorted(matrices)


def test_inspect_shows_what_alignment_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(vit(64, 2))
    rows = {row.role: row for row in front_models.inspect_weights(model, aligned=True).rows}
    read = rows["vit.layers.{}.mlp.fc1.weight"]
    assert read.stream_half is not None
    assert read.stream_half_aligned is not None
    assert read.stream_half == pytest.approx(0.5, abs=0.1)
    assert read.stream_half_aligned > read.stream_half + 0.05
    assert rows["vit.layers.{}.mlp.fc1.bias"].stream_half is None
    plain = front_models.inspect_weights(model).rows
    assert all(row.stream_half is None for row in plain)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "m.safetensors")
    assert main(["inspect", str(tmp_path / "m.safetensors"), "--aligned"]) == 0
    assert "half of the stream, aligned" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "m.safetensors")]) == 0
    assert "half of the stream, aligned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model.extra_token": torch.zeros(1, 1, 16)}, "model.extra_token of shape (1, 1, 16) has an axis as long as"),
        (
            {"model.norm.bias": torch.zeros(16)},
            "model.norm.bias is the bias of a LayerNorm; the architecture 'llama' has",
        ),
    ],
)
def test_relatives_of_a_known_architecture_are_refused(more: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        front_models.align({**models.llama().state_dict(), **more})
