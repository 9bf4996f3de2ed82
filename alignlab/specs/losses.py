"""Losses by name, which check targets before they are compared with outputs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.datasets._factories import call, import_object
from alignlab.errors import InputError, MissingError

__all__ = ["Loss", "build_loss"]

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss ``(output, target) -> scalar`` that says what is wrong with its targets.

    A call compares shapes and types only, so that nothing waits for an accelerator; what it cannot
    see there is found by ``check``, which is to be called once for every new data.

    Attributes:
        name: As the user wrote it.
        reduction: ``"mean"``, which for ``mse`` and ``bce`` runs over samples and outputs as in
            torch; ``"unknown"`` for a function of the user's that does not say it.
        function: The loss itself.
        check_shapes: Raises ``InputError`` where shapes or types do not fit.
        check_values: Raises ``InputError`` where values do not fit; waits for the device.
    """

    name: str
    reduction: str
    function: LossFunction
    check_shapes: Callable[[Tensor, Tensor], None]
    check_values: Callable[[Tensor, Tensor], None]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar; on the CPU with all of the checks.

        Args:
            output: The model's output, shape ``(N, C)``.
            target: Labels, int64, shape ``(N,)``, or targets of the output's shape.

        Raises:
            InputError: Targets that do not fit the output.
        """
        self.check_shapes(output, target)
        try:
            return self.function(output, target)
        except (IndexError, RuntimeError):
            self.check_values(output, target)
            raise

    def check(self, output: Tensor, target: Tensor) -> None:
        """Refuse targets that do not fit the output, in shape or in value.

        Args:
            output: The model's output, shape ``(N, C)``.
            target: Labels, int64, shape ``(N,)``, or targets of the output's shape.

        Raises:
            InputError: They do not fit.
        """
        self.check_shapes(output, target)
        self.check_values(output, target)


def build_loss(name: str) -> Loss:
    r"""Return the loss that a name stands for.

    - ``cross-entropy``: softmax and negative log likelihood of labels, mean over samples;
    - ``nll``: the same for a model that ends in log-softmax;
    - ``mse``: squared error, :math:`\frac{1}{NC}\sum_{ic}(o_{ic}-t_{ic})^2`, as
      ``torch.nn.functional.mse_loss``; labels become one-hot targets;
    - ``bce``: sigmoid and binary cross-entropy, mean over samples and outputs; labels become
      one-hot targets, or 0 and 1 for a single output;
    - ``file.py:function``: the user's own, called with output and target.

    Args:
        name: One of these.

    Returns:
        The loss.

    Raises:
        MissingError: No such loss, file or function.
        InputError: What the name refers to is no function.

    Example:
        >>> loss = build_loss("mse")
        >>> loss(torch.zeros(4, 10), torch.arange(4))
        tensor(0.1000)
    """
    if ":" in name:
        return _own(name)
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        message = (
            f"There is no loss {name!r}.{hint} They are: {', '.join(_BY_NAME)}, file.py:function."
        )
        raise MissingError(message)
    return _BY_NAME[name]


def _own(name: str) -> Loss:
    """Wrap the user's own loss."""
    found = import_object(name)
    if isinstance(found, type) and issubclass(found, nn.Module):
        found = call(found, {}, source=name)
    if not callable(found):
        message = f"{name} is {type(found).__name__}; a loss is a function of output and target."
        raise InputError(message)
    own = cast("Callable[[Tensor, Tensor], object]", found)

    def function(output: Tensor, target: Tensor) -> Tensor:
        value = own(output, target)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            message = f"{name} returned {shape}; a loss is one number, reduced over the batch."
            raise InputError(message)
        return value.reshape(())

    reduction = getattr(found, "reduction", "unknown")
    return Loss(name, str(reduction), function, _any, _any)


def _any(output: Tensor, target: Tensor) -> None:
    """Accept whatever is given."""


