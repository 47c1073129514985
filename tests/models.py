"""Small models of known architectures, and FRONT written down densely: what the tests compare with."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import front_models
from front_models import RoleRow, TransferReport

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Shapes = dict[str, tuple[int, ...]]


def fill(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of these shapes with different means, so that a lost or swapped mean shows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.1 + 0.01 * (i % 7)).to(dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def vit(dim: int, depth: int, classes: int = 10, mlp: int = 0, distilled: bool = False) -> Shapes:
    """timm's vit / deit key layout."""
    mlp = mlp or 4 * dim
    shapes: Shapes = {"cls_token": (1, 1, dim)}
    if distilled:
        shapes["dist_token"] = (1, 1, dim)
    shapes |= {"pos_embed": (1, 17 + distilled, dim), "patch_embed.proj.weight": (dim, 3, 4, 4)}
    shapes["patch_embed.proj.bias"] = (dim,)
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", dim) | linear(f"{block}.attn.qkv", 3 * dim, dim)
        shapes |= linear(f"{block}.attn.proj", dim, dim) | norm(f"{block}.norm2", dim)
        shapes |= linear(f"{block}.mlp.fc1", mlp, dim) | linear(f"{block}.mlp.fc2", dim, mlp)
    shapes |= norm("norm", dim) | linear("head", classes, dim)
    if distilled:
        shapes |= linear("head_dist", classes, dim)
    return shapes


def torchvision_vit(dim: int, depth: int) -> Shapes:
    """torchvision's vision transformer: layers are `encoder_layer_N`."""
    shapes: Shapes = {"class_token": (1, 1, dim), "conv_proj.weight": (dim, 3, 4, 4), "conv_proj.bias": (dim,)}
    shapes["encoder.pos_embedding"] = (1, 17, dim)
    for i in range(depth):
        layer = f"encoder.layers.encoder_layer_{i}"
        shapes |= norm(f"{layer}.ln_1", dim)
        shapes[f"{layer}.self_attention.in_proj_weight"] = (3 * dim, dim)
        shapes[f"{layer}.self_attention.in_proj_bias"] = (3 * dim,)
        shapes |= linear(f"{layer}.self_attention.out_proj", dim, dim) | norm(f"{layer}.ln_2", dim)
        shapes |= linear(f"{layer}.mlp.0", 4 * dim, dim) | linear(f"{layer}.mlp.3", dim, 4 * dim)
    return shapes | norm("encoder.ln", dim) | linear("heads.head", 10, dim)


def mixture(dim: int, depth: int, experts: int, dense_first: bool = False) -> Shapes:
    """A gated mixture of experts; the first layer may have a plain MLP instead (DeepSeek)."""
    shapes: Shapes = {"model.embed_tokens.weight": (50, dim)}
    for i in range(depth):
        layer = f"model.layers.{i}"
        for word in "qkvo":
            shapes[f"{layer}.self_attn.{word}_proj.weight"] = (dim, dim)
        width = 4 * dim if i == 0 and dense_first else 2 * dim
        places = ["mlp"] if i == 0 and dense_first else [f"mlp.experts.{e}" for e in range(experts)]
        for place in places:
            shapes[f"{layer}.{place}.gate_proj.weight"] = (width, dim)
            shapes[f"{layer}.{place}.up_proj.weight"] = (width, dim)
            shapes[f"{layer}.{place}.down_proj.weight"] = (dim, width)
        if not (i == 0 and dense_first):
            shapes[f"{layer}.mlp.gate.weight"] = (experts, dim)
        shapes |= {f"{layer}.input_layernorm.weight": (dim,), f"{layer}.post_attention_layernorm.weight": (dim,)}
    return shapes | {"model.norm.weight": (dim,), "lm_head.weight": (50, dim)}


def mlp(*widths: int) -> nn.Sequential:
    """A plain MLP: Linear, ReLU, Linear, ..."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def bert(dim: int = 16, depth: int = 3, mlp_size: int = 64, heads: int = 2, head: str = "none", classes: int = 3):
    """Hugging Face BERT; `head`: none, mlm (tied decoder) or classify."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp_size,
        max_position_embeddings=24,
        num_labels=classes,
    )
    kinds = {
        "none": transformers.BertModel,
        "mlm": transformers.BertForMaskedLM,
        "classify": transformers.BertForSequenceClassification,
    }
    return kinds[head](config)


def gpt2(dim: int = 16, depth: int = 3, inner: int | None = None, heads: int = 2):
    """Hugging Face GPT-2 with its tied lm_head."""
    import transformers

    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=24, n_embd=dim, n_layer=depth, n_head=heads, n_inner=inner)
    )


def llama(dim: int = 16, depth: int = 3, tied: bool = False):
    """Hugging Face Llama with grouped-query attention."""
    import transformers

    torch.manual_seed(2)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40,
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=3 * dim,
            tie_word_embeddings=tied,
        )
    )


def hf_vit(dim: int = 16, depth: int = 3):
    """Hugging Face ViT with a classifier, for images of 8 x 8."""
    import transformers

    torch.manual_seed(4)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=2,
            intermediate_size=2 * dim,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    )


def t5(dim: int = 16, depth: int = 3):
    """Hugging Face T5: numbered sub-layers in each block, a position bias in block 0 only."""
    import transformers

    torch.manual_seed(3)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=40, d_model=dim, d_kv=8, d_ff=3 * dim, num_layers=depth, num_heads=2)
    )


