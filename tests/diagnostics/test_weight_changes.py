"""What weights have gained since the training began, against feedback that was planted in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from alignlab.kernels.convolution import structured_share
from alignlab.probe import Probe
from alignlab.rules import BP, DFA, FA, USF
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network
from tests.oracles.dense import unrolled
from tests.oracles.linear_dfa import by_weights

Array = np.ndarray
NAMES = ("weight-feedback", "alignment-matrix")
SIZES = (9, 40, 50, 4)


def measured(
    model: nn.Module,
    data: tuple[Any, Any],
    *rules: Any,
    initial: Mapping[str, Tensor] | None = None,
    loss: Any = half_squared_error,
    draws: int = 32,
) -> xr.Dataset:
    x, y = (torch.as_tensor(each) for each in data)
    earlier = {} if initial is None else {"initial": initial}
    with Probe(model, loss, rules=rules, diagnostics=NAMES, draws=draws, earlier=earlier) as probe:
        return probe.measure(x, y).isel(step=0)


def feedback(rng: np.random.Generator) -> list[Array]:
    return [rng.normal(size=(n, SIZES[-1])) / n**0.5 for n in SIZES[1:-1]]


def named(matrices: Sequence[Array]) -> dict[str, Array]:
    return {str(number): matrix for number, matrix in enumerate(matrices)}


def planted(rng: np.random.Generator, f: Sequence[Array], a: Array) -> list[Array]:
    """Return the change of the weights that is feedback around one alignment matrix."""
    inner = [above @ a @ below.T for below, above in pairwise(f)]
    return [rng.normal(size=(SIZES[1], SIZES[0])), *inner, a @ f[-1].T]


def data(rng: np.random.Generator) -> tuple[Array, Array]:
    return rng.normal(size=(30, SIZES[0])), rng.normal(size=(30, SIZES[-1]))


def state(weights: Sequence[Array]) -> dict[str, Tensor]:
    return {f"{k}.weight": torch.as_tensor(weight) for k, weight in enumerate(weights)}


def cosine(first: Array, second: Array) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def test_a_planted_change_is_read_whatever_the_initial_weights() -> None:
    rng = np.random.default_rng(0)
    f, a = feedback(rng), rng.normal(size=(4, 4))
    changes = planted(rng, f, a)
    start = [10.0 * rng.normal(size=change.shape) for change in changes]
    weights = [one + other for one, other in zip(start, changes, strict=True)]
    found = measured(
        linear_network(weights), data(rng), given_feedback(named(f)), initial=state(start)
    ).sel(rule="dfa").isel(layer=slice(1, None))  # fmt: skip
    np.testing.assert_allclose(found["alignment_matrix_change_explained"], 1.0, rtol=1e-9)
    assert (found["alignment_matrix_explained"] < 0.2).all()
    condition = found["alignment_matrix_change_condition"]
    np.testing.assert_allclose(condition, np.linalg.cond(a), rtol=1e-6)
    identity = np.trace(a) / 2.0 / np.linalg.norm(a)
    np.testing.assert_allclose(found["alignment_matrix_change_cosine_identity"], identity)
    eigenvalues = np.linalg.eigvalsh((a + a.T) / 2.0)[::-1] / np.linalg.norm(a, 2)
    shown = found["alignment_matrix_change_symmetric_eigenvalue"]
    np.testing.assert_allclose(shown, [eigenvalues] * 2, rtol=1e-6)
    np.testing.assert_allclose(
        found["alignment_matrix_change_symmetric_min"], eigenvalues[-1], rtol=1e-6
    )
    targets = [f[1] @ f[0].T, f[1].T]
    for number, target in enumerate(targets):
        here = found.isel(layer=number)
        expected = cosine(changes[number + 1], target)
        assert float(here["cosine_weight_change_feedback"]) == pytest.approx(expected)
        assert float(here["cosine_weight_feedback"]) == pytest.approx(
            cosine(weights[number + 1], target)
        )


def test_the_initial_weights_dilute_the_alignment_of_the_weights_as_stated() -> None:
    rng = np.random.default_rng(1)
    f = feedback(rng)
    changes = planted(rng, f, np.eye(4))
    start = [rng.normal(size=change.shape) for change in changes]
    share = 0.3
    changes = [
        share * np.linalg.norm(w) / np.linalg.norm(c) * c
        for c, w in zip(changes, start, strict=True)
    ]
    weights = [one + other for one, other in zip(start, changes, strict=True)]
    found = measured(
        linear_network(weights), data(rng), given_feedback(named(f)), initial=state(start)
    ).sel(rule="dfa").isel(layer=slice(1, None))  # fmt: skip
    np.testing.assert_allclose(found["cosine_weight_change_feedback"], 1.0)
    diluted = share / (1 + share**2) ** 0.5
    np.testing.assert_allclose(found["cosine_weight_feedback"], diluted, atol=0.1)
    assert (found["cosine_weight_change_feedback_status"] == "detectable").all()


def test_without_initial_weights_and_under_derived_feedback_the_reason_is_given() -> None:
    rng = np.random.default_rng(2)
    weights = planted(rng, feedback(rng), np.eye(4))
    plain = measured(linear_network(weights), data(rng), DFA())
    assert "cosine_weight_change_feedback" not in plain
    for name in NAMES:
        text = str(plain["not_defined"].sel(diagnostic=name, layer="1").values)
        assert "the weights at which the training began are not known" in text
    start = state([np.zeros_like(weight) for weight in weights])
    found = measured(linear_network(weights), data(rng), BP(), USF(), FA(), initial=start)
    assert found["cosine_weight_change_feedback"].sel(rule=["bp", "usf"]).isnull().all()
    assert found["cosine_weight_change_feedback"].sel(rule="fa", layer=["1", "2"]).notnull().all()
    # From zero the change is the weights themselves.
    np.testing.assert_allclose(
        found["cosine_weight_change_feedback"].sel(rule="fa"),
        found["cosine_weight_feedback"].sel(rule="fa"),
    )
    text = str(found["not_defined"].sel(diagnostic="weight-feedback", layer="0").values)
    assert "under fa because its feedback never acts" in text
    assert "under bp because nothing is said of the change" in text


def test_unrelated_change_is_explained_as_expected() -> None:
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=shape) for shape in ((40, 9), (50, 40), (4, 50))]
    start = state([np.zeros_like(weight) for weight in weights])
    found = measured(
        *(linear_network(weights), data(rng), given_feedback(named(feedback(rng)))),
        initial=start, draws=200,
    ).sel(rule="dfa")  # fmt: skip
    expected = [16 / (40 * 50), 4 * 4 / (4 * 50)]
    shown = found["alignment_matrix_change_explained_chance"].isel(layer=slice(1, None))
    np.testing.assert_allclose(shown, expected, rtol=0.08)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared error"])
def test_conditioning_is_finite_under_either_loss_where_the_whole_matrix_is_singular(
    loss: str,
) -> None:
    """Ten classes trained from zero: of a softmax the matrix is singular, its error space not."""
    rng = np.random.default_rng(4)
    n, classes = 60, 10
    f = [rng.normal(size=(n, classes)) / n**0.5 for _ in range(2)]
    x = rng.normal(size=(400, 12))
    y = (x @ rng.normal(size=(12, classes)) + rng.normal(size=(400, classes))).argmax(1)
    hot = np.eye(classes)[y]
    if loss == "cross-entropy":
        weights = _by_softmax(f, x, hot)
        function, target = functional.cross_entropy, y
    else:
        weights = by_weights(f, (x, hot - 0.1), steps=40, rate=0.002)
        function, target = half_squared_error, hot - 0.1
    start = state([np.zeros_like(weight) for weight in weights])
    found = measured(
        *(linear_network(weights), (x, target), given_feedback(named(f))),
        initial=start, loss=function,
    ).sel(rule="dfa").isel(layer=1)  # fmt: skip
    whole = np.linalg.pinv(f[1]) @ weights[1] @ np.linalg.pinv(f[0]).T
    values = np.linalg.svd(whole, compute_uv=False)
    whole_cosine = np.trace(whole) / classes**0.5 / np.linalg.norm(whole)
    rank = int(found["alignment_matrix_rank"])
    shown = float(found["alignment_matrix_cosine_identity"])
    for prefix in ("alignment_matrix", "alignment_matrix_change"):
        assert 1.0 < float(found[f"{prefix}_condition"]) < 30.0
        assert float(found[f"{prefix}_cosine_identity"]) == pytest.approx(shown)
    assert shown > 0.8
    if loss == "cross-entropy":
        assert rank == 9
        assert values[0] / values[-1] > 1e10
        # The direction in which there is no error took (10 - 9)/10 of the cosine's square.
        assert whole_cosine == pytest.approx(shown * 0.9**0.5, rel=1e-6)


def _by_softmax(f: Sequence[Array], x: Array, hot: Array) -> list[Array]:
    weights = [np.zeros((60, 12)), np.zeros((60, 60)), np.zeros((10, 60))]
    for _ in range(60):
        h = [x]
        for weight in weights:
            h.append(h[-1] @ weight.T)
        shares = np.exp(h[-1] - h[-1].max(1, keepdims=True))
        error = shares / shares.sum(1, keepdims=True) - hot
        signals = [error @ f[0].T, error @ f[1].T, error]
        weights = [
            weight - 0.003 * signal.T @ below
            for weight, signal, below in zip(weights, signals, h[:-1], strict=True)
        ]
    return weights


def maps() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
    ).double()


def test_weights_at_the_nearest_kernel_attain_all_that_is_attainable() -> None:
    rng = np.random.default_rng(5)
    model = maps()
    initial = copy.deepcopy(model.state_dict())
    b = {"0": rng.normal(size=(48, 3)), "2": rng.normal(size=(64, 3))}
    below, above = (torch.as_tensor(b[n].T.copy()) for n in ("0", "2"))
    below, above = below.reshape(3, 3, 4, 4), above.reshape(3, 4, 4, 4)
    target = b["2"] @ b["0"].T
    kernel = torch.zeros_like(model[2].weight)
    for place in np.ndindex(*kernel.shape):
        one = torch.zeros_like(kernel)
        one[place] = 1.0
        unit = unrolled(model[2], one.numpy(), (3, 4, 4))
        kernel[place] = float((unit * target).sum() / unit.sum())
    with torch.no_grad():
        model[2].weight.copy_(kernel)
    x, y = torch.randn(20, 2, 4, 4).double(), torch.arange(20) % 3
    found = measured(
        model, (x, y), given_feedback(b), initial=initial, loss=functional.cross_entropy
    ).sel(rule="dfa", layer="2")
    cap = float(structured_share(model[2], below, above))
    assert cap < 0.3
    assert float(found["cosine_weight_feedback"]) == pytest.approx(cap)
    assert float(found["cosine_weight_feedback_attained"]) == pytest.approx(1.0)
    change = float(found["cosine_weight_change_feedback"])
    assert float(found["cosine_weight_change_feedback_attained"]) == pytest.approx(change / cap)


def test_the_change_of_a_computed_weight_is_that_of_what_it_computes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), parametrizations.weight_norm(nn.Linear(7, 3)))
    initial = copy.deepcopy(model.state_dict())
    before = model[2].weight.detach().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    change = (model[2].weight.detach() - before).double().numpy()
    f = np.random.default_rng(0).normal(size=(7, 3))
    batch = torch.randn(20, 6), torch.arange(20) % 3
    found = measured(
        model, batch, given_feedback({"0": f}), initial=initial, loss=functional.cross_entropy
    ).sel(rule="dfa", layer="2")
    assert float(found["cosine_weight_change_feedback"]) == pytest.approx(cosine(change, f.T))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_borders_that_add_weights_up_are_left_out_by_name(mode: str) -> None:
    model = maps()
    model[2] = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode).double()
    x, y = torch.randn(20, 2, 4, 4).double(), torch.arange(20) % 3
    found = measured(model, (x, y), DFA(), loss=functional.cross_entropy).sel(rule="dfa")
    assert found["cosine_weight_feedback"].sel(layer="2").isnull()
    assert found["cosine_weight_feedback"].sel(layer="5").notnull()
    for name in NAMES:
        text = str(found["not_defined"].sel(diagnostic=name, layer="2").values)
        assert "at its borders several of its weights act on one input" in text
