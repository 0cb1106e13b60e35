"""The decoder blocks of Llama-like models over a flat list of tokens, for searches on a CPU.

A search calls the model often, with a few tokens each time, and not with as many for every prompt. Hugging Face's
forward pass takes the same number of tokens for every row, and with a small model much of its time goes by between the
matrix products. Here weights, projections and rotary angles are those of the model's own modules, tokens stand in one
list without padding, and what a token looks at is left to the caller. Every other model, and every pass that training
needs, takes Hugging Face's way; tests hold one against the other.

Dimensions: N tokens, H hidden, D per head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

from recbench.llm.layer_kinds import has_windows

# Exactly these: a subclass, as a wrapper for several devices makes it, may compute something else.
_LAYER_OF: dict[type, type] = {
    LlamaModel: LlamaDecoderLayer,
    MistralModel: MistralDecoderLayer,
    Qwen2Model: Qwen2DecoderLayer,
    Qwen3Model: Qwen3DecoderLayer,
}


class Memory(Protocol):
    """Keys and values of all tokens so far, and who looks at which."""

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep those of the call's tokens: (N, key heads, D), turned to their positions."""

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Return (N, heads * D): what the call's tokens take from those that they look at.

        Args:
            layer: from 0.
            query: (N, heads, D), turned to their positions.
            scale: of the scores.
        """


class Blocks:
    """The decoder of a model for as long as the model stays as it is; make it with :meth:`of`.

    Attributes:
        group: query heads that share a key head.
    """

    def __init__(self, decoder: Any) -> None:
        self._layers = list(decoder.layers)
        self._norm, self._rotary = decoder.norm, decoder.rotary_emb
        self.group: int = decoder.config.num_attention_heads // decoder.config.num_key_value_heads

    @classmethod
    def of(cls, lm: PreTrainedModel) -> Self | None:
        """Return the blocks of a model, or None where Hugging Face's own forward pass is to be taken."""
        return cls(lm.get_decoder()) if _is_plain(lm) else None

    def __call__(self, embeds: Tensor, position: Tensor, memory: Memory) -> Tensor:
        """Return (N, H): hidden states after the final norm.

        Args:
            embeds: (N, H), input embeddings.
            position: int64 (N,).
            memory: gets the tokens' keys and values.
        """
        turn = _Turn(*self._rotary(embeds, position[None]))
        return self._norm(self._through(self._layers, embeds, turn, memory))

    def fill(self, embeds: Tensor, position: Tensor, memory: Memory) -> None:
        """Give tokens to the memory, where nobody asks for their hidden states. Arguments as of a call."""
        turn = _Turn(*self._rotary(embeds, position[None]))
        hidden = self._through(self._layers[:-1], embeds, turn, memory)
        last = self._layers[-1]
        _remember(last, len(self._layers) - 1, _normed(last.input_layernorm, hidden), turn, memory)

    def _through(self, layers: Iterable[Any], hidden: Tensor, turn: _Turn, memory: Memory) -> Tensor:
        for number, layer in enumerate(layers):
            attention = layer.self_attn
            normed = _normed(layer.input_layernorm, hidden)
            _remember(layer, number, normed, turn, memory)
            query = turn(_heads(attention, "q", normed))
            hidden = hidden + attention.o_proj(memory.attend(number, query, attention.scaling))
            hidden = hidden + layer.mlp(_normed(layer.post_attention_layernorm, hidden))
        return hidden


class _Turn:
    """Rotary embedding of one call's positions (RoFormer, Eq. 34): each head is turned by angles of its token."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        """Take what a model's rotary module returns, (1, N, D); its first and second half are equal."""
        self._cos = cos[0].unsqueeze(1)
        self._half = cos.shape[-1] // 2
        self._signed_sin = torch.cat([-sin[0, :, : self._half], sin[0, :, self._half :]], dim=-1).unsqueeze(1)

    def __call__(self, heads: Tensor) -> Tensor:
        """Return (N, heads, D): number i of a head's first half is turned together with number i of the second."""
        return torch.addcmul(heads * self._cos, heads.roll(self._half, dims=-1), self._signed_sin)


def _remember(layer: Any, number: int, normed: Tensor, turn: _Turn, memory: Memory) -> None:
    attention = layer.self_attn
    value = attention.v_proj(normed).view(len(normed), -1, attention.head_dim)
    memory.add(number, turn(_heads(attention, "k", normed)), value)


def _heads(attention: Any, name: str, normed: Tensor) -> Tensor:
    """Return (N, heads, D): queries ("q") or keys ("k") before they are turned."""
    heads = getattr(attention, f"{name}_proj")(normed).view(len(normed), -1, attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)  # Qwen3
    return heads if norm is None else norm(heads)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _is_plain(lm: PreTrainedModel) -> bool:
    decoder: Any = lm.get_decoder()
    layer_type = _LAYER_OF.get(type(decoder))
    if layer_type is None or decoder.training or torch.is_grad_enabled() or has_windows(lm):
        return False
    weight = decoder.norm.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or decoder.config._attn_implementation != "sdpa":
        return False
    return all(type(layer) is layer_type and not _is_watched(layer) for layer in decoder.layers)


def _is_watched(layer: Any) -> bool:
    """Whether somebody's hooks wait for calls of modules that are not called here."""
    silent = (layer, layer.self_attn, layer.input_layernorm, layer.post_attention_layernorm)
    return any(module._forward_hooks or module._forward_pre_hooks for module in silent)
