"""`python -m front_kernels.tune`: measures tiles of the Triton kernels on this GPU and writes them to a file.

For every kernel, kind of number and size in the file of its architecture (or of unknown devices), tries tiles near
those it gives, checks each result against float64, and keeps the fastest. Tiles are compiled by other processes first,
into Triton's cache on disk, and those that spill or do not fit are left out. The ops read configs/DEVICE.json of the
package from then on; nothing is ever measured inside a call of theirs.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import secrets
import stat
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor

from . import engines, reference
from ._options import Seconds
from .triton import launch, moments, plan, tiles

__all__ = ["candidates", "main", "measure", "write"]

_DTYPES = {"half": torch.bfloat16, "single": torch.float32, "double": torch.float64}
_LIMIT = {
    "half": 1e-5,
    "single": 1e-6,
    "double": 2e-14,
}  # of a result in float32 or wider: a rounded one hides a lost term
_COPIES = 4  # of the input, so that it is not in the cache
_SHOWN = 5  # tiles of each entry in the table
_LEAST_BYTES, _MOST_BYTES = 4 << 10, 16 << 10  # asked for at a time, for each warp
_MOST_SPILLS = 16  # registers
JOBS = max(1, (os.cpu_count() or 2) - 2)
"""Processes that compile."""
Timer = Callable[[Callable[[int], object]], float]
"""Microseconds of a function that is given which copy of the input to take."""


def candidates(kernel: str, kind: str, tile: tiles.Tile) -> Iterator[tiles.Tile]:
    """The tile, and others.

    Those that differ in one or two fields: sizes halved or doubled, warps of 4 or 8, 1 to 4 stages. Of sums of moments
    all runs, lanes, warps and stages that ask for about as much at a time as memory has to be asked for.
    """
    if kernel.endswith("_moments"):
        yield tile
        rows = (128, 256) if tile.rows else (0,)
        columns = (32, 128) if tile.columns else (0,)
        for each in itertools.product(rows, (16, 32, 64), (32, 64, 128), columns, (4, 8), (1, 2, 3)):
            found = tiles.Tile(*each)
            size = found.terms * moments.RUNS * found.lanes * _DTYPES[kind].itemsize * max(1, found.stages - 1)
            if found != tile and _LEAST_BYTES * found.warps <= size <= _MOST_BYTES * found.warps:
                yield found
        return
    other: dict[str, list[int]] = {}
    for name in ("rows", "terms", "lanes", "columns"):
        n = getattr(tile, name)
        other[name] = [size for size in (n // 2, 2 * n) if 16 <= size <= tiles.LARGEST]
    other["warps"] = [warps for warps in (4, 8) if warps != tile.warps]
    other["stages"] = [stages for stages in (1, 2, 3, 4) if stages != tile.stages]
    for count in (0, 1, 2):
        for names in itertools.combinations(other, count):
            for values in itertools.product(*(other[name] for name in names)):
                yield tile._replace(**dict(zip(names, values, strict=True)))


def _candidates(entry: dict[str, Any]) -> Iterator[tiles.Tile]:
    return candidates(entry["kernel"], entry["kind"], tiles.Tile(*(entry[name] for name in tiles.Tile._fields)))


class Problem(NamedTuple):
    """What an entry of a file is measured by: layouts of the input and of results, the op's and one that is checked."""

    kernel: str
    kind: str
    x: plan.Layout
    out: plan.Layout
    wide: plan.Layout
    direction: str

    @staticmethod
    def of(entry: dict[str, Any]) -> Problem:
        dtype = _DTYPES[entry["kind"]]
        n, lanes, k = entry["size"]
        wide = torch.promote_types(dtype, torch.float32)
        large, small = (n, lanes), (min(k, n), min(k, lanes))
        if entry["kernel"].startswith("axis"):
            # Along the first axis, as the first of two passes does it: into the columns of the second one's input.
            out = plan.Layout((small[0], lanes), (1, small[0]), wide)
            return Problem(entry["kernel"], entry["kind"], _rows(large, dtype), out, out, "axis")
        ends = (small, large) if entry["kernel"] == "pad" else (large, small)
        direction = "inverse" if entry["kernel"] == "pad" else "forward"
        x, out, checked = _rows(ends[0], dtype), _rows(ends[1], dtype), _rows(ends[1], wide)
        return Problem(entry["kernel"], entry["kind"], x, out, checked, direction)

    def plan(self, tile: tiles.Tile, out: plan.Layout, target: plan.Target) -> plan.Plan:
        """With the tile in the place of what the files say."""
        tiles.forced[self.kernel, self.kind] = tile
        try:
            # Past the caches: they know nothing of what is forced.
            if self.direction == "axis":
                return plan.axis.__wrapped__(self.x, out, False, 0, "ortho", target)
            args = self.x, out, 1, self.direction, (0, 0), "ortho", target, True, False
            return plan.matrices.__wrapped__(*args)
        finally:
            tiles.forced.pop((self.kernel, self.kind), None)

    def exact(self, x: Tensor) -> Tensor:
        with torch.device(x.device):
            if self.direction == "axis":
                return reference.dct(x, self.out.shape[0], 0)
            transform = reference.idct_pad if self.direction == "inverse" else reference.dct_crop
            return transform(x, self.out.shape)  # type: ignore[arg-type]


