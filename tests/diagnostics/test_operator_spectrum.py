"""The spectrum of every layer against the matrix that it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from tests.cases import CASES
from tests.diagnostics.probing import probed
from tests.oracles.dense import unrolled

NAMES = ["conv1d, strided", "conv2d, grouped", "conv2d, circular", "positions", "reused"]


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_singular_value_is_that_of_the_unrolled_matrix(name: str) -> None:
    batch = CASES[name].make()
    found = probed(batch.model, batch.loss, (batch.x, batch.y), diagnostics=["operator-spectrum"])
    shapes: dict[str, tuple[int, ...]] = {}
    for key, module in batch.model.named_modules():
        module.register_forward_pre_hook(
            lambda _, arguments, key=key: shapes.update({key: tuple(arguments[0].shape[1:])})
        )
    batch.model(batch.x)
    for layer in found["layer"].values:
        module = batch.model.get_submodule(str(layer).partition("@")[0])
        matrix = unrolled(
            module, module.weight.detach().double().numpy(), shapes[str(layer).partition("@")[0]]
        )
        values = np.linalg.svd(matrix, compute_uv=False)
        at = found.sel(layer=layer)
        value = float(at["largest_singular_value_operator"])
        assert value == pytest.approx(values[0], rel=1e-5)
        residual = float(at["largest_singular_value_operator_residual"])
        assert 0.0 <= residual <= 1e-3 * value
        smallest = float(at["smallest_singular_value_operator"])
        assert smallest == pytest.approx(values[-1], rel=1e-4)
        condition = float(at["condition_number_operator"])
        assert condition == pytest.approx(values[0] / values[-1], rel=1e-4)
        ratio = float(at["participation_ratio_operator_circular"])
        if isinstance(module, nn.Linear) or module.padding_mode == "circular":
            energies = values**2
            same = energies.sum() ** 2 / (energies**2).sum()
            assert ratio == pytest.approx(same, rel=1e-5)
        divides = isinstance(module, nn.Linear) or all(
            n % s == 0 for n, s in zip(shapes[str(layer)][1:], module.stride, strict=True)
        )
        assert np.isfinite(ratio) == divides


def test_an_orthogonal_convolution_passes_on_every_direction() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[:, :, 1, 1] = 2.0 * torch.linalg.qr(torch.randn(3, 3)).Q
    model = nn.Sequential(convolution, nn.Flatten(), nn.Linear(48, 3))
    batch = torch.randn(6, 3, 4, 4), torch.arange(6) % 3
    found = probed(
        *(model, nn.functional.cross_entropy, batch), diagnostics=["operator-spectrum"]
    ).isel(layer=0)
    assert float(found["participation_ratio_operator_circular"]) == pytest.approx(48.0)
    assert float(found["largest_singular_value_operator"]) == pytest.approx(2.0)
    assert float(found["condition_number_operator"]) == pytest.approx(1.0, rel=1e-5)
    assert float(found["condition_number_operator_circular"]) == pytest.approx(1.0, rel=1e-5)


def test_what_has_not_converged_is_left_out_with_its_bound() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.AvgPool2d(9)),
        *(nn.Flatten(), nn.Linear(8, 3)),
    )
    batch = torch.randn(6, 3, 9, 9), torch.arange(6) % 3
    found = probed(*(model, nn.functional.cross_entropy, batch), diagnostics=["operator-spectrum"])
    text = str(found["not_defined"].sel(layer="1").item())
    bound = float(re.findall(r"at most ([\d.e-]+), has not converged after 40 steps", text)[0])
    assert found["condition_number_operator"].sel(layer="1").isnull()
    assert found["smallest_singular_value_operator"].sel(layer="1").isnull()
    weight = model[1].weight.detach().double()
    exact = np.linalg.svd(unrolled(model[1], weight.numpy(), (8, 9, 9)), compute_uv=False)
    assert exact[-1] <= bound
    assert float(found["largest_singular_value_operator"].sel(layer="1")) <= exact[0] * (1 + 1e-6)
    assert found["condition_number_operator_circular"].sel(layer="1") > 20.0
    first = found["condition_number_operator"].sel(layer="0")
    assert np.isfinite(float(first))
