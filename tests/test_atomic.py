"""Files and folders appear whole or not at all, and nothing of anybody's is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import front_models._files as files_module
from command import names_in
from front_models._atomic import atomic_folder, atomic_path, check_output
from front_models._files import open_weights, save_weights
from weights import assert_same, small_weights


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


@pytest.mark.parametrize("name", ["half.gene.safetensors", "adapter_model.safetensors", "optimizer.safetensors"])
def test_a_folder_with_other_tensors_is_not_replaced(tmp_path: Path, name: str) -> None:
    for each in ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / each).touch()
    assert check_output(tmp_path, force=True, folder=True) == tmp_path
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=f"not replaced, because it holds '{name}'"):
        check_output(tmp_path, force=True, folder=True)


def test_folder_needs_force_and_is_swapped(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "out", "old")
    (tmp_path / "out" / "model-00001-of-00009.safetensors").touch()
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


def test_only_model_folders_are_replaced(tmp_path: Path) -> None:
    for name, entry, message in (
        ("photos", "cat.png", r"it holds 'cat\.png', which is no file of a model"),
        ("notes", "training.log", r"it holds 'training\.log', which is no file of a model"),
        ("weights", "model.safetensors", r"it is no model's folder: it has no config\.json"),
    ):
        if name == "notes":
            make_model_folder(tmp_path / name, "x")
            (tmp_path / name / "zz.log").touch()
        else:
            (tmp_path / name).mkdir()
        (tmp_path / name / entry).touch()
        with pytest.raises(FileExistsError, match=f"{name}: not replaced, because {message}"):
            check_output(tmp_path / name, force=True, folder=True)
    make_model_folder(tmp_path / "nested", "x")
    (tmp_path / "nested" / "old.safetensors").mkdir()
    with pytest.raises(FileExistsError, match=r"it holds 'old\.safetensors', which is no file of a model"):
        check_output(tmp_path / "nested", force=True, folder=True)
    make_model_folder(tmp_path / "whole", "x")
    for name in ("model.safetensors.index.json", "pytorch_model-1.bin", "vocab.txt", "README.md", ".gitattributes"):
        (tmp_path / "whole" / name).touch()
    assert check_output(tmp_path / "whole", force=True, folder=True) == tmp_path / "whole"


def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        for path in (Path(), tmp_path):
            with pytest.raises(FileExistsError, match="the current folder is never replaced"):
                check_output(path, force=force, folder=True)


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def write(force: bool) -> None:
        with atomic_folder(tmp_path / "out", force=force) as folder:
            (folder / "config.json").write_text("mine")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.tex").write_text("theirs")

    for force in (False, True):
        with pytest.raises(FileExistsError):
            write(force)
        assert names_in(tmp_path) == ["out"]
        assert (tmp_path / "out" / "thesis.tex").read_text() == "theirs"
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_names_the_output_and_not_the_temporary(tmp_path: Path, kind: str) -> None:
    atomic, inner = (atomic_path, "") if kind == "file" else (atomic_folder, "/vocab.txt")

    def write() -> None:
        with atomic(tmp_path / "out") as temporary:
            raise OSError(errno.ENOSPC, "full", f"{temporary}{inner}")

    with pytest.raises(OSError, match="full") as caught:
        write()
    assert caught.value.filename == f"{tmp_path / 'out'}{inner}"
    assert names_in(tmp_path) == []


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


def test_an_interrupt_after_the_swap_leaves_the_new_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model_folder(tmp_path / "out", "old")
    remove, calls = shutil.rmtree, []

    def interrupted_once(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path, **options)

    def write() -> None:
        with atomic_folder(tmp_path / "out", force=True) as folder:
            (folder / "config.json").write_text("new")

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert names_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "new"
