"""What a model's config says: a module's own, one that a mapping of tensors carries, or config.json beside a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from front_models._files import WeightsFile, WeightsFileError
from front_models._walk import unwrapped

__all__ = ["CONFIG", "ModelTensors", "heads_of", "model_type", "read_config", "ties_words"]

CONFIG = "config.json"


class ModelTensors(dict[str, Tensor]):
    """Tensors by name, and the config of the model that they are of."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Any) -> None:
        super().__init__(tensors)
        self.config = config


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsFileError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(config, dict):
        raise WeightsFileError(f"{path}: not a model's config, but a JSON {type(config).__name__}")
    return config


def _entries(weights: object) -> Callable[[str], Any]:
    """An entry by its name; None where there is none."""
    path = weights.path if isinstance(weights, WeightsFile) else weights
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / CONFIG
        return (read_config(file) if file.is_file() else {}).get
    model = unwrapped(weights)[0] if isinstance(weights, nn.Module) else weights
    config = getattr(model, "config", None)
    return lambda name: getattr(config, name, None)


def _entry(weights: object, *names: str) -> Any:
    """The first of these entries that there is, and that says something."""
    entries = _entries(weights)
    return next((found for name in names if (found := entries(name))), None)


def model_type(weights: object) -> str:
    """Such as "gemma"; "" where it is not known."""
    return str(_entry(weights, "model_type") or "")


def ties_words(weights: object, usual: bool) -> bool:
    """Whether a head shares the embedding's tensor. usual: where there is a config that does not say; one that files
    leave out shares it where there is no config."""
    entries = _entries(weights)
    said = entries("tie_word_embeddings")
    return bool(said) if said is not None else usual or entries("model_type") is None


def heads_of(weights: object) -> tuple[int, int] | None:
    """Query heads of a layer, and key/value heads; None where they are not known."""
    query = _entry(weights, "num_attention_heads", "n_head")
    if isinstance(query, int):
        pairs = _entry(weights, "num_key_value_heads") or query
        if not isinstance(pairs, int):
            raise ValueError(f"{CONFIG}: num_key_value_heads: got {pairs!r}; allowed is a whole number")
        return query, pairs
    if isinstance(weights, nn.Module):
        for module in weights.modules():
            if isinstance(found := getattr(module, "num_heads", None), int):
                return found, found
    return None
