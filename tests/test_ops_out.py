"""The .out forms: the same results, in a tensor that is given, and nothing around it touched."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import front_kernels as fk

F = torch.ops.front
FORMS = {
    "dct2": (lambda x, **kw: fk.dct2(x, **kw), lambda x, out: F.dct2.out(x, norm="forward", out=out)),
    "idct2": (lambda x, **kw: fk.idct2(x, **kw), lambda x, out: F.idct2.out(x, norm="forward", out=out)),
    "dct_crop": (
        lambda x, **kw: fk.dct_crop(x, (5, 18), **kw),
        lambda x, out: F.dct_crop.out(x, [5, 18], norm="forward", out=out),
    ),
    "idct_pad": (
        lambda x, **kw: fk.idct_pad(x, (21, 50), **kw),
        lambda x, out: F.idct_pad.out(x, [21, 50], norm="forward", out=out),
    ),
    "dct_resize": (
        lambda x, **kw: fk.dct_resize(x, (30, 9), k=(8, 20), **kw),
        lambda x, out: F.dct_resize.out(x, [30, 9], k=[8, 20], norm="forward", out=out),
    ),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SENTINEL = -12345.0


def around(shape: torch.Size, dtype: torch.dtype, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor full of sentinels and a view of this shape inside it."""
    if layout == "transposed":
        big = torch.full((*shape[:-2], shape[-1] + 3, shape[-2] + 4), SENTINEL, dtype=dtype)
        return big, big[..., 1 : 1 + shape[-1], 2 : 2 + shape[-2]].transpose(-1, -2)
    step = 2 if layout == "every second" else 1
    big = torch.full([n * step + 5 for n in shape], SENTINEL, dtype=dtype)
    return big, big[tuple(slice(2, 2 + n * step, step) for n in shape)]


@pytest.mark.parametrize("layout", ["rows", "every second", "transposed"])
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(20, 33), (2, 3, 20, 33)], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_the_same_bits_between_sentinels(name, shape, dtype, out_dtype, layout):
    function, _ = FORMS[name]
    x = torch.randn(shape).to(dtype)
    expected = function(x, norm="backward", out_dtype=out_dtype)
    big, out = around(expected.shape, out_dtype, layout)
    assert function(x, norm="backward", out=out) is out
    assert torch.equal(out, expected)
    out.fill_(SENTINEL)
    assert (big == SENTINEL).all()


@pytest.mark.parametrize("name", FORMS)
def test_the_op_itself(name):
    function, op = FORMS[name]
    x = torch.randn(20, 33, dtype=torch.float64)
    expected = function(x, norm="forward")
    out = torch.empty_like(expected)
    version = out._version
    assert op(x, out) is None
    assert torch.equal(out, expected)
    assert out._version == version + 1


@pytest.mark.parametrize("name", FORMS)
def test_what_is_marked_as_negated(name):
    """The input, the result, and both."""
    function, _ = FORMS[name]
    values = torch.randn(20, 33)
    expected = function(values)
    for x in (values, torch.complex(values, -values).conj().imag):
        for out in (torch.zeros_like(expected), torch.zeros_like(expected, dtype=torch.complex64).conj().imag):
            assert x.is_neg() or out.is_neg() or x is values
            assert function(x, out=out) is out
            assert torch.equal(out, expected)


@pytest.mark.parametrize("name", ["dct2", "idct2"])
def test_the_result_may_lie_over_the_input(name):
    function, _ = FORMS[name]
    x = torch.randn(3, 40, 51)
    expected = function(x)
    assert torch.equal(function(x, out=x), expected)


def test_a_corner_of_the_input_takes_the_coefficients():
    x = torch.randn(40, 51)
    expected = fk.dct_crop(x, (7, 9))
    corner = x[:7, :9]
    fk.dct_crop(x, (7, 9), out=corner)
    assert torch.equal(x[:7, :9], expected)


@pytest.mark.parametrize("name", FORMS)
def test_autograd_is_refused(name):
    function, op = FORMS[name]
    x = torch.randn(20, 33)
    out = torch.empty_like(function(x))
    message = f"front::{name}: out= does not support autograd, but x or out requires grad"
    for call in (lambda x, o: function(x, out=o), op):
        with pytest.raises(RuntimeError, match=message):
            call(x.clone().requires_grad_(), out)
        with pytest.raises(RuntimeError, match=message):
            call(x, out.clone().requires_grad_())
        with torch.no_grad():
            call(x.clone().requires_grad_(), out)
        with torch.inference_mode():
            call(x, out)


@pytest.mark.parametrize("name", FORMS)
def test_a_result_on_another_device(name):
    function, op = FORMS[name]
    x = torch.randn(20, 33)
    out = torch.empty_like(function(x))
    for call in (lambda x, o: function(x, out=o), op):
        with pytest.raises(ValueError, match=f"front::{name}: out must be on x's device, meta, got cpu"):
            call(x.to("meta"), out)


