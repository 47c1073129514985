"""What a call of an op on a GPU does in Python before a launch: counted in calls, for there are no timers in tests.

`python bench/overhead.py` measures it in microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import front_kernels as fk
from fake_gpu import OPS, installed
from front_kernels import _autograd, engines
from front_kernels.triton import kernels, launch

CROP = next(op for op in _autograd.OPS if op.name == "dct_crop")
INTO, IN_PLACE, MANY = engines._into(CROP), engines._in_place("dct_crop_"), engines._many(CROP)

# Functions that a warm dct_crop of each form calls, Python's and C's, some of them of this fake: 16, 35, 18, 60, 16,
# 58, 26 and 102 when this was written. When each call checked, chose and planned anew, they were twice as many or more.
MOST = {
    ("cuda", "new"): 18,
    ("triton", "new"): 39,
    ("cuda", "out"): 20,
    ("triton", "out"): 66,
    ("cuda", "in place"): 18,
    ("triton", "in place"): 64,
    ("cuda", "list"): 29,
    ("triton", "list"): 112,
}


@pytest.fixture(autouse=True)
def fake() -> Iterator[list[Any]]:
    """Engines that keep their plans instead of launching them."""
    plans: list[Any] = []
    # What is patched here is put back before what `installed` has patched.
    with installed(), pytest.MonkeyPatch.context() as monkeypatch:
        library = torch.library.Library("front", "IMPL")
        library.impl("_cuda_matrices", lambda *arguments: plans.append(arguments[2:]), "CPU")
        monkeypatch.setattr(launch, "carry_out", _kept(launch.carry_out, plans))
        yield plans
        library._destroy()


def _kept(original: Any, plans: list[Any]) -> Any:
    def carry_out(found: Any, xs: Any, outs: Any) -> None:
        plans.append(found)
        original(found, xs, outs)

    return carry_out


def of_form(form: str, x: Tensor) -> Callable[[], object]:
    out, xs = torch.empty(64, 64), [x, x.clone(), x.clone()]
    return {
        "new": lambda: OPS["dct_crop"](x, [64, 64]),
        "out": lambda: INTO(x, [64, 64], out=out),
        "in place": lambda: IN_PLACE(x, [64, 64]),
        "list": lambda: MANY(xs, [64, 64]),
    }[form]


def calls_of(call: Callable[[], object]) -> int:
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("engine", "form"), MOST)
def test_a_warm_call_does_little(engine: str, form: str) -> None:
    call, other = (of_form(form, torch.randn(256, 512)) for _ in range(2))
    with fk.set_engine(engine):
        first, warm, again = calls_of(call), calls_of(call), calls_of(other)
    print(f"{engine}, {form}: {first} calls at first, then {warm}")
    assert warm == again <= MOST[engine, form] < first / 2


def test_what_is_kept_is_for_one_layout_and_setting(fake: list[Any]) -> None:
    """Whatever a plan depends on makes another one."""
    x = torch.randn(256, 256)
    crop = OPS["dct_crop"]
    with fk.set_engine("triton"):
        crop(x, [64, 64])
        crop(torch.randn(256, 256), [64, 64])
        assert fake[0] is fake[1]
        crop(x.T, [64, 64])
        crop(x, [64, 32])
        crop(x[:, :128], [64, 64])
        crop(x.double(), [64, 64])
        crop(x, [64, 64], norm="forward")
        crop(x, [64, 64], norm="backward")
        crop(x, [256, 256])
        crop(x, [64, 64], out_dtype=torch.float16)
        OPS["idct_pad"](x, [256, 256])
        with fk.set_precision("fast"):
            crop(x, [64, 64])
    with fk.set_engine("cuda"):
        crop(x, [64, 64])
    del fake[0]
    assert all(a != b for i, a in enumerate(fake) for b in fake[:i])
    assert len(fake) == 12


def test_arguments_are_checked_for_each_new_call() -> None:
    x = torch.randn(8, 8)
    OPS["dct_crop"](x, [4, 4])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"k\[0\] must be between 1 and 8"):
            OPS["dct_crop"](x, [9, 4])
    with pytest.raises(ValueError, match="norm must be"):
        OPS["dct_crop"](x, [4, 4], norm="none")


def test_what_is_kept_is_for_one_layout_of_the_result(fake: list[Any]) -> None:
    x, out = torch.randn(256, 256), torch.empty(64, 64)
    with fk.set_engine("triton"):
        for _ in range(2):
            INTO(x, [64, 64], out=out)
        assert fake[0] is fake[1]
        INTO(x, [64, 64], out=out.T)
        INTO(x, [64, 64], out=out.half())
        INTO(x, [64, 64], out=torch.empty(64, 128)[:, :64])
        INTO(x, [64, 64], out=x[:64, :64])
        IN_PLACE(x, [64, 32])
        MANY([x, x.clone()], [64, 64])
        MANY([x, x.clone(), x.clone()], [64, 64])
    del fake[0]
    assert all(a != b for i, a in enumerate(fake) for b in fake[:i])
    assert len(fake) == 8


def test_an_inverse_does_not_overwrite_what_it_reads(fake: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it shares x's memory is asked at each call: one launch writes before another program has read."""
    monkeypatch.setattr(launch, "_share_memory", lambda x, out: x.data_ptr() == out.data_ptr())
    whole = torch.randn(256, 256)
    pad = engines._into(next(op for op in _autograd.OPS if op.name == "idct_pad"))
    with fk.set_engine("triton"):
        for out in (torch.empty(256, 256), whole, torch.empty(256, 256)):
            pad(whole[:64, :64], [256, 256], out=out)
    assert [len(plan.steps) for plan in fake] == [1, 2, 1]


