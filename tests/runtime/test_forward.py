"""A network on a batch: every row once, whatever its memory, its precision and the padding do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentkit.runtime.forward import FINITE, Forward, Launched


class Sums(nn.Module):
    """``sum`` of a row, and ``row`` itself; out of memory beyond `fits` rows, for a zero row even alone."""

    def __init__(self, fits: int = 10**6) -> None:
        super().__init__()
        self.fits = fits
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor, plus: float = 0.0) -> dict[str, torch.Tensor]:
        self.seen.append(len(x))
        if len(x) > self.fits or bool((x == 0).all(1).any()):
            raise torch.OutOfMemoryError("no room")
        return {"sum": x.sum(1, keepdim=True) + plus, "row": x}


class Product(nn.Module):
    """``product`` is a row times 300 times the unit matrix: beyond 218 a float16 overflows."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"product": (x @ (300 * torch.eye(3))).float()}


class Rounded(nn.Module):
    """Logarithms cut to bytes, in which no NaN can be seen."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logarithms = x.log()
        return {"bytes": logarithms.to(torch.uint8), FINITE: logarithms.isfinite().all(1)}


def rows(count: int) -> torch.Tensor:
    return torch.arange(1, 3 * count + 1, dtype=torch.float32).reshape(count, 3)


def ran(forward: Forward, x: torch.Tensor, pad_to: int = 0, **settings: float) -> Launched:
    with torch.inference_mode():
        return forward({"x": x}, pad_to, **settings).result()


@pytest.mark.parametrize("to_host", [False, True])
def test_a_batch_that_fits_goes_through_in_one_piece(to_host: bool) -> None:
    forward = Forward(Sums(), "32-true", to_host=to_host)
    outcome = ran(forward, rows(5), plus=2.0)
    assert forward.network.seen == [5]
    assert torch.equal(outcome.outputs["sum"], rows(5).sum(1, keepdim=True) + 2)
    assert torch.equal(outcome.outputs["row"], rows(5))
    assert outcome.lost == outcome.unfinite == []


@pytest.mark.parametrize(("size", "fits", "found"), [(8, 3, 2), (7, 3, 3), (5, 1, 1), (6, 5, 3)])
def test_out_of_memory_halves_the_batch_into_equal_pieces_and_remembers(
    size: int, fits: int, found: int
) -> None:
    forward = Forward(Sums(fits), "32-true")
    for _ in range(2):
        outcome = ran(forward, rows(size))
        assert torch.equal(outcome.outputs["row"], rows(size))
        assert torch.equal(outcome.outputs["sum"], rows(size).sum(1, keepdim=True))
    assert forward.fits == found
    too_large = [seen for seen in forward.network.seen if seen > fits]
    assert forward.network.seen[: len(too_large)] == too_large  # never tried again
    assert set(forward.network.seen[len(too_large) :]) == {found}


@pytest.mark.parametrize("bad", [[0], [2], [6], [2, 3], list(range(7))])
def test_a_row_that_does_not_fit_alone_is_lost_and_no_other(bad: list[int]) -> None:
    x = rows(7)
    x[bad] = 0
    outcome = ran(Forward(Sums(), "32-true"), x, 8)
    assert outcome.lost == bad
    kept = [row for row in range(7) if row not in bad]
    if kept:
        assert torch.equal(outcome.outputs["row"][kept], x[kept])
    else:
        assert outcome.outputs == {}


@pytest.mark.parametrize(("count", "fits"), [(1, 100), (3, 100), (3, 2), (5, 2), (8, 3)])
def test_padding_runs_whole_batches_and_never_counts(count: int, fits: int) -> None:
    forward = Forward(Sums(fits), "32-true")
    outcome = ran(forward, rows(count), 8)
    assert forward.network.seen[0] == 8
    assert torch.equal(outcome.outputs["row"], rows(count))
    assert len(outcome.outputs["sum"]) == count
    whole = [seen for seen in forward.network.seen if seen <= fits]
    assert len(set(whole)) == 1


def test_a_bad_last_row_is_told_once_though_the_padding_repeats_it() -> None:
    x = rows(3)
    x[2] = 1e5
    x[1] = float("inf")
    outcome = ran(Forward(Product(), "16-mixed"), x, 8)
    assert outcome.unfinite == [1]
    assert torch.equal(outcome.outputs["product"][2], torch.full((3,), 3e7))


def test_what_overflows_in_float16_is_computed_again_in_float32() -> None:
    x = torch.tensor([[21.01] * 3, [250.0] * 3, [0.1] * 3])  # 75,000 does not fit into float16
    product = ran(Forward(Product(), "16-mixed"), x).outputs["product"]
    assert product[1].tolist() == [75_000.0] * 3
    exact = 300 * x
    assert torch.allclose(product, exact, rtol=2e-3)
    assert not torch.allclose(product[0], exact[0], rtol=1e-5)  # as half precision gave it


def test_what_memory_runs_out_for_in_float32_is_not_finite() -> None:
    class Larger(Product):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            if not torch.is_autocast_enabled("cpu"):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(x)

    outcome = ran(Forward(Larger(), "16-mixed"), torch.tensor([[1.0] * 3, [250.0] * 3]))
    assert (outcome.lost, outcome.unfinite) == ([], [1])


def test_a_network_that_rounds_says_itself_what_was_finite() -> None:
    outcome = ran(Forward(Rounded(), "32-true"), torch.tensor([[1.0, 20.0], [0.0, 20.0]]))
    assert outcome.unfinite == [1]
    assert outcome.outputs.keys() == {"bytes"}
    assert outcome.outputs["bytes"][0].tolist() == [0, 2]


def test_other_errors_of_a_network_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ran(Forward(Product(), "32-true"), torch.ones(2, 4))


def test_the_second_try_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def compile_in_place(network: nn.Module, **options: object) -> None:
        asked.append(options)
        network._compiled_call_impl = lambda **tensors: {  # type: ignore[assignment]
            name: out * float("nan") for name, out in network.forward(**tensors).items()
        }

    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    compiled = Forward(Product(), "32-true", compiled=True, shapes_vary=True)
    assert torch.equal(ran(compiled, torch.ones(2, 3)).outputs["product"], torch.full((2, 3), 300.0))
    Forward(Product(), "32-true", compiled=True)
    Forward(Product(), "32-true")
    assert asked == [{"dynamic": None}, {"dynamic": False}]
