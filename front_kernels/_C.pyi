from collections.abc import Sequence
from typing import Any

def build_info() -> dict[str, Any]: ...
def plan_axis(n: int, kept: int, compute_bytes: int = 4) -> dict[str, Any]: ...
def plan_alone(n: int, kept: int, lanes: int, compute_bytes: int, machine: Sequence[int]) -> tuple[int, int, bool]: ...
def plan_matrix(
    forward: bool, rows: int, columns: int, k0: int, k1: int, element_bytes: int, machine: list[int]
) -> dict[str, Any]: ...
def cuda_axis_plan(
    n: int, kept: int, real_bytes: int, lanes: int, hardware: Sequence[int], fours: int = 0
) -> dict[str, Any]: ...
def cuda_axis_kernel(direction: int, plan: Sequence[int], radices: Sequence[int]) -> tuple[str, str, int]: ...
def cuda_kernels_written() -> int: ...
def cuda_force_plan(plan: Sequence[int], radices: Sequence[int], fours: int) -> None: ...
def cuda_large_plan(n: int, real_bytes: int, hardware: Sequence[int]) -> dict[str, Any]: ...
def cuda_matrix_launches(
    direction: int,
    sizes: Sequence[int],
    strides: Sequence[int],
    types: Sequence[int],
    norm: str,
    ins: Sequence[int],
    outs: Sequence[int],
    batch: Sequence[Sequence[int]],
    workspace: int,
    hardware: Sequence[int],
    most_workspace: int = 0,
) -> tuple[list[dict[str, Any]], int]: ...
def cuda_axis_launches(
    direction: int,
    n: int,
    kept: int,
    along: Sequence[int],
    types: Sequence[int],
    norm: str,
    in_: int,
    out: int,
    lanes: Sequence[Sequence[int]],
    workspace: int,
    hardware: Sequence[int],
) -> tuple[list[dict[str, Any]], int]: ...
def cuda_spectral_launches(
    sizes: Sequence[int],
    strides: Sequence[int],
    types: Sequence[int],
    xs: Sequence[int],
    grads: Sequence[int],
    decay: Sequence[float],
    standardize: bool,
    scale: float,
    losses: int,
    workspace: int,
    hardware: Sequence[int],
    scale_at: int = 0,
) -> tuple[list[dict[str, Any]], int]: ...
def cuda_spectral_list_launches(
    matrices: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int], int, int]],
    apart: bool,
    decay: Sequence[float],
    standardize: bool,
    scale: float,
    losses: int,
    workspace: int,
    hardware: Sequence[int],
) -> tuple[list[dict[str, Any]], int]: ...
