"""The ledger: a CSV file of rows, one per case and implementation, with what machine and which versions they are of."""

from __future__ import annotations

import csv
import datetime
import errno
import fcntl
import os
import platform
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import front_kernels as fk
from front_kernels import _settings

from .cases import Row

__all__ = ["append", "commit", "cpu_name", "output", "read", "run_columns"]

PACKAGES = {  # columns: distributions that may have it
    "triton": ("triton",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "jax": ("jax",),
    "pyvkfft": ("pyvkfft",),
    "scipy": ("scipy",),
    "ducc0": ("ducc0",),
    "torch-dct": ("torch-dct",),
}
ROOT = Path(__file__).parents[2]


def read(path: Path) -> list[dict[str, str]]:
    """All rows, oldest first.

    Raises:
        ValueError: the file is no CSV, or a row of it has more or fewer fields than there are columns.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(
                f"{path}: row {number} has {'more' if None in row else 'fewer'} fields than there are columns"
            )
    return rows


def append(results: Sequence[Row], path: Path) -> None:
    """Adds rows, and the columns that only they have behind the old ones; the file is replaced whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _locked(path.parent):
        rows: list[Mapping[str, object]] = [*read(path), *results]
        try:
            with new.open("x", newline="") as file:
                columns = list(dict.fromkeys(c for row in rows for c in row))
                writer = csv.DictWriter(file, columns, "", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Of several processes that append to ledgers there, one at a time; where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems: a row is worth more than order among processes
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL):
                raise
        yield
    finally:
        os.close(descriptor)


def between_markers(text: str, name: str, body: str) -> str:
    """The text with what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` replaced.

    Raises:
        ValueError: it lacks these lines.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the text lacks the lines {begin.strip()} and {end.strip()}")
    return head + begin + body + end + tail


def first_version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def output(command: Sequence[str]) -> str:
    """What a command prints, in one line; "unknown" where it cannot run."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = run.stdout.split("\n")
    return lines[0].strip() or "unknown" if run.returncode == 0 else "unknown"


def commit() -> str:
    """FRONT_COMMIT where it is set (a copy of the files without .git does not know its commit), else git's word."""
    if name := os.environ.get("FRONT_COMMIT"):
        return name
    if not (ROOT / ".git").exists():  # installed elsewhere; git would tell of whatever repository is above
        return "unknown"
    return output(["git", "describe", "--always", "--dirty"])


def cpu_name() -> str:
    """The CPU's name with its numbers: virtual machines call different ones by the same name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{key.removeprefix('cpu ')} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return " ".join([info.get("model name", platform.machine()), *numbers])


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def run_columns(device: torch.device) -> dict[str, object]:
    """What all rows of one run have in common."""
    cuda = device.type == "cuda"
    asked = (_settings.engine() or "auto", _settings.precision()) if cuda else ("", "")
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "driver": output(driver) if cuda else "",
        "cuda": str(torch.version.cuda) if cuda else "",
        "threads": "" if cuda else torch.get_num_threads(),
        "isa": "" if cuda else fk.build_info()["cpu_isa"],
        **dict(zip(("engine", "precision"), asked, strict=True)),  # those that were asked for
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: first_version(distributions) for name, distributions in PACKAGES.items()},
        "version": fk.__version__,
        "commit": commit(),
        "date": today(),
        "run": uuid.uuid4().hex[:12],  # tells runs of one day and commit apart
    }
