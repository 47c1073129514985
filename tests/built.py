"""What the package's own build left behind."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def object_of(source: str, target: str = "front_ops") -> Path | None:
    """What an editable install's build made of csrc/cpu/`source` for a target of CMakeLists.txt, if there is such a
    build and the object is newer than all that the source may include."""
    path = ROOT / "build" / f"editable-{sys.implementation.cache_tag}" / "CMakeFiles" / f"{target}.dir"
    path = path / "csrc" / "cpu" / f"{source}.o"
    sources = [*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc" / "cpu").glob("*.h"), ROOT / "csrc" / "cpu" / source]
    newest = max(each.stat().st_mtime for each in sources)
    return path if path.exists() and path.stat().st_mtime > newest else None


def avx2_kernels() -> Path | None:
    return object_of("axis_isa.cpp", "front_cpu_avx2")
