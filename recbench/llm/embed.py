"""Texts to vectors: hidden states of a language model, or of a sentence encoder, pooled over a text's tokens.

Dimensions: B rows, T tokens (right-padded), H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recbench.contracts.progress import Progress, SilentProgress

Pooling = Literal["last", "mean", "first"]


def embed_texts(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pooling: Pooling = "last",
    batch_size: int = 64,
    *,
    max_tokens: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Return one vector per text: its hidden states after the final norm, pooled.

    Texts get the special tokens that the tokenizer adds by itself (BOS for Llama and Gemma, none for Qwen,
    ``[CLS] ... [SEP]`` for BERT). Batches hold texts of like length, padded on the right whatever side the tokenizer
    prefers, and padding is masked, so a vector does not depend on the other texts beyond rounding. Equal texts are
    computed once and get the same bits.

    Args:
        lm: a causal language model or an encoder; its training mode is left as it was.
        tokenizer: its tokenizer.
        texts: n texts. One that gives no token at all (an empty text, where no special token is added) gets zeros.
        pooling: "last" takes the last real token, "first" the first one, "mean" the mean over the real tokens.
        batch_size: texts per forward pass.
        max_tokens: longer texts keep their first tokens, this many with special tokens.
        progress: shows a bar.

    Returns:
        float32 (n, H) on the CPU.
    """
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    ids: list[list[int]] = []
    if distinct:
        ids = tokenizer(list(distinct), truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row]))
    vectors = torch.zeros(len(distinct), lm.config.get_text_config().hidden_size)
    fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    was_training = lm.training
    lm.eval()
    try:
        with (progress or SilentProgress()).bar("embed", len(order)) as bar, torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                input_ids, mask = _pad([ids[row] for row in rows], fill)
                input_ids, mask = input_ids.to(lm.device), mask.to(lm.device)
                hidden = lm.get_decoder()(input_ids=input_ids, attention_mask=mask).last_hidden_state
                vectors[rows] = pool(hidden, mask, pooling).cpu()
                bar.advance(len(rows))
    finally:
        lm.train(was_training)
    return vectors[torch.tensor([distinct[text] for text in texts], dtype=torch.int64)]


def _pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return float32 (B, H): one vector per row of hidden states.

    Args:
        hidden: (B, T, H).
        mask: int64 (B, T), 1 for real tokens; at least one per row, padding on either side.
        pooling: which tokens count.
    """
    if pooling == "mean":
        weight = mask.unsqueeze(-1).float()
        return (hidden.float() * weight).sum(dim=1) / weight.sum(dim=1)
    column = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "last":
        place = torch.where(mask.bool(), column, -1).amax(dim=1)
    else:
        place = torch.where(mask.bool(), column, mask.shape[1]).amin(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), place].float()
