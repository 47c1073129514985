"""Orderings of mean losses that hold for every seed of the quick set, and controls that gain nothing over its seeds."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.measures import Row, area, curve_of
from experiments.starts import RANDOM
from experiments.tasks import QUICK

BETTER = {  # relation: (start, one that is worse); "random" is the better of the random ones
    "narrower and shallower": (
        ("aligned", "random"),
        ("aligned", "paper"),
        ("aligned", "selection"),
        ("aligned", "random axes"),
        ("aligned", "shuffled, aligned"),
    ),
    "deeper and wider": (
        ("paper", "random"),
        ("aligned", "paper"),
        ("stacking", "paper"),
        ("paper", "shuffled, aligned"),
    ),
}
# A control, what it must not be better than (of random ones the better), and by what share of aligned's lead over that
# its mean over the seeds may be, noise being what it is.
NO_BETTER = (("shuffled, aligned", "random", 0.2), ("random axes", "residual axis, not aligned", 0.4))


def broken(rows: Sequence[Row], seeds: int) -> list[str]:
    """What does not hold, or has not been run."""
    return [*_disordered(rows, seeds), *_advantaged(rows, seeds)]


def _advantaged(rows: Sequence[Row], seeds: int) -> list[str]:
    means: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["relation"] == "narrower and shallower" and int(row["seed"]) < seeds:
            at = row["task"], row["start"]
            means[at] = means.get(at, 0.0) + area(curve_of(row)) / seeds
    found = []
    for task in QUICK:
        for control, other, share in NO_BETTER:
            others = RANDOM if other == "random" else [other]
            wanted = {name: means.get((task, name)) for name in (control, "aligned", *others)}
            losses = {name: loss for name, loss in wanted.items() if loss is not None}
            if len(losses) < len(wanted):
                found.append(f"{task}: {control} or what it is compared with was not run")
                continue
            own, aligned = losses.pop(control), losses.pop("aligned")
            base = min(losses.values())
            if base - own > share * (base - aligned):
                found.append(
                    f"{task}: mean loss {own:.3f} of {control} is below {base:.3f} of {other} by more than {share:g} "
                    f"of what {aligned:.3f} of aligned is"
                )
    return found


def _disordered(rows: Sequence[Row], seeds: int) -> list[str]:
    areas = {(row["task"], row["relation"], row["seed"], row["start"]): area(curve_of(row)) for row in rows}
    found = []
    for task in QUICK:
        for relation, pairs in BETTER.items():
            for seed in map(str, range(seeds)):
                for better, worse in pairs:
                    names = [better, *(RANDOM if worse == "random" else [worse])]
                    losses = [areas.get((task, relation, seed, name)) for name in names]
                    numbers = [loss for loss in losses if loss is not None]
                    if len(numbers) < len(losses):
                        found.append(f"{task}, {relation}, seed {seed}: {better} or {worse} was not run")
                    elif numbers[0] >= min(numbers[1:]):
                        found.append(
                            f"{task}, {relation}, seed {seed}: mean loss {numbers[0]:.3f} of {better} is not below "
                            f"{min(numbers[1:]):.3f} of {worse}"
                        )
    return found
