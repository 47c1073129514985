"""FRONT+ in a plain PyTorch loop: the three lines that are marked.

python examples/refine_pytorch.py --steps 200
"""

from __future__ import annotations

import click
import torch
from torch import nn

from front_models import SpectralRegularizer


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--lam", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Weight of the penalty.")
def main(steps: int, lam: float) -> None:
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    teacher = nn.Linear(64, 10)
    penalty = SpectralRegularizer(model, keep_ratio=0.5, reduction="mean")  # 1: once

    for step in range(steps):
        x = torch.randn(128, 64)
        loss = nn.functional.cross_entropy(model(x), teacher(x).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        share = penalty.accumulate_grad_(lam)  # 2: after backward (and a scaler's unscale_), before clipping
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (0, steps - 1):
            click.echo(f"step {step}: task loss {loss.item():.3f}, energy above the corner {share.item():.3f}")

    for row in penalty.report():  # 3: what a transfer would lose, role by role
        click.echo(f"{row.role:12} {row.share:.3f}")


if __name__ == "__main__":
    main()
