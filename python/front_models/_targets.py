"""The model that is to be started: from a weights file, or built from a folder's Hugging Face ``config.json``."""

from __future__ import annotations

import functools
import importlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from front_models._atomic import TOKENIZER_FILES, atomic_folder
from front_models._config import CONFIG, ModelTensors, read_config
from front_models._files import WeightsFileError, disk_errors, open_weights, save_weights

__all__ = ["Target", "align_names", "load_target"]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Target:
    """The target's tensors by name, and what is needed to write the started model.

    Attributes:
        tensors: The target's own names and tensors. With a `model` these are the model's, without copying.
        model: The model built from a Hugging Face config, or None.
        folder: The folder that holds the target's ``config.json``, or None.
        prefix: The name under which the model's class keeps its base model ("bert", "transformer", ...), or "".
    """

    tensors: Mapping[str, Tensor]
    model: Any | None = None
    folder: Path | None = None
    prefix: str = ""

    def renamed(self, names: Mapping[str, str]) -> Mapping[str, Tensor]:
        """The tensors under other names. What is read from a file keeps its own, to be read one tensor at a time."""
        if not self.prefix:
            return self.tensors
        return ModelTensors({names[name]: tensor for name, tensor in self.tensors.items()}, self.model.config)  # type: ignore[union-attr]

    def check(self, output: str | Path, *, folder: bool) -> None:
        """What `save` needs.

        Raises:
            ValueError: `folder` is asked for, but there is no ``config.json`` to put into it.
        """
        if folder and self.folder is None:
            raise ValueError(
                f"{output}: a folder needs a {CONFIG}, and --like has none; name a .safetensors file instead"
            )

    def save(
        self,
        output: Path,
        tensors: Mapping[str, Tensor],
        *,
        folder: bool,
        source: Path | None = None,
        force: bool = False,
    ) -> None:
        """Write `tensors` (the target's names) to a safetensors file or a model folder, whole or not at all.

        Args:
            output: A ``.safetensors`` file, or with `folder` the folder to write.
            tensors: A value for every name of the target.
            folder: Write a folder: the weights, ``config.json``, and the tokenizer's files of the target's folder, or
                of `source` where that has none.
            source: The file or folder that the weights came from.
            force: Replace what exists.

        Raises:
            ValueError: `folder` is asked for, but there is no ``config.json`` to put into it.
            OSError: `output` exists and `force` is False, or it cannot be written.
        """
        if not folder:
            save_weights(output, tensors, force=force)
            return
        self.check(output, folder=True)
        assert self.folder is not None
        with atomic_folder(output, force=force) as temporary, disk_errors(output):
            if self.model is None:
                save_weights(temporary / WEIGHTS, tensors)
                shutil.copyfile(self.folder / CONFIG, temporary / CONFIG)
            else:
                self.model.load_state_dict(tensors)
                with _quiet_transformers():
                    self.model.save_pretrained(temporary)
            _copy_tokenizer([self.folder, *([source] if source is not None else [])], temporary)


def load_target(path: str | Path, *, seed: int = 0) -> Target:
    """The model to be started.

    A folder whose ``config.json`` names a ``model_type`` is a Hugging Face model: the class named in its
    "architectures" (AutoModel's choice where none is named) is built in the config's dtype with fresh initial values
    drawn from `seed`; weights in the folder are not read, and code in it is not run. Any other file or folder gives
    the tensors stored in it.

    Args:
        path: A weights file, or a folder with ``config.json`` or weights; a ``config.json`` stands for its folder.
        seed: For torch.manual_seed while the model draws its initial values; the global generator is left as it was.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ImportError: A config needs transformers, which is not installed.
        WeightsFileError: The weights cannot be read, or no model can be built from the config.
    """
    path = Path(path)
    if path.name == CONFIG and path.is_file():
        path = path.parent
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG
    if path.is_dir() and config.exists() and "model_type" in read_config(config):
        model = _build(folder, seed)
        return Target(ModelTensors(model.state_dict(), model.config), model, folder, str(type(model).base_model_prefix))
    return Target(open_weights(path), None, folder if path.is_dir() and config.exists() else None)


def _build(folder: Path, seed: int) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"{folder}: a model is built from {CONFIG} by transformers: pip install 'front-kernels[hf]' ({error})"
        ) from error
    try:
        with _quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = _model_class(transformers, config)(config)
        # Called `torch_dtype` before transformers 4.56.
        dtype = config.dtype if hasattr(config, "dtype") else config.torch_dtype
        return model if dtype is None else model.to(dtype)
    except Exception as error:  # a config can fail in any way inside transformers; the cause is passed on
        cause = " ".join(str(error).split())[:300]
        raise WeightsFileError(f"{folder / CONFIG}: no model can be built from it ({cause})") from error


def _model_class(transformers: Any, config: Any) -> Any:
    """What builds a model from its config, with initial values."""
    if not config.architectures:
        return functools.partial(transformers.AutoModel.from_config, trust_remote_code=False)
    if isinstance(config.architectures, str):
        raise ValueError(f"architectures: got {config.architectures!r}; allowed is a list of names")
    name = config.architectures[0]
    found = getattr(transformers, name, None)
    # Any name can stand in a file: only a model's class is called.
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ValueError(f"architectures: {name!r} is no model of transformers {transformers.__version__}")
    return found


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No warnings and progress bars of transformers on stderr inside the block."""
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _copy_tokenizer(sources: Iterable[Path], folder: Path) -> None:
    for source in sources:
        found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
        for file in found:
            shutil.copyfile(file, folder / file.name)
        if found:
            return


def align_names(names: Iterable[str], source: Iterable[str], prefix: str) -> dict[str, str]:
    """The target's names as the source writes them: ``{target's name: source's form of it}``.

    A model with a head keeps its base model under a prefix ("bert.encoder..."); the base model alone does not
    ("encoder..."). Of the names as they are, with the prefix taken off where it is, and with it put before every name,
    the form is chosen that has most names in common with the source, numbers aside; as they are, if that is no worse.

    Args:
        names: The target's names.
        source: The source's names, or a gene's, where "{}" stands for a layer's number.
        prefix: `base_model_prefix` of the target's class; "" changes nothing.
    """
    names = list(names)
    plain = {name: name for name in names}
    if not prefix:
        return plain
    known = {_numberless(name) for name in source}
    forms = [plain, {n: n.removeprefix(f"{prefix}.") for n in names}, {n: f"{prefix}.{n}" for n in names}]
    # Two names of the target must not become one.
    forms = [form for form in forms if len(set(form.values())) == len(form)]
    return max(forms, key=lambda form: len({_numberless(name) for name in form.values()} & known))


def _numberless(name: str) -> str:
    return re.sub(r"\d+|\{\}", "#", name)
