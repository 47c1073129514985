"""The set "short" of the benchmark under pytest-benchmark: `pytest bench`, on the GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from front_kernels.bench.cases import SETS, Case
from front_kernels.bench.problems import problem, verified


@pytest.mark.parametrize("case", SETS["short"], ids=str)
def test_op(case: Case, benchmark: BenchmarkFixture) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    p = problem(case, device, 1)
    verified(p)

    def run() -> None:
        p.run(0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark(run)
