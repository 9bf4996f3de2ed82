"""One layer under one rule: signals, gradients and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from alignlab.engine.updates import Updates
from alignlab.kernels.beside import Beside, beside, products
from alignlab.kernels.cosines import scaled, wide
from alignlab.kernels.positions import PositionProducts, shares_positions
from alignlab.sites import ENTRY, Layer

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture

__all__ = ["LayerView", "LocalMap"]

_MOST_ROWS = 4096
"""Inputs of all samples and positions above which their products take too much room."""


@final
@dataclass(frozen=True)
class LocalMap:
    """What is known of the local backward map V, from a layer's entry to its pre-activation.

    Attributes:
        gain: Its diagonal, shape ``(n_samples, *shape)``; None where it is not diagonal.
        mixes_samples: Whether a signal of one sample reaches others, as through statistics of
            the batch.
    """

    gain: Tensor | None = None
    mixes_samples: bool = True


@final
class LayerView:
    """One layer's signals and updates under one rule, with what follows from them.

    Attributes:
        layer: The layer.
        entry: dL/dh, shape ``(n_samples, *entry_shape)``; None for an output layer, and under
            a rule without error signals.
        preactivation: dL/da, shape ``(n_samples, *shape)``; None under such a rule.
        is_local: Whether the weight gradient is the product of signal and input.
        whole: Updates of the layer's weight and bias as parameters, all calls together; None
            where there is no such parameter, or updates of parameters were not asked for.
        shared: That of the snapshot: returns what a function makes of it, made once for all.
        local: What is known of the way from the entry; nothing unless it was found out.
    """

    def __init__(
        self,
        capture: Capture,
        layer: Layer,
        updates: Updates,
        *,
        fold: Tensor,
        shared: Callable[[Callable[[Any], Any]], Any],
    ) -> None:
        """Take a layer's part of what a rule yields; ``fold`` marks one half of the samples."""
        self.layer: Final = layer
        self.capture: Final = capture
        self.entry: Final = updates.entry.get(layer.name)
        self.preactivation: Final = updates.preactivation.get(layer.name)
        self.is_local: Final = updates.is_local and self.preactivation is not None
        self.whole: Final = _own(capture, layer, updates.parameters)
        self.shared: Final = shared
        self.local = LocalMap()
        self._fold = fold
        self._beside: dict[str, Beside] = {}
        self._products: tuple[Tensor, Tensor, Tensor] | None = None
        self._of_samples: tuple[Tensor, Tensor] | None = None

    def site(self, name: str) -> Tensor | None:
        """Return the signal at a site, one row per sample, or None where there is none."""
        signal = self.entry if name == ENTRY else self.preactivation
        return None if signal is None else signal.reshape(signal.shape[0], -1)

    def beside(self, true: LayerView, site: str) -> Beside | None:
        """Return what the signal and the true one at a site say of each other, worked out once."""
        first, second = true.site(site), self.site(site)
        if first is None or second is None:
            return None
        if site not in self._beside:
            self._beside[site] = beside(first, second)
        return self._beside[site]

    def to_entry(self, tangent: Tensor) -> Tensor:
        """Carry a tangent from the pre-activation to the entry, the adjoint of the local map.

        Args:
            tangent: Shape ``(n_samples, ...)``, of as many entries as the pre-activation; one
                sample stands for all.

        Returns:
            Shape ``(n_samples, *entry_shape)``.

        Raises:
            MeasurementError: An operation on the way cannot be differentiated twice.
        """
        tangent = tangent.reshape(-1, *self.layer.shape)
        if self.local.gain is not None:
            return (self.local.gain * tangent).reshape(-1, *self.layer.entry_shape)
        whole = tangent.expand(self.capture.n_samples, *self.layer.shape)
        return self.capture.to_entry(self.layer, whole)

    @cached_property
    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of weight and bias, summed over the samples."""
        if not self.is_local:
            return self.whole
        assert self.preactivation is not None
        return self.capture.weight_gradient(self.layer, self.preactivation)

    def gradients_beside(self, other: LayerView) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients that are compared with those of the layer under another rule.

        Where that yields updates of parameters alone, the gradients of a weight that acts in
        several calls are those of all of them together.
        """
        return self.gradients if other.is_local else self.whole

    def weight_products(self, true: LayerView) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return the product of the weight gradient with the true one, and both energies.

        They are worked out once. None where there is no such gradient.
        """
        exact, found = true.gradients_beside(self)[0], self.gradients[0]
        if exact is None or found is None:
            return None
        if self._products is None:
            self._products = products(exact, found)
        return self._products

    @cached_property
    def input_products(self) -> Tensor | None:
        """Products of the layer's inputs with one another, a row for each sample and position.

        None where these are no shorter way to the energies of weight gradients.
        """
        if not isinstance(self.capture.module_of(self.layer), nn.Linear):
            return None
        rows = self.capture.input_of(self.layer).flatten(0, -2)
        return rows @ rows.T if len(rows) <= min(rows.shape[1], _MOST_ROWS) else None

    def weight_energy(self, true: LayerView) -> Tensor | None:
        """Return the squared norm of a redraw's weight gradient, formed in its own precision.

        Args:
            true: The layer under backpropagation.

        Returns:
            Scalar, float64; None where the weight does not learn.
        """
        if true.gradients[0] is None or self.preactivation is None:
            return None
        found = self._sample_products(true)
        if found is not None:
            inner, size = found
            return wide(inner.sum()) * size.square()
        weight = self.gradients[0]
        if weight is None:
            return None
        near_one, size = scaled(weight.reshape(1, -1))
        energy: Tensor = (wide(torch.linalg.vector_norm(near_one)) * size[0]).square()
        return energy

    def energy_across_halves(self, true: LayerView) -> Tensor | None:
        """Return the product of a redraw's weight gradients of the two halves of the samples.

        Args:
            true: The layer under backpropagation.

        Returns:
            Scalar, float64; None where the weight does not learn.
        """
        if true.gradients[0] is None or self.preactivation is None:
            return None
        found = self._sample_products(true)
        if found is not None:
            inner, size = found
            in_first = self._fold.to(inner).repeat_interleave(len(inner) // len(self._fold))
            return wide(in_first @ inner @ (1.0 - in_first)) * size.square()
        halves = self.weight_halves
        if halves is None:
            return None
        one, other = (scaled(half.reshape(1, -1)) for half in halves)
        return wide(torch.dot(one[0][0], other[0][0])) * one[1][0] * other[1][0]

    def _sample_products(self, true: LayerView) -> tuple[Tensor, Tensor] | None:
        r"""Return products of the weight gradients of single inputs of a Linear layer.

        They are :math:`\langle\delta_i, \delta_j\rangle \langle x_i, x_j\rangle` times the square
        of the second number, a float64 scalar, so that small ones do not vanish.
        """
        if true.input_products is None:
            return None
        if self._of_samples is None:
            assert self.preactivation is not None
            near_one, size = scaled(self.preactivation.reshape(1, -1))
            rows = near_one.reshape(self.preactivation.shape).flatten(0, -2)
            self._of_samples = true.input_products * (rows @ rows.T), size[0]
        return self._of_samples

    @cached_property
    def weight_halves(self) -> tuple[Tensor, Tensor] | None:
        """Weight gradients of two disjoint halves of the samples; None without signals."""
        whole = self.gradients[0]
        if whole is None or self.preactivation is None or not self.is_local:
            return None
        half = self.in_first_half(self.preactivation)
        first, _ = self.capture.weight_gradient(self.layer, half)
        assert first is not None
        return first, whole - first

    def in_first_half(self, signal: Tensor) -> Tensor:
        """Return a signal with all samples but those of the first half set to zero."""
        mask = self._fold.reshape(-1, *(1 for _ in signal.shape[1:]))
        return signal * mask.to(signal)

    @cached_property
    def position_products(self) -> PositionProducts | None:
        """Products of weight gradients of single positions; None where there are none."""
        module, layer = self.capture.module_of(self.layer), self.layer
        acts_at_positions = layer.is_convolution or layer.positions > 1
        if not (acts_at_positions and self.is_local and shares_positions(module)):
            return None
        return PositionProducts(module, self.capture.input_of(layer))

    @cached_property
    def position_adjoint(self) -> Tensor | None:
        """Signal whose product with another is that of all positions' gradients with unit ones.

        Those of this signal, that is, divided by their norm; in the shape of the pre-activation.
        """
        if self.position_products is None or self.preactivation is None:
            return None
        return self.position_products.adjoint(self.preactivation)


def _own(
    capture: Capture, layer: Layer, updates: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the updates of a layer's weight and bias among those of parameters by name."""
    if not updates:
        return None, None
    names = {id(p): name for name, p in capture.model.named_parameters()}
    parameters = capture.module_of(layer)._parameters
    own = [parameters.get("weight"), parameters.get("bias")]
    found = [None if p is None else updates.get(names[id(p)]) for p in own]
    return found[0], found[1]
