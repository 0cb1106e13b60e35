"""What is wrong with lists before any score is looked at: unknown names, repeats, and what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbench.audit.build import BROKEN, at_most, make_finding, of, percent
from recbench.audit.list_subject import ListSubject
from recbench.audit.subject import MAX_EXAMPLES
from recbench.contracts.audit import EFFECT_CUTOFF, Finding


def check_unreadable(subject: ListSubject) -> Finding:
    """Find lines that cannot be read."""
    bad = subject.lines.unreadable
    total = len(bad) + len(subject.lines)
    return make_finding(
        "lists-unreadable",
        "lines that cannot be read",
        count=len(bad),
        out_of=total,
        unit="lines",
        limits=BROKEN,
        effect="What such a line should have said is not known.",
        short=f"{len(bad):,} lines cannot be read",
        found=f"{of(len(bad), total, 'lines')} cannot be read." + (f" Line {bad[0][0]}: {bad[0][1]}." if bad else ""),
        advice="Write example_id, item_id, rank and a finite score in every line." if bad else "Nothing to do.",
        examples=[{"line": number, "fault": fault} for number, fault in bad[:MAX_EXAMPLES]],
        blocks_import=True,
    )


def check_unknown_examples(subject: ListSubject) -> Finding:
    """Find example ids that are no test rows."""
    ids = np.unique(subject.lines.example_id)
    unknown = np.unique(subject.lines.example_id[subject.row < 0])
    split = subject.data.split
    elsewhere = {
        "of training rows": int(np.isin(unknown, split.train.example_id).sum()),
        "of validation rows": int(np.isin(unknown, split.valid.example_id).sum()),
    }
    named = ", ".join(f"{number:,} {what}" for what, number in elsewhere.items() if number)
    return make_finding(
        "lists-unknown-examples",
        "lists for unknown examples",
        count=len(unknown),
        out_of=len(ids),
        unit="example ids",
        limits=BROKEN,
        effect="They belong to no test row, so they change no metric; the rows they were meant for are among the "
        "missing.",
        short=f"{len(unknown):,} example ids are no test rows",
        found=f"{of(len(unknown), len(ids), 'example ids')} are not among the {subject.n:,} test rows"
        + (f" ({named})." if named else "."),
        advice="The lists were made on another split or other data: 'recbench runs export RUN --qrels FILE' of any run "
        "under the same protocol shows the right ids."
        if len(unknown)
        else "Nothing to do.",
        facts=elsewhere,
        examples=subject.lines_like(subject.row < 0),
        blocks_import=True,
    )


def check_unknown_items(subject: ListSubject) -> Finding:
    """Find items that are not in the catalogue."""
    unknown = subject.item < 0
    rows = subject.rows_of(unknown)
    names = pd.unique(subject.lines.item_id[unknown])
    return make_finding(
        "lists-unknown-items",
        "items that are not in the catalogue",
        count=int(unknown.sum()),
        out_of=len(subject.lines),
        unit="lines",
        limits=BROKEN,
        effect=at_most(
            rows.mean() if subject.n else 0.0, "leaving these items out: only lists that hold one of them change"
        ),
        short=f"{len(names):,} item ids are not in the catalogue",
        found=f"{of(int(unknown.sum()), len(subject.lines), 'lines')} name {len(names):,} items that are not in the "
        f"catalogue of {len(subject.data.dataset.catalog):,}, in the lists of "
        f"{of(int(rows.sum()), subject.n, 'test rows')}.",
        advice="Write external item ids, as 'recbench datasets export' shows them; numbers of another program are not "
        "ids."
        if unknown.any()
        else "Nothing to do.",
        facts={"items": len(names), "test rows": int(rows.sum())},
        examples=subject.lines_like(unknown),
        blocks_import=True,
    )


def check_repeated_items(subject: ListSubject) -> Finding:
    """Find lists that hold an item more than once."""
    rows = subject.rows_of(subject.repeated)
    return make_finding(
        "lists-repeated-items",
        "items twice in a list",
        count=int(subject.repeated.sum()),
        out_of=len(subject.lines),
        unit="lines",
        limits=BROKEN,
        effect=at_most(
            rows.mean() if subject.n else 0.0, "leaving the repeats out: only lists that hold one of them change"
        ),
        short=f"{int(subject.repeated.sum()):,} lines repeat an item of their list",
        found=f"{of(int(subject.repeated.sum()), len(subject.lines), 'lines')} name an item that their list has "
        f"already, in the lists of {of(int(rows.sum()), subject.n, 'test rows')}.",
        advice="Keep the best place of each item only." if subject.repeated.any() else "Nothing to do.",
        facts={"test rows": int(rows.sum())},
        examples=subject.lines_like(subject.repeated),
        blocks_import=True,
    )


def check_missing(subject: ListSubject) -> Finding:
    """Find test rows without a list."""
    rows = subject.by_score.lengths == 0
    count = int(rows.sum())
    share = count / subject.n if subject.n else 0.0
    return make_finding(
        "lists-missing",
        "test rows without a list",
        count=count,
        out_of=subject.n,
        effect=at_most(share, "answering these rows too: they count as misses"),
        short=f"{percent(share)} of test rows have no list and count as misses",
        found=f"{of(count, subject.n, 'test rows')} have no list, or none with a known item; they count as misses.",
        advice="Rank every test row; a program that leaves rows out measures itself on the easy ones."
        if count
        else "Nothing to do.",
        examples=subject.rows_like(rows),
    )


def check_short(subject: ListSubject) -> Finding:
    """Find lists that end before place 10."""
    lengths = subject.by_score.lengths
    rows = (lengths > 0) & (lengths < EFFECT_CUTOFF)
    open_rows = rows & (subject.places(subject.by_score)[0] == 0)
    gain = np.where(open_rows, 1.0 / np.log2(lengths + 2.0), 0.0)
    largest = max(subject.data.protocol.cutoffs)
    count = int(rows.sum())
    return make_finding(
        "lists-short",
        f"lists of fewer than {EFFECT_CUTOFF} items",
        count=count,
        out_of=subject.n,
        effect=at_most(
            open_rows.mean() if subject.n else 0.0,
            "filling the lists up behind their end: the next place at best",
            ndcg=gain.mean() if subject.n else 0.0,
        ),
        short=f"{percent(count / subject.n if subject.n else 0.0)} of lists have fewer than {EFFECT_CUTOFF} items",
        found=f"{of(count, subject.n, 'test rows')} have a list of fewer than {EFFECT_CUTOFF} items; "
        f"{int(((lengths > 0) & (lengths < largest)).sum()):,} have fewer than {largest}, the largest cutoff.",
        advice="Write as many places as the largest cutoff asks for." if count else "Nothing to do.",
        facts={f"fewer than {largest}": int(((lengths > 0) & (lengths < largest)).sum())},
        examples=subject.rows_like(rows),
    )


def report_changed(changed: tuple[str, ...]) -> Finding:
    """Tell what has changed in a stored run since it was complete."""
    return make_finding(
        "run-changed",
        "files that changed since the run was complete",
        count=len(changed),
        out_of=len(changed),
        unit="files",
        limits=BROKEN,
        effect="What the files were is not known.",
        short=f"{len(changed):,} files changed since the run was complete",
        found=f"Since the run was complete: {'; '.join(changed)}.",
        advice="Restore the files, or make the run again with --again.",
        examples=[{"file": change} for change in changed[:MAX_EXAMPLES]],
    )
