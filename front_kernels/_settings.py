"""What a user may ask of the engines for CUDA tensors: one by name, and how precise products must be."""

from __future__ import annotations

import os
from types import TracebackType

__all__ = ["ENGINES", "PRECISIONS", "engine", "precision", "set_engine", "set_precision"]

ENGINES = ("cuda", "triton")
PRECISIONS = ("highest", "fast")

_current: dict[str, str | None] = {"engine": None, "precision": "highest"}


class _Set:
    """A setting that was made; as a context manager, one that ends."""

    def __init__(self, name: str, value: str | None) -> None:
        self._name, self._before = name, _current[name]
        _current[name] = value

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current[self._name] = self._before


def check_engine(source: str, name: str | None) -> None:
    if name is not None and name not in ENGINES:
        raise ValueError(f"{source} must be 'cuda' or 'triton', got {name!r}")


def set_engine(name: str | None) -> _Set:
    """Makes every op on a CUDA tensor use one engine, or, with None, the one that is predicted to be faster.

    For the whole process, from now on; `with set_engine("triton"): ...` for a block (backward passes run in another
    thread, so the setting is not one thread's). Before `FRONT_ENGINE`, the environment variable that does the same.

    Args:
        name: "cuda" (FFT-shaped kernels), "triton" (GEMM-shaped kernels) or None.

    Raises:
        ValueError: name is none of these. That an engine is missing is an error of the op.
    """
    check_engine("name", name)
    return _Set("engine", name)


def set_precision(name: str) -> _Set:
    """How precise the products of GEMM-shaped kernels on a CUDA tensor must be.

    For the whole process, from now on; `with set_precision("fast"): ...` for a block.

    Args:
        name: "highest", the default: relative L2 error at most 1e-6 (float32 results of float32) or 1e-5 (of 16-bit
            inputs). "fast": at most 3e-3; products take one term of TF32, float16 or bfloat16. It allows engines to be
            less precise; the FFT-shaped kernels and the CPU are as precise as ever.

    Raises:
        ValueError: name is neither.
    """
    if name not in PRECISIONS:
        raise ValueError(f"name must be 'highest' or 'fast', got {name!r}")
    return _Set("precision", name)


def engine() -> str | None:
    """The engine that is asked for, if any."""
    if _current["engine"] is not None:
        return _current["engine"]
    if "FRONT_ENGINE" not in os.environ:  # asked at each call of an op, where get() would raise and catch
        return None
    name = os.environ["FRONT_ENGINE"] or None
    check_engine("FRONT_ENGINE", name)
    return name


def precision() -> str:
    return _current["precision"] or "highest"