def _rows(shape: tuple[int, int], dtype: torch.dtype) -> plan.Layout:
    return plan.Layout(shape, (shape[1], 1), dtype)


def compiled(problem: Problem, tile: tiles.Tile, target: plan.Target) -> str | None:
    """Compiles what the tile needs, into Triton's cache; why it is no good, if it is not. A worker's task."""
    from triton.runtime.jit import MockTensor

    try:
        for out in {problem.out, problem.wide}:
            found = problem.plan(tile, out, target)
            types: dict[str | int, torch.dtype] = {"x": problem.x.dtype, "out": out.dtype}
            types |= {i: temporary.dtype for i, temporary in enumerate(found.temporaries)}
            for step in found.steps:
                arguments: dict[str, Any] = {name: MockTensor(types[slot]) for name, slot in step.tensors}
                arguments |= {name: MockTensor(key.dtype) for name, key in step.bases}
                kernel = step.kernel.warmup(grid=(1,), **step.arguments, **arguments)
                kernel._init_handles()  # which loads it: registers are known, and whether it fits
                if kernel.n_spills > _MOST_SPILLS:
                    return f"{kernel.n_spills} spills"
    except Exception as error:  # what does not fit, each Triton says in its own way
        return f"{type(error).__name__}: {error}"[:200]
    return None


class Found(NamedTuple):
    us: float
    tile: tiles.Tile


def measure(
    entry: dict[str, Any], device: torch.device, target: plan.Target, timer: Timer,
    compiling: Compiling | None = None, until: float = float("inf"),
) -> list[Found]:  # fmt: skip
    """The tiles whose results are right, the fastest first, and their times by `timer`; none after the time `until`.

    Raises:
        RuntimeError: no tile gives a right result.
    """
    problem = Problem.of(entry)
    generator = torch.Generator(device).manual_seed(0)
    # A mean, so that sums grow.
    x = torch.randn(problem.x.shape, device=device, generator=generator).add_(1).to(problem.x.dtype)
    exact = problem.exact(x)
    copies = [x] + [x.clone() for _ in range(_COPIES - 1)] if device.type == "cuda" else [x] * _COPIES
    out, wide = (
        torch.empty_strided(*each[:2], dtype=each.dtype, device=device) for each in (problem.out, problem.wide)
    )
    found: list[Found] = []
    for tile in _candidates(entry):
        if time.monotonic() > until:
            return sorted(found)
        try:
            if (
                compiling is not None
                and compiling[tile].result(max(0.0, min(until - time.monotonic(), 1e6))) is not None
            ):
                continue
        except TimeoutError:
            return sorted(found)
        try:
            wide.fill_(float("nan"))
            launch.carry_out(problem.plan(tile, problem.wide, target), [x], [wide])
            error = float((wide.double() - exact).norm() / exact.norm())
            if not error <= _LIMIT[entry["kind"]]:
                click.echo(f"  {tile}: relative error {error:.1e}", err=True)
                continue
            planned = problem.plan(tile, problem.out, target)
            us = timer(lambda i, planned=planned: launch.carry_out(planned, [copies[i % _COPIES]], [out]))  # type: ignore[misc]
        except Exception as cause:  # a tile that does not fit the device
            click.echo(f"  {tile}: {type(cause).__name__}", err=True)
            continue
        found.append(Found(us, tile))
    if not found and time.monotonic() < until:
        where = f"kernel {entry['kernel']!r}, kind {entry['kind']!r}, size {entry['size']}"
        raise RuntimeError(f"no tile of {where} gives a right result")
    return sorted(found)


