"""What a call of an op costs on a GPU before anything is launched: `python bench/overhead.py`. Needs no GPU.

The kernels of the CUDA key run on CPU tensors here, with the launch itself left out: of the Triton engine Triton's, of
the CUDA engine the private op, whose planning is C++. Everything else is what a warm call does: torch's dispatcher,
the autograd kernel, argument checks or their cache, the result's allocation, the plan's arguments.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # jit functions are made without a driver

import front_kernels as fk
from front_kernels import _autograd, engines
from front_kernels.triton import launch

CALLS, REPEATS = 1000, 50
OPS = {op.name: engines._functional(op) for op in _autograd.OPS}
CROP = next(op for op in _autograd.OPS if op.name == "dct_crop")
KERNELS = {
    "dct_crop": OPS["dct_crop"],
    "idct_pad": OPS["idct_pad"],
    "dct_crop.out": engines._into(CROP),
    "dct_crop_": engines._in_place("dct_crop_"),
    "dct_crop_many": engines._many(CROP),
}


def microseconds(call: Callable[[], object]) -> float:
    """Of the fastest of many repeats: others share the machine."""
    call()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - start) / CALLS)
    return 1e6 * best


def main() -> None:
    library = torch.library.Library("front", "IMPL")
    library.impl("_cuda_matrices", lambda *_: None, "CPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels of the CPU engine are overridden
        for name, kernel in KERNELS.items():
            library.impl(name, kernel, "CPU", allow_override=True)
    _autograd.cuda_kernels.update(KERNELS)
    # What a call with such a tensor looks like, that nothing listens to.
    _autograd._PLAIN_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).raw_repr()
    launch.launch = lambda kernel, grid, arguments: None
    engines._absent = lambda name, gpu: None
    engines._forget_choices()
    x = torch.randn(1024, 1024)
    y, g = x.clone().requires_grad_(), torch.ones(64, 64)
    out, xs = torch.empty(64, 64), [torch.randn(1024, 1024) for _ in range(12)]
    front = torch.ops.front
    crop = front.dct_crop.default
    print(
        f"dct_crop of 1024 x 1024 to 64 x 64, torch {torch.__version__}, Python {sys.version.split()[0]}; microseconds"
    )
    for engine in ("cuda", "triton"):
        with fk.set_engine(engine):
            found = {
                "kernel of the CUDA key": microseconds(lambda: OPS["dct_crop"](x, [64, 64])),
                "op": microseconds(lambda: crop(x, (64, 64))),
                "op with grad": microseconds(lambda: crop(y, (64, 64))),
                "op with grad, and backward": microseconds(lambda: torch.autograd.grad(crop(y, (64, 64)), y, g)),
                "into out": microseconds(lambda: front.dct_crop.out(x, (64, 64), out=out)),
                "in place": microseconds(lambda: front.dct_crop_.default(x, (64, 64))),
                "list of 12": microseconds(lambda: front.dct_crop_many.default(xs, (64, 64))),
            }
        print(f"{engine}: " + ", ".join(f"{name} {us:.1f}" for name, us in found.items()))
    importlib.import_module("torch._dynamo")  # as torch.optim does: then every tensor is asked for a tangent

    for engine in ("cuda", "triton"):
        with fk.set_engine(engine):
            print(f"{engine}, once dynamo is imported: op {microseconds(lambda: crop(x, (64, 64))):.1f}")


if __name__ == "__main__":
    main()
