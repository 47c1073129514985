"""What people do by mistake: it is said what was lost, and nothing is written or trained to no end."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import front_kernels as fk
import front_models
import models


def linears(*names: str, size: int = 6) -> dict[str, torch.Tensor]:
    return {name: torch.randn(size, size) for name in names}


@pytest.mark.parametrize("way", ["transfer", "initialize"])
def test_what_finds_no_place_is_noted(way: str) -> None:
    source, target = linears("a.weight", "b.weight", "lm_head.weight"), linears("a.weight", size=4)

    def start(**options: Any) -> front_models.TransferReport:
        if way == "transfer":
            return front_models.transfer(source, target, **options)[1]
        return front_models.initialize(target, front_models.extract(source), **options)

    assert start().notes == ("of the source without a place in the target: 'b.weight', 'lm_head.weight'",)
    assert start(skip=("head",)).notes == ("of the source without a place in the target: 'b.weight'",)
    assert start(skip=("head", "b.*")).notes == ()
    assert "without a place" in str(start())


@pytest.mark.parametrize("way", ["transfer", "initialize"])
def test_layers_that_are_fewer_are_no_loss(way: str) -> None:
    source, target = models.fill(models.vit(8, 4)), models.fill(models.vit(12, 2), 7)
    if way == "transfer":
        report = front_models.transfer(source, target)[1]
    else:
        report = front_models.initialize(target, front_models.extract(source))
    assert report.notes == ()


@pytest.mark.parametrize("way", ["transfer", "initialize"])
def test_what_is_tied_has_the_place_of_the_other(way: str) -> None:
    source = models.gpt2()
    target = {name: tensor for name, tensor in models.gpt2(24).state_dict().items() if name != "lm_head.weight"}
    if way == "transfer":
        report = front_models.transfer(source, target)[1]
    else:
        report = front_models.initialize(target, front_models.extract(source))
    assert report.notes == ()


def test_a_shared_parameter_is_skipped_by_any_of_its_names(recwarn: pytest.WarningsRecorder) -> None:
    reg = front_models.SpectralRegularizer(models.gpt2(), keep_ratio=0.5, skip=("lm_head.*",))
    assert "transformer.wte.weight" not in [member.name for role in reg._roles for member in role.members]
    front_models.SpectralRegularizer(nn.BatchNorm1d(4), k=1, skip=("*running_mean",))
    assert not [w for w in recwarn if "skip" in str(w.message)]


def targets_that_share() -> dict[str, tuple[dict[str, torch.Tensor], str | None]]:
    base = torch.zeros(6, 4)
    columns = torch.zeros(4, 8)
    with torch.inference_mode():
        inference = torch.zeros(4, 4)
    return {
        "rows apart": ({"a.weight": base[:3], "b.weight": base[3:]}, None),
        "rows that overlap": ({"a.weight": base[:4], "b.weight": base[2:]}, "a.weight shares memory with b.weight"),
        "columns apart": ({"a.weight": columns[:, :4], "b.weight": columns[:, 4:]}, None),
        "columns that overlap": (
            {"a.weight": columns[:, :5], "b.weight": columns[:, 4:]},
            "shares memory with b.weight",
        ),
        "one of three": (
            {"a.weight": columns[:, :3], "b.weight": columns[:, 3:6], "c.weight": columns[:, 5:]},
            "b.weight shares memory with c.weight",
        ),
        "one's own": ({"a.weight": torch.zeros(40).as_strided((4, 4), (1, 1))}, "a.weight shares memory with itself"),
        "interleaved": ({"a.weight": torch.zeros(40).as_strided((3, 2), (2, 3))}, None),
        "inference": ({"a.weight": torch.zeros(4, 4), "b.weight": inference}, "b.weight was made in inference mode"),
    }


@pytest.mark.parametrize("case", targets_that_share())
def test_targets_that_share_memory_are_refused_before_anything_is_written(case: str) -> None:
    target, message = targets_that_share()[case]
    gene = front_models.extract({name: torch.randn(4, 4) for name in target})
    if message is None:
        apart = {name: tensor.clone() for name, tensor in target.items()}
        front_models.initialize(apart, gene)
        front_models.initialize(target, gene)
        assert all(torch.equal(target[name], apart[name]) for name in target)
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        front_models.initialize(target, gene)
    assert all((tensor == 0).all() for tensor in target.values())


def test_a_head_that_was_tied_is_noted() -> None:
    model = models.gpt2()
    assert front_models.align(model)[1].notes == ()  # its last norm scales nothing
    model.transformer.ln_f.weight.data.uniform_(0.5, 1.5)
    weights, alignment = front_models.align(model)
    head, embedding = weights["lm_head.weight"], weights["transformer.wte.weight"]
    assert not torch.equal(head, embedding)
    assert alignment.untied == ("lm_head.weight",)
    assert any(note.startswith("lm_head.weight no longer equals the embedding") for note in alignment.notes)


def test_reports_print_as_tables() -> None:
    source = linears("blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight")
    for report in (
        front_models.inspect_weights(source),
        front_models.compare(source, linears("blocks.0.mlp.fc1.weight", size=4)),
        front_models.transfer(source, source)[1],
    ):
        lines = str(report).splitlines()
        assert any("blocks.{}.mlp.fc1.weight" in line for line in lines)
        assert any("role" in line and "kind" in line for line in lines)


def test_refine_refuses_what_is_of_another_model_or_type() -> None:
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    data = [(torch.randn(3, 4), torch.zeros(3).long())]

    def task(module: nn.Module, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(module(batch[0]), batch[1])

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    good: dict[str, Any] = {"model": model, "data": data, "loss_fn": task, "optimizer": sgd, "regularizer": None}
    for change, error, message in (
        ({"optimizer": torch.optim.SGD(other.parameters())}, ValueError, "optimizer: holds none of the model's"),
        ({"regularizer": front_models.SpectralRegularizer(other, k=1)}, ValueError, "regularizer: is of another model"),
        ({"model": model.state_dict()}, TypeError, "model: got OrderedDict; allowed is a torch.nn.Module"),
        ({"optimizer": torch.optim.SGD}, TypeError, "optimizer: got type; allowed is None and an optimizer"),
        ({"scheduler": 3}, TypeError, "scheduler: got int; allowed is None and an LRScheduler"),
        ({"regularizer": 0.5}, TypeError, "regularizer: got float; allowed is None and a regularizer"),
        ({"data": None}, TypeError, "data: got NoneType; allowed is an iterable of batches"),
        ({"data": torch.tensor(1.0)}, TypeError, "data: got Tensor; allowed is an iterable of batches"),
        ({"loss_fn": None}, TypeError, "loss_fn: got NoneType; allowed is a function of a model and a batch"),
    ):
        before = model.weight.clone()
        with pytest.raises(error, match=re.escape(message)):
            front_models.refine(lam=1.0, steps=2, progress=False, **good | change)
        assert torch.equal(model.weight, before)
    good["regularizer"] = front_models.SpectralRegularizer(model, k=1)
    assert len(front_models.refine(lam=1.0, steps=2, progress=False, **good).task_loss) == 2


X = torch.randn(6, 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fk.spectral_loss_many([X, X], [(3, 3, 2), (2,)]), ValueError, "ks[0] must have 2 elements"),
        (lambda: fk.spectral_loss_many([X, X], [(2,), (3, 4, 5)]), ValueError, "ks[0] must have 2 elements"),
        (
            lambda: fk.spectral_loss_many([X], 3),
            TypeError,
            "ks must be one (rows, columns) or int for each of xs, got 3",
        ),
        (
            lambda: fk.spectral_grad_many_([torch.zeros(6, 8)] * 2, [X, X], [(2, 3, 4), (5,)], 1.0),
            ValueError,
            "ks[0] must have 2 elements (rows, columns), got [2, 3, 4]",
        ),
        (lambda: fk.spectral_stack_loss([X, X], 2), TypeError, "k must be (layers, rows, columns), got 2"),
        (
            lambda: fk.spectral_stack_loss([X, X], (2, 2, 2), decay=1.0),
            TypeError,
            "decay must be None or (layers, rows, columns), got 1.0",
        ),
        (lambda: fk.plan_for(4096), TypeError, "shape must be (rows, columns), got 4096"),
        (lambda: fk.plan_for((8.5, 6.5)), TypeError, "shape must hold whole numbers, got [8.5, 6.5]"),
    ],
)
def test_arguments_of_lists_and_plans(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_a_stack_is_a_list_of_matrices(fill: float) -> None:
    stack = torch.full((1, 4, 6), fill)
    assert len(fk.dct_crop_many(stack, 2)) == 1
    assert len(fk.idct_pad_many(stack, 8)) == 1


def test_many_dimensions() -> None:
    x = torch.randn(3, 4, 5)
    many = x.view(*[1] * 30, 3, *[1] * 31, 4, 5)
    assert many.dim() == 64
    assert torch.equal(fk.dct2(many).flatten(), fk.dct2(x).flatten())
    for dim, own in ((-1, -1), (-2, -2), (30, 0)):
        assert torch.equal(fk.dct(many, dim=dim).flatten(), fk.dct(x, dim=own).flatten())
    assert torch.equal(fk.idct_pad(many, (6, 7)).flatten(), fk.idct_pad(x, (6, 7)).flatten())
