"""Outcomes of real runs that are shipped, so that a list can say what is reproduced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from alignlab import examples
from alignlab.errors import InputError
from alignlab.experiments._outcome import Outcome, Size, as_json, from_json

__all__ = ["gathered", "kept", "kept_text"]

FILE = "reproduced.json"


def kept(file: Path | None = None) -> dict[tuple[str, Size], Outcome]:
    """Return the kept outcomes by key and size.

    Args:
        file: Where they lie; by default the shipped ones.

    Returns:
        Nothing where there is no file.

    Raises:
        InputError: The file is not one of outcomes.
    """
    file = file or examples.folder() / FILE
    if not file.is_file():
        return {}
    try:
        outcomes = [from_json(each) for each in json.loads(file.read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, TypeError, InputError) as error:
        message = f"{file} does not hold kept outcomes: {error}"
        raise InputError(message) from error
    return {(outcome.key, outcome.size): outcome for outcome in outcomes}


def kept_text(outcomes: Mapping[tuple[str, Size], Outcome]) -> str:
    """Return what ``kept`` reads, sorted by key and size."""
    rows = [as_json(outcomes[place]) for place in sorted(outcomes)]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def gathered(
    folders: Iterable[Path], known: Mapping[tuple[str, Size], Outcome] | None = None
) -> dict[tuple[str, Size], Outcome]:
    """Return known outcomes with those that lie below some folders; later ones replace earlier.

    One of changed sizes gives way to one of the claim's own, and stands for the full size alone.

    Raises:
        InputError: A file is not the outcome of a claim.
    """
    found = dict(known or {})
    for folder in folders:
        for file in sorted(folder.glob("*/*/*/outcome.json")):
            try:
                outcome = from_json(json.loads(file.read_text(encoding="utf-8")))
            except (json.JSONDecodeError, TypeError, InputError) as error:
                message = f"{file} is not the outcome of a claim: {error}"
                raise InputError(message) from error
            place = outcome.key, outcome.size
            gives_way = place in found and not found[place].changed
            if outcome.changed and (gives_way or outcome.size == "fast"):
                continue
            found[place] = outcome
    return found
