"""A model as a chain of blocks that can be run by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from alignlab.engine.own_map import MEASURED
from alignlab.engine.state import State
from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer

__all__ = ["Block", "Chain", "Chained", "Step"]

Step = tuple[str, Callable[[Tensor], Tensor]]
"""Name, and module or function."""


@runtime_checkable
class Chained(Protocol):
    """A model that says by itself of which steps it is the chain."""

    def chained_steps(self) -> Iterable[Step]:
        """Yield modules and functions in the order in which they run."""
        ...


@final
@dataclass(frozen=True)
class Block:
    """One call of a measured layer with what follows it, up to the next measured layer.

    Attributes:
        layer: The layer.
        module: Its module.
        after: Steps that follow.
        input: h of the captured pass, detached, ``(n_samples, ...)``.
    """

    layer: Layer
    module: nn.Module
    after: tuple[Step, ...]
    input: Tensor

    def preactivation(self, h: Tensor) -> Tensor:
        """Return the layer's output on an input."""
        found: Tensor = self.module(h)
        return found

    def activity(self, a: Tensor) -> Tensor:
        """Return what follows of the layer's output, the input of the next block."""
        for _, step in self.after:
            a = step(a)
        return a

    def __call__(self, h: Tensor) -> Tensor:
        """Run the block on an input."""
        return self.activity(self.preactivation(h))

    @property
    def elementwise(self) -> tuple[Step, ...]:
        """The steps that act on every unit by itself and have no parameters or buffers.

        They are the activation of the block, whatever pools, normalises or flattens left out.
        """
        stream = torch.Generator().manual_seed(0)
        a = torch.randn((2, *self.layer.shape), generator=stream).to(self.input)
        found = []
        for name, step in self.after:
            if not _has_tensors(step) and _acts_on_units(step, a, stream):
                found.append((name, step))
            with torch.no_grad():
                a = step(a.clone())
        return tuple(found)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the block that require a gradient, each once."""
        modules = [self.module, *(step for _, step in self.after if isinstance(step, nn.Module))]
        found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return list(found.values())


@final
@dataclass(frozen=True)
class Chain:
    """The blocks of a captured model, one after the other.

    Attributes:
        before: Steps ahead of the first measured layer.
        blocks: One for every call of a measured layer, the output last.
    """

    before: tuple[Step, ...]
    blocks: tuple[Block, ...]

    @property
    def hidden(self) -> tuple[Block, ...]:
        """All blocks but the output's."""
        return self.blocks[:-1]

    @property
    def output(self) -> Block:
        """The last block."""
        return self.blocks[-1]

    def start(self, x: Tensor) -> Tensor:
        """Return what the first layer reads of a batch."""
        for _, step in self.before:
            x = step(x)
        return x

    @classmethod
    def of(cls, capture: Capture, rule: str) -> Chain:
        """Take a captured model apart.

        Args:
            capture: A captured forward pass.
            rule: Named in refusals.

        Raises:
            MeasurementError: The model is no chain of layers, or a block does not give the same
                output again, alone and for every sample by itself.
        """
        model = capture.model
        steps = list(_steps("", model, rule))
        starts = [k for k, (_, step) in enumerate(steps) if isinstance(step, MEASURED)]
        modules = [steps[k][1] for k in starts]
        if modules != [capture.module_of(layer) for layer in capture.layers]:
            raise _no_chain(rule, f"the loss does not depend on all layers of {_kind(model)}")
        ends = [*starts[1:], len(steps)]
        blocks = tuple(
            Block(
                layer, capture.module_of(layer), tuple(steps[k + 1 : end]), capture.input_of(layer)
            )
            for layer, k, end in zip(capture.layers, starts, ends, strict=True)
        )
        chain = cls(tuple(steps[: starts[0]]), blocks)
        _require_blocks(chain, capture, rule)
        return chain


