"""One random matrix, sliced, serves all layers as well as one for each (L9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

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

__all__ = ["SharedFeedback"]

_FEEDBACK: Mapping[str, bool] = {"shared": True, "independent": False}
_STATED = {"h1": ".49 - .48", "h2": ".59 - .58", "h3": ".63 - .63"}


class SharedFeedback(Claim):
    """A network with one feedback matrix for all layers, and one with independent matrices."""

    identity: ClassVar[str] = "L9"
    statement: ClassVar[str] = (
        "One random matrix, of which every layer takes a slice, is enough: layers of equal width, "
        "whose feedback is then identical, align as with a matrix for each."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "guideline 5; the shared matrix itself is read in its code"
    fast: ClassVar[Setting] = DIGITS
    full: ClassVar[Setting | None] = CIFAR
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples, and test error, of three tanh layers of one width "
        "trained by DFA with feedback of unit norm, cross-entropy, batch 128, plain descent whose "
        "hidden layers have the sum over the batch ({data}, widths {widths}, rate {learning_rate}, "
        "{epochs} epochs), evaluation mode, {seeds} seeds with 95% intervals. Grey: 95% of redrawn "
        "feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both kinds of feedback with every seed."""
        return crossed(matrix=_FEEDBACK, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, setting["widths"]), seed=seed).to(work.device)
        feedback = rule(setting, seed=seed, shared=_FEEDBACK[str(case["matrix"])])
        measured = trained(network, feedback, data, setting, work, seed=seed)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return how far apart the cosines of every layer are."""
        found = []
        for layer, stated in _STATED.items():
            shared, own = (
                over_seeds(results, "cosine", layer=layer, matrix=name) for name in _FEEDBACK
            )
            deviation = float(results["null_sd"].sel(layer=layer).mean())
            found.append(
                mean_check(
                    f"cosine at {layer}, shared less independent",
                    shared - own,
                    near=(0.0, 0.06),
                    stated=earlier(setting, f"{stated} after 100 to 200 epochs"),
                    chance=f"cosines themselves 0, deviation {deviation:.3f}",
                )
            )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the test error beside."""
        layers_beside(figure, results, key="matrix", values=list(_FEEDBACK))
