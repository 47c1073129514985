"""Starting models of other sizes: against the dense definition, and on known architectures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import scipy.fft
import torch
from torch import Tensor

import front_models
import models

SIZES = [((6, 10), (9, 4)), ((9, 4), (6, 10)), ((8, 8), (8, 8)), ((7,), (12,)), ((3, 2, 3, 3), (5, 2, 2, 2))]
DEPTHS = [(4, 7), (6, 4), (3, 3), (5, 1), (1, 4), (1, 1)]


@pytest.mark.parametrize(
    ("source_depth", "depth", "depth_fill"),
    [(a, b, fill) for a, b in DEPTHS for fill in ("zero", "consistence", "repeat") if fill != "repeat" or b <= a],
)
@pytest.mark.parametrize(("source_shape", "shape"), SIZES)
def test_against_the_dense_definition(source_shape, shape, source_depth, depth, depth_fill) -> None:
    source = models.stack(source_depth, source_shape)
    target = models.stack(depth, shape, seed=1)
    for gain, keep_ratio, select_n in itertools.product((None, "area", "ortho"), (1.0, 0.6), (None, 2)):
        result, _ = models.both_ways(
            source, target, gain=gain, keep_ratio=keep_ratio, select_n=select_n, depth_fill=depth_fill
        )
        expected = models.dense_transfer(
            list(source.values()), shape, depth,
            keep_ratio=keep_ratio, gain=gain, depth_fill=depth_fill, select_n=select_n,
        )  # fmt: skip
        for i, w in enumerate(expected):
            assert models.error(result[f"h.{i}.w"], w) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_comes_back_in_its_dtype(dtype: torch.dtype) -> None:
    source, target = models.stack(4, (12, 20), dtype=dtype), models.stack(6, (16, 10), seed=1, dtype=dtype)
    result, _ = models.both_ways(source, target)
    expected = models.dense_transfer(list(source.values()), (16, 10), 6)
    for i, w in enumerate(expected):
        assert result[f"h.{i}.w"].dtype == dtype
        # Computed in float32, rounded once.
        assert models.error(result[f"h.{i}.w"], w) < max(1e-6, 0.6 * torch.finfo(dtype).eps)


def test_dtypes_of_source_and_target_may_differ() -> None:
    source = models.stack(2, (6, 6), dtype=torch.bfloat16)
    result, _ = models.both_ways(source, models.stack(2, (4, 4), dtype=torch.float64))
    assert result["h.0.w"].dtype == torch.float64
    assert models.error(result["h.1.w"], models.dense_transfer(list(source.values()), (4, 4), 2)[1]) < 1e-6


@pytest.mark.parametrize(("axis", "first"), [(0, "mlp.fc1"), (1, "mlp.c_fc")])
def test_hidden_axis_only(axis: int, first: str) -> None:
    second = first.replace("c_fc", "c_proj").replace("fc1", "fc2")

    def build(dim: int, hidden: int, seed: int) -> dict[str, Tensor]:
        shapes: models.Shapes = {}
        for i in range(3):
            shape = (hidden, dim) if axis == 0 else (dim, hidden)
            shapes |= models.norm(f"h.{i}.ln_1", dim)
            shapes |= {f"h.{i}.{first}.weight": shape, f"h.{i}.{first}.bias": (hidden,)}
            shapes |= {f"h.{i}.{second}.weight": shape[::-1], f"h.{i}.{second}.bias": (dim,)}
        return models.fill(shapes, seed, torch.float64)

    source, target = build(6, 16, 0), build(8, 10, 1)
    result, _ = models.both_ways(source, target, mlp_axes="hidden", keep_ratio=0.7, gain="area")
    for name, axes in ((first, (axis == 0, axis == 1)), (second, (axis == 1, axis == 0))):
        layers = [source[f"h.{i}.{name}.weight"] for i in range(3)]
        shape = tuple(target[f"h.0.{name}.weight"].shape)
        expected = models.dense_transfer(layers, shape, 3, keep_ratio=0.7, axes=axes, gain="area")
        for i in range(3):
            assert models.error(result[f"h.{i}.{name}.weight"], expected[i]) < 1e-12
    bias = models.dense_transfer(
        [source[f"h.{i}.{first}.bias"] for i in range(3)], (10,), 3, keep_ratio=0.7, gain="area"
    )
    assert models.error(result[f"h.1.{first}.bias"], bias[1]) < 1e-12


@pytest.mark.parametrize(("gain", "norm"), [(None, "backward"), ("area", "forward"), ("ortho", "ortho")])
@pytest.mark.parametrize("size", [(5, 14), (11, 4), (9, 8)])
def test_gains_are_scipys_norms(gain, norm: str, size: tuple[int, int]) -> None:
    w = torch.randn(9, 8, dtype=torch.float64) + 2
    result, _ = models.both_ways({"w": w}, {"w": torch.empty(size, dtype=torch.float64)}, gain=gain)
    coefficients = scipy.fft.dctn(((w - w.mean()) / w.std()).numpy(), norm=norm)
    padded = torch.zeros(size, dtype=torch.float64).numpy()
    rows_kept, columns_kept = min(9, size[0]), min(8, size[1])
    padded[:rows_kept, :columns_kept] = coefficients[:rows_kept, :columns_kept]
    expected = torch.from_numpy(scipy.fft.idctn(padded, norm=norm)) * w.std() + w.mean()
    assert models.error(result["w"], expected) < 1e-7  # std + 1e-8 divides, std multiplies


def test_same_size_gives_the_source_back() -> None:
    source = models.fill(models.vit(8, 3), dtype=torch.float64)
    for gain in (None, "area", "ortho"):
        result, report = models.both_ways(source, models.fill(models.vit(8, 3), 5, torch.float64), gain=gain)
        assert all(models.error(result[name], source[name]) < 1e-6 for name in source)
        assert all(row.energy_kept == pytest.approx(1, abs=1e-6) for row in report.rows)


def test_random_slots_have_the_kept_blocks_statistics() -> None:
    source, depth = models.stack(2, (40, 50)), 6
    for w in source.values():
        # A spike in the first corner makes all coefficients large and of one sign: their mean is far from 0.
        w.mul_(0.02)[0, 0] = 30
    target = models.stack(depth, (30, 40), seed=1)
    result, _ = models.both_ways(source, target, seed=3, depth_fill="random", keep_ratio=0.9)
    zero, _ = front_models.transfer(source, target, keep_ratio=0.9)
    mean = [source[f"h.{min(i, 1)}.w"].mean() for i in range(depth)]
    std = [source[f"h.{min(i, 1)}.w"].std() for i in range(depth)]

    def standardised(state: dict[str, Tensor]) -> Tensor:
        return torch.stack([(state[f"h.{i}.w"] - mean[i]) / std[i] for i in range(depth)])

    def slots(state: dict[str, Tensor]) -> Tensor:
        blocks = models.cosines(30) @ standardised(state) @ models.cosines(40).T
        return torch.tensordot(models.cosines(depth), blocks, 1)

    drawn, plain = slots(result), slots(zero)
    kept = models.dense_coefficients(list(source.values()), 0.9, (True, True))
    assert models.error(drawn[:2], plain[:2]) < 1e-10
    assert plain[2:].abs().max() < 1e-8
    noise = drawn[2:]
    count = noise.numel()
    assert abs(kept.mean()) > 0.2 * kept.std()
    assert abs(noise.mean() - kept.mean()) < 4 * kept.std() / math.sqrt(count)
    assert noise.std() == pytest.approx(kept.std().item(), rel=4 / math.sqrt(2 * count))
    # Each slot its own draw.
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.15
    # The gain is for the drawn slots too.
    gained, _ = models.both_ways(source, target, seed=3, depth_fill="random", keep_ratio=0.9, gain="area")
    assert models.error(standardised(gained), standardised(result) * (30 / 36) * (40 / 45)) < 1e-12


def test_random_is_reproduced_by_its_generator() -> None:
    source, target = models.stack(2, (6, 8)), models.stack(5, (8, 8))

    def run(seed: int) -> Tensor:
        return front_models.transfer(
            source, target, depth_fill="random", generator=torch.Generator().manual_seed(seed)
        )[0]["h.3.w"]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    torch.manual_seed(5)
    first, _ = front_models.transfer(source, target, depth_fill="random")
    torch.manual_seed(5)
    second, _ = front_models.transfer(source, target, depth_fill="random")
    assert torch.equal(first["h.3.w"], second["h.3.w"])


def test_depth_false_matches_layers_by_name() -> None:
    source, target = models.stack(3, (6, 6)), models.stack(5, (4, 8), seed=1)
    result, report = models.both_ways(source, target, depth=False)
    for i in range(3):
        assert models.error(result[f"h.{i}.w"], models.dense_transfer([source[f"h.{i}.w"]], (4, 8), 1)[0]) < 1e-12
    for i in (3, 4):
        assert torch.equal(result[f"h.{i}.w"], target[f"h.{i}.w"])
        assert models.rows(report)[f"h.{i}.w"].action == "left: the source has no such role"


@pytest.mark.parametrize("deep_side", ["source", "target"])
def test_a_single_layer_on_one_side_of_a_mixture_of_experts(deep_side: str) -> None:
    one = models.fill(models.mixture(8, 1, experts=3), dtype=torch.float64)
    many = models.fill(models.mixture(12, 4, experts=3), 1, torch.float64)
    source, target = (many, one) if deep_side == "source" else (one, many)
    result, report = models.both_ways(source, target)
    name = "model.layers.{}.mlp.experts.2.up_proj.weight"
    assert models.rows(report)[name].source_depth == (4 if deep_side == "source" else 1)
    layers = [source[n] for i in range(4) if (n := name.replace("{}", str(i))) in source]
    depth = 1 if deep_side == "source" else 4
    shape = tuple(target[name.replace("{}", "0")].shape)
    for i, w in enumerate(models.dense_transfer(layers, shape, depth)):
        assert models.error(result[name.replace("{}", str(i))], w) < 1e-11


def test_positions_that_repeat_on_one_side_only_are_matched_by_name() -> None:
    source = {n: w.detach().double() for n, w in models.mlp(4, 4, 4).state_dict().items()}
    target = {n: w.detach().double() for n, w in models.mlp(4, 6, 3).state_dict().items()}
    for a, b in ((source, target), (target, source)):
        result, report = models.both_ways(a, b)
        for name in b:
            expected = models.dense_transfer([a[name]], tuple(b[name].shape), 1)[0]
            assert models.error(result[name], expected) < 1e-7
            assert models.rows(report)[name].source_depth == 1


def test_statistics_follow_the_layer_and_then_the_last() -> None:
    source = {f"h.{i}.w": torch.full((3, 3), float(i)) for i in range(3)}
    result, _ = models.both_ways(source, models.stack(5, (2, 4), dtype=torch.float32))
    assert [result[f"h.{i}.w"].unique().tolist() for i in range(5)] == [[0.0], [1.0], [2.0], [2.0], [2.0]]


def test_layers_are_taken_in_numerical_order() -> None:
    source = {f"h.{i}.w": torch.full((2, 2), float(i)) for i in (10, 9, 1, 0)}
    result, _ = models.both_ways(source, {f"h.{i}.w": torch.zeros(2, 2) for i in (3, 2, 1, 0)})
    assert [result[f"h.{i}.w"][0, 0].item() for i in range(4)] == [0, 1, 9, 10]


PAIRS = {
    "bert": (lambda: models.bert(16, 3), lambda: models.bert(24, 5, mlp_size=80, heads=3)),
    "gpt2": (lambda: models.gpt2(16, 3), lambda: models.gpt2(24, 2)),
    "llama": (lambda: models.llama(16, 4), lambda: models.llama(32, 2)),
    "t5": (lambda: models.t5(16, 2), lambda: models.t5(24, 3)),
}


@pytest.mark.parametrize("mlp_axes", ["both", "hidden"])
@pytest.mark.parametrize("name", PAIRS)
def test_module_and_state_dict_agree_and_every_weight_is_transferred(name: str, mlp_axes: Any) -> None:
    source, target = (make() for make in PAIRS[name])
    parameters = dict(target.named_parameters())
    result, report = front_models.transfer(source, target, mlp_axes=mlp_axes)
    like = {n: w.detach().clone() for n, w in target.state_dict().items()}
    from_dicts, _ = front_models.transfer(source.state_dict(), like, mlp_axes=mlp_axes)
    assert all(torch.equal(target.state_dict()[n], w) for n, w in like.items())
    assert not any(w.requires_grad for w in result.values())
    in_place = front_models.initialize(target, front_models.extract(source, mlp_axes=mlp_axes))
    assert list(result) == list(target.state_dict())
    for n, w in target.state_dict().items():
        assert models.error(w, result[n]) < 1e-5, n
        assert torch.equal(result[n], from_dicts[n]), n
    for n, p in target.named_parameters():
        assert p is parameters[n]
        assert p.requires_grad
    assert {row.action.split(":")[0] for row in report.rows} <= {"transferred", "tied"}
    assert [row.action for row in report.rows] == [row.action for row in in_place.rows]
    assert all(bool(torch.isfinite(w).all()) for w in result.values())


def test_every_family_role_agrees_with_the_dense_definition() -> None:
    source = models.fill(models.vit(8, 3), dtype=torch.float64)
    target = models.fill(models.vit(12, 5), 1, torch.float64)
    result, report = models.both_ways(source, target, gain="ortho")
    for row in report.rows:
        layers = [row.role.replace("{}", str(i)) for i in range(row.target_depth)]
        origin = [row.role.replace("{}", str(i)) for i in range(row.source_depth or 0)]
        expected = models.dense_transfer([source[n] for n in origin], row.target_shape, row.target_depth, gain="ortho")
        for n, w in zip(layers, expected, strict=True):
            assert models.error(result[n], w) < 1e-11, n


def test_what_cannot_be_called_is_refused_before_anything_is_written() -> None:
    source, target = models.stack(2, (4, 4)), models.stack(2, (6, 6), seed=1)
    before = {name: value.clone() for name, value in target.items()}
    gene = front_models.extract(source)
    for call in (
        lambda: front_models.initialize(target, gene, progress=3),
        lambda: front_models.extract(source, progress=3),
        lambda: front_models.transfer(source, target, progress=3),
    ):
        with pytest.raises(TypeError, match=r"^progress: got 3; allowed are None and a function"):
            call()
    assert all(torch.equal(target[name], before[name]) for name in target)


OPTIONS: list[dict[str, Any]] = [
    {}, {"depth_fill": "repeat"}, {"depth_fill": "random", "seed": 3}, {"depth_fill": "consistence"}
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_default_device_plays_no_part(options: dict[str, Any]) -> None:
    """As after torch.set_default_device("cuda")."""
    source, target = models.stack(3, (6, 10)), models.stack(2, (9, 4), seed=1)
    deeper = models.stack(5, (9, 4), seed=2)
    expected, _ = models.both_ways(source, target, **options)
    seen = []
    with torch.device("meta"):
        found, _ = models.both_ways(source, target, **options)
        front_models.transfer(source, target, progress=lambda *_: seen.append(torch.empty(1).device.type))
        front_models.transfer(source, deeper, depth_fill="random")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert set(seen) == {"meta"}  # but in what is the caller's


@pytest.mark.parametrize("recipe", ["aligned", "paper"])
def test_the_default_device_plays_no_part_in_recipes(recipe: str) -> None:
    heads = {"heads": 2} if recipe == "aligned" else {}
    source, target = ({name: v.detach() for name, v in models.gpt2(n).state_dict().items()} for n in (16, 8))
    expected, _ = front_models.transfer(source, target, recipe=recipe, **heads)
    rotated, _ = front_models.align(source, heads=2)
    with torch.device("meta"):
        found, _ = front_models.transfer(source, target, recipe=recipe, **heads)
        again, _ = front_models.align(source, heads=2)
        front_models.compare(source, target, heads=2)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(again[name], rotated[name]) for name in rotated)


def test_the_default_device_is_that_of_the_callers_code() -> None:
    """Of the data, and of a model's forward pass."""
    model, seen = models.gpt2(), []

    def data() -> Any:
        seen.append(torch.empty(1).device.type)
        yield torch.arange(5, device="cpu")[None]

    model.register_forward_pre_hook(lambda *_: seen.append(torch.empty(1).device.type))
    with torch.device("meta"):
        front_models.align(model, basis="activations", data=data())
    assert seen == ["meta", "meta"]


