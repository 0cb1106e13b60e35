"""Constrained beam search over a token trie. No Python per beam: all beams of a batch advance by tensor gathers.

Scores are sums of full-vocabulary log-probabilities, not renormalised over the allowed tokens; a disallowed token has
none, so a beam without continuation ends. The rules are those of Hugging Face's beam search with
``early_stopping=False`` (the published code's setting), applied to every row on its own, so that a row's result does
not depend on its batch-mates. Equal scores are ordered: the better parent first, then the smaller token.

Where the trie has only one way to go on, the tokens to come are known before the search gets there. They are read
together in one model call ("a stretch"), and the steps over them need no call of their own.

Dimensions: B rows asked for, R rows still searched, K beams kept, M beams alive in the fullest row, W children of the
widest node, N tokens fed to a row in one call, D tokens of the longest stretch, V vocabulary.
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
# Tokens of a stretch that are read at once. Reading more saves model calls, but what was read is lost if the beam is
# dropped on the way, so it must come nearly for free: calls of this many tokens cost little more than small ones.
_STRETCHES = (1, 2, 4, 8, 16, 32, 64)
_CHEAP_CALL = {"cpu": 96, "cuda": 256}
# Dropping finished rows copies the cache of the others, so it waits until a good part has finished.
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
        run: (n_nodes,), how many nodes with a single child follow each other from a node on, itself included.
        preorder_token: (n_nodes,), tokens of the nodes in preorder.
    """

    token: Tensor
    first_child: Tensor
    leaf: Tensor
    preorder: Tensor
    max_length: int
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
            run=on_device(run[trie.preorder]),
            preorder_token=on_device(trie.token[nodes]),
        )

    def n_children(self, node: Tensor) -> Tensor:
        """Return how many children nodes have."""
        return self.first_child[node + 1] - self.first_child[node]


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
    for step in range(1, trie.max_length + 1):
        beams = search.beams
        search.advance(step, length_penalty)
        work = beams.work(trie)
        if work.rows <= _DROP_BELOW * len(beams.row):
            sequence[beams.row], score[beams.row] = beams.finished_sequence, beams.finished_score
            if work.rows == 0:
                break
            search.drop_finished()
        search.read(work)
    return BeamResult(sequence, score, step)


@dataclass(frozen=True)
class _Work:
    """What the next step has to do.

    Attributes:
        rows: rows that go on.
        beams: M.
        children: W.
        tokens: N, 0 if all continuations are known already.
        stretch: D, at most.
    """

    rows: int
    beams: int
    children: int
    tokens: int
    stretch: int