def test_plans_know_whether_a_tensor_is_aligned(fake: list[Any]) -> None:
    """Their tiles are smaller where it is not: 128 lanes of 16-bit values from anywhere would be spilled."""
    whole = torch.randn(8192 * 256 + 8).bfloat16()
    x, off = (whole[first:][: 8192 * 256].view(8192, 256) for first in (0, 1))
    assert (x.data_ptr() % 16, off.data_ptr() % 16) == (0, 2)
    with fk.set_engine("triton"):
        for each in (x, off, x):
            OPS["dct_crop"](each, [256, 256])
            INTO(each, [256, 256], out=torch.empty(256, 256))
    assert {plan.steps[0].kernel for plan in fake} == {kernels.axis_moments}
    first = [plan.steps[0].arguments for plan in fake]
    assert [step["ALIGNED"] for step in first] == [True, True, False, False, True, True]
    assert [step["BL"] for step in first] == [128, 128, 64, 64, 128, 128]


def test_each_call_of_the_other_forms_is_checked() -> None:
    x = torch.randn(8, 8)
    INTO(x, [4, 4], out=torch.empty(4, 4))
    IN_PLACE(x, [4, 4])
    MANY([x, x.clone()], [4, 4])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"out must have shape \[4, 4\], got \[4, 5\]"):
            INTO(x, [4, 4], out=torch.empty(4, 5))
        with pytest.raises(ValueError, match="out must not overlap itself"):
            INTO(x, [4, 4], out=torch.empty(4, 1).expand(4, 4))
        with pytest.raises(ValueError, match="x must not overlap itself"):
            IN_PLACE(torch.randn(8, 1).expand(8, 8), [4, 4])
        with pytest.raises(ValueError, match=r"xs must have one shape, got \[8, 8\] at 0 and \[8, 9\] at 1"):
            MANY([x, torch.randn(8, 9)], [4, 4])
        with pytest.raises(ValueError, match="xs must have one dtype, got float32 at 0 and float64 at 1"):
            MANY([x, x.double()], [4, 4])


def test_few_calls_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_MOST_CALLS", 3)
    engines._forget_choices()
    for k in range(1, 9):
        OPS["dct_crop"](torch.randn(8, 8), [k, k])
        assert len(engines._calls) <= 3


