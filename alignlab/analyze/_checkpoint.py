"""One checkpoint, one model, one set of samples: the main job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from alignlab import datasets
from alignlab.analyze._feedback import measured_rule, trained_rule
from alignlab.analyze._scores import parameter_hash, provenance, scores, with_scores
from alignlab.analyze._weights import weights_alone
from alignlab.checkpoints import Checkpoint, fit, match_names, name_feedback, open_checkpoint
from alignlab.checkpoints import plain_twin as without_feedback
from alignlab.diagnostics._presets import chosen
from alignlab.engine.capture import Capture
from alignlab.errors import InputError, MeasurementError
from alignlab.probe import Probe
from alignlab.snapshot import MeasuredRule
from alignlab.specs import build_loss, build_model, parse_rule

__all__ = ["Analysis", "analyze_checkpoint"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FEW = 8


@dataclass(frozen=True)
class Analysis:
    """What an analysis leaves.

    Attributes:
        recording: The recording, ready to be saved.
        tensors: Raw tensors by layer, where ``save`` asked for them.
    """

    recording: xr.Dataset
    tensors: Mapping[str, xr.Dataset] = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    """A model ready to be measured, and the checkpoint under the model's names."""

    model: nn.Module
    checkpoint: Checkpoint
    notes: tuple[str, ...]


