"""The command `python -m front_kernels.bench`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import front_kernels as fk
from front_kernels import _settings
from front_kernels._options import Seconds

from . import baseline, ledger, report
from .cases import ITEM, SETS, Case, Row
from .clocks import Clock, CpuClock, CudaClock
from .libraries import BUILDERS, release
from .measure import available_memory, measure_case, one_line

__all__ = ["main"]

BUSY = 0.5  # average of runnable processes; an idle machine is far below one
SLACK = f"{baseline.SLACK:.0%}".replace("%", " %")


def chosen_device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise click.ClickException("no CUDA device: torch.cuda.is_available() is false")
    if name == "cpu" or not there:
        return torch.device("cpu")
    if not fk.engines.available():
        raise click.ClickException(
            "front_kernels was built without CUDA, and Triton is not installed: no engine for the GPU. Build it where "
            "a CUDA toolkit is found (FRONT_CUDA=1), or pip install triton; --device cpu measures the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def chosen_cases(name: str, dtypes: tuple[str, ...], only: tuple[str, ...]) -> list[Case]:
    cases = SETS[name]
    if dtypes:
        cases = list(dict.fromkeys(replace(case, dtype=dtype) for dtype in dtypes for case in cases))
    found = [case for case in cases if not only or any(text in str(case) for text in only)]
    if not found:
        raise click.BadParameter(
            f"must be part of the name of a case, got {', '.join(map(repr, only))}; set {name!r} has: "
            + "; ".join(map(str, cases)),
            param_hint="--only",
        )
    return found


def check_writable(out: Path) -> None:
    """Makes the folder, and sees that its ledger can be read and replaced."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out):
            ledger.read(out / "bench.csv")
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"cannot write to {out}: {one_line(error)}", param_hint="--out") from error


class Run:
    """A run over cases: what was measured, what was wrong, what was not measured and why."""

    def __init__(self, clock: Clock, console: Console) -> None:
        self.clock, self.console = clock, console
        self.rows: list[Row] = []
        self.wrong: list[str] = []

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def measure(self, case: Case, seconds: float, peers: list[str], common: Row, path: Path) -> None:
        if case.memory > (free := available_memory(self.clock.device)):
            self.say(f"skipped: {case} takes about {case.memory / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
            return
        try:
            rows = measure_case(case, self.clock, seconds, peers, self.say, self.wrong)
            found = [{**common, **row} for row in rows]
        except Exception as error:  # the other cases are still of interest
            self.wrong.append(f"FAILED {case}: {one_line(error)}")
            self.say(self.wrong[-1])
            return
        finally:
            release()
        ledger.append(found, path)
        self.rows += found
        self.say(f"{case}: {found[0]['us']} us, {found[0]['percent_of_limit']} % of the limit")

    def device_lost(self) -> bool:
        """Whether nothing runs in this process any more."""
        try:
            if self.clock.device.type == "cuda":
                torch.cuda.synchronize(self.clock.device)
        except Exception as error:
            self.wrong.append(f"FAILED the device: {one_line(error)}")
            return True
        return False


@click.command(
    epilog=f"""Exit status: 0; 1 if a result of ours is wrong, a case fails, nothing was measured or a row is slower
    than in the baseline; 2 for wrong options.

    Baseline: our rows are compared with those of the same device, op, sizes, dtype and engine in the newest run of
    OLD.csv that has them. Old times are multiplied by the drift, the median of new / old over the alternatives that
    both runs timed for the case, since machines drift: what counts is the ratio to them. A row is slower if its median
    is above the old one by more than the noise: the old 80 % quantile less the old median, plus the new median less the
    new 20 % quantile, plus {SLACK} of the old median."""
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="auto: the GPU where there is one")  # fmt: skip
@click.option("--set", "cases", type=click.Choice(list(SETS)), default="short", show_default=True,
              help="short: under a minute on two cores; models: matrices of DeiT, BERT, GPT-2, Llama-3-8B; squares: "
              "1024 to 16384; all: both; axes: few coefficients of one axis, all of the other; "
              "check: what bench/gpu_check.sh measures")  # fmt: skip
@click.option("--dtype", "dtypes", type=click.Choice(list(ITEM)), multiple=True,
              help="may be repeated; otherwise the set's own, mostly float32")  # fmt: skip
@click.option("--only", multiple=True, help="cases whose name contains this; may be repeated")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("front-bench"), show_default=True,
              help="folder of bench.csv, which is appended to, and of the pictures")  # fmt: skip
