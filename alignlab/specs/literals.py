"""Values that a user writes: literals and bare words, never evaluated."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable

from alignlab.errors import InputError

__all__ = ["literal", "parse_arguments", "split_options"]

_WORDS = {"true": True, "false": False, "none": None}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)
"""A quoted text as a whole, or one character."""


def literal(text: str) -> object:
    """Return the value that a text spells, or the text itself where it spells none.

    Args:
        text: A Python literal, ``true``, ``false`` or ``none`` in any case, or a bare word.

    Returns:
        The value; nothing is ever evaluated.

    Example:
        >>> literal("(64, 32)"), literal("1e-3"), literal("uniform"), literal("false")
        ((64, 32), 0.001, 'uniform', False)
    """
    stripped = text.strip()
    if stripped.lower() in _WORDS:
        return _WORDS[stripped.lower()]
    try:
        with warnings.catch_warnings(action="ignore"):
            value: object = ast.literal_eval(stripped)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return stripped
    return value


def parse_arguments(pairs: Iterable[str]) -> dict[str, object]:
    """Return arguments written as ``key=value``.

    Args:
        pairs: Such as ``widths=(64, 32)`` and ``activation=tanh``.

    Returns:
        Value by key, in the order given.

    Raises:
        InputError: No ``=``, a key that is no name, or a key given twice.

    Example:
        >>> parse_arguments(["widths=64,32", "activation=tanh"])
        {'widths': (64, 32), 'activation': 'tanh'}
    """
    arguments: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value or not key.isidentifier():
            message = f"{pair!r} is no option; write key=value."
            raise InputError(message)
        if key in arguments:
            message = f"{key} is given twice; write it once."
            raise InputError(message)
        arguments[key] = literal(value)
    return arguments


def split_options(text: str) -> list[str]:
    """Split at the commas that lie outside of brackets and quotes.

    Args:
        text: Such as ``distribution=uniform, widths=(64, 32)``.

    Returns:
        Parts without surrounding blanks; none for a blank text.

    Raises:
        InputError: A bracket or quote that is never closed, or one that closes nothing.

    Example:
        >>> split_options("distribution=uniform, widths=(64, 32)")
        ['distribution=uniform', 'widths=(64, 32)']
    """
    parts, closing = [""], list[str]()
    for token in _TOKEN.findall(text):
        if token in _CLOSING:
            closing.append(_CLOSING[token])
        elif token in _CLOSING.values() and (not closing or closing.pop() != token):
            message = f"{text!r} has a {token!r} that closes nothing; check its brackets."
            raise InputError(message)
        elif token in {"'", '"'}:
            message = f"{text!r} has a {token} that is never closed; check its quotes."
            raise InputError(message)
        if token == "," and not closing:
            parts.append("")
        else:
            parts[-1] += token
    if closing:
        message = f"{text!r} never closes with {closing[-1]!r}; check its brackets."
        raise InputError(message)
    stripped = [part.strip() for part in parts]
    return [] if stripped == [""] else stripped
