"""A short version of cpu.py on small cases: `make bench-cpu-short`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from cpu import ELEMENT_LIMIT, problem, verified
from ledger import Case

CASES = [
    Case(direction, size, kept)
    for size, kept in [((384, 384), (384, 384)), ((768, 768), (384, 384)), ((1536, 384), (768, 192))]
    for direction in ("forward", "inverse")
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_op(case: Case, dtype: torch.dtype, benchmark: BenchmarkFixture) -> None:
    p = problem(case, dtype, torch.get_num_threads())
    assert float(str(verified(p)["element_error"])) <= (ELEMENT_LIMIT if dtype == torch.float32 else 0.51)  # eps
    benchmark(p.run)
