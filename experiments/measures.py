"""What the ledger's rows say: steps and floating-point operations to the random start's last loss, and more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.starts import RANDOM
from experiments.training import Curve

Row = Mapping[str, str]
USUAL = "random"  # what models are started with by default
FIRST_STEP = 5  # what is there before any step counts as this many: the first that is validated


@dataclass(frozen=True)
class Measured:
    """Attributes:
    start, seed, lr, curve: of the job.
    first, last, area: the loss before any step, after the last, and its mean over the steps.
    steps: how many it took to the random start's last loss; None where it was not reached.
    step_ratio, flop_ratio: what the random start took, divided by what this one took, with its own preparation.
    usual_steps, usual_ratio: those of steps beside USUAL, whichever random start is the reference; `against_usual`:
        whether that one learnt anything with this seed.
    equal: the loss where as much was spent as on the random start's whole training, preparation included.
    """

    start: str
    seed: int
    lr: float
    curve: Curve
    first: float
    last: float
    area: float
    steps: int | None
    step_ratio: float | None
    flop_ratio: float | None
    usual_steps: int | None
    usual_ratio: float | None
    against_usual: bool
    equal: float


def lineage(row: Row) -> tuple[str, str]:
    """The data and the trained source. Rows that differ in either say nothing of each other."""
    return row["data"], row["origin"]


def target_of(row: Row) -> tuple[str, str]:
    return row["task"], row["relation"]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Of every target the rows of the data and source that most are of, whole runs if there are any."""
    targets: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        targets.setdefault(target_of(row), []).append(row)
    most = {target: Counter(map(lineage, longest(each))).most_common(1)[0][0] for target, each in targets.items()}
    return [row for row in rows if lineage(row) == most[target_of(row)]]


def curve_of(row: Row) -> Curve:
    return {int(step): float(loss) for step, _, loss in (point.partition(":") for point in row["curve"].split())}


def reached(curve: Curve, loss: float) -> int | None:
    """The first step at which the loss is no more than that."""
    return next((step for step, value in curve.items() if value <= loss), None)


def last_of(curve: Curve) -> float:
    """Infinite where training diverged."""
    last = list(curve.values())[-1]
    return last if math.isfinite(last) else math.inf


def area(curve: Curve) -> float:
    """The mean loss over the steps; infinite where training diverged."""
    points = list(curve.items())
    total = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(points))
    mean = total / points[-1][0] if points[-1][0] else math.nan
    return mean if math.isfinite(mean) else math.inf


def at(curve: Curve, step: float) -> float:
    """The loss at a step, between two that were measured by a straight line."""
    if step < 0:
        return math.nan
    points = list(curve.items())
    for (a, x), (b, y) in pairwise(points):
        if step <= b:
            return x + (y - x) * (step - a) / (b - a)
    return points[-1][1]


def tuned(rows: Sequence[Row], task: str, start: str, rates: Iterable[float]) -> float | None:
    """The rate with the least loss in the end, where one target and seed have been trained at all of them; of longer
    runs where there are any."""
    by_target: dict[tuple[int, str, str], dict[float, float]] = {}
    for row in rows:
        if (row["task"], row["start"]) == (task, start):
            key = int(row["steps"]), row["relation"], row["seed"]
            by_target.setdefault(key, {})[float(row["lr"])] = last_of(curve_of(row))
    for _, losses in sorted(by_target.items(), key=lambda item: -item[0][0]):
        if set(rates) <= set(losses):
            return min(rates, key=losses.__getitem__)
    return None


def best(rows: Sequence[Row], task: str, relation: str, starts: Iterable[str], count: int) -> list[str]:
    """Those with the least mean loss on the first seed, of runs with the number of steps that most of them have, or
    the shorter ones, so that finalists stay what they are while they are run."""
    by_steps: dict[int, dict[str, float]] = {}
    for row in rows:
        if (row["task"], row["relation"], row["seed"]) == (task, relation, "0") and row["start"] in starts:
            areas = by_steps.setdefault(int(row["steps"]), {})
            areas[row["start"]] = min(area(curve_of(row)), areas.get(row["start"], math.inf))
    if not by_steps:
        return []
    areas = by_steps[max(by_steps, key=lambda steps: (len(by_steps[steps]), -steps))]
    return sorted(areas, key=areas.__getitem__)[:count]


def longest(rows: Sequence[Row]) -> list[Row]:
    """Those with the most steps: shorter runs choose rates and finalists, and are in no table but that of the rates."""
    most = max((int(row["steps"]) for row in rows), default=0)
    return [row for row in rows if int(row["steps"]) == most]


