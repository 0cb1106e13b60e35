"""``recbench datasets``: what there is, what is in it, and how your own data get in."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.output import JsonFlag, console, print_json, progress

if TYPE_CHECKING:
    from recbench.contracts.dataset import Dataset
    from recbench.contracts.split import Split

app = typer.Typer(
    name="datasets",
    help="Data sets: list, prepare, describe, import and export them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class FileFormat(str, Enum):
    """How a user's files are laid out."""

    table = "table"
    recbole = "recbole"
    d3_csv = "d3-csv"


class TableFormat(str, Enum):
    """How plain tables are written."""

    tsv = "tsv"
    parquet = "parquet"


class ModeName(str, Enum):
    """Which rules a data set is made by."""

    reference = "reference"
    strict = "strict"


class SplitName(str, Enum):
    """How rows are divided."""

    global_time = "global-time"
    leave_one_out = "leave-one-out"
    provided = "provided"


NameArgument = Annotated[str, typer.Argument(help="Name of a data set, or the path of a prepared folder.")]
Again = Annotated[bool, typer.Option("--again", help="Replace the data set of that name.")]


@app.command("list", epilog="Example:\n\nrecbench datasets list --json")
def list_datasets(as_json: JsonFlag = False) -> None:
    """Show all data sets: those that are prepared here, and those that can be, with what they need."""
    from recbench.data.recipes import RECIPES
    from recbench.data.store import stored_records

    records, problems = stored_records()
    rows: list[dict[str, Any]] = [
        {
            "name": record.name,
            "status": "prepared",
            **record.model_dump(include={"users", "items", "interactions", "has_time", "fingerprint"}),
            "notes": list(record.notes),
        }
        for record in records
    ]
    present = {record.name for record in records}
    for recipe in RECIPES.values():
        if recipe.name not in present:
            first = [need.options[0] for need in recipe.needs]
            row: dict[str, Any] = {
                "name": recipe.name,
                "status": "downloaded on request" if first else "prepared on first use",
            }
            row |= {"title": recipe.title, "modes": list(recipe.modes), "rules": recipe.rules, "terms": recipe.terms}
            rows.append(
                {**row, "page": recipe.page, "needs": [{"file": file.name, "urls": file.urls} for file in first]}
            )
    if as_json:
        print_json({"datasets": rows, "problems": problems})
        return
    _print_datasets(rows, problems)


