"""One checkpoint, one model, one set of samples: the main job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from alignlab import datasets, plugins
from alignlab.analyze._beside import (
    described,
    earlier_states,
    other,
    require_model,
    twin_of,
)
from alignlab.analyze._chosen import require_own_entries
from alignlab.analyze._feedback import measured_rule, trained_rule
from alignlab.analyze._loading import FEW, Loaded, loaded_model, on_device, output_of
from alignlab.analyze._scores import parameter_hash, provenance, scores, with_scores
from alignlab.analyze._since import (
    along,
    displaced,
    is_measured_before,
    require_alone,
    require_needed,
    where,
)
from alignlab.analyze._weights import weights_alone
from alignlab.checkpoints import (
    Checkpoint,
    name_feedback,
    open_checkpoint,
)
from alignlab.datasets import Samples
from alignlab.diagnostics._presets import chosen
from alignlab.engine.capture import Capture, Loss
from alignlab.errors import InputError, MissingError
from alignlab.probe import Probe
from alignlab.rules._base import Rule
from alignlab.rules.displacement import Displacement
from alignlab.snapshot import MeasuredRule
from alignlab.specs import build_loss, parse_rule

__all__ = ["Analysis", "Options", "analyze_checkpoint"]


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


_Few = tuple[nn.Module, Loss, Tensor, Tensor]
"""What a small forward pass is run with."""


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
        since: Earlier checkpoint of the same training. With ``displacement`` among the rules, or
            no rule, everything is measured at its weights, where the way to the file began; for
            other rules it holds the initial weights.
        earlier: Other checkpoints of the same training by label, for diagnostics that look back;
            ``initial`` is the one at which it began.
        twin: Checkpoint of the same network trained by backpropagation, to compare with.
        feedback: Tensor of the file by layer.
        replay: Seed of the training's feedback.
        rename: New name or prefix by old one.
        key: Path of the state dict in a file that holds several.
        layers: Names of the modules that are measured; none for all.
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
    since: str | Path | None = None
    earlier: Mapping[str, str] = field(default_factory=dict)
    twin: str | Path | None = None
    feedback: Mapping[str, str] = field(default_factory=dict)
    replay: int | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    layers: Sequence[str] = ()
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
        require_alone(chose.since)
        require_model(chose)
        named = name_feedback(checkpoint, chose.feedback)
        return Analysis(weights_alone(named, command=chose.command))
    rules = [parse_rule(text) for text in chose.rules]
    loss_function = build_loss(chose.loss)
    batch = _batch(chose)
    later = loaded_model(checkpoint, batch.x, chose)
    earlier = None if chose.since is None else _earlier(batch.x, rules, chose)
    loaded = earlier if earlier is not None and is_measured_before(rules) else later
    network = on_device(loaded.model, chose)
    x, y = batch.x.to(chose.device), batch.y.to(chose.device)
    loss_function.check(output_of(network, x), y)
    network.train(chose.mode == "train")
    few = (network, loss_function, x[:FEW], y[:FEW])
    measured = _measured(earlier, later, few, rules=rules, chose=chose)
    probe = Probe(
        network,
        loss_function,
        rules=measured,
        diagnostics=names,
        draws=chose.draws,
        seed=chose.seed,
        save=chose.save,
        layers=chose.layers or None,
        earlier=earlier_states(earlier, batch.x, rules=rules, chose=chose),
        twin=twin_of(batch.x, chose),
        progress=chose.progress,
    )
    with torch.random.fork_rng():
        torch.manual_seed(chose.seed)
        recording = probe.measure(x, y)
    notes = (*loaded.notes, *(_origin_note(rule) for rule in measured))
    recording.attrs.update(provenance(checkpoint, command=chose.command, kind="checkpoint"))
    if earlier is not None:
        recording.attrs.update(where(earlier.checkpoint, at=loaded.checkpoint))
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


def _measured(
    earlier: Loaded | None, later: Loaded, few: _Few, *, rules: Sequence[Rule], chose: Options
) -> list[MeasuredRule]:
    """Return the rules with their feedback, found by one small forward pass."""
    if earlier is not None:
        return _measured_since(earlier, later, few, rules=rules, chose=chose)
    checkpoint, replay = later.checkpoint, chose.replay
    if not rules:
        rules = [parse_rule(text) for text in _usual(trained_rule(checkpoint))]
    capture = Capture(*few, layers=chose.layers or None)
    try:
        found = [measured_rule(rule, checkpoint, capture, replay=replay) for rule in rules]
        _require_own_entries(found, capture, few, checkpoint, chose)
        return found
    finally:
        capture.close()


def _require_own_entries(
    found: Sequence[MeasuredRule],
    capture: Capture,
    few: _Few,
    checkpoint: Checkpoint,
    chose: Options,
) -> None:
    if not chose.layers:
        return
    every = Capture(*few)
    try:
        stored = [entry.layer for entry in checkpoint.feedback]
        require_own_entries(found, capture, every, stored=stored)
    finally:
        every.close()


def _earlier(x: Tensor, rules: Sequence[Rule], chose: Options) -> Loaded:
    """Fill the model with the weights of the earlier checkpoint."""
    require_needed(rules)
    return other(chose.since or "", x, chose)


def _measured_since(
    earlier: Loaded, later: Loaded, few: _Few, *, rules: Sequence[Rule], chose: Options
) -> list[MeasuredRule]:
    """Return the rules with what they take from two checkpoints of one training."""
    at_earlier = is_measured_before(rules)
    first = on_device(earlier.model, chose).train(chose.mode == "train")
    paths = (earlier.checkpoint.path, later.checkpoint.path)
    chosen = chose.layers or None
    initial = Capture(first, *few[1:], layers=chosen)
    present = Capture(*few, layers=chosen)
    found = []
    try:
        for rule in rules or (Displacement(),):
            if isinstance(rule, Displacement):
                after = later.model
                found.append(displaced(rule, before=earlier.model, after=after, paths=paths))
                continue
            held = later.checkpoint
            if at_earlier:
                held = along(rule, earlier.checkpoint, held)
            found.append(measured_rule(rule, held, present, replay=chose.replay, initial=initial))
        _require_own_entries(found, present, few, later.checkpoint, chose)
        return found
    finally:
        initial.close()
        present.close()


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


def _origin_note(rule: MeasuredRule) -> str:
    return f"{rule.label}: {f'feedback {rule.origin}' if rule.feedback else 'no feedback'}."


def _described(
    chose: Options, network: nn.Module, batch: Samples, *, notes: Sequence[str]
) -> dict[str, Any]:
    return described(chose) | {
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
