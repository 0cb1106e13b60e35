"""Items as tokens: a history is a prompt, the next item is an answer of one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbench.contracts.examples import Queries
from recbench.llm.codec import pad_answers, pad_prompts


@dataclass(frozen=True)
class ItemAnswers:
    """One answer per item: the item's number as its only token.

    Attributes:
        tokens: token ids of each answer.
        of_item: int64 (n_items,), the answer of each item.
    """

    tokens: tuple[tuple[int, ...], ...]
    of_item: np.ndarray


class ItemCodec:
    """Turns histories into item tokens, so that a sequence model trains like a writer of titles.

    Args:
        n_items: size of the catalogue, which is the vocabulary.
        max_history: longer histories lose their oldest items.
    """

    def __init__(self, n_items: int, max_history: int) -> None:
        self.max_history = max_history
        self.answers = ItemAnswers(tuple((item,) for item in range(n_items)), np.arange(n_items))

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return the item numbers of every history, oldest first."""
        return [queries.history(row)[-self.max_history :].tolist() for row in range(len(queries))]

    def pad_prompts(
        self, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return int64 ids and mask (B, P), padded on the left."""
        return pad_prompts(prompts, 0, device)

    def pad_answers(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return int64 labels (B, 1)."""
        return pad_answers(answers)
