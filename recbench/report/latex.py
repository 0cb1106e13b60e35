r"""A document for LaTeX: one file per headline table, to be put into a paper, and a main file that compiles.

The tables need ``\usepackage{amssymb,booktabs}`` and nothing else; letters outside Latin-1 and the usual signs are
written as their code points, so that every LaTeX engine can read the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recbench.report.csvfile import table_name
from recbench.report.document import Column, Document, Group, Row, Section, Table
from recbench.report.format import cell_text
from recbench.report.inline import render
from recbench.report.markdown import figure_file

_LEFT = ("text", "code")
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "–": "--",
    "—": "---",
    "−": r"\ensuremath{-}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "…": r"\ldots{}",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "×": r"\ensuremath{\times}",
    "±": r"\ensuremath{\pm}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "→": r"\ensuremath{\to}",
    "Δ": r"\ensuremath{\Delta}",
    "▲": r"\ensuremath{\blacktriangle}",
    "▽": r"\ensuremath{\triangledown}",
    "†": r"\textdagger{}",
    "\n": " ",
}
_LONG_TITLE = 9
# Marks hang behind a number, so that the digits of a column stay below each other.
_ROOM_FOR_MARKS = r"@{\hspace{16pt}}"
# A hyphen that is the sign of a number: not inside a word, a range or an exponent.
_MINUS = re.compile(r"(?<![\w–-])-(?=\d)")
_PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{amssymb,booktabs,graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
"""


def latex_files(document: Document, figures: str = "../figures") -> dict[str, str]:
    """Return file name -> content: ``report.tex``, and one file per headline table of every group.

    Args:
        document: what to show.
        figures: folder of the figures as PNG, relative to ``report.tex``.
    """
    tables = {
        f"{group.slug}-{table_name(section, table)}.tex": latex_table(group, section, table)
        for group in document.groups
        for section in group.sections
        for table in section.tables
        if table.headline and table.rows
    }
    return {"report.tex": _main(document, figures), **tables}


def _main(document: Document, figures: str) -> str:
    parts = [_PREAMBLE, rf"\title{{{escape(document.title)}}}", r"\date{}", r"\begin{document}", r"\maketitle"]
    parts += _prose(document.introduction)
    for group in document.groups:
        parts += [r"\clearpage", rf"\section{{{escape(group.title)}}}"]
        for section in group.sections:
            headlines = [table for table in section.tables if table.headline and table.rows]
            if headlines or section.figures:
                parts += [rf"\subsection{{{escape(section.title)}}}", *_prose(section)]
                parts += [rf"\input{{{group.slug}-{table_name(section, table)}}}" for table in headlines]
                parts += [
                    line
                    for figure in section.figures
                    for line in (
                        r"\begin{figure}[!htbp]",
                        r"\centering",
                        rf"\includegraphics[width=0.55\linewidth,height=0.7\textheight,keepaspectratio]"
                        rf"{{{figures}/{figure_file(group, section, figure)}.png}}",
                        rf"\caption{{{escape(figure.title)}}}",
                        r"\end{figure}",
                    )
                ]
    return "\n".join([*parts, r"\end{document}", ""])


def _prose(section: Section) -> Iterator[str]:
    for warning in section.warnings:
        yield rf"\textbf{{Warning.}} {_sentence(warning)}\par"
    for paragraph in section.paragraphs:
        yield rf"{_sentence(paragraph)}\par"


def latex_table(group: Group, section: Section, table: Table) -> str:
    """Return a floating table with booktabs rules, bold cells, marks and notes; columns for details are left out."""
    columns = [column for column in table.columns if not column.detail]
    marked = {key for row in table.rows for key, mark in (row.marks or {}).items() if mark}
    alignment = "".join(
        ("l" if column.kind in _LEFT else "r") + (_ROOM_FOR_MARKS if column.key in marked else "") for column in columns
    )
    lines = [
        "% made by recbench report; needs \\usepackage{amssymb,booktabs}",
        r"\begin{table}[!htbp]",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{_label(f'{group.slug}-{table_name(section, table)}')}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
        _line([_heading(column) for column in columns]),
        r"\midrule",
        *(_line([_cell(row, column) for column in columns]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\parbox{{\linewidth}}{{{_sentence(note)}}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _heading(column: Column) -> str:
    """Return a title, a long one in two lines of about equal length, so that columns are as narrow as their values."""
    words = column.title.split()
    if len(column.title) <= _LONG_TITLE or len(words) < 2:
        return escape(column.title)
    lines = min(
        ((" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))),
        key=lambda pair: max(map(len, pair)),
    )
    side = "l" if column.kind in _LEFT else "r"
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r"\\".join(map(escape, lines)) + r"\end{tabular}"


def _cell(row: Row, column: Column) -> str:
    text = cell_text(row.values.get(column.key), column.kind)
    text = rf"\texttt{{{escape(text)}}}" if column.kind == "code" else escape(text)
    text = rf"\textbf{{{text}}}" if column.key in row.bold else text
    mark = (row.marks or {}).get(column.key, "")
    return text + (rf"\rlap{{\textsuperscript{{{escape(mark)}}}}}" if mark else "")


def escape(text: str) -> str:
    """Return plain text so that LaTeX prints exactly it."""
    return "".join(map(_escape_character, _MINUS.sub("−", text)))


def _escape_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() and character.isprintable():
        return character
    # T1 fonts have the letters of Latin-1.
    if "À" <= character <= "ÿ":
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def _sentence(text: str) -> str:
    return render(
        text,
        {
            "plain": escape,
            "code": lambda piece: rf"\texttt{{{escape(piece)}}}",
            "bold": lambda piece: rf"\textbf{{{escape(piece)}}}",
        },
    )


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:.-]+", "-", text)
