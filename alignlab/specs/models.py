"""From a model SPEC to a network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from alignlab import plugins
from alignlab.datasets._factories import call, import_object
from alignlab.errors import InputError, MissingError

__all__ = ["build_model"]


def build_model(spec: str, arguments: Mapping[str, object] | None = None) -> nn.Module:
    """Build the network that a SPEC names.

    Weights are never downloaded: torchvision and timm build theirs untrained unless the arguments
    say otherwise.

    Args:
        spec: ``file.py:factory``, ``package.module:factory``, ``torchvision:NAME``, ``timm:NAME``
            or ``alignlab:NAME``. A factory is a function or a class; a module that is already
            built may be named as well.
        arguments: Keyword arguments of the factory.

    Returns:
        The network, in the mode and on the device in which the factory left it.

    Raises:
        MissingError: No such file, module, factory, network or package.
        InputError: The factory refuses the arguments, fails, or returns no ``torch.nn.Module``.

    Example:
        >>> build_model("alignlab:mlp", {"widths": (32,)}).fc1
        Linear(in_features=64, out_features=32, bias=True)
    """
    given = dict(arguments or {})
    source, _, name = spec.partition(":")
    builders: dict[str, Callable[[str, dict[str, object]], object]] = {
        "alignlab": _alignlab,
        "timm": _timm,
        "torchvision": _torchvision,
    }
    model = builders[source](name, given) if source in builders and name else _own(spec, given)
    if not isinstance(model, nn.Module):
        message = (
            f"{spec} returned {type(model).__name__}; it must return a torch.nn.Module, the "
            "network without its weights."
        )
        raise InputError(message)
    return model


def _own(spec: str, arguments: dict[str, object]) -> object:
    """Build from the user's own code."""
    found = import_object(spec)
    if isinstance(found, nn.Module):
        if arguments:
            message = f"{spec} is already built and takes no arguments; name a factory instead."
            raise InputError(message)
        return found
    return call(found, arguments, source=spec)


def _alignlab(name: str, arguments: dict[str, object]) -> object:
    """Build one of the reference networks."""
    return call(plugins.load("alignlab.models", name), arguments, source=f"alignlab:{name}")


def _torchvision(name: str, arguments: dict[str, object]) -> object:
    """Build a torchvision network without weights."""
    models: Any = _optional("torchvision.models", install="torchvision")
    _known(name, models.list_models(), package="torchvision")
    options = {"weights": None, **arguments, "name": name}
    return call(models.get_model, options, source=f"torchvision:{name}")


def _timm(name: str, arguments: dict[str, object]) -> object:
    """Build a timm network without weights."""
    timm: Any = _optional("timm", install="timm")
    _known(name.partition(".")[0], timm.list_models(), package="timm")
    options = {"pretrained": False, **arguments, "model_name": name}
    return call(timm.create_model, options, source=f"timm:{name}")


def _optional(module: str, *, install: str) -> ModuleType:
    """Import a package that alignlab does not need itself."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != install:
            raise _broken(install, error) from error
        message = f"{install} is not installed; install it, or name a factory of your own."
        raise MissingError(message) from error
    except Exception as error:
        raise _broken(install, error) from error


def _broken(install: str, error: Exception) -> MissingError:
    """Return the error for a package that is installed and cannot be imported."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return MissingError(
        f"{install} is installed and cannot be imported ({text}); install the version that "
        "belongs to this torch."
    )


def _known(name: str, names: list[str], *, package: str) -> None:
    """Refuse a name that the package does not list."""
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    message = f"{package} has no network {name!r}.{hint} It lists {len(names)} of them."
    raise MissingError(message)
