"""Log-probabilities of tokens through a language model's frozen head, a few rows at a time.

Logits of all rows at once are the largest tensor of a step: (rows, V), and with their gradients several times that. A
token's log-probability depends on its own hidden state alone, so its gradient can be taken right after it, before the
next rows' logits are made. Afterwards a row of H numbers is all that is kept. The head must be frozen: its own gradient
would need all logits again.

Dimensions: R rows, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recbench.llm.writer import TitleWriter, token_logprobs

# Logits at once: on a CPU about what its caches hold, on a GPU enough to keep it busy.
_CELLS = {"cpu": 2**19, "cuda": 2**27}


def frozen_head_logprobs(writer: TitleWriter, hidden: Tensor, ids: Tensor) -> Tensor:
    """Return float32 (...): log-softmax over the whole vocabulary at ``ids`` (...), with gradients to ``hidden``.

    The same as :func:`~recbench.llm.writer.token_logprobs` of the writer's logits.

    Args:
        writer: its head gets no gradients.
        hidden: (..., H).
        ids: int64 (...).
    """
    vocabulary = writer.lm.get_output_embeddings().weight.shape[0]
    rows = max(1, _CELLS.get(hidden.device.type, _CELLS["cpu"]) // vocabulary)
    return _RowByRow.apply(hidden, ids, writer.logits, rows)


class _RowByRow(torch.autograd.Function):
    """Keeps each row's gradient instead of its logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, ids: Tensor, head: Callable[[Tensor], Tensor], n_rows: int) -> Tensor:
        flat, learns = hidden.reshape(-1, hidden.shape[-1]), hidden.requires_grad
        logprobs, slopes = [], []
        for rows, chosen in zip(flat.split(n_rows), ids.flatten().split(n_rows), strict=True):
            with torch.set_grad_enabled(learns):
                part = rows.detach().requires_grad_(learns)
                logprob = token_logprobs(head(part), chosen)
                if learns:
                    slopes.append(torch.autograd.grad(logprob.sum(), part)[0])
            logprobs.append(logprob.detach())
        if learns:
            ctx.save_for_backward(torch.cat(slopes).view_as(hidden))
        return torch.cat(logprobs).view(ids.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradient.unsqueeze(-1).to(slopes.dtype) * slopes, None, None, None
