"""Batch norm behind the activations lowers the alignment, and the error too (L12)."""

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

__all__ = ["BatchNorm"]

_NORMS: Mapping[str, bool] = {"none": False, "after-activation": True}


class BatchNorm(Claim):
    """Networks with and without batch norm behind each activation, modes matched."""

    identity: ClassVar[str] = "L12"
    statement: ClassVar[str] = (
        "Batch norm is not free under direct feedback: also where both gradients share one mode "
        "the two lower layers are less aligned with it. In our measure the test error is lower all "
        "the same, so that the cosine alone does not tell what is learned."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "guideline 4; signs of our earlier measurement on the digits"
    fast: ClassVar[Setting] = DIGITS
    full: ClassVar[Setting | None] = CIFAR
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples of {data}, and test error, with and without batch norm "
        "between activation and entry. Both gradients in evaluation mode. Tanh layers of {widths} "
        "trained by DFA with one shared matrix of unit norm, cross-entropy, rate {learning_rate}, "
        "batch {batch}, plain descent whose hidden layers have the sum over the batch, {epochs} "
        "epochs, {seeds} seeds with 95% intervals. Grey: 95% of redrawn feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both networks with every seed."""
        return crossed(norm=_NORMS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed, normed = int(case["seed"]), _NORMS[str(case["norm"])]
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, setting["widths"], normed=normed), seed=seed)
        network = network.to(work.device)
        measured = trained(network, rule(setting, seed=seed), data, setting, work, seed=seed)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what batch norm takes from the cosines and from the test error."""
        plain, normed = _NORMS
        stated = {"h1": ".49 - .13", "h2": ".59 - .29"}
        found = [
            mean_check(
                f"cosine at {layer}, without less with batch norm",
                over_seeds(results, "cosine", layer=layer, norm=plain)
                - over_seeds(results, "cosine", layer=layer, norm=normed),
                above=0.0,
                stated=earlier(setting, f"{gap} after 100 to 200 epochs"),
            )
            for layer, gap in stated.items()
        ]
        error = {name: over_seeds(results, "test_error", norm=name) for name in _NORMS}
        found.append(
            mean_check(
                "test error, without less with batch norm, percentage points",
                error[plain] - error[normed],
                above=0.0,
                stated=earlier(setting, "3.0 - 1.6"),
            )
        )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the test error beside."""
        layers_beside(figure, results, key="norm", values=list(_NORMS))
