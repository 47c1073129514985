"""Transfer along the residual stream: the aligned recipe, and axes="residual"."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import front_models
import models
from command import assert_error
from front_models._anatomy import find_anatomy
from front_models._cli import main
from front_models._residual import _level_norms, _source_layer
from test_align import TOKENS, logits, relative, trained, vit, with_weights

PIXELS = {"pixel_values": torch.sin(torch.arange(2 * 3 * 256.0).view(2, 3, 16, 16)).double()}
WORDS = {"input_ids": TOKENS}


def moved(source: nn.Module, like: nn.Module, **options: Any) -> tuple[nn.Module, front_models.TransferReport]:
    state, report = front_models.transfer(source, like, **options)
    return with_weights(like, state), report


ALIGNED: dict[str, Any] = {"recipe": "aligned"}
PLAIN: dict[str, Any] = {"axes": "residual", "depth_fill": "select"}


@pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])
def test_a_target_of_the_same_size_computes_the_same(options: dict[str, Any]) -> None:
    for make, batch, limit in ((vit, PIXELS, 1e-12), (models.llama, WORDS, 1e-6)):
        source = trained(make())
        target, report = moved(source, make().double().eval(), **options)
        assert relative(logits(target, batch), logits(source, batch)) < limit
        assert {row.action for row in report.rows} == {"transferred"}
    source = trained(models.bert(head="classify"))
    target, _ = moved(source, models.bert(head="classify").double().eval(), **options)
    assert relative(logits(target, WORDS), logits(source, WORDS)) < 1e-12


@pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])
def test_a_wider_target_computes_what_the_source_does(options: dict[str, Any]) -> None:
    source = trained(vit(32, 3, 64))
    target, _ = moved(source, vit(48, 3, 80).double().eval(), **options)
    assert relative(logits(target, PIXELS), logits(source, PIXELS)) < 1e-9


def test_a_wider_post_norm_target_comes_near() -> None:
    """Its norms take the mean over new channels too, so that it is not exact."""
    source = trained(models.bert(16, 3, 64, 2, head="classify"))
    like = models.bert(32, 3, 70, 4, head="classify").double().eval()
    wider, _ = moved(source, like, **PLAIN)
    assert relative(logits(wider, WORDS), logits(source, WORDS)) < 0.2
    assert relative(logits(like, WORDS), logits(source, WORDS)) > 0.9


def low_rank(model: nn.Module, rank: int) -> nn.Module:
    """Its stream is nothing but `rank` hidden directions, without mean: what writes to it writes there."""
    state = model.state_dict()
    anatomy = find_anatomy(models.shapes_of(model))
    ones = torch.ones(anatomy.width, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, torch.randn(anatomy.width, rank, dtype=torch.float64)], 1)).Q[:, 1:]
    for writer in anatomy.writers():
        weight = state[writer.weight].movedim(writer.stream, -1)
        weight.copy_(weight @ basis @ basis.T)
        if writer.bias is not None:
            state[writer.bias].copy_(state[writer.bias] @ basis @ basis.T)
    for reader, _ in anatomy.readers():
        weight = state[reader.weight].movedim(reader.stream, -1)
        weight.copy_(weight @ basis @ basis.T)
    for name, tensor in state.items():
        if "layernorm" in name.lower():  # plain norms: a scale would take what is read out of the hidden directions
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def test_a_narrower_target_keeps_the_function_where_the_stream_has_few_directions() -> None:
    source = low_rank(trained(vit(64, 3, 64)), 20)
    like = vit(48, 3, 64).double().eval()
    # The same heads: the first three of four. Their other one is made useless first.
    for layer in source.vit.layers:
        layer.attention.o_proj.weight.data[:, 48:] = 0
    aligned, _ = moved(source, like, **ALIGNED)
    plain, _ = moved(source, like, **PLAIN)
    assert relative(logits(aligned, PIXELS), logits(source, PIXELS)) < 1e-9
    assert relative(logits(plain, PIXELS), logits(source, PIXELS)) > 0.05


def products(model: nn.Module) -> Tensor:
    """Of the tokens at the end of the stream with each other, which do not depend on its axes."""
    with torch.no_grad():
        x = model(**WORDS).last_hidden_state.flatten(0, 1)
    return x @ x.T


@pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])
def test_a_narrower_post_norm_target_gets_the_principal_axes(options: dict[str, Any]) -> None:
    """Exact where every norm has one scale; near where scales are about as far apart as those of a trained model."""
    source = low_rank(trained(models.bert(32, 3, 64, 2)), 10)
    for layer in source.encoder.layer:  # of two heads the first
        layer.attention.output.dense.weight.data[:, 16:] = 0
    like = models.bert(16, 3, 64, 1).double().eval()
    narrower, _ = moved(source, like, **options)
    assert relative(products(narrower), products(source)) < 1e-9
    generator = torch.Generator().manual_seed(3)
    for name, parameter in source.named_parameters():
        if "LayerNorm.weight" in name:
            parameter.data = 0.6 + 0.1 * torch.randn(32, dtype=torch.float64, generator=generator)
    narrower, _ = moved(source, like, **options)
    assert relative(products(narrower), products(source)) < 0.3
    for name, parameter in narrower.named_parameters():
        if "LayerNorm.weight" in name:  # their elements are larger where there are fewer, for a stream of one length
            mean = source.get_parameter(name).mean() * 2**0.5
            assert torch.allclose(parameter, mean.expand(16), rtol=1e-9)
    assert relative(products(like), products(source)) > 0.8


def test_branches_read_through_norms_of_one_scale_what_they_did() -> None:
    source = trained(models.bert(head="mlm"))
    anatomy = find_anatomy(models.shapes_of(source))
    old = source.state_dict()
    new = {name: tensor.clone() for name, tensor in old.items()}
    _level_norms(anatomy, new)
    z = torch.randn(5, anatomy.width, dtype=torch.float64)
    for branch, norm in anatomy.through():
        assert new[norm.weight].std() < 1e-12 < 0.01 < old[norm.weight].std()
        for read in branch.reads:
            before, after = (
                (z * state[norm.weight] + state[norm.bias]) @ state[read.weight].T + state[read.bias]
                for state in (old, new)
            )
            assert relative(after, before) < 1e-12


def test_the_transform_before_a_tied_head_follows_the_stream_s_axes() -> None:
    source, like = trained(models.bert(16, 3, 64, 2, head="mlm")), models.bert(8, 3, 64, 1, head="mlm").double()
    state, report = front_models.transfer(source, like, **ALIGNED)
    assert {row.action for row in report.rows if not row.action.startswith("tied")} == {"transferred"}
    assert state["cls.predictions.transform.dense.weight"].shape == (8, 8)
    assert not torch.equal(state["cls.predictions.transform.dense.weight"], like.cls.predictions.transform.dense.weight)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (6, 3, [0, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (4, 1, [0]),
        (3, 4, [0, 0, 1, 2]),
        (12, 4, [0, 4, 7, 11]),
    ],
)
def test_layers_are_evenly_spaced_or_the_first(old: int, new: int, expected: list[int]) -> None:
    assert [_source_layer(i, old, new, even=True) for i in range(new)] == expected
    first = [*range(old)] * 3  # and from the first again
    assert [_source_layer(i, old, new, even=False) for i in range(new)] == first[:new]


@pytest.mark.parametrize(("depth_fill", "last"), [("select", 2), ("first", 1), (None, 1)])
def test_a_shallower_target_gets_whole_layers(depth_fill: str | None, last: int) -> None:
    source = trained(models.llama(depth=3))
    state, report = front_models.transfer(source, models.llama(depth=2), **PLAIN | {"depth_fill": depth_fill})
    taken = front_models.transfer(source, models.llama(depth=3), **PLAIN)[0]
    for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight"):
        for target, layer in ((0, 0), (1, last)):
            assert torch.equal(
                state[f"model.layers.{target}.{name}"], taken[f"model.layers.{layer}.{name}"].to(torch.float32)
            )
    depth = {row.role: (row.source_depth, row.target_depth) for row in report.rows}
    assert depth["model.layers.{}.mlp.down_proj.weight"] == (2, 2)


def test_the_aligned_recipe_takes_the_first_layers() -> None:
    """A narrower and shallower target is the narrower one without its last layers."""
    source = trained(vit(64, 3, 64))
    narrow = front_models.transfer(source, vit(32, 3, 64), **ALIGNED)[0]
    for depth_fill, last in ((None, 1), ("first", 1), ("select", 2)):
        options = ALIGNED if depth_fill is None else ALIGNED | {"depth_fill": depth_fill}
        state = front_models.transfer(source, vit(32, 2, 64), **options)[0]
        for name in ("attention.q_proj.weight", "mlp.fc2.weight"):
            assert torch.equal(state[f"vit.layers.1.{name}"], narrow[f"vit.layers.{last}.{name}"])


@pytest.mark.parametrize("options", [ALIGNED, PLAIN | {"depth_fill": "first"}], ids=["aligned", "residual"])
@pytest.mark.parametrize("make", [vit, models.llama, models.gpt2, models.bert])
def test_where_the_stream_is_as_wide_layers_are_taken_as_they_are(make: Any, options: dict[str, Any]) -> None:
    """Norms keep their scales; the aligned recipe puts units and heads in order, and nothing else."""
    source = trained(make(depth=3))
    before, widths = source.state_dict(), find_anatomy(models.shapes_of(source)).width
    for depth in (2, 5):
        state = front_models.transfer(source, make(depth=depth), **options)[0]
        for name, tensor in state.items():
            own = re.sub(r"(layers?|h)\.(\d+)", lambda found: f"{found[1]}.{int(found[2]) % 3}", name)
            expected = before[own].to(torch.float32)
            if "recipe" in options:
                assert torch.equal(tensor.flatten().sort().values, expected.flatten().sort().values)
            else:
                assert torch.equal(tensor, expected)
            if tensor.shape == (widths,) and "norm" in name.lower():
                assert tensor.unique().numel() > 1
                assert torch.equal(tensor, expected)


def test_where_the_stream_is_as_wide_the_units_that_matter_are_chosen() -> None:
    """By what they read with times the norm's scale, as if it had been folded."""
    source = trained(vit(32, 2, 64))
    layer = source.vit.layers[1]
    scale = layer.layernorm_after.weight.data
    scale[:16], scale[16:] = 0.01, 3.0
    layer.mlp.fc1.weight.data[:32, :16], layer.mlp.fc1.weight.data[:32, 16:] = 2.0, 0.001  # large, but not read
    state = front_models.transfer(source, vit(32, 2, 24), **ALIGNED)[0]
    read, write = layer.mlp.fc1.weight * scale, layer.mlp.fc2.weight
    importance = (read - read.mean(1, keepdim=True)).norm(dim=1) * (write - write.mean(0)).norm(dim=0)
    chosen = importance.argsort(descending=True)[:24]
    assert (chosen >= 32).all()
    for name, expected in (
        ("fc1.weight", layer.mlp.fc1.weight[chosen]),
        ("fc1.bias", layer.mlp.fc1.bias[chosen]),
        ("fc2.weight", layer.mlp.fc2.weight[:, chosen]),
    ):
        assert torch.equal(state[f"vit.layers.1.mlp.{name}"], expected.to(torch.float32))


