"""Answers of one prompt as a tree of tokens in one key-value cache.

Searches (beam, exact) try many answers of the same prompt, which share their beginnings. Here every token of these
answers is kept once, in a "slot" behind the prompt, and an attention mask shows it the prompt, its own ancestors and
itself. So the prompt is read once and stored once, a token that several answers share is computed once, and nothing
is ever copied or reordered when a search changes its mind. A model call looks at those slots only that are ancestors
of one of its tokens: in a long search they are a small part of all.

Dimensions: B rows, P columns of prompt and pending inputs (left-padded), S slots, M new tokens per row, U older slots
that a call looks at, L tokens of the longest path, C columns in all, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from recbench.contracts.errors import ConfigError
from recbench.llm.attention import grouped_attention
from recbench.llm.writer import Prefix, TitleWriter, positions, run_body

ROOT = -1
"""Parent of the tokens that come right after the prompt."""

_NONE = -1
_MASKABLE = ("sdpa", "eager")


class AnswerTree:
    """A growing tree of answer tokens behind each of B prompts.

    Slots are numbered from 0 in the order in which tokens are given, for every row alike. Results of a row do not
    depend on the other rows.

    Args:
        writer: writes the answers; its model must run with "sdpa" or "eager" attention.
        prefix: prompts that were read; stays as it is.
        room: slots to reserve at first. More are added as they are needed.

    Raises:
        ConfigError: the model's attention cannot be masked token by token.
    """

    def __init__(self, writer: TitleWriter, prefix: Prefix, room: int) -> None:
        self._writer = writer
        self._pending = prefix.pending
        self._layers = LayerKinds(writer.lm)
        self._prompt_mask = prefix.read_mask
        self._cache = _tree_cache(writer.lm, prefix.cache, room)
        # Of every slot: the slots from the root's child down to itself, -1 behind them.
        self._paths = torch.full((self.n_rows, max(room, 1), 1), _NONE, device=self._prompt_mask.device)
        self.n_slots = 0

    @property
    def n_rows(self) -> int:
        """Rows that the tree still holds."""
        return len(self._prompt_mask)

    def start(self) -> Tensor:
        """Read the pending inputs, which are not needed afterwards.

        Returns:
            (B, H): hidden states that predict the first answer token.
        """
        hidden = run_body(self._writer.lm, self._pending, self._prompt_mask, self._cache)
        for layer in self._cache.layers:
            layer.end_prompt()
        return hidden[:, -1]

    def extend(self, token: Tensor, parent: Tensor, depth: int = 1) -> Tensor:
        """Add M tokens to every row, in slots ``n_slots`` to ``n_slots + M - 1``.

        Args:
            token: int64 (B, M). Rows that need fewer may hold any token id in the places left over.
            parent: int64 (B, M), the slot that each token follows, or ``ROOT``: an older slot or, where ``depth`` is
                more than 1, also one of this call that stands before the token.
            depth: the most tokens of this call that follow each other.

        Returns:
            (B, M, H): hidden states that predict what follows each token.
        """
        old = self.n_slots
        path = _new_paths(self._paths, parent, old, depth)
        self._remember(path)
        view = _look_at(path, old)
        selection = _Selection(view.selected)
        for layer in self._cache.layers:
            layer.selection = selection
        prompt = self._prompt_mask.bool()
        visible = torch.cat([prompt[:, None].expand(-1, token.shape[1], -1), view.visible], dim=2)
        n_before = prompt.sum(dim=1, keepdim=True)
        row = torch.arange(self.n_rows, device=token.device)[:, None]
        position = n_before + _level(path)
        columns = [positions(self._prompt_mask), n_before + _level(self._paths[row, view.selected]), position]
        embeds = self._writer.embed(token)
        with grouped_attention(self._writer.lm):
            output = self._writer.lm.get_decoder()(
                inputs_embeds=embeds,
                attention_mask=self._layers.masks(visible, position, torch.cat(columns, dim=1), embeds.dtype),
                position_ids=position,
                past_key_values=self._cache,
                use_cache=True,
            )
        return output.last_hidden_state

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these for good; row ``i`` of later calls is ``rows[i]`` of now.

        Args:
            rows: int64 (R,), ascending.
        """
        self._pending = self._pending[rows]
        self._prompt_mask = self._prompt_mask[rows]
        self._paths = self._paths[rows]
        for layer in self._cache.layers:
            layer.batch_select_indices(rows)

    def _remember(self, path: Tensor) -> None:
        """Add the paths (B, M, L) of new slots."""
        old, self.n_slots = self.n_slots, self.n_slots + path.shape[1]
        room, longest = self._paths.shape[1:]
        more = max(self.n_slots, 2 * room) - room if self.n_slots > room else 0
        if more or path.shape[2] > longest:
            self._paths = F.pad(self._paths, (0, path.shape[2] - longest, 0, more), value=_NONE)
        self._paths[:, old : self.n_slots] = path


