"""A causal language model seen as a writer of titles: read the prompt once, then write or score answers on top of it.

Dimensions: B rows, P prompt columns (left-padded), N inputs that wait behind the prompt, T answer tokens
(right-padded), H hidden, V vocabulary.
"""

from __future__ import annotations

import inspect
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from recbench.llm.blocks import Blocks
from recbench.llm.layer_kinds import has_windows
from recbench.llm.length_groups import length_groups
from recbench.llm.prompt_reader import read_prompts
from recbench.llm.sharding import is_sharded, one_end

# Reading a beginning apart is one more model call.
_WORTH_SHARING = 16
# Tokens that could be read in the time that a further model call costs: a GPU reads thousands while it starts one.
_CALL_COST = {"cpu": 64, "cuda": 4096}


@dataclass
class Prefix:
    """A prompt that has been read.

    Attributes:
        cache: keys and values of the P prompt columns.
        mask: int64 (B, P), 1 for real tokens. Padding stands at the left, or behind a beginning that all rows share.
        pending: (B, N, H) input embeddings that the model reads next, before the first answer token: the last prompt
            token, or the latent thoughts. At least one, so that the first answer token has a position to be
            predicted from.
        pending_seen: whether attention sees the pending inputs. Where not, the first answer token is still predicted
            at their place, but their columns are hidden from every query and take no position.
    """

    cache: DynamicCache
    mask: Tensor
    pending: Tensor
    pending_seen: bool = True

    @property
    def read_mask(self) -> Tensor:
        """int64 (B, P + N): the mask after the pending inputs were read."""
        pending = torch.full_like(self.pending[..., 0], self.pending_seen, dtype=self.mask.dtype)
        return torch.cat([self.mask, pending], dim=1)

    def repeat(self, times: int) -> Prefix:
        """Return a prefix in which every row stands ``times`` times in a row; nothing is computed again."""
        return replace(
            self,
            cache=copy_cache(self.cache, times),
            mask=self.mask.repeat_interleave(times, dim=0),
            pending=self.pending.repeat_interleave(times, dim=0),
        )

    def take(self, rows: Tensor) -> Prefix:
        """Return some rows, int64 (R,), of this prefix; it stays as it is."""
        cache = copy_cache(self.cache)
        for layer in cache.layers:
            layer.batch_select_indices(rows)
        return replace(self, cache=cache, mask=self.mask[rows], pending=self.pending[rows])


def copy_cache(cache: DynamicCache, times: int = 1) -> DynamicCache:
    """Return a cache with every row repeated ``times`` times; growing it leaves the original as it is."""
    copied = DynamicCache()
    # A layer that grows gets new tensors, so the copy can begin with the same ones.
    copied.layers = [copy(layer) for layer in cache.layers]
    if times > 1:
        copied.batch_repeat_interleave(times)
    return copied


def shared_beginning(ids: Tensor, mask: Tensor) -> int:
    """Return how many first tokens left-padded rows (B, P) have in common; the last token of a row does not count."""
    if len(ids) == 1:
        return 0
    length = mask.sum(dim=1, keepdim=True)
    column = torch.arange(int(length.min()) - 1, device=ids.device) + ids.shape[1] - length
    tokens = ids.gather(1, column)
    return int((tokens == tokens[0]).all(dim=0).cumprod(dim=0).sum())


