"""Constrained beam search over a token trie. No Python per beam: all beams of a batch advance by tensor gathers.

Scores are sums of full-vocabulary log-probabilities, not renormalised over the allowed tokens; a disallowed token has
none, so a beam without continuation ends. The rules are those of Hugging Face's beam search with
``early_stopping=False`` (the published code's setting), applied to every row on its own, so that a row's result does
not depend on its batch-mates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from recbench.llm.trie import TokenTrie
from recbench.llm.writer import Prefix, TitleWriter, copy_cache, run_body

_NONE = -1


@dataclass(frozen=True)
class BeamResult:
    """The finished beams of B rows, best first.

    Attributes:
        sequence: int64 (B, n_beams), sequence numbers of the trie; -1 where fewer finished.
        score: float32 (B, n_beams), sum of log-probabilities / length ** length_penalty; -inf where none.
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


@torch.no_grad()
def beam_search(
    writer: TitleWriter, prefix: Prefix, trie: DeviceTrie, n_beams: int, length_penalty: float
) -> BeamResult:
    """Return the best titles that a beam search finds for every row of ``prefix``.

    Args:
        n_beams: beams kept and titles returned.
        length_penalty: a finished beam of L tokens (end token included) scores sum / L ** length_penalty: 1.0 is the
            BIGRec flavour, 0.0 the D3 flavour.
    """
    rows = prefix.mask.shape[0]
    device = prefix.mask.device
    state = _Beams.start(rows, n_beams, device)
    stepper = _Stepper(writer, prefix, n_beams, trie.max_length)
    logits = stepper.first()
    for step in range(1, trie.max_length + 1):
        logprobs = logits.float() - logits.float().logsumexp(dim=-1, keepdim=True)
        parent, node, score = _best_children(state, trie, logprobs, 2 * n_beams)
        state.advance(parent, node, score, trie, step, length_penalty)
        if bool(state.done.all()):
            break
        if step < trie.max_length:
            logits = stepper.next(state.parent, trie.token[state.node])
    return BeamResult(state.finished_sequence, state.finished_score, step)


