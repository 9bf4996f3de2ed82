"""Weight gradients of one position each, through their inner products alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.errors import InputError
from alignlab.kernels.convolution import CONVOLUTIONS
from alignlab.kernels.cosines import wide

__all__ = ["PositionProducts", "shares_positions"]

_MOST_ENTRIES = 2**26


def shares_positions(module: nn.Module) -> bool:
    """Whether a layer's weight acts at positions, and each output position by itself.

    A transposed convolution does not: at an output position several input positions meet.
    """
    return isinstance(module, (nn.Linear, *CONVOLUTIONS))


@final
class PositionProducts:
    r"""Inner products of the weight gradients that single positions cause.

    A signal s causes at position p the gradient :math:`g_p = \sum_i s_{ip} x_{ip}^\top`, with
    :math:`x_{ip}` what the weight reads there. Then :math:`\sum_p\langle g_p, g'_p\rangle =
    \langle Ks, s'\rangle` with :math:`(Ks)_{ip} = \sum_j \langle x_{ip}, x_{jp}\rangle s_{jp}`,
    so that no gradient is formed. Where samples are more than inputs of a unit the gradients are
    formed after all, tap by tap. Source: our derivation.

    Args:
        module: A convolution, or a Linear layer on any number of positions.
        x: Its input, shape ``(n_samples, ...)``.

    Raises:
        InputError: Another kind of module.

    Example:
        >>> module = nn.Conv1d(1, 1, 1, bias=False)
        >>> products = PositionProducts(module, torch.tensor([[[1.0, 2.0, 3.0]]]))
        >>> products.energy(torch.ones(1, 1, 3)).item()  # 1 + 4 + 9
        14.0
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        """Bring the input into the form in which it is used many times."""
        if not shares_positions(module):
            msg = (
                f"{type(module).__name__} has no weight gradient of single positions; Linear, "
                "Conv1d, Conv2d and Conv3d have."
            )
            raise InputError(msg)
        self._module: Final[Any] = module
        self._groups: Final[int] = getattr(module, "groups", 1)
        x = x if x.dtype == torch.float64 else x.float()
        # Products of tiny numbers would vanish in float32.
        self._scale: Final = _largest(x)
        self._maps: Final = self._read(x.detach() / self._scale.to(x))
        inputs = self._maps.shape[-1] * prod(getattr(module, "kernel_size", (1,)))
        places = self._maps.shape[:-2].numel()
        is_small = places * len(x) ** 2 <= _MOST_ENTRIES
        self._gram: Final = self._grams() if len(x) <= inputs and is_small else None

    def adjoint(self, signal: Tensor) -> Tensor:
        r"""Return what multiplies signals as unit gradients of all positions multiply theirs.

        Args:
            signal: dL/da, shape ``(n_samples, ...)`` of the layer's output.

        Returns:
            :math:`Ks/\sqrt{\langle Ks, s\rangle}`, of the same shape; NaN for zero gradients.
        """
        rows, _ = self._rows(signal)
        if self._gram is not None:
            found = self._gram @ rows
        else:
            found = torch.zeros_like(rows)
            for x in self._taps(rows.shape[1:-2]):
                found += x @ (x.mT @ rows)
        energy = _dot(found, rows).clamp_min(0.0)
        factor = self._scale / energy.sqrt()
        return self._unrows(found * factor.to(found), signal).contiguous()

    def energy(self, signal: Tensor) -> Tensor:
        r"""Return :math:`\sum_p \|g_p\|^2`.

        Returns:
            At least 0 up to rounding, float64 scalar.
        """
        rows, size = self._rows(signal)
        if self._gram is not None:
            found = _dot(self._gram @ rows, rows)
        else:
            taps = self._taps(rows.shape[1:-2])
            parts = [(x.mT @ rows).square().sum(dtype=torch.float64) for x in taps]
            found = torch.stack(parts).sum()
        return found * (size * self._scale).square()

    def coherence(self, signal: Tensor) -> Tensor:
        r"""Return :math:`\|\sum_p g_p\|/\sqrt{P\sum_p\|g_p\|^2}`.

        Source: our derivation.

        Returns:
            Dimensionless, in [0, 1], float64 scalar; about ``n_positions ** -0.5`` where
            positions are unrelated, 1 where all agree; NaN where all are zero.
        """
        rows, size = self._rows(signal)
        places = rows.shape[1:-2].numel()
        flat = rows.flatten(1, -2)
        taps = self._taps(rows.shape[1:-2])
        summed = [wide(x.flatten(1, -2).mT @ flat).square().sum() for x in taps]
        total = torch.stack(summed).sum() * (size * self._scale).square()
        share = total / (places * self.energy(signal))
        return share.sqrt().clamp_max(1.0)

    def _read(self, x: Tensor) -> Tensor:
        """Return the padded input, shape ``(groups, *positions, n_samples, channels)``."""
        if isinstance(self._module, nn.Linear):
            return x.flatten(1, -2).movedim(0, -2).unsqueeze(0) if x.dim() > 2 else x[None, None]
        twice = self._module._reversed_padding_repeated_twice
        mode = self._module.padding_mode
        if mode != "zeros" or self._module.padding == "same":
            x = functional.pad(x, twice, mode="constant" if mode == "zeros" else mode)
        elif self._module.padding != "valid":
            x = functional.pad(x, [p for p in reversed(self._module.padding) for _ in range(2)])
        return self._by_position(x)

    def _grams(self) -> Tensor:
        """Return K, shape ``(groups, *output positions, n_samples, n_samples)``."""
        near = self._maps @ self._maps.mT
        total: Tensor | None = None
        for part in self._windows(near):
            total = part.clone() if total is None else total.add_(part)
        assert total is not None
        return total

    def _taps(self, positions: torch.Size) -> Iterator[Tensor]:
        """Yield what every tap reads, ``(groups, *output positions, n_samples, channels)``."""
        for part in self._windows(self._maps):
            assert part.shape[1:-2] == positions
            yield part

    def _windows(self, maps: Tensor) -> Iterator[Tensor]:
        if isinstance(self._module, nn.Linear):
            yield maps
            return
        kernel, stride, dilation = (
            self._module.kernel_size, self._module.stride, self._module.dilation,
        )  # fmt: skip
        last = [n - d * (k - 1) for n, d, k in zip(maps.shape[1:-2], dilation, kernel, strict=True)]
        for tap in product(*map(range, kernel)):
            steps = zip(tap, dilation, last, stride, strict=True)
            window = (slice(t * d, t * d + n, s) for t, d, n, s in steps)
            yield maps[:, *window]

    def _rows(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Return a signal as ``(groups, *positions, n_samples, outputs)``, and its scale."""
        signal = signal.to(self._maps)
        size = _largest(signal)
        signal = signal / size.to(signal)
        if isinstance(self._module, nn.Linear):
            return self._read(signal), size
        return self._by_position(signal), size

    def _by_position(self, maps: Tensor) -> Tensor:
        """Return maps as ``(groups, *positions, n_samples, channels of a group)``."""
        # Transposed as one matrix, which is several times faster than moving axes.
        flat = maps.flatten(2).flatten(0, 1).T.contiguous()
        whole = flat.reshape(*maps.shape[2:], maps.shape[0], self._groups, -1)
        return whole.movedim(-2, 0).contiguous()

    def _unrows(self, rows: Tensor, signal: Tensor) -> Tensor:
        if isinstance(self._module, nn.Linear):
            return rows[0].movedim(-2, 0).reshape(signal.shape)
        return rows.movedim((-2, 0, -1), (0, 1, 2)).flatten(1, 2)


def _largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, 1 where all are zero, float64 scalar."""
    size = wide(tensor.detach().abs().amax())
    return torch.where(size > 0, size, 1.0)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return an inner product, summed in float64 over positions."""
    return (first * second).flatten(-2).sum(-1).sum(dtype=torch.float64)
