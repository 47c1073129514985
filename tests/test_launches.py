"""Whole state dicts on a GPU that is not there: what is launched for each role, what is read back, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import front_kernels as fk
import front_models
import models
from fake_gpu import FakeGpu, GpuTensor, installed

MIB = 2**20
ENGINES = ("cuda", "triton")
# What is not a transform: statistics, scales, joining. Of a role that is copied into one tensor this is all; a larger
# one takes one or two more kernels per layer, source and target each.
OTHERS = 50


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    with installed():
        yield


def llama(width: int, depth: int, hidden: int, groups: int, vocabulary: int = 128256) -> models.Shapes:
    """Llama's names and shapes; `groups`: width of keys and values."""
    shapes: models.Shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(depth):
        layer = f"model.layers.{i}"
        for word, rows in (("q", width), ("k", groups), ("v", groups), ("o", width)):
            shapes[f"{layer}.self_attn.{word}_proj.weight"] = (rows, width)
        for word, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden))):
            shapes[f"{layer}.mlp.{word}_proj.weight"] = shape
        shapes |= {f"{layer}.input_layernorm.weight": (width,), f"{layer}.post_attention_layernorm.weight": (width,)}
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


LLAMA_8B, LLAMA_1B = llama(4096, 32, 14336, 1024), llama(2048, 16, 8192, 512)


class Roles:
    """A transfer without values, and per role the launches of the engines and of torch."""

    def __init__(self, source: models.Shapes, like: models.Shapes, dtype: torch.dtype, **options: Any) -> None:
        self.gpu = FakeGpu(values=False)
        self.front: dict[str, int] = {}
        self.torch: dict[str, int] = {}

        def count(done: int, total: int, role: str) -> None:
            self.front[role] = sum(self.gpu.front.values()) - sum(self.front.values())
            self.torch[role] = sum(self.gpu.torch.values()) - sum(self.torch.values())

        with self.gpu:
            held = [
                {name: self.gpu.tensor(shape, dtype) for name, shape in shapes.items()} for shapes in (source, like)
            ]
            self.gpu.reset()
            before = self.gpu.live
            self.result, self.report = front_models.transfer(*held, progress=count, **options)
        self.above = self.gpu.peak - before - sum(w.nbytes for w in self.result.values())
        print("launches per role:", {role: (n, self.torch[role]) for role, n in self.front.items()})
        print(f"read back {sum(self.gpu.reads.values())} times; {self.above / MIB:.0f} MiB above source and result")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("depths", [(12, 12), (12, 6), (24, 48), (2, 1), (64, 96)])
def test_a_vision_transformer_takes_at_most_six_launches_per_role(engine: str, depths: tuple[int, int]) -> None:
    """DeiT-B's sizes to DeiT-S's."""
    with fk.set_engine(engine):
        found = Roles(models.vit(768, depths[0]), models.vit(384, depths[1]), torch.float32)
    assert len(found.front) == 20
    assert all(1 <= n <= 6 for n in found.front.values()), found.front
    # At 64 layers the largest roles are more than 256 MiB.
    others = OTHERS + (sum(depths) if depths[0] == 64 else 0)
    assert all(n <= others for n in found.torch.values()), found.torch
    assert found.gpu.reads == {"_to_copy": 1}


@pytest.mark.parametrize("engine", ENGINES)
def test_llama_takes_at_most_six_launches_per_role(engine: str) -> None:
    """The embeddings, 128256 = 167 x 768 long, in one launch through memory."""
    with fk.set_engine(engine):
        found = Roles(LLAMA_8B, LLAMA_1B, torch.bfloat16)
    assert len(found.front) == 12
    assert all(1 <= n <= 6 for n in found.front.values()), found.front
    assert all(n <= OTHERS + 2 * (32 + 16) for n in found.torch.values()), found.torch
    assert found.gpu.reads == {"_to_copy": 1}


