"""AlphaRec's graph: hand-worked propagation, and instance users against a dense graph with one more node."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.alpharec.graph import SparseMap, TrainGraph, mean_layers, normalized_adjacency, propagate
from baselines.alpharec.model import GraphInputs, ItemTexts, SharedHead, unit
from baselines.alpharec.scoring import Scorer
from recbench.contracts.examples import Examples, build_examples

ROOT = np.sqrt(2)


def two_users() -> Examples:
    """Users 4 and 9 of three items: 4 has 0 and 1 (twice), 9 has 1 and 2."""
    return build_examples(range(3), [4, 4, 9], range(3), [[0], [0, 1], [2]], [1, 1, 1])


def test_pairs_come_from_histories_and_targets_once() -> None:
    graph = TrainGraph.of(two_users(), 4)
    assert graph.users.tolist() == [4, 9]
    assert graph.items.tolist() == [0, 1, 1, 2]
    assert graph.offsets.tolist() == [0, 2, 4]
    assert graph.item_degree.tolist() == [1, 2, 1, 0]


def test_propagation_by_hand() -> None:
    adjacency = normalized_adjacency(TrainGraph.of(two_users(), 3), "cpu")
    # Weights 1/sqrt(d_u d_i): user 4 has 1/sqrt(2) to item 0 and 1/2 to item 1; user 9 has 1/2 and 1/sqrt(2).
    users, items = propagate(adjacency, torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0], [4.0]]), 2)
    expected_users = [[1, 0], [1, 1 + 2 * ROOT], [0.75, 0.25]]
    expected_items = [[0, 2, 4], [1 / ROOT, 0.5, 0], [1 / ROOT, 1 + ROOT, 1 / ROOT + 2]]
    for found, expected in [(users, expected_users), (items, expected_items)]:
        torch.testing.assert_close(torch.stack(found).squeeze(-1), torch.tensor(expected, dtype=torch.float32))
    mean = mean_layers(users).flatten().tolist()
    assert mean == pytest.approx([2.75 / 3, (1.25 + 2 * ROOT) / 3])


def random_rows(seed: int, n_users: int = 7, n_items: int = 9) -> Examples:
    rng = np.random.default_rng(seed)
    histories = [rng.integers(0, n_items - 1, rng.integers(1, 5)) for _ in range(12)]  # the last item is cold
    return build_examples(
        range(12), rng.integers(0, n_users, 12), range(12), histories, rng.integers(0, n_items - 1, 12)
    )


def dense_adjacency(graph: TrainGraph) -> np.ndarray:
    """Return (U+I, U+I) D^-1/2 A D^-1/2 by loops over users; nodes without edges have empty rows."""
    n_users, size = len(graph.users), len(graph.users) + graph.n_items
    a = np.zeros((size, size))
    for place in range(n_users):
        for item in graph.items[graph.offsets[place] : graph.offsets[place + 1]]:
            a[place, n_users + item] = a[n_users + item, place] = 1
    degree = np.maximum(a.sum(axis=1), 1)
    return a / np.sqrt(np.outer(degree, degree))


@pytest.mark.parametrize("seed", range(3))
def test_propagation_equals_dense_matrices(seed: int) -> None:
    graph = TrainGraph.of(random_rows(seed), 9)
    x = np.random.default_rng(seed).normal(size=(len(graph.users) + 9, 5)).astype(np.float32)
    n_users = len(graph.users)
    users, items = propagate(
        normalized_adjacency(graph, "cpu"), torch.from_numpy(x[:n_users]), torch.from_numpy(x[n_users:]), 3
    )
    a = dense_adjacency(graph)
    for layer in range(4):
        expected = np.linalg.matrix_power(a, layer) @ x
        found = torch.cat([users[layer], items[layer]])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sparse_map_multiplies_and_has_the_right_gradients() -> None:
    row, column = np.array([2, 0, 2, 0]), np.array([1, 3, 0, 3])  # row 1 and column 2 are empty; one entry twice
    value = np.array([0.5, 2.0, -1.0, 3.0])
    matrix = torch.zeros(3, 4, dtype=torch.float64)
    matrix.index_put_((torch.from_numpy(row), torch.from_numpy(column)), torch.from_numpy(value), accumulate=True)
    sparse = SparseMap(row, column, value, (3, 4), "cpu")
    for product, dense in [(lambda x: sparse @ x, matrix), (sparse.transposed_times, matrix.T)]:
        x = torch.randn(
            dense.shape[1], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
        )
        torch.testing.assert_close(product(x), dense @ x)
        assert torch.autograd.gradcheck(product, (x,))


def scorer_and_inputs(rows: Examples, n_items: int, layers: int) -> tuple[Scorer, GraphInputs, SharedHead]:
    generator = torch.Generator().manual_seed(1)
    texts = ItemTexts.of(torch.randn(n_items, 6, generator=generator), np.ones(n_items, bool), "cpu")
    inputs = GraphInputs(texts, TrainGraph.of(rows, n_items), "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        head = SharedHead(6, 5, 4, "mlp")
    return Scorer.of(head, inputs, layers), inputs, head


def dense_instance(
    head: SharedHead, inputs: GraphInputs, history: list[int], layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the final vectors of one temporary node and of all items, in a dense graph that holds that node.

    The node receives from its items with weight 1/sqrt(own degree * TRAIN degree of the item), at least 1 for the
    latter; nothing receives from it.
    """
    graph = inputs.graph
    n_users = len(graph.users)
    e = inputs.texts.vectors[inputs.texts.of_item]
    distinct = sorted(set(history))
    means = [e[graph.items[graph.offsets[p] : graph.offsets[p + 1]]].mean(dim=0) for p in range(n_users)]
    with torch.no_grad():
        x = head(torch.stack([*means, *e, e[distinct].mean(dim=0)])).numpy()
    a = np.zeros((len(x), len(x)))
    a[:-1, :-1] = dense_adjacency(graph)
    for item in distinct:
        a[-1, n_users + item] = 1 / np.sqrt(len(distinct) * max(graph.item_degree[item], 1))
    final = np.mean([np.linalg.matrix_power(a, layer) @ x for layer in range(layers + 1)], axis=0)
    return final[-1], final[n_users:-1]


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_instance_users_equal_a_dense_graph_with_one_more_node(seed: int, layers: int) -> None:
    scorer, inputs, head = scorer_and_inputs(random_rows(seed), 9, layers)
    histories = [[0], [3, 3, 1], [8], [8, 2], [1, 4, 5, 6, 7]]  # item 8 has no edge
    queries = build_examples(range(5), range(100, 105), range(5), histories, [0] * 5).queries()
    found = scorer.scores(queries, "instance")
    for row, history in enumerate(histories):
        user, items = dense_instance(head, inputs, history, layers)
        cosine = items @ user / (np.linalg.norm(items, axis=1) * np.linalg.norm(user))
        np.testing.assert_allclose(found[row], cosine, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_instance_of_all_training_items_is_the_static_user(seed: int) -> None:
    scorer, inputs, _ = scorer_and_inputs(random_rows(seed), 9, 2)
    graph = inputs.graph
    histories = np.split(graph.items, graph.offsets[1:-1])
    n = len(graph.users)
    queries = build_examples(range(n), graph.users, range(n), histories, [0] * n).queries()
    instance, static = scorer.query_vectors(queries, "instance"), scorer.query_vectors(queries, "static")
    torch.testing.assert_close(instance, static, atol=1e-5, rtol=1e-4)


def test_static_users_ignore_the_history_and_new_ones_get_their_texts() -> None:
    scorer, inputs, head = scorer_and_inputs(random_rows(0), 9, 2)
    known = int(inputs.graph.users[0])
    queries = build_examples(range(3), [known, known, 999], range(3), [[1], [2], [1, 8]], [0] * 3).queries()
    static, instance = scorer.query_vectors(queries, "static"), scorer.query_vectors(queries, "instance")
    assert torch.equal(static[0], static[1])
    assert not torch.allclose(instance[0], instance[1])
    e = inputs.texts.vectors[inputs.texts.of_item]
    with torch.no_grad():
        expected = unit(head(e[[1, 8]].mean(dim=0)))
    torch.testing.assert_close(static[2], expected, atol=1e-5, rtol=1e-4)


def test_items_with_equal_texts_and_no_edges_are_tied_to_the_last_bit() -> None:
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    vectors[37:] = vectors[36]
    known = np.ones(40, bool)
    known[[34, 35]] = False
    inputs = GraphInputs(ItemTexts.of(vectors, known, "cpu"), TrainGraph.of(random_rows(1), 40), "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = SharedHead(6, 5, 4, "mlp")
    queries = random_rows(2).queries()
    scores = Scorer.of(head, inputs, 2).scores(queries, "instance")
    assert (scores[:, 36:] == scores[:, 36:37]).all()
    assert (scores[:, 34] == scores[:, 35]).all()
    torch.testing.assert_close(inputs.texts.vectors[inputs.texts.of_item[34]], vectors[known].mean(dim=0))
    assert len(np.unique(scores[0].numpy())) == 40 - 3 - 1
