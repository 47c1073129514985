"""Which tensors play one role in repeated layers: found from the names and shapes of the whole dict.

The rule. A number in a name is a component between dots (`blocks.3.attn.qkv.weight`), or ends a component after an
underscore (`encoder_layer_3.mlp.0.weight`). The names that share everything before the number are its children, one per
value, and what follows the number is the suffix. The number is a layer axis where

1. it has two values or more, and with an underscore at least one suffix has a dot in it (`ln_1`, `ln_2` are no layers);
2. no suffix has two shapes (a suffix that only some layers have is no conflict: T5's relative_attention_bias, experts);
3. the children have more parts in common than not. A part is the first component of a suffix, and it is common when
   every child has it with at least one equal suffix below (numbers in suffixes are not told apart, so that any number
   of experts counts once): of all parts of all children more than half are common. A Sequential's activation-free
   neighbours (a Linear, a LayerNorm) differ in shapes or in parts, attention and MLP sub-layers of a T5 block in parts.

Only the outermost such number of a name is its layer axis; inner numbers stay in the role's name. Layers are ordered by
value. Suffixes that some layers lack form a role of the layers that have them.

Two limits of names and shapes: neighbours of equal shapes that do different things (an Embedding(8, 8) beside a
Linear(8, 8) without bias) count as layers; and where two nested numbers both repeat (two towers of layers), the outer
one is the depth and the inner layers are matched by number.

A model with one layer cannot show repetition, so two models are looked at together (`joint_axes`): an axis of either
counts for both where the other has at most one child there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

__all__ = ["Role", "find_axes", "group_roles", "joint_axes", "layer_name", "split_name"]

_NUMBER = re.compile(r"0|[1-9][0-9]*")
_NUMBERED = re.compile(r"(.*_)(0|[1-9][0-9]*)")

# prefix before the number -> number -> suffix after it -> tensor name
_Children = dict[str, dict[int, dict[str, str]]]


@dataclass(frozen=True)
class Role:
    """Tensors of one shape that play the same role, in layer order.

    Attributes:
        template: the name with `{}` for the layer number; a plain tensor name where `layers` is empty.
        layers: the layer numbers, increasing; empty for a tensor that is in no layer.
        shape: shape of one tensor.
    """

    template: str
    layers: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in layer order."""
        return tuple(layer_name(self.template, n) for n in self.layers) or (self.template,)

    @property
    def depth(self) -> int:
        """Number of tensors."""
        return max(1, len(self.layers))


def layer_name(template: str, layer: int) -> str:
    """The tensor name of one layer of a role."""
    return template.replace("{}", str(layer))


def split_name(name: str, axes: Set[str]) -> tuple[str, int | None]:
    """The template of a name under these layer axes, and its layer number (None: in no layer)."""
    for prefix, number, suffix in _numbers(name):
        if prefix in axes:
            return f"{prefix}{{}}{'.' * bool(suffix)}{suffix}", number
    return name, None


def find_axes(shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The layer axes of one model, as the part of the names before the number (`blocks.`, `h.encoder_layer_`)."""
    return frozenset(prefix for prefix, kids in _children(shapes).items() if _is_axis(prefix, kids, shapes))


def joint_axes(
    target: Iterable[str], target_axes: Set[str], source: Iterable[str], source_axes: Set[str]
) -> frozenset[str]:
    """The layer axes that count for two models together, from the names and the own axes of each."""
    sides = ((_children(target), target_axes), (_children(source), source_axes))
    return frozenset(
        prefix
        for prefix in target_axes | source_axes
        if all(prefix in axes or len(children.get(prefix, ())) <= 1 for children, axes in sides)
    )


def group_roles(shapes: Mapping[str, tuple[int, ...]], axes: Set[str]) -> list[Role]:
    """The roles of a model under these axes, in the order of their first names."""
    layers: dict[str, list[int]] = {}
    for name in shapes:
        template, number = split_name(name, axes)
        members = layers.setdefault(template, [])
        if number is not None:
            members.append(number)
    roles = []
    for template, numbers in layers.items():
        ordered = tuple(sorted(numbers))
        first = layer_name(template, ordered[0]) if ordered else template
        roles.append(Role(template, ordered, shapes[first]))
    return roles


def _numbers(name: str) -> Iterator[tuple[str, int, str]]:
    """Every number of a name, outermost first: (before it, its value, the suffix after its component)."""
    parts = name.split(".")
    before = ""
    for i, part in enumerate(parts):
        suffix = ".".join(parts[i + 1 :])
        if _NUMBER.fullmatch(part):
            yield before, int(part), suffix
        elif suffix and (match := _NUMBERED.fullmatch(part)):
            yield before + match[1], int(match[2]), suffix
        before += part + "."


def _children(names: Iterable[str]) -> _Children:
    children: _Children = defaultdict(lambda: defaultdict(dict))
    for name in names:
        for prefix, number, suffix in _numbers(name):
            children[prefix][number][suffix] = name
    return children


def _is_axis(prefix: str, children: Mapping[int, Mapping[str, str]], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if len(children) < 2:
        return False
    if prefix.endswith("_") and not any("." in suffix for child in children.values() for suffix in child):
        return False
    seen: dict[str, tuple[int, ...]] = {}
    for child in children.values():
        for suffix, name in child.items():
            if seen.setdefault(suffix, shapes[name]) != shapes[name]:
                return False
    suffixes = [{re.sub(r"\d+", "#", suffix) for suffix in child} for child in children.values()]
    common = {_part(suffix) for suffix in set.intersection(*suffixes)}
    return 2 * len(common) > len({_part(suffix) for suffix in set.union(*suffixes)})


def _part(suffix: str) -> str:
    return suffix.partition(".")[0]
