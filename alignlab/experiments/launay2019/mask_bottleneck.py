"""Fewer trained weights in a layer of full width lower the alignment there alone (L2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, rises
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.launay2019._drawing import against
from alignlab.experiments.launay2019._mask import MaskedDFA
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._published import against_the_log
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, feedback_seed, images
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["MaskBottleneck"]


class MaskBottleneck(Claim):
    """The published mask on the second layer, with a feedback point at every layer."""

    identity: ClassVar[str] = "L2"
    statement: ClassVar[str] = (
        "Alignment at a bottleneck grows with every step of its width. The corrected protocol: "
        "the layer stays wide, a fixed mask keeps a share b/n of its weights in training, every "
        "hidden layer has its feedback point, and both gradients share one mode. Alignment falls "
        "at the masked layer; at the others it stays within .1."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "the mask, and that alignment grows with the width, are read in the code of the bottleneck "
        "experiment and in its log; feedback points are corrected, and what the other layers do "
        "is our finding; the log, one run a width, is of the published protocol"
    )
    fast: ClassVar[Setting] = {**DIGITS, "kept": (1, 4, 16, 64, 256)}
    full: ClassVar[Setting | None] = {**CIFAR, "kept": (1, 8, 28, 73, 191, 496, 800)}
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples, against the width b that a mask on the gradients of the "
        "second of three equal tanh layers stands for (a share b/n of its weights is trained). "
        "Corrected protocol: feedback enters at all three layers; evaluation mode. DFA with one "
        "shared matrix of unit norm, cross-entropy, batch 128, plain descent whose hidden layers "
        "have the sum over the batch ({data}, n = {widths[0]}, rate {learning_rate}, {epochs} "
        "epochs), {seeds} seeds with 95% intervals. Bands: 95% of redrawn feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every width of the mask with every seed."""
        return crossed(kept=setting["kept"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train under the mask, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        widths = setting["widths"]
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, widths), seed=seed).to(work.device)
        masked = MaskedDFA(
            seed=feedback_seed(seed),
            scale=float(setting["batch"]),
            shared=True,
            keep=float(case["kept"]) / widths[1],
            mask_seed=seed,
        )
        measured = trained(network, masked, data, setting, work, seed=seed)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return how alignment follows the mask at its layer, and how little at the others."""
        kept = setting["kept"]
        masked, below, above = (
            np.array([over_seeds(results, "cosine", layer=layer, kept=each) for each in kept])
            for layer in ("h2", "h1", "h3")
        )
        found = [
            rises(
                "cosine at the masked layer, h2, over " + ", ".join(map(str, kept)),
                masked,
                stated=earlier(setting, ".05, .15, .36, .54, .58 after 200 epochs"),
                chance="0 a step",
            ),
            _range_check("below, h1", below, stated=earlier(setting, ".48 to .52")),
            _range_check("above, h3", above, stated=earlier(setting, ".62 to .67")),
        ]
        if setting["data"] == "cifar10":
            return [*found, *against_the_log(results)]
        fall = mean_check(
            "cosine at h2, full width less one",
            masked[-1] - masked[0],
            least=0.4,
            stated=earlier(setting, ".58 - .05 after 200 epochs"),
            chance="0",
        )
        return [*found, fall]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the bottleneck figure."""
        axes = figure.subplots()
        kept = sorted({int(each) for each in results["kept"].values})
        against(axes, results, key="kept", values=kept, label="b: width that the mask stands for")
        legend_beside(axes, "entry at")


def _range_check(where: str, cosines: np.ndarray, *, stated: str) -> Check:
    """Return the check that the mean cosine varies little over the widths."""
    means = cosines.mean(1)
    return mean_check(
        f"range over widths of the mean cosine at the layer {where}",
        cosines[means.argmax()] - cosines[means.argmin()],
        most=0.1,
        stated=stated,
    )
