"""What the compilers make of the CUDA kernels: registers, spills and shared memory, for every kernel compiled ahead and
one of each family on other architectures; and of every family some under NVRTC. None of it needs a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from emulate import CUDA, H200
from front_kernels import _C, _kernels, _nvrtc

BF16, F32, F64 = 1, 2, 3
FORWARD, INVERSE, RESIZE = 0, 1, 2
NVCC = shutil.which("nvcc")
BUILT = _C.build_info()["cuda"]
REGISTERS = 65536  # of a multiprocessor
RESERVED = 1 << 10  # bytes of each block's shared memory that sm_90 keeps for itself, and cuobjdump counts
STACK = {"front_residual_f64_f64_f64": 32, "front_row_f64_f64_f64": 96}  # bytes that are known to be spilled
A100 = [108, 163 << 10, 164 << 10]
RTX4090 = [128, 99 << 10, 100 << 10, 0, 1536]
B200 = [148, 227 << 10, 228 << 10, 48]


def cuobjdump() -> str | None:
    """A CUDA toolkit's, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    own = Path(triton.origin or "").parent / "backends" / "nvidia" / "bin" if triton else Path()
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(own))


@dataclass
class Usage:
    registers: int
    spilled: int
    static_shared: int


def usage(log: str) -> Usage:
    """From the output of `ptxas -v` of one kernel."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    shared = re.search(r"(\d+) bytes smem", log)
    assert registers, log
    assert spills, log
    return Usage(int(registers[1]), sum(map(int, spills.groups())), int(shared[1]) if shared else 0)


def bounds(source: str) -> tuple[int, int]:
    """Threads and blocks per multiprocessor that a kernel is compiled for."""
    found = re.search(r"FRONT_KERNEL\(\w+,\s*(\w+(?:::\w+)*),\s*(\d+),", source)
    assert found, source
    threads = 256 if found[1].endswith("kPackThreads") else int(found[1])
    return threads, int(found[2])


def check(name: str, source: str, log: str) -> None:
    fits(name, source, usage(log))


def fits(name: str, source: str, used: Usage) -> None:
    threads, blocks = bounds(source)
    warps = -(-threads // 32)
    allocated = -(-used.registers * 32 // 256) * 256 * warps * blocks
    assert used.spilled == 0, f"{name}: {used}"
    assert used.static_shared == 0, name
    assert allocated <= REGISTERS, (
        f"{name}: {used.registers} registers, planned are {blocks} blocks of {threads} threads"
    )


def launches(
    direction: int, m: int, n: int, k0: int, k1: int, *, kind: int = F32, hardware: list[int] = H200
) -> list[dict[str, Any]]:
    size = [m, n] if direction == RESIZE else [0, 0]
    strides = [k1, 1, n, 1] if direction == INVERSE else [n, 1, k1 if direction == FORWARD else n, 1]
    found, _ = _C.cuda_matrix_launches(
        direction, [m, n, k0, k1, *size], strides, [kind] * 3, "ortho", [0], [0], [], 0, hardware
    )
    return list(found)


def through(n: int, *, kind: int = F32, hardware: list[int] = H200) -> list[dict[str, Any]]:
    """Of one axis of 4096 lanes."""
    lanes = [(4096, n, n)]
    found, _ = _C.cuda_axis_launches(FORWARD, n, n, [1, 1], [kind] * 3, "ortho", 0, 0, lanes, 0, hardware)
    assert [launch["name"].split("_")[1] for launch in found] == ["through"]
    return list(found)


def spectral(m: int, n: int, k0: int, k1: int, *, kind: int = F32, hardware: list[int] = H200) -> list[dict[str, Any]]:
    wide = F64 if kind == F64 else F32
    found, _ = _C.cuda_spectral_launches(
        (m, n, k0, k1), (n, 1, n, 1), (kind, wide, kind), [0], [0], (0.0, 0.0), True, 1.0, 0, 0, hardware
    )
    return list(found)


@functools.cache
def families(hardware: tuple[int, ...] = tuple(H200)) -> dict[str, str]:
    """Of each family some kernels: name -> source."""
    kernels: dict[str, str] = {}
    hardware = list(hardware)
    for kind in (F32, F64):
        for direction in (FORWARD, INVERSE, RESIZE):
            found = launches(direction, 1536, 1536, 768, 768, kind=kind, hardware=hardware)[-2:]
            kernels |= {k["name"]: k["source"] for k in found}
        kernels |= {k["name"]: k["source"] for k in spectral(1536, 1536, 768, 768, kind=kind, hardware=hardware)}
        # One row alone, whose loss and gradient are one kernel.
        kernels |= {k["name"]: k["source"] for k in spectral(1, 1536, 1, 768, kind=kind, hardware=hardware)}
        # A convolution, and two steps without one.
        kernels |= {k["name"]: k["source"] for k in launches(FORWARD, 4, 30522, 4, 30522, kind=kind, hardware=hardware)}
        # The same of many lanes, and an odd length.
        for n in (30522, 65536, 59049):
            kernels |= {k["name"]: k["source"] for k in through(n, kind=kind, hardware=hardware)}
    for direction in (FORWARD, INVERSE):  # odd lengths, of one stage and of several
        found = [k for n in (31, 999) for k in launches(direction, n, n, n, n, hardware=hardware)]
        kernels |= {k["name"]: k["source"] for k in found}
    kernels |= {k["name"]: k["source"] for k in launches(FORWARD, 4, 65536, 4, 65536, hardware=hardware)}
    kernels |= {k["name"]: k["source"] for k in launches(FORWARD, 8192, 8192, 1024, 1024, hardware=hardware)}
    kernels |= {k["name"]: k["source"] for k in launches(INVERSE, 11008, 4096, 2752, 1024, hardware=hardware)}
    kernels |= {k["name"]: k["source"] for k in spectral(8192, 8192, 1024, 1024, kind=BF16, hardware=hardware)}
    return kernels


def family_of(name: str) -> tuple[str, bool, bool]:
    """What of a kernel's name is neither its plan's numbers nor its dtypes; but rows differ from columns, and so does a
    generic stage."""
    radices = [int(radix) for plan in re.findall(r"_r([\dx]+)_", name) for radix in plan.split("x")]
    return re.sub(r"_(?:[nsrlb]\d|b?f\d)[^_]*", "", name), "t1x" in name, max(radices, default=1) > 16


def is_long(name: str) -> bool:
    """Kernels of these lengths take most of a multiprocessor."""
    return "_n8192_" in name or "_n11008_" in name


AHEAD = sorted(_kernels.AHEAD.glob("*.fatbin.log"))


def test_kernels_are_compiled_ahead():
    if not BUILT:
        pytest.skip("this build has no CUDA engine: no CUDA toolkit was found")
    names = {path.name.partition(".")[0] for path in AHEAD}
    for direction in (FORWARD, INVERSE):
        for launch in launches(direction, 8192, 8192, 1024, 1024):
            assert launch["name"] in names
    assert {path.name.partition(".")[0] for path in _kernels.AHEAD.glob("*.fatbin")} == names == set(_kernels.ahead())


@pytest.mark.parametrize("log", AHEAD, ids=lambda path: path.name.partition(".")[0])
def test_ahead_of_time_kernels_fit_their_plan(log: Path):
    """Zero spills, and registers for as many blocks per multiprocessor as planned."""
    name = log.name.partition(".")[0]
    text = log.read_text()
    architectures = _C.build_info()["cuda_architectures"].split(",")
    parts = re.split(r"(?=ptxas info\s+: Compiling entry function)", text)[1:]
    assert len(parts) == len(_kernels.ahead()[name]), text
    assert set(map(str, _kernels.ahead()[name])) <= set(architectures)
    source = sources()[name]
    for part in parts:
        check(name, source, part)


@functools.cache
def sources() -> dict[str, str]:
    """Of the kernels compiled ahead, from the same cases as csrc/cuda/ahead.cpp."""
    found = {}
    for m, n in ((768, 768), (3072, 768), (1024, 1024), (4096, 4096), (8192, 8192), (11008, 4096)):
        for share in (1, 2, 4, 8):
            for direction in (FORWARD, INVERSE, RESIZE):
                for hardware in (H200, A100, B200):
                    planned = launches(direction, m, n, m // share, n // share, hardware=hardware)
                    found |= {k["name"]: k["source"] for k in planned}
    for m, n, share in ((768, 768, 2), (768, 3072, 2), (8192, 8192, 8)):
        for hardware in (H200, A100, B200):
            planned = spectral(m, n, m // share, n // share, hardware=hardware)
            found |= {k["name"]: k["source"] for k in planned}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "hardware"), [(80, A100), (100, B200)])
def test_families_on_other_architectures(tmp_path: Path, architecture: int, hardware: list[int]):
    if NVCC is None:
        pytest.skip("no nvcc on this machine")
    kernels, seen = {}, set()
    found = families(tuple(hardware))
    for name in sorted(found, key=is_long, reverse=True):
        family = family_of(name)
        if "f64" in name or "double" in name:  # the same families
            continue
        if family not in seen:  # one of each, long if there is one
            seen.add(family)
            kernels[name] = found[name]
    assert len(kernels) >= 15
    if architecture == 80:  # sm_89 has the same instructions, and less shared memory: some long plans are its own
        others = families(tuple(RTX4090))
        own = {n: others[n] for n in others if is_long(n) and n not in found and family_of(n)[1]}
        assert {family_of(name)[0] for name in own} >= {"front_inverse", "front_residual"}
        kernels |= own
    file = tmp_path / "kernels.cu"  # all in one: headers take much of the time
    file.write_text(_kernels.source_of("\n".join(kernels.values())))
    flags = ["-std=c++17", "-cubin", "-Xptxas", "-v", f"-I{CUDA}", f"-arch=sm_{architecture}"]
    command = [NVCC, *flags, "-o", str(file.with_suffix(".cubin")), str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "will be ignored" not in run.stderr, run.stderr  # more threads than a multiprocessor takes
    parts = re.split(r"(?=ptxas info\s+: Compiling entry function)", run.stderr)[1:]
    logs = {re.search(r"entry function '(\w+)'", part)[1]: part for part in parts}  # type: ignore[index]
    assert logs.keys() == kernels.keys()
    for name, source in kernels.items():
        check(name, source, logs[name])


HEADERS = {path.name: path.read_text() for path in CUDA.glob("*.h")}


def for_nvrtc() -> list[str]:
    """One of each family, in either dtype: the longest that nvcc has not compiled ahead; or else one that it has."""
    ahead = {path.name.partition(".")[0] for path in AHEAD}

    def preferred(name: str) -> tuple[bool, int]:
        return name not in ahead, max(map(int, re.findall(r"_n(\d+)_", name)), default=0)

    chosen: dict[tuple[tuple[str, bool, bool], bool], str] = {}
    for name in sorted(families(), key=preferred):
        chosen[family_of(name), "f64" in name or "double" in name] = name
    return sorted(chosen.values())


@pytest.mark.parametrize("name", for_nvrtc())
def test_families_compile_under_nvrtc(name: str, tmp_path: Path):
    source = families()[name]
    cubin = _nvrtc.find().compile(_kernels.source_of(source), name, HEADERS, 90)
    assert cubin.startswith(b"\x7fELF")
    assert name.encode() in cubin
    if (tool := cuobjdump()) is None:
        pytest.skip("it compiles, but no cuobjdump on this machine says what it takes")
    file = tmp_path / "kernel.cubin"
    file.write_bytes(cubin)
    command = [tool, "--dump-resource-usage", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"Function {name}:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    assert found, text
    registers, stack, shared, local = map(int, found.groups())
    allowed = STACK.get(name.partition("_n")[0], 0)
    fits(name, source, Usage(registers, max(0, stack + local - allowed), max(0, shared - RESERVED)))


def test_headers_for_nvrtc_are_those_of_the_source():
    """What is copied beside the kernels compiles by itself, and nothing that device code includes is missing."""
    if not BUILT:
        pytest.skip("this build has no CUDA engine: no CUDA toolkit was found")
    copied = _kernels.headers()
    assert copied == {name: text for name, text in HEADERS.items() if name in copied}
    included = set(re.findall(r'#include "([\w.]+)"', "".join(copied.values()))) | {"kernels.h"}
    assert included - {"emulator.h"} <= set(copied)


def test_image_prefers_what_was_compiled_ahead(monkeypatch: pytest.MonkeyPatch):
    if not BUILT:
        pytest.skip("this build has no CUDA engine: no CUDA toolkit was found")
    launch = launches(FORWARD, 8192, 8192, 1024, 1024)[0]
    compiled_for = _kernels.ahead()[launch["name"]]
    architecture = compiled_for[0]
    asked = []
    monkeypatch.setattr(_nvrtc, "compiled", lambda *args: asked.append(args) or b"compiled")
    ahead = _kernels.image(launch["name"], launch["source"], architecture)
    assert ahead == (_kernels.AHEAD / f"{launch['name']}.fatbin").read_bytes()
    assert not asked
    assert _kernels.image(launch["name"], launch["source"], architecture + 6) == ahead  # as sm_86 runs sm_80's code
    other = next(a for a in (80, 90, 100, 120) if a // 10 not in {known // 10 for known in compiled_for})
    assert _kernels.image(launch["name"], launch["source"], other) == b"compiled"
    assert _kernels.image("front_other", "source", architecture) == b"compiled"
    assert len(asked) == 2


def test_why_there_is_no_kernel_is_handed_over(monkeypatch: pytest.MonkeyPatch):
    """Exceptions lose their words on the way through torch's C interface: they go as data, marked by the last byte."""
    failed = bytes(torch.ops.front._cuda_image("front_none", "no C++", 90).numpy())
    assert failed[-1] == 1
    assert b"RuntimeError: NVRTC" in failed
    assert b"front_none" in failed
    monkeypatch.setattr(_kernels, "image", lambda *args: b"machine code")
    assert bytes(torch.ops.front._cuda_image("front_none", "", 90).numpy()) == b"machine code\0"