def write(file: Path, about: str, entries: list[dict[str, Any]]) -> None:
    """The file, whole or not at all."""
    lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
    text = f'{{\n  "about": {json.dumps(about)},\n  "tiles": [\n{lines}\n  ]\n}}\n'
    # Not tempfile's: those are for their owner only, and others plan by this file.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x") as stream:
            stream.write(text)
        if file.exists():
            temporary.chmod(stat.S_IMODE(file.stat().st_mode))
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cuda_timer(device: torch.device) -> Timer:
    """Medians of CUDA events around calls that are queued behind a long copy."""
    from .bench.clocks import CudaClock

    clock = CudaClock(device)

    def timer(call: Callable[[int], object]) -> float:
        call(0)
        calls = [functools.partial(call, i) for i in range(8)]
        return statistics.median(us for _ in range(2) for us in clock.between_events(calls, 1500))

    return timer


def rates(entry: dict[str, Any], us: float) -> str:
    """GB/s of what is read and written, and TFLOP/s of the products with a whole basis."""
    n, lanes, k = entry["size"]
    size = _DTYPES[entry["kind"]].itemsize
    operations = 2.0 * n * lanes * k
    return f"{n * lanes * size / us / 1e3:7.0f} GB/s {operations / us / 1e6:7.1f} TFLOP/s"


Compiling = dict[tiles.Tile, Future[str | None]]


class _Compilers:
    """Processes that compile tiles ahead, of all entries in turn. If one of them is killed, all are lost, for a process
    pool ends then: others compile what is left, one entry at a time."""

    def __init__(self, jobs: int, target: plan.Target) -> None:
        self._jobs, self._target = jobs, target
        self._pool: ProcessPoolExecutor | None = None
        self._compiling: dict[int, Compiling] = {}  # by the entry's identity
        self._new_pool()

    def _new_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        # Processes of their own, since a CUDA context does not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._jobs, mp_context=context) if self._jobs else None

    def __enter__(self) -> _Compilers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, entry: dict[str, Any]) -> Compiling | None:
        if self._pool is None:
            return None
        problem = Problem.of(entry)
        return {tile: self._pool.submit(compiled, problem, tile, self._target) for tile in _candidates(entry)}

    def begin(self, entries: Sequence[dict[str, Any]]) -> None:
        with contextlib.suppress(BrokenProcessPool):  # what is left is compiled when it is asked for
            for entry in entries:
                if (compiling := self._submit(entry)) is not None:
                    self._compiling[id(entry)] = compiling

    def of(self, entry: dict[str, Any]) -> Compiling | None:
        """Its tiles, compiled or being compiled; None: by nobody yet."""
        return self._compiling.pop(id(entry), None) or self._submit(entry)

    def alone(self, entry: dict[str, Any]) -> Compiling | None:
        """The same by new processes, which have nothing else to do."""
        self._compiling.clear()
        self._new_pool()
        return self._submit(entry)


