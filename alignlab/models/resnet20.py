"""ResNet-20 for images of 32 pixels, with convolutional or padded shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import InputError
from alignlab.models._arguments import positive, sizes

__all__ = ["ResNet20"]


class ResNet20(nn.Module):
    """``conv1``, three stages ``layer1`` ... ``layer3`` of basic blocks, ``linear``.

    The names are those that most public CIFAR checkpoints use. The image is halved at the
    beginning of each stage but the first.

    Source: He, Zhang, Ren and Sun 2016, arXiv 1512.03385, section 4.2.

    Args:
        in_channels: Channels of the images.
        widths: Maps of the three stages.
        blocks: Basic blocks of each stage; 3 make 20 layers.
        shortcut: Where the shape changes, ``"conv"`` (1 by 1 with batch norm, option B) or
            ``"pad"`` (every second pixel and channels of zeros, option A).
        classes: Outputs.

    Raises:
        InputError: Sizes of which no network can be made, or another shortcut.

    Example:
        >>> sum(parameter.numel() for parameter in ResNet20(shortcut="pad").parameters())
        269722
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        shortcut: str = "conv",
        classes: int = 10,
    ) -> None:
        super().__init__()
        stages = sizes(widths, "widths")
        if len(stages) != 3:
            message = f"widths is {widths!r}; a ResNet-20 has three stages, such as 16,32,64."
            raise InputError(message)
        if shortcut not in {"conv", "pad"}:
            message = f"shortcut is {shortcut!r}; it must be conv or pad."
            raise InputError(message)
        if shortcut == "pad" and list(stages) != sorted(stages):
            message = f"widths is {widths!r}; shortcuts that pad need stages that never shrink."
            raise InputError(message)
        positive(blocks, "blocks")
        before = (stages[0], *stages)
        first = positive(in_channels, "in_channels")
        self.conv1 = nn.Conv2d(first, stages[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                _Block(before[index], width, stride=1 if index == 0 else 2, shortcut=shortcut),
                *(_Block(width, width, stride=1, shortcut=shortcut) for _ in range(blocks - 1)),
            )
            for index, width in enumerate(stages)
        )
        self.linear = nn.Linear(stages[-1], positive(classes, "classes"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape ``(N, classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions of 3 by 3 beside a shortcut."""

    def __init__(self, maps_in: int, maps: int, *, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps_in, maps, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.shortcut: nn.Module = nn.Sequential()
        if (stride, maps_in) == (1, maps):
            return
        if shortcut == "pad":
            self.shortcut = _Pad(maps - maps_in, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(maps_in, maps, 1, stride=stride, bias=False), nn.BatchNorm2d(maps)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, shape ``(N, maps, H / stride, W / stride)``."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class _Pad(nn.Module):
    """Every second pixel, and half of the new channels of zeros on either side."""

    def __init__(self, maps: int, stride: int) -> None:
        super().__init__()
        self.maps = maps
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of a shortcut without parameters."""
        before = self.maps // 2
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, before, self.maps - before))
