"""Weights and checks shared by the tests of files and folders."""

from __future__ import annotations

import torch
from torch import Tensor

from front_models._files import WeightsFile


def small_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(4, 6, generator=generator),
        "a.bias": torch.randn(4, generator=generator, dtype=torch.float64),
        "half": torch.randn(3, 2, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(7),
    }


def assert_same(weights: WeightsFile, expected: dict[str, Tensor]) -> None:
    assert sorted(weights) == sorted(expected)
    assert len(weights) == len(expected)
    for name, tensor in expected.items():
        assert weights.shape_of(name) == tensor.shape
        assert weights.dtype_of(name) == tensor.dtype == weights[name].dtype
        assert torch.equal(weights[name], tensor)