def parts(depth: int, source: tuple[int, int], like: tuple[int, int], back: bool) -> int:
    """Of bfloat16 in the CUDA engine: m x k1 of intermediate in float32, of as many bytes at a time as are read and
    written, but 1 to 4 GiB."""
    kept = [min(pair) for pair in zip(source, like, strict=True)]
    m, n = like if back else source
    each, moved = 4 * m * kept[1], 2 * m * n + 4 * kept[0] * kept[1]
    most = min(max(depth * moved, 2**30), 2**32)
    return -(-depth // max(1, most // each))


@pytest.mark.parametrize("depths", [(32, 32), (4, 6), (1, 1)])
def test_intermediates_of_more_than_four_gibibytes_take_two_launches_for_each_part(depths: tuple[int, int]) -> None:
    source, like = (28672, 8192), (14336, 4096)
    shapes = [{f"h.{i}.w": shape for i in range(n)} for n, shape in zip(depths, (source, like), strict=True)]
    with fk.set_engine("cuda"):
        found = Roles(*shapes, torch.bfloat16)
    expected = [parts(depths[0], source, like, False), parts(depths[1], source, like, True)]
    assert expected == {32: [4, 2], 4: [1, 1], 1: [1, 1]}[depths[0]]
    assert list(found.front.values()) == [2 * sum(expected) + (2 if depths[0] > 1 else 0)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_large_role_is_not_copied(engine: str) -> None:
    """Above source and result: the workspace, and twice the kept coefficients."""
    shapes = {f"h.{i}.w": (14336, 4096) for i in range(32)}
    with fk.set_engine(engine):
        found = Roles(shapes, {f"h.{i}.w": (896, 256) for i in range(32)}, torch.bfloat16)
    kept, intermediate = 32 * 896 * 256 * 4, 32 * 14336 * 256 * 4
    assert found.above <= min(intermediate, 2**30 + 2**20 if engine == "cuda" else intermediate) + 2 * kept + MIB
    assert found.above < 32 * 14336 * 4096 * 2 / 4


def test_coefficients_are_held_twice() -> None:
    shapes = {f"h.{i}.w": (4096, 4096) for i in range(32)}
    with fk.set_engine("cuda"):
        found = Roles(shapes, shapes, torch.bfloat16)
    kept = 32 * 4096 * 4096 * 4
    # The workspace is as large as they are, and lies beside one of the two.
    assert found.above <= 2 * kept + 2**30 + MIB


def moved(gpu: FakeGpu, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gpu.tensor(w.clone()) for name, w in state.items()}


def check_values(
    source: dict[str, Tensor], target: dict[str, Tensor], tolerance: float, **options: Any
) -> tuple[FakeGpu, front_models.TransferReport]:
    """transfer, and initialize after extract, are those of the CPU, and so are their reports."""

    def seeded() -> dict[str, Any]:
        return options | ({"generator": torch.Generator().manual_seed(5)} if "depth_fill" in options else {})

    expected, table = front_models.transfer(source, target, **seeded())
    gpu = FakeGpu()
    with gpu:
        there, like = moved(gpu, source), moved(gpu, target)
        found, report = front_models.transfer(there, like, **seeded())
        extraction = {key: options[key] for key in ("keep_ratio", "mlp_axes") if key in options}
        gene = front_models.extract(there, **extraction)
        rest = {key: value for key, value in seeded().items() if key not in extraction}
        again = front_models.initialize(like, gene, **rest)
    for results in (found, like):
        for name, w in expected.items():
            assert isinstance(results[name], GpuTensor)
            assert results[name].dtype == w.dtype
            assert results[name].is_contiguous()
            if w.is_floating_point():
                assert models.error(results[name].inner.double(), w.double()) < tolerance, name
    for rows in (report.rows, again.rows):
        for row, as_on_the_cpu in zip(rows, table.rows, strict=True):
            for key, value in as_on_the_cpu.to_dict().items():
                got = row.to_dict()[key]
                if key == "std_source" and row.action.startswith("left"):
                    continue
                assert got == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), (row.role, key)
    return gpu, report


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shape", "like", "options"),
    [
        ((24, 40), (36, 30), {}),
        ((24, 40), (12, 60), {"gain": "area", "depth_fill": "consistence"}),
        ((24, 40), (24, 40), {"depth_fill": "repeat", "select_n": 2}),
        ((24, 40), (20, 44), {"depth_fill": "zero"}),
        ((30,), (42,), {"gain": "ortho"}),
        ((1, 30), (5, 20), {"keep_ratio": 0.7}),
        ((4, 3, 2, 2), (6, 5, 2, 2), {"depth_fill": "random", "select_n": 3}),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]
)
def test_values_are_those_of_the_cpu(
    engine: str, shape: tuple[int, ...], like: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype,
    tolerance: float,
) -> None:  # fmt: skip
    depth = {"repeat": 4, "zero": 1}.get(options.get("depth_fill", ""), 7)
    source, target = models.stack(5, shape, dtype=dtype), models.stack(depth, like, seed=1, dtype=dtype)
    with fk.set_engine(engine):
        check_values(source, target, tolerance, **options)


