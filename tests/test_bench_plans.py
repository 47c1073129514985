"""bench/plans.py, which ends with an error where plans that are compared do not compute the same."""

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
    assert re.search(r"generic +│ 12 ", run.output), run.output  # a crop and a padding of each shape
    assert re.search(r"generic \d\.\d\d (forward|inverse) \d+ \d+ \d+ \d+: ", run.output), run.output
