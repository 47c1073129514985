"""The planner: pure, printable, right for every length."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import front_kernels as fk
from front_kernels import _C

REAL_SIZES = [384, 768, 1024, 3072, 4096, 8192, 11008, 13824, 14336, 18944, 28672, 30522, 50257, 128256, 151936]


@given(st.integers(1, 200_000), st.floats(0, 1))
def test_plans_add_up(n, share):
    kept = max(1, int(n * share))
    plan = _C.plan_axis(n, kept)
    points = 2 * plan["split"] * plan["dft_length"] if n % 2 == 0 else plan["dft_length"]
    assert points == n
    length = plan["convolution_length"] or plan["dft_length"]
    assert math.prod(plan["radices"]) == length
    assert max(plan["radices"]) <= 61
    if plan["algorithm"] == "bluestein":
        assert length >= 2 * plan["dft_length"] - 1
    assert (plan["n"], plan["kept"]) == (n, kept)


@pytest.mark.parametrize("n", REAL_SIZES)
def test_the_cost_of_real_sizes_is_n_log_n(n):
    """50257, odd with a large prime factor, is the dearest: a full-length complex DFT by Bluestein."""
    plan = _C.plan_axis(n, n)
    assert plan["cost"] <= 26 * n * math.log2(n)


def test_fewer_coefficients_cost_less():
    costs = [_C.plan_axis(4096, k)["cost"] for k in (4096, 2048, 1024, 512, 64, 1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.7 * costs[0]


def test_plan_for_names_both_axes():
    plan = fk.plan_for((30522, 384), (15261, 192), torch.bfloat16)
    assert plan["compute_dtype"] == torch.float32
    assert (plan["rows"]["n"], plan["rows"]["kept"]) == (384, 192)
    assert (plan["columns"]["n"], plan["columns"]["kept"]) == (30522, 15261)
    assert plan["columns"]["algorithm"] == "bluestein"
    assert "bluestein 5087" in plan["columns"]["text"]
    assert fk.plan_for((64, 64))["rows"]["kept"] == 64
