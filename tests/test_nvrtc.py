"""Run-time compilation of CUDA C++ and its cache on disk, with a real NVRTC. No GPU is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from front_kernels import _nvrtc
from front_kernels._nvrtc import Nvrtc

Patch = pytest.MonkeyPatch

KERNEL = """
#include "math/scale.h"
extern "C" __global__ void scale(float* x) { x[threadIdx.x] = scaled(x[threadIdx.x]); }
"""
HEADERS = {
    "math/scale.h": '#include "factor.h"\ninline float scaled(float x) { return factor * x; }',
    "factor.h": "constexpr float factor = 2.5f;",
}
DIVISION = 'extern "C" __global__ void f(float* x) { x[0] = x[1] / x[2]; }'
SUM = 'extern "C" __global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }'
ARITHMETIC = [(DIVISION, "--use_fast_math", "--prec-div=true"), (SUM, "--fmad=false", "--fmad=true")]
ELF = b"\x7fELF"

# As a script of its own that has the module, but not its package: what would import torch.
ALONE = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("_nvrtc", {_nvrtc.__file__!r})
module = sys.modules["_nvrtc"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    folder = tmp_path / "cache" / "front"
    monkeypatch.setenv("FRONT_CACHE_DIR", str(folder))
    monkeypatch.setattr(_nvrtc, "_warned", set())
    return folder


@pytest.fixture
def nvrtc() -> Nvrtc:
    return _nvrtc.find()


@pytest.fixture
def searching(monkeypatch: Patch) -> Any:
    """`find` searches again, without this environment's variables, and what it finds is forgotten afterwards."""
    for name in ("FRONT_NVRTC", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    _nvrtc.find.cache_clear()
    yield
    _nvrtc.find.cache_clear()


@pytest.fixture
def compiles(monkeypatch: Patch) -> list[str]:
    """The names of what was really compiled."""
    names: list[str] = []
    compile_it = Nvrtc.compile

    def counted(self: Nvrtc, source: str, name: str, *args: Any) -> bytes:
        names.append(name)
        return compile_it(self, source, name, *args)

    monkeypatch.setattr(Nvrtc, "compile", counted)
    return names


def scale(**changes: Any) -> bytes:
    return _nvrtc.compiled(**{"source": KERNEL, "name": "scale.cu", "headers": HEADERS, "arch": 90, **changes})


def write(path: Path, text: str = "no library" * 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def entry(folder: Path) -> Path:
    """The one file in the cache."""
    (file,) = folder.iterdir()
    return file


def test_compiles_for_each_architecture(nvrtc: Nvrtc) -> None:
    assert nvrtc.version >= (12, 0)
    assert {80, 90} <= set(nvrtc.architectures)
    cubins = {arch: nvrtc.compile(KERNEL, "scale.cu", HEADERS, arch) for arch in (80, 90)}
    assert all(cubin.startswith(ELF) and b"scale" in cubin for cubin in cubins.values())
    assert cubins[80] != cubins[90]
    assert cubins[90] == nvrtc.compile(KERNEL, "scale.cu", HEADERS, 90)


def test_headers_come_from_memory_and_nowhere_else(nvrtc: Nvrtc, tmp_path: Path, monkeypatch: Patch) -> None:
    doubled = {**HEADERS, "factor.h": "constexpr float factor = 5.0f;"}
    expected = nvrtc.compile(KERNEL, "scale.cu", HEADERS, 90)
    assert nvrtc.compile(KERNEL, "scale.cu", doubled, 90) != expected
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factor.h").write_text(doubled["factor.h"])
    assert nvrtc.compile(KERNEL, "scale.cu", HEADERS, 90) == expected
    with pytest.raises(RuntimeError, match=r"could not open source file \"factor.h\""):
        nvrtc.compile(KERNEL, "scale.cu", {"math/scale.h": HEADERS["math/scale.h"]}, 90)


@pytest.mark.parametrize(("source", "option", "same"), ARITHMETIC, ids=("division", "sum"))
def test_options_and_the_arithmetic_without_them(nvrtc: Nvrtc, source: str, option: str, same: str) -> None:
    plain = nvrtc.compile(source, "f.cu", {}, 90)
    assert nvrtc.compile(source, "f.cu", {}, 90, [same]) == plain
    assert nvrtc.compile(source, "f.cu", {}, 90, [option]) != plain


def test_an_error_has_the_log(nvrtc: Nvrtc, cache: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        _nvrtc.compiled('#include "a.h"', "broken.cu", {"a.h": "int x = nothing_of_that_name;"}, 90)
    first, *log = str(error.value).splitlines()
    assert first == "NVRTC {}.{} cannot compile broken.cu for sm_90: NVRTC_ERROR_COMPILATION".format(*nvrtc.version)
    assert log[0] == 'a.h(1): error: identifier "nothing_of_that_name" is undefined'
    assert "\0" not in str(error.value)
    with pytest.raises(RuntimeError, match=r"sum\.cu for sm_90: NVRTC_ERROR_INVALID_OPTION\n.*--no-such-option"):
        _nvrtc.compiled(SUM, "sum.cu", {}, 90, ["--no-such-option"])
    assert not cache.exists()


def test_a_long_log_keeps_its_beginning(nvrtc: Nvrtc) -> None:
    names = [f"unknown_{i:02}_{'x' * 500}" for i in range(60)]
    with pytest.raises(RuntimeError) as error:
        nvrtc.compile("\n".join(f"int a{i} = {name};" for i, name in enumerate(names)), "long.cu", {}, 90)
    kept, left_out = re.fullmatch(r"(.*)\n\.\.\. and (\d+) more characters", str(error.value), re.DOTALL).groups()
    assert names[0] in kept
    assert names[-1] not in kept
    assert len(kept) < _nvrtc.LOG_LIMIT + 100
    assert int(left_out) > 60 * 500 - _nvrtc.LOG_LIMIT


@pytest.mark.parametrize(
    ("arch", "expected"),
    [(80, 80), (86, 80), (89, 80), (90, 90), (75, None), (103, 100), (110, None), (120, 120), (121, 120), (70, None)],
)
def test_code_of_an_earlier_architecture_of_the_same_generation_runs(arch: int, expected: int | None) -> None:
    assert _nvrtc.runs_on(arch, (80, 90, 100, 120)) == expected


def test_an_architecture_that_is_not_known_gets_code_that_runs_on_it(nvrtc: Nvrtc, monkeypatch: Patch) -> None:
    monkeypatch.setattr(nvrtc, "architectures", (80, 90))
    assert nvrtc.compile(KERNEL, "scale.cu", HEADERS, 89) == nvrtc.compile(KERNEL, "scale.cu", HEADERS, 80)


@pytest.mark.parametrize("arch", [71, 0, -90, "90", None])
def test_an_architecture_that_is_not_supported(arch: Any) -> None:
    allowed = r"one of .*\b80, .*\b90\b.*\(NVRTC \d+\.\d+\), or a later one of the same generation"
    with pytest.raises(ValueError, match=f"^arch must be {allowed}, got {arch!r}$"):
        scale(arch=arch)


def test_text_that_c_would_cut_off() -> None:
    for argument, change in {
        "source": {"source": KERNEL + "\0"},
        "name": {"name": "a\0.cu"},
        "headers['factor.h']": {"headers": {**HEADERS, "factor.h": "\0"}},
        "headers' name": {"headers": {"\0": ""}},
        "options": {"options": ["-D\0"]},
    }.items():
        with pytest.raises(ValueError, match=f"^{re.escape(argument)} must have no NUL character, got one at \\d+$"):
            scale(**change)


def test_programs_are_freed(nvrtc: Nvrtc, monkeypatch: Patch) -> None:
    created, destroyed, library = [], [], nvrtc._library
    create, destroy = library.nvrtcCreateProgram, library.nvrtcDestroyProgram
    monkeypatch.setattr(library, create.__name__, lambda p, *args: (create(p, *args), created.append(p._obj.value))[0])
    monkeypatch.setattr(library, destroy.__name__, lambda p: (destroyed.append(p._obj.value), destroy(p))[1])
    nvrtc.compile(SUM, "f.cu", {}, 90)
    with pytest.raises(RuntimeError, match="cannot compile"):
        nvrtc.compile("?", "f.cu", {}, 90)
    assert len(created) == 2
    assert destroyed == created


def test_a_hit_compiles_nothing(nvrtc: Nvrtc, compiles: list[str], cache: Path) -> None:
    first = scale()
    assert compiles == ["scale.cu"]
    assert scale() == first
    assert scale(headers=dict(reversed(HEADERS.items()))) == first
    assert compiles == ["scale.cu"]
    assert entry(cache).read_bytes().startswith(first)
    assert nvrtc.compile(KERNEL, "scale.cu", HEADERS, 90) == first


def test_every_ingredient_is_in_the_key(nvrtc: Nvrtc, compiles: list[str], cache: Path, monkeypatch: Patch) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"source": KERNEL + " "},
        {"name": "other.cu"},
        {"headers": {**HEADERS, "factor.h": "constexpr float factor = 3;"}},
        {"headers": {**HEADERS, "unused.h": ""}},
        {"headers": {**HEADERS, "unused.h2": ""}},
        {"arch": 80},
        {"options": ["-DA"]},
        {"options": ["-D", "A"]},
    ]
    for i, change in enumerate(changes):
        scale(**change)
        assert len(compiles) == len(list(cache.iterdir())) == i + 1, change
    monkeypatch.setattr(nvrtc, "version", (nvrtc.version[0], nvrtc.version[1] + 1))
    scale()
    monkeypatch.setattr(_nvrtc, "OPTIONS", (*_nvrtc.OPTIONS, "--fmad=false"))
    scale()
    assert len(compiles) == len(list(cache.iterdir())) == len(changes) + 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:10], id="beginning"),
        pytest.param(lambda data: data[:-1], id="last byte missing"),
        pytest.param(lambda data: data[: -_nvrtc.DIGEST_SIZE], id="no digest"),
        pytest.param(lambda data: data + b"\0", id="longer"),
        pytest.param(lambda data: data[:100] + bytes(len(data) - 100), id="zeros"),
        pytest.param(lambda data: bytes([data[0] ^ 1]) + data[1:], id="first bit"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 128]), id="last bit"),
    ],
)
def test_a_damaged_entry_is_compiled_again(damage: Callable[[bytes], bytes], compiles: list[str], cache: Path) -> None:
    cubin = scale()
    whole = entry(cache).read_bytes()
    entry(cache).write_bytes(damage(whole))
    assert scale() == cubin
    assert entry(cache).read_bytes() == whole
    assert scale() == cubin
    assert len(compiles) == 2


