"""What the Triton engine's plans ask of the kernels, and what these read: in Triton's interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
interpreter = pytest.importorskip("triton.runtime.interpreter")
from front_kernels.triton import kernels, launch, plan  # noqa: E402

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
FOLDED = {("float32", "highest"), ("float32", "fast"), ("bfloat16", "fast")}
"""float64 gains nothing, sums need more bits than bfloat16 has ("fast" does without them), float16's may overflow."""


def planned(shape, k, dtype, precision="highest", by_columns=False, direction="forward", count=1, multiprocessors=132):
    strides = (1, shape[0]) if by_columns else (shape[1], 1)
    x, out = plan.Layout(shape, strides, DTYPES[dtype]), plan.Layout(k, (k[1], 1), DTYPES[dtype])
    target = plan.Target(("nothing",), multiprocessors, precision)
    return plan.matrices(x, out, count, direction, (200, 200), "ortho", target, True, False)


@pytest.mark.parametrize("precision", ["highest", "fast"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_columns", [False, True])
def test_what_is_folded(dtype, precision, by_columns):
    """Sums along an axis that is not contiguous, forward, of what has the bits; half the rows for each parity."""
    folded = (dtype, precision) in FOLDED
    (crop, _) = planned((500, 400), (100, 30), dtype, precision, by_columns).steps[:2]
    if dtype != "float64":
        assert crop.kernel is kernels.crop
        assert crop.arguments["FOLD"] is folded
        assert dict(crop.bases)["basis"].fold is folded
    one, two = planned((500, 400), (300, 250), dtype, precision, by_columns).steps
    assert one.kernel is two.kernel is kernels.axis
    assert [one.arguments["FOLD"], two.arguments["FOLD"]] == [folded, dtype != "float64"]  # of float32 in between
    assert [dict(step.bases)["basis"].fold for step in (one, two)] == [folded, dtype != "float64"]
    # The contiguous axis first: it is not folded, its intermediate is.
    few = (300, 3) if not by_columns else (3, 300)
    one, two = planned((500, 500), few, dtype, precision, by_columns).steps
    assert [one.arguments["FOLD"], two.arguments["FOLD"]] == [False, dtype != "float64"]
    for step in planned((300, 250), (500, 400), dtype, precision, by_columns, "inverse").steps:
        assert not step.arguments.get("FOLD", False)


def test_every_launch_says_that_products_and_sums_are_fused():
    """It is Triton's default of some versions only."""
    kernels_seen = set()
    for dtype, direction, shape, k in (
        *itertools.product(DTYPES, ["forward"], [(3000, 200)], [(20, 10), (150, 140)]),
        *itertools.product(DTYPES, ["inverse"], [(20, 10), (150, 140)], [(3000, 200)]),
        *itertools.product(DTYPES, ["resize"], [(3000, 400)], [(400, 3000)]),
    ):
        for step in planned(shape, k, dtype, direction=direction).steps:
            kernels_seen.add(step.kernel)
            assert step.arguments["enable_fp_fusion"] is True
    assert kernels_seen == {
        kernels.axis, kernels.axis_moments, kernels.crop, kernels.crop_moments, kernels.pad, kernels.add,
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the kernels are not interpreted")
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "k", "kernel"),
    [
        ((150, 70), (20, 10), kernels.crop),
        ((151, 33), (128, 30), kernels.crop),
        ((1100, 40), (8, 10), kernels.crop_moments),
        ((2048, 32), (8, 10), kernels.crop_moments),
    ],
)
def test_a_crop_reads_each_element_once(shape, k, kernel, dtype, by_columns, monkeypatch):
    """Of both matrices of a list: their addresses are their own, where one alone is copied."""
    if by_columns:
        shape, k = shape[::-1], k[::-1]
    xs = [torch.randn(shape[::-1]).to(DTYPES[dtype]).mT if by_columns else torch.randn(shape).to(DTYPES[dtype])]
    xs.append(xs[0].clone())
    found = planned(shape, k, dtype, by_columns=by_columns, count=2, multiprocessors=8)
    if kernel is kernels.crop_moments and dtype == "bfloat16":
        kernel = kernels.crop  # two products are the faster
    assert found.steps[0].kernel is kernel
    reads = [np.zeros(x.numel(), dtype=np.int64) for x in xs]
    load = interpreter.InterpreterBuilder.create_masked_load

    def counted(self, ptrs, mask, *rest):
        addresses = ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape).astype(bool)].astype(np.int64)
        for x, count in zip(xs, reads, strict=True):
            at = (addresses - x.data_ptr()) // x.element_size()
            np.add.at(count, at[(at >= 0) & (at < x.numel())], 1)
        return load(self, ptrs, mask, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", counted)
    launch.carry_out(found, xs, [torch.empty(k, dtype=DTYPES[dtype]) for _ in xs])
    for count in reads:
        assert (count == 1).all(), (count.min(), count.max())
