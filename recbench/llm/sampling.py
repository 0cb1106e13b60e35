"""Titles drawn at random from a writer: token after token, among those that lead to a title of the catalogue."""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.llm.beam import DeviceTrie
from recbench.llm.tree import ROOT, AnswerTree
from recbench.llm.writer import Prefix, TitleWriter

# Slots to make room for at first; few titles are longer.
_ROOM = 32


@torch.no_grad()
def sample_titles(
    writer: TitleWriter, prefix: Prefix, trie: DeviceTrie, uniform: Tensor, temperature: float = 1.0
) -> Tensor:
    """Write one title per row of ``prefix``.

    A token is drawn where the trie branches, from the model's distribution at ``temperature`` over the tokens that may
    follow (renormalised over them). Stretches without a choice are read in one model call.

    Args:
        writer: the model.
        prefix: B rows; stays as it is.
        trie: all titles.
        uniform: float64 (B, T) in [0, 1), T at least the tokens of the longest title: the token after t tokens is where
            number t falls in the cumulative distribution. So a row depends on its own numbers alone.
        temperature: 0 takes the likeliest token each time.

    Returns:
        int64 (B,): sequence numbers of the trie.
    """
    tree = AnswerTree(writer, prefix, _ROOM)
    logits = writer.logits(tree.start())
    node_at = trie.preorder.argsort()
    node = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    slot = torch.full_like(node, ROOT)
    depth = torch.zeros_like(node)
    number = torch.full_like(node, -1)
    while True:
        chosen = _choose(logits, trie, node, uniform.to(node.device).gather(1, depth[:, None]), temperature)
        # On to where the next choice is, or to the end of the title.
        first, stretch = chosen, trie.run[chosen]
        node = torch.where(number < 0, node_at[trie.preorder[first] + stretch], node)
        number = torch.where(number < 0, trie.leaf[node], number)
        running = number < 0
        if not running.any():
            return number
        length = torch.where(running, stretch + 1, 0)
        width = int(length.max())
        column = torch.arange(width, device=node.device)
        is_token = column < length[:, None]
        place = torch.where(is_token, trie.preorder[first][:, None] + column, 1)
        parent = torch.where(column == 0, slot[:, None], tree.n_slots + column - 1).where(is_token, ROOT)
        slot = torch.where(running, tree.n_slots + length - 1, slot)
        depth = depth + length
        hidden = tree.extend(trie.preorder_token[place], parent, width, is_token.flatten().nonzero().squeeze(1))
        # Rows that have ended get what nobody asks for.
        logits = writer.logits(hidden[(length.cumsum(0) - 1).clamp(min=0)])


def _choose(logits: Tensor, trie: DeviceTrie, node: Tensor, point: Tensor, temperature: float) -> Tensor:
    """Return int64 (B,): a child of each node; ``point`` is float64 (B, 1). Nodes without children stay."""
    count = trie.n_children[node]
    place = torch.arange(int(count.max()), device=node.device)
    is_child = place < count[:, None]
    child = torch.where(is_child, trie.first_child[node][:, None] + place, 0)
    scores = logits.float().gather(1, trie.token[child].clamp(min=0)).masked_fill(~is_child, -torch.inf)
    if temperature == 0:
        drawn = scores.argmax(dim=1, keepdim=True)
    else:
        cumulative = (scores.double() / temperature).softmax(dim=1).cumsum(dim=1)
        # To the right of equal sums, so that a token of no mass is never drawn.
        drawn = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)
    drawn = torch.minimum(drawn, (count[:, None] - 1).clamp(min=0))
    return torch.where(count > 0, child.gather(1, drawn).squeeze(1), node)
