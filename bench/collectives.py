"""Bytes that a process sends and receives for the spectral loss and its gradient of a Llama-3-8B-shaped model under
FSDP2: `python bench/collectives.py`.

The model has no storage and the processes are simulated; the bytes are `SpectralRegularizer.communication()`'s, whose
counts the tests compare with the collectives that run. Taken: by matrix, the exchange of transformed rows for columns,
the sum of the coefficients or the gathering of the matrix in its own dtype, whichever is least.
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
WAYS = ("exchanged", "summed", "gathered")
LINE = re.compile(": " + ", ".join(rf"{way} (?P<{way}>\d+) bytes" for way in WAYS) + rf": (?P<taken>{'|'.join(WAYS)})$")


def gigabytes(processes: int, keep_ratio: float, dtype: torch.dtype) -> list[float]:
    """All matrices by each of the ways, and by those that are taken."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        mesh = init_device_mesh("cpu", (processes,))
        with torch.device("meta"):
            model = LlamaForCausalLM(LLAMA).to(dtype)
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        total, taken = dict.fromkeys(WAYS, 0), 0
        for line in SpectralRegularizer(model, keep_ratio=keep_ratio).communication().splitlines():
            found = LINE.search(line)
            if found is None:
                raise RuntimeError(f"communication() says {line!r}")
            for way in WAYS:
                total[way] += int(found[way])
            taken += int(found[found["taken"]])
        return [sent / 1e9 for sent in (*total.values(), taken)]
    finally:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--keep-ratio", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    options = parser.parse_args()
    table = Table("processes", "keep ratio", "dtype", *(f"all {way}, GB" for way in WAYS), "taken, GB")
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
