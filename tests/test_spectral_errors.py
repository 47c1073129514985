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
        "spectral_loss_many: ks[1] must be between 1 and 6 (the size of xs[0]), got 7",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6), floats(3, 3)], [(2, 2), (4, 1)]),
        "spectral_loss_many: ks[2] must be between 1 and 3 (the size of xs[1]), got 4",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6), floats(3, 3).int()], [1, 1]),
        f"spectral_loss_many: xs[1]'s dtype {DTYPES} int32",
    ),
    (
        lambda: fk.spectral_loss_many([floats(4, 6), floats(3)], [1, 1]),
        "spectral_loss_many: xs[1] must have at least 2 dimensions, got shape [3]",
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
        "spectral_grad_many_: grads[0] must have shape [4, 6], as xs[0] has, got [6, 4]",
    ),
    (
        lambda: accumulate(floats(4, 6).half(), floats(4, 6)),
        "spectral_grad_many_: grads[0]'s dtype must be float32, got float16",
    ),
    (
        lambda: accumulate(floats(4, 6).double(), floats(4, 6).bfloat16()),
        "spectral_grad_many_: grads[0]'s dtype must be bfloat16 or float32, got float64",
    ),
    (lambda: accumulate(floats(4, 6).int(), floats(4, 6)), f"spectral_grad_many_: grads[0]'s dtype {DTYPES} int32"),
    (
        lambda: accumulate(floats(4, 1).expand(4, 6), floats(4, 6)),
        "spectral_grad_many_: grads[0] must not overlap itself, as shape [4, 6] with strides [1, 0] may",
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
        "spectral_stack_loss: k[2] must be between 1 and 6 (the size of xs[0]), got 7",
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: fk.spectral_loss(v[0], (1, 1)), "spectral_loss: x must have at least 2 dimensions, got shape [8]"),
        (lambda v: fk.spectral_loss(v.int(), (1, 1)), "spectral_loss: x's dtype must be float16,"),
        (lambda v: fk.spectral_loss(v, (5, 1)), "spectral_loss: k[0] must be between 1 and 4 (the size of x), got 5"),
        (
            lambda v: fk.spectral_loss_many([v], [(1, 9)]),
            "spectral_loss_many: ks[1] must be between 1 and 8 (the size of xs[0]), got 9",
        ),
        (
            lambda v: fk.spectral_loss_many([v], [(1, 1)], decay=(-1.0, 0.0)),
            "spectral_loss_many: decay[0] must be finite and at least 0, got -1",
        ),
    ],
)
def test_vmap_refuses_what_each_call_would(call: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        torch.vmap(call)(torch.randn(3, 4, 8))


def test_an_inference_tensor_as_gradient() -> None:
    with torch.inference_mode():
        grad = torch.zeros(4, 6)
    x = torch.randn(4, 6)
    with pytest.raises(RuntimeError, match=r"spectral_grad_many_: grads\[1\]: got an inference tensor outside"):
        fk.spectral_grad_many_([torch.zeros(4, 6), grad], [x, x], [(1, 1)] * 2, 1.0)
    assert not grad.any()
    with torch.inference_mode():
        fk.spectral_grad_many_([grad], [x], [(1, 1)], 1.0)
    assert grad.any()


def test_an_inference_tensor_as_a_stacks_gradient() -> None:
    with torch.inference_mode():
        grad = torch.zeros(4, 6)
    with pytest.raises(RuntimeError, match=r"front::spectral_stack_grad_: grads\[0\]: got an inference tensor outside"):
        fk.spectral_stack_grad_([grad], [torch.randn(4, 6)], (1, 1, 1), 1.0)
    assert not grad.any()


def test_an_empty_list() -> None:
    with pytest.raises(ValueError, match=r"front::spectral_loss_many: xs must not be empty"):
        fk.spectral_loss_many([], [])
    with pytest.raises(ValueError, match=r"front::spectral_grad_many_: xs must not be empty"):
        fk.spectral_grad_many_([], [], [], 1.0)


ROOM = torch.zeros(40, 40)
SHARED = {  # a gradient and a tensor of one shape in one memory
    "the same": (ROOM[:8, :8], ROOM[:8, :8]),
    "rows in common": (ROOM[1:9, :8], ROOM[:8, :8]),
    "the tensor behind": (ROOM[:8, :8], ROOM[7:15, :8]),
    "columns in common": (ROOM[:8, 7:15], ROOM[:8, :8]),
    "around the end of a row": (ROOM[:8, 32:], torch.as_strided(ROOM, (8, 8), (40, 1), 39)),
    "transposed": (ROOM[:8, 8:16].t(), ROOM[4:12, 4:12]),
    "steps": (ROOM[::3, :8][:8], ROOM[::2, :8][:8]),
    "another dtype": (ROOM.view(torch.float64)[:8, :8], ROOM[:8, 14:22]),
}
APART = {
    "below": (ROOM[8:16, :8], ROOM[:8, :8]),
    "beside": (ROOM[:8, 8:16], ROOM[:8, :8]),
    "beside, from the left": (ROOM[1:9, :8], ROOM[:8, 32:]),
    "every other row": (ROOM[1::2, :8][:8], ROOM[::2, :8][:8]),
    "every other column": (ROOM[:8, 1:17:2], ROOM[:8, 0:16:2]),
    "transposed": (ROOM[:8, 8:16].t(), ROOM[4:12, 16:24]),
    "matrices of a batch": (ROOM.view(5, 8, 40)[:, 1], ROOM.view(5, 8, 40)[:, 2]),
    "empty": (ROOM[None, :8, :8][:0], ROOM[None, :8, :8][:0]),
}


@pytest.mark.parametrize(("grad", "x"), SHARED.values(), ids=SHARED)
def test_a_gradient_in_the_memory_of_a_tensor_is_refused(grad: torch.Tensor, x: torch.Tensor) -> None:
    own = torch.zeros(8, 8)
    message = r"grads\[0\] must not share memory with xs\[1\]"
    if grad.dtype == x.dtype:
        with pytest.raises(ValueError, match=rf"^front::spectral_grad_many_: {message}"):
            fk.spectral_grad_many_([grad, own], [torch.randn(8, 8), x], [2, 2], 1.0)
        with pytest.raises(ValueError, match=message):
            fk.spectral_stack_grad_([grad, own], [torch.randn(8, 8), x], (1, 2, 2), 1.0)
    else:
        with pytest.raises(ValueError, match=message):
            fk.spectral_grad_many_([grad, own], [torch.randn(8, 8).double(), x], [2, 2], 1.0)
    assert not ROOM.any()


@pytest.mark.parametrize(("grad", "x"), APART.values(), ids=APART)
def test_a_gradient_between_the_elements_of_a_tensor_is_not(grad: torch.Tensor, x: torch.Tensor) -> None:
    ROOM.copy_(torch.randn(ROOM.shape))
    wanted = grad.clone()
    fk.spectral_grad_many_([wanted], [x.clone()], [2], 1.0)
    fk.spectral_grad_many_([grad], [x], [2], 1.0)
    torch.testing.assert_close(grad, wanted)
    ROOM.zero_()


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
