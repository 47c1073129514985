"""Jobs in processes; what is finished is in the ledger at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import torch

from experiments import sources
from experiments.jobs import Job, Stage
from experiments.starts import STARTS
from experiments.tasks import TASKS
from front_kernels.bench import ledger

KEY = ("task", "source", "target", "start", "seed", "lr", "steps")
Need = tuple[str, bool]  # a task, and whether its source is the refined one


def key_of(row: dict[str, object] | dict[str, str]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in KEY)


def needs(job: Job | Need) -> list[Need]:
    if isinstance(job, Job):
        return [(job.task, STARTS[job.start].refined)]
    return [(job[0], False)] if job[1] else []


def _work(job: Job | Need, cache: Path, device: str) -> dict[str, object]:
    if isinstance(job, Job):
        return job.run(cache, device)
    sources.prepare(TASKS[job[0]], cache, job[1], device)
    return {}


def run(
    stages: Sequence[Stage], path: Path, cache: Path, pool: Executor, *,
    only: Callable[[Job], bool], device: str, workers: int, until: float, say: Callable[[str], None],
) -> bool:  # fmt: skip
    """Whether all were done, none beginning after `until` (time.monotonic)."""
    common = ledger.run_columns(torch.device(device))
    whole = True
    for stage in stages:
        rows = ledger.read(path)
        done = {key_of(row) for row in rows}
        jobs = [job for job in dict.fromkeys(stage(rows)) if only(job) and key_of(job.columns()) not in done]
        whole = _stage(pool, jobs, path, cache, common, device, workers, until, say) and whole
    return whole


def _stage(
    pool: Executor, jobs: list[Job], path: Path, cache: Path, common: dict[str, object],
    device: str, workers: int, until: float, say: Callable[[str], None],
) -> bool:  # fmt: skip
    waiting: list[Job | Need] = [*_preparations(jobs, cache), *jobs]
    missing = {each for each in waiting if not isinstance(each, Job)}
    running: dict[Future[dict[str, object]], Job | Need] = {}
    finished, failed = 0, False
    while waiting or running:
        while waiting and len(running) < workers and time.monotonic() < until:
            ready = next((each for each in waiting if missing.isdisjoint(needs(each))), None)
            if ready is None:
                break
            waiting.remove(ready)
            running[pool.submit(_work, ready, cache, device)] = ready
        if not running:
            return False
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            each = running.pop(future)
            if error := future.exception():
                say(f"{each} failed: {type(error).__name__}: {error}")
                failed = True
                continue
            row = future.result()
            if isinstance(each, Job):
                ledger.append([row | common], path)
                finished += 1
                losses = str(row["curve"]).split()
                say(f"{finished}/{len(jobs)} {each}: {losses[0]} {losses[-1]}, {row['seconds']} s")
            else:
                missing.discard(each)
                say(f"source of {each[0]}{', refined' if each[1] else ''}")
    return not failed


def _preparations(jobs: Sequence[Job], cache: Path) -> list[Need]:
    """Sources that are not there: the trained ones first."""
    wanted = dict.fromkeys(need for job in jobs for need in needs(job))
    every = dict.fromkeys([need for each in wanted for need in needs(each)] + list(wanted))
    return [need for need in every if not sources.path_of(TASKS[need[0]], cache, need[1]).exists()]
