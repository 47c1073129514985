"""Kernels by other plans than the planner's, measured on an idle GPU: what plan.h's constants were chosen by.

    python bench/gpu_plans.py 8192x8192-1024x1024 ["8192x8192-1024x1024=16x16x16/4/1/128/0/4|16x16x16/4/4/128/0/1" ...]

A case is SIZE-KEPT[=ROWS|COLUMNS]: the matrix, the corner that is kept, and, for the pass along rows and the one along
columns, radices / lanes / lanes together / threads per lane / 1 if the tile overlays the points / blocks per
multiprocessor. Without plans the planner's own are measured, and those near them. All kernels are compiled first, in
parallel, into the cache. Times are medians of the profiler's times of kernels, with the cache flushed before each op.
Results are compared with float64. Appends a row per plan to bench/results/gpu_plans.csv.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import front_kernels as fk
from front_kernels import _C, _kernels, _nvrtc
from front_kernels.bench import ledger
from front_kernels.bench.cases import Size

FORWARD, INVERSE = 0, 1  # csrc/params.h's Direction
ROWS, COLUMNS = 1, 2  # plan.h's Fours
LEDGER = Path(__file__).parent / "results" / "gpu_plans.csv"
REPEATS = 12
FLUSHED = 256 << 20  # bytes written between two ops


@dataclass(frozen=True)
class Plan:
    """An axis of length n in float32."""

    n: int
    share: int
    radices: tuple[int, ...]
    lanes: int
    together: int
    threads: int
    overlaid: int
    blocks: int

    @property
    def numbers(self) -> list[int]:
        """plan.h's plan_of; no count of registers, which only the planner needs."""
        return [self.n, self.share, 4, self.lanes, self.together, self.threads, self.overlaid, 0, self.blocks]

    def kernel(self, direction: int) -> tuple[str, str, int]:
        """Its name, source and bytes of shared memory."""
        return _C.cuda_axis_kernel(direction, self.numbers, list(self.radices))

    def __str__(self) -> str:
        rest = self.lanes, self.together, self.threads, self.overlaid, self.blocks
        return "/".join(["x".join(map(str, self.radices)), *map(str, rest)])


def share_of(n: int, kept: int) -> int:
    return next(share for share in (8, 4, 2, 1) if kept * share <= n)


def parsed(text: str, n: int, kept: int) -> Plan:
    radices, *numbers = text.split("/")
    if len(numbers) != 5:
        raise ValueError(f"a plan must be RADICES/LANES/TOGETHER/THREADS/OVERLAID/BLOCKS, got {text!r}")
    return Plan(n, share_of(n, kept), tuple(map(int, radices.split("x"))), *map(int, numbers))


def own(n: int, kept: int, lanes: int, fours: int) -> Plan:
    """The planner's."""
    p = _C.cuda_axis_plan(n, kept, 4, lanes, torch.ops.front._cuda_hardware(0), fours)
    if not p["radices"]:
        raise ValueError(f"an axis of {n} elements is transformed through memory: there is no plan to vary")
    shape = p["lanes"], p["together"], p["threads_per_lane"], int(p["overlaid"]), p["blocks_per_multiprocessor"]
    return Plan(n, share_of(n, kept), tuple(p["radices"]), *shape)


