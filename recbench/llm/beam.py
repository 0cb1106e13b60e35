"""Constrained beam search over a token trie. No Python per beam: all beams of a batch advance by tensor gathers.

Scores are sums of full-vocabulary log-probabilities, not renormalised over the allowed tokens; a disallowed token has
none, so a beam without continuation ends. The rules are those of Hugging Face's beam search with
``early_stopping=False`` (the published code's setting), applied to every row on its own, so that a row's result does
not depend on its batch-mates. Equal scores are ordered: the better parent first, then the smaller token.

Where the titles of a row's beams can go on in no more than K ways, all of these ways will be beams, whatever the model
says. So they are read together with the beams in one model call, and the steps over them need no call of their own.
Each row goes as far as it can between two calls, so rows need not be at the same step.

Dimensions: B rows asked for, R rows still searched, K beams kept, M beams alive in the fullest row, W children of the
widest node, N tokens read in one call, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
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
_DROP_BELOW = 0.75
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
        parent: (n_nodes,), the node above each one; 0 for the root.
        n_children: (n_nodes,).
        run: (n_nodes,), how many nodes with a single child follow each other from a node on, itself included.
        preorder_token: (n_nodes,), tokens of the nodes in preorder.
    """

    token: Tensor
    first_child: Tensor
    leaf: Tensor
    preorder: Tensor
    max_length: int
    parent: Tensor
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
            parent=on_device(np.concatenate([[0], np.repeat(place, np.diff(trie.first_child))])),
            n_children=on_device(np.diff(trie.first_child)),
            run=on_device(run[trie.preorder]),
            preorder_token=on_device(trie.token[nodes]),
        )


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
    sequence, score = search.beams.finished_sequence.clone(), search.beams.finished_score.clone()
    steps = 0
    while True:
        search.read()
        search.advance(length_penalty)
        beams = search.beams
        n_live, step = torch.stack([beams.alive.any(dim=1).sum(), beams.step.max()]).tolist()
        steps = max(steps, step)
        if n_live <= _DROP_BELOW * len(beams.row):
            sequence[beams.row], score[beams.row] = beams.finished_sequence, beams.finished_score
            if n_live == 0:
                return BeamResult(sequence, score, steps)
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

    row: Tensor
    step: Tensor
    node: Tensor
    score: Tensor
    slot: Tensor
    at: Tensor
    finished_sequence: Tensor
    finished_score: Tensor

    @classmethod
    def start(cls, rows: int, n_beams: int, device: torch.device) -> _Beams:
        """Return one beam per row that stands on the root."""
        score = torch.full((rows, n_beams), -torch.inf, device=device)
        score[:, 0] = 0.0
        row = torch.arange(rows, device=device)
        zeros = torch.zeros((rows, n_beams), dtype=torch.int64, device=device)
        return cls(
            row=row,
            step=torch.zeros_like(row),
            node=zeros,
            score=score,
            slot=zeros + ROOT,
            at=zeros + _NONE,
            finished_sequence=zeros + _NONE,
            finished_score=torch.full_like(score, -torch.inf),
        )

    @property
    def alive(self) -> Tensor:
        """bool (R, K): beams that run."""
        return self.score > -torch.inf

    def take(self, rows: Tensor) -> _Beams:
        """Return only these rows."""
        return _Beams(*(getattr(self, field.name)[rows] for field in fields(self)))

    def after(self, best: _Best, moves: Tensor, trie: DeviceTrie, reading: _Reading, length_penalty: float) -> _Beams:
        """Return some rows, bool (R, 1), one token on by their best 2 K continuations; the others as they are."""
        n_beams = self.node.shape[1]
        power = (self.step + 1)[:, None] ** length_penalty
        finished_sequence, finished_score = self.finished_sequence, self.finished_score
        leaf = trie.leaf[best.node]
        ends = leaf >= 0
        if ends.any():
            # Only a continuation among the K best may finish; the others are there to keep K running.
            final = (best.score / power).where(ends, -torch.inf)[:, :n_beams]
            merged_score = torch.cat([finished_score, final], dim=1)
            merged_sequence = torch.cat([finished_sequence, leaf[:, :n_beams]], dim=1)
            kept = _best_columns(merged_score, n_beams)
            finished_score, finished_sequence = merged_score.gather(1, kept), merged_sequence.gather(1, kept)
        if length_penalty == 0:
            # Sums only fall, so a beam that is no better than the worst listed title cannot enter the list any more,
            # and neither can any that it would have kept out.
            ends = ends | (best.score <= finished_score[:, -1:])
        # The best continuations are in order; those that do not end stay in it.
        kept = ends.byte().sort(dim=1, stable=True).indices[:, :n_beams]
        score = best.score.masked_fill(ends, -torch.inf).gather(1, kept)
        score = score.masked_fill(score[:, :1] / power <= finished_score[:, -1:], -torch.inf)
        node = best.node.gather(1, kept)
        at = self.at.gather(1, best.parent.gather(1, kept))
        return _Beams(
            row=self.row,
            step=self.step + moves.squeeze(1),
            node=node.where(moves, self.node),
            score=score.where(moves, self.score),
            slot=reading.slot[at.clamp(min=0)].where(moves, self.slot),
            at=reading.find(node).where(moves, self.at),
            finished_sequence=finished_sequence.where(moves, self.finished_sequence),
            finished_score=finished_score.where(moves, self.finished_score),
        )


