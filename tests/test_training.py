"""The reference trainer against loops written by hand, and what its checkpoints hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.checkpoints import open_checkpoint
from alignlab.errors import InputError
from alignlab.feedback import Factored, Positional, Seeded, digest
from alignlab.rules import BP, BRSF, DFA, FA, FRSF, USF
from alignlab.training import Recipe, Training, save_checkpoint, train

N, BATCH, EPOCHS, RATE, MOMENTUM, ORDER = 50, 16, 3, 0.05, 0.9, 7


def samples() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=stream, dtype=torch.float64)
    return x, torch.randint(4, (N,), generator=stream)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(12, 4),
    )


def images() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(2)
    return torch.randn(24, 1, 4, 4, generator=stream), torch.randint(4, (24,), generator=stream)


def trained(rule: Any, **options: Any) -> tuple[nn.Sequential, Training]:
    model, (x, y) = network(), samples()
    progress = {"progress": options.pop("progress")} if "progress" in options else {}
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "order_seed": ORDER}
    step = {"lr": RATE, "momentum": MOMENTUM}
    recipe = Recipe(**(settings | {"optimizer_options": step} | options))
    return model, train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=recipe, **progress)


def batches(n: int = N) -> list[Tensor]:
    """Return the indices of every step, in the order that the seed gives."""
    stream = torch.Generator().manual_seed(ORDER)
    return [part for _ in range(EPOCHS) for part in torch.randperm(n, generator=stream).split(16)]


class Numpy:
    """The same network and SGD with momentum, in numpy."""

    def __init__(self) -> None:
        self.weights = [p.detach().numpy().copy() for p in network().parameters()]
        self.velocity = [np.zeros_like(w) for w in self.weights]

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        w1, b1, w2, b2, w3, b3 = self.weights
        first = np.tanh(x @ w1.T + b1)
        second = np.maximum(first @ w2.T + b2, 0.0)
        return [x, first, second, second @ w3.T + b3]

    def error(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = exponents / exponents.sum(1, keepdims=True)
        probabilities[np.arange(len(y)), y] -= 1.0
        return probabilities / len(y)

    def step(self, hidden: list[np.ndarray], signals: list[np.ndarray]) -> None:
        gradients = []
        for below, signal in zip(hidden, signals, strict=True):
            gradients += [signal.T @ below, signal.sum(0)]
        for k, gradient in enumerate(gradients):
            self.velocity[k] = MOMENTUM * self.velocity[k] + gradient
            self.weights[k] = self.weights[k] - RATE * self.velocity[k]


def agree(model: nn.Module, by_hand: Numpy, tolerance: float = 1e-10) -> bool:
    return all(
        np.abs(p.detach().numpy() - w).max() < tolerance
        for p, w in zip(model.parameters(), by_hand.weights, strict=True)
    )


def test_training_by_dfa_is_the_loop_written_by_hand() -> None:
    model, training = trained(DFA(seed=5))
    first, second = (training.feedback[name].double().numpy() for name in ("0", "2"))
    assert first.shape == (4, 9)
    by_hand, (x, y) = Numpy(), samples()
    for chosen in batches():
        hidden = by_hand.forward(x[chosen].numpy())
        error = by_hand.error(hidden[3], y[chosen].numpy())
        below = (error @ first) * (1.0 - hidden[1] ** 2)
        above = (error @ second) * (hidden[2] > 0)
        by_hand.step(hidden[:3], [below, above, error])
    assert len(batches()) == 12
    assert agree(model, by_hand)


def test_training_by_fa_is_the_loop_written_by_hand() -> None:
    model, training = trained(FA(seed=5))
    by_hand, (x, y) = Numpy(), samples()
    for chosen in batches():
        hidden = by_hand.forward(x[chosen].numpy())
        error = by_hand.error(hidden[3], y[chosen].numpy())
        above = (error @ training.feedback["4"].numpy()) * (hidden[2] > 0)
        below = (above @ training.feedback["2"].numpy()) * (1.0 - hidden[1] ** 2)
        by_hand.step(hidden[:3], [below, above, error])
    assert agree(model, by_hand)


def test_training_by_sign_symmetry_follows_the_signs_of_the_present_weights() -> None:
    model, training = trained(USF())
    assert training.feedback == {}
    by_hand, (x, y) = Numpy(), samples()
    start = [np.sign(w) for w in by_hand.weights]
    for chosen in batches():
        hidden = by_hand.forward(x[chosen].numpy())
        error = by_hand.error(hidden[3], y[chosen].numpy())
        signs = [np.sign(w) * np.sqrt(np.mean(w**2)) for w in by_hand.weights]
        above = (error @ signs[4]) * (hidden[2] > 0)
        below = (above @ signs[2]) * (1.0 - hidden[1] ** 2)
        by_hand.step(hidden[:3], [below, above, error])
    assert any((start[k] != np.sign(by_hand.weights[k])).any() for k in (2, 4))
    assert agree(model, by_hand)


@pytest.mark.parametrize("rule", [FRSF(seed=2), BRSF(seed=2)], ids=lambda r: r.name)
def test_training_by_random_magnitudes_takes_present_signs(rule: Any) -> None:
    model, training = trained(rule)
    by_hand, (x, y) = Numpy(), samples()
    start = [np.sign(w) for w in by_hand.weights]
    ones = {str(k): torch.ones(network()[k].weight.shape).double() for k in (0, 2, 4)}
    for number, chosen in enumerate(batches()):
        hidden = by_hand.forward(x[chosen].numpy())
        error = by_hand.error(hidden[3], y[chosen].numpy())
        sizes = rule.at_step(number).magnitudes(
            {k: torch.as_tensor(by_hand.weights[int(k)]) for k in ones}, seed=2
        )
        if rule.name == "frsf":
            assert all(torch.equal(training.feedback[k], sizes[k]) for k in ones)
        signed = {k: np.sign(by_hand.weights[int(k)]) * sizes[k].numpy() for k in ones}
        above = (error @ signed["4"]) * (hidden[2] > 0)
        below = (above @ signed["2"]) * (1.0 - hidden[1] ** 2)
        by_hand.step(hidden[:3], [below, above, error])
    assert any((start[k] != np.sign(by_hand.weights[k])).any() for k in (2, 4))
    assert agree(model, by_hand)
    assert (training.feedback == {}) == (rule.name == "brsf")


def test_training_by_backpropagation_is_sgd_of_torch() -> None:
    torch.manual_seed(11)
    model, plain = convolutional(), convolutional()
    x, y = images()
    recipe = Recipe(epochs=EPOCHS, batch_size=16, order_seed=7, dropout_seed=12)
    done = train(model, F.cross_entropy, x=x, y=y, rule=BP(), recipe=recipe)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(12)
    plain.train()
    for chosen in batches(24):
        optimizer.zero_grad()
        F.cross_entropy(plain(x[chosen]), y[chosen]).backward()
        optimizer.step()
    assert done.feedback == {}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_direct_feedback_reaches_norms_and_convolutions_as_a_hand_made_vjp_does() -> None:
    model, (x, y) = convolutional(), images()
    plain = copy.deepcopy(model).train()
    seeds = {"order_seed": 7, "dropout_seed": 12}
    recipe = Recipe(epochs=1, batch_size=24, optimizer_options={"lr": 0.1}, **seeds)
    done = train(model, F.cross_entropy, x=x, y=y, rule=DFA(seed=2), recipe=recipe)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(12)
    entry = plain[:6](x[order])
    logits = plain[6](entry.detach())
    loss = F.cross_entropy(logits, y[order])
    error = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    loss.backward()
    entry.backward(error @ done.feedback["0"])
    for (name, got), start in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert start.grad is not None
        wanted = start - 0.1 * start.grad
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("rule", [BP(), DFA(seed=1), FA(seed=1), USF()], ids=lambda r: r.name)
def test_equal_seeds_give_bit_identical_models(rule: Any) -> None:
    states = []
    for _ in range(2):
        model, (x, y) = convolutional(), images()
        recipe = Recipe(epochs=2, batch_size=8, order_seed=3)
        train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=recipe)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("other", [{"rule": DFA(seed=2)}, {"order_seed": 8}])
def test_another_seed_gives_another_model(other: dict[str, Any]) -> None:
    model, _ = trained(DFA(seed=1))
    changed, _ = trained(**({"rule": DFA(seed=1)} | other))
    assert not torch.equal(model[0].weight, changed[0].weight)


def test_the_seed_of_the_feedback_does_not_depend_on_the_global_generator() -> None:
    feedback = []
    for state in (0, 1):
        torch.manual_seed(state)
        feedback.append(trained(DFA(seed=1))[1].feedback)
    assert all(torch.equal(feedback[0][name], feedback[1][name]) for name in ("0", "2"))


@pytest.mark.parametrize("rule", [BP(), DFA(), FA()], ids=lambda r: r.name)
def test_batch_statistics_are_counted_once_a_step(rule: Any) -> None:
    model, (x, y) = convolutional(), images()
    recipe = Recipe(epochs=2, batch_size=8)
    train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=recipe)
    assert int(model[1].num_batches_tracked) == 6


@pytest.mark.parametrize("rule", [BP(), DFA(), FA()], ids=lambda r: r.name)
def test_frozen_parameters_stay_and_the_others_move(rule: Any) -> None:
    model, _ = trained(rule, frozen=("0.weight", "0.bias"))
    start = network().state_dict()
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, start[n])}
    assert moved == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_a_frozen_name_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"no parameter 'fc1\.weight'.* 0\.weight"):
        trained(DFA(), frozen=("fc1.weight",))


@pytest.mark.parametrize("rule", [BP(), DFA(), FA()], ids=lambda r: r.name)
def test_parameters_without_gradient_stay(rule: Any) -> None:
    model, (x, y) = network(), samples()
    model[2].weight.requires_grad_(requires_grad=False)
    train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=Recipe(epochs=1))
    start = network()
    assert torch.equal(model[2].weight, start[2].weight)
    assert not torch.equal(model[0].weight, start[0].weight)


class Unused(nn.Sequential):
    """Holds a parameter that no output depends on."""

    def __init__(self) -> None:
        super().__init__(*network())
        self.spare = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("rule", [BP(), DFA(), FA()], ids=lambda r: r.name)
def test_a_parameter_that_nothing_depends_on_stays(rule: Any) -> None:
    model, (x, y) = Unused(), samples()
    train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=Recipe(epochs=1))
    assert torch.equal(model.spare, torch.ones(3))


@pytest.mark.parametrize("rule", [BP(), DFA(), FA(), USF()], ids=lambda r: r.name)
def test_the_loss_falls_and_is_the_mean_over_the_samples_of_an_epoch(rule: Any) -> None:
    _, training = trained(rule, epochs=1, batch_size=N)
    x, y = samples()
    first = F.cross_entropy(network()(x), y).item()
    assert training.losses == (pytest.approx(first, rel=1e-6),)
    _, training = trained(rule, epochs=60)
    assert training.losses[-1] < 0.9 * first


def test_a_loss_that_is_not_finite_says_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"^The loss is (nan|inf) after \d+ steps?, in epoch 1; lower"
    ):
        trained(BP(), optimizer_options={"lr": 1e200})


def test_progress_is_told_once_an_epoch() -> None:
    told: list[tuple[str, int, int]] = []
    trained(DFA(), progress=lambda *what: told.append(what))
    assert [(done, of) for _, done, of in told] == [(1, 3), (2, 3), (3, 3)]
    assert all("dfa" in label for label, _, _ in told)


def test_no_gradient_is_left_on_the_model() -> None:
    model, _ = trained(DFA())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("rule", [DFA(seed=4), FA(seed=4, distribution="uniform")])
def test_the_feedback_of_a_checkpoint_has_the_hash_that_it_states(
    tmp_path: Path, rule: Any
) -> None:
    model, training = trained(rule)
    opened = open_checkpoint(save_checkpoint(tmp_path / "a.pt", model, training, init_seed=3))
    ours = opened.metadata["alignlab"]
    assert isinstance(ours, dict)
    assert {entry.layer for entry in opened.feedback} == set(training.feedback)
    stored = {entry.layer: entry.tensor for entry in opened.feedback}
    assert digest(stored) == ours["feedback_sha256"]
    assert all(torch.equal(stored[name], value) for name, value in training.feedback.items())
    assert (ours["rule"], ours["rule_spec"]) == (rule.name, rule.label)
    assert (ours["feedback_seed"], ours["order_seed"], ours["init_seed"]) == (4, ORDER, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(opened.tensors[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class Tokens(nn.Module):
    """A network whose error has positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.b(torch.tanh(self.a(x.reshape(len(x), 2, 3).float()))))
        return self.c(hidden).movedim(-1, 1)


