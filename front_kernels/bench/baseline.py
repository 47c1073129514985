"""Whether a run is slower than an older one.

Rows of one device (and number of threads and instruction set), case, engine, what engine was asked for and precision
are compared, ours only; each with the newest run that has it. The old times are first multiplied by the drift: the
median of new / old over the alternatives that both these runs timed for the case (1 where there is none), since
machines drift; so what counts is the ratio to the alternatives. A row is a regression if
its median is above the old one by more than the noise: from the old median to its 80 % quantile, from the new one to
its 20 % quantile, and 10 % of the old one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import ledger
from .cases import Case, Row, label
from .measure import OURS

__all__ = ["Change", "changes", "read", "unmeasured"]

PLACE = ("device", "threads", "isa")
CASE = ("op", "size", "kept", "result", "dtype", "count")
RUN = ("run", "commit", "date", "version", "torch", "load", "copy_gb_s")  # one run's; older ledgers have no `run`
SETTINGS = {"engine": "auto", "precision": "highest"}  # where a ledger lacks them
TIMES = ("us", "us_20", "us_80")
SLACK = 0.1  # of the old median
Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One of our rows, and what it was."""

    by: str
    case: str
    us: float
    old_us: float  # times the drift
    drift: float
    allowed_us: float  # the most that is no regression

    @property
    def slower(self) -> bool:
        return self.us > self.allowed_us

    def __str__(self) -> str:
        return (
            f"{self.case}, {self.by}: {self.us:g} us, was {self.old_us:.4g} us at this machine's pace now (drift "
            f"{self.drift:.2f}), allowed {self.allowed_us:.4g} us"
        )


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a ledger of this kind.

    Raises:
        ValueError: it has no rows, lacks a column, or a time in it is no positive number.
    """
    rows = ledger.read(path)
    if not rows:
        raise ValueError(f"{path} has no rows")
    needed = ("by", *PLACE, *CASE, *TIMES)
    if missing := [column for column in needed if rows[0].get(column) is None]:
        raise ValueError(f"{path} is no ledger of this benchmark: it lacks the column {', '.join(map(repr, missing))}")
    for number, row in enumerate(rows, 2):
        for column in TIMES:
            try:
                right = float(row[column]) > 0
            except (TypeError, ValueError):
                right = False
            if not right:
                raise ValueError(f"{path}, line {number}: {column} must be a positive number, got {row[column]!r}")
    return rows


def key(row: Row, columns: Sequence[str]) -> Key:
    return tuple(str(row.get(column, "")) for column in columns)


def settings(row: Row) -> Key:
    """The engine that was asked for, where the row is not an engine's own, and the precision."""
    found = {name: str(row.get(name) or default) for name, default in SETTINGS.items()}
    return ("" if str(row["by"]) != OURS else found["engine"], found["precision"])


def identity(row: Row) -> Key:
    """What one of our rows is of, but for the run."""
    return *key(row, (*PLACE, *CASE, "by")), *settings(row)


def newest(old: Sequence[Row]) -> dict[Key, Row]:
    """Our rows, each as it was measured last."""
    return {identity(row): row for row in old if is_ours(row)}


def changes(rows: Sequence[Row], old: Sequence[Row]) -> list[Change]:
    """Each row of ours, of one run, that the old ledger has too."""
    before = newest(old)
    theirs = {key(row, (*RUN, *PLACE, *CASE, "by")): row for row in old if not is_ours(row)}
    found = []
    for row in rows:
        other = before.get(identity(row)) if is_ours(row) else None
        if other is None:
            continue
        place = key(other, (*RUN, *PLACE, *CASE))
        peers = [each for each in rows if not is_ours(each) and key(each, CASE) == key(row, CASE)]
        pairs = [(each, theirs[at]) for each in peers if (at := (*place, str(each["by"]))) in theirs]
        drift = statistics.median([number(new, "us") / number(past, "us") for new, past in pairs] or [1.0])
        us, old_us = number(row, "us"), drift * number(other, "us")
        noise = drift * number(other, "us_80") - old_us + us - number(row, "us_20") + SLACK * old_us
        found.append(Change(str(row["by"]), label(row), us, old_us, drift, old_us + noise))
    return found


def unmeasured(rows: Sequence[Row], old: Sequence[Row], chosen: Sequence[Case], common: Row) -> list[str]:
    """Our rows of the chosen cases, this place and these settings that the old ledger has and the run has not."""
    cases = {key({**common, **case.columns}, (*PLACE, *CASE)) for case in chosen}
    there = {identity(row) for row in rows if is_ours(row)}
    return [
        f"{label(row)}, {row['by']}"
        for at, row in newest(old).items()
        if at not in there
        and key(row, (*PLACE, *CASE)) in cases
        and settings(row) == settings({**common, "by": row["by"]})
    ]


def is_ours(row: Row) -> bool:
    return str(row["by"]).split()[0] == OURS


def number(row: Row, column: str) -> float:
    return float(str(row[column]))
