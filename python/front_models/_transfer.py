"""extract, initialize and transfer: the public calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, MutableMapping, Sequence

import torch
from torch import Tensor, nn

from front_models._blocks import one_layer
from front_models._kinds import check_skip, kind_of, skips
from front_models._learngene import GeneRole, Learngene
from front_models._naming import unmatched, unmatched_notes
from front_models._options import (
    Axes,
    DepthFill,
    Gain,
    MlpAxes,
    Progress,
    Recipe,
    check_extraction,
    check_initialization,
    check_progress,
    check_recipe,
)
from front_models._plan import Item, plan, unusable, without_place
from front_models._report import TransferReport
from front_models._residual import transfer_aligned, transfer_residual
from front_models._roles import Role
from front_models._run import Reader, Rebuild, carry_out, check_depths, check_writable, copy_all
from front_models._walk import Weights, describe, given_names, matrix_shape, named_tensors, tied_names

__all__ = ["extract", "initialize", "transfer"]


@torch.no_grad()
def extract(
    source: Weights,
    *,
    keep_ratio: float = 1.0,
    mlp_axes: MlpAxes = "both",
    depth: bool = True,
    skip: Iterable[str] = (),
    progress: Progress | None = None,
) -> Learngene:
    """The learngene of a model: per role `C_L · (C_M X C_N^T)[:k0, :k1]` of the standardised weights X,
    ``(W - mean) / (std + 1e-8)``.

    C_N[u, i] = cos(pi (2i+1) u / 2N). The tensors of one role in L layers are transformed along the layers too.

    Args:
        source: a mapping of names to tensors of any shape, a module, or a path to weights (file or folder). float16 and
            bfloat16 are computed in float32, float64 in float64; other dtypes and tables are not weights and left out.
        keep_ratio: share in (0, 1] of the coefficients kept along each axis of a matrix, ``max(1, int(n keep_ratio))``;
            along the layers all are.
        mlp_axes: `both`, or `hidden`: the two MLP projections are transformed along their hidden axis only.
        depth: False makes every layer a role of its own, matched by its name.
        skip: roles to leave out: `qkv`, `o`, `mlp`, `norm`, `embed`, `head`, or patterns (with *, ?, [ or .) on role or
            tensor names. A pattern that takes in only some layers of a role drops nothing here, but keeps those
            tensors from being written later.
        progress: called after each role as `progress(done, total, role)`.

    Returns:
        The gene; the source is unchanged.

    Raises:
        TypeError: `source` or an option is of a wrong type.
        ValueError: A tensor has no data (meta) or is not strided, an option is out of range, a skip word is unknown, no
            weights are left to extract, or `mlp_axes="hidden"` finds no MLP projections.

    Source: Shen et al., FRONT, ICML 2026, arXiv:2603.07523.
    """
    check_extraction(keep_ratio, mlp_axes, depth)
    check_progress(progress)
    words = check_skip(skip)
    reader = Reader(named_tensors(source, "source"), keep_ratio=keep_ratio, mlp_axes=mlp_axes, depth=depth)
    wanted: list[Role] = []
    ties: dict[str, str] = {}
    owners: dict[tuple[str, ...], str] = {}
    tied = tied_names(reader.tensors)
    for role in reader.roles:
        kind = kind_of(role.template)
        skipped = all(skips(words, kind, role.template, name) for name in role.names)
        if skipped or unusable(role, reader.infos) is not None:
            continue
        owner = owners.setdefault(tuple(tied[name] for name in role.names), role.template)
        if owner == role.template:
            wanted.append(role)
        else:
            ties[role.template] = owner
    if not wanted:
        raise ValueError("source: nothing to extract; it holds no floating-point weights that are not skipped")
    roles: dict[str, GeneRole] = {}
    for done, role in enumerate(wanted, 1):
        roles[role.template] = reader.extract(role)
        if progress is not None:
            progress(done, len(wanted), role.template)
    return Learngene(roles=roles, ties=ties, keep_ratio=float(keep_ratio), mlp_axes=mlp_axes, depth=depth, skip=words)


@torch.no_grad()
def initialize(
    target: nn.Module | MutableMapping[str, Tensor],
    gene: Learngene,
    *,
    gain: Gain | None = None,
    depth_fill: DepthFill = "zero",
    select_n: int | None = None,
    skip: Iterable[str] = (),
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Start a model from a learngene, in place: `C_M'^-1 pad(C) C_N'^-T · gain · std + mean` at the target's sizes.

    Along the layers the first n = min(L, L', select_n) coefficients are kept and inverted at the target's depth L'.

    Args:
        target: a module, or a mapping of names to its tensors; any strides, shapes and floating-point dtypes. What the
            gene lacks, integer tensors, tables, and a classifier head with another number of classes stay as they are.
        gene: what `extract` gave; it is not changed.
        gain: None; `area` multiplies each transformed axis of a matrix by n_target / n_kept; `ortho` by
            sqrt(n_target / n_source). Never the layers, along which weights are multiplied by sqrt(L / L').
        depth_fill: the depth slots beyond n hold 0 (`zero`) or draws from N(mean, std) of the kept block (`random`); or
            the slots hold each kept coefficient in order, repeated as evenly as possible (`consistence`); or the
            inverse is taken at the source's depth and its first L' layers are used (`repeat`).
        select_n: at most this many depth coefficients are used.
        skip: roles to leave as they are, as in `extract`, besides those that the gene leaves out. The report's notes
            have the patterns that match nothing.
        generator: source of the `random` draws; torch's default generator if None.
        progress: called after each role as `progress(done, total, role)`.

    Returns:
        One row per role of the target.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: An option is out of range, gene and target have nothing in common, a target tensor cannot be written
            in place or is not strided, or `repeat` meets a deeper target. Nothing has been written then.

    Source: Shen et al., FRONT, ICML 2026, arXiv:2603.07523.
    """
    check_initialization(gain, depth_fill, select_n, generator)
    check_progress(progress)
    how = Rebuild(gain, depth_fill, select_n, generator)
    if not isinstance(gene, Learngene):
        raise TypeError(f"gene: got {type(gene).__name__}; allowed is a Learngene")
    if not isinstance(target, (nn.Module, MutableMapping)):
        raise TypeError(f"target: got {type(target).__name__}; allowed are a torch.nn.Module or a state dict")
    own_words = check_skip(skip)
    words = (*gene.skip, *own_words)
    tensors = named_tensors(target, "target")
    aliases = [
        Role(template, gene.roles[owner].layers, gene.roles[owner].shape) for template, owner in gene.ties.items()
    ]
    sources = [role.role for role in gene.roles.values()] + aliases
    infos = describe(tensors)
    items = plan(
        infos,
        tied_names(tensors),
        sources,
        _axes_of(sources),
        depth=gene.depth,
        skip=words,
        argument="target",
    )
    check_depths(items, depth_fill)
    check_writable(target, tensors, items)

    def fetch(item: Item, source: Role) -> GeneRole:
        role = gene.roles[gene.ties.get(source.template, source.template)]
        return role if item.layer is None else one_layer(role, item.layer)

    def write(names: Sequence[str], matrices: Sequence[Tensor]) -> None:
        copy_all([tensors[name] for name in names], matrices)

    rows = carry_out(items, how, fetch, write, tensors.__getitem__, infos, progress, whole=False)
    notes = without_place(sources, items, words, lambda role: gene.ties.get(role.template, role.template))
    names = (*tensors, *(name for role in sources for name in role.names))
    return TransferReport(rows, notes + unmatched_notes(own_words, names))


@torch.no_grad()
def transfer(
    source: Weights,
    like: Weights,
    *,
    keep_ratio: float = 1.0,
    mlp_axes: MlpAxes = "both",
    depth: bool = True,
    skip: Iterable[str] = (),
    gain: Gain | None = None,
    depth_fill: DepthFill | None = None,
    select_n: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    recipe: Recipe = "paper",
    axes: Axes = "all",
    heads: int | tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], TransferReport]:
    """`initialize(copy of like, extract(source))`, one role at a time: new tensors, and the inputs stay as they are.

    That is the paper's recipe. `recipe="aligned"` is another one, for transformers whose residual stream is known (see
    `align`): the source is aligned first, then only the residual stream is transformed, and units, heads and layers are
    chosen.

    Besides source and result, memory holds at most one role's kept coefficients and two matrices, or 16 MiB of smaller
    ones that are transformed together (with `depth_fill="random"` also the drawn coefficients of that role). Tensors of
    one role that are on a GPU are transformed together: its memory holds two sets of that role's coefficients, 256 MiB
    and the workspace of the ops. Nothing is read back before the end. So for the paper's recipe; the aligned one holds
    the source's weights once more, and in float64 (10 bytes more for each of a 16-bit source's), and reads back as it
    goes.

    Args:
        source: the trained model, as in `extract`.
        like: the model to start: a mapping of names to tensors, a module, or the path of weights (from a folder that
            has only a config.json the command `front transfer` builds the model). It gives the result its names,
            shapes, dtypes, devices and ties, and the values of what is not transferred. Roles are matched, skipped
            and reported by the names of the model within torch.compile, of parts too, or DDP.
        keep_ratio, mlp_axes, depth, skip: as in `extract`; `skip` counts for both sides; the report's notes have
            the patterns that match nothing.
        gain, depth_fill, select_n, generator: as in `initialize`; depth_fill None: "zero", along the stream "first".
        progress: called after each role of the target as `progress(done, total, role)`.
        recipe: "paper", or "aligned": `align` the source, then as `axes="residual"`. Where the target's stream is as
            wide, units and heads are put in order and nothing is rotated.
        axes: "all", or "residual": norms are folded, the DCT is taken along the residual stream alone (neither where
            it keeps its width), the first MLP units, heads and positions are taken, and whole layers: the first, and
            from the first again where there are no more (`depth_fill="first"`), or evenly spaced ones ("select"). A
            pre-norm target that is wider, and no deeper or shallower,
            computes what the source does, if it has the same biases, norms' epsilons are next to nothing, and it ties
            no head to the embedding.
        heads: along the residual stream (of either recipe), as in `align`: the source's.

    Returns:
        The new state dict (contiguous tensors; names that are tied in `like` share one tensor) and the report.

    Raises:
        TypeError, ValueError: As in `extract` and `initialize`.

    Source: Shen et al., FRONT, ICML 2026, arXiv:2603.07523.
    """
    check_extraction(keep_ratio, mlp_axes, depth)
    check_progress(progress)
    words = check_skip(skip)
    if check_recipe(
        recipe, axes, depth_fill, keep_ratio=keep_ratio, mlp_axes=mlp_axes, depth=depth, gain=gain, select_n=select_n
    ):
        along = transfer_aligned if recipe == "aligned" else transfer_residual
        found, report = along(source, like, even=depth_fill == "select", heads=heads, skip=words, progress=progress)
        if missing := unmatched(words, found):
            notes = unmatched_notes(missing, named_tensors(source, "source"))
            report = dataclasses.replace(report, notes=report.notes + notes)
        given = given_names(like, found)
        return {given[name]: tensor for name, tensor in found.items()}, report
    if heads is not None:
        raise ValueError(f"heads: got {heads!r} with recipe='paper' and axes='all'; allowed is None")
    depth_fill = "zero" if depth_fill is None else depth_fill
    check_initialization(gain, depth_fill, select_n, generator)
    how = Rebuild(gain, depth_fill, select_n, generator)
    reader = Reader(named_tensors(source, "source"), keep_ratio=keep_ratio, mlp_axes=mlp_axes, depth=depth)
    tensors = named_tensors(like, "like")
    infos, tied = describe(tensors), tied_names(tensors)
    reasons = {role.template: unusable(role, reader.infos) for role in reader.roles}
    usable = [role for role in reader.roles if reasons[role.template] is None]
    others = {template: reason for template, reason in reasons.items() if reason is not None}
    items = plan(infos, tied, usable, _axes_of(usable), depth=depth, skip=words, argument="like", others=others)
    check_depths(items, depth_fill)
    new: dict[str, Tensor] = {}

    def make(name: str) -> Tensor:
        if tied[name] not in new:
            info = infos[name]
            new[tied[name]] = torch.empty(info.shape, dtype=info.dtype, device=info.device)
        return new[tied[name]]

    for item in items:
        for name in (item.role.names[i] for i in item.write):
            # All results first: made between the temporaries of the roles, they would keep freed memory from being
            # reused. Not those on a GPU: what the transform makes there becomes the result.
            if infos[name].device.type == "cpu":
                make(name)

    def fetch(item: Item, source: Role) -> GeneRole:
        exact = depth_fill != "random"  # its draws have the mean and deviation of all that is kept
        limit = matrix_shape(item.role.shape) if exact else None
        return reader.extract(source, layer=item.layer, depth_kept=how.kept_depth(item), limit=limit)

    def write(names: Sequence[str], matrices: Sequence[Tensor]) -> None:
        copied: list[tuple[Tensor, Tensor]] = []
        for name, matrix in zip(names, matrices, strict=True):
            info = infos[name]
            own = matrix.is_cuda and matrix.untyped_storage().nbytes() == matrix.nbytes
            if own and (matrix.device, matrix.dtype) == (info.device, info.dtype):
                new[tied[name]] = matrix.view(info.shape)
            else:
                copied.append((make(name), matrix))
        if copied:
            copy_all(*zip(*copied, strict=True))

    def read(name: str) -> Tensor:
        return new[tied[name]] if tied[name] in new else tensors[name]

    rows = carry_out(items, how, fetch, write, read, infos, progress, whole=True)
    for name in tensors:
        if tied[name] not in new:
            new[tied[name]] = tensors[name].detach().clone(memory_format=torch.contiguous_format)
    shared = tied_names(reader.tensors)
    notes = without_place(usable, items, words, lambda role: tuple(shared[name] for name in role.names))
    notes += unmatched_notes(words, (*tensors, *reader.tensors))
    given = given_names(like, tensors)
    return {given[name]: new[tied[name]] for name in tensors}, TransferReport(rows, notes)


def _axes_of(roles: Iterable[Role]) -> frozenset[str]:
    """The layer axes that the roles were grouped by, which may be fewer than those that their names could have."""
    return frozenset(role.template.partition("{}")[0] for role in roles if role.layers)
