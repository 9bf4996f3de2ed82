"""The second derivative of the loss in the outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import wide

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["Curvature", "curvature", "error_at_output"]

_SAME = 1e-6
_SAME_ERROR, _ROUNDING = 1e-2, 1e-6
_OTHER = "the model's output is not the pre-activation of its output layer"


@dataclass(frozen=True)
class Curvature:
    r"""How the error follows the outputs, :math:`\delta e = H\,\delta z`.

    Attributes:
        because: Why it is not known, a clause; empty where it is.
        matrix: H, shape ``(n, n)`` with n samples times outputs, samples first, float64.
        is_squared: Whether it is a positive multiple of the identity, as for squared error.
        is_convex: Whether it has no negative eigenvalue.
        distance: For squared error, root mean square of output minus target over that of the
            outputs without their mean over samples; NaN for any other loss.
    """

    because: str = ""
    matrix: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    is_squared: bool = False
    is_convex: bool = False
    distance: float = float("nan")


def curvature(snapshot: Snapshot) -> Curvature:
    """Return the curvature of a snapshot's loss; for ``Snapshot.shared``."""
    try:
        z, error = error_at_output(snapshot)
        return _judged(z.detach(), error.detach(), _rows(error, z))
    except MeasurementError as failed:
        return Curvature(str(failed))
    except RuntimeError as failed:
        return Curvature(f"the loss has no second derivative ({str(failed).splitlines()[0]})")


def error_at_output(snapshot: Snapshot) -> tuple[Tensor, Tensor]:
    """Return the outputs and the derivative of the loss there, on a graph of their own.

    Returns:
        Both float64, of the shape of the output layer's pre-activation.

    Raises:
        MeasurementError: The output is not that pre-activation, or the loss has no derivative in
            float64; a clause.
    """
    output, given = snapshot.capture.output, snapshot.task.error
    if not isinstance(output, Tensor) or output.shape != given.shape:
        raise MeasurementError(_OTHER)
    if output.device.type == "mps":
        msg = "this device has no float64"
        raise MeasurementError(msg)
    z, y = output.detach().double().requires_grad_(), snapshot.y
    target = y.double() if isinstance(y, Tensor) and y.is_floating_point() else y
    try:
        with torch.enable_grad():
            loss = snapshot.loss_function(z, target)
            (error,) = torch.autograd.grad(loss, z, create_graph=True)
    except (RuntimeError, TypeError) as failed:
        msg = f"the loss cannot be had in float64 ({str(failed).splitlines()[0]})"
        raise MeasurementError(msg) from failed
    gap, size = fetched([(error.detach() - wide(given)).norm(), wide(given).norm()])
    # Of a well-trained network the errors in float32 are mostly rounding.
    if not gap <= _SAME_ERROR * size + _ROUNDING / len(z):
        raise MeasurementError(_OTHER)
    return z, error


def _rows(error: Tensor, z: Tensor) -> Tensor:
    size = z.numel()
    if not error.requires_grad:
        return z.new_zeros(size, size)
    rows = []
    for entry in error.flatten():
        (row,) = torch.autograd.grad(entry, z, retain_graph=True, allow_unused=True)
        rows.append(z.new_zeros(size) if row is None else row.flatten())
    matrix = torch.stack(rows).detach()
    return (matrix + matrix.T) / 2.0


def _judged(z: Tensor, error: Tensor, matrix: Tensor) -> Curvature:
    values = torch.linalg.eigvalsh(matrix)
    unit = torch.diagonal(matrix).mean()
    rows = z.flatten(1)
    spread = (rows - rows.mean(0)).square().mean().sqrt()
    away = error.square().mean().sqrt() / unit / spread
    lowest, highest, mean, distance = (
        float(number) for number in fetched([values[0], values[-1], unit, away])
    )
    is_squared = mean > 0.0 and max(highest - mean, mean - lowest) <= _SAME * mean
    is_convex = lowest >= -_SAME * abs(highest)
    return Curvature("", matrix, is_squared, is_convex, distance if is_squared else float("nan"))
