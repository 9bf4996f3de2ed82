"""The page of the five works: every claim, what is stated, what comes out here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from alignlab.experiments._base import Claim
from alignlab.experiments._catalogue import Entry, catalogue, digest_of_sources
from alignlab.experiments._check import Check
from alignlab.experiments._outcome import Outcome, Size, verdict
from alignlab.experiments._runs import load

__all__ = ["WORKS", "page"]

SIZES: tuple[Size, ...] = ("fast", "full")

OVERVIEW = ("claim", "in a line", *SIZES)
CHECKS = ("what", "ours", "expected", "stated", "chance", "runs", "holds")

Kept = Mapping[tuple[str, Size], Outcome]

WORKS = {
    "refinetti2021": (
        "Refinetti, d'Ascoli, Ohana and Goldt 2021, Align, then memorise: the dynamics of learning "
        "with feedback alignment (ICML)",
        "read: the abstract, the authors' code and the outputs of its notebook, some of them off "
        "its pictures to about .005. Not at hand: the text. Definitions are those that the code "
        "executes; the theory of deep linear networks is our derivation.",
    ),
    "chu2024": (
        "Chu and Bacho 2024, Random feedback alignment algorithms to train neural networks: why do "
        "they align? (Machine Learning: Science and Technology 5)",
        "read: the abstract. Not at hand: the text; no code of it is public. Only what the "
        "abstract says is tested, in settings and by formulas of our own.",
    ),
    "noekland2016": (
        "Nøkland 2016, Direct feedback alignment provides learning in deep neural networks (NIPS)",
        "read: the abstract, the author's code and what a third party logged with it. Not at "
        "hand: the text; its tables and its theorem are recalled. No check of the fast sizes rests "
        "on its numbers; those of the full sizes that do say so.",
    ),
    "launay2019": (
        "Launay, Poli and Krzakala 2019, Principled training of neural networks with direct "
        "feedback alignment",
        "read: the abstract and the authors' code, in which the numbers of the bottleneck "
        "experiment stand. Not at hand: the text; its other tables were not recovered.",
    ),
    "boopathy2022": (
        "Boopathy and Fiete 2022, How to train your wide neural network without backprop: an "
        "input-weight alignment perspective (ICML)",
        "read: the abstract and the authors' code. Not at hand: the text; its curves were not "
        "recovered, and the theory is recalled or our derivation.",
    ),
}

HEADER = """\
# The five works

What five works on feedback alignment claim, each claim measured anew by this repository's code.
This page is written from kept runs:

```sh
make seeds    # every claim in its fast sizes, 15 to 40 minutes on two cores
make seeds-full ALIGNLAB_DATA=~/data    # the sizes of the works: days on a few cores
```

[Reproduce](reproduce.md) says how to run one claim, what it leaves, and how to run the sizes of the
works.

## How to read it

A table for each work names its claims and what their runs came to; below it each claim has its
statement, in our words, where that is from, and the runs with a line for each check.

- **from**: *read in the paper* means its abstract, *read in its code* the authors' code; what is
  *recalled* was not read again, and *our derivation* is no claim of the work.
- **ours**: what was measured, with its 95% interval over runs where there is one. The interval of
  a mean supposes normal runs: with few of them it is wide, and can reach beyond what is possible.
- **expected**: what the measured number, not its interval, is held against. Before *of the runs*
  stands a share: 1 is all of them.
- **stated**: the number of the source, or of our own earlier measurement, and whose it is.
- **chance**: what would come out without the effect. **runs**: how many the number is from.
- **holds**: whether the check does; a dash where a number is shown and nothing is asked of it. A
  claim is *reproduced* where every one does. One that is not is listed below with our numbers;
  nothing was tuned until it would be.
