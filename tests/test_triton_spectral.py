"""The Triton kernels of the spectral loss, interpreted, against the CPU's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import front_kernels as fk
from front_kernels import _spectral_gpu, _spectral_parts, engines

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
if torch.cuda.is_available():
    pytest.skip("there is a GPU: the kernels are not interpreted", allow_module_level=True)
from front_kernels.triton import launch, plan, spectral

TARGET = plan.Target(("a GPU for tests", "sm_80"), 4)
F = torch.ops.front


def layouts(shape: tuple[int, int], dtype: torch.dtype, kind: str) -> list[Tensor]:
    xs = [(torch.randn(shape, dtype=torch.float64) + 0.3).to(dtype) for _ in range(3)]
    if kind == "columns":
        return [x.t().contiguous().t() for x in xs]
    if kind == "mixed":
        xs[1] = xs[1].t().contiguous().t()
        wide = torch.full((shape[0] + 3, 2 * shape[1] + 1), 7.0, dtype=dtype)
        xs[2] = wide[2:-1, 1::2].copy_(xs[2])
    return xs


BOTH, APART, COLUMNS = ((97, 61), (20, 30)), ((140, 50), (129, 33)), ((41, 150), (20, 130))
CASES = [
    *((torch.float32, case, kind, False) for case in (BOTH, APART, COLUMNS) for kind in ("rows", "columns", "mixed")),
    *((torch.float32, case, "mixed", False) for case in (((1, 37), (1, 5)), ((64, 1), (9, 1)))),
    *((torch.float32, case, kind, True) for case in (BOTH, APART) for kind in ("rows", "mixed")),
    *((dtype, case, "mixed", rows) for dtype in (torch.float64, torch.bfloat16) for case in (BOTH, APART)
      for rows in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "case", "kind", "only_rows"), CASES, ids=lambda value: str(value))
def test_the_halves(
    dtype: torch.dtype, case: tuple[tuple[int, int], tuple[int, int]], kind: str, only_rows: bool
) -> None:
    shape, k = case
    xs = layouts(shape, dtype, kind)
    close = {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 3e-4}
    expected, spreads = F._spectral_crop(xs, list(k), only_rows)
    found, own = spectral.crop(xs, k, only_rows, TARGET)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(own, spreads, rtol=1e-5 if dtype != torch.float64 else 1e-12, atol=1e-6)
    terms = torch.rand(3, 4, dtype=torch.float64)
    wide = expected.dtype
    ours, theirs = ([torch.ones(shape, dtype=wide) for _ in xs] for _ in range(2))
    if kind == "mixed":
        ours[2] = ours[2].t().contiguous().t()
    squares = F._spectral_residual_(theirs, xs, expected, terms, only_rows)
    torch.testing.assert_close(
        spectral.residual_(ours, xs, expected, terms, only_rows, TARGET), squares, rtol=2e-4, atol=1e-9
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **close)
    torch.testing.assert_close(
        spectral.residual_([], xs, expected, terms, only_rows, TARGET), squares, rtol=2e-4, atol=1e-9
    )


def test_one_matrix_and_nothing_beyond_it() -> None:
    room, wall = torch.full((40, 50), 5.0), torch.full((40, 50), 3.0)
    x, grad = room[3:36, 4:41], wall[2:35, 5:42]
    x.copy_(torch.randn(33, 37))
    grad.fill_(1.0)
    c, spreads = spectral.crop([x], (9, 8), False, TARGET)
    torch.testing.assert_close(c, F._spectral_crop([x], [9, 8])[0])
    spectral.residual_([grad], [x], c, torch.tensor([[1.0, 1.0, 1.0, 0.3]], dtype=torch.float64), False, TARGET)
    inside = torch.zeros(40, 50, dtype=torch.bool)
    inside[2:35, 5:42] = True
    assert (wall[~inside] == 3.0).all()
    assert (wall[inside] != 1.0).float().mean() > 0.99
    assert not spreads[0, 2]
    assert spectral.crop([torch.full((20, 30), 0.1)], (9, 8), False, TARGET)[1][0, 1:3].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("ratio", [1e3, 1e5])
def test_a_mean_far_above_the_deviation(ratio: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 50) + ratio
    d = x.double() - x.double().mean()
    c, spreads = spectral.crop([x], (12, 10), False, TARGET)
    mean, energy, constant, shift = spreads[0]
    assert not constant
    assert energy.item() == pytest.approx(d.square().sum().item(), rel=1e-6)
    exact = fk.reference.dct_crop(x.double() - shift, (12, 10))
    assert (c[0] - exact).norm() <= 1e-6 * d.norm()
    grad = torch.zeros_like(x)
    terms = torch.stack([torch.tensor(2.0), torch.tensor(0.0), mean, shift]).to(torch.float64)[None]
    square = spectral.residual_([grad], [x], c, terms, False, TARGET)
    r = d - fk.reference.idct_pad(fk.reference.dct_crop(d, (12, 10)), (60, 50))
    assert square.item() == pytest.approx(r.square().sum().item(), rel=1e-5)
    assert (grad - 2 * r).norm() <= 2e-6 * r.norm()


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms of a GPU on CPU tensors; names of the kernels that ran."""
    names: list[str] = []
    run = launch.launch

    def launched(kernel: object, grid: int, arguments: dict[str, object]) -> None:
        names.append(f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.__name__}")  # type: ignore[attr-defined]
        run(kernel, grid, arguments)

    class Ops:
        class front:  # noqa: N801, a namespace's name
            class _spectral_crop:  # noqa: N801
                default = staticmethod(_spectral_gpu.crop)

            class _spectral_residual_:  # noqa: N801
                default = staticmethod(_spectral_gpu.residual_)

            dct, idct = F.dct, F.idct

    class Torch:
        ops = Ops

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    monkeypatch.setattr(launch, "launch", launched)
    monkeypatch.setattr(_spectral_parts, "torch", Torch())
    monkeypatch.setattr(engines, "gpu_of", lambda device: engines.Gpu("a GPU for tests", "sm_80", 4))
    monkeypatch.setattr(engines, "_has_triton", lambda: True)
    engines._forget_choices()
    return names


def test_a_list_takes_few_launches_whatever_its_length(on_a_gpu: list[str]) -> None:
    with fk.set_engine("triton"):
        for standardize, decay in itertools.product((False, True), (None, (1.0, 2.0))):
            on_a_gpu.clear()
            xs = [torch.randn(33, 47) for _ in range(5)] + [torch.ones(33, 47), torch.randn(1, 40)]
            ks = [(9, 8)] * 6 + [(1, 11)]
            ours, theirs = ([torch.ones_like(x) for x in xs] for _ in range(2))
            loss = _spectral_gpu._grad_many_(
                ours, xs, [n for k in ks for n in k], 0.5, standardize=standardize, decay=decay
            )
            expected = fk.spectral_grad_many_(theirs, xs, ks, 0.5, standardize=standardize, decay=decay)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert on_a_gpu == ["spectral_kernels.crop", "kernels.add", "spectral_kernels.pad"] * 2


def test_many_coefficients_go_to_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_absent", lambda name, gpu: None)
    engines._forget_choices()
    assert _spectral_gpu._fused([torch.empty(8192, 8192, dtype=torch.bfloat16)], (64, 64), False)
    assert not _spectral_gpu._fused([torch.empty(8192, 8192)], (1024, 1024), False)
    engines._forget_choices()
