"""What a prepared data set was made from: kept in its folder, outside its content and fingerprint."""

from __future__ import annotations

from recbench.contracts.config import StrictModel
from recbench.data.download import FileRecord


class Origin(StrictModel):
    """How recbench made a data set.

    Attributes:
        recipe: name of the recipe.
        mode: its rules, ``reference`` or ``strict``.
        rules: what was done, in words.
        page: address of the page that describes the source.
        terms: its terms of use, in words.
        files: the raw files, with size and SHA-256.
    """

    recipe: str
    mode: str
    rules: str
    page: str
    terms: str
    files: tuple[FileRecord, ...]
