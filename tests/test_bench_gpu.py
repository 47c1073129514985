"""What of the GPU benchmark needs no GPU: the peers, verification, figures, tables, ledger, gpu_check.sh."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.fft
import torch

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SHAPES = [((12, 10), (5, 4)), ((13, 9), (13, 9)), ((100, 77), (30, 60)), ((1, 6), (1, 3)), ((6, 1), (2, 1))]
ON_CPU = ("torch.fft", "torch.fft cut", "rfft2", "matmul float32", "matmul TF32", "matmul bfloat16")
OPS = ("dct_crop", "idct_pad", "lowpass", "dct_resize", "dct_crop_many")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def ledger() -> ModuleType:
    return module("gpu_ledger")


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return module("gpu")


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    return module("gpu_peers")


def make(ledger: ModuleType, op: str, size, kept, dtype: str = "float32"):
    """A case; resized ones to one row more and two columns less, where the corner still fits."""
    resized = (size[0] + 1, max(kept[1], size[1] - 2)) if op == "dct_resize" else None
    return ledger.Case(op, size, kept, dtype, resized, 3 if op == "dct_crop_many" else 1)


def by_scipy(case, x: torch.Tensor) -> torch.Tensor:
    def back(y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        gaps = [(0, 0)] * (y.ndim - 2) + [(0, size[i] - y.shape[i - 2]) for i in (0, 1)]
        return scipy.fft.idctn(np.pad(y, gaps), norm="ortho", axes=(-2, -1))

    y = x.double().numpy()
    if case.op == "idct_pad":
        return torch.from_numpy(back(y, case.size))
    low = scipy.fft.dctn(y, norm="ortho", axes=(-2, -1))[..., : case.kept[0], : case.kept[1]]
    return torch.from_numpy(np.ascontiguousarray(low if "crop" in case.op else back(low, case.result)))


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(("size", "kept"), SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_peers_compute_what_scipy_does(ledger, gpu, peers, op, size, kept, name):
    case = make(ledger, op, size, kept)
    p = gpu.problem(case, CPU, 2)
    peer = peers.BUILDERS[name](case, p.inputs)
    relative, _ = gpu.errors(peer.tensor(peer.run(1)), by_scipy(case, p.inputs[1]))
    assert relative <= (0.02 if name == "matmul bfloat16" else 1e-6)
    assert peer.full == (name in ("torch.fft", "rfft2"))
    assert (peer.tolerance is None) == (name in ("matmul TF32", "matmul bfloat16"))


@pytest.mark.parametrize("name", ["torch.fft", "torch.fft cut", "rfft2", "matmul bfloat16"])
def test_peers_take_bfloat16(ledger, gpu, peers, name):
    case = make(ledger, "dct_crop", (33, 20), (9, 7), "bfloat16")
    p = gpu.problem(case, CPU, 1)
    peer = peers.BUILDERS[name](case, p.inputs)
    result = peer.tensor(peer.run(0))
    assert result.dtype == torch.bfloat16
    assert gpu.errors(result, p.exact)[0] <= (0.02 if name == "matmul bfloat16" else 2.0**-8)


@pytest.mark.parametrize("name", ["cupyx", "jax", "vkfft"])
def test_peers_that_are_not_there_say_so(ledger, gpu, peers, name):
    case = make(ledger, "dct_crop", (33, 20), (9, 7), "bfloat16")
    with pytest.raises(NotImplementedError, match="not run in bfloat16"):
        peers.BUILDERS[name](case, gpu.problem(case, CPU, 1).inputs)


def test_tf32_leaves_the_precision_as_it_was(peers):
    before = torch.get_float32_matmul_precision()
    with peers.tf32():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "kept"), SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_ours_is_verified_against_the_definition(ledger, gpu, op, size, kept, dtype):
    case = make(ledger, op, size, kept, dtype)
    p = gpu.problem(case, CPU, 3)
    assert (p.exact - by_scipy(case, p.inputs[0])).abs().max() <= 1e-12
    assert set(gpu.verified(p)) == {"relative_error", "element_error"}
    gpu.same_everywhere(p)
    assert tuple(gpu.tensor(p.run(1)).shape[-2:]) == case.result
    assert tuple(p.inputs[0].shape[-2:]) == case.source


@pytest.mark.parametrize("wrong", [math.nan, 0.01])
def test_one_wrong_element_is_found(ledger, gpu, monkeypatch, wrong):
    p = gpu.problem(make(ledger, "dct_crop", (100, 77), (30, 60)), CPU, 2)
    gpu.verified(p)
    right = gpu.fk.dct_crop

    def spoiled(x, k, out):
        right(x, k, out=out)
        out[3, 5] += wrong
        return out

    monkeypatch.setattr(gpu.fk, "dct_crop", spoiled)
    with pytest.raises(ArithmeticError, match="wrong: relative L2 error"):
        gpu.verified(p)


def test_copies_that_differ_are_found(ledger, gpu):
    p = gpu.problem(make(ledger, "idct_pad", (12, 10), (5, 4)), CPU, 3)
    p.inputs[2][0, 0] += 1e-3
    with pytest.raises(ArithmeticError, match="the result of copy 2 is not that of copy 0"):
        gpu.same_everywhere(p)


def test_a_wrong_shape_is_found(gpu):
    with pytest.raises(ArithmeticError, match=r"wrong shape \(3, 4\), expected \(4, 3\)"):
        gpu.errors(torch.ones(3, 4), torch.ones(4, 3).double())


def test_copies_fill_the_cache_four_times(ledger, gpu):
    small, large = ledger.Case("dct_crop", (768, 768), (384, 384)), ledger.HEADLINE
    assert gpu.copies_for(small, 60 << 20) * small.bytes >= 4 * (60 << 20)
    assert gpu.copies_for(large, 60 << 20) == 2
    assert gpu.copies_for(ledger.Case("dct_crop", (8, 8), (4, 4)), 60 << 20) == gpu.COPIES


def test_bytes(ledger):
    assert ledger.HEADLINE.bytes == 4 * (8192**2 + 1024**2)
    assert ledger.FULL.two_pass_bytes == 2 * ledger.FULL.bytes == 4 * 4 * 8192**2
    half = ledger.Case("dct_crop", (8, 6), (4, 3), "bfloat16")
    assert half.two_pass_bytes == 2 * (8 * 6 + 4 * 3) + 2 * 4 * 8 * 3  # the intermediate is float32
    many = ledger.Case("dct_crop_many", (8, 6), (4, 3), count=5)
    assert many.bytes == 5 * 4 * (8 * 6 + 4 * 3)
    assert ledger.Case("lowpass", (8, 6), (4, 3)).two_pass_bytes is None


def test_cases_have_names_of_their_own(ledger):
    names = [str(case) for case in ledger.CASES]
    assert len(set(names)) == len(names)
    assert names[0] == "dct_crop 8192x8192 -> 1024x1024"
    assert {
        "idct_pad 2752x1024 -> 11008x4096",
        "dct_crop 8192x8192 -> 1024x1024 bfloat16",
        "dct_crop_many 24 of 1024x1024 -> 512x512",
        "lowpass 8192x8192 k=1024x1024",
        "dct_resize 4096x4096 -> 2048x2048",
    } <= set(names)


@pytest.fixture
def rows(ledger):
    """A run in which every figure is just reached."""
    values = {"us": 100.0, "percent_of_limit": 70.0, "percent_of_two_passes": 80.0, "relative_error": "1.7e-07"}
    exact = {
        ledger.HEADLINE: {"us": 105.0},
        ledger.MIDDLE: {"percent_of_limit": 65.0},
        ledger.MLP: {"percent_of_limit": 40.0},
        ledger.FULL: {"percent_of_two_passes": 50.0},
        ledger.HALF_128: {"us": 45.0},
        ledger.HALF_256: {"us": 60.0},
        ledger.SINGLE_64: {"us": 90.0},
        ledger.TABLE: {"percent_of_limit": 50.0},
    }
    ratios = {
        "torch.fft": (5.0, True),
        "cupyx": (5.0, True),
        "rfft2 compiled": (2.0, True),
        "matmul TF32": (0.95, False),
        "front triton": (0.95, False),
    }
    found = []
    for case in ledger.CASES:
        ours = {"by": "front", **case.columns, "full": False, **values, **exact.get(case, {})}
        found.append(ours)
        for name, (ratio, full) in ratios.items():
            found.append({**ours, "by": name, "full": full, "times_front": ratio, "us": ratio * ours["us"]})
    return found


FIGURES = 12


def states(ledger, rows) -> list[str]:
    return [verdict.state for verdict in ledger.figures(rows)]


def test_figures_are_reached_at_their_limit(ledger, rows):
    assert states(ledger, rows) == ["reached"] * FIGURES


@pytest.mark.parametrize(
    ("by", "case", "column", "value", "which"),
    [
        ("front", "HEADLINE", "us", 105.1, 0),
        ("front", "MIDDLE", "percent_of_limit", 64.9, 1),
        ("front", "MLP", "percent_of_limit", 39.9, 2),
        ("front", "FULL", "percent_of_two_passes", 49.9, 3),
        ("cupyx", "MLP", "times_front", 4.99, 4),
        ("torch.fft", "FULL", "times_front", 4.99, 5),
        ("rfft2 compiled", "MIDDLE", "times_front", 1.99, 6),
        ("front", "HALF_128", "us", 45.1, 7),
        ("front", "HALF_256", "us", 60.1, 8),
        ("front", "SINGLE_64", "us", 90.1, 9),
        ("front", "TABLE", "percent_of_limit", 49.9, 10),
        ("front triton", "MLP", "times_front", 0.94, 11),
        ("matmul TF32", "TABLE", "times_front", 0.94, 11),
    ],
)
def test_a_figure_is_missed_just_below(ledger, rows, by, case, column, value, which):
    name = str(getattr(ledger, case))
    (row,) = [row for row in rows if row["by"] == by and ledger.label(row) == name]
    row[column] = value
    assert states(ledger, rows) == ["missed" if i == which else "reached" for i in range(FIGURES)]
    text = str(ledger.figures(rows)[which])
    assert text.startswith("missed ")
    assert f"{value:g}" in text
    assert name in text


def test_figures_that_nothing_was_measured_for(ledger, rows):
    assert states(ledger, []) == ["not measured"] * FIGURES
    ours = [row for row in rows if row["by"] == "front"]
    assert states(ledger, ours) == ["reached"] * 4 + ["not measured"] * 3 + ["reached"] * 4 + ["not measured"]


def test_the_ledger_gives_back_what_was_appended(ledger, rows, tmp_path):
    path = tmp_path / "new" / "gpu.csv"
    ledger.append(rows[:3], path)
    ledger.append([row | {"graph_us": 3.5} for row in rows[3:]], path)
    read = importlib.import_module("ledger").read(path)
    assert len(read) == len(rows)
    assert read[0]["graph_us"] == ""
    assert [{k: v for k, v in row.items() if k != "graph_us"} for row in read] == [
        {key: str(value) for key, value in row.items()} | dict.fromkeys({"times_front"} - set(row), "") for row in rows
    ]
    assert [str(v) for v in ledger.figures(read)] == [str(v) for v in ledger.figures(rows)]
    assert ledger.peer_table(read) == ledger.peer_table(rows)


def test_tables(ledger, rows):
    lines = ledger.our_table(rows).splitlines()
    assert len(lines) == 1 + len(ledger.CASES)
    assert lines[0].split()[:4] == ["front", "us", "20%", "80%"]
    assert lines[1].startswith("dct_crop 8192x8192 -> 1024x1024  ")
    lines = ledger.peer_table(rows).splitlines()
    assert len(lines) == 1 + len(ledger.CASES)
    assert all(name in lines[0] for name in ("torch.fft*", "cupyx*", "rfft2 compiled*", "matmul TF32"))
    assert "matmul TF32*" not in lines[0]
    assert lines[1].split()[-2:] == ["0.95", "(1.7e-07)"]
    partly = [row for row in rows if row["by"] != "cupyx" or row["op"] == "lowpass"]
    assert ledger.peer_table(partly).splitlines()[1].split().count("-") == 1
    assert ledger.text_table(["a", "b"], [["long", "1"], ["x", "200"]]) == "a       b\nlong    1\nx     200"
    assert ledger.our_table([]) == ledger.peer_table([]) == ""


def test_what_a_run_knows_of_itself(ledger, monkeypatch):
    monkeypatch.setenv("FRONT_COMMIT", "v1-2-gabc")
    run = ledger.run_columns("a GPU", "2.11", "13.0")
    assert (run["device"], run["torch"], run["cuda"], run["commit"]) == ("a GPU", "2.11", "13.0", "v1-2-gabc")
    assert {"driver", "triton", "cupy", "jax", "date"} <= set(run)
    assert ledger.output(["no-such-command"]) == "unknown"
    assert ledger.output(["sh", "-c", "exit 3"]) == "unknown"
    assert ledger.output(["echo", "580.1"]) == "580.1"


def test_the_plan_is_only_asked_for_where_it_can_be(ledger, gpu, monkeypatch):
    monkeypatch.setattr(gpu.fk, "plan_for", lambda shape, k, dtype, *, inverse: None)
    assert gpu.plan_text(ledger.HEADLINE) == ""
    monkeypatch.setattr(gpu.fk, "plan_for", lambda shape, k, dtype, *, inverse, device: {"text": f"{k}\n{device}"})
    assert gpu.plan_text(ledger.HEADLINE) == "(1024, 1024); cuda"

    def fails(*args, device, **kwargs):
        raise ValueError("no\nplan")

    monkeypatch.setattr(gpu.fk, "plan_for", fails)
    assert gpu.plan_text(ledger.HEADLINE) == "ValueError: no plan"


def test_small_cases_find_a_difference(monkeypatch):
    small = module("gpu_small")
    covered = " ".join(small.CASES)
    for op in importlib.import_module("front_kernels").__all__:
        if op.startswith(("dct", "idct", "lowpass")):
            assert op in covered
    assert all(small.difference(name, "cpu")[0] == 0 for name in small.CASES)
    calls = iter(range(10))
    monkeypatch.setitem(small.CASES, "dct", (lambda x: x + 1e-3 * next(calls), (3, 48), torch.float32))
    found, allowed = small.difference("dct", "cpu")
    assert found > allowed


@without_gpu
@pytest.mark.parametrize("script", ["gpu.py", "gpu_small.py"])
def test_scripts_say_that_there_is_no_gpu(script):
    run = subprocess.run([sys.executable, ROOT / "bench" / script], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "no CUDA device: torch.cuda.is_available() is false\n"


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
    assert not (tmp_path / "out" / "gpu.csv").exists()


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
  *gpu.py*) printf 'a GPU\\n  peer, case: gone\\nfront  us\\nrow  1\\n'; exit ${BENCH:-0};;
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
        ({}, 0, "build PASS, ops PASS, triton PASS, torch PASS, memcheck PASS, racecheck PASS, bench PASS"),
        ({"PIP": "1"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        ({"CUDA": "False"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        ({"LACKS": "ninja"}, 1, "build FAIL, tests SKIP, sanitizer SKIP, bench SKIP"),
        ({"TESTS": "1"}, 1, "build PASS, ops FAIL, triton FAIL, torch FAIL, memcheck PASS, racecheck PASS, bench PASS"),
        ({"TESTS": "5"}, 1, "build PASS, ops FAIL, triton FAIL, torch FAIL, memcheck PASS, racecheck PASS, bench PASS"),
        ({"ABSENT": "pytest"}, 0, "build PASS, tests SKIP, small PASS, memcheck PASS, racecheck PASS, bench PASS"),
        (
            {"REFUSES": "1"},
            0,
            "build PASS, ops PASS, triton PASS, torch PASS, memcheck SKIP, racecheck SKIP, bench PASS",
        ),
        ({"FINDS": "2"}, 1, "build PASS, ops PASS, triton PASS, torch PASS, memcheck FAIL, racecheck PASS, bench PASS"),
        (
            {"SAYS": "WRONG  dct"},
            1,
            "build PASS, ops PASS, triton PASS, torch PASS, memcheck FAIL, racecheck FAIL, bench PASS",
        ),
        ({"BENCH": "1"}, 1, "build PASS, ops PASS, triton PASS, torch PASS, memcheck PASS, racecheck PASS, bench FAIL"),
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
    if "bench SKIP" not in steps:
        assert "  peer, case: gone\nfront  us\nrow  1\n" in run.stdout
        assert "1 90\n" in (tmp_path / "out" / "build.log").read_text()
    if "LACKS" in variables:
        assert "missing Python packages, here and in .whl: ninja" in table
