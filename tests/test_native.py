"""The kernels without torch, under AddressSanitizer and UBSan: strided outputs between sentinels, exact bounds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=gnu++17", "-O1", "-g", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


THREAD_FLAGS = ["-std=gnu++17", "-O1", "-g", "-fsanitize=thread", "-pthread"]
# ThreadSanitizer wants the memory layout that address randomisation takes from it.
UNRANDOMISED = ["setarch", "-R"]


def sanitizer_works(folder: Path, flags: list[str] = FLAGS, run: list[str] | None = None) -> bool:
    source = folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    build = ["g++", *flags, str(source), "-o", str(folder / "probe")]
    if subprocess.run(build, capture_output=True, check=False).returncode != 0:
        return False
    return subprocess.run([*(run or []), str(folder / "probe")], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_kernels_under_sanitizers(tmp_path, vector_bytes):
    if shutil.which("g++") is None or not sanitizer_works(tmp_path):
        pytest.skip("no g++ with AddressSanitizer on this machine")
    cpu = ROOT / "csrc" / "cpu"
    isa = ["-DFRONT_ISA=generic", "-DFRONT_ISA_ENTRY=kGeneric", f"-DFRONT_VECTOR_BYTES={vector_bytes}"]
    kernels = [cpu / f"{name}.cpp" for name in ("axis", "axis_isa", "matrix", "memory", "spectral", "tables")]
    build = ["g++", *FLAGS, *isa, f"-I{ROOT / 'csrc'}"]
    for source in kernels:  # once for both tests: they take longest
        subprocess.run([*build, "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")], check=True)
    objects = [str(tmp_path / f"{source.stem}.o") for source in kernels]
    for test in ("axis_test", "spectral_test"):
        source, binary = ROOT / "tests" / "native" / f"{test}.cpp", tmp_path / test
        subprocess.run([*build, str(source), *objects, "-o", str(binary)], check=True)
        run = subprocess.run([str(binary)], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.endswith("0 failed\n"), run.stdout


def test_plan_cache_under_thread_sanitizer(tmp_path):
    tools = all(shutil.which(tool) for tool in ("g++", "setarch"))
    if not tools or not sanitizer_works(tmp_path, THREAD_FLAGS, UNRANDOMISED):
        pytest.skip("no g++ with ThreadSanitizer, or no setarch, on this machine")
    cpu = ROOT / "csrc" / "cpu"
    sources = [ROOT / "tests" / "native" / "cache_test.cpp", cpu / "tables.cpp", cpu / "memory.cpp"]
    binary = tmp_path / "cache_test"
    subprocess.run(["g++", *THREAD_FLAGS, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(binary)], check=True)
    run = subprocess.run([*UNRANDOMISED, str(binary)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "0 failed\n"


def test_code_for_one_instruction_set_shares_no_symbol_with_another(tmp_path):
    """Whatever an instruction set's object defines outside its own namespace, another one could pick up."""
    if shutil.which("g++") is None or shutil.which("nm") is None:
        pytest.skip("no g++ or no nm on this machine")
    isa = ["-DFRONT_ISA=avx2", "-DFRONT_ISA_ENTRY=kAvx2", "-DFRONT_VECTOR_BYTES=32", "-DFRONT_X86"]
    for level in ("-O0", "-Os"):
        compile_only = ["g++", "-std=gnu++17", level, "-Wno-psabi", *isa, "-c", "-o", str(tmp_path / "isa.o")]
        subprocess.run([*compile_only, str(ROOT / "csrc" / "cpu" / "axis_isa.cpp")], check=True)
        nm = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", str(tmp_path / "isa.o")], capture_output=True, check=True
        )
        names = [line.split(" ", 2)[2] for line in nm.stdout.decode().splitlines()]
        assert "front::cpu::kAvx2" in names
        shared = [n for n in names if "front::cpu::avx2::" not in n and n != "front::cpu::kAvx2"]
        assert shared == [], level
