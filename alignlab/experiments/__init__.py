"""Claims of the works that alignlab stands on, each one file that measures it anew."""

from alignlab.experiments._base import Case, Check, Claim, Work, chosen
from alignlab.experiments._statistics import interval_of_mean, interval_of_share

__all__ = [
    "Case",
    "Check",
    "Claim",
    "Work",
    "chosen",
    "interval_of_mean",
    "interval_of_share",
]
