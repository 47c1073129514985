"""Files and folders that appear whole or not at all.

What is written goes to a temporary name beside the target, is flushed to disk, and is renamed over the target in one
step. On any exception, an interrupt included, the temporary is removed and the target is what it was.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["TOKENIZER_FILES", "atomic_folder", "atomic_path", "check_output"]

# A file name may have 255 bytes; the rest is the temporary's own part.
MAX_STEM_BYTES = 200
# What AutoTokenizer and the image processors read.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
)
# A folder with anything else is not replaced: it may be someone's only copy.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.index.json",
    "pytorch_model*.bin",
    "README.md",
    ".gitattributes",
    *TOKENIZER_FILES,
)


def _sibling(path: Path, ending: str) -> Path:
    stem = os.fsdecode(os.fsencode(path.name)[:MAX_STEM_BYTES])
    return path.with_name(f".{stem}.{secrets.token_hex(4)}.{ending}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _foreign_entry(folder: Path) -> str | None:
    """The first name in a folder that is no file of a model, or None."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_file() or not any(fnmatchcase(entry.name, pattern) for pattern in MODEL_FILES):
            return entry.name
    return None


def _rename_in_error(error: BaseException, temporary: Path, path: Path) -> None:
    """Let an OSError about a temporary name what the user asked for: the temporary is gone when it is read."""
    if isinstance(error, OSError) and error.filename is not None:
        name = os.fsdecode(error.filename)
        if name == str(temporary) or name.startswith(f"{temporary}{os.sep}"):
            error.filename = f"{path}{name.removeprefix(str(temporary))}"


def check_output(path: Path, *, force: bool, folder: bool) -> Path:
    """The real path that would be written (links followed), after the checks that need no work yet.

    Raises:
        FileExistsError: It exists and `force` is False; or it is something that is never replaced: a device, a folder
            where a file goes, the current folder, or a folder that is not a model's (a ``config.json``, and nothing
            but `MODEL_FILES`).
        FileNotFoundError: Its folder does not exist.
        PermissionError: Its folder cannot be written.
    """
    real = Path(os.path.realpath(path))
    if not real.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {real.parent} does not exist")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {real.parent} cannot be written")
    if not real.exists():
        return real
    if folder and not real.is_dir():
        raise FileExistsError(f"{path}: exists and is not a folder")
    if not folder and not real.is_file():
        raise FileExistsError(f"{path}: exists and is not a regular file")
    if folder and os.path.samefile(real, os.curdir):
        raise FileExistsError(f"{path}: the current folder is never replaced; name another one")
    if folder and not any(real.iterdir()):
        return real
    if not force:
        raise FileExistsError(f"{path}: exists; it is replaced only with force (--force)")
    if folder:
        foreign = _foreign_entry(real)
        if foreign is not None:
            raise FileExistsError(
                f"{path}: not replaced, because it holds {foreign!r}, which is no file of a model; "
                "move that or choose another name"
            )
        if not (real / "config.json").exists():
            raise FileExistsError(f"{path}: not replaced, because it is no model's folder: it has no config.json")
    return real


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A temporary path to write; when the block ends well, the file there becomes `path`.

    The file gets the permissions of the one that it replaces, or those of a new file.

    Raises:
        FileExistsError, FileNotFoundError, PermissionError: As in `check_output`.
    """
    real = check_output(Path(path), force=force, folder=False)
    temporary = _sibling(real, "part")
    try:
        with temporary.open("xb") as reserved:
            mode = stat.S_IMODE(os.fstat(reserved.fileno()).st_mode)
        yield temporary
        # A writer may have put a file of its own, with private permissions, in the place of the reserved one.
        temporary.chmod(stat.S_IMODE(real.stat().st_mode) if real.exists() else mode)
        _flush(temporary)
        check_output(Path(path), force=force, folder=False)
        os.replace(temporary, real)
    except BaseException as error:
        _rename_in_error(error, temporary, Path(path))
        temporary.unlink(missing_ok=True)
        raise
    _flush(real.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; when the block ends well, it becomes `path`.

    An existing folder is moved aside by a rename and removed only once the new one is in its place.

    Raises:
        FileExistsError, FileNotFoundError, PermissionError: As in `check_output`.
    """
    real = check_output(Path(path), force=force, folder=True)
    temporary, aside = _sibling(real, "part"), _sibling(real, "old")
    try:
        temporary.mkdir()
        mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        yield temporary
        for entry in temporary.rglob("*"):
            if entry.is_file():
                entry.chmod(mode)
            _flush(entry)
        _flush(temporary)
        check_output(Path(path), force=force, folder=True)
        if real.exists():
            os.rename(real, aside)
        os.rename(temporary, real)
        _flush(real.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException as error:
        _rename_in_error(error, temporary, Path(path))
        if not temporary.exists():
            # The new folder is in its place: what is left of the old one goes.
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists() and not real.exists():
            os.rename(aside, real)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
