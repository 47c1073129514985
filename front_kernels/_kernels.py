"""Machine code of the CUDA engine's kernels: what was compiled ahead, or NVRTC's.

The C++ side asks for it once per kernel and device, through the private op `front::_cuda_image`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from . import _nvrtc

AHEAD = Path(__file__).with_name("cuda")


@functools.cache
def headers() -> dict[str, str]:
    """The device code, as it was when the library was built: by the names under which it includes itself."""
    return {path.name: path.read_text() for path in AHEAD.glob("*.h")}


@functools.cache
def ahead() -> dict[str, tuple[int, ...]]:
    """The kernels that were compiled ahead, and what for: not all for all, since plans depend on the device."""
    listed = AHEAD / "kernels.txt"
    lines = listed.read_text().splitlines() if listed.exists() else []
    return {name: tuple(map(int, numbers.split(","))) for name, _, numbers in (line.partition(" ") for line in lines)}


def source_of(kernel: str) -> str:
    """A translation unit of what the planner calls a kernel's source."""
    return f'#include "kernels.h"\n{kernel}'


def image(name: str, source: str, architecture: int) -> bytes:
    """Machine code of the kernel `name` for sm_`architecture`.

    Raises:
        RuntimeError: it was not compiled ahead for this architecture, and there is no NVRTC, or NVRTC fails.
    """
    if _nvrtc.runs_on(architecture, ahead().get(name, ())) is not None:
        return (AHEAD / f"{name}.fatbin").read_bytes()
    return _nvrtc.compiled(source_of(source), name, headers(), architecture)


def _image_op(name: str, source: str, architecture: int) -> Tensor:
    # NOTE: an exception's words do not survive torch's C interface, so they are handed over as data: the last byte
    # tells an image, 0, from a message, 1.
    try:
        data = image(name, source, architecture) + b"\0"
    except Exception as error:
        data = f"{type(error).__name__}: {error}".encode() + b"\1"
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def register() -> torch.library.Library:
    """Registers the op; the returned Library keeps it alive."""
    library = torch.library.Library("front", "IMPL")
    library.impl("_cuda_image", _image_op, "CompositeExplicitAutograd")
    return library
