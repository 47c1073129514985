"""How the ops behave on a GPU: streams, graphs, synchronisation, memory, repeated runs, autograd, compile, devices."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from on_gpu import GPU, exact, randn, why_skipped
from torch.utils._python_dispatch import TorchDispatchMode

import front_kernels as fk
from compare import relative_error

if reason := why_skipped():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(autouse=True, params=["cuda", "triton"])
def engine(request):
    if request.param not in fk.engines.available():
        pytest.skip(f"the engine {request.param} is not there: {fk.engines.available()} are")
    with fk.set_engine(request.param):
        yield request.param


CALLS = {
    "dct_crop": lambda x: fk.dct_crop(x, (24, 512)),
    "idct_pad": lambda x: fk.idct_pad(x[:24, :512], (96, 1024)),
    "lowpass": lambda x: fk.lowpass(x, (24, 512)),
    "dct_resize": lambda x: fk.dct_resize(x, (48, 96)),
    "dct2_": lambda x: fk.dct2_(x.clone()),
    "dct dim 0": lambda x: fk.dct(x, 24, 0),
    "idct": lambda x: fk.idct(x, 1733),
    "dct_crop_many": lambda x: torch.stack(fk.dct_crop_many([x, x], (24, 512))),
}
every_call = pytest.mark.parametrize("op", CALLS.values(), ids=CALLS.keys())


@every_call
def test_runs_on_the_current_stream(op):
    x = randn(96, 1024)
    expected, late, stream = op(x), torch.zeros_like(x), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # what runs elsewhere is over before `late` has its values
        late.copy_(x)
        got = op(late)
    stream.synchronize()
    assert torch.equal(got, expected)


@every_call
def test_a_graph_gives_new_results_for_new_inputs(op):
    x = randn(96, 1024)
    op(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = op(x)
    for _ in range(3):
        x.copy_(randn(96, 1024))
        graph.replay()
        replayed = result.clone()
        op(randn(96, 1024))  # a call between replays takes nothing that the graph needs
        assert torch.equal(replayed, op(x))


def test_a_graph_is_captured_before_any_other_call(engine):
    """The CUDA engine's kernels can be loaded and tables copied then; products need a call before, and say so."""
    x = randn(104, 1040)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    if engine == "triton":
        with pytest.raises(RuntimeError, match="Call the op once before"), torch.cuda.graph(graph):
            fk.dct_crop(x, (13, 26))
        return
    with torch.cuda.graph(graph):
        result = fk.dct_crop(x, (13, 26))
    x.copy_(randn(104, 1040))
    graph.replay()
    assert torch.equal(result, fk.dct_crop(x, (13, 26)))


@every_call
def test_a_warm_call_does_not_synchronise(op):
    x = randn(96, 1024)
    op(x)
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        op(x)
        done.record()
        assert not done.query(), "the call waited for the GPU"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


@every_call
def test_the_same_bits_every_time(op):
    x = randn(96, 1024)
    expected = op(x)
    assert all(torch.equal(op(x), expected) for _ in range(50))


