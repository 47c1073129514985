"""What becomes of every tensor of the target, decided from names, shapes and dtypes before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

import torch

from front_models._kinds import class_layers, is_table, kind_of, skips
from front_models._roles import Role, find_axes, group_roles, joint_axes, split_name
from front_models._walk import TensorInfo

__all__ = ["FLOATS", "Item", "plan", "source_roles", "unusable", "without_place"]

_NO_SUCH_ROLE = "left: the source has no such role"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class Item:
    """One role of the target.

    Attributes:
        role, kind: the target's role.
        source: the source's role, None where it lacks it.
        layer: the one source layer that is taken, where the source's grouping does not count here; else None.
        action: `transferred`, or why not.
        write: indices of the role's tensors that are written.
    """

    role: Role
    kind: str
    source: Role | None = None
    layer: int | None = None
    action: str = "transferred"
    write: tuple[int, ...] = ()


def unusable(role: Role, infos: Mapping[str, TensorInfo]) -> str | None:
    """Why tensors are no weights to transform, or None."""
    for name in role.names:
        dtype = infos[name].dtype
        if dtype not in FLOATS:  # nor of 8 bits: codes that mean something by their scales alone
            return f"{str(dtype).removeprefix('torch.')} tensor"
        if is_table(name, infos[name].shape):
            return "a table or statistic, not a weight"
        if 0 in infos[name].shape:
            return "no elements"
    return None


def source_roles(infos: Mapping[str, TensorInfo], *, depth: bool) -> tuple[list[Role], frozenset[str]]:
    """Roles and layer axes of a model by itself; every tensor is a role where `depth` is False."""
    shapes = {name: info.shape for name, info in infos.items()}
    axes = _layer_axes(shapes) if depth else frozenset()
    return group_roles(shapes, axes), axes


def _layer_axes(shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Numbered classifier heads stand side by side; they are no layers."""
    return frozenset(axis for axis in find_axes(shapes) if kind_of(f"{axis}{{}}.weight") != "head")


def plan(
    infos: Mapping[str, TensorInfo],
    tied: Mapping[str, str],
    sources: Sequence[Role],
    source_axes: Set[str],
    *,
    depth: bool,
    skip: Sequence[str],
    argument: str,
    others: Mapping[str, str] = MappingProxyType({}),
) -> list[Item]:
    """One item per role of the target, in the target's order.

    Args:
        infos, tied: the target's tensors, and for every name the first name with the same data.
        sources: the source's roles.
        source_axes: the source's layer axes.
        depth: whether there are layer axes at all.
        skip: checked skip words of both sides.
        argument: the target's name in errors.
        others: what else the source holds, which is no weights: template -> what it is.

    Raises:
        ValueError: source and target have no role in common.
    """
    if not sources:
        held = _few(f"{template} ({what})" for template, what in others.items())
        raise ValueError(f"source: holds no floating-point weights, but {held}")
    shapes = {name: info.shape for name, info in infos.items()}
    source_names = [name for role in sources for name in role.names]
    axes = joint_axes(shapes, _layer_axes(shapes), source_names, source_axes) if depth else frozenset()
    found = _by_template(sources, axes)
    class_names = class_layers(shapes)
    items = []
    for role in group_roles(shapes, axes):
        item = Item(role, kind_of(role.template))
        item.source, item.layer = found.get(role.template, (None, None))
        item.action = _decide(item, infos, class_names, skip)
        if item.source is None and role.template in others and item.action == _NO_SUCH_ROLE:
            item.action = f"left: in the source {others[role.template]}"
        items.append(item)
    if all(item.source is None for item in items):
        raise ValueError(
            f"{argument}: has no role in common with the source; the source has {_few(source_names)}, "
            f"{argument} has {_few(infos)}"
        )
    _resolve_ties(items, tied, skip)
    if not any(item.write or item.action.startswith("skipped") for item in items):
        reasons = _few(f"{item.role.template} ({item.action})" for item in items if item.source is not None)
        raise ValueError(f"{argument}: nothing of the source can be transferred: {reasons}")
    return items


def without_place(
    sources: Iterable[Role], items: Iterable[Item], skip: Sequence[str], owner: Callable[[Role], object]
) -> tuple[str, ...]:
    """A note about the source's roles that no role of the target is, and that were not to be left out; or none.

    `owner` is the same for roles of the same tensors: one of them has a place if another has.
    """
    placed = {owner(item.source) for item in items if item.source is not None}
    lost = [
        role.template
        for role in sources
        if owner(role) not in placed
        and any(skips(skip, kind_of(role.template), role.template, name) is None for name in role.names)
    ]
    return (f"of the source without a place in the target: {_few(lost)}",) if lost else ()


def _by_template(sources: Iterable[Role], axes: Set[str]) -> dict[str, tuple[Role, int | None]]:
    """Template under the joint axes -> source role, and its layer where the role's own axis is not a joint one."""
    found: dict[str, tuple[Role, int | None]] = {}
    for role in sources:
        templates = [split_name(name, axes)[0] for name in role.names]
        whole = len(set(templates)) == 1
        for i, template in enumerate(templates):
            if found.setdefault(template, (role, None if whole else i))[0] is not role:
                raise ValueError(
                    f"source: {found[template][0].template} and {role.template} would both start {template}"
                )
    return found


def _decide(item: Item, infos: Mapping[str, TensorInfo], class_names: Set[str], skip: Sequence[str]) -> str:
    role = item.role
    reason = unusable(role, infos)
    if reason is not None:
        return f"left: {reason}"
    words = [skips(skip, item.kind, role.template, name) for name in role.names]
    if all(word is not None for word in words):
        return f"skipped: {words[0]}"
    if item.source is None:
        return _NO_SUCH_ROLE
    if len(item.source.shape) != len(role.shape):
        return f"left: the source has {len(item.source.shape)} axes, the target {len(role.shape)}"
    if role.names[0] in class_names and item.source.shape[0] != role.shape[0]:
        return f"left: {item.source.shape[0]} classes in the source, {role.shape[0]} in the target"
    item.write = tuple(i for i, word in enumerate(words) if word is None)
    skipped = len(words) - len(item.write)
    return f"transferred ({skipped} of {len(words)} tensors skipped)" if skipped else "transferred"


def _resolve_ties(items: Sequence[Item], tied: Mapping[str, str], skip: Sequence[str]) -> None:
    """Let the first role that can write a tied tensor write it once, and none where one of its names is skipped."""
    held: dict[str, str] = {}
    for item in items:
        for name in item.role.names:
            if skips(skip, item.kind, item.role.template, name) is not None:
                held.setdefault(tied[name], name)
    writer: dict[str, str] = {}
    for item in items:
        if not item.action.startswith("transferred"):
            continue
        write = []
        for i in item.write:
            name = item.role.names[i]
            if tied[name] not in held and writer.setdefault(tied[name], name) == name:
                write.append(i)
        item.write = tuple(write)
    for item in items:
        if item.action.startswith("skipped") or (item.action.startswith("transferred") and item.write):
            continue
        owners = [tied[name] for name in item.role.names]
        if all(owner in writer for owner in owners):
            item.action = f"tied: written as {writer[owners[0]]}"
        elif item.action.startswith("transferred"):
            item.action = f"skipped: tied to {next(held[owner] for owner in owners if owner in held)}"


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(repr(name) for name in shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
