"""The cache of the Triton engine's bases, and what must be there before a CUDA graph is captured."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: its engine is not tested")
import front_kernels as fk
from front_kernels.triton import basis, launch

CPU = torch.device("cpu")


def test_bases_are_kept_up_to_a_limit(monkeypatch):
    cache = basis.Cache()
    keys = [basis.Key(64, k, False, "ortho", torch.float32, 1, False) for k in (16, 32, 64)]
    first = cache.get(keys[0], CPU)
    assert cache.get(keys[0], CPU) is first
    monkeypatch.setattr(basis, "_limit", lambda device: 4 * 64 * (32 + 64) + 1)
    for key in keys[1:]:
        cache.get(key, CPU)
    assert cache.nbytes == 4 * 64 * (32 + 64)
    assert cache.get(keys[0], CPU) is not first
    cache.clear()
    assert cache.nbytes == 0


def test_a_devices_bases_drop_no_others(monkeypatch):
    monkeypatch.setattr(basis, "_limit", lambda device: 0)
    monkeypatch.setattr(basis, "_build_apart", lambda key, device: torch.zeros(key.shape))
    cache = basis.Cache()
    keys = [basis.Key(64, k, False, "ortho", torch.float32, 1, False) for k in (16, 32, 64)]
    meta = torch.device("meta")
    kept = cache.get(keys[0], meta)
    for key in keys:
        cache.get(key, CPU)
    assert cache.get(keys[0], meta) is kept
    assert cache.nbytes == 4 * 64 * (16 + 32 + 64)  # of the CPU's the last two


def test_bases_and_cuda_graphs(monkeypatch):
    """During capture a basis must be there; then it stays, whatever is dropped."""
    capturing = True
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    cuda = torch.device("cuda")
    built = torch.zeros(1, 1, 16, 16)
    monkeypatch.setattr(basis, "_build_apart", lambda key, device: built)
    cache = basis.Cache()
    key = basis.Key(16, 16, False, "ortho", torch.float32, 1, False)
    for missing in (key, basis.Moments(16, 16, "ortho", 16, (1,), 4)):
        with pytest.raises(
            RuntimeError, match="length 16, 16 kept, is not in memory, and cannot be built while a CUDA graph"
        ):
            cache.get(missing, cuda)
    capturing = False
    cache.get(key, cuda)
    capturing = True
    assert cache.get(key, cuda) is built
    cache.clear()
    assert cache.get(key, cuda) is built


@pytest.mark.parametrize("capturing", [False, True])
def test_kernels_that_fail_while_a_graph_is_captured(monkeypatch, capturing):
    class Unloadable:
        def __getitem__(self, grid):
            raise ValueError("operation not permitted")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    words = r"\(operation not permitted\) while a CUDA graph is captured" if capturing else "^operation not permitted$"
    with pytest.raises(RuntimeError if capturing else ValueError, match=words):
        launch.launch(Unloadable(), 1, {})


@pytest.mark.parametrize(
    "key",
    [
        basis.Key(64, 16, False, "ortho", torch.float32, 1, False),
        basis.Moments(1024, 16, "ortho", 32, (2, 1), 8),
    ],
    ids=["basis", "moments"],
)
def test_what_there_is_no_memory_for_is_named(key, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    message = f"cannot allocate .* GiB for the DCT basis of length n = {key.n} with k = 16 kept: out of memory"
    with pytest.raises(RuntimeError, match=message):
        basis.build(key, CPU)


def test_threads_that_want_one_basis_wait_for_it(monkeypatch):
    """It is built once, by a thread of its own on a GPU; and an error there is an error here."""
    built = []

    def slow(key, device):
        time.sleep(0.05)
        built.append(key)
        return torch.zeros(1, 1, 16, 16)

    monkeypatch.setattr(basis, "build", slow)
    cache = basis.Cache()
    key = basis.Key(16, 16, False, "ortho", torch.float32, 1, False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.get(key, CPU), range(8)))
    assert built == [key]
    assert all(each is found[0] for each in found)


class FakeStream:
    """Of a GPU that is not there: knows what was recorded on it, and that it was waited for."""

    def __init__(self, number: int = 7):
        self.cuda_stream, self.waited = number, 0

    def synchronize(self) -> None:
        self.waited += 1


def test_a_basis_for_a_gpu_is_built_by_another_thread_on_its_own_stream(monkeypatch):
    stream, seen = FakeStream(), []

    def build(key, device):
        seen.append(threading.current_thread().name)
        if key.k == 1:
            raise ValueError("no memory")
        return torch.zeros(1, 1, 16, 16)

    monkeypatch.setattr(basis, "build", build)
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda index: made.append(index) or stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(basis, "_build_stream", functools.cache(basis._build_stream.__wrapped__))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    cuda = torch.device("cuda", 0)
    assert basis._build_apart(basis.Key(16, 16, False, "ortho", torch.float32, 1, False), cuda).shape == (1, 1, 16, 16)
    assert (seen, stream.waited) == (["front: DCT basis"], 1)
    with pytest.raises(ValueError, match="no memory"):
        basis._build_apart(basis.Key(16, 1, False, "ortho", torch.float32, 1, False), cuda)
    assert made == [0]  # one stream for all


def test_a_basis_is_recorded_once_on_every_stream_that_reads_it(monkeypatch):
    class Data:
        is_cuda, device, nbytes = True, torch.device("cuda", 0), 4

        def __init__(self):
            self.recorded = []

        def record_stream(self, stream):
            self.recorded.append(stream.cuda_stream)

    entry = basis._Entry(Data())
    for number in (1, 1, 2, 1, 2):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, number=number: FakeStream(number))
        monkeypatch.setattr(basis, "_current_stream", lambda device, number=number: number)
        entry.used()
    assert entry.data.recorded == [1, 2]


def test_what_a_capture_of_lists_needs_is_loaded_before(monkeypatch):
    """Addresses are written by a kernel in a graph, and copied otherwise: the first copy on a device loads it."""
    loaded = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "_addresses_by_kernels", lambda values, device: loaded.append((len(values), device)))

    class OnGpu:
        def __init__(self):
            self.device = torch.device("cuda", 0)

        def data_ptr(self):
            return 4096

        def element_size(self):
            return 4

    class Table:
        def pin_memory(self):
            return self

        def to(self, device, non_blocking):
            return (device, non_blocking)

    monkeypatch.setattr(launch, "_loaded", set())
    monkeypatch.setattr(launch.torch, "tensor", lambda values, dtype: Table())
    for _ in range(2):
        assert launch._addresses([OnGpu(), OnGpu()]) == (torch.device("cuda", 0), True)
    assert loaded == [(1, torch.device("cuda", 0))]


def test_empty_cache_keeps_what_graphs_have_captured(monkeypatch):
    cache = basis.Cache()
    monkeypatch.setattr(basis, "cache", cache)
    kept, other = (basis.Key(16, k, False, "ortho", torch.float32, 1, False) for k in (3, 4))
    data = cache.get(kept, CPU)
    cache.get(other, CPU)
    assert cache._look((kept, CPU), True) is data
    fk.empty_cache()
    assert cache.nbytes == 0
    assert cache.get(kept, CPU) is data
    assert cache._look((other, CPU), False) is None
