"""``recbench methods``: which methods there are, what one is like, whether it keeps the contract, and a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.output import JsonFlag, print_json

if TYPE_CHECKING:
    from recbench.testing.method_checks import CheckResult

EXIT_CONTRACT_BROKEN = 3

app = typer.Typer(name="methods", help="List, describe, check and begin methods.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A method's name, such as sasrec or recbole:NARM.", show_default=False)]


@app.command("list", epilog="Example:\n\nrecbench methods list --json")
def list_(as_json: JsonFlag = False) -> None:
    """List all methods: those of recbench and those of installed plugins.

    Nothing is imported, so that a broken plugin harms nobody; what is visibly wrong with one is said beside it.
    """
    from recbench.methods.listing import list_methods

    listing = list_methods()
    if as_json:
        print_json(listing)
        return
    rows = [
        [record["name"], record["package"], record["target"], record["problem"] or ""]
        for record in [*listing["methods"], *listing["families"]]
    ]
    _print_table(["Method", "Package", "Class", "Problem"], rows)


@app.command(epilog="Examples:\n\nrecbench methods show sasrec\n\nrecbench methods show recbole:NARM --json")
def show(name: Name, as_json: JsonFlag = False) -> None:
    """Describe a method: what it does and needs, and every setting with its default."""
    from recbench.methods.listing import describe_method

    description = describe_method(name)
    if as_json:
        print_json(description)
        return
    from recbench.cli.output import console

    out = console()
    out.print(f"[bold]{name}[/bold]  ({description['package']}, {description['class']})\n")
    out.print(description["description"] + "\n", markup=False)
    capabilities = description["capabilities"]
    _print_table(["Capability", "Value"], [[key, _text(value)] for key, value in capabilities.items()])
    if not description["config"]:
        out.print("\nNo settings.")
        return
    out.print()
    rows = [[f["key"], f["type"], _default(f), f["description"]] for f in description["config"]]
    _print_table(["Setting (--set KEY=VALUE)", "Type", "Default", "Meaning"], rows)


@app.command(
    epilog="Examples:\n\nrecbench methods check popularity\n\nrecbench methods check sasrec --set epochs=5 --json"
)
def check(
    name: Name,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, as for 'recbench run'; may be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the contract tests on a method, on tiny data on the CPU.

    Ends with exit code 3 if the method breaks the contract. Methods that build on a language model get a random one
    with two layers; nothing is downloaded.
    """
    from recbench.experiment.config import parse_assignments
    from recbench.testing.method_checks import check_method

    values = parse_assignments(assignments or []).get("config", {})
    results = check_method(name, values, on_result=None if as_json else _print_result)
    failed = [result for result in results if result.status == "failed"]
    if as_json:
        from dataclasses import asdict

        print_json({"method": name, "passed": not failed, "checks": [asdict(result) for result in results]})
    else:
        verdict = (
            f"breaks the contract: {len(failed)} of {len(results)} checks failed" if failed else "keeps the contract"
        )
        typer.echo(f"{name} {verdict}.")
    if failed:
        raise typer.Exit(EXIT_CONTRACT_BROKEN)


@app.command(epilog="Example:\n\nrecbench methods new item-graph --out plugins")
def new(
    name: Annotated[str, typer.Argument(help="The new method's name: small letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option(help="Parent of the new folder.", file_okay=False)] = Path("."),
    as_json: JsonFlag = False,
) -> None:
    """Write a package with a small working method, its registration and its test, to start from."""
    from recbench.methods.skeleton import write_skeleton

    folder, *files = write_skeleton(name, out)
    if as_json:
        print_json({"name": name, "path": str(folder), "files": [str(file.relative_to(folder)) for file in files]})
        return
    typer.echo(f"Wrote {folder}: {', '.join(str(file.relative_to(folder)) for file in files)}.")
    typer.echo(f"Next: pip install -e {folder} && recbench methods check {name}")


def _print_result(result: CheckResult) -> None:
    typer.echo(f"{result.status:<8}{result.name:<20}{result.seconds:7.1f} s  {result.promise}")
    if result.message:
        typer.echo("".join(f"        {line}\n" for line in result.message.splitlines()), nl=False)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from recbench.cli.output import console

    table = Table(*header, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def _default(field: dict[str, Any]) -> str:
    return "(required)" if field["required"] else _text(field["default"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
