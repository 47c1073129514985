"""Refused arguments of the spectral loss, the same from data, from meta tensors and from fake ones; and its memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import front_kernels as fk

MAX = 2**30
DTYPES = "must be float16, bfloat16, float32 or float64, got"


def floats(*shape: int) -> torch.Tensor:
    return torch.empty(shape)


def accumulate(grad: torch.Tensor, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return fk.spectral_grad_many_([grad], [x], [(1, 1)], 1.0, **options)


CASES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: fk.spectral_loss(floats(4, 6), (5, 3)),
        "spectral_loss: k[0] must be between 1 and 4 (the size of x), got 5",
    ),
    (lambda: fk.spectral_loss(floats(4, 6), 0), "spectral_loss: k[0] must be between 1 and 4 (the size of x), got 0"),
    (lambda: fk.spectral_loss(floats(6), (1, 1)), "spectral_loss: x must have at least 2 dimensions, got shape [6]"),
    (lambda: fk.spectral_loss(floats(4, 6).int(), 1), f"spectral_loss: x's dtype {DTYPES} int32"),
    (
        lambda: fk.spectral_loss(floats(4, 0), 1),
        f"spectral_loss: x must have between 1 and {MAX} elements along dim -1, got shape [4, 0]",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6), floats(3, 3)], [(2, 7), 1]),
        "spectral_loss_many: ks[1] must be between 1 and 6 (the size of x), got 7",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6), floats(3, 3)], [(2, 2), (4, 1)]),
        "spectral_loss_many: ks[2] must be between 1 and 3 (the size of x), got 4",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6)], [1, 1]),
        "spectral_loss_many: ks must have 2 elements (rows, columns) for each of xs (2), got 4",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6)], [1], decay=[1.0]),
        "spectral_loss_many: decay must have 2 elements (rows, columns), got 1",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6)], [1], decay=[1.0, -0.5]),
        "spectral_loss_many: decay[1] must be finite and at least 0, got -0.5",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6)], [1], decay=[float("inf"), 1.0]),
        "spectral_loss_many: decay[0] must be finite and at least 0, got inf",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6)], [1], decay=[float("nan"), 1.0]),
        "spectral_loss_many: decay[0] must be finite and at least 0, got nan",
    ),
    (
        lambda: fk.spectral_grad_many_([], [floats(4, 6)], [1], 1.0),
        "spectral_grad_many_: grads must have one tensor for each of xs (1), got 0",
    ),
    (
        lambda: accumulate(floats(6, 4), floats(4, 6)),
        "spectral_grad_many_: grads[0] must have shape [4, 6], as xs has, got [6, 4]",
    ),
    (
        lambda: accumulate(floats(4, 6).half(), floats(4, 6)),
        "spectral_grad_many_: grads[0]'s dtype must be float32 or float32, got float16",
    ),
    (
        lambda: accumulate(floats(4, 6).double(), floats(4, 6).bfloat16()),
        "spectral_grad_many_: grads[0]'s dtype must be bfloat16 or float32, got float64",
    ),
    (lambda: accumulate(floats(4, 6).int(), floats(4, 6)), f"spectral_grad_many_: grads[0]'s dtype {DTYPES} int32"),
    (
        lambda: accumulate(floats(4, 1).expand(4, 6), floats(4, 6)),
        "spectral_grad_many_: grads[0] must not overlap itself, but is expanded along dim 1",
    ),
    (
        lambda: fk.spectral_stack_loss([floats(4, 6)], (1, 2)),
        "spectral_stack_loss: k must have 3 elements (layers, rows, columns), got [1, 2]",
    ),
    (
        lambda: fk.spectral_stack_loss([floats(4, 6)] * 2, (3, 2, 2)),
        "spectral_stack_loss: k[0] must be between 1 and 2 (the number of xs), got 3",
    ),
    (
        lambda: fk.spectral_stack_loss([floats(4, 6)] * 2, (1, 2, 7)),
        "spectral_stack_loss: ks[1] must be between 1 and 6 (the size of x), got 7",
    ),
    (
        lambda: fk.spectral_stack_loss([floats(4, 6), floats(4, 5)], (1, 2, 2)),
        "spectral_stack_loss: xs must have one shape, got [4, 6] at 0 and [4, 5] at 1",
    ),
    (
        lambda: fk.spectral_stack_grad_([floats(4, 6)], [floats(4, 6)] * 2, (1, 2, 2), 1.0),
        "spectral_stack_grad_: grads must have one tensor for each of xs (2), got 1",
    ),
    (
        lambda: fk.spectral_stack_loss([floats(4, 6)], (1, 2, 2), decay=[1.0, 1.0]),
        "spectral_stack_loss: decay must have 3 elements (layers, rows, columns), got 2",
    ),
]


@pytest.mark.parametrize("where", ["cpu", "meta", "fake"])
@pytest.mark.parametrize(("call", "message"), CASES, ids=[m for _, m in CASES])
def test_message(call: Callable[[], Any], message: str, where: str) -> None:
    context = FakeTensorMode() if where == "fake" else torch.device(where)
    with context, pytest.raises(ValueError, match=f"^front::{re.escape(message)}$"):
        call()


def test_an_empty_list() -> None:
    with pytest.raises(ValueError, match=r"front::spectral_loss_many: xs must not be empty"):
        fk.spectral_loss_many([], [])
    with pytest.raises(ValueError, match=r"front::spectral_grad_many_: xs must not be empty"):
        fk.spectral_grad_many_([], [], [], 1.0)


def test_a_gradient_in_the_memory_of_a_tensor_is_refused() -> None:
    x = torch.randn(8, 8)
    with pytest.raises(ValueError, match=r"grads\[0\] must not share memory with xs\[1\]"):
        fk.spectral_grad_many_([x, torch.zeros(8, 8)], [torch.randn(8, 8), x], [2, 2], 1.0)


PEAK = """
import sys
import torch
import front_kernels as fk
torch.set_num_threads(2)
m, n, k = 4096, 4096, 512
x, grad = torch.randn(m, n), torch.zeros(m, n)
fk.spectral_grad_many_([grad[:64, :64]], [x[:64, :64]], [8], 1.0)

def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024

before = peak()
fk.spectral_grad_many_([grad], [x], [k], 1.0, standardize=True)
print(peak() - before, (m * k + k * k) * 4)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_extra_memory_is_the_intermediate_and_the_coefficients() -> None:
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    extra, allowed = map(int, run.stdout.split())
    assert extra <= allowed + (4 << 20), f"{extra / 2**20:.1f} MiB, allowed {allowed / 2**20:.1f} and 4"
