"""AlphaRec's loss, sampling and training loop."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.alpharec import model
from baselines.alpharec.config import AlphaRecConfig, AlphaRecTraining
from baselines.alpharec.graph import TrainGraph
from baselines.alpharec.model import GraphInputs, ItemTexts, SharedHead, distinct_rows, info_nce, pair_scores
from baselines.alpharec.sampling import NegativeSampler, epoch_pairs
from baselines.alpharec.scoring import mean_metric, target_places
from baselines.alpharec.training import train_head
from recbench.contracts.errors import TrainingError
from recbench.contracts.examples import build_examples
from recbench.contracts.method import RunContext
from recbench.testing.tiny import N_ITEMS, tiny_catalog, tiny_split


@pytest.mark.parametrize(
    ("width", "hidden"), [(3072, 1536), (768, 6144), (4096, 1152), (1536, 432), (384, 108), (128, 36), (2, 1)]
)
def test_hidden_width_follows_the_published_rule(width: int, hidden: int) -> None:
    assert AlphaRecConfig().hidden_width(width) == hidden
    assert AlphaRecConfig(width_ratio=2).hidden_width(width) == 2 * width


def test_the_mlp_is_two_layers_with_biases_and_the_linear_head_one_without() -> None:
    mlp, linear = SharedHead(6, 5, 4, "mlp"), SharedHead(6, 5, 4, "linear")
    assert [tuple(p.shape) for p in mlp.parameters()] == [(5, 6), (5,), (4, 5), (4,)]
    assert [tuple(p.shape) for p in linear.parameters()] == [(4, 6)]
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    wide = x @ mlp.first.weight.T + mlp.first.bias
    expected = torch.where(wide > 0, wide, 0.01 * wide) @ mlp.second[1].weight.T + mlp.second[1].bias
    torch.testing.assert_close(mlp(x), expected)
    torch.testing.assert_close(linear(x), x @ linear.first.weight.T)


def test_users_and_items_share_the_head_and_users_are_mean_texts() -> None:
    rows = tiny_split().train
    graph = TrainGraph.of(rows, N_ITEMS)
    e = torch.randn(N_ITEMS, 6, generator=torch.Generator().manual_seed(0))
    e[7] = e[8]
    head = SharedHead(6, 5, 4, "mlp")
    users, items, _ = GraphInputs(ItemTexts.of(e, np.ones(N_ITEMS, bool), "cpu"), graph, "cpu").layer_zero(head)
    torch.testing.assert_close(items, head(e))
    means = torch.stack(
        [e[graph.items[graph.offsets[p] : graph.offsets[p + 1]]].mean(dim=0) for p in range(len(users))]
    )
    torch.testing.assert_close(users, head(means), atol=1e-5, rtol=1e-4)


def test_info_nce_equals_the_formula_written_out() -> None:
    scores = torch.rand(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = 0.0
    for row in scores.tolist():
        p, negatives = math.exp(row[0] / 0.2), [math.exp(n / 0.2) for n in row[1:]]
        expected -= math.log(p / (p + sum(negatives))) / len(scores)
    assert info_nce(scores, 0.2).item() == pytest.approx(expected, rel=1e-12)
    # One negative as good as the positive: log 2. Tiny temperatures do not overflow.
    assert info_nce(torch.tensor([[0.5, 0.5]]), 0.15).item() == pytest.approx(math.log(2))
    assert info_nce(torch.tensor([[-1.0, 1.0]]), 1e-3).item() == pytest.approx(2000)


@pytest.mark.parametrize("n_items", [3, 5000])
def test_both_ways_of_scoring_pairs_are_inner_products(n_items: int) -> None:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(6, 8, generator=generator, requires_grad=True)
    items = torch.randn(n_items, 8, generator=generator, requires_grad=True)
    user = torch.tensor([5, 0, 5, 2])
    item = torch.randint(0, n_items, (4, 9), generator=generator)
    found = pair_scores(users, items, user, item)
    expected = (users[user].unsqueeze(1) * items[item]).sum(dim=-1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(4, 9, generator=generator)
    ours = torch.autograd.grad((found * weights).sum(), (users, items))
    theirs = torch.autograd.grad((expected * weights).sum(), (users, items))
    torch.testing.assert_close(ours, theirs)


def graph_of(sets: list[list[int]], n_items: int) -> TrainGraph:
    items = [sorted(set(items)) for items in sets]
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in items])]).astype(np.int64)
    return TrainGraph(np.arange(len(sets)), offsets, np.concatenate(items).astype(np.int64), n_items)


@settings(max_examples=40, deadline=None)
@given(
    sets=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=11), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_negatives_are_never_items_of_the_user(sets: list[list[int]], seed: int) -> None:
    graph = graph_of(sets, 12)
    places = np.flatnonzero(graph.user_degree < 12)
    drawn = NegativeSampler(graph).draw(places, 40, np.random.default_rng(seed))
    assert drawn.shape == (len(places), 40)
    assert drawn.min(initial=0) >= 0
    assert drawn.max(initial=0) < 12
    for row, place in enumerate(places):
        assert not set(drawn[row].tolist()) & set(sets[place])


def test_negatives_are_uniform_over_the_other_items() -> None:
    sets = [[0], [2, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 6, 8, 9]]
    n = 60_000
    drawn = NegativeSampler(graph_of(sets, 10)).draw(np.arange(3), n, np.random.default_rng(0))
    for row, own in enumerate(sets):
        free = 10 - len(own)
        counts = np.bincount(drawn[row], minlength=10)
        assert set(np.flatnonzero(counts)) == set(range(10)) - set(own)
        # Five standard deviations of a binomial count.
        spread = 5 * math.sqrt(n / free * (1 - 1 / free))
        assert np.abs(counts[counts > 0] - n / free).max() <= spread


def test_an_epoch_draws_users_in_turn_and_their_own_items() -> None:
    graph = graph_of([[0, 1, 2, 3, 4, 5], [6], list(range(8)), [1, 7]], 8)
    places, items = epoch_pairs(graph, np.random.default_rng(0))
    # 17 edges; user 2 has every item and is left out; the other three are drawn 5 or 6 times each.
    assert sorted(Counter(places.tolist()).items()) == [(0, 6), (1, 6), (3, 5)]
    for place, item in zip(places, items, strict=True):
        assert item in graph.items[graph.offsets[place] : graph.offsets[place + 1]]
    assert not np.array_equal(places, epoch_pairs(graph, np.random.default_rng(1))[0])


def test_distinct_rows() -> None:
    first, of_row = distinct_rows(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]))
    assert first.tolist() == [0, 1, 3]
    assert of_row.tolist() == [0, 1, 0, 2]


def test_target_places_and_metrics_with_ties() -> None:
    rows = build_examples(range(3), [0, 0, 0], range(3), [[3], [0], [1]], [1, 2, 1])
    scores = torch.tensor([[0.9, 0.5, 0.5, 0.7], [0.9, 0.5, 0.5, 0.7], [0.1, 0.5, 0.2, 0.3]])

    def score(batch) -> torch.Tensor:
        return scores[torch.from_numpy(batch.example_id)].clone()

    first, last = target_places(score, rows, 4, mask_history=False)
    assert (first.tolist(), last.tolist()) == ([3, 3, 1], [4, 4, 1])
    first, last = target_places(score, rows, 4, mask_history=True)
    assert (first.tolist(), last.tolist()) == ([2, 2, 0], [3, 3, 0])  # the third target is in its history
    assert mean_metric("Recall@20", np.array([1, 20, 0, 21]), np.array([1, 21, 0, 22])) == pytest.approx(1.5 / 4)
    assert mean_metric("NDCG@10", np.array([2, 0]), np.array([2, 0])) == pytest.approx(1 / math.log2(3) / 2)


SHORT = AlphaRecTraining(epochs=12, batch_size=64, negatives=8, learning_rate=0.01, eval_epochs=4)


def start(seed: int = 0) -> tuple[SharedHead, GraphInputs]:
    texts = ItemTexts.of(
        torch.randn(N_ITEMS, 6, generator=torch.Generator().manual_seed(0)), np.ones(N_ITEMS, bool), "cpu"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = SharedHead(6, 8, 4, "mlp")
    return head, GraphInputs(texts, TrainGraph.of(tiny_split().train, N_ITEMS), "cpu")


def context(folder: Path, log=lambda record: None) -> RunContext:
    return RunContext(tiny_catalog(), 5, "cpu", folder, folder, log=log)


def metric_of(head: SharedHead) -> float:
    """A stand-in for a validation metric that depends on the weights in a way nobody can foresee."""
    return float(head.first.weight.detach().sum().sin())


@pytest.mark.parametrize("stop_at", [1, 4, 7, 12])
def test_an_interrupted_training_ends_as_if_undisturbed(tmp_path: Path, stop_at: int) -> None:
    records, whole_log = [], []
    whole, inputs = start()
    done = train_head(whole, inputs, 2, metric_of, SHORT, tmp_path / "whole", context(tmp_path, whole_log.append))

    def interrupt(record) -> None:
        records.append(record)
        if record["epoch"] == stop_at and len(records) == stop_at:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_head(start()[0], inputs, 2, metric_of, SHORT, checkpoint, context(tmp_path, interrupt))
    resumed, _ = start(seed=99)  # its weights are to come from the checkpoint, if there is one
    if stop_at < SHORT.eval_epochs:
        resumed, _ = start()
    again = train_head(resumed, inputs, 2, metric_of, SHORT, checkpoint, context(tmp_path, interrupt))
    assert again == done
    assert {r["epoch"]: r for r in records} == {r["epoch"]: r for r in whole_log}
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_best_evaluation_is_kept_and_patience_ends_it(tmp_path: Path) -> None:
    head, inputs = start()
    values = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    seen = []

    def evaluate(current: SharedHead) -> float:
        seen.append(current.first.weight.detach().clone())
        return next(values)

    settings_ = SHORT.model_copy(update={"epochs": 100, "patience": 2, "eval_epochs": 3})
    done = train_head(head, inputs, 2, evaluate, settings_, tmp_path / "c", context(tmp_path))
    assert (done.epoch, done.best_epoch, done.best_metric) == (12, 6, 0.5)  # an equal metric is no better one
    assert torch.equal(head.first.weight, seen[1])


def test_without_validation_rows_the_last_weights_stay(tmp_path: Path) -> None:
    head, inputs = start()
    before = head.first.weight.detach().clone()
    done = train_head(head, inputs, 2, None, SHORT, tmp_path / "c", context(tmp_path))
    assert (done.epoch, done.best_epoch) == (12, None)
    assert not torch.equal(head.first.weight, before)


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.alpharec.training.info_nce", lambda *args: model.info_nce(*args) * torch.nan)
    head, inputs = start()
    with pytest.raises(TrainingError, match="not finite in epoch 1"):
        train_head(head, inputs, 2, None, SHORT, tmp_path / "c", context(tmp_path))
    assert not (tmp_path / "c").exists()


def test_nothing_to_learn_from_is_told(tmp_path: Path) -> None:
    graph = graph_of([[0, 1]], 2)
    inputs = GraphInputs(ItemTexts.of(torch.eye(2), np.ones(2, bool), "cpu"), graph, "cpu")
    with pytest.raises(TrainingError, match="every user of the training rows has every item"):
        train_head(SharedHead(2, 2, 2, "mlp"), inputs, 2, None, SHORT, tmp_path / "c", context(tmp_path))
