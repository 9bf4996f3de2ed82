"""Two layers under constant directions (N3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from alignlab.experiments._base import Work
from alignlab.experiments.noekland2016.theorem_1 import PROBE, Theorem1


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    claim = Theorem1()
    work = Work(tmp_path_factory.mktemp("theorem"))
    return claim.measure(claim.cases(claim.fast)[0], claim.fast, work)


def test_no_trial_violates_the_theorem(block: xr.Dataset) -> None:
    claim = Theorem1()
    checks = claim.checks(block.expand_dims("run"), claim.fast)
    assert len(checks) == 4
    assert all(check.passed for check in checks)
    assert {check.runs for check in checks} == {claim.fast["trials"]}


def test_both_alignments_have_one_sign(block: xr.Dataset) -> None:
    """Both are one inner product, divided by the length of one direction or of the other."""
    ratio = (block["l_lower"] / block["l_upper"]).values
    assert (ratio > 0).all()
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(ratio.shape[1], axis=1), rtol=1e-9)


def test_the_upper_criterion_falls_at_the_rate_of_the_alignment(block: xr.Dataset) -> None:
    slope = (block["k_upper_change"] / PROBE).values
    np.testing.assert_allclose(slope, -block["l_upper"].values, atol=0.05)


def test_before_the_first_step_alignment_is_a_coin(block: xr.Dataset) -> None:
    share = (block["l_lower"].isel(step=0) > 0).values.mean()
    assert 0.25 < share < 0.75


def test_steps_along_the_directions_violate_it(tmp_path: Path) -> None:
    """K rises then; the checks can fail."""
    claim = Theorem1()
    setting = {**claim.fast, "rate": -0.05}
    results = claim.measure({"seed": 0}, setting, Work(tmp_path)).expand_dims("run")
    checks = claim.checks(results, setting)
    assert not checks[0].passed


def test_a_trial_that_blows_up_violates_every_part(block: xr.Dataset) -> None:
    claim = Theorem1()
    checks = claim.checks((block * np.nan).expand_dims("run"), claim.fast)
    assert [check.measured for check in checks] == [1.0] * 4
    assert not any(check.passed for check in checks)
