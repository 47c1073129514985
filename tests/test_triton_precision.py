"""The precisions of products, with a tensor core in the place of the interpreter's exact one.

The model: operands are rounded as the hardware does (TF32: 10 bits of mantissa; 16-bit operands are exact), products
are exact, and sums are taken eight terms at a time into an accumulator that is cut off, not rounded, to 24 bits. Triton
itself splits float32 operands into two TF32 or three bfloat16 numbers; so does the model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import interpreted
from front_kernels import reference

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
if torch.cuda.is_available():
    pytest.skip("there is a GPU: tests/gpu runs the kernels on it, these interpret them", allow_module_level=True)
from triton.runtime import interpreter

from front_kernels.triton import launch, plan, sums

TERMS = 8


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """float32 to nearest with `bits` of mantissa after the leading one."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


def cut(x: np.ndarray) -> np.ndarray:
    """float64 towards zero to float32's 24 bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.trunc(np.ldexp(mantissa, 24)), exponent - 24)


def multiply(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    for start in range(0, a.shape[1], TERMS):
        total = cut(total + a[:, start : start + TERMS] @ b[start : start + TERMS])
    return total


def split(x: np.ndarray, bits: int, parts: int) -> list[np.ndarray]:
    found, rest = [], x.astype(np.float64)
    for _ in range(parts):
        found.append(rounded(rest, bits))
        rest = rest - found[-1]
    return found


def product(a: np.ndarray, b: np.ndarray, total: np.ndarray, precision: str) -> np.ndarray:
    bits, parts, terms = {"ieee": (23, 1, 1), "tf32": (10, 1, 1), "tf32x3": (10, 2, 3), "bf16x3": (7, 2, 3),
                          "bf16x6": (7, 3, 6)}[precision]  # fmt: skip
    pairs = sorted(((i, j) for i in range(parts) for j in range(parts)), key=sum)[:terms]
    left, right = split(a, bits, parts), split(b, bits, parts)
    total = total.astype(np.float64)
    for i, j in reversed(pairs):  # the small ones first
        total = multiply(left[i], right[j], total)
    return total.astype(np.float32)


@pytest.fixture
def tensor_core(monkeypatch):
    """Replaces the interpreter's dot; returns the names of the precisions that were asked for."""
    interpreted.round_to_bfloat16(monkeypatch)
    asked: list[str] = []
    # bf16x6 is Triton's for some targets, but the interpreter does not know it.
    builder = interpreter.interpreter_builder
    allowed = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")
    monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, allowed_dot_input_precisions=allowed))

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        name = str(input_precision).rpartition(".")[2].lower()
        asked.append(name)
        value = product(a.data, b.data, d.data, name)
        return interpreter.TensorHandle(value, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    return asked


def error(x: Tensor, k: tuple[int, int], direction: str, target: plan.Target) -> float:
    out = torch.empty(k, dtype=torch.float32)
    exact = (reference.dct_crop if direction == "forward" else reference.idct_pad)(x, k)
    launch.matrices(direction, (0, 0), "ortho", target, [x], [out])
    return float((out.double() - exact).norm() / exact.norm())


# 4096 and 8192 terms: where a single accumulator that is cut off would lose digits. The other axis is short, for time.
CASES = [((8192, 16), (16, 16), "forward"), ((4096, 16), (130, 16), "forward"), ((1000, 16), (130, 16), "forward"),
         ((100, 20), (300, 24), "inverse"),
         ((150, 20), (300, 24), "inverse")]  # fmt: skip
# Of the targets one has TF32; products of 16-bit numbers are the same on both.
TARGETS = [(torch.float32, "sm_80", True), (torch.float32, "gfx942", False), (torch.bfloat16, "sm_80", True),
           (torch.float16, "gfx942", False)]  # fmt: skip


# For time: the longest products of two passes on one of them.
ALL = [(*case, *target) for case in CASES for target in TARGETS if case[:2] != ((4096, 16), (130, 16)) or target[2]]


@pytest.mark.parametrize(("shape", "k", "direction", "dtype", "architecture", "tf32"), ALL)
def test_precisions(shape, k, direction, dtype, architecture, tf32, tensor_core):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    # A mean, so that sums grow: random signs hide what cutting off does.
    x += 1
    limit = 1e-6 if dtype == torch.float32 else 1e-5
    # 16-bit products are what they are, and so are those of moments, of which "fast" has none; the kernel for both axes
    # of the inverse takes its coefficients as float32.
    half = {"ieee"} if dtype != torch.float32 and shape != (100, 20) else set()
    moments = {"ieee"} if shape[0] >= 4096 else set()
    highest = error(x, k, direction, plan.Target((architecture,), 4, "highest", tf32))
    assert set(tensor_core) == half | moments | {"tf32x3" if tf32 else "bf16x6"}
    tensor_core.clear()
    fast = error(x, k, direction, plan.Target((architecture,), 4, "fast", tf32))
    assert set(tensor_core) == half | {"tf32" if tf32 else "bf16x3"}
    print(f"{dtype} {shape} -> {k} {direction} {architecture}: highest {highest:.2e}, fast {fast:.2e}")
    assert highest <= limit
    assert highest < fast <= 3e-3


def test_one_accumulator_would_not_do(tensor_core):
    """What the kernels avoid: 8192 terms into one accumulator that is cut off."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(s).astype(np.float32) + 1 for s in ((4, 8192), (8192, 4)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    zero = np.zeros((4, 4), np.float32)
    single = product(a, b, zero, "tf32x3")
    steps = sum(product(a[:, j : j + 64], b[j : j + 64], zero, "tf32x3") for j in range(0, 8192, 64))

    def relative(value: np.ndarray) -> float:
        return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))

    assert relative(single) > 1e-6 > relative(steps)


@pytest.mark.parametrize("precision", ["tf32x3", "bf16x6"])
def test_split_operands_keep_float32(precision):
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(s).astype(np.float32) for s in ((16, 64), (64, 16)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    value = product(a, b, np.zeros((16, 16), np.float32), precision)
    assert np.linalg.norm(value - exact) <= 1e-6 * np.linalg.norm(exact)
    assert sums.WIDEN.value is True
