from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

# Derandomised: a failure here fails everywhere, and again.
settings.register_profile(
    "front", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("front")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
