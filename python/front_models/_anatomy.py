"""How a transformer's tensors touch its residual stream: who writes to it, who reads it, through which norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Anatomy", "Branch", "Linear", "Norm", "NotAlignableError", "find_anatomy"]

Shapes = Mapping[str, tuple[int, ...]]


class NotAlignableError(ValueError):
    """The residual stream of a model is not known, or those of two models do not go together."""


@dataclass(frozen=True)
class Linear:
    """A tensor with one axis along the residual stream, and the bias of its results, if there is one."""

    weight: str
    bias: str | None
    stream: int  # which axis
    packed: int = 1  # matrices stacked along the other axis: queries, keys, values
    role: str = ""  # of an embedding or a head: what it is, by which two models' are matched


@dataclass(frozen=True)
class Norm:
    weight: str
    bias: str | None
    role: str = ""  # of those in no layer


@dataclass(frozen=True)
class Branch:
    """An attention or an MLP: it reads the stream through a norm and adds what it finds to the stream.

    `reads`: of an attention (queries, keys, values) or one packed matrix; of an MLP one, or gate and up.
    """

    kind: str  # "attention" or "mlp"
    norm: Norm  # before it, or after the addition where the model is post-norm
    reads: tuple[Linear, ...]
    write: Linear


@dataclass(frozen=True)
class Anatomy:
    """Attributes:
    family: such as "gpt2".
    types: `model_type` of the configs whose models are known to compute what the family does.
    width: length of the residual stream.
    rms: norms that do not subtract the mean.
    pre: norms stand before the branches, so that the stream itself is never normalised.
    embeddings: what writes to the stream first.
    norms: other norms of a post-norm model, the one after the embeddings first.
    layers: branches by layer.
    final: the norm before the heads; None where there is none.
    heads: what reads the stream at the end.
    pooled: what reads the results of a head.
    prefix: what stands before the names, and `layer`, with it, before those of a layer: "model.", "model.layers.{}.".
    words: the head that shares the embedding's tensor where there is none other: a name, whether it is there or not;
        None: the family has no such head.
    ties: whether that is so where a config does not say otherwise.
    """

    family: str
    types: tuple[str, ...]
    prefix: str
    layer: str
    width: int
    rms: bool
    pre: bool
    embeddings: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    layers: tuple[tuple[Branch, ...], ...]
    final: Norm | None
    heads: tuple[Linear, ...]
    pooled: tuple[Linear, ...]
    words: str | None
    ties: bool

    def bare(self) -> bool:
        """Whether nothing but a pooler reads the stream, so that hidden states are what the model returns."""
        return not self.pooled and all(head.role == "pooler.dense" for head in self.heads)

    def branches(self) -> Iterator[Branch]:
        for layer in self.layers:
            yield from layer

    def through(self) -> Iterator[tuple[Branch, Norm]]:
        """Every branch, and the norm whose results it reads: of a post-norm model that of the branch before."""
        before = None if self.pre else self.norms[0]
        for branch in self.branches():
            yield branch, before or branch.norm
            before = None if self.pre else branch.norm

    def writers(self) -> Iterator[Linear]:
        """Everything that writes to the stream."""
        yield from self.embeddings
        for branch in self.branches():
            yield branch.write

    def readers(self) -> Iterator[tuple[Linear, Norm | None]]:
        """Everything that reads the stream, and through which norm."""
        for branch in self.branches():
            for read in branch.reads:
                yield read, branch.norm
        for head in self.heads:
            yield head, self.final


@dataclass(frozen=True)
class _Family:
    name: str
    types: tuple[str, ...]
    layer: str
    # kind, norm, reads, write
    branches: tuple[tuple[str, str, tuple[str, ...], str], ...]
    embeddings: tuple[str, ...]
    final: str | None
    heads: tuple[str, ...]  # names without prefix, too
    rms: bool = False
    pre: bool = True
    norms: tuple[str, ...] = ()  # others, in a post-norm model
    transforms: tuple[str, ...] = ()  # whose results are in the stream's coordinates, because a tied matrix reads them
    # Heads, and what reads that one's results instead of the stream where it is there.
    pooled: tuple[tuple[str, ...], ...] = ()
    words: str | None = None  # the head that may be tied to the embedding, and left out of files then
    ties: bool = False  # without a word of the config


_VIT_TYPES = ("vit", "deit", "vit_msn", "ijepa")
_VIT_TOKENS = ("cls_token", "distillation_token", "position_embeddings", "patch_embeddings.projection")
_VIT_EMBEDDINGS = tuple(f"embeddings.{name}" for name in _VIT_TOKENS)
_VIT_HEADS = ("classifier", "cls_classifier", "distillation_classifier", "pooler.dense")

_FAMILIES = (
    _Family(
        "gpt2",
        ("gpt2",),
        "h.{}",
        (("attention", "ln_1", ("attn.c_attn",), "attn.c_proj"), ("mlp", "ln_2", ("mlp.c_fc",), "mlp.c_proj")),
        ("wte", "wpe"),
        "ln_f",
        ("lm_head", "score"),
        words="lm_head",
        ties=True,
    ),
    _Family(
        "timm-vit",
        ("vit", "deit"),
        "blocks.{}",
        (("attention", "norm1", ("attn.qkv",), "attn.proj"), ("mlp", "norm2", ("mlp.fc1",), "mlp.fc2")),
        ("cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed.proj"),
        "norm",
        ("head", "head_dist"),
    ),
    _Family(
        "vit",
        _VIT_TYPES,
        "layers.{}",
        (
            ("attention", "layernorm_before", tuple(f"attention.{w}_proj" for w in "qkv"), "attention.o_proj"),
            ("mlp", "layernorm_after", ("mlp.fc1",), "mlp.fc2"),
        ),
        _VIT_EMBEDDINGS,
        "layernorm",
        _VIT_HEADS,
    ),
    _Family(
        "vit",
        _VIT_TYPES,
        "encoder.layer.{}",
        (
            (
                "attention",
                "layernorm_before",
                tuple(f"attention.attention.{word}" for word in ("query", "key", "value")),
                "attention.output.dense",
            ),
            ("mlp", "layernorm_after", ("intermediate.dense",), "output.dense"),
        ),
        _VIT_EMBEDDINGS,
        "layernorm",
        _VIT_HEADS,
    ),
    _Family(
        "llama",
        ("llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "helium", "granite", "seed_oss"),
        "layers.{}",
        (
            ("attention", "input_layernorm", tuple(f"self_attn.{w}_proj" for w in "qkv"), "self_attn.o_proj"),
            ("mlp", "post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
        ),
        ("embed_tokens",),
        "norm",
        ("lm_head", "score"),
        rms=True,
        words="lm_head",
    ),
    _Family(
        "bert",
        ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "ernie"),
        "encoder.layer.{}",
        (
            (
                "attention",
                "attention.output.LayerNorm",
                tuple(f"attention.self.{word}" for word in ("query", "key", "value")),
                "attention.output.dense",
            ),
            ("mlp", "output.LayerNorm", ("intermediate.dense",), "output.dense"),
        ),
        tuple(f"embeddings.{name}" for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")),
        None,
        (
            "pooler.dense",
            *("cls.predictions.transform.dense", "cls.predictions.decoder", "lm_head.dense", "lm_head.decoder"),
            *("qa_outputs", "classifier", "classifier.dense"),
        ),
        pre=False,
        norms=("embeddings.LayerNorm", "cls.predictions.transform.LayerNorm", "lm_head.layer_norm"),
        transforms=("cls.predictions.transform.dense", "lm_head.dense"),
        pooled=(("pooler.dense", "classifier", "cls.seq_relationship"), ("classifier.dense", "classifier.out_proj")),
    ),
)
# The same by other names: RoBERTa's, and DeiT's with a teacher.
_SAME = {
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.decoder": "cls.predictions.decoder",
    "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
    "cls_classifier": "classifier",
}


def find_anatomy(shapes: Shapes, argument: str = "source") -> Anatomy:
    """The anatomy of a model, from names and shapes.

    Raises:
        NotAlignableError: the names are of no known family, or tensors are missing.
    """
    for family in _FAMILIES:
        prefix = _prefix(family, shapes)
        if prefix is not None:
            return _build(family, prefix, shapes, argument)
    known = ", ".join(dict.fromkeys(family.name for family in _FAMILIES))
    raise NotAlignableError(
        f"{argument}: its names are of no architecture whose residual stream is known; allowed are {known}"
    )


def _prefix(family: _Family, shapes: Shapes) -> str | None:
    """What stands before the family's names: `transformer.`, or nothing."""
    wanted = [
        f"{family.layer.format(0)}.{word}.weight" for branch in family.branches for word in (branch[1], branch[3])
    ]
    for name in shapes:
        if name.endswith(wanted[0]):
            prefix = name.removesuffix(wanted[0])
            if (not prefix or prefix.endswith(".")) and all(prefix + word in shapes for word in wanted):
                return prefix
    return None


