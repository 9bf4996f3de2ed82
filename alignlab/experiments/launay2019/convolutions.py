"""The first convolution is hardly aligned, where the first dense layer is (L6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.launay2019._convolutions import CIFAR_MAPS, DIGITS_MAPS, sizes
from alignlab.experiments.launay2019._drawing import layers_beside
from alignlab.experiments.launay2019._networks import dense, drawn, pooled
from alignlab.experiments.launay2019._points import PublishedHead
from alignlab.experiments.launay2019._setting import images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Convolutions"]

_CORRECTED, _PUBLISHED, _DENSE = "cnn", "cnn-published", "dense"
_KINDS = (_CORRECTED, _PUBLISHED, _DENSE)


class Convolutions(Claim):
    """A convolutional network, and a dense one whose layers are as large as the pooled maps."""

    identity: ClassVar[str] = "L6"
    statement: ClassVar[str] = (
        "Convolutional layers fail to align where dense ones do. Corrected protocol, with a "
        "feedback point behind every pooling and every hidden layer: it is the first convolution "
        "that fails, and the error hardly shows it. Published protocol: no point lies between the "
        "two linear layers, so that the hidden one learns by backpropagation and its cosine is 1."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = "abstract: bottlenecks and convolutions; sizes and points are ours"
    fast: ClassVar[Setting] = DIGITS_MAPS
    full: ClassVar[Setting | None] = CIFAR_MAPS
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries (of convolutions: of the "
        "pooled map), per sample and averaged over the first 128 test samples, and test error. DFA "
        "at every point (corrected), or without that between the linear layers (published), with "
        "one shared matrix, unit norm for each layer, tanh, cross-entropy, "
        "batch 128, plain descent whose hidden layers have the sum over the batch, evaluation "
        "mode (fast: digits, two 3x3 convolutions of 16 and 32 maps and 64 units, rate .005; "
        "dense 256, 128, 64, rate .002; 60 epochs; full: CIFAR-10, three 5x5 convolutions of 32, "
        "64, 64 maps and 128 units; dense with as many units as the pooled maps; rate .0005, 50 "
        "epochs), 3 seeds with 95% intervals. Grey: 95% of redrawn feedback, mean over networks."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both networks with every seed."""
        return crossed(kind=_KINDS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed = int(case["seed"])
        data, shape = images(setting["data"], work.device), sizes(setting)
        feedback = rule(setting, seed=seed)
        if case["kind"] == _PUBLISHED:
            feedback = PublishedHead(seed=feedback.seed, shared=True, scale=feedback.scale)
        if case["kind"] == _DENSE:
            network = drawn(lambda: dense(data.inputs, shape.entries), seed=seed)
            rate = setting["dense_rate"]
        else:
            network = drawn(lambda: pooled(shape), seed=seed)
            rate = setting["learning_rate"]
        network = network.to(work.device)
        measured = trained(network, feedback, data, setting, work, seed=seed, rate=rate)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return the cosines of both first layers, and their ratio."""
        del setting
        first = {kind: over_seeds(results, "cosine", layer="h1", kind=kind) for kind in _KINDS}
        chance = {
            kind: float(chosen(results, kind=kind)["null_sd"].sel(layer="h1").mean())
            for kind in _KINDS
        }
        return [
            mean_check(
                "cosine behind the first convolution",
                first[_CORRECTED],
                most=0.15,
                stated="ours earlier: .055",
                chance=f"0, deviation {chance[_CORRECTED]:.3f}",
            ),
            mean_check(
                "cosine behind the first dense layer",
                first[_DENSE],
                least=0.2,
                stated="ours earlier: .27 (.49 in three layers of 256)",
                chance=f"0, deviation {chance[_DENSE]:.3f}",
            ),
            mean_check(
                "the dense one's less twice the convolutional one's",
                first[_DENSE] - 2 * first[_CORRECTED],
                least=0,
                stated="ours earlier: .27 - 2 x .055",
            ),
            mean_check(
                "published points: cosine behind the hidden linear layer",
                over_seeds(
                    results, "cosine", layer=str(results["layer"].values[-1]), kind=_PUBLISHED
                ),
                near=(1.0, 1e-6),
                stated="none; the layer that no feedback enters at",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the test error beside."""
        layers_beside(figure, results, key="kind", values=_KINDS)
