"""Direct feedback alignment as a delta rule, in numpy, from the formulas of Nøkland 2016."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Gradients", "conv_network", "mlp"]

Array = np.ndarray
Gradients = list[tuple[Array, Array]]
"""Gradients of weight and bias, layer by layer."""

ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda a: 1.0 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0.0), lambda a: (a > 0).astype(float)),
}


def softmax_error(a: Array, labels: Array) -> Array:
    """Return the gradient of the mean cross-entropy at the output."""
    shifted = np.exp(a - a.max(1, keepdims=True))
    error = shifted / shifted.sum(1, keepdims=True)
    error[np.arange(len(a)), labels] -= 1.0
    return error / len(a)


def mlp(
    layers: Sequence[tuple[Array, Array]],
    feedback: Sequence[Array],
    batch: tuple[Array, Array],
    *,
    activation: str,
) -> Gradients:
    """Return the gradients of a multilayer perceptron.

    Args:
        layers: Weight (out, in) and bias of every layer.
        feedback: B of every hidden layer, shape (units, classes).
        batch: Inputs (samples, features) and labels.
        activation: Key of ``ACTIVATIONS``.
    """
    function, slope = ACTIVATIONS[activation]
    inputs, preactivations = [batch[0]], []
    for weight, bias in layers:
        preactivations.append(inputs[-1] @ weight.T + bias)
        inputs.append(function(preactivations[-1]))
    error = softmax_error(preactivations[-1], batch[1])
    deltas = [
        (error @ matrix.T) * slope(a) for matrix, a in zip(feedback, preactivations, strict=False)
    ]
    return [(delta.T @ h, delta.sum(0)) for delta, h in zip([*deltas, error], inputs, strict=False)]


def patches(x: Array, *, kernel: int, stride: int, padding: int) -> Array:
    """Return what every position sees, (samples, rows, columns, channels, kernel, kernel)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = (x.shape[2] - kernel) // stride + 1
    found = np.empty((len(x), size, size, x.shape[1], kernel, kernel))
    for row in range(size):
        for column in range(size):
            top, left = row * stride, column * stride
            found[:, row, column] = x[:, :, top : top + kernel, left : left + kernel]
    return found


def conv_network(
    layers: Sequence[tuple[Array, Array]],
    feedback: Sequence[Array],
    batch: tuple[Array, Array],
    *,
    strides: Sequence[int],
    padding: int,
) -> Gradients:
    """Return the gradients of square convolutions with ReLU and a linear readout.

    Args:
        layers: Kernel (out, in, k, k) and bias of every convolution, then the readout.
        feedback: B of every convolution, shape (channels * rows * columns, classes).
        batch: Images and labels.
        strides: Stride of every convolution.
        padding: Padding of all.
    """
    h, seen, preactivations = batch[0], [], []
    for (kernel, bias), stride in zip(layers, strides, strict=False):
        seen.append(patches(h, kernel=kernel.shape[2], stride=stride, padding=padding))
        a = np.einsum("nrscij,ocij->nors", seen[-1], kernel) + bias[:, None, None]
        preactivations.append(a)
        h = np.maximum(a, 0.0)
    flat = h.reshape(len(h), -1)
    error = softmax_error(flat @ layers[-1][0].T + layers[-1][1], batch[1])
    gradients: Gradients = []
    for matrix, a, x in zip(feedback, preactivations, seen, strict=True):
        delta = (error @ matrix.T).reshape(a.shape) * (a > 0)
        gradients.append((np.einsum("nors,nrscij->ocij", delta, x), delta.sum((0, 2, 3))))
    return [*gradients, (error.T @ flat, error.sum(0))]
