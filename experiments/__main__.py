"""python -m experiments --set quick|lead|proof|full: train targets by every start, into a ledger."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

from experiments import measures, pool
from experiments.check import broken
from experiments.jobs import QUICK_SEEDS, SETS, Job, sets
from experiments.tasks import FULL, QUICK, variant
from front_kernels.bench import ledger

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option(
    "--set",
    "name",
    type=click.Choice(list(SETS)),
    default="quick",
    show_default=True,
    help="quick: small models, in minutes. lead: the leading starts on every target, three seeds. proof: all starts on "
    "one target by short runs, the best whole with three seeds: 32 minutes on two cores of an EPYC (Zen 3). "
    "full: all, in hours.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, help="Processes; default: one per core."
)
@click.option(
    "--stack", type=click.IntRange(min=1), help="Models trained as one stack; default: 1 on the CPU, 32 on a GPU."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="For proof.csv.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/sources"),
    show_default=True,
    help="For trained sources.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Times the widths of sources and targets; MiniLM's, which is trained already, stays out.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of products, in all training (autocast).",
)
@click.option("--only", multiple=True, help="Words that a job's task, relation or start has; all of several.")
@click.option("--check", is_flag=True, help="Fail where the quick set's orderings do not hold.")
@click.option("--deadline", type=float, default=float("inf"), help="Seconds after which no job begins.")
def main(
    name: str, device: str, workers: int, stack: int | None, out: Path, cache: Path, width: int, dtype: str,
    only: tuple[str, ...], check: bool, deadline: float,
) -> None:  # fmt: skip
    """Train targets by every start. What is finished is in the ledger; a later call goes on.

    Other widths and dtypes are tasks of their own, such as "language, width x4, bfloat16", in the same ledger.
    """
    until = time.monotonic() + deadline
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: there is no GPU that torch can use")

    def wanted(job: Job) -> bool:
        return all(any(word in each for each in (job.task, job.relation, job.start)) for word in only)

    if check and (width, dtype) != (1, "float32"):
        raise click.UsageError("--check: what is known to hold was measured with --width 1 and --dtype float32")
    full, quick = (
        {each.name: each for task in tasks.values() if width == 1 or task.begin is None
         for each in [variant(task, width, getattr(torch, dtype))]} for tasks in (FULL, QUICK)
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as processes:
        done = pool.run(
            sets(full, quick)[name], out / "proof.csv", cache, processes, only=wanted,
            device=device, workers=workers, stack=stack or (32 if device == "cuda" else 1), until=until, say=click.echo,
        )  # fmt: skip
    late = time.monotonic() >= until
    click.echo("done" if done else "not all is done; the same command goes on")
    if not done and not late:
        raise click.ClickException("some failed: see above")
    if check and (wrong := broken(measures.comparable(ledger.read(out / "proof.csv")), QUICK_SEEDS)):
        raise click.ClickException("\n".join(wrong))


if __name__ == "__main__":
    main()
