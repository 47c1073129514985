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


@given(st.integers(1, 200_000), st.floats(0, 1), st.sampled_from([4, 8]))
def test_plans_add_up(n, share, compute_bytes):
    kept = max(1, int(n * share))
    plan = _C.plan_axis(n, kept, compute_bytes)
    assert (plan["n"], plan["kept"]) == (n, kept)
    if plan["algorithm"] == "dense":
        assert plan["cost"] == 3 * n + 1.5 * 8 * -(-kept // 8) * -(-n // 2)
        return
    length = n // plan["decimation"]
    assert plan["decimation"] == 1 or (plan["decimation"] == 2 and kept <= n / 4)
    points = 2 * plan["split"] * plan["dft_length"] if length % 2 == 0 else plan["dft_length"]
    assert points == length
    length = plan["smooth_length"] or plan["dft_length"]
    assert math.prod(plan["radices"]) == length
    assert max(plan["radices"]) <= 61
    assert (plan["algorithm"] == "mixed radix") == (plan["smooth_length"] == 0)
    if plan["smooth_length"]:
        assert plan["algorithm"] == ("resampled" if compute_bytes == 4 else "bluestein")
        assert plan["dft_length"] <= length < 1.5 * plan["dft_length"]
        assert max(plan["radices"]) <= 12


@pytest.mark.parametrize("n", REAL_SIZES)
def test_the_cost_of_real_sizes_is_n_log_n(n):
    """50257, odd with a large prime factor, is the dearest: a complex DFT of the full length."""
    plan = _C.plan_axis(n, n)
    assert plan["cost"] <= 26 * n * math.log2(n)


def test_fewer_coefficients_cost_less():
    costs = [_C.plan_axis(4096, k)["cost"] for k in (4096, 2048, 1024, 512, 64, 1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.7 * costs[0]


@pytest.mark.parametrize(
    ("n", "kept", "dense"),
    [(4096, 8, True), (4096, 64, False), (2038, 64, True), (2038, 1019, False), (3, 3, True), (151936, 32, False)],
)
def test_few_coefficients_are_dense(n, kept, dense):
    """Also of lengths with a large prime factor (2038 = 2 * 1019), unless the basis would be too large."""
    assert (_C.plan_axis(n, kept)["algorithm"] == "dense") == dense


def test_only_float32_is_decimated():
    taps = {k: _C.plan_axis(4096, k, 4)["taps"] for k in (512, 513, 1024, 1025)}
    assert taps == {512: 10, 513: 18, 1024: 18, 1025: 0}
    assert "decimated by 2 (18 taps)" in _C.plan_axis(4096, 513, 4)["text"]
    assert _C.plan_axis(4096, 512, 8)["decimation"] == 1


@pytest.mark.parametrize("n", [96, 176, 384, 768, 896, 1024, 3072, 4096, 8192, 11008, 13824, 14336, 18944, 28672])
@pytest.mark.parametrize("share", [1, 2, 3, 4])
def test_plans_of_smooth_lengths_end_with_the_pairs(n, share):
    """Whenever a few more points in the registers allow it: other plans pass over the points once more."""
    plan = _C.plan_axis(n, n // share)
    assert plan["fused"]
    assert plan["radices"][-1] in (2, 3, 4, 5, 8)
    assert "the last one with the pairs" in plan["text"]
    assert not _C.plan_axis(30522, 30522 // share)["fused"]


def test_plan_for_names_both_axes():
    plan = fk.plan_for((30522, 384), (15261, 192), torch.bfloat16)
    assert plan["compute_dtype"] == torch.float32
    assert (plan["rows"]["n"], plan["rows"]["kept"]) == (384, 192)
    assert (plan["columns"]["n"], plan["columns"]["kept"]) == (30522, 15261)
    assert plan["columns"]["algorithm"] == "resampled"
    assert "3 x resampled 5087 from DFTs of length 5120" in plan["columns"]["text"]
    double = fk.plan_for((30522, 384), (15261, 192), torch.float64)
    assert "bluestein 5087 by convolutions of length 5120" in double["columns"]["text"]
    assert fk.plan_for((64, 64))["rows"]["kept"] == 64


MACHINE = [64, 1 << 20, 32 << 20, 2]


def test_plan_for_predicts_and_explains():
    plan = fk.plan_for((4096, 4096), 520)
    assert plan["order"] == "rows first"
    rows = 4096 // plan["row_decimation"]
    assert plan["workspace_bytes"] == 4 * rows * 528
    assert fk.plan_for((4096, 999), (2000, 100))["workspace_bytes"] == 4 * 4096 * 112  # in whole cache lines
    assert fk.plan_for((4096, 999), (2000, 9))["workspace_bytes"] == 4 * 4096 * 9  # but a narrow one
    assert plan["predicted_us"] == plan["rows"]["us"] + plan["columns"]["us"]
    assert plan["rows"]["us"] > 2 * plan["columns"]["us"]
    first, second, total = plan["text"].splitlines()
    assert first.startswith("rows: dct 4096 -> 520")
    assert second.startswith("columns: dct 4096 -> 520")
    assert f"{plan['predicted_us']:.0f} us" in total
    assert (f"of {rows} rows: the columns are decimated" in first) == (rows < 4096)
    first, second, total = fk.plan_for((4096, 4096), 512, inverse=True)["text"].splitlines()
    assert "rows" not in first[8:]
    rows = 4096 // fk.plan_for((4096, 4096), 512, inverse=True)["row_decimation"]
    assert rows < 4096
    assert f"of {rows} rows: the columns are interpolated" in second


@pytest.mark.parametrize(
    ("forward", "shape", "k", "element_bytes", "decimation"),
    [
        (True, (4096, 4096), (512, 512), 4, 4),
        (True, (4096, 4096), (1024, 1024), 2, 2),
        (True, (11008, 4096), (2752, 4096), 4, 2),  # the rows are not decimated themselves
        (True, (4096, 4096), (1025, 1024), 4, 1),  # nor are the columns
        (True, (4096, 4096), (512, 15), 4, 1),  # less than a panel
        (True, (2048, 64), (512, 64), 4, 1),  # such short rows are dearer to filter than to transform
        (True, (4096, 64), (1024, 32), 4, 2),
        (True, (4096, 4096), (512, 512), 8, 1),  # float64 is never decimated
        (False, (4096, 4096), (512, 512), 4, 4),
        (True, (4100, 4096), (512, 512), 4, 2),  # no whole lanes of four rows in pairs
        (True, (4096, 4096), (513, 1024), 2, 2),
        (False, (4096, 4096), (512, 512), 8, 1),
        (False, (11008, 4096), (2752, 1024), 2, 2),
        (False, (4096, 4096), (1025, 1024), 4, 1),
        (False, (4096, 4096), (512, 15), 4, 1),
        (False, (2048, 64), (512, 64), 4, 1),
        (False, (4096, 64), (1024, 32), 4, 2),
        (True, (4096, 4096), (64, 1024), 4, 4),
        (True, (4096, 4096), (64, 4096), 4, 4),
        (True, (4096, 4096), (8, 4096), 4, 1),  # by definition
        (True, (256, 1024), (64, 1024), 4, 1),  # columns first
    ],
)
def test_which_rows_are_decimated(forward, shape, k, element_bytes, decimation):
    plan = _C.plan_matrix(forward, *shape, *k, element_bytes, MACHINE)
    assert plan["row_decimation"] == decimation
    if decimation > 1:
        assert plan["workspace_bytes"] == 4 * shape[0] // decimation * k[1]


def test_narrow_vectors_take_the_short_filter_only():
    machine = [16, *MACHINE[1:]]
    assert _C.plan_matrix(True, 4096, 4096, 512, 512, 4, machine)["row_decimation"] == 2
    assert _C.plan_matrix(True, 4096, 4096, 1024, 1024, 4, machine)["row_decimation"] == 1


def test_vectors_of_half_a_line_take_a_quarter_where_products_cost_less():
    """Few registers make them dearer: of cheap rows a half is faster. Of a padding mirror images share them."""
    machine = [32, *MACHINE[1:]]
    assert _C.plan_matrix(True, 2048, 2048, 256, 256, 4, machine)["row_decimation"] == 2
    assert _C.plan_matrix(True, 8240, 8240, 1030, 1030, 4, machine)["row_decimation"] == 4  # 8240 = 80 x 103
    assert _C.plan_matrix(False, 2048, 2048, 256, 256, 4, machine)["row_decimation"] == 4


@pytest.mark.parametrize("forward", [True, False])
def test_a_filter_is_chosen_by_what_both_passes_take(forward):
    """Not by what the rows cost alone: a filter makes columns shorter, too, and either order is compared with it."""
    machine = [32, *MACHINE[1:]]
    plan = _C.plan_matrix(forward, 5240, 20, 382, 16, 4, machine)  # 5240 = 40 x 131, short rows
    assert plan["row_decimation"] == 4
    plan = _C.plan_matrix(forward, 2560, 64, 640, 64, 4, machine)  # rows kept in full are few, columns first
    assert plan["row_decimation"] == 1
    assert plan["order"] == ("columns first" if forward else "rows first")


@pytest.mark.parametrize(
    ("shape", "k", "streamed"),
    [
        ((4096, 4096), (8, 4096), True),
        ((4096, 4096), (64, 4096), False),  # by FFT
        ((256, 1024), (16, 512), True),  # in a core's cache
        ((256, 1024), (32, 512), False),  # there fewer
        ((128, 128), (8, 128), False),  # little
        ((65536, 64), (16, 64), False),  # such short rows follow each other
    ],
)
@pytest.mark.parametrize("forward", [True, False])
def test_where_rows_stream_by(forward, shape, k, streamed):
    plan = _C.plan_matrix(forward, *shape, *k, 4, MACHINE)
    assert ("dense, folded, while rows stream by" in plan["columns"]["text"]) == streamed
    assert not streamed or plan["order"] == ("columns first" if forward else "rows first")


def test_where_rows_stream_by_a_small_intermediate_may_be_larger_than_m_x_k1():
    plan = _C.plan_matrix(False, 4096, 4096, 16, 15, 4, MACHINE)
    assert plan["order"] == "rows first"
    assert plan["workspace_bytes"] == 4 * 16 * 4096 > 4 * 4096 * 15
    assert _C.plan_matrix(False, 4096, 32768, 16, 15, 4, MACHINE)["order"] == "columns first"  # 2 MiB


def test_only_float32_results_take_a_step_in_double():
    plan = fk.plan_for((4096, 4096), inverse=True)
    assert plan["text"].count("(of the inverse in double)") == 2
    assert "in double" not in fk.plan_for((4096, 4096), None, torch.bfloat16, inverse=True)["text"]


def test_more_coefficients_or_bytes_are_predicted_to_take_longer():
    times = [fk.plan_for((4096, 4096), k)["predicted_us"] for k in (8, 64, 512, 2048, 4096)]
    assert times == sorted(times)
    assert fk.plan_for((768, 768), 384, torch.float64)["predicted_us"] > fk.plan_for((768, 768), 384)["predicted_us"]


@pytest.mark.parametrize(
    ("forward", "shape", "k", "order"),
    [
        (True, (4096, 4096), (512, 512), "rows first"),
        (True, (4096, 4096), (64, 1024), "rows first"),  # 1024 of them; the input's columns lie far apart
        (True, (4096, 4096), (64, 4096), "rows first"),  # a quarter
        (True, (4092, 4096), (64, 4096), "columns first"),  # rows first would transform half of them in full
        (True, (256, 1024), (64, 1024), "columns first"),  # cached; rows first would transform all in full
        (True, (1024, 512), (768, 384), "rows first"),  # by how its own rows lie, not those of the input
        (False, (1024, 1024), (512, 512), "columns first"),  # few sets of a cache would hold a column of the result
        (False, (768, 768), (384, 384), "rows first"),
        (False, (4096, 4096), (512, 512), "columns first"),
        (False, (4096, 4096), (4096, 4096), "rows first"),  # the input's columns lie far apart
        (False, (64, 4096), (64, 16), "columns first"),  # rows first would need 64 x 4096 instead of 64 x 16
    ],
)
def test_order_of_the_axes(forward, shape, k, order):
    plan = _C.plan_matrix(forward, *shape, *k, 4, MACHINE)
    assert plan["order"] == order
    assert plan["workspace_bytes"] <= 4 * shape[0] * k[1]


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([16, 32, 64]),
    st.sampled_from([2, 4, 8]),
)
def test_the_order_does_not_depend_on_threads(m, n, share0, share1, forward, vector_bytes, element_bytes):
    k = max(1, int(m * share0)), max(1, int(n * share1))
    machines = [[vector_bytes, 1 << 20, 32 << 20, threads] for threads in (1, 2, 8)]
    plans = [_C.plan_matrix(forward, m, n, *k, element_bytes, machine) for machine in machines]
    assert len({(plan["order"], plan["row_decimation"]) for plan in plans}) == 1
    computed = max(4, element_bytes)
    assert plans[0]["workspace_bytes"] <= max(computed * m * k[1] + 60 * m, 1 << 20)  # whole lines; few coefficients
