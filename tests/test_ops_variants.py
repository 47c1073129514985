"""List and in-place forms: equal to the plain ops, refused where they must be, known to torch's transform systems."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import forward_ad

import front_kernels as fk

F = torch.ops.front
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# name: in-place form, plain op on x (and k), where the result lies
FORMS = {
    "dct2_": (lambda x, k: fk.dct2_(x), lambda x, k: fk.dct2(x)),
    "idct2_": (lambda x, k: fk.idct2_(x), lambda x, k: fk.idct2(x)),
    "dct_crop_": (fk.dct_crop_, fk.dct_crop),
    "idct_pad_": (fk.idct_pad_, lambda x, k: fk.idct_pad(x[..., : k[0], : k[1]], x.shape[-2:])),
    "lowpass_": (fk.lowpass_, fk.lowpass),
}
# Batches of matrices of every kind of task: tiny ones by the group, small ones per thread, large ones shared.
SHAPES = [(1, 1), (7, 5), (33, 20), (3, 1, 4, 6), (500, 3, 3), (5, 64, 80), (3, 700, 900)]
MANY = {"dct_crop": (fk.dct_crop_many, fk.dct_crop), "idct_pad": (fk.idct_pad_many, fk.idct_pad)}


def kept(shape):
    return max(1, shape[-2] // 2), max(1, shape[-1] - 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_in_place_equals_the_plain_op(name, shape, dtype):
    in_place, plain = FORMS[name]
    x, k = torch.randn(shape).to(dtype), kept(shape)
    expected = plain(x, k)
    got = in_place(x, k)
    assert got.data_ptr() == x.data_ptr()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", FORMS)
def test_in_place_by_any_strides_leaves_the_gaps_alone(name):
    in_place, plain = FORMS[name]
    for x in (torch.randn(40, 30).mT, torch.randn(4, 60, 50)[:, ::2, 1::3], torch.randn(50, 3, 40).movedim(1, 0)):
        buffer = x.untyped_storage()
        inside = torch.zeros(len(buffer) // 4, dtype=torch.bool)
        inside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
        whole = torch.empty(0).set_(buffer)
        before, expected = whole.clone(), plain(x, kept(x.shape))
        assert torch.equal(in_place(x, kept(x.shape)), expected)
        assert torch.equal(whole[~inside], before[~inside])


def negated(values: torch.Tensor) -> torch.Tensor:
    """A view that reads as `values`, of memory that holds what they are negated."""
    view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("name", FORMS)
def test_in_place_of_what_is_marked_as_negated(name):
    in_place, plain = FORMS[name]
    values = torch.randn(3, 20, 33)
    x, k = negated(values), kept(values.shape)
    before = x._version
    expected, whole = plain(values, k), values.clone()
    in_place(whole, k)
    assert torch.equal(in_place(x, k), expected)
    assert torch.equal(x, whole)
    assert x.is_neg()
    assert x._version > before
    with pytest.raises(ValueError, match="x must not overlap itself"):
        in_place(negated(torch.randn(4, 1)).expand(4, 4), (2, 2))


@pytest.mark.parametrize("norm", ["backward", "forward"])
def test_in_place_norms(norm):
    x = torch.randn(12, 9)
    assert torch.equal(fk.dct2_(x.clone(), norm=norm), fk.dct2(x, norm=norm))
    assert torch.equal(fk.idct2_(x.clone(), norm=norm), fk.idct2(x, norm=norm))
    assert torch.equal(fk.dct_crop_(x.clone(), 5, norm=norm), fk.dct_crop(x, 5, norm=norm))
    assert torch.equal(fk.idct_pad_(x.clone(), 5, norm=norm), fk.idct_pad(x[:5, :5], (12, 9), norm=norm))


@pytest.mark.parametrize("name", FORMS)
def test_in_place_is_refused_under_autograd(name):
    in_place, plain = FORMS[name]
    x = torch.randn(6, 5, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match=f"front::{name}: in-place forms do not support autograd"):
        in_place(x, (3, 3))
    assert torch.equal(x.detach(), before)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="do not support autograd"):
        in_place(forward_ad.make_dual(torch.randn(6, 5), torch.randn(6, 5)), (3, 3))
    with torch.no_grad():
        expected = plain(x, (3, 3))
        assert torch.equal(in_place(x, (3, 3)), expected)


@pytest.mark.parametrize("name", FORMS)
def test_in_place_of_an_inference_tensor(name):
    in_place, plain = FORMS[name]
    with torch.inference_mode():
        x = torch.randn(6, 5)
        before, expected = x.clone(), plain(x, (3, 3))
    with pytest.raises(RuntimeError, match=f"front::{name}: x: got an inference tensor outside inference mode"):
        in_place(x, (3, 3))
    assert torch.equal(x, before)
    with torch.inference_mode():
        assert torch.equal(in_place(x, (3, 3)), expected)


@pytest.mark.parametrize("name", FORMS)
def test_autograd_sees_the_change(name):
    x, w = torch.randn(6, 5), torch.ones(6, 5, requires_grad=True)
    loss = (x * w).sum()
    FORMS[name][0](x, (3, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", FORMS)
def test_in_place_opcheck_and_compiled(name):
    args = () if "2" in name else ((3, 4),)
    torch.library.opcheck(getattr(F, name).default, (torch.randn(6, 5), *args))
    x = torch.randn(6, 5)
    step = torch.compile(lambda x: FORMS[name][0](x, (3, 4)) + 1, fullgraph=True, backend="aot_eager")
    expected = FORMS[name][0](x.clone(), (3, 4)) + 1
    assert torch.equal(step(x), expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fk.dct_crop_(x, (7, 2)), r"dct_crop_: k\[0\] must be between 1 and 6 \(the size of x\), got 7"),
        (lambda x: fk.idct_pad_(x, (2, 6)), r"idct_pad_: k\[1\] must be between 1 and 5 \(the size of x\), got 6"),
        (lambda x: fk.lowpass_(x, 0), r"lowpass_: k\[0\] must be between 1 and 6 \(the size of x\), got 0"),
        (lambda x: fk.dct2_(x, norm="l2"), "dct2_: norm must be 'ortho', 'backward' or 'forward', got 'l2'"),
        (lambda x: fk.idct2_(x[0]), r"idct2_: x must have at least 2 dimensions, got shape \[5\]"),
        (lambda x: fk.dct2_(x.int()), "dct2_: x's dtype must be .*, got int32"),
        (
            lambda x: fk.dct2_(x[:1].expand(6, 5)),
            r"dct2_: x must not overlap itself, as shape \[6, 5\] with strides \[0, 1\]",
        ),
        (
            lambda x: fk.dct_crop_many([x, x[:5]], 2),
            r"dct_crop_many: xs must have one shape, got \[6, 5\] at 0 and \[5",
        ),
        (lambda x: fk.dct_crop_many([x, x[0]], 2), r"xs must have one shape, got \[6, 5\] at 0 and \[5\] at 1"),
        (lambda x: fk.idct_pad_many([x, x.double()], 9), "xs must have one dtype, got float32 at 0 and float64 at 1"),
        (
            lambda x: fk.idct_pad_many([x], (5, 9)),
            r"idct_pad_many: size\[0\] must be between 6 \(the size of xs\[0\]\)",
        ),
        (lambda x: fk.dct_crop_many([x], (7, 2)), r"dct_crop_many: k\[0\] must be .* \(the size of xs\[0\]\), got 7"),
        (lambda x: fk.dct_crop_many([x.int()], 2), r"dct_crop_many: xs\[0\]'s dtype must be .*, got int32"),
        (lambda x: fk.idct_pad_many([x[0]], 9), r"idct_pad_many: xs\[0\] must have at least 2 dimensions"),
        (lambda x: fk.dct_crop_many([x], 2, norm="l2"), "dct_crop_many: norm must be"),
    ],
)
def test_bad_arguments(call, message, device):
    with pytest.raises(ValueError, match=message):
        call(torch.empty(6, 5, device=device))


LAYOUTS = {
    "rows": ((6, 5), (5, 1)),
    "columns": ((6, 5), (1, 6)),
    "slice": ((6, 5), (40, 3)),
    "diagonals": ((6, 5), (7, 2)),
    "one row": ((1, 5), (0, 1)),
    "none": ((0, 6, 5), (0, 0, 0)),
    "interleaved": ((3, 4), (4, 3)),  # 0 3 6 9, 4 7 10 13, 8 11 14 17
    "windows": ((6, 5), (2, 1)),
    "expanded": ((6, 5), (1, 0)),
    "meeting once": ((4, 5), (4, 3)),  # 3 * 4 = 4 * 3
    "batch of one matrix": ((2, 6, 5), (0, 5, 1)),
    "overlapping batch": ((2, 6, 5), (29, 5, 1)),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("shape", "strides"), LAYOUTS.values(), ids=LAYOUTS)
def test_only_what_overlaps_itself_is_refused(shape, strides, device):
    places = [
        sum(i * s for i, s in zip(index, strides, strict=True)) for index in itertools.product(*map(range, shape))
    ]
    x = torch.empty_strided(shape, strides, device=device)
    if len(set(places)) == len(places):
        fk.dct2_(x)
    else:
        with pytest.raises(
            ValueError, match=r"front::dct2_: x must not overlap itself, as shape .* with strides .* may"
        ):
            fk.dct2_(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MANY)
def test_many_equals_each(name, shape, dtype):
    many, one = MANY[name]
    xs = [torch.randn(shape).to(dtype) for _ in range(7)]
    xs[2] = xs[2].mT.contiguous().mT  # another layout
    size = kept(shape) if name == "dct_crop" else (shape[-2] + 1, 2 * shape[-1])
    for kwargs in ({}, {"out_dtype": torch.float32, "norm": "backward"}):
        results = many(xs, size, **kwargs)
        assert len(results) == 7
        for x, result in zip(xs, results, strict=True):
            assert torch.equal(result, one(x, size, **kwargs))


@pytest.mark.parametrize("name", MANY)
def test_many_of_none_and_of_empty_batches(name):
    many, _ = MANY[name]
    assert many([], 4) == []
    results = many([torch.empty(0, 4, 4)] * 2, 4)
    assert [r.shape for r in results] == [(0, 4, 4)] * 2


@pytest.mark.parametrize("threads", [1, 3])
def test_many_by_any_number_of_threads(threads):
    xs = [torch.randn(90, 70) for _ in range(20)]
    expected = [fk.dct_crop(x, 30) for x in xs]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        results = fk.dct_crop_many(xs, 30)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("name", MANY)
def test_many_derivatives(name):
    many, one = MANY[name]
    size = (3, 4) if name == "dct_crop" else (9, 8)
    xs = [torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *a: tuple(many(a, size)), xs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *a: tuple(many(a, size)), xs)
    mapped = torch.func.vmap(lambda a, b: torch.stack(many([a, b], size)), in_dims=(0, None))
    stack, single = torch.randn(4, 6, 5), torch.randn(6, 5)
    expected = torch.stack([torch.stack([one(a, size), one(single, size)]) for a in stack])
    assert torch.equal(mapped(stack, single), expected)


@pytest.mark.parametrize("name", MANY)
def test_many_of_which_only_some_are_differentiated(name):
    many, one = MANY[name]
    size = (3, 4) if name == "dct_crop" else (9, 8)
    a, b, tangent = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 5)
    results = many([a, b.requires_grad_()], size)
    results[1].sum().backward()
    torch.testing.assert_close(b.grad, torch.func.vjp(lambda t: one(t, size), b)[1](torch.ones_like(results[1]))[0])
    with forward_ad.dual_level():
        plain, dual = many([a, forward_ad.make_dual(b.detach(), tangent)], size)
        assert forward_ad.unpack_dual(plain).tangent is None
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, one(tangent, size))


@pytest.mark.parametrize("name", MANY)
def test_many_opcheck_and_compiled(name):
    many, _ = MANY[name]
    size = (3, 4) if name == "dct_crop" else (9, 8)
    xs = [torch.randn(6, 5) for _ in range(3)]
    torch.library.opcheck(getattr(F, f"{name}_many").default, (xs, size))
    compiled = torch.compile(lambda *xs: many(xs, size), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(compiled(*xs), many(xs, size), strict=True))
    trained = [x.clone().requires_grad_() for x in xs]
    sum(y.square().sum() for y in compiled(*trained)).backward()
    for x, t in zip(xs, trained, strict=True):
        leaf = x.clone().requires_grad_()
        MANY[name][1](leaf, size).square().sum().backward()
        torch.testing.assert_close(t.grad, leaf.grad)


@pytest.mark.parametrize("name", MANY)
def test_many_under_vmap_refuse_what_each_call_would(name):
    many = MANY[name][0]
    with pytest.raises(
        ValueError, match=rf"front::{name}_many: xs\[0\] must have at least 2 dimensions, got shape \[8\]"
    ):
        torch.vmap(lambda v: many([v], (4, 8))[0])(torch.randn(4, 8))
    with pytest.raises(ValueError, match="xs must have one dtype, got float32 at 0 and float64 at 1"):
        torch.vmap(lambda v: many([v, v.double()], (4, 8))[0])(torch.randn(3, 4, 8))


@pytest.mark.parametrize("name", MANY)
def test_many_on_one_device(name):
    xs = [torch.randn(6, 5), torch.empty(6, 5, device="meta")]
    with pytest.raises(ValueError, match=f"front::{name}_many: xs must be on one device, got cpu at 0 and meta at 1"):
        MANY[name][0](xs, (6, 5))


@pytest.mark.parametrize("k", [(1, 2, 3), [4]])
def test_a_corner_of_another_length(k):
    with pytest.raises(ValueError, match=r"front::dct_crop_: k must have 2 elements \(rows, columns\), got "):
        fk.dct_crop_(torch.randn(6, 5), k)


def test_a_result_over_another_matrix_of_the_batch():
    x = torch.randn(4, 30, 20)
    base = torch.zeros(5, 30, 20)
    base[:4] = x
    fk.dct2(base[:4], out=base[1:])  # the result of one matrix lies where the next one was
    assert torch.equal(base[1:], fk.dct2(x))


def test_a_result_in_the_place_of_matrices_that_overlap():
    base = torch.randn(1024)
    # The second matrix has the first one's right half.
    x, out = (base.as_strided((2, 16, n), (16, 32, 1)) for n in (32, 16))
    expected = fk.dct_crop(x.clone(), 16)
    fk.dct_crop(x, 16, out=out)
    assert torch.equal(out, expected)


def test_empty_cache_changes_no_result():
    x = torch.randn(300, 200)
    expected = fk.dct_crop(x, 50)
    fk.empty_cache()
    assert torch.equal(fk.dct_crop(x, 50), expected)
