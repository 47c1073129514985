"""Skip patterns and reports where the target's names are rewritten as the source has them (see `align_names`)."""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from front_models._kinds import KINDS
from front_models._report import TransferReport

__all__ = ["expand_skip", "own_names", "unmatched", "unmatched_notes"]


def expand_skip(words: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Skip words for the aligned names that take in what `words` take in of either form: ``{word: word as given}``.

    Args:
        words: Checked skip words; patterns may be written with the target's own names or with the source's.
        names: ``{target's own name: aligned name}``.
    """
    expanded = {word: word for word in words}
    for word in list(expanded):
        wanted = {names[own] for own in names if _takes(word, own)}
        left = {name for name in wanted if not _takes(word, name)}
        while left:
            name = min(left)
            # One pattern for all layers where it takes in nothing else: a large model has thousands of names.
            pattern = re.sub(r"\d+", "*", glob.escape(name))
            found = {other for other in names.values() if fnmatchcase(other, pattern)}
            if pattern == name or not found <= wanted:
                # With a bracket, so that no name is taken for a kind such as `head`.
                pattern, found = f"[{name[0]}]{glob.escape(name[1:])}", {name}
            expanded.setdefault(pattern, word)
            left -= found | {name}
    return expanded


def unmatched(words: Iterable[str], names: Iterable[str]) -> list[str]:
    """The patterns among skip words that take in none of these tensor names."""
    known = list(names)
    return [word for word in words if word not in KINDS and not any(_takes(word, name) for name in known)]


def unmatched_notes(words: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """For a report: what was given as `skip`, and takes in none of these tensor names."""
    return tuple(f"skip: {word!r} matches no tensor" for word in unmatched(words, names))


def own_names(report: TransferReport, names: Mapping[str, str], words: Mapping[str, str]) -> TransferReport:
    """The report with the target's own names for aligned ones, and skip words as they were given.

    Args:
        report: Of a transfer to the aligned names.
        names: ``{target's own name: aligned name}``.
        words: What `expand_skip` gave.
    """
    if all(own == aligned for own, aligned in names.items()):
        return report
    own = {aligned: name for name, aligned in names.items()}
    templates = {t: (name, aligned) for name, aligned in names.items() for t in (*_templates(aligned), aligned)}

    def role(template: str) -> str:
        name, aligned = templates.get(template, ("", ""))
        if name.endswith(aligned):
            return name.removesuffix(aligned) + template
        return template.removeprefix(aligned.removesuffix(name))

    def action(text: str) -> str:
        skipped = text.removeprefix("skipped: ")
        if skipped != text and skipped in words:
            return f"skipped: {words[skipped]}"
        before, space, last = text.rpartition(" ")
        return f"{before}{space}{own.get(last, last)}"

    rows = [dataclasses.replace(row, role=role(row.role), action=action(row.action)) for row in report.rows]
    return dataclasses.replace(report, rows=rows)


def _templates(name: str) -> list[str]:
    """The name with `{}` for any one of its numbers."""
    return [f"{name[: m.start()]}{{}}{name[m.end() :]}" for m in re.finditer(r"\d+", name)]


def _takes(word: str, name: str) -> bool:
    if word in KINDS:
        return False
    return fnmatchcase(name, word) or ("{}" in word and any(fnmatchcase(t, word) for t in _templates(name)))
