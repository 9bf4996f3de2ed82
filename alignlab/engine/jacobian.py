"""Derivatives of the network's output in its pre-activations and entries, never all at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from alignlab.engine.capture import Capture, Loss
from alignlab.engine.directions import Directions, Units
from alignlab.engine.graph import reachable_calls
from alignlab.engine.updates import Updates
from alignlab.errors import InputError, MeasurementError
from alignlab.feedback import generator
from alignlab.sites import ENTRY, PREACTIVATION, Layer

__all__ = ["Jacobian", "Visitor", "sample_blocks"]

Visitor = Callable[[int, Layer, str, Tensor], None]
"""Takes the number of the direction, a layer, a site and the signal there, with its samples."""

_Show = Callable[[Layer, str, Tensor], None]
_FEW = 4
"""Samples of which a block of its own tells whether samples are separate."""


@final
class Jacobian:
    r"""The derivative :math:`J_l(x) = \partial z/\partial s_l` at every site :math:`s_l`.

    z is the output layer's pre-activation. One unit of it is one entry of the flattened output
    of a sample: a network that ends in ``(n_samples, positions, channels)`` has
    ``positions * channels`` units. Each backward pass forms one row of J at all sites, and
    nothing of the weights' gradients; a visitor sees the sites one after the other, so that
    memory is that of the graph and one site.

    Rows are read for all samples from one backward pass, which is right where no sample's
    output depends on another sample; where one does (batch norm in training) they are refused.
    The products ``pulled_back`` and ``pushed_forward`` are exact there too: they are those of
    the whole batch.

    Args:
        capture: A forward pass that is held open; it must outlive this.
        known_separate: Whether the samples were already seen to be separate, in another
            forward pass of the model in the same mode.
    """

    def __init__(self, capture: Capture, *, known_separate: bool = False) -> None:
        """Find the sites; nothing is differentiated yet."""
        layout = capture.layout
        self._capture: Final = capture
        output = layout.only_output
        if output is None:
            names = ", ".join(layer.name for layer in layout.outputs)
            msg = f"The model ends in several layers ({names}); a Jacobian is that of one output."
            raise MeasurementError(msg)
        self._output_layer: Final = output
        self._output: Final = layout.call(output)
        self._separate = known_separate
        self._sites: Final = _sites(capture)
        self._roots: Final = [
            call.output_edge
            for call in layout.calls
            if call.input_edge is None or not reachable_calls(call.input_edge.node, layout.calls)
        ]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers below the output, in call order; they have both sites."""
        return tuple(layer for layer in self._capture.layers if not layer.is_output)

    def units(self, indices: Sequence[int] | None = None) -> Units:
        """Return output units as directions; None for all of them."""
        n = self._capture.n_errors
        return Units(range(n) if indices is None else indices, n)

    def rows(self, directions: Directions | None = None) -> Iterator[Updates]:
        r"""Yield :math:`J_l^\top s` at all sites for one direction s after the other.

        Args:
            directions: What is differentiated; None for every output unit in order.

        Yields:
            Signals shaped as those of a backward pass; drop each before the next.

        Raises:
            MeasurementError: The samples are not separate.
        """
        chosen = self.units() if directions is None else directions
        self._require_separate_samples()
        cotangent = self._rows_of_output()
        for number in range(len(chosen)):
            chosen.write(number, cotangent)
            yield self.pulled_back(cotangent)

    def visit(self, *visitors: Visitor, directions: Directions | None = None) -> None:
        """Show every row at every site to visitors, without keeping any.

        Args:
            *visitors: Called site by site during the backward passes.
            directions: What is differentiated; None for every output unit in order.

        Raises:
            MeasurementError: The samples are not separate.
        """
        chosen = self.units() if directions is None else directions
        self._require_separate_samples()
        cotangent = self._rows_of_output()
        number = 0

        def show(layer: Layer, site: str, signal: Tensor) -> None:
            for visitor in visitors:
                visitor(number, layer, site, signal)

        with self._watched(show) as backward:
            for number in range(len(chosen)):
                chosen.write(number, cotangent)
                backward(cotangent)

    def pulled_back(self, cotangent: Tensor) -> Updates:
        r"""Return :math:`J_l^\top u` at all sites; with the error as u, the true signals.

        Args:
            cotangent: u, ``n_errors`` entries for each sample.
        """
        entry: dict[str, Tensor] = {}
        preactivation: dict[str, Tensor] = {}

        def keep(layer: Layer, site: str, signal: Tensor) -> None:
            (entry if site == ENTRY else preactivation)[layer.name] = signal

        with self._watched(keep) as backward:
            backward(cotangent)
        # A copy: rows() writes the next direction over the cotangent.
        preactivation[self._output_layer.name] = cotangent.reshape(
            self._output.output_shape
        ).clone()
        order = [layer.name for layer in self._capture.layers]
        return Updates(
            {name: entry[name] for name in order if name in entry},
            {name: preactivation[name] for name in order},
        )

    def pushed_forward(self, layer: Layer, site: str, tangent: Tensor) -> Tensor:
        r"""Return :math:`J_l v`: how the output moves when a site does.

        It is the derivative of the backward map in its argument, which is linear.

        Args:
            layer: Any layer below the output.
            site: ``entry`` or ``preactivation``.
            tangent: v, shape ``(n_samples, *shape)`` of the site.

        Returns:
            Shape ``(n_samples, *output_shape)``.

        Raises:
            MeasurementError: A backward in the graph cannot itself be differentiated.
        """
        edge = self._sites[layer.name, site]
        argument = torch.zeros(
            self._output.output_shape, dtype=tangent.dtype, device=tangent.device
        ).requires_grad_()
        try:
            (image,) = torch.autograd.grad(
                self._output.output_edge,
                [edge],
                grad_outputs=(argument,),
                retain_graph=True,
                create_graph=True,
            )
            if not image.requires_grad:
                return torch.zeros_like(argument.detach())
            (result,) = torch.autograd.grad(image, [argument], grad_outputs=(tangent,))
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            msg = (
                f"The Jacobian at {layer.name!r} cannot be applied to a tangent, because a "
                f"backward above it cannot be differentiated ({error}); use its rows."
            )
            raise MeasurementError(msg) from error
        return result

    def _rows_of_output(self) -> Tensor:
        edge = self._output.output_edge
        carried: torch.dtype = edge.node._input_metadata[edge.output_nr].dtype
        shape = (self._capture.n_samples, self._capture.n_errors)
        return torch.zeros(shape, dtype=carried, device=self._capture.loss.device)

    @contextmanager
    def _watched(self, show: _Show) -> Iterator[Callable[[Tensor], None]]:
        """Return a backward pass of input gradients that shows every site once."""
        layers = {layer.name: layer for layer in self._capture.layers}
        ends = {(edge.node, edge.output_nr): k for k, edge in enumerate(self._roots)}
        at_end = [
            (layers[name], site, ends[edge.node, edge.output_nr])
            for (name, site), edge in self._sites.items()
            if (edge.node, edge.output_nr) in ends
        ]
        shown: set[tuple[str, str]] = set()

        def look(layer: Layer, site: str, signal: Tensor | None) -> None:
            if signal is not None:
                shown.add((layer.name, site))
                show(layer, site, signal)

        def backward(cotangent: Tensor) -> None:
            shown.clear()
            found = torch.autograd.grad(
                self._output.output_edge,
                self._roots,
                grad_outputs=(cotangent.reshape(self._output.output_shape),),
                retain_graph=True,
                allow_unused=True,
            )
            for layer, site, k in at_end:
                look(layer, site, found[k])
            self._require_all(shown)

        handles = [
            edge.node.register_prehook(_at(edge.output_nr, layers[name], site, look))
            for (name, site), edge in self._sites.items()
            if (edge.node, edge.output_nr) not in ends
        ]
        try:
            yield backward
        finally:
            for handle in handles:
                handle.remove()

    def _require_all(self, shown: Collection[tuple[str, str]]) -> None:
        unseen = [f"{name} ({site})" for name, site in self._sites if (name, site) not in shown]
        if unseen:
            msg = f"The output does not depend on {', '.join(unseen)}, so it has no Jacobian there."
            raise MeasurementError(msg)

    def _require_separate_samples(self) -> None:
        """Refuse networks in which the output of one sample depends on another sample."""
        n = self._capture.n_samples
        if self._separate or n == 1:
            self._separate = True
            return
        stream = generator(0, "separate samples")
        fold = torch.randperm(n, generator=stream) < n // 2
        rows = self._rows_of_output()
        noise = torch.randn(rows.shape, generator=stream).to(rows)
        mask = fold.to(rows.device)
        leaks: list[tuple[str, Tensor]] = []

        def look(layer: Layer, _site: str, signal: Tensor) -> None:
            inside = mask.reshape(-1, *(1 for _ in signal.shape[1:]))
            leaks.append((layer.name, signal.masked_fill(inside, 0.0).abs().amax()))

        with self._watched(look) as backward:
            backward(noise * mask[:, None])
        # All are fetched at once: a look at each would wait for the device as often.
        each = [(leak > 0).to(rows.device) for _, leak in leaks]
        found = torch.stack(each).tolist() if each else []
        leaking = [name for (name, _), leaks_out in zip(leaks, found, strict=True) if leaks_out]
        if leaking:
            msg = (
                f"The signal of one sample reaches others at {', '.join(dict.fromkeys(leaking))} "
                "(batch norm in training mode does that), so no sample has a Jacobian of its own; "
                "use model.eval(), or pulled_back and pushed_forward for the whole batch."
            )
            raise MeasurementError(msg)
        self._separate = True


