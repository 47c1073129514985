"""CPU ops against the alternatives: `make bench-cpu`, or `python bench/cpu.py [--rows 4096x4096:512x512 ...]`.

Every row: float32, warm, into `out=`, medians in one process, ours and each peer in turn. Each result is compared with
float64 before it is timed. `read` is the time to read the larger side once (a sum). Peers: ducc0 by axis with the crop
or padding between the passes, ducc0 in two dimensions, scipy.fft, matmul with a cached basis, torch_dct. Appends a row
per size to bench/results/cpu.csv. Run it on an idle machine: the other load of shared machines shows.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import ducc0
import numpy as np
import scipy.fft
import torch
import torch_dct
from rich.console import Console
from rich.table import Table

import front_kernels as fk

LEDGER = Path(__file__).parent / "results" / "cpu.csv"
FORWARD = [
    ((768, 768), (384, 384)),
    ((3072, 768), (1536, 384)),
    ((4096, 4096), (512, 512)),
    ((4096, 4096), (1024, 1024)),
    ((4096, 4096), (2048, 2048)),
    ((4096, 4096), (4096, 4096)),
    ((8192, 8192), (1024, 1024)),
    ((11008, 4096), (2752, 1024)),
    ((30522, 384), (15261, 192)),
]
INVERSE = [
    ((4096, 4096), (512, 512)),
    ((4096, 4096), (2048, 2048)),
    ((4096, 4096), (4096, 4096)),
    ((3072, 768), (1536, 384)),
    ((11008, 4096), (2752, 1024)),
]
Size = tuple[int, int]
Run = Callable[[], np.ndarray]
TOLERANCE = 5e-6  # relative L2 error of any peer against float64; ours is printed


def padded(y: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(y, ((0, rows - y.shape[0]), (0, columns - y.shape[1])))


def ducc(x: np.ndarray, kind: int, axes: tuple[int, ...], threads: int) -> np.ndarray:
    return ducc0.fft.dct(x, type=kind, axes=axes, inorm=1, nthreads=threads)


def forward_peers(x: torch.Tensor, k: Size, threads: int) -> dict[str, Run]:
    a, (m, n) = x.numpy(), x.shape

    def ducc_axes() -> np.ndarray:
        first = np.ascontiguousarray(ducc(a, 2, (1,), threads)[:, : k[1]])
        return ducc(first, 2, (0,), threads)[: k[0]]

    peers: dict[str, Run] = {
        "ducc0 by axis": ducc_axes,
        "ducc0 2-D": lambda: ducc(a, 2, (0, 1), threads)[: k[0], : k[1]],
        "scipy": lambda: scipy.fft.dctn(a, norm="ortho", workers=threads)[: k[0], : k[1]],
        "torch_dct": lambda: torch_dct.dct_2d(x, norm="ortho")[: k[0], : k[1]].numpy(),
    }
    if m < 20_000:  # the basis of more is larger than the matrix
        rows, columns = fk.reference.basis(m, k[0]).float(), fk.reference.basis(n, k[1]).float()
        peers["matmul"] = lambda: (rows @ (x @ columns.T)).numpy()
    return peers


def inverse_peers(y: torch.Tensor, size: Size, threads: int) -> dict[str, Run]:
    a, (m, n) = y.numpy(), size
    rows, columns = fk.reference.basis(m, y.shape[0]).float(), fk.reference.basis(n, y.shape[1]).float()

    def ducc_axes() -> np.ndarray:
        first = ducc(padded(a, m, a.shape[1]), 3, (0,), threads)
        return ducc(padded(first, m, n), 3, (1,), threads)

    return {
        "ducc0 by axis": ducc_axes,
        "ducc0 2-D": lambda: ducc(padded(a, m, n), 3, (0, 1), threads),
        "scipy": lambda: scipy.fft.idctn(padded(a, m, n), norm="ortho", workers=threads),
        "torch_dct": lambda: torch_dct.idct_2d(torch.from_numpy(padded(a, m, n)), norm="ortho").numpy(),
        "matmul": lambda: (rows.T @ (y @ columns)).numpy(),
    }


def seconds(runs: dict[str, Callable[[], object]], budget: float) -> dict[str, list[float]]:
    """Times of all runs, taken in turn until each has been run 5 times and `budget` seconds are over."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or time.perf_counter() - started < budget:
        for name, run in runs.items():
            run()  # warm: the peer before it has emptied the caches
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return times