def test_an_entry_under_another_key_is_not_used(compiles: list[str], cache: Path) -> None:
    for_80 = scale(arch=80)
    other = entry(cache)
    for_90 = scale(arch=90)
    (file,) = set(cache.iterdir()) - {other}
    file.write_bytes(other.read_bytes())
    assert scale(arch=90) == for_90 != for_80
    assert len(compiles) == 3


def test_two_processes_compile_the_same(cache: Path, nvrtc: Nvrtc) -> None:
    """Both have found nothing in the cache before either writes to it."""
    script = f"""{ALONE}
compile_it = module.Nvrtc.compile
def compile_and_wait(*args):
    cubin = compile_it(*args)
    print("compiled", flush=True)
    sys.stdin.readline()
    return cubin
module.Nvrtc.compile = compile_and_wait
arguments = {(KERNEL, "scale.cu", HEADERS, 90)!r}
cubin = module.compiled(*arguments)
module.Nvrtc.compile = None
print(cubin == module.compiled(*arguments), cubin.hex())
"""
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["compiled\n"] * 2
    assert not cache.exists()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    expected = nvrtc.compile(KERNEL, "scale.cu", HEADERS, 90)
    assert outputs == [f"True {expected.hex()}\n"] * 2
    assert _nvrtc._read(entry(cache), entry(cache).stem) == expected


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: Patch, compiles: list[str]) -> None:
    folder = write(tmp_path / "file") / "below"
    monkeypatch.setenv("FRONT_CACHE_DIR", str(folder))
    with pytest.warns(UserWarning, match=f"the cache folder {re.escape(str(folder))} cannot be used.*FRONT_CACHE_DIR"):
        cubin = scale()
    assert cubin.startswith(ELF)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scale() == cubin
    assert len(compiles) == 2


