"""The packaged checkpoints: where they lie and how each was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alignlab.errors import InputError, MissingError

__all__ = ["Example", "folder", "manifest"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A packaged checkpoint.

    Attributes:
        file: The checkpoint.
        sha256: Its hash.
        model: Model SPEC.
        model_arguments: Arguments of the model's factory.
        data: Data SPEC.
        rule: Public name of the rule that trained it.
        rule_spec: The rule with its options.
        seeds: What each seed was.
        command: What makes the file again.
    """

    file: Path
    sha256: str
    model: str
    data: str
    rule: str
    rule_spec: str
    command: str
    model_arguments: Mapping[str, object] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)


def folder() -> Path:
    """Return the folder of the packaged checkpoints, in a wheel and in a source tree alike.

    Raises:
        MissingError: The installation lacks them.
    """
    package = Path(__file__).parent
    for place in (package / "examples", package.parent / "data"):
        if (place / "manifest.json").is_file():
            return place
    message = (
        f"The packaged checkpoints are neither in {package / 'examples'} nor in "
        f"{package.parent / 'data'}. Install alignlab again."
    )
    raise MissingError(message)


def manifest() -> tuple[Example, ...]:
    """Return the packaged checkpoints, each with its hash checked.

    Returns:
        One entry for each checkpoint, in the order of ``manifest.json``.

    Raises:
        MissingError: A file is not there.
        InputError: A file is not the one that the manifest describes.
    """
    place = folder()
    entries = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    return tuple(_checked(Example(**{**entry, "file": place / entry["file"]})) for entry in entries)


def _checked(example: Example) -> Example:
    """Return the example if its file is there and has the stated hash."""
    if not example.file.is_file():
        message = f"The packaged checkpoint {example.file} is not there. Install alignlab again."
        raise MissingError(message)
    found = hashlib.sha256(example.file.read_bytes()).hexdigest()
    if found != example.sha256:
        message = (
            f"The packaged checkpoint {example.file} has sha256 {found}, not {example.sha256}. "
            f"Install alignlab again, or make it with: {example.command}"
        )
        raise InputError(message)
    return example
