"""The CUDA kernels of every op, in Python and through the planner, with the emulator in the device's place: what
engines.py does with tensors, strides and arguments is compared with float64. Only the launching itself is missing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import front_kernels as fk
from compare import assert_matches
from emulate import H200, Buffer, run
from front_kernels import _C, _autograd, _contract, _variants, engines, reference

OPS = {op.name: op for op in _autograd.OPS}
MANY = {f"{op.name}_many": op for op in _variants.MANY}


def kind(dtype: torch.dtype) -> int:
    return _contract.FLOATS.index(dtype)


def types_of(x: Tensor, out: Tensor) -> list[int]:
    double = torch.float64 in (x.dtype, out.dtype)
    return [kind(x.dtype), kind(torch.float64 if double else torch.float32), kind(out.dtype)]


def buffers(tensors: list[Tensor]) -> list[Buffer]:
    """Whole storages: views of one share theirs."""
    storages = {t.untyped_storage().data_ptr(): t for t in tensors}
    found = []
    for t in storages.values():
        flat = torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())
        found.append(Buffer(flat.numpy(), written=True))
    return found


def execute(make, tensors: list[Tensor]) -> None:
    _, size = make(0)
    workspace = np.full(max(size, 4) // 4, np.nan, np.float32)
    launches, _ = make(workspace.ctypes.data)
    for found in run(launches, [*buffers(tensors), Buffer(workspace, written=True, filled=False)]):
        assert found.total == 0, found


def emulated_matrices(xs: list[Tensor], outs: list[Tensor], direction: int, k0: int, k1: int, norm: str) -> None:
    x, out = xs[0], outs[0]
    (m, n), (rows, columns) = x.shape[-2:], out.shape[-2:]
    sizes = {0: [m, n, rows, columns, 0, 0], 1: [rows, columns, m, n, 0, 0], 2: [m, n, k0, k1, rows, columns]}
    batch = [(s, a, b) for s, a, b in zip(x.shape[:-2], x.stride()[:-2], out.stride()[:-2], strict=True)]
    strides = [*x.stride()[-2:], *out.stride()[-2:]]
    assert all(a.stride() == x.stride() for a in xs)
    execute(
        lambda workspace: _C.cuda_matrix_launches(
            direction, sizes[direction], strides, types_of(x, out), norm, [a.data_ptr() for a in xs],
            [a.data_ptr() for a in outs], batch, workspace, H200,
        ),
        [*xs, *outs],
    )  # fmt: skip


def emulated_axis(x: Tensor, out: Tensor, direction: int, dim: int, norm: str) -> None:
    n, kept = (x, out) if direction == 0 else (out, x)
    lanes = [(s, x.stride(d), out.stride(d)) for d, s in enumerate(x.shape) if d != dim]
    execute(
        lambda workspace: _C.cuda_axis_launches(
            direction, n.shape[dim], kept.shape[dim], [x.stride(dim), out.stride(dim)], types_of(x, out), norm,
            x.data_ptr(), out.data_ptr(), lanes, workspace, H200,
        ),
        [x, out],
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def emulated_device():
    library = torch.library.Library("front", "IMPL")
    library.impl("_cuda_matrices", emulated_matrices, "CPU")
    library.impl("_cuda_axis", emulated_axis, "CPU")
    with fk.set_engine("cuda"):
        yield
    library._destroy()


def call(name: str, x: Tensor, *args, **kwargs) -> Tensor:
    return engines._functional(OPS[name])(x, *args, **kwargs)


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


CALLS = [
    ("dct2", (), {"norm": "backward"}),
    ("idct2", (), {"norm": "forward"}),
    ("dct_crop", ([8, 12],), {}),
    ("dct_crop", ([8, 12],), {"norm": "adjoint:forward", "out_dtype": torch.float64}),
    ("idct_pad", ([24, 48],), {}),
    ("dct_resize", ([16, 48],), {"k": [10, 40]}),
    ("dct_resize", ([16, 48],), {"norm": "backward"}),
    ("lowpass", ([5, 7],), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
@pytest.mark.parametrize("layout", ["plain", "batch", "transposed", "strided"])
def test_matrix_ops(name, args, kwargs, layout):
    shapes = {"plain": (24, 48), "batch": (3, 2, 24, 48), "transposed": (48, 24), "strided": (2, 24, 96)}
    x = randn(*shapes[layout])
    x = {"transposed": lambda: x.mT, "strided": lambda: x[:, :, ::2]}.get(layout, lambda: x)()
    exact = getattr(reference, name)(x, *args, **{k: v for k, v in kwargs.items() if k != "out_dtype"})
    out = call(name, x, *args, **kwargs)
    assert out.is_contiguous()
    assert_matches(out, exact, dtype=kwargs.get("out_dtype", torch.float32), tolerance=5e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    x = randn(24, 48, dtype=dtype)
    assert_matches(call("dct_crop", x, [8, 12]), reference.dct_crop(x, (8, 12)), dtype=dtype)
    assert_matches(call("idct_pad", x, [24, 48]), reference.idct_pad(x, (24, 48)), dtype=dtype)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_one_axis(dim):
    x = randn(4, 24, 48)
    n = x.shape[dim]
    exact = reference.dct(x, n // 2, dim, norm="backward")
    assert_matches(call("dct", x, n // 2, dim, norm="backward"), exact, dtype=torch.float32)
    assert_matches(call("idct", x, 2 * n, dim), reference.idct(x, 2 * n, dim), dtype=torch.float32)


def test_empty():
    assert call("dct_crop", randn(0, 24, 48), [8, 12]).shape == (0, 8, 12)
    assert call("dct", randn(0, 48), 12).shape == (0, 12)


@pytest.mark.parametrize("name", ["dct_crop", "idct_pad"])
def test_lists(name):
    xs = [randn(24, 48) + i for i in range(3)]
    argument = [8, 12] if name == "dct_crop" else [24, 48]
    outs = engines._many(OPS[name])(xs, argument)
    for x, out in zip(xs, outs, strict=True):
        assert_matches(out, getattr(reference, name)(x, argument), dtype=torch.float32)


def test_into():
    """Into a strided tensor between sentinels, and over x itself."""
    x = randn(24, 48)
    wide = torch.full((10, 30), -7.0)
    engines._into(OPS["dct_crop"])(x, [8, 12], out=wide[1:9, 2:26:2])
    assert_matches(wide[1:9, 2:26:2].clone(), reference.dct_crop(x, (8, 12)), dtype=torch.float32)
    wide[1:9, 2:26:2] = -7.0
    assert (wide == -7.0).all()
    x = randn(2, 24, 48)
    exact = reference.idct2(x)
    engines._into(OPS["idct2"])(x, out=x)
    assert_matches(x, exact, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "args"), [("dct2_", ()), ("idct2_", ()), ("dct_crop_", ([8, 12],)), ("idct_pad_", ([8, 12],)),
                       ("lowpass_", ([5, 7],))],
)  # fmt: skip
def test_in_place(name, args):
    x = randn(2, 24, 48)
    corner = x[..., :8, :12].clone()
    exact = {
        "dct2_": lambda: reference.dct2(x),
        "idct2_": lambda: reference.idct2(x),
        "dct_crop_": lambda: reference.dct_crop(x, (8, 12)),
        "idct_pad_": lambda: reference.idct_pad(corner, (24, 48)),
        "lowpass_": lambda: reference.lowpass(x, (5, 7)),
    }[name]()
    engines._in_place(name)(x, *args)
    assert_matches((x[..., :8, :12] if name == "dct_crop_" else x).clone(), exact, dtype=torch.float32)


def test_errors_are_the_same_as_on_the_cpu():
    x = randn(24, 48)
    for name, args in (("dct_crop", ([25, 12],)), ("idct_pad", ([8, 12],)), ("lowpass", ([0, 1],))):
        with pytest.raises(ValueError, match=f"front::{name}: ") as expected:
            getattr(torch.ops.front, name)(x, *args)
        with pytest.raises(ValueError, match=f"front::{name}: ") as found:
            call(name, x, *args)
        assert str(found.value) == str(expected.value)
    with pytest.raises(ValueError, match="out must be on cpu, as x is, got meta"):
        engines._into(OPS["dct2"])(x, out=torch.empty(24, 48, device="meta"))
