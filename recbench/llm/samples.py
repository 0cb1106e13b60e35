"""The samples of a group, read side by side behind the one reading of their prompt.

In reinforcement learning K samples follow the same prompt. Here they are further columns of the prompt's one row: a
mask shows every token the prompt and the earlier tokens of its own sample. So neither the prompt nor its keys and
values are ever copied, as in :mod:`recbench.llm.tree`, and unlike there gradients flow.

Dimensions: G groups (one prompt each), K samples per group, P prompt columns, N inputs before a sample's answer,
T answer tokens, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.llm.attention import grouped_attention
from recbench.llm.frozen_head import frozen_head_logprobs
from recbench.llm.layer_kinds import LayerKinds
from recbench.llm.writer import Prefix, TitleWriter, cache_argument, copy_cache, positions, token_logprobs


def sample_logprobs(
    writer: TitleWriter, prefix: Prefix, pending: Tensor, answer_ids: Tensor, answer_mask: Tensor
) -> Tensor:
    """Return float32 (G, K, T): full-vocabulary log-probability of every answer token, 0 where masked.

    The same as ``answer_logprobs`` of ``prefix.repeat(K)`` with these pending inputs.

    Args:
        writer: its model must run with "sdpa" or "eager" attention.
        prefix: G prompts that were read. It stays as it is, and its own pending inputs do not matter.
        pending: (G, K, N, H), what each sample reads before its answer.
        answer_ids, answer_mask: int64 (G, K, T), padded on the right.

    Raises:
        ConfigError: the model's attention cannot be masked token by token.
    """
    hidden = _sample_hidden(writer, prefix, pending, answer_ids)[:, :, pending.shape[2] - 1 :]
    if writer.lm.get_output_embeddings().weight.requires_grad:
        logprobs = token_logprobs(writer.logits(hidden), answer_ids)
    else:
        logprobs = frozen_head_logprobs(writer, hidden, answer_ids)
    return logprobs * answer_mask


def _sample_hidden(writer: TitleWriter, prefix: Prefix, pending: Tensor, answer_ids: Tensor) -> Tensor:
    """Return (G, K, N + T - 1, H): hidden states of all inputs of all samples."""
    embeds = torch.cat([pending, writer.embed(answer_ids[..., :-1])], dim=2)
    groups, samples, length, _ = embeds.shape
    device = embeds.device
    before = torch.ones((length, length), dtype=torch.bool, device=device).tril()
    own = torch.block_diag(*[before] * samples)
    prompt = prefix.mask.bool().unsqueeze(1).expand(-1, samples * length, -1)
    visible = torch.cat([prompt, own.expand(groups, -1, -1)], dim=2)
    position = prefix.mask.sum(dim=1, keepdim=True) + torch.arange(length, device=device).repeat(samples)
    columns = torch.cat([positions(prefix.mask), position], dim=1)
    kinds = LayerKinds(writer.lm)
    mask = kinds.masks(visible, kinds.near(position, columns[:, None]), embeds.dtype)
    with grouped_attention(writer.lm):
        decoder = writer.lm.get_decoder()
        output = decoder(
            inputs_embeds=embeds.flatten(1, 2),
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
            **{cache_argument(decoder): copy_cache(prefix.cache)},
        )
    return output.last_hidden_state.unflatten(1, (samples, length))
