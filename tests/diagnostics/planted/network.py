"""A network whose weights are aligned with its feedback, and what of it can be changed.

Weights of layer l are :math:`B_lB_{l-1}^\\top` and a little noise, with orthonormal feedback B:
the weight alignment of Refinetti et al. 2021, by construction. Every layer's signal then has a
cosine of nearly one, so that a fault has something to lower. Activations are tanh in their linear
range. Targets are outputs less given errors: whatever is changed below, the errors stay the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alignlab.feedback import generator
from alignlab.rules import DFA, Quantised, Rule, Stale
from alignlab.rules._wrapping import WrappingRule
from alignlab.snapshot import MeasuredRule

__all__ = ["ERRORS", "SIGNAL", "THEN", "UPDATE", "WIDTH", "Planted", "Recipe", "planted"]

SIGNAL, UPDATE, THEN = "signal", "update", "then"
"""Labels of the rule as it sends its signals, of what reaches the weights, and of the past."""

N_SAMPLES, POSITIONS, INPUTS, CHANNELS, WIDTH, ERRORS = 160, 8, 8, 16, 24, 6

ATTENUATION = {"fc1": 0.5, "fc2": 0.2}
"""Factors on weights: small, so that what saturates one layer leaves the next one's gates open."""

NOISE = 0.1
"""Noise of the weights over what is aligned of them."""

INPUT_SCALE, ERROR_SCALE = 0.3, 0.3
BELOW = {"conv2": "conv1", "fc1": "conv2", "fc2": "fc1", "out": "fc2"}


@dataclass(frozen=True)
class Recipe:
    """What the network, its feedback, its batch and its updates are made of.

    Attributes:
        seed: Seed of everything that is drawn.
        width: Units of the layer fc1.
        gain: Factor on the weights of fc1.
        common: What all errors have in common, over the root mean square of the rest.
        rank: Directions of the errors.
        is_dense: Whether feedback of conv1 has the other sign at one half of the positions, another
            half for every channel and error.
        is_placed: Whether the head takes one half of the positions with the other sign.
        is_unrelated: Whether feedback of fc1 is orthogonal to the one that the weights are aligned
            with.
        scale: Factor on the feedback of fc1.
        trained: Share of the weight of fc1 that the update moves.
        turned: How far the layers have turned since the state at which the update is made, in
            radians times a number of the order of one.
        bits: Bits of an entry of the update; 0 for all.
    """

    seed: int = 0
    width: int = WIDTH
    gain: float = 1.0
    common: float = 0.0
    rank: int = ERRORS
    is_dense: bool = False
    is_placed: bool = False
    is_unrelated: bool = False
    scale: float = 1.0
    trained: float = 1.0
    turned: float = 0.002
    bits: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """Units, or channels, of the hidden layers."""
        return {"conv1": CHANNELS, "conv2": CHANNELS, "fc1": self.width, "fc2": WIDTH}

    def draw(self, name: str, *shape: int) -> Tensor:
        """Return standard normal numbers of a stream of their own."""
        stream = generator(self.seed, "planted", name)
        return torch.randn(shape, generator=stream, dtype=torch.float64)

    def frame(self, name: str, n: int) -> Tensor:
        """Return a random matrix (n, errors) with orthonormal columns, or rows if n is smaller."""
        drawn = self.draw(f"frame {name}", n, ERRORS)
        return torch.linalg.qr(drawn).Q if n >= ERRORS else torch.linalg.qr(drawn.T).Q.T


@dataclass(frozen=True)
class Planted:
    """A network, its loss and batch, what is measured of it, and the state of before."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    rules: tuple[MeasuredRule, MeasuredRule]
    earlier: Mapping[str, Mapping[str, Tensor]]


class Head(nn.Module):
    """A weighted mean over positions."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, h: Tensor) -> Tensor:
        return (h * self.weight).mean(-1)


@dataclass(frozen=True)
class PartlyFrozen(WrappingRule):
    """Another rule's updates, of which one weight's entries are mostly left out."""

    name: ClassVar[str] = "partly-frozen"
    parameter: str = ""
    share: float = 1.0
    seed: int = 0

    def changed(self, updates: Mapping[str, Tensor], state: Any) -> Any:
        del state
        update = updates[self.parameter]
        drawn = torch.rand(update.shape, generator=generator(self.seed, "planted", "mask"))
        return {**updates, self.parameter: update * (drawn < self.share)}, {}


def mean_half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def planted(recipe: Recipe) -> Planted:
    """Return what a recipe makes."""
    model = network(recipe)
    latent = recipe.draw("latent", N_SAMPLES, INPUTS)
    x = latent.unsqueeze(-1) + 0.5 * recipe.draw("input", N_SAMPLES, INPUTS, POSITIONS)
    x = INPUT_SCALE * (x - x.mean(0))
    with torch.no_grad():
        y = model(x) - errors(recipe, latent)
    past = turned_back(recipe, model)
    state = {**model.state_dict(), **past}
    sent = feedback(recipe)
    rules = (
        MeasuredRule(DFA(), sent, "checkpoint", SIGNAL),
        MeasuredRule(*applied(recipe, sent, past), "training", UPDATE),
    )
    return Planted(model, mean_half_squared_error, x, y, rules, {THEN: state})


