"""Singular values of convolutions over an input of some size, with circular boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.convolution import CONVOLUTIONS
from alignlab.kernels.cosines import wide

__all__ = ["Circular", "Spectrum", "participation_ratio", "symbol_spectrum"]

_LARGEST_CHUNK = 2**24


@dataclass(frozen=True)
class Circular:
    """A convolution as an operator whose input is continued periodically.

    Its output has ``size / stride`` positions. Where it pads does not matter: shifts change no
    singular value. It is the operator of a module with ``padding_mode="circular"`` that keeps
    the size, and for other paddings the one that forgets the boundary.

    Attributes:
        weight: Shape ``(out_channels, in_channels / groups, *taps)``, 1 to 3 axes of taps.
        size: Positions of the input along each axis.
        stride: Along each axis; divides the size.
        dilation: Along each axis.
        groups: Divides both numbers of channels.
    """

    weight: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no circular convolution."""
        axes = self.weight.dim() - 2
        lengths = {len(self.size), len(self.stride), len(self.dilation)}
        if axes not in {1, 2, 3} or lengths != {axes}:
            msg = (
                f"A weight of shape {tuple(self.weight.shape)} over an input of size {self.size} "
                f"with stride {self.stride} and dilation {self.dilation} is no convolution; "
                "give 1 to 3 axes, and each of the three one number an axis."
            )
            raise InputError(msg)
        if any(n % s for n, s in zip(self.size, self.stride, strict=True)):
            msg = (
                f"A circular convolution with stride {self.stride} needs an input whose size it "
                f"divides; the size is {self.size}."
            )
            raise InputError(msg)
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            msg = f"{self.weight.shape[0]} output channels do not make {self.groups} groups."
            raise InputError(msg)

    @classmethod
    def of(cls, module: nn.Module, size: Sequence[int]) -> Circular:
        """Return the circular operator of a module's weight.

        Args:
            module: Conv1d, Conv2d or Conv3d.
            size: Positions of the input along each axis.

        Raises:
            InputError: Another kind of module, or a size that the stride does not divide.
        """
        if not isinstance(module, CONVOLUTIONS):
            msg = (
                f"{type(module).__name__} has no circular spectrum here; Conv1d, Conv2d and "
                "Conv3d have (a transposed convolution has that of the one it transposes)."
            )
            raise InputError(msg)
        return cls(
            module.weight.detach(), tuple(size), module.stride, module.dilation, module.groups
        )

    @property
    def out_size(self) -> tuple[int, ...]:
        """Positions of the output along each axis."""
        return tuple(n // s for n, s in zip(self.size, self.stride, strict=True))

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """Where each tap reads, relative to the first, in the order of the flat kernel."""
        grid = product(*(range(k) for k in self.weight.shape[2:]))
        return [tuple(t * d for t, d in zip(tap, self.dilation, strict=True)) for tap in grid]

    def by_tap(self) -> Tensor:
        """Return the weight, float64, shape ``(groups, n_taps, out, in)`` of one group."""
        flat = wide(self.weight).flatten(2).unflatten(0, (self.groups, -1))
        by_tap: Tensor = flat.permute(0, 3, 1, 2)
        return by_tap


@dataclass(frozen=True)
class Spectrum:
    """Singular values by spatial frequency.

    Attributes:
        values: Descending along the last axis, shape ``(n_frequencies, n_values)``.
        multiplicity: For how many frequencies of the whole grid each row stands, float64,
            shape ``(n_frequencies,)``.
    """

    values: Tensor
    multiplicity: Tensor

    def all_values(self) -> Tensor:
        """Return every value as often as it stands for, descending, flat."""
        repeated = self.values.repeat_interleave(self.multiplicity.long(), dim=0)
        result: Tensor = repeated.flatten().sort(descending=True).values
        return result


def participation_ratio(operator: Circular) -> Tensor:
    r"""Return :math:`(\sum\sigma^2)^2/\sum\sigma^4` of a circular convolution in closed form.

    With A the operator on p output positions, :math:`\sum\sigma^2 = p\,\|W\|^2` and
    :math:`\sum\sigma^4 = \|AA^\top\|_F^2 = p\sum_\delta\|K_\delta\|^2`, where
    :math:`K_\delta = \sum_{t'-t=\delta} W_t W_{t'}^\top` is the autocorrelation of the channels
    at distances :math:`\delta`, taken modulo the input's size and, with a stride, only where
    the stride divides them. Taps that fall on one another are added first, so that the
    result is exact for every size. Without a stride :math:`A^\top A` does as well, and the
    smaller of the two is formed.

    Source: our derivation.

    Args:
        operator: The convolution.

    Returns:
        Dimensionless, from 1 to the number of singular values, float64 scalar; NaN for the
        zero weight.

    Example:
        >>> identity = torch.eye(3).reshape(3, 3, 1)
        >>> participation_ratio(Circular(identity, (5,), (1,), (1,))).item()
        15.0
    """
    weight, taps = _folded(operator)
    scale = weight.abs().amax()
    weight = weight / scale
    if all(s == 1 for s in operator.stride) and weight.shape[2] > weight.shape[3]:
        weight = weight.transpose(2, 3)
    rows = weight.flatten(1, 2)
    found: dict[tuple[int, ...], Tensor] = {}
    for number, tap in enumerate(taps):
        later = rows[:, number * weight.shape[2] :].transpose(1, 2)
        products = (weight[:, number] @ later).unflatten(2, (len(taps) - number, -1))
        for k, other in enumerate(taps[number:]):
            pairs = [(_apart(tap, other, operator.size), products[:, :, k])]
            if k:
                pairs.append((_apart(other, tap, operator.size), products[:, :, k].mT))
            for apart, term in pairs:
                # Opposite distances hold transposed matrices of one norm; one is kept.
                if apart > _opposite(apart, operator.size):
                    continue
                if not any(d % s for d, s in zip(apart, operator.stride, strict=True)):
                    found[apart] = found[apart].add_(term) if apart in found else term.clone()
    squares = [
        matrix.square().sum() * (1 if apart == _opposite(apart, operator.size) else 2)
        for apart, matrix in found.items()
    ]
    total = prod(operator.out_size) * weight.square().sum().square()
    return total / torch.stack(squares).sum()


def symbol_spectrum(operator: Circular, *, grid: Sequence[int] | None = None) -> Spectrum:
    r"""Return all singular values of a circular convolution, frequency by frequency.

    The Fourier transform turns the operator into one small matrix a frequency,
    :math:`\hat W(\omega) = \sum_t W_t e^{2\pi i\,\omega\cdot t}`; with a stride the frequencies
    that alias stand side by side. A real weight has equal values at opposite frequencies, so
    half of them are enough, most standing for two. The matrices are formed in chunks from the
    taps, and decomposed in the weight's own precision.

    Source: Sedghi, Gupta and Long 2019, arXiv 1805.10408; strides and groups: ours.

    Args:
        operator: The convolution.
        grid: How many frequencies to take along each axis, evenly, each a divisor of the
            output's size; None for all. The values of those taken are exact, and each stands
            for the frequencies around it.

    Returns:
        ``groups * min(out, in * aliases)`` values for each frequency.

    Raises:
        InputError: The grid does not divide the output's size.
    """
    full = operator.out_size
    chosen = full if grid is None else tuple(grid)
    if len(chosen) != len(full) or any(g < 1 or n % g for g, n in zip(chosen, full, strict=True)):
        msg = f"A grid of {chosen} frequencies is no part of the grid of {full}; take divisors."
        raise InputError(msg)
    weight = operator.weight.flatten(2)
    complex_type = torch.promote_types(weight.dtype, torch.complex64)
    flat = weight.unflatten(0, (operator.groups, -1)).permute(3, 0, 1, 2).to(complex_type)
    frequencies, multiplicity = _half(full, chosen)
    aliases = list(product(*(range(s) for s in operator.stride)))
    offsets = torch.tensor(aliases).reshape(-1, len(full)) * torch.tensor(full)
    taps = torch.tensor(operator.taps, dtype=torch.float64).reshape(-1, len(full))
    chunk = max(1, _LARGEST_CHUNK // max(1, flat[0].numel() * len(aliases)))
    found = []
    for part in frequencies.split(chunk):
        shifted = torch.stack([part + offset for offset in offsets])
        cycles = (shifted.double() / torch.tensor(operator.size)) @ taps.T
        phases = torch.polar(torch.ones_like(cycles), 2.0 * torch.pi * cycles).to(flat)
        symbol = torch.tensordot(phases, flat, dims=1) / len(aliases) ** 0.5
        matrices = symbol.permute(1, 2, 3, 0, 4).flatten(3)
        found.append(torch.linalg.svdvals(matrices).flatten(1))
    values = torch.cat(found).sort(dim=1, descending=True).values
    return Spectrum(values, multiplicity.to(values.device))


def _apart(first: tuple[int, ...], second: tuple[int, ...], size: Sequence[int]) -> tuple[int, ...]:
    return tuple((b - a) % n for a, b, n in zip(first, second, size, strict=True))


def _opposite(apart: tuple[int, ...], size: Sequence[int]) -> tuple[int, ...]:
    return tuple(-d % n for d, n in zip(apart, size, strict=True))


def _folded(operator: Circular) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Return the taps that differ modulo the size, those that coincide added, and where."""
    weight = operator.by_tap()
    where: dict[tuple[int, ...], list[int]] = {}
    for number, tap in enumerate(operator.taps):
        folded = tuple(t % n for t, n in zip(tap, operator.size, strict=True))
        where.setdefault(folded, []).append(number)
    if len(where) == len(operator.taps):
        return weight, list(where)
    return torch.stack([weight[:, numbers].sum(1) for numbers in where.values()], 1), list(where)


def _half(full: tuple[int, ...], chosen: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the frequencies of half a grid, as whole numbers, and what each stands for."""
    last = chosen[-1]
    axes = [range(n) for n in chosen[:-1]] + [range(last // 2 + 1)]
    steps = torch.tensor([n // g for n, g in zip(full, chosen, strict=True)])
    grid = torch.tensor(list(product(*axes))).reshape(-1, len(full))
    own = (grid[:, -1] == 0) | (2 * grid[:, -1] == last)
    share = prod(n // g for n, g in zip(full, chosen, strict=True))
    return grid * steps, torch.where(own, 1.0, 2.0).double() * share
