"""Silent units: counted by loops, and made by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import DFA, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, probed

LOSS = functional.cross_entropy
NAMES = ["unit-activity"]


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(12, *shape, generator=stream, dtype=torch.float64), torch.arange(12) % 3


def network() -> nn.Sequential:
    """Return a network whose units 1 and 4 are off, whose units 0 and 4 nobody reads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[0].bias.fill_(50.0)
        model[0].bias[[1, 4]] = -50.0
        model[2].weight[:, [0, 4]] = 0.0
    return model


def test_units_that_are_off_or_unread_are_counted() -> None:
    feedback = np.random.default_rng(0).normal(size=(5, 3))
    feedback[3] = 0.0
    found = probed(
        network(), LOSS, batch(6), given_feedback({"0": feedback}), diagnostics=NAMES
    ).sel(layer="0")
    # At the entry units 0 and 4 have no true signal, unit 3 no approximate one; the gates of
    # units 1 and 4 are closed on the way to the pre-activation.
    assert found["silent_units_true"].values.tolist() == [2.0, 3.0]
    assert found["silent_units"].isel(rule=0).values.tolist() == [1.0, 3.0]
    assert found["units_missed"].isel(rule=0).values.tolist() == [1.0, 1.0]
    assert found["units_total"].values.tolist() == [5.0, 5.0]
    # Unit 0 is one that the truth leaves out and the rule does not: it is not missed.


@pytest.mark.parametrize(
    "name", ["conv2d, circular", "conv2d, transposed", "positions", "residual"]
)
def test_channels_are_silent_where_no_sample_and_position_has_a_signal(name: str) -> None:
    made = CASES[name].make()
    first = next(m for m in made.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    if first.bias is not None:
        with torch.no_grad():
            first.bias[0] = -100.0
    found = probed(made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=NAMES)
    outputs = {}

    def kept(label: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs[label] = output
            # What comes next may change it in place.
            return output.clone()

        return hook

    for label in found["layer"].values:
        made.model.get_submodule(label).register_forward_hook(kept(label))
    loss = made.loss(made.model(made.x), made.y)
    signals = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))
    for label, signal in signals.items():
        rows = signal.movedim(1, -1) if signal.ndim > 3 else signal
        rows = rows.reshape(-1, rows.shape[-1])
        silent = sum(bool((rows[:, k] == 0).all()) for k in range(rows.shape[1]))
        here = found.sel(layer=label, site="preactivation")
        assert here["silent_units_true"].item() == silent, label
        assert here["units_total"].item() == rows.shape[1]
        assert np.isfinite(here["units_missed"].isel(rule=0).item())


def test_what_was_not_observed_is_said_so() -> None:
    drawn = given_feedback({"0": np.ones((5, 3))}, origin="drawn")
    updates = MeasuredRule(ForwardGradient(), {}, "training", "forward-gradient")
    found = probed(network(), LOSS, batch(6), drawn, updates, diagnostics=NAMES)
    text = str(found["not_defined"].sel(layer="0").item())
    assert "under dfa because its feedback was drawn" in text
    assert "under forward-gradient because the rule yields updates" in text
    assert "silent_units" not in found
