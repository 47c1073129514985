"""What a call of an op on a GPU does in Python before a launch: counted in calls, for there are no timers in tests.

`python bench/overhead.py` measures it in microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import front_kernels as fk
from fake_gpu import OPS, installed
from front_kernels import _autograd, engines
from front_kernels.triton import launch

# Functions that a warm dct_crop calls, Python's and C's, some of them of this fake: 15 and 41 when this was written.
# When each call checked, chose and planned anew, they were more than twice as many.
MOST = {"cuda": 20, "triton": 48}


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


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of the kernel for CUDA tensors by the autograd kernel itself, as if tensors on the CPU were such."""
    calls: list[tuple[Any, ...]] = []

    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append((args, kwargs))
        return x.new_full((*x.shape[:-2], 2, 3), 7.0)

    monkeypatch.setattr(_autograd, "_PLAIN_CUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.CPU))
    monkeypatch.setitem(_autograd.cuda_kernels, "dct_crop", kernel)
    return calls


def test_a_plain_tensor_goes_to_its_kernel_at_once(direct: list[Any]) -> None:
    x = torch.randn(4, 5)
    crop = torch.ops.front.dct_crop.default
    assert (crop(x, [2, 3], norm="forward") == 7).all()
    with torch.no_grad():
        assert (crop(x.clone().requires_grad_(), [2, 3]) == 7).all()
    graded = crop(x.clone().requires_grad_(), [2, 3])
    assert type(graded.grad_fn).__name__ == "DctCropBackward"
    assert direct == [(([2, 3],), {"norm": "forward"}), (([2, 3],), {}), (([2, 3],), {})]


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_whatever_listens_below_still_hears_of_the_op(direct: list[Any]) -> None:
    x = torch.randn(4, 5)
    crop = torch.ops.front.dct_crop.default
    with _Seen() as seen:
        crop(x, [2, 3])
        crop(x.clone().requires_grad_(), [2, 3])
    assert seen.ops.count("front::dct_crop") == 2
    with FakeTensorMode() as fake:
        assert isinstance(crop(fake.from_tensor(x), [2, 3]), FakeTensor)
        assert isinstance(crop(fake.from_tensor(x).requires_grad_(), [2, 3]), FakeTensor)
    compiled = torch.compile(lambda each: crop(each, [2, 3]), backend="eager", fullgraph=True)(x)
    assert compiled.shape == (2, 3)
    batched = torch.vmap(lambda each: crop(each, [2, 3]))(torch.randn(3, 4, 5))
    assert batched.shape == (3, 2, 3)
    _, tangent = torch.func.jvp(lambda each: crop(each, [2, 3]), (x,), (x,))
    assert tangent.shape == (2, 3)