def test_threads_with_streams_of_their_own():
    xs = [randn(1 + i, 48, 33) for i in range(8)]
    expected = [fk.dct_crop(x, (8, 8)) for x in xs]
    torch.cuda.synchronize()

    def work(i: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            return all(torch.equal(fk.dct_crop(xs[i], (8, 8)), expected[i]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def outside_of_torch() -> int:
    """Bytes that are taken, but not by torch's allocator."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


@pytest.mark.parametrize("name", ["dct_crop", "idct_pad", "lowpass", "dct_crop_", "idct_pad_", "lowpass_"])
def test_extra_memory_is_the_intermediate(name):
    m, n, k = 4096, 4096, 512
    x, y = randn(m, n), randn(k, k)
    op = {
        "dct_crop": lambda: fk.dct_crop(x, k),
        "idct_pad": lambda: fk.idct_pad(y, (m, n)),
        "lowpass": lambda: fk.lowpass(x, k),
        "dct_crop_": lambda: fk.dct_crop_(x, k),
        "idct_pad_": lambda: fk.idct_pad_(x, k),
        "lowpass_": lambda: fk.lowpass_(x, k),
    }[name]
    op()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, outside = torch.cuda.memory_allocated(), outside_of_torch()
    result = op()
    torch.cuda.synchronize()
    own = 0 if name.endswith("_") else result.numel() * 4
    assert torch.cuda.max_memory_allocated() - before - own <= m * k * 4 + (4 << 20)  # a full spectrum has 64 MiB
    assert outside_of_torch() - outside <= 8 << 20


GRADED = {
    "dct_crop": lambda x: fk.dct_crop(x, (8, 8), norm="backward"),
    "idct_pad": lambda x: fk.idct_pad(x, (96, 48), norm="forward"),
    "dct_resize": lambda x: fk.dct_resize(x, (33, 48)),
    "lowpass": lambda x: fk.lowpass(x, (8, 8)),
    "dct dim 0": lambda x: fk.dct(x, 8, 0),
    "dct_crop_many": lambda x: torch.stack(fk.dct_crop_many([x, 2 * x], (8, 8))),
}


@pytest.mark.parametrize("op", GRADED.values(), ids=GRADED.keys())
def test_derivatives(op):
    x = randn(48, 33)
    grads = []
    for leaf in (x.clone().requires_grad_(), x.cpu().requires_grad_()):
        op(leaf).pow(3).sum().backward()
        assert leaf.grad.device == leaf.device
        grads.append(leaf.grad.cpu())
    assert relative_error(grads[0], grads[1]) <= 2e-6
    wide = randn(48, 33, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(op, (wide,), check_forward_ad=True, fast_mode=True)


def test_what_torch_knows_of_a_call(engine):
    """Plain tensors go past the dispatcher, so what it does for them has to be done, and all others must not."""
    x, out, limit = randn(48, 33), torch.zeros(8, 8, device=GPU), 1e-6 if engine == "triton" else 5e-7
    expected = fk.dct_crop(x, (8, 8))
    before = x._version, out._version
    fk.dct_crop(x, (8, 8), out=out)
    assert (x._version, out._version) == (before[0], before[1] + 1)
    assert torch.equal(out, expected)
    changed = x.clone()
    before = changed._version
    fk.lowpass_(changed, (8, 8))
    assert changed._version == before + 1
    with torch.inference_mode():
        found = fk.dct_crop(randn(48, 33), (8, 8))
        assert found.is_inference()
        assert torch.equal(fk.dct_crop(x, (8, 8)), expected)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        assert torch.equal(fk.dct_crop(x, (8, 8)), expected)
    assert any("front.dct_crop" in name for name in seen)
    mapped = torch.vmap(lambda a: fk.dct_crop(a, (8, 8)))(torch.stack([x, 2 * x]))
    assert relative_error(mapped[1], 2 * expected.double()) <= limit
    _, tangent = torch.func.jvp(lambda a: fk.dct_crop(a, (8, 8)), (x,), (3 * x,))
    assert relative_error(tangent, 3 * expected.double()) <= limit


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch.compile needs Triton on a GPU")
def test_compiled_into_a_graph():
    def loss(x: torch.Tensor) -> torch.Tensor:
        return (fk.dct_crop(x * 2, (8, 8)) + 1).square().sum() + fk.idct_pad(x, (96, 48)).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, mode="reduce-overhead")
    for _ in range(5):  # the first calls warm up and record, the others replay
        x = randn(48, 33)
        grads = []
        for function in (compiled, loss):
            leaf = x.clone().requires_grad_()
            torch.compiler.cudagraph_mark_step_begin()
            function(leaf).backward()
            grads.append(leaf.grad.clone())
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_input_is_used():
    x = randn(48, 33)
    other = x.to("cuda:1")
    got = fk.dct_crop(other, (8, 8))  # the current device is the first
    assert got.device == other.device
    assert torch.equal(got.cpu(), fk.dct_crop(x, (8, 8)).cpu())
    with torch.cuda.device(1):
        assert torch.equal(fk.dct_crop(x, (8, 8)).cpu(), got.cpu())


def room(gigabytes: int) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory, {free:.0f} GB are")


M, N = 151936, 14336  # 2^31 + 30.7 million elements; the lengths are test_gpu_ops.py's
POINTS = [(0, 0, 1.0), (140_000, 17, -2.0), (M - 1, N - 1, 3.0), (M - 2, 5, 4.0)]


@pytest.mark.parametrize("k", [(3, 5), (40, 3000)], ids=str)
def test_crop_of_more_than_2_31_elements(k, engine):
    room(12)
    x = torch.zeros(M, N, dtype=torch.bfloat16, device=GPU)
    assert x.numel() > 2**31
    for i, j, value in POINTS:
        x[i, j] = value
    rows, columns = exact(fk.reference.basis, M, k[0]), exact(fk.reference.basis, N, k[1])
    expected = sum(value * torch.outer(rows[:, i], columns[:, j]) for i, j, value in POINTS)
    # A basis of two bfloat16 terms leaves more than float32's rounding.
    limit = 1e-5 if engine == "triton" else 5e-7
    assert relative_error(fk.dct_crop(x, k, out_dtype=torch.float32), expected) <= limit


def test_pad_to_more_than_2_31_elements():
    room(12)
    y = randn(40, 3000)
    out = fk.idct_pad(y, (M, N), out_dtype=torch.bfloat16)
    assert out.numel() > 2**31
    rows, columns = exact(fk.reference.basis, M, 40), exact(fk.reference.basis, N, 3000)
    for where in (slice(0, 50), slice(75_000, 75_050), slice(M - 50, M)):
        expected = rows[:, where].mT @ y.double() @ columns
        assert relative_error(out[where], expected) <= 2.0**-8