@pytest.mark.parametrize("name", FORMS)
def test_an_inference_tensor_is_written_in_inference_mode_alone(name):
    function, op = FORMS[name]
    with torch.inference_mode():
        x = torch.randn(20, 33)
        out = torch.full_like(function(x), SENTINEL)
    for call in (lambda x, o: function(x, out=o), op):
        for given in (x, torch.randn(20, 33)):
            with pytest.raises(
                RuntimeError, match=f"front::{name}: out: got an inference tensor outside inference mode"
            ):
                call(given, out)
        assert (out == SENTINEL).all()
    ordinary = torch.randn(20, 33)
    with torch.inference_mode():
        for given in (x, ordinary):
            assert torch.equal(function(given, out=out), function(given))


def test_forward_mode_is_refused():
    x, t = torch.randn(2, 20, 33)
    out = torch.empty(5, 18)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, t)
        with pytest.raises(RuntimeError, match="out= does not support autograd"):
            fk.dct_crop(dual, (5, 18), out=out)


def test_a_saved_tensor_that_is_overwritten_is_noticed():
    w = torch.randn(8, 8, requires_grad=True)
    x = torch.randn(8, 8)
    loss = (w * x).sum()
    with torch.no_grad():
        fk.dct2(x.clone(), out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_errors(where):
    with torch.device(where):
        x = torch.zeros(4, 6)
        with pytest.raises(ValueError, match=r"^front::dct_crop: out must have shape \[2, 3\], got \[3, 2\]$"):
            fk.dct_crop(x, (2, 3), out=torch.empty(3, 2))
        with pytest.raises(ValueError, match=r"^front::dct2: out must have shape \[4, 6\], got \[1, 4, 6\]$"):
            fk.dct2(x, out=torch.empty(1, 4, 6))
        with pytest.raises(ValueError, match=r"^front::dct2: out's dtype must be float16, .* got int64$"):
            fk.dct2(x, out=torch.empty(4, 6, dtype=torch.int64))
        message = r"^front::dct2: out must not overlap itself, as shape \[4, 6\] with strides \[{}, {}\] may$"
        with pytest.raises(ValueError, match=message.format(1, 0)):
            fk.dct2(x, out=torch.empty(4, 1).expand(4, 6))
        with pytest.raises(ValueError, match=message.format(2, 1)):
            fk.dct2(x, out=torch.empty(12).unfold(0, 6, 2))
        with pytest.raises(ValueError, match=r"^front::idct_pad: out_dtype must be None where out is given, got torch"):
            fk.idct_pad(x, 8, out=torch.empty(8, 8), out_dtype=torch.float32)
        with pytest.raises(
            ValueError, match=r"^front::dct_crop: k\[0\] must be between 1 and 4 \(the size of x\), got 9$"
        ):
            fk.dct_crop(x, (9, 3), out=torch.empty(9, 3))


@pytest.mark.parametrize("name", FORMS)
def test_opcheck(name):
    overload = getattr(F, name).out
    x = torch.randn(20, 33)
    args = {"dct_crop": ([5, 18],), "idct_pad": ([21, 50],), "dct_resize": ([30, 9],)}.get(name, ())
    out = torch.empty_like(getattr(F, name).default(x, *args))
    torch.library.opcheck(overload, (x, *args), {"out": out})


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend):
    @torch.compile(fullgraph=True, backend=backend)
    def step(x: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        fk.dct_crop(x, (5, 18), out=buffer)
        return buffer + 1

    for _ in range(2):
        x, buffer = torch.randn(20, 33), torch.zeros(5, 18)
        result = step(x, buffer)
        assert torch.equal(buffer, fk.dct_crop(x, (5, 18)))
        assert torch.equal(result, buffer + 1)


@pytest.mark.parametrize(
    ("dtype", "n", "gap"), [(torch.float32, 16, 1), (torch.float64, 8, 1), (torch.float32, 16, 16)]
)
def test_results_on_and_off_cache_lines_in_one_batch(dtype, n, gap):
    """More than the caches hold, one row per matrix on the way: blocks are side by side in the input only."""
    batch, m = 512, 2048
    whole = torch.full((batch * (m * n + gap),), -7, dtype=dtype)
    out = whole.as_strided((batch, m, n), (m * n + gap, n, 1))
    x = torch.randn(batch, 1, 4, dtype=dtype)
    fk.idct_pad(x, (m, n), out=out)
    torch.testing.assert_close(out[::37], torch.stack([fk.idct_pad(y, (m, n)) for y in x[::37]]))
    assert (whole.view(batch, -1)[:, m * n :] == -7).all()


def test_tangents_are_seen_without_dynamo():
    """Other tests import it, and then every call asks."""
    program = textwrap.dedent(
        """
        import sys
        import torch
        from torch.autograd import forward_ad
        import front_kernels as fk

        x, t = torch.randn(2, 6, 6, dtype=torch.float64).unbind()
        assert "torch._dynamo" not in sys.modules
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, t)
            assert torch.equal(forward_ad.unpack_dual(fk.dct_crop(dual, 3)).tangent, fk.dct_crop(t, 3))
            try:
                fk.dct_crop(dual, 3, out=torch.empty(3, 3, dtype=torch.float64))
            except RuntimeError as error:
                assert "does not support autograd" in str(error)
            else:
                raise AssertionError
        assert "torch._dynamo" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True)
