"""What a user may ask of the engines for CUDA tensors: one by name, and how precise products must be."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

__all__ = ["ENGINES", "PRECISIONS", "engine", "precision", "set_engine", "set_precision"]

ENGINES = ("cuda", "triton")
PRECISIONS = ("highest", "fast")

# FRONT_ENGINE as it was at import: asking the environment at each call of an op takes a microsecond.
environment = os.environ.get("FRONT_ENGINE") or None

# Settings that were made and have not ended; the last one counts.
_made: dict[str, list[_Made]] = {"engine": [], "precision": []}
_lock = threading.Lock()


class _Made:
    def __init__(self, value: str | None, setting: _Set) -> None:
        self.value, self.entered = value, False
        self._setting = weakref.ref(setting)

    def is_for_good(self) -> bool:
        """Whether nobody holds the context manager any more, to enter it."""
        return not self.entered and self._setting() is None


class _Set:
    """A setting that was made; as a context manager, one that ends, whatever other threads have set meanwhile."""

    def __init__(self, name: str, value: str | None) -> None:
        self._name, self._ended, self._made = name, False, _Made(value, self)
        with _lock:
            # One for good replaces those before it, and this may be for a block: the last one stays.
            last = next((each for each in reversed(_made[name]) if each.is_for_good()), None)
            _made[name] = [*(each for each in _made[name] if each is last or not each.is_for_good()), self._made]

    def __enter__(self) -> None:
        with _lock:
            if self._made.entered:
                raise RuntimeError(
                    f"set_{self._name}: this setting {'has ended' if self._ended else 'is in use'}; call "
                    f"set_{self._name}({self._made.value!r}) anew"
                )
            self._made.entered = True
            # From now on it counts, whatever was set since it was made: by other threads, too.
            _made[self._name] = [*self._others(), self._made]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            self._ended = True
            _made[self._name] = self._others()

    def _others(self) -> list[_Made]:
        return [each for each in _made[self._name] if each is not self._made]


def check_engine(source: str, name: str | None) -> None:
    if name is not None and name not in ENGINES:
        raise ValueError(f"{source} must be 'cuda' or 'triton', got {name!r}")


def set_engine(name: str | None) -> _Set:
    """Makes every op on a CUDA tensor use one engine, or, with None, the one that is predicted to be faster.

    For the whole process, from now on; `with set_engine("triton"): ...` for a block (backward passes run in another
    thread, so the setting is not one thread's). It takes precedence over the environment variable FRONT_ENGINE, which
    is read at import.

    Args:
        name: "cuda" (FFT-shaped kernels), "triton" (GEMM-shaped kernels) or None, whatever FRONT_ENGINE says.

    Returns:
        A context manager whose end undoes this call; nothing needs to be entered. Within the block it counts, also
        where others were made between the call and the block. It is for one block: entered again, it raises
        RuntimeError.

    Raises:
        ValueError: name is none of these. That an engine is missing is an error of the op.
    """
    check_engine("name", name)
    return _Set("engine", name)


def set_precision(name: str) -> _Set:
    """How precise the products of GEMM-shaped kernels on a CUDA tensor must be.

    For the whole process, from now on; `with set_precision("fast"): ...` for a block, as `set_engine`.

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
    made = _made["engine"]  # once: another thread may put a new list there
    if made:
        return made[-1].value
    if environment is not None:
        check_engine("FRONT_ENGINE", environment)
    return environment


def precision() -> str:
    made = _made["precision"]
    return (made[-1].value if made else None) or "highest"
