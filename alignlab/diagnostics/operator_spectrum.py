"""How many directions the layers pass on, how strongly, and how well conditioned they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched
from alignlab.errors import InputError
from alignlab.kernels.conditioning import (
    circular_extremes,
    circular_operator,
    condition_number,
    layer_extremes,
)
from alignlab.kernels.convolution_spectrum import participation_ratio
from alignlab.kernels.cosines import wide
from alignlab.kernels.matrix_free import Extremes
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["OperatorSpectrum"]

_STEPS = 40
_CONVERGED = 1e-2


class OperatorSpectrum(SnapshotDiagnostic):
    r"""Participation ratio, extreme singular values and condition of every unrolled layer.

    With :math:`\sigma` the singular values of the matrix that a layer is on inputs of this size,
    as many as its smaller side has units: :math:`(\sum\sigma^2)^2/\sum\sigma^4` directions are
    passed on, the strongest by :math:`\sigma_\text{max}` and the weakest by
    :math:`\sigma_\text{min}`; their ratio is the condition number.

    A Linear layer on several positions is its weight at each of them, and exact. Numbers named
    ``circular`` are those of a convolution with circular boundaries, exact for every frequency:
    for other paddings they forget the boundary. Those without are of the layer with the padding
    that it has: exact where it is circular or the smaller side has at most 512 units, else after
    40 steps of Golub-Kahan bidiagonalisation. The largest value then has a residual, the distance
    within which there is a singular value; the smallest is given where its residual is at most a
    hundredth of it, and is an upper bound even then (of several close ones it may be another).

    How to read it: a large condition number means that some signals vanish on their way through
    the layer, forward and back; the true signal below then lies in few directions, chance levels
    widen and reach falls. Few directions are a bottleneck that the width does not show.

    Expectation: for independent normal entries the Marchenko-Pastur law; a square matrix is badly
    conditioned by chance (of size n its condition number is about n or more).

    Degenerate: the condition number is infinite where the smallest value is zero but for the
    rounding of the weight. Undefined without a convolution whose stride divides the size
    (circular), and where nothing has converged.

    Source: participation ratio Gao et al. 2017; bidiagonalisation Golub and Kahan 1965;
    circular spectrum Sedghi, Gupta and Long 2019.

    Example:
        >>> from torch.nn import Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> net = Sequential(Linear(3, 3), Linear(3, 3))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        >>> with Probe(net, cross_entropy, draws=32, diagnostics=["operator-spectrum"]) as probe:
        ...     found = probe.measure(torch.randn(9, 3), torch.arange(9) % 3).sel(layer="0")
        >>> round(found["condition_number_operator"].item(), 6)
        4.0
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
            "smallest_singular_value_operator_circular",
            ("layer",),
            "Smallest singular value of the layer's linear map, circular boundaries",
            source="Sedghi, Gupta and Long 2019",
            valid=(0.0, None),
        ),
        Variable(
            "condition_number_operator_circular",
            ("layer",),
            "Condition number of the layer's linear map, circular boundaries",
            source="Sedghi, Gupta and Long 2019",
            better="lower",
            valid=(1.0, None),
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
        Variable(
            "smallest_singular_value_operator",
            ("layer",),
            "Smallest singular value of the layer's linear map with its own padding",
            source="Golub and Kahan 1965",
            valid=(0.0, None),
        ),
        Variable(
            "smallest_singular_value_operator_residual",
            ("layer",),
            "Distance from that value within which there is a singular value",
            source="Golub and Kahan 1965",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "condition_number_operator",
            ("layer",),
            "Condition number of the layer's linear map with its own padding",
            better="lower",
            valid=(1.0, None),
        ),
    )
    cost: ClassVar[float] = 8.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the spectrum of every layer; of one that is called twice, twice."""
        found: dict[str, Extremes] = {}
        for layer in snapshot.layers:
            module, weight = snapshot.capture.module_of(layer), snapshot.capture.weight_of(layer)
            # Half precision would round the vectors that must stay orthogonal.
            weight = weight if weight.dtype == torch.float64 else weight.float()
            shape = snapshot.capture.input_of(layer).shape[1:]
            yield from _circular(module, weight, layer, shape)
            extremes = layer_extremes(module, weight, shape, steps=_STEPS)
            found[layer.name] = extremes
            yield Reading("largest_singular_value_operator", extremes.largest, layer=layer.name)
            residual = extremes.largest_residual
            yield Reading("largest_singular_value_operator_residual", residual, layer=layer.name)
        yield from _smallest(snapshot, found)


def _circular(
    module: nn.Module, weight: Tensor, layer: Layer, shape: torch.Size
) -> Iterator[Reading | NotDefined]:
    """Yield what a layer with circular boundaries is; a Linear layer has no boundaries."""
    name = layer.name
    if isinstance(module, nn.Linear):
        rows = wide(weight) if len(weight) <= weight.shape[1] else wide(weight).T
        scale = rows.abs().amax()
        gram = (rows / scale) @ (rows / scale).T
        ratio = layer.positions * gram.trace().square() / gram.square().sum()
        yield Reading("participation_ratio_operator_circular", ratio, layer=name)
        return
    try:
        operator = circular_operator(module, weight, shape)
    except InputError:
        because = "with circular boundaries its stride does not divide the size"
        yield NotDefined(because, layer=name)
        return
    ratio = participation_ratio(operator)
    yield Reading("participation_ratio_operator_circular", ratio, layer=name)
    extremes = circular_extremes(operator)
    yield Reading("smallest_singular_value_operator_circular", extremes.smallest, layer=name)
    condition = condition_number(extremes, precision=weight.dtype, size=_size(layer, shape))
    yield Reading("condition_number_operator_circular", condition, layer=name)


def _smallest(snapshot: Snapshot, found: Mapping[str, Extremes]) -> Iterator[Reading | NotDefined]:
    """Yield smallest values and condition numbers, where they have converged."""
    layers = {layer.name: layer for layer in snapshot.layers}
    pairs = [each for e in found.values() for each in (e.smallest, e.smallest_residual)]
    values = fetched(pairs)
    for (name, extremes), value, residual in zip(
        found.items(), values[::2], values[1::2], strict=True
    ):
        if residual > _CONVERGED * value:
            because = (
                f"its smallest singular value, at most {float(value):.2g}, has not converged after "
                f"{_STEPS} steps"
            )
            yield NotDefined(because, layer=name)
            continue
        yield Reading("smallest_singular_value_operator", extremes.smallest, layer=name)
        residual_of = extremes.smallest_residual
        yield Reading("smallest_singular_value_operator_residual", residual_of, layer=name)
        layer = layers[name]
        size = _size(layer, snapshot.capture.input_of(layer).shape[1:])
        precision = snapshot.capture.weight_of(layer).dtype
        condition = condition_number(extremes, precision=precision, size=size)
        yield Reading("condition_number_operator", condition, layer=name)


def _size(layer: Layer, shape: torch.Size) -> int:
    """Return the units of the larger side; of a Linear layer at one position."""
    if layer.is_convolution:
        return max(layer.width, prod(shape))
    return max(layer.channels, shape[-1])
