"""Log-probabilities of next tokens for a search, which asks for those of thousands of places.

On a CPU the product with the head is slow if rows of logits do not begin at a multiple of 64 bytes, as with an odd
number of tokens. A copy of the head with a few more rows mends that; their bias of -inf keeps them at probability 0.

Dimensions: H hidden, V vocabulary, W columns, at least V.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbench.llm.writer import TitleWriter

_ALIGNED = 16


class LogprobHead:
    """The head of a writer's model, for as long as its weights stay as they are."""

    def __init__(self, writer: TitleWriter) -> None:
        self._writer = writer
        self._aligned = _aligned(writer)

    @torch.no_grad()
    def __call__(self, hidden: Tensor) -> Tensor:
        """Return float32 (..., W): log-softmax over the vocabulary after hidden states (..., H).

        Columns from V on, where there are any, are -inf.
        """
        if self._aligned is None:
            logits = self._writer.logits(hidden)
        else:
            logits = self._writer.scaled(F.linear(hidden, *self._aligned))
        return logits.log_softmax(dim=-1, dtype=torch.float32)


@torch.no_grad()
def _aligned(writer: TitleWriter) -> tuple[Tensor, Tensor] | None:
    """Return weight (W, H) and bias (W,) of a longer head; None if the head is fine or is more than a plain layer."""
    head = writer.lm.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.device.type != "cpu" or writer.caps_logits:
        return None
    missing = -head.weight.shape[0] % _ALIGNED
    if not missing:
        return None
    bias = head.bias if head.bias is not None else head.weight.new_zeros(head.weight.shape[0])
    return F.pad(head.weight, (0, 0, 0, missing)), F.pad(bias, (0, missing), value=-torch.inf)
