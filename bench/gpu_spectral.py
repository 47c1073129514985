"""The spectral loss on a GPU: times of loss and gradient, for the figures in docs/GPU.md.

    python bench/gpu_spectral.py [--out FOLDER]

8192 x 8192 in float32 keeping an eighth of each axis, and all parameters of DeiT-B keeping half, standardised. Medians
of CUDA events, for a call while the device is idle and for its kernels in a graph; beside them two reads of x and a
read-modify-write of the gradient at the bandwidth of a copy. The loss is compared first: with the CPU's, or of the
large matrix by another formula.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

import front_kernels as fk
from front_kernels.bench import ledger

Size = tuple[int, int]


def deit_base() -> list[Size]:
    dim = 768
    block = [(3 * dim, dim), (dim, dim), (4 * dim, dim), (dim, 4 * dim), (1, 3 * dim), (1, 4 * dim)] + [(1, dim)] * 6
    return block * 12 + [(dim, 768), (1, dim), (1, dim), (198, dim), (1000, dim), (1, 1000), (1, dim), (1, dim)]


def median_us(call: Callable[[], object], runs: int = 30) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    return statistics.median(times)


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call's kernels alone: what a training loop pays, in which the host runs ahead of the device."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def copied_bytes_per_us() -> float:
    a = torch.empty(1 << 28, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.nbytes / median_us(lambda: b.copy_(a))


def row(
    name: str, xs: list[Tensor], ks: list[Size], limit_us: float, expected: float, rate: float
) -> dict[str, object]:
    grads = [torch.zeros_like(x) for x in xs]
    loss = fk.spectral_grad_many_(grads, xs, ks, 1.0, standardize=True).item()
    error = abs(loss / expected - 1)
    if not error < 1e-4:
        raise click.ClickException(f"{name}: loss {loss}, expected {expected}")

    def call() -> Tensor:
        return fk.spectral_grad_many_(grads, xs, ks, 1.0, standardize=True)

    us, graph_us = median_us(call), median_us(graphed(call))
    least = 4 * sum(x.nbytes for x in xs) / rate
    verdict = "held" if graph_us <= limit_us else "MISSED"
    click.echo(
        f"{name}: {graph_us:.1f} us in a graph (at most {limit_us:g}: {verdict}), {us:.1f} with the host's share, "
        f"memory alone {least:.1f}, loss off by {error:.1g}"
    )
    return {
        "what": name,
        "us": round(us, 1),
        "graph_us": round(graph_us, 1),
        "limit_us": limit_us,
        "memory_us": round(least, 1),
        "error": f"{error:.1g}",
    }


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("bench/results"))
def main(out: Path) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("no GPU: torch.cuda.is_available() is false")
    rate = copied_bytes_per_us()
    torch.manual_seed(0)
    x, k = torch.randn(8192, 8192, device="cuda"), (1024, 1024)
    d = (x - x.mean()).double() / (x.double().std() + 1e-8)
    expected = float(d.square().sum() - fk.dct_crop(d, k).square().sum())
    del d
    rows = [row("8192x8192 float32, an eighth kept", [x], [k], 370, expected, rate)]
    xs = [torch.randn(size, device="cuda") * 0.02 for size in deit_base()]
    ks = [(max(1, m // 2), max(1, n // 2)) for m, n in deit_base()]
    expected = float(fk.spectral_loss_many([x.cpu() for x in xs], ks, standardize=True))
    rows.append(row("DeiT-B, all parameters, half kept", xs, ks, 1000, expected, rate))
    common = ledger.run_columns(torch.device("cuda", 0))
    out.mkdir(parents=True, exist_ok=True)
    ledger.append([common | each for each in rows], out / "gpu_spectral.csv")


if __name__ == "__main__":
    main()
