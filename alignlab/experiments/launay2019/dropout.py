"""Much dropout lowers the alignment of the lower layers and slows training (L11)."""

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

__all__ = ["DropoutShare"]

_SHARES: Mapping[str, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "0.1": (0.1, 0.1),
    "0.5": (0.1, 0.5),
}
"""Of the inputs and of the units, by that of the units."""


class DropoutShare(Claim):
    """Networks without dropout, with little and with much, measured under shared masks."""

    identity: ClassVar[str] = "L11"
    statement: ClassVar[str] = (
        "Dropout should be low under direct feedback, .1 of the units rather than .5. In our "
        "measure, with masks that rule and reference share, much dropout lowers the cosine of the "
        "two lower layers and raises that of the top one, and leaves a higher training error."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "guideline 3; signs of our earlier measurement on the digits; shares as in its code"
    )
    fast: ClassVar[Setting] = DIGITS
    full: ClassVar[Setting | None] = CIFAR
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples of {data}, and training error, for shares of inputs and "
        "hidden units that are dropped. Training mode, one mask for both gradients; errors in "
        "evaluation mode. Tanh layers of {widths} trained by DFA with one shared matrix of unit "
        "norm, cross-entropy, rate {learning_rate}, batch {batch}, plain descent whose hidden "
        "layers have the sum over the batch, {epochs} epochs, {seeds} seeds with 95% intervals. "
        "Grey: 95% of redrawn feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every share with every seed."""
        return crossed(dropped=_SHARES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed, shares = int(case["seed"]), _SHARES[str(case["dropped"])]
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, setting["widths"], dropout=shares), seed=seed)
        network = network.to(work.device)
        measured = trained(network, rule(setting, seed=seed), data, setting, work, seed=seed)
        found = alignment(network, measured, data, mode="training")
        return found.assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what .5 changes against .1 and against none, of cosines and training error."""
        none, little, much = _SHARES
        rows = [
            ("h1", little, ".49 - .45"),
            ("h2", little, ".59 - .55"),
            ("h1", none, ".48 - .45"),
            ("h2", none, ".58 - .55"),
        ]
        found = [
            mean_check(
                f"cosine at {layer}, {less} less {much} of the units dropped",
                over_seeds(results, "cosine", layer=layer, dropped=less)
                - over_seeds(results, "cosine", layer=layer, dropped=much),
                above=0.0,
                stated=earlier(setting, f"{gap} after 100 to 200 epochs"),
            )
            for layer, less, gap in rows
        ]
        found.append(
            mean_check(
                "cosine at h3, .5 less .1 of the units dropped",
                over_seeds(results, "cosine", layer="h3", dropped=much)
                - over_seeds(results, "cosine", layer="h3", dropped=little),
                above=0.0,
                stated=earlier(setting, ".70 - .61 after 100 to 200 epochs"),
            )
        )
        gap = over_seeds(results, "train_error", dropped=much) - over_seeds(
            results, "train_error", dropped=little
        )
        found.append(
            mean_check(
                "training error, .5 less .1 of the units dropped, percentage points",
                gap,
                above=0.0,
                stated=earlier(setting, "1.7 - .8"),
            )
        )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the training error beside."""
        layers_beside(figure, results, key="dropped", values=list(_SHARES), error="training")
