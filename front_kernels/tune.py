"""`python -m front_kernels.tune`: measures tiles of the Triton kernels on this GPU and writes them to a file.

For every kernel, kind of number and size in the file of its architecture (or of unknown devices), tries tiles near
those it gives, checks each result against float64, and keeps the fastest. The ops read configs/DEVICE.json of the
package from then on; nothing is ever measured inside a call of theirs.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import track

from . import engines, reference
from .triton import launch, plan, tiles

__all__ = ["candidates", "main", "measure", "write"]

_DTYPES = {"half": torch.bfloat16, "single": torch.float32, "double": torch.float64}
_LIMIT = {
    "half": 1e-5,
    "single": 1e-6,
    "double": 2e-14,
}  # of a result in float32 or wider: a rounded one hides a lost term
Timer = Callable[[Callable[[], object]], float]


def candidates(tile: tiles.Tile) -> Iterator[tiles.Tile]:
    """The tile, and those that differ in one or two fields: sizes halved or doubled, warps of 4 or 8, 1 to 4 stages."""
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


def _problem(entry: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, str, torch.Tensor]:
    """Input, result, direction and the exact result for an entry of a file."""
    dtype = _DTYPES[entry["kind"]]
    n, lanes, k = entry["size"]
    generator = torch.Generator(device).manual_seed(0)
    large, small = (n, lanes), (min(k, n), min(k, lanes))
    inverse = entry["kernel"] == "pad"
    if entry["kernel"] == "axis":  # along the first axis; the lanes are not transformed
        large, small = (n, lanes), (min(k, n), lanes)
    x = torch.randn(small if inverse else large, device=device, generator=generator).to(dtype)
    with torch.device(device):
        if entry["kernel"] == "axis":
            exact = reference.dct(x, small[0], 0)
        elif inverse:
            exact = reference.idct_pad(x, large)
        else:
            exact = reference.dct_crop(x, small)
    out = torch.empty(exact.shape, dtype=dtype, device=device)
    return x, out, "inverse" if inverse else "forward", exact


def measure(entry: dict[str, Any], device: torch.device, target: plan.Target, timer: Timer) -> tuple[tiles.Tile, float]:
    """The fastest tile whose result is right, and its time by `timer`.

    Raises:
        RuntimeError: no tile gives a right result.
    """
    x, out, direction, exact = _problem(entry, device)
    wide = out.float() if out.itemsize < 4 else out

    def planned(into: torch.Tensor) -> plan.Plan:
        layouts = plan.Layout.of(x), plan.Layout.of(into)
        # Past the caches: they know nothing of what is forced.
        if entry["kernel"] == "axis":
            return plan.axis.__wrapped__(*layouts, False, 0, "ortho", target)
        return plan.matrices.__wrapped__(*layouts, 1, direction, (0, 0), "ortho", target, True, False)

    best: tuple[float, tiles.Tile] | None = None
    at, start = (entry["kernel"], entry["kind"]), tiles.Tile(*(entry[name] for name in tiles.Tile._fields))
    try:
        for tile in candidates(start):
            tiles.forced[at] = tile
            try:
                wide.fill_(float("nan"))
                launch.carry_out(planned(wide), [x], [wide])
                error = float((wide.double() - exact).norm() / exact.norm())
                if not error <= _LIMIT[entry["kind"]]:
                    continue
                found = planned(out)
                time = timer(lambda found=found: launch.carry_out(found, [x], [out]))  # type: ignore[misc]
            except Exception as cause:  # a tile that does not fit the device, which each Triton says in its own way
                click.echo(f"  {tile}: {type(cause).__name__}", err=True)
                continue
            if best is None or time < best[0]:
                best = time, tile
    finally:
        tiles.forced.pop(at, None)
    if best is None:
        raise RuntimeError(f"no tile of kernel {at[0]!r}, kind {at[1]!r}, size {entry['size']} gives a right result")
    return best[1], best[0]


def write(file: Path, about: str, entries: list[dict[str, Any]]) -> None:
    """The file, whole or not at all."""
    lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
    text = f'{{\n  "about": {json.dumps(about)},\n  "tiles": [\n{lines}\n  ]\n}}\n'
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _by_events(call: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return 1e3 * float(do_bench(call, warmup=5, rep=20, return_mode="median"))


def tuned(device: torch.device, gpu: engines.Gpu, timer: Timer) -> list[dict[str, Any]]:
    """Entries of the file that there is for a device like this, each with the fastest tile and its time."""
    target = plan.Target((gpu.name, gpu.architecture), gpu.multiprocessors, tf32=gpu.nvidia)
    entries = json.loads(tiles.file_for((gpu.architecture,)).read_text())["tiles"]
    found = []
    for entry in track(entries, description="tiles"):
        tile, us = measure(entry, device, target, timer)
        found.append({**entry, **tile._asdict(), "us": round(us, 2)})
    return found


@click.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="instead of the package's own")
def main(output: Path | None) -> None:
    """Measure tiles of the Triton kernels on this GPU; minutes."""
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
    write(file, about, tuned(device, gpu, _by_events))
    click.echo(f"wrote {file}")


if __name__ == "__main__":
    main()
