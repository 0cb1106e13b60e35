"""What a comparison says beside differences: seeds, ranks, equivalence, what would decide, t-tests over runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_runs import make_run
from scipy import stats

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import Interval
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.experiment.compare import compare
from recbench.experiment.pairs import CompareOptions, PairFacts, judge
from recbench.stats.equivalence import parse_margin
from recbench.stats.power import Sample


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two methods of three seeds that do the same thing, a weak one of one seed, one fit ranked in two ways."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make_run(folder, "one", quality=0.6, seed=seed)
        make_run(folder, "two", quality=0.6, seed=10 + seed)
        make_run(folder, "beams", quality=0.5, seed=seed, fit_id=f"fit {seed}", config={"search": "beam"})
        make_run(folder, "exact", quality=0.7, seed=seed, fit_id=f"fit {seed}", config={"search": "exact"})
    make_run(folder, "weak", quality=0.0)
    return RunStore(folder)


USERS = Sample(n_users=100, df_users=99, user_variance=0.005)


def facts(**changes) -> PairFacts:
    plain = PairFacts(
        a="a",
        b="b",
        difference=0.1,
        interval=Interval(-0.1, 0.3),
        p_permutation=0.2,
        p_t=0.2,
        t=1.3,
        p_seeds=None,
        effect=0.1,
        wins=3,
        ties=1,
        losses=2,
        user_difference=0.1,
        sample=USERS,
        df=99,
        seeds_paired=False,
        margin=None,
        p_equivalence=None,
        runs_test=None,
    )
    return replace(plain, **changes)


def test_several_seeds_are_in_interval_and_test(store: RunStore) -> None:
    pair = compare(store, ["one", "two"]).pairs[0]
    means = {entry.label: np.array(entry.seed_means) for entry in compare(store, ["one", "two"]).entries}
    variance = sum(one.var(ddof=1) / 3 for one in means.values())
    assert pair.covers_seeds
    assert pair.seed_error == pytest.approx(variance**0.5)
    assert pair.p == max(pair.p_permutation, pair.p_seeds)
    assert pair.p_seeds == pytest.approx(2 * stats.t.sf(abs(pair.difference) / pair.standard_error, pair.df))
    users_only = (pair.standard_error**2 - variance) ** 0.5
    assert pair.interval.high - pair.interval.low > 2 * 1.9 * users_only
    assert not pair.seeds_paired


def test_seed_spread_stands_beside_the_mean(store: RunStore) -> None:
    comparison = compare(store, ["one", "weak"])
    one, weak = comparison.entries
    assert one.seed_sd == pytest.approx(np.std(one.seed_means, ddof=1))
    assert (one.covers_seeds, weak.covers_seeds, weak.seed_sd) == (True, False, None)
    assert any(note.startswith("One seed only: weak.") for note in comparison.notes)


def test_one_seed_each_is_tested_over_users_alone(tmp_path: Path) -> None:
    make_run(tmp_path, "one", quality=0.9)
    make_run(tmp_path, "two", quality=0.1)
    pair = compare(RunStore(tmp_path), ["one", "two"]).pairs[0]
    assert (pair.p_seeds, pair.seed_error, pair.seeds_needed, pair.covers_seeds) == (None, None, None, False)
    assert pair.p == pair.p_permutation


def test_two_ways_of_ranking_with_the_same_models_are_paired_by_seed(store: RunStore) -> None:
    pair = compare(store, ["exact", "beams"]).pairs[0]
    a, b = (np.array(entry.seed_means) for entry in compare(store, ["exact", "beams"]).entries)
    assert pair.seeds_paired
    assert pair.seed_error == pytest.approx((a - b).std(ddof=1) / 3**0.5)


def test_ranks_of_all_entries(store: RunStore) -> None:
    comparison = compare(store, ["one", "two", "weak"])
    ranks = {entry.label: (entry.rank_low, entry.rank_high, entry.in_best_set) for entry in comparison.entries}
    assert ranks == {"one": (1, 2, True), "two": (1, 2, True), "weak": (3, 3, False)}
    assert {entry.label: entry.better_than for entry in comparison.entries} == {
        "one": ("weak",),
        "two": ("weak",),
        "weak": (),
    }


def test_equivalence_needs_a_margin_and_evidence(store: RunStore) -> None:
    assert compare(store, ["one", "two"]).pairs[0].p_equivalence is None
    wide = compare(store, ["one", "two"], options=CompareOptions(margin=parse_margin("0.5"))).pairs[0]
    assert (wide.verdict, wide.equivalent, wide.margin) == ("equivalent", True, 0.5)
    narrow = compare(store, ["one", "two"], options=CompareOptions(margin=parse_margin("0.001"))).pairs[0]
    assert (narrow.verdict, narrow.equivalent) == ("undecided", False)
    assert narrow.p_equivalence > 0.05


def test_a_relative_margin_is_of_the_second_ones_mean(store: RunStore) -> None:
    options = CompareOptions(margin=parse_margin("10%"))
    comparison = compare(store, ["one"], baseline="weak", options=options)
    weak = next(entry for entry in comparison.entries if entry.label == "weak")
    assert comparison.pairs[0].margin == pytest.approx(0.1 * weak.mean)
    assert comparison.margin == "10%"


def test_a_certain_but_small_difference_is_better_and_within_the_margin() -> None:
    pair = judge([facts(p_permutation=0.001, p_equivalence=0.002, margin=0.2)], CompareOptions())[0]
    assert (pair.verdict, pair.equivalent) == ("better", True)


def test_verdicts_are_adjusted_over_the_family() -> None:
    alone = judge([facts(p_permutation=0.03)], CompareOptions())[0]
    assert alone.verdict == "better"
    family = [facts(p_permutation=0.03), facts(p_permutation=0.8, difference=-0.1)]
    assert [pair.verdict for pair in judge(family, CompareOptions())] == ["undecided", "undecided"]
    assert [pair.p_adjusted for pair in judge(family, CompareOptions())] == pytest.approx([0.06, 0.8])


def test_exploration_finds_more_than_confirmation() -> None:
    family = [facts(p_permutation=p) for p in (0.01, 0.02, 0.03, 0.04)]
    holm, bh = (judge(family, CompareOptions(correction=one)) for one in ("holm", "bh"))
    assert [pair.verdict for pair in holm] == ["better", "undecided", "undecided", "undecided"]
    assert [pair.verdict for pair in bh] == ["better"] * 4


def test_seeds_can_keep_users_from_deciding() -> None:
    sample = replace(USERS, n_seeds=2, seed_variance=0.01)
    pair = judge([facts(p_permutation=0.001, p_seeds=0.3, sample=sample, df=3)], CompareOptions())[0]
    assert (pair.p, pair.verdict) == (0.3, "undecided")
    assert pair.users_needed is None  # the seeds alone have an error of 0.1, as large as the difference
    assert pair.seeds_needed is None  # and the users alone have one of 0.07
    assert pair.multiple_needed > 1
    assert pair.detectable > 3 * (0.015**0.5)  # few degrees of freedom


def test_what_would_decide_is_said_of_undecided_pairs_only() -> None:
    undecided, decided = judge([facts(), facts(p_permutation=0.0001)], CompareOptions())
    assert undecided.users_needed is not None
    assert undecided.users_needed > 100
    assert (decided.users_needed, decided.seeds_needed) == (None, None)
    assert undecided.detectable_adjusted > undecided.detectable > 0.1
    assert judge([facts(difference=0.0)], CompareOptions())[0].users_needed is None


def test_a_test_without_result_counts_in_the_family_but_finds_nothing() -> None:
    pairs = judge([facts(p_equivalence=0.02, margin=1.0), facts()], CompareOptions())
    assert pairs[0].p_equivalence_adjusted == pytest.approx(0.04)
    assert pairs[1].p_equivalence_adjusted is None


def test_t_test_over_runs_is_scipys(store: RunStore) -> None:
    comparison = compare(store, ["one", "two"], options=CompareOptions(runs_test="welch"))
    a, b = (entry.seed_means for entry in comparison.entries)
    test = comparison.pairs[0].runs_test
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert (test.t, test.df, test.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    assert (test.kind, test.n_a, test.n_b, test.p_adjusted) == ("welch", 3, 3, test.p)


def test_t_test_over_runs_needs_runs_and_common_seeds(store: RunStore) -> None:
    with pytest.raises(UsageError, match="needs two or more runs of each entry; there is one run of weak"):
        compare(store, ["one", "weak"], options=CompareOptions(runs_test="welch"))
    with pytest.raises(UsageError, match=r"paired by seed needs the same seeds.*(0, 1, 2|10, 11, 12)"):
        compare(store, ["one", "two"], options=CompareOptions(runs_test="paired"))
    paired = compare(store, ["exact", "beams"], options=CompareOptions(runs_test="paired")).pairs[0].runs_test
    assert paired.kind == "paired"


def test_labels_stand_for_their_entry(tmp_path: Path) -> None:
    for beams in (10, 20):
        for seed in range(2):
            make_run(tmp_path, "bigrec", backbone="nano", seed=seed, config={"beams": beams}, quality=beams / 25)
    make_run(tmp_path, "weak", quality=0.0)
    comparison = compare(RunStore(tmp_path), ["bigrec (nano, beams=20)"], baseline="weak")
    assert comparison.entries[0].seeds == (0, 1)
    assert comparison.entries[0].label == "bigrec (nano)"  # alone in its table, it needs no more
    with pytest.raises(UsageError, match=r"No entry is labelled 'bigrec \(nano, beams=30\)'; there are: bigrec \(nano"):
        compare(RunStore(tmp_path), ["bigrec (nano, beams=30)", "weak"])


def test_json_holds_everything_without_nan(store: RunStore) -> None:
    options = CompareOptions(margin=parse_margin("2%"), runs_test="welch", correction="bh")
    document = compare(store, ["one", "two"], options=options).to_json()
    text = json.dumps(document, allow_nan=False)
    for key in ("p_adjusted", "detectable_adjusted", "users_needed", "rank_low", "seed_sd", "exploratory", "runs_test"):
        assert f'"{key}"' in text
    assert document["exploratory"] is True


def test_few_users_are_warned_of(store: RunStore) -> None:
    comparison = compare(store, ["one", "weak"])
    warned = any("tell as much as" in note for note in comparison.notes)
    assert warned == (comparison.effective_users < 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.loc[[0, 0, *range(1, len(table))]], "has example .* more than once"),
        (lambda table: table.assign(**{"item/NDCG@10": np.nan}), "has no number for item/NDCG@10 of example"),
        (lambda table: table.assign(user_id="nobody"), "disagree on the user_id of .* nobody against"),
        (lambda table: table.drop(columns="user_id"), "lacks the columns user_id"),
    ],
)
def test_damaged_metrics_are_refused_naming_the_first_fault(tmp_path: Path, change, message: str) -> None:
    make_run(tmp_path, "one")
    run = make_run(tmp_path, "two")
    change(run.metrics()).to_parquet(run.paths.metrics)
    run.update_hashes([run.paths.metrics])
    with pytest.raises(ArtifactError, match=message):
        compare(RunStore(tmp_path), ["one", "two"])
