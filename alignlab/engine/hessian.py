"""Second derivatives of the loss in the parameters, applied to directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError

__all__ = ["Hessian", "differentiable_kernels"]


@final
class Hessian:
    """The Hessian of a captured loss in all parameters that learn, never written out.

    The graph of the gradient is built once and kept, which takes about the memory of the forward
    pass again; a product is then one more backward pass through both.

    Attributes:
        names: Of the parameters, in the order of the model.
    """

    def __init__(self, capture: Capture) -> None:
        """Build the graph of the gradient.

        Args:
            capture: A forward pass, held open.

        Raises:
            MeasurementError: A backward in the graph cannot itself be differentiated.
        """
        named = {n: p for n, p in capture.model.named_parameters() if p.requires_grad}
        self.names: Final = tuple(named)
        self._parameters: Final = list(named.values())
        with torch.enable_grad(), _explained():
            found = torch.autograd.grad(
                capture.loss, self._parameters, create_graph=True, allow_unused=True
            )
        self._gradients: Final = [
            (name, gradient)
            for name, gradient in zip(self.names, found, strict=True)
            if gradient is not None and gradient.requires_grad
        ]

    def product(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the Hessian times a direction.

        Args:
            direction: By parameter name, in the shapes of the parameters.

        Returns:
            Likewise; zero for parameters on which the gradient does not depend.

        Raises:
            MeasurementError: A backward in the graph cannot itself be differentiated.
        """
        if not self._gradients:
            return dict(zip(self.names, map(torch.zeros_like, self._parameters), strict=True))
        with _explained():
            found = torch.autograd.grad(
                [gradient for _, gradient in self._gradients],
                self._parameters,
                grad_outputs=[direction[name].to(g) for name, g in self._gradients],
                retain_graph=True,
                allow_unused=True,
            )
        return {
            name: torch.zeros_like(p) if each is None else each
            for name, p, each in zip(self.names, self._parameters, found, strict=True)
        }


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Run attention and recurrent modules by kernels that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the refusal of a kernel into one of ours."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not any(words in text for words in ("derivative", "not implemented", "double backward")):
            raise
        msg = f"a backward in the graph cannot be differentiated again ({error})"
        raise MeasurementError(msg) from error
