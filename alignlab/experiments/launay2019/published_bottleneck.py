"""The bottleneck as its code runs it: alignment below falls in proportion to the mask (L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.launay2019._drawing import against
from alignlab.experiments.launay2019._mask import PublishedBottleneck
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._published import against_the_log
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, feedback_seed, images
from alignlab.experiments.launay2019._training import (
    alignment,
    errors,
    mean_cosine,
    signals,
    trained,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["PublishedBottleneckLaw"]

_FROM = 1 / 8
"""Share of the width from which the law is checked: below, hardly an entry passes both masks."""

_TWIN_SEED = 4000


class PublishedBottleneckLaw(Claim):
    """The published protocol, without the feedback point that it misses, and with two masks."""

    identity: ClassVar[str] = "L4"
    statement: ClassVar[str] = (
        "The published protocol: the layer is never narrow, a fixed mask on its gradients keeps a "
        "share b/n, no feedback enters below it, so that the first layer learns by backpropagation "
        "through it, and the reference has a mask of its own. The cosine at the first layer is "
        "then b/n of its value without mask from n/8 on: an artefact of the two masks. At the "
        "masked layer it falls as in the log of the work."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = (
        "protocol of the bottleneck experiment, and its log of one run a width, to which CIFAR-10 "
        "is held within tolerances of ours; the law is our derivation, digits are ours"
    )
    fast: ClassVar[Setting] = {**DIGITS, "kept": (1, 8, 32, 64, 128, 256), "epochs": 60}
    full: ClassVar[Setting | None] = {**CIFAR, "kept": (1, 8, 28, 118, 191, 308, 496, 800)}
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of the rule with backpropagation at the entries, per sample and averaged over the "
        "first 128 test samples, against the width b that the published mask on the second of "
        "three equal tanh layers stands for. Published protocol: no feedback enters at h1, whose "
        "signal is backpropagated through the masked layer, and the reference bears masks drawn "
        "for itself; both in evaluation mode (there is neither dropout nor batch norm). Dashed: "
        "b/n of the value at full width. One shared matrix of unit norm, cross-entropy, batch 128, "
        "plain descent whose hidden layers have the sum over the batch ({data}, n = "
        "{widths[0]}, rate {learning_rate}, {epochs} epochs), {seeds} seeds with 95% intervals. "
        "Bands: 95% of redrawn feedback, at the layers that it enters."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every width of the mask with every seed."""
        return crossed(kept=setting["kept"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train under the published masks, and measure as published."""
        seed = int(case["seed"])
        widths = setting["widths"]
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, widths), seed=seed).to(work.device)
        published = PublishedBottleneck(
            seed=feedback_seed(seed),
            scale=float(setting["batch"]),
            shared=True,
            keep=float(case["kept"]) / widths[1],
            mask_seed=seed,
        )
        measured = trained(network, published, data, setting, work, seed=seed)
        ours, true = signals(network, published, measured.feedback, data, mode="evaluation")
        twin = published.twin_signals(true, seed=_TWIN_SEED + seed)
        cosines = np.array([mean_cosine(ours[name], twin[name]) for name in ours])
        found = alignment(network, measured, data)
        deviations = found["null_sd"].where(found["layer"] != "h1")
        found = found.drop_vars("spread").assign(cosine=("layer", cosines), null_sd=deviations)
        return found.assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return the share that is left at the first layer, and what the log has beside."""
        full = setting["kept"][-1]
        whole = over_seeds(results, "cosine", layer="h1", kept=full)
        found = []
        for kept in setting["kept"][:-1]:
            share = kept / full
            if share < _FROM:
                continue
            found.append(
                mean_check(
                    f"cosine at h1 with {kept} of {full}, over that without mask",
                    over_seeds(results, "cosine", layer="h1", kept=kept) / whole,
                    near=(share, 0.03),
                    stated=earlier(setting, ".51, .25, .13 at 1/2, 1/4, 1/8 after 200 epochs"),
                    chance="0",
                )
            )
        if setting["data"] == "cifar10":
            return [*found, *against_the_log(results)]
        masked = [
            over_seeds(results, "cosine", layer="h2", kept=each)
            for each in (setting["kept"][0], full)
        ]
        found.append(
            mean_check(
                "cosine at the masked layer, h2, full width less one",
                masked[1] - masked[0],
                least=0.4,
                stated=earlier(setting, ".58 - .04 after 200 epochs"),
                chance="0",
            )
        )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the bottleneck figure as published, with the first layer and its law."""
        axes = figure.subplots()
        kept = sorted({int(each) for each in results["kept"].values})
        against(axes, results, key="kept", values=kept, label="b: width that the mask stands for")
        whole = float(over_seeds(results, "cosine", layer="h1", kept=kept[-1]).mean())
        law = [whole * each / kept[-1] for each in kept]
        axes.plot(kept, law, "--", color="0.2", label="h1, law b/n")
        legend_beside(axes, "entry at")
