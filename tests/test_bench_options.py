"""What the benchmark refuses before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from front_kernels import _settings
from front_kernels.bench import __main__ as command


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    def measured(*arguments):
        raise AssertionError("measured")

    monkeypatch.setattr(command.Run, "measure", measured)
    monkeypatch.setattr(command, "CpuClock", measured)


def run(*options: str) -> Result:
    return CliRunner().invoke(command.main, ["--device", "cpu", *options])


def refused(result: Result) -> str:
    assert result.exit_code == 2, (result.output, result.exception)
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("name", ["--seconds", "--deadline"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(tmp_path, name, value):
    assert f"{value} is not a finite number" in refused(run("--out", str(tmp_path / "out"), name, value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", [False, True])
def test_a_folder_that_cannot_be_written_to(below):
    """/proc takes no files, whoever writes."""
    folder = Path("/proc/no-such" if below else "/proc")
    assert f"--out: cannot write to {folder}: " in refused(run("--out", str(folder)))


def test_a_ledger_that_cannot_be_added_to(tmp_path):
    (tmp_path / "bench.csv").write_bytes(b"\xff\xfe\x00")
    assert f"cannot write to {tmp_path}: ValueError: {tmp_path}/bench.csv is no CSV file: 'utf-8'" in (
        refused(run("--out", str(tmp_path)))
    )
    assert [file.name for file in tmp_path.iterdir()] == ["bench.csv"]


def test_a_baseline_that_is_no_text(tmp_path):
    old = tmp_path / "old.csv"
    old.write_bytes(b"\xff\xfe\x00")
    text = refused(run("--out", str(tmp_path / "out"), "--baseline", str(old)))
    assert f"--baseline: {old} is no CSV file: 'utf-8' codec can't decode" in text
    assert not (tmp_path / "out").exists()


def test_an_engine_that_there_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(_settings, "environment", "tritn")
    text = refused(run("--out", str(tmp_path / "out")))
    assert "FRONT_ENGINE must be 'cuda' or 'triton', got 'tritn'" in text
    assert not (tmp_path / "out").exists()