def _print_datasets(rows: list[dict[str, Any]], problems: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    here = Table("name", "users", "items", "interactions", "time", "notes", title="prepared here")
    others = Table("name", "what", "needs", title="can be prepared: recbench datasets prepare NAME")
    for row in rows:
        if row["status"] == "prepared":
            sizes = [f"{row[key]:,}" for key in ("users", "items", "interactions")]
            time = "yes" if row["has_time"] else "order only"
            here.add_row(row["name"], *sizes, time, Text("; ".join(row["notes"])))
        else:
            needs = ", ".join(need["file"] for need in row["needs"]) or "no download; done on first use"
            others.add_row(row["name"], row["title"], needs)
    for table in (here, others):
        if table.row_count:
            console().print(table)
    for problem in problems:
        console().print(f"damaged: {problem}", style="yellow", markup=False)


@app.command(
    epilog="Examples:\n\nrecbench datasets prepare toys\n\nrecbench datasets prepare toys --mode strict\n\n"
    "recbench datasets prepare ml-1m --from-dir ~/Downloads\n\n"
    "recbench datasets prepare games-2023 --mirror https://mirror.example.org/data"
)
def prepare(
    name: Annotated[str, typer.Argument(help="A data set of 'recbench datasets list': toys, ml-1m, steam.")],
    mode: Annotated[
        ModeName | None,
        typer.Option(help="Published rules to the letter, or mended ones; 'strict' is kept as NAME-strict."),
    ] = None,
    from_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with raw files, plain or gzip: ~/Downloads. What it lacks is downloaded."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(envvar="RECBENCH_MIRROR", help="Server to download from: https://mirror.example.org/data."),
    ] = None,
    again: Again = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a public data set from its raw files: download, check, preprocess. A killed one goes on where it stopped.

    Downloads are kept under RECBENCH_HOME, with size and SHA-256; later ones must be the same. With HF_HUB_OFFLINE=1
    nothing is downloaded, and the addresses to fetch by hand are printed. ml-100k needs no download: it comes from
    the files of the RecBole package.
    """
    from recbench.data.download import Source
    from recbench.data.prepare import prepare as make
    from recbench.data.store import load_dataset

    source = Source.from_environment(mirror, progress())
    folder = make(name, from_dir, again, mode.value if mode else None, source)
    _show_stored(load_dataset(folder.name), folder, as_json)


@app.command(
    epilog="Examples:\n\nrecbench datasets describe ml-100k\n\nrecbench datasets describe ml-100k "
    "--split leave-one-out --markdown\n\nrecbench datasets describe ml-100k --plot ml-100k.png"
)
def describe(
    name: NameArgument,
    split: Annotated[
        SplitName | None, typer.Option(help="Split to describe; by default the one that runs use.")
    ] = None,
    max_history: Annotated[int, typer.Option(min=1, help="Items kept of each history.")] = 10,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw popularity, history lengths and time: sizes.png.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the statistics of a data set and its split: sizes, times, titles, ties, popularity, history lengths, what
    training has not seen, and what it was made from.
    """
    from recbench.data.describe import describe as describe_dataset
    from recbench.data.describe import description_rows, to_markdown
    from recbench.data.store import load_dataset, load_record

    dataset = load_dataset(name)
    chosen = _split(dataset, split, max_history)
    description = describe_dataset(dataset, chosen, load_record(name).origin)
    if plot is not None:
        from recbench.data.plot import plot_dataset

        plot_dataset(dataset, chosen, plot)
    if as_json:
        print_json(description)
    elif markdown:
        typer.echo(to_markdown(description), nl=False)
    else:
        _print_rows(description["name"], description_rows(description))


@app.command(
    "import",
    epilog="Examples:\n\nrecbench datasets import my_folder --name mine\n\nrecbench datasets import ratings.csv.gz "
    "movies.csv --name mine --time-col when --noun movies\n\nrecbench datasets import R3/data --name cds",
)
def import_data(
    paths: Annotated[list[Path], typer.Argument(help="A folder, or the files themselves (interactions, items).")],
    name: Annotated[str, typer.Option(help="Name to give it: letters, digits, '_', '.', '-'.")],
    file_format: Annotated[FileFormat | None, typer.Option("--format", help="Guessed and said if not given.")] = None,
    user_col: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item_col: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    time_col: Annotated[str | None, typer.Option(help="Column of times, seconds since 1970 UTC.")] = None,
    position_col: Annotated[str | None, typer.Option(help="Column with the order of a user's events.")] = None,
    rating_col: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    title_col: Annotated[str | None, typer.Option(help="Column of titles in the item table.")] = None,
    categories_col: Annotated[str | None, typer.Option(help="Column of categories in the item table.")] = None,
    items_col: Annotated[str | None, typer.Option(help="Column of whole sequences, item ids with blanks.")] = None,
    noun: Annotated[str | None, typer.Option(help="What prompts call the items, plural: movies.")] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of text files.")] = "utf-8",
    unescape_html: Annotated[
        bool, typer.Option("--unescape-html", help="Turn HTML entities in titles into characters.")
    ] = False,
    again: Again = False,
    as_json: JsonFlag = False,
) -> None:
    """Import your own data: a table of interactions and one of items (CSV, TSV, JSON lines, Parquet; also gzip),
    RecBole's atomic files, or the csv files of the D3/R3 preprocessing.

    Columns are guessed from the names in common use, and every guess is said. The first line of a text table is a
    header with column names.
    """
    from recbench.data.importing import import_dataset
    from recbench.data.sources.options import ImportOptions
    from recbench.data.store import load_dataset, save_dataset

    given = {
        "user": user_col,
        "item": item_col,
        "time": time_col,
        "position": position_col,
        "rating": rating_col,
        "title": title_col,
        "categories": categories_col,
        "items": items_col,
    }
    columns: Any = {role: column for role, column in given.items() if column is not None}
    options = ImportOptions(name, noun, columns, encoding, unescape_html)
    dataset = import_dataset(paths, options, file_format.value if file_format else None)
    folder = save_dataset(dataset, replace_old=again)
    _show_stored(load_dataset(name), folder, as_json)


@app.command(epilog="Example:\n\nrecbench datasets export ml-100k --format recbole --out ml-100k-recbole")
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="Layout of the files.")] = FileFormat.table,
    table_format: Annotated[TableFormat, typer.Option(help="How --format table is written.")] = TableFormat.tsv,
    split: Annotated[SplitName | None, typer.Option(help="Split to write with --format d3-csv.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a data set for other tools. What is written can be imported again."""
    from recbench.data.export import export_dataset
    from recbench.data.store import load_dataset

    dataset = load_dataset(name)
    rows = _split(dataset, split, max_history=10) if file_format is FileFormat.d3_csv else None
    files = export_dataset(dataset, out, file_format.value, rows, table_format.value)
    if as_json:
        print_json({"name": dataset.name, "path": str(out), "files": files})
        return
    console().print(f"Wrote {dataset.name} to {out}: {', '.join(files)}", markup=False)


def _split(dataset: Dataset, strategy: SplitName | None, max_history: int) -> Split:
    from recbench.contracts.protocol import Protocol
    from recbench.data.split import default_strategy, make_split

    chosen = strategy.value if strategy else default_strategy(dataset)
    return make_split(dataset, Protocol(split=chosen, max_history=max_history))


def _show_stored(dataset: Dataset, folder: Path, as_json: bool) -> None:
    from recbench.data.describe import describe as describe_dataset
    from recbench.data.describe import description_rows
    from recbench.data.store import load_record

    description = describe_dataset(dataset, origin=load_record(str(folder)).origin)
    if as_json:
        print_json({**description, "path": str(folder)})
        return
    _print_rows(dataset.name, [*description_rows(description), ("folder", str(folder))])
    console().print(f"Next: recbench run --method popularity --dataset {dataset.name}", markup=False)


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "value", title=title)
    for what, value in rows:
        table.add_row(what, Text(value))
    console().print(table)
