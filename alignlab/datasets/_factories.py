"""Objects out of the user's own code: ``file.py:name`` and ``package.module:name``.

A file is imported under a private name, with its folder importable only while that lasts, so that
neither the file nor its neighbours ever stand in for another module of the same name.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module, invalidate_caches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import cast

from alignlab.errors import AlignlabError, InputError, MissingError

__all__ = ["call", "import_object"]


def import_object(spec: str) -> object:
    """Import what ``file.py:name`` or ``package.module:name`` refers to.

    Args:
        spec: File or module, a colon, and the name of an object in it.

    Returns:
        The object.

    Raises:
        MissingError: No such file, module or object; the text lists the objects that are there.
        InputError: The SPEC has another form, or the code fails while it is imported.
    """
    where, colon, name = spec.rpartition(":")
    is_file = (where or spec).endswith(".py")
    if not colon or not where or not name:
        module = _import_file(Path(spec)) if is_file and Path(spec).is_file() else None
        there = f" It holds {_public(module)}." if module else ""
        message = f"{spec!r} names no object; write file.py:name or package.module:name.{there}"
        raise InputError(message)
    module = _import_file(Path(where)) if is_file else _import_module(where)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        message = f"{where} has no {name!r}.{hint} It holds {_public(module)}."
        raise MissingError(message)
    return cast("object", getattr(module, name))


def call(function: object, arguments: Mapping[str, object], *, source: str) -> object:
    """Call a factory; whatever it raises becomes one line.

    Args:
        function: The factory.
        arguments: Keyword arguments.
        source: How the user named it.

    Returns:
        What it returns.

    Raises:
        InputError: Not callable, arguments that it does not take, or an exception of its own.
    """
    if not callable(function):
        message = f"{source} is a {type(function).__name__}; it must be a function to call."
        raise InputError(message)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(function).parameters) or "no arguments"
        message = f"{source} cannot be called so: {error}. It takes {accepted}."
        raise InputError(message) from error
    except ValueError:
        pass  # written in C and without a signature: the call itself will tell
    try:
        return cast("object", function(**arguments))
    except AlignlabError:
        raise
    except (Exception, SystemExit) as error:
        message = f"{source} failed with {_one_line(error)}."
        raise InputError(message) from error


def _import_module(name: str) -> ModuleType:
    """Import an installed module by its dotted name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            message = f"{name} cannot be imported: {_one_line(error)}."
            raise InputError(message) from error
        message = (
            f"There is no module {error.name!r} to import; install it, set PYTHONPATH, or write "
            "file.py:name."
        )
        raise MissingError(message) from error
    except (Exception, SystemExit) as error:
        message = f"{name} cannot be imported: {_one_line(error)}."
        raise InputError(message) from error


def _import_file(path: Path) -> ModuleType:
    """Import a file under a private name."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        message = f"The file {path} {what}; write file.py:name with a path from this folder."
        raise MissingError(message)
    path = path.resolve()
    name = f"_alignlab_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"{path.name} cannot be imported as Python."
        raise InputError(message)
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        message = f"{path.name} cannot be imported: {_one_line(error)}."
        raise InputError(message) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make a folder importable, and forget afterwards what was imported from it."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            private = name.startswith("_alignlab_")
            if origin and not private and Path(origin).is_relative_to(folder):
                del sys.modules[name]


def _public(module: ModuleType) -> str:
    """Return what a module itself defines and may be called, for an error's text."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    ]
    return ", ".join(own) or "nothing that can be called"


def _one_line(error: BaseException) -> str:
    """Return an exception as one line, with the line of the file where the syntax is wrong."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}".removesuffix(".").removesuffix(": ")
