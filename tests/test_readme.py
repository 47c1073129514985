"""The README's Python fences run as they stand, each in its own namespace and an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
FENCES = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
HEADINGS = re.findall(r"^#+ (.+)$", README, re.MULTILINE)


def test_there_are_fences():
    assert len(FENCES) == README.count("```python") >= 3


@pytest.mark.parametrize("code", FENCES, ids=[code.splitlines()[0] for code in FENCES])
def test_fence(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    if "print(" in code:
        assert capsys.readouterr().out.strip()


def test_links_lead_somewhere():
    root = Path(__file__).parent.parent
    found = re.findall(r"\]\(([^)]+)\)", README)
    assert len(found) > 10
    for target in found:
        if target.startswith("#"):
            headings = {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in HEADINGS}
            assert target[1:] in headings, target
        else:
            assert target.startswith("https://") or (root / target).is_file(), target
