"""Between items and tokens: prompts and answers as token ids, written titles as items."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Queries
from recbench.llm.answers import load_answers
from recbench.llm.frame import make_frame
from recbench.llm.prompt import PromptText, answer_prompt
from recbench.llm.tokens import encode_opening, encode_plain

log = logging.getLogger(__name__)

TemplateChoice = Literal["auto", "alpaca", "chat"]


@dataclass(frozen=True)
class Prompts:
    """Prompts of B queries.

    Attributes:
        ids: token ids of each prompt.
        truncated: bool (B,), prompts that had to lose titles (the oldest) to fit.
    """

    ids: list[list[int]]
    truncated: np.ndarray


class AnswerTokens(Protocol):
    """The answers that a model can be trained to give.

    Attributes:
        tokens: token ids of each answer.
        of_item: int (n_items,), the answer that stands for an item; -1 where there is none.
    """

    @property
    def tokens(self) -> Sequence[Sequence[int]]: ...

    @property
    def of_item(self) -> np.ndarray: ...


class RowCodec(Protocol):
    """What training needs of a codec: histories as prompt tokens, items as answer tokens."""

    @property
    def answers(self) -> AnswerTokens:
        """All answers."""

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return the prompt tokens of every query."""

    def pad_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return int64 ids and mask (B, P), padded on the left."""

    def pad_answers(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return int64 labels (B, T), padded on the right with -100."""


class TitleCodec:
    """Turns histories into prompt tokens and titles into answer tokens.

    The instruction, the history part and the answer are tokenised apart and joined, as the published code does, so a
    token never spans two of them and titles are tokenised once. The name of a control token in a title is only text.

    Args:
        tokenizer: the backbone's tokenizer; it must have an end token.
        catalog: the items.
        max_prompt_tokens: longer prompts lose their oldest titles.
        template: "alpaca" (the published prompt), "chat" (the tokenizer's chat template), or "auto": chat for an
            instruct model (see :func:`~recbench.llm.frame.make_frame`).
        model_ends: further tokens that end a text, see :func:`end_ids_of`.
        cache_dir: where the tokenised answers are kept for later runs; None keeps nothing.

    Attributes:
        frame: what stands around every prompt, and the token that ends an answer.
        end_ids: tokens that end a freely written text, the answer's end token first.
        eos: the token that ends an answer, which also serves as padding.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        catalog: ItemCatalog,
        max_prompt_tokens: int = 512,
        template: TemplateChoice = "auto",
        model_ends: Sequence[int] = (),
        cache_dir: Path | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.catalog = catalog
        self.max_prompt_tokens = max_prompt_tokens
        self.frame = make_frame(tokenizer, template, model_ends)
        self.eos = self.frame.end
        self.end_ids = tuple(dict.fromkeys([self.frame.end, tokenizer.eos_token_id, *model_ends]))
        self._titles = [title_key(title) for title in catalog.titles]
        self._text = answer_prompt(catalog.noun, self.frame.template)
        self.answers = load_answers(tokenizer, self._titles, self.frame, cache_dir)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain facts about the prompt: template and version of the wording."""
        return {"template": self.frame.template, "prompt_version": self._text.version}

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return the prompt tokens of every query. Items without a title are left out of the prompt."""
        return self.encode(queries).ids

    def encode(self, queries: Queries, text: PromptText | None = None) -> Prompts:
        """Return the prompts of queries.

        A prompt that is too long loses whole titles, the oldest first; one title that does not fit loses its last
        tokens. Everything else of the prompt stays.

        Args:
            text: wording; unset: that of the answer prompt.

        Raises:
            ConfigError: the prompt without any title is too long already.
        """
        text = text or self._text
        start = self._start(text)
        room = self.max_prompt_tokens - len(start) - len(self.frame.tail)
        titles = [[self._titles[i] for i in queries.history(row) if self._titles[i]] for row in range(len(queries))]
        middle = self._encode([text.history(listed) for listed in titles])
        truncated = np.array([len(ids) > room for ids in middle], dtype=bool)
        for row in np.flatnonzero(truncated):
            middle[row] = self._fit(text, titles[row], room)
        if truncated.any():
            log.info("%d of %d prompts lost their oldest titles.", truncated.sum(), len(queries))
        return Prompts([[*start, *ids, *self.frame.tail] for ids in middle], truncated)

    def _start(self, text: PromptText) -> list[int]:
        """Return the tokens up to the user's part of a prompt."""
        if self.frame.template == "alpaca":
            return [*self.frame.head, *encode_opening(self.tokenizer, text.instruction)]
        return [*self.frame.head, *self._encode([self.frame.gap + text.instruction])[0]]

    def _fit(self, text: PromptText, titles: list[str], room: int) -> list[int]:
        """Return the tokens of the most recent titles that fit into ``room`` tokens."""
        for first in range(1, len(titles)):
            ids = self._encode([text.history(titles[first:])])[0]
            if len(ids) <= room:
                return ids
        opening, title, closing = self._encode([f'{text.opening}"', titles[-1] if titles else "", f'"{text.closing}'])
        left = room - len(opening) - len(closing)
        if left <= 0:
            raise ConfigError(
                f"max_prompt_tokens is {self.max_prompt_tokens}, but the prompt has "
                f"{self.max_prompt_tokens - left} tokens without any title.",
                f"Set max_prompt_tokens to more than {self.max_prompt_tokens - left}.",
            )
        return opening + title[:left] + closing

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_plain(self.tokenizer, texts)

    def pad_prompts(
        self, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return int64 ids and mask (B, P), padded on the left."""
        return pad_prompts(prompts, self.eos, device)

    def pad_answers(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return int64 labels (B, T), padded on the right with -100."""
        return pad_answers(answers)


def pad_prompts(
    prompts: Sequence[Sequence[int]], fill: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return int64 ids and mask (B, P) of B prompts, padded on the left with ``fill``."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), fill, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def pad_answers(answers: Sequence[Sequence[int]]) -> Tensor:
    """Return int64 labels (B, T) of B answers, padded on the right with -100."""
    width = max(len(answer) for answer in answers)
    labels = torch.full((len(answers), width), -100, dtype=torch.int64)
    for row, answer in enumerate(answers):
        labels[row, : len(answer)] = torch.as_tensor(answer)
    return labels


def end_ids_of(lm: PreTrainedModel) -> tuple[int, ...]:
    """Return the tokens that end a text according to a model's generation settings."""
    ends = lm.generation_config.eos_token_id if lm.generation_config is not None else None
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)


def split_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return answer ids (padding as id 0) and mask, both int64 (B, T), of labels with -100 as padding."""
    mask = (labels != -100).long()
    return labels.clamp(min=0), mask
