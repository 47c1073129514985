"""Runs the CUDA engine's launches on the CPU: the device code under g++ with the emulator of csrc/cuda/emulator.h."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

ROOT = Path(__file__).parent.parent
CUDA = ROOT / "csrc" / "cuda"
STD = "\n".join(re.findall("#include <.*", (CUDA / "emulator.h").read_text()))
REALS = {2: "float", 3: "double"}  # of the DType of params.h
H200 = [132, 227 << 10, 228 << 10]  # multiprocessors, shared memory of a block and of a multiprocessor


class EmulatedBuffer(ctypes.Structure):
    _fields_ = [
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_longlong),
        ("reads", ctypes.c_void_p),
        ("writes", ctypes.c_void_p),
        ("valid", ctypes.c_void_p),
        ("requested", ctypes.c_longlong),
        ("sectors", ctypes.c_longlong),
    ]


class EmulatorReport(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint),
        ("statistics", ctypes.c_int),
        ("buffers", ctypes.POINTER(EmulatedBuffer)),
        ("buffer_count", ctypes.c_longlong),
        ("shared_bytes", ctypes.c_longlong),
        ("races", ctypes.c_longlong),
        ("bounds", ctypes.c_longlong),
        ("uninitialised", ctypes.c_longlong),
        ("first", ctypes.c_char * 256),
        ("banks", ctypes.c_char * 2048),
    ]


@functools.cache
def _folder() -> Path:
    """Of compiled kernels: the workers of a test run share one, and the last to leave removes it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
    folder = Path(tempfile.gettempdir()) / f"front_emulated_{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    user = folder / f"{os.getpid()}.user"
    user.touch()

    @atexit.register
    def leave() -> None:
        user.unlink(missing_ok=True)
        if not any(folder.glob("*.user")):
            shutil.rmtree(folder, ignore_errors=True)

    return folder


def compile_kernels(launches: Sequence[dict[str, Any]], headers: Path = CUDA) -> None:
    """Those of them that are not compiled yet, at once: much of the time goes into what kernels share."""
    missing: dict[str, dict[Path, str]] = {}  # by what they begin with
    for launch in launches:
        if not (path := _library(launch, headers)).exists():
            missing.setdefault(_storage(launch), {})[path] = launch["source"]
    for storage, sources in missing.items():
        _compile(storage, sources, headers)


def _storage(launch: dict[str, Any]) -> str:
    """The types that the kernel takes: of one alone, where it computes in that, it compiles faster."""
    types = set(launch.get("types", ()))
    real = REALS.get(types.pop()) if len(types) == 1 else None
    if real is None:
        return ""
    return f"template <> struct front::cuda::AnyStorage<{real}> {{ static constexpr bool value = false; }};"


def _compile(storage: str, missing: dict[Path, str], headers: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_folder()) as own:
        text, fresh = Path(own) / "kernels.cpp", Path(own) / f"{uuid.uuid4().hex}.so"
        text.write_text("\n".join([storage, *missing.values()]))
        # Headers with a fault serve one kernel: to precompile them would take longer, but for the standard library's.
        kernels = headers / "kernels.h"
        own_headers = headers == CUDA
        first = _precompiled("all", f'#include "{kernels}"') if own_headers else _precompiled("std", STD)
        included = ["-include", str(first), *([] if own_headers else ["-include", str(kernels)])]
        gxx(*included, "-shared", str(text), str(_emulator()), "-o", str(fresh))
        library = fresh.replace(_folder() / fresh.name)
        for path in missing:  # by renaming: another worker may look for it, or make it too
            link = Path(own) / path.name
            link.symlink_to(library)
            link.replace(path)


def _library(launch: dict[str, Any], headers: Path) -> Path:
    key = hashlib.sha256(f"{headers}\n{_storage(launch)}\n{launch['source']}".encode()).hexdigest()[:16]
    return _folder() / f"{launch['name'][:60]}_{key}.so"


