"""SpectralRegularizer of FSDP2's shards, in processes that talk through gloo: equal to one process.

Starting processes takes seconds, so that each test starts them once and checks many things in them, one function each.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from shards import full, local, own_rows, pair, shard

LAM = 0.05
OPTIONS: dict[str, dict[str, Any]] = {
    "summed": {"keep_ratio": 0.3},
    "exchanged": {"keep_ratio": 0.9, "standardize": False},  # in bfloat16 gathered
    "both ways": {"k": (4, 6), "reduction": "mean"},
    "exponential": {"weighting": "exponential", "decay": (2.0, 0.5)},
    "exponential-plain": {"weighting": "exponential", "decay": (0.0, 3.0), "standardize": False},
    "standardized": {"keep_ratio": 0.8},
    "depth": {"keep_ratio": 0.5, "depth": True},
    "depth-summed": {"keep_ratio": 0.3, "depth": True},
    "depth-exchanged": {"keep_ratio": 0.9, "depth": 2, "standardize": False},
    "depth-exponential": {"weighting": "exponential", "decay": (1.0, 2.0, 0.5), "depth": True},
}
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


@contextmanager
def listed() -> Iterator[list[tuple[str, torch.dtype, int]]]:
    """Messages that are sums of coefficients or exchanges: which, of what, of how many bytes."""
    found: list[tuple[str, torch.dtype, int]] = []

    def recorded(name: str) -> Any:
        original = getattr(dist, name)

        def call(tensor: Tensor, *more: Any, **kwargs: Any) -> Any:
            found.append((name, tensor.dtype, tensor.nbytes))
            return original(tensor, *more, **kwargs)

        return call

    with mock.patch.multiple(dist, **{name: recorded(name) for name in ("all_reduce", "all_to_all_single")}):
        yield found


@contextmanager
def counted(size: int) -> Iterator[dict[str, float]]:
    """Bytes that a process sends, by the ring's formula; float64 apart, in which sums of squares are."""
    sent = {"summed": 0.0, "exchanged": 0.0, "gathered": 0.0, "sums": 0.0}
    name = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    reduce, exchange, gather = dist.all_reduce, dist.all_to_all_single, getattr(dist, name)

    def all_reduce(tensor: Tensor, **kwargs: Any) -> Any:
        sent["sums" if tensor.dtype == torch.float64 else "summed"] += 2 * tensor.nbytes * (size - 1) / size
        return reduce(tensor, **kwargs)

    def all_gather(output: Tensor, tensor: Tensor, **kwargs: Any) -> Any:
        assert output.nbytes == size * tensor.nbytes
        sent["sums" if tensor.dtype == torch.float64 else "gathered"] += output.nbytes * (size - 1) / size
        return gather(output, tensor, **kwargs)

    def all_to_all(output: Tensor, tensor: Tensor, theirs: list[int], own: list[int], **kwargs: Any) -> Any:
        at = dist.get_rank(kwargs["group"])
        sent["exchanged"] += (tensor.numel() - own[at]) * tensor.itemsize
        return exchange(output, tensor, theirs, own, **kwargs)

    with mock.patch.multiple(dist, **{"all_reduce": all_reduce, "all_to_all_single": all_to_all, name: all_gather}):
        yield sent


def exchanged_bytes(reg: SpectralRegularizer) -> int:
    """What this process has to send: its rows of other processes' columns, then others' rows of its own columns."""
    total = 0
    for penalty in reg._penalties():
        rank, size = dist.get_rank(penalty._group), penalty._size  # type: ignore[attr-defined]
        for part in penalty._parts(penalty._locals()):  # type: ignore[attr-defined]
            if part.way(size) == "exchanged":
                itemsize = 8 if part.shards[0].local.dtype == torch.float64 else 4
                rows, width = len(part.shards[0].local), len(part.columns(size)[rank])
                numbers = rows * (part.k[1] - width) + (part.shards[0].total - rows) * width
                total += numbers * itemsize * len(part.shards)
    return total


