"""Making the data sets that recbench has a recipe for: raw files, rules, the prepared folder."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from recbench.artifacts.paths import datasets_folder, locks_folder, scratch_folder
from recbench.contracts.errors import DataError, UsageError, did_you_mean
from recbench.data.download import FileRecord, Source, by_hand, describe_file, fetch, is_here
from recbench.data.folders import read_record, save_dataset, stored_names
from recbench.data.origin import Origin
from recbench.data.recipes import RECIPES, Materials, Mode, Need, Recipe, find_recipe
from recbench.data.waiting import one_at_a_time

logger = logging.getLogger(__name__)


def prepare(
    name: str,
    from_dir: Path | None = None,
    again: bool = False,
    mode: Mode | None = None,
    source: Source | None = None,
) -> Path:
    """Make a data set that recbench knows, and return its folder; one that is there stays unless ``again`` is set.

    What an earlier attempt downloaded or read is used again. Another process that prepares the same data set is waited
    for, and its result is used.

    Args:
        name: name of a recipe, or of a stored data set made by one (``toys-strict``).
        from_dir: folder with the raw files, plain or gzip; what it lacks is downloaded.
        again: replace what is there.
        mode: rules to use; by default those that the name says.
        source: how files may be fetched; by default as the environment says.

    Raises:
        DataError: there is no such recipe, or a raw file is missing, damaged or wrong.
        UsageError: the recipe has no such mode.
        ArtifactError: something cannot be written.
    """
    found = find_recipe(name)
    if found is None:
        raise missing(name)
    recipe, named_mode = found
    mode = mode or named_mode
    if mode not in recipe.modes:
        raise UsageError(f"'{recipe.name}' has no {mode} rules.", f"Rules it has (--mode): {', '.join(recipe.modes)}.")
    stored_name = recipe.stored_name(mode)
    folder = datasets_folder() / stored_name
    if from_dir is not None and not from_dir.is_dir():
        raise DataError(f"{from_dir} is not a folder.", "Give the folder with the raw files: --from-dir DIR.")
    with one_at_a_time(locks_folder() / f"prepare-{stored_name}.lock", f"prepares '{stored_name}'"):
        if folder.is_dir() and not again:
            return _already_there(folder, recipe)
        return _make(recipe, mode, from_dir, again, source or Source.from_environment())


def missing(name: str) -> DataError:
    """Return the error to raise for a data set that is not prepared: it says how to get it."""
    found = find_recipe(name)
    if found is not None:
        recipe = found[0]
        files = [need.options[0] for need in recipe.needs]
        hint = (
            f"Prepare it (it downloads {', '.join(file.name for file in files)}):\n  recbench datasets prepare {name}\n"
        )
        hint += f"{by_hand(files, Source.from_environment())}\nand: recbench datasets prepare {name} --from-dir DIR"
        if recipe.published_csv:
            hint += (
                "\nOr from the train, valid, test and info files of the D3 or R3 preprocessing:\n"
                f"  recbench datasets import DIR --name {name} --format d3-csv"
            )
        return DataError(f"The data set '{name}' ({recipe.title}) is not prepared here.", hint)
    ready = sorted({*stored_names(), *(recipe.name for recipe in RECIPES.values() if not recipe.needs)})
    return DataError(
        f"Unknown data set '{name}'.{did_you_mean(name, [*ready, *RECIPES])} Here are: {', '.join(ready)}.",
        f"All that can be prepared: recbench datasets list\nYour own data: recbench datasets import PATH --name {name}",
    )


def _already_there(folder: Path, recipe: Recipe) -> Path:
    if read_record(folder).origin is None and recipe.needs:
        raise DataError(
            f"The data set '{folder.name}' that is here was imported, not prepared; it was left as it is.",
            "Give --again to replace it.",
        )
    logger.info("The data set '%s' is prepared already (--again makes it anew).", folder.name)
    return folder


def _make(recipe: Recipe, mode: Mode, from_dir: Path | None, again: bool, source: Source) -> Path:
    stored_name = recipe.stored_name(mode)
    logger.info("Preparing the data set '%s' (%s).", stored_name, recipe.title)
    scratch = scratch_folder() / stored_name
    if source.offline:
        _require_all(recipe, from_dir, source)
    files = {need.role: _get(need, from_dir, source) for need in recipe.needs}
    paths = {role: path for role, (path, _) in files.items()}
    records = [record for _, found in files.values() for record in found]
    dataset = recipe.build(Materials(paths, from_dir, scratch, mode))
    origin = Origin(
        recipe=recipe.name,
        mode=mode,
        rules=recipe.rules,
        page=recipe.page,
        terms=recipe.terms,
        # When it was fetched is no property of the data set: equal content gives equal bytes.
        files=tuple(record.model_copy(update={"first_seen": None}) for record in records),
    )
    folder = save_dataset(replace(dataset, name=stored_name), replace_old=again, origin=origin)
    shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _require_all(recipe: Recipe, from_dir: Path | None, source: Source) -> None:
    """Check that all raw files are here, where none can be fetched.

    Raises:
        DataError: names every file that is not, with its address.
    """
    lacking = [
        need.options[0]
        for need in recipe.needs
        if (from_dir is None or _own_file(need, from_dir) is None) and not any(map(is_here, need.options))
    ]
    if lacking:
        where = "here" if from_dir is None else f"in {from_dir} or the cache"
        raise DataError(
            f"No network may be touched (HF_HUB_OFFLINE is set), and raw files of '{recipe.name}' are not {where}: "
            f"{', '.join(file.name for file in lacking)}.",
            f"{by_hand(lacking, source)}\nThen: recbench datasets prepare {recipe.name} --from-dir DIR",
        )


def _get(need: Need, from_dir: Path | None, source: Source) -> tuple[Path, list[FileRecord]]:
    """Return the local file (or folder) of a need, and the records of what it holds."""
    if from_dir is not None:
        own = _own_file(need, from_dir)
        if own is not None:
            inside = [own / name for name in need.unpacked] if own.is_dir() else [own]
            return own, [describe_file(path) for path in inside]
        logger.info("%s has none of: %s.", from_dir, ", ".join([*_names(need), *need.unpacked]))
    problems: list[DataError] = []
    # What is here already goes before what is preferred but would have to be fetched.
    for option in sorted(need.options, key=is_here, reverse=True):
        try:
            path, record = fetch(option, source)
            return path, [record]
        except DataError as error:
            problems.append(error)
    raise DataError("\n".join(error.message for error in problems), problems[0].hint) from problems[-1]


def _own_file(need: Need, from_dir: Path) -> Path | None:
    """Look for a need's file in a user's folder: flat or as on a mirror, packed or not."""
    for option in need.options:
        for path in (option.name, option.path):
            for name in (path, path.removesuffix(".gz")):
                if (from_dir / name).is_file():
                    return from_dir / name
    if need.unpacked:
        for folder in (from_dir / need.options[0].name.removesuffix(".zip"), from_dir):
            if all((folder / name).is_file() for name in need.unpacked):
                return folder
    return None


def _names(need: Need) -> list[str]:
    return [*dict.fromkeys(option.name for option in need.options)]
