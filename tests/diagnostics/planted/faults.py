"""The faults: one change each, and every reading that it must move, with the reason.

What a fault does not name it must not move.
"""

from __future__ import annotations

from tests.diagnostics.planted.fault import Fault, each, update

__all__ = [
    "COMMON",
    "DENSE",
    "FAULTS",
    "FROZEN",
    "NARROW",
    "PLACED",
    "QUANTISED",
    "RANK",
    "SATURATED",
    "SCALE",
    "STALE",
    "UNRELATED",
]

NARROW = Fault(
    "narrow layer",
    "narrow",
    {"width": 2},
    "fc1 has 2 units instead of 24, the errors 6 directions",
    {
        **each("width bound, conv2", -0.2, "two directions of six pass fc1 on the way down"),
        **each("width limit from below, fc2", -0.2, "and two on the way up"),
        **each(
            "cosine of error signals, conv1; cosine of error signals, conv2",
            *(-0.3, "the bound is reached: below fc1 the true signal has two directions, the rule "
              "sends six"),
        ),
        **each("dimensions of the true signal, conv2", -2.5, "it has passed two units"),
        **each("dimensions of what fc2 reads", -2.5, "it is what two units say"),
        **each(
            "norm ratio of error signals, conv2, decades",
            *(0.15, "the true signal has lost what does not pass, the rule's has not"),
        ),
        **update("conv1 conv2", -0.25, "as that of the error signals"),
        **each("sign agreement by size, conv2", -0.1, "as the cosine"),
        **each("step efficiency", -0.15, "it is the squared cosine of all layers together"),
        **each(
            "largest step over the gradient's",
            *(-0.15, "the bound falls with the cosine, and with the norm that is wasted"),
        ),
        **each(
            "decrease that true norms add",
            *(0.04, "the layers below send more than the truth and gain least by it"),
        ),
    },
)  # fmt: skip

FROZEN = Fault(
    "frozen parameters",
    "frozen",
    {"trained": 0.05},
    "the update of fc1 leaves 95 of 100 entries of the weight where they are, at random",
    {
        **each("share trained, fc1", -0.85, "it is what was frozen"),
        **each("bound by what is trained, fc1", -0.6, "no update of so few entries has more"),
        **update("fc1", -0.6, "it falls as the root of the share"),
        **each(
            "norm ratio of weight gradients, fc1, decades", -0.4, "the norm falls as that root too"
        ),
        **each("step efficiency", -0.05, "fc1 has a tenth of the gradient's energy"),
        **each(
            "decrease that true norms add",
            *(-0.02, "a true norm of fc1 goes into few entries, and is missed elsewhere"),
        ),
    },
)

_CLOSED = "the few units of fc1 that are open pass it on, others in every sample"

SATURATED = Fault(
    "saturated gates",
    "saturated",
    {"gain": 100.0},
    "the weights of fc1 are 100 times as large, so that its tanh saturates",
    {
        **each("closed gates, fc1", 0.6, "it is what was planted"),
        **each("size of gates, fc1", -0.5, "closed gates are small"),
        **each(
            "reach, conv2; reach of feedback fitted before, conv2; reach by channel, conv1; "
            "reach of dense feedback, conv1",
            *(-0.4, f"no fixed feedback gives the true signal below fc1: {_CLOSED}"),
        ),
        **each(
            "cosine of error signals, conv1; cosine of error signals, conv2",
            *(-0.2, f"the true signal below fc1 is another in every sample: {_CLOSED}"),
        ),
        **update("conv1 conv2", -0.03, "less than of the signals, as samples average the gates"),
        **each("sign agreement by size, conv2", -0.018, "as the cosine"),
        **each(
            "norm ratio of error signals, conv2, decades",
            *(-0.8, "large weights enlarge the true signal below, by more than closed gates take"),
        ),
        **each("dimensions of what fc2 reads", 1.2, "signs of six directions have more of them"),
        **each("step efficiency", -0.06, "the update of the layers below is too small"),
        **each("decrease that true norms add", 0.02, "it is a cure for that"),
    },
)

COMMON = Fault(
    "common-mode error",
    "common",
    {"common": 2.0},
    "all errors have one vector in common, twice as long as the rest",
    {
        **each(
            "common mode of the error; common mode of the error, debiased", 0.6, "it is planted"
        ),
        **each("common mode of the signal, fc1", 0.6, "feedback hands it on"),
        **each(
            "dimensions of the error",
            *(-2.5, "one direction has most of the energy; about the mean they stay"),
        ),
        **each("dimensions of the true signal, conv2", -2.5, "weights hand it on as well"),
    },
)

RANK = Fault(
    "rank-deficient error",
    "rank",
    {"rank": 2},
    "the errors have 2 of 6 directions, and no more energy",
    {
        **each("numerical rank of the error", -3.5, "it is what was planted"),
        **each("dimensions of the error; dimensions of the error about its mean", -2.5, "as well"),
        **each("dimensions of the true signal, conv2", -2.5, "no layer adds directions"),
    },
)

