"""Which differences are more than chance? The table of pairs and what its numbers mean."""

from __future__ import annotations

from recbench.contracts.comparison import CORRECTION_TEXT, ComparedPair, Comparison
from recbench.report.document import Column, Row, Section, Table

_RUNS_TEST = {"welch": "Welch's t-test", "paired": "t-test paired by seed"}


def comparison_section(comparison: Comparison) -> Section | None:
    """Return the section on the pairs of a comparison, or None where there is no pair."""
    if not comparison.pairs:
        return None
    title = f"What differs from {comparison.baseline}?" if comparison.baseline else "Which differences are real?"
    return Section(
        slug="comparison",
        title=title,
        paragraphs=tuple(explanation(comparison)),
        warnings=tuple(warnings(comparison)),
        tables=(pair_table(comparison),),
    )


def entry_table(comparison: Comparison) -> Table:
    """Return one line per entry: mean, interval, seeds, ranks. Bold: entries that may be the best."""
    columns = [
        Column("label", "Entry"),
        Column("mean", comparison.metric, "metric"),
        Column("interval", f"{comparison.level:.0%} interval", "interval"),
        Column("seed_sd", "sd of seeds", "metric", "standard deviation of the seeds' means"),
        Column("rank", "Rank", "range", "ranks that the data allow, for all entries at once"),
        Column("seeds", "Seeds"),
        Column("runs", "Runs", "code"),
    ]
    rows = [
        Row(
            {
                "label": entry.label,
                "mean": entry.mean,
                "interval": entry.interval,
                "seed_sd": entry.seed_sd,
                "rank": None if entry.rank_low is None else (entry.rank_low, entry.rank_high),
                "seeds": " ".join(map(str, entry.seeds)),
                "runs": " ".join(entry.run_ids),
            },
            bold=frozenset({"label", "mean"}) if entry.in_best_set else frozenset(),
        )
        for entry in comparison.entries
    ]
    notes = ("Bold: no other entry is significantly better.",)
    return Table("entries", _heading(comparison), tuple(columns), tuple(rows), notes)


def pair_table(comparison: Comparison) -> Table:
    """Return one line per pair. Columns that people rarely ask for are marked as details."""
    columns = _columns(comparison)
    rows = [
        Row(_values(pair, comparison), bold=frozenset({"verdict"}) if pair.verdict != "undecided" else frozenset())
        for pair in comparison.pairs
    ]
    return Table("pairs", _heading(comparison), tuple(columns), tuple(rows), headline=True)


def explanation(comparison: Comparison, *others: Comparison) -> list[str]:
    """Return, in words, what the numbers of :func:`pair_table` mean: one paragraph for each question.

    Args:
        comparison: what is explained.
        others: further ones of the same family.
    """
    adjusted = CORRECTION_TEXT[comparison.correction]
    promise = (
        "the chance of any wrong “better” or “worse” among them"
        if comparison.correction == "holm"
        else "the expected share of wrong ones among “better” and “worse”"
    )
    pairs = [pair for one in (comparison, *others) for pair in one.pairs]
    seeds = any(pair.covers_seeds for pair in pairs)
    drawn = "users, and over the seeds of entries that have two or more" if seeds else "users"
    with_seeds = " Where there are seeds, the p-value of a t-test over users and seeds counts if it is larger."
    words = [
        f"The user is the unit. Intervals: bootstrap over {drawn} ({comparison.n_resamples:,} resamples). p: two-sided "
        f"sign-flip permutation test over users ({comparison.n_flips:,} flips).{with_seeds if seeds else ''}",
        f"p ({adjusted}): adjusted over {_family(comparison)}; a verdict needs it below {comparison.alpha:g}, which "
        f"bounds {promise}. Detectable: the smallest true difference that these tests find with a chance of "
        f"{comparison.power:.0%}. Would decide: users in all, or seeds per entry, that would settle an undecided pair "
        "with that chance if the difference stayed as it is.",
    ]
    if comparison.margin:
        words.append(
            f"Equivalent: two one-sided tests find the difference within ± {comparison.margin}"
            f"{' of the mean of B' if comparison.margin.endswith('%') else ''}, adjusted in the same way."
        )
    kinds = {pair.runs_test.kind for pair in pairs if pair.runs_test}
    words += [
        f"p (runs): {_RUNS_TEST[kind]} over run means, as published, adjusted in the same way. It asks whether new "
        "runs on these users would differ, not whether other users would agree; verdicts do not use it."
        for kind in sorted(kinds)
    ]
    return words


def verdict_text(pair: ComparedPair) -> str:
    """Return what A is, in words."""
    small = pair.equivalent and pair.verdict != "equivalent"
    return f"{pair.verdict}, within the margin" if small else pair.verdict


