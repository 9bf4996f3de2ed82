from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from alignlab import plugins
from alignlab.diagnosis import Hypothesis, Limit, Statement, answer
from alignlab.diagnosis.hypotheses.coherence import CONTRAST, NEAR_CHANCE
from alignlab.diagnosis.hypotheses.feedback_side import LOW_CEILING
from alignlab.diagnosis.hypotheses.weight_side import LOW_ATTAINABLE, LOW_SHARE
from alignlab.recording.reasons import worded
from tests.diagnosis.variants import CONV, RULE, believable, convolution, narrow, put

PACKAGE = "alignlab.diagnosis.hypotheses"


def limit_of(ds: xr.Dataset) -> Limit:
    (found,) = [each for each in answer(ds).limits if each.layer == CONV and each.rule == RULE]
    return found


def statement_of(name: str, ds: xr.Dataset, *, layer: str = CONV, rule: str = RULE) -> Statement:
    hypothesis = plugins.load(PACKAGE, name)
    assert isinstance(hypothesis, Hypothesis)
    found = hypothesis.statement(ds.isel(step=-1), layer, rule=rule)
    assert isinstance(found, Statement)
    return found


def test_each_hypothesis_has_a_file_and_names_what_would_prove_it() -> None:
    names = plugins.names(PACKAGE)
    assert {"feedback-side", "weight-side", "coherence", "narrow-layer"} <= set(names)
    recording = believable()
    for name in names:
        hypothesis = plugins.load(PACKAGE, name)
        assert isinstance(hypothesis, Hypothesis)
        assert hypothesis.name == name
        assert hypothesis.intervention.action
        named = (*hypothesis.needs, *hypothesis.intervention.moves, *hypothesis.intervention.stays)
        assert set(named) <= set(recording.variables)


@pytest.mark.parametrize(
    ("changed", "sides"),
    [
        ({"reach": (0.3, 0.4)}, ("feedback side",)),
        ({"share": 0.2}, ("weight side",)),
        ({"attainable": 0.3, "share": 0.9}, ("weight side",)),
        ({"coherence": (0.13, 0.5)}, ("coherence",)),
        ({"reach": (0.3, 0.4), "share": 0.2}, ("feedback side", "weight side")),
        ({}, ()),
    ],
)
def test_a_convolution_is_limited_by_the_sides_whose_numbers_are_low(
    changed: dict[str, float], sides: tuple[str, ...]
) -> None:
    limit = limit_of(convolution(**changed))
    assert limit.limited_by == sides
    assert limit.verdict == (" and ".join(sides) or "undecided")
    assert limit.verdict in limit.sentence.replace("its ", "")


def test_a_status_that_cannot_be_decided_leaves_the_convolution_undecided() -> None:
    limit = limit_of(convolution(reach=(0.3, 0.4), share=0.2, status="undecidable"))
    assert limit.verdict == "undecided"
    assert "'undecidable'" in limit.reason


def test_a_reach_bracket_around_the_threshold_is_undecided() -> None:
    ds = convolution(reach=(LOW_CEILING - 0.05, LOW_CEILING + 0.05))
    assert statement_of("feedback-side", ds).verdict == "undecided"
    assert limit_of(ds).verdict == "undecided"
    assert "0.45 (held out) and 0.55 (in sample)" in limit_of(ds).sentence


@pytest.mark.parametrize(("side", "verdict"), [(-0.01, "limits"), (0.01, "does not limit")])
def test_each_threshold_turns_its_verdict(side: float, verdict: str) -> None:
    low = LOW_CEILING + side
    assert statement_of("feedback-side", convolution(reach=(low, low))).verdict == verdict
    assert statement_of("weight-side", convolution(share=LOW_SHARE + side)).verdict == verdict
    attainable = convolution(attainable=LOW_ATTAINABLE + side)
    assert statement_of("weight-side", attainable).verdict == verdict
    own = 0.125 * (NEAR_CHANCE + side)
    assert statement_of("coherence", convolution(coherence=(own, 0.9))).verdict == verdict
    true = convolution(coherence=(0.15, 0.15 * (CONTRAST - side)))
    assert statement_of("coherence", true).verdict == verdict


def test_evidence_supports_exactly_the_verdicts_that_it_fires() -> None:
    against = statement_of("coherence", convolution())
    for_it = statement_of("coherence", convolution(coherence=(0.13, 0.5)))
    assert (against.supporting, for_it.opposing) == ((), ())
    assert [each.value for each in for_it.supporting] == [0.13, 0.5]
    assert [each.variable for each in against.opposing] == ["coherence", "coherence_true"]


def test_an_interval_of_the_attainable_cosine_around_the_threshold_is_undecided() -> None:
    where = {"layer": CONV, "rule": RULE, "site": "entry"}
    ds = put(convolution(attainable=0.55, share=0.2), "attainable_cosine_low", 0.4, **where)
    ds = put(ds, "attainable_cosine_high", 0.7, **where)
    assert statement_of("weight-side", ds).verdict == "undecided"


