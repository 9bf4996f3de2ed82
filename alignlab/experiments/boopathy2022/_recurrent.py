"""The Add task, and the recurrent network that is trained on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignlab.models._parametrisation import parametrised

__all__ = ["Recurrent", "additions", "expected", "summed_error"]

LAGS = (2, 5)
FACTORS = (0.5, -0.25)


class Recurrent(nn.Module):
    r"""ReLU units in the NTK parametrisation, read out in every step.

    :math:`h_t = \mathrm{relu}(x_t w + h_{t-1} W/\sqrt n + b)` and
    :math:`o_t = h_t v/\sqrt n + c`; all weights N(0, 1), biases and the first
    state zero. Where the code has a trained first state for each place in the
    batch, this has none, since it belongs to no sample.

    Args:
        units: n.
        seed: Of the weights.
    """

    def __init__(self, units: int, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.into = nn.Linear(1, units)
        self.again = nn.Linear(units, units, bias=False)
        self.out = nn.Linear(units, 1)
        parametrised(self, "ntk")

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape ``(N, T)``, of inputs of that shape."""
        outputs: list[Tensor] = []
        h = x.new_zeros(len(x), self.again.in_features)
        with parametrize.cached():
            for step in x.unbind(1):
                h = torch.relu(self.into(step[:, None]) + self.again(h))
                outputs.append(self.out(h))
        return torch.cat(outputs, 1)


def additions(
    samples: int, *, steps: int, seed: int, is_published: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw sequences of the Add task, y_t = 0.5 + 0.5 x_{t-2} - 0.25 x_{t-5}.

    What lies before the first step is 0. The published code zeroes the first sequences in place
    of the first steps: the end of every other sequence stands before its start, so that no
    network can know its first targets.

    Args:
        samples: Sequences.
        steps: Of each.
        seed: Of the inputs, which are 0 or 1 with even chances.
        is_published: Whether the targets are those of the published code.

    Returns:
        Inputs and targets, each of shape ``(samples, steps)``.

    Example:
        >>> x, y = additions(2, steps=8, seed=0)
        >>> bool(y[0, 6] == 0.5 + 0.5 * x[0, 4] - 0.25 * x[0, 1])
        True
    """
    stream = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (samples, steps), generator=stream).float()
    y = torch.full_like(x, 0.5)
    for lag, factor in zip(LAGS, FACTORS, strict=True):
        earlier = x.roll(lag, 1)
        (earlier if is_published else earlier.T)[:lag] = 0.0
        y += factor * earlier
    return x, y


def expected(x: Tensor) -> Tensor:
    """Return the mean of the published targets given the inputs up to each step.

    Whatever a network learns, it cannot know more of a sequence than this.

    Args:
        x: Inputs, shape ``(samples, steps)``.

    Returns:
        Shape ``(samples, steps)``; what lies before the first step counts as one half (our
        derivation, for sequences that are not zeroed).
    """
    y = torch.full_like(x, 0.5)
    for lag, factor in zip(LAGS, FACTORS, strict=True):
        y += factor * torch.cat([torch.full_like(x[:, :lag], 0.5), x[:, :-lag]], 1)
    return y


def summed_error(output: Tensor, y: Tensor) -> Tensor:
    """Return the squared error, summed over steps; mean over samples."""
    return (output - y).square().sum(1).mean()
