"""`python -m front_kernels.bench` end to end on tiny matrices, and its parts."""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.util
import itertools
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from front_kernels.bench import __main__ as command
from front_kernels.bench import baseline, clocks, ledger, libraries, measure, problems, report
from front_kernels.bench.cases import SETS, Case
from front_kernels.bench.peers import Peer

CPU = torch.device("cpu")
CROP, PAD = Case("dct_crop", (24, 20), (6, 5)), Case("idct_pad", (24, 20), (6, 5))
FULL = {"ducc0 2-D": "ducc0", "scipy": "scipy", "torch_dct": "torch_dct"}  # and the modules that they need
PEERS = tuple(  # those that are installed
    name
    for name in libraries.BUILDERS["cpu"]
    if importlib.util.find_spec({"ducc0 by axis": "ducc0", **FULL}.get(name, "torch")) is not None
)
Row = dict[str, str]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SETS, "short", [CROP, PAD])
    monkeypatch.setattr(clocks.CpuClock, "COPIED", 1 << 16)
    monkeypatch.setattr(clocks.CpuClock, "SECONDS", 0.001)
    monkeypatch.setattr(clocks, "in_turn", functools.partial(clocks.in_turn, warm=0.001))


def run(out: Path, *options: str) -> Result:
    return CliRunner().invoke(command.main, ["--device", "cpu", "--seconds", "0.001", "--out", str(out), *options])


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_end_to_end(tmp_path):
    result = run(tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "dct_crop 24x20 -> 6x5: " in result.output
    rows = ledger.read(tmp_path / "new" / "bench.csv")
    assert [(row["op"], row["by"]) for row in rows] == [
        (case.op, by) for case in (CROP, PAD) for by in ("front", *PEERS)
    ]
    for row in rows:
        us, low, high = (float(row[column]) for column in ("us", "us_20", "us_80"))
        assert 0 < low <= us <= high
        assert 0 < float(row["relative_error"]) < 1e-6
        assert float(row["gb_s"]) == pytest.approx(CROP.bytes / us / 1e3, rel=0.01)
        assert float(row["tflop_s"]) == pytest.approx(CROP.flops / us / 1e6, rel=0.01)
        assert float(row["percent_of_limit"]) == pytest.approx(100 * float(row["limit_us"]) / us, abs=0.1, rel=0.1)
        assert row["torch"] == torch.__version__
        assert row["full"] == str(row["by"] in FULL)
    assert rows[0]["times_front"] == ""
    assert float(rows[1]["times_front"]) == pytest.approx(float(rows[1]["us"]) / float(rows[0]["us"]), rel=0.02)
    assert "rows: " in rows[0]["plan"]
    for name in ("roofline.png", "speedup.png"):
        assert (tmp_path / "new" / name).stat().st_size > 10_000
    assert run(tmp_path / "new", "--no-peers", "--only", "idct").exit_code == 0
    again = ledger.read(tmp_path / "new" / "bench.csv")
    assert again[:-1] == rows
    assert (again[-1]["op"], again[-1]["by"]) == ("idct_pad", "front")


def test_the_module_is_a_command():
    run = subprocess.run([sys.executable, "-m", "front_kernels.bench", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert "10 % of the old median" in " ".join(run.stdout.split())


def test_the_table_has_every_figure_and_alternative(tmp_path):
    result = run(tmp_path)
    table = report.table(ledger.read(tmp_path / "bench.csv"))
    titles = [str(column.header) for column in table.columns]
    assert titles[:9] == [
        "case", "us", "20 %", "80 %", "GB/s", "TFLOP/s", "% of limit", "% of 2 passes", "rel. error",
    ]  # fmt: skip
    assert titles[10:] == [f"x {by}{'*' if by in FULL else ''}" for by in PEERS]
    lines = result.output.splitlines()
    (header,) = [line for line in lines if "% of limit" in line and "GB/s" in line]
    assert all(title in header for title in titles)  # nothing is cut where there is no terminal
    assert sum(line.startswith("│ ") for line in lines) == 2


def test_other_dtypes(tmp_path):
    result = run(tmp_path, "--dtype", "float64", "--dtype", "bfloat16", "--only", "dct_crop")
    assert result.exit_code == 0, result.output
    rows = {(row["dtype"], row["by"]): row for row in ledger.read(tmp_path / "bench.csv")}
    assert [by for dtype, by in rows if dtype == "float64"] == ["front", *PEERS]
    assert {"torch.fft cut", "matmul"} <= set(PEERS)
    assert [by for dtype, by in rows if dtype == "bfloat16"] == ["front", "torch.fft cut", "matmul"]
    assert all(float(row["relative_error"]) < 1e-14 for (dtype, _), row in rows.items() if dtype == "float64")
    assert "left out: scipy, dct_crop 24x20 -> 6x5 bfloat16: not run in bfloat16" in result.output


@pytest.mark.parametrize("wrong", [1e-2, math.nan])
def test_a_wrong_result_is_an_error_and_is_not_timed(tmp_path, monkeypatch, wrong):
    right = problems.fk.dct_crop

    def spoiled(x, k, out):
        right(x, k, out=out)
        out[3, 2] += wrong
        return out

    monkeypatch.setattr(problems.fk, "dct_crop", spoiled)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith(
        "FAILED dct_crop 24x20 -> 6x5: ArithmeticError: wrong: relative L2 error "
    )
    assert {row["op"] for row in ledger.read(tmp_path / "bench.csv")} == {"idct_pad"}


def test_results_that_change_from_call_to_call_are_an_error(tmp_path, monkeypatch):
    right, calls = problems.fk.dct_crop, itertools.count()

    def unsteady(x, k, out):
        right(x, k, out=out)
        out[3, 2] += 1e-6 * (next(calls) % 2)
        return out

    monkeypatch.setattr(problems.fk, "dct_crop", unsteady)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "FAILED dct_crop 24x20 -> 6x5: ArithmeticError: wrong: the result of copy 0 is not" in result.output


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_each_engine_has_a_row_if_it_is_right(tmp_path, monkeypatch, factor):
    """As on a GPU, where the planner decides between them."""
    monkeypatch.setattr(
        measure, "engines", lambda p, say, wrong: {"front triton": Peer(lambda i: factor * p.run(i), False, 1e-6)}
    )
    result = run(tmp_path)
    if factor == 1:
        assert result.exit_code == 0, result.output
        rows = ledger.read(tmp_path / "bench.csv")
        assert [row["by"] for row in rows if row["op"] == "dct_crop"] == ["front", "front triton", *PEERS]
        assert "x front triton " in result.output
    else:
        assert result.exit_code == 1
        assert result.output.count("ArithmeticError: wrong: relative L2 error 0.01 (allowed 1e-06)") >= 2
        assert not (tmp_path / "bench.csv").exists()


def test_an_engine_that_fails_costs_no_other_rows(tmp_path, monkeypatch):
    def engines(p, say, wrong):
        wrong.append(f"FAILED {p.case}: front triton: out of memory")
        return {}

    monkeypatch.setattr(measure, "engines", engines)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "FAILED dct_crop 24x20 -> 6x5: front triton: out of memory" in result.output
    rows = ledger.read(tmp_path / "bench.csv")
    assert [row["by"] for row in rows if row["op"] == "dct_crop"] == ["front", *PEERS]


def test_a_wrong_alternative_is_left_out(tmp_path, monkeypatch):
    def doubled(case, xs):
        peer = libraries.scipy_fft(case, xs)
        return replace(peer, run=lambda i: 2 * peer.run(i))

    monkeypatch.setitem(libraries.BUILDERS["cpu"], "scipy", doubled)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "left out: scipy, dct_crop 24x20 -> 6x5: ArithmeticError: wrong: relative L2 error 1 (allowed 5e-06)" in (
        result.output
    )
    assert "scipy" not in {row["by"] for row in ledger.read(tmp_path / "bench.csv")}


def test_an_alternative_that_takes_too_long_is_left_out(tmp_path, monkeypatch):
    slow = {"first": 0.0, "always": 0.0}  # seconds of the next call

    def sleepy(name, after):
        def build(case, xs):
            peer = libraries.matmul(case, xs)
            slow[name] = 0.3

            def run(i):
                time.sleep(slow[name])
                slow[name] = after
                return peer.run(i)

            return replace(peer, run=run)

        return build

    monkeypatch.setattr(measure, "SLOWEST", 0.2)
    monkeypatch.setitem(libraries.BUILDERS, "cpu", {"first": sleepy("first", 0), "always": sleepy("always", 0.3)})
    result = run(tmp_path, "--only", "dct_crop")
    assert "left out: always, dct_crop 24x20 -> 6x5: a call takes 0.3 s, more than 0.2 s" in result.output
    assert [row["by"] for row in ledger.read(tmp_path / "bench.csv")] == ["front", "first"]


def test_what_is_not_installed_is_named_once(tmp_path, monkeypatch):
    there = importlib.import_module

    def without(name, *args):
        if name == "torch_dct":
            raise ImportError("No module named 'torch_dct'")
        return there(name, *args)

    monkeypatch.setattr(libraries.importlib, "import_module", without)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.count("torch_dct: No module named 'torch_dct' (pip install torch-dct)") == 1
    assert "no pictures: " in result.output
    assert "(pip install matplotlib)" in result.output
    assert {row["by"] for row in ledger.read(tmp_path / "bench.csv")} == {"front", *PEERS} - {"torch_dct"}
    assert not list(tmp_path.glob("*.png"))


def test_what_does_not_fit_the_memory_is_skipped_and_said(tmp_path, monkeypatch):
    large = Case("dct_crop", (48, 20), (6, 5))
    monkeypatch.setitem(SETS, "short", [CROP, large])
    monkeypatch.setattr(command, "available_memory", lambda device: CROP.memory)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "skipped: dct_crop 48x20 -> 6x5 takes about 0.0 GB, and 0.0 GB are free" in result.output
    assert {row["size"] for row in ledger.read(tmp_path / "bench.csv")} == {"24x20"}
    monkeypatch.setattr(command, "available_memory", lambda device: 0)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "FAILED nothing was measured"


def test_after_the_deadline_there_are_no_alternatives(tmp_path):
    result = run(tmp_path, "--deadline", "0")
    assert "0 s are over: no alternatives from here on" in result.output
    assert {row["by"] for row in ledger.read(tmp_path / "bench.csv")} == {"front"}


@pytest.mark.parametrize(("load", "busy"), [(0.5, False), (1.53, True)])
def test_a_busy_machine_is_told_of(tmp_path, monkeypatch, load, busy):
    monkeypatch.setattr(ledger.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert ("the machine is busy (load 1.5)" in run(tmp_path, "--no-peers").output) == busy
    assert {row["load"] for row in ledger.read(tmp_path / "bench.csv")} == {f"{load:.1f}"}


def test_memory_is_read():
    assert 1 << 26 < command.available_memory(CPU) < 1 << 50


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--set", "huge"], 2, "'huge' is not one of 'short', 'models'"),
        (["--dtype", "int8"], 2, "'int8' is not one of 'float16', 'bfloat16', 'float32', 'float64'"),
        (["--only", "no such"], 2, "got 'no such'; set 'short' has: dct_crop 24x20 -> 6x5; idct_pad"),
        (["--seconds", "0"], 2, "0.0 is not in the range x>0"),
        (["--threads", "0"], 2, "0 is not in the range x>=1"),
        (["--baseline", "no-such.csv"], 2, "File 'no-such.csv' does not exist"),
    ],
)
def test_wrong_options_say_what_is_allowed(tmp_path, options, status, words):
    result = run(tmp_path / "out", *options)
    assert result.exit_code == status
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu(tmp_path):
    result = run(tmp_path, "--device", "cuda")
    assert result.exit_code == 1
    assert result.output == "Error: no CUDA device: torch.cuda.is_available() is false\n"
    assert command.chosen_device("auto") == CPU


def test_a_gpu_without_an_engine_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command.fk.engines, "available", lambda: ())
    with pytest.raises(click.ClickException, match="no engine for the GPU"):
        command.chosen_device("auto")
    assert command.chosen_device("cpu") == CPU


_measured: list[Row] = []


@pytest.fixture
def old(tmp_path):
    """Rows of a run, the same for all tests: it takes two seconds."""
    if not _measured:
        assert run(tmp_path / "old").exit_code == 0
        _measured.extend(ledger.read(tmp_path / "old" / "bench.csv"))
    return [dict(row) for row in _measured]


def scaled(rows: list[Row], factor: float, ours: bool) -> list[Row]:
    return [
        row | {c: str(factor * float(row[c])) for c in ("us", "us_20", "us_80")}
        if (row["by"] == "front") == ours
        else row
        for row in rows
    ]


# Far beyond what a loaded machine does to a median.
@pytest.mark.parametrize(("factor", "status"), [(100, 0), (0.01, 1)])
def test_a_planted_regression_is_found(tmp_path, old, factor, status):
    path = write(tmp_path / "planted.csv", scaled(old, factor, ours=True))
    result = run(tmp_path / "new", "--baseline", str(path))
    assert result.exit_code == status, result.output
    assert f"baseline: 2 rows compared, {2 * status} slower beyond the noise" in result.output
    assert sum(line.startswith("SLOWER ") for line in result.output.splitlines()) == 2 * status


def test_ratios_to_alternatives_count(tmp_path, old):
    """All others were 100 times as fast then: ours, as fast as it was, should be 100 times as slow."""
    path = write(tmp_path / "planted.csv", scaled(old, 0.01, ours=False))
    assert run(tmp_path / "new", "--baseline", str(path)).exit_code == 0
    path = write(tmp_path / "planted.csv", scaled(old, 100, ours=False))
    assert run(tmp_path / "new", "--baseline", str(path)).exit_code == 1


def test_a_baseline_of_another_machine_is_no_pass(tmp_path, old):
    path = write(tmp_path / "other.csv", [row | {"device": "another"} for row in old])
    result = run(tmp_path / "new", "--baseline", str(path))
    assert result.exit_code == 1
    assert "FAILED the baseline has no row of this device" in result.output


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: [{k: v for k, v in row.items() if k != "us_80"} for row in rows], "lacks the column 'us_80'"),
        (lambda rows: [{"size": "8x8"}], "lacks the column 'by', 'device'"),
        (lambda rows: [rows[0], rows[1] | {"us": "fast"}], "line 3: us must be a positive number, got 'fast'"),
        (lambda rows: [rows[0] | {"us_20": "nan"}], "line 2: us_20 must be a positive number, got 'nan'"),
    ],
)
def test_what_is_no_ledger_is_refused(tmp_path, old, spoil, words):
    path = write(tmp_path / "bad.csv", spoil(old))
    result = run(tmp_path / "new", "--baseline", str(path))
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "new").exists()