def _level(path: Tensor) -> Tensor:
    """Return int64 (...): how many tokens stand before the last one of each path (..., L)."""
    return (path >= 0).sum(dim=-1) - 1


def _new_paths(paths: Tensor, parent: Tensor, old: int, depth: int) -> Tensor:
    """Return int64 (B, M, L): the paths of new tokens, themselves included, where L is what the longest one needs.

    Args:
        paths: int64 (B, S, L'), of the older slots.
        parent, depth: see :meth:`AnswerTree.extend`.
        old: older slots.
    """
    row = torch.arange(len(parent), device=parent.device)[:, None]
    own = torch.arange(parent.shape[1], device=parent.device).expand_as(parent)
    is_old = (parent >= 0) & (parent < old)
    before = paths[row, parent.where(is_old, 0)].where(is_old[:, :, None], _NONE)
    # Jump number i goes 2 ** i ancestors up within this call, and no further than to the first of them.
    jumps = [(parent - old).where(parent >= old, own)]
    for _ in range((depth - 1).bit_length()):
        jumps.append(jumps[-1].gather(1, jumps[-1]))
    hops = (parent >= old).long()
    for jump in jumps[:-1]:
        hops = hops + hops.gather(1, jump)
    level = (_level(before) + 1).gather(1, jumps[-1]) + hops
    path = F.pad(before, (0, max(int(level.max()) + 1 - before.shape[2], 0)), value=_NONE)
    path = path.scatter(2, level[:, :, None], old + own[:, :, None])
    for jump in jumps[:-1]:
        path = torch.maximum(path, path[row, jump])
    return path


@dataclass(frozen=True)
class _View:
    """What a call sees behind the prompt.

    Attributes:
        selected: int64 (B, U), older slots that are some token's ancestors; rows that have fewer hold others too.
        visible: bool (B, M, U + M), which of these and of the new tokens each token sees.
    """

    selected: Tensor
    visible: Tensor


def _look_at(path: Tensor, old: int) -> _View:
    """Return what new tokens with these paths (B, M, L) see, where slots from ``old`` on are theirs."""
    rows, n_new, _ = path.shape
    wanted = torch.zeros((rows, old + 1), dtype=torch.bool, device=path.device)
    wanted.scatter_(1, path.where((path >= 0) & (path < old), old).flatten(1), True)
    wanted = wanted[:, :old]
    n_selected = int(wanted.sum(dim=1).max()) if old else 0
    selected = wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_selected]
    place = F.pad(wanted.long().cumsum(dim=1) - 1, (0, 1))
    row = torch.arange(rows, device=path.device)[:, None, None]
    column = torch.where(path < old, place[row, path.clamp(min=0, max=old)], n_selected + path - old)
    nowhere = n_selected + n_new
    visible = torch.zeros((rows, n_new, nowhere + 1), dtype=torch.bool, device=path.device)
    visible.scatter_(2, column.where(path >= 0, nowhere), True)
    return _View(selected, visible[:, :, :nowhere])


class LayerKinds:
    """What a model's layers may see, and in which form the model takes it.

    Raises:
        ConfigError: the model cannot take a mask of our own.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        config = lm.config.get_text_config()
        name = type(lm).__name__
        attention = config._attn_implementation
        if attention not in _MASKABLE:
            raise ConfigError(
                f"{name} runs with {attention} attention, which takes no mask per token.",
                f"Load it with attn_implementation {' or '.join(_MASKABLE)}.",
            )
        self.kinds = set(getattr(config, "layer_types", None) or [])
        unknown = self.kinds - {"full_attention", "sliding_attention"}
        if unknown:
            raise ConfigError(
                f"{name} has layers of kind {', '.join(sorted(unknown))}, which cannot hold a tree of answers.",
                "Choose a backbone with full or sliding attention (Qwen2, Llama, Gemma, ...).",
            )
        window = getattr(config, "sliding_window", None)
        self.window = None if self.kinds == {"full_attention"} else window

    def masks(
        self, visible: Tensor, position: Tensor, column_position: Tensor, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Return additive masks (B, 1, M, C) for the decoder.

        Args:
            visible: bool (B, M, C), what a token sees where the window does not matter.
            position: int64 (B, M), of the new tokens.
            column_position: int64 (B, C), of all columns.
        """
        full = _additive(visible, dtype)
        if self.window is None:
            return full
        near = position[:, :, None] - column_position[:, None, :] < self.window
        sliding = _additive(visible & near, dtype)
        if "full_attention" in self.kinds:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def _tree_cache(lm: PreTrainedModel, read: Cache, room: int) -> DynamicCache:
    """Return a cache that begins with the columns of another one and keeps a tree behind them."""
    cache = DynamicCache()
    layers = read.layers or [None] * lm.config.get_text_config().num_hidden_layers
    cache.layers = [_TreeLayer(layer, room) for layer in layers]
    return cache


