"""Reason first, then answer: what CoT and CoT-RL share.

Stage A writes freely after a prompt that asks for reasoning, until the response header, the end token or the budget.
Stage B reads that prompt, the reasoning and the header, and ranks the catalogue as any title writer does. So titles
that are quoted in the reasoning are never taken for the answer, and a text without header has a list too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.background import Background
from recbench.llm.codec import Prompts, TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.facts import decoding_facts
from recbench.llm.generate import BUDGET, END, Generated, GenerationSettings, generate_all
from recbench.llm.prompt import INPUT_HEADER, INSTRUCTION_HEADER, RESPONSE_HEADER, PromptText, reasoning_prompt
from recbench.llm.tokens import encode_plain
from recbench.llm.writer import TitleWriter

#: Reasoning ends where one of these is written. The last two are the prompt's own headers: a model that writes them
#: has begun to repeat the prompt.
STOP_STRINGS = (RESPONSE_HEADER, INSTRUCTION_HEADER, INPUT_HEADER)
ANSWER_OPENING = f"\n\n{RESPONSE_HEADER} \n"


class ReasoningSettings(GenerationSettings):
    """How the reasoning is written; greedy by default, as in the paper's appendix G."""

    max_new_tokens: int = Field(256, ge=1, description="budget of reasoning tokens per row, the header included")


def reasoning_text(codec: TitleCodec) -> PromptText:
    """Return the wording of the reasoning prompt for a codec's items and template."""
    return reasoning_prompt(codec.catalog.noun, codec.frame.template)


def reasoning_prompts(codec: TitleCodec, queries: Queries) -> Prompts:
    """Return the prompts of stage A."""
    return codec.encode(queries, reasoning_text(codec))


def answer_prompts(
    codec: TitleCodec, prompts: Sequence[Sequence[int]], reasoning: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the prompts of stage B: the prompt, the reasoning as it was written, and the response header.

    Args:
        prompts: token ids of stage A's prompts.
        reasoning: token ids that were kept of each text, without header and end token.
    """
    (header,) = encode_plain(codec.tokenizer, [ANSWER_OPENING])
    return [
        [*prompt, *without_blank_end(codec, written), *header]
        for prompt, written in zip(prompts, reasoning, strict=True)
    ]


def without_blank_end(codec: TitleCodec, ids: Sequence[int]) -> list[int]:
    """Drop tokens of white space at the end, since the header brings its own line breaks."""
    kept = list(ids)
    while kept and not codec.tokenizer.decode(kept[-1:]).strip():
        kept.pop()
    return kept


def reason(
    writer: TitleWriter, codec: TitleCodec, queries: Queries, prompts: Prompts, settings: GenerationSettings,
    folder: Path, ctx: RunContext,
) -> Generated:  # fmt: skip
    """Write the reasoning of every query (stage A), resumable through shards in ``folder``."""
    keys = [("example", int(example)) for example in queries.example_id]
    return generate_all(writer, codec, prompts.ids, keys, settings, STOP_STRINGS, folder, ctx)


def reason_then_decode(
    writer: TitleWriter,
    codec: TitleCodec,
    queries: Queries,
    settings: GenerationSettings,
    decoding: DecodingConfig,
    folder: Path,
    ctx: RunContext,
    *,
    k: int | None = None,
    background: Background | None = None,
) -> tuple[Rankings, dict[str, Any]]:
    """Reason about every query, then rank the catalogue after the response header.

    Args:
        settings: of the reasoning.
        decoding: from the header to the list.
        folder: scratch folder; finished shards of both stages are found again there.
        k, background: for grounding, see :func:`~recbench.llm.decode.rank_titles`.

    Returns:
        The lists, whose generations hold the reasoning too, and plain facts about the reasoning (see
        :func:`reasoning_facts`).
    """
    prompts = reasoning_prompts(codec, queries)
    written = reason(writer, codec, queries, prompts, settings, folder / "reasoning", ctx)
    second = answer_prompts(codec, prompts.ids, written.ids)
    rankings = rank_titles(
        writer, codec, queries, decoding, folder / "decode", ctx, prompts=second, k=k, background=background
    )
    records = reasoning_records(codec, written)
    generations = rankings.generations or [{"example_id": int(example)} for example in rankings.example_id]
    merged = [{**record, **added} for record, added in zip(generations, records, strict=True)]
    facts = {
        "template": codec.frame.template,
        "prompt_version": reasoning_text(codec).version,
        "truncated_prompts": int(prompts.truncated.sum()),
        **reasoning_facts(records),
        **decoding_facts(folder / "decode"),
    }
    return replace(rankings, generations=merged), facts


def reasoning_records(codec: TitleCodec, written: Generated) -> list[dict[str, Any]]:
    """Return what is kept of each reasoning: text, tokens, why it ended, and whether it repeats the prompt.

    ``finish`` is "header" (the response header was written), "end" (the end token), "budget" or "echo" (one of the
    prompt's other headers was written). ``echo`` is also true where the sentence before the user's titles is repeated.
    """
    sentence = reasoning_text(codec).opening.rpartition("\n")[2].strip()
    names = {RESPONSE_HEADER: "header", END: END, BUDGET: BUDGET}
    return [
        {
            "reasoning": text.strip(),
            "reasoning_tokens": len(tokens),
            "finish": names.get(finish, "echo"),
            "echo": finish not in names or sentence in text,
        }
        for text, tokens, finish in zip(written.texts, written.tokens, written.finish, strict=True)
    ]


def reasoning_facts(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return plain facts about many reasonings, from :func:`reasoning_records`.

    Mean tokens (header and end token included: what was paid for), and the shares of texts that the budget cut off,
    that ended with the header, that are empty, and that repeat the prompt.
    """
    if not records:
        return {"reasoning_rows": 0}

    def share(hits: list[bool]) -> float:
        return float(np.mean(hits))

    return {
        "reasoning_rows": len(records),
        "mean_reasoning_tokens": float(np.mean([r["reasoning_tokens"] for r in records])),
        "truncation_rate": share([r["finish"] == BUDGET for r in records]),
        "header_rate": share([r["finish"] == "header" for r in records]),
        "empty_rate": share([not r["reasoning"] for r in records]),
        "echo_rate": share([r["echo"] for r in records]),
    }
