"""Selecting, aligning and comparing runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.protocol import Protocol
from recbench.experiment.align import align
from recbench.experiment.compare import compare
from recbench.experiment.entries import group_by_identity, label_entries
from recbench.experiment.select import select
from recbench.testing.tiny import tiny_dataset


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def three_methods(tmp_path_factory: pytest.TempPathFactory):
    """A good method with three seeds, a weaker and a very weak one, on one data set."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {
        "good": [make_run(folder, "good", quality=0.9, seed=seed, backbone="nano") for seed in range(3)],
        "weaker": [make_run(folder, "weaker", quality=0.4)],
        "weak": [make_run(folder, "weak", quality=0.0)],
    }
    return RunStore(folder), runs


def test_entries_average_seeds_per_example(three_methods) -> None:
    store, runs = three_methods
    comparison = compare(store, ["good", "weak"])
    good = comparison.entries[0]
    assert good.label == "good (nano)"
    assert good.seeds == (0, 1, 2)
    means = [run.metrics()["item/NDCG@10"].mean() for run in runs["good"]]
    assert good.seed_means == pytest.approx(means)
    assert good.mean == pytest.approx(np.mean(means))
    assert good.interval.low < good.mean < good.interval.high


def test_difference_wins_and_verdict(three_methods) -> None:
    store, runs = three_methods
    pair = compare(store, ["good", "weak"]).pairs[0]
    table = pd.concat([run.metrics() for run in runs["good"]]).groupby("example_id")["item/NDCG@10"].mean()
    weak = runs["weak"][0].metrics().set_index("example_id")
    difference = table - weak["item/NDCG@10"]
    by_user = difference.groupby(weak["user_id"]).mean()
    assert pair.difference == pytest.approx(difference.mean())
    assert (pair.wins, pair.losses) == ((by_user > 1e-12).sum(), (by_user < -1e-12).sum())
    assert pair.wins + pair.ties + pair.losses == weak["user_id"].nunique()
    assert (pair.a, pair.b, pair.verdict) == ("good (nano)", "weak", "better")
    assert pair.p_adjusted == pair.p_permutation


def test_all_pairs_are_adjusted_as_one_family(three_methods) -> None:
    store, _ = three_methods
    comparison = compare(store, ["good", "weaker", "weak"])
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [
        ("good (nano)", "weaker"),
        ("good (nano)", "weak"),
        ("weaker", "weak"),
    ]
    smallest = min(pair.p_permutation for pair in comparison.pairs)
    assert min(pair.p_adjusted for pair in comparison.pairs) == pytest.approx(3 * smallest)


def test_baseline_is_the_second_of_every_pair(three_methods) -> None:
    store, runs = three_methods
    for name in ("weaker", runs["weaker"][0].run_id):
        comparison = compare(store, ["good", "weak"], baseline=name)
        assert comparison.baseline == "weaker"
        assert [(pair.a, pair.b) for pair in comparison.pairs] == [("good (nano)", "weaker"), ("weak", "weaker")]
        assert [pair.verdict for pair in comparison.pairs] == ["better", "worse"]


def test_equal_runs_are_undecided_never_equal(runs_dir) -> None:
    make_run(runs_dir, "one", quality=0.5, seed=7)
    make_run(runs_dir, "two", quality=0.5, seed=7)
    pair = compare(RunStore(runs_dir), ["one", "two"]).pairs[0]
    assert pair.verdict == "undecided"
    assert (pair.difference, pair.p_permutation, pair.effect) == (0.0, 1.0, None)


def test_swapping_names_mirrors_the_result(three_methods) -> None:
    store, _ = three_methods
    forward = compare(store, ["good"], baseline="weak").pairs[0]
    back = compare(store, ["weak"], baseline="good").pairs[0]
    assert back.difference == pytest.approx(-forward.difference)
    assert (back.interval.low, back.interval.high) == pytest.approx((-forward.interval.high, -forward.interval.low))
    assert back.p_permutation == forward.p_permutation
    assert (back.wins, back.losses) == (forward.losses, forward.wins)


def test_run_ids_and_folders_stand_for_themselves(three_methods) -> None:
    store, runs = three_methods
    first, second = runs["good"][:2]
    comparison = compare(store, [first.run_id[:6], str(second.paths.folder)])
    assert {entry.run_ids for entry in comparison.entries} == {(first.run_id,), (second.run_id,)}
    assert {entry.label for entry in comparison.entries} == {"good (nano, seed 0)", "good (nano, seed 1)"}


def test_other_metric_and_truth(three_methods) -> None:
    store, runs = three_methods
    comparison = compare(store, ["weak", "weaker"], metric="hr@5", truth="title")
    assert (comparison.metric, comparison.truth) == ("HR@5", "title")
    assert comparison.entries[0].mean == pytest.approx(runs["weaker"][0].metrics()["title/HR@5"].mean())


