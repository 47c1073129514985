"""The kernels without torch, under AddressSanitizer and UBSan: strided outputs between sentinels, exact bounds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import built
import front_kernels as fk

ROOT = Path(__file__).parent.parent
CPU, NATIVE = ROOT / "csrc" / "cpu", ROOT / "tests" / "native"
PARTS = ("alone", "axis", "dfts", "matrix", "memory", "roots", "spectral", "tables")  # without torch
TESTS = ("axis_test", "decimation_test", "order_test", "spectral_test", "pairs_test")  # the last has kernels in it
# This run takes each sixth of axis_test's cases, and this machine's widest vectors; `make test-asan` takes all cases,
# and narrower vectors too.
STEP = os.environ.get("FRONT_SANITIZED_STEP", "6")
ISAS = ["avx512", "avx2", "generic"]
WIDTHS = ISAS[ISAS.index(fk.build_info()["cpu_isa"]) :][: None if STEP == "1" else 1]
SANITIZE = ["-std=gnu++17", "-g1", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Not optimised: it is compiling that takes the time (of kernels, whose checks are called, not inlined, with -O1 2.7
# times as long).
FLAGS = [*SANITIZE, "-O0"]
KERNEL_FLAGS = [*FLAGS, "--param", "asan-instrumentation-with-call-threshold=0"]
# What gives the kernels their buffers, and checks values: its memory is watched, itself it is not.
HARNESS_FLAGS = ["-std=gnu++17", "-O2", "-g1", "-Wno-psabi"]
THREAD_FLAGS = ["-std=gnu++17", "-O1", "-g1", "-fsanitize=thread", "-pthread"]
# ThreadSanitizer wants the memory layout that address randomisation takes from it.
UNRANDOMISED = ["setarch", "-R"]


def sanitizer_works(folder: Path, flags: list[str] = FLAGS, run: list[str] | None = None) -> bool:
    source = folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    build = ["g++", *flags, str(source), "-o", str(folder / "probe")]
    if subprocess.run(build, capture_output=True, check=False).returncode != 0:
        return False
    return subprocess.run([*(run or []), str(folder / "probe")], capture_output=True, check=False).returncode == 0


def compile_object(source: Path, folder: Path, *flags: str) -> Path:
    built = folder / f"{source.stem}.o"
    command = ["g++", *flags, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(built)]
    subprocess.run(command, check=True)
    return built


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """All but the kernels that depend on the length of a vector: compiling takes longest."""
    folder = tmp_path_factory.mktemp("objects")
    if shutil.which("g++") is None or not sanitizer_works(folder):
        pytest.skip("no g++ with AddressSanitizer on this machine")
    sources = [CPU / f"{name}.cpp" for name in PARTS]
    mains = [(NATIVE / f"{test}.cpp", KERNEL_FLAGS if test == TESTS[-1] else HARNESS_FLAGS) for test in TESTS]
    return [compile_object(s, folder, *flags) for s, flags in (*((s, FLAGS) for s in sources), *mains)]


VECTORS = {  # as CMakeLists.txt compiles them
    "generic": [16],
    "avx2": [32, "-mavx2", "-mfma", "-mf16c"],
    "avx512": [64, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}


@pytest.mark.slow
@pytest.mark.xdist_group("sanitizers")  # one process, so that it compiles once
@pytest.mark.parametrize("isa", WIDTHS)
def test_kernels_under_sanitizers(objects, tmp_path, isa):
    """The widest vectors with their own stores around the caches."""
    vector_bytes, *more = VECTORS[isa]
    flags = ["-DFRONT_ISA=generic", "-DFRONT_ISA_ENTRY=kGeneric", f"-DFRONT_VECTOR_BYTES={vector_bytes}", *more]
    kernels = [compile_object(CPU / "axis_isa.cpp", tmp_path, *KERNEL_FLAGS, *flags), *objects[: -len(TESTS)]]
    for test, main in zip(TESTS, objects[-len(TESTS) :], strict=True):
        # The kernels first: of functions that the unwatched main has too, it is theirs that count.
        subprocess.run(["g++", *FLAGS, *map(str, (*kernels, main)), "-o", str(tmp_path / test)], check=True)
        command = [str(tmp_path / test), *([STEP] if test == "axis_test" else [])]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert re.fullmatch(r"[1-9]\d* passed, 0 failed\n", run.stdout), run.stdout


@pytest.mark.slow
def test_plan_cache_under_thread_sanitizer(tmp_path):
    tools = all(shutil.which(tool) for tool in ("g++", "setarch"))
    if not tools or not sanitizer_works(tmp_path, THREAD_FLAGS, UNRANDOMISED):
        pytest.skip("no g++ with ThreadSanitizer, or no setarch, on this machine")
    sources = [NATIVE / "cache_test.cpp", *(CPU / f"{name}.cpp" for name in PARTS)]
    binary = tmp_path / "cache_test"
    subprocess.run(["g++", *THREAD_FLAGS, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(binary)], check=True)
    run = subprocess.run([*UNRANDOMISED, str(binary)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "0 failed\n"


@pytest.mark.slow
def test_code_for_one_instruction_set_shares_no_symbol_with_another(tmp_path):
    """Whatever an instruction set's object defines outside its own namespace, another one could pick up."""
    kernels = built.avx2_kernels()
    if shutil.which("nm") is None or (kernels is None and shutil.which("g++") is None):
        pytest.skip("no nm, or no g++, on this machine")
    if kernels is None:  # unoptimised: all that is not inlined by force is defined
        kernels = tmp_path / "isa.o"
        isa = ["-DFRONT_ISA=avx2", "-DFRONT_ISA_ENTRY=kAvx2", "-DFRONT_VECTOR_BYTES=32", "-DFRONT_X86"]
        command = ["g++", "-std=gnu++17", "-O0", "-Wno-psabi", *isa, "-c", "-o", str(kernels)]
        subprocess.run([*command, str(CPU / "axis_isa.cpp")], check=True)
    nm = subprocess.run(["nm", "-C", "--defined-only", "--extern-only", str(kernels)], capture_output=True, check=True)
    names = [line.split(" ", 2)[2] for line in nm.stdout.decode().splitlines()]
    # The unoptimised object's pointer to the routine that unwinds, the same in every object.
    names = [name for name in names if name != "DW.ref.__gxx_personality_v0"]
    assert "front::cpu::kAvx2" in names
    assert [n for n in names if "front::cpu::avx2::" not in n and n != "front::cpu::kAvx2"] == []