@dataclass
class _Beams:
    """Running and finished beams of R rows.

    Attributes:
        row: int64 (R,), which row of the batch each is.
        node, score: (R, K), trie node and sum of log-probabilities of the running beams, best first; -inf is a dead
            beam.
        slot: (R, K), where the node's token is in the tree of answers if it was read, else where its parent's is.
        n_read: (R, K), tokens of the beam's stretch that were read, from the node on; 0 if the node was not.
        finished_sequence, finished_score: (R, K), best first.
        done: bool (R,), rows whose result can change no more.
    """

    row: Tensor
    node: Tensor
    score: Tensor
    slot: Tensor
    n_read: Tensor
    finished_sequence: Tensor
    finished_score: Tensor
    done: Tensor

    @classmethod
    def start(cls, rows: int, n_beams: int, device: torch.device) -> _Beams:
        """Return one beam per row that stands on the root, which was read."""
        score = torch.full((rows, n_beams), -torch.inf, device=device)
        score[:, 0] = 0.0
        zeros = torch.zeros((rows, n_beams), dtype=torch.int64, device=device)
        return cls(
            row=torch.arange(rows, device=device),
            node=zeros,
            score=score,
            slot=zeros + ROOT,
            n_read=zeros + 1,
            finished_sequence=zeros + _NONE,
            finished_score=torch.full_like(score, -torch.inf),
            done=torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def take(self, rows: Tensor) -> _Beams:
        """Return only these rows."""
        return _Beams(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to_read(self, trie: DeviceTrie, stretch: int) -> Tensor:
        """Return int64 (R, K): how many tokens each beam wants read, at most ``stretch``, 0 where it needs none."""
        needs = (self.n_read == 0) & torch.isfinite(self.score) & ~self.done[:, None]
        return trie.run[self.node].clamp(1, stretch).where(needs, 0)

    def work(self, trie: DeviceTrie) -> _Work:
        """Return what comes next, with one wait for the device."""
        alive = torch.isfinite(self.score) & ~self.done[:, None]
        longest = self.to_read(trie, _STRETCHES[-1])
        by_stretch = [longest.clamp(max=stretch) for stretch in _STRETCHES]
        tokens_per_row = torch.stack(by_stretch).sum(dim=2).amax(dim=1)
        children = trie.n_children(self.node).where(alive, 0)
        sizes = torch.stack([(~self.done).sum(), alive.sum(dim=1).max(), children.max()])
        rows, beams, widest, *tokens = torch.cat([sizes, tokens_per_row]).tolist()
        cheap = [n for n, fed in enumerate(tokens) if rows * fed <= _CHEAP_CALL[self.node.device.type]]
        choice = max(cheap, default=0)
        return _Work(rows, beams, widest, tokens[choice], _STRETCHES[choice])

    def advance(self, best: _Best, trie: DeviceTrie, step: int, length_penalty: float) -> None:
        """Take the best 2 K continuations of this step: finish some, keep the others running."""
        n_beams = self.node.shape[1]
        leaf = trie.leaf[best.node]
        ends = (leaf >= 0) & torch.isfinite(best.score)
        # Only a continuation among the K best may finish; the others are there to keep K running.
        finishes = ends & ~self.done[:, None]
        finishes[:, n_beams:] = False
        final = (best.score / step**length_penalty).where(finishes, -torch.inf)
        merged_score = torch.cat([self.finished_score, final], dim=1)
        merged_sequence = torch.cat([self.finished_sequence, leaf.where(finishes, _NONE)], dim=1)
        kept = _best_columns(merged_score, n_beams)
        self.finished_score, self.finished_sequence = merged_score.gather(1, kept), merged_sequence.gather(1, kept)

        ended = ends | self.done[:, None]
        if length_penalty == 0:
            # Sums only fall, so a beam that is no better than the worst listed title cannot enter the list any more,
            # and neither can any that it would have kept out.
            ended |= best.score <= self.finished_score[:, -1:]
        running = best.score.masked_fill(ended, -torch.inf)
        kept = _best_columns(running, n_beams)
        self.score, self.node = running.gather(1, kept), best.node.gather(1, kept)
        parent = best.parent.gather(1, kept)
        n_read = self.n_read.gather(1, parent)
        # The next token of a stretch was read with it, in the next slot.
        self.slot = self.slot.gather(1, parent) + (n_read > 1)
        self.n_read = (n_read - 1).clamp(min=0)
        best_possible = self.score[:, 0] / step**length_penalty
        self.done = self.done | (best_possible <= self.finished_score[:, -1]) | torch.isinf(self.score[:, 0])


@dataclass(frozen=True)
class _Best:
    """The best continuations of R rows, best first: parent beam, node and score, each (R, 2 K)."""

    parent: Tensor
    node: Tensor
    score: Tensor


class _Search:
    """A search between two steps: every running beam's continuations are known.

    Attributes:
        beams: the beams.
        work: what the next step has to do.
        logprobs: float32 (R, N, W), after the tokens of the last model call.
        at: int64 (R, M), where in ``logprobs`` a beam's node is, if that call read it.
        only: float32 (R, 1 + slots), log-probability of the only continuation of the token in each slot, those of the
            root first; without meaning where there are several.
    """

    def __init__(
        self, writer: TitleWriter, prefix: Prefix, trie: DeviceTrie, n_beams: int, guide: TrieGuide | None
    ) -> None:
        self.trie = trie
        self.guide = guide if guide is not None and guide.alpha != 1.0 else None
        self.beams = _Beams.start(prefix.mask.shape[0], n_beams, prefix.mask.device)
        self.work = self.beams.work(trie)
        self.tree = AnswerTree(writer, prefix, n_beams * _ROOM)
        self.head = LogprobHead(writer)
        self.logprobs = self.head(self.tree.start()).unsqueeze(1)
        self.at = torch.zeros_like(self.beams.node)
        self.only = self.logprobs[:, :, trie.preorder_token[1]]

    def advance(self, step: int, length_penalty: float) -> None:
        """Move all beams one token on."""
        self.beams.advance(self._best(2 * self.beams.node.shape[1]), self.trie, step, length_penalty)

    def _best(self, n_best: int) -> _Best:
        beams, trie = self.beams, self.trie
        node, score = beams.node[:, : self.work.beams], beams.score[:, : self.work.beams]
        first, count = trie.first_child[node].unsqueeze(2), trie.n_children(node).unsqueeze(2)
        place = torch.arange(self.work.children, device=node.device)
        is_child = place < count
        child = torch.where(is_child, first + place, 0)
        logprob = self.only.gather(1, beams.slot[:, : self.work.beams] + 1).unsqueeze(2)
        if self.work.children > 1:
            row = torch.arange(len(node), device=node.device)[:, None, None]
            at = self.at[:, : self.work.beams, None]
            logprob = self.logprobs[row, at, trie.token[child]].where(count > 1, logprob)
        if self.guide is not None:
            share = self.guide.share_logprob[beams.row[:, None, None], child]
            logprob = self.guide.alpha * logprob + (1.0 - self.guide.alpha) * share
        total = (score.unsqueeze(2) + logprob).where(is_child, -torch.inf).flatten(1)
        total = F.pad(total, (0, max(n_best - total.shape[1], 0)), value=-torch.inf)
        column = _best_columns(total, n_best)
        total = total.gather(1, column)
        parent = (column // self.work.children).clamp(max=self.work.beams - 1)
        child = first.squeeze(2).gather(1, parent) + column % self.work.children
        return _Best(parent, child.where(torch.isfinite(total), 0), total)

    def drop_finished(self) -> None:
        """Go on with the other rows only."""
        live = (~self.beams.done).nonzero().squeeze(1)
        self.tree.keep(live)
        self.beams, self.only = self.beams.take(live), self.only[live]

    def read(self, work: _Work) -> None:
        """Read the stretches of all beams whose continuations are not known."""
        self.work = work
        if work.tokens == 0:
            return
        beams, trie = self.beams, self.trie
        length = beams.to_read(trie, work.stretch)[:, : work.beams]
        # The stretches of a row lie behind each other; ``beam`` is whose stretch a token belongs to.
        end = length.cumsum(dim=1)
        self.at = (end - length).clamp(max=work.tokens - 1)
        column = torch.arange(work.tokens, device=end.device).expand(len(end), -1).contiguous()
        beam = torch.searchsorted(end, column, right=True)
        is_token = beam < work.beams
        beam = beam.clamp(max=work.beams - 1)
        offset = column - self.at.gather(1, beam)
        place = (trie.preorder[beams.node[:, : work.beams]].gather(1, beam) + offset).where(is_token, 1)
        first_slot = self.tree.n_slots
        parent = torch.where(offset == 0, beams.slot.gather(1, beam), first_slot + column - 1).where(is_token, ROOT)
        self.logprobs = self.head(self.tree.extend(trie.preorder_token[place], parent, work.stretch))
        following = trie.preorder_token[place + 1].unsqueeze(2)
        self.only = torch.cat([self.only, self.logprobs.gather(2, following).squeeze(2)], dim=1)
        was_read = length > 0
        slot, n_read = beams.slot[:, : work.beams], beams.n_read[:, : work.beams]
        slot.copy_(torch.where(was_read, first_slot + self.at, slot))
        n_read.copy_(torch.where(was_read, length, n_read))


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
