"""The variables that a full analysis of a checkpoint records, declared once for the tests."""

from __future__ import annotations

from collections.abc import Iterator

from alignlab.recording import Variable

RL, RLS, LS, L = ("rule", "layer"), ("rule", "layer", "site"), ("layer", "site"), ("layer",)
COSINE = (-1.0, 1.0)
SHARE = (0.0, 1.0)
POSITIVE = (0.0, None)
ABOVE_ONE = (1.0, None)

DIMENSIONS = {
    "participation_ratio": "Participation ratio",
    "participation_ratio_centred": "Centred participation ratio",
    "entropy_rank": "Entropy rank",
    "stable_rank": "Stable rank",
}
DIMENSIONS_OF = {
    "true_signal": LS,
    "signal": RLS,
    "activation": L,
    "true_weight_gradient": L,
    "weight_gradient": RL,
}


def _alignments() -> Iterator[Variable]:
    table = {
        "cosine_error_signal": (RLS, "Mean cosine of the error signals, per sample"),
        "cosine_error_signal_flat": (RLS, "Cosine of the error signals of the whole batch"),
        "cosine_mean_error_signal": (RLS, "Cosine of the mean error signals"),
        "cosine_weight_gradient": (RL, "Cosine of the weight gradients"),
        "cosine_bias_gradient": (RL, "Cosine of the bias gradients"),
        "cosine_weight_gradient_debiased": (RL, "Cosine of weight gradients of disjoint halves"),
        "cosine_weight_gradient_unshared": (RL, "Cosine of weight gradients without sharing"),
        "cosine_weight_feedback": (RL, "Cosine of the weights with their feedback"),
        "cosine_feedback_path": (RL, "Cosine of the feedback with the forward path above"),
        "alignment_matrix_cosine_identity": (RL, "Cosine of the alignment matrix with identity"),
    }
    for name, (dims, phrase) in table.items():
        valid = (None, None) if name.endswith("debiased") else COSINE
        yield Variable(name, dims, phrase, better="higher", valid=valid, alignment=True)
    yield Variable(
        *("descent_rate", RLS, "Share of samples with a descent direction"),
        better="higher",
        valid=SHARE,
        alignment=True,
        null_mean=0.5,
    )


HIGHER = (
    *("alignment_matrix_explained", "alignment_matrix_symmetric_min", "attainable_cosine"),
    *("attainable_share", "coherence", "convolution_weight_attainable", "reach_held_out"),
    *("reach_in_sample", "reference_floor_ratio", "width_bound", "accuracy"),
)
LOWER = (
    *("alignment_matrix_condition", "reference_check_error", "reference_float64_change"),
    "largest_singular_value_operator_residual",
    *("true_signal_outside_top", "unexplained_weight_gradient", "loss"),
)


