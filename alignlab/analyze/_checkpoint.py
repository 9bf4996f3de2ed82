"""One checkpoint, one model, one set of samples: the main job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from alignlab import datasets, plugins
from alignlab.analyze._feedback import measured_rule, trained_rule
from alignlab.analyze._scores import parameter_hash, provenance, scores, with_scores
from alignlab.analyze._weights import weights_alone
from alignlab.checkpoints import (
    Checkpoint,
    fit,
    match_names,
    name_feedback,
    open_checkpoint,
    plain_twin,
)
from alignlab.datasets import Samples
from alignlab.diagnostics._presets import chosen
from alignlab.engine.capture import Capture, Loss
from alignlab.errors import InputError, MeasurementError, MissingError
from alignlab.probe import Probe
from alignlab.rules._base import Rule
from alignlab.snapshot import MeasuredRule
from alignlab.specs import build_loss, build_model, parse_rule

__all__ = ["Analysis", "Options", "analyze_checkpoint"]

_FEW = 8


def _silent(_label: str, _done: int, _total: int) -> None:
    """Show no progress."""


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


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, on what, and how; the options of ``alignlab analyze checkpoint``.

    Attributes:
        model: Model SPEC; None for what weights alone tell.
        model_arguments: Keyword arguments of the model's factory.
        data: Data SPEC; needed with a model.
        rules: Rule SPECs; by default the one that the file names (else DFA), and uSF.
        split: ``train`` or ``test``.
        samples: How many samples, stratified and seeded.
        mean: Subtracted from the inputs.
        std: The inputs are divided by it.
        loss: Loss SPEC.
        mode: ``eval`` or ``train``.
        device: Where to measure.
        seed: Seed of the samples and of everything that is drawn here.
        draws: Redraws for each chance level; None for 200, and down to 50 for networks of
            many units.
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
    """

    model: str | None = None
    model_arguments: Mapping[str, object] = field(default_factory=dict)
    data: str | None = None
    rules: Sequence[str] = ()
    split: str = "test"
    samples: int = 512
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    loss: str = "cross-entropy"
    mode: str = "eval"
    device: str = "cpu"
    seed: int = 0
    draws: int | None = None
    feedback: Mapping[str, str] = field(default_factory=dict)
    replay: int | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    diagnostics: Sequence[str] = ()
    preset: str | None = None
    save: Sequence[str] = ()
    plain_model: str | None = None
    allow_unsafe_pickle: bool = False
    download: bool = False
    command: str = ""
    progress: Callable[[str, int, int], None] = _silent


def analyze_checkpoint(path: str | Path, **options: Any) -> Analysis:
    """Measure rules on a checkpoint.

    All samples are probed in one batch, so that weight gradients are those of exactly these
    samples.

    Args:
        path: File of weights in any supported format.
        **options: Attributes of ``Options``.

    Returns:
        The recording and the raw tensors that were asked for.

    Raises:
        AlignlabError: Whatever is wrong with the file, the model, the data or an option.
    """
    chose = Options(**options)
    names = chosen(chose.diagnostics, chose.preset)
    checkpoint = open_checkpoint(path, allow_unsafe_pickle=chose.allow_unsafe_pickle, key=chose.key)
    if chose.model is None:
        named = name_feedback(checkpoint, chose.feedback)
        return Analysis(weights_alone(named, command=chose.command))
    rules = [parse_rule(text) for text in chose.rules]
    loss_function = build_loss(chose.loss)
    batch = _batch(chose)
    loaded = _loaded(checkpoint, batch.x, chose)
    network = _on_device(loaded.model, chose)
    x, y = batch.x.to(chose.device), batch.y.to(chose.device)
    loss_function.check(_output(network, x), y)
    network.train(chose.mode == "train")
    measured = _measured(loaded, network, loss_function, (x, y), rules=rules, replay=chose.replay)
    probe = Probe(
        network,
        loss_function,
        rules=measured,
        diagnostics=names,
        draws=chose.draws,
        seed=chose.seed,
        save=chose.save,
        progress=chose.progress,
    )
    with torch.random.fork_rng():
        torch.manual_seed(chose.seed)
        recording = probe.measure(x, y)
    notes = (*loaded.notes, *(f"{rule.label}: feedback {rule.origin}." for rule in measured))
    recording.attrs.update(provenance(checkpoint, command=chose.command, kind="checkpoint"))
    recording.attrs.update(_described(chose, network, batch, notes=notes))
    recording.attrs["reduction"] = loss_function.reduction
    assert probe.output is not None
    found = scores(probe.output, probe.loss, batch)
    return Analysis(with_scores(recording, found), probe.tensors)


