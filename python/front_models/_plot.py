"""One picture of where a model's energy lies: heat maps per frequency and cumulative curves, beside white noise."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import front_kernels
from front_models._atomic import atomic_path
from front_models._walk import matrix_shape

__all__ = ["Spectrum", "check_picture", "plot_energy", "spectrum"]

HEAT_BINS = 64
CURVE_POINTS = 128
ROWS_AT_ONCE = 4096
MAX_PANELS = 4
SUFFIXES = (".png", ".svg", ".pdf")
WIDTH, HEIGHT, DPI = 10.5, 6.8, 120
TITLE_SIZE, TITLE_CHARACTERS, NAME_CHARACTERS = 9, 30, 56
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True)
class Spectrum:
    """Where the energy of one matrix lies over frequency.

    Attributes:
        shape: The matrix's shape (M, N).
        heat: Mean energy per coefficient in each block of at most 64 x 64 equal blocks of the frequency plane, lowest
            frequencies first, in units of white noise's (1 everywhere); NaN where a block is the mean alone. float64.
        share: Share of the energy in the corner of the lowest `fractions[i]` of both axes; and
        share_rows, share_columns: in the lowest `fractions[i]` of one axis, whatever the other. float64.
        fractions: From 0 to 1.
        white: What white noise would have in place of `share`.
    """

    shape: tuple[int, int]
    heat: Tensor
    fractions: Tensor
    share: Tensor
    share_rows: Tensor
    share_columns: Tensor
    white: Tensor


def spectrum(tensor: Tensor) -> Spectrum:
    """Energy per frequency of ``D_M (W - mean) D_N^T``, the orthonormal DCT-II of W seen as a matrix.

    Args:
        tensor: A real floating point tensor; of more than two dimensions it is seen as a matrix as in `extract`.

    Raises:
        ValueError: The tensor is constant or has a NaN or an infinity: there is no energy to share out.
    """
    shape = matrix_shape(tuple(tensor.shape))
    matrix = tensor.detach().reshape(shape)
    matrix = matrix.to(torch.float64 if matrix.dtype == torch.float64 else torch.float32)
    energy = front_kernels.dct2(matrix - matrix.mean(dtype=torch.float64).to(matrix.dtype)).square_().cpu()
    # The mean is gone but for rounding; without it the first block would be the only one to hold fewer coefficients.
    energy[0, 0] = 0
    total = float(energy.sum(dtype=torch.float64))
    if not math.isfinite(total) or total <= 0:
        raise ValueError(f"tensor must hold finite values that are not all equal, got one whose energy is {total}")
    points = torch.linspace(0, 1, CURVE_POINTS + 1, dtype=torch.float64, device="cpu")
    edges = [(points * n).round().long() for n in shape]
    running = torch.zeros(CURVE_POINTS + 1, CURVE_POINTS + 1, dtype=torch.float64, device="cpu")
    running[1:, 1:] = _block_sums(energy, edges[0], edges[1]).cumsum(0).cumsum(1) / total
    coefficients = shape[0] * shape[1] - 1
    blocks = [torch.arange(min(HEAT_BINS, n) + 1, device="cpu") * n // min(HEAT_BINS, n) for n in shape]
    members = blocks[0].diff()[:, None] * blocks[1].diff()[None, :]
    members[0, 0] -= 1
    return Spectrum(
        shape=shape,
        heat=_block_sums(energy, blocks[0], blocks[1]) / members * (coefficients / total),
        fractions=points,
        share=running.diagonal().clone(),
        share_rows=running[:, -1].clone(),
        share_columns=running[-1, :].clone(),
        white=(edges[0] * edges[1] - 1).clamp_(min=0) / coefficients,
    )


def _block_sums(energy: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums over the blocks between neighbouring edges: float64, shape [len(rows) - 1, len(columns) - 1]."""
    row_of = torch.searchsorted(rows, torch.arange(energy.shape[0], device="cpu"), right=True) - 1
    column_of = torch.searchsorted(columns, torch.arange(energy.shape[1], device="cpu"), right=True) - 1
    sums = torch.zeros(len(rows) - 1, len(columns) - 1, dtype=torch.float64, device="cpu")
    for part, part_of in zip(energy.split(ROWS_AT_ONCE), row_of.split(ROWS_AT_ONCE), strict=True):
        narrow = torch.zeros(part.shape[0], len(columns) - 1, dtype=torch.float64, device="cpu")
        sums.index_add_(0, part_of, narrow.index_add_(1, column_of, part.to(torch.float64)))
    return sums


