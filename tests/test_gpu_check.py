"""gpu_check.sh, which a GPU is not needed for: what it says, and that it goes on after a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def test_gpu_check_is_a_shell_script():
    subprocess.run(["bash", "-n", ROOT / "bench" / "gpu_check.sh"], check=True)


def check(tmp_path: Path, python: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": str(python)} | variables
    command = ["bash", str(ROOT / "bench" / "gpu_check.sh")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@without_gpu
def test_gpu_check_says_that_there_is_no_gpu(tmp_path):
    run = check(tmp_path, sys.executable)
    assert run.returncode == 1
    assert "no CUDA GPU: torch.cuda.is_available() is false" in run.stderr
    assert run.stdout.splitlines()[2].startswith("build      FAIL ")
    assert not (tmp_path / "out" / "bench.csv").exists()


# Stands for Python on a machine with a GPU; what fails, or is not installed, is told by variables.
PYTHON = """#!/bin/bash
case "$*" in
  -) case $(cat) in *get_device_capability*) echo 90;; *pybind11*) [ -z "${LACKS:-}" ] || echo $LACKS;; esac;;
  "-c import ${ABSENT:-nothing}") exit 1;;
  *build_info*) echo ${CUDA:-True};;
  "-c "*) ;;
  *"pip install"*) echo "$FRONT_CUDA $FRONT_CUDA_ARCHS"; exit ${PIP:-0};;
  "-m pytest"*) echo "7 passed"; exit ${TESTS:-0};;
  *gpu_small.py) echo "ok  dct"; echo "${SAYS:-all agree}"; exit ${SMALL:-0};;
  "-m front_kernels.bench --device cuda --set check --out $OUT --deadline "*)
    printf 'a GPU\\nleft out: a peer\\nresults\\nrow  1\\n'; touch "$OUT/bench.csv"; exit ${BENCH:-0};;
  *"gpu_figures.py $OUT/bench.csv") echo "figures of it";;
esac
"""
SANITIZER = """#!/bin/bash
if [ -n "${REFUSES:-}" ]; then echo "========= Error: Device not supported"; exit 1; fi
"${@:5}"
if [ "$2" = racecheck ]; then echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"; exit 0; fi
if [ -n "${FINDS:-}" ]; then echo "========= Invalid __global__ write of size 4 bytes"; fi
echo "========= ERROR SUMMARY: ${FINDS:-0} errors"
"""


@pytest.mark.parametrize(
    ("variables", "status", "steps"),
    [
        (
            {},
            0,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck PASS, racecheck PASS, bench PASS",
        ),
        ({"PIP": "1"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        ({"CUDA": "False"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        ({"LACKS": "ninja"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        (
            {"TESTS": "1"},
            1,
            "build PASS, ops FAIL, triton FAIL, spectral FAIL, torch FAIL, memcheck PASS, racecheck PASS, bench PASS",
        ),
        (
            {"TESTS": "5"},
            1,
            "build PASS, ops FAIL, triton FAIL, spectral FAIL, torch FAIL, memcheck PASS, racecheck PASS, bench PASS",
        ),
        ({"ABSENT": "pytest"}, 0, "build PASS, tests SKIP, small PASS, memcheck PASS, racecheck PASS, bench PASS"),
        (
            {"REFUSES": "1"},
            0,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck SKIP, racecheck SKIP, bench PASS",
        ),
        (
            {"FINDS": "2"},
            1,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck FAIL, racecheck PASS, bench PASS",
        ),
        (
            {"SAYS": "WRONG  dct"},
            1,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck FAIL, racecheck FAIL, bench PASS",
        ),
        (
            {"ABSENT": "rich"},
            1,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck PASS, racecheck PASS, bench FAIL",
        ),
        (
            {"BENCH": "1"},
            1,
            "build PASS, ops PASS, triton PASS, spectral PASS, torch PASS, memcheck PASS, racecheck PASS, bench FAIL",
        ),
    ],
    ids=str,
)
def test_gpu_check_goes_on_after_a_failure(tmp_path, variables, status, steps):
    for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = check(tmp_path, tmp_path / "python", PATH=path, **variables)
    _, _, table = run.stdout.rpartition("step       what  time    note\n")
    assert ", ".join(" ".join(line.split()[:2]) for line in table.splitlines()[:-1]) == steps
    assert run.returncode == status, run.stdout + run.stderr
    assert run.stderr == ""
    if variables == {"ABSENT": "rich"}:
        assert "missing Python package, here and in .whl: rich" in table
    elif "bench SKIP" not in steps:
        assert "left out: a peer\nresults\nrow  1\nfigures of it\n" in run.stdout
        assert "1 90\n" in (tmp_path / "out" / "build.log").read_text()
    if "LACKS" in variables:
        assert "missing Python packages, here and in .whl: ninja" in table
