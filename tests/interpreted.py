"""Triton's interpreter where it does not do what a GPU does."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def round_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts float32 off where a GPU rounds it to bfloat16."""
    import triton
    from triton.runtime import interpreter

    cast = interpreter.InterpreterBuilder.cast_impl

    def create_fp_trunc(self, x, dtype):
        if x.dtype.scalar != triton.language.float32 or dtype.scalar != triton.language.bfloat16:
            return cast(self, x, dtype)
        bits = torch.from_numpy(np.ascontiguousarray(x.data)).to(torch.bfloat16).view(torch.int16).numpy()
        return interpreter.TensorHandle(bits.view(np.uint16), dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fp_trunc", create_fp_trunc)
