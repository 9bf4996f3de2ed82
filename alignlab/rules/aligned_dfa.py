"""Direct feedback made from the factors of the unrolled layers that it is sent into (F8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback, generator, unit_draw
from alignlab.kernels.cosines import wide
from alignlab.kernels.factors import Factors, singular_factors, support_factors
from alignlab.kernels.layers import transposed
from alignlab.rules._base import DirectRule, State, check_choice
from alignlab.rules._correlating import drawn_feedback

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer

__all__ = ["AlignedDFA"]

FACTORS = ("svd", "nmf")

LARGEST = 2**28
"""Entries of the feedback of all layers above which it is refused: 1 GiB in float32."""


@dataclass(frozen=True)
class AlignedDFA(DirectRule):
    r"""DFA whose feedback begins in the subspace that the layers above it read.

    Weights of dense networks turn towards random feedback; those of convolutions cannot, for
    they are sparse and shared. Here feedback is turned towards the weights instead, once, before
    the training: the matrix W of the layer that reads an entry, unrolled, is approximated by a
    product of rank C, the number of errors, and the factor at the entry becomes the feedback.

    - ``svd``: the truncated singular value decomposition of the initial weights, rotated among
      the errors so that :math:`\langle W_{l+1}, B_{l+1}B_l^\top\rangle` is as large as it can be.
      Behind a pooling, where the two sizes differ, the rotation is drawn. Below the readout
      the feedback is the readout itself.
    - ``nmf``: non-negative factors of the support of a convolution, which need no weights.
      Parts are dealt to errors at random, alike in all layers. A Linear layer is joined to
      everything; below it feedback is drawn, normal.

    Every row, that of one error, then has norm :math:`1/\sqrt C`. Feedback that is repeated over
    positions, the third of this kind, is ``dfa(structure=channel)``. The chance level is that of
    normal feedback of the same size.

    Source: Refinetti et al. 2021, code (feedback initialised from a truncated SVD of the unrolled
    convolution, or an NMF of the mask of its support, rows normalised); which layer's factors
    enter where, and the rotation, are our choices.

    Attributes:
        seed: Of rotations, of the deal, and of what is drawn.
        factors: ``svd`` or ``nmf``.
    """

    name: ClassVar[str] = "aligned-dfa"
    has_random_feedback: ClassVar[bool] = False
    seed: int = 0
    factors: str = "svd"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("factors", self.factors, FACTORS)

    @property
    def keeps_initial(self) -> bool:  # type: ignore[override]
        """Whether feedback is made of the initial weights."""
        return self.factors == "svd"

    def start(self, capture: Capture, *, seed: int) -> State:
        """Return the feedback that the present weights, or the shapes of the layers, give.

        Raises:
            MeasurementError: It would take too much room.
        """
        layers = capture.injection_layers("micro")
        _require_room(layers, capture.n_errors)
        made: dict[str, Tensor] = {}
        by_name = {layer.name: layer for layer in capture.layers}
        # From the top: the rotation at an entry depends on the feedback above its reader.
        for layer in sorted(layers, key=lambda each: -by_name[each.consumer].depth):
            reader = by_name[layer.consumer]
            if self.factors == "nmf":
                found = self._without_signs(capture, layer, reader, seed)
            else:
                found = self._singular(capture, reader, made.get(reader.consumer), seed)
            norms = torch.linalg.vector_norm(found, dim=1, keepdim=True)
            rows = torch.where(norms > 0, found / norms, 0.0) / capture.n_errors**0.5
            made[layer.consumer] = rows.float()
        return {
            layer.name: made[layer.consumer].reshape(-1, *layer.entry_shape) for layer in layers
        }

    def redraw(self, capture: Capture, *, seed: int) -> State:
        """Return normal feedback, which knows nothing of the network."""
        return self.draw(capture.injection_layers("micro"), capture.n_errors, seed=seed)

    def draw(
        self,
        layers: Sequence[Layer],
        n_errors: int,
        *,
        seed: int,
        output: Layer | None = None,
    ) -> Mapping[str, Feedback]:
        """Draw normal feedback of unit Frobenius norm; see the base class."""
        del output
        return drawn_feedback(layers, n_errors, rule=self.name, seed=seed)

    def _singular(self, capture: Capture, reader: Layer, above: Tensor | None, seed: int) -> Tensor:
        """Return right singular vectors of the reader, rotated, ``(n_errors, entry_width)``."""
        weight = capture.weight_of(reader)
        weight = weight if weight.dtype == torch.float64 else weight.float()
        shape = capture.input_of(reader).shape[1:]
        module, n = capture.module_of(reader), capture.n_errors
        if reader.is_output:
            above = torch.zeros(n, reader.width).to(weight)
            above[capture.layout.errors_of(reader)] = torch.eye(reader.width).to(weight)
            signal = above.reshape(n, *reader.shape)
            return wide(transposed(module, signal, weight, torch.Size((n, *shape)))).flatten(1)
        factors = singular_factors(module, weight, shape, rank=n)
        if above is None or above.shape[1] != reader.width:
            stream = generator(seed, self.name, reader.name)
            turn = unit_draw((n, n), "orthogonal", stream=stream) / n**0.5
        else:
            turn = _best_rotation(factors, above)
        result: Tensor = wide(turn).to(weight.device).T @ wide(factors.below).flatten(1)
        return result

    def _without_signs(self, capture: Capture, layer: Layer, reader: Layer, seed: int) -> Tensor:
        """Return what the support of the reader is made of, ``(n_errors, entry_width)``."""
        module, n = capture.module_of(reader), capture.n_errors
        if isinstance(module, nn.Linear):
            stream = generator(seed, self.name, layer.name)
            return torch.randn(n, layer.entry_width, generator=stream, dtype=torch.float64)
        shape = capture.input_of(reader).shape[1:]
        parts = wide(support_factors(module, shape, rank=n).below.flatten(1))
        # One deal for all layers: where maps have one size, an error has the same part of each.
        deal = torch.randperm(n, generator=generator(seed, self.name, "parts"))
        return parts[deal]


def _best_rotation(factors: Factors, above: Tensor) -> Tensor:
    r"""Return the orthogonal Q of largest :math:`\langle W, B_\text{above}^\top Q^\top V\rangle`.

    With :math:`W = U S V^\top` it is the polar factor of :math:`S^{3/2} U^\top B_\text{above}`.
    """
    product = factors.above.flatten(1).double() @ above.to(factors.above).double().T
    left, _, right = torch.linalg.svd(factors.values.double().unsqueeze(1) * product)
    result: Tensor = left @ right
    return result


def _require_room(layers: Sequence[Layer], n_errors: int) -> None:
    size = n_errors * sum(layer.entry_width for layer in layers)
    if size > LARGEST:
        msg = (
            f"The rule aligned-dfa makes {size:,} entries of feedback for {n_errors:,} errors, of "
            f"which {LARGEST:,} are allowed; use dfa."
        )
        raise MeasurementError(msg)