@pytest.mark.parametrize("most", [0, 2**20])
def test_whole_models_and_layers_apart(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether roles are copied into one tensor or not."""
    monkeypatch.setattr("front_models._device._STACKED", most)
    for options in ({}, {"mlp_axes": "hidden", "keep_ratio": 0.6}):
        check_values(models.fill(models.vit(16, 3)), models.fill(models.vit(24, 5), 1), 1e-6, **options)


def test_constants_offsets_and_what_is_not_a_number() -> None:
    source, target = models.stack(3, (8, 10), dtype=torch.float32), models.stack(3, (6, 12), 1, torch.float32)
    source["h.1.w"] = torch.full((8, 10), 0.3)
    source["h.2.w"] = source["h.2.w"] + 100.0
    _, report = check_values(source, target, 1e-6)
    assert report.rows[0].action == "transferred"
    source["h.0.w"][0, 0] = float("nan")
    gpu = FakeGpu()
    with gpu:
        result, report = front_models.transfer(moved(gpu, source), moved(gpu, target))
    assert report.rows[0].action.endswith("(NaN or Inf in the source)")
    assert report.rows[0].energy_kept is None
    assert all(w.inner.isnan().all() for w in result.values())


def test_a_result_too_large_for_its_dtype_is_told() -> None:
    source = {name: 1e6 * w for name, w in models.stack(2, (8, 8), dtype=torch.float32).items()}
    gpu = FakeGpu()
    with gpu:
        target = moved(gpu, models.stack(2, (8, 8), 1, torch.float16))
        _, report = front_models.transfer(moved(gpu, source), target)
    assert report.rows[0].action.endswith("(NaN or Inf in the result: its dtype is too small)")


def test_results_share_no_memory() -> None:
    gpu = FakeGpu()
    with gpu:
        source, target = (moved(gpu, models.stack(4, (8, 8), seed, torch.float32)) for seed in (0, 1))
        result, _ = front_models.transfer(source, target)
    assert len({w.untyped_storage()._cdata for w in result.values()}) == 4


def test_the_count_counts() -> None:
    """The fake GPU itself: launches, reads, memory, and ops that it does not know."""
    gpu = FakeGpu()
    with gpu, fk.set_engine("cuda"):
        x = gpu.tensor(torch.randn(8, 8))
        fk.dct_crop(x, 4)
        fk.dct(x.mT, 4)
        assert (gpu.front, gpu.live) == ({"dct_crop": 2, "dct": 1}, 256)
        y = x[2:] + 1
        assert (gpu.torch, gpu.live) == ({"add": 1}, 256 + 192)
        assert y.sum().item() == pytest.approx((x.inner[2:] + 1).sum().item())
        assert gpu.reads == {"_local_scalar_dense": 1}
        torch.ones(8, 8).to(x.device)
        assert gpu.reads["copy from the host"] == 1
        with pytest.raises(AssertionError, match=r"cosh.*how many kernels does it take"):
            x.cosh()
        del y
        assert (gpu.live, gpu.peak) == (256, 256 + 192 + 256)
    with pytest.raises(AssertionError, match="outside of it"):
        x + 1
