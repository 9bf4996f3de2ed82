"""What holds for every claim, without running any."""

from __future__ import annotations

import inspect
import json
import re
from typing import get_args

import pytest

from alignlab import plugins
from alignlab.experiments import catalogue
from alignlab.experiments._base import Claim, Provenance
from alignlab.experiments._runs import load, plain

ENTRIES = catalogue()
CLAIMS = [pytest.param(load(entry), id=entry.key) for entry in ENTRIES]


def test_identities_are_unique_and_read_without_importing() -> None:
    identities = [entry.identity for entry in ENTRIES]
    assert len(set(identities)) == len(identities)
    for entry in ENTRIES:
        assert re.fullmatch(r"[RNLA]\d+[a-z]?", entry.identity)
        assert plugins.declared(entry.package, entry.claim, "identity") == entry.identity
        assert entry.summary.endswith(f"({entry.identity}).")


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_says_what_is_claimed_where_and_what_is_drawn(claim: Claim) -> None:
    assert claim.provenance in get_args(Provenance)
    for text in (claim.statement, claim.source, claim.caption):
        assert text == text.strip() != ""
    assert claim.statement.endswith(".")
    for setting in (claim.fast, claim.full or claim.fast):
        assert claim.caption.format_map(plain(setting)).endswith(".")


@pytest.mark.parametrize("claim", CLAIMS)
def test_only_what_was_read_is_said_to_be_in_the_paper(claim: Claim) -> None:
    module = inspect.getmodule(type(claim))
    assert module is not None
    says = re.search(r"\bthe paper (reports|says|shows|states)\b", inspect.getsource(module), re.I)
    assert not says or claim.provenance == "read in the paper"


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("size", ["fast", "full"])
def test_settings_are_plain_and_cases_unique_with_the_same_keys(claim: Claim, size: str) -> None:
    setting = getattr(claim, size)
    if setting is None and size == "full":
        return
    assert setting is not None
    json.dumps(plain(setting))
    cases = claim.cases(setting)
    assert cases
    assert len({tuple(case) for case in cases}) == 1
    assert len({json.dumps(plain(case), sort_keys=True) for case in cases}) == len(cases)
    for case in cases:
        assert all(isinstance(value, str | int | float) for value in plain(case).values())


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_measures_checks_and_draws(claim: Claim) -> None:
    parameters = {
        name: list(inspect.signature(getattr(claim, name)).parameters)
        for name in ("cases", "measure", "checks", "draw")
    }
    assert parameters == {
        "cases": ["setting"],
        "measure": ["case", "setting", "work"],
        "checks": ["results", "setting"],
        "draw": ["results", "figure"],
    }
