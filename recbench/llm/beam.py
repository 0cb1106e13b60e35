"""Constrained beam search over a token trie. No Python per beam: all beams of a batch advance by gathers of arrays.

Scores are sums of full-vocabulary log-probabilities, not renormalised over the allowed tokens; a disallowed token has
none, so a beam without continuation ends. The rules are those of Hugging Face's beam search with
``early_stopping=False`` (the published code's setting), applied to every row on its own, so that a row's result does
not depend on its batch-mates. Equal scores are ordered: the better parent first, then the smaller token.

Where the titles of a row's beams can go on in no more than K ways, all of these ways will be beams, whatever the model
says. So they are read together with the beams in one model call, and the steps over them need no call of their own.
Each row goes as far as it can between two calls, so rows need not be at the same step.

The device reads tokens and returns what the steps to their children score; the beams themselves are small arrays in the
host's memory, where an operation takes a fraction of the time that starting one on a device does. So a model call costs
one exchange with the device, however many steps follow it.

Dimensions: B rows asked for, R rows still searched, K beams kept, M beams alive in the fullest row, W children of the
widest node, N tokens read in one call, C children of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recbench.llm.head import LogprobHead
from recbench.llm.tree import ROOT, AnswerTree
from recbench.llm.trie import TokenTrie
from recbench.llm.writer import Prefix, TitleWriter

_NONE = -1
# Levels of the trie that are read at once, at most. Reading ahead saves model calls, but what was read is lost if the
# row ends on the way, and rows with few beams need not hurry: those with many decide how many calls there are.
_LEVELS = 6
# Dropping finished rows may copy the cache of the others, so it waits until a good part has finished.
DROP_BELOW = 0.75
# Slots to make room for at first, per beam; few titles are longer.
_ROOM = 32


@dataclass(frozen=True)
class BeamResult:
    """The finished beams of B rows, best first.

    Attributes:
        sequence: int64 (B, K), sequence numbers of the trie; -1 where fewer finished.
        score: float32 (B, K), sum of log-probabilities / length ** length_penalty; -inf where none.
        steps: decoding steps taken by the batch.
    """

    sequence: Tensor
    score: Tensor
    steps: int


@dataclass(frozen=True)
class DeviceTrie:
    """A :class:`TokenTrie` as int64 tensors on one device.

    Attributes:
        token, first_child, leaf, preorder, max_length: see :class:`TokenTrie`.
        n_children: (n_nodes,).
        run: (n_nodes,), how many nodes with a single child follow each other from a node on, itself included.
        preorder_token: (n_nodes,), tokens of the nodes in preorder.
    """

    token: Tensor
    first_child: Tensor
    leaf: Tensor
    preorder: Tensor
    max_length: int
    n_children: Tensor
    run: Tensor
    preorder_token: Tensor

    @classmethod
    def of(cls, trie: TokenTrie, device: torch.device) -> DeviceTrie:
        """Copy a trie to a device."""
        nodes = np.argsort(trie.preorder)
        place = np.arange(len(trie))
        stops = np.where(np.diff(trie.first_child)[nodes] == 1, len(trie), place)
        run = np.minimum.accumulate(stops[::-1])[::-1] - place

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.astype(np.int64)).to(device)

        return cls(
            token=on_device(trie.token),
            first_child=on_device(trie.first_child),
            leaf=on_device(trie.leaf),
            preorder=on_device(trie.preorder),
            max_length=trie.max_length,
            n_children=on_device(np.diff(trie.first_child)),
            run=on_device(run[trie.preorder]),
            preorder_token=on_device(trie.token[nodes]),
        )

    @cached_property
    def host(self) -> HostTrie:
        """The trie in the host's memory."""
        token, first_child, leaf, n_children = (
            tensor.cpu().numpy() for tensor in (self.token, self.first_child, self.leaf, self.n_children)
        )
        parent = np.concatenate([[0], np.repeat(np.arange(len(token)), n_children)])
        return HostTrie(token, first_child, leaf, n_children, parent)


@dataclass(frozen=True)
class HostTrie:
    """A trie as int64 arrays of NumPy.

    Attributes:
        token, first_child, leaf, n_children: see :class:`DeviceTrie`.
        parent: (n_nodes,), the node above each one; 0 for the root.
    """

    token: np.ndarray
    first_child: np.ndarray
    leaf: np.ndarray
    n_children: np.ndarray
    parent: np.ndarray


