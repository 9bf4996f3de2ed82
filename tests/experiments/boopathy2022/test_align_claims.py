"""The claims on Align rules: exact ones pass, formulas hold, and all run, check and draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from alignlab.experiments.boopathy2022._beside import BesideBackpropagation, changes
from alignlab.experiments.boopathy2022._recurrent import (
    Recurrent,
    additions,
    expected,
    summed_error,
)
from alignlab.experiments.boopathy2022._score import (
    alignment_score,
    plain_cosine,
    score_by_chance,
    shuffled,
)
from alignlab.experiments.boopathy2022._setting import network, squared_error
from alignlab.rules import BP
from alignlab.training import Recipe, train
from tests.experiments.short_runs import outcome

SHORT: dict[str, dict[str, Any]] = {
    "width_sweep": {"widths": (8, 1024), "lrs": (1.0,), "epochs": 1, "batch_size": 1437},
    "convolutions": {"widths": (3, 4), "epochs": 1, "batch_size": 720, "seeds": 2},
    "score_by_width": {"widths": (8, 1024), "epochs": 1, "batch_size": 720, "seeds": 1},
    "few_samples": {"width": 12, "epochs": 2, "seeds": 1},
    "add_task": {"units": (4, 6), "train": 50, "epochs": 2, "seeds": 1},
    "causal_add_task": {"units": (6,), "train": 50, "epochs": 2, "seeds": 1},
}

EXACT: dict[str, dict[str, Any]] = {
    "first_step": {"widths": (16,), "seeds": 1},
    "score_estimator": {"seeds": 3},
    "recurrent_credit": {"seeds": 3},
}


@pytest.mark.parametrize("name", [*SHORT, *EXACT])
def test_a_short_run_gives_every_check_and_a_figure(name: str, tmp_path: Path) -> None:
    options = (SHORT | EXACT)[name]
    claim, results, checks, _ = outcome(f"boopathy2022.{name}", tmp_path, **options)
    assert len({check.what for check in checks}) == len(checks) >= 1
    assert all(np.isfinite(check.measured) and check.expected for check in checks)
    if name in EXACT:
        assert [check.what for check in checks if not check.passed] == []
    figure = Figure(figsize=(8, 4), layout="constrained")
    claim.draw(results, figure)
    assert figure.axes[0].get_ylabel()


def test_the_score_is_the_cosine_of_gram_matrices_and_blind_to_rotated_outputs() -> None:
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(7, 5, generator=stream).double() for _ in range(2))
    one, other = first.T @ first, second.T @ second
    expected = (one * other).sum() / (one.norm() * other.norm())
    torch.testing.assert_close(alignment_score(first, second), expected)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=stream).double())[0]
    assert alignment_score(first, turn @ first).item() == pytest.approx(1.0)
    assert abs(plain_cosine(first, turn @ first).item()) < 0.9


def test_shuffling_keeps_the_entries_and_the_chance_level_is_a_half_for_squares() -> None:
    change = torch.arange(12.0).reshape(3, 4)
    mixed = shuffled(change, seed=1)
    assert not torch.equal(mixed, change)
    assert torch.equal(mixed.flatten().sort().values, change.flatten())
    assert score_by_chance(100, 100) == pytest.approx(0.5, abs=0.01)


def test_the_rule_beside_trains_by_backpropagation_and_sums_what_align_zero_would_do() -> None:
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    y, options = torch.arange(30) % 10, {"lr": 0.5}
    recipe = Recipe(epochs=4, batch_size=30, optimizer="sgd", optimizer_options=options)
    ends = []
    for rule in (BP(), BesideBackpropagation()):
        model = network(16, depth=1, seed=0)
        found = train(model, squared_error, x=x, y=y, rule=rule, recipe=recipe)
        ends.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)
    expected = _by_the_initial_jacobian(x, y, recipe)
    pairs = list(changes(model, found.feedback, lr=0.5).values())
    for (_, sum_of_steps), exact in zip(pairs, expected, strict=True):
        torch.testing.assert_close(sum_of_steps, exact, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(pairs[0][0], pairs[0][1], rtol=1e-3)


def _by_the_initial_jacobian(x: torch.Tensor, y: torch.Tensor, recipe: Recipe) -> list[Any]:
    """Return the summed steps of both weights by the transposed Jacobian at the start."""
    start, now = (network(16, depth=1, seed=0) for _ in range(2))
    weights = [p for p in start.parameters() if p.dim() == 2]
    sums = [torch.zeros_like(p) for p in weights]
    for _ in range(recipe.epochs):
        output = now(x)
        error = torch.autograd.grad(squared_error(output, y), output, retain_graph=True)[0]
        found = torch.autograd.grad(start(x), weights, grad_outputs=error)
        sums = [s - 0.5 * g for s, g in zip(sums, found, strict=True)]
        gradients = torch.autograd.grad(squared_error(output, y), list(now.parameters()))
        with torch.no_grad():
            for p, g in zip(now.parameters(), gradients, strict=True):
                p.sub_(0.5 * g)
    return sums


# Of 0.5 x - 0.25 x' with even coins the second moment is 3/32, the mean 1/8 and the variance 5/64.
@pytest.mark.parametrize(
    ("is_published", "half", "mean", "unknown"),
    [
        (True, 20 * 3 / 32, 20 / 8, 2 * 5 / 64 + 3 / 64),
        (False, 15 * 3 / 32 + 3 / 8, 15 / 8 + 3 / 4, 0.0),
    ],
)
def test_guesses_lose_on_the_add_task_what_the_closed_form_says(
    half: float, mean: float, unknown: float, *, is_published: bool
) -> None:
    x, y = additions(40_000, steps=20, seed=0, is_published=is_published)
    known = expected(x) if is_published else y
    for guess, loss in (
        (torch.tensor(0.5), half),
        (y.mean(), half - 20 * (mean / 20) ** 2),
        (known, unknown),
    ):
        assert float(summed_error(guess.expand_as(y), y)) == pytest.approx(loss, rel=0.02)


def test_the_published_targets_miss_steps_before_the_start_and_whole_sequences() -> None:
    x, y = additions(6, steps=8, seed=0, is_published=True)
    for s, t in ((0, 7), (3, 1), (5, 0), (5, 7)):
        two, five = (float(x[s, t - lag]) if s >= lag else 0.0 for lag in (2, 5))
        assert float(y[s, t]) == pytest.approx(0.5 + 0.5 * two - 0.25 * five)


def test_a_step_of_the_recurrent_network_is_the_formula() -> None:
    model = Recurrent(9, seed=0)
    x, _ = additions(3, steps=2, seed=1)
    into, again, out = (getattr(model, name) for name in ("into", "again", "out"))
    w, u, v = (layer.parametrizations.weight.original for layer in (into, again, out))
    h = torch.relu(x[:, :1] @ w.T)
    h = torch.relu(x[:, 1:] @ w.T + h @ u.T / 3.0)
    torch.testing.assert_close(model(x)[:, 1], (h @ v.T / 3.0)[:, 0])