def test_buffers_of_parametrizations_stay() -> None:
    parametrizations = torch.nn.utils.parametrizations
    source, target = (
        torch.nn.Sequential(
            parametrizations.orthogonal(torch.nn.Linear(n, n)), parametrizations.spectral_norm(torch.nn.Linear(n, n))
        ).eval()
        for n in (8, 12)
    )
    with torch.no_grad():  # a base of its own
        source[0].weight = torch.linalg.qr(torch.randn(8, 8))[0]
    buffers = {name: value.clone() for name, value in target.named_buffers()}
    assert {name.rpartition(".")[2] for name in buffers} == {"base", "_u", "_v"}
    new, report = front_models.transfer(source, target)
    target.load_state_dict(new)
    assert all(torch.equal(value, buffers[name]) for name, value in target.named_buffers())
    torch.testing.assert_close(target[0].weight @ target[0].weight.T, torch.eye(12), rtol=1e-5, atol=1e-5)
    assert "parametrizations.weight.original" in str(
        [row.role for row in report.rows if row.action.startswith("transferred")]
    )


def test_modules_without_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"^source: tensor '1\.weight' has no shape before the first forward pass"):
        front_models.extract(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LazyLinear(4)))


@pytest.mark.parametrize("skip", [None, 3])
def test_skip_is_a_collection(skip: Any) -> None:
    with pytest.raises(TypeError, match=rf"^skip: got {skip}; allowed is a collection of strings"):
        front_models.extract(models.stack(1, (4, 4)), skip=skip)