@dataclass(frozen=True)
class TrieGuide:
    """A second opinion on every step of the trie (the text-free ensemble of D3).

    Attributes:
        share_logprob: float32 (B, n_nodes), log of a node's share among its siblings in the other model's view, <= 0;
            -inf is a node that cannot be reached.
        alpha: weight of the language model in [0, 1]: a step scores
            ``alpha * logprob + (1 - alpha) * share_logprob``. 1 is the language model alone.
    """

    share_logprob: Tensor
    alpha: float

    def take(self, rows: Tensor) -> TrieGuide:
        """Return the opinion on some rows, int64 (R,)."""
        return TrieGuide(self.share_logprob[rows], self.alpha)


@torch.no_grad()
def beam_search(
    writer: TitleWriter,
    prefix: Prefix,
    trie: DeviceTrie,
    n_beams: int,
    length_penalty: float,
    guide: TrieGuide | None = None,
) -> BeamResult:
    """Return the best titles that a beam search finds for every row of ``prefix``.

    Args:
        n_beams: beams kept and titles returned.
        length_penalty: a finished beam of L tokens (end token included) scores sum / L ** length_penalty: 1.0 is the
            BIGRec flavour, 0.0 the D3 flavour.
        guide: mixed into every step's score; None for the language model alone.
    """
    search = _Search(writer, prefix, trie, n_beams, guide)
    sequence, score = search.beams.finished_sequence.copy(), search.beams.finished_score.copy()
    steps = 0
    while True:
        search.read()
        search.advance(length_penalty)
        beams = search.beams
        n_live, steps = beams.alive.any(axis=1).sum(), max(steps, int(beams.step.max()))
        if n_live <= DROP_BELOW * len(beams.row):
            sequence[beams.row], score[beams.row] = beams.finished_sequence, beams.finished_score
            if n_live == 0:
                device = prefix.mask.device
                return BeamResult(torch.from_numpy(sequence).to(device), torch.from_numpy(score).to(device), steps)
            search.drop_finished()


@dataclass
class _Beams:
    """Running and finished beams of R rows.

    Attributes:
        row: int64 (R,), which row of the batch each is.
        step: int64 (R,), tokens of a row's running beams.
        node, score: (R, K), trie node and sum of log-probabilities of the running beams, best first; -inf is a dead
            beam, and all beams of a row that is done are dead.
        slot: (R, K), where the node's parent is in the tree of answers.
        at: (R, K), the node's number among the tokens of the last model call, -1 if it was not read.
        finished_sequence, finished_score: (R, K), best first.
    """

    row: np.ndarray
    step: np.ndarray
    node: np.ndarray
    score: np.ndarray
    slot: np.ndarray
    at: np.ndarray
    finished_sequence: np.ndarray
    finished_score: np.ndarray

    @classmethod
    def start(cls, rows: int, n_beams: int) -> _Beams:
        """Return one beam per row that stands on the root."""
        shape = (rows, n_beams)
        score = np.full(shape, -np.inf, dtype=np.float32)
        score[:, 0] = 0.0
        return cls(
            row=np.arange(rows),
            step=np.zeros(rows, dtype=np.int64),
            node=np.zeros(shape, dtype=np.int64),
            score=score,
            slot=np.full(shape, ROOT),
            at=np.full(shape, _NONE),
            finished_sequence=np.full(shape, _NONE),
            finished_score=np.full(shape, -np.inf, dtype=np.float32),
        )

    @property
    def alive(self) -> np.ndarray:
        """bool (R, K): beams that run."""
        return self.score > -np.inf

    def take(self, rows: np.ndarray) -> _Beams:
        """Return only these rows."""
        return _Beams(*(getattr(self, field.name)[rows] for field in fields(self)))

    def after(self, best: _Best, moves: np.ndarray, trie: HostTrie, reading: _Reading, length_penalty: float) -> _Beams:
        """Return some rows, bool (R, 1), one token on by their best 2 K continuations; the others as they are."""
        n_beams = self.node.shape[1]
        row = np.arange(len(self.row))[:, None]
        power = ((self.step + 1) ** float(length_penalty)).astype(np.float32)[:, None]
        finished_sequence, finished_score = self.finished_sequence, self.finished_score
        leaf = trie.leaf[best.node]
        ends = leaf >= 0
        if ends.any():
            # Only a continuation among the K best may finish; the others are there to keep K running.
            final = np.where(ends, best.score / power, -np.inf)[:, :n_beams]
            merged_score = np.concatenate([finished_score, final], axis=1)
            merged_sequence = np.concatenate([finished_sequence, leaf[:, :n_beams]], axis=1)
            kept = _best_columns(merged_score, n_beams)
            finished_score, finished_sequence = merged_score[row, kept], merged_sequence[row, kept]
        if length_penalty == 0:
            # Sums only fall, so a beam that is no better than the worst listed title cannot enter the list any more,
            # and neither can any that it would have kept out.
            ends = ends | (best.score <= finished_score[:, -1:])
        # The best continuations are in order; those that do not end stay in it.
        kept = ends.argsort(axis=1, kind="stable")[:, :n_beams]
        score = np.where(ends, -np.inf, best.score)[row, kept]
        score[(score[:, :1] / power <= finished_score[:, -1:]).squeeze(1)] = -np.inf
        node = best.node[row, kept]
        at = self.at[row, best.parent[row, kept]]
        return _Beams(
            row=self.row,
            step=self.step + moves.squeeze(1),
            node=np.where(moves, node, self.node),
            score=np.where(moves, score, self.score),
            slot=np.where(moves, reading.slot[at], self.slot),
            at=np.where(moves, reading.find(node), self.at),
            finished_sequence=np.where(moves, finished_sequence, self.finished_sequence),
            finished_score=np.where(moves, finished_score, self.finished_score),
        )