def measure(direction: str, size: Size, k: Size, threads: int, budget: float) -> dict[str, object]:
    large, small = torch.randn(size), torch.randn(k)
    out = torch.empty(k if direction == "forward" else size)
    if direction == "forward":
        exact = scipy.fft.dct(large.double().numpy(), norm="ortho", workers=threads)[:, : k[1]]
        exact = scipy.fft.dct(exact, axis=0, norm="ortho", workers=threads)[: k[0]]
        peers = forward_peers(large, k, threads)
    else:
        exact = scipy.fft.idctn(padded(small.double().numpy(), *size), norm="ortho", workers=threads)
        peers = inverse_peers(small, size, threads)

    def ours() -> None:
        fk.dct_crop(large, k, out=out) if direction == "forward" else fk.idct_pad(small, size, out=out)

    def error(result: np.ndarray) -> float:
        return float(np.linalg.norm(result.astype(np.float64) - exact) / np.linalg.norm(exact))

    ours()
    own_error = error(out.numpy())
    for name, run in peers.items():
        if error(run()) > TOLERANCE:
            raise SystemExit(f"{direction} {size} {k}: {name} is wrong by {error(run()):.2g}")
    with torch.inference_mode():
        times = seconds({"front": ours, "read": large.sum, **peers}, budget)
    median = {name: statistics.median(values) for name, values in times.items()}
    low, _, _, high = statistics.quantiles(times["front"], n=5)
    best = min(peers, key=lambda name: median[name])
    return {
        "direction": direction,
        "size": "x".join(map(str, size)),
        "kept": "x".join(map(str, k)),
        "ms": round(1e3 * median["front"], 3),
        "ms_20": round(1e3 * low, 3),
        "ms_80": round(1e3 * high, 3),
        "gb_s": round(4 * (size[0] * size[1] + k[0] * k[1]) / median["front"] / 1e9, 2),
        "percent_of_read": round(100 * median["read"] / median["front"], 1),
        "best_peer": best,
        "times_best_peer": round(median[best] / median["front"], 2),
        **{f"times_{name.replace(' ', '_')}": round(median[name] / median["front"], 2) for name in sorted(peers)},
        "relative_error": f"{own_error:.2g}",
    }


def machine(threads: int) -> dict[str, object]:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    return {
        "cpu": names[0] if names else platform.machine(),
        "threads": threads,
        "isa": fk.build_info()["cpu_isa"],
        **{name: version(name) for name in ("torch", "scipy", "ducc0", "torch-dct")},
        "commit": commit.stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on a row")
    parser.add_argument("--rows", nargs="*", help="only these, as 4096x4096:512x512")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cases = [("forward", *case) for case in FORWARD] + [("inverse", *case) for case in INVERSE]
    if options.rows:
        cases = [c for c in cases if f"{c[1][0]}x{c[1][1]}:{c[2][0]}x{c[2][1]}" in options.rows]
    columns = (
        "direction",
        "size",
        "kept",
        "ms",
        "ms_20",
        "ms_80",
        "gb_s",
        "percent_of_read",
        "best_peer",
        "times_best_peer",
        "relative_error",
    )
    table = Table(*columns)
    results = []
    for case in cases:
        result = measure(*case, options.threads, options.seconds)
        results.append(result | machine(options.threads))
        table.add_row(*(str(result[name]) for name in columns))
    Console(width=160).print(table)
    LEDGER.parent.mkdir(exist_ok=True)
    fields = list(dict.fromkeys(name for result in results for name in result))
    if LEDGER.exists():
        with LEDGER.open(newline="") as file:
            old = list(csv.DictReader(file))
    else:
        old = []
    with LEDGER.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(dict.fromkeys([*(old[0] if old else []), *fields])), restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows([*old, *results])


if __name__ == "__main__":
    main()
