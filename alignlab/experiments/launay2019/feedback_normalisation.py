"""Feedback of unit norm aligns the lower layers better, at much the same error (L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.launay2019._drawing import layers_beside
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["FeedbackNormalisation"]

_NORMALISATIONS: Mapping[str, str] = {"unit-norm": "layer", "normal": "none"}


class FeedbackNormalisation(Claim):
    """A network trained with feedback of unit norm, and one with feedback as it is drawn."""

    identity: ClassVar[str] = "L1"
    statement: ClassVar[str] = (
        "Feedback should be normalised, to unit Frobenius norm of each layer's matrix: with "
        "entries N(0, 1) the two lower hidden layers lose alignment. The test error is at most 1.5 "
        "percentage points higher, so that it hardly tells."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "guideline 1; the normalisation itself is read in its code; bounds are ours"
    )
    fast: ClassVar[Setting] = DIGITS
    full: ClassVar[Setting | None] = CIFAR
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples, after training three tanh layers by DFA with one shared "
        "matrix, cross-entropy, batch 128, plain descent whose hidden layers have the sum over the "
        "batch ({data}, widths {widths}, rate {learning_rate}, {epochs} epochs), evaluation mode, "
        "{seeds} seeds with 95% intervals. Grey: 95% of redrawn feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both kinds of feedback with every seed."""
        return crossed(feedback=_NORMALISATIONS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, setting["widths"]), seed=seed).to(work.device)
        feedback = rule(setting, seed=seed, normalisation=_NORMALISATIONS[str(case["feedback"])])
        measured = trained(network, feedback, data, setting, work, seed=seed)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what is lost without normalisation, of alignment and of accuracy."""
        unit, plain = (_lower(results, name) for name in _NORMALISATIONS)
        error = {name: over_seeds(results, "test_error", feedback=name) for name in _NORMALISATIONS}
        gap = error["normal"] - error["unit-norm"]
        return [
            mean_check(
                "mean cosine of h1 and h2, unit norm less N(0, 1)",
                unit - plain,
                least=0.25,
                stated=earlier(setting, ".54 - .13 after 200 epochs"),
                chance="0",
            ),
            mean_check(
                "test error, N(0, 1) less unit norm, percentage points",
                gap,
                most=1.5,
                stated=earlier(setting, "2.4 - 2.5 after 200 epochs"),
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the test error beside."""
        layers_beside(figure, results, key="feedback", values=list(_NORMALISATIONS))


def _lower(results: xr.Dataset, name: str) -> np.ndarray:
    """Return the mean cosine of the two lower hidden layers of every seed."""
    layers = [over_seeds(results, "cosine", layer=layer, feedback=name) for layer in ("h1", "h2")]
    return np.asarray(np.mean(layers, axis=0))
