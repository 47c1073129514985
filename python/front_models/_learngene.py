"""The learngene: the low-frequency coefficients of every role of a model, and the file that holds them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from front_models._atomic import atomic_path
from front_models._files import disk_errors
from front_models._kinds import check_skip
from front_models._roles import Role
from front_models._walk import matrix_shape

__all__ = ["GeneRole", "Learngene"]

_FORMAT = "front-learngene"
_VERSION = 1
_PARTS = ("mean", "std", "energy", "coefficients")


@dataclass(frozen=True, eq=False)
class GeneRole:
    """The kept coefficients of one role, unscaled: `C_L · (C_M X C_N^T)[:k0, :k1]`, C_N[u, i] = cos(pi (2i+1) u / 2N).

    X is a standardised source tensor seen as an M x N matrix (a vector is 1 x N). scipy's `norm="backward"`
    coefficients are 2 times these per transformed axis.

    Attributes:
        template: the role's name, with `{}` for the layer number; a plain tensor name where `layers` is empty.
        layers: the layer numbers in order; empty for a tensor that is in no layer.
        kind: `qkv`, `o`, `mlp`, `norm`, `embed`, `head` or `other`.
        shape: shape of one source tensor.
        axes: which of the two matrix axes are transformed; both, but for MLP projections with `mlp_axes="hidden"`.
        kept: coefficients kept per matrix axis; the full length of an axis that is not transformed.
        mean, std: statistics of each source layer, float64, shape [L]. `std` has Bessel's correction.
        energy: sum of squares of each standardised source layer (by Parseval, of all its orthonormal coefficients),
            float64, shape [L].
        coefficients: float32 or float64, shape [L, k0, k1], transformed along the layers too.
    """

    template: str
    layers: tuple[int, ...]
    kind: str
    shape: tuple[int, ...]
    axes: tuple[bool, bool]
    kept: tuple[int, int]
    mean: Tensor
    std: Tensor
    energy: Tensor
    coefficients: Tensor

    @property
    def role(self) -> Role:
        """The source role: template, layers and shape."""
        return Role(self.template, self.layers, self.shape)

    @property
    def depth(self) -> int:
        """Number of source layers L; 1 for a tensor that is in no layer."""
        return self.role.depth

    @property
    def names(self) -> tuple[str, ...]:
        """The source tensors' names, in layer order."""
        return self.role.names

    @property
    def matrix(self) -> tuple[int, int]:
        """The shape of one source tensor seen as a matrix."""
        return matrix_shape(self.shape)


@dataclass(frozen=True, eq=False)
class Learngene:
    """What `extract` took from a model; `initialize` starts any number of models of other sizes from it.

    Attributes:
        roles: template -> coefficients and metadata of that role.
        ties: template -> template of the role that holds the very same tensors (tied weights are kept once).
        keep_ratio, mlp_axes, depth, skip: the options of the extraction.

    Source: Shen et al., "Breaking the Scale Barrier: One-Shot Knowledge Transfer via Frequency Transform" (FRONT),
    ICML 2026, arXiv:2603.07523.
    """

    roles: Mapping[str, GeneRole]
    ties: Mapping[str, str] = field(default_factory=dict)
    keep_ratio: float = 1.0
    mlp_axes: str = "both"
    depth: bool = True
    skip: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str], *, force: bool = True) -> None:
        """Write one safetensors file: coefficients and statistics as tensors, the rest as versioned JSON metadata.

        `Learngene.load` gives back the same gene bit for bit. The file appears complete or not at all: it is written
        beside `path`, flushed to the disk and renamed; an existing file is replaced, but for `force=False`.

        Raises:
            FileExistsError: the file exists and `force` is False.
            OSError: the file cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for template, role in self.roles.items():
            for part in _PARTS:
                tensors[f"{part}/{template}"] = getattr(role, part).detach().cpu().contiguous()
        metadata = {"format": _FORMAT, "version": str(_VERSION), "gene": json.dumps(self._describe())}
        with atomic_path(path, force=force) as partial, disk_errors(Path(path)):
            save_file(tensors, partial, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Learngene:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a learngene, is damaged, or was written by a newer version of the format.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: there is no learngene file {os.fspath(path)!r}")
        try:
            with safe_open(path, framework="pt") as file:
                described = _read_metadata(path, file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise ValueError(f"path: {os.fspath(path)!r} is not a learngene file: {error}") from error
        try:
            roles = {entry["template"]: _build_role(entry, tensors) for entry in described["roles"]}
            ties = {str(a): str(b) for a, b in described["ties"].items()}
            if not roles.keys() >= set(ties.values()):
                raise ValueError(f"ties to roles that are not there: {ties}")
            return cls(
                roles=roles,
                ties=ties,
                keep_ratio=float(described["keep_ratio"]),
                mlp_axes=str(described["mlp_axes"]),
                depth=bool(described["depth"]),
                skip=check_skip(described["skip"]),
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"path: the learngene file {os.fspath(path)!r} is damaged: {error}") from error

    def _describe(self) -> dict[str, Any]:
        return {
            "keep_ratio": self.keep_ratio,
            "mlp_axes": self.mlp_axes,
            "depth": self.depth,
            "skip": list(self.skip),
            "ties": dict(self.ties),
            "roles": [
                {
                    "template": role.template,
                    "layers": list(role.layers),
                    "kind": role.kind,
                    "shape": list(role.shape),
                    "axes": list(role.axes),
                    "kept": list(role.kept),
                }
                for role in self.roles.values()
            ],
        }


def _read_metadata(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    where = os.fspath(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"path: {where!r} is not a learngene file: it is safetensors, but was not written by save()")
    version = metadata.get("version", "")
    if not version.isdecimal() or not 1 <= int(version) <= _VERSION:
        raise ValueError(
            f"path: the learngene file {where!r} has format version {version!r}; this package reads 1 to {_VERSION}"
        )
    try:
        described = json.loads(metadata["gene"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"path: the learngene file {where!r} is damaged: {error}") from error
    if not isinstance(described, dict):
        raise ValueError(f"path: the learngene file {where!r} is damaged: its metadata is no JSON object")
    return described


def _build_role(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GeneRole:
    template = str(entry["template"])
    role = GeneRole(
        template=template,
        layers=tuple(int(n) for n in entry["layers"]),
        kind=str(entry["kind"]),
        shape=tuple(int(n) for n in entry["shape"]),
        axes=(bool(entry["axes"][0]), bool(entry["axes"][1])),
        kept=(int(entry["kept"][0]), int(entry["kept"][1])),
        **{part: tensors[f"{part}/{template}"] for part in _PARTS},
    )
    expected = (role.depth, *role.kept)
    if tuple(role.coefficients.shape) != expected:
        raise ValueError(f"{template}: coefficients of shape {tuple(role.coefficients.shape)}, expected {expected}")
    if role.coefficients.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{template}: coefficients of dtype {role.coefficients.dtype}, expected float32 or float64")
    for part in _PARTS[:-1]:
        tensor = getattr(role, part)
        if tensor.shape != (role.depth,) or tensor.dtype != torch.float64:
            raise ValueError(f"{template}: {part} is {tensor.dtype} of shape {tuple(tensor.shape)}")
    if math.prod(role.kept) < 1 or any(k > n for k, n in zip(role.kept, role.matrix, strict=True)):
        raise ValueError(f"{template}: kept {role.kept} of a {role.matrix} matrix")
    return role
