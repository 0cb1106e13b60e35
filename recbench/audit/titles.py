"""Titles that do not name one item: shared ones, junk, and none at all."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from recbench.audit.build import ROWS, Limits, at_most, make_finding, of, percent
from recbench.audit.subject import MAX_EXAMPLES, Subject, any_in_row
from recbench.contracts.audit import EFFECT_CUTOFF, Effect, Finding
from recbench.contracts.dataset import title_key
from recbench.evaluation.accuracy import expected_metric

#: The paper's preprocessing keeps titles of at most so many words.
MAX_WORDS = 20

_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>?|<!")
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")
# fmt: off
_PLACEHOLDERS = frozenset([
    "n/a", "na", "none", "null", "nil", "nan", "unknown", "untitled", "undefined", "default", "placeholder", "missing",
    "test", "tbd", "tba", "todo", "title", "item", "product", "name", "no title", "not available", "no name",
    "to be announced",
])
# fmt: on

#: Kinds of titles that do not name their item, and kinds that name it untidily.
JUNK = frozenset({"markup", "control", "placeholder", "one-letter"})
UNTIDY = frozenset({"entity", "no-letters", "over-long"})


def junk_kinds(title: str) -> tuple[str, ...]:
    """Return what is wrong with a title as a name, empty if nothing is; a missing title is another matter.

    Kinds: ``markup`` and ``entity`` (remnants of HTML), ``control`` (control or replacement characters),
    ``placeholder`` (stands for a missing title), ``one-letter``, ``no-letters``, ``over-long`` (more words than the
    paper's preprocessing keeps).
    """
    key = title_key(title)
    if not key:
        return ()
    faults = {
        "markup": _MARKUP.search(key),
        "entity": _ENTITY.search(key),
        "control": _CONTROL.search(key),
        "placeholder": key.casefold().strip(" .-_()[]") in _PLACEHOLDERS,
        "one-letter": len(key) == 1,
        "no-letters": not any(character.isalpha() for character in key),
        "over-long": len(key.split()) > MAX_WORDS,
    }
    return tuple(kind for kind, found in faults.items() if found)


def check_junk(subject: Subject) -> Finding:
    """Find the items whose title does not name them, and the test rows that ask for one."""
    return _check_kinds(
        subject,
        JUNK,
        "titles-junk",
        "titles that are junk",
        ROWS,
        "a title that does not name them",
        "Mend them at the source, or keep them for all methods alike (prepare --mode strict leaves out remnants of "
        "markup for all); never drop them for one method only.",
    )


def check_untidy(subject: Subject) -> Finding:
    """Find the items whose title names them, but not as one would write it."""
    return _check_kinds(
        subject,
        UNTIDY,
        "titles-untidy",
        "titles that are untidy",
        Limits(ROWS.note, None),
        "an untidy title",
        "Harmless for methods of ids; a method that reads titles spends tokens on it (datasets import --unescape-html "
        "mends HTML entities).",
    )


def _check_kinds(
    subject: Subject, kinds: frozenset[str], code: str, looked_for: str, limits: Limits, what: str, advice: str
) -> Finding:
    found = [tuple(kind for kind in junk_kinds(title) if kind in kinds) for title in subject.dataset.catalog.titles]
    counts = Counter(kind for some in found for kind in some)
    bad = np.array([bool(some) for some in found])
    rows = bad[subject.test.target]
    count, n, n_items = int(rows.sum()), len(rows), int(bad.sum())
    share = count / n if n else 0.0
    listed = ", ".join(f"{kind} {number:,}" for kind, number in counts.most_common()) or "none"
    return make_finding(
        code,
        looked_for,
        count=count,
        out_of=n,
        limits=limits,
        effect=_never_listed(share, "these items (it cannot tell what they are, say)"),
        short=f"{percent(share)} of test targets have {what.replace('them', 'the item')}",
        found=f"{n_items:,} of {len(found):,} items have {what} ({listed}); {of(count, n, 'test rows')} ask for one of "
        "them.",
        advice=advice if n_items else "Nothing to do.",
        facts={
            "items": n_items,
            **{f"items {kind}": counts[kind] for kind in sorted(counts)},
            "test rows with one in the history": int(any_in_row(bad[subject.test.items], subject.test).sum()),
        },
        examples=[{**subject.item(item), "kind": ", ".join(found[item])} for item in _one_of_each_kind(found)],
    )


def _one_of_each_kind(kinds: list[tuple[str, ...]]) -> list[int]:
    """Return the first item of every kind, then further ones, up to the usual number of examples."""
    firsts: dict[str, int] = {}
    for item, found in enumerate(kinds):
        for kind in found:
            firsts.setdefault(kind, item)
    others = [item for item, found in enumerate(kinds) if found]
    return list(dict.fromkeys([*firsts.values(), *others]))[:MAX_EXAMPLES]


def check_untitled(subject: Subject) -> Finding:
    """Find the items without a title, and the test rows that ask for one."""
    untitled = np.array([not title_key(title) for title in subject.dataset.catalog.titles])
    rows = untitled[subject.test.target]
    count, n, n_items = int(rows.sum()), len(rows), int(untitled.sum())
    share = count / n if n else 0.0
    return make_finding(
        "items-untitled",
        "items without text",
        count=count,
        out_of=n,
        effect=_never_listed(share, "items without a title, as methods that write titles do"),
        short=f"{percent(share)} of test targets have no title",
        found=f"{n_items:,} of {len(untitled):,} items have no title; {of(count, n, 'test rows')} ask for one of them. "
        "A method that writes titles cannot name them, one that uses ids can.",
        advice="Give them a text at the source, or compare the two kinds of methods on the other rows too."
        if n_items
        else "Nothing to do.",
        facts={
            "items": n_items,
            "test rows with one in the history": int(any_in_row(untitled[subject.test.items], subject.test).sum()),
        },
        examples=subject.item_examples(np.flatnonzero(untitled)),
    )


def _never_listed(share: float, what: str) -> Effect:
    return at_most(share, f"what a method can lose by never listing {what}: other targets only move up")


def check_shared(subject: Subject) -> Finding:
    """Find the test rows whose target shares its title, and what a method that knows titles only can reach."""
    group = subject.dataset.catalog.title_group
    sizes = np.bincount(group) if len(group) else np.empty(0, np.int64)
    shared = sizes[group[subject.test.target]] > 1
    count, n = int(shared.sum()), len(shared)
    share = count / n if n else 0.0
    ceiling = title_ceiling(subject)
    n_groups, n_sharing = int((sizes > 1).sum()), int(sizes[sizes > 1].sum())
    order = np.argsort(-sizes, kind="stable")
    first_item = np.unique(group, return_index=True)[1]
    top = [number for number in order[:MAX_EXAMPLES] if sizes[number] > 1]
    commonest = ""
    if top:
        title = title_key(subject.dataset.catalog.titles[first_item[top[0]]])
        commonest = f"; the commonest, “{title}”, names {sizes[top[0]]:,}"
    return make_finding(
        "titles-shared",
        "titles of several items",
        count=count,
        out_of=n,
        effect=at_most(
            share,
            "the title truth minus the item truth through these targets alone, for any lists; a method whose lists "
            "hold no title twice has no other difference",
        ),
        short=f"{percent(share)} of test targets share their title: through them item HR@10 can lie {share:.3f} below "
        "title HR@10",
        found=f"{n_groups:,} titles name {n_sharing:,} of {len(group):,} items{commonest}. {of(count, n, 'test rows')} "
        "have such a target. A method that cannot tell items of one title apart reaches at most HR@10 "
        f"{ceiling['HR']:.4f} and NDCG@10 {ceiling['NDCG']:.4f} by the item truth, even if the right title always "
        "comes first.",
        advice="Compare methods by both truths; where a method writes titles, read its item metrics against this "
        "ceiling. 'recbench audit RUN' splits the difference of a run exactly."
        if count
        else "Nothing to do.",
        facts={
            "titles": n_groups,
            "items": n_sharing,
            "ceiling HR@10 by item of title-only methods": ceiling["HR"],
            "ceiling NDCG@10 by item of title-only methods": ceiling["NDCG"],
        },
        examples=[{**subject.item(int(first_item[number])), "items": int(sizes[number])} for number in top],
    )


def title_ceiling(subject: Subject, k: int = EFFECT_CUTOFF) -> dict[str, float]:
    """Return the highest HR@k and NDCG@k by item of a method that gives all items of a title the same score.

    It is reached if the target's title always comes first: the target then shares the first places with the other
    items of its title, and the expectation over their order is the metric. A later place, or a larger tie, can only
    lower it, because gains fall with the place. Where histories are masked, their items take no places, and a target
    that is one of them is never ranked.

    Returns:
        "HR" and "NDCG"; 0 if there are no test rows.
    """
    test, group = subject.test, subject.dataset.catalog.title_group
    if not len(test):
        return {"HR": 0.0, "NDCG": 0.0}
    places = np.bincount(group)[group[test.target]]
    first = np.ones(len(test), dtype=np.int64)
    if subject.protocol.mask_history:
        places = places - _twins_in_history(subject)
        first[subject.target_in_history] = 0
    return {name: float(expected_metric(name, first, places, k).mean()) for name in ("HR", "NDCG")}


def _twins_in_history(subject: Subject) -> np.ndarray:
    """Return int64 (N,): other items of the target's title that stand in the history of each test row."""
    test, group = subject.test, subject.dataset.catalog.title_group
    row = np.repeat(np.arange(len(test)), test.history_length)
    target = test.target[row]
    twin = (group[test.items] == group[target]) & (test.items != target)
    key = np.unique(row[twin] * np.int64(len(group)) + test.items[twin])
    return np.bincount(key // max(len(group), 1), minlength=len(test))
