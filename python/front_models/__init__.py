"""FRONT weight transfer: start a model of any size from a trained model of another size, without training.

`extract` takes the low-frequency DCT coefficients of every weight (the learngene), `initialize` starts a model from
them, `transfer` does both, one role at a time. `inspect_weights` and `plot_energy` show how much energy is
low-frequency.

Source: Shen et al., "Breaking the Scale Barrier: One-Shot Knowledge Transfer via Frequency Transform" (FRONT),
ICML 2026, arXiv:2603.07523.
"""

from __future__ import annotations

from front_models._align import Alignment, align
from front_models._anatomy import NotAlignableError
from front_models._compare import CompareReport, CompareRow, compare
from front_models._files import WeightsFileError
from front_models._inspect import EnergyRow, InspectReport, inspect_weights
from front_models._learngene import GeneRole, Learngene
from front_models._plot import plot_energy
from front_models._refine import RefineResult, refine
from front_models._regularizer import RoleEnergy, SpectralRegularizer
from front_models._report import RoleRow, TransferReport
from front_models._transfer import extract, initialize, transfer

__all__ = [
    "Alignment",
    "CompareReport",
    "CompareRow",
    "EnergyRow",
    "GeneRole",
    "InspectReport",
    "Learngene",
    "NotAlignableError",
    "RefineResult",
    "RoleEnergy",
    "RoleRow",
    "SpectralRegularizer",
    "TransferReport",
    "WeightsFileError",
    "align",
    "compare",
    "extract",
    "initialize",
    "inspect_weights",
    "plot_energy",
    "refine",
    "transfer",
]
