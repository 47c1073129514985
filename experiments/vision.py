"""scikit-learn's handwritten digits, 8 x 8 pixels, every fifth for validation, and a small ViT."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

HEAD, PATCH, TOKENS, CLASSES, BATCH = 16, 2, 17, 10, 64


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, HEAD).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class Vit(nn.Module):
    """timm's names."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = (nn.Parameter(torch.zeros(1, n, width)) for n in (1, TOKENS))
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x)[:, 0])
        return out


SHIFTS = [(dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1)]


class Digits:
    """Images, standardised, and their classes. Those to train on also moved by a pixel, at random in every epoch:
    without that all models know the few images by heart within the steps that are compared.
    """

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
        classes = torch.tensor(labels)
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(7))
        held, rest = shuffled[::5], shuffled[torch.arange(len(shuffled)) % 5 > 0]
        mean, std = pixels[rest].mean(), pixels[rest].std()
        padded = functional.pad(pixels[rest], (1, 1, 1, 1))
        moved = torch.cat([padded[..., 1 + dy : 9 + dy, 1 + dx : 9 + dx] for dy, dx in SHIFTS])
        self.train, self.labels = (moved - mean) / std, classes[rest].repeat(len(SHIFTS))
        self.held_out = (pixels[held] - mean) / std, classes[held]

    def to(self, device: torch.device) -> Digits:
        self.train, self.labels = self.train.to(device), self.labels.to(device)
        self.held_out = self.held_out[0].to(device), self.held_out[1].to(device)
        return self

    def order(self, steps: int, seed: int) -> Tensor:
        """Which images each step takes: every epoch in another order, each image moved anew."""
        generator, count = torch.Generator().manual_seed(seed), len(self.labels) // len(SHIFTS)
        epochs = torch.cat([torch.randperm(count, generator=generator) for _ in range(steps * BATCH // count + 1)])
        moves = torch.randint(len(SHIFTS), epochs.shape, generator=generator)
        return (epochs + moves * count)[: steps * BATCH].view(steps, BATCH).to(self.train.device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.train[rows], self.labels[rows]


def flops(layers: int, width: int) -> float:
    """Of a training step: ``6 x matrix elements x tokens``, and ``12 x tokens x width`` per layer and token."""
    per_token = 6 * 12 * layers * width**2 + 12 * layers * TOKENS * width
    ends = 6 * width * ((TOKENS - 1) * PATCH**2 + CLASSES)
    return float(BATCH * (TOKENS * per_token + ends))
