"""SpectralRegularizer against the penalty written down densely in float64: values, gradients, reports and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import models
from front_models import SpectralRegularizer
from penalties import Mixed, assert_close, dense_penalty, gradients

OPTIONS: dict[str, dict[str, Any]] = {
    "box": {"keep_ratio": 0.5},
    "k": {"k": (3, 4), "reduction": "mean"},
    "k-one": {"k": 7, "standardize": False},
    "plain": {"keep_ratio": 0.3, "standardize": False, "reduction": "mean"},
    "exponential": {"weighting": "exponential", "decay": 2.0},
    "exponential-cut": {"weighting": "exponential", "decay": (40.0, 0.0), "reduction": "mean"},
    "exponential-plain": {"weighting": "exponential", "decay": (0.5, 3.0), "standardize": False},
    "depth": {"keep_ratio": 0.5, "depth": True},
    "depth-k": {"k": (4, 5), "depth": 2, "reduction": "mean"},
    "depth-plain": {"keep_ratio": 0.4, "depth": 1, "standardize": False},
    "depth-exponential": {"weighting": "exponential", "decay": (1.0, 2.0, 0.5), "depth": True},
    "depth-exponential-int": {"weighting": "exponential", "decay": 3.0, "depth": 2, "standardize": False},
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def both_forms(model: nn.Module, **options: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Values and gradients: those of the autograd form, and of accumulate_grad_ (with lam 0.5 into ones)."""
    reg = SpectralRegularizer(model, **options)
    loss = reg()
    autograd = gradients(loss, model)
    params = [p for p in model.parameters() if p.requires_grad]
    lam = 64.0  # what is added shall not drown in the ones that it is added to
    for p in params:
        p.grad = torch.ones_like(p)
    value = reg.accumulate_grad_(lam)
    added = [(p.grad.double() - 1) / lam for p in params]
    return [loss, value], autograd, added


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_dense_penalty(name: str, dtype: torch.dtype) -> None:
    options = OPTIONS[name]
    model = Mixed().to(dtype)
    expected = dense_penalty(model, **options)
    values, autograd, added = both_forms(model, **options)
    # Weights below 1e-8 are taken for 0.
    exact = dtype == torch.float64 and "cut" not in name
    tolerance = TOLERANCE[dtype] if exact else max(TOLERANCE[dtype], 1e-8)
    for value in values:
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12 if exact else 2e-6, abs=1e-9)
    if options.get("reduction") == "mean":
        return  # the same gradients, up to a factor: see test_mean_is_a_factor
    wanted = gradients(expected, model)
    assert_close(autograd, wanted, tolerance)
    # A sum in float16 or bfloat16 is rounded relative to the ones that it was added to.
    assert_close(added, wanted, tolerance * (4 if dtype.itemsize < 4 else 1))


@pytest.mark.parametrize("depth", [False, True], ids=["apart", "depth"])
def test_all_kept_is_no_penalty(depth: bool) -> None:
    model = Mixed()
    half = both_forms(model, keep_ratio=0.5, depth=depth)
    values, autograd, added = both_forms(model, keep_ratio=1.0, depth=depth)
    assert all(0 <= value.item() < 1e-9 * half[0][0].item() for value in values)
    largest = max(float(grad.abs().max()) for grad in half[1])
    assert all(float(grad.abs().max()) < 1e-6 * largest for grad in autograd + added)


@pytest.mark.parametrize("depth", [False, True], ids=["apart", "depth"])
def test_decay_of_any_size(depth: bool) -> None:
    """Nothing is lost by the smallest rates, and all but one coefficient by the largest."""
    model = Mixed()
    all_lost = [both_forms(model, weighting="exponential", decay=decay, depth=depth) for decay in (1e4, 1e308)]
    (least, *both), (most, *same) = all_lost
    assert [value.item() for value in most] == pytest.approx([value.item() for value in least], rel=1e-6)
    for found, grads in zip(same, both, strict=True):
        assert_close(found, [grad.double() for grad in grads], 1e-5)
    half = both_forms(model, keep_ratio=0.5, depth=depth)
    largest = max(float(grad.abs().max()) for grad in half[1])
    for decay in (1e-308, 5e-324):
        values, autograd, added = both_forms(model, weighting="exponential", decay=decay, depth=depth)
        assert all(0 <= value.item() < 1e-9 * all_lost[0][0][0].item() for value in values)
        assert all(float(grad.abs().max()) < 1e-6 * largest for grad in autograd + added)


@pytest.mark.parametrize("options", [{"keep_ratio": 0.5}, {"keep_ratio": 0.5, "depth": True}], ids=["apart", "depth"])
def test_mean_is_a_factor(options: dict[str, Any]) -> None:
    model = Mixed().double()
    count = sum(p.numel() for p in model.parameters())
    _, total, _ = both_forms(model, **options)
    _, autograd, added = both_forms(model, **options, reduction="mean")
    assert_close([count * g for g in autograd], total, 1e-12)
    assert_close([count * g for g in added], total, 1e-9)


