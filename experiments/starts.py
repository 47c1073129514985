"""Ways to start a target: each takes the trained source, the target as random numbers, a seed and the task's data, and
gives the target's state dict. Sources are trained beforehand (`sources.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import front_models
from experiments import rivals
from experiments.tasks import Data, Size
from front_models._align import _rotate
from front_models._anatomy import find_anatomy
from front_models._config import heads_of
from front_models._options import DepthFill

State = dict[str, Tensor]
Make = Callable[[nn.Module, nn.Module, int, Data], State]
BATCHES = 4  # of the source's activations
_PACKED = re.compile(r"(.*\.)(?:qkv|c_attn)(\.\w+)")


@dataclass(frozen=True)
class Start:
    """Attributes:
    make: source, target, seed, data -> state dict.
    refined: the source is the refined one (FRONT+), whose steps count.
    batches: that the source is applied to.
    fits: of which pairs of sizes it is a way.
    """

    make: Make
    refined: bool = False
    batches: int = 0
    fits: Callable[[Size, Size], bool] = lambda source, target: True


def randomise(model: nn.Module, *, fan_in: bool) -> None:
    """N(0, 0.02^2) for all weights, as GPT-2 and ViT have it; or N(0, 1 / fan_in), and N(0, 1) for what is looked up or
    learnt per position, unless a head reads it too. Biases are 0."""
    tied = bool(getattr(model, "tied", False))
    for name, p in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.LayerNorm):
            continue
        if name.endswith("bias"):
            nn.init.zeros_(p)
        else:
            looked_up = (isinstance(owner, nn.Embedding) and not tied) or not name.endswith("weight")
            nn.init.normal_(p, std=(1.0 if looked_up else p[0].numel() ** -0.5) if fan_in else 0.02)


def _random(fan_in: bool) -> Make:
    def make(_: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
        torch.manual_seed(seed)
        randomise(like, fan_in=fan_in)
        return like.state_dict()

    return make


def _split(state: State) -> State:
    """Packed queries, keys and values as matrices of their own."""
    result: State = {}
    for name, tensor in state.items():
        if found := _PACKED.fullmatch(name):
            result |= {found[1] + word + found[2]: part for word, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            result[name] = tensor
    return result


def _joined(state: State, like: State) -> State:
    result = {}
    for name in like:
        if found := _PACKED.fullmatch(name):
            result[name] = torch.cat([state[found[1] + word + found[2]] for word in "qkv"])
        else:
            result[name] = state[name]
    return result


def _paper(*, split: bool = False, shuffle: bool = False, **options: Any) -> Make:
    def make(source: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
        generator = torch.Generator().manual_seed(seed)
        old, new = source.state_dict(), like.state_dict()
        if shuffle:
            old = shuffled(old, seed)
        if split:
            made = front_models.transfer(_split(old), _split(new), generator=generator, **options)[0]
            return _joined(made, new)
        return front_models.transfer(old, new, generator=generator, **options)[0]

    return make


def shuffled(state: State, seed: int) -> State:
    """The same numbers in every tensor, in any order."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        for name, tensor in state.items()
    }


def rotated(state: State, seed: int) -> State:
    """The same function of an aligned model, its residual stream in random axes but for (1, ..., 1)."""
    anatomy = find_anatomy({name: tuple(tensor.shape) for name, tensor in state.items()})
    generator = torch.Generator().manual_seed(seed)
    n, axes = anatomy.width, []
    for _ in range(2):
        drawn = torch.randn(n, n - 1, dtype=torch.float64, generator=generator)
        axes.append(torch.linalg.qr(torch.cat([torch.ones(n, 1, dtype=torch.float64), drawn], 1))[0])
    work = {name: tensor.double() for name, tensor in state.items()}
    _rotate(anatomy, work, axes[0] @ axes[1].T)
    return {name: work[name].to(tensor.dtype) for name, tensor in state.items()}


