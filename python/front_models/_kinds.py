"""What a role is for, by its name: the words of `skip`, heads, tables, and the two projections of an MLP."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise

from front_models._roles import Role

__all__ = ["KINDS", "check_skip", "class_layers", "hidden_axes", "is_table", "kind_of", "skips"]

KINDS = ("qkv", "o", "mlp", "norm", "embed", "head", "other")
_PATTERN_CHARACTERS = "*?[."

_NORM = re.compile(r".*norm\d*|.*norm_\w+|ln|ln_\w+|bn\d*|(.*_)?layernorm(_.*)?")
_QKV = re.compile(
    r"qkv|wqkv|c_attn|query|key|value|query_key_value|qkv_proj|kv|[qkv]|w[qkv]|[qkv]_proj|[qkv]_lin|to_(q|k|v|kv|qkv)"
    r"|in_proj|[qk]v?_[ab]_proj\w*|kv_a_proj\w*|(in|[qkv])_proj_(weight|bias)|[qkv]_bias|bias_[kv]"
)
_OUT = re.compile(r"o|wo|o_proj|out_proj|c_proj|proj|to_out|out_lin|out|dense")
_ATTENTION = re.compile(r".*att(n|ention).*", re.IGNORECASE)
_MLP = re.compile(
    r"mlp\w*|ffn\w*|feed_forward\w*|feedforward|intermediate|fc[12]|densereludense|densegatedactdense|experts"
    r"|shared_experts?|block_sparse_moe|lin(ear)?_?[12]|(gate|up|down|gate_up)_proj|c_fc|fc_(in|out)|dense_\w*h_to_\w*h"
)
_EMBED = re.compile(
    r"\w*embed(s|ding|dings|der)?(_\w+)?|w[tp]e|(cls|dist|mask|class|reg|register)_tokens?|shared|conv_proj|patch_embed\w*"
)
# Two layers are named after the head that they stand before: DistilBERT's pre_classifier, EfficientNet's conv_head.
_HEAD = re.compile(
    r"(?!pre_classifier|conv_head)(heads?|head_\w+|\w+_head|classifier|\w+_classifier|fc|score|predictions)"
)
# What may stand between a head and its output layer's weight; anything else (transform, attn) is an inner layer.
_HEAD_INNER = re.compile(r"\d+|heads?|fc|out_proj|decoder|linear|out|proj|classifier|output|predictions|score")
_TABLE = re.compile(
    r"running_(mean|var)|num_batches_tracked|(original_)?inv_freq|masked_bias|position_ids|relative_position_index"
    r"|relative_coords_table|attn_mask|causal_mask|freqs_cis|(sin|cos)_cached?"
)
# Buffers of torch.nn.utils.parametrizations: orthogonal's base, spectral_norm's vectors.
_PARAMETRIZED = ("base", "_u", "_v")
_ROTARY = re.compile(r"rotary\w*|rope|freqs|sin|cos")


def kind_of(template: str) -> str:
    """`qkv`, `o`, `mlp`, `norm`, `embed`, `head` or `other`, from the components of a role's name."""
    parts = [part for part in template.split(".") if part != "{}" and not part.isdecimal()]
    leaf_is_value = len(parts) > 1 and parts[-1] in ("weight", "bias", "gamma", "beta")
    module = parts[:-1] if leaf_is_value else parts
    lower = [part.lower() for part in module] or [""]
    last = lower[-1]
    attention = any(_ATTENTION.fullmatch(part) for part in lower[:-1])
    mlp = any(_MLP.fullmatch(part) for part in lower)
    if _NORM.fullmatch(last):
        return "norm"
    if _head_prefix(template) is not None:
        return "head"
    if _QKV.fullmatch(last) and not mlp:
        return "qkv"
    if _OUT.fullmatch(last) and (attention or last in ("o", "o_proj", "to_out")) and not mlp:
        return "o"
    # BERT's second projection has no name of its own: `output.dense`, as the attention's, but directly in the layer.
    if mlp or (lower[-2:] == ["output", "dense"] and len(parts) < template.count(".") + 1):
        return "mlp"
    if any(_EMBED.fullmatch(part) for part in lower):
        return "embed"
    return "other"


