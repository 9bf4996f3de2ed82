"""The page of the five works says what the kept runs say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from alignlab.experiments._catalogue import catalogue, digest_of_sources, found
from alignlab.experiments._check import Check
from alignlab.experiments._kept import gathered, kept, kept_text
from alignlab.experiments._outcome import Outcome, Size, as_json
from tests.seeds.__main__ import KEPT, PAGE
from tests.seeds.page import WORKS, page

OUTCOME = Outcome(
    identity="N3",
    key="noekland2016:theorem-1",
    statement="S",
    provenance="recalled",
    source="somewhere",
    size="fast",
    status="not reproduced",
    checks=(
        Check("share", 0.25, "<= 0.1", passed=False, low=0.1, high=0.4, runs=3),
        Check("slope|rate", 2.0, "= 2", passed=True, stated="stated: 2", chance="0 by draws"),
    ),
    hardware="a processor, 2 cores",
    torch="2.9",
    alignlab="0.1.0",
    seconds=61.0,
    date="2026-01-02",
    code=digest_of_sources(found("N3")[0]),
)


def test_the_page_is_what_the_kept_runs_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(kept(KEPT))


def test_what_is_kept_reads_back_as_it_is_written() -> None:
    assert KEPT.read_text(encoding="utf-8") == kept_text(kept(KEPT))


def test_changed_sizes_give_way_to_the_claims_own_and_never_stand_for_fast_ones(
    tmp_path: Path,
) -> None:
    def laid(name: str, outcome: Outcome) -> Path:
        folder = tmp_path / name
        (folder / "a" / "b" / "c").mkdir(parents=True)
        text = json.dumps(as_json(outcome))
        (folder / "a" / "b" / "c" / "outcome.json").write_text(text)
        return folder

    full = replace(OUTCOME, size="full")
    changed = replace(full, changed={"seeds": 1})
    place: tuple[str, Size] = (OUTCOME.key, "full")
    ours, altered = laid("ours", full), laid("altered", changed)
    assert gathered([altered])[place].changed == {"seeds": 1}
    for folders in ([ours, altered], [altered, ours]):
        assert gathered(folders)[place].changed == {}
    assert gathered([altered], {place: full})[place].changed == {}
    assert gathered([laid("fast", replace(OUTCOME, changed={"seeds": 1}))]) == {}
    text = page({place: changed})
    assert "| not run | **not reproduced** with seeds=1 |" in text
    assert "**full with seeds=1: not reproduced** (61 s)" in text


def test_every_kept_run_is_of_a_claim_that_is_there() -> None:
    known = {entry.key: entry.identity for entry in catalogue()}
    for outcome in kept(KEPT).values():
        assert known[outcome.key] == outcome.identity


def test_every_claim_has_a_row_whether_it_was_run_or_not() -> None:
    text = page({})
    for entry in catalogue():
        anchor = f"{entry.identity.lower()}-{entry.claim}"
        assert text.count(f"| [{entry.identity}](#{anchor}) `{entry.claim}` |") == 1
        assert text.count(f"### {entry.identity} {entry.claim}\n") == 1
    assert text.count("| not run | not run |") == len(catalogue())
    assert all(entry.paper in WORKS for entry in catalogue())


def test_a_claim_that_does_not_reproduce_is_listed_with_its_numbers() -> None:
    text = page({("noekland2016:theorem-1", "fast"): OUTCOME})
    place = "[N3](#n3-theorem-1) `noekland2016:theorem-1`"
    assert f"- {place}, fast: not reproduced, 1 of 2 checks\n" in text
    assert r"  - share: 0.25 \[0.1, 0.4], expected \<= 0.1 (3 runs)" in text
    assert r"| share | 0.25 \[0.1, 0.4] | \<= 0.1 |  |  | 3 | **no** |" in text
    assert r"| slope\|rate | 2 | = 2 | stated: 2 | 0 by draws | 1 | yes |" in text
    assert "- fast: 1 claim, 1.0 minutes of runs on one thread each; a processor, 2 cores" in text


def test_runs_of_other_code_and_of_a_part_of_the_data_are_told_from_others() -> None:
    data = ("cifar10[subset train n=9]", "mnist[test n=10000]")
    text = page({(OUTCOME.key, "fast"): replace(OUTCOME, code="0", data=data)})
    assert r"| **not reproduced** on cifar10\[subset train n=9], earlier code | not run |" in text
    assert r"**fast on cifar10\[subset train n=9]: not reproduced** (61 s, earlier code)" in text
    assert "(61 s, " not in page({(OUTCOME.key, "fast"): OUTCOME})


def test_both_sizes_have_a_table_each() -> None:
    sizes: tuple[Size, ...] = ("fast", "full")
    known = {
        (OUTCOME.key, size): replace(OUTCOME, size=size, status="reproduced") for size in sizes
    }
    text = page(known)
    assert "`theorem-1` | Constant update directions" in text
    assert "| reproduced | reproduced |" in text
    assert "**fast: reproduced** (61 s)" in text
    assert "**full: reproduced** (61 s)" in text
    assert "Every kept run is reproduced." in text
