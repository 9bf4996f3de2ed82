"""Weights against feedback: convolutions unrolled, paths multiplied, gradients unshared."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule
from tests.diagnostics.probing import probed
from tests.oracles.dense import unrolled

Array = np.ndarray


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        *(nn.Tanh(), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)),
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(30, 2, 6, 6).double(), torch.arange(30) % 5


SHAPES = {"0": (2, 6, 6), "2": (3, 6, 6), "4": (4, 3, 3)}


def dense(model: nn.Sequential, layer: str) -> Array:
    module = model[int(layer)]
    weight = module.weight.detach().numpy()
    return unrolled(module, weight, SHAPES[layer]) if layer in SHAPES else weight


def measured() -> tuple[nn.Sequential, dict[str, Array], xr.Dataset]:
    """Return the network, its feedback as (units, errors) by layer, and the recording."""
    model, data = network(), batch()
    capture = Capture(model, functional.cross_entropy, *data)
    feedback = DFA().draw(capture.injection_layers("micro"), 5, seed=3)
    rule = MeasuredRule(DFA(), feedback, "checkpoint")
    found = probed(
        *(model, functional.cross_entropy, data, rule),
        diagnostics=["weight-feedback", "alignment-matrix", "unshared-gradient", "weight-gradient"],
    ).sel(rule="dfa")
    return model, {n: b.flatten(1).T.double().numpy() for n, b in feedback.items()}, found


def cosine(first: Array, second: Array) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def test_convolutions_are_compared_with_feedback_as_the_matrices_that_they_are() -> None:
    model, feedback, found = measured()
    below = {"2": "0", "4": "2", "7": "4"}
    for layer, lower in below.items():
        above = feedback.get(layer, np.eye(5))
        matrix = dense(model, layer)
        target = above @ feedback[lower].T
        here = found.sel(layer=layer)
        np.testing.assert_allclose(here["cosine_weight_feedback"], cosine(matrix, target))
        solved = np.linalg.pinv(above) @ matrix @ np.linalg.pinv(feedback[lower]).T
        explained = np.linalg.norm(above @ solved @ feedback[lower].T) / np.linalg.norm(matrix)
        np.testing.assert_allclose(here["alignment_matrix_explained"], explained**2, rtol=1e-9)
        basis = np.linalg.svd(np.eye(5) - 0.2)[0][:, :4]
        values = np.linalg.svd(basis.T @ solved @ basis, compute_uv=False)
        np.testing.assert_allclose(here["alignment_matrix_condition"], values[0] / values[-1])
        assert here["alignment_matrix_rank"] == 4
    assert found["cosine_weight_feedback"].sel(layer="0").isnull()


def test_the_path_to_the_output_is_the_product_of_all_weights_above() -> None:
    model, feedback, found = measured()
    product = np.eye(5)
    for layer, above in (("4", "7"), ("2", "4"), ("0", "2")):
        product = product @ dense(model, above)
        shown = found["cosine_feedback_path"].sel(layer=layer)
        np.testing.assert_allclose(shown, cosine(feedback[layer].T, product))


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.c(h + torch.tanh(self.b(h)))


def test_a_shortcut_leaves_the_path_below_it_undefined() -> None:
    data = torch.randn(20, 6), torch.arange(20) % 3
    found = probed(
        *(Shortcut(), functional.cross_entropy, data, DFA()), diagnostics=["weight-feedback"]
    ).sel(rule="dfa")
    path = found["cosine_feedback_path"]
    assert path.sel(layer="a").isnull()
    assert path.sel(layer="b").notnull()


def test_the_unshared_gradient_keeps_every_position_apart() -> None:
    model, feedback, found = measured()
    x, y = batch()
    capture = Capture(model, functional.cross_entropy, x, y)
    true = capture.reference()
    layer = capture.layers[1]
    matrix = torch.as_tensor(feedback["2"].T.copy()).reshape(5, *layer.entry_shape)
    direct = capture.direct(
        {"0": torch.zeros(5, 3, 6, 6), "2": matrix, "4": torch.zeros(5, 4, 2, 2)},
        error=true.preactivation["7"],
    )
    h = capture.input_of(layer)
    module = model[2]
    columns = functional.unfold(h, 3, padding=1, stride=2)

    def apart(signal: Tensor) -> Array:
        return torch.einsum("nop,nkp->pok", signal.flatten(2), columns).numpy()

    one, other = (apart(each.preactivation["2"]) for each in (true, direct))
    shown = found["cosine_weight_gradient_unshared"].sel(layer="2")
    np.testing.assert_allclose(shown, cosine(one, other))
    summed = cosine(one.sum(0), other.sum(0))
    np.testing.assert_allclose(found["cosine_weight_gradient"].sel(layer="2"), summed)
    assert module.weight.grad is None
    assert found["cosine_weight_gradient_unshared"].sel(layer="7").isnull()