@click.option("--baseline", "old", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="OLD.csv",
              help="compare with an older ledger")  # fmt: skip
@click.option("--seconds", type=Seconds(min=0, min_open=True), default=1.0, show_default=True,
              help="of timing per case; each implementation runs 5 times at least, an alternative only if a call takes "
              "at most 5 s")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="of the CPU; otherwise torch's own number")
@click.option("--deadline", type=Seconds(min=0), help="seconds after which cases run without alternatives")
@click.option("--peers/--no-peers", default=True, help="whether to time the alternatives")
def main(
    device: str,
    cases: str,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    out: Path,
    old: Path | None,
    seconds: float,
    threads: int | None,
    deadline: float | None,
    peers: bool,
) -> None:
    """Measure the ops against the machine's limit and against other libraries.

    Every result, ours and the others', is compared with float64 before it is timed. Times are medians, everything that
    is compared taken in turn: on a GPU by CUDA events, with the caches emptied; on the CPU warm. The limit is one read
    of the input and one write of the result at the bandwidth of a large copy, measured in the same process (on the CPU
    what fits the caches can exceed it). TFLOP/s count 2.5 N log2 N nominal operations for each real transform: 2.5 (M N
    log2 N + k1 M log2 M). Let the machine be idle.
    """
    started = time.perf_counter()
    # Everything that can be refused is refused before anything is measured.
    chosen = chosen_cases(cases, dtypes, only)
    try:
        _settings.engine()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    on = chosen_device(device)
    try:
        before = None if old is None else baseline.read(old)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint="--baseline") from error
    check_writable(out)
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(stderr=True)
    run = Run(CpuClock() if on.type == "cpu" else CudaClock(on), console)
    columns = ledger.run_columns(on)
    if (load := float(str(columns["load"]))) > BUSY:
        console.print(f"the machine is busy (load {load:g}): times are not to be relied on", style="bold")
    common = {**columns, "copy_gb_s": round(run.clock.bytes_per_us / 1e3, 1)}
    run.say(", ".join(f"{name} {value}" for name, value in common.items() if value != ""))

    names = list(BUILDERS[on.type]) if peers else []
    shown = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*shown, console=console, transient=True) as progress:
        for case in progress.track(chosen, description="cases"):
            if names and deadline is not None and time.perf_counter() - started > deadline:
                run.say(f"{deadline:g} s are over: no alternatives from here on")
                names = []
            run.measure(case, seconds, names, common, out / "bench.csv")
            if run.device_lost():
                break
    finish(run, chosen, common, before, out)


def finish(run: Run, chosen: Sequence[Case], common: Row, before: Sequence[Row] | None, out: Path) -> None:
    """Table, pictures, comparison and exit status."""
    if run.rows:
        click.echo("\nresults")
        report.show(run.rows)
        click.echo(f"rows: {out / 'bench.csv'}")
        try:
            for path in report.draw(run.rows, str(common["device"]), out):
                click.echo(f"picture: {path}")
        except ImportError as error:
            click.echo(f"no pictures: {error} (pip install matplotlib)")
    elif not run.wrong:
        run.wrong.append("FAILED nothing was measured")
    if before is not None:
        compare(run, chosen, common, before)
    for line in run.wrong:
        click.echo(line)
    if run.wrong:
        raise SystemExit(1)


def compare(run: Run, chosen: Sequence[Case], common: Row, before: Sequence[Row]) -> None:
    found = baseline.changes(run.rows, before)
    if not found:
        run.wrong.append("FAILED the baseline has no row of this device, threads, instruction set and these cases")
    for name in baseline.unmeasured(run.rows, before, chosen, common):
        click.echo(f"in the baseline, not measured: {name}")
    slower = [f"SLOWER {change}" for change in found if change.slower]
    click.echo(f"baseline: {len(found)} rows compared, {len(slower)} slower beyond the noise")
    run.wrong += slower


if __name__ == "__main__":
    main()
