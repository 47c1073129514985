"""Matrices whose rows are divided among processes, as data: who has what, and what each way of transforming sends."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ._spectral_definition import Decay, compute_dtype

__all__ = ["Part", "Shard"]


@dataclass(frozen=True)
class Shard:
    """This process's rows of a matrix of `total` rows: every process has `chunk` of them, as far as they go."""

    local: Tensor  # [rows, n], may be empty
    chunk: int
    total: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.total, self.local.shape[1]

    def rows(self, rank: int) -> slice:
        """Where the process of this rank has its rows."""
        first = min(rank * self.chunk, self.total)
        return slice(first, min(first + self.chunk, self.total))


@dataclass(frozen=True)
class Part:
    """Shards of one shape and dtype that are independent, or, with `layers` kept, the layers of a stack."""

    shards: tuple[Shard, ...]
    k: tuple[int, int]
    layers: int | None = None
    decay: Decay = None

    def columns(self, size: int) -> list[range]:
        """Which columns of the coefficients each of `size` processes transforms where they are exchanged."""
        width = self._width(size)
        return [range(min(p * width, self.k[1]), min((p + 1) * width, self.k[1])) for p in range(size)]

    def _width(self, size: int) -> int:
        return -(-self.k[1] // size)

    def bytes(self, size: int) -> dict[str, int]:
        """The most that one of `size` processes sends, and receives, by each way, times size / (size - 1).

        An all-reduce moves its bytes twice; the intermediate is exchanged forth and back.
        """
        shard, (k0, k1), count = self.shards[0], self.k, len(self.shards)
        own, computed = shard.local.dtype, compute_dtype(shard.local.dtype)
        return {
            "exchanged": 2 * count * shard.chunk * size * self._width(size) * computed.itemsize,
            "summed": 2 * count * k0 * k1 * computed.itemsize,
            "gathered": count * size * shard.chunk * shard.shape[1] * own.itemsize,
        }

    def way(self, size: int) -> str:
        """That of the fewest bytes; of equals the first, since it divides the work too."""
        found = self.bytes(size)
        return min(found, key=lambda name: found[name])

    def held_bytes(self, size: int) -> int:
        """Of coefficients, or of what is exchanged."""
        shard, (k0, k1) = self.shards[0], self.k
        exchanged = self.way(size) == "exchanged"
        each = shard.chunk * size * self._width(size) if exchanged else k0 * k1
        return len(self.shards) * each * compute_dtype(shard.local.dtype).itemsize
