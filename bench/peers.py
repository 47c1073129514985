"""The alternatives that the ops are measured against, in float32.

ducc0 by axis with the crop or padding between the passes, ducc0 in two dimensions, scipy.fft, matmul with a cached
basis, torch_dct.
"""

from __future__ import annotations

from collections.abc import Callable

import ducc0
import numpy as np
import scipy.fft
import torch_dct
from torch import Tensor, from_numpy

from front_kernels.reference import basis
from ledger import Case

Run = Callable[[], np.ndarray]


def peers(case: Case, x: Tensor, threads: int) -> dict[str, Run]:
    """What computes `case` from x, [M, N] forward and [k0, k1] inverse, by name."""
    return forward_peers(case, x, threads) if case.direction == "forward" else inverse_peers(case, x, threads)


def padded(y: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(y, ((0, rows - y.shape[0]), (0, columns - y.shape[1])))


def ducc(x: np.ndarray, kind: int, axes: tuple[int, ...], threads: int) -> np.ndarray:
    return ducc0.fft.dct(x, type=kind, axes=axes, inorm=1, nthreads=threads)


def forward_peers(case: Case, x: Tensor, threads: int) -> dict[str, Run]:
    a, (m, n), k = x.numpy(), case.size, case.kept

    def ducc_axes() -> np.ndarray:
        first = np.ascontiguousarray(ducc(a, 2, (1,), threads)[:, : k[1]])
        return ducc(first, 2, (0,), threads)[: k[0]]

    found: dict[str, Run] = {
        "ducc0 by axis": ducc_axes,
        "ducc0 2-D": lambda: ducc(a, 2, (0, 1), threads)[: k[0], : k[1]],
        "scipy": lambda: scipy.fft.dctn(a, norm="ortho", workers=threads)[: k[0], : k[1]],
        "torch_dct": lambda: torch_dct.dct_2d(x, norm="ortho")[: k[0], : k[1]].numpy(),
    }
    if m < 20_000:  # the basis of more is larger than the matrix
        rows, columns = basis(m, k[0]).float(), basis(n, k[1]).float()
        found["matmul"] = lambda: (rows @ (x @ columns.T)).numpy()
    return found


def inverse_peers(case: Case, y: Tensor, threads: int) -> dict[str, Run]:
    a, (m, n), k = y.numpy(), case.size, case.kept
    rows, columns = basis(m, k[0]).float(), basis(n, k[1]).float()

    def ducc_axes() -> np.ndarray:
        first = ducc(padded(a, m, k[1]), 3, (0,), threads)
        return ducc(padded(first, m, n), 3, (1,), threads)

    return {
        "ducc0 by axis": ducc_axes,
        "ducc0 2-D": lambda: ducc(padded(a, m, n), 3, (0, 1), threads),
        "scipy": lambda: scipy.fft.idctn(padded(a, m, n), norm="ortho", workers=threads),
        "torch_dct": lambda: torch_dct.idct_2d(from_numpy(padded(a, m, n)), norm="ortho").numpy(),
        "matmul": lambda: (rows.T @ (y @ columns)).numpy(),
    }
