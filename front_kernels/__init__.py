"""front_kernels: the discrete cosine transform for weight matrices, as torch ops (``torch.ops.front.*``).

Only the coefficients that are kept are computed, and zero padding is never stored. See `dct_crop` and `idct_pad`.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch

_LIBRARY_FILE = Path(__file__).with_name("libfront_ops.so")

try:
    from . import _C
except ImportError as error:
    _suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if Path(__file__).with_name(f"_C{_suffix}").exists():
        raise
    _built = sorted(path.name for path in Path(__file__).parent.glob("_C.*.so"))
    raise ImportError(
        f"front_kernels in {Path(__file__).parent} is not built for this Python (_C{_suffix} is missing, found "
        f"{_built or 'no build'}). In the source tree, `pip install -e .` builds it; with `pip install .`, start "
        "Python in another directory"
    ) from error

torch.ops.load_library(_LIBRARY_FILE)

from . import _autograd, _kernels, _spectral, _spectral_gpu, _variants, engines, reference  # noqa: E402
from ._settings import set_engine, set_precision  # noqa: E402
from .info import build_info, empty_cache, plan_for  # noqa: E402
from .ops import (  # noqa: E402
    dct,
    dct2,
    dct2_,
    dct_crop,
    dct_crop_,
    dct_crop_many,
    dct_resize,
    idct,
    idct2,
    idct2_,
    idct_pad,
    idct_pad_,
    idct_pad_many,
    lowpass,
    lowpass_,
)
from .spectral import (  # noqa: E402
    spectral_grad_many_,
    spectral_loss,
    spectral_loss_many,
    spectral_stack_grad_,
    spectral_stack_loss,
)

_registrations = (
    _autograd.register(),
    _variants.register(),
    _spectral.register(),
    _spectral_gpu.register(),
    _kernels.register(),
    engines.register(),
)

__version__: str = _C.build_info()["version"]

__all__ = [
    "__version__",
    "build_info",
    "dct",
    "dct2",
    "dct2_",
    "dct_crop",
    "dct_crop_",
    "dct_crop_many",
    "dct_resize",
    "empty_cache",
    "engines",
    "idct",
    "idct2",
    "idct2_",
    "idct_pad",
    "idct_pad_",
    "idct_pad_many",
    "lowpass",
    "lowpass_",
    "plan_for",
    "reference",
    "set_engine",
    "set_precision",
    "spectral_grad_many_",
    "spectral_loss",
    "spectral_loss_many",
    "spectral_stack_grad_",
    "spectral_stack_loss",
]
