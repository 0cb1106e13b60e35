"""What a user may say about a source when it is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recbench.data.build import Remarks
from recbench.data.columns import Role
from recbench.data.text import guess_noun

#: File that an export writes beside its tables, with what they cannot hold: noun and notes.
ABOUT = "about.json"


@dataclass(frozen=True)
class ImportOptions:
    """Settings of one import.

    Attributes:
        name: name of the data set.
        noun: what the items are called in prompts, plural; None: guessed from file names, else "items".
        columns: role -> column name; the others are guessed.
        encoding: of text files.
        unescape_html: turn HTML entities in titles into characters.
    """

    name: str
    noun: str | None = None
    columns: Mapping[Role, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    unescape_html: bool = False

    def choose_noun(self, file_names: Sequence[str], remarks: Remarks) -> str:
        """Return the noun that was given, or else one guessed from the names of files and data set, which is said."""
        if self.noun:
            return self.noun
        guess = guess_noun([*file_names, self.name])
        how = "guessed from the name" if guess else "no other noun was given"
        remarks.say(f"items are called '{guess or 'items'}' in prompts ({how})")
        return guess or "items"