def _batch(chose: Options) -> Samples:
    if chose.data is None:
        message = "A model needs data to be measured on; give --data digits, npz:FILE or another."
        raise InputError(message)
    return datasets.load(
        chose.data,
        split=chose.split,
        samples=chose.samples,
        seed=chose.seed,
        mean=chose.mean,
        std=chose.std,
        download=chose.download,
    )


def _on_device(model: nn.Module, chose: Options) -> nn.Module:
    try:
        return model.to(chose.device).eval()
    except (RuntimeError, AssertionError) as error:
        text = " ".join(str(error).split())
        message = f"Cannot measure on --device {chose.device}: {text}"
        raise InputError(message) from error


def _measured(
    loaded: _Loaded,
    network: nn.Module,
    loss_function: Loss,
    batch: tuple[Tensor, Tensor],
    *,
    rules: Sequence[Rule],
    replay: int | None,
) -> list[MeasuredRule]:
    """Return the rules with their feedback, found by one small forward pass."""
    if not rules:
        rules = [parse_rule(text) for text in _usual(trained_rule(loaded.checkpoint))]
    few = Capture(network, loss_function, *(tensor[:_FEW] for tensor in batch))
    try:
        return [measured_rule(rule, loaded.checkpoint, few, replay=replay) for rule in rules]
    finally:
        few.close()


def _usual(trained: str) -> Sequence[str]:
    """Return what is measured where nothing was asked for: the rule of the training, and uSF."""
    known = plugins.names("alignlab.rules")
    if trained and trained.partition("(")[0] not in known:
        message = (
            f"The file shows that it was trained by {trained}, which is not among the rules "
            f"({', '.join(known)}); say which to measure with --rule."
        )
        raise MissingError(message)
    return tuple(dict.fromkeys(("dfa" if trained in {"", "bp"} else trained, "usf")))


def _described(
    chose: Options, network: nn.Module, batch: Samples, *, notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "model_spec": chose.model or "",
        "model_arguments": ", ".join(f"{k}={v}" for k, v in chose.model_arguments.items()),
        "parameter_hash": parameter_hash(network),
        "data": batch.name,
        "data_hash": batch.hash,
        "n_classes": batch.n_classes or 0,
        "mean": "" if chose.mean is None else str(chose.mean),
        "std": "" if chose.std is None else str(chose.std),
        "loss": chose.loss,
        "mode": chose.mode,
        "feedback_note": " ".join(notes),
    }


def _loaded(checkpoint: Checkpoint, x: Tensor, chose: Options) -> _Loaded:
    """Fill the model, take out what feedback its modules carry, and check the twin."""
    model = build_model(chose.model or "", chose.model_arguments)
    matched = name_feedback(match_names(checkpoint, model, rename=chose.rename), chose.feedback)
    notes = fit(checkpoint, model, rename=chose.rename)
    model.eval()
    if chose.plain_model is not None:
        twin = build_model(chose.plain_model, chose.model_arguments)
        fit(checkpoint, twin, rename=chose.rename)
        _require_equal(model, twin.eval(), x[:_FEW])
        return _Loaded(twin, matched, notes)
    _output(model, x[:_FEW])
    found = plain_twin(model, x[:_FEW])
    held = {(entry.layer, entry.at) for entry in matched.feedback}
    added = [entry for entry in found.feedback if (entry.layer, entry.at) not in held]
    matched = replace(matched, feedback=(*matched.feedback, *added))
    return _Loaded(found.model, matched, (*notes, *found.notes))


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
