"""What a report is made of: groups of sections with text, tables and figures, every number in full precision.

Section builders (:mod:`recbench.report.sections`) make these objects from results; every format (Markdown, HTML, LaTeX,
CSV, JSON) renders the same objects, so a number cannot differ between the text, a table and a file. Rounding happens in
the renderers alone, by the kind of the column (:mod:`recbench.report.format`).

Sentences (paragraphs, warnings, notes, help) are plain text in which `` `code` `` and ``**bold**`` are the only marks;
titles and cells are plain text without any mark. Nothing is escaped: the renderers do that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Kind = Literal[
    "text",  # str
    "code",  # str in a fixed-width face: run ids, hashes, commands; "" is a dash
    "metric",  # float, four places: NDCG@10
    "signed",  # float, four places with its sign: a difference
    "interval",  # recbench.contracts.comparison.Interval of metrics
    "signed_interval",  # Interval of differences
    "change_interval",  # Interval of relative improvements, shown as signed percentages
    "share",  # float 0 to 1, shown as a percentage
    "change",  # float, shown as a signed percentage: a relative improvement
    "p",  # float, a p-value
    "effect",  # float, two places with its sign
    "seconds",  # float, a duration
    "bytes",  # int
    "count",  # int
    "range",  # (int, int), first and last of a range of whole numbers: "2" or "2–4"
    "number",  # float, three significant digits
]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: name of the value in each row, and the header in CSV files. Tables with equal slugs of different groups
            make one CSV file, so the same key must mean the same in all of them.
        title: header for readers.
        kind: what the values are, and so how they are written. None is a dash in every kind.
        help: what the column means, in one sentence; "" where the title says it.
        detail: left out where space is scarce (Markdown, LaTeX); shown on request in HTML, and always in CSV.
    """

    key: str
    title: str
    kind: Kind = "text"
    help: str = ""
    detail: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        values: column key -> value; a missing key is None.
        bold: keys of the cells that stand out.
        marks: key -> a short mark behind the value, such as a significance sign; the table's notes explain it.
        link: slug of the group that the row is about; its first text leads there.
        details: what a reader sees who asks for more about this row (HTML only, so it may hold nothing that stands
            nowhere else).
    """

    values: Mapping[str, Any]
    bold: frozenset[str] = frozenset()
    marks: Mapping[str, str] | None = None
    link: str = ""
    details: Section | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        slug: part of file names and anchors, unique within its section.
        title: caption, short.
        columns, rows: the content.
        notes: sentences below it: what bold and marks mean, warnings.
        headline: the main table of its section; formats for print may leave others out.
        searched: readers will want to find rows in it, however few there are (HTML).
        in_csv: False where another table holds the same numbers in a form that suits machines better.
    """

    slug: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    headline: bool = False
    searched: bool = False
    in_csv: bool = True


@dataclass(frozen=True)
class Figure:
    """One figure, drawn only when a format asks for it.

    Attributes:
        slug: part of file names, unique within its section.
        title: caption, short.
        alt: what it shows, for readers who cannot see it.
        draw: makes the matplotlib figure; pure, so it may run in any order. It runs inside
            :func:`recbench.report.figures.style`, so it sets no fonts and no colours of axes; colours, markers and
            hatches come from that module.
    """

    slug: str
    title: str
    alt: str
    draw: Callable[[], MatplotlibFigure]


@dataclass(frozen=True)
class Section:
    """A part of a group: one question and its answer.

    Attributes:
        slug: anchor, unique within its group: "leaderboard", "slices", "latency".
        title: heading.
        paragraphs: plain text; `code` in backticks and **bold** are the only marks.
        warnings: sentences that must be seen before the numbers.
        tables, figures: in order.
        code: commands or settings to copy, shown as they are below the tables.
    """

    slug: str
    title: str
    paragraphs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Group:
    """The sections about runs that may be compared: same data, split and protocol, and one language model at most.

    Attributes:
        slug: part of file names and anchors, unique within the report.
        title: heading.
        limited: a try-out, not a result.
        sections: in order.
        facts: what all of its runs have in common ("dataset", "protocol_hash", ...): plain values of JSON, also the
            first columns of its lines in CSV files.
    """

    slug: str
    title: str
    limited: bool
    sections: tuple[Section, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: its name.
        introduction: how to read it.
        overview: the whole at a glance, shown first; None where there is nothing to see.
        groups: results before try-outs.
        sections: what belongs to no group: runs that are not complete, folders that cannot be read.
        version: version of recbench that made it.
        inputs: run id -> SHA-256 of the metrics that were read.
        attachments: path relative to the report -> text of a file that sections refer to, such as settings of a run.
    """

    title: str
    introduction: Section
    overview: Section | None
    groups: tuple[Group, ...]
    sections: tuple[Section, ...] = ()
    version: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, str] = field(default_factory=dict)
