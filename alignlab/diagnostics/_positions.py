"""Why some layers have no gradients of single positions."""

from __future__ import annotations

from alignlab.layer_view import LayerView

__all__ = ["not_at_positions"]


def not_at_positions(view: LayerView) -> str:
    """Return why a layer's gradient is no sum of gradients of single positions, a clause."""
    if not view.is_local:
        return "the update of its weight is no sum over positions"
    if view.layer.kind.startswith("ConvTranspose"):
        return "several input positions meet at an output position of a transposed convolution"
    return "its weight acts at one position alone"