class _Call(NamedTuple):
    of: type
    shape: tuple[int, ...]
    wrapped: bool  # by a transform of torch.func
    argument: Any
    more: dict[str, Any]


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[_Call]:
    """What the autograd kernel gives to the kernels for CUDA tensors itself, as if tensors on the CPU were such. In the
    place of these kernels: seven times a corner, and its transpose."""
    calls: list[_Call] = []

    def seen(x: Tensor, argument: Any, more: dict[str, Any]) -> None:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
        calls.append(_Call(type(x), tuple(x.shape), wrapped, argument, more))

    def crop(x: Tensor, k: Any, **more: Any) -> Tensor:
        seen(x, k, more)
        return 7 * x[..., : k[0], : k[1]]

    def pad(x: Tensor, size: Any, **more: Any) -> Tensor:
        seen(x, size, more)
        out = x.new_zeros(*x.shape[:-2], *size)
        out[..., : x.shape[-2], : x.shape[-1]] = 7 * x
        return out

    monkeypatch.setattr(_autograd, "_PLAIN_CUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).raw_repr())
    monkeypatch.setitem(_autograd.cuda_kernels, "dct_crop", crop)
    monkeypatch.setitem(_autograd.cuda_kernels, "idct_pad", pad)
    return calls


crop = torch.ops.front.dct_crop.default


def test_a_plain_tensor_goes_to_its_kernel_at_once(direct: list[_Call]) -> None:
    x = torch.randn(4, 5)
    assert torch.equal(crop(x, [2, 3], norm="forward"), 7 * x[:2, :3])
    with torch.no_grad():
        crop(x.clone().requires_grad_(), [2, 3])
    graded = crop(x.clone().requires_grad_(), [2, 3])
    assert type(graded.grad_fn).__name__ == "DctCropBackward"
    assert direct == [_Call(Tensor, (4, 5), False, [2, 3], more) for more in ({"norm": "forward"}, {}, {})]


def test_derivatives_are_those_of_the_kernels(direct: list[_Call]) -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def cropped(x: Tensor) -> Any:
        return crop(x, [2, 3])

    assert torch.autograd.gradcheck(cropped, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(cropped, x)
    assert {call.shape[-2:] for call in direct} == {(4, 5), (2, 3)}  # both ways
    assert all(call.of is Tensor and not call.wrapped for call in direct)


@pytest.mark.parametrize("form", ["out", "in place"])
def test_results_in_given_memory_are_written_at_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And autograd learns of it, or refuses; what listens below still hears of the op."""
    x, given = torch.randn(4, 5), []
    into = x if form == "in place" else torch.zeros(2, 3)

    def kernel(x: Tensor, k: Any, out: Tensor | None = None) -> None:
        given.append(k)

    monkeypatch.setattr(_autograd, "_PLAIN_CUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).raw_repr())
    for name in ("dct_crop.out", "dct_crop_"):
        monkeypatch.setitem(_autograd.cuda_kernels, name, kernel)

    def call(x: Tensor) -> None:
        if form == "out":
            torch.ops.front.dct_crop.out(x, [2, 3], out=into)
        else:
            torch.ops.front.dct_crop_.default(x, [2, 3])

    before = into._version
    call(x)
    assert given == [[2, 3]]
    assert into._version == before + 1
    with pytest.raises(RuntimeError, match="support autograd"):
        call(torch.randn(4, 5).requires_grad_())
    with _Seen() as seen:
        call(x)
    assert seen.ops.count("front::dct_crop" if form == "out" else "front::dct_crop_") == 1
    assert given == [[2, 3]]
    with torch.inference_mode():
        into = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="inference tensor outside inference mode"):
        call(into if form == "in place" else x)
    assert given == [[2, 3]]


def test_a_plain_list_goes_to_its_kernel_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autograd, "_PLAIN_CUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).raw_repr())
    monkeypatch.setitem(_autograd.cuda_kernels, "dct_crop_many", lambda xs, k: [7 * x[: k[0], : k[1]] for x in xs])
    xs = [torch.randn(4, 5) for _ in range(3)]
    found = torch.ops.front.dct_crop_many.default(xs, [2, 3])
    assert all(torch.equal(out, 7 * x[:2, :3]) for out, x in zip(found, xs, strict=True))
    with _Seen() as seen:
        torch.ops.front.dct_crop_many.default(xs, [2, 3])
    assert seen.ops.count("front::dct_crop_many") == 1


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_whatever_listens_below_still_hears_of_the_op(direct: list[_Call]) -> None:
    x, t = torch.randn(4, 5), torch.randn(4, 5)
    with _Seen() as seen:
        crop(x, [2, 3])
        crop(x.clone().requires_grad_(), [2, 3])
    assert seen.ops.count("front::dct_crop") == 2
    direct.clear()
    with FakeTensorMode() as fake:
        assert isinstance(crop(fake.from_tensor(x), [2, 3]), FakeTensor)
        assert isinstance(crop(fake.from_tensor(x).requires_grad_(), [2, 3]), FakeTensor)
    assert direct == []
    batch = torch.randn(3, 4, 5)
    assert torch.equal(torch.vmap(lambda each: crop(each, [2, 3]))(batch), 7 * batch[:, :2, :3])
    assert [(call.shape, call.wrapped) for call in direct] == [((3, 4, 5), False)]
    values, tangents = torch.func.jvp(lambda each: crop(each, [2, 3]), (x,), (t,))
    assert torch.equal(values, 7 * x[:2, :3])
    assert torch.equal(tangents, 7 * t[:2, :3])
    assert not any(call.wrapped for call in direct)
