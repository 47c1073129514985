"""A byte-level GPT started from a larger trained one by several recipes, and from random numbers.

    python -m experiments.language                 # 6 layers x 96 -> 3 x 64, some 20 minutes on two cores
    python -m experiments.language --source-steps 200 --steps 50

Text: the Python standard library's own source files, every tenth for validation; it is on every machine. The source
is trained once; every start then has the same budget, learning rate and data order. Printed and appended to the ledger:
the loss at some steps, and after how many a start has reached the random one's last loss. One seed tells little: see
--seeds.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional

import front_models
from front_kernels.bench import ledger

CONTEXT, HEAD = 64, 16
LEDGER = Path(__file__).parent / "results" / "language.csv"
RECIPES: dict[str, dict[str, object] | None] = {
    "random": None,
    "paper": {},
    "paper, area": {"gain": "area"},
    "paper, ortho": {"gain": "ortho"},
    "residual axis": {"axes": "residual", "depth_fill": "select"},
    "aligned": {"recipe": "aligned"},
}


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.c_attn(x).view(b, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(b, t, d))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """GPT-2's names; the head is not tied to the embedding."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD
        self.wte, self.wpe = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.h = nn.ModuleList([Block(width) for _ in range(layers)])
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def texts() -> tuple[Tensor, Tensor]:
    """Bytes to train on, and for validation."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts: tuple[list[bytes], list[bytes]] = [], []
    for i, file in enumerate(files):
        parts[i % 10 == 0].append(file.read_bytes())
    train, validation = (torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8).long() for part in parts)
    return train, validation


def batch(data: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(data) - CONTEXT - 1, (rows,), generator=generator)
    return torch.stack([data[start : start + CONTEXT + 1] for start in starts])


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(model: nn.Module, data: Tensor, held_out: Tensor, steps: int, every: int, seed: int) -> dict[int, float]:
    """The validation loss before every `every`th step, and after the last."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    curve = {}
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            with torch.no_grad():
                curve[step] = loss_of(model, held_out).item()
        if step < steps:
            optimizer.zero_grad()
            loss_of(model, batch(data, 32, generator)).backward()
            optimizer.step()
    return curve


def reached(curve: dict[int, float], loss: float) -> int | None:
    """The first step at which the loss is no more than that."""
    return next((step for step, value in curve.items() if value <= loss), None)


def run(
    source: tuple[int, int], target: tuple[int, int], source_steps: int, steps: int, every: int, seed: int,
    say: Callable[[str], None],
) -> list[dict[str, object]]:  # fmt: skip
    """A row for each recipe."""
    data, validation = texts()
    held_out = batch(validation, 128, torch.Generator().manual_seed(7))
    torch.manual_seed(seed)
    trained = Gpt(*source)
    last = list(train(trained, data, held_out, source_steps, source_steps, seed).values())[-1]
    say(f"source {source[0]} x {source[1]}: loss {last:.3f} after {source_steps} steps")
    curves = {}
    for name, options in RECIPES.items():
        torch.manual_seed(seed + 1)
        model = Gpt(*target)
        if options is not None:
            model.load_state_dict(front_models.transfer(trained, model, **options)[0])  # type: ignore[arg-type]
        curves[name] = train(model, data, held_out, steps, every, seed + 2)
    goal = curves["random"][steps]
    rows: list[dict[str, object]] = []
    for name, curve in curves.items():
        first = reached(curve, goal)
        some = {step: round(curve[step], 3) for step in curve if step in (0, every, 5 * every, steps)}
        say(f"{name:14} loss {some}, the random start's last one after {first} steps")
        row: dict[str, object] = {"source": f"{source[0]}x{source[1]}", "target": f"{target[0]}x{target[1]}"}
        row |= {
            "source steps": source_steps,
            "source loss": round(last, 4),
            "start": name,
            "steps": steps,
            "seed": seed,
        }
        row["steps to random's last loss"] = first
        rows.append(row | {f"loss at {step}": round(value, 4) for step, value in curve.items()})
    return rows


@click.command()
@click.option("--source", type=(int, int), default=(6, 96), show_default=True, help="Layers and width.")
@click.option("--target", type=(int, int), default=(3, 64), show_default=True)
@click.option("--source-steps", type=click.IntRange(min=1), default=2500, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=400, show_default=True)
@click.option("--every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between validations.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--ledger", "path", type=click.Path(dir_okay=False, path_type=Path), default=LEDGER, show_default=False)
def main(
    source: tuple[int, int], target: tuple[int, int], source_steps: int, steps: int, every: int, seeds: int, path: Path
) -> None:
    """Losses of a small GPT by how it was started."""
    for name, (layers, width) in (("source", source), ("target", target)):
        if layers < 1 or width < HEAD or width % HEAD:
            raise click.BadParameter(
                f"got {layers} {width}; allowed are 1 layer and more, widths that {HEAD} divides",
                param_hint=f"--{name}",
            )
    common = {"torch": torch.__version__, "cpu": ledger.cpu_name(), "commit": ledger.commit(), "date": ledger.today()}
    for seed in range(seeds):
        rows = run(source, target, source_steps, steps, every, 10 * seed, click.echo)
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger.append([common | row for row in rows], path)


if __name__ == "__main__":
    main()
