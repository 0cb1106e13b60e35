"""The true best titles of a catalogue under a model's score, by best-first search over the token trie.

A partial title's sum of log-probabilities can only fall, so it bounds the score of everything that begins with it.
Each step expands the partial titles with the highest bounds, of all rows at once, in one forward pass; what cannot
reach the best finished titles is dropped. When nothing is left, the list is proven: no other title of the catalogue
scores higher. How good the bound is decides how much has to be looked at (see :func:`best_divisors`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recbench.contracts.config import StrictModel
from recbench.llm.beam import DROP_BELOW, BeamResult, DeviceTrie, TrieGuide
from recbench.llm.head import LogprobHead
from recbench.llm.tree import ROOT, AnswerTree
from recbench.llm.writer import Prefix, TitleWriter

_NONE = -1
# Tokens of a stretch without branches that are fed at once, at most.
_STRETCH = 8
# The last tokens of a step may turn out not to matter: it may feed one for so many that were looked at before.
_STEP_SHARE = 32
# First steps to make room for in the tree of answers; it grows where a search needs more.
_ROOM_STEPS = 16


class ExactSettings(StrictModel):
    """How much work an exact search may do."""

    max_expansions: int = Field(
        16_384,
        ge=1,
        description="tokens of the trie looked at per query, at most; a query that needs more is not proven",
    )
    first_tokens: int = Field(32, ge=1, description="tokens of one query fed to the model at once at first")
    tokens_per_step: int = Field(
        256, ge=1, description="the same later on: a thirty-second of what was looked at, between first_tokens and this"
    )


@dataclass(frozen=True)
class ExactResult:
    """The best titles found for B rows, best first.

    Attributes:
        sequence: int64 (B, W), sequence numbers of the trie, -1 where there are none. W is the number of titles asked
            for, or more where titles tie with the last one: they are all kept, by rising number.
        score: float64 (B, W), sum of log-probabilities / length ** length_penalty; -inf where there is none.
        proven: bool (B,), no title that is missing scores as high as a listed one.
        bound: float64 (B,), no missing title scores higher than this; -inf if nothing was left to look at.
        expansions: int64 (B,), nodes whose continuations were scored, the root among them.
        steps: forward passes of the batch.
    """

    sequence: Tensor
    score: Tensor
    proven: Tensor
    bound: Tensor
    expansions: Tensor
    steps: int

    def improved_by(
        self, beams: BeamResult, rows: Tensor, n_titles: int, excluded: Tensor | None = None
    ) -> ExactResult:
        """Return lists that also hold what a beam search found for some rows.

        A search that ended at its budget has looked at many beginnings and may have finished few titles; with the
        titles of a beam search its list is never worse than the beam search's. A list that this lifts above everything
        that was left to look at is proven.

        Args:
            beams: of R rows.
            rows: int64 (R,), which ones of this result they are.
            n_titles, excluded: as for :func:`exact_search`.
        """
        sequence, score = beams.sequence, beams.score.double()
        drop = (sequence[:, :, None] == self.sequence[rows][:, None, :]).any(dim=2)
        if excluded is not None:
            drop |= (sequence[:, :, None] == excluded[rows][:, None, :]).any(dim=2)
        sequence = torch.cat([self.sequence[rows], sequence.where(~drop, _NONE)], dim=1)
        score = torch.cat([self.score[rows], score.where(~drop, -torch.inf)], dim=1)
        by_number = sequence.argsort(dim=1, stable=True)
        order = by_number.gather(1, score.gather(1, by_number).argsort(dim=1, descending=True, stable=True))
        sequence, score = sequence.gather(1, order), score.gather(1, order)
        last = score[:, n_titles - 1 : n_titles]
        listed = (score >= last) & (sequence >= 0)
        width = max(self.sequence.shape[1], int(listed.sum(dim=1).max()))
        missing = width - self.sequence.shape[1]
        all_sequence = F.pad(self.sequence, (0, missing), value=_NONE)
        all_score = F.pad(self.score, (0, missing), value=-torch.inf)
        all_sequence[rows] = F.pad(sequence.where(listed, _NONE), (0, missing), value=_NONE)[:, :width]
        all_score[rows] = F.pad(score.where(listed, -torch.inf), (0, missing), value=-torch.inf)[:, :width]
        proven = self.proven.clone()
        proven[rows] |= last.squeeze(1) > self.bound[rows]
        return replace(
            self, sequence=all_sequence, score=all_score, proven=proven,
            bound=self.bound.masked_fill(proven, -torch.inf), steps=self.steps + beams.steps,
        )  # fmt: skip


def longest_and_shortest(first_child: np.ndarray, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens in the longest and in the shortest sequence through every node of a trie, int64 (n_nodes,).

    Args:
        first_child, leaf: of a :class:`~recbench.llm.trie.TokenTrie`, whose nodes are numbered breadth first.
    """
    levels = [(0, 1)]
    while True:
        start, end = (int(first_child[node]) for node in levels[-1])
        if start == end:
            break
        levels.append((start, end))
    longest = np.zeros(len(leaf), dtype=np.int64)
    shortest = np.zeros(len(leaf), dtype=np.int64)
    for depth, (start, end) in reversed(list(enumerate(levels))):
        nodes = np.arange(start, end)
        longest[nodes] = shortest[nodes] = depth
        inner = nodes[first_child[nodes] < first_child[nodes + 1]]
        if len(inner):
            below = slice(int(first_child[start]), int(first_child[end]))
            starts = first_child[inner] - first_child[start]
            longest[inner] = np.maximum.reduceat(longest[below], starts)
            shortest[inner] = np.minimum.reduceat(shortest[below], starts)
    return longest, shortest


