"""What a claim is: what is said where, how it is measured, and what must come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import xarray as xr

from alignlab.experiments._check import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Case", "Check", "Claim", "Provenance", "Setting", "Work"]

Case = Mapping[str, str | int | float]
"""Coordinates of one run, such as its rule and its seed; they make its file and its place."""

Setting = Mapping[str, Any]
"""Sizes of an experiment as plain values."""

Provenance = Literal["read in the paper", "read in its code", "recalled", "our derivation"]
"""Where a statement is from. What is recalled was not read again; never "the paper reports"."""


@dataclass(frozen=True)
class Work:
    """What one run is given beside its case.

    Attributes:
        folder: Folder of its own, for data sets that a training keeps and the like.
        device: Where tensors are to live.
        progress: Called with what is done, how much of it and of how much.
    """

    folder: Path
    device: str = "cpu"
    progress: Callable[[str, int, int], None] = field(
        default=lambda _label, _done, _total: None, repr=False
    )


class Claim(ABC):
    """One statement of one work, with what it takes to hold it against measurements.

    A claim is cut into cases, which do not know of each other: they run side by side, and what
    was cut off goes on with the cases that are missing.

    Attributes:
        identity: Short name within the list of claims, such as ``R4``.
        statement: What is claimed, in our words, one or two sentences.
        provenance: Where the statement is from.
        source: Section, theorem or figure of the work, as far as known; or what is derived.
        fast: Sizes that take a minute or two on two cores.
        full: Those of the work, or as near to them as is sensible; None where fast is all.
        full_data: Data sets that the full setting needs beyond the installed ones.
        caption: Of the figure: what is drawn, variant, batch, seeds, feedback, loss, epochs; names
            of sizes in braces, such as ``{seeds}``, stand for those of the run.
    """

    identity: ClassVar[str]
    statement: ClassVar[str]
    provenance: ClassVar[Provenance]
    source: ClassVar[str]
    fast: ClassVar[Setting]
    full: ClassVar[Setting | None] = None
    full_data: ClassVar[tuple[str, ...]] = ()
    caption: ClassVar[str]

    @abstractmethod
    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return the runs of a setting, each by other coordinates, all with the same keys."""

    @abstractmethod
    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Run one case and return its numbers.

        Everything that it draws follows from the case and the setting alone.
        """

    @abstractmethod
    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what came out of all cases, held against what must.

        Args:
            results: The cases' datasets along ``run``, with the cases' keys as coordinates.
            setting: As it was run.
        """

    @abstractmethod
    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the results into an empty figure."""
