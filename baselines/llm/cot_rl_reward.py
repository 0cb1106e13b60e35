"""What a written completion is worth: reading its reasoning and its answer, and the rewards of CoT-RL.

Reading is apart from generation, so that each case is a line in a test. Our reading of "exact-match plus format
reward"; the paper publishes no details of COT-RL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recbench.contracts.dataset import title_key
from recbench.llm.prompt import RESPONSE_HEADER

_QUOTED = re.compile(r'"[^\n]*[^\s"][^\n]*"')


@dataclass(frozen=True)
class Completion:
    """What a completion says.

    Attributes:
        reasoning: the text before the first response header; all of it where there is none.
        answer: the first line with words after that header, without blanks and quotes at its ends; None where there is
            no such line or the budget cut it off. Titles quoted in the reasoning are never the answer.
        well_formed: some reasoning, one response header, one finished line with a title in double quotes, nothing else.
    """

    reasoning: str
    answer: str | None
    well_formed: bool


def answer_written(text: str) -> bool:
    """Return whether the line of the answer is finished, so that nothing that follows can matter."""
    return "\n" in _after_header(text).lstrip()


def read_completion(text: str, ended: bool) -> Completion:
    """Read a completion.

    Args:
        text: everything that was written after the prompt, without an end token.
        ended: whether the model ended it itself; otherwise the last line may be cut off.
    """
    after = _after_header(text).lstrip()
    line, line_break, rest = after.partition("\n")
    finished = bool(line) and (ended or bool(line_break))
    reasoning = text.partition(RESPONSE_HEADER)[0]
    well_formed = (
        finished
        and bool(reasoning.strip())
        and _QUOTED.fullmatch(line.rstrip()) is not None
        and RESPONSE_HEADER not in line
        and not rest.strip()
    )
    return Completion(reasoning, title_key(line) if finished else None, well_formed)


def _after_header(text: str) -> str:
    return text.partition(RESPONSE_HEADER)[2]


def is_match(completion: Completion, title: str) -> bool:
    """Return whether the answer is the title, letter for letter, but for blanks, newlines and quotes at their ends."""
    return completion.answer is not None and completion.answer == title_key(title)


def text_reward(completion: Completion, title: str, format_weight: float) -> float:
    """Return 1 for the true title (else 0), plus ``format_weight`` for a well-formed completion."""
    return float(is_match(completion, title)) + format_weight * float(completion.well_formed)
