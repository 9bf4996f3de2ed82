"""Names of weights: prefixes taken off, renamed, and matched to those of a model."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from alignlab.errors import InputError

__all__ = ["PREFIXES", "rename_all", "restored", "strip_prefixes", "suggest_renames"]

PREFIXES = ("module.", "model.", "net.")
"""What wrappers put in front of every name; taken off where all names have it."""

_COMPILED = "_orig_mod."
_MOST_NAMES = 3000
_MOST_RENAMES = 12

Shapes = Mapping[str, tuple[int, ...]]


def strip_prefixes(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Take off what wrappers put in front of all names, and torch.compile anywhere in them.

    Args:
        names: Names in a state dict.

    Returns:
        What all names had in front, and the old name of every new one.

    Example:
        >>> strip_prefixes(["module.net.fc.weight", "module.net.fc.bias"])
        ('module.net.', {'fc.weight': 'module.net.fc.weight', 'fc.bias': 'module.net.fc.bias'})
    """
    stripped = {name.replace(_COMPILED, ""): name for name in names}
    prefix = ""
    while stripped and (common := _common_prefix(stripped)):
        prefix += common
        stripped = {name[len(common) :]: old for name, old in stripped.items()}
    return prefix, stripped


def restored(prefix: str) -> list[str]:
    """Return what may have to be put back in front of all names, the shortest first.

    Example:
        >>> restored("module.net.")
        ['', 'net.', 'module.net.']
    """
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[start:]) for start in range(len(parts), -1, -1)]


def rename_all(names: Sequence[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Rename by whole names and by leading parts; of several that fit the longest decides.

    Args:
        names: Names to change.
        rename: New name or leading part by old one, with or without the dot at the end; the empty
            old part stands in front of every name.

    Returns:
        New name of every old one.

    Raises:
        InputError: An entry fits no name, or two names become the same.

    Example:
        >>> rename_all(["encoder.0.weight", "fc.weight"], {"encoder": "features", "fc.": ""})
        {'encoder.0.weight': 'features.0.weight', 'fc.weight': 'weight'}
    """
    used: set[str] = set()
    result: dict[str, str] = {}
    for name in names:
        fitting = [old for old in rename if _fits(name, old)]
        old = max(fitting, key=len, default=None)
        used.update(fitting)
        result[name] = name if old is None else _renamed(name, old, rename[old])
    for old in rename:
        if old not in used:
            near = difflib.get_close_matches(old, _leading_parts(names), n=3, cutoff=0.4)
            held = ", ".join(near or list(names)[:3])
            message = f"--rename {old}={rename[old]} fits no name in the file; nearest: {held}."
            raise InputError(message)
    counts = Counter(result.values())
    twice = [new for new, count in counts.items() if count > 1]
    if twice:
        message = f"--rename gives two tensors the name {twice[0]}; make the new names differ."
        raise InputError(message)
    return result


def suggest_renames(missing: Shapes, unexpected: Shapes, kept: Iterable[str]) -> dict[str, str]:
    """Find renames that carry unexpected names to missing ones of equal shape.

    Leading parts are changed where the rest of the names agrees; what then remains is matched
    module by module, in order, where shapes agree.

    Args:
        missing: Shapes that the model lacks, by name.
        unexpected: Shapes that the file has too many, by name.
        kept: Names that already fit, which no rename may touch.

    Returns:
        New part by old part; empty where nothing is found.
    """
    wanted, given, fixed = dict(missing), dict(unexpected), tuple(kept)
    if len(wanted) > _MOST_NAMES or len(given) > _MOST_NAMES:
        return {}
    found: dict[str, str] = {}
    while len(found) < _MOST_RENAMES:
        old, new, hits = _best_prefix(wanted, given, fixed)
        if not hits:
            break
        found[old] = new
        for name, target in hits.items():
            del given[name], wanted[target]
    for old, new in _matched_modules(wanted, given):
        if not any(_fits(name, old) for name in fixed) and old not in found:
            found[old] = new
    return dict(list(found.items())[:_MOST_RENAMES])


def _common_prefix(names: Iterable[str]) -> str:
    held = list(names)
    return next((one for one in PREFIXES if all(name.startswith(one) for name in held)), "")


def _fits(name: str, old: str) -> bool:
    part = old.removesuffix(".")
    return not part or name == part or name.startswith(f"{part}.")


def _renamed(name: str, old: str, new: str) -> str:
    part, put = old.removesuffix("."), new.removesuffix(".")
    rest = name[len(part) :].removeprefix(".")
    return ".".join(piece for piece in (put, rest) if piece)


def _leading_parts(names: Iterable[str]) -> list[str]:
    parts: dict[str, None] = {}
    for name in names:
        pieces = name.split(".")
        parts.update(dict.fromkeys(".".join(pieces[:n]) for n in range(1, len(pieces) + 1)))
    return list(parts)


def _best_prefix(
    wanted: Shapes, given: Shapes, fixed: Sequence[str]
) -> tuple[str, str, dict[str, str]]:
    """Return the change of a leading part that brings most names to a wanted one."""
    by_leaf: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in wanted.items():
        by_leaf.setdefault((name.rpartition(".")[2], shape), []).append(name)
    pairs: dict[tuple[str, str], None] = {}
    for name, shape in given.items():
        for target in by_leaf.get((name.rpartition(".")[2], shape), ()):
            pair = _differing_parts(name, target)
            if pair is not None:
                pairs[pair] = None
    best: tuple[str, str, dict[str, str]] = ("", "", {})
    for old, new in pairs:
        if any(_fits(name, old) for name in fixed):
            continue
        moved = {name: _renamed(name, old, new) for name in given if _fits(name, old)}
        hits = {a: b for a, b in moved.items() if wanted.get(b) == given[a]}
        if len(hits) > len(best[2]) and (old or len(hits) == len(moved)):
            best = (old, new, hits)
    return best


def _differing_parts(name: str, target: str) -> tuple[str, str] | None:
    """Return what stands before the common end of two names, where that end says something."""
    left, right = name.split("."), target.split(".")
    common = 0
    while common < min(len(left), len(right)) and left[-1 - common] == right[-1 - common]:
        common += 1
    old, new = left[: len(left) - common], right[: len(right) - common]
    if common < 2 and old and new:
        return None
    return ".".join(old), ".".join(new)


def _matched_modules(wanted: Shapes, given: Shapes) -> list[tuple[str, str]]:
    """Match modules in order of appearance, by the names and shapes of what they hold."""
    old, new = _modules(given), _modules(wanted)
    matcher = difflib.SequenceMatcher(
        None, list(map(str, old.values())), list(map(str, new.values())), autojunk=False
    )
    names = list(old), list(new)
    return [
        (names[0][a + step], names[1][b + step])
        for a, b, size in matcher.get_matching_blocks()
        for step in range(size)
        if names[0][a + step]
    ]


def _modules(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = shape
    return {name: dict(sorted(held.items())) for name, held in modules.items()}
