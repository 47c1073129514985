"""python -m experiments.report [LEDGERS]: docs/RESULTS.md and a picture per target, from ledgers alone."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from experiments.__main__ import RESULTS
from experiments.jobs import SEEDS
from experiments.measures import (
    FIRST_STEP,
    Measured,
    Row,
    Summary,
    area,
    comparable,
    curve_of,
    last_of,
    lineage,
    longest,
    mean,
    measured,
    summaries,
    target_of,
    tuned,
)
from experiments.starts import ALIGNED, CONTROLS, PAPER, PLUS, RANDOM, RIVALS, STARTS
from experiments.tasks import FULL, TASKS, base_of
from experiments.training import Curve
from experiments.words import ABOUT, PAPER_SAYS, STARTS_SAY, TASKS_SAY
from front_kernels.bench import ledger

GROUPS = {
    "random": RANDOM,
    "the paper's recipe": {"paper": PAPER["paper"]},
    "a variant of the paper's": {name: start for name, start in PAPER.items() if name != "paper"},
    "FRONT+": PLUS,
    "aligned": ALIGNED,
    "rivals": RIVALS,
}
COLOURS = {
    "random": "0.6", "the paper's recipe": "tab:blue", "a variant of the paper's": "tab:cyan",
    "FRONT+": "tab:purple", "aligned": "tab:red", "rivals": "tab:green",
}  # fmt: skip
HEADINGS = (
    "start", "seeds", "rate", "loss at first", "steps", "times faster", "than random", "FLOPs", "mean loss",
    "at equal FLOPs",
)  # fmt: skip
DOCS = RESULTS.parents[1] / "docs"
Found = dict[tuple[str, str], tuple[str, list[Measured], dict[str, Summary]]]


def tasks_in(rows: Sequence[Row]) -> list[str]:
    """Their tasks that belong into the report, those of the usual width and dtype first."""
    there = dict.fromkeys(row["task"] for row in rows)
    return [name for name in dict.fromkeys([*FULL, *there]) if name in there and base_of(name) in FULL]


def about(rows: Sequence[Row]) -> str:
    """What was compared, of the tasks and starts that there are rows of."""
    there = tasks_in(rows)
    starts = {row["start"] for row in rows if row["task"] in there}
    counted = [
        text for text, names in (
            ("FRONT+'s refinement of the source", PLUS),
            ('the batches of "aligned, activations"', {"aligned, activations"}),
        ) if not starts.isdisjoint(names)
    ]  # fmt: skip
    by_rates: dict[tuple[float, ...], list[str]] = {}
    for name in there:
        by_rates.setdefault(TASKS[name].rates, []).append(name)
    rates = [f"{' and '.join(names)} {', '.join(f'{r:g}' for r in three)}" for three, names in by_rates.items()]
    return ABOUT.format(
        tasks="".join(
            TASKS_SAY[name].format(source_steps=TASKS[name].source_steps, steps=TASKS[name].steps)
            for name in dict.fromkeys(map(base_of, there))
        ),
        rates="; ".join(rates),
        counted=f"Counted, too: {', '.join(counted)}. " if counted else "",
    )


def find(rows: Sequence[Row]) -> Found:
    """(task, relation) -> the reference, its runs and their summaries."""
    result = {}
    for task in map(TASKS.__getitem__, tasks_in(rows)):
        for relation in task.targets:
            reference, runs = measured(rows, task.name, relation, task.rates)
            if runs:
                result[task.name, relation] = reference, runs, summaries(runs)
    return result


def rank(summary: Summary) -> tuple[float, float]:
    return summary.share, mean(summary.area)


def group_best(found: dict[str, Summary], names: Iterable[str]) -> Summary | None:
    """The best of those with most seeds; where none of them gets there, of all."""
    there = [found[name] for name in names if name in found]
    most = max((each.seeds for each in there), default=0)
    whole = min((each for each in there if each.seeds == most), key=rank, default=None)
    return whole if whole is None or math.isfinite(whole.share) else min(there, key=rank)


def of_fewer(summary: Summary, seeds: int) -> str:
    """A mark where it has fewer seeds than most."""
    return f", {summary.seeds} seed{'s' * (summary.seeds > 1)}" if summary.seeds < seeds else ""


def spread(values: Sequence[float], digits: int = 3) -> str:
    if not all(map(math.isfinite, values)):
        return "diverged"
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def at_once(steps: Sequence[int | None]) -> str:
    """A mark where it begins at or below the random start's last loss for some seed: its ratio says how long that one
    took."""
    return "≥ " if any(step is not None and step < FIRST_STEP for step in steps) else ""


def times(summary: Summary) -> str:
    if not math.isfinite(summary.share):
        return "-"
    return at_once(summary.steps) + ratios(summary.faster)


def ratios(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def cells(summary: Summary) -> list[str]:
    steps = [step for step in summary.steps if step is not None]
    whole = math.isfinite(summary.share)
    left = not any(map(math.isnan, summary.equal)) or any(map(math.isnan, summary.last))
    equal = spread(summary.equal) if left else "nothing left to train"
    return [
        summary.start, str(summary.seeds), f"{summary.lr:g}", f"{mean(summary.first):.3f}",
        f"{statistics.median(steps):.0f}" if whole else "-", times(summary),
        at_once(summary.usual_steps) + ratios(summary.usual) if summary.usual and all(summary.usual) else "-",
        f"{100 * summary.share:.0f} %" if whole else "-", spread(summary.area), equal,
    ]  # fmt: skip


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def winners(found: Found) -> str:
    rows = []
    for (task, relation), (_, _, starts) in found.items():
        seeds = max(each.seeds for each in starts.values())
        candidates = [
            name for name, each in starts.items() if name not in CONTROLS and name not in RANDOM and each.seeds == seeds
        ]
        if not candidates:
            continue
        target = TASKS[task].targets[relation]
        row = [f"{task}, {relation} ({TASKS[task].source} to {target})"]
        best = group_best(starts, candidates)
        assert best is not None
        row.append(f"{best.start}, {times(best)}" if best.share < 1 else "random")
        for group in ("the paper's recipe", "a variant of the paper's", "FRONT+", "aligned", "rivals"):
            each = group_best(starts, GROUPS[group])
            named = "" if each is None or group == "the paper's recipe" else f"{each.start}: "
            more = f", {100 * each.share:.0f} % of the FLOPs" if each is not None and 1 < each.share < math.inf else ""
            row.append("" if each is None else f"{named}{times(each)}{of_fewer(each, seeds)}{more}")
        rows.append(row)
    return table(("target", "least FLOPs", "paper", "its best variant", "FRONT+", "aligned", "best rival"), rows)


def worth(found: Found) -> str:
    """README's table: times fewer steps, of the starts that most will choose between."""
    rows = []
    for (task, relation), (_, _, starts) in found.items():
        if (aligned := starts.get("aligned")) is None:
            continue
        row = [f"{task}, {relation} ({TASKS[task].source} to {TASKS[task].targets[relation]})", str(aligned.seeds)]
        row.append(times(aligned))
        for names in (list(RIVALS), ["paper"], [name for name in PAPER if name != "paper"]):
            each = group_best(starts, names)
            named = "" if each is None or names == ["paper"] or not math.isfinite(each.share) else f" ({each.start})"
            row.append("" if each is None else times(each) + of_fewer(each, aligned.seeds) + named)
        rows.append(row)
    return table(("target", "seeds", "aligned", "best rival", "paper", "best of the paper's variants"), rows)