def row(us: float, by: str = "front", low: float = 1.0, high: float = 1.0, **columns: str) -> dict[str, object]:
    place = {"device": "A", "threads": "2", "isa": "avx512"}
    return {**place, **CROP.columns, "by": by, "us": us, "us_20": low * us, "us_80": high * us, **columns}


def slower(new: list[dict[str, object]], before: list[dict[str, object]]) -> list[str]:
    return [change.by for change in baseline.changes(new, before) if change.slower]


def test_the_rule_of_a_regression():
    assert slower([row(109)], [row(100)]) == []
    assert slower([row(111)], [row(100)]) == ["front"]
    assert slower([row(129)], [row(100, high=1.2)]) == []  # the old 80 % quantile
    assert slower([row(131)], [row(100, high=1.2)]) == ["front"]
    assert slower([row(140, low=0.75)], [row(100)]) == []  # the new 20 % quantile
    assert slower([row(150, low=0.75)], [row(100)]) == ["front"]
    assert slower([row(150)], [row(100), row(150)]) == []  # what was measured last
    assert slower([row(150, "front cuda")], [row(100, "front cuda"), row(150)]) == ["front cuda"]
    for column in ("device", "threads", "isa", "size", "kept", "dtype", "count"):
        assert baseline.changes([row(150)], [row(100, **{column: "7"})]) == []