def test_no_home_directory(monkeypatch: Patch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FRONT_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match=r"~/\.cache/front_kernels cannot be used \(Could not determine home"):
        assert scale().startswith(ELF)


def test_a_write_that_fails_leaves_nothing(monkeypatch: Patch, cache: Path) -> None:
    def full(self: Path, target: Path) -> Path:
        assert self.parent == target.parent
        assert self.stat().st_size > _nvrtc.DIGEST_SIZE
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert scale().startswith(ELF)
    assert list(cache.iterdir()) == []


def test_entries_can_be_shared_as_the_umask_says(cache: Path) -> None:
    before = os.umask(0o027)
    try:
        scale()
    finally:
        os.umask(before)
    assert entry(cache).stat().st_mode & 0o777 == 0o640


def test_where_the_cache_is(monkeypatch: Patch, tmp_path: Path) -> None:
    for variable, value in (("HOME", "home"), ("XDG_CACHE_HOME", "xdg"), ("FRONT_CACHE_DIR", "front")):
        monkeypatch.setenv(variable, str(tmp_path / value))
    assert _nvrtc.cache_folder() == tmp_path / "front"
    monkeypatch.setenv("FRONT_CACHE_DIR", "")
    assert _nvrtc.cache_folder() == tmp_path / "xdg" / "front_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _nvrtc.cache_folder() == tmp_path / "home" / ".cache" / "front_kernels"


