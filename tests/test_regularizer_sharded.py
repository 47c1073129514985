"""SpectralRegularizer of FSDP2's shards, in processes that talk through gloo: equal to one process.

Starting processes takes seconds, so that each test starts them once and checks many things in them, one function each.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from front_kernels import sharded
from front_models import SpectralRegularizer
from penalties import Mixed, assert_close, dense_penalty, gradients
from processes import run_processes
from sharded_messages import check_bytes_of_an_even_exchange, check_many_small_messages, check_routes_and_bytes
from shards import OPTIONS, full, local, own_rows, pair, shard

LAM = 0.05
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5, torch.bfloat16: 8e-3}


def check_equals_one_process(mesh: DeviceMesh) -> None:
    for dtype, tolerance in TOLERANCE.items():
        whole, model = pair(dtype, mesh)
        for name, options in OPTIONS.items():
            if dtype != torch.float64 and name not in ("summed", "exchanged", "standardized", "depth"):
                continue  # the same code
            expected = SpectralRegularizer(whole, **options)()
            wanted = gradients(expected, whole)
            reg = SpectralRegularizer(model, **options)
            loss = reg()
            autograd = local(gradients(loss, model))
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            value = reg.accumulate_grad_(64.0)
            added = [(g.double() - 1) / 64 for g in local([p.grad for p in model.parameters()])]  # type: ignore[misc]
            for found in (loss, value):
                assert found.dtype == expected.dtype, (name, dtype)
                assert found.item() == pytest.approx(expected.item(), rel=max(tolerance / 5, 1e-12)), (name, dtype)
            factor = sum(p.numel() for p in whole.parameters()) if "reduction" in options else 1
            wanted = [g.double() * factor for g in own_rows(wanted, mesh)]
            assert_close([g.double() * factor for g in autograd], wanted, tolerance)
            if "reduction" not in options:  # else it would drown in the ones, in bfloat16
                assert_close(added, wanted, tolerance * (4 if dtype == torch.bfloat16 else 1))


def check_shards_are_uneven_and_empty(mesh: DeviceMesh) -> None:
    """That the model has what the other checks are meant to go through."""
    _, model = pair(torch.float32, mesh)
    size = mesh.size(mesh.ndim - 1)
    lengths = [p.shape[0] for p in model.parameters()]
    assert any(n > size and n % size for n in lengths)
    assert any(n < size for n in lengths)
    assert any(g.numel() == 0 for g in local(list(model.parameters()))) == (mesh.get_local_rank(mesh.ndim - 1) > 0)
    assert {p.dim() for p in model.parameters()} == {1, 2, 3, 4}


def check_training_steps(mesh: DeviceMesh) -> None:
    for options in (OPTIONS["summed"], OPTIONS["depth"]):
        whole, model = pair(torch.float64, mesh)
        other = shard(copy.deepcopy(whole), mesh)
        regs = [SpectralRegularizer(m, **options) for m in (whole, model, other)]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (whole, model, other)]
        start = [p.detach().clone() for p in whole.parameters()]
        for step in range(3):
            x = torch.randn(4, 10, generator=torch.Generator().manual_seed(step)).double()
            for i, (m, reg, optimizer) in enumerate(zip((whole, model, other), regs, optimizers, strict=True)):
                optimizer.zero_grad()
                if i < 2:
                    (m(x) + LAM * reg()).backward()
                else:
                    m(x).backward()
                    reg.accumulate_grad_(LAM)
                nn.utils.clip_grad_norm_(m.parameters(), 50.0)
                optimizer.step()
        moved = [p.detach() - s for p, s in zip(whole.parameters(), start, strict=True)]
        for m in (model, other):
            assert_close([full(p.detach()) - s for p, s in zip(m.parameters(), start, strict=True)], moved, 1e-9)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle, self.head = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(ids))).square().mean()


def check_tied_parameters_and_accumulated_gradients(mesh: DeviceMesh) -> None:
    """Gradients of the task are reduced in the second of two backwards; the penalty's are added at once."""
    torch.manual_seed(6)
    whole = Tied().double()
    models = [fully_shard(copy.deepcopy(whole), mesh=mesh) for _ in range(2)]
    reg, *regs = (SpectralRegularizer(m, keep_ratio=0.5) for m in (whole, *models))
    ids = torch.arange(6)[None]
    for i in range(2):
        ((whole(ids + i) + LAM * reg()) / 2).backward()
        for m in models:
            m.set_requires_gradient_sync(i == 1)
        ((models[0](ids + i) + LAM * regs[0]()) / 2).backward()
        (models[1](ids + i) / 2).backward()
    regs[1].accumulate_grad_(LAM)
    wanted = [p.grad for p in whole.parameters()]
    assert len(wanted) == 3
    for m in models:
        assert_close([full(p.grad) for p in m.parameters()], wanted, 1e-11)  # type: ignore[arg-type]


