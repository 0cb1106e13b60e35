"""All answers that a title writer can give, as tokens: one per distinct title, with the items that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbench.contracts.errors import DataError
from recbench.llm.prompt import answer_text


@dataclass(frozen=True)
class Answers:
    """All answers that can be written: one per distinct title.

    Attributes:
        tokens: token ids of each answer, end token included.
        item_offsets, items: answer ``a`` stands for ``items[item_offsets[a]:item_offsets[a + 1]]``, ascending.
        of_item: int32 (n_items,), the answer that stands for an item; -1 for items without a title.
    """

    tokens: tuple[tuple[int, ...], ...]
    item_offsets: np.ndarray
    items: np.ndarray
    of_item: np.ndarray


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts as they stand: nothing is added, and the name of a control token is only text.

    A title such as "<|endoftext|>" must not end an answer or a prompt.
    """
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


def build_answers(tokenizer: PreTrainedTokenizerBase, titles: Sequence[str]) -> Answers:
    """Tokenise the answers of a catalogue.

    Args:
        tokenizer: the backbone's tokenizer; it must have an end token.
        titles: one per item, cleaned by ``title_key``; empty for an item that has none.

    Raises:
        DataError: no item has a title.
    """
    by_tokens: dict[tuple[int, ...], list[int]] = {}
    titled = [number for number, title in enumerate(titles) if title]
    if not titled:
        raise DataError("No item of the data set has a title.", "Methods that write titles need them.")
    encoded = encode_plain(tokenizer, [answer_text(titles[number]) for number in titled])
    # Keyed by tokens, not text: a tokenizer that normalises text may map two titles to the same tokens.
    for number, ids in zip(titled, encoded, strict=True):
        by_tokens.setdefault((*ids, tokenizer.eos_token_id), []).append(number)
    of_item = np.full(len(titles), -1, dtype=np.int32)
    for answer, items in enumerate(by_tokens.values()):
        of_item[items] = answer
    return Answers(
        tokens=tuple(by_tokens),
        item_offsets=np.concatenate([[0], np.cumsum([len(i) for i in by_tokens.values()])]).astype(np.int64),
        items=np.concatenate([np.asarray(i, dtype=np.int32) for i in by_tokens.values()]),
        of_item=of_item,
    )
