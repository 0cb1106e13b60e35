"""Checks of a data set against counts worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_audit import DAY_S, HOUR_S, Event, dataset_of, finding_of, subject_of

from recbench.audit.build import EFFECT, LEAK, ROWS, Limits, percent
from recbench.audit.dataset import CHECKS, audit_dataset
from recbench.audit.popularity import most_popular
from recbench.audit.subject import Subject
from recbench.audit.titles import junk_kinds
from recbench.contracts.audit import AuditReport, Finding
from recbench.contracts.dataset import Dataset, Interactions, ProvidedSplit
from recbench.contracts.examples import build_examples
from recbench.contracts.protocol import Protocol
from recbench.data.importing import import_dataset
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split
from recbench.testing.tiny import tiny_dataset

#: One user's row each day, all different; the last row is the test row.
PLAIN: list[Event] = [(0, item, item * DAY_S + 60 * item) for item in range(10)]


def audit(subject: Subject) -> AuditReport:
    return audit_dataset(subject.dataset, subject.split, subject.protocol)


def check(code: str, found: list[Event], titles: list[str] | None = None, **protocol: object) -> Finding:
    return finding_of(audit(subject_of(dataset_of(found, titles), **protocol)), code)


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("Toy Story (1995)", ()),
        ("", ()),
        (' "" ', ()),
        ("I", ("one-letter",)),
        ("7", ("one-letter", "no-letters")),
        ("1984", ("no-letters",)),
        ("千と千尋", ()),
        ('<span class="a-size-medium a-text', ("markup",)),
        ("5 < 6 and love <3", ()),
        ("Rock &amp; Roll", ("entity",)),
        ("Rock & Roll; more", ()),
        ("AT&T;", ("entity",)),
        ("bell\x07", ("control",)),
        ("Unknown", ("placeholder",)),
        ("[no title]", ("placeholder",)),
        ("The Unknown", ()),
        ("a " * 20, ()),
        ("a " * 21, ("over-long",)),
    ],
)
def test_junk(title: str, kinds: tuple[str, ...]) -> None:
    assert junk_kinds(title) == kinds


def test_clean_data_are_fine() -> None:
    report = audit(subject_of(dataset_of(PLAIN)))
    assert {finding.code: finding.rating for finding in report.findings if finding.rating != "fine"} == {
        # One user with ten items: the test row is on an item that nobody else has.
        "cold-items": "danger",
        # And the cut may always be read a little later, behind its first row.
        "time-zone": "note",
    }
    assert not report.not_checked
    assert len(report.findings) == len(CHECKS)
    assert (report.n_train, report.n_valid, report.n_test, report.n_users) == (7, 1, 1, 1)


def test_every_finding_has_a_bound_or_says_why_not() -> None:
    for finding in audit(subject_of(tiny_dataset())).findings:
        assert (finding.effect is None) == bool(finding.no_effect)
        assert finding.share == finding.count / finding.out_of
        assert finding.rule
        assert finding.found
        assert finding.advice
        assert finding.short
        assert len(finding.examples) <= 5


def test_dangers_come_first_and_large_effects_before_small_ones() -> None:
    # Four rows of leave-one-out: all targets share their title, half of them are tied, one is new.
    found = [(user, item, 10 * place) for user in range(4) for place, item in enumerate([0, 1, 2, 3])]
    found[3], found[7], found[11] = (0, 4, 30), (1, 5, 20), (2, 5, 20)
    report = audit(subject_of(dataset_of(found, ["Same"] * 8), split="leave-one-out"))
    findings = report.findings
    order = [("danger", "note", "fine").index(finding.rating) for finding in findings]
    assert order == sorted(order)
    effects = [finding.effect.hr for finding in findings if finding.rating == "danger" and finding.effect]
    assert effects == sorted(effects, reverse=True)
    assert len(effects) > 1


def test_shared_titles() -> None:
    titles = ["A", "B", "B", "B ", "", "", '"C"', "C", "x", "y", "z", "w"]
    found = [(user, item, place) for user in range(4) for place, item in enumerate([8, 9, 11, [1, 4, 6, 10][user]])]
    finding = check("titles-shared", found, titles, split="leave-one-out")
    # Targets: B (3 items), untitled (never shared), C (2 items), z.
    assert (finding.count, finding.out_of, finding.rating) == (2, 4, "danger")
    assert finding.effect is not None
    assert finding.effect.hr == finding.effect.ndcg == 0.5
    assert (finding.facts["titles"], finding.facts["items"]) == (2, 5)
    gains = [1 / np.log2(place + 1) for place in (1, 2, 3)]
    ndcg = (np.mean(gains) + 1 + np.mean(gains[:2]) + 1) / 4
    assert finding.facts["ceiling HR@10 by item of title-only methods"] == 1.0
    assert finding.facts["ceiling NDCG@10 by item of title-only methods"] == pytest.approx(ndcg, abs=1e-12)
    assert finding.examples[0] == {"item_id": "i1", "title": "B", "items": 3}


def test_untitled_and_junk_count_rows_and_items() -> None:
    titles = ["Alpha", "", "1", "Beta", "<b>C</b>", "Delta"]
    found = [(user, item, place) for user in range(3) for place, item in enumerate([0, 3, 5, [1, 2, 5][user]])]
    found += [(3, item, place) for place, item in enumerate([3, 4, 4, 0])]
    untitled = check("items-untitled", found, titles, split="leave-one-out")
    assert (untitled.count, untitled.facts["items"], untitled.examples) == (1, 1, ({"item_id": "i1", "title": ""},))
    junk = check("titles-junk", found, titles, split="leave-one-out")
    assert (junk.count, junk.facts["items"], junk.facts["test rows with one in the history"]) == (1, 2, 1)
    untidy = check("titles-untidy", found, titles, split="leave-one-out")
    assert (untidy.count, untidy.facts["items"], untidy.rating) == (1, 1, "note")
    assert untidy.examples == ({"item_id": "i2", "title": "1", "kind": "no-letters"},)
    assert junk.facts["items markup"] == 1
    assert {example["kind"] for example in junk.examples} == {"markup", "one-letter"}


def test_repeats_and_targets_in_the_history() -> None:
    # Test rows of leave-one-out: item 0 again (out of sight of a history of 2), 5 again (last item), 6 for once.
    found = [(0, item, place) for place, item in enumerate([0, 1, 2, 0])]
    found += [(1, item, place) for place, item in enumerate([3, 4, 5, 5])]
    found += [(2, item, place) for place, item in enumerate([3, 3, 6])]
    repeats = check("events-repeated", found, split="leave-one-out", max_history=2)
    assert (repeats.count, repeats.out_of, repeats.facts["events"]) == (2, 3, 3)
    assert repeats.facts["events at the very same time"] == 0
    shown = check("target-in-history", found, split="leave-one-out", max_history=2)
    assert (shown.count, shown.facts["as the last item"], shown.facts["HR@10 of copying the history"]) == (1, 1, 1 / 3)
    assert shown.facts["validation rows"] == 1  # user 2: history 3, target 3
    assert [example["user_id"] for example in shown.examples] == ["u1"]


def test_repeats_at_the_very_same_time_are_counted_and_are_no_tie_of_order() -> None:
    found = [(0, 0, 0), (0, 1, DAY_S), (0, 2, 2 * DAY_S), (0, 2, 2 * DAY_S)]
    repeats = check("events-repeated", found, split="leave-one-out")
    assert repeats.facts["events at the very same time"] == 1
    assert check("time-ties", found, split="leave-one-out").count == 0


def test_ties_reach_as_far_as_the_history_is_shown() -> None:
    # Items 0 and 1 are tied. Rows of a history of 2: (0)->1, (0 1)->2, (1 2)->3, (2 3)->4, (3 4)->5.
    found = [(0, 0, 5), (0, 1, 5), *((0, item, 10 * item) for item in range(2, 6))]
    ties = check("time-ties", found, ratios=(1, 0, 4), max_history=2)
    assert (ties.count, ties.out_of, ties.facts["test rows with a tied target"]) == (2, 4, 0)  # its rows 2 and 3
    assert ties.facts["events"] == 2


def test_rows_that_cannot_be_traced_count_in_the_bound_of_ties() -> None:
    dataset = dataset_of([(0, 0, 1), (0, 1, 2), (1, 2, 3), (1, 3, 4)])
    rows = build_examples([0, 1, 2, 3], [0, 1, 0, 1], [2, 4, 2, 4], [[0], [2], [0], [9]], [1, 3, 1, 3])
    provided = ProvidedSplit(rows.take([0]), rows.take([1]), rows.take([2, 3]))
    subject = subject_of(
        Dataset("given", dataset.users, dataset.catalog, dataset.interactions, provided=provided), split="provided"
    )
    ties = finding_of(audit(subject), "time-ties")
    assert (ties.count, ties.facts["rows not traced"]) == (0, 1)
    assert ties.effect is not None
    assert ties.effect.hr == 0.5
    # The first test row is a training row once more, and the second one shows an item the user never had.
    assert finding_of(audit(subject), "leak-rows").count == 1
    assert finding_of(audit(subject), "leak-history").facts["places that are no event of the user"] == 1


def test_boundary_ties() -> None:
    # Ten rows; rows 7 to 9 share an instant, the cut is behind row 8.
    times = [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    found = [event for user, time in enumerate(times) for event in ((user, 0, 0), (user, 1, time))]
    ties = check("boundary-ties", found, ratios=(8, 0, 2))
    assert (ties.count, ties.out_of, ties.facts["rows before the cut"], ties.facts["rows behind the cut"]) == (
        1,
        2,
        1,
        2,
    )
    assert ties.effect is not None
    assert ties.effect.hr == 0.5
    assert ties.facts["effect of boundary=time, at most"] == pytest.approx(1 / 3)
    by_time = check("boundary-ties", found, ratios=(8, 0, 2), boundary="time")
    assert (by_time.count, by_time.facts["rows behind the cut"], by_time.rating) == (0, 3, "fine")


def test_boundary_ties_of_leave_one_out_are_each_users_own() -> None:
    found = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 3), (1, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4)]
    ties = check("boundary-ties", found, split="leave-one-out")
    assert (ties.count, ties.out_of) == (1, 2)


@pytest.mark.parametrize(
    ("stamps", "count", "words"),
    [
        ([day * DAY_S for day in range(10)], 10, "00:00 UTC: they are days"),
        ([day * DAY_S + 8 * HOUR_S - HOUR_S * (day % 2) for day in range(10)], 10, "midnight of another zone, or an"),
        ([day * DAY_S + 1237 * day for day in range(10)], 0, "finer than days"),
        ([day * DAY_S + 17 for day in range(10)], 0, "finer than days"),
    ],
)
def test_whole_days(stamps: list[int], count: int, words: str) -> None:
    found = check("time-whole-days", [(0, item, stamp) for item, stamp in enumerate(stamps)])
    assert (found.count, found.rating) == (count, "note" if count else "fine")
    assert words in found.found


def test_time_zone_counts_rows_within_fourteen_hours_of_the_cut() -> None:
    hours = [0, 9, 20, 30, 50, 63, 64, 80]  # the cut is at hour 50
    found = [event for user, hour in enumerate(hours) for event in ((user, 0, -1), (user, 1, hour * HOUR_S))]
    zone = check("time-zone", found, ratios=(4, 0, 4))
    assert zone.facts["rows that would leave the test part"] == 2  # hours 50 and 63; a cut at hour 64 keeps that one
    assert zone.facts["that would join it"] == 0
    earlier = check("time-zone", found, ratios=(2, 0, 6))
    assert earlier.facts["that would join it"] == 1  # hour 9, 11 hours before the cut at hour 20
    assert earlier.facts["rows that would leave the test part"] == 2
    assert check("time-zone", [*PLAIN, (1, 0, 0), (1, 1, 1)], split="leave-one-out").count == 0


def test_cold_items_and_users() -> None:
    # Training: user 0 and 1 on items 0..3. Test rows: user 2 (new) on item 1, user 0 on item 5 (new).
    found = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 5, 9), (1, 0, 0), (1, 3, 1), (1, 2, 2), (2, 6, 3), (2, 1, 8)]
    items = check("cold-items", found, ratios=(4, 0, 2))
    assert (items.count, items.out_of, items.rating) == (1, 2, "danger")
    assert items.facts["test rows with no seen item in the history"] == 1  # user 2 has only seen item 6
    users = check("cold-users", found, ratios=(4, 0, 2))
    assert (users.count, users.facts["users"], users.facts["of test users"]) == (1, 1, 2)


def test_an_item_that_only_histories_show_is_cold_by_the_loose_definition_alone() -> None:
    found = [(0, 0, 0), (0, 1, 1), (1, 2, 2), (1, 1, 3), (1, 0, 4)]
    items = check("cold-items", found, ratios=(2, 0, 1))
    assert (items.count, items.facts["test rows on items that are no training target"]) == (0, 1)


def test_leave_one_out_leaks_time() -> None:
    found = [(0, item, item) for item in range(4)] + [(1, item, 10 + item) for item in range(4)]
    leak = check("leak-time", found, split="leave-one-out")
    assert (leak.count, leak.out_of, leak.rating) == (1, 2, "danger")  # user 0 at 3; training ends at 11
    assert leak.facts["training rows after the first test row"] == 1
    assert leak.effect is None
    assert check("leak-time", PLAIN).count == 0


def test_a_history_from_the_future_is_found() -> None:
    dataset = dataset_of([(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4)])
    rows = build_examples([0, 1, 2], [0, 0, 0], [2, 3, 4], [[0], [0, 3], [2]], [1, 2, 3])
    provided = ProvidedSplit(rows.take([0]), rows.take([]), rows.take([1, 2]))
    subject = subject_of(
        Dataset("given", dataset.users, dataset.catalog, dataset.interactions, provided=provided), split="provided"
    )
    leak = finding_of(audit(subject), "leak-history")
    assert (leak.count, leak.rating, leak.examples[0]["example_id"]) == (1, "danger", 1)


def test_popularity() -> None:
    assert most_popular(np.array([3, 5, 3, 0, 1]), 0.4).tolist() == [True, True, False, False, False]
    assert most_popular(np.arange(30), 0.1).sum() == 3
    # Training targets: item 0 four times, 1 and 2 once. Of 10 items the top 20% are 0 and 1. Test targets: 0, 0, 2, 9.
    train = [(user, 9, 0) for user in range(6)]
    targets = [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 0, 4), (4, 1, 5), (5, 2, 6)]
    tests = [(0, 0, 11), (1, 0, 12), (2, 2, 13), (3, 9, 14)]
    titles = [f"Title {letter}" for letter in "abcdefghij"]
    popular = check("popularity", sorted(train + targets + tests, key=lambda e: (e[0], e[2])), titles, ratios=(6, 0, 4))
    assert (popular.count, popular.out_of, popular.rating) == (2, 4, "note")
    assert popular.facts["share of training targets on the top 20%"] == 5 / 6
    # Items 3 to 9 tie at places 4 to 10 of the list for everyone.
    assert popular.effect is not None
    assert popular.effect.hr == pytest.approx(1.0)
    tied = sum(1 / np.log2(place + 1) for place in range(4, 11)) / 7
    second = (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert popular.effect.ndcg == pytest.approx((1 + 1 + second + tied) / 4, abs=1e-12)


def test_data_without_times_are_checked_as_far_as_they_can() -> None:
    order = np.tile(np.arange(5), 3)
    interactions = Interactions(
        np.repeat(np.arange(3), 5).astype(np.int32), np.arange(15).astype(np.int32) % 12, order.astype(np.int64)
    )
    plain = dataset_of([(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    dataset = Dataset("order", plain.users, plain.catalog, interactions, has_time=False)
    report = audit(subject_of(dataset, split="leave-one-out"))
    codes = {one.code for one in report.not_checked}
    assert codes == {"time-ties", "boundary-ties", "time-whole-days", "time-zone", "leak-time", "leak-history"}
    assert len(report.findings) + len(codes) == len(CHECKS)


def test_a_try_out_does_not_judge_its_cuts() -> None:
    dataset, protocol = tiny_dataset(), Protocol(limit_test=10)
    report = audit_dataset(dataset, make_split(dataset, protocol), protocol)
    assert report.limited
    assert [one.code for one in report.not_checked] == ["boundary-ties"]


def test_limits() -> None:
    assert [ROWS.rate(share, 1) for share in (0.0009, 0.001, 0.0499, 0.05)] == ["fine", "note", "note", "danger"]
    assert LEAK.rate(0.001, 1) == "note"
    assert LEAK.rate(0.0, 0) == "fine"
    assert Limits(0.5, None).rate(1.0, 1) == "note"
    assert EFFECT.rule == "by its effect: a note from 0.001, a danger from 0.05"
    assert (percent(0.1374), percent(0.0), percent(0.00081)) == ("13.7%", "0.0%", "0.081%")


def test_an_audit_survives_json() -> None:
    report = audit(subject_of(tiny_dataset()))
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


def test_the_papers_test_rows(shared: Path) -> None:
    """Figures that were measured on the published CDs files when the project was planned."""
    dataset = import_dataset(
        [shared / "data" / "cds_2018_latentr3" / "orig"], ImportOptions("cds", "musics", {}, "utf-8", False), "d3-csv"
    )
    report = audit(subject_of(dataset, split="provided"))
    titles, history = finding_of(report, "titles-shared"), finding_of(report, "target-in-history")
    assert (titles.count, titles.out_of) == (846, 6157)
    assert titles.examples[0]["title"] == "Greatest Hits"
    assert titles.examples[0]["items"] == 54
    assert (history.count, history.facts["as the last item"]) == (65, 63)
    assert finding_of(report, "titles-junk").facts["items markup"] == 29
    assert finding_of(report, "leak-time").count == finding_of(report, "leak-rows").count == 0
