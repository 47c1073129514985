"""The same function in coordinates where low frequencies hold what matters: aligned weights."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

import front_kernels
from front_models._anatomy import Anatomy, Branch, Linear, Norm, NotAlignableError, find_anatomy
from front_models._config import heads_of, model_type
from front_models._importance import Work, order, stream_last
from front_models._kinds import is_table
from front_models._plan import FLOATS
from front_models._walk import Weights, describe, named_tensors, tied_names, unwrapped

__all__ = [
    "Alignment",
    "align",
    "attention_widths",
    "check_relatives",
    "check_type",
    "fold_norms",
    "head_counts",
    "importance_order",
    "names_of",
    "stream_shares",
    "to_principal_axes",
]

Basis = Literal["weights", "activations"]


@dataclass(frozen=True)
class Alignment:
    """What `align` did.

    Attributes:
        family: the architecture's name.
        rotation: the orthogonal matrix Q, float64 [width, width]: the stream x has become ``Q^T x``. Of a post-norm
            model a permutation.
        energy: share of the stream's energy along each direction before the inverse DCT, falling; float64 [width].
        heads: query heads of a layer, and key/value heads, as far as they are known; attention heads are ordered then.
        untied: names of heads that no longer share their tensor with the embedding, because the norm before them was
            folded into them: a model that loads the weights must not tie them.
        notes: what was left as it is, and why.
    """

    family: str
    rotation: Tensor
    energy: Tensor
    heads: tuple[int, int] | None
    untied: tuple[str, ...]
    notes: tuple[str, ...]


@torch.no_grad()
def align(
    source: Weights,
    *,
    basis: Basis = "weights",
    data: Iterable[Any] | None = None,
    heads: int | tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], Alignment]:
    """The same function by other weights: the residual stream in its principal axes, units and heads by importance.

    Index order inside a trained layer is arbitrary, so a plain crop of coefficients keeps little. Here, norms' scales
    (and biases) are folded into the matrices that read through them; where norms subtract the mean, so do now the
    matrices that write (SliceGPT, Ashkboos et al., 2024). Then the residual stream is rotated by one orthogonal matrix:
    its principal axes by energy, composed with the inverse DCT, so that the first coefficients along the stream hold
    most of the energy. The units of an MLP and the heads of an attention are ordered by importance, never mixed.

    Exact up to rounding for pre-norm models (ViT, GPT-2, Llama). In a post-norm model (BERT) every norm's scale acts on
    the stream itself, and commutes with permutations alone: there its channels are ordered by energy, and norms stay;
    the transfer to a narrower one rotates, not exactly. Where no head but a pooler reads the stream, the hidden states
    that the model returns are rotated, without the last norm's scale and bias (post-norm: in another order):
    `Alignment.notes` says so. Of a file that leaves out the head because it shares the embedding's tensor, `transfer`
    takes the embedding for it.

    Args:
        source: a mapping of names to tensors, a module, or a path; ViT (Hugging Face, timm), BERT, GPT-2 or Llama.
        basis: "weights": principal axes of the summed Gram matrices of everything that reads or writes the stream, each
            divided by its trace; or "activations": of what the norms read, centred and normalised, for `data`.
        data: batches for "activations"; `source` must be a module then. A batch that is a mapping is passed by names,
            a tuple or list as positions, anything else as the one argument.
        heads: number of query heads of a layer, or (query heads, key/value heads). None: from the module's `config`
            or its attentions' `num_heads`, or from config.json beside a file; where that is unknown, heads keep their
            order.

    Returns:
        A state dict with the source's names, dtypes and shapes, and what was done. It is for a model whose head is not
        tied to its embedding: where the source's was (`Alignment.untied`), the two differ now.

    Raises:
        TypeError, ValueError: An argument is not allowed.
        NotAlignableError: The architecture is not known; a ValueError.

    Source: beyond Shen et al., FRONT, ICML 2026; the folding as in Ashkboos et al., SliceGPT, ICLR 2024.
    """
    if basis not in get_args(Basis):
        raise ValueError(f"basis: got {basis!r}; allowed are 'weights', 'activations'")
    if (basis == "activations") != (data is not None):
        raise ValueError(
            f"data: got {type(data).__name__} with basis={basis!r}; 'activations' needs it, 'weights' none"
        )
    if data is not None and (isinstance(data, (str, bytes, Mapping, Tensor)) or not isinstance(data, Iterable)):
        got = repr(data) if isinstance(data, (str, bytes, int, float)) else type(data).__name__
        raise TypeError(f"data: got {got}; allowed are None and an iterable of batches, such as [batch]")
    if basis == "activations" and not isinstance(source, nn.Module):
        raise TypeError(f"source: got {type(source).__name__}; basis='activations' needs a torch.nn.Module")
    tensors, anatomy, counts, work, notes = _begin(source, heads)
    if counts is None:
        notes.append("the number of heads is not known: they keep their order")
    if anatomy.bare():
        notes.append(
            "no head but a pooler reads the stream: the hidden states that the model returns are "
            + ("rotated, and lack the last norm's scale and bias" if anatomy.pre else "in another order")
        )
    if anatomy.pre:
        fold_norms(anatomy, work)
    gram = _gram(anatomy, work) if data is None else _covariance(source, anatomy, data)  # type: ignore[arg-type]
    rotation, energy = _principal_axes(gram, centred=not anatomy.rms) if anatomy.pre else _by_energy(gram)
    if not anatomy.pre:
        notes.append("post-norm: norms act on the stream itself, so that its channels are ordered and not rotated")
    _rotate(anatomy, work, rotation)
    order(anatomy, work, counts)
    shared = tied_names(tensors)
    first = {shared[writer.weight] for writer in anatomy.embeddings}
    untied = tuple(head.weight for head in anatomy.heads if anatomy.pre and shared[head.weight] in first)
    result = _end(tensors, work)
    embeddings = {shared[writer.weight]: writer.weight for writer in anatomy.embeddings}
    if differ := [name for name in untied if not torch.equal(result[name], result[embeddings[shared[name]]])]:
        notes.append(
            f"{', '.join(differ)} no longer equals the embedding: a model that ties them (tie_word_embeddings) would "
            "compute something else with these weights"
        )
    return result, Alignment(anatomy.family, rotation, energy, counts, untied, tuple(notes))


@torch.no_grad()
def importance_order(
    source: Weights, heads: int | tuple[int, int] | None
) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """Units and heads in the order that `align` gives them, all else as it is; and the numbers of heads."""
    tensors, anatomy, counts, work, _ = _begin(source, heads)
    order(anatomy, work, counts)
    return _end(tensors, work), counts


def _begin(
    source: Weights, heads: int | tuple[int, int] | None
) -> tuple[Mapping[str, Tensor], Anatomy, tuple[int, int] | None, Work, list[str]]:
    tensors = named_tensors(source, "source")
    shapes = {name: info.shape for name, info in describe(tensors).items()}
    anatomy = find_anatomy(shapes)
    notes = check_relatives(anatomy, tensors, source)
    counts = head_counts(heads, source, anatomy, shapes)
    work = {name: tensors[name].detach().to(torch.float64).clone() for name in names_of(anatomy)}
    return tensors, anatomy, counts, work, notes


def _end(tensors: Mapping[str, Tensor], work: Work) -> dict[str, Tensor]:
    return {name: (work.get(name, tensor.detach())).to(tensor.dtype, copy=True) for name, tensor in tensors.items()}


def check_relatives(anatomy: Anatomy, tensors: Mapping[str, Tensor], source: object) -> list[str]:
    """Refuse relatives of a known architecture: what is not known to touch the stream would be left as it was. Returns
    what there is to note."""
    known = names_of(anatomy) | {name for head in anatomy.pooled for name in (head.weight, head.bias) if name}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name in known and tensor.dtype not in FLOATS:
            raise NotAlignableError(f"source: {name} is {tensor.dtype}; allowed are {', '.join(map(str, FLOATS))}")
        weight = tensor.is_floating_point() and not is_table(name, shape)
        if name not in known and weight and anatomy.width in shape:
            raise NotAlignableError(
                f"source: {name} of shape {shape} has an axis as long as the residual stream, but the architecture "
                f"{anatomy.family!r}, as it is known here, has no such tensor"
            )
    norms = [branch.norm for branch in anatomy.branches()] + ([] if anatomy.final is None else [anatomy.final])
    biased = next((norm.bias for norm in norms if norm.bias is not None), None)
    if anatomy.rms and biased is not None:
        raise NotAlignableError(
            f"source: {biased} is the bias of a LayerNorm; the architecture {anatomy.family!r} has RMS norms"
        )
    if check_type(anatomy, source, "source"):
        return []
    return [f"source: no config names its model_type; by its tensors' names it was taken for {anatomy.family!r}"]


def check_type(anatomy: Anatomy, weights: object, argument: str) -> bool:
    """Whether a config says what the model is. Refuse one that has a family's names, and may compute something else:
    Gemma's norms scale by 1 + weight, ImageGPT's keep the mean, GPTBigCode's queries, keys and values alternate."""
    kind = model_type(weights)
    if kind and kind not in anatomy.types:
        raise NotAlignableError(
            f"{argument}: model_type {kind!r} has names of the architecture {anatomy.family!r}, but is not known to "
            f"compute the same; allowed are {', '.join(anatomy.types)}"
        )
    return bool(kind)