def measured(rows: Sequence[Row], task: str, relation: str, rates: Iterable[float]) -> tuple[str, list[Measured]]:
    """The random start that is the reference, the one with the lower last loss over all seeds, and all runs that are
    not short: of every start those at the rate that was tuned with the same source, or where there are none at the one
    with most seeds."""
    here = longest([row for row in comparable(rows) if target_of(row) == (task, relation)])
    same_source = [row for row in rows if here and lineage(row) == lineage(here[0])]
    chosen: dict[str, list[Row]] = {}
    for start in dict.fromkeys(row["start"] for row in here):
        by_rate: dict[float, list[Row]] = {}
        for row in here:
            if row["start"] == start:
                by_rate.setdefault(float(row["lr"]), []).append(row)
        rate = tuned(same_source, task, start, rates)
        chosen[start] = by_rate[rate] if rate in by_rate else max(by_rate.values(), key=len)
    randoms = {start: [curve_of(row) for row in chosen[start]] for start in RANDOM if start in chosen}
    if not randoms:
        return "", []
    reference = min(randoms, key=lambda start: mean([last_of(curve) for curve in randoms[start]]))
    goals = {row["seed"]: curve for row in chosen[reference] if math.isfinite(last_of(curve := curve_of(row)))}
    # One that ends no lower than it began learnt nothing: its loss is no goal.
    usual = {row["seed"]: curve for row in chosen.get(USUAL, []) if reached(curve := curve_of(row), last_of(curve))}
    return reference, [
        _measure(row, goals[row["seed"]], usual.get(row["seed"]))
        for found in chosen.values()
        for row in found
        if row["seed"] in goals
    ]


@dataclass(frozen=True)
class Summary:
    """One start of one target over its seeds; `share` is of the random start's floating-point operations, infinite
    where a seed did not get to its last loss, `usual` the ratio of steps beside USUAL, 0 where it did not, of the seeds
    with which that one learnt anything."""

    start: str
    lr: float
    seeds: int
    first: list[float]
    last: list[float]
    area: list[float]
    equal: list[float]
    steps: list[int | None]
    faster: list[float]
    share: float
    usual_steps: list[int | None]
    usual: list[float]


def summaries(runs: Sequence[Measured]) -> dict[str, Summary]:
    result = {}
    for start in dict.fromkeys(run.start for run in runs):
        own = [run for run in runs if run.start == start]
        shares = [math.inf if run.flop_ratio is None else 1 / run.flop_ratio for run in own]
        result[start] = Summary(
            start, own[0].lr, len(own), [run.first for run in own], [run.last for run in own],
            [run.area for run in own], [run.equal for run in own], [run.steps for run in own],
            [run.step_ratio or 0.0 for run in own], mean(shares),
            [run.usual_steps for run in own if run.against_usual],
            [run.usual_ratio or 0.0 for run in own if run.against_usual],
        )  # fmt: skip
    return result


def _beside(random: Curve, curve: Curve) -> tuple[int | None, float | None]:
    """Steps to the random start's last loss, and how many times more that one took itself."""
    goal = list(random.values())[-1]
    needed, steps = reached(random, goal), reached(curve, goal)
    if needed is None or steps is None:  # it diverged, or this one never got there
        return None, None
    return steps, max(FIRST_STEP, needed) / max(FIRST_STEP, steps)


def _measure(row: Row, random: Curve, usual: Curve | None) -> Measured:
    curve, goal = curve_of(row), list(random.values())[-1]
    per_step, other = float(row["flops per step"]), float(row["other flops"])
    needed = reached(random, goal)
    assert needed is not None
    steps, step_ratio = _beside(random, curve)
    usual_steps, usual_ratio = (None, None) if usual is None else _beside(usual, curve)
    last_step = int(row["steps"])
    spent = None if steps is None else steps * per_step + other
    return Measured(
        start=row["start"],
        seed=int(row["seed"]),
        lr=float(row["lr"]),
        curve=curve,
        first=curve[0],
        last=list(curve.values())[-1],
        area=area(curve),
        steps=steps,
        step_ratio=step_ratio,
        flop_ratio=None if spent is None else max(FIRST_STEP, needed) * per_step / max(FIRST_STEP * per_step, spent),
        usual_steps=usual_steps,
        usual_ratio=usual_ratio,
        against_usual=usual is not None,
        equal=at(curve, last_step - other / per_step),
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
