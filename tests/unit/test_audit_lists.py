"""Checks of ranked lists: every fault that lists from elsewhere come with, alone and together."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_audit import dataset_of, finding_of, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.audit.list_scores import check_ties
from recbench.audit.list_subject import ListSubject
from recbench.audit.listfile import Lines, guess_format, read_lines
from recbench.audit.lists import CHECKS, audit_lists
from recbench.audit.subject import Subject
from recbench.contracts.audit import AuditReport, Finding
from recbench.contracts.errors import DataError
from recbench.contracts.protocol import Protocol
from recbench.evaluation.evaluate import evaluate

Line = tuple[int, str, int, float]

#: Twelve items; i3 and i4 share a title, i9 has another twin in i10.
TITLES = [f"Title {letter}" for letter in "abcddefghiij"]


def rows(**protocol: object) -> Subject:
    """Three test rows, 6 to 8 by id, with the targets i1, i3 and i5; the second one has its target in the history."""
    found = [(user, item, place) for user, history in enumerate([[6, 7, 8], [6, 7, 3], [6, 7, 8]])
             for place, item in enumerate(history)]  # fmt: skip
    found += [(user, target, 50 + user) for user, target in enumerate([1, 3, 5])]
    found.sort(key=lambda event: (event[0], event[2]))
    return subject_of(dataset_of(found, TITLES), ratios=(5, 1, 3), **protocol)


def lines_of(lines: Sequence[Line], unreadable: tuple[tuple[int, str], ...] = ()) -> Lines:
    example, item, rank, score = zip(*lines, strict=True)
    return Lines(
        np.arange(1, len(lines) + 1),
        np.array(example, np.int64),
        np.array(item, dtype=object),
        np.array(rank, np.int64),
        np.array(score, np.float64),
        unreadable,
    )


def full_list(example: int, first: Sequence[str], depth: int = 10) -> list[Line]:
    """A sound list: the given items, then others, scores falling."""
    items = list(dict.fromkeys([*first, *(f"i{number}" for number in range(12))]))[:depth]
    return [(example, item, place, 1.0 / place) for place, item in enumerate(items, 1)]


IDS = [int(example) for example in rows().test.example_id]
SOUND = [*full_list(IDS[0], ["i1"]), *full_list(IDS[1], ["i0", "i3"]), *full_list(IDS[2], ["i11", "i10"])]


def audit(lines: Sequence[Line], subject: Subject | None = None, **more: object) -> AuditReport:
    return audit_lists(lines_of(lines, **more), subject or rows(), "a file")  # type: ignore[arg-type]


def check(code: str, lines: Sequence[Line], subject: Subject | None = None) -> Finding:
    return finding_of(audit(lines, subject), code)


def test_sound_lists_are_fine_but_for_their_truths() -> None:
    report = audit(SOUND)
    assert {finding.code for finding in report.findings if finding.rating != "fine"} <= {"lists-two-truths"}
    assert not report.blocks_import
    assert (report.kind, report.source, report.n_test, len(report.findings)) == ("lists", "a file", 3, len(CHECKS))


def test_unknown_examples_say_which_part_they_are_of() -> None:
    report = audit([*SOUND, (0, "i1", 1, 1.0), (5, "i1", 1, 1.0), (77, "i1", 1, 1.0), (77, "i2", 2, 0.5)])
    unknown = finding_of(report, "lists-unknown-examples")
    assert (unknown.count, unknown.out_of, unknown.rating) == (3, 6, "danger")
    assert unknown.facts == {"of training rows": 1, "of validation rows": 1}
    assert unknown.examples[0] == {"line": 31, "example_id": 0, "item_id": "i1", "rank": 1, "score": 1.0}
    assert report.blocks_import


def test_unknown_items_and_repeats_block_an_import() -> None:
    lines = [*SOUND[:10], (IDS[0], "nobody", 11, 0.01), (IDS[0], "i1", 12, 0.001), *SOUND[10:]]
    report = audit(lines)
    unknown, repeated = (finding_of(report, f"lists-{code}") for code in ("unknown-items", "repeated-items"))
    assert (unknown.count, unknown.out_of, unknown.facts) == (1, 32, {"items": 1, "test rows": 1})
    assert unknown.effect is not None
    assert unknown.effect.hr == pytest.approx(1 / 3)
    assert (repeated.count, repeated.examples[0]["line"]) == (1, 12)
    assert report.blocks_import


def test_missing_rows() -> None:
    missing = check("lists-missing", SOUND[:20])
    assert (missing.count, missing.rating) == (1, "danger")
    assert missing.effect is not None
    assert missing.effect.hr == pytest.approx(1 / 3)
    assert missing.examples[0]["example_id"] == IDS[2]


def test_short_lists_are_worth_the_next_place_at_most() -> None:
    lines = [*full_list(IDS[0], ["i1"], 3), *full_list(IDS[1], ["i0", "i2"], 2), *SOUND[20:]]
    short = check("lists-short", lines)
    assert (short.count, short.facts["fewer than 20"]) == (2, 3)
    # The first has its target; the second could have it on place 3.
    assert short.effect is not None
    assert (short.effect.hr, short.effect.ndcg) == (pytest.approx(1 / 3), pytest.approx(0.5 / 3))


def test_scores_against_ranks() -> None:
    lines = [(example, item, rank, float(rank)) for example, item, rank, _ in SOUND]
    rising = check("lists-scores-rise", lines)
    assert (rising.count, rising.out_of, rising.rating) == (3, 3, "danger")
    # Ranks: i1 on 1, i3 on 2, i5 on 8 of 10. Scores turn that around: places 10, 9, 3.
    by_rank = (1 + 1 / np.log2(3) + 1 / np.log2(9)) / 3
    by_score = (1 / np.log2(11) + 1 / np.log2(10) + 1 / np.log2(4)) / 3
    assert rising.effect is not None
    assert rising.effect.exact
    assert (rising.effect.hr, rising.effect.ndcg) == (0.0, pytest.approx(by_rank - by_score, abs=1e-12))
    assert check("lists-scores-rise", SOUND).count == 0


def test_one_score_for_all_places_is_a_danger() -> None:
    ties = check("lists-ties", [(example, item, rank, 0.0) for example, item, rank, _ in SOUND])
    assert (ties.count, ties.facts["lists with one score only"], ties.rating) == (3, 3, "danger")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=12, max_size=12), min_size=3, max_size=3))
def test_the_bound_of_ties_is_the_best_or_the_worst_order(scores: list[list[int]]) -> None:
    subject = rows()
    lines = [(example, f"i{item}", 1, float(score)) for example, one in zip(IDS, scores, strict=True)
             for item, score in enumerate(one)]  # fmt: skip
    finding = check_ties(ListSubject(lines_of(lines), subject))
    assert finding.effect is not None
    ends: dict[str, list[float]] = {"HR@10": [], "NDCG@10": []}
    catalog, users = subject.dataset.catalog, subject.dataset.users
    expected = evaluate(ListSubject(lines_of(lines), subject).by_score, subject.test, catalog, users)
    for nudge in (-0.5, 0.5):  # the target last, or first, of its tie
        moved = [
            (example, item, 1, score + nudge * (item == catalog.ids[subject.test.target[IDS.index(example)]]))
            for example, item, _, score in lines
        ]
        table = evaluate(ListSubject(lines_of(moved), subject).by_score, subject.test, catalog, users)
        for name in ends:
            ends[name].append(abs(table[f"item/{name}"].mean() - expected[f"item/{name}"].mean()))
    assert finding.effect.hr == pytest.approx(max(ends["HR@10"]), abs=1e-12)
    assert finding.effect.ndcg == pytest.approx(max(ends["NDCG@10"]), abs=1e-12)


def test_ranks_with_holes_and_from_zero() -> None:
    ranks = check("lists-ranks", [*((e, i, r - 1, s) for e, i, r, s in SOUND[:10]), *SOUND[11:]])
    assert (ranks.count, ranks.facts["lists that begin with 0"], ranks.rating) == (2, 1, "note")
    assert ranks.effect is not None
    assert ranks.effect.exact
    assert ranks.effect.hr == 0


def test_the_difference_of_the_truths_is_split_exactly() -> None:
    # Target i1 behind both items "i"; target i3 behind its twin i4; target i5 clean.
    lists = [full_list(IDS[0], ["i9", "i10", "i1"]), full_list(IDS[1], ["i4", "i3"]), full_list(IDS[2], ["i5"])]
    truths = check("lists-two-truths", list(itertools.chain(*lists)))
    assert truths.count == 2
    behind = (1 / np.log2(3) - 1 / np.log2(4)) / 3
    own = (1 - 1 / np.log2(3)) / 3
    assert truths.facts["NDCG@10 through targets that share a title"] == pytest.approx(own, abs=1e-12)
    assert truths.facts["NDCG@10 through targets behind such items"] == pytest.approx(behind, abs=1e-12)
    assert truths.effect is not None
    assert (truths.effect.hr, truths.effect.ndcg) == (0.0, pytest.approx(own + behind, abs=1e-12))


def test_lists_that_mask_the_history_on_their_own() -> None:
    without = [line for line in SOUND if line[1] not in ("i3", "i6", "i7", "i8")]
    masked = check("lists-history", without)
    assert (masked.count, masked.rating, masked.facts["lists with an item of their history"]) == (1, "danger", 0)
    under = check("lists-history", SOUND, rows(mask_history=True))
    assert (under.count, under.rating) == (3, "danger")
    assert check("lists-history", without, rows(mask_history=True)).count == 0
    assert check("lists-history", SOUND).count == 0


def test_the_first_row_of_an_instant_may_have_any_of_its_targets() -> None:
    # The user's last three events share a time: its first row may have the targets i1, i2 and i3, the others are left.
    found = [(0, 6, 0), (0, 7, 1), (0, 8, 2), (0, 9, 3), (0, 1, 9), (0, 2, 9), (0, 3, 9)]
    subject = subject_of(dataset_of(found, TITLES), ratios=(3, 0, 3))
    ids = subject.test.example_id.tolist()
    lists = [full_list(ids[0], ["i2", "i1"], 2), full_list(ids[1], ["i2"], 1), full_list(ids[2], ["i5"], 1)]
    order = check("lists-time-order", list(itertools.chain(*lists)), subject)
    assert (order.count, order.out_of) == (1, 3)
    names = ("now", "on average", "at worst", "at best")
    assert [order.facts[f"HR@10 {name}"] for name in names] == pytest.approx([2 / 3, 5 / 9, 1 / 3, 2 / 3])
    second = 1 / np.log2(3)
    expected = [second + 1, (1 + second) / 3 + 1, 1.0, 2.0]
    assert [order.facts[f"NDCG@10 {name}"] for name in names] == pytest.approx([value / 3 for value in expected])
    assert order.effect is not None
    assert order.effect.exact
    assert (order.effect.hr, order.rating) == (pytest.approx(1 / 9), "danger")
    assert check("lists-time-order", SOUND).count == 0


def test_without_times_orders_are_not_checked() -> None:
    timed = dataset_of([(user, (user + place) % 8, place) for user in range(3) for place in range(4)], TITLES)
    subject = subject_of(replace(timed, has_time=False), split="leave-one-out")
    lists = [full_list(example, ["i1"]) for example in subject.test.example_id.tolist()]
    report = audit(list(itertools.chain(*lists)), subject)
    assert [one.code for one in report.not_checked] == ["lists-time-order"]
    assert len(report.findings) == len(CHECKS) - 1


def test_lines_that_cannot_be_read_are_told() -> None:
    bad = finding_of(audit(SOUND, unreadable=((4, "score is 'x', not a number"),)), "lists-unreadable")
    assert (bad.count, bad.out_of, bad.rating, bad.blocks_import) == (1, 31, "danger", True)
    assert "Line 4: score is 'x'" in bad.found


def test_files_are_read_with_their_faults(tmp_path: Path) -> None:
    file = tmp_path / "lists.run.gz"
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.write(
            "5 Q0 a 1 0.5 tag\n\n5 Q0 b 2 0.25 tag more\n5 Q0 c 3\nx Q0 d 4 0.1 tag\n5 Q0 é 5 nan tag\n6 Q0 é 1 3 t\n"
        )
    lines = read_lines(file, "trec")
    assert (lines.number.tolist(), lines.item_id.tolist()) == ([1, 3, 7], ["a", "b", "é"])
    assert (lines.rank.tolist(), lines.score.tolist()) == ([1, 2, 1], [0.5, 0.25, 3.0])
    assert lines.unreadable == (
        (4, "4 fields, expected six"),
        (5, "example_id is 'x', not a whole number"),
        (6, "score is 'nan', not finite"),
    )


def test_csv_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text('score,item_id,example_id,rank,note\n0.5,"a b",5,1,x\n0.25,c,5,two,\n1,d\n')
    lines = read_lines(file, "csv")
    assert (lines.item_id.tolist(), lines.score.tolist(), lines.number.tolist()) == (["a b"], [0.5], [2])
    assert lines.unreadable == (
        (1, "unknown columns 'note'"),
        (3, "rank is 'two', not a whole number"),
        (4, "2 fields, expected 5"),
    )


def test_csv_without_scores_is_ordered_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("example_id,item_id,rank\n5,a,1\n5,b,2\n")
    lines = read_lines(file, "csv")
    assert lines.score.tolist() == [-1.0, -2.0]
    assert lines.strict_order


@pytest.mark.parametrize(
    ("name", "content", "file_format", "words"),
    [
        ("a.run", b"", "trec", "it holds no lines"),
        ("a.run", b"example_id,item_id,rank,score\n1,a,1,1\n", "trec", "--format csv"),
        ("a.csv", b"1 Q0 a 1 1 t\n", "csv", "lacks the columns example_id, item_id, rank"),
        ("a.csv", b"example_id,item_id,rank,score\n", "csv", "it holds no lines"),
        ("a.run", b"\xff\xfe\x00 Q0", "trec", "cannot be read as text"),
        ("a.run.gz", b"1 Q0 a 1 1 t\n", "trec", "cannot be read as text"),
        ("missing.run", None, "trec", "does not exist"),
    ],
)
def test_files_without_lists_are_refused(
    tmp_path: Path, name: str, content: bytes | None, file_format: str, words: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_lines(file, file_format)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_format_by_name() -> None:
    assert [guess_format(Path(name)) for name in ("a.csv", "a.CSV.gz", "a.run", "a.trec.gz", "a")] == [
        "csv", "csv", "trec", "trec", "trec",
    ]  # fmt: skip


def test_protocol_of_the_audit_is_that_of_the_rows() -> None:
    assert audit(SOUND, rows(mask_history=True)).protocol_hash == Protocol(ratios=(5, 1, 3), mask_history=True).hash
