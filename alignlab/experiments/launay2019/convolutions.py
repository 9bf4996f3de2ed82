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
from alignlab.experiments.launay2019._setting import earlier, images, rule
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
        "The first convolution of a network fails to align where the first of as large dense "
        "layers does: in the corrected protocol, with a feedback point behind every pooling and "
        "every hidden layer, and in the published one, where no point lies between the two linear "
        "layers, so that the hidden one learns by backpropagation."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "the abstract has the hypothesis that what prevents alignment in narrow layers may keep "
        "feedback from large convolutional networks; published points, and sizes on CIFAR-10, are "
        "as in its code; that the first convolution fails, digits and bounds are ours"
    )
    fast: ClassVar[Setting] = DIGITS_MAPS
    full: ClassVar[Setting | None] = CIFAR_MAPS
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries (of convolutions: of the "
        "pooled map), per sample and averaged over the first 128 test samples, and test error. DFA "
        "at every point (corrected), or without that between the linear layers (published), with "
        "one shared matrix, unit norm for each layer, tanh, cross-entropy, batch 128, plain "
        "descent whose hidden layers have the sum over the batch, evaluation mode ({data}, "
        "{kernel}x{kernel} convolutions of {maps} maps and {width} units, rate {learning_rate}; "
        "dense with as many units as the pooled maps, rate {dense_rate}; {epochs} epochs), {seeds} "
        "seeds with 95% intervals. Grey: 95% of redrawn feedback, mean over networks."
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
        """Return the cosines of the first layers, and those of the layers above."""
        first = {kind: over_seeds(results, "cosine", layer="h1", kind=kind) for kind in _KINDS}
        chance = {
            kind: float(chosen(results, kind=kind)["null_sd"].sel(layer="h1").mean())
            for kind in _KINDS
        }
        upper = results["layer"].values[1:]
        without = (_PUBLISHED, upper[-1])
        return [
            mean_check(
                "cosine behind the first convolution",
                first[_CORRECTED],
                most=0.15,
                stated=earlier(setting, ".055"),
                chance=f"0, deviation {chance[_CORRECTED]:.3f}",
            ),
            mean_check(
                "published points: cosine behind the first convolution",
                first[_PUBLISHED],
                most=0.15,
                chance=f"0, deviation {chance[_PUBLISHED]:.3f}",
            ),
            mean_check(
                "cosine behind the first dense layer",
                first[_DENSE],
                least=0.2,
                stated=earlier(setting, ".27 (.49 in three layers of 256)"),
                chance=f"0, deviation {chance[_DENSE]:.3f}",
            ),
            mean_check(
                "the dense one's less twice the convolutional one's",
                first[_DENSE] - 2 * first[_CORRECTED],
                least=0,
                stated=earlier(setting, ".27 - 2 x .055"),
                chance=f"{-first[_DENSE].mean():.2f} if both were alike",
            ),
            *(
                mean_check(
                    f"{points}: cosine at {layer}",
                    over_seeds(results, "cosine", layer=str(layer), kind=kind),
                    chance="1, no feedback enters" if (kind, layer) == without else "0",
                )
                for kind, points in (
                    (_CORRECTED, "corrected points"),
                    (_PUBLISHED, "published points"),
                )
                for layer in upper
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, and the test error beside."""
        layers_beside(figure, results, key="kind", values=_KINDS)
