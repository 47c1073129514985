"""Entry point of the command `front`: what can be answered, or interrupted, before torch is imported.

Outside of the packages, because importing anything in them imports torch, which takes seconds.
"""

from __future__ import annotations

import importlib.metadata
import sys

__all__ = ["main"]


def main() -> int:
    """Run `front`; the exit code is `front_models._cli.main`'s, 130 where Ctrl-C comes while that is imported."""
    try:
        if sys.argv[1:] == ["--version"]:
            print(f"front, version {importlib.metadata.version('front-kernels')}")
            return 0
        from front_models._cli import main as run

        return run()
    except KeyboardInterrupt:
        print("front: interrupted", file=sys.stderr)
        return 130