def beside_the_paper(found: Found) -> str:
    lines = [PAPER_SAYS]
    for task in dict.fromkeys(name for name, _ in found):
        plus = any(start in PLUS for (name, _), (_, _, starts) in found.items() if name == task for start in starts)
        for label, names in (
            ("the paper's recipe", ["paper"]),
            ("the best of it, its variants and FRONT+" if plus else "the best of it and its variants", [*PAPER, *PLUS]),
            ("aligned", list(ALIGNED)),
        ):
            every = [
                (each, relation)
                for (name, relation), (_, _, starts) in found.items()
                if name == task and (each := group_best(starts, names)) is not None
            ]
            if not every:
                continue
            reached = [(each, relation) for each, relation in every if math.isfinite(each.share)]
            if not reached:
                lines.append(
                    f"- {task}, {label}: the random start's last loss is reached for no target, of {len(every)}."
                )
                continue
            later = [pair for pair in reached if not at_once(pair[0].steps)]
            text = f"- {task}, {label}: reached for {len(reached)} of {len(every)} targets"
            if len(later) < len(reached):
                text += f", for {len(reached) - len(later)} of them before any step for a seed or all"
            if later:
                best, relation = min(later, key=lambda pair: pair[0].share)
                which = "at best" if len(later) == len(reached) else "of the others at best"
                text += (
                    f"; {which} {times(best)} times faster, {100 * (1 - best.share):.0f} % fewer FLOPs "
                    f"({best.start}, {relation}{of_fewer(best, SEEDS)})"
                )
            lines.append(text + ".")
    return "\n".join([lines[0] + ":", "", *lines[1:]]) + "\n"


