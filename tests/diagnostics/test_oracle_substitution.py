"""Substituted steps, against steps of plain torch and planted faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from alignlab.engine.updates import Updates
from alignlab.recording import validate
from alignlab.rules import BP, DFA
from alignlab.rules._base import Rule
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import probed
from tests.diagnostics.steps import loss_at, norm, stepped, updates_of

NAME = ("oracle-substitution", "loss-change")


def measured(batch: Batch, *rules: Any) -> xr.Dataset:
    found = probed(batch.model, batch.loss, (batch.x, batch.y), *rules, diagnostics=NAME)
    validate(found.expand_dims(step=[0]).assign_attrs(found.attrs))
    return found


def by_group(update: Mapping[str, Tensor], layers: list[str]) -> dict[str, dict[str, Tensor]]:
    """Return an update in parts: of each layer, and of the rest."""
    result: dict[str, dict[str, Tensor]] = {}
    for name, each in update.items():
        owner = name.rpartition(".")[0]
        result.setdefault(owner if owner in layers else "", {})[name] = each
    return result


@pytest.mark.parametrize("name", ["tanh", "residual", "conv1d, strided"])
def test_substitutions_are_steps_of_plain_torch(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    batch.model.eval()
    found = measured(batch, DFA()).sel(rule="dfa")
    rule, true = (dict(each.parameters) for each in updates_of(batch, DFA()))
    layers = found["layer"].values.tolist()
    own, exact = by_group(rule, layers), by_group(true, layers)
    directed = {
        g: {n: each * norm(own[g]) / norm(exact[g]) for n, each in exact[g].items()} for g in own
    }
    sized = {
        g: {n: each * norm(exact[g]) / norm(own[g]) for n, each in own[g].items()} for g in own
    }
    before = loss_at(batch, {})
    step = 1e-3 * before / norm(true) / norm(rule)

    def change(parts: Mapping[str, Mapping[str, Tensor]], scale: float = 1.0) -> float:
        update = {n: each for part in parts.values() for n, each in part.items()}
        return loss_at(batch, stepped(batch, update, step * scale)) - before

    none, every = change(own), change(directed)
    assert found["oracle_none"].item() == pytest.approx(none, rel=1e-7)
    assert found["oracle_none"].item() == pytest.approx(found["loss_change_actual"].item())
    assert found["oracle_direction"].item() == pytest.approx(every, rel=1e-7)
    scaled = change(sized, norm(rule) / norm(true))
    assert found["oracle_norm"].item() == pytest.approx(scaled, rel=1e-7)
    for layer in layers:
        gain = none - change(own | {layer: directed[layer]})
        assert found["oracle_gain"].sel(layer=layer).item() == pytest.approx(gain, abs=1e-12)
        lost = change(directed | {layer: own[layer]}) - every
        assert found["oracle_loss_of_one"].sel(layer=layer).item() == pytest.approx(lost, abs=1e-12)


def test_backpropagation_has_nothing_to_gain() -> None:
    found = measured(CASES["layer norm"].make(), BP()).sel(rule="bp")
    loss = abs(found["oracle_none"].item())
    np.testing.assert_allclose(found["oracle_gain"], 0.0, atol=1e-6 * loss)
    np.testing.assert_allclose(found["oracle_loss_of_one"], 0.0, atol=1e-6 * loss)
    for key in ("direction", "norm"):
        assert found[f"oracle_{key}"].item() == pytest.approx(-loss, rel=1e-6)


@dataclass(frozen=True)
class Faulty(Rule):
    """Backpropagation with factors on the updates of some modules; 0 stands for noise."""

    name: ClassVar[str] = "faulty"
    has_signals: ClassVar[bool] = False
    has_exact_output: ClassVar[bool] = False
    factors: Mapping[str, float] = field(default_factory=dict)

    def updates(self, task: Any, state: Any, *, parameters: bool = True) -> Updates:
        del state, parameters
        true = task.capture.reference(parameters=True).parameters
        stream = torch.Generator().manual_seed(0)

        def made(name: str, each: Tensor) -> Tensor:
            factor = self.factors.get(name.rpartition(".")[0], 1.0)
            noise = torch.randn(each.shape, generator=stream).to(each)
            return factor * each if factor else noise * each.norm() / noise.norm()

        return Updates(parameters={n: made(n, each) for n, each in true.items()}, is_local=False)


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_the_blame_falls_on_the_layer_with_the_wrong_direction(layer: str) -> None:
    batch = CASES["tanh"].make()
    for factor in (0.0, -1.0):
        found = measured(batch, Faulty({layer: factor})).isel(rule=0)
        for key in ("oracle_gain", "oracle_loss_of_one"):
            blame = found[key]
            assert blame.idxmax("layer").item() == layer
            others = blame.drop_sel(layer=layer)
            assert (np.abs(others) < 1e-3 * blame.sel(layer=layer)).all()
        assert found["oracle_direction"] < found["oracle_none"]


def test_a_wrong_scale_is_mended_by_the_true_norms_and_is_no_wrong_direction() -> None:
    found = measured(CASES["tanh"].make(), Faulty({"0": 30.0})).isel(rule=0)
    np.testing.assert_allclose(found["oracle_gain"], 0.0, atol=1e-9)
    assert found["oracle_norm"] < 1.2 * found["oracle_none"]
    assert found["oracle_norm"].item() == pytest.approx(found["loss_change_actual_true"].item())
    assert found["oracle_direction"].item() == pytest.approx(found["oracle_none"].item())


def test_layers_without_an_update_say_so() -> None:
    found = measured(CASES["tanh"].make(), Faulty({"2": 1e-300}))
    text = found["not_defined"].sel(diagnostic="oracle-substitution", layer="2").item()
    assert "its update is zero" in text
    assert np.isnan(found["oracle_gain"].sel(layer="2")).all()
    assert np.isfinite(found["oracle_direction"]).all()