def test_channels_last_gradients() -> None:
    """Their strides allow no view as a matrix."""
    model = nn.Conv2d(6, 5, 3).to(memory_format=torch.channels_last)
    expected = gradients(dense_penalty(model, keep_ratio=0.5), model)
    _, autograd, added = both_forms(model, keep_ratio=0.5)
    assert_close(autograd, expected, 2e-6)
    assert_close(added, expected, 2e-6)
    assert model.weight.grad is not None
    assert model.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_another_dtype_than_the_parameter() -> None:
    """Where `grad_dtype` asks for it; by both forms."""
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype, asked in itertools.product(floats, floats):
        gradients_ = []
        for in_place in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(12, 20).to(dtype)
            for parameter in model.parameters():
                parameter.grad_dtype = asked
            reg = SpectralRegularizer(model, keep_ratio=0.5)
            reg.accumulate_grad_(0.5) if in_place else (0.5 * reg()).backward()
            assert model.weight.grad is not None
            assert model.weight.grad.dtype == asked
            gradients_.append(model.weight.grad)
        coarse = {dtype, asked} & {torch.float16, torch.bfloat16}  # the graph's gradients were rounded to dtype
        assert_close(gradients_[1:], gradients_[:1], 8e-3 if coarse else 2e-6)


def test_the_share_that_a_penalty_is() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    sums, means = (SpectralRegularizer(model, keep_ratio=0.5, reduction=r) for r in ("sum", "mean"))
    share = means().item()
    assert 0.1 < share < 0.9
    assert means.share_of(share) == share
    assert sums.share_of(sums().item()) == pytest.approx(share)
    plain = SpectralRegularizer(model, keep_ratio=0.5, standardize=False)
    assert plain.share_of(3.5) is None


def test_skipped_parts_of_an_averaged_model() -> None:
    """It has a buffer beside the model, so that its names are all its own: as `extract` sees them."""
    averaged = AveragedModel(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)))
    reg = SpectralRegularizer(averaged, keep_ratio=0.5, skip=("module.0.*",))
    assert {row.role for row in reg.report()} == {"module.1.weight", "module.1.bias"}
    with pytest.warns(UserWarning, match=r"skip: '0.\*' matches no role"):
        reg = SpectralRegularizer(averaged, keep_ratio=0.5, skip=("0.*",))
    assert len(reg.report()) == 4


def test_parameters_of_two_dtypes() -> None:
    model = Mixed()
    model.conv.double()
    model.head.to(torch.bfloat16)
    for options in ({"keep_ratio": 0.5}, {"keep_ratio": 0.5, "depth": True}):
        expected = dense_penalty(model, **options)
        wanted = gradients(expected, model)
        values, autograd, added = both_forms(model, **options)
        assert [v.dtype for v in values] == [torch.float64] * 2
        assert [v.item() for v in values] == pytest.approx([expected.item()] * 2, rel=1e-6)
        assert_close(autograd, wanted, 8e-3)
        assert_close(added, wanted, 2e-2)


MODELS = {
    "bert": lambda: models.bert(head="mlm"),
    "gpt2": models.gpt2,
    "llama-tied": lambda: models.llama(tied=True),
    "vit": models.hf_vit,
}


@pytest.mark.parametrize(("name", "depth"), [(name, depth) for name in MODELS for depth in (False, True)])
def test_models(name: str, depth: bool) -> None:
    model = MODELS[name]().double()
    expected = dense_penalty(model, keep_ratio=0.5, depth=depth)
    values, autograd, added = both_forms(model, keep_ratio=0.5, depth=depth)
    assert [v.item() for v in values] == pytest.approx([expected.item()] * 2, rel=1e-12)
    wanted = gradients(expected, model)
    assert_close(autograd, wanted, 1e-10)
    assert_close(added, wanted, 1e-10)


def test_tables_and_skipped_roles_are_left_out() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inv_freq = nn.Parameter(torch.randn(6))
            self.norm, self.proj = nn.LayerNorm(6), nn.Linear(6, 6)

    model = Table()
    nn.init.normal_(model.norm.weight)
    SpectralRegularizer(model, keep_ratio=0.5, skip=("norm",)).accumulate_grad_(1.0)
    assert model.inv_freq.grad is None
    assert model.norm.weight.grad is None
    expected = dense_penalty(model.proj, keep_ratio=0.5)
    assert_close([p.grad for p in model.proj.parameters()], gradients(expected, model.proj), 2e-6)  # type: ignore[misc]


