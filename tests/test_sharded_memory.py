"""What a process holds for the spectral loss of shards, besides parameters and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MEMORY = """
import json, sys
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from front_kernels.sharded import Part, Shard, sharded_loss

torch.set_num_threads(1)
size, m, n, count = 2, 2048, 2048, 24
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
xs = [torch.randn(m // size, n) for _ in range(count)]
grads = [torch.zeros_like(x) for x in xs]

def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024

def filled(received, *others, **options):
    received.zero_()  # as messages do: pages that nobody has written take no memory

dist.all_to_all_single = filled
found = {}
for k in ((2, 2), (64, 2048), (1536, 1536)):
    parts = [Part((Shard(x, m // size, m),), k) for x in xs]
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    sharded_loss([[grad] for grad in grads], parts, dist.group.WORLD, 1.0, True)
    found[parts[0].way(size) if k != (2, 2) else "warm"] = peak() - before
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status and clear_refs, which only Linux has")
def test_what_a_process_holds() -> None:
    """Windows of 32 MiB go through messages; of matrices that are summed one matrix's rows at a time, and its columns.

    All rows together are 192 MiB."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}  # what is freed is given back
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(run.stdout)
    print({way: held >> 20 for way, held in found.items()})
    assert found["summed"] < 90 << 20, found
    assert found["exchanged"] < 5 * (32 << 20), found