def _build(family: _Family, prefix: str, shapes: Shapes, argument: str) -> Anatomy:
    first = f"{prefix}{family.layer.format(0)}.{family.branches[0][1]}"
    width = shapes[f"{first}.weight"][0]
    transposed = _transposed(family, prefix, width, shapes, argument)

    def norm(name: str, role: str = "") -> Norm:
        return Norm(_found(f"{name}.weight", shapes, argument), _bias(name, shapes), _SAME.get(role, role))

    def linear(name: str, stream: int, packed: int = 1, role: str = "") -> Linear:
        weight = _found(f"{name}.weight", shapes, argument)
        return Linear(weight, _bias(name, shapes), stream, packed, _SAME.get(role, role))

    layers: list[tuple[Branch, ...]] = []
    while f"{prefix}{family.layer.format(len(layers))}.{family.branches[0][1]}.weight" in shapes:
        layer = f"{prefix}{family.layer.format(len(layers))}"
        layers.append(
            tuple(
                Branch(
                    kind,
                    norm(f"{layer}.{before}"),
                    tuple(linear(f"{layer}.{read}", 0 if transposed else 1, _packing(kind, reads)) for read in reads),
                    linear(f"{layer}.{write}", 1 if transposed else 0),
                )
                for kind, before, reads, write in family.branches
            )
        )

    parts = prefix.split(".")[:-1]
    outer = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]

    def present(roles: Sequence[str]) -> dict[str, str]:
        """Those that there are, by name: after the prefix, a part of it, or nothing."""
        names = {role: [f"{start}{role}" for start in outer if f"{start}{role}.weight" in shapes] for role in roles}
        return {found[0]: role for role, found in names.items() if found}

    others = {prefix + role: role for role in family.norms[:1]} | present(family.norms)
    pooled = {name: role for head, *after in family.pooled if present([head]) for name, role in present(after).items()}
    return Anatomy(
        family=family.name,
        types=family.types,
        prefix=prefix,
        layer=f"{prefix}{family.layer}.",
        width=width,
        rms=family.rms,
        pre=family.pre,
        embeddings=(
            *_embeddings(family, prefix, shapes),
            *(linear(name, 0, role=role) for name, role in present(family.transforms).items()),
        ),
        norms=tuple(norm(name, role) for name, role in others.items()),
        layers=tuple(layers),
        final=None if family.final is None else norm(prefix + family.final),
        heads=tuple(linear(n, 1, role=role) for n, role in present(family.heads).items() if n not in pooled),
        pooled=tuple(linear(name, 1, role=role) for name, role in pooled.items()),
        words=None if family.words is None else f"{outer[-1 if len(outer) < 2 else 1]}{family.words}.weight",
        ties=family.ties,
    )


