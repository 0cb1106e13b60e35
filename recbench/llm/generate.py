"""Free generation: what a title writer says after a prompt when nothing is forbidden.

Hugging Face ``generate`` does the decoding; every draw, stop and count is ours. Dimensions: B rows, P prompt columns
(left-padded), T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from recbench.artifacts.files import atomic_path
from recbench.contracts.config import StrictModel
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import numpy_rng
from recbench.llm.codec import TitleCodec
from recbench.llm.writer import Prefix, TitleWriter, cache_argument, positions

END, BUDGET, DONE = "end", "budget", "done"
_BATCHES_PER_SHARD = 4


class GenerationSettings(StrictModel):
    """How text is written freely."""

    max_new_tokens: int = Field(128, ge=1, description="budget of new tokens per row")
    beams: int = Field(1, ge=1, description="beams of the search; the best one is kept. 1: greedy, or sampling")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest token each time; above: sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="sampling from the likeliest tokens of this mass; 1: all")
    top_k: int | None = Field(None, ge=1, description="sampling from this many likeliest tokens; unset: all")
    batch_size: int = Field(16, ge=1, description="rows generated at once")

    @model_validator(mode="after")
    def _beams_or_sampling(self) -> GenerationSettings:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beams > 1 and temperature > 0 exclude each other: set beams=1 to sample")
        return self


@dataclass(frozen=True)
class Generated:
    """What was written on B rows.

    Attributes:
        tokens: all tokens that a row's model wrote, the end token or the stop string included, padding not.
        ids: the tokens kept: those before the end token or the stop string.
        texts: ``ids`` as text.
        finish: why a row ended: "end" (the end token), "budget", "done" (its text was complete), or the stop string
            that was written.
    """

    tokens: list[list[int]]
    ids: list[list[int]]
    texts: list[str]
    finish: list[str]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_tokens(self) -> np.ndarray:
        """int64 (B,): tokens written, which is what a row cost."""
        return np.array([len(tokens) for tokens in self.tokens], dtype=np.int64)

    @property
    def truncated(self) -> np.ndarray:
        """bool (B,): rows that the budget cut off."""
        return np.array([finish == BUDGET for finish in self.finish], dtype=bool)


@torch.no_grad()
def generate_text(
    writer: TitleWriter,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    settings: GenerationSettings,
    stop: Sequence[str] = (),
    seed: int = 0,
    keys: Sequence[Sequence[str | int]] | None = None,
    end_ids: Sequence[int] | None = None,
) -> Generated:
    """Write freely after each prompt.

    Greedy rows and beams do not depend on their batch-mates (but for the rounding of matrices of another shape). A
    sampled row depends on ``seed`` and its key alone: its t-th token is where the t-th of the row's own uniform
    numbers falls in the cumulative distribution.

    Args:
        writer: any title writer; latent thoughts come between the prompt and the text.
        prompt_ids, prompt_mask: int64 (B, P), padded on the left.
        stop: a row ends as soon as its text holds one of these.
        seed: of sampling.
        keys: what names a row in sampling (("example", 17, "sample", 3), say); unset: its number in the batch.
        end_ids: tokens that end a row; unset: the tokenizer's end token.
    """
    prefix = writer.read(prompt_ids, prompt_mask)
    return write_after(writer, tokenizer, prefix, settings, stop, seed, keys, end_ids)


@torch.no_grad()
def write_after(
    writer: TitleWriter,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    settings: GenerationSettings,
    stop: Sequence[str] = (),
    seed: int = 0,
    keys: Sequence[Sequence[str | int]] | None = None,
    end_ids: Sequence[int] | None = None,
    done: Callable[[str], bool] | None = None,
) -> Generated:
    """Write freely after prompts that have been read; the prefix stays as it is.

    Arguments are those of :func:`generate_text`, and:

    Args:
        prefix: B prompts (``prefix.repeat(K)`` for K samples of each).
        done: says of a row's text so far whether it is complete; once it is, more text must leave it so.
    """
    ends = [tokenizer.eos_token_id] if end_ids is None else list(end_ids)
    # `generate` goes on from a cache when it is given the embeddings of the whole sequence, of which it reads those
    # behind the cached columns only: the cached ones may hold anything.
    cached = prefix.pending.new_zeros((*prefix.mask.shape, prefix.pending.shape[-1]))
    mask = prefix.read_mask
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    row_keys = [("row", row) for row in range(len(prefix.mask))] if keys is None else keys
    criteria = [_StopAtText(tokenizer, stop)] if stop else []
    criteria += [_StopWhenDone(tokenizer, done)] if done else []
    with _own_generation_config_off(writer.lm):
        written = writer.lm.generate(
            inputs_embeds=torch.cat([cached, prefix.pending], dim=1),
            attention_mask=mask,
            position_ids=positions(mask),
            generation_config=config,
            logits_processor=_sampling(settings, seed, row_keys),
            stopping_criteria=StoppingCriteriaList(criteria),
            **{cache_argument(writer.lm): prefix.repeat(settings.beams).cache},
        )
    return _interpret(written.tolist(), tokenizer, stop, ends, done)


@contextmanager
def _own_generation_config_off(lm: PreTrainedModel) -> Iterator[None]:
    """Keep settings that come with a model (sampling, penalties on repetition) out of ``generate``."""
    own = lm.generation_config
    lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own


def _sampling(settings: GenerationSettings, seed: int, keys: Sequence[Sequence[str | int]]) -> LogitsProcessorList:
    """Return the steps that turn the choice of the likeliest token into a draw; none without a temperature."""
    if settings.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(settings.temperature)]
    if settings.top_k is not None:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    uniform = np.stack([numpy_rng(seed, "sample", *key).random(settings.max_new_tokens) for key in keys])
    return LogitsProcessorList([*steps, _Draw(torch.from_numpy(uniform))])


class _Draw(LogitsProcessor):
    """Leaves one token per row: where the row's uniform number of this step falls in the cumulative distribution.

    Args:
        uniform: float64 (B, T) in [0, 1).
    """

    def __init__(self, uniform: Tensor) -> None:
        self.uniform = uniform

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores`` (B, V) with -inf for all tokens but the drawn one; ``input_ids`` is (B, tokens so far)."""
        cumulative = scores.float().softmax(dim=-1).double().cumsum(dim=-1)
        point = self.uniform[:, input_ids.shape[1], None].to(scores.device) * cumulative[:, -1:]
        # To the right of equal sums, so that a token of no mass is never drawn.
        token = torch.searchsorted(cumulative, point, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class _StopAtText(StoppingCriteria):
    """Ends a row when its last tokens hold a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        # A token is a byte at least, so no more tokens than bytes can make up a stop string.
        self.window = max(len(text.encode()) for text in stop)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Return bool (rows,), true where the tokens so far (rows, T) end in a stop string."""
        tails = [_text(self.tokenizer, row) for row in input_ids[:, -self.window :].tolist()]
        ended = [any(text in tail for text in self.stop) for tail in tails]
        return torch.tensor(ended, device=input_ids.device)


class _StopWhenDone(StoppingCriteria):
    """Ends a row whose text is complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, done: Callable[[str], bool]) -> None:
        self.tokenizer = tokenizer
        self.done = done

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Return bool (rows,), true where the text of the tokens so far (rows, T) is complete."""
        ended = [self.done(_text(self.tokenizer, row)) for row in input_ids.tolist()]
        return torch.tensor(ended, device=input_ids.device)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _interpret(
    rows: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    stop: Sequence[str],
    ends: Sequence[int],
    done: Callable[[str], bool] | None = None,
) -> Generated:
    """Find where each row ended. A row's tokens may be followed by end tokens as padding."""
    result = Generated([], [], [], [])
    for row in rows:
        length = next((place for place, token in enumerate(row) if token in ends), len(row))
        written = list(row[:length])
        text = _text(tokenizer, written)
        found = min((text.find(s), s) for s in stop if s in text) if any(s in text for s in stop) else None
        kept = written
        if found is not None:
            kept, text = _before(tokenizer, written, text, found[0])
            finish = found[1]
        elif done is not None and done(text):
            finish = DONE
        elif length < len(row):
            written, finish = [*written, row[length]], END
        else:
            finish = BUDGET
        result.tokens.append(written)
        result.ids.append(kept)
        result.texts.append(text)
        result.finish.append(finish)
    return result


def _before(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str, place: int) -> tuple[list[int], str]:
    """Return the longest run of first tokens whose text lies before ``place`` of ``text``, and that text.

    A token that reaches over the place is left out as a whole, so that nothing is tokenised again.
    """
    for length in range(len(ids) - 1, -1, -1):
        shorter = _text(tokenizer, ids[:length])
        if len(shorter) <= place and text.startswith(shorter):
            return ids[:length], shorter
    return [], ""


def generate_all(
    writer: TitleWriter,
    codec: TitleCodec,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[str | int]],
    settings: GenerationSettings,
    stop: Sequence[str],
    folder: Path,
    ctx: RunContext,
) -> Generated:
    """Write freely after any number of prompts, those of like length together, in shards that survive a crash.

    Args:
        prompts: token ids of each prompt.
        keys: what names each prompt in sampling.
        settings: of the generation; the run's seed is the seed of sampling.
        stop: stop strings.
        folder: finished shards lie here and are not generated again.

    Returns:
        One row per prompt, in the order of ``prompts``.

    Raises:
        ArtifactError: a shard cannot be written.
    """
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    per_shard = _BATCHES_PER_SHARD * settings.batch_size
    rows: list[list[int]] = [[] for _ in prompts]
    writer.eval()
    with ctx.stage("generate"), ctx.progress.bar("generate", len(prompts)) as bar:
        for start in range(0, len(order), per_shard):
            shard = order[start : start + per_shard]
            name = hash_json(
                [[list(prompts[row]) for row in shard], [list(keys[row]) for row in shard], settings.model_dump(),
                 list(stop), ctx.seed]
            )  # fmt: skip
            path = folder / f"{name}.npz"
            if not path.exists():
                _generate_shard(writer, codec, prompts, keys, shard, settings, stop, path, ctx.seed)
            for row, tokens in zip(shard, _read_shard(path), strict=True):
                rows[row] = tokens
            bar.advance(len(shard))
    return _interpret(rows, codec.tokenizer, stop, codec.end_ids)


def _generate_shard(
    writer: TitleWriter,
    codec: TitleCodec,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[str | int]],
    shard: np.ndarray,
    settings: GenerationSettings,
    stop: Sequence[str],
    path: Path,
    seed: int,
) -> None:
    tokens: list[list[int]] = []
    for start in range(0, len(shard), settings.batch_size):
        rows = shard[start : start + settings.batch_size]
        ids, mask = codec.pad_prompts([prompts[row] for row in rows], writer.device)
        batch_keys = [keys[row] for row in rows]
        tokens += generate_text(
            writer, codec.tokenizer, ids, mask, settings, stop, seed, batch_keys, codec.end_ids
        ).tokens
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in tokens])]).astype(np.int64)
    flat = np.array([token for row in tokens for token in row], dtype=np.int64)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, offsets=offsets, tokens=flat)


def _read_shard(path: Path) -> list[list[int]]:
    with np.load(path, allow_pickle=False) as stored:
        offsets, tokens = stored["offsets"], stored["tokens"]
    return [tokens[start:end].tolist() for start, end in pairwise(offsets)]
