"""`dct` and `idct` of vectors, in full and orthonormal, beside what else there is: `make bench-vectors`.

Single vectors, and a few, of float32; scipy.fft (`workers` threads), ducc0 (into an array that is kept), and the same
by torch.fft's real FFT. front's results, as scipy's and torch.fft's, are new tensors. One process, alternating,
medians; every result is verified against float64 first. Appends its rows to bench/results/vectors.csv.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import click
import ducc0
import numpy as np
import scipy.fft
import torch
from rich.console import Console
from rich.table import Table

import front_kernels as fk
import ledger
from front_kernels.bench import peers
from front_kernels.bench.clocks import in_turn

LEDGER = Path(__file__).parent / "results" / "vectors.csv"
SHAPES = [(1, n) for n in (256, 1000, 4096, 16384, 1 << 16, 393216, 1 << 20)] + [(8, 4096), (16, 4096), (32, 1 << 16)]
LIMIT = 1e-6


def forms(op: str, shape: tuple[int, int], threads: int) -> dict[str, Callable[[], object]]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x[0] if shape[0] == 1 else x
    array, kept = x.numpy(), np.empty_like(x.numpy())
    kind = 2 if op == "dct" else 3
    library, own, by_fft = (scipy.fft.dct, fk.dct, peers.dct) if op == "dct" else (scipy.fft.idct, fk.idct, peers.idct)
    exact = library(array.astype(np.float64), norm="ortho")
    runs: dict[str, Callable[[], object]] = {
        "front": lambda: own(x),
        "scipy": lambda: library(array, norm="ortho", workers=threads),
        "ducc0": lambda: ducc0.fft.dct(array, type=kind, axes=[-1], inorm=1, nthreads=threads, out=kept),
        "torch.fft": lambda: by_fft(x),
    }
    for name, run in runs.items():
        error = float(np.linalg.norm(np.asarray(run()) - exact) / np.linalg.norm(exact))
        if not error <= LIMIT:
            raise click.ClickException(f"{op} {shape} by {name}: relative error {error:.2g}; allowed is {LIMIT:g}")
    return runs


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of each shape and direction, at least.")
@click.option("--dry", is_flag=True, help="Print, but append nothing.")
def main(threads: int, seconds: float, dry: bool) -> None:
    torch.set_num_threads(threads)
    table = Table("op", "vectors", "length", "front us", "20 to 80 %", "scipy", "ducc0", "torch.fft", "times fastest")
    rows: list[dict[str, object]] = []
    for op in ("dct", "idct"):
        for shape in SHAPES:
            times = in_turn(forms(op, shape, threads), seconds)
            us = {name: 1e6 * statistics.median(found) for name, found in times.items()}
            low, _, _, high = (1e6 * each for each in statistics.quantiles(times["front"], n=5))
            ratio = min(us[name] for name in us if name != "front") / us["front"]
            others = [f"{us[name]:.1f}" for name in us if name != "front"]
            table.add_row(op, *map(str, shape), f"{us['front']:.1f}", f"{low:.1f} {high:.1f}", *others, f"{ratio:.2f}")
            columns = {f"{name} us": round(each, 2) for name, each in us.items()}
            rows.append({"op": op, "vectors": shape[0], "length": shape[1], **columns, "ratio": round(ratio, 3)})
    Console().print(table)
    total = math.prod(float(str(row["ratio"])) for row in rows) ** (1 / len(rows))
    click.echo(f"{total:.2f} times the fastest other, geometric mean")
    if not dry:
        common = ledger.run_columns(threads, torch.ops.front._cpu_isa())
        ledger.append([{**common, **row} for row in rows], LEDGER)


if __name__ == "__main__":
    main()
