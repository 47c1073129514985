"""What the distributions hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_source_distribution_can_be_built_from(tmp_path):
    copy = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip(f"not a git checkout: {tracked.stderr.strip()}")
    for name in tracked.stdout.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=copy, capture_output=True, text=True, check=True
    )
    with tarfile.open(tmp_path / run.stdout.splitlines()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = [p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    packages = [p for folder in ("front_kernels", "python/front_models") for p in (ROOT / folder).glob("*.py*")]
    needed += [p.relative_to(ROOT).as_posix() for p in packages if p.suffix in (".py", ".pyi")]
    for pattern in ("bench/*.py", "triton/*.py", "configs/*.json"):
        packages = [p.relative_to(ROOT).as_posix() for p in (ROOT / "front_kernels").glob(pattern)]
        assert packages
        needed += packages
    needed += ["CMakeLists.txt", "LICENSE", "README.md", "setup.py", "pyproject.toml", "front_kernels/py.typed"]
    assert len(needed) > 40
    assert sorted(set(needed) - names) == []


def test_the_library_names_no_folder_of_the_machine_that_built_it():
    for file in (ROOT / "front_kernels").glob("*.so"):
        data = file.read_bytes()
        assert str(ROOT).encode() not in data, file
        assert b"$ORIGIN/../torch/lib" in data
