"""Every bound of an audit against brute force: all orders, all shifts, the worst values a metric can have."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from helpers_audit import HOUR_S, Event, dataset_of, events, finding_of, other_orders, subject_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recbench.audit.build import change_of_rows
from recbench.audit.dataset import audit_dataset
from recbench.audit.events import copy_metrics
from recbench.audit.leaks import first_times, occurs_in
from recbench.audit.list_order import find_openings, metric_under_orders
from recbench.audit.subject import Subject
from recbench.audit.titles import title_ceiling
from recbench.contracts.audit import Finding
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.evaluation.evaluate import evaluate

CLOSE = 1e-12


def cut(found: list[Event], **protocol: object) -> Subject:
    """Cut a data set, or give up the case where a part would be empty."""
    try:
        return subject_of(dataset_of(found), **protocol)
    except DataError:
        assume(False)
        raise


def audited(subject: Subject, code: str) -> Finding:
    return finding_of(audit_dataset(subject.dataset, subject.split, subject.protocol), code)


def shown(rows: Examples) -> dict[int, tuple[int, ...]]:
    """Example id -> all that a method is shown and asked: user, history, target."""
    return {
        int(rows.example_id[row]): (int(rows.user[row]), *rows.history(row).tolist(), -1, int(rows.target[row]))
        for row in range(len(rows))
    }


def any_metric(seed: int, row: tuple[int, ...]) -> float:
    """A metric of some method: any function of what it is shown and asked, in 0..1, often at the ends."""
    return min(max(random.Random(f"{seed} {row}").uniform(-1, 2), 0.0), 1.0)


SPLITS = [
    {"split": "global-time", "ratios": (2, 1, 2)},
    {"split": "global-time", "ratios": (2, 0, 2), "boundary": "time"},
    {"split": "leave-one-out"},
]


@pytest.mark.parametrize("protocol", SPLITS)
@settings(max_examples=15, deadline=None)
@given(found=events(), max_history=st.integers(1, 3), seed=st.integers(0, 9))
def test_no_order_inside_ties_changes_more_than_the_bound(
    protocol: dict[str, object], found: list[Event], max_history: int, seed: int
) -> None:
    subject = cut(found, max_history=max_history, **protocol)
    finding = audited(subject, "time-ties")
    before = shown(subject.test)
    assert finding.effect is not None
    changed: set[int] = set()
    for other in itertools.islice(other_orders(subject.dataset), 200):
        after = shown(subject_of(other, max_history=max_history, **protocol).test)
        assert after.keys() == before.keys()
        changed |= {row for row in before if before[row] != after[row]}
        means = [np.mean([any_metric(seed, row) for row in rows.values()]) for rows in (before, after)]
        assert abs(means[0] - means[1]) <= finding.effect.hr + CLOSE
    assert len(changed) <= finding.count


def test_the_bound_of_ties_is_reached_by_some_method() -> None:
    # One user with two pairs of tied events at the end: other orders change all four rows.
    subject = subject_of(dataset_of([(0, 0, 0), (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2)]), ratios=(1, 0, 3))
    finding = audited(subject, "time-ties")
    assert (finding.count, finding.out_of) == (3, 3)
    before = shown(subject.test)
    worst = max(
        sum(before[row] != after[row] for row in before)
        for after in (shown(subject_of(other, ratios=(1, 0, 3)).test) for other in other_orders(subject.dataset))
    )
    assert finding.effect is not None
    assert worst / 3 == finding.effect.hr == 1.0


@settings(max_examples=40, deadline=None)
@given(found=events(), seed=st.integers(0, 9))
def test_no_order_of_the_instant_of_a_cut_changes_more_than_the_bound(found: list[Event], seed: int) -> None:
    subject = cut(found, ratios=(2, 1, 2))
    finding = audited(subject, "boundary-ties")
    split = subject.split
    early, late = [*shown(split.train).values(), *shown(split.valid).values()], list(shown(split.test).values())
    times = np.concatenate([split.train.timestamp, split.valid.timestamp, split.test.timestamp])
    instant = times[len(early)]
    rows = early + late
    movable = [place for place in range(len(rows)) if times[place] == instant]
    size = sum(place >= len(early) for place in movable)
    fixed = [place for place in range(len(early), len(rows)) if times[place] != instant]
    value = [any_metric(seed, row) for row in rows]
    now = np.mean(value[len(early) :])
    for chosen in itertools.islice(itertools.combinations(movable, size), 500):
        other = np.mean([value[place] for place in [*fixed, *chosen]])
        assert finding.effect is not None
        assert abs(now - other) <= finding.effect.hr + CLOSE
    whole_instant = np.mean([value[place] for place in [*fixed, *movable]])
    assert abs(now - whole_instant) <= finding.facts["effect of boundary=time, at most"] + CLOSE
    assert finding.count == min(size, len(movable) - size)


@settings(max_examples=40, deadline=None)
@given(found=events(n_times=5, step=9 * HOUR_S), seed=st.integers(0, 9), boundary=st.sampled_from(["row", "time"]))
def test_no_shift_of_the_cut_changes_more_than_the_bound(found: list[Event], seed: int, boundary: str) -> None:
    subject = cut(found, ratios=(1, 0, 1), boundary=boundary)
    finding = audited(subject, "time-zone")
    split = subject.split
    rows = [*shown(split.train).values(), *shown(split.test).values()]
    times = np.concatenate([split.train.timestamp, split.test.timestamp])
    value = np.array([any_metric(seed, row) for row in rows])
    now = value[len(split.train) :].mean()
    for hours in range(-14, 15):
        behind = times >= split.test.timestamp.min() + hours * HOUR_S
        if behind.any():
            assert finding.effect is not None
            assert abs(now - value[behind].mean()) <= finding.effect.hr + CLOSE


@given(
    stay=st.lists(st.sampled_from([0.0, 1.0]), max_size=5),
    leave=st.lists(st.sampled_from([0.0, 1.0]), max_size=3),
    join=st.lists(st.sampled_from([0.0, 1.0]), max_size=3),
)
def test_rows_that_leave_and_join_change_a_mean_by_the_bound_at_most(
    stay: list[float], leave: list[float], join: list[float]
) -> None:
    assume(stay + leave and stay + join)
    change = abs(np.mean(stay + leave) - np.mean(stay + join))
    assert change <= change_of_rows(len(stay) + len(leave), len(leave), len(join)) + CLOSE


@pytest.mark.parametrize(("stay", "leave", "join"), [(4, 1, 0), (4, 0, 1), (4, 3, 1), (4, 1, 3), (0, 2, 2)])
def test_the_bound_of_leaving_and_joining_rows_is_reached(stay: int, leave: int, join: int) -> None:
    changes = [
        abs((stay * s + leave * out) / (stay + leave) - (stay * s + join * into) / (stay + join))
        for s, out, into in itertools.product([0, 1], repeat=3)
    ]
    assert max(changes) == pytest.approx(change_of_rows(stay + leave, leave, join), abs=CLOSE)


TITLES = ["Same", "Same", "Same", "Twin", "Twin", "Alone", "Single", "Other"]


def some_rows(targets: list[int], histories: list[list[int]], **protocol: object) -> Subject:
    """Rows with given targets and histories, each of its own user, as the last rows in time."""
    found: list[Event] = []
    for user, (target, history) in enumerate(zip(targets, histories, strict=True)):
        found += [(user, item, place) for place, item in enumerate(history)] + [(user, target, 99)]
    subject = subject_of(dataset_of(found, TITLES), split="leave-one-out", **protocol)
    return Subject(subject.dataset, subject.split, subject.protocol)


def ranked(subject: Subject, scores: np.ndarray) -> Rankings:
    if subject.protocol.mask_history:
        for row in range(len(subject.test)):
            scores[row, subject.test.history(row)] = -np.inf
    return rankings_from_scores(subject.test.example_id, scores, scores.shape[1])


TARGETS = st.lists(st.integers(0, 7), min_size=4, max_size=4)
HISTORIES = st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=4), min_size=4, max_size=4)
K = 3


@settings(max_examples=40, deadline=None)
@given(targets=TARGETS, histories=HISTORIES, seed=st.integers(0, 10**6), masked=st.booleans())
def test_no_method_of_titles_alone_exceeds_the_ceiling(
    targets: list[int], histories: list[list[int]], seed: int, masked: bool
) -> None:
    subject = some_rows(targets, histories, mask_history=masked)
    group, rng = subject.dataset.catalog.title_group, np.random.default_rng(seed)
    by_title = rng.integers(0, 4, (len(subject.test), group.max() + 1)).astype(float)
    table = evaluate(
        ranked(subject, by_title[:, group]), subject.test, subject.dataset.catalog, subject.dataset.users, (K,)
    )
    ceiling = title_ceiling(subject, K)
    for name in ("HR", "NDCG"):
        assert table[f"item/{name}@{K}"].mean() <= ceiling[name] + CLOSE
    # The right title always first reaches it.
    by_title[np.arange(len(by_title)), group[subject.test.target]] = 9.0
    table = evaluate(
        ranked(subject, by_title[:, group]), subject.test, subject.dataset.catalog, subject.dataset.users, (K,)
    )
    for name in ("HR", "NDCG"):
        assert table[f"item/{name}@{K}"].mean() == pytest.approx(ceiling[name], abs=CLOSE)


@settings(max_examples=40, deadline=None)
@given(targets=TARGETS, histories=HISTORIES, seed=st.integers(0, 10**6), once=st.booleans())
def test_two_truths_differ_through_shared_targets_by_their_share_at_most(
    targets: list[int], histories: list[list[int]], seed: int, once: bool
) -> None:
    subject = some_rows(targets, histories)
    group, rng = subject.dataset.catalog.title_group, np.random.default_rng(seed)
    scores = rng.integers(0, 5, (len(subject.test), len(group))).astype(float)
    if once:  # only one item of each title may be listed
        for row in range(len(scores)):
            for title in range(group.max() + 1):
                members = np.flatnonzero(group == title)
                scores[row, members[members != rng.choice(members)]] = -np.inf
    table = evaluate(ranked(subject, scores), subject.test, subject.dataset.catalog, subject.dataset.users, (10,))
    finding = audited(subject, "titles-shared")
    shared = (np.bincount(group) > 1)[group[subject.test.target]]
    for name in ("HR", "NDCG"):
        gap = (table[f"title/{name}@10"] - table[f"item/{name}@10"]).to_numpy()
        assert finding.effect is not None
        assert (gap >= -CLOSE).all()
        assert gap[shared].sum() / len(gap) <= finding.effect.hr + CLOSE
        if once:
            assert gap.mean() <= finding.effect.hr + CLOSE
    assert finding.count == shared.sum()


def test_a_title_listed_twice_also_moves_targets_that_share_nothing() -> None:
    """Why the share of shared titles alone bounds nothing for lists that hold items of one title."""
    subject = some_rows([5, 5, 5, 5], [[6, 7, 3]] * 4)
    scores = np.tile(np.array([9.0, 8, 7, 1, 1, 6, 0, 0]), (4, 1))  # three items "Same", then the target
    table = evaluate(ranked(subject, scores), subject.test, subject.dataset.catalog, subject.dataset.users, (2,))
    assert audited(subject, "titles-shared").count == 0
    assert table["title/HR@2"].mean() - table["item/HR@2"].mean() == 1.0


@settings(max_examples=40, deadline=None)
@given(targets=TARGETS, histories=HISTORIES, seed=st.integers(0, 10**6))
def test_never_listing_some_items_loses_their_share_at_most(
    targets: list[int], histories: list[list[int]], seed: int
) -> None:
    subject, rng = some_rows(targets, histories), np.random.default_rng(seed)
    scores = rng.integers(0, 6, (len(subject.test), len(TITLES))).astype(float)
    dropped = rng.random(len(TITLES)) < 0.4
    without = np.where(dropped, -np.inf, scores)
    values = []
    for one in (scores, without):
        table = evaluate(ranked(subject, one), subject.test, subject.dataset.catalog, subject.dataset.users, (K,))
        values.append(table[[f"item/HR@{K}", f"item/NDCG@{K}"]].mean().to_numpy())
    assert (values[0] - values[1] <= dropped[subject.test.target].mean() + CLOSE).all()


@settings(max_examples=40, deadline=None)
@given(targets=TARGETS, histories=HISTORIES)
def test_masked_histories_leave_the_stated_ceiling_and_copies_are_exact(
    targets: list[int], histories: list[list[int]]
) -> None:
    masked = some_rows(targets, histories, mask_history=True)
    perfect = np.zeros((len(masked.test), len(TITLES)))
    perfect[np.arange(len(perfect)), masked.test.target] = 1.0
    table = evaluate(ranked(masked, perfect), masked.test, masked.dataset.catalog, masked.dataset.users, (10,))
    finding = audited(masked, "target-in-history")
    assert finding.effect is not None
    assert table["item/HR@10"].mean() == pytest.approx(1 - finding.effect.hr, abs=CLOSE)
    copies = np.full(perfect.shape, -np.inf)
    for row in range(len(copies)):
        for place, item in enumerate(masked.test.history(row)):
            copies[row, item] = place
    subject = some_rows(targets, histories)
    table = evaluate(ranked(subject, copies), subject.test, subject.dataset.catalog, subject.dataset.users, (K,))
    for name, value in copy_metrics(subject, K).items():
        assert table[f"item/{name}@{K}"].mean() == pytest.approx(value, abs=CLOSE)


@pytest.mark.parametrize("boundary", ["row", "time"])
@settings(max_examples=30, deadline=None)
@given(found=events(n_users=2), seed=st.integers(0, 10**6))
def test_rows_that_open_an_instant_have_these_metrics_under_all_its_orders(
    boundary: str, found: list[Event], seed: int
) -> None:
    rules = {"ratios": (2, 0, 2), "boundary": boundary}
    subject = cut(found, **rules)
    test = subject.test
    scores = np.random.default_rng(seed).integers(0, 6, (len(test), 12)).astype(float)
    lists = rankings_from_scores(test.example_id, scores, 12)

    def values(rows: Examples) -> np.ndarray:
        table = evaluate(lists, rows, subject.dataset.catalog, subject.dataset.users, (K,))
        return table[f"item/NDCG@{K}"].to_numpy()

    openings = find_openings(subject)
    base = values(test)
    sums = dict.fromkeys(("expected", "best", "worst"), base.sum())
    for row in openings.rows:
        moment = (int(test.user[row]), int(test.timestamp[row]))
        possible = []
        for other in other_orders(subject.dataset, moment):
            rows = subject_of(other, **rules).test
            assert rows.history(row).tolist() == test.history(row).tolist()  # the same question
            possible.append(values(rows)[row])
        for name, pick in (("expected", np.mean), ("best", max), ("worst", min)):
            sums[name] += pick(possible) - base[row]
    result = metric_under_orders("NDCG", lists, test.target, openings, 12, K)
    assert result.now == pytest.approx(base.mean(), abs=CLOSE)
    for name, total in sums.items():
        assert getattr(result, name) == pytest.approx(total / len(test), abs=CLOSE)


@settings(max_examples=40, deadline=None)
@given(found=events(n_users=4, n_items=12))
def test_the_most_popular_list_is_exact(found: list[Event]) -> None:
    subject = cut(found, ratios=(2, 1, 2))
    counts = np.bincount(subject.split.train.target, minlength=12).astype(float)
    scores = np.tile(counts, (len(subject.test), 1))
    table = evaluate(ranked(subject, scores), subject.test, subject.dataset.catalog, subject.dataset.users, (10,))
    effect = audited(subject, "popularity").effect
    assert effect is not None
    assert effect.exact
    assert effect.hr == pytest.approx(table["item/HR@10"].mean(), abs=CLOSE)
    assert effect.ndcg == pytest.approx(table["item/NDCG@10"].mean(), abs=CLOSE)


@settings(max_examples=40, deadline=None)
@given(found=events(n_items=2), max_history=st.integers(1, 2))
def test_twins_and_first_times_equal_plain_loops(found: list[Event], max_history: int) -> None:
    subject = cut(found, split="global-time", ratios=(2, 1, 2), max_history=max_history)
    split, events_ = subject.split, subject.dataset.interactions
    known = set(shown(split.train).values())
    assert occurs_in(split.test, split.train).tolist() == [row in known for row in shown(split.test).values()]
    earliest = [
        min(
            int(time)
            for user, item, time in zip(events_.user, events_.item, events_.timestamp, strict=True)
            if user == split.test.user[row] and item == shown_item
        )
        for row in range(len(split.test))
        for shown_item in split.test.history(row)
    ]
    assert first_times(subject, split.test).tolist() == earliest