def test_alone_in_a_process_through_a_link(nvrtc: Nvrtc, tmp_path: Path) -> None:
    """The link's folder lacks the builtins, which nothing else has loaded; and torch is not imported."""
    link = tmp_path / "some_nvrtc.so"
    link.symlink_to(nvrtc.path)
    script = f"""{ALONE}
assert str(module.find().path) == os.environ["FRONT_NVRTC"]
cubin = module.compiled({SUM!r}, "f.cu", {{}}, 90)
print(cubin[:4], [name for name in ("torch", "front_kernels") if name in sys.modules])
"""
    environment = {**os.environ, "FRONT_NVRTC": str(link)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == (f"{ELF!r} []\n", "")


@pytest.mark.usefixtures("searching")
@pytest.mark.parametrize(("exists", "reason"), [(False, ", which is not a file"), (True, ": .*invalid ELF header")])
def test_the_variable_is_wrong(exists: bool, reason: str, tmp_path: Path, monkeypatch: Patch) -> None:
    path = write(tmp_path / "nvrtc.so") if exists else tmp_path / "nothing.so"
    monkeypatch.setenv("FRONT_NVRTC", str(path))
    named = re.escape(f"FRONT_NVRTC must be the path of an NVRTC library (libnvrtc.so.13), got {str(path)!r}")
    with pytest.raises(ValueError, match=f"^{named}{reason}"):
        _nvrtc.find()


def test_another_library_is_not_nvrtc() -> None:
    with pytest.raises(OSError, match=r"^libc\.so\.6 has no nvrtc\w+: it is not NVRTC"):
        Nvrtc("libc.so.6")


@pytest.mark.usefixtures("searching")
def test_nothing_is_found_but_a_broken_one(monkeypatch: Patch, tmp_path: Path) -> None:
    installed = _nvrtc.find()
    _nvrtc.find.cache_clear()
    broken = write(tmp_path / "lib64" / "libnvrtc.so.00")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(_nvrtc, "DEFAULT_TOOLKIT", tmp_path / "none")
    monkeypatch.setattr(_nvrtc, "LIBRARIES", ("libnvrtc.so.0", "libnvrtc.so.00"))
    with pytest.raises(RuntimeError) as error:
        _nvrtc.find()
    for part in (
        "NVRTC (libnvrtc.so.0 or libnvrtc.so.00), which compiles the CUDA kernels, was not found",
        "nvidia-cuda-nvrtc and nvidia-cuda-nvrtc-cu12",
        f"CUDA_HOME={tmp_path}, CUDA_PATH= and {tmp_path / 'none'}",
        f"\n    {broken}: ",
        "\n    libnvrtc.so.0: cannot open shared object file",
        "`pip install nvidia-cuda-nvrtc`, or install the CUDA toolkit, or set FRONT_NVRTC",
    ):
        assert part in str(error.value)
    monkeypatch.setattr(_nvrtc, "_candidates", lambda: iter((broken, installed.path)))
    assert _nvrtc.find().path == installed.path


@pytest.mark.usefixtures("searching")
def test_the_order_of_the_search(tmp_path: Path, monkeypatch: Patch) -> None:
    site, packages = tmp_path / "site", []
    for package, library in zip(_nvrtc.PACKAGES, _nvrtc.LIBRARIES, strict=True):
        info = site / f"{package.replace('-', '_')}-1.dist-info"
        write(info / "METADATA", f"Name: {package}\nVersion: 1\n")
        write(info / "RECORD", f"{package}/{library},,\n{package}/libnvrtc-builtins.so.13.0,,\n{library}.missing,,\n")
        packages.append(write(site / package / library))
    names = (
        "copied/nvidia/cu13/lib/libnvrtc.so.13",
        "copied/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "home/lib64/libnvrtc.so.13",
        "home/lib64/libnvrtc.so.12",
        "path/targets/x86_64-linux/lib/libnvrtc.so.13",
        "default/lib/x86_64-linux-gnu/libnvrtc.so.12",
    )
    files = [write(tmp_path / name) for name in names]
    write(tmp_path / "default/lib64/libnvrtc.so.11.2")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_nvrtc, "DEFAULT_TOOLKIT", tmp_path / "default")
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(sys, "path", [str(site), str(tmp_path / "copied")])
    assert list(_nvrtc._candidates()) == [*packages, *files, Path("libnvrtc.so.13"), Path("libnvrtc.so.12")]
