"""Grounding: write freely, then take the items whose titles lie nearest to what was written.

The two steps of Bao et al., "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems"
(BIGRec): a beam search without constraint, of which the best text is kept, and L2 distances between the text and all
titles in the space of a language model that was not tuned for the task. Text and titles are stripped alike
(``title_key``). A list may hold the whole catalogue. An item without a title is never listed; a text that is empty
once stripped names nothing, so its list is empty and counts as a miss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from recbench.contracts.config import StrictModel
from recbench.contracts.dataset import title_key
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings, concat_rankings, rankings_from_scores
from recbench.llm.background import Background
from recbench.llm.codec import TitleCodec
from recbench.llm.facts import write_decoding_facts
from recbench.llm.generate import GenerationSettings, generate_all
from recbench.llm.nearest import item_scores, ndcg_of_scores, reweighted
from recbench.llm.title_space import BASE, TitleSpace, open_title_space, resolve_embedder
from recbench.llm.writer import TitleWriter

log = logging.getLogger(__name__)

# An answer is one line: a tuned model writes a newline and the end token after the title, others may ramble on.
_STOP = ("\n",)
_SHOWN_TITLES = 10
# Distances held at once: 4 million float64 are 32 MB, whatever the size of the catalogue.
_MAX_DISTANCES = 4_000_000


class GroundingSettings(StrictModel):
    """How free text becomes a list (``decoding.mode=grounding``)."""

    beams: int = Field(4, ge=1, description="beams of the free search; the best text is kept")
    max_new_tokens: int = Field(128, ge=1, description="tokens that a text may have")
    embedder: str = Field(
        BASE,
        description="what turns texts into vectors: 'base' (the untuned backbone), 'tuned' (the model that wrote), or "
        "a sentence encoder: 'minilm', a local folder or a Hugging Face id",
    )
    embedder_hash: str | None = Field(
        None,
        description="content of the sentence encoder (content hash or hub commit); found out when left out, and an "
        "encoder with another content is refused",
    )
    gamma: Annotated[float, Field(ge=0)] | Literal["validation"] | None = Field(
        None,
        description="popularity re-weighting, distance * (1 + popularity) ** -gamma, both scaled to 0..1; 'validation' "
        "takes the best of 'gammas' by validation NDCG@10; unset: none",
    )
    gammas: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 99.0),
        min_length=1,
        description="what gamma='validation' chooses among; the smallest of equally good ones",
    )
    valid_rows: int | None = Field(
        500, ge=1, description="validation rows that gamma is chosen on, drawn at random; unset: all"
    )

    @model_validator(mode="before")
    @classmethod
    def _find_out_encoder(cls, values: Any) -> Any:
        """Put the content of the encoder into the configuration, and so into the identity of a run."""
        embedder = values.get("embedder", BASE) if isinstance(values, dict) else None
        content = values.get("embedder_hash") if isinstance(values, dict) else None
        if not isinstance(embedder, str) or not isinstance(content, str | None):
            return values
        encoder = resolve_embedder(embedder, content)
        return {**values, "embedder_hash": encoder.revision if encoder else None}


@dataclass(frozen=True)
class _Texts:
    """What was written for N queries: the text as written, stripped, and whether the budget cut it off (N,)."""

    raw: list[str]
    stripped: list[str]
    truncated: np.ndarray


def ground_titles(
    writer: TitleWriter,
    codec: TitleCodec,
    queries: Queries,
    k: int,
    settings: GroundingSettings,
    batch_size: int,
    folder: Path,
    ctx: RunContext,
    background: Background,
    prompts: Sequence[Sequence[int]] | None = None,
) -> Rankings:
    """Return one list per query: titles by ascending distance to the text that the model wrote.

    Items that share a title are tied; under re-weighting a title is as popular as its items together. The score of a
    place is minus its distance. Texts already written lie in ``folder`` and are not written again; what a reader
    should know of the whole is left there too (:func:`~recbench.llm.facts.decoding_facts`).

    Args:
        writer, codec: the fitted model and its prompts.
        k: places wanted; a list goes on to the end of the tie at place k.
        batch_size: queries written at once.
        background: of the fit; it names the untuned model and holds the validation rows that gamma is chosen on.
        prompts: token ids of the queries' prompts; unset: the codec's.

    Raises:
        ConfigError: gamma is to be chosen on validation rows, but the method has prompts of its own.
        DataError: there is no validation row to choose gamma on, or the embedding model cannot be had.
        ArtifactError: texts cannot be written to disk.
    """

    if prompts is not None and settings.gamma == "validation":
        raise ConfigError(
            "decoding.grounding.gamma is 'validation', but this method's prompts hold more than the history, and there "
            "are none for validation rows.",
            "Give gamma as a number, or leave it out.",
        )

    def write(asked: Queries, ctx: RunContext) -> _Texts:
        generation = GenerationSettings(
            max_new_tokens=settings.max_new_tokens, beams=settings.beams, batch_size=batch_size
        )
        ids = codec.prompts(asked) if prompts is None else prompts
        keys = [("example", int(example)) for example in asked.example_id]
        written = generate_all(writer, codec, ids, keys, generation, _STOP, folder / "texts", ctx)
        return _Texts(written.texts, [title_key(text) for text in written.texts], written.truncated)

    fingerprint = background.train_fingerprint
    space = open_title_space(
        settings.embedder, writer, codec.tokenizer, fingerprint, codec.catalog, ctx, settings.embedder_hash
    )
    popularity = space.titles.totals(background.popularity)
    gamma = settings.gamma
    choice: dict[str, Any] = {}
    if gamma == "validation":
        with ctx.stage("choose-gamma"):
            # Times of its own: what the choice writes is no part of answering the queries.
            inner = replace(ctx, timings_s={})
            gamma, choice = _choose_gamma(settings, write, space, popularity, background, inner)
    texts = write(queries, ctx)
    parts = []
    with ctx.stage("ground"):
        for rows, distance in _distance_blocks(space, texts):
            if gamma is not None:
                distance = reweighted(distance, popularity, gamma)
            scores = _scores(space, queries.take(rows), texts, rows, distance, ctx.mask_history)
            parts.append(rankings_from_scores(queries.example_id[rows], scores, k))
    rankings = concat_rankings(parts)
    facts = {
        "embedder": settings.embedder,
        "empty_texts": sum(not text for text in texts.stripped),
        "truncated_texts": int(texts.truncated.sum()),
        "texts_that_are_titles": sum(map(space.is_title, texts.stripped)),
        "gamma": gamma,
        **choice,
    }
    write_decoding_facts(folder, {"grounding": facts})
    records = _records(rankings, texts, space)
    return Rankings(rankings.example_id, rankings.offsets, rankings.items, rankings.scores, records)


def _distance_blocks(space: TitleSpace, texts: _Texts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield row numbers (B,) and distances float64 (B, U); those of an empty text are all 0."""
    n_titles = len(space.titles.texts)
    size = max(1, _MAX_DISTANCES // n_titles)
    for start in range(0, len(texts.stripped), size):
        rows = np.arange(start, min(start + size, len(texts.stripped)))
        written = [row for row in rows if texts.stripped[row]]
        distance = np.zeros((len(rows), n_titles))
        if written:
            distance[np.array(written) - start] = space.distances([texts.stripped[row] for row in written])
        yield rows, distance


def _scores(
    space: TitleSpace, queries: Queries, texts: _Texts, rows: np.ndarray, distance: np.ndarray, mask_history: bool
) -> np.ndarray:
    answered = np.array([bool(texts.stripped[row]) for row in rows], dtype=bool)
    return item_scores(queries, distance, space.titles.of_item, answered, mask_history)


def _choose_gamma(
    settings: GroundingSettings,
    write: Callable[[Queries, RunContext], _Texts],
    space: TitleSpace,
    popularity: np.ndarray,
    background: Background,
    ctx: RunContext,
) -> tuple[float, dict[str, Any]]:
    """Return the gamma with the best NDCG@10 on validation rows, and the curve that it was read from."""
    valid = background.valid_sample(settings.valid_rows, ctx.seed, "gamma")
    if not len(valid):
        raise DataError(
            "decoding.grounding.gamma is 'validation', but there are no validation rows.",
            "Give gamma as a number, or leave it out.",
        )
    grid = sorted(set(settings.gammas))
    texts = write(valid.queries(), ctx)
    sums = np.zeros(len(grid))
    for rows, distance in _distance_blocks(space, texts):
        part = valid.take(rows)
        for number, gamma in enumerate(grid):
            weighted = reweighted(distance, popularity, gamma)
            scores = _scores(space, part, texts, rows, weighted, ctx.mask_history)
            sums[number] += ndcg_of_scores(scores, part.target).sum()
    curve = (sums / len(valid)).tolist()
    best = grid[int(np.argmax(curve))]
    log.info("gamma = %g has the best NDCG@10 on %d validation rows (%.4f).", best, len(valid), max(curve))
    points = [{"gamma": gamma, "NDCG@10": value} for gamma, value in zip(grid, curve, strict=True)]
    return best, {"gamma_valid_rows": len(valid), "gamma_curve": points}


def _records(rankings: Rankings, texts: _Texts, space: TitleSpace) -> list[dict[str, Any]]:
    """Return what was written and the nearest titles, one record per query."""
    records = []
    for row, example in enumerate(rankings.example_id.tolist()):
        nearest: dict[int, float] = {}
        for place in range(rankings.offsets[row], rankings.offsets[row + 1]):
            nearest.setdefault(int(space.titles.of_item[rankings.items[place]]), float(rankings.scores[place]))
            if len(nearest) == _SHOWN_TITLES:
                break
        records.append(
            {
                "example_id": example,
                "text": texts.raw[row],
                "truncated": bool(texts.truncated[row]),
                "titles": [space.titles.texts[title] for title in nearest],
                "scores": list(nearest.values()),
            }
        )
    return records
