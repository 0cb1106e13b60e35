"""All answers that a title writer can give, as tokens: one per distinct title, with the items that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbench.contracts.errors import DataError
from recbench.llm.frame import Frame
from recbench.llm.prompt import answer_text
from recbench.llm.tokens import encode_plain


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


def build_answers(tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], frame: Frame) -> Answers:
    """Tokenise the answers of a catalogue.

    Args:
        tokenizer: the backbone's tokenizer.
        titles: one per item, cleaned by ``title_key``; empty for an item that has none.
        frame: says how an answer is written and which token ends it.

    Raises:
        DataError: no item has a title.
    """
    by_tokens: dict[tuple[int, ...], list[int]] = {}
    titled = [number for number, title in enumerate(titles) if title]
    if not titled:
        raise DataError("No item of the data set has a title.", "Methods that write titles need them.")
    encoded = encode_plain(tokenizer, [answer_text(titles[number], frame.template) for number in titled])
    # Keyed by tokens, not text: a tokenizer that normalises text may map two titles to the same tokens.
    for number, ids in zip(titled, encoded, strict=True):
        by_tokens.setdefault((*ids, frame.end), []).append(number)
    of_item = np.full(len(titles), -1, dtype=np.int32)
    for answer, items in enumerate(by_tokens.values()):
        of_item[items] = answer
    return Answers(
        tokens=tuple(by_tokens),
        item_offsets=np.concatenate([[0], np.cumsum([len(i) for i in by_tokens.values()])]).astype(np.int64),
        items=np.concatenate([np.asarray(i, dtype=np.int32) for i in by_tokens.values()]),
        of_item=of_item,
    )
