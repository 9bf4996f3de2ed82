"""Claims are found by work, by key and by identity, and listed without being imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignlab.errors import MissingError
from alignlab.experiments import catalogue, found
from alignlab.experiments._catalogue import digest_of_sources
from tests.experiments.meadow import PACKAGE, planted, sow


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    with planted(tmp_path) as folder:
        yield folder


def test_claims_are_in_the_order_of_works_and_numbers(work: Path) -> None:
    for name, identity in {"a": "A1", "b": "R10", "c": "R2b", "d": "R2", "e": "L3"}.items():
        sow(work, name, identity=identity)
    assert [entry.identity for entry in catalogue()] == ["R2", "R2b", "R10", "L3", "A1"]


def test_listing_imports_no_claim(work: Path) -> None:
    sow(work, "clover_leaf", identity="R1")
    (entry,) = catalogue()
    assert (entry.key, entry.summary) == ("grass2001:clover-leaf", "Leaves are green (R1).")
    assert not [name for name in sys.modules if name.startswith(f"{PACKAGE}.grass2001.")]


def test_a_name_is_a_work_a_key_or_an_identity(work: Path) -> None:
    sow(work, "clover", identity="R1")
    sow(work, "sorrel", identity="R2")
    assert [entry.claim for entry in found("grass2001")] == ["clover", "sorrel"]
    assert found("grass2001:sorrel") == found("R2") == found("r2") == [catalogue()[1]]


def test_an_unknown_name_is_answered_with_the_nearest_ones(work: Path) -> None:
    sow(work, "clover", identity="R1")
    for wrong in ("grass2001:clovr", "clovers"):
        with pytest.raises(MissingError, match=r"Did you mean grass2001:clover\b"):
            found(wrong)
    with pytest.raises(MissingError, match=r"works are grass2001; 'alignlab reproduce --list'"):
        found("zebra")


def test_the_hash_changes_with_the_claim_and_with_what_it_shares(work: Path) -> None:
    file = sow(work, "clover", identity="R1")
    sow(work, "sorrel", identity="R2")
    (entry,) = found("R1")
    first = digest_of_sources(entry)
    (work / "sorrel.py").write_text((work / "sorrel.py").read_text() + "\n# other\n")
    assert digest_of_sources(entry) == first
    (work / "_shared.py").write_text("SCALE = 3.0\n")
    second = digest_of_sources(entry)
    file.write_text(file.read_text() + "\n# changed\n")
    assert digest_of_sources(entry) == second
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    assert len({first, second, digest_of_sources(entry)}) == 3
