"""Every Triton kernel, in Triton's interpreter and through the ops' own path, against float64.

The interpreter computes in full precision; test_triton_precision.py is about that. What is here is all else: which
elements are read, multiplied and written, for every op, layout, dtype and edge.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import front_kernels as fk
import interpreted
from compare import assert_matches
from front_kernels import _autograd, engines, reference

triton = pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
if torch.cuda.is_available():
    pytest.skip("there is a GPU: tests/gpu runs the kernels on it, these interpret them", allow_module_level=True)
interpreter = pytest.importorskip("triton.runtime.interpreter")
from front_kernels.triton import basis, launch, plan, sums  # noqa: E402

OPS = {op.name: op for op in _autograd.OPS}
CPU = torch.device("cpu")
TERMS = 3e-5  # the largest error of one element, of the scale, that a basis of two bfloat16 terms may leave
GPU = engines.Gpu("a GPU for tests", "sm_80", 4)


@pytest.fixture(autouse=True)
def round_to_bfloat16(monkeypatch):
    interpreted.round_to_bfloat16(monkeypatch)


@pytest.fixture(autouse=True)
def triton_engine(monkeypatch):
    monkeypatch.setattr(engines, "gpu_of", lambda device: GPU)
    engines._forget_choices()  # made for another GPU under the same device
    with fk.set_engine("triton"):
        yield
    engines._forget_choices()


def call(name: str, x: Tensor, *args, **kwargs) -> Tensor:
    return engines._functional(OPS[name])(x, *args, **kwargs)


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Names of the kernels that ran."""
    names: list[str] = []
    run = launch.launch

    def launched(kernel, grid, arguments):
        names.append(kernel.__name__)
        run(kernel, grid, arguments)

    monkeypatch.setattr(launch, "launch", launched)
    return names


CALLS = [
    ("dct2", (), {"norm": "backward"}),
    ("idct2", (), {"norm": "forward"}),
    ("dct_crop", ([8, 12],), {}),
    ("dct_crop", ([8, 12],), {"norm": "adjoint:forward", "out_dtype": torch.float64}),
    ("idct_pad", ([25, 49],), {"norm": "adjoint:backward"}),
    ("dct_resize", ([16, 48],), {"k": [10, 40]}),
    ("dct_resize", ([16, 48],), {"norm": "backward"}),
    ("lowpass", ([5, 7],), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
@pytest.mark.parametrize("layout", ["plain", "batch", "transposed", "strided", "three batch axes"])
def test_matrix_ops(name, args, kwargs, layout):
    shapes = {"plain": (24, 48), "batch": (3, 2, 24, 48), "transposed": (48, 24), "strided": (2, 24, 96)}
    x = randn(*shapes.get(layout, (4, 4, 2, 24, 48)))
    x = {
        "transposed": lambda: x.mT,
        "strided": lambda: x[:, :, ::2],
        "three batch axes": lambda: x[::2, ::2],  # two cannot stand for these
    }.get(layout, lambda: x)()
    exact = getattr(reference, name)(x, *args, **{k: v for k, v in kwargs.items() if k != "out_dtype"})
    out = call(name, x, *args, **kwargs)
    assert out.is_contiguous()
    assert_matches(out, exact, dtype=kwargs.get("out_dtype", torch.float32), tolerance=5e-7)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 37), (64, 1), (97, 61), (130, 33), (64, 130)])
