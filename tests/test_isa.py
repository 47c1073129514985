"""Every instruction set that this machine has computes the same results: here, all but the one that runs by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import front_kernels as fk

BUILT = fk.build_info()["cpu_isas"]
PROBE = "import front_kernels as fk; print(fk.build_info()['cpu_isa'])"
STEP = "25"  # of every test function's cases one in so many (conftest.py): all run in this run's own processes
FILES = ("values", "laws", "paths", "out", "decimated", "streamed", "alone", "variants")


def probe(isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FRONT_CPU_ISA": isa}
    return subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("isa", [isa for isa in BUILT if isa != fk.build_info()["cpu_isa"]])
def test_values_under(isa):
    """That of this process is under these tests anyway."""
    found = probe(isa)
    if "FRONT_CPU_ISA must be one that this machine and build have" in found.stderr:
        pytest.skip(f"this machine has no {isa}: {found.stderr.splitlines()[-1]}")
    assert found.stdout.strip() == isa, found.stderr
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-k",
            "not compiled and not opcheck and not dynamo and not differentiated",  # which are torch's
            *(f"test_ops_{name}.py" for name in FILES),
        ],
        env={**os.environ, "FRONT_CPU_ISA": isa, "FRONT_TEST_STEP": STEP},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    print(run.stdout.splitlines()[-1])


def test_an_unknown_instruction_set_is_refused():
    run = probe("avx1024")
    assert run.returncode != 0
    assert "ValueError: FRONT_CPU_ISA must be one that this machine and build have (" in run.stderr
    assert "generic), got 'avx1024'" in run.stderr


def test_generic_is_always_there():
    assert BUILT[-1] == "generic"
    assert probe("generic").stdout.strip() == "generic"
