"""FRONT+: a penalty on high-frequency energy, to be added to any training loop."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from front_models._choice import Weighting, check_choice, is_real
from front_models._files import plain_names
from front_models._kinds import KINDS, check_skip, is_table, kind_of, skips
from front_models._penalties import Apart, Kept, Member, Penalty, Sharded, Stack, log_communication, mesh_of
from front_models._roles import find_axes, group_roles
from front_models._walk import unwrapped

__all__ = ["RoleEnergy", "SpectralRegularizer"]

Reduction = Literal["sum", "mean"]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class RoleEnergy:
    """How much of a role's energy is penalised.

    Attributes:
        role: the name with `{}` for the layer number, or the parameter's name.
        depth: number of parameters.
        share: ``sum (1 - w) C^2 / sum C^2`` of the deviations from the mean, of every parameter by itself (without
            `depth`); the mean over the parameters that are not constant, NaN where all are.
    """

    role: str
    depth: int
    share: float


class SpectralRegularizer:
    r"""Energy of a model's parameters outside their low frequencies, to be trained away: FRONT's refinement (FRONT+).

    With ``C`` the orthonormal DCT coefficients of a parameter seen as a matrix (see `extract`), standardised, the
    penalty is ``sum (1 - w) C^2``. Under "box" w is 1 in the kept corner and 0 outside; under "exponential" it is
    ``prod_d exp(-decay_d u_d / n_d)``. In a training step, either of

        loss = task + lam * reg();  loss.backward()
        task.backward();  reg.accumulate_grad_(lam)      # no graph, less memory and time

    The second comes after `backward` (of every step that accumulates, once), after a gradient scaler's `unscale_`, and
    before clipping and the optimizer's step. Both give the same gradients.

    Parameters are looked up when the regularizer is made; those that do not require grad when it is called are left out
    (frozen; also of the layers that `depth` counts), shared ones count once. Under DDP every process adds the same;
    with ``find_unused_parameters=True`` only by `accumulate_grad_`: under autograd the penalty uses what the model did
    not, and DDP's backward raises. Under FSDP2, where parameters are DTensors sharded along axis 0, processes transform
    their own rows and share the columns; make the regularizer after `fully_shard`. The first call that is not compiled
    logs what is sent (logger "front_models", level INFO): `communication`.

    Args:
        model: its parameters of floating point, but tables, which the architecture fixes.
        keep_ratio: of n coefficients of an axis ``max(1, int(n * keep_ratio))`` are kept. In (0, 1].
        k: instead: how many, one int or (rows, columns); axes that are shorter are kept whole.
        weighting: "box", or "exponential", which takes `decay` instead of keep_ratio or k.
        decay: rate per axis, one number or (rows, columns), with depth (layers, rows, columns); at least 0.
            Coefficients whose weight is below 1e-8 are not computed.
        depth: the parameters of one role in repeated layers are transformed along the layers too, which couples their
            gradients. True keeps `keep_ratio` of the layers (with `decay`: all whose weight counts); an int keeps so
            many: those that the target will have, since `extract` itself keeps all.
        standardize: ``(x - mean) / (std + 1e-8)`` of every parameter by itself, so that its scale does not matter.
        reduction: "sum", or "mean": divided by the number of elements; standardised, that is about the share of the
            energy, which is (n - 1) / n of n elements, and none in a parameter that is constant.
        skip: roles to leave out, as in `extract`, by the names of the model within DDP and torch.compile,
            which may wrap parts of it; a shared parameter is left out with any of its names. Of a pattern that matches
            nothing there is a warning.

    Raises:
        TypeError, ValueError: An argument is not allowed, or nothing is left to regularize.

    Source: Shen et al., FRONT, ICML 2026, arXiv:2603.07523. The paper's exact formula for the weighting by a decay rate
    was not available when this was written.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        keep_ratio: float | None = None,
        k: int | Sequence[int] | None = None,
        weighting: Weighting = "box",
        decay: float | Sequence[float] | None = None,
        depth: bool | int = False,
        standardize: bool = True,
        reduction: Reduction = "sum",
        skip: Iterable[str] = (),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: got {type(model).__name__}; allowed is a torch.nn.Module")
        if not isinstance(standardize, bool):
            raise TypeError(f"standardize: got {standardize!r}; allowed are True and False")
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction: got {reduction!r}; allowed are 'sum', 'mean'")
        self._choice = check_choice(keep_ratio, k, weighting, decay, depth)
        words = check_skip(skip)
        given: dict[str, object] = {
            "keep_ratio": keep_ratio,
            "k": k,
            "weighting": weighting,
            "decay": decay,
            "depth": depth,
        }
        given |= {"standardize": standardize, "reduction": reduction, "skip": words}
        self._given = ", ".join(f"{name}={value!r}" for name, value in given.items())
        self._standardize = standardize
        self._mean = reduction == "mean"
        self._said = False  # what is sent
        model = unwrapped(model)[0]
        _check_parameters(model)
        _warn_of_unmatched(model, words)
        self._roles = list(_roles(model, words))
        if not self._roles:
            raise ValueError("model: it has no parameters of floating point that are not skipped")

    def __repr__(self) -> str:
        return f"SpectralRegularizer(of {len(self._roles)} roles, {self._given})"

    def is_of(self, model: nn.Module) -> bool:
        """Whether all that it regularizes belongs to the model's modules.

        Raises:
            ValueError: the model has another parameter by now.
        """
        own = {id(module) for module in model.modules()}
        members = [member for role in self._roles for member in role.members]
        if not all(id(member.owner) in own for member in members):
            return False
        for member in members:
            member.check()
        return True

    def __call__(self) -> Tensor:
        """The penalty: a scalar, float32, or float64 where a parameter is. Differentiable (of shards: once).

        Raises:
            ValueError: no parameter requires grad, or the model has another one by now.
        """
        penalties = self._checked()
        loss = penalties[0].loss(self._standardize)
        for penalty in penalties[1:]:
            loss = loss + penalty.loss(self._standardize).to(loss.device)
        return loss / sum(penalty.count for penalty in penalties) if self._mean else loss

    @torch.no_grad()
    def accumulate_grad_(self, lam: float) -> Tensor:
        """Adds ``lam`` times the gradient of the penalty to the parameters' `.grad`; returns the penalty.

        A parameter that has no `.grad` gets one, of its `grad_dtype` (compiled, of its own dtype). No graph is
        recorded. Under torch.compile one graph serves every `lam` (and one the first).

        Raises:
            TypeError, ValueError: `lam` is no finite number; compiled, it is not asked whether it is finite.
            ValueError: no parameter requires grad, or the model has another one by now.
        """
        if isinstance(lam, bool) or not is_real(lam):
            raise TypeError(f"lam: got {lam!r}; allowed is a finite number")
        # NOTE: in a graph lam has no value to ask for.
        if not torch.compiler.is_compiling() and not math.isfinite(lam):
            raise ValueError(f"lam: got {lam!r}; allowed is a finite number")
        penalties = self._checked()
        count = sum(penalty.count for penalty in penalties)
        scale = lam / count if self._mean else float(lam)
        losses = [penalty.accumulate(scale, self._standardize) for penalty in penalties]
        loss = torch.stack([found.to(losses[0].device) for found in losses]).sum()
        return loss / count if self._mean else loss

    def share_of(self, penalty: float) -> float | None:
        """The share of the parameters' energy that this penalty is; None without `standardize`."""
        if not self._standardize:
            return None
        return penalty if self._mean else penalty / sum(found.count for found in self._penalties())

    @torch.no_grad()
    def report(self) -> list[RoleEnergy]:
        """The share of the energy that is penalised, role by role; of frozen parameters too."""
        rows = []
        for role in self._roles:
            shares = []
            kept = self._choice.of(role.shape, 1)
            for member in role.members:
                member.check()
                # All but the mean: 0 where the parameter is constant.
                total = float(_penalties([(member, Kept(kept.matrix, (1, 1), None))], [])[0].loss(True))
                if total != 0:
                    shares.append(float(_penalties([(member, kept)], [])[0].loss(True)) / total)
            rows.append(RoleEnergy(role.template, len(role.members), sum(shares) / len(shares) if shares else math.nan))
        return rows

    def communication(self) -> str:
        """Of sharded parameters: the bytes that a process sends in a call, role by role; empty where none is sharded.

        Of three ways that of the fewest bytes is taken: rows that are transformed are exchanged for columns (forth and
        back, which divides all work among the processes), coefficients are summed, or matrices are gathered in their
        own dtype. The backward of ``reg()`` does it once more. Not counted: about 32 bytes a parameter and process,
        sums of squares and the like.
        """
        sharded = [penalty for penalty in self._penalties() if isinstance(penalty, Sharded)]
        return "\n".join(line for penalty in sharded for line in penalty.communication())

    def _checked(self) -> list[Penalty]:
        penalties = self._penalties()
        if not torch.compiler.is_compiling() and not self._said:
            log_communication(penalties)
            self._said = True
        return penalties

    def _penalties(self) -> list[Penalty]:
        apart: list[tuple[Member, Kept]] = []
        stacks: list[tuple[Sequence[Member], Kept]] = []
        for role in self._roles:
            for member in role.members:
                member.check()
            members = [member for member in role.members if member.param.requires_grad]
            kept = self._choice.of(role.shape, len(members))
            if kept.layers is None:
                apart += [(member, kept) for member in members]
            else:
                stacks.append((members, kept))
        if not apart and not stacks:
            raise ValueError("model: no parameter that is regularized requires grad")
        return _penalties(apart, stacks)


