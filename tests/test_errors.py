"""Every refused argument: its message, the same from data, from meta tensors and from fake ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import front_kernels as fk

MAX = 2**30
DTYPES = "must be float16, bfloat16, float32 or float64, got"


def floats(*shape: int) -> torch.Tensor:
    return torch.empty(shape)


CASES = [
    (lambda: fk.dct_crop(floats(4, 6), (5, 3)), "front::dct_crop: k[0] must be between 1 and 4 (the size of x), got 5"),
    (lambda: fk.dct_crop(floats(4, 6), (3, 7)), "front::dct_crop: k[1] must be between 1 and 6 (the size of x), got 7"),
    (lambda: fk.dct_crop(floats(4, 6), (0, 3)), "front::dct_crop: k[0] must be between 1 and 4 (the size of x), got 0"),
    (lambda: fk.dct_crop(floats(4, 6), -1), "front::dct_crop: k[0] must be between 1 and 4 (the size of x), got -1"),
    (lambda: fk.dct_crop(floats(4, 6), 5), "front::dct_crop: k[0] must be between 1 and 4 (the size of x), got 5"),
    (lambda: fk.dct_crop(floats(6), (1, 1)), "front::dct_crop: x must have at least 2 dimensions, got shape [6]"),
    (
        lambda: fk.dct_crop(floats(2, 0, 6), (1, 1)),
        f"front::dct_crop: x must have between 1 and {MAX} elements along dim -2, got shape [2, 0, 6]",
    ),
    (
        lambda: fk.dct_crop(floats(4, 6), (2, 2), norm="orto"),
        "front::dct_crop: norm must be 'ortho', 'backward' or 'forward', got 'orto'",
    ),
    (
        lambda: fk.dct_crop(floats(4, 6), (2, 2), norm="adjoint:"),
        "front::dct_crop: norm must be 'ortho', 'backward' or 'forward', got 'adjoint:'",
    ),
    (
        lambda: fk.dct_crop(floats(4, 6), (2, 2), out_dtype=torch.int32),
        f"front::dct_crop: out_dtype {DTYPES} int32",
    ),
    (lambda: fk.dct_crop(floats(4, 6).long(), (2, 2)), f"front::dct_crop: x's dtype {DTYPES} int64"),
    (lambda: fk.dct_crop(floats(4, 6).cfloat(), (2, 2)), f"front::dct_crop: x's dtype {DTYPES} complex64"),
    (lambda: fk.dct2(floats(4, 6).bool()), f"front::dct2: x's dtype {DTYPES} bool"),
    (lambda: fk.idct2(floats(4, 6).byte()), f"front::idct2: x's dtype {DTYPES} uint8"),
    (lambda: fk.dct2(floats(3)), "front::dct2: x must have at least 2 dimensions, got shape [3]"),
    (lambda: fk.idct2(floats()), "front::idct2: x must have at least 2 dimensions, got shape []"),
    (lambda: fk.dct2(floats(3, 4), norm="x"), "front::dct2: norm must be 'ortho', 'backward' or 'forward', got 'x'"),
    (lambda: fk.idct2(floats(3, 4), norm=""), "front::idct2: norm must be 'ortho', 'backward' or 'forward', got ''"),
    *(
        (call, f"front::{op}: x must have at most 64 dimensions, got {rank}")
        for rank in (65, 67, 69, 100)
        for op, call in (
            ("dct", lambda rank=rank: fk.dct(floats(*[1] * (rank - 2), 3, 4))),
            ("idct", lambda rank=rank: fk.idct(floats(*[1] * (rank - 2), 3, 4))),
            ("dct_crop", lambda rank=rank: fk.dct_crop(floats(*[1] * (rank - 2), 3, 4), 2)),
            ("lowpass", lambda rank=rank: fk.lowpass(floats(*[1] * (rank - 2), 3, 4), 2)),
            ("spectral_loss", lambda rank=rank: fk.spectral_loss(floats(*[1] * (rank - 2), 3, 4), 2)),
        )
    ),
    (lambda: fk.dct(floats(5), 6), "front::dct: k must be between 1 and 5 (the size of x), got 6"),
    (lambda: fk.dct(floats(5), 0), "front::dct: k must be between 1 and 5 (the size of x), got 0"),
    (lambda: fk.dct(floats(5, 2), dim=2), "front::dct: dim must be between -2 and 1, got 2"),
    (lambda: fk.dct(floats(5, 2), dim=-3), "front::dct: dim must be between -2 and 1, got -3"),
    (lambda: fk.dct(floats()), "front::dct: x must have at least 1 dimension, got shape []"),
    (
        lambda: fk.dct(floats(5, 0)),
        f"front::dct: x must have between 1 and {MAX} elements along dim -1, got shape [5, 0]",
    ),
    (lambda: fk.dct(floats(5), norm="a"), "front::dct: norm must be 'ortho', 'backward' or 'forward', got 'a'"),
    (lambda: fk.dct(floats(5).int()), f"front::dct: x's dtype {DTYPES} int32"),
    (lambda: fk.idct(floats(5), 4), f"front::idct: size must be between 5 (the size of x) and {MAX}, got 4"),
    (
        lambda: fk.idct(floats(5), MAX + 1),
        f"front::idct: size must be between 5 (the size of x) and {MAX}, got {MAX + 1}",
    ),
    (lambda: fk.idct(floats(5, 2), None, 5), "front::idct: dim must be between -2 and 1, got 5"),
    (lambda: fk.idct(floats(5), norm="b"), "front::idct: norm must be 'ortho', 'backward' or 'forward', got 'b'"),
    (
        lambda: fk.idct_pad(floats(4, 6), (3, 9)),
        f"front::idct_pad: size[0] must be between 4 (the size of x) and {MAX}, got 3",
    ),
    (
        lambda: fk.idct_pad(floats(4, 6), (4, 5)),
        f"front::idct_pad: size[1] must be between 6 (the size of x) and {MAX}, got 5",
    ),
    (
        lambda: fk.idct_pad(floats(4, 6), (9, 9), norm="c"),
        "front::idct_pad: norm must be 'ortho', 'backward' or 'forward', got 'c'",
    ),
    (
        lambda: fk.idct_pad(floats(1, 1), (MAX + 1, 1)),
        f"front::idct_pad: size[0] must be between 1 (the size of x) and {MAX}, got {MAX + 1}",
    ),
    (lambda: fk.dct_resize(floats(4, 6), (0, 5)), f"front::dct_resize: size[0] must be between 1 and {MAX}, got 0"),
    (lambda: fk.dct_resize(floats(4, 6), (5, -1)), f"front::dct_resize: size[1] must be between 1 and {MAX}, got -1"),
    (lambda: fk.dct_resize(floats(4, 6), 5, k=(0, 1)), "front::dct_resize: k[0] must be at least 1, got 0"),
    (lambda: fk.dct_resize(floats(4, 6), 5, k=(1, 0)), "front::dct_resize: k[1] must be at least 1, got 0"),
    (
        lambda: fk.dct_resize(floats(4, 6), 5, norm="d"),
        "front::dct_resize: norm must be 'ortho', 'backward' or 'forward', got 'd'",
    ),
    (lambda: fk.lowpass(floats(4, 6), (5, 1)), "front::lowpass: k[0] must be between 1 and 4 (the size of x), got 5"),
    (lambda: fk.lowpass(floats(4, 6), (1, 7)), "front::lowpass: k[1] must be between 1 and 6 (the size of x), got 7"),
    (lambda: fk.lowpass(floats(4, 6).short(), (1, 1)), f"front::lowpass: x's dtype {DTYPES} int16"),
    (lambda: fk.dct2(floats(4, 6).to(torch.uint16)), f"front::dct2: x's dtype {DTYPES} uint16"),
    (lambda: fk.dct2(floats(4, 6).to(torch.float8_e4m3fn)), f"front::dct2: x's dtype {DTYPES} float8_e4m3fn"),
    (
        lambda: fk.idct(floats(5), MAX, norm="x"),
        "front::idct: norm must be 'ortho', 'backward' or 'forward', got 'x'",
    ),
]


@pytest.mark.parametrize("where", ["cpu", "meta", "fake"])
@pytest.mark.parametrize(("call", "message"), CASES, ids=[m for _, m in CASES])
def test_message(call, message, where):
    context = FakeTensorMode() if where == "fake" else torch.device(where)
    with context, pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("size", [np.array([2, 3]), torch.tensor([2, 3]), 2.5, None], ids=repr)
def test_sizes_of_other_types(size):
    for name, call in (
        ("k", lambda: fk.dct_crop(floats(4, 6), size)),
        ("size", lambda: fk.idct_pad(floats(4, 6), size)),
        ("k", lambda: fk.spectral_loss(floats(4, 6), size)),
        (r"ks\[0\]", lambda: fk.spectral_loss_many([floats(4, 6)], [size])),
    ):
        with pytest.raises(TypeError, match=rf"^front: {name} must be an int or a sequence of two, got "):
            call()


def test_numpys_whole_numbers_are_sizes():
    x = torch.arange(24.0).view(4, 6)
    assert torch.equal(fk.dct_crop(x, np.int64(3)), fk.dct_crop(x, 3))
    assert torch.equal(fk.dct_crop(x, (np.int32(2), np.int64(3))), fk.dct_crop(x, (2, 3)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.ops.front.dct_crop(floats(4, 6), [1, 2, 3]),
        lambda: torch.ops.front.idct_pad(floats(4, 6), [1, 2, 3]),
        lambda: torch.ops.front.dct_resize(floats(4, 6), [9, 9, 9]),
        lambda: torch.ops.front.lowpass(floats(4, 6), [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_three_sizes_are_refused(call, where):
    message = r"must have 2 elements \(rows, columns\), got \[\d, \d, \d\]"
    with torch.device(where), pytest.raises(ValueError, match=message):
        call()


def test_a_cuda_tensor_without_an_engine_is_refused_not_moved(monkeypatch):
    """Through the CUDA kernel of each op, called by hand since no device is needed to refuse."""
    monkeypatch.setattr(fk.engines, "_absent", lambda name, gpu: f"there is no {name}")
    fk.engines._forget_choices()
    arguments = {"dct_crop": ([1, 1],), "idct_pad": ([3, 3],), "dct_resize": ([1, 1],), "lowpass": ([1, 1],)}
    for op in fk._autograd.OPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"front::{op.name}", "CUDA")
        if "out" in getattr(torch.ops.front, op.name).overloads():
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"front::{op.name}.out", "CUDA")
        with pytest.raises(
            NotImplementedError,
            match=rf"front::{op.name}: x is on a CUDA device: no engine for CUDA tensors \(cuda: there is no cuda; "
            r"triton: there is no triton\)",
        ):
            fk.engines._functional(op)(torch.empty(2, 2), *arguments.get(op.name, ()))
    fk.engines._forget_choices()


def test_plan_for_refuses():
    with pytest.raises(ValueError, match=r"shape must have 2 elements \(rows, columns\), got \[3\]"):
        fk.plan_for((3,))
    with pytest.raises(ValueError, match=r"k must have 2 elements \(rows, columns\), got \[1, 2, 3\]"):
        fk.plan_for((3, 3), (1, 2, 3))
    with pytest.raises(ValueError, match=r"k\[1\] must be between 1 and 4 \(shape\[1\]\), got 5"):
        fk.plan_for((9, 4), (2, 5))
    with pytest.raises(ValueError, match=rf"shape\[1\] must be between 1 and {MAX}, got 0"):
        fk.plan_for((4, 0))
    with pytest.raises(ValueError, match=rf"shape\[1\] must be between 1 and {MAX}, got {2**62 - 1}"):
        fk.plan_for((4, 2**62 - 1), (1, 1))
    with pytest.raises(ValueError, match=r"dtype must be float16, bfloat16, float32 or float64, got torch\.int32"):
        fk.plan_for((4, 4), dtype=torch.int32)
    with pytest.raises(ValueError, match=r"engine must be 'cuda' or 'triton', got 'gemm'"):
        fk.plan_for((4, 4), device="cuda", engine="gemm")
    with pytest.raises(ValueError, match=r"engine is for CUDA devices only, got 'triton' for device 'cpu'"):
        fk.plan_for((4, 4), engine="triton")


def test_out_of_memory_says_so():
    with pytest.raises(RuntimeError, match=r"front: cannot allocate .* GiB for a float32 tensor of shape \["):
        fk.idct_pad(floats(2, 2), (MAX, MAX))
