"""Every claim in its fast sizes: what comes out is what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.experiments import catalogue, reproduce
from alignlab.experiments._kept import kept
from alignlab.experiments._outcome import REPRODUCED


@pytest.mark.slow
@pytest.mark.parametrize("key", [entry.key for entry in catalogue()])
def test_a_claim_comes_out_as_the_page_of_the_five_works_says(key: str, tmp_path: Path) -> None:
    """One that the page does not yet hold must be reproduced."""
    known = kept().get((key, "fast"))
    outcome = reproduce(key, output=tmp_path)
    failing = [check for check in outcome.checks if not check.passed]
    assert outcome.status == (known.status if known else REPRODUCED), failing
