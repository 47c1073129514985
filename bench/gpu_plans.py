"""Other plans than the planner's, measured: `python bench/gpu_plans.py [--axes 8192:1024 ...]`, on an idle GPU.

For an axis, as n:kept, every kernel of a list of radices, lanes, threads and blocks is compiled (in parallel, into the
cache), stands in for the planner's, is compared with float64, and timed along the rows and along the columns of an
n x n matrix (its first 8192 rows if it is longer) by the profiler's times of kernels. The planner's own choice is among
them, marked with *. What is learnt goes into plan.h; nothing is chosen here.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import front_kernels as fk
from front_kernels import _C, _kernels, _nvrtc

FORWARD, INVERSE = 0, 1
Numbers = tuple[int, ...]  # plan.h's plan_of
Plan = tuple[Numbers, Numbers]  # and radices
REPEATS = 12


def factorizations(points: int, stages: int, ends: int = 16, middle: int = 32) -> Iterator[Numbers]:
    def split(rest: int, left: int) -> Iterator[Numbers]:
        most = ends if left in (1, stages) else middle
        if left == 1:
            if rest <= most:
                yield (rest,)
            return
        for r in range(2, most + 1):
            if rest % r == 0:
                for tail in split(rest // r, left - 1):
                    yield (r, *tail)

    yield from split(points, stages)


def candidates(n: int, kept: int, radices: Sequence[Numbers]) -> Iterator[Plan]:
    share = 8
    while share > 1 and kept * share > n:
        share //= 2
    for rs, lanes, together, threads in itertools.product(
        radices, (1, 2, 4, 8, 16), (1, 2, 4, 8), (32, 64, 128, 256, 512)
    ):
        if together > lanes or lanes % together or not 64 <= together * threads <= 512:
            continue
        points = n // 2 if n % 2 == 0 else n
        # registers of complex points that a thread holds between barriers, or of two butterflies at the ends
        held = max([math.ceil(points / r / threads) * r for r in rs[1:-1]] + [2 * rs[0], 2 * rs[-1]])
        if held > 48 or 4 * min(rs) * threads > 4 * points:
            continue
        for overlaid in (0, 1):
            if overlaid and (lanes != together or math.ceil(points / rs[-1] / 2 / threads) * 2 * rs[-1] > 40):
                continue
            numbers = (n, share, 4, lanes, together, threads, overlaid, 0, 1)
            shared = _C.cuda_axis_kernel(FORWARD, numbers, rs)[2]
            fit = min(
                (228 << 10) // (shared + 1024),
                2048 // (together * threads),
                65536 // (together * threads) // (2 * held + 44),
            )
            if shared > 227 << 10 or fit < 1:
                continue
            yield (*numbers[:-1], min(fit, 8)), rs


def compile_one(job: tuple[int, Plan, int]) -> str:
    direction, (numbers, radices), arch = job
    name, source, _ = _C.cuda_axis_kernel(direction, numbers, radices)
    try:
        _nvrtc.compiled(_kernels.source_of(source), name, _kernels.headers(), arch)
    except Exception as error:
        return f"{name}: {str(error)[-300:]}"
    return ""


def dct(x: torch.Tensor, dim: int, *, out: torch.Tensor) -> None:
    torch.ops.front._cuda_axis(x, out, FORWARD, dim, "ortho")


def idct(y: torch.Tensor, dim: int, *, out: torch.Tensor) -> None:
    torch.ops.front._cuda_axis(y, out, INVERSE, dim, "ortho")


def kernel_times(run, names: Sequence[str]) -> dict[str, list[float]]:
    """Microseconds of each launch of the named kernels, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {name: [] for name in names}
    for event in sorted(prof.events(), key=lambda e: e.time_range.start):
        for name in names:
            if event.name == name or event.name.startswith(name + "("):
                found[name].append(event.time_range.elapsed_us())
    return found


def measure(plan: Plan, x: torch.Tensor, kept: int, exact: torch.Tensor, flush: torch.Tensor) -> dict[str, float]:
    numbers, radices = plan
    torch.ops.front._cuda_force_plan(list(numbers), list(radices))
    n = numbers[0]
    names = [_C.cuda_axis_kernel(d, numbers, radices)[0] for d in (FORWARD, INVERSE)]
    rows = x.shape[0]
    out = torch.empty(kept, rows, device=x.device).mT  # as the intermediate lies
    back = torch.empty_like(x)
    columns = torch.empty(kept, kept, device=x.device)
    result = {}
    dct(x, 1, out=out)
    result["error"] = float((out.double() - exact).norm() / exact.norm())

    def run():
        flush.zero_()
        dct(x, 1, out=out)
        if rows == n:
            dct(out, 0, out=columns)
            idct(columns, 0, out=out)
            dct(x, 1, out=out)
        idct(out, 1, out=back)

    run()
    times = kernel_times(run, names)
    # forward: rows, columns, rows; inverse: columns, rows
    if rows == n:
        f, b = times[names[0]], times[names[1]]
        result |= {
            "rows": statistics.median(f[0::3]),
            "columns": statistics.median(f[1::3]),
            "columns back": statistics.median(b[0::2]),
            "rows back": statistics.median(b[1::2]),
        }
    else:
        result |= {"rows": statistics.median(times[names[0]]), "rows back": statistics.median(times[names[1]])}
    return result


