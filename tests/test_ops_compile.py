"""torch.library.opcheck, torch.compile, torch.export, fake tensors."""

from __future__ import annotations

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.export import Dim

import front_kernels as fk

F = torch.ops.front
OP_CALLS = [
    (F.dct.default, (None, -1), {}),
    (F.dct.default, (2, 0), {"norm": "backward"}),
    (F.idct.default, (20, -1), {"norm": "forward"}),
    (F.idct.default, (9, -2), {"out_dtype": torch.float64}),
    (F.dct2.default, (), {"norm": "forward"}),
    (F.idct2.default, (), {}),
    (F.dct_crop.default, ([3, 4],), {"norm": "backward"}),
    (F.dct_crop.square, (4,), {}),
    (F.idct_pad.default, ([11, 12],), {"out_dtype": torch.bfloat16}),
    (F.idct_pad.square, (12,), {}),
    (F.dct_resize.default, ([9, 5],), {"k": [4, 4]}),
    (F.lowpass.default, ([3, 2],), {}),
]


@pytest.mark.parametrize(("op", "args", "kwargs"), OP_CALLS, ids=[f"{c[0]} {c[1]} {c[2]}" for c in OP_CALLS])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(op, args, kwargs, requires_grad):
    for x in (torch.randn(6, 8), torch.randn(2, 8, 8, dtype=torch.float64).transpose(-1, -2)):
        torch.library.opcheck(op, (x.detach().requires_grad_(requires_grad), *args), kwargs)


def train(w: torch.Tensor, k: int) -> torch.Tensor:
    low = F.dct_crop(w, k)
    wide = F.idct_pad(F.dct_crop(w, [k, 2]), [w.shape[-2] + 1, 5], norm="backward")
    back = fk.dct_resize(fk.lowpass(w, (k, k)), (4, 4))
    line = fk.idct(fk.dct(w, k, 0), w.shape[0], 0)
    return low.square().sum() + wide.pow(3).sum() + (back * 2).sum() + (fk.dct2(line) * fk.idct2(line)).sum()


def value_and_grad(f, w: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    w = w.clone().requires_grad_()
    loss = f(w, k)
    return loss.detach(), torch.autograd.grad(loss, w)[0]


def test_compile_static_shapes():
    counter = CompileCounterWithBackend("aot_eager")  # inductor has all shapes below
    compiled = torch.compile(train, fullgraph=True, dynamic=False, backend=counter)
    w = torch.randn(9, 8, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(value_and_grad(compiled, w, 3), value_and_grad(train, w, 3), rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_dynamic_shapes_once(backend):
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend=counter)
    for m, n, k in ((9, 8, 3), (17, 30, 5), (64, 7, 4), (5, 101, 2)):
        w = torch.randn(m, n, dtype=torch.float64)
        torch.testing.assert_close(value_and_grad(compiled, w, k), value_and_grad(train, w, k), rtol=1e-11, atol=1e-11)
    assert counter.frame_count == 1


def test_traced_by_fx():
    """Whose numbers are no numbers."""
    x = torch.randn(6, 8)
    graph = torch.fx.symbolic_trace(lambda x: fk.dct_crop(x, x.shape[-1] // 2))
    assert torch.equal(graph(x), fk.dct_crop(x, 4))


def test_compiled_functions_raise_the_same_errors():
    compiled = torch.compile(lambda x: fk.dct_crop(x, (3, 9)), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"front::dct_crop: k\[1\] must be between 1 and 8 \(the size of x\), got 9"):
        compiled(torch.randn(4, 8))


class Shrink(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.idct_pad(F.dct_crop(x, [3, 4]), [x.shape[0], x.shape[1] + 2])


@pytest.mark.parametrize("strict", [False, True])
def test_export_round_trip(strict):
    x = torch.randn(10, 12)
    shapes = {"x": {0: Dim("m", min=4, max=4096), 1: Dim("n", min=4, max=4096)}}
    program = torch.export.export(Shrink(), (x,), dynamic_shapes=shapes, strict=strict)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert F.dct_crop.default in targets
    assert F.idct_pad.default in targets
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for shape in ((10, 12), (31, 7)):
        x = torch.randn(shape)
        assert torch.equal(loaded(x), Shrink()(x))


@pytest.mark.parametrize(("op", "args", "kwargs"), OP_CALLS, ids=[f"{c[0]} {c[1]} {c[2]}" for c in OP_CALLS])
@pytest.mark.parametrize("device", ["meta", "fake cpu", "fake cuda"])
def test_fake_results_have_the_real_shape_dtype_and_strides(op, args, kwargs, device):
    real = op(torch.randn(3, 8, 6, dtype=torch.float16), *args, **kwargs)
    with FakeTensorMode() if device != "meta" else torch.no_grad():
        x = torch.empty(3, 6, 8, dtype=torch.float16, device=device.split()[-1]).transpose(-1, -2)
        fake = op(x, *args, **kwargs)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    assert fake.device.type == device.split()[-1]


def loss(x: torch.Tensor) -> torch.Tensor:
    return fk.idct_pad(fk.dct_crop(x, (3, 4), norm="backward"), (9, 9)).pow(3).sum()


def tangent(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor | None:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(fk.dct_crop(forward_ad.make_dual(x, t), 3)).tangent


FORWARD_MODE = {
    "dual numbers": tangent,
    "jvp": lambda x, t: torch.func.jvp(loss, (x,), (t,))[1],
    "jacfwd": lambda x, t: torch.func.jacfwd(loss)(x),
    "hessian": lambda x, t: torch.func.hessian(loss)(x),
    "grad": lambda x, t: torch.func.grad(loss)(x),
    "vmap of grad": lambda x, t: torch.vmap(torch.func.grad(loss))(torch.stack([x, t])),
}


@pytest.mark.parametrize("function", FORWARD_MODE.values(), ids=FORWARD_MODE.keys())
def test_compiled_derivatives(function):
    x, t = torch.randn(2, 5, 6, dtype=torch.float64)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = function(x, t)
    assert expected is not None
    assert expected.norm() > 0
    torch.testing.assert_close(compiled(x, t), expected, rtol=1e-12, atol=1e-12)


def test_compiled_autograd():
    for k in (2, 3, 4, 3):  # one graph must not stand in for another's sizes
        x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(fk.dct_crop(x, k, norm="forward").pow(3).sum(), x)
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
            fk.dct_crop(x, k, norm="forward").pow(3).sum().backward()
        torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


def test_sizes_that_depend_on_data():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def corner(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        n = k.item()
        return fk.idct_pad(fk.dct_crop(x, (n, n)), (n + 2, 40))

    x = torch.randn(12, 12)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        for n in (3, 5, 12):
            assert torch.equal(corner(x, torch.tensor(n)), fk.idct_pad(fk.dct_crop(x, (n, n)), (n + 2, 40)))
