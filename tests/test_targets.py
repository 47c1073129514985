"""Models built from Hugging Face configs: started, written, and loaded back by transformers."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import front_models
from command import assert_error, names_in
from front_models._cli import main
from front_models._files import WeightsFileError, open_weights
from front_models._kinds import skips
from front_models._naming import expand_skip, own_names
from front_models._report import RoleRow, TransferReport
from front_models._targets import align_names, load_target

BERT = {"vocab_size": 40, "max_position_embeddings": 12, "num_attention_heads": 2}
SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, **BERT}
LARGE = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 3, **BERT}


def config_folder(path: Path, kind: type[Any], *architectures: str, **options: Any) -> Path:
    kind(architectures=list(architectures), **options).save_pretrained(path)
    return path


def saved_model(path: Path, model: Any) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(path)
    return path


def test_bert_folder_loads_without_missing_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved_model(tmp_path / "source", transformers.BertModel(transformers.BertConfig(**SMALL)))
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    out = tmp_path / "out"
    assert main(["transfer", str(source), "--like", str(like), "-o", str(out)]) == 0
    assert capsys.readouterr().err == ""
    model, info = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (12, 3)
    assert {"config.json", "model.safetensors", "vocab.txt"} <= set(names_in(out))
    expected, _ = front_models.transfer(source, model)
    written = open_weights(out)
    for name, tensor in expected.items():
        if name in written:
            torch.testing.assert_close(written[name], tensor)
    assert names_in(tmp_path) == ["like", "out", "source"]
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "config.json").stat().st_mode & 0o777


def test_a_head_gets_initial_values_from_the_seed(tmp_path: Path) -> None:
    """The source is the base model, without the prefix that the target has, and without a classifier."""
    source = saved_model(tmp_path / "source", transformers.BertModel(transformers.BertConfig(**SMALL)))
    kind = "BertForSequenceClassification"
    like = config_folder(tmp_path / "like", transformers.BertConfig, kind, **LARGE)
    state = torch.random.get_rng_state()
    found = []
    for i, seed in enumerate((7, 7, 8)):
        out = tmp_path / f"out{i}"
        assert main(["transfer", str(source), "--like", str(like), "-o", str(out), "--seed", str(seed), "-q"]) == 0
        found.append(dict(open_weights(out)))
    assert torch.equal(state, torch.random.get_rng_state())
    first, again, other = found
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert torch.equal(
        first["bert.encoder.layer.0.output.dense.weight"], other["bert.encoder.layer.0.output.dense.weight"]
    )
    torch.manual_seed(7)
    fresh = transformers.BertForSequenceClassification(transformers.AutoConfig.from_pretrained(like))
    assert torch.equal(first["classifier.weight"], fresh.state_dict()["classifier.weight"])
    _, info = transformers.BertForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]


def test_gpt2_stays_tied_through_a_gene(tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "n_positions": 8, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=2, **sizes))
    source = saved_model(tmp_path / "source", model)
    like = config_folder(tmp_path / "like", transformers.GPT2Config, "GPT2LMHeadModel", n_embd=12, n_layer=3, **sizes)
    gene, out, file = (str(tmp_path / name) for name in ("gene.safetensors", "out", "out.safetensors"))
    assert main(["extract", str(source), "-o", gene]) == 0
    assert main(["init", gene, "--like", str(like), "-o", out]) == 0
    assert main(["init", gene, "--like", str(like), "-o", file]) == 0
    loaded, info = transformers.GPT2LMHeadModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
    written = open_weights(file)
    assert set(written) == set(loaded.state_dict())
    assert written["lm_head.weight"].data_ptr() == written["transformer.wte.weight"].data_ptr()
    assert torch.equal(written["lm_head.weight"], loaded.lm_head.weight)


def test_the_configs_dtype_is_the_models(tmp_path: Path) -> None:
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    config = json.loads((like / "config.json").read_text())
    (like / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    target = load_target(like)
    assert target.tensors["pooler.dense.weight"].dtype == torch.bfloat16
    (like / "config.json").write_text(json.dumps({**config, "dtype": "int8", "torch_dtype": "int8"}))
    with pytest.raises(WeightsFileError, match="no model can be built from it"):
        load_target(like)


@pytest.mark.parametrize(
    ("names", "source", "expected"),
    [
        (["bert.a.0.w", "head.w"], ["a.0.w"], ["a.0.w", "head.w"]),
        (["a.3.w"], ["bert.a.0.w", "head.w"], ["bert.a.3.w"]),
        (["bert.a.0.w"], ["bert.a.0.w"], ["bert.a.0.w"]),
        (["bert.a.0.w"], ["bert.a.{}.w"], ["bert.a.0.w"]),
        (["bert.a.0.w"], ["other"], ["bert.a.0.w"]),
        (["bert.w", "w"], ["w"], ["bert.w", "w"]),
    ],
)
def test_names_are_aligned(names: list[str], source: list[str], expected: list[str]) -> None:
    assert align_names(names, source, "bert") == dict(zip(names, expected, strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not a JSON file"),
        ("[]", "not a model's config, but a JSON list"),
        ('{"model_type": "no-such-model"}', "config.json: no model can be built from it"),
        ('{"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}', "not a multiple"),
        ('{"model_type": "bert", "architectures": ["BertForNothing"]}', "'BertForNothing' is no model of transformers"),
        ('{"model_type": "bert", "architectures": ["pipeline"]}', "'pipeline' is no model of transformers"),
        ("{}", "the folder has none of model.safetensors"),
    ],
)
def test_bad_configs(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsFileError) as caught:
        load_target(tmp_path)
    assert message in str(caught.value)


def test_a_configs_own_code_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    with pytest.raises(WeightsFileError, match="no model can be built from it"):
        load_target(tmp_path)
    assert names_in(tmp_path) == ["config.json", "mine.py"]


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'front-kernels\[hf\]'"):
        load_target(like)


def test_force_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved_model(tmp_path / "source", transformers.BertModel(transformers.BertConfig(**SMALL)))
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    command = ["transfer", str(source), "--like", str(like), "-o", str(like)]
    assert_error(capsys, main(command), 1, "exists; it is replaced only with force")
    assert names_in(like) == ["config.json"]
    assert main([*command, "--force"]) == 0
    assert names_in(like) == ["config.json", "model.safetensors"]


def test_a_full_disk_under_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved_model(tmp_path / "source", transformers.BertModel(transformers.BertConfig(**SMALL)))
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)

    def write_half(_model: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"\0" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transformers.BertModel, "save_pretrained", write_half)
    code = main(["transfer", str(source), "--like", str(like), "-o", str(tmp_path / "out")])
    assert_error(capsys, code, 1, "No space left on device")
    assert names_in(tmp_path) == ["like", "source"]


def test_force_keeps_a_folder_with_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved_model(tmp_path / "source", transformers.BertModel(transformers.BertConfig(**SMALL)))
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    (like / "results.csv").write_text("precious")
    code = main(["transfer", str(source), "--like", str(like), "-o", str(like), "--force"])
    assert_error(capsys, code, 1, "not replaced, because it holds 'results.csv', which is no file of a model")
    assert names_in(like) == ["config.json", "results.csv"]


def test_like_may_name_the_config_itself(tmp_path: Path) -> None:
    like = config_folder(tmp_path / "like", transformers.BertConfig, "BertModel", **LARGE)
    named, folder = load_target(like / "config.json", seed=3), load_target(like, seed=3)
    assert named.folder == like
    assert named.tensors.keys() == folder.tensors.keys()
    assert all(torch.equal(named.tensors[name], folder.tensors[name]) for name in folder.tensors)


QUERY = "encoder.layer.{}.attention.self.query.weight"


@pytest.mark.parametrize("way", ["transfer", "init"])
@pytest.mark.parametrize("prefixed", ["target", "source"])
@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("bert.encoder.layer.*.attention.self.query.weight", [0, 1, 2]),
        ("encoder.layer.*.attention.self.query.weight", [0, 1, 2]),
        ("bert.encoder.layer.{}.attention.self.query.weight", [0, 1, 2]),
        ("encoder.layer.{}.attention.self.query.weight", [0, 1, 2]),
        ("bert.encoder.layer.1.attention.self.q*", [1]),
        ("encoder.layer.1.attention.self.q*", [1]),
    ],
)
def test_skip_patterns_match_the_names_of_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str, prefixed: str, pattern: str, layers: list[int]
) -> None:
    kinds = ["BertForSequenceClassification", "BertModel"]
    target, other = kinds if prefixed == "target" else kinds[::-1]
    source = saved_model(tmp_path / "source", getattr(transformers, other)(transformers.BertConfig(**SMALL)))
    like = config_folder(tmp_path / "like", transformers.BertConfig, target, **LARGE)
    command = ["transfer", str(source)]
    if way == "init":
        assert main(["extract", str(source), "-o", str(tmp_path / "gene.safetensors")]) == 0
        command = ["init", str(tmp_path / "gene.safetensors")]
    capsys.readouterr()
    out = tmp_path / "out.safetensors"
    assert main([*command, "--like", str(like), "-o", str(out), "--skip", pattern, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    before, written = load_target(like).tensors, open_weights(out)
    kept = {name for name in before if before[name].ndim > 1 and torch.equal(before[name], written[name])}
    own = QUERY if prefixed == "source" else f"bert.{QUERY}"
    assert kept - {"classifier.weight"} == {own.format(layer) for layer in layers}
    rows = {row["role"]: row["action"] for row in json.loads(captured.out)["rows"]}
    templates = {re.sub(r"\.\d+\.", ".{}.", name) for name in before}
    assert set(rows) == templates
    expected = f"skipped: {pattern}" if len(layers) == 3 else "transferred (1 of 3 tensors skipped)"
    assert rows[own] == expected
    assert sum(action != "transferred" for action in rows.values()) <= 5


def test_a_pattern_for_the_base_model_spares_the_head() -> None:
    names = {"bert.a.0.w": "a.0.w", "bert.a.1.w": "a.1.w", "bert.head": "head", "classifier.w": "classifier.w"}
    words = expand_skip(["qkv", "bert.*"], names)
    assert set(words.values()) == {"qkv", "bert.*"}
    found = {aligned for aligned in names.values() if skips(words, "other", aligned, aligned)}
    assert found == {"a.0.w", "a.1.w", "head"}
    assert len(words) == 4  # both layers by one pattern
    assert skips(words, "head", "x", "x") is None
    assert expand_skip(["bert.a.0.*"], names).keys() == {"bert.a.0.*", "[a].0.w"}
    assert expand_skip(["a.*", "nothing.*"], names).keys() == {"a.*", "nothing.*"}


def test_reports_have_the_targets_own_names() -> None:
    def row(role: str, action: str) -> RoleRow:
        return RoleRow(role, "other", None, None, (1,), 1, None, None, None, action)

    names = {"bert.a.0.w": "a.0.w", "bert.emb": "emb", "cls.w": "cls.w"}
    words = {"[e]mb": "bert.e*", "bert.e*": "bert.e*"}
    rows = [row("a.{}.w", "transferred"), row("emb", "skipped: [e]mb"), row("cls.w", "tied: written as emb")]
    found = own_names(TransferReport(rows), names, words).rows
    assert [(r.role, r.action) for r in found] == [
        ("bert.a.{}.w", "transferred"),
        ("bert.emb", "skipped: bert.e*"),
        ("cls.w", "tied: written as bert.emb"),
    ]
