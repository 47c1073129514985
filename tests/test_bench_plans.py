"""bench/plans.py: every plan that is compared computes the same, and the chosen one's time is by the fastest one's."""

from __future__ import annotations

import re
import sys

import pytest
from click.testing import CliRunner

import built

sys.path.insert(0, str(built.ROOT / "bench"))
import plans


@pytest.mark.slow
def test_plans_agree_and_are_timed():
    if built.object_of("matrix.cpp") is None:
        pytest.skip("no build of an editable install that is newer than its sources")
    run = CliRunner().invoke(plans.main, ["--shapes", "6", "--seed", "1", "--worst", "2", "--milliseconds", "0"])
    assert run.exit_code == 0, run.output
    chosen = re.findall(r"(\d\.\d\d) (forward|inverse) \d+ \d+ \d+ \d+: ", run.output)
    assert len(chosen) >= 2
    assert all(float(ratio) >= 1 for ratio, _ in chosen)
    assert "generic" in run.output
