"""What is in a checkpoint, as text and as plain values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from alignlab.checkpoints._checkpoint import Checkpoint, StoredFeedback
from alignlab.checkpoints._contents import Contents
from alignlab.checkpoints._layers import guess_layers
from alignlab.checkpoints._open import candidates, open_checkpoint, sha256
from alignlab.errors import CheckpointError

__all__ = ["describe", "describe_json"]

_SUSPECT = ("feedback", "backward", "fb_", "_fb", "fixed_")
_MOST_LAYERS = 60
_MOST_VALUES = 30


def describe(path: str | Path, *, allow_unsafe_pickle: bool = False, key: str = "") -> str:
    """Return what is in a file, with what to pass to ``alignlab analyze checkpoint``.

    Args:
        path: File.
        allow_unsafe_pickle: Unpickle whole modules, which runs code of the file's choice.
        key: Dotted path of the state dict to take, where a file holds several.

    Returns:
        Several lines of text. Where a file holds several networks they are listed.

    Raises:
        MissingError: There is no such file.
        CheckpointError: The file is refused; the text says what it is.
    """
    held = describe_json(path, allow_unsafe_pickle=allow_unsafe_pickle, key=key)
    lines = [
        f"{held['file']}: {held['format']}, {held['bytes']:,} bytes",
        f"sha256: {held['sha256']}",
    ]
    if held["networks"]:
        lines.append("networks:")
        lines += [
            f"  {one['key']}: {one['tensors']} tensors, {one['numbers']:,} numbers"
            for one in held["networks"]
        ]
    else:
        lines += _weights_text(held)
    lines += [f"note: {note}" for note in held["notes"]]
    lines.append(f"to analyse: {held['command']}")
    return "\n".join(lines)


def describe_json(
    path: str | Path, *, allow_unsafe_pickle: bool = False, key: str = ""
) -> dict[str, Any]:
    """Return what is in a file as dicts, lists, numbers and texts.

    Args:
        path: File.
        allow_unsafe_pickle: Unpickle whole modules, which runs code of the file's choice.
        key: Dotted path of the state dict to take, where a file holds several.

    Returns:
        ``file format bytes sha256 networks key prefix dtypes layers feedback suspects
        hyper_parameters metadata notes command``; ``networks`` is empty unless a choice with
        ``key`` is needed.

    Raises:
        MissingError: There is no such file.
        CheckpointError: The file is refused; the text says what it is.
    """
    path = Path(path)
    try:
        opened = open_checkpoint(path, allow_unsafe_pickle=allow_unsafe_pickle, key=key)
    except CheckpointError:
        form, tree, contents = candidates(path)
        if key or contents.is_clear:
            raise
        return _undecided(path, form, contents, tree.notes)
    return {
        "file": path.name,
        "format": opened.format,
        "bytes": path.stat().st_size,
        "sha256": opened.sha256,
        "networks": [],
        "key": opened.key,
        "prefix": opened.prefix,
        "dtypes": _dtypes(opened.tensors),
        "layers": [asdict(layer) for layer in guess_layers(opened.tensors)],
        "feedback": [_feedback_json(entry) for entry in opened.feedback],
        "suspects": [] if opened.feedback else _suspects(opened),
        "hyper_parameters": dict(opened.hyper_parameters),
        "metadata": dict(opened.metadata),
        "notes": list(opened.notes),
        "command": _command(opened, key),
    }


def _undecided(path: Path, form: str, contents: Contents, notes: Sequence[str]) -> dict[str, Any]:
    networks = [
        {
            "key": one.key,
            "tensors": len(one.tensors),
            "numbers": sum(tensor.numel() for tensor in one.tensors.values()),
            "layers": [asdict(layer) for layer in guess_layers(one.tensors)],
        }
        for one in contents.candidates
    ]
    first = contents.candidates[0].key
    command = f"alignlab inspect {shlex.quote(path.name)} --key {shlex.quote(first)}"
    empty: dict[str, Any] = {"layers": [], "feedback": [], "suspects": [], "dtypes": []}
    return {
        "file": path.name,
        "format": form,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "networks": networks,
        "key": "",
        "prefix": "",
        **empty,
        "hyper_parameters": {},
        "metadata": {},
        "notes": [*notes, "The file holds several networks; choose one with --key NAME."],
        "command": command,
    }


def _dtypes(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})


def _feedback_json(entry: StoredFeedback) -> dict[str, Any]:
    return {
        "layer": entry.layer,
        "kind": entry.kind,
        "at": entry.at,
        "rule": entry.rule,
        "key": entry.key,
        "shape": list(entry.tensor.shape),
        "note": entry.note,
    }


def _suspects(opened: Checkpoint) -> list[str]:
    """Return names that sound like feedback which nobody has claimed yet."""
    names = (*opened.tensors, *opened.feedback_entries, *opened.extras)
    return [name for name in names if any(word in name.lower() for word in _SUSPECT)]


def _command(opened: Checkpoint, key: str) -> str:
    ours = opened.metadata.get("alignlab")
    known = ours if isinstance(ours, Mapping) else {}
    rules = [entry.rule for entry in opened.feedback if entry.rule]
    model = known.get("model_spec") or known.get("model") or "FILE.py:FACTORY"
    rule = known.get("rule") or (rules[0] if rules else "dfa")
    rule = "dfa" if rule == "bp" else rule
    given = known.get("model_arguments")
    arguments = "".join(
        f" --model-arg {shlex.quote(f'{name}={value}')}"
        for name, value in (given.items() if isinstance(given, Mapping) else ())
    )
    data = known.get("data_spec") or str(known.get("data") or "DATA").partition("[")[0]
    chosen = f" --key {shlex.quote(key)}" if key else ""
    return (
        f"alignlab analyze checkpoint {shlex.quote(opened.path.name)}{chosen} --model {model}"
        f"{arguments} --data {data} --rule {rule} -o run.nc"
    )


def _weights_text(held: Mapping[str, Any]) -> list[str]:
    layers = held["layers"]
    count = sum(layer["n_parameters"] for layer in layers)
    place = f" under {held['key']}" if held["key"] else ""
    prefix = f", prefix {held['prefix']} taken off" if held["prefix"] else ""
    lines = [f"weights{place}: {count:,} numbers, {', '.join(held['dtypes'])}{prefix}", "layers:"]
    shown = layers[:_MOST_LAYERS]
    widths = [max(len(layer[column]) for layer in shown) for column in ("name", "kind")]
    lines += [f"  {_layer_text(layer, *widths)}" for layer in shown]
    if len(layers) > _MOST_LAYERS:
        lines.append(f"  and {len(layers) - _MOST_LAYERS} more")
    lines += _feedback_text(held)
    for title, name in (("hyper-parameters", "hyper_parameters"), ("beside them", "metadata")):
        values = list(held[name].items())
        if values:
            text = ", ".join(f"{key}={value}" for key, value in values[:_MOST_VALUES])
            lines.append(f"{title}: {text}")
    return lines


def _layer_text(layer: Mapping[str, Any], names: int, kinds: int) -> str:
    kernel = "x".join(map(str, layer["kernel"]))
    sizes = f"{layer['inputs']} -> {layer['outputs']}" if layer["inputs"] else ""
    parts = (sizes, kernel, "bias" if layer["has_bias"] and sizes else "")
    shape = "" if sizes else str(tuple(layer["shape"]))
    detail = " ".join(part for part in (*parts, shape) if part)
    return f"{layer['name']:<{names}}  {layer['kind']:<{kinds}}  {detail}"


def _has_place(entry: Mapping[str, Any]) -> bool:
    """Whether feedback enters somewhere; a state, or a number beside it, does not."""
    return bool(entry["kind"] != "state" and entry["shape"])


def _feedback_text(held: Mapping[str, Any]) -> list[str]:
    entries = held["feedback"]
    if entries:
        lines = [f"feedback ({len(entries)}):"]
        lines += [
            f"  {one['key']}: {one['kind']}, {one['rule'] or 'rule unknown'}, {tuple(one['shape'])}"
            + (f" at the {one['at']} of {one['layer']}" if _has_place(one) else "")
            for one in entries
        ]
        notes = dict.fromkeys(one["note"] for one in entries if one["note"])
        if any(one["kind"] == "ambiguous" for one in entries):
            notes["By shape it may be that of dfa or of fa; --rule decides."] = None
        return [*lines, *(f"  {note}" for note in notes)]
    ours = held["metadata"].get("alignlab")
    if isinstance(ours, Mapping) and ours.get("rule") and "feedback_sha256" not in ours:
        return [f"feedback: none, and {ours['rule']} keeps none"]
    text = "feedback: none found, so that alignment of the training rule cannot be observed"
    if held["suspects"]:
        text += f"; perhaps {', '.join(held['suspects'][:4])} (--feedback LAYER=KEY)"
    return [text]
