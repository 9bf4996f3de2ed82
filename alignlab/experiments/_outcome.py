"""What came out of a claim, and how it is written down."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from alignlab.errors import InputError
from alignlab.experiments._check import Check
from alignlab.plain import plain

__all__ = [
    "FAILED",
    "NOT_REPRODUCED",
    "NOT_RUN",
    "REPRODUCED",
    "Outcome",
    "Size",
    "as_json",
    "from_json",
    "verdict",
]

Size = Literal["fast", "full"]

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
NOT_RUN = "not run"
FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A claim with what was measured.

    Attributes:
        identity: Short name, such as ``R4``.
        key: Public name, ``paper:claim``.
        statement: What is claimed.
        provenance: Where the statement is from.
        source: Section, theorem or figure of the work; or what is derived.
        size: ``fast`` or ``full``.
        setting: Sizes as they were run.
        changed: Those of them that are not the claim's own.
        data: What was at hand of the data sets that the full setting needs, such as
            ``cifar10[subset train n=4000]``, both splits; nothing under the fast one.
        checks: What was measured against what must come out.
        status: ``reproduced``, ``not reproduced``, ``not run`` or ``failed: ...``, the latter two
            with a reason.
        device: Where it was run.
        hardware: Processor, and accelerator where there is one.
        alignlab: Version.
        torch: Version.
        code: Hash of the claim's sources.
        seconds: All runs together, each on one thread; those of an earlier call included.
        date: Day on which it was finished, ISO.
    """

    identity: str
    key: str
    statement: str
    provenance: str
    source: str
    size: Size
    status: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    device: str = ""
    hardware: str = ""
    alignlab: str = ""
    torch: str = ""
    code: str = ""
    seconds: float = 0.0
    date: str = ""

    @property
    def paper(self) -> str:
        """Public name of the work."""
        return self.key.partition(":")[0]

    @property
    def sizes(self) -> str:
        """Its size in words, with what was changed of it and what was no whole data set."""
        changes = [f"{name}={json.dumps(value)}" for name, value in self.changed.items()]
        parts = [name for name in self.data if "[subset " in name]
        changes = [f"with {', '.join(changes)}"] if changes else []
        parts = [f"on {' and '.join(parts)}"] if parts else []
        return " ".join([self.size, *changes, *parts])

    @property
    def was_run(self) -> bool:
        """Whether it was tried at all."""
        return not self.status.startswith(NOT_RUN)

    @property
    def is_reproduced(self) -> bool:
        """Whether every check holds."""
        return self.status == REPRODUCED


def verdict(check: Check) -> bool | None:
    """Return whether a check holds; None where a number is shown and nothing is asked of it."""
    return check.passed if check.expected != "no bound" or not check.passed else None


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome in the types of JSON: null for NaN, words for infinities."""
    return {name: plain(value) for name, value in dataclasses.asdict(outcome).items()}


def from_json(contents: Mapping[str, Any]) -> Outcome:
    """Return the outcome that ``as_json`` described.

    Raises:
        InputError: It is not the description of an outcome.
    """
    try:
        checks = tuple(_check(each) for each in contents["checks"])
        data = tuple(contents.get("data", ()))
        return Outcome(**{**contents, "checks": checks, "data": data})
    except (KeyError, TypeError, ValueError) as error:
        message = f"This is no outcome of a claim ({type(error).__name__}: {error})."
        raise InputError(message) from error


def _check(contents: Mapping[str, Any]) -> Check:
    """Return a check with its numbers as numbers."""
    numbers = [name for name, kind in get_type_hints(Check).items() if kind is float]
    read = {n: math.nan if contents[n] is None else float(contents[n]) for n in numbers}
    return Check(**{**contents, **read})