def check_processes_without_columns(mesh: DeviceMesh) -> None:
    """Four columns are two each, and none for the third."""
    torch.manual_seed(5)
    bare = nn.Sequential(nn.Linear(5, 12), nn.Linear(5, 12)).double()
    for depth, decay, standardize in itertools.product((False, True), (None, (0.5, 1.0)), (False, True)):
        whole = copy.deepcopy(bare)
        if depth:
            nn.init.constant_(whole[1].weight, 0.7)  # to which the other layer leaks
        model = fully_shard(copy.deepcopy(whole), mesh=mesh)
        options: dict[str, Any] = {"keep_ratio": 0.9, "depth": depth, "standardize": standardize}
        if decay is not None:
            decay = (0.3, *decay) if depth else decay
            options = {**options, "weighting": "exponential", "decay": decay}
            del options["keep_ratio"]
        reg = SpectralRegularizer(model, **options)
        assert ": exchanged" in [line[-11:] for line in reg.communication().splitlines() if "weight" in line]
        expected = SpectralRegularizer(whole, **options)()
        wanted = gradients(expected, whole)
        assert reg.accumulate_grad_(1.0).item() == pytest.approx(expected.item(), rel=1e-12)
        assert_close([full(p.grad) for p in model.parameters()], wanted, 1e-11)


