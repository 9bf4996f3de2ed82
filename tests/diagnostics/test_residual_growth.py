"""Growth along the trunk, against norms taken by hand; a stream that explodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import CASES
from tests.diagnostics.probing import probed

NAMES = ["residual-growth"]
LOSS = functional.cross_entropy


class Block(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm(width), nn.Linear(width, 9), nn.Linear(9, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.down(torch.relu(self.up(self.norm(h))))


class Residual(nn.Module):
    """Blocks that begin with a normalisation, and perhaps one at their end."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm, *, has_last: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 8)
        self.blocks = nn.ModuleList([Block(8, norm) for _ in range(3)])
        self.norm = norm(8) if has_last else nn.Identity()
        self.last = nn.Linear(8, 3)

    def streams(self, x: Tensor) -> list[Tensor]:
        found = [self.first(x)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.streams(x)[-1]))


def measured(model: nn.Module) -> xr.Dataset:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=stream)
    return probed(model, LOSS, (x, torch.arange(12) % 3), diagnostics=NAMES)


def batch() -> Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("has_last", [True, False])
def test_the_stream_of_a_residual_network_is_followed_through_its_normalisations(
    norm: type[nn.Module], has_last: bool
) -> None:
    model = Residual(norm, has_last=has_last)
    found = measured(model)
    norms = [float(h.detach().norm()) for h in model.streams(batch())]
    if has_last and norm is nn.BatchNorm1d:
        # A normalisation over samples is taken as part of what comes before it.
        norms[-1] = float(model.norm(model.streams(batch())[-1]).detach().norm())
    names = ["blocks.0.down", "blocks.1.down", "blocks.2.down"]
    growths = [after / before for before, after in pairwise(norms)]
    values = found["residual_growth"].sel(layer=names).values
    np.testing.assert_allclose(values, growths, rtol=1e-5)
    assert found["residual_growth_largest"].item() == pytest.approx(max(growths), rel=1e-5)
    texts = found["not_defined"].sel(diagnostic="residual-growth")
    assert "first of the trunk" in str(texts.sel(layer="first").item())
    assert "inside a branch" in str(texts.sel(layer="blocks.1.up").item())
    assert "no layer reads" in str(texts.sel(layer="last").item())


def test_a_stream_that_explodes_starves_the_gradient_below_a_normalisation_at_its_end() -> None:
    healthy, failing = Residual(), Residual()
    with torch.no_grad():
        for block in failing.blocks:
            block.down.weight.mul_(1e4)
    before, after = measured(healthy), measured(failing)
    assert before["residual_growth_largest"].item() < 11.0
    assert after["residual_growth_largest"].item() > 100.0
    ratio = after["residual_reference_norm"] / before["residual_reference_norm"]
    assert ratio.item() < 1e-2
    # Without a normalisation at the end only the growth fires.
    model = Residual(has_last=False)
    with torch.no_grad():
        for block in model.blocks:
            block.down.weight.mul_(1e4)
    found = measured(model)
    assert found["residual_growth_largest"].item() > 100.0
    assert found["residual_reference_norm"].item() > 1e-3


def test_nothing_grows_from_zero() -> None:
    torch.manual_seed(0)
    dead, rest = nn.Linear(5, 6), [nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)]
    with torch.no_grad():
        dead.bias.fill_(-100.0)
    found = measured(nn.Sequential(dead, *rest))
    assert "residual_growth" not in found
    assert "residual_growth_largest" not in found
    text = str(found["not_defined"].sel(layer="2").item())
    assert "the activations before it are all zero" in text


@pytest.mark.parametrize(
    "name", ["residual", "language model", "vision transformer", "dense network"]
)
def test_every_layer_has_a_number_or_a_reason(name: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=NAMES)
    numbers = np.isfinite(found["residual_growth"].values)
    texts = found["not_defined"].sel(diagnostic="residual-growth").values
    assert [bool(text) for text in texts] == (~numbers).tolist()
