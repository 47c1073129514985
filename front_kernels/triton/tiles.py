"""Sizes of the kernels' tiles, as data: front_kernels/configs, a file for a device, an architecture, or all others."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["CONFIGS", "LARGEST", "Tile", "file_for", "file_name", "forced", "nearest", "read", "spread"]

CONFIGS = Path(__file__).parent.parent / "configs"
LARGEST = 128
"""Of each side of a tile: bases are padded to whole tiles of up to this size, and no further. Of sums of moments a tile
may have twice as many rows, and `terms` are a run's."""


class Tile(NamedTuple):
    """What a program works on at a time. Kernels ignore what they take whole.

    Rows of the result; terms of a sum; lanes; columns of the lanes' basis; and its warps and pipeline stages.
    """

    rows: int
    terms: int
    lanes: int
    columns: int
    warps: int
    stages: int


def file_name(device: str) -> str:
    """The name of a device's file: "NVIDIA H200" -> "NVIDIA_H200.json"."""
    return re.sub(r"[^A-Za-z0-9.+-]", "_", device) + ".json"


def file_for(names: Sequence[str]) -> Path:
    """The first file there is for one of the names (a device's, "NVIDIA H200", then its architecture's, "sm_90")."""
    files = [CONFIGS / file_name(name) for name in names]
    return next((file for file in files if file.exists()), CONFIGS / "default.json")


@functools.cache
def read(path: Path) -> tuple[tuple[str, str, tuple[int, ...], Tile], ...]:
    """Kernel, kind, size and tile of each entry of a file.

    Raises:
        ValueError: a tile's side is none that kernels take.
    """
    entries = json.loads(path.read_text())["tiles"]
    found = []
    for e in entries:
        tile = Tile(*(e[name] for name in Tile._fields))
        for name, side in zip(Tile._fields, tile[:4], strict=False):
            most = 2 * LARGEST if e["kernel"] == "axis_moments" else LARGEST
            if side and not (16 <= side <= most and side & (side - 1) == 0):
                raise ValueError(f"{path}: {name} must be a power of two from 16 to {most}, or 0, got {side} in {e}")
        found.append((e["kernel"], e["kind"], tuple(e["size"]), tile))
    return tuple(found)


forced: dict[tuple[str, str], Tile] = {}
"""By (kernel, kind): what tune.py tries instead of what the files say."""


def nearest(names: tuple[str, ...], kernel: str, kind: str, size: tuple[int, ...]) -> Tile:
    """The tile for the size (terms of the sums, lanes, rows of the basis) nearest to `size` by its logarithms."""
    return forced.get((kernel, kind)) or _nearest(names, kernel, kind, size)


@functools.cache
def _nearest(names: tuple[str, ...], kernel: str, kind: str, size: tuple[int, ...]) -> Tile:
    def distance(other: Sequence[int]) -> float:
        return sum(abs(math.log2(a / b)) for a, b in zip(size, other, strict=True))

    found = [(distance(s), tile) for name, what, s, tile in read(file_for(names)) if (name, what) == (kernel, kind)]
    if not found:
        raise ValueError(f"{file_for(names)} has no tile for kernel {kernel!r} of kind {kind!r}")
    return min(found, key=lambda pair: pair[0])[1]


_SMALL = 32
"""Rows and lanes of the smallest tile that others are halved to."""


def spread(rows: int, lanes: int, height: int, width: int, programs: int) -> tuple[int, int]:
    """Rows and lanes of a tile of a result of `height` rows and `width` lanes: halved while there would be at most half
    as many of them as `programs` that can run at a time, along the side for which less is read once more."""
    while 2 * (down := -(-height // rows)) * (across := -(-width // lanes)) <= programs:
        if lanes > _SMALL and (height * across <= width * down or rows <= _SMALL):
            lanes //= 2
        elif rows > _SMALL:
            rows //= 2
        else:
            break
    return rows, lanes
