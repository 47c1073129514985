"""Reading weight files one tensor at a time, and writing them so that a failure leaves no half file.

Read: ``.safetensors``; a folder with ``model.safetensors`` or a sharded ``model.safetensors.index.json`` (Hugging
Face); ``.pt``, ``.pth`` and ``.bin`` through ``torch.load(weights_only=True)``, which never runs a pickle's code.
Written: ``.safetensors``.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from front_models._atomic import atomic_path

__all__ = [
    "WeightsFile",
    "WeightsFileError",
    "disk_errors",
    "open_weights",
    "plain_names",
    "save_weights",
    "tied_names",
]

PICKLE_SUFFIXES = (".pt", ".pth", ".bin")
# Where trainers commonly put the state dict inside a checkpoint.
WRAPPERS = ("model", "state_dict", "model_state_dict")
# What `Learngene.save` writes as "format" into the metadata of its file.
LEARNGENE_FORMAT = "front-learngene"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class WeightsFileError(ValueError):
    """A file or folder does not hold weights that can be read; the message names the path and the cause."""


class WeightsFile(Mapping[str, Tensor]):
    """Names and tensors of one file or folder; a tensor is read when it is asked for.

    The tensors may be views of the file's memory map: treat them as read-only (the file itself is never changed).
    Tied names give the same storage.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        # {name: the other name that its data is stored under}, of tied tensors.
        self.aliases = dict(aliases)

    def shape_of(self, name: str) -> torch.Size:
        """Shape of a tensor, without reading its data."""
        return self[name].shape

    def dtype_of(self, name: str) -> torch.dtype:
        """Dtype of a tensor, without reading its data."""
        return self[name].dtype

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} tensors)"


