"""How many directions the layers pass on, and how strongly the strongest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.engine.layout import parameter
from alignlab.kernels.convolution import CONVOLUTIONS
from alignlab.kernels.convolution_spectrum import Circular
from alignlab.kernels.convolution_spectrum import participation_ratio as of_circular
from alignlab.kernels.layers import adjoint, linear_part
from alignlab.kernels.matrix_free import Leading, largest_singular_values
from alignlab.kernels.ranks import energies, participation_ratio
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["OperatorSpectrum"]

_STEPS = 30


class OperatorSpectrum(SnapshotDiagnostic):
    """Participation ratio and largest singular value of every layer's unrolled matrix.

    A Linear layer on several positions is its weight at each of them. The participation ratio
    of convolutions is that with circular boundaries, in closed form; where the stride does
    not divide the size there is none. The largest singular value is that of the layer with the
    padding that it has, by at most 30 steps of Golub-Kahan bidiagonalisation.
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "participation_ratio_operator_circular",
            ("layer",),
            "Participation ratio of the layer's squared singular values, circular boundaries",
            source="Gao et al. 2017 (of a weight here); closed form: our derivation",
            valid=(0.0, None),
        ),
        Variable(
            "largest_singular_value_operator",
            ("layer",),
            "Largest singular value of the layer's linear map with its own padding",
            source="Golub and Kahan 1965",
            valid=(0.0, None),
        ),
        Variable(
            "largest_singular_value_operator_residual",
            ("layer",),
            "Distance from that value within which there is a singular value",
            source="Golub and Kahan 1965",
            better="lower",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the spectrum of every layer; of one that is called twice, twice."""
        for layer in snapshot.layers:
            module = snapshot.capture.module_of(layer)
            weight = parameter(module, "weight").detach()
            # Half precision would round the vectors that must stay orthogonal.
            weight = weight if weight.dtype == torch.float64 else weight.float()
            shape = snapshot.capture.input_of(layer).shape[1:]
            ratio, largest = _spectrum(module, weight, layer, shape)
            name = layer.name
            if ratio is not None:
                yield Reading("participation_ratio_operator_circular", ratio, layer=name)
            yield Reading("largest_singular_value_operator", largest.values[0], layer=name)
            residual = largest.residuals[0]
            yield Reading("largest_singular_value_operator_residual", residual, layer=name)


def _spectrum(
    module: nn.Module, weight: Tensor, layer: Layer, shape: torch.Size
) -> tuple[Tensor | None, Leading]:
    if isinstance(module, nn.Linear):
        found = energies(weight, centred=False)
        exact = Leading(found[:1].sqrt(), torch.zeros_like(found[:1]))
        return layer.positions * participation_ratio(found), exact
    divided = isinstance(module, CONVOLUTIONS) and not any(
        n % s for n, s in zip(shape[1:], module.stride, strict=True)
    )
    ratio = of_circular(Circular.of(module, shape[1:])) if divided else None
    largest = largest_singular_values(
        lambda x: linear_part(module, x, weight),
        adjoint(module, weight, torch.Size((1, *shape))),
        shape=shape,
        count=1,
        like=weight,
        steps=_STEPS,
    )
    return ratio, largest
