"""On a GPU: the Triton engine at the sizes that its tiles are chosen for, before and after tuning them.

    python bench/gpu_tiles.py --output FOLDER [--seconds 240]

Each result is compared with float64. Times are medians of events around calls that wait behind a long copy, over
several copies of the input, so that it is not in the cache. FOLDER gets the tuned file and times.json; a table of
the times comes last.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import time
from pathlib import Path

import torch

import front_kernels as fk
from front_kernels import engines, tune
from front_kernels.bench.clocks import CudaClock
from front_kernels.triton import plan, tiles

HALF, SINGLE = torch.bfloat16, torch.float32
SIZES = [
    ((8192, 8192), (128, 128), HALF),
    ((8192, 8192), (32, 32), HALF),
    ((8192, 8192), (256, 256), HALF),
    ((8192, 8192), (512, 512), HALF),
    ((30522, 768), (256, 256), HALF),
    ((8192, 8192), (64, 64), SINGLE),
    ((8192, 8192), (128, 128), SINGLE),
    ((8192, 8192), (256, 256), SINGLE),
    ((30522, 768), (256, 256), SINGLE),
    ((8192, 8192), (1024, 1024), SINGLE),
    ((768, 768), (384, 384), SINGLE),
]
TUNED = (
    "crop/half", "crop_moments/single", "axis_moments/half", "axis_moments/single", "axis/single", "axis/half",
)  # fmt: skip
AFTER = 45.0  # seconds kept for the second table


def case(shape: tuple[int, int], k: tuple[int, int], dtype: torch.dtype) -> str:
    return f"{str(dtype)[6:]} {shape[0]}x{shape[1]} -> {k[0]}x{k[1]}"


def named(engine: str, x: torch.Tensor, k: tuple[int, int]) -> str:
    """The kernels of the engine's plan, and their programs."""
    if engine != "triton":
        return ""
    out = torch.empty(k, dtype=x.dtype, device="meta")
    layouts = plan.Layout.of(x), plan.Layout.of(out)
    target = engines.target(engines.gpu_of(x.device))
    found = plan.matrices(*layouts, 1, "forward", (0, 0), "ortho", target, True, False)
    return " ".join(f"{step.kernel.__name__}*{step.grid}" for step in found.steps)


def table(clock: CudaClock, when: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for shape, k, dtype in SIZES:
        generator = torch.Generator("cuda").manual_seed(1)
        x = torch.randn(shape, device="cuda", generator=generator).add_(1).to(dtype)
        with torch.device("cuda"):
            exact = fk.reference.dct_crop(x, k)
        copies = [x] + [x.clone() for _ in range(3)]
        for engine in engines.available():
            if engine != "triton" and when != "before":
                continue
            row: dict[str, object] = {"when": when, "case": case(shape, k, dtype), "engine": engine}
            try:
                with fk.set_engine(engine):
                    wide = fk.dct_crop(x, k, out_dtype=torch.float32)
                    row["error"] = float((wide.double() - exact).norm() / exact.norm())
                    calls = [functools.partial(fk.dct_crop, copies[i % 4], k) for i in range(10)]
                    for call in calls[:3]:
                        call()
                    row["us"] = statistics.median(us for _ in range(3) for us in clock.between_events(calls, 2000.0))
                    row["kernels"] = named(engine, x, k)
            except Exception as error:
                row["kernels"] = f"{type(error).__name__}: {error}"[:200]
            rows.append(row)
            print(when, *row.values(), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    args = parser.parse_args()
    begun = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    clock = CudaClock(torch.device("cuda"))
    device = torch.device("cuda", torch.cuda.current_device())
    gpu = engines.gpu_of(device)
    rows = table(clock, "before")
    (args.output / "times.json").write_text(json.dumps(rows, indent=1))
    until = begun + args.seconds - AFTER
    entries = tune.tuned(device, gpu, tune.cuda_timer(device), TUNED, until, tune.JOBS)
    configs = args.output / "configs"
    shutil.copytree(tiles.CONFIGS, configs, dirs_exist_ok=True)
    tune.write(configs / tiles.file_name(gpu.name), f"Measured on {gpu.name}", entries)
    tiles.CONFIGS = configs
    tiles._nearest.cache_clear()
    plan.matrices.cache_clear()
    engines._forget_choices()
    rows += table(clock, "after")
    (args.output / "times.json").write_text(json.dumps(rows, indent=1))
    print(f"\n{gpu.name}, {time.monotonic() - begun:.0f} s; relative errors of float32 results; microseconds")
    for name in dict.fromkeys(row["case"] for row in rows):
        print(f"{name:34}", end="")
        for row in rows:
            if row["case"] == name:
                print(f"  {row['engine']} {row['when']}: {row.get('us', 0):8.1f} ({row.get('error', 1):.1e})", end="")
        print()


if __name__ == "__main__":
    main()