@dataclass(frozen=True)
class BoundedTrie:
    """A trie with what bounds need.

    Attributes:
        trie: the titles.
        divisor: float64 (n_nodes,), the largest length ** length_penalty among the sequences through each node. A
            sequence through a node scores at most (the node's sum of log-probabilities) / divisor, whatever the
            penalty: sums are not positive, so the largest divisor gives the highest score. At a leaf it is the score.
        node_at: int64 (n_nodes,), the node at each place of the preorder.
        stretch: int64 (n_nodes,), how many tokens to feed at once from a node on: as many as were fed since the last
            branch before it, and one. Behind a branch the first tokens cost most, and may rule the rest out.
    """

    trie: DeviceTrie
    divisor: Tensor
    node_at: Tensor
    stretch: Tensor

    @classmethod
    def of(cls, trie: DeviceTrie, length_penalty: float) -> BoundedTrie:
        """Prepare a trie for scores sum / length ** length_penalty."""
        longest, shortest = longest_and_shortest(trie.first_child.cpu().numpy(), trie.leaf.cpu().numpy())
        powers = np.maximum(np.arange(trie.max_length + 1, dtype=np.float64), 1.0) ** length_penalty
        divisor = torch.from_numpy(np.maximum(powers[longest], powers[shortest]))
        node_at = trie.preorder.argsort()
        return cls(trie, divisor.to(trie.token.device), node_at, _stretches(trie, node_at))


def _stretches(trie: DeviceTrie, node_at: Tensor) -> Tensor:
    """Return ``stretch`` of a :class:`BoundedTrie`."""
    place = torch.arange(len(node_at), device=node_at.device)
    # An only child stands right behind its parent.
    is_only_child = F.pad(trie.n_children[node_at[:-1]] == 1, (1, 0))
    since_branch = place - place.where(~is_only_child, 0).cummax(dim=0).values
    fed = (1 + since_branch).clamp(max=_STRETCH)[trie.preorder]
    return torch.minimum(trie.run.clamp(min=1), fed)


@torch.no_grad()
def exact_search(
    writer: TitleWriter,
    prefix: Prefix,
    trie: BoundedTrie,
    n_titles: int,
    settings: ExactSettings,
    guide: TrieGuide | None = None,
    excluded: Tensor | None = None,
) -> ExactResult:
    """Return the ``n_titles`` best titles of the catalogue for every row of ``prefix``.

    Scores are those that this search computes: in float32 they differ from those of another batch by about 1e-5, and
    titles closer than that may change places. Within them a proof is exact, because a sum can only fall: each added
    log-probability is at most 0.

    Args:
        n_titles: titles wanted. More are returned where some tie exactly with the last one.
        settings: the budget. A row that would exceed it returns the best titles found and is not proven.
        guide: mixes a text-free model into every step's score.
        excluded: int64 (B, X), sequence numbers that must not be listed, -1 for none.
    """
    search = _Search(writer, prefix, trie, n_titles, settings, guide, excluded)
    search.expand_root()
    while search.choose():
        search.expand()
    return search.result()


@dataclass(frozen=True)
class _Candidates:
    """Partial or finished titles of all rows, in one flat list.

    Attributes:
        row: int64 (N,), which row of the search.
        node: int64 (N,), trie node.
        slot: int64 (N,), where in the tree of answers the token before it is; ``ROOT`` after the prompt.
        total: float64 (N,), sum of log-probabilities, this node's token included.
        bound: float64 (N,), highest possible score.
    """

    row: Tensor
    node: Tensor
    slot: Tensor
    total: Tensor
    bound: Tensor

    def take(self, which: Tensor) -> _Candidates:
        """Return some of them, by mask or index."""
        if which.dtype == torch.bool:
            which = which.nonzero().squeeze(1)
        return _Candidates(*(getattr(self, name).index_select(0, which) for name in self.__dataclass_fields__))

    def join(self, other: _Candidates) -> _Candidates:
        """Return both."""
        names = self.__dataclass_fields__
        return _Candidates(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))


