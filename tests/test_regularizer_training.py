"""SpectralRegularizer in training loops: both forms give the same gradients, and energy goes where it should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import models
from front_models import SpectralRegularizer
from penalties import Mixed, assert_close, dense_penalty, gradients
from processes import run_processes

LAM = 0.05
FORMS: dict[str, dict[str, Any]] = {
    "box": {"keep_ratio": 0.5},
    "exponential": {"weighting": "exponential", "decay": 2.0, "reduction": "mean"},
    "depth": {"keep_ratio": 0.5, "depth": True},
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


def batch(seed: int = 0, width: int = 10) -> Tensor:
    return torch.randn(4, width, generator=torch.Generator().manual_seed(seed))


def grads_of(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def twins(*, layers: int = 3, **options: Any) -> tuple[nn.Module, SpectralRegularizer, nn.Module, SpectralRegularizer]:
    a = Mixed(layers)
    b = copy.deepcopy(a)
    return a, SpectralRegularizer(a, **options), b, SpectralRegularizer(b, **options)


def assert_penalised(grads: list[Tensor], task: list[Tensor]) -> None:
    """What is compared is not the task's gradient alone."""
    assert sum(float((g - t).norm()) > 1e-2 * float(g.norm()) for g, t in zip(grads, task, strict=True)) > len(task) / 2


@forms
def test_one_step(options: dict[str, Any]) -> None:
    a, reg_a, b, reg_b = twins(**options)
    lam = LAM if "reduction" not in options else 100 * LAM
    loss = reg_a()
    (a(batch()) + lam * loss).backward()
    b(batch()).backward()
    task = [g.clone() for g in grads_of(b)]
    assert reg_b.accumulate_grad_(lam).item() == pytest.approx(loss.item(), rel=1e-6)
    assert_close(grads_of(b), grads_of(a), 2e-6)
    assert_penalised(grads_of(b), task)


@forms
def test_gradient_accumulation(options: dict[str, Any]) -> None:
    """Added once, after the last of three micro-batches; or a third of it in each."""
    a, reg_a, b, reg_b = twins(**options)
    for i in range(3):
        ((a(batch(i)) + LAM * reg_a()) / 3).backward()
        (b(batch(i)) / 3).backward()
    reg_b.accumulate_grad_(LAM)
    assert_close(grads_of(b), grads_of(a), 2e-6)


@forms
def test_autocast(options: dict[str, Any]) -> None:
    """The penalty stays in float32, inside autocast too."""
    a, reg_a, b, reg_b = twins(**options)
    with torch.autocast("cpu", torch.bfloat16):
        inside = reg_a()
        loss = a(batch()) + LAM * inside
    loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        task = b(batch())
    task.backward()
    assert inside.dtype == torch.float32
    assert reg_b.accumulate_grad_(LAM).item() == pytest.approx(inside.item(), rel=1e-6)
    assert_close(grads_of(b), grads_of(a), 2e-6)
    with torch.autocast("cpu", torch.bfloat16):
        reg_b.accumulate_grad_(-LAM)
    plain = copy.deepcopy(b)
    plain.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        task = plain(batch())
    task.backward()
    assert_close(grads_of(b), grads_of(plain), 1e-4)


@forms
def test_gradient_scaler(options: dict[str, Any]) -> None:
    """After `unscale_`: gradients are those of the loss again."""
    a, reg_a, b, reg_b = twins(**options)
    (a(batch()) + LAM * reg_a()).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(b.parameters(), lr=0.1)
    scaler.scale(b(batch())).backward()
    scaler.unscale_(optimizer)
    reg_b.accumulate_grad_(LAM)
    assert_close(grads_of(b), grads_of(a), 2e-6)
    before = [p.detach().clone() for p in b.parameters()]
    scaler.step(optimizer)
    moved = [(old - new.detach()) / 0.1 for old, new in zip(before, b.parameters(), strict=True)]
    assert_close(moved, grads_of(a), 1e-4)


