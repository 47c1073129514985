"""Reading and writing weight files: lazily, tied, sharded, never by running code, and never by halves."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from front_models import extract
from front_models._files import WeightsFileError, open_weights, save_weights
from weights import assert_same, small_weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


# Reading


def test_safetensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_weights())
    assert_same(open_weights(path), small_weights())
    assert safe_open(path, framework="pt").metadata() == {"format": "pt"}


def test_shapes_and_dtypes_are_known_without_reading_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "w.safetensors", small_weights())
    weights = open_weights(tmp_path / "w.safetensors")
    monkeypatch.setattr(type(weights), "__getitem__", lambda *_: pytest.fail("data was read"))
    assert {n: (tuple(weights.shape_of(n)), weights.dtype_of(n)) for n in weights} == {
        n: (tuple(t.shape), t.dtype) for n, t in small_weights().items()
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
def test_torch_files(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    content = small_weights() if wrapper is None else {wrapper: small_weights(), "epoch": 3}
    torch.save(content, tmp_path / f"w{suffix}")
    assert_same(open_weights(tmp_path / f"w{suffix}"), small_weights())


def test_torch_file_of_the_old_format(tmp_path: Path) -> None:
    torch.save(small_weights(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert_same(open_weights(tmp_path / "w.pt"), small_weights())


def test_ties_of_a_torch_file_stay(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "w.pt")
    weights = open_weights(tmp_path / "w.pt")
    assert weights["embed.weight"].data_ptr() == weights["head.weight"].data_ptr()
    assert weights.aliases == {"head.weight": "embed.weight"}


def test_ties_that_safetensors_recorded_are_read(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "w.safetensors"))
    weights = open_weights(tmp_path / "w.safetensors")
    assert_same(weights, {"embed.weight": model.embed.weight, "head.weight": model.embed.weight})
    assert weights["embed.weight"].data_ptr() == weights["head.weight"].data_ptr()
    assert weights.aliases == {"head.weight": "embed.weight"}


def test_ties_are_written_as_safetensors_does(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    path = tmp_path / "w.safetensors"
    save_weights(path, model.state_dict())
    with safe_open(path, framework="pt") as stored:
        assert list(stored.keys()) == ["embed.weight"]
        assert stored.metadata() == {"format": "pt", "head.weight": "embed.weight"}
    assert load_model(other, path) == (set(), [])
    assert torch.equal(other.head.weight, model.embed.weight)
    save_weights(tmp_path / "again.safetensors", open_weights(path))
    assert open_weights(tmp_path / "again.safetensors").aliases == {"head.weight": "embed.weight"}


def test_slices_of_one_storage_and_strided_tensors_are_written(tmp_path: Path) -> None:
    fused = torch.arange(24.0).reshape(6, 4)
    tensors = {"q": fused[:3], "k": fused[2:5], "t": fused.t(), "empty": torch.empty(0, 4)}
    save_weights(tmp_path / "w.safetensors", tensors)
    assert_same(open_weights(tmp_path / "w.safetensors"), tensors)


def write_sharded(folder: Path) -> None:
    weights = small_weights()
    shards = {"one.safetensors": ["a.weight", "half"], "two.safetensors": ["a.bias", "count"]}
    folder.mkdir(exist_ok=True)
    for file, names in shards.items():
        save_file({n: weights[n] for n in names}, folder / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_sharded_folder(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    assert_same(open_weights(tmp_path), small_weights())


def test_the_index_says_which_shard_holds_a_tensor(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    weights = small_weights()
    stale = {"a.weight": torch.zeros_like(weights["a.weight"]), "old": torch.zeros(1)}
    save_file({"a.bias": weights["a.bias"], "count": weights["count"], **stale}, tmp_path / "two.safetensors")
    assert_same(open_weights(tmp_path), weights)


def test_a_dtype_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2), "turns": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(ValueError, match=r"state_dict: 'turns' is torch\.complex128; a safetensors file holds F64, "):
        save_weights(tmp_path / "w.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_folder_with_one_file(tmp_path: Path, file: str) -> None:
    if file.endswith(".bin"):
        torch.save(small_weights(), tmp_path / file)
    else:
        save_file(small_weights(), tmp_path / file)
    assert_same(open_weights(str(tmp_path)), small_weights())


def test_index_errors(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for content, message in {
        "{": "not an index of safetensors shards",
        '{"weight_map": 3}': "not an index of safetensors shards",
        '{"weight_map": {}}': "names no shards",
        '{"weight_map": {"x": "three.safetensors"}}': r"the shard three\.safetensors is missing",
        '{"weight_map": {"x": "../one.safetensors"}}': r"'\.\./one\.safetensors' is not the name of a file",
        '{"weight_map": {"x": ".."}}': r"'\.\.' is not the name of a file",
        '{"weight_map": {"x": ""}}': r"'' is not the name of a file",
        "[" * 100_000: "not an index of safetensors shards",
        '{"weight_map": {"x": "one.safetensors"}}': r"the shard one\.safetensors does not hold 'x'",
    }.items():
        index.write_text(content)
        with pytest.raises(WeightsFileError, match=message):
            open_weights(tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "torch-old", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "it-ran"
    content = {"w": torch.zeros(2), "x": Evil(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsFileError) as caught:
        open_weights(path)
    assert not mark.exists()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))
    if how == "torch":
        assert (
            message
            == f"{path}: refused, because its pickle would call posix.mkdir; only tensors are read, no code is run"
        )


@pytest.mark.parametrize("keep", [0, 3, 20, -5])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    save_weights(tmp_path / "w.safetensors", small_weights())
    torch.save(small_weights(), tmp_path / "w.pt")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(
            WeightsFileError, match=f"{path.name}: (truncated or not a|not a file of tensors)"
        ) as caught:
            open_weights(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        IndexError("pop from empty list"),
        AssertionError(),
        TypeError("'StorageType' object is not callable"),
        struct.error("unpack requires 4 bytes"),
        AttributeError("two\nlines"),
    ],
)
def test_a_damaged_torch_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    path = tmp_path / "w.pt"
    torch.save(small_weights(), path)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(WeightsFileError) as caught:
        open_weights(path)
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    assert str(caught.value) == f"{path}: truncated or not a torch file ({cause})"


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), MemoryError()])
def test_an_error_of_the_system_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    torch.save(small_weights(), tmp_path / "w.pt")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as caught:
        open_weights(tmp_path / "w.pt")
    assert caught.value is error


def test_a_zip_with_a_damaged_end(tmp_path: Path) -> None:
    """The locator says that the archive has two disks, at which Python's zipfile raises before torch looks at it."""
    path = tmp_path / "w.pt"
    end = b"PK\5\6" + bytes(18)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, 0, 2)
    path.write_bytes(b"PK\3\4" + bytes(60) + locator + end)
    with pytest.raises(WeightsFileError, match=r"w\.pt: truncated or not a torch file"):
        open_weights(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(3).to_sparse(), r"tensor 'odd' has layout torch\.sparse_coo"),
        (torch.empty(3, device="meta"), r"tensor 'odd' has no data \(meta\)"),
    ],
)
def test_a_torch_file_with_tensors_that_are_no_weights(tmp_path: Path, tensor: Tensor, message: str) -> None:
    torch.save({**small_weights(), "odd": tensor}, tmp_path / "w.pt")
    with pytest.raises(WeightsFileError, match=rf"w\.pt: {message}; only strided tensors with data are weights"):
        open_weights(tmp_path / "w.pt")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.safetensors: no such file or folder"):
        open_weights(tmp_path / "nope.safetensors")
    with pytest.raises(
        WeightsFileError, match=r"the folder has none of model\.safetensors, .*index\.json, pytorch_model"
    ):
        open_weights(tmp_path)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(WeightsFileError, match=r"unknown suffix '\.onnx'; weights are read from \.safetensors, \.pt"):
        open_weights(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, r"found 'epoch' \(int\), 'weights' \(dict\)"),
        ({}, "found nothing"),
        (torch.zeros(3), "found a Tensor"),
        ([torch.zeros(3)], "found a list"),
    ],
)
def test_torch_file_without_a_state_dict(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsFileError, match=f"no state dict .* at the top or under .*; {found}"):
        open_weights(tmp_path / "w.pt")


def test_torch_file_with_two_state_dicts(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}}, tmp_path / "w.pt")
    with pytest.raises(WeightsFileError, match=r"w\.pt: 2 state dicts, under model, state_dict; allowed is one$"):
        open_weights(tmp_path / "w.pt")


def test_folders_in_the_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsFileError, match=r"model\.safetensors: not a file$"):
        open_weights(tmp_path)


def test_a_learngene_is_no_model(tmp_path: Path) -> None:
    extract({"w": torch.randn(4, 4)}).save(tmp_path / "gene.safetensors")
    with pytest.raises(WeightsFileError, match="a learngene, not a model's weights"):
        open_weights(tmp_path / "gene.safetensors")


# Writing
