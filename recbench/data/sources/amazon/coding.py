"""Staged reviews into arrays of numbers, leaving out early what no window can keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from recbench.data.sources.amazon.staging import Staged
from recbench.data.sources.amazon.window import CodedEvents

_META_ROWS_AT_ONCE = 100_000


class ReviewTable:
    """Staged reviews (columns user_id, item_id, time, rating) up to a time.

    Args:
        connection: the engine.
        reviews: the staged table.
        end: time of the last events that count, in the table's unit; None: all count.
        core: events that a user or item needs to be kept by any window. What has fewer in all has fewer in each.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, reviews: Staged, end: int | None = None, core: int = 0
    ) -> None:
        self._connection = connection
        self._core = core
        until = "" if end is None else f"WHERE time <= {end}"
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW reviews AS "
            f"SELECT file_row_number AS row, user_id, item_id, time, rating FROM {reviews.sql} {until}"
        )

    def item_ids(self) -> list[str]:
        """Return the ids of all reviewed items, sorted."""
        rows = self._connection.execute("SELECT DISTINCT item_id FROM reviews ORDER BY item_id").fetchall()
        return [row[0] for row in rows]

    def meta_rows(self, meta: Staged, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield item id and the given columns of the metadata of items that a window may keep, in file order."""
        names = ", ".join(f'"{column}"' for column in columns)
        result = self._connection.execute(
            f"SELECT item_id, {names} FROM {meta.sql} SEMI JOIN (SELECT item_id FROM reviews GROUP BY item_id "
            f"HAVING count(*) >= {self._core}) USING (item_id) ORDER BY file_row_number"
        )
        while rows := result.fetchmany(_META_ROWS_AT_ONCE):
            yield from rows

    def events(self, items: Sequence[str], per_second: int = 1) -> CodedEvents:
        """Return the events on the given items, of users with enough of them, in the order of the file.

        Item numbers are positions in ``items``; user numbers mean something to :meth:`user_ids` only.
        """
        number = pa.array(np.arange(len(items), dtype=np.int32))
        self._connection.register("titled", pa.table({"item_id": pa.array(items, pa.string()), "item_number": number}))
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE known_users AS SELECT user_id, (row_number() OVER () - 1)::INTEGER AS "
            "user_number FROM (SELECT user_id FROM reviews SEMI JOIN titled USING (item_id) GROUP BY user_id "
            f"HAVING count(*) >= {self._core})"
        )
        columns = self._connection.sql(
            "SELECT user_number, item_number, time::BIGINT AS time, rating::FLOAT AS rating "
            "FROM reviews JOIN known_users USING (user_id) JOIN titled USING (item_id) ORDER BY row"
        ).to_arrow_table()
        user, item, time, rating = (column.to_numpy() for column in columns.columns)
        return CodedEvents(user, item, time, rating, per_second)

    def user_ids(self, users: np.ndarray) -> list[str]:
        """Return the ids of the users with the given numbers, in their order."""
        wanted = pa.table({"user_number": pa.array(users, pa.int32()), "place": np.arange(len(users))})
        self._connection.register("wanted_users", wanted)
        rows = self._connection.execute(
            "SELECT user_id FROM wanted_users JOIN known_users USING (user_number) ORDER BY place"
        ).fetchall()
        return [row[0] for row in rows]