class _Selection:
    """Slots of a call, to be taken from every layer.

    Args:
        slots: int64 (B, U).
    """

    def __init__(self, slots: Tensor) -> None:
        self.slots = slots
        self._index: dict[tuple[int, ...], Tensor] = {}

    def of(self, store: Tensor) -> Tensor:
        """Return (B, heads, U, D): these columns of a contiguous store (B, heads, S, D)."""
        rows, heads, n_columns, width = store.shape
        index = self._index.get(store.shape[:3])
        if index is None:
            first = torch.arange(rows * heads, device=store.device).view(rows, heads, 1) * n_columns
            index = self._index[store.shape[:3]] = (first + self.slots[:, None]).flatten()
        # Rows of a matrix are copied whole; PyTorch's gather goes element by element and takes ten times as long.
        return store.view(-1, width).index_select(0, index).view(rows, heads, -1, width)


class _TreeLayer(DynamicLayer):
    """Keys and values of one layer.

    Args:
        read: the layer whose columns the prompt begins with; None for an empty one.
        room: slots to make room for at first.

    Attributes:
        selection: the slots that the next call looks at; None while the prompt is read.
    """

    def __init__(self, read: DynamicLayer | None, room: int) -> None:
        super().__init__()
        self.selection: _Selection | None = None
        self._room = room
        if read is not None and read.is_initialized:
            super().update(read.keys, read.values)

    def end_prompt(self) -> None:
        """Take all columns so far as the prompt."""
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        self._keys, self._values = _Columns(keys, self._room), _Columns(values, self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keep new columns. Returns the columns to look at: prompt, selected slots, new ones."""
        if self.selection is None:
            return super().update(key_states, value_states)
        return self._keys.add(key_states, self.selection), self._values.add(value_states, self.selection)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._keys.keep(indices)
        self._values.keep(indices)


class _Columns:
    """Keys or values of one layer: those of all slots in a store, and what a call looks at side by side on a desk.

    Args:
        prompt: (B, heads, P, D), where the desk begins.
        room: slots to make room for at first.
    """

    def __init__(self, prompt: Tensor, room: int) -> None:
        self._desk = prompt
        self._store = _columns_like(prompt, room)
        self._n_prompt, self._n_slots = prompt.shape[2], 0

    def add(self, new: Tensor, selection: _Selection) -> Tensor:
        """Store new columns (B, heads, M, D). Returns (B, heads, P + U + M, D): prompt, selected slots, new ones."""
        n_new, start = new.shape[2], self._n_prompt + selection.slots.shape[1]
        if start + n_new > self._desk.shape[2]:
            self._desk = _roomier(self._desk, self._n_prompt, 2 * (start + n_new) - self._n_prompt)
        if self._n_slots + n_new > self._store.shape[2]:
            room = max(self._n_slots + n_new, 2 * self._store.shape[2])
            self._store = _roomier(self._store, self._n_slots, room)
        self._desk[:, :, self._n_prompt : start] = selection.of(self._store)
        self._desk[:, :, start : start + n_new] = new
        self._store[:, :, self._n_slots : self._n_slots + n_new] = new
        self._n_slots += n_new
        return self._desk[:, :, : start + n_new]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._desk, self._store = self._desk[rows], self._store[rows]


def _columns_like(columns: Tensor, n_columns: int) -> Tensor:
    return columns.new_empty((*columns.shape[:2], n_columns, columns.shape[3]))


def _roomier(columns: Tensor, n_used: int, n_columns: int) -> Tensor:
    """Return a copy of the first ``n_used`` columns with room for others behind them."""
    larger = _columns_like(columns, n_columns)
    larger[:, :, :n_used] = columns[:, :, :n_used]
    return larger
