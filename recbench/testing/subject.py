"""The checks of a method's contract, and what they share: fits and lists are made once and compared many times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Method, RunContext
from recbench.contracts.rankings import Rankings
from recbench.testing.guard import changes_of
from recbench.testing.tiny import awkward_queries, tiny_split

PLACES = 10
_DEEPER = 25
# Batches of another size may round a float32 score differently; a real difference is far larger.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5

Check = Callable[[], None]


class CheckFailedError(Exception):
    """A promise of the contract is broken; the text says what was found."""


class CheckSkippedError(Exception):
    """The check does not apply to this method; the text says why."""


class Subject:
    """One configured method under test.

    Args:
        name: what the method is called in messages.
        method_class: its class.
        values: its configuration.
        folder: scratch folder.
        make_context: surroundings of one run from an unused folder.
    """

    def __init__(
        self,
        name: str,
        method_class: type[Method],
        values: Mapping[str, Any],
        folder: Path,
        make_context: Callable[[Path], RunContext],
    ) -> None:
        self.name = name
        self.method_class = method_class
        self.config = build_config(method_class.config_class, values, f"method '{name}'")
        self._folder = folder
        self._make_context = make_context
        self._n_runs = 0
        self._records: list[Mapping[str, Any]] = []
        split = tiny_split()
        self._train, self._valid = _freeze(split.train), _freeze(split.valid)
        awkward = awkward_queries(split)
        self._queries = _freeze(_join(split.test.queries(), awkward.queries()))
        self._n_awkward = len(awkward)

    def checks(self) -> list[tuple[str, str, Check]]:
        """Return name, promise and function of every check, in the order to run them."""
        return [
            ("config-round-trip", "The configuration survives JSON unchanged.", self.config_round_trip),
            ("unknown-key", "An unknown configuration key is refused.", self.unknown_key),
            ("building-is-pure", "Building the method changes no global state.", self.building_is_pure),
            ("valid-lists", "Fitting and ranking give valid lists that are long enough.", self.valid_lists),
            ("global-state", "Fitting and ranking leave all global state alone.", self.global_state),
            ("plain-log", "Log records and summary are plain values.", self.plain_log),
            ("whole-ties", "No list ends inside a tie.", self.whole_ties),
            ("batch-free", "A list does not depend on the other queries of the call.", self.batch_free),
            ("mask-history", "Items of the history are left out when asked for.", self.mask_history),
            ("save-load", "A saved and loaded method gives the same lists.", self.save_load),
            ("refit", "Fitting again forgets the first fit, and the same seed gives the same lists.", self.refit),
        ]

    def config_round_trip(self) -> None:
        """Build the configuration again from its own JSON."""
        text = json.dumps(self.config.model_dump(mode="json"))
        again = build_config(self.method_class.config_class, json.loads(text), f"method '{self.name}'")
        if again != self.config:
            raise CheckFailedError(f"The configuration came back from JSON as {again!r}, not {self.config!r}.")

    def unknown_key(self) -> None:
        """Give a misspelt key and look for the error that names it."""
        known = next(iter(sorted(self.method_class.config_class.model_fields)), "learning_rate")
        key = f"{known}x"
        try:
            build_config(self.method_class.config_class, {key: 1}, f"method '{self.name}'")
        except ConfigError as error:
            if key not in str(error):
                raise CheckFailedError(f"The error for the unknown key '{key}' does not name it: {error}") from None
            return
        raise CheckFailedError(
            f"The unknown key '{key}' was accepted: derive the configuration from MethodConfig, which refuses them."
        )

    def building_is_pure(self) -> None:
        """Build the method twice and compare global state."""
        import torch  # noqa: F401  (so that its state is watched)

        _, changed = changes_of(lambda: self.method_class(self.config))
        if changed:
            raise CheckFailedError(f"Building the method changed {', '.join(changed)}.")

    def valid_lists(self) -> None:
        """Check the invariants of rankings, and the length of every list."""
        lists = self._lists
        lists.check(self._queries.example_id, self._n_items)
        places = self._fitted.capabilities.max_places
        wanted = min(PLACES, self._n_items, places or PLACES)
        short = np.nonzero(lists.lengths < wanted)[0]
        if len(short):
            first = int(short[0])
            kind = "an awkward query (unseen items, a new user)" if first >= self._n_usual else "a test query"
            raise CheckFailedError(
                f"{len(short)} of {len(lists)} lists have fewer than {wanted} places; the first belongs to {kind} "
                f"and has {int(lists.lengths[first])}. If the method cannot do more, say so in Capabilities.max_places."
            )
        if self._fitted.capabilities.writes_text and lists.generations is None:
            raise CheckFailedError("Capabilities.writes_text is True, but the rankings hold no generations.")
        if lists.generations is not None and len(lists.generations) != len(lists):
            raise CheckFailedError(f"{len(lists.generations)} generations for {len(lists)} queries.")

    def global_state(self) -> None:
        """Compare global state before and after the first fit and rank."""
        changed = self._first_run[2]
        if changed:
            raise CheckFailedError(
                f"Fitting or ranking changed {', '.join(changed)}. Draw from recbench.contracts.seeding, and restore "
                "what a library changes."
            )

    def plain_log(self) -> None:
        """Write what the first run logged, and the method's summary, as JSON."""
        method = self._fitted
        for what, value in [("ctx.log", record) for record in self._records] + [("summary()", method.summary())]:
            try:
                json.dumps(value)
            except TypeError as error:
                raise CheckFailedError(f"{what} holds a value that JSON cannot write: {error}.") from None

    def whole_ties(self) -> None:
        """Ask for more places: no further item may have the score of the shorter list's last place."""
        if self._fitted.capabilities.max_places is not None:
            raise CheckSkippedError("The method's lists cannot be longer, so a tie at their end cannot be seen.")
        longer = self._fitted.rank(self._queries, _DEEPER, self._context)
        for row in range(len(longer)):
            items, scores = _list(self._lists, row)
            if not len(items):
                continue
            more_items, more_scores = _list(longer, row)
            left_out = set(more_items[more_scores == scores[-1]].tolist()) - set(items.tolist())
            if left_out:
                raise CheckFailedError(
                    f"The list of example {int(longer.example_id[row])} ends at place {len(items)} inside a tie: item "
                    f"{min(left_out)} has the same score. Use rankings_from_scores, or go on to the end of the tie."
                )

    def batch_free(self) -> None:
        """Rank the queries in another order and some of them alone."""
        backwards = np.arange(len(self._queries))[::-1]
        singles = [self._n_usual // 2, len(self._queries) - 1]
        for rows in (backwards, *([row] for row in singles)):
            rows = np.asarray(rows)
            lists = self._fitted.rank(self._queries.take(rows), PLACES, self._context)
            what = "in another order" if len(rows) > 1 else "alone"
            _compare(_take(self._lists, rows), lists, f"ranked {what}")

    def mask_history(self) -> None:
        """Rank with ``mask_history`` and look for items of the history."""
        context = replace(self._context, mask_history=True)
        lists = self._fitted.rank(self._queries, PLACES, context)
        lists.check(self._queries.example_id, self._n_items)
        for row in range(len(lists)):
            seen = set(_list(lists, row)[0].tolist()) & set(self._queries.history(row).tolist())
            if seen:
                raise CheckFailedError(
                    f"With ctx.mask_history the list of example {int(lists.example_id[row])} holds item {min(seen)} of "
                    "its own history."
                )

    def save_load(self) -> None:
        """Save, load with a new context, rank."""
        folder = self._new_folder() / "model"
        folder.mkdir(parents=True)
        self._fitted.save(folder)
        context = self._new_context()
        loaded = self.method_class.load(folder, self.config, context)
        _compare(self._lists, loaded.rank(self._queries, PLACES, context), "saved and loaded")

    def refit(self) -> None:
        """Fit one instance on half of the rows, then on all of them, with the first run's seed."""
        method = self.method_class(self.config)
        half = np.arange(len(self._train) // 2)
        method.fit(_freeze(self._train.take(half)), self._valid, self._new_context())
        context = self._new_context()
        method.fit(self._train, self._valid, context)
        try:
            _compare(self._lists, method.rank(self._queries, PLACES, context), "fitted a second time")
        except CheckFailedError as error:
            fresh = self.method_class(self.config)
            context = self._new_context()
            fresh.fit(self._train, self._valid, context)
            _compare(self._lists, fresh.rank(self._queries, PLACES, context), "fitted anew with the same seed")
            raise CheckFailedError(f"The second fit does not forget the first: {error}") from None

    @property
    def _n_usual(self) -> int:
        return len(self._queries) - self._n_awkward

    @property
    def _n_items(self) -> int:
        return len(self._context.catalog)

    @cached_property
    def _context(self) -> RunContext:
        return replace(self._new_context(), log=self._records.append)

    @cached_property
    def _first_run(self) -> tuple[Method, Rankings, list[str]]:
        method = self.method_class(self.config)
        context = self._context
        if type(self._queries) is not Queries:
            raise TypeError("Queries must carry no targets.")

        def fit_and_rank() -> Rankings:
            method.fit(self._train, self._valid, context)
            return method.rank(self._queries, PLACES, context)

        lists, changed = changes_of(fit_and_rank)
        return method, lists, changed

    @property
    def _fitted(self) -> Method:
        return self._first_run[0]

    @property
    def _lists(self) -> Rankings:
        return self._first_run[1]

    def _new_folder(self) -> Path:
        self._n_runs += 1
        return self._folder / f"run-{self._n_runs}"

    def _new_context(self) -> RunContext:
        return self._make_context(self._new_folder())


def _freeze(queries: Any) -> Any:
    """Make the arrays read-only, so that a method that writes into its input is found out."""
    names = ["example_id", "user", "timestamp", "offsets", "items"]
    for name in [*names, "target"] if isinstance(queries, Examples) else names:
        getattr(queries, name).flags.writeable = False
    return queries


def _join(first: Queries, second: Queries) -> Queries:
    return Queries(
        np.concatenate([first.example_id, second.example_id]),
        np.concatenate([first.user, second.user]),
        np.concatenate([first.timestamp, second.timestamp]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        np.concatenate([first.items, second.items]),
    )


def _list(lists: Rankings, row: int) -> tuple[np.ndarray, np.ndarray]:
    part = slice(lists.offsets[row], lists.offsets[row + 1])
    return lists.items[part], lists.scores[part]


def _take(lists: Rankings, rows: np.ndarray) -> Rankings:
    parts = [_list(lists, int(row)) for row in rows]
    offsets = np.cumsum([0, *(len(items) for items, _ in parts)])
    items, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Rankings(lists.example_id[rows], offsets, items, scores)


def _compare(expected: Rankings, found: Rankings, how: str) -> None:
    """Refuse lists that differ by more than rounding: items may swap only where their scores are equal up to it."""
    if not np.array_equal(expected.example_id, found.example_id):
        raise CheckFailedError(f"Queries {how} are not answered in their order.")
    for row, example in enumerate(expected.example_id.tolist()):
        one, other = _list(expected, row), _list(found, row)
        problem = _difference(one, other) or _difference(other, one)
        if problem:
            raise CheckFailedError(f"The list of example {example} differs when {how}: {problem}.")


def _difference(expected: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]) -> str | None:
    """Say how a list (items, scores) differs from the expected one, if it does.

    An item that is missing on one side is fine only if its score is that of the last place.
    """
    score_of = dict(zip(expected[0].tolist(), expected[1].tolist(), strict=True))
    last = min(score_of.values(), default=-np.inf)
    for place, (item, score) in enumerate(zip(found[0].tolist(), found[1].tolist(), strict=True), start=1):
        wanted = score_of.get(item, last)
        if not math.isclose(score, wanted, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
            return f"item {item} at place {place} has the score {score:.6g}, not {wanted:.6g}"
    return None
