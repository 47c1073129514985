"""The spectral loss against what one would write with torch.fft: `make bench-spectral`.

1. Loss and gradient of DeiT-S-shaped parameters (keep 0.5, standardised): `spectral_grad_many_` against standardising,
   two DCTs, a mask, squares and backward, in one process, alternating, medians.
2. Extra peak memory of each, in a process of its own.
3. The share of `accumulate_grad_` in a training step of a small vision transformer (batch 64, AdamW).
4. Relative error of the loss against float64 by the share of energy outside the corner.

Results are verified against float64 first. Appends its rows to bench/results/spectral.csv.
"""

from __future__ import annotations

import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import front_kernels as fk
import ledger
from front_kernels import reference
from front_models import SpectralRegularizer
from torch_fft_baseline import dct

LEDGER = Path(__file__).parent / "results" / "spectral.csv"
KEEP = 0.5
SHARES = {1.0: 1e-5, 1e-3: 1e-5, 1e-6: 1e-4, 1e-9: 2e-3}
Size = tuple[int, int]


def deit_small() -> list[Size]:
    """Its parameters as matrices."""
    dim = 384
    block = [(3 * dim, dim), (dim, dim), (4 * dim, dim), (dim, 4 * dim), (1, 3 * dim), (1, 4 * dim)] + [(1, dim)] * 6
    return block * 12 + [(dim, 768), (1, dim), (1, dim), (198, dim), (1000, dim), (1, 1000), (1, dim), (1, dim)]


def kept(size: Size) -> Size:
    return max(1, int(size[0] * KEEP)), max(1, int(size[1] * KEEP))


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) * 0.02 for size in deit_small()]


