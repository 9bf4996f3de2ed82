"""What is asked of every rule on an open case, and of the text by which it is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.feedback import decoded, digest, encoded
from alignlab.rules import Displacement, Rule, State, Task, Updates
from tests.cases import CASES, Batch
from tests.oracles.state import state_of

__all__ = [
    "EXACT",
    "TOP",
    "UNDRAWN",
    "WHOLE",
    "WITHOUT_ENTRY",
    "Open",
    "opened",
    "refusals",
    "stored",
]

EXACT = {"bp", "align-prop", "align-zero", "align-ada", "align-ada(derivative=current)", "stale"}
"""Rules that are backpropagation at the first step, and say so."""
FITTED = {"oracle-dfa", "oracle-dfa(aim=jacobian)"}
"""Rules that come as close to backpropagation as they can."""
WHOLE = {
    "tbptt(window=2)": {"reused", "tied", "weight norm, twice", "recurrence", "leaky recurrence"}
}
"""Windows that hold all steps, by label."""
TOP = {"dtp", *FITTED}
"""Rules whose signal at the top entry is the true one, but for its size."""
UNDRAWN = {
    *("ebd", "ebd(function=tanh)", "dkp(initial=zeros)", *FITTED, "applied", "displacement"),
    *("aligned-dfa", "aligned-dfa(factors=nmf)"),
}
"""Rules with a seed that is that of the chance level alone, or with no feedback at first.

Or of a choice among few, in which two seeds may agree.
"""
WITHOUT_ENTRY = {"node-perturbation", "node-perturbation(tangents=2)", "pepita"}
"""Rules whose signals are at the pre-activations alone."""


@dataclass(frozen=True)
class Open:
    """A case with its graph held open, and the true gradients."""

    name: str
    batch: Batch
    capture: Capture
    true: Updates

    def task(self, rule: Rule) -> Task:
        """Return what a rule is given: parameters' gradients only where it has no signals."""
        bare = Updates(self.true.entry, self.true.preactivation)
        return Task(self.capture, bare if rule.has_signals else self.true)

    def tolerance(self) -> dict[str, float]:
        exact = next(self.batch.model.parameters()).dtype == torch.float64
        return {"rtol": 1e-9, "atol": 1e-12} if exact else {"rtol": 1e-4, "atol": 1e-8}

    def is_true(self, name: str, update: Tensor) -> bool:
        true = self.true.parameters[name]
        return torch.allclose(update, true, **self.tolerance())

    def reached(self, rule: Rule) -> list[str]:
        """Return the parameters whose updates come by what the rule sends.

        They are all but those of output layers. Where the top entry has its true signal, those of
        the blocks below it are looked at alone, which the weights of hidden layers stand for.
        """
        named = {id(p): name for name, p in self.batch.model.named_parameters() if p.requires_grad}
        outputs = [layer for layer in self.capture.layers if layer.is_output]
        own = {id(p) for layer in outputs for p in self.capture.module_of(layer).parameters()}
        if rule.label not in TOP:
            return [name for key, name in named.items() if key not in own]
        top = {layer.name for layer in outputs}
        below = [x for x in self.capture.layers if not x.is_output and x.consumer not in top]
        weights = [self.capture.module_of(layer)._parameters.get("weight") for layer in below]
        return sorted({named[id(p)] for p in weights if id(p) in named})


