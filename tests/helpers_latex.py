"""A strict reader of LaTeX: what would not compile, or would print something else, is an error."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_TABLE = re.compile(r"\\begin\{tabular\}\{@\{\}([^\n]+)@\{\}\}\n(.*?)\\bottomrule", re.DOTALL)


def check_latex(text: str) -> None:
    """Check braces, environments, special characters and the columns of tables.

    Raises:
        AssertionError: names what is wrong.
    """
    body = "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    _check_pairs(body)
    for alignment, content in _TABLE.findall(body):
        _check_columns(re.sub(r"@\{\\hspace\{\d+pt\}\}", "", alignment), content)


def _check_pairs(body: str) -> None:
    depth, environments, place = 0, [], 0
    while place < len(body):
        character = body[place]
        if character == "\\":
            found = _COMMAND.match(body, place)
            assert found, f"a lonely backslash in {body[place - 20 : place + 20]!r}"
            place = found.end()
            if found[1] in ("begin", "end", "input", "includegraphics", "label"):
                name = re.compile(r"(\[[^\]]*\])?\{([^{}]*)\}").match(body, place)
                assert name, f"\\{found[1]} without a name"
                place = name.end()
                if found[1] == "begin":
                    environments.append(name[2])
                elif found[1] == "end":
                    assert environments, f"\\end{{{name[2]}}} without a beginning"
                    assert environments.pop() == name[2]
            continue
        around = body[max(place - 20, 0) : place + 20]
        assert character not in '$#^_~%"<>|', f"{character!r} is not escaped in {around!r}"
        assert character != "&" or "tabular" in environments, "& outside of a table"
        assert character.isascii() or "À" <= character <= "ÿ", f"{character!r} is in no T1 font"
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, f"a brace too many in {around!r}"
        place += 1
    assert depth == 0, "braces are not closed"
    assert not environments, f"{environments} is not closed"


def _check_columns(alignment: str, content: str) -> None:
    assert set(alignment) <= {"l", "r"}, f"columns {alignment}"
    flat = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "x", content, flags=re.DOTALL)
    for line in re.split(r" \\\\\n", flat):
        cells = re.sub(r"\\&|\\(top|mid)rule", "", line).strip()
        if cells:
            assert cells.count("&") == len(alignment) - 1, f"{cells.count('&') + 1} cells for {alignment}: {cells}"
