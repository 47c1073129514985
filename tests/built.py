"""What the package's own build left behind."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def avx2_kernels() -> Path | None:
    """The AVX2 kernels' object of an editable install's build, if it has them and they are newer than their sources."""
    object_ = ROOT / "build" / f"editable-{sys.implementation.cache_tag}" / "CMakeFiles" / "front_cpu_avx2.dir"
    object_ = object_ / "csrc" / "cpu" / "axis_isa.cpp.o"
    sources = [*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc" / "cpu").glob("*.h"), ROOT / "csrc/cpu/axis_isa.cpp"]
    newest = max(source.stat().st_mtime for source in sources)
    return object_ if object_.exists() and object_.stat().st_mtime > newest else None
