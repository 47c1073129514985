"""CPU ops against the alternatives: `make bench-cpu`, or `python bench/cpu.py [--rows 4096x4096:512x512 ...]`.

Into `out=`, medians, what is compared taken in turn: 30 ms of each, or one call, after 30 ms of its own calls that are
not timed (4096 x 4096 needs five where another has emptied the caches; a call of 100 ms or more needs none). Each
result is compared with float64 before it is timed.
Three tables: float32 against the package's peers; other dtypes against float32 in the same process; each instruction
set that this machine has against the others, a process each. `% of read` is the time to read the larger side once
(a sum) in percent of the op's; `x NAME` how many times faster than NAME the op is. Errors: relative L2, and that of the
worst element in eps of the dtype, relative to the element or to the root mean square of all, whichever is larger.
Appends a row per result to bench/results/cpu.csv. Run it on an idle machine: the other load of shared machines shows.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

import front_kernels as fk
import ledger
from front_kernels.bench.clocks import in_turn
from front_kernels.bench.libraries import BUILDERS, numpy_padded
from front_kernels.bench.peers import Peer
from ledger import CASES, COMPARED, Case

# Relative L2 errors.
TOLERANCE = {torch.float32: 3e-7, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 2e-14}
PEER_TOLERANCE = 5e-6
WARM = 0.03  # seconds
ELEMENT_LIMIT = 8.0  # eps of float32
ROUNDS = 3  # in which the instruction sets take turns
Times = dict[str, list[float]]
Result = dict[str, object]


@dataclass(frozen=True)
class Problem:
    """One case in one dtype."""

    case: Case
    x: Tensor  # [M, N] forward, [k0, k1] inverse
    out: Tensor  # the other
    exact: np.ndarray  # the result in float64; in long double for float64, whose own error would show

    def run(self) -> None:
        if self.case.direction == "forward":
            torch.ops.front.dct_crop.out(self.x, self.case.kept, out=self.out)
        else:
            torch.ops.front.idct_pad.out(self.x, self.case.size, out=self.out)

    def errors(self, result: Tensor) -> tuple[float, float]:
        """Relative L2 error, and max |result - exact| / max(|exact|, rms of exact) in eps of the dtype."""
        difference = np.abs(result.double().numpy() - self.exact)
        rms = np.sqrt(np.mean(self.exact**2))
        element = (difference / np.maximum(np.abs(self.exact), rms)).max() / torch.finfo(self.x.dtype).eps
        return float(np.sqrt(np.mean(difference**2)) / rms), float(element)


def problem(case: Case, dtype: torch.dtype, threads: int) -> Problem:
    torch.manual_seed(0)
    (m, n), k = case.size, case.kept
    x = torch.randn(case.size if case.direction == "forward" else k, dtype=torch.float64).to(dtype)
    wide = x.double().numpy().astype(np.longdouble if dtype == torch.float64 else np.float64)
    if case.direction == "forward":
        exact = scipy.fft.dct(wide, norm="ortho", workers=threads)[:, : k[1]]
        exact = scipy.fft.dct(exact, axis=0, norm="ortho", workers=threads)[: k[0]]
    else:
        exact = scipy.fft.idctn(numpy_padded(wide, (m, n)), norm="ortho", workers=threads)
    return Problem(case, x, torch.empty(exact.shape, dtype=dtype), exact)


def verified(p: Problem) -> Result:
    """The errors of the op's result; SystemExit if it is wrong."""
    p.run()
    relative, element = p.errors(p.out)
    if not relative <= TOLERANCE[p.x.dtype]:
        raise SystemExit(f"{p.case} in {p.x.dtype} is wrong: relative L2 error {relative:.2g}")
    return {"relative_error": f"{relative:.2g}", "element_error": f"{element:.2f}"}


