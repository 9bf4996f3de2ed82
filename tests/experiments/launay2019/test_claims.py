"""The claims: the exact one as it stands, the others cut down to see that they hang together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from alignlab.experiments import Check, Claim, Work
from alignlab.experiments.launay2019._published import LOGS, WIDTHS
from alignlab.experiments.launay2019.activations import Activations
from alignlab.experiments.launay2019.batch_norm import BatchNorm
from alignlab.experiments.launay2019.convolutions import Convolutions
from alignlab.experiments.launay2019.dropout import DropoutShare
from alignlab.experiments.launay2019.feedback_normalisation import FeedbackNormalisation
from alignlab.experiments.launay2019.frozen_convolutions import FrozenConvolutions
from alignlab.experiments.launay2019.mask_bottleneck import MaskBottleneck
from alignlab.experiments.launay2019.mode_confound import ModeConfound
from alignlab.experiments.launay2019.narrow_layer import NarrowLayer
from alignlab.experiments.launay2019.published_bottleneck import PublishedBottleneckLaw
from alignlab.experiments.launay2019.published_table import PublishedTable
from alignlab.experiments.launay2019.shared_feedback import SharedFeedback

TINY: dict[str, Any] = {"widths": (16, 16, 16), "epochs": 1, "seeds": 2}
MAPS: dict[str, Any] = {"epochs": 1, "seeds": 2, "maps": (2, 3), "width": 8}
CUT_DOWN: list[tuple[Claim, dict[str, Any]]] = [
    (FeedbackNormalisation(), TINY),
    (MaskBottleneck(), {**TINY, "kept": (1, 16)}),
    (NarrowLayer(), {**TINY, "narrow": (2, 4, 16)}),
    (PublishedBottleneckLaw(), {**TINY, "kept": (1, 8, 16)}),
    (Convolutions(), MAPS),
    (FrozenConvolutions(), MAPS),
    (ModeConfound(), TINY),
    (SharedFeedback(), TINY),
    (Activations(), TINY),
    (DropoutShare(), TINY),
    (BatchNorm(), TINY),
]


def run(claim: Claim, setting: dict[str, Any], folder: Path) -> tuple[xr.Dataset, list[Check]]:
    """Run all cases, and hold them against what must come out."""
    cases = list(claim.cases(setting))
    measured = [claim.measure(case, setting, Work(folder)) for case in cases]
    keys = {key: ("run", [case[key] for case in cases]) for key in cases[0]}
    results = xr.concat(measured, "run").assign_coords(keys)
    return results, list(claim.checks(results, setting))


def test_the_published_log_follows_the_law_of_two_masks(tmp_path: Path) -> None:
    _, checks = run(PublishedTable(), {}, tmp_path)
    assert [check.passed for check in checks] == [True, True]
    assert [round(check.measured, 3) for check in checks] == [0.008, 0.010]


@pytest.mark.parametrize("claim", [MaskBottleneck(), PublishedBottleneckLaw()])
def test_at_full_size_the_log_passes_and_another_outcome_does_not(claim: Claim) -> None:
    log = LOGS["standard"]
    cosines = np.array([log[layer] for layer in ("h1", "h2", "h3")]).T
    runs = {"kept": ("run", list(WIDTHS)), "seed": ("run", [0] * len(WIDTHS))}
    results = xr.Dataset(
        {"cosine": (("run", "layer"), cosines), "test_error": ("run", 100 - np.array(log["test"]))},
        {**runs, "layer": ["h1", "h2", "h3"]},
    )
    setting = {**(claim.full or {}), "kept": WIDTHS}
    assert [each.passed for each in claim.checks(results, setting)][-4:] == [True] * 4
    low = results.assign(cosine=results["cosine"] * 0.7, test_error=results["test_error"] + 2)
    assert [each.passed for each in claim.checks(low, setting)][-4:] == [False] * 4


@pytest.mark.parametrize(("claim", "cut"), CUT_DOWN, ids=lambda each: getattr(each, "identity", ""))
def test_a_claim_yields_numbers_checks_and_a_figure(
    claim: Claim, cut: dict[str, Any], tmp_path: Path
) -> None:
    setting = {**claim.fast, **cut}
    results, checks = run(claim, setting, tmp_path)
    assert np.isfinite(results["cosine"]).all()
    assert checks
    assert all(np.isfinite(check.measured) for check in checks)
    figure = Figure()
    claim.draw(results, figure)
    assert figure.axes
    assert all(axes.get_xlabel() or axes.get_title() or axes.get_ylabel() for axes in figure.axes)


def test_a_run_follows_from_its_case_alone(tmp_path: Path) -> None:
    claim, setting = DropoutShare(), {**DropoutShare.fast, **TINY}
    case = {"dropped": "0.5", "seed": 1}
    first, again = (claim.measure(case, setting, Work(tmp_path)) for _ in range(2))
    xr.testing.assert_identical(first, again)
