"""Feedback as plain values for files, and the hash by which two runs prove that they shared it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from alignlab.errors import InputError
from alignlab.feedback._forms import Factored, Feedback, Positional, Seeded

__all__ = ["decoded", "digest", "encoded", "tensors_of"]

FORM = "form"


def encoded(feedback: Mapping[str, Feedback]) -> dict[str, Any]:
    """Return feedback as tensors, and dicts of tensors, numbers and texts.

    Args:
        feedback: By layer name.

    Returns:
        By layer name: a contiguous tensor on the host for plain feedback; for the others a
        dict with ``form`` and what the form holds. Shared factors stay one tensor.
    """
    held: dict[int, Tensor] = {}

    def plain(tensor: Tensor) -> Tensor:
        if id(tensor) not in held:
            held[id(tensor)] = tensor.detach().cpu().contiguous()
        return held[id(tensor)]

    def value(one: Feedback) -> Any:
        if isinstance(one, Tensor):
            return plain(one)
        if isinstance(one, Factored):
            return {FORM: "factored", "left": plain(one.left), "right": plain(one.right)}
        if isinstance(one, Seeded):
            return {FORM: "seeded", **_description(one)}
        places = {k: _listed(getattr(one, k)) for k in _PLACES}
        return {FORM: "positional", "matrix": value(one.matrix), **places}

    return {name: value(one) for name, one in feedback.items()}


def decoded(value: Any) -> Feedback:
    """Return the feedback of a layer that ``encoded`` wrote.

    Raises:
        InputError: It is not what ``encoded`` writes.
    """
    try:
        return _decoded(value)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        msg = f"The stored feedback is of no known form ({type(error).__name__}: {error})."
        raise InputError(msg) from error


def digest(feedback: Mapping[str, Feedback]) -> str:
    """Return one hash of all feedback, by which two runs can prove that they shared it.

    Args:
        feedback: By layer name.

    Returns:
        SHA-256 over names, shapes and float32 values, hexadecimal; of seeded feedback over its
        description, from which all values follow.
    """
    sha = hashlib.sha256()
    for name in sorted(feedback):
        for text, tensor in _hashed(name, feedback[name]):
            sha.update(text.encode())
            if tensor is not None:
                sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def tensors_of(feedback: Feedback) -> dict[str, Tensor]:
    """Return the tensors that are held for a layer, by what they are; "" for a plain one."""
    if isinstance(feedback, Positional):
        return tensors_of(feedback.matrix)
    if isinstance(feedback, Factored):
        return {"left": feedback.left, "right": feedback.right}
    return {} if isinstance(feedback, Seeded) else {"": feedback}


_PLACES = ("error_shape", "error_axis", "entry_shape", "entry_axis")
_NUMBERS = ("seed", "names", "shape", "drawn", "width", "distribution", "factor")


def _hashed(name: str, feedback: Feedback) -> Iterator[tuple[str, Tensor | None]]:
    if isinstance(feedback, Positional):
        places = {k: _listed(getattr(feedback, k)) for k in _PLACES}
        yield f"positional{json.dumps(places)}", None
        yield from _hashed(name, feedback.matrix)
    elif isinstance(feedback, Seeded):
        yield f"{name}{json.dumps(_description(feedback))}", None
    else:
        for part, tensor in tensors_of(feedback).items():
            plain = tensor.detach().to("cpu", torch.float32).contiguous()
            yield f"{name}{part}{tuple(plain.shape)}", plain


def _description(seeded: Seeded) -> dict[str, Any]:
    """Return what decides the values; how many classes are formed at once does not."""
    return {key: _listed(getattr(seeded, key)) for key in _NUMBERS}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _decoded(value: Any) -> Feedback:
    if isinstance(value, Tensor):
        return value.detach()
    form = value[FORM]
    if form == "factored":
        return Factored(value["left"].detach(), value["right"].detach())
    if form == "seeded":
        return Seeded(
            seed=int(value["seed"]),
            names=tuple(map(str, value["names"])),
            shape=_sizes(value["shape"]),
            drawn=_sizes(value["drawn"]),
            width=int(value["width"]),
            distribution=str(value["distribution"]),
            factor=float(value["factor"]),
        )
    if form == "positional":
        matrix = _decoded(value["matrix"])
        if isinstance(matrix, Positional):
            msg = "positional feedback of positional feedback"
            raise ValueError(msg)
        return Positional(
            matrix,
            error_shape=_sizes(value["error_shape"]),
            error_axis=int(value["error_axis"]),
            entry_shape=_sizes(value["entry_shape"]),
            entry_axis=int(value["entry_axis"]),
        )
    msg = f"form {form!r}"
    raise ValueError(msg)


def _sizes(values: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in values)
