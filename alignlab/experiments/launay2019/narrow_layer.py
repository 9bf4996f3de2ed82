"""A truly narrow layer keeps its own alignment, and its neighbours lose theirs (L3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, rises
from alignlab.experiments._drawing import level, whiskers
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.launay2019._drawing import against
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["NarrowLayer"]

_STATED = {4: ".75", 8: ".74", 16: ".74", 64: ".71", 256: ".58"}
"""Cosines at the layer itself after 200 epochs."""


class NarrowLayer(Claim):
    """The bottleneck that the words describe: a second layer of b units."""

    identity: ClassVar[str] = "L3"
    statement: ClassVar[str] = (
        "In a layer that is truly narrow, of 4 units or more, alignment at the layer itself is no "
        "lower than at full width; the layer below loses its own with every step, that above it "
        "below 16 units. What the words of the work would have, which its experiment does not test."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "corrected reading of the bottleneck experiment: signals to the layer below come through b "
        "units, and the layer above learns from b features"
    )
    fast: ClassVar[Setting] = {**DIGITS, "narrow": (1, 2, 4, 8, 16, 64, 256), "epochs": 80}
    full: ClassVar[Setting | None] = {**CIFAR, "narrow": (1, 2, 4, 8, 16, 64, 256, 800)}
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples, and test error, against the number of units b of the "
        "second of three tanh layers. Feedback enters at all three; evaluation mode. DFA with one "
        "shared matrix, unit norm for each layer, cross-entropy, batch 128, plain descent whose "
        "hidden layers have the sum over the batch ({data}, other layers {widths[0]}, rate "
        "{learning_rate}, {epochs} epochs), {seeds} seeds with 95% intervals. "
        "Bands: 95% of redrawn feedback; with few units that of the narrow layer itself spans all."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every width with every seed."""
        return crossed(narrow=setting["narrow"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        below, _, above = setting["widths"]
        widths = (below, int(case["narrow"]), above)
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, widths), seed=seed).to(work.device)
        measured = trained(network, rule(setting, seed=seed), data, setting, work, seed=seed)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what the neighbours lose, what the layer keeps, and what that costs."""
        widths = setting["narrow"]
        cosines = {
            layer: np.array(
                [over_seeds(results, "cosine", layer=layer, narrow=each) for each in widths]
            )
            for layer in ("h1", "h2", "h3")
        }
        few = [place for place, each in enumerate(widths) if each <= 16]
        own = dict(zip(widths, cosines["h2"], strict=True))
        kept = [each for each in widths if 4 <= each < max(widths)]
        lowest = min(kept, key=lambda each: float(own[each].mean()))
        error = {each: over_seeds(results, "test_error", narrow=each) for each in widths}
        spread = float(chosen(results, narrow=4)["null_sd"].sel(layer="h2").mean())
        return [
            rises(
                "cosine below the narrow layer, h1, over " + ", ".join(map(str, widths)),
                cosines["h1"],
                stated=earlier(setting, ".04, .06, .10, .18, .27, .41, .48 after 200 epochs"),
                chance="0 a step",
            ),
            rises(
                "cosine above it, h3, up to 16 units",
                cosines["h3"][few],
                stated=earlier(setting, ".05, .18, .31, .48, .60 after 200 epochs"),
                chance="0 a step",
            ),
            mean_check(
                f"cosine at the narrow layer, h2, less that at {max(widths)} units, lowest from 4 "
                f"units on (at {lowest})",
                own[lowest] - own[max(widths)],
                least=0.0,
                stated=earlier(setting, ".71 - .58 at 64 after 200 epochs"),
                chance=f"cosines themselves 0, deviation {spread:.2f} at 4 units",
            ),
            mean_check(
                "test error, 2 units less 16, percentage points",
                error[2] - error[16],
                least=15,
                stated=earlier(setting, "28 - 3.2 after 200 epochs"),
                chance="0",
            ),
            *(
                mean_check(
                    f"cosine at the narrow layer, h2, with {each} units",
                    own[each],
                    stated=earlier(setting, _STATED[each]) if each in _STATED else "",
                    chance="0",
                )
                for each in (*kept, max(widths))
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines and test error against the width."""
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        widths = sorted({int(each) for each in results["narrow"].values})
        against(left, results, key="narrow", values=widths, label="b: units of the second layer")
        left.set_ylim(-1.0, 1.0)
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        errors = [over_seeds(results, "test_error", narrow=each) for each in widths]
        whiskers(right, widths, np.stack(errors, axis=1), "", color="0.3")
        level(right, 90.0, "chance")
        right.annotate("chance", (widths[-1], 90.0), ha="right", va="bottom")
        right.set_xscale("log", base=2)
        right.set_xticks(widths, [str(width) for width in widths])
        right.minorticks_off()
        right.set_xlabel("b: units of the second layer")
        right.set_ylabel("test error (%)")
