"""Ten cases of an independent implementation, through both ways of starting a model: 1e-5 relative L2 per tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import front_models
from models import error

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/case.json"))


def options_of(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    given = json.loads((GOLDEN / case / "case.json").read_text())["options"]
    taken = {"keep_ratio": given.pop("keep_ratio", 1.0), "skip": given.pop("dct_skip_list", ())}
    taken["mlp_axes"] = {"1d": "hidden", None: "both"}[given.pop("mlp_dct_dim", None)]
    started = {"gain": "area" if given.pop("use_ratio", False) else None}
    started |= {"depth_fill": given.pop("dct_mode", "zero"), "select_n": given.pop("select_n", None)}
    assert not given, f"options that this test does not know: {given}"
    return taken, started


def test_all_ten_cases_are_there() -> None:
    assert len(CASES) == 10


@pytest.mark.parametrize("way", ["initialize", "transfer"])
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, way: str) -> None:
    taken, started = options_of(case)
    source, target, expected = (
        load_file(GOLDEN / case / f"{name}.safetensors") for name in ("source", "target_before", "target_expected")
    )
    if way == "initialize":
        result = target
        front_models.initialize(result, front_models.extract(source, **taken), **started)
    else:
        result, _ = front_models.transfer(source, target, **taken, **started)
    assert list(result) == list(target)
    errors = {name: error(result[name], expected[name]) for name in expected}
    worst = max(errors, key=lambda name: errors[name])
    print(f"{case} by {way}: largest error {errors[worst]:.2e} ({worst})")
    assert errors[worst] <= 1e-5, (worst, errors[worst])
