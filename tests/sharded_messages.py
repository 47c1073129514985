"""What processes send each other for the spectral loss of shards: checks that test_regularizer_sharded.py runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from front_kernels import sharded
from front_models import SpectralRegularizer
from penalties import assert_close, gradients
from shards import OPTIONS, full, pair


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
