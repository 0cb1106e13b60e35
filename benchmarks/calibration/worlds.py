"""Made-up worlds in which the truth is known: examples clustered in users, most of them missed by everybody.

A user's chance of a hit under a method and a seed is the logistic function of a sum: the user, the user's liking for
the method, the seed, and the user's luck with the seed, all normal. A hit lies at places 1 to 10 alike and is worth
NDCG's gain. So rows of a user are alike, users have many or few examples, most values are 0, and seeds shift a method
as a whole and user by user, like metrics of real runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GAINS = 1 / np.log2(np.arange(1, 11) + 1)


@dataclass(frozen=True)
class World:
    """How metrics come about; standard deviations are on the logistic scale.

    Attributes:
        sizes: int (U,), examples of each user.
        level: mean of the users.
        user_sd: between users, shared by all methods: easy and hard users.
        liking_sd: between users, of one method: whom it suits.
        seed_sd: between seeds of one method.
        luck_sd: between users, of one seed of one method.
    """

    sizes: np.ndarray
    level: float = -2.0
    user_sd: float = 1.0
    liking_sd: float = 0.8
    seed_sd: float = 0.0
    luck_sd: float = 0.0

    @property
    def user(self) -> np.ndarray:
        """User of each example, int (N,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def true_mean(self, shift: float = 0.0) -> float:
        """Return the metric that a method of this ``shift`` has over all users and seeds there could be."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        variances = (self.user_sd, self.liking_sd, self.seed_sd, self.luck_sd)
        points = self.level + shift + nodes * np.sqrt(sum(sd**2 for sd in variances))
        return float(weights @ _logistic(points) / weights.sum() * _GAINS.mean())

    def draw(self, shifts: tuple[float, ...], n_seeds: int, rng: np.random.Generator) -> np.ndarray:
        """Draw new users and new seeds.

        Args:
            shifts: how much better each of E methods is.
            n_seeds: S.
            rng: source of chance.

        Returns:
            float64 (E, S, U): sums of the metric over the examples of each user.
        """
        n_users = len(self.sizes)
        users = rng.normal(self.level, self.user_sd, n_users)
        liking = rng.normal(0, self.liking_sd, (len(shifts), 1, n_users))
        seeds = rng.normal(0, self.seed_sd, (len(shifts), n_seeds, 1))
        luck = rng.normal(0, self.luck_sd, (len(shifts), n_seeds, n_users))
        chance = _logistic(users + np.array(shifts)[:, None, None] + liking + seeds + luck)
        hits = rng.binomial(self.sizes, chance)
        # A user's hits fall on the ten places alike; the sum of their gains is drawn place by place.
        totals = np.zeros(hits.shape)
        left = hits
        for place, gain in enumerate(_GAINS):
            here = rng.binomial(left, 1 / (len(_GAINS) - place))
            totals += gain * here
            left = left - here
        return totals


def user_sizes(n_users: int, median: float, spread: float, seed: int = 0) -> np.ndarray:
    """Return numbers of examples per user: log-normal, rounded, at least 1."""
    draws = np.random.default_rng(seed).normal(np.log(median), spread, n_users)
    return np.maximum(np.rint(np.exp(draws)), 1).astype(int)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