def _labels_fit(output: Tensor, target: Tensor) -> None:
    """Refuse targets that are no labels of this output's shape."""
    if target.is_floating_point():
        message = (
            f"Labels must be integers, and the targets are {target.dtype}; save them as integers, "
            "or use mse for targets that are numbers."
        )
        raise InputError(message)
    expected = (output.shape[0], *output.shape[2:]) if output.ndim else ()
    if output.ndim < 2 or target.shape != expected:
        message = (
            f"The model's output has the shape {tuple(output.shape)} and the labels "
            f"{tuple(target.shape)}; an output (N, C) goes with labels (N,)."
        )
        raise InputError(message)


def _labels_in_range(output: Tensor, target: Tensor) -> None:
    """Refuse labels for which the output has no entry."""
    if target.is_floating_point() or not target.numel():
        return
    low, high, classes = int(target.min()), int(target.max()), output.shape[1]
    if low < 0 or high >= classes:
        message = (
            f"Labels run from {low} to {high} and the model has {classes} outputs; they must lie "
            f"in 0..{classes - 1}. Check that model and data belong together."
        )
        raise InputError(message)


def _targets_fit(output: Tensor, target: Tensor) -> None:
    """Refuse targets that are neither labels nor of the output's shape."""
    if not target.is_floating_point():
        _labels_fit(output, target)
    elif target.shape not in {output.shape, _squeezed(output)}:
        message = (
            f"The model's output has the shape {tuple(output.shape)} and the targets "
            f"{tuple(target.shape)}; they must be the same."
        )
        raise InputError(message)


def _squeezed(output: Tensor) -> torch.Size:
    """Return the shape that targets of a single output may have as well."""
    return output.shape[:-1] if output.ndim == 2 and output.shape[1] == 1 else output.shape


def _binary_targets_fit(output: Tensor, target: Tensor) -> None:
    """Refuse targets that are neither labels nor of the output's shape; 0 and 1 for one output."""
    if target.shape != _squeezed(output):
        _targets_fit(output, target)


def _binary_in_range(output: Tensor, target: Tensor) -> None:
    """Refuse labels out of range and numbers outside of 0..1."""
    if not target.is_floating_point() and target.shape != _squeezed(output):
        _labels_in_range(output, target)
        return
    if target.numel() and (float(target.min()) < 0 or float(target.max()) > 1):
        message = (
            f"Targets of bce run from {float(target.min()):g} to {float(target.max()):g}; they "
            "must lie in 0..1."
        )
        raise InputError(message)


def _log_probabilities(output: Tensor, target: Tensor) -> None:
    """Refuse labels out of range, and outputs that are no log-probabilities."""
    _labels_in_range(output, target)
    total = output.detach().exp().sum(dim=1)
    if not torch.allclose(total, torch.ones_like(total), atol=1e-3):
        message = (
            f"nll needs a model that ends in log-softmax, and the first output's probabilities sum "
            f"to {float(total.reshape(-1)[0]):.3g}; use cross-entropy for logits."
        )
        raise InputError(message)


def _as_targets(output: Tensor, target: Tensor) -> Tensor:
    """Return float targets of the output's shape, labels as one-hot."""
    if target.is_floating_point():
        return target.to(output.dtype).reshape(output.shape)
    return torch.zeros_like(output).scatter(1, target.long().unsqueeze(1), 1.0)


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy; no label is silently left out."""
    return F.cross_entropy(output, target.long(), ignore_index=torch.iinfo(torch.int64).min)


def _nll(output: Tensor, target: Tensor) -> Tensor:
    """Return the negative log likelihood; no label is silently left out."""
    return F.nll_loss(output, target.long(), ignore_index=torch.iinfo(torch.int64).min)


def _mse(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error."""
    return F.mse_loss(output, _as_targets(output, target))


def _bce(output: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits."""
    if target.shape == _squeezed(output):
        target = target.to(output.dtype)
    return F.binary_cross_entropy_with_logits(output, _as_targets(output, target))


_BY_NAME = {
    "bce": Loss("bce", "mean", _bce, _binary_targets_fit, _binary_in_range),
    "cross-entropy": Loss("cross-entropy", "mean", _cross_entropy, _labels_fit, _labels_in_range),
    "mse": Loss("mse", "mean", _mse, _targets_fit, _labels_in_range),
    "nll": Loss("nll", "mean", _nll, _labels_fit, _log_probabilities),
}
