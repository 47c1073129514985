"""Bytes that a process sends and receives for the spectral loss and its gradient of a Llama-3-8B-shaped model under
FSDP2: `python bench/collectives.py`.

The model has no storage and the processes are simulated; the bytes are `SpectralRegularizer.communication()`'s, whose
counts the tests compare with the collectives that run. Taken: by matrix, the sum of the coefficients or the gathering
of the matrix in its own dtype, whichever is less.
"""

from __future__ import annotations

import argparse
import re

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

from front_models import SpectralRegularizer

LLAMA = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip
LINE = re.compile(r": coefficients summed (\d+) bytes, matrices gathered (\d+) bytes: (summed|gathered)$")


def gigabytes(processes: int, keep_ratio: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """All coefficients summed, all matrices gathered, and what is taken."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        mesh = init_device_mesh("cpu", (processes,))
        with torch.device("meta"):
            model = LlamaForCausalLM(LLAMA).to(dtype)
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        summed = gathered = taken = 0
        for line in SpectralRegularizer(model, keep_ratio=keep_ratio).communication().splitlines():
            found = LINE.search(line)
            if found is None:
                raise RuntimeError(f"communication() says {line!r}")
            ways = {"summed": int(found[1]), "gathered": int(found[2])}
            summed += ways["summed"]
            gathered += ways["gathered"]
            taken += ways[found[3]]
        return summed / 1e9, gathered / 1e9, taken / 1e9
    finally:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--keep-ratio", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    options = parser.parse_args()
    table = Table("processes", "keep ratio", "dtype", "all summed, GB", "all gathered, GB", "taken, GB")
    for processes in options.processes:
        for keep_ratio in options.keep_ratio:
            for dtype in (torch.float32, torch.bfloat16):
                found = gigabytes(processes, keep_ratio, dtype)
                table.add_row(
                    str(processes), f"{keep_ratio:g}", str(dtype).removeprefix("torch."), *(f"{x:.2f}" for x in found)
                )
    Console().print(table)


if __name__ == "__main__":
    main()
