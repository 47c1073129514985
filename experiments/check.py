"""Orderings of mean losses that hold for every seed of the quick set."""

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


def broken(rows: Sequence[Row], seeds: int) -> list[str]:
    """What does not hold, or has not been run."""
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
