"""Small VGG: blocks of 3 by 3 convolutions with batch norm, pooled after each block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from alignlab.errors import InputError
from alignlab.models._arguments import positive, sizes
from alignlab.models._chain import Chain, Hidden, Step, dense, flatten, pool

__all__ = ["VGGSmall"]


class VGGSmall(Chain):
    """``conv1`` ... ``conv6`` in three blocks, then ``fc1`` and ``fc2``.

    Source: Simonyan and Zisserman 2015, arXiv 1409.1556, cut down to images of 32 pixels.

    Args:
        in_channels: Channels of the images.
        image_size: Their edge in pixels.
        blocks: Maps of the convolutions of each block.
        widths: Units of the hidden linear layers.
        classes: Outputs.
        activation: Name, such as ``relu`` or ``tanh``.
        functional: Whether activations are function calls instead of modules.
        batch_norm: Whether there is batch norm before each activation.
        dropout: Share of units dropped after each activation, in [0, 1).

    Raises:
        InputError: Sizes of which no network can be made.
        MissingError: No such activation.

    Example:
        >>> tuple(VGGSmall(blocks=((8,), (16,)), widths=32).fc1.weight.shape)
        (32, 1024)
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        blocks: Sequence[int | Sequence[int]] = ((64, 64), (128, 128), (256, 256)),
        widths: int | Sequence[int] = (256,),
        classes: int = 10,
        activation: str = "relu",
        functional: bool = False,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        between = Hidden(activation, functional, batch_norm, dropout)
        size, maps = positive(image_size, "image_size"), positive(in_channels, "in_channels")
        steps: list[Step] = []
        count = 0
        for block in _blocks(blocks):
            for width in block:
                count += 1
                steps.append((f"conv{count}", nn.Conv2d(maps, width, 3, padding=1)))
                steps += between.steps(count, partial(nn.BatchNorm2d, width))
                maps = width
            pooled, size = pool("max", count, size)
            steps += pooled
        head = dense(
            maps * size**2,
            sizes(widths, "widths"),
            classes=positive(classes, "classes"),
            between=between,
            first=count + 1,
        )
        super().__init__([*steps, flatten, *head])


def _blocks(blocks: object) -> list[tuple[int, ...]]:
    """Return the maps of the convolutions of each block."""
    if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not blocks:
        message = f"blocks is {blocks!r}; write the maps of each block, such as (64,64),(128,)."
        raise InputError(message)
    return [sizes(block, "blocks", empty=False) for block in blocks]
