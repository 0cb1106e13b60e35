"""What a method gave, on disk: ``rankings.parquet``, ``generations.jsonl`` and ``likelihood.parquet``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recbench.artifacts.files import atomic_path
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ArtifactError
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.rankings import Rankings

RANKINGS_SCHEMA = pa.schema(
    [("example_id", pa.int64()), ("rank", pa.int16()), ("item_id", pa.string()), ("score", pa.float64())]
)
LIKELIHOOD_SCHEMA = pa.schema([("example_id", pa.int64()), ("logprob", pa.float64()), ("tokens", pa.int64())])
# Table metadata: an empty list has no row, so its place among the queries and its example id are kept here.
_METADATA_KEY = b"recbench.rankings"
_METADATA_VERSION = 1
_MAX_RANK = np.iinfo(np.int16).max


def write_rankings(path: Path, rankings: Rankings, catalog: ItemCatalog) -> None:
    """Write one row per place, in the order of the queries, atomically.

    Raises:
        ArtifactError: a list is too long for int16 ranks, or the file cannot be written.
    """
    lengths = rankings.lengths
    if len(lengths) and lengths.max() > _MAX_RANK:
        raise ArtifactError(
            f"The ranking of example {rankings.example_id[lengths.argmax()]} has {lengths.max():,} places, more than "
            f"the {_MAX_RANK:,} that a file can hold. A list goes on to the end of a tie, so this one is one huge tie.",
            "Let the method give different scores to different items.",
        )
    empty = np.flatnonzero(lengths == 0)
    facts = {
        "version": _METADATA_VERSION,
        "n_queries": len(rankings),
        "empty": [[int(place), int(rankings.example_id[place])] for place in empty],
    }
    start = np.repeat(rankings.offsets[:-1], lengths)
    table = pa.table(
        {
            "example_id": np.repeat(rankings.example_id, lengths),
            "rank": (np.arange(len(rankings.items)) - start + 1).astype(np.int16),
            "item_id": pa.array(np.asarray(catalog.ids, dtype=object)[rankings.items], pa.string()),
            "score": rankings.scores,
        },
        schema=RANKINGS_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(facts)}),
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_rankings(path: Path, catalog: ItemCatalog) -> Rankings:
    """Read what :func:`write_rankings` wrote, empty lists and the order of the queries included.

    Raises:
        ArtifactError: the file is missing or damaged, has other columns, or names items that are not in the catalogue.
    """
    table = read_rankings_table(path)
    facts = _read_facts(path, table.schema.metadata)
    example_id = table["example_id"].to_numpy()
    rank = table["rank"].to_numpy()
    starts = np.flatnonzero(rank == 1)
    # A row that does not start a list must carry on the one before it.
    carries_on = (rank[1:] == rank[:-1].astype(np.int64) + 1) & (example_id[1:] == example_id[:-1])
    if (len(rank) and rank[0] != 1) or not np.all((rank[1:] == 1) | carries_on):
        raise ArtifactError(f"{path} is damaged: the ranks of a list do not run 1, 2, 3, ... .", _RUN_AGAIN)
    lists = _with_empty_lists(path, example_id[starts], np.diff(np.append(starts, len(rank))), facts)
    return Rankings(
        example_id=lists[0],
        offsets=np.concatenate([[0], np.cumsum(lists[1])]).astype(np.int64),
        items=item_numbers(table["item_id"].to_pandas(), catalog, str(path)),
        scores=table["score"].to_numpy(),
    )


_RUN_AGAIN = "Restore the file, or run the method again with --again."


def read_rankings_table(path: Path) -> pa.Table:
    """Read the rows of a rankings file as they are: no catalogue is needed, and empty lists are not among them.

    Raises:
        ArtifactError: the file is missing or damaged, or has other columns.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist.", "Only complete runs have rankings: see 'recbench runs list'.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as Parquet: {error}.", _RUN_AGAIN) from error
    if not table.schema.equals(RANKINGS_SCHEMA, check_metadata=False):
        found = ", ".join(f"{field.name}:{field.type}" for field in table.schema)
        wanted = ", ".join(f"{field.name}:{field.type}" for field in RANKINGS_SCHEMA)
        raise ArtifactError(f"{path} has the columns {found}; expected {wanted}.", _RUN_AGAIN)
    holes = [name for name in table.column_names if table[name].null_count]
    if holes:
        raise ArtifactError(f"{path} has empty cells in {', '.join(holes)}.", _RUN_AGAIN)
    return table


