"""What the choice of a plan costs on this machine: `make bench-plans`.

Of random matrices, a crop and a padding each, every plan that the planner compares is timed (bench/native/plans.cpp);
the figure is the chosen one's time by the fastest one's. One thread, each instruction set that the machine has.
Constants of csrc/plan.h, csrc/axis_plan.h and csrc/filters.h are fitted by it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
ISAS = ["avx512", "avx2", "generic"]


def build(folder: Path) -> Path:
    """With the kernels that the package's own build compiled."""
    built = ROOT / "build" / f"editable-{sys.implementation.cache_tag}" / "CMakeFiles"
    names = ("axis", "dfts", "matrix", "memory", "roots", "tables")
    objects = [built / "front_ops.dir" / "csrc" / "cpu" / f"{name}.cpp.o" for name in names]
    objects += sorted(built.glob("front_cpu_*.dir/csrc/cpu/axis_isa.cpp.o"))
    source, target = ROOT / "bench" / "native" / "plans.cpp", folder / "plans"
    if missing := [str(path.relative_to(ROOT)) for path in objects if not path.exists()]:
        raise click.ClickException(f"no {', '.join(missing)}: plans are timed with an editable install's build")
    flags = ["-std=gnu++17", "-O2", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, str(source), *map(str, objects), "-o", str(target)], check=True)
    return target


@click.command()
@click.option("--shapes", type=click.IntRange(min=1), default=60, show_default=True, help="Random matrices.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--worst", type=click.IntRange(min=0), default=3, show_default=True, help="Cases that are shown.")
@click.option("--milliseconds", type=float, default=30, show_default=True, help="Of each plan, at least.")
def main(shapes: int, seed: int, worst: int, milliseconds: float) -> None:
    console = Console()
    table = Table("isa", "cases", "mean", "over 1.05", "over 1.15", "worst")
    with tempfile.TemporaryDirectory() as folder:
        plans = build(Path(folder))
        for isa in ISAS:
            command = [str(plans), str(shapes), str(seed), str(milliseconds)]
            run = subprocess.run(
                command, env={**os.environ, "FRONT_CPU_ISA": isa}, capture_output=True, text=True, check=False
            )
            if "FRONT_CPU_ISA must be one" in run.stderr:
                console.print(f"{isa}: not on this machine")
                continue
            if run.returncode != 0:
                raise click.ClickException(f"{isa}: {run.stderr.strip()}")
            cases = []
            for line in run.stdout.splitlines()[1:]:
                case, *found = line.split("; ")
                times = {plan: float(plan.split()[3]) for plan in found}
                chosen = next(time for plan, time in times.items() if plan.endswith("*"))
                cases.append((chosen / min(times.values()), case, found))
            ratios = [case[0] for case in cases]
            over = [str(sum(ratio > most for ratio in ratios)) for most in (1.05, 1.15)]
            table.add_row(isa, str(len(cases)), f"{sum(ratios) / len(ratios):.3f}", *over, f"{max(ratios):.2f}")
            for ratio, case, found in sorted(cases, reverse=True)[:worst]:
                console.print(f"{isa} {ratio:.2f} {case}: {', '.join(found)}", markup=False)
    console.print(table)


if __name__ == "__main__":
    main()
