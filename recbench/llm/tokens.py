"""From text to token ids, in the middle of a text and at its beginning, with control tokens read or not."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_ANCHOR = "\n"


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts that stand in the middle of a text, exactly as they are.

    Nothing is added, not even the blank that SentencePiece tokenizers put before a text, and the name of a control
    token is only text: a title such as "<|endoftext|>" must not end an answer or a prompt.
    """
    return _encode(tokenizer, texts, control=False)


def encode_control(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a chat template's text in the middle of a prompt; names of control tokens are those."""
    return _encode(tokenizer, [text], control=True)[0]


def encode_opening(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text that opens a prompt: as the tokenizer writes it, but for the leading tokens."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer puts before any text: a BOS token, or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    start = next(n for n in range(len(full)) if full[n : n + len(bare)] == bare)
    return full[:start]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], control: bool) -> list[list[int]]:
    if not texts:
        return []

    def ids_of(batch: list[str]) -> list[list[int]]:
        return tokenizer(batch, add_special_tokens=False, split_special_tokens=not control)["input_ids"]

    if not _puts_blank_first(tokenizer):
        return ids_of(list(texts))
    # Only the beginning of a text gets the blank, so these are tokenised behind a line break, which is cut off again.
    anchor = ids_of([_ANCHOR])[0]
    return [ids[len(anchor) :] for ids in ids_of([_ANCHOR + text for text in texts])]


def _puts_blank_first(tokenizer: PreTrainedTokenizerBase) -> bool:
    apart = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (_ANCHOR, "a")]
    return tokenizer(_ANCHOR + "a", add_special_tokens=False)["input_ids"] != apart[0] + apart[1]
