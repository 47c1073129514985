"""The kernels without torch, under AddressSanitizer and UBSan: strided outputs between sentinels, exact bounds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=gnu++17", "-O1", "-g", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def sanitizer_works(folder: Path) -> bool:
    source = folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    build = ["g++", *FLAGS, str(source), "-o", str(folder / "probe")]
    return subprocess.run(build, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_axis_kernels_under_sanitizers(tmp_path, vector_bytes):
    if shutil.which("g++") is None or not sanitizer_works(tmp_path):
        pytest.skip("no g++ with AddressSanitizer on this machine")
    cpu = ROOT / "csrc" / "cpu"
    isa = ["-DFRONT_ISA=generic", "-DFRONT_ISA_ENTRY=kGeneric", f"-DFRONT_VECTOR_BYTES={vector_bytes}"]
    sources = [ROOT / "tests" / "native" / "axis_test.cpp", cpu / "axis.cpp", cpu / "tables.cpp", cpu / "axis_isa.cpp"]
    binary = tmp_path / "axis_test"
    subprocess.run(["g++", *FLAGS, *isa, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(binary)], check=True)
    run = subprocess.run([str(binary)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("0 failed\n"), run.stdout


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
