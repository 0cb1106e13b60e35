"""What a tokenizer and its chat template put around a prompt and after an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from recbench.contracts.errors import ConfigError, DataError
from recbench.llm.tokens import encode_control, leading_ids

Template = Literal["alpaca", "chat"]
# Templates that tell the date (Llama 3.1's) tell this one, their own default: a prompt is the same every day.
_DATE = datetime(2024, 7, 26)
_ASKS_DATE = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_USER, _ASSISTANT = "RECBENCH-USER-TEXT", "RECBENCH-ASSISTANT-TEXT"


@dataclass(frozen=True)
class Frame:
    """The fixed tokens of every prompt.

    Attributes:
        template: "alpaca", plain text with headers; "chat", one turn of the user in the model's chat template.
        head: tokens at the very beginning: what the tokenizer puts before any text (a BOS token, or nothing), and the
            chat template's text before the user's words.
        gap: white space between ``head`` and the user's words; tokenised with them, as in running text.
        tail: tokens after the user's words: the end of the turn and the opening of the assistant's.
        end: token that ends an answer: the end of a turn in a chat, else the end of text.
    """

    template: Template
    head: tuple[int, ...]
    gap: str
    tail: tuple[int, ...]
    end: int


def make_frame(
    tokenizer: PreTrainedTokenizerBase, requested: Literal["auto", "alpaca", "chat"], model_ends: Sequence[int] = ()
) -> Frame:
    """Return the frame of a tokenizer.

    Args:
        requested: "auto" is "chat" for an instruct model: one whose tokenizer has a chat template and that ends its
            texts with the token that ends a turn there. A base model may come with a chat template too, but ends with
            another token.
        model_ends: tokens that end a text according to the model's generation settings, beside the tokenizer's own.

    Raises:
        ConfigError: a chat is asked for, and the tokenizer has no chat template.
        DataError: the tokenizer has no end token, or its chat template does not show a message as it is, or computes
            with today's date.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("The backbone's tokenizer has no end-of-sequence token.", "Choose another backbone.")
    alpaca = Frame("alpaca", tuple(leading_ids(tokenizer)), "", (), tokenizer.eos_token_id)
    if requested == "alpaca" or (requested == "auto" and tokenizer.chat_template is None):
        return alpaca
    if tokenizer.chat_template is None:
        raise ConfigError("The backbone's tokenizer has no chat template.", "Use template=alpaca.")
    end = _turn_end(tokenizer)
    if requested == "auto" and end not in {tokenizer.eos_token_id, *model_ends}:
        return alpaca
    return _chat(tokenizer, end)


def _chat(tokenizer: PreTrainedTokenizerBase, end: int) -> Frame:
    before, after = _split(_render(tokenizer, [{"role": "user", "content": _USER}], opens_answer=True), _USER)
    opening = before.rstrip()
    # The template writes its control tokens as text; here, unlike in titles, they are read as such.
    head = tokenizer(opening, add_special_tokens=False)["input_ids"]
    lead = leading_ids(tokenizer)
    if head[: len(lead)] != lead:
        head = lead + head
    return Frame("chat", tuple(head), before[len(opening) :], tuple(encode_control(tokenizer, after)), end)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends the assistant's turn: the first control token after its words."""
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    _, after = _split(_render(tokenizer, turns, opens_answer=False), _ASSISTANT)
    control = set(tokenizer.added_tokens_decoder)
    return next((token for token in encode_control(tokenizer, after) if token in control), tokenizer.eos_token_id)


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], opens_answer: bool) -> str:
    template = _ASKS_DATE.sub(lambda call: repr(_DATE.strftime(call[2])), tokenizer.get_chat_template())
    if re.search(r"strftime_now\s*\(", template):
        raise DataError("The backbone's chat template works with today's date.", "Use template=alpaca.")
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=opens_answer, chat_template=template
        )
    except TemplateError as error:
        raise DataError(f"The backbone's chat template cannot be used: {error}.", "Use template=alpaca.") from error


def _split(text: str, mark: str) -> tuple[str, str]:
    if text.count(mark) != 1:
        raise DataError("The backbone's chat template does not show a message as it is.", "Use template=alpaca.")
    before, after = text.split(mark)
    return before, after