@dataclass(frozen=True)
class _RoleMembers:
    template: str
    shape: tuple[int, ...]
    members: tuple[Member, ...]


def _check_parameters(model: nn.Module) -> None:
    for name, module in model.named_modules():
        # By name: a build of torch need not have it.
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            raise ValueError(
                f"model: {name or 'it'} is a FullyShardedDataParallel, which makes one vector of many parameters; "
                "allowed is a model sharded by torch.distributed.fsdp.fully_shard"
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"model: {name} has no shape before the first forward pass (a lazy module); call the model once"
            )


def _warn_of_unmatched(model: nn.Module, skip: tuple[str, ...]) -> None:
    # Buffers too, and every name of a shared parameter: skip words are shared with `extract`.
    tensors = _tensors(model)
    shapes = {name: tuple(tensors[own].shape) for name, own in plain_names(tensors).items()}
    roles = list(group_roles(shapes, find_axes(shapes)))
    for word in skip:
        patterns = word not in KINDS
        if patterns and not any(skips((word,), "", r.template, name) for r in roles for name in r.names):
            warnings.warn(f"skip: {word!r} matches no role or parameter of the model", stacklevel=3)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """By all names: what is plain of one depends on the others."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _roles(model: nn.Module, skip: tuple[str, ...]) -> Iterator[_RoleMembers]:
    every = dict(model.named_parameters(remove_duplicate=False))
    own = {name: given for name, given in plain_names(_tensors(model)).items() if given in every}
    names: dict[int, list[str]] = defaultdict(list)
    for name in own:
        names[id(every[own[name]])].append(name)
    params = {found[0]: every[own[found[0]]] for found in names.values()}  # shared ones once
    shapes = {name: tuple(param.shape) for name, param in params.items()}
    for role in group_roles(shapes, find_axes(shapes)):
        kind = kind_of(role.template)
        members = tuple(
            Member(name, params[name], model.get_submodule(own[name].rpartition(".")[0]))
            for name in role.names
            if params[name].dtype in _FLOATS
            and params[name].numel()
            and not is_table(name, role.shape)
            and not any(skips(skip, kind, role.template, other) for other in names[id(params[name])])
        )
        if members:
            yield _RoleMembers(role.template, role.shape, members)


def _penalties(apart: Sequence[tuple[Member, Kept]], stacks: Sequence[tuple[Sequence[Member], Kept]]) -> list[Penalty]:
    """As few as there can be: one for all parameters of a device, one for all shards of a mesh."""
    by_device: dict[Any, list[tuple[Member, Kept]]] = defaultdict(list)
    shards: dict[Any, list[tuple[Sequence[Member], Kept]]] = defaultdict(list)
    penalties: list[Penalty] = []
    for member, kept in apart:
        mesh = mesh_of(member)
        if mesh is None:
            by_device[member.param.device].append((member, kept))
        else:
            shards[mesh].append(([member], kept))
    for members, kept in stacks:
        mesh = mesh_of(members[0])
        for member in members[1:]:
            if mesh_of(member) != mesh:
                raise ValueError(
                    f"model: {member.name} is divided among processes in another way than {members[0].name}; with "
                    "depth the layers of a role must be divided alike"
                )
            dtypes = [str(each.param.dtype).removeprefix("torch.") for each in (member, members[0])]
            if dtypes[0] != dtypes[1]:
                raise ValueError(
                    f"model: {member.name} is {dtypes[0]}, and {members[0].name} {dtypes[1]}; with depth the layers of "
                    "a role must be of one dtype"
                )
        if mesh is None:
            penalties.append(Stack(members, kept))
        else:
            shards[mesh].append((members, kept))
    penalties += [Apart(group) for group in by_device.values()]
    penalties += [Sharded(group, *mesh) for mesh, group in shards.items()]
    return penalties
