"""CUDA ops against the alternatives: `python bench/gpu.py [--cases "8192x8192 -> 1024" ...]`, on an idle GPU.

Every result, ours and the peers', is compared with the definition in float64 before it is timed. Times are medians by
CUDA events, into `out=` where an op has it, over enough copies of the input that none is in the cache, with a long
copy in front that keeps the GPU busy until all calls are queued; so the host's share is not in them: `host us` is what
a call takes of it. What runs on streams of its own (jax) is timed by the host's clock, many calls at once.

`limit`: one read of the input and one write of the output at the bandwidth of a large copy, counting what it reads and
what it writes. `2 passes`: the same with the rows x k1 intermediate written and read. Appends a row per case and
implementation to bench/results/gpu.csv. Exit status 1 if a result of ours is wrong.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import front_kernels as fk
import gpu_ledger
from gpu_ledger import CASES, OURS, Case, Row
from gpu_peers import BUILDERS, Peer, release

TOLERANCE = {"float32": 1e-6, "bfloat16": 2.0**-8}  # relative L2 error of a matrix; 1e-6 is that of products
ELEMENT = 16  # times that: of the worst element, relative to it or to the root mean square
FILLER = 1 << 30  # bytes of the copy that keeps the GPU busy, and whose bandwidth is the limit
CALLS = 10  # queued behind it
COPIES = 128  # at most
Result = dict[str, object]


@dataclass(frozen=True)
class Problem:
    case: Case
    inputs: list[Tensor]  # copies of one input [m, n] or [count, m, n]
    outs: list[Tensor]
    exact: Tensor  # float64

    def run(self, i: int) -> Tensor | list[Tensor]:
        """The op on copy i, into outs[i] where it has out=."""
        case, x, out = self.case, self.inputs[i], self.outs[i]
        if case.op == "dct_crop":
            return fk.dct_crop(x, case.kept, out=out)
        if case.op == "idct_pad":
            return fk.idct_pad(x, case.size, out=out)
        if case.op == "dct_resize":
            return fk.dct_resize(x, case.result, k=case.kept, out=out)
        if case.op == "lowpass":
            return fk.lowpass(x, case.kept)
        assert case.op == "dct_crop_many", case.op
        return fk.dct_crop_many(list(x.unbind()), case.kept)


def problem(case: Case, device: torch.device, copies: int) -> Problem:
    batch = (case.count,) if case.count > 1 else ()
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, case.dtype)
    x = torch.randn((*batch, *case.source), device=device, generator=generator).to(dtype)
    outs = [torch.full((*batch, *case.result), math.nan, dtype=dtype, device=device) for _ in range(copies)]
    return Problem(case, [x, *(x.clone() for _ in range(copies - 1))], outs, exact(case, x))


def exact(case: Case, x: Tensor) -> Tensor:
    """By the definition, two products with the basis in float64, where x is."""
    with torch.device(x.device):
        if case.op in ("dct_crop", "dct_crop_many"):
            return fk.reference.dct_crop(x, case.kept)
        if case.op == "idct_pad":
            return fk.reference.idct_pad(x, case.size)
        return fk.reference.dct_resize(x, case.result, k=case.kept)


def errors(result: Tensor, exact: Tensor) -> tuple[float, float]:
    """Of the worst matrix the relative L2 error, of the worst element |difference| / max(|exact|, rms)."""
    if result.shape != exact.shape:
        raise ArithmeticError(f"wrong shape {tuple(result.shape)}, expected {tuple(exact.shape)}")
    difference = (result.double() - exact).abs()
    rms = exact.square().mean((-2, -1), keepdim=True).sqrt()
    relative = difference.square().mean((-2, -1), keepdim=True).sqrt() / rms
    return float(relative.max()), float((difference / torch.maximum(exact.abs(), rms)).max())


def tensor(result: Tensor | Sequence[Tensor]) -> Tensor:
    return result if isinstance(result, Tensor) else torch.stack(list(result))


def verified(p: Problem) -> Result:
    """The errors of the op's first copy; ArithmeticError if it is wrong."""
    relative, element = errors(tensor(p.run(0)), p.exact)
    limit = TOLERANCE[p.case.dtype]
    if not (relative <= limit and element <= ELEMENT * limit):
        raise ArithmeticError(f"wrong: relative L2 error {relative:.2g}, of the worst element {element:.2g}")
    eps = torch.finfo(getattr(torch, p.case.dtype)).eps
    return {"relative_error": f"{relative:.2g}", "element_error": f"{element / eps:.1f}"}


def same_everywhere(p: Problem) -> None:
    """All copies give the same bits; ArithmeticError if not."""
    expected = tensor(p.run(0)).clone()
    for i in range(len(p.inputs)):
        if not torch.equal(tensor(p.run(i)), expected):
            raise ArithmeticError(f"wrong: the result of copy {i} is not that of copy 0")