def test_sizes(m, n):
    """Primes, tails of tiles, single rows and columns; all kept, some, and one."""
    for k in {(m, n), ((m + 1) // 2, (n + 2) // 3), (1, 1)}:
        x = randn(m, n)
        assert_matches(call("dct_crop", x, list(k)), reference.dct_crop(x, k), dtype=torch.float32, rms=1)
        c = randn(*k)
        rms = (k[0] * k[1] / (m * n)) ** 0.5
        assert_matches(call("idct_pad", c, [m, n]), reference.idct_pad(c, (m, n)), dtype=torch.float32, rms=rms)


@pytest.mark.parametrize(
    ("name", "shape", "argument", "expected"),
    [
        ("dct_crop", (150, 140), [128, 100], ["crop", "add"]),
        ("dct_crop", (150, 140), [129, 100], ["axis", "axis"]),
        ("idct_pad", (128, 100), [150, 140], ["pad"]),
        ("idct_pad", (100, 129), [150, 140], ["axis", "axis"]),
        ("lowpass", (140, 140), [20, 30], ["crop", "add", "pad"]),
        ("lowpass", (140, 140), [130, 30], ["axis"] * 4),
        ("dct_resize", (140, 40), [20, 150], ["crop", "add", "pad"]),
    ],
)
def test_which_kernels_run(name, shape, argument, expected, launched):
    """One kernel for both axes up to 128 coefficients, one for each beyond."""
    x = randn(*shape)
    assert_matches(call(name, x, argument), getattr(reference, name)(x, tuple(argument)), dtype=torch.float32)
    assert launched == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("k", [(8, 12), (140, 12)])
def test_dtypes(dtype, k):
    x = randn(150, 48, dtype=dtype)
    assert_matches(call("dct_crop", x, list(k)), reference.dct_crop(x, k), dtype=dtype, before_rounding=TERMS)
    c = randn(*k, dtype=dtype)
    assert_matches(call("idct_pad", c, [150, 48]), reference.idct_pad(c, (150, 48)), dtype=dtype, before_rounding=TERMS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_terms_of_the_basis_are_nearly_float32(dtype):
    x = randn(150, 48, dtype=dtype)
    for k in ((8, 12), (140, 12)):
        exact = reference.dct_crop(x, k)
        error = fk_error(call("dct_crop", x, list(k), out_dtype=torch.float32), exact)
        assert error <= 1e-5
        with fk.set_precision("fast"):
            fast = fk_error(call("dct_crop", x, list(k), out_dtype=torch.float32), exact)
        assert 1e-5 < fast <= 3e-3, "fast is what it says, or is not what ran"


def fk_error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_axis(dim, dtype):
    x = randn(5, 24, 33, dtype=dtype)
    n = x.shape[dim]
    matches = functools.partial(assert_matches, dtype=dtype, before_rounding=TERMS)
    matches(call("dct", x, (n + 1) // 2, dim, norm="backward"), reference.dct(x, (n + 1) // 2, dim, norm="backward"))
    matches(call("idct", x, 2 * n + 1, dim), reference.idct(x, 2 * n + 1, dim))
    matches(call("dct", x[0, 0], 7), reference.dct(x[0, 0], 7))
    y = x[:, ::2, ::3]
    matches(call("dct", y, 2, dim), reference.dct(y, 2, dim))


def test_fast_float16_does_not_overflow():
    x = torch.full((64, 64), 40000.0, dtype=torch.float16)
    with fk.set_precision("fast"):
        found = call("dct_crop", x, [4, 4], norm="forward")
    assert torch.isfinite(found).all()
    assert abs(float(found[0, 0]) - 40000) <= 100


def test_empty():
    assert call("dct_crop", randn(0, 24, 48), [8, 12]).shape == (0, 8, 12)
    assert call("dct", randn(0, 48), 12).shape == (0, 12)


@pytest.mark.parametrize("name", ["dct_crop", "idct_pad"])
@pytest.mark.parametrize("size", [24, 150])
def test_lists(name, size, launched):
    """Matrices of one layout take as many launches as one; those of another layout are grouped apart."""
    xs = [randn(size, 48) + i for i in range(3)]
    argument = [size // 2 + 60, 60] if name == "idct_pad" else [size, 12]
    if name == "idct_pad":
        xs = [x[: size // 2 + 60] for x in xs]
        argument = [size + 60, 60]
    engines._many(OPS[name])(xs[:1], argument)
    alone = list(launched)
    launched.clear()
    outs = engines._many(OPS[name])(xs, argument)
    assert launched == alone
    for x, out in zip(xs, outs, strict=True):
        assert_matches(out, getattr(reference, name)(x, argument), dtype=torch.float32)
    mixed = [xs[0], xs[1].mT.contiguous().mT, xs[2]]
    launched.clear()
    for x, out in zip(mixed, engines._many(OPS[name])(mixed, argument), strict=True):
        assert_matches(out, getattr(reference, name)(x, argument), dtype=torch.float32)
    assert len(launched) == 2 * len(alone)


def test_batches_of_any_axes_take_as_many_launches_as_one(launched):
    """Two axes are a launch's own; each element of further ones is an address."""
    x = randn(3, 3, 3, 20, 10)[::2, :, ::2, :, 1:]
    assert_matches(call("dct_crop", x, [8, 5]), reference.dct_crop(x, (8, 5)), dtype=torch.float32)
    assert launched == ["crop", "add"]
    launched.clear()
    for dim in (0, 3, 4):
        assert_matches(call("dct", x, 2, dim), reference.dct(x, 2, dim), dtype=torch.float32)
    assert launched == ["axis"] * 3
    launched.clear()
    xs = [x, randn(4, 3, 3, 20, 10)[1::2, :, ::2, :, :9]]
    for each, out in zip(xs, engines._many(OPS["dct_crop"])(xs, [8, 5]), strict=True):
        assert_matches(out, reference.dct_crop(each, (8, 5)), dtype=torch.float32)
    assert launched == ["crop", "add"]
    layouts = (plan.Layout.of(t) for t in (x, randn(2, 3, 2, 8, 5)))
    found = plan.matrices(*layouts, 2, "forward", (0, 0), "ortho", engines.target(GPU), True, False)
    assert found.starts == ((0, 0), (2 * 200, 40)), "the longest axes are the launch's"
    assert found.steps[0].arguments["ALIGNED"] is False


def test_addresses_of_any_alignment():
    memory = randn(2, 24 * 48 + 1)
    xs = [memory[0, 1:].view(24, 48), memory[1, 1:].view(24, 48)]
    for x, out in zip(xs, engines._many(OPS["dct_crop"])(xs, [8, 12]), strict=True):
        assert_matches(out, reference.dct_crop(x, (8, 12)), dtype=torch.float32)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_addresses_inside_a_cuda_graph(count):
    values = [(1 << 40) + 16 * i for i in range(count)]
    table = launch._addresses_by_kernels(values, CPU)
    assert table[:count].tolist() == values
    assert len(table) % 16 == 0


@pytest.mark.parametrize("k", [[8, 12], [140, 12]])
def test_into_nothing_else_is_written(k):
    x = randn(150, 48)
    wide = torch.full((k[0] + 2, 30), -7.0)
    inside = wide[1 : k[0] + 1, 2:26:2]
    engines._into(OPS["dct_crop"])(x, k, out=inside)
    assert_matches(inside.clone(), reference.dct_crop(x, k), dtype=torch.float32)
    inside.fill_(-7.0)
    assert (wide == -7.0).all()


@pytest.mark.parametrize("k", [[8, 12], [140, 12]])
def test_nothing_else_is_read(k):
    """What lies around x and around the corner is NaN."""
    wide = torch.full((152, 100), float("nan"))
    x = wide[1:151, 2:98:2]
    x.copy_(randn(150, 48))
    assert_matches(call("dct_crop", x, k), reference.dct_crop(x, k), dtype=torch.float32)
    c = torch.full((160, 60), float("nan"))
    c[: k[0], : k[1]] = randn(*k)
    corner = c[: k[0], : k[1]]
    assert_matches(call("idct_pad", corner, [160, 60]), reference.idct_pad(corner, (160, 60)), dtype=torch.float32)


@pytest.mark.parametrize("shape", [(24, 48), (2, 24, 48), (150, 140)])
@pytest.mark.parametrize("name", ["dct2_", "idct2_", "dct_crop_", "idct_pad_", "lowpass_"])
def test_in_place(name, shape):
    x = randn(*shape)
    k = (8, 12) if shape[-2] < 150 else (140, 12)
    corner = x[..., : k[0], : k[1]].clone()
    size = shape[-2:]
    exact = {
        "dct2_": lambda: reference.dct2(x),
        "idct2_": lambda: reference.idct2(x),
        "dct_crop_": lambda: reference.dct_crop(x, k),
        "idct_pad_": lambda: reference.idct_pad(corner, size),
        "lowpass_": lambda: reference.lowpass(x, k),
    }[name]()
    engines._in_place(name)(x, *(() if name in ("dct2_", "idct2_") else (list(k),)))
    assert_matches((x[..., : k[0], : k[1]] if name == "dct_crop_" else x).clone(), exact, dtype=torch.float32)


def test_a_result_over_another_matrix_of_the_batch():
    x = randn(3, 24, 48)
    exact = reference.idct2(x[:2])
    engines._into(OPS["idct2"])(x[:2], out=x[1:])
    assert_matches(x[1:].clone(), exact, dtype=torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_in_its_matrix(value, dtype):
    for k in ([8, 12], [140, 12]):
        x = randn(2, 150, 48, dtype=dtype)
        x[1, 20, 30] = value
        out = call("dct_crop", x, k)
        assert torch.isfinite(out[0]).all()
        assert not torch.isfinite(out[1]).any()


def test_offsets_beyond_32_bits():
    """Rows 2^28 elements apart, as addresses: the interpreter copies tensors that it is given."""
    step = (1 << 28) + 16
    memory = torch.empty(9 * step, dtype=torch.bfloat16)
    x = memory.as_strided((9, 24), (step, 1))
    x.copy_(randn(9, 24, dtype=torch.bfloat16))
    xs = [x, x]
    for out in engines._many(OPS["dct_crop"])(xs, [4, 12], out_dtype=torch.float32):
        assert_matches(out, reference.dct_crop(x, (4, 12)), dtype=torch.float32, tolerance=1e-5)


def test_the_same_bits_in_whatever_order_programs_run(monkeypatch):
    """No program adds to what another one has written."""
    x = randn(150, 48)
    calls = [("dct_crop", [8, 12]), ("dct_crop", [140, 12]), ("idct_pad", [300, 60]), ("lowpass", [20, 20])]
    forwards = [call(name, x, argument) for name, argument in calls]
    set_index = interpreter.InterpreterBuilder.set_grid_idx
    seen = []

    def backwards(self, i, y, z):
        seen.append(self.grid_dim[0] - 1 - i)
        set_index(self, seen[-1], y, z)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "set_grid_idx", backwards)
    for (name, argument), expected in zip(calls, forwards, strict=True):
        assert torch.equal(call(name, x, argument), expected)
    assert max(seen) > 0


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100"])  # the others' sizes are those of all other tests
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tiles_of_other_architectures(architecture, dtype, monkeypatch):
    """With tails on every side."""
    gpu = engines.Gpu("a GPU for tests", architecture, 4)
    monkeypatch.setattr(engines, "gpu_of", lambda device: gpu)
    engines._forget_choices()
    x, c = randn(190, 150, dtype=dtype), randn(70, 140, dtype=dtype)
    for k in ((70, 33), (129, 70)):
        found = call("dct_crop", x, list(k), out_dtype=torch.float32)
        assert_matches(found, reference.dct_crop(x, k), dtype=torch.float32, tolerance=TERMS)
    for k in ((70, 100), (70, 140)):
        part = c[:, : k[1]]
        found = call("idct_pad", part, [190, 150], out_dtype=torch.float32)
        assert_matches(found, reference.idct_pad(part, (190, 150)), dtype=torch.float32, tolerance=TERMS)


@pytest.mark.parametrize("norm", ["ortho", "backward", "forward", "adjoint:backward", "adjoint:forward"])
@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_bases(norm, n):
    """Entries times the scale are those of the definition; a second term makes up for the rounding; padding is zero."""
    k = (n + 1) // 2
    exact = reference.basis(n, k) * reference.norm_scale(n, norm, k)[:, None]
    back = reference.basis(n, k) / reference.norm_scale(n, norm, k)[:, None]
    for dtype, terms, eps in ((torch.float64, 1, 4e-16), (torch.float32, 1, 2**-24), (torch.float16, 2, 2**-21),
                              (torch.bfloat16, 2, 2**-16), (torch.bfloat16, 1, 2**-8)):  # fmt: skip
        for inverse, expected in ((False, exact), (True, back.T)):
            key = basis.Key(n, k, inverse, norm, dtype, terms, False)
            found = basis.build(key, CPU)
            assert found.shape == key.shape
            assert (*found.stride()[:3],) == key.strides
            data = found.double().sum(0)[0] * key.scale
            rows, columns = expected.shape
            assert (data[:rows, :columns] - expected).abs().max() <= eps * expected.abs().max() * 2
            assert data[rows:].abs().sum() == 0
            assert data[:, columns:].abs().sum() == 0
            assert found.abs().max() <= 2
            if dtype.itemsize == 2 and not inverse:
                assert (found.double().sum(0)[0, 0, :n] == 1).all()  # so that a mean is summed exactly
    key = basis.Key(n, k, False, norm, torch.float64, 1, True)
    for parity in (0, 1):
        rows = exact[parity::2, : (n + 1) // 2]
        found = basis.build(key, CPU)[0, parity, : rows.shape[0], : rows.shape[1]] * key.scale
        assert torch.allclose(found, rows, rtol=0, atol=1e-15 * float(exact.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "k"), [((2048, 16), (8, 16)), ((1100, 150), (20, 140))])
def test_float64_results_of_long_axes(dtype, shape, k):
    """No moments, which are sums of bfloat16 numbers."""
    target = plan.Target(("sm_80",), 4)
    x = randn(*shape).to(dtype) + 1
    out = torch.empty(k, dtype=torch.float64)
    found = plan.matrices(plan.Layout.of(x), plan.Layout.of(out), 1, "forward", (0, 0), "ortho", target, True, False)
    launch.carry_out(found, [x], [out])
    exact = reference.dct_crop(x, k)
    assert (out - exact).norm() <= 2e-14 * exact.norm()
    one = torch.empty(k[0], shape[1], dtype=torch.float64)
    launch.carry_out(plan.axis(plan.Layout.of(x), plan.Layout.of(one), False, 0, "ortho", target), [x], [one])
    exact = reference.dct(x, k[0], 0)
    assert (one - exact).norm() <= 2e-14 * exact.norm()


def test_a_plan_is_made_once():
    plan.matrices.cache_clear()
    x = randn(24, 48)
    for _ in range(3):
        call("dct_crop", x.clone(), [8, 12])
    assert plan.matrices.cache_info().misses == 1


def test_kernels_are_interpreted():
    assert sums.WIDEN.value is True, "these tests would launch on a GPU"
