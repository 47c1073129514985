"""The options of extract, initialize and transfer, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

__all__ = [
    "CHOOSING",
    "Axes",
    "DepthFill",
    "Gain",
    "MlpAxes",
    "Progress",
    "Recipe",
    "check_extraction",
    "check_initialization",
    "check_progress",
    "check_recipe",
]

MlpAxes = Literal["both", "hidden"]
Gain = Literal["area", "ortho"]
DepthFill = Literal["zero", "random", "consistence", "repeat", "select", "first"]
CHOOSING = ("select", "first")  # the depth fills that take whole layers
Axes = Literal["all", "residual"]
Recipe = Literal["paper", "aligned"]
Progress = Callable[[int, int, str], None]


def check_extraction(keep_ratio: object, mlp_axes: object, depth: object) -> None:
    """Raise TypeError or ValueError for what `extract` does not take."""
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, (int, float)):
        raise TypeError(f"keep_ratio: got {keep_ratio!r}; allowed is a number in (0, 1]")
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio: got {keep_ratio!r}; allowed is a number in (0, 1]")
    if mlp_axes not in get_args(MlpAxes):
        raise ValueError(f"mlp_axes: got {mlp_axes!r}; allowed are {_words(MlpAxes)}")
    if not isinstance(depth, bool):
        raise TypeError(f"depth: got {depth!r}; allowed are True and False")


def check_initialization(gain: object, depth_fill: object, select_n: object, generator: object) -> None:
    """Raise TypeError or ValueError for what `initialize` does not take."""
    if gain is not None and gain not in get_args(Gain):
        raise ValueError(f"gain: got {gain!r}; allowed are None, {_words(Gain)}")
    if depth_fill not in get_args(DepthFill):
        raise ValueError(f"depth_fill: got {depth_fill!r}; allowed are {_words(DepthFill)}")
    if depth_fill in CHOOSING:
        raise ValueError(
            f"depth_fill: got {depth_fill!r}, which goes with transfer's axes='residual' or recipe='aligned'; allowed "
            f"are the others but {', '.join(map(repr, CHOOSING))}"
        )
    if select_n is not None:
        if isinstance(select_n, bool) or not isinstance(select_n, int):
            raise TypeError(f"select_n: got {select_n!r}; allowed are None and whole numbers from 1")
        if select_n < 1:
            raise ValueError(f"select_n: got {select_n!r}; allowed are None and whole numbers from 1")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: got {type(generator).__name__}; allowed are None and a torch.Generator")


def check_progress(progress: object) -> None:
    """Raise TypeError for what cannot be called."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: got {progress!r}; allowed are None and a function of (done, total, role)")


def check_recipe(recipe: object, axes: object, depth_fill: object, **others: object) -> bool:
    """Whether a transfer goes along the residual stream alone. Raise ValueError for options that contradict that."""
    if recipe not in get_args(Recipe):
        raise ValueError(f"recipe: got {recipe!r}; allowed are {_words(Recipe)}")
    if axes not in get_args(Axes):
        raise ValueError(f"axes: got {axes!r}; allowed are {_words(Axes)}")
    if recipe == "paper" and axes == "all":
        return False
    way = f"recipe={recipe!r}" if recipe == "aligned" else f"axes={axes!r}"
    allowed = (None, *CHOOSING)
    if depth_fill not in allowed:
        raise ValueError(f"depth_fill: got {depth_fill!r} with {way}; allowed are {', '.join(map(repr, allowed))}")
    usual = {"keep_ratio": 1.0, "mlp_axes": "both", "depth": True, "gain": None, "select_n": None}
    for name, value in others.items():
        if value != usual[name]:
            raise ValueError(f"{name}: got {value!r} with {way}; allowed is {usual[name]!r}")
    return True


def _words(literal: object) -> str:
    return ", ".join(repr(word) for word in get_args(literal))
