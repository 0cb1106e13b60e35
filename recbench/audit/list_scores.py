"""What the scores of lists leave open: their order, their ties, and the two truths."""

from __future__ import annotations

import numpy as np

from recbench.audit.build import BROKEN, EFFECT, ROWS, Limits, at_most, exactly, make_finding, of, percent
from recbench.audit.list_subject import ListSubject
from recbench.audit.subject import any_in_row
from recbench.contracts.audit import EFFECT_CUTOFF, Finding
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import target_places, title_lists

_MEASURES = ("HR", "NDCG")


def check_rising(subject: ListSubject) -> Finding:
    """Find lists whose scores rise with the rank, so that scores and ranks order them differently."""
    lines = subject.lines
    known = np.flatnonzero(subject.row >= 0)
    order = known[np.lexsort((lines.rank[known], subject.row[known]))]
    row, rank, score = subject.row[order], lines.rank[order], lines.score[order]
    rises = np.zeros(len(order), dtype=bool)
    rises[1:] = (row[1:] == row[:-1]) & (rank[1:] > rank[:-1]) & (score[1:] > score[:-1])
    flags = np.zeros(len(lines), dtype=bool)
    flags[order[rises]] = True
    rows = subject.rows_of(flags)
    by_score, by_rank = (_metrics(*subject.places(lists)) for lists in (subject.by_score, subject.by_rank))
    count, answered = int(rows.sum()), int((subject.by_score.lengths > 0).sum())
    return make_finding(
        "lists-scores-rise",
        "scores that rise with the rank",
        count=count,
        out_of=answered,
        unit="lists",
        limits=Limits(0.0, 0.001),
        effect=exactly(
            abs(by_score["HR"] - by_rank["HR"]),
            abs(by_score["NDCG"] - by_rank["NDCG"]),
            "reading the lists by rank instead of by score",
        ),
        short=f"{count:,} lists have scores that contradict their ranks",
        found=f"In {of(count, answered, 'lists')} a later rank has a higher score. TREC's tools, and recbench, take "
        f"the order from the scores: HR@10 {by_score['HR']:.4f}; by the ranks it would be {by_rank['HR']:.4f}.",
        advice="Write scores that are higher for better places (a loss, a distance or a place: with a minus sign)."
        if count
        else "Nothing to do.",
        facts={
            f"{name}@10 by {what}": value
            for what, metrics in (("score", by_score), ("rank", by_rank))
            for name, value in metrics.items()
        },
        examples=subject.lines_like(flags),
        blocks_import=subject.lines.strict_order,
    )


_TIES = Limits(0.001, 0.05, "its effect, or the share of lists with one score only")


def check_ties(subject: ListSubject) -> Finding:
    """Find targets that are tied, and what the order inside their tie decides."""
    lists = subject.by_score
    first, last = subject.places(lists)
    rows = last > first
    expected, best, worst = _metrics(first, last), _metrics(first, first), _metrics(last, last)
    bounds = {name: max(best[name] - expected[name], expected[name] - worst[name]) for name in _MEASURES}
    row = np.repeat(np.arange(subject.n), lists.lengths)
    differs = np.bincount(row[1:][(row[1:] == row[:-1]) & (lists.scores[1:] != lists.scores[:-1])], minlength=subject.n)
    constant = (lists.lengths > 1) & (differs == 0)
    several = int((lists.lengths > 1).sum())
    count, n_constant = int(rows.sum()), int(constant.sum())
    return make_finding(
        "lists-ties",
        "targets that are tied",
        count=max(count, n_constant),
        out_of=max(subject.n, 1),
        rated=max(bounds["HR"], n_constant / several if several else 0.0),
        limits=_TIES,
        effect=at_most(bounds["HR"], "a best or worst order of every tie instead of the expectation", bounds["NDCG"]),
        short=f"{percent(count / subject.n if subject.n else 0.0)} of test targets are tied with other items",
        found=f"{of(count, subject.n, 'test rows')} have their target tied with other items; recbench takes the "
        f"expectation over the order: HR@10 {expected['HR']:.4f}, at best {best['HR']:.4f}, at worst "
        f"{worst['HR']:.4f}. {of(n_constant, several, 'lists')} have the same score in all places.",
        advice="Write different scores for different places (minus the rank will do) unless the items are really equal."
        if count or n_constant
        else "Nothing to do.",
        facts={
            "lists with one score only": n_constant,
            **{f"{name}@10 {what}": metrics[name] for what, metrics in
               (("expected", expected), ("at best", best), ("at worst", worst)) for name in _MEASURES},
        },
        examples=subject.rows_like(rows if count else constant),
    )  # fmt: skip


