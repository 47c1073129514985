"""Instructions that the AVX2 kernels execute, counted by callgrind, against the committed figures.

`python tests/test_instructions.py` counts anew and writes the figures: after a change that is meant to change them.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import built

ROOT = Path(__file__).parent.parent
FIGURES = Path(__file__).parent / "native" / "instructions.json"
CASES = [
    "forward 768 768 384 384 f32",
    "forward 1024 1024 128 128 f32",
    "forward 500 384 500 384 f32",
    "inverse 768 768 384 384 f32",
    "inverse 1024 1024 128 128 f32",
    "resize 256 256 128 128 f32",
    "forward 512 512 256 256 bf16",
    "forward 384 384 192 192 f64",
    "forward 2038 48 1019 24 f32 8",  # a large prime factor; eight times, because its tables take several
    "forward 2038 48 1019 24 f64 8",
    "forward 512 512 8 512 f32",  # rows stream by
    "inverse 512 512 8 512 f32",
    "forward 1 16384 1 16384 f32",  # a vector alone
    "inverse 1 6000 1 3000 f32",
]
PARTS = ("alone", "axis", "dfts", "matrix", "memory", "roots", "tables")
MOST = 1.03  # of the committed figure: other compilers of the same major version differ by less
# Linked, not run.
OTHERS = """
#include "cpu/axis_isa.h"
namespace front::cpu {
extern const Isa kAvx512{"avx512", 64, nullptr, nullptr}, kGeneric{"generic", 16, nullptr, nullptr};
}
"""


def build(folder: Path) -> Path:
    """bench/native/kernels.cpp with the AVX2 kernels alone: callgrind knows no AVX-512."""
    cpu = ROOT / "csrc" / "cpu"
    flags = ["-std=gnu++17", "-O3", "-DFRONT_X86", "-Wno-psabi", f"-I{ROOT / 'csrc'}"]
    kernels = built.avx2_kernels()
    if kernels is None:  # as CMakeLists.txt does
        kernels = folder / "avx2.o"
        isa = ["-DFRONT_ISA=avx2", "-DFRONT_ISA_ENTRY=kAvx2", "-DFRONT_VECTOR_BYTES=32", "-mavx2", "-mfma", "-mf16c"]
        isa += ["-mtune=skylake", "-ffp-contract=fast", "-fno-math-errno", "-fno-ivopts", "-fPIC"]
        subprocess.run(["g++", *flags, *isa, "-c", str(cpu / "axis_isa.cpp"), "-o", str(kernels)], check=True)
    (folder / "others.cpp").write_text(OTHERS)
    sources = [built.object_of(f"{name}.cpp") or cpu / f"{name}.cpp" for name in PARTS]
    sources += [ROOT / "bench" / "native" / "kernels.cpp", kernels, folder / "others.cpp"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(folder / "kernels")], check=True)
    return folder / "kernels"


def count(kernels: Path, case: str) -> int:
    """Instructions inside run_matrices or run_alone, plans included."""
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={kernels.parent / 'callgrind.out'}"),
            "--toggle-collect=front::cpu::run_matrices*",
            "--toggle-collect=front::cpu::run_alone(front::AxisPass const&, front::Executor const&)",
            *(str(kernels), *case.split()),
        ],
        env={"FRONT_CPU_ISA": "avx2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("avx2 ")
    return int(re.search(r"Collected : (\d+)", run.stderr)[1])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="counts x86-64 instructions")
def test_no_more_instructions_than_committed(tmp_path):
    if shutil.which("g++") is None or shutil.which("valgrind") is None:
        pytest.skip("no g++ or no valgrind on this machine")
    figures = json.loads(FIGURES.read_text())
    compiler = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    if compiler != figures["compiler"]:
        pytest.skip(f"the figures are of g++ {figures['compiler']}, this is {compiler}")
    kernels = build(tmp_path)
    ratios = {case: count(kernels, case) / figures["instructions"][case] for case in CASES}
    assert max(ratios.values()) <= MOST, ratios


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        kernels = build(Path(folder))
        compiler = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
        figures = {"compiler": compiler, "instructions": {case: count(kernels, case) for case in CASES}}
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print(FIGURES.read_text(), file=sys.stderr)


if __name__ == "__main__":
    main()
