"""Between items and tokens: prompts and answers as token ids, written titles as items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Queries
from recbench.llm.answers import build_answers, encode_plain
from recbench.llm.prompt import history_text, instruction_text


class TitleCodec:
    """Turns histories into prompt tokens and titles into answer tokens.

    The instruction, the history part and the answer are tokenised apart and joined, as the published code does, so a
    token never spans two of them and titles are tokenised once.

    Args:
        tokenizer: the backbone's tokenizer; it must have an end token.
        catalog: the items.
        max_prompt_tokens: longer prompts keep their last tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, catalog: ItemCatalog, max_prompt_tokens: int = 512) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError("The backbone's tokenizer has no end-of-sequence token.", "Choose another backbone.")
        self.tokenizer = tokenizer
        self.catalog = catalog
        self.max_prompt_tokens = max_prompt_tokens
        self.eos: int = tokenizer.eos_token_id
        self._titles = [title_key(title) for title in catalog.titles]
        self._instruction = self._encode([instruction_text(catalog.noun)])[0]
        self.answers = build_answers(tokenizer, self._titles)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_plain(self.tokenizer, texts)

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return the prompt tokens of every query. Items without a title are left out of the prompt."""
        noun = self.catalog.noun
        texts = [
            history_text(noun, (self._titles[item] for item in queries.history(row) if self._titles[item]))
            for row in range(len(queries))
        ]
        return [(self._instruction + ids)[-self.max_prompt_tokens :] for ids in self._encode(texts)]

    def pad_prompts(
        self, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return int64 ids and mask (B, P), padded on the left."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.eos, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(device), mask.to(device)

    def pad_answers(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return int64 labels (B, T), padded on the right with -100."""
        width = max(len(answer) for answer in answers)
        labels = torch.full((len(answers), width), -100, dtype=torch.int64)
        for row, answer in enumerate(answers):
            labels[row, : len(answer)] = torch.tensor(answer)
        return labels


def split_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return answer ids (padding as id 0) and mask, both int64 (B, T), of labels with -100 as padding."""
    mask = (labels != -100).long()
    return labels.clamp(min=0), mask
