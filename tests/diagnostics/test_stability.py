"""Growth of deviations against dense Jacobians of update fields that are written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics import _growth
from alignlab.rules import BP, BRSF, DFA, FA, USF, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.cases import Case, each_case
from tests.diagnostics.probing import half_squared_error, probed

LOSS = functional.mse_loss
SIZES = ((3, 4), (4, 3), (3, 2))


def network(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in SIZES:
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    draw = torch.randn(n, 5, dtype=torch.float64, generator=stream)
    return draw[:, :3], draw[:, 3:]


def feedback(*, seed: int = 2) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    shapes = {"0": (2, 4), "2": (2, 3)}
    return {
        name: torch.randn(*shape, dtype=torch.float64, generator=stream)
        for name, shape in shapes.items()
    }


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def direct_update(x: Tensor, y: Tensor, given: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the update of direct feedback alignment as a function of all parameters."""

    def update(theta: Tensor) -> Tensor:
        parts = theta.split([size for a, b in SIZES for size in (a * b, b)])
        weights = [parts[2 * k].reshape(b, a) for k, (a, b) in enumerate(SIZES)]
        h1 = torch.tanh(x @ weights[0].T + parts[1])
        h2 = torch.tanh(h1 @ weights[1].T + parts[3])
        e = (h2 @ weights[2].T + parts[5] - y) * 2.0 / y.numel()
        d2, d1 = (e @ given["2"]) * (1 - h2**2), (e @ given["0"]) * (1 - h1**2)
        pairs = ((d1, x), (d2, h1), (e, h2))
        return torch.cat([part for d, h in pairs for part in ((d.T @ h).flatten(), d.sum(0))])

    return update


def ordered(values: np.ndarray) -> np.ndarray:
    return values[np.lexsort((-values.imag, -values.real))]


def measured(model: nn.Module, *rules: Any, data: Any = None, loss: Any = LOSS) -> Any:
    return probed(model, loss, data or batch(), *rules, diagnostics=["stability"])


def of_given(given: dict[str, Tensor], origin: str = "checkpoint") -> MeasuredRule:
    return MeasuredRule(DFA(), given, origin)


def test_a_whole_krylov_space_holds_the_spectrum_of_the_update_jacobian() -> None:
    model, (x, y) = network(), batch()
    matrix = -torch.autograd.functional.jacobian(
        direct_update(x, y, feedback()), vector(model)
    ).numpy()
    found = measured(model, of_given(feedback())).sel(rule="dfa")
    expected = ordered(np.linalg.eigvals(matrix))
    np.testing.assert_allclose(found["growth_rate"].values, expected.real[:4], atol=1e-4)
    np.testing.assert_allclose(
        found["growth_rotation"].values, np.abs(expected.imag[:4]), atol=1e-4
    )
    extent = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert float(found["growth_range_lowest"]) == pytest.approx(extent[0], abs=1e-4)
    assert float(found["growth_range_highest"]) == pytest.approx(extent[-1], abs=1e-4)
    shrinking = expected[expected.real < -1e-3]
    limit = (-2 * shrinking.real / np.abs(shrinking) ** 2).min()
    assert float(found["stable_step_at_most"]) == pytest.approx(limit, rel=1e-3)
    assert int(found["growth_vectors"]) == len(matrix)
    assert float(found["growth_error"]) < 1e-4
    assert np.abs(expected.imag[:10]).max() > 1e-3