def is_table(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor holds statistics or a table that the architecture fixes, not learnt weights."""
    parts = name.split(".")
    mask = len(shape) == 4 and shape[:2] == (1, 1) and parts[-1] == "bias" and len(parts) > 1
    if mask and _ATTENTION.fullmatch(parts[-2]):
        return True
    if len(parts) > 3 and parts[-4] == "parametrizations" and parts[-1] in _PARAMETRIZED:
        return True
    rotary = len(parts) > 1 and _ROTARY.fullmatch(parts[-2]) and _ROTARY.fullmatch(parts[-1])
    return bool(rotary or _TABLE.fullmatch(parts[-1]))


def _head_prefix(template: str) -> str | None:
    """The name of the classifier head that a role is in, up to the word that says so; heads are outside all layers."""
    parts = template.split(".")
    for i, part in enumerate(parts[:-1]):
        if part == "{}" or part.isdecimal():
            return None
        if _HEAD.fullmatch(part):
            return ".".join(parts[: i + 1])
    return None


def class_layers(shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The tensors of classifier heads whose axis 0 counts classes.

    That is the last matrix of a head (not one of its inner layers) and the vectors of its length beside it.
    """
    heads: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        prefix = _head_prefix(name)
        if prefix is not None:
            heads[prefix].append(name)
    found: set[str] = set()
    for prefix, names in heads.items():
        outer = [n for n in names if all(_HEAD_INNER.fullmatch(p) for p in _inner(n, prefix)) and kind_of(n) == "head"]
        matrices = [n for n in outer if len(shapes[n]) >= 2]
        vectors = [n for n in outer if len(shapes[n]) == 1]
        if not matrices:
            # A tied output matrix may be left out of the file; its bias stays.
            found.update(n for n in vectors if not _inner(n, prefix))
            continue
        for last in _last_layers(matrices, prefix, shapes):
            beside: list[list[str]] = [_inner(last, prefix), []]
            found.add(last)
            found.update(n for n in vectors if _inner(n, prefix) in beside and shapes[n][0] == shapes[last][0])
    return frozenset(found)


def _last_layers(matrices: list[str], prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The output matrices of a head: the last one of a chain, or that of each numbered head side by side."""
    chained = all(shapes[b][1] == shapes[a][0] for a, b in pairwise(matrices))
    by_number = {(_inner(n, prefix) or [""])[0]: n for n in matrices}
    if chained or not all(number.isdecimal() for number in by_number):
        return [matrices[-1]]
    return list(by_number.values())


def _inner(name: str, prefix: str) -> list[str]:
    """The components of a name between its head and its last component."""
    return name[len(prefix) + 1 :].split(".")[:-1]


def check_skip(skip: Iterable[str]) -> tuple[str, ...]:
    """The skip words, checked.

    Raises:
        TypeError: `skip` is no collection of strings.
        ValueError: A plain word is no kind.
    """
    if not isinstance(skip, Iterable):
        raise TypeError(f"skip: got {skip!r}; allowed is a collection of strings")
    if isinstance(skip, str):
        raise TypeError(f"skip: got the string {skip!r}; allowed is a collection of strings, such as ({skip!r},)")
    words = tuple(skip)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"skip: got {word!r}; allowed are strings")
        if word not in KINDS[:-1] and not any(c in word for c in _PATTERN_CHARACTERS):
            raise ValueError(
                f"skip: unknown word {word!r}; allowed are {', '.join(KINDS[:-1])}, "
                "and patterns with *, ?, [ or . on role or tensor names"
            )
    return words


def skips(skip: Iterable[str], kind: str, template: str, name: str) -> str | None:
    """The first skip word that takes in this tensor, or None."""
    for word in skip:
        if word == kind:
            return word
        # A template only by a pattern for one: `??` is no `{}`.
        if word not in KINDS and (fnmatchcase(name, word) or ("{}" in word and fnmatchcase(template, word))):
            return word
    return None


# For matrices whose two lengths are equal, so that shapes cannot tell.
_FIRST = re.compile(r"fc1|c_fc|wi|wi_\d|(gate|up|gate_up)_proj|w1|w3|dense_h_to_4h|lin(ear)?_?1|intermediate|fc_in|0|1")
_SECOND = re.compile(r"fc2|c_proj|wo|down_proj|w2|dense_4h_to_h|lin(ear)?_?2|output|fc_out|2|3|4")
_CONV1D = re.compile(r"c_fc|c_proj")


def hidden_axes(roles: Iterable[Role]) -> dict[str, int]:
    """Template -> the axis of the MLP's hidden units, for the weight matrices of both projections.

    The weights of one MLP are those of kind `mlp` under one parent. First and second projection have transposed shapes
    (a fused gate has twice the rows); the width of the model is the length of the layer's norms, the other length is
    the hidden one. Without such norms the first projection is the one that has more matrices (gated), or comes first,
    and its bias tells the layout; where both lengths are equal, names decide, and order where they are unknown.
    """
    every = list(roles)
    vectors = {role.template: role.shape[0] for role in every if len(role.shape) == 1}
    widths: dict[str, set[int]] = defaultdict(set)
    groups: dict[str, list[Role]] = defaultdict(list)
    for role in every:
        kind = kind_of(role.template)
        if kind == "norm" and len(role.shape) == 1:
            widths[_before_number(role.template)].add(role.shape[0])
        if kind == "mlp" and len(role.shape) == 2:
            groups[_mlp_parent(role.template)].append(role)
    found: dict[str, int] = {}
    for parent, members in groups.items():
        found.update(_pair(members, widths.get(_before_number(parent), set()), vectors))
    return found


def _before_number(template: str) -> str:
    return re.split(r"\{\}|\d", template)[0]


def _module(template: str) -> list[str]:
    return template.split(".")[:-1]


def _mlp_parent(template: str) -> str:
    module = _module(template)
    inner = module[-1:] == ["dense"] and module[-2:-1] in (["intermediate"], ["output"])
    return ".".join(module[:-2] if inner else module[:-1])


def _pair(members: list[Role], widths: set[int], vectors: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for role in members:
        rows, columns = role.shape
        partners = [m for m in members if m is not role and _transposed(role.shape, m.shape)]
        if not partners:
            continue
        if rows == columns:
            axis = _axis_by_name(role, partners, members)
        elif rows in widths and columns not in widths:
            axis = 1
        elif columns in widths and rows not in widths:
            axis = 0
        else:
            axis = _axis_by_order(role, partners, members, vectors)
        found[role.template] = axis
    return found


def _transposed(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a == b[::-1] or (a[0] == 2 * b[1] and a[1] == b[0]) or (b[0] == 2 * a[1] and b[1] == a[0])


def _axis_by_name(role: Role, partners: list[Role], members: list[Role]) -> int:
    words = _module(role.template)
    word = words[-2] if words[-1] == "dense" and len(words) > 1 else words[-1]
    transposed = any(_CONV1D.fullmatch(_module(r.template)[-1]) for r in (role, *partners))
    first = bool(_FIRST.fullmatch(word)) or (not _SECOND.fullmatch(word) and role is members[0])
    return int(first == transposed)


def _axis_by_order(role: Role, partners: list[Role], members: list[Role], vectors: Mapping[str, int]) -> int:
    alike = [m for m in members if m.shape == role.shape]
    earlier = members.index(role) < members.index(partners[0])
    first = len(alike) > len(partners) or (len(alike) == len(partners) and earlier)
    bias = vectors.get(role.template.removesuffix("weight") + "bias")
    output = 1 if bias == role.shape[1] else 0
    return output if first else 1 - output