def test_drift_is_the_median_over_alternatives():
    def others(*times: float) -> list[dict[str, object]]:
        return [row(us, name) for us, name in zip(times, "abc", strict=True)]

    assert slower([row(200), *others(20, 20, 90)], [row(100), *others(10, 10, 10)]) == []
    assert slower([row(230), *others(20, 20, 90)], [row(100), *others(10, 10, 10)]) == ["front"]
    assert slower([row(100), *others(5, 5, 10)], [row(100), *others(10, 10, 10)]) == ["front"]
    (change,) = baseline.changes([row(200), *others(20, 20, 90)], [row(100, high=1.1), *others(10, 10, 10)])
    assert (change.drift, change.old_us) == (2.0, 200.0)
    assert change.allowed_us == pytest.approx(2 * 110 + 20)
    there = {"size": "8x8"}  # another case
    new, before = ([x | there for x in others(us, us, us)] for us in (20, 10))
    (change,) = baseline.changes([row(200), *new], [row(100), *before])
    assert (change.drift, change.slower) == (1.0, True)


def test_an_interrupted_write_leaves_the_ledger_as_it_was(tmp_path):
    path = tmp_path / "bench.csv"
    ledger.append([{"device": 'a, "b"', "us": 1.5}], path)
    before = path.read_bytes()
    assert ledger.read(path) == [{"device": 'a, "b"', "us": "1.5"}]

    class Unprintable:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.append([{"device": "c", "us": Unprintable()}], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
