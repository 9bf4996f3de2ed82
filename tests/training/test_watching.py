"""Who watches a training sees it between its steps and does not change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import InputError
from alignlab.probe import Probe
from alignlab.rules import BP, DFA, KP, Rule
from alignlab.schedules import at, log_spaced, never
from alignlab.training import Moment, Recipe, Training, train


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4))


def samples() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(40, 6, generator=stream), torch.randint(4, (40,), generator=stream)


def trained(rule: Rule, watch: Any = None, when: Any = never) -> tuple[nn.Module, Training]:
    model, (x, y) = network(), samples()
    recipe = Recipe(epochs=4, batch_size=16)
    return model, train(
        *(model, F.cross_entropy),
        **{"x": x, "y": y, "rule": rule, "recipe": recipe, "watch": watch, "when": when},
    )


@pytest.mark.parametrize("rule", [BP(), DFA(seed=1), KP(seed=1)], ids=lambda rule: rule.name)
def test_a_probe_that_watches_changes_no_bit_of_the_training(rule: Rule) -> None:
    cosines = []

    def watch(moment: Moment) -> Mapping[str, Any]:
        torch.rand(7)
        moment.model.eval()
        measured = rule if not moment.step else moment.learner.measured()
        names = ["error-signal", "weight-gradient"]
        probe = Probe(moment.model, F.cross_entropy, rules=[measured], diagnostics=names, draws=32)
        recording = probe.measure(*samples())
        cosines.append(float(recording["cosine_weight_gradient"].isel(layer=0).mean()))
        return {"cosine": cosines[-1]}

    plain, done = trained(rule)
    watched, seen = trained(rule, watch, log_spaced(3))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert done.losses == seen.losses
    assert [moment["step"] for moment in seen.history] == [0, 1, 2, 5, 10, 12]
    assert [moment["cosine"] for moment in seen.history] == cosines
    assert np.isfinite(cosines).all()


def test_a_moment_says_where_the_training_is() -> None:
    moments: list[Moment] = []
    _, done = trained(BP(), lambda moment: moments.append(moment) or {}, at(0, 1, 3, 4))
    assert [(m.step, m.epoch) for m in moments[:4]] == [(0, 0), (1, 1 / 3), (3, 1), (4, 4 / 3)]
    assert (moments[-1].step, moments[-1].epoch) == (12, 4)
    assert np.isnan(moments[0].loss)
    assert [moments[2].loss, moments[-1].loss] == [done.losses[0], done.losses[-1]]
    assert all(moment.model.training for moment in moments)


def test_the_learner_of_a_moment_holds_the_feedback_of_the_training() -> None:
    held: dict[int, Tensor] = {}

    def watch(moment: Moment) -> Mapping[str, Any]:
        held[moment.step] = moment.learner.measured().feedback["0"].clone()
        return {}

    _, done = trained(KP(seed=1), watch, at(2, 7))
    assert torch.equal(held[12], done.feedback["0"])
    assert not torch.equal(held[2], held[7])


def test_what_was_watched_becomes_plain_values() -> None:
    found = {
        "number": np.float64(0.5),
        "array": np.arange(3.0),
        "tensor": torch.ones(2, requires_grad=True),
        "several": (1, np.int64(2), {"deep": np.bool_(True)}),
        "text": "word",
    }
    _, done = trained(BP(), lambda _: found)
    (moment,) = done.history
    assert type(moment["number"]) is float
    assert torch.equal(moment["array"], torch.arange(3.0).double())
    assert not moment["tensor"].requires_grad
    assert moment["several"] == [1, 2, {"deep": True}]
    assert (moment["text"], moment["step"], moment["epoch"]) == ("word", 12, 4.0)


def test_what_no_file_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match="watched as 'model' is Sequential"):
        trained(BP(), lambda moment: {"model": moment.model})
