"""Peak memory of transfer(): above source and result, one role's kept coefficients and two matrices, or 16 MiB."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CASES = {
    "same size": ((2048, 2048), (2048, 2048), 1.0, "float32", "zero"),
    "shrink": ((2048, 2048), (1024, 1536), 1.0, "float32", "zero"),
    "grow": ((1024, 2048), (2048, 2304), 1.0, "float32", "consistence"),
    "keep half": ((2048, 2048), (2048, 2048), 0.5, "float32", "zero"),
    "bfloat16": ((2048, 2048), (2048, 2048), 1.0, "bfloat16", "zero"),
    "many small": ((512, 512), (512, 512), 1.0, "float32", "zero"),
    "many small, grow": ((256, 512), (512, 640), 1.0, "float32", "consistence"),
}
DEPTHS = {name: 48 if name.startswith("many") else 3 for name in CASES}
MIB = 2**20
# What a group of small layers may take; those of the other cases are transformed one at a time.
TOGETHER = 16 * MIB

# Two roles of a few matrices each, in a process of its own; the kernel keeps the peak of its resident size.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
import front_models

cases, depths = json.loads(sys.argv[1])

def status(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) * 1024

def model(shape, dtype, depth):
    # Views into one matrix: source and target are not what is measured.
    base = torch.randn(shape[0] + 2 * depth, shape[1]).to(dtype)
    views = iter(base[i:][: shape[0]] for i in range(2 * depth))
    return {f"h.{i}.{r}": next(views) for i in range(depth) for r in ("a", "b")}

def peak(call):
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = call()
    return result, status("VmHWM") - before

def measure(depth, shape, like, keep_ratio, dtype, fill):
    source, target = (model(size, getattr(torch, dtype), depth) for size in (shape, like))
    (result, _), moved = peak(lambda: front_models.transfer(source, target, keep_ratio=keep_ratio, depth_fill=fill))
    moved -= sum(w.nbytes for w in result.values())
    gene, extracted = peak(lambda: front_models.extract(source, keep_ratio=keep_ratio))
    extracted -= sum(role.coefficients.nbytes for role in gene.roles.values())
    _, started = peak(lambda: front_models.initialize(result, gene, depth_fill=fill))
    return {"transfer": moved, "extract": extracted, "initialize": started}

# The first calls pay for thread pools and libraries.
for shape, like, *options in cases.values():
    measure(3, (96, 500), (48, 700), *options)
print(json.dumps({name: measure(depths[name], *case) for name, case in cases.items()}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status and clear_refs, which only Linux has"),
    pytest.mark.xdist_group("transfer memory"),  # one process, so that it measures once
]


@pytest.fixture(scope="module")
def peaks() -> dict[str, dict[str, int]]:
    # glibc keeps freed blocks of these sizes for later, which would measure its free list; so they go back at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps([CASES, DEPTHS])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_peak_memory(case: str, peaks: dict[str, dict[str, int]]) -> None:
    """transfer: above source and result; extract: above source and gene; initialize: above gene and target."""
    shape, like, keep_ratio, _, _ = CASES[case]
    # Computed in float32, whatever the dtype of the tensors.
    matrix = 4 * max(shape[0] * shape[1], like[0] * like[1])
    kept = 4 * DEPTHS[case]
    for n, target in zip(shape, like, strict=True):
        kept *= min(int(n * keep_ratio), target)
    bound = max(2 * matrix, TOGETHER) + 4 * MIB
    shown = {name: f"{value / MIB:.1f}" for name, value in peaks[case].items()}
    print(f"{case}: MiB above {shown}; kept {kept / MIB:.1f}, one matrix {matrix / MIB:.1f}")
    assert kept < peaks[case]["transfer"] <= kept + bound
    assert peaks[case]["extract"] <= bound
    assert peaks[case]["initialize"] <= bound