def check_first_call_says_what_is_sent(mesh: DeviceMesh) -> None:
    _, model = pair(torch.float32, mesh)
    reg = SpectralRegularizer(model, **OPTIONS["summed"])
    said: list[str] = []
    logger, handler = logging.getLogger("front_models"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        SpectralRegularizer(model, **OPTIONS["summed"])()
        assert said == []  # nobody listens to INFO
        logger.setLevel(logging.INFO)
        for _ in range(2):
            reg.accumulate_grad_(0.1)
            reg()
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    lines = reg.communication().splitlines()
    assert said == [f"bytes that a process sends in a call: {line}" for line in lines if mesh.get_local_rank() == 0]


def check_panels_and_precision(mesh: DeviceMesh) -> None:
    """A few columns at a time; torch's matrix products may be inexact."""
    whole, model = pair(torch.float32, mesh)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for options in (OPTIONS["summed"], OPTIONS["standardized"], OPTIONS["depth"]):
            wanted = gradients(SpectralRegularizer(whole, **options)(), whole)
            model.zero_grad()
            with mock.patch.object(sharded, "_PANEL", 300), mock.patch.object(Tensor, "__matmul__", None):
                SpectralRegularizer(model, **options).accumulate_grad_(1.0)
            assert_close([full(p.grad) for p in model.parameters()], wanted, 1e-5)
    finally:
        torch.set_float32_matmul_precision(before)


def check_autograd_knows_of_changes(mesh: DeviceMesh) -> None:
    _, model = pair(torch.float32, mesh)
    loss = SpectralRegularizer(model, **OPTIONS["summed"])()
    with torch.no_grad():
        model.blocks[0].fc1.weight._local_tensor.mul_(2)  # type: ignore[attr-defined, operator]
    with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
        loss.backward()


def check_frozen_and_whole_parameters(mesh: DeviceMesh) -> None:
    """Some sharded, some whole, some frozen."""
    for options in (OPTIONS["summed"], OPTIONS["depth"]):
        torch.manual_seed(2)
        whole = Mixed(scalar=False).double()
        model = copy.deepcopy(whole)
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        for m in (whole, model):
            m.blocks[1].requires_grad_(False)
        expected = SpectralRegularizer(whole, **options)()
        assert expected.item() == pytest.approx(dense_penalty(whole, **options).item(), rel=1e-11)
        assert SpectralRegularizer(model, **options).accumulate_grad_(1.0).item() == pytest.approx(expected.item())
        found = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(p.grad is None for p in model.blocks[1].parameters())
        wanted = gradients(expected, whole)
        assert_close([full(g) if isinstance(g, DTensor) else g for g in found], wanted, 1e-11)  # type: ignore[misc]


def check_means_that_are_large(mesh: DeviceMesh) -> None:
    """Weights of norms are near 1: their deviations must not drown, on whichever way."""
    for ratio, keep_ratio, standardize in itertools.product((1e5, 1e6), (0.1, 0.9), (False, True)):
        torch.manual_seed(3)
        whole = nn.Linear(40, 53)
        nn.init.normal_(whole.weight, ratio, 1)
        nn.init.normal_(whole.bias, -ratio, 1)
        with torch.no_grad():
            whole.weight[0, 0] = 0
            whole.bias[1] = 0  # in shards it is a column, and the first value all of the first row
        options: dict[str, Any] = {"keep_ratio": keep_ratio, "standardize": standardize}
        expected = dense_penalty(whole, **options)
        wanted = gradients(expected, whole)
        model = fully_shard(copy.deepcopy(whole), mesh=mesh)
        reg = SpectralRegularizer(model, **options)
        ways = [line.rpartition(" ")[2] for line in reg.communication().splitlines()]
        assert ways[0] == ("summed" if keep_ratio == 0.1 else "exchanged")
        assert reg.accumulate_grad_(1.0).item() == pytest.approx(expected.item(), rel=1e-5)
        assert_close([full(p.grad) for p in model.parameters()], wanted, 2e-5)


def check_report(mesh: DeviceMesh) -> None:
    whole, model = pair(torch.float64, mesh)
    rows = [SpectralRegularizer(m, keep_ratio=0.3).report() for m in (whole, model)]
    for a, b in zip(*rows, strict=True):
        assert (a.role, a.depth) == (b.role, b.depth)
        assert b.share == pytest.approx(a.share, rel=1e-11, nan_ok=True)


def check_nan_stays_in_its_parameter(mesh: DeviceMesh) -> None:
    _, model = pair(torch.float32, mesh)
    reg = SpectralRegularizer(model, **OPTIONS["both ways"])
    reg.accumulate_grad_(1.0)
    clean = {name: full(p.grad) for name, p in model.named_parameters()}
    model.zero_grad()
    local = dict(model.named_parameters())["conv.weight"].detach().to_local()  # type: ignore[attr-defined]
    if dist.get_rank() == 0:
        local[0, 0, 0, 0] = math.nan
    assert reg.accumulate_grad_(1.0).isnan()
    for name, p in model.named_parameters():
        found = full(p.grad)
        assert found.isnan().all() if name == "conv.weight" else torch.equal(found, clean[name]), name


def check_autograd_once(mesh: DeviceMesh) -> None:
    _, model = pair(torch.float32, mesh)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    with pytest.raises(RuntimeError, match="differentiable once: create_graph=True is not possible"):
        torch.autograd.grad(reg(), [model.head.weight], create_graph=True)


def check_placements(mesh: DeviceMesh) -> None:
    """Replicated ones are whole; other axes, and layers that are divided in different ways, are refused."""
    flat = mesh if mesh.ndim == 1 else mesh[mesh.mesh_dim_names[1]]  # type: ignore[index]
    torch.manual_seed(4)
    whole = nn.Linear(6, 8)
    expected = SpectralRegularizer(whole, keep_ratio=0.5)()
    for placement in (Replicate(), Shard(1)):
        model = copy.deepcopy(whole)
        model.weight = nn.Parameter(distribute_tensor(whole.weight.detach(), flat, [placement]))
        reg = SpectralRegularizer(model, keep_ratio=0.5)
        if isinstance(placement, Replicate):
            assert reg.accumulate_grad_(1.0).item() == pytest.approx(expected.item(), rel=1e-6)
            assert_close([full(model.weight.grad), model.bias.grad], gradients(expected, whole), 1e-6)  # type: ignore
            assert reg.communication() == ""
        else:
            for call in (reg, lambda reg=reg: reg.accumulate_grad_(1.0), reg.communication, reg.report):
                with pytest.raises(ValueError, match=r"^model: weight has placements \(Shard\(dim=1\),\); allowed are"):
                    call()
            assert model.weight.grad is None
    layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    fully_shard(layers[0], mesh=flat)
    SpectralRegularizer(layers, keep_ratio=0.5)()
    with pytest.raises(ValueError, match=r"^model: 1.weight is divided among processes in another way than 0.weight"):
        SpectralRegularizer(layers, keep_ratio=0.5, depth=True)()


def check_layers_of_two_dtypes(mesh: DeviceMesh) -> None:
    """An error for all processes, before any message."""
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).bfloat16())
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    with pytest.raises(ValueError, match=r"^model: 1.weight is bfloat16, and 0.weight float32; with depth the layers"):
        SpectralRegularizer(layers, keep_ratio=0.5, depth=True)()