@contextmanager
def opened(name: str, *, dtype: torch.dtype, n_samples: int = 6) -> Iterator[Open]:
    """Open a case with something in every ``.grad``, and find it untouched in the end."""
    batch = CASES[name].make(n_samples=n_samples, dtype=dtype)
    for number, parameter in enumerate(batch.model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
    before = state_of(batch)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    yield Open(name, batch, capture, true)
    require_equal(capture.reference(parameters=True), true)
    capture.close()
    assert state_of(batch) == before, "the case is not as it was"


def bits(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, bytes]]:
    return {
        n: (t.dtype, t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for n, t in tensors.items()
    }


def require_equal(one: Updates, other: Updates) -> None:
    """Two yields have the same bits, their states too."""
    for part in ("entry", "preactivation", "parameters"):
        assert bits(getattr(one, part)) == bits(getattr(other, part)), f"{part}: other bits"
    states = [None if each.state is None else digest(each.state) for each in (one, other)]
    assert states[0] == states[1], "another state"


def require_complete(found: Updates, rule: Rule, here: Open) -> None:
    """There is a finite update for every parameter, and a signal at every site."""
    wanted = {n: p for n, p in here.batch.model.named_parameters() if p.requires_grad}
    assert {n: (u.shape, u.dtype) for n, u in found.parameters.items()} == {
        n: (p.shape, p.dtype) for n, p in wanted.items()
    }, f"updates of {sorted(found.parameters)}"
    n = here.capture.n_samples
    hidden = [layer for layer in here.capture.layers if not layer.is_output]
    if rule.label in WITHOUT_ENTRY or not rule.has_signals:
        assert not found.entry, "signals at entries"
    else:
        assert {layer.name: (n, *layer.entry_shape) for layer in hidden} == {
            name: tuple(signal.shape) for name, signal in found.entry.items()
        }, f"entry signals of {sorted(found.entry)}"
    sites = here.capture.layers if rule.has_signals else ()
    assert {layer.name: (n, *layer.shape) for layer in sites} == {
        name: tuple(signal.shape) for name, signal in found.preactivation.items()
    }, f"pre-activation signals of {sorted(found.preactivation)}"
    for part in (found.entry, found.preactivation, found.parameters):
        for name, each in part.items():
            assert torch.isfinite(each).all(), f"{name} is not finite"
            assert not each.requires_grad, f"{name} hangs on a graph"
    if rule.has_exact_output and rule.has_signals:
        for layer in here.capture.layers:
            if layer.is_output:
                true = here.true.preactivation[layer.name]
                assert torch.equal(found.preactivation[layer.name], true), f"error at {layer.name}"


def require_own_way(found: Updates, other: Updates, rule: Rule, here: Open) -> None:
    """It is not backpropagation, and hidden layers follow what was drawn for them."""
    exact = [n for n, update in found.parameters.items() if here.is_true(n, update)]
    if rule.label in EXACT or here.name in WHOLE.get(rule.label, ()):
        assert len(exact) == len(found.parameters), "it is not backpropagation"
        return
    assert rule.label in FITTED or len(exact) < len(found.parameters), "it is backpropagation"
    if rule.label in FITTED or not (rule.has_random_feedback or has_seed(rule)):
        return
    size = max(float(update.abs().max()) for update in found.parameters.values())
    for name in here.reached(rule):
        one, two = found.parameters[name], other.parameters[name]
        if torch.stack([one, two]).abs().max() <= 1e-6 * size:
            continue  # none, or rounding as of a bias below a normalisation
        assert name not in exact, f"{name} has its true gradient"
        if rule.label not in UNDRAWN:
            assert not torch.equal(one, two), f"{name} has the same update whatever is drawn"


def has_seed(rule: Rule) -> bool:
    return reseeded(rule) != rule


def reseeded(rule: Rule) -> Rule:
    """Return the rule with another seed, and the rule that it wraps likewise."""
    options: dict[str, Any] = {}
    for field in fields(rule):  # type: ignore[arg-type]
        if field.name == "seed":
            options["seed"] = 1
        elif isinstance(getattr(rule, field.name), Rule):
            options[field.name] = reseeded(getattr(rule, field.name))
    return replace(rule, **options)  # type: ignore[type-var]


def started(rule: Rule, here: Open, *, seed: int) -> State:
    """Return a first state; where a training is observed, it has moved everything by 1."""
    if isinstance(rule, Displacement):
        now = dict(here.batch.model.named_parameters())
        return Displacement.between(now, {name: p - 1.0 for name, p in now.items()})
    return rule.start(here.capture, seed=seed)


def stored(state: State) -> State:
    return {name: decoded(value) for name, value in encoded(state).items()}


def try_out(rule: Rule, here: Open, state: State, found: Updates) -> None:
    """Look at what the rule has yielded, and let it yield again in several ways."""
    task, first = here.task(rule), started(rule, here, seed=0)
    require_complete(found, rule, here)
    assert digest(state) == digest(first), "the state was changed in place"
    require_equal(found, rule.updates(task, stored(first)))
    other = reseeded(rule)
    require_own_way(found, other.updates(task, started(other, here, seed=1)), rule, here)
    kept = state if found.state is None else found.state
    if rule.learns:
        require_following(rule, kept, here)
    if rule.needs_history:
        require_history(rule, kept, here)


def require_following(rule: Rule, state: State, here: Open) -> None:
    """The state follows a step of the optimizer, and goes on the same when it was stored."""
    named = here.batch.model.named_parameters(remove_duplicate=False)
    before = {name: p.detach() for name, p in named}
    after = {name: 0.9 * p + 0.01 for name, p in before.items()}
    moved = rule.followed(state, before=before, after=after)
    again = rule.followed(stored(state), before=before, after=after)
    assert digest(moved) == digest(again), "it follows another way when it was stored"
    found = rule.updates(here.task(rule), moved)
    require_complete(found, rule, here)
    require_equal(found, rule.updates(here.task(rule), stored(again)))


def require_history(rule: Rule, state: State, here: Open) -> None:
    """Where the weights were others before a step, it is not backpropagation."""
    after = dict(here.batch.model.named_parameters(remove_duplicate=False))
    before = {name: 0.9 * p.detach() + 0.01 for name, p in after.items()}
    found = rule.updates(here.task(rule), rule.followed(state, before=before, after=after))
    require_complete(found, rule, here)
    exact = [n for n, update in found.parameters.items() if here.is_true(n, update)]
    assert len(exact) < len(found.parameters), "it is backpropagation after a step"


def require_named(text: str, rule: Rule, here: Open) -> None:
    """A refusal says what it is about, and what to do instead."""
    parameters = [name for name, _ in here.batch.model.named_parameters()]
    layers = [layer.name for layer in here.capture.layers]
    own = {each.name: (getattr(rule, each.name), each.default) for each in fields(rule)}  # type: ignore[arg-type]
    options = [value for value, usual in own.values() if isinstance(value, str) and value != usual]
    subjects = "|".join(re.escape(each) for each in (rule.name, *layers, *parameters, *options))
    assert re.search(rf"(?<![\w.])'?({subjects})\b", text), text
    assert re.search(r"\b(use|measure|give|put|take|freeze|probe|run|choose)\b", text, re.I), text


def refusals(rules: Mapping[str, Rule], here: Open) -> dict[str, str]:
    """Try every rule; return the texts of those that are refused."""
    refused, before = {}, state_of(here.batch)
    for label, rule in rules.items():
        try:
            with blamed(label):
                state = started(rule, here, seed=0)
                found = rule.updates(here.task(rule), state)
        except MeasurementError as error:
            require_named(str(error), rule, here)
            refused[label] = str(error)
        else:
            with blamed(label, is_late=True):
                try_out(rule, here, state, found)
        assert state_of(here.batch) == before, f"{label} leaves something behind"
    return refused


@contextmanager
def blamed(label: str, *, is_late: bool = False) -> Iterator[None]:
    """Turn every error into a failure of a rule, but a refusal that does not come late."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MeasurementError) and not is_late:
            raise
        msg = f"{label}: {type(error).__name__}: {error}"
        raise AssertionError(msg) from error