def test_where_the_stream_is_as_wide_no_bias_must_be_folded() -> None:
    """Queries without a bias cannot take that of a norm whose scale has a zero; it stays where it is."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=5, qkv_bias=False,
    )  # fmt: skip
    source = trained(transformers.ViTForImageClassification(config))
    source.vit.layers[0].layernorm_before.weight.data[3] = 0
    target, _ = moved(source, transformers.ViTForImageClassification(config).double().eval(), **ALIGNED)
    assert relative(logits(target, PIXELS), logits(source, PIXELS)) < 1e-12
    with pytest.raises(ValueError, match="no bias to fold"):
        front_models.align(source)


def test_new_units_read_as_the_target_did_and_write_nothing() -> None:
    source, like = trained(vit(32, 2, 64)), vit(32, 2, 96).double()
    state, _ = front_models.transfer(source, like, **ALIGNED)
    own = like.state_dict()
    assert torch.equal(state["vit.layers.0.mlp.fc1.weight"][64:], own["vit.layers.0.mlp.fc1.weight"][64:])
    assert (state["vit.layers.0.mlp.fc2.weight"][:, 64:] == 0).all()
    assert state["vit.layers.0.mlp.fc2.weight"][:, :64].abs().min() > 0


def test_a_tied_target_gets_one_tensor_and_the_scale_that_fits_best() -> None:
    source = trained(models.gpt2(16))
    source.transformer.ln_f.weight.data.fill_(1.7)
    assert source.transformer.ln_f.bias.abs().min() > 0
    # A scale that is one number, as here, and a bias are kept exactly, but for the mean that the embedding loses.
    source.transformer.wte.weight.data -= source.transformer.wte.weight.data.mean(1, keepdim=True)
    like = models.gpt2(32, heads=4).double().eval()
    for norm in (module for model in (source, like) for module in model.modules() if isinstance(module, nn.LayerNorm)):
        norm.eps = 0.0  # a wider stream's elements are smaller
    state, report = front_models.transfer(source, like, **ALIGNED)
    assert state["lm_head.weight"] is state["transformer.wte.weight"]
    assert state["transformer.ln_f.weight"].unique().numel() == 1
    assert relative(logits(with_weights(like, state), WORDS), logits(source, WORDS)) < 1e-9
    assert next(row for row in report.rows if row.role == "lm_head.weight").action.startswith("tied")


@pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])
def test_a_tied_target_of_the_same_width_keeps_the_last_norm(options: dict[str, Any]) -> None:
    source, like = trained(models.gpt2()), models.gpt2().double().eval()
    target, _ = moved(source, like, **options)
    assert torch.equal(target.transformer.ln_f.weight, source.transformer.ln_f.weight)
    assert relative(logits(target, WORDS), logits(source, WORDS)) < 1e-12
    # Aligned first, its head has taken the last norm's scale, and cannot share the embedding: one number remains.
    source.transformer.ln_f.weight.data.fill_(1.7)
    source.transformer.wte.weight.data -= source.transformer.wte.weight.data.mean(1, keepdim=True)
    source.transformer.ln_f.bias.data.zero_()
    state = front_models.transfer(front_models.align(source)[0], like, **PLAIN)[0]
    torch.testing.assert_close(state["transformer.ln_f.weight"], source.transformer.ln_f.weight)
    assert relative(logits(with_weights(like, state), WORDS), logits(source, WORDS)) < 1e-12


def test_what_does_not_fit_and_what_is_skipped_stays() -> None:
    source, like = trained(vit(32, 2, 64, classes=5)), vit(48, 2, 64, classes=7)
    before = {name: tensor.clone() for name, tensor in like.state_dict().items()}
    state, report = front_models.transfer(source, like, **ALIGNED, skip=("norm", "*embeddings.cls_token"))
    for name in ("classifier.weight", "classifier.bias", "vit.layernorm.weight", "vit.embeddings.cls_token"):
        assert torch.equal(state[name], before[name])
        assert state[name].data_ptr() != like.state_dict()[name].data_ptr()
    assert all(torch.equal(before[name], tensor) for name, tensor in like.state_dict().items())
    action = {row.role: row.action for row in report.rows}
    assert action["classifier.weight"].startswith("left")
    assert action["vit.layers.{}.mlp.fc1.weight"] == "transferred"


def test_the_report_tells_how_much_energy_was_kept() -> None:
    source = trained(vit(64, 2, 64))
    kept = {}
    for name, options in (("aligned", ALIGNED), ("plain", PLAIN)):
        _, report = front_models.transfer(source, vit(32, 2, 64), **options)
        row = next(row for row in report.rows if row.role == "vit.embeddings.patch_embeddings.projection.weight")
        assert row.energy_kept is not None
        kept[name] = row.energy_kept
    assert kept["plain"] == pytest.approx(0.5, abs=0.1)
    assert kept["aligned"] > kept["plain"] + 0.1


def test_dtypes_devices_and_progress() -> None:
    seen: list[tuple[int, int, str]] = []
    like = vit(48, 2, 64).bfloat16()
    state, report = front_models.transfer(vit(32, 2, 64), like, **ALIGNED, progress=lambda *step: seen.append(step))
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    roles = [row.role for row in report.rows]
    assert seen == [(i, len(roles), role) for i, role in enumerate(roles, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "best"}, "recipe: got 'best'; allowed are 'paper', 'aligned'"),
        ({"axes": "stream"}, "axes: got 'stream'; allowed are 'all', 'residual'"),
        (
            {"axes": "residual", "depth_fill": "zero"},
            "depth_fill: got 'zero' with axes='residual'; allowed are None, 'select', 'first'",
        ),
        ({"depth_fill": "select"}, "depth_fill: got 'select', which goes with transfer's axes='residual'"),
        ({"depth_fill": "first"}, "depth_fill: got 'first', which goes with transfer's axes='residual'"),
        (ALIGNED | {"gain": "area"}, "gain: got 'area' with recipe='aligned'; allowed is None"),
        (ALIGNED | {"keep_ratio": 0.5}, "keep_ratio: got 0.5 with recipe='aligned'; allowed is 1.0"),
        (
            ALIGNED | {"depth_fill": "repeat"},
            "depth_fill: got 'repeat' with recipe='aligned'; allowed are None, 'select', 'first'",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        front_models.transfer(vit(), vit(), **options)


def test_models_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="like: is of the architecture 'llama'; allowed is that of the source, 'vit'"):
        front_models.transfer(vit(), models.llama(), **ALIGNED)
    like: dict[str, Tensor] = dict(models.llama().state_dict())
    for i in range(3):
        for word in "kv":
            like[f"model.layers.{i}.self_attn.{word}_proj.weight"] = torch.zeros(16, 16)
    with pytest.raises(ValueError, match="have 16 and 16 rows; allowed are rows in the source's proportion, 16 to 8"):
        front_models.transfer(models.llama(), like, **ALIGNED)


def test_heads_are_of_one_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, like = trained(models.gpt2(32)), models.gpt2(16)
    message = "c_attn.weight has 2 heads of 8 rows; allowed are heads of the source's size, 16"
    for options in (ALIGNED, PLAIN):
        with pytest.raises(front_models.NotAlignableError, match=re.escape(message)):
            front_models.transfer(source, like, **options)
    report = front_models.compare(source, like)
    assert report.recommended == "paper"
    assert message in report.reason
    with pytest.raises(ValueError, match=r"heads: got \(3, 3\), which does not divide"):  # not for compare to hide
        front_models.compare(source, like, heads=3)
    source.save_pretrained(tmp_path / "source")
    like.config.save_pretrained(tmp_path / "like")
    capsys.readouterr()
    arguments = ["transfer", str(tmp_path / "source"), "--like", str(tmp_path / "like"), "-o", str(tmp_path / "out")]
    assert_error(capsys, main([*arguments, "--recipe", "aligned"]), 1, "2 heads of 8 rows")


@pytest.mark.parametrize("options", [ALIGNED, PLAIN], ids=["aligned", "residual"])
def test_heads_that_are_given_count(options: dict[str, Any]) -> None:
    source, like = trained(models.gpt2(32)), models.gpt2(16)
    tensors = dict(source.state_dict())  # nothing in them says how many heads there are
    front_models.transfer(tensors, like, **options, heads=4)  # of 8 rows, as the target's two
    with pytest.raises(front_models.NotAlignableError, match="2 heads of 8 rows; allowed are heads of the source"):
        front_models.transfer(tensors, like, **options, heads=2)
    with pytest.raises(ValueError, match=r"heads: got \(3, 3\), which does not divide"):
        front_models.transfer(tensors, like, **options, heads=3)
    front_models.transfer(source, like, **options, heads=4)  # before what the config says


def test_heads_do_not_go_with_the_paper_s_recipe() -> None:
    with pytest.raises(ValueError, match="heads: got 2 with recipe='paper' and axes='all'; allowed is None"):
        front_models.transfer(vit(), vit(), heads=2)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, like = trained(models.gpt2(32)).float(), models.gpt2(16, depth=2)
    folder = tmp_path / "source"
    folder.mkdir()
    save_file(
        {n: t.contiguous() for n, t in source.state_dict().items() if n != "lm_head.weight"},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(source.config.to_dict()))
    save_file(
        {n: t.clone() for n, t in like.state_dict().items() if n != "lm_head.weight"}, tmp_path / "like.safetensors"
    )
    out = tmp_path / "out.safetensors"
    arguments = [
        "transfer",
        str(folder),
        "--like",
        str(tmp_path / "like.safetensors"),
        "-o",
        str(out),
        "--recipe",
        "aligned",
    ]
    assert main([*arguments, "--json"]) == 0
    assert {row["action"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"transferred"}
    state = {n: t for n, t in source.state_dict().items() if n != "lm_head.weight"}
    target = load_file(tmp_path / "like.safetensors")
    first, _ = front_models.transfer(state, target, **ALIGNED, heads=(2, 2))
    written = load_file(out)
    assert all(torch.equal(written[name], first[name]) for name in first)
    assert main([*arguments, "--force", "--depth-fill", "select"]) == 0
    spaced, _ = front_models.transfer(state, target, **ALIGNED, heads=(2, 2), depth_fill="select")
    written = load_file(out)
    assert all(torch.equal(written[name], spaced[name]) for name in spaced)
    assert not all(torch.equal(written[name], first[name]) for name in first)
    capsys.readouterr()
    (folder / "config.json").unlink()
    assert main([*arguments, "--force", "--heads", "2,2"]) == 0
    written = load_file(out)
    assert all(torch.equal(written[name], first[name]) for name in first)
    capsys.readouterr()
    code = main([*arguments, "--force", "--gain", "area"])
    assert_error(capsys, code, 2, "'--gain' goes with '--recipe paper'.")
