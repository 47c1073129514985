"""The same weight transfer with plain torch.fft: what `front_models.transfer` is measured against.

    python bench/torch_fft_baseline.py SOURCE LIKE [--gain area] [--repeats 3]

The DCT-II of length n is one real FFT of length n (Makhoul, 1980), followed by a slice; its inverse is zero padding and
one inverse real FFT. Both sides start from tensors in memory and give a new state dict. Their results are compared to
1e-4 relative L2 error per tensor before any time is printed.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

import front_models

TOLERANCE = 1e-4
StateDict = dict[str, Tensor]


def twiddles(n: int) -> Tensor:
    """``exp(-i pi u / 2n)`` for u = 0 .. n // 2."""
    angles = torch.arange(n // 2 + 1, dtype=torch.float64) * (-math.pi / (2 * n))
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def dct(x: Tensor) -> Tensor:
    """Unscaled DCT-II along the last axis, ``X_u = sum_i x_i cos(pi (2i + 1) u / 2n)``."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)) * twiddles(n)
    return torch.cat([spectrum.real, -spectrum.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def idct(coefficients: Tensor) -> Tensor:
    """The exact inverse of `dct`."""
    n = coefficients.shape[-1]
    mirrored = pad(coefficients[..., 1:].flip(-1), (1, 0))
    half = n // 2 + 1
    spectrum = torch.complex(coefficients[..., :half], -mirrored[..., :half]) * twiddles(n).conj()
    x = torch.fft.irfft(spectrum, n)
    result = torch.empty_like(x)
    result[..., ::2] = x[..., : (n + 1) // 2]
    result[..., 1::2] = x[..., (n + 1) // 2 :].flip(-1)
    return result


def resize(x: Tensor, n: int) -> Tensor:
    """The first n entries of the last axis, zero-padded where there are fewer."""
    return pad(x[..., :n], (0, max(0, n - x.shape[-1])))


def groups(weights: StateDict) -> dict[str, list[str]]:
    """Names by their template: the first number between dots is the layer."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in weights:
        number = re.search(r"\.(\d+)\.", name)
        template = name if number is None else name.replace(number[0], ".{}.", 1)
        found[template].append((int(number[1]) if number else 0, name))
    return {template: [name for _, name in sorted(members)] for template, members in found.items()}


def transfer(source: StateDict, like: StateDict, gain: str | None = None) -> StateDict:
    """FRONT weight transfer of float32 vectors and matrices, with everything kept and the depth slots filled with 0."""
    result = {name: tensor.clone() for name, tensor in like.items()}
    source_groups = groups(source)
    for template, targets in groups(like).items():
        names = source_groups.get(template, [])
        if not names or not source[names[0]].is_floating_point():
            continue
        shape = like[targets[0]].shape
        blocks, statistics_of = [], []
        for name in names:
            w = source[name]
            mean, std = w.mean(), w.std()
            statistics_of.append((mean, std))
            rounding = 8 * torch.finfo(w.dtype).eps * w.abs().max()
            x = torch.zeros_like(w) if std <= rounding else (w - mean) / (std + 1e-8)
            x = dct(x)[..., : shape[-1]]
            if x.ndim == 2:
                x = dct(x.T)[..., : shape[0]].T
            blocks.append(x)
        stack = torch.stack(blocks, -1)
        if len(names) > 1 or len(targets) > 1:
            stack = idct(resize(dct(stack), len(targets)))
        for i, name in enumerate(targets):
            x = stack[..., i]
            if x.ndim == 2:
                x = idct(resize(x.T, shape[0])).T
            x = idct(resize(x, shape[-1]))
            if gain == "area":
                x = x * math.prod(n / m for n, m in zip(shape, w.shape, strict=True))
            mean, std = statistics_of[min(i, len(names) - 1)]
            result[name].copy_(x * std + mean)
    return result


def median_time(run: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def largest_error(ours: StateDict, other: StateDict) -> float:
    """The largest relative L2 difference of a tensor."""
    return max(
        float(torch.linalg.vector_norm(ours[name].double() - tensor.double()))
        / max(float(torch.linalg.vector_norm(tensor.double())), 1e-30)
        for name, tensor in other.items()
    )


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", help="safetensors file of the trained model (float32)")
    parser.add_argument("like", help="safetensors file of a model of the size to start")
    parser.add_argument("--gain", choices=["area"], default=None)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    source, like = load_file(options.source), load_file(options.like)
    ours, _ = front_models.transfer(source, like, gain=options.gain)
    error = largest_error(ours, transfer(source, like, options.gain))
    if not error <= TOLERANCE:
        raise SystemExit(f"the two transfers differ: relative L2 error {error:.2e}, allowed {TOLERANCE:.0e}")
    mine = median_time(lambda: front_models.transfer(source, like, gain=options.gain), options.repeats)
    theirs = median_time(lambda: transfer(source, like, options.gain), options.repeats)
    print(
        f"front_models.transfer {mine:.3f} s, plain torch.fft {theirs:.3f} s: {theirs / mine:.2f} times as long "
        f"(medians of {options.repeats}, {torch.get_num_threads()} threads, largest difference {error:.1e})"
    )


if __name__ == "__main__":
    main()
