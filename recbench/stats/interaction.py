"""Does a gain differ between two groups of examples, when users may have examples in both?

The gain of a group is a ratio of two sums over users: the difference of two methods over the number of examples (the
absolute gain), or a method's metric over the baseline's (one plus the relative gain). The contrast is the gain inside
minus the gain outside.

Under the null hypothesis both gains are one number rho. Then every user's contribution

    c_u = (x_u,in - rho y_u,in) / Y_in  -  (x_u,out - rho y_u,out) / Y_out

(x, y: the user's sums of numerator and denominator; Y: totals over users) has mean 0 to first order, and the c_u add up
to exactly the observed contrast, whatever rho. rho is estimated from all examples together, as the null says. The test
then flips the signs of the c_u: a wild cluster bootstrap with Rademacher weights and the null imposed (Cameron, Gelbach
and Miller 2008, section 3), which takes all examples of a user as one unit, on whichever side they are. Like every test
of this kind it is right for many users, not exactly for few.
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-12


def contrast(
    inside_x: np.ndarray, inside_y: np.ndarray, outside_x: np.ndarray, outside_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrasts of P pairs and what each user contributes to them.

    Args:
        inside_x, outside_x: float (U, P), numerators of each user's examples inside and outside the group.
        inside_y, outside_y: float (U, P) or (U, 1), denominators, with sums other than 0.

    Returns:
        float64 (P,), the contrasts, and float64 (U, P), the contributions, whose sums over users they are. The
        contributions go to :func:`recbench.stats.paired.sign_flip_p` for a p-value.
    """
    inside_total, outside_total = inside_y.sum(axis=0), outside_y.sum(axis=0)
    rho = (inside_x.sum(axis=0) + outside_x.sum(axis=0)) / (inside_total + outside_total)
    inside = _residual(inside_x, rho * inside_y) / inside_total
    outside = _residual(outside_x, rho * outside_y) / outside_total
    return inside_x.sum(axis=0) / inside_total - outside_x.sum(axis=0) / outside_total, inside - outside


def _residual(x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return x - expected, 0 where they differ by rounding alone: flips of nothing but rounding would seem a test."""
    residual = x - expected
    return np.where(np.abs(residual) <= _ROUNDING * (np.abs(x) + np.abs(expected)), 0.0, residual)
