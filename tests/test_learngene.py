"""The learngene: its coefficients and statistics, and the file that holds it."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import front_models
import models
from front_models import Learngene, _learngene


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def assert_same_gene(a: Learngene, b: Learngene) -> None:
    assert (a.keep_ratio, a.mlp_axes, a.depth, a.skip, a.ties) == (b.keep_ratio, b.mlp_axes, b.depth, b.skip, b.ties)
    assert list(a.roles) == list(b.roles)
    for template, one in a.roles.items():
        other = b.roles[template]
        for field in dataclasses.fields(one):
            x, y = getattr(one, field.name), getattr(other, field.name)
            assert same_bits(x, y) if isinstance(x, Tensor) else (x == y and type(x) is type(y)), field.name


def test_coefficients_are_unscaled_cosine_sums() -> None:
    w = torch.randn(6, 10, dtype=torch.float64)
    role = front_models.extract({"w": w}).roles["w"]
    x = (w - w.mean()) / (w.std() + 1e-8)
    expected = models.cosines(6) @ x @ models.cosines(10).T
    assert models.error(role.coefficients[0], expected) < 1e-14
    scipys = torch.from_numpy(scipy.fft.dctn(x.numpy(), norm="backward"))
    assert models.error(4 * role.coefficients[0], scipys) < 1e-14


@pytest.mark.parametrize(
    ("dtype", "computed", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-13),
        (torch.float32, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-6),
    ],
)
def test_stacked_layers_of_every_dtype(dtype: torch.dtype, computed: torch.dtype, tolerance: float) -> None:
    layers = [torch.randn(6, 9).mul(0.1).add(0.3 * i).to(dtype) for i in range(5)]
    state = {f"h.{i}.w": w for i, w in enumerate(layers)}
    role = front_models.extract(state, keep_ratio=0.7).roles["h.{}.w"]
    assert role.coefficients.dtype == computed
    assert (role.kept, role.depth, role.matrix) == ((4, 6), 5, (6, 9))
    expected = models.dense_coefficients(layers, 0.7, (True, True))
    assert models.error(role.coefficients, expected) < tolerance
    for i, w in enumerate(layers):
        assert math.isclose(role.mean[i], w.double().mean(), rel_tol=1e-12, abs_tol=1e-14)
        assert math.isclose(role.std[i], w.double().std(), rel_tol=1e-7)


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((), (1, 1)),
        ((7,), (1, 7)),
        ((1, 7), (1, 7)),
        ((7, 1), (7, 1)),
        ((2, 3, 5), (6, 5)),
        ((4, 3, 2, 5), (12, 10)),
        ((4, 3, 2, 2, 2), (12, 8)),
    ],
)
def test_views(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    w = torch.randn(shape, dtype=torch.float64)
    role = front_models.extract({"w": w}, keep_ratio=0.5).roles["w"]
    assert role.matrix == matrix
    assert role.kept == tuple(max(1, n // 2) for n in matrix)
    expected = models.dense_coefficients([w.reshape(matrix)], 0.5, (True, True))
    assert torch.allclose(role.coefficients, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep_ratio", [1e-9, 0.3, 0.5, 0.999, 1.0, 1])
def test_kept_length(keep_ratio: float) -> None:
    role = front_models.extract({"w": torch.randn(7, 16)}, keep_ratio=keep_ratio).roles["w"]
    assert role.kept == (max(1, int(7 * keep_ratio)), max(1, int(16 * keep_ratio)))
    assert tuple(role.coefficients.shape) == (1, *role.kept)


@pytest.mark.parametrize(
    "w",
    [
        torch.tensor([3.5]),
        torch.full((8,), 0.1),
        torch.full((8, 8), 1 / 3, dtype=torch.float64),
        torch.zeros(4, 4),
        torch.ones(5, dtype=torch.bfloat16),
    ],
)
def test_constant_tensors_have_no_coefficients(w: Tensor) -> None:
    role = front_models.extract({"w": w}).roles["w"]
    assert torch.count_nonzero(role.coefficients) == 0
    assert role.mean.item() == pytest.approx(w.flatten()[0].item(), rel=1e-15)
    assert role.std.item() <= 1e-16
    assert role.energy.item() == 0


def test_rounding_errors_of_a_constant_are_no_knowledge() -> None:
    w = torch.full((64,), 0.7)
    w[::5] = torch.nextafter(w[0], torch.tensor(1.0))
    role = front_models.extract({"w": w}).roles["w"]
    assert 0 < role.std.item() < 1e-6
    assert torch.count_nonzero(role.coefficients) == 0


def test_a_role_of_mixed_precision_is_computed_in_the_wider_one() -> None:
    layers = [torch.randn(5, 6, dtype=dtype) for dtype in (torch.float64, torch.float32)]
    role = front_models.extract({f"h.{i}.w": w for i, w in enumerate(layers)}).roles["h.{}.w"]
    expected = models.dense_coefficients([w.double() for w in layers], 1.0, (True, True))
    assert models.error(role.coefficients, expected) < 1e-13


class Fresh(Mapping[str, Tensor]):
    """A lazy mapping: a new tensor at each access, whose address may be that of one just freed."""

    def __getitem__(self, name: str) -> Tensor:
        return torch.full((64, 64), float(name[1:]))

    def __iter__(self) -> Iterator[str]:
        return iter(f"w{i}" for i in range(20))

    def __len__(self) -> int:
        return 20


def test_lazily_read_tensors_are_not_tied_by_a_reused_address() -> None:
    gene = front_models.extract(Fresh())
    assert not gene.ties
    assert [role.mean.item() for role in gene.roles.values()] == list(range(20))


def test_nearly_constant_is_not_constant() -> None:
    # A trained LayerNorm: tiny deviations around 1.
    w = (1 + 1e-3 * torch.randn(64, dtype=torch.float64)).to(torch.float32)
    role = front_models.extract({"norm.weight": w}).roles["norm.weight"]
    assert models.error(role.coefficients, models.dense_coefficients([w], 1.0, (True, True))) < 1e-6


def test_statistics_of_many_elements_with_a_large_mean() -> None:
    w = torch.randn(3000, 1001).mul_(0.01).add_(5)
    role = front_models.extract({"w": w}, keep_ratio=0.01).roles["w"]
    exact = w.numpy().astype(np.longdouble)
    assert abs(role.mean.item() - float(exact.mean())) < 1e-14
    assert role.std.item() == pytest.approx(float(exact.std(ddof=1)), rel=1e-9)
    assert role.energy.item() == pytest.approx(w.numel() - 1, rel=1e-5)


def test_nan_and_inf_propagate() -> None:
    w = torch.randn(4, 4)
    w[1, 2] = float("nan")
    gene = front_models.extract({"w": w, "v": torch.tensor([1.0, float("inf")])})
    assert gene.roles["w"].coefficients.isnan().all()
    assert not gene.roles["v"].coefficients.isfinite().any()


def test_only_weights_are_taken() -> None:
    state = {
        "w": torch.randn(4, 4),
        "position_ids": torch.arange(4),
        "mask": torch.ones(4, dtype=torch.bool),
        "z": torch.randn(4, dtype=torch.complex64),
        "bn.running_mean": torch.randn(4),
        "empty": torch.empty(0, 4),
    }
    assert list(front_models.extract(state).roles) == ["w"]
    with pytest.raises(ValueError, match="source: nothing to extract"):
        front_models.extract({"position_ids": torch.arange(4)})


def test_tied_tensors_are_kept_once() -> None:
    gene = front_models.extract(models.gpt2())
    assert gene.ties == {"lm_head.weight": "transformer.wte.weight"}
    assert "lm_head.weight" not in gene.roles


def test_extraction_leaves_the_source_alone_and_needs_no_contiguity() -> None:
    wide = torch.randn(12, 20)
    state = {f"h.{i}.w": wide[:, i::2].t() for i in range(2)}
    before = wide.clone()
    gene = front_models.extract(state)
    assert torch.equal(wide, before)
    plain = front_models.extract({name: w.contiguous() for name, w in state.items()})
    assert_same_gene(gene, plain)


@pytest.fixture
def gene() -> Learngene:
    state = models.fill(models.vit(8, 3)) | models.fill({"extra.w": (3, 5)}, dtype=torch.float64)
    state["tied"] = state["head.weight"]
    state["const"] = torch.ones(4)
    return front_models.extract(state, keep_ratio=0.6, mlp_axes="hidden", skip=("norm", "blocks.*.attn.proj.*"))


def test_round_trip_is_bitwise(gene: Learngene, tmp_path: Path) -> None:
    path = tmp_path / "a.gene"
    gene.save(path)
    loaded = Learngene.load(path)
    assert_same_gene(gene, loaded)
    assert loaded.ties == {"tied": "head.weight"}
    assert loaded.roles["extra.w"].coefficients.dtype == torch.float64
    assert [p.name for p in tmp_path.iterdir()] == ["a.gene"]
    gene.save(path)
    assert_same_gene(gene, Learngene.load(str(path)))


def test_round_trip_of_nan(tmp_path: Path) -> None:
    gene = front_models.extract({"w": torch.tensor([1.0, float("nan"), 2.0])})
    gene.save(tmp_path / "g")
    assert_same_gene(gene, Learngene.load(tmp_path / "g"))


def test_loaded_gene_starts_the_same_model(gene: Learngene, tmp_path: Path) -> None:
    gene.save(tmp_path / "g")
    loaded = Learngene.load(tmp_path / "g")
    first, second = models.fill(models.vit(12, 5), 7), models.fill(models.vit(12, 5), 7)
    front_models.initialize(first, gene, gain="area")
    front_models.initialize(second, loaded, gain="area")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_gene_starts_many_and_is_not_changed(gene: Learngene, tmp_path: Path) -> None:
    gene.save(tmp_path / "before")
    for depth_fill in ("zero", "random", "consistence"):
        front_models.initialize(models.fill(models.vit(12, 5), 7), gene, depth_fill=depth_fill, gain="ortho")
    front_models.initialize(models.fill(models.vit(4, 2)), gene, depth_fill="repeat")
    assert_same_gene(gene, Learngene.load(tmp_path / "before"))


def test_a_failed_save_leaves_the_old_file(gene: Learngene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g"
    gene.save(path)
    old = path.read_bytes()

    def full(tensors: object, partial: Path, metadata: object) -> None:
        Path(partial).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_learngene, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        gene.save(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_save_into_a_missing_folder(gene: Learngene, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gene.save(tmp_path / "no" / "g")


def test_load_rejects_other_files(gene: Learngene, tmp_path: Path) -> None:
    path = tmp_path / "g"
    with pytest.raises(FileNotFoundError, match=r"path: there is no learngene file '.*g'"):
        Learngene.load(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match=r"path: '.*g' is not a learngene file: "):
        Learngene.load(path)
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"path: '.*g' is not a learngene file: it is safetensors, but"):
        Learngene.load(path)
    gene.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is not a learngene file: "):
        Learngene.load(path)


def rewrite(path: Path, change) -> None:
    """Change the metadata and tensors of a gene's file."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    described = json.loads(metadata["gene"])
    change(metadata, described, tensors)
    save_file(tensors, path, metadata=metadata | {"gene": json.dumps(described)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, d, t: m.update(version="2"), r"has format version '2'; this package reads 1 to 1"),
        (lambda m, d, t: m.update(version="0"), r"has format version '0'"),
        (lambda m, d, t: m.update(version="new"), r"has format version 'new'"),
        (lambda m, d, t: d.pop("roles"), r"is damaged: 'roles'"),
        (lambda m, d, t: d["roles"][0].pop("shape"), r"is damaged: 'shape'"),
        (lambda m, d, t: d["roles"][0].update(shape="x"), r"is damaged: "),
        (lambda m, d, t: d["roles"][0].update(kept=[1, 9000]), r"is damaged: cls_token: coefficients of shape"),
        (lambda m, d, t: d["roles"][0].update(axes=[True]), r"is damaged: "),
        (lambda m, d, t: d.update(skip=[3]), r"is damaged: skip: got 3; allowed are strings"),
        (lambda m, d, t: d.update(ties={"a": "b"}), r"is damaged: ties to roles that are not there: \{'a': 'b'\}"),
        (lambda m, d, t: t.pop("std/cls_token"), r"is damaged: 'std/cls_token'"),
        (lambda m, d, t: t.update({"mean/cls_token": torch.zeros(2)}), r"is damaged: cls_token: mean is torch.float32"),
        (
            lambda m, d, t: t.update({"coefficients/cls_token": t["coefficients/cls_token"].half()}),
            r"is damaged: cls_token: coefficients of dtype torch.float16, expected float32 or float64",
        ),
    ],
)
def test_load_rejects_damaged_files_and_newer_versions(gene: Learngene, tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "g"
    gene.save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        Learngene.load(path)