def rates(rows: Sequence[Row]) -> str:
    """Last losses by rate, of the seed and target that rates are chosen on, and the least mean loss."""
    curves: dict[tuple[str, str, str, int], dict[float, Curve]] = {}
    for row in rows:
        if row["seed"] == "0":
            key = row["task"], row["relation"], row["start"], int(row["steps"])
            curves.setdefault(key, {})[float(row["lr"])] = curve_of(row)
    parts: list[str] = []
    edges: dict[str, list[str]] = {}
    for task in map(TASKS.__getitem__, tasks_in(rows)):
        body = []
        for (name, relation, start, steps), found in sorted(curves.items()):
            if name != task.name or not set(task.rates) <= set(found):
                continue
            least = min(task.rates, key=lambda rate: last_of(found[rate]))
            losses = (f"{last_of(found[rate]):.3f}{' *' * (rate == least)}" for rate in task.rates)
            body.append([name, relation, start, str(steps), *losses, f"{min(map(area, found.values())):.3f}"])
            if least != task.rates[1] and tuned(rows, name, start, task.rates) == least:
                names = edges.setdefault(f"{task.name} at {least:g}", [])
                names += [start] * (start not in names)
        if body:
            headings = "task", "target", "start", "steps", *(f"{rate:g}" for rate in task.rates), "least mean loss"
            parts.append(table(headings, body))
    if edges:
        lines = [f"- {where}: {'; '.join(names)}\n" for where, names in edges.items()]
        parts.append("At an edge of the three, so that a rate beyond it might be better still:\n\n" + "".join(lines))
    return "\n".join(parts)


def better_rates(rows: Sequence[Row], task: str, relation: str, starts: dict[str, Summary]) -> str:
    """Where a target was trained at another rate, too, and ended lower with the same seed."""
    last = {
        (row["start"], row["seed"], float(row["lr"])): last_of(curve_of(row))
        for row in longest([row for row in rows if target_of(row) == (task, relation)])
    }  # fmt: skip
    return "; ".join(
        f"{start}, seed {seed}: {loss:.3f} at {lr:g}, {own:.3f} at {starts[start].lr:g}"
        for (start, seed, lr), loss in last.items()
        if start in starts and loss < (own := last.get((start, seed, starts[start].lr), -math.inf))
    )


def left_out(rows: Sequence[Row]) -> dict[tuple[str, str, str], int]:
    """How many rows of a task, data and source are in no table: others are more."""
    tables = {(target_of(row), lineage(row)) for row in comparable(rows)}
    others = [row for row in rows if base_of(row["task"]) in FULL and (target_of(row), lineage(row)) not in tables]
    return Counter((row["task"], *lineage(row)) for row in others)


def machines(rows: Sequence[Row]) -> str:
    """Of what the tables are, with the number of rows of each target, and how many rows are in none because they are of
    other data or of another source."""
    targets: dict[tuple[str, str], Counter[str]] = {}
    by_target: dict[tuple[str, str], list[Row]] = {}
    for row in comparable(rows):
        by_target.setdefault(target_of(row), []).append(row)
    for row in (row for own in by_target.values() for row in longest(own)):
        if base_of(row["task"]) in FULL:
            where = (
                f"{row['device']}, Python {row['python']}, torch {row['torch']}, commit {row['commit']}, "
                f"{row['date']}; data {row['data'] or 'not recorded'}; source {row['source']}, {row['origin']}, loss "
                f"{row['source loss']}, accuracy {row['source accuracy']}"
            )
            targets.setdefault((row["task"], where), Counter())[row["relation"]] += 1
    lines = [
        f"- {task} ({', '.join(f'{relation} {count}' for relation, count in relations.items())}): {where}"
        for (task, where), relations in targets.items()
    ]
    lines += [
        f"- {task}: {count} rows of data {data or 'not recorded'}, source {origin}, are in the ledger and in no table"
        for (task, data, origin), count in left_out(rows).items()
    ]
    return "\n".join(lines) + "\n"