def test_configurations_and_backbones_are_separate_entries(runs_dir) -> None:
    make_run(runs_dir, "bigrec", backbone="nano", config={"decoding": {"beams": 10}, "lr": 0.1})
    make_run(runs_dir, "bigrec", backbone="nano", config={"decoding": {"beams": 20}, "lr": 0.1})
    make_run(runs_dir, "bigrec", backbone="micro", config={"decoding": {"beams": 20}, "lr": 0.1})
    labels = {entry.label for entry in select(RunStore(runs_dir), ["bigrec"]).entries}
    assert labels == {"bigrec (nano, decoding.beams=10)", "bigrec (nano, decoding.beams=20)", "bigrec (micro)"}


def test_a_local_backbone_folder_is_named_without_its_path(runs_dir) -> None:
    make_run(runs_dir, "bigrec", backbone="/some/where/my-model")
    assert select(RunStore(runs_dir), ["bigrec"]).entries[0].label == "bigrec (my-model)"


def test_of_runs_that_repeat_a_seed_the_newest_counts_and_it_is_said(runs_dir) -> None:
    make_run(runs_dir, "one", created="2026-01-01T00:00:00Z")
    newer = make_run(runs_dir, "one", created="2026-01-02T00:00:00Z")
    make_run(runs_dir, "two")
    comparison = compare(RunStore(runs_dir), ["one", "two"])
    entry = next(entry for entry in comparison.entries if entry.method == "one")
    assert entry.run_ids == (newer.run_id,)
    assert any("repeat a seed" in note for note in comparison.notes)


def test_runs_of_several_versions_are_told_apart(runs_dir) -> None:
    for seed, version in enumerate(("0.9.0", "1.0.0", "1.0.0")):
        make_run(runs_dir, "one", seed=seed, provenance={"recbench": version})
    make_run(runs_dir, "two", provenance={"recbench": "1.0.0"})
    make_run(runs_dir, "foreign")
    store = RunStore(runs_dir)
    (note,) = (note for note in compare(store, ["one", "two", "foreign"]).notes if "versions of recbench" in note)
    assert note.endswith(": 0.9.0: one; 1.0.0: one, two.")
    assert not any("versions of recbench" in note for note in compare(store, ["two", "foreign"]).notes)


def test_labels_fall_back_to_run_ids(runs_dir) -> None:
    runs = [make_run(runs_dir, "one", created=f"2026-01-0{day}T00:00:00Z") for day in (1, 2)]
    entries = label_entries([group_by_identity([run])[0] for run in runs])
    assert [entry.label for entry in entries] == [f"one (seed 0, run {run.run_id})" for run in runs]


def test_failed_runs_are_never_averaged(runs_dir) -> None:
    make_run(runs_dir, "one", seed=0)
    failed = make_run(runs_dir, "one", seed=1, status="failed")
    make_run(runs_dir, "two")
    store = RunStore(runs_dir)
    assert {entry.seeds for entry in compare(store, ["one", "two"]).entries} == {(0,)}
    with pytest.raises(UsageError, match="is failed; only complete runs"):
        compare(store, [failed.run_id, "two"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol": Protocol(max_history=5)}, r"protocol.max_history differs: 10 in one \w+; 5 in two \w+"),
        ({"protocol": Protocol(limit_test=20)}, "protocol.limit_test differs: null in one .*; 20 in two"),
        ({"split_fingerprint": "other"}, "split fingerprint differs"),
        ({"dataset_fingerprint": "other"}, "dataset fingerprint differs"),
    ],
)
def test_mixed_runs_are_refused_naming_the_field(runs_dir, change, field) -> None:
    make_run(runs_dir, "one")
    make_run(runs_dir, "two", **change)
    with pytest.raises(UsageError, match=field):
        compare(RunStore(runs_dir), ["one", "two"])


def test_mixed_data_sets_are_refused_and_can_be_chosen(runs_dir) -> None:
    tiny = tiny_dataset()
    other = Dataset("other", tiny.users, tiny.catalog, tiny.interactions)
    for method in ("one", "two"):
        make_run(runs_dir, method)
        make_run(runs_dir, method, dataset=other)
    store = RunStore(runs_dir)
    with pytest.raises(UsageError, match=r'dataset differs: "other" in one .*; "tiny" in one'):
        compare(store, ["one", "two"])
    assert compare(store, ["one", "two"], dataset="other").dataset == "other"


def test_protocol_can_be_chosen_by_its_hash(runs_dir) -> None:
    short = Protocol(max_history=5)
    for method in ("one", "two"):
        make_run(runs_dir, method)
        make_run(runs_dir, method, protocol=short)
    store = RunStore(runs_dir)
    assert compare(store, ["one", "two"], protocol=short.hash[:6]).protocol_hash == short.hash
    with pytest.raises(UsageError, match="No complete run of 'one' has a protocol hash"):
        compare(store, ["one", "two"], protocol="zzz")


def test_a_missing_example_is_an_error_not_a_shorter_join(runs_dir) -> None:
    make_run(runs_dir, "one")
    short = make_run(runs_dir, "two")
    table = short.metrics()
    table.iloc[1:].to_parquet(short.paths.metrics)
    short.update_hashes([short.paths.metrics])
    with pytest.raises(ArtifactError, match=rf"1 examples are missing \(the first is {table['example_id'][0]}\)"):
        compare(RunStore(runs_dir), ["one", "two"])