- Seconds are those of all runs together, each on one thread, on machines that did other work
  too. Sizes are *fast*, of a minute, or *full*, those of the work or as near to them as is
  sensible; *full with* names what a run changed of them, such as fewer seeds, and *on ...\\[subset*
  a data set of which a part alone was at hand.
- *Earlier code*: the run is of a state of the claim, or of what it shares with others, that has
  been edited since; its numbers are of that state.
"""


def page(kept: Kept) -> str:
    """Return the whole page."""
    claims = [(entry, load(entry)) for entry in catalogue()]
    papers = list(dict.fromkeys([*WORKS, *(entry.paper for entry, _ in claims)]))
    parts = [HEADER, *_what_was_at_hand(), *_machines(kept), *_not_reproduced(claims, kept)]
    for paper in papers:
        own = [(entry, claim) for entry, claim in claims if entry.paper == paper]
        parts.append(f"## {WORKS.get(paper, (paper, ''))[0]}\n")
        rows = [_row(entry, kept) for entry, _ in own]
        parts.append(_table(OVERVIEW, rows) if own else "No claim of it is here yet.\n")
        parts += (line for entry, claim in own for line in _section(entry, claim, kept))
    return "\n".join(parts)


def _what_was_at_hand() -> Iterator[str]:
    yield "## What was at hand\n"
    yield "The full text of none of the five was.\n"
    for title, known in WORKS.values():
        yield f"- {title}: {known}"
    yield ""


def _machines(kept: Kept) -> Iterator[str]:
    """Yield on what the kept runs were made, and how long they took."""
    yield "## Hardware and times\n"
    if not kept:
        yield "Nothing has been run yet.\n"
        return
    groups: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for outcome in kept.values():
        place = (outcome.size, outcome.hardware, outcome.torch, outcome.alignlab)
        groups.setdefault(place, []).append(outcome)
    for (size, hardware, torch, alignlab), outcomes in sorted(groups.items()):
        days = sorted({outcome.date for outcome in outcomes})
        minutes = sum(outcome.seconds for outcome in outcomes) / 60
        yield (
            f"- {size}: {len(outcomes)} claim{_s(len(outcomes))}, {minutes:.1f} minutes of runs "
            f"on one thread each; {hardware}; torch {torch}, alignlab {alignlab}; "
            f"{days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"
        )
    yield ""


def _not_reproduced(claims: Sequence[tuple[Entry, Claim]], kept: Kept) -> Iterator[str]:
    """Yield which claims are not reproduced, failed or were not run."""
    yield "## What is not reproduced\n"
    found = [
        (entry, outcome)
        for entry, _ in claims
        for size in SIZES
        if (outcome := kept.get((entry.key, size))) and not outcome.is_reproduced
    ]
    for entry, outcome in found:
        failing = [check for check in outcome.checks if not check.passed]
        place = f"{_link(entry)} `{entry.key}`, {_escaped(outcome.sizes)}"
        some = f", {len(failing)} of {len(outcome.checks)} checks" if failing else ""
        yield f"- {place}: {_escaped(outcome.status)}{some}"
        yield from (f"  - {_line(check)}" for check in failing)
    if not found:
        yield "Every kept run is reproduced." if kept else "Nothing has been run yet."
    yield ""
    waiting = [entry for entry, _ in claims if (entry.key, "fast") not in kept]
    if waiting:
        names = ", ".join(f"{_link(entry)} `{entry.key}`" for entry in waiting)
        yield f"Not run yet: {names}.\n"


def _row(entry: Entry, kept: Kept) -> tuple[str, ...]:
    """Return the line of a claim in the table of its work."""
    summary = f"{entry.summary.removesuffix(f' ({entry.identity}).')}"
    outcomes = (kept.get((entry.key, size)) for size in SIZES)
    states = [_state(entry, outcome) if outcome else "not run" for outcome in outcomes]
    return (f"{_link(entry)} `{entry.claim}`", _escaped(summary), *states)


def _state(entry: Entry, outcome: Outcome) -> str:
    """Return what a claim's runs came to, in a few words."""
    word = outcome.status.partition(":")[0]
    changed = outcome.sizes.partition(" ")[2]
    state = f"{word if outcome.is_reproduced else f'**{word}**'} {_escaped(changed)}".rstrip()
    return f"{state}{_of_earlier_code(entry, outcome)}"


def _of_earlier_code(entry: Entry, outcome: Outcome) -> str:
    """Return that a run is of another state of the claim's code, or nothing."""
    return "" if outcome.code == digest_of_sources(entry) else ", earlier code"


def _section(entry: Entry, claim: Claim, kept: Kept) -> Iterator[str]:
    """Yield the section of a claim: its statement, and a table for each size that was run."""
    yield f"### {entry.identity} {entry.claim}\n"
    yield f"{_escaped(claim.statement)}\n"
    yield f"*From: {claim.provenance}; {_escaped(claim.source)}.*\n"
    outcomes = [kept[entry.key, size] for size in SIZES if (entry.key, size) in kept]
    if not outcomes:
        yield "Not run.\n"
    for outcome in outcomes:
        status = f"**{_escaped(outcome.sizes)}: {_escaped(outcome.status)}**"
        yield f"{status} ({outcome.seconds:.0f} s{_of_earlier_code(entry, outcome)})\n"
        if outcome.checks:
            yield _table(CHECKS, [_cells(check) for check in outcome.checks])


def _cells(check: Check) -> tuple[str, ...]:
    """Return a check as cells."""
    texts = [_escaped(text) for text in (check.expected, check.stated, check.chance)]
    holds = {True: "yes", False: "**no**", None: "-"}[verdict(check)]
    return (_escaped(check.what), _found(check), *texts, str(check.runs), holds)


def _line(check: Check) -> str:
    """Return a check as a sentence."""
    what, ours, expected, _, _, runs, _ = _cells(check)
    return f"{what}: {ours}, expected {expected} ({runs} run{_s(check.runs)})"


def _found(check: Check) -> str:
    interval = "" if math.isnan(check.low) else f" \\[{check.low:.3g}, {check.high:.3g}]"
    return f"{check.measured:.4g}{interval}"


def _link(entry: Entry) -> str:
    return f"[{entry.identity}](#{entry.identity.lower()}-{entry.claim})"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _escaped(text: str) -> str:
    """Return a text that begins no markup and ends no cell; what is between backticks stays."""
    parts = " ".join(text.split()).replace("|", r"\|").split("`")
    parts[::2] = [re.sub(r"([*$<\[])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