def peers(case: Case, x: Tensor) -> dict[str, Peer]:
    """The alternatives that can do the case."""
    found = {}
    for name, build in BUILDERS["cpu"].items():
        try:
            found[name] = build(case.of_op, [x])
        except NotImplementedError as error:
            print(f"{case}: without {name}: {error}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def summary(case: Case, dtype: torch.dtype, times: list[float]) -> Result:
    median = statistics.median(times)
    low, _, _, high = statistics.quantiles(times, n=5)
    return {
        **case.columns,
        "ms": round(1e3 * median, 3),
        "ms_20": round(1e3 * low, 3),
        "ms_80": round(1e3 * high, 3),
        "gb_s": round(dtype.itemsize * (math.prod(case.size) + math.prod(case.kept)) / median / 1e9, 2),
        "dtype": dtype_name(dtype),
    }


def ratios(times: Times, name: str) -> Result:
    """How many times longer than `name` each other took."""
    median = {other: statistics.median(values) for other, values in times.items()}
    return {f"times_{o.replace(' ', '_')}": round(median[o] / median[name], 2) for o in sorted(median) if o != name}


def against_peers(case: Case, threads: int, budget: float) -> Result:
    p = problem(case, torch.float32, threads)
    errors = verified(p)
    others = peers(case, p.x)
    for name, peer in others.items():
        if not (wrong := p.errors(peer.tensor(peer.run(0)))[0]) <= PEER_TOLERANCE:
            raise SystemExit(f"{case}: {name} is wrong: relative L2 error {wrong:.2g}")
    larger = max(p.x, p.out, key=Tensor.numel)
    runs = {name: functools.partial(peer.run, 0) for name, peer in others.items()}
    times = in_turn({"front": p.run, "read": larger.sum, **runs}, budget, warm=WARM)
    read = statistics.median(times.pop("read")) / statistics.median(times["front"])
    best = min(others, key=lambda name: statistics.median(times[name]))
    compared = ratios(times, "front")
    return {
        **summary(case, torch.float32, times["front"]),
        "percent_of_read": round(100 * read, 1),
        "best_peer": best,
        "times_best_peer": compared[f"times_{best.replace(' ', '_')}"],
        **compared,
        **errors,
    }


def against_float32(case: Case, threads: int, budget: float) -> list[Result]:
    """The other dtypes, in turn with float32."""
    problems = {dtype_name(dtype): problem(case, dtype, threads) for dtype in TOLERANCE}
    errors = {name: verified(p) for name, p in problems.items()}
    times = in_turn({name: p.run for name, p in problems.items()}, budget, warm=WARM)
    return [
        {
            **summary(case, problems[name].x.dtype, times[name]),
            **ratios({"float32": times["float32"], name: times[name]}, name),
            **errors[name],
        }
        for name in problems
        if name != "float32"
    ]


def force(isa: str, threads: int) -> None:
    """For a process of its own: the instruction set is chosen at the first transform."""
    os.environ["FRONT_CPU_ISA"] = isa
    torch.set_num_threads(threads)


def isa_in_use() -> str:
    return str(fk.build_info()["cpu_isa"])


def isa_workers(threads: int) -> dict[str, ProcessPoolExecutor]:
    """A process for each instruction set that this machine has, best first."""
    found: dict[str, ProcessPoolExecutor] = {}
    for isa in fk.build_info()["cpu_isas"]:
        worker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), force, (isa, threads))
        try:
            if (used := worker.submit(isa_in_use).result()) != isa:
                raise SystemExit(f"FRONT_CPU_ISA={isa} runs {used}")
            found[isa] = worker
        except ValueError:  # what build_info raises where the machine lacks it
            worker.shutdown()
    return found


@functools.lru_cache(maxsize=1)  # the rounds of a case follow each other
def verified_problem(case: Case, threads: int) -> tuple[Problem, Result]:
    p = problem(case, torch.float32, threads)
    return p, verified(p)


def isa_round(case: Case, threads: int, budget: float) -> tuple[list[float], Result]:
    p, errors = verified_problem(case, threads)
    return in_turn({"front": p.run}, budget, warm=WARM)["front"], errors


def against_isas(case: Case, workers: dict[str, ProcessPoolExecutor], threads: int, budget: float) -> list[Result]:
    """float32 under each instruction set, in turn: one process times while the others wait."""
    times: Times = {isa: [] for isa in workers}
    errors: dict[str, Result] = {}
    for _ in range(ROUNDS):
        for isa, worker in workers.items():
            taken, errors[isa] = worker.submit(isa_round, case, threads, budget / ROUNDS).result()
            times[isa] += taken
    return [
        {**summary(case, torch.float32, times[isa]), **ratios(times, isa), **errors[isa], "isa": isa} for isa in workers
    ]


def show(title: str, results: list[Result], columns: tuple[str, ...]) -> None:
    """Prints time, bandwidth, `columns`, ratios and errors of each."""
    compared = sorted({c for result in results for c in result if c.startswith("times_")} - {"times_best_peer"})
    columns = ("gb_s", *columns, *compared, "relative_error", "element_error")
    titles = [c.replace("times_", "x ").replace("percent_of", "% of").replace("_", " ") for c in columns]
    table = Table(*(Column(name, no_wrap=True) for name in ("row", "ms", "20% - 80%")), *titles, title=title)
    for result in results:
        row = "{direction} {size}:{kept}|{ms}|{ms_20} - {ms_80}".format(**result).split("|")
        table.add_row(*row, *(str(result.get(c, "")) for c in columns))
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on a row")
    parser.add_argument("--rows", nargs="*", help="only these, as 4096x4096:512x512")
    options = parser.parse_args()
    if unknown := set(options.rows or ()) - {case.name for case in CASES}:
        parser.error(f"--rows must be of {sorted({case.name for case in CASES})}, got {sorted(unknown)}")
    threads, budget = options.threads, options.seconds
    torch.set_num_threads(threads)
    run = ledger.run_columns(threads, isa_in_use())

    def chosen(cases: list[Case]) -> list[Case]:
        return [case for case in cases if not options.rows or case.name in options.rows]

    def measured(rows: Iterable[list[Result]]) -> list[Result]:
        results = []
        for new in rows:
            ledger.append([run | result for result in new])
            results += new
        return results

    rows = measured([against_peers(case, threads, budget)] for case in chosen(CASES))
    show("float32 against the peers", rows, ("percent_of_read",))
    for row in rows:
        if float(str(row["element_error"])) > ELEMENT_LIMIT:
            print("{direction} {size}:{kept}: element error {element_error}".format(**row), f"is above {ELEMENT_LIMIT}")
    if not chosen(COMPARED):
        return
    rows = measured(against_float32(case, threads, budget) for case in chosen(COMPARED))
    show("Other dtypes (x float32: at least 1 for 16 bits; at least 0.3, goal 0.45, for float64)", rows, ("dtype",))
    workers = isa_workers(threads)
    rows = measured(against_isas(case, workers, threads, budget) for case in chosen(COMPARED))
    for worker in workers.values():
        worker.shutdown()
    show("Instruction sets", rows, ("isa",))


if __name__ == "__main__":
    main()
