"""A recurrent network learns an Add task of past inputs alone by Align rules (A5b)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from alignlab.experiments._base import Provenance, Setting
from alignlab.experiments.boopathy2022._add_task import CAPTION, FULL, SIZES, Additions

__all__ = ["CausalAddTask"]


class CausalAddTask(Additions):
    """The task with zeros before the first step, so that every target can be known."""

    identity: ClassVar[str] = "A5b"
    statement: ClassVar[str] = (
        "On an Add task of which all targets follow from past inputs, too, Align-zero and "
        "Align-ada reach a test loss at most a quarter above that of backpropagation through time "
        "and at least a quarter below that of the readout alone."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "Add task of the published code with its targets corrected and, where the code trains a "
        "first state for each row of a batch, a first state of zero; bounds are those of the "
        "published targets (A5), whose loss holds a part that no network can learn"
    )
    is_published: ClassVar[bool] = False
    fast: ClassVar[Setting] = {"units": (128,), **SIZES}
    full: ClassVar[Setting | None] = FULL
    stated: ClassVar[Mapping[int, Mapping[str, str]]] = {}
    caption: ClassVar[str] = (
        CAPTION + "What lies before the first step is zero. Dotted: "
        "loss of one half; dashed: of the best constant. Of a run that diverges the epochs "
        "before count."
    )
