"""The published Align-ada leaves a state without the credit of its own output (A6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import xarray as xr

from alignlab.engine.capture import Capture
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots, level
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.boopathy2022._recurrent import Recurrent, additions, summed_error
from alignlab.kernels.cosines import cosine
from alignlab.rules import AlignAda, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RecurrentCredit"]

CREDITS = ("published", "corrected")
PARAMETERS = {
    "into.parametrizations.weight.original": "input weight",
    "again.parametrizations.weight.original": "recurrent weight",
    "into.bias": "bias",
}
STATED = ("0.54", "0.52", "0.51")


class RecurrentCredit(Claim):
    """First updates of both credits against backpropagation through time."""

    identity: ClassVar[str] = "A6"
    statement: ClassVar[str] = (
        "The recurrent Align-ada of the published code misses the credit of each step's own "
        "output: its first update is only half aligned with backpropagation through time, which "
        "it equals once that term is added."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = "recurrent network of the Add task; what follows is our derivation"
    fast: ClassVar[Setting] = {"units": 128, "steps": 20, "samples": 50, "seeds": 5}
    full: ClassVar[Setting | None] = {"units": 1024, "steps": 100, "samples": 50, "seeds": 5}
    caption: ClassVar[str] = (
        "Cosine of Align-ada's first update with backpropagation through time, by parameter; mean "
        "over seeds with 95% interval and single runs. ReLU units in the NTK parametrisation, "
        "{units} of them, {samples} sequences of the Add task of {steps} steps, squared error "
        "summed over steps, {seeds} seeds."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one network a seed and credit."""
        return crossed(credit=CREDITS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Take the first update and its cosines with the gradient."""
        del work
        seed = int(case["seed"])
        model = Recurrent(setting["units"], seed=seed)
        x, y = additions(setting["samples"], steps=setting["steps"], seed=100 + seed)
        capture = Capture(model, summed_error, x, y)
        true, rule = capture.reference(parameters=True), AlignAda(credit=str(case["credit"]))
        state = rule.start(capture, seed=0)
        found = rule.updates(Task(capture, true), state).parameters
        values = [
            float(cosine(found[name].flatten(), true.parameters[name].flatten()))
            for name in PARAMETERS
        ]
        capture.close()
        return xr.Dataset(
            {"cosine": ("parameter", values)}, {"parameter": list(PARAMETERS.values())}
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the published credit to a half, and the corrected one to 1."""
        published, corrected = (over_seeds(results, "cosine", credit=one) for one in CREDITS)
        found = []
        for place, name in enumerate(PARAMETERS.values()):
            what = f"cosine of the first update with the gradient, {name}"
            stated = f"ours earlier: {STATED[place]}" if setting["steps"] == 20 else ""
            values = published[:, place]
            found.append(
                mean_check(f"{what}, published credit", values, least=0.3, most=0.8, stated=stated)
            )
            found.append(mean_check(f"{what}, corrected", corrected[:, place], least=0.999))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the cosine of each parameter, by credit."""
        panels = figure.subplots(1, 2, sharey=True)
        for axes, credit in zip(panels, CREDITS, strict=True):
            values = over_seeds(results, "cosine", credit=credit)
            dots(axes, dict(zip(PARAMETERS.values(), values.T, strict=True)))
            axes.set_title(f"{credit} credit")
            level(axes, 1.0, "backpropagation")
            axes.set_ylim(0, 1.05)
        panels[0].set_ylabel("cosine of the first update (1)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right")
