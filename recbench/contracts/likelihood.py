"""How likely a method that writes titles finds the true ones: finer than any list, and with a meaning of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbench.contracts.errors import ArtifactError

LIKELIHOOD = "LL"
"""Printed name of the measure: the natural logarithm of the probability of a target's title, the whole title."""


@dataclass(frozen=True)
class Likelihood:
    """What a method makes of the true titles of N examples, each after its own history.

    Attributes:
        logprob: float64 (N,), natural logarithm of the probability of the target's title, the end token included; NaN
            where the target has no title.
        tokens: int64 (N,), tokens of the title, the end token included; 0 where there is none. A perplexity per token
            is comparable between methods with one tokenizer only; ``logprob`` is of the title, whatever its tokens.
    """

    logprob: np.ndarray
    tokens: np.ndarray

    def check(self, n_examples: int) -> None:
        """Make sure that there is one usable number per example.

        Raises:
            ArtifactError: another number of them, infinite or positive numbers, a title without tokens or none with.
        """
        if self.logprob.shape != (n_examples,) or self.tokens.shape != (n_examples,):
            raise ArtifactError(
                f"The likelihoods have the shapes {self.logprob.shape} and {self.tokens.shape}, expected "
                f"({n_examples},).",
                "Give one number per example.",
            )
        known = self.tokens > 0
        wrong = np.flatnonzero(np.isnan(self.logprob) == known)
        wrong = wrong if len(wrong) else np.flatnonzero(known & ~(np.isfinite(self.logprob) & (self.logprob <= 0)))
        if len(wrong):
            place = wrong[0]
            raise ArtifactError(
                f"The log-probability of example number {place} is {self.logprob[place]} with {self.tokens[place]} "
                "tokens; expected a finite number of at most 0, or nan with 0 tokens.",
                "Look at the method, and at its training for numbers that are not finite.",
            )