def check_routes_and_bytes(mesh: DeviceMesh) -> None:
    """Role by role: the bytes said are those that are sent, and the cheaper way is taken."""
    size, taken = mesh.size(mesh.ndim - 1), set()
    for dtype in (torch.float32, torch.bfloat16):
        for options in (OPTIONS["both ways"], OPTIONS["depth"], {"keep_ratio": 0.2}):
            _, model = pair(dtype, mesh)
            reg = SpectralRegularizer(model, **options)
            named = dict(model.named_parameters())
            lines = reg.communication().splitlines()
            total: dict[str, float] = {"exchanged": 0, "summed": 0, "gathered": 0}
            for line in lines:
                found = re.fullmatch(
                    r"(\S+) \((\d+) x (\d+)\): exchanged (\d+) bytes, summed (\d+) bytes, gathered (\d+) bytes: (\w+)",
                    line,
                )
                assert found, line
                name, way = found[1], found[7]
                said = {"exchanged": int(found[4]), "summed": int(found[5]), "gathered": int(found[6])}
                assert said[way] == min(said.values()), line
                assert int(found[3]) == named[name].numel()
                total[way] += said[way]
                taken.add(way)
                same = name if options.get("depth") is not True else re.sub(r"\.\d+\.", ".N.", name)
                for other, p in named.items():
                    alike = other if options.get("depth") is not True else re.sub(r"\.\d+\.", ".N.", other)
                    p.requires_grad_(alike == same)
                with counted(size) as sent:
                    reg.accumulate_grad_(1.0)
                if way == "exchanged":  # in parts that may be uneven: at most
                    assert sent[way] == exchanged_bytes(reg) <= said[way], (line, sent)
                else:
                    assert round(sent[way]) == said[way], (line, sent)
                assert all(sent[other] == 0 for other in total if other != way), (line, sent)
                # A sum of r^2 for each parameter; moments of every process; a sum of squares, of coupled layers two.
                coupled = int(found[2]) > 1 and "depth" in options
                own = {"exchanged": 32 * size + (32 if coupled else 16), "summed": 32 * size, "gathered": 0}[way] + 16
                assert round(sent["sums"]) == round(own * int(found[2]) * (size - 1) / size)
            model.requires_grad_()
            with counted(size) as sent:
                reg.accumulate_grad_(1.0)
            for way in ("summed", "gathered"):
                assert sent[way] == pytest.approx(total[way], abs=len(lines)), (way, sent, total)
            assert sent["exchanged"] == exchanged_bytes(reg)
    assert taken == {"exchanged", "summed", "gathered"}


def check_bytes_of_an_even_exchange(mesh: DeviceMesh) -> None:
    """All processes send alike, and as much as is said."""
    size = mesh.size()
    model = fully_shard(nn.Linear(12, 12, bias=False), mesh=mesh)
    reg = SpectralRegularizer(model, k=(8, 6))
    said = 2 * 12 // size * 6 * 4 * (size - 1) // size
    assert f"exchanged {said} bytes" in reg.communication()
    assert reg.communication().endswith(": exchanged")
    with counted(size) as sent:
        reg.accumulate_grad_(1.0)
    assert sent["exchanged"] == said


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


def check_many_small_messages(mesh: DeviceMesh) -> None:
    """One of a kind and dtype for a window; a bucket that is full is sent."""
    whole, model = pair(torch.float32, mesh)
    for m in (whole, model):
        m.conv.double()
        m.head.double()
    for options in (OPTIONS["summed"], OPTIONS["standardized"]):
        wanted = gradients(SpectralRegularizer(whole, **options)(), whole)
        messages: dict[int, list[tuple[str, torch.dtype, int]]] = {}
        for bucket in (sharded._BUCKET, 500):
            model.zero_grad()
            with mock.patch.object(sharded, "_BUCKET", bucket), listed() as messages[bucket]:
                SpectralRegularizer(model, **options).accumulate_grad_(1.0)
            assert_close([full(p.grad) for p in model.parameters()], wanted, 1e-5)
        few, many = (Counter(each[:2] for each in found) for found in messages.values())
        way = "all_to_all_single" if options is OPTIONS["standardized"] else "all_reduce"
        for dtype in (torch.float32, torch.float64):
            # Of float64 are sums of squares, too: of r^2, and of what is exchanged.
            once = 2 if options is OPTIONS["standardized"] else 1
            assert few[way, dtype] == once + 2 * ((way, dtype) == ("all_reduce", torch.float64))
            assert many[way, dtype] >= few[way, dtype], (many, few)
        assert many[way, torch.float32] > few[way, torch.float32]
        large = [nbytes for kind, dtype, nbytes in messages[500] if kind == way and dtype == torch.float32]
        assert max(large) < max(
            n for kind, dtype, n in messages[sharded._BUCKET] if (kind, dtype) == (way, torch.float32)
        )


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


MEMORY = """
import json, sys
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from front_kernels.sharded import Part, Shard, sharded_loss

torch.set_num_threads(1)
size, m, n, count = 2, 2048, 2048, 24
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
xs = [torch.randn(m // size, n) for _ in range(count)]
grads = [torch.zeros_like(x) for x in xs]

def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024

def filled(received, *others, **options):
    received.zero_()  # as messages do: pages that nobody has written take no memory

dist.all_to_all_single = filled
found = {}
for k in ((2, 2), (64, 2048), (1536, 1536)):
    parts = [Part((Shard(x, m // size, m),), k) for x in xs]
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    sharded_loss([[grad] for grad in grads], parts, dist.group.WORLD, 1.0, True)
    found[parts[0].way(size) if k != (2, 2) else "warm"] = peak() - before
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status and clear_refs, which only Linux has")
def test_what_a_process_holds() -> None:
    """Windows of 32 MiB go through messages; of matrices that are summed one matrix's rows at a time, and its columns.

    All rows together are 192 MiB."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}  # what is freed is given back
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(run.stdout)
    print({way: held >> 20 for way, held in found.items()})
    assert found["summed"] < 90 << 20, found
    assert found["exchanged"] < 5 * (32 << 20), found
