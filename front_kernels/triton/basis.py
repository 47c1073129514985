"""DCT bases as the kernels read them: built in float64 on the device, rounded to the products' dtype, and kept."""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from . import moments

__all__ = ["CACHE_BYTES", "Key", "Moments", "build", "cache", "get", "padded"]

CACHE_BYTES = 256 << 20
"""What bases may take on a device, or 2 % of its memory if that is more; those captured in CUDA graphs come on top."""

_WORKING_ELEMENTS = 1 << 24  # float64 elements formed at a time while building: 128 MiB


class Key(NamedTuple):
    """Which basis: k rows of D_n (n, k, norm), or their transpose, for products of `dtype` in `terms` parts.

    Its tensor is [terms, parities, rows, columns], zero where padded; its entries times `scale` are those of the basis.
    """

    n: int
    k: int
    inverse: bool
    norm: str
    dtype: torch.dtype
    terms: int
    fold: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows (of each parity) and columns without padding."""
        if self.fold:
            return (self.k + 1) // 2, (self.n + 1) // 2
        return (self.n, self.k) if self.inverse else (self.k, self.n)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        rows, columns = self.sizes
        return self.terms, 2 if self.fold else 1, padded(rows), padded(columns)

    @property
    def strides(self) -> tuple[int, int, int]:
        """From one term, one parity, one row to the next."""
        _, parities, rows, columns = self.shape
        return parities * rows * columns, rows * columns, columns

    @property
    def scale(self) -> float:
        first, other = _factors(self.n, self.norm, self.inverse)
        # In 16 bits the first row, which sums a mean, is exact if it is ones; and entries near 1 are where float16's
        # two terms hold 22 bits. In float32 a power of two is exact.
        return first if self.dtype.itemsize == 2 else math.ldexp(1.0, math.frexp(max(first, other))[1])


class Moments(NamedTuple):
    """k rows of D_n (n, k, norm) by their moments in runs of `block`: `terms` bfloat16 numbers for each group of them.

    Its tensor is [steps, terms of all groups, rows, moments of a group and runs of a step], zero where padded.
    """

    n: int
    k: int
    norm: str
    block: int
    terms: tuple[int, ...]
    moments: int  # as many are not zero

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    @property
    def shape(self) -> tuple[int, int, int, int]:
        steps = -(-self.n // (self.block * moments.RUNS))
        return steps, sum(self.terms), padded(self.k), moments.GROUP * moments.RUNS

    @property
    def strides(self) -> tuple[int, int]:
        """From one step, one term to the next."""
        _, terms, rows, columns = self.shape
        return terms * rows * columns, rows * columns

    @property
    def scale(self) -> float:
        return _factors(self.n, self.norm, False)[0] * math.sqrt(self.block)  # the first moment of the first row is 1


def norm_factors(n: int, norm: str) -> tuple[float, float]:
    """Scales of coefficient 0 and of the others, relative to the bare cosine, in the forward direction."""
    if norm.startswith("adjoint:"):
        name = norm.removeprefix("adjoint:")
        first, other = norm_factors(n, name)
        return 1 / (n * first), 2 / (n * other)
    return {
        "ortho": (math.sqrt(1 / n), math.sqrt(2 / n)),
        "backward": (2.0, 2.0),
        "forward": (1 / n, 1 / n),
    }[norm]


def _factors(n: int, norm: str, inverse: bool) -> tuple[float, float]:
    first, other = norm_factors(n, norm)
    # The inverse divides by what the forward transform multiplied the orthonormal coefficients by.
    return (1 / (n * first), 2 / (n * other)) if inverse else (first, other)


def padded(size: int, most: int = 128) -> int:
    """Rows and columns of a basis come in whole tiles of any size up to `most`: a power of two, or multiples of it."""
    return -(-size // most) * most if size > most else max(16, 1 << (size - 1).bit_length())


def _cosines(u: Tensor, i: Tensor, n: int) -> Tensor:
    # The angle is pi q / 2n with an integer q, reduced exactly before it becomes a float.
    q = ((2 * i + 1) * u) % (4 * n)
    return torch.cos(q.to(torch.float64) * (math.pi / (2 * n)))


def _allocated(key: Key | Moments, device: torch.device) -> Tensor:
    try:
        return torch.zeros(key.shape, dtype=key.dtype, device=device)
    except RuntimeError as error:
        size = math.prod(key.shape) * key.dtype.itemsize / 2**30
        raise RuntimeError(
            f"front: cannot allocate {size:.1f} GiB for the DCT basis of length n = {key.n} with k = {key.k} kept: "
            f"{error}"
        ) from error


def _build_moments(key: Moments, device: torch.device) -> Tensor:
    n, block = key.n, key.block
    steps, _, _, columns = key.shape
    first, other = (factor / key.scale for factor in _factors(n, key.norm, False))
    count = moments.GROUP * len(key.terms)
    data = _allocated(key, device)
    polynomials = torch.tensor(moments.weights(block, count), dtype=torch.float64, device=device)
    i = torch.arange(steps * moments.RUNS * block, device=device)  # past n, too: the row goes on, and x is zero there
    step = max(1, _WORKING_ELEMENTS // len(i))
    for row in range(0, key.k, step):
        u = torch.arange(row, min(row + step, key.k), device=device)[:, None]
        value = _cosines(u, i, n) * torch.where(u == 0, first, other)
        # [rows, steps, runs, groups, moments] -> [groups, steps, rows, moments, runs]
        value = (value.view(len(u), steps, moments.RUNS, block) @ polynomials.T).unflatten(-1, (-1, moments.GROUP))
        value = value.permute(3, 1, 0, 4, 2).reshape(-1, steps, len(u), columns)
        at = 0
        for group, numbers in zip(value, key.terms, strict=True):
            for _ in range(numbers):
                rounded = group.to(key.dtype)
                data[:, at, row : row + len(u)] = rounded
                group -= rounded
                at += 1
    return data


def build(key: Key | Moments, device: torch.device) -> Tensor:
    """The basis, on a device."""
    if isinstance(key, Moments):
        return _build_moments(key, device)
    n = key.n
    first, other = (factor / key.scale for factor in _factors(n, key.norm, key.inverse))
    factors = [torch.tensor(factor, dtype=torch.float64, device=device) for factor in (first, other)]
    rows, columns = key.sizes
    data = _allocated(key, device)
    column = torch.arange(columns, device=device)
    step = max(1, _WORKING_ELEMENTS // columns)
    for parity in range(key.shape[1]):
        for row in range(0, rows, step):
            r = torch.arange(row, min(row + step, rows), device=device)[:, None]
            u, i = (column, r) if key.inverse else (2 * r + parity if key.fold else r, column)
            # With an odd k the last odd row is one too many; nobody stores what it gives.
            value = _cosines(u, i, n) * torch.where(u == 0, factors[0], factors[1])
            for term in range(key.terms):
                rounded = value.to(key.dtype)
                data[term, parity, row : row + len(r), :columns] = rounded
                value -= rounded
    return data


def _build_apart(key: Key | Moments, device: torch.device) -> Tensor:
    """The basis, complete when this returns: built by another thread on another stream.

    While torch.compile warms up a CUDA graph, what this thread allocates lies in the graph's memory and is taken back
    with it; what another thread allocates does not. And a stream may be waited for while other threads capture graphs,
    a device may not.
    """
    if device.type != "cuda":
        return build(key, device)
    found: list[Tensor | BaseException] = []

    def work() -> None:
        try:
            with torch.cuda.device(device), torch.no_grad():
                stream = _build_stream(torch.cuda.current_device())
                with torch.cuda.stream(stream):
                    data = build(key, device)
                stream.synchronize()
            found.append(data)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, name="front: DCT basis")
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@functools.cache
def _build_stream(index: int) -> torch.cuda.Stream:
    # One for all bases: the allocator keeps what a stream has freed for that stream.
    return torch.cuda.Stream(index)


@functools.cache
def _limit(device: torch.device) -> int:
    if device.type != "cuda":
        return CACHE_BYTES
    return max(CACHE_BYTES, torch.cuda.get_device_properties(device).total_memory // 50)


def _current_stream(device: torch.device) -> int:
    # torch.cuda.current_stream makes an object, which takes longer than all the rest of a look-up.
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(torch._C._cuda_getCurrentRawStream(index))


class _Entry:
    """A basis, and the streams that have read it: its memory is not used again before they are through with it."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self._streams: set[int] = set()

    def used(self) -> Tensor:
        if self.data.is_cuda:
            stream = _current_stream(self.data.device)
            if stream not in self._streams:
                self._streams.add(stream)
                self.data.record_stream(torch.cuda.current_stream(self.data.device))
        return self.data


