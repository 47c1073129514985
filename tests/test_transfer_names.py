"""Names that mislead: nested numbers, heads side by side, layers named like heads, ties that a file only claims."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from front_models import Learngene, SpectralRegularizer, align, compare, extract, initialize, transfer
from front_models._files import open_weights
from front_models._roles import find_axes
from front_models._walk import describe, named_tensors, tied_names


def constant(rows: int, columns: int, value: float) -> torch.Tensor:
    return torch.full((rows, columns), value)


def both_ways(source, like, **options):
    """transfer, and initialize(extract): the same roles, actions and results."""
    new, report = transfer(source, like, **options)
    again = {name: tensor.clone() for name, tensor in like.items()}
    repeated = initialize(again, extract(source), **options)
    seen = [[(row.role, row.source_depth, row.target_depth, row.action) for row in r.rows] for r in (report, repeated)]
    assert seen[0] == seen[1]
    for name, tensor in again.items():
        torch.testing.assert_close(new[name], tensor, rtol=1e-5, atol=1e-6)
    return new, report


@pytest.mark.parametrize("inner", ["experts", "blocks"])
def test_an_inner_number_of_unlike_outer_layers_is_matched_one_by_one(inner):
    """The outer layers of the target have two widths, so they are no axis there; each inner list is one by itself."""
    source = {
        f"layers.{i}.{inner}.{j}.{part}.weight": constant(6, 6, 10.0 * i + j) + 0.01 * torch.randn(6, 6)
        for i in range(2)
        for j in range(3)
        for part in ("up", "down")
    }
    like = {
        f"layers.{i}.{inner}.{j}.{part}.weight": torch.zeros(width, width)
        for i, width in enumerate((8, 12))
        for j in range(3)
        for part in ("up", "down")
    }
    new, report = both_ways(source, like, gain="area")
    for i in range(2):
        for j in range(3):
            assert abs(new[f"layers.{i}.{inner}.{j}.up.weight"].mean() - (10 * i + j)) < 0.05
    assert report.transferred == len(report.rows)


def test_heads_side_by_side_are_no_layers():
    source = {"body.weight": torch.randn(8, 8)}
    for i, classes in enumerate((3, 3)):
        source |= {f"heads.{i}.weight": torch.randn(classes, 8), f"heads.{i}.bias": torch.randn(classes)}
    assert find_axes({"blocks.0.weight": (3, 8), "blocks.1.weight": (3, 8)})
    for classes in ((5, 5), (5, 6), (3, 5)):
        like = {"body.weight": torch.zeros(12, 12)}
        for i, n in enumerate(classes):
            like |= {f"heads.{i}.weight": torch.full((n, 12), 7.0), f"heads.{i}.bias": torch.full((n,), 7.0)}
        new, report = both_ways(source, like)
        for i, n in enumerate(classes):
            left = bool((new[f"heads.{i}.weight"] == 7).all() and (new[f"heads.{i}.bias"] == 7).all())
            assert left == (n != 3), (classes, i)
        assert all(row.target_depth == 1 for row in report.rows)


def test_a_chain_of_layers_in_one_head_has_one_output():
    source = {"classifier.0.weight": torch.randn(8, 8), "classifier.3.weight": torch.randn(4, 8)}
    like = {"classifier.0.weight": torch.zeros(12, 12), "classifier.3.weight": torch.full((6, 12), 7.0)}
    new, _ = both_ways(source, like)
    assert new["classifier.0.weight"].norm() > 0
    assert (new["classifier.3.weight"] == 7).all()


@pytest.mark.parametrize("name", ["pre_classifier", "conv_head"])
def test_layers_before_a_head_are_started(name):
    source, like = {f"{name}.weight": torch.randn(8, 8)}, {f"{name}.weight": torch.zeros(12, 12)}
    new, report = both_ways(source, like)
    assert report.rows[0].action == "transferred"
    assert new[f"{name}.weight"].norm() > 0


def test_nothing_to_transfer_is_an_error_unless_it_was_asked_for():
    source, like = {"head.weight": torch.randn(3, 8)}, {"head.weight": torch.randn(5, 8)}
    message = r"like: nothing of the source can be transferred: 'head\.weight \(left: 3 classes in the source, 5 in"
    with pytest.raises(ValueError, match=message):
        transfer(source, like)
    _, report = transfer({"mlp.fc1.weight": torch.randn(4, 4)}, {"mlp.fc1.weight": torch.randn(6, 6)}, skip=["mlp"])
    assert report.transferred == 0


def test_what_a_file_stores_twice_is_not_tied_whatever_its_metadata_say(tmp_path):
    weights = {"a.weight": torch.randn(4, 4), "b.weight": torch.randn(4, 4)}
    save_file(weights, tmp_path / "both.safetensors", metadata={"b.weight": "a.weight", "format": "pt"})
    like = {"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(4, 4)}
    new, report = transfer(tmp_path / "both.safetensors", like)
    assert [row.action for row in report.rows] == ["transferred", "transferred"]
    for name, tensor in weights.items():
        torch.testing.assert_close(new[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_result_that_its_dtype_cannot_hold_is_said():
    source = {"w": torch.randn(8, 8) * 6e4}
    _, report = transfer(source, {"w": torch.zeros(4, 4, dtype=torch.float16)})
    assert report.rows[0].action == "transferred (NaN or Inf in the result: its dtype is too small)"


def test_deviation_of_a_partly_skipped_role_counts_all_its_tensors():
    source = {f"blocks.{i}.attn.qkv.weight": torch.randn(8, 8) for i in range(2)}
    like = {f"blocks.{i}.attn.qkv.weight": torch.randn(8, 8) * 100 for i in range(2)}
    new, report = transfer(source, like, skip=["blocks.1.*"])
    assert torch.equal(new["blocks.1.attn.qkv.weight"], like["blocks.1.attn.qkv.weight"])
    together = torch.stack(list(new.values())).double()
    assert report.rows[0].std_target == pytest.approx(together.std().item(), rel=1e-6)
    assert isinstance(extract(source), Learngene)


def gpt2(width: int, layers: int) -> nn.Module:
    torch.manual_seed(width)
    return GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=layers, n_head=width // 8, vocab_size=40, n_positions=8))


WRAPPERS = {
    "torch.compile": (torch.compile, "_orig_mod."),
    "DataParallel": (nn.DataParallel, "module."),
    "both": (lambda model: nn.DataParallel(torch.compile(model)), "module._orig_mod."),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("recipe", ["paper", "aligned"])
def test_wrapped_models_are_those_within(wrapper, recipe):
    wrap, prefix = WRAPPERS[wrapper]
    source, like = gpt2(32, 3), gpt2(16, 2)
    expected, report = transfer(source, like, recipe=recipe, skip=("transformer.wpe.*",))
    wrapped = wrap(like)
    for one, other, before in ((wrap(source), like, ""), (source, wrapped, prefix), (wrap(source), wrapped, prefix)):
        found, again = transfer(one, other, recipe=recipe, skip=("transformer.wpe.*",))
        assert again == report
        assert list(found) == [before + name for name in expected]
        assert all(torch.equal(found[before + name], tensor) for name, tensor in expected.items())
    wrapped.load_state_dict(found)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in like.state_dict().items())


def compiled_by_parts(model: nn.Module) -> nn.Module:
    """As regional compilation does, but for the last layer."""
    layers = model.transformer.h
    for i in range(len(layers) - 1):
        layers[i] = torch.compile(layers[i])
    return model


@pytest.mark.parametrize("recipe", ["paper", "aligned"])
@pytest.mark.parametrize("kind", ["module", "state dict", "pt", "safetensors"])
def test_compiled_parts_have_the_names_of_what_is_within(recipe, kind, tmp_path):
    source, like, skip = gpt2(32, 3), gpt2(16, 2), ("transformer.h.1.mlp.*",)
    expected, report = transfer(source, like, recipe=recipe, skip=skip)
    parts, wrapped = compiled_by_parts(gpt2(32, 3)), torch.compile(compiled_by_parts(gpt2(16, 2)))
    state = parts.state_dict()
    assert "transformer.h.1._orig_mod.ln_1.weight" in state
    torch.save(state, tmp_path / "a.pt")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    given = {"module": parts, "state dict": state}.get(kind, tmp_path / f"a.{kind}")
    heads = {} if recipe == "paper" else {"heads": 4}
    found, again = transfer(given, wrapped, recipe=recipe, skip=skip, **heads)
    assert list(found) == list(wrapped.state_dict())
    wrapped.load_state_dict(found)
    for name, tensor in zip(expected, found.values(), strict=True):
        assert torch.equal(tensor, expected[name]), name
    assert [(row.role, row.action) for row in again.rows] == [(row.role, row.action) for row in report.rows]
    assert not any(note.startswith("skip:") for note in again.notes)
    same, _ = transfer(source, given, recipe=recipe)
    assert same.keys() == (source.state_dict() if kind in ("pt", "safetensors") else state).keys()


@pytest.mark.parametrize("recipe", ["paper", "aligned"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "module._orig_mod.module."])
def test_state_dicts_of_wrapped_models_are_those_of_what_is_within(recipe, prefix, tmp_path):
    """Read as a mapping or from a file; a mapping that says what the target is keeps its names in the result."""
    source, like, skip = gpt2(32, 3).state_dict(), gpt2(16, 2).state_dict(), ("transformer.wpe.*",)
    heads = {} if recipe == "paper" else {"heads": 4}
    expected, report = transfer(source, like, recipe=recipe, skip=skip, **heads)
    theirs, ours = ({prefix + name: tensor for name, tensor in state.items()} for state in (source, like))
    torch.save(theirs, tmp_path / "a.pt")
    for one, other, before in ((theirs, like, ""), (tmp_path / "a.pt", like, ""), (source, ours, prefix)):
        found, again = transfer(one, other, recipe=recipe, skip=skip, **heads)
        assert again == report
        assert list(found) == [before + name for name in expected]
        assert all(torch.equal(found[before + name], tensor) for name, tensor in expected.items())
    gene = extract(tmp_path / "a.pt", keep_ratio=0.5)
    assert gene.roles.keys() == extract(source, keep_ratio=0.5).roles.keys()
    copies = {name: tensor.clone() for name, tensor in ours.items()}
    assert initialize(copies, gene).rows == initialize({n: t.clone() for n, t in like.items()}, gene).rows
    assert not torch.equal(*(each[prefix + "transformer.h.0.mlp.c_fc.weight"] for each in (copies, ours)))


def test_a_part_that_is_called_module_keeps_its_name():
    """Beside others: no wrapper."""
    own = {"module.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}
    assert dict(named_tensors(own, "source")) == own


def test_a_file_under_other_names_is_read_as_it_was(tmp_path):
    shared = torch.randn(4, 3)
    tensors = {"_orig_mod.wte.weight": shared, "_orig_mod.lm_head.weight": shared, "_orig_mod.b": torch.ones(2).half()}
    save_model = {"_orig_mod.wte.weight": shared, "_orig_mod.b": tensors["_orig_mod.b"]}
    save_file(save_model, tmp_path / "a.safetensors", {"_orig_mod.lm_head.weight": "_orig_mod.wte.weight"})
    torch.save(tensors, tmp_path / "a.pt")
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        found = open_weights(path)
        assert found.path == path
        assert set(found) == {"wte.weight", "lm_head.weight", "b"}
        assert len(found) == 3
        assert all(torch.equal(found[name], tensors[f"_orig_mod.{name}"]) for name in found)
        infos = describe(found)
        assert (infos["b"].shape, infos["b"].dtype) == ((2,), torch.float16)
        tied = tied_names(found)
        assert tied["wte.weight"] == tied["lm_head.weight"]
        assert tied["b"] == "b"


def test_names_that_would_become_one_stay():
    both = {"a._orig_mod.w": torch.ones(2, 2), "a.w": torch.zeros(2, 2)}
    assert dict(named_tensors(both, "source")) == both
    mine = {"my_orig_mod.w": torch.ones(2, 2)}
    assert list(named_tensors(mine, "source")) == ["my_orig_mod.w"]


def test_covariances_of_compiled_parts_that_have_run():
    """Compiled code calls no hooks that it was compiled without."""
    torch._dynamo.reset()
    data = [torch.arange(8)[None], torch.arange(8).flip(0)[None]]
    plain, parts = gpt2(32, 3), gpt2(32, 3)
    for i, layer in enumerate(parts.transformer.h):
        parts.transformer.h[i] = torch.compile(layer, backend="eager")
    whole = torch.compile(gpt2(32, 3), backend="eager")
    expected = align(plain, basis="activations", data=data)[1].energy
    for model in (parts, whole):
        model(data[0])
        assert torch.equal(align(model, basis="activations", data=data)[1].energy, expected)


def test_a_norm_that_is_not_called_is_an_error():
    model = gpt2(32, 3)
    model.transformer.h[1].forward = lambda x, *args, **kwargs: x
    with pytest.raises(
        ValueError, match=r"source: on these data it does not call the norm of 'transformer\.h\.1\.ln_1"
    ):
        align(model, basis="activations", data=[torch.arange(8)[None]])


def test_templates_are_taken_by_patterns_for_templates():
    source = {f"h.{i}.mlp.fc1.weight": torch.randn(4, 4) for i in range(3)}
    like = {name: torch.zeros(2, 2) for name in source}
    for word, action in (("h.??.mlp.*", "transferred"), ("h.{}.mlp.*", "skipped: h.{}.mlp.*")):
        report = transfer(source, like, skip=[word])[1]
        assert report.rows[0].action == action
        assert (report.notes != ()) == (action == "transferred")


def test_a_regularizer_of_compiled_parts():
    plain, parts = gpt2(32, 3), compiled_by_parts(gpt2(32, 3))
    skip = ("transformer.h.0.mlp.*", "norm")
    one, other = (SpectralRegularizer(model, keep_ratio=0.5, depth=True, skip=skip) for model in (plain, parts))
    assert one.report() == other.report()
    assert torch.equal(one(), other())


def test_what_is_extracted_aligned_and_compared_is_the_model_within():
    source, like = gpt2(32, 3), gpt2(16, 2)
    gene = extract(source, keep_ratio=0.5)
    wrapped = extract(torch.compile(source), keep_ratio=0.5)
    assert list(gene.roles) == list(wrapped.roles)
    one, other = gpt2(16, 2), gpt2(16, 2)
    assert initialize(one, gene).rows == initialize(torch.compile(other), wrapped).rows
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not torch.equal(one.lm_head.weight, like.lm_head.weight)
    assert compare(source, like) == compare(torch.compile(source), nn.DataParallel(like))
    plain, found = align(source)[0], align(nn.DataParallel(source))[0]
    assert list(plain) == list(found)
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
