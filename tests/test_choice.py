"""Which engine transforms what on a GPU, and what users are told about it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import front_kernels as fk
from front_kernels import _costs, _settings, engines
from front_kernels.triton import tiles

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.fixture(autouse=True)
def both_engines(monkeypatch):
    """As on a machine that has both."""
    monkeypatch.setattr(_settings, "environment", None)
    missing: dict[str, str] = {}
    absent = engines._absent
    built = fk.build_info() | {"cuda": True}
    monkeypatch.setattr(engines, "_has_triton", lambda: True)
    monkeypatch.setattr(engines._C, "build_info", lambda: built)
    monkeypatch.setattr(engines, "_absent", lambda name, gpu: missing.get(name) or absent(name, gpu))
    engines._forget_choices()
    yield missing
    engines._forget_choices()


def problem(shape, k, dtype, inverse=False, count=1):
    return _costs.Problem(count, shape, k, inverse, dtype, dtype)


# Microseconds on an H200 (docs/GPU.md), forward: of the CUDA kernels and of products. Where a length has a large
# prime factor, or few coefficients of 16-bit numbers are kept, products are the faster ones.
MEASURED = [
    ((8192, 8192), (128, 128), HALF, 99.2, 82.7),
    ((8192, 8192), (256, 256), HALF, 99.6, 384),
    ((30522, 768), (256, 256), HALF, 499, 109),
    ((8192, 8192), (64, 64), SINGLE, 113, 159),
    ((8192, 8192), (256, 256), SINGLE, 116, 382),
    ((8192, 8192), (1024, 1024), SINGLE, 137, 3950),
    ((8192, 8192), (8192, 8192), SINGLE, 774, 57000),
    ((4096, 4096), (512, 512), SINGLE, 42.9, 713),
    ((11008, 4096), (2752, 1024), SINGLE, 146, 4240),
    ((768, 768), (384, 384), SINGLE, 12.8, 47),
    ((3072, 768), (1536, 384), SINGLE, 22.5, 240),
    ((30522, 768), (15261, 384), SINGLE, 806, 10075),
    ((14336, 4096), (3584, 1024), SINGLE, 179, 6345),
]


@pytest.mark.parametrize(("shape", "k", "dtype", "cuda", "triton"), MEASURED)
def test_the_choice_is_the_one_that_was_faster(shape, k, dtype, cuda, triton):
    choice = engines.choose([problem(shape, k, dtype)], engines.H200)
    assert choice.engine == ("cuda" if cuda < triton else "triton")
    assert choice.predicted_us["cuda"] == pytest.approx(cuda, rel=0.35)
    if "triton" in choice.predicted_us and triton < 400:
        assert triton / 3.2 <= choice.predicted_us["triton"] <= 3.2 * triton


# Of the inverse there are no bfloat16 products: what it multiplies second is float32.
TABLE = [
    ((8192, 8192), (64, 64), SINGLE, "cuda", "cuda"),
    ((8192, 8192), (64, 64), HALF, "triton", "cuda"),
    ((8192, 8192), (512, 512), HALF, "cuda", "cuda"),
    ((4096, 4096), (4096, 4096), SINGLE, "cuda", "cuda"),
    ((8192, 8192), (1024, 1024), DOUBLE, "cuda", "cuda"),
    ((50257, 768), (25128, 384), HALF, "cuda", "cuda"),
]


@pytest.mark.parametrize(("shape", "k", "dtype", "forward", "back"), TABLE)
@pytest.mark.parametrize("inverse", [False, True])
def test_the_faster_one_by_the_model(shape, k, dtype, forward, back, inverse):
    expected = back if inverse else forward
    choice = engines.choose([problem(shape, k, dtype, inverse)], engines.H200)
    assert choice.engine == expected
    assert not choice.forced
    assert choice.absent.keys() <= {"triton"}
    assert choice.predicted_us[expected] == min(choice.predicted_us.values())


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (
            problem((1, 1 << 23), (1, 64), SINGLE),
            "its basis for length n = 8388608 with k = 64 kept would take 2.0 GiB (more than 1)",
        ),
        (
            problem((64, 64), (64, 64), SINGLE, count=1 << 20),
            "its partial sums for 1048576 matrices with k = (64, 64) kept would take 16.0 GiB (more than 1)",
        ),
    ],
)
def test_products_that_take_too_much_memory_are_out_where_there_is_another_engine(both_engines, at, message):
    choice = engines.choose([at], engines.H200)
    assert (choice.engine, choice.absent) == ("cuda", {"triton": message})
    assert engines.choose([at], engines.H200, "triton").engine == "triton"
    both_engines["cuda"] = "not built"
    engines._forget_choices()
    assert engines.choose([at], engines.H200).engine == "triton"


def test_a_basis_that_no_memory_holds_says_so():
    from front_kernels.triton import basis

    key = basis.Key(1 << 30, 1 << 29, False, "ortho", SINGLE, 1, False)
    with pytest.raises(RuntimeError, match=r"cannot allocate .* GiB for the DCT basis of length n = 1073741824 with k"):
        basis.build(key, torch.device("cpu"))


def test_the_layout_decides_what_is_folded():
    """Products along the contiguous axis cannot be folded, and are twice as many."""
    rate = _costs.device_named("NVIDIA H200")
    rows = _costs.Problem(1, (8192, 8192), (4096, None), False, SINGLE, SINGLE)
    assert _costs.triton_us(rows._replace(by_columns=True), "highest", rate) == pytest.approx(
        2 * _costs.triton_us(rows, "highest", rate), rel=0.01
    )
    asked = []
    engine_for = engines._engine_for

    def asking(*args):
        asked.append(args[-1])
        return engine_for(*args)

    x = torch.empty(64, 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_engine_for", asking)
        for tensor, dim in ((x, 0), (x, 1), (x.t(), 0), (x.t(), None), (x, None)):
            out = tensor.new_empty(8, 8) if dim is None else tensor
            engines._engine_of("dct", 1, tensor, out, engines.Task(0, "ortho", dim=dim))
    assert asked == [False, True, True, True, False]


def test_small_tiles_and_partial_sums_cost():
    rate = _costs.device_named("NVIDIA H200")
    few, many = (problem((512, 512), (k, k), SINGLE, count=4096) for k in (1, 16))
    assert _costs.triton_us(few, "highest", rate) == pytest.approx(_costs.triton_us(many, "highest", rate), rel=0.05)
    assert _costs._partial_bytes(problem((8192, 8192), (64, 64), SINGLE)) == 132 * 64 * 64 * 4
    assert _costs._partial_bytes(problem((64, 64), (8, 8), SINGLE, count=1000)) == 1000 * 16 * 16 * 4


def test_fast_products_reach_further():
    at = problem((8192, 8192), (64, 64), SINGLE)
    assert engines.choose([at], engines.H200).engine == "cuda"
    with fk.set_precision("fast"):
        assert engines.choose([at], engines.H200).engine == "triton"
    assert engines.choose([at], engines.H200).engine == "cuda"


def test_a_model_close_to_what_was_measured():
    """Medians on an H200, bench/results/gpu_plans.csv, float32: microseconds."""
    device = _costs.device_named("NVIDIA H200")
    for shape, k, inverse, measured in (
        ((8192, 8192), (1024, 1024), False, 139),
        ((8192, 8192), (1024, 1024), True, 140),
        ((4096, 4096), (512, 512), False, 39.5),
        ((11008, 4096), (2752, 1024), False, 147),
        ((8192, 8192), (8192, 8192), False, 735),
    ):
        predicted = _costs.cuda_us(problem(shape, k, SINGLE, inverse), device)
        assert 0.6 * measured <= predicted <= 2 * measured, (shape, k, predicted)


def test_the_order_of_passes_needs_fewer_products():
    forward = problem((1000, 100), (10, 90), SINGLE)
    assert [(p.n, p.k, p.lanes) for p in forward.passes()] == [(1000, 10, 100), (100, 90, 10)]
    inverse = problem((1000, 100), (10, 90), SINGLE, inverse=True)
    assert inverse.passes() == forward.passes()[::-1]


@pytest.mark.parametrize(
    ("n", "dtype", "expected"),
    [
        *((n, SINGLE, "shared") for n in (1, 8192, 11008, 30030, 33000)),
        *((n, SINGLE, "memory") for n in (28125, 65536)),
        *((n, SINGLE, "convolution") for n in (30522, 151936, 6016, 3392, 59 * 64)),
        *((n, DOUBLE, "memory") for n in (28672, 32768)),
        *((n, DOUBLE, "convolution") for n in (11008, 4600)),
    ],
)
def test_how_an_axis_goes_is_the_cuda_engines_own_answer(n, dtype, expected):
    """By the kernels that it launches, and by the cost that is predicted."""
    kind = 2 if dtype == SINGLE else 3
    along = (0, n, n, [1, 1], [kind] * 3, "ortho", 0, 0, [(4096, n, n)], 0, list(_costs._HARDWARE))
    launches, _ = fk._C.cuda_axis_launches(*along)
    name = launches[0]["name"]
    assert ("convolve" in name, "through" in name or "down" in name) == (
        expected == "convolution",
        expected != "shared",
    )
    steps = {"shared": 0, "memory": _costs._THROUGH_MEMORY, "convolution": _costs._CONVOLUTION}[expected]
    assert _costs._steps(n, dtype.itemsize) == steps
    rate = _costs.device_named("NVIDIA H200")
    points = (steps * n or 3 * n) * 4096 * (2 if dtype == DOUBLE else 1)
    axis = _costs.Problem(1, (n, 4096), (n, None), False, dtype, dtype)
    assert _costs.cuda_us(axis, rate) == pytest.approx(points / rate.points + rate.launch_us)


@pytest.mark.parametrize(
    ("shape", "k"), [((6016, 6016), (64, 64)), ((24064, 768), (256, 256)), ((4096, 3392), (64, 64))]
)
def test_products_where_the_other_engine_would_convolve(shape, k):
    assert engines.choose([problem(shape, k, SINGLE)], engines.H200).engine == "triton"
    smooth = tuple(n + n // 47 for n in shape) if shape[0] != 4096 else (4096, 3456)
    assert engines.choose([problem(smooth, k, SINGLE)], engines.H200).engine == "cuda"


def test_axes_that_the_cuda_engine_refuses(both_engines):
    at = problem((1, 1 << 25), (1, 8), SINGLE)
    why = "the CUDA engine transforms axes of at most 16777216 elements, odd ones of at most 8388608; got 33554432"
    choice = engines.choose([at], engines.H200)
    assert (choice.engine, choice.absent) == ("triton", {"cuda": why})
    assert not engines.choose([problem((1, 1 << 24), (1, 8), SINGLE)], engines.H200).absent
    with pytest.raises(NotImplementedError, match="engine 'cuda' was asked for, but the CUDA engine transforms axes"):
        engines.choose([at], engines.H200, "cuda")
    both_engines["triton"] = "gone"
    engines._forget_choices()
    with pytest.raises(NotImplementedError, match=r"\(triton: gone; cuda: the CUDA engine transforms .*\). Or move x"):
        engines.choose([at], engines.H200)


def test_engines_that_are_missing(both_engines):
    at = problem((8192, 8192), (64, 64), SINGLE)
    both_engines["triton"] = "gone"
    choice = engines.choose([at], engines.H200)
    assert (choice.engine, choice.absent) == ("cuda", {"triton": "gone"})
    assert list(choice.predicted_us) == ["cuda"]
    engines._forget_choices()
    both_engines["cuda"] = "not built"
    with pytest.raises(NotImplementedError, match=r"no engine for CUDA tensors \(cuda: not built; triton: gone\)"):
        engines.choose([at], engines.H200)
    assert engines.available() == ()
    del both_engines["triton"]
    assert engines.choose([problem((4096, 4096), (4096, 4096), DOUBLE)], engines.H200).engine == "triton"
    assert engines.available() == ("triton",)


def test_gpus_that_an_engine_is_not_for():
    at = problem((8192, 8192), (1024, 1024), SINGLE)
    amd = engines.choose([at], engines.Gpu("AMD Instinct MI300X", "gfx942", 304, nvidia=False))
    assert (amd.engine, amd.absent) == (
        "triton",
        {"cuda": "it is for NVIDIA's GPUs, and this is an AMD Instinct MI300X"},
    )
    why = "it needs sm_80 or later, and Tesla T4 is sm_75"
    with pytest.raises(NotImplementedError, match=rf"no engine for CUDA tensors \(cuda: {why}; triton: {why}\)"):
        engines.choose([at], engines.Gpu("Tesla T4", "sm_75", 40))


def test_one_is_asked_for(monkeypatch, both_engines):
    at = [problem((8192, 8192), (64, 64), SINGLE)]
    with fk.set_engine("cuda"):
        assert engines.choose(at, engines.H200).engine == "cuda"
        assert engines.choose(at, engines.H200).forced
        assert engines.choose(at, engines.H200, "triton").engine == "triton"
    assert not engines.choose(at, engines.H200).forced
    monkeypatch.setattr(_settings, "environment", "cuda")
    assert engines.choose(at, engines.H200).engine == "cuda"
    with fk.set_engine("triton"):
        assert engines.choose(at, engines.H200).engine == "triton"
    monkeypatch.setattr(_settings, "environment", "cpp")
    with pytest.raises(ValueError, match="FRONT_ENGINE must be 'cuda' or 'triton', got 'cpp'"):
        engines.choose(at, engines.H200)
    monkeypatch.setattr(_settings, "environment", None)
    both_engines["cuda"] = "not built"
    engines._forget_choices()
    with pytest.raises(NotImplementedError, match="engine 'cuda' was asked for, but not built"):
        engines.choose(at, engines.H200, "cuda")


def test_settings_refuse():
    with pytest.raises(ValueError, match="name must be 'cuda' or 'triton', got 'gpu'"):
        fk.set_engine("gpu")
    with pytest.raises(ValueError, match="name must be 'highest' or 'fast', got 'high'"):
        fk.set_precision("high")
    assert (_settings.engine(), _settings.precision()) == (None, "highest")
    fk.set_precision("fast")
    assert _settings.precision() == "fast"
    fk.set_precision("highest")


@pytest.mark.parametrize(
    ("make", "get", "values", "usual"),
    [
        (fk.set_precision, _settings.precision, ("fast", "highest"), "highest"),
        (fk.set_engine, _settings.engine, ("cuda", "triton"), None),
    ],
)
def test_blocks_of_two_threads_end_in_any_order(make, get, values, usual):
    first, second = map(make, values)
    with contextlib.ExitStack() as one, contextlib.ExitStack() as two:
        one.enter_context(first)
        two.enter_context(second)
        one.close()
        assert get() == values[1]
    assert get() == usual


def test_a_setting_is_for_one_block():
    once = fk.set_precision("fast")
    with once:
        assert _settings.precision() == "fast"
    with (
        pytest.raises(RuntimeError, match=r"set_precision: this setting has ended; call set_precision\('fast'\) anew"),
        once,
    ):
        pass
    assert _settings.precision() == "highest"
    again = fk.set_precision("fast")
    with again:
        with pytest.raises(RuntimeError, match="this setting is in use"), again:
            pass
        assert _settings.precision() == "fast"  # until the block ends
    assert _settings.precision() == "highest"


@pytest.mark.parametrize("others", [1, 3])
def test_a_block_counts_though_other_settings_were_made_before_it_began(others):
    first = fk.set_engine("triton")
    for _ in range(others):
        fk.set_engine("cuda")
    with first:
        assert _settings.engine() == "triton"
    assert _settings.engine() == "cuda"
    fk.set_engine(None)
    assert _settings.engine() is None


def test_blocks_that_several_threads_begin_at_once():
    """Each makes its setting before one of them has entered its own."""
    fk.set_engine("cuda")
    blocks = [fk.set_engine("triton") for _ in range(3)]
    for block in blocks:
        block.__enter__()
        assert _settings.engine() == "triton"
    for block in blocks:
        assert _settings.engine() == "triton"
        block.__exit__(None, None, None)
    assert _settings.engine() == "cuda"
    fk.set_engine(None)


@pytest.mark.parametrize(("get", "usual"), [(_settings.engine, None), (_settings.precision, "highest")])
def test_a_setting_that_ends_while_it_is_read(monkeypatch, get, usual):
    """In another thread, which puts a new list in the place of the one that was looked at."""

    class Ending(dict[str, list[object]]):
        def __getitem__(self, key: str) -> list[object]:
            found, self[key] = super().__getitem__(key), []
            return found

    with fk.set_engine("triton"), fk.set_precision("fast"), monkeypatch.context() as patch:
        value = get()
        patch.setattr(_settings, "_made", Ending(_settings._made))
        assert get() == value != usual
        assert get() == usual


@pytest.mark.parametrize(
    ("make", "get", "value", "usual"),
    [
        (fk.set_precision, _settings.precision, "fast", "highest"),
        (fk.set_engine, _settings.engine, "triton", None),
    ],
)
def test_a_setting_counts_in_other_threads(make, get, value, usual):
    """As autograd's, which run backward passes on a GPU."""
    with ThreadPoolExecutor(1) as other:
        with make(value):
            assert other.submit(get).result() == value
        assert other.submit(get).result() == usual


