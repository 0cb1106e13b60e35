"""Which column of a table means what: given by the user, or guessed from the names in common use, and always said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from recbench.contracts.errors import DataError, did_you_mean
from recbench.data.tables import TableFile

Role = Literal["user", "item", "time", "position", "rating", "title", "categories", "items"]

# Names in common use, the most telling first; case and the signs between words do not matter.
_NAMES: dict[Role, tuple[str, ...]] = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid", "sessionid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "parentasin", "asin", "artistid", "bookid", "gameid"),
    "time": ("timestamp", "time", "unixreviewtime", "unixtime", "unixtimestamp", "reviewtime", "ts", "date"),
    "position": ("position", "pos"),
    "rating": ("rating", "overall", "stars", "score"),
    "title": ("title", "itemtitle", "movietitle", "producttitle", "itemname", "productname", "name"),
    "categories": ("categories", "category", "genres", "genre", "class", "tags"),
    "items": ("itemids", "itemidsintimeorder", "items", "sequence", "itemsequence", "itemidlist"),
}


@dataclass
class Columns:
    """The columns chosen so far, with the words to say which were guessed.

    Attributes:
        given: role -> column name, as the user gave them.
        guessed: file name -> role -> column, for the guesses made so far.
    """

    given: Mapping[Role, str] = field(default_factory=dict)
    guessed: dict[str, dict[Role, str]] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Return one sentence per file that says which columns were guessed."""
        return [
            f"columns of {name} guessed: " + ", ".join(f"{role} '{column}'" for role, column in roles.items())
            for name, roles in self.guessed.items()
        ]

    def find(self, file: TableFile, role: Role) -> str | None:
        """Return the column of a role, or None where the table has none by any known name.

        Raises:
            DataError: the user named a column that is not there.
        """
        if role in self.given:
            return self._given(file, role)
        column = guess_column(file, role)
        if column is not None:
            self.guessed.setdefault(file.path.name, {})[role] = column
        return column

    def require(self, file: TableFile, role: Role) -> str:
        """Return the column of a role.

        Raises:
            DataError: it is not there; names the columns that are.
        """
        column = self.find(file, role)
        if column is None:
            raise DataError(
                f"{file.path} has no column that looks like the {role}. {_found(file)}",
                f"Name it with --{role}-col; the first line of the file must be a header with column names.",
            )
        return column

    def _given(self, file: TableFile, role: Role) -> str:
        name = self.given[role]
        if name not in file.columns:
            raise DataError(
                f"{file.path} has no column '{name}' for the {role}.{did_you_mean(name, file.columns)} {_found(file)}",
                f"Correct --{role}-col.",
            )
        return name


def guess_column(file: TableFile, role: Role) -> str | None:
    """Return the column whose name is the most telling one in use for a role, or None."""
    plain = {"".join(c for c in column.lower() if c.isalnum()): column for column in reversed(file.columns)}
    return next((plain[name] for name in _NAMES[role] if name in plain), None)


def _found(file: TableFile) -> str:
    return f"Found: {', '.join(file.columns)}."