def needed_text(pair: ComparedPair, n_users: int) -> str:
    """Return how many users or seeds (or both, where one alone would not) decide an undecided pair; else ""."""
    if pair.verdict != "undecided":
        return ""
    ways = []
    if pair.seeds_needed is not None:
        ways.append(f"{pair.seeds_needed:,} seeds")
    if pair.users_needed is not None:
        ways.append(f"{pair.users_needed:,} users ({pair.users_needed / n_users:.1f}×)")
    if not ways and pair.multiple_needed is not None:
        return f"{pair.multiple_needed:,}× the users and seeds"
    return " or ".join(ways) or f"over 1,000× the users{' and seeds' if pair.covers_seeds else ''}"


def _heading(comparison: Comparison) -> str:
    family = f"{comparison.family}: " if comparison.family else ""
    mark = " [TRY-OUT: rows were left out]" if comparison.limited else ""
    explored = " [exploratory]" if comparison.exploratory else ""
    size = f"{comparison.n_examples:,} examples of {comparison.n_users:,} users"
    return f"{family}{comparison.dataset}, {comparison.metric} by {comparison.truth}, {size}{mark}{explored}"


def _family(comparison: Comparison) -> str:
    if comparison.family:
        return f"the {comparison.n_tests} tests of the family “{comparison.family}”"
    return f"these {comparison.n_tests} comparisons" if comparison.n_tests > 1 else "this one comparison"


def warnings(comparison: Comparison) -> list[str]:
    """Return what must be known before the verdicts are read."""
    found = []
    if comparison.exploratory:
        found.append(
            "Exploratory: p-values are adjusted by Benjamini-Hochberg. What stands out here is a lead to be confirmed "
            "on a declared family, not a result."
        )
    if comparison.entries and comparison.baseline == comparison.entries[0].label and len(comparison.entries) > 2:
        found.append(
            f"{comparison.baseline} has the highest mean here. If it was chosen for that, luck helped it, and “worse” "
            "comes a little too easily; the ranges of ranks allow for that."
        )
    return found


def _columns(comparison: Comparison) -> list[Column]:
    adjusted = CORRECTION_TEXT[comparison.correction]
    columns = [
        Column("a", "A"),
        Column("b", "B"),
        Column("difference", "A − B", "signed", "mean of A minus mean of B"),
        Column("interval", f"{comparison.level:.0%} interval", "signed_interval"),
        Column("p_adjusted", f"p ({adjusted})", "p", "the p-value that decides, adjusted over the family"),
        Column("p", "p", "p", "the p-value that decides, not adjusted", True),
        Column("p_permutation", "p (users)", "p", "sign-flip permutation test over users", True),
        Column("p_seeds", "p (users and seeds)", "p", "t-test whose error covers users and seeds", True),
        Column("p_t", "p (t-test)", "p", "t-test over users with jackknife error", True),
        Column("effect", "Effect d", "effect", "difference in standard deviations of users' contributions", True),
        Column("standard_error", "Standard error", "metric", "of the difference, over users and seeds", True),
        Column("df", "df", "number", "degrees of freedom of the standard error", True),
        Column(
            "user_difference", "A − B over users", "signed", "mean of the users' own means: users count alike", True
        ),
        Column("detectable_adjusted", "Detectable", "metric", "smallest true difference that would be found"),
        Column("detectable", "Detectable alone", "metric", "the same for a single test", True),
        Column("users", "Users + / = / −", "text", "users for whom A is better, equal, worse"),
    ]
    if comparison.margin:
        columns += [
            Column("margin", "Margin", "metric", "differences up to this count as equal", True),
            Column("p_equivalence_adjusted", f"p (equivalent, {adjusted})", "p", "two one-sided t-tests"),
        ]
    if any(pair.runs_test for pair in comparison.pairs):
        columns += [
            Column("runs_p", "p (runs)", "p", "t-test over run means, not adjusted", True),
            Column("runs_p_adjusted", f"p (runs, {adjusted})", "p", "t-test over run means"),
        ]
    return [*columns, Column("verdict", "A is"), Column("needed", "Would decide", "text", "", False)]


def _values(pair: ComparedPair, comparison: Comparison) -> dict[str, object]:
    fields = (
        "a b difference interval p_adjusted p p_permutation p_seeds p_t effect standard_error df user_difference "
        "detectable_adjusted detectable margin p_equivalence_adjusted"
    )
    return {
        **{name: getattr(pair, name) for name in fields.split()},
        "users": f"{pair.wins} / {pair.ties} / {pair.losses}",
        "runs_p": pair.runs_test.p if pair.runs_test else None,
        "runs_p_adjusted": pair.runs_test.p_adjusted if pair.runs_test else None,
        "verdict": verdict_text(pair),
        "needed": needed_text(pair, comparison.n_users),
    }
