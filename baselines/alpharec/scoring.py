"""From a trained AlphaRec to scores of the whole catalogue, for users as published and for single histories.

An *instance user* is one query's history h, attached to the training graph as a node of its own for that query only:

* layer 0 is the head's output for the mean text vector of the items in h (distinct items, as for training users);
* layer l >= 1 is ``sum_i X_{l-1,i} / sqrt(|h| d_i)`` over i in h, where ``X_{l-1,i}`` is item i's vector after l - 1
  steps on the training graph and ``d_i`` its degree there (an item without training edges counts as d_i = 1: the
  history's edge is its only one).

The edges lead to the new node only: items do not see it, so their vectors are the same for every query, and a query
cannot pull up its own history. A training user's history of all their training items gives exactly that user's
vector. As all layers are averaged, a user needs one weighted sum over ``X_0 + ... + X_{L-1}``.

Dimensions: I items, K distinct text vectors, U users of the graph, d width of user and item vectors, B queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.alpharec.config import Head, Users
from baselines.alpharec.graph import bag_sums, mean_layers, propagate
from baselines.alpharec.model import GraphInputs, SharedHead, distinct_rows, unit
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.gain import expected_ndcg

_FILE = "alpharec.safetensors"
# Scores held at once on the device.
_MAX_SCORES = 16_000_000


@dataclass(frozen=True)
class Scorer:
    """Everything that a score depends on, on the device.

    Attributes:
        head: the trained network.
        projected: (K, hidden), the head's first map of every text vector.
        text_of_item: int64 (I,).
        item_sum: (I, d), sum of the items' layers but the last.
        item_weight: (I,), one over the square root of the degree, at least 1.
        vectors: items' final vectors of length 1, each distinct one once.
        vector_of_item: int64 (I,), row of ``vectors``.
        users: int64 (U,), numbers of the training users, ascending.
        user_vectors: (U, d), their final vectors of length 1.
    """

    head: SharedHead
    projected: Tensor
    text_of_item: Tensor
    item_sum: Tensor
    item_weight: Tensor
    vectors: Tensor
    vector_of_item: Tensor
    users: Tensor
    user_vectors: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, head: SharedHead, inputs: GraphInputs, layers: int) -> Scorer:
        """Compute everything from the network's current weights."""
        users, items, projected = inputs.layer_zero(head)
        user_layers, item_layers = propagate(inputs.adjacency, users, items, layers)
        final = unit(mean_layers(item_layers))
        first, vector_of_item = distinct_rows(final.cpu().numpy())
        device = final.device
        degree = torch.from_numpy(inputs.graph.item_degree).to(device)
        return cls(
            head=head,
            projected=projected,
            text_of_item=inputs.texts.of_item,
            item_sum=torch.stack(item_layers[:-1]).sum(dim=0) if layers else torch.zeros_like(items),
            item_weight=degree.clamp(min=1).float().rsqrt(),
            vectors=final[torch.from_numpy(first).to(device)],
            vector_of_item=torch.from_numpy(vector_of_item).to(device),
            users=torch.from_numpy(inputs.graph.users).to(device),
            user_vectors=unit(mean_layers(user_layers)),
        )

    @torch.no_grad()
    def query_vectors(self, queries: Queries, users: Users) -> Tensor:
        """Return (B, d): one vector of length 1 per query.

        With "static" users a query of a user without training rows gets layer 0 of its history, the head's output
        for its mean text vector.
        """
        starts, items, length = self._distinct_histories(queries)
        rows = torch.repeat_interleave(length)
        layer_zero = self.head.second(
            bag_sums(self.projected, starts, self.text_of_item[items], 1.0 / length[rows].float())
        )
        if users == "instance":
            weights = self.item_weight[items] * length[rows].float().rsqrt()
            return unit(layer_zero + bag_sums(self.item_sum, starts, items, weights))
        number = torch.from_numpy(queries.user.astype(np.int64)).to(self.users.device)
        place = torch.searchsorted(self.users, number).clamp(max=len(self.users) - 1)
        known = self.users[place] == number
        return torch.where(known.unsqueeze(1), self.user_vectors[place], unit(layer_zero))

    def _distinct_histories(self, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        """Return starts (B,), items (n,) and lengths (B,), all int64, of histories without repeats."""
        n_items = len(self.text_of_item)
        row = np.repeat(np.arange(len(queries)), queries.history_length)
        pairs = np.unique(row * n_items + queries.items)
        length = np.bincount(pairs // n_items, minlength=len(queries))
        starts = np.cumsum(length) - length
        device = self.projected.device
        first, items, lengths = (
            torch.from_numpy(a.astype(np.int64)).to(device) for a in (starts, pairs % n_items, length)
        )
        return first, items, lengths

    @torch.no_grad()
    def scores(self, queries: Queries, users: Users) -> Tensor:
        """Return float32 (B, I): cosines of every query's user with every item.

        Items with equal vectors have equal scores to the last bit, so they are tied.
        """
        return (self.query_vectors(queries, users) @ self.vectors.T)[:, self.vector_of_item]

    def save(self, folder: Path) -> None:
        """Write all tensors."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        tensors |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path, kind: Head, device: str) -> Scorer:
        """Read what :meth:`save` wrote."""
        stored = load_file(folder / _FILE, device=device)
        weights = {name.removeprefix("head."): value for name, value in stored.items() if name.startswith("head.")}
        hidden, text_width = weights["first.weight"].shape
        head = SharedHead(text_width, hidden, stored["vectors"].shape[1], kind).to(device)
        head.load_state_dict(weights)
        return cls(head=head, **{name: stored[name] for name in _TENSORS})


_TENSORS = (
    "projected",
    "text_of_item",
    "item_sum",
    "item_weight",
    "vectors",
    "vector_of_item",
    "users",
    "user_vectors",
)  # fmt: skip


def target_places(
    score: Callable[[Queries], Tensor], examples: Examples, n_items: int, mask_history: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last place of each target's tied group among all items, int64 (N,), from 1.

    Args:
        score: gives (B, n_items) for a batch of queries.
        examples: N rows.
        n_items: size of the catalogue.
        mask_history: whether items of the history are left out; a target that is one of them has places 0 and 0.
    """
    size = max(1, _MAX_SCORES // n_items)
    first, last = np.zeros(len(examples), np.int64), np.zeros(len(examples), np.int64)
    for start in range(0, len(examples), size):
        rows = np.arange(start, min(start + size, len(examples)))
        batch = examples.take(rows)
        scores = score(batch.queries())
        if mask_history:
            owner = np.repeat(np.arange(len(batch)), batch.history_length)
            scores[torch.from_numpy(owner), torch.from_numpy(batch.items.astype(np.int64))] = -torch.inf
        target = torch.from_numpy(batch.target.astype(np.int64)).to(scores.device)
        sought = scores.gather(1, target.unsqueeze(1))
        listed = (sought > -torch.inf).squeeze(1)
        first[rows] = torch.where(listed, (scores > sought).sum(dim=1) + 1, 0).cpu().numpy()
        last[rows] = torch.where(listed, (scores >= sought).sum(dim=1), 0).cpu().numpy()
    return first, last


def mean_metric(name: str, first: np.ndarray, last: np.ndarray) -> float:
    """Return the mean of "Recall@20" or "NDCG@10" over targets, as expectations over the order of ties."""
    if name == "NDCG@10":
        return float(expected_ndcg(first, last, 10).mean())
    inside = np.clip(20 - first + 1, 0, last - first + 1) / (last - first + 1)
    return float(np.where(first > 0, inside, 0.0).mean())
