"""Bytes of the Python standard library's own source files, every tenth for validation, and a small GPT."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT, HEAD, BATCH, HELD_OUT = 64, 16, 32, 128


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.c_attn(x).view(b, t, 3, self.num_heads, HEAD).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(b, t, d))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Gpt(nn.Module):
    """GPT-2's names; the head is not tied to the embedding."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.h = nn.ModuleList([Block(width) for _ in range(layers)])
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        out: Tensor = self.lm_head(self.ln_f(x))
        return out


class Text:
    """Windows of CONTEXT bytes and the bytes that follow each."""

    def __init__(self) -> None:
        parts: tuple[list[bytes], list[bytes]] = [], []
        for i, file in enumerate(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))):
            parts[i % 10 == 0].append(file.read_bytes())
        self.train, validation = (
            torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8).long() for part in parts
        )
        starts = torch.randint(len(validation) - CONTEXT, (HELD_OUT,), generator=torch.Generator().manual_seed(7))
        self.held_out = _windows(validation, starts)

    def to(self, device: torch.device) -> Text:
        self.train = self.train.to(device)
        self.held_out = self.held_out[0].to(device), self.held_out[1].to(device)
        return self

    def order(self, steps: int, seed: int) -> Tensor:
        """Where the windows of every step begin."""
        return torch.randint(
            len(self.train) - CONTEXT, (steps, BATCH), generator=torch.Generator().manual_seed(seed)
        ).to(self.train.device)

    def batch(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        return _windows(self.train, starts)


def _windows(data: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    rows = data[starts[:, None] + torch.arange(CONTEXT + 1, device=data.device)]
    return rows[:, :-1], rows[:, 1:]


def flops(layers: int, width: int) -> float:
    """Of a training step: ``6 x matrix elements x tokens``, and ``12 x context x width`` per layer and token."""
    per_token = 6 * (12 * layers * width**2 + 256 * width) + 12 * layers * CONTEXT * width
    return float(BATCH * CONTEXT * per_token)
