"""Answers of one prompt as a tree of tokens in one key-value cache.

Searches (beam, exact) try many answers of the same prompt, which share their beginnings. Here every token of these
answers is kept once, in a "slot" behind the prompt, and an attention mask shows it the prompt, its own ancestors and
itself. So the prompt is read once and stored once, a token that several answers share is computed once, and nothing
is ever copied or reordered when a search changes its mind.

Dimensions: B rows, P columns of prompt and pending inputs (left-padded), S slots, M new slots per row, N of them with a
token, L tokens of the longest path, H hidden.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from recbench.llm.blocks import Blocks
from recbench.llm.hub_reader import HubReader
from recbench.llm.lane_reader import LaneReader
from recbench.llm.layer_kinds import LayerKinds
from recbench.llm.tree_paths import NONE, new_paths
from recbench.llm.writer import Prefix, TitleWriter

ROOT = -1
"""Parent of the tokens that come right after the prompt."""


class TreeReader(Protocol):
    """Reads tokens on top of a prompt and of what it has read before."""

    def read(self, embeds: Tensor, paths: Tensor, path: Tensor, real: Tensor | None) -> Tensor:
        """Return (N, H): hidden states of new tokens after the final norm.

        Args:
            embeds: (N, H), their input embeddings.
            paths: int64 (B, S, L), of all slots, the new ones included (see :mod:`recbench.llm.tree_paths`).
            path: int64 (B, M, L), of the new slots.
            real: int64 (N,), ascending: which of the B * M new slots have a token; None for all.
        """

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 (R,)."""


class AnswerTree:
    """A growing tree of answer tokens behind each of B prompts.

    Slots are numbered from 0 in the order in which they are given, for every row alike. Results of a row do not depend
    on the other rows. To be used without gradients.

    Args:
        writer: writes the answers; its model must run with "sdpa" or "eager" attention.
        prefix: prompts that were read; stays as it is.
        room: slots to reserve at first. More are added as they are needed.

    Raises:
        ConfigError: the model's attention cannot be masked token by token.
    """

    def __init__(self, writer: TitleWriter, prefix: Prefix, room: int) -> None:
        LayerKinds(writer.lm)
        self._writer, self._prefix, self._room = writer, prefix, room
        self._reader: TreeReader | None = None
        # The pending inputs have the first slots. What comes right after the prompt follows the last of them.
        self._root = prefix.pending.shape[1] - 1
        self.n_slots = self._root
        # Of every slot: those that its token sees, down to itself, -1 behind them.
        self._paths = torch.full((len(prefix.mask), max(room, 1), 1), NONE, device=prefix.mask.device)

    @property
    def n_rows(self) -> int:
        """Rows that the tree still holds."""
        return len(self._paths)

    @torch.no_grad()
    def start(
        self, token: Tensor | None = None, parent: Tensor | None = None, depth: int = 1, real: Tensor | None = None
    ) -> Tensor:
        """Read the pending inputs, before anything else, and first answer tokens with them.

        Args:
            token, parent, depth, real: as :meth:`extend` takes them; the first slot of every row is that of the pending
                inputs, whatever stands there. None: there are no others.

        Returns:
            (N, H): hidden states that predict what follows the prompt, and each token.
        """
        pending = self._prefix.pending
        rows, n_pending, _ = pending.shape
        if token is None or parent is None:
            token = torch.zeros((rows, 1), dtype=torch.int64, device=pending.device)
            parent = torch.full_like(token, ROOT)
        self._reader = _make_reader(self._writer.lm, self._prefix, self._room)
        n_more = n_pending - 1
        if real is not None:
            is_real = F.pad(_mask_of(real, token.shape), (n_more, 0), value=True)
            real = is_real.flatten().nonzero().squeeze(1)
        chain = torch.arange(-1, n_more, device=pending.device).expand(rows, -1)
        parent = torch.cat([chain, self._behind_root(parent[:, 1:])], dim=1)
        embeds = torch.cat([pending, self._writer.embed(token[:, 1:])], dim=1)
        self.n_slots = 0
        path = new_paths(self._paths, parent, 0, n_more + depth)
        if not self._prefix.pending_seen:
            path[:, :n_pending] = NONE
        hidden = self._read(embeds.flatten(0, 1), path, real)
        if n_more == 0:
            return hidden
        column = torch.arange(len(hidden), device=hidden.device) if real is None else real
        return hidden[column % path.shape[1] >= n_more]

    @torch.no_grad()
    def extend(self, token: Tensor, parent: Tensor, depth: int = 1, real: Tensor | None = None) -> Tensor:
        """Add M slots to every row: ``n_slots`` to ``n_slots + M - 1``.

        Args:
            token: int64 (B, M).
            parent: int64 (B, M), the slot that each token follows, or ``ROOT``: an older slot or, where ``depth`` is
                more than 1, also one of this call that stands before the token.
            depth: the most tokens of this call that follow each other.
            real: int64 (N,), ascending: which of the B * M slots, counted row by row, get a token. What stands in the
                others does not matter, and nothing may follow them. None: all.

        Returns:
            (N, H): hidden states that predict what follows each token.
        """
        path = new_paths(self._paths, self._behind_root(parent), self.n_slots, depth)
        return self._read(self._writer.embed(token.flatten()), path, real)

    def _behind_root(self, parent: Tensor) -> Tensor:
        """Return which slots answer tokens follow: after the prompt, the last pending input if they see it."""
        if self._prefix.pending_seen:
            return parent.where(parent != ROOT, self._root)
        return parent.where(parent != self._root, ROOT)

    def _read(self, embeds: Tensor, path: Tensor, real: Tensor | None) -> Tensor:
        """Read inputs (B * M, H) into new slots with these paths (B, M, L)."""
        assert self._reader is not None
        if real is not None:
            path = path.where(_mask_of(real, path.shape[:2])[:, :, None], NONE)
            embeds = embeds.index_select(0, real)
        self._remember(path)
        return self._reader.read(embeds, self._paths, path, real)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these for good; row ``i`` of later calls is ``rows[i]`` of now.

        Args:
            rows: int64 (R,), ascending.
        """
        assert self._reader is not None
        self._paths = self._paths[rows]
        self._reader.keep(rows)

    def _remember(self, path: Tensor) -> None:
        """Add the paths (B, M, L) of new slots."""
        old, self.n_slots = self.n_slots, self.n_slots + path.shape[1]
        room, longest = self._paths.shape[1:]
        more = max(self.n_slots, 2 * room) - room if self.n_slots > room else 0
        if more or path.shape[2] > longest:
            self._paths = F.pad(self._paths, (0, path.shape[2] - longest, 0, more), value=NONE)
        self._paths[:, old : self.n_slots] = path


def _mask_of(real: Tensor, shape: torch.Size) -> Tensor:
    """Return bool (B, M): which slots are among ``real``."""
    mask = torch.zeros(shape, dtype=torch.bool, device=real.device)
    mask.view(-1)[real] = True
    return mask


def _make_reader(lm: PreTrainedModel, prefix: Prefix, room: int) -> TreeReader:
    cache = prefix.cache
    if not cache.layers:  # prompts of one token, which is pending
        config = lm.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        nothing = prefix.pending.new_empty((len(prefix.pending), config.num_key_value_heads, 0, width))
        cache = DynamicCache()
        for layer in range(config.num_hidden_layers):
            cache.update(nothing, nothing, layer)
    blocks = Blocks.of(lm)
    return HubReader(lm, cache, prefix.mask, room) if blocks is None else LaneReader(blocks, cache, prefix.mask, room)
