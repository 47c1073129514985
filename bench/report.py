"""The ledger's newest runs into docs/SPEED.md, the first of them into README.md's table, and docs/cpu.png: part of
`make bench-report`.

Of each instruction set the newest run that has every case of ledger.CASES, a run being the rows of one machine and
commit, and of AVX-512 that of the machine before it; it may go past midnight. What was measured again within a run
counts as measured last.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import ledger
from front_kernels.bench.ledger import between_markers
from ledger import CASES, COMPARED, PACKAGES, Case, Row

ROOT = Path(__file__).parent.parent
RUN = ("cpu", "threads", "isa", *PACKAGES, "commit")  # the same in all rows of one run
PEERS, ISAS = "peers", "isas"  # what a row compares with; the other kinds of rows are dtypes, compared with float32
OTHERS = {  # columns of the second table: kind of row, its ratio
    "bfloat16": ("bfloat16", "times_float32"),
    "float16": ("float16", "times_float32"),
    "float64": ("float64", "times_float32"),
    "avx2": (ISAS, "times_avx2"),
    "generic": (ISAS, "times_generic"),
}
MACHINES = {"avx512": 2, "avx2": 1, "generic": 1}  # at most; on older ones than these much older code was timed
Run = dict[tuple[str, str], Row]  # by kind and case


def kind(row: Row) -> str:
    if row["best_peer"]:
        return PEERS
    dtype = row.get("dtype") or "float32"
    return ISAS if dtype == "float32" else dtype


def newest(rows: list[Row]) -> list[Run]:
    """Of each instruction set the newest complete runs of the machines measured last; best instruction set first."""
    runs: dict[tuple[str, ...], Run] = {}
    for row in rows:
        identity = tuple(row[column] for column in RUN)
        run = runs.pop(identity, {})
        run[kind(row), "{direction} {size}:{kept}".format(**row)] = row
        runs[identity] = run  # in the order of their last rows
    complete = [run for run in runs.values() if all((PEERS, str(case)) in run for case in CASES)]
    found: list[Run] = []
    for isa, machines in MACHINES.items():
        own: dict[str, Run] = {}
        for run in reversed(complete):
            if first(run)["isa"] == isa:
                own.setdefault(first(run)["cpu"], run)
        found += list(own.values())[:machines]
    return found


def first(run: Run) -> Row:
    return run[PEERS, str(CASES[0])]


def machine(run: Run) -> str:
    row = first(run)
    packages = ", ".join(f"{name} {row[name]}" for name in PACKAGES)
    dates = sorted({row["date"] for row in run.values()})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{row['cpu']}, {row['threads']} threads, {row['isa']}; {packages}; commit {row['commit']}, {date}"


def label(case: Case) -> str:
    size, kept = case.columns["size"], case.columns["kept"]
    return f"{size} -> {kept}" if case.direction == "forward" else f"{kept} -> {size}"


def op(case: Case) -> str:
    return "dct_crop" if case.direction == "forward" else "idct_pad"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


def against_peers(run: Run) -> str:
    """The run in words and numbers, against the peers."""
    against = [(case, run[PEERS, str(case)]) for case in CASES]
    header = ["op", "size", "ms", "% of read", "times the fastest peer", "times scipy", "times torch_dct"]
    text = markdown(
        header,
        [
            [
                f"`{op(case)}`",
                label(case),
                f"{float(row['ms']):.2f}",
                row["percent_of_read"],
                f"{float(row['times_best_peer']):.2f} ({row['best_peer']})",
                f"{float(row['times_scipy']):.2f}",
                f"{float(row['times_torch_dct']):.2f}",
            ]
            for case, row in against
        ],
    )
    single = [row for row in run.values() if (row.get("dtype") or "float32") == "float32"]
    return f"{machine(run)}. Largest errors of float32: {errors(single)}.\n\n{text}"


def tables(run: Run) -> str:
    """The same, then, if measured, other dtypes and instruction sets."""
    text = against_peers(run)
    others = [
        (case, [run.get((of, str(case)), {}).get(ratio, "") for of, ratio in OTHERS.values()]) for case in COMPARED
    ]
    if any(cell for _, cells in others for cell in cells):
        against = [f"{name}, times float32" for name in ("bfloat16", "float16", "float64")]
        header = ["op", "size", *against, "times avx2", "times generic"]
        text += "\n" + markdown(header, [[f"`{op(case)}`", label(case), *cells] for case, cells in others])
    return text


def errors(rows: list[Row]) -> str:
    relative = max((row["relative_error"] for row in rows), key=float)
    elements = [row["element_error"] for row in rows if row.get("element_error")]
    return f"relative L2 {relative}" + (f", element {max(elements, key=float)} eps" if elements else "")


def updated(page: str, runs: list[Run]) -> str:
    """docs/SPEED.md with its tables, whatever they held before, made of the runs."""
    return between_markers(page, "cpu table", "\n".join(tables(run) for run in runs))


def updated_readme(readme: str, runs: list[Run]) -> str:
    """README.md with its table, of the first run against the peers alone."""
    return between_markers(readme, "cpu table", against_peers(runs[0]))


def draw(runs: list[Run], path: Path) -> None:
    """Ratio to the fastest peer per case: forward on the left, inverse on the right, a row of panels per run."""
    figure = Figure(figsize=(12, 4.2 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 2, sharex=True, squeeze=False)
    for run, pair in zip(runs, panels, strict=True):
        for direction, axes in zip(("forward", "inverse"), pair, strict=True):
            bars(axes, run, [case for case in CASES if case.direction == direction])
        pair[0].set_title(machine(run), fontsize=8, loc="left")
    largest = max(float(run[PEERS, str(case)]["times_best_peer"]) for run in runs for case in CASES)
    panels[0, 0].set_xlim(0, 1.5 * largest)  # room for the labels
    figure.savefig(path, dpi=100, metadata={"Software": None})  # the same file for the same ledger


def bars(axes: Axes, run: Run, cases: list[Case]) -> None:
    rows = [run[PEERS, str(case)] for case in cases]
    ratios = [float(row["times_best_peer"]) for row in rows]
    drawn = axes.barh([label(case) for case in cases], ratios, color="tab:blue")
    texts = [f"{ratio:.2f}  {row['best_peer']}" for ratio, row in zip(ratios, rows, strict=True)]
    axes.bar_label(drawn, texts, padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel(f"{op(cases[0])}, float32: time of the fastest peer / ours")


def main() -> None:
    runs = newest(ledger.read())
    if not runs:
        raise SystemExit(f"{ledger.LEDGER.name} has no run of all {len(CASES)} cases: make bench-cpu measures one")
    readme, page = ROOT / "README.md", ROOT / "docs" / "SPEED.md"
    page.write_text(updated(page.read_text(), runs))
    readme.write_text(updated_readme(readme.read_text(), runs))
    draw(runs, ROOT / "docs" / "cpu.png")


if __name__ == "__main__":
    main()