def plot_energy(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], *, title: str = "", force: bool = False
) -> None:
    """Draw where the energy of a few matrices lies, and save the picture.

    On top one heat map per matrix: log10 of the mean energy per frequency block, white noise = 0. Below, the share of
    the energy in the corner of the lowest frequencies against the corner's size, and the same over white noise's.

    Args:
        tensors: One to four titles and real floating point tensors.
        path: The picture; ``.png``, ``.svg`` or ``.pdf``.
        title: A line above the picture.
        force: Replace an existing file.

    Raises:
        ValueError: No tensors or more than four, another suffix, or a tensor without energy (see `spectrum`).
        ImportError: matplotlib is not installed.
        FileExistsError: `path` exists and `force` is False.
    """
    path = Path(path)
    check_picture(path)
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors: got {type(tensors).__name__}; allowed is a mapping of titles to tensors")
    if not 1 <= len(tensors) <= MAX_PANELS:
        raise ValueError(f"tensors must hold 1 to {MAX_PANELS} tensors, got {len(tensors)}")
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    spectra = {name: spectrum(tensor) for name, tensor in tensors.items()}
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    if title:
        figure.suptitle(_literal(title), fontsize=12, fontweight="bold")
    _draw_heat_maps(top, spectra)
    _draw_curves(bottom, spectra)
    with atomic_path(path, force=force) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=DPI)


def check_picture(path: Path) -> None:
    """Raise what can be known before the work: ValueError for an unknown suffix, ImportError without matplotlib."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the picture's name must end in one of {', '.join(SUFFIXES)}, got {str(path)!r}")
    _matplotlib("matplotlib")


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"drawing needs matplotlib: pip install 'front-kernels[plot]' ({error})") from error


def _draw_heat_maps(figure: Any, spectra: Mapping[str, Spectrum]) -> None:
    axes = figure.subplots(1, len(spectra), squeeze=False)[0]
    for axis, (name, one) in zip(axes, spectra.items(), strict=True):
        image = axis.imshow(
            one.heat.clamp(min=1e-30).log10().numpy(),
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            extent=(0, 1, 1, 0),
            interpolation="nearest",
            aspect="equal",
        )
        corner = 100 * float(one.share[len(one.share) // 2])
        size = f"{one.shape[0]} × {one.shape[1]}, low corner {corner:.0f} %"
        axis.set_title(f"{_literal(_folded(_shortened(name)))}\n{size}", fontsize=TITLE_SIZE)
        axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axis.set_yticks([0, 0.5, 1], ["0", "½", "1"] if axis is axes[0] else [])
        axis.plot([0.5, 0.5, 0], [0, 0.5, 0.5], color="black", linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_xlabel("column frequency", fontsize=9)
    axes[0].set_ylabel("row frequency", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), ticks=[-1, -0.5, 0, 0.5, 1], fraction=0.025, pad=0.015, extend="both")
    bar.ax.set_yticklabels(["0.1", "0.3", "white\nnoise", "3", "10"], fontsize=8.5)
    bar.set_label("energy per frequency\n(log scale)", fontsize=9)


def _shortened(name: str) -> str:
    """A long name without its middle."""
    half = NAME_CHARACTERS // 2
    return name if len(name) <= NAME_CHARACTERS else f"{name[:half]}…{name[-half:]}"


def _literal(name: str) -> str:
    """For matplotlib, which would read formulas between dollar signs."""
    return name.replace("$", r"\$")


def _folded(name: str) -> str:
    """A name on lines that fit over a heat map, broken after dots."""
    lines = [""]
    for part in re.split(r"(?<=\.)", name):
        if lines[-1] and len(lines[-1]) + len(part) > TITLE_CHARACTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _draw_curves(figure: Any, spectra: Mapping[str, Spectrum]) -> None:
    share, ratio = figure.subplots(1, 2)
    x = next(iter(spectra.values())).fractions.numpy()
    share.plot(x, 100 * x**2, color="black", linestyle="--", linewidth=1.3, zorder=3)
    lines = [ratio.axhline(1, color="black", linestyle="--", linewidth=1.3, zorder=3)]
    for one, colour in zip(spectra.values(), COLOURS, strict=False):
        share.plot(x, 100 * one.share.numpy(), color=colour, linewidth=1.8)
        seen = one.white > 0
        over = one.share[seen] / one.white[seen]
        lines += ratio.plot(x[seen.numpy()], over.numpy(), color=colour, linewidth=1.8)
    for axis in (share, ratio):
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        axis.set_xlabel("corner kept, as a share of each axis", fontsize=9.5)
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    share.set_ylim(0, 100)
    share.set_ylabel("energy in the low corner (%)", fontsize=9.5)
    share.set_title("Share of the energy", fontsize=10.5)
    ratio.set_title("The same, over white noise's share", fontsize=10.5)
    ratio.set_yscale("log", base=2)
    ratio.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    ratio.set_ylabel("times white noise", fontsize=9.5)
    # Told explicitly: matplotlib leaves out labels of their own that begin with an underscore.
    labels = ["white noise", *(_literal(_shortened(name)) for name in spectra)]
    ratio.legend(lines, labels, frameon=False, fontsize=9, loc="upper right")
