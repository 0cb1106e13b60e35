"""Constrained beam search over a token trie. No Python per beam: all beams of a batch advance by tensor gathers.

Scores are sums of full-vocabulary log-probabilities, not renormalised over the allowed tokens; a disallowed token has
none, so a beam without continuation ends. The rules are those of Hugging Face's beam search with
``early_stopping=False`` (the published code's setting), applied to every row on its own, so that a row's result does
not depend on its batch-mates. Equal scores are ordered: the better parent first, then the smaller token.

Dimensions: B rows asked for, R rows still searched, K beams kept, M beams alive in the fullest row, W children of the
widest node, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from recbench.llm.tree import AnswerTree
from recbench.llm.trie import TokenTrie
from recbench.llm.writer import Prefix, TitleWriter

_NONE = -1
# Dropping finished rows copies the cache of the others, so it waits until a good part has finished.
_DROP_BELOW = 0.75
# Steps to make room for at first; few titles are longer.
_ROOM_STEPS = 32


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
    """The arrays of a :class:`TokenTrie` as int64 tensors on one device."""

    token: Tensor
    first_child: Tensor
    leaf: Tensor
    max_length: int

    @classmethod
    def of(cls, trie: TokenTrie, device: torch.device) -> DeviceTrie:
        """Copy a trie to a device."""
        token, first_child, leaf = (
            torch.from_numpy(array.astype("int64")).to(device) for array in (trie.token, trie.first_child, trie.leaf)
        )
        return cls(token, first_child, leaf, trie.max_length)


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
    device = prefix.mask.device
    beams = _Beams.start(prefix.mask.shape[0], n_beams, device)
    result = BeamResult(beams.finished_sequence, beams.finished_score, 0)
    tree = AnswerTree(writer, prefix, n_beams * min(trie.max_length, _ROOM_STEPS))
    logits = tree.start().unsqueeze(1)
    width = int(trie.first_child[1] - trie.first_child[0])
    for step in range(1, trie.max_length + 1):
        # The first step's only beam stands on ROOT, which is one before slot 0.
        first_slot = tree.n_slots - logits.shape[1]
        beams.advance(_continuations(beams, trie, logits, width, guide), trie, step, length_penalty)
        n_live, n_alive, width = beams.sizes(trie)
        if n_live <= _DROP_BELOW * len(beams.row):
            result.sequence[beams.row], result.score[beams.row] = beams.finished_sequence, beams.finished_score
            if n_live == 0:
                break
            live = (~beams.done).nonzero().squeeze(1)
            tree.keep(live)
            beams = beams.take(live)
        # A dead beam stands on the root, which has no token.
        token = trie.token[beams.node[:, :n_alive]].clamp(min=0)
        logits = tree.extend(token, first_slot + beams.parent[:, :n_alive])
    return BeamResult(result.sequence, result.score, step)


@dataclass(frozen=True)
class _Continuations:
    """All ways to go on: scores (R, M * W), -inf where there is no child; the columns of a beam lie together."""

    score: Tensor
    width: int
    first_child: Tensor

    def best(self, n_best: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return parent beam, node and score, each (R, n_best), best first."""
        score = F.pad(self.score, (0, max(n_best - self.score.shape[1], 0)), value=-torch.inf)
        column = _best_columns(score, n_best)
        parent = (column // self.width).clamp(max=self.first_child.shape[1] - 1)
        node = self.first_child.gather(1, parent) + column % self.width
        score = score.gather(1, column)
        return parent, node.where(torch.isfinite(score), 0), score


def _continuations(
    beams: _Beams, trie: DeviceTrie, logits: Tensor, width: int, guide: TrieGuide | None
) -> _Continuations:
    """Score every child of every beam. ``logits`` is (R, M, V) of the M first beams; ``width`` is W."""
    n_alive = logits.shape[1]
    node, score = beams.node[:, :n_alive], beams.score[:, :n_alive]
    first = trie.first_child[node]
    count = trie.first_child[node + 1] - first
    place = torch.arange(width, device=node.device)
    is_child = place < count.unsqueeze(2)
    child = torch.where(is_child, first.unsqueeze(2) + place, 0)
    logprob = logits.log_softmax(dim=-1, dtype=torch.float32).gather(2, trie.token[child].clamp(min=0))
    if guide is not None and guide.alpha != 1.0:
        share = guide.share_logprob[beams.row[:, None, None], child]
        logprob = guide.alpha * logprob + (1.0 - guide.alpha) * share
    total = (score.unsqueeze(2) + logprob).where(is_child, -torch.inf)
    return _Continuations(total.flatten(1), width, first)


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


@dataclass
class _Beams:
    """Running and finished beams of R rows.

    Attributes:
        row: int64 (R,), which row of the batch each is.
        node, score: (R, K), trie node and sum of log-probabilities of the running beams, best first; -inf is a dead
            beam.
        parent: (R, K), which beam of the step before each running beam continues.
        finished_sequence, finished_score: (R, K), best first.
        done: bool (R,), rows whose result can change no more.
    """

    row: Tensor
    node: Tensor
    score: Tensor
    parent: Tensor
    finished_sequence: Tensor
    finished_score: Tensor
    done: Tensor

    @classmethod
    def start(cls, rows: int, n_beams: int, device: torch.device) -> _Beams:
        score = torch.full((rows, n_beams), -torch.inf, device=device)
        score[:, 0] = 0.0
        zeros = torch.zeros((rows, n_beams), dtype=torch.int64, device=device)
        return cls(
            row=torch.arange(rows, device=device),
            node=zeros,
            score=score,
            parent=zeros,
            finished_sequence=torch.full_like(zeros, _NONE),
            finished_score=torch.full_like(score, -torch.inf),
            done=torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def take(self, rows: Tensor) -> _Beams:
        """Return only these rows."""
        return _Beams(*(getattr(self, field.name)[rows] for field in fields(self)))

    def sizes(self, trie: DeviceTrie) -> tuple[int, int, int]:
        """Return how many rows go on, and for these M, the beams alive in the fullest row, and W, the most children."""
        goes_on = torch.isfinite(self.score) & ~self.done[:, None]
        children = (trie.first_child[self.node + 1] - trie.first_child[self.node]).where(goes_on, 0)
        numbers = torch.stack([(~self.done).sum(), goes_on.sum(dim=1).max(), children.max()])
        n_live, n_alive, width = numbers.tolist()  # one wait for the device instead of three
        return n_live, n_alive, width

    def advance(self, table: _Continuations, trie: DeviceTrie, step: int, length_penalty: float) -> None:
        """Take the best 2 K continuations of this step: finish some, keep the others running."""
        n_beams = self.node.shape[1]
        parent, node, score = table.best(2 * n_beams)
        leaf = trie.leaf[node]
        ends = (leaf >= 0) & torch.isfinite(score)
        # Only a continuation among the K best may finish; the others are there to keep K running.
        finishes = ends & ~self.done[:, None]
        finishes[:, n_beams:] = False
        final = (score / step**length_penalty).where(finishes, -torch.inf)
        merged_score = torch.cat([self.finished_score, final], dim=1)
        merged_sequence = torch.cat([self.finished_sequence, leaf.where(finishes, _NONE)], dim=1)
        kept = _best_columns(merged_score, n_beams)
        self.finished_score, self.finished_sequence = merged_score.gather(1, kept), merged_sequence.gather(1, kept)

        running = score.masked_fill(ends | self.done[:, None], -torch.inf)
        kept = _best_columns(running, n_beams)
        self.score, self.node, self.parent = running.gather(1, kept), node.gather(1, kept), parent.gather(1, kept)
        best_possible = self.score[:, 0] / step**length_penalty
        self.done = self.done | (best_possible <= self.finished_score[:, -1]) | torch.isinf(self.score[:, 0])
