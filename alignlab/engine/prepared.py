"""What a model is before its forward pass: made once, and again where the model has changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, final

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from alignlab.engine.attach import Attachment
from alignlab.engine.forward import is_compiled
from alignlab.engine.modules import has_own_weight, measured_modules
from alignlab.engine.own_map import needs_check

__all__ = ["Prepared"]


@final
class Prepared:
    """The measured modules of a model, and how its forward pass is to be run.

    Attributes:
        modules: Measured modules by name.
        parameters: All parameters of the model by name, tied ones once.
        is_compiled: Whether the model has compiled modules.
    """

    def __init__(self, model: nn.Module, only: Sequence[str] | None = None) -> None:
        """Look at a model.

        Args:
            model: Any module.
            only: Names of the modules that are measured; None for all.

        Raises:
            InputError: A name is not that of such a module.
            MeasurementError: The model has none, or has weights without values.
        """
        self.modules: Final = measured_modules(model, only)
        self.parameters: Final = dict(model.named_parameters())
        self.is_compiled: Final = is_compiled(model)
        self._model: Final = model
        self._traits, self._parts = _traits(model)

    @property
    def is_up_to_date(self) -> bool:
        """Whether all modules and parameters are the same, and run as they did."""
        return _traits(self._model)[0] == self._traits

    @cached_property
    def needs_no_record(self) -> bool:
        """Whether a backward pass runs the same without the tensors that the swap keeps.

        Of buffers that change while they are needed it keeps copies; normalisations have none
        such.
        """
        holders = (module for module in self._model.modules() if module._buffers)
        return all(isinstance(each, _NormBase) for each in holders) and all(
            has_own_weight(module) and not needs_check(module) for module in self.modules.values()
        )

    @cached_property
    def attachment(self) -> Attachment:
        """Hooks for passes of which no weights are recorded."""
        return Attachment(self.modules, None)


def _traits(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """Return what tells a model from what it may become, and the parts that this speaks of."""
    traits: list[Any] = []
    parts: list[Any] = [model]
    seen = {model}
    for module in parts:
        own = vars(module)
        traits += (id(module), type(module), "forward" in own, bool(own["_buffers"]))
        traits.append(own.get("_compiled_call_impl"))
        for name, below in own["_modules"].items():
            traits.append(name)
            if below is not None and below not in seen:
                seen.add(below)
                parts.append(below)
        for name, parameter in own["_parameters"].items():
            traits += (name, id(parameter))
    held = [p for module in parts for p in vars(module)["_parameters"].values()]
    return traits, [*parts, *held]
