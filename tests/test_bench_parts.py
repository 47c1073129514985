"""Parts of the benchmark: sets of cases, the alternatives on a CPU, what is verified against, clocks."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import math
import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest
import torch

from front_kernels import reference
from front_kernels.bench import cases, clocks, ledger, libraries, problems, report
from front_kernels.bench.cases import SETS, Case
from front_kernels.bench.peers import Peer

CPU = torch.device("cpu")
PEERS = {"ducc0 by axis": "ducc0", "ducc0 2-D": "ducc0", "scipy": "scipy", "torch_dct": "torch_dct"}
OPS = ("dct_crop", "idct_pad", "lowpass", "dct_resize", "dct_crop_many")


def test_nominal_operations():
    assert cases.nominal_flops((8, 4), (2, 2)) == 2.5 * (8 * 4 * 2 + 2 * 8 * 3)
    assert Case("idct_pad", (8, 4), (2, 2), count=3).flops == 3 * 280
    both = Case("dct_resize", (8, 4), (2, 2), resized=(4, 8))
    assert both.flops == 280 + 2.5 * (4 * 8 * 3 + 2 * 4 * 2)
    assert Case("lowpass", (8, 4), (2, 2)).flops == 2 * 280
    assert Case("dct_crop", (1, 1), (1, 1)).flops == 0


def test_share_kept():
    shares = {
        report.share_kept(Case("dct_crop", size, kept).columns)
        for size, kept in (((8, 8), (8, 8)), ((8, 4), (2, 1)), ((8, 8), (8, 2)), ((8, 8), (4, 2)))
    }
    assert shares == {"all kept", "1/4 kept", "all x 1/4 kept", "1/2 x 1/4 kept"}


def append_rows(path, name: str, both) -> None:
    both.wait()
    for i in range(100):
        ledger.append([{"by": name, "us": i}], path)


def test_two_processes_append_to_a_ledger(tmp_path):
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "bench.csv"
    both = context.Barrier(2)
    writers = [context.Process(target=append_rows, args=(path, name, both)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows = ledger.read(path)
    for name in "ab":
        assert [int(row["us"]) for row in rows if row["by"] == name] == list(range(100))
    assert [file.name for file in tmp_path.iterdir()] == ["bench.csv"]


@pytest.mark.parametrize(("row", "words"), [("front,2,EXTRA", "more"), ("front", "fewer")])
def test_a_ledger_of_ragged_rows_is_refused(tmp_path, row, words):
    path = tmp_path / "bench.csv"
    path.write_text(f"by,us\nfront,1\n{row}\n")
    with pytest.raises(ValueError, match=f"row 2 has {words} fields than there are columns"):
        ledger.append([{"by": "a"}], path)
    assert path.read_text() == f"by,us\nfront,1\n{row}\n"


@pytest.mark.parametrize(("number", "fails"), [(errno.ENOLCK, False), (errno.EINTR, True)])
def test_a_ledger_where_the_file_system_has_no_locks(tmp_path, monkeypatch, number, fails):
    def no_lock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    path = tmp_path / "bench.csv"
    with pytest.raises(OSError, match="Interrupted") if fails else contextlib.nullcontext():
        ledger.append([{"by": "a"}], path)
    assert path.exists() is not fails


def test_sets():
    for name, found in SETS.items():
        assert len(set(found)) == len(found) > 0, name
    models = {(case.op, case.size, case.kept) for case in SETS["models"]}
    assert ("dct_crop", (14336, 4096), (896, 256)) in models
    assert ("idct_pad", (30522, 768), (30522, 768)) in models
    squares = [case for case in SETS["squares"] if case.op == "dct_crop" and case.size == (16384, 16384)]
    assert [case.kept[0] for case in squares] == [1024, 2048, 4096, 8192, 16384]
    assert set(SETS["all"]) == {*SETS["models"], *SETS["squares"]}


def resized(op: str, size, kept, dtype: str = "float32") -> Case:
    other = (size[0] + 1, max(kept[1], size[1] - 2)) if op == "dct_resize" else None
    return Case(op, size, kept, dtype, other, 3 if op == "dct_crop_many" else 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*PEERS, "torch.fft cut", "matmul"])
@pytest.mark.parametrize("op", OPS)
def test_alternatives_compute_the_case(op, name, dtype):
    if importlib.util.find_spec(PEERS.get(name, "torch")) is None:
        pytest.skip(f"{PEERS[name]} is not installed: pip install '.[bench]'")
    for size, kept in [((24, 20), (6, 5)), ((13, 9), (13, 9)), ((50, 33), (7, 30))]:
        case = resized(op, size, kept, dtype)
        p = problems.problem(case, CPU, 1)
        peer = libraries.BUILDERS["cpu"][name](case, p.inputs)
        relative, _ = p.errors(peer.tensor(peer.run(0)))
        assert relative <= (1e-6 if dtype == "float32" else 1e-14)
        assert peer.full == (name in ("ducc0 2-D", "scipy", "torch_dct"))


def test_a_basis_that_is_too_large_is_not_built():
    case = Case("dct_crop", (30522, 1), (15261, 1))
    with pytest.raises(NotImplementedError, match="not run with a basis of 465796242 elements, more than 268435456"):
        libraries.BUILDERS["cpu"]["matmul"](case, [torch.zeros(1, 1)])


def test_entries_are_those_of_the_basis():
    n, u, i = 30522, torch.tensor([0, 7, 199]), torch.tensor([0, 11, 30521])
    assert torch.equal(problems.entries(n, u, i), reference.basis(n, 200)[u][:, i])


@pytest.mark.parametrize("op", ["dct_crop", "idct_pad", "dct_crop_many"])
@pytest.mark.parametrize(("size", "kept"), [((70, 50), (30, 50)), ((99, 61), (60, 17)), ((40, 1), (40, 1))])
def test_a_sample_is_of_the_exact_result(monkeypatch, op, size, kept):
    case = resized(op, size, kept)
    (_, whole), *rest = problems.problem(case, CPU, 1).exact
    assert not rest
    monkeypatch.setitem(problems.AFFORDED, "cpu", (0, 0))
    p = problems.problem(case, CPU, 1)
    assert len(p.exact) == 2
    for axis, index in ((-2, p.exact[0][0][1]), (-1, p.exact[1][0][1])):
        assert {0, whole.shape[axis] - 1} <= set(index.tolist())
    for index, part in p.exact:
        assert part.shape == whole[index].shape
        assert (part - whole[index]).abs().max() <= 1e-12
    assert set(problems.verified(p)) == {"relative_error", "element_error"}


@pytest.mark.parametrize("wrong", [0.0, math.nan])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_wrong_row_or_column_is_seen_in_a_sample(monkeypatch, axis, wrong):
    monkeypatch.setitem(problems.AFFORDED, "cpu", (0, 0))
    monkeypatch.setattr(problems, "SAMPLE", 4)
    p = problems.problem(Case("idct_pad", (90, 80), (30, 20)), CPU, 1)
    result = p.run(0)
    for line in range(result.shape[axis]):
        spoiled = result.clone()
        spoiled.select(axis, line).fill_(wrong)
        with pytest.raises(ArithmeticError, match="wrong: relative L2 error"):
            problems.verified(p, lambda i, spoiled=spoiled: spoiled)
    with pytest.raises(ArithmeticError, match=r"wrong shape \(20, 30\), expected \(90, 80\)"):
        p.errors(torch.zeros(20, 30))


def test_calls_are_taken_in_turn(monkeypatch):
    now, calls = 0.0, []

    def takes(seconds: float, name: str) -> None:
        nonlocal now
        now += seconds
        calls.append(name)

    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: now))
    lasts = {"a": 0.55 * clocks.WARM, "b": 2 * clocks.WARM}
    runs = {name: functools.partial(takes, seconds, name) for name, seconds in lasts.items()}
    times = clocks.in_turn(runs, 0)
    assert calls == list("aaaabb") * 5  # half of them to be warm
    assert times == {name: [pytest.approx(lasts[name])] * count for name, count in (("a", 10), ("b", 5))}
    calls.clear()
    clocks.in_turn(runs, 7.5 * (4 * lasts["a"] + 2 * lasts["b"]))  # what a round takes
    assert calls == list("aaaabb") * 8
    calls.clear()
    clocks.in_turn({"a": functools.partial(takes, 1.1 * clocks.LONG, "a")}, 0)
    assert len(calls) == 1 + 5  # nothing is left in the caches by a long call
    assert clocks.Times([1.0, 2, 3, 4, 5, 6, 7, 8, 9]).percentiles() == (2.0, 8.0)
    assert clocks.Times([3.0, 1, 2]).median == 2


class Event:
    """A CUDA event on the host."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


