"""The page of the five works: every claim, what is stated, what comes out here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from alignlab.experiments._base import Claim
from alignlab.experiments._catalogue import Entry, catalogue
from alignlab.experiments._check import Check
from alignlab.experiments._outcome import Outcome, Size
from alignlab.experiments._runs import load

__all__ = ["WORKS", "page"]

SIZES: tuple[Size, ...] = ("fast", "full")

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
        "hand: the text; its tables and its theorem are recalled, and no check rests on its "
        "numbers.",
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
make seeds    # every claim in its fast sizes, half an hour on two cores; then this page
make seeds-full ALIGNLAB_DATA=~/data    # the sizes of the works: days on a few cores
```

[Reproduce](reproduce.md) says how to run one claim, what it leaves, and how to run the sizes of the
works.

## How to read it

- **statement**: in our words. **from**: where it is from. *Read in the paper* means its abstract,
  *read in its code* the authors' code; what is *recalled* was not read again, and *our derivation*
  is no claim of the work.
- **stated**: the number of the source, or of our own earlier measurement, and whose it is.
- **ours**: what was measured, with its 95% interval over runs, what is expected, and how many
  runs. What does not hold is marked. **chance**: what would come out without the effect.
- **status**: *reproduced* where every line holds. A claim that is not is listed below with our
  numbers; nothing was tuned until it would be.
- **s**: seconds of all runs together, each on one thread. Sizes are *fast*, of a minute, or *full*,
  those of the work or as near to them as is sensible; *full with* names what a run changed of
  them, such as fewer seeds.
"""


def page(kept: Kept) -> str:
    """Return the whole page."""
    claims = [(entry, load(entry)) for entry in catalogue()]
    papers = list(dict.fromkeys([*WORKS, *(entry.paper for entry, _ in claims)]))
    parts = [HEADER, *_what_was_at_hand(), *_machines(kept), *_not_reproduced(claims, kept)]
    for paper in papers:
        rows = [
            row
            for entry, claim in claims
            if entry.paper == paper
            for row in _rows(entry, claim, kept)
        ]
        title = WORKS.get(paper, (paper, ""))[0]
        table = _table(rows) if rows else "No claim of it is here yet.\n"
        parts.append(f"## {title}\n\n{table}")
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
            f"- {size}: {len(outcomes)} claims, {minutes:.1f} minutes of runs on one thread each; "
            f"{hardware}; torch {torch}, alignlab {alignlab}; "
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
        lines = "; ".join(_measured(check) for check in failing)
        place = f"{entry.identity} `{entry.key}`, {_escaped(outcome.sizes)}"
        yield f"- {place}: {_escaped(outcome.status)}. {lines}".rstrip()
    if not found:
        yield "Every kept run is reproduced." if kept else "Nothing has been run yet."
    yield ""
    waiting = [entry for entry, _ in claims if (entry.key, "fast") not in kept]
    if waiting:
        names = ", ".join(f"{entry.identity} `{entry.key}`" for entry in waiting)
        yield f"Not run yet: {names}.\n"


def _rows(entry: Entry, claim: Claim, kept: Kept) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a claim: one for each size that was run, or one that says: none."""
    head = (
        f"{entry.identity}<br>`{entry.claim}`",
        _escaped(claim.statement),
        f"{claim.provenance}; {_escaped(claim.source)}",
    )
    outcomes = [kept[entry.key, size] for size in SIZES if (entry.key, size) in kept]
    if not outcomes:
        yield (*head, "", "", "", "not run", "")
    for outcome in outcomes:
        checks = outcome.checks
        yield (
            *head,
            "<br>".join(dict.fromkeys(_escaped(check.stated) for check in checks if check.stated)),
            "<br>".join(_measured(check) for check in checks),
            "<br>".join(dict.fromkeys(_escaped(check.chance) for check in checks if check.chance)),
            f"{_escaped(outcome.sizes)}: {_escaped(outcome.status)}",
            f"{outcome.seconds:.0f}",
        )


def _measured(check: Check) -> str:
    """Return what was measured, and what must come out."""
    interval = "" if math.isnan(check.low) else f" [{check.low:.3g}, {check.high:.3g}]"
    runs = f"{check.runs} run{'s' if check.runs > 1 else ''}"
    mark = "" if check.passed else "**does not hold**: "
    found = f"{_escaped(check.what)}: {check.measured:.4g}{interval}"
    return f"{mark}{found}, expected {_escaped(check.expected)} ({runs})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    names = ("claim", "statement", "from", "stated", "ours", "chance", "status", "s")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _escaped(text: str) -> str:
    """Return a text that begins no markup and ends no cell; what is between backticks stays."""
    parts = " ".join(text.split()).replace("|", r"\|").split("`")
    parts[::2] = [re.sub(r"([*$<\[])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
