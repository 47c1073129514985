"""The Triton kernels compiled ahead of time, as a call would compile them: instructions, registers, no spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not compiled")

# What multiplies there, and the most shared memory of a block: both from the vendors' programming guides, but for
# sm_80, which has no tiles of its own: those of default.json, for any device, promise less.
ARCHITECTURES = {
    "sm_80": ("mma.sync", 64 << 10),
    "sm_90": ("wgmma.mma_async", 227 << 10),
    "sm_100": ("tcgen05.mma", 227 << 10),
    "gfx942": ("v_mfma", 64 << 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resources(architecture, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-P", str(Path(__file__).with_name("triton_compile.py")), architecture]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    instruction, most_shared = ARCHITECTURES[architecture]
    for each in found:
        print(
            f"{each['case']:40} {each['kernel']:5} registers {each['registers']:3} shared {each['shared']:6}", end=" "
        )
        print(f"spills {each['spills']} {' '.join(each['instructions'])}")
    assert {each["kernel"] for each in found} == {
        "axis",
        "axis_back",
        "axis_moments",
        "crop",
        "crop_moments",
        "add",
        "pad",
        "addresses",
    }
    unaligned = {each["kernel"] for each in found if each["case"].endswith("unaligned")}
    those = {"axis", "axis_moments", "crop", "crop_moments", "pad"} if architecture == "sm_90" else set()
    assert unaligned - {"add"} == those
    for each in found:
        where = f"{each['case']}, {each['kernel']}"
        assert each["spills"] == 0, where
        if each["terms"] == 2:  # with one, the last of several products adds the running sum
            assert each["sums"] > 0, f"{where}: steps are no longer added to the running sum by themselves"
        assert each["shared"] <= most_shared, where
        # gfx942 has 512 vector registers, of which half are accumulators.
        assert each["registers"] <= (512 if architecture == "gfx942" else 255), where
        if each["kernel"] in ("add", "addresses"):
            assert each["instructions"] == [], where
        elif each["case"].startswith("float64") and architecture != "gfx942":
            assert each["instructions"] == ["mma.sync"], where  # float64 products have no newer instruction
        elif each["rows"] < 64 and architecture in ("sm_90", "sm_100"):
            assert each["instructions"] == ["mma.sync"], where  # the newer ones multiply 64 rows at least
        else:
            assert any(name.startswith(instruction) for name in each["instructions"]), where
