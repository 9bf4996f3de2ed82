"""Convolutions that direct feedback hardly aligns are trained by it all the same (L7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots_by, level
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.launay2019._convolutions import CIFAR_MAPS, DIGITS_MAPS, sizes
from alignlab.experiments.launay2019._networks import drawn, pooled
from alignlab.experiments.launay2019._setting import earlier, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["FrozenConvolutions"]

_BODIES = ("trained", "frozen")


class FrozenConvolutions(Claim):
    """A convolutional network, and one whose convolutions stay as they were drawn."""

    identity: ClassVar[str] = "L7"
    statement: ClassVar[str] = (
        "Low alignment is not failure to train: convolutions that learn by direct feedback leave a "
        "much lower error after as many epochs than the same convolutions frozen at random, "
        "whatever their cosine."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "control for the claim on convolutions"
    fast: ClassVar[Setting] = DIGITS_MAPS
    full: ClassVar[Setting | None] = CIFAR_MAPS
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Test error of a convolutional network whose convolutions are trained by DFA, or frozen as "
        "they were drawn, below linear layers trained by DFA. Feedback enters behind every pooling "
        "and the hidden linear layer; one shared matrix, unit norm for each layer, tanh, "
        "cross-entropy, batch 128, plain descent whose hidden layers have the sum over the batch "
        "({data}, {kernel}x{kernel} convolutions of {maps} maps and {width} units, rate "
        "{learning_rate}, {epochs} epochs), {seeds} seeds with 95% intervals. Dashed: chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both bodies with every seed."""
        return crossed(convolutions=_BODIES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        data = images(setting["data"], work.device)
        network = drawn(lambda: pooled(sizes(setting)), seed=seed).to(work.device)
        body = [name for name, _ in network.named_parameters() if name.startswith("conv")]
        frozen = tuple(body) if case["convolutions"] == "frozen" else ()
        feedback = rule(setting, seed=seed)
        measured = trained(network, feedback, data, setting, work, seed=seed, frozen=frozen)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what training the convolutions is worth."""
        error = {body: over_seeds(results, "test_error", convolutions=body) for body in _BODIES}
        return [
            mean_check(
                "test error, frozen less trained, percentage points",
                error["frozen"] - error["trained"],
                least=8,
                stated=earlier(setting, "18.1 - 3.9; after 200 epochs 6.7 - 3.3"),
                chance="0 where feedback trains nothing",
            )
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the test errors."""
        axes = figure.subplots()
        dots_by(axes, results, "test_error", "convolutions")
        axes.set_ylim(bottom=0.0)
        level(axes, 90.0, "chance")
        axes.set_xlabel("convolutions")
        axes.set_ylabel("test error (%)")