@dataclass(frozen=True)
class _Reading:
    """What one model call read.

    Attributes:
        key: int64 (N,), ascending: row * nodes of the trie + node.
        n_nodes: of the trie.
        slot: int64 (N,), where each token is in the tree of answers.
        logprobs: float32 (N, V), of what follows each token.
    """

    key: Tensor
    n_nodes: int
    slot: Tensor
    logprobs: Tensor

    def find(self, node: Tensor) -> Tensor:
        """Return int64 (R, X): the number of a row's nodes (R, X) in this call, -1 where they were not read."""
        return _find(self.key, _keys(node, self.n_nodes))


def _keys(node: Tensor, n_nodes: int) -> Tensor:
    """Return int64 (R, X): one number for a row and its node (R, X)."""
    return torch.arange(len(node), device=node.device)[:, None] * n_nodes + node


def _find(ascending: Tensor, wanted: Tensor) -> Tensor:
    """Return int64 (...): where each of ``wanted`` (...) stands in ``ascending`` (N,), -1 where it is missing."""
    place = torch.searchsorted(ascending, wanted).clamp(max=len(ascending) - 1)
    return place.where(ascending[place] == wanted, _NONE)


@dataclass(frozen=True)
class _Best:
    """The best continuations of R rows, best first: parent beam, node and score, each (R, 2 K)."""

    parent: Tensor
    node: Tensor
    score: Tensor


