"""How much of errors, signals and activations is the same in all samples (G1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from alignlab.diagnostics._activations import output_of, representations
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched, together
from alignlab.kernels.common_mode import common_mode, common_mode_debiased, mean_pairwise_cosine
from alignlab.kernels.cosines import flat
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["CommonMode"]

_MEASURES = {
    "common_mode": ("Energy of the mean over samples over the mean energy, of", (0.0, 1.0)),
    "common_mode_debiased": (
        "Mean product of two different samples over the mean energy, of",
        (-1.0, 1.0),
    ),
}
_OBJECTS = {
    "input": ((), "the network's input"),
    "error": ((), "the error"),
    "true_signal": (("layer", "site"), "the true error signal"),
    "signal": (("rule", "layer", "site"), "the approximate error signal"),
    "activation": (("layer",), "the activations at the layer's entry"),
}
_SOURCE = "DFA-Stall (repository)"

Place = tuple[str, str, str, str]
"""Object, rule, layer and site."""


class CommonMode(SnapshotDiagnostic):
    r"""Share of the energy of a quantity that is the same in all samples.

    .. math:: c = \frac{\|\bar x\|^2}{\overline{\|x\|^2}}, \qquad
        c_{debiased} = \frac{Nc - 1}{N - 1}
        = \frac{\overline{\langle x_i, x_j\rangle}_{i\ne j}}{\overline{\|x\|^2}}

    for the error, the true and the approximate error signals at both sites, the activations h at
    every layer's entry (of an output layer its pre-activations) and the network's input. Samples
    are rows; maps are flattened. ``pairwise_cosine_activation`` is the mean cosine of two
    different samples' activations, samples without activity left out.

    *Reading.* Near 1 the error pushes all samples one way. A common mode of the error above about
    0.3 in the first hundreds of steps, with gates that close and activations whose pairwise
    cosine nears 1, is the picture of a collapse by common mode (our heuristic). Centring the
    error over the batch, biases of the readout at the classes' shares, a softmax, centred inputs
    or normalisation would lower it. What drives the weights is in ``drift``.

    *Expectation.* Samples that are independent and of mean zero have ``common_mode_chance``,
    :math:`1/N`, on average, and zero debiased and as pairwise cosine.

    *Undefined* where all samples are zero; of rules without error signals; and of signals of
    feedback that was drawn for this measurement, which say nothing of the training's.

    Source: Reddy, Safaai & Sabatini, DFA-Stall (repository); the debiased form is our derivation.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, diagnostics=["common-mode"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(x, torch.zeros(40, dtype=torch.long))
        >>> bool(ds["common_mode_error"].item() > 0.5)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *(
            Variable(
                f"{measure}_{name}",
                dims,
                f"{text} {phrase}",
                source=_SOURCE if measure == "common_mode" else "our derivation",
                valid=valid,
            )
            for name, (dims, phrase) in _OBJECTS.items()
            for measure, (text, valid) in _MEASURES.items()
        ),
        Variable(
            "common_mode_chance",
            (),
            "Common mode of independent samples of mean zero, one over their number",
            valid=(0.0, 1.0),
        ),
        Variable(
            "pairwise_cosine_activation",
            ("layer",),
            "Mean cosine of the activations of two different samples at the layer's entry",
            source=_SOURCE,
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 0.7

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the common modes of everything that is at hand."""
        capture = snapshot.capture
        by_name = {layer.name: layer for layer in snapshot.layers}
        rows: dict[Place, Tensor] = {
            ("input", "", "", ""): flat(capture.input_of(snapshot.layers[0])),
            ("error", "", "", ""): snapshot.error,
        }
        for layer in snapshot.layers:
            handed = (
                output_of(capture, layer)
                if layer.is_output
                else capture.input_of(by_name[layer.consumer])
            )
            rows["activation", "", layer.name, ""] = flat(handed)
        for layer in snapshot.layers:
            true = snapshot.view(layer, snapshot.true)
            for site in snapshot.sites(layer):
                signal = true.site(site)
                assert signal is not None
                rows["true_signal", "", layer.name, site] = signal
        for measured in snapshot.rules:
            found = _signals(snapshot, measured)
            if isinstance(found, NotDefined):
                yield found
            else:
                rows |= found
        yield Reading("common_mode_chance", 1.0 / snapshot.capture.n_samples)
        values: dict[tuple[str, Place], Tensor] = {}
        for place, each in rows.items():
            # One by one: a stack of whole maps costs more than it saves.
            share = values[f"common_mode_{place[0]}", place] = common_mode(each)
            unbiased = common_mode_debiased(share, n_samples=len(each))
            values[f"common_mode_debiased_{place[0]}", place] = unbiased
        held = snapshot.shared(representations).activations
        alike = {name: (products.gram,) for name, products in held.items()}
        for name, value in together(mean_pairwise_cosine, alike).items():
            values["pairwise_cosine_activation", ("", "", name, "")] = value
        yield from _shown(values)


def _shown(values: Mapping[tuple[str, Place], Tensor]) -> Iterator[Reading | NotDefined]:
    """Yield values, and what is zero throughout."""
    found = fetched(list(values.values()))
    for (variable, (_, rule, layer, site)), value in zip(values, found, strict=True):
        yield Reading(variable, value, rule, layer, site)
        if not np.isfinite(value):
            which = "the samples are zero" if site else "samples are zero, or all but one"
            yield NotDefined(f"{which} ({variable})", rule=rule, layer=layer)


def _signals(snapshot: Snapshot, measured: MeasuredRule) -> dict[Place, Tensor] | NotDefined:
    """Return the signals of a rule, or why there are none."""
    if measured.is_drawn:
        because = "its feedback was drawn for this measurement, so that nothing was observed"
        return NotDefined(because, rule=measured.label)
    if not measured.rule.has_signals:
        because = "the rule yields updates of parameters and no error signals"
        return NotDefined(because, rule=measured.label)
    found: dict[Place, Tensor] = {}
    for layer in snapshot.layers:
        view = snapshot.view(layer, snapshot.passes[measured.label])
        for site in snapshot.sites(layer):
            signal = view.site(site)
            if signal is not None:
                found["signal", measured.label, layer.name, site] = signal
    return found
