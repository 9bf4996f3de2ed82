"""LeNet with 6 and 16 maps of 5 by 5 kernels and linear layers of 120 and 84 units."""

from __future__ import annotations

from alignlab.models._arguments import margin, positive
from alignlab.models._chain import Chain, Hidden, convolutions, dense, flatten

__all__ = ["LeNet"]

_KERNEL = 5


class LeNet(Chain):
    """``conv1``, ``conv2``, each pooled, then ``fc1``, ``fc2``, ``fc3``.

    Source: LeCun, Bottou, Bengio and Haffner 1998, with the usual activation and pooling of today.

    Args:
        in_channels: Channels of the images.
        image_size: Their edge in pixels.
        padding: Pixels on each side of the images; 2 makes up for images of 28 pixels.
        classes: Outputs.
        activation: Name, such as ``relu`` or ``tanh``.
        pooling: ``"max"`` or ``"avg"`` over 2 by 2 pixels, or ``"none"``.
        functional: Whether activations are function calls instead of modules.

    Raises:
        InputError: Sizes of which no network can be made.
        MissingError: No such activation.

    Example:
        >>> tuple(LeNet().fc1.weight.shape)
        (120, 400)
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        padding: int = 0,
        classes: int = 10,
        activation: str = "relu",
        pooling: str = "max",
        functional: bool = False,
    ) -> None:
        between = Hidden(activation, functional)
        maps = (positive(in_channels, "in_channels"), 6, 16)
        steps, size = convolutions(
            maps,
            positive(image_size, "image_size"),
            kernel_size=_KERNEL,
            padding=(margin(padding, _KERNEL), 0),
            pooling=pooling,
            after=between,
        )
        head = dense(
            maps[-1] * size**2,
            (120, 84),
            classes=positive(classes, "classes"),
            between=between,
            first=len(maps),
        )
        super().__init__([*steps, flatten, *head])
