"""The second derivative of the loss in the outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.kernels.cosines import wide

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["Curvature", "curvature"]

_SAME = 1e-6
_SAME_ERROR = 1e-2


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
    output = snapshot.capture.output
    if not isinstance(output, Tensor) or output.shape != snapshot.task.error.shape:
        return Curvature("the model's output is not the pre-activation of its output layer")
    if output.device.type == "mps":
        return Curvature("this device has no float64")
    z = output.detach().double().requires_grad_()
    y = snapshot.y
    target = y.double() if isinstance(y, Tensor) and y.is_floating_point() else y
    try:
        with torch.enable_grad():
            loss = snapshot.loss_function(z, target)
            (error,) = torch.autograd.grad(loss, z, create_graph=True)
        matrix = _rows(error, z)
    except (RuntimeError, TypeError) as failed:
        reason = str(failed).splitlines()[0]
        return Curvature(f"the loss has no second derivative in float64 ({reason})")
    return _judged(snapshot, z.detach(), error.detach(), matrix)


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


def _judged(snapshot: Snapshot, z: Tensor, error: Tensor, matrix: Tensor) -> Curvature:
    given = wide(snapshot.task.error)
    values = torch.linalg.eigvalsh(matrix)
    unit = torch.diagonal(matrix).mean()
    rows = z.flatten(1)
    spread = (rows - rows.mean(0)).square().mean().sqrt()
    gap, size, lowest, highest, away, mean = (
        float(number)
        for number in fetched(
            [
                (error - given).norm(),
                given.norm(),
                values[0],
                values[-1],
                error.square().mean().sqrt() / unit / spread,
                unit,
            ]
        )
    )
    # Of a well-trained network the errors in float32 are mostly rounding.
    if not gap <= _SAME_ERROR * size + 1e-6 * highest:
        return Curvature("the error at the output layer is not the derivative at the output")
    is_squared = mean > 0.0 and max(highest - mean, mean - lowest) <= _SAME * mean
    return Curvature(
        "",
        matrix,
        is_squared,
        lowest >= -_SAME * abs(highest),
        away if is_squared else float("nan"),
    )
