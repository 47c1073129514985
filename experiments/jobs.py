"""Jobs, and in what order they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import measures, sources
from experiments.starts import CONTROLS, PAPER, PLUS, RANDOM, RIVALS, STARTS
from experiments.tasks import FULL, QUICK, TASKS, Size, Task, data_of
from experiments.training import train

Row = Mapping[str, str]
RATES, USUAL_RATE = (1e-3, 3e-3, 1e-2), 3e-3
SEEDS = 3
LEAD = (*RANDOM, "paper", "paper, ortho, split", "aligned", "selection", "corner, first layers")
QUICK_STARTS = (*RANDOM, "paper", "aligned", "selection", "stacking", "shuffled, aligned", "random axes")


@dataclass(frozen=True)
class Job:
    """One start of one target, trained; its fields are what tells it in the ledger."""

    task: str
    relation: str  # of the target to the source
    start: str
    seed: int
    lr: float

    def __str__(self) -> str:
        return f"{self.task}, {self.relation}: {self.start}, seed {self.seed}, lr {self.lr:g}"

    @property
    def target(self) -> Size:
        return TASKS[self.task].targets[self.relation]

    def columns(self) -> dict[str, object]:
        task = TASKS[self.task]
        return {
            "task": self.task, "source": str(task.source), "relation": self.relation, "target": str(self.target),
            "start": self.start, "seed": self.seed, "lr": self.lr, "steps": task.steps,
        }  # fmt: skip

    def run(self, cache: Path, device: str) -> dict[str, object]:
        """Its row. A start is made on the CPU."""
        began = time.perf_counter()
        task, start = TASKS[self.task], STARTS[self.start]
        source, about = sources.load(task, cache, start.refined)
        torch.manual_seed(1000 + self.seed)
        model = task.model(*self.target)
        STARTS["random"].make(source, model, 1000 + self.seed, data_of(task.load, "cpu"))
        model.load_state_dict(start.make(source, model, 1000 + self.seed, data_of(task.load, "cpu")))
        curve = train(model.to(device), data_of(task.load, device), task.steps, 2000 + self.seed, self.lr)
        return self.columns() | {
            "source id": about["id"],
            "source loss": round(about["loss"], 4),
            "source accuracy": round(about["accuracy"], 4),
            "flops per step": task.flops(*self.target),
            "other flops": self.other_flops(task),
            "seconds": round(time.perf_counter() - began, 1),
            "curve": " ".join(f"{step}:{loss:.4f}" for step, loss in curve.items()),
        }

    def other_flops(self, task: Task) -> float:
        """What the start costs: refinement's steps, and a third of a step for each batch that only goes forward."""
        start = STARTS[self.start]
        return task.flops(*task.source) * (start.batches / 3 + start.refined * task.refine_steps)


Stage = Callable[[Sequence[Row]], Iterator[Job]]


def _job(task: Task, relation: str, start: str, seed: int, rows: Sequence[Row]) -> Iterator[Job]:
    if STARTS[start].fits(task.source, task.targets[relation]):
        yield Job(task.name, relation, start, seed, measures.tuned(rows, task.name, start, RATES) or USUAL_RATE)


def _tuning(starts: Sequence[str]) -> Stage:
    """Every rate for one target per source, the first that the start is for, and one seed."""

    def stage(rows: Sequence[Row]) -> Iterator[Job]:
        for start in starts:
            for task in FULL.values():
                fits = (r for r, size in task.targets.items() if STARTS[start].fits(task.source, size))
                relation = next(fits)
                yield from (Job(task.name, relation, start, 0, lr) for lr in RATES)

    return stage


def _all(starts: Sequence[str], seeds: int, relations: slice = slice(None), tasks: Mapping[str, Task] = FULL) -> Stage:
    def stage(rows: Sequence[Row]) -> Iterator[Job]:
        count = max(len(task.targets) for task in tasks.values())
        for n in range(count)[relations]:
            for seed in range(seeds):
                for start in starts:
                    for task in tasks.values():
                        yield from _job(task, list(task.targets)[n], start, seed, rows)

    return stage


def _finalists(rows: Sequence[Row]) -> Iterator[Job]:
    """Random, the paper's recipe, the best of its variants and of FRONT+, aligned and the two best rivals, by the
    screening seed's mean loss."""
    for n in range(len(next(iter(FULL.values())).targets)):
        for task in FULL.values():
            relation = list(task.targets)[n]
            best = [
                *measures.best(rows, task.name, relation, PAPER, 1),
                *measures.best(rows, task.name, relation, PLUS, 1),
                *measures.best(rows, task.name, relation, RIVALS, 2),
            ]
            for seed in range(SEEDS):
                for start in dict.fromkeys([*RANDOM, "paper", *best, "aligned"]):
                    yield from _job(task, relation, start, seed, rows)


FIRST, OTHERS = slice(0, 1), slice(1, None)
_FOLLOWERS = tuple(name for name in STARTS if name not in LEAD and name not in CONTROLS)
LEADING: tuple[Stage, ...] = (_tuning(LEAD), _all(LEAD, SEEDS, FIRST), _all(LEAD, SEEDS, OTHERS))
SCREEN: tuple[Stage, ...] = (_tuning(_FOLLOWERS), _all(tuple(STARTS), 1))
SETS: dict[str, tuple[Stage, ...]] = {
    "quick": (_all(QUICK_STARTS, SEEDS, tasks=QUICK),),
    "lead": LEADING,
    "screen": SCREEN,
    "proof": (*LEADING, *SCREEN, _finalists),
    "full": (*LEADING, *SCREEN, _finalists, _all(tuple(STARTS), SEEDS)),
}
