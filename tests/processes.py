"""Functions run by several processes that talk through gloo."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# What takes longest to import is imported once, by a process that these are forked from; it has run nothing in threads.
# NOTE: its environment is that of the first call; their hash seeds are one.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "torch._dynamo", "front_models"])


def run_processes(function: Callable[[int, int], Any], size: int, folder: Path, timeout: float = 240) -> list[Any]:
    """What ``function(rank, size)``, of a module, returns in each of them; an error in one of them is raised here."""
    context = mp.start_processes(
        _enter, (function, size, str(folder)), nprocs=size, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{size} processes have not finished in {timeout:g} s")
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def _enter(rank: int, function: Callable[[int, int], Any], size: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        result = function(rank, size)
    except pytest.fail.Exception as failure:  # no Exception, so that torch would not report it
        raise AssertionError(str(failure)) from failure
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