def test_constant_parameters_have_no_penalty() -> None:
    model = nn.LayerNorm(8)
    nn.init.constant_(model.bias, 0.1)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    assert reg().item() == 0
    assert float(reg.accumulate_grad_(1.0)) == 0
    assert all(not p.grad.any() for p in model.parameters())  # type: ignore[union-attr]
    assert all(math.isnan(row.share) for row in reg.report())


def test_nan_in_one_parameter_stays_there() -> None:
    model = Mixed()
    clean = both_forms(model, keep_ratio=0.5)[2]
    with torch.no_grad():
        model.head.weight[1, 3] = math.nan
    values, _, added = both_forms(model, keep_ratio=0.5)
    assert all(v.isnan() for v in values)
    names = [name for name, _ in model.named_parameters()]
    for name, before, after in zip(names, clean, added, strict=True):
        if name == "head.weight":
            assert after.isnan().all()
        else:
            assert torch.equal(before, after), name


def test_report_is_the_share_of_the_energy() -> None:
    model = Mixed()
    rows = {row.role: row for row in SpectralRegularizer(model, keep_ratio=0.5).report()}
    shares = []
    for block in model.blocks[1:]:  # the first one's is constant
        d = (block.norm.weight - block.norm.weight.mean()).detach()[None]
        shares.append(
            (dense_penalty(nn.ParameterList([d]), keep_ratio=0.5, standardize=False) / d.square().sum()).item()
        )
    assert rows["blocks.{}.norm.weight"].depth == 3
    assert rows["blocks.{}.norm.weight"].share == pytest.approx(sum(shares) / 2, rel=1e-5)
    assert math.isnan(rows["scale"].share)
    assert rows["head.weight"].depth == 1


def test_report_of_what_is_kept_whole_is_zero_not_nan() -> None:
    rows = {row.role: row for row in SpectralRegularizer(Mixed(), k=1000).report()}
    assert rows["head.weight"].share == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"k": 3}, {"weighting": "exponential", "decay": 2.0}], ids=["box", "exponential"])
def test_the_mean_of_one_role_is_its_share(options: dict[str, Any]) -> None:
    """But for Bessel's correction, by which a standardised matrix of N elements has energy N - 1."""
    model = nn.Linear(20, 30, bias=False)
    reg = SpectralRegularizer(model, **options, reduction="mean")
    (row,) = reg.report()
    assert reg().item() == pytest.approx(row.share * 599 / 600, rel=1e-5)


def test_report_counts_frozen_parameters_and_keeps_gradients() -> None:
    model = nn.Linear(6, 4)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    rows = reg.report()
    model.weight.requires_grad_(False)
    assert reg.report() == rows
    assert model.bias.grad is None


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing kept": ({}, ValueError, r"keep_ratio, k: got None, None; exactly one"),
    "both kept": ({"keep_ratio": 0.5, "k": 3}, ValueError, r"keep_ratio, k: got 0.5, 3; exactly one"),
    "ratio 0": ({"keep_ratio": 0.0}, ValueError, r"keep_ratio: got 0.0; allowed is a number in \(0, 1\]"),
    "ratio 2": ({"keep_ratio": 2}, ValueError, r"keep_ratio: got 2; allowed is a number in \(0, 1\]"),
    "ratio nan": ({"keep_ratio": math.nan}, ValueError, r"keep_ratio: got nan; allowed"),
    "ratio bool": ({"keep_ratio": True}, ValueError, r"keep_ratio: got True; allowed"),
    "ratio text": ({"keep_ratio": "0.5"}, ValueError, r"keep_ratio: got '0.5'; allowed"),
    "k 0": ({"k": 0}, ValueError, r"k: got 0; allowed is a whole number from 1"),
    "k three": ({"k": (1, 2, 3)}, ValueError, r"k: got \(1, 2, 3\); allowed"),
    "k bool": ({"k": True}, ValueError, r"k: got True; allowed"),
    "k float": ({"k": 2.5}, ValueError, r"k: got 2.5; allowed"),
    "k depth": ({"k": 3, "depth": True}, ValueError, r"depth: got True with k; allowed is the number"),
    "weighting": ({"weighting": "gauss"}, ValueError, r"weighting: got 'gauss'; allowed are 'box', 'exponential'"),
    "no decay": ({"weighting": "exponential"}, ValueError, r"decay: got None; weighting='exponential' needs a rate"),
    "ratio and decay": (
        {"weighting": "exponential", "decay": 1.0, "keep_ratio": 0.5},
        ValueError,
        r"keep_ratio: got 0.5; .* takes decay",
    ),
    "k and decay": ({"weighting": "exponential", "decay": 1.0, "k": 3}, ValueError, r"k: got 3; .* takes decay"),
    "box decay": ({"keep_ratio": 0.5, "decay": 1.0}, ValueError, r"decay: got 1.0; .* takes keep_ratio or k"),
    "decay -1": ({"weighting": "exponential", "decay": -1.0}, ValueError, r"decay: got -1.0; rates must be finite"),
    "decay inf": ({"weighting": "exponential", "decay": (1, math.inf)}, ValueError, r"decay: got \(1, inf\); rates"),
    "decay three": (
        {"weighting": "exponential", "decay": (1, 2, 3)},
        ValueError,
        r"decay: got \(1, 2, 3\); .*\(rows, columns\)",
    ),
    "decay two with depth": (
        {"weighting": "exponential", "decay": (1, 2), "depth": True},
        ValueError,
        r"decay: got \(1, 2\); .*\(layers, rows",
    ),
    "decay text": ({"weighting": "exponential", "decay": "ab"}, ValueError, r"decay: got 'ab'; allowed"),
    "decay bool": ({"weighting": "exponential", "decay": True}, ValueError, r"decay: got True; rates"),
    "depth 0": ({"keep_ratio": 0.5, "depth": 0}, ValueError, r"depth: got 0; allowed are False, True, and the number"),
    "depth -1": ({"keep_ratio": 0.5, "depth": -1}, ValueError, r"depth: got -1; allowed"),
    "depth float": ({"keep_ratio": 0.5, "depth": 1.0}, ValueError, r"depth: got 1.0; allowed"),
    "standardize": (
        {"keep_ratio": 0.5, "standardize": 1},
        TypeError,
        r"standardize: got 1; allowed are True and False",
    ),
    "reduction": (
        {"keep_ratio": 0.5, "reduction": "max"},
        ValueError,
        r"reduction: got 'max'; allowed are 'sum', 'mean'",
    ),
    "skip text": ({"keep_ratio": 0.5, "skip": "norm"}, TypeError, r"skip: got the string 'norm'; allowed"),
    "skip word": ({"keep_ratio": 0.5, "skip": ("nrm",)}, ValueError, r"skip: unknown word 'nrm'; allowed"),
    "all skipped": ({"keep_ratio": 0.5, "skip": ("*",)}, ValueError, r"model: it has no parameters .* not skipped"),
}


