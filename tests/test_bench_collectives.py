"""bench/collectives.py in a process of its own: it simulates a group of others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "collectives.py"


def test_bytes_of_a_large_model():
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--processes", "8", "--keep-ratio", "0.25"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = re.findall(r"8 +│ 0.25 +│ (\w+) +│ ([\d.]+) +│ ([\d.]+) +│ ([\d.]+) +│ ([\d.]+)", run.stdout)
    assert [row[0] for row in rows] == ["float32", "bfloat16"], run.stdout
    numbers, share = 8030261248, 7 / 8 / 1e9  # Llama-3-8B's parameters; each matrix keeps a sixteenth of its own
    for (_, exchanged, summed, gathered, taken), size in zip(rows, (4, 2), strict=True):
        assert float(exchanged) == pytest.approx(2 * 4 * numbers / 8 / 4 * share, rel=2e-3)  # an eighth, there and back
        assert float(summed) == pytest.approx(2 * 4 * numbers / 16 * share, rel=2e-3)  # an all-reduce moves all twice
        assert float(gathered) == pytest.approx(size * numbers * share, rel=2e-3)
        assert taken == exchanged
