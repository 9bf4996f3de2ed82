r"""Sum over a training of cosine squared times the squared norm of the gradient (B7).

.. math:: Z(T) = \sum_{t\le T} \cos^2\theta_t\,\|g_t\|^2
    = \sum_{t\le T} \frac{\langle\hat g_t, g_t\rangle^2}{\|\hat g_t\|^2}

Under step sizes that keep the Wolfe conditions, on a smooth loss with a lower bound, and for
updates that descend, the sum over all steps is finite (Zoutendijk): gradients must then vanish, or
cosines do.

*How to read it.* Compare rules at equal budget, not at equal step: of two that spent the same, one
with the lower loss made better use of it. A budget that stands still while the gradient has not
vanished: cosines have gone to zero. The share is the mean of the squared cosine, weighted by the
squared norm of the gradient; backpropagation has 1.

Recorded steps alone give a lower bound of the sum; the estimate for all steps puts straight lines
between them, and is worth as much as these are close. Updates against the gradient count like those
along it, and are given apart. Steps at which either gradient is zero or was not measured add
nothing. Other parameters than weights of layers are not in it.

Source: after Zoutendijk 1970; for updates of other rules, our derivation.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from alignlab.analyses._base import dataset, require
from alignlab.kernels.trajectories import cumulative_sum
from alignlab.recording.schema import Variable

__all__ = ["zoutendijk_budget"]

_RAW = (
    *("inner_product_weight_gradient", "squared_norm_weight_gradient"),
    "squared_norm_weight_gradient_true",
)
_SOURCE = "after Zoutendijk 1970; for updates of other rules, our derivation"
_LAYER = ("rule", "layer")
_WHAT = {
    "zoutendijk_budget": "Squared cosine times squared norm of the true gradient, summed over "
    "recorded steps",
    "zoutendijk_budget_all_steps": "That sum over all steps, with straight lines between recorded "
    "ones",
    "zoutendijk_climbing": "Part of the sum over recorded steps that is of updates against the "
    "gradient",
    "zoutendijk_share": "That sum over the sum of squared norms: what backpropagation would have "
    "on the same way",
}


def _variables(dims: tuple[str, ...], suffix: str, of: str) -> tuple[Variable, ...]:
    return tuple(
        Variable(
            *(f"{name}{suffix}", dims, f"{text}; {of}"),
            source=_SOURCE,
            better="higher" if name.endswith("share") else "none",
            valid=(0.0, 1.0 if name.endswith("share") else None),
        )
        for name, text in _WHAT.items()
    )


def zoutendijk_budget(recording: xr.Dataset) -> xr.Dataset:
    """Return how much of the squared gradient a training's updates have used up, step by step.

    It is formed for each layer's weight, and for the weights of all hidden layers stacked.

    Args:
        recording: Of a training, with ``weight-gradient`` measured at many steps.

    Returns:
        ``zoutendijk_budget``, ``..._all_steps``, ``zoutendijk_climbing`` and ``zoutendijk_share``
        along step, rule and layer, and with the suffix ``_hidden`` along step and rule; NaN before
        the first measured step.

    Raises:
        MissingError: The recording lacks inner products and norms.
    """
    require(
        *(recording, _RAW),
        analysis="zoutendijk-budget",
        hint="measure weight-gradient with this version",
    )
    product, energy, of_true = (
        recording[name].transpose("step", "rule", "layer").values.astype(float) for name in _RAW
    )
    steps = recording["step"].values
    found = dataset(
        dict(zip(
            _variables(_LAYER, "", "of the layer's weight"),
            ((("step", *_LAYER), each) for each in _sums(steps, product, energy, of_true)),
            strict=True,
        )),
        recording,
    )  # fmt: skip
    hidden = np.ones(product.shape[2], bool)
    if "is_output" in recording.coords:
        hidden = ~recording["is_output"].values.astype(bool)
    # A layer that never was measured, such as a frozen one, is no part of the network here.
    parts = [each[:, :, hidden] for each in (product, energy, of_true)]
    seen = np.isfinite(parts[0]).any(0)
    stacked = [np.where(seen, each, 0.0).sum(-1) for each in parts]
    whole = dict(zip(
        _variables(("rule",), "_hidden", "of all hidden weights stacked"),
        ((("step", "rule"), each) for each in _sums(steps, *stacked)),
        strict=True,
    ))  # fmt: skip
    return found.merge(dataset(whole, recording))


def _sums(
    steps: np.ndarray, product: np.ndarray, energy: np.ndarray, of_true: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return budget, its estimate over all steps, the climbing part and the share."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # Divided first, so that the square neither overflows nor is lost.
        spent = product / energy * product
        spent = np.where((energy > 0) & (of_true > 0), spent, np.nan)
        most = np.where(np.isfinite(spent), of_true, np.nan)
        recorded, every = cumulative_sum(steps, spent)
        climbing, _ = cumulative_sum(steps, np.where(product < 0, spent, 0.0 * spent))
        share = recorded / cumulative_sum(steps, most)[0]
    return recorded, every, climbing, np.minimum(share, 1.0)
