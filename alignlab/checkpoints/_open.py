"""A file to a checkpoint, or to one line that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from alignlab.checkpoints._checkpoint import Checkpoint
from alignlab.checkpoints._contents import (
    Contents,
    StateDict,
    children,
    find_contents,
    flat_tensors,
    foreign_modules,
    subtree,
)
from alignlab.checkpoints._feedback import biotorch_feedback, is_feedback_key, trainer_feedback
from alignlab.checkpoints._foreign import Foreign
from alignlab.checkpoints._names import strip_prefixes
from alignlab.checkpoints._read import Tree, one_line, read_tree
from alignlab.checkpoints._sniff import file_format
from alignlab.checkpoints._unsafe import unpickled
from alignlab.checkpoints._values import hyper_parameters, plain, plain_entries
from alignlab.errors import CheckpointError
from alignlab.feedback import tensors_of

__all__ = ["candidates", "open_checkpoint", "sha256"]

_SHOWN = 3
_REMEDY = (
    "save its weights where its code is (torch.save(model.state_dict(), FILE)), or pass "
    "--allow-unsafe-pickle if you trust the file"
)


def open_checkpoint(
    path: str | Path, *, allow_unsafe_pickle: bool = False, key: str = ""
) -> Checkpoint:
    """Open a file of weights without running anything that is in it.

    Read are state dicts that ``torch.save`` wrote (zip and legacy), nested as they may be, pickles
    of tensors or arrays, Lightning checkpoints and safetensors. The content decides, not the
    suffix.

    Args:
        path: File.
        allow_unsafe_pickle: Unpickle whole modules, which runs code of the file's choice.
        key: Dotted path of the state dict to take, where a file holds several.

    Returns:
        Weights on the host under names without prefixes; feedback apart from them.

    Raises:
        MissingError: There is no such file.
        CheckpointError: Anything else; the text says what the file is and what to do.
    """
    path = Path(path)
    with _one_line_refusals(path):
        form, tree = _read(path)
        root = tree.root
        if allow_unsafe_pickle and _whole_objects(root):
            root = unpickled(path)
        chosen, notes = _chosen(root, key)
        return _checkpoint(path, form, chosen, root=root, tree=tree, notes=notes)


def candidates(path: Path) -> tuple[str, Tree, Contents]:
    """Return a file's format, what it holds and the state dicts in it, without choosing one."""
    with _one_line_refusals(path):
        form, tree = _read(path)
        return form, tree, find_contents(tree.root)


@contextmanager
def _one_line_refusals(path: Path) -> Iterator[None]:
    """Put the file's name in front of refusals, and whatever names it holds on one line."""
    try:
        yield
    except CheckpointError as error:
        text = one_line(str(error).removeprefix(f"{path} ")).removesuffix(".")
        message = f"{path} {text}."
        raise CheckpointError(message) from error


def _read(path: Path) -> tuple[str, Tree]:
    form = file_format(path)
    return form, read_tree(path, form)