@pytest.mark.parametrize(("value", "expected"), [("triton", "triton"), ("", None), (None, None)])
def test_the_environment_is_read_at_import(monkeypatch, value, expected):
    monkeypatch.delenv("FRONT_ENGINE", raising=False)
    if value is not None:
        monkeypatch.setenv("FRONT_ENGINE", value)
    spec = importlib.util.spec_from_file_location("settings_again", _settings.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    monkeypatch.setenv("FRONT_ENGINE", "cuda")
    assert again.engine() == expected


def test_a_block_within_what_is_set_for_good(monkeypatch):
    monkeypatch.setitem(_settings._made, "engine", [])
    fk.set_engine("cuda")
    for _ in range(3):
        with fk.set_engine("triton"):
            assert _settings.engine() == "triton"
        assert _settings.engine() == "cuda"
    monkeypatch.setattr(_settings, "environment", "triton")
    with fk.set_engine(None):
        assert _settings.engine() is None  # the one that is predicted to be faster
    for _ in range(5):
        fk.set_engine(None)
    assert len(_settings._made["engine"]) <= 2


def test_plan_for_explains():
    plan = fk.plan_for((8192, 8192), 128, HALF, device="cuda")
    assert plan["engine"] == "triton"
    assert set(plan["predicted_us"]) == {"cuda", "triton"}
    crop, add = plan["launches"]
    assert (crop["name"], add["name"]) == ("crop", "add")
    assert plan["workspace_bytes"] == crop["blocks"] * 128 * 128 * 4
    assert plan["text"].startswith("engine triton (cuda: ")
    forced = fk.plan_for((8192, 8192), 128, HALF, device="cuda", engine="cuda")
    assert forced["forced"]
    assert "as asked for" in forced["text"]
    two = fk.plan_for((8192, 4096), 512, SINGLE, device="cuda", engine="triton")
    assert [launch["name"] for launch in two["launches"]] == ["axis_moments", "axis", "add"]
    assert two["workspace_bytes"] == 4 * 512 * (4096 + 2 * 512)


@pytest.mark.parametrize("file", sorted(tiles.CONFIGS.glob("*.json")), ids=lambda file: file.stem)
def test_every_file_of_tiles_is_whole(file):
    entries = json.loads(file.read_text())["tiles"]
    assert {(e["kernel"], e["kind"]) for e in entries} == {
        ("axis", "half"), ("axis", "single"), ("axis", "double"), ("crop", "half"), ("crop", "single"), ("pad", "half"),
        ("pad", "single"), ("axis_moments", "half"), ("axis_moments", "single"),
        ("crop_moments", "single"),
    }  # fmt: skip
    for e in entries:
        tile = tiles.nearest((file.stem,), e["kernel"], e["kind"], tuple(e["size"]))
        assert tile == tiles.Tile(*(e[name] for name in tiles.Tile._fields))
        for size in (tile.rows, tile.terms, tile.lanes, tile.columns):
            assert size == 0 or (size >= 16 and size & (size - 1) == 0)


@pytest.mark.parametrize("side", [8, 48, 256])
def test_tiles_that_bases_are_not_padded_to_are_refused(side, tmp_path):
    entry = json.loads((tiles.CONFIGS / "default.json").read_text())["tiles"][0] | {"terms": side}
    (tmp_path / "a.json").write_text(json.dumps({"tiles": [entry]}))
    with pytest.raises(ValueError, match=f"terms must be a power of two from 16 to 128, or 0, got {side} in"):
        tiles.read(tmp_path / "a.json")


def test_tiles_of_the_nearest_size_and_of_unknown_devices():
    assert tiles.file_for(("NVIDIA Nothing", "sm_90")).name == "sm_90.json"
    assert tiles.file_for(("NVIDIA Nothing", "sm_12")).name == "default.json"
    near = tiles.nearest(("sm_90",), "crop", "half", (9000, 7000, 30))
    assert near == tiles.nearest(("sm_90",), "crop", "half", (8192, 8192, 32))
    with pytest.raises(ValueError, match=r"default.json has no tile for kernel 'crop' of kind 'double'"):
        tiles.nearest(("nothing",), "crop", "double", (1, 1, 1))
