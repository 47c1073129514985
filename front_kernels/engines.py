"""The one place that chooses what runs for a CUDA tensor. The C++ library has the CPU key to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from ._autograd import OPS
from ._variants import IN_PLACE, MANY

__all__ = ["available"]


def available() -> tuple[str, ...]:
    """Names of the engines that this build has for CUDA tensors: none yet."""
    return ()


def _no_engine(name: str) -> Callable[..., NoReturn]:
    def kernel(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"front::{name}: x is on a CUDA device, but this version of front_kernels has no CUDA engine. "
            f"Move x to the CPU (x.cpu()) and the result back."
        )

    return kernel


def register() -> torch.library.Library:
    """Registers the CUDA key of every op; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    for op in OPS:
        for overload in {"default", "out"} & set(getattr(torch.ops.front, op.name).overloads()):
            name = op.name if overload == "default" else f"{op.name}.{overload}"
            library.impl(name, _no_engine(op.name), "CUDA")
    for name in [*IN_PLACE, *(f"{op.name}_many" for op in MANY)]:
        library.impl(name, _no_engine(name), "CUDA")
    return library
