"""Jobs, and in what order they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from experiments import measures, sources
from experiments.starts import PAPER, PLUS, RANDOM, RIVALS, STARTS
from experiments.tasks import FULL, QUICK, TASKS, Size, Task, data_of
from experiments.training import train, train_together

Row = Mapping[str, str]
SEEDS = 3
QUICK_SEEDS = 2  # of the quick set, whose orderings each seed shows
SHORT = 5  # a short run is the first of so many parts of a whole one
LEAD = (*RANDOM, "paper", "paper, ortho, split", "aligned", "selection", "corner, first layers")
QUICK_STARTS = (
    *RANDOM, "paper", "aligned", "selection", "stacking", "shuffled, aligned", "random axes",
    "residual axis, not aligned",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One start of one target, trained; its fields are what tells it in the ledger."""

    task: str
    relation: str  # of the target to the source
    start: str
    seed: int
    lr: float
    short: bool = False

    def __str__(self) -> str:
        few = f", {self.steps} steps" if self.short else ""
        return f"{self.task}, {self.relation}: {self.start}, seed {self.seed}, lr {self.lr:g}{few}"

    @property
    def target(self) -> Size:
        return TASKS[self.task].targets[self.relation]

    @property
    def steps(self) -> int:
        steps = TASKS[self.task].steps
        return steps // SHORT if self.short else steps

    def columns(self) -> dict[str, object]:
        task = TASKS[self.task]
        return {
            "task": self.task, "source": str(task.source), "relation": self.relation, "target": str(self.target),
            "start": self.start, "seed": self.seed, "lr": self.lr, "steps": self.steps,
        }  # fmt: skip

    def together(self) -> tuple[object, ...]:
        """What jobs that are trained as one stack have in common."""
        return self.task, self.relation, self.lr, self.short, STARTS[self.start].refined

    def started(self, cache: Path) -> tuple[nn.Module, dict[str, object]]:
        """The model, and of the row what is known before it is trained. Starts are made on the CPU."""
        task, start = TASKS[self.task], STARTS[self.start]
        source, about = sources.load(task, cache, start.refined)
        model, seed = task.model(*self.target), 1000 + self.seed
        STARTS["random"].make(source, model, seed, data_of(task.load, "cpu"))
        model.load_state_dict(start.make(source, model, seed, data_of(task.load, "cpu")))
        return model, self.columns() | {
            **sources.lineage(task, cache),
            "source id": about["id"],
            "source loss": round(about["loss"], 4),
            "source accuracy": round(about["accuracy"], 4),
            "flops per step": task.flops(*self.target),
            # Refinement's steps, and a third of a step for each batch that only goes forward.
            "other flops": task.flops(*task.source) * (start.batches / 3 + start.refined * task.refine_steps),
        }


def run(jobs: Sequence[Job], cache: Path, device: str) -> list[dict[str, object]]:
    """Their rows; several have the same `together`."""
    began = time.perf_counter()
    task, end, lr, seeds = TASKS[jobs[0].task], jobs[0].steps, jobs[0].lr, [2000 + job.seed for job in jobs]
    started = [job.started(cache) for job in jobs]
    models, data = [model.to(device) for model, _ in started], data_of(task.load, device)
    if len(jobs) == 1:
        curves = [train(models[0], data, task.steps, seeds[0], lr, dtype=task.dtype, end=end)]
    else:
        curves = train_together(models, data, task.steps, seeds, lr, task.dtype, end)
    seconds = round((time.perf_counter() - began) / len(jobs), 2)
    return [
        row | {"seconds": seconds, "curve": " ".join(f"{step}:{loss:.4f}" for step, loss in curve.items())}
        for (_, row), curve in zip(started, curves, strict=True)
    ]


Stage = Callable[[Sequence[Row]], Iterator[Job]]


def _job(task: Task, relation: str, start: str, seed: int, rows: Sequence[Row]) -> Iterator[Job]:
    if STARTS[start].fits(task.source, task.targets[relation]) and _tried(task, start):
        yield Job(task.name, relation, start, seed, measures.tuned(rows, task.name, start, task.rates) or task.rates[1])


def _tried(task: Task, start: str) -> bool:
    return task.screened or start in LEAD


def _tuning(starts: Iterable[str], tasks: Mapping[str, Task], short: bool = False) -> Stage:
    """Every rate for one target per source, the first that the start is for, and one seed."""

    def stage(rows: Sequence[Row]) -> Iterator[Job]:
        for start in starts:
            for task in tasks.values():
                fits = (r for r, size in task.targets.items() if STARTS[start].fits(task.source, size))
                if _tried(task, start):
                    relation = next(fits)
                    yield from (Job(task.name, relation, start, 0, lr, short) for lr in task.rates)

    return stage


def _all(starts: Sequence[str], seeds: int, tasks: Mapping[str, Task], relations: slice = slice(None)) -> Stage:
    def stage(rows: Sequence[Row]) -> Iterator[Job]:
        count = max(len(task.targets) for task in tasks.values())
        for n in range(count)[relations]:
            for seed in range(seeds):
                for start in starts:
                    for task in tasks.values():
                        yield from _job(task, list(task.targets)[n], start, seed, rows)

    return stage


def _finalists(tasks: Mapping[str, Task], relations: slice = slice(None)) -> Stage:
    """Random, the paper's recipe, the best of its variants and of FRONT+, aligned and the two best rivals, by the
    screening seed's mean loss."""

    def stage(rows: Sequence[Row]) -> Iterator[Job]:
        for n in range(len(next(iter(tasks.values())).targets))[relations]:
            for task in tasks.values():
                relation = list(task.targets)[n]
                best = [
                    *measures.best(rows, task.name, relation, PAPER, 1),
                    *measures.best(rows, task.name, relation, PLUS, 1),
                    *measures.best(rows, task.name, relation, RIVALS, 2),
                ]
                for seed in range(SEEDS):
                    for start in dict.fromkeys([*RANDOM, "paper", *best, "aligned"]):
                        yield from _job(task, relation, start, seed, rows)

    return stage


FIRST, OTHERS = slice(0, 1), slice(1, None)
_FOLLOWERS = tuple(name for name in STARTS if name not in LEAD)


def sets(full: Mapping[str, Task], quick: Mapping[str, Task]) -> dict[str, tuple[Stage, ...]]:
    leading = (_tuning(LEAD, full), _all(LEAD, SEEDS, full, FIRST), _all(LEAD, SEEDS, full, OTHERS))
    tuning = (_tuning(LEAD, full), _tuning(_FOLLOWERS, full))
    # By the first fifth of the committed ledger's curves the same rate is chosen as by all of them for 54 of 70 starts
    # and targets, and the same finalists but for one of language's two rivals.
    screening = (_tuning(RANDOM, full), _tuning([name for name in STARTS if name not in RANDOM], full, short=True))
    every = tuple(STARTS)
    return {
        "quick": (_all(QUICK_STARTS, QUICK_SEEDS, quick),),
        "lead": leading,
        "proof": (*screening, _finalists(full, FIRST)),
        "full": (*leading, *tuning, _all(every, 1, full), _finalists(full), _all(every, SEEDS, full)),
    }


SETS = sets(FULL, QUICK)
