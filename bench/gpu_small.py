"""Every op on small CUDA tensors, each result compared with the CPU's: what compute-sanitizer runs.

    compute-sanitizer --tool memcheck python bench/gpu_small.py

The inputs are made on the CPU, so that no kernels but ours run, and torch's between the halves of a stack's loss. Exit
status 1 if a result differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import front_kernels as fk

# Relative L2 difference of two results that both round.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 4e-14, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
Op = Callable[[Tensor], Tensor | Sequence[Tensor]]


def into(op: Callable[..., Tensor], *args: object, shape: tuple[int, int]) -> Op:
    """The out= form, into rows that lie apart; what is between them must stay."""

    def call(x: Tensor) -> Tensor:
        whole = torch.full((shape[0] + 2, shape[1] + 3), -7.0, dtype=x.dtype).to(x.device)
        op(x, *args, out=whole[1:-1, 2:-1])
        return whole

    return call


def added(op: Callable[..., Tensor], k: Any) -> Op:
    """The gradients that a spectral op adds to."""

    def call(x: Tensor) -> list[Tensor]:
        grads = [torch.ones(each.shape, dtype=each.dtype).to(each.device) for each in x]
        op(grads, list(x), k, 0.5, standardize=True)
        return grads

    return call


# Lengths and shares of tests/gpu/test_gpu_ops.py: what an engine compiles for each it finds in its cache after them.
CASES: dict[str, tuple[Op, tuple[int, ...], torch.dtype]] = {
    "dct": (lambda x: fk.dct(x, 12), (3, 48), torch.float32),
    "dct dim 0": (lambda x: fk.dct(x, 8, 0, norm="backward"), (33, 9), torch.float32),
    "dct long": (lambda x: fk.dct(x, 1536), (3, 3072), torch.float32),
    "dct long prime": (lambda x: fk.dct(x, 50), (3, 1733), torch.float32),
    "dct longest": (lambda x: fk.dct(x, 300), (2, 30522), torch.float32),
    "idct": (lambda x: fk.idct(x, 96), (2, 24), torch.float32),
    "idct dim 0, long prime": (lambda x: fk.idct(x, 1733, 0), (40, 5), torch.float32),
    "dct2": (fk.dct2, (48, 33), torch.float32),
    "dct2 transposed float64": (lambda x: fk.dct2(x.mT), (33, 48), torch.float64),
    "idct2 batch": (fk.idct2, (3, 33, 48), torch.float32),
    "dct_crop": (lambda x: fk.dct_crop(x, (24, 12)), (96, 48), torch.float32),
    "dct_crop bfloat16": (lambda x: fk.dct_crop(x, (12, 8)), (48, 33), torch.bfloat16),
    "dct_crop into": (into(fk.dct_crop, (8, 12), shape=(8, 12)), (33, 48), torch.float32),
    "idct_pad": (lambda x: fk.idct_pad(x, (96, 48)), (24, 12), torch.float32),
    "idct_pad float16": (lambda x: fk.idct_pad(x, (33, 48)), (8, 12), torch.float16),
    "idct_pad into": (into(fk.idct_pad, (33, 48), shape=(33, 48)), (8, 12), torch.float32),
    "dct_resize": (lambda x: fk.dct_resize(x, (33, 48)), (48, 33), torch.float32),
    "lowpass": (lambda x: fk.lowpass(x, (8, 12)), (33, 48), torch.float32),
    "dct2_": (lambda x: fk.dct2_(x.clone()), (48, 33), torch.float32),
    "idct2_": (lambda x: fk.idct2_(x.clone()), (48, 33), torch.float32),
    "dct_crop_": (lambda x: fk.dct_crop_(x.clone(), (8, 8)), (48, 33), torch.float32),
    "idct_pad_": (lambda x: fk.idct_pad_(x.clone(), (8, 8)), (48, 33), torch.float32),
    "lowpass_": (lambda x: fk.lowpass_(x.clone(), (8, 8)), (48, 33), torch.float32),
    "dct_crop_many": (lambda x: fk.dct_crop_many(list(x), (12, 8)), (70, 48, 33), torch.float32),
    "idct_pad_many": (lambda x: fk.idct_pad_many(list(x), (33, 48)), (5, 8, 12), torch.float32),
    "spectral_loss": (lambda x: fk.spectral_loss(x, (12, 8)), (48, 33), torch.float32),
    "spectral_loss_many": (
        lambda x: fk.spectral_loss_many(list(x), [12] * 3, decay=(1, 2)),
        (3, 48, 33),
        torch.float32,
    ),
    "spectral_grad_many_": (added(fk.spectral_grad_many_, [(12, 8)] * 3), (3, 48, 33), torch.float32),
    "spectral_grad_many_ of rows": (added(fk.spectral_grad_many_, [(1, 8)] * 3), (3, 1, 33), torch.bfloat16),
    "spectral_stack_loss": (lambda x: fk.spectral_stack_loss(list(x), (2, 12, 8)), (3, 48, 33), torch.float32),
    "spectral_stack_grad_": (added(fk.spectral_stack_grad_, (2, 12, 8)), (3, 48, 33), torch.float32),
}


def tensor(result: Tensor | Sequence[Tensor]) -> Tensor:
    return (result if isinstance(result, Tensor) else torch.stack(list(result))).detach()


def difference(name: str, device: str) -> tuple[float, float]:
    """Relative L2 difference between the device's result and the CPU's, and what is allowed."""
    op, shape, dtype = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = tensor(op(x)).double()
    found = op(x.to(device))
    outs = [found] if isinstance(found, Tensor) else list(found)
    if any(out.device.type != torch.device(device).type for out in outs):
        raise SystemExit(f"{name}: the result is not on {device}")
    got = tensor([out.cpu() for out in outs]).double().reshape(expected.shape)
    return float((got - expected).norm() / expected.norm()), TOLERANCE[dtype]


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: torch.cuda.is_available() is false")
    failed = 0
    for name in CASES:
        found, allowed = difference(name, "cuda")
        wrong = not found <= allowed
        failed += wrong
        print(f"{'WRONG' if wrong else 'ok'}  {name}: relative L2 difference {found:.2g}", flush=True)
    torch.cuda.synchronize()
    if failed:
        raise SystemExit(f"{failed} of {len(CASES)} differ")
    print(f"all {len(CASES)} agree with the CPU")


if __name__ == "__main__":
    main()
