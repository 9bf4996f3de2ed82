from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from alignlab import Probe
from alignlab.diagnosis import CLOSING, answer
from alignlab.diagnosis._observed import observed
from alignlab.rules import FA, ForwardForward, PredictiveCoding, Quantised, Rule
from tests.diagnosis.variants import believable, convolution, put

VARIANTS = [
    pytest.param({}, id="convolutions"),
    pytest.param({"conv": False}, id="dense"),
    pytest.param({"drawn": True}, id="drawn"),
    pytest.param({"drawn": True, "conv": False}, id="drawn dense"),
    pytest.param({"layers": ("fc", "head"), "conv": False, "rules": ("fa",)}, id="one hidden"),
    pytest.param({"layers": tuple(f"block.{i}" for i in range(22))}, id="deep"),
]
AT_ENTRY = {"rule": "dfa", "layer": "fc1", "site": "entry"}


def sentence_with(ds: xr.Dataset, words: str) -> str:
    (found,) = [each for each in answer(ds).paragraph if words in each]
    return found


@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_sentence_but_the_closing_one_quotes_a_number(arguments: dict[str, object]) -> None:
    said = answer(believable(**arguments))
    sentences = [each for each in said.paragraph if each != CLOSING]
    assert sentences
    assert [each for each in sentences if not re.search(r"\d", each)] == []
    assert [each for each in sentences if re.search(r"\bnan\b|unknown", each)] == []


def test_loss_and_accuracy_come_first() -> None:
    assert answer(believable()).paragraph[0] == (
        "On these 360 samples of digits[test n=360] the loss (cross-entropy) is 0.31 and the "
        "accuracy 0.900 (chance 0.10)."
    )


def test_a_cosine_is_quoted_with_its_chance_band_p_and_status() -> None:
    ds = believable(conv=False)
    for name, value in {"": 0.61, "_null_low": -0.11, "_null_high": 0.12, "_p": 0.004}.items():
        ds = put(ds, f"cosine_error_signal{name}", value, **AT_ENTRY)
    ds = put(ds, "cosine_error_signal_status", "useful", **AT_ENTRY)
    said = sentence_with(ds, "Under dfa, whose feedback is that of the checkpoint, the error")
    assert "fc1: cosine 0.61, chance -0.11 to 0.12, p 0.004" in said
    assert said.index("useful in") < said.index("fc1:")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (PredictiveCoding(), "3 of 3 layers (0: cosine"),
        (PredictiveCoding(), "error signal at the entry is useful in 2 of 2 hidden layers"),
        (ForwardForward(), "2 of 2 hidden layers (0: cosine"),
        (Quantised(bits=8), "3 of 3 layers (0: cosine"),
        (FA(), "2 of 2 hidden layers (0: cosine"),
    ],
)
def test_an_output_layer_is_among_the_layers_where_its_gradient_is_not_exact(
    rule: Rule, said: str
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 20)]
    probe = Probe(nn.Sequential(*layers), nn.functional.cross_entropy, rules=[rule], draws=32)
    ds = probe.measure(torch.randn(64, 20), torch.arange(64) % 20).isel(step=0)
    assert said in " ".join(observed(ds, rule.label))


@pytest.mark.parametrize("status", ["useful", "detectable", "opposed", "at chance", "undecidable"])
def test_a_layer_is_grouped_under_its_status(status: str) -> None:
    ds = believable(conv=False, rules=("dfa",))
    for layer in ds["layer"].values:
        ds = put(ds, "cosine_error_signal_status", status, layer=layer, site="entry")
    assert f"{status} in 4 of 4 hidden layers" in sentence_with(ds, "the error signal at the")


def test_the_output_layer_is_no_finding() -> None:
    assert {finding.layer for finding in answer(believable(conv=False)).findings} == {
        *("fc1", "fc2", "fc3", "fc4"),
    }


def test_an_undefined_layer_is_called_undefined_with_its_count() -> None:
    said = sentence_with(believable(conv=False, rules=("dfa",)), "the error signal at the entry")
    assert "undefined in 1 (fc3: no cosine, 360 undefined)" in said


def test_a_changed_loss_changes_the_sentence_on_the_step() -> None:
    ds = put(believable(), "loss_change_actual", -0.0123, rule="dfa")
    assert "lowers the loss by 0.012" in sentence_with(ds, "along the update of dfa")
    ds = put(ds, "loss_change_actual", 0.0456, rule="dfa")
    assert "raises the loss by 0.046" in sentence_with(ds, "along the update of dfa")


def test_a_cosine_is_never_called_success() -> None:
    assert "A cosine is not success: Chu and Bacho (2024)" in answer(believable()).paragraph[-1]


@pytest.mark.parametrize("accuracy", [0.1, 0.11, 0.02])
def test_accuracy_at_chance_warns_first_and_ranks_no_causes(accuracy: float) -> None:
    ds = put(convolution(reach=(0.1, 0.2), share=0.1), "accuracy", accuracy)
    said = answer(put(ds, "width_bound", 0.5))
    assert "are inputs scaled as in training?" in said.warnings[0]
    assert f"{accuracy:.3f}" in said.headline
    assert said.limits == ()
    assert said.bottlenecks == ()
    assert not any("limit" in sentence for sentence in said.paragraph)


def test_accuracy_above_chance_gives_no_warning() -> None:
    assert answer(put(believable(), "accuracy", 0.16)).warnings == ()


def test_a_regression_has_no_accuracy_to_warn_about() -> None:
    said = answer(put(believable(), "accuracy", np.nan))
    assert said.warnings == ()
    assert said.paragraph[0].endswith("is 0.31.")


