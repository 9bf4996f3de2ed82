"""A recurrent network learns the Add task of the published code by Align rules (A5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from alignlab.experiments._base import Provenance, Setting
from alignlab.experiments.boopathy2022._add_task import CAPTION, FULL, SIZES, Additions

__all__ = ["AddTask"]


class AddTask(Additions):
    """The task as published, where the first targets depend on what is still to come."""

    identity: ClassVar[str] = "A5"
    statement: ClassVar[str] = (
        "Recurrent networks learn the Add task by Align-zero and, with the corrected credit, by "
        "Align-ada, to a test loss at most a quarter above that of backpropagation through time "
        "and at least a quarter below that of their readout alone."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "Add task: that it is learned nearly as by backpropagation is recalled, in numbers the "
        "bounds are ours; network, loss and targets as in its code, but for the first state, "
        "which is zero where the code trains one for each row of a batch, and for the missing "
        "credit of Align-ada; fast has a fifth of its steps, ten times its rate, half its epochs"
    )
    is_published: ClassVar[bool] = True
    fast: ClassVar[Setting] = {"units": (32, 128), **SIZES}
    full: ClassVar[Setting | None] = FULL
    stated: ClassVar[Mapping[int, Mapping[str, str]]] = {
        128: {
            "bp": ".28 to .36",
            "align-ada": ".31 to .37",
            "align-zero": ".36 to .44",
            "last": ".54 to .75",
        },
        32: {
            "bp": ".37 to .44",
            "align-ada": ".42 to .44",
            "align-zero": ".49 to .67",
            "last": ".55 to .95",
        },
    }
    caption: ClassVar[str] = (
        CAPTION + "Targets of the published code, where the end of a sequence stands before its "
        "start and the first sequences are zeroed. Dotted: loss of "
        "one half; dashed: of the best constant; dash-dotted: of all that the inputs so far tell "
        "of a sequence, which no network can better but by chance. Of a run that diverges the "
        "epochs before count."
    )
