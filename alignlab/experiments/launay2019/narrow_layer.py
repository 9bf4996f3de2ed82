"""A truly narrow layer keeps its own alignment and starves its neighbours (L3)."""

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
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["NarrowLayer"]


class NarrowLayer(Claim):
    """The bottleneck that the words describe: a second layer of b units."""

    identity: ClassVar[str] = "L3"
    statement: ClassVar[str] = (
        "In a layer that is truly narrow alignment at the layer itself does not fall; the layers "
        "below and above it lose theirs. The signal of the layer below comes through b units and "
        "can match b directions of the error at most, and the layer above learns from b features. "
        "What the words of the work would have, which its experiment does not test."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "corrected reading of the bottleneck experiment"
    fast: ClassVar[Setting] = {**DIGITS, "narrow": (1, 2, 4, 8, 16, 64, 256), "epochs": 80}
    full: ClassVar[Setting | None] = {**CIFAR, "narrow": (1, 2, 4, 8, 16, 64, 256, 800)}
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples, and test error, against the number of units b of the "
        "second of three tanh layers. Feedback enters at all three; evaluation mode. DFA with one "
        "shared matrix, unit norm for each layer, cross-entropy, batch 128, plain descent whose "
        "hidden layers have the sum over the batch (fast: digits, other layers 256, rate .005, 80 "
        "epochs; full: CIFAR-10, 800, rate .0005, 50 epochs), 3 seeds with 95% intervals. Bands: "
        "95% of redrawn feedback; with few units that of the narrow layer itself spans all."
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
        kept = [place for place, each in enumerate(widths) if each >= 4]
        lowest = min(kept, key=lambda place: float(cosines["h2"][place].mean()))
        error = {each: over_seeds(results, "test_error", narrow=each) for each in widths}
        spread = float(chosen(results, narrow=4)["null_sd"].sel(layer="h2").mean())
        return [
            rises(
                "cosine below the narrow layer, h1, over " + ", ".join(map(str, widths)),
                cosines["h1"],
                stated="ours earlier: .04, .06, .10, .18, .27, .41, .48 after 200 epochs",
                chance="0 a step",
            ),
            rises(
                "cosine above it, h3, up to 16 units",
                cosines["h3"][few],
                stated="ours earlier: .05, .18, .31, .48, .60",
                chance="0 a step",
            ),
            mean_check(
                f"cosine at the narrow layer, h2, lowest from 4 units on (at {widths[lowest]})",
                cosines["h2"][lowest],
                least=0.6,
                stated="ours earlier: .75, .74, .74, .71, .58 at 4, 8, 16, 64, 256",
                chance=f"0, deviation {spread:.2f} at 4 units",
            ),
            mean_check(
                "test error, 2 units less 16, percentage points",
                error[2] - error[16],
                least=15,
                stated="ours earlier: 28 - 3.2",
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
