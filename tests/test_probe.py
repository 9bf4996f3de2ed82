"""The probe: what it measures, what it refuses, and what it says where nothing can be said."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics._run import diagnostics_of
from alignlab.engine.capture import Capture
from alignlab.errors import InputError, MeasurementError, MissingError
from alignlab.plugins import names
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.recording.schema import STATUSES
from alignlab.rules import BP, DFA, FA, USF
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES, Batch

FOUR = (BP(), DFA(), FA(), USF())
ALIGNMENTS = ("cosine_error_signal", "cosine_error_signal_flat", "cosine_weight_gradient")


def measured(batch: Batch, *rules: Any, **options: Any) -> xr.Dataset:
    """Return a recording with 32 draws."""
    with Probe(batch.model, batch.loss, rules=rules, **({"draws": 32} | options)) as probe:
        return probe.measure(batch.x, batch.y)


def batch_of(model: nn.Module, *, n_samples: int = 12, loss: Any = None) -> Batch:
    torch.manual_seed(0)
    loss = functional.cross_entropy if loss is None else loss
    return Batch(model, loss, torch.randn(n_samples, 6), torch.arange(n_samples) % 3)


def alignments(recording: xr.Dataset) -> list[str]:
    return [str(k) for k, v in recording.data_vars.items() if v.attrs.get("alignment")]


def has_alignments(diagnostic: str) -> bool:
    variables = diagnostics_of([diagnostic])[diagnostic].variables
    return any(variable.alignment for variable in variables)


def test_a_recording_says_where_it_comes_from() -> None:
    batch = CASES["dropout"].make()
    found = measured(batch, *FOUR, diagnostics=["error-signal"], seed=3)
    validate(found)
    assert found.attrs["mode"] == "train"
    assert found.attrs["model"] == "Sequential"
    assert (found.attrs["n_samples"], found.attrs["draws"], found.attrs["seed"]) == (8, 32, 3)
    assert found.attrs["dtype"] == "float32"
    assert found["rule"].values.tolist() == ["bp", "dfa", "fa", "usf"]
    assert found["layer"].values.tolist() == ["0", "3", "6"]
    assert found["layer_kind"].values.tolist() == ["Linear"] * 3
    assert found["depth"].values.tolist() == [1, 2, 3]
    assert found["width"].values.tolist() == [7, 5, 3]
    assert found["entry_width"].values.tolist() == [7, 5, 0]
    assert found["fan_in"].values.tolist() == [6, 7, 5]
    assert found["n_parameters"].values.tolist() == [49, 40, 18]
    assert found["consumer"].values.tolist() == ["3", "6", ""]
    assert found["is_output"].values.tolist() == [False, False, True]
    assert found["feedback_origin"].values.tolist() == [
        *("derived from weights", "replayed, unverified"),
        *("replayed, unverified", "derived from weights"),
    ]


def test_convolutions_say_their_channels_and_positions() -> None:
    found = measured(CASES["conv2d, grouped"].make(), DFA(), diagnostics=["error-signal"])
    assert found["layer_kind"].values.tolist() == ["Conv2d", "Conv2d", "Linear"]
    assert found["channels"].values.tolist() == [4, 4, 3]
    assert found["positions"].values.tolist() == [30, 2, 1]
    assert found["entry_width"].values.tolist() == [24, 8, 0]


@pytest.mark.parametrize("diagnostic", names("alignlab.diagnostics"))
def test_every_diagnostic_stands_alone_and_records_what_it_declares(diagnostic: str) -> None:
    batch = CASES["conv1d, strided"].make(n_samples=70)
    validate(measured(batch, *FOUR, diagnostics=[diagnostic]))


def test_without_rules_what_needs_no_rule_is_measured() -> None:
    found = measured(CASES["tanh"].make(n_samples=70))
    validate(found)
    assert found.sizes.get("rule", 0) == 0
    assert found["measurement_status"].item() == "valid"
    assert {"reach_in_sample", "participation_ratio_error"} <= set(found.data_vars)


def test_drawn_feedback_shows_no_alignment_in_any_hidden_layer() -> None:
    batch = CASES["conv1d, strided"].make(n_samples=70)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    drawn = [MeasuredRule(rule, rule.start(capture, seed=9), "drawn") for rule in (DFA(), FA())]
    recording = measured(batch, *drawn)
    validate(recording)
    found = recording.isel(step=0)
    assert (found["feedback_origin"] == "drawn").all()
    hidden = found.isel(layer=slice(0, 2))
    for name in (name for name in alignments(found) if "rule" in found[name].dims):
        here = hidden if "layer" in found[name].dims else found
        for suffix in ("", "_z", "_p"):
            assert here[f"{name}{suffix}"].isnull().all(), name
        said = set(np.unique(here[f"{name}_status"].values.astype(str)))
        assert said <= {"null draw", ""}
        stated = here[f"{name}_null_sd"]
        assert stated.notnull().any(), name
    for name in ("angle_error_signal", "norm_ratio_error_signal", "norm_ratio_weight_gradient"):
        assert name not in found or found[name].isel(layer=slice(0, 2)).isnull().all()
    for name in ("width_bound", "convolution_weight_attainable", "reach_in_sample"):
        assert found[name].notnull().any(), name


def test_the_output_layer_is_exact_and_judged_by_no_chance() -> None:
    found = measured(CASES["conv1d, strided"].make(), *FOUR).isel(step=0, layer=-1)
    for name in (*ALIGNMENTS, "cosine_bias_gradient"):
        value = found[name].sel(site="preactivation") if "site" in found[name].dims else found[name]
        np.testing.assert_allclose(value, 1.0, atol=1e-6)
        status = found[f"{name}_status"]
        status = status.sel(site="preactivation") if "site" in status.dims else status
        assert (status == "exact").all()
        assert found[f"{name}_p"].isnull().all()


def dead(model: nn.Module, layer: int) -> nn.Module:
    """Switch the units of a layer off for every input."""
    with torch.no_grad():
        model[layer].bias.fill_(-1e4)  # type: ignore[index]
    return model


def test_a_dead_layer_is_undefined_and_counted_and_never_zero_or_one() -> None:
    batch = CASES["relu in place"].make()
    batch = Batch(dead(batch.model, 2), batch.loss, batch.x, batch.y)
    recording = measured(batch, *FOUR)
    validate(recording)
    found = recording.isel(step=0)
    for layer, sites in (("0", ("entry", "preactivation")), ("2", ("preactivation",))):
        here = found.sel(layer=layer)
        for name in alignments(found):
            if name.startswith(("cosine_error", "cosine_mean", "descent")):
                for site in sites:
                    for rule in ("bp", "fa", "usf") if layer == "0" else here["rule"].values:
                        at = here.sel(rule=rule, site=site)
                        assert at[name].isnull(), (name, layer, site, rule)
                        assert at[f"{name}_status"] == "undefined"
                        assert at["cosine_error_signal_n_undefined"] == 8
        assert here["cosine_weight_gradient"].isnull().all()
        assert (here["cosine_weight_gradient_n_undefined"] == 1).all()
    assert found["measurement_status"].item().endswith("signal at 0 has norm 0.0e+00")


def test_samples_without_a_signal_are_left_out_and_counted() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    batch = batch_of(model)
    with torch.no_grad():
        off = int((~(model[0](batch.x) > 0).any(1)).sum())
        model[0].bias.sub_(0.5)
        off = int((~(model[0](batch.x) > 0).any(1)).sum())
    assert 0 < off < 12
    found = measured(batch, DFA(), BP(), diagnostics=["error-signal"]).isel(step=0)
    here = found.sel(layer="0", site="preactivation")
    assert (here["cosine_error_signal_n_undefined"] == off).all()
    assert here["cosine_error_signal"].sel(rule="bp").item() == pytest.approx(1.0)
    assert (found.sel(layer="0", site="entry")["cosine_error_signal_n_undefined"] == 0).all()


def test_a_perfect_fit_has_no_direction_and_is_measured_without_a_crash() -> None:
    batch = CASES["linear"].make()
    exact = Batch(batch.model, batch.loss, batch.x, batch.model(batch.x).detach())
    found = measured(exact, *FOUR)
    validate(found)
    for name in ALIGNMENTS:
        assert found[name].isnull().all()


@pytest.mark.parametrize(
    ("name", "n_samples"),
    [
        *(("tanh", 1), ("tanh", 2), ("conv1d, strided", 1), ("conv1d, strided", 3)),
        ("residual", 2),
        pytest.param("tanh", 3, marks=pytest.mark.slow),
        pytest.param("conv1d, strided", 2, marks=pytest.mark.slow),
        pytest.param("residual", 3, marks=pytest.mark.slow),
    ],
)
def test_few_samples_are_measured_without_a_crash(name: str, n_samples: int) -> None:
    validate(measured(CASES[name].make(n_samples=n_samples), *FOUR))


def test_small_gradients_are_measured_as_well_as_large_ones() -> None:
    batch = CASES["tanh"].make()
    small = Batch(batch.model, lambda o, t: 1e-25 * batch.loss(o, t), batch.x, batch.y)
    rules = (DFA(), FA())
    one, other = (
        measured(each, *rules, diagnostics=["error-signal", "weight-gradient"])
        for each in (batch, small)
    )
    assert (
        float(abs(other["norm_ratio_error_signal"] - one["norm_ratio_error_signal"]).max()) < 1e-3
    )
    for name in ALIGNMENTS:
        np.testing.assert_allclose(other[name], one[name], atol=1e-5)
        assert (one[f"{name}_status"] == other[f"{name}_status"]).all()


def test_statuses_are_those_of_the_schema_and_follow_from_the_numbers() -> None:
    chosen = [name for name in names("alignlab.diagnostics") if has_alignments(name)]
    found = measured(CASES["residual"].make(n_samples=24), *FOUR, diagnostics=chosen)
    assert len(alignments(found)) > len(chosen)
    for name in alignments(found):
        said = set(found[f"{name}_status"].values.astype(str).ravel())
        assert said <= {*STATUSES, ""}
        shown, sd = found[name], found[f"{name}_null_sd"]
        mean = float(shown.attrs["null_mean"])
        both = shown.notnull() & (sd > 0)
        expected = ((shown - mean) / sd).where(both)
        np.testing.assert_allclose(found[f"{name}_z"].where(both), expected, rtol=1e-9)
        np.testing.assert_allclose(
            found[f"{name}_z_attainable"].where(both), ((1 - mean) / sd).where(both), rtol=1e-9
        )


def test_the_same_seed_draws_the_same_chance_level_and_another_another() -> None:
    batch = CASES["tanh"].make()
    first, again, other = (
        measured(batch, FA(), diagnostics=["error-signal"], seed=s) for s in (0, 0, 1)
    )
    assert first.identical(again)
    name = "cosine_error_signal"
    assert first[name].equals(other[name])
    assert not first[f"{name}_null_sd"].equals(other[f"{name}_null_sd"])


def test_progress_is_told_to_its_end() -> None:
    told: list[tuple[str, int, int]] = []
    measured(
        CASES["tanh"].make(), DFA(), FA(),
        diagnostics=["error-signal"], progress=lambda *step: told.append(step),
    )  # fmt: skip
    labels = {label for label, _, _ in told}
    assert {"chance level, dfa", "chance level, fa"} <= labels
    for label in labels:
        last = [step for step in told if step[0] == label][-1]
        assert last[1] == last[2]


def test_raw_tensors_are_kept_on_request_alone() -> None:
    batch = CASES["tanh"].make()
    with Probe(
        *(batch.model, batch.loss), rules=[DFA(), FA()], draws=32,
        diagnostics=["error-signal"], save=["feedback"],
    ) as probe:  # fmt: skip
        probe.measure(batch.x, batch.y)
    assert list(probe.tensors) == ["0", "2", "4"]
    kept: Mapping[str, xr.Dataset] = probe.tensors
    assert kept["0"]["feedback_direct_0"].shape == (3, 7)
    assert kept["2"]["feedback_backward_1"].shape == (5, 7)
    plain = Probe(batch.model, batch.loss, rules=[DFA()], draws=32, diagnostics=["error-signal"])
    plain.measure(batch.x, batch.y)
    assert plain.tensors == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"draws": 31}, InputError, "31 redraws give no chance level; ask for at least 32"),
        ({"diagnostics": ["error-signals"]}, MissingError, "error-signal"),
        ({"save": ["weights"]}, InputError, "Cannot save 'weights'; there are signals"),
        ({"rules": [DFA(seed=0), DFA(seed=1)]}, InputError, "same name twice"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_what_there_is(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    batch = CASES["tanh"].make()
    with pytest.raises(error, match=message):
        Probe(batch.model, batch.loss, **({"draws": 32} | options)).measure(batch.x, batch.y)


def linear(*sizes: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))


class Tail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail = nn.Linear(6, 5), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x)) @ self.tail


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of(nn.Flatten()), "Flatten has no Linear"),
        (batch_of(nn.Sequential(nn.LSTM(6, 3))), "Sequential has no Linear"),
        (batch_of(Tail()), "'tail' acts as a weight behind the last measured layer"),
        (batch_of(linear(6, 3), loss=lambda o, _: o), "reduce it over the batch"),
        (batch_of(linear(6, 3), loss=lambda o, _: o.sum() * float("nan")), "The loss is nan"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(batch: Batch, message: str) -> None:
    for rule in (DFA(), FA()):
        with pytest.raises(MeasurementError) as caught:
            measured(batch, rule)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_on_an_accelerator_the_numbers_are_those_of_the_host() -> None:
    for name in ("conv2d, grouped", "residual", "dropout of maps"):
        batch = CASES[name].make(n_samples=24)
        model = batch.model.eval()
        host = measured(Batch(model, batch.loss, batch.x, batch.y), *FOUR)
        device = Batch(model.cuda(), batch.loss, batch.x.cuda(), batch.y.cuda())
        there = measured(device, *FOUR)
        for key in ALIGNMENTS:
            np.testing.assert_allclose(there[key], host[key], atol=1e-3)
