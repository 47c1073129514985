"""Clocks: times of several implementations of one case, taken in turn, and the bandwidth of a copy."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .cases import Case
from .peers import Peer
from .problems import Problem, copies_for, tensor

__all__ = ["Clock", "CpuClock", "CudaClock", "Times", "in_turn"]

LEAST = 5  # times of each implementation, whatever that takes
WARM = 0.01  # seconds of calls before those that are timed: what was evicted is not back in the caches after one call
LONG = 0.1  # seconds of a call that needs none before it


@dataclass
class Times:
    us: list[float] = field(default_factory=list)
    host_us: float = math.nan  # what a call takes of the host

    @property
    def median(self) -> float:
        return statistics.median(self.us)

    def percentiles(self) -> tuple[float, float]:
        """20 % and 80 %."""
        low, _, _, high = statistics.quantiles(self.us, n=5)
        return low, high


class Clock(Protocol):
    device: torch.device
    bytes_per_us: float  # of a large copy, counting what it reads and what it writes

    def copies(self, case: Case) -> int:
        """How many copies of a case's tensors calls go round."""

    def times(self, runs: Mapping[str, Peer], copies: int, seconds: float) -> dict[str, Times]: ...


def in_turn(runs: Mapping[str, Callable[[], object]], seconds: float, *, warm: float = WARM) -> dict[str, list[float]]:
    """Seconds of calls, by the host's clock: in every round `warm` seconds of each, or one, after as many that fill the
    caches again, which the others have emptied; at least five rounds, and until `seconds` are over."""
    rounds, collects = 0, gc.isenabled()
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    gc.disable()  # as timeit does
    try:
        with torch.inference_mode():
            while rounds < LEAST or time.perf_counter() - started < seconds:
                rounds += 1
                for name, run in runs.items():
                    if not times[name] or times[name][-1] < LONG:
                        _seconds(run, warm)
                    times[name] += _seconds(run, warm)
    finally:
        if collects:
            gc.enable()
    return times


def _seconds(run: Callable[[], object], limit: float) -> list[float]:
    """Of each call, until the limit is over."""
    ends = [time.perf_counter()]
    while len(ends) == 1 or ends[-1] - ends[0] < limit:
        run()
        ends.append(time.perf_counter())
    return [b - a for a, b in itertools.pairwise(ends)]


class CpuClock:
    """The host's; calls are warm: what fits the caches is in them."""

    COPIED, SECONDS = 1 << 28, 0.5  # bytes of the copy that is the limit, and how long it is repeated

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        source = torch.ones(self.COPIED, dtype=torch.uint8)
        target = torch.ones_like(source)
        copies = in_turn({"copy": lambda: target.copy_(source)}, self.SECONDS)["copy"]
        self.bytes_per_us = 2 * self.COPIED / (1e6 * statistics.median(copies))

    def copies(self, case: Case) -> int:
        return 1

    def times(self, runs: Mapping[str, Peer], copies: int, seconds: float) -> dict[str, Times]:
        calls = {name: functools.partial(peer.run, 0) for name, peer in runs.items()}
        return {name: Times([1e6 * t for t in found]) for name, found in in_turn(calls, seconds).items()}


class CudaClock:
    """CUDA events around calls that are queued behind a long copy, so that the host's share is not in the times; over
    so many copies of the tensors that none is in the cache. What runs on streams of its own is timed by the host's."""

    FILLER = 1 << 30  # bytes of the copy that keeps the GPU busy, and whose bandwidth is the limit
    CALLS = 10  # queued behind it
    ROUNDS = 20  # at most

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.source = torch.zeros(self.FILLER, dtype=torch.uint8, device=device)
        self.target = torch.empty_like(self.source)
        self.copy_us = 1.0
        copies = self.between_events([lambda: self.target.copy_(self.source)] * 30, busy_us=1.0)
        self.copy_us = statistics.median(copies[5:])
        self.bytes_per_us = 2 * self.FILLER / self.copy_us

    def copies(self, case: Case) -> int:
        return copies_for(case, self.cache_bytes)

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

    def times(self, runs: Mapping[str, Peer], copies: int, seconds: float) -> dict[str, Times]:
        found = {name: Times() for name in runs}
        for name, peer in runs.items():
            self.warm(peer, copies)
            if peer.wait is None:
                found[name].host_us = self.host_us(peer, copies)
        begun, rounds = time.perf_counter(), 0
        while rounds < LEAST or (rounds < self.ROUNDS and time.perf_counter() - begun < seconds):
            for name, peer in runs.items():
                times = found[name]
                calls = [functools.partial(peer.run, (rounds * self.CALLS + j) % copies) for j in range(self.CALLS)]
                if peer.wait is None:
                    times.us += self.between_events(calls, busy_us=1.5 * self.CALLS * times.host_us + 100)
                else:
                    times.us.append(self.by_host(calls, peer.wait))
            rounds += 1
        return found

    def warm(self, peer: Peer, copies: int) -> None:
        for i in range(3):
            result = peer.run(i % copies)
            if peer.wait is not None:
                peer.wait(result)
        torch.cuda.synchronize()

    def host_us(self, peer: Peer, copies: int) -> float:
        begun = time.perf_counter()
        for i in range(self.CALLS):
            peer.run(i % copies)
        us = 1e6 * (time.perf_counter() - begun) / self.CALLS
        torch.cuda.synchronize()
        return us

    def by_host(self, calls: Sequence[Callable[[], Any]], wait: Callable[[Any], object]) -> float:
        """Microseconds of a call, all at once; the host's share is in them."""
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for result in [call() for call in calls]:
            wait(result)
        return 1e6 * (time.perf_counter() - begun) / len(calls)

    def replay(self, p: Problem, seconds: float) -> float:
        """Microseconds of a call in a CUDA graph of one call per copy, each into a result of its own."""
        expected = tensor(p.run(0)).clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [p.run(i) for i in range(len(p.inputs))]
        for result in results:
            for out in [result] if isinstance(result, torch.Tensor) else result:
                out.fill_(math.nan)
        graph.replay()
        if not all(torch.equal(tensor(result), expected) for result in results):
            raise ArithmeticError("wrong: a replayed graph gives another result")
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < LEAST or (len(times) < 50 and time.perf_counter() - begun < seconds):
            times += self.between_events([graph.replay] * 5, busy_us=1000)
        return statistics.median(times) / len(results)