@forms
def test_clipping_comes_after(options: dict[str, Any]) -> None:
    a, reg_a, b, reg_b = twins(**options)
    (a(batch()) + LAM * reg_a()).backward()
    b(batch()).backward()
    reg_b.accumulate_grad_(LAM)
    norms = [nn.utils.clip_grad_norm_(model.parameters(), 0.1).item() for model in (a, b)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert norms[0] > 0.1
    assert_close(grads_of(b), grads_of(a), 2e-6)


@forms
def test_frozen_parameters(options: dict[str, Any]) -> None:
    """They are left out of the loss and of the layers that are coupled, and get no gradient."""
    a, reg_a, b, reg_b = twins(layers=4, **options)
    for model in (a, b):
        for frozen in (model.blocks[0], model.blocks[2], model.conv):  # type: ignore[union-attr, index]
            frozen.requires_grad_(False)
    loss = reg_a()
    assert loss.item() == pytest.approx(dense_penalty(a, **options).item(), rel=1e-6)
    (a(batch()) + LAM * loss).backward()
    b(batch()).backward()
    assert reg_b.accumulate_grad_(LAM).item() == pytest.approx(loss.item(), rel=1e-6)
    for model in (a, b):
        assert all((p.grad is None) == (not p.requires_grad) for p in model.parameters())
    assert_close(grads_of(b), grads_of(a), 2e-6)
    for model in (a, b):  # thawed again
        model.requires_grad_()
    assert reg_b().item() == pytest.approx(dense_penalty(b, **options).item(), rel=1e-6)


@pytest.mark.parametrize("make", [models.gpt2, lambda: models.llama(tied=True)], ids=["gpt2", "llama"])
def test_tied_parameters_count_once(make: Callable[[], nn.Module]) -> None:
    a = make().eval()
    b = copy.deepcopy(a)
    reg_a, reg_b = SpectralRegularizer(a, keep_ratio=0.5), SpectralRegularizer(b, keep_ratio=0.5)
    tied = dict(a.named_parameters(remove_duplicate=False))
    assert len(tied) > len(list(a.parameters()))
    ids = torch.arange(12).view(2, 6)
    loss = reg_a()
    assert loss.item() == pytest.approx(dense_penalty(a, keep_ratio=0.5).item(), rel=1e-6)
    (a(input_ids=ids, labels=ids).loss + LAM * loss).backward()
    b(input_ids=ids, labels=ids).loss.backward()
    reg_b.accumulate_grad_(LAM)
    assert_close(grads_of(b), grads_of(a), 5e-6)


@forms
def test_parameters_without_a_gradient_get_one(options: dict[str, Any]) -> None:
    """The task does not use them, as the rows of other experts, or `zero_grad` has set it to None."""
    model = Mixed()
    reg = SpectralRegularizer(model, **options)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    reg.accumulate_grad_(LAM)
    expected = [LAM * g for g in gradients(dense_penalty(model, **options), model)]
    names = [name for name, _ in model.named_parameters()]
    expected[names.index("head.weight")] += 1
    assert_close(grads_of(model), expected, 1e-5)


def test_sparse_gradients_become_dense_as_in_autograd() -> None:
    a = nn.Embedding(12, 6, sparse=True)
    b = copy.deepcopy(a)
    ids = torch.tensor([1, 3, 3])
    (a(ids).sum() + LAM * SpectralRegularizer(a, keep_ratio=0.5)()).backward()
    b(ids).sum().backward()
    assert b.weight.grad is not None
    assert b.weight.grad.is_sparse
    SpectralRegularizer(b, keep_ratio=0.5).accumulate_grad_(LAM)
    assert_close(grads_of(b), grads_of(a), 2e-6)


@forms
def test_training_lowers_the_shares(options: dict[str, Any]) -> None:
    """Of every role that is not constant; without the penalty they stay."""
    shares = {}
    for lam in (0.0, 0.3):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
        reg = SpectralRegularizer(model, **options)
        before = {row.role: row.share for row in reg.report()}
        scale = lam * (1 if options.get("reduction") != "mean" else sum(p.numel() for p in model.parameters()))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for i in range(20):
            optimizer.zero_grad()
            model(batch(i, 16)).square().mean().backward()
            reg.accumulate_grad_(scale)
            optimizer.step()
        after = {row.role: row.share for row in reg.report()}
        shares[lam] = {role: after[role] / before[role] for role in before}
    assert all(ratio == pytest.approx(1, abs=1e-3) for ratio in shares[0.0].values())
    assert all(ratio < 0.97 for ratio in shares[0.3].values()), shares


@forms
def test_compiled_autograd_form(options: dict[str, Any]) -> None:
    a, reg_a, b, reg_b = twins(**options)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(x: Tensor) -> Tensor:
        return b(x) + LAM * reg_b()

    (a(batch()) + LAM * reg_a()).backward()
    loss(batch()).backward()
    assert_close(grads_of(b), grads_of(a), 5e-6)


@forms
def test_compiled_accumulation(options: dict[str, Any]) -> None:
    """As a graph of its own: backward() cannot be in a full graph, in torch."""
    a, reg_a, b, reg_b = twins(**options)
    accumulate = torch.compile(reg_b.accumulate_grad_, fullgraph=True, backend="aot_eager")
    (a(batch()) + LAM * reg_a()).backward()
    b(batch()).backward()
    value = accumulate(LAM)
    assert value.item() == pytest.approx(reg_a().item(), rel=1e-6)
    assert_close(grads_of(b), grads_of(a), 5e-6)


@forms
def test_compiled_once_for_all_weights(options: dict[str, Any]) -> None:
    """At most twice: torch takes a number for a constant until it sees another one."""
    a, reg_a, b, reg_b = twins(**options)
    counter = CompileCounterWithBackend("aot_eager")
    accumulate = torch.compile(reg_b.accumulate_grad_, fullgraph=True, backend=counter)
    for lam in torch.linspace(LAM, 1, 10).tolist():
        for model in (a, b):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
        assert accumulate(lam).item() == pytest.approx(reg_a.accumulate_grad_(lam).item(), rel=1e-6)
        assert_close(grads_of(b), grads_of(a), 5e-6)
    assert counter.frame_count <= 2


def _ddp(rank: int, size: int) -> dict[tuple[str, str], list[Tensor]]:
    found = {}
    for name, options in FORMS.items():
        for form in ("autograd", "in-place"):
            torch.manual_seed(0)
            model = Mixed()
            wrapped = nn.parallel.DistributedDataParallel(model)
            reg = SpectralRegularizer(wrapped, **options)
            loss = wrapped(batch(rank))
            (loss + LAM * reg() if form == "autograd" else loss).backward()
            if form == "in-place":
                reg.accumulate_grad_(LAM)
            found[name, form] = grads_of(model)
    return found


def test_ddp_equals_one_process(tmp_path: Path) -> None:
    results = run_processes(_ddp, 2, tmp_path)
    for name, options in FORMS.items():
        torch.manual_seed(0)
        model = Mixed()
        ((model(batch(0)) + model(batch(1))) / 2 + LAM * SpectralRegularizer(model, **options)()).backward()
        for form in ("autograd", "in-place"):
            for result in results:
                assert_close(result[name, form], grads_of(model), 5e-6)
