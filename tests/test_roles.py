"""Which tensors form a role, what it is for, and which axis is the MLP's hidden one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from front_models._kinds import check_skip, class_layers, hidden_axes, is_table, kind_of, skips
from front_models._roles import Role, find_axes, group_roles, joint_axes, layer_name


def roles_of(shapes: models.Shapes) -> dict[str, tuple[int, ...]]:
    """Template -> layers, of a model by itself."""
    return {role.template: role.layers for role in group_roles(shapes, find_axes(shapes))}


def grouped(shapes: models.Shapes) -> dict[str, tuple[int, ...]]:
    return {template: layers for template, layers in roles_of(shapes).items() if layers}


@pytest.mark.parametrize(
    ("shapes", "prefixes"),
    [
        pytest.param(models.vit(8, 12), {"blocks."}, id="timm"),
        pytest.param(models.vit(8, 2, distilled=True), {"blocks."}, id="deit"),
        pytest.param(models.torchvision_vit(8, 3), {"encoder.layers.encoder_layer_"}, id="torchvision"),
        pytest.param(models.mixture(8, 3, experts=8), {"model.layers."}, id="experts"),
        pytest.param(models.mixture(8, 4, experts=3, dense_first=True), {"model.layers."}, id="dense-first"),
        pytest.param(models.shapes_of(models.bert()), {"encoder.layer."}, id="bert"),
        pytest.param(models.shapes_of(models.gpt2()), {"transformer.h."}, id="gpt2"),
        pytest.param(models.shapes_of(models.llama()), {"model.layers."}, id="llama"),
        pytest.param(models.shapes_of(models.t5()), {"encoder.block.", "decoder.block."}, id="t5"),
    ],
)
def test_layers_of_known_architectures(shapes: models.Shapes, prefixes: set[str]) -> None:
    found = grouped(shapes)
    assert {template.partition("{}")[0] for template in found} == prefixes
    inside = {name for name in shapes if any(name.startswith(prefix) for prefix in prefixes)}
    assert {layer_name(t, n) for t, layers in found.items() for n in layers} == inside
    assert all(layers == tuple(sorted(layers)) for layers in found.values())
    every = [name for role in group_roles(shapes, find_axes(shapes)) for name in role.names]
    assert sorted(every) == sorted(shapes)


def test_layers_are_ordered_by_value() -> None:
    shapes = models.vit(8, 12)
    backwards = dict(reversed(shapes.items()))
    assert roles_of(backwards)["blocks.{}.attn.qkv.weight"] == tuple(range(12))


def test_t5_bias_of_the_first_block_is_a_role_of_one_layer() -> None:
    found = roles_of(models.shapes_of(models.t5(depth=3)))
    assert found["encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"] == (0,)
    assert found["encoder.block.{}.layer.0.SelfAttention.q.weight"] == (0, 1, 2)
    assert found["decoder.block.{}.layer.2.DenseReluDense.wo.weight"] == (0, 1, 2)


def test_one_t5_block_is_not_split_into_its_sub_layers() -> None:
    assert grouped(models.shapes_of(models.t5(depth=1))) == {}


def test_experts_stay_in_the_name_and_may_miss_in_some_layers() -> None:
    found = roles_of(models.mixture(8, 4, experts=3, dense_first=True))
    assert found["model.layers.{}.mlp.experts.2.up_proj.weight"] == (1, 2, 3)
    assert found["model.layers.{}.mlp.up_proj.weight"] == (0,)
    assert found["model.layers.{}.self_attn.q_proj.weight"] == (0, 1, 2, 3)


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(models.shapes_of(models.mlp(4, 8, 8, 3)), id="positions of different shape"),
        pytest.param(
            models.norm("0", 4)
            | {
                "1.weight": (4,),
                "1.bias": (4,),
                "1.running_mean": (4,),
                "1.running_var": (4,),
                "1.num_batches_tracked": (),
            },
            id="positions of different meaning",
        ),
        pytest.param(models.norm("ln_1", 4) | models.norm("ln_2", 4), id="numbered siblings"),
        pytest.param(models.linear("fc1", 4, 4) | models.linear("fc2", 4, 4), id="numbers inside words"),
        pytest.param({"blocks.0.w": (3, 3)}, id="one layer"),
        pytest.param({"a.00.w": (3, 3), "a.01.w": (3, 3)}, id="leading zeros"),
        pytest.param(
            {f"f.{i}.{k}": (4, 4) for i in range(4) for k in ("norm.w", "norm.b")}
            | {f"f.{i}.fn.{k}": (4, 4) for i in (0, 2) for k in ("q", "k", "v", "o")}
            | {f"f.{i}.fn.{k}": (4, 4) for i in (1, 3) for k in ("up", "down", "gate")},
            id="attention and MLP in turn",
        ),
        pytest.param({"layers.0.blocks.0.w": (4, 4), "layers.1.blocks.0.w": (8, 8)}, id="stages of different width"),
    ],
)
def test_what_is_no_layer_axis(shapes: models.Shapes) -> None:
    assert grouped(shapes) == {}


def test_blocks_inside_stages_of_different_width_are_layers() -> None:
    shapes = {f"layers.{s}.blocks.{b}.w": (4 * s + 4, 4) for s in range(3) for b in range(2 + s)}
    assert grouped(shapes) == {f"layers.{s}.blocks.{{}}.w": tuple(range(2 + s)) for s in range(3)}


def test_positions_of_one_shape_and_lists_of_parameters_are_layers() -> None:
    assert grouped(models.shapes_of(models.mlp(4, 4, 4, 4))) == {"{}.weight": (0, 2, 4), "{}.bias": (0, 2, 4)}
    assert grouped({f"prompts.{i}": (5, 4) for i in range(3)}) == {"prompts.{}": (0, 1, 2)}


@pytest.mark.parametrize("deep_side", ["source", "target"])
def test_axes_of_one_side_count_for_a_single_layer_of_the_other(deep_side: str) -> None:
    one, many = models.mixture(8, 1, experts=4), models.mixture(8, 5, experts=4)
    source, target = (many, one) if deep_side == "source" else (one, many)
    axes = joint_axes(target, find_axes(target), source, find_axes(source))
    assert {r.template for r in group_roles(one, axes)} == {r.template for r in group_roles(many, axes)}
    assert Role("model.layers.{}.mlp.experts.3.up_proj.weight", (0,), (16, 8)) in group_roles(one, axes)


def test_an_axis_of_one_side_is_none_where_the_other_has_several_unlike_layers() -> None:
    same, unlike = models.shapes_of(models.mlp(4, 4, 4)), models.shapes_of(models.mlp(4, 4, 4, 9))
    assert joint_axes(unlike, find_axes(unlike), same, find_axes(same)) == frozenset()


words = st.text("abcdefghijklmnop", min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.lists(words, max_size=3),
    axis=words,
    underscore=st.booleans(),
    numbers=st.lists(st.integers(0, 300), min_size=2, max_size=5, unique=True),
    suffixes=st.lists(st.tuples(words, words), min_size=1, max_size=6, unique=True),
    other=words,
    order=st.randoms(use_true_random=False),
)
def test_roles_do_not_depend_on_prefix_numbering_or_order(prefix, axis, underscore, numbers, suffixes, other, order):
    def build(values: list[int]) -> tuple[models.Shapes, str]:
        start = ".".join([*prefix, f"{axis}_" if underscore else f"{axis}."])
        shapes = {f"{start}{n}.{a}.{b}": (2 + i, 3) for n in values for i, (a, b) in enumerate(suffixes)} | {
            f"Outside.{other}": (7,)
        }
        names = list(shapes)
        order.shuffle(names)
        return {name: shapes[name] for name in names}, start

    shapes, start = build(numbers)
    expected = {f"{start}{{}}.{a}.{b}": tuple(sorted(numbers)) for a, b in suffixes}
    assert grouped(shapes) == expected
    renumbered, _ = build(list(range(len(numbers))))
    assert set(roles_of(renumbered)) == set(roles_of(shapes))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("qkv", "blocks.{}.attn.qkv.weight blocks.3.attn.qkv.bias encoder.layer.{}.attention.self.query.weight "
                "encoder.layer.{}.attention.self.key.bias encoder.layer.0.attention.self.value.weight "
                "transformer.h.{}.attn.c_attn.weight model.layers.{}.self_attn.q_proj.weight "
                "model.layers.{}.self_attn.v_proj.weight encoder.block.{}.layer.0.SelfAttention.k.weight "
                "encoder.layers.encoder_layer_{}.self_attention.in_proj_weight blocks.{}.attn.q_bias"),
        ("o", "blocks.{}.attn.proj.weight encoder.layer.{}.attention.output.dense.weight "
              "transformer.h.{}.attn.c_proj.bias model.layers.{}.self_attn.o_proj.weight "
              "encoder.block.{}.layer.0.SelfAttention.o.weight "
              "encoder.layers.encoder_layer_{}.self_attention.out_proj.weight"),
        ("mlp", "blocks.{}.mlp.fc1.weight blocks.{}.mlp.fc2.bias encoder.layer.{}.intermediate.dense.weight "
                "encoder.layer.{}.output.dense.weight encoder.layer.5.output.dense.bias "
                "transformer.h.{}.mlp.c_fc.weight transformer.h.{}.mlp.c_proj.weight "
                "model.layers.{}.mlp.gate_proj.weight model.layers.{}.mlp.down_proj.weight "
                "encoder.block.{}.layer.1.DenseReluDense.wi.weight encoder.block.{}.layer.1.DenseReluDense.wo.weight "
                "encoder.layers.encoder_layer_{}.mlp.0.weight model.layers.{}.mlp.experts.7.up_proj.weight"),
        ("norm", "blocks.{}.norm1.weight norm.bias fc_norm.weight encoder.layer.{}.attention.output.LayerNorm.weight "
                 "encoder.layer.{}.output.LayerNorm.bias embeddings.LayerNorm.weight transformer.h.{}.ln_1.weight "
                 "transformer.ln_f.bias model.layers.{}.input_layernorm.weight model.norm.weight "
                 "model.layers.{}.self_attn.q_norm.weight encoder.block.{}.layer.0.layer_norm.weight "
                 "encoder.final_layer_norm.weight bn1.weight encoder.ln.bias head.norm.weight"),
        ("embed", "cls_token dist_token pos_embed patch_embed.proj.weight embeddings.word_embeddings.weight "
                  "transformer.wte.weight transformer.wpe.weight model.embed_tokens.weight shared.weight "
                  "class_token conv_proj.weight encoder.pos_embedding"),
        ("head", "head.weight head_dist.bias heads.head.weight classifier.weight fc.bias score.weight lm_head.weight "
                 "cls.predictions.decoder.weight cls.predictions.bias"),
        ("other", "pooler.dense.weight 0.weight net.2.bias logit_scale "
                  "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
)  # fmt: skip
def test_kinds(kind: str, names: str) -> None:
    assert {name: kind_of(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_skip_words_and_patterns() -> None:
    words = check_skip(["norm", "blocks.*.attn.proj.*", "cls_toke?", "head.weight"])
    assert skips(words, "norm", "norm.weight", "norm.weight") == "norm"
    assert skips(words, "o", "blocks.{}.attn.proj.bias", "blocks.3.attn.proj.bias") == "blocks.*.attn.proj.*"
    assert skips(words, "embed", "cls_token", "cls_token") == "cls_toke?"
    assert skips(words, "head", "head.weight", "head.weight") == "head.weight"
    assert skips(words, "head", "head.bias", "head.bias") is None
    assert skips(["blocks.1.*"], "o", "blocks.{}.w", "blocks.1.w")
    assert not skips(["blocks.1.*"], "o", "x.{}", "x.2")


def test_skip_errors() -> None:
    with pytest.raises(ValueError, match=r"skip: unknown word 'atn'; allowed are qkv, o, mlp, norm, embed, head, and"):
        check_skip(["qkv", "atn"])
    with pytest.raises(ValueError, match="unknown word 'other'"):
        check_skip(["other"])
    with pytest.raises(TypeError, match=r"skip: got the string 'norm'; allowed is a collection of strings"):
        check_skip("norm")
    with pytest.raises(TypeError, match="skip: got 3; allowed are strings"):
        check_skip([3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (models.vit(8, 2, distilled=True), {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
        (models.torchvision_vit(8, 2), {"heads.head.weight", "heads.head.bias"}),
        (models.shapes_of(models.bert(head="classify")), {"classifier.weight", "classifier.bias"}),
        (
            models.shapes_of(models.bert(head="mlm")),
            {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "cls.predictions.bias"},
        ),
        (models.linear("cls.predictions.transform.dense", 8, 8) | {"cls.predictions.bias": (40,)},
         {"cls.predictions.bias"}),
        (models.linear("classifier.dense", 8, 8) | models.linear("classifier.out_proj", 3, 8),
         {"classifier.out_proj.weight", "classifier.out_proj.bias"}),
        (models.linear("classifier.0", 8, 9) | models.linear("classifier.6", 5, 8),
         {"classifier.6.weight", "classifier.6.bias"}),
        (models.norm("head.norm", 8) | models.linear("head.fc", 5, 8), {"head.fc.weight", "head.fc.bias"}),
        (models.linear("layer2.0.se.fc", 4, 8), set()),
        (models.shapes_of(models.gpt2()), {"lm_head.weight"}),
    ],
)  # fmt: skip
def test_class_layers(shapes: models.Shapes, expected: set[str]) -> None:
    assert class_layers(shapes) == expected


def test_tables() -> None:
    tables = (
        "bn1.running_mean bn1.running_var bn1.num_batches_tracked h.0.attn.masked_bias rotary_emb.inv_freq "
        "model.layers.0.self_attn.rotary_emb.cos_cached embeddings.position_ids layers.0.blocks.1.attn_mask"
    )
    assert [is_table(name, (4,)) for name in tables.split()] == [True] * 8
    assert is_table("transformer.h.0.attn.bias", (1, 1, 24, 24))
    assert not is_table("transformer.h.0.attn.bias", (24,))
    assert not is_table("rotary_proj.weight", (4, 4))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (models.vit(8, 2), {"blocks.{}.mlp.fc1.weight": 0, "blocks.{}.mlp.fc2.weight": 1}),
        (models.vit(8, 2, mlp=4), {"blocks.{}.mlp.fc1.weight": 0, "blocks.{}.mlp.fc2.weight": 1}),
        (models.vit(8, 2, mlp=8), {"blocks.{}.mlp.fc1.weight": 0, "blocks.{}.mlp.fc2.weight": 1}),
        (
            models.torchvision_vit(8, 2),
            {f"encoder.layers.encoder_layer_{{}}.mlp.{i}.weight": a for i, a in ((0, 0), (3, 1))},
        ),
        (
            models.shapes_of(models.bert()),
            {"encoder.layer.{}.intermediate.dense.weight": 0, "encoder.layer.{}.output.dense.weight": 1},
        ),
        (
            models.shapes_of(models.bert(mlp_size=16)),
            {"encoder.layer.{}.intermediate.dense.weight": 0, "encoder.layer.{}.output.dense.weight": 1},
        ),
        (
            models.shapes_of(models.gpt2()),
            {"transformer.h.{}.mlp.c_fc.weight": 1, "transformer.h.{}.mlp.c_proj.weight": 0},
        ),
        (
            models.shapes_of(models.gpt2(inner=16)),
            {"transformer.h.{}.mlp.c_fc.weight": 1, "transformer.h.{}.mlp.c_proj.weight": 0},
        ),
        (
            models.shapes_of(models.llama()),
            {f"model.layers.{{}}.mlp.{w}_proj.weight": a for w, a in (("gate", 0), ("up", 0), ("down", 1))},
        ),
        (
            models.mixture(8, 2, experts=2),
            {
                f"model.layers.{{}}.mlp.experts.{e}.{w}_proj.weight": a
                for e in range(2)
                for w, a in (("gate", 0), ("up", 0), ("down", 1))
            },
        ),
        (
            {"h.0.mlp.gate_up_proj.weight": (24, 4), "h.0.mlp.down_proj.weight": (4, 12), "h.0.norm.weight": (4,)},
            {"h.0.mlp.gate_up_proj.weight": 0, "h.0.mlp.down_proj.weight": 1},
        ),
        # No norm tells the width: the order and the bias of the first projection decide.
        (models.linear("mlp.a", 12, 4) | models.linear("mlp.b", 4, 12), {"mlp.a.weight": 0, "mlp.b.weight": 1}),
        (
            {"mlp.a.weight": (4, 12), "mlp.a.bias": (12,), "mlp.b.weight": (12, 4), "mlp.b.bias": (4,)},
            {"mlp.a.weight": 1, "mlp.b.weight": 0},
        ),
        # Gated, in alphabetical order.
        (
            {"mlp.down_proj.weight": (4, 12), "mlp.gate_proj.weight": (12, 4), "mlp.up_proj.weight": (12, 4)},
            {"mlp.down_proj.weight": 1, "mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0},
        ),
    ],
)
def test_hidden_axes(shapes: models.Shapes, expected: dict[str, int]) -> None:
    assert hidden_axes(group_roles(shapes, find_axes(shapes))) == expected


def test_hidden_axes_of_layers_by_themselves() -> None:
    found = hidden_axes(group_roles(models.vit(8, 2, mlp=4), frozenset()))
    assert found == {f"blocks.{i}.mlp.fc{p}.weight": p - 1 for i in range(2) for p in (1, 2)}
