"""refine(): what a checkpoint must hold besides weights, and checkpoints of other runs, which change nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from front_models import refine
from processes import run_processes

DATA = [torch.randn(3, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]


class Averaged(nn.Module):
    """With buffers that no state dict holds; one is made by the first forward pass, and grows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("average", torch.zeros(()), persistent=False)
        self.register_buffer("seen", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.average.mul_(0.9).add_(y.detach().mean() + 1)  # type: ignore[operator, union-attr]
        self.seen = torch.ones(1) if self.seen is None else torch.cat([self.seen, self.seen[-1:] + 1])
        return y * self.average * self.seen.mean()


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))


def task(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def stopped_at(step: int) -> Callable[[nn.Module, Tensor], Tensor]:
    calls = iter(range(100))

    def stopping(model: nn.Module, batch: Tensor) -> Tensor:
        loss = task(model, batch)
        if next(calls) == step:
            raise KeyboardInterrupt
        return loss

    return stopping


def refined(
    make: Callable[[], nn.Module], data: Any = DATA, loss_fn: Callable[..., Tensor] = task, **options: Any
) -> Any:
    torch.manual_seed(0)
    model = make()
    refine(
        model, data, loss_fn, lam=0.1, steps=6, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options
    )  # fmt: skip
    return model


def interrupted(
    checkpoint: Path, make: Callable[[], nn.Module], step: int, data: Any = DATA, checkpoint_every: int = 100
) -> None:
    with pytest.raises(KeyboardInterrupt):
        refined(make, data, stopped_at(step), checkpoint=checkpoint, checkpoint_every=checkpoint_every)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for one, two in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_buffers_that_are_in_no_state_dict(step: int, tmp_path: Path) -> None:
    whole = refined(Averaged)
    interrupted(tmp_path / "run.pt", Averaged, step)
    again = refined(Averaged, checkpoint=tmp_path / "run.pt")
    assert_same(whole, again)
    assert torch.equal(whole.average, again.average)
    assert torch.equal(whole.seen, again.seen)


class Shuffled:
    """A buffer that is shuffled as batches are drawn, by a generator that is seeded as a pass begins."""

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(int(torch.randint(1000, ())))
        items = [torch.full((2, 6), float(i)) for i in range(12)]
        buffer = items[:4]
        for item in items[4:]:
            i = int(torch.randint(4, (), generator=generator))
            yield buffer[i]
            buffer[i] = item


@pytest.mark.parametrize("step", [1, 5])
def test_a_shuffled_buffer_with_its_own_generator(step: int, tmp_path: Path) -> None:
    interrupted(tmp_path / "run.pt", layers, step, Shuffled())
    assert_same(refined(layers, Shuffled()), refined(layers, Shuffled(), checkpoint=tmp_path / "run.pt"))


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("step", [1, 5])
def test_a_loader_whose_workers_persist(step: int, same: bool, tmp_path: Path) -> None:
    """The first pass takes a seed for them from the generator that shuffles, the later ones do not."""

    def rows() -> DataLoader[Tensor]:
        items: Any = torch.linspace(0, 1, 24).repeat(6, 1).T.contiguous()
        return DataLoader(items, batch_size=6, shuffle=True, num_workers=1, persistent_workers=True)

    whole, first = refined(layers, rows()), rows()
    interrupted(tmp_path / "run.pt", layers, step, first)
    assert_same(whole, refined(layers, first if same else rows(), checkpoint=tmp_path / "run.pt"))


def _together(rank: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """With dropout of each process by itself: whole, and interrupted; what is refused."""
    found = []
    for name, wrap in (("ddp", nn.parallel.DistributedDataParallel), ("fsdp", fully_shard)):

        def model(wrap: Callable[[nn.Module], nn.Module] = wrap) -> nn.Module:
            made = wrap(layers())
            torch.manual_seed(rank)
            return made

        own, other = Path(f"{name}{rank}.pt"), Path(f"{name}{1 - rank}.pt")
        whole = refined(model)
        interrupted(own, model, 2)
        assert not own.exists()  # of which other processes might have had another step
        interrupted(own, model, 5, checkpoint_every=3)
        assert len(torch.load(own, weights_only=False)["task_loss"]) == 3
        again = refined(model, checkpoint=own)
        refused = {
            "checkpoint: several processes name '.*common.pt'; allowed are none, and one for each": Path("common.pt"),
            "checkpoint: 1 of 2 processes name no file; allowed are none, and one for each": None if rank else own,
            rf"is of a run with process \[{1 - rank}, 2\], not \[{rank}, 2\]": other,
        }
        for message, path in refused.items():
            with pytest.raises(ValueError, match=message):
                refined(model, checkpoint=path)
        torch.distributed.barrier()  # the other process has read it
        _refused_by_one(rank, model, own)
        if rank:
            own.unlink()
        with pytest.raises(ValueError, match=r"the processes' files are of steps \[6, 0\], by rank"):
            refined(model, checkpoint=own)
        parts = [[getattr(p, "to_local", lambda p=p: p)() for p in made.parameters()] for made in (whole, again)]
        one, two = (torch.cat([p.detach().flatten() for p in made]) for made in parts)
        found.append((one, two))
    return found


def _refused_by_one(rank: int, model: Callable[[], nn.Module], own: Path) -> None:
    """What one process refuses ends the other, too, which leaves its model as it was."""
    kept = own.read_bytes()
    if rank:
        own.write_text("no checkpoint")
    made = model()
    before = [p.detach().clone() for p in made.parameters()]
    error, message = (ValueError, "damaged") if rank else (RuntimeError, "process 1, which trains .*: ValueError: ")
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    with pytest.raises(error, match=message):
        refine(made, DATA, task, lam=0.1, steps=6, optimizer=optimizer, checkpoint=own)
    assert all(map(_equal, made.parameters(), before))
    own.write_bytes(kept)
    folder = Path(f"folder {rank}")
    folder.mkdir()

    def lost(model: nn.Module, batch: Tensor) -> Tensor:
        if rank and folder.exists():
            folder.rmdir()
        return task(model, batch)

    error, message = (OSError, "folder 1") if rank else (RuntimeError, "process 1, .*: FileNotFoundError: ")
    with pytest.raises(error, match=message):
        refined(model, DATA, lost, checkpoint=folder / "run.pt", checkpoint_every=2)
    shutil.rmtree(folder, ignore_errors=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool((getattr(a, "to_local", lambda: a)() == getattr(b, "to_local", lambda: b)()).all())


def test_processes_that_train_together_have_a_checkpoint_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for found in run_processes(_together, 2, tmp_path):
        assert len(found) == 2
        for whole, again in found:
            assert torch.equal(whole, again)


def other_run(model: nn.Module, checkpoint: Path, params: Any, data: Any = DATA) -> None:
    """Refused, and nothing is changed."""
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1)
    try:
        refine(model, data, task, lam=0.1, steps=6, optimizer=optimizer, checkpoint=checkpoint)
    finally:
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert not optimizer.state


def test_checkpoints_of_runs_that_train_other_parameters(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    interrupted(checkpoint, layers, 2)
    model = layers()
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    for params, found in (
        (model[2].parameters(), [names[2:]]),
        (reversed(list(model.parameters())), [names[::-1]]),
        ([{"params": model[0].parameters()}, {"params": model[2].parameters()}], [names[:2], names[2:]]),
        ([*model.parameters(), nn.Parameter(torch.ones(3))], [[*names, "not of the model"]]),
    ):
        message = f"is of a run with parameters of the optimizer {[names]}, not {found}; name another file"
        with pytest.raises(ValueError, match=re.escape(message)):
            other_run(model, checkpoint, params)
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match=re.escape(f"a run with trained parameters {names}, not {names[2:]}; ")):
        other_run(model, checkpoint, model.parameters())


def test_checkpoints_of_other_buffers_extra_states_and_data(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    interrupted(checkpoint, Averaged, 2)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

    bare = Bare()
    with pytest.raises(ValueError, match=re.escape("a run with buffers ['average', 'seen'], not []; name another")):
        other_run(bare, checkpoint, bare.parameters())

    class Stateful(Bare):
        def get_extra_state(self) -> int:
            return 1

    stateful = Stateful()
    with pytest.raises(ValueError, match=r"a run with parameters .*, not .*'_extra_state': None"):
        other_run(stateful, checkpoint, stateful.parameters())
    model = Averaged()
    with pytest.raises(ValueError, match="data: they end after 1 batches"):
        other_run(model, checkpoint, model.parameters(), DATA[:1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, None, "1e", torch.ones(2)])
def test_a_schedule_that_returns_no_weight(value: object) -> None:
    message = f"schedule: returned {value!r} at step 2; allowed is a finite number from 0"
    with pytest.raises(ValueError, match=re.escape(message)):
        refined(layers, schedule=lambda step: value if step == 2 else 1.0)