def tuned(
    device: torch.device, gpu: engines.Gpu, timer: Timer, only: Sequence[str] = (), until: float = float("inf"),
    jobs: int = 0, start: Path | None = None, failed: list[str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Entries of the file `start` (None: that of the device, else of its architecture), each with the fastest tile.

    Of `only` some ("crop/half"), in that order, and until a time or an interrupt; others are as they were, and so are
    those that cannot be measured, whose names and causes are added to `failed`. `jobs`: processes that compile.

    Raises:
        ValueError: the file is none of tiles, or `only` names what is not in it.
        RuntimeError: nothing was measured.
    """
    failed = [] if failed is None else failed
    target = plan.Target((gpu.name, gpu.architecture), gpu.multiprocessors, tf32=gpu.nvidia)
    entries = _entries(start or tiles.file_for(target.names))
    names = [_name(entry) for entry in entries]
    only = list(dict.fromkeys(only))
    for wanted in only:
        if wanted not in names:
            raise ValueError(f"only must be of {', '.join(sorted(set(names)))}, got {wanted!r}")
    asked = (
        [e for wanted in only for e, name in zip(entries, names, strict=True) if name == wanted] if only else entries
    )
    measured = False
    with _Compilers(jobs, target) as compilers:
        compilers.begin(asked)
        for entry in asked:
            if time.monotonic() > until:
                break
            try:
                try:
                    found = measure(entry, device, target, timer, compilers.of(entry), until)
                except BrokenProcessPool:  # maybe of another entry, that was compiled ahead
                    found = measure(entry, device, target, timer, compilers.alone(entry), until)
            except KeyboardInterrupt:  # what was measured before is worth minutes
                failed.append("interrupted")
                break
            except Exception as error:  # no right tile, compilers that were killed: the others may be fine
                failed.append(f"{_name(entry)} {entry['size']}: {type(error).__name__}: {error}")
                click.echo(f"  {failed[-1]}", err=True)
                continue
            click.echo(f"{_name(entry)} {entry['size']}: {len(found)} tiles")
            for us, tile in found[:_SHOWN]:
                fields = " ".join(f"{name} {value}" for name, value in tile._asdict().items() if value)
                click.echo(f"  {us:8.2f} us {rates(entry, us)}  {fields}")
            if found:
                entry |= {**found[0].tile._asdict(), "us": round(found[0].us, 2)}
                measured = True
    if not measured:
        raise RuntimeError(f"nothing was measured: {'; '.join(failed) or 'the time was over before'}")
    return entries


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['kernel']}/{entry['kind']}"


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        tiles.read(file)
        return json.loads(file.read_text())["tiles"]  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no file of tiles: {type(error).__name__}: {error}") from error


@click.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="instead of the package's own")
@click.option("--only", multiple=True, metavar="KERNEL/KIND", help="such as crop/half; any number of them")
@click.option("--deadline", type=Seconds(min=0, min_open=True), metavar="SECONDS", help="then what there is is written")
@click.option("--jobs", type=click.IntRange(min=0), default=JOBS, help="processes that compile; 0: none")
def main(output: Path | None, only: tuple[str, ...], deadline: float | None, jobs: int) -> None:
    """Measure tiles of the Triton kernels on this GPU; minutes.

    What is not measured is as in the file that is written to, if there is one, else as in the device's or its
    architecture's. An entry that fails, or an interrupt, leaves the others: the file is written, the exit code is 1.
    """
    begun = time.monotonic()
    if not torch.cuda.is_available():
        raise click.ClickException("no GPU: torch.cuda.is_available() is false")
    device = torch.device("cuda", torch.cuda.current_device())
    gpu = engines.gpu_of(device)
    file = output or tiles.CONFIGS / tiles.file_name(gpu.name)
    if not os.access(file.parent, os.W_OK):
        raise click.ClickException(f"cannot write to {file.parent}; name another file with --output")
    import triton

    about = (
        f"Measured on {gpu.name}, torch {torch.__version__}, Triton {triton.__version__}; us: the fastest tile's time."
    )
    until = float("inf") if deadline is None else begun + deadline
    failed: list[str] = []
    try:
        entries = tuned(device, gpu, cuda_timer(device), only, until, jobs, file if file.exists() else None, failed)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    write(file, about, entries)
    click.echo(f"wrote {file}")
    if failed:
        raise click.ClickException(f"as before in it, not measured: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