class _Search:
    """A search between two model calls.

    Attributes:
        beams: the beams.
        reading: what the last model call read; none before the first one.
    """

    def __init__(
        self, writer: TitleWriter, prefix: Prefix, trie: DeviceTrie, n_beams: int, guide: TrieGuide | None
    ) -> None:
        self.trie = trie
        self.guide = guide if guide is not None and guide.alpha != 1.0 else None
        self.beams = _Beams.start(prefix.mask.shape[0], n_beams, prefix.mask.device)
        self.tree = AnswerTree(writer, prefix, n_beams * _ROOM)
        self.head = LogprobHead(writer)
        self.reading: _Reading | None = None

    def advance(self, length_penalty: float) -> None:
        """Move every row on, as far as what follows its beams is known."""
        assert self.reading is not None
        while True:
            beams, trie = self.beams, self.trie
            alive = beams.alive
            moves = alive.any(dim=1, keepdim=True) & ~(alive & (beams.at < 0)).any(dim=1, keepdim=True)
            children = trie.n_children[beams.node].where(alive & moves, 0)
            n_children, n_beams = torch.stack([children.max(), (children > 0).sum(dim=1).max()]).tolist()
            if n_children == 0:
                return
            best = self._best(children[:, :n_beams], n_children, self.reading.logprobs)
            self.beams = beams.after(best, moves, trie, self.reading, length_penalty)

    def _best(self, count: Tensor, widest: int, logprobs: Tensor) -> _Best:
        """Return the best continuations of all rows.

        Args:
            count: int64 (R, M), children of each beam's node.
            widest: W.
            logprobs: float32 (N, V), of what follows the tokens of the last call.
        """
        beams, trie = self.beams, self.trie
        n_beams = count.shape[1]
        first = trie.first_child[beams.node[:, :n_beams]]
        place = torch.arange(widest, device=count.device)
        is_child = place < count[:, :, None]
        child = torch.where(is_child, first[:, :, None] + place, 0)
        logprob = logprobs[beams.at[:, :n_beams, None].clamp(min=0), trie.token[child]]
        if self.guide is not None:
            share = self.guide.share_logprob[beams.row[:, None, None], child]
            logprob = self.guide.alpha * logprob + (1.0 - self.guide.alpha) * share
        total = (beams.score[:, :n_beams, None] + logprob).where(is_child, -torch.inf).flatten(1)
        n_best = 2 * beams.node.shape[1]
        total = F.pad(total, (0, max(n_best - total.shape[1], 0)), value=-torch.inf)
        column = _best_columns(total, n_best)
        total = total.gather(1, column)
        parent = (column // widest).clamp(max=n_beams - 1)
        child = first.gather(1, parent) + column % widest
        return _Best(parent, child.where(torch.isfinite(total), 0), total)

    def drop_finished(self) -> None:
        """Go on with the other rows only."""
        live = self.beams.alive.any(dim=1).nonzero().squeeze(1)
        self.tree.keep(live)
        self.beams = self.beams.take(live)

    def read(self) -> None:
        """Read all beams, and ahead of them. The root's token is the prompt's last one, which the tree knows."""
        trie, n_nodes = self.trie, len(self.trie.token)
        node, wanted, n_levels = self._ahead()
        slot = F.pad(self.beams.slot, (0, node.shape[1] - self.beams.slot.shape[1]))
        counts = wanted.sum(dim=1)
        n_read, width = torch.stack([counts.sum(), counts.max()]).tolist()
        # A parent has a smaller number than its children, so it stands before them.
        key, order = _keys(node, n_nodes).where(wanted, len(node) * n_nodes).flatten().sort()
        key, slot = key[:n_read], slot.flatten()[order[:n_read]]
        row, node = key // n_nodes, key % n_nodes
        column = torch.arange(n_read, device=key.device) - (counts.cumsum(0) - counts)[row]
        first_slot = self.tree.n_slots
        parent = _find(key, row * n_nodes + trie.parent[node])
        parent_slot = torch.where(parent >= 0, first_slot + column[parent], slot)
        place = row * width + column
        shape = (len(counts), width)
        tokens = torch.zeros(shape, dtype=torch.int64, device=key.device)
        parents = torch.full_like(tokens, ROOT)
        tokens.view(-1)[place], parents.view(-1)[place] = trie.token[node], parent_slot
        read = self.tree.start if self.reading is None else self.tree.extend
        hidden = read(tokens, parents, n_levels, place if n_read < tokens.numel() else None)
        self.reading = _Reading(key, n_nodes, first_slot + column, self.head(hidden))
        self.beams.at = self.reading.find(self.beams.node)

    def _ahead(self) -> tuple[Tensor, Tensor, int]:
        """Return what to read: nodes int64 (R, X) that are wanted, bool (R, X), and how many levels of the trie.

        The first K columns are the beams.
        """
        trie, node, wanted = self.trie, self.beams.node, self.beams.alive
        n_beams = node.shape[1]
        place = torch.arange(n_beams, device=node.device).expand(len(node), -1).contiguous()
        levels = [(node, wanted)]
        while len(levels) < _LEVELS:
            count = trie.n_children[node].where(wanted, 0)
            end = count.cumsum(dim=1)
            ways = end[:, -1]
            goes_on = (ways > 0) & (ways <= n_beams)
            if not goes_on.any():
                break
            parent = torch.searchsorted(end, place, right=True).clamp(max=n_beams - 1)
            child = trie.first_child[node].gather(1, parent) + place - (end - count).gather(1, parent)
            wanted = (place < ways[:, None]) & goes_on[:, None]
            node = child.where(wanted, 0)
            wanted = wanted & (trie.leaf[node] < 0)
            levels.append((node, wanted))
        return torch.cat([n for n, _ in levels], dim=1), torch.cat([w for _, w in levels], dim=1), len(levels)


def _best_columns(score: Tensor, n_best: int) -> Tensor:
    """Return int64 (R, n_best): the columns of the best scores, best first, of equal ones the left one first.

    ``topk`` leaves the order of equal values open. Here score and column become one integer, in which no two are
    equal: read as integers, the bits of two positive floats are in the floats' order, of two negative ones in the
    opposite order.
    """
    bits = score.contiguous().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    from_right = torch.arange(score.shape[1] - 1, -1, -1, device=score.device)
    key = (ordered.long() << 32) + from_right
    return key.topk(n_best, dim=1).indices