RADICES = {
    4096: [(16, 16, 16), (8, 8, 8, 8), (16, 32, 8), (8, 32, 16), (8, 16, 4, 8), (4, 16, 16, 4), (16, 4, 4, 16)],
    2048: [(16, 8, 16), (8, 16, 16), (16, 16, 8), (8, 8, 4, 8), (8, 32, 8)],
    5504: [(8, 43, 16), (16, 43, 8), (4, 43, 8, 4)],
    7168: [(16, 28, 16), (16, 7, 8, 8), (8, 7, 8, 16), (16, 14, 32), (8, 28, 4, 8)],
    1536: [(16, 6, 16), (8, 12, 16), (16, 12, 8), (8, 24, 8), (12, 16, 8), (8, 4, 6, 8)],
    384: [(8, 6, 8), (16, 24), (8, 3, 16), (4, 12, 8), (16, 3, 8), (12, 4, 8)],
    512: [(8, 8, 8), (16, 2, 16), (4, 16, 8), (16, 4, 8), (8, 4, 16)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="*", default=["8192:1024", "4096:512", "11008:2752", "8192:8192", "4096:1024"])
    parser.add_argument("--csv", type=Path, default=Path("plans.csv"))
    parser.add_argument("--only", default="", help="radices as 16x16x16")
    parser.add_argument("--top", type=int, default=12)
    parser.add_argument("--list", action="store_true", help="only count and compile")
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--directions", type=int, nargs="*", default=[FORWARD, INVERSE])
    options = parser.parse_args()
    jobs: dict[str, list[Plan]] = {}
    for axis in options.axes:
        n, kept = map(int, axis.split(":"))
        points = n // 2 if n % 2 == 0 else n
        radices = RADICES.get(points) or list(factorizations(points, 3))[:6]
        if options.only:
            radices = [r for r in radices if "x".join(map(str, r)) in options.only.split(",")]
        own = _C.cuda_axis_plan(n, kept, 4, n, [132, 227 << 10, 228 << 10, 0])
        mine: Plan = (
            (
                n,
                own["share"],
                4,
                own["lanes"],
                own["together"],
                own["threads_per_lane"],
                int(own["overlaid"]),
                own["registers"],
                own["blocks_per_multiprocessor"],
            ),
            tuple(own["radices"]),
        )
        jobs[axis] = [mine, *(p for p in candidates(n, kept, radices))]
        print(f"{axis}: {len(jobs[axis])} plans", flush=True)
    every = [(d, p, options.arch) for plans in jobs.values() for p in plans for d in options.directions]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for failure in pool.map(compile_one, every, chunksize=1):
            if failure:
                print(f"FAILED {failure}", flush=True)
    print(f"compiled {len(every)}", flush=True)
    if options.list:
        return
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    with options.csv.open("a", newline="") as stream:
        writer = csv.writer(stream)
        for axis, plans in jobs.items():
            n, kept = map(int, axis.split(":"))
            x = torch.randn(min(n, 8192), n, device="cuda")
            with torch.device("cuda"):
                exact = fk.reference.dct(x, kept)
            found = []
            failures = 0
            for i, plan in enumerate(plans):
                try:
                    times = measure(plan, x, kept, exact, flush)
                except Exception as error:
                    print(f"FAILED {plan}: {str(error)[:300]}", flush=True)
                    failures += 1
                    if failures > 5:
                        raise
                    continue
                found.append((times, plan, i == 0))
                writer.writerow([axis, "x".join(map(str, plan[1])), *plan[0][3:], i == 0, *times.values()])
            for column in ("rows", "columns", "columns back", "rows back"):
                best = sorted((f for f in found if column in f[0]), key=lambda f: f[0][column])
                print(f"\n{axis} {column}")
                for times, plan, own in [f for i, f in enumerate(best) if i < options.top or f[2]]:
                    r, (lanes, together, threads, overlaid, _, blocks) = plan[1], plan[0][3:]
                    print(
                        f"{'*' if own else ' '} {times[column]:8.1f} us  {'x'.join(map(str, r)):<14} lanes {lanes} together {together}"
                        f" threads {threads} {'overlaid' if overlaid else ''} b{blocks} error {times['error']:.1e}",
                        flush=True,
                    )
            stream.flush()


if __name__ == "__main__":
    main()
