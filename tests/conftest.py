from __future__ import annotations

import os

# Before anything loads OpenMP, and for the tests' subprocesses too: threads that wait must not spin. Two test processes
# of two threads each on two cores took more than 300 seconds for what takes 17 with this (test_transfer_memory).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no process waits for another one's."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
