"""CUDA C++ to machine code at run time: NVRTC through ctypes, and a cache of its results on disk. Needs neither a GPU
nor a driver.

Source: https://docs.nvidia.com/cuda/nvrtc
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import sys
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

__all__ = ["Nvrtc", "cache_folder", "compiled", "find"]

LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12")
PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
DEFAULT_TOOLKIT = Path("/usr/local/cuda")

# NOTE: --no-source-include: without it a header that is not among `headers` would be taken from the current directory,
# and the cache's key knows nothing of that directory.
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--no-source-include")

LOG_LIMIT = 20_000  # characters of NVRTC's log in a message: a hundred errors in templates make megabytes
DIGEST_SIZE = hashlib.sha256().digest_size

_FUNCTIONS = (
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetErrorString",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcGetSupportedArchs",
    "nvrtcVersion",
)


class Nvrtc:
    """One NVRTC library.

    Args:
        path: the shared library; a name without a folder is searched by the loader.

    Attributes:
        path: as given.
        version: (major, minor) of the CUDA version it belongs to.
        architectures: what it compiles for, ascending: 90 is sm_90.

    Raises:
        OSError: it cannot be loaded, or is not NVRTC 11.2 or later.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._library = ctypes.CDLL(os.fspath(path))
        missing = [name for name in _FUNCTIONS if not hasattr(self._library, name)]
        if missing:
            raise OSError(f"{path} has no {missing[0]}: it is not NVRTC 11.2 or later")
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        architectures = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", architectures)
        self.architectures = tuple(sorted(architectures))
        self._builtins = self._load_builtins()

    def compile(
        self, source: str, name: str, headers: Mapping[str, str], arch: int, options: Sequence[str] = ()
    ) -> bytes:
        """The cubin of `source` for sm_<arch>, or for the next lower architecture of its generation that is known.

        Args:
            source: CUDA C++17. What is not marked otherwise is device code. There is no header search path.
            name: of the kernel, for messages and the log: "dct_crop.cu".
            headers: text of each header under the very words that #include has, whichever file includes it.
            arch: a compute capability: 90 is that of sm_90.
            options: more of NVRTC's options. The defaults have no fast-math; multiply-adds are fused, as nvcc does it.

        Raises:
            ValueError: no machine code can be made for arch, or a text has a NUL character.
            RuntimeError: it does not compile; the message has NVRTC's log.
        """
        target = runs_on(arch, self.architectures) if isinstance(arch, int) else None
        if target is None:
            allowed = ", ".join(map(str, self.architectures))
            raise ValueError(
                f"arch must be one of {allowed} ({self._title()}), or a later one of the same generation, got {arch!r}"
            )
        texts = [_encoded(f"headers[{key!r}]", text) for key, text in headers.items()]
        keys = [_encoded("headers' name", key) for key in headers]
        flags = [_encoded("options", option) for option in (*OPTIONS, f"--gpu-architecture=sm_{target}", *options)]
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            _encoded("source", source),
            _encoded("name", name),
            len(texts),
            _strings(texts),
            _strings(keys),
        )
        try:
            result = self._library.nvrtcCompileProgram(program, len(flags), _strings(flags))
            if result != 0:
                log = _shortened(self._bytes("nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace"))
                raise RuntimeError(
                    f"{self._title()} cannot compile {name} for sm_{target}: {self._error(result)}\n{log}"
                )
            return self._bytes("nvrtcGetCUBIN", program)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _load_builtins(self) -> ctypes.CDLL | None:
        # NOTE: NVRTC opens this library by its name when it compiles, and that of CUDA 13.0's wheel has no RUNPATH that
        # would lead to its neighbour. One that is loaded already is found by its name.
        name = "libnvrtc-builtins.so.{}.{}".format(*self.version)
        for folder in (self.path.parent, self.path.resolve().parent):
            if self.path.is_file() and (folder / name).is_file():
                return ctypes.CDLL(str(folder / name))
        return None

    def _title(self) -> str:
        return "NVRTC {}.{}".format(*self.version)

    def _error(self, result: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(result)
        return text.decode()

    def _call(self, function: str, *args: object) -> None:
        result = getattr(self._library, function)(*args)
        if result != 0:
            raise RuntimeError(f"{function} of {self.path} failed: {self._error(result)}")

    def _bytes(self, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{function}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._call(function, program, data)
        return data.raw


def runs_on(arch: int, known: Iterable[int]) -> int | None:
    """The best of the known architectures whose machine code runs on sm_<arch>: its own, or an earlier one of the same
    generation (8.0 code on 8.9); None: there is none."""
    return max((each for each in known if each // 10 == arch // 10 and each <= arch), default=None)


@functools.cache
def find() -> Nvrtc:
    """NVRTC, from the first place that has it: FRONT_NVRTC, the PyPI packages, a CUDA toolkit, the loader's search.

    Later calls return the same one, whatever the environment says then.

    Raises:
        ValueError: FRONT_NVRTC is not the path of an NVRTC library.
        RuntimeError: there is none.
    """
    if chosen := os.environ.get("FRONT_NVRTC"):
        wanted = f"FRONT_NVRTC must be the path of an NVRTC library ({LIBRARIES[0]}), got {chosen!r}"
        if not Path(chosen).is_file():
            raise ValueError(f"{wanted}, which is not a file")
        try:
            return Nvrtc(Path(chosen).absolute())
        except OSError as error:
            raise ValueError(f"{wanted}: {error}") from error
    failures = []
    for path in dict.fromkeys(_candidates()):
        try:
            return Nvrtc(path)
        except OSError as error:
            failures.append(f"\n    {error}")
    variables = ", ".join(f"{name}={os.environ.get(name, '')}" for name in ("CUDA_HOME", "CUDA_PATH"))
    raise RuntimeError(
        f"NVRTC ({' or '.join(LIBRARIES)}), which compiles the CUDA kernels, was not found.\n"
        f"  Looked in: the packages {' and '.join(PACKAGES)} of {sys.prefix}; the CUDA toolkits of {variables} and "
        f"{DEFAULT_TOOLKIT}; the loader's search path. What was tried:{''.join(failures)}\n"
        f"  Fix: `pip install {PACKAGES[0]}`, or install the CUDA toolkit, or set FRONT_NVRTC to the library's path."
    )


def cache_folder() -> Path:
    """FRONT_CACHE_DIR, else front_kernels in XDG_CACHE_HOME or ~/.cache: where compiled kernels are kept.

    Raises:
        RuntimeError: neither variable is set and there is no home directory.
    """
    if chosen := os.environ.get("FRONT_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "front_kernels"


def compiled(source: str, name: str, headers: Mapping[str, str], arch: int, options: Sequence[str] = ()) -> bytes:
    """`find().compile(...)` of the same arguments, from the cache folder or compiled and stored there.

    A damaged entry is compiled again. A folder that cannot be written gives one warning.

    Raises:
        ValueError, RuntimeError: as `find` and `Nvrtc.compile`.
    """
    nvrtc = find()
    key = _key(nvrtc.version, source, name, headers, arch, options)
    try:
        file = cache_folder() / f"{key}.cubin"
    except RuntimeError as error:
        _warn("~/.cache/front_kernels", str(error))
        return nvrtc.compile(source, name, headers, arch, options)
    cubin = _read(file, key)
    if cubin is None:
        cubin = nvrtc.compile(source, name, headers, arch, options)
        try:
            _write(file, cubin + _digest(key, cubin))
        except OSError as error:
            _warn(str(file.parent), str(error))
    return cubin


def _candidates() -> Iterator[Path]:
    """In the order of preference; all but the loader's are files."""
    for path in (*_in_packages(), *_in_toolkits()):
        if path.is_file():
            yield path
    yield from map(Path, LIBRARIES)


def _in_packages() -> Iterator[Path]:
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            files = metadata.files(package) or []
            yield from (Path(str(file.locate())) for file in files if file.name in LIBRARIES)
    # Packages that were copied or unpacked without their metadata.
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for inner, library in zip(("cu13", "cuda_nvrtc"), LIBRARIES, strict=True):
            yield Path(folder, inner, "lib", library)


def _in_toolkits() -> Iterator[Path]:
    chosen = [Path(value) for name in ("CUDA_HOME", "CUDA_PATH") if (value := os.environ.get(name))]
    for root in (*chosen, DEFAULT_TOOLKIT):
        for folder in ("lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib/x86_64-linux-gnu", "lib"):
            yield from (root / folder / library for library in LIBRARIES)


def _key(
    version: tuple[int, int], source: str, name: str, headers: Mapping[str, str], arch: int, options: Sequence[str]
) -> str:
    ingredients = [version, source, name, sorted(headers.items()), arch, [*OPTIONS, *options]]
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()


def _digest(key: str, cubin: bytes) -> bytes:
    return hashlib.sha256(key.encode() + cubin).digest()


def _read(file: Path, key: str) -> bytes | None:
    try:
        data = file.read_bytes()
    except OSError:
        return None
    cubin, digest = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
    return cubin if digest == _digest(key, cubin) else None


def _write(file: Path, data: bytes) -> None:
    """No reader sees half of it, and of two writers one wins. What a crash leaves half on disk, the digest finds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: those are for their owner only, and a cache folder may be shared.
    temporary = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
        temporary.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


_warned: set[str] = set()


def _warn(folder: str, reason: str) -> None:
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(
            f"the cache folder {folder} cannot be used ({reason}): every process compiles its CUDA kernels again. "
            f"FRONT_CACHE_DIR chooses another folder",
            stacklevel=3,
        )


def _encoded(argument: str, text: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{argument} must have no NUL character, got one at {text.index(chr(0))}")
    return text.encode()


def _strings(values: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*values)


def _shortened(log: str) -> str:
    if len(log) <= LOG_LIMIT:
        return log
    return f"{log[:LOG_LIMIT]}\n... and {len(log) - LOG_LIMIT} more characters"
