"""FRONT+ with the Hugging Face Trainer: a callback.

`on_pre_optimizer_step` comes once per optimizer step, after the micro-batches were accumulated and the task's gradients
unscaled, and after the Trainer's own clipping. That is given no limit (`max_grad_norm=float("inf")`; with 0 a Trainer
of transformers 4 would not unscale either): the callback adds the penalty's gradient and clips the sum.

python examples/refine_hf_trainer.py --steps 20
"""

from __future__ import annotations

import tempfile
from typing import Any

import click
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from front_models import SpectralRegularizer


class SpectralPenalty(TrainerCallback):
    """Adds ``lam`` times the gradient of the share of energy above the corner, and clips all gradients together."""

    def __init__(self, lam: float, keep_ratio: float = 0.5, max_grad_norm: float = 1.0) -> None:
        self.lam, self.keep_ratio, self.max_grad_norm = lam, keep_ratio, max_grad_norm
        self.shares: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.penalty = SpectralRegularizer(kwargs["model"], keep_ratio=self.keep_ratio, reduction="mean")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.shares.append(self.penalty.accumulate_grad_(self.lam).item())
        torch.nn.utils.clip_grad_norm_(kwargs["model"].parameters(), self.max_grad_norm)


def data(rows: int = 64, length: int = 32) -> list[dict[str, torch.Tensor]]:
    """Counting, from a random start."""
    starts = torch.randint(0, 90, (rows, 1))
    tokens = (starts + torch.arange(length)) % 100
    return [{"input_ids": row, "labels": row} for row in tokens]


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--lam", type=click.FloatRange(min=0), default=1.0, show_default=True)
def main(steps: int, lam: float) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=32, n_embd=64, n_layer=2, n_head=4))
    callback = SpectralPenalty(lam)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            max_grad_norm=float("inf"),  # the callback clips
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
        )
        result = Trainer(model=model, args=arguments, train_dataset=data(), callbacks=[callback]).train()
    click.echo(f"mean task loss {result.training_loss:.3f}")
    click.echo(f"energy above the corner: {callback.shares[0]:.4f} -> {callback.shares[-1]:.4f}")
    click.echo(f"penalty steps: {len(callback.shares)}")


if __name__ == "__main__":
    main()