@functools.cache
def orthonormal(n: int) -> Tensor:
    """From unscaled coefficients."""
    scale = torch.full((n,), math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    return scale


def torch_fft_loss(xs: list[Tensor]) -> Tensor:
    """Standardised, two DCTs by a real FFT each, a mask, squares."""
    total = torch.zeros(())
    for x in xs:
        y = (x - x.mean()) / (x.std() + 1e-8)
        c = dct(dct(y).mT).mT if len(x) > 1 else dct(y)
        c = c * orthonormal(x.shape[1]) * (orthonormal(len(x))[:, None] if len(x) > 1 else 1.0)
        mask = torch.ones_like(c)
        k = kept((x.shape[0], x.shape[1]))
        mask[: k[0], : k[1]] = 0
        total = total + (c * mask).square().sum()
    return total


def ours(xs: list[Tensor], grads: list[Tensor]) -> Tensor:
    ks = [kept((x.shape[0], x.shape[1])) for x in xs]
    return fk.spectral_grad_many_(grads, xs, ks, 1.0, standardize=True)


def medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for run in functions.values():
        run()
    for _ in range(rounds):
        for name, run in functions.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def compare(rounds: int) -> dict[str, object]:
    xs = parameters()
    grads = [torch.zeros_like(x) for x in xs]
    leaves = [x.clone().requires_grad_() for x in xs]

    def backward() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch_fft_loss(leaves).backward()

    found = ours(xs, grads)
    expected = sum(float(reference.spectral_loss(x, kept((x.shape[0], x.shape[1])), standardize=True)) for x in xs)
    backward()
    error = abs(found.item() / expected - 1)
    worst = max(
        float((grad - leaf.grad).norm() / leaf.grad.norm())
        for grad, leaf in zip(grads, leaves, strict=True)
        if leaf.grad is not None and leaf.shape[0] > 1
    )
    if error > 1e-5 or worst > 1e-4:
        raise click.ClickException(f"wrong results: loss off by {error:.2g}, gradients differ by {worst:.2g}")
    times = medians({"front": lambda: ours(xs, grads), "torch.fft": backward}, rounds)
    return {
        "what": "DeiT-S loss and gradient",
        "front ms": round(times["front"] * 1e3, 2),
        "torch.fft ms": round(times["torch.fft"] * 1e3, 2),
        "ratio": round(times["front"] / times["torch.fft"], 4),
        "limit": 1 / 8,
        "error": f"{error:.2g}",
    }


def peak() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024


def extra_memory(form: str) -> int:
    """Of one call, in this process."""
    torch.set_num_threads(2)
    xs = parameters()
    if form == "front":
        grads = [torch.zeros_like(x) for x in xs]
        small = [x[:8, :8].contiguous() for x in xs]
        ours(small, [torch.zeros_like(x) for x in small])
        before = peak()
        ours(xs, grads)
    else:
        for x in xs:
            x.requires_grad_()
            x.grad = torch.zeros_like(x)
        small = [x[:8, :8].detach().clone().requires_grad_() for x in xs]
        torch_fft_loss(small).backward()
        before = peak()
        torch_fft_loss(xs).backward()
    return peak() - before


def memory() -> dict[str, object]:
    found = {}
    for form in ("front", "torch.fft"):
        run = [sys.executable, __file__, "--memory", form]
        found[form] = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    return {
        "what": "DeiT-S extra peak memory",
        "front MiB": round(found["front"] / 2**20, 1),
        "torch.fft MiB": round(found["torch.fft"] / 2**20, 1),
        "ratio": round(found["front"] / found["torch.fft"], 4),
        "limit": 0.25,
    }


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class SmallViT(nn.Module):
    """32 x 32 images in patches of 4, 6 blocks of 192."""

    def __init__(self, dim: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.pos = nn.Parameter(torch.randn(1, 64, dim) * 0.02)
        self.blocks = nn.ModuleList([Block(dim, 3) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def training_share(rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = SmallViT()
    optimizer = torch.optim.AdamW(model.parameters())
    regularizer = SpectralRegularizer(model, keep_ratio=KEEP)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    times = medians({"step": step, "penalty": lambda: regularizer.accumulate_grad_(0.0)}, rounds)
    return {
        "what": "share of a training step, small ViT, batch 64",
        "front ms": round(times["penalty"] * 1e3, 2),
        "step ms": round(times["step"] * 1e3, 1),
        "ratio": round(times["penalty"] / (times["step"] + times["penalty"]), 4),
        "limit": 0.1,
    }


def of_share(share: float, size: Size = (1024, 768), k: Size = (256, 192)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    c = torch.randn(size, generator=generator, dtype=torch.float64)
    low = torch.zeros_like(c)
    low[: k[0], : k[1]] = c[: k[0], : k[1]]
    high = c - low
    low *= ((1 - share) / low.square().sum()).sqrt()
    high *= (share / high.square().sum()).sqrt()
    return reference.idct2(low + high).float()


def errors() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    k = (256, 192)
    for share, limit in SHARES.items():
        x = of_share(share)
        expected = float(reference.spectral_loss(x, k))
        value = fk.spectral_loss(x, k).item()
        loss = fk.spectral_grad_many_([torch.zeros_like(x)], [x], [k], 1.0).item()
        error = max(abs(value / expected - 1), abs(loss / expected - 1))
        rows.append({"what": f"error of the loss, share {share:g}, 1024x768", "ratio": f"{error:.2g}", "limit": limit})
    return rows


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--dry", is_flag=True, help="Print, but append nothing.")
@click.option("--memory", "form", type=click.Choice(["front", "torch.fft"]), help="Only: extra bytes of one form.")
def main(rounds: int, dry: bool, form: str | None) -> None:
    if form is not None:
        click.echo(extra_memory(form))
        return
    torch.set_num_threads(2)
    rows = [compare(rounds), memory(), training_share(rounds), *errors()]
    table = Table("what", "front", "beside", "ratio or error", "at most", "")
    for row in rows:
        front = row.get("front ms", row.get("front MiB", ""))
        beside = row.get("torch.fft ms", row.get("torch.fft MiB", row.get("step ms", "")))
        held = float(str(row["ratio"])) <= float(str(row["limit"]))
        table.add_row(*map(str, (row["what"], front, beside, row["ratio"], row["limit"], "held" if held else "MISSED")))
    Console().print(table)
    if not dry:
        common = ledger.run_columns(2, torch.ops.front._cpu_isa())
        ledger.append([{**common, **row} for row in rows], LEDGER)


if __name__ == "__main__":
    main()