def _transposed(family: _Family, prefix: str, width: int, shapes: Shapes, argument: str) -> bool:
    """Whether matrices are [in, out], as of GPT-2's Conv1D: its queries, keys and values, three times as long, tell."""
    kind, _, reads, write = family.branches[0]
    if _packing(kind, reads) == 1:
        return False
    names = [f"{prefix}{family.layer.format(0)}.{word}.weight" for word in (reads[0], write)]
    packed, out = (shapes[_found(name, shapes, argument)] for name in names)
    for one, two in ((packed, out), (packed[::-1], out[::-1])):
        if one == (3 * two[1], width) and two[0] == width:
            return one is not packed
    raise NotAlignableError(
        f"{argument}: {names[0]} of shape {packed} holds no queries, keys and values of one length for {names[1]} of "
        f"shape {out} and norms of length {width}"
    )


def _packing(kind: str, reads: tuple[str, ...]) -> int:
    return 3 if kind == "attention" and len(reads) == 1 else 1


def _embeddings(family: _Family, prefix: str, shapes: Shapes) -> Iterator[Linear]:
    for word in family.embeddings:
        name = prefix + word
        if name in shapes:
            yield Linear(name, None, len(shapes[name]) - 1, role=word)
        elif f"{name}.weight" in shapes:
            convolution = len(shapes[f"{name}.weight"]) > 2
            stream = 0 if convolution else 1
            yield Linear(f"{name}.weight", _bias(name, shapes) if convolution else None, stream, role=word)


def _bias(name: str, shapes: Shapes) -> str | None:
    return f"{name}.bias" if f"{name}.bias" in shapes else None


def _found(name: str, shapes: Shapes, argument: str) -> str:
    if name not in shapes:
        raise NotAlignableError(f"{argument}: has no tensor {name!r}, which its architecture needs")
    return name