def picture(path: Path, title: str, reference: str, runs: Sequence[Measured], starts: dict[str, Summary]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure((7, 4.2), layout="constrained")
    axes = figure.subplots()
    for group, names in GROUPS.items():
        best = starts[reference] if group == "random" else group_best(starts, names)
        if best is None:
            continue
        curves = [run.curve for run in runs if run.start == best.start]
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        values = [[curve[step] for curve in curves] for step in steps]
        axes.plot(steps, [mean(each) for each in values], color=COLOURS[group], label=f"{best.start} ({best.lr:g})")
        axes.fill_between(steps, list(map(min, values)), list(map(max, values)), color=COLOURS[group], alpha=0.2, lw=0)
    goal = mean(starts[reference].last)
    axes.axhline(goal, color="0.6", lw=0.8, ls=":")
    axes.set(title=title, xlabel="step", ylabel="validation loss")
    axes.set_xscale("symlog", linthresh=10)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0.9 * min(min(run.curve.values()) for run in runs), 1.05 * max(starts[reference].first))
    axes.set_xlim(0, max(runs[0].curve))
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write(rows: Sequence[Row], out: Path) -> Path:
    every, rows = rows, comparable(rows)
    found = find(every)
    named = {start for _, _, starts in found.values() for start in starts}
    parts = [
        about(rows),
        "## The starts\n",
        table(("start", "what it is"), ([name, STARTS_SAY[name]] for name in STARTS if name in named)),
        "## Where each recipe wins\n",
        "Of each group the start that spends the fewest FLOPs, and times faster in steps, of those with most seeds,\n"
        "or where none of these gets there of all, with how many seeds it has; with its FLOPs where they are more\n"
        "than the reference's: FRONT+ refines its source first. What is empty has no rows.\n",
        winners(found),
    ]
    parts += ["## Beside the paper's numbers\n", beside_the_paper(found), "## All targets\n"]
    for (task, relation), (reference, runs, starts) in found.items():
        title = f"{task}, {relation}: {TASKS[task].source} to {TASKS[task].targets[relation]}"
        name = f"{task}-{relation.replace(' ', '-')}.png"
        picture(out / "pictures" / name, title, reference, runs, starts)
        ordered = sorted(starts.values(), key=lambda each: (each.start in CONTROLS, *rank(each)))
        last = " Controls are last." if any(start in CONTROLS for start in starts) else ""
        parts += [f"### {title}\n", f"Reference: {reference}.{last}\n", f"![{title}](pictures/{name})\n"]
        parts.append(table(HEADINGS, map(cells, ordered)))
        if better := better_rates(rows, task, relation, starts):
            parts.append(f"Last losses that are lower at another rate than the table's: {better}.\n")
    parts += ["## Rates\n", rates(rows), "## Machines and sources\n", machines(every)]
    path = out / "RESULTS.md"
    path.write_text("\n".join(parts))
    return path


@click.command()
@click.argument("ledgers", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=DOCS,
    help="Folder for RESULTS.md and its pictures; default: docs.",
)
@click.option("--origin", "origins", multiple=True, help="Only rows of this trained source, as RESULTS.md names it.")
def main(ledgers: tuple[Path, ...], out: Path, origins: tuple[str, ...]) -> None:
    """RESULTS.md and pictures from ledgers; without any from experiments/results/proof.csv, and README's table."""
    rows = [row for path in ledgers or (RESULTS / "proof.csv",) for row in ledger.read(path)]
    if origins and out == DOCS:
        raise click.UsageError("--origin goes with --out: docs/RESULTS.md is of all sources")
    if unknown := set(origins) - {row["origin"] for row in rows}:
        raise click.UsageError(f"--origin: got {', '.join(sorted(unknown))}, of which the ledger has no rows")
    rows = [row for row in rows if not origins or row["origin"] in origins]
    if not find(rows):
        raise click.UsageError("LEDGERS: they have no finished target with a random start")
    for (task, _, origin), count in left_out(rows).items():
        click.echo(
            f"{task}: {count} rows of source {origin} are in no table; --origin {origin} --out FOLDER is for them",
            err=True,
        )
    click.echo(write(rows, out))
    if not ledgers and not origins and out == DOCS:
        readme = DOCS.parent / "README.md"
        readme.write_text(ledger.between_markers(readme.read_text(), "starts table", worth(find(rows))))


if __name__ == "__main__":
    main()