def shapes_of(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def cosines(n: int) -> Tensor:
    """C_N[u, i] = cos(pi (2i+1) u / 2N)."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.cos(math.pi * (2 * i[None, :] + 1) * i[:, None] / (2 * n))


def as_matrix(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    if tensor.ndim == 2:
        return tensor
    return tensor.flatten(2).flatten(0, 1)


def dense_coefficients(layers: Sequence[Tensor], keep_ratio: float, axes: tuple[bool, bool]) -> Tensor:
    """[L, k0, k1]: standardised, transformed along both axes, cropped, transformed along the layers."""
    blocks = []
    for layer in layers:
        w = as_matrix(layer.to(torch.float64))
        std = w.std() if w.numel() > 1 else torch.zeros(())
        x = torch.zeros_like(w) if std <= 8 * torch.finfo(layer.dtype).eps * w.abs().max() else w - w.mean()
        x = x / (std + 1e-8)
        for axis, transformed in enumerate(axes):
            if transformed:
                n = x.shape[axis]
                x = torch.tensordot(cosines(n), x.movedim(axis, 0), 1).movedim(0, axis)
                x = x.narrow(axis, 0, max(1, int(n * keep_ratio)))
        blocks.append(x)
    return torch.tensordot(cosines(len(blocks)), torch.stack(blocks), 1)


def dense_transfer(
    layers: Sequence[Tensor],
    shape: tuple[int, ...],
    depth: int,
    *,
    keep_ratio: float = 1.0,
    axes: tuple[bool, bool] = (True, True),
    gain: str | None = None,
    depth_fill: str = "zero",
    select_n: int | None = None,
) -> list[Tensor]:
    """The whole method for one role, in float64, with full matrices and their numerical inverses."""
    kept = dense_coefficients(layers, keep_ratio, axes)
    source = as_matrix(layers[0]).shape
    size = as_matrix(torch.empty(shape)).shape
    count = min(len(layers), depth, select_n or depth)
    slots = torch.zeros(len(layers) if depth_fill == "repeat" else depth, *kept.shape[1:], dtype=torch.float64)
    if depth_fill == "consistence":
        repeats = torch.tensor([depth // count + (i < depth % count) for i in range(count)])
        slots[:] = kept[:count].repeat_interleave(repeats, 0)
    else:
        slots[:count] = kept[:count]
    blocks = torch.tensordot(torch.linalg.inv(cosines(len(slots))), slots, 1)[:depth]
    results = []
    for i, block in enumerate(blocks):
        x = torch.zeros(size, dtype=torch.float64)
        cut = block[: size[0], : size[1]]
        x[: cut.shape[0], : cut.shape[1]] = cut
        for axis, transformed in enumerate(axes):
            if transformed:
                inverse = torch.linalg.inv(cosines(size[axis]))
                x = torch.tensordot(inverse, x.movedim(axis, 0), 1).movedim(0, axis)
                if gain == "area":
                    x = x * size[axis] / kept.shape[1 + axis]
                elif gain == "ortho":
                    x = x * math.sqrt(size[axis] / source[axis])
        w = layers[min(i, len(layers) - 1)].to(torch.float64)
        std = w.std() if w.numel() > 1 else 0.0
        results.append((x * std + w.mean()).reshape(shape))
    return results


def error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 error; infinite for a wrong shape or a value that is not finite."""
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return math.inf
    expected = expected.to(torch.float64)
    return float((actual.detach().to(torch.float64) - expected).norm() / expected.norm().clamp_min(1e-30))


def clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def both_ways(
    source: Any, like: dict[str, Tensor], seed: int = 0, **options: Any
) -> tuple[dict[str, Tensor], TransferReport]:
    """transfer(), after checking that extract() and initialize() do the same."""
    taken = {k: options[k] for k in ("keep_ratio", "mlp_axes", "depth", "skip") if k in options}
    started = {k: v for k, v in options.items() if k not in taken}
    result, report = front_models.transfer(source, like, **options, generator=torch.Generator().manual_seed(seed))
    inplace = clone(like)
    gene = front_models.extract(source, **taken)
    other = front_models.initialize(inplace, gene, **started, generator=torch.Generator().manual_seed(seed))
    for name in like:
        assert result[name].dtype == like[name].dtype
        tolerance = max(1e-5, torch.finfo(result[name].dtype).eps) if result[name].is_floating_point() else 0
        assert torch.allclose(result[name], inplace[name], rtol=tolerance, atol=tolerance / 10, equal_nan=True), name
    for a, b in zip(report.rows, other.rows, strict=True):
        assert (a.role, a.kind, a.target_shape, a.target_depth, a.action) == (
            b.role, b.kind, b.target_shape, b.target_depth, b.action,
        )  # fmt: skip
        assert (a.energy_kept is None) == (b.energy_kept is None)
        assert a.energy_kept is None or a.energy_kept == pytest.approx(b.energy_kept, rel=1e-5)
    return result, report


def rows(report: TransferReport) -> dict[str, RoleRow]:
    return {row.role: row for row in report.rows}


def stack(count: int, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"h.{i}.w": (torch.randn(shape, generator=generator, dtype=torch.float64) * (i + 1) / 9 + i / 5).to(dtype)
        for i in range(count)
    }
