"""What the layers of a model may see, and in which form the model takes it.

Dimensions: B rows, M new tokens per row, C columns in all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from recbench.contracts.errors import ConfigError

_MASKABLE = ("sdpa", "eager")


def has_windows(lm: PreTrainedModel) -> bool:
    """Whether some layers look back a limited number of columns, so that padding inside a prompt would matter."""
    config = lm.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) != {"full_attention"}
    return getattr(config, "sliding_window", None) is not None


class LayerKinds:
    """The kinds of a model's layers.

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
        full = additive(visible, dtype).unsqueeze(1)
        if near is None:
            return full
        sliding = additive(visible & near, dtype).unsqueeze(1)
        if "full_attention" in self.kinds:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask of the same shape, to be added to scores: 0 where ``visible``, else the lowest number.

    Not -inf: what a row of padding sees may be nothing at all, and its mean would be NaN.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)
