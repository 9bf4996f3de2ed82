"""The drift budget, against steps that are made and means that are measured."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import DFA, FA, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, probed

LOSS = functional.cross_entropy
NAMES = ["drift"]
SUM = ["common", "covariance", "other", "upstream", "cross"]
STEP = 1e-3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=stream, dtype=torch.float64) + 0.5, torch.arange(12) % 3


def preactivations(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    a = model[0](x)
    b = model[2](torch.tanh(a))
    return [each.detach() for each in (a, b, model[4](torch.relu(b)))]


def centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def test_terms_of_direct_feedback_are_those_of_the_definition() -> None:
    model, (x, y) = network(), batch()
    stream = np.random.default_rng(0)
    feedback = {"0": stream.normal(size=(7, 3)), "2": stream.normal(size=(5, 3))}
    found = probed(model, LOSS, (x, y), given_feedback(feedback), diagnostics=NAMES).isel(rule=0)
    before = preactivations(model, x)
    inputs = [x, torch.tanh(before[0]), torch.relu(before[1])]
    e = (torch.softmax(before[2], 1) - functional.one_hot(y, 3)) / 12
    entries = [e @ torch.as_tensor(feedback["0"]).T, e @ torch.as_tensor(feedback["2"]).T, e]
    gates = [1.0 - inputs[1] ** 2, (before[1] > 0).double(), torch.ones_like(e)]
    signals = [g * s for g, s in zip(gates, entries, strict=True)]
    updates = []
    for layer, (d, h) in zip(
        (model[0], model[2], model[4]), zip(signals, inputs, strict=True), strict=True
    ):
        updates.append(d.T @ h)
        if layer.bias is not None:
            updates.append(d.sum(0))
    parameters = list(model.parameters())
    size = torch.stack([p.detach().norm() for p in parameters]).norm()
    rate = STEP * size / torch.stack([u.norm() for u in updates]).norm()
    stepped = copy.deepcopy(model)
    with torch.no_grad():
        for p, u in zip(stepped.parameters(), updates, strict=True):
            p.sub_(rate * u)
    after = preactivations(stepped, x)
    new_inputs = [x, torch.tanh(after[0]), torch.relu(after[1])]
    for k, name in enumerate(("0", "2", "4")):
        layer, moved = model.get_submodule(name), stepped.get_submodule(name)
        h, s, g, d = (each[k].detach() for each in (inputs, entries, gates, signals))
        actual = after[k].mean(0) - before[k].mean(0)
        factor = h.mean(0).square().sum() + (0.0 if layer.bias is None else 1.0)
        change = new_inputs[k].mean(0) - h.mean(0)
        along = centred(h) @ h.mean(0)
        terms = {
            "leading": -rate * factor * 12 * g.mean(0) * s.mean(0),
            "residual": -rate * factor * (centred(g) * centred(s)).sum(0),
            "common": -rate * factor * d.sum(0),
            "covariance": -rate * (centred(d) * along[:, None]).sum(0),
            "other": torch.zeros_like(actual),
            "upstream": layer.weight.detach() @ change,
            "cross": (moved.weight - layer.weight).detach() @ change,
        }
        torch.testing.assert_close(sum(terms[name] for name in SUM), actual)
        here = found.sel(layer=name)
        for term, vector in terms.items():
            share = float((vector * actual).sum() / actual.square().sum())
            assert here[f"mean_drift_{term}"].item() == pytest.approx(share, abs=1e-8), term
        spread = before[k].var(0, correction=0).sum().sqrt()
        expected = float(actual.norm() / (STEP * spread))
        assert here["mean_drift"].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", list(CASES))
def test_terms_add_up_to_the_change_in_every_network(name: str) -> None:
    made = CASES[name].make(dtype=torch.float64)
    try:
        found = probed(made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=NAMES)
    except RuntimeError as error:
        pytest.skip(str(error))
    for suffix in ("", "_true"):
        total = sum(found[f"mean_drift_{term}{suffix}"].values for term in SUM)
        known = np.isfinite(total)
        assert total[known] == pytest.approx(1.0)
        reasons = found["not_defined"].sel(diagnostic="drift").values
        known = known.any(0) if known.ndim > 1 else known
        assert all(known | (reasons != "")), suffix
        both = found[f"mean_drift_leading{suffix}"] + found[f"mean_drift_residual{suffix}"]
        gated = np.isfinite(both.values)
        np.testing.assert_allclose(
            both.values[gated], found[f"mean_drift_common{suffix}"].values[gated], atol=1e-9
        )


def means_and_spreads(
    model: nn.Module, x: Tensor, layers: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and root of the summed variance of every layer's output units, by hooks."""
    calls: dict[str, int] = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def kept(label: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[label] = calls.get(label, 0) + 1
            name = label if calls[label] == 1 else f"{label}@{calls[label]}"
            rows = (
                output.detach() if isinstance(module, nn.Linear) else output.detach().movedim(1, -1)
            )
            rows = rows.flatten(0, -2).clone()
            found[name] = (rows.mean(0), rows.var(0, correction=0).sum().sqrt())

        return hook

    names = dict.fromkeys(name.partition("@")[0] for name in layers)
    handles = [model.get_submodule(name).register_forward_hook(kept(name)) for name in names]
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("conv2d, grouped", "conv2d, circular", "conv1d, transposed", "conv3d, transposed"),
        *("residual", "positions", "reused", "tied", "weight norm", "batch norm, training"),
        *("frozen", "recurrence", "layer norm", "conv2d, depthwise"),
    ],
)
def test_the_change_is_the_one_that_a_step_makes(name: str) -> None:
    made = CASES[name].make(dtype=torch.float64)
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=NAMES)
    layers = [str(layer) for layer in found["layer"].values]
    before = means_and_spreads(made.model, made.x, layers)
    wanted = [p for p in made.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(made.loss(made.model(made.x), made.y), wanted)
    sizes = [torch.stack([t.detach().norm() for t in each]).norm() for each in (wanted, gradients)]
    with torch.no_grad():
        for p, gradient in zip(wanted, gradients, strict=True):
            p.sub_(STEP * sizes[0] / sizes[1] * gradient)
    after = means_and_spreads(made.model, made.x, layers)
    for layer in layers:
        value = found["mean_drift_true"].sel(layer=layer).item()
        if np.isfinite(value):
            mean, spread = before[layer]
            actual = float((after[layer][0] - mean).norm() / (STEP * spread))
            assert value == pytest.approx(actual, rel=1e-6), layer


class Shared(nn.Module):
    """One layer that acts twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))


def test_what_a_weight_learns_in_another_call_is_neither_its_own_nor_lost() -> None:
    torch.manual_seed(0)
    model = Shared().double()
    found = probed(model, LOSS, batch(), diagnostics=NAMES)
    other = found["mean_drift_other_true"].sel(layer=["first", "first@2", "last"]).values
    assert (abs(other[:2]) > 1e-3).all()
    assert other[2] == pytest.approx(0.0, abs=1e-9)


def test_an_error_that_pushes_all_samples_one_way_is_the_leading_term() -> None:
    x, _ = batch()
    target = torch.zeros(12, 3, dtype=torch.float64)

    def pushing(output: Tensor, aim: Tensor) -> Tensor:
        return functional.mse_loss(output + 30.0, aim)

    def level(output: Tensor, aim: Tensor) -> Tensor:
        return functional.mse_loss(output - output.mean(0).detach(), aim)

    rule = DFA(seed=0)
    pushed = probed(network(), pushing, (x, target), rule, diagnostics=NAMES).isel(rule=0)
    centre = probed(network(), level, (x, target), rule, diagnostics=NAMES).isel(rule=0)
    first = pushed.sel(layer="0")
    assert first["mean_drift_leading"].item() > 0.95
    assert abs(first["mean_drift_residual"].item()) < 0.05
    assert centre["mean_drift_leading"].sel(layer="0").item() == pytest.approx(0.0, abs=1e-9)
    assert centre["mean_drift"].sel(layer="0").item() < first["mean_drift"].item()


def test_rates_and_precision_do_not_matter() -> None:
    model, (x, y) = network(), batch()
    plain = probed(model, LOSS, (x, y), FA(seed=0), diagnostics=NAMES)
    scaled = probed(model, lambda o, t: 1e-3 * LOSS(o, t), (x, y), FA(seed=0), diagnostics=NAMES)
    coarse = probed(model.float(), LOSS, (x.float(), y), FA(seed=0), diagnostics=NAMES)
    for name, variable in plain.data_vars.items():
        if str(name).startswith("mean_drift"):
            np.testing.assert_allclose(scaled[name], variable, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(coarse[name], variable, rtol=2e-2, atol=2e-3)


def test_the_way_since_earlier_is_own_weights_and_inputs() -> None:
    model, start, (x, y) = network(), network(), batch()
    with torch.no_grad():
        start[0].weight += 0.3
        start[4].bias -= 0.2
    found = probed_since(model, start, x, y)
    before, after = preactivations(start, x), preactivations(model, x)
    inputs = [[x, torch.tanh(a), torch.relu(b)] for a, b, _ in (tuple(before), tuple(after))]
    for k, name in enumerate(("0", "2", "4")):
        here = found.sel(layer=name, earlier="start")
        total = after[k].mean(0) - before[k].mean(0)
        spread = after[k].var(0, correction=0).sum().sqrt()
        assert here["mean_drift_since"].item() == pytest.approx(float(total.norm() / spread))
        old, new = start.get_submodule(name), model.get_submodule(name)
        own = (new.weight - old.weight) @ inputs[0][k].mean(0)
        if old.bias is not None:
            own = own + new.bias - old.bias
        upstream = old.weight @ (inputs[1][k].mean(0) - inputs[0][k].mean(0))
        for term, vector in (("own", own), ("upstream", upstream)):
            share = float((vector.detach() * total).sum() / total.square().sum())
            assert here[f"mean_drift_since_{term}"].item() == pytest.approx(share, abs=1e-9)
    still = found.sel(earlier="now")
    assert still["mean_drift_since"].values == pytest.approx([0.0] * 3)


def probed_since(model: nn.Module, start: nn.Module, x: Tensor, y: Tensor) -> xr.Dataset:
    from alignlab.probe import Probe

    earlier = {"start": start.state_dict(), "now": copy.deepcopy(model.state_dict())}
    with Probe(model, LOSS, diagnostics=NAMES, draws=32, earlier=earlier) as probe:
        return probe.measure(x, y).isel(step=0)


def test_what_was_not_observed_is_said_so() -> None:
    model = network()
    model[2].weight.requires_grad_(False)
    drawn = given_feedback({"0": np.ones((7, 3)), "2": np.ones((5, 3))}, origin="drawn")
    updates = MeasuredRule(ForwardGradient(), {}, "training", "forward-gradient")
    found = probed(model, LOSS, batch(), drawn, updates, diagnostics=NAMES)
    text = str(found["not_defined"].sel(layer="2").item())
    assert "under dfa because its feedback was drawn" in text
    assert "under forward-gradient because the rule yields updates" in text
    assert "its weight is frozen" in text
    assert "no state of earlier" in text