def _steps(name: str, module: nn.Module, rule: str) -> Iterator[Step]:
    """Yield the steps of a chain, chains within it opened."""
    if isinstance(module, Chained):
        inside: Iterable[Step] = module.chained_steps()
    elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        inside = module._modules.items()
    else:
        raise _no_chain(rule, f"{name or 'the model'} is {_kind(module)}")
    for own, step in inside:
        path = f"{name}.{own}" if name else own
        holds = isinstance(step, nn.Module) and any(isinstance(m, MEASURED) for m in step.modules())
        if holds and not isinstance(step, MEASURED):
            assert isinstance(step, nn.Module)
            yield from _steps(path, step, rule)
        else:
            yield path, step


def _require_blocks(chain: Chain, capture: Capture, rule: str) -> None:
    """Refuse blocks that cannot be run again by themselves."""
    for name, step in chain.before:
        if isinstance(step, nn.Module) and any(p.requires_grad for p in step.parameters()):
            raise _no_chain(rule, f"{name} has parameters and lies ahead of the first layer")
    for name, step in (*chain.before, *(each for block in chain.blocks for each in block.after)):
        if _mixes_samples(step):
            msg = (
                f"{rule} runs {name!r} on other activities than those of the forward pass, whose "
                "statistics it would take over the batch; put it in evaluation mode, or use a "
                "layer or group norm."
            )
            raise MeasurementError(msg)
    kept = State.of(capture.model)
    wanted = [*(block.input for block in chain.blocks[1:]), capture.output]
    try:
        with torch.no_grad():
            name = f"what lies ahead of {chain.blocks[0].layer.name!r}"
            _require_same(chain.start, capture.x, chain.blocks[0].input, rule, name)
            for block, output in zip(chain.blocks, wanted, strict=True):
                name = f"the block of {block.layer.name!r}"
                _require_same(block, block.input, output, rule, name)
    finally:
        kept.restore(capture.model)


def _require_same(
    run: Callable[[Tensor], Tensor], x: Any, wanted: Any, rule: str, name: str
) -> None:
    """Refuse what draws random numbers or is not the whole of what the model does there."""
    before = torch.get_rng_state()
    found = run(x.clone()) if isinstance(x, Tensor) else None
    if not torch.equal(before, torch.get_rng_state()):
        what = "draws random numbers (dropout)"
    elif _are_close(found, wanted):
        return
    else:
        what = "gives another output than in the model"
    msg = (
        f"{rule} runs {name} again by itself, where it {what}; put the model in evaluation mode, "
        "or measure dfa, fa or forward-gradient."
    )
    raise MeasurementError(msg)


def _are_close(found: Any, wanted: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor):
        return False
    tolerance = 1e2 * torch.finfo(found.dtype).eps
    same = found.shape == wanted.shape
    return same and torch.allclose(found, wanted.to(found), rtol=tolerance, atol=tolerance)


def _has_tensors(step: object) -> bool:
    if not isinstance(step, nn.Module):
        return False
    return any(True for _ in step.parameters()) or any(True for _ in step.buffers())


def _acts_on_units(step: Callable[[Tensor], Tensor], a: Tensor, stream: torch.Generator) -> bool:
    """Return whether the Jacobian of a step is diagonal: J s = s J 1 for a random s."""
    x = a.detach().requires_grad_()
    with torch.enable_grad():
        y = step(x.clone())
    if y.shape != x.shape:
        return False
    signal = (torch.rand(a.shape, generator=stream) + 0.5).to(a)
    (found,) = torch.autograd.grad(y, x, signal, retain_graph=True)
    (plain,) = torch.autograd.grad(y, x, torch.ones_like(signal))
    return torch.allclose(found, signal * plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def _mixes_samples(step: object) -> bool:
    if not isinstance(step, nn.Module):
        return False
    norms = [m for m in step.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return any(m.training or m.running_mean is None for m in norms)


def _no_chain(rule: str, what: str) -> MeasurementError:
    return MeasurementError(
        f"{rule} needs a chain of layers (nn.Sequential, nested ones too, or a network of "
        f"alignlab.models), and {what}; measure dfa, fa or forward-gradient."
    )


def _kind(module: nn.Module) -> str:
    return f"a {type(module).__name__}"
