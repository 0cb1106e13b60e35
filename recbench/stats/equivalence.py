"""Equivalence: evidence that a difference is smaller than what matters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recbench.contracts.errors import UsageError

_NUMBER = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(?P<percent>%?)")


@dataclass(frozen=True)
class Margin:
    """What counts as no difference.

    Attributes:
        value: in the unit of the metric, or a share of entry b's mean.
        relative: whether it is such a share.
        text: as it was stated.
    """

    value: float
    relative: bool
    text: str

    def absolute(self, mean_b: float) -> float:
        """Return the margin in the unit of the metric; b's mean is taken as if it were known exactly."""
        return self.value * mean_b if self.relative else self.value


def parse_margin(text: str) -> Margin:
    """Read "0.002" (in the unit of the metric) or "2%" (of entry b's mean).

    Raises:
        UsageError: not a number above 0 and below 1 (100%).
    """
    match = _NUMBER.fullmatch(text.strip())
    if match:
        relative = bool(match["percent"])
        value = float(match["number"]) / (100 if relative else 1)
        if 0 < value < 1:
            return Margin(value, relative, text.strip())
    hint = "Give the difference that does not matter: 0.002 in the unit of the metric, or 2% of the second one's mean."
    raise UsageError(f"The margin '{text}' is not a number above 0 and below 1 (or 100%).", hint)


def tost_p(difference: float, standard_error: float, df: float, margin: float, n_users: float) -> float:
    """Return the p-value of two one-sided t-tests that the true difference lies within -margin to +margin.

    It is the larger one of the p-values of "not above -margin" and "not below +margin" (Schuirmann 1987). Where all
    users differ by the same amount there is no error to measure with. Then what counts is how many there are: metrics
    lie between 0 and 1, so a true difference outside of the margin needs a share of users who deviate of at least the
    room that is left, r / (1 + |difference|), and the chance that none of n users is one of them is (1 - share)^n.

    Args:
        difference: as observed.
        standard_error, df: of the difference.
        margin: above 0.
        n_users: users at hand, or as many of equal size as tell about as much.
    """
    from scipy import stats

    room = margin - abs(difference)
    if standard_error > 0:
        return float(stats.t.sf(room / standard_error, df))
    return float((1 - room / (1 + abs(difference))) ** n_users) if room > 0 else 1.0