def check_made_too_early(mesh: DeviceMesh) -> None:
    model = Mixed(scalar=False)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    shard(model, mesh)
    with pytest.raises(ValueError, match=r"is not the parameter that it was .* make it after fully_shard"):
        reg()


class Vectors(nn.Module):
    """Of which the first element, and the first of another process's, is as large as all the others together."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(2, 24000, generator=torch.Generator().manual_seed(2)) * 0.1
        values[0, 0] = values[1, 0] = values[1, 8000] = 15.0
        self.one, self.other = (nn.Parameter(v) for v in values)


def check_an_outlier_at_the_head_of_a_vector(mesh: DeviceMesh) -> None:
    """It costs the others no digits, whichever way they go."""
    for ratio, limit in ((0.3, 5e-7), (0.9, 3e-6)):  # of 0.9 little is left, on a single process too
        wide, model = Vectors().double(), fully_shard(Vectors(), mesh=mesh)
        wanted = gradients(SpectralRegularizer(wide, keep_ratio=ratio, standardize=False)(), wide)
        found = local(gradients(SpectralRegularizer(model, keep_ratio=ratio, standardize=False)(), model))
        for g, w in zip(found, own_rows(wanted, mesh), strict=True):
            assert (g - w).norm() <= limit * w.norm(), ratio


CHECKS: list[Callable[[DeviceMesh], None]] = [
    check_shards_are_uneven_and_empty,
    check_equals_one_process,
    check_training_steps,
    check_tied_parameters_and_accumulated_gradients,
    check_routes_and_bytes,
    check_bytes_of_an_even_exchange,
    check_processes_without_columns,
    check_many_small_messages,
    check_first_call_says_what_is_sent,
    check_panels_and_precision,
    check_autograd_knows_of_changes,
    check_frozen_and_whole_parameters,
    check_means_that_are_large,
    check_an_outlier_at_the_head_of_a_vector,
    check_report,
    check_nan_stays_in_its_parameter,
    check_autograd_once,
    check_placements,
    check_layers_of_two_dtypes,
    check_made_too_early,
]


def _shards(rank: int, size: int) -> int:
    mesh = init_device_mesh("cpu", (size,))
    checks = CHECKS if size == 3 else CHECKS[:6]
    for check in checks:
        check(mesh)
    return len(checks)


def _hybrid(rank: int, size: int) -> int:
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicate", "shard"))
    checks = [check_training_steps, check_routes_and_bytes]
    for check in checks:
        check(mesh)
    return len(checks)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])  # three: shards that are uneven and empty for every kind of parameter
def test_shards(size: int, tmp_path: Path) -> None:
    assert run_processes(_shards, size, tmp_path) == [len(CHECKS) if size == 3 else 6] * size


@pytest.mark.slow
def test_replicas_of_shards(tmp_path: Path) -> None:
    """HSDP: two pairs of processes, which hold the same."""
    assert run_processes(_hybrid, 4, tmp_path) == [2] * 4