def sha256(path: Path) -> str:
    """Return the hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoint(
    path: Path,
    form: str,
    chosen: StateDict,
    *,
    root: object,
    tree: Tree,
    notes: tuple[str, ...],
) -> Checkpoint:
    """Put together what was found."""
    tensors, left_out = _clean(chosen.tensors)
    prefix, names = strip_prefixes(tensors)
    named = {new: tensors[old] for new, old in names.items()}
    weights = {name: value for name, value in named.items() if not is_feedback_key(name)}
    ours = children(children(root).get("alignlab"))
    feedback, said = trainer_feedback(ours, prefix, weights=weights)
    held = {
        ".".join(filter(None, (entry.key, part))): tensor
        for entry in feedback
        for part, tensor in tensors_of(entry.tensor).items()
    }
    _check_finite({**weights, **held})
    front = f"{chosen.key}." if chosen.key else ""
    inside = {f"{front}{name}" for name in chosen.tensors}
    metadata = {**plain_entries(root), **(tree.header or {})}
    if ours:
        kept = {name: value for name, value in ours.items() if name != "feedback"}
        metadata["alignlab"] = plain(kept)
    foreign = (_foreign_note(tree.foreign),) if tree.foreign else ()
    return Checkpoint(
        path=path,
        sha256=sha256(path),
        format=form,
        tensors=weights,
        hyper_parameters=hyper_parameters(root),
        feedback=(*feedback, *biotorch_feedback(named)),
        feedback_entries={name: named[name] for name in named if name not in weights},
        extras={name: value for name, value in flat_tensors(root) if name not in inside},
        metadata=metadata,
        key=chosen.key,
        prefix=prefix,
        notes=(*tree.notes, *notes, *left_out, *said, *foreign),
    )


def _chosen(root: object, key: str) -> tuple[StateDict, tuple[str, ...]]:
    """Return the state dict that is meant.

    Raises:
        CheckpointError: None, or several.
    """
    contents = find_contents(root)
    if key:
        exact = [one for one in contents.candidates if one.key == key]
        found = exact[0] if exact else subtree(root, key)
        if found is None:
            held = "; ".join(one.summary for one in contents.candidates) or "no state dict"
            message = f"has nothing under --key {key}; it holds {held}"
            raise CheckpointError(message)
        return found, ()
    if not contents.candidates:
        raise CheckpointError(_without_weights(root, has_optimizer=contents.has_optimizer))
    return contents.choose()


def _without_weights(root: object, *, has_optimizer: bool) -> str:
    """Say what a file without a state dict is and what to do."""
    whole = _whole_objects(root)
    if whole:
        where, kind, is_module = whole[0]
        what = "whole module" if is_module else "object"
        place = f" under {where!r}" if where else ""
        return f"is a pickle that holds a {what} of class {kind}{place}; {_REMEDY}"
    if has_optimizer:
        return "holds the state of an optimizer only, no weights; pass the model's state dict"
    if isinstance(root, Tensor):
        return f"holds one tensor of shape {tuple(root.shape)}, no state dict; save a state dict"
    tensors = list(flat_tensors(root))
    if tensors:
        names = ", ".join(name for name, _ in tensors[:_SHOWN])
        return f"holds tensors ({names}) but no weights under names; save a state dict"
    if isinstance(root, Mapping):
        names = ", ".join(map(str, list(root)[:_SHOWN])) or "nothing"
        return f"holds no tensors (a dict with {names}); pass the file with the weights"
    return f"holds a {type(root).__name__}, no weights; pass a state dict"


def _whole_objects(root: object) -> list[tuple[str, str, bool]]:
    """Return path, class and kind of what was pickled as an object rather than as weights."""
    found = [(where, node.path, True) for where, node in foreign_modules(root)]
    if not found and isinstance(root, Foreign) and not root.entries:
        found.append(("", root.path, False))
    return found


def _foreign_note(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"Objects of foreign classes ({', '.join(names[:_SHOWN])}{more}) were left unread; "
        f"the weights do not need them."
    )


def _clean(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return plain dense tensors, without the counter of averaged models.

    Raises:
        CheckpointError: Quantised, sparse or empty-shelled weights.
    """
    odd = [
        name
        for name, value in tensors.items()
        if value.layout != torch.strided or value.is_quantized or value.is_meta
    ]
    if odd:
        kind = "quantised" if tensors[odd[0]].is_quantized else "sparse or without numbers"
        message = f"holds weights that are {kind} ({odd[0]}); save them as plain dense tensors"
        raise CheckpointError(message)
    kept = {name: value.detach() for name, value in tensors.items() if name != "n_averaged"}
    if len(kept) < len(tensors):
        return kept, ("The weights are an average over training (AveragedModel).",)
    return kept, ()


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinities; masks may hold minus infinity.

    Raises:
        CheckpointError: The text names the first tensors.
    """
    bad = [
        f"{name} ({count:,} of {value.numel():,})"
        for name, value in tensors.items()
        if (count := _count_bad(name, value))
    ]
    if bad:
        more = f" and {len(bad) - _SHOWN} more tensors" if len(bad) > _SHOWN else ""
        message = (
            f"holds NaN or infinite numbers in {', '.join(bad[:_SHOWN])}{more}; "
            f"training diverged, pass an earlier checkpoint"
        )
        raise CheckpointError(message)


def _count_bad(name: str, tensor: Tensor) -> int:
    """Return how many numbers are NaN or infinite; repeated ones count once."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    strides = zip(tensor.stride(), tensor.shape, strict=True)
    once = tensor[tuple(slice(0, 1) if not step else slice(size) for step, size in strides)]
    bad = ~torch.isfinite(once)
    if "mask" in name.rpartition(".")[2]:
        bad &= ~torch.isneginf(once)
    return int(bad.sum())
