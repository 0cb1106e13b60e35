"""What a completion says, and what it is worth."""

from __future__ import annotations

import pytest

from baselines.llm.cot_rl_reward import answer_written, is_match, read_completion, text_reward
from recbench.llm.prompt import RESPONSE_HEADER as HEADER

GOOD = f'The user likes dark films.\n\n{HEADER} \n"Heat (1995)"\n'


def test_a_completion_of_the_right_form() -> None:
    read = read_completion(GOOD, ended=False)
    assert (read.reasoning, read.answer, read.well_formed) == ("The user likes dark films.\n\n", "Heat (1995)", True)
    assert text_reward(read, "Heat (1995)", 0.1) == pytest.approx(1.1)
    assert text_reward(read, "Heat", 0.1) == pytest.approx(0.1)


# text, ended by the model, answer, well formed
CASES = {
    "titles quoted in the reasoning": (f'"Heat" and "Alien"\n{HEADER} \n"Brazil"\n', False, "Brazil", True),
    "quoted title with quotes inside": (f'r\n{HEADER}\n"Café "Zoë": été"\n', False, 'Café "Zoë": été', True),
    "answer on the header's line": (f'r {HEADER} "Brazil"\n', False, "Brazil", True),
    "ended by the end token, without line break": (f'r\n{HEADER} \n"Brazil"', True, "Brazil", True),
    "blank lines before and after the title": (f'r\n{HEADER}\n\n\n"Brazil" \n\n', False, "Brazil", True),
    "no header": ('I name "Brazil"\n', True, None, False),
    "no answer": (f"r\n{HEADER} \n", True, None, False),
    "no reasoning": (f'\n{HEADER} \n"Brazil"\n', False, "Brazil", False),
    "title without quotes": (f"r\n{HEADER} \nBrazil\n", False, "Brazil", False),
    "one quote only": (f'r\n{HEADER} \n"Brazil\n', False, "Brazil", False),
    "empty quotes": (f'r\n{HEADER} \n""\n', False, "", False),
    "text behind the title": (f'r\n{HEADER} \n"Brazil" is it\n', False, 'Brazil" is it', False),
    "text under the title": (f'r\n{HEADER} \n"Brazil"\nand more', False, "Brazil", False),
    "two headers": (f'r\n{HEADER} \n"Brazil"\n{HEADER} \n"Heat"\n', False, "Brazil", False),
    "two headers in a line": (f'r {HEADER} "Brazil" {HEADER} "Heat"\n', False, f'Brazil" {HEADER} "Heat', False),
    "two headers, one behind the other": (f'r {HEADER} {HEADER} \n"Brazil"\n', False, HEADER, False),
    "cut off in the title": (f'r\n{HEADER} \n"Bra', False, None, False),
    "cut off behind the title": (f'r\n{HEADER} \n"Brazil"', False, None, False),
    "cut off in the header": ("r\n### Respo", False, None, False),
    "cut off in the reasoning": ('the user likes "Brazil"\nand', False, None, False),
    "nothing": ("", True, None, False),
}


@pytest.mark.parametrize("case", CASES)
def test_reading(case: str) -> None:
    text, ended, answer, well_formed = CASES[case]
    read = read_completion(text, ended)
    assert (read.answer, read.well_formed) == (answer, well_formed)


@pytest.mark.parametrize(
    ("written", "title", "match"),
    [
        ("Brazil", "Brazil", True),
        ('"Brazil"', ' "Brazil" \n', True),
        ("brazil", "Brazil", False),
        ("Brazil (1985)", "Brazil", False),
        ('Café "Zoë": été', 'Café "Zoë": été', True),
    ],
)
def test_a_match_is_exact_but_for_blanks_and_quotes_at_the_ends(written: str, title: str, match: bool) -> None:
    read = read_completion(f"r\n{HEADER} \n{written}\n", ended=False)
    assert is_match(read, title) is match
    assert text_reward(read, title, 0.0) == float(match)


def test_a_quoted_title_in_the_reasoning_is_no_match() -> None:
    read = read_completion(f'It is "Brazil"\n{HEADER} \n"Heat"\n', ended=False)
    assert not is_match(read, "Brazil")
    assert not is_match(read_completion('"Brazil"\n', ended=True), "Brazil")


def test_writing_stops_at_the_end_of_the_answers_line_and_not_before() -> None:
    ends = [length for length in range(len(GOOD) + 1) if answer_written(GOOD[:length])]
    assert ends == [len(GOOD)]
    assert answer_written(GOOD + "anything")