DENSE = Fault(
    "dense feedback under a pooled head",
    "dense",
    {"is_dense": True},
    "feedback of conv1 has the other sign at half of the positions, drawn by channel and error",
    {
        **each("spatial mean of the rule's signal, conv1", -0.7, "it is white over positions"),
        **each("coherence of the rule's gradient, conv1", -0.4, "positions cancel"),
        **each(
            "equivariant share of the rule's signal, conv1",
            *(-0.5, "credit belongs to places and not to what is seen there"),
        ),
        **each("equivariance defect of the rule's signal, conv1", 1.0, "as its complement"),
        **each(
            "cosine of error signals, conv1",
            *(-0.8, "the true signal behind a pooled head is the same at all positions"),
        ),
        **update("conv1", -0.7, "what is left of the sum over positions is unrelated"),
        **each("step efficiency", -0.05, "conv1 has a tenth of the gradient's energy"),
        **each(
            "decrease that true norms add",
            *(-0.02, "its incoherent gradient is small; a true norm would go where nothing is"),
        ),
    },
)

PLACED = Fault(
    "head that tells positions apart",
    "head",
    {"is_placed": True},
    "the head takes half of the positions with the other sign",
    {
        **each("spatial mean of the true signal, conv1", -0.8, "its sign follows the position"),
        **each("coherence of the true gradient, conv1", -0.6, "the halves cancel"),
        **each("equivariant share of the true signal, conv1", -0.5, "credit belongs to places"),
        **each("reach by channel, conv1", -0.8, "feedback without positions cannot follow"),
        **each("cosine of error signals, conv1", -0.8, "that of the rule has no positions"),
        **update("conv1", -0.6, "as that of the error signals"),
        **each(
            "step efficiency",
            *(-0.6, "the rule's gradient of conv1 adds up over positions where the true one "
              "cancels: it is nearly all of the update"),
        ),
        **each("largest step over the gradient's", -0.6, "as the efficiency"),
        **each("decrease that true norms add", 0.4, "that of conv1 is far smaller"),
    },
)  # fmt: skip

SCALE = Fault(
    "wrong scale",
    "scale",
    {"scale": 10.0},
    "feedback of fc1 is 10 times as large",
    {
        **each(
            "norm ratio of error signals, fc1, decades; "
            "norm ratio of weight gradients, fc1, decades",
            *(0.9, "it is what was planted"),
        ),
        **each("step efficiency", -0.4, "one layer has nearly all of the update"),
        **each("largest step over the gradient's", -0.5, "that layer allows no larger one"),
        **each("decrease that true norms add", 0.25, "true norms are the cure"),
    },
)

UNRELATED = Fault(
    "unrelated feedback at one layer",
    "unrelated",
    {"is_unrelated": True},
    "feedback of fc1 is orthogonal to the one that the weights are aligned with",
    {
        **each("cosine of error signals, fc1", -0.7, "it is what was planted"),
        **update("fc1", -0.7, "as that of the error signals"),
        **each("step efficiency", -0.1, "fc1 has a tenth of the gradient's energy"),
        **each("largest step over the gradient's", -0.09, "that part of the update is lost"),
    },
)

_PAST = "the layers of before read and said other directions"

STALE = Fault(
    "stale gradient",
    "stale",
    {"turned": 3.0},
    "the update is that of a state whose layers were turned at random, in the same function",
    {
        **each("cosine with the gradient of before, fc1", -0.7, _PAST),
        **each(
            "reach of feedback fitted before, conv2", -0.7, "the true signals of before were others"
        ),
        **update(
            "conv2 fc1 fc2",
            *(-0.4, f"{_PAST}; conv1 reads the input and is sent the error, which are the same"),
        ),
        **each("sign agreement by size, conv2", -0.2, "as the cosine"),
        **each("step efficiency", -0.6, "all layers but the first are lost"),
        **each("largest step over the gradient's", -0.4, "as the cosine"),
    },
)

QUANTISED = Fault(
    "quantised gradient",
    "quantised",
    {"bits": 1},
    "the update is the sign of every entry, times the mean size of the weight's",
    {
        **update("conv1 conv2 fc1 fc2", -0.12, "sizes are lost: .8 of it is left for a normal one"),
        **each(
            "sign agreement over its cosine's, conv2",
            *(0.14, "signs are as right as before, sizes are wrong"),
        ),
        **each(
            "norm ratio of weight gradients, fc1, decades",
            *(-0.09, "the mean size of normal entries is .8 of their root mean square"),
        ),
        **each("step efficiency", -0.25, "the squared cosine"),
    },
)

FAULTS = (
    *(NARROW, FROZEN, SATURATED, COMMON, RANK, DENSE, PLACED, SCALE, UNRELATED, STALE, QUANTISED),
)
