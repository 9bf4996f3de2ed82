"""The published log has the trace of its two masks: h1 falls in proportion to the width (L5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.launay2019._drawing import against
from alignlab.experiments.launay2019._published import LOGS, WIDTHS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PublishedTable"]

_TOLERANCE = 0.011
_STATED = {"standard": ".008", "pre-alignment": ".010"}


class PublishedTable(Claim):
    """The law of the masks on the numbers of the log, without any training of ours."""

    identity: ClassVar[str] = "L5"
    statement: ClassVar[str] = (
        "In the log that lies beside the code the cosine at the first layer is b/800 of its value "
        "at full width, at all 14 widths and for both initialisations: what two independent masks "
        "give. The growth of the cosine there says nothing of bottlenecks."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = "log of the bottleneck experiment; the law is our derivation"
    fast: ClassVar[Setting] = {}
    caption: ClassVar[str] = (
        "Cosines that the log beside the work's code has: 3072-800-800-800-10 tanh network on "
        "CIFAR-10, DFA under a gradient mask on the second layer, epoch 50, mean over 128 test "
        "samples, one run a width, published protocol, standard initialisation left and "
        "pre-alignment right. Dashed: b/800 of the value of h1 at full width."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both initialisations."""
        del setting
        return [{"log": name} for name in LOGS]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the numbers of one log, and what is left of them beside the law."""
        del setting, work
        log = LOGS[str(case["log"])]
        layers = ["h1", "h2", "h3"]
        cosines = np.array([log[layer] for layer in layers]).T
        law = np.array(WIDTHS) / WIDTHS[-1] * log["h1"][-1]
        return xr.Dataset(
            {
                "cosine": (("width", "layer"), cosines),
                "deviation": ("width", np.abs(cosines[:, 0] - law)),
                "test_accuracy": ("width", np.array(log["test"])),
            },
            {"width": list(WIDTHS), "layer": layers},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return the largest deviation from the law."""
        del setting
        found = []
        for name in LOGS:
            largest = float(chosen(results, log=name)["deviation"].max())
            found.append(
                Check(
                    f"largest deviation of h1 from b/800 of its value at 800, {name}",
                    largest,
                    f"<= {_TOLERANCE}",
                    largest <= _TOLERANCE,
                    stated=f"ours earlier: {_STATED[name]}",
                )
            )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw both logs."""
        panels = figure.subplots(1, len(LOGS), sharey=True)
        for axes, name in zip(panels, LOGS, strict=True):
            one = chosen(results, log=name)
            points = one.isel(run=0).rename(width="run")
            against(axes, points, key="run", values=list(WIDTHS), label="b", band=False)
            whole = float(one["cosine"].isel(run=0, width=-1, layer=0))
            law = [whole * width / WIDTHS[-1] for width in WIDTHS]
            axes.plot(WIDTHS, law, "--", color="0.2", label="h1, law b/800")
            axes.set_title(name)
            axes.set_xticks([1, 8, 46, 191, 800], ["1", "8", "46", "191", "800"])
        legend_beside(panels[-1], "entry at")