def test_an_invalid_reference_is_said_and_nothing_else() -> None:
    status = "reference invalid: fc1 at the floor"
    said = answer(put(believable(), "measurement_status", status))
    assert status in said.headline
    assert said.findings == said.limits == said.bottlenecks == ()
    assert len(said.paragraph) == 1
    assert "loss" in said.paragraph[0]


@pytest.mark.parametrize("check", ["undecided", "disagrees"])
def test_a_reference_that_does_not_agree_is_a_warning(check: str) -> None:
    said = answer(put(believable(), "reference_check", check))
    assert "2.0e-04" in said.warnings[0]
    assert not any("agrees with" in sentence for sentence in said.paragraph)


def test_that_the_reference_was_not_checked_is_said_where_it_agreed_otherwise() -> None:
    checked = "The reference agrees with a directional difference of the loss"
    missing = "No check of the reference gradient was recorded (diagnostic validity)."
    ds = believable()
    names = [each for each in ds.data_vars if str(each).startswith("reference_check")]
    for said, expected in ((answer(ds), checked), (answer(ds.drop_vars(names)), missing)):
        about = [each for each in said.paragraph if "reference" in each.lower()]
        assert len(about) == 1
        assert about[0].startswith(expected)


def test_a_replay_without_proof_is_a_warning() -> None:
    ds = put(believable(), "feedback_origin", "replayed, unverified", rule="dfa")
    assert "The feedback of dfa was replayed from seed 0" in answer(ds).warnings[0]
    assert answer(ds).findings


@pytest.mark.parametrize("conv", [True, False])
def test_drawn_feedback_gives_no_finding_and_the_closing_sentence(conv: bool) -> None:
    said = answer(believable(drawn=True, conv=conv))
    assert said.findings == said.limits == ()
    assert said.paragraph[-1] == CLOSING
    assert CLOSING == (
        "This file cannot tell how well its training rule aligned; supply the feedback, two "
        "checkpoints, or train briefly"
    )


def test_an_alignment_of_a_draw_is_not_reported_even_if_a_file_holds_one() -> None:
    ds = put(believable(drawn=True), "cosine_error_signal", 0.777)
    ds = put(ds, "cosine_error_signal_status", "useful")
    assert not any("0.78" in sentence for sentence in answer(ds).paragraph)
    assert answer(ds).findings == ()


def test_drawn_feedback_leads_with_ceilings_then_reach_then_ranks_then_chance() -> None:
    said = answer(put(believable(drawn=True, rules=("dfa",)), "width_bound_high", 0.8)).paragraph
    leads = ["is not in the file", "limits the cosine of", "could attain", "best fixed feedback"]
    leads += ["The error has rank", "rank of dfa", "alignment matrices", "coherence", "By chance"]
    leads += ["agrees with"]
    places = [next(i for i, each in enumerate(said) if lead in each) for lead in leads]
    assert places == sorted(places)


def test_rules_derived_from_weights_are_observed_beside_drawn_ones() -> None:
    ds = believable(rules=("dfa", "usf"), drawn=True)
    observed = believable(rules=("dfa", "usf"))
    for name in ("cosine_error_signal", "cosine_error_signal_status", "cosine_error_signal_p"):
        ds[name].loc[{"rule": "usf"}] = observed[name].sel(rule="usf")
    said = answer(put(ds, "feedback_origin", "derived from weights", rule="usf"))
    assert {finding.rule for finding in said.findings} == {"usf"}
    assert any("usf, which derives its feedback from the weights" in s for s in said.paragraph)
    assert said.paragraph[-1] == CLOSING


def test_one_stored_feedback_is_enough_to_drop_the_closing_sentence() -> None:
    ds = put(believable(), "feedback_origin", "drawn", rule="fa")
    assert CLOSING not in answer(ds).paragraph
    assert {finding.rule for finding in answer(ds).findings} == {"dfa"}


def test_noise_shared_by_the_samples_is_named() -> None:
    where = {"rule": "dfa", "layer": "fc1"}
    ds = believable(conv=False, rules=("dfa",))
    ds = put(ds, "cosine_weight_gradient_status", "useful", **where)
    ds = put(ds, "cosine_weight_gradient", 0.52, **where)
    ds = put(ds, "cosine_weight_gradient_debiased_status", "at chance", **where)
    assert "0.52 on the same samples, fc1: cosine" in sentence_with(ds, "shared noise")


def test_weights_without_data_are_told_by_their_match_with_the_feedback() -> None:
    ds = believable(conv=False)
    keep = [name for name in ds if str(name).startswith(("cosine_weight_feedback", "feedback_o"))]
    weights = ds[keep].assign_attrs(ds.attrs | {"recording_kind": "weights"})
    said = answer(weights).paragraph
    assert any("the match of weights and feedback is" in sentence for sentence in said)
    assert said[-1].endswith("and this file holds no loss to read beside it.")


def test_weights_without_feedback_say_what_is_missing() -> None:
    sizes = {"layer": ["fc", "head"], "channels": ("layer", [4, 10]), "fan_in": ("layer", [64, 4])}
    dimensions = (("layer",), [3.9, 2.25])
    attrs = {"recording_kind": "weights"}
    said = answer(xr.Dataset({"participation_ratio_weight": dimensions}, coords=sizes, attrs=attrs))
    assert said.headline == "Weights of 2 layers, read without model and data."
    assert said.paragraph[0].endswith("3.90 at fc (4 x 64); 2.25 at head (10 x 4).")
    assert "--model and --data" in said.paragraph[-1]


def test_a_recording_of_several_steps_is_read_at_its_last() -> None:
    first, last = believable(), put(believable(), "loss", 0.77)
    both = xr.concat(
        [first, last.assign_coords(step=[100])],
        "step",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
    )
    assert answer(both).paragraph == answer(last).paragraph


def test_an_empty_recording_says_nothing() -> None:
    assert answer(xr.Dataset()).paragraph == ()
