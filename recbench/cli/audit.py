"""`recbench audit`: what in a data set, or in lists from elsewhere, can make a comparison misleading."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.datasets import SplitName
from recbench.cli.output import JsonFlag, console, print_json
from recbench.contracts.errors import DataError, UsageError

if TYPE_CHECKING:
    from recbench.artifacts.store import StoredRun
    from recbench.contracts.audit import AuditReport, Finding

_STYLES = {"danger": "bold red", "note": "yellow", "fine": "green"}
# Narrower terminals get a table without the columns that the sentences below it repeat.
_WIDE = 125
_RUN_ID = re.compile(r"[0-9a-f]{4,12}")


class ListFile(str, Enum):
    """Formats of lists from elsewhere."""

    trec = "trec"
    csv = "csv"


def audit(
    subject: Annotated[
        str, typer.Argument(metavar="DATASET|RUN", help="Name of a data set; or a run id (or its beginning) or folder.")
    ],
    run_file: Annotated[
        Path | None,
        typer.Option(help="Audit these lists for the data set's test rows, without importing them (also gzip)."),
    ] = None,
    file_format: Annotated[
        ListFile | None,
        typer.Option(
            "--format",
            help="Of --run-file. trec: 'example_id Q0 item_id rank score tag'; csv: with a header that names "
            "example_id, item_id, rank and, if there are ties, score.  [default: as the file's name tells]",
        ),
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="Split to audit; by default the one that runs use.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="protocol.a=b", help="A field of the protocol. May be given many times."),
    ] = None,
    limit_train: Annotated[int | None, typer.Option(help="As for 'recbench run'.", metavar="N")] = None,
    limit_test: Annotated[int | None, typer.Option(help="As for 'recbench run'.", metavar="N")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 3 if there is any danger.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write it as Markdown: audit.md.", metavar="FILE.md")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make it anew even if it was kept.")] = False,
    runs_dir: Annotated[Path, typer.Option(help="Folder of all runs, for a run id.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Check a data set, or ranked lists from elsewhere, for what can make a comparison misleading.

    Of a data set: titles, repeats, times, cold users and items, leaks, popularity. Every finding has a count, a rating
    (fine, note, danger), and a bound on what it can do to HR@10 and NDCG@10.

    With --run-file, check ranked lists of another program; with a run id, those of a stored run: unknown examples and
    items, missing, short and repeated places, scores against ranks, ties, the two truths.

    Exit code 3: lists that could not be imported; with --strict, any danger.

    Examples:

        recbench audit ml-100k

        recbench audit beauty --split leave-one-out --out audit.md

        recbench audit ml-100k --set protocol.boundary=time --json

        recbench audit ml-100k --run-file other.run.gz --strict

        recbench audit 3f2a91c07b1d
    """
    from recbench.experiment.audit import audit_data, audit_file, audit_run
    from recbench.experiment.config import protocol_assignments

    run = _find_run(subject, runs_dir)
    values = protocol_assignments(assignments or [])
    flags = {"split": split.value if split else None, "limit_train": limit_train, "limit_test": limit_test}
    values |= {name: value for name, value in flags.items() if value is not None}
    if file_format and not run_file:
        raise UsageError("--format says how --run-file is written, and no --run-file is given.", "Give both or none.")
    if run:
        if values or run_file:
            raise UsageError(
                f"'{subject}' is a run, which brings its own data set, protocol and lists.",
                "Leave out --split, --set, --limit-train, --limit-test and --run-file, or give the name of a data set.",
            )
        report = audit_run(run)
    elif run_file:
        report = audit_file(run_file, subject, values, file_format.value if file_format else None)
    else:
        report = audit_data(subject, values, again)
    if out is not None:
        _write(report, out)
    if as_json:
        print_json(_document(report))
    else:
        _show(report)
    if report.blocks_import or (strict and report.rated("danger")):
        raise typer.Exit(DataError.exit_code)


def _find_run(subject: str, runs_dir: Path) -> StoredRun | None:
    """Return the run that is meant, or None where it is a data set."""
    from recbench.artifacts.paths import datasets_folder
    from recbench.artifacts.store import RunStore

    is_folder = (Path(subject) / "manifest.json").is_file()
    is_id = _RUN_ID.fullmatch(subject) and not (datasets_folder() / subject).is_dir()
    return RunStore(runs_dir).get(subject) if is_folder or is_id else None


def _document(report: AuditReport) -> dict[str, Any]:
    from recbench.report.sections.audit import audit_headline

    return {
        "headline": audit_headline(report, report.command),
        "dangers": len(report.rated("danger")),
        "notes": len(report.rated("note")),
        **({"importable": not report.blocks_import} if report.kind == "lists" else {}),
        **report.model_dump(mode="json"),
    }


def _write(report: AuditReport, out: Path) -> None:
    from recbench.artifacts.files import write_text
    from recbench.report.markdown import page
    from recbench.report.sections.audit import audit_section

    section = audit_section(report, report.command, full=True)
    write_text(out, page(replace(section, title=f"Audit of {_name(report)}")))


def _name(report: AuditReport) -> str:
    return f"{report.source} on {report.dataset}" if report.source else report.dataset


def _show(report: AuditReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from recbench.report.format import metric_text, share_text
    from recbench.report.sections.audit import audit_headline, effect_word

    out = console()
    is_wide = out.width >= _WIDE
    table = Table(title=Text(f"Audit of {_name(report)} ({report.strategy})"))
    for name in ("rating", "check", *(("looked for",) if is_wide else ())):
        table.add_column(name)
    for name in ("found", *(("of",) if is_wide else ()), "share", "HR@10", "NDCG@10"):
        table.add_column(name, justify="right")
    for one in report.findings:
        word = {"at most": "≤ ", "exactly": "= ", "no bound": ""}[effect_word(one)]
        effects = (
            [word + metric_text(value) for value in (one.effect.hr, one.effect.ndcg)] if one.effect else ["–", "–"]
        )
        unit = "" if one.unit == "test rows" else f" {one.unit}"
        table.add_row(
            Text(one.rating, _STYLES[one.rating]), one.code, *((one.title,) if is_wide else ()), f"{one.count:,}",
            *((f"{one.out_of:,}{unit}",) if is_wide else ()), share_text(one.share), *effects,
        )  # fmt: skip
    out.print(table)
    out.print(
        "Counts are test rows unless said otherwise. HR@10, NDCG@10: what the finding can do to the mean over all test "
        "rows (≤ at most, = exactly, – no bound)."
    )
    for one in report.findings:
        if one.rating != "fine":
            _tell(one)
    for skipped in report.not_checked:
        out.print(f"not checked: {skipped.code}. {skipped.reason}", markup=False)
    out.print(audit_headline(report, report.command).replace("`", ""), markup=False, soft_wrap=True)


def _tell(finding: Finding) -> None:
    """Print one finding in sentences."""
    from rich.padding import Padding
    from rich.text import Text

    from recbench.report.sections.audit import effect_word, example_text

    effect = finding.effect
    bound = f"{effect_word(finding)} {effect.hr:.4f} on HR@10: {effect.says}." if effect else finding.no_effect
    lines = [("", finding.found), ("To do: ", finding.advice), ("Effect: ", bound)]
    if finding.examples:
        lines.append(("For instance: ", f"{example_text(finding)}."))
    console().print(Text.assemble((finding.rating, _STYLES[finding.rating]), " ", (finding.code, "bold")))
    for head, text in lines:
        console().print(Padding(Text(head + text), (0, 0, 0, 2)))
