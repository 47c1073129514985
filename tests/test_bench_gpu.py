"""What of the benchmark on a GPU needs none: the peers, verification, figures."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch

from front_kernels.bench import ledger, libraries, measure, problems
from front_kernels.bench import peers as torch_peers
from front_kernels.bench.cases import SETS, Case, label

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SHAPES = [((12, 10), (5, 4)), ((13, 9), (13, 9)), ((100, 77), (30, 60)), ((1, 6), (1, 3)), ((6, 1), (2, 1))]
ON_CPU = ("torch.fft", "torch.fft cut", "rfft2", "matmul", "matmul TF32", "matmul bfloat16")
OPS = ("dct_crop", "idct_pad", "lowpass", "dct_resize", "dct_crop_many")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return module("gpu_figures")


def make(op: str, size, kept, dtype: str = "float32"):
    """A case; resized ones to one row more and two columns less, where the corner still fits."""
    resized = (size[0] + 1, max(kept[1], size[1] - 2)) if op == "dct_resize" else None
    return Case(op, size, kept, dtype, resized, 3 if op == "dct_crop_many" else 1)


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
def test_peers_compute_what_scipy_does(op, size, kept, name):
    case = make(op, size, kept)
    p = problems.problem(case, CPU, 2)
    peer = libraries.BUILDERS["cuda"][name](case, p.inputs)
    relative, _ = problems.errors(peer.tensor(peer.run(1)), by_scipy(case, p.inputs[1]))
    assert relative <= (0.02 if name == "matmul bfloat16" else 1e-6)
    assert peer.full == (name in ("torch.fft", "rfft2"))
    assert (peer.tolerance is None) == (name in ("matmul TF32", "matmul bfloat16"))


@pytest.mark.parametrize("name", ["torch.fft", "torch.fft cut", "rfft2", "matmul bfloat16"])
def test_peers_take_bfloat16(name):
    case = make("dct_crop", (33, 20), (9, 7), "bfloat16")
    p = problems.problem(case, CPU, 1)
    peer = libraries.BUILDERS["cuda"][name](case, p.inputs)
    result = peer.tensor(peer.run(0))
    assert result.dtype == torch.bfloat16
    assert p.errors(result)[0] <= (0.02 if name == "matmul bfloat16" else 2.0**-8)


@pytest.mark.parametrize("name", ["cupyx", "jax", "vkfft"])
def test_peers_that_are_not_there_say_so(name):
    case = make("dct_crop", (33, 20), (9, 7), "bfloat16")
    with pytest.raises(NotImplementedError, match="not run in bfloat16"):
        libraries.BUILDERS["cuda"][name](case, problems.problem(case, CPU, 1).inputs)


def test_tf32_leaves_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    with torch_peers.tf32():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "kept"), SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_ours_is_verified_against_the_definition(op, size, kept, dtype):
    case = make(op, size, kept, dtype)
    p = problems.problem(case, CPU, 3)
    assert (p.exact[0][1] - by_scipy(case, p.inputs[0])).abs().max() <= 1e-12
    assert set(problems.verified(p)) == {"relative_error", "element_error"}
    problems.same_everywhere(p)
    assert tuple(problems.tensor(p.run(1)).shape[-2:]) == case.result
    assert tuple(p.inputs[0].shape[-2:]) == case.source


@pytest.mark.parametrize("wrong", [math.nan, 0.01])
def test_one_wrong_element_is_found(monkeypatch, wrong):
    p = problems.problem(make("dct_crop", (100, 77), (30, 60)), CPU, 2)
    problems.verified(p)
    right = problems.fk.dct_crop

    def spoiled(x, k, out):
        right(x, k, out=out)
        out[3, 5] += wrong
        return out

    monkeypatch.setattr(problems.fk, "dct_crop", spoiled)
    with pytest.raises(ArithmeticError, match="wrong: relative L2 error"):
        problems.verified(p)


def test_each_engine_is_held_to_its_own_limit(monkeypatch):
    """Products may be off by twice as much."""
    monkeypatch.setattr(measure.fk.engines, "available", lambda: ("cuda", "triton"))
    monkeypatch.setattr(measure, "synchronize", lambda device: None)
    case = make("dct_crop", (100, 77), (30, 60))
    on_gpu = SimpleNamespace(case=case, run=lambda i: None, outs=[SimpleNamespace(device=torch.device("cuda"))])
    limits = {name: peer.tolerance for name, peer in measure.engines(on_gpu, print, []).items()}
    assert limits == {"front cuda": 5e-7, "front triton": 1e-6}
    assert problems.tolerance(case, torch.device("cuda")) == 1e-6
    p = problems.problem(case, CPU, 2)

    def off(i):
        return p.exact[0][1] * (1 + 8e-7)

    problems.verified(p, off, limits["front triton"])
    with pytest.raises(ArithmeticError, match=r"error 8e-07 \(allowed 5e-07\)"):
        problems.verified(p, off, limits["front cuda"])


@pytest.mark.parametrize("error", [NotImplementedError("too long"), RuntimeError("an illegal address"), TypeError("x")])
def test_an_engine_that_fails_is_an_error(monkeypatch, error):
    """Only one that says that it does not take the case is left out."""
    monkeypatch.setattr(measure.fk.engines, "available", lambda: ("cuda", "triton"))
    monkeypatch.setattr(measure, "synchronize", lambda device: None)

    def run(i):
        if measure.fk._settings.engine() == "triton":
            raise error

    case = make("dct_crop", (100, 77), (30, 60))
    p = SimpleNamespace(case=case, run=run, outs=[SimpleNamespace(device=torch.device("cuda"))])
    said: list[str] = []
    wrong: list[str] = []
    assert list(measure.engines(p, said.append, wrong)) == ["front cuda"]
    if isinstance(error, NotImplementedError):
        assert said == ["left out: front triton, dct_crop 100x77 -> 30x60: too long"]
        assert wrong == []
    else:
        assert said == wrong == [f"FAILED dct_crop 100x77 -> 30x60: front triton: {type(error).__name__}: {error}"]


def test_copies_that_differ_are_found():
    p = problems.problem(make("idct_pad", (12, 10), (5, 4)), CPU, 3)
    p.inputs[2][0, 0] += 1e-3
    with pytest.raises(ArithmeticError, match="the result of copy 2 is not that of copy 0"):
        problems.same_everywhere(p)


def test_a_wrong_shape_is_found():
    with pytest.raises(ArithmeticError, match=r"wrong shape \(3, 4\), expected \(4, 3\)"):
        problems.errors(torch.ones(3, 4), torch.ones(4, 3).double())


def test_copies_fill_the_cache_four_times(figures):
    small, large = Case("dct_crop", (768, 768), (384, 384)), figures.HEADLINE
    assert problems.copies_for(small, 60 << 20) * small.bytes >= 4 * (60 << 20)
    assert problems.copies_for(large, 60 << 20) == 2
    assert problems.copies_for(Case("dct_crop", (8, 8), (4, 4)), 60 << 20) == problems.COPIES


def test_bytes(figures):
    assert figures.HEADLINE.bytes == 4 * (8192**2 + 1024**2)
    assert figures.FULL.two_pass_bytes == 2 * figures.FULL.bytes == 4 * 4 * 8192**2
    half = Case("dct_crop", (8, 6), (4, 3), "bfloat16")
    assert half.two_pass_bytes == 2 * (8 * 6 + 4 * 3) + 2 * 4 * 8 * 3  # the intermediate is float32
    many = Case("dct_crop_many", (8, 6), (4, 3), count=5)
    assert many.bytes == 5 * 4 * (8 * 6 + 4 * 3)
    assert Case("lowpass", (8, 6), (4, 3)).two_pass_bytes is None


def test_cases_have_names_of_their_own():
    names = [str(case) for case in SETS["check"]]
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
def rows(figures):
    """A run in which every figure is just reached."""
    values = {"us": 100.0, "percent_of_limit": 70.0, "percent_of_two_passes": 80.0, "relative_error": "1.7e-07"}
    exact = {
        figures.HEADLINE: {"us": 105.0},
        figures.MIDDLE: {"percent_of_limit": 65.0},
        figures.MLP: {"percent_of_limit": 40.0},
        figures.FULL: {"percent_of_two_passes": 50.0},
        figures.HALF_128: {"us": 45.0},
        figures.HALF_256: {"us": 60.0},
        figures.SINGLE_64: {"us": 90.0},
        figures.TABLE: {"percent_of_limit": 50.0},
    }
    ratios = {
        "torch.fft": (5.0, True),
        "cupyx": (5.0, True),
        "rfft2 compiled": (2.0, True),
        "matmul TF32": (0.95, False),
        "front triton": (0.95, False),
    }
    found = []
    for case in SETS["check"]:
        ours = {"by": "front", **case.columns, "full": False, **values, **exact.get(case, {})}
        found.append(ours)
        for name, (ratio, full) in ratios.items():
            found.append({**ours, "by": name, "full": full, "times_front": ratio, "us": ratio * ours["us"]})
    return found


FIGURES = 12


def states(figures, rows) -> list[str]:
    return [verdict.state for verdict in figures.figures(rows)]


def test_figures_are_reached_at_their_limit(figures, rows):
    assert states(figures, rows) == ["reached"] * FIGURES


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
def test_a_figure_is_missed_just_below(figures, rows, by, case, column, value, which):
    name = str(getattr(figures, case))
    (row,) = [row for row in rows if row["by"] == by and label(row) == name]
    row[column] = value
    assert states(figures, rows) == ["missed" if i == which else "reached" for i in range(FIGURES)]
    text = str(figures.figures(rows)[which])
    assert text.startswith("missed ")
    assert f"{value:g}" in text
    assert name in text


def test_figures_that_nothing_was_measured_for(figures, rows):
    assert states(figures, []) == ["not measured"] * FIGURES
    ours = [row for row in rows if row["by"] == "front"]
    assert states(figures, ours) == ["reached"] * 4 + ["not measured"] * 3 + ["reached"] * 4 + ["not measured"]


def test_figures_are_of_the_last_run_in_a_ledger(figures, rows, tmp_path, monkeypatch, capsys):
    path = tmp_path / "new" / "bench.csv"
    run = {"device": "a GPU", "commit": "new", "date": "2026-01-01"}
    ledger.append([run | {"commit": "old"} | row | {"us": 1.0} for row in rows], path)
    ledger.append([run | row | {"graph_us": 3.5} for row in rows], path)
    monkeypatch.setattr(sys, "argv", ["gpu_figures.py", str(path)])
    figures.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Figures to reach (set for an H200; this is a GPU):"
    assert lines[1:] == [f"  {verdict}" for verdict in figures.figures(rows)]
    monkeypatch.setattr(sys, "argv", ["gpu_figures.py", str(tmp_path / "none.csv")])
    with pytest.raises(SystemExit, match="has no rows"):
        figures.main()


def test_what_a_run_knows_of_itself(monkeypatch):
    monkeypatch.setenv("FRONT_COMMIT", "v1-2-gabc")
    run = ledger.run_columns(CPU)
    assert (run["torch"], run["threads"], run["commit"]) == (torch.__version__, torch.get_num_threads(), "v1-2-gabc")
    assert {"device", "isa", "driver", "cuda", "triton", "cupy", "jax", "date"} <= set(run)
    assert ledger.output(["no-such-command"]) == "unknown"
    assert ledger.output(["sh", "-c", "exit 3"]) == "unknown"
    assert ledger.output(["echo", "580.1"]) == "580.1"


def test_a_plan_that_cannot_be_told_is_its_reason(figures, monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("no\nplan")

    cuda = torch.device("cuda")
    assert "blocks of" in measure.plan_text(figures.HEADLINE, cuda)
    monkeypatch.setattr(measure.fk, "plan_for", fails)
    assert measure.plan_text(figures.HEADLINE, cuda) == "ValueError: no plan"


def test_small_cases_find_a_difference(monkeypatch):
    small = module("gpu_small")
    covered = {name.split()[0] for name in small.CASES}
    for op in importlib.import_module("front_kernels").__all__:
        if op.startswith(("dct", "idct", "lowpass", "spectral")):
            assert op in covered, op
    assert all(small.difference(name, "cpu")[0] == 0 for name in small.CASES)
    calls = iter(range(10))
    monkeypatch.setitem(small.CASES, "dct", (lambda x: x + 1e-3 * next(calls), (3, 48), torch.float32))
    found, allowed = small.difference("dct", "cpu")
    assert found > allowed


@without_gpu
def test_gpu_small_says_that_there_is_no_gpu():
    run = subprocess.run([sys.executable, ROOT / "bench" / "gpu_small.py"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "no CUDA device: torch.cuda.is_available() is false\n"