def _aligned(*, shuffle: bool = False, depth_fill: DepthFill = "first") -> Make:
    def make(source: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
        if shuffle:
            source.load_state_dict(shuffled(source.state_dict(), seed))
        return front_models.transfer(source, like, recipe="aligned", depth_fill=depth_fill)[0]

    return make


def _activations(source: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
    batches = [data.batch(rows)[0] for rows in data.order(BATCHES, seed)]
    return _residual(front_models.align(source, basis="activations", data=batches)[0], like)


def _random_axes(source: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
    return _residual(rotated(front_models.align(source)[0], seed), like)


def _residual(state: State | nn.Module, like: nn.Module) -> State:
    return front_models.transfer(state, like, axes="residual", depth_fill="first")[0]


def _rival(how: Callable[..., State], *options: Any, seeded: bool = False) -> Make:
    def make(source: nn.Module, like: nn.Module, seed: int, data: Data) -> State:
        heads = heads_of(source)
        assert heads is not None
        options_of = (heads[0], *options, *([seed] if seeded else []))
        return how(source.state_dict(), like.state_dict(), *options_of)

    return make


def _narrower(source: Size, target: Size) -> bool:
    return target.width <= source.width


def _thinner(source: Size, target: Size) -> bool:
    return target.width < source.width


def _grown(source: Size, target: Size) -> bool:
    return target.width >= source.width and target.layers >= source.layers


def _deeper(source: Size, target: Size) -> bool:
    return _grown(source, target) and target.layers > source.layers


def _shallower(source: Size, target: Size) -> bool:
    return target.layers <= source.layers


RANDOM = {"random": Start(_random(False)), "random, fan-in": Start(_random(True))}
PAPER = {
    "paper": Start(_paper()),
    "paper, area": Start(_paper(gain="area")),
    "paper, ortho": Start(_paper(gain="ortho")),
    "paper, split": Start(_paper(split=True)),
    "paper, area, split": Start(_paper(split=True, gain="area")),
    "paper, ortho, split": Start(_paper(split=True, gain="ortho")),
    "paper, ortho, hidden axes": Start(_paper(split=True, gain="ortho", mlp_axes="hidden")),
    "paper, ortho, layers by name": Start(_paper(split=True, gain="ortho", depth=False)),
    "paper, ortho, random depth": Start(_paper(split=True, gain="ortho", depth_fill="random")),
    "paper, ortho, consistence": Start(_paper(split=True, gain="ortho", depth_fill="consistence")),
    "paper, ortho, repeat": Start(_paper(split=True, gain="ortho", depth_fill="repeat"), fits=_shallower),
}
PLUS = {
    "FRONT+": Start(_paper(), refined=True),
    "FRONT+, ortho": Start(_paper(gain="ortho"), refined=True),
    "FRONT+, ortho, split": Start(_paper(split=True, gain="ortho"), refined=True),
}
ALIGNED = {
    "aligned": Start(_aligned()),
    "aligned, activations": Start(_activations, batches=BATCHES),
    "aligned, even layers": Start(
        _aligned(depth_fill="select"), fits=lambda source, target: target.layers != source.layers
    ),
}
RIVALS = {
    "selection": Start(_rival(rivals.selection, rivals.even_layers), fits=_narrower),
    "selection, first layers": Start(_rival(rivals.selection, rivals.first_layers), fits=_narrower),
    "corner, first layers": Start(_rival(rivals.corner, rivals.first_layers)),
    "corner, even layers": Start(_rival(rivals.corner, rivals.even_layers)),
    "bilinear": Start(_rival(rivals.bilinear)),
    "net2net": Start(_rival(rivals.widened, rivals.silent_layers, seeded=True), fits=_grown),
    "stacking": Start(_rival(rivals.widened, rivals.first_layers, seeded=True), fits=_deeper),
    "interleaving": Start(_rival(rivals.widened, rivals.even_layers, seeded=True), fits=_deeper),
}
CONTROLS = {
    "residual axis, not aligned": Start(lambda source, like, seed, data: _residual(source, like), fits=_thinner),
    "shuffled, paper": Start(_paper(shuffle=True)),
    "shuffled, paper, ortho, split": Start(_paper(shuffle=True, split=True, gain="ortho")),
    "shuffled, aligned": Start(_aligned(shuffle=True)),
    "random axes": Start(_random_axes, fits=_thinner),
}
STARTS: dict[str, Start] = RANDOM | PAPER | PLUS | ALIGNED | RIVALS | CONTROLS
