"""FRONT+ with Lightning: a callback.

`on_before_optimizer_step` comes once per optimizer step, after accumulation and after a scaler's unscaling, and before
Lightning clips: the penalty's gradient is clipped together with the task's.

python examples/refine_lightning.py --steps 20
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import click
import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from front_models import SpectralRegularizer


class SpectralPenalty(lightning.Callback):
    """Adds ``lam`` times the gradient of the share of energy above the corner."""

    def __init__(self, lam: float, keep_ratio: float = 0.5) -> None:
        self.lam, self.keep_ratio = lam, keep_ratio
        self.shares: list[float] = []

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.penalty = SpectralRegularizer(pl_module, keep_ratio=self.keep_ratio, reduction="mean")

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.shares.append(self.penalty.accumulate_grad_(self.lam).item())


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 4))

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--lam", type=click.FloatRange(min=0), default=1.0, show_default=True)
def main(steps: int, lam: float) -> None:
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    x = torch.randn(256, 32)
    loader = DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=16, shuffle=True)
    callback = SpectralPenalty(lam)
    trainer = lightning.Trainer(
        max_steps=steps,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        callbacks=[callback],
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), loader)
    click.echo(f"energy above the corner: {callback.shares[0]:.4f} -> {callback.shares[-1]:.4f}")
    click.echo(f"penalty steps: {len(callback.shares)}")


if __name__ == "__main__":
    main()
