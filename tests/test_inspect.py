"""The energy of weights over frequency: numbers against scipy, and the picture."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from matplotlib import figure
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor

import front_models
from front_models._inspect import EnergyRow, InspectReport, inspect_weights, plot_choice
from front_models._plot import check_picture, plot_energy, spectrum


def scipy_energy(tensor: Tensor) -> np.ndarray:
    """Orthonormal DCT-II energy per frequency, the mean removed, in float64."""
    values = tensor.double().numpy()
    return scipy.fft.dctn(values - values.mean(), norm="ortho") ** 2


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) + 3


def only_row(tensor: Tensor) -> EnergyRow:
    (row,) = inspect_weights({"w": tensor}).rows
    return row


@pytest.mark.parametrize("shape", [(12, 20), (13, 7), (2, 9), (3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shares_of_a_matrix(shape: tuple[int, int], dtype: torch.dtype) -> None:
    tensor = noise(*shape, dtype=dtype)
    energy = scipy_energy(tensor)
    row = only_row(tensor)
    m, n = shape
    corners = [(max(1, m // part), max(1, n // part)) for part in (4, 2)]
    expected = [energy[:a, :b].sum() / energy.sum() for a, b in corners]
    assert (row.quarter, row.half) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    white = [(a * b - 1) / (m * n - 1) for a, b in corners]
    assert (row.white_quarter, row.white_half) == pytest.approx(white)
    assert row.std == pytest.approx(float(tensor.double().std()), rel=1e-6)


def test_shares_of_a_vector() -> None:
    tensor = noise(30)
    energy = scipy_energy(tensor)
    row = only_row(tensor)
    assert row.shape == (30,)
    assert row.quarter == pytest.approx(energy[:7].sum() / energy.sum(), rel=1e-5)
    assert row.half == pytest.approx(energy[:15].sum() / energy.sum(), rel=1e-5)
    assert row.white_half == pytest.approx(14 / 29)


def test_a_convolution_is_seen_as_a_matrix() -> None:
    tensor = noise(4, 3, 5, 2)
    energy = scipy_energy(tensor.reshape(12, 10))
    assert only_row(tensor).half == pytest.approx(energy[:6, :5].sum() / energy.sum(), rel=1e-5)


def test_white_noise_and_a_smooth_matrix() -> None:
    white = only_row(noise(256, 256))
    assert white.half == pytest.approx(white.white_half, abs=0.01)
    assert white.quarter == pytest.approx(white.white_quarter, abs=0.01)
    ramp = torch.linspace(0, 1, 64)
    smooth = only_row(ramp[:, None] * ramp[None, :])
    assert smooth.quarter is not None
    assert smooth.quarter > 0.999


def test_layers_are_one_row() -> None:
    layers = {f"blocks.{i}.mlp.fc1.weight": noise(8, 6, seed=i) * (i + 1) for i in range(3)}
    report = inspect_weights({**layers, "norm.weight": noise(6)})
    row, norm = report.rows
    assert (row.role, row.first, row.kind) == ("blocks.{}.mlp.fc1.weight", "blocks.0.mlp.fc1.weight", "mlp")
    assert (row.depth, norm.depth) == (3, 1)
    energies = [scipy_energy(t) for t in layers.values()]
    assert row.half == pytest.approx(np.mean([e[:4, :3].sum() / e.sum() for e in energies]), rel=1e-5)
    assert row.std == pytest.approx(float(torch.cat([t.double().flatten() for t in layers.values()]).std()), rel=1e-6)


@pytest.mark.parametrize(
    "tensor", [torch.full((8, 8), 0.7), torch.tensor(2.5), torch.zeros(5), torch.full((4, 4), torch.nan)]
)
def test_no_energy_to_share(tensor: Tensor) -> None:
    row = only_row(tensor)
    assert row.quarter is None
    assert row.half is None
    assert row.std == pytest.approx(0, abs=1e-6) or row.std != row.std


def test_what_is_not_floating_point() -> None:
    for tensor in (
        torch.arange(12).reshape(3, 4),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
    ):
        row = only_row(tensor)
        assert (row.std, row.quarter, row.half) == (None, None, None)
        assert row.dtype == str(tensor.dtype).removeprefix("torch.")


class Lazy(Mapping[str, Tensor]):
    """Makes a tensor when it is asked for, and counts how many are alive at once."""

    def __init__(self, count: int) -> None:
        self.names = [f"blocks.{i}.a.weight" for i in range(count)]
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = noise(8, 8, seed=self.names.index(name))
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(tensor)]
        self.most = max(self.most, len(self.alive))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def shape_of(self, name: str) -> torch.Size:
        return torch.Size([8, 8])

    def dtype_of(self, name: str) -> torch.dtype:
        return torch.float32


def test_one_tensor_at_a_time() -> None:
    lazy = Lazy(6)
    assert inspect_weights(lazy).rows[0].depth == 6
    # The next one is read while the last reference to the one before still stands.
    assert lazy.most <= 2


def test_progress_and_errors() -> None:
    calls: list[tuple[int, int, str]] = []
    inspect_weights({"a": noise(3), "b": noise(4)}, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2, "a"), (2, 2, "b")]
    with pytest.raises(ValueError, match="source: holds no tensors"):
        inspect_weights({})


def test_report_as_data_and_as_a_table() -> None:
    report = inspect_weights({"a.weight": noise(8, 8), "position_ids": torch.arange(4)})
    data = json.loads(json.dumps(report.to_dict()))
    assert [row["role"] for row in data["rows"]] == ["a.weight", "position_ids"]
    assert data["rows"][0]["shape"] == [8, 8]
    console = Console(width=160)
    with console.capture() as capture:
        console.print(report)
    row = report.rows[0]
    assert row.half is not None
    assert f"{100 * row.half:.1f} % (23.8 %)" in capture.get()


def row_of(role: str, kind: str, shape: tuple[int, ...], half: float | None, white: float = 0.25) -> EnergyRow:
    return EnergyRow(role, role, kind, "float32", shape, 1, 1.0, half, half, white, white)


def test_choice_of_tensors_to_draw() -> None:
    rows = [
        row_of("small", "embed", (2, 100), 0.9),
        row_of("vector", "norm", (100,), 0.9),
        row_of("words", "embed", (1000, 50), 0.26),
        row_of("positions", "embed", (60, 50), 0.5),
        row_of("constant", "qkv", (50, 50), None),
        row_of("query", "qkv", (50, 50), 0.25),
        row_of("key", "qkv", (50, 50), 0.26),
        row_of("up", "mlp", (200, 50), 0.25),
        row_of("down", "mlp", (50, 200), 0.25),
    ]
    assert plot_choice(InspectReport(rows)) == ["words", "positions", "query", "up"]
    assert plot_choice(InspectReport(rows[-2:])) == ["up", "down"]
    with pytest.raises(ValueError, match="no matrix with both sides of 8 and more to draw"):
        plot_choice(InspectReport(rows[:2]))


# The picture


@pytest.mark.parametrize("shape", [(256, 128), (130, 97), (5, 300), (1, 64)])
def test_spectrum_against_scipy(shape: tuple[int, int]) -> None:
    tensor = noise(*shape, dtype=torch.float64)
    energy = scipy_energy(tensor)
    energy[0, 0] = 0
    found = spectrum(tensor)
    m, n = shape
    total = energy.sum()
    assert found.heat.shape == (min(64, m), min(64, n))
    edges = [np.round(np.linspace(0, 1, 129) * size).astype(int) for size in shape]
    expected = [energy[:a, :b].sum() / total for a, b in zip(*edges, strict=True)]
    np.testing.assert_allclose(found.share, expected, atol=1e-10)
    np.testing.assert_allclose(found.share_rows, [energy[:a].sum() / total for a in edges[0]], atol=1e-10)
    np.testing.assert_allclose(found.share_columns, [energy[:, :b].sum() / total for b in edges[1]], atol=1e-10)
    white = [max(0, a * b - 1) / (m * n - 1) for a, b in zip(*edges, strict=True)]
    np.testing.assert_allclose(found.white, white, atol=1e-12)
    top, left = [(np.arange(min(64, size) + 1) * size // min(64, size))[-2:] for size in shape]
    block = energy[top[0] : top[1], left[0] : left[1]]
    # The first block holds the mean, which is gone, beside what counts.
    first = [max(1, size // 64) for size in shape]
    corner = energy[: first[0], : first[1]].sum() * (m * n - 1) / total
    members = first[0] * first[1] - 1
    assert found.heat[0, 0].item() == pytest.approx(corner / members if members else np.nan, rel=1e-9, nan_ok=True)
    assert found.heat[-1, -1].item() == pytest.approx(block.mean() * (m * n - 1) / total, rel=1e-9)


def test_white_noise_is_one_everywhere() -> None:
    heat = spectrum(noise(1024, 1024)).heat
    assert heat.mean().item() == pytest.approx(1, abs=1e-3)
    assert heat.min().item() > 0.6
    assert heat.max().item() < 1.5


@pytest.mark.parametrize("tensor", [torch.zeros(9, 9), torch.full((9, 9), torch.inf)])
def test_no_spectrum(tensor: Tensor) -> None:
    with pytest.raises(ValueError, match="tensor must hold finite values that are not all equal"):
        spectrum(tensor)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_picture(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"energy{suffix}"
    tensors = {
        "a.quite.long.name.of.a.weight.in.a.layer": noise(70, 40),
        "smooth": torch.outer(torch.arange(50.0), torch.arange(40.0)),
    }
    plot_energy(tensors, path, title="two matrices")
    assert path.read_bytes().startswith(magic)
    assert path.stat().st_size > 5000
    with pytest.raises(FileExistsError, match="exists; it is replaced only with force"):
        plot_energy(tensors, path)
    plot_energy(tensors, path, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_legend_names_all_and_no_text_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    kept = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), kept(self, *a, **k))[1])
    plot_energy({"_hidden": noise(8, 8), "x_{$": noise(8, 8)}, tmp_path / "a.svg", title="m$x_{$")
    (legend,) = [axis.get_legend() for axis in figures[0].findobj(Axes) if axis.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["white noise", "_hidden", r"x_{\$"]
    assert legend.get_lines()[0].get_color() == "black"
    assert len({line.get_color() for line in legend.get_lines()}) == 3


def test_progress_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"^progress: got 3; allowed are None and a function"):
        inspect_weights({"w": noise(4, 4)}, progress=3)  # type: ignore[arg-type]


def test_a_picture_of_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^tensors: got list; allowed is a mapping of titles to tensors"):
        plot_energy([noise(4, 4)], tmp_path / "a.png")  # type: ignore[arg-type]


def test_a_panel_for_each_of_two_names_that_differ_in_their_middle(tmp_path: Path) -> None:
    panels = []
    for names in (("a", "b"), [f"model.language_model.layers.{i}.mlp.experts.3.down_proj.weight" for i in (10, 11)]):
        path = tmp_path / f"{len(panels)}.svg"
        plot_energy({name: noise(20, 30) for name in names}, path)
        panels.append(path.read_text().count("<image"))
    assert panels[0] == panels[1]


def test_codes_of_eight_bits_have_a_spectrum() -> None:
    values = noise(20, 30).to(torch.float8_e4m3fn)
    assert torch.equal(spectrum(values).share, spectrum(values.float()).share)


def test_picture_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.svg, \.pdf, got 'a\.jpg'"):
        check_picture(Path("a.jpg"))
    with pytest.raises(ValueError, match="tensors must hold 1 to 4 tensors, got 0"):
        plot_energy({}, tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"drawing needs matplotlib: pip install 'front-kernels\[plot\]'"):
        check_picture(Path("a.png"))


def test_public_names() -> None:
    assert front_models.inspect_weights is inspect_weights
    assert front_models.InspectReport is InspectReport
    assert front_models.plot_energy is plot_energy
