"""What the tests of the command line share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def default_interrupts() -> None:
    """For `preexec_fn`: a background job's children inherit an ignored Ctrl-C, and so would the command under test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def assert_error(capsys: pytest.CaptureFixture[str], code: int, expected_code: int, message: str) -> None:
    """The command failed with one line on stderr that says this, and said nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("front: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert code == expected_code
