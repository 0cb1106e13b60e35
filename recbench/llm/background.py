"""What decoding may know of a fit besides the weights: popularity, validation rows, and which base model it began from.

It is kept with every fitted title writer, so that choices of decoding (a re-weighting, say) are made on validation
rows when lists are asked for, and the same fitted model serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbench.contracts.errors import ArtifactError
from recbench.contracts.examples import Examples
from recbench.contracts.seeding import numpy_rng

_FILE = "background.npz"
_COLUMNS = ("example_id", "user", "timestamp", "offsets", "items", "target")


@dataclass(frozen=True)
class Background:
    """Plain facts of a fit.

    Attributes:
        train_fingerprint: hash of the training rows; with a preset's name it names the untuned base model.
        popularity: int64 (n_items,), training rows that have the item as target.
        valid: the validation rows.
    """

    train_fingerprint: str
    popularity: np.ndarray
    valid: Examples

    @classmethod
    def of(cls, train: Examples, valid: Examples, n_items: int) -> Background:
        """Collect the facts of a fit on these rows."""
        return cls(train.fingerprint, np.bincount(train.target, minlength=n_items).astype(np.int64), valid)

    def valid_sample(self, n_rows: int | None, seed: int, purpose: str) -> Examples:
        """Return ``n_rows`` validation rows drawn at random, in their order; all of them where there are no more."""
        if n_rows is None or len(self.valid) <= n_rows:
            return self.valid
        chosen = numpy_rng(seed, "valid-sample", purpose).choice(len(self.valid), n_rows, replace=False)
        return self.valid.take(np.sort(chosen))

    def save(self, folder: Path) -> None:
        """Write the facts into the folder of the fitted model."""
        columns = {name: getattr(self.valid, name) for name in _COLUMNS}
        with (folder / _FILE).open("wb") as stream:
            np.savez_compressed(
                stream,
                train_fingerprint=np.array(self.train_fingerprint),
                popularity=self.popularity,
                **columns,
            )

    @classmethod
    def load(cls, folder: Path) -> Background:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: the folder has no such file.
        """
        path = folder / _FILE
        if not path.is_file():
            raise ArtifactError(f"The fitted model in {folder} lacks {_FILE}.", "Fit it again with this recbench.")
        with np.load(path, allow_pickle=False) as stored:
            valid = Examples(**{name: stored[name] for name in _COLUMNS})
            return cls(str(stored["train_fingerprint"]), stored["popularity"], valid)
