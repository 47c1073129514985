"""Jobs in processes; what is finished is in the ledger at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import torch

from experiments import sources
from experiments.jobs import Job, Stage
from experiments.jobs import run as run_jobs
from experiments.measures import lineage
from experiments.starts import STARTS
from experiments.tasks import TASKS, data_of
from front_kernels.bench import ledger

# What tells a job from others of the same data and source.
KEY = ("task", "source", "target", "start", "seed", "lr", "steps")
Need = tuple[str, bool]  # a task, and whether its source is the refined one
Unit = list[Job] | Need  # what one process does at a time


def key_of(row: dict[str, object] | dict[str, str]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in KEY)


def needs(unit: Unit) -> list[Need]:
    if isinstance(unit, list):
        return [(unit[0].task, STARTS[unit[0].start].refined)]
    return []


def units(jobs: Sequence[Job], stack: int) -> list[Unit]:
    """Jobs that are trained as one stack, in the order of the first of each."""
    alike: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.together(), []).append(job)
    place = {job: i for i, job in enumerate(jobs)}
    parts = [group[i : i + stack] for group in alike.values() for i in range(0, len(group), stack)]
    parts.sort(key=lambda part: place[part[0]])
    return [*parts]


def _work(unit: Unit, cache: Path, device: str) -> list[dict[str, object]]:
    if isinstance(unit, list):
        return run_jobs(unit, cache, device)
    sources.prepare(TASKS[unit[0]], cache, unit[1], device)
    return []


def run(
    stages: Sequence[Stage], path: Path, cache: Path, pool: Executor, *, only: Callable[[Job], bool],
    device: str, workers: int, stack: int, until: float, say: Callable[[str], None],
) -> bool:  # fmt: skip
    """Whether all were done, none beginning after `until` (time.monotonic). Sources are trained first: only rows of the
    same data and source are gone on with, and planned by."""
    common = ledger.run_columns(torch.device(device)) | {"stack": stack}

    def finish(waiting: list[Unit], count: int) -> bool:
        whole, finished = True, 0
        missing = {unit for unit in waiting if isinstance(unit, tuple)}
        running: dict[Future[list[dict[str, object]]], Unit] = {}
        while waiting or running:
            while waiting and len(running) < workers and time.monotonic() < until:
                ready = next((unit for unit in waiting if missing.isdisjoint(needs(unit))), None)
                if ready is None:
                    break
                waiting.remove(ready)
                running[pool.submit(_work, ready, cache, device)] = ready
            if not running:
                return False
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                if error := future.exception():
                    say(f"{_name(unit)} failed: {type(error).__name__}: {error}")
                    whole = False
                elif isinstance(unit, tuple):
                    missing.discard(unit)
                    say(_name(unit))
                else:
                    made = future.result()
                    ledger.append([row | common for row in made], path)
                    for job, row in zip(unit, made, strict=True):
                        finished += 1
                        losses = str(row["curve"]).split()
                        say(f"{finished}/{count} {job}: {losses[0]} {losses[-1]}, {row['seconds']} s")
        return whole

    failed: set[str] = set()

    def readable(task: str) -> bool:
        """Whether its data are there: others go on without it."""
        if task not in failed:
            try:
                data_of(TASKS[task].load, "cpu")
            except Exception as error:
                failed.add(task)
                say(f"{task} failed: {type(error).__name__}: {error}")
        return task not in failed

    whole = True
    for stage in stages:
        tasks = [name for name in dict.fromkeys(job.task for job in stage(()) if only(job)) if readable(name)]
        whole &= finish([(name, False) for name in tasks if not _trained(name, cache)], 0)
        own = {name: tuple(sources.lineage(TASKS[name], cache).values()) for name in tasks if _trained(name, cache)}
        rows = [row for row in ledger.read(path) if own.get(row["task"]) == lineage(row)]
        done = {key_of(row) for row in rows}
        wanted = [job for job in dict.fromkeys(stage(rows)) if only(job) and job.task in own]
        jobs = [job for job in wanted if key_of(job.columns()) not in done]
        whole &= finish([*_refinements(jobs, cache), *units(jobs, stack)], len(jobs))
    return whole and not failed


def _trained(task: str, cache: Path) -> bool:
    return sources.path_of(TASKS[task], cache, refined=False).exists()


def _name(unit: Unit) -> str:
    if isinstance(unit, tuple):
        return f"source of {unit[0]}{', refined' if unit[1] else ''}"
    return str(unit[0]) + (f", and {len(unit) - 1} more" if len(unit) > 1 else "")


def _refinements(jobs: Sequence[Job], cache: Path) -> list[Unit]:
    """Refined sources that are not there."""
    wanted = dict.fromkeys(need for job in jobs for need in needs([job]) if need[1])
    return [need for need in wanted if not sources.path_of(TASKS[need[0]], cache, need[1]).exists()]
