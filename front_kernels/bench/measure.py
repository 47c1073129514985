"""One case by every engine and every alternative: verified, then timed in turn, as rows of the ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import front_kernels as fk

from . import problems
from .cases import Case, Row
from .clocks import Clock, CudaClock, Times
from .libraries import BUILDERS
from .peers import Peer
from .problems import Problem, problem, same_everywhere, tensor

__all__ = ["OURS", "available_memory", "measure_case", "one_line"]

OURS = "front"
SLOWEST = 5.0  # seconds of a call of an alternative that is timed
GRAPH_BYTES = 1 << 27  # of a case; the host's share of larger ones is small
Say = Callable[[str], None]


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def available_memory(device: torch.device) -> int:
    """Bytes that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def measure_case(case: Case, clock: Clock, seconds: float, peers: list[str], say: Say, wrong: list[str]) -> list[Row]:
    """Rows of ours ("front"; on a GPU also each engine) and of the peers.

    A peer that fails or is wrong is named by `say` and left out; one that is not installed also of `peers`, for good.
    So is an engine that fails, which is added to `wrong`, too; the one that is chosen must not.

    Raises:
        ArithmeticError: a result of ours is wrong; then nothing is timed.
    """
    p = problem(case, clock.device, clock.copies(case))
    begun = time.perf_counter()
    p.run(0)
    synchronize(clock.device)
    first_ms = 1e3 * (time.perf_counter() - begun)
    runs = {OURS: Peer(p.run, False, None, tensor)}
    found = {OURS: problems.verified(p)}
    for name, engine in engines(p, say, wrong).items():
        found[name] = problems.verified(p, engine.run, engine.tolerance)
        runs[name] = engine
    for name in list(peers):
        with left_out(name, case, say, peers):
            peer = BUILDERS[clock.device.type][name](case, p.inputs)
            found[name] = verified_peer(p, peer)
            runs[name] = peer
    times = clock.times(runs, len(p.inputs), seconds)
    same_everywhere(p)
    ours = times[OURS].median
    rows: list[Row] = []
    for name, taken in times.items():
        row = {"by": name, **case.columns, "full": runs[name].full, **summary(case, taken, clock), **found[name]}
        if runs[name].wait is not None:
            row["clock"] = "host"
        if name == OURS:
            row |= {"first_call_ms": round(first_ms, 1), "plan": plan_text(case, clock.device)}
            if isinstance(clock, CudaClock) and case.bytes <= GRAPH_BYTES:
                row["graph_us"] = round(clock.replay(p, seconds / 5), 2)
        else:
            row["times_front"] = round(taken.median / ours, 3)
        rows.append(row)
    return rows


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def engines(p: Problem, say: Say, wrong: list[str]) -> dict[str, Peer]:
    """What the planner decides between on a GPU; the one that it chose once more.

    One that does not take the case is named by `say` and left out; one that fails is added to `wrong`, too.
    """
    found: dict[str, Peer] = {}
    if p.outs[0].device.type != "cuda":
        return found
    for engine in fk.engines.available():

        def run(i: int, engine: str = engine) -> object:
            with fk.set_engine(engine):
                return p.run(i)

        name = f"{OURS} {engine}"
        try:
            run(0)
            synchronize(p.outs[0].device)
        except NotImplementedError as error:
            say(f"left out: {name}, {p.case}: {error}")
            continue
        except Exception as error:  # the others are still of interest
            wrong.append(f"FAILED {p.case}: {name}: {one_line(error)}")
            say(wrong[-1])
            continue
        found[name] = Peer(run, False, problems.tolerance(p.case, p.outs[0].device, engine), tensor)
    return found


@contextmanager
def left_out(name: str, case: Case, say: Say, peers: list[str]) -> Iterator[None]:
    """Says why a peer has no row; one that is not installed is not asked again."""
    try:
        yield
    except NotImplementedError as error:
        say(f"left out: {name}, {case}: {error}")
    except ImportError as error:
        say(f"left out from here on: {name}: {error}")
        if name in peers:
            peers.remove(name)
    except Exception as error:  # of other people's code: of any kind
        say(f"left out: {name}, {case}: {one_line(error)}")


def verified_peer(p: Problem, peer: Peer) -> dict[str, object]:
    result, seconds = timed(peer)
    if seconds > SLOWEST:  # the first call may compile or plan
        result, seconds = timed(peer)
    if seconds > SLOWEST:
        raise NotImplementedError(f"a call takes {seconds:.1f} s, more than {SLOWEST:g} s")
    relative, element = p.errors(result)
    if not relative <= (math.inf if peer.tolerance is None else peer.tolerance):
        raise ArithmeticError(f"wrong: relative L2 error {relative:.2g} (allowed {peer.tolerance:.2g})")
    eps = torch.finfo(p.outs[0].dtype).eps
    return {"relative_error": f"{relative:.2g}", "element_error": f"{element / eps:.1f}"}


def timed(peer: Peer) -> tuple[Tensor, float]:
    """A result, and seconds until it is there."""
    begun = time.perf_counter()
    result = peer.tensor(peer.run(0))
    synchronize(result.device)
    return result, time.perf_counter() - begun


def summary(case: Case, times: Times, clock: Clock) -> dict[str, object]:
    us = times.median
    low, high = times.percentiles()
    limit = case.bytes / clock.bytes_per_us
    row: dict[str, object] = {
        "us": round(us, 2),
        "us_20": round(low, 2),
        "us_80": round(high, 2),
        "host_us": "" if math.isnan(times.host_us) else round(times.host_us, 1),
        "gb_s": float(f"{case.bytes / us / 1e3:.4g}"),
        "tflop_s": float(f"{case.flops / us / 1e6:.4g}"),
        "limit_us": round(limit, 2),
        "percent_of_limit": round(100 * limit / us, 1),
    }
    if case.two_pass_bytes is not None:
        passes = case.two_pass_bytes / clock.bytes_per_us
        row |= {"two_passes_us": round(passes, 2), "percent_of_two_passes": round(100 * passes / us, 1)}
    return row


def plan_text(case: Case, device: torch.device) -> str:
    """How a crop or padding is computed, in words; the reason where no plan can be told."""
    if case.op not in ("dct_crop", "idct_pad"):
        return ""
    try:
        plan = fk.plan_for(
            case.size, case.kept, getattr(torch, case.dtype), inverse=case.op == "idct_pad", device=device
        )
    except Exception as error:  # the time is of interest all the same
        return one_line(error)
    return str(plan["text"]).replace("\n", "; ")