def test_other_targets_are_an_error(runs_dir) -> None:
    make_run(runs_dir, "one")
    other = make_run(runs_dir, "two")
    table = other.metrics()
    table.loc[3, "target_item_id"] = "i99"
    table.to_parquet(other.paths.metrics)
    other.update_hashes([other.paths.metrics])
    with pytest.raises(ArtifactError, match="disagree on the target_item_id of 1 examples"):
        compare(RunStore(runs_dir), ["one", "two"])


@pytest.mark.parametrize("name", ["rankings", "metrics", "summary"])
def test_changed_results_are_not_compared(runs_dir, name: str) -> None:
    make_run(runs_dir, "one")
    file = getattr(make_run(runs_dir, "two").paths, name)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=rf"was changed: {file.name} has changed"):
        compare(RunStore(runs_dir), ["one", "two"])


def test_mixed_protocols_are_told_with_their_hashes(runs_dir) -> None:
    one = make_run(runs_dir, "one")
    two = make_run(runs_dir, "two", protocol=Protocol(max_history=5))
    with pytest.raises(UsageError) as caught:
        compare(RunStore(runs_dir), ["one", "two"])
    for run, name in ((one, "one"), (two, "two")):
        assert f"{run.manifest.protocol_hash[:8]}: {name} {run.run_id}" in (caught.value.hint or "")


def test_rows_may_come_in_any_order(runs_dir) -> None:
    make_run(runs_dir, "one", quality=0.9)
    run = make_run(runs_dir, "two", quality=0.1)
    before = compare(RunStore(runs_dir), ["one", "two"])
    run.metrics().sample(frac=1, random_state=0).to_parquet(run.paths.metrics)
    run.update_hashes([run.paths.metrics])
    assert compare(RunStore(runs_dir), ["one", "two"]) == before


def test_wrong_use_is_explained(three_methods, runs_dir) -> None:
    store, _ = three_methods
    with pytest.raises(UsageError, match="nothing to compare it with"):
        compare(store, ["good"])
    with pytest.raises(UsageError, match="Unknown metric 'NDCG@7'"):
        compare(store, ["good", "weak"], metric="NDCG@7")
    with pytest.raises(UsageError, match=r"Unknown truth 'titel'\. Did you mean 'title'"):
        compare(store, ["good", "weak"], truth="titel")
    with pytest.raises(ArtifactError, match=r"fits 'god'.*Did you mean 'good'"):
        compare(store, ["god", "weak"])
    for number in range(7):
        make_run(runs_dir, f"method{number}", quality=0.1 * number)
    with pytest.raises(UsageError, match="7 entries make 21 pairs") as error:
        compare(RunStore(runs_dir), [f"method{number}" for number in range(7)])
    assert "--baseline" in str(error.value)


def test_an_ambiguous_baseline_is_refused(runs_dir) -> None:
    make_run(runs_dir, "one", config={"a": 1})
    make_run(runs_dir, "one", config={"a": 2})
    make_run(runs_dir, "two")
    with pytest.raises(UsageError, match="The baseline 'one' stands for 2 entries"):
        compare(RunStore(runs_dir), ["two"], baseline="one")


def test_notes_tell_of_limits_depth_and_the_data(runs_dir) -> None:
    protocol = Protocol(limit_test=30)
    make_run(runs_dir, "one", protocol=protocol, k=10, notes=("train part recovered from histories",))
    make_run(runs_dir, "two", protocol=protocol, notes=("train part recovered from histories",))
    comparison = compare(RunStore(runs_dir), ["one", "two"], metric="NDCG@20")
    assert comparison.limited
    assert comparison.notes[0].startswith("Try-out, not a result: rows were left out to save time (limit_test=30)")
    assert comparison.notes[1] == "train part recovered from histories"
    assert comparison.notes[2].startswith("one lists 10 places at most")


def test_align_keeps_seeds_apart_and_numbers_users_by_name(three_methods) -> None:
    store, runs = three_methods
    entries = select(store, ["good", "weak"]).entries
    aligned = align(entries, ["item/HR@1", "item/NDCG@10"])
    assert aligned.values.shape == (2, aligned.column("item/HR@1").shape[1], 2)
    assert [means.shape for means in aligned.run_means] == [(3, 2), (1, 2)]
    table = runs["weak"][0].metrics().sort_values("example_id")
    names = np.array(sorted(set(table["user_id"])))
    assert names[aligned.user].tolist() == table["user_id"].tolist()


def test_labels_leave_out_what_most_entries_have(runs_dir) -> None:
    shared = {"sigma": 1.5, "stage": {"on": True}}
    for change in ({}, {"flavour": "d3"}, {"thought": "masked"}, {"stage": {"on": False}}):
        make_run(runs_dir, "method", config={"flavour": "bigrec", "thought": "normal", **shared, **change})
    labels = {entry.label for entry in label_entries(group_by_identity(RunStore(runs_dir).all()))}
    assert labels == {"method", "method (flavour=d3)", "method (thought=masked)", "method (stage.on=False)"}
