"""What is measured: layers in call order and the two sites at each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENTRY", "PREACTIVATION", "SITES", "Layer"]

ENTRY = "entry"
"""dL/dh: where a rule's signal enters, the input of the next measured layer."""

PREACTIVATION = "preactivation"
"""dL/da: the layer's own output, after the exact local backward map."""

SITES = (ENTRY, PREACTIVATION)


@dataclass(frozen=True)
class Layer:
    """One call of a measured module in a forward pass.

    Attributes:
        name: Qualified module name, with ``@k`` for the k-th call (k > 1).
        module: Qualified module name.
        kind: Class of the module, such as ``Conv2d``.
        depth: Position in call order, from 1.
        shape: Shape of the pre-activation per sample.
        entry_shape: Shape of the entry per sample; empty for the output layer.
        consumer: Layer whose input is this layer's entry; empty for the output layer.
        fan_in: Inputs of one unit.
        n_parameters: Entries of weight and bias.
        channels: Output channels (features) of the module.
        entry_channel_axis: Axis of the channels in ``entry_shape``: 0 where a convolution reads
            the entry, -1 where a linear layer does.
    """

    name: str
    module: str
    kind: str
    depth: int
    shape: tuple[int, ...]
    entry_shape: tuple[int, ...]
    consumer: str
    fan_in: int
    n_parameters: int
    channels: int
    entry_channel_axis: int = 0

    @property
    def is_output(self) -> bool:
        """Whether the network ends here: no measured layer reads its output."""
        return not self.consumer

    @property
    def is_convolution(self) -> bool:
        """Whether weights are shared over positions."""
        return self.kind.startswith("Conv")

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in ``shape``: 0 of a convolution, -1 of a linear layer."""
        return 0 if self.is_convolution else -1

    @property
    def width(self) -> int:
        """Units per sample at the pre-activation."""
        return _product(self.shape)

    @property
    def entry_width(self) -> int:
        """Units per sample at the entry; 0 for the output layer."""
        return _product(self.entry_shape) if self.entry_shape else 0

    @property
    def positions(self) -> int:
        """Positions at which the weights are applied; 1 for a linear layer of flat input."""
        return self.width // self.channels


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