def analyze_checkpoint(
    path: str | Path,
    *,
    model: str | None = None,
    data: str | None = None,
    rules: Sequence[str] = (),
    model_arguments: Mapping[str, object] = _NOTHING,
    split: str = "test",
    samples: int = 512,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    loss: str = "cross-entropy",
    mode: str = "eval",
    device: str = "cpu",
    seed: int = 0,
    draws: int = 200,
    feedback: Mapping[str, str] = _NOTHING,
    replay: int | None = None,
    rename: Mapping[str, str] = _NOTHING,
    key: str = "",
    diagnostics: Sequence[str] = (),
    preset: str | None = None,
    save: Sequence[str] = (),
    plain_model: str | None = None,
    allow_unsafe_pickle: bool = False,
    download: bool = False,
    command: str = "",
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> Analysis:
    """Measure rules on a checkpoint.

    All samples are probed in one batch, so that weight gradients are those of exactly these
    samples.

    Args:
        path: File of weights in any supported format.
        model: Model SPEC; None for what weights alone tell.
        data: Data SPEC; needed with a model.
        rules: Rule SPECs; by default the one that the file names (else DFA), and uSF.
        model_arguments: Keyword arguments of the model's factory.
        split: ``train`` or ``test``.
        samples: How many samples, stratified and seeded.
        mean: Subtracted from the inputs.
        std: The inputs are divided by it.
        loss: Loss SPEC.
        mode: ``eval`` or ``train``.
        device: Where to measure.
        seed: Seed of the samples and of everything that is drawn here.
        draws: Redraws for each chance level.
        feedback: Tensor of the file by layer.
        replay: Seed of the training's feedback.
        rename: New name or prefix by old one.
        key: Path of the state dict in a file that holds several.
        diagnostics: Names; none for all.
        preset: Named choice of diagnostics.
        save: Which raw tensors to keep: signals, weight-gradients, feedback.
        plain_model: SPEC of a twin of the model without own backward passes.
        allow_unsafe_pickle: Unpickle a whole module from a file that the user trusts.
        download: Fetch a data set that is not there.
        command: Command line, for the recording.
        progress: Called with what is done, how much of it and of how much.

    Returns:
        The recording and the raw tensors that were asked for.

    Raises:
        AlignlabError: Whatever is wrong with the file, the model, the data or an option.
    """
    names = chosen(diagnostics, preset)
    checkpoint = open_checkpoint(path, allow_unsafe_pickle=allow_unsafe_pickle, key=key)
    if model is None:
        return Analysis(weights_alone(name_feedback(checkpoint, feedback), command=command))
    if data is None:
        message = "A model needs data to be measured on; give --data digits, npz:FILE or another."
        raise InputError(message)
    parsed = [parse_rule(text) for text in rules]
    loss_function = build_loss(loss)
    batch = datasets.load(
        data, split=split, samples=samples, seed=seed, mean=mean, std=std, download=download
    )
    built = build_model(model, model_arguments)
    twin = build_model(plain_model, model_arguments) if plain_model else None
    loaded = _loaded(checkpoint, built, twin, batch.x, rename=rename, feedback=feedback)
    if not parsed:
        default = trained_rule(loaded.checkpoint) or "dfa"
        parsed = [parse_rule(text) for text in ("dfa" if default == "bp" else default, "usf")]
    network = loaded.model.to(device).train(mode == "train")
    x, y = batch.x.to(device), batch.y.to(device)
    output = _output(network, x)
    loss_function.check(output, y)
    few = Capture(network, loss_function, x[:_FEW], y[:_FEW])
    try:
        measured = [measured_rule(r, loaded.checkpoint, few, replay=replay) for r in parsed]
    finally:
        few.close()
    probe = Probe(
        network,
        loss_function,
        rules=measured,
        diagnostics=names,
        draws=draws,
        seed=seed,
        save=save,
        progress=progress,
    )
    recording = probe.measure(x, y)
    recording.attrs.update(provenance(checkpoint, command=command, kind="checkpoint"))
    recording.attrs.update(
        {
            "model_spec": model,
            "model_arguments": ", ".join(f"{k}={v}" for k, v in model_arguments.items()),
            "parameter_hash": parameter_hash(network),
            "data": batch.name,
            "data_hash": batch.hash,
            "n_classes": batch.n_classes or 0,
            "mean": str(mean if mean is not None else ""),
            "std": str(std if std is not None else ""),
            "loss": loss,
            "reduction": loss_function.reduction,
            "mode": mode,
            "feedback_note": " ".join((*loaded.notes, *_origins(measured))),
        }
    )
    result = loss_function(output, y)
    return Analysis(with_scores(recording, scores(output, result, batch)), probe.tensors)


def _loaded(
    checkpoint: Checkpoint,
    model: nn.Module,
    twin: nn.Module | None,
    x: Tensor,
    *,
    rename: Mapping[str, str],
    feedback: Mapping[str, str],
) -> _Loaded:
    """Fill the model, take out what feedback its modules carry, and check the twin."""
    matched = match_names(checkpoint, model, rename=rename)
    notes = fit(checkpoint, model, rename=rename)
    model.eval()
    if twin is not None:
        fit(checkpoint, twin, rename=rename)
        _require_equal(model, twin.eval(), x[:_FEW])
        return _Loaded(twin, name_feedback(matched, feedback), notes)
    found = without_feedback(model, x[:_FEW])
    named = name_feedback(matched, feedback)
    if found.feedback:
        held = {(entry.layer, entry.at) for entry in named.feedback}
        added = [e for e in found.feedback if (e.layer, e.at) not in held]
        named = _with_feedback(named, added)
    return _Loaded(found.model, named, (*notes, *found.notes))


def _with_feedback(checkpoint: Checkpoint, added: Sequence[Any]) -> Checkpoint:
    return replace(checkpoint, feedback=(*checkpoint.feedback, *added))


def _require_equal(model: nn.Module, twin: nn.Module, x: Tensor) -> None:
    first, second = _output(model, x), _output(twin, x)
    if first.shape != second.shape or not torch.allclose(first, second, rtol=1e-5, atol=1e-6):
        message = (
            "The model of --plain-model does not give the outputs of --model; the twin must hold "
            "the same layers under the same names."
        )
        raise MeasurementError(message)


def _output(model: nn.Module, x: Tensor) -> Tensor:
    """Run the model once and say in one line what is wrong if it cannot."""
    try:
        with torch.no_grad():
            output = model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        text = " ".join(str(error).split())
        message = (
            f"{type(model).__name__} does not take inputs of shape {tuple(x.shape)}: {text}. "
            "Give data of the shape that it was trained on."
        )
        raise InputError(message) from error
    if not isinstance(output, Tensor):
        message = (
            f"{type(model).__name__} returns {type(output).__name__}; give a factory whose model "
            "returns one tensor."
        )
        raise InputError(message)
    if not bool(torch.isfinite(output).all()):
        message = (
            f"{type(model).__name__} gives outputs that are not finite on these samples; check "
            "--mean and --std and the weights."
        )
        raise MeasurementError(message)
    return output


def _origins(measured: Sequence[MeasuredRule]) -> list[str]:
    return [f"{rule.label}: feedback {rule.origin}." for rule in measured]
