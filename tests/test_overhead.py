"""What a call of an op on a GPU does in Python before a launch: counted in calls, for there are no timers in tests.

`python bench/overhead.py` measures it in microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
from front_kernels.triton import launch

# Functions that a warm dct_crop calls, Python's and C's, some of them of this fake: 14 and 33 when this was written.
# When each call checked, chose and planned anew, they were more than twice as many.
MOST = {"cuda": 17, "triton": 38}


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


def calls_of_one(x: Tensor, *args: Any) -> int:
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        OPS["dct_crop"](x, *args)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("engine", MOST)
def test_a_warm_call_does_little(engine: str) -> None:
    x = torch.randn(256, 512)
    with fk.set_engine(engine):
        first, warm = calls_of_one(x, [64, 64]), calls_of_one(x, [64, 64])
        other = calls_of_one(torch.randn(256, 512), [64, 64])
    print(f"{engine}: {first} calls at first, then {warm}")
    assert warm == other <= MOST[engine] < first


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