def _best_first(row: Tensor, bound: Tensor) -> Tensor:
    """Return int64 (N,): an order by row and falling bound, older ones first among equals."""
    order = bound.argsort(descending=True, stable=True)
    return order[row[order].argsort(stable=True)]


def _cumsum_in_row(values: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """Return int64 (N,): sums of ``values`` up to each entry (inclusive) over the entries of its row; rows ascend."""
    sums = values.cumsum(0)
    before = torch.zeros(n_rows, dtype=sums.dtype, device=row.device).index_add_(0, row, values)
    return sums - (before.cumsum(0) - before)[row]


class _Search:
    """The state of one batch. Rows are numbered as in the batch; ``active`` lists those still in the tree."""

    def __init__(
        self,
        writer: TitleWriter,
        prefix: Prefix,
        trie: BoundedTrie,
        n_titles: int,
        settings: ExactSettings,
        guide: TrieGuide | None,
        excluded: Tensor | None,
    ) -> None:
        self.bounded, self.trie, self.n_titles, self.settings = trie, trie.trie, n_titles, settings
        self.guide = guide if guide is not None and guide.alpha != 1.0 else None
        self.excluded = excluded
        self.tree = AnswerTree(writer, prefix, room=_ROOM_STEPS * settings.first_tokens)
        self.head = LogprobHead(writer)
        self.n_rows, self.device = prefix.mask.shape[0], prefix.mask.device
        self.active = torch.arange(self.n_rows, device=self.device)
        self.threshold = torch.full((self.n_rows,), -torch.inf, dtype=torch.float64, device=self.device)
        self.expansions = torch.zeros(self.n_rows, dtype=torch.int64, device=self.device)
        self.steps = 0
        self.frontier = self.finished = self.left = _nothing(self.device)
        self.chosen, self.length = self.left, self.left.row

    def expand_root(self) -> None:
        """Score the first tokens of all titles."""
        zeros = torch.zeros_like(self.active)
        root = _Candidates(self.active, zeros, zeros + ROOT, zeros.double(), zeros.double())
        self.expansions += 1
        self._add_children(root, self.head(self.tree.start()), self.active)

    def choose(self) -> bool:
        """Drop what cannot matter and pick the nodes to expand; rows that have none end. False: no row has any."""
        self._settle_finished()
        frontier = self.frontier
        order = (frontier.bound >= self.threshold[frontier.row]).nonzero().squeeze(1)
        order = order[_best_first(frontier.row[order], frontier.bound[order])]
        row = frontier.row[order]
        first, most = self.settings.first_tokens, self.settings.tokens_per_step
        step = (self.expansions // _STEP_SHARE).clamp(min=first).clamp(max=most)
        length = self.bounded.stretch[frontier.node[order]]
        end = _cumsum_in_row(length, row, self.n_rows)
        left = self.settings.max_expansions - self.expansions
        now = (end - length < step[row]) & (end <= left[row])
        goes_on = torch.zeros_like(left, dtype=torch.bool)
        goes_on[row[now]] = True
        stopped = ~goes_on[row]
        self.left = self.left.join(frontier.take(order[stopped]))
        self.chosen, self.length = frontier.take(order[now]), length[now]
        self.frontier = frontier.take(order[~now & ~stopped])
        # Tokens that stand near each other in the trie share most of what they look at.
        near = (self.chosen.row * len(self.trie.token) + self.trie.preorder[self.chosen.node]).argsort()
        self.chosen, self.length = self.chosen.take(near), self.length[near]
        self._keep_rows(goes_on.nonzero().squeeze(1))
        return len(self.chosen.row) > 0

    def expand(self) -> None:
        """Feed the chosen nodes and the stretches without branches that follow; score the children of their ends."""
        chosen, trie, length = self.chosen, self.trie, self.length
        of = torch.repeat_interleave(torch.arange(len(length), device=self.device), length)
        offset = torch.arange(len(of), device=self.device) - (length.cumsum(0) - length)[of]
        row = chosen.row[of]
        # The chosen nodes are sorted by row: number the tokens within their row, and the rows within the tree.
        column = _cumsum_in_row(torch.ones_like(of), row, self.n_rows) - 1
        tree_row = torch.searchsorted(self.active, row)
        place = trie.preorder[chosen.node][of] + offset
        first_slot = self.tree.n_slots
        width, depth = torch.stack([column.max() + 1, length.max()]).tolist()
        token = torch.zeros((len(self.active), width), dtype=torch.int64, device=self.device)
        parent = torch.full_like(token, ROOT)
        token[tree_row, column] = trie.preorder_token[place]
        parent[tree_row, column] = torch.where(offset == 0, chosen.slot[of], first_slot + column - 1)
        real = tree_row * width + column if len(of) < token.numel() else None
        logprobs = self.head(self.tree.extend(token, parent, depth, real))
        self.expansions.index_add_(0, chosen.row, length)

        last = length.cumsum(0) - 1
        inner = torch.ones_like(of, dtype=torch.bool)
        inner[last] = False
        inner = inner.nonzero().squeeze(1)
        node = self.bounded.node_at[place[inner] + 1]
        added = self._step_scores(row[inner], node, logprobs[inner, trie.token[node]])
        end = _Candidates(
            chosen.row,
            self.bounded.node_at[place[last]],
            first_slot + column[last],
            chosen.total.index_add(0, of[inner], added),
            chosen.bound,
        )
        self._add_children(end, logprobs, last)

    def _step_scores(self, row: Tensor, node: Tensor, logprob: Tensor) -> Tensor:
        """Return float64 (N,), never positive: what stepping to nodes adds to their titles' sums."""
        logprob = logprob.clamp(max=0).double()  # rounding may leave a sure token slightly above 0
        if self.guide is None:
            return logprob
        share = self.guide.share_logprob[row, node].double()
        return self.guide.alpha * logprob + (1.0 - self.guide.alpha) * share

    def _add_children(self, parents: _Candidates, logprobs: Tensor, at: Tensor) -> None:
        """Score all children of N nodes.

        Args:
            logprobs: float32 (X, W), of the tokens of a model call.
            at: int64 (N,), where in them each node is.
        """
        self.steps += 1
        trie = self.trie
        count = trie.n_children[parents.node]
        parent = torch.repeat_interleave(torch.arange(len(count), device=self.device), count)
        starts = count.cumsum(0) - count
        node = torch.arange(len(parent), device=self.device) - (starts - trie.first_child[parents.node])[parent]
        row = parents.row[parent]
        total = parents.total[parent]
        total = total + self._step_scores(row, node, logprobs[at[parent], trie.token[node]])
        children = _Candidates(row, node, parents.slot[parent], total, total / self.bounded.divisor[node])
        children = children.take(total > -torch.inf)  # the guide may rule a node out
        leaf = trie.leaf[children.node]
        listed = leaf >= 0
        if self.excluded is not None:
            listed &= ~(self.excluded[children.row] == leaf[:, None]).any(dim=1)
        self.finished = self.finished.join(children.take(listed))
        self.frontier = self.frontier.join(children.take(leaf < 0))

    def _settle_finished(self) -> None:
        """Keep the best finished titles of each row, with all that tie with the last of them."""
        finished = self.finished.take(self.trie.leaf[self.finished.node].argsort())
        finished = finished.take(_best_first(finished.row, finished.bound))
        last = _cumsum_in_row(torch.ones_like(finished.row), finished.row, self.n_rows) == self.n_titles
        self.threshold[finished.row[last]] = finished.bound[last]
        self.finished = finished.take(finished.bound >= self.threshold[finished.row])

    def _keep_rows(self, rows: Tensor) -> None:
        if 0 < len(rows) <= DROP_BELOW * len(self.active):
            self.tree.keep(torch.searchsorted(self.active, rows))
            self.active = rows

    def result(self) -> ExactResult:
        """Return the finished titles as tables."""
        row = self.finished.row
        place = _cumsum_in_row(torch.ones_like(row), row, self.n_rows) - 1
        shape = (self.n_rows, max(self.n_titles, int(place.max()) + 1 if len(place) else 0))
        sequence = torch.full(shape, _NONE, dtype=torch.int64, device=self.device)
        score = torch.full(shape, -torch.inf, dtype=torch.float64, device=self.device)
        sequence[row, place] = self.trie.leaf[self.finished.node]
        score[row, place] = self.finished.bound
        bound = torch.full((self.n_rows,), -torch.inf, dtype=torch.float64, device=self.device)
        bound = bound.scatter_reduce(0, self.left.row, self.left.bound, "amax")
        return ExactResult(sequence, score, torch.isinf(bound), bound, self.expansions, self.steps)


def _nothing(device: torch.device) -> _Candidates:
    whole = torch.empty(0, dtype=torch.int64, device=device)
    real = torch.empty(0, dtype=torch.float64, device=device)
    return _Candidates(whole, whole, whole, real, real)