def test_a_layer_of_one_position_cannot_be_incoherent() -> None:
    ds = convolution(coherence=(0.13, 0.5))
    ds = ds.assign_coords(positions=("layer", np.ones(ds.sizes["layer"], dtype=int)))
    assert statement_of("coherence", ds).verdict == "does not apply"


def test_a_rule_that_does_not_send_the_error_directly_has_no_feedback_side() -> None:
    ds = put(believable(rules=("fa",)), "width_bound", np.nan)
    assert statement_of("feedback-side", ds, rule="fa").verdict == "does not apply"


def test_missing_numbers_are_named_not_guessed() -> None:
    limit = limit_of(convolution(reach=(np.nan, np.nan)))
    assert limit.verdict == "undecided"
    assert "lacks reach in sample, reach held out" in limit.sentence


def test_a_number_that_is_not_defined_comes_with_its_reason() -> None:
    ds = convolution(attainable=np.nan)
    names, layers = ["attainable-cosine"], list(ds["layer"].values)
    reason = worded("the rule sends no error", layer=CONV, rule=RULE)
    texts = [[reason if layer == CONV else "" for layer in layers]]
    ds = ds.assign_coords(diagnostic=np.array(names, dtype=object))
    ds = ds.assign(not_defined=(("diagnostic", "layer"), np.array(texts, dtype=object)))
    ds["attainable_cosine"].attrs["diagnostic"] = names[0]
    sentence = limit_of(ds).sentence
    assert "attainable cosine is not defined, because the rule sends no error" in sentence


def test_no_verdict_is_given_where_no_side_was_measured() -> None:
    sides = ("reach", "attainable", "coherence")
    ds = convolution()
    unmeasured = ds.drop_vars([str(name) for name in ds if str(name).startswith(sides)])
    assert not answer(unmeasured).limits
    assert not any("undecided" in sentence for sentence in answer(unmeasured).paragraph)
    reach_alone = [str(name) for name in ds if str(name).startswith(sides[1:])]
    assert CONV not in {limit.layer for limit in answer(ds.drop_vars(reach_alone)).limits}
    low = convolution(reach=(0.3, 0.4)).drop_vars(reach_alone)
    assert limit_of(low).verdict == "feedback side"


def test_the_share_of_the_attainable_cosine_is_told_for_each_convolution() -> None:
    ds = convolution(attainable=0.64, share=0.37)
    (said,) = [each for each in answer(ds).paragraph if "share of the attainable" in each]
    assert "0.37 at features.0" in said
    assert "of 0.64, chance" in said
    assert "at features.3" in said


def test_no_limit_is_named_for_feedback_that_was_drawn_or_derived() -> None:
    ds = believable(rules=("dfa", "usf"))
    ds = put(ds, "feedback_origin", "derived from weights", rule="usf")
    assert {limit.rule for limit in answer(ds).limits} == {"dfa"}


def test_a_narrow_layer_is_named_with_its_width_bounds_and_remedy() -> None:
    ds = narrow({"fc1": 0.75, "fc2": 0.81}, width=4)
    assert (
        "Under dfa, fc3 (width 4, 10 classes) limits the cosine of fc1 to 0.75; fc2 to 0.81 "
        "(exact for linear networks); width >= 9 removes the limit."
    ) in answer(ds).paragraph


def test_another_rank_of_the_error_asks_for_another_width() -> None:
    ds = narrow({"fc1": 0.75}, width=4, rank=6)
    assert any("width >= 6 removes" in sentence for sentence in answer(ds).paragraph)


def test_without_the_rank_of_the_error_the_remedy_is_that_of_the_bottleneck() -> None:
    ds = narrow({"fc1": 0.75}, width=4).drop_vars("error_rank")
    ds = ds.assign(width_without_limit=("rule", [7.0]))
    assert any("width >= 7 removes" in sentence for sentence in answer(ds).paragraph)


def test_without_a_bound_below_one_no_layer_is_blamed() -> None:
    said = answer(narrow({}, width=64))
    assert any("no narrow layer limits the 4 layers below one" in s for s in said.paragraph)
    assert all(each.verdict == "does not limit" for each in said.bottlenecks)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.4, 0.8, "limits"), (0.9, 1.0, "undecided"), (1.0, 1.0, "does not limit")],
)
def test_over_draws_the_whole_band_decides(low: float, high: float, verdict: str) -> None:
    ds = put(narrow({"fc1": 0.9}, width=4), "width_bound_low", low, layer="fc1")
    ds = put(ds, "width_bound_high", high, layer="fc1")
    assert statement_of("narrow-layer", ds, layer="fc1").verdict == verdict
