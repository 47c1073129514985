"""The CUDA engine's planner: pure host data, so it is tested as a table. No GPU plays a part."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

import front_kernels as fk
from emulate import H200
from front_kernels import _C

A100 = [108, 163 << 10, 164 << 10]
RTX4090 = [128, 99 << 10, 100 << 10, 0, 1536]
B200 = [148, 227 << 10, 228 << 10, 48]
REGISTERS = 65536
MANY = 8192  # lanes


def plan(
    n: int, kept: int, *, real_bytes: int = 4, lanes: int = MANY, hardware: list[int] = H200, fours: int = 0
) -> dict:
    return _C.cuda_axis_plan(n, kept, real_bytes, lanes, hardware, fours)


def primes(n: int) -> list[int]:
    found, p = [], 2
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p = p + 1 if p * p <= n else n
    return found


# What runs natively, and how. A change of this table is a change of what users run: look before you accept it.
@pytest.mark.parametrize(
    ("n", "kept", "radices"),
    [(1, 1, [1]), (2, 2, [1]), (16, 16, [8]), (192, 192, [16, 6]), (768, 384, [16, 4, 6]), (1024, 512, [16, 8, 4]),
     (4096, 512, [16, 16, 8]), (8192, 1024, [16, 16, 16]), (11008, 2752, [16, 43, 8]), (14336, 3584, [16, 32, 14]),
     (18944, 18944, [16, 37, 16]), (28672, 7168, [16, 16, 7, 8]), (32768, 32768, [16, 16, 16, 4]), (27, 27, [3, 9])],
)  # fmt: skip
def test_radices(n, kept, radices):
    assert sorted(plan(n, kept)["radices"]) == sorted(radices)


@pytest.mark.parametrize("hardware", [H200, A100, RTX4090, B200], ids=["H200", "A100", "RTX 4090", "B200"])
@pytest.mark.parametrize("real_bytes", [4, 8])
@pytest.mark.parametrize("fours", [0, 1, 2])
def test_plans_fit_the_device(hardware, real_bytes, fours):
    lengths = [*range(1, 200), *range(200, 32769, 197), 11008, 13824, 14336, 18944, 28672, 32768]
    native = 0
    for n in lengths:
        points = n // 2 if n % 2 == 0 else n
        for kept in {n, max(1, n // 2), max(1, n // 9)}:
            for lanes in (1, 100, MANY):
                p = plan(n, kept, real_bytes=real_bytes, lanes=lanes, hardware=hardware, fours=fours)
                if not p["radices"]:
                    continue
                native += 1
                assert math.prod(p["radices"]) == points
                assert p["shared_bytes"] <= hardware[1]
                assert p["threads"] == p["together"] * p["threads_per_lane"] <= 1024
                assert p["lanes"] % p["together"] == 0
                assert not p["overlaid"] or p["lanes"] == p["together"]
                assert kept <= n // p["share"]
                blocks, warps = p["blocks_per_multiprocessor"], -(-p["threads"] // 32)
                assert blocks * (p["shared_bytes"] + 1024) <= hardware[2]
                assert blocks * warps * 32 * p["registers"] <= REGISTERS
                assert blocks * warps * 32 <= (hardware[4] if len(hardware) > 4 else 2048)
    assert native > 500


def test_every_smooth_length_of_16384_points_is_native_in_float32():
    """Up to 16384 points (an even length has half as many as elements), which threads hold in registers between two
    barriers, and some odd lengths up to 20625: primes up to 13, and one of up to 43. Several large ones can want more
    registers than there are, and then go through memory, as every larger prime does."""
    through_memory = smooth = 0
    for n in range(1, 32769):
        points = n // 2 if n % 2 == 0 else n
        large = [p for p in primes(points) if p > 13]
        if large and n > 3000 and n % 53:
            continue
        found = bool(plan(n, n)["radices"])
        if max(large, default=1) > 43:
            assert not found, n
        elif points <= 16384 and len(large) <= 1:
            assert found, n
            smooth += not large
        else:
            assert not found or points <= 20625, n
        through_memory += not found
    assert through_memory > 100
    assert smooth > 1000


def test_every_smooth_length_of_6200_points_is_native_in_float64():
    """Longer ones up to 8192 points too, but for a few with odd factors only, which want more registers."""
    missing = []
    for n in [*range(1, 16385, 2), *range(2, 16385, 2)]:
        points = n // 2 if n % 2 == 0 else n
        if points <= 8192 and max(primes(points), default=1) <= 13:
            found = bool(plan(n, n, real_bytes=8)["radices"])
            assert found or points > 6200, n
            missing += [] if found else [points]
    assert len(missing) == 30


@pytest.mark.parametrize(("kept", "blocks"), [(1, 4), (1024, 4), (2048, 3), (4096, 1), (8192, 1)])
def test_blocks_of_8192_on_a_multiprocessor(kept, blocks):
    """Along rows. Where much is kept there is one block, of four lanes and 16 warps: as fast as two of two lanes."""
    p = plan(8192, kept, fours=1)
    assert p["blocks_per_multiprocessor"] == blocks
    assert blocks * p["threads"] >= 256


@pytest.mark.parametrize(("kept", "lanes"), [(1024, 1024), (8192, 8192)])
def test_four_lanes_of_8192_share_a_block_along_columns(kept, lanes):
    """Measured 1.7 times as fast as two blocks of two lanes: what is moved in fours is then moved in whole sectors."""
    assert plan(8192, kept, lanes=lanes, fours=2)["together"] == 4


def test_few_lanes_have_small_blocks():
    for lanes in (1, 2, 3):
        assert plan(768, 768, lanes=lanes)["lanes"] <= max(2, lanes)


def test_launches_per_op():
    """Two for a crop or a pad, three for a low-pass, for as many matrices as a launch can be told of: 128."""
    for direction, count in ((0, 2), (1, 2), (2, 3)):
        for matrices in (1, 128, 129):
            ins, outs = [256 * (i + 1) for i in range(matrices)], [1 << 40 | 256 * i for i in range(matrices)]
            found, _ = _C.cuda_matrix_launches(
                direction, [768, 768, 384, 384, 768, 768], [768, 1, 768, 1], [2, 2, 2], "ortho", ins, outs, [], 0, H200
            )
            assert len(found) == count * (2 if matrices > 128 else 1)


def test_workspace_is_one_intermediate():
    """M x k1 float32, for the in-place forms too, and for batches not more than it takes to fill the cache."""
    for direction in (0, 1, 2):
        sizes, strides = [4096, 2048, 512, 256, 4096, 2048], [2048, 1, 2048, 1]
        args = (direction, sizes, strides, [2, 2, 2], "ortho", [256], [256])
        assert _C.cuda_matrix_launches(*args, [], 0, H200)[1] == 4 * 4096 * 256
        assert _C.cuda_matrix_launches(*args, [(100, 1 << 23, 1 << 23)], 0, H200)[1] <= 32 << 20


# By dtype and multiprocessors: lengths that take four launches. Threads would have to hold more than registers do; in
# double even a little more spills.
APART = {(2, 132): set(), (2, 108): set(), (2, 148): {27648}, (3, 132): {13824, 18432}, (3, 108): {13824, 18432},
         (3, 148): set()}  # fmt: skip
LENGTHS = (768, 1536, 3072, 4096, 8192, 11008, 13824, 14336, 18432, 18944, 24320, 27648, 28672, 30720)


@pytest.mark.parametrize(("kind", "real_bytes"), [(2, 4), (3, 8)])
@pytest.mark.parametrize("hardware", [H200, A100, B200])
def test_a_low_pass_of_any_native_length_is_three_launches(hardware, kind, real_bytes):
    """Columns forth and back in one: no k0 x k1 coefficients in memory, none in the workspace."""
    apart = set()
    for n in LENGTHS:
        if not _C.cuda_axis_plan(n, n, real_bytes, 8192, hardware, 2)["radices"]:
            continue
        for share in (1, 2, 8):
            k = n // share
            sizes, strides = [n, 768, k, 384, n, 768], [768, 1, 768, 1]
            args = (2, sizes, strides, [kind] * 3, "ortho", [256], [1 << 40], [], 0, hardware)
            launches, workspace = _C.cuda_matrix_launches(*args)
            if len(launches) == 3:
                assert workspace == real_bytes * n * 384
            else:
                apart.add(n)
    assert apart == APART[kind, hardware[0]]


@pytest.mark.parametrize("n", [(1 << 24) + 2, (1 << 23) + 1, 1 << 26])
def test_too_long_an_axis_is_refused(n):
    with pytest.raises(ValueError, match=rf"at most 16777216 elements, odd ones of at most 8388608; got {n}"):
        _C.cuda_axis_launches(0, n, 8, [1, 1], [2, 2, 2], "ortho", 0, 0, [], 0, H200)
    with pytest.raises(ValueError, match=rf"got {n}"):
        _C.cuda_matrix_launches(2, [n, 8, 8, 8, n, 8], [8, 1, 8, 1], [2, 2, 2], "ortho", [0], [8], [], 0, H200)


@pytest.mark.parametrize("real_bytes", [4, 8])
@pytest.mark.parametrize("hardware", [H200, A100, RTX4090, [40, 64 << 10, 64 << 10]])
@pytest.mark.parametrize("n", [94, 50257, (1 << 22) - 1, (1 << 23) - 1, (1 << 24) - 2, 1 << 24])
def test_axes_through_memory_have_a_plan_or_an_error(n, hardware, real_bytes):
    sequence = n // 2 if n % 2 == 0 else n
    if hardware[1] < 100 << 10 and sequence > 1 << 20:  # a step of 8192 points may be too long
        with contextlib.suppress(ValueError):
            assert _C.cuda_large_plan(n, real_bytes, hardware)["shared_bytes"] <= hardware[1]
        return
    found = _C.cuda_large_plan(n, real_bytes, hardware)
    assert found["shared_bytes"] <= hardware[1]
    length = found["rows"] * found["columns"]
    assert length == sequence or (found["convolve"] and length >= 2 * sequence - 1)


def test_a_step_that_does_not_fit_is_an_error():
    with pytest.raises(
        ValueError, match=r"a step of an axis of 8388607 elements does not fit this GPU's shared memory"
    ):
        _C.cuda_large_plan((1 << 23) - 1, 8, [40, 32 << 10, 32 << 10])


def test_plan_for():
    found = fk.plan_for((8192, 8192), 1024, device="cuda")
    assert [launch["name"].split("_")[1] for launch in found["launches"]] == ["forward", "forward"]
    assert found["workspace_bytes"] == 4 * 8192 * 1024
    assert found["compute_dtype"] == torch.float32
    assert found["launches"][0]["name"] in found["text"]
    back = fk.plan_for((30522, 768), (256, 256), torch.float64, inverse=True, device="cuda:0", engine="cuda")
    assert back["compute_dtype"] == torch.float64
    assert "pack" in back["text"]
    with pytest.raises(ValueError, match="device must be a CPU or CUDA device, got meta"):
        fk.plan_for((8, 8), device="meta")


def test_sources_are_written_for_kernels_that_are_launched():
    """Of a length that no other test has, so that its plans are new here."""
    written = _C.cuda_kernels_written()

    def new() -> int:
        nonlocal written
        before, written = written, _C.cuda_kernels_written()
        return written - before

    def forward_and_back(direction: int) -> None:
        _C.cuda_axis_launches(direction, 1716, 1716, [1, 1], [2] * 3, "ortho", 64, 64, [(9, 1716, 1716)], 0, H200)

    forward_and_back(0)
    assert new() == 1
    forward_and_back(0)
    assert new() == 0
    forward_and_back(1)
    assert new() == 1
    sizes, strides = (26, 1716, 13, 858), (1716, 1, 1716, 1)
    for kinds, kernels in (((2, 2, 2), 4), ((1, 2, 1), 1), ((1, 2, 2), 1), ((1, 2, 2), 0)):
        _C.cuda_spectral_launches(sizes, strides, kinds, [64], [64], (0.0, 0.0), True, 1.0, 64, 0, H200)
        # Along rows one forth and one back, of which the latter is for two types; along columns the same.
        assert new() == kernels, kinds


@pytest.mark.parametrize("hardware", [H200, A100, B200, RTX4090], ids=["H200", "A100", "B200", "RTX4090"])
@pytest.mark.parametrize("real_bytes", [4, 8])
def test_many_lanes_through_memory_take_one_launch(hardware, real_bytes):
    """Where each block has four lanes at least, they are more than are in the cache at once, and their points at most
    1 GiB; else each step is a launch, of as many lanes as are."""
    kind = 2 if real_bytes == 4 else 3

    def planned(n: int, lanes: int) -> tuple[list[str], int]:
        launches, size = _C.cuda_axis_launches(
            0, n, n, [1, 1], [kind] * 3, "ortho", 64, 64, [(lanes, n, n)], 0, hardware
        )
        return [launch["name"].split("_")[1] for launch in launches], size

    for n in (50257, 65536):
        plan = _C.cuda_large_plan(n, real_bytes, hardware)
        blocks = plan["loop_blocks"] * hardware[0]
        assert blocks
        lane_bytes = 2 * real_bytes * plan["rows"] * plan["columns"]
        at_once = max(1, (hardware[0] << 19) // lane_bytes)
        assert planned(n, 4 * blocks) == (["through"], blocks * lane_bytes)
        names, size = planned(n, 4 * blocks - 1)
        assert len(names) == (5 if plan["convolve"] else 4) * -(-(4 * blocks - 1) // at_once)
        assert size == at_once * lane_bytes
    for n in (128256, 151936) if real_bytes == 4 else (128256,):
        assert planned(n, 2048)[0] == ["through"]
    assert len(planned(94, 4096)[0]) == 5  # all points in the cache