@pytest.mark.parametrize(
    ("rule", "form"),
    [
        (DFA(seed=4, rank=2), Factored),
        (DFA(seed=4, storage="seeded"), Seeded),
        (DFA(seed=4, structure="position"), Positional),
        (DFA(seed=4, structure="position", rank=2), Positional),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_feedback_of_every_form_is_saved_as_plain_values_and_found_again(
    tmp_path: Path, rule: DFA, form: type
) -> None:
    model, (x, y) = Tokens(), samples()
    recipe, pairs = Recipe(epochs=2, batch_size=16), torch.stack([y, y], 1)
    training = train(model, F.cross_entropy, x=x, y=pairs, rule=rule, recipe=recipe)
    start = Tokens()
    assert not torch.equal(model.a.weight, start.a.weight)
    path = save_checkpoint(tmp_path / "a.pt", model, training)
    plain = torch.load(path, weights_only=True)["alignlab"]
    opened = open_checkpoint(path)
    stored = {entry.layer: entry.tensor for entry in opened.feedback}
    assert {entry.kind for entry in opened.feedback} == {"direct"}
    assert list(stored) == ["a", "b"]
    assert all(isinstance(one, form) for one in stored.values())
    assert digest(stored) == digest(training.feedback) == plain["feedback_sha256"]


def test_a_seed_takes_no_room_in_a_checkpoint_and_a_shared_factor_is_one(tmp_path: Path) -> None:
    sizes = {}
    for rule in (DFA(), DFA(storage="seeded"), DFA(rank=2)):
        layers = [nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)]
        model, (x, y) = nn.Sequential(*layers, nn.Linear(4, 9000)), samples()
        recipe = Recipe(epochs=1)
        training = train(model, F.cross_entropy, x=x.float(), y=y, rule=rule, recipe=recipe)
        bare = save_checkpoint(tmp_path / "bare.pt", model, training, feedback=False)
        full = save_checkpoint(tmp_path / "full.pt", model, training)
        sizes[rule.label] = full.stat().st_size - bare.stat().st_size
    assert sizes["dfa"] > 4 * 9000 * 64
    assert sizes["dfa(storage=seeded)"] < 4000
    assert 4 * 9000 * 2 < sizes["dfa(rank=2)"] < 1.2 * 4 * 9000 * 2


def test_frsf_keeps_its_magnitudes_and_acts_with_the_present_signs(tmp_path: Path) -> None:
    model, training = trained(FRSF(seed=4))
    opened = open_checkpoint(save_checkpoint(tmp_path / "a.pt", model, training))
    weights = model.state_dict()
    assert {entry.kind for entry in opened.feedback} == {"weight"}
    for entry in opened.feedback:
        size = training.feedback[entry.layer]
        assert isinstance(size, Tensor)
        assert bool((size > 0).all())
        assert torch.equal(entry.tensor, size * weights[f"{entry.layer}.weight"].sign())


def test_a_checkpoint_without_feedback_keeps_its_hash(tmp_path: Path) -> None:
    model, training = trained(DFA(seed=4))
    path = save_checkpoint(tmp_path / "a.pt", model, training, feedback=False)
    opened = open_checkpoint(path)
    ours = opened.metadata["alignlab"]
    assert isinstance(ours, dict)
    assert opened.feedback == ()
    assert ours["feedback_sha256"] == digest(training.feedback)


def test_backpropagation_leaves_no_feedback_in_its_checkpoint(tmp_path: Path) -> None:
    model, training = trained(BP())
    opened = open_checkpoint(save_checkpoint(tmp_path / "a.pt", model, training))
    ours = opened.metadata["alignlab"]
    assert isinstance(ours, dict)
    assert opened.feedback == ()
    assert "feedback_sha256" not in ours
