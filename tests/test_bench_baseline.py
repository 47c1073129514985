"""What a run of the benchmark is compared with: the newest run of the same kind in an older ledger."""

from __future__ import annotations

import pytest
import torch

from front_kernels import _settings
from front_kernels.bench import __main__ as command
from front_kernels.bench import baseline, clocks, ledger
from front_kernels.bench.cases import Case

CROP, PAD = Case("dct_crop", (24, 20), (6, 5)), Case("idct_pad", (24, 20), (6, 5))
COMMON = {"device": "A", "threads": "2", "isa": "avx512"}
Row = dict[str, object]


def row(us: float, by: str = "front", case: Case = CROP, **columns: object) -> Row:
    return {**COMMON, **case.columns, "by": by, "us": us, "us_20": us, "us_80": us, **columns}


def ratios(new: list[Row], old: list[Row]) -> dict[str, float]:
    """New median over what is expected by the old ledger."""
    return {change.by: change.us / change.old_us for change in baseline.changes(new, old)}


OLDEST = {"run": "a", "commit": "1", "date": "2026-01-01"}
OLDER = {"commit": "2", "date": "2026-01-02", "copy_gb_s": "4000.1"}  # of a ledger without the column `run`
NEWER = {"commit": "2", "date": "2026-01-02", "copy_gb_s": "4100.2"}
NEW = [row(200), row(20, "scipy")]


def test_alternatives_are_those_of_the_run_that_has_ours():
    old = [row(100, **OLDER), row(10, "scipy", **OLDER), row(100, **NEWER)]
    assert ratios(NEW, old) == {"front": 2.0}, "the alternatives' times are an older run's"
    assert ratios(NEW, [*old, row(10, "scipy", **NEWER)]) == {"front": 1.0}
    assert ratios(NEW, [*old, row(10, "scipy", **(NEWER | {"run": "b"}))]) == {"front": 2.0}
    newest = [row(400, **(OLDEST | {"run": "c"})), row(80, "scipy", **(OLDEST | {"run": "c"}))]
    assert ratios(NEW, [*old, *newest]) == {"front": 2.0}
    only_theirs = [row(1000, "scipy", **(NEWER | {"run": "d"}))]
    assert ratios(NEW, [*old, *only_theirs]) == {"front": 2.0}


def test_each_row_has_its_own_newest_run():
    old = [row(100, **OLDER), row(10, "scipy", **OLDER), row(50, case=PAD, **NEWER), row(5, "scipy", PAD, **NEWER)]
    new = [*NEW, row(50, case=PAD), row(10, "scipy", PAD)]
    assert [change.us / change.old_us for change in baseline.changes(new, old)] == [1.0, 0.5]


def test_what_was_asked_for_is_part_of_what_is_compared():
    old = [
        row(100, **OLDER),  # before there were the columns
        row(300, engine="triton", precision="highest", **NEWER),
        row(40, engine="triton", precision="fast", **NEWER),
        row(70, "front triton", **OLDER),
    ]
    for engine, precision, expected in (
        ("auto", "highest", 2.0),
        ("", "", 2.0),
        ("triton", "highest", 2 / 3),
        ("triton", "fast", 5.0),
    ):
        asked = {"engine": engine, "precision": precision}
        assert ratios([row(200, **asked)], old) == {"front": expected}
    assert ratios([row(200, engine="cuda", precision="highest")], old) == {}
    assert ratios([row(140, "front triton", engine="cuda", precision="highest")], old) == {"front triton": 2.0}
    assert ratios([row(140, "front triton", engine="auto", precision="fast")], old) == {}


def test_what_the_run_lacks_is_named():
    old = [row(100), row(90, "front cuda"), row(80, case=PAD), row(7, "scipy"), row(100, device="B", by="front triton")]
    old += [row(60, engine="triton", precision="highest")]
    assert baseline.unmeasured([row(100)], old, [CROP], COMMON) == ["dct_crop 24x20 -> 6x5, front cuda"]
    assert len(baseline.unmeasured([], old, [CROP, PAD], COMMON)) == 3
    assert baseline.unmeasured([], old, [CROP], COMMON | {"engine": "triton"}) == [
        "dct_crop 24x20 -> 6x5, front cuda", "dct_crop 24x20 -> 6x5, front",
    ]  # fmt: skip
    assert baseline.unmeasured([], old, [CROP], COMMON | {"device": "C"}) == []


def test_runs_have_names_and_settings(monkeypatch):
    one, two = (ledger.run_columns(torch.device("cpu")) for _ in range(2))
    assert one["run"] != two["run"]
    assert (one["engine"], one["precision"]) == ("", "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(_settings, "environment", "triton")
    found = ledger.run_columns(torch.device("cuda"))
    assert (found["engine"], found["precision"]) == ("triton", "highest")


@pytest.mark.parametrize("missing", [True, False])
def test_the_command_tells_what_it_lacks(missing, tmp_path, monkeypatch):
    from click.testing import CliRunner

    monkeypatch.setitem(command.SETS, "short", [CROP, PAD])
    monkeypatch.setattr(clocks.CpuClock, "COPIED", 1 << 16)
    monkeypatch.setattr(clocks.CpuClock, "SECONDS", 0.001)
    options = ["--device", "cpu", "--seconds", "0.001", "--no-peers", "--out"]
    assert CliRunner().invoke(command.main, [*options, str(tmp_path / "old")]).exit_code == 0
    if missing:
        monkeypatch.setattr(command, "available_memory", lambda device: 0)
    run = CliRunner().invoke(
        command.main, [*options, str(tmp_path / "new"), "--baseline", str(tmp_path / "old" / "bench.csv")]
    )
    names = [line for line in run.output.splitlines() if line.startswith("in the baseline, not measured: ")]
    expected = ["dct_crop 24x20 -> 6x5, front", "idct_pad 6x5 -> 24x20, front"] if missing else []
    assert names == [f"in the baseline, not measured: {name}" for name in expected]
