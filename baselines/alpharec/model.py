"""AlphaRec's trained part: one small network for users and items alike, and the contrastive loss.

Dimensions: I items, K distinct text vectors, D their width, U users, d width of user and item vectors, B pairs, N
negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.alpharec.config import Head
from baselines.alpharec.graph import SparseMap, TrainGraph, mean_layers, normalized_adjacency, propagate


class SharedHead(nn.Module):
    """Maps text vectors to layer 0 of the graph: ``second(LeakyReLU(first(x)))``, or one linear map without bias.

    ``first`` is linear, so the first map of a mean is the mean of first maps: a user, whose text vector is the mean
    over their items, needs no pass of their own through the wide layer.

    Args:
        text_width: D.
        hidden: width between the two layers; unused by "linear".
        dim: d.
        kind: "mlp" or "linear".
    """

    def __init__(self, text_width: int, hidden: int, dim: int, kind: Head) -> None:
        super().__init__()
        self.first = nn.Linear(text_width, hidden) if kind == "mlp" else nn.Linear(text_width, dim, bias=False)
        self.second = nn.Sequential(nn.LeakyReLU(), nn.Linear(hidden, dim)) if kind == "mlp" else nn.Identity()

    def forward(self, texts: Tensor) -> Tensor:
        """Return (..., d) for text vectors (..., D)."""
        return self.second(self.first(texts))


@dataclass(frozen=True)
class ItemTexts:
    """Text vectors of items; items with the same vector share a row, so that they can never differ by rounding.

    Attributes:
        vectors: float32 (K, D).
        of_item: int64 (I,), row of each item.
    """

    vectors: Tensor
    of_item: Tensor

    @classmethod
    def of(cls, vectors: Tensor, known: np.ndarray, device: str) -> ItemTexts:
        """Build from one vector per item.

        Args:
            vectors: float32 (I, D) on the CPU.
            known: bool (I,); items without a text get the mean over the others, an average item that can be ranked.
            device: where the result lies.
        """
        filled = vectors.clone()
        filled[torch.from_numpy(~known)] = vectors[torch.from_numpy(known)].mean(dim=0)
        first, of_item = distinct_rows(filled.numpy())
        return cls(filled[torch.from_numpy(first)].to(device), torch.from_numpy(of_item).to(device))


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each distinct row first stands, int64 (K,), and which of them each row is, int64 (I,)."""
    numbers: dict[bytes, int] = {}
    of_row = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.int64)
    return np.unique(of_row, return_index=True)[1], of_row


class GraphInputs:
    """What training reads and never changes: the texts and the graph, as sparse maps on the device.

    Args:
        texts: text vectors of the items.
        graph: the training pairs.
        device: device of ``texts``.
    """

    def __init__(self, texts: ItemTexts, graph: TrainGraph, device: str) -> None:
        self.texts = texts
        self.graph = graph
        self.adjacency = normalized_adjacency(graph, device)
        text_of_edge = texts.of_item.cpu().numpy()[graph.items]
        shape = (len(graph.users), len(texts.vectors))
        self.user_means = SparseMap(graph.owner, text_of_edge, 1.0 / graph.user_degree[graph.owner], shape, device)

    def layer_zero(self, head: SharedHead) -> tuple[Tensor, Tensor, Tensor]:
        """Return layer 0 of users (U, d) and items (I, d), and the items' first map (I, hidden)."""
        projected = head.first(self.texts.vectors)
        users = head.second(self.user_means @ projected)
        items = head.second(projected)[self.texts.of_item]
        return users, items, projected[self.texts.of_item]

    def vectors(self, head: SharedHead, layers: int) -> tuple[Tensor, Tensor]:
        """Return users (U, d) and items (I, d) after graph convolution, each of length 1."""
        users, items, _ = self.layer_zero(head)
        user_layers, item_layers = propagate(self.adjacency, users, items, layers)
        return unit(mean_layers(user_layers)), unit(mean_layers(item_layers))


def unit(vectors: Tensor) -> Tensor:
    """Return vectors scaled to length 1; zeros stay zeros."""
    return functional.normalize(vectors, dim=-1)


def pair_scores(users: Tensor, items: Tensor, user: Tensor, item: Tensor) -> Tensor:
    """Return the inner products (B, M) of drawn users with M items each.

    Args:
        users: (U, d).
        items: (I, d).
        user: int64 (B,), rows of ``users``.
        item: int64 (B, M), rows of ``items``.
    """
    if len(items) > item.shape[1] * users.shape[1]:
        # A large catalogue: gathering the items' vectors takes less memory than scoring all of them.
        return torch.einsum("bd,bmd->bm", users[user], items[item])
    distinct, place = torch.unique(user, return_inverse=True)
    scores = users[distinct] @ items.T
    at = place.unsqueeze(1) * len(items) + item
    return scores.flatten().index_select(0, at.flatten()).view_as(at)


def info_nce(scores: Tensor, temperature: float) -> Tensor:
    """Return the mean of ``-log(e^(p/t) / (e^(p/t) + sum_n e^(n/t)))``, a scalar.

    Args:
        scores: (B, 1+N), cosines of B users with a positive p, in column 0, and N negatives n.
        temperature: t.
    """
    logits = scores / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()