def sample_blocks(
    model: nn.Module, loss_function: Loss, x: Tensor, y: Tensor, *, size: int = 32
) -> Iterator[tuple[slice, Jacobian]]:
    """Yield the Jacobian of one block of samples after the other.

    Memory is the graph of one block, which also costs less time than that of a whole batch
    wherever fresh memory does. Every block has a forward pass of its own, which with dropout
    draws masks of its own. That the samples are separate is seen on the first few of them.

    Args:
        model: As for ``Capture``.
        loss_function: As for ``Capture``.
        x: Batch, first axis samples.
        y: Targets, first axis samples.
        size: Samples in a block, at least 1.

    Yields:
        Which samples, and their Jacobian, which is open until the next block is asked for.

    Raises:
        InputError: Batch and targets differ in length, or the size is less than 1.
        MeasurementError: The model cannot be measured truthfully, or the samples are not
            separate; says why.
    """
    if size < 1 or len(x) != len(y):
        msg = (
            f"Blocks of {size} out of {len(x)} samples with {len(y)} targets were asked for; "
            "give blocks of at least 1 and a target for every sample."
        )
        raise InputError(msg)
    with _opened(model, loss_function, x[:_FEW], y[:_FEW]) as few:
        Jacobian(few)._require_separate_samples()
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        with _opened(model, loss_function, x[part], y[part]) as capture:
            yield part, Jacobian(capture, known_separate=True)


@contextmanager
def _opened(model: nn.Module, loss_function: Loss, x: Tensor, y: Tensor) -> Iterator[Capture]:
    capture = Capture(model, loss_function, x, y)
    try:
        yield capture
    finally:
        capture.close()
        capture.state.restore(model)


def _at(
    number: int, layer: Layer, site: str, look: Callable[[Layer, str, Tensor | None], None]
) -> Callable[[tuple[Tensor | None, ...]], None]:
    """Return the hook that reads one gradient of a node; it holds nothing of the graph."""

    def hook(gradients: tuple[Tensor | None, ...]) -> None:
        look(layer, site, gradients[number])

    return hook


def _sites(capture: Capture) -> dict[tuple[str, str], Any]:
    """Return the gradient edge of every site below the output, by layer name and site."""
    layout = capture.layout
    found = {}
    for layer in capture.layers:
        if layer.is_output:
            continue
        found[layer.name, PREACTIVATION] = layout.call(layer).output_edge
        found[layer.name, ENTRY] = layout.entry_edge(layout.segment_of(layer))
    return found
