"""SpectralRegularizer of models that DDP or FSDP2 wraps, as far as one process is enough."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate

from front_kernels import sharded
from front_models import SpectralRegularizer, extract, initialize, refine, transfer


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def layers() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def test_a_sharded_parameter_that_was_replaced(mesh: DeviceMesh) -> None:
    model = fully_shard(layers(), mesh=mesh)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    model.load_state_dict({name: value.detach().clone() for name, value in model.state_dict().items()}, assign=True)
    for call in (reg, lambda: reg.accumulate_grad_(1.0), reg.report):
        with pytest.raises(ValueError, match=r"^model: 0.weight is not the parameter that it was"):
            call()
    SpectralRegularizer(model, keep_ratio=0.5).accumulate_grad_(1.0)
    assert all(p.grad is not None for p in model.parameters())


def test_a_sharded_parameter_that_stands_whole(mesh: DeviceMesh) -> None:
    """Between forward and backward."""
    model = fully_shard(layers(), mesh=mesh, reshard_after_forward=False)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    before = reg().item()
    loss = model(torch.ones(2, 8)).sum()
    assert dict(model.named_parameters())["0.weight"] is not reg._roles[0].members[0].param
    assert reg().item() == before
    loss.backward()
    model[0].weight = None
    with pytest.raises(ValueError, match=r"^model: 0.weight is not the parameter that it was"):
        reg()


def test_a_gradient_that_is_divided_in_another_way(mesh: DeviceMesh) -> None:
    model = fully_shard(layers(), mesh=mesh)
    weight: Any = model[1].weight
    weight.grad = torch.zeros_like(weight).redistribute(mesh, [Replicate()])
    message = (
        "model: the gradient of 1.weight has placements (Replicate(),); allowed are those of the parameter, (Shard"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        SpectralRegularizer(model, keep_ratio=0.5).accumulate_grad_(1.0)


@pytest.mark.usefixtures("mesh")
def test_flat_parameters_are_refused() -> None:
    """FullyShardedDataParallel makes one vector of many matrices, whose frequencies mean nothing."""
    model = nn.Sequential(nn.Linear(8, 8), FullyShardedDataParallel(layers(), device_id=torch.device("cpu")))
    message = "model: 1 is a FullyShardedDataParallel, which makes one vector of many parameters; allowed is a model"
    with pytest.raises(ValueError, match=re.escape(message)):
        SpectralRegularizer(model, keep_ratio=0.5)
    with pytest.raises(ValueError, match="model: it is a FullyShardedDataParallel"):
        SpectralRegularizer(model[1], keep_ratio=0.5)


class Partly(nn.Module):
    """A forward pass does not use all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).square().mean()


@pytest.mark.usefixtures("mesh")
def test_ddp_that_looks_for_unused_parameters() -> None:
    """By accumulate_grad_, all of it is penalised; under autograd DDP raises, as the docstring says."""
    model, plain = Partly(), Partly()
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    reg = SpectralRegularizer(wrapped, keep_ratio=0.5)
    x = torch.ones(3, 8)
    for _ in range(2):
        model.zero_grad()
        wrapped(x).backward()
        reg.accumulate_grad_(0.1)
    (plain(x) + 0.1 * SpectralRegularizer(plain, keep_ratio=0.5)()).backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with pytest.raises(RuntimeError, match="mark a variable ready only once"):
        (wrapped(x) + 0.1 * reg()).backward()


@pytest.mark.parametrize("depth", [False, True])
def test_coefficients_are_there_a_few_at_a_time(depth: bool, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a bucket of them, or one role's; and the results are those of one bucket for all."""
    model = fully_shard(nn.Sequential(*(nn.Linear(64, 64 + i // 4, bias=False) for i in range(12))), mesh=mesh)
    reg = SpectralRegularizer(model, keep_ratio=0.5, depth=depth)
    value = reg.accumulate_grad_(1.0)
    wanted = [p.grad.to_local() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    limit = 10000 if not depth else 4 * 4 * 32 * 33
    first_half, held, calls = sharded._first_half, list[Any](), list[int]()

    def watched(*given: Any) -> Any:
        assert not any(c() is not None for c in held), "those of the window before"
        halves = first_half(*given)
        held.extend(weakref.ref(c) for c, _ in halves)
        calls.append(sum(c.nbytes for c, _ in halves))
        return halves

    monkeypatch.setattr(sharded, "_BUCKET", limit)
    monkeypatch.setattr(sharded, "_first_half", watched)
    assert reg.accumulate_grad_(1.0) == value
    assert all(torch.equal(p.grad.to_local(), g) for p, g in zip(model.parameters(), wanted, strict=True))  # type: ignore[union-attr]
    assert len(calls) == (3 if depth else 6)
    assert max(calls) <= limit


def test_skipped_by_the_names_of_the_model_within(mesh: DeviceMesh) -> None:
    model = layers()
    for wrapped in (model, torch.compile(model), nn.parallel.DistributedDataParallel(model)):
        reg = SpectralRegularizer(wrapped, keep_ratio=0.5, skip=("0.*",))
        assert [member.name for role in reg._roles for member in role.members] == ["1.weight", "1.bias"]
        reg.accumulate_grad_(1.0)
        assert model[0].weight.grad is None
        with pytest.warns(UserWarning, match=r"skip: '5\.\*' matches no role or parameter of the model"):
            SpectralRegularizer(wrapped, keep_ratio=0.5, skip=("5.*", "head"))


def test_refine_of_shards_that_stand_whole(mesh: DeviceMesh) -> None:
    """After an evaluation the model holds no DTensors; the optimizer does."""
    model = fully_shard(layers(), mesh=mesh)
    reg, sgd = SpectralRegularizer(model, keep_ratio=0.5), torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 8))
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in sgd.param_groups[0]["params"])

    def task(module: nn.Module, batch: Tensor) -> Tensor:
        return module(batch).square().sum()

    options: dict[str, Any] = {"lam": 1.0, "steps": 2, "optimizer": sgd, "regularizer": reg, "progress": False}
    assert len(refine(model, [torch.ones(2, 8)], task, **options).task_loss) == 2
    model.load_state_dict({name: value.detach().clone() for name, value in model.state_dict().items()}, assign=True)
    with pytest.raises(ValueError, match=r"^model: 0.weight is not the parameter that it was"):
        refine(model, [torch.ones(2, 8)], task, **options)


def test_sharded_models_are_no_weights(mesh: DeviceMesh) -> None:
    """Of all DTensors the address is 0: those of one shape were taken for tied."""
    model, plain = fully_shard(layers(), mesh=mesh), layers()
    for call in (
        lambda: transfer(plain, model),
        lambda: transfer(model, plain),
        lambda: initialize(model, extract(plain)),
        lambda: extract(model.state_dict()),
    ):
        with pytest.raises(ValueError, match=r"0.weight is a DTensor; allowed are whole tensors"):
            call()
