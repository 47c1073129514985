"""Names, shapes and tensors of a model, whatever holds them: a state dict, a module, or a file read lazily.

A mapping may offer `shape_of(name)` and `dtype_of(name)`, which spare reading the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from front_models._files import WeightsFile, open_weights, plain_names

__all__ = [
    "TensorInfo",
    "Weights",
    "describe",
    "given_names",
    "is_distributed",
    "matrix_shape",
    "named_tensors",
    "tied_names",
    "unwrapped",
]

Weights = Mapping[str, Tensor] | nn.Module | str | os.PathLike[str]


@dataclass(frozen=True)
class TensorInfo:
    """Shape, dtype and device of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix that a tensor of `shape` is seen as.

    0-D -> (1, 1); (n,) -> (1, n); (m, n) -> (m, n); (A, B, n) -> (A*B, n); 4-D and higher (O, I, ...) -> (O*I, rest).
    A vector is a matrix with one row: along an axis of length 1 the transform is the identity.
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    return math.prod(shape[:2]), math.prod(shape[2:])


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The model that torch.compile, DataParallel or DDP wraps, and what the wrapper's names begin with besides."""
    prefix = ""
    while True:
        inner, part = getattr(model, "_orig_mod", None), "_orig_mod."
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner, part = model.module, "module."
        if not isinstance(inner, nn.Module):
            return model, prefix
        model, prefix = inner, prefix + part


def given_names(weights: Weights, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """``{plain name: the caller's}`` for `tensors`, by the names that `named_tensors` has given those of `weights`."""
    if isinstance(weights, nn.Module):
        inner, prefix = unwrapped(weights)
        own = plain_names(_of_module(inner))
        return {name: prefix + own[name] for name in tensors}
    own = plain_names(weights) if isinstance(weights, Mapping) else {}  # files have plain names
    return {name: own.get(name, name) for name in tensors}


def _of_module(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def named_tensors(weights: Weights, argument: str) -> Mapping[str, Tensor]:
    """The tensors by plain name (see `plain_names`); lazy mappings keep theirs.

    Those of a module are its own parameters and persistent buffers, not copies, by the names of the model within
    torch.compile, DataParallel or DDP.

    Raises:
        TypeError: `weights` is of another type, or a mapping that holds something else than tensors under names.
        ValueError: There are no tensors, or one that has no data (meta) or is not strided.
    """
    tensors: Mapping[str, Tensor]
    if isinstance(weights, nn.Module):
        tensors = _of_module(unwrapped(weights)[0])
    elif isinstance(weights, (str, os.PathLike)):
        tensors = open_weights(weights)
    elif isinstance(weights, Mapping):
        tensors = weights
    else:
        raise TypeError(
            f"{argument}: got {type(weights).__name__}; allowed are a mapping of names to tensors, "
            "a torch.nn.Module, or a path"
        )
    if len(tensors) == 0:
        raise ValueError(f"{argument}: holds no tensors")
    if hasattr(tensors, "shape_of"):
        return tensors
    _check_entries(tensors, argument)
    names = plain_names(tensors)
    return tensors if names.keys() == tensors.keys() else {name: tensors[own] for name, own in names.items()}


def _check_entries(weights: Mapping[str, Tensor], argument: str) -> None:
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):  # a caller without a type checker
            raise TypeError(
                f"{argument}: a mapping of names to tensors is needed, but {name!r} holds {type(value).__name__}"
            )
        if isinstance(value, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
            raise ValueError(
                f"{argument}: tensor {name!r} has no shape before the first forward pass (a lazy module); call it once"
            )
        if value.device.type == "meta" or value.layout is not torch.strided:
            where = "on the meta device" if value.device.type == "meta" else f"of layout {value.layout}"
            raise ValueError(f"{argument}: {name} is {where}; allowed are strided tensors with data")
        if is_distributed(value):  # of which a process has a part, and none has an address
            raise ValueError(
                f"{argument}: {name} is a DTensor; allowed are whole tensors, such as its full_tensor() or those of "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
            )


def is_distributed(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def describe(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Of every tensor, without reading data where the mapping allows it: what is read from a file comes to the CPU."""
    shape_of, dtype_of = getattr(tensors, "shape_of", None), getattr(tensors, "dtype_of", None)
    if shape_of is not None and dtype_of is not None:
        return {name: TensorInfo(tuple(shape_of(name)), dtype_of(name), torch.device("cpu")) for name in tensors}
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in tensors.items()}


def tied_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`{name: first name with the same data}` for every name; a name that is tied to none maps to itself.

    Tensors are tied when they are one storage seen the same way, or when a file stores them once and says so.
    """
    if isinstance(tensors, WeightsFile):
        return {name: tensors.aliases.get(name, name) for name in tensors}
    first: dict[object, str] = {}
    return {name: first.setdefault(_identity(tensors, name), name) for name in tensors}


def _identity(tensors: Mapping[str, Tensor], name: str) -> object:
    tensor = tensors[name]
    # A lazy mapping makes a new tensor at each access: its address says nothing once it is freed.
    held = tensors[name] is tensor
    if not held or tensor.numel() == 0:
        return name
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
