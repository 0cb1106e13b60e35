"""Renderers: every kind of value, every special character, and files that their readers accept."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers_latex import check_latex
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.comparison import Interval
from recbench.report.csvfile import csv_files
from recbench.report.document import Column, Document, Figure, Group, Kind, Row, Section, Table
from recbench.report.figures import compact_svg, draw, new_figure
from recbench.report.format import (
    _TEXT,
    bytes_text,
    cell_text,
    effect_text,
    metric_text,
    number_text,
    p_text,
    seconds_text,
    signed_interval_text,
    slug,
)
from recbench.report.html import index_html
from recbench.report.inline import render, spans
from recbench.report.jsonfile import json_document, json_text
from recbench.report.latex import escape, latex_files
from recbench.report.markdown import markdown_table, readme

NASTY = """a<b>&"'`c` \\ {x} $5 50% #1 x_y ~ ^ | *no* é ✓"""


def example(text: str = NASTY) -> Document:
    """Return a document in which every text is ``text`` and one table has every kind of column."""

    def empty_figure() -> Any:
        figure = new_figure(3, 2)
        figure.add_subplot().plot([0, 1], [0, 1])
        return figure

    values: dict[Kind, Any] = {
        "text": text, "code": text, "metric": 0.12345, "signed": -0.5, "interval": Interval(0.1, 0.2),
        "signed_interval": Interval(-0.1, 0.2), "change_interval": Interval(-0.1, 0.2),
        "share": 0.5, "change": -0.125, "p": 0.00001, "effect": 1.5,
        "seconds": 90.0, "bytes": 2048, "count": 12345, "range": (2, 4), "number": 12.3456,
    }  # fmt: skip
    assert set(values) == set(get_args(Kind))
    columns = tuple(Column(kind, f"{kind} {text}", kind, text) for kind in values)
    hidden = Column("hidden", text, "code", "", True)
    details = Section("details", text, (text,), code=f"if a < b:\n    {text}")
    rows = (
        Row({**values, "hidden": text}, frozenset({"metric"}), {"metric": "*", "text": "†"}, details=details),
        Row({}),
        Row({"metric": float("nan"), "interval": Interval(float("nan"), 1.0), "text": ""}),
    )
    table = Table("table", text, (*columns, hidden), rows, (text,), headline=True, searched=True)
    figure = Figure("figure", text, text, empty_figure)
    section = Section("section", text, (f"**bold** `code` {text}",), (text,), (table,), (figure,), f"run {text}")
    group = Group("group", text, True, (section,), {"dataset": "d", "protocol": {"a": 1}})
    overview = Section("overview", text, tables=(Table("overview", text, columns[:1], (Row(values, link="group"),)),))
    return Document(text, Section("introduction", text, (text,)), overview, (group,), (section,), "1.0", {"run": "sha"})


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "–"),
        (0.0, "<0.01 s"),
        (0.0421, "0.04 s"),
        (9.99, "9.99 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.8, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds(seconds: float | None, expected: str) -> None:
    assert seconds_text(seconds) == expected


def test_numbers_as_text() -> None:
    assert metric_text(0.12345) == "0.1235"
    assert [p_text(p) for p in (None, 0.00004, 0.0001, 0.0496, 1.0)] == ["–", "<0.0001", "0.0001", "0.0496", "1.0000"]
    assert signed_interval_text(Interval(-0.01, 0.02)) == "-0.0100 to +0.0200"
    assert [effect_text(e) for e in (None, 0.1, -1.0)] == ["–", "+0.10", "-1.00"]
    assert [bytes_text(n) for n in (512, 1536, 200 * 2**20, 3 * 2**40)] == ["512 B", "1.5 KiB", "200 MiB", "3.0 TiB"]
    assert [number_text(n) for n in (0.012345, 12.3456, 123456.7)] == ["0.0123", "12.3", "123,457"]
    assert slug("recbole:NARM / x") == "recbole-NARM-x"


def test_every_kind_has_a_text_and_a_dash() -> None:
    assert set(_TEXT) == set(get_args(Kind))
    for kind in get_args(Kind):
        assert cell_text(None, kind) == "–"
    assert cell_text((2, 4), "range") == "2–4"
    assert cell_text((2, 2), "range") == "2"
    assert cell_text(-0.125, "change") == "-12.5%"


def test_spans_and_marks() -> None:
    assert spans("a **b** `c` d") == [("plain", "a "), ("bold", "b"), ("plain", " "), ("code", "c"), ("plain", " d")]
    assert spans("2 * 3 ** 4 `") == [("plain", "2 * 3 ** 4 `")]
    with pytest.raises(ValueError, match="markup lacks bold"):
        render("x", {"plain": str, "code": str})


def test_markdown_cells_are_escaped() -> None:
    assert markdown_table(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 2 |"
    text = readme(example("a<b> *c* |"))
    assert r"a\<b> \*c\* \|" in text
    assert "`a<b> *c* \\|`" in text
    assert "**0.1235**\\*" in text


class _Tags(HTMLParser):
    """Collects ids, references, addresses and open tags."""

    VOID = frozenset({"meta", "link", "input", "br", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.references += [
            values[name] for name in ("popovertarget", "aria-controls", "aria-labelledby") if name in values
        ]
        self.references += [values["href"][1:]] if values.get("href", "").startswith("#") else []
        self.addresses += [values[n] for n in ("href", "src", "xlink:href") if n in values and values[n][:1] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_well_formed_escaped_and_asks_for_nothing() -> None:
    page = index_html(example(), lambda figure: draw(figure.draw))
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert [name for name, times in Counter(tags.ids).items() if times > 1] == []
    assert set(tags.references) <= set(tags.ids)
    assert tags.addresses == ["data:,"]
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    assert NASTY in tags.texts
    assert "<b>" not in page


def test_values_for_sorting_are_in_full_precision() -> None:
    page = index_html(example("t"), lambda figure: draw(figure.draw))
    assert 'data-sort="0.12345">' in page
    assert 'data-sort="-0.5">' in page
    assert page.count('data-sort="nan"') == 0


def test_csv_is_in_full_precision_and_names_the_group() -> None:
    files = csv_files(example())
    assert set(files) == {"section-table.csv", "overview.csv"}
    first, *others = csv.DictReader(StringIO(files["section-table.csv"]))
    assert (first["group"], first["dataset"], first["limited"]) == ("group", "d", "True")
    assert (first["text"], first["hidden"]) == (NASTY, NASTY)
    assert (first["metric"], first["interval_low"], first["range_last"]) == ("0.12345", "0.1", "4")
    assert {others[1][name] for name in ("metric", "interval_low", "text")} == {""}
    assert "protocol" not in first


def test_json_has_no_word_that_json_does_not_know() -> None:
    record = json.loads(json_text(json_document(example(), ["a"])))
    rows = record["groups"][0]["sections"]["section"]["tables"]["table"]
    assert rows[0]["metric"] == 0.12345
    assert rows[2]["metric"] is None
    assert record["inputs"] == {"run": "sha"}


@given(st.text(max_size=40))
def test_any_text_is_safe_latex(text: str) -> None:
    check_latex(escape(text))


def test_latex_of_every_kind_is_sound(tmp_path: Path) -> None:
    files = latex_files(example())
    assert set(files) == {"report.tex", "group-section-table.tex"}
    for text in files.values():
        check_latex(text)
    table = files["group-section-table.tex"]
    assert r"\textbf{0.1235}\rlap{\textsuperscript{*}}" in table
    assert r"\ensuremath{-}0.5000" in table
    assert r"50\% \#1 x\_y" in table
    assert r"\texttt{U+2713}" in table
    assert r"\ensuremath{-}" not in escape("cot-rl 2-3 1e-05")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex, to see that the main file compiles")
def test_latex_compiles(tmp_path: Path) -> None:
    document = example()
    for name, text in latex_files(document, ".").items():
        (tmp_path / name).write_text(text)
    figure = document.groups[0].sections[0].figures[0]
    (tmp_path / "group-section-figure.png").write_bytes(draw(figure.draw).png)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_compact_svg_is_the_same_picture() -> None:
    path = '<path id="b" d="M 1.23456 2 \nL 3 4.005"/>'
    svg = f'<svg>\n <!-- no -->\n <g id="a">\n  {path}\n </g>\n <text>0.12345</text>\n <use href="#b"/>\n</svg>'
    assert compact_svg(svg).split("\n") == [
        "<svg>",
        "<g>",
        '<path id="b" d="M 1.23 2 L 3 4.00"/>',
        "</g>",
        "<text>0.12345</text>",
        '<use href="#b"/>',
        "</svg>",
    ]