def test_the_clock_of_gpus_on_the_host(monkeypatch):
    """Everything but the device: which call has which copy, how often, and what is timed how."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(clocks.CudaClock, "FILLER", 1 << 12)
    clock = clocks.CudaClock(CPU)
    assert clock.bytes_per_us == 2 * 4096 / clock.copy_us > 0
    assert clock.copies(Case("dct_crop", (768, 768), (384, 384))) == 2
    assert clock.copies(Case("dct_crop", (192, 192), (96, 96))) == 23
    calls: dict[str, list[int]] = {"slow": [], "host": []}
    waited = []

    def slow(i: int) -> None:
        calls["slow"].append(i)
        time.sleep(1e-3)

    runs = {
        "slow": Peer(slow, False, None),
        "host": Peer(lambda i: calls["host"].append(i) or i, False, None, wait=waited.append),
    }
    times = clock.times(runs, 7, 1e-6)
    assert (len(times["slow"].us), len(times["host"].us)) == (50, 5)
    assert times["slow"].median >= 1e3
    assert times["slow"].host_us >= 1e3
    assert math.isnan(times["host"].host_us)
    assert calls["slow"] == [0, 1, 2, *(i % 7 for i in range(10)), *(i % 7 for i in range(50))]
    assert calls["host"] == waited == [0, 1, 2, *(i % 7 for i in range(50))]
