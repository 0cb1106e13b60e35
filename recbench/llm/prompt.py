"""The prompt of title-writing recommenders, and the text of an answer.

Structure after the published LatentR3 code (Alpaca frame, quoted titles oldest first, a response header that ends
with a blank and a newline); the wording is our own.
"""

from __future__ import annotations

from collections.abc import Iterable

PROMPT_VERSION = "1"


def instruction_text(noun: str) -> str:
    """Return the part of the prompt that is the same for every user of a data set. ``noun`` is plural ("movies")."""
    return (
        "A task is described below, together with an input. Write an answer that completes the task. \n\n"
        f"### Instruction:\nHere is a list of {noun} that a user liked recently. "
        f"Name one of the other {noun} that the user may want next.\n"
    )


def history_text(noun: str, titles: Iterable[str]) -> str:
    """Return the part of the prompt that holds one user's titles, oldest first."""
    listed = ", ".join(f'"{title}"' for title in titles)
    return f"### User Input: \nThe user has chosen the following {noun} before: {listed}\n\n### Response: \n"


def answer_text(title: str) -> str:
    """Return the text of an answer; the end token follows it."""
    return f'"{title}"\n'