def check_ranks(subject: ListSubject) -> Finding:
    """Find lists whose ranks are not 1, 2, 3, ... ."""
    lines = subject.lines
    known = np.flatnonzero(subject.row >= 0)
    order = known[np.lexsort((lines.rank[known], subject.row[known]))]
    row = subject.row[order]
    counts = np.bincount(row, minlength=subject.n)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(order)) - start + 1
    wrong = np.zeros(len(lines), dtype=bool)
    wrong[order[lines.rank[order] != place]] = True
    rows, answered = subject.rows_of(wrong), int((counts > 0).sum())
    from_zero = int((lines.rank[order][place == 1] == 0).sum())
    return make_finding(
        "lists-ranks",
        "ranks with holes",
        count=int(rows.sum()),
        out_of=answered,
        unit="lists",
        limits=BROKEN if subject.lines.strict_order else Limits(0.0, None),
        effect=exactly(0.0, 0.0, "another numbering: metrics use the scores, and ranks not at all"),
        short=f"{int(rows.sum()):,} lists have ranks other than 1, 2, 3, ...",
        found=f"{of(int(rows.sum()), answered, 'lists')} have ranks other than 1, 2, 3, ... ({from_zero:,} begin "
        "with 0).",
        advice="Check that no places were lost on the way (a filter after ranking, a join)."
        if rows.any()
        else "Nothing to do.",
        facts={"lists that begin with 0": from_zero},
        examples=subject.lines_like(wrong),
        blocks_import=subject.lines.strict_order,
    )


def check_truths(subject: ListSubject) -> Finding:
    """Split the difference of title and item truth: targets that share a title, and targets behind such items."""
    group = subject.data.dataset.catalog.title_group
    target = subject.data.test.target
    item = subject.places(subject.by_score)
    title = target_places(title_lists(subject.by_score, group), group[target])
    shared = (np.bincount(group) > 1)[group[target]]
    gaps = {name: _values(name, *title) - _values(name, *item) for name in _MEASURES}
    own = {name: float(gap[shared].sum() / max(subject.n, 1)) for name, gap in gaps.items()}
    pushed = {name: float(gap[~shared].sum() / max(subject.n, 1)) for name, gap in gaps.items()}
    total = {name: own[name] + pushed[name] for name in _MEASURES}
    rows = gaps["NDCG"] != 0
    count = int(rows.sum())
    return make_finding(
        "lists-two-truths",
        "title truth above item truth",
        count=count,
        out_of=subject.n,
        rated=total["HR"],
        limits=EFFECT,
        effect=exactly(total["HR"], total["NDCG"], "the title truth minus the item truth"),
        short=f"title HR@10 lies {total['HR']:.4f} above item HR@10",
        found=f"In {of(count, subject.n, 'test rows')} the two truths differ. HR@10 by title lies {total['HR']:.4f} "
        f"above that by item: {own['HR']:.4f} through targets that share their title, {pushed['HR']:.4f} through "
        "targets behind items that share one.",
        advice="Read both truths side by side." if count else "Nothing to do.",
        facts={
            **{f"{name}@10 through targets that share a title": value for name, value in own.items()},
            **{f"{name}@10 through targets behind such items": value for name, value in pushed.items()},
        },
        examples=subject.rows_like(rows),
    )


def check_history(subject: ListSubject) -> Finding:
    """Find lists that treat items of the history otherwise than the protocol does."""
    test, lists = subject.data.test, subject.by_score
    n_items = max(len(subject.data.dataset.catalog), 1)
    listed = np.repeat(np.arange(subject.n), lists.lengths) * np.int64(n_items) + lists.items
    shown = np.repeat(np.arange(subject.n), test.history_length) * np.int64(n_items) + test.items
    holds = any_in_row(np.isin(shown, listed), test)
    n_holds = int(holds.sum())
    repeats = subject.data.target_in_history
    if subject.data.protocol.mask_history:
        rows, limits = holds, Limits(0.0, 0.01)
        says = "leaving these items out: only lists that hold one of them change"
        found = f"{of(n_holds, subject.n, 'lists')} hold items of the history, which this protocol takes out."
        advice = "Take the history out of the lists, or measure them under protocol.mask_history=false."
    else:
        # No list at all with an item of its history cannot be chance.
        rows, limits = repeats if not n_holds else np.zeros(subject.n, dtype=bool), ROWS
        says = "listing these targets, which stand in the history; items taken out also let others move up"
        found = f"{of(n_holds, subject.n, 'lists')} hold an item of their history" + (
            "." if n_holds else ": the program seems to take them out, and this protocol does not."
        )
        advice = "Keep items of the history in the lists, or measure all methods under protocol.mask_history=true."
    count = int(rows.sum())
    share = count / subject.n if subject.n else 0.0
    return make_finding(
        "lists-history",
        "items of the history in the lists",
        count=count,
        out_of=subject.n,
        limits=limits,
        effect=at_most(share, says),
        short=f"{count:,} lists treat items of the history otherwise than the protocol",
        found=found,
        advice=advice if count else "Nothing to do.",
        facts={"lists with an item of their history": n_holds},
        examples=subject.rows_like(rows),
    )


def _values(name: str, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return expected_metric(name, first, last, EFFECT_CUTOFF)


def _metrics(first: np.ndarray, last: np.ndarray) -> dict[str, float]:
    return {name: float(_values(name, first, last).mean()) if len(first) else 0.0 for name in _MEASURES}
