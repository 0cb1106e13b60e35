"""`recbench runs models` and `prune-models`: the fitted models that `recbench run --keep-model` kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json
from recbench.contracts.errors import UsageError, did_you_mean


def models(runs_dir: RunsDirOption = RUNS, as_json: JsonFlag = False) -> None:
    """List the kept models, with their sizes.

    Examples:

        recbench runs models

        recbench runs models --json
    """
    rows = _rows(runs_dir)
    if as_json:
        print_json({"models": rows})
        return
    if not rows:
        console().print(f"No kept models in {runs_dir}. 'recbench run ... --keep-model' keeps one.")
        return
    from rich.table import Table

    table = Table("fit", "data set", "method", "backbone", "seed", "fitted by", "training", "MB", "kept")
    for row in rows:
        table.add_row(
            row["fit_id"], row["dataset"], row["method"], row["backbone"] or "", str(row["seed"]), row["fitted_by"],
            f"{row['fit_s']:.1f} s", f"{row['size_bytes'] / 1e6:.1f}", row["created"][:16].replace("T", " "),
        )  # fmt: skip
    console().print(table)


def prune_models(
    fits: Annotated[
        list[str] | None, typer.Argument(metavar="[FIT]...", help="Fit ids as 'recbench runs models' shows them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all kept models, damaged ones too.")] = False,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Delete kept models. No run is touched: runs hold their lists, not their models.

    Examples:

        recbench runs prune-models 3f2a91c07b1d

        recbench runs prune-models --all
    """
    from recbench.artifacts.models import ModelStore
    from recbench.artifacts.paths import models_folder

    if bool(fits) == everything:
        raise UsageError("Say which models to delete.", "Give fit ids (see 'recbench runs models') or --all, not both.")
    store = ModelStore(models_folder(runs_dir))
    known = store.fit_ids()
    for fit_id in fits or ():
        if fit_id not in known:
            raise UsageError(
                f"No kept model '{fit_id}' in {runs_dir}.{did_you_mean(fit_id, known)}", "See 'recbench runs models'."
            )
    removed: list[dict[str, Any]] = [{"fit_id": fit_id, "size_bytes": store.remove(fit_id)} for fit_id in fits or known]
    if as_json:
        print_json({"removed": removed})
        return
    freed = sum(one["size_bytes"] for one in removed)
    console().print(f"{len(removed)} kept models deleted, {freed / 1e6:.1f} MB.")


def _rows(runs_dir: Path) -> list[dict[str, Any]]:
    from recbench.artifacts.models import ModelStore
    from recbench.artifacts.paths import models_folder

    return [
        {
            "fit_id": kept.record.fit_id,
            "path": str(kept.paths.folder),
            "dataset": kept.record.dataset,
            "method": kept.record.method,
            "backbone": kept.record.backbone.name if kept.record.backbone else None,
            "seed": kept.record.seed,
            "fitted_by": kept.record.fitted_by,
            "fit_s": kept.record.timings_s["fit"],
            "size_bytes": kept.size_bytes,
            "created": kept.record.created,
        }
        for kept in ModelStore(models_folder(runs_dir)).all()
    ]
