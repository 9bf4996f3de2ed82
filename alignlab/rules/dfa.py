"""Direct feedback alignment."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from alignlab.feedback import DISTRIBUTIONS, generator, unit_draw
from alignlab.rules._base import DirectRule, check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from alignlab.sites import Layer

__all__ = ["DFA"]

NORMALISATIONS = ("layer", "fan-out", "none")
GRANULARITIES = ("micro", "macro")
STRUCTURES = ("dense", "channel")


@dataclass(frozen=True)
class DFA(DirectRule):
    r"""Direct feedback alignment: :math:`\hat\delta_l = B_l e` enters at every layer.

    The error e = dL/da at the output reaches the entry of each layer through a fixed
    random matrix; from there the exact local backward map carries it to the
    pre-activation. Source: Nøkland 2016, arXiv 1609.01596; normalisations as in its code
    (``fan-out``) and in that of Launay, Poli & Krzakala 2019 (``layer``).

    Attributes:
        seed: Seed of the feedback.
        distribution: ``normal``, ``uniform``, ``orthogonal`` or ``sign``.
        scale: Factor on every entry.
        normalisation: Variance of an entry: ``layer`` 1/(n C), so that each matrix has
            unit Frobenius norm; ``fan-out`` 1/(3 n), that of U(-1/sqrt n, 1/sqrt n);
            ``none`` 1.
        shared: One matrix for all layers, of which each takes the first columns.
        granularity: ``micro`` injects at every layer; ``macro`` once per block (layers of
            one parent module), with backpropagation inside the block.
        structure: ``dense``, or ``channel``: one value per channel, the same at all
            positions of a feature map.
    """

    name: ClassVar[str] = "dfa"
    seed: int = 0
    distribution: str = "normal"
    scale: float = 1.0
    normalisation: str = "layer"
    shared: bool = False
    granularity: str = "micro"
    structure: str = "dense"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_choice("normalisation", self.normalisation, NORMALISATIONS)
        check_choice("granularity", self.granularity, GRANULARITIES)
        check_choice("structure", self.structure, STRUCTURES)

    def draw(self, layers: Sequence[Layer], n_errors: int, *, seed: int) -> Mapping[str, Tensor]:
        """Draw one matrix per layer, or one for all; see the base class."""
        shapes = {layer.name: self._shape(layer) for layer in layers}
        if self.shared:
            widest = max(prod(shape) for shape in shapes.values())
            stream = generator(seed, "dfa", "shared")
            full = unit_draw((n_errors, widest), self.distribution, stream=stream)
            drawn = {name: full[:, : prod(shape)] for name, shape in shapes.items()}
        else:
            drawn = {
                name: unit_draw(
                    (n_errors, prod(shape)),
                    self.distribution,
                    stream=generator(seed, "dfa", name),
                )
                for name, shape in shapes.items()
            }
        return {
            layer.name: (drawn[layer.name] * self._factor(shapes[layer.name], n_errors))
            .reshape(n_errors, *shapes[layer.name])
            .expand(n_errors, *layer.entry_shape)
            for layer in layers
        }

    def entry_sd(self, layer: Layer, n_errors: int) -> float:
        """Return the standard deviation of the entries of a layer's feedback."""
        return self._factor(self._shape(layer), n_errors)

    def _shape(self, layer: Layer) -> tuple[int, ...]:
        if self.structure == "channel" and len(layer.entry_shape) > 1:
            return (layer.entry_shape[0], *(1 for _ in layer.entry_shape[1:]))
        return layer.entry_shape

    def _factor(self, shape: tuple[int, ...], n_errors: int) -> float:
        n = prod(shape)
        variances = {"layer": 1.0 / (n * n_errors), "fan-out": 1.0 / (3.0 * n), "none": 1.0}
        result: float = self.scale * variances[self.normalisation] ** 0.5
        return result
