"""Answers of one prompt as a tree of tokens in one key-value cache.

Searches (beam, exact) try many answers of the same prompt, which share their beginnings. Here every token of these
answers is kept once, in a "slot" behind the prompt, and an attention mask shows it the prompt, its own ancestors and
itself. So the prompt is read once and stored once, a token that several answers share is computed once, and nothing
is ever copied or reordered when a search changes its mind. A token looks at those slots only that are on the path of a
token of its lane (see :mod:`recbench.llm.tree_cache`): in a long search they are a small part of all.

Dimensions: B rows, P columns of prompt and pending inputs (left-padded), S slots, M new tokens per row, U slots that a
lane looks at, N lanes, W tokens of a lane, L tokens of the longest path, C columns in all, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from recbench.contracts.errors import ConfigError
from recbench.llm.tree_cache import Lane, Slots, TreeCache, takes_lanes, tree_attention
from recbench.llm.writer import Prefix, TitleWriter, positions, run_body

ROOT = -1
"""Parent of the tokens that come right after the prompt."""

_NONE = -1
_MASKABLE = ("sdpa", "eager")
# Tokens of a lane. A GPU would rather look at more columns than at fewer in several calls.
_LANE = {"cpu": 16}


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
        self._cache = TreeCache(writer.lm, prefix.cache, room)
        self._lane = _LANE.get(self._prompt_mask.device.type) if takes_lanes(writer.lm) else None
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
        self._cache.end_prompt()
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
        path = _new_paths(self._paths, parent, self.n_slots, depth)
        self._remember(path)
        view = _look_at(path, self.n_slots, self._lane or path.shape[1])
        self._cache.lanes[:] = view.lanes
        prompt = self._prompt_mask.bool()
        visible = torch.cat([prompt[:, None].expand(-1, token.shape[1], -1), view.visible], dim=2)
        n_before = prompt.sum(dim=1, keepdim=True)
        position = n_before + _level(path)
        near = None
        if self._layers.window is not None:
            before = positions(self._prompt_mask)[:, None].expand(-1, token.shape[1], -1)
            columns = torch.cat([before, n_before[:, :, None] + self._levels(view)], dim=2)
            near = self._layers.near(position, columns)
        embeds = self._writer.embed(token)
        with tree_attention(self._writer.lm):
            output = self._writer.lm.get_decoder()(
                inputs_embeds=embeds,
                attention_mask=self._layers.masks(visible, near, embeds.dtype),
                position_ids=position,
                past_key_values=self._cache,
                use_cache=True,
                answer_tree=self._cache,
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
        self._cache.keep(rows)

    def _levels(self, view: _View) -> Tensor:
        """Return int64 (B, M, U): how many tokens of a path stand before the slots that each token's lane looks at."""
        row = torch.arange(self.n_rows, device=view.selected.device)[:, None, None]
        level = _level(self._paths[row, view.selected])
        return level.repeat_interleave(view.lane_width, dim=1)[:, : view.visible.shape[1]]

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
    """What the tokens of a call see behind the prompt.

    Attributes:
        selected: int64 (B, N, U), slots on the paths of each lane's tokens; lanes that have fewer hold slot 0 too.
        lane_width: W; the last lane may have fewer.
        lanes: the same for the attention.
        visible: bool (B, M, U), which of its lane's slots each token sees.
    """

    selected: Tensor
    lane_width: int
    lanes: list[Lane]
    visible: Tensor


def _look_at(path: Tensor, n_slots: int, width: int) -> _View:
    """Return what new tokens with these paths (B, M, L) see, in lanes of ``width`` tokens."""
    rows, n_new, longest = path.shape
    n_lanes = -(-n_new // width)
    # From here on a row is a lane of a row.
    path = F.pad(path, (0, 0, 0, n_lanes * width - n_new), value=_NONE).view(rows * n_lanes, width, longest)
    wanted = torch.zeros((len(path), n_slots + 1), dtype=torch.bool, device=path.device)
    wanted.scatter_(1, path.where(path >= 0, n_slots).flatten(1), True)
    lane, slot = wanted[:, :n_slots].nonzero().unbind(1)
    count = torch.bincount(lane, minlength=len(path))
    place = torch.arange(len(lane), device=path.device) - (count.cumsum(0) - count)[lane]
    widths = count.view(rows, n_lanes).amax(dim=0).tolist()
    widest = max(widths)
    selected = torch.zeros((len(path), widest), dtype=torch.int64, device=path.device)
    selected[lane, place] = slot
    # Places of slots that a lane does not look at are never asked for.
    place_of = torch.empty(wanted.shape, dtype=torch.int64, device=path.device)
    place_of[lane, slot] = place
    column = place_of.gather(1, path.clamp(min=0).flatten(1)).view(path.shape).where(path >= 0, widest)
    visible = torch.zeros((len(path), width, widest + 1), dtype=torch.bool, device=path.device)
    visible.scatter_(2, column, True)
    selected = selected.view(rows, n_lanes, widest)
    lanes = [
        Lane(slice(number * width, (number + 1) * width), Slots(selected[:, number, :used]))
        for number, used in enumerate(widths)
    ]
    return _View(selected, width, lanes, visible[..., :widest].reshape(rows, n_lanes * width, widest)[:, :n_new])


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

    def near(self, position: Tensor, column_position: Tensor) -> Tensor | None:
        """Return bool (B, M, C): which columns are inside the window of new tokens; None where there is no window.

        Args:
            position: int64 (B, M), of the new tokens.
            column_position: int64 (B, M or 1, C), of all columns.
        """
        return None if self.window is None else position[:, :, None] - column_position < self.window

    def masks(self, visible: Tensor, near: Tensor | None, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """Return additive masks (B, 1, M, C) for the decoder.

        Args:
            visible: bool (B, M, C), what a token sees where the window does not matter.
            near: see :meth:`near`.
        """
        full = _additive(visible, dtype)
        if near is None:
            return full
        sliding = _additive(visible & near, dtype)
        if "full_attention" in self.kinds:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)