class _RenamedFile(WeightsFile):
    """All tensors of a file under other names: ``{new: own}``."""

    def __init__(self, file: WeightsFile, names: Mapping[str, str]) -> None:
        new = {own: name for name, own in names.items()}
        aliases = {new[name]: new[kept] for name, kept in file.aliases.items()}
        super().__init__(file.path, file.metadata, aliases)
        self._file, self._own = file, dict(names)

    def __getitem__(self, name: str) -> Tensor:
        return self._file[self._own[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def shape_of(self, name: str) -> torch.Size:
        return self._file.shape_of(self._own[name])

    def dtype_of(self, name: str) -> torch.dtype:
        return self._file.dtype_of(self._own[name])


class _TorchFile(WeightsFile):
    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_meta or tensor.layout is not torch.strided:
                what = "has no data (meta)" if tensor.is_meta else f"has layout {tensor.layout}"
                raise WeightsFileError(f"{path}: tensor {name!r} {what}; only strided tensors with data are weights")
        super().__init__(path, {}, tied_names(tensors))
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class _SafetensorsFile(WeightsFile):
    def __init__(self, path: Path, shards: Mapping[str, Any]) -> None:
        """shards: of each tensor the open file that it is read from."""
        metadata: dict[str, str] = {}
        self._shards = dict(shards)
        for shard in dict.fromkeys(self._shards.values()):
            metadata.update(shard.metadata() or {})
        if metadata.get("format") == LEARNGENE_FORMAT:
            raise WeightsFileError(
                f"{path}: a learngene, not a model's weights; Learngene.load (front init) starts a model from it"
            )
        # safetensors.torch.save_model keeps one of several tied tensors and records {removed name: kept name}.
        aliases = {name: kept for name, kept in metadata.items() if name not in self._shards and kept in self._shards}
        super().__init__(path, metadata, aliases)

    def _locate(self, name: str) -> tuple[Any, str]:
        stored = self.aliases.get(name, name)
        return self._shards[stored], stored

    def __getitem__(self, name: str) -> Tensor:
        shard, stored = self._locate(name)
        try:
            tensor: Tensor = shard.get_tensor(stored)
        except SafetensorError as error:
            raise WeightsFileError(f"{self.path}: tensor {stored!r} cannot be read: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        yield from self._shards
        yield from self.aliases

    def __len__(self) -> int:
        return len(self._shards) + len(self.aliases)

    def shape_of(self, name: str) -> torch.Size:
        shard, stored = self._locate(name)
        return torch.Size(shard.get_slice(stored).get_shape())

    def dtype_of(self, name: str) -> torch.dtype:
        shard, stored = self._locate(name)
        code = shard.get_slice(stored).get_dtype()
        if code not in DTYPES:
            raise WeightsFileError(f"{self.path}: tensor {stored!r} has dtype {code}; known are {', '.join(DTYPES)}")
        return DTYPES[code]


def open_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """The tensors of a weights file or folder by plain name (see `plain_names`), each read when it is asked for.

    Args:
        path: ``.safetensors``; a folder with ``model.safetensors``, ``model.safetensors.index.json`` or
            ``pytorch_model.bin``; ``.pt``, ``.pth`` or ``.bin`` with a state dict at the top or under "model",
            "state_dict" or "model_state_dict".

    Returns:
        A read-only mapping of names to CPU tensors of the file's shapes and dtypes.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        WeightsFileError: The suffix is unknown, the folder has no weights, the file is truncated or corrupt, its pickle
            would run code, it holds no state dict, or a tensor in it is sparse or has no data (meta).
    """
    file = _open(Path(path))
    names = plain_names(file)
    return file if all(name == own for name, own in names.items()) else _RenamedFile(file, names)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """``{plain: name}``, plain being without what wrappers add: torch.compile's parts, and the "module." of
    DataParallel and DDP where all names begin with it. Where two names would become one, all stay as they are."""
    names = list(names)
    plain = {".".join(part for part in name.split(".") if part != "_orig_mod"): name for name in names}
    if len(plain) < len(names):
        return {name: name for name in names}
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): own for name, own in plain.items()}
    return plain


def _open(path: Path) -> WeightsFile:
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _SafetensorsFile(path, _open_single(path))
    if path.suffix in PICKLE_SUFFIXES:
        return _TorchFile(path, _state_dict(path, _torch_load(path)))
    known = ", ".join((".safetensors", *PICKLE_SUFFIXES))
    raise WeightsFileError(f"{path}: unknown suffix {path.suffix!r}; weights are read from {known} or a folder")


def _open_folder(path: Path) -> WeightsFile:
    single = path / "model.safetensors"
    index = path / "model.safetensors.index.json"
    pickled = path / "pytorch_model.bin"
    if single.exists():
        return _SafetensorsFile(path, _open_single(single))
    if index.exists():
        return _SafetensorsFile(path, _open_index(index))
    if pickled.exists():
        return _TorchFile(path, _state_dict(pickled, _torch_load(pickled)))
    raise WeightsFileError(f"{path}: the folder has none of {single.name}, {index.name}, {pickled.name}")


def _open_shard(path: Path) -> Any:
    if not path.is_file():
        raise WeightsFileError(f"{path}: not a file")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise WeightsFileError(f"{path}: truncated or not a safetensors file ({error})") from error


def _open_single(path: Path) -> dict[str, Any]:
    shard = _open_shard(path)
    return dict.fromkeys(shard.keys(), shard)


def _open_index(index: Path) -> dict[str, Any]:
    """The shard that the index names for each tensor; others that a shard holds are not the model's."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        weight_map = dict(content["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsFileError(f"{index}: not an index of safetensors shards ({error!r})") from error
    opened: dict[Path, tuple[Any, frozenset[str]]] = {}  # with their names, of which each call makes a list
    shards: dict[str, Any] = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name or file_name in ("", ".."):
            raise WeightsFileError(f"{index}: {file_name!r} is not the name of a file in the same folder")
        shard = index.parent / file_name
        if not shard.exists():
            raise WeightsFileError(f"{index}: the shard {file_name} is missing")
        if shard not in opened:
            handle = _open_shard(shard)
            opened[shard] = handle, frozenset(handle.keys())
        handle, held = opened[shard]
        if name not in held:
            raise WeightsFileError(f"{index}: the shard {file_name} does not hold {name!r}")
        shards[name] = handle
    if not shards:
        raise WeightsFileError(f"{index}: the index names no shards")
    return shards


def _torch_load(path: Path) -> Any:
    try:
        # Only the zip format, torch's default since 1.6, can be mapped into memory.
        mmap = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            # torch warns of pickle protocols other than its own; what it cannot read of them is an error below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name is None:
            raise WeightsFileError(f"{path}: not a file of tensors that torch can read") from error
        raise WeightsFileError(
            f"{path}: refused, because its pickle would call {name[1]}; only tensors are read, no code is run"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way inside torch.load; the cause is passed on
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsFileError(f"{path}: truncated or not a torch file ({cause[:200]})") from error


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _state_dict(path: Path, content: Any) -> Mapping[str, Tensor]:
    if _is_state_dict(content):
        return content  # type: ignore[no-any-return]
    if isinstance(content, Mapping):
        found = {key: content[key] for key in WRAPPERS if _is_state_dict(content.get(key))}
        if len(found) == 1:
            return found.popitem()[1]  # type: ignore[no-any-return]
        if len(found) > 1:
            raise WeightsFileError(f"{path}: {len(found)} state dicts, under {', '.join(found)}; allowed is one")
        shown = ", ".join(f"{k!r} ({type(v).__name__})" for k, v in list(content.items())[:5]) or "nothing"
    else:
        shown = f"a {type(content).__name__}"
    places = " or ".join(f'"{key}"' for key in WRAPPERS)
    raise WeightsFileError(
        f"{path}: no state dict (names to tensors) at the top or under one of {places}; found {shown}"
    )


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def tied_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names that share their data with another name, and that name: ``{removed name: kept name}``."""
    if isinstance(tensors, WeightsFile):
        return dict(tensors.aliases)
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        kept = first.setdefault(_identity(tensor), name) if tensor.numel() else name
        if kept != name:
            tied[name] = kept
    return tied


def save_weights(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write a safetensors file whole or not at all.

    Tied tensors are stored once, with ``{removed name: kept name}`` in the metadata as `safetensors.torch.save_model`
    does; `open_weights` reads both names back.

    Args:
        path: The file to write, ending in ``.safetensors``.
        state_dict: Names to tensors of any shape and dtype that safetensors knows.
        metadata: Further entries of the file's metadata; ``format: pt`` is always there.
        force: Replace an existing file.

    Raises:
        ValueError: `path` has another suffix.
        FileExistsError: `path` exists and `force` is False.
        OSError: The disk is full or the folder cannot be written; an existing file is left as it was.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    for name, tensor in state_dict.items():
        if tensor.dtype not in DTYPES.values():
            raise ValueError(f"state_dict: {name!r} is {tensor.dtype}; a safetensors file holds {', '.join(DTYPES)}")
    tied = tied_names(state_dict)
    tensors = {name: t.detach().contiguous() for name, t in state_dict.items() if name not in tied}
    stop = 0
    for begin, end, name in sorted((t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in tensors.items()):
        # safetensors refuses tensors that overlap in memory, such as the slices of a fused matrix.
        if begin < stop and begin < end:
            tensors[name] = tensors[name].clone()
        stop = max(stop, end)
    with atomic_path(path, force=force) as temporary, disk_errors(path):
        save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {}), **tied})


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise the OSError (disk full, ...) that safetensors reports in words of its own while `path` is written."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