def beginning_first(lm: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let prompts that share a beginning start with it, so that the model can read it once for all of them.

    Their padding then stands behind the beginning. Prompts stay as they are where they share little, where padding
    inside a prompt would matter, where dropout is to treat every row differently, and where processes share weights.

    Args:
        ids, mask: int64 (B, P), padded on the left.

    Returns:
        Ids and mask of the same shape.
    """
    shared = 0 if has_windows(lm) or _reads_whole_rows(lm) else shared_beginning(ids, mask)
    if shared < _WORTH_SHARING:
        return ids, mask
    first = int(mask[0].argmax())
    beginning = ids[:1, first : first + shared].expand(len(ids), -1)
    # A row's own tokens are its last ones, so it loses its first columns, whether padding or beginning.
    column = torch.arange(ids.shape[1] - shared, 0, -1, device=ids.device)
    own = (column <= mask.sum(dim=1, keepdim=True) - shared).to(mask.dtype)
    return torch.cat([beginning, ids[:, shared:]], dim=1), torch.cat([torch.ones_like(beginning), own], dim=1)


def _reads_whole_rows(lm: PreTrainedModel) -> bool:
    """Whether a beginning must not be read apart: dropout treats rows differently, or processes must keep step."""
    return _drops_out(lm) or is_sharded(lm)


def _drops_out(lm: PreTrainedModel) -> bool:
    if not lm.training:
        return False
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in lm.modules()) or bool(
        getattr(lm.config.get_text_config(), "attention_dropout", 0.0)
    )


def _reading_groups(mask: Tensor) -> list[tuple[Tensor, int]]:
    """Return which rows (R,) of a mask (B, S) to read together, and how many of the last columns they need.

    There are none if gradients are wanted, whose graph would be cut up, or padding is not on the left alone.
    """
    if torch.is_grad_enabled() or mask.shape[1] == 0 or bool((mask.diff(dim=1) < 0).any()):
        return []
    lengths = mask.sum(dim=1).clamp(min=1).tolist()
    groups = length_groups(lengths, _CALL_COST.get(mask.device.type, _CALL_COST["cuda"]))
    return [(torch.tensor(group, device=mask.device), max(lengths[row] for row in group)) for group in groups]


def _joined(parts: list[tuple[Tensor, DynamicCache]], shared: int, shape: torch.Size) -> DynamicCache:
    """Return one cache of B rows and P columns: of each part's columns, the first ``shared`` stay first, others last.

    Args:
        parts: rows (R,) of the result, and their cache.
        shared: columns of the beginning.
        shape: (B, P).
    """

    def join(tensors: list[Tensor]) -> Tensor:
        first = tensors[0]
        whole = first.new_zeros((shape[0], first.shape[1], shape[1], first.shape[3]))
        for (rows, _), columns in zip(parts, tensors, strict=True):
            own = columns.shape[2] - shared
            whole[rows, :, :shared] = columns[:, :, :shared]
            whole[rows, :, shape[1] - own :] = columns[:, :, shared:]
        return whole

    layers = zip(*(cache.layers for _, cache in parts), strict=True)
    joined = DynamicCache()
    for number, of_parts in enumerate(layers):
        joined.update(join([layer.keys for layer in of_parts]), join([layer.values for layer in of_parts]), number)
    return joined


def positions(mask: Tensor) -> Tensor:
    """Return int64 (B, S): each real token's number from 0, so that padding on either side changes nothing."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def cache_argument(model: nn.Module) -> str:
    """Return what a model's forward pass calls its cache of keys and values: transformers renames it model by model."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def run_body(lm: PreTrainedModel, inputs_embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Run the decoder blocks over new inputs on top of a cache (which grows).

    Args:
        inputs_embeds: (B, S, H), the new inputs.
        mask: int64 (B, C + S) over the C cached and the S new columns.
        cache: keys and values of C columns.

    Returns:
        (B, S, H): hidden states after the final norm.
    """
    decoder = lm.get_decoder()
    hidden = decoder(
        inputs_embeds=inputs_embeds,
        attention_mask=mask,
        position_ids=positions(mask)[:, -inputs_embeds.shape[1] :],
        use_cache=True,
        **{cache_argument(decoder): cache},
    ).last_hidden_state
    return one_end(lm, hidden, cache)


class TitleWriter(nn.Module):
    """Writes the answer right after the prompt (BIGRec and every method without a thought).

    Args:
        lm: a Hugging Face causal language model.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lm.device

    def embed(self, ids: Tensor) -> Tensor:
        """Return input embeddings (..., H) of token ids (...)."""
        return self.lm.get_input_embeddings()(ids)

    def read_hidden(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[DynamicCache, Tensor]:
        """Read prompts whose padding stands anywhere but at the end; columns that are equal in all rows are read once.

        Without gradients, rows of different lengths are read in groups where that saves more padding than the
        further model calls cost. Columns of padding that were not read hold zeros.

        Args:
            prompt_ids, prompt_mask: int64 (B, P), padded on the left, or as :func:`beginning_first` orders them.

        Returns:
            The cache of all P columns and their hidden states, (B, P, H).
        """
        equal = ((prompt_ids == prompt_ids[:1]) & prompt_mask.bool()).all(dim=0)
        apart = len(prompt_ids) > 1 and not _reads_whole_rows(self.lm)
        shared = int(equal[:-1].cumprod(dim=0).sum()) if apart else 0
        shared = shared if shared >= _WORTH_SHARING else 0
        beginning, hidden = DynamicCache(), []
        if shared:
            read = self._run(self.embed(prompt_ids[:1, :shared]), prompt_mask[:1, :shared], beginning)
            hidden.append(read.expand(len(prompt_ids), -1, -1))
        groups = _reading_groups(prompt_mask[:, shared:]) if apart else []
        embeds = self.embed(prompt_ids[:, shared:])
        if len(groups) < 2:
            cache = copy_cache(beginning, len(prompt_ids))
            own = self._run(embeds, prompt_mask, cache)
            return cache, torch.cat([*hidden, own], dim=1)
        parts = []
        for rows, width in groups:
            cache = copy_cache(beginning, len(rows))
            mask = torch.cat([prompt_mask[rows, :shared], prompt_mask[rows, -width:]], dim=1)
            parts.append((rows, cache, self._run(embeds[rows, -width:], mask, cache)))
        own = torch.zeros_like(embeds)
        for rows, _, states in parts:
            own[rows, -states.shape[1] :] = states
        cache = _joined([(rows, cache) for rows, cache, _ in parts], shared, prompt_ids.shape)
        return cache, torch.cat([*hidden, own], dim=1)

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Prefix:
        """Read left-padded prompts; the beginning that all of them have in common (the instruction) once.

        Args:
            prompt_ids: int64 (B, P), padded on the left.
            prompt_mask: int64 (B, P).
        """
        blocks = Blocks.of(self.lm)
        ids, mask = prompt_ids, prompt_mask
        if blocks is None:
            ids, mask = beginning_first(self.lm, ids, mask)
        before = mask[:, :-1]
        if blocks is not None and not before.any():
            before = before[:, :0]
        if before.shape[1] == 0:
            cache = DynamicCache()
        elif blocks is None:
            cache, _ = self.read_hidden(ids[:, :-1], before)
        else:
            cache = read_prompts(blocks, self.embed, ids[:, :-1], before, shared_beginning(ids, mask))
        return Prefix(cache, before, self.embed(ids[:, -1:]))

    def _run(self, inputs_embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Run the decoder blocks as :func:`run_body` does; return the hidden states that are wanted."""
        return run_body(self.lm, inputs_embeds, mask, cache)

    def answer_hidden(self, prefix: Prefix, answer_ids: Tensor, answer_mask: Tensor) -> Tensor:
        """Return (B, T, H): the hidden states that predict each answer token. The prefix stays as it is."""
        embeds = torch.cat([prefix.pending, self.embed(answer_ids[:, :-1])], dim=1)
        mask = torch.cat([prefix.read_mask, answer_mask[:, :-1].to(prefix.mask.dtype)], dim=1)
        hidden = run_body(self.lm, embeds, mask, copy_cache(prefix.cache))
        return hidden[:, prefix.pending.shape[1] - 1 :]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) logits of hidden states (..., H), scaled and capped as the model's own head does it."""
        return self.scaled(self.lm.get_output_embeddings()(hidden))

    @property
    def caps_logits(self) -> bool:
        """Whether the model bends logits to a limited range (Gemma 2 and later)."""
        return getattr(self.lm.config.get_text_config(), "final_logit_softcapping", None) is not None

    def scaled(self, logits: Tensor) -> Tensor:
        """Scale and cap what comes out of the head, as the model does it."""
        config = self.lm.config.get_text_config()
        if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * factor
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if self.caps_logits:
            cap = config.final_logit_softcapping
            logits = torch.tanh(logits / cap) * cap
        return logits

    def answer_logprobs(self, prefix: Prefix, answer_ids: Tensor, answer_mask: Tensor) -> Tensor:
        """Return float32 (B, T): full-vocabulary log-probability of every answer token, 0 where masked.

        Args:
            answer_ids: int64 (B, T), padded on the right.
            answer_mask: int64 (B, T).
        """
        hidden = self.answer_hidden(prefix, answer_ids, answer_mask)
        return token_logprobs(self.logits(hidden), answer_ids) * answer_mask


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Return float32 (...): log-softmax of ``logits`` (..., V) at ``ids`` (...), computed in float32."""
    logits = logits.float()
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


def mean_answer_loss(logprobs: Tensor, answer_mask: Tensor) -> Tensor:
    """Return the mean negative log-likelihood over all answer tokens of the batch (a scalar).

    Eq. 4 of the LatentR3 paper, as a mean over tokens (the published code's reduction).
    """
    return -(logprobs * answer_mask).sum() / answer_mask.sum()