def copies_for(case: Case, cache_bytes: int) -> int:
    """How many copies make four times the cache."""
    return min(COPIES, max(2, math.ceil(4 * cache_bytes / case.bytes)))


class Clock:
    """Times work that is queued behind a long copy."""

    def __init__(self, device: torch.device) -> None:
        self.source = torch.zeros(FILLER, dtype=torch.uint8, device=device)
        self.target = torch.empty_like(self.source)
        self.copy_us = 1.0
        copies = self.between_events([lambda: self.target.copy_(self.source)] * 30, busy_us=1.0)
        self.copy_us = statistics.median(copies[5:])
        self.bytes_per_us = 2 * FILLER / self.copy_us

    def between_events(self, calls: Sequence[Callable[[], object]], busy_us: float) -> list[float]:
        """Microseconds of each call on the GPU."""
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in calls]
        for _ in range(min(50, math.ceil(busy_us / self.copy_us))):
            self.target.copy_(self.source)
        for call, (begin, end) in zip(calls, events, strict=True):
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [1e3 * begin.elapsed_time(end) for begin, end in events]

    def by_events(self, run: Callable[[int], object], copies: int, seconds: float) -> tuple[list[float], float]:
        """Times of at least 5 calls within about `seconds`, and the host's microseconds of a call."""
        for i in range(3):
            run(i % copies)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for i in range(CALLS):
            run(i % copies)
        host_us = 1e6 * (time.perf_counter() - begun) / CALLS
        torch.cuda.synchronize()
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 5 or (len(times) < 200 and time.perf_counter() - begun < seconds):
            calls = [functools.partial(run, (len(times) + j) % copies) for j in range(CALLS)]
            times += self.between_events(calls, busy_us=1.5 * CALLS * host_us + 100)
        return times, host_us

    def by_host(
        self, run: Callable[[int], object], wait: Callable[[Any], object], copies: int, seconds: float
    ) -> tuple[list[float], float]:
        """Times of a call, CALLS of them at once: of what runs on streams of its own. The host's share is in them."""
        wait(run(0))
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < 5 or (len(times) < 40 and time.perf_counter() - started < seconds):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for result in [run(j % copies) for j in range(CALLS)]:
                wait(result)
            times.append(1e6 * (time.perf_counter() - begun) / CALLS)
        return times, math.nan

    def replay(self, p: Problem, seconds: float) -> float:
        """Microseconds of a call in a CUDA graph of one call per copy, each into a result of its own."""
        expected = tensor(p.run(0)).clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [p.run(i) for i in range(len(p.inputs))]
        for result in results:
            for out in [result] if isinstance(result, Tensor) else result:
                out.fill_(math.nan)
        graph.replay()
        if not all(torch.equal(tensor(result), expected) for result in results):
            raise ArithmeticError("wrong: a replayed graph gives another result")
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 5 or (len(times) < 50 and time.perf_counter() - begun < seconds):
            times += self.between_events([graph.replay] * 5, busy_us=1000)
        return statistics.median(times) / len(results)


def summary(case: Case, by: str, full: bool, times: list[float], host_us: float) -> Result:
    median = statistics.median(times)
    low, _, _, high = statistics.quantiles(times, n=5)
    return {
        "by": by,
        **case.columns,
        "full": full,
        "us": round(median, 2),
        "us_20": round(low, 2),
        "us_80": round(high, 2),
        "host_us": "" if math.isnan(host_us) else round(host_us, 1),
        "gb_s": round(case.bytes / median / 1e3, 1),
    }


def limits(case: Case, us: float, bytes_per_us: float) -> Result:
    limit = case.bytes / bytes_per_us
    found: Result = {"limit_us": round(limit, 2), "percent_of_limit": round(100 * limit / us, 1)}
    if case.two_pass_bytes is not None:
        passes = case.two_pass_bytes / bytes_per_us
        found |= {"two_passes_us": round(passes, 2), "percent_of_two_passes": round(100 * passes / us, 1)}
    return found


def plan_text(case: Case) -> str:
    """How the engine computes it, where plan_for knows CUDA."""
    if "device" not in inspect.signature(fk.plan_for).parameters:
        return ""
    options: dict[str, Any] = {"inverse": case.op == "idct_pad", "device": "cuda"}
    try:
        plan = fk.plan_for(case.size, case.kept, getattr(torch, case.dtype), **options)
    except Exception as error:  # the time is of interest all the same
        return one_line(error)
    return str(plan["text"]).replace("\n", "; ")


def measure_ours(p: Problem, clock: Clock, seconds: float) -> Result:
    begun = time.perf_counter()
    p.run(0)
    torch.cuda.synchronize()
    first_ms = 1e3 * (time.perf_counter() - begun)
    found = verified(p)
    times, host_us = clock.by_events(p.run, len(p.inputs), seconds)
    same_everywhere(p)
    row = summary(p.case, OURS, False, times, host_us)
    row |= limits(p.case, statistics.median(times), clock.bytes_per_us)
    row |= {"first_call_ms": round(first_ms, 1), "plan": plan_text(p.case), **found}
    if p.case.small:
        row["graph_us"] = round(clock.replay(p, seconds), 2)
    return row


