"""Names and objects that are found by where their file lies, or through an entry point.

A rule, diagnostic, figure, data set, model or hypothesis is one module of its package. Its public
name is the file name with hyphens, and the module's ``__all__`` holds the one object. Other
distributions add theirs through entry points of the group that is called like the package.
"""

from __future__ import annotations

import ast
import difflib
import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, cast

from alignlab.errors import InputError, MissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["declared", "load", "names", "summary"]


def names(package: str) -> list[str]:
    """Return the public names that a package offers, without importing any of them.

    Args:
        package: Dotted name of the package and of its entry-point group.

    Returns:
        Sorted names.

    Raises:
        InputError: Two distributions offer the same name.

    Example:
        >>> names("xml.parsers")
        ['expat']
    """
    modules = _modules(package)
    return sorted({*modules, *_entry_points(package, modules)})


def load(package: str, name: str) -> object:
    """Import the one object behind a public name.

    Args:
        package: Dotted name of the package and of its entry-point group.
        name: Public name, as ``names`` gives it.

    Returns:
        What the module's ``__all__`` names, or what the entry point refers to.

    Raises:
        MissingError: No such name; the text gives the nearest ones.
        InputError: The name exists twice, or the plugin behind it cannot be imported.
    """
    modules = _modules(package)
    plugins = _entry_points(package, modules)
    if name in plugins:
        return _load_entry_point(plugins[name])
    if name not in modules:
        raise MissingError(_unknown(package, name, sorted({*modules, *plugins})))
    module = import_module(f"{package}.{name.replace('-', '_')}")
    public = module.__all__
    if len(public) != 1:
        message = (
            f"{module.__name__} must hold one object in __all__; it names {list(public)}. "
            "Move what is shared into a file that begins with '_'."
        )
        raise InputError(message)
    return cast("object", getattr(module, public[0]))


def summary(package: str, name: str) -> str:
    """Return the first line of what a public name says about itself, without importing it.

    Args:
        package: Dotted name of the package and of its entry-point group.
        name: Public name, as ``names`` gives it.

    Returns:
        First line of the module's docstring; for an entry point, the distribution that brings it.
    """
    modules = _modules(package)
    plugins = _entry_points(package, modules)
    if name in plugins:
        return f"from {_distribution(plugins[name])}"
    if name not in modules:
        raise MissingError(_unknown(package, name, sorted({*modules, *plugins})))
    text = ast.get_docstring(ast.parse(modules[name].read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def declared(package: str, name: str, attribute: str) -> object:
    """Return what a module's class says of itself in an attribute, without importing it.

    Args:
        package: Dotted name of the package and of its entry-point group.
        name: Public name, as ``names`` gives it.
        attribute: Name of a class attribute that is written as a literal.

    Returns:
        The literal; None for an entry point, and where there is no such literal.
    """
    module = _modules(package).get(name)
    if module is None:
        return None
    tree = ast.parse(module.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in (each for one in classes for each in one.body):
        value = _value(node, attribute)
        if value is not None:
            return _literal(value)
    return None


def _value(node: ast.stmt, attribute: str) -> ast.expr | None:
    """Return what a statement of a class assigns to an attribute, if it does."""
    if isinstance(node, ast.AnnAssign):
        targets: list[ast.expr] = [node.target]
    elif isinstance(node, ast.Assign):
        targets = [target for target in node.targets if isinstance(target, ast.Name)]
    else:
        return None
    is_it = any(isinstance(target, ast.Name) and target.id == attribute for target in targets)
    return node.value if is_it else None


def _literal(value: ast.expr) -> object:
    """Return a literal; None for what has to be run to be known."""
    try:
        return cast("object", ast.literal_eval(value))
    except ValueError:
        return None


def _modules(package: str) -> dict[str, Path]:
    """Return public name -> file of the modules that a package's folders hold."""
    return {
        entry.name.replace("_", "-"): _source(Path(folder) / entry.name)
        for folder in _folders(package)
        for entry in iter_modules([folder])
        if not entry.name.startswith("_")
    }


def _source(module: Path) -> Path:
    """Return the source file of a module or of a package."""
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def _folders(package: str) -> list[str]:
    """Return the folders of a package; parents with lazy ``__init__`` files are all it imports."""
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        return []
    return list(spec.submodule_search_locations or []) if spec else []


@lru_cache(maxsize=64)
def _installed(group: str, _: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return a group's entry points; reading those of all distributions takes milliseconds."""
    return entry_points(group=group)


def _changed(folder: str) -> int:
    """Return when something was last installed in a folder."""
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _entry_points(package: str, own: Mapping[str, Path]) -> dict[str, EntryPoint]:
    """Return public name -> entry point, and refuse a name that exists twice."""
    found: dict[str, EntryPoint] = {}
    folders = tuple((folder, _changed(folder)) for folder in sys.path)
    for point in _installed(package, folders):
        if point.name in own or point.name in found:
            other = (
                package.partition(".")[0] if point.name in own else _distribution(found[point.name])
            )
            message = (
                f"{package} has {point.name!r} twice: from {other} and from "
                f"{_distribution(point)}. Uninstall one of them."
            )
            raise InputError(message)
        found[point.name] = point
    return found


def _distribution(point: EntryPoint) -> str:
    """Return the name of the distribution that an entry point comes from."""
    return point.dist.name if point.dist else "an unnamed distribution"


def _load_entry_point(point: EntryPoint) -> object:
    """Import an entry point; a plugin that fails costs only itself."""
    try:
        return cast("object", point.load())
    except (Exception, SystemExit) as error:
        message = (
            f"{point.name!r} of {_distribution(point)} cannot be imported: "
            f"{type(error).__name__}: {error}. Repair or uninstall that distribution."
        )
        raise InputError(message) from error


def _unknown(package: str, name: str, known: list[str]) -> str:
    """Return the one line for a name that is not there, the nearest names first."""
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    kind = package.rpartition(".")[2].replace("_", "-")
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no {name!r} among the {kind}.{hint} They are: {', '.join(known) or 'none'}."