def network(recipe: Recipe) -> nn.Sequential:
    """Return two convolutions, a pooling head and three linear layers, without biases."""
    pooled = torch.ones(CHANNELS, POSITIONS, dtype=torch.float64)
    if recipe.is_placed:
        pooled[:, POSITIONS // 2 :] *= -1.0
    circular: dict[str, Any] = {"padding": 1, "padding_mode": "circular", "bias": False}
    modules: dict[str, nn.Module] = {
        "conv1": nn.Conv1d(INPUTS, CHANNELS, 3, **circular),
        "tanh1": nn.Tanh(),
        "conv2": nn.Conv1d(CHANNELS, CHANNELS, 3, **circular),
        "tanh2": nn.Tanh(),
        "head": Head(pooled),
        "fc1": nn.Linear(CHANNELS, recipe.width, bias=False),
        "tanh3": nn.Tanh(),
        "fc2": nn.Linear(recipe.width, WIDTH, bias=False),
        "tanh4": nn.Tanh(),
        "out": nn.Linear(WIDTH, ERRORS, bias=False),
    }
    model = nn.Sequential(OrderedDict(modules)).double()
    with torch.no_grad():
        for name, weight in weights(recipe).items():
            model.get_submodule(name).weight.copy_(weight)
    return model


def weights(recipe: Recipe) -> dict[str, Tensor]:
    """Return weights by layer, of convolutions the same at all three taps but for some noise."""
    frames = {name: recipe.frame(name, n) for name, n in recipe.sizes.items()}
    frames["out"] = torch.eye(ERRORS, dtype=torch.float64)
    found = {"conv1": frames["conv1"] @ recipe.frame("input", INPUTS).T}
    for name, below in BELOW.items():
        aligned = frames[name] @ frames[below].T
        noise = recipe.draw(f"noise {name}", *aligned.shape)
        noise = NOISE * aligned.norm() * noise / noise.norm()
        found[name] = ATTENUATION.get(name, 1.0) * (aligned + noise)
    for name in ("conv1", "conv2"):
        taps = 0.03 * recipe.draw(f"taps {name}", *found[name].shape, 3)
        found[name] = found[name].unsqueeze(-1) / 3.0 + taps - taps.mean(-1, keepdim=True)
    found["fc1"] = recipe.gain * found["fc1"]
    return found


def errors(recipe: Recipe, latent: Tensor) -> Tensor:
    """Return the errors: half of them follow from the input, in so many directions, and a mean."""
    found = latent @ recipe.frame("target", INPUTS) + recipe.draw("error", N_SAMPLES, ERRORS)
    axes = recipe.frame("directions", ERRORS)[:, : recipe.rank]
    found = found @ axes @ axes.T
    found = found - found.mean(0)
    found = found / found.square().sum(1).mean().sqrt()
    direction = recipe.draw("common", ERRORS)
    return ERROR_SCALE * (found + recipe.common * direction / direction.norm())


def feedback(recipe: Recipe) -> dict[str, Tensor]:
    """Return feedback by layer, of the size of the true signals."""
    found = {name: recipe.frame(name, n).T.contiguous() for name, n in recipe.sizes.items()}
    if recipe.is_unrelated:
        both = torch.cat([found["fc1"].T, recipe.draw("unrelated", recipe.width, ERRORS)], 1)
        found["fc1"] = torch.linalg.qr(both).Q[:, ERRORS:].T.contiguous()
    through = ATTENUATION["fc2"]
    found["fc1"] = recipe.scale * through * found["fc1"]
    found["conv2"] = ATTENUATION["fc1"] * through * found["conv2"]
    pooled = ATTENUATION["fc1"] * through * found["conv1"].unsqueeze(-1) / POSITIONS
    pooled = pooled.expand(ERRORS, CHANNELS, POSITIONS).clone()
    if recipe.is_dense:
        pooled *= 2.0 * (recipe.draw("dense", *pooled.shape).argsort(-1) % 2) - 1.0
    return found | {"conv1": pooled}


def turned_back(recipe: Recipe, model: nn.Module) -> dict[str, Tensor]:
    """Return parameters of before: the same function of the input by layers that are turned."""
    turns = {}
    for name, n in recipe.sizes.items():
        drawn = recipe.draw(f"turn {name}", n, n) / n**0.5
        turns[name] = torch.linalg.matrix_exp(recipe.turned * (drawn - drawn.T))
    found = {}
    for name, parameter in model.named_parameters():
        layer, weight = name.removesuffix(".weight"), parameter.detach()
        if layer in turns:
            weight = torch.einsum("ab,b...->a...", turns[layer], weight)
        if layer in BELOW:
            weight = torch.einsum("ab...,cb->ac...", weight, turns[BELOW[layer]])
        found[name] = weight
    return found


def applied(
    recipe: Recipe, sent: Mapping[str, Tensor], past: Mapping[str, Tensor]
) -> tuple[Rule, dict[str, Tensor]]:
    """Return what reaches the weights: the rule of a moment ago, masked or in few bits."""
    rule: Rule = Stale(rule=DFA())
    state = {f"rule.{name}": one for name, one in sent.items()}
    state |= {f"past.1.{name}": one for name, one in past.items()}
    if recipe.trained < 1.0:
        rule = PartlyFrozen(
            rule=rule, parameter="fc1.weight", share=recipe.trained, seed=recipe.seed
        )
    elif recipe.bits:
        rule = Quantised(rule=rule, bits=recipe.bits)
    else:
        return rule, state
    return rule, {f"rule.{name}": one for name, one in state.items()}
