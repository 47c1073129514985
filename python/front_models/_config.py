"""What a model's config says: a module's own, one that a mapping of tensors carries, or config.json beside a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from front_models._files import WeightsFile, WeightsFileError

__all__ = ["CONFIG", "ModelTensors", "heads_of", "model_type", "read_config"]

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


def _entry(weights: object, *names: str) -> Any:
    """The first of these entries that there is, and that says something."""
    path = weights.path if isinstance(weights, WeightsFile) else weights
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / CONFIG
        entries = read_config(file) if file.is_file() else {}
        return next((entries[name] for name in names if entries.get(name)), None)
    config = getattr(weights, "config", None)
    return next((found for name in names if (found := getattr(config, name, None))), None)


def model_type(weights: object) -> str:
    """Such as "gemma"; "" where it is not known."""
    return str(_entry(weights, "model_type") or "")


def heads_of(weights: object) -> tuple[int, int] | None:
    """Query heads of a layer, and key/value heads; None where they are not known."""
    query = _entry(weights, "num_attention_heads", "n_head")
    if isinstance(query, int):
        return query, _entry(weights, "num_key_value_heads") or query
    if isinstance(weights, nn.Module):
        for module in weights.modules():
            if isinstance(found := getattr(module, "num_heads", None), int):
                return found, found
    return None