def measure_peer(name: str, peer: Peer, p: Problem, clock: Clock, seconds: float) -> Result:
    relative, _ = errors(peer.tensor(peer.run(0)), p.exact)
    if not relative <= (math.inf if peer.tolerance is None else peer.tolerance):
        raise ArithmeticError(f"wrong: relative L2 error {relative:.2g}")
    if peer.wait is None:
        times, host_us = clock.by_events(peer.run, len(p.inputs), seconds)
    else:
        times, host_us = clock.by_host(peer.run, peer.wait, len(p.inputs), seconds)
    row = summary(p.case, name, peer.full, times, host_us) | limits(
        p.case, statistics.median(times), clock.bytes_per_us
    )
    return row | {"relative_error": f"{relative:.2g}", "clock": "events" if peer.wait is None else "host"}


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def measure_case(case: Case, clock: Clock, cache_bytes: int, seconds: float, peers: list[str]) -> list[Result]:
    """Rows of ours and of the peers; a peer that fails is named and left out, one that is not installed for good."""
    p = problem(case, clock.source.device, copies_for(case, cache_bytes))
    ours = measure_ours(p, clock, seconds)
    rows = [ours]
    for engine in fk.engines.available() if p.inputs[0].is_cuda else ():
        # What the planner decided between; the one that it chose once more.
        try:
            with fk.set_engine(engine):
                peer = Peer(p.run, False, TOLERANCE[case.dtype], tensor)
                row = measure_peer(f"front {engine}", peer, p, clock, seconds)
        except Exception as error:
            print(f"  front {engine}, {case}: {one_line(error)}", flush=True)
            continue
        rows.append(row | {"times_front": round(float(str(row["us"])) / float(str(ours["us"])), 2)})
    for name in list(peers):
        try:
            row = measure_peer(name, BUILDERS[name](case, p.inputs), p, clock, seconds)
        except Exception as error:  # of other people's code: of any kind
            print(f"  {name}, {case}: {one_line(error)}", flush=True)
            if isinstance(error, ImportError):
                peers.remove(name)
            continue
        rows.append(row | {"times_front": round(float(str(row["us"])) / float(str(ours["us"])), 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=gpu_ledger.LEDGER)
    parser.add_argument("--cases", nargs="*", default=[""], help="only those whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=0.2, help="time spent on timing one implementation of a case")
    parser.add_argument("--deadline", type=float, default=240, help="seconds after which cases run without peers")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    started = time.perf_counter()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: torch.cuda.is_available() is false")
    if not fk.build_info()["cuda"]:
        raise SystemExit("front_kernels was built without CUDA: FRONT_CUDA=1 pip install --no-build-isolation -e .")
    cases = [case for case in CASES if any(text in str(case) for text in options.cases)]
    if not cases:
        parser.error(f"--cases must name one of: {', '.join(map(str, CASES))}")
    properties = torch.cuda.get_device_properties(0)
    clock = Clock(torch.device("cuda", 0))
    run = gpu_ledger.run_columns(properties.name, torch.__version__, str(torch.version.cuda))
    run |= {"copy_gb_s": round(clock.bytes_per_us / 1e3), "l2_mb": properties.L2_cache_size >> 20}
    print(", ".join(f"{name} {value}" for name, value in run.items() if value != ""), flush=True)

    peers, rows, wrong = [] if options.no_peers else list(BUILDERS), list[Row](), list[str]()
    for case in cases:
        if peers and time.perf_counter() - started > options.deadline:
            print(f"  {options.deadline:g} s are over: no peers from here on")
            peers = []
        try:
            found = measure_case(case, clock, properties.L2_cache_size, options.seconds, peers)
            gpu_ledger.append([run | row for row in found], options.csv)
            rows += found
            print(f"{case}: {found[0]['us']} us, {found[0]['percent_of_limit']} % of the limit", flush=True)
        except Exception as error:  # the other cases are still of interest
            wrong.append(f"{case}: {one_line(error)}")
            print(f"FAILED {wrong[-1]}", flush=True)
        try:
            release()
            torch.cuda.synchronize()
        except Exception as error:
            wrong.append(f"the device, after {case}: {one_line(error)}")
            break  # nothing runs in this process any more
    report(rows, wrong, str(properties.name))


def report(rows: list[Row], wrong: list[str], device: str) -> None:
    print(f"\n{gpu_ledger.our_table(rows)}\n\n{gpu_ledger.peer_table(rows)}")
    print("* computes every coefficient; jax by the host's clock, the host's share included")
    print(f"\nFigures to reach (set for an H200; this is {device}):")
    for verdict in gpu_ledger.figures(rows):
        print(f"  {verdict}")
    for line in wrong:
        print(f"FAILED {line}")
    if wrong or not rows:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
