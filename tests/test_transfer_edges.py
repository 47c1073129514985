"""Ties, what is left alone, skipping, writing in place, the report, files and errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import scipy.fft
import torch
from torch import nn

import front_models
import models
from front_models._files import save_weights


@pytest.mark.parametrize("make", [models.gpt2, lambda dim: models.bert(dim, head="mlm")], ids=["gpt2", "bert-mlm"])
def test_tied_weights_stay_tied(make) -> None:
    source, target = make(16), make(24)
    output, inputs = target.get_output_embeddings(), target.get_input_embeddings()
    result, report = front_models.transfer(source, target)
    front_models.initialize(target, front_models.extract(source))
    assert output.weight is inputs.weight
    state = target.state_dict()
    addresses = {n: w.data_ptr() for n, w in state.items()}
    for a, b in itertools.combinations(state, 2):
        assert (addresses[a] == addresses[b]) == (result[a].data_ptr() == result[b].data_ptr()), (a, b)
    tied = [row for row in report.rows if row.action.startswith("tied: written as ")]
    assert tied
    assert all(row.energy_kept is None and row.std_target is None for row in tied)
    origin = source.get_input_embeddings().weight.detach()
    expected = models.dense_transfer([origin], tuple(inputs.weight.shape), 1)[0]
    assert models.error(inputs.weight, expected) < 1e-5


def test_ties_of_one_side_only() -> None:
    shared = torch.randn(6, 4)
    tied = {"wte.weight": shared, "lm_head.weight": shared}
    free = {"wte.weight": torch.randn(6, 8), "lm_head.weight": torch.randn(6, 8)}
    result, report = models.both_ways(tied, free)
    assert torch.equal(result["wte.weight"], result["lm_head.weight"])
    assert result["wte.weight"].data_ptr() != result["lm_head.weight"].data_ptr()
    assert report.transferred == 2
    result, report = front_models.transfer(free, tied)
    assert result["wte.weight"] is result["lm_head.weight"]
    assert models.error(result["wte.weight"], models.dense_transfer([free["wte.weight"]], (6, 4), 1)[0]) < 1e-6
    assert [row.action for row in report.rows] == ["transferred", "tied: written as wte.weight"]


def test_a_tied_tensor_is_written_through_the_name_that_the_source_has() -> None:
    shared = torch.zeros(6, 4)
    target = {"wte.weight": shared, "lm_head.weight": shared}
    report = front_models.initialize(target, front_models.extract({"lm_head.weight": torch.randn(6, 8)}))
    assert [row.action for row in report.rows] == ["tied: written as lm_head.weight", "transferred"]
    assert shared.abs().sum() > 0


def test_skipping_one_name_of_a_tied_tensor_keeps_it() -> None:
    shared = torch.zeros(6, 4)
    target = {"wte.weight": shared, "lm_head.weight": shared}
    source = {"wte.weight": torch.randn(6, 8), "lm_head.weight": torch.randn(6, 8)}
    report = front_models.initialize(target, front_models.extract(source), skip=["embed"])
    assert [row.action for row in report.rows] == ["skipped: embed", "skipped: tied to wte.weight"]
    assert torch.count_nonzero(shared) == 0


def test_layers_that_share_one_tensor_are_written_once() -> None:
    shared = torch.zeros(4, 4)
    target = {"h.0.w": shared, "h.1.w": torch.zeros(4, 4), "h.2.w": shared}
    source = models.stack(3, (6, 6), dtype=torch.float32)
    result, _ = front_models.transfer(source, target)
    assert result["h.0.w"] is result["h.2.w"]
    assert models.error(result["h.0.w"], models.dense_transfer(list(source.values()), (4, 4), 3)[0]) < 1e-6


def test_what_is_no_weight_is_left() -> None:
    source = {
        "w": torch.randn(4, 4),
        "ids": torch.arange(3),
        "flag": torch.tensor(True),
        "z": torch.randn(3, dtype=torch.complex64),
        "bn.running_var": torch.full((3,), 9.0),
        "h.attn.bias": torch.ones(1, 1, 4, 4),
        "rotary_emb.inv_freq": torch.ones(3),
        "empty": torch.empty(0, 3),
        "shape": torch.randn(3, 4),
    }
    target = {
        "w": torch.zeros(3, 3),
        "ids": torch.arange(7),
        "flag": torch.tensor(False),
        "z": torch.zeros(5, dtype=torch.complex64),
        "bn.running_var": torch.zeros(3),
        "h.attn.bias": torch.zeros(1, 1, 4, 4),
        "rotary_emb.inv_freq": torch.zeros(3),
        "empty": torch.empty(0, 3),
        "shape": torch.zeros(3, 4, 1),
        "new": torch.zeros(4),
    }
    result, report = models.both_ways(source, target)
    assert result["w"].abs().sum() > 0
    for name in set(target) - {"w"}:
        assert torch.equal(result[name], target[name])
        assert name == "empty" or result[name].data_ptr() != target[name].data_ptr()
    table = "left: a table or statistic, not a weight"
    assert {row.role: row.action for row in report.rows} == {
        "w": "transferred",
        "ids": "left: int64 tensor",
        "flag": "left: bool tensor",
        "z": "left: complex64 tensor",
        "bn.running_var": table,
        "h.attn.bias": table,
        "rotary_emb.inv_freq": table,
        "empty": "left: no elements",
        "shape": "left: the source has 2 axes, the target 3",
        "new": "left: the source has no such role",
    }


def test_a_head_of_other_classes_is_left_with_its_bias() -> None:
    source, target = models.fill(models.vit(8, 2)), models.fill(models.vit(12, 2, classes=7), 1)
    result, report = models.both_ways(source, target)
    for name in ("head.weight", "head.bias"):
        assert torch.equal(result[name], target[name])
        assert models.rows(report)[name].action == "left: 10 classes in the source, 7 in the target"
    same, _ = models.both_ways(source, models.fill(models.vit(12, 2), 1))
    assert models.error(same["head.weight"], models.dense_transfer([source["head.weight"]], (10, 12), 1)[0]) < 1e-5


def test_vectors_and_matrices_of_one_row() -> None:
    w = torch.randn(1, 8, dtype=torch.float64)
    result, _ = models.both_ways({"w": w}, {"w": torch.zeros(3, 6, dtype=torch.float64)}, gain="ortho")
    assert models.error(result["w"], models.dense_transfer([w], (3, 6), 1, gain="ortho")[0]) < 1e-12
    result, _ = models.both_ways({"w": w.T.contiguous()}, {"w": torch.zeros(5, 1, dtype=torch.float64)})
    assert models.error(result["w"], models.dense_transfer([w.T], (5, 1), 1)[0]) < 1e-12


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element(shape: tuple[int, ...]) -> None:
    result, report = models.both_ways({"w": torch.full(shape, 2.5)}, {"w": torch.zeros(shape)})
    assert result["w"].item() == 2.5
    assert models.rows(report)["w"].energy_kept is None
    assert models.rows(report)["w"].std_source == 0


def test_convolutions_of_five_axes() -> None:
    w = torch.randn(3, 2, 2, 3, 2, dtype=torch.float64)
    result, _ = models.both_ways({"w": w}, {"w": torch.zeros(4, 2, 3, 3, 1, dtype=torch.float64)})
    assert models.error(result["w"], models.dense_transfer([w], (4, 2, 3, 3, 1), 1)[0]) < 1e-12


def test_nan_propagates_with_a_note() -> None:
    source = {"w": torch.tensor([[1.0, float("nan")], [2.0, 3.0]]), "v": torch.randn(4)}
    result, report = models.both_ways(source, {"w": torch.zeros(3, 3), "v": torch.zeros(4)})
    assert result["w"].isnan().all()
    assert result["v"].isfinite().all()
    assert models.rows(report)["w"].action == "transferred (NaN or Inf in the source)"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][0]["std_target"] is None


@pytest.mark.parametrize("where", ["extract", "initialize"])
def test_skipped_roles_stay(where: str) -> None:
    source, target = models.fill(models.vit(8, 3)), models.fill(models.vit(12, 3), 1)
    result = models.clone(target)
    skip = ["qkv", "norm", "blocks.1.mlp.fc1.*", "cls_token*"]
    gene = front_models.extract(source, skip=skip if where == "extract" else ())
    report = front_models.initialize(result, gene, skip=skip if where == "initialize" else ())
    kept = {name for name in target if torch.equal(result[name], target[name])}
    assert kept == {n for n in target if "norm" in n or "qkv" in n or n.startswith(("blocks.1.mlp.fc1", "cls_token"))}
    actions = {row.role: row.action for row in report.rows}
    assert actions["blocks.{}.norm1.weight"] == "skipped: norm"
    assert actions["blocks.{}.attn.qkv.bias"] == "skipped: qkv"
    assert actions["cls_token"] == "skipped: cls_token*"
    assert actions["blocks.{}.mlp.fc1.weight"] == "transferred (1 of 3 tensors skipped)"
    whole, _ = front_models.transfer(source, target)
    assert models.error(result["blocks.2.mlp.fc1.weight"], whole["blocks.2.mlp.fc1.weight"]) < 1e-6
    models.both_ways(source, target, skip=skip)


def test_strided_targets_are_written_where_they_lie() -> None:
    source = models.stack(2, (6, 8))
    memory = torch.full((2, 10, 9), 7.0, dtype=torch.float64)
    target = {f"h.{i}.w": memory[i, 1:9:2, 1:6].t() for i in range(2)}  # 5 x 4
    front_models.initialize(target, front_models.extract(source))
    for i, w in enumerate(models.dense_transfer(list(source.values()), (5, 4), 2)):
        assert models.error(target[f"h.{i}.w"], w) < 1e-12
    untouched = torch.ones_like(memory, dtype=torch.bool)
    untouched[:, 1:9:2, 1:6] = False
    assert (memory[untouched] == 7).all()


def test_transfer_leaves_its_inputs_alone() -> None:
    source, like = models.fill(models.vit(8, 3)), models.fill(models.vit(12, 2), 1)
    before = models.clone(source), models.clone(like)
    result, _ = front_models.transfer(source, like, gain="area")
    for now, then in zip((source, like), before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)
    inputs = {w.data_ptr() for w in (*source.values(), *like.values())}
    assert not inputs & {w.data_ptr() for w in result.values()}
    assert all(w.is_contiguous() for w in result.values())


class Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, 4))
        self.register_state_dict_post_hook(lambda m, state, p, local: state.update(w=m.w.detach().clone()))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"a": torch.zeros(3), "w": torch.zeros(4, 1).expand(4, 4)}, r"target: w is expanded: several of its elements"),
        (
            {"a": torch.zeros(3), "w": torch.zeros(4, 4, device="meta")},
            r"target: w is on the meta device; allowed are strided",
        ),
        (
            {"a": torch.zeros(3), "w": torch.zeros(4, 4).to_sparse()},
            r"target: w is of layout torch.sparse_coo; allowed",
        ),
        (Copies(), r"target: w is a copy that the module's state_dict\(\) made"),
    ],
)
def test_unwritable_targets_are_refused_before_anything_is_written(target, message: str) -> None:
    gene = front_models.extract({"a": torch.randn(3), "w": torch.randn(4, 4)})
    with pytest.raises(ValueError, match=message):
        front_models.initialize(target, gene)
    if isinstance(target, dict):
        assert torch.count_nonzero(target["a"]) == 0


def test_energy_kept_is_the_share_of_the_placed_block() -> None:
    source = models.stack(4, (8, 12))
    for keep_ratio, select_n, size, depth in ((1.0, None, (8, 5), 4), (0.5, 3, (6, 12), 6), (0.7, None, (20, 20), 2)):
        _, report = models.both_ways(
            source, models.stack(depth, size, seed=1), keep_ratio=keep_ratio, select_n=select_n, gain="area"
        )
        x = torch.stack([(w - w.mean()) / (w.std() + 1e-8) for w in source.values()]).numpy()
        energy = scipy.fft.dctn(x, norm="ortho") ** 2
        n = min(4, depth, select_n or depth)
        k = [min(int(s * keep_ratio), t) for s, t in zip((8, 12), size, strict=True)]
        expected = energy[:n, : k[0], : k[1]].sum() / energy.sum()
        assert report.rows[0].energy_kept == pytest.approx(expected, rel=1e-10)


def test_report_rows_and_their_numbers() -> None:
    source, target = models.fill(models.vit(8, 3)), models.fill(models.vit(12, 5), 1)
    result, report = models.both_ways(source, target)
    row = models.rows(report)["blocks.{}.mlp.fc1.weight"]
    assert (row.kind, row.source_shape, row.source_depth) == ("mlp", (32, 8), 3)
    assert (row.target_shape, row.target_depth, row.action) == ((48, 12), 5, "transferred")
    before = torch.stack([source[f"blocks.{i}.mlp.fc1.weight"] for i in range(3)]).double().std().item()
    after = torch.stack([result[f"blocks.{i}.mlp.fc1.weight"] for i in range(5)]).double().std().item()
    assert row.std_source == pytest.approx(before, rel=1e-6)
    assert row.std_target == pytest.approx(after, rel=1e-9)
    assert report.transferred == len(report.rows) == 20
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["transferred"] == data["roles"] == 20
    assert data["rows"][0]["source_shape"] == [1, 1, 8]


def test_what_skip_does_not_match_is_noted() -> None:
    source, target = models.fill(models.vit(8, 3)), models.fill(models.vit(12, 5), 1)
    skip = ["blocks.*.fc9.*", "blocks.4.*", "blocks.{}.mlp.fc1.*", "norm"]  # the second is in the target alone
    note = "skip: 'blocks.*.fc9.*' matches no tensor"
    _, report = front_models.transfer(source, target, skip=skip)
    assert note in report.notes
    gene = front_models.extract(source, skip=["qkv", "*.attn.other.*"])
    initialized = front_models.initialize(target, gene, skip=skip)
    for notes in (report.notes, initialized.notes):
        assert [each for each in notes if each.startswith("skip:")] == [note]


def test_notes_are_no_markup() -> None:
    _, report = front_models.transfer(
        {"a.w": torch.ones(2, 2)}, {"a.w": torch.ones(3, 3)}, skip=["*.n[ab].*", "x.[/a]y"]
    )
    text = str(report)
    assert "note: skip: '*.n[ab].*' matches no tensor" in text
    assert "note: skip: 'x.[/a]y' matches no tensor" in text


def test_report_prints_as_a_table_with_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    source, target = models.fill(models.vit(8, 3)), models.fill(models.vit(12, 5), 1)
    _, report = front_models.transfer(source, target, skip=["blocks.*.norm[12].*"])
    print(report)
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if "blocks.{}.attn.qkv.weight" in line).split()
    assert line[:8] == ["blocks.{}.attn.qkv.weight", "qkv", "3", "·", "24x8", "5", "·", "36x12"]
    assert line[-1] == "transferred"
    assert any("skipped: blocks.*.norm[12].*" in line for line in lines)
    assert lines[0].strip() == "16 of 20 roles transferred"


def test_progress_counts_the_roles() -> None:
    source, target = models.fill(models.vit(8, 2)), models.fill(models.vit(12, 2), 1)
    seen: list[tuple[int, int, str]] = []
    gene = front_models.extract(source, progress=lambda *call: seen.append(call))
    assert [call[:2] for call in seen] == [(i + 1, 20) for i in range(20)]
    assert {call[2] for call in seen} == set(gene.roles)
    for run in (
        lambda progress: front_models.initialize(models.clone(target), gene, progress=progress),
        lambda progress: front_models.transfer(source, target, progress=progress)[1],
    ):
        seen.clear()
        report = run(lambda *call: seen.append(call))
        assert seen == [(i + 1, 20, row.role) for i, row in enumerate(report.rows)]


STATE = {"w": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"keep_ratio": 0}, ValueError, r"keep_ratio: got 0; allowed is a number in \(0, 1\]"),
        ({"keep_ratio": 1.01}, ValueError, r"keep_ratio: got 1.01; allowed is a number in \(0, 1\]"),
        ({"keep_ratio": float("nan")}, ValueError, r"keep_ratio: got nan"),
        ({"keep_ratio": "0.5"}, TypeError, r"keep_ratio: got '0.5'; allowed is a number"),
        ({"keep_ratio": True}, TypeError, r"keep_ratio: got True"),
        ({"mlp_axes": "rows"}, ValueError, r"mlp_axes: got 'rows'; allowed are 'both', 'hidden'"),
        ({"mlp_axes": "hidden"}, ValueError, r"mlp_axes: got 'hidden', but the source has no MLP projections"),
        ({"depth": 1}, TypeError, r"depth: got 1; allowed are True and False"),
        ({"skip": ["attention"]}, ValueError, r"skip: unknown word 'attention'; allowed are qkv, o, mlp"),
        ({"gain": "none"}, ValueError, r"gain: got 'none'; allowed are None, 'area', 'ortho'"),
        ({"depth_fill": "zeros"}, ValueError, r"depth_fill: got 'zeros'; allowed are 'zero', 'random', 'consistence'"),
        ({"select_n": 0}, ValueError, r"select_n: got 0; allowed are None and whole numbers from 1"),
        ({"select_n": 1.5}, TypeError, r"select_n: got 1.5; allowed are None and whole numbers from 1"),
        ({"generator": 7}, TypeError, r"generator: got int; allowed are None and a torch.Generator"),
    ],
)
def test_option_errors(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        front_models.transfer(STATE, STATE, **options)
    gene = front_models.extract(STATE)
    taken = options.keys() & {"keep_ratio", "mlp_axes", "depth", "skip"}
    with pytest.raises(kind, match=message):
        front_models.extract(STATE, **options) if taken else front_models.initialize(
            models.clone(STATE), gene, **options
        )


def test_source_and_target_errors() -> None:
    gene = front_models.extract(STATE)
    with pytest.raises(TypeError, match=r"source: got list; allowed are a mapping of names to tensors, a torch.nn.Mod"):
        front_models.extract([STATE])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"source: a mapping of names to tensors is needed, but 'model' holds dict"):
        front_models.extract({"model": STATE})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="source: holds no tensors"):
        front_models.extract({})
    with pytest.raises(ValueError, match="like: holds no tensors"):
        front_models.transfer(STATE, nn.ReLU())
    with pytest.raises(TypeError, match=r"target: got str; allowed are a torch.nn.Module or a state dict"):
        front_models.initialize("model.safetensors", gene)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gene: got dict; allowed is a Learngene"):
        front_models.initialize(models.clone(STATE), STATE)  # type: ignore[arg-type]


def test_nothing_in_common() -> None:
    other = {f"a{i}": torch.ones(2) for i in range(5)}
    message = r"%s: has no role in common with the source; the source has 'w', %s has 'a0', 'a1', 'a2' and 2 more"
    with pytest.raises(ValueError, match=message % ("like", "like")):
        front_models.transfer(STATE, other)
    with pytest.raises(ValueError, match=message % ("target", "target")):
        front_models.initialize(other, front_models.extract(STATE))


def test_repeat_refuses_a_deeper_target_before_anything_is_written() -> None:
    source = models.stack(3, (4, 4)) | {"a": torch.randn(3)}
    target = {"a": torch.zeros(3)} | models.stack(5, (4, 4))
    message = r"depth_fill: got 'repeat'.*but h.\{\}.w has 5 layers in the target and 3 in the source; allowed here are"
    with pytest.raises(ValueError, match=message):
        front_models.initialize(target, front_models.extract(source), depth_fill="repeat")
    assert torch.count_nonzero(target["a"]) == 0
    with pytest.raises(ValueError, match=message):
        front_models.transfer(source, target, depth_fill="repeat")
    front_models.transfer(source, target, depth_fill="repeat", skip=["h.*"])


def test_paths_are_read_one_tensor_at_a_time_and_keep_their_ties(tmp_path: Path) -> None:
    source, like = ({n: w.detach() for n, w in models.gpt2(dim).state_dict().items()} for dim in (16, 24))
    save_weights(tmp_path / "source.safetensors", source)
    save_weights(tmp_path / "like.safetensors", like)
    torch.save(like, tmp_path / "like.pt")
    expected, _ = front_models.transfer(source, like)
    gene = front_models.extract(tmp_path / "source.safetensors")
    assert gene.ties == {"lm_head.weight": "transformer.wte.weight"}
    for path in (tmp_path / "like.safetensors", str(tmp_path / "like.pt")):
        result, report = front_models.transfer(tmp_path / "source.safetensors", path)
        assert {name: w.shape for name, w in result.items()} == {name: w.shape for name, w in expected.items()}
        assert all(torch.equal(result[name], expected[name]) for name in expected)
        assert result["lm_head.weight"] is result["transformer.wte.weight"]
        assert sum(row.action.startswith("tied") for row in report.rows) == 1