class Cache:
    """Least recently used bases are dropped, but for those that a CUDA graph has captured: it holds their addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._found: OrderedDict[tuple[Key | Moments, torch.device], _Entry] = OrderedDict()
        self._captured: dict[tuple[Key | Moments, torch.device], Tensor] = {}

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(entry.data.nbytes for entry in self._found.values())

    def clear(self) -> None:
        """Drops all but those that CUDA graphs have captured."""
        with self._lock:
            self._found.clear()

    def get(self, key: Key | Moments, device: torch.device) -> Tensor:
        """The basis, built if it is not there.

        Raises:
            RuntimeError: it is not there and the current stream is being captured into a CUDA graph.
        """
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        at = key, device
        found = self._look(at, capturing)
        if found is not None:
            return found
        if capturing:
            raise RuntimeError(
                f"front: the DCT basis for length {key.n}, {key.k} kept, is not in memory, and cannot be built while a "
                "CUDA graph is captured. Call the op once before, with the same sizes (as torch.compile's "
                "mode='reduce-overhead' does)"
            )
        with self._building:  # threads that want the same one wait for it
            found = self._look(at, False)
            if found is not None:
                return found
            entry = _Entry(_build_apart(key, device))
            with self._lock:
                self._found[at] = entry
                # The two of one matrix stay, whatever they take: else every call would build both anew.
                oldest = [each for each in self._found if each[1] == device]
                total = sum(self._found[each].data.nbytes for each in oldest)
                for each in oldest[:-2]:
                    if total > _limit(device):
                        total -= self._found.pop(each).data.nbytes
                return entry.used()

    def _look(self, at: tuple[Key | Moments, torch.device], capturing: bool) -> Tensor | None:
        with self._lock:
            captured = self._captured.get(at) if self._captured else None
            if captured is not None:
                return captured
            entry = self._found.get(at)
            if entry is None:
                return None
            self._found.move_to_end(at)
            if capturing:  # kept for good: no other stream's work is waited for in a graph
                self._captured[at] = entry.data
                return entry.data
            return entry.used()


cache = Cache()
get = cache.get
