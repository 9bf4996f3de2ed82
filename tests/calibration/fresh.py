"""What fresh feedback and fresh rotations give, by plain formulas, many draws at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.engine.updates import Updates
from alignlab.sites import Layer
from alignlab.snapshot import halves
from tests.cases import Batch

__all__ = [
    "Values",
    "fresh_backward_weights",
    "fresh_direct",
    "fresh_replaced",
    "fresh_rotated",
    "fresh_weights",
    "turned",
]

Values = dict[tuple[str, str, str], np.ndarray]
"""Alignments of fresh draws, by variable, site and layer."""

Signals = Mapping[str, tuple[Tensor, Tensor]]
"""Signals at entry and pre-activation of every hidden layer, draws on the first axis."""

CHUNK = 200


def fresh_direct(batch: Batch, count: int, *, sends_targets: bool = False, seed: int = 0) -> Values:
    """Return alignments under fresh Gaussian direct feedback of the error, or of the targets."""

    def signals(capture: Capture, true: Updates, n: int, stream: torch.Generator) -> Signals:
        error = true.preactivation[capture.layout.outputs[0].name]
        if sends_targets:
            error = -functional.one_hot(batch.y, capture.n_errors).to(error)
        found = {}
        for layer in _hidden(capture):
            feedback = torch.randn(n, capture.n_errors, layer.entry_width, generator=stream)
            entry = (error @ feedback).reshape(n, len(error), *layer.entry_shape)
            found[layer.name] = (entry, _inside(capture, layer, entry))
        return found

    return _fresh(batch, count, signals, seed)


def fresh_replaced(batch: Batch, count: int, *, law: str = "normal", seed: int = 0) -> Values:
    """Return alignments under fresh backward weights, Gaussian or with random signs alone."""

    def signals(capture: Capture, true: Updates, n: int, stream: torch.Generator) -> Signals:
        error = true.preactivation[capture.layout.outputs[0].name]
        inside = {capture.layout.outputs[0].name: error.expand(n, *error.shape)}
        found = {}
        for layer in reversed(_hidden(capture)):
            weight = capture.module_weights()[layer.consumer]
            drawn = torch.randn((n, *weight.shape), generator=stream)
            drawn = torch.sign(drawn) if law == "sign" else drawn
            entry = _transposed(inside[layer.consumer], drawn)
            inside[layer.name] = _inside(capture, layer, entry)
            found[layer.name] = (entry, inside[layer.name])
        return found

    return _fresh(batch, count, signals, seed)


def fresh_rotated(batch: Batch, observed: Updates, count: int, *, seed: int = 0) -> Values:
    """Return alignments of observed signals, or of updates alone, turned among output units."""
    if not observed.preactivation:
        return _fresh_updates(batch, observed, count, seed)

    def signals(capture: Capture, true: Updates, n: int, stream: torch.Generator) -> Signals:
        del true
        found = {}
        for layer in _hidden(capture):
            entry, inside = observed.entry[layer.name], observed.preactivation[layer.name]
            axis = 1 if entry.dim() == 4 else -1
            at_entry = turned(entry, axis, n, stream)
            axis = 1 if layer.is_convolution else -1
            found[layer.name] = (at_entry, turned(inside, axis, n, stream))
        return found

    return _fresh(batch, count, signals, seed)


def fresh_weights(batch: Batch, count: int, *, seed: int = 0) -> Values:
    """Return cosines of weights with fresh Gaussian direct feedback, of a network of Linear layers.

    They are those of W_l with B_l B_{l-1}^T, of the product of all weights above with B_l^T, and
    of alignment matrices with the identity.
    """
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    error = capture.reference().preactivation[capture.layers[-1].name].double()
    weights = capture.module_weights()
    matrices = [weights[layer.module].double() for layer in capture.layers]
    stream = torch.Generator().manual_seed(20_000 + seed)
    n_errors = capture.n_errors
    values, vectors = torch.linalg.eigh(error.T @ error)
    basis = vectors[:, values > 1e-6 * values[-1]]
    found: dict[tuple[str, str, str], Tensor] = {}
    below: Tensor | None = None
    for number, (layer, weight) in enumerate(zip(capture.layers, matrices, strict=True)):
        size = (count, layer.width, n_errors)
        above = torch.eye(n_errors, dtype=torch.float64).expand(count, -1, -1)
        if not layer.is_output:
            above = torch.randn(size, generator=stream, dtype=torch.float64)
            path = torch.eye(n_errors, dtype=torch.float64)
            for each in reversed(matrices[number + 1 :]):
                path = path @ each
            found["cosine_feedback_path", "", layer.name] = _cosine(
                path.flatten(), above.mT.flatten(1)
            )
        if below is not None:
            product = (above @ below.mT).flatten(1)
            found["cosine_weight_feedback", "", layer.name] = _cosine(weight.flatten(), product)
            inside = torch.linalg.pinv(above) @ weight @ torch.linalg.pinv(below).mT
            found["alignment_matrix_cosine_identity", "", layer.name] = _cosine(
                torch.eye(basis.shape[1]).flatten(), (basis.T @ inside @ basis).flatten(1)
            )
        below = above
    capture.close()
    return {key: each.numpy() for key, each in found.items()}


def fresh_backward_weights(batch: Batch, count: int, *, seed: int = 0) -> Values:
    """Return cosines of weights with Gaussian ones in their place, of the layers that pass on."""
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    stream = torch.Generator().manual_seed(30_000 + seed)
    found: Values = {}
    for layer in capture.layers[1:]:
        weight = capture.module_weights()[layer.module].flatten()
        drawn = torch.randn(count, len(weight), generator=stream)
        found["cosine_weight_feedback", "", layer.name] = _cosine(weight, drawn).numpy()
    capture.close()
    return found


def _fresh(batch: Batch, count: int, signals: Callable[..., Signals], seed: int) -> Values:
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference()
    stream = torch.Generator().manual_seed(10_000 + seed)
    fold = halves(capture.n_samples, seed=seed)
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for start in range(0, count, CHUNK):
        drawn = signals(capture, true, min(CHUNK, count - start), stream)
        for layer in _hidden(capture):
            for key, values in _alignments(capture, layer, true, drawn[layer.name], fold):
                found.setdefault((*key, layer.name), []).append(values)
    capture.close()
    return {key: torch.cat(values).numpy() for key, values in found.items()}


def _fresh_updates(batch: Batch, observed: Updates, count: int, seed: int) -> Values:
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True).parameters
    stream = torch.Generator().manual_seed(10_000 + seed)
    found: Values = {}
    for layer in capture.layers:
        weight, bias = (f"{layer.name}.{part}" for part in ("weight", "bias"))
        columns = [observed.parameters[weight].flatten(1)]
        columns += [observed.parameters[bias][:, None]] if bias in true else []
        joined = torch.cat(columns, 1).T
        parts = [
            turned(joined, -1, min(CHUNK, count - start), stream)
            for start in range(0, count, CHUNK)
        ]
        whole = torch.cat(parts).mT
        rows = whole[..., : columns[0].shape[1]].flatten(1)
        exact = true[weight].flatten()
        found["cosine_weight_gradient", "", layer.name] = _cosine(exact, rows).numpy()
        if bias in true:
            found["cosine_bias_gradient", "", layer.name] = _cosine(
                true[bias], whole[..., -1]
            ).numpy()
    capture.close()
    return found


def _hidden(capture: Capture) -> list[Layer]:
    return [layer for layer in capture.layers if not layer.is_output]


def _inside(capture: Capture, layer: Layer, entry: Tensor) -> Tensor:
    """Carry signals from the entry of a layer to its pre-activation."""
    segment, call = capture.layout.segment_of(layer), capture.layout.call(layer)
    (found,) = _many(capture.layout.entry_edge(segment), [call.output_edge], entry)
    return found


def _transposed(signals: Tensor, weights: Tensor) -> Tensor:
    """Apply the transpose of layers of 3x3 convolutions, or linear ones, a weight for a draw."""
    if weights.dim() == 3:
        return torch.einsum("dno,doi->dni", signals, weights)
    n, samples = signals.shape[:2]
    side = signals.transpose(0, 1).flatten(1, 2)
    found = functional.conv_transpose2d(side, weights.flatten(0, 1), padding=1, groups=n)
    return found.unflatten(1, (n, -1)).transpose(0, 1).reshape(n, samples, -1, *found.shape[2:])


def turned(signal: Tensor, axis: int, n: int, stream: torch.Generator) -> Tensor:
    """Return a signal turned by ``n`` Haar rotations and reflections of one axis.

    Only the images of the directions that it occupies are drawn.
    """
    moved = signal.movedim(axis, -1)
    rows = moved.flatten(0, -2).double()
    size = rows.shape[1]
    if len(rows) < size:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        rows = (left * values)[:, values > 1e-7 * values[0]]
    gaussian = torch.randn(n, size, rows.shape[1], generator=stream, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    found = torch.einsum("ri,dji->drj", rows, q).float().reshape(n, *moved.shape)
    return found.movedim(-1, axis if axis < 0 else axis + 1)


def _alignments(
    capture: Capture, layer: Layer, true: Updates, signals: tuple[Tensor, Tensor], fold: Tensor
) -> Iterator[tuple[tuple[str, str], Tensor]]:
    inside = signals[1]
    for site, reference, signal in (
        ("entry", true.entry[layer.name], signals[0]),
        ("preactivation", true.preactivation[layer.name], inside),
    ):
        first, second = reference.flatten(1), signal.flatten(2)
        cosines = _cosine(first, second)
        rate = torch.where(cosines.isnan(), torch.nan, (cosines > 0).double())
        yield ("cosine_error_signal", site), cosines.nanmean(-1)
        yield ("descent_rate", site), rate.nanmean(-1)
        yield ("cosine_error_signal_flat", site), _cosine(first.flatten(), second.flatten(1))
        yield ("cosine_mean_error_signal", site), _cosine(first.mean(0), second.mean(1))
    reference = true.preactivation[layer.name]
    gradients = partial(_gradients, capture, layer)
    exact, found = gradients(reference[None]), gradients(inside)
    for name, first, second in zip(("weight", "bias"), exact, found, strict=False):
        yield (f"cosine_{name}_gradient", ""), _cosine(first.flatten(), second.flatten(1))
    mask = fold.reshape(-1, *(1 for _ in layer.shape)).float()
    a, c = gradients(mask * reference[None])[0].flatten(1), gradients(mask * inside)[0].flatten(1)
    b, d = exact[0].flatten(1) - a, found[0].flatten(1) - c
    own = (a * b).double().sum(-1) * (c * d).double().sum(-1)
    positive = ((a * b).sum(-1) > 0) & ((c * d).sum(-1) > 0)
    crossed = ((c * b).double().sum(-1) + (d * a).double().sum(-1)) / 2.0
    debiased = torch.where(positive, crossed / own.abs().sqrt(), torch.nan)
    yield ("cosine_weight_gradient_debiased", ""), debiased
    if layer.is_convolution:
        yield ("cosine_weight_gradient_unshared", ""), _unshared(capture, layer, reference, inside)


def _unshared(capture: Capture, layer: Layer, true: Tensor, inside: Tensor) -> Tensor:
    """Return cosines of the gradients of all positions, without forming those of the draws."""
    module = capture.module_of(layer)
    assert isinstance(module, nn.Conv2d)
    patches = functional.unfold(capture.input_of(layer), 3, padding=1)
    exact = torch.einsum("nop,nfp->pof", true.flatten(2), patches)
    rows = torch.einsum("dnop,nfp->dpof", inside.flatten(3), patches)
    return _cosine(exact.flatten(), rows.flatten(1))


def _gradients(capture: Capture, layer: Layer, inside: Tensor) -> tuple[Tensor, ...]:
    """Return gradients of weight and bias of signals at the pre-activation."""
    call = capture.layout.call(layer)
    parameters = [p for p in (call.module.weight, call.module.bias) if p is not None]
    return _many(call.output_edge, parameters, inside)


def _many(start: object, ends: list[object], signals: Tensor) -> tuple[Tensor, ...]:
    """Return vector-Jacobian products of many signals at once."""
    return torch.autograd.grad(
        start,  # type: ignore[arg-type]
        ends,  # type: ignore[arg-type]
        grad_outputs=(signals,),
        retain_graph=True,
        is_grads_batched=True,
    )


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    first, second = first.double(), second.double()
    return (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1))