def _read_facts(path: Path, metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    raw = (metadata or {}).get(_METADATA_KEY)
    facts = json.loads(raw) if raw else {}
    if facts.get("version") != _METADATA_VERSION:
        raise ArtifactError(
            f"{path} lacks the table metadata that recbench writes (version {_METADATA_VERSION}).",
            "Lists from elsewhere come in with 'recbench runs import'.",
        )
    return dict(facts)


def _with_empty_lists(
    path: Path, example_id: np.ndarray, lengths: np.ndarray, facts: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    n_queries = facts["n_queries"]
    empty = np.asarray(facts["empty"], dtype=np.int64).reshape(-1, 2)
    if len(example_id) + len(empty) != n_queries:
        raise ArtifactError(
            f"{path} is damaged: it holds {len(example_id)} lists and {len(empty)} empty ones, not {n_queries}.",
            _RUN_AGAIN,
        )
    filled = np.ones(n_queries, dtype=bool)
    filled[empty[:, 0]] = False
    all_ids = np.empty(n_queries, dtype=np.int64)
    all_ids[filled], all_ids[empty[:, 0]] = example_id, empty[:, 1]
    all_lengths = np.zeros(n_queries, dtype=np.int64)
    all_lengths[filled] = lengths
    return all_ids, all_lengths


def item_numbers(item_ids: pd.Series, catalog: ItemCatalog, where: str) -> np.ndarray:
    """Return int32 item numbers of external ids.

    Args:
        item_ids: external ids.
        catalog: the items.
        where: the file they come from, for the message.

    Raises:
        ArtifactError: some are not in the catalogue.
    """
    numbers = pd.Index(catalog.ids).get_indexer(pd.Index(item_ids))
    unknown = numbers < 0
    if unknown.any():
        names = item_ids[unknown].drop_duplicates()
        raise ArtifactError(
            f"{where} names {len(names):,} items that are not in the catalogue of {len(catalog):,}, in "
            f"{int(unknown.sum()):,} places: {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}.",
            "The lists belong to another data set, or to another preparation of it.",
        )
    return numbers.astype(np.int32)


def write_generations(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON line per query, atomically.

    Raises:
        ArtifactError: a record holds something that JSON cannot, or the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for place, record in enumerate(records):
            try:
                line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ArtifactError(
                    f"Generation {place} cannot be written as JSON: {error}.",
                    "A method must return plain and finite values.",
                ) from error
            stream.write(line + "\n")


def read_generations(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`write_generations` wrote.

    Raises:
        ArtifactError: the file is missing, or a line is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.", _RUN_AGAIN) from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{path}, line {number} is not JSON: {error}.", _RUN_AGAIN) from error
    return records


def write_likelihood(path: Path, likelihood: Likelihood, example_id: np.ndarray) -> None:
    """Write one row per example, atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    columns = {"example_id": example_id, "logprob": likelihood.logprob, "tokens": likelihood.tokens}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=LIKELIHOOD_SCHEMA), temporary, compression="zstd")


def read_likelihood(path: Path, example_id: np.ndarray) -> Likelihood:
    """Read what :func:`write_likelihood` wrote for these examples.

    Raises:
        ArtifactError: the file is missing or damaged, or holds other examples.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as Parquet: {error}.", _RUN_AGAIN) from error
    if not table.schema.equals(LIKELIHOOD_SCHEMA, check_metadata=False):
        raise ArtifactError(f"{path} has the columns {', '.join(table.column_names)}.", _RUN_AGAIN)
    if not np.array_equal(table["example_id"].to_numpy(), example_id):
        raise ArtifactError(f"{path} does not hold the examples of this split, in this order.", _RUN_AGAIN)
    likelihood = Likelihood(table["logprob"].to_numpy(), table["tokens"].to_numpy())
    likelihood.check(len(example_id))
    return likelihood
