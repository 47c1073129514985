"""The small layers of one role are transformed together, the large ones one at a time, with the same result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import front_models
import models
from front_models import _blocks

SINGLE = ("dct_crop", "idct_pad", "dct_resize", "dct2", "idct2")


class Calls(TorchDispatchMode):
    """Per op of two axes, how many matrices each call took."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func._schema.name.split("::")
        if namespace == "front" and name in (*SINGLE, "dct_crop_many", "idct_pad_many"):
            self.found.setdefault(name, []).append(len(args[0]) if name.endswith("_many") else 1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(40, 24), (30,), (4, 3, 2, 2)])
def test_small_layers_of_a_role_go_through_the_list_ops_together(shape: tuple[int, ...]) -> None:
    source, target = models.stack(5, shape), models.stack(7, shape, seed=1)
    with Calls() as calls:
        front_models.transfer(source, target)
    assert calls.found == {"dct_crop_many": [5], "idct_pad_many": [7]}
    with Calls() as calls:
        front_models.initialize(target, front_models.extract(source))
    assert calls.found == {"dct_crop_many": [5], "idct_pad_many": [7]}


def test_groups_are_of_bounded_size() -> None:
    side = 512
    layers = _blocks._TOGETHER // (3 * 4 * side * side)
    source, target = (models.stack(layers + 2, (side, side), seed, torch.float32) for seed in (0, 1))
    with Calls() as calls:
        front_models.transfer(source, target)
    assert calls.found == {"dct_crop_many": [layers, 2], "idct_pad_many": [layers, 2]}


def test_large_layers_go_one_at_a_time() -> None:
    source, target = (models.stack(2, (1200, 1200), seed, torch.float32) for seed in (0, 1))
    with Calls() as calls:
        front_models.transfer(source, target, keep_ratio=0.5)
    assert calls.found == {"dct_crop": [1, 1], "idct_pad": [1, 1]}


def test_a_single_axis_has_no_list_op() -> None:
    shapes: models.Shapes = {}
    for i in range(3):
        shapes |= {f"h.{i}.mlp.fc1.weight": (12, 6), f"h.{i}.mlp.fc2.weight": (6, 12)}
    with Calls() as calls:
        front_models.transfer(models.fill(shapes), models.fill(shapes, 1), mlp_axes="hidden")
    assert calls.found == {}


@pytest.mark.parametrize(
    ("shape", "like", "options"),
    [
        ((24, 40), (36, 30), {}),
        ((24, 40), (12, 60), {"gain": "area", "depth_fill": "consistence"}),
        ((30,), (42,), {"gain": "ortho"}),
        ((1, 30), (5, 20), {"keep_ratio": 0.7}),
        ((4, 3, 2, 2), (6, 5, 2, 2), {"depth_fill": "random", "select_n": 3}),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-15), (torch.float32, 1e-6), (torch.bfloat16, 1e-3)]
)
def test_groups_of_any_size_agree(
    shape: tuple[int, ...], like: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype,
    tolerance: float, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source, target = models.stack(5, shape, dtype=dtype), models.stack(7, like, seed=1, dtype=dtype)

    def run(limit: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(_blocks, "_TOGETHER", limit)
        return models.both_ways(source, target, **options)[0]

    alone = run(0)
    layer = 3 * 8 * max(models.as_matrix(w["h.0.w"]).numel() for w in (source, target))
    for limit in (layer, 2 * layer, 3 * layer, 2**20):
        together = run(limit)
        for name, expected in alone.items():
            assert models.error(together[name], expected) < tolerance, (limit, name)


def test_few_coefficients_agree_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and together they go through the same kernels."""
    source, target = (models.stack(6, (64, 48), seed, torch.float32) for seed in (0, 1))
    together, _ = front_models.transfer(source, target, keep_ratio=0.4)
    monkeypatch.setattr(_blocks, "_TOGETHER", 0)
    alone, _ = front_models.transfer(source, target, keep_ratio=0.4)
    assert all(torch.equal(together[name], alone[name]) for name in alone)
