"""Values that theory gives for rules that are derived from the weights."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.rules import BP, BRSF, FRSF, USF

GAUSSIAN, UNIFORM = sqrt(2.0 / pi), sqrt(3.0) / 2.0

SHARES = {"gaussian": GAUSSIAN, "uniform": UNIFORM}
INITS = {
    "gaussian": lambda p, s: nn.init.normal_(p, std=s),
    "uniform": lambda p, s: nn.init.uniform_(p, -s, s),
}


def recording(init: Any, *rules: Any, depth: int = 4) -> Any:
    """Measure a wide linear network with weights of a distribution."""
    torch.manual_seed(0)
    layers = [nn.Linear(320, 320, bias=False) for _ in range(depth)]
    model = nn.Sequential(*layers, nn.Linear(320, 160, bias=False))
    for parameter in model.parameters():
        init(parameter, 320**-0.5)
    x, y = torch.randn(40, 320), torch.arange(40) % 160
    with Probe(
        model, functional.cross_entropy, rules=rules, diagnostics=["error-signal"], draws=32
    ) as probe:
        return probe.measure(x, y).isel(step=0)


@pytest.mark.parametrize(
    ("init", "golden"),
    [
        (lambda p, s: nn.init.normal_(p, std=s), GAUSSIAN),
        (lambda p, s: nn.init.uniform_(p, -s, s), UNIFORM),
    ],
    ids=["gaussian", "uniform"],
)
def test_signs_of_the_weights_give_the_golden_value_to_the_power_of_the_hops(
    init: Any, golden: float
) -> None:
    found = recording(init, USF())
    expected = [golden**hops for hops in (4, 3, 2, 1)]
    for name in ("cosine_error_signal", "cosine_error_signal_flat"):
        for site in ("entry", "preactivation"):
            values = found[name].sel(rule="usf", site=site).values
            assert values[:4].tolist() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("init", ["gaussian", "uniform"])
def test_signs_with_random_magnitudes_give_the_golden_value_to_the_power_of_the_hops(
    init: str, distribution: str
) -> None:
    weights, drawn = SHARES[init], SHARES[{"normal": "gaussian"}.get(distribution, distribution)]
    rules = [kind(distribution=distribution, seed=3) for kind in (BRSF, FRSF)]
    found = recording(INITS[init], *rules)
    expected = [(weights * drawn) ** hops for hops in (4, 3, 2, 1)]
    for rule in rules:
        for site in ("entry", "preactivation"):
            values = found["cosine_error_signal"].sel(rule=rule.label, site=site).values
            # Four standard errors: 1/sqrt(320) a sample, over 40 samples.
            assert values[:4].tolist() == pytest.approx(expected, abs=0.035)
    assert set(found["cosine_error_signal_null_kind"].isel(layer=0).values.flat) == {"rule_draw"}
    assert not set(found["cosine_error_signal_status"].isel(layer=3).values.flat) & {"at chance"}


@pytest.mark.parametrize("kind", [BRSF, FRSF])
@pytest.mark.parametrize(("distribution", "golden"), [("normal", 2.0 / pi), ("uniform", 0.75)])
def test_the_cosine_of_signs_with_random_magnitudes_and_weights_of_one_law(
    kind: Any, distribution: str, golden: float
) -> None:
    torch.manual_seed(0)
    weight = torch.empty(900, 900)
    INITS[{"normal": "gaussian"}.get(distribution, distribution)](weight, 0.1)
    backward = kind(distribution=distribution).backward_weights({"a": weight}, seed=1)["a"]
    found = torch.cosine_similarity(weight.flatten().double(), backward.flatten().double(), dim=0)
    assert found.item() == pytest.approx(golden, abs=4 / 900)


def test_the_golden_values_of_random_magnitudes_are_those_of_the_literature() -> None:
    assert pytest.approx(2.0 / pi, abs=1e-12) == GAUSSIAN**2
    assert pytest.approx(0.75, abs=1e-12) == UNIFORM**2


def test_the_golden_values_are_those_of_the_literature() -> None:
    assert [GAUSSIAN**k for k in (1, 2, 3, 4)] == pytest.approx(
        [0.798, 0.637, 0.508, 0.405], abs=1e-3
    )
    assert pytest.approx(0.866, abs=1e-3) == UNIFORM


def test_backpropagation_measured_against_itself_is_exact() -> None:
    found = recording(lambda p, s: nn.init.normal_(p, std=s), BP(), depth=2)
    exact = found["cosine_error_signal"].sel(rule="bp")
    assert abs(exact.stack(place=("layer", "site")).dropna("place").values - 1.0).max() < 1e-12
    assert float(found["angle_error_signal"].max()) < 1e-6
    assert float(abs(found["norm_ratio_error_signal"] - 1.0).max()) < 1e-12
    assert (found["descent_rate"].fillna(1.0) == 1.0).all()
