"""Reading and writing weight files: lazily, tied, sharded, never by running code, and never by halves."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

import front_models._files as files_module
from front_models import extract
from front_models._atomic import atomic_folder, atomic_path, check_output
from front_models._files import WeightsFile, WeightsFileError, open_weights, save_weights


def small_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(4, 6, generator=generator),
        "a.bias": torch.randn(4, generator=generator, dtype=torch.float64),
        "half": torch.randn(3, 2, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(7),
    }


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def assert_same(weights: WeightsFile, expected: dict[str, Tensor]) -> None:
    assert sorted(weights) == sorted(expected)
    assert len(weights) == len(expected)
    for name, tensor in expected.items():
        assert weights.shape_of(name) == tensor.shape
        assert weights.dtype_of(name) == tensor.dtype == weights[name].dtype
        assert torch.equal(weights[name], tensor)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


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
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
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
        ({"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}}, r"found 'model' \(dict\)"),
        ({}, "found nothing"),
        (torch.zeros(3), "found a Tensor"),
        ([torch.zeros(3)], "found a list"),
    ],
)
def test_torch_file_without_a_state_dict(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsFileError, match=f"no state dict .* at the top or under .*; {found}"):
        open_weights(tmp_path / "w.pt")


def test_a_learngene_is_no_model(tmp_path: Path) -> None:
    extract({"w": torch.randn(4, 4)}).save(tmp_path / "gene.safetensors")
    with pytest.raises(WeightsFileError, match="a learngene, not a model's weights"):
        open_weights(tmp_path / "gene.safetensors")


# Writing


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(2)})
    with pytest.raises(FileExistsError, match=r"w\.safetensors: exists; it is replaced only with force"):
        save_weights(path, {"a": torch.ones(2)})
    assert torch.equal(open_weights(path)["a"], torch.zeros(2))
    save_weights(path, {"a": torch.ones(2)}, force=True)
    assert torch.equal(open_weights(path)["a"], torch.ones(2))
    assert names_in(tmp_path) == ["w.safetensors"]


def test_a_file_may_be_written_over_the_one_it_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_weights())
    save_weights(path, open_weights(path), force=True)
    assert_same(open_weights(path), small_weights())


def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    before = os.umask(0o027)
    try:
        save_weights(path, {"a": torch.zeros(2)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        save_weights(path, {"a": torch.zeros(2)}, force=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real" / "w.safetensors")
    save_weights(tmp_path / "link.safetensors", {"a": torch.ones(2)})
    assert (tmp_path / "link.safetensors").is_symlink()
    assert names_in(tmp_path / "real") == ["w.safetensors"]


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.safetensors, got .*w\.pt"):
        save_weights(tmp_path / "w.pt", {})
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist"):
        save_weights(tmp_path / "none" / "w.safetensors", {})
    with pytest.raises(FileExistsError, match="/dev/null: exists and is not a regular file"):
        check_output(Path("/dev/null"), force=True, folder=False)
    with pytest.raises(FileExistsError, match="exists and is not a regular file"):
        check_output(tmp_path, force=True, folder=False)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="exists and is not a folder"):
        check_output(tmp_path / "file", force=True, folder=True)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), SystemExit(1)]
)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_weights())

    def write_half(tensors: dict[str, Tensor], target: Path, metadata: object) -> None:
        Path(target).write_bytes(b"\0" * 10)
        raise error

    monkeypatch.setattr(files_module, "save_file", write_half)
    with pytest.raises(type(error)):
        save_weights(path, {"a": torch.zeros(2)}, force=True)
    assert names_in(tmp_path) == ["w.safetensors"]
    assert_same(open_weights(path), small_weights())


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """The real writer, stopped by the operating system's limit on the size of a file."""
    path = tmp_path / "w.safetensors"
    save_weights(path, small_weights())
    code = (
        "import sys, torch\n"
        "from front_models._files import save_weights\n"
        "try:\n"
        "    save_weights(sys.argv[1], {'a': torch.zeros(300, 300)}, force=True)\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-P", "-c", code, str(path)]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout == f"{errno.EFBIG} {path}\n"
    assert names_in(tmp_path) == ["w.safetensors"]
    assert_same(open_weights(path), small_weights())


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("mine")
            path.write_text("theirs")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_text() == "theirs"
    assert names_in(tmp_path) == ["out"]


def make_model_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "config.json").write_text(text)


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("new")
        assert names_in(tmp_path) == [folder.name]
    assert names_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "new"


def test_folder_needs_force_and_is_swapped(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "out", "old")
    (tmp_path / "out" / "stale.safetensors").touch()
    with (
        pytest.raises(FileExistsError, match="exists; it is replaced only with force"),
        atomic_folder(tmp_path / "out"),
    ):
        pytest.fail("the block must not run")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "config.json").write_text("new")
        assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["config.json"]
    assert (tmp_path / "out" / "config.json").read_text() == "new"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "config.json").touch()
    assert names_in(tmp_path / "out") == ["config.json"]
    assert names_in(tmp_path) == ["out"]


def test_only_model_folders_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    make_model_folder(tmp_path / "nested", "x")
    (tmp_path / "nested" / "runs").mkdir()
    make_model_folder(tmp_path / "here", "x")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("photos", "nested", "here"):
        with pytest.raises(FileExistsError, match=r"not replaced, because only a folder with a config\.json"):
            check_output(tmp_path / name, force=True, folder=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_folder_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    make_model_folder(tmp_path / "out", "old")

    def write() -> None:
        with atomic_folder(tmp_path / "out", force=True) as folder:
            (folder / "config.json").write_text("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model_folder(tmp_path / "out", "old")
    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "the disk went away")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="went away"), atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "config.json").write_text("new")
    assert names_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"