def near(plan: Plan) -> Iterator[Plan]:
    """The plan, and the same radices with other lanes and threads, as many blocks as shared memory has room for."""
    yield plan
    for lanes in (4, 8):
        for together in (1, 2, 4):
            for threads in (plan.threads, plan.threads // 2, plan.threads * 2):
                for overlaid in (0, 1) if lanes == together else (0,):
                    if not 32 <= threads * together <= 1024 or threads < 16:
                        continue
                    shape = lanes, together, threads, overlaid
                    shared = Plan(plan.n, plan.share, plan.radices, *shape, 1).kernel(FORWARD)[2]
                    blocks = min((228 << 10) // (shared + 1024), 65536 // (128 * threads * together), 8)
                    if shared <= 227 << 10 and blocks >= 1:
                        yield Plan(plan.n, plan.share, plan.radices, *shape, blocks)


@dataclass(frozen=True)
class Job:
    size: Size
    kept: Size
    rows: Plan
    columns: Plan


def jobs_of(text: str) -> list[Job]:
    case, _, plans = text.partition("=")
    (m, n), (k0, k1) = ((int(a), int(b)) for a, b in (shape.split("x") for shape in case.split("-")))
    if plans:
        rows, columns = plans.split("|")
        return [Job((m, n), (k0, k1), parsed(rows, n, k1), parsed(columns, m, k0))]
    rows, columns = own(n, k1, m, ROWS), own(m, k0, k1, COLUMNS)
    varied = [Job((m, n), (k0, k1), plan, columns) for plan in dict.fromkeys(near(rows))]
    return varied + [Job((m, n), (k0, k1), rows, plan) for plan in dict.fromkeys(near(columns))][1:]


def compiled(job: tuple[Plan, int, int]) -> str:
    """What went wrong, if anything."""
    plan, direction, architecture = job
    name, source, _ = plan.kernel(direction)
    try:
        _nvrtc.compiled(_kernels.source_of(source), name, _kernels.headers(), architecture)
    except (RuntimeError, ValueError) as error:
        return f"{name}: {str(error)[-300:]}"
    return ""


def times_of_passes(run: Callable[[], object]) -> tuple[float, float]:
    """Medians of the first and of the second kernel of an op, in microseconds."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()
    events = sorted(profile.events(), key=lambda e: e.time_range.start)
    times = [e.time_range.elapsed_us() for e in events if e.name.startswith("front_")]
    if len(times) != 2 * REPEATS:
        raise RuntimeError(f"{len(times)} kernels were seen, not {2 * REPEATS}")
    return statistics.median(times[0::2]), statistics.median(times[1::2])


def relative(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).norm() / exact.norm())


def measure(job: Job, x: Tensor, flush: Tensor) -> dict[str, object]:
    for plan, fours in ((job.rows, ROWS), (job.columns, COLUMNS)):
        torch.ops.front._cuda_force_plan(plan.numbers, list(plan.radices), fours)
    corner, back = torch.empty(job.kept, device=x.device), torch.empty_like(x)
    with torch.device(x.device):
        exact = fk.reference.dct_crop(x, job.kept)

    def forward() -> None:
        flush.zero_()
        fk.dct_crop(x, job.kept, out=corner)

    def inverse() -> None:
        flush.zero_()
        fk.idct_pad(corner, job.size, out=back)

    forward()
    error = relative(corner, exact)
    inverse()
    with torch.device(x.device):
        error_back = relative(back, fk.reference.idct_pad(corner.double(), job.size))
    if not max(error, error_back) <= 5e-7:
        raise ArithmeticError(f"wrong: relative L2 errors {error:.2g} and {error_back:.2g}")
    rows, columns = times_of_passes(forward)
    columns_back, rows_back = times_of_passes(inverse)
    times = {"rows_us": rows, "columns_us": columns, "columns_back_us": columns_back, "rows_back_us": rows_back}
    return {
        "size": "{}x{}".format(*job.size),
        "kept": "{}x{}".format(*job.kept),
        "rows": str(job.rows),
        "columns": str(job.columns),
        **{name: round(us, 1) for name, us in times.items()},
        "relative_error": f"{max(error, error_back):.2g}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--csv", type=Path, default=LEDGER)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: torch.cuda.is_available() is false")
    jobs = [job for text in options.cases for job in jobs_of(text)]
    properties = torch.cuda.get_device_properties(0)
    architecture = 10 * properties.major + properties.minor
    kernels = dict.fromkeys((p, d, architecture) for j in jobs for p in (j.rows, j.columns) for d in (FORWARD, INVERSE))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for failure in filter(None, pool.map(compiled, kernels)):
            print(f"FAILED {failure}", flush=True)
    run = ledger.run_columns(torch.device("cuda", 0))
    flush = torch.empty(FLUSHED, dtype=torch.uint8, device="cuda")
    x, failures = torch.empty(0), 0
    for job in jobs:
        if x.shape != job.size:
            x = torch.randn(job.size, device="cuda")
        try:
            row = measure(job, x, flush)
        except (RuntimeError, ArithmeticError) as error:
            print(f"FAILED {job.rows} | {job.columns}: {str(error)[:200]}", flush=True)
            failures += 1
            continue
        ledger.append([run | row], options.csv)
        print("  ".join(map(str, row.values())), flush=True)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