def _best_children(state: _Beams, trie: DeviceTrie, logprobs: Tensor, n_best: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``n_best`` continuations per row: parent beam, node, score, each (B, n_best), best first.

    ``logprobs`` is (B * beams, V), or (B, V) at the first step, where only beam 0 is alive.
    """
    rows, n_beams = state.node.shape
    alive = torch.isfinite(state.score).flatten()
    node = state.node.flatten()
    first = trie.first_child[node]
    count = torch.where(alive, trie.first_child[node + 1] - first, 0)
    starts = count.cumsum(0) - count
    beam = torch.repeat_interleave(torch.arange(rows * n_beams, device=node.device), count)
    child = torch.arange(beam.numel(), device=node.device) - starts[beam] + first[beam]
    source = beam if logprobs.shape[0] == rows * n_beams else beam // n_beams
    score = state.score.flatten()[beam] + logprobs[source, trie.token[child]]

    # Lay the ragged candidates of each row side by side, so that one topk serves the whole batch.
    row = beam // n_beams
    per_row = count.view(rows, n_beams).sum(dim=1)
    column = torch.arange(beam.numel(), device=node.device) - (per_row.cumsum(0) - per_row)[row]
    width = max(int(per_row.max()), n_best)
    table = torch.full((rows, width), -torch.inf, device=node.device)
    table[row, column] = score
    index = torch.full((rows, width), _NONE, dtype=torch.int64, device=node.device)
    index[row, column] = torch.arange(beam.numel(), device=node.device)
    best, where = table.topk(n_best, dim=1)
    picked = index.gather(1, where)
    exists = picked >= 0
    picked = picked.clamp(min=0)
    parent = torch.where(exists, beam[picked] % n_beams, 0)
    return parent, torch.where(exists, child[picked], 0), best


@dataclass
class _Beams:
    """Running and finished beams of B rows.

    Attributes:
        node, score: (B, n_beams), trie node and sum of log-probabilities of the running beams; -inf is a dead beam.
        parent: (B, n_beams), which beam of the step before each running beam continues.
        finished_sequence, finished_score: (B, n_beams), best first.
        done: bool (B,), rows whose result can change no more.
    """

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
        return cls(
            node=torch.zeros((rows, n_beams), dtype=torch.int64, device=device),
            score=score,
            parent=torch.zeros((rows, n_beams), dtype=torch.int64, device=device),
            finished_sequence=torch.full((rows, n_beams), _NONE, dtype=torch.int64, device=device),
            finished_score=torch.full((rows, n_beams), -torch.inf, device=device),
            done=torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def advance(
        self, parent: Tensor, node: Tensor, score: Tensor, trie: DeviceTrie, step: int, length_penalty: float
    ) -> None:
        """Take the best continuations (B, 2 * n_beams) of this step: finish some, keep the others running."""
        n_beams = self.node.shape[1]
        leaf = trie.leaf[node]
        ends = (leaf >= 0) & torch.isfinite(score)
        # Only a continuation among the n_beams best may finish; the others are there to keep n_beams running.
        finishes = ends & (torch.arange(score.shape[1], device=score.device) < n_beams) & ~self.done[:, None]
        final = torch.where(finishes, score / step**length_penalty, -torch.inf)
        merged_score = torch.cat([self.finished_score, final], dim=1)
        merged_sequence = torch.cat([self.finished_sequence, leaf], dim=1)
        self.finished_score, kept = merged_score.topk(n_beams, dim=1)
        sequence = merged_sequence.gather(1, kept)
        self.finished_sequence = torch.where(torch.isfinite(self.finished_score), sequence, _NONE)

        self.score, kept = score.masked_fill(ends | self.done[:, None], -torch.inf).topk(n_beams, dim=1)
        self.node = node.gather(1, kept)
        self.parent = parent.gather(1, kept)
        best_possible = self.score[:, 0] / step**length_penalty
        self.done = self.done | (best_possible <= self.finished_score[:, -1]) | torch.isinf(self.score[:, 0])


class _RoomyLayer(DynamicLayer):
    """Keys and values of every beam with room for more columns, so that a step writes its own column only.

    Args:
        keys, values: (B, heads, C, D), of the B rows.
        n_beams: copies of each row.
        room: columns to come.
    """

    def __init__(self, keys: Tensor, values: Tensor, n_beams: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._length = keys.shape[2]
        self._all_keys = self._expand(keys, n_beams, room)
        self._all_values = self._expand(values, n_beams, room)
        self._show()

    def _expand(self, states: Tensor, n_beams: int, room: int) -> Tensor:
        rows, heads, length, width = states.shape
        buffer = states.new_empty((rows, n_beams, heads, length + room, width))
        buffer[:, :, :, :length] = states.unsqueeze(1)
        return buffer.flatten(0, 1)

    def _show(self) -> None:
        self.keys, self.values = self._all_keys[:, :, : self._length], self._all_values[:, :, : self._length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write new columns and return all columns so far."""
        end = self._length + key_states.shape[2]
        self._all_keys[:, :, self._length : end] = key_states
        self._all_values[:, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values


class _Stepper:
    """Feeds the model one token per beam. The prompt's keys and values are expanded once and never move again."""

    def __init__(self, writer: TitleWriter, prefix: Prefix, n_beams: int, max_steps: int) -> None:
        self.writer = writer
        self.prefix = prefix
        self.n_beams = n_beams
        self.max_steps = max_steps
        self.cache = DynamicCache()
        self.mask = prefix.mask
        self.shared = 0

    def first(self) -> Tensor:
        """Read the pending inputs, once per row. Returns logits (B, V)."""
        prefix = self.prefix
        ones = torch.ones(prefix.pending.shape[:2], dtype=prefix.mask.dtype, device=prefix.mask.device)
        mask = torch.cat([prefix.mask, ones], dim=1)
        read = copy_cache(prefix.cache)
        output = self._run(prefix.pending, mask, read)
        self.cache.layers = [
            _RoomyLayer(layer.keys, layer.values, self.n_beams, self.max_steps) for layer in read.layers
        ]
        self.mask = mask.repeat_interleave(self.n_beams, dim=0)
        self.shared = mask.shape[1]
        return output

    def next(self, parent: Tensor, token: Tensor) -> Tensor:
        """Continue beam ``parent`` (B, n_beams) with ``token`` (B, n_beams). Returns logits (B * n_beams, V)."""
        if self.cache.get_seq_length() > self.shared:
            offset = torch.arange(parent.shape[0], device=parent.device)[:, None] * self.n_beams
            self._reorder((parent + offset).flatten())
        ids = token.reshape(-1, 1).clamp(min=0)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        return self._run(self.writer.embed(ids), self.mask, self.cache)

    def _run(self, embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        return self.writer.logits(run_body(self.writer.lm, embeds, mask, cache)[:, -1])

    def _reorder(self, beam: Tensor) -> None:
        """Move the answer part of the cache to the surviving beams; the beams of one row share the prompt part."""
        for layer in self.cache.layers:
            layer.keys[:, :, self.shared :] = layer.keys[beam, :, self.shared :]
            layer.values[:, :, self.shared :] = layer.values[beam, :, self.shared :]