@torch.no_grad()
def stream_shares(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Of everything in contact with the residual stream: the share of its energy in the lower half of the stream's
    frequencies, ``||D_k w||^2 / ||w||^2`` with k = width // 2, norms folded; of a post-norm model, in the first half of
    the channels."""
    anatomy = find_anatomy({name: info.shape for name, info in describe(tensors).items()})
    work = {name: tensors[name].detach().to(torch.float64).clone() for name in names_of(anatomy)}
    if anatomy.pre:
        fold_norms(anatomy, work)
    shares = {}
    half = max(1, anatomy.width // 2)
    for linear in _linears(anatomy):
        weight = work[linear.weight]
        low = front_kernels.dct(weight, half, linear.stream) if anatomy.pre else weight.narrow(linear.stream, 0, half)
        energy = float(weight.square().sum())
        if energy > 0:
            shares[linear.weight] = float(low.square().sum()) / energy
    return shares


def names_of(anatomy: Anatomy) -> set[str]:
    linears = [*anatomy.writers(), *(reader for reader, _ in anatomy.readers())]
    norms = [*anatomy.norms, *(branch.norm for branch in anatomy.branches())]
    norms += [] if anatomy.final is None else [anatomy.final]
    every: list[Linear | Norm] = [*linears, *norms]
    return {name for each in every for name in (each.weight, each.bias) if name is not None}


def head_counts(
    heads: int | tuple[int, int] | None, source: object, anatomy: Anatomy, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, int] | None:
    """Query heads of a layer, and key/value heads: those given, or those that the source says; None: not known."""
    pair = heads_of(source) if heads is None else _pair(heads)
    if pair is None:
        return None
    query, shared = pair
    for branch in anatomy.branches():
        if branch.kind != "attention":
            continue
        widths = attention_widths(branch, shapes)
        if query < 1 or shared < 1 or query % shared or widths[0] % query or widths[0] // query * shared != widths[1]:
            raise ValueError(
                f"heads: got {pair}, which does not divide the {widths[0]} rows of queries and {widths[1]} of keys"
            )
    return query, shared


def _pair(heads: object) -> tuple[int, int]:
    pair = heads if isinstance(heads, (tuple, list)) else (heads, heads)
    message = f"heads: got {heads!r}; allowed are None, a whole number, and two: (query heads, key/value heads)"
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in pair):
        raise TypeError(message)
    if len(pair) != 2:
        raise ValueError(message)
    return pair[0], pair[1]


def attention_widths(branch: Branch, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Rows of queries and of keys."""
    query, key = branch.reads[0], branch.reads[min(1, len(branch.reads) - 1)]
    return tuple(shapes[read.weight][1 - read.stream] // read.packed for read in (query, key))  # type: ignore[return-value]


def fold_norms(anatomy: Anatomy, work: Work) -> None:
    """Norms become plain: what reads through them takes their scale, and their bias where it can."""
    readers: dict[Norm, list[Linear]] = defaultdict(list)
    for reader, norm in anatomy.readers():
        if norm is not None:
            readers[norm].append(reader)
    for norm, reading in readers.items():
        scale = work[norm.weight]
        bias = None if norm.bias is None else work[norm.bias]
        if bias is not None and bias.any():
            if all(reader.bias is not None for reader in reading):
                for reader in reading:
                    work[reader.bias] += stream_last(work[reader.weight], reader) @ bias  # type: ignore[index]
                bias.zero_()
            elif (scale == 0).any():
                raise ValueError(
                    f"source: {norm.weight} has zeros, and {reading[0].weight} no bias to fold {norm.bias} into"
                )
            else:
                bias /= scale
        for reader in reading:
            weight = stream_last(work[reader.weight], reader)
            weight *= scale
            if not anatomy.rms and (bias is None or not bias.any()):
                weight -= weight.mean(-1, keepdim=True)  # what is read has no mean
        scale.fill_(1)
    if anatomy.final is not None and not anatomy.heads:
        work[anatomy.final.weight].fill_(1)
        if anatomy.final.bias is not None:
            work[anatomy.final.bias].zero_()
    if not anatomy.rms:
        for writer in anatomy.writers():
            weight = stream_last(work[writer.weight], writer)
            weight -= weight.mean(-1, keepdim=True)
            if writer.bias is not None:
                work[writer.bias] -= work[writer.bias].mean()


def _linears(anatomy: Anatomy) -> Iterator[Linear]:
    yield from anatomy.writers()
    for reader, _ in anatomy.readers():
        yield reader


def _gram(anatomy: Anatomy, work: Work) -> Tensor:
    """Sum over all that reads or writes of its Gram matrix along the stream, divided by its trace: [width, width]."""
    total = torch.zeros(anatomy.width, anatomy.width, dtype=torch.float64, device="cpu")
    for linear in _linears(anatomy):
        rows = stream_last(work[linear.weight], linear).reshape(-1, anatomy.width)
        gram = rows.T @ rows
        trace = gram.trace()
        if trace > 0:
            total += (gram / trace).to(total)
    return total


def _covariance(model: nn.Module, anatomy: Anatomy, data: Iterable[Any]) -> Tensor:
    """Sum over what the norms of the model read, centred (but for RMS norms) and normalised: [width, width]."""
    total = torch.zeros(anatomy.width, anatomy.width, dtype=torch.float64, device="cpu")

    called: set[nn.Module] = set()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        called.add(module)
        x = args[0].detach().reshape(-1, anatomy.width).to(torch.float64)
        x = x if anatomy.rms else x - x.mean(1, keepdim=True)
        x = x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        total.add_((x.T @ x).to(total))

    norms = [branch.norm for branch in anatomy.branches()] + ([anatomy.final] if anatomy.final is not None else [])
    model = unwrapped(model)[0]
    modules = {norm.weight: model.get_submodule(norm.weight.removesuffix(".weight")) for norm in norms}
    handles = [module.register_forward_pre_hook(hook) for module in modules.values()]
    seen = False
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # no dropout, no statistics that change
    # What is compiled already calls no hooks that are new; nothing is where dynamo was not imported.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    try:
        with eager:
            for batch in data:
                seen = True
                if isinstance(batch, Mapping):
                    model(**batch)
                elif isinstance(batch, (tuple, list)):
                    model(*batch)
                else:
                    model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not seen:
        raise ValueError("data: it has no batches")
    if silent := [name for name, module in modules.items() if module not in called]:
        raise ValueError(f"source: on these data it does not call the norm of {silent[0]!r}, whose input is needed")
    return total


def _principal_axes(gram: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Q and the energy along its axes before the inverse DCT.

    Q = B D with the orthonormal DCT matrix D: what lies along column u of B becomes a wave of frequency u. A stream
    without mean has nothing along (1, ..., 1), which stays what it is: column 0, and frequency 0.
    """
    width = len(gram)
    dct = front_kernels.dct(torch.eye(width, dtype=torch.float64, device="cpu"), dim=0)
    inside = dct[1:].T if centred else torch.eye(width, dtype=torch.float64, device="cpu")
    values, vectors = torch.linalg.eigh(inside.T @ gram @ inside)
    axes = inside @ vectors.flip(1)
    # A sign is arbitrary; one rule for it makes results repeatable.
    largest = axes.abs().argmax(0, keepdim=True)
    axes = axes * axes.gather(0, largest).sign()
    energy = values.flip(0).clamp_min(0)
    if centred:
        axes = torch.cat([energy.new_full((width, 1), 1 / math.sqrt(width)), axes], 1)
        energy = torch.cat([energy.new_zeros(1), energy])
    return axes @ dct, energy / energy.sum()


def to_principal_axes(anatomy: Anatomy, work: Work) -> None:
    """The residual stream in its principal axes, composed with the inverse DCT."""
    _rotate(anatomy, work, _principal_axes(_gram(anatomy, work), centred=not anatomy.rms)[0])


def _by_energy(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The permutation that orders channels by energy."""
    energy, order = gram.diagonal().sort(descending=True, stable=True)
    return torch.eye(len(gram), dtype=torch.float64, device="cpu")[:, order], energy / energy.sum()


def _rotate(anatomy: Anatomy, work: Work, rotation: Tensor) -> None:
    for linear in _linears(anatomy):
        weight = stream_last(work[linear.weight], linear)
        weight.copy_(weight @ rotation.to(weight.device))
    vectors = [writer.bias for writer in anatomy.writers()]
    norms = [*anatomy.norms, *(branch.norm for branch in anatomy.branches())]
    norms += [] if anatomy.final is None else [anatomy.final]
    vectors += [norm.bias for norm in norms]
    if not anatomy.pre:  # plain norms have a scale of 1, which no rotation changes
        vectors += [norm.weight for norm in norms]
    for name in vectors:
        if name is not None:
            work[name] = work[name] @ rotation.to(work[name].device)