@dataclass(frozen=True)
class _Reading:
    """What one model call read.

    Attributes:
        key: int64 (N,), ascending: row * nodes of the trie + node.
        n_nodes: of the trie.
        slot: int64 (N,), where each token is in the tree of answers.
        first: int64 (N,), where the scores of each token's children begin.
        score: float32 (C,), of the steps to the children of each token, in their order.
    """

    key: np.ndarray
    n_nodes: int
    slot: np.ndarray
    first: np.ndarray
    score: np.ndarray

    def find(self, node: np.ndarray) -> np.ndarray:
        """Return int64 (R, X): the number of a row's nodes (R, X) in this call, -1 where they were not read."""
        return _find(self.key, np.arange(len(node))[:, None] * self.n_nodes + node)


def _find(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return int64 (...): where each of ``wanted`` (...) stands in ``ascending`` (N,), -1 where it is missing."""
    place = np.minimum(ascending.searchsorted(wanted), len(ascending) - 1)
    return np.where(ascending[place] == wanted, place, _NONE)


@dataclass(frozen=True)
class _Best:
    """The best continuations of R rows, best first: parent beam, node and score, each (R, 2 K)."""

    parent: np.ndarray
    node: np.ndarray
    score: np.ndarray


class _Search:
    """A search between two model calls.

    Attributes:
        beams: the beams.
        reading: what the last model call read; none before the first one.
    """

    def __init__(
        self, writer: TitleWriter, prefix: Prefix, trie: DeviceTrie, n_beams: int, guide: TrieGuide | None
    ) -> None:
        self.trie, self.device = trie.host, prefix.mask.device
        self.guide = guide if guide is not None and guide.alpha != 1.0 else None
        self.beams = _Beams.start(len(prefix.mask), n_beams)
        self.tree = AnswerTree(writer, prefix, n_beams * _ROOM)
        self.head = LogprobHead(writer)
        self.reading: _Reading | None = None

    def advance(self, length_penalty: float) -> None:
        """Move every row on, as far as what follows its beams is known."""
        assert self.reading is not None
        while True:
            beams = self.beams
            alive = beams.alive
            waits = np.any(alive & (beams.at < 0), axis=1, keepdims=True)
            moves = np.any(alive, axis=1, keepdims=True) & ~waits
            count = np.where(alive & moves, self.trie.n_children[beams.node], 0)
            if not count.any():
                return
            best = self._best(count, self.reading)
            self.beams = beams.after(best, moves, self.trie, self.reading, length_penalty)

    def _best(self, count: np.ndarray, reading: _Reading) -> _Best:
        """Return the best continuations of all rows, whose beams have ``count`` of them, int64 (R, K)."""
        beams = self.beams
        n_beams = int((count > 0).sum(axis=1).max())
        count, widest = count[:, :n_beams], int(count.max())
        node, at = beams.node[:, :n_beams], beams.at[:, :n_beams]
        place = np.arange(widest)
        is_child = place < count[:, :, None]
        found = reading.score[np.where(is_child, reading.first[at][:, :, None] + place, 0)]
        total = np.where(is_child, beams.score[:, :n_beams, None] + found, -np.inf).reshape(len(count), -1)
        n_best = 2 * beams.node.shape[1]
        if (missing := n_best - total.shape[1]) > 0:
            nothing = np.full((len(total), missing), -np.inf, dtype=np.float32)
            total = np.concatenate([total, nothing], axis=1)
        column = _best_columns(total, n_best)
        row = np.arange(len(total))[:, None]
        total = total[row, column]
        parent = np.minimum(column // widest, n_beams - 1)
        child = self.trie.first_child[node[row, parent]] + column % widest
        return _Best(parent, np.where(total > -np.inf, child, 0), total)

    def drop_finished(self) -> None:
        """Go on with the other rows only."""
        live = np.flatnonzero(self.beams.alive.any(axis=1))
        self.tree.keep(self._on_device(live))
        self.beams = self.beams.take(live)

    def read(self) -> None:
        """Read all beams, and ahead of them. The root's token is the prompt's last one, which the tree knows."""
        trie, n_nodes = self.trie, len(self.trie.token)
        node, wanted, n_levels = self._ahead()
        row, column = wanted.nonzero()
        # A parent has a smaller number than its children, so it stands before them.
        key = row * n_nodes + node[row, column]
        order = key.argsort(kind="stable")
        key, row, column = key[order], row[order], column[order]
        node = key % n_nodes
        counts = np.bincount(row, minlength=len(wanted))
        number = np.arange(len(row)) - (counts.cumsum() - counts)[row]
        first_slot = self.tree.n_slots
        parent = _find(key, row * n_nodes + trie.parent[node])
        is_beam = column < self.beams.slot.shape[1]
        slot = self.beams.slot[row, np.where(is_beam, column, 0)]
        width = int(counts.max())
        tokens, parents = np.zeros((2, len(counts), width), dtype=np.int64)
        tokens[row, number] = trie.token[node]
        parents[row, number] = np.where(parent >= 0, first_slot + number[parent], slot)
        place = row * width + number
        read = self.tree.start if self.reading is None else self.tree.extend
        real = self._on_device(place) if len(place) < tokens.size else None
        hidden = read(self._on_device(tokens), self._on_device(parents), n_levels, real)
        first, score = self._child_scores(row, node, hidden)
        self.reading = _Reading(key, n_nodes, first_slot + number, first, score)
        self.beams.at = self.reading.find(self.beams.node)

    def _child_scores(self, row: np.ndarray, node: np.ndarray, hidden: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return where the scores of the children of N nodes begin, and all the scores.

        Args:
            row, node: int64 (N,).
            hidden: (N, H), states that predict what follows each node.
        """
        count = self.trie.n_children[node]
        first = count.cumsum() - count
        of = np.arange(len(node)).repeat(count)
        child = np.arange(len(of)) + (self.trie.first_child[node] - first)[of]
        where = self._on_device(np.stack([of, self.trie.token[child]]))
        score = self.head(hidden)[where[0], where[1]]
        if self.guide is not None:
            where = self._on_device(np.stack([self.beams.row[row[of]], child]))
            share = self.guide.share_logprob[where[0], where[1]]
            score = self.guide.alpha * score + (1.0 - self.guide.alpha) * share
        return first, score.cpu().numpy()

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _ahead(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Return what to read: nodes int64 (R, X) that are wanted, bool (R, X), and how many levels of the trie.

        The first K columns are the beams.
        """
        trie, node, wanted = self.trie, self.beams.node, self.beams.alive
        n_beams = node.shape[1]
        row, place = np.arange(len(node))[:, None], np.arange(n_beams)
        levels = [(node, wanted)]
        while len(levels) < _LEVELS:
            count = np.where(wanted, trie.n_children[node], 0)
            end = count.cumsum(axis=1)
            ways = end[:, -1:]
            goes_on = (ways > 0) & (ways <= n_beams)
            if not goes_on.any():
                break
            # The parent of a child is the first beam whose children end behind it.
            parent = np.minimum((end[:, None] <= place[:, None]).sum(axis=2), n_beams - 1)
            child = trie.first_child[node[row, parent]] + place - (end - count)[row, parent]
            wanted = (place < ways) & goes_on
            node = np.where(wanted, child, 0)
            wanted = wanted & (trie.leaf[node] < 0)
            levels.append((node, wanted))
        nodes, all_wanted = zip(*levels, strict=True)
        return np.concatenate(nodes, axis=1), np.concatenate(all_wanted, axis=1), len(levels)


def _best_columns(score: np.ndarray, n_best: int) -> np.ndarray:
    """Return int64 (R, n_best): the columns of the best scores, best first, of equal ones the left one first.

    Score and column become one integer, so that no two are equal and a part can be sorted alone: read as integers, the
    bits of two positive floats are in the floats' order, of two negative ones in the opposite order.

    Args:
        score: float32 (R, X), X >= n_best.
    """
    bits = score.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    key = (ordered << 32) - np.arange(score.shape[1])
    row = np.arange(len(score))[:, None]
    best = key.argpartition(score.shape[1] - n_best, axis=1)[:, -n_best:]
    return best[row, (-key[row, best]).argsort(axis=1)]