@functools.cache
def _loaded(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


def gxx(*arguments: str) -> None:
    # NOTE: not optimised: most kernels run on a few lanes, and compiling them is what takes the time.
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-fPIC"]
    flags += ["-fno-exceptions", "-fno-asynchronous-unwind-tables", "-fno-rtti", "-fno-semantic-interposition"]
    flags += ["-fno-stack-protector", "-fcf-protection=none"]
    run = subprocess.run(["g++", *flags, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[:4000]


@functools.cache
def _precompiled(name: str, text: str) -> Path:
    """A header of this text, with its precompiled form beside it."""
    header = _folder() / f"precompiled_{name}" / "all.h"
    if not header.parent.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as own:
            fresh = Path(own) / "precompiled"
            fresh.mkdir()
            (fresh / "all.h").write_text(f"{text}\n")
            gxx("-x", "c++-header", str(fresh / "all.h"), "-o", str(fresh / "all.h.gch"))
            with contextlib.suppress(OSError):  # another worker was first
                fresh.rename(header.parent)
    return header


@functools.cache
def _emulator() -> Path:
    """What all kernels share, optimised."""
    built = _folder() / "emulator.o"
    if not built.exists():
        fresh = _folder() / f"{uuid.uuid4().hex}.o"
        gxx("-O2", f"-I{ROOT / 'csrc'}", "-c", str(ROOT / "tests" / "native" / "emulator.cpp"), "-o", str(fresh))
        fresh.replace(built)
    return built


@dataclass
class Buffer:
    """Memory that a kernel may touch. Without `initial` values it starts as NaN and unwritten."""

    array: np.ndarray
    written: bool = False  # whether it may be written
    filled: bool = True  # whether it may be read before it is written
    reads: np.ndarray = field(init=False)
    writes: np.ndarray = field(init=False)
    valid: np.ndarray = field(init=False)
    requested: int = 0
    sectors: int = 0

    def __post_init__(self) -> None:
        assert self.array.base is None or self.array.flags.c_contiguous
        self.reads = np.zeros(self.array.nbytes, np.uint8)
        self.writes = np.zeros(self.array.nbytes, np.uint8)
        self.valid = np.full(self.array.nbytes, self.filled, np.uint8)

    @property
    def address(self) -> int:
        return self.array.ctypes.data


@dataclass
class Findings:
    """What the emulator saw in one launch."""

    name: str
    races: int
    bounds: int
    uninitialised: int
    first: str
    banks: dict[str, tuple[int, int]]  # "phase|kind bytes": wavefronts, ideal

    @property
    def total(self) -> int:
        return self.races + self.bounds + self.uninitialised


def _order_of(launch: dict[str, Any], buffers: Sequence[Buffer]) -> int:
    """A seed, never 0, that is the same in every run of the tests."""
    text = f"{launch['name']} {launch['blocks']} {[b.array.shape for b in buffers]}"
    return crc32(text.encode()) or 1


def run(
    launches: Sequence[dict[str, Any]],
    buffers: Sequence[Buffer],
    *,
    seed: int | None = None,
    statistics: bool = False,
    headers: Path = CUDA,
) -> list[Findings]:
    """Runs the launches one after the other on `buffers` and their tables; counts are added to the buffers.

    seed: of the order of the threads, shuffled in every phase; 0: one after the other; None: another one for each
    kernel, grid and sizes of the memory.
    """
    compile_kernels(launches, headers)
    found = []
    for launch in launches:
        args = bytearray(launch["args"])
        keep, memory = [], []
        tables = launch["tables"]()
        for offset, table in tables:
            aligned = np.zeros(len(table) + 64, np.uint8)
            start = -aligned.ctypes.data % 64
            aligned[start : start + len(table)] = np.frombuffer(table, np.uint8)
            keep.append(aligned)
            address = aligned.ctypes.data + start
            args[offset : offset + 8] = address.to_bytes(8, "little")
            memory.append(EmulatedBuffer(address, len(table), None, None, None, 0, 0))
        for b in buffers:
            writes = b.writes.ctypes.data if b.written else None
            memory.append(
                EmulatedBuffer(b.address, b.array.nbytes, b.reads.ctypes.data, writes, b.valid.ctypes.data, 0, 0)
            )
        array = (EmulatedBuffer * len(memory))(*memory)
        order = _order_of(launch, buffers) if seed is None else seed
        report = EmulatorReport(order, statistics, array, len(memory), launch["shared_bytes"])
        kernel = getattr(_loaded(_library(launch, headers)), launch["name"])
        raw = ctypes.create_string_buffer(bytes(args), len(args))
        kernel(raw, ctypes.c_longlong(0), ctypes.c_longlong(launch["blocks"]), ctypes.byref(report))
        for b, m in zip(buffers, array[len(tables) :], strict=True):
            b.requested += m.requested
            b.sectors += m.sectors
        banks = {}
        for line in report.banks.decode().splitlines():
            phase, kind, wavefronts, ideal = line.split("|")
            banks[f"{phase}|{kind}"] = (int(wavefronts), int(ideal))
        found.append(
            Findings(launch["name"], report.races, report.bounds, report.uninitialised, report.first.decode(), banks)
        )
    return found
