"""The prompts of title-writing recommenders, and the text of an answer.

Structure of the answer prompt after the published LatentR3 code (Alpaca frame, quoted titles oldest first, a response
header that ends with a blank and a newline); the wording is our own. Nothing is published on the reasoning prompt of
CoT; its parts follow Rec-SAVER: what the purchases tell first, the recommendation after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PROMPT_VERSION = "1"
CHAT_PROMPT_VERSION = "1"
REASONING_PROMPT_VERSION = "1"

INSTRUCTION_HEADER = "### Instruction:"
INPUT_HEADER = "### User Input:"
REASONING_HEADER = "### Reasoning:"
RESPONSE_HEADER = "### Response:"


@dataclass(frozen=True)
class PromptText:
    """The text of one kind of prompt.

    Attributes:
        instruction: what stands before the user's part, the same for every user of a data set.
        opening, closing: what stands before and after a user's titles.
        version: of the wording.
    """

    instruction: str
    opening: str
    closing: str
    version: str

    def history(self, titles: Iterable[str]) -> str:
        """Return the user's part of the prompt; titles come oldest first."""
        return self.opening + ", ".join(f'"{title}"' for title in titles) + self.closing


def answer_prompt(noun: str, template: Literal["alpaca", "chat"]) -> PromptText:
    """Return the prompt that asks for one title. ``noun`` is plural ("movies")."""
    if template == "alpaca":
        return PromptText(
            instruction=(
                "A task is described below, together with an input. Write an answer that completes the task. \n\n"
                f"{INSTRUCTION_HEADER}\nHere is a list of {noun} that a user liked recently. "
                f"Name one of the other {noun} that the user may want next.\n"
            ),
            opening=f"{INPUT_HEADER} \n{_chosen(noun)}",
            closing=f"\n\n{RESPONSE_HEADER} \n",
            version=PROMPT_VERSION,
        )
    return PromptText(
        instruction=(
            f"Here is a list of {noun} that a user liked recently. Name one of the other {noun} that the user may "
            "want next. Write its title in double quotes and nothing else.\n\n"
        ),
        opening=_chosen(noun),
        closing="",
        version=f"chat-{CHAT_PROMPT_VERSION}",
    )


def reasoning_prompt(noun: str, template: Literal["alpaca", "chat"]) -> PromptText:
    """Return the prompt that asks to reason first and to name one title after the response header."""
    if template == "alpaca":
        return PromptText(
            instruction=(
                "A task is described below, together with an input. Reason about it step by step, then write an "
                f"answer that completes the task. \n\n{INSTRUCTION_HEADER}\nYou recommend {noun}. "
                f"Here is a list of {noun} that a user liked recently, the oldest first. Say step by step what they "
                f"tell about the user's taste and what the user may look for now. Then name, after the header "
                f'"{RESPONSE_HEADER}", one of the other {noun} that the user may want next, as a title in double '
                "quotes.\n"
            ),
            opening=f"{INPUT_HEADER} \n{_chosen(noun)}",
            closing=f"\n\n{REASONING_HEADER} \n",
            version=f"reasoning-{REASONING_PROMPT_VERSION}",
        )
    return PromptText(
        instruction=(
            f"You recommend {noun}. Here is a list of {noun} that a user liked recently, the oldest first. Say step by "
            "step what they tell about the user's taste and what the user may look for now. Then write a line with "
            f'"{RESPONSE_HEADER}", and under it the title, in double quotes, of one of the other {noun} that the '
            "user may want next.\n\n"
        ),
        opening=_chosen(noun),
        closing="",
        version=f"reasoning-chat-{REASONING_PROMPT_VERSION}",
    )


def _chosen(noun: str) -> str:
    return f"The user has chosen the following {noun} before: "


def answer_text(title: str, template: Literal["alpaca", "chat"] = "alpaca") -> str:
    """Return the text of an answer; the end token follows it. In a chat no line break comes before the end."""
    return f'"{title}"\n' if template == "alpaca" else f'"{title}"'


def instruction_text(noun: str) -> str:
    """Return the part of the answer prompt that is the same for every user of a data set."""
    return answer_prompt(noun, "alpaca").instruction


def history_text(noun: str, titles: Iterable[str]) -> str:
    """Return the part of the answer prompt that holds one user's titles, oldest first."""
    return answer_prompt(noun, "alpaca").history(titles)
