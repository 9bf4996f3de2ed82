"""Backward weights that follow the steps of the forward ones: what such rules share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from alignlab.engine.modules import plain_name
from alignlab.errors import InputError, MeasurementError
from alignlab.feedback import Feedback, generator, unit_draw

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture

__all__ = [
    "check_share",
    "drawn_weights",
    "refuse_grouped",
    "require_layers_alone",
    "require_parameters",
    "steps_of",
]


def check_share(option: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        InputError: The value does not lie between 0 and 1.
    """
    if not 0.0 <= value <= 1.0:
        msg = f"The option {option}={value} is no share; give a number from 0 to 1."
        raise InputError(msg)


def drawn_weights(
    weights: Mapping[str, Tensor],
    *,
    rule: str,
    seed: int,
    distribution: str = "normal",
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Draw a tensor of the shape of every weight, with variance scale^2 / fan_in.

    Args:
        weights: Forward weights by name.
        rule: Name of the rule, whose streams are its own.
        seed: Seed of the draw.
        distribution: One of ``feedback.DISTRIBUTIONS``.
        scale: Factor on every entry.
    """
    result = {}
    for name, weight in weights.items():
        stream = generator(seed, rule, name)
        unit = unit_draw(tuple(weight.shape), distribution, stream=stream)
        result[name] = unit.to(weight) * (scale / weight[0].numel() ** 0.5)
    return result


def require_parameters(capture: Capture, rule: str) -> None:
    """Refuse weights that are no parameters, whose steps cannot be followed.

    Args:
        capture: A captured forward pass.
        rule: Name of the rule.

    Raises:
        MeasurementError: Names the layer.
    """
    named = {plain_name(n) for n, _ in capture.model.named_parameters(remove_duplicate=False)}
    for name in capture.module_weights():
        if _parameter_of(name, named) is None:
            msg = (
                f"The rule {rule} follows the steps of weights, and that of {name!r} is no "
                "parameter but computed from others (weight or spectral normalisation, a "
                "parametrisation); take that off the layer, or use fa."
            )
            raise MeasurementError(msg)


def require_layers_alone(capture: Capture, rule: str, need: str) -> None:
    """Refuse weights that act outside of measured modules.

    Args:
        capture: A captured forward pass.
        rule: Name of the rule.
        need: What the rule needs of a weight, to be said in the refusal.

    Raises:
        MeasurementError: Names the parameter.
    """
    for name in capture.other_weights:
        msg = (
            f"The rule {rule} needs {need}, and the parameter {name!r} acts as a weight outside "
            "of Linear and convolution modules, where that is not known; use kp."
        )
        raise MeasurementError(msg)


def refuse_grouped(capture: Capture, rule: str) -> None:
    """Refuse convolutions whose weight is no one matrix from inputs to outputs, by its rows.

    Args:
        capture: A captured forward pass.
        rule: Name of the rule.

    Raises:
        MeasurementError: Names the layer.
    """
    for layer in capture.layers:
        groups = getattr(capture.module_of(layer), "groups", 1)
        if groups > 1 or layer.kind.startswith("ConvTranspose"):
            kind = "a transposed convolution" if groups == 1 else f"in {groups} groups"
            msg = (
                f"The rule {rule} puts a matrix behind the output channels of every layer, and "
                f"{layer.name!r} is {kind}, where its weight has no such factor; use kp."
            )
            raise MeasurementError(msg)


def steps_of(
    state: Mapping[str, Feedback], *, before: Mapping[str, Feedback], after: Mapping[str, Feedback]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the weights before and after a step by the name under which a state holds feedback.

    Args:
        state: What a rule holds; entries that are of no weight are left out.
        before: Parameters before the step of the optimizer, by every name that they have.
        after: Parameters after it.
    """
    plain = {plain_name(name): name for name in before}
    result = {}
    for name in state:
        found = _parameter_of(name, plain)
        if found is not None:
            first, second = before[plain[found]], after[plain[found]]
            assert isinstance(first, Tensor)
            assert isinstance(second, Tensor)
            result[name] = (first.detach(), second.detach())
    return result


def _parameter_of(name: str, named: Collection[str]) -> str | None:
    """Return the parameter behind the name of a measured module or of a parameter."""
    candidates = (f"{name}.weight" if name else "weight", name)
    return next((each for each in candidates if each in named), None)
