"""What makes a thought: LatentRATT, one attention layer over the language model's last hidden states; or no layer.

The paper says "an attention layer" (section 3.1); the details are those of the published code: one head over the full
width, biases, no output projection, rotary positions with base 1000.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from recbench.llm.writer import positions

ROPE_BASE = 1000.0


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary embedding over the full width, half-split pairing (j, j + H/2), base 1000.

    Args:
        x: (..., S, H).
        position: (..., S), only differences matter.

    Returns:
        (..., S, H).
    """
    half = x.shape[-1] // 2
    # Computed here and now: a buffer can be lost when weights are loaded through the meta device.
    frequency = ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position.to(torch.float32).unsqueeze(-1) * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class LatentAttention(nn.Module):
    """LatentRATT (paper Eq. 3): the thought is attention from the last position over all real positions so far.

    Args:
        hidden_size: width H of the language model.
        init_std: standard deviation of the weights at the start; biases start at 0.
        window: how many of the last columns a thought looks at (``end_k`` in the published code); None: all.
    """

    def __init__(self, hidden_size: int, init_std: float = 0.02, window: int | None = None) -> None:
        super().__init__()
        # nn.Linear would draw its first weights from the global generator; reset() sets every one of them.
        self.query = skip_init(nn.Linear, hidden_size, hidden_size)
        self.key = skip_init(nn.Linear, hidden_size, hidden_size)
        self.value = skip_init(nn.Linear, hidden_size, hidden_size)
        self.init_std = init_std
        self.window = window
        self.reset(torch.Generator().manual_seed(0))

    def reset(self, generator: torch.Generator) -> None:
        """Draw fresh weights from ``generator`` (a CPU generator)."""
        for linear in (self.query, self.key, self.value):
            weight = torch.empty(linear.weight.shape).normal_(0.0, self.init_std, generator=generator)
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.zero_()

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the thought r.

        Args:
            hidden: (B, S, H) hidden states of the last decoder block; the last column is real in every row.
            mask: (B, S), nonzero where a column is real; padding may stand anywhere before the last column.

        Returns:
            (B, H): r = sum_s softmax_s(q.k_s / sqrt(H)) v_s over the real columns s, of the last ``window`` ones.
        """
        position = positions(mask)
        seen = mask != 0
        if self.window is not None:
            seen = seen & (position > position[:, -1:] - self.window)
        query = rotate(self.query(hidden[:, -1:]), position[:, -1:])
        key = rotate(self.key(hidden), position)
        scores = (query @ key.transpose(1, 2)) / hidden.shape[-1] ** 0.5
        weights = scores.masked_fill(~seen.unsqueeze(1), -torch.inf).softmax(dim=-1)
        # The weights add up to 1, so the one projection of the weighted mean is the weighted mean of all projections.
        return self.value(weights @ hidden).squeeze(1)


class LastHidden(nn.Module):
    """No layer at all: the thought is the last column's hidden state, as in Coconut (Hao et al., arXiv 2412.06769).

    The paper's row "w/o LatentRATT".
    """

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the thought, (B, H); arguments as for :class:`LatentAttention`."""
        return hidden[:, -1]