@pytest.mark.parametrize(("options", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_argument_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + message):
        SpectralRegularizer(nn.Linear(4, 4), **options)


def test_model_errors() -> None:
    with pytest.raises(TypeError, match=r"^model: got dict; allowed is a torch.nn.Module"):
        SpectralRegularizer({"w": torch.ones(2)}, keep_ratio=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^model: it has no parameters of floating point"):
        SpectralRegularizer(nn.ReLU(), keep_ratio=0.5)
    with pytest.raises(ValueError, match=r"^model: 1.weight has no shape before the first forward pass"):
        SpectralRegularizer(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(4)), keep_ratio=0.5)


@pytest.mark.parametrize(
    ("lam", "error"), [(math.nan, ValueError), (math.inf, ValueError), ("1", TypeError), (True, TypeError)]
)
def test_lam_errors(lam: Any, error: type[Exception]) -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(error, match=rf"^lam: got {lam!r}; allowed is a finite number"):
        SpectralRegularizer(model, keep_ratio=0.5).accumulate_grad_(lam)
    assert model.weight.grad is None


def test_numpys_numbers() -> None:
    model = nn.Linear(4, 4)
    penalty = SpectralRegularizer(model, k=np.int64(2)).accumulate_grad_(np.float32(0.5))
    found = model.weight.grad
    model.weight.grad = model.bias.grad = None
    assert SpectralRegularizer(model, k=2).accumulate_grad_(0.5) == penalty
    assert torch.equal(model.weight.grad, found)
    assert SpectralRegularizer(model, keep_ratio=np.float32(0.5))() == SpectralRegularizer(model, keep_ratio=0.5)()
    same: dict[str, Any] = {"weighting": "exponential", "depth": np.int64(1)}
    decayed = SpectralRegularizer(model, decay=np.float32(0.5), **same)
    assert decayed() == SpectralRegularizer(model, decay=0.5, **same)()


def test_all_frozen_is_an_error() -> None:
    model = nn.Linear(4, 4).requires_grad_(False)
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    for call in (reg, lambda: reg.accumulate_grad_(1.0)):
        with pytest.raises(ValueError, match=r"^model: no parameter that is regularized requires grad"):
            call()


def test_parameters_that_were_replaced_are_an_error() -> None:
    """What is trained would have no penalty, and nobody would notice."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    reg = SpectralRegularizer(model, keep_ratio=0.5)
    model.double().load_state_dict(model.state_dict())
    reg()  # these are the same parameters
    model[1].load_state_dict({name: t.clone() for name, t in model[1].state_dict().items()}, assign=True)
    for call in (reg, lambda: reg.accumulate_grad_(1.0), reg.report, reg.communication):
        with pytest.raises(ValueError, match=r"^model: 1.weight is not the parameter that it was when"):
            call()
