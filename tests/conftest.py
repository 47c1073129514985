from __future__ import annotations

import os
from zlib import crc32

# Before anything loads OpenMP, and for the tests' subprocesses too: threads that wait must not spin. Two test processes
# of two threads each on two cores took more than 300 seconds for what takes 17 with this (test_transfer_memory).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# `make test` has this process keep the memory that it frees; those that tests start may be measured.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        os.environ.pop(name, None)

import pytest
import torch
from hypothesis import HealthCheck, settings

# Without a GPU Triton's kernels run in its interpreter; tests/triton_compile.py compiles them, in its own processes.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Derandomised: a failure here fails everywhere, and again.
settings.register_profile(
    "front", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("front")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no process waits for another one's. FRONT_TEST_STEP=S: of every function's
    cases the first and about one in S, for runs of the same tests in other circumstances."""
    if (step := int(os.environ.get("FRONT_TEST_STEP", "1"))) > 1:
        kept, left_out, seen = [], [], set()
        for item in items:
            function = item.nodeid.partition("[")[0]
            # Not by position: parameters vary in steps, too.
            taken = crc32(item.nodeid.encode()) % step == 0 or function not in seen
            (kept if taken else left_out).append(item)
            seen.add(function)
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