def test_backpropagation_has_minus_the_hessian() -> None:
    model, (x, y) = network(), batch()
    names = [name for name, _ in model.named_parameters()]

    def loss(theta: Tensor) -> Tensor:
        sizes = [p.numel() for p in model.parameters()]
        parts = {
            name: part.reshape(p.shape)
            for name, part, p in zip(names, theta.split(sizes), model.parameters(), strict=True)
        }
        return LOSS(torch.func.functional_call(model, parts, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, vector(model)).numpy()
    found = measured(model, BP()).sel(rule="bp")
    np.testing.assert_allclose(
        found["growth_rate"].values, -np.linalg.eigvalsh(hessian)[:4], atol=1e-4
    )


def test_a_network_in_float32_is_measured_in_float64() -> None:
    double = measured(network(), of_given(feedback())).sel(rule="dfa")
    model = network().float()
    x, y = (each.float() for each in batch())
    single = measured(model, of_given(feedback()), data=(x, y)).sel(rule="dfa")
    np.testing.assert_allclose(single["growth_rate"], double["growth_rate"], atol=1e-4)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_gradient_descent_diverges_above_the_stable_step_and_not_below() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    x, y = batch(10)
    limit = float(measured(model, BP(), data=(x, y), loss=half_squared_error).sel(rule="bp")[
        "stable_step_at_most"
    ])  # fmt: skip
    sizes = []
    for factor in (0.98, 1.02):
        weight = model[0].weight.detach().clone()
        for _ in range(2000):
            weight -= factor * limit * (x @ weight.T - y).T @ x
        sizes.append(float(weight.norm()))
    assert sizes[0] < 10.0
    assert sizes[1] > 1e6


@pytest.mark.parametrize("rule", ["dfa", "bp"])
def test_at_interpolation_weights_and_outputs_have_the_same_spectrum(rule: str) -> None:
    model, (x, _) = network(seed=3), batch(5)
    y = model(x).detach()
    found = measured(model, of_given(feedback()), BP(), data=(x, y)).sel(rule=rule)
    assert float(found["interpolation_distance"]) == pytest.approx(0.0, abs=1e-12)
    if rule == "dfa":
        update = direct_update(x, y, feedback())
        matrix = torch.autograd.functional.jacobian(update, vector(model)).numpy()
        values = np.linalg.eigvals(matrix)
        values = values[np.abs(values) > 1e-9]
        assert len(values) == 10
        expected = np.sort(values.real)
        np.testing.assert_allclose(found["error_decay"].values, expected[:4], atol=1e-8)
        growth = found["growth_rate"].values
        np.testing.assert_allclose(
            np.sort(growth[growth > 1e-4]), np.sort(-expected[expected < -1e-4])[-4:], atol=1e-4
        )
    else:
        assert float(found["error_decay"][0]) > 0
    assert float(found["error_decay_part"].sum()) == pytest.approx(float(found["error_decay"][0]))
    assert float(found["error_decay_symmetric"]) <= float(found["error_decay"][0]) + 1e-12
    assert "error_decay_instantaneous" not in found


def test_training_with_a_rule_reaches_a_point_that_is_stable_under_it() -> None:
    torch.manual_seed(0)
    x, given = torch.randn(4, 3, dtype=torch.float64), {}
    y = 0.7 * torch.sign(torch.randn(4, 1, dtype=torch.float64))
    model = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    given = {"0": torch.randn(1, 20, dtype=torch.float64) / 20**0.5}
    weights = [p.detach().clone() for p in model.parameters()]
    for _ in range(3000):
        h = torch.tanh(x @ weights[0].T + weights[1])
        e = h @ weights[2].T + weights[3] - y
        d = (e @ given["0"]) * (1 - h**2)
        for p, g in zip(weights, (d.T @ x, d.sum(0), e.T @ h, e.sum(0)), strict=True):
            p.sub_(0.05 * g)
    with torch.no_grad():
        for p, value in zip(model.parameters(), weights, strict=True):
            p.copy_(value)
    found = measured(model, of_given(given), data=(x, y), loss=half_squared_error).sel(rule="dfa")
    assert float(found["interpolation_distance"]) < 1e-3
    assert float(found["error_decay"][0]) > 0
    # The same weights with feedback of the other sign push hidden layers the wrong way.
    other = {"0": -given["0"]}
    turned = measured(model, of_given(other), data=(x, y), loss=half_squared_error).sel(rule="dfa")
    assert float(turned["error_decay_part"].sel(layer="0")) < float(
        found["error_decay_part"].sel(layer="0")
    )


def test_away_from_interpolation_a_decay_is_called_instantaneous() -> None:
    model, (x, y) = network(), batch()
    found = measured(model, of_given(feedback()), data=(x, y)).sel(rule="dfa")
    assert "error_decay" not in found
    text = str(found["not_defined"].values[0, 0])
    assert "these samples are not interpolated" in text
    labels = torch.arange(6) % 2
    found = measured(model, BP(), data=(x, labels), loss=functional.cross_entropy).sel(rule="bp")
    jacobian = torch.autograd.functional.jacobian(
        lambda theta: torch.func.functional_call(model, _named(model, theta), (x,)), vector(model)
    ).reshape(12, -1)
    p = torch.softmax(model(x), 1).detach()
    curvature = torch.block_diag(*[torch.diag(q) - torch.outer(q, q) for q in p]) / 6
    values = np.linalg.eigvals((curvature @ jacobian @ jacobian.T).numpy())
    expected = np.sort(values.real)[6:10]
    np.testing.assert_allclose(found["error_decay_instantaneous"].values, expected, rtol=1e-6)
    assert "for the loss is no squared error" in str(found["not_defined"].values[0, 0])
    assert "interpolation_distance" not in found


def _named(model: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    parts = theta.split([p.numel() for p in named.values()])
    return {n: part.reshape(p.shape) for (n, p), part in zip(named.items(), parts, strict=True)}


def test_a_ritz_value_that_has_not_converged_is_no_eigenvalue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_growth, "STEPS", 8)
    found = measured(network(), of_given(feedback())).sel(rule="dfa")
    text = str(found["not_defined"].values[0, 0])
    assert "growth_rate" not in found
    assert "Arnoldi has not converged in 8 vectors" in text
    assert np.isfinite(found["growth_range_highest"])


@pytest.mark.parametrize(
    ("rule", "because"),
    [
        (BRSF(), "draws anew in every step"),
        (ForwardGradient(), "draws anew in every step"),
        (of_given(feedback(), "drawn"), "drawn for this analysis"),
    ],
)
def test_rules_without_a_flow_say_why(rule: Any, because: str) -> None:
    found = measured(network(), rule)
    assert "growth_rate" not in found
    assert because in str(found["not_defined"].values[0, 0])


def test_networks_that_cost_too_much_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_growth, "WORK", 10.0)
    found = measured(network(), USF(), FA(seed=0))
    assert "takes too much room or time" in str(found["not_defined"].values[0, 0])


@each_case
def test_every_case_has_readings_or_reasons_and_is_left_as_it_was(case: Case) -> None:
    made = case.make()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    torch.manual_seed(9)
    state = torch.get_rng_state()
    found = measured(made.model, DFA(seed=0), data=(made.x, made.y), loss=made.loss)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert np.isfinite(found["growth_error"].values).all()
    decays = [name for name in found if str(name).startswith("error_decay")]
    texts = found["not_defined"].values
    for text in texts.ravel():
        assert decays or "decay" in text or "outputs" in text
