"""Bias, variance and cosines of an update over its own random draws, from inner products alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "ErrorParts",
    "averaged_cosines",
    "error_parts",
    "exponent",
    "fitted_dimension",
    "products_of",
    "rms_cosines",
    "tangent_law",
]

_COLUMNS = 2**16
"""Entries of every draw that are taken to float64 at once."""


@dataclass(frozen=True)
class ErrorParts:
    r"""The parts of an update's mean squared error, in units of the squared norm of g.

    All are unbiased but ``variance_share``, which is a ratio of unbiased ones, so that each can
    leave its range by its error: a bias of 0 is estimated below 0 in half of the cases.

    Attributes:
        bias: :math:`|E\hat g - g|^2 / |g|^2`.
        bias_best_scale: :math:`|E\hat g - a g|^2 / |g|^2` with the best a: what no step size
            repairs.
        best_scale: That a, :math:`\langle E\hat g, g\rangle / |g|^2`.
        variance: :math:`\mathrm{tr\,Var}(\hat g) / |g|^2`.
        variance_share: Variance over variance and ``bias_best_scale`` together.
        noise_share: :math:`\mathrm{tr\,Var}(\hat g) / E|\hat g|^2`.
    """

    bias: Tensor
    bias_best_scale: Tensor
    best_scale: Tensor
    variance: Tensor
    variance_share: Tensor
    noise_share: Tensor


def products_of(draws: Sequence[Tensor], gradient: Tensor) -> Tensor:
    """Return the inner products of draws of an update and of the gradient, each with each.

    Args:
        draws: Updates of one shape.
        gradient: Of the same shape.

    Returns:
        Shape ``(n_draws + 1, n_draws + 1)``, float64; the gradient is last.
    """
    rows = torch.stack([each.detach().reshape(-1) for each in (*draws, gradient)])
    total = wide(rows.new_zeros(len(rows), len(rows)))
    for part in rows.split(_COLUMNS, dim=1):
        columns = wide(part)
        total += columns @ columns.T
    return total


def error_parts(products: Tensor) -> tuple[ErrorParts, ErrorParts]:
    r"""Split the mean squared error of an update over its draws into bias and variance.

    .. math:: E|\hat g - a g|^2 = |E\hat g - a g|^2 + \mathrm{tr\,Var}(\hat g)

    Squares of means are means over pairs of different draws, so that the variance is in none of
    them. Source: the identity is textbook, its unbiased estimate our derivation.

    Args:
        products: From ``products_of``, shape ``(..., n + 1, n + 1)``.

    Returns:
        The parts, each of shape ``(...)``, and their standard errors by the jackknife, which
        overstates that of a bias by up to the root of 2 where variance is all there is. NaN where
        the gradient is zero, for fewer than 2 draws, and the errors for fewer than 3.

    Example:
        >>> draws = [torch.tensor([2.0, 1.0]), torch.tensor([2.0, -1.0])]
        >>> found, _ = error_parts(products_of(draws, torch.tensor([1.0, 0.0])))
        >>> found.bias.item(), found.bias_best_scale.item(), found.variance.item()
        (0.0, -1.0, 2.0)
        >>> found.best_scale.item()
        2.0
    """
    products = wide(products)
    draws, along = products[..., :-1, :-1], products[..., :-1, -1]
    square = products[..., -1, -1]
    count = draws.shape[-1]
    own = torch.diagonal(draws, dim1=-2, dim2=-1)
    sums = (draws.sum((-2, -1)), own.sum(-1), along.sum(-1), along.square().sum(-1))
    # What is left of every sum when one draw is left out.
    left_out = (
        sums[0][..., None] - 2.0 * draws.sum(-1) + own,
        sums[1][..., None] - own,
        sums[2][..., None] - along,
        sums[3][..., None] - along.square(),
    )
    whole = _parts(*sums, square, count)
    partial = _parts(*left_out, square[..., None], count - 1)
    spread = partial - partial.mean(-1, keepdim=True)
    errors = ((count - 1) / max(count, 1) * spread.square().sum(-1)).sqrt()
    if count < 3:
        errors = torch.full_like(whole, torch.nan)
    return ErrorParts(*whole.unbind(0)), ErrorParts(*errors.unbind(0))


def _parts(
    total: Tensor, own: Tensor, along: Tensor, along_square: Tensor, square: Tensor, count: int
) -> Tensor:
    """Return the parts stacked on a new first axis, from sums over draws."""
    if count < 2:
        return torch.full((6, *total.shape), torch.nan, dtype=total.dtype, device=total.device)
    pairs = count * (count - 1)
    mean_square = (total - own) / pairs
    variance = own / count - mean_square
    scale = along / count
    scale_square = (along.square() - along_square) / pairs / square
    best = mean_square - scale_square
    parts = (
        (mean_square - 2.0 * scale + square) / square,
        best / square,
        scale / square,
        variance / square,
        variance / (variance + best),
        variance / (own / count),
    )
    defined = square > 0
    return torch.stack([torch.where(defined, part, torch.nan) for part in parts])


def averaged_cosines(products: Tensor, counts: Sequence[int]) -> Tensor:
    r"""Return the cosine of the mean of K draws with the gradient, averaged before its ratio.

    .. math:: c_K = \frac{\langle E\hat g, g\rangle}
        {|g| \sqrt{|E\hat g|^2 + \mathrm{tr\,Var}(\hat g) / K}}

    An unbiased update whose variance is n + 1 times its squared mean, as the forward gradient of n
    parameters, has :math:`c_K = \sqrt{K / (n + K + 1)}` exactly. Unlike the root mean square it
    has a sign, and no floor at :math:`1/\sqrt n`.

    Source: our derivation.

    Args:
        products: From ``products_of``, shape ``(..., n + 1, n + 1)``.
        counts: K, at least 1.

    Returns:
        Shape ``(..., len(counts))``; NaN for K above the number of draws, of which the norm would
        be an extrapolation, for fewer than 2 draws, and where a norm vanishes.
    """
    products = wide(products)
    draws, along = products[..., :-1, :-1], products[..., :-1, -1]
    size = draws.shape[-1]
    if size < 2:
        return products.new_full((*products.shape[:-2], len(counts)), torch.nan)
    total = draws.sum((-2, -1))
    own = torch.diagonal(draws, dim1=-2, dim2=-1).sum(-1)
    mean_square = (total - own) / (size * (size - 1))
    variance = own / size - mean_square
    given = torch.tensor(list(counts), dtype=products.dtype, device=products.device)
    squares = mean_square[..., None] + variance[..., None] / given
    norms = (squares * products[..., -1:, -1]).sqrt()
    found = along.mean(-1, keepdim=True) / norms
    known = (norms > 0) & (given <= size)
    return torch.where(known, found, torch.nan)


def rms_cosines(products: Tensor, counts: Sequence[int], *, rounds: int = 16) -> Tensor:
    r"""Return the root mean square of the cosines of means of K draws with the gradient.

    Draws are put in random order and cut into blocks of K, several times. Of directions that know
    nothing of the gradient it is :math:`1/\sqrt n` at every K.

    Args:
        products: From ``products_of``, shape ``(..., n + 1, n + 1)``.
        counts: K, at least 1.
        rounds: Random orders.

    Returns:
        In [0, 1], shape ``(..., len(counts))``; NaN for K above the number of draws, and where a
        norm vanishes.
    """
    products = wide(products)
    size = products.shape[-1] - 1
    squares = []
    for count in counts:
        if count > size:
            squares.append(products.new_full(products.shape[:-2], torch.nan))
            continue
        chosen = _blocks(size, count, rounds if count < size else 1).to(products)
        along = (products[..., -1:, :-1] @ chosen.T).squeeze(-2)
        norms = ((chosen @ products[..., :-1, :-1]) * chosen).sum(-1)
        squares.append((along.square() / (norms * products[..., -1:, -1])).mean(-1))
    return torch.stack(squares, -1).clamp_max(1.0).sqrt()


def _blocks(size: int, count: int, rounds: int) -> Tensor:
    """Return which draws are averaged, one row of zeros and ones a block."""
    stream = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(rounds):
        order = torch.randperm(size, generator=stream)
        members = order[: size // count * count].reshape(-1, count)
        rows.append(torch.zeros(len(members), size).scatter_(1, members, 1.0))
    return torch.cat(rows)


def exponent(counts: Sequence[int], cosines: Tensor) -> Tensor:
    """Return the slope of log c on log K: 1/2 where variance limits, 0 where bias does.

    Source: our derivation.

    Args:
        counts: K.
        cosines: Shape ``(..., len(counts))``; NaN are left out.

    Returns:
        Least-squares slope, shape ``(...)``; NaN where fewer than two cosines are known or one is
        not positive.

    Example:
        >>> exponent((1, 4, 16), torch.tensor([0.1, 0.2, 0.4])).item()
        0.5
    """
    y = wide(cosines)
    x = torch.tensor(list(counts), dtype=torch.float64, device=y.device).log()
    known = torch.isfinite(y)
    weights = known.to(y)
    number = weights.sum(-1, keepdim=True)
    logs = torch.where(known, y, 1.0).log()
    centre = (weights * x).sum(-1, keepdim=True) / number
    offset = weights * (x - centre)
    slope = (offset * logs).sum(-1) / (offset * x).sum(-1)
    defined = (number[..., 0] > 1) & torch.isfinite(slope)
    return torch.where(defined, slope, torch.nan)


def fitted_dimension(counts: Sequence[int], cosines: Tensor) -> Tensor:
    r"""Return the n with which :math:`c_K = \sqrt{K/(n+K+1)}` holds on average.

    Args:
        counts: K.
        cosines: Shape ``(..., len(counts))``; NaN are left out.

    Returns:
        The mean of :math:`K (1/c_K^2 - 1) - 1`, shape ``(...)``; -1 for the gradient itself, NaN
        where no cosine is known or one is not positive.
    """
    y = wide(cosines)
    k = torch.tensor(list(counts), dtype=torch.float64, device=y.device)
    sizes = k * (1.0 / y.square() - 1.0) - 1.0
    positive = torch.where(torch.isfinite(y), y > 0, True).all(-1)
    return torch.where(positive, sizes.nanmean(-1), torch.nan)


def tangent_law(dimension: Tensor, counts: Sequence[int]) -> Tensor:
    r"""Return :math:`\sqrt{K/(n+K+1)}`, the cosine of a forward gradient with K tangents.

    Root of the ratio of mean squares over normal tangents: with :math:`\hat g` the mean of K
    terms :math:`(g\cdot v)v`, :math:`E\langle\hat g, g\rangle = |g|^2` and
    :math:`E|\hat g|^2 = |g|^2 (1 + (n + 1)/K)`.

    Source: our derivation.

    Args:
        dimension: n, shape ``(...)``.
        counts: K.

    Returns:
        Shape ``(..., len(counts))``, in [0, 1]; NaN where n is.

    Example:
        >>> [round(c, 4) for c in tangent_law(torch.tensor(1000.0), (1, 10, 100, 1000)).tolist()]
        [0.0316, 0.0995, 0.3014, 0.7069]
    """
    n = wide(dimension)[..., None]
    k = torch.tensor(list(counts), dtype=torch.float64, device=n.device)
    return (k / (n + k + 1.0)).sqrt()