def _plain() -> Iterator[Variable]:
    table = {
        "cosine_error_signal_sd": (RLS, SHARE),
        "norm_ratio_error_signal": (RLS, POSITIVE),
        "projection_error_signal": (RLS, (None, None)),
        "norm_ratio_weight_gradient": (RL, POSITIVE),
        "projection_weight_gradient": (RL, (None, None)),
        "best_scale_weight_gradient": (RL, (None, None)),
        "unexplained_weight_gradient": (RL, SHARE),
        "norm_ratio_weight_feedback": (RL, POSITIVE),
        "alignment_matrix_condition": (RL, ABOVE_ONE),
        "alignment_matrix_condition_chance": (RL, ABOVE_ONE),
        "alignment_matrix_explained": (RL, SHARE),
        "alignment_matrix_explained_chance": (RL, SHARE),
        "alignment_matrix_rank": (RL, POSITIVE),
        "alignment_matrix_symmetric_min": (RL, COSINE),
        "alignment_matrix_singular_value": ((*RL, "singular_value"), SHARE),
        "alignment_matrix_singular_value_low": ((*RL, "singular_value"), SHARE),
        "alignment_matrix_singular_value_high": ((*RL, "singular_value"), SHARE),
        "width_bound": (RL, SHARE),
        "width_bound_low": (RL, SHARE),
        "width_bound_high": (RL, SHARE),
        "narrowest_width_above": (L, ABOVE_ONE),
        "reach_in_sample": (LS, SHARE),
        "reach_held_out": (LS, (None, 1.0)),
        "error_rank": ((), POSITIVE),
        "participation_ratio_error": ((), POSITIVE),
        "participation_ratio_centred_error": ((), POSITIVE),
        "entropy_rank_error": ((), POSITIVE),
        "stable_rank_error": ((), POSITIVE),
        "participation_ratio_true_signal_chance": (LS, ABOVE_ONE),
        "signal_rank": (RL, POSITIVE),
        "true_signal_outside_top": (L, SHARE),
        "convolution_weight_cap": (L, SHARE),
        "convolution_weight_attainable": (RL, SHARE),
        "attainable_cosine": (RLS, COSINE),
        "attainable_cosine_low": (RLS, COSINE),
        "attainable_cosine_high": (RLS, COSINE),
        "attainable_share": (RLS, (None, None)),
        "coherence_true": (L, SHARE),
        "coherence": (RL, SHARE),
        "coherence_chance": (L, SHARE),
        "spatial_dc_fraction_true": (L, SHARE),
        "spatial_dc_fraction": (RL, SHARE),
        "spatial_dc_fraction_chance": (L, SHARE),
        "spatial_power_true": (("layer", "frequency"), SHARE),
        "spatial_power": ((*RL, "frequency"), SHARE),
        "reference_norm": (L, POSITIVE),
        "reference_floor_ratio": (L, POSITIVE),
        "reference_float64_change": (L, POSITIVE),
        "self_cosine": (L, COSINE),
        "feedback_sensitivity": (RL, POSITIVE),
        "reference_check_error": ((), POSITIVE),
        "residual_growth": (L, POSITIVE),
        "participation_ratio_operator_circular": (L, POSITIVE),
        "largest_singular_value_operator": (L, POSITIVE),
        "largest_singular_value_operator_residual": (L, POSITIVE),
        "loss_change_first_order": (("rule",), (None, None)),
        "loss_change_actual": (("rule",), (None, None)),
        "loss_change_ratio": (("rule",), (None, None)),
        "loss_change_step": (("rule",), (None, None)),
        "loss_change_first_order_true": ((), (None, None)),
        "loss_change_actual_true": ((), (None, None)),
        "loss_change_ratio_true": ((), (None, None)),
        "loss_change_step_true": ((), (None, None)),
        "loss": ((), POSITIVE),
        "accuracy": ((), SHARE),
        "accuracy_chance": ((), SHARE),
    }
    for name, (dims, valid) in table.items():
        better = "higher" if name in HIGHER else "lower" if name in LOWER else "none"
        phrase = name.replace("_", " ").capitalize()
        yield Variable(name, dims, phrase, better=better, valid=valid)
    for stem, phrase in DIMENSIONS.items():
        for ending, dims in DIMENSIONS_OF.items():
            long_name = f"{phrase} of the {ending.replace('_', ' ')}"
            yield Variable(f"{stem}_{ending}", dims, long_name, valid=POSITIVE)
    yield Variable(
        *("angle_error_signal", RLS, "Angle between the error signals of the batch", "degree"),
        better="lower",
        valid=(0.0, 180.0),
    )
    yield Variable("width_that_lifts", RL, "Width that lifts", valid=ABOVE_ONE)


def _text() -> Iterator[Variable]:
    table: dict[str, tuple[tuple[str, ...], str]] = {
        "narrowest_layer_above": (L, "Layer that is narrowest above"),
        "reference_check": ((), "Outcome of the reference's own check"),
        "measurement_status": ((), "Whether the measurement stands"),
    }
    for name, (dims, phrase) in table.items():
        yield Variable(name, dims, phrase, "", dtype="string")
    yield Variable(
        *("feedback_origin", ("rule",), "Where the feedback came from", ""),
        dtype="string",
        per_step=False,
    )


VARIABLES: tuple[Variable, ...] = (*_alignments(), *_plain(), *_text())
